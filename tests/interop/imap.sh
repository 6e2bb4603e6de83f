#!/usr/bin/env bash
# Real mail programs read and change mailboxes of a running server: STARTTLS and implicit TLS. Then what
# must be refused. Not in `cargo test`: it installs what it needs from Debian (IMAPClient from PyPI,
# imapflow and node-imap from npm); a client that cannot be had is skipped with a word.
#
#     tests/interop/imap.sh [path of the ringpost binary]
#
# Ends with 0 if all holds, 1 if something does not, 77 (skipped, with the reason) if it cannot run.
set -uo pipefail
cd "$(dirname "$0")/../.."
program=$(readlink -f "${1:-target/debug/ringpost}")

skip() { echo "SKIPPED: $1"; exit 77; }
[ -x "$program" ] || skip "no program at $program: cargo build first"
packages=()
for pair in openssl:openssl mbsync:isync neomutt:neomutt mutt:mutt offlineimap:offlineimap3 \
    fetchmail:fetchmail getmail:getmail6 curl:curl python3:python3 node:nodejs npm:npm; do
    command -v "${pair%:*}" >/dev/null || packages+=("${pair#*:}")
done
[ ${#packages[@]} = 0 ] || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy \
    --no-install-recommends "${packages[@]}" python3-venv; } >/dev/null 2>&1
command -v openssl >/dev/null || skip "openssl is not installed and cannot be"

dir=$(mktemp -d)
server=
trap '[ -n "$server" ] && kill $server 2>/dev/null; wait 2>/dev/null; [ -n "${KEEP:-}" ] || rm -rf "$dir"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
    -addext "subjectAltName=DNS:localhost" -keyout "$dir/key" -out "$dir/pem" 2>/dev/null
user=anna@test.example pass='correct horse battery'
export user pass dir
base=$((23000 + $$ % 9000))
export host=localhost port=$((base + 1)) ports=$((base + 2)) smtp=$((base + 3))
: >"$dir/users"
cat >"$dir/ringpost.toml" <<END
[server]
hostname = "mx.test.example"
data_dir = "$dir/data"
user = ""
[cores]
mta = 1
access = 2
shards = 3
pin = "off"
[storage]
segment_size = "1MiB"
journal_limit = "64MiB"
free_min = "1MiB"
[domains]
local = ["test.example"]
postmaster = "$user"
[auth]
users = "$dir/users"
[metrics]
address = ""
[admin]
socket = ""
[[listener]]
protocol = "smtp"
address = "127.0.0.1:$smtp"
[[listener]]
protocol = "imap"
address = "127.0.0.1:$port"
[[listener]]
protocol = "imaps"
address = "127.0.0.1:$ports"
[tls]
certificate = "$dir/pem"
key = "$dir/key"
END
printf '%s\n' "$pass" | "$program" user add --password-stdin --file "$dir/users" "$user" >"$dir/user.log" 2>&1 \
    || { cat "$dir/user.log"; echo "FAILED: user add"; exit 1; }
"$program" serve -c "$dir/ringpost.toml" 2>"$dir/log" &
server=$!
for _ in $(seq 100); do grep -q '"started"' "$dir/log" && break; sleep 0.1; done
grep -q '"started"' "$dir/log" || { cat "$dir/log"; echo "FAILED: the server did not start"; exit 1; }

failed=0
have() { command -v "$1" >/dev/null && return 0; echo "skipped $1: not installed and cannot be"; return 1; }
bad() { echo "FAILED  $1:"; tail -15 "$dir/out" | sed 's/^/        /'; failed=1; }
# works NAME COMMAND...: the command succeeds.
works() {
    local name=$1; shift
    if timeout 60 "$@" >"$dir/out" 2>&1; then echo "ok      $name"; else bad "$name"; fi
}
# says NAME PATTERN COMMAND...: the command succeeds and says so.
says() {
    local name=$1 pattern=$2; shift 2
    if timeout 60 "$@" >"$dir/out" 2>&1 && grep -Eqa -- "$pattern" "$dir/out"; then echo "ok      $name"
    else bad "$name (no $pattern)"; fi
}
# refused NAME PATTERN COMMAND...: the command fails and says so.
refused() {
    local name=$1 pattern=$2; shift 2
    if timeout 30 "$@" >"$dir/out" 2>&1; then echo "FAILED  $name: it succeeded"; failed=1
    elif grep -Eq -- "$pattern" "$dir/out"; then echo "ok      $name"
    else bad "$name (no $pattern)"; fi
}
# deliver SUBJECT: mail by SMTP.
deliver() {
    printf 'From: bob@far.example\r\nSubject: %s\r\n\r\ntext of %s\r\n' "$1" "$1" >"$dir/mail"
    curl -sS "smtp://127.0.0.1:$smtp" --mail-from bob@far.example --mail-rcpt "$user" -T "$dir/mail" >"$dir/out" 2>&1 \
        || bad "delivery of $1"
}

have curl || exit $failed
deliver first
curls=(curl -sS --cacert "$dir/pem" -u "$user:$pass")
starttls=("${curls[@]}" --ssl-reqd)
for _ in $(seq 50); do
    "${curls[@]}" "imaps://$host:$ports/" -X "STATUS INBOX (MESSAGES)" 2>/dev/null | grep -q "MESSAGES 1" && break
    sleep 0.1
done
says curl-list 'LIST .* "?INBOX"?' "${curls[@]}" "imaps://$host:$ports/"
says curl-fetch "text of first" "${starttls[@]}" "imap://$host:$port/INBOX;UID=1"
says curl-section "Subject: first" "${curls[@]}" "imaps://$host:$ports/INBOX;MAILINDEX=1;SECTION=HEADER.FIELDS%20(SUBJECT)"
says curl-search "SEARCH 1" "${curls[@]}" "imaps://$host:$ports/INBOX?SUBJECT%20first"
printf 'Subject: appended\r\n\r\nby curl\r\n' >"$dir/append"
works curl-append "${starttls[@]}" "imap://$host:$port/INBOX" -T "$dir/append"
says curl-examine "2 EXISTS" "${curls[@]}" "imaps://$host:$ports/" -X "EXAMINE INBOX"
refused "curl, wrong password" "Login denied|67" curl -sS --cacert "$dir/pem" -u "$user:wrong" "imaps://$host:$ports/"
refused "curl, no TLS" "Login denied|No known|67" curl -sS -u "$user:$pass" "imap://$host:$port/"

if have mbsync; then
    printf '%s' "$pass" >"$dir/pass"; chmod 600 "$dir/pass"
    for kind in IMAPS STARTTLS; do
        mkdir -p "$dir/mbsync-$kind"
        cat >"$dir/mbsyncrc-$kind" <<END
IMAPAccount one
Host $host
Port $([ $kind = IMAPS ] && echo $ports || echo $port)
User $user
PassCmd "cat $dir/pass"
SSLType $kind
CertificateFile $dir/pem

IMAPStore far
Account one

MaildirStore near
Path $dir/mbsync-$kind/
Inbox $dir/mbsync-$kind/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
SyncState *
END
    done
    works mbsync-pull mbsync -c "$dir/mbsyncrc-IMAPS" -a
    if grep -rqs "text of first" "$dir/mbsync-IMAPS/INBOX"; then echo "ok      mbsync has pulled"
    else echo "FAILED  mbsync has pulled nothing"; failed=1; fi
    # A folder and a message of ours, a flag, and a message that goes.
    mkdir -p "$dir"/mbsync-IMAPS/Local/{cur,new,tmp}
    printf 'Subject: pushed\n\nby mbsync\n' >"$dir/mbsync-IMAPS/Local/new/1.x.localhost"
    for file in "$dir"/mbsync-IMAPS/INBOX/*/*; do
        name=$(basename "$file")
        grep -q "text of first" "$file" && mv "$file" "$dir/mbsync-IMAPS/INBOX/cur/${name%%:2,*}:2,FS"
        grep -q "by curl" "$file" 2>/dev/null && rm "$file"
    done
    works mbsync-push mbsync -c "$dir/mbsyncrc-IMAPS" -a
    works mbsync-starttls mbsync -c "$dir/mbsyncrc-STARTTLS" -a
    if grep -rqs "by mbsync" "$dir/mbsync-STARTTLS/Local" && ls "$dir"/mbsync-STARTTLS/INBOX/cur/*:2,FS >/dev/null 2>&1 \
        && ! grep -rqs "by curl" "$dir/mbsync-STARTTLS/INBOX"; then echo "ok      mbsync both ways"
    else echo "FAILED  mbsync both ways:"; find "$dir/mbsync-STARTTLS" -type f; failed=1; fi
    # Once more for what STARTTLS has changed, then nothing is left to do. It counts only on a terminal.
    works mbsync-again mbsync -c "$dir/mbsyncrc-IMAPS" -a
    says mbsync-quiet 'C: 1/1 .*F: \+0/0 \*0/0 #0/0 +N: \+0/0 \*0/0 #0/0' \
        script -qec "stty cols 200; mbsync -c '$dir/mbsyncrc-IMAPS' -a" /dev/null
fi

for mutt in mutt neomutt; do
    have $mutt || continue
    cat >"$dir/muttrc" <<END
set ssl_starttls=yes ssl_force_tls=yes certificate_file="$dir/pem" ssl_verify_host=yes
set imap_user="$user" imap_pass="$pass" header_cache="" quit=yes delete=yes mark_old=no move=no
set record="" pager_stop=no wait_key=no confirmappend=no confirmcreate=no
END
    for url in "imap://$host:$port" "imaps://$host:$ports"; do
        name=$mutt-${url%%:*}
        deliver "$name"; sleep 0.5
        # Copies what matches to a local file, without a terminal that anybody looks at.
        works "$name" env HOME="$dir" TERM=dumb script -qec "$mutt -n -F '$dir/muttrc' -f '$url/INBOX' \
            -e 'push \"<tag-pattern>~s $name<enter><tag-prefix><copy-message><kill-line>$dir/$name.mbox<enter><exit>\"'" /dev/null
        if grep -qs "text of $name" "$dir/$name.mbox"; then echo "ok      $name has read"
        else echo "FAILED  $name has read nothing"; failed=1; fi
    done
done

if have offlineimap; then
    cat >"$dir/offlineimaprc" <<END
[general]
accounts = one
metadata = $dir/offlineimap
ui = basic
[Account one]
localrepository = near
remoterepository = far
[Repository near]
type = Maildir
localfolders = $dir/offline
[Repository far]
type = IMAP
remotehost = $host
remoteport = $ports
remoteuser = $user
remotepassfile = $dir/pass
ssl = yes
sslcacertfile = $dir/pem
END
    printf '%s' "$pass" >"$dir/pass"
    works offlineimap-pull offlineimap -o -c "$dir/offlineimaprc"
    if grep -rqs "text of first" "$dir/offline"; then echo "ok      offlineimap has pulled"
    else echo "FAILED  offlineimap has pulled nothing"; failed=1; fi
    mkdir -p "$dir/offline/INBOX/new"
    printf 'Subject: pushed\n\nby offlineimap\n' >"$dir/offline/INBOX/new/1700000000_0.1.localhost"
    works offlineimap-push offlineimap -o -c "$dir/offlineimaprc"
    says "offlineimap both ways" "SEARCH [0-9]" "${curls[@]}" "imaps://$host:$ports/INBOX?BODY%20%22by%20offlineimap%22"
fi

if have fetchmail; then
    for kind in imap imaps; do
        deliver "fetchmail-$kind"; sleep 0.5
        cat >"$dir/fetchmailrc" <<END
poll $host protocol imap port $([ $kind = imaps ] && echo $ports || echo $port)
    user "$user" password "$pass" keep
    $([ $kind = imaps ] && echo ssl || echo 'sslproto "TLS1.2+"') sslcertck sslcertfile "$dir/pem"
    mda "cat >>$dir/fetchmail-$kind.mbox"
END
        chmod 600 "$dir/fetchmailrc"
        works "fetchmail-$kind" fetchmail --pidfile "$dir/fetchmail.pid" --all -f "$dir/fetchmailrc"
        # Not again: what it has read is \\Seen. It ends with 1 if there is no mail.
        refused "fetchmail-$kind, nothing new" "No mail for|\([0-9]+ seen\)" \
            fetchmail --pidfile "$dir/fetchmail.pid" -v -f "$dir/fetchmailrc"
        if grep -qs "text of fetchmail-$kind" "$dir/fetchmail-$kind.mbox"; then echo "ok      fetchmail-$kind has read"
        else echo "FAILED  fetchmail-$kind has read nothing"; failed=1; fi
    done
fi

if have getmail; then
    mkdir -p "$dir/getmail"
    cat >"$dir/getmail/getmailrc" <<END
[retriever]
type = SimpleIMAPSSLRetriever
server = $host
port = $ports
username = $user
password = $pass
mailboxes = ("INBOX",)
ca_certs = $dir/pem
[destination]
type = MDA_external
path = /usr/bin/tee
arguments = ("-a", "$dir/got")
allow_root_commands = true
[options]
read_all = false
delete = true
END
    deliver getmail; sleep 0.5
    works getmail getmail --getmaildir "$dir/getmail"
    if grep -qs "text of getmail" "$dir/got"; then echo "ok      getmail has read"
    else echo "FAILED  getmail has read nothing"; failed=1; fi
    says "getmail has deleted" "\* STATUS .*MESSAGES 0" "${curls[@]}" "imaps://$host:$ports/" -X "STATUS INBOX (MESSAGES)"
    deliver getmail-again; sleep 0.5
    says getmail-again "1 messages .* retrieved" getmail --getmaildir "$dir/getmail"
fi

if have python3; then
    works imaplib-starttls python3 tests/interop/imap_lib.py starttls
    works imaplib-implicit python3 tests/interop/imap_lib.py implicit
    if python3 -m venv "$dir/venv" >/dev/null 2>&1 \
        && timeout 120 "$dir/venv/bin/pip" install -q IMAPClient >/dev/null 2>&1; then
        works IMAPClient "$dir/venv/bin/python" tests/interop/imap_client.py
    else
        echo "skipped IMAPClient: pip cannot install it"
    fi
fi
if have npm && (cd "$dir" && timeout 120 npm install --silent --no-audit --no-fund imapflow >/dev/null 2>&1); then
    cp tests/interop/imap_flow.cjs "$dir/"
    works imapflow-starttls node "$dir/imap_flow.cjs" starttls
    works imapflow-implicit node "$dir/imap_flow.cjs" implicit
else
    echo "skipped imapflow: npm cannot install it"
fi
if have npm && (cd "$dir" && timeout 120 npm install --silent --no-audit --no-fund imap >/dev/null 2>&1); then
    cp tests/interop/imap_node.cjs "$dir/"
    works node-imap-starttls node "$dir/imap_node.cjs" starttls
    works node-imap-implicit node "$dir/imap_node.cjs" implicit
else
    echo "skipped node-imap: npm cannot install it"
fi
if grep -qF "$pass" "$dir/log"; then echo "FAILED  the password is in the log"; failed=1; else echo "ok      no password in the log"; fi
kill -0 $server 2>/dev/null || { echo "FAILED  the server has ended"; failed=1; }
[ $failed = 0 ] && echo "all holds"
exit $failed

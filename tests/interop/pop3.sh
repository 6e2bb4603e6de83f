#!/usr/bin/env bash
# Real programs read mail from a running server by POP3 (fetchmail, getmail6, mpop, curl, Python's poplib,
# node-pop3), and programs deliver into it by LMTP (smtplib, swaks). Not in `cargo test`: it installs what it needs
# from Debian, PyPI and npm; a program that cannot be had is skipped with a word.
#
#     tests/interop/pop3.sh [path of the ringpost binary]
#
# Ends with 0 if all holds, 1 if something does not, 77 (skipped, with the reason) if it cannot run.
set -uo pipefail
cd "$(dirname "$0")/../.."
program=$(readlink -f "${1:-target/debug/ringpost}")

skip() { echo "SKIPPED: $1"; exit 77; }
[ -x "$program" ] || skip "no program at $program: cargo build first"
packages=()
for pair in openssl:openssl swaks:swaks curl:curl python3:python3 fetchmail:fetchmail getmail:getmail6 mpop:mpop npm:npm; do
    command -v "${pair%:*}" >/dev/null || packages+=("${pair#*:}")
done
[ ${#packages[@]} = 0 ] || { apt-get update -q; for package in "${packages[@]}"; do
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$package"; done; } >/dev/null 2>&1
command -v openssl >/dev/null || skip "openssl is not installed and cannot be"
command -v python3 >/dev/null || skip "python3 is not installed and cannot be"

dir=$(mktemp -d)
server=
trap '[ -n "$server" ] && kill $server 2>/dev/null; wait 2>/dev/null; [ -n "${KEEP:-}" ] || rm -rf "$dir"' EXIT
chmod 755 "$dir"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost \
    -addext "subjectAltName=DNS:localhost" -keyout "$dir/key" -out "$dir/pem" 2>/dev/null
port=$((23000 + $$ % 9000))
pass='correct horse'
users="poplib curl fetchmail getmail mpop node swaks"
for user in $users; do echo "$user:{PLAIN}$pass"; done >"$dir/users"
cat >"$dir/ringpost.toml" <<END
[server]
hostname = "localhost.test.example"
data_dir = "$dir/data"
user = ""
[cores]
mta = 1
access = 2
pin = "off"
[storage]
segment_size = "1MiB"
journal_limit = "64MiB"
free_min = "1MiB"
durability = "weak"
[domains]
local = ["here.test"]
postmaster = "poplib@here.test"
[tls]
certificate = "$dir/pem"
key = "$dir/key"
[auth]
users = "$dir/users"
[metrics]
address = ""
[admin]
socket = ""
[[listener]]
protocol = "smtp"
address = "127.0.0.1:$port"
[[listener]]
protocol = "lmtp"
address = ["127.0.0.1:$((port + 1))", "unix:$dir/lmtp"]
[[listener]]
protocol = "pop3"
address = "127.0.0.1:$((port + 2))"
[[listener]]
protocol = "pop3s"
address = "127.0.0.1:$((port + 3))"
END
"$program" serve -c "$dir/ringpost.toml" 2>"$dir/log" &
server=$!
for _ in $(seq 100); do grep -q '"started"' "$dir/log" && break; sleep 0.1; done
grep -q '"started"' "$dir/log" || { cat "$dir/log"; echo "FAILED: the server does not start"; exit 1; }
export dir port pass

failed=0
result() { # name, code
    case $2 in
        0) echo "ok      $1" ;;
        77) echo "skipped $1: it is not installed and cannot be" ;;
        *) echo "FAILED  $1"; failed=1 ;;
    esac
}

# A message with dots, eight bits and a long line, for everybody.
cat >"$dir/lmtp.py" <<'END'
import os, smtplib, sys
content = (b"From: a@client.test\r\nSubject: interop\r\n\r\n.dot\r\n..\r\n.\r\nl\xe4tin\r\n" + b"x" * 5000 + b"\r\nend\r\n")
open(os.environ["dir"] + "/content", "wb").write(content)
# One at a time: smtplib reads one reply only.
with smtplib.LMTP("127.0.0.1", int(os.environ["port"]) + 1) as client:
    for user in sys.argv[1:]:
        client.sendmail("a@client.test", f"{user}@here.test", content, ["BODY=8BITMIME"])
    try:
        client.sendmail("a@client.test", "nobody@here.test", content)
        sys.exit("nobody has a mailbox")
    except smtplib.SMTPRecipientsRefused as e:
        assert e.recipients["nobody@here.test"][0] == 550, e
END
python3 "$dir/lmtp.py" $users
result "Python's smtplib delivers by LMTP" $?

# The message as a program has kept it (line ends may be the system's): its end must be what was sent.
cat >"$dir/same.py" <<'END'
import os, sys
want = open(os.environ["dir"] + "/content", "rb").read().replace(b"\r\n", b"\n")
got = b"".join(open(f, "rb").read() for f in sys.argv[1:]).replace(b"\r\n", b"\n")
got = got.rstrip(b"\n") + b"\n"
sys.exit(0 if got.endswith(want.split(b"\n\n", 1)[1]) else 1)
END

cat >"$dir/by_poplib.py" <<'END'
import os, poplib, ssl
context = ssl.create_default_context(cafile=os.environ["dir"] + "/pem")
port = int(os.environ["port"])
want = open(os.environ["dir"] + "/content", "rb").read()
for secure in (False, True):
    if secure:
        pop = poplib.POP3_SSL("localhost", port + 3, context=context)
    else:
        pop = poplib.POP3("127.0.0.1", port + 2)
        pop.host = "localhost"
        pop.stls(context)
    poplib._MAXLINE = 10000
    assert "UIDL" in pop.capa()
    pop.user("poplib")
    pop.pass_(os.environ["pass"])
    assert pop.stat()[0] == 1
    size = int(pop.list(1).split()[2])
    body = b"\r\n".join(pop.retr(1)[1]) + b"\r\n"
    assert body.endswith(want) and len(body) == size, (len(body), size)
    assert pop.top(1, 0)[1][-1] == b""
    uidl = pop.uidl(1)
    if secure:
        pop.dele(1)
    pop.quit()
pop = poplib.POP3_SSL("localhost", port + 3, context=context)
pop.user("poplib"); pop.pass_(os.environ["pass"])
assert pop.stat() == (0, 0)
pop.quit()
END
python3 "$dir/by_poplib.py"; result "Python's poplib: STLS, TLS, TOP, UIDL, DELE" $?

with_curl() {
    command -v curl >/dev/null || return 77
    curl -sS --cacert "$dir/pem" --user "curl:$pass" "pop3s://localhost:$((port + 3))/1" -o "$dir/by-curl" &&
        python3 "$dir/same.py" "$dir/by-curl" &&
        curl -sS --ssl-reqd --cacert "$dir/pem" --user "curl:$pass" --login-options AUTH=PLAIN \
            "pop3://localhost:$((port + 2))/" -o "$dir/list" && grep -q '^1 ' "$dir/list"
}
with_curl; result "curl: TLS and STLS, AUTH PLAIN" $?

with_fetchmail() {
    command -v fetchmail >/dev/null || return 77
    cat >"$dir/fetchmailrc" <<END
poll localhost protocol pop3 service $((port + 3)) user "fetchmail" password "$pass" ssl
  sslcertfile "$dir/pem" no keep mda "cat >> $dir/by-fetchmail"
END
    chmod 600 "$dir/fetchmailrc"
    HOME=$dir fetchmail -f "$dir/fetchmailrc" --pidfile "$dir/fetchmail.pid" --idfile "$dir/ids" >"$dir/fetchmail.log" 2>&1 &&
        python3 "$dir/same.py" "$dir/by-fetchmail" || { cat "$dir/fetchmail.log"; return 1; }
    HOME=$dir fetchmail -f "$dir/fetchmailrc" --pidfile "$dir/fetchmail.pid" --idfile "$dir/ids" >/dev/null 2>&1
    [ $? = 1 ] # no mail any more
}
with_fetchmail; result "fetchmail: fetches and deletes" $?

with_getmail() {
    command -v getmail >/dev/null || return 77
    mkdir -p "$dir/getmail"
    cat >"$dir/getmail/getmailrc" <<END
[retriever]
type = SimplePOP3SSLRetriever
server = localhost
port = $((port + 3))
username = getmail
password = $pass
ca_certs = $dir/pem
[destination]
type = MDA_external
path = /usr/bin/tee
arguments = ("-a", "$dir/by-getmail")
allow_root_commands = true
[options]
delete = true
END
    getmail --getmaildir "$dir/getmail" --rcfile getmailrc >"$dir/getmail.log" 2>&1 &&
        python3 "$dir/same.py" "$dir/by-getmail" || { cat "$dir/getmail.log"; return 1; }
}
with_getmail; result "getmail6: fetches and deletes" $?

with_mpop() {
    command -v mpop >/dev/null || return 77
    printf 'account default\nhost localhost\nport %s\ntls on\ntls_starttls on\ntls_trust_file %s\nuser mpop\npassword "%s"\ndelivery mbox %s\nuidls_file %s\nkeep off\n' \
        $((port + 2)) "$dir/pem" "$pass" "$dir/by-mpop" "$dir/uidls" >"$dir/mpoprc"
    chmod 600 "$dir/mpoprc"
    mpop -C "$dir/mpoprc" -q >"$dir/mpop.log" 2>&1 && python3 "$dir/same.py" "$dir/by-mpop" || { cat "$dir/mpop.log"; return 1; }
}
with_mpop; result "mpop: STLS, pipelining, fetches and deletes" $?

with_node() {
    command -v npm >/dev/null || return 77
    (cd "$dir" && npm install --silent node-pop3 >/dev/null 2>&1) || return 77
    cat >"$dir/pop.mjs" <<'END'
import Pop3 from "node-pop3";
const pop = new Pop3({ host: "localhost", port: Number(process.env.port) + 3, user: "node",
    password: process.env.pass, tls: true, tlsOptions: { rejectUnauthorized: false } });
const list = await pop.UIDL();
if (list.length !== 1) process.exit(1);
const text = await pop.RETR(1);
await pop.QUIT();
process.exit(text.includes("end") ? 0 : 1);
END
    (cd "$dir" && timeout 60 node pop.mjs)
}
with_node; result "node-pop3: UIDL, RETR" $?

with_swaks() {
    command -v swaks >/dev/null || return 77
    swaks --protocol LMTP --server 127.0.0.1:$((port + 1)) --from a@client.test --to swaks@here.test --body "by swaks" \
        >"$dir/swaks.log" 2>&1 &&
        swaks --protocol LMTP --socket "$dir/lmtp" --from a@client.test --to swaks@here.test --body "by swaks" \
            >>"$dir/swaks.log" 2>&1 || { cat "$dir/swaks.log"; return 1; }
    curl -sS --cacert "$dir/pem" --user "swaks:$pass" "pop3s://localhost:$((port + 3))/" | grep -q '^3 '
}
with_swaks; result "swaks: LMTP over TCP and a socket in the file system" $?

[ $failed = 0 ] && echo "all holds" || tail -5 "$dir/log"
exit $failed

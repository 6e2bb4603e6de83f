#!/usr/bin/env bash
# Real mail programs send through a running server: STARTTLS and implicit TLS, each with a login, to a
# sink that keeps every message. Then what must be refused. Not in `cargo test`: it installs what it
# needs from Debian (and nodemailer from npm); a client that cannot be had is skipped with a word.
#
#     tests/interop/submission.sh [path of the ringpost binary]
#
# Ends with 0 if all holds, 1 if something does not, 77 (skipped, with the reason) if it cannot run.
set -uo pipefail
cd "$(dirname "$0")/../.."
program=$(readlink -f "${1:-target/debug/ringpost}")

skip() { echo "SKIPPED: $1"; exit 77; }
[ -x "$program" ] || skip "no program at $program: cargo build first"
packages=()
for pair in openssl:openssl swaks:swaks msmtp:msmtp s-nail:s-nail mutt:mutt curl:curl python3:python3 npm:npm; do
    command -v "${pair%:*}" >/dev/null || packages+=("${pair#*:}")
done
[ ${#packages[@]} = 0 ] || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy \
    --no-install-recommends "${packages[@]}" libnet-ssleay-perl libauthen-sasl-perl libsasl2-modules; } >/dev/null 2>&1
command -v openssl >/dev/null || skip "openssl is not installed and cannot be"

dir=$(mktemp -d)
server= sink=
trap '[ -n "$server$sink" ] && kill $server $sink 2>/dev/null; wait 2>/dev/null; [ -n "${KEEP:-}" ] || rm -rf "$dir"' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=mx.test.example \
    -addext "subjectAltName=DNS:mx.test.example,DNS:localhost" \
    -keyout "$dir/key" -out "$dir/pem" 2>/dev/null
user=anna@test.example pass='correct horse 5"battery'
export user pass dir
mkdir "$dir/mail"
sink_port=$((23000 + $$ % 9000))
"$program" load sink --listen "127.0.0.1:$sink_port" --maildir "$dir/mail" >"$dir/sink.log" 2>&1 &
sink=$!
: >"$dir/users"
cat >"$dir/ringpost.toml" <<END
[server]
hostname = "mx.test.example"
data_dir = "$dir/data"
user = ""
[cores]
mta = 2
pin = "off"
[storage]
segment_size = "1MiB"
journal_limit = "64MiB"
free_min = "1MiB"
[relay]
networks = []
smarthost = "127.0.0.1:$sink_port"
[auth]
users = "$dir/users"
[metrics]
address = ""
[admin]
socket = ""
[[listener]]
protocol = "submission"
address = "127.0.0.1:$((sink_port + 1))"
tls = "required"
[[listener]]
protocol = "submissions"
address = "127.0.0.1:$((sink_port + 2))"
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
# Some clients compare certificates with names only.
export host=localhost port=$((sink_port + 1)) host2=localhost port2=$((sink_port + 2))

failed=0
# arrived TEXT: a message with it is at the sink within 5 s.
arrived() {
    for _ in $(seq 50); do grep -rqsE -- "$1" "$dir/mail" && return 0; sleep 0.1; done
    return 1
}
have() { command -v "$1" >/dev/null && return 0; echo "skipped $1: not installed and cannot be"; return 1; }
# sends NAME COMMAND...: the command succeeds, and its message, which contains its name, arrives.
sends() {
    local name=$1; shift
    if ! timeout 30 "$@" >"$dir/out" 2>&1; then echo "FAILED  $name:"; tail -15 "$dir/out" | sed 's/^/        /'; failed=1
    elif arrived "token-$name"$'\r?$'; then echo "ok      $name"
    else echo "FAILED  $name: nothing arrived"; failed=1; fi
}
# refused NAME PATTERN COMMAND...: the command fails and says so.
refused() {
    local name=$1 pattern=$2; shift 2
    if timeout 30 "$@" >"$dir/out" 2>&1; then echo "FAILED  $name: it succeeded"; failed=1
    elif grep -Eq -- "$pattern" "$dir/out"; then echo "ok      $name"
    else echo "FAILED  $name: no $pattern in:"; tail -15 "$dir/out" | sed 's/^/        /'; failed=1; fi
}

if have swaks; then
    base=(swaks --from "$user" --to bob@far.example --auth-user "$user" --timeout 10)
    for mechanism in PLAIN LOGIN SCRAM-SHA-256; do
        perl -MAuthen::SASL -e 1 2>/dev/null || [ $mechanism = PLAIN ] || [ $mechanism = LOGIN ] || continue
        [ $mechanism = SCRAM-SHA-256 ] && ! perl -MAuthen::SASL::Perl::SCRAM_SHA_256 -e 1 2>/dev/null && continue
        sends "swaks-$mechanism" "${base[@]}" --server "$host:$port" --tls --auth "$mechanism" --auth-password "$pass" \
            --body "token-swaks-$mechanism"
    done
    sends swaks-implicit "${base[@]}" --server "$host2:$port2" --tls-on-connect --auth PLAIN --auth-password "$pass" \
        --body token-swaks-implicit
    refused "swaks, wrong password" "535 5.7.8" "${base[@]}" --server "$host:$port" --tls --auth PLAIN --auth-password wrong
    refused "swaks, no login" "530 5.7.0" swaks --from "$user" --to bob@far.example --server "$host:$port" --tls
    refused "swaks, no TLS" "530 5.7.0|no authentication|Host did not advertise" "${base[@]}" --server "$host:$port" \
        --auth PLAIN --auth-password "$pass"
fi
if have msmtp; then
    cat >"$dir/msmtprc" <<END
defaults
auth on
user $user
passwordeval "cat $dir/pass"
tls on
tls_trust_file $dir/pem
from $user
account starttls
host $host
port $port
tls_starttls on
account implicit
host $host2
port $port2
tls_starttls off
END
    printf '%s' "$pass" >"$dir/pass"; chmod 600 "$dir/msmtprc" "$dir/pass"
    for account in starttls implicit; do
        sends "msmtp-$account" sh -c "printf 'Subject: x\n\ntoken-msmtp-$account\n' | msmtp -C '$dir/msmtprc' -a $account bob@far.example"
    done
fi
if have curl; then
    for kind in starttls implicit; do
        printf 'Subject: x\r\n\r\ntoken-curl-%s\r\n' $kind >"$dir/curl.$kind"
    done
    sends curl-starttls curl -sS --ssl-reqd --cacert "$dir/pem" -u "$user:$pass" "smtp://$host:$port" \
        --mail-from "$user" --mail-rcpt bob@far.example -T "$dir/curl.starttls"
    sends curl-implicit curl -sS --cacert "$dir/pem" -u "$user:$pass" "smtps://$host2:$port2" \
        --mail-from "$user" --mail-rcpt bob@far.example -T "$dir/curl.implicit"
    refused "curl, wrong password" "Login denied|67" curl -sS --ssl-reqd --cacert "$dir/pem" -u "$user:wrong" \
        "smtp://$host:$port" --mail-from "$user" --mail-rcpt bob@far.example -T "$dir/curl.starttls"
fi
# These two want user and password in a URL.
encoded=$(python3 -c 'import os,urllib.parse as u; print(u.quote(os.environ["user"],"")+":"+u.quote(os.environ["pass"],""))')
if have s-nail; then
    sends s-nail-starttls sh -c "echo token-s-nail-starttls | s-nail -n -S v15-compat=yes -S sendwait -S smtp-use-starttls -S tls-ca-file=$dir/pem \
        -S smtp-auth=login -S from=$user -S mta='smtp://$encoded@$host:$port' -s x bob@far.example"
    sends s-nail-implicit sh -c "echo token-s-nail-implicit | s-nail -n -S v15-compat=yes -S sendwait -S tls-ca-file=$dir/pem \
        -S smtp-auth=plain -S from=$user -S mta='smtps://$encoded@$host2:$port2' -s x bob@far.example"
fi
if have mutt; then
    cat >"$dir/muttrc" <<END
set from="$user" use_from=yes envelope_from=yes copy=no
set ssl_starttls=yes ssl_force_tls=yes certificate_file="$dir/pem" ssl_verify_host=yes
set smtp_pass="${pass//\"/\\\"}"
END
    login=${user/@/%40}
    for url in "smtp://$login@$host:$port/" "smtps://$login@$host2:$port2/"; do
        sends "mutt-${url%%:*}" env HOME="$dir" sh -c "echo token-mutt-${url%%:*} | mutt -n -F '$dir/muttrc' -e 'set smtp_url=$url' -s x bob@far.example"
    done
fi
if have python3; then
    cat >"$dir/send.py" <<'END'
import os, smtplib, ssl, sys
e = os.environ
context = ssl.create_default_context(cafile=e["dir"] + "/pem")
implicit = sys.argv[1] == "implicit"
s = smtplib.SMTP_SSL(e["host2"], int(e["port2"]), context=context) if implicit else smtplib.SMTP(e["host"], int(e["port"]))
with s:
    if not implicit:
        s.starttls(context=context)
    s.login(e["user"], e["pass"])
    s.sendmail(e["user"], ["bob@far.example"], f"Subject: x\r\n\r\ntoken-smtplib-{sys.argv[1]}\r\n")
END
    for kind in starttls implicit; do sends "smtplib-$kind" python3 "$dir/send.py" $kind; done
fi
if have npm && (cd "$dir" && timeout 120 npm install --silent --no-audit --no-fund nodemailer >/dev/null 2>&1); then
    cat >"$dir/send.cjs" <<'END'
const e = process.env, implicit = process.argv[2] === "implicit", fs = require("fs");
const transport = require("nodemailer").createTransport({
    host: implicit ? e.host2 : e.host, port: +(implicit ? e.port2 : e.port), secure: implicit, requireTLS: true,
    auth: { user: e.user, pass: e.pass }, tls: { ca: fs.readFileSync(e.dir + "/pem") },
});
transport.sendMail({ from: e.user, to: "bob@far.example", subject: "x", text: "token-nodemailer-" + process.argv[2] + "\n" })
    .then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
END
    for kind in starttls implicit; do sends "nodemailer-$kind" node "$dir/send.cjs" $kind; done
else
    echo "skipped nodemailer: npm cannot install it"
fi
grep -rq "with ESMTPSA" "$dir/mail" && echo "ok      ESMTPSA" || { echo "FAILED  no message says ESMTPSA"; failed=1; }
if grep -qF "$pass" "$dir/log"; then echo "FAILED  the password is in the log"; failed=1; else echo "ok      no password in the log"; fi
kill -0 $server 2>/dev/null || { echo "FAILED  the server has ended"; failed=1; }
[ $failed = 0 ] && echo "all holds"
exit $failed

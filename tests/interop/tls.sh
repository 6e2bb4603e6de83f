#!/usr/bin/env bash
# TLS of a running server as openssl s_client sees it: versions, ciphers, renegotiation, names,
# resumption, ALPN, and mail by STARTTLS. Not in `cargo test`: it installs openssl if it is not there.
#
#     tests/interop/tls.sh [path of the ringpost binary]
#
# Ends with 0 if all holds, 1 if something does not, 77 (skipped, with the reason) if it cannot run.
set -uo pipefail
cd "$(dirname "$0")/../.."
program=${1:-target/debug/ringpost}

skip() { echo "SKIPPED: $1"; exit 77; }
[ -x "$program" ] || skip "no program at $program: cargo build first"
command -v openssl >/dev/null || { apt-get update -q && apt-get install -qy --no-install-recommends openssl; } >/dev/null 2>&1
command -v openssl >/dev/null || skip "openssl is not installed and cannot be"

dir=$(mktemp -d)
server=
trap '[ -n "$server" ] && kill "$server" 2>/dev/null; rm -rf "$dir"' EXIT
certificate() { # name host
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj "/CN=$2" \
        -addext "subjectAltName=DNS:$2" -keyout "$dir/$1.key" -out "$dir/$1.pem" 2>/dev/null
}
certificate main mx.test.example
certificate customer mail.customer.example
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
durability = "weak"
[relay]
smarthost = "127.0.0.1:9"
[metrics]
address = ""
[admin]
socket = ""
[[listener]]
protocol = "smtp"
address = "127.0.0.1:0"
[[listener]]
protocol = "submissions"
address = "127.0.0.2:0"
[tls]
certificate = "$dir/main.pem"
key = "$dir/main.key"
[[tls.sni]]
names = ["mail.customer.example"]
certificate = "$dir/customer.pem"
key = "$dir/customer.key"
END
"$program" serve -c "$dir/ringpost.toml" 2>"$dir/log" &
server=$!
for _ in $(seq 100); do grep -q '"started"' "$dir/log" && break; sleep 0.1; done
addresses=$(sed -n 's/.*serving SMTP on \[\([^]]*\)\].*/\1/p' "$dir/log")
clear=${addresses%%,*}
secure=${addresses##* }
[ -n "$clear" ] || { cat "$dir/log"; echo "FAILED: the server did not start"; exit 1; }

failed=0
# Words to say, slowly enough to be answered one by one.
say() { sleep 0.3; for line in "$@"; do printf '%s\r\n' "$line"; sleep 0.2; done; }
client() { timeout 10 openssl s_client -connect "$secure" -servername mx.test.example "$@" 2>&1; }
expect() { # what pattern text
    if grep -Eq -- "$2" <<<"$3"; then echo "ok      $1"; else echo "FAILED  $1: no $2 in:"; sed 's/^/        /' <<<"$3"; failed=1; fi
}

for version in tls1_2 tls1_3; do
    expect "$version" "^220 mx.test.example" "$(say QUIT | client -$version)"
done
for version in ssl3 tls1 tls1_1; do
    # A library that has not got the version cannot ask for it.
    out=$(say QUIT | client -$version -cipher ALL@SECLEVEL=0)
    grep -q "nknown option\|unsupported protocol\|no protocols available" <<<"$out" && [ "$version" = ssl3 ] \
        && { echo "ok      $version: not even in the client"; continue; }
    expect "$version is refused" "alert|Cipher is \(NONE\)" "$out"
    grep -q "^220 " <<<"$out" && { echo "FAILED  $version: a session"; failed=1; }
done
for cipher in TLS_AES_128_GCM_SHA256 TLS_AES_256_GCM_SHA384 TLS_CHACHA20_POLY1305_SHA256; do
    expect "$cipher" "Cipher is $cipher" "$(say QUIT | client -tls1_3 -ciphersuites $cipher)"
done
for cipher in ECDHE-ECDSA-AES128-GCM-SHA256 ECDHE-ECDSA-AES256-GCM-SHA384 ECDHE-ECDSA-CHACHA20-POLY1305; do
    expect "$cipher" "Cipher is $cipher" "$(say QUIT | client -tls1_2 -cipher $cipher)"
done
# Without forward secrecy, without AEAD, export, null, RC4, 3DES, anonymous.
for cipher in AES128-SHA AES256-GCM-SHA384 ECDHE-ECDSA-AES128-SHA ECDHE-ECDSA-AES256-SHA384 eNULL aNULL; do
    expect "$cipher is refused" "alert|no cipher match|Cipher is \(NONE\)" \
        "$(say QUIT | client -tls1_2 -cipher "$cipher@SECLEVEL=0")"
done
expect "compression is off" "Compression: NONE" "$(say QUIT | client -tls1_2)"
expect "renegotiation by the client is refused" "no renegotiation" \
    "$( (sleep 0.5; echo R; sleep 1) | client -tls1_2 -legacy_renegotiation)"
expect "another protocol is refused" "alert number 120" "$(say QUIT | client -alpn http/1.1,h2)"
expect "no protocol is taken" "No ALPN negotiated" "$(say QUIT | client)"
expect "name of the server" "CN = mx.test.example" "$(say QUIT | client)"
expect "name of a customer" "CN = mail.customer.example" \
    "$(say QUIT | timeout 10 openssl s_client -connect "$secure" -servername mail.customer.example 2>&1)"
for version in tls1_2 tls1_3; do
    say QUIT | client -$version -sess_out "$dir/session" >/dev/null
    for n in 1 2 3 4; do
        out=$(say QUIT | client -$version -sess_in "$dir/session" -sess_out "$dir/session")
        expect "$version resumption, try $n" "Reused, TLS" "$out"
    done
done
mail=(EHLO\ c.test "MAIL FROM:<a@b.test>" "RCPT TO:<c@d.test>" DATA "Subject: x" "" "hello" . QUIT)
out=$(say "${mail[@]}" | timeout 10 openssl s_client -connect "$clear" -starttls smtp -quiet 2>&1)
expect "mail by STARTTLS" "250 2.0.0 Ok: queued as" "$out"
expect "mail from the first byte" "250 2.0.0 Ok: queued as" "$(say "${mail[@]}" | client -quiet)"
host=${secure%:*} port=${secure##*:}
out=$( (exec 3<>"/dev/tcp/$host/$port"; printf 'EHLO c.test\r\n' >&3; timeout 5 head -c 7 <&3 | od -An -tx1) 2>&1)
expect "clear text gets an alert" "15 03 0[0-9] 00 02 02" "$out"
expect "the server lives" "^220 " "$(say QUIT | client)"
[ $failed = 0 ] && echo "all holds, with $(openssl version)"
exit $failed

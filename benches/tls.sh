#!/usr/bin/env bash
# What TLS costs a whole server: memory of idle sessions, CPU of a new session with one message, CPU of
# long bodies; each in clear text beside it. And how soon a certificate that is replaced under load is in
# use. One mail core on CPU 0, the load on CPU 1.
#
#     benches/tls.sh [path of a release binary] [idle sessions] [parts: idle new bodies reload]
set -euo pipefail
cd "$(dirname "$0")/.."
program=${1:-target/release/ringpost} idle=${2:-10000} parts=" ${3:-idle new bodies reload} "
command -v openssl >/dev/null || { echo "openssl is needed for the certificate" >&2; exit 69; }
ulimit -n "$(ulimit -Hn)"
dir=$(mktemp -d)
server=
trap '[ -n "$server" ] && kill "$server" 2>/dev/null; wait 2>/dev/null; rm -rf "$dir"' EXIT
pair() { # key and certificate
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=mx.bench.example \
        -addext subjectAltName=DNS:mx.bench.example -keyout "$1" -out "$2" 2>/dev/null
}
pair "$dir/key" "$dir/pem"

start() {
    rm -rf "$dir/data"
    cat >"$dir/ringpost.toml" <<END
[server]
hostname = "mx.bench.example"
data_dir = "$dir/data"
user = ""
[cores]
mta = 1
pin = "off"
[storage]
free_min = "64MiB"
durability = "weak"
[relay]
smarthost = "127.0.0.1:9"
[queue]
retry_first = "1h"
[metrics]
address = ""
[admin]
socket = ""
[[listener]]
protocol = "smtp"
address = "127.0.0.1:25250"
[[listener]]
protocol = "submissions"
address = "127.0.0.1:24650"
[tls]
certificate = "$dir/pem"
key = "$dir/key"
END
    taskset -c 0 "$program" serve -c "$dir/ringpost.toml" 2>"$dir/log" &
    server=$!
    for _ in $(seq 100); do grep -q '"started"' "$dir/log" && return; sleep 0.1; done
    cat "$dir/log"
    exit 1
}
stop() { kill "$server"; wait "$server" 2>/dev/null || true; server=; }
rss() { awk '/^VmRSS/ { print $2 }' "/proc/$server/status"; }
# User and system time of the server, in hundredths of a second.
cpu() { sed 's/.*) //' "/proc/$server/stat" | awk '{ print $12 + $13 }'; }
load() { taskset -c 1 "$program" load smtp --json "$@"; }
field() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" <<<"$2"; }

how() { # name: address and options
    case $1 in
        clear) echo --to 127.0.0.1:25250 ;;
        starttls) echo --to 127.0.0.1:25250 --tls starttls ;;
        implicit) echo --to 127.0.0.1:24650 --tls implicit ;;
        resumed) echo --to 127.0.0.1:24650 --tls implicit --tls-resume ;;
    esac
}

part_idle() {
    echo "idle sessions: $idle"
    for kind in clear implicit; do
        start
        # What the server keeps free for the next ones is not what a session holds.
        before=$(rss)
        # shellcheck disable=SC2046
        load $(how $kind) --connections "$idle" --messages "$idle" --hold 25s --source-addresses 200 >"$dir/out" &
        loader=$!
        sleep 20
        after=$(rss)
        wait $loader || true
        echo "  $kind: $(((after - before) * 1024 / idle)) bytes of the server's memory per session ($before to $after KiB)"
        stop
    done
}

part_new() {
    echo "new session with one message of 1 KiB:"
    for kind in clear starttls implicit resumed; do
        start
        n=10000
        a=$(cpu)
        # shellcheck disable=SC2046
        out=$(load $(how $kind) --connections 32 --messages $n --messages-per-connection 1 --source-addresses 200)
        b=$(cpu)
        echo "  $kind: $(field messages_per_second "$out") sessions/s, server CPU $(((b - a) * 10000 / n)) us per session"
        stop
    done
}

part_bodies() {
    echo "bodies of 10 MiB, one session:"
    for kind in clear implicit; do
        start
        n=40
        a=$(cpu)
        # shellcheck disable=SC2046
        out=$(load $(how $kind) --connections 1 --messages $n --size 10MiB)
        b=$(cpu)
        echo "  $kind: $(field megabytes_per_second "$out") MB/s, server CPU $(((b - a) * 10000 / n)) us per body"
        stop
    done
}

# The certificate that a new session is shown.
shown() {
    openssl s_client -connect 127.0.0.1:24650 </dev/null 2>/dev/null | openssl x509 -noout -fingerprint
}

part_reload() {
    echo "a certificate replaced under load, 32 sessions at once with 5 messages each:"
    start
    # shellcheck disable=SC2046
    load $(how implicit) --connections 32 --messages-per-connection 5 --duration 15s --source-addresses 200 \
        >"$dir/out" &
    loader=$!
    sleep 3
    pair "$dir/key.new" "$dir/pem.new"
    wanted=$(openssl x509 -noout -fingerprint -in "$dir/pem.new")
    mv "$dir/key.new" "$dir/key"
    mv "$dir/pem.new" "$dir/pem"
    begun=$(date +%s%N)
    until [ "$(shown)" = "$wanted" ]; do
        kill -0 $loader 2>/dev/null || { echo "  not in use when the load had ended" >&2; exit 1; }
        sleep 0.05
    done
    echo "  in use after $((($(date +%s%N) - begun) / 1000000)) ms"
    # Its exit code says that a message was not acknowledged: the figures do so below.
    wait $loader || true
    out=$(cat "$dir/out")
    broken=$(sed -n 's/.*"broken":\({[^}]*}\).*/\1/p' <<<"$out")
    echo "  $(field connections "$out") sessions, $(field acknowledged "$out") messages taken," \
        "$(field failed "$out") failed, $(field unanswered "$out") unanswered, broken sessions: $broken"
    stop
}

for part in idle new bodies reload; do
    [[ $parts != *" $part "* ]] || "part_$part"
done

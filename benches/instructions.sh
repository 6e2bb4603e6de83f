#!/usr/bin/env bash
# Instructions of the server for each relayed message, counted by valgrind's callgrind: the same figure on a
# busy machine as on a quiet one, to a percent or so. It says what a change of our code costs; it says nothing
# of the kernel, of caches and of waiting, for which there is benches/relay.sh.
#
#   benches/instructions.sh BINARY [BINARY]     for two versions: the difference by function, too
#
# Two loads of different length are sent to a server of one core, 1 KiB over 20 sessions, commands pipelined,
# and relayed to a sink; what one message costs is the difference. Takes about half a minute for a version.
# Needs valgrind. Generator and sink are those of the first binary.
# environment: RINGPOST_MORE (lines for the configuration, as '[events]' with 'mail = "off"'),
#              PIPELINING=off, FEW=2000 and MANY=10000 (messages), LINES=30 (functions shown)
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
case ${1:--h} in -h|--help) sed -n '2,13p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;; esac
command -v valgrind >/dev/null || { echo "valgrind is not installed" >&2; exit 69; }
LOADER=$(realpath "$1") FEW=${FEW:-2000} MANY=${MANY:-10000} LINES=${LINES:-30}
WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/ringpost-instructions.XXXXXX") || exit 1
SINK_PID= SERVER_PID=
trap 'kill $SINK_PID $SERVER_PID 2>/dev/null; rm -rf "$WORK"' EXIT
# Not one of those that the system gives to clients: who asks for a port that nobody has yet may get himself.
free_port() {
    local port
    while port=$((20000 + RANDOM % 10000)) && (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

# count BINARY MESSAGES FILE: what callgrind has counted for so many
count() {
    local port sink d=$WORK/server
    port=$(free_port) sink=$(free_port)
    rm -rf "$d" && mkdir -p "$d/data"
    cat >"$d/ringpost.toml" <<END
[server]
hostname = "bench.test"
data_dir = "$d/data"
user = ""
[cores]
mta = 1
pin = "off"
[[listener]]
protocol = "smtp"
address = ["127.0.0.1:$port"]
tls = "off"
[relay]
networks = ["127.0.0.0/8"]
[[route]]
domain = "*"
next_hop = "127.0.0.1:$sink"
tls = "none"
[limits]
sessions_per_address = 0
[metrics]
address = ""
[admin]
socket = ""
${RINGPOST_MORE:-}
END
    timeout 300 "$LOADER" load sink --listen "127.0.0.1:$sink" --status "$d/status" --json >/dev/null 2>&1 &
    SINK_PID=$!
    timeout 300 valgrind --tool=callgrind --callgrind-out-file="$3" "$1" serve -c "$d/ringpost.toml" >"$d/log" 2>&1 &
    SERVER_PID=$!
    for _ in $(seq 300); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
        sleep 0.3
    done
    local told delivered=0
    told=$(timeout 250 "$LOADER" load smtp --to "127.0.0.1:$port" --json --connections 20 --messages "$2" \
        --size 1KiB --pipelining "${PIPELINING:-on}")
    grep -q "\"acknowledged\":$2," <<<"$told" || { echo "not all were taken: $told $(tail -3 "$d/log")" >&2; exit 1; }
    for _ in $(seq 300); do
        delivered=$(grep -o '"messages":[0-9]*' "$d/status" 2>/dev/null | tail -1 | cut -d: -f2)
        [ "${delivered:-0}" -ge "$2" ] && break
        sleep 0.2
    done
    [ "${delivered:-0}" -ge "$2" ] || { echo "only ${delivered:-0} of $2 were delivered" >&2; exit 1; }
    kill -TERM $SERVER_PID
    wait $SERVER_PID 2>/dev/null
    kill $SINK_PID 2>/dev/null
    wait $SINK_PID 2>/dev/null
    SINK_PID= SERVER_PID=
}

n=0
for binary in "$@"; do
    n=$((n + 1))
    count "$(realpath "$binary")" "$FEW" "$WORK/few.$n"
    count "$(realpath "$binary")" "$MANY" "$WORK/many.$n"
done
python3 - "$WORK" "$n" "$((MANY - FEW))" "$LINES" "$@" <<'END'
import collections, re, subprocess, sys

work, versions, messages, lines = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])


def counted(file):
    words = ["callgrind_annotate", "--auto=no", "--threshold=100", "--show-percs=no", file]
    by_function = collections.Counter()
    for line in subprocess.run(words, capture_output=True, text=True).stdout.splitlines():
        m = re.match(r"\s*([\d,]+)\s+(\S+?):(.*?)(?: \[.*\])?$", line)
        # Clocks are calibrated at the start, as long as that takes.
        if m and "PROGRAM" not in line and "once_cell::imp::OnceCell" not in m[3]:
            by_function[re.sub(r"'\d+$|\.llvm\.\d+", "", m[3])] += int(m[1].replace(",", ""))
    return by_function


found = []
for n in range(1, versions + 1):
    few, many = counted(f"{work}/few.{n}"), counted(f"{work}/many.{n}")
    found.append({f: (many[f] - few[f]) / messages for f in many.keys() | few.keys()})
    print(f"{sum(found[-1].values()):8.0f} instructions a message: {sys.argv[4 + n]}")
first, last = found[0], found[-1]
key = (lambda f: -abs(last.get(f, 0) - first.get(f, 0))) if versions > 1 else (lambda f: -first[f])
for f in sorted(first.keys() | last.keys(), key=key)[:lines]:
    columns = "".join(f"{one.get(f, 0):8.0f}" for one in found)
    print(f"{columns}  {f[:110]}")
END

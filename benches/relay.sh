#!/usr/bin/env bash
# Accept and relay, side by side: ringpost, Postfix from Debian, and the floor program, each
# durable, each with the same generator and the same sink, in one run on one machine.
#
#   benches/relay.sh                      the whole matrix (several hours)
#   benches/relay.sh --brief              the whole matrix, once, 2 s a cell (a quarter of an hour)
#   benches/relay.sh --quick              1 KiB, 20 sessions, three modes
#   benches/relay.sh --only ringpost --sizes "1KiB 100KiB" --sessions "1 20" --modes pipelined
#
# Prints JSON lines to OUT/relay.jsonl and a Markdown table to OUT/relay.md and to the terminal.
# The server owns one CPU, generator and sink share another. The figure that counts is server CPU
# per message (user + system, all processes of the server, from a cgroup), because the rate also
# depends on generator and sink. A cell in which other work took over 5 % of the machine is marked.
# Where perf can count them, the server's system calls per message are taken from a second of load
# after the measured one, because counting costs time itself.
# Needs root for Postfix and for the cgroup; without a cgroup CPU comes from /proc. Installs nothing
# unless --install is given.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1

usage() { sed -n '2,17p' "$0" | sed 's/^# \{0,1\}//'; cat <<'END'
options: --quick --brief  --only NAME[,NAME] (ringpost postfix floor)  --sizes "S ..."  --sessions "N ..."
         --modes "M ..." (pipelined lockstep single)  --seconds N  --warm N  --runs N  --profile dist|release
         --bin FILE (a built ringpost: no build)  --out DIR  --dir DIR (queues; a real disk)
         --server-cpus C --load-cpus C  --install  --keep
environment: RINGPOST_MORE (lines for ringpost's configuration, as '[events]' with 'mail = "off"')
             LOADER (a ringpost whose `load` is generator and sink; to compare two versions give both the same)
             FLOOR (path of the floor program), FLOOR_ARGS (its arguments; @PORT@ @SINK@ @DIR@)
END
}

ONLY="ringpost,postfix,floor" SIZES="1KiB 10KiB 100KiB" SESSIONS="1 20 100 1000"
MODES="pipelined lockstep single" SECS=5 WARM=2 RUNS=3 PROFILE=dist BIN="" OUT=target/relay-bench
RINGPOST_MORE=${RINGPOST_MORE:-}
DIR=${TMPDIR:-/var/tmp} SERVER_CPUS=0 LOAD_CPUS=1 INSTALL=no KEEP=no PATIENCE=15
while [ $# -gt 0 ]; do
    case $1 in
        --quick) SIZES=1KiB SESSIONS=20 SECS=3 WARM=1 RUNS=1 ;;
        --brief) SECS=2 WARM=1 RUNS=1 PATIENCE=3 ;;
        --only) ONLY=$2; shift ;;
        --sizes) SIZES=$2; shift ;;
        --sessions) SESSIONS=$2; shift ;;
        --modes) MODES=$2; shift ;;
        --seconds) SECS=$2; shift ;;
        --warm) WARM=$2; shift ;;
        --runs) RUNS=$2; shift ;;
        --profile) PROFILE=$2; shift ;;
        --bin) BIN=$2; shift ;;
        --out) OUT=$2; shift ;;
        --dir) DIR=$2; shift ;;
        --server-cpus) SERVER_CPUS=$2; shift ;;
        --load-cpus) LOAD_CPUS=$2; shift ;;
        --install) INSTALL=yes ;;
        --keep) KEEP=yes ;;
        -h|--help) usage; exit 0 ;;
        *) echo "unknown option $1" >&2; usage >&2; exit 64 ;;
    esac
    shift
done

PEERS=benches/peers
WORK=$(mktemp -d "$DIR/ringpost-bench.XXXXXX") || exit 1
chmod 755 "$WORK"                      # Postfix's own user must pass
mkdir -p "$OUT"
ROWS=$OUT/relay.jsonl TABLE=$OUT/relay.md
TSV=$WORK/rows.tsv
: >"$TSV"
PORT=$((20000 + $$ % 10000)) SINK=$((31000 + $$ % 1000)) METRICS=$((32000 + $$ % 700))
SERVER_PID="" SINK_PID=""
ulimit -n "$(ulimit -Hn)"

say() { echo "$*" >&2; }

# ---- accounting ----

CG_NAME=ringpost-bench-$$ CG_KIND=none
if [ -w /sys/fs/cgroup/cpuacct ] && mkdir -p "/sys/fs/cgroup/cpuacct/$CG_NAME"/{server,load} 2>/dev/null; then
    CG_KIND=v1 CG=/sys/fs/cgroup/cpuacct/$CG_NAME
elif [ -f /sys/fs/cgroup/cgroup.controllers ] && mkdir -p "/sys/fs/cgroup/$CG_NAME"/{server,load} 2>/dev/null; then
    CG_KIND=v2 CG=/sys/fs/cgroup/$CG_NAME
fi

# in_group GROUP CPUS COMMAND...: runs it pinned, accounted to GROUP, replacing this shell.
in_group() {
    local group=$1 cpus=$2
    shift 2
    [ "$CG_KIND" = none ] || echo $BASHPID >"$CG/$group/cgroup.procs"
    exec taskset -c "$cpus" "$@"
}

# CPU so far, "total user system" in nanoseconds; user and system are sampled by ticks.
cpu_of() {
    case $CG_KIND in
        v1) echo "$(cat "$CG/$1/cpuacct.usage" "$CG/$1/cpuacct.usage_user" "$CG/$1/cpuacct.usage_sys" | tr '\n' ' ')" ;;
        v2) awk '{v[$1]=$2*1000} END {printf "%.0f %.0f %.0f\n", v["usage_usec"], v["user_usec"], v["system_usec"]}' "$CG/$1/cpu.stat" ;;
        none) tree_cpu "$([ "$1" = server ] && echo "${SERVER_PID:-0}" || echo "${SINK_PID:-0}")" ;;
    esac
}

# The same for a process, its descendants, and their children that have ended.
tree_cpu() {
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v root="$1" -v hz="$(getconf CLK_TCK)" '
        { pid=$1; sub(/^.*\) /, ""); parent[pid]=$2; user[pid]=$12+$14; sys[pid]=$13+$15 }
        END { for (p in parent) { q=p; while (q!=root && q>1 && (q in parent)) q=parent[q]
                if (q==root) { u+=user[p]; s+=sys[p] } }
              printf "%.0f %.0f %.0f\n", (u+s)*1e9/hz, u*1e9/hz, s*1e9/hz }'
}

# Busy time of the machine so far, nanoseconds, with what the hypervisor took.
machine_busy() {
    awk -v hz="$(getconf CLK_TCK)" '/^cpu / {printf "%.0f\n", ($2+$3+$4+$7+$8+$9)*1e9/hz}' /proc/stat
}

# calls ARGUMENTS...: system calls of all threads of the server per message, during a second of load until
# everything has been delivered; "-" without perf or without the right to count.
calls() {
    local pids counter report count acked before
    pids=$(server_pids | paste -sd,)
    before=$(taken)
    rm -f "$WORK/until"; mkfifo "$WORK/until"
    # Until somebody writes there. New threads and processes are counted with those that made them.
    perf stat -x ' ' -e raw_syscalls:sys_enter -p "$pids" -o "$WORK/calls" -- cat "$WORK/until" >/dev/null 2>&1 &
    counter=$!
    sleep 0.3
    kill -0 $counter 2>/dev/null || { wait $counter; echo -; return; }
    report=$(load "$@" --duration 1s)
    acked=$(field acknowledged <<<"$report")
    drained $((before + ${acked:-0}))
    timeout 5 sh -c ': >"$1"' sh "$WORK/until"; wait $counter 2>/dev/null
    count=$(awk '/raw_syscalls:sys_enter/ {print $1; exit}' "$WORK/calls" 2>/dev/null)
    awk -v n="${count:-x}" -v m="${acked:-0}" 'BEGIN { if (n ~ /^[0-9]+$/ && m > 0) printf "%.3f\n", n / m; else print "-" }'
}

# Processes of the server.
server_pids() {
    if [ "$CG_KIND" = none ]; then echo "$SERVER_PID"; else cat "$CG/server/cgroup.procs"; fi
}

# Waits up to 30 s (6 s with --brief) for a second in which the machine does nothing else.
quiet() {
    local a b
    for _ in $(seq "$PATIENCE"); do
        a=$(machine_busy); sleep 1; b=$(machine_busy)
        [ $(( (b - a) * 20 )) -lt $((1000000000 * $(nproc))) ] && return 0
        sleep 1
    done
    say "  the machine is busy with other work; the row will be marked"
}

# ---- processes ----

wait_port() {
    for _ in $(seq 100); do
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return 0
        sleep 0.1
    done
    return 1
}

end_process() {
    local pid=$1
    [ -n "$pid" ] || return 0
    kill -TERM "$pid" 2>/dev/null
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null
}

stop_server() {
    end_process "$SERVER_PID"
    if [ "$CG_KIND" != none ]; then
        # The group holds nothing but what this script started.
        for turn in $(seq 80); do
            grep -q . "$CG/server/cgroup.procs" || break
            xargs -r kill "-$([ "$turn" -lt 50 ] && echo TERM || echo KILL)" <"$CG/server/cgroup.procs" 2>/dev/null
            sleep 0.1
        done
    fi
    wait "$SERVER_PID" 2>/dev/null
    SERVER_PID=""
}

stop_sink() { end_process "$SINK_PID"; [ -z "$SINK_PID" ] || wait "$SINK_PID" 2>/dev/null; SINK_PID=""; }

cleanup() {
    trap - EXIT INT TERM
    stop_server; stop_sink
    if [ "$CG_KIND" != none ]; then
        sleep 0.2
        rmdir "$CG/server" "$CG/load" "$CG" 2>/dev/null
    fi
    [ "$KEEP" = yes ] || rm -rf "$WORK"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

start_sink() {
    rm -f "$WORK/status"
    ( in_group load "$LOAD_CPUS" "$LOADER" load sink --listen "127.0.0.1:$SINK" --status "$WORK/status" --json \
        >"$WORK/sink.json" 2>"$WORK/sink.log" ) &
    SINK_PID=$!
    wait_port "$SINK" || { say "the sink does not start: $(cat "$WORK/sink.log")"; return 1; }
}

# load ARGUMENTS...: one run of the generator, its JSON on stdout; never longer than its time and 60 s.
load() {
    ( in_group load "$LOAD_CPUS" timeout $((SECS + 60)) "$LOADER" load smtp --to "127.0.0.1:$PORT" --json "$@" )
}

# field NAME < JSON
field() { grep -o "\"$1\":[^,}]*" | head -1 | cut -d: -f2; }
taken() { field messages <"$WORK/status" 2>/dev/null || echo 0; }

# Waits until the sink has COUNT messages or nothing has moved for 15 s.
drained() {
    local want=$1 before=-1 now still=0
    while [ $still -lt 150 ]; do
        now=$(taken); now=${now:-0}
        [ "$now" -ge "$want" ] && return 0
        if [ "$now" = "$before" ]; then still=$((still + 1)); else still=0; fi
        before=$now
        sleep 0.1
    done
    say "  only $now of $want messages reached the sink"
    return 1
}

# ---- the servers ----

has_ringpost() { return 0; }
start_ringpost() {
    local d=$WORK/ringpost
    rm -rf "$d"; mkdir -p "$d/data"
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
address = ["127.0.0.1:$PORT"]
tls = "off"

[relay]
networks = ["127.0.0.0/8"]

[[route]]
domain = "*"
next_hop = "127.0.0.1:$SINK"
tls = "none"

[limits]
sessions_per_address = 0

[metrics]
address = "127.0.0.1:$METRICS"

[admin]
socket = "$d/admin.sock"
$RINGPOST_MORE
END
    ( in_group server "$SERVER_CPUS" "$BIN" serve -c "$d/ringpost.toml" >"$d/log" 2>&1 ) &
    SERVER_PID=$!
    wait_port "$PORT" || { say "ringpost does not start: $(tail -3 "$d/log")"; return 1; }
}

has_postfix() {
    [ -x /usr/lib/postfix/sbin/master ] && return 0
    if [ "$INSTALL" = yes ]; then
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postfix >&2 && return 0
    fi
    say "Postfix is not installed: skipped (--install installs it from Debian)"
    return 1
}
start_postfix() {
    local d=$WORK/postfix
    rm -rf "$d"; mkdir -p "$d/etc" "$d/spool" "$d/data"
    chown postfix "$d/data" || return 1
    for f in main.cf master.cf; do
        sed -e "s|@DIR@|$d|g; s|@PORT@|$PORT|g; s|@SINK@|$SINK|g; s|@SMTPD@|$((SESSION_COUNT + 50))|g" \
            "$PEERS/postfix/$f" >"$d/etc/$f"
    done
    ( in_group server "$SERVER_CPUS" postfix -c "$d/etc" start-fg >"$d/log" 2>&1 ) &
    SERVER_PID=$!
    wait_port "$PORT" || { say "Postfix does not start: $(tail -3 "$d/log")"; return 1; }
}

FLOOR=${FLOOR:-}
FLOOR_ARGS=${FLOOR_ARGS:---listen 127.0.0.1:@PORT@ --sink 127.0.0.1:@SINK@ --file @DIR@/file}
has_floor() {
    FLOOR=${FLOOR:-target/$PROFILE/examples/floor}
    [ -x "$FLOOR" ] || { say "the floor program is not built: skipped"; return 1; }
}
start_floor() {
    local d=$WORK/floor args
    rm -rf "$d"; mkdir -p "$d"
    args=${FLOOR_ARGS//@PORT@/$PORT}; args=${args//@SINK@/$SINK}; args=${args//@DIR@/$d}
    # shellcheck disable=SC2086
    ( in_group server "$SERVER_CPUS" "$FLOOR" $args >"$d/log" 2>&1 ) &
    SERVER_PID=$!
    wait_port "$PORT" || { say "the floor program does not start: $(tail -3 "$d/log")"; return 1; }
}

# ---- one cell ----

# cell SERVER SIZE SESSIONS MODE: warms up, measures, appends one row.
cell() {
    local server=$1 size=$2 mode=$4 args warm base report start busy0 busy1 s0 s1 g0 g1 acked last sys complete=true
    SESSION_COUNT=$3
    args=(--size "$size" --connections "$SESSION_COUNT" --source-addresses 200)
    case $mode in
        pipelined) args+=(--pipelining on) ;;
        lockstep) args+=(--pipelining off) ;;
        single) args+=(--pipelining on --messages-per-connection 1) ;;
        *) say "unknown mode $mode"; return 1 ;;
    esac
    start_sink && "start_$server" || { stop_server; stop_sink; return 1; }
    warm=$(load "${args[@]}" --duration "${WARM}s" | field acknowledged)
    drained "${warm:-0}" || complete=false
    quiet
    base=$(taken)
    start=$(date +%s%N); busy0=$(machine_busy)
    read -r -a s0 < <(cpu_of server); read -r -a g0 < <(cpu_of load)
    report=$(load "${args[@]}" --duration "${SECS}s")
    acked=$(field acknowledged <<<"$report")
    drained $((base + ${acked:-0})) || complete=false
    sleep 0.3                          # last outcomes reach the disk
    read -r -a s1 < <(cpu_of server); read -r -a g1 < <(cpu_of load); busy1=$(machine_busy)
    sleep 0.1
    last=$(field last_nanos <"$WORK/status")
    local end; end=$(date +%s%N)
    sys=$(calls "${args[@]}")
    stop_server; stop_sink
    if [ "${acked:-0}" -lt 1 ]; then
        say "  no message was accepted: $report"
        return 1
    fi
    row "$server" "$size" "$mode" "$report" "$acked" "$complete" \
        $((s1[0] - s0[0])) $((s1[1] - s0[1])) $((s1[2] - s0[2])) \
        $((g1[0] - g0[0])) $((busy1 - busy0 - (s1[1] + s1[2] - s0[1] - s0[2]) - (g1[1] + g1[2] - g0[1] - g0[2]))) \
        $((last - start)) $((end - start)) "$sys"
}

# Works the figures out; CPU times in nanoseconds.
row() {
    local report=$4
    awk -v server="$1" -v size="$2" -v mode="$3" -v sessions="$SESSION_COUNT" -v acked="$5" -v complete="$6" \
        -v cpu="$7" -v user="$8" -v sys="$9" -v gen="${10}" -v other="${11}" -v took="${12}" -v wall="${13}" -v calls="${14}" \
        -v cpus="$(nproc)" -v kind="$CG_KIND" -v rows="$ROWS" -v tsv="$TSV" \
        -v rate="$(field messages_per_second <<<"$report")" -v p50="$(field p50_us <<<"$report")" \
        -v p99="$(field p99_us <<<"$report")" -v refused="$(field refused <<<"$report")" \
        -v failed="$(field failed <<<"$report")" -v unanswered="$(field unanswered <<<"$report")" 'BEGIN {
        # Other work: what the machine did less what we did, all of it sampled by ticks, because the
        # exact figures hold time that the hypervisor took. Without a cgroup it cannot be told.
        foreign = kind == "none" ? -1 : other > 0 ? other * 100 / (wall * cpus) : 0
        printf "{\"server\":\"%s\",\"size\":\"%s\",\"sessions\":%d,\"mode\":\"%s\",\"messages\":%d,\"accepted_per_second\":%.1f,", \
            server, size, sessions, mode, acked, rate >> rows
        printf "\"delivered_per_second\":%.1f,\"cpu_us\":%.2f,\"user_us\":%.2f,\"system_us\":%.2f,", \
            acked * 1e9 / took, cpu / acked / 1e3, user / acked / 1e3, sys / acked / 1e3 >> rows
        if (calls != "-") printf "\"calls\":%s,", calls >> rows
        printf "\"load_cpu_us\":%.2f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"errors\":%d,\"all_delivered\":%s,\"foreign_percent\":%.1f}\n", \
            gen / acked / 1e3, p50, p99, refused + failed + unanswered, complete, foreign >> rows
        printf "%s\t%s\t%d\t%s\t%.1f\t%.1f\t%.3f\t%.1f\t%.1f\t%d\t%.1f\t%s\t%s\n", size, mode, sessions, server, rate, \
            acked * 1e9 / took, cpu / acked / 1e3, p50, p99, refused + failed + unanswered, foreign, complete, calls >> tsv }'
    say "  $(tail -1 "$ROWS")"
}

# Medians per cell, and CPU as a multiple of ringpost's.
table() {
    awk -F'\t' '
        function median(key, col,   n, i, j, t, v) {
            n = split(list[key, col], v, " ")
            for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j-1]+0 > v[j]+0; j--) { t = v[j]; v[j] = v[j-1]; v[j-1] = t }
            return n % 2 ? v[(n+1)/2] : (v[n/2] + v[n/2+1]) / 2
        }
        { key = $1 FS $2 FS $3 FS $4; if (!(key in runs)) order[++cells] = key; runs[key]++
          for (c = 5; c <= 11; c++) list[key, c] = list[key, c] " " $c
          if ($13 != "-") list[key, 13] = list[key, 13] " " $13
          if ($12 != "true") lost[key] = 1 }
        END {
            print "| size | mode | sessions | server | accepted/s | delivered/s | CPU us/message | x ringpost | calls/message | p50 ms | p99 ms | errors | runs | other load % |"
            print "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
            for (i = 1; i <= cells; i++) { split(order[i], k, FS)
                cpu = median(order[i], 7); ours = k[1] FS k[2] FS k[3] FS "ringpost"; foreign = median(order[i], 11)
                printf "| %s | %s | %s | %s | %.0f | %.0f%s | %.1f | %s | %s | %.2f | %.2f | %d | %d | %s%s |\n", k[1], k[2], k[3], k[4], \
                    median(order[i], 5), median(order[i], 6), (order[i] in lost ? " (not all)" : ""), cpu, \
                    (ours in runs ? sprintf("%.2f", cpu / median(ours, 7)) : "-"), \
                    ((order[i], 13) in list ? sprintf("%.2f", median(order[i], 13)) : "-"), median(order[i], 8) / 1e3, \
                    median(order[i], 9) / 1e3, median(order[i], 10), runs[order[i]], \
                    (foreign < 0 ? "?" : sprintf("%.1f", foreign)), (foreign > 5 ? " (!)" : "") }
        }' "$TSV"
}

machine() {
    echo "$(date -u +%FT%TZ); $(nproc) CPUs, $(awk -F': ' '/model name/ {print $2; exit}' /proc/cpuinfo);" \
        "kernel $(uname -r); $(df --output=fstype,source "$WORK" | tail -1 | tr -s ' ');" \
        "$("$BIN" --version 2>/dev/null || echo ringpost);" \
        "$(postconf -d mail_version 2>/dev/null | sed 's/mail_version = /Postfix /')"
    echo "$SECS s per cell, medians; CPU from $([ $CG_KIND = none ] && echo /proc || echo "a cgroup ($CG_KIND)");" \
        "server on CPU $SERVER_CPUS, generator and sink on CPU $LOAD_CPUS"
}

# ---- the run ----

if [ -z "$BIN" ]; then
    cargo build --profile "$PROFILE" --bin ringpost --example floor >&2 || exit 1
    BIN=target/$PROFILE/ringpost
fi
BIN=$(realpath "$BIN") || exit 1
LOADER=$(realpath "${LOADER:-$BIN}") || exit 1
SERVERS=""
for s in ${ONLY//,/ }; do
    case $s in ringpost|postfix|floor) "has_$s" && SERVERS="$SERVERS $s" ;; *) say "unknown server $s"; exit 64 ;; esac
done
[ -n "$SERVERS" ] || { say "nothing to measure"; exit 1; }

: >"$ROWS"
FAILED=0 CELL=0
words() { echo $#; }
# shellcheck disable=SC2086
CELLS=$(($(words $SIZES) * $(words $MODES) * $(words $SESSIONS) * RUNS * $(words $SERVERS)))
for size in $SIZES; do for mode in $MODES; do for sessions in $SESSIONS; do
    for run in $(seq "$RUNS"); do for server in $SERVERS; do   # servers alternate: minutes apart, not hours
        CELL=$((CELL + 1))
        say "[$CELL of $CELLS, ${SECONDS} s] $server: $size, $mode, $sessions sessions, run $run of $RUNS"
        cell "$server" "$size" "$sessions" "$mode" || FAILED=$((FAILED + 1))
    done; done
done; done; done

{ machine; echo; table; } | tee "$TABLE"
[ $FAILED -eq 0 ] || { say "$FAILED cells failed"; exit 1; }

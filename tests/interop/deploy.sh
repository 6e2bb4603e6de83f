#!/usr/bin/env bash
# What is in deploy/ and tuning/, looked at by the programs it is for: systemd, haproxy, nginx, logrotate, fail2ban,
# dpkg, libseccomp; the Kubernetes manifest by its schema. Then the example of two relays behind a balancer runs on
# loopback, and one relay is stopped under load. Not in `cargo test`: it installs what it needs from Debian (and PyPI);
# what cannot be had is skipped with a word.
#
#     tests/interop/deploy.sh [path of the ringpost binary]
#
# Ends with 0 if all holds, 1 if something does not, 77 (skipped, with the reason) if it cannot run.
set -uo pipefail
cd "$(dirname "$0")/../.."
program=$(readlink -f "${1:-target/debug/ringpost}")

skip() { echo "SKIPPED: $1"; exit 77; }
[ -x "$program" ] || skip "no program at $program: cargo build first"
packages=()
for pair in systemd-analyze:systemd haproxy:haproxy nginx:nginx-light logrotate:logrotate curl:curl \
    fail2ban-regex:fail2ban dpkg-deb:dpkg python3:python3; do
    command -v "${pair%:*}" >/dev/null || packages+=("${pair#*:}")
done
[ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || packages+=(libnginx-mod-stream)
/usr/bin/python3 -c 'import seccomp' 2>/dev/null || packages+=(python3-seccomp)
[ ${#packages[@]} = 0 ] || { apt-get update -q; for package in "${packages[@]}"; do
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$package"; done; } >/dev/null 2>&1

dir=$(mktemp -d)
chmod 755 "$dir"
children=()
stop() {
    [ ${#children[@]} = 0 ] || kill "${children[@]}" 2>/dev/null
    wait 2>/dev/null
    [ -n "${KEEP:-}" ] || rm -rf "$dir"
}
trap stop EXIT

failed=0
result() { # name, code
    case $2 in
        0) echo "ok      $1" ;;
        77) echo "skipped $1: the program cannot be had" ;;
        *) echo "FAILED  $1"; failed=1 ;;
    esac
}
# Runs a command quietly; shows what it says if it fails.
quiet() { "$@" >"$dir/said" 2>&1 || { sed 's/^/        /' "$dir/said"; return 1; }; }

unit() {
    command -v systemd-analyze >/dev/null || return 77
    sed "s#/usr/bin/ringpost#$program#" deploy/ringpost.service >"$dir/ringpost.service"
    # Documentation is not installed here; everything else it says is an error.
    systemd-analyze verify --man=no "$dir/ringpost.service" >"$dir/said" 2>&1
    ! grep -i 'ringpost' "$dir/said" || return 1
    # 0 is a locked room, 10 no door at all.
    quiet systemd-analyze security --offline=true --threshold=25 "$dir/ringpost.service"
}
unit; result "systemd: the unit is sound, and exposes little" $?

analysed() {
    command -v systemd-analyze >/dev/null || return 77
    local calls
    calls=$(systemd-analyze syscall-filter @system-service @aio @resources 2>/dev/null) || return 77
    for call in io_uring_setup io_uring_enter io_uring_register sched_setaffinity; do
        grep -q "$call" <<<"$calls" || { echo "        $call is not in the sets that the unit allows"; return 1; }
    done
}
analysed; result "systemd: its sets of calls contain io_uring" $?

notified() { # what the unit waits for: READY=1, WATCHDOG=1, STOPPING=1
    cat >"$dir/notify.py" <<'END'
import os, signal, socket, subprocess, sys
path = sys.argv[1] + "/notify"
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind(path)
manager.settimeout(20)
env = dict(os.environ, NOTIFY_SOCKET=path, WATCHDOG_USEC="1000000")
server = subprocess.Popen([sys.argv[2], "serve", "-c", sys.argv[3]], env=env, stderr=subprocess.DEVNULL)
try:
    heard = [manager.recv(4096).decode() for _ in range(4)]
    server.send_signal(signal.SIGTERM)
    while not heard[-1].startswith("STOPPING=1"):
        heard.append(manager.recv(4096).decode())
    code = server.wait(20)
finally:
    server.kill()
if not heard[0].startswith("READY=1\nSTATUS=serving SMTP") or heard[1:4] != ["WATCHDOG=1"] * 3 or code:
    sys.exit(f"heard {heard}, ended with {code}")
END
    config "$dir/notified.toml" "$dir/notified" "127.0.0.1:0" ""
    quiet python3 "$dir/notify.py" "$dir" "$program" "$dir/notified.toml"
}
config() { # file, folder, address, more
    cat >"$1" <<END
[server]
hostname = "mx.test.example"
data_dir = "$2"
user = ""
[cores]
mta = 1
pin = "off"
[storage]
segment_size = "1MiB"
journal_limit = "64MiB"
free_min = "1MiB"
durability = "weak"
[admin]
socket = ""
[relay]
smarthost = "127.0.0.1:${sink_port:-9}"
${5:-}
[metrics]
address = "${4:-127.0.0.1:0}"
[[listener]]
protocol = "smtp"
address = "$3"
${6:-}
END
}
notified; result "sd_notify: ready, watchdog, stopping" $?

balancers() {
    command -v haproxy >/dev/null || return 77
    quiet haproxy -c -f deploy/proxies/haproxy.cfg && quiet haproxy -c -f deploy/two-relays/haproxy.cfg
}
balancers; result "haproxy: configurations" $?

with_nginx() {
    command -v nginx >/dev/null || return 77
    [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || return 77
    quiet nginx -t -c "$PWD/deploy/proxies/nginx.conf"
}
with_nginx; result "nginx: configuration" $?

rotated() {
    command -v logrotate >/dev/null || return 77
    mkdir -p "$dir/log" && chmod 755 "$dir/log" && echo line >"$dir/log/events.log"
    sed -e "s#/var/log/ringpost#$dir/log#" -e 's/ringpost ringpost$/root root/' deploy/logrotate.conf >"$dir/rotate"
    chmod 644 "$dir/rotate"
    quiet logrotate -d "$dir/rotate" && quiet logrotate --force --state "$dir/rotate.state" "$dir/rotate" || return 1
    # A new one, and the old one beside it.
    [ -e "$dir/log/events.log" ] && [ ! -s "$dir/log/events.log" ] && [ "$(ls "$dir/log" | wc -l)" = 2 ]
}
rotated; result "logrotate: a log is moved and made anew" $?

banned() {
    command -v fail2ban-regex >/dev/null || return 77
    cat >"$dir/login.log" <<'END'
{"core":0,"event":"login_failed","level":"info","text":"client=192.0.2.66 port=41234 service=submission mechanism=PLAIN user=anna","time":"2026-11-23T07:00:00.000Z"}
2026-11-23T07:00:00.000Z ringpost[77]: login_failed: client=2001:db8::7 port=41234 service=imaps mechanism=LOGIN user=anna
{"event":"started","level":"info","text":"serving SMTP","time":"2026-11-23T07:00:00.000Z"}
END
    fail2ban-regex "$dir/login.log" deploy/fail2ban/filter.d/ringpost.conf >"$dir/said" 2>&1
    grep -q '2 matched, 1 missed' "$dir/said" || { sed 's/^/        /' "$dir/said"; return 1; }
}
banned; result "fail2ban: the filter finds failed logins" $?

package() {
    command -v dpkg-deb >/dev/null || return 77
    quiet deploy/debian/build.sh "$program" "$dir" || return 1
    local deb root=$dir/root
    deb=$(ls "$dir"/ringpost_*.deb) && quiet dpkg-deb --info "$deb" || return 1
    for script in deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm; do sh -n "$script" || return 1; done
    # Unpacked and configured by dpkg in a root of its own, as far as that goes without a second system.
    dpkg-deb -x "$deb" "$root" && dpkg-deb --ctrl-tarfile "$deb" | tar -x -C "$dir" ./conffiles || return 1
    for file in usr/bin/ringpost usr/lib/systemd/system/ringpost.service etc/ringpost/ringpost.toml \
        etc/logrotate.d/ringpost usr/share/ringpost/grafana/dashboards/ringpost-overview.json; do
        [ -e "$root/$file" ] || { echo "        $file is not in the package"; return 1; }
    done
    while read -r file; do [ -e "$root$file" ] || return 1; done <"$dir/conffiles"
    # What it installs is what it says: the program runs, and takes the configuration that comes with it.
    quiet "$root/usr/bin/ringpost" --version && quiet "$root/usr/bin/ringpost" check -c "$root/etc/ringpost/ringpost.toml"
}
package; result "dpkg: the package is built, complete, and its configuration is good" $?

filtered() {
    /usr/bin/python3 -c 'import seccomp' 2>/dev/null || return 77
    cat >"$dir/confined.py" <<'END'
"""Puts the profile on this process, as a container runtime does, then becomes the program."""
import json, os, sys
import seccomp as s
profile = json.load(open(sys.argv[1]))
assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
f = s.SyscallFilter(s.ERRNO(profile["defaultErrnoRet"]))
actions = {"SCMP_ACT_ALLOW": lambda g: s.ALLOW, "SCMP_ACT_ERRNO": lambda g: s.ERRNO(g["errnoRet"])}
compare = {"SCMP_CMP_NE": lambda a: s.Arg(a["index"], s.NE, a["value"]),
           "SCMP_CMP_MASKED_EQ": lambda a: s.Arg(a["index"], s.MASKED_EQ, a["value"], a["valueTwo"])}
for group in profile["syscalls"]:
    conditions = [compare[a["op"]](a) for a in group.get("args", [])]
    for name in group["names"]:
        try:
            f.add_rule(actions[group["action"]](group), name, *conditions)
        except (RuntimeError, ValueError) as e:
            print(name, "is not known here:", e)
f.load()
os.execv(sys.argv[2], sys.argv[2:])
END
    quiet timeout 120 /usr/bin/python3 "$dir/confined.py" deploy/container/seccomp.json "$program" demo --once --port 0
}
filtered; result "seccomp: a whole relay runs under the profile" $?

manifest() {
    python3 -m venv "$dir/venv" >/dev/null 2>&1 && "$dir/venv/bin/pip" -q install pyyaml kubernetes-validate >/dev/null 2>&1 ||
        return 77
    cat >"$dir/manifest.py" <<'END'
import sys, kubernetes_validate, yaml
for path in sys.argv[1:]:
    for part in yaml.safe_load_all(open(path)):
        kubernetes_validate.validate(part, kubernetes_validate.latest_version(), strict=True)
END
    quiet "$dir/venv/bin/python" "$dir/manifest.py" deploy/kubernetes/ringpost.yml || return 1
    # Compose and provisioning files: at least YAML, and what they mount is there.
    cat >"$dir/compose.py" <<'END'
import os, sys, yaml
folder = "deploy/container"
compose = yaml.safe_load(open(f"{folder}/compose.yml"))
for path in ("prometheus.yml", "../grafana/provisioning/datasources/ringpost.yml", "../grafana/provisioning/dashboards/ringpost.yml"):
    yaml.safe_load(open(f"{folder}/{path}"))
for name, service in compose["services"].items():
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith(".") and source != "./ringpost.toml" and not os.path.exists(f"{folder}/{source}"):
            sys.exit(f"{name}: {source} is not there")
        if not source.startswith(".") and source not in compose["volumes"]:
            sys.exit(f"{name}: volume {source} is not declared")
END
    quiet "$dir/venv/bin/python" "$dir/compose.py"
}
manifest; result "Kubernetes and compose: the manifests fit their schemas" $?

two_relays() {
    command -v haproxy >/dev/null || return 77
    sed "s#192.0.2.2[12]#127.0.0.1#; s#/etc/ringpost/tls/fullchain.pem#$dir/pem#; s#/etc/ringpost/tls/privkey.pem#$dir/key#
         s#/etc/ringpost/users#$dir/users#" deploy/two-relays/relay-a.toml >"$dir/relay.toml"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 -subj /CN=localhost \
        -keyout "$dir/key" -out "$dir/pem" 2>/dev/null
    echo 'anna:{PLAIN}correct horse' >"$dir/users"
    sed -i "s/127.0.0.1/127.0.0.2/" "$dir/relay.toml"
    quiet "$program" check -c "$dir/relay.toml" || return 1
    # The same shape on loopback: a balancer, two relays that only it may talk to, a sink.
    local port=$((24000 + $$ % 8000))
    sink_port=$((port + 9))
    "$program" load sink --listen "127.0.0.1:$sink_port" --ledger "$dir/taken" >/dev/null 2>&1 &
    children+=($!)
    local relays=() n
    for n in 1 2; do
        config "$dir/relay$n.toml" "$dir/relay$n" "127.0.0.1:$((port + n))" "127.0.0.1:$((port + 4 + n))" \
            'networks = ["127.0.0.0/8"]' 'proxy_protocol_from = ["127.0.0.1/32"]'
        "$program" serve -c "$dir/relay$n.toml" 2>"$dir/relay$n.log" &
        relays+=($!)
        children+=($!)
    done
    # Descriptors may be few here.
    sed -e '/log /d' -e 's/maxconn 100000/maxconn 1000/' -e "s/192.0.2.10:25/127.0.0.1:$port/" -e "s/192.0.2.2\([12]\):25/127.0.0.1:@\1/" \
        -e '/submission/,$d' deploy/two-relays/haproxy.cfg >"$dir/haproxy.cfg"
    cat >>"$dir/haproxy.cfg" <<END
backend smtp
    balance roundrobin
    option httpchk GET /readyz
    default-server check inter 200ms fall 1 rise 1 send-proxy-v2
    server relay-a 127.0.0.1:$((port + 1)) port $((port + 5))
    server relay-b 127.0.0.1:$((port + 2)) port $((port + 6))
END
    quiet haproxy -c -f "$dir/haproxy.cfg" || return 1
    for n in 1 2; do
        for _ in $(seq 100); do grep -q '"started"' "$dir/relay$n.log" && break; sleep 0.1; done
    done
    haproxy -db -f "$dir/haproxy.cfg" >"$dir/haproxy.log" 2>&1 &
    children+=($!)
    for _ in $(seq 50); do (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.1; done
    grep -q ALERT "$dir/haproxy.log" && { cat "$dir/haproxy.log"; return 1; }
    "$program" load smtp --to "127.0.0.1:$port" --connections 4 --messages-per-connection 5 --rate 100/s --duration 6s \
        --retry-connect 5s --ledger "$dir/sent" >"$dir/load.log" 2>&1 &
    local load=$!
    sleep 3
    kill "${relays[0]}"
    wait "${relays[0]}"
    local ended=$?
    wait "$load"
    [ $ended = 0 ] || { echo "        relay a ended with $ended"; return 1; }
    # What it still had waits for its start.
    "$program" serve -c "$dir/relay1.toml" 2>>"$dir/relay1.log" &
    children+=($!)
    for _ in $(seq 100); do
        "$program" load audit "$dir/sent" "$dir/taken" >/dev/null 2>&1 && break
        sleep 0.2
    done
    quiet "$program" load audit "$dir/sent" "$dir/taken" || { cat "$dir/load.log"; return 1; }
    local taken
    taken=$(curl -s "http://127.0.0.1:$((port + 6))/metrics" | sed -n 's/^ringpost_messages_received_total{.*} //p')
    [ "${taken:-0}" -gt 200 ] || { echo "        the other relay took ${taken:-nothing}"; return 1; }
    curl -s "http://127.0.0.1:$((port + 6))/metrics" | grep -q '^ringpost_proxy_headers_total{.*result="client"} [1-9]'
}
two_relays; result "two relays behind HAProxy: one is stopped under load, nothing acknowledged is lost" $?

[ $failed = 0 ] && echo "all holds"
exit $failed

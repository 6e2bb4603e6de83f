#!/usr/bin/env bash
# From an empty Debian 12: debootstrap, the two packages, systemd's opinion of the unit, a boot in which the service starts
# under it and mail flows from sendmail(1) to a sink. Not in `cargo test`: it loads 100 MB of packages from the mirror that
# this machine's apt uses, and needs root.
#
#     tests/interop/debian.sh [path of the ringpost binary]
#
# Ends with 0 if all holds, 1 if something does not, 77 (skipped, with the reason) if it cannot run.
set -uo pipefail
cd "$(dirname "$0")/../.."
program=$(readlink -f "${1:-target/debug/ringpost}")

skip() { echo "SKIPPED: $1"; exit 77; }
[ -x "$program" ] || skip "no program at $program: cargo build first"
[ "$(id -u)" = 0 ] || skip "only root can make a system in a folder"
for pair in debootstrap:debootstrap systemd-nspawn:systemd-container dpkg-deb:dpkg; do
    command -v "${pair%:*}" >/dev/null && continue
    { apt-get update -q; DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${pair#*:}"; } >/dev/null 2>&1
done
command -v debootstrap >/dev/null || skip "debootstrap cannot be had"

dir=$(mktemp -d)
chmod 755 "$dir"
root=$dir/root
# Nothing of this machine is mounted below it, and nothing may be: it is removed as a whole.
stop() { [ -n "${KEEP:-}" ] || rm -rf --one-file-system "$dir"; }
trap stop EXIT
failed=0
result() { # name, code
    case $2 in
        0) echo "ok      $1" ;;
        77) echo "skipped $1" ;;
        *) echo "FAILED  $1"; failed=1 ;;
    esac
}
quiet() { "$@" >"$dir/said" 2>&1 || { sed 's/^/        /' "$dir/said"; return 1; }; }
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }

mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 2>/dev/null | head -1)
debootstrap --variant=minbase --include=systemd,adduser bookworm "$root" "${mirror:-http://deb.debian.org/debian}" \
    >"$dir/said" 2>&1 || { tail -3 "$dir/said"; skip "no Debian 12 could be made here"; }

packages() {
    quiet deploy/debian/build.sh "$program" "$root" || return 1
    inside apt-get update -q >/dev/null 2>&1 || { echo "        apt-get update does not work there"; return 1; }
    quiet inside sh -c 'apt-get install -qy --no-install-recommends /ringpost_*.deb' || return 1
    [ ! -e "$root/usr/sbin/sendmail" ] || { echo "        the server alone takes the name sendmail"; return 1; }
    # Beside Postfix: the server yes, the names of sendmail no.
    quiet inside apt-get install -sy postfix || return 1
    ! inside sh -c 'apt-get install -sy postfix /ringpost-mta_*.deb' >/dev/null 2>&1 ||
        { echo "        ringpost-mta and Postfix do not exclude each other"; return 1; }
    quiet inside sh -c 'dpkg -i /ringpost-mta_*.deb' || return 1
    for name in /usr/sbin/sendmail /usr/lib/sendmail /usr/bin/mailq /usr/bin/newaliases; do
        [ "$(inside readlink -f $name)" = /usr/bin/ringpost ] || { echo "        $name is not ringpost"; return 1; }
    done
    for page in man8/sendmail.8.gz man1/mailq.1.gz man1/newaliases.1.gz; do
        [ -e "$root/usr/share/man/${page%/*}/$(readlink "$root/usr/share/man/$page")" ] ||
            { echo "        $page leads nowhere"; return 1; }
    done
    [ "$(inside stat -c %U:%G:%a /var/lib/ringpost)" = ringpost:ringpost:700 ]
}
packages; result "dpkg: both packages install into an empty Debian 12, one of them beside Postfix" $?

unit() {
    quiet inside systemd-analyze verify --man=no /usr/lib/systemd/system/ringpost.service || return 1
    quiet inside systemd-analyze security --offline=true --threshold=25 /usr/lib/systemd/system/ringpost.service
}
unit; result "systemd of Debian 12: the unit is sound, and exposes little" $?

sed -i -e 's/^hostname = .*/hostname = "mx.test.example"/' "$root/etc/ringpost/ringpost.toml"
sed -i -e 's/^#\?smarthost = .*/smarthost = "127.0.0.1:2526"/' "$root/etc/ringpost/ringpost.toml"
grep -q '^smarthost = "127.0.0.1:2526"' "$root/etc/ringpost/ringpost.toml" || result "the example has a smarthost" 1

# Mail from a program of the host, as anybody: to the sink, and nothing is left.
cat >"$root/flow.sh" <<'END'
set -e
rm -f /run/taken
ringpost load sink --listen 127.0.0.1:2526 --ledger /run/taken >/run/sink.log 2>&1 &
sink=$!
until bash -c '</dev/tcp/127.0.0.1/2526' 2>/dev/null; do sleep 0.1; done
for n in 1 2 3; do
    printf 'Subject: %s\n\nhello\n' "$n" | setpriv --reuid nobody --regid nogroup --clear-groups sendmail -f a@here.test "x$n@next.test"
done
for _ in $(seq 100); do
    mailq | grep -q 'Mail queue is empty' && [ "$(grep -c . /run/taken)" -ge 3 ] && break
    sleep 0.2
done
mailq | grep -q 'Mail queue is empty' || { mailq; cat /run/sink.log; exit 1; }
[ "$(grep -c . /run/taken)" -ge 3 ] || { echo "the sink has $(grep -c . /run/taken)"; cat /run/sink.log; exit 1; }
kill $sink
END
cat >"$root/check.sh" <<'END'
set -e
trap 'echo "ended with $?" >>/result; journalctl -b --no-pager -u ringpost -n 30 >/journal 2>&1; systemctl poweroff --no-block' EXIT
exec >>/result 2>&1
echo "state $(systemctl is-active ringpost)"
pid=$(systemctl show -p MainPID --value ringpost)
echo "user $(stat -c %U /proc/$pid)"
echo "capabilities $(sed -n 's/^CapEff:\t*//p' /proc/$pid/status)"
echo "limits $(sed -n 's/^Max locked memory *\([^ ]*\).*/\1/p' /proc/$pid/limits)"
echo "seccomp $(sed -n 's/^Seccomp:\t*//p' /proc/$pid/status) no_new_privs $(sed -n 's/^NoNewPrivs:\t*//p' /proc/$pid/status)"
sh -e /flow.sh
echo "flowed"
systemctl reload ringpost
systemctl restart ringpost
echo "again $(systemctl is-active ringpost)"
sh -e /flow.sh
systemctl stop ringpost
echo "stopped $(systemctl show -p Result --value ringpost)"
END
cat >"$root/etc/systemd/system/check.service" <<'END'
[Unit]
After=ringpost.service
Wants=ringpost.service
[Service]
Type=exec
ExecStart=/bin/sh /check.sh
[Install]
WantedBy=multi-user.target
END

booted() {
    command -v systemd-nspawn >/dev/null || return 77
    quiet inside systemctl enable ringpost check || return 1
    # A runtime of containers blocks io_uring unless it is told not to.
    timeout 240 systemd-nspawn --quiet --boot --directory "$root" --private-network --register=no --keep-unit \
        --rlimit=RLIMIT_MEMLOCK=infinity --rlimit=RLIMIT_NOFILE=1048576 \
        --system-call-filter='@aio io_uring_setup io_uring_enter io_uring_register' </dev/null >"$dir/boot" 2>&1
    [ -e "$root/result" ] || { tail -5 "$dir/boot"; grep -q 'Reached target' "$dir/boot" && return 1; return 77; }
    # A machine without CAP_SYS_RESOURCE cannot give more than it has.
    local line locked=unlimited
    (( 0x$(sed -n 's/^CapEff:\t//p' /proc/self/status) >> 24 & 1 )) || [ "$(ulimit -Hl)" = unlimited ] ||
        { locked=$(($(ulimit -Hl) * 1024)); echo "        (locked memory: this machine has $locked bytes at most)"; }
    for line in 'state active' 'user ringpost' 'capabilities 0000000000000400' "limits $locked" \
        'seccomp 2 no_new_privs 1' flowed 'again active' 'stopped success' 'ended with 0'; do
        grep -qx "$line" "$root/result" || { echo "        not so: $line"; cat "$root/result" "$root/journal"; return 1; }
    done
}
booted; result "a boot (systemd-nspawn): the service runs under its unit, mail flows, also after a restart" $?

[ $failed = 0 ] && echo "all holds"
exit $failed

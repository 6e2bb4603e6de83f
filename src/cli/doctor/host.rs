//! Kernel, io_uring, limits, sysctls, CPUs, clock.
//!
//! What is read is judged by functions that take text: they say the same on every host.

#![allow(clippy::disallowed_methods, reason = "a program for operators: it reads /proc and /sys")]

use super::Finding;
use crate::runtime::{checks, host, uring};

/// The file of sysctls that is installed with the program.
const SYSCTLS: &str = include_str!("../../../tuning/sysctl.d/50-ringpost.conf");
/// Descriptors that the unit in deploy/ asks for.
const FILES: u64 = 1 << 20;
/// Locked memory that rings of many cores need, in bytes.
const LOCKED: u64 = 64 << 20;

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// All of them.
pub(super) fn checks() -> Vec<Finding> {
    let mut all = vec![kernel(), ring(), memlock(), files()];
    all.extend(sysctls(SYSCTLS, |key| read(&format!("/proc/sys/{}", key.replace('.', "/")))));
    all.push(overcommit(read("/proc/sys/vm/overcommit_memory").as_deref()));
    all.push(quota(read("/sys/fs/cgroup/cpu.max").as_deref()));
    all.extend(governor(read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").as_deref()));
    all.push(clock());
    all
}

fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "not told".into());
    let finding = Finding::ok("kernel", format!("Linux {release}"), "older ones lack operations of io_uring");
    match checks::kernel() {
        Ok(()) => finding,
        Err(e) => finding.must(e.to_string()),
    }
}

fn ring() -> Finding {
    let why = "all reading, writing and sending goes through it";
    match checks::ring(&uring::Options::production()) {
        Ok(()) => Finding::ok("io_uring", "can be used, with all operations", why),
        Err(e) => Finding::ok("io_uring", "cannot be used", why).must(e.to_string()),
    }
}

fn memlock() -> Finding {
    let why = "rings are locked memory; for root there is no limit";
    let Ok(limit) = host::locked_memory() else { return Finding::unknown("memlock", "not told", why) };
    let is = match limit.most {
        u64::MAX => "no limit".into(),
        most => format!("at most {} KiB for processes started here", most / 1024),
    };
    let change = "LimitMEMLOCK=infinity in the unit (deploy/ has it), container: --ulimit memlock=-1, PAM: \
                  tuning/limits/50-ringpost.conf";
    Finding::ok("memlock", is, why).unless(limit.most >= LOCKED, change)
}

fn files() -> Finding {
    let why = "a session is a descriptor; at the limit new connections wait";
    let Ok(limit) = host::open_files() else { return Finding::unknown("nofile", "not told", why) };
    let is = format!("at most {} for processes started here", limit.most);
    let change = "LimitNOFILE=1048576 in the unit (deploy/ has it), container: --ulimit nofile=1048576, PAM: \
                  tuning/limits/50-ringpost.conf";
    Finding::ok("nofile", is, why).unless(limit.most >= FILES, change)
}

/// Compares `wanted`, a file of sysctl.d(5), with what `read` says.
fn sysctls(wanted: &'static str, read: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut all = Vec::new();
    for line in wanted.lines().filter(|l| !l.starts_with(['#', ';'])) {
        let Some((key, value)) = line.split_once('=') else { continue };
        // A "-" in front: kernels may lack it.
        let (key, value) = (key.trim(), value.trim());
        let (key, may_lack) = key.strip_prefix('-').map_or((key, false), |key| (key, true));
        let why = "tuning/README.md says what each of them is for";
        all.push(match read(key) {
            None if may_lack => Finding::ok(key, "this kernel does not have it", why),
            None => Finding::unknown(key, "not told", why),
            Some(is) => {
                let change =
                    format!("sysctl -w {key}=\"{value}\" (for good: tuning/sysctl.d/50-ringpost.conf)");
                Finding::ok(key, is.replace('\t', " "), why).unless(suffices(key, &is, value), change)
            }
        });
    }
    all
}

/// Whether the value that `is` does for the one that is `wanted`.
fn suffices(key: &str, is: &str, wanted: &str) -> bool {
    let numbers = |text: &str| text.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>();
    let (Ok(is), Ok(wanted)) = (numbers(is), numbers(wanted)) else { return is == wanted };
    match (key, &is[..], &wanted[..]) {
        // 1: those of one group may use it; whether that is us the check of io_uring has seen.
        ("kernel.io_uring_disabled", [is], _) => *is < 2,
        (_, [low, high], [least, most]) => low <= least && high >= most,
        (_, [is], [wanted]) => is >= wanted,
        _ => is == wanted,
    }
}

fn overcommit(is: Option<&str>) -> Finding {
    let why = "2 refuses address space that is never used";
    match is {
        None => Finding::unknown("vm.overcommit_memory", "not told", why),
        Some(is) => {
            let change = "sysctl -w vm.overcommit_memory=0";
            Finding::ok("vm.overcommit_memory", is, why).unless(is != "2", change)
        }
    }
}

/// `cpu.max` of the control group: quota and period in microseconds, or `max`.
fn quota(is: Option<&str>) -> Finding {
    let why = "a thread that has used its share stands still until the next period, with all its sessions";
    let mut parts = is.unwrap_or("max").split_whitespace().map(str::parse::<f64>);
    match (parts.next(), parts.next()) {
        (Some(Ok(quota)), Some(Ok(period))) if period > 0.0 => {
            let finding = Finding::ok("cpu quota", format!("{:.1} CPUs", quota / period), why);
            finding.change("give whole CPUs (cpuset, CPUAffinity=) instead of a quota")
        }
        _ => Finding::ok("cpu quota", "none", why),
    }
}

fn governor(is: Option<&str>) -> Option<Finding> {
    let is = is?;
    let why = "with little load each wake-up waits for the CPU to speed up";
    let change = "cpupower frequency-set -g performance";
    Some(Finding::ok("cpu governor", is, why).unless(is == "performance", change))
}

fn clock() -> Finding {
    let why = "retries, expiry, certificates and the dates in mail go by it";
    match host::clock_is_synchronised() {
        Ok(good) => {
            let is = if good { "kept right by somebody" } else { "nobody keeps it right" };
            Finding::ok("clock", is, why).unless(good, "run chrony or systemd-timesyncd")
        }
        Err(e) => Finding::unknown("clock", format!("not told: {e}"), why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn sysctls_are_compared_with_the_file() {
        let values = |key: &str| {
            let value = match key {
                "kernel.io_uring_disabled" => return None,
                "net.core.somaxconn" => "4096",
                "net.ipv4.tcp_max_syn_backlog" => "512",
                "net.ipv4.ip_local_port_range" => "1024\t65535",
                other => panic!("{other} is new: judge it"),
            };
            Some(value.to_owned())
        };
        let found = sysctls(SYSCTLS, values);
        let verdicts: Vec<Verdict> = found.iter().map(|f| f.verdict).collect();
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Ok, Verdict::Change, Verdict::Ok], "{found:?}");
        assert!(found[2].change.starts_with("sysctl -w net.ipv4.tcp_max_syn_backlog=\"8192\""), "{found:?}");
        assert!(sysctls(SYSCTLS, |_| None).iter().skip(1).all(|f| f.verdict == Verdict::Unknown));
    }

    #[test]
    fn values_suffice_or_not() {
        let range = |is| suffices("net.ipv4.ip_local_port_range", is, "10240 65535");
        assert!(
            range("10240 65535") && range("1024 65535") && !range("32768 60999") && !range("10240 60999")
        );
        let ring = |is| suffices("kernel.io_uring_disabled", is, "0");
        assert!(ring("0") && ring("1") && !ring("2"));
        assert!(suffices("a.b", "text", "text") && !suffices("a.b", "text", "other"));
    }

    #[test]
    fn quota_governor_and_overcommit() {
        assert_eq!(quota(Some("max 100000")).verdict, Verdict::Ok);
        assert_eq!(quota(None).verdict, Verdict::Ok);
        let half = quota(Some("150000 100000"));
        assert_eq!((half.verdict, &*half.is), (Verdict::Change, "1.5 CPUs"));
        assert_eq!(governor(None), None);
        assert_eq!(governor(Some("powersave")).unwrap().verdict, Verdict::Change);
        assert_eq!(governor(Some("performance")).unwrap().verdict, Verdict::Ok);
        let of = |is| overcommit(is).verdict;
        assert_eq!(
            (of(Some("0")), of(Some("2")), of(None)),
            (Verdict::Ok, Verdict::Change, Verdict::Unknown)
        );
    }

    #[test]
    fn this_host_is_looked_at() {
        let all = checks();
        let names: Vec<_> = all.iter().map(|f| f.check).collect();
        for name in ["kernel", "io_uring", "memlock", "nofile", "clock", "net.core.somaxconn"] {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
    }
}

//! What the control thread knows of the cores: how they are, when they last went round, what CPU time their
//! threads have had and waited for.
//!
//! Numbers in, text out. Costs the cores nothing but one number now and then. What is not known is left out.

use std::fmt::Write;
use std::time::Duration;

/// States of a core, as they are called in the series.
pub const STATES: [&str; 6] = ["starting", "ready", "full", "poisoned", "stopping", "ended"];

/// One core.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its number among all cores.
    pub number: usize,
    /// `mta` or `access`.
    pub role: &'static str,
    /// Name of its thread.
    pub thread: String,
    /// Where its state stands in [`STATES`].
    pub state: usize,
    /// How long ago it last went round; none: it has not yet, or has ended.
    pub beat_age: Option<Duration>,
}

/// One thread, as the kernel accounts for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// Time on a CPU.
    pub ran: Duration,
    /// Time it could have run and others did.
    pub waited: Duration,
}

impl Thread {
    /// Of `/proc/self/task/N/comm` and `/proc/self/task/N/schedstat` (nanoseconds on a CPU, nanoseconds
    /// waiting for one, turns).
    #[must_use]
    pub fn parse(comm: &str, schedstat: &str) -> Option<Self> {
        let mut numbers = schedstat.split_whitespace().map(|n| n.parse::<u64>());
        let mut time = || Some(Duration::from_nanos(numbers.next()?.ok()?));
        Some(Thread { name: comm.trim_end().to_owned(), ran: time()?, waited: time()? })
    }
}

/// Appends the lines of the series `name`, if it is one of these.
pub(super) fn render(name: &str, cores: &[Facts], threads: &[Thread], out: &mut String) {
    for core in cores {
        let labels = format!("core=\"{}\",role=\"{}\"", core.number, core.role);
        let thread = threads.iter().find(|t| t.name == core.thread);
        let value = match name {
            "ringpost_core_state" => {
                for (n, state) in STATES.iter().enumerate() {
                    let is = u8::from(n == core.state);
                    // Writing to a String cannot fail.
                    let _ = writeln!(out, "{name}{{{labels},state=\"{state}\"}} {is}");
                }
                None
            }
            "ringpost_core_beat_age_seconds" => Some(core.beat_age.unwrap_or_default()),
            "ringpost_core_cpu_seconds_total" => thread.map(|t| t.ran),
            "ringpost_core_wait_seconds_total" => thread.map(|t| t.waited),
            _ => None,
        };
        if let Some(value) = value {
            let _ = writeln!(out, "{name}{{{labels}}} {}", value.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_read() {
        let thread = Thread::parse("mta-0\n", "1500000000 250000000 77\n").unwrap();
        assert_eq!((&*thread.name, thread.ran.as_millis(), thread.waited.as_millis()), ("mta-0", 1500, 250));
        assert_eq!(
            (Thread::parse("x", ""), Thread::parse("x", "1 -"), Thread::parse("x", "7")),
            (None, None, None)
        );
    }

    #[test]
    fn cores_are_shown_with_role_and_state() {
        let cores = [
            Facts {
                number: 0,
                role: "mta",
                thread: "mta-0".into(),
                state: 1,
                beat_age: Some(Duration::from_millis(1500)),
            },
            Facts { number: 1, role: "access", thread: "access-0".into(), state: 3, beat_age: None },
        ];
        let threads = [Thread::parse("mta-0", "2000000000 500000000 1").unwrap()];
        let shown = |name| {
            let mut text = String::new();
            render(name, &cores, &threads, &mut text);
            text
        };
        let cpu = shown("ringpost_core_cpu_seconds_total");
        assert_eq!(cpu, "ringpost_core_cpu_seconds_total{core=\"0\",role=\"mta\"} 2\n", "no thread, no line");
        let age = shown("ringpost_core_beat_age_seconds");
        assert!(
            age.contains("{core=\"0\",role=\"mta\"} 1.5\n")
                && age.contains("{core=\"1\",role=\"access\"} 0\n")
        );
        let state = shown("ringpost_core_state");
        assert_eq!(state.lines().count(), 12);
        assert_eq!(state.lines().filter(|l| l.ends_with(" 1")).count(), 2);
        assert!(state.contains("{core=\"1\",role=\"access\",state=\"poisoned\"} 1\n"), "{state}");
        assert!(shown("ringpost_core_wait_seconds_total").ends_with(" 0.5\n") && shown("another").is_empty());
    }
}

//! Runs histories by seed, in parallel, some of them twice, and says how to replay a bad one.
//!
//! `SIM_SEEDS` (200) from `SIM_FIRST` (0) on, or `SIM_SEED` alone with its trace. A panic fails
//! its seed. Knows nothing of what a history does.

use crate::world::World;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every so many seeds one runs twice: both traces must be equal.
const TWICE: u64 = 8;

/// What came of one seed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct History {
    /// Broken promises.
    pub violations: Vec<String>,
    /// Hash of the trace.
    pub trace: u64,
}

impl History {
    /// The history of a world that has ended.
    pub fn of(world: &World) -> Self {
        History { violations: world.violations(), trace: world.trace_hash() }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|_| panic!("{name}={v} is not a number")))
}

fn once(seed: u64, show: bool, history: impl Fn(&World) -> History) -> History {
    let world = World::new(seed, show);
    let ran = catch_unwind(AssertUnwindSafe(|| history(&world)));
    world.end();
    ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without a text");
        History { violations: vec![format!("panic: {text}")], trace: world.trace_hash() }
    })
}

/// The histories of `count` seeds from `first` on that broke a promise.
fn bad(first: u64, count: u64, history: impl Fn(&World) -> History + Sync) -> BTreeMap<u64, Vec<String>> {
    let next = AtomicU64::new(first);
    let found = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return;
            }
            let mut ran = once(seed, false, &history);
            if seed.is_multiple_of(TWICE) && once(seed, false, &history) != ran {
                ran.violations.push("two runs of this seed differ".to_owned());
            }
            if !ran.violations.is_empty() {
                found.lock().expect("no panic here").insert(seed, ran.violations);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|s| (0..threads).for_each(|_| drop(s.spawn(work))));
    found.into_inner().expect("no panic here")
}

/// Runs `history` for all seeds asked for; panics with the command that replays the first bad one.
pub fn run(test: &str, history: impl Fn(&World) -> History + Sync) {
    run_some(test, 200, history);
}

/// As [`run`], with another number of seeds if none is asked for.
pub fn run_some(test: &str, usual: u64, history: impl Fn(&World) -> History + Sync) {
    if let Some(seed) = number("SIM_SEED") {
        let ran = once(seed, true, &history);
        assert!(ran.violations.is_empty(), "seed {seed}: {:#?}", ran.violations);
        return;
    }
    run_from(test, number("SIM_FIRST").unwrap_or(0), number("SIM_SEEDS").unwrap_or(usual), history);
}

/// As [`run_some`], with a tenth of the seeds that are asked for: for histories of many sessions.
pub fn run_long(test: &str, usual: u64, history: impl Fn(&World) -> History + Sync) {
    match (number("SIM_SEED"), number("SIM_SEEDS")) {
        (None, Some(asked)) => {
            run_from(test, number("SIM_FIRST").unwrap_or(0), (asked / 10).max(usual), history)
        }
        _ => run_some(test, usual, history),
    }
}

/// As [`run`], but always so few seeds, or the one asked for: for named cases.
pub fn run_few(test: &str, count: u64, history: impl Fn(&World) -> History + Sync) {
    if number("SIM_SEED").is_some() {
        return run_some(test, count, history);
    }
    run_from(test, 0, count, history);
}

fn run_from(test: &str, first: u64, count: u64, history: impl Fn(&World) -> History + Sync) {
    let found = bad(first, count, history);
    if let Some((seed, violations)) = found.first_key_value() {
        panic!(
            "{} of {count} seeds broke a promise; the first:\n{violations:#?}\n\
             replay it: SIM_SEED={seed} cargo test --test sim {test} -- --nocapture",
            found.len()
        );
    }
}

/// How many of `count` seeds break a promise: for planted bugs, which must be caught.
pub fn caught(count: u64, history: impl Fn(&World) -> History + Sync) -> BTreeMap<u64, Vec<String>> {
    bad(0, count, history)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn bad_seeds_panics_and_unsteady_histories_are_caught() {
        thread_local!(static RUNS: Cell<u64> = const { Cell::new(0) });
        let found = caught(64, |world| {
            let runs = RUNS.replace(RUNS.get() + 1);
            let mut history = History::of(world);
            match world.below(1000) {
                n if n < 100 => panic!("on purpose"),
                n if n < 300 => history.violations.push("lost".to_owned()),
                _ => history.trace = runs,
            }
            history
        });
        let texts: Vec<&str> = found.values().flatten().map(String::as_str).collect();
        for expected in ["panic: on purpose", "lost", "two runs of this seed differ"] {
            assert!(texts.contains(&expected), "{expected}: {found:?}");
        }
    }
}

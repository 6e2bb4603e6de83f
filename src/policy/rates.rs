//! How often something happens for each key, on all cores together: connections of an address, mail of
//! a login.
//!
//! Owns a table of atomics without locks, whose size never changes whatever comes in. Each cell holds
//! the time at which what has happened so far would be used up at the permitted pace (GCRA, a leaky
//! bucket as one number), so a cell that is left alone becomes free by itself and nothing has to be
//! removed. Keys are hashed with a secret seed into two rows, and the freer of the two cells counts:
//! a key may be refused by collision (with a small chance, under attack), and is never allowed more
//! than its rate. Cores that ask at the same moment may each get one more.

use super::place;
use crate::base::time::Mono;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// So many times in such a time, per key. Cheap to clone; shared by all cores.
#[derive(Clone)]
pub struct Rates(Arc<Shared>);

struct Shared {
    seed: u64,
    /// Nanoseconds that one event uses up.
    step: u64,
    /// Nanoseconds that may be used up at once.
    window: u64,
    rows: [Box<[AtomicU64]>; 2],
}

impl Rates {
    /// At most `count` times in `per`, all of them at once if it must be; then one whenever its time
    /// has passed. `count` 0: no limit. `cells` for each of two rows (8 bytes each; a power of two);
    /// a secret `seed`.
    #[must_use]
    pub fn new(count: u32, per: Duration, cells: usize, seed: u64) -> Self {
        assert!(cells.is_power_of_two(), "cells are chosen by a mask");
        let window = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        let step = if count == 0 { 0 } else { (window / u64::from(count)).max(1) };
        let cells = if count == 0 { 1 } else { cells };
        let row = || (0..cells).map(|_| AtomicU64::new(0)).collect();
        Rates(Arc::new(Shared { seed, step, window, rows: [row(), row()] }))
    }

    /// Takes one for `key`, if it may have one now. What is refused is not counted.
    #[must_use]
    pub fn take(&self, key: u64, now: Mono) -> bool {
        self.take_many(key, 1, now)
    }

    /// Takes `n` for `key`, or none.
    #[must_use]
    pub fn take_many(&self, key: u64, n: u32, now: Mono) -> bool {
        let shared = &*self.0;
        if shared.step == 0 {
            return true;
        }
        let cost = shared.step.saturating_mul(u64::from(n));
        let cells = shared.cells(key);
        let used = cells.iter().map(|c| c.load(Ordering::Relaxed)).min().unwrap_or(0).max(now.0);
        if used.saturating_add(cost) > now.0.saturating_add(shared.window) {
            return false;
        }
        shared.charge(cells, cost, u64::MAX, now);
        true
    }

    /// Counts one for `key` that has happened whether it may or not; no more is held against it than
    /// one window uses up.
    pub fn note(&self, key: u64, now: Mono) {
        let shared = &*self.0;
        let most = now.0.saturating_add(shared.window);
        shared.charge(shared.cells(key), shared.step, most, now);
    }

    /// How much is used up for `key` now, in events, rounded up. 0 without a limit.
    #[must_use]
    pub fn level(&self, key: u64, now: Mono) -> u32 {
        let shared = &*self.0;
        if shared.step == 0 {
            return 0;
        }
        let until = shared.cells(key).iter().map(|c| c.load(Ordering::Relaxed)).min().unwrap_or(0);
        u32::try_from(until.saturating_sub(now.0).div_ceil(shared.step)).unwrap_or(u32::MAX)
    }
}

impl Shared {
    fn cells(&self, key: u64) -> [&AtomicU64; 2] {
        let [a, b] = place::cells(key, self.seed, self.rows[0].len());
        [&self.rows[0][a], &self.rows[1][b]]
    }

    fn charge(&self, cells: [&AtomicU64; 2], cost: u64, most: u64, now: Mono) {
        for cell in cells {
            let later = |until: u64| Some(until.max(now.0).saturating_add(cost).min(most.max(until)));
            // Always stores: the closure never declines.
            let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Mono {
        Mono(1_000_000_000_000).after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_burst_then_the_pace() {
        let r = Rates::new(6, MINUTE, 1024, 9);
        assert!((0..6).all(|_| r.take(1, at(0))) && !r.take(1, at(0)));
        assert_eq!((r.level(1, at(0)), r.level(2, at(0))), (6, 0));
        assert!(r.take(2, at(0)), "others do not suffer");
        assert!(!r.take(1, at(9)) && r.take(1, at(10)) && !r.take(1, at(10)));
        assert_eq!(r.level(1, at(10)), 6);
        // Refusals cost nothing: however often it has tried, the pace is the same.
        assert!((0..1000).all(|_| !r.take(1, at(19))) && r.take(1, at(20)));
        assert!((0..6).all(|_| r.take(1, at(500))) && !r.take(1, at(500)));
    }

    #[test]
    fn many_at_once_are_all_or_none() {
        let r = Rates::new(10, MINUTE, 64, 9);
        assert!(r.take_many(1, 7, at(0)) && !r.take_many(1, 4, at(0)) && r.take_many(1, 3, at(0)));
        assert!(!r.take_many(2, 11, at(0)));
    }

    #[test]
    fn what_is_noted_is_held_against_it_for_one_window() {
        let r = Rates::new(6, MINUTE, 64, 9);
        (0..4).for_each(|_| r.note(1, at(0)));
        assert_eq!((r.level(1, at(0)), r.level(1, at(15))), (4, 3));
        (0..100).for_each(|_| r.note(1, at(0)));
        assert_eq!((r.level(1, at(0)), r.level(1, at(59)), r.level(1, at(60))), (6, 1, 0));
        assert!(!r.take(1, at(9)) && r.take(1, at(10)));
    }

    #[test]
    fn no_limit() {
        let r = Rates::new(0, MINUTE, 64, 9);
        assert!((0..10_000).all(|_| r.take(1, at(0))));
        assert_eq!(r.level(1, at(0)), 0);
    }

    #[test]
    fn a_flood_of_keys_changes_neither_memory_nor_rates() {
        let r = Rates::new(300, MINUTE, 1 << 12, 5);
        for key in 0..500_000u64 {
            // Whatever is refused by collision: none gets more than its rate.
            let _ = r.take(key, at(key / 20_000));
        }
        let taken = (0..1000).filter(|_| r.take(7_777_777, at(30))).count();
        assert!(taken <= 300, "{taken}");
        assert!(r.take(7_777_778, at(300)), "cells become free by themselves");
    }

    #[test]
    fn threads_share_one_rate() {
        let r = Rates::new(1000, MINUTE, 1024, 5);
        let taken: usize = std::thread::scope(|scope| {
            let one = || {
                let r = r.clone();
                scope.spawn(move || (0..2000).filter(|_| r.take(3, at(0))).count())
            };
            let all: Vec<_> = (0..4).map(|_| one()).collect();
            all.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert!((1000..=1000 + 4).contains(&taken), "{taken}");
    }

    proptest! {
        /// In any time as long as the window no key gets more than twice its count (a burst and the
        /// pace), and never more than its count at once, whatever else happens.
        #[test]
        fn never_more_than_the_rate(
            events in prop::collection::vec((0u64..6, 0u64..8), 0..400),
        ) {
            let r = Rates::new(5, MINUTE, 4, 77);
            let (mut now, mut taken) = (0, BTreeMap::<u64, Vec<u64>>::new());
            for (key, wait) in events {
                now += wait;
                if r.take(key, at(now)) {
                    let all = taken.entry(key).or_default();
                    all.push(now);
                    let lately = all.iter().filter(|t| now - **t < 60).count();
                    let at_once = all.iter().filter(|t| **t == now).count();
                    prop_assert!(lately <= 10 && at_once <= 5);
                }
            }
        }
    }
}

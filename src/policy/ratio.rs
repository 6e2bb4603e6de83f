//! What share of something has failed lately, per key, on all cores together.
//!
//! Owns a fixed table of atomics without locks, like [`Rates`](super::rates::Rates): keys are hashed with a
//! secret seed into two rows, and the one that has seen less counts, so that by collision too little may be
//! held against a key, never the failures of another alone. A window is what has been since its time began,
//! and the part of the window before that it still overlaps.

use super::place;
use crate::base::time::Mono;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The counters. Cheap to clone; shared by all cores.
#[derive(Clone)]
pub struct Ratio(Arc<Shared>);

struct Shared {
    seed: u64,
    /// Nanoseconds.
    window: u64,
    /// Of each key this window and the one before, in turns: its number (16 bits), all, failures (24 bits
    /// each).
    rows: [Box<[[AtomicU64; 2]]>; 2],
}

/// How much there was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Of all.
    pub all: u64,
    /// Of failures.
    pub failed: u64,
}

const MOST: u64 = (1 << 24) - 1;

impl Ratio {
    /// Counts over `window` (at least a millisecond); `cells` for each of two rows (16 bytes each; a power
    /// of two); a secret `seed`.
    #[must_use]
    pub fn new(window: Duration, cells: usize, seed: u64) -> Self {
        let window = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX).max(1_000_000);
        let row = || (0..cells).map(|_| [AtomicU64::new(0), AtomicU64::new(0)]).collect();
        Ratio(Arc::new(Shared { seed, window, rows: [row(), row()] }))
    }

    /// Counts `all` more of `key`, of which `failed` have failed. What is known to have failed only later is
    /// counted with `all` 0.
    pub fn note(&self, key: u64, all: u32, failed: u32, now: Mono) {
        let number = now.0 / self.0.window;
        for cell in self.cells(key) {
            let add = |old: u64| {
                let c = unpack(old, number).unwrap_or_default();
                let (all, failed) = (c.all + u64::from(all), c.failed + u64::from(failed));
                Some((number & 0xffff) << 48 | all.min(MOST) << 24 | failed.min(MOST))
            };
            // Always stores: the closure never declines.
            let _ = cell[(number & 1) as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
    }

    /// What there was within the last window.
    #[must_use]
    pub fn counts(&self, key: u64, now: Mono) -> Counts {
        let (number, into) = (now.0 / self.0.window, now.0 % self.0.window);
        let left = |n: u64| (u128::from(n) * u128::from(self.0.window - into)).div_ceil(self.0.window.into());
        let of = |cell: &[AtomicU64; 2]| {
            let get = |n: u64| unpack(cell[(n & 1) as usize].load(Ordering::Relaxed), n).unwrap_or_default();
            let (this, last) = (get(number), get(number.wrapping_sub(1)));
            let sum = |this: u64, last: u64| this + u64::try_from(left(last)).unwrap_or(MOST);
            Counts { all: sum(this.all, last.all), failed: sum(this.failed, last.failed) }
        };
        let [a, b] = self.cells(key).map(of);
        if a.all <= b.all { a } else { b }
    }

    fn cells(&self, key: u64) -> [&[AtomicU64; 2]; 2] {
        let [a, b] = place::cells(key, self.0.seed, self.0.rows[0].len());
        [&self.0.rows[0][a], &self.0.rows[1][b]]
    }
}

/// What was counted in the window of this number; `None`: it was another window.
fn unpack(cell: u64, number: u64) -> Option<Counts> {
    (cell >> 48 == number & 0xffff).then_some(Counts { all: cell >> 24 & MOST, failed: cell & MOST })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> Mono {
        Mono(1_000 * 3600 * 1_000_000_000).after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_window_slides() {
        let r = Ratio::new(HOUR, 64, 7);
        assert_eq!(r.counts(1, at(0)), Counts::default());
        r.note(1, 30, 10, at(0));
        r.note(1, 10, 10, at(1800));
        assert_eq!(r.counts(1, at(3599)), Counts { all: 40, failed: 20 });
        // In the middle of the next window half of it is left.
        assert_eq!(r.counts(1, at(5400)), Counts { all: 20, failed: 10 });
        r.note(1, 1, 0, at(5400));
        assert_eq!(r.counts(1, at(5400)), Counts { all: 21, failed: 10 });
        assert_eq!(r.counts(1, at(7200)), Counts { all: 1, failed: 0 });
        assert_eq!(r.counts(1, at(20_000)), Counts::default());
        assert_eq!(r.counts(2, at(5400)), Counts::default(), "others do not suffer");
    }

    #[test]
    fn what_fails_later_counts_and_nothing_overflows() {
        let r = Ratio::new(HOUR, 64, 7);
        r.note(1, 5, 0, at(0));
        r.note(1, 0, 4, at(1));
        assert_eq!(r.counts(1, at(2)), Counts { all: 5, failed: 4 });
        (0..100).for_each(|_| r.note(1, u32::MAX, u32::MAX, at(3)));
        assert_eq!(r.counts(1, at(3)), Counts { all: MOST, failed: MOST });
    }

    #[test]
    fn the_busier_of_two_cells_does_not_count() {
        // With one cell in a row all collide: whoever shares both shares everything, and memory stays.
        let r = Ratio::new(HOUR, 1, 7);
        (0..1000).for_each(|key| r.note(key, 1, 1, at(0)));
        assert_eq!(r.counts(5000, at(0)).all, 1000);
        let r = Ratio::new(HOUR, 1024, 7);
        (0..50).for_each(|key| r.note(key, 100, 100, at(0)));
        let clean = (1000..2000).filter(|key| r.counts(*key, at(0)).all == 0).count();
        assert!(clean > 980, "{clean}");
    }
}

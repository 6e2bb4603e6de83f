//! How much mail of each login waits, on all cores together.
//!
//! A fixed table of atomics without locks; a count may be too high by collision, never too low. Whoever has
//! counted something takes it back with the same key.

use super::place;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The counters. Cheap to clone; shared by all cores.
#[derive(Clone)]
pub struct Waiting(Arc<Shared>);

struct Shared {
    seed: u64,
    rows: [Box<[AtomicU32]>; 2],
}

impl Waiting {
    /// `cells` for each of two rows (a power of two); a secret `seed`.
    #[must_use]
    pub fn new(cells: usize, seed: u64) -> Self {
        let row = || (0..cells).map(|_| AtomicU32::new(0)).collect();
        Waiting(Arc::new(Shared { seed, rows: [row(), row()] }))
    }

    /// How many of `key` wait.
    #[must_use]
    pub fn level(&self, key: u64) -> u32 {
        let [a, b] = self.cells(key).map(|cell| cell.load(Ordering::Relaxed));
        a.min(b)
    }

    /// One more.
    pub fn add(&self, key: u64) {
        for cell in self.cells(key) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One less.
    pub fn take_back(&self, key: u64) {
        for cell in self.cells(key) {
            let before = cell.fetch_sub(1, Ordering::Relaxed);
            assert!(before > 0, "a message that waits was taken back twice");
        }
    }

    fn cells(&self, key: u64) -> [&AtomicU32; 2] {
        let [a, b] = place::cells(key, self.0.seed, self.0.rows[0].len());
        [&self.0.rows[0][a], &self.0.rows[1][b]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_and_go() {
        let w = Waiting::new(1024, 3);
        (0..5).for_each(|_| w.add(1));
        w.add(2);
        assert_eq!((w.level(1), w.level(2), w.level(3)), (5, 1, 0));
        (0..5).for_each(|_| w.take_back(1));
        assert_eq!((w.level(1), w.level(2)), (0, 1));
    }
}

//! How many sessions each user has open, or guesses each client has under way, on all cores together.
//!
//! Owns the counters: a fixed table of atomics without locks, 512 KiB, whatever comes in. Users are
//! hashed with a secret seed into two rows and count as the lesser of their two counters: a count may
//! be too high by collision, never too low. Permits are given back on drop, on any thread.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const CELLS: usize = 1 << 16;

/// Counters shared by all cores. Cheap to clone.
#[derive(Clone)]
pub struct UserSessions(Arc<Shared>);

struct Shared {
    seed: u64,
    most: u32,
    rows: [Box<[AtomicU32]>; 2],
}

/// The right to one session of a user, or to one guess; dropping it gives it back.
pub struct UserPermit {
    shared: Arc<Shared>,
    cells: [usize; 2],
}

impl UserSessions {
    /// Counters with this limit (0: none) and a secret `seed`.
    #[must_use]
    pub fn new(most: u32, seed: u64) -> Self {
        let row = || (0..CELLS).map(|_| AtomicU32::new(0)).collect();
        UserSessions(Arc::new(Shared { seed, most, rows: [row(), row()] }))
    }

    /// Takes a permit for one more of `who`; `None`: it has too many.
    #[must_use]
    pub fn enter<W: Hash + ?Sized>(&self, who: &W) -> Option<UserPermit> {
        let mut hasher = DefaultHasher::new();
        self.0.seed.hash(&mut hasher);
        who.hash(&mut hasher);
        let h = hasher.finish();
        let cells = [h as usize % CELLS, (h >> 32) as usize % CELLS];
        let count = |row: usize| self.0.rows[row][cells[row]].fetch_add(1, Ordering::Relaxed);
        let others = count(0).min(count(1));
        // From here on the permit gives back what was taken.
        let permit = UserPermit { shared: self.0.clone(), cells };
        (self.0.most == 0 || others < self.0.most).then_some(permit)
    }
}

impl Drop for UserPermit {
    fn drop(&mut self) {
        for (row, cell) in self.shared.rows.iter().zip(self.cells) {
            let before = row[cell].fetch_sub(1, Ordering::Relaxed);
            assert!(before > 0, "a permit of a user was given back twice");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_come_back() {
        let sessions = UserSessions::new(2, 7);
        let a = sessions.enter("a");
        let _b = sessions.enter("a").unwrap();
        assert!(a.is_some() && sessions.enter("a").is_none() && sessions.enter("b").is_some());
        drop(a);
        assert!(sessions.enter("a").is_some());
        let free = UserSessions::new(0, 7);
        let all: Vec<_> = (0..100).map(|_| free.enter("a")).collect();
        assert!(all.iter().all(Option::is_some));
    }
}

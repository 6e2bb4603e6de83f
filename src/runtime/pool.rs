//! Buffers of one core, used again.
//!
//! Three sizes: small for commands, large for message data, huge for long bodies. A session takes one
//! when there are bytes to receive and gives it back when it waits without any, so that an idle session
//! holds none. The one given back last is taken first: it is still in the processor's cache.
//! Bounded: what is given back beyond the bound is freed.

use std::cell::RefCell;

/// Capacity of a small buffer in bytes: more than a command line may have. Not 4 KiB, which the TLS
/// library keeps for each idle session: the allocator puts blocks of one size side by side, and pages with
/// one of those among them would not come back when the buffers of a burst are freed.
pub const SMALL: usize = 5 << 10;
/// Capacity of a large buffer in bytes: a message of 4 KiB with its envelope in one receive, and
/// longer ones in few.
pub const LARGE: usize = 32 << 10;

/// Capacity of a huge buffer in bytes: what a socket holds, and a message of 100 KiB.
pub const HUGE: usize = 128 << 10;

/// Most bytes of a buffer that is kept.
const MOST: usize = 2 * HUGE;
/// Most free huge buffers.
const HUGE_MOST: usize = 32;

/// The free buffers.
#[derive(Debug)]
pub struct Pool {
    small: RefCell<Vec<Vec<u8>>>,
    large: RefCell<Vec<Vec<u8>>>,
    huge: RefCell<Vec<Vec<u8>>>,
    /// Most free buffers of each size; of the huge ones 32.
    most: usize,
}

impl Pool {
    /// A pool that keeps at most `most` free buffers of each size, and at most 32 huge ones.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Pool { small: RefCell::default(), large: RefCell::default(), huge: RefCell::default(), most }
    }

    /// An empty buffer of [`SMALL`] bytes.
    #[must_use]
    pub fn small(&self) -> Vec<u8> {
        self.small.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(SMALL))
    }

    /// An empty buffer of [`LARGE`] bytes.
    #[must_use]
    pub fn large(&self) -> Vec<u8> {
        self.large.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(LARGE))
    }

    /// An empty buffer of at least [`HUGE`] bytes.
    #[must_use]
    pub fn huge(&self) -> Vec<u8> {
        self.huge.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(HUGE))
    }

    /// Takes a buffer back. One of no size of ours (smaller, or grown above 256 KiB) is freed.
    pub fn give(&self, mut buf: Vec<u8>) {
        buf.clear();
        let (place, most) = match buf.capacity() {
            SMALL..LARGE => (&self.small, self.most),
            LARGE..HUGE => (&self.large, self.most),
            HUGE..=MOST => (&self.huge, self.most.min(HUGE_MOST)),
            _ => return,
        };
        let mut place = place.borrow_mut();
        if place.len() < most {
            place.push(buf);
        }
    }

    /// Bytes of memory that lie free here.
    #[must_use]
    pub fn idle_bytes(&self) -> usize {
        let sum = |place: &RefCell<Vec<Vec<u8>>>| place.borrow().iter().map(Vec::capacity).sum::<usize>();
        sum(&self.small) + sum(&self.large) + sum(&self.huge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_empty_and_bounded() {
        let pool = Pool::new(2);
        let mut taken: Vec<_> = (0..4).map(|_| pool.large()).collect();
        taken[3].extend_from_slice(b"used");
        let address = taken[3].as_ptr();
        while let Some(buf) = taken.pop() {
            pool.give(buf);
        }
        assert_eq!(pool.idle_bytes(), 2 * LARGE, "the rest was freed");
        pool.give(pool.small());
        assert_eq!(pool.idle_bytes(), 2 * LARGE + SMALL);
        pool.give(Vec::new());
        pool.give(Vec::with_capacity(3 * HUGE));
        let huge: Vec<_> = (0..3).map(|_| pool.huge()).collect();
        huge.into_iter().for_each(|b| pool.give(b));
        assert_eq!(pool.idle_bytes(), 2 * LARGE + SMALL + 2 * HUGE);
        let again = [pool.large(), pool.large()];
        assert!(again.iter().all(|b| b.is_empty() && b.capacity() == LARGE));
        assert!(again.iter().any(|b| b.as_ptr() == address));
    }
}

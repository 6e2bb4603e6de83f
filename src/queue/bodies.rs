//! L2: the memory budget of bodies that wait for their first attempt.
//!
//! Bodies are slices of committed batches; a batch stays in memory until its last slice has gone.
//! So memory is counted per batch. Owns the counts, not the bytes: the index holds the slices and
//! drops those that [`Bodies::evict`] names. Cannot fail.

use crate::base::aligned::SharedBytes;
use crate::queue::index::Key;
use std::collections::VecDeque;

#[derive(Debug, Default)]
struct Batch {
    /// Recognises slices of the same buffer; gone once the batch is closed to newcomers.
    sample: Option<SharedBytes>,
    bytes: usize,
    /// Members that still hold a slice.
    live: u32,
    members: Vec<Key>,
}

/// The most batches that are followed, however small they are.
const BATCHES_MAX: usize = 4096;

/// Which batches are kept alive by resident bodies, oldest first.
#[derive(Debug, Default)]
pub struct Bodies {
    budget: usize,
    bytes: usize,
    /// Number of the first batch in `batches`.
    first: BatchNumber,
    batches: VecDeque<Batch>,
    /// Emptied lists for reuse.
    spare: Vec<Vec<Key>>,
}

/// Names the batch of a resident body, for [`Bodies::release`].
/// Wraps: far fewer batches are followed at a time.
pub type BatchNumber = u32;

impl Bodies {
    /// Keeps at most `budget` bytes of batches, but always the newest one.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Bodies { budget, ..Bodies::default() }
    }

    /// Bytes kept alive.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts `payload` as resident for `key`.
    pub fn add(&mut self, key: Key, payload: &SharedBytes) -> BatchNumber {
        let same = |b: &Batch| b.sample.as_ref().is_some_and(|s| s.same_buffer(payload));
        if !self.batches.back().is_some_and(same) {
            self.close_newest();
            self.bytes += payload.held();
            let members = self.spare.pop().unwrap_or_default();
            let sample = Some(payload.clone());
            self.batches.push_back(Batch { sample, bytes: payload.held(), live: 0, members });
        }
        let newest = self.batches.back_mut().expect("there is one");
        newest.live += 1;
        newest.members.push(key);
        self.first.wrapping_add(self.batches.len() as BatchNumber - 1)
    }

    /// A body of batch `number` has been dropped. Call it exactly once for each [`Self::add`].
    pub fn release(&mut self, number: BatchNumber) {
        let at = number.wrapping_sub(self.first);
        let Some(batch) = self.batches.get_mut(at as usize) else { return };
        batch.live = batch.live.saturating_sub(1);
        self.settle(at as usize);
    }

    /// While over budget: the members of the oldest batch, for the caller to drop those bodies
    /// that are still there (and not to release them). Give the list back with [`Self::recycle`].
    pub fn evict(&mut self) -> Option<Vec<Key>> {
        let over = self.bytes > self.budget || self.batches.len() > BATCHES_MAX;
        if !over || self.batches.len() <= 1 {
            return None;
        }
        let oldest = self.batches.pop_front()?;
        self.first = self.first.wrapping_add(1);
        self.bytes -= oldest.bytes;
        Some(oldest.members)
    }

    /// Takes an evicted list back for reuse.
    pub fn recycle(&mut self, mut list: Vec<Key>) {
        list.clear();
        if self.spare.len() < 16 {
            self.spare.push(list);
        }
    }

    fn close_newest(&mut self) {
        if let Some(newest) = self.batches.back_mut() {
            newest.sample = None;
            let at = self.batches.len() - 1;
            self.settle(at);
        }
    }

    /// Takes out what nobody needs: counts of a dead batch, and dead batches at the front.
    fn settle(&mut self, at: usize) {
        let batch = &mut self.batches[at];
        if batch.live == 0 && batch.sample.is_none() {
            self.bytes -= std::mem::take(&mut batch.bytes);
            let members = std::mem::take(&mut batch.members);
            self.recycle(members);
        }
        while self.batches.front().is_some_and(|f| f.live == 0 && f.sample.is_none()) {
            self.batches.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::MessageId;
    use crate::message::body::BodyFlags;
    use crate::queue::index::{Entry, Index};

    fn keys(n: u64) -> Vec<Key> {
        let mut index = Index::default();
        (1..=n).map(|i| index.insert(Entry::new(MessageId(i), 1, BodyFlags(0)))).collect()
    }

    #[test]
    fn memory_is_counted_by_batch_and_the_oldest_goes_first() {
        let k = keys(6);
        let (a, b, c) = (
            SharedBytes::copy_of(&[1; 4096]),
            SharedBytes::copy_of(&[2; 4096]),
            SharedBytes::copy_of(&[3; 4096]),
        );
        let mut bodies = Bodies::new(8192);
        let first = bodies.add(k[0], &a.part(0..10));
        bodies.add(k[1], &a.part(10..20));
        assert_eq!(bodies.bytes(), 4096);
        bodies.add(k[2], &b);
        assert_eq!(bodies.evict(), None);
        let third = bodies.add(k[3], &c);
        assert_eq!(bodies.bytes(), 3 * 4096);
        bodies.release(first);
        assert_eq!((bodies.evict(), bodies.evict()), (Some(vec![k[0], k[1]]), None));
        assert_eq!(bodies.bytes(), 8192);
        bodies.release(third);
        assert_eq!(bodies.bytes(), 8192, "the newest batch may get more members");
        bodies.add(k[4], &SharedBytes::copy_of(b"x"));
        assert_eq!(bodies.bytes(), 8192);
    }

    #[test]
    fn a_dead_batch_in_the_middle_costs_nothing() {
        let k = keys(3);
        let mut bodies = Bodies::new(1 << 20);
        let numbers: Vec<_> = k.iter().map(|&k| bodies.add(k, &SharedBytes::copy_of(b"m"))).collect();
        bodies.release(numbers[1]);
        assert_eq!(bodies.bytes(), 8192);
        bodies.release(numbers[0]);
        assert_eq!(bodies.bytes(), 4096);
        bodies.release(numbers[2]);
        bodies.add(k[0], &SharedBytes::copy_of(b"n"));
        assert_eq!((bodies.bytes(), bodies.batches.len()), (4096, 1));
    }
}

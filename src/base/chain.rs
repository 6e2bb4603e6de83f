//! A double-ended queue of any length that never stalls: chunks of a fixed number of items.
//!
//! A plain one of 80 MB is copied as a whole when it doubles, and keeps that memory for ever. Items
//! are numbered: an item keeps its number while others come and go at either end, so that somebody
//! can go through a long chain in many small steps. Small chains are as small as a plain queue.
//! Owns the items, knows nothing of them. Cannot fail.

use std::collections::VecDeque;
use std::ops::Range;

/// See the module; at most `N` items a chunk.
#[derive(Debug)]
pub struct Chain<T, const N: usize> {
    first: VecDeque<T>,
    /// The chunks behind it; all but the last have exactly `N` items.
    more: VecDeque<VecDeque<T>>,
    /// Number of the first item.
    number: u64,
}

impl<T, const N: usize> Default for Chain<T, N> {
    fn default() -> Self {
        // In the middle, so that there is room at both ends.
        Chain { first: VecDeque::new(), more: VecDeque::new(), number: 1 << 63 }
    }
}

impl<T, const N: usize> Chain<T, N> {
    /// Number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.first.len() + self.more.back().map_or(0, |last| (self.more.len() - 1) * N + last.len())
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// The first item.
    #[must_use]
    pub fn front(&self) -> Option<&T> {
        self.first.front()
    }

    /// Adds an item at the end.
    pub fn push_back(&mut self, item: T) {
        let last = self.more.back_mut().unwrap_or(&mut self.first);
        if last.len() < N {
            return last.push_back(item);
        }
        let mut chunk = VecDeque::with_capacity(N);
        chunk.push_back(item);
        self.more.push_back(chunk);
    }

    /// Adds an item before the first.
    pub fn push_front(&mut self, item: T) {
        if self.first.len() >= N {
            self.more.push_front(std::mem::take(&mut self.first));
        }
        self.first.push_front(item);
        self.number -= 1;
    }

    /// Takes the first item.
    pub fn pop_front(&mut self) -> Option<T> {
        let item = self.first.pop_front()?;
        self.number += 1;
        if self.first.is_empty()
            && let Some(next) = self.more.pop_front()
        {
            self.first = next;
        }
        Some(item)
    }

    /// Numbers of the items that are there.
    #[must_use]
    pub fn numbers(&self) -> Range<u64> {
        self.number..self.number + self.len() as u64
    }

    /// The item with this number, if it is there.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<&T> {
        let at = usize::try_from(number.checked_sub(self.number)?).ok()?;
        match at.checked_sub(self.first.len()) {
            None => self.first.get(at),
            Some(behind) => self.more.get(behind / N)?.get(behind % N),
        }
    }

    /// Gives memory back if there are no items.
    pub fn trim(&mut self) {
        if self.is_empty() {
            self.first = VecDeque::new();
            self.more = VecDeque::new();
        }
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let items: usize = self.more.iter().map(VecDeque::capacity).sum::<usize>() + self.first.capacity();
        items * size_of::<T>() + self.more.capacity() * size_of::<VecDeque<T>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_plain_queue(steps in proptest::collection::vec((0u8..10, 1usize..20), 0..60)) {
            let mut chain: Chain<u32, 8> = Chain::default();
            let mut model: VecDeque<(u64, u32)> = VecDeque::new();
            let mut serial = 0;
            let (mut low, mut high) = (1u64 << 63, 1u64 << 63);
            for (what, times) in steps {
                for _ in 0..times {
                    serial += 1;
                    match what {
                        0..4 => {
                            chain.push_back(serial);
                            model.push_back((high, serial));
                            high += 1;
                        }
                        4..6 => {
                            chain.push_front(serial);
                            low -= 1;
                            model.push_front((low, serial));
                        }
                        _ => {
                            prop_assert_eq!(chain.pop_front(), model.pop_front().map(|m| m.1));
                            low = (low + 1).min(high);
                        }
                    }
                    prop_assert_eq!(chain.len(), model.len());
                    prop_assert_eq!(chain.is_empty(), model.is_empty());
                    prop_assert_eq!(chain.front(), model.front().map(|m| &m.1));
                    prop_assert_eq!(chain.numbers(), low..high);
                }
                for number in low.saturating_sub(3)..high + 3 {
                    let there = model.iter().find(|m| m.0 == number).map(|m| &m.1);
                    prop_assert_eq!(chain.get(number), there);
                }
            }
        }
    }

    #[test]
    fn small_is_small_and_empty_is_nothing() {
        let mut chain: Chain<u64, 256> = Chain::default();
        assert_eq!(chain.heap_bytes(), 0);
        chain.push_back(1);
        assert!(chain.heap_bytes() <= 64, "{}", chain.heap_bytes());
        (0..100_000).for_each(|n| chain.push_back(n));
        assert!(chain.heap_bytes() < 850_000, "{}", chain.heap_bytes());
        while chain.pop_front().is_some() {}
        chain.trim();
        assert_eq!(chain.heap_bytes(), 0);
    }
}

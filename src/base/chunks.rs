//! A vector that grows without moving what it holds: chunks of a fixed number of places.
//!
//! For tables of millions of small things on a core that must not stall: a plain vector of 400 MB
//! is copied as a whole when it doubles. Places are numbered from 0 and stay where they are; it
//! never shrinks, so whoever owns the table keeps a list of its free places. Owns the values, knows
//! nothing of them. An index beyond the end is a bug and panics.

use std::ops::{Index, IndexMut};

/// See the module; `N` places a chunk, a power of two.
#[derive(Debug)]
pub struct Chunks<T, const N: usize> {
    /// All but the last have exactly `N` values.
    chunks: Vec<Vec<T>>,
}

impl<T, const N: usize> Default for Chunks<T, N> {
    fn default() -> Self {
        const { assert!(N.is_power_of_two()) };
        Chunks { chunks: Vec::new() }
    }
}

impl<T, const N: usize> Chunks<T, N> {
    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * N + last.len())
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Adds a value at the end.
    pub fn push(&mut self, value: T) {
        match self.chunks.last_mut() {
            Some(last) if last.len() < N => last.push(value),
            // The first chunk grows with its content: most tables stay small.
            None => self.chunks.push(vec![value]),
            Some(_) => {
                let mut chunk = Vec::with_capacity(N);
                chunk.push(value);
                self.chunks.push(chunk);
            }
        }
    }

    /// The value at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / N)?.get(index % N)
    }

    /// The value at `index`.
    #[must_use]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / N)?.get_mut(index % N)
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let places: usize = self.chunks.iter().map(Vec::capacity).sum();
        places * size_of::<T>() + self.chunks.capacity() * size_of::<Vec<T>>()
    }
}

impl<T, const N: usize> Index<usize> for Chunks<T, N> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.chunks[index / N][index % N]
    }
}

impl<T, const N: usize> IndexMut<usize> for Chunks<T, N> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index / N][index % N]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_where_they_are() {
        let mut c: Chunks<u64, 8> = Chunks::default();
        assert!(c.is_empty() && c.get(0).is_none());
        let mut places = Vec::new();
        for i in 0..100 {
            c.push(i);
            assert_eq!(c.len() as u64, i + 1);
            if i >= 8 {
                places.push((i as usize, &raw const c[i as usize]));
            }
        }
        assert!(places.iter().all(|&(i, p)| std::ptr::eq(p, &c[i])));
        c[17] = 1000;
        *c.get_mut(99).expect("there") = 2000;
        assert_eq!((c[17], c[99], c.get(100)), (1000, 2000, None));
        assert!(c.heap_bytes() >= 800 && c.heap_bytes() < 1400, "{}", c.heap_bytes());
    }
}

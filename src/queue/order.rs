//! L2: the ids of all messages of one core in ascending order, each with its slot in the index.
//!
//! Ids grow with time, so nearly every id is added at the end; at a start older ones come in between,
//! in ascending order too. Most are taken out near the beginning, but some stay for days. So: sorted
//! chunks under a small directory. Nothing is ever copied as a whole, a removal leaves a mark, and no
//! chunk but the first and the last consists of marks by more than half. Knows no message. Cannot
//! fail; an id that is there twice, or not at all when it is taken out, is a bug and panics.

use std::collections::VecDeque;

/// Places of a chunk.
const CHUNK: usize = 512;
/// Chunks smaller than that are not worth cleaning.
const SMALL: usize = 32;
/// Two neighbours become one if they have at most so many places then.
const MERGED: usize = CHUNK / 4 * 3;
/// In the place of a slot: this id has gone.
const GONE: u32 = u32::MAX;

/// An id and its slot, without a gap behind them.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed(4))]
struct Place(u64, u32);

const _: () = assert!(size_of::<Place>() == 12);

#[derive(Debug)]
struct Chunk {
    /// No id in it is smaller; all in the chunk before are.
    first: u64,
    /// Places before this one are void; this one is in use.
    start: u32,
    /// Places in use, at least one.
    live: u32,
    /// Ids ascend from `start` on.
    places: Vec<Place>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Order {
    /// Their ids ascend from chunk to chunk.
    chunks: VecDeque<Chunk>,
    /// Memory of the last chunk that went.
    spare: Vec<Place>,
    /// The chunk into which an id came last, or another one: a run of older ids is looked for there.
    near: usize,
}

impl Order {
    /// Adds `id`.
    pub fn insert(&mut self, id: u64, slot: u32) {
        let i = match self.chunk_of(id) {
            Some(i) => i,
            None if self.chunks.is_empty() => return self.add_chunk(0, id, slot),
            None => 0,
        };
        self.near = i;
        let c = &mut self.chunks[i];
        c.first = c.first.min(id);
        let at = match c.find(id) {
            Err(at) => at,
            Ok(at) => {
                assert!(c.places[at].1 == GONE, "id {id} twice");
                c.places[at].1 = slot;
                c.live += 1;
                return;
            }
        };
        if at == c.start as usize && at > 0 {
            c.start -= 1;
            c.places[at - 1] = Place(id, slot);
            c.live += 1;
        } else if c.places.len() < CHUNK {
            c.places.insert(at, Place(id, slot));
            c.live += 1;
        } else if at == CHUNK {
            self.near = i + 1;
            self.add_chunk(i + 1, id, slot);
        } else {
            self.split(i, at, Place(id, slot));
        }
    }

    /// Takes `id` out.
    pub fn remove(&mut self, id: u64) {
        let (i, at) = self.place_of(id).expect("what is taken out is there");
        let c = &mut self.chunks[i];
        c.places[at].1 = GONE;
        c.live -= 1;
        if c.live == 0 {
            self.drop_chunk(i);
            return;
        }
        c.find_start();
        self.tidy(i);
    }

    /// The slot of `id`.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<u32> {
        let (i, at) = self.place_of(id)?;
        Some(self.chunks[i].places[at].1)
    }

    /// The smallest id.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.chunks.front().map(|c| c.places[c.start as usize].0)
    }

    /// Ids above `id` with their slots, ascending.
    pub fn after(&self, id: u64) -> impl Iterator<Item = (u64, u32)> + use<'_> {
        let from = self.chunk_of(id).unwrap_or(0);
        let places = self.chunks.range(from..).flat_map(|c| &c.places[c.start as usize..]);
        places.filter(move |p| p.0 > id && p.1 != GONE).map(|p| (p.0, p.1))
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let places: usize = self.chunks.iter().map(|c| c.places.capacity()).sum();
        (places + self.spare.capacity()) * size_of::<Place>() + self.chunks.capacity() * size_of::<Chunk>()
    }

    /// The chunk that has `id` if any has.
    fn chunk_of(&self, id: u64) -> Option<usize> {
        let last = self.chunks.len().checked_sub(1)?;
        if self.chunks[last].first <= id {
            return Some(last);
        }
        if let Some(pair) = self.chunks.get(self.near).zip(self.chunks.get(self.near + 1))
            && (pair.0.first..pair.1.first).contains(&id)
        {
            return Some(self.near);
        }
        self.chunks.partition_point(|c| c.first <= id).checked_sub(1)
    }

    fn place_of(&self, id: u64) -> Option<(usize, usize)> {
        let i = self.chunk_of(id)?;
        let c = &self.chunks[i];
        let at = c.find(id).ok()?;
        (c.places[at].1 != GONE).then_some((i, at))
    }

    fn add_chunk(&mut self, i: usize, id: u64, slot: u32) {
        let mut places = std::mem::take(&mut self.spare);
        if !self.chunks.is_empty() {
            places.reserve_exact(CHUNK);
        }
        places.push(Place(id, slot));
        self.put_chunk(i, Chunk { first: id, start: 0, live: 1, places });
    }

    fn put_chunk(&mut self, i: usize, chunk: Chunk) {
        self.chunks.insert(i, chunk);
        // What was the first or the last chunk is an inner one now, and parts of one that was split
        // may have more marks than the whole had.
        (i.saturating_sub(1)..=i + 1).rev().for_each(|i| self.tidy(i));
    }

    fn drop_chunk(&mut self, i: usize) {
        let mut places = self.chunks.remove(i).expect("there").places;
        if places.capacity() > self.spare.capacity() {
            places.clear();
            self.spare = places;
        }
    }

    /// Puts a place into the full chunk `i` before `at`; what stood from there on becomes a chunk of
    /// its own, so that an ascending run of ids is added at the end of a chunk from now on.
    fn split(&mut self, i: usize, at: usize, place: Place) {
        let c = &mut self.chunks[i];
        let places = c.places.split_off(at);
        let moved = places.iter().filter(|p| p.1 != GONE).count() as u32;
        c.places.push(place);
        c.live = c.live - moved + 1;
        if moved > 0 {
            let mut behind = Chunk { first: places[0].0, start: 0, live: moved, places };
            behind.find_start();
            self.put_chunk(i + 1, behind);
        }
    }

    /// If more than half of chunk `i` are marks, takes them out, and joins it to its neighbours if it
    /// is small then. The first chunk is being used up and the last one filled: not those.
    fn tidy(&mut self, i: usize) {
        let inner = i > 0 && i + 1 < self.chunks.len();
        let wasteful = |c: &Chunk| c.places.len() >= SMALL && c.live as usize * 2 < c.places.len();
        if inner && wasteful(&self.chunks[i]) {
            self.chunks[i].clean();
            self.join(i);
            self.join(i - 1);
        }
    }

    /// Makes one chunk of `i` and the next one, unless that is the last, if that is small enough.
    fn join(&mut self, i: usize) {
        let live = self.chunks[i].live + self.chunks[i + 1].live;
        if i + 2 >= self.chunks.len() || live as usize > MERGED {
            return;
        }
        let mut b = self.chunks.remove(i + 1).expect("just seen");
        b.clean();
        let a = &mut self.chunks[i];
        a.clean();
        a.places.extend_from_slice(&b.places);
        a.live += b.live;
    }
}

impl Chunk {
    fn find(&self, id: u64) -> Result<usize, usize> {
        if self.places.last().is_none_or(|last| last.0 < id) {
            return Err(self.places.len());
        }
        let start = self.start as usize;
        match self.places[start..].binary_search_by_key(&id, |p| p.0) {
            Ok(at) => Ok(start + at),
            Err(at) => Err(start + at),
        }
    }

    fn find_start(&mut self) {
        while self.places[self.start as usize].1 == GONE {
            self.start += 1;
        }
    }

    fn clean(&mut self) {
        let mut at = 0;
        let start = std::mem::take(&mut self.start);
        self.places.retain(|p| {
            at += 1;
            at > start && p.1 != GONE
        });
        self.places.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Checks what the comments promise.
    fn check(order: &Order) {
        let mut last = None;
        for (i, c) in order.chunks.iter().enumerate() {
            let start = c.start as usize;
            assert!(c.places[start].1 != GONE && c.places.len() <= CHUNK);
            assert_eq!(c.places[start..].iter().filter(|p| p.1 != GONE).count(), c.live as usize);
            assert!(c.places[start..].is_sorted_by(|a, b| a.0 < b.0));
            assert!(last < Some(c.first) && c.first <= c.places[start].0);
            last = Some(c.places.last().expect("not empty").0);
            let inner = i > 0 && i + 1 < order.chunks.len();
            let live = c.live as usize;
            assert!(!inner || c.places.len() - live <= live.max(SMALL));
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// From here, so many, so far apart.
        Insert(u64, u64, u64),
        /// Those from here, so many, each second or all.
        Remove(u64, u64, bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0u64..20_000, 1u64..1500, 1u64..8).prop_map(|(a, b, c)| Step::Insert(a, b, c)),
            (0u64..20_000, 1u64..4000, any::<bool>()).prop_map(|(a, b, c)| Step::Remove(a, b, c)),
        ];
        proptest::collection::vec(step, 1..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn agrees_with_a_map(steps in steps()) {
            let mut order = Order::default();
            let mut model = BTreeMap::new();
            let mut slot = 0;
            for step in steps {
                match step {
                    Step::Insert(from, n, by) => for id in (0..n).map(|i| from + i * by) {
                        if model.contains_key(&id) {
                            continue;
                        }
                        slot += 1;
                        order.insert(id, slot);
                        model.insert(id, slot);
                    },
                    Step::Remove(from, n, all) => {
                        let ids: Vec<u64> = model.range(from..from + n).map(|m| *m.0).collect();
                        for id in ids.into_iter().step_by(if all { 1 } else { 2 }) {
                            prop_assert_eq!(order.find(id), model.remove(&id));
                            order.remove(id);
                            prop_assert_eq!(order.find(id), None);
                            prop_assert_eq!(order.first(), model.keys().next().copied());
                        }
                    }
                }
                check(&order);
                for id in [0, 700, 9000, 30_000] {
                    let listed: Vec<_> = order.after(id).collect();
                    let expected: Vec<_> = model.range(id + 1..).map(|(i, s)| (*i, *s)).collect();
                    prop_assert_eq!(listed, expected);
                }
            }
        }
    }

    #[test]
    fn few_that_stay_cost_little_and_a_long_past_comes_in_densely() {
        for lag in [0, 10, 1000] {
            let mut order = Order::default();
            for id in 0..200_000 {
                order.insert(id, 1);
                if id >= lag && (id - lag) % 997 != 0 {
                    order.remove(id - lag);
                }
            }
            assert!(order.heap_bytes() < 60_000, "{} bytes, {lag}", order.heap_bytes());
            check(&order);
        }
        let mut order = Order::default();
        (1_000_000..1_001_000).for_each(|id| order.insert(id, 1));
        (0..100_000).for_each(|id| order.insert(id, 1));
        check(&order);
        assert!(order.heap_bytes() < 101_000 * 17 + 20_000, "{} bytes", order.heap_bytes());
    }
}

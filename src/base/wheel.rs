//! Hierarchical timer wheel: a set of values, each due at a tick.
//!
//! Owns the values until they fire or are cancelled. Knows no clock and no unit: a tick is what
//! the caller makes of it (the runtime takes 134 ms, the queue a second). Insert and cancel cost
//! O(1); each value is moved at most once per level on its way, and there are 11 levels of 64
//! slots, so that any `u64` is a valid tick and nothing wraps. A value of 8 bytes with a niche takes
//! 32. Millions may be due at once, or come down a level at once: [`Wheel::advance_some`] does a
//! bounded part of that at a time. Cannot fail; panics above 2^32 - 2 values.
//!
//! The order of firing is a function of the calls alone: by tick, and within one tick in order of
//! insertion. Simulation depends on that. Only what is inserted for a tick that is half done may
//! come before the rest of that tick.

use crate::base::chunks::Chunks;
use std::num::NonZeroU32;

/// Slots of a level are 2^BITS.
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
/// Enough levels for 64 bits.
const LEVELS: usize = 64_usize.div_ceil(BITS as usize);
/// The list of values inserted at or before the current tick.
const LATE: u16 = (LEVELS * SLOTS) as u16;
const NIL: u32 = u32::MAX;

/// Names a value in a [`Wheel`]; stale keys are recognised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    index: u32,
    /// Not zero, so that an `Option` of a key is no larger than a key.
    generation: NonZeroU32,
}

#[derive(Debug)]
struct Entry<T> {
    at: u64,
    prev: u32,
    /// Next in the slot, or in the free list.
    next: u32,
    generation: NonZeroU32,
    slot: u16,
    /// `None`: this entry is free.
    value: Option<T>,
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

const EMPTY: List = List { head: NIL, tail: NIL };

/// Values, each due at a tick.
#[derive(Debug)]
pub struct Wheel<T> {
    /// Everything due at or before this tick has fired, apart from the late list.
    now: u64,
    entries: Chunks<Entry<T>, 1024>,
    free: u32,
    len: usize,
    /// The slot whose first tick is now and that is not empty yet.
    current: Option<u16>,
    lists: Box<[List; LEVELS * SLOTS + 1]>,
    /// Per level, a bit for each slot in use.
    used: [u64; LEVELS],
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        Wheel::new(0)
    }
}

impl<T> Wheel<T> {
    /// An empty wheel that stands at tick `now`.
    #[must_use]
    pub fn new(now: u64) -> Self {
        let lists = Box::new([EMPTY; LEVELS * SLOTS + 1]);
        let entries = Chunks::default();
        Wheel { now, entries, free: NIL, len: 0, current: None, lists, used: [0; LEVELS] }
    }

    /// Values waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The tick that has been reached.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Adds a value that fires when the wheel is advanced to `at` or beyond; if that has passed,
    /// with the next call of [`Self::advance`], whatever its tick.
    pub fn insert(&mut self, at: u64, value: T) -> Key {
        let index = self.free;
        let index = if index == NIL {
            let index = u32::try_from(self.entries.len()).expect("fewer than 2^32 timers");
            assert!(index != NIL);
            self.entries.push(Entry {
                at,
                prev: NIL,
                next: NIL,
                generation: NonZeroU32::MIN,
                slot: LATE,
                value: Some(value),
            });
            index
        } else {
            let entry = &mut self.entries[index as usize];
            self.free = entry.next;
            entry.at = at;
            entry.value = Some(value);
            index
        };
        self.len += 1;
        self.link(index);
        Key { index, generation: self.entries[index as usize].generation }
    }

    /// Takes a value out before it fires. `None` if it has fired or been cancelled.
    pub fn cancel(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.get(key.index as usize)?;
        if entry.generation != key.generation || entry.value.is_none() {
            return None;
        }
        self.unlink(key.index);
        Some(self.release(key.index))
    }

    /// Moves to tick `to` (not back: an earlier tick counts as the current one) and gives every
    /// value that is due to `fire`, by tick and then by order of insertion. Late ones come first.
    pub fn advance(&mut self, to: u64, fire: impl FnMut(T)) {
        self.advance_some(to, usize::MAX, fire);
    }

    /// As [`Self::advance`], but fires or moves at most `most` values. `false`: there is more to do
    /// until `to`; call it again. Until then the wheel stands at the tick it is working on.
    pub fn advance_some(&mut self, to: u64, most: usize, mut fire: impl FnMut(T)) -> bool {
        let mut left = most;
        loop {
            if !self.fire_list(LATE, &mut left, &mut fire) {
                return false;
            }
            let slot = match (self.current, self.next_slot()) {
                (Some(slot), _) => slot,
                (None, Some((level, slot, start))) if start <= to => {
                    self.now = start;
                    (level * SLOTS + slot) as u16
                }
                _ => break,
            };
            self.current = Some(slot);
            let done = match usize::from(slot) < SLOTS {
                true => self.fire_list(slot, &mut left, &mut fire),
                // What is due at the very start of the slot becomes late.
                false => self.cascade(slot, &mut left),
            };
            if !done {
                return false;
            }
            self.current = None;
        }
        self.now = self.now.max(to);
        true
    }

    /// The tick to advance to next: never later than the earliest value, exact when that is
    /// within the current 64 ticks and no part of an earlier tick is left. At an inexact tick nothing
    /// may fire; ask again. `None` if the wheel is empty.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        let waits = |slot: u16| self.lists[slot as usize].head != NIL;
        if waits(LATE) || self.current.is_some_and(waits) {
            return Some(self.now);
        }
        self.next_slot().map(|(_, _, start)| start)
    }

    /// The first slot in use, as level, slot, first tick. All values of a level lie within the
    /// current slot of the level above, so those of a lower level are always earlier.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.used.iter().position(|&u| u != 0)?;
        let slot = self.used[level].trailing_zeros() as usize;
        let shift = level as u32 * BITS;
        let above = self.now.checked_shr(shift + BITS).unwrap_or(0);
        let base = above.checked_shl(shift + BITS).unwrap_or(0);
        let start = base | ((slot as u64) << shift);
        debug_assert!(start > self.now || self.current.is_some());
        Some((level, slot, start))
    }

    /// The list for tick `at`: the level is that of the highest bit in which it differs from now.
    fn list_for(&self, at: u64) -> u16 {
        if at <= self.now {
            return LATE;
        }
        let level = (63 - (at ^ self.now).leading_zeros()) / BITS;
        let slot = (at >> (level * BITS)) as usize % SLOTS;
        (level as usize * SLOTS + slot) as u16
    }

    /// Appends entry `index` to the list of its tick.
    fn link(&mut self, index: u32) {
        let slot = self.list_for(self.entries[index as usize].at);
        let list = &mut self.lists[slot as usize];
        let tail = std::mem::replace(&mut list.tail, index);
        if tail == NIL {
            list.head = index;
            if slot != LATE {
                self.used[slot as usize / SLOTS] |= 1 << (slot as usize % SLOTS);
            }
        } else {
            self.entries[tail as usize].next = index;
        }
        let entry = &mut self.entries[index as usize];
        entry.slot = slot;
        entry.prev = tail;
        entry.next = NIL;
    }

    /// Takes entry `index` out of its list.
    fn unlink(&mut self, index: u32) {
        let Entry { prev, next, slot, .. } = self.entries[index as usize];
        match prev {
            NIL => self.lists[slot as usize].head = next,
            _ => self.entries[prev as usize].next = next,
        }
        match next {
            NIL => self.lists[slot as usize].tail = prev,
            _ => self.entries[next as usize].prev = prev,
        }
        if slot != LATE && self.lists[slot as usize].head == NIL {
            self.used[slot as usize / SLOTS] &= !(1 << (slot as usize % SLOTS));
        }
    }

    /// Puts an unlinked entry on the free list.
    fn release(&mut self, index: u32) -> T {
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        entry.next = self.free;
        self.free = index;
        self.len -= 1;
        entry.value.take().expect("a linked entry has a value")
    }

    /// Fires the values of a slot; `false` if some are left.
    fn fire_list(&mut self, slot: u16, left: &mut usize, fire: &mut impl FnMut(T)) -> bool {
        loop {
            let index = self.lists[slot as usize].head;
            if index == NIL {
                return true;
            }
            if *left == 0 {
                return false;
            }
            *left -= 1;
            self.unlink(index);
            fire(self.release(index));
        }
    }

    /// Moves the values of a slot whose first tick has come to lower levels (none comes back to
    /// it); `false` if some are left.
    fn cascade(&mut self, slot: u16, left: &mut usize) -> bool {
        let mut index = self.lists[slot as usize].head;
        while index != NIL && *left > 0 {
            *left -= 1;
            let next = self.entries[index as usize].next;
            self.link(index);
            index = next;
        }
        if index != NIL {
            self.lists[slot as usize].head = index;
            self.entries[index as usize].prev = NIL;
            return false;
        }
        self.lists[slot as usize] = EMPTY;
        self.used[slot as usize / SLOTS] &= !(1 << (slot as usize % SLOTS));
        true
    }

    /// Bytes of memory held, but for what values hold.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.entries.heap_bytes() + size_of_val(&*self.lists)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Debug, Clone)]
    enum Step {
        /// Distance ahead of now (shifted), or behind.
        Insert(u64),
        InsertPast(u64),
        Cancel(usize),
        Advance(u64),
        /// So far, so many values at most.
        Some(u64, usize),
        ToNext,
    }

    fn steps(some: u32) -> impl Strategy<Value = Vec<Step>> {
        let far = (0u32..40, 0u64..200).prop_map(|(shift, x)| Step::Insert(x << shift));
        let step = prop_oneof![
            4 => far,
            1 => (0u64..100).prop_map(Step::InsertPast),
            2 => any::<usize>().prop_map(Step::Cancel),
            2 => (0u32..40, 0u64..100).prop_map(|(shift, x)| Step::Advance(x << shift)),
            2 => Just(Step::ToNext),
            some => (0u32..40, 0u64..100, 0usize..12).prop_map(|(shift, x, n)| Step::Some(x << shift, n)),
        ];
        proptest::collection::vec(step, 0..200)
    }

    /// The model: values by (tick, order of insertion); late ones by order of insertion at tick 0.
    #[derive(Default)]
    struct Model {
        due: BTreeMap<(u64, u64), ()>,
        keys: Vec<(Key, (u64, u64))>,
        serial: u64,
        /// By serial: the tick in whose turn it fires.
        turns: Vec<u64>,
        /// The wheel was advanced in parts: within a tick any order is right.
        parts: bool,
    }

    fn run(start: u64, steps: Vec<Step>) {
        let mut wheel = Wheel::new(start);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Insert(_) | Step::InsertPast(_) => {
                    let at = match step {
                        Step::Insert(d) => wheel.now().saturating_add(d),
                        Step::InsertPast(d) => wheel.now().saturating_sub(d),
                        _ => unreachable!(),
                    };
                    let place = if at <= wheel.now() { 0 } else { at };
                    let id = (place, model.serial);
                    model.turns.push(at.max(wheel.now()));
                    model.serial += 1;
                    let key = wheel.insert(at, id);
                    model.due.insert(id, ());
                    model.keys.push((key, id));
                }
                Step::Cancel(n) if !model.keys.is_empty() => {
                    let (key, id) = model.keys[n % model.keys.len()];
                    let there = model.due.remove(&id).is_some();
                    assert_eq!(wheel.cancel(key), there.then_some(id));
                }
                Step::Cancel(_) => {}
                Step::Advance(d) => advance(&mut wheel, &mut model, d),
                Step::Some(d, most) => advance_some(&mut wheel, &mut model, d, most),
                Step::ToNext => {
                    let earliest = model.due.keys().next().map(|k| k.0.max(wheel.now()));
                    let next = wheel.next();
                    assert_eq!(next.is_some(), earliest.is_some());
                    if let (Some(next), Some(earliest)) = (next, earliest) {
                        assert!(wheel.now() <= next && next <= earliest);
                        let exact = earliest / 64 == wheel.now() / 64 && !model.parts;
                        assert!(!exact || next == earliest);
                        let by = next - wheel.now();
                        advance(&mut wheel, &mut model, by);
                    }
                }
            }
            assert_eq!(wheel.len(), model.due.len());
        }
    }

    fn advance(wheel: &mut Wheel<(u64, u64)>, model: &mut Model, by: u64) {
        let to = wheel.now().saturating_add(by);
        let mut fired = Vec::new();
        wheel.advance(to, |id| fired.push(id));
        let rest = model.due.split_off(&(to, u64::MAX));
        let expected: Vec<_> = std::mem::replace(&mut model.due, rest).into_keys().collect();
        if model.parts {
            assert!(fired.is_sorted_by_key(|id| model.turns[id.1 as usize]), "{fired:?}");
            fired.sort_unstable();
        }
        assert_eq!(fired, expected);
        assert_eq!(wheel.now(), to);
    }

    fn advance_some(wheel: &mut Wheel<(u64, u64)>, model: &mut Model, by: u64, most: usize) {
        model.parts = true;
        let to = wheel.now().saturating_add(by);
        let mut fired = Vec::new();
        let done = wheel.advance_some(to, most, |id| fired.push(id));
        assert!(fired.len() <= most && wheel.now() <= to);
        assert!(fired.is_sorted_by_key(|id| model.turns[id.1 as usize]), "{fired:?}");
        for id in &fired {
            assert!(model.due.remove(id).is_some() && id.0 <= to);
        }
        let first = model.due.keys().map(|id| model.turns[id.1 as usize]).min();
        let last = fired.last().map(|id| model.turns[id.1 as usize]);
        assert!(last <= first || first.is_none(), "{last:?} before {first:?}");
        if done {
            assert!(wheel.now() == to && first.is_none_or(|f| f > to));
        } else {
            assert!(!wheel.is_empty() || most == 0);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn agrees_with_an_ordered_map(start in prop_oneof![Just(0), 0..u64::MAX], steps in steps(0)) {
            run(start, steps);
        }

        #[test]
        fn in_parts_it_is_the_same(start in prop_oneof![Just(0), 0..u64::MAX], steps in steps(6)) {
            run(start, steps);
        }
    }

    #[test]
    fn a_timer_takes_32_bytes_and_many_at_once_come_in_parts() {
        let mut wheel = Wheel::new(0);
        for n in 0..10_000u32 {
            wheel.insert(5000 + u64::from(n % 3), NonZeroU32::MIN.saturating_add(n));
        }
        assert!(wheel.heap_bytes() <= 10_000 * 33 + 16_000, "{}", wheel.heap_bytes());
        assert_eq!(size_of::<Entry<Key>>(), 32);
        let (mut fired, mut calls) = (0, 1);
        while !wheel.advance_some(6000, 100, |_| fired += 1) {
            calls += 1;
            assert!(fired <= 100 * calls && wheel.next().is_some());
        }
        // Each is moved down once or twice, and fired.
        assert!((200..=301).contains(&calls), "{calls}");
        assert_eq!((fired, wheel.now(), wheel.next()), (10_000, 6000, None));
    }

    #[test]
    fn the_last_tick_and_stale_keys() {
        let mut wheel = Wheel::new(5);
        let last = wheel.insert(u64::MAX, 'l');
        let key = wheel.insert(6, 'a');
        assert_eq!(wheel.next(), Some(6));
        let mut fired = String::new();
        wheel.advance(6, |c| fired.push(c));
        assert_eq!(wheel.cancel(key), None, "fired");
        let reused = wheel.insert(7, 'b');
        assert_eq!(wheel.cancel(key), None, "the place was reused, the key was not");
        assert_eq!(wheel.cancel(reused), Some('b'));
        wheel.advance(u64::MAX, |c| fired.push(c));
        assert_eq!(fired, "al");
        assert_eq!(wheel.cancel(last), None);
        assert_eq!(wheel.next(), None);
    }
}

//! L2: what is resident of each waiting message, found by key (cheap) or by id (ordered).
//!
//! A message is rich while something is being done with it: its recipients and places in the journal
//! are at hand. A message that waits for a long time is parked: all that is resident is a [`Stub`],
//! which says for what it waits; the detail is kept elsewhere. Its [`Key`] stays the same.
//!
//! Owns the entries, the stubs and the counters over them. Knows no journal, clock or connection: the
//! desk tells it what happened. Nothing fails; a stale [`Key`] finds nothing.
//!
//! Figures (64-bit): 40 bytes a slot, 36 of lists for operators, 16 of id order, 32 of timer or 16 of place
//! in a list: a parked
//! message takes at most 140, however many recipients it has. A rich one takes 136 more, and 32 for each
//! recipient if there are several. Nothing is allocated per message in steady state, and no table is
//! ever copied as a whole.

use crate::base::chunks::Chunks;
use crate::base::ids::MessageId;
use crate::queue::chains::{Chains, Kind};
pub use crate::queue::entry::{
    Archived, Cover, DestId, Entry, NOWHERE, Phase, Recipient, SOME_DAY, Switches,
};
use crate::queue::order::Order;
use crate::queue::state::LOCAL;
use crate::queue::stub::Stub;
use std::num::NonZeroU32;

/// Names an entry; recognised as stale once the entry has gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Key {
    slot: u32,
    /// Not zero, so that an `Option` of a key is no larger than a key.
    generation: NonZeroU32,
}

/// What is counted apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Class {
    #[default]
    Active,
    Deferred,
    Held,
}

/// What is resident of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Nothing: it has gone.
    Gone,
    /// All of it.
    Rich,
    /// A stub.
    Parked,
}

/// What was resident of a message.
#[derive(Debug)]
pub enum Resident {
    /// All of it.
    Rich(Entry),
    /// A stub.
    Parked(Stub),
}

/// Messages by state, and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// All.
    pub messages: usize,
    /// Ready, in flight or being committed.
    pub active: usize,
    /// Waiting for a retry.
    pub deferred: usize,
    /// Held by an operator.
    pub held: usize,
    /// Bytes of trace headers and bodies.
    pub bytes: u64,
}

#[derive(Debug)]
enum Spot {
    /// And the next free slot.
    Free(u32),
    /// Its room among the entries.
    Rich(u32),
    Parked(Stub),
}

#[derive(Debug)]
struct Slot {
    generation: NonZeroU32,
    class: Class,
    place: Spot,
}

#[derive(Debug)]
enum Room {
    /// And the next free room.
    Free(u32),
    Used(Entry),
}

/// The end of a list of free things.
const NIL: u32 = u32::MAX;

/// All resident messages of one core.
#[derive(Debug)]
pub struct Index {
    slots: Chunks<Slot, 1024>,
    free_slot: u32,
    /// What is resident of the rich ones beyond the slot.
    rooms: Chunks<Room, 256>,
    free_room: u32,
    rich: usize,
    order: Order,
    chains: Chains,
    counters: Counters,
}

impl Default for Index {
    fn default() -> Self {
        Index {
            slots: Chunks::default(),
            free_slot: NIL,
            rooms: Chunks::default(),
            free_room: NIL,
            rich: 0,
            order: Order::default(),
            chains: Chains::default(),
            counters: Counters::default(),
        }
    }
}

impl Index {
    /// Adds a message. Panics if its id is there already: an id names one message for ever.
    pub fn insert(&mut self, entry: Entry) -> Key {
        self.insert_of(entry, None)
    }

    /// As [`Self::insert`]; all recipients are of `domain`, in small letters.
    pub fn insert_of(&mut self, entry: Entry, domain: Option<&[u8]>) -> Key {
        let (id, size, class) = (entry.id, entry.size, entry.class());
        let domain = domain.map_or(0, |name| self.chains.domain(name));
        let lists = (state_of(&entry, class), destination_of(&entry), domain);
        let room = self.furnish(entry);
        self.add(id, size, class, lists, Spot::Rich(room))
    }

    /// Adds a parked message. Panics as [`Self::insert`] does.
    pub fn insert_parked(&mut self, stub: Stub) -> Key {
        let class = stub.class();
        let lists = (state_of_stub(class), list_of(stub.destination), 0);
        self.add(stub.id, stub.size, class, lists, Spot::Parked(stub))
    }

    fn add(&mut self, id: MessageId, size: u64, class: Class, lists: (u32, u32, u32), place: Spot) -> Key {
        self.counters.messages += 1;
        self.counters.bytes += size;
        *self.counters.of(class) += 1;
        let (slot, generation) = match self.slots.get_mut(self.free_slot as usize) {
            Some(s) => {
                let Spot::Free(next) = s.place else { unreachable!("the free list holds free slots") };
                (s.class, s.place) = (class, place);
                (std::mem::replace(&mut self.free_slot, next), s.generation)
            }
            None => {
                let slot = u32::try_from(self.slots.len()).ok().filter(|s| *s != NIL);
                let generation = NonZeroU32::MIN;
                self.slots.push(Slot { generation, class, place });
                (slot.expect("below 2^32 messages"), generation)
            }
        };
        self.order.insert(id.0, slot);
        let (state, to, domain) = lists;
        self.chains.enter(slot, state, to, domain);
        Key { slot, generation }
    }

    /// Parked messages.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.counters.messages - self.rich
    }

    /// Side files of rich messages.
    pub fn sides(&self) -> impl Iterator<Item = u64> + use<'_> {
        self.rooms.iter().filter_map(|room| match room {
            Room::Used(e) if e.side != 0 => Some(e.side),
            _ => None,
        })
    }

    /// What is resident of a message.
    #[must_use]
    pub fn presence(&self, key: Key) -> Presence {
        self.slot(key).map_or(Presence::Gone, Slot::presence)
    }

    /// The entry, if the message is there and rich.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&Entry> {
        let Spot::Rich(room) = self.slot(key)?.place else { return None };
        Some(self.rooms[room as usize].entry())
    }

    /// The stub, if the message is there and parked.
    #[must_use]
    pub fn stub(&self, key: Key) -> Option<&Stub> {
        let Spot::Parked(stub) = &self.slot(key)?.place else { return None };
        Some(stub)
    }

    /// Changes an entry and brings the counters up to date; `None` if it has gone or is parked.
    pub fn change<T>(&mut self, key: Key, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let s = self.slots.get_mut(key.slot as usize).filter(|s| s.generation == key.generation)?;
        let Spot::Rich(room) = s.place else { return None };
        let entry = self.rooms[room as usize].entry_mut();
        let size = entry.size;
        let out = change(entry);
        self.counters.bytes = self.counters.bytes - size + entry.size;
        let class = entry.class();
        self.counters.moved(&mut s.class, class);
        self.chains.put(Kind::State, key.slot, state_of(entry, class));
        Some(out)
    }

    /// Changes something of an entry that is not counted: neither its size nor what its state depends on.
    /// `None` if it has gone or is parked.
    pub fn touch<T>(&mut self, key: Key, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let s = self.slots.get_mut(key.slot as usize).filter(|s| s.generation == key.generation)?;
        let Spot::Rich(room) = s.place else { return None };
        let entry = self.rooms[room as usize].entry_mut();
        #[cfg(debug_assertions)]
        let before = (entry.size, entry.class());
        let out = change(entry);
        #[cfg(debug_assertions)]
        assert!(before == (entry.size, entry.class()), "counted things change by `change`");
        Some(out)
    }

    /// Changes a stub and brings the counters up to date; `None` if it has gone or is rich.
    pub fn change_stub<T>(&mut self, key: Key, change: impl FnOnce(&mut Stub) -> T) -> Option<T> {
        let s = self.slots.get_mut(key.slot as usize).filter(|s| s.generation == key.generation)?;
        let Spot::Parked(stub) = &mut s.place else { return None };
        let size = stub.size;
        let out = change(stub);
        self.counters.bytes = self.counters.bytes - size + stub.size;
        self.counters.moved(&mut s.class, stub.class());
        self.chains.put(Kind::State, key.slot, state_of_stub(s.class));
        self.chains.put(Kind::Destination, key.slot, list_of(stub.destination));
        Some(out)
    }

    /// Puts `stub` in the place of an entry; gives the entry.
    pub fn park(&mut self, key: Key, stub: Stub) -> Option<Entry> {
        let s = self.slots.get_mut(key.slot as usize).filter(|s| s.generation == key.generation)?;
        let Spot::Rich(room) = s.place else { return None };
        self.counters.bytes += stub.size;
        self.counters.moved(&mut s.class, stub.class());
        self.chains.put(Kind::State, key.slot, state_of_stub(s.class));
        self.chains.put(Kind::Destination, key.slot, list_of(stub.destination));
        s.place = Spot::Parked(stub);
        let entry = self.vacate(room);
        self.counters.bytes -= entry.size;
        Some(entry)
    }

    /// Puts `entry` in the place of a stub; gives the stub. `None`, and the entry is dropped, if the
    /// message has gone or is rich.
    pub fn recall(&mut self, key: Key, entry: Entry) -> Option<Stub> {
        let stub = self.stub(key)?.clone();
        self.counters.bytes = self.counters.bytes - stub.size + entry.size;
        let (class, to) = (entry.class(), destination_of(&entry));
        let state = state_of(&entry, class);
        let room = self.furnish(entry);
        let s = &mut self.slots[key.slot as usize];
        self.counters.moved(&mut s.class, class);
        self.chains.put(Kind::State, key.slot, state);
        self.chains.put(Kind::Destination, key.slot, to);
        s.place = Spot::Rich(room);
        Some(stub)
    }

    /// Takes a message out.
    pub fn remove(&mut self, key: Key) -> Option<Resident> {
        let s = self.slots.get_mut(key.slot as usize).filter(|s| s.generation == key.generation)?;
        if matches!(s.place, Spot::Free(_)) {
            return None;
        }
        let place = std::mem::replace(&mut s.place, Spot::Free(self.free_slot));
        self.free_slot = key.slot;
        s.generation = s.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        *self.counters.of(s.class) -= 1;
        let (id, size, gone) = match place {
            Spot::Rich(room) => {
                let entry = self.vacate(room);
                (entry.id, entry.size, Resident::Rich(entry))
            }
            Spot::Parked(stub) => (stub.id, stub.size, Resident::Parked(stub)),
            Spot::Free(_) => unreachable!("just seen"),
        };
        self.counters.messages -= 1;
        self.counters.bytes -= size;
        self.order.remove(id.0);
        self.chains.leave(key.slot);
        Some(gone)
    }

    /// Recipient `i` of a rich message goes to `d` from now on.
    pub fn route(&mut self, key: Key, i: usize, d: DestId) {
        let to = self.change(key, |e| {
            e.recipients[i].destination = d;
            destination_of(e)
        });
        if let Some(to) = to {
            self.chains.put(Kind::Destination, key.slot, to);
        }
    }

    /// All recipients of the message `key` are of `domain`, in small letters.
    pub fn set_domain(&mut self, key: Key, domain: &[u8]) {
        if self.slot(key).is_some() {
            let number = self.chains.domain(domain);
            self.chains.put(Kind::Domain, key.slot, number);
        }
    }

    /// As [`Self::set_domain`], of a domain that the lists call `number`.
    pub(crate) fn put_into_domain(&mut self, key: Key, number: u32) {
        if self.slot(key).is_some() {
            self.chains.put(Kind::Domain, key.slot, number);
        }
    }

    /// The domain of all recipients of the message `key`, if that is known and there is only one.
    #[must_use]
    pub fn domain(&self, key: Key) -> Option<&[u8]> {
        self.slot(key)?;
        self.chains.domain_name(self.chains.list(Kind::Domain, key.slot))
    }

    /// Lists by state, destination and domain.
    pub(crate) fn chains(&mut self) -> &mut Chains {
        &mut self.chains
    }

    /// The id of the message in a slot that a list has given.
    pub(crate) fn id_at(&self, slot: u32) -> Option<MessageId> {
        match &self.slots.get(slot as usize)?.place {
            Spot::Free(_) => None,
            Spot::Rich(room) => Some(self.rooms[*room as usize].entry().id),
            Spot::Parked(stub) => Some(stub.id),
        }
    }

    /// The key of a message.
    #[must_use]
    pub fn find(&self, id: MessageId) -> Option<Key> {
        self.order.find(id.0).map(|slot| self.key_of(slot))
    }

    /// Messages with ids above `after`, in ascending order.
    pub fn after(&self, after: MessageId) -> impl Iterator<Item = (Key, MessageId, Presence)> + use<'_> {
        self.order.after(after.0).map(|(id, slot)| {
            let presence = self.slots[slot as usize].presence();
            (self.key_of(slot), MessageId(id), presence)
        })
    }

    /// The id of the oldest message.
    #[must_use]
    pub fn oldest(&self) -> Option<MessageId> {
        self.order.first().map(MessageId)
    }

    /// Counts.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes of memory held, but for bodies and for the recipients of rich messages with several.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let lists = self.chains.heap_bytes();
        self.slots.heap_bytes() + self.rooms.heap_bytes() + self.order.heap_bytes() + lists
    }

    fn slot(&self, key: Key) -> Option<&Slot> {
        self.slots.get(key.slot as usize).filter(|s| s.generation == key.generation)
    }

    fn key_of(&self, slot: u32) -> Key {
        Key { slot, generation: self.slots[slot as usize].generation }
    }

    fn furnish(&mut self, entry: Entry) -> u32 {
        self.rich += 1;
        let Some(room) = self.rooms.get_mut(self.free_room as usize) else {
            let room = u32::try_from(self.rooms.len()).expect("no more than slots");
            self.rooms.push(Room::Used(entry));
            return room;
        };
        let Room::Free(next) = *room else { unreachable!("the free list holds free rooms") };
        *room = Room::Used(entry);
        std::mem::replace(&mut self.free_room, next)
    }

    fn vacate(&mut self, room: u32) -> Entry {
        self.rich -= 1;
        let free = Room::Free(std::mem::replace(&mut self.free_room, room));
        match std::mem::replace(&mut self.rooms[room as usize], free) {
            Room::Used(entry) => entry,
            Room::Free(_) => unreachable!("a rich message has an entry"),
        }
    }
}

/// The list of what has been taken by somebody, whatever its destination does.
pub(crate) const BUSY: u32 = 0;
/// The list of what waits for another attempt.
pub(crate) const DEFERRED: u32 = 1;
/// The list of what is held.
pub(crate) const HELD: u32 = 2;
/// The list of what only stands in lists of destinations.
pub(crate) const READY: u32 = 3;

fn state_of(e: &Entry, class: Class) -> u32 {
    let taken = |r: &Recipient| r.phase != Phase::Ready && (r.phase == Phase::Flight || r.phase.is_owed());
    match class {
        Class::Active if e.switches.committing || e.recipients.iter().any(taken) => BUSY,
        class => state_of_stub(class),
    }
}

fn state_of_stub(class: Class) -> u32 {
    match class {
        Class::Active => READY,
        Class::Deferred => DEFERRED,
        Class::Held => HELD,
    }
}

/// The number of the list of a destination.
pub(crate) fn list_of(d: DestId) -> u32 {
    if d < LOCAL { d + 1 } else { 0 }
}

/// The list in which `e` stands: of the destination of all its recipients, done or not.
fn destination_of(e: &Entry) -> u32 {
    let mut all = e.recipients.iter().map(|r| r.destination);
    let first = all.next().unwrap_or(LOCAL);
    if all.all(|d| d == first) { list_of(first) } else { 0 }
}

impl Slot {
    fn presence(&self) -> Presence {
        match self.place {
            Spot::Free(_) => Presence::Gone,
            Spot::Rich(_) => Presence::Rich,
            Spot::Parked(_) => Presence::Parked,
        }
    }
}

impl Room {
    fn entry(&self) -> &Entry {
        match self {
            Room::Used(entry) => entry,
            Room::Free(_) => unreachable!("a rich message has an entry"),
        }
    }

    fn entry_mut(&mut self) -> &mut Entry {
        match self {
            Room::Used(entry) => entry,
            Room::Free(_) => unreachable!("a rich message has an entry"),
        }
    }
}

impl Counters {
    fn moved(&mut self, from: &mut Class, to: Class) {
        if *from != to {
            *self.of(*from) -= 1;
            *self.of(to) += 1;
            *from = to;
        }
    }

    fn of(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Active => &mut self.active,
            Class::Deferred => &mut self.deferred,
            Class::Held => &mut self.held,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::body::BodyFlags;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn entry(id: u64, phase: Phase) -> Entry {
        let mut e = Entry::new(MessageId(id), 10, BodyFlags(0));
        e.recipients.push(Recipient { phase, ..Recipient::default() });
        e
    }

    #[test]
    fn slots_and_entries_are_small() {
        assert!(size_of::<Slot>() <= 40, "{} bytes", size_of::<Slot>());
        assert!(size_of::<Room>() <= 136, "{} bytes", size_of::<Room>());
        assert!(size_of::<Recipient>() <= 32, "{} bytes", size_of::<Recipient>());
        assert_eq!(size_of::<Option<Key>>(), 8);
    }

    #[test]
    fn counters_follow_changes_and_stale_keys_find_nothing() {
        let mut index = Index::default();
        let a = index.insert(entry(5, Phase::Ready));
        let b = index.insert(entry(3, Phase::Waiting));
        assert_eq!(index.counters(), Counters { messages: 2, active: 1, deferred: 1, held: 0, bytes: 20 });
        assert_eq!(index.oldest(), Some(MessageId(3)));
        index.change(a, |e| e.switches.held = true);
        assert_eq!((index.counters().active, index.counters().held), (0, 1));
        assert!(index.remove(b).is_some() && index.remove(b).is_none());
        let c = index.insert(entry(9, Phase::Waiting));
        assert!(index.get(b).is_none() && index.get(c).is_some(), "the slot was reused, the key was not");
        assert_eq!((index.presence(b), index.presence(c)), (Presence::Gone, Presence::Rich));
        assert_eq!(index.find(MessageId(9)), Some(c));
        assert_eq!(index.find(MessageId(3)), None);
    }

    #[test]
    fn a_parked_message_keeps_its_key_and_is_counted_as_before() {
        let mut index = Index::default();
        let a = index.insert(entry(5, Phase::Waiting));
        let stub = Stub::of(index.get(a).expect("rich"));
        let before = index.counters();
        let e = index.park(a, stub.clone()).expect("was rich");
        assert_eq!((index.counters(), index.presence(a)), (before, Presence::Parked));
        assert!(index.get(a).is_none() && index.change(a, |_| ()).is_none());
        assert!(index.park(a, stub).is_none(), "not twice");
        index.change_stub(a, |s| s.held = true);
        assert_eq!((index.counters().held, index.counters().deferred), (1, 0));
        index.change_stub(a, |s| (s.held, s.ready) = (false, true));
        assert_eq!((index.counters().held, index.counters().active), (0, 1));
        assert!(index.recall(a, e).is_some_and(|s| s.ready));
        assert_eq!((index.counters(), index.find(MessageId(5))), (before, Some(a)));
        assert!(index.recall(a, entry(5, Phase::Ready)).is_none(), "not twice");
        let stub = Stub::of(&entry(4, Phase::Ready));
        let b = index.insert_parked(stub);
        assert_eq!(index.counters(), Counters { messages: 2, active: 1, deferred: 1, held: 0, bytes: 20 });
        let all: Vec<_> = index.after(MessageId(0)).collect();
        assert_eq!(all, [(b, MessageId(4), Presence::Parked), (a, MessageId(5), Presence::Rich)]);
        assert!(matches!(index.remove(b), Some(Resident::Parked(_))));
        assert!(index.stub(b).is_none() && index.change_stub(b, |_| ()).is_none());
        assert!(index.recall(b, entry(4, Phase::Ready)).is_none(), "gone meanwhile");
        assert!(matches!(index.remove(a), Some(Resident::Rich(_))));
        assert_eq!(index.counters(), Counters::default());
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in proptest::collection::vec((0u64..300, 0u8..4), 1..600)) {
            let mut index = Index::default();
            let mut model: BTreeMap<u64, (Key, Option<Entry>)> = BTreeMap::new();
            for (id, what) in steps {
                match (model.get_mut(&id), what) {
                    (None, 0) => {
                        let e = entry(id, Phase::Ready);
                        let key = index.insert_parked(Stub::of(&e));
                        model.insert(id, (key, Some(e)));
                    }
                    (None, _) => drop(model.insert(id, (index.insert(entry(id, Phase::Ready)), None))),
                    (Some((key, parked)), 0..2) => match parked.take() {
                        Some(e) => prop_assert!(index.recall(*key, e).is_some()),
                        None => {
                            let stub = Stub::of(index.get(*key).expect("rich"));
                            *parked = index.park(*key, stub);
                        }
                    },
                    (Some(_), _) => {
                        let (key, parked) = model.remove(&id).expect("there");
                        let gone = match index.remove(key).expect("there") {
                            Resident::Rich(e) => (e.id.0, false),
                            Resident::Parked(s) => (s.id.0, true),
                        };
                        prop_assert_eq!(gone, (id, parked.is_some()));
                    }
                }
                let (c, n) = (index.counters(), model.len());
                prop_assert_eq!((c.messages, c.active, c.bytes), (n, n, 10 * n as u64));
                prop_assert_eq!(index.oldest().map(|i| i.0), model.keys().next().copied());
                prop_assert_eq!(index.find(MessageId(id)), model.get(&id).map(|m| m.0));
            }
            for (id, (key, parked)) in &model {
                let kept = index.get(*key).map(|e| e.id).or(index.stub(*key).map(|s| s.id));
                prop_assert_eq!(kept, Some(MessageId(*id)));
                prop_assert_eq!(index.stub(*key).is_some(), parked.is_some());
            }
            let listed: Vec<_> = index.after(MessageId(100)).map(|(k, i, _)| (i.0, k)).collect();
            let expected: Vec<_> = model.range(101..).map(|(i, m)| (*i, m.0)).collect();
            prop_assert_eq!(listed, expected);
        }
    }
}

//! L2: what is resident of each waiting message, found by key (cheap) or by id (ordered).
//!
//! Owns the entries and the counters over them. Knows no journal, clock or connection: the desk
//! tells it what happened. Nothing fails; a stale [`Key`] finds nothing.
//!
//! Figures (64-bit, one recipient, waiting for a retry): at most 144 bytes of entry, 16 of id order,
//! 40 of timer: 200. Nothing is allocated per message in steady state; messages of several recipients
//! have one vector of 32 bytes each.

use crate::base::aligned::SharedBytes;
use crate::base::ids::MessageId;
use crate::base::time::Mono;
use crate::base::wheel;
use crate::message::body::BodyFlags;
use crate::queue::bodies::BatchNumber;
use crate::storage::record::Location;
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Names an entry; recognised as stale once the entry has gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Key {
    slot: u32,
    generation: u32,
}

/// Number of a destination in the schedule.
pub type DestId = u32;

/// What happens to a recipient now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    /// Stands in its destination's list.
    #[default]
    Ready,
    /// Taken by an attempt.
    Flight,
    /// Not before its due time.
    Waiting,
    /// Refused for good; its notification is being made, or waits to be.
    Owed,
    /// Passed on.
    Delivered,
    /// Refused for good, told to whoever was to be told.
    Failed,
}

impl Phase {
    /// True if nothing more happens.
    #[must_use]
    pub fn is_done(self) -> bool {
        matches!(self, Phase::Delivered | Phase::Failed)
    }
}

/// What the journal says of a recipient's attempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Cover {
    /// That none is under way: the next one needs a record before its final dot.
    #[default]
    None,
    /// That one may be under way.
    Covered,
    /// That one may have been under way when the last run ended without a clean stop.
    InDoubt,
}

/// No place in a journal.
pub const NOWHERE: Location = Location { segment: 0, offset: 0, len: 0 };

impl Default for Recipient {
    fn default() -> Self {
        let (phase, cover) = (Phase::Ready, Cover::None);
        Recipient { due: Mono(0), said: NOWHERE, destination: 0, attempts: 0, phase, cover }
    }
}

/// A recipient of a resident message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recipient {
    /// When the next attempt is due, if waiting; when the notification is tried again, if owed (0:
    /// it is being made).
    pub due: Mono,
    /// The record with the reply of its last attempt; of length 0 if there is none.
    pub said: Location,
    /// Where it goes.
    pub destination: DestId,
    /// Attempts that ended without success.
    pub attempts: u16,
    /// What happens to it.
    pub phase: Phase,
    /// What the journal says of attempts.
    pub cover: Cover,
}

/// Switches of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Switches {
    /// Held by an operator.
    pub held: bool,
    /// The sender has had a delay warning.
    pub warned: bool,
    /// A notification about a notification.
    pub double_bounce: bool,
    /// Its record is not on stable storage yet.
    pub committing: bool,
    /// Not to be kept: its submitter has gone without an answer.
    pub withdrawn: bool,
    /// Being read back from the journal.
    pub loading: bool,
    /// Being copied forward within the journal.
    pub moving: bool,
    /// The sender is null.
    pub null_sender: bool,
}

/// A resident message.
#[derive(Debug)]
pub struct Entry {
    /// Its id.
    pub id: MessageId,
    /// Its record.
    pub at: Location,
    /// Bytes of trace headers and body.
    pub size: u64,
    /// Side file of the body; 0: none.
    pub side: u64,
    /// The record's payload while it is in memory.
    pub payload: Option<SharedBytes>,
    /// Batch of the payload in the memory budget.
    pub batch: BatchNumber,
    /// Recipients in the order of the envelope.
    pub recipients: SmallVec<[Recipient; 1]>,
    /// The timer of its next due recipient.
    pub timer: Option<wheel::Key>,
    /// Facts about the body.
    pub body: BodyFlags,
    /// How often an attempt came back without having risked anything.
    pub given_back: u8,
    /// Switches.
    pub switches: Switches,
}

impl Entry {
    /// An entry of a message that is being committed, without recipients yet.
    #[must_use]
    pub fn new(id: MessageId, size: u64, body: BodyFlags) -> Self {
        Entry {
            id,
            at: NOWHERE,
            size,
            side: 0,
            payload: None,
            batch: 0,
            recipients: SmallVec::new(),
            timer: None,
            body,
            given_back: 0,
            switches: Switches::default(),
        }
    }

    /// True if nothing more happens to any recipient.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.recipients.iter().all(|r| r.phase.is_done())
    }

    /// The earliest due time of a recipient that waits, for an attempt or for its notification.
    #[must_use]
    pub fn next_due(&self) -> Option<Mono> {
        let waits = |r: &&Recipient| r.phase == Phase::Waiting || r.phase == Phase::Owed && r.due > Mono(0);
        self.recipients.iter().filter(waits).map(|r| r.due).min()
    }

    fn class(&self) -> Class {
        let busy = |r: &Recipient| matches!(r.phase, Phase::Ready | Phase::Flight | Phase::Owed);
        if self.switches.held {
            Class::Held
        } else if self.switches.committing || self.recipients.iter().any(busy) {
            Class::Active
        } else {
            Class::Deferred
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Class {
    #[default]
    Active,
    Deferred,
    Held,
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
struct Slot {
    generation: u32,
    class: Class,
    entry: Option<Entry>,
}

const GONE: u32 = u32::MAX;

/// All resident messages of one core.
#[derive(Debug, Default)]
pub struct Index {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Ids in ascending order with their slots; removed ones are marked and swept later. Ids grow
    /// with time, so that an insertion is nearly always at the end.
    order: VecDeque<(u64, u32)>,
    gone: usize,
    counters: Counters,
}

impl Index {
    /// Adds an entry. Panics if its id is there already: an id names one message for ever.
    pub fn insert(&mut self, entry: Entry) -> Key {
        let id = entry.id.0;
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = u32::try_from(self.slots.len()).expect("below 2^32 messages");
            self.slots.push(Slot { generation: 0, class: Class::Active, entry: None });
            slot
        });
        match self.order.back() {
            Some(&(last, _)) if last >= id => match self.order.binary_search_by_key(&id, |o| o.0) {
                Ok(at) => {
                    assert_eq!(self.order[at].1, GONE, "id {id} twice");
                    self.order[at].1 = slot;
                    self.gone -= 1;
                }
                Err(at) => self.order.insert(at, (id, slot)),
            },
            _ => self.order.push_back((id, slot)),
        }
        self.counters.messages += 1;
        self.counters.bytes += entry.size;
        let s = &mut self.slots[slot as usize];
        s.class = entry.class();
        *self.counters.of(s.class) += 1;
        s.entry = Some(entry);
        Key { slot, generation: s.generation }
    }

    /// The entry, if it is still there.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&Entry> {
        let s = self.slots.get(key.slot as usize)?;
        if s.generation == key.generation { s.entry.as_ref() } else { None }
    }

    /// Changes an entry and brings the counters up to date; `None` if it has gone.
    pub fn change<T>(&mut self, key: Key, change: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let s = self.slots.get_mut(key.slot as usize)?;
        if s.generation != key.generation {
            return None;
        }
        let entry = s.entry.as_mut()?;
        let size = entry.size;
        let out = change(entry);
        let class = entry.class();
        self.counters.bytes = self.counters.bytes - size + entry.size;
        if class != s.class {
            *self.counters.of(s.class) -= 1;
            *self.counters.of(class) += 1;
            s.class = class;
        }
        Some(out)
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: Key) -> Option<Entry> {
        let s = self.slots.get_mut(key.slot as usize)?;
        if s.generation != key.generation {
            return None;
        }
        let entry = s.entry.take()?;
        s.generation = s.generation.wrapping_add(1);
        *self.counters.of(s.class) -= 1;
        self.counters.messages -= 1;
        self.counters.bytes -= entry.size;
        self.free.push(key.slot);
        let at = self.order.binary_search_by_key(&entry.id.0, |o| o.0).expect("every entry is in order");
        self.order[at].1 = GONE;
        self.gone += 1;
        self.sweep();
        Some(entry)
    }

    fn sweep(&mut self) {
        while self.order.front().is_some_and(|o| o.1 == GONE) {
            self.order.pop_front();
            self.gone -= 1;
        }
        // At most as many marks as entries, so that the cost is constant per removal.
        if self.gone > 64 && self.gone * 2 > self.order.len() {
            self.order.retain(|o| o.1 != GONE);
            self.gone = 0;
        }
    }

    /// The key of a message.
    #[must_use]
    pub fn find(&self, id: MessageId) -> Option<Key> {
        let at = self.order.binary_search_by_key(&id.0, |o| o.0).ok()?;
        self.key_of(self.order[at].1)
    }

    /// Messages with ids above `after`, in ascending order.
    pub fn after(&self, after: MessageId) -> impl Iterator<Item = (Key, &Entry)> + use<'_> {
        let start = self.order.partition_point(|o| o.0 <= after.0);
        self.order.range(start..).filter_map(|o| {
            let key = self.key_of(o.1)?;
            Some((key, self.get(key)?))
        })
    }

    /// The id of the oldest message.
    #[must_use]
    pub fn oldest(&self) -> Option<MessageId> {
        self.order.front().map(|o| MessageId(o.0))
    }

    /// Counts.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn key_of(&self, slot: u32) -> Option<Key> {
        if slot == GONE {
            return None;
        }
        Some(Key { slot, generation: self.slots[slot as usize].generation })
    }
}

impl Counters {
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
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn entry(id: u64, phase: Phase) -> Entry {
        let mut e = Entry::new(MessageId(id), 10, BodyFlags(0));
        e.recipients.push(Recipient { phase, ..Recipient::default() });
        e
    }

    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Slot>() <= 144, "{} bytes", size_of::<Slot>());
        assert!(size_of::<Recipient>() <= 32, "{} bytes", size_of::<Recipient>());
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
        assert_eq!(index.find(MessageId(9)), Some(c));
        assert_eq!(index.find(MessageId(3)), None);
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in proptest::collection::vec((0u64..300, any::<bool>()), 1..600)) {
            let mut index = Index::default();
            let mut model = BTreeMap::new();
            for (id, insert) in steps {
                if insert && !model.contains_key(&id) {
                    model.insert(id, index.insert(entry(id, Phase::Ready)));
                } else if let Some(key) = model.remove(&id) {
                    prop_assert_eq!(index.remove(key).unwrap().id.0, id);
                }
                prop_assert_eq!(index.counters().messages, model.len());
                prop_assert_eq!(index.oldest().map(|i| i.0), model.keys().next().copied());
                prop_assert_eq!(index.find(MessageId(id)), model.get(&id).copied());
            }
            let listed: Vec<_> = index.after(MessageId(100)).map(|(k, e)| (e.id.0, k)).collect();
            let expected: Vec<_> = model.range(101..).map(|(i, k)| (*i, *k)).collect();
            prop_assert_eq!(listed, expected);
        }
    }
}

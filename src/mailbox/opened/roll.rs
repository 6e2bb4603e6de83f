//! L2: the messages of a mailbox while it is read: one array, made once, that [`super::Opened`] goes on with.
//!
//! No IO, async or clock. Messages come in the order of their UIDs, then what is newer lies over them;
//! another order is a bug and panics.

use super::Slot;
use crate::mailbox::types::Message;

/// Messages in ascending order of their UIDs.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct Roll {
    slots: Vec<Slot>,
}

impl Roll {
    /// With room for so many.
    #[must_use]
    pub fn with_room(messages: usize) -> Self {
        Roll { slots: Vec::with_capacity(messages) }
    }

    /// Adds one, with a UID above all others.
    pub fn push(&mut self, message: Message) {
        assert!(self.slots.last().is_none_or(|last| last.message.uid < message.uid), "by UID");
        self.slots.push(Slot { message, gone: 0 });
    }

    /// What `over` says, in the order of UIDs, counts instead: a message is so, or (`None`) is not there.
    /// `room`: so many messages there may be then.
    pub fn lay_over<E>(
        &mut self,
        room: usize,
        over: impl Iterator<Item = Result<(u32, Option<Message>), E>>,
    ) -> Result<(), E> {
        let read = self.slots.len();
        let (mut from, mut gone, mut sorted) = (0, false, true);
        for row in over {
            let (uid, message) = row?;
            // Most of it is new, and stands behind all that was read.
            let found = match self.slots[..read].last() {
                Some(last) if uid <= last.message.uid => {
                    self.slots[from..read].binary_search_by_key(&uid, |s| s.message.uid)
                }
                _ => Err(read - from),
            };
            from += found.unwrap_or_else(|at| at);
            match (found, message) {
                (Ok(_), Some(message)) => self.slots[from].message = message,
                (Ok(_), None) => {
                    // Any generation: it is taken out below.
                    self.slots[from].gone = 1;
                    gone = true;
                }
                (Err(_), Some(message)) => {
                    if self.slots.len() == read {
                        self.slots.reserve(room.saturating_sub(read));
                    }
                    sorted &= from == read;
                    self.slots.push(Slot { message, gone: 0 });
                }
                (Err(_), None) => {}
            }
        }
        if gone {
            self.slots.retain(|s| s.gone == 0);
        }
        if !sorted {
            // Two runs that are in order each.
            self.slots.sort_by_key(|s| s.message.uid);
        }
        Ok(())
    }

    /// They.
    pub fn iter(&self) -> impl Iterator<Item = &Message> {
        self.slots.iter().map(|s| &s.message)
    }

    /// The greatest UID.
    #[must_use]
    pub fn last(&self) -> Option<u32> {
        self.slots.last().map(|s| s.message.uid)
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn into_slots(self) -> Vec<Slot> {
        self.slots
    }
}

impl FromIterator<Message> for Roll {
    fn from_iter<T: IntoIterator<Item = Message>>(messages: T) -> Self {
        let messages = messages.into_iter();
        let mut roll = Roll::with_room(messages.size_hint().0);
        messages.for_each(|m| roll.push(m));
        roll
    }
}

impl From<Vec<Message>> for Roll {
    fn from(messages: Vec<Message>) -> Self {
        messages.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn message(uid: u32, modseq: u64) -> Message {
        Message { uid, modseq, ..Message::default() }
    }

    fn listed(roll: &Roll) -> Vec<(u32, u64)> {
        assert!(roll.slots.iter().all(|s| s.gone == 0));
        roll.iter().map(|m| (m.uid, m.modseq)).collect()
    }

    #[test]
    fn the_array_is_made_once() {
        let mut roll = Roll::with_room(11);
        let at = roll.slots.as_ptr();
        (1..=4).for_each(|uid| roll.push(message(uid, 1)));
        let over = (3..=12).map(|uid| Ok::<_, ()>((uid, (uid != 4 && uid != 5).then(|| message(uid, 2)))));
        roll.lay_over(10, over).unwrap();
        assert_eq!((roll.slots.as_ptr(), roll.len()), (at, 10));
        // One that could not be read: the same is said.
        assert_eq!(roll.lay_over(10, [Err("damaged")].into_iter()), Err("damaged"));
    }

    proptest! {
        #[test]
        fn the_newer_counts(
            rows in prop::collection::btree_set(1u32..60, 0..40),
            over in prop::collection::btree_map(1u32..80, any::<bool>(), 0..40),
        ) {
            let mut roll: Roll = rows.iter().map(|uid| message(*uid, 1)).collect();
            let mut model: BTreeMap<u32, u64> = rows.into_iter().map(|uid| (uid, 1)).collect();
            let laid = over.iter().map(|(uid, there)| Ok::<_, ()>((*uid, there.then(|| message(*uid, 2)))));
            roll.lay_over(0, laid).unwrap();
            for (uid, there) in over {
                match there {
                    true => drop(model.insert(uid, 2)),
                    false => drop(model.remove(&uid)),
                }
            }
            prop_assert_eq!(listed(&roll), model.into_iter().collect::<Vec<_>>());
        }
    }
}

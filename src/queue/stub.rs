//! L2: what is resident of a message that waits for a long time.
//!
//! Just enough to know when its turn comes, to end it when its time is over and to count it. All
//! else is read back before anything is done with it. Plain data; cannot fail.

use crate::base::ids::MessageId;
use crate::base::wheel;
use crate::queue::index::{Class, DestId, Entry, Phase, Recipient};
use std::ops::BitOr;

/// Stands for a destination: there are several, or none.
pub const SEVERAL: DestId = DestId::MAX;

/// A parked message: nobody is at work on any of its recipients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stub {
    /// Its id.
    pub id: MessageId,
    /// Bytes of trace headers and body.
    pub size: u64,
    /// The timer of its next due recipient.
    pub timer: Option<wheel::Key>,
    /// Where all go that are not done with, or [`SEVERAL`].
    pub destination: DestId,
    /// It stands in the list of a destination.
    pub ready: bool,
    /// Held by an operator.
    pub held: bool,
    /// What else is known.
    pub marks: Marks,
}

impl Stub {
    /// What stays of `e` when it is parked.
    #[must_use]
    pub fn of(e: &Entry) -> Self {
        let mut open = e.recipients.iter().filter(|r| !r.phase.is_done());
        let first = open.next().map_or(SEVERAL, |r| r.destination);
        // Of a notification that is owed the row says more.
        let single = open.all(|r| r.destination == first);
        let owed = e.recipients.iter().any(|r| r.phase.is_owed());
        let destination = if single && !owed { first } else { SEVERAL };
        let doubt = e.recipients.iter().any(Recipient::is_in_doubt);
        let marks = [
            (e.switches.warned, Marks::WARNED),
            (e.switches.double_bounce, Marks::DOUBLE_BOUNCE),
            (e.switches.null_sender, Marks::NULL_SENDER),
            (doubt, Marks::IN_DOUBT),
            (e.switches.lists.is_absent(), Marks::ABSENT),
        ];
        Stub {
            id: e.id,
            size: e.size,
            timer: e.timer,
            destination,
            ready: e.recipients.iter().any(|r| r.phase == Phase::Ready),
            held: e.switches.held,
            marks: marks.iter().filter(|m| m.0).fold(Marks::default(), |all, m| all | m.1),
        }
    }

    pub(crate) fn class(&self) -> Class {
        match self {
            Stub { held: true, .. } => Class::Held,
            Stub { ready: true, .. } => Class::Active,
            _ => Class::Deferred,
        }
    }
}

/// Marks of a [`Stub`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks(u8);

impl Marks {
    /// The sender has had a delay warning.
    pub const WARNED: Marks = Marks(1);
    /// A notification about a notification.
    pub const DOUBLE_BOUNCE: Marks = Marks(2);
    /// The sender is null.
    pub const NULL_SENDER: Marks = Marks(4);
    /// An attempt may have been under way when the last run ended.
    pub const IN_DOUBT: Marks = Marks(8);
    /// Being read back.
    pub const RECALLING: Marks = Marks(16);
    /// It has no place in the lists of some destinations for which it is ready.
    pub const ABSENT: Marks = Marks(32);

    /// True if all of `marks` are set.
    #[must_use]
    pub fn has(self, marks: Marks) -> bool {
        self.0 & marks.0 == marks.0
    }

    /// Sets `marks`, or takes them off.
    pub fn set(&mut self, marks: Marks, on: bool) {
        self.0 = if on { self.0 | marks.0 } else { self.0 & !marks.0 };
    }
}

impl BitOr for Marks {
    type Output = Marks;

    fn bitor(self, other: Marks) -> Marks {
        Marks(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::body::BodyFlags;

    #[test]
    fn a_stub_says_for_what_a_message_waits() {
        let mut e = Entry::new(MessageId(7), 10, BodyFlags(0));
        assert_eq!(Stub::of(&e).destination, SEVERAL);
        let to = |destination, phase| Recipient { destination, phase, ..Recipient::default() };
        e.recipients.extend([to(3, Phase::Waiting), to(4, Phase::Delivered), to(3, Phase::Waiting)]);
        e.switches.null_sender = true;
        let mut stub = Stub::of(&e);
        assert_eq!((stub.destination, stub.ready, stub.class()), (3, false, Class::Deferred));
        assert!(stub.marks.has(Marks::NULL_SENDER) && !stub.marks.has(Marks::WARNED));
        stub.marks.set(Marks::RECALLING, true);
        assert!(stub.marks.has(Marks::RECALLING | Marks::NULL_SENDER));
        stub.marks.set(Marks::RECALLING, false);
        assert_eq!(stub, Stub::of(&e));
        e.recipients[1].phase = Phase::Ready;
        e.recipients[1].cover = crate::queue::index::Cover::InDoubt;
        let stub = Stub::of(&e);
        assert_eq!((stub.destination, stub.ready, stub.class()), (SEVERAL, true, Class::Active));
        assert!(stub.marks.has(Marks::IN_DOUBT));
        e.switches.held = true;
        assert_eq!(Stub::of(&e).class(), Class::Held);
    }
}

//! L2: a message as long as something is being done with it: its recipients, its places in the journal.
//!
//! Plain data. What happens to it is the desk's business, who finds it the index's. Cannot fail.

use crate::base::aligned::SharedBytes;
use crate::base::ids::MessageId;
use crate::base::time::Mono;
use crate::base::wheel;
use crate::message::body::BodyFlags;
use crate::queue::bodies::BatchNumber;
use crate::queue::index::Class;
use crate::queue::state::OwnedReply;
use crate::storage::archive::Place;
use crate::storage::record::Location;
use smallvec::SmallVec;

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
    /// Passed on; its notification is being made, or waits to be.
    Passed,
    /// Passed on, told to whoever wanted to know.
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

    /// True if all that is left to do is to tell the sender.
    #[must_use]
    pub fn is_owed(self) -> bool {
        matches!(self, Phase::Owed | Phase::Passed)
    }
}

/// The due time of a recipient whose sender is to be told when there is room.
pub const SOME_DAY: Mono = Mono(u64::MAX);

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
    /// When the next attempt is due, if waiting; when the sender is to be told, if owed: 0: it is being
    /// done, [`SOME_DAY`]: when there is room.
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

impl Recipient {
    /// True if it is still to be sent to, and may have been before the last end of a process.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        self.cover == Cover::InDoubt && !self.phase.is_done() && !self.phase.is_owed()
    }

    /// True if the journal says what there is to tell about it: in a record of its own, or in that of
    /// the message, because it stands for others.
    #[must_use]
    pub fn is_on_record(&self) -> bool {
        self.said.len > 0 || self.phase == Phase::Passed && self.cover == Cover::None
    }
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
    /// Its sender is being told that it is late.
    pub telling: bool,
    /// Not to be kept: its submitter has gone without an answer.
    pub withdrawn: bool,
    /// Being read back from the journal.
    pub loading: bool,
    /// Being copied forward within the journal.
    pub moving: bool,
    /// The sender is null.
    pub null_sender: bool,
    /// In which lists it stands.
    pub lists: Lists,
}

/// Switches of an entry that concern lists, in one byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lists(u8);

impl Lists {
    const LISTED: u8 = 1;
    const ABSENT: u8 = 2;

    /// It stands in the list of those whose senders are to be told something.
    #[must_use]
    pub fn is_listed(self) -> bool {
        self.0 & Self::LISTED != 0
    }

    /// Sets that; gives what it was.
    pub fn set_listed(&mut self, on: bool) -> bool {
        self.set(Self::LISTED, on)
    }

    /// It has no place in the lists of some destinations for which it is ready.
    #[must_use]
    pub fn is_absent(self) -> bool {
        self.0 & Self::ABSENT != 0
    }

    /// Sets that; gives what it was.
    pub fn set_absent(&mut self, on: bool) -> bool {
        self.set(Self::ABSENT, on)
    }

    fn set(&mut self, bit: u8, on: bool) -> bool {
        let was = self.0 & bit != 0;
        self.0 = if on { self.0 | bit } else { self.0 & !bit };
        was
    }
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
    /// Where archive and index have it, if they do or are about to.
    pub archived: Option<Box<Archived>>,
}

/// A message whose body is in the archive and whose state the index has, or will have.
#[derive(Debug, PartialEq, Eq)]
pub struct Archived {
    /// Its body.
    pub place: Place,
    /// What next hops last said, by recipient.
    pub replies: Vec<(u32, OwnedReply)>,
    /// Records about it that are staged and not on stable storage yet.
    pub unsaid: u32,
}

impl Archived {
    /// Remembers what was said of a recipient.
    pub fn reply(&mut self, index: u32, reply: OwnedReply) {
        match self.replies.iter_mut().find(|r| r.0 == index) {
            Some(r) => r.1 = reply,
            None => self.replies.push((index, reply)),
        }
    }
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
            archived: None,
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
        let timed = |r: &Recipient| r.due > Mono(0) && r.due < SOME_DAY;
        let waits = |r: &&Recipient| r.phase == Phase::Waiting || r.phase.is_owed() && timed(r);
        self.recipients.iter().filter(waits).map(|r| r.due).min()
    }

    /// True if it is known from the journal, or the index, what there is to tell about all whose sender is
    /// to be told. The record that says so may have been staged only.
    #[must_use]
    pub fn is_owed_on_record(&self) -> bool {
        self.recipients.iter().all(|r| !r.phase.is_owed() || self.archived.is_some() || r.is_on_record())
    }

    /// True if some recipient's sender is being told.
    #[must_use]
    pub fn is_being_told(&self) -> bool {
        self.recipients.iter().any(|r| r.phase.is_owed() && r.due == Mono(0))
    }

    pub(crate) fn class(&self) -> Class {
        let busy = |r: &Recipient| match r.phase {
            Phase::Ready | Phase::Flight => true,
            phase => phase.is_owed() && r.due == Mono(0),
        };
        if self.switches.held {
            Class::Held
        } else if self.switches.committing || self.recipients.iter().any(busy) {
            Class::Active
        } else {
            Class::Deferred
        }
    }
}

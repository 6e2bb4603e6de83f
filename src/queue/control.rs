//! L4: what operators ask of a queue and what they get: plain data that may cross threads.
//!
//! The desk answers on its own core ([`Desk::control`](crate::queue::desk::Desk::control)), for all
//! logs of a core [`Logs::control`](crate::delivery::logs::Logs::control); how a request gets there is
//! the composition's affair. Field names of a listed message are those of
//! `postqueue -j`. Answers are bounded: lists come in pages, messages in pieces.

use crate::base::ids::{MessageId, QueueId};
use crate::queue::pick::{Pick, Verb};
use crate::queue::rules::Rule;
use serde::Serialize;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Messages at most in one page.
pub const PAGE_MAX: usize = 200;
/// Bytes at most in one piece of a message.
pub const PIECE_MAX: usize = 64 << 10;

/// Which messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Which {
    /// All.
    All,
    /// One.
    One(QueueId),
    /// These, as far as they are there.
    Some(Vec<QueueId>),
    /// Those with recipients at a destination that are not done.
    Destination(String),
}

/// Where the next slice of a selection begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// Behind this one.
    pub after: QueueId,
    /// Only among these, in order; none: among all of the log.
    pub few: Option<Arc<[MessageId]>>,
}

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Messages with ids after `after`, at most `limit` and [`PAGE_MAX`].
    List {
        /// The last one of the page before.
        after: Option<QueueId>,
        /// How many.
        limit: usize,
        /// Only those that may have been in flight when the last run ended.
        in_doubt: bool,
    },
    /// The next slice of the messages that are meant.
    Select {
        /// Which.
        pick: Box<Pick>,
        /// Those that this would not change do not count.
        verb: Verb,
        /// The end of the slice before.
        after: Option<Cursor>,
    },
    /// One message.
    Show(QueueId),
    /// Some messages, [`PAGE_MAX`] at most, as far as they are there.
    ShowSome(Vec<QueueId>),
    /// What one message waits for, and what has been tried.
    Why(QueueId),
    /// Bytes of a message (trace headers and body) from `offset`.
    Cat {
        /// Which.
        id: QueueId,
        /// From where.
        offset: u64,
    },
    /// Makes what waits due now. Limits of destinations hold.
    Flush(Which),
    /// Holds: no attempts until released.
    Hold {
        /// Which.
        which: Which,
        /// Who and why.
        note: String,
    },
    /// Lets go.
    Release {
        /// Which.
        which: Which,
        /// Who and why.
        note: String,
    },
    /// Removes; nobody is notified; the journal keeps who and why as long as it keeps anything of it.
    Delete {
        /// Which.
        which: Which,
        /// Who and why.
        note: String,
    },
    /// Gives up what waits; the senders are told.
    Bounce {
        /// Which.
        which: Which,
        /// Who and why, for the journal.
        note: String,
        /// Why, for the senders; may be empty.
        reason: String,
    },
    /// Routes what waits anew, forgets its attempts and tries it now.
    Requeue {
        /// Which.
        which: Which,
        /// Who and why.
        note: String,
    },
    /// Sends what waits of these by a next hop of their own, and tries it now.
    Reroute {
        /// Which.
        ids: Vec<QueueId>,
        /// Who and why.
        note: String,
        /// The next hop, as [`Routing::via`](super::routing::Routing::via) takes it; empty: as routes say
        /// again.
        to: String,
    },
    /// Counts.
    Stats,
    /// From now on these rules, and no others.
    Rules(Vec<Rule>),
    /// Copies the index as it is at one moment into this directory (absolute), as a file `NNNN.index`.
    CopyIndex(PathBuf),
}

/// An answer.
#[derive(Clone, PartialEq, Debug)]
pub enum Response {
    /// Some messages.
    Page {
        /// In order of id.
        messages: Vec<Listed>,
        /// Give this as `after` for the next page; none: this was the last.
        next: Option<QueueId>,
    },
    /// A slice of messages that are meant.
    Selected {
        /// In order of id.
        ids: Vec<QueueId>,
        /// Bytes of their trace headers and bodies.
        bytes: u64,
        /// Messages looked at.
        looked: u64,
        /// Messages that would have to be read, and cannot be now.
        unread: u64,
        /// Give this as `after` for the next slice; none: this was the last.
        next: Option<Cursor>,
    },
    /// What a message waits for.
    Why(Box<Why>),
    /// A piece of a message.
    Piece {
        /// The bytes; none at the end.
        bytes: Vec<u8>,
        /// Bytes of the whole message.
        size: u64,
    },
    /// So many messages were changed, and the change is on stable storage.
    Done(u64),
    /// Counts of each queue, by number of its log.
    Stats(Vec<Stats>),
    /// The copies made, by number of the log.
    Copied(Vec<Copied>),
    /// It did not work.
    Error(ControlError),
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlError {
    /// There is no such message (any more).
    NotFound,
    /// The queue is poisoned or being closed.
    Closed,
    /// The message could not be read from the disk.
    Unreadable,
    /// The log of the message is still to be read.
    Opening,
    /// The index could not be copied; `AlreadyExists`: there is such a file.
    NotCopied(io::ErrorKind),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ControlError::NotCopied(kind) => return write!(f, "the index cannot be copied: {kind}"),
            ControlError::NotFound => "no such message in the queue",
            ControlError::Closed => "the queue is closed",
            ControlError::Unreadable => "the message cannot be read",
            ControlError::Opening => "the log of this message is still being opened: try again",
        })
    }
}

impl std::error::Error for ControlError {}

/// A message as `postqueue -j` lists it, and a little more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Listed {
    /// `active`, `deferred` or `hold`.
    pub queue_name: &'static str,
    /// Its id.
    pub queue_id: String,
    /// Seconds since 1970.
    pub arrival_time: u64,
    /// Bytes of trace headers and body.
    pub message_size: u64,
    /// Always false: there is no forced expiry.
    pub forced_expire: bool,
    /// The sender; empty for the null sender (`MAILER-DAEMON` in `mailq`).
    pub sender: String,
    /// Those that are not done.
    pub recipients: Vec<ListedRecipient>,
    /// The next hop that an operator has given it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerouted: Option<String>,
    /// Who sent it and to whom cannot be read from the disk at present; only what is in memory is told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unreadable: bool,
}

/// A recipient of a listed message.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ListedRecipient {
    /// Its address.
    pub address: String,
    /// Why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_reason: Option<String>,
    /// Its destination.
    pub destination: String,
    /// Attempts that ended without success.
    pub attempts: u16,
    /// Milliseconds until the next attempt, if it waits for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_in_ms: Option<u64>,
    /// May have been in flight when the last run ended.
    pub in_doubt: bool,
}

/// Why a message is still here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Why {
    /// Its id.
    pub queue_id: String,
    /// Seconds since 1970.
    pub arrival_time: u64,
    /// The sender; empty for the null sender.
    pub sender: String,
    /// Bytes of trace headers and body.
    pub message_size: u64,
    /// The next hop that an operator has given it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerouted: Option<String>,
    /// Those that are not done.
    pub recipients: Vec<WhyRecipient>,
}

/// Why a recipient is still here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct WhyRecipient {
    /// Its address.
    pub address: String,
    /// `ready`, `sending`, `deferred`, `paused`, `limited`, `suspended`, `held` or `failed`.
    pub state: &'static str,
    /// What must happen before it goes on; for people.
    pub waits_for: String,
    /// Its destination.
    pub destination: String,
    /// The site that the destination is known to belong to; the destination itself before it is known.
    pub site: String,
    /// Messages before it in its destination's list, if it stands there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ahead: Option<u64>,
    /// Attempts that ended without success.
    pub attempts: u16,
    /// What was said of the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reply: Option<String>,
    /// The first attempt and the ten latest, as far as the journal still has them, and the last one.
    pub tried: Vec<Tried>,
    /// Attempts of which nothing is known any more.
    pub missing: u32,
}

/// An attempt that ended without success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Tried {
    /// Its number, from 1.
    pub attempt: u16,
    /// What the next hop, or we, said.
    pub reply: String,
    /// The server that said so; empty: unknown, or nobody.
    pub server: String,
    /// Before this no other one was to be made; RFC 3339. Empty: not known any more.
    pub next: String,
}

/// A copy of an index.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Copied {
    /// Number of the log.
    pub log: u16,
    /// The file.
    pub path: PathBuf,
}

/// Counts of one queue.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Stats {
    /// Number of its log.
    pub log: u16,
    /// All messages.
    pub messages: usize,
    /// Ready or in flight.
    pub active: usize,
    /// Waiting for a retry.
    pub deferred: usize,
    /// Held.
    pub held: usize,
    /// Bytes of trace headers and bodies.
    pub bytes: u64,
    /// Of all, those that are in archive and index, not in the journal.
    pub parked: usize,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Bytes of it that are still needed.
    pub archive_live_bytes: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// The index is still being read after the start: not all messages are known.
    pub loading: bool,
    /// Arrival of the oldest, milliseconds since 1970.
    pub oldest_ms: Option<u64>,
    /// Journal segments in use.
    pub journal_segments: usize,
    /// Bytes of records that are still needed.
    pub journal_live_bytes: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// After a write error: nothing is accepted until a restart.
    pub poisoned: bool,
    /// Sites and next hops with messages, connections or failures; and suspended destinations.
    pub destinations: Vec<DestinationStats>,
}

/// One destination.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DestinationStats {
    /// Its name.
    pub name: String,
    /// Messages in its list.
    pub ready: usize,
    /// Connections open or being opened.
    pub connections: u32,
    /// Failures in a row.
    pub failures: u32,
    /// Milliseconds until it is tried again, if it is left alone.
    pub paused_ms: Option<u64>,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

//! What goes over the admin socket: one request a connection, answered by lines of JSON.
//!
//! Owns the form of both, shared by the server and the command line. A request is one [`Command`]
//! in a line; each line of the answer is one [`Line`]; behind a `Line::Matches` with `asks` the server
//! waits for one more line, [`GO`], before it changes anything; a `Line::Bytes` is followed by that many raw
//! bytes; `Line::End` is the last.

use crate::queue::pick::{Pick, Verb};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Longest request line in bytes.
pub const REQUEST_MAX: usize = 64 << 10;

/// What a client says that wants a change to be made, once it has seen how much it is.
pub const GO: &str = "go";

/// Which messages a change is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// All.
    All,
    /// These queue ids.
    Ids(Vec<String>),
    /// Those with recipients waiting for this destination.
    Destination(String),
}

/// A request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// All messages.
    List {
        /// Only those that may have been in flight when the last run ended.
        #[serde(default)]
        in_doubt: bool,
    },
    /// One message.
    Show {
        /// Queue id.
        id: String,
    },
    /// The text of one message.
    Cat {
        /// Queue id.
        id: String,
    },
    /// What one message waits for.
    Why {
        /// Queue id.
        id: String,
    },
    /// Nothing is sent to these destinations until they are resumed.
    Suspend {
        /// A destination, a site or a domain; `*` or the end of a name after `*`.
        what: String,
        /// Why; kept with the rule.
        #[serde(default)]
        reason: String,
        /// Seconds after which the rule ends by itself.
        #[serde(default)]
        seconds: Option<u64>,
    },
    /// Takes rules back.
    Resume {
        /// The number of a rule, or its `what`.
        which: String,
    },
    /// The rules that hold.
    Rules,
    /// Makes what waits due now.
    Flush {
        /// Which.
        which: Which,
    },
    /// No attempts until released.
    Hold {
        /// Which.
        which: Which,
        /// Why; kept with the message.
        #[serde(default)]
        reason: String,
    },
    /// Lets go.
    Release {
        /// Which.
        which: Which,
        /// Why.
        #[serde(default)]
        reason: String,
    },
    /// Removes without notifying anybody.
    Delete {
        /// Which.
        which: Which,
        /// Why; kept in the journal.
        #[serde(default)]
        reason: String,
    },
    /// Does something to all messages that are meant.
    Pick {
        /// Which.
        pick: Box<Pick>,
        /// What.
        verb: Verb,
        /// These instead, whatever else is meant.
        #[serde(default)]
        ids: Vec<String>,
        /// Why; kept with each message, and told to senders of what is given up.
        #[serde(default)]
        reason: String,
        /// Says how many they are, and changes nothing.
        #[serde(default)]
        dry_run: bool,
        /// Says how many they are, and waits for [`GO`].
        #[serde(default)]
        ask: bool,
        /// Of a hold: seconds after which it ends by itself.
        #[serde(default)]
        seconds: Option<u64>,
        /// Of a reroute: the next hop, `mx` or `default`.
        #[serde(default)]
        to: Option<String>,
    },
    /// Takes a hold back.
    Undo {
        /// Its number.
        number: u32,
    },
    /// The holds that can be taken back.
    Holds,
    /// The sessions that are open.
    Who,
    /// Ends sessions.
    Kick {
        /// A login, or an address.
        whom: String,
    },
    /// No new mail is taken any more; or it is again.
    Drain {
        /// Which of the two.
        on: bool,
    },
    /// Keeps a user from logging in, and ends the sessions.
    Disable {
        /// The login.
        login: String,
        /// Why; for people.
        #[serde(default)]
        reason: String,
    },
    /// Lets a user log in again.
    Enable {
        /// The login.
        login: String,
    },
    /// Who may not log in.
    Disabled,
    /// What passes between us and a peer, as it passes.
    Trace {
        /// We have connected to it.
        outwards: bool,
        /// An address, the name of a host or the end of one, or `*`.
        peer: String,
        /// For so long.
        seconds: u64,
    },
    /// The text of `/metrics`.
    Metrics,
    /// Counts of each queue.
    Stats,
    /// Copies the mailbox shards.
    BackupMailboxes {
        /// Directory on the server, absolute, that its user may write to, with nothing in it.
        dir: PathBuf,
    },
    /// Copies the index of each log.
    CopyIndex {
        /// Directory on the server, absolute, that its user may write to.
        dir: PathBuf,
    },
}

/// A line of an answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A message, with the field names of `postqueue -j`.
    Message(serde_json::Value),
    /// The counts of one queue.
    Stats(serde_json::Value),
    /// What a message waits for.
    Why(serde_json::Value),
    /// A rule of operators.
    Rule(serde_json::Value),
    /// An index has been copied: number of its log and the file; or a mailbox shard: its number and bytes.
    Copied(serde_json::Value),
    /// So many messages are meant.
    Matches {
        /// How many.
        messages: u64,
        /// Bytes of their trace headers and bodies.
        bytes: u64,
        /// Messages that would have to be read to decide, and cannot be now: they are not among them.
        unread: u64,
        /// The server waits for [`GO`].
        asks: bool,
    },
    /// So far it has come.
    Progress {
        /// What is being done.
        what: String,
        /// So much of it.
        done: u64,
        /// Of so much, about.
        of: u64,
    },
    /// A hold that can be taken back.
    Hold(serde_json::Value),
    /// A session that is open.
    Session(serde_json::Value),
    /// A line that has passed.
    Traced(serde_json::Value),
    /// A user who may not log in.
    Locked(serde_json::Value),
    /// So many raw bytes follow.
    Bytes(u64),
    /// So many messages were changed, and the change is on stable storage.
    Done(u64),
    /// It did not work.
    Error {
        /// Why.
        text: String,
        /// Exit code for the command line, after sysexits.h.
        code: u8,
    },
    /// Nothing follows.
    End,
}

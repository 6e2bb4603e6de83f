//! What goes over the admin socket: one request a connection, answered by lines of JSON.
//!
//! Owns the form of both, shared by the server and the command line. A request is one [`Command`]
//! in a line; each line of the answer is one [`Line`]; a `Line::Bytes` is followed by that many raw
//! bytes; `Line::End` is the last.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Longest request line in bytes.
pub const REQUEST_MAX: usize = 64 << 10;

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
    /// Counts of each queue.
    Stats,
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
    /// An index has been copied: number of its log and the file.
    Copied(serde_json::Value),
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

//! What operators ask and are told: requests and lines of answers, apart from how they travel.
//!
//! Owns the form of both, shared by the server and the command line. How a [`Command`] becomes an HTTP
//! request and back is in [`super::routes`]; how [`Line`]s become bodies in [`super::render`]. Plain data.

use crate::queue::pick::{Pick, Verb};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Longest body of a request in bytes.
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
    /// Those of which all conditions hold.
    Pick(Box<Pick>),
}

/// True for what need not be written.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A change of messages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// What.
    pub verb: Verb,
    /// Which; none if there is a stamp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub which: Option<Which>,
    /// Why; kept with each message, and told to senders of what is given up.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reason: String,
    /// Of a hold: seconds after which it ends by itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seconds: Option<u64>,
    /// Of a reroute: the next hop, `mx` or `default`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub to: Option<String>,
    /// Says how many they are, and changes nothing; the answer has a stamp.
    #[serde(default, skip_serializing_if = "is_default")]
    pub preview: bool,
    /// Changes what a condition means without a preview.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unseen: bool,
    /// Of a preview: exactly what that has counted is changed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stamp: Option<String>,
}

impl Change {
    /// Of these messages, without more to it.
    #[must_use]
    pub fn of(verb: Verb, which: Which) -> Change {
        let (which, reason) = (Some(which), String::new());
        Change { verb, which, reason, seconds: None, to: None, preview: false, unseen: false, stamp: None }
    }
}

/// A request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Messages.
    List {
        /// Which.
        #[serde(default, skip_serializing_if = "is_default")]
        pick: Box<Pick>,
        /// Only those that may have been in flight when the last run ended; goes with no condition.
        #[serde(default, skip_serializing_if = "is_default")]
        in_doubt: bool,
        /// Only how many they are.
        #[serde(default, skip_serializing_if = "is_default")]
        count: bool,
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
    /// Does something to messages.
    Change(Change),
    /// Takes a hold back.
    Undo {
        /// Its number.
        number: u32,
    },
    /// The holds that can be taken back.
    Holds,
    /// Nothing is sent to these destinations until they are resumed.
    Suspend {
        /// A destination, a site or a domain; `*` or the end of a name after `*`.
        what: String,
        /// Why; kept with the rule.
        #[serde(default, skip_serializing_if = "is_default")]
        reason: String,
        /// Seconds after which the rule ends by itself.
        #[serde(default, skip_serializing_if = "is_default")]
        seconds: Option<u64>,
    },
    /// Takes rules back.
    Resume {
        /// The number of a rule, or its `what`.
        which: String,
    },
    /// The rules that hold.
    Rules,
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
        #[serde(default, skip_serializing_if = "is_default")]
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
        #[serde(default, skip_serializing_if = "is_default")]
        outwards: bool,
        /// An address, the name of a host or the end of one, or `*`.
        peer: String,
        /// For so long.
        seconds: u64,
    },
    /// Whether mail is taken, and how much there is.
    State,
    /// What `ringpost top` shows.
    Top {
        /// Time over which rates are counted.
        #[serde(default, skip_serializing_if = "is_default")]
        seconds: Option<u64>,
    },
    /// The text of `/metrics`.
    Metrics,
    /// Counts of each queue.
    Stats,
    /// What each log has on the disk.
    Storage,
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
    /// Reads maps, users, keys and certificates anew.
    Reload,
    /// The description of this interface.
    Description,
}

/// Why it did not work: RFC 9457 §3.1, and the exit code of the command line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// `about:blank`: the status says what kind it is (RFC 9457 §4.2.1).
    #[serde(rename = "type")]
    pub kind: String,
    /// The words of the status.
    pub title: String,
    /// The status of HTTP.
    pub status: u16,
    /// What is wrong this time.
    pub detail: String,
    /// Exit code for the command line, after sysexits.h.
    pub exit_code: u8,
}

impl Problem {
    /// With a status by the exit code.
    #[must_use]
    pub fn new(code: u8, detail: impl Into<String>) -> Problem {
        let status = match code {
            64 => 400,
            65 | 67 => 404,
            69 | 75 => 503,
            77 => 403,
            _ => 500,
        };
        Problem::with(status, code, detail)
    }

    /// With a status of its own.
    #[must_use]
    pub fn with(status: u16, code: u8, detail: impl Into<String>) -> Problem {
        let title = hyper::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
        let (kind, title) = ("about:blank".into(), title.unwrap_or("Error").into());
        Problem { kind, title, status, detail: detail.into(), exit_code: code }
    }
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
        /// Of a preview: with this, exactly these are changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stamp: Option<String>,
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
    /// How the server is.
    State(serde_json::Value),
    /// What `ringpost top` shows.
    Top(serde_json::Value),
    /// What a log has on the disk.
    Storage(serde_json::Value),
    /// What has been read anew.
    Reloaded(serde_json::Value),
    /// So many messages, rules, sessions or users were changed, and what must last is on stable storage.
    Changed(u64),
    /// It did not work, or not all of it.
    Problem(Problem),
}

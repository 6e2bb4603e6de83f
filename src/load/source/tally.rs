//! What the sessions of one thread add up: results, latencies, replies, the ledger.
//!
//! Owns counting only; threads are merged at the end. Cannot fail.

use crate::load::histogram::Histogram;
use crate::load::ledger::Ledger;
use std::collections::BTreeMap;
use std::fmt;

/// What a reply answers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// The greeting.
    Connect,
    /// EHLO.
    Ehlo,
    /// AUTH.
    Auth,
    /// STARTTLS.
    StartTls,
    /// MAIL FROM.
    Mail,
    /// RCPT TO, number of the recipient within its message.
    Rcpt(u32),
    /// DATA.
    Data,
    /// The final dot of a message.
    Dot,
    /// The final dot of an empty message, sent because no recipient was taken.
    EmptyDot,
    /// RSET.
    Reset,
    /// QUIT.
    Quit,
    /// Nothing: a reply without a command.
    Unasked,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Connect => "connect",
            Phase::Ehlo => "ehlo",
            Phase::Auth => "auth",
            Phase::StartTls => "starttls",
            Phase::Mail => "mail",
            Phase::Rcpt(_) => "rcpt",
            Phase::Data => "data",
            Phase::Dot => "dot",
            Phase::EmptyDot => "empty",
            Phase::Reset => "rset",
            Phase::Quit => "quit",
            Phase::Unasked => "unasked",
        })
    }
}

/// The sums of one thread.
#[derive(Default)]
pub struct Tally {
    /// Messages with a positive reply to the final dot.
    pub acknowledged: u64,
    /// Messages with a negative reply to the final dot.
    pub refused: u64,
    /// Messages given up before the final dot.
    pub failed: u64,
    /// Messages whose final dot was sent and that got no reply.
    pub unanswered: u64,
    /// Bytes of acknowledged messages.
    pub bytes: u64,
    /// Final dot handed to the kernel, until its reply was read; nanoseconds.
    pub latency: Histogram,
    /// Replies other than the hoped-for ones, by phase and code.
    pub replies: BTreeMap<(Phase, u16), u64>,
    /// Connections that were greeted or refused by a reply.
    pub connections: u64,
    /// Connections that could not be opened, by kind of error.
    pub connect_errors: BTreeMap<String, u64>,
    /// Connections that broke, by kind of error.
    pub broken: BTreeMap<String, u64>,
    /// The ledger, if one is kept.
    pub ledger: Option<Ledger>,
    /// For texts made per message, so that none is allocated.
    pub scratch: Vec<u8>,
    /// For ids made per message.
    pub id: String,
}

impl Tally {
    /// Counts a reply that was not hoped for.
    pub fn count(&mut self, phase: Phase, code: u16) {
        let phase = if let Phase::Rcpt(_) = phase { Phase::Rcpt(0) } else { phase };
        *self.replies.entry((phase, code)).or_insert(0) += 1;
    }

    /// Adds all of `other` but its ledger.
    pub fn merge(&mut self, other: Tally) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.failed += other.failed;
        self.unanswered += other.unanswered;
        self.bytes += other.bytes;
        self.connections += other.connections;
        self.latency.merge(&other.latency);
        for (key, n) in other.replies {
            *self.replies.entry(key).or_insert(0) += n;
        }
        for (mine, theirs) in
            [(&mut self.connect_errors, other.connect_errors), (&mut self.broken, other.broken)]
        {
            for (key, n) in theirs {
                *mine.entry(key).or_insert(0) += n;
            }
        }
    }
}

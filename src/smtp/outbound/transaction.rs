//! L2: the recipients of one transaction and what became of each.
//!
//! A recipient is decided once; a second decision is passed over, so that no dialogue, however
//! odd, gives two results. Buffers are reused from transaction to transaction.

use super::Framing;
use crate::smtp::reply_in::{Enhanced, Reply, TEXT_MAX};
use smallvec::SmallVec;
use std::fmt;
use std::ops::Range;

/// What became of one recipient in one transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Outcome {
    /// The next hop has taken responsibility: 2xx to the final dot (with LMTP, for this recipient).
    Delivered,
    /// Not now; counts as an attempt.
    Deferred,
    /// Never.
    Failed,
    /// Nothing was said or risked for this one (the transaction was full, or the server turned out
    /// not to know BDAT): take it again at once, no attempt is counted. A transaction decides at
    /// least one recipient otherwise, but for the one that finds out about BDAT.
    NotTried,
}

/// Where in the dialogue something happened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// We ourselves, before a word was sent.
    Local,
    /// Waiting for the greeting.
    Banner,
    /// EHLO or HELO.
    Hello,
    /// MAIL (and the RSET before it).
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// Sending the message, before the end of data.
    Body,
    /// After the end of data. With reply code 0: in doubt, the next hop may have the message.
    FinalDot,
    /// QUIT, or nothing going on.
    Idle,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Local => "before sending",
            Phase::Banner => "waiting for the greeting",
            Phase::Hello => "EHLO",
            Phase::Mail => "MAIL",
            Phase::Rcpt => "RCPT",
            Phase::Data => "DATA",
            Phase::Body => "sending the message",
            Phase::FinalDot => "end of data",
            Phase::Idle => "idle",
        })
    }
}

/// The result of one recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecipientResult<'a> {
    /// Number of the recipient in the message's envelope.
    pub index: u32,
    /// What became of it.
    pub outcome: Outcome,
    /// Reply code of the next hop; 0 if there was no reply (the text is ours then).
    pub code: u16,
    /// Enhanced code, from the reply or ours.
    pub enhanced: Option<Enhanced>,
    /// Text of the reply without its codes, one line, no controls, at most 512 bytes; may contain
    /// bytes above 127.
    pub text: &'a [u8],
    /// Where it happened.
    pub phase: Phase,
    /// Which transaction of its connection this was, from 1; 0 if none was begun.
    pub conn_use: u32,
    /// The next hop offers DSN and got NOTIFY and ORCPT (RFC 3461 §5.2.2: else a delivered
    /// recipient with NOTIFY=SUCCESS is reported as relayed by us).
    pub dsn_passed_on: bool,
}

/// The results of a transaction in the order of its job; up to eight without an allocation.
pub type Results<'a> = SmallVec<[RecipientResult<'a>; 8]>;

/// What one reply, or its lack, says.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    outcome: Outcome,
    code: u16,
    enhanced: Option<Enhanced>,
    text: Range<u32>,
    phase: Phase,
}

#[derive(Clone, Debug)]
enum State {
    Waiting,
    Accepted,
    Decided(Verdict),
}

#[derive(Debug, Default)]
pub(super) struct Transaction {
    slots: Vec<(u32, State)>,
    text: Vec<u8>,
    /// Recipients that the server has taken so far.
    accepted: u32,
    waiting: u32,
    /// With LMTP: the slot behind the last for which the end of data was answered.
    next: usize,
    /// Some reply of this transaction has come.
    pub heard: bool,
    /// The server may have a transaction open until end of data or RSET.
    pub unclosed: bool,
    pub framing: Framing,
    /// The message has left with its envelope.
    pub whole: bool,
    /// Bytes of the message.
    pub size: u64,
    pub conn_use: u32,
    pub dsn: bool,
}

impl Transaction {
    pub fn clear(&mut self, dsn: bool) {
        self.slots.clear();
        self.text.clear();
        *self = Transaction {
            slots: std::mem::take(&mut self.slots),
            text: std::mem::take(&mut self.text),
            dsn,
            ..Transaction::default()
        };
    }

    /// Adds a recipient whose fate is open; gives its slot.
    pub fn add(&mut self, index: u32) -> usize {
        self.slots.push((index, State::Waiting));
        self.waiting += 1;
        self.slots.len() - 1
    }

    /// Recipients that are neither taken nor decided.
    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    pub fn accepted(&self) -> u32 {
        self.accepted
    }

    /// The server has taken the recipient.
    pub fn accept(&mut self, slot: usize) {
        if let State::Waiting = self.slots[slot].1 {
            self.slots[slot].1 = State::Accepted;
            self.waiting -= 1;
            self.accepted += 1;
        }
    }

    /// A verdict from a reply.
    pub fn said(&mut self, outcome: Outcome, reply: &Reply<'_>, phase: Phase) -> Verdict {
        let text = self.store(reply.text);
        Verdict { outcome, code: reply.code, enhanced: reply.enhanced, text, phase }
    }

    /// A verdict of our own.
    pub fn own(&mut self, outcome: Outcome, enhanced: Enhanced, text: &[u8], phase: Phase) -> Verdict {
        let text = self.store(text);
        Verdict { outcome, code: 0, enhanced: Some(enhanced), text, phase }
    }

    /// Decides one recipient, unless it is decided.
    pub fn decide(&mut self, slot: usize, verdict: Verdict) {
        let state = &mut self.slots[slot].1;
        match state {
            State::Decided(_) => return,
            State::Waiting => self.waiting -= 1,
            State::Accepted => self.accepted -= 1,
        }
        *state = State::Decided(verdict);
    }

    /// Decides the first of the recipients that the server has taken and not answered for.
    pub fn decide_next(&mut self, verdict: Verdict) {
        let taken = |(_, state): &(u32, State)| matches!(state, State::Accepted);
        let Some(at) = self.slots[self.next..].iter().position(taken) else { return };
        let slot = self.next + at;
        self.next = slot + 1;
        self.decide(slot, verdict);
    }

    /// Decides all recipients that are not.
    pub fn decide_rest(&mut self, verdict: &Verdict) {
        for (_, state) in &mut self.slots {
            if !matches!(state, State::Decided(_)) {
                *state = State::Decided(verdict.clone());
            }
        }
        self.waiting = 0;
        self.accepted = 0;
    }

    /// What the server has said of recipients does not count.
    pub fn retract(&mut self) {
        for (_, state) in &mut self.slots {
            if matches!(state, State::Decided(v) if v.phase != Phase::Local) {
                *state = State::Waiting;
                self.waiting += 1;
            }
        }
    }

    /// The results. Panics if a recipient is not decided.
    pub fn results(&self) -> Results<'_> {
        let result = |(index, state): &(u32, State)| {
            let State::Decided(v) = state else { panic!("recipient {index} is not decided") };
            RecipientResult {
                index: *index,
                outcome: v.outcome,
                code: v.code,
                enhanced: v.enhanced,
                text: &self.text[v.text.start as usize..v.text.end as usize],
                phase: v.phase,
                conn_use: self.conn_use,
                dsn_passed_on: self.dsn && self.conn_use > 0,
            }
        };
        self.slots.iter().map(result).collect()
    }

    fn store(&mut self, text: &[u8]) -> Range<u32> {
        let start = self.text.len() as u32;
        let text = &text[..text.len().min(TEXT_MAX)];
        self.text.extend(text.iter().map(|&b| if b == b'\n' { b' ' } else { b }));
        start..self.text.len() as u32
    }
}

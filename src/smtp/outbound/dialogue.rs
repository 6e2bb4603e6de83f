//! L2: which reply is expected, and what each reply means.
//!
//! Replies come in the order of the commands, so a queue of what is expected is the whole state of
//! the dialogue. Two ways to send a transaction: all commands at once (PIPELINING), or one by one
//! out of `script`.

use super::capability::Capabilities;
use super::command;
use super::transaction::{Outcome, Phase, Results, Transaction};
use super::{Ending, Options, Step};
use crate::base::time::Mono;
use crate::smtp::reply_in::{Reply, ReplyError, TEXT_MAX};
use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

/// Why the connection is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// The server did not greet us: its code. 5xx: it never will.
    Refused(u16),
    /// 421: the server closes (RFC 5321 §3.8).
    ServerClosing,
    /// A reply that cannot be read.
    Unreadable(ReplyError),
    /// A reply that does not fit its command, or that belongs to none.
    Unexpected(u16),
    /// QUIT has been answered.
    Quit,
}

/// How a connection was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// The server closed, or the network failed.
    Connection,
    /// A deadline passed.
    Deadline,
    /// The server's replies make no sense.
    Protocol,
    /// We gave up for reasons of our own; nothing is held against server or message.
    GivenUp,
    /// We could not read the message.
    Unreadable,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expected {
    Banner,
    Ehlo,
    Helo,
    Reset,
    Mail,
    Rcpt(usize),
    Data,
    FinalDot,
    /// The reply to a final dot without a message: DATA was taken though no recipient was.
    EmptyDot,
    Quit,
}

impl Expected {
    fn phase(self) -> Phase {
        match self {
            Expected::Banner => Phase::Banner,
            Expected::Ehlo | Expected::Helo => Phase::Hello,
            Expected::Reset | Expected::Mail => Phase::Mail,
            Expected::Rcpt(_) => Phase::Rcpt,
            Expected::Data | Expected::EmptyDot => Phase::Data,
            Expected::FinalDot => Phase::FinalDot,
            Expected::Quit => Phase::Idle,
        }
    }

    fn limit(self, o: &Options) -> Duration {
        match self {
            Expected::Banner => o.banner,
            Expected::Ehlo | Expected::Helo => o.hello,
            Expected::Reset | Expected::Mail => o.mail,
            Expected::Rcpt(_) => o.rcpt,
            Expected::Data => o.data,
            Expected::FinalDot | Expected::EmptyDot => o.final_dot,
            Expected::Quit => o.quit,
        }
    }
}

#[derive(Debug)]
pub(super) struct Dialogue {
    pub(super) options: Options,
    pub(super) caps: Capabilities,
    pub(super) expected: VecDeque<Expected>,
    /// Since when the front of `expected` is expected.
    since: Mono,
    /// Commands not yet sent, where they go one by one: one line for each of `expected` but the
    /// first. Empty where they go all at once.
    pub(super) script: Vec<u8>,
    pub(super) script_at: usize,
    /// EHLO or HELO has been answered.
    open: bool,
    /// DATA has been answered: the message is to be sent.
    body_wanted: bool,
    /// The server has a transaction open that no end of data has closed: RSET before the next.
    pub(super) needs_reset: bool,
    /// Transactions open: 0, 1 (`current`), 2 (`next` behind it).
    pub(super) in_flight: u8,
    pub(super) current: Transaction,
    pub(super) next: Transaction,
    /// The one that was settled last.
    pub(super) settled: Transaction,
    /// Transactions begun.
    pub(super) begun: u32,
    close: Option<Close>,
    last_words: Vec<u8>,
}

impl Dialogue {
    pub fn new(options: Options, now: Mono) -> Self {
        assert!(options.recipients_max > 0 && options.transactions_max > 0, "limits of at least one");
        Dialogue {
            options,
            caps: Capabilities::default(),
            expected: VecDeque::from([Expected::Banner]),
            since: now,
            script: Vec::new(),
            script_at: 0,
            open: false,
            body_wanted: false,
            needs_reset: false,
            in_flight: 0,
            current: Transaction::default(),
            next: Transaction::default(),
            settled: Transaction::default(),
            begun: 0,
            close: None,
            last_words: Vec::new(),
        }
    }

    pub fn closed(&self) -> Option<Close> {
        self.close
    }

    pub fn is_open(&self) -> bool {
        self.open
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    pub fn capabilities(&self) -> &Capabilities {
        &self.caps
    }

    pub fn transactions(&self) -> u32 {
        self.begun
    }

    pub fn last_words(&self) -> &[u8] {
        &self.last_words
    }

    pub fn results(&self) -> Results<'_> {
        self.settled.results()
    }

    pub fn deadline(&self) -> Option<Mono> {
        self.expected.front().map(|a| self.since.after(a.limit(&self.options)))
    }

    pub fn phase(&self) -> Phase {
        match self.expected.front() {
            Some(a) => a.phase(),
            None if self.body_wanted => Phase::Body,
            None => Phase::Idle,
        }
    }

    pub fn has_room(&self) -> bool {
        let theirs = self.caps.transactions_max.unwrap_or(u32::MAX);
        self.begun < self.options.transactions_max.min(theirs)
    }

    pub fn pipelined(&self) -> bool {
        self.caps.pipelining && self.options.pipelining
    }

    /// RFC 2920 §3.1: the last lines of a message and the next commands may go together.
    pub fn can_follow(&self) -> bool {
        self.pipelined()
            && self.has_room()
            && self.in_flight == 1
            && self.expected.len() == 1
            && self.expected[0] == Expected::FinalDot
    }

    /// All input has been taken: what now? `midway`: a part of a reply has arrived.
    pub fn resting(&mut self, midway: bool) -> Step {
        if !self.expected.is_empty() {
            return Step::NeedInput;
        }
        if midway {
            // The beginning of a reply that nobody asked for.
            self.close = Some(Close::Unexpected(0));
            return Step::Close(Close::Unexpected(0));
        }
        if self.body_wanted { Step::SendBody } else { Step::Ready }
    }

    pub fn fault(&mut self, e: ReplyError) {
        self.close = Some(Close::Unreadable(e));
    }

    pub fn expect(&mut self, what: Expected, now: Mono) {
        if self.expected.is_empty() {
            self.since = now;
        }
        self.expected.push_back(what);
    }

    pub fn end_body(&mut self, now: Mono) {
        assert!(mem::take(&mut self.body_wanted), "no message is wanted");
        self.expect(Expected::FinalDot, now);
    }

    pub fn quit(&mut self, now: Mono, out: &mut Vec<u8>) {
        assert!(self.open && self.expected.is_empty() && !self.body_wanted, "QUIT in the midst of something");
        out.extend_from_slice(b"QUIT\r\n");
        self.expect(Expected::Quit, now);
    }

    /// Takes one reply. `None`: go on with the input.
    pub fn on_reply(&mut self, now: Mono, reply: &Reply<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let Some(front) = self.expected.pop_front() else {
            let close = if reply.code == 421 { Close::ServerClosing } else { Close::Unexpected(reply.code) };
            return Some(self.end(close, reply));
        };
        self.since = now;
        let step = match front {
            Expected::Banner | Expected::Ehlo | Expected::Helo => self.on_hello(front, now, reply, out),
            Expected::Quit => Some(self.end(Close::Quit, reply)),
            _ if reply.code == 421 => Some(self.on_closing(front, reply)),
            Expected::Reset if reply.class() != 2 => Some(self.end(Close::Unexpected(reply.code), reply)),
            Expected::Reset => {
                self.needs_reset = false;
                None
            }
            Expected::Mail => self.on_mail(reply),
            Expected::Rcpt(slot) => self.on_rcpt(slot, reply),
            Expected::Data => self.on_data(now, reply, out),
            Expected::FinalDot => Some(self.on_final_dot(reply)),
            // RFC 2920 §3.1: whatever is said to a message for nobody, nobody got it.
            Expected::EmptyDot => {
                self.current.mail_taken = false;
                Some(self.settle())
            }
        };
        match step {
            None => self.send_next_line(out),
            // Still unanswered, for `phase`.
            Some(Step::Close(_)) => self.expected.push_front(front),
            Some(_) => {}
        }
        step
    }

    fn on_hello(&mut self, what: Expected, now: Mono, reply: &Reply<'_>, out: &mut Vec<u8>) -> Option<Step> {
        match (what, reply.class()) {
            (Expected::Banner, 2) => {
                command::hello("EHLO", &self.options.helo, out);
                self.expect(Expected::Ehlo, now);
                None
            }
            // RFC 5321 §3.2: a server that does not know EHLO is asked with HELO.
            (Expected::Ehlo, 5) => {
                command::hello("HELO", &self.options.helo, out);
                self.expect(Expected::Helo, now);
                None
            }
            (Expected::Ehlo, 2) => {
                self.caps = Capabilities::read(reply);
                self.open = true;
                None
            }
            (Expected::Helo, 2) => {
                self.open = true;
                None
            }
            (_, 4 | 5) => Some(self.end(Close::Refused(reply.code), reply)),
            _ => Some(self.end(Close::Unexpected(reply.code), reply)),
        }
    }

    /// 421: the rest of the replies will not come.
    fn on_closing(&mut self, what: Expected, reply: &Reply<'_>) -> Step {
        // Said to the first command of a connection that has worked before, it says nothing about
        // this message: it is given back, see `lost`.
        let stale =
            self.begun_before() && !self.current.heard && matches!(what, Expected::Mail | Expected::Reset);
        if self.in_flight > 0 && !stale {
            self.current.heard = true;
            let v = self.current.said(Outcome::Deferred, reply, what.phase());
            self.current.decide_rest(&v);
        }
        self.end(Close::ServerClosing, reply)
    }

    fn on_mail(&mut self, reply: &Reply<'_>) -> Option<Step> {
        self.current.heard = true;
        let Some(outcome) = refusal(reply) else {
            if reply.class() == 3 {
                return Some(self.end(Close::Unexpected(reply.code), reply));
            }
            self.current.mail_taken = true;
            return None;
        };
        let v = self.current.said(outcome, reply, Phase::Mail);
        self.current.decide_rest(&v);
        self.stop_script()
    }

    fn on_rcpt(&mut self, slot: usize, reply: &Reply<'_>) -> Option<Step> {
        match refusal(reply) {
            None if reply.class() == 3 => return Some(self.end(Close::Unexpected(reply.code), reply)),
            None => self.current.accept(slot),
            Some(_) if is_full(reply) && self.current.accepted() > 0 => {
                let v = self.current.said(Outcome::NotTried, reply, Phase::Rcpt);
                self.current.decide(slot, v);
            }
            Some(outcome) => {
                // RFC 5321 §4.5.3.1.10: 552 for too many recipients is temporary.
                let outcome = if is_full(reply) { Outcome::Deferred } else { outcome };
                let v = self.current.said(outcome, reply, Phase::Rcpt);
                self.current.decide(slot, v);
            }
        }
        let last = self.expected.front() == Some(&Expected::Data);
        if last && self.current.accepted() == 0 { self.stop_script() } else { None }
    }

    fn on_data(&mut self, now: Mono, reply: &Reply<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let someone = self.current.accepted() > 0;
        match refusal(reply) {
            None if reply.class() != 3 => Some(self.end(Close::Unexpected(reply.code), reply)),
            None if someone => {
                self.body_wanted = true;
                None
            }
            None => {
                // RFC 2920 §3.1: DATA went along with the RCPTs and was taken, though they were not.
                out.extend_from_slice(b".\r\n");
                self.expect(Expected::EmptyDot, now);
                None
            }
            Some(outcome) => {
                let v = self.current.said(outcome, reply, Phase::Data);
                self.current.decide_rest(&v);
                Some(self.settle())
            }
        }
    }

    fn on_final_dot(&mut self, reply: &Reply<'_>) -> Step {
        if reply.class() == 3 {
            return self.end(Close::Unexpected(reply.code), reply);
        }
        let outcome = refusal(reply).unwrap_or(Outcome::Delivered);
        let v = self.current.said(outcome, reply, Phase::FinalDot);
        self.current.decide_rest(&v);
        self.current.mail_taken = false;
        self.settle()
    }

    /// No recipient is left: where the commands go one by one, the rest is not sent.
    fn stop_script(&mut self) -> Option<Step> {
        if self.script_at == self.script.len() {
            return None;
        }
        self.script_at = self.script.len();
        self.expected.clear();
        Some(self.settle())
    }

    pub fn send_next_line(&mut self, out: &mut Vec<u8>) {
        let rest = &self.script[self.script_at..];
        if let Some(end) = memchr::memchr(b'\n', rest) {
            out.extend_from_slice(&rest[..=end]);
            self.script_at += end + 1;
        }
    }

    fn settle(&mut self) -> Step {
        // Without an end of data the server keeps the transaction open (RFC 5321 §4.1.1.5).
        self.needs_reset |= self.current.mail_taken;
        self.retire();
        Step::Settled
    }

    /// The current transaction becomes the settled one, the next the current.
    pub fn retire(&mut self) {
        mem::swap(&mut self.settled, &mut self.current);
        mem::swap(&mut self.current, &mut self.next);
        self.in_flight -= 1;
    }

    fn end(&mut self, close: Close, reply: &Reply<'_>) -> Step {
        self.last_words.clear();
        self.last_words.extend(reply.text.iter().take(TEXT_MAX).map(|&b| if b == b'\n' { b' ' } else { b }));
        self.close = Some(close);
        Step::Close(close)
    }

    /// True if another transaction was begun on this connection before the current one.
    fn begun_before(&self) -> bool {
        self.current.conn_use > 1
    }

    pub fn lost(&mut self, why: Loss) -> Option<Ending> {
        if self.in_flight == 0 {
            return None;
        }
        // Before the reply to end of data nothing has been said about the one behind it; and to one
        // that is not the first, silence may be due to the connection's age. Anything else counts
        // as an attempt of this message: else one that kills its connection would go round for ever.
        let untouched = !self.current.heard && (self.begun_before() || why == Loss::GivenUp);
        if untouched || (why == Loss::GivenUp && self.phase() != Phase::FinalDot) {
            self.retire();
            self.expected.clear();
            self.body_wanted = false;
            return Some(Ending::GiveBack);
        }
        let phase = self.phase();
        let text: &[u8] = match (why, phase) {
            (Loss::Deadline, Phase::FinalDot) => b"timed out after end of data; message may have been taken",
            (_, Phase::FinalDot) => b"connection lost after end of data; message may have been taken",
            (Loss::Deadline, _) => b"timed out",
            (Loss::Protocol, _) => b"next hop's replies make no sense",
            (Loss::Unreadable, _) => b"message could not be read here",
            (Loss::Connection | Loss::GivenUp, _) => b"connection lost",
        };
        let enhanced = match why {
            Loss::Protocol => [4, 5, 0],
            Loss::Unreadable => [4, 3, 0],
            Loss::Connection | Loss::Deadline | Loss::GivenUp => [4, 4, 2],
        };
        let v = self.current.own(Outcome::Deferred, enhanced, text, phase);
        self.current.decide_rest(&v);
        self.retire();
        self.expected.clear();
        self.body_wanted = false;
        Some(Ending::Settled)
    }
}

/// What a 4xx or 5xx means for those it concerns; `None` for 2xx and 3xx.
fn refusal(reply: &Reply<'_>) -> Option<Outcome> {
    match reply.class() {
        4 => Some(Outcome::Deferred),
        5 => Some(Outcome::Failed),
        _ => None,
    }
}

/// The server takes no more recipients in this transaction: 452, or 552 from servers of old, unless
/// the enhanced code says something else (a full mailbox).
fn is_full(reply: &Reply<'_>) -> bool {
    matches!(reply.code, 452 | 552)
        && reply.enhanced.is_none_or(|[_, subject, detail]| [subject, detail] == [5, 3])
}

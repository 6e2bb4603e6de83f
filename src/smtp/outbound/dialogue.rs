//! L2: which reply is expected, and what each reply means.
//!
//! Replies come in the order of the commands, so a queue of what is expected is the whole state of
//! the dialogue. Two ways to send a transaction: all commands at once (PIPELINING), or one by one
//! out of `script`. With CHUNKING the message may be among them; replies belong to the oldest open
//! transaction until the one to its end of data, or the one that lets it end before.

use super::capability::Capabilities;
use super::command;
use super::transaction::{Outcome, Phase, Results, Transaction};
use super::voice::Voice;
use super::{Ending, Framing, Options, Step};
use crate::auth::client::Exchange;
use crate::base::secret::Secret;
use crate::base::time::Mono;
use crate::smtp::reply_in::{Enhanced, Reply, ReplyError, TEXT_MAX};
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
    /// TLS is required, and STARTTLS is not offered.
    TlsNotOffered,
    /// TLS is required, and STARTTLS was answered with this code.
    TlsRefused(u16),
    /// Bytes came in clear text behind the reply to STARTTLS.
    Injected,
    /// The server offers no mechanism that we could, or may, log in by.
    LoginImpossible,
    /// AUTH was answered with this code.
    LoginRefused(u16),
    /// The server has not proven that it knows our password.
    LoginUnproven,
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
    StartTls,
    Auth,
    Reset,
    Mail,
    Rcpt(usize),
    Data,
    /// The reply to the end of data: the final dot, or the last chunk. With LMTP, the next of them.
    FinalDot,
    /// The reply to a final dot without a message: DATA was taken though no recipient was.
    EmptyDot,
    Quit,
}

impl Expected {
    fn phase(self) -> Phase {
        match self {
            Expected::Banner => Phase::Banner,
            Expected::Ehlo | Expected::Helo | Expected::StartTls | Expected::Auth => Phase::Hello,
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
            Expected::Ehlo | Expected::Helo | Expected::StartTls | Expected::Auth => o.hello,
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
    /// Since when the front of `expected` is expected; if none is, when the last reply came.
    pub(super) since: Mono,
    /// Commands not yet sent, where they go one by one: one line for each of `expected` but the
    /// first. Empty where they go all at once.
    pub(super) script: Vec<u8>,
    pub(super) script_at: usize,
    /// EHLO or HELO has been answered, and what comes behind it is done.
    pub(super) greeted: bool,
    /// All goes under TLS, or will as soon as the handshake is done.
    pub(super) secured: bool,
    /// The server does not want to do TLS just now.
    pub(super) tls_declined: bool,
    /// AUTH under way, and an initial response that was too long for its command.
    pub(super) login: Option<(Exchange, Option<Secret>)>,
    /// The recipients have been answered, and DATA: the message is to be sent.
    pub(super) body_wanted: bool,
    /// What the server says to what.
    voice: Voice,
    /// BDAT has been answered as by a server that does not know it.
    chunks_broken: bool,
    /// The server has a transaction open that no end of data has closed: RSET before the next.
    pub(super) needs_reset: bool,
    /// Transactions that are not settled, oldest first. A message that has not left with its
    /// envelope is the last one, until its end of data.
    pub(super) open: VecDeque<Transaction>,
    /// Bytes of their messages.
    pub(super) bytes: u64,
    /// For transactions to come; at most as many as were open at once.
    pub(super) spare: Vec<Transaction>,
    /// The one that was settled last.
    pub(super) settled: Transaction,
    /// Transactions begun.
    pub(super) begun: u32,
    close: Option<Close>,
    last_words: Vec<u8>,
}

impl Dialogue {
    pub fn new(options: Options, now: Mono) -> Self {
        let least = options.recipients_max.min(options.transactions_max).min(options.outstanding);
        assert!(least > 0, "limits of at least one");
        Dialogue {
            options,
            caps: Capabilities::default(),
            expected: VecDeque::from([Expected::Banner]),
            since: now,
            script: Vec::new(),
            script_at: 0,
            greeted: false,
            secured: false,
            tls_declined: false,
            login: None,
            body_wanted: false,
            voice: Voice::default(),
            chunks_broken: false,
            needs_reset: false,
            open: VecDeque::new(),
            bytes: 0,
            spare: Vec::new(),
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
        self.greeted
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

    /// Messages go by BDAT. Only where the client need not wait: alone, BDAT saves nothing. Thus not with
    /// LMTP, where replies are in surplus more easily: the 354 to DATA, which is no answer to anything
    /// else, shows that the replies are those to our commands.
    pub fn chunked(&self) -> bool {
        self.caps.chunking
            && self.options.chunking
            && self.pipelined()
            && !self.chunks_broken
            && !self.options.lmtp
    }

    pub fn is_chunking_broken(&self) -> bool {
        self.chunks_broken
    }

    pub fn in_doubt(&self) -> usize {
        let sent = self.open.iter().filter(|tx| tx.whole).count();
        // The oldest may have been announced first: it is in doubt once its end has left.
        let announced = self.open.front().is_some_and(|tx| !tx.whole) && self.phase() == Phase::FinalDot;
        sent + usize::from(announced)
    }

    pub fn open_body(&self, out: &mut Vec<u8>) -> Framing {
        assert!(self.body_wanted, "no message is wanted");
        let tx = &self.open[0];
        if tx.framing == Framing::Counted {
            command::last_chunk(tx.size, out);
        }
        tx.framing
    }

    /// The oldest open transaction: the one that is being answered.
    fn current(&mut self) -> &mut Transaction {
        self.open.front_mut().expect("a reply to a transaction that is open")
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
        assert!(
            self.greeted && self.expected.is_empty() && !self.body_wanted,
            "QUIT in the midst of something"
        );
        out.extend_from_slice(b"QUIT\r\n");
        self.expect(Expected::Quit, now);
    }

    /// Takes one reply; `more`: bytes came behind it. `None`: go on with the input.
    pub fn on_reply(&mut self, now: Mono, reply: &Reply<'_>, more: bool, out: &mut Vec<u8>) -> Option<Step> {
        let Some(front) = self.expected.pop_front() else {
            let close = if reply.code == 421 { Close::ServerClosing } else { Close::Unexpected(reply.code) };
            return Some(self.end(close, reply));
        };
        self.since = now;
        let step = match front {
            Expected::Banner | Expected::Ehlo | Expected::Helo => self.on_hello(front, now, reply, out),
            Expected::Quit => Some(self.end(Close::Quit, reply)),
            _ if reply.code == 421 => Some(self.on_closing(front, reply)),
            Expected::StartTls => self.on_starttls(now, reply, more, out),
            Expected::Auth => self.on_auth(now, reply, out),
            Expected::Reset if reply.class() != 2 => Some(self.end(Close::Unexpected(reply.code), reply)),
            Expected::Reset => {
                self.needs_reset = false;
                None
            }
            Expected::Mail => self.on_mail(reply),
            Expected::Rcpt(slot) => self.on_rcpt(slot, reply),
            Expected::Data => self.on_data(now, reply, out),
            Expected::FinalDot => self.on_final_dot(reply),
            // RFC 2920 §3.1: whatever is said to a message for nobody, nobody got it.
            Expected::EmptyDot => {
                self.current().unclosed = false;
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

    /// RFC 5321 §4.1.1.1; RFC 2033 §4.1.
    pub(super) fn greet(&mut self, now: Mono, out: &mut Vec<u8>) {
        let verb = if self.options.lmtp { "LHLO" } else { "EHLO" };
        command::hello(verb, &self.options.helo, out);
        self.expect(Expected::Ehlo, now);
    }

    fn on_hello(&mut self, what: Expected, now: Mono, reply: &Reply<'_>, out: &mut Vec<u8>) -> Option<Step> {
        match (what, reply.class()) {
            (Expected::Banner, 2) => {
                self.greet(now, out);
                None
            }
            // RFC 5321 §3.2: a server that does not know EHLO is asked with HELO.
            (Expected::Ehlo, 5) if !self.options.lmtp => {
                command::hello("HELO", &self.options.helo, out);
                self.expect(Expected::Helo, now);
                None
            }
            (Expected::Ehlo, 2) => self.after_hello(Capabilities::read(reply), now, reply, out),
            (Expected::Helo, 2) => self.after_hello(Capabilities::default(), now, reply, out),
            (_, 4 | 5) => Some(self.end(Close::Refused(reply.code), reply)),
            _ => Some(self.end(Close::Unexpected(reply.code), reply)),
        }
    }

    /// 421: the rest of the replies will not come.
    fn on_closing(&mut self, what: Expected, reply: &Reply<'_>) -> Step {
        if let Some(tx) = self.open.front_mut() {
            // Said to the first command of a connection that has worked before, it says nothing about
            // this message: it is given back, see `lost`; unless the message is out.
            let first = !tx.heard && matches!(what, Expected::Mail | Expected::Reset);
            if !first || tx.whole || tx.conn_use <= 1 {
                tx.heard = true;
                let v = tx.said(Outcome::Deferred, reply, what.phase());
                tx.decide_rest(&v);
            }
        }
        self.end(Close::ServerClosing, reply)
    }

    fn on_mail(&mut self, reply: &Reply<'_>) -> Option<Step> {
        if reply.class() == 3 {
            self.current().heard = true;
            return Some(self.end(Close::Unexpected(reply.code), reply));
        }
        let tx = self.open.front_mut().expect("a reply to a transaction that is open");
        tx.heard = true;
        let Some(outcome) = refusal(reply) else {
            tx.unclosed = true;
            if tx.framing == Framing::Dots {
                self.voice.mail(reply);
            }
            return None;
        };
        let v = tx.said(outcome, reply, Phase::Mail);
        tx.decide_rest(&v);
        self.stop_script()
    }

    fn on_rcpt(&mut self, slot: usize, reply: &Reply<'_>) -> Option<Step> {
        if reply.class() == 3 {
            return Some(self.out_of_step(reply));
        }
        let tx = self.open.front_mut().expect("a reply to a transaction that is open");
        match refusal(reply) {
            None => {
                tx.accept(slot);
                if tx.framing == Framing::Dots {
                    self.voice.rcpt(reply);
                }
            }
            Some(_) if is_full(reply) && tx.accepted() > 0 => {
                let v = tx.said(Outcome::NotTried, reply, Phase::Rcpt);
                tx.decide(slot, v);
            }
            Some(outcome) => {
                // RFC 5321 §4.5.3.1.10: 552 for too many recipients is temporary.
                let outcome = if is_full(reply) { Outcome::Deferred } else { outcome };
                let v = tx.said(outcome, reply, Phase::Rcpt);
                tx.decide(slot, v);
            }
        }
        let nobody = tx.accepted() == 0;
        match self.expected.front() {
            Some(Expected::Data) if nobody => self.stop_script(),
            // The message was held back until now.
            None if nobody => Some(self.settle()),
            None => {
                self.body_wanted = true;
                None
            }
            Some(_) => None,
        }
    }

    fn on_data(&mut self, now: Mono, reply: &Reply<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let someone = self.current().accepted() > 0;
        match refusal(reply) {
            None if reply.class() != 3 => Some(self.out_of_step(reply)),
            None if someone => {
                self.body_wanted = true;
                None
            }
            // RFC 2033 §4.2: this MUST be 503. Nobody can say how many replies a dot would get.
            None if self.options.lmtp => Some(self.end(Close::Unexpected(reply.code), reply)),
            None => {
                // RFC 2920 §3.1: DATA went along with the RCPTs and was taken, though they were not.
                out.extend_from_slice(b".\r\n");
                self.expect(Expected::EmptyDot, now);
                None
            }
            Some(outcome) => Some(self.refused(outcome, reply)),
        }
    }

    fn refused(&mut self, outcome: Outcome, reply: &Reply<'_>) -> Step {
        let tx = self.current();
        let v = tx.said(outcome, reply, Phase::Data);
        tx.decide_rest(&v);
        self.settle()
    }

    /// BDAT was offered, but is not known: no fault of the message. From now on DATA is used.
    fn take_again(&mut self, reply: &Reply<'_>, phase: Phase) -> Step {
        self.chunks_broken = true;
        let tx = self.current();
        let v = tx.said(Outcome::NotTried, reply, phase);
        tx.decide_rest(&v);
        self.settle()
    }

    fn on_final_dot(&mut self, reply: &Reply<'_>) -> Option<Step> {
        let lmtp = self.options.lmtp;
        let counted = self.current().framing == Framing::Counted;
        let odd = !lmtp && reply.class() == 2 && self.voice.is_out_of_step(reply, counted);
        if reply.class() == 3 || odd {
            return Some(self.out_of_step(reply));
        }
        if !lmtp && !counted && reply.class() == 2 {
            self.voice.end(reply);
        }
        let tx = self.current();
        // RFC 3030 §2: after a chunk that was refused, the state is anybody's guess.
        tx.unclosed = counted && reply.class() != 2;
        if counted && tx.accepted() > 0 && knows_no_bdat(reply) {
            return Some(self.take_again(reply, Phase::FinalDot));
        }
        // Of a message that left whole all recipients may have been refused: nothing is left to be
        // decided then, whatever is said to its chunk.
        let outcome = refusal(reply).unwrap_or(Outcome::Delivered);
        let v = tx.said(outcome, reply, Phase::FinalDot);
        if !lmtp {
            tx.decide_rest(&v);
            return Some(self.settle());
        }
        // RFC 2033 §4.2: one reply for each recipient that was taken, in their order.
        tx.decide_next(v);
        if tx.accepted() == 0 {
            return Some(self.settle());
        }
        self.expected.push_front(Expected::FinalDot);
        None
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
        self.needs_reset |= self.current().unclosed;
        self.retire();
        Step::Settled
    }

    /// The oldest transaction becomes the settled one.
    fn retire(&mut self) {
        let tx = self.open.pop_front().expect("a transaction is open");
        self.bytes -= tx.size;
        let before = mem::replace(&mut self.settled, tx);
        self.spare.push(before);
    }

    pub(super) fn end(&mut self, close: Close, reply: &Reply<'_>) -> Step {
        self.last_words.clear();
        self.last_words.extend(reply.text.iter().take(TEXT_MAX).map(|&b| if b == b'\n' { b' ' } else { b }));
        self.close = Some(close);
        Step::Close(close)
    }

    /// The reply belongs to another command, and so may those before it: nothing that was said of the
    /// oldest transaction's recipients counts.
    fn out_of_step(&mut self, reply: &Reply<'_>) -> Step {
        self.current().retract();
        self.end(Close::Unexpected(reply.code), reply)
    }

    pub fn lost(&mut self, why: Loss) -> Option<Ending> {
        let phase = self.phase();
        let tx = self.open.front_mut()?;
        // Of a message that left whole the server may have it all, whatever it has said so far.
        let phase = if tx.whole { Phase::FinalDot } else { phase };
        // Before the reply to end of data nothing has been said about the one behind it; and to one
        // that is not the first, silence may be due to the connection's age. Anything else counts
        // as an attempt of this message: else one that kills its connection would go round for ever.
        let untouched = !tx.heard && (tx.conn_use > 1 || why == Loss::GivenUp);
        let ending = if phase != Phase::FinalDot && (untouched || why == Loss::GivenUp) {
            Ending::GiveBack
        } else {
            let (enhanced, text) = explain(why, phase);
            let v = tx.own(Outcome::Deferred, enhanced, text, phase);
            tx.decide_rest(&v);
            Ending::Settled
        };
        self.retire();
        self.expected.clear();
        self.body_wanted = false;
        Some(ending)
    }
}

/// What is said of a message whose connection is lost.
fn explain(why: Loss, phase: Phase) -> (Enhanced, &'static [u8]) {
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
    (enhanced, text)
}

/// What a 4xx or 5xx means for those it concerns; `None` for 2xx and 3xx.
fn refusal(reply: &Reply<'_>) -> Option<Outcome> {
    match reply.class() {
        4 => Some(Outcome::Deferred),
        5 => Some(Outcome::Failed),
        _ => None,
    }
}

/// The server does not know BDAT, or not here (RFC 5321 §4.2.2).
fn knows_no_bdat(reply: &Reply<'_>) -> bool {
    matches!(reply.code, 500..=504)
}

/// The server takes no more recipients in this transaction: 452, or 552 from servers of old, unless
/// the enhanced code says something else (a full mailbox).
fn is_full(reply: &Reply<'_>) -> bool {
    matches!(reply.code, 452 | 552)
        && reply.enhanced.is_none_or(|[_, subject, detail]| [subject, detail] == [5, 3])
}

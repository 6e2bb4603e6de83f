//! The client side of one SMTP session, as a state machine without IO.
//!
//! Owns what is written when and what each reply means. With pipelining one write carries the
//! body of a message, its final dot and the envelope of the next one (RFC 2920 §3.1), so that a
//! message costs one round trip; without, every command waits for its reply. Bytes and time come as
//! arguments; results go to a [`Tally`]. A server that does not speak SMTP ends the session; replies
//! other than the expected ones are counted by phase and code and never retried.

use super::message::{Template, digits};
use super::reply::{Line, Lines, NotAReply, queue_id};
use super::tally::{Phase, Tally};
use crate::base::secret::Secret;
use crate::base::time::Mono;
use crate::load::ledger::{Entry, push_recipient};
use std::collections::VecDeque;
use std::rc::Rc;

/// What all sessions of a run share.
pub struct Profile {
    /// Run id: the first part of every message id.
    pub run: String,
    /// Name given in EHLO.
    pub helo: String,
    /// AUTH PLAIN with its initial response (RFC 4954), sent after EHLO; none: nobody logs in.
    pub auth: Option<Secret>,
    /// Address in MAIL FROM; empty for the null sender.
    pub from: String,
    /// Recipient address; `{n}` becomes the message number, `{r}` the recipient's.
    pub recipient: String,
    /// Recipients per message, 1 or more.
    pub recipients: u32,
    /// Whether TLS begins with STARTTLS.
    pub starttls: bool,
    /// Whether to use PIPELINING where the server offers it.
    pub pipelining: bool,
    /// Messages after which a session quits.
    pub messages_per_session: u64,
    /// Greeted sessions stay idle until then.
    pub hold_until: Mono,
    /// The messages.
    pub template: Template,
}

/// Where messages to send come from.
pub trait Feed {
    /// The next message number and the time from which it may be sent; none if there is no more.
    fn claim(&self) -> Option<(u64, Mono)>;
    /// A claimed number that was not used.
    fn give_back(&self, number: u64);
    /// Whether the run is to end: no new message is begun.
    fn ended(&self) -> bool;
}

/// What the shell does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Write [`Session::parts`].
    Write,
    /// Read and [`Session::absorb`].
    Read,
    /// Nothing before then.
    Pause(Mono),
    /// Do a TLS handshake.
    StartTls,
    /// Close the connection; all is settled.
    Close,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Greeting,
    StartTls,
    Handshake,
    Auth,
    Idle,
    Recipient(u32),
    Decide,
    Reset,
    Leaving,
    Done,
}

struct Current {
    number: u64,
    mail: bool,
    accepted: u32,
    go: bool,
}

struct Flying {
    number: u64,
    digest: u64,
    dot_at: Option<Mono>,
}

/// One session.
pub struct Session {
    profile: Rc<Profile>,
    stage: Stage,
    expect: VecDeque<Phase>,
    lines: Lines,
    head: Vec<u8>,
    tail: Vec<u8>,
    body: bool,
    begun: u64,
    reserved: Option<(u64, Mono)>,
    current: Option<Current>,
    flying: Option<Flying>,
    taken_by: String,
    flying_to: String,
    pipelining: bool,
    /// Under TLS, by STARTTLS.
    secured: bool,
    closing: bool,
}

const DOT: &[u8] = b".\r\n";

impl Session {
    /// A session whose connection has just been opened.
    #[must_use]
    pub fn new(profile: Rc<Profile>) -> Self {
        Session {
            head: profile.template.head(),
            profile,
            stage: Stage::Greeting,
            expect: VecDeque::from([Phase::Connect]),
            lines: Lines::default(),
            tail: Vec::with_capacity(256),
            body: false,
            begun: 0,
            reserved: None,
            current: None,
            flying: None,
            taken_by: String::new(),
            flying_to: String::new(),
            pipelining: false,
            secured: false,
            closing: false,
        }
    }

    /// What to do now; to be called again after each step.
    pub fn step(&mut self, now: Mono, feed: &impl Feed, tally: &mut Tally) -> Step {
        loop {
            if !self.tail.is_empty() {
                return Step::Write;
            }
            if self.closing {
                self.drop_envelope(feed);
                return Step::Close;
            }
            if !self.expect.is_empty() {
                return Step::Read;
            }
            match self.stage {
                Stage::Greeting => {
                    self.command(Phase::Ehlo, &[b"EHLO ", self.profile.clone().helo.as_bytes()]);
                    let secure = self.profile.starttls && !self.secured;
                    self.stage = if secure { Stage::StartTls } else { Stage::Auth };
                }
                Stage::Auth => {
                    if let Some(auth) = &self.profile.clone().auth {
                        self.command(Phase::Auth, &[auth.expose()]);
                    }
                    self.stage = Stage::Idle;
                }
                Stage::StartTls => {
                    self.command(Phase::StartTls, &[b"STARTTLS"]);
                    self.stage = Stage::Handshake;
                }
                Stage::Handshake => {
                    // RFC 3207 §4.2: EHLO again.
                    (self.secured, self.pipelining, self.stage) = (true, false, Stage::Greeting);
                    return Step::StartTls;
                }
                Stage::Idle => {
                    if let Some(until) = self.idle(now, feed) {
                        return Step::Pause(until);
                    }
                }
                Stage::Recipient(i) => self.lock_step(i),
                Stage::Decide => self.decide(now, feed, tally),
                Stage::Reset => {
                    self.command(Phase::Reset, &[b"RSET"]);
                    self.stage = Stage::Idle;
                }
                Stage::Leaving => self.quit(),
                Stage::Done => return Step::Close,
            }
        }
    }

    /// The bytes to write, in order.
    #[must_use]
    pub fn parts(&self) -> [&[u8]; 3] {
        if self.body {
            [&self.head, self.profile.template.wire_filler(), &self.tail]
        } else {
            [&[], &[], &self.tail]
        }
    }

    /// The shell wrote the first `bytes` of the parts; all of them if `finished`.
    pub fn wrote(&mut self, bytes: usize, finished: bool, now: Mono) {
        if self.body {
            let dot_end = self.head.len() + self.profile.template.wire_filler().len() + DOT.len();
            if let Some(flying) = self.flying.as_mut().filter(|_| bytes >= dot_end) {
                flying.dot_at = Some(now);
            }
        }
        if finished {
            self.body = false;
            self.tail.clear();
        }
    }

    /// Takes what the server sent. `unix` is the wall clock in nanoseconds.
    ///
    /// # Errors
    /// The server does not speak SMTP: close the connection and [`Session::abandon`].
    pub fn absorb(&mut self, input: &[u8], now: Mono, unix: u64, tally: &mut Tally) -> Result<(), NotAReply> {
        let mut lines = std::mem::take(&mut self.lines);
        let result = lines.feed(input, |line| self.line(line, now, unix, tally));
        self.lines = lines;
        result
    }

    /// The connection is gone: settles what was in flight and returns what was not used.
    pub fn abandon(&mut self, unix: u64, feed: &impl Feed, tally: &mut Tally) {
        if let Some(flying) = self.flying.take() {
            if flying.dot_at.is_some() {
                tally.unanswered += 1;
                self.journal("?", &flying, unix, tally);
            } else {
                // Without the final dot the server cannot have taken it.
                tally.failed += 1;
            }
        }
        self.drop_envelope(feed);
    }

    fn drop_envelope(&mut self, feed: &impl Feed) {
        let unused = self.current.take().map(|c| c.number).or(self.reserved.take().map(|r| r.0));
        if let Some(number) = unused {
            feed.give_back(number);
        }
    }

    // ---- what to write ----

    /// Begins a transaction, or quits; returns a time if it is too early for either.
    fn idle(&mut self, now: Mono, feed: &impl Feed) -> Option<Mono> {
        if now < self.profile.hold_until && !feed.ended() {
            return Some(self.profile.hold_until);
        }
        if self.begun >= self.profile.messages_per_session || feed.ended() {
            self.drop_envelope(feed);
            self.stage = Stage::Leaving;
            return None;
        }
        match self.reserved.take().or_else(|| feed.claim()) {
            None => self.stage = Stage::Leaving,
            Some((number, due)) if due > now => {
                self.reserved = Some((number, due));
                return Some(due);
            }
            Some((number, _)) => self.begin(number),
        }
        None
    }

    fn begin(&mut self, number: u64) {
        self.begun += 1;
        self.current = Some(Current { number, mail: false, accepted: 0, go: false });
        self.taken_by.clear();
        let profile = Rc::clone(&self.profile);
        self.command(Phase::Mail, &[b"MAIL FROM:<", profile.from.as_bytes(), b">"]);
        if self.pipelining {
            for i in 0..profile.recipients {
                self.rcpt(i, number);
            }
            self.command(Phase::Data, &[b"DATA"]);
            self.stage = Stage::Decide;
        } else {
            self.stage = Stage::Recipient(0);
        }
    }

    fn rcpt(&mut self, index: u32, number: u64) {
        self.tail.extend_from_slice(b"RCPT TO:<");
        write_recipient(&mut self.tail, &self.profile.recipient, index, number);
        self.tail.extend_from_slice(b">\r\n");
        self.expect.push_back(Phase::Rcpt(index));
    }

    /// Without pipelining: the command after the reply to MAIL or to recipient `next - 1`.
    fn lock_step(&mut self, next: u32) {
        let Some(current) = &self.current else {
            self.stage = Stage::Idle;
            return;
        };
        if current.mail && next < self.profile.recipients {
            self.rcpt(next, current.number);
            self.stage = Stage::Recipient(next + 1);
        } else if current.accepted > 0 {
            self.command(Phase::Data, &[b"DATA"]);
            self.stage = Stage::Decide;
        } else {
            self.stage = Stage::Decide;
        }
    }

    /// All replies to the envelope are in: the body, or give the transaction up.
    fn decide(&mut self, now: Mono, feed: &impl Feed, tally: &mut Tally) {
        match self.current.take() {
            Some(c) if c.go && c.accepted > 0 => self.send_body(c.number, now, feed, tally),
            Some(c) => {
                tally.failed += 1;
                self.stage = Stage::Reset;
                if c.go {
                    // 354 although no recipient was taken: an empty message ends the data phase.
                    self.tail.extend_from_slice(DOT);
                    self.expect.push_back(Phase::EmptyDot);
                }
            }
            None => self.stage = Stage::Idle,
        }
    }

    fn send_body(&mut self, number: u64, now: Mono, feed: &impl Feed, tally: &Tally) {
        let template = &self.profile.template;
        template.number(&mut self.head, number);
        let digest = if tally.ledger.is_some() { template.digest(&self.head) } else { 0 };
        self.flying = Some(Flying { number, digest, dot_at: None });
        std::mem::swap(&mut self.taken_by, &mut self.flying_to);
        self.body = true;
        self.tail.extend_from_slice(DOT);
        self.expect.push_back(Phase::Dot);
        self.stage = Stage::Idle;
        if self.pipelining && self.idle(now, feed).is_none() && self.stage == Stage::Leaving {
            self.quit();
        }
    }

    fn quit(&mut self) {
        self.command(Phase::Quit, &[b"QUIT"]);
        self.stage = Stage::Done;
    }

    fn command(&mut self, phase: Phase, words: &[&[u8]]) {
        for word in words {
            self.tail.extend_from_slice(word);
        }
        self.tail.extend_from_slice(b"\r\n");
        self.expect.push_back(phase);
    }

    // ---- what a reply means ----

    fn line(&mut self, line: Line<'_>, now: Mono, unix: u64, tally: &mut Tally) -> Result<(), NotAReply> {
        // Anything unasked for but a farewell is a fault of the server.
        let Some(&phase) = self.expect.front() else {
            tally.count(Phase::Unasked, line.code);
            self.closing = true;
            return if line.code == 421 { Ok(()) } else { Err(NotAReply) };
        };
        if phase == Phase::Ehlo && line.code == 250 {
            let word = line.text.split(|&b| b == b' ').next().unwrap_or(b"");
            self.pipelining |= self.profile.pipelining && word.eq_ignore_ascii_case(b"PIPELINING");
        }
        if !line.last {
            return Ok(());
        }
        self.expect.pop_front();
        let good = if phase == Phase::Data { line.code == 354 } else { line.code / 100 == 2 };
        if !good {
            tally.count(phase, line.code);
        }
        // RFC 5321 §3.8: the server closes the channel after 421.
        self.closing |= line.code == 421;
        self.settle(phase, line, good, now, unix, tally);
        Ok(())
    }

    fn settle(&mut self, phase: Phase, line: Line<'_>, good: bool, now: Mono, unix: u64, tally: &mut Tally) {
        match (phase, &mut self.current) {
            (Phase::Connect | Phase::Ehlo | Phase::StartTls | Phase::Auth, _) => self.closing |= !good,
            (Phase::Mail, Some(c)) => c.mail = good,
            (Phase::Rcpt(index), Some(c)) if good => {
                c.accepted += 1;
                if tally.ledger.is_some() {
                    tally.scratch.clear();
                    write_recipient(&mut tally.scratch, &self.profile.recipient, index, c.number);
                    push_recipient(&mut self.taken_by, &tally.scratch);
                }
            }
            (Phase::Data, Some(c)) => c.go = good,
            (Phase::Dot, _) => self.settle_message(line, good, now, unix, tally),
            (Phase::EmptyDot, _) if good => tally.count(Phase::EmptyDot, line.code),
            _ => {}
        }
    }

    fn settle_message(&mut self, line: Line<'_>, good: bool, now: Mono, unix: u64, tally: &mut Tally) {
        let Some(flying) = self.flying.take() else { return };
        if let Some(at) = flying.dot_at {
            tally.latency.add(u64::try_from(now.since(at).as_nanos()).unwrap_or(u64::MAX));
        }
        if good {
            tally.acknowledged += 1;
            tally.bytes += self.profile.template.size();
            if tally.ledger.is_some() {
                self.journal(queue_id(line.text), &flying, unix, tally);
            }
        } else {
            tally.refused += 1;
            let status = [
                b'!',
                b'0' + (line.code / 100) as u8,
                b'0' + (line.code / 10 % 10) as u8,
                b'0' + (line.code % 10) as u8,
            ];
            self.journal(std::str::from_utf8(&status).unwrap_or("!000"), &flying, unix, tally);
        }
    }

    fn journal(&self, status: &str, flying: &Flying, nanos: u64, tally: &mut Tally) {
        let Some(ledger) = &mut tally.ledger else { return };
        tally.id.clear();
        tally.id.push_str(&self.profile.run);
        tally.id.push('-');
        tally.id.push_str(std::str::from_utf8(&digits(flying.number)).unwrap_or("0"));
        ledger.add(&Entry {
            id: &tally.id,
            status,
            nanos,
            digest: flying.digest,
            size: self.profile.template.size(),
            recipients: &self.flying_to,
        });
    }
}

/// Writes the pattern with `{n}` and `{r}` filled in.
fn write_recipient(out: &mut Vec<u8>, pattern: &str, index: u32, number: u64) {
    let mut rest = pattern.as_bytes();
    while let Some(i) = memchr::memchr(b'{', rest) {
        out.extend_from_slice(&rest[..i]);
        let value = match rest.get(i..i + 3) {
            Some(b"{n}") => number,
            Some(b"{r}") => u64::from(index),
            _ => {
                out.push(b'{');
                rest = &rest[i + 1..];
                continue;
            }
        };
        let text = digits(value);
        let first = text.iter().position(|&d| d != b'0').unwrap_or(text.len() - 1);
        out.extend_from_slice(&text[first..]);
        rest = &rest[i + 3..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

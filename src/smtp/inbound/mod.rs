//! The server side of an SMTP session (RFC 5321) as a state machine without IO.
//!
//! Bytes and time go in, replies and [`Step`]s come out. It knows no socket, clock, policy or
//! queue: the shell asks the policy, stores the message and shows the proof that it is stored
//! ([`Committed`]); without that proof there is no way to write the positive reply.
//! Errors of the peer end in a reply or in [`Step::Close`], never in a panic. Calls out of order (an
//! answer without a question) are bugs of the shell and panic.
//!
//! How a shell drives it: [`Session::banner`]; then [`Session::receive`] with all input not yet
//! consumed, again and again, doing what each step says. Consumed bytes are not shown again; the
//! others stay at the front of the buffer, in front of what arrives next. Replies are appended to
//! `out`; the shell sends it at [`Step::NeedInput`], [`Step::Yield`], [`Step::Pause`] and
//! [`Step::Close`], so that pipelined commands are answered by one write (RFC 2920 §3.2). When
//! [`Session::deadline`] passes: [`Session::expire`].

mod auth;
mod commands;
mod filtered;
mod forward;
mod lmtp;
mod options;
mod starttls;
#[cfg(test)]
mod tests;
mod transfer;

pub use auth::{AuthMode, AuthOffer, AuthSaid};
pub use forward::{Claim, Said};
pub use lmtp::Outcome;
pub use options::Options;
pub use starttls::Tls;

use crate::base::security::Security;
use crate::base::time::Mono;
use crate::message::body::BodyFacts;
use crate::message::envelope::Envelope;
use crate::smtp::reply::{Refusal, Reply, put_queued};
use crate::storage::ticket::Committed;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;
use transfer::{Chunk, Transfer};

/// What the shell must do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send the replies, then wait for input (until the deadline).
    NeedInput,
    /// Find the answer, give it to [`Session::answer`], then call `receive` again.
    Ask(Question),
    /// This range of the `input` of this call belongs to the message, in order; call again.
    Body(Range<usize>),
    /// These bytes belong to the message, in order; call again.
    BodyStatic(&'static [u8]),
    /// The message is complete: store it, then call [`Session::accepted`] or [`Session::refused`]; of
    /// LMTP [`Session::settled`].
    EndOfMessage,
    /// Drop what was collected of the message; call again.
    Abandoned,
    /// Enough for one turn: send the replies, let others run, call again.
    Yield,
    /// Do not read or reply before this time; then send the replies and call again.
    Pause(Mono),
    /// Send the replies, drop what was collected of a message and all input (it came in clear text),
    /// do a TLS handshake (until the deadline); then [`Session::secured`], or close without a word.
    StartTls,
    /// Send the replies, drop what was collected of a message, close.
    Close,
}

/// What only the shell can know. The details are in [`Session::envelope`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// May this sender send through us now? (MAIL; also the place to refuse for lack of space.)
    Sender,
    /// Is the recipient that was added last taken? (RCPT)
    Recipient,
    /// The client is another one, as [`Session::claim`] says: may it come in? (XCLIENT) If so, its
    /// limits are set with [`Session::set_options`] before the answer.
    Client,
    /// What becomes of an authentication? (AUTH; what the client said is in [`Session::auth_said`])
    Auth,
    /// Can there be a TLS handshake now? (STARTTLS)
    Tls,
}

/// The answer to a [`Question`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer<'a> {
    /// Yes.
    Accept,
    /// No, with this reply. 421 also ends the session.
    Refuse(Refusal<'a>),
    /// To [`Question::Auth`]: the client must answer this first.
    Challenge(&'a [u8]),
}

/// What stands behind the name of a protocol (RFC 3848).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// S: under TLS.
    pub tls: bool,
    /// A: authenticated.
    pub authenticated: bool,
}

impl Marks {
    fn number(self) -> usize {
        usize::from(self.tls) * 2 + usize::from(self.authenticated)
    }
}

/// The protocol of a message, for the `with` of Received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// After HELO.
    Smtp,
    /// After EHLO (RFC 3848).
    Esmtp(Marks),
    /// With SMTPUTF8 (RFC 6531 §4.3).
    Utf8Smtp(Marks),
    /// LMTP (RFC 3848).
    Lmtp(Marks),
    /// LMTP with SMTPUTF8 (RFC 6531 §4.3).
    Utf8Lmtp(Marks),
}

impl Protocol {
    /// The keyword.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Protocol::Smtp => "SMTP",
            Protocol::Esmtp(marks) => ["ESMTP", "ESMTPA", "ESMTPS", "ESMTPSA"][marks.number()],
            Protocol::Utf8Smtp(marks) => ["UTF8SMTP", "UTF8SMTPA", "UTF8SMTPS", "UTF8SMTPSA"][marks.number()],
            Protocol::Lmtp(marks) => ["LMTP", "LMTPA", "LMTPS", "LMTPSA"][marks.number()],
            Protocol::Utf8Lmtp(marks) => ["UTF8LMTP", "UTF8LMTPA", "UTF8LMTPS", "UTF8LMTPSA"][marks.number()],
        }
    }
}

/// Bytes of an envelope whose memory is kept for the next transaction.
const ENVELOPE_KEPT: usize = 4096;

/// One session.
#[derive(Debug)]
pub struct Session {
    options: Rc<Options>,
    /// It is LMTP.
    is_lmtp: bool,
    state: State,
    hello: Hello,
    helo: Vec<u8>,
    tls: Tls,
    /// What TLS has established.
    security: Option<Rc<Security>>,
    envelope: Envelope,
    /// The transaction was begun with SMTPUTF8.
    smtputf8: bool,
    declared_size: Option<u64>,
    transaction: Option<Transaction>,
    transfer: Option<Transfer>,
    auth: auth::Auth,
    counts: Counts,
    /// Since when the peer has been owing us something.
    since: Mono,
    paused_until: Option<Mono>,
    shutting_down: bool,
    /// The client may use XCLIENT and XFORWARD.
    forwarder: bool,
    claim: Option<Box<Claim>>,
    forwarded: Option<Box<Claim>>,
}

/// Where the session is.
#[derive(Clone, Debug)]
enum State {
    /// The banner has not been written.
    Fresh,
    /// At the start of a command line.
    Command,
    /// Within a line that is too long; the reply to it.
    LongLine(Reply),
    /// At the start of a line that answers a challenge.
    Auth,
    /// A question waits for its answer.
    Asking(Asking),
    /// Within the message of DATA.
    Data,
    /// Within a chunk of BDAT.
    Chunk(Chunk),
    /// The handshake is the shell's; the banner has not been written if `fresh`.
    Securing { fresh: bool },
    /// The message is complete and the shell stores it.
    Ended(Ended),
    /// The last reply has been written.
    Closing,
}

#[derive(Clone, Copy, Debug)]
struct Asking {
    question: Question,
    since: Mono,
}

#[derive(Clone, Copy, Debug)]
struct Ended {
    facts: BodyFacts,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hello {
    None,
    Helo,
    Ehlo,
}

/// A transaction: MAIL has been taken.
#[derive(Clone, Copy, Debug)]
struct Transaction {
    began: Mono,
    /// Some recipient was refused.
    refused_any: bool,
    /// Recipients above the limit.
    overshoot: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Commands since the shell last had its turn.
    burst: u32,
    junk: u32,
    errors: u32,
    unknown: u32,
    transactions: u32,
}

impl Session {
    /// A session whose peer has just connected.
    #[must_use]
    pub fn new(options: Rc<Options>, now: Mono) -> Self {
        Session {
            options,
            is_lmtp: false,
            state: State::Fresh,
            hello: Hello::None,
            helo: Vec::new(),
            tls: Tls::default(),
            security: None,
            envelope: Envelope::default(),
            smtputf8: false,
            declared_size: None,
            transaction: None,
            transfer: None,
            auth: auth::Auth::default(),
            counts: Counts::default(),
            since: now,
            paused_until: None,
            shutting_down: false,
            forwarder: false,
            claim: None,
            forwarded: None,
        }
    }

    /// Writes the greeting. `early`: the peer has already sent something (attack: commands fired blindly).
    pub fn banner(&mut self, now: Mono, early: bool, out: &mut Vec<u8>) -> Step {
        assert!(matches!(self.state, State::Fresh), "the banner comes once");
        if early && self.options.refuse_early_talkers {
            return self.close(Reply::EARLY_TALKER, out);
        }
        self.put_banner(out);
        self.since = now;
        self.state = State::Command;
        Step::NeedInput
    }

    /// Takes all input that is not yet consumed. Gives how much of it is consumed now, and what
    /// to do next. Ranges in the step are ranges of `input`.
    pub fn receive(&mut self, now: Mono, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let (n, step) = match self.state {
                State::Fresh => {
                    let step = self.banner(now, !input.is_empty(), out);
                    (0, Some(step).filter(|step| *step == Step::Close))
                }
                State::Command => self.command(now, rest, out),
                State::LongLine(reply) => self.long_line(now, reply, rest, out),
                State::Auth => self.auth_line(now, rest, out),
                State::Data => self.data(now, rest, out),
                State::Chunk(_) => self.chunk(now, rest, out),
                State::Asking(a) => (0, Some(Step::Ask(a.question))),
                State::Ended(_) => (0, Some(Step::EndOfMessage)),
                // All that has come in clear text is gone with this (RFC 3207 §4.2).
                State::Securing { .. } => (rest.len(), Some(Step::StartTls)),
                State::Closing => (rest.len(), Some(Step::Close)),
            };
            let from = used;
            used += n;
            match step {
                None => {}
                Some(Step::Body(run)) => return (used, Step::Body(run.start + from..run.end + from)),
                Some(step) => {
                    if matches!(step, Step::NeedInput | Step::Yield | Step::Pause(_) | Step::StartTls) {
                        self.counts.burst = 0;
                    }
                    return (used, step);
                }
            }
        }
    }

    /// Answers the question of the last [`Step::Ask`].
    pub fn answer(&mut self, now: Mono, answer: Answer<'_>, out: &mut Vec<u8>) {
        let State::Asking(asking) = self.state else { panic!("an answer without a question") };
        // The peer is not made to pay for our time.
        self.excuse(now.since(asking.since));
        self.since = now;
        self.state = State::Command;
        match (asking.question, answer) {
            (Question::Sender, Answer::Accept) => {
                self.transaction = Some(Transaction { began: now, refused_any: false, overshoot: 0 });
                Reply::SENDER_OK.put(out);
            }
            (Question::Recipient, Answer::Accept) => Reply::RECIPIENT_OK.put(out),
            (Question::Client, Answer::Accept) => self.restart(out),
            (Question::Auth, Answer::Accept) => self.authenticated(out),
            (Question::Auth, Answer::Challenge(challenge)) => self.challenge(challenge, out),
            (_, Answer::Challenge(_)) => panic!("a challenge without AUTH"),
            (Question::Auth, Answer::Refuse(refusal)) => self.not_authenticated(now, &refusal, out),
            (Question::Tls, Answer::Accept) => {
                Reply::START_TLS.put(out);
                self.state = State::Securing { fresh: false };
            }
            (question, Answer::Refuse(refusal)) => {
                if question == Question::Recipient {
                    self.envelope.pop();
                    self.transaction.as_mut().expect("recipients come in transactions").refused_any = true;
                }
                self.refuse(now, &refusal, out);
            }
        }
    }

    /// The message of [`Step::EndOfMessage`] is on stable storage for all its recipients: says so.
    /// `id` is its queue id.
    pub fn accepted(&mut self, now: Mono, id: &[u8], _proof: Committed, out: &mut Vec<u8>) {
        assert!(!self.is_lmtp, "with LMTP there is a reply for each recipient");
        // Taking the proof by value is what makes an early positive reply impossible.
        self.end_message(now);
        self.counts.errors = 0;
        self.counts.junk = 0;
        put_queued(out, id);
    }

    /// The message of [`Step::EndOfMessage`] is thrown away, because an operator has said so: the one case in
    /// which a positive reply promises nothing.
    pub fn discarded_by_rule(&mut self, now: Mono, out: &mut Vec<u8>) {
        assert!(!self.is_lmtp, "with LMTP there is a reply for each recipient");
        self.end_message(now);
        Reply::DISCARDED.put(out);
    }

    /// The message of [`Step::EndOfMessage`] is not taken.
    pub fn refused(&mut self, now: Mono, refusal: Refusal<'_>, out: &mut Vec<u8>) {
        assert!(!self.is_lmtp, "with LMTP there is a reply for each recipient");
        self.end_message(now);
        self.refuse(now, &refusal, out);
    }

    fn end_message(&mut self, now: Mono) {
        assert!(matches!(self.state, State::Ended(_)), "no message has ended");
        self.state = State::Command;
        self.since = now;
        self.reset();
    }

    /// Writes a refusal that others decided; permanent ones count as errors of the peer.
    fn refuse(&mut self, now: Mono, refusal: &Refusal<'_>, out: &mut Vec<u8>) {
        refusal.put(out);
        if refusal.code() == 421 {
            self.state = State::Closing;
        } else if refusal.is_permanent() {
            self.count_error(now, out);
        }
    }

    /// When [`Self::expire`] is due. Far away while it is the shell's turn.
    #[must_use]
    pub fn deadline(&self) -> Mono {
        let o = &self.options;
        let command = self.since.after(o.command_time);
        let transfer = self.transfer.as_ref().map_or(Mono(u64::MAX), |t| t.deadline(o));
        match self.state {
            State::Asking(_) | State::Ended(_) | State::Closing => Mono(u64::MAX),
            State::Securing { .. } => self.since.after(o.tls_time),
            State::Data | State::Chunk(_) => self.since.after(o.block_time).min(transfer),
            State::Fresh | State::Command | State::LongLine(_) | State::Auth => {
                let envelope = self.transaction.filter(|_| self.transfer.is_none());
                let envelope = envelope.map_or(Mono(u64::MAX), |t| t.began.after(o.envelope_time));
                command.min(transfer).min(envelope)
            }
        }
    }

    /// Ends the session if its deadline has passed (RFC 5321 §4.5.3.2.7).
    pub fn expire(&mut self, now: Mono, out: &mut Vec<u8>) -> Step {
        if now < self.deadline() {
            Step::NeedInput
        } else if matches!(self.state, State::Securing { .. }) {
            self.shutdown(out)
        } else {
            self.close(Reply::TIMEOUT, out)
        }
    }

    /// Moves all deadlines: for so long it was not the peer who kept us waiting (the shell did not read).
    pub fn excuse(&mut self, time: Duration) {
        self.since = self.since.after(time);
        if let Some(transaction) = &mut self.transaction {
            transaction.began = transaction.began.after(time);
        }
        if let Some(transfer) = &mut self.transfer {
            transfer.excuse(time);
        }
    }

    /// Ends the session at the next command boundary (RFC 5321 §3.8): now, if that is where it stands.
    pub fn shutdown(&mut self, out: &mut Vec<u8>) -> Step {
        self.shutting_down = true;
        match self.state {
            State::Fresh | State::Command | State::LongLine(_) | State::Auth => {
                self.close(Reply::SHUTTING_DOWN, out)
            }
            // No reply can be read within a handshake.
            State::Securing { .. } => {
                self.state = State::Closing;
                Step::Close
            }
            State::Closing => Step::Close,
            State::Asking(_) | State::Data | State::Chunk(_) | State::Ended(_) => Step::NeedInput,
        }
    }

    fn close(&mut self, reply: Reply, out: &mut Vec<u8>) -> Step {
        reply.put(out);
        self.state = State::Closing;
        Step::Close
    }

    /// Forgets the transaction. Gives true if the shell holds a part of its message.
    fn reset(&mut self) -> bool {
        self.transaction = None;
        self.forwarded = None;
        if self.envelope.bytes().len() > ENVELOPE_KEPT {
            self.envelope = Envelope::default();
        }
        self.transfer.take().is_some_and(|t| t.shown())
    }

    /// The envelope of the transaction.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// SIZE= of MAIL (RFC 1870), if it was given; never above the limit.
    #[must_use]
    pub fn declared_size(&self) -> Option<u64> {
        self.declared_size
    }

    /// The argument of EHLO or HELO; empty before. Printable ASCII without spaces, not verified.
    #[must_use]
    pub fn helo(&self) -> &[u8] {
        &self.helo
    }

    /// The protocol of the transaction.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match self.hello {
            Hello::Ehlo if self.is_lmtp && self.smtputf8 => Protocol::Utf8Lmtp(self.marks()),
            Hello::Ehlo if self.is_lmtp => Protocol::Lmtp(self.marks()),
            Hello::Ehlo if self.smtputf8 => Protocol::Utf8Smtp(self.marks()),
            Hello::Ehlo => Protocol::Esmtp(self.marks()),
            Hello::Helo | Hello::None => Protocol::Smtp,
        }
    }

    fn marks(&self) -> Marks {
        Marks { tls: self.security.is_some(), authenticated: self.auth.authenticated }
    }

    /// What is known of the message, between [`Step::EndOfMessage`] and its answer.
    #[must_use]
    pub fn body_facts(&self) -> BodyFacts {
        let State::Ended(ended) = self.state else { panic!("no message has ended") };
        ended.facts
    }

    /// True at a command boundary outside of a transaction: the session can be ended without harm.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Fresh | State::Command | State::Auth) && self.transaction.is_none()
    }

    /// True while the bytes of a message are what comes next.
    #[must_use]
    pub fn in_message(&self) -> bool {
        matches!(self.state, State::Data | State::Chunk(_))
    }
}

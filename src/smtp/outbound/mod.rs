//! L2: the client side of SMTP as a state machine without IO.
//!
//! Bytes of the server and the time go in; commands go into a buffer; a [`Step`] says what the
//! shell is to do next. With DATA two transactions may be open: while the first waits for the reply
//! to its final dot, MAIL, RCPT and DATA of the second are on their way (RFC 2920 §3.1). Where
//! CHUNKING is offered too (RFC 3030), whole messages follow one another, up to
//! [`Options::outstanding`]; see `begin` for when a body may go along with its envelope.
//!
//! LMTP ([`Options::lmtp`], RFC 2033) is the same with LHLO, with DATA only and, at the end of data, one
//! reply for each recipient that was taken, in the order of RCPT.
//!
//! Knows nothing of queues, retries, sockets or routes. It trusts no server: replies are bounded,
//! every wait has a deadline, a reply that nobody asked for ends the connection, and so does one that is
//! out of step as far as that shows (`voice`). A recipient is `Delivered` only by a 2xx to the end of data
//! of its own transaction.

mod auth;
mod begin;
pub mod capability;
pub mod command;
mod dialogue;
mod starttls;
pub mod stuffing;
mod transaction;
mod voice;

pub use auth::Login;
pub use begin::Request;
pub use dialogue::{Close, Loss};
pub use transaction::{Outcome, Phase, RecipientResult, Results};

use crate::base::time::Mono;
use crate::smtp::reply_in::{ReplyParser, TEXT_MAX};
use capability::Capabilities;
use dialogue::Dialogue;
use std::time::Duration;

/// Text of the EHLO reply that is looked at, in bytes.
const EHLO_TEXT_MAX: usize = 8192;

/// What to do about TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StartTls {
    /// Nothing.
    #[default]
    Never,
    /// STARTTLS if it is offered; in clear text if not, or if the server does not want to.
    IfOffered,
    /// STARTTLS, or the connection ends.
    Required,
}

/// How to speak. Times: RFC 5321 §4.5.3.2.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name for EHLO: a host name or an address literal.
    pub helo: String,
    /// LMTP instead of SMTP.
    pub lmtp: bool,
    /// Most recipients of one transaction, at least 1.
    pub recipients_max: u32,
    /// Most transactions of one connection, at least 1.
    pub transactions_max: u32,
    /// False: one command at a time even where PIPELINING is offered.
    pub pipelining: bool,
    /// False: DATA even where CHUNKING is offered.
    pub chunking: bool,
    /// Most messages without their last reply, where CHUNKING and PIPELINING are offered; at least
    /// 1. 1: no body leaves before its recipients have been answered.
    pub outstanding: u32,
    /// What to do about TLS.
    pub starttls: StartTls,
    /// Log in before mail is sent.
    pub login: Option<Login>,
    /// For the whole of a TLS handshake.
    pub handshake: Duration,
    /// Wait for the greeting.
    pub banner: Duration,
    /// Wait for the reply to EHLO or HELO.
    pub hello: Duration,
    /// Wait for the reply to MAIL.
    pub mail: Duration,
    /// Wait for the reply to RCPT.
    pub rcpt: Duration,
    /// Wait for the reply to DATA.
    pub data: Duration,
    /// To send one piece of a message, at most 128 KiB.
    pub block: Duration,
    /// Wait for the reply to the final dot; with LMTP, for each of them.
    pub final_dot: Duration,
    /// Wait for the reply to QUIT.
    pub quit: Duration,
}

impl Options {
    /// The usual values, with the name for EHLO.
    #[must_use]
    pub fn new(helo: &str) -> Self {
        Options {
            helo: helo.to_owned(),
            lmtp: false,
            recipients_max: 50,
            transactions_max: 100,
            pipelining: true,
            chunking: true,
            outstanding: 16,
            starttls: StartTls::Never,
            login: None,
            handshake: Duration::from_secs(60),
            banner: Duration::from_secs(300),
            hello: Duration::from_secs(300),
            mail: Duration::from_secs(300),
            rcpt: Duration::from_secs(300),
            data: Duration::from_secs(120),
            block: Duration::from_secs(180),
            final_dot: Duration::from_secs(600),
            quit: Duration::from_secs(10),
        }
    }
}

/// What the shell is to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send what is in the buffer, then receive.
    NeedInput,
    /// Do the TLS handshake, then [`Client::secured`]; from now on all bytes go through TLS.
    StartTls,
    /// No transaction is open: [`Client::begin`] or [`Client::quit`].
    Ready,
    /// [`Client::open_body`], and send the message of the oldest transaction; with the last piece
    /// [`Client::end_body`].
    SendBody,
    /// The oldest transaction is over: [`Client::results`], before the next call of anything else.
    Settled,
    /// The connection is over: [`Client::lost`] for the transactions still open.
    Close(Close),
}

/// What has come of [`Client::begin`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begun {
    /// Commands are in the buffer.
    Sent,
    /// Commands are in the buffer, and the message must follow them there as it is stored: it leaves
    /// with them, its end of data included.
    Whole,
    /// No recipient can be sent to this server; nothing was written. [`Client::results`] now.
    Refused,
}

/// How the end of a message is marked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Framing {
    /// DATA: by a lone dot; lines that begin with one get another ([`stuffing`]).
    #[default]
    Dots,
    /// BDAT: by its size, which has been said; the message goes as it is.
    Counted,
}

/// What is to become of a transaction whose connection is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Nothing was risked: take it again at once, on another connection.
    GiveBack,
    /// [`Client::results`] has the results.
    Settled,
}

/// One connection to a server.
#[derive(Debug)]
pub struct Client {
    parser: ReplyParser,
    dialogue: Dialogue,
    keep_set: bool,
}

impl Client {
    /// The connection has been opened: the greeting is awaited.
    #[must_use]
    pub fn new(options: Options, now: Mono) -> Self {
        Client {
            parser: ReplyParser::new(EHLO_TEXT_MAX),
            dialogue: Dialogue::new(options, now),
            keep_set: false,
        }
    }

    /// Takes bytes of the server up to a point where the shell must act. How many it took, and
    /// what is to be done; call again with the rest afterwards. Commands are appended to `out`.
    pub fn receive(&mut self, now: Mono, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        let mut used = 0;
        loop {
            if let Some(close) = self.dialogue.closed() {
                return (used, Step::Close(close));
            }
            if used == input.len() {
                return (used, self.dialogue.resting(self.parser.is_midway()));
            }
            let (n, done) = self.parser.push(&input[used..]);
            used += n;
            match done {
                None => {}
                Some(Err(e)) => self.dialogue.fault(e),
                Some(Ok(())) => {
                    let step = self.dialogue.on_reply(now, &self.parser.reply(), used < input.len(), out);
                    if !self.keep_set && self.dialogue.is_open() {
                        self.parser.set_keep(TEXT_MAX);
                        self.keep_set = true;
                    }
                    if let Some(step) = step {
                        return (used, step);
                    }
                }
            }
        }
    }

    /// The handshake is done; EHLO is appended to `out`. Only after [`Step::StartTls`]; panics otherwise.
    pub fn secured(&mut self, now: Mono, out: &mut Vec<u8>) {
        self.dialogue.begin_secured(now, out);
    }

    /// True once the server has answered all that comes before mail.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.dialogue.is_open()
    }

    /// Begins a transaction. Allowed at [`Step::Ready`], or right after [`Self::end_body`] if
    /// [`Self::can_follow`]; panics otherwise. Commands are appended to `out`.
    pub fn begin(&mut self, now: Mono, request: &Request<'_>, out: &mut Vec<u8>) -> Begun {
        self.dialogue.begin(now, request, out)
    }

    /// True if the next transaction may be begun behind the messages that are being sent.
    #[must_use]
    pub fn can_follow(&self) -> bool {
        self.dialogue.can_follow()
    }

    /// True if this connection may carry another transaction.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.dialogue.has_room()
    }

    /// The message of the oldest transaction is about to be sent: appends the command that comes
    /// before it, if there is one. Only after [`Step::SendBody`]; panics otherwise.
    pub fn open_body(&mut self, out: &mut Vec<u8>) -> Framing {
        self.dialogue.open_body(out)
    }

    /// True if the server offers CHUNKING and has shown that it does not know BDAT.
    #[must_use]
    pub fn is_chunking_broken(&self) -> bool {
        self.dialogue.is_chunking_broken()
    }

    /// Messages that have been handed over with their end of data and not been answered.
    #[must_use]
    pub fn in_doubt(&self) -> usize {
        self.dialogue.in_doubt()
    }

    /// The last piece of the message is about to be sent, and the end of data with it.
    pub fn end_body(&mut self, now: Mono) {
        self.dialogue.end_body(now);
    }

    /// The results of the transaction that has just been settled.
    #[must_use]
    pub fn results(&self) -> Results<'_> {
        self.dialogue.results()
    }

    /// The connection is lost, or the shell gives it up. Ends the oldest open transaction and says
    /// what is to become of it; call until `None`.
    pub fn lost(&mut self, why: Loss) -> Option<Ending> {
        self.dialogue.lost(why)
    }

    /// Says QUIT. Only at [`Step::Ready`]; panics otherwise.
    pub fn quit(&mut self, now: Mono, out: &mut Vec<u8>) {
        self.dialogue.quit(now, out);
    }

    /// When the reply that is awaited must be here; `None` if none is.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        self.dialogue.deadline()
    }

    /// What is going on.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.dialogue.phase()
    }

    /// What the server offers; nothing before EHLO.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        self.dialogue.capabilities()
    }

    /// Transactions begun on this connection.
    #[must_use]
    pub fn transactions(&self) -> u32 {
        self.dialogue.transactions()
    }

    /// Text of the reply that ended the connection; empty if none did.
    #[must_use]
    pub fn last_words(&self) -> &[u8] {
        self.dialogue.last_words()
    }

    /// The options.
    #[must_use]
    pub fn options(&self) -> &Options {
        self.dialogue.options()
    }
}

#[cfg(test)]
mod tests;

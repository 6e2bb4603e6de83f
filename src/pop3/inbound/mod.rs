//! The server side of a POP3 session (RFC 1939) as a state machine without IO.
//!
//! Bytes and time go in, replies and [`Step`]s come out. It knows no socket, clock, password or store:
//! the shell checks the login, takes the maildrop, streams messages and commits the deletions.
//! Errors of the peer end in a reply or in [`Step::Close`], never in a panic. Calls out of order (an
//! answer without a question) are bugs of the shell and panic.
//!
//! How a shell drives it: [`Session::banner`]; then [`Session::receive`] with all input not yet
//! consumed, again and again, doing what each step says. Consumed bytes are not shown again; the
//! others stay at the front of the buffer, in front of what arrives next. Replies are appended to
//! `out`; the shell sends it at [`Step::NeedInput`], [`Step::Yield`], [`Step::Send`] and
//! [`Step::Close`], so that pipelined commands are answered by one write (RFC 2449 §6.6). When
//! [`Session::deadline`] passes: [`Session::expire`].
//!
//! A session moves to the core that owns its maildrop at [`Question::Maildrop`], before that is
//! answered: [`Session::depart`] there, [`Session::arrive`] here. Nothing is deleted but by
//! [`Question::Commit`]; a session that ends otherwise has changed nothing (RFC 1939 §6).

mod capa;
mod login;
mod mail;
mod maildrop;
mod moving;
mod options;
pub mod tally;
#[cfg(test)]
mod tests;

pub use login::{Offer, Said, Tls};
pub use moving::Luggage;
pub use options::Options;

use crate::base::scan;
use crate::base::security::Security;
use crate::base::time::Mono;
use crate::pop3::body::Body;
use crate::pop3::command::{self, BadCommand, Command};
use crate::pop3::reply::{Reply, put};
use login::Login;
use maildrop::Maildrop;
use std::rc::Rc;
use std::time::Duration;

/// What the shell must do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send the replies, then wait for input (until the deadline).
    NeedInput,
    /// Find the answer, give it to the method that the question names, then call `receive` again.
    Ask(Question),
    /// Send the replies, then the message through [`Session::body`], then call [`Session::sent`] and
    /// `receive`. Call [`Session::progress`] when some of it is on its way. If it cannot be sent to
    /// its end: close without a word, since no reply can stand in the middle of a message.
    Send(Fetch),
    /// Enough for one turn: send the replies, let others run, call again.
    Yield,
    /// Send the replies, drop all input (it came in clear text), do a TLS handshake (until the
    /// deadline); then [`Session::secured`], or close without a word.
    StartTls,
    /// Send the replies, close.
    Close,
}

/// What only the shell can know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// What becomes of a login? It is in [`Session::said`]; [`Session::answer`].
    Login,
    /// Can there be a TLS handshake now? [`Session::answer`].
    Tls,
    /// The login is good: move to the core that owns the maildrop, take it, and list its messages:
    /// [`Session::opened`], or [`Session::answer`] with the refusal.
    Maildrop,
    /// The UIDLs of `count` messages from number `first` on, marked or not: [`Session::uidls`], or
    /// [`Session::answer`] with the refusal.
    Uidls {
        /// From this one, counted from 1.
        first: u32,
        /// So many.
        count: u32,
    },
    /// Can this message be sent? Find its beginning: [`Session::found`], or [`Session::answer`]
    /// with the refusal.
    Message(Fetch),
    /// Delete the messages of [`Session::deletions`], all or none: [`Session::deleted`], or
    /// [`Session::answer`] with the refusal.
    Commit,
}

/// A message that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// Its number, from 1.
    pub number: u32,
    /// Lines of the body (TOP); none: all of it (RETR).
    pub lines: Option<u32>,
}

/// The answer to a [`Question`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer<'a> {
    /// Yes.
    Accept,
    /// No, with this reply.
    Refuse(Reply),
    /// No, with this reply, and the session ends.
    Close(Reply),
    /// To [`Question::Login`]: the client must answer this first.
    Challenge(&'a [u8]),
}

/// One session.
#[derive(Debug)]
pub struct Session {
    options: Rc<Options>,
    state: State,
    tls: Tls,
    security: Option<Rc<Security>>,
    login: Login,
    /// Of a session that has logged in.
    maildrop: Option<Maildrop>,
    utf8: bool,
    /// Commands since the shell last had its turn.
    burst: u32,
    /// Commands before the login.
    commands: u32,
    errors: u32,
    /// Since when the peer has been owing us something.
    since: Mono,
    shutting_down: bool,
    /// Commands obeyed since the shell last asked.
    tally: tally::Tally,
}

/// Where the session is.
#[derive(Clone, Debug)]
enum State {
    /// The banner has not been written.
    Fresh,
    /// At the start of a command line.
    Command,
    /// Within a line that is too long.
    LongLine,
    /// At the start of a line that answers a challenge.
    Auth,
    /// A question waits for its answer.
    Asking(Asking),
    /// Within the lines of LIST or UIDL; the next one is that of this number.
    Listing { next: u32, uidl: bool },
    /// A message is on its way.
    Sending(Fetch, Body),
    /// The handshake is the shell's; the banner has not been written if `fresh`.
    Securing { fresh: bool },
    /// The last reply has been written.
    Closing,
}

#[derive(Clone, Copy, Debug)]
struct Asking {
    question: Question,
    /// UIDL of one message, not of all.
    single: bool,
}

impl Session {
    /// A session whose peer has just connected.
    #[must_use]
    pub fn new(options: Rc<Options>, now: Mono) -> Self {
        Session {
            options,
            state: State::Fresh,
            tls: Tls::default(),
            security: None,
            login: Login::default(),
            maildrop: None,
            utf8: false,
            burst: 0,
            commands: 0,
            errors: 0,
            since: now,
            shutting_down: false,
            tally: tally::Tally::default(),
        }
    }

    /// Writes the greeting. With a timestamp for APOP (RFC 1939 §7) if [`Self::offer`] has one.
    pub fn banner(&mut self, now: Mono, out: &mut Vec<u8>) -> Step {
        assert!(matches!(self.state, State::Fresh), "the banner comes once");
        match self.login.timestamp() {
            Some(timestamp) => put(out, format_args!("+OK ringpost POP3 ready {timestamp}")),
            None => put(out, format_args!("+OK ringpost POP3 ready")),
        }
        self.since = now;
        self.state = State::Command;
        Step::NeedInput
    }

    /// Takes all input that is not yet consumed. Gives how much of it is consumed now, and what
    /// to do next.
    pub fn receive(&mut self, now: Mono, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let (n, step) = match &self.state {
                State::Fresh => {
                    self.banner(now, out);
                    (0, None)
                }
                State::Command | State::Auth => self.at_line(now, rest, out),
                State::LongLine => self.long_line(now, rest, out),
                State::Asking(asking) => (0, Some(Step::Ask(asking.question))),
                State::Listing { .. } => (0, self.list_on(out)),
                State::Sending(fetch, _) => (0, Some(Step::Send(*fetch))),
                // All that has come in clear text is gone with this (RFC 2595 §4).
                State::Securing { .. } => (rest.len(), Some(Step::StartTls)),
                State::Closing => (rest.len(), Some(Step::Close)),
            };
            used += n;
            if let Some(step) = step {
                if !matches!(step, Step::Ask(_)) {
                    self.burst = 0;
                }
                return (used, step);
            }
        }
    }

    /// At the start of a line.
    fn at_line(&mut self, now: Mono, rest: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        if self.shutting_down {
            return (0, Some(self.close(Reply::SHUTTING_DOWN, out)));
        }
        let is_auth = matches!(self.state, State::Auth);
        let line_max = self.line_max(is_auth, rest);
        let Some(lf) = scan::line_feed(&rest[..rest.len().min(line_max)]) else {
            if rest.len() < line_max {
                return (0, Some(Step::NeedInput));
            }
            self.login.forget();
            self.state = State::LongLine;
            return (0, None);
        };
        // One client never gets more than its turn, and never more replies than it has read.
        if self.burst >= self.options.burst || out.len() >= self.options.replies_max {
            return (0, Some(Step::Yield));
        }
        self.burst += 1;
        self.since = now;
        self.state = State::Command;
        // Nothing but commands comes from a client, so a bare line feed can hide nothing.
        let line = rest[..lf].strip_suffix(b"\r").unwrap_or(&rest[..lf]);
        let step = if is_auth { self.auth_line(line, out) } else { self.line(line, out) };
        (lf + 1, step)
    }

    /// Swallows a line that is too long, with constant memory.
    fn long_line(&mut self, now: Mono, rest: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        match scan::line_feed(rest) {
            Some(lf) => {
                self.since = now;
                self.state = State::Command;
                (lf + 1, self.error(Reply::LINE_TOO_LONG, out))
            }
            None => (rest.len(), Some(Step::NeedInput)),
        }
    }

    /// Obeys one line.
    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        if self.maildrop.is_none() {
            self.commands += 1;
            if self.commands > self.options.commands_before_login {
                return Some(self.close(Reply::TOO_MANY_COMMANDS, out));
            }
        }
        let command = match command::parse(line) {
            Ok(command) => command,
            Err(BadCommand::Http) => return Some(self.close(Reply::NOT_HTTP, out)),
            Err(BadCommand::Unknown) => return self.error(Reply::UNKNOWN_COMMAND, out),
            Err(BadCommand::Arguments) => return self.error(Reply::BAD_ARGUMENTS, out),
            Err(BadCommand::NoMessage) => return self.error(Reply::NO_MESSAGE, out),
        };
        self.tally.count(&command);
        match command {
            Command::Capa => self.capa(out),
            Command::Lang(language) => self.language(language, out),
            Command::Quit => self.quit(out),
            Command::User(name) => self.user(name, out),
            Command::Pass(password) => self.pass(password.0, out),
            Command::Apop { name, digest } => self.apop(name, digest, out),
            Command::Auth { mechanism, initial } => self.begin_auth(mechanism, initial.0, out),
            Command::Stls => self.start_tls(out),
            // RFC 6856 §2: before the login only.
            Command::Utf8 if self.maildrop.is_some() => self.error(Reply::WRONG_STATE, out),
            Command::Utf8 => {
                self.utf8 = true;
                self.say(Reply::UTF8_ON, out)
            }
            mail => self.mail(mail, out),
        }
    }

    /// Answers the question of the last [`Step::Ask`].
    pub fn answer(&mut self, now: Mono, answer: Answer<'_>, out: &mut Vec<u8>) {
        let asking = self.asked();
        // The peer is not made to pay for our time.
        self.since = now;
        self.state = State::Command;
        match (asking.question, answer) {
            (Question::Login, Answer::Accept) => {
                self.login.forget();
                self.state = State::Asking(Asking { question: Question::Maildrop, single: false });
            }
            (Question::Login, Answer::Challenge(challenge)) => self.challenge(challenge, out),
            (Question::Tls, Answer::Accept) => {
                Reply::BEGIN_TLS.put(out);
                self.state = State::Securing { fresh: false };
            }
            (Question::Commit, Answer::Refuse(reply) | Answer::Close(reply)) => self.end(reply, out),
            (Question::Login, Answer::Refuse(reply)) => self.not_known(reply, out),
            // Lines have been sent: no reply can stand among them.
            (Question::Uidls { first, .. }, Answer::Refuse(_) | Answer::Close(_))
                if !asking.single && first > 1 =>
            {
                self.state = State::Closing;
            }
            (_, Answer::Refuse(reply)) => reply.put(out),
            (_, Answer::Close(reply)) => self.end(reply, out),
            (question, answer) => panic!("{answer:?} is no answer to {question:?}"),
        }
    }

    fn asked(&self) -> Asking {
        let State::Asking(asking) = self.state else { panic!("an answer without a question") };
        asking
    }

    fn ask(&mut self, question: Question) -> Option<Step> {
        self.state = State::Asking(Asking { question, single: false });
        Some(Step::Ask(question))
    }

    /// Writes a reply.
    #[allow(clippy::unnecessary_wraps)] // the form of all commands
    fn say(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Step> {
        reply.put(out);
        None
    }

    /// Refuses a command, and counts that.
    fn error(&mut self, reply: Reply, out: &mut Vec<u8>) -> Option<Step> {
        reply.put(out);
        self.errors += 1;
        (self.errors >= self.options.errors_max).then(|| self.close(Reply::TOO_MANY_ERRORS, out))
    }

    fn end(&mut self, reply: Reply, out: &mut Vec<u8>) {
        reply.put(out);
        self.state = State::Closing;
    }

    fn close(&mut self, reply: Reply, out: &mut Vec<u8>) -> Step {
        self.end(reply, out);
        Step::Close
    }

    /// When [`Self::expire`] is due. Far away while it is the shell's turn.
    #[must_use]
    pub fn deadline(&self) -> Mono {
        let o = &self.options;
        match self.state {
            State::Asking(_) | State::Closing | State::Listing { .. } => Mono(u64::MAX),
            State::Securing { .. } => self.since.after(o.tls_time),
            State::Sending(..) => self.since.after(o.send_time),
            _ if self.maildrop.is_some() => self.since.after(o.idle_time),
            _ => self.since.after(o.login_time),
        }
    }

    /// Ends the session if its deadline has passed: without a reply, and nothing is deleted
    /// (RFC 1939 §3).
    pub fn expire(&mut self, now: Mono) -> Step {
        if now < self.deadline() {
            return Step::NeedInput;
        }
        self.state = State::Closing;
        Step::Close
    }

    /// Moves the deadline: for so long it was not the peer who kept us waiting.
    pub fn excuse(&mut self, time: Duration) {
        self.since = self.since.after(time);
    }

    /// Ends the session at the next command boundary: now, if that is where it stands.
    pub fn shutdown(&mut self, out: &mut Vec<u8>) -> Step {
        self.shutting_down = true;
        match self.state {
            State::Fresh | State::Command | State::LongLine | State::Auth => {
                self.close(Reply::SHUTTING_DOWN, out)
            }
            // No reply can be read within a handshake.
            State::Securing { .. } => {
                self.state = State::Closing;
                Step::Close
            }
            State::Closing => Step::Close,
            State::Asking(_) | State::Listing { .. } | State::Sending(..) => Step::NeedInput,
        }
    }

    /// True at a command boundary: the session needs no buffers, and can be ended without harm.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Fresh | State::Command | State::Auth)
    }

    /// All replies to the commands so far are written.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.state, State::Command | State::Closing)
    }

    /// Commands obeyed since the last call.
    pub fn take_tally(&mut self) -> tally::Tally {
        std::mem::take(&mut self.tally)
    }

    /// The client has said UTF8 (RFC 6856 §2).
    #[must_use]
    pub fn is_utf8(&self) -> bool {
        self.utf8
    }
}

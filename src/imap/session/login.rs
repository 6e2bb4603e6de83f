//! Before the login: greeting, CAPABILITY, ID, STARTTLS, LOGIN, AUTHENTICATE, LOGOUT, and what may be
//! turned on behind it: ENABLE, COMPRESS. Also UNAUTHENTICATE (RFC 8437).
//!
//! What the client says goes to the shell, which knows who may log in, and is wiped then.

use super::{Answer, Ask, Session, State, Step, Task};
use crate::base::secret::Secret;
use crate::base::security::Security;
use crate::base::time::Mono;
use crate::imap::encode::capability;
use crate::imap::encode::mailbox::id as put_id;
use crate::imap::encode::status::{Code, Condition, Word, continuation, enabled, status};
use crate::imap::line::Limits;
use crate::imap::parse::auth::{Authenticate, Login as LoginCommand};
use crate::imap::parse::session::Extensions;
use crate::imap::set::SeqSet;
use crate::mailbox::api::Selected;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::rc::Rc;

/// What a listener does with TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tls {
    /// It is not offered.
    #[default]
    Off,
    /// STARTTLS is offered.
    Offered,
    /// The connection begins with the handshake.
    Implicit,
}

/// How one can log in now; to be set anew when TLS has begun.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Offer {
    /// LOGIN is taken.
    pub passwords: bool,
    /// SASL mechanisms by name, separated by spaces.
    pub mechanisms: Rc<str>,
    /// SASL mechanisms that could be used under TLS.
    pub under_tls: Rc<str>,
}

/// What the client has said, for [`Ask::Login`].
#[derive(Clone, Copy, Debug)]
pub enum Said<'a> {
    /// LOGIN.
    Password {
        /// As the client wrote it.
        login: &'a [u8],
        /// The password.
        password: &'a Secret,
    },
    /// AUTHENTICATE begins, with an initial response or without.
    Begin {
        /// One of the mechanisms of the offer, as the client wrote it.
        mechanism: &'a str,
        /// Decoded.
        initial: Option<&'a Secret>,
    },
    /// It answers the last challenge.
    Response(&'a Secret),
}

/// Why somebody does not get in, or no TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Denial {
    /// Response code (RFC 5530).
    pub code: Option<Word>,
    /// For the client's user.
    pub text: &'static str,
    /// It was a wrong password: some of these end the session.
    pub counts: bool,
    /// The session ends with it.
    pub close: bool,
}

impl Denial {
    /// Name or password are wrong.
    pub const FAILED: Denial = Denial {
        code: Some(Word::AuthenticationFailed),
        text: "Name or password are wrong",
        counts: true,
        close: false,
    };
    /// Who is to say so does not answer.
    pub const UNAVAILABLE: Denial = Denial {
        code: Some(Word::Unavailable),
        text: "Logins cannot be checked at this moment",
        counts: false,
        close: false,
    };
    /// There is no mailbox for that login.
    pub const NO_MAILBOX: Denial = Denial {
        code: Some(Word::AuthorizationFailed),
        text: "There is no mailbox for this login",
        counts: false,
        close: false,
    };
    /// More sessions than there may be.
    pub const TOO_MANY: Denial =
        Denial { code: Some(Word::Limit), text: "Too many connections", counts: false, close: false };
    /// No handshake now.
    pub const NO_TLS: Denial = Denial {
        code: Some(Word::Unavailable),
        text: "TLS is not available at this moment",
        counts: false,
        close: false,
    };
    /// The server stops.
    pub const STOPPING: Denial =
        Denial { code: Some(Word::Unavailable), text: "The server is stopping", counts: false, close: true };
}

/// The part of a session that is about the login.
#[derive(Debug, Default)]
pub(super) struct Login {
    pub offer: Offer,
    kept: Kept,
    pub failures: u32,
}

#[derive(Debug, Default)]
enum Kept {
    #[default]
    Nothing,
    Password(Vec<u8>, Secret),
    Begin(String, Option<Secret>),
    Response(Secret),
}

impl<S: Selected> Session<S> {
    /// How one can log in; without this one cannot.
    pub fn offer(&mut self, offer: Offer) {
        self.login.offer = offer;
    }

    /// What the listener does with TLS; before the greeting. [`Tls::Off`] if it is not called.
    pub fn set_tls(&mut self, tls: Tls) {
        self.tls = tls;
    }

    /// What [`Ask::Login`] is about.
    ///
    /// # Panics
    /// If that has not been asked.
    #[must_use]
    pub fn said(&self) -> Said<'_> {
        match &self.login.kept {
            Kept::Nothing => panic!("nothing has been said"),
            Kept::Password(login, password) => Said::Password { login, password },
            Kept::Begin(mechanism, initial) => Said::Begin { mechanism, initial: initial.as_ref() },
            Kept::Response(response) => Said::Response(response),
        }
    }

    pub(super) fn forget_login(&mut self) {
        self.login.kept = Kept::Nothing;
    }

    /// Writes the greeting.
    pub fn greet(&mut self, now: Mono, out: &mut Vec<u8>) -> Step {
        assert!(matches!(self.state, State::Fresh), "the greeting comes once");
        let list = self.capabilities();
        Self::untagged(Some(Code::Capability(&list)), "ringpost IMAP ready", out);
        self.since = now;
        self.state = State::Command;
        Step::NeedInput
    }

    /// The list is right at every moment: before and after TLS, login and ENABLE.
    fn capabilities(&self) -> Vec<u8> {
        let mechanisms: Vec<&str> =
            self.login.offer.mechanisms.split(' ').filter(|name| !name.is_empty()).collect();
        let mut list = Vec::with_capacity(512);
        let state = capability::State {
            tls: self.security.is_some(),
            starttls: self.offers_tls(),
            login: self.login.offer.passwords,
            mechanisms: &mechanisms,
            authenticated: self.owner.is_some(),
            compress: self.owner.is_some() && !self.compressed,
            append_limit: self.options.append_limit,
            quota: true,
        };
        capability::list(&mut list, &state);
        list
    }

    pub(super) fn capability(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        out.extend_from_slice(b"* CAPABILITY ");
        out.extend_from_slice(&self.capabilities());
        out.extend_from_slice(b"\r\n");
        self.finish(true, "CAPABILITY", out)
    }

    pub(super) fn id(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        // RFC 2971 §4: not the version: who looks for old ones shall have to try.
        put_id(out, &[("name", Some("ringpost"))]);
        self.finish(true, "ID", out)
    }

    pub(super) fn logout(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        status(out, b"*", Condition::Bye, None, "Logging out");
        self.chosen = None;
        self.say(Condition::Ok, None, "LOGOUT completed", out);
        self.state = State::Closing;
        Some(Step::Close)
    }

    pub(super) fn enable(&mut self, known: Extensions, out: &mut Vec<u8>) -> Option<Step> {
        let before = self.enabled;
        // RFC 7162 §3.2.3: QRESYNC means CONDSTORE too.
        if known.has(Extensions::CONDSTORE) || known.has(Extensions::QRESYNC) {
            self.aware(out);
        }
        self.enabled = self.enabled.with(known);
        // RFC 5161 §3.1: exactly what this command has turned on.
        let implied = if known.has(Extensions::CONDSTORE) { 0 } else { Extensions::CONDSTORE.0 };
        enabled(out, Extensions(self.enabled.0 & !before.0 & !implied));
        self.finish(true, "ENABLE", out)
    }

    pub(super) fn log_in(&mut self, login: &LoginCommand<'_>, out: &mut Vec<u8>) -> Option<Step> {
        if self.owner.is_some() {
            return self.bad("You are logged in", out);
        }
        if !self.login.offer.passwords {
            return match self.offers_tls() {
                true => self.no(Word::PrivacyRequired, "Say STARTTLS first", out),
                false => self.no(Word::Cannot, "LOGIN is not offered", out),
            };
        }
        let user = login.user.bytes().into_owned();
        let password = Secret::new(login.password.expose().bytes().into_owned());
        self.login.kept = Kept::Password(user, password);
        self.ask(Task::Login, Ask::Login)
    }

    pub(super) fn authenticate(&mut self, auth: &Authenticate<'_>, out: &mut Vec<u8>) -> Option<Step> {
        if self.owner.is_some() {
            return self.bad("You are logged in", out);
        }
        let has =
            |offer: &str| offer.split(' ').any(|name| name.as_bytes().eq_ignore_ascii_case(auth.mechanism));
        if !has(&self.login.offer.mechanisms) {
            return match has(&self.login.offer.under_tls) {
                true => self.no(Word::PrivacyRequired, "Say STARTTLS first", out),
                false => self.no(Word::Cannot, "There is no such mechanism", out),
            };
        }
        let initial = match &auth.initial {
            None => None,
            Some(text) => match decode(&text.expose().bytes()) {
                Some(bytes) => Some(bytes),
                None => return self.bad("The initial response is not base64", out),
            },
        };
        self.login.kept = Kept::Begin(String::from_utf8_lossy(auth.mechanism).into_owned(), initial);
        self.ask(Task::Login, Ask::Login)
    }

    /// A line that answers a challenge.
    pub(super) fn auth_line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        // RFC 9051 §6.2.2: this cancels.
        if line == b"*" {
            self.forget_login();
            return self.bad("The login is cancelled", out);
        }
        match if line.is_empty() { Some(Secret::default()) } else { decode(line) } {
            Some(bytes) => {
                self.login.kept = Kept::Response(bytes);
                self.ask(Task::Login, Ask::Login)
            }
            None => self.bad("The response is not base64", out),
        }
    }

    pub(super) fn login_answer(&mut self, ask: &Ask, answer: Answer<'_, S>, out: &mut Vec<u8>) {
        self.forget_login();
        match (ask, answer) {
            (Ask::Login, Answer::Challenge(challenge)) => {
                continuation(out, STANDARD.encode(challenge).as_bytes());
                self.state = State::Auth;
            }
            (Ask::Login, Answer::Accept) => {
                self.ask(Task::Login, Ask::Enter);
            }
            (Ask::Enter, Answer::Entered(shard)) => {
                self.owner = Some(shard);
                self.framer.set_limits(Limits::AFTER_LOGIN);
                // RFC 9051 §7.1: clients need not ask again.
                let list = self.capabilities();
                self.say(Condition::Ok, Some(Code::Capability(&list)), "Logged in", out);
            }
            (_, Answer::Deny(denial)) => self.deny(denial, out),
            (ask, _) => panic!("no answer to {ask:?}"),
        }
    }

    fn deny(&mut self, denial: Denial, out: &mut Vec<u8>) {
        self.say(Condition::No, denial.code.map(Code::Word), denial.text, out);
        self.login.failures += u32::from(denial.counts);
        // Who guesses passwords shall at least connect for each few of them.
        if denial.close || self.login.failures >= self.options.failures_max {
            self.bye("Good bye", out);
        }
    }

    /// STARTTLS can be said now.
    pub(super) fn offers_tls(&self) -> bool {
        self.tls == Tls::Offered && self.security.is_none() && self.owner.is_none()
    }

    pub(super) fn start_tls(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        match () {
            () if self.owner.is_some() => self.bad("STARTTLS comes before the login", out),
            () if self.security.is_some() => self.bad("TLS is on", out),
            () if !self.offers_tls() => self.bad("TLS is not offered", out),
            () => self.ask(Task::Tls, Ask::Tls),
        }
    }

    pub(super) fn tls_answer(&mut self, answer: Answer<'_, S>, out: &mut Vec<u8>) {
        match answer {
            Answer::Accept => {
                self.say(Condition::Ok, None, "Begin TLS", out);
                self.state = State::Securing { fresh: false };
            }
            Answer::Deny(denial) => self.deny(denial, out),
            _ => panic!("no answer to the question about TLS"),
        }
    }

    /// The connection begins with the handshake; instead of [`Session::greet`], which comes after it.
    pub fn begin_tls(&mut self, now: Mono) -> Step {
        assert!(matches!(self.state, State::Fresh), "TLS from the first byte, or not");
        self.since = now;
        self.state = State::Securing { fresh: true };
        Step::StartTls
    }

    /// The handshake of [`Step::StartTls`] is complete. Call [`Session::offer`] and
    /// [`Session::receive`] then, the latter with what has been received under TLS.
    ///
    /// RFC 9051 §6.2.1: what was said in clear text is forgotten. Errors that were counted stay.
    ///
    /// # Panics
    /// If nobody asked for it.
    pub fn secured(&mut self, now: Mono, security: Rc<Security>) {
        let State::Securing { fresh } = self.state else { panic!("a handshake nobody asked for") };
        self.forget_login();
        self.login.offer = Offer::default();
        self.enabled = Extensions::default();
        self.framer.reset();
        self.security = Some(security);
        self.since = now;
        self.state = if fresh { State::Fresh } else { State::Command };
    }

    /// What TLS has established; none in clear text.
    #[must_use]
    pub fn security(&self) -> Option<&Security> {
        self.security.as_deref()
    }

    /// RFC 4978 §3.
    pub(super) fn compress(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        if self.compressed {
            return self.no(Word::CompressionActive, "COMPRESS is active already", out);
        }
        self.compressed = true;
        self.say(Condition::Ok, None, "COMPRESS completed", out);
        Some(Step::Compress)
    }

    /// RFC 8437 §3: as if the connection had just been made, but for TLS and COMPRESS.
    pub(super) fn unauthenticate(&mut self, _out: &mut Vec<u8>) -> Option<Step> {
        self.chosen = None;
        self.ask(Task::Leave, Ask::Leave)
    }

    pub(super) fn left(&mut self, out: &mut Vec<u8>) {
        self.owner = None;
        self.enabled = Extensions::default();
        self.saved = SeqSet::default();
        self.framer.set_limits(Limits::BEFORE_LOGIN);
        self.commands = 0;
        self.say(Condition::Ok, None, "UNAUTHENTICATE completed", out);
    }
}

/// Base64; `=` stands for nothing (RFC 4959 §3).
fn decode(text: &[u8]) -> Option<Secret> {
    if text == b"=" {
        return Some(Secret::default());
    }
    STANDARD.decode(text).ok().map(Secret::new)
}

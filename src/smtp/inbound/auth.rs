//! AUTH in a session (RFC 4954): order, framing, cancelling, limits; and what is refused before it.
//!
//! The machine knows no mechanism and no user: it decodes what the client says, asks
//! [`Question::Auth`], and writes what it is told. What the client said may be a password: it is kept
//! as a secret, for as long as the question lasts.

use super::{Hello, Question, Session, State, Step};
use crate::base::scan;
use crate::base::secret::Secret;
use crate::base::time::Mono;
use crate::smtp::command::Command;
use crate::smtp::reply::{Refusal, Reply, put_challenge};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::rc::Rc;

/// What a listener does with AUTH.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AuthMode {
    /// It is not offered.
    #[default]
    Off,
    /// It is offered.
    Offered,
    /// It is offered, and mail is taken from those only who are known.
    Required,
}

/// The mechanisms of a session, at the moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuthOffer {
    /// Those that can be used now, by name, separated by spaces.
    pub now: Rc<str>,
    /// Those that could be used under TLS.
    pub under_tls: Rc<str>,
}

/// What the client has said, for [`Question::Auth`].
#[derive(Clone, Copy, Debug)]
pub enum AuthSaid<'a> {
    /// It begins, with an initial response or without.
    Begin {
        /// One of the mechanisms of the offer, as the client wrote it.
        mechanism: &'a str,
        /// Decoded.
        initial: Option<&'a Secret>,
    },
    /// It answers the last challenge.
    Response(&'a Secret),
}

/// The part of a session that is about AUTH.
#[derive(Debug, Default)]
pub(super) struct Auth {
    pub mode: AuthMode,
    pub offer: AuthOffer,
    mechanism: String,
    /// What the client has said last.
    said: Option<Secret>,
    begun: bool,
    pub authenticated: bool,
    failures: u32,
}

impl Session {
    /// What the listener does with AUTH; without this it is not offered.
    pub fn set_auth(&mut self, mode: AuthMode) {
        self.auth.mode = mode;
    }

    /// From now on these mechanisms; also to be called when TLS has begun: what was said in clear text
    /// is forgotten (RFC 3207 §4.2).
    pub fn offer_auth(&mut self, offer: AuthOffer) {
        self.auth.offer = offer;
        self.auth.authenticated = false;
    }

    /// The client has said who it is, and it was true.
    #[must_use]
    pub fn is_authenticated(&self) -> bool {
        self.auth.authenticated
    }

    /// What [`Question::Auth`] is about.
    #[must_use]
    pub fn auth_said(&self) -> AuthSaid<'_> {
        let auth = &self.auth;
        match &auth.said {
            Some(said) if auth.begun => AuthSaid::Response(said),
            said => AuthSaid::Begin { mechanism: &auth.mechanism, initial: said.as_ref() },
        }
    }

    /// Bytes that this command line may have: those of AUTH are longer (RFC 4954 §4).
    pub(super) fn line_max(&self, line: &[u8]) -> usize {
        let is_auth = line.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "));
        let long = is_auth && self.auth.mode != AuthMode::Off;
        if long { self.options.auth_line.max(self.options.line_max) } else { self.options.line_max }
    }

    /// The refusal of a command that must not come before AUTH (RFC 4954 §6).
    pub(super) fn needs_auth(&self, command: &Command<'_>) -> Option<Reply> {
        let may_come = matches!(
            command,
            Command::Auth { .. }
                | Command::Ehlo(_)
                | Command::Helo(_)
                | Command::Lhlo(_)
                | Command::Noop
                | Command::Rset
                | Command::Help
                | Command::StartTls
                | Command::Quit
                // RFC 3030 §2: its octets follow whatever the reply. It finds no transaction.
                | Command::Bdat { .. }
                // A login may come from an intermediary; others are refused anyway.
                | Command::Xclient(_)
                | Command::Xforward(_)
        );
        let needed = self.auth.mode == AuthMode::Required && !self.auth.authenticated;
        (needed && !may_come).then_some(Reply::NEEDS_AUTH)
    }

    /// `AUTH mechanism [initial-response]`.
    pub(super) fn begin_auth(
        &mut self,
        now: Mono,
        mechanism: &[u8],
        initial: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        if let Some(refusal) = self.no_auth_now(mechanism) {
            return self.error(now, refusal, out);
        }
        self.auth.said = match initial {
            b"" => None,
            // RFC 4954 §4: this is how an empty one is written.
            b"=" => Some(Secret::default()),
            text => match STANDARD.decode(text) {
                Ok(bytes) => Some(Secret::new(bytes)),
                Err(_) => return self.error(now, Reply::NOT_BASE64, out),
            },
        };
        self.auth.begun = false;
        self.auth.mechanism = String::from_utf8_lossy(mechanism).into_owned();
        self.ask(now, Question::Auth)
    }

    /// Why AUTH is not for now, if so (RFC 4954 §4).
    fn no_auth_now(&self, mechanism: &[u8]) -> Option<Reply> {
        let has = |offer: &str| {
            offer.split(' ').any(|name| !name.is_empty() && name.as_bytes().eq_ignore_ascii_case(mechanism))
        };
        let offer = &self.auth.offer;
        Some(match () {
            () if self.auth.mode == AuthMode::Off => Reply::NOT_OFFERED,
            () if self.hello != Hello::Ehlo => Reply::NEED_HELO,
            () if self.auth.authenticated => Reply::AUTHENTICATED,
            () if self.transaction.is_some() || self.transfer.is_some() => Reply::WITHIN_TRANSACTION,
            () if has(&offer.now) => return None,
            () if has(&offer.under_tls) => Reply::AUTH_NEEDS_TLS,
            () => Reply::UNKNOWN_MECHANISM,
        })
    }

    /// At the start of a line that answers a challenge.
    pub(super) fn auth_line(&mut self, now: Mono, rest: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        let line_max = self.options.auth_line;
        let Some(lf) = scan::line_feed(&rest[..rest.len().min(line_max)]) else {
            if rest.len() < line_max {
                return (0, Some(Step::NeedInput));
            }
            self.state = State::LongLine(Reply::AUTH_LINE_TOO_LONG);
            return (0, None);
        };
        self.since = now;
        self.state = State::Command;
        let step = match rest[..lf].strip_suffix(b"\r") {
            None => self.error(now, Reply::BARE_LINE_FEED, out),
            Some(b"*") => self.error(now, Reply::AUTH_CANCELLED, out),
            Some(line) => match STANDARD.decode(line) {
                Ok(bytes) => {
                    self.auth.said = Some(Secret::new(bytes));
                    self.auth.begun = true;
                    self.ask(now, Question::Auth)
                }
                Err(_) => self.error(now, Reply::NOT_BASE64, out),
            },
        };
        (lf + 1, step)
    }

    /// The shell has a challenge for the client.
    pub(super) fn challenge(&mut self, challenge: &[u8], out: &mut Vec<u8>) {
        self.auth.said = None;
        put_challenge(out, &STANDARD.encode(challenge));
        self.state = State::Auth;
    }

    /// The shell knows who it is.
    pub(super) fn authenticated(&mut self, out: &mut Vec<u8>) {
        self.auth.said = None;
        self.auth.authenticated = true;
        self.counts.errors = 0;
        Reply::AUTH_OK.put(out);
    }

    /// The shell does not take it. After some failures the session ends: who guesses passwords shall at
    /// least connect for each few of them.
    pub(super) fn not_authenticated(&mut self, now: Mono, refusal: &Refusal<'_>, out: &mut Vec<u8>) {
        self.auth.said = None;
        self.refuse(now, refusal, out);
        if refusal.code() == 535 && !matches!(self.state, State::Closing) {
            self.auth.failures += 1;
            if self.auth.failures >= self.options.auth_failures_max {
                self.close(Reply::TOO_MANY_ERRORS, out);
            }
        }
    }
}

//! Before the login: USER and PASS, APOP, AUTH (RFC 5034), STLS (RFC 2595).
//!
//! The machine knows no mechanism and no user: it frames what the client says, asks
//! [`Question::Login`], and writes what it is told. What the client said may be a password: it is kept
//! as a secret, for as long as the question lasts. Nothing that was received in clear text outlives
//! a handshake.

use super::{Question, Session, State, Step};
use crate::base::secret::Secret;
use crate::base::security::Security;
use crate::base::time::Mono;
use crate::pop3::reply::{END, Reply, put, put_challenge};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::rc::Rc;

/// What a listener does with TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tls {
    /// It is not offered.
    #[default]
    Off,
    /// STLS is offered.
    Offered,
    /// The connection begins with the handshake.
    Implicit,
}

/// How one can log in now; to be set anew when TLS has begun.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Offer {
    /// USER and PASS are taken.
    pub passwords: bool,
    /// SASL mechanisms by name, separated by spaces.
    pub mechanisms: Rc<str>,
    /// SASL mechanisms that could be used under TLS.
    pub under_tls: Rc<str>,
    /// The timestamp of the banner: `<unique@host>`; empty: APOP is not offered (RFC 1939 §7).
    pub timestamp: Rc<str>,
}

/// What the client has said, for [`Question::Login`].
#[derive(Clone, Copy, Debug)]
pub enum Said<'a> {
    /// USER and PASS.
    Password {
        /// As the client wrote it.
        login: &'a [u8],
        /// The password.
        password: &'a Secret,
    },
    /// APOP; the digest is over [`Offer::timestamp`] and the password.
    Apop {
        /// As the client wrote it.
        login: &'a [u8],
        /// MD5.
        digest: &'a [u8; 16],
    },
    /// AUTH begins, with an initial response or without.
    Begin {
        /// One of the mechanisms of the offer, as the client wrote it.
        mechanism: &'a str,
        /// Decoded.
        initial: Option<&'a Secret>,
    },
    /// It answers the last challenge.
    Response(&'a Secret),
}

/// The part of a session that is about the login.
#[derive(Debug, Default)]
pub(super) struct Login {
    pub offer: Offer,
    /// The name of USER.
    user: Option<Vec<u8>>,
    kept: Kept,
    pub failures: u32,
}

#[derive(Debug, Default)]
enum Kept {
    #[default]
    Nothing,
    Password(Vec<u8>, Secret),
    Apop(Vec<u8>, [u8; 16]),
    Begin(String, Option<Secret>),
    Response(Secret),
}

impl Login {
    /// For the banner.
    pub fn timestamp(&self) -> Option<&str> {
        Some(&*self.offer.timestamp).filter(|t| !t.is_empty())
    }

    /// Wipes what the client has said.
    pub fn forget(&mut self) {
        self.kept = Kept::Nothing;
        self.user = None;
    }
}

impl Session {
    /// How one can log in; without this one cannot.
    pub fn offer(&mut self, offer: Offer) {
        self.login.offer = offer;
    }

    /// What the listener does with TLS; before the banner. [`Tls::Off`] if it is not called.
    pub fn set_tls(&mut self, tls: Tls) {
        self.tls = tls;
    }

    /// What [`Question::Login`] is about.
    #[must_use]
    pub fn said(&self) -> Said<'_> {
        match &self.login.kept {
            Kept::Nothing => panic!("nothing has been said"),
            Kept::Password(login, password) => Said::Password { login, password },
            Kept::Apop(login, digest) => Said::Apop { login, digest },
            Kept::Begin(mechanism, initial) => Said::Begin { mechanism, initial: initial.as_ref() },
            Kept::Response(response) => Said::Response(response),
        }
    }

    /// Bytes that this line may have: those of AUTH are longer.
    pub(super) fn line_max(&self, within_auth: bool, line: &[u8]) -> usize {
        let begins = || line.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "));
        let long = within_auth || (self.maildrop.is_none() && begins());
        if long { self.options.auth_line.max(self.options.line_max) } else { self.options.line_max }
    }

    pub(super) fn user(&mut self, name: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        if let Some(refusal) = self.no_password_now() {
            return self.error(refusal, out);
        }
        self.login.user = Some(name.to_vec());
        self.say(Reply::SEND_PASSWORD, out)
    }

    fn no_password_now(&self) -> Option<Reply> {
        Some(match () {
            () if self.maildrop.is_some() => Reply::WRONG_STATE,
            () if self.login.offer.passwords => return None,
            () if self.offers_tls() => Reply::NEEDS_TLS,
            () => Reply::NOT_OFFERED,
        })
    }

    pub(super) fn pass(&mut self, password: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        if let Some(refusal) = self.no_password_now() {
            return self.error(refusal, out);
        }
        let Some(user) = self.login.user.take() else {
            return self.error(Reply::NEED_USER, out);
        };
        self.login.kept = Kept::Password(user, Secret::new(password.to_vec()));
        self.ask(Question::Login)
    }

    pub(super) fn apop(&mut self, name: &[u8], digest: [u8; 16], out: &mut Vec<u8>) -> Option<Step> {
        if self.maildrop.is_some() {
            return self.error(Reply::WRONG_STATE, out);
        }
        if self.login.timestamp().is_none() {
            return self.error(Reply::NOT_OFFERED, out);
        }
        self.login.kept = Kept::Apop(name.to_vec(), digest);
        self.ask(Question::Login)
    }

    /// `AUTH mechanism [initial-response]` (RFC 5034 §4).
    pub(super) fn begin_auth(&mut self, mechanism: &[u8], initial: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        if self.maildrop.is_some() {
            return self.error(Reply::WRONG_STATE, out);
        }
        let has = |offer: &str| {
            offer.split(' ').any(|name| !name.is_empty() && name.as_bytes().eq_ignore_ascii_case(mechanism))
        };
        let offer = &self.login.offer;
        if mechanism.is_empty() {
            // Not in the RFC; old clients ask so.
            put(out, format_args!("+OK Mechanisms follow"));
            for name in offer.mechanisms.split(' ').filter(|name| !name.is_empty()) {
                put(out, format_args!("{name}"));
            }
            out.extend_from_slice(END);
            return None;
        }
        if !has(&offer.mechanisms) {
            let refusal = if has(&offer.under_tls) { Reply::NEEDS_TLS } else { Reply::UNKNOWN_MECHANISM };
            return self.error(refusal, out);
        }
        let initial = match initial {
            b"" => None,
            // RFC 5034 §4: this is how an empty one is written.
            b"=" => Some(Secret::default()),
            text => match STANDARD.decode(text) {
                Ok(bytes) => Some(Secret::new(bytes)),
                Err(_) => return self.error(Reply::NOT_BASE64, out),
            },
        };
        self.login.kept = Kept::Begin(String::from_utf8_lossy(mechanism).into_owned(), initial);
        self.ask(Question::Login)
    }

    /// A line that answers a challenge.
    pub(super) fn auth_line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        if line == b"*" {
            self.login.forget();
            return self.error(Reply::AUTH_CANCELLED, out);
        }
        match STANDARD.decode(line) {
            Ok(bytes) => {
                self.login.kept = Kept::Response(Secret::new(bytes));
                self.ask(Question::Login)
            }
            Err(_) => self.error(Reply::NOT_BASE64, out),
        }
    }

    /// The shell has a challenge for the client.
    pub(super) fn challenge(&mut self, challenge: &[u8], out: &mut Vec<u8>) {
        self.login.forget();
        put_challenge(out, &STANDARD.encode(challenge));
        self.state = State::Auth;
    }

    /// The login is refused. After some failures the session ends: who guesses passwords shall at
    /// least connect for each few of them.
    pub(super) fn not_known(&mut self, reply: Reply, out: &mut Vec<u8>) {
        self.login.forget();
        reply.put(out);
        if reply == Reply::AUTH_FAILED {
            self.login.failures += 1;
            if self.login.failures >= self.options.failures_max {
                self.state = State::Closing;
            }
        }
    }

    /// STLS can be asked for now.
    pub(super) fn offers_tls(&self) -> bool {
        self.tls == Tls::Offered && self.security.is_none()
    }

    pub(super) fn start_tls(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        match () {
            // RFC 2595 §4: before the login only.
            () if self.maildrop.is_some() => self.error(Reply::WRONG_STATE, out),
            () if self.security.is_some() => self.error(Reply::TLS_IS_ON, out),
            () if !self.offers_tls() => self.error(Reply::NOT_OFFERED, out),
            () => self.ask(Question::Tls),
        }
    }

    /// The connection begins with the handshake; instead of [`Session::banner`], which comes after it.
    pub fn begin_tls(&mut self, now: Mono) -> Step {
        assert!(matches!(self.state, State::Fresh), "TLS from the first byte, or not");
        self.since = now;
        self.state = State::Securing { fresh: true };
        Step::StartTls
    }

    /// The handshake of [`Step::StartTls`] is complete. Call [`Session::offer`] and
    /// [`Session::receive`] then, the latter with what has been received under TLS.
    ///
    /// RFC 2595 §4: what was said in clear text is forgotten. Errors that were counted stay.
    pub fn secured(&mut self, now: Mono, security: Rc<Security>) {
        let State::Securing { fresh } = self.state else { panic!("a handshake nobody asked for") };
        self.login.forget();
        self.login.offer = Offer::default();
        self.utf8 = false;
        self.security = Some(security);
        self.since = now;
        self.state = if fresh { State::Fresh } else { State::Command };
    }

    /// What TLS has established; none in clear text.
    #[must_use]
    pub fn security(&self) -> Option<&Security> {
        self.security.as_deref()
    }
}

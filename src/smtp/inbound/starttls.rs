//! TLS in a session: STARTTLS (RFC 3207), TLS from the first byte (RFC 8314 §3), and what is refused
//! before it.
//!
//! The machine says when the handshake comes and what is forgotten after it; the shell does the
//! handshake. Nothing that was received in clear text outlives it: the machine consumes it all before
//! the handshake, and forgets what it has learned from it (attack: injection of commands).

use super::{AuthOffer, Hello, Question, Session, State, Step};
use crate::base::security::Security;
use crate::base::time::Mono;
use crate::smtp::command::Command;
use crate::smtp::reply::Reply;
use std::rc::Rc;

/// What a listener does with TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tls {
    /// It is not offered.
    #[default]
    Off,
    /// STARTTLS is offered.
    Offered,
    /// STARTTLS is offered, and mail is taken under TLS only.
    Required,
    /// The connection begins with the handshake.
    Implicit,
}

impl Session {
    /// What the listener does with TLS; before the banner. [`Tls::Off`] if it is not called.
    pub fn set_tls(&mut self, tls: Tls) {
        self.tls = tls;
    }

    /// STARTTLS can be asked for now.
    pub(super) fn offers_tls(&self) -> bool {
        matches!(self.tls, Tls::Offered | Tls::Required) && self.security.is_none()
    }

    /// The connection begins with the handshake; instead of [`Session::banner`], which comes after it.
    pub fn begin_tls(&mut self, now: Mono) -> Step {
        assert!(matches!(self.state, State::Fresh), "TLS from the first byte, or not");
        self.since = now;
        self.state = State::Securing { fresh: true };
        Step::StartTls
    }

    /// The handshake of [`Step::StartTls`] is complete. Call [`Session::receive`] then, with what has
    /// been received under TLS.
    ///
    /// RFC 3207 §4.2: both sides begin anew. Errors that were counted stay: they are our knowledge.
    pub fn secured(&mut self, now: Mono, security: Rc<Security>) {
        let State::Securing { fresh } = self.state else { panic!("a handshake nobody asked for") };
        // The shell has dropped what it had of a message.
        self.reset();
        self.hello = Hello::None;
        self.helo.clear();
        self.smtputf8 = false;
        self.declared_size = None;
        self.security = Some(security);
        // The shell offers anew what can be used now.
        self.offer_auth(AuthOffer::default());
        self.since = now;
        self.state = if fresh { State::Fresh } else { State::Command };
    }

    /// What TLS has established; none in clear text.
    #[must_use]
    pub fn security(&self) -> Option<&Security> {
        self.security.as_deref()
    }

    pub(super) fn start_tls(&mut self, now: Mono, out: &mut Vec<u8>) -> Option<Step> {
        if self.security.is_some() {
            return self.error(now, Reply::TLS_IS_ON, out);
        }
        // What was said in clear text must not outlive the handshake, and the client is part of it.
        if self.claim.is_some() {
            return self.error(now, Reply::BAD_SEQUENCE, out);
        }
        if !self.offers_tls() {
            return self.error(now, Reply::NOT_OFFERED, out);
        }
        let close = self.count_junk(out);
        if close.is_some() { close } else { self.ask(now, Question::Tls) }
    }

    /// The refusal of a command that must not come before TLS (RFC 3207 §4).
    pub(super) fn needs_tls(&self, command: &Command<'_>) -> Option<Reply> {
        let may_come = matches!(
            command,
            Command::Noop
                | Command::Ehlo(_)
                | Command::StartTls
                | Command::Quit
                | Command::Lhlo(_)
                // RFC 3030 §2: its octets follow whatever the reply. It finds no transaction.
                | Command::Bdat { .. }
        );
        let needed = self.tls == Tls::Required && self.security.is_none();
        (needed && !may_come).then_some(Reply::NEEDS_TLS)
    }
}

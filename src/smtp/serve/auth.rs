//! L4: AUTH of one session: between its machine and the core's desk for logins.
//!
//! Knows no mechanism's steps and no user. What was received of an exchange is wiped from the receive
//! buffer as soon as it has been read. Errors become replies.

use super::session::Talk;
use crate::attempts::{Attempt, TooManyFailures};
use crate::auth::mechanism::Mechanism;
use crate::auth::sasl::{Channel, Exchange, Turn};
use crate::auth::service::{Outcome, Why};
use crate::runtime::Runtime;
use crate::smtp::inbound::{Answer, AuthOffer, AuthSaid};
use crate::smtp::reply::Reply;
use std::any::Any;
use std::time::Duration;
use zeroize::Zeroize;

/// Who a session has proved to be, or is about to.
#[derive(Default)]
pub(super) struct Login {
    exchange: Option<Exchange>,
    /// How long the exchange has been held back after failures.
    waited: Duration,
    /// Empty: nobody yet.
    name: String,
    /// The mechanism by which it was proved; empty: another one says so, or nobody yet.
    mechanism: &'static str,
    /// What was counted for the user; given back on drop.
    permit: Option<Box<dyn Any>>,
}

impl Login {
    /// The login, prepared; `None`: nobody yet.
    pub fn name(&self) -> Option<&str> {
        (!self.name.is_empty()).then_some(&self.name)
    }

    /// By which mechanism, in its registered name; `unknown` if a forwarder says who it is.
    pub fn mechanism(&self) -> &'static str {
        if self.name.is_empty() || !self.mechanism.is_empty() { self.mechanism } else { "unknown" }
    }
}

impl<R: Runtime> Talk<'_, R> {
    /// What is known of the connection. In clear text: nothing.
    fn bindings(&self) -> Channel {
        let Some(security) = self.machine.security() else { return Channel::default() };
        let value = |name: &[u8]| security.bindings().get(name).map(<[u8]>::to_vec);
        // Names of a certificate that nobody vouches for are only what the client says of itself.
        let client = security.client.as_ref().filter(|c| c.verified);
        Channel {
            secure: true,
            end_point: value(b"tls-server-end-point"),
            exporter: value(b"tls-exporter"),
            identity: client.and_then(|c| c.emails.first().or(c.common_name.as_ref())).cloned(),
        }
    }

    /// Offers the client what it can use now. To be called at the beginning, and when TLS has begun.
    pub(super) fn offer_auth(&mut self) {
        let Some(logins) = self.ctx.logins() else { return };
        self.login = Login::default();
        let now = logins.offer(&self.bindings());
        let under_tls = logins.offer(&Channel { secure: true, ..Channel::default() });
        self.machine.offer_auth(AuthOffer { now: now.names().into(), under_tls: under_tls.names().into() });
    }

    /// Answers the machine's question about AUTH.
    pub(super) async fn ask_auth(&mut self) {
        let outcome = self.drive().await;
        // Passwords do not stay in buffers that others will use.
        self.buf[self.shown..self.at].zeroize();
        self.now = self.ctx.rt.now();
        let (challenge, reply);
        let answer = match outcome {
            Ok(Outcome::Challenge(c)) => {
                challenge = c;
                Answer::Challenge(&challenge)
            }
            Ok(Outcome::Success) => Answer::Accept,
            Ok(Outcome::Failure(why)) => {
                reply = match why {
                    Why::Malformed => Reply::BAD_RESPONSE,
                    Why::Refused => Reply::AUTH_FAILED,
                    Why::Unavailable => Reply::AUTH_BUSY,
                };
                Answer::Refuse(reply.into())
            }
            Err(refused) => Answer::Refuse(refused.into()),
        };
        if !matches!(answer, Answer::Challenge(_)) {
            self.login.exchange = None;
        }
        self.machine.answer(self.now, answer, &mut self.out);
    }

    /// A message was taken under this queue id: if a user has sent it, that is told.
    pub(super) fn tell_taken(&self, id: &[u8]) {
        if let (Some(login), Some(logins)) = (self.login.name(), self.ctx.logins()) {
            logins.took(login, self.peer.ip(), &String::from_utf8_lossy(id));
        }
    }

    /// The login is the one that a forwarder names (XCLIENT), or nobody's any more.
    pub(super) fn claim_login(&mut self) -> Result<(), Reply> {
        self.login = Login::default();
        self.handle.badge.set_user("");
        let Some(login) = self.machine.claimed_login() else { return Ok(()) };
        let name = String::from_utf8_lossy(login).into_owned();
        let permit = self.ctx.gate.login(&name).map_err(|_| Reply::TOO_MANY_SESSIONS)?;
        self.handle.badge.set_user(&name);
        self.login = Login { name, permit: Some(permit), ..Login::default() };
        Ok(())
    }

    async fn drive(&mut self) -> Result<Outcome, Reply> {
        let logins = self.ctx.logins().ok_or(Reply::AUTH_BUSY)?;
        let channel = self.bindings();
        let (attempts, rt) = (self.ctx.attempts(), &self.ctx.rt);
        let (client, counted, service) = (self.peer, !self.guest.trusted, self.door.service());
        let Login { exchange, waited, name, permit, mechanism: proved_by } = &mut self.login;
        let refused = |TooManyFailures| Reply::TOO_MANY_FAILURES;
        let mut guess = None;
        let turn = match self.machine.auth_said() {
            AuthSaid::Begin { mechanism, initial } => {
                let mechanism = Mechanism::from_name(mechanism.as_bytes()).ok_or(Reply::UNKNOWN_MECHANISM)?;
                *waited = Duration::ZERO;
                let begun = exchange.insert(logins.begin(mechanism, &channel));
                begun.begin(initial.map(|secret| secret.expose()))
            }
            AuthSaid::Response(response) => {
                let exchange = exchange.as_mut().ok_or(Reply::AUTH_BUSY)?;
                // The proof may be in it: whether the client may try is asked before it is looked at.
                if let Some(attempts) = attempts.filter(|_| !exchange.login().is_empty()) {
                    let (mechanism, login) = (exchange.mechanism().name(), exchange.login().as_bytes());
                    let attempt = Attempt { client, counted, service, mechanism, login };
                    guess = Some(attempts.may_try(rt, &attempt, waited).await.map_err(refused)?);
                }
                exchange.respond(response.expose())
            }
        };
        let exchange = exchange.as_mut().expect("just begun or there before");
        let begins = matches!(turn, Turn::Password | Turn::Account | Turn::Cleartext | Turn::Verifier(_));
        let (mechanism, login) = (exchange.mechanism().name(), exchange.login().to_owned());
        let attempt = Attempt { client, counted, service, mechanism, login: login.as_bytes() };
        if let Some(attempts) = attempts.filter(|_| begins && guess.is_none()) {
            guess = Some(attempts.may_try(rt, &attempt, waited).await.map_err(refused)?);
        }
        let outcome = logins.drive(exchange, turn, client.ip()).await;
        match (attempts, &outcome) {
            (Some(attempts), Outcome::Success) => attempts.succeeded(rt, &attempt),
            (Some(attempts), Outcome::Failure(Why::Refused)) => attempts.failed(rt, &attempt),
            _ => {}
        }
        // Counted until here: another guess begins when it is known how this one ended.
        drop(guess);
        if outcome == Outcome::Success {
            *permit = Some(self.ctx.gate.login(&login)?);
            exchange.login().clone_into(name);
            self.handle.badge.set_user(name);
            *proved_by = mechanism;
        }
        Ok(outcome)
    }
}

//! Between a session machine and the core's desk for logins: one exchange, step by step.
//!
//! Knows no mechanism's steps, no user, and no words of a protocol. Whoever guesses waits, or is refused
//! unseen (`attempts`).

use super::gate::{Door, Permit};
use super::host::Host;
use crate::attempts::{Attempt, TooManyFailures};
use crate::auth::mechanism::{Mechanism, Set};
use crate::auth::sasl::{Channel, Exchange, Turn};
use crate::auth::service::{Logins, Outcome, Why};
use crate::base::secret::Secret;
use crate::base::security::Security;
use crate::runtime::Runtime;
use std::net::SocketAddr;
use std::time::Duration;
use zeroize::Zeroizing;

/// What the client has said.
#[derive(Clone, Copy, Debug)]
pub enum Said<'a> {
    /// A name and a password, by a command of the protocol (USER and PASS, LOGIN).
    Password {
        /// The command, for events.
        command: &'static str,
        /// As the client wrote it.
        login: &'a [u8],
        /// The password.
        password: &'a Secret,
    },
    /// SASL begins.
    Begin {
        /// Name of a mechanism.
        mechanism: &'a str,
        /// Decoded.
        initial: Option<&'a Secret>,
    },
    /// It answers the last challenge.
    Response(&'a Secret),
}

/// What came of it.
pub enum Verdict {
    /// The client must answer this.
    Challenge(Vec<u8>),
    /// It is this user; what was counted for it.
    Success(String, Permit),
    /// The user has too many sessions.
    TooManySessions,
    /// The client has failed too often, and ends.
    TooManyFailures,
    /// It is over.
    Failure(Why),
}

/// Who tries.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    /// From where.
    pub peer: SocketAddr,
    /// Failures count for its login only.
    pub trusted: bool,
    /// Where.
    pub door: &'a Door,
}

/// The exchange of one session.
#[derive(Default)]
pub struct Login {
    exchange: Option<Exchange>,
    /// Name of a command, if it is no SASL.
    command: Option<&'static str>,
    /// How long the exchange has been held back after failures.
    waited: Duration,
}

/// What is known of the connection. In clear text: nothing.
fn bindings(security: Option<&Security>) -> Channel {
    let Some(security) = security else { return Channel::default() };
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

/// The mechanisms that can be used now, and those that could be under TLS.
#[must_use]
pub fn offer<R: Runtime>(logins: &Logins<R>, security: Option<&Security>) -> (Set, Set) {
    let under_tls = Channel { secure: true, ..Channel::default() };
    (logins.offer(&bindings(security)), logins.offer(&under_tls))
}

impl Login {
    /// Takes one step.
    pub async fn step<R: Runtime>(
        &mut self,
        host: &Host<R>,
        who: Who<'_>,
        security: Option<&Security>,
        said: Said<'_>,
    ) -> Verdict {
        let outcome = self.drive(host, who, security, said).await;
        let verdict = match outcome {
            Ok(Outcome::Challenge(challenge)) => return Verdict::Challenge(challenge),
            Ok(Outcome::Success) => {
                let login = self.exchange.as_ref().map(|e| e.login().to_owned()).unwrap_or_default();
                match host.gate.login(&login) {
                    Some(permit) => Verdict::Success(login, permit),
                    None => Verdict::TooManySessions,
                }
            }
            Ok(Outcome::Failure(why)) => Verdict::Failure(why),
            Err(Refused::Unavailable) => Verdict::Failure(Why::Unavailable),
            Err(Refused::TooMany) => Verdict::TooManyFailures,
        };
        self.exchange = None;
        verdict
    }

    async fn drive<R: Runtime>(
        &mut self,
        host: &Host<R>,
        who: Who<'_>,
        security: Option<&Security>,
        said: Said<'_>,
    ) -> Result<Outcome, Refused> {
        let logins = host.logins().ok_or(Refused::Unavailable)?;
        let attempts = host.attempts();
        let Who { peer: client, trusted, door } = who;
        let (counted, service) = (!trusted, door.service);
        let mut guess = None;
        let turn = match said {
            Said::Password { command, login, password } => self
                .begin(logins, Mechanism::Plain, security, Some(command))
                .begin(Some(&plain(login, password))),
            Said::Begin { mechanism, initial } => {
                let mechanism = Mechanism::from_name(mechanism.as_bytes()).ok_or(Refused::Unavailable)?;
                let initial = initial.map(|secret| secret.expose());
                self.begin(logins, mechanism, security, None).begin(initial)
            }
            Said::Response(response) => {
                let exchange = self.exchange.as_mut().ok_or(Refused::Unavailable)?;
                // The proof may be in it: whether the client may try is asked before it is looked at.
                if let Some(attempts) = attempts.filter(|_| !exchange.login().is_empty()) {
                    let (mechanism, login) = (exchange.mechanism().name(), exchange.login().as_bytes());
                    let attempt = Attempt { client, counted, service, mechanism, login };
                    guess = Some(attempts.may_try(&host.rt, &attempt, &mut self.waited).await?);
                }
                exchange.respond(response.expose())
            }
        };
        let exchange = self.exchange.as_mut().expect("just begun or there before");
        let begins = matches!(turn, Turn::Password | Turn::Account | Turn::Cleartext | Turn::Verifier(_));
        let mechanism = self.command.unwrap_or(exchange.mechanism().name());
        let login = exchange.login().to_owned();
        let attempt = Attempt { client, counted, service, mechanism, login: login.as_bytes() };
        if let Some(attempts) = attempts.filter(|_| begins && guess.is_none()) {
            guess = Some(attempts.may_try(&host.rt, &attempt, &mut self.waited).await?);
        }
        let outcome = logins.drive(exchange, turn, client.ip()).await;
        match (attempts, &outcome) {
            (Some(attempts), Outcome::Success) => attempts.succeeded(&host.rt, &attempt),
            (Some(attempts), Outcome::Failure(Why::Refused)) => attempts.failed(&host.rt, &attempt),
            _ => {}
        }
        // Counted until here: another guess begins when it is known how this one ended.
        drop(guess);
        Ok(outcome)
    }

    fn begin<R: Runtime>(
        &mut self,
        logins: &Logins<R>,
        mechanism: Mechanism,
        security: Option<&Security>,
        command: Option<&'static str>,
    ) -> &mut Exchange {
        (self.waited, self.command) = (Duration::ZERO, command);
        self.exchange.insert(logins.begin(mechanism, &bindings(security)))
    }
}

/// A name and a password as PLAIN has them (RFC 4616 §2).
fn plain(login: &[u8], password: &Secret) -> Zeroizing<Vec<u8>> {
    let mut response = Zeroizing::new(Vec::with_capacity(login.len() + password.expose().len() + 2));
    response.push(0);
    response.extend_from_slice(login);
    response.push(0);
    response.extend_from_slice(password.expose());
    response
}

/// Why there is no outcome.
enum Refused {
    Unavailable,
    TooMany,
}

impl From<TooManyFailures> for Refused {
    fn from(_: TooManyFailures) -> Self {
        Refused::TooMany
    }
}

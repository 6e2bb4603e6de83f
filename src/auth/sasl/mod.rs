//! The server's side of SASL (RFC 4422) as state machines without IO: responses in, [`Turn`]s out.
//!
//! Knows no protocol that carries it (base64, cancelling and lengths of lines are the carrier's), no
//! store and no hash: it says what it needs, and the shell brings it. Randomness is brought too. What
//! a peer sends wrongly ends the exchange with a [`Failure`], never in a panic. Turns out of order (a
//! verifier that was not asked for) are bugs of the shell and panic.

mod plain;
mod scram;
#[cfg(test)]
mod tests;

pub use scram::{Hash, Verifier};

use super::mechanism::Mechanism;
use super::prepare;
use crate::base::secret::Secret;
use scram::Scram;

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Send this (it may be empty) and give the answer to [`Exchange::respond`].
    Challenge(Vec<u8>),
    /// Does [`Exchange::password`] fit [`Exchange::login`]? Tell [`Exchange::checked`].
    Password,
    /// Is there an account [`Exchange::login`]? Tell [`Exchange::checked`].
    Account,
    /// Give the verifier of [`Exchange::login`], or a false one, to [`Exchange::verifier`].
    Verifier(Hash),
    /// Give the password of [`Exchange::login`] in clear text, if the store has it, to
    /// [`Exchange::cleartext`].
    Cleartext,
    /// It is [`Exchange::login`].
    Done,
    /// It has failed.
    Failed(Failure),
}

/// Why an exchange has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// What came is not in the form of the mechanism.
    Malformed,
    /// Login, password, proof, binding or the wish to be somebody else. Deliberately one for all.
    Refused,
}

/// What is known of the connection.
#[derive(Clone, Default)]
pub struct Channel {
    /// It is encrypted.
    pub secure: bool,
    /// tls-server-end-point (RFC 5929 §4): digest of our certificate.
    pub end_point: Option<Vec<u8>>,
    /// tls-exporter (RFC 9266): 32 bytes of this connection.
    pub exporter: Option<Vec<u8>>,
    /// Who the client's certificate, which has been verified, says that it is.
    pub identity: Option<String>,
}

impl Channel {
    /// Exchanges can be bound to it.
    #[must_use]
    pub fn can_bind(&self) -> bool {
        self.end_point.is_some() || self.exporter.is_some()
    }
}

/// What makes an exchange different from all others.
pub struct Fresh<'a> {
    /// Random bytes, never used before.
    pub nonce: [u8; 18],
    /// Our name.
    pub host: &'a str,
    /// Some PLUS mechanism was offered on this connection: a client that says it saw none has been
    /// lied to (RFC 5802 §6).
    pub plus_offered: bool,
}

/// One exchange.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    login: String,
    password: Secret,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Waits for the first response of a mechanism in which the client begins.
    First,
    /// LOGIN: waits for the password.
    LoginPassword,
    /// CRAM-MD5: waits for the digest of this challenge; then for the password of the store.
    Cram { challenge: String, digest: [u8; 16] },
    /// SCRAM.
    Scram(Box<Scram>),
    /// EXTERNAL: the identity of the certificate.
    External(String),
    /// Waits for [`Exchange::checked`].
    Checking,
    /// Done or failed.
    Over,
}

impl Exchange {
    /// A new exchange.
    #[must_use]
    pub fn new(mechanism: Mechanism, fresh: &Fresh<'_>, channel: &Channel) -> Self {
        let scram = |hash| State::Scram(Box::new(Scram::new(hash, mechanism.is_plus(), fresh, channel)));
        let state = match mechanism {
            Mechanism::Plain | Mechanism::Login => State::First,
            Mechanism::CramMd5 => State::Cram { challenge: plain::cram_challenge(fresh), digest: [0; 16] },
            Mechanism::ScramSha1 | Mechanism::ScramSha1Plus => scram(Hash::Sha1),
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => scram(Hash::Sha256),
            Mechanism::External => State::External(channel.identity.clone().unwrap_or_default()),
        };
        Exchange { mechanism, login: String::new(), password: Secret::default(), state }
    }

    /// The mechanism.
    #[must_use]
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Who it says it is, prepared; empty before that is known.
    #[must_use]
    pub fn login(&self) -> &str {
        &self.login
    }

    /// The password to check.
    #[must_use]
    pub fn password(&self) -> &Secret {
        &self.password
    }

    /// Begins, with the initial response if there is one.
    pub fn begin(&mut self, initial: Option<&[u8]>) -> Turn {
        match (&self.state, initial) {
            // RFC 4422 §3: none where the server begins.
            (State::Cram { .. }, Some(_)) => self.fail(Failure::Malformed),
            (State::Cram { challenge, .. }, None) => Turn::Challenge(challenge.clone().into_bytes()),
            (_, Some(response)) => self.respond(response),
            (State::First, None) if self.mechanism == Mechanism::Login => {
                Turn::Challenge(plain::ASK_LOGIN.to_vec())
            }
            (_, None) => Turn::Challenge(Vec::new()),
        }
    }

    /// Takes a response.
    pub fn respond(&mut self, response: &[u8]) -> Turn {
        match std::mem::replace(&mut self.state, State::Over) {
            State::First if self.mechanism == Mechanism::Login => self.login_name(response),
            State::First => self.plain(response),
            State::LoginPassword => self.login_password(response),
            State::Cram { challenge, .. } => self.cram(challenge, response),
            State::External(identity) => self.external(&identity, response),
            State::Scram(mut scram) => {
                let turn = scram.respond(response);
                if let Turn::Verifier(_) = turn {
                    // Of a login that nobody can have there is no verifier: a false one will do.
                    self.login = prepare::login(scram.login()).unwrap_or_default();
                }
                if !matches!(turn, Turn::Failed(_) | Turn::Done) {
                    self.state = State::Scram(scram);
                }
                turn
            }
            State::Checking | State::Over => self.fail(Failure::Malformed),
        }
    }

    /// The answer to [`Turn::Password`] and [`Turn::Account`].
    pub fn checked(&mut self, good: bool) -> Turn {
        assert!(matches!(self.state, State::Checking), "nothing was to be checked");
        self.password = Secret::default();
        if !good {
            return self.fail(Failure::Refused);
        }
        self.state = State::Over;
        Turn::Done
    }

    /// The answer to [`Turn::Verifier`]; `real`: it is one of the store, not a false one.
    pub fn verifier(&mut self, verifier: Verifier, real: bool) -> Turn {
        let State::Scram(scram) = &mut self.state else { panic!("no verifier was asked for") };
        scram.verifier(verifier, real)
    }

    /// The answer to [`Turn::Cleartext`].
    pub fn cleartext(&mut self, password: Option<&Secret>) -> Turn {
        let State::Cram { challenge, digest } = &self.state else { panic!("no password was asked for") };
        let nobody = Secret::default();
        let expected = plain::cram_digest(password.unwrap_or(&nobody), challenge.as_bytes());
        let good = crate::base::secret::same(&expected, digest) && password.is_some();
        self.state = State::Checking;
        self.checked(good)
    }

    fn fail(&mut self, failure: Failure) -> Turn {
        self.state = State::Over;
        self.password = Secret::default();
        Turn::Failed(failure)
    }

    /// True if `authzid` is the login itself or nobody: nobody may act for another.
    fn acts_for_itself(&self, authzid: &str) -> bool {
        authzid.is_empty() || prepare::login(authzid).as_deref() == Some(&self.login)
    }
}

//! L4: one core's desk for logins: what is offered, exchanges driven to their end, passwords checked.
//!
//! Brings together the store, the cache of recent successes and the hashing threads. Knows no
//! protocol: each carries the same [`Outcome`]s in words of its own. A store or a queue that cannot
//! answer gives [`Why::Unavailable`] to those who need it, and delays nobody else. Every login is
//! counted, and told of without any secret.

use super::cache::Cache;
use super::fair::network;
use super::hashing::{Done, Hashing, Work};
use super::mechanism::{Mechanism, Set};
use super::prepare;
use super::sasl::{Channel, Exchange, Failure, Fresh, Hash, Turn, Verifier};
use super::scheme::Credential;
use super::store::{Account, Store};
use crate::base::secret::Secret;
use crate::metrics;
use crate::runtime::Runtime;
use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// Iterations that an unknown login is shown if no user has a verifier.
const ITERATIONS: u32 = super::scheme::ITERATIONS;

/// What can be set.
#[derive(Clone, Debug)]
pub struct Options {
    /// Our name.
    pub host: String,
    /// Mechanisms that are offered if some user can use them; `None`: those that all users can.
    pub mechanisms: Option<Set>,
    /// Logins in clear text.
    pub allow_plaintext: bool,
    /// How long the store may take.
    pub store_time: Duration,
    /// Successes that are kept.
    pub cache_most: usize,
    /// How long they are kept.
    pub cache_time: Duration,
}

/// Where an exchange stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The client must answer this.
    Challenge(Vec<u8>),
    /// It is who it says.
    Success,
    /// It is over.
    Failure(Why),
}

/// Why a login has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// What came is not in the form of the mechanism.
    Malformed,
    /// Login or password are wrong, or the user may not log in.
    Refused,
    /// Nobody knows for the moment.
    Unavailable,
}

/// What is told, for the log of the mail server.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// Who it said it was; prepared, may hold any character but controls.
    pub login: &'a str,
    /// From where.
    pub client: IpAddr,
    /// What it did.
    pub event: Event<'a>,
}

/// What a user has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A login by this mechanism, and how it ended.
    Login(Mechanism, Result<(), Why>),
    /// A message that was taken, by its queue id.
    Message(&'a str),
}

/// One core's desk for logins.
pub struct Logins<R: Runtime> {
    rt: R,
    options: Options,
    store: RefCell<Rc<dyn Store>>,
    cache: RefCell<Cache>,
    hashing: Hashing<R>,
    metrics: metrics::Core,
    /// What unknown logins are shown is made with it: always the same.
    secret: Secret,
    tell: Box<dyn Fn(&Told<'_>)>,
}

impl<R: Runtime> Logins<R> {
    /// A desk; `secret` is the same on all cores and after a restart.
    pub fn new(
        rt: R,
        options: Options,
        store: Rc<dyn Store>,
        hashing: Hashing<R>,
        metrics: metrics::Core,
        secret: [u8; 32],
        tell: Box<dyn Fn(&Told<'_>)>,
    ) -> Rc<Self> {
        let mut key = [0; 32];
        rt.fill(&mut key);
        let cache = RefCell::new(Cache::new(key, options.cache_most, options.cache_time));
        let (store, secret) = (RefCell::new(store), secret[..].into());
        Rc::new(Logins { rt, options, store, cache, hashing, metrics, secret, tell })
    }

    /// From now on these users.
    pub fn set_store(&self, store: Rc<dyn Store>) {
        *self.store.borrow_mut() = store;
    }

    /// The mechanisms that a client of this channel can use.
    #[must_use]
    pub fn offer(&self, channel: &Channel) -> Set {
        if !channel.secure && !self.options.allow_plaintext {
            return Set::NONE;
        }
        let serves = self.store.borrow().serves();
        let set = match self.options.mechanisms {
            Some(wanted) => wanted.filter(|m| serves.some.has(m)),
            // Clients choose the strongest that is offered, and some (mutt with GNU SASL) that then fail
            // to bind to the channel try no other.
            None => serves.all.filter(|m| m != Mechanism::CramMd5 && !m.is_plus()),
        };
        set.filter(|m| match m {
            Mechanism::External => channel.identity.is_some(),
            m => !m.is_plus() || channel.can_bind(),
        })
    }

    /// Begins an exchange with a mechanism of the offer.
    #[must_use]
    pub fn begin(&self, mechanism: Mechanism, channel: &Channel) -> Exchange {
        let mut nonce = [0; 18];
        if mechanism.is_fresh() {
            self.rt.fill(&mut nonce);
        }
        let plus_offered = self.offer(channel).iter().any(Mechanism::is_plus);
        Exchange::new(mechanism, &Fresh { nonce, host: &self.options.host, plus_offered }, channel)
    }

    /// Drives an exchange on: `turn` is what it gave last.
    pub async fn drive(&self, exchange: &mut Exchange, mut turn: Turn, client: IpAddr) -> Outcome {
        let result = loop {
            turn = match turn {
                Turn::Challenge(challenge) => return Outcome::Challenge(challenge),
                Turn::Done => break Ok(()),
                Turn::Failed(Failure::Malformed) => break Err(Why::Malformed),
                Turn::Failed(Failure::Refused) => break Err(Why::Refused),
                Turn::Password => match self.check(exchange.login(), exchange.password(), client).await {
                    Ok(good) => exchange.checked(good),
                    Err(why) => break Err(why),
                },
                Turn::Account => match self.lookup(exchange.login()).await {
                    Ok(account) => exchange.checked(matches!(account, Account::Known(_))),
                    Err(why) => break Err(why),
                },
                Turn::Cleartext => match self.lookup(exchange.login()).await {
                    Ok(Account::Known(Credential::Plain(password))) => exchange.cleartext(Some(&password)),
                    Ok(_) => exchange.cleartext(None),
                    Err(why) => break Err(why),
                },
                Turn::Verifier(hash) => match self.verifier(hash, exchange.login(), client).await {
                    Ok((verifier, real)) => exchange.verifier(verifier, real),
                    Err(why) => break Err(why),
                },
            };
        };
        self.settle(exchange.mechanism(), exchange.login(), client, result);
        result.map_or_else(Outcome::Failure, |()| Outcome::Success)
    }

    /// Counts a login and tells of it.
    fn settle(&self, mechanism: Mechanism, login: &str, client: IpAddr, result: Result<(), Why>) {
        match result {
            Ok(()) => {
                succeeded(&self.metrics, mechanism).increment(1);
                self.hashing.succeeded(network(client));
            }
            Err(Why::Unavailable) => self.metrics.auth_unavailable.increment(1),
            Err(Why::Malformed) => self.metrics.auth_malformed.increment(1),
            Err(Why::Refused) => {
                refused(&self.metrics, mechanism).increment(1);
                self.hashing.failed(network(client));
            }
        }
        (self.tell)(&Told { login, client, event: Event::Login(mechanism, result) });
    }

    /// A message of this user was taken.
    pub fn took(&self, login: &str, client: IpAddr, id: &str) {
        (self.tell)(&Told { login, client, event: Event::Message(id) });
    }

    async fn lookup(&self, login: &str) -> Result<Account, Why> {
        // The store may be replaced while it is asked.
        let store = self.store.borrow().clone();
        let late = self.rt.sleep_until(self.rt.now().after(self.options.store_time));
        tokio::select! {
            biased;
            found = store.lookup(login) => found.map_err(|_| Why::Unavailable),
            () = late => Err(Why::Unavailable),
        }
    }

    /// Is this the password of the login? Whoever the login is, it takes the same time, unless the
    /// same was right a moment ago.
    async fn check(&self, login: &str, password: &Secret, client: IpAddr) -> Result<bool, Why> {
        let (credential, exists) = match self.lookup(login).await? {
            Account::Known(credential) => (credential, true),
            Account::Unknown(Some(other)) => (other, false),
            Account::Unknown(None) => return Ok(false),
        };
        if credential.is_quick() {
            return Ok(credential.fits(password) && exists);
        }
        let mark = self.cache.borrow().mark(login, credential.fingerprint().expose(), password);
        if exists && self.cache.borrow().has(&mark, self.rt.now()) {
            self.metrics.auth_cached.increment(1);
            return Ok(true);
        }
        let work = Work::Fits(credential, password.clone());
        match self.hashing.ask(network(client), work).await {
            Ok(Done::Fits(true)) if exists => {
                self.cache.borrow_mut().keep(mark, self.rt.now());
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(_) => Err(Why::Unavailable),
        }
    }

    /// The verifier of the login, or one that looks like it; true if it is real.
    async fn verifier(&self, hash: Hash, login: &str, client: IpAddr) -> Result<(Verifier, bool), Why> {
        let mac = Hash::Sha256.mac(self.secret.expose(), login.as_bytes());
        let salt: [u8; 16] = mac[..16].try_into().expect("of 32 bytes");
        let (credential, exists) = match self.lookup(login).await? {
            Account::Known(credential) => (Some(credential), true),
            Account::Unknown(other) => (other, false),
        };
        let iterations = match credential {
            Some(Credential::Scram(v)) if v.hash == hash => {
                if exists {
                    return Ok((v, true));
                }
                v.iterations
            }
            Some(Credential::Plain(password)) => {
                let password = prepare::password(&password);
                let work = Work::Make { hash, password, salt, iterations: ITERATIONS };
                return match self.hashing.ask(network(client), work).await {
                    Ok(Done::Made(verifier)) => Ok((verifier, exists)),
                    Ok(Done::Fits(_)) | Err(_) => Err(Why::Unavailable),
                };
            }
            _ => ITERATIONS,
        };
        let key = |what: &[u8]| hash.mac(&mac, what);
        let (stored_key, server_key) = (key(b"Stored Key"), key(b"Server Key"));
        Ok((Verifier { hash, iterations, salt: salt.to_vec(), stored_key, server_key }, false))
    }
}

/// The series of successes by this mechanism.
fn succeeded(m: &metrics::Core, mechanism: Mechanism) -> &metrics::Counter {
    match mechanism {
        Mechanism::Plain => &m.auth_ok_plain,
        Mechanism::Login => &m.auth_ok_login,
        Mechanism::CramMd5 => &m.auth_ok_cram_md5,
        Mechanism::ScramSha1 => &m.auth_ok_scram_sha_1,
        Mechanism::ScramSha1Plus => &m.auth_ok_scram_sha_1_plus,
        Mechanism::ScramSha256 => &m.auth_ok_scram_sha_256,
        Mechanism::ScramSha256Plus => &m.auth_ok_scram_sha_256_plus,
        Mechanism::External => &m.auth_ok_external,
    }
}

/// The series of wrong logins by this mechanism.
fn refused(m: &metrics::Core, mechanism: Mechanism) -> &metrics::Counter {
    match mechanism {
        Mechanism::Plain => &m.auth_no_plain,
        Mechanism::Login => &m.auth_no_login,
        Mechanism::CramMd5 => &m.auth_no_cram_md5,
        Mechanism::ScramSha1 => &m.auth_no_scram_sha_1,
        Mechanism::ScramSha1Plus => &m.auth_no_scram_sha_1_plus,
        Mechanism::ScramSha256 => &m.auth_no_scram_sha_256,
        Mechanism::ScramSha256Plus => &m.auth_no_scram_sha_256_plus,
        Mechanism::External => &m.auth_no_external,
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;

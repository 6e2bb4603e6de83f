//! L4: how a connection to a next hop is secured: asks for TLSA records, remembers hosts whose TLS does
//! not work, has the account of the smarthost, and counts and tells what came of handshakes.
//!
//! The rules are `route::tls_policy`'s, the handshake is `relay`'s. One for all queues of a core. What
//! cannot be found out keeps mail here.

use crate::auth::client::Account;
use crate::auth::prepare;
use crate::base::time::Mono;
use crate::delivery::agent::Resolve;
use crate::queue::routing::{Encryption, Hop};
use crate::route::destination::TlsPolicy;
use crate::route::tls_policy::{self, Broken, Demand, Doubt, Place, Terms};
use crate::runtime::Entropy;
use crate::smtp::outbound::Login;
use crate::tls::client::Rules;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

/// What became of a handshake, for operators.
#[derive(Debug)]
pub enum News<'a> {
    /// Mail to this destination goes over a connection that is protected like this.
    Secured(&'a str),
    /// A handshake has failed: the host gets its mail in clear text for an hour.
    InClear(&'a str),
}

/// See the module.
pub struct Trust {
    /// Whom we believe.
    pub rules: Rules,
    account: Option<Rc<Account>>,
    broken: RefCell<Broken>,
    tell: Box<dyn Fn(&News<'_>)>,
}

impl Trust {
    /// Rules, the account for hops that want a login, and who is told.
    pub fn new(rules: Rules, account: Option<Account>, tell: Box<dyn Fn(&News<'_>)>) -> Self {
        Trust { rules, account: account.map(Rc::new), broken: RefCell::default(), tell }
    }

    /// Tells what became of a handshake.
    pub fn tell(&self, news: &News<'_>) {
        (self.tell)(news);
    }

    /// A handshake with the host has failed, where clear text will do.
    pub fn failed(&self, host: SocketAddr, now: Mono) {
        self.broken.borrow_mut().add(host, now);
    }

    /// True if the host is known to need clear text, and these terms allow it.
    #[must_use]
    pub fn is_broken(&self, terms: &Terms, host: SocketAddr, now: Mono) -> bool {
        terms.demand == Demand::Opportunistic && self.broken.borrow().contains(host, now)
    }

    /// How to log in at `hop`, if that is wanted.
    pub fn login(&self, hop: &Hop, chance: &impl Entropy) -> Option<Login> {
        let account = self.account.as_ref().filter(|_| hop.security.login)?.clone();
        let mut nonce = [0; 18];
        chance.fill(&mut nonce);
        let in_clear = hop.security.encryption == Encryption::None;
        Some(Login { account, nonce: prepare::encode(&nonce), in_clear })
    }
}

/// The policy of a destination, in the words of routes.
#[must_use]
pub fn policy(hop: &Hop) -> TlsPolicy {
    match hop.security.encryption {
        Encryption::None => TlsPolicy::None,
        Encryption::Opportunistic => TlsPolicy::Opportunistic,
        Encryption::Required => TlsPolicy::Required,
        Encryption::Dane => TlsPolicy::Dane,
    }
}

/// The terms for a host that was found in DNS, reached at `port`.
///
/// # Errors
/// Name servers give no good answer: the host must not be used now.
pub async fn terms(
    resolver: &dyn Resolve,
    policy: TlsPolicy,
    place: &Place<'_>,
    port: u16,
) -> Result<Terms, Doubt> {
    for base in tls_policy::bases(policy, place) {
        let answer = resolver.tlsa(base, port).await;
        if let Some(pins) = tls_policy::judge(base, &answer)? {
            return Ok(tls_policy::terms(policy, place, Some((base, pins))));
        }
    }
    Ok(tls_policy::terms(policy, place, None))
}

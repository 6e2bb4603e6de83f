//! Who may come in, and at which door. What is counted for a session can move with it to another core.

use crate::base::time::Mono;
use crate::policy::access::Networks;
use crate::smtp::serve::{Caller, Refused};
use crate::tls::{Certificates, Connection};
use std::any::Any;
use std::net::IpAddr;

/// What is counted for a session; given back on drop, on any thread.
pub type Permit = Box<dyn Any + Send>;

/// What the shells ask of policy. Synchronous: everything is in memory.
pub trait Gate {
    /// A client has connected: may it come in?
    ///
    /// # Errors
    /// It is refused.
    fn admit(&self, caller: &Caller, now: Mono) -> Result<Guest, Refused>;

    /// A client has proved to be this user. `None`: too many sessions of it.
    fn login(&self, login: &str) -> Option<Permit>;
}

/// A client that has been let in.
pub struct Guest {
    /// It is one of ours by its address: failed logins count for the login only.
    pub trusted: bool,
    /// Its place.
    pub permit: Permit,
}

/// What a listener does with TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tls {
    /// It is not offered.
    #[default]
    Off,
    /// It can be begun with a command.
    Offered,
    /// The connection begins with the handshake.
    Implicit,
}

/// How a listener lets clients in.
#[derive(Clone, Debug, Default)]
pub struct Door {
    /// Its protocol, by the name with which clients may ask for it (RFC 7301): `pop3` or `imap`.
    pub protocol: &'static str,
    /// What it is called in events: `pop3`, `pop3s`, `imap`...
    pub service: &'static str,
    /// What it does with TLS.
    pub tls: Tls,
    /// Certificates for TLS; without them it cannot be had.
    pub certificates: Option<Certificates>,
    /// Clients are asked for a certificate, too.
    pub ask_certificate: bool,
    /// Peers whose PROXY header is required and believed.
    pub proxies: Networks,
}

impl Door {
    /// Our end of a handshake, if there can be one now.
    #[must_use]
    pub fn begin_tls(&self) -> Option<Box<Connection>> {
        let snapshot = self.certificates.as_ref()?.current();
        Connection::accept(snapshot, self.protocol, self.ask_certificate).ok().map(Box::new)
    }

    /// Who the gate is asked about when `peer` has connected.
    pub(super) fn caller(&self, peer: IpAddr) -> Caller {
        let proxy = self.proxies.contains(peer);
        Caller { address: peer, speaks_for_others: proxy, may_relay: !proxy }
    }
}

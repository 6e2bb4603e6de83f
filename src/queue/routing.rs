//! L2: what the queue asks of routing: where a recipient goes, and what an address stands for.
//!
//! The tables behind it are the composition's affair. Look-ups are synchronous and in memory.
//! Cannot fail: what has no route is [`Plan::NoRoute`] and ends in a notification.

use crate::base::time::Wall;
use crate::queue::schedule::Limits;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;

/// One way to reach a next hop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// An address.
    Address(SocketAddr),
    /// A host name to be resolved, and the port.
    Host(String, u16),
    /// The mail exchangers of a domain, and their port.
    Mx(String, u16),
    /// Mailboxes here: a shard.
    Mailbox(u16),
    /// A server of LMTP instead of SMTP.
    Lmtp(LmtpServer),
}

/// Where a server of LMTP listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LmtpServer {
    /// At an address.
    Address(SocketAddr),
    /// At a host name to be resolved, and the port.
    Host(String, u16),
    /// At a socket in the file system.
    Path(PathBuf),
}

/// Whether connections to a destination are encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Encryption {
    /// Never.
    None,
    /// If the next hop offers it.
    #[default]
    Opportunistic,
    /// Or nothing is sent; the next hop must prove who it is.
    Required,
    /// As TLSA records say (RFC 7672); if there are none, as if it were opportunistic.
    Dane,
}

/// How connections to a destination are secured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Security {
    /// Encryption.
    pub encryption: Encryption,
    /// We log in before mail is sent.
    pub login: bool,
}

/// A destination.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hop {
    /// Stable name, for limits and people; two hops of the same key are the same destination.
    pub key: String,
    /// Where it is, in order of preference.
    pub targets: Vec<Target>,
    /// Source address of connections, by the family of the target.
    pub source: (Option<IpAddr>, Option<IpAddr>),
    /// Encryption and login.
    pub security: Security,
    /// Limits.
    pub limits: Limits,
}

impl Hop {
    /// True if a server that takes a message puts it where it is read, as those of LMTP and mailboxes here
    /// do: what it has taken is delivered, not relayed.
    #[must_use]
    pub fn is_last(&self) -> bool {
        !self.targets.is_empty()
            && self.targets.iter().all(|t| matches!(t, Target::Lmtp(_) | Target::Mailbox(_)))
    }
}

/// Where a recipient goes.
#[derive(Clone, Debug)]
pub enum Plan {
    /// To a next hop.
    Relay(Rc<Hop>),
    /// To a mailbox here.
    Local,
    /// Nowhere.
    NoRoute,
}

/// A site that the mail exchangers of a domain belong to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    /// Under this name its limits are shared with other sites.
    pub shared: String,
    /// The limits.
    pub limits: Limits,
}

/// Tables of one core.
pub trait Routing {
    /// The limits of the site `name`, to which mail of `hop` goes as the mail exchangers of its `domain`
    /// are `hosts`; `None`: this domain has limits, and connections, of its own.
    fn site(&self, hop: &Hop, domain: &str, name: &str, hosts: &[&str]) -> Option<Site> {
        let _ = (hop, domain, name, hosts);
        None
    }

    /// Where `recipient` (local part, `@`, domain) goes.
    fn plan(&self, recipient: &[u8]) -> Plan;

    /// Where `recipient` goes if an operator sends it by the next hop `via`, in the words of the
    /// configuration, or [`MX`](super::via::MX); `None`: these words mean nothing here.
    fn via(&self, via: &str, recipient: &[u8]) -> Option<Rc<Hop>> {
        let _ = (via, recipient);
        None
    }

    /// Calls `to` with each address that `recipient` stands for; `false` if it stands for itself
    /// (then `to` is not called). Bounded: tables are checked for loops when they are loaded.
    fn expand(&self, recipient: &[u8], to: &mut dyn FnMut(&[u8])) -> bool;

    /// What is written as the sender in place of `sender`, because an address that stands for others has
    /// become `to`; `None` if it stays. `now`: when the message came.
    fn forwarded(&self, sender: &[u8], to: &[u8], now: Wall) -> Option<Box<[u8]>> {
        let _ = (sender, to, now);
        None
    }

    /// Whom a sender stands for that was written so; `None` if it is no such one.
    fn returned(&self, sender: &[u8]) -> Option<Box<[u8]>> {
        let _ = sender;
        None
    }

    /// What is written as the sender in place of `sender`; `None` if it stays.
    fn sender(&self, sender: &[u8]) -> Option<Box<[u8]>> {
        let _ = sender;
        None
    }
}

//! L2: what the queue asks of routing: where a recipient goes, and what an address stands for.
//!
//! The tables behind it are the composition's affair. Look-ups are synchronous and in memory.
//! Cannot fail: what has no route is [`Plan::NoRoute`] and ends in a notification.

use crate::queue::schedule::Limits;
use std::net::{IpAddr, SocketAddr};
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
    /// Nothing is sent without TLS.
    pub tls_required: bool,
    /// Limits.
    pub limits: Limits,
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

/// Tables of one core.
pub trait Routing {
    /// Where `recipient` (local part, `@`, domain) goes.
    fn plan(&self, recipient: &[u8]) -> Plan;

    /// Calls `to` with each address that `recipient` stands for; `false` if it stands for itself
    /// (then `to` is not called). Bounded: tables are checked for loops when they are loaded.
    fn expand(&self, recipient: &[u8], to: &mut dyn FnMut(&[u8])) -> bool;

    /// What is written as the sender in place of `sender`; `None` if it stays.
    fn sender(&self, sender: &[u8]) -> Option<Box<[u8]>> {
        let _ = sender;
        None
    }
}

//! Which next hop a recipient has, what an address stands for, and where the mail of a domain goes.
//!
//! L2 but for `dns`, which asks name servers (L4).

pub mod access;
pub mod destination;
pub mod dns;
pub mod expand;
pub mod map;
pub mod mx;
pub mod rewrite;
pub mod senders;
pub mod site;
pub mod srs;
pub mod tables;
pub mod tls_policy;
pub mod tlsa;

//! LMTP (RFC 2033): for sites that put ringpost's mailboxes behind another relay.
//!
//! The state machine is that of SMTP with one reply for each recipient ([`Session::lmtp`]); here is
//! what is different around it. The shell takes local recipients only, and asks whether they exist and
//! have room at RCPT; it never queues: a recipient that cannot be served now is answered 4yz, and the
//! client tries again. Never to be put on port 25 (RFC 2033 §5).

#[cfg(test)]
mod tests;

pub use crate::smtp::inbound::{Answer, Options, Outcome, Question, Session, Step};

use std::time::Duration;

/// Limits of a session whose client is a relay of the site: it sends many messages on one connection,
/// and unknown recipients are no sign of an attack.
#[must_use]
pub fn options(hostname: &str) -> Options {
    Options {
        transactions_max: u32::MAX,
        junk_max: 1000,
        errors_soft: u32::MAX,
        errors_hard: 10_000,
        error_delay: Duration::ZERO,
        ..Options::production(hostname)
    }
}

//! L5: the load tools: a message source, a message sink, their ledgers and the audit of both.
//!
//! Owns the client and the server side of a test bed around any SMTP relay. It knows nothing of
//! the relay under test: source and sink share no code with `smtp`, so that a fault in the product's
//! parser cannot hide itself here. IO is plain tokio on a thread of its own; the protocol sits in
//! state machines without IO ([`source::session`], [`sink::session`]). Errors of the server under
//! test are counted and reported, never retried silently; errors of our own files end the run.
//!
//! Safety tests need three things from it: every message has an id and a digest, a ledger line is
//! made for each `250` seen or given, and [`audit`] compares the two ledgers.

#![allow(
    clippy::disallowed_methods,
    reason = "a program for operators: it has its own clock, sockets and files"
)]

pub mod audit;
pub mod digest;
pub mod histogram;
pub mod ledger;
pub mod sink;
pub mod source;
pub mod units;

mod shell;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Header that carries the id of a load message. The digest covers the message from this line on,
/// so trace headers put before it by relays do not matter.
pub const ID_HEADER: &str = "X-Ringpost-Load-Id";

/// Tells a source or a sink to end: finish what is in flight, write the ledger, report.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks for the end. Takes effect within 50 ms.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

//! What black-box tests stand on: the real server as a process, an SMTP client, a next hop.
//!
//! Owns processes, ports and directories of one test; everything is unique to it and gone at its
//! end. Every wait is bounded by [`PATIENCE`] and ends in a panic that says what was awaited.

pub mod api;
pub mod client;
pub mod dns;
pub mod hop;
pub mod http;
pub mod lmtp;
pub mod milter;
pub mod pki;
pub mod secure;
pub mod server;

pub use client::Client;
pub use hop::{Hop, Mail};
pub use server::{Config, Server};

use std::time::Duration;

/// The longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often conditions without a notification are looked at.
pub const LOOK: Duration = Duration::from_millis(10);

/// Looks until `look` gives something.
#[allow(clippy::disallowed_methods, reason = "tests wait for other processes")]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = std::time::Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(LOOK);
    }
}

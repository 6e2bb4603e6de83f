//! Whether a message comes from whom it says (SPF, DKIM, DMARC, ARC), and our own signatures.
//!
//! L2, but [`check`], which asks name servers, and [`aside`], the threads for long signatures (L4).
//! [`watch`] takes a message's bytes while they come in, so that no body is read a second time; [`results`]
//! is what was found and the header that says so; [`rules`] decides what becomes of the message; [`keys`],
//! [`sign`] and [`seal`] make signatures. Nothing here knows SMTP, a listener or a file. Whatever cannot be
//! found out is a temporary error, never a pass.

pub mod aside;
pub mod check;
pub mod fields;
pub mod keys;
pub mod known;
pub mod results;
pub mod rules;
pub mod seal;
pub mod sign;
mod spf;
pub mod verify;
pub mod watch;

/// Longest header that is looked at; a message with a longer one is refused where headers are looked at.
pub const HEADER_MAX: usize = 256 << 10;

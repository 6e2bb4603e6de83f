//! L4: serves IMAP on one core.
//!
//! [`desk`] answers what a session asks of the mailbox store, for whatever carries the session.

pub mod desk;
#[cfg(test)]
mod dialogue_tests;

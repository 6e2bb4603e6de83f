//! The storage engine: journal (and later archive and index), used by the queue and by mailboxes.
//!
//! Knows records as kinds and bytes; not what a mail is.

pub mod ticket;

//! L1: what a mail is, as bytes and types. No IO, no clock, no protocol state.

pub mod body;
pub mod dsn;
pub mod envelope;

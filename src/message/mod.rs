//! L1: what a mail is, as bytes and types. No IO, no clock, no protocol state.

pub mod address;
pub mod body;
pub mod date;
pub mod domain;
pub mod dsn;
pub mod envelope;
pub mod headers;
pub mod mime;
pub mod received;
pub mod report;
pub mod submitted;

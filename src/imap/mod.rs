//! IMAP (RFC 9051, RFC 3501): bytes and types (L1), state machines without IO (L2).
//!
//! `line` cuts the stream into commands, `parse` reads them in place, `encode` writes responses,
//! `set` holds sets of numbers; `view`, `search`, `sort`, `thread` are what a session computes; `session`
//! is the session, which knows an opened mailbox. Nothing here knows a disk, a socket or a clock.

pub mod casemap;
pub mod charset;
pub mod encode;
pub mod line;
pub mod parameter;
pub mod parse;
pub mod search;
pub mod serve;
pub mod session;
pub mod set;
pub mod sort;
pub mod subject;
pub mod thread;
pub mod transfer;
pub mod view;
pub mod words;

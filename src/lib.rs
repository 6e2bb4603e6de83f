//! ringpost: a mail appliance for Internet providers.
//!
//! Table of contents, in layer order (a lower layer never imports a higher one;
//! `tests/it/tidy.rs` checks it):
//!
//! * L0 [`base`]: time, ids, aligned memory, byte scanning, timer wheel.
//! * L1 [`message`]: what a mail is: address, envelope, headers, Received, bounce text.
//! * L1/L2/L4 [`smtp`]: the protocol; `inbound` and `outbound` are state machines without IO.
//! * L2 [`lmtp`]: the same machine as `smtp::inbound`, with a reply for each recipient.
//! * L1/L2/L4 [`pop3`]: the protocol; `inbound` is a state machine without IO, `serve` its shell.
//! * L1/L2/L4 [`imap`]: its grammar, what a session computes; `serve` is its shell.
//! * L1/L2/L4 [`storage`]: segments, batches, records; journal; recovery; `keeper` drives a disk.
//! * L2/L4 [`queue`]: what is known of each waiting message; when it is due; `desk` is one core's queue.
//! * L1/L2/L4 [`mailbox`]: the mail of our own users: accounts, mailboxes, messages.
//! * L2/L4 [`auth`]: who it is: SASL, users, passwords, and the threads that check them.
//! * L2 [`milter`]: the client side of the milter protocol.
//! * L2 [`route`]: which next hop a recipient has, where a domain's mail goes (L4 `dns` asks servers).
//! * L2 [`policy`]: who may do what; how many sessions.
//! * L2/L4 [`authenticity`]: SPF, DKIM, DMARC, ARC of mail that comes in; signatures of mail that leaves.
//! * L3 [`runtime`]: the traits Disk, Net, Clock, Entropy, and the io_uring that implements them.
//! * L3 [`tls`]: TLS on buffers of the caller; certificates.
//! * L3 [`events`], [`metrics`]: alarms and series.
//! * L4 [`channel`]: a connection in clear text or under TLS.
//! * L4 [`access`]: what the sessions that read mailboxes have in common.
//! * L4 [`intake`]: the only way in; [`delivery`]: the way out; [`attempts`]: logins that fail.
//! * L5 [`config`], [`admin`], [`server`], [`load`], [`cli`]: composition.

pub mod access;
pub mod admin;
pub mod attempts;
pub mod auth;
pub mod authenticity;
pub mod base;
pub mod channel;
pub mod cli;
pub mod config;
pub mod delivery;
pub mod events;
pub mod imap;
pub mod intake;
pub mod lmtp;
pub mod load;
pub mod mailbox;
pub mod message;
pub mod metrics;
pub mod milter;
pub mod policy;
pub mod pop3;
pub mod queue;
pub mod route;
pub mod runtime;
pub mod server;
pub mod smtp;
pub mod storage;
pub mod tls;

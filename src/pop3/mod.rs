//! The POP3 protocol: bytes and types (L1), the server's state machine (L2), the shell that drives it (L4).

pub mod body;
pub mod command;
pub mod inbound;
pub mod reply;
pub mod serve;

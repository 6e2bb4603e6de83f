//! The POP3 protocol: bytes and types (L1), the server's state machine (L2).

pub mod body;
pub mod command;
pub mod inbound;
pub mod reply;

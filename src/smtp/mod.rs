//! The SMTP protocol: bytes and types (L1), state machines (L2), the shell that serves it (L4).

pub mod command;
pub mod data;
pub mod extension;
pub mod inbound;
pub mod outbound;
pub mod parameter;
pub mod proxy;
pub mod rejection;
pub mod reply;
pub mod reply_in;
pub mod serve;

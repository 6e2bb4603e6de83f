//! The SMTP protocol: bytes and types (L1), state machines (L2), the shell that serves it (L4).

pub mod outbound;
pub mod reply_in;

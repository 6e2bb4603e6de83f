//! The SMTP protocol: bytes and types (L1), state machines (L2), the shell that serves it (L4).

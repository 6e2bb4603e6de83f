//! L5: the endpoints for operators.

pub mod http;

//! L5: the endpoints for operators: HTTP for machines that watch, a socket for the command line.

pub mod control;
pub mod http;
pub mod rules;
pub mod wire;

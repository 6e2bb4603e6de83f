//! L5: the endpoints for operators: HTTP for machines that watch, a socket for the command line.

pub mod control;
mod copies;
pub mod holds;
pub mod http;
mod kept;
pub mod lockout;
pub mod office;
pub mod people;
pub mod rules;
pub mod verbs;
pub mod wire;

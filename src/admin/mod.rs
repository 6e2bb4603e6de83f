//! L5: the endpoints for operators: HTTP for machines that watch; HTTP on a socket, and with a token over
//! TCP, for those who act.

pub mod api;
pub mod control;
mod copies;
pub mod frame;
pub mod holds;
pub mod http;
mod kept;
pub mod lockout;
pub mod office;
pub mod openapi;
pub mod people;
pub mod render;
pub mod routes;
pub mod rules;
mod schema;
pub mod state;
pub mod token;
pub mod verbs;
pub mod wire;

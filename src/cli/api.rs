//! `ringpost api`: the OpenAPI description of the HTTP interface, as the server serves it.
//!
//! Asks nobody: it is made of the table that the server reads requests by.

use super::Exit;
use std::io::Write;

/// Runs the command.
pub fn run(out: &mut impl Write) -> Exit {
    match out.write_all(crate::admin::openapi::text().as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Io,
    }
}

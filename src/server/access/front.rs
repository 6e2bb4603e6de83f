//! Where an access core's listeners meet the protocols: each socket is given to the shell that speaks it.
//!
//! A shell gets the whole [`Access`]: the shards of this core, the way to all others, users, limits,
//! certificates. Knows no protocol itself. A protocol that nobody serves is an error of the start.

use super::Access;
use crate::config::raw::Protocol;
use crate::config::resolve::Listener;
use crate::runtime::Net;
use crate::runtime::uring::Uring;
use std::rc::Rc;

/// A listening socket of an access core.
pub type Socket = Rc<<Uring as Net>::Listener>;

/// Begins to serve `socket`, which is one of `listener`'s.
///
/// # Errors
/// There is no shell for its protocol.
pub fn serve(access: &Rc<Access>, listener: &Listener, socket: &Socket) -> Result<(), String> {
    let _ = (access, socket);
    match listener.protocol {
        Protocol::Smtp | Protocol::Submission | Protocol::Submissions => {
            Err("mail is taken by the mail cores".into())
        }
        other => Err(format!("\"{other}\" is not available in this version")),
    }
}

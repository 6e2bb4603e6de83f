//! Recipients with a mailbox here: whose it is, and why there is none.
//!
//! Reads the password file as the server does. Looks into no mailbox.

use super::Exit;
use crate::config::{Config, users};
use crate::policy::access::{self, Verdict};
use crate::route::tables::{Plan, Router, split};
use crate::server::residents::Residents;
use serde_json::{Value, json};
use std::rc::Rc;

/// Whose mailboxes there are; `None`: there are none.
///
/// # Errors
/// The password file cannot be read.
pub fn residents(config: &Config) -> Result<Option<Rc<Residents>>, String> {
    let Some(path) = config.auth.users.as_ref().filter(|_| config.has_mailboxes()) else { return Ok(None) };
    // Only names are looked at: the secret hides nothing here.
    let (users, _) = users::load(path, [0; 32]).map_err(|problems| problems.to_string())?;
    Ok(Residents::new(config, Some(users)))
}

/// The verdict, if those it would let through have mailboxes: some of them, at least.
pub fn verdict(router: &Router, residents: Option<&Residents>, address: &[u8], verdict: Verdict) -> Verdict {
    let is_there = |to: &[u8]| {
        router.plan(split(to).1) != Plan::Local || residents.is_some_and(|r| r.find(to).is_some())
    };
    let lost = match &verdict {
        Verdict::Refuse(_) => false,
        Verdict::Accept => !is_there(address),
        Verdict::AcceptAs(to) => !to.iter().any(|to| is_there(to)),
    };
    if lost { Verdict::Refuse(access::UNKNOWN_USER) } else { verdict }
}

/// What becomes of a recipient in a local domain.
pub fn way(residents: Option<&Residents>, to: &[u8], mut value: Value) -> (Value, Exit) {
    let Some(residents) = residents else {
        value["now"] = json!("550 5.1.1: there are no mailboxes here; auth.users names who has one");
        return (value, Exit::Data);
    };
    match residents.find(to) {
        None => {
            value["now"] = json!("550 5.1.1: no user of auth.users has this address");
            (value, Exit::Data)
        }
        Some(resident) => {
            let folder = if resident.mailbox.is_empty() { "INBOX" } else { &resident.mailbox };
            value["destination"] = json!("mailbox");
            value["account"] = json!(&*resident.account);
            value["folder"] = json!(folder);
            value["now"] = json!(format!("into the mailbox of {}, folder {folder}", resident.account));
            (value, Exit::Ok)
        }
    }
}

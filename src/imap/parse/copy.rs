//! COPY (RFC 9051 §6.4.7), MOVE (RFC 6851), EXPUNGE and UID EXPUNGE (RFC 4315).

use super::input::Input;
use super::mailbox::{self, Mailbox};
use super::{Messages, Parsed, messages};

/// COPY or MOVE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copy<'a> {
    /// The numbers are UIDs.
    pub uid: bool,
    /// Which messages.
    pub messages: Messages,
    /// Where to.
    pub mailbox: Mailbox<'a>,
}

pub(super) fn copy<'a>(input: &mut Input<'a>, uid: bool) -> Parsed<Copy<'a>> {
    let messages = messages(input)?;
    let mailbox = mailbox::spaced(input)?;
    input.end()?;
    Ok(Copy { uid, messages, mailbox })
}

pub(super) fn expunge(input: &mut Input<'_>, uid: bool) -> Parsed<Option<Messages>> {
    let set = if uid { Some(messages(input)?) } else { None };
    input.end()?;
    Ok(set)
}

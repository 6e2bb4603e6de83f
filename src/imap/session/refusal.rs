//! What the store refuses, as responses (RFC 5530, RFC 9051 §7.1).

use super::{Session, Step};
use crate::imap::encode::status::{Code, Condition, Word};
use crate::mailbox::api::{Refusal, Selected};

/// Code and text for a refusal. `target`: it is about the mailbox that something was to be put into.
pub(super) fn told(refusal: Refusal, target: bool) -> (Word, &'static str) {
    match refusal {
        Refusal::NoMailbox if target => (Word::TryCreate, "There is no such mailbox"),
        Refusal::NoMailbox => (Word::NonExistent, "There is no such mailbox"),
        Refusal::NoAccount => (Word::Unavailable, "The account is gone"),
        Refusal::Exists => (Word::AlreadyExists, "There is one already"),
        Refusal::BadName => (Word::Cannot, "That cannot be done with a mailbox of this name"),
        Refusal::OverQuota => (Word::OverQuota, "That would be over quota"),
        Refusal::Limit => (Word::Limit, "That is more than there may be at once"),
        Refusal::HasChildren => (Word::HasChildren, "There are mailboxes below it"),
        Refusal::InUse => (Word::InUse, "Somebody else holds it"),
        Refusal::Expunged => (Word::ExpungeIssued, "Some of the messages have been expunged"),
        Refusal::Full => (Word::Unavailable, "There is no disk space at this moment"),
        Refusal::Busy => (Word::Unavailable, "The disk is busy, try again in a moment"),
        Refusal::Closed => (Word::Unavailable, "Nothing can be changed at this moment"),
        Refusal::Damaged => (Word::ServerBug, "What is stored cannot be read, the operator is told"),
    }
}

impl<S: Selected> Session<S> {
    /// NO, after news of the mailbox.
    pub(super) fn refused(&mut self, refusal: Refusal, target: bool, out: &mut Vec<u8>) -> Option<Step> {
        let (word, text) = told(refusal, target);
        self.finish_with(true, Condition::No, Some(Code::Word(word)), text, out)
    }
}

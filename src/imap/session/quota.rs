//! GETQUOTA and GETQUOTAROOT (RFC 9208 §4.1): an account is one quota root, whose name is empty.

use super::names::encode;
use super::{Answer, Ask, Session, Step, Task};
use crate::imap::encode::mailbox::{quota, quota_root};
use crate::imap::encode::status::Word;
use crate::imap::parse::Str;
use crate::imap::parse::mailbox::Mailbox;
use crate::mailbox::api::{Refusal, Selected};
use crate::mailbox::types::Usage;

/// What is under way.
#[derive(Debug)]
pub(super) enum Work {
    Quota,
    /// The mailbox, which must be there.
    Root(String),
}

impl<S: Selected> Session<S> {
    pub(super) fn get_quota(&mut self, root: Str<'_>, out: &mut Vec<u8>) -> Option<Step> {
        if !root.is_empty() {
            return self.no(Word::NonExistent, "There is no such quota root", out);
        }
        self.ask(Task::Quota(Work::Quota), Ask::Usage)
    }

    pub(super) fn get_quota_root(&mut self, mailbox: &Mailbox<'_>, out: &mut Vec<u8>) -> Option<Step> {
        match self.name(mailbox) {
            Some(name) => self.ask(Task::Quota(Work::Root(name.clone())), Ask::Status(name, false)),
            None => self.refused(Refusal::NoMailbox, false, out),
        }
    }

    pub(super) fn quota_answer(&mut self, work: Work, answer: Answer<'_, S>, out: &mut Vec<u8>) {
        match (work, answer) {
            (_, Answer::Status(Err(refusal))) => {
                self.refused(refusal, false, out);
            }
            (Work::Root(name), Answer::Status(Ok(_))) => {
                quota_root(out, &encode(&name, self.wire()), &[b""], self.wire());
                self.ask(Task::Quota(Work::Root(name)), Ask::Usage);
            }
            (_, Answer::Usage(None)) => {
                self.refused(Refusal::NoAccount, false, out);
            }
            (work, Answer::Usage(Some(usage))) => {
                quota(out, b"", &resources(&usage), self.wire());
                let what = if matches!(work, Work::Quota) { "GETQUOTA" } else { "GETQUOTAROOT" };
                self.finish(true, what, out);
            }
            (work, _) => panic!("no answer to {work:?}"),
        }
    }
}

/// Resources that are limited; STORAGE in units of 1024 octets (RFC 9208 §5.3.1).
fn resources(usage: &Usage) -> Vec<(&'static str, u64, u64)> {
    let mut all = Vec::new();
    if usage.quota.bytes > 0 {
        all.push(("STORAGE", usage.bytes.div_ceil(1024), usage.quota.bytes / 1024));
    }
    if usage.quota.messages > 0 {
        all.push(("MESSAGE", usage.messages, usage.quota.messages));
    }
    all
}

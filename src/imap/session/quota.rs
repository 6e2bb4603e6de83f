//! GETQUOTA and GETQUOTAROOT (RFC 9208 §4.1): an account with a limit is one quota root, whose name is empty;
//! one without has no root, for the list of a root's resources cannot be empty (§7, `quota-list`).

use super::names::encode;
use super::{Answer, Ask, Session, Step, Task};
use crate::imap::encode::mailbox::{quota, quota_root};
use crate::imap::encode::status::{Code, Condition, Word};
use crate::imap::parse::Str;
use crate::imap::parse::mailbox::Mailbox;
use crate::mailbox::api::{Refusal, Selected};
use crate::mailbox::types::Usage;

/// The name of the root.
const ROOT: &[u8] = b"";
const NO_ROOT: &str = "There is no such quota root";

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
            return self.no(Word::NonExistent, NO_ROOT, out);
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
                self.ask(Task::Quota(Work::Root(name)), Ask::Usage);
            }
            (_, Answer::Usage(None)) => {
                self.refused(Refusal::NoAccount, false, out);
            }
            (work, Answer::Usage(Some(usage))) => self.quotas(&work, &resources(&usage), out),
            (work, _) => panic!("no answer to {work:?}"),
        }
    }

    fn quotas(&mut self, work: &Work, limited: &[(&'static str, u64, u64)], out: &mut Vec<u8>) {
        let what = match work {
            Work::Root(name) => {
                let roots: &[&[u8]] = if limited.is_empty() { &[] } else { &[ROOT] };
                quota_root(out, &encode(name, self.wire()), roots, self.wire());
                "GETQUOTAROOT"
            }
            Work::Quota if limited.is_empty() => {
                self.finish_with(true, Condition::No, Some(Code::Word(Word::NonExistent)), NO_ROOT, out);
                return;
            }
            Work::Quota => "GETQUOTA",
        };
        if !limited.is_empty() {
            quota(out, ROOT, limited, self.wire());
        }
        self.finish(true, what, out);
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

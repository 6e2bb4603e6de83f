//! COPY, MOVE, EXPUNGE, UID EXPUNGE, CLOSE (RFC 9051 §6.4.1-§6.4.9; RFC 4315, RFC 6851).

use super::command::some_uids;
use super::{Answer, Ask, Session, Step, Task};
use crate::imap::encode::status::{Code, Condition, Word};
use crate::imap::parse::Messages;
use crate::imap::parse::copy::Copy;
use crate::imap::parse::session::Extensions;
use crate::imap::set::Range;
use crate::mailbox::api::{Refusal, Selected};
use crate::mailbox::types::Flags;

/// Messages of one COPY or MOVE, which is done as a whole.
const COPIES_MAX: usize = 1 << 18;

/// A COPY or MOVE under way.
#[derive(Debug)]
pub(super) struct Copying {
    remove: bool,
}

/// An EXPUNGE or CLOSE under way.
#[derive(Debug)]
pub(super) struct Expunging {
    ranges: Vec<Range>,
    /// The next message; none if all have been looked at.
    next: Option<u32>,
}

const READ_ONLY: &str = "The mailbox is opened for reading only";

impl<S: Selected> Session<S> {
    fn is_read_only(&self) -> bool {
        self.chosen.as_ref().is_some_and(|c| c.read_only)
    }

    pub(super) fn copy(&mut self, copy: &Copy<'_>, remove: bool, out: &mut Vec<u8>) -> Option<Step> {
        let Ok(ranges) = self.resolve(&copy.messages, copy.uid) else { return self.beyond(out) };
        if remove && self.is_read_only() {
            return self.no(Word::ReadOnly, READ_ONLY, out);
        }
        let Some(to) = self.name(&copy.mailbox) else {
            return self.no(Word::Cannot, "This cannot be the name of a mailbox", out);
        };
        let (uids, more) = some_uids(self.mailbox(), &ranges, 1, COPIES_MAX, |_| true);
        if more.is_some() {
            return self.refused(Refusal::Limit, true, out);
        }
        self.ask(Task::Copy(Copying { remove }), Ask::Copy { uids, to, remove })
    }

    pub(super) fn copy_answer(&mut self, copying: Copying, answer: Answer<'_, S>, out: &mut Vec<u8>) {
        let copied = match answer {
            Answer::Copied(Ok(done)) => done.value,
            Answer::Copied(Err(refusal)) => {
                self.refused(refusal, true, out);
                return;
            }
            _ => panic!("no answer to COPY"),
        };
        let what = if copying.remove { "MOVE completed" } else { "COPY completed" };
        if copied.uids.is_empty() {
            // RFC 4315 §3: no code if nothing was copied.
            self.finish_with(true, Condition::Ok, None, what, out);
            return;
        }
        let (from, to): (Vec<u32>, Vec<u32>) = copied.uids.iter().copied().unzip();
        let code = Code::CopyUid(copied.uidvalidity, &from, &to);
        if copying.remove {
            // RFC 6851 §4.3: before the EXPUNGE responses.
            Self::untagged(Some(code), "Moved", out);
            self.finish_with(true, Condition::Ok, None, what, out);
        } else {
            self.finish_with(true, Condition::Ok, Some(code), what, out);
        }
    }

    pub(super) fn expunge(&mut self, messages: Option<&Messages>, out: &mut Vec<u8>) -> Option<Step> {
        let ranges = match messages {
            Some(messages) => match self.resolve(messages, true) {
                Ok(ranges) => ranges,
                Err(_) => return self.beyond(out),
            },
            None => self.all(),
        };
        if self.is_read_only() {
            return self.no(Word::ReadOnly, READ_ONLY, out);
        }
        self.go_on(Task::Expunge(Box::new(Expunging { ranges, next: Some(1) })));
        None
    }

    fn all(&self) -> Vec<Range> {
        match self.mailbox().exists() {
            0 => Vec::new(),
            last => vec![Range { first: 1, last }],
        }
    }

    /// The next messages that are to go; none if there are no more.
    fn next_expunge(&self, e: &mut Expunging) -> Option<Ask> {
        let next = e.next?;
        let deleted = |m: &crate::mailbox::types::Message| m.flags.has(Flags::DELETED);
        let (uids, next) = some_uids(self.mailbox(), &e.ranges, next, self.options.changes_at_once, deleted);
        e.next = next;
        Some(Ask::Expunge(uids))
    }

    pub(super) fn expunge_on(&mut self, mut e: Box<Expunging>, out: &mut Vec<u8>) -> Option<Step> {
        match self.next_expunge(&mut e) {
            Some(Ask::Expunge(uids)) if uids.is_empty() => self.pause(Task::Expunge(e)),
            Some(ask) => self.ask(Task::Expunge(e), ask),
            None => {
                // RFC 7162 §3.2.7: the new HIGHESTMODSEQ, for those who keep it.
                let highest = self.mailbox().status().highest_modseq;
                let code = self.enabled.has(Extensions::CONDSTORE).then_some(Code::HighestModSeq(highest));
                self.finish_with(true, Condition::Ok, code, "EXPUNGE completed", out)
            }
        }
    }

    pub(super) fn expunge_answer(&mut self, e: Box<Expunging>, answer: Answer<'_, S>, out: &mut Vec<u8>) {
        match answer {
            Answer::Expunged(Ok(_done)) => self.go_on(Task::Expunge(e)),
            Answer::Expunged(Err(refusal)) => {
                self.refused(refusal, false, out);
            }
            _ => panic!("no answer to EXPUNGE"),
        }
    }

    pub(super) fn close(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        // RFC 9051 §6.4.1: of a mailbox that was examined nothing is removed.
        if self.is_read_only() {
            self.leave();
            return self.ok("CLOSE", out);
        }
        self.go_on(Task::Close(Box::new(Expunging { ranges: self.all(), next: Some(1) })));
        None
    }

    pub(super) fn close_on(&mut self, mut e: Box<Expunging>, out: &mut Vec<u8>) -> Option<Step> {
        match self.next_expunge(&mut e) {
            Some(Ask::Expunge(uids)) if uids.is_empty() => self.pause(Task::Close(e)),
            Some(ask) => self.ask(Task::Close(e), ask),
            None => {
                self.leave();
                self.ok("CLOSE", out)
            }
        }
    }

    pub(super) fn close_answer(&mut self, mut e: Box<Expunging>, answer: Answer<'_, S>) {
        match answer {
            Answer::Expunged(Ok(_done)) => {}
            // The mailbox is left all the same: CLOSE cannot fail (RFC 9051 §6.4.1). What is marked stays.
            Answer::Expunged(Err(_)) => e.next = None,
            _ => panic!("no answer to CLOSE"),
        }
        self.go_on(Task::Close(e));
    }
}

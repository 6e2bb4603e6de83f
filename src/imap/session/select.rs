//! SELECT, EXAMINE, CLOSE, UNSELECT (RFC 9051 §6.3.2-§6.4.2), with what QRESYNC tells of a mailbox
//! (RFC 7162 §3.2.5): what has vanished and what has changed since the client was here.

use super::tell::{keywords, system};
use super::{Answer, Ask, Chosen, Session, Step, Task};
use crate::imap::encode::fetch::{Fetch, exists, recent, vanished};
use crate::imap::encode::mailbox::{Listed as Line, list as put_list};
use crate::imap::encode::status::{Code, Condition, Word};
use crate::imap::parse::select::{Qresync, Select};
use crate::imap::parse::session::Extensions;
use crate::imap::set::SeqSet;
use crate::mailbox::api::{Refusal, Selected, Vanished};
use crate::mailbox::types::Message;

/// Pairs of numbers and UIDs that are compared.
const MATCHED_MAX: usize = 10_000;

/// A SELECT or EXAMINE under way.
#[derive(Debug)]
pub(super) struct Selecting {
    name: String,
    read_only: bool,
    qresync: Option<Box<Qresync>>,
    /// The next message that is looked at.
    next: u32,
}

impl<S: Selected> Session<S> {
    pub(super) fn select(&mut self, select: &Select<'_>, read_only: bool, out: &mut Vec<u8>) -> Option<Step> {
        // RFC 9051 §6.3.2: whatever becomes of it, the mailbox before is not selected any more.
        if self.chosen.take().is_some() {
            Self::untagged(Some(Code::Word(Word::Closed)), "The mailbox before is closed", out);
        }
        self.saved = SeqSet::default();
        // RFC 7162 §3.2.5: QRESYNC has to be enabled before.
        if select.qresync.is_some() && !self.enabled.has(Extensions::QRESYNC) {
            return self.bad("Say ENABLE QRESYNC first", out);
        }
        let Some(name) = self.name(&select.mailbox) else {
            return self.refused(Refusal::NoMailbox, false, out);
        };
        if select.condstore {
            self.enabled = self.enabled.with(Extensions::CONDSTORE);
        }
        let qresync = select.qresync.clone();
        let selecting = Selecting { name: name.clone(), read_only, qresync, next: 1 };
        self.ask(Task::Select(Box::new(selecting)), Ask::Select(name))
    }

    pub(super) fn select_answer(
        &mut self,
        mut selecting: Box<Selecting>,
        answer: Answer<'_, S>,
        out: &mut Vec<u8>,
    ) {
        let mut mailbox = match answer {
            Answer::Selected(Ok(mailbox)) => mailbox,
            Answer::Selected(Err(refusal)) => {
                self.refused(refusal, false, out);
                return;
            }
            _ => panic!("no answer to SELECT"),
        };
        // RFC 3501 §6.3.2: EXAMINE takes nothing away from later sessions.
        mailbox.meet(!selecting.read_only);
        let name = std::mem::take(&mut selecting.name);
        let keywords = mailbox.keywords().len();
        self.chosen = Some(Chosen { mailbox, name, read_only: selecting.read_only, keywords });
        self.describe(out);
        // RFC 7162 §3.2.5.1: of another UIDVALIDITY nothing of what is known is right.
        let validity = self.mailbox().status().uidvalidity;
        selecting.qresync = selecting.qresync.filter(|q| q.uid_validity == validity);
        if let Some(qresync) = &selecting.qresync {
            let first = first_vanished(qresync, self.mailbox());
            let set = self.vanished_since(qresync.mod_sequence, &known(qresync), first);
            vanished(out, true, &set);
        }
        self.go_on(Task::Select(selecting));
    }

    /// What SELECT says of a mailbox.
    fn describe(&self, out: &mut Vec<u8>) {
        let chosen = self.chosen.as_ref().expect("just selected");
        let (status, count) = (chosen.mailbox.status(), chosen.mailbox.exists());
        self.flags_of_mailbox(&chosen.mailbox.keywords(), out);
        exists(out, count);
        if !self.is_rev2() {
            recent(out, chosen.mailbox.recent_count());
            if status.unseen > 0
                && let Some(seq) = chosen.mailbox.first_unseen()
            {
                Self::untagged(Some(Code::Unseen(seq)), "First unseen", out);
            }
        }
        Self::untagged(Some(Code::UidValidity(status.uidvalidity)), "UIDs are valid", out);
        Self::untagged(Some(Code::UidNext(status.uidnext)), "Next UID", out);
        Self::untagged(Some(Code::HighestModSeq(status.highest_modseq)), "Highest mod-sequence", out);
        let id = self.mailbox_id(status.mailbox);
        Self::untagged(Some(Code::MailboxId(id.as_bytes())), "Mailbox id", out);
        if self.is_rev2() {
            // RFC 9051 §6.3.2.
            let name = super::names::encode(&chosen.name, self.wire());
            let line = Line {
                attributes: Default::default(),
                uses: Default::default(),
                name: &name,
                child_info: false,
                old_name: None,
            };
            put_list(out, false, &line, self.wire());
        }
    }

    /// UIDs among `known` that have vanished since `mod_seq`; where that is not remembered, all from
    /// `first` on that are not there.
    pub(super) fn vanished_since(&self, mod_seq: u64, known: &SeqSet, first: u32) -> SeqSet {
        let mailbox = self.mailbox();
        let last = mailbox.status().uidnext.saturating_sub(1);
        let mut set = SeqSet::default();
        match mailbox.vanished(mod_seq) {
            Vanished::Exactly(uids) => {
                for &(from, to) in uids.ranges() {
                    intersect(&mut set, known, from, to.min(last));
                }
            }
            // All that could have been there and is not.
            Vanished::Unknown => {
                let mut next = first;
                let mut batch: Vec<Message> = Vec::new();
                let mut seq = mailbox.seq_from(first);
                loop {
                    batch.clear();
                    mailbox.window(seq, 4096, &mut batch);
                    for m in &batch {
                        intersect(&mut set, known, next, m.uid - 1);
                        next = m.uid + 1;
                    }
                    seq += batch.len() as u32;
                    if batch.is_empty() {
                        break;
                    }
                }
                intersect(&mut set, known, next, last);
            }
        }
        set
    }

    pub(super) fn select_on(&mut self, mut selecting: Box<Selecting>, out: &mut Vec<u8>) -> Option<Step> {
        if let Some(qresync) = &selecting.qresync {
            let mut batch = Vec::new();
            let mailbox = &self.chosen.as_ref().expect("just selected").mailbox;
            mailbox.window(selecting.next, self.options.messages_at_once, &mut batch);
            if !batch.is_empty() {
                let (names, recent) = (mailbox.keywords(), self.recent());
                let known = known(qresync);
                for m in &batch {
                    if m.modseq > qresync.mod_sequence && known.contains(m.uid, 0) {
                        let mut fetch = Fetch::begin(out, selecting.next);
                        fetch.uid(m.uid);
                        fetch.flags(system(m, &recent), keywords(&names, m.keywords));
                        fetch.mod_seq(m.modseq);
                        fetch.end();
                    }
                    selecting.next += 1;
                    if out.len() >= self.options.replies_max {
                        break;
                    }
                }
                return self.pause(Task::Select(selecting));
            }
        }
        let (word, what) = match selecting.read_only {
            true => (Word::ReadOnly, "EXAMINE completed"),
            false => (Word::ReadWrite, "SELECT completed"),
        };
        self.say(Condition::Ok, Some(Code::Word(word)), what, out);
        None
    }

    /// RFC 3691 §2: as CLOSE, but nothing is expunged.
    pub(super) fn unselect(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        self.leave();
        self.ok("UNSELECT", out)
    }

    /// The mailbox is not selected any more.
    pub(super) fn leave(&mut self) {
        self.chosen = None;
        self.saved = SeqSet::default();
    }
}

/// The UIDs that the client knows; all if it does not say so.
fn known(qresync: &Qresync) -> SeqSet {
    qresync.known.clone().unwrap_or_else(|| SeqSet::of(1, u32::MAX))
}

/// The first UID that may have vanished: up to the last number whose message is the same as the client
/// says, none has (RFC 7162 §3.2.5.2).
fn first_vanished<S: Selected>(qresync: &Qresync, mailbox: &S) -> u32 {
    let Some((numbers, uids)) = &qresync.matched else { return 1 };
    let numbers = numbers.ranges().iter().flat_map(|r| r.first..=r.last);
    let pairs = numbers.zip(uids.ranges().iter().flat_map(|r| r.first..=r.last));
    let same = |(seq, uid): &(u32, u32)| mailbox.message(*seq).is_some_and(|m| m.uid == *uid);
    let last = pairs.take(MATCHED_MAX).take_while(same).last();
    last.map_or(1, |(_, uid)| uid.saturating_add(1))
}

/// Adds what of `from..=to` is in `known`.
fn intersect(set: &mut SeqSet, known: &SeqSet, from: u32, to: u32) {
    if from > to {
        return;
    }
    let ranges = known.ranges();
    let at = ranges.partition_point(|r| r.last < from);
    for r in ranges[at..].iter().take_while(|r| r.first <= to) {
        set.insert(r.first.max(from), r.last.min(to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intersections() {
        let mut known = SeqSet::of(1, 5);
        known.insert(8, 10);
        let mut set = SeqSet::default();
        intersect(&mut set, &known, 4, 9);
        intersect(&mut set, &known, 10, 9);
        intersect(&mut set, &known, 11, 20);
        let mut out = Vec::new();
        set.write(&mut out);
        assert_eq!(out, b"4:5,8:9");
    }
}

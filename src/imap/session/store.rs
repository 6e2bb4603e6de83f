//! STORE and UID STORE (RFC 9051 §6.4.6, RFC 7162 §3.1.3), in parts if there are many messages.

use super::command::some_uids;
use super::tell::{keywords, system};
use super::{Answer, Ask, Change, Session, Step, Task};
use crate::imap::encode::fetch::Fetch;
use crate::imap::encode::status::{Code, Condition, Word};
use crate::imap::parse::session::Extensions;
use crate::imap::parse::store::{Change as How, Store};
use crate::imap::set::{Range, SeqSet};
use crate::mailbox::api::{Alter, Selected, Stored};
use crate::mailbox::types::Flags;

/// A STORE under way.
#[derive(Debug)]
pub(super) struct Storing {
    uid: bool,
    silent: bool,
    how: Alter,
    flags: Flags,
    keywords: Vec<String>,
    unchanged_since: Option<u64>,
    ranges: Vec<Range>,
    /// The next message; none if all have been asked about.
    next: Option<u32>,
    /// Messages that were meant, and those of them that were there.
    meant: u64,
    there: u64,
    /// Those that were left alone, in the numbers of the command.
    modified: SeqSet,
}

impl<S: Selected> Session<S> {
    pub(super) fn store(&mut self, store: &Store<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let Ok(ranges) = self.resolve(&store.messages, store.uid) else { return self.beyond(out) };
        if self.chosen.as_ref().is_some_and(|c| c.read_only) {
            return self.no(Word::ReadOnly, "The mailbox is opened for reading only", out);
        }
        if store.unchanged_since.is_some() {
            self.aware(out);
        }
        let keyword = |k: &[u8]| String::from_utf8_lossy(k).into_owned();
        let storing = Storing {
            uid: store.uid,
            silent: store.silent,
            how: match store.change {
                How::Replace => Alter::Replace,
                How::Add => Alter::Add,
                How::Remove => Alter::Remove,
            },
            flags: Flags(store.flags.system.0),
            keywords: store.flags.keywords().map(keyword).collect(),
            unchanged_since: store.unchanged_since,
            ranges,
            next: Some(1),
            meant: 0,
            there: 0,
            modified: SeqSet::default(),
        };
        self.go_on(Task::Store(Box::new(storing)));
        None
    }

    pub(super) fn store_on(&mut self, mut s: Box<Storing>, out: &mut Vec<u8>) -> Option<Step> {
        let Some(next) = s.next else { return self.stored(&s, out) };
        let (uids, next) = some_uids(self.mailbox(), &s.ranges, next, self.options.changes_at_once, |_| true);
        s.next = next;
        s.meant += uids.len();
        if uids.is_empty() {
            return self.stored(&s, out);
        }
        let change = Change {
            uids,
            how: s.how,
            flags: s.flags,
            keywords: s.keywords.clone(),
            unchanged_since: s.unchanged_since,
        };
        self.ask(Task::Store(s), Ask::Store(change))
    }

    fn stored(&mut self, s: &Storing, out: &mut Vec<u8>) -> Option<Step> {
        if !s.modified.is_empty() {
            let code = Some(Code::Modified(&s.modified));
            return self.finish_with(s.uid, Condition::Ok, code, "Some have changed since", out);
        }
        // RFC 5530 §3: the client must be told that it was not done for all. UIDs may be gone.
        if !s.uid && s.there < s.meant {
            let code = Some(Code::Word(Word::ExpungeIssued));
            let text = "Some of the messages have been expunged";
            return self.finish_with(false, Condition::No, code, text, out);
        }
        self.finish(s.uid, "STORE", out)
    }

    pub(super) fn store_answer(&mut self, mut s: Box<Storing>, answer: Answer<'_, S>, out: &mut Vec<u8>) {
        let stored = match answer {
            Answer::Stored(Ok(done)) => done.value,
            Answer::Stored(Err(refusal)) => {
                let (word, text) = super::refusal::told(refusal, false);
                self.finish_with(s.uid, Condition::No, Some(Code::Word(word)), text, out);
                return;
            }
            _ => panic!("no answer to STORE"),
        };
        if let (Some(modseq), Some(chosen)) = (stored.modseq, &mut self.chosen) {
            chosen.mailbox.told(modseq);
        }
        s.there += stored.now.len() as u64 + stored.modified.len();
        for uid in stored.modified.iter() {
            let number = if s.uid { Some(uid) } else { self.mailbox().seq(uid) };
            number.into_iter().for_each(|n| s.modified.insert(n, n));
        }
        self.put_stored(&s, &stored, out);
        self.go_on(Task::Store(s));
    }

    /// FETCH responses of STORE: what the flags are now, or at least the new mod-sequences.
    fn put_stored(&mut self, s: &Storing, stored: &Stored, out: &mut Vec<u8>) {
        let condstore = self.enabled.has(Extensions::CONDSTORE);
        if s.silent && !condstore {
            return;
        }
        let names = self.mailbox().keywords();
        self.tell_keywords(&names, out);
        let (mailbox, recent) = (self.mailbox(), self.recent());
        for m in &stored.now {
            let Some(seq) = mailbox.seq(m.uid) else { continue };
            // RFC 7162 §3.1.3: also with .SILENT, of those that have a new one.
            if s.silent && Some(m.modseq) != stored.modseq {
                continue;
            }
            let mut fetch = Fetch::begin(out, seq);
            if s.uid || self.enabled.has(Extensions::QRESYNC) {
                fetch.uid(m.uid);
            }
            if condstore {
                fetch.mod_seq(m.modseq);
            }
            if !s.silent {
                fetch.flags(system(m, &recent), keywords(&names, m.keywords));
            }
            fetch.end();
        }
    }
}

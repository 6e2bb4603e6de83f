//! The end of a command: what the client must be told of its mailbox, then the tagged response. And
//! the same at any moment within IDLE.

use super::{Session, State, Step, Task};
use crate::imap::encode::mailbox::flags_line;
use crate::imap::encode::status::{Code, Condition, continuation, status};
use crate::imap::parse::flags::System;
use crate::imap::parse::session::Extensions;
use crate::imap::view::{Changed, Mode, Teller};
use crate::mailbox::api::{News, Selected};
use crate::mailbox::types::{KEYWORDS_MAX, Keywords, Message, UidSet};
use std::vec::IntoIter;

/// All system flags that a client can set.
pub(super) const SETTABLE: System = System(31);

/// News that are being written.
#[derive(Debug)]
pub(super) struct Telling {
    news: IntoIter<News>,
    /// The tagged response; empty within IDLE.
    tail: Vec<u8>,
}

/// Flags as they are written, for a session with these recent messages.
pub(super) fn system(m: &Message, recent: &UidSet) -> System {
    System(m.flags.0 | if recent.has(m.uid) { System::RECENT.0 } else { 0 })
}

/// The names of a message's keywords.
pub(super) fn keywords(names: &[String], set: Keywords) -> impl Iterator<Item = &[u8]> {
    names.iter().enumerate().filter(move |(bit, _)| set.0 >> bit & 1 != 0).map(|(_, name)| name.as_bytes())
}

impl<S: Selected> Session<S> {
    pub(super) fn noop(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        self.finish(true, "NOOP", out)
    }

    pub(super) fn idle(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        // RFC 2177 §3: what is known by now is told at once, too.
        continuation(out, b"idling");
        self.state = State::Idle;
        self.tell(Vec::new(), true)
    }

    /// Within IDLE: [`Selected::changed`] has resolved. Then [`Self::receive`], with the same input.
    pub fn changed(&mut self) {
        if matches!(self.state, State::Idle) {
            self.tell(Vec::new(), true);
        }
    }

    /// OK, after news of the mailbox. `expunges`: message sequence numbers may change now.
    pub(super) fn finish(&mut self, expunges: bool, what: &str, out: &mut Vec<u8>) -> Option<Step> {
        self.finish_with(expunges, Condition::Ok, None, &format!("{what} completed"), out)
    }

    /// The tagged response, after news of the mailbox.
    pub(super) fn finish_with(
        &mut self,
        expunges: bool,
        condition: Condition,
        code: Option<Code<'_>>,
        text: &str,
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        self.state = State::Command;
        if self.chosen.is_none() {
            self.say(condition, code, text, out);
            return None;
        }
        let mut tail = Vec::new();
        status(&mut tail, self.tag.bytes(), condition, code, text);
        self.tell(tail, expunges)
    }

    fn tell(&mut self, tail: Vec<u8>, expunges: bool) -> Option<Step> {
        let news = self.chosen.as_mut().map(|c| c.mailbox.sync(expunges)).unwrap_or_default();
        self.go_on(Task::Tell(Telling { news: news.into_iter(), tail }));
        None
    }

    pub(super) fn tell_on(&mut self, mut telling: Telling, out: &mut Vec<u8>) -> Option<Step> {
        let names = self.chosen.as_ref().map(|c| c.mailbox.keywords()).unwrap_or_default();
        let (mode, recent) = (self.mode(), self.recent());
        let mut deleted = false;
        while let Some(news) = telling.news.as_slice().first().copied() {
            if out.len() >= self.options.replies_max {
                return self.pause(Task::Tell(telling));
            }
            if news == News::Keywords {
                self.tell_keywords(&names, out);
                telling.news.next();
                continue;
            }
            let mut teller = Teller::new(out, mode);
            let mut count = 0;
            for news in telling.news.as_slice().iter().take(256) {
                match *news {
                    News::Expunged { seq, uid } => teller.expunged(seq, uid),
                    News::Exists(n) => teller.exists(n),
                    News::Recent(n) => teller.recent(n),
                    News::Changed { seq, message } => {
                        let changed = Changed {
                            seq,
                            uid: message.uid,
                            system: system(&message, &recent),
                            mod_seq: message.modseq,
                        };
                        teller.changed(changed, keywords(&names, message.keywords));
                    }
                    News::Keywords => break,
                    News::Deleted => deleted = true,
                }
                count += 1;
            }
            teller.end();
            telling.news.by_ref().take(count).for_each(drop);
        }
        out.extend_from_slice(&telling.tail);
        self.state = if telling.tail.is_empty() { State::Idle } else { State::Command };
        deleted.then(|| self.bye("The mailbox has been deleted", out))
    }

    /// UIDs that are recent for this session; RFC 9051 has none.
    pub(super) fn recent(&self) -> UidSet {
        match &self.chosen {
            Some(chosen) if !self.is_rev2() => chosen.mailbox.recent(),
            _ => UidSet::default(),
        }
    }

    /// How changes are told.
    pub(super) fn mode(&self) -> Mode {
        Mode {
            qresync: self.enabled.has(Extensions::QRESYNC),
            condstore: self.enabled.has(Extensions::CONDSTORE),
            rev2: self.is_rev2(),
        }
    }

    /// New keywords, unless the client knows them already: before they are seen with a message.
    pub(super) fn tell_keywords(&mut self, names: &[String], out: &mut Vec<u8>) {
        let Some(chosen) = &mut self.chosen else { return };
        if std::mem::replace(&mut chosen.keywords, names.len()) != names.len() {
            self.flags_of_mailbox(names, out);
        }
    }

    /// FLAGS and PERMANENTFLAGS of the selected mailbox.
    pub(super) fn flags_of_mailbox(&self, names: &[String], out: &mut Vec<u8>) {
        let keywords: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        flags_line(out, SETTABLE, keywords.iter().copied());
        let read_only = self.chosen.as_ref().is_none_or(|c| c.read_only);
        let code = match read_only {
            true => Code::PermanentFlags(System::default(), &[], false),
            false => Code::PermanentFlags(SETTABLE, &keywords, keywords.len() < KEYWORDS_MAX),
        };
        Self::untagged(Some(code), "Flags that are kept", out);
    }

    /// The client is aware of mod-sequences from now on (RFC 7162 §3.1).
    pub(super) fn aware(&mut self, out: &mut Vec<u8>) {
        if self.enabled.has(Extensions::CONDSTORE) {
            return;
        }
        self.enabled = self.enabled.with(Extensions::CONDSTORE);
        if let Some(chosen) = &self.chosen {
            let highest = chosen.mailbox.status().highest_modseq;
            Self::untagged(Some(Code::HighestModSeq(highest)), "Highest mod-sequence", out);
        }
    }
}

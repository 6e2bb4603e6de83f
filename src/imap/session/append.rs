//! APPEND (RFC 9051 §6.3.12) and REPLACE (RFC 8508), with MULTIAPPEND (RFC 3502), BINARY (RFC 3516 §4.4)
//! and APPENDLIMIT (RFC 7889).
//!
//! Messages go through [`Intake`] to the shell as they come; nothing of them is kept here. All of an
//! APPEND are stored by one operation, or none.

use super::intake::Intake;
use super::refusal::told;
use super::{Answer, Ask, Now, Session, State, Step, Task};
use crate::base::time::Wall;
use crate::imap::encode::status::{self, Code, Condition, Word, continuation};
use crate::imap::line::Tag;
use crate::imap::parse::append::{Message, Next, Replace, next};
use crate::imap::parse::flags::Flags as FlagList;
use crate::imap::parse::mailbox::Mailbox;
use crate::imap::parse::{Verb, parse};
use crate::mailbox::api::Selected;
use crate::mailbox::types::Flags;
use crate::message::body::BodyFacts;

/// Messages of an APPEND.
#[derive(Debug)]
pub struct Appending {
    /// Where to.
    pub mailbox: String,
    /// The UID of the message here that goes when they are appended (RFC 8508).
    pub replaces: Option<u32>,
    /// Those that are complete.
    pub messages: Vec<Arrived>,
    /// The one that comes.
    coming: Coming,
    /// Why the APPEND will be refused.
    failed: Option<(Word, &'static str)>,
}

/// What is known of a message that is complete.
#[derive(Debug)]
pub struct Arrived {
    /// Facts about it; its length as it is stored.
    pub facts: BodyFacts,
    /// Its summary.
    pub summary: Vec<u8>,
    /// Its flags.
    pub flags: Flags,
    /// Its keywords.
    pub keywords: Vec<String>,
    /// INTERNALDATE.
    pub internal: Wall,
}

/// A message that comes.
#[derive(Debug)]
struct Coming {
    /// As the framer wants it; without flags and date.
    message: Message<'static>,
    intake: Intake,
    flags: Flags,
    keywords: Vec<String>,
    internal: Wall,
}

impl Coming {
    fn new(now: Now, message: &Message<'_>) -> Self {
        let keyword = |k: &[u8]| String::from_utf8_lossy(k).into_owned();
        let date = message.date.map(|d| Wall(u64::try_from(d.seconds).unwrap_or(0).saturating_mul(1000)));
        Coming {
            message: Message {
                flags: FlagList::default(),
                date: None,
                len: message.len,
                binary: message.binary,
                utf8: message.utf8,
                non_synchronizing: message.non_synchronizing,
            },
            intake: Intake::default(),
            flags: Flags(message.flags.system.0),
            keywords: message.flags.keywords().map(keyword).collect(),
            internal: date.unwrap_or(now.wall),
        }
    }
}

const TOO_BIG: (Word, &str) = (Word::TooBig, "The message is larger than what is taken");

impl<S: Selected> Session<S> {
    /// The messages of [`Ask::Append`].
    ///
    /// # Panics
    /// If that has not been asked.
    #[must_use]
    pub fn appending(&self) -> &Appending {
        self.appending.as_ref().expect("an APPEND is under way")
    }

    /// An APPEND or REPLACE up to its first message.
    pub(super) fn message(&mut self, now: Now, text: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        self.since = now.mono;
        self.burst += 1;
        self.tag = Tag::of(text);
        let verb = parse(text).expect("the framer has read it as a command").verb;
        self.tally.count(&verb);
        match verb {
            Verb::Append(append) => self.append(now, &append.mailbox, None, &append.message, out),
            Verb::Replace(replace) => self.replace(now, &replace, out),
            _ => panic!("the framer has read it as a command with a message"),
        }
    }

    /// RFC 8508 §3.
    fn replace(&mut self, now: Now, replace: &Replace<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let Some(chosen) = &self.chosen else {
            self.refuse_text("Select a mailbox first", out);
            let error = self.count_error(out);
            return error.or_else(|| self.not_taken(&replace.message, out));
        };
        let view = &chosen.mailbox;
        let seq = match replace.number {
            None => Some(view.exists()),
            Some(uid) if replace.uid => view.seq(uid),
            Some(seq) => Some(seq),
        };
        match seq.and_then(|seq| view.message(seq)) {
            Some(_) if chosen.read_only => {
                self.no(Word::ReadOnly, "The mailbox is opened for reading only", out);
            }
            Some(m) => return self.append(now, &replace.mailbox, Some(m.uid), &replace.message, out),
            None => self.refuse_text("There is no message with this number", out),
        }
        self.not_taken(&replace.message, out)
    }

    /// The command has been refused: its message is passed over.
    fn not_taken(&mut self, message: &Message<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let close = !self.framer.refuse(message);
        close.then(|| self.bye("There is too much to pass over", out))
    }

    fn append(
        &mut self,
        now: Now,
        mailbox: &Mailbox<'_>,
        replaces: Option<u32>,
        message: &Message<'_>,
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        if self.owner.is_none() {
            self.refuse_text("Log in first", out);
            let error = self.count_error(out);
            return error.or_else(|| self.not_taken(message, out));
        }
        let refusal = match self.name(mailbox) {
            None => Some((Word::Cannot, "This cannot be the name of a mailbox")),
            Some(_) if self.is_too_big(message) => Some(TOO_BIG),
            Some(name) => {
                let coming = Coming::new(now, message);
                let messages = Vec::new();
                let appending = Appending { mailbox: name, replaces, messages, coming, failed: None };
                self.appending = Some(Box::new(appending));
                return self.make_room();
            }
        };
        let (word, text) = refusal.expect("the others have returned");
        self.no(word, text, out);
        self.not_taken(message, out)
    }

    fn is_too_big(&self, message: &Message<'_>) -> bool {
        message.len > self.options.append_limit.unwrap_or(u64::from(u32::MAX) / 2)
    }

    fn make_room(&mut self) -> Option<Step> {
        let appending = self.appending();
        let room = Ask::Room {
            mailbox: appending.mailbox.clone(),
            len: appending.coming.message.len,
            first: appending.messages.is_empty(),
        };
        self.ask(Task::Append, room)
    }

    /// Bytes of the message.
    pub(super) fn content(&mut self, now: Now, bytes: &[u8]) -> Option<Step> {
        self.since = now.mono;
        let appending = self.appending.as_mut().expect("a message comes");
        appending.coming.intake.feed(bytes, &mut self.incoming);
        Some(Step::Take)
    }

    /// The message is complete; `text` follows it.
    pub(super) fn behind_message(
        &mut self,
        now: Now,
        text: &[u8],
        used: usize,
        rest: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        self.since = now.mono;
        let appending = self.appending.as_mut().expect("a message has come");
        let coming = &mut appending.coming;
        let intake = std::mem::take(&mut coming.intake);
        if intake.has_nul() && !coming.message.binary {
            appending.failed = Some((Word::Cannot, "A NUL can only be in a literal8"));
        }
        let (facts, summary) = intake.finish(&mut self.incoming);
        if facts.len == 0 {
            // RFC 3502 §6.3.11.
            appending.failed = Some((Word::Cannot, "A message cannot be empty"));
        }
        let utf8 = coming.message.utf8;
        let (flags, keywords) = (coming.flags, std::mem::take(&mut coming.keywords));
        appending.messages.push(Arrived { facts, summary, flags, keywords, internal: coming.internal });
        match next(text, utf8) {
            Ok(Next::End) => match appending.failed {
                Some((word, why)) => {
                    self.no(word, why, out);
                    self.drop_append()
                }
                None => self.ask(Task::Append, Ask::Append),
            },
            Ok(Next::Message(message)) => self.another(now, &message, out),
            Err(bad) => {
                status::bad(out, self.tag.bytes(), bad);
                let whole = &rest[..used];
                // A line end that is part of `text` announces another message.
                if text.len() == used && whole.ends_with(b"\n") && !self.framer.abandon(whole) {
                    return Some(self.bye("There is too much to pass over", out));
                }
                self.drop_append()
            }
        }
    }

    fn another(&mut self, now: Now, message: &Message<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let too_big = self.is_too_big(message);
        let most = self.options.append_messages;
        let appending = self.appending.as_mut().expect("a message has come");
        let failed = match appending.failed {
            None if appending.replaces.is_some() => Some((Word::Cannot, "REPLACE takes one message")),
            None if appending.messages.len() >= most => Some((Word::Limit, "Too many messages at once")),
            None if too_big => Some(TOO_BIG),
            failed => failed,
        };
        if let Some((word, why)) = failed {
            self.no(word, why, out);
            let close = self.not_taken(message, out);
            return close.or_else(|| self.drop_append());
        }
        appending.coming = Coming::new(now, message);
        self.make_room()
    }

    /// The APPEND has been answered; what has come of it is forgotten.
    pub(super) fn drop_append(&mut self) -> Option<Step> {
        self.appending = None;
        self.ask(Task::Append, Ask::Forget)
    }

    pub(super) fn append_answer(&mut self, ask: &Ask, answer: Answer<'_, S>, out: &mut Vec<u8>) {
        match (ask, answer) {
            (Ask::Forget, Answer::Accept) => self.incoming = Vec::new(),
            (Ask::Room { .. }, Answer::Room(Ok(()))) => {
                let message = self.appending().coming.message;
                self.framer.accept(&message);
                if !message.non_synchronizing {
                    continuation(out, b"OK");
                }
            }
            (Ask::Room { .. }, Answer::Room(Err(refusal))) => {
                let message = self.appending().coming.message;
                let (word, text) = told(refusal, true);
                self.say(Condition::No, Some(Code::Word(word)), text, out);
                if self.not_taken(&message, out).is_none() {
                    self.drop_append();
                }
            }
            (Ask::Append, Answer::Appended(result)) => {
                let replaces = self.appending.take().is_some_and(|a| a.replaces.is_some());
                self.incoming = Vec::new();
                match result {
                    Err(refusal) => drop(self.refused(refusal, true, out)),
                    Ok(done) => {
                        let uids: Vec<u32> = done.value.iter().map(|a| a.uid).collect();
                        let validity = done.value.first().map_or(0, |a| a.uidvalidity);
                        let code = Code::AppendUid(validity, &uids);
                        if replaces {
                            // RFC 8508 §3.4: before the EXPUNGE response.
                            Self::untagged(Some(code), "Replaced", out);
                            self.finish(true, "REPLACE", out);
                        } else {
                            self.finish_with(true, Condition::Ok, Some(code), "APPEND completed", out);
                        }
                    }
                }
            }
            (ask, _) => panic!("no answer to {ask:?}"),
        }
        debug_assert!(!matches!(self.state, State::Fresh));
    }
}

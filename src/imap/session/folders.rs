//! CREATE, DELETE, RENAME, SUBSCRIBE, UNSUBSCRIBE (RFC 9051 §6.3.4-§6.3.8, RFC 6154 §3).

use super::names::special;
use super::{Answer, Ask, Session, Step, Task};
use crate::imap::encode::status::{Code, Condition, Word};
use crate::imap::parse::mailbox::{Create, Mailbox};
use crate::mailbox::api::{Refusal, Selected};
use crate::mailbox::name;

/// What is under way.
#[derive(Debug)]
pub(super) enum Work {
    Create,
    /// The name.
    Delete(String),
    Rename,
    Subscribe,
    Unsubscribe,
}

impl<S: Selected> Session<S> {
    pub(super) fn create(&mut self, create: &Create<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let Some(name) = self.name(&create.mailbox) else {
            return self.no(Word::Cannot, "This cannot be the name of a mailbox", out);
        };
        match special(create.uses) {
            Ok(use_) if !create.unknown_use => self.ask(Task::Folder(Work::Create), Ask::Create(name, use_)),
            _ => self.no(Word::UseAttr, "A mailbox cannot be used for that", out),
        }
    }

    pub(super) fn delete(&mut self, mailbox: &Mailbox<'_>, out: &mut Vec<u8>) -> Option<Step> {
        match self.name(mailbox) {
            Some(name) => self.ask(Task::Folder(Work::Delete(name.clone())), Ask::Delete(name)),
            None => self.refused(Refusal::NoMailbox, false, out),
        }
    }

    pub(super) fn rename(&mut self, from: &Mailbox<'_>, to: &Mailbox<'_>, out: &mut Vec<u8>) -> Option<Step> {
        match (self.name(from), self.name(to)) {
            (None, _) => self.refused(Refusal::NoMailbox, false, out),
            (_, None) => self.no(Word::Cannot, "This cannot be the name of a mailbox", out),
            // Its mail would go, and the mailbox stay (RFC 9051 §6.3.6): into a place below itself as well.
            (Some(from), Some(to)) if from != name::INBOX && name::is_below(&to, &from) => {
                self.no(Word::Cannot, "A mailbox cannot go below itself", out)
            }
            (Some(from), Some(to)) => self.ask(Task::Folder(Work::Rename), Ask::Rename(from, to)),
        }
    }

    pub(super) fn subscribe(&mut self, mailbox: &Mailbox<'_>, on: bool, out: &mut Vec<u8>) -> Option<Step> {
        let work = if on { Work::Subscribe } else { Work::Unsubscribe };
        match self.name(mailbox) {
            Some(name) => self.ask(Task::Folder(work), Ask::Subscribe(name, on)),
            None => self.no(Word::Cannot, "This cannot be the name of a mailbox", out),
        }
    }

    pub(super) fn folder_answer(&mut self, work: Work, answer: Answer<'_, S>, out: &mut Vec<u8>) {
        match (work, answer) {
            (_, Answer::Created(Err(refusal)) | Answer::Done(Err(refusal))) => {
                self.refused(refusal, false, out);
            }
            (Work::Create, Answer::Created(Ok(done))) => {
                let id = self.mailbox_id(done.value);
                let code = Some(Code::MailboxId(id.as_bytes()));
                self.finish_with(true, Condition::Ok, code, "CREATE completed", out);
            }
            (Work::Delete(name), Answer::Done(Ok(_committed))) => {
                // It cannot stay selected without being there.
                if self.chosen.as_ref().is_some_and(|c| c.name == name) {
                    self.chosen = None;
                    Self::untagged(Some(Code::Word(Word::Closed)), "The mailbox has been deleted", out);
                }
                self.finish(true, "DELETE", out);
            }
            (Work::Rename, Answer::Done(Ok(_committed))) => {
                self.finish(true, "RENAME", out);
            }
            (Work::Subscribe, Answer::Done(Ok(_committed))) => {
                self.finish(true, "SUBSCRIBE", out);
            }
            (Work::Unsubscribe, Answer::Done(Ok(_committed))) => {
                self.finish(true, "UNSUBSCRIBE", out);
            }
            (work, _) => panic!("no answer to {work:?}"),
        }
    }
}

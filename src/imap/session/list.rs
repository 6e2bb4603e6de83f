//! LIST, LSUB, STATUS, NAMESPACE (RFC 9051 §6.3.9-§6.3.11; RFC 5258, RFC 5819, RFC 6154, RFC 3501 §6.3.9).
//!
//! All names of the account come at once (they are in memory); they are matched and written in turns.

use super::names::{Pattern, decode, encode, uses};
use super::{Answer, Ask, Session, Step, Task};
use crate::imap::encode::mailbox::{
    Attributes, Counters, Listed as Line, delimiter, list as put_list, namespace, status as put_status,
};
use crate::imap::encode::status::Word;
use crate::imap::parse::Str;
use crate::imap::parse::list::{List, Lsub, Return, Selection};
use crate::imap::parse::mailbox::Mailbox;
use crate::imap::parse::status::{Items, Status as StatusCommand};
use crate::mailbox::api::{Listed, Refusal, Selected};
use crate::mailbox::name;
use crate::mailbox::types::{MailboxId, Status};
use std::collections::BTreeMap;

/// Steps of matching in a row; then others have their turn.
const STEPS: usize = 1 << 20;

/// A LIST or LSUB under way.
#[derive(Debug)]
pub(super) struct Listing {
    lsub: bool,
    extended: bool,
    selection: Selection,
    ret: Return,
    patterns: Vec<Pattern>,
    names: Vec<Listed>,
    /// Of `names`: matched up to here.
    at: usize,
    /// Names to answer; whether names below them are meant too, that are not named themselves.
    found: BTreeMap<String, bool>,
    /// They are being written.
    writing: bool,
    /// The mailbox whose deleted messages are being weighed.
    weighed: Option<(String, Option<u64>)>,
}

/// A STATUS under way.
#[derive(Debug)]
pub(super) struct StatusOf {
    name: String,
    items: Items,
}

impl Listing {
    fn new(lsub: bool, patterns: Vec<Pattern>) -> Self {
        Listing {
            lsub,
            extended: false,
            selection: Selection { subscribed: lsub, ..Selection::default() },
            ret: Return::default(),
            patterns,
            names: Vec::new(),
            at: 0,
            found: BTreeMap::new(),
            writing: false,
            weighed: None,
        }
    }

    /// Matches some names. True if that was all.
    fn find(&mut self) -> bool {
        let mut steps = 0;
        while let Some(listed) = self.names.get(self.at) {
            if steps > STEPS {
                return false;
            }
            self.at += 1;
            let s = &self.selection;
            let there = listed.status.is_some() || listed.children;
            let selected = match s.subscribed {
                true => listed.subscribed,
                false => there,
            } && (!s.special_use || listed.special.is_some());
            if !selected {
                continue;
            }
            let mut matches = |name: &str| {
                steps += self.patterns.iter().map(|p| p.cost(name.len())).sum::<usize>();
                self.patterns.iter().any(|p| p.matches(name))
            };
            let named = matches(&listed.name);
            if named {
                self.found.entry(listed.name.clone()).or_default();
            }
            // RFC 5258 §3.5; RFC 3501 §6.3.9: with `%`, a name above one that is subscribed.
            if s.recursive_match || (self.lsub && !named) {
                let mut above = name::parent(&listed.name);
                while let Some(parent) = above {
                    if matches(parent) {
                        self.found.insert(parent.to_owned(), true);
                    }
                    above = name::parent(parent);
                }
            }
        }
        true
    }

    /// What is known of a name; the names are in order.
    fn known(&self, name: &str) -> Option<&Listed> {
        self.names.binary_search_by(|l| l.name.as_str().cmp(name)).ok().map(|at| &self.names[at])
    }

    fn attributes(&self, listed: Option<&Listed>) -> Attributes {
        let mut attributes = Attributes::default();
        let exists = listed.is_some_and(|l| l.status.is_some());
        let subscribed = listed.is_some_and(|l| l.subscribed);
        if !exists || (self.lsub && !subscribed) {
            attributes = attributes.with(Attributes::NO_SELECT);
        }
        if self.lsub {
            return attributes;
        }
        if !exists && self.extended {
            attributes = attributes.with(Attributes::NON_EXISTENT);
        }
        if subscribed && (self.selection.subscribed || self.ret.subscribed) {
            attributes = attributes.with(Attributes::SUBSCRIBED);
        }
        // RFC 3348 §3: told with each name, asked for or not.
        attributes.with(match listed.is_some_and(|l| l.children) {
            true => Attributes::HAS_CHILDREN,
            false => Attributes::HAS_NO_CHILDREN,
        })
    }
}

impl<S: Selected> Session<S> {
    pub(super) fn namespace(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        namespace(out);
        self.finish(true, "NAMESPACE", out)
    }

    /// Patterns behind a reference; what is no name matches nothing.
    fn patterns(&self, reference: &Mailbox<'_>, patterns: &[Str<'_>]) -> Vec<Pattern> {
        let wire = self.wire();
        let Some(reference) = decode(&reference.bytes(), wire) else { return Vec::new() };
        let decoded = patterns.iter().filter_map(|p| decode(&p.bytes(), wire));
        decoded.map(|p| Pattern::new(&reference, &p)).collect()
    }

    pub(super) fn list(&mut self, list: &List<'_>, out: &mut Vec<u8>) -> Option<Step> {
        // RFC 9051 §6.3.9: an empty pattern asks for the delimiter.
        if !list.extended && list.patterns[0].is_empty() {
            delimiter(out);
            return self.finish(true, "LIST", out);
        }
        let mut listing = Listing::new(false, self.patterns(&list.reference, &list.patterns));
        listing.extended = list.extended || self.is_rev2();
        listing.selection = list.selection;
        listing.ret = list.ret;
        if list.ret.status.is_some_and(|items| items.has(Items::HIGHESTMODSEQ)) {
            self.aware(out);
        }
        self.ask(Task::List(Box::new(listing)), Ask::List)
    }

    pub(super) fn lsub(&mut self, lsub: &Lsub<'_>, out: &mut Vec<u8>) -> Option<Step> {
        if lsub.pattern.is_empty() {
            out.extend_from_slice(b"* LSUB (\\Noselect) \"/\" \"\"\r\n");
            return self.finish(true, "LSUB", out);
        }
        let patterns = self.patterns(&lsub.reference, &[lsub.pattern]);
        self.ask(Task::List(Box::new(Listing::new(true, patterns))), Ask::List)
    }

    pub(super) fn list_answer(
        &mut self,
        mut listing: Box<Listing>,
        answer: Answer<'_, S>,
        out: &mut Vec<u8>,
    ) {
        match answer {
            Answer::Listed(Ok(mut names)) => {
                names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
                listing.names = names;
            }
            Answer::Listed(Err(refusal)) => {
                self.refused(refusal, false, out);
                return;
            }
            // It may have been deleted meanwhile: then nothing is said of it.
            Answer::Status(result) => {
                if let Some((_, weight)) = &mut listing.weighed {
                    *weight = Some(result.map_or(0, |(_, deleted)| deleted));
                }
            }
            _ => panic!("no answer to LIST"),
        }
        self.go_on(Task::List(listing));
    }

    pub(super) fn list_on(&mut self, mut listing: Box<Listing>, out: &mut Vec<u8>) -> Option<Step> {
        if !listing.writing {
            listing.writing = listing.find();
            return self.pause_unless(listing);
        }
        while let Some((name, below)) = listing.found.pop_first() {
            if out.len() >= self.options.replies_max {
                listing.found.insert(name, below);
                return self.pause(Task::List(listing));
            }
            let weighed = listing.weighed.take();
            let known = listing.known(&name);
            let status = known.and_then(|l| l.status);
            let weight = match (listing.ret.status, status) {
                (Some(items), Some(status)) => match weighed {
                    Some((of, weight)) if of == name => weight,
                    _ if items.has(Items::DELETED_STORAGE) && status.deleted > 0 => {
                        let ask = Ask::Status(name.clone(), true);
                        listing.weighed = Some((name.clone(), None));
                        listing.found.insert(name, below);
                        return self.ask(Task::List(listing), ask);
                    }
                    _ => Some(0),
                },
                _ => None,
            };
            self.put_name(&listing, &name, below, out);
            if let (Some(items), Some(status), Some(weight)) = (listing.ret.status, status, weight) {
                self.put_status(&name, items, &status, weight, out);
            }
        }
        self.finish(true, if listing.lsub { "LSUB" } else { "LIST" }, out)
    }

    fn pause_unless(&mut self, listing: Box<Listing>) -> Option<Step> {
        let all = listing.writing;
        self.go_on(Task::List(listing));
        (!all).then_some(Step::Yield)
    }

    fn put_name(&self, listing: &Listing, name: &str, below: bool, out: &mut Vec<u8>) {
        let known = listing.known(name);
        let name = encode(name, self.wire());
        let line = Line {
            attributes: listing.attributes(known),
            uses: if listing.lsub { uses(None) } else { uses(known.and_then(|l| l.special)) },
            name: &name,
            child_info: below && !listing.lsub,
            old_name: None,
        };
        put_list(out, listing.lsub, &line, self.wire());
    }

    /// MAILBOXID (RFC 8474 §4.1).
    pub(super) fn mailbox_id(&self, id: MailboxId) -> String {
        format!("F{:016x}-{:x}", self.owner.unwrap_or_default(), id.0)
    }

    fn put_status(&self, name: &str, items: Items, status: &Status, deleted: u64, out: &mut Vec<u8>) {
        let id = self.mailbox_id(status.mailbox);
        let counters = Counters {
            messages: status.messages,
            // RFC 9051 has none.
            recent: if self.is_rev2() { 0 } else { status.recent },
            uid_next: status.uidnext,
            uid_validity: status.uidvalidity,
            unseen: status.unseen,
            deleted: status.deleted,
            size: status.bytes,
            highest_mod_seq: status.highest_modseq,
            append_limit: self.options.append_limit,
            mailbox_id: id.as_bytes(),
            deleted_storage: deleted,
        };
        put_status(out, &encode(name, self.wire()), items, &counters, self.wire());
    }

    pub(super) fn status(&mut self, of: &StatusCommand<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let Some(name) = self.name(&of.mailbox) else {
            return self.no(Word::NonExistent, "There is no such mailbox", out);
        };
        if of.items.has(Items::HIGHESTMODSEQ) {
            self.aware(out);
        }
        let weigh = of.items.has(Items::DELETED_STORAGE);
        let task = Task::Status(StatusOf { name: name.clone(), items: of.items });
        self.ask(task, Ask::Status(name, weigh))
    }

    pub(super) fn status_answer(&mut self, of: StatusOf, answer: Answer<'_, S>, out: &mut Vec<u8>) {
        match answer {
            Answer::Status(Ok((status, deleted))) => {
                self.put_status(&of.name, of.items, &status, deleted, out);
                self.finish(true, "STATUS", out);
            }
            Answer::Status(Err(refusal)) => {
                // RFC 5530 §3: NONEXISTENT.
                let refusal = if refusal == Refusal::BadName { Refusal::NoMailbox } else { refusal };
                self.refused(refusal, false, out);
            }
            _ => panic!("no answer to STATUS"),
        }
    }
}

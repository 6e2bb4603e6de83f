//! From bytes to commands: what is at the front of the input, and who obeys it in which state.

use super::{Now, Session, State, Step};
use crate::imap::encode::status::{self, Code, Condition, Word, continuation};
use crate::imap::line::{Frame, Tag};
use crate::imap::parse::{self, Messages, Verb, session};
use crate::imap::set::Range;
use crate::imap::view::{self, Beyond, Numbers};
use crate::mailbox::api::Selected;
use crate::mailbox::types::{Message, UidSet};

/// Longest line that can end IDLE, in bytes with its line end.
const DONE_LINE: usize = 1000;

const NOT_NOW: &str = "This cannot be said in this state";

impl<S: Selected> Session<S> {
    /// At a command, or within an APPEND.
    pub(super) fn at_command(&mut self, now: Now, rest: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        if self.appending.is_none() {
            if self.shutting_down {
                return (0, Some(self.bye("The server is stopping", out)));
            }
            if self.burst >= self.options.burst || out.len() >= self.options.replies_max {
                return (0, Some(Step::Yield));
            }
        }
        match self.framer.next(rest) {
            Frame::More { used } => (used, Some(Step::NeedInput)),
            Frame::Passed { used } => (used, None),
            Frame::Continue => {
                continuation(out, b"OK");
                (0, None)
            }
            Frame::Command { text, used } => (used, self.command(now, &rest[..text], out)),
            Frame::Message { used } => (used, self.message(now, &rest[..used], out)),
            Frame::Body { used } => (used, self.content(now, &rest[..used])),
            Frame::After { text, used } => (used, self.behind_message(now, &rest[..text], used, rest, out)),
            Frame::Bad { used, tag, why } => (used, self.unreadable(now, tag, why, out)),
            Frame::Bye { why } => (0, Some(self.bye(why, out))),
        }
    }

    fn unreadable(&mut self, now: Now, tag: Tag, why: &str, out: &mut Vec<u8>) -> Option<Step> {
        self.since = now.mono;
        // Behind a message the tag is that of its APPEND.
        if self.appending.is_none() || tag.bytes() != b"*" {
            self.tag = tag;
        }
        self.refuse_text(why, out);
        if self.appending.is_some() { self.drop_append() } else { self.count_error(out) }
    }

    /// Writes BAD.
    pub(super) fn refuse_text(&mut self, why: &str, out: &mut Vec<u8>) {
        self.say(Condition::Bad, None, why, out);
    }

    /// BAD, and counts it.
    pub(super) fn bad(&mut self, why: &str, out: &mut Vec<u8>) -> Option<Step> {
        self.refuse_text(why, out);
        self.count_error(out)
    }

    pub(super) fn count_error(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        self.errors += 1;
        (self.errors >= self.options.errors_max).then(|| self.bye("Too many errors", out))
    }

    /// A command without messages behind it.
    fn command(&mut self, now: Now, text: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        self.since = now.mono;
        self.burst += 1;
        self.tag = Tag::of(text);
        if self.owner.is_none() {
            self.commands += 1;
            if self.commands > self.options.commands_before_login {
                return Some(self.bye("Too many commands without a login", out));
            }
        }
        match parse::parse(text) {
            Ok(command) => {
                self.tally.count(&command.verb);
                let step = self.obey(now, text, command.verb, out);
                if !matches!(step, Some(Step::Close)) {
                    self.errors = 0;
                }
                step
            }
            Err(bad) => {
                status::bad(out, self.tag.bytes(), bad);
                self.count_error(out)
            }
        }
    }

    /// Commands of every state, and those before the login.
    fn obey(&mut self, now: Now, text: &[u8], verb: Verb<'_>, out: &mut Vec<u8>) -> Option<Step> {
        match verb {
            Verb::Capability => self.capability(out),
            Verb::Noop if self.owner.is_none() => self.ok("NOOP", out),
            Verb::Logout => self.logout(out),
            Verb::Id(_) => self.id(out),
            Verb::StartTls => self.start_tls(out),
            Verb::Login(login) => self.log_in(&login, out),
            Verb::Authenticate(auth) => self.authenticate(&auth, out),
            _ if self.owner.is_none() => {
                self.say(Condition::Bad, None, "Log in first", out);
                self.count_error(out)
            }
            verb => self.obey_user(now, text, verb, out),
        }
    }

    /// Commands after the login.
    fn obey_user(&mut self, now: Now, text: &[u8], verb: Verb<'_>, out: &mut Vec<u8>) -> Option<Step> {
        match verb {
            Verb::Noop | Verb::Check => self.noop(out),
            Verb::Enable(enable) => self.enable(enable.known, out),
            Verb::Unauthenticate => self.unauthenticate(out),
            Verb::Compress => self.compress(out),
            Verb::Idle => self.idle(out),
            Verb::Namespace => self.namespace(out),
            Verb::Select(select) => self.select(&select, false, out),
            Verb::Examine(select) => self.select(&select, true, out),
            Verb::Create(create) => self.create(&create, out),
            Verb::Delete(mailbox) => self.delete(&mailbox, out),
            Verb::Rename { from, to } => self.rename(&from, &to, out),
            Verb::Subscribe(mailbox) => self.subscribe(&mailbox, true, out),
            Verb::Unsubscribe(mailbox) => self.subscribe(&mailbox, false, out),
            Verb::List(list) => self.list(&list, out),
            Verb::Lsub(lsub) => self.lsub(&lsub, out),
            Verb::Status(of) => self.status(&of, out),
            Verb::GetQuota(root) => self.get_quota(root, out),
            Verb::GetQuotaRoot(mailbox) => self.get_quota_root(&mailbox, out),
            Verb::SetQuota(_) => self.no(Word::NoPerm, "Quotas are set by the operator", out),
            _ if self.chosen.is_none() => self.bad("Select a mailbox first", out),
            verb => self.obey_selected(now, text, verb, out),
        }
    }

    /// Commands about the selected mailbox.
    fn obey_selected(&mut self, now: Now, text: &[u8], verb: Verb<'_>, out: &mut Vec<u8>) -> Option<Step> {
        match verb {
            Verb::Close => self.close(out),
            Verb::Unselect => self.unselect(out),
            Verb::Expunge(messages) => self.expunge(messages.as_ref(), out),
            Verb::Search(search) => self.search(now, search, out),
            Verb::Sort(sort) => self.sort(now, sort, out),
            Verb::Thread(thread) => self.thread(now, thread, out),
            Verb::Fetch(fetch) => self.fetch(text, fetch, out),
            Verb::Store(store) => self.store(&store, out),
            Verb::Copy(copy) => self.copy(&copy, false, out),
            Verb::Move(copy) => self.copy(&copy, true, out),
            // APPEND and REPLACE come with their messages; the others have been obeyed.
            _ => self.bad(NOT_NOW, out),
        }
    }

    /// The line that answers a challenge, or ends IDLE.
    pub(super) fn at_line(&mut self, now: Now, rest: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        let is_idle = matches!(self.state, State::Idle);
        if self.shutting_down {
            return (0, Some(self.bye("The server is stopping", out)));
        }
        let max = if is_idle { DONE_LINE } else { self.options.auth_line };
        match self.framer.plain(rest, max) {
            Frame::More { used } => (used, Some(if is_idle { Step::Idle } else { Step::NeedInput })),
            Frame::Command { text, used } => {
                self.since = now.mono;
                self.state = State::Command;
                let line = &rest[..text];
                let step = match is_idle {
                    true if session::is_done(line) => self.finish(true, "IDLE", out),
                    true => self.bad("IDLE ends with DONE", out),
                    false => self.auth_line(line, out),
                };
                (used, step)
            }
            Frame::Passed { used } => (used, None),
            Frame::Bad { used, why, .. } => {
                self.forget_login();
                (used, self.bad(why, out))
            }
            Frame::Bye { why } => (0, Some(self.bye(why, out))),
            other => panic!("{other:?} is no line"),
        }
    }

    /// OK, without news of the mailbox.
    #[allow(clippy::unnecessary_wraps)] // the form of all commands
    pub(super) fn ok(&mut self, what: &str, out: &mut Vec<u8>) -> Option<Step> {
        self.say(Condition::Ok, None, &format!("{what} completed"), out);
        None
    }

    /// NO with a code.
    #[allow(clippy::unnecessary_wraps)] // the form of all commands
    pub(super) fn no(&mut self, word: Word, text: &str, out: &mut Vec<u8>) -> Option<Step> {
        self.say(Condition::No, Some(Code::Word(word)), text, out);
        None
    }
}

/// A mailbox as sets of messages are resolved against it.
struct Seen<'a, S>(&'a S);

impl<S: Selected> Numbers for Seen<'_, S> {
    fn exists(&self) -> u32 {
        self.0.exists()
    }

    fn uid(&self, seq: u32) -> Option<u32> {
        self.0.message(seq).map(|m| m.uid)
    }

    fn seq_from(&self, uid: u32) -> u32 {
        self.0.seq_from(uid)
    }
}

impl<S: Selected> Session<S> {
    /// The messages of a command as ranges of message sequence numbers.
    pub(super) fn resolve(&self, messages: &Messages, uid: bool) -> Result<Vec<Range>, Beyond> {
        view::resolve(&Seen(self.mailbox()), messages, uid, &self.saved)
    }

    /// BAD: a message sequence number that does not exist (RFC 9051 §9 `seq-number`).
    pub(super) fn beyond(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        self.bad("There is no message with this number", out)
    }
}

/// UIDs of the messages with these numbers, at most `most` from number `next` on; and the number behind
/// the last of them, none if that was all. `wanted` says which.
pub(super) fn some_uids<S: Selected>(
    mailbox: &S,
    ranges: &[Range],
    next: u32,
    most: usize,
    wanted: impl Fn(&Message) -> bool,
) -> (UidSet, Option<u32>) {
    let mut uids = UidSet::default();
    let (mut count, mut batch) = (0, Vec::new());
    let after = ranges.partition_point(|r| r.last < next);
    for r in &ranges[after..] {
        let mut at = r.first.max(next);
        while at <= r.last {
            if count == most {
                return (uids, Some(at));
            }
            batch.clear();
            mailbox.window(at, (most - count).min((r.last - at) as usize + 1), &mut batch);
            if batch.is_empty() {
                break;
            }
            for m in batch.iter().filter(|m| wanted(m)) {
                uids.push(m.uid);
            }
            count += batch.len();
            at += batch.len() as u32;
        }
    }
    (uids, None)
}

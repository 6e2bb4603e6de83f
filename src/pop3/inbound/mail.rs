//! After the login: messages are listed, sent, marked; QUIT deletes those that are marked.

use super::maildrop::Maildrop;
use super::{Asking, Fetch, Question, Session, State, Step};
use crate::base::time::Mono;
use crate::pop3::body::Body;
use crate::pop3::command::Command;
use crate::pop3::reply::{END, Reply, put};
use crate::storage::ticket::Committed;

/// Longest UIDL in bytes (RFC 1939 §7).
const UIDL_MAX: usize = 70;

impl Session {
    /// The answer to [`Question::Maildrop`]: the maildrop is ours, these are the sizes of its
    /// messages, in order. Their numbers, from 1, are what the session calls them from now on.
    pub fn opened(&mut self, now: Mono, sizes: Vec<u64>, out: &mut Vec<u8>) {
        assert_eq!(self.asked().question, Question::Maildrop, "a maildrop nobody asked for");
        let maildrop = Maildrop::new(sizes);
        let (count, octets) = maildrop.left();
        put(out, format_args!("+OK {count} messages ({octets} octets)"));
        self.maildrop = Some(maildrop);
        self.errors = 0;
        self.since = now;
        self.state = State::Command;
    }

    /// A command of the transaction state.
    pub(super) fn mail(&mut self, command: Command<'_>, out: &mut Vec<u8>) -> Option<Step> {
        let last = self.options.last;
        let Some(maildrop) = &mut self.maildrop else {
            return self.error(Reply::WRONG_STATE, out);
        };
        let (count, octets) = maildrop.left();
        match command {
            Command::Noop => self.say(Reply::OK, out),
            Command::Stat => {
                put(out, format_args!("+OK {count} {octets}"));
                None
            }
            Command::List(None) => {
                put(out, format_args!("+OK {count} messages ({octets} octets)"));
                self.state = State::Listing { next: 1, uidl: false };
                None
            }
            Command::List(Some(number)) => match maildrop.size(number) {
                Some(size) => {
                    put(out, format_args!("+OK {number} {size}"));
                    None
                }
                None => self.error(Reply::NO_MESSAGE, out),
            },
            Command::Uidl(None) if maildrop.len() == 0 => {
                put(out, format_args!("+OK"));
                out.extend_from_slice(END);
                None
            }
            Command::Uidl(None) => self.ask_uidls(1),
            Command::Uidl(Some(number)) if maildrop.size(number).is_some() => {
                let question = Question::Uidls { first: number, count: 1 };
                self.state = State::Asking(Asking { question, single: true });
                Some(Step::Ask(question))
            }
            Command::Retr(number) => self.fetch(Fetch { number, lines: None }, out),
            Command::Top { number, lines } => self.fetch(Fetch { number, lines: Some(lines) }, out),
            Command::Dele(number) if maildrop.mark(number) => self.say(Reply::DELETED, out),
            Command::Rset => {
                maildrop.reset();
                self.say(Reply::OK, out)
            }
            Command::Last if last => {
                put(out, format_args!("+OK {}", maildrop.last));
                None
            }
            Command::Last => self.error(Reply::UNKNOWN_COMMAND, out),
            _ => self.error(Reply::NO_MESSAGE, out),
        }
    }

    /// QUIT: before the login it only ends (RFC 1939 §4), after it deletes first (§6).
    pub(super) fn quit(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        if self.deletions().next().is_some() {
            return self.ask(Question::Commit);
        }
        Some(self.close(Reply::BYE, out))
    }

    /// The answer to [`Question::Commit`]: they are gone, and that is on stable storage.
    pub fn deleted(&mut self, now: Mono, _proof: Committed, out: &mut Vec<u8>) {
        // Taking the proof by value is what makes an early positive reply impossible.
        assert_eq!(self.asked().question, Question::Commit, "deletions nobody asked for");
        self.since = now;
        self.end(Reply::BYE_DELETED, out);
    }

    /// Numbers of the messages that are to be deleted, ascending.
    pub fn deletions(&self) -> impl Iterator<Item = u32> + '_ {
        self.maildrop.iter().flat_map(Maildrop::marked)
    }

    fn ask_uidls(&mut self, first: u32) -> Option<Step> {
        let len = self.maildrop.as_ref().map_or(0, Maildrop::len);
        let count = self.options.uidls_at_once.max(1).min(len + 1 - first);
        self.ask(Question::Uidls { first, count })
    }

    /// The answer to [`Question::Uidls`]: one for each message that was asked about, in order, of 1 to 70
    /// printable characters.
    pub fn uidls<T: AsRef<[u8]>>(&mut self, now: Mono, uidls: &[T], out: &mut Vec<u8>) {
        let asking = self.asked();
        let Question::Uidls { first, count } = asking.question else {
            panic!("UIDLs nobody asked for");
        };
        assert_eq!(uidls.len(), count as usize, "one UIDL for each message");
        self.since = now;
        self.state = State::Command;
        let Some(maildrop) = &self.maildrop else { return };
        if asking.single {
            out.extend_from_slice(b"+OK ");
        } else if first == 1 {
            put(out, format_args!("+OK"));
        }
        for (number, uidl) in (first..).zip(uidls) {
            if maildrop.size(number).is_some() {
                put_uidl(out, number, uidl.as_ref());
            }
        }
        let next = first + count;
        if !asking.single {
            self.state = State::Listing { next, uidl: true };
        }
    }

    /// The next lines of a list, as many as there is room for.
    pub(super) fn list_on(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        let State::Listing { next, uidl } = self.state else { unreachable!("called in this state only") };
        let maildrop = self.maildrop.as_ref().expect("lists come after the login");
        let len = maildrop.len();
        if next <= len && uidl {
            if out.len() >= self.options.replies_max {
                return Some(Step::Yield);
            }
            return self.ask_uidls(next);
        }
        for number in next..=len {
            if out.len() >= self.options.replies_max {
                self.state = State::Listing { next: number, uidl };
                return Some(Step::Yield);
            }
            if let Some(size) = maildrop.size(number) {
                put(out, format_args!("{number} {size}"));
            }
        }
        out.extend_from_slice(END);
        self.state = State::Command;
        None
    }

    fn fetch(&mut self, fetch: Fetch, out: &mut Vec<u8>) -> Option<Step> {
        let maildrop = self.maildrop.as_ref().expect("messages come after the login");
        if maildrop.size(fetch.number).is_none() {
            return self.error(Reply::NO_MESSAGE, out);
        }
        self.ask(Question::Message(fetch))
    }

    /// The answer to [`Question::Message`]: it can be sent. `dot_lines`: some line of it may begin with a
    /// dot.
    pub fn found(&mut self, now: Mono, dot_lines: bool, out: &mut Vec<u8>) {
        let Question::Message(fetch) = self.asked().question else {
            panic!("a message nobody asked for");
        };
        let maildrop = self.maildrop.as_mut().expect("messages come after the login");
        self.since = now;
        let body = match fetch.lines {
            Some(lines) => {
                put(out, format_args!("+OK Top of message follows"));
                Body::top(dot_lines, lines)
            }
            None => {
                let size = maildrop.size(fetch.number).unwrap_or(0);
                put(out, format_args!("+OK {size} octets"));
                maildrop.last = maildrop.last.max(fetch.number);
                Body::whole(dot_lines)
            }
        };
        self.state = State::Sending(fetch, body);
    }

    /// The message of [`Step::Send`] on its way.
    pub fn body(&mut self) -> &mut Body {
        let State::Sending(_, body) = &mut self.state else { panic!("no message is sent") };
        body
    }

    /// Some of the message has been sent: its deadline moves.
    pub fn progress(&mut self, now: Mono) {
        self.since = now;
    }

    /// All of the message has been sent, or all that is wanted: ends it.
    pub fn sent(&mut self, now: Mono, out: &mut Vec<u8>) {
        out.extend_from_slice(self.body().end());
        self.errors = 0;
        self.since = now;
        self.state = State::Command;
    }
}

/// A line of UIDL (RFC 1939 §7). What no UIDL may have becomes `?`, so that it cannot be two lines.
fn put_uidl(out: &mut Vec<u8>, number: u32, uidl: &[u8]) {
    out.extend_from_slice(number.to_string().as_bytes());
    out.push(b' ');
    out.extend(uidl.iter().take(UIDL_MAX).map(|&b| if matches!(b, 0x21..=0x7e) { b } else { b'?' }));
    out.extend_from_slice(b"\r\n");
}

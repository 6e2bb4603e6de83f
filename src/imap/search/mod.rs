//! SEARCH: which messages match (RFC 9051 §6.4.4).
//!
//! [`Program`] is made of the keys of a command once and outlives it. A [`Run`] judges one message after
//! the other in up to four steps, each only if the one before has not decided: what is known without
//! reading it ([`Run::begin`]), its summary ([`Run::summary`]), its header ([`Run::header`]), its body in
//! pieces ([`Run::part`], [`Run::body`], [`Run::end`]). Between any two calls the caller may let others
//! run: the work of a call is proportional to what it is given and to the number of keys. Text is compared
//! by i;unicode-casemap after charset and encoded words are taken away. Knows no store; nothing fails but
//! making a program.

mod needle;
pub mod sent;

pub use needle::{Needle, Scan};

use crate::imap::charset;
use crate::imap::parse::date::Day;
use crate::imap::parse::flags::System;
use crate::imap::parse::search::{Clock, Key, When};
use crate::imap::set::SeqSet;
use crate::imap::{parameter, words};
use crate::message::headers;
use crate::message::mime::{self, Summary, Written};
use encoding_rs::Encoding;
use std::rc::Rc;

/// What is known of a message without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Known<'a> {
    /// Message sequence number.
    pub seq: u32,
    /// UID.
    pub uid: u32,
    /// System flags.
    pub system: System,
    /// Keywords: bits as [`Context::keyword`] names them.
    pub keywords: u64,
    /// INTERNALDATE, seconds since 1970, UTC.
    pub internal: i64,
    /// SAVEDATE, if it is kept.
    pub saved: Option<i64>,
    /// Octets.
    pub size: u64,
    /// Mod-sequence.
    pub mod_seq: u64,
    /// Object id of the content.
    pub email_id: &'a [u8],
    /// Object id of the thread; empty if it is not kept.
    pub thread_id: &'a [u8],
}

/// What the keys of a command refer to.
pub struct Context<'a> {
    /// Messages in the view: the largest message sequence number.
    pub exists: u32,
    /// The largest UID in the view; 0 if it is empty.
    pub uid_max: u32,
    /// The saved result (`$`), as UIDs.
    pub saved: &'a SeqSet,
    /// Now, seconds since 1970, UTC.
    pub now: i64,
    /// The bit of a keyword (given as it was written), if the mailbox has it.
    pub keyword: &'a dyn Fn(&[u8]) -> Option<u32>,
}

/// Why a SEARCH cannot be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// NO \[BADCHARSET\] with [`charset::NAMES`].
    Charset,
    /// BAD: a message sequence number that does not exist (RFC 9051 §9 `seq-number`).
    Beyond,
}

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It matches, or not.
    Known(bool),
    /// Its header decides or comes before its body: [`Run::header`].
    Header,
    /// Its body decides: [`Run::part`] and [`Run::body`] for each part, then [`Run::end`].
    Body,
}

#[derive(Debug)]
enum Node {
    /// How many trees.
    And(u32),
    Or,
    Not,
    /// Index of the leaf.
    Leaf(u32),
}

#[derive(Debug)]
enum Leaf {
    Constant(bool),
    Flag(System, bool),
    New,
    Keyword(u64, bool),
    Date(Clock, When, Day),
    SaveDateSupported,
    Larger(u64),
    Smaller(u64),
    /// INTERNALDATE at or before that.
    Older(i64),
    Younger(i64),
    Numbers(SeqSet, u32),
    Uids(SeqSet, u32),
    ModSeq(u64),
    EmailId(Box<[u8]>),
    ThreadId(Box<[u8]>),
    Field(Box<[u8]>, Needle),
    Text(Needle),
    Body(Needle),
}

/// The keys of a command, ready to judge messages.
#[derive(Debug)]
pub struct Program {
    nodes: Vec<Node>,
    leaves: Vec<Leaf>,
    /// MODSEQ is a key: the answer says the highest one (RFC 7162 §3.1.5).
    mod_seq: bool,
}

impl Program {
    /// Makes the program of `keys` (in prefix order) whose texts are in `charset`.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn new(keys: &[Key<'_>], charset: Option<&[u8]>, context: &Context<'_>) -> Result<Self, Refused> {
        let charset = match charset {
            Some(name) => charset::named(name).ok_or(Refused::Charset)?,
            // RFC 9051 §6.4.4: UTF-8, of which US-ASCII is a part.
            None => encoding_rs::UTF_8,
        };
        let (mut nodes, mut leaves) = (Vec::with_capacity(keys.len()), Vec::new());
        for key in keys {
            nodes.push(match key {
                Key::And(n) => Node::And(*n),
                Key::Or => Node::Or,
                Key::Not => Node::Not,
                key => {
                    leaves.push(leaf(key, charset, context)?);
                    Node::Leaf(leaves.len() as u32 - 1)
                }
            });
        }
        let mod_seq = keys.iter().any(|k| matches!(k, Key::ModSeq(_)));
        Ok(Program { nodes, leaves, mod_seq })
    }

    /// The answer says the highest mod-sequence of what was found.
    #[must_use]
    pub fn has_mod_seq(&self) -> bool {
        self.mod_seq
    }

    /// Whether the summary of a message may decide, or says what must be read.
    #[must_use]
    pub fn uses_summary(&self) -> bool {
        self.leaves.iter().any(|leaf| match leaf {
            Leaf::Date(Clock::Sent, ..) | Leaf::Text(_) | Leaf::Body(_) => true,
            Leaf::Field(name, _) => mime::may_be_known(name),
            _ => false,
        })
    }

    /// Judges messages.
    #[must_use]
    pub fn run(self: &Rc<Self>) -> Run {
        Run { program: self.clone(), values: Vec::new(), stack: Vec::new(), scan: Scan::default() }
    }

    /// The value of the tree, if the leaves that are known decide it.
    fn value(&self, values: &[Option<bool>], stack: &mut Vec<Option<bool>>) -> Option<bool> {
        stack.clear();
        // In prefix order every operand is on the stack before its operator, read from the end.
        for node in self.nodes.iter().rev() {
            let value = match node {
                Node::Leaf(leaf) => values[*leaf as usize],
                Node::Not => stack.pop().flatten().map(|v| !v),
                Node::Or => any(stack, 2, true),
                Node::And(n) => any(stack, *n as usize, false),
            };
            stack.push(value);
        }
        stack.last().copied().flatten()
    }
}

/// Of the top `n` values: `decisive` if one is that, the opposite if all are, else unknown.
fn any(stack: &mut Vec<Option<bool>>, n: usize, decisive: bool) -> Option<bool> {
    let from = stack.len().saturating_sub(n);
    let operands = &stack[from..];
    let value = if operands.contains(&Some(decisive)) {
        Some(decisive)
    } else {
        operands.iter().all(Option::is_some).then_some(!decisive)
    };
    stack.truncate(from);
    value
}

fn leaf(key: &Key<'_>, charset: &'static Encoding, context: &Context<'_>) -> Result<Leaf, Refused> {
    let needle = |text: &crate::imap::parse::Str<'_>| Needle::new(&text.bytes(), charset);
    Ok(match key {
        Key::Flag(flag, set) => Leaf::Flag(*flag, *set),
        Key::New => Leaf::New,
        Key::Keyword(name, set) => match (context.keyword)(name) {
            Some(bit) => Leaf::Keyword(1 << bit, *set),
            None => Leaf::Constant(!set),
        },
        Key::Date(clock, when, day) => Leaf::Date(*clock, *when, *day),
        Key::SaveDateSupported => Leaf::SaveDateSupported,
        Key::Larger(n) => Leaf::Larger(*n),
        Key::Smaller(n) => Leaf::Smaller(*n),
        Key::Older(seconds) => Leaf::Older(context.now - i64::from(*seconds)),
        Key::Younger(seconds) => Leaf::Younger(context.now - i64::from(*seconds)),
        Key::Numbers(set) if set.is_beyond(context.exists) => return Err(Refused::Beyond),
        Key::Numbers(set) => Leaf::Numbers(set.clone(), context.exists),
        Key::Uids(set) => Leaf::Uids(set.clone(), context.uid_max),
        Key::Saved => Leaf::Uids(context.saved.clone(), context.uid_max),
        Key::ModSeq(n) => Leaf::ModSeq(*n),
        Key::EmailId(id) => Leaf::EmailId((*id).into()),
        Key::ThreadId(id) => Leaf::ThreadId((*id).into()),
        Key::Header(name, text) => Leaf::Field(name.bytes().into(), needle(text)),
        Key::Field(name, text) => Leaf::Field(name.as_bytes().into(), needle(text)),
        // The empty text is in every message, whatever parts it has.
        Key::Text(text) | Key::Body(text) if text.is_empty() => Leaf::Constant(true),
        Key::Text(text) => Leaf::Text(needle(text)),
        Key::Body(text) => Leaf::Body(needle(text)),
        // The operators have been dealt with.
        Key::All | Key::And(_) | Key::Or | Key::Not => Leaf::Constant(true),
    })
}

fn on(day: Day, when: When, key: Day) -> bool {
    match when {
        When::Before => day < key,
        When::On => day == key,
        When::Since => day >= key,
    }
}

/// The day of a time, in UTC.
#[must_use]
pub fn day(seconds: i64) -> Day {
    Day(i32::try_from(seconds.div_euclid(86_400)).unwrap_or(i32::MAX))
}

impl Leaf {
    /// Its value, as far as it is known without reading the message.
    fn known(&self, m: &Known<'_>) -> Option<bool> {
        Some(match self {
            Leaf::Constant(value) => *value,
            Leaf::Flag(flag, set) => m.system.has(*flag) == *set,
            Leaf::New => m.system.has(System::RECENT) && !m.system.has(System::SEEN),
            Leaf::Keyword(bit, set) => (m.keywords & bit != 0) == *set,
            Leaf::Date(Clock::Internal, when, key) => on(day(m.internal), *when, *key),
            // RFC 8514 §4.3: without a save date, INTERNALDATE stands for it.
            Leaf::Date(Clock::Saved, when, key) => on(day(m.saved.unwrap_or(m.internal)), *when, *key),
            Leaf::SaveDateSupported => m.saved.is_some(),
            Leaf::Larger(n) => m.size > *n,
            Leaf::Smaller(n) => m.size < *n,
            // RFC 5032 §3: both take the second in which it is exactly so old.
            Leaf::Older(at) => m.internal <= *at,
            Leaf::Younger(at) => m.internal >= *at,
            Leaf::Numbers(set, max) => set.contains(m.seq, *max),
            Leaf::Uids(set, max) => set.contains(m.uid, *max),
            Leaf::ModSeq(n) => m.mod_seq >= *n,
            Leaf::EmailId(id) => **id == *m.email_id,
            Leaf::ThreadId(id) => **id == *m.thread_id,
            Leaf::Date(Clock::Sent, ..) | Leaf::Field(..) | Leaf::Text(_) | Leaf::Body(_) => return None,
        })
    }

    fn wants_header(&self) -> bool {
        matches!(self, Leaf::Date(Clock::Sent, ..) | Leaf::Field(..) | Leaf::Text(_))
    }
}

/// Judges one message after the other; see the module.
#[derive(Debug)]
pub struct Run {
    program: Rc<Program>,
    /// Of each leaf, for the current message.
    values: Vec<Option<bool>>,
    stack: Vec<Option<bool>>,
    scan: Scan,
}

impl Run {
    /// Begins with a message.
    pub fn begin(&mut self, message: &Known<'_>) -> Verdict {
        self.values.clear();
        self.values.extend(self.program.leaves.iter().map(|leaf| leaf.known(message)));
        self.verdict()
    }

    fn verdict(&mut self) -> Verdict {
        if let Some(value) = self.program.value(&self.values, &mut self.stack) {
            return Verdict::Known(value);
        }
        let open = |(leaf, value): (&Leaf, &Option<bool>)| value.is_none() && leaf.wants_header();
        if self.program.leaves.iter().zip(&self.values).any(open) { Verdict::Header } else { Verdict::Body }
    }

    /// What the message's summary says of it.
    pub fn summary(&mut self, summary: &Summary<'_>) -> Verdict {
        let program = self.program.clone();
        let (mut text, mut folded) = (String::new(), Vec::new());
        for (leaf, value) in program.leaves.iter().zip(&mut self.values).filter(|(_, v)| v.is_none()) {
            let name: &[u8] = match leaf {
                Leaf::Date(Clock::Sent, ..) => b"Date",
                Leaf::Field(name, _) => name,
                _ => continue,
            };
            let written = match summary.field(name) {
                Written::Unknown => continue,
                Written::Absent => None,
                Written::Text(written) => Some(written),
            };
            *value = Some(match leaf {
                Leaf::Date(_, when, key) => {
                    let sent = written.and_then(|date| sent::parse(&date));
                    sent.is_some_and(|sent| on(sent.day, *when, *key))
                }
                Leaf::Field(_, needle) => written.is_some_and(|value| {
                    text.clear();
                    folded.clear();
                    words::decode(&value, &mut text);
                    parameter::append(name, &value, &mut text);
                    crate::imap::casemap::fold(&text, &mut folded);
                    needle.is_in(&folded)
                }),
                _ => continue,
            });
        }
        self.verdict()
    }

    /// The header of the message, as it is stored; `message` may go on behind it.
    pub fn header(&mut self, message: &[u8]) -> Verdict {
        let program = self.program.clone();
        let (mut text, mut folded) = (String::new(), Vec::new());
        let mut sent = None;
        for field in headers::fields_and_mbox(message) {
            if sent.is_none() && field.is("Date") {
                sent = sent::parse(field.value).map(|s| s.day);
            }
            text.clear();
            for (leaf, value) in program.leaves.iter().zip(&mut self.values).filter(|(_, v)| v.is_none()) {
                let found = match leaf {
                    Leaf::Field(name, needle) if field.name.eq_ignore_ascii_case(name) => {
                        fold_field(&field, &mut text, &mut folded);
                        needle.is_in(&folded[field.name.len() + 2..])
                    }
                    Leaf::Text(needle) => {
                        fold_field(&field, &mut text, &mut folded);
                        needle.is_in(&folded)
                    }
                    _ => false,
                };
                if found {
                    *value = Some(true);
                }
            }
        }
        for (leaf, value) in program.leaves.iter().zip(&mut self.values).filter(|(_, v)| v.is_none()) {
            match leaf {
                Leaf::Field(..) => *value = Some(false),
                // Without a date it was sent on no day.
                Leaf::Date(_, when, key) => *value = Some(sent.is_some_and(|day| on(day, *when, *key))),
                _ => {}
            }
        }
        self.after_header()
    }

    /// As [`Self::verdict`], once the header has been seen: TEXT waits for the body now.
    fn after_header(&mut self) -> Verdict {
        match self.program.value(&self.values, &mut self.stack) {
            Some(value) => Verdict::Known(value),
            None => Verdict::Body,
        }
    }

    /// A TEXT is not decided yet: headers of parts matter.
    #[must_use]
    pub fn wants_part_headers(&self) -> bool {
        let open = |(leaf, value): (&Leaf, &Option<bool>)| value.is_none() && matches!(leaf, Leaf::Text(_));
        self.program.leaves.iter().zip(&self.values).any(open)
    }

    /// The header of a part, as it is stored: TEXT looks at it, and BODY too if it is that of a message
    /// within (`of_message`).
    pub fn fields(&mut self, header: &[u8], of_message: bool) -> Verdict {
        let program = self.program.clone();
        let (mut text, mut folded) = (String::new(), Vec::new());
        let mut any = false;
        for field in headers::fields_and_mbox(header) {
            text.clear();
            for (leaf, value) in program.leaves.iter().zip(&mut self.values).filter(|(_, v)| v.is_none()) {
                let needle = match leaf {
                    Leaf::Text(needle) => needle,
                    Leaf::Body(needle) if of_message => needle,
                    _ => continue,
                };
                fold_field(&field, &mut text, &mut folded);
                if needle.is_in(&folded) {
                    *value = Some(true);
                    any = true;
                }
            }
        }
        if any { self.after_header() } else { Verdict::Body }
    }

    /// A part with text begins; `charset` as the part names it.
    pub fn part(&mut self, charset: Option<&[u8]>) {
        self.scan.begin(charset.and_then(charset::named));
    }

    /// The next bytes of the part, without transfer encoding; `last`: it ends with them. The verdict is
    /// final as soon as it is known: the rest of the body need not be read.
    pub fn body(&mut self, bytes: &[u8], last: bool) -> Verdict {
        let text = self.scan.feed(bytes, last);
        let mut longest = 1;
        let mut found = false;
        for (leaf, value) in self.program.leaves.iter().zip(&mut self.values).filter(|(_, v)| v.is_none()) {
            let (Leaf::Text(needle) | Leaf::Body(needle)) = leaf else { continue };
            longest = longest.max(needle.len());
            if needle.is_in(text) {
                *value = Some(true);
                found = true;
            }
        }
        self.scan.keep(longest - 1);
        if found { self.after_header() } else { Verdict::Body }
    }

    /// The body has ended: whether the message matches.
    pub fn end(&mut self) -> bool {
        for value in self.values.iter_mut().filter(|v| v.is_none()) {
            *value = Some(false);
        }
        self.program.value(&self.values, &mut self.stack).unwrap_or(false)
    }
}

/// `Name: value`, decoded and mapped, into `folded`; does nothing if `text` shows that it has been done.
fn fold_field(field: &headers::Field<'_>, text: &mut String, folded: &mut Vec<u8>) {
    if text.is_empty() {
        // The name is ASCII, so its length stays.
        text.push_str(&String::from_utf8_lossy(field.name));
        text.push_str(": ");
        words::decode(field.value.trim_ascii_start(), text);
        parameter::append(field.name, field.value, text);
        folded.clear();
        crate::imap::casemap::fold(text, folded);
    }
}

#[cfg(test)]
mod tests;

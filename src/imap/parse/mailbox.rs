//! Names of mailboxes, and the commands that take little else: CREATE (with RFC 6154 §3 USE), DELETE,
//! RENAME, SUBSCRIBE, UNSUBSCRIBE (RFC 9051 §6.3).
//!
//! A name is left in the encoding in which it came (modified UTF-7 or UTF-8): the session knows which.

use super::Parsed;
use super::input::{Input, Str, capitals};
use std::borrow::Cow;

const NAME: &str = "a mailbox name";

/// The longest name in bytes, as it is written on the wire without quotes.
pub const NAME_MAX: usize = 1000;

/// The name of a mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mailbox<'a>(Str<'a>);

impl<'a> Mailbox<'a> {
    /// The name as it came, without quotes.
    #[must_use]
    pub fn bytes(&self) -> Cow<'a, [u8]> {
        self.0.bytes()
    }

    /// RFC 9051 §5.1: INBOX in any case.
    #[must_use]
    pub fn is_inbox(&self) -> bool {
        self.0.is("INBOX")
    }

    /// The name as a string.
    #[must_use]
    pub fn text(&self) -> Str<'a> {
        self.0
    }
}

/// A name at the cursor.
pub(super) fn name<'a>(input: &mut Input<'a>) -> Parsed<Mailbox<'a>> {
    let from = input.at();
    let name = input.astring(NAME)?;
    // Twice the length: each byte may be escaped.
    if name.len_max() > NAME_MAX && name.bytes().len() > NAME_MAX {
        return input.bad_at(from, "a mailbox name of at most 1000 bytes");
    }
    Ok(Mailbox(name))
}

/// A name after its space.
pub(super) fn spaced<'a>(input: &mut Input<'a>) -> Parsed<Mailbox<'a>> {
    input.space(NAME)?;
    name(input)
}

/// The only argument.
pub(super) fn one<'a>(input: &mut Input<'a>) -> Parsed<Mailbox<'a>> {
    let mailbox = spaced(input)?;
    input.end()?;
    Ok(mailbox)
}

/// The two arguments.
pub(super) fn two<'a>(input: &mut Input<'a>) -> Parsed<(Mailbox<'a>, Mailbox<'a>)> {
    let from = spaced(input)?;
    let to = spaced(input)?;
    input.end()?;
    Ok((from, to))
}

/// Special uses (RFC 6154 §2; `\Important` RFC 8457). A set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Uses(pub u8);

impl Uses {
    /// Their names, each with its bit.
    pub const NAMES: [(Uses, &'static str); 8] = [
        (Uses(1), "\\All"),
        (Uses(2), "\\Archive"),
        (Uses(4), "\\Drafts"),
        (Uses(8), "\\Flagged"),
        (Uses(16), "\\Junk"),
        (Uses(32), "\\Sent"),
        (Uses(64), "\\Trash"),
        (Uses(128), "\\Important"),
    ];

    /// All of `other` are in it.
    #[must_use]
    pub fn has(self, other: Uses) -> bool {
        self.0 & other.0 == other.0
    }
}

/// CREATE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Create<'a> {
    /// The name; a hierarchy delimiter at its end says that there will be names below it.
    pub mailbox: Mailbox<'a>,
    /// What it is for.
    pub uses: Uses,
    /// A special use was asked for that is not known: `NO [USEATTR]` (RFC 6154 §3).
    pub unknown_use: bool,
}

pub(super) fn create<'a>(input: &mut Input<'a>) -> Parsed<Create<'a>> {
    let mut create = Create { mailbox: spaced(input)?, uses: Uses::default(), unknown_use: false };
    if !input.is_at_end() {
        input.space("a list of parameters")?;
        input.need(b'(', "a list of parameters")?;
        let from = input.at();
        let mut space = [0; 24];
        if capitals(input.word(), &mut space) != b"USE" {
            return input.bad_at(from, "USE, the only parameter of CREATE");
        }
        input.space("a list of special uses")?;
        uses(input, &mut create)?;
        input.need(b')', ") at the end of the parameters")?;
    }
    input.end()?;
    Ok(create)
}

fn uses(input: &mut Input<'_>, create: &mut Create<'_>) -> Parsed<()> {
    const USE: &str = "a special use, such as \\Sent";
    input.need(b'(', "a list of special uses")?;
    let mut first = true;
    while !input.eat(b')') {
        if !std::mem::take(&mut first) {
            input.space(USE)?;
        }
        let from = input.at();
        input.need(b'\\', USE)?;
        input.atom(USE)?;
        let name = input.since(from);
        match Uses::NAMES.iter().find(|(_, n)| name.eq_ignore_ascii_case(n.as_bytes())) {
            Some((bit, _)) => create.uses.0 |= bit.0,
            None => create.unknown_use = true,
        }
    }
    Ok(())
}

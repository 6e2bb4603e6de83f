//! ENABLE (RFC 5161), ID (RFC 2971), COMPRESS (RFC 4978), and the line that ends IDLE (RFC 2177).

use super::Parsed;
use super::input::{Input, Str, capitals};

/// What a client can enable. What is not known is no error (RFC 5161 §3.1) and not in the set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extensions(pub u8);

impl Extensions {
    /// CONDSTORE (RFC 7162).
    pub const CONDSTORE: Extensions = Extensions(1);
    /// QRESYNC (RFC 7162).
    pub const QRESYNC: Extensions = Extensions(2);
    /// IMAP4rev2 (RFC 9051 §6.3.1).
    pub const IMAP4REV2: Extensions = Extensions(4);
    /// UTF8=ACCEPT (RFC 6855).
    pub const UTF8_ACCEPT: Extensions = Extensions(8);

    /// Their names, in the order in which they are answered.
    pub const NAMES: [(Extensions, &'static str); 4] = [
        (Extensions::CONDSTORE, "CONDSTORE"),
        (Extensions::QRESYNC, "QRESYNC"),
        (Extensions::IMAP4REV2, "IMAP4rev2"),
        (Extensions::UTF8_ACCEPT, "UTF8=ACCEPT"),
    ];

    /// All of `other` are in it.
    #[must_use]
    pub fn has(self, other: Extensions) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    #[must_use]
    pub fn with(self, other: Extensions) -> Extensions {
        Extensions(self.0 | other.0)
    }

    /// Nothing is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// ENABLE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Enable<'a> {
    /// Those that are known.
    pub known: Extensions,
    /// All names as given, checked: atoms with one space between them.
    pub names: &'a [u8],
}

pub(super) fn enable<'a>(input: &mut Input<'a>) -> Parsed<Enable<'a>> {
    const NAME: &str = "the name of an extension";
    input.space(NAME)?;
    let from = input.at();
    let mut known = Extensions::default();
    loop {
        let name = input.atom(NAME)?;
        let found = Extensions::NAMES.iter().find(|(_, n)| name.eq_ignore_ascii_case(n.as_bytes()));
        known = found.map_or(known, |(e, _)| known.with(*e));
        if input.is_at_end() {
            break;
        }
        input.space(NAME)?;
    }
    let names = input.since(from);
    input.end()?;
    Ok(Enable { known, names })
}

/// ID: fields and their values (RFC 2971 §3.3), at most 30 pairs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Id<'a> {
    /// What is between the parentheses, checked; empty for NIL.
    list: &'a [u8],
}

impl<'a> Id<'a> {
    /// The pairs; NIL as a value is `None`.
    pub fn pairs(&self) -> impl Iterator<Item = (Str<'a>, Option<Str<'a>>)> + use<'a> {
        let mut input = Input::new(self.list);
        std::iter::from_fn(move || {
            input.eat(b' ');
            let field = input.string("").ok()?;
            input.eat(b' ');
            Some((field, input.nstring("").ok()?))
        })
    }
}

pub(super) fn id<'a>(input: &mut Input<'a>) -> Parsed<Id<'a>> {
    const PAIRS_MAX: usize = 30; // RFC 2971 §3.3
    input.space("NIL or a list of fields and values")?;
    if input.keyword("NIL") {
        input.end()?;
        return Ok(Id { list: b"" });
    }
    input.need(b'(', "NIL or a list of fields and values")?;
    let from = input.at();
    let mut pairs = 0;
    let mut end = from;
    while !input.eat(b')') {
        if pairs > 0 {
            input.space("a space between values, or )")?;
        }
        if pairs == PAIRS_MAX {
            return Err(input.bad("at most 30 fields"));
        }
        input.string("a field name in quotes")?;
        input.space("a value in quotes, or NIL")?;
        input.nstring("a value in quotes, or NIL")?;
        end = input.at();
        pairs += 1;
    }
    let after = input.at();
    input.seek(end);
    let list = input.since(from);
    input.seek(after);
    input.end()?;
    Ok(Id { list })
}

pub(super) fn compress(input: &mut Input<'_>) -> Parsed<()> {
    input.space("a compression algorithm")?;
    let from = input.at();
    let mut space = [0; 24];
    if capitals(input.word(), &mut space) != b"DEFLATE" {
        return input.bad_at(from, "DEFLATE, the only compression algorithm");
    }
    input.end()
}

/// True if `line` (without CRLF) ends IDLE.
#[must_use]
pub fn is_done(line: &[u8]) -> bool {
    line.trim_ascii_end().eq_ignore_ascii_case(b"DONE")
}

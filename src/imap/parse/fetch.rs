//! FETCH (RFC 9051 §6.4.5; RFC 3501 RFC822 items; BINARY RFC 3516; CHANGEDSINCE and VANISHED RFC 7162;
//! EMAILID, THREADID RFC 8474; SAVEDATE RFC 8514; PREVIEW RFC 8970).
//!
//! Items without arguments are bits, since the order of the answer is free; sections are a short
//! list. Names of header fields stay where they are and are read again when they are needed.

use super::input::{Input, Str, capitals};
use super::{Messages, Parsed, messages};
use smallvec::SmallVec;

/// Most sections in one FETCH.
pub const SECTIONS_MAX: usize = 500;
/// Most header fields in one section.
pub const FIELDS_MAX: usize = 1000;
/// Deepest part number.
pub const PARTS_MAX: usize = 128;

/// Items without arguments. A set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Items(pub u16);

impl Items {
    /// FLAGS.
    pub const FLAGS: Items = Items(1);
    /// UID.
    pub const UID: Items = Items(2);
    /// INTERNALDATE.
    pub const INTERNALDATE: Items = Items(4);
    /// RFC822.SIZE.
    pub const SIZE: Items = Items(8);
    /// ENVELOPE.
    pub const ENVELOPE: Items = Items(16);
    /// BODYSTRUCTURE.
    pub const BODYSTRUCTURE: Items = Items(32);
    /// BODY: the structure without extensions.
    pub const BODY: Items = Items(64);
    /// MODSEQ.
    pub const MODSEQ: Items = Items(128);
    /// EMAILID.
    pub const EMAILID: Items = Items(256);
    /// THREADID.
    pub const THREADID: Items = Items(512);
    /// SAVEDATE.
    pub const SAVEDATE: Items = Items(1024);
    /// PREVIEW.
    pub const PREVIEW: Items = Items(2048);
    /// PREVIEW (LAZY): NIL if it would take long. Set beside PREVIEW.
    pub const LAZY: Items = Items(4096);

    /// ALL (RFC 9051 §6.4.5).
    pub const ALL: Items = Items(1 | 4 | 8 | 16);
    /// FAST.
    pub const FAST: Items = Items(1 | 4 | 8);
    /// FULL.
    pub const FULL: Items = Items(1 | 4 | 8 | 16 | 64);

    /// All of `other` are in it.
    #[must_use]
    pub fn has(self, other: Items) -> bool {
        self.0 & other.0 == other.0
    }

    fn add(&mut self, other: Items) {
        self.0 |= other.0;
    }
}

/// What is asked of a section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// BODY[...].
    Body,
    /// BINARY[...]: decoded.
    Binary,
    /// BINARY.SIZE[...]: how long that is.
    BinarySize,
    /// RFC822: as BODY[], under its own name (RFC 3501 §6.4.5).
    Rfc822,
    /// RFC822.HEADER: as BODY.PEEK\[HEADER\].
    Rfc822Header,
    /// RFC822.TEXT: as BODY\[TEXT\].
    Rfc822Text,
}

/// Which text of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Text<'a> {
    /// All of it.
    Whole,
    /// HEADER: that of a message.
    Header,
    /// HEADER.FIELDS.
    Fields(Fields<'a>),
    /// HEADER.FIELDS.NOT.
    FieldsNot(Fields<'a>),
    /// TEXT: all behind the header of a message.
    Text,
    /// MIME: the header of a part.
    Mime,
}

/// Names of header fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fields<'a> {
    /// Between the parentheses, checked.
    raw: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The names, at least one.
    pub fn names(&self) -> impl Iterator<Item = Str<'a>> + use<'a> {
        let mut input = Input::new(self.raw);
        std::iter::from_fn(move || {
            input.eat(b' ');
            input.astring("").ok()
        })
    }
}

/// A part number such as `1.2.3`; empty for the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Part<'a>(&'a [u8]);

impl<'a> Part<'a> {
    /// Its numbers, from 1.
    pub fn numbers(&self) -> impl Iterator<Item = u32> + use<'a> {
        let text = if self.0.is_empty() { None } else { Some(self.0) };
        let digit = |n: u32, b: &u8| n.saturating_mul(10).saturating_add(u32::from(b - b'0'));
        text.into_iter().flat_map(|t| t.split(|b| *b == b'.')).map(move |n| n.iter().fold(0, digit))
    }

    /// As it was written.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }
}

/// A section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Section<'a> {
    /// What of it.
    pub kind: Kind,
    /// Without setting `\Seen`.
    pub peek: bool,
    /// Which part.
    pub part: Part<'a>,
    /// Which text of the part.
    pub text: Text<'a>,
    /// Only these octets: the first, from 0, and how many, at least 1.
    pub partial: Option<(u64, u64)>,
}

/// FETCH.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetch<'a> {
    /// The numbers are UIDs, and the answers have them.
    pub uid: bool,
    /// Which messages.
    pub messages: Messages,
    /// Items without arguments; UID and MODSEQ only if named.
    pub items: Items,
    /// Sections, in the order in which they are asked for.
    pub sections: SmallVec<[Section<'a>; 2]>,
    /// Only messages with a mod-sequence above this.
    pub changed_since: Option<u64>,
    /// Also say which UIDs have vanished since then. Only with UIDs and `changed_since`.
    pub vanished: bool,
}

const ITEM: &str = "an item of FETCH, such as FLAGS or BODY[]";

pub(super) fn fetch<'a>(input: &mut Input<'a>, uid: bool) -> Parsed<Fetch<'a>> {
    let messages = messages(input)?;
    input.space(ITEM)?;
    let mut fetch = Fetch {
        uid,
        messages,
        items: Items::default(),
        sections: SmallVec::new(),
        changed_since: None,
        vanished: false,
    };
    if input.eat(b'(') {
        loop {
            item(input, &mut fetch)?;
            if input.eat(b')') {
                break;
            }
            input.space("a space between items, or )")?;
            // Several clients leave a space before the parenthesis.
            if input.eat(b')') {
                break;
            }
        }
    } else if !macros(input, &mut fetch) {
        item(input, &mut fetch)?;
    }
    if !input.is_at_end() {
        input.space("a list of modifiers")?;
        modifiers(input, &mut fetch)?;
    }
    input.end()?;
    Ok(fetch)
}

/// ALL, FAST, FULL.
fn macros(input: &mut Input<'_>, fetch: &mut Fetch<'_>) -> bool {
    let from = input.at();
    let mut space = [0; 24];
    let items = match capitals(input.word(), &mut space) {
        b"ALL" => Items::ALL,
        b"FAST" => Items::FAST,
        b"FULL" => Items::FULL,
        _ => {
            input.seek(from);
            return false;
        }
    };
    fetch.items.add(items);
    true
}

fn item<'a>(input: &mut Input<'a>, fetch: &mut Fetch<'a>) -> Parsed<()> {
    let from = input.at();
    let mut space = [0; 24];
    let word = capitals(input.word(), &mut space);
    let bracket = input.peek() == Some(b'[');
    let items = match word {
        b"FLAGS" => Items::FLAGS,
        b"UID" => Items::UID,
        b"INTERNALDATE" => Items::INTERNALDATE,
        b"RFC822.SIZE" => Items::SIZE,
        b"ENVELOPE" => Items::ENVELOPE,
        b"BODYSTRUCTURE" => Items::BODYSTRUCTURE,
        b"BODY" if !bracket => Items::BODY,
        b"MODSEQ" => Items::MODSEQ,
        b"EMAILID" => Items::EMAILID,
        b"THREADID" => Items::THREADID,
        b"SAVEDATE" => Items::SAVEDATE,
        b"PREVIEW" => preview(input)?,
        _ => {
            let section = section(input, from, word, bracket)?;
            if fetch.sections.len() == SECTIONS_MAX {
                return input.bad_at(from, "at most 500 sections");
            }
            fetch.sections.push(section);
            return Ok(());
        }
    };
    fetch.items.add(items);
    Ok(())
}

/// `PREVIEW` with or without ` (LAZY)` (RFC 8970 §3.1).
fn preview(input: &mut Input<'_>) -> Parsed<Items> {
    let from = input.at();
    if !(input.eat(b' ') && input.eat(b'(')) {
        input.seek(from);
        return Ok(Items::PREVIEW);
    }
    if !input.keyword("LAZY") {
        // Behind PREVIEW alone, without parentheses around the items, modifiers of FETCH may stand.
        input.seek(from);
        return Ok(Items::PREVIEW);
    }
    input.need(b')', ") after LAZY")?;
    Ok(Items(Items::PREVIEW.0 | Items::LAZY.0))
}

/// An item with a section, or one of the old names for one. `word` has been read from `from` on.
fn section<'a>(input: &mut Input<'a>, from: usize, word: &[u8], bracket: bool) -> Parsed<Section<'a>> {
    let whole = |kind, peek, text| Section { kind, peek, part: Part::default(), text, partial: None };
    let (kind, peek) = match word {
        b"RFC822" => return Ok(whole(Kind::Rfc822, false, Text::Whole)),
        b"RFC822.HEADER" => return Ok(whole(Kind::Rfc822Header, true, Text::Header)),
        b"RFC822.TEXT" => return Ok(whole(Kind::Rfc822Text, false, Text::Text)),
        b"BODY" => (Kind::Body, false),
        b"BODY.PEEK" => (Kind::Body, true),
        b"BINARY" => (Kind::Binary, false),
        b"BINARY.PEEK" => (Kind::Binary, true),
        b"BINARY.SIZE" => (Kind::BinarySize, true),
        _ => return input.bad_at(from, ITEM),
    };
    if !bracket {
        return Err(input.bad("[ and a section"));
    }
    input.need(b'[', "[ and a section")?;
    let part = part(input)?;
    let text = match kind {
        Kind::Body => text(input, part)?,
        _ => Text::Whole,
    };
    input.need(b']', "] after the section")?;
    let partial = if kind != Kind::BinarySize && input.eat(b'<') { Some(partial(input)?) } else { None };
    Ok(Section { kind, peek, part, text, partial })
}

/// `1.2.3`, without the dot before a text.
fn part<'a>(input: &mut Input<'a>) -> Parsed<Part<'a>> {
    const NUMBER: &str = "a part number from 1";
    let from = input.at();
    let mut end = from;
    let mut count = 0;
    while input.peek().is_some_and(|b| b.is_ascii_digit()) {
        input.nz_number(NUMBER)?;
        end = input.at();
        count += 1;
        if count > PARTS_MAX {
            return input.bad_at(from, "a part number of at most 128 levels");
        }
        if !input.eat(b'.') {
            break;
        }
    }
    let after = input.at();
    input.seek(end);
    let part = Part(input.since(from));
    // A dot at the end belongs to the text behind it, which must be there.
    if after > end && matches!(input.rest().get(1), None | Some(b']')) {
        return input.bad_at(after, "a part number or HEADER, TEXT, MIME");
    }
    Ok(part)
}

fn text<'a>(input: &mut Input<'a>, part: Part<'a>) -> Parsed<Text<'a>> {
    if input.peek() == Some(b']') {
        return Ok(Text::Whole);
    }
    if !part.0.is_empty() {
        input.need(b'.', "a dot, or ]")?;
    }
    let from = input.at();
    let mut space = [0; 24];
    match capitals(input.word(), &mut space) {
        b"HEADER" => Ok(Text::Header),
        b"HEADER.FIELDS" => fields(input).map(Text::Fields),
        b"HEADER.FIELDS.NOT" => fields(input).map(Text::FieldsNot),
        b"TEXT" => Ok(Text::Text),
        // RFC 9051 §6.4.5.1: MIME only behind a part number.
        b"MIME" if !part.0.is_empty() => Ok(Text::Mime),
        _ => input.bad_at(from, "HEADER, HEADER.FIELDS, HEADER.FIELDS.NOT, TEXT, or MIME of a part"),
    }
}

fn fields<'a>(input: &mut Input<'a>) -> Parsed<Fields<'a>> {
    const NAME: &str = "the name of a header field";
    input.space("a list of header fields")?;
    input.need(b'(', "a list of header fields")?;
    let from = input.at();
    let mut count = 0;
    loop {
        input.astring(NAME)?;
        count += 1;
        if count > FIELDS_MAX {
            return Err(input.bad("at most 1000 header fields"));
        }
        let end = input.at();
        if input.eat(b')') {
            input.seek(end);
            let raw = input.since(from);
            input.seek(end + 1);
            return Ok(Fields { raw });
        }
        input.space("a space between names, or )")?;
        // As between items.
        if input.eat(b')') {
            let after = input.at();
            input.seek(end);
            let raw = input.since(from);
            input.seek(after);
            return Ok(Fields { raw });
        }
    }
}

/// `first.count>`.
fn partial(input: &mut Input<'_>) -> Parsed<(u64, u64)> {
    let first = input.number64("the first octet of a partial fetch")?;
    input.need(b'.', ". and a number of octets")?;
    let count = input.nz_number64("a number of octets, at least 1")?;
    input.need(b'>', "> after the number of octets")?;
    Ok((first, count))
}

/// `(CHANGEDSINCE n [VANISHED])`.
fn modifiers(input: &mut Input<'_>, fetch: &mut Fetch<'_>) -> Parsed<()> {
    const MODIFIER: &str = "CHANGEDSINCE with a mod-sequence, or VANISHED, each once";
    let start = input.at();
    input.need(b'(', "a list of modifiers")?;
    loop {
        let from = input.at();
        let mut space = [0; 24];
        match capitals(input.word(), &mut space) {
            b"CHANGEDSINCE" if fetch.changed_since.is_none() => {
                input.space("a mod-sequence")?;
                fetch.changed_since = Some(input.number64("a mod-sequence")?);
            }
            b"VANISHED" if !fetch.vanished => fetch.vanished = true,
            _ => return input.bad_at(from, MODIFIER),
        }
        if input.eat(b')') {
            break;
        }
        input.space("a space between modifiers, or )")?;
    }
    // RFC 7162 §3.2.6: VANISHED only with UID FETCH and CHANGEDSINCE.
    if fetch.vanished && !(fetch.uid && fetch.changed_since.is_some()) {
        return input.bad_at(start, "UID FETCH and CHANGEDSINCE with VANISHED");
    }
    Ok(())
}

//! SEARCH (RFC 9051 §6.4.4; ESEARCH RFC 4731, SEARCHRES RFC 5182, WITHIN RFC 5032, MODSEQ RFC 7162,
//! EMAILID and THREADID RFC 8474, SAVEDATE RFC 8514).
//!
//! The tree of keys is one list in prefix order: a key that has operands stands before them and says
//! how many there are. It is built with a stack of its own, so that no nesting can exhaust the
//! thread's; keys and parentheses are bounded.

use super::date::{Day, date};
use super::flags::{KEYWORD_MAX, System};
use super::input::{Input, Str, capitals};
use super::{DEPTH_MAX, Parsed};
use crate::imap::set::SeqSet;

/// Most keys, operators included.
pub const KEYS_MAX: usize = 1000;

/// What a SEARCH answers. A set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wanted(pub u8);

impl Wanted {
    /// The least number.
    pub const MIN: Wanted = Wanted(1);
    /// The largest.
    pub const MAX: Wanted = Wanted(2);
    /// All of them as a set.
    pub const ALL: Wanted = Wanted(4);
    /// How many.
    pub const COUNT: Wanted = Wanted(8);
    /// Keep the result for `$`.
    pub const SAVE: Wanted = Wanted(16);

    /// All of `other` are in it.
    #[must_use]
    pub fn has(self, other: Wanted) -> bool {
        self.0 & other.0 == other.0
    }
}

/// How a date stands to the day of the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Earlier.
    Before,
    /// That day.
    On,
    /// That day or later.
    Since,
}

/// Which date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    /// INTERNALDATE.
    Internal,
    /// The field Date.
    Sent,
    /// SAVEDATE (RFC 8514).
    Saved,
}

/// A key. Operators stand before their operands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Key<'a> {
    /// All of the next `n` trees.
    And(u32),
    /// One of the next two trees.
    Or,
    /// Not the next tree.
    Not,
    /// Every message.
    All,
    /// The flag is set, or not.
    Flag(System, bool),
    /// The keyword is set, or not.
    Keyword(&'a [u8], bool),
    /// NEW: recent and not seen.
    New,
    /// A date against a day.
    Date(Clock, When, Day),
    /// The mailbox keeps save dates (RFC 8514 §4.3).
    SaveDateSupported,
    /// More octets than that.
    Larger(u64),
    /// Fewer octets.
    Smaller(u64),
    /// INTERNALDATE longer ago than so many seconds (RFC 5032).
    Older(u32),
    /// INTERNALDATE not longer ago.
    Younger(u32),
    /// A header field contains the text; without text it is there.
    Header(Str<'a>, Str<'a>),
    /// FROM, TO, CC, BCC, SUBJECT: as `Header`, the field's name in capitals.
    Field(&'static str, Str<'a>),
    /// Header or body contain the text.
    Text(Str<'a>),
    /// The body contains the text.
    Body(Str<'a>),
    /// Message sequence numbers.
    Numbers(SeqSet),
    /// UIDs.
    Uids(SeqSet),
    /// `$`; after UID as well (RFC 5182 §2.2).
    Saved,
    /// A mod-sequence of at least that.
    ModSeq(u64),
    /// EMAILID.
    EmailId(&'a [u8]),
    /// THREADID.
    ThreadId(&'a [u8]),
}

/// SEARCH.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Search<'a> {
    /// Answer UIDs.
    pub uid: bool,
    /// RETURN was given: answer ESEARCH. Empty parentheses mean ALL (RFC 4731 §3.1).
    pub wanted: Option<Wanted>,
    /// CHARSET, if given.
    pub charset: Option<Str<'a>>,
    /// The tree: one, in prefix order.
    pub keys: Vec<Key<'a>>,
}

pub(super) fn search<'a>(input: &mut Input<'a>, uid: bool) -> Parsed<Search<'a>> {
    input.space(KEY)?;
    let mut wanted = None;
    if input.keyword("RETURN") {
        input.space("a list of what to return")?;
        wanted = Some(returns(input)?);
        input.space(KEY)?;
    }
    let mut charset = None;
    if input.keyword("CHARSET") {
        input.space("the name of a charset")?;
        charset = Some(input.astring("the name of a charset")?);
        input.space(KEY)?;
    }
    let keys = keys(input)?;
    Ok(Search { uid, wanted, charset, keys })
}

fn returns(input: &mut Input<'_>) -> Parsed<Wanted> {
    input.need(b'(', "a list of what to return")?;
    let mut wanted = Wanted::default();
    let mut first = true;
    while !input.eat(b')') {
        if !std::mem::take(&mut first) {
            input.space("a space between options, or )")?;
        }
        let from = input.at();
        let mut space = [0; 24];
        wanted.0 |= match capitals(input.word(), &mut space) {
            b"MIN" => Wanted::MIN.0,
            b"MAX" => Wanted::MAX.0,
            b"ALL" => Wanted::ALL.0,
            b"COUNT" => Wanted::COUNT.0,
            b"SAVE" => Wanted::SAVE.0,
            _ => return input.bad_at(from, "MIN, MAX, ALL, COUNT or SAVE"),
        };
    }
    Ok(if wanted == Wanted::default() { Wanted::ALL } else { wanted })
}

const KEY: &str = "a search key, such as ALL or SUBJECT \"text\"";

/// An operator whose operands are being read.
enum Open {
    /// Parentheses (or the whole): index of its `And` and how many trees so far.
    List { index: usize, count: u32 },
    /// OR or NOT, with how many trees to come.
    Operands(u8),
}

/// All keys up to the end of the command.
pub(super) fn keys<'a>(input: &mut Input<'a>) -> Parsed<Vec<Key<'a>>> {
    let mut keys = vec![Key::And(0)];
    let mut open = vec![Open::List { index: 0, count: 0 }];
    let mut depth = 0;
    loop {
        if keys.len() > KEYS_MAX {
            return Err(input.bad("at most 1000 search keys"));
        }
        if input.eat(b'(') {
            depth += 1;
            if depth > DEPTH_MAX {
                return Err(input.bad("at most 32 parentheses within one another"));
            }
            open.push(Open::List { index: keys.len(), count: 0 });
            keys.push(Key::And(0));
            continue;
        }
        let key = key(input)?;
        let operands = match key {
            Key::Not => 1,
            Key::Or => 2,
            _ => 0,
        };
        keys.push(key);
        if operands > 0 {
            open.push(Open::Operands(operands));
            input.space(KEY)?;
            continue;
        }
        // A tree is complete, and perhaps those around it.
        while complete(&mut open, &mut keys) {
            if !input.eat(b')') {
                if open.len() == 1 && input.is_at_end() {
                    input.end()?;
                    return Ok(keys);
                }
                input.space(if open.len() > 1 { "a space and another search key, or )" } else { KEY })?;
                break;
            }
            if open.len() == 1 {
                input.seek(input.at() - 1);
                return Err(input.bad("a search key or the end of the command, not )"));
            }
            depth -= 1;
            open.pop();
        }
        if matches!(open.last(), Some(Open::Operands(_))) {
            input.space(KEY)?;
        }
    }
}

/// Counts a complete tree. True if the innermost open thing is now a list that may end or go on.
fn complete(open: &mut Vec<Open>, keys: &mut [Key<'_>]) -> bool {
    loop {
        match open.last_mut() {
            Some(Open::Operands(n)) => {
                *n -= 1;
                if *n > 0 {
                    return false;
                }
                open.pop();
            }
            Some(Open::List { index, count }) => {
                *count += 1;
                keys[*index] = Key::And(*count);
                return true;
            }
            None => return false,
        }
    }
}

fn key<'a>(input: &mut Input<'a>) -> Parsed<Key<'a>> {
    let from = input.at();
    match input.peek() {
        Some(b'0'..=b'9' | b'*') => return input.set().map(Key::Numbers),
        Some(b'$') => {
            input.eat(b'$');
            return Ok(Key::Saved);
        }
        _ => {}
    }
    let mut space = [0; 24];
    let word = capitals(input.word(), &mut space);
    if let Some(key) = flag_key(word) {
        return Ok(key);
    }
    match word {
        b"ALL" => Ok(Key::All),
        b"NOT" => Ok(Key::Not),
        b"OR" => Ok(Key::Or),
        b"NEW" => Ok(Key::New),
        b"KEYWORD" => keyword(input).map(|k| Key::Keyword(k, true)),
        b"UNKEYWORD" => keyword(input).map(|k| Key::Keyword(k, false)),
        b"LARGER" => octets(input).map(Key::Larger),
        b"SMALLER" => octets(input).map(Key::Smaller),
        b"OLDER" => interval(input).map(Key::Older),
        b"YOUNGER" => interval(input).map(Key::Younger),
        b"SAVEDATESUPPORTED" => Ok(Key::SaveDateSupported),
        b"UID" => uids(input),
        b"MODSEQ" => mod_sequence(input).map(Key::ModSeq),
        b"EMAILID" => object(input).map(Key::EmailId),
        b"THREADID" => object(input).map(Key::ThreadId),
        _ => match date_key(word) {
            Some((clock, when)) => {
                input.space("a date such as 1-Feb-2026")?;
                Ok(Key::Date(clock, when, date(input)?))
            }
            None => text_key(input, from, word),
        },
    }
}

fn flag_key(word: &[u8]) -> Option<Key<'static>> {
    let (flag, set) = match word {
        b"ANSWERED" => (System::ANSWERED, true),
        b"FLAGGED" => (System::FLAGGED, true),
        b"DELETED" => (System::DELETED, true),
        b"SEEN" => (System::SEEN, true),
        b"DRAFT" => (System::DRAFT, true),
        b"RECENT" => (System::RECENT, true),
        b"UNANSWERED" => (System::ANSWERED, false),
        b"UNFLAGGED" => (System::FLAGGED, false),
        b"UNDELETED" => (System::DELETED, false),
        b"UNSEEN" => (System::SEEN, false),
        b"UNDRAFT" => (System::DRAFT, false),
        b"OLD" => (System::RECENT, false),
        _ => return None,
    };
    Some(Key::Flag(flag, set))
}

fn date_key(word: &[u8]) -> Option<(Clock, When)> {
    Some(match word {
        b"BEFORE" => (Clock::Internal, When::Before),
        b"ON" => (Clock::Internal, When::On),
        b"SINCE" => (Clock::Internal, When::Since),
        b"SENTBEFORE" => (Clock::Sent, When::Before),
        b"SENTON" => (Clock::Sent, When::On),
        b"SENTSINCE" => (Clock::Sent, When::Since),
        b"SAVEDBEFORE" => (Clock::Saved, When::Before),
        b"SAVEDON" => (Clock::Saved, When::On),
        b"SAVEDSINCE" => (Clock::Saved, When::Since),
        _ => return None,
    })
}

fn text_key<'a>(input: &mut Input<'a>, from: usize, word: &[u8]) -> Parsed<Key<'a>> {
    const TEXT: &str = "the text to search for";
    let name = match word {
        b"SUBJECT" => "SUBJECT",
        b"FROM" => "FROM",
        b"TO" => "TO",
        b"CC" => "CC",
        b"BCC" => "BCC",
        b"HEADER" => {
            input.space("the name of a header field")?;
            let name = input.astring("the name of a header field")?;
            input.space(TEXT)?;
            return Ok(Key::Header(name, input.astring(TEXT)?));
        }
        b"TEXT" => {
            input.space(TEXT)?;
            return input.astring(TEXT).map(Key::Text);
        }
        b"BODY" => {
            input.space(TEXT)?;
            return input.astring(TEXT).map(Key::Body);
        }
        _ => return input.bad_at(from, KEY),
    };
    input.space(TEXT)?;
    Ok(Key::Field(name, input.astring(TEXT)?))
}

fn keyword<'a>(input: &mut Input<'a>) -> Parsed<&'a [u8]> {
    input.space("a keyword")?;
    let from = input.at();
    let keyword = input.atom("a keyword")?;
    if keyword.len() > KEYWORD_MAX {
        return input.bad_at(from, "a keyword of at most 100 characters");
    }
    Ok(keyword)
}

fn octets(input: &mut Input<'_>) -> Parsed<u64> {
    input.space("a number of octets")?;
    input.number64("a number of octets")
}

fn interval(input: &mut Input<'_>) -> Parsed<u32> {
    input.space("a number of seconds")?;
    input.nz_number("a number of seconds, at least 1")
}

fn uids<'a>(input: &mut Input<'a>) -> Parsed<Key<'a>> {
    input.space("a set of UIDs")?;
    if input.eat(b'$') { Ok(Key::Saved) } else { input.set().map(Key::Uids) }
}

/// `["/flags/name" priv|shared|all] number` (RFC 7162 §3.1.5): flags have no mod-sequence of their
/// own here, so the entry says nothing.
fn mod_sequence(input: &mut Input<'_>) -> Parsed<u64> {
    input.space("a mod-sequence")?;
    if input.peek() == Some(b'"') {
        let from = input.at();
        let entry = input.string("the name of an entry")?;
        if !entry.bytes().starts_with(b"/flags/") {
            return input.bad_at(from, "an entry such as \"/flags/\\\\Seen\"");
        }
        input.space("priv, shared or all")?;
        let from = input.at();
        let mut space = [0; 24];
        if !matches!(capitals(input.word(), &mut space), b"PRIV" | b"SHARED" | b"ALL") {
            return input.bad_at(from, "priv, shared or all");
        }
        input.space("a mod-sequence")?;
    }
    input.number64("a mod-sequence")
}

/// An object id (RFC 8474 §4): 1 to 255 letters, digits, `_` and `-`.
fn object<'a>(input: &mut Input<'a>) -> Parsed<&'a [u8]> {
    const ID: &str = "an object id";
    input.space(ID)?;
    let from = input.at();
    let id = |b: &&u8| b.is_ascii_alphanumeric() || matches!(**b, b'_' | b'-');
    let len = input.rest().iter().take_while(id).count();
    if !(1..=255).contains(&len) {
        return Err(input.bad(ID));
    }
    input.seek(from + len);
    Ok(input.since(from))
}

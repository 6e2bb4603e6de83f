//! SORT and THREAD (RFC 5256 §3).

use super::Parsed;
use super::input::{Input, Str, capitals};
use super::search::{self, Key};
use smallvec::SmallVec;

/// By what to sort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// INTERNALDATE.
    Arrival,
    /// First address of Cc.
    Cc,
    /// Date of sending, in UTC.
    Date,
    /// First address of From.
    From,
    /// Size in octets.
    Size,
    /// Base subject.
    Subject,
    /// First address of To.
    To,
}

/// One criterion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Criterion {
    /// By what.
    pub by: By,
    /// Largest first.
    pub reverse: bool,
}

/// SORT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sort<'a> {
    /// Answer UIDs.
    pub uid: bool,
    /// Criteria, the most important first; at least one, at most 16.
    pub by: SmallVec<[Criterion; 4]>,
    /// Charset of the keys.
    pub charset: Str<'a>,
    /// Which messages; see [`search`].
    pub keys: Vec<Key<'a>>,
}

/// How to make threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// By base subject and date.
    OrderedSubject,
    /// By references.
    References,
}

/// THREAD.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thread<'a> {
    /// Answer UIDs.
    pub uid: bool,
    /// How.
    pub algorithm: Algorithm,
    /// Charset of the keys.
    pub charset: Str<'a>,
    /// Which messages; see [`search`].
    pub keys: Vec<Key<'a>>,
}

pub(super) fn sort<'a>(input: &mut Input<'a>, uid: bool) -> Parsed<Sort<'a>> {
    input.space("a list of sort criteria")?;
    input.need(b'(', "a list of sort criteria")?;
    let mut by = SmallVec::new();
    loop {
        let from = input.at();
        by.push(criterion(input)?);
        if by.len() > 16 {
            return input.bad_at(from, "at most 16 sort criteria");
        }
        if input.eat(b')') {
            break;
        }
        input.space("a space between criteria, or )")?;
    }
    let (charset, keys) = charset_and_keys(input)?;
    Ok(Sort { uid, by, charset, keys })
}

fn criterion(input: &mut Input<'_>) -> Parsed<Criterion> {
    const BY: &str = "ARRIVAL, CC, DATE, FROM, SIZE, SUBJECT or TO, perhaps after REVERSE";
    let reverse = input.keyword("REVERSE");
    if reverse {
        input.space(BY)?;
    }
    let from = input.at();
    let mut space = [0; 24];
    let by = match capitals(input.word(), &mut space) {
        b"ARRIVAL" => By::Arrival,
        b"CC" => By::Cc,
        b"DATE" => By::Date,
        b"FROM" => By::From,
        b"SIZE" => By::Size,
        b"SUBJECT" => By::Subject,
        b"TO" => By::To,
        _ => return input.bad_at(from, BY),
    };
    Ok(Criterion { by, reverse })
}

pub(super) fn thread<'a>(input: &mut Input<'a>, uid: bool) -> Parsed<Thread<'a>> {
    const ALGORITHM: &str = "ORDEREDSUBJECT or REFERENCES";
    input.space(ALGORITHM)?;
    let from = input.at();
    let mut space = [0; 24];
    let algorithm = match capitals(input.word(), &mut space) {
        b"ORDEREDSUBJECT" => Algorithm::OrderedSubject,
        b"REFERENCES" => Algorithm::References,
        _ => return input.bad_at(from, ALGORITHM),
    };
    let (charset, keys) = charset_and_keys(input)?;
    Ok(Thread { uid, algorithm, charset, keys })
}

fn charset_and_keys<'a>(input: &mut Input<'a>) -> Parsed<(Str<'a>, Vec<Key<'a>>)> {
    const CHARSET: &str = "the name of a charset, such as UTF-8";
    input.space(CHARSET)?;
    let charset = input.astring(CHARSET)?;
    input.space("a search key, such as ALL")?;
    Ok((charset, search::keys(input)?))
}

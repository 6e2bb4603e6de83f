//! LIST (RFC 9051 §6.3.9; RFC 5258 selection and return options, RFC 5819 STATUS, RFC 6154
//! SPECIAL-USE) and LSUB (RFC 3501 §6.3.9).

use super::Parsed;
use super::input::{Input, Str, capitals};
use super::mailbox::{self, Mailbox};
use super::status::{self, Items};
use smallvec::SmallVec;

/// Most patterns in one LIST.
pub const PATTERNS_MAX: usize = 100;

/// Selection options. A set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Selection {
    /// Only subscribed names, also of mailboxes that do not exist.
    pub subscribed: bool,
    /// Also mailboxes on other servers: there are none.
    pub remote: bool,
    /// Also parents of names that are selected.
    pub recursive_match: bool,
    /// Only mailboxes with a special use.
    pub special_use: bool,
}

/// Return options. A set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Return {
    /// Say which are subscribed.
    pub subscribed: bool,
    /// Say which have children.
    pub children: bool,
    /// Say what they are for.
    pub special_use: bool,
    /// A STATUS response for each.
    pub status: Option<Items>,
}

/// LIST.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List<'a> {
    /// Extended syntax was used (RFC 5258 §3): answers may have more, such as CHILDINFO.
    pub extended: bool,
    /// Selection options.
    pub selection: Selection,
    /// Reference name.
    pub reference: Mailbox<'a>,
    /// Patterns with `%` and `*`, at least one. One that is empty asks for the delimiter.
    pub patterns: SmallVec<[Str<'a>; 1]>,
    /// Return options.
    pub ret: Return,
}

/// LSUB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lsub<'a> {
    /// Reference name.
    pub reference: Mailbox<'a>,
    /// Pattern with `%` and `*`.
    pub pattern: Str<'a>,
}

const PATTERN: &str = "a mailbox name, perhaps with % and *";

pub(super) fn list<'a>(input: &mut Input<'a>) -> Parsed<List<'a>> {
    input.space("a reference name, such as \"\"")?;
    let mut selection = Selection::default();
    let mut extended = input.peek() == Some(b'(');
    if extended {
        selection = selections(input)?;
        input.space("a reference name, such as \"\"")?;
    }
    let reference = mailbox::name(input)?;
    input.space(PATTERN)?;
    let mut patterns = SmallVec::new();
    if input.eat(b'(') {
        extended = true;
        loop {
            patterns.push(pattern(input)?);
            if input.eat(b')') {
                break;
            }
            input.space("a space between patterns, or )")?;
            if patterns.len() == PATTERNS_MAX {
                return Err(input.bad("at most 100 patterns"));
            }
        }
    } else {
        patterns.push(pattern(input)?);
    }
    let mut ret = Return::default();
    if !input.is_at_end() {
        input.space("RETURN")?;
        if !input.keyword("RETURN") {
            return Err(input.bad("RETURN"));
        }
        extended = true;
        input.space("a list of return options")?;
        ret = returns(input)?;
    }
    input.end()?;
    Ok(List { extended, selection, reference, patterns, ret })
}

fn pattern<'a>(input: &mut Input<'a>) -> Parsed<Str<'a>> {
    let from = input.at();
    let pattern = input.list_mailbox(PATTERN)?;
    if pattern.len_max() > mailbox::NAME_MAX * 2 {
        return input.bad_at(from, "a pattern of at most 1000 bytes");
    }
    Ok(pattern)
}

pub(super) fn lsub<'a>(input: &mut Input<'a>) -> Parsed<Lsub<'a>> {
    input.space("a reference name, such as \"\"")?;
    let reference = mailbox::name(input)?;
    input.space(PATTERN)?;
    let pattern = pattern(input)?;
    input.end()?;
    Ok(Lsub { reference, pattern })
}

fn selections(input: &mut Input<'_>) -> Parsed<Selection> {
    let mut selection = Selection::default();
    let start = input.at();
    input.need(b'(', "a list of selection options")?;
    let mut first = true;
    while !input.eat(b')') {
        if !std::mem::take(&mut first) {
            input.space("a space between selection options, or )")?;
        }
        let from = input.at();
        let mut space = [0; 24];
        match capitals(input.word(), &mut space) {
            b"SUBSCRIBED" => selection.subscribed = true,
            b"REMOTE" => selection.remote = true,
            b"RECURSIVEMATCH" => selection.recursive_match = true,
            b"SPECIAL-USE" => selection.special_use = true,
            _ => return input.bad_at(from, "SUBSCRIBED, REMOTE, RECURSIVEMATCH or SPECIAL-USE"),
        }
    }
    // RFC 5258 §3.1: RECURSIVEMATCH goes with another option that selects.
    if selection.recursive_match && !selection.subscribed && !selection.special_use {
        return input.bad_at(start, "SUBSCRIBED or SPECIAL-USE beside RECURSIVEMATCH");
    }
    Ok(selection)
}

fn returns(input: &mut Input<'_>) -> Parsed<Return> {
    let mut ret = Return::default();
    input.need(b'(', "a list of return options")?;
    let mut first = true;
    while !input.eat(b')') {
        if !std::mem::take(&mut first) {
            input.space("a space between return options, or )")?;
        }
        let from = input.at();
        let mut space = [0; 24];
        match capitals(input.word(), &mut space) {
            b"SUBSCRIBED" => ret.subscribed = true,
            b"CHILDREN" => ret.children = true,
            b"SPECIAL-USE" => ret.special_use = true,
            b"STATUS" => {
                input.space("a list of items")?;
                ret.status = Some(status::items(input)?);
            }
            _ => return input.bad_at(from, "SUBSCRIBED, CHILDREN, SPECIAL-USE or STATUS"),
        }
    }
    Ok(ret)
}

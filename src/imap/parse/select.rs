//! SELECT and EXAMINE (RFC 9051 §6.3.2) with CONDSTORE and QRESYNC (RFC 7162 §3.1.8, §3.2.5).

use super::Parsed;
use super::input::{Input, capitals};
use super::mailbox::{self, Mailbox};
use crate::imap::set::SeqSet;

/// SELECT or EXAMINE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Select<'a> {
    /// Which.
    pub mailbox: Mailbox<'a>,
    /// CONDSTORE was asked for.
    pub condstore: bool,
    /// What the client knows of the mailbox.
    pub qresync: Option<Box<Qresync>>,
}

/// The parameter QRESYNC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Qresync {
    /// The UIDVALIDITY it knows.
    pub uid_validity: u32,
    /// The highest mod-sequence it knows.
    pub mod_sequence: u64,
    /// The UIDs it knows, if it says so. No `*`.
    pub known: Option<SeqSet>,
    /// Message sequence numbers and the UIDs they had: same count, both ascending, no `*`.
    pub matched: Option<(SeqSet, SeqSet)>,
}

pub(super) fn select<'a>(input: &mut Input<'a>) -> Parsed<Select<'a>> {
    let mut select = Select { mailbox: mailbox::spaced(input)?, condstore: false, qresync: None };
    if !input.is_at_end() {
        input.space("a list of parameters")?;
        input.need(b'(', "a list of parameters")?;
        loop {
            parameter(input, &mut select)?;
            if input.eat(b')') {
                break;
            }
            input.space("a space between parameters, or )")?;
        }
    }
    input.end()?;
    Ok(select)
}

fn parameter(input: &mut Input<'_>, select: &mut Select<'_>) -> Parsed<()> {
    let from = input.at();
    let mut space = [0; 24];
    match capitals(input.word(), &mut space) {
        b"CONDSTORE" => {
            select.condstore = true;
            Ok(())
        }
        b"QRESYNC" if select.qresync.is_none() => {
            select.qresync = Some(Box::new(qresync(input)?));
            Ok(())
        }
        _ => input.bad_at(from, "CONDSTORE or QRESYNC, each once"),
    }
}

/// `QRESYNC (uidvalidity mod-sequence [known-uids] [(known-numbers known-uids)])`.
fn qresync(input: &mut Input<'_>) -> Parsed<Qresync> {
    input.space("a list: UIDVALIDITY and mod-sequence")?;
    input.need(b'(', "a list: UIDVALIDITY and mod-sequence")?;
    let uid_validity = input.nz_number("a UIDVALIDITY")?;
    input.space("a mod-sequence")?;
    // Some clients have seen nothing yet and say 0.
    let mod_sequence = input.number64("a mod-sequence")?;
    let (mut known, mut matched) = (None, None);
    while input.eat(b' ') {
        if matched.is_none() && input.eat(b'(') {
            let numbers = fixed(input)?;
            input.space("the UIDs of these messages")?;
            let from = input.at();
            let uids = fixed(input)?;
            if numbers.count(u32::MAX) != uids.count(u32::MAX) {
                return input.bad_at(from, "as many UIDs as message sequence numbers");
            }
            input.need(b')', ") after the UIDs")?;
            matched = Some((numbers, uids));
        } else if known.is_none() && matched.is_none() {
            known = Some(fixed(input)?);
        } else {
            return Err(input.bad(") at the end of QRESYNC"));
        }
    }
    input.need(b')', ") at the end of QRESYNC")?;
    Ok(Qresync { uid_validity, mod_sequence, known, matched })
}

/// A set without `*` (RFC 7162 §7 `known-uids`, `known-sequence-set`).
fn fixed(input: &mut Input<'_>) -> Parsed<SeqSet> {
    let from = input.at();
    let set = input.set()?;
    if set.has_star() { input.bad_at(from, "a set without *") } else { Ok(set) }
}

//! STORE (RFC 9051 §6.4.6) with UNCHANGEDSINCE (RFC 7162 §3.1.3).

use super::flags::{self, Flags};
use super::input::{Input, capitals};
use super::{Messages, Parsed, messages};

/// What becomes of the flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// FLAGS: these and no others.
    Replace,
    /// +FLAGS.
    Add,
    /// -FLAGS.
    Remove,
}

/// STORE.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Store<'a> {
    /// The numbers are UIDs.
    pub uid: bool,
    /// Which messages.
    pub messages: Messages,
    /// Only those whose mod-sequence is not above this.
    pub unchanged_since: Option<u64>,
    /// How.
    pub change: Change,
    /// Without FETCH responses.
    pub silent: bool,
    /// Which flags.
    pub flags: Flags<'a>,
}

pub(super) fn store<'a>(input: &mut Input<'a>, uid: bool) -> Parsed<Store<'a>> {
    const ITEM: &str = "FLAGS, +FLAGS or -FLAGS";
    let messages = messages(input)?;
    input.space(ITEM)?;
    let mut unchanged_since = None;
    if input.eat(b'(') {
        let from = input.at();
        if !input.keyword("UNCHANGEDSINCE") {
            return input.bad_at(from, "UNCHANGEDSINCE, the only modifier of STORE");
        }
        input.space("a mod-sequence")?;
        unchanged_since = Some(input.number64("a mod-sequence")?);
        input.need(b')', ") after the mod-sequence")?;
        input.space(ITEM)?;
    }
    let change = match input.peek() {
        Some(b'+') => Change::Add,
        Some(b'-') => Change::Remove,
        _ => Change::Replace,
    };
    let from = input.at();
    input.seek(from + usize::from(change != Change::Replace));
    let mut space = [0; 24];
    let silent = match capitals(input.word(), &mut space) {
        b"FLAGS" => false,
        b"FLAGS.SILENT" => true,
        _ => return input.bad_at(from, ITEM),
    };
    input.space("a list of flags")?;
    let flags = flags::list_or_bare(input)?;
    input.end()?;
    Ok(Store { uid, messages, unchanged_since, change, silent, flags })
}

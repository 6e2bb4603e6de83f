//! GETQUOTA and SETQUOTA (RFC 9208 §4.1). GETQUOTAROOT takes a mailbox name only.

use super::Parsed;
use super::input::{Input, Str};
use smallvec::SmallVec;

/// SETQUOTA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetQuota<'a> {
    /// The quota root.
    pub root: Str<'a>,
    /// Resource names and their limits; a resource that is not named has none afterwards.
    pub limits: SmallVec<[(&'a [u8], u64); 2]>,
}

const ROOT: &str = "a quota root";

pub(super) fn get<'a>(input: &mut Input<'a>) -> Parsed<Str<'a>> {
    input.space(ROOT)?;
    let root = input.astring(ROOT)?;
    input.end()?;
    Ok(root)
}

pub(super) fn set<'a>(input: &mut Input<'a>) -> Parsed<SetQuota<'a>> {
    const LIMITS_MAX: usize = 16;
    const LIMIT: &str = "a limit";
    input.space(ROOT)?;
    let root = input.astring(ROOT)?;
    input.space("a list of limits")?;
    input.need(b'(', "a list of limits")?;
    let mut limits = SmallVec::new();
    while !input.eat(b')') {
        if !limits.is_empty() {
            input.space("a space between limits, or )")?;
        }
        let from = input.at();
        let name = input.atom("the name of a resource, such as STORAGE")?;
        input.space(LIMIT)?;
        limits.push((name, input.number64(LIMIT)?));
        if limits.len() > LIMITS_MAX {
            return input.bad_at(from, "at most 16 limits");
        }
    }
    input.end()?;
    Ok(SetQuota { root, limits })
}

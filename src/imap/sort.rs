//! SORT (RFC 5256 §3): the order of messages, as a pure function of what is known of them.
//!
//! Owns the keys and their order; does not know where they come from. Cannot fail.

use crate::imap::casemap;
use crate::imap::parse::sort::{By, Criterion};
use crate::imap::{subject, words};
use std::cmp::Ordering;

/// What is compared of a message. What no criterion asks for may be left empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Keys {
    /// Message sequence number: decides between messages that are equal otherwise.
    pub seq: u32,
    /// INTERNALDATE in seconds since 1970, UTC.
    pub arrival: i64,
    /// Date of sending in seconds since 1970, UTC; INTERNALDATE if there is none that can be read.
    pub date: i64,
    /// Size in octets.
    pub size: u64,
    /// Local part of the first address of From, mapped by [`address`]; empty if there is none.
    pub from: Box<[u8]>,
    /// The same of To.
    pub to: Box<[u8]>,
    /// The same of Cc.
    pub cc: Box<[u8]>,
    /// Base subject, mapped by [`base_subject`].
    pub subject: Box<[u8]>,
}

/// The key of an address: its local part without regard to case.
#[must_use]
pub fn address(local_part: Option<&[u8]>) -> Box<[u8]> {
    casemap::folded(&words::decoded(local_part.unwrap_or_default())).into()
}

/// The key of a subject, from the value of its field.
#[must_use]
pub fn base_subject(value: Option<&[u8]>) -> Box<[u8]> {
    casemap::folded(&subject::base(value.unwrap_or_default()).text).into()
}

/// Sorts by `criteria`, the first one first; equal messages by sequence number, which REVERSE does not
/// turn round.
pub fn sort(messages: &mut [Keys], criteria: &[Criterion]) {
    messages.sort_unstable_by(|a, b| {
        let decided = criteria.iter().map(|c| compare(a, b, *c)).find(|o| *o != Ordering::Equal);
        decided.unwrap_or_else(|| a.seq.cmp(&b.seq))
    });
}

fn compare(a: &Keys, b: &Keys, criterion: Criterion) -> Ordering {
    let order = match criterion.by {
        By::Arrival => a.arrival.cmp(&b.arrival),
        By::Cc => a.cc.cmp(&b.cc),
        By::Date => a.date.cmp(&b.date),
        By::From => a.from.cmp(&b.from),
        By::Size => a.size.cmp(&b.size),
        By::Subject => a.subject.cmp(&b.subject),
        By::To => a.to.cmp(&b.to),
    };
    if criterion.reverse { order.reverse() } else { order }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(messages: &[Keys], criteria: &[(By, bool)]) -> Vec<u32> {
        let mut sorted = messages.to_vec();
        let criteria: Vec<Criterion> =
            criteria.iter().map(|(by, reverse)| Criterion { by: *by, reverse: *reverse }).collect();
        sort(&mut sorted, &criteria);
        sorted.iter().map(|k| k.seq).collect()
    }

    #[test]
    fn criteria_in_their_order() {
        let keys = |seq, date, size, from: &str, subject: &str| Keys {
            seq,
            arrival: i64::from(100 - seq),
            date,
            size,
            from: address(Some(from.as_bytes())),
            to: address(None),
            cc: address(Some(b"x")),
            subject: base_subject(Some(subject.as_bytes())),
        };
        let all = [
            keys(1, 30, 10, "bob", "Re: apple"),
            keys(2, 10, 20, "Alice", "banana"),
            keys(3, 20, 10, "alice", "[list] Apple"),
            keys(4, 20, 5, "carol", "=?utf-8?Q?=C3=A9t=C3=A9?="),
        ];
        assert_eq!(order(&all, &[(By::Date, false)]), [2, 3, 4, 1]);
        assert_eq!(order(&all, &[(By::Date, true)]), [1, 3, 4, 2], "equal ones keep their order");
        assert_eq!(order(&all, &[(By::Arrival, false)]), [4, 3, 2, 1]);
        assert_eq!(order(&all, &[(By::From, false), (By::Size, false)]), [3, 2, 1, 4]);
        assert_eq!(order(&all, &[(By::Subject, false), (By::Date, false)]), [3, 1, 2, 4]);
        assert_eq!(order(&all, &[(By::Size, true), (By::From, true)]), [2, 1, 3, 4]);
        assert_eq!(order(&all, &[(By::To, true), (By::Cc, false)]), [1, 2, 3, 4]);
    }
}

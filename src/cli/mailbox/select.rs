//! Words of operators that say which mailbox and which messages: names, sets of UIDs, dates.

use super::{Exit, Failure};
use crate::base::time::Wall;
use crate::mailbox::name;
use crate::mailbox::types::UidSet;

/// The name of a mailbox as it is kept.
pub fn mailbox_name(text: &str) -> Result<String, Failure> {
    let bad = || Failure::new(Exit::Usage, format_args!("{text:?} cannot be the name of a mailbox"));
    name::canonical(text).ok_or_else(bad)
}

/// A set of UIDs as IMAP writes it: `4,10:20,300:*`.
pub fn uids(text: &str) -> Result<UidSet, String> {
    let number = |word: &str| match word {
        "*" => Ok(u32::MAX),
        _ => word.parse().ok().filter(|n| *n != 0).ok_or_else(|| format!("{word:?} is not a UID")),
    };
    let range = |word: &str| match word.split_once(':') {
        Some((from, to)) => Ok((number(from)?, number(to)?)),
        None => number(word).map(|n| (n, n)),
    };
    text.split(',').map(range).collect::<Result<Vec<_>, String>>().map(UidSet::of)
}

/// The start of a day, UTC: `2026-11-27`.
pub fn day(text: &str) -> Result<Wall, String> {
    let bad = || format!("{text:?} is not a day: write 2026-11-27");
    let mut words = text.split('-').map(|w| w.parse::<u64>().ok());
    let (Some(Some(y)), Some(Some(m)), Some(Some(d)), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad());
    };
    // By trial: only what the calendar has.
    let guess = (y.saturating_sub(1970)).min(8000) * 365;
    let days = (guess..guess + 2400).find(|days| crate::base::time::civil(*days) == (y, m, d));
    days.map(|days| Wall(days * 86_400_000)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(uids("4,10:12,300:*").expect("a set").to_string(), "4,10:12,300:4294967295");
        assert!(uids("0").is_err() && uids("a").is_err() && uids("1:").is_err() && uids("").is_err());
        assert_eq!(day("1970-01-02"), Ok(Wall(86_400_000)));
        assert_eq!(day("2024-02-29").expect("leap").to_string(), "2024-02-29T00:00:00.000Z");
        assert!(day("2023-02-29").is_err() && day("1969-12-31").is_err() && day("x").is_err());
        assert!(mailbox_name("a//b").is_err() && mailbox_name("inbox").is_ok_and(|n| n == "INBOX"));
    }
}

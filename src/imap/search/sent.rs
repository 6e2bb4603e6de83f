//! The date of sending (RFC 5322 §3.3, §4.3), as it is found in mail.
//!
//! Comments, missing days of the week, years of two digits, names of zones: all taken. Whatever has no
//! day, month and year is no date.

use crate::imap::parse::date::{Day, MONTHS, day_of};

/// A date of sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// The day as it is written, whatever the zone (RFC 9051 §6.4.4 SENTON).
    pub day: Day,
    /// Seconds since 1970, UTC (RFC 5256 §2.2).
    pub seconds: i64,
}

/// Reads the value of a field Date.
#[must_use]
pub fn parse(value: &[u8]) -> Option<Sent> {
    let mut tokens = Tokens { rest: value, sign: 1 };
    let mut first = tokens.next()?;
    if first[0].is_ascii_alphabetic() {
        first = tokens.next()?;
    }
    let day = digits(first, 2)?;
    let month = tokens.next()?;
    let month = MONTHS.iter().position(|m| month.get(..3).is_some_and(|n| n.eq_ignore_ascii_case(&m[..])))?;
    let year = tokens.next()?;
    let year = match (year.len(), digits(year, 4)?) {
        // RFC 5322 §4.3.
        (2, y @ 0..50) => y + 2000,
        (2 | 3, y) => y + 1900,
        (4, y) => y,
        _ => return None,
    };
    let day = day_of(year as i32, month as u32 + 1, day)?;
    let (hour, minute) = (tokens.number(24), tokens.number(60));
    let colon = tokens.rest.first() == Some(&b':');
    let second = if colon { tokens.number(61) } else { 0 };
    let of_day = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
    let zone = tokens.next().map_or(0, |zone| zone_minutes(zone, tokens.sign));
    let seconds = i64::from(day.0) * 86_400 + of_day - zone * 60;
    Some(Sent { day, seconds })
}

fn digits(token: &[u8], most: usize) -> Option<u32> {
    if token.is_empty() || token.len() > most || !token.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(token.iter().fold(0, |n, b| n * 10 + u32::from(b - b'0')))
}

/// Minutes east of UTC. Names that are not known are UTC (RFC 5322 §4.3).
fn zone_minutes(zone: &[u8], sign: i64) -> i64 {
    if let Some(n) = digits(zone, 4).filter(|_| zone.len() == 4) {
        return sign * i64::from(n / 100 * 60 + n % 100);
    }
    let hours = match zone.to_ascii_uppercase().as_slice() {
        b"EDT" => -4,
        b"EST" | b"CDT" => -5,
        b"CST" | b"MDT" => -6,
        b"MST" | b"PDT" => -7,
        b"PST" => -8,
        _ => 0,
    };
    hours * 60
}

/// Words and numbers; white space, commas, dashes, colons and comments are between them.
struct Tokens<'a> {
    rest: &'a [u8],
    /// What stood before the last token: -1 behind a minus.
    sign: i64,
}

impl<'a> Tokens<'a> {
    fn skip(&mut self) {
        let mut depth = 0usize;
        self.sign = 1;
        while let Some((&b, rest)) = self.rest.split_first() {
            match b {
                b'(' => depth += 1,
                b')' => depth = depth.saturating_sub(1),
                _ if depth > 0 => {}
                b'-' => self.sign = -1,
                _ if b.is_ascii_alphanumeric() => return,
                _ => {}
            }
            self.rest = rest;
        }
    }

    fn next(&mut self) -> Option<&'a [u8]> {
        self.skip();
        let len = self.rest.iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        let (token, rest) = self.rest.split_at(len);
        self.rest = rest;
        (len > 0).then_some(token)
    }

    /// The next number below `limit`, else 0.
    fn number(&mut self, limit: u32) -> u32 {
        self.next().and_then(|t| digits(t, 2)).filter(|n| *n < limit).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates() {
        for (value, day, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 +0000", 0, 0),
            ("1 Jan 1970 01:00 +0100", 0, 0),
            (" Wed, 31 Dec 1969 23:30:00 -0030 (comment (nested))", -1, 0),
            ("Mon (x) , 23 Nov 2026 07:00:00 GMT", 20_780, 1_795_417_200),
            ("23 Nov 26 02:00:00 EST", 20_780, 1_795_417_200),
            ("23-Nov-2026 07:00:00 +0000", 20_780, 1_795_417_200),
            ("Mon, 23 November 2026 07:00:00", 20_780, 1_795_417_200),
            ("1 Jan 70", 0, 0),
            ("1 Jan 070", 0, 0),
            ("1 Jan 1970 99:00:00", 0, 0),
        ] {
            assert_eq!(parse(value.as_bytes()), Some(Sent { day: Day(day), seconds }), "{value}");
        }
        for value in
            ["", "Mon", "Mon,", "31 Feb 2026", "1 Foo 2026", "1 Jan", "x y z", "1 Jan 12345", "(1 Jan 1970"]
        {
            assert_eq!(parse(value.as_bytes()), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(value in prop::collection::vec(any::<u8>(), 0..80), odd in "[ 0-9:,()+-JanFe]{0,50}") {
            let _ = parse(&value);
            let _ = parse(odd.as_bytes());
        }
    }
}

//! Dates as mail writes them (RFC 5322 §3.3), always in UTC.
//!
//! Takes the time as an argument and cannot fail.

use crate::base::time::{Wall, civil};

/// Length of a date in bytes: `Mon, 23 Nov 2026 07:00:00 +0000`.
pub const LEN: usize = 31;

const DAYS: &[u8; 21] = b"ThuFriSatSunMonTueWed"; // 1970-01-01 was a Thursday
const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";

/// The date of `at`. Years above 9999 show their last four digits.
#[must_use]
pub fn text(at: Wall) -> [u8; LEN] {
    let (days, second) = (at.seconds() / 86_400, at.seconds() % 86_400);
    let (year, month, day) = civil(days);
    let mut out = *b"Ddd, 00 Mmm 0000 00:00:00 +0000";
    let of_week = (days % 7) as usize * 3;
    out[..3].copy_from_slice(&DAYS[of_week..of_week + 3]);
    two(&mut out[5..7], day);
    let of_year = (month - 1) as usize * 3;
    out[8..11].copy_from_slice(&MONTHS[of_year..of_year + 3]);
    two(&mut out[12..14], year / 100);
    two(&mut out[14..16], year);
    two(&mut out[17..19], second / 3600);
    two(&mut out[20..22], second / 60 % 60);
    two(&mut out[23..25], second % 60);
    out
}

fn two(out: &mut [u8], n: u64) {
    out[0] = b'0' + (n / 10 % 10) as u8;
    out[1] = b'0' + (n % 10) as u8;
}

/// Remembers the date of the current second, so that a busy core renders it once.
#[derive(Clone, Debug)]
pub struct DateCache {
    second: u64,
    text: [u8; LEN],
}

impl Default for DateCache {
    fn default() -> Self {
        DateCache { second: 0, text: text(Wall(0)) }
    }
}

impl DateCache {
    /// The date of `at`.
    pub fn at(&mut self, at: Wall) -> &[u8; LEN] {
        if at.seconds() != self.second {
            self.second = at.seconds();
            self.text = text(at);
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, expect) in [
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (1_709_164_799, "Wed, 28 Feb 2024 23:59:59 +0000"),
            (1_709_164_800, "Thu, 29 Feb 2024 00:00:00 +0000"),
            (2_147_483_648, "Tue, 19 Jan 2038 03:14:08 +0000"),
            (1_795_417_200, "Mon, 23 Nov 2026 07:00:00 +0000"),
        ] {
            assert_eq!(text(Wall(seconds * 1000 + 999)).escape_ascii().to_string(), expect);
        }
    }

    #[test]
    fn the_cache_follows_time_both_ways() {
        let mut c = DateCache::default();
        for ms in [0, 999, 1000, 5_000_000_000_000, 1999, 0] {
            assert_eq!(c.at(Wall(ms)), &text(Wall(ms)));
        }
    }
}

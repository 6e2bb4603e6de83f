//! Dates of the grammar (RFC 9051 §9 `date`, `date-time`).
//!
//! A day is a number: days since 1970-01-01, which may be negative. Days that do not exist are errors.

use super::Parsed;
use super::input::Input;

/// Days since 1970-01-01 in the Gregorian calendar.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Day(pub i32);

/// A point in time and the zone in which it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DateTime {
    /// Seconds since 1970-01-01 00:00:00 UTC.
    pub seconds: i64,
    /// Minutes east of UTC.
    pub zone: i16,
}

/// Months as they are written, in capitals.
pub const MONTHS: [&[u8; 3]; 12] =
    [b"JAN", b"FEB", b"MAR", b"APR", b"MAY", b"JUN", b"JUL", b"AUG", b"SEP", b"OCT", b"NOV", b"DEC"];

/// The day of a date, if there is such a day; months from 1.
#[must_use]
pub fn day_of(year: i32, month: u32, day: u32) -> Option<Day> {
    const LENGTHS: [u32; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let length = *LENGTHS.get(month.checked_sub(1)? as usize)? + u32::from(leap && month == 2);
    if !(0..=9999).contains(&year) || day == 0 || day > length {
        return None;
    }
    // Counts from 0000-03-01, so that the leap day is the last of its year.
    let y = if month > 2 { year } else { year - 1 };
    let (era, m) = (y.div_euclid(400), (month + 9) % 12);
    let of_era = y.rem_euclid(400);
    let of_year = ((153 * m + 2) / 5 + day - 1) as i32;
    let days = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    Some(Day(era * 146_097 + days - 719_468))
}

/// Year, month from 1, day of the month.
#[must_use]
pub fn civil(day: Day) -> (i32, u32, u32) {
    let z = day.0 + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i32::from(month <= 2), month as u32, (doy - (153 * mp + 2) / 5 + 1) as u32)
}

const DATE: &str = "a date such as 1-Feb-2026";
const DATE_TIME: &str = "a date and time such as \"01-Feb-2026 07:00:00 +0000\"";

/// `date`: with or without quotes.
pub(super) fn date(input: &mut Input<'_>) -> Parsed<Day> {
    let quoted = input.eat(b'"');
    let day = plain(input, DATE)?;
    if quoted {
        input.need(b'"', "a closing quotation mark after the date")?;
    }
    Ok(day)
}

fn plain(input: &mut Input<'_>, expected: &'static str) -> Parsed<Day> {
    let from = input.at();
    let day = digits(input, 2);
    input.need(b'-', expected)?;
    let month = input.rest().get(..3).map(<[u8]>::to_ascii_uppercase);
    let month = MONTHS.iter().position(|m| month.as_deref() == Some(&m[..]));
    let Some(month) = month else { return input.bad_at(from, expected) };
    input.seek(input.at() + 3);
    input.need(b'-', expected)?;
    let start = input.at();
    let year = digits(input, 4);
    if input.at() != start + 4 {
        return input.bad_at(from, expected);
    }
    match day_of(year as i32, month as u32 + 1, day) {
        Some(day) => Ok(day),
        None => input.bad_at(from, "a day that exists, such as 1-Feb-2026"),
    }
}

/// At most `most` digits; nothing is 0.
fn digits(input: &mut Input<'_>, most: usize) -> u32 {
    let mut n = 0;
    for _ in 0..most {
        let Some(digit) = input.peek().filter(u8::is_ascii_digit) else { break };
        n = n * 10 + u32::from(digit - b'0');
        input.seek(input.at() + 1);
    }
    n
}

/// Exactly two digits below `limit`.
fn two(input: &mut Input<'_>, limit: u32) -> Parsed<u32> {
    let from = input.at();
    let n = digits(input, 2);
    if input.at() == from + 2 && n < limit { Ok(n) } else { input.bad_at(from, DATE_TIME) }
}

/// `date-time`, in quotes. The day may be written ` 1`, `01` or `1`.
pub(super) fn date_time(input: &mut Input<'_>) -> Parsed<DateTime> {
    input.need(b'"', DATE_TIME)?;
    input.eat(b' ');
    let day = plain(input, DATE_TIME)?;
    input.need(b' ', DATE_TIME)?;
    let hour = two(input, 24)?;
    input.need(b':', DATE_TIME)?;
    let minute = two(input, 60)?;
    input.need(b':', DATE_TIME)?;
    // A leap second counts as the next one.
    let second = two(input, 61)?;
    input.need(b' ', DATE_TIME)?;
    let sign = match input.peek() {
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return Err(input.bad(DATE_TIME)),
    };
    input.seek(input.at() + 1);
    let zone = sign * (two(input, 100)? as i16 * 60 + two(input, 60)? as i16);
    input.need(b'"', DATE_TIME)?;
    let of_day = i64::from(hour * 3600 + minute * 60 + second);
    Ok(DateTime { seconds: i64::from(day.0) * 86_400 + of_day - i64::from(zone) * 60, zone })
}

/// Length of [`write_date_time`] in bytes.
pub const DATE_TIME_LEN: usize = 28;

/// Appends `"01-Feb-2026 07:00:00 +0000"`, quotes included. Years outside of 0..=9999 wrap.
pub fn write_date_time(out: &mut Vec<u8>, at: DateTime) {
    let local = at.seconds.saturating_add(i64::from(at.zone) * 60);
    let day = Day(i32::try_from(local.div_euclid(86_400)).unwrap_or(0));
    let of_day = local.rem_euclid(86_400) as u32;
    let (year, month, of_month) = civil(day);
    let mut text = *b"\"00-Jan-0000 00:00:00 +0000\"";
    put_two(&mut text, 1, of_month);
    text[4..7].copy_from_slice(MONTHS[month as usize - 1]);
    text[5..7].make_ascii_lowercase();
    let year = year.rem_euclid(10_000) as u32;
    put_two(&mut text, 8, year / 100);
    put_two(&mut text, 10, year % 100);
    put_two(&mut text, 13, of_day / 3600);
    put_two(&mut text, 16, of_day / 60 % 60);
    put_two(&mut text, 19, of_day % 60);
    text[22] = if at.zone < 0 { b'-' } else { b'+' };
    let zone = u32::from(at.zone.unsigned_abs());
    put_two(&mut text, 23, zone / 60 % 100);
    put_two(&mut text, 25, zone % 60);
    out.extend_from_slice(&text);
}

fn put_two(text: &mut [u8], at: usize, n: u32) {
    text[at] = b'0' + (n / 10 % 10) as u8;
    text[at + 1] = b'0' + (n % 10) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn days() {
        for (text, day) in [
            ("1-Jan-1970", 0),
            ("01-jan-1970", 0),
            ("\"31-DEC-1969\"", -1),
            ("29-Feb-2000", 11_016),
            ("29-Feb-2024", 19_782),
            ("1-Mar-0000", -719_468),
        ] {
            assert_eq!(date(&mut Input::new(text.as_bytes())), Ok(Day(day)), "{text}");
        }
        for text in [
            "29-Feb-2023",
            "29-Feb-1900",
            "0-Jan-2000",
            "31-Apr-2000",
            "1-Foo-2000",
            "1-Jan-00",
            "1 Jan 2000",
            "1-Jan-",
            "-Jan-2000",
            "\"1-Jan-2000",
            "",
            "1",
            "123-Jan-2000",
            "1-J",
        ] {
            assert!(date(&mut Input::new(text.as_bytes())).is_err(), "{text}");
        }
    }

    #[test]
    fn dates_and_times() {
        for (text, seconds, zone) in [
            ("\" 1-Jan-1970 00:00:00 +0000\"", 0, 0),
            ("\"1-Jan-1970 01:00:00 +0100\"", 0, 60),
            ("\"31-Dec-1969 19:30:00 -0430\"", 0, -270),
            ("\"23-Nov-2026 07:00:00 +0000\"", 1_795_417_200, 0),
        ] {
            assert_eq!(date_time(&mut Input::new(text.as_bytes())), Ok(DateTime { seconds, zone }), "{text}");
        }
        for text in [
            "\"01-Jan-1970 24:00:00 +0000\"",
            "\"01-Jan-1970 1:00:00 +0000\"",
            "\"01-Jan-1970 01:00:00 0000\"",
            "\"01-Jan-1970 01:00:00 +00:00\"",
            "\"01-Jan-1970 01:00:00 GMT\"",
            "\"01-Jan-1970 01:00:00 +0000",
            "01-Jan-1970 01:00:00 +0000",
        ] {
            assert!(date_time(&mut Input::new(text.as_bytes())).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in -62_000_000_000i64..250_000_000_000, zone in -720i16..=840) {
            let at = DateTime { seconds, zone };
            let mut out = Vec::new();
            write_date_time(&mut out, at);
            prop_assert_eq!(out.len(), DATE_TIME_LEN);
            prop_assert_eq!(date_time(&mut Input::new(&out)), Ok(at));
        }

        #[test]
        fn both_ways_agree(day in -719_000i32..2_900_000) {
            let (y, m, d) = civil(Day(day));
            prop_assert_eq!(day_of(y, m, d), Some(Day(day)));
        }
    }
}

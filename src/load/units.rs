//! Sizes, durations and shares as people write them on the command line.
//!
//! Owns their parsing; every error is a sentence that names the text. Knows no options.

use std::time::Duration;

/// Parses `1024`, `10KiB`, `1MiB`, `1k`, `1M` (powers of 1024) into bytes.
///
/// # Errors
/// A sentence, if the text is not a number with one of these units or does not fit 64 bits.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" | "kb" => 1 << 10,
        "m" | "mib" | "mb" => 1 << 20,
        "g" | "gib" | "gb" => 1 << 30,
        _ => return Err(format!("\"{text}\" is not a size such as 1024, 10KiB or 1MiB")),
    };
    let n: u64 = number.parse().map_err(|_| format!("\"{text}\" is not a size such as 1024 or 10KiB"))?;
    n.checked_mul(factor).ok_or_else(|| format!("\"{text}\" is too large"))
}

/// Parses `500us`, `50ms`, `30s`, `5m`, `2h`, and plain numbers as seconds.
///
/// # Errors
/// A sentence, if the text is none of these or is over 100 years.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is not a duration such as 50ms, 30s or 5m");
    let (number, unit) = split(text);
    let n: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "us" => n / 1e6,
        "ms" => n / 1e3,
        "" | "s" => n,
        "m" => n * 60.0,
        "h" => n * 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).ok().filter(|d| d.as_secs() < 3_200_000_000).ok_or_else(wrong)
}

/// Parses `10%`, `0.5%` or `0.005` into parts per million, 0..=1_000_000.
///
/// # Errors
/// A sentence, if the text is not a share of at most 100 %.
pub fn share(text: &str) -> Result<u32, String> {
    let wrong = || format!("\"{text}\" is not a share such as 10% or 0.1");
    let (number, factor) = match text.strip_suffix('%') {
        Some(n) => (n, 1e4),
        None => (text, 1e6),
    };
    let n: f64 = number.trim().parse().map_err(|_| wrong())?;
    let ppm = (n * factor).round();
    if (0.0..=1e6).contains(&ppm) { Ok(ppm as u32) } else { Err(wrong()) }
}

/// Parses `500`, `500/s`, `3000/min` or `none` into messages per second.
///
/// # Errors
/// A sentence, if the text is none of these or the rate is not above zero.
pub fn rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("\"{text}\" is not a rate such as 500/s or 3000/min");
    let (number, factor) = match text.split_once('/') {
        None | Some((_, "s")) => (text.trim_end_matches("/s"), 1.0),
        Some((n, "min")) => (n, 1.0 / 60.0),
        Some(_) => return Err(wrong()),
    };
    let n: f64 = number.parse().map_err(|_| wrong())?;
    if n.is_finite() && n > 0.0 { Ok(n * factor) } else { Err(wrong()) }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        assert_eq!(size("10KiB"), Ok(10_240));
        assert_eq!(size("1 MiB"), Ok(1 << 20));
        assert!(size("10 parsecs").is_err() && size("").is_err() && size("99999999999G").is_err());
        assert_eq!(duration("50ms"), Ok(Duration::from_millis(50)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert!(duration("soon").is_err() && duration("1d").is_err() && duration("1e30").is_err());
        assert_eq!(share("10%"), Ok(100_000));
        assert_eq!(share("0.5%"), Ok(5_000));
        assert_eq!(share("1"), Ok(1_000_000));
        assert!(share("101%").is_err() && share("-1%").is_err() && share("x").is_err());
        assert_eq!(rate("500/s"), Ok(500.0));
        assert_eq!(rate("3000/min"), Ok(50.0));
        assert!(rate("0").is_err() && rate("5/week").is_err());
    }
}

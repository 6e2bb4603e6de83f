//! Values as operators write them: durations, sizes, rates, networks, listening addresses.
//!
//! Owns their text form, both ways (`FromStr` and `Display` agree). Knows no key and no file; an
//! error says what was expected, and the caller adds where.

use ipnet::IpNet;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Gives a type with `FromStr<Err = String>` and `Display` its form in the file: a string, or a
/// bare whole number where that means the same (`0`).
macro_rules! text_form {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a string")
                    }
                    fn visit_str<E: de::Error>(self, v: &str) -> Result<$type, E> {
                        v.parse().map_err(E::custom)
                    }
                    fn visit_i64<E: de::Error>(self, v: i64) -> Result<$type, E> {
                        v.to_string().parse().map_err(E::custom)
                    }
                }
                d.deserialize_any(Text)
            }
        }
    };
}

/// A length of time: `"250ms"`, `"30s"`, `"5m"`, `"4h"`, `"5d"`; `0` alone is zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Duration(pub std::time::Duration);

impl Duration {
    /// `n` whole seconds.
    #[must_use]
    pub const fn s(n: u64) -> Self {
        Duration(std::time::Duration::from_secs(n))
    }

    /// The limit this is, or `None` if it is turned off (zero).
    #[must_use]
    pub fn limit(self) -> Option<std::time::Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

const TIMES: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a duration: write \"250ms\", \"30s\", \"5m\", \"4h\" or \"5d\"");
        let (number, unit) = split(text).ok_or_else(wrong)?;
        if unit.is_empty() && number == 0 {
            return Ok(Self::default());
        }
        let factor = TIMES.iter().find(|(u, _)| *u == unit).ok_or_else(wrong)?.1;
        let ms = number.checked_mul(factor).filter(|ms| *ms <= 100 * 365 * 86_400_000);
        let ms = ms.ok_or_else(|| format!("{text:?} is longer than 100 years"))?;
        Ok(Duration(std::time::Duration::from_millis(ms)))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if ms == 0 {
            return f.write_str("0s");
        }
        let (unit, factor) = TIMES.iter().find(|(_, n)| ms.is_multiple_of(*n)).expect("ms divides");
        write!(f, "{}{unit}", ms / factor)
    }
}
text_form!(Duration);

/// A number of bytes: `"64KiB"`, `"50MiB"`, `"4GiB"`, `"1TiB"`, or a bare number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Size(pub u64);

impl Size {
    /// `n` KiB.
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Size(n << 10)
    }

    /// `n` MiB.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Size(n << 20)
    }

    /// The limit in bytes, or `None` if it is turned off (zero).
    #[must_use]
    pub fn limit(self) -> Option<u64> {
        (self.0 != 0).then_some(self.0)
    }
}

const SIZES: &[(&str, u64)] =
    &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text).ok_or_else(|| {
            format!("{text:?} is not a size: write \"64KiB\", \"50MiB\", \"4GiB\" or bytes")
        })?;
        let factor = SIZES.iter().find(|(u, _)| *u == unit).map(|(_, n)| *n).ok_or_else(|| {
            // "50MB" is 50,000,000 to some and 52,428,800 to others: nobody has to guess here.
            let guess = unit.chars().next().map_or('M', |c| c.to_ascii_uppercase());
            format!(
                "the unit {unit:?} of {text:?} is none of KiB MiB GiB TiB: is \"{number}{guess}iB\" meant?"
            )
        })?;
        number.checked_mul(factor).map(Size).ok_or_else(|| format!("{text:?} is too large"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) =
            SIZES.iter().find(|(_, n)| self.0 != 0 && self.0.is_multiple_of(*n)).unwrap_or(&("", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}
text_form!(Size);

/// How often something may happen: `"100/min"`, `"10/s"`, `"5000/h"`, `"1/d"`, or `"none"` (no limit).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rate(pub Option<PerTime>);

/// `count` times in `per`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PerTime {
    /// At least 1.
    pub count: u32,
    /// One second, minute, hour or day.
    pub per: std::time::Duration,
}

const PERIODS: &[(&str, u64)] = &[("s", 1), ("min", 60), ("h", 3600), ("d", 86_400)];

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a rate: write \"100/min\" (s, min, h, d) or \"none\"");
        if text == "none" || text == "0" {
            return Ok(Rate(None));
        }
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let count: u32 = count.trim().parse().map_err(|_| wrong())?;
        let seconds = PERIODS.iter().find(|(u, _)| *u == unit.trim()).ok_or_else(wrong)?.1;
        let per = std::time::Duration::from_secs(seconds);
        Ok(Rate((count > 0).then_some(PerTime { count, per })))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(PerTime { count, per }) = self.0 else { return f.write_str("none") };
        let unit = PERIODS.iter().find(|(_, s)| *s == per.as_secs()).map_or("s", |(u, _)| u);
        write!(f, "{count}/{unit}")
    }
}
text_form!(Rate);

/// Bytes per time: `"10MiB/min"`; `"none"` or a size of 0 is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRate(pub Option<BytesPerTime>);

/// `bytes` in `per`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BytesPerTime {
    /// At least 1.
    pub bytes: u64,
    /// One second, minute, hour or day.
    pub per: std::time::Duration,
}

impl FromStr for ByteRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a rate: write \"10MiB/min\" (s, min, h, d) or \"none\"");
        if text == "none" || text == "0" {
            return Ok(ByteRate(None));
        }
        let (size, unit) = text.split_once('/').ok_or_else(wrong)?;
        let bytes = size.trim().parse::<Size>().map_err(|_| wrong())?.0;
        let seconds = PERIODS.iter().find(|(u, _)| *u == unit.trim()).ok_or_else(wrong)?.1;
        let per = std::time::Duration::from_secs(seconds);
        Ok(ByteRate((bytes > 0).then_some(BytesPerTime { bytes, per })))
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(BytesPerTime { bytes, per }) = self.0 else { return f.write_str("none") };
        let unit = PERIODS.iter().find(|(_, s)| *s == per.as_secs()).map_or("s", |(u, _)| u);
        write!(f, "{}/{unit}", Size(bytes))
    }
}
text_form!(ByteRate);

/// A network: `"192.0.2.0/24"`, `"2001:db8::/32"`, or a single address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network(pub IpNet);

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.replace(['[', ']'], "");
        if let Ok(ip) = bare.parse::<std::net::IpAddr>() {
            return Ok(Network(IpNet::from(ip)));
        }
        let net: IpNet = bare.parse().map_err(|_| {
            format!("{text:?} is not a network: write \"192.0.2.0/24\", \"2001:db8::/32\" or an address")
        })?;
        if net.addr() != net.network() {
            return Err(format!("{text:?} has bits set behind the prefix: is \"{}\" meant?", net.trunc()));
        }
        Ok(Network(net))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
text_form!(Network);

/// Where to listen: `"0.0.0.0:25"`, `"[::]:25"`, `"unix:/path"`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listen {
    /// TCP.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let absolute = path.starts_with('/');
            return absolute
                .then(|| Listen::Unix(path.into()))
                .ok_or_else(|| format!("{text:?}: the path of a socket must begin with /"));
        }
        text.parse().map(Listen::Tcp).map_err(|_| {
            format!(
                "{text:?} is not an address to listen on: write \"0.0.0.0:25\", \"[::]:25\" or \"unix:/path\""
            )
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(a) => a.fmt(f),
            Listen::Unix(p) => write!(f, "unix:{}", p.display()),
        }
    }
}
text_form!(Listen);

/// A value or nothing (`""`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Maybe<T>(pub Option<T>);

impl<T: fmt::Display> Serialize for Maybe<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(v) => s.collect_str(v),
            None => s.serialize_str(""),
        }
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Maybe<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        if text.is_empty() {
            return Ok(Maybe(None));
        }
        text.parse().map(|v| Maybe(Some(v))).map_err(|e| de::Error::custom(format_args!("{text:?}: {e}")))
    }
}

/// One value, or a list of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Many<T>(pub Vec<T>);

impl<T: Serialize> Serialize for Many<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de, T: Deserialize<'de> + FromStr<Err = String>> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct OneOrMany<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de> + FromStr<Err = String>> Visitor<'de> for OneOrMany<T> {
            type Value = Many<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Many<T>, E> {
                v.parse().map(|v| Many(vec![v])).map_err(E::custom)
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Many<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(v) = list.next_element()? {
                    all.push(v);
                }
                Ok(Many(all))
            }
        }
        d.deserialize_any(OneOrMany(std::marker::PhantomData))
    }
}

/// Which cores serve a role.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Cores {
    /// As many as seems right.
    #[default]
    Auto,
    /// So many threads.
    Count(u32),
    /// One thread on each of these CPUs.
    List(Vec<u32>),
}

impl Serialize for Cores {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Cores::Auto => s.serialize_str("auto"),
            Cores::Count(n) => s.serialize_u32(*n),
            Cores::List(l) => l.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Form;
        const CPUS: u32 = 4096;
        impl<'de> Visitor<'de> for Form {
            type Value = Cores;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\", a count, or a list of CPU numbers")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Cores, E> {
                if v == "auto" {
                    Ok(Cores::Auto)
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(v), &self))
                }
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Cores, E> {
                let n = u32::try_from(v).ok().filter(|n| (1..=CPUS).contains(n));
                n.map(Cores::Count)
                    .ok_or_else(|| E::custom(format_args!("{v} is not a count from 1 to {CPUS}")))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Cores, A::Error> {
                let mut cpus = Vec::new();
                while let Some(cpu) = list.next_element::<u32>()? {
                    if cpus.contains(&cpu) || cpu >= CPUS {
                        return Err(de::Error::custom(format_args!(
                            "CPU {cpu} is named twice or not below {CPUS}"
                        )));
                    }
                    cpus.push(cpu);
                }
                if cpus.is_empty() {
                    return Err(de::Error::custom("an empty list of CPUs: leave the key out for \"auto\""));
                }
                Ok(Cores::List(cpus))
            }
        }
        d.deserialize_any(Form)
    }
}

/// A whole number and what follows it.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..digits].parse().ok()?;
    Some((number, text[digits..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(s: &str) -> Result<u64, String> {
        s.parse::<Duration>().map(|d| u64::try_from(d.0.as_millis()).unwrap())
    }

    #[test]
    fn durations() {
        assert_eq!(time("30s"), Ok(30_000));
        assert_eq!(time("5m"), Ok(300_000));
        assert_eq!(time("4h"), Ok(14_400_000));
        assert_eq!(time("5d"), Ok(432_000_000));
        assert_eq!(time("4000s"), Ok(4_000_000));
        assert_eq!(time("250ms"), Ok(250));
        assert_eq!(time("0"), Ok(0));
        for bad in ["", "5", "m", "-5s", "5 weeks", "1.5h", "99999999999999999999s", "40000d"] {
            assert!(time(bad).is_err(), "{bad}");
        }
        for text in ["0s", "250ms", "30s", "5m", "4h", "5d", "4000s"] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), text);
        }
        assert_eq!(Duration::s(0).limit(), None);
    }

    #[test]
    fn sizes() {
        assert_eq!("64KiB".parse(), Ok(Size(65_536)));
        assert_eq!("2048".parse(), Ok(Size(2048)));
        assert_eq!("0".parse(), Ok(Size(0)));
        assert!("50MB".parse::<Size>().unwrap_err().contains("\"50MiB\""));
        assert!("99999999TiB".parse::<Size>().is_err());
        assert!("-1KiB".parse::<Size>().is_err());
        for text in ["0", "500", "64KiB", "50MiB", "4GiB", "1TiB"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!("1024MiB".parse::<Size>().unwrap().to_string(), "1GiB");
    }

    #[test]
    fn rates() {
        let per = std::time::Duration::from_secs(60);
        assert_eq!("100/min".parse(), Ok(Rate(Some(PerTime { count: 100, per }))));
        assert_eq!("none".parse(), Ok(Rate(None)));
        for text in ["100/min", "10/s", "5000/h", "1/d", "none"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for bad in ["100", "100/m", "/min", "x/s", "-1/s", ""] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
        assert_eq!("10MiB/min".parse(), Ok(ByteRate(Some(BytesPerTime { bytes: 10 << 20, per }))));
        for text in ["10MiB/min", "1GiB/d", "none"] {
            assert_eq!(text.parse::<ByteRate>().unwrap().to_string(), text);
        }
        for bad in ["10MiB", "10MB/s", "/s", ""] {
            assert!(bad.parse::<ByteRate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!("[::1]".parse::<Network>().unwrap().to_string(), "::1/128");
        assert_eq!("10.0.0.0/8".parse::<Network>().unwrap().to_string(), "10.0.0.0/8");
        assert!("10.1.0.0/8".parse::<Network>().unwrap_err().contains("10.0.0.0/8"));
        assert!("10.0.0.0/33".parse::<Network>().is_err());
        assert!(matches!("[::]:25".parse(), Ok(Listen::Tcp(_))));
        assert!(matches!("unix:/run/x".parse(), Ok(Listen::Unix(_))));
        for bad in ["unix:run/x", "25", "mx.example:25", "[::]", ":25"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }
}

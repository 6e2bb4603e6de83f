//! L2: TLSA records (RFC 6698) as SMTP uses them (RFC 7671, RFC 7672): which can be used, and what a
//! server has shown that fits them.
//!
//! Works on DER bytes that somebody else has taken apart. Knows no DNS, no TLS and no chain of
//! certificates: that a matching authority has issued the server's certificate is found out by the
//! caller. A record that makes no sense is unusable, never an error.

use sha2::{Digest, Sha256, Sha512};

/// Records looked at of one answer.
pub const RECORDS_MAX: usize = 50;

/// One record as DNS has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Record {
    /// RFC 6698 §2.1.1.
    pub usage: u8,
    /// RFC 6698 §2.1.2.
    pub selector: u8,
    /// RFC 6698 §2.1.3.
    pub matching: u8,
    /// Certificate association data.
    pub data: Vec<u8>,
}

/// What a usable record is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Usage {
    /// 2, DANE-TA: an authority.
    Authority,
    /// 3, DANE-EE: the server's own certificate or key.
    Server,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Selector {
    Certificate,
    Key,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Matching {
    Exact,
    Sha256,
    Sha512,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Pin {
    usage: Usage,
    selector: Selector,
    matching: Matching,
    data: Vec<u8>,
}

/// A certificate that a server has shown.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// All of it, in DER.
    pub certificate: &'a [u8],
    /// Its SubjectPublicKeyInfo, in DER; empty if it cannot be read.
    pub key: &'a [u8],
}

/// The usable records of an answer. Empty: TLS is demanded, but nothing can be proven
/// (RFC 7672 §2.2).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pins(Vec<Pin>);

impl Pins {
    /// Those of the records that can be used.
    #[must_use]
    pub fn of(records: &[Record]) -> Self {
        let mut pins: Vec<Pin> = records.iter().take(RECORDS_MAX).filter_map(pin).collect();
        pins.sort_unstable();
        pins.dedup();
        // RFC 7671 §9: of the digests of one usage and selector only the strongest counts.
        let strong = |p: &Pin| (p.matching == Matching::Sha512).then_some((p.usage, p.selector));
        let strongest: Vec<_> = pins.iter().filter_map(strong).collect();
        pins.retain(|p| p.matching != Matching::Sha256 || !strongest.contains(&(p.usage, p.selector)));
        Pins(pins)
    }

    /// True if no record can be used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many can be used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The server's own certificate is one that the records name (usage 3). RFC 7672 §3.1.1: neither
    /// its names nor its dates matter then.
    #[must_use]
    pub fn names_server(&self, own: &Shown<'_>) -> bool {
        self.0.iter().any(|p| p.usage == Usage::Server && p.fits(own))
    }

    /// The certificate is that of an authority that the records name (usage 2).
    #[must_use]
    pub fn names_authority(&self, shown: &Shown<'_>) -> bool {
        self.0.iter().any(|p| p.usage == Usage::Authority && p.fits(shown))
    }

    /// Authorities whose whole certificate the records have: servers may leave them out of what they
    /// show (RFC 7672 §3.1.2).
    pub fn whole_authorities(&self) -> impl Iterator<Item = &[u8]> {
        let whole = |p: &&Pin| {
            (p.usage, p.selector, p.matching) == (Usage::Authority, Selector::Certificate, Matching::Exact)
        };
        self.0.iter().filter(whole).map(|p| &p.data[..])
    }
}

/// The record, if it can be used.
fn pin(record: &Record) -> Option<Pin> {
    let usage = match record.usage {
        2 => Usage::Authority,
        3 => Usage::Server,
        // RFC 7672 §3.1.3: PKIX-TA and PKIX-EE have no meaning between mail servers.
        _ => return None,
    };
    let selector = match record.selector {
        0 => Selector::Certificate,
        1 => Selector::Key,
        _ => return None,
    };
    let (matching, length) = match record.matching {
        0 => (Matching::Exact, record.data.len()),
        1 => (Matching::Sha256, 32),
        2 => (Matching::Sha512, 64),
        _ => return None,
    };
    let sound = !record.data.is_empty() && record.data.len() == length;
    sound.then(|| Pin { usage, selector, matching, data: record.data.clone() })
}

impl Pin {
    fn fits(&self, shown: &Shown<'_>) -> bool {
        let bytes = match self.selector {
            Selector::Certificate => shown.certificate,
            Selector::Key => shown.key,
        };
        if bytes.is_empty() {
            return false;
        }
        match self.matching {
            Matching::Exact => self.data == bytes,
            Matching::Sha256 => self.data[..] == Sha256::digest(bytes)[..],
            Matching::Sha512 => self.data[..] == Sha512::digest(bytes)[..],
        }
    }
}

impl std::fmt::Display for Record {
    /// The form of zone files, long data cut off.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} ", self.usage, self.selector, self.matching)?;
        self.data.iter().take(64).try_for_each(|b| write!(f, "{b:02x}"))?;
        if self.data.len() > 64 { f.write_str("...") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &[u8] = b"a whole certificate";
    const KEY: &[u8] = b"its key";
    const SHOWN: Shown<'_> = Shown { certificate: CERTIFICATE, key: KEY };

    fn record(usage: u8, selector: u8, matching: u8, data: &[u8]) -> Record {
        Record { usage, selector, matching, data: data.to_vec() }
    }

    fn digests(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
        (Sha256::digest(bytes).to_vec(), Sha512::digest(bytes).to_vec())
    }

    #[test]
    fn each_selector_and_matching_type() {
        for (selector, bytes) in [(0, CERTIFICATE), (1, KEY)] {
            let (short, long) = digests(bytes);
            for (matching, data) in [(0, bytes), (1, &short[..]), (2, &long[..])] {
                let of = |usage| Pins::of(&[record(usage, selector, matching, data)]);
                assert!(of(3).names_server(&SHOWN) && !of(3).names_authority(&SHOWN));
                assert!(of(2).names_authority(&SHOWN) && !of(2).names_server(&SHOWN));
                let other = Shown { certificate: b"another", key: b"other" };
                assert!(!of(3).names_server(&other) && !of(2).names_authority(&other));
                let unreadable = Shown { certificate: CERTIFICATE, key: b"" };
                assert_eq!(of(3).names_server(&unreadable), selector == 0);
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_unusable() {
        let (short, long) = digests(KEY);
        for unusable in [
            record(0, 1, 1, &short),
            record(1, 1, 1, &short),
            record(4, 1, 1, &short),
            record(255, 1, 1, &short),
            record(3, 2, 1, &short),
            record(3, 1, 3, &short),
            record(3, 1, 1, &short[1..]),
            record(3, 1, 2, &short),
            record(3, 1, 1, &long),
            record(3, 1, 0, b""),
        ] {
            assert!(Pins::of(std::slice::from_ref(&unusable)).is_empty(), "{unusable}");
        }
        assert!(Pins::of(&[]).is_empty());
        let many = vec![record(0, 1, 1, &short); RECORDS_MAX];
        assert!(Pins::of(&[many, vec![record(3, 1, 1, &short)]].concat()).is_empty(), "bounded");
    }

    #[test]
    fn the_strongest_digest_decides() {
        let (short, long) = digests(KEY);
        let (_, wrong) = digests(b"other");
        let both = [record(3, 1, 1, &short), record(3, 1, 2, &wrong)];
        assert!(!Pins::of(&both).names_server(&SHOWN), "SHA-256 fits, SHA-512 does not");
        let both = [record(3, 1, 1, &digests(b"other").0), record(3, 1, 2, &long)];
        assert!(Pins::of(&both).names_server(&SHOWN));
        // Of another selector or usage: nothing to do with it.
        let apart = [record(3, 1, 1, &short), record(3, 0, 2, &wrong), record(2, 1, 2, &wrong)];
        assert!(Pins::of(&apart).names_server(&SHOWN));
        let exact = [record(3, 1, 0, KEY), record(3, 1, 2, &wrong)];
        assert!(Pins::of(&exact).names_server(&SHOWN), "whole data is no digest");
    }

    #[test]
    fn whole_authorities_are_told() {
        let (short, _) = digests(CERTIFICATE);
        let pins = Pins::of(&[record(2, 0, 0, CERTIFICATE), record(2, 0, 1, &short), record(3, 0, 0, KEY)]);
        assert_eq!(pins.whole_authorities().collect::<Vec<_>>(), [CERTIFICATE]);
        assert_eq!(pins.len(), 3);
        let text = record(3, 1, 1, &[0xab, 1]).to_string();
        assert_eq!(text, "3 1 1 ab01");
        assert!(record(3, 1, 0, &[0; 65]).to_string().ends_with("00..."));
    }
}

//! The few fields of an X.509 certificate that we need ourselves: validity, names, and the digest of
//! its signature.
//!
//! Reads DER in place, without recursion and within the bounds of the slice. Checks no signature and
//! no rule: the TLS library does. What is not as RFC 5280 says gives `None`.

use aws_lc_rs::digest;

/// What a certificate says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Facts {
    /// Seconds since the Unix epoch; negative before 1970.
    pub not_before: i64,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
    /// Mail addresses of subjectAltName.
    pub emails: Vec<String>,
    /// Host names of subjectAltName.
    pub hosts: Vec<String>,
    /// The last common name of the subject.
    pub common_name: Option<String>,
}

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// id-ce-subjectAltName (2.5.29.17) and id-at-commonName (2.5.4.3).
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// Elements one after another.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element: tag and contents.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut len = usize::from(first);
        if first >= 0x80 {
            // At most four bytes of length: certificates are not larger.
            let bytes = usize::from(first & 0x7f);
            if !(1..=4).contains(&bytes) || rest.len() < bytes {
                return None;
            }
            len = rest[..bytes].iter().fold(0, |n, b| (n << 8) | usize::from(*b));
            rest = &rest[bytes..];
        }
        let contents = rest.get(..len)?;
        self.0 = &rest[len..];
        Some((tag, contents))
    }

    /// The contents of the next element, which must have this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(t, _)| *t == tag).map(|(_, contents)| contents)
    }

    /// The same if it has this tag; else it stays.
    fn take_if(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.first() == Some(&tag) { self.take(tag) } else { None }
    }
}

/// Reads a certificate (RFC 5280 §4.1).
pub(super) fn facts(certificate: &[u8]) -> Option<Facts> {
    let mut outer = Der(Der(certificate).take(SEQUENCE)?);
    let mut tbs = Der(outer.take(SEQUENCE)?);
    // version [0], serialNumber, signature, issuer
    tbs.take_if(0xa0);
    tbs.take(INTEGER)?;
    tbs.take(SEQUENCE)?;
    tbs.take(SEQUENCE)?;
    let mut validity = Der(tbs.take(SEQUENCE)?);
    let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
    let common_name = common_name(Der(tbs.take(SEQUENCE)?));
    tbs.take(SEQUENCE)?;
    tbs.take_if(0xa1).or_else(|| tbs.take_if(0x81));
    tbs.take_if(0xa2).or_else(|| tbs.take_if(0x82));
    let mut facts = Facts { not_before, not_after, emails: Vec::new(), hosts: Vec::new(), common_name };
    if let Some(explicit) = tbs.take_if(0xa3) {
        let mut extensions = Der(Der(explicit).take(SEQUENCE)?);
        while !extensions.0.is_empty() {
            let mut extension = Der(extensions.take(SEQUENCE)?);
            let is_names = extension.take(OID)? == SUBJECT_ALT_NAME;
            extension.take_if(BOOLEAN);
            let value = extension.take(OCTETS)?;
            if is_names {
                alternative_names(Der(value).take(SEQUENCE)?, &mut facts)?;
            }
        }
    }
    Some(facts)
}

/// GeneralNames: rfc822Name [1] and dNSName [2].
fn alternative_names(names: &[u8], facts: &mut Facts) -> Option<()> {
    let mut names = Der(names);
    while !names.0.is_empty() {
        let (tag, name) = names.next()?;
        let list = match tag {
            0x81 => &mut facts.emails,
            0x82 => &mut facts.hosts,
            _ => continue,
        };
        list.extend(text(name));
    }
    Some(())
}

/// Text without control characters; nothing else is a name.
fn text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

fn common_name(mut subject: Der<'_>) -> Option<String> {
    let mut found = None;
    while let Some(set) = subject.take(SET) {
        let mut attributes = Der(set);
        while let Some(attribute) = attributes.take(SEQUENCE) {
            let mut attribute = Der(attribute);
            // UTF8String, PrintableString, TeletexString (as ASCII), IA5String.
            if attribute.take(OID)? == COMMON_NAME
                && let Some((0x0c | 0x13 | 0x14 | 0x16, value)) = attribute.next()
            {
                found = text(value).or(found);
            }
        }
    }
    found
}

/// RFC 5280 §4.1.2.5: UTCTime until 2049, GeneralizedTime from 2050 on; both in UTC with seconds.
fn time(der: &mut Der<'_>) -> Option<i64> {
    let (tag, value) = der.next()?;
    let digits = value.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let pair =
        |at: usize| digits.get(at..at + 2).map(|d| i64::from(d[0] - b'0') * 10 + i64::from(d[1] - b'0'));
    let (year, at) = match (tag, digits.len()) {
        (UTC_TIME, 12) => (pair(0).map(|y| if y < 50 { 2000 + y } else { 1900 + y })?, 2),
        (GENERALIZED_TIME, 14) => (pair(0)? * 100 + pair(2)?, 4),
        _ => return None,
    };
    let (month, day) = (pair(at)?, pair(at + 2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(days(year, month, day) * 86_400 + pair(at + 4)? * 3600 + pair(at + 6)? * 60 + pair(at + 8)?)
}

/// Days since 1970-01-01 of a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last one.
    let y = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + of_year - 719_468
}

/// The digest for `tls-server-end-point` (RFC 5929 §4.1): that of the certificate's signature, with
/// SHA-256 in place of MD5 and SHA-1. None: the signature has no one digest.
pub(super) fn end_point_digest(certificate: &[u8]) -> Option<&'static digest::Algorithm> {
    let mut outer = Der(Der(certificate).take(SEQUENCE)?);
    outer.take(SEQUENCE)?;
    let mut algorithm = Der(outer.take(SEQUENCE)?);
    match algorithm.take(OID)? {
        // PKCS #1 v1.5 (RFC 8017 appendix A.2.4)
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, n] => match n {
            4 | 5 | 11 => Some(&digest::SHA256),
            12 => Some(&digest::SHA384),
            13 => Some(&digest::SHA512),
            14 => Some(&digest::SHA224),
            10 => pss_digest(algorithm),
            _ => None,
        },
        // ECDSA (RFC 5758 §3.2)
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01] => Some(&digest::SHA256),
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, n] => match n {
            1 => Some(&digest::SHA224),
            2 => Some(&digest::SHA256),
            3 => Some(&digest::SHA384),
            4 => Some(&digest::SHA512),
            _ => None,
        },
        _ => None,
    }
}

/// RSASSA-PSS-params (RFC 4055 §3.1); without a hash it is SHA-1.
fn pss_digest(mut rest: Der<'_>) -> Option<&'static digest::Algorithm> {
    let Some(hash) = Der(rest.take(SEQUENCE)?).take_if(0xa0) else { return Some(&digest::SHA256) };
    match Der(Der(hash).take(SEQUENCE)?).take(OID)? {
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 1] => Some(&digest::SHA256),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 2] => Some(&digest::SHA384),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 3] => Some(&digest::SHA512),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 4] => Some(&digest::SHA224),
        [0x2b, 0x0e, 0x03, 0x02, 0x1a] => Some(&digest::SHA256),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::{Maker, WORDS};
    use proptest::prelude::*;

    #[test]
    fn facts_of_a_certificate() {
        let made =
            Maker::new().hosts(&["mx.example", "*.b.example"]).email("a@b.example").common("Ann").make();
        let facts = facts(&made.der).unwrap();
        assert_eq!(facts.hosts, ["mx.example", "*.b.example"]);
        assert_eq!((facts.emails, facts.common_name.as_deref()), (vec!["a@b.example".into()], Some("Ann")));
        // 1975-01-01 and 4096-01-01, the library's default dates.
        assert_eq!((facts.not_before, facts.not_after), (157_766_400, 67_090_118_400));
        assert_eq!(end_point_digest(&made.der), Some(&digest::SHA256));
    }

    #[test]
    fn times() {
        let of = |tag: u8, text: &str| {
            let mut bytes = vec![tag, text.len() as u8];
            bytes.extend_from_slice(text.as_bytes());
            time(&mut Der(&bytes))
        };
        assert_eq!(of(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(of(UTC_TIME, "000229120000Z"), Some(951_825_600));
        assert_eq!(of(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(of(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        assert_eq!(of(GENERALIZED_TIME, "19000301000000Z"), Some(-2_203_891_200));
        for (tag, wrong) in [
            (UTC_TIME, "7001010000Z"),
            (UTC_TIME, "700101000000"),
            (UTC_TIME, "701301000000Z"),
            (UTC_TIME, "7001010000:0Z"),
            (GENERALIZED_TIME, "700101000000Z"),
            (INTEGER, "700101000000Z"),
        ] {
            assert_eq!(of(tag, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn digests_by_signature() {
        let with = |oid: &[u8], parameters: &[u8]| {
            let wrap = |tag: u8, parts: &[&[u8]]| {
                let all = parts.concat();
                [&[tag, all.len() as u8][..], &all].concat()
            };
            let algorithm = wrap(SEQUENCE, &[&wrap(OID, &[oid]), parameters]);
            end_point_digest(&wrap(SEQUENCE, &[&wrap(SEQUENCE, &[]), &algorithm]))
        };
        let rsa = |n| with(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, n], &[5, 0]);
        assert_eq!(rsa(5), Some(&digest::SHA256), "SHA-1 is replaced");
        assert_eq!((rsa(12), rsa(13)), (Some(&digest::SHA384), Some(&digest::SHA512)));
        let pss = |parameters: &[u8]| with(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 10], parameters);
        assert_eq!(pss(&[0x30, 0]), Some(&digest::SHA256));
        let sha384 = [0x30, 15, 0xa0, 13, 0x30, 11, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
        assert_eq!(pss(&sha384), Some(&digest::SHA384));
        assert_eq!(with(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4], &[]), Some(&digest::SHA512));
        assert_eq!(with(&[0x2b, 0x65, 0x70], &[]), None, "Ed25519");
    }

    proptest! {
        /// Whatever a client sends as its certificate: no panic.
        #[test]
        fn damaged_certificates(at in 0usize..400, to in any::<u8>(), cut in 0usize..600) {
            let mut der = WORDS.get_or_init(|| Maker::new().email("a@b.example").make().der).clone();
            let (at, cut) = (at % der.len(), cut.min(der.len()));
            der[at] = to;
            facts(&der);
            end_point_digest(&der);
            facts(&der[..cut]);
            end_point_digest(&der[cut..]);
        }
    }
}

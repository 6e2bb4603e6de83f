//! Domain names and address literals as they stand in addresses and EHLO (RFC 5321 §4.1.2, §4.1.3).
//!
//! Judges bytes and never changes them. Domains compare without regard to ASCII case.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest domain in bytes (RFC 5321 §4.5.3.1.2).
pub const DOMAIN_MAX: usize = 255;
/// Longest label in bytes (RFC 1035 §2.3.4).
pub const LABEL_MAX: usize = 63;

/// True for a domain name: labels of letters, digits, hyphens and underscores (not in the RFC,
/// but in use), and of bytes above 127, whose UTF-8 the caller checks. No dot at either end.
#[must_use]
pub fn is_name(bytes: &[u8]) -> bool {
    if bytes.is_empty() || bytes.len() > DOMAIN_MAX {
        return false;
    }
    let (mut start, mut bad) = (0, false);
    for (at, &b) in bytes.iter().enumerate() {
        let class = CLASS[usize::from(b)];
        bad |= class == BAD;
        if class == DOT {
            bad |= !is_label(&bytes[start..at]);
            start = at + 1;
        }
    }
    !bad && is_label(&bytes[start..])
}

/// True if the ends and the length are those of a label. What is between them is not looked at.
fn is_label(label: &[u8]) -> bool {
    match label {
        [] => false,
        [first, .., last] => *first != b'-' && *last != b'-' && label.len() <= LABEL_MAX,
        [only] => *only != b'-',
    }
}

const BAD: u8 = 0;
const LETTER: u8 = 1;
const DOT: u8 = 2;

/// What each byte is in a domain name.
static CLASS: [u8; 256] = {
    let mut table = [BAD; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = match b as u8 {
            b'.' => DOT,
            b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | 128.. => LETTER,
            _ => BAD,
        };
        b += 1;
    }
    table
};

/// The address in a literal: `[192.0.2.1]` or `[IPv6:2001:db8::1]`. Other tags are not literals.
#[must_use]
pub fn literal(bytes: &[u8]) -> Option<IpAddr> {
    let inner = bytes.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let text = std::str::from_utf8(inner).ok()?;
    match text.split_at_checked(5) {
        Some((tag, rest)) if tag.eq_ignore_ascii_case("IPv6:") => {
            rest.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// True for what may follow `@`: a domain name or an address literal.
#[must_use]
pub fn is_domain(bytes: &[u8]) -> bool {
    if bytes.first() == Some(&b'[') { literal(bytes).is_some() } else { is_name(bytes) }
}

/// True for an argument of EHLO or HELO that can be taken: printable ASCII without space. RFC 5321
/// §4.1.4 forbids to refuse mail for a name that merely proves wrong, and many are.
#[must_use]
pub fn is_helo(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.len() <= DOMAIN_MAX && bytes.iter().all(|b| matches!(b, 33..=126))
}

/// True if both are the same domain.
#[must_use]
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.eq_ignore_ascii_case(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long_label = format!("{}.example", "a".repeat(63));
        for good in [
            "a",
            "example.net",
            "1.2.3.4",
            "xn--bcher-kva.example",
            "_dmarc.a",
            "b\u{fc}cher.example",
            &long_label,
        ] {
            assert!(is_name(good.as_bytes()), "{good}");
        }
        let long = format!("{}b", "a.".repeat(128));
        let long_label = format!("{}.example", "a".repeat(64));
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-.b",
            "a-",
            "a b",
            "a@b",
            "a/b",
            "[a]",
            "a\0b",
            &long,
            &long_label,
        ] {
            assert!(!is_name(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn literals() {
        assert_eq!(literal(b"[192.0.2.1]"), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(literal(b"[ipv6:2001:db8::1]"), Some("2001:db8::1".parse().unwrap()));
        for bad in [
            "[]",
            "[",
            "192.0.2.1",
            "[2001:db8::1]",
            "[IPv6:]",
            "[IPv6:1.2.3.4]",
            "[1.2.3.256]",
            "[x:y]",
            "[1.2.3.4",
        ] {
            assert_eq!(literal(bad.as_bytes()), None, "{bad}");
        }
        assert!(is_domain(b"[192.0.2.1]") && is_domain(b"a.example") && !is_domain(b"[a.example]"));
    }

    #[test]
    fn helo_and_case() {
        assert!(is_helo(b"[192.0.2.1]") && is_helo(b"we_ird") && is_helo(b"'%$\"<>"));
        assert!(!is_helo(b"") && !is_helo(b"a b") && !is_helo(b"\x1b[31m") && !is_helo(b"b\xc3\xbccher"));
        assert!(same(b"EXAMPLE.net", b"example.NET") && !same(b"a", b"ab"));
    }
}

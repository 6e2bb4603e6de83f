//! L1: names of mailboxes: UTF-8 inside, modified UTF-7 on the wire of IMAP4rev1 (RFC 3501 §5.1.3).
//!
//! Knows what a name may be, not which there are. The separator is `/`; INBOX is the same in any case
//! (RFC 9051 §5.1). Decoding is total: what is not a name is `None`.

/// Longest name in bytes of UTF-8.
pub const NAME_MAX: usize = 1000;
/// Most levels.
pub const LEVELS_MAX: usize = 50;
/// Separates levels.
pub const SEPARATOR: char = '/';
/// The mailbox that every account has.
pub const INBOX: &str = "INBOX";

/// The name as it is kept: INBOX in capitals, no separator at the end (clients send one to say that
/// there will be mailboxes below). `None`: not a name.
#[must_use]
pub fn canonical(name: &str) -> Option<String> {
    let name = name.strip_suffix(SEPARATOR).unwrap_or(name);
    let sound = !name.is_empty()
        && name.len() <= NAME_MAX
        && name.split(SEPARATOR).count() <= LEVELS_MAX
        && name.split(SEPARATOR).all(|level| !level.is_empty())
        // RFC 9051 §5.1: no control characters; U+2028 and U+2029 are separators of lines.
        && !name.chars().any(|c| c.is_control() || c == '\u{2028}' || c == '\u{2029}')
        // LIST would take them for wildcards.
        && !name.contains(['*', '%']);
    if !sound {
        return None;
    }
    let (first, rest) = name.split_at(name.find(SEPARATOR).unwrap_or(name.len()));
    let first = if first.eq_ignore_ascii_case(INBOX) { INBOX } else { first };
    Some([first, rest].concat())
}

/// The name above this one.
#[must_use]
pub fn parent(name: &str) -> Option<&str> {
    name.rsplit_once(SEPARATOR).map(|(above, _)| above)
}

/// Whether `name` is below `above`.
#[must_use]
pub fn is_below(name: &str, above: &str) -> bool {
    name.strip_prefix(above).is_some_and(|rest| rest.starts_with(SEPARATOR))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

/// The name in modified UTF-7.
#[must_use]
pub fn to_utf7(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut shifted: Vec<u16> = Vec::new();
    for c in name.chars() {
        if matches!(c, ' '..='~') {
            put_shifted(&mut out, &mut shifted);
            out.push(c);
            if c == '&' {
                out.push('-');
            }
        } else {
            shifted.extend_from_slice(c.encode_utf16(&mut [0; 2]));
        }
    }
    put_shifted(&mut out, &mut shifted);
    out
}

fn put_shifted(out: &mut String, units: &mut Vec<u16>) {
    if units.is_empty() {
        return;
    }
    out.push('&');
    let (mut bits, mut count) = (0u32, 0);
    for unit in units.drain(..) {
        bits = bits << 16 | u32::from(unit);
        count += 16;
        while count >= 6 {
            count -= 6;
            out.push(char::from(ALPHABET[(bits >> count) as usize & 63]));
        }
    }
    if count > 0 {
        out.push(char::from(ALPHABET[(bits << (6 - count)) as usize & 63]));
    }
    out.push('-');
}

/// The name that `bytes` say in modified UTF-7. Only the one form that [`to_utf7`] writes is one: else
/// two names would be one mailbox.
#[must_use]
pub fn from_utf7(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok().filter(|t| t.bytes().all(|b| matches!(b, b' '..=b'~')))?;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, shifted)) = rest.split_once('&') {
        out.push_str(plain);
        let (code, after) = shifted.split_once('-')?;
        if code.is_empty() {
            out.push('&');
        } else {
            let units = unshift(code)?;
            out.extend(char::decode_utf16(units).collect::<Result<Vec<char>, _>>().ok()?);
        }
        rest = after;
    }
    out.push_str(rest);
    (to_utf7(&out) == text).then_some(out)
}

fn unshift(code: &str) -> Option<Vec<u16>> {
    let (mut bits, mut count, mut units) = (0u32, 0, Vec::new());
    for b in code.bytes() {
        let six = ALPHABET.iter().position(|a| *a == b)?;
        bits = (bits << 6 | six as u32) & 0x3f_ffff;
        count += 6;
        if count >= 16 {
            count -= 16;
            units.push((bits >> count) as u16);
        }
    }
    Some(units)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_name_is() {
        for (given, kept) in [
            ("inbox", Some("INBOX")),
            ("InBox/x", Some("INBOX/x")),
            ("Inboxes", Some("Inboxes")),
            ("a/b/", Some("a/b")),
            ("a//b", None),
            ("/a", None),
            ("", None),
            ("a*", None),
            ("a\u{7}", None),
        ] {
            assert_eq!(canonical(given).as_deref(), kept, "{given:?}");
        }
        assert!(canonical(&"x/".repeat(51)).is_none() && canonical(&"x".repeat(1001)).is_none());
        assert_eq!((parent("a/b/c"), parent("a")), (Some("a/b"), None));
        assert!(is_below("a/b", "a") && !is_below("ab", "a") && !is_below("a", "a"));
    }

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 3501 §5.1.3
        let name = "~peter/mail/\u{53f0}\u{5317}/\u{65e5}\u{672c}\u{8a9e}";
        let wire = "~peter/mail/&U,BTFw-/&ZeVnLIqe-";
        assert_eq!((to_utf7(name).as_str(), from_utf7(wire.as_bytes()).as_deref()), (wire, Some(name)));
        assert_eq!((to_utf7("a&b").as_str(), from_utf7(b"a&-b").as_deref()), ("a&-b", Some("a&b")));
        for bad in ["&Jjo!", "&Jjo", "&U,BTFw-&ZeVnLIqe-", "&AGE-", "caf\u{e9}", "&2AA-", "&U-"] {
            assert_eq!(from_utf7(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(name in "\\PC{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(from_utf7(to_utf7(&name).as_bytes()), Some(name));
            if let Some(name) = from_utf7(&bytes) {
                prop_assert_eq!(to_utf7(&name).into_bytes(), bytes);
            }
        }
    }
}

//! Encoded words in header fields (RFC 2047), as text for comparing and sorting.
//!
//! Takes what stands in real mail: words without space around them, folded values, raw 8-bit text
//! (UTF-8 or windows-1252), unknown charsets. What cannot be decoded stays as it is. Never fails;
//! the result is at most a few times as long as the value.

use crate::imap::charset;
use encoding_rs::Encoding;

/// Appends the text of the value of a header field. Line ends are taken away (RFC 5322 §2.2.3).
pub fn decode(value: &[u8], out: &mut String) {
    let mut words = Pending::default();
    let mut plain = 0;
    let mut at = 0;
    while let Some(found) = memchr::memmem::find(&value[at..], b"=?") {
        let start = at + found;
        let Some(word) = Word::parse(&value[start..]) else {
            at = start + 2;
            continue;
        };
        let between = &value[plain..start];
        // RFC 2047 §6.2: white space between encoded words is not shown.
        if !(words.any && between.iter().all(|b| b.is_ascii_whitespace())) {
            words.flush(out);
            unfold(between, out);
        }
        words.add(&word, out);
        at = start + word.len;
        plain = at;
    }
    words.flush(out);
    unfold(&value[plain..], out);
}

/// The text of the value of a header field.
#[must_use]
pub fn decoded(value: &[u8]) -> String {
    let mut out = String::with_capacity(value.len());
    decode(value, &mut out);
    out
}

fn unfold(bytes: &[u8], out: &mut String) {
    if bytes.iter().any(|b| matches!(b, b'\r' | b'\n')) {
        let line: Vec<u8> = bytes.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
        out.push_str(&charset::text(&line, None));
    } else {
        out.push_str(&charset::text(bytes, None));
    }
}

/// `=?charset?encoding?text?=`.
struct Word<'a> {
    charset: &'static Encoding,
    base64: bool,
    text: &'a [u8],
    /// Its length in all.
    len: usize,
}

impl<'a> Word<'a> {
    /// At the start of `value`; none if it is not one, or its charset is not known.
    fn parse(value: &'a [u8]) -> Option<Self> {
        let rest = &value[2..];
        // A word has 75 characters (RFC 2047 §2), but longer ones are in use.
        let name_end = rest.iter().take(80).position(|b| *b == b'?')?;
        let base64 = match rest.get(name_end + 1)?.to_ascii_uppercase() {
            b'B' => true,
            b'Q' => false,
            _ => return None,
        };
        let text = rest.get(name_end + 2..)?.strip_prefix(b"?")?;
        let end = memchr::memmem::find(text, b"?=")?;
        let text = &text[..end];
        if text.contains(&b'\n') {
            return None;
        }
        let charset = charset::named(&rest[..name_end])?;
        Some(Word { charset, base64, text, len: 2 + name_end + 3 + end + 2 })
    }
}

/// Bytes of adjacent words of one charset: a character may be divided between them.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    charset: Option<&'static Encoding>,
    any: bool,
}

impl Pending {
    fn add(&mut self, word: &Word<'_>, out: &mut String) {
        if self.charset != Some(word.charset) {
            self.flush(out);
        }
        (self.charset, self.any) = (Some(word.charset), true);
        if word.base64 {
            base64(word.text, &mut self.bytes);
        } else {
            quoted(word.text, &mut self.bytes);
        }
    }

    fn flush(&mut self, out: &mut String) {
        if self.any {
            out.push_str(&charset::text(&self.bytes, self.charset));
        }
        self.bytes.clear();
        (self.charset, self.any) = (None, false);
    }
}

/// RFC 2047 §4.2.
fn quoted(text: &[u8], out: &mut Vec<u8>) {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut at = 0;
    while let Some(&b) = text.get(at) {
        match (b, digit(text.get(at + 1)), digit(text.get(at + 2))) {
            (b'=', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            (b'_', ..) => out.push(b' '),
            _ => out.push(b),
        }
        at += 1;
    }
}

/// Base64 as it is found: other characters are passed over, padding may be missing.
pub(crate) fn base64(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0u32, 0);
    for b in text {
        let value = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The examples of RFC 2047 §8, and what is found in mail.
    #[test]
    fn values() {
        for (value, text) in [
            (&b"plain"[..], "plain"),
            (b"=?ISO-8859-1?Q?a?=", "a"),
            (b"=?ISO-8859-1?Q?a?= b", "a b"),
            (b"=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=", "ab"),
            (b"=?ISO-8859-1?Q?a?=\r\n  =?ISO-8859-1?Q?b?=", "ab"),
            (b"=?ISO-8859-1?Q?a_b?=", "a b"),
            (b"=?ISO-8859-1?Q?a?= =?ISO-8859-2?Q?_b?=", "a b"),
            (b"=?US-ASCII?Q?Keith_Moore?= <moore@cs.utk.edu>", "Keith Moore <moore@cs.utk.edu>"),
            (b"=?ISO-8859-1?B?SWYgeW91IGNhbiByZWFkIHRoaXMgeW8=?=", "If you can read this yo"),
            (b"=?UTF-8?Q?=C3?= =?UTF-8?Q?=A9?=", "\u{e9}"),
            (b"=?utf-8*en?q?=C3=A9?=", "\u{e9}"),
            (b"x=?utf-8?b?w6k?=y", "x\u{e9}y"),
            (b"=?nonsense?Q?a?= b", "=?nonsense?Q?a?= b"),
            (b"=?utf-8?X?a?=", "=?utf-8?X?a?="),
            (b"=?utf-8?Q?a", "=?utf-8?Q?a"),
            (b"=?", "=?"),
            (b"=?=?utf-8?Q?a?=", "=?a"),
            (b"a\r\n b", "a b"),
            (b"caf\xe9 \xc3", "caf\u{e9} \u{c3}"),
            (b"caf\xc3\xa9", "caf\u{e9}"),
            (b"=?utf-8?Q?=zz=4?=", "=zz=4"),
            (b"=?utf-8?Q?=FF?=", "\u{fffd}"),
        ] {
            assert_eq!(decoded(value), text, "{}", value.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes(value in prop::collection::vec(any::<u8>(), 0..200), odd in "[=?a-zQB_\r\n 8-]{0,60}") {
            let _ = decoded(&value);
            prop_assert!(decoded(odd.as_bytes()).len() <= odd.len() * 3);
        }
    }
}

//! What stands in ENVELOPE and BODYSTRUCTURE for UTF-8 text when the client has not enabled it (RFC 6855 §7):
//! text and names become encoded words, addresses such that nobody has, parameters those of RFC 2231.
//!
//! That is RFC 6858 §2, but nothing is left out. Content (BODY[...]) stays what it is, to the byte:
//! signatures are about it, and programs that copy mail must get it whole. Bytes that are no UTF-8 are not
//! touched. Cannot fail.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Where mail to an address goes that stands for one in UTF-8 (RFC 6858 §2.1): nowhere.
pub const NOWHERE: (&[u8], &[u8]) = (b"invalid", b"internationalized-address.invalid");

/// Bytes of text in one encoded word: 75 characters in all (RFC 2047 §2).
const WORD_MAX: usize = 45;

/// It is UTF-8 and not ASCII.
#[must_use]
pub fn is_needed(text: &[u8]) -> bool {
    !text.is_ascii() && std::str::from_utf8(text).is_ok()
}

/// Text as encoded words (RFC 2047 §5): those words of it that are not ASCII, with the space between them.
#[must_use]
pub fn words(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 2);
    let mut rest = text;
    while !rest.is_empty() {
        let mut end = word_end(rest);
        if rest[..end].is_ascii() {
            out.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
            // The white space behind it stays.
            let space = rest.iter().take_while(|b| is_space(**b)).count();
            out.extend_from_slice(&rest[..space]);
            rest = &rest[space..];
            continue;
        }
        // As long as the next word is none of ASCII either.
        loop {
            let space = rest[end..].iter().take_while(|b| is_space(**b)).count();
            let next = end + space + word_end(&rest[end + space..]);
            if rest[end + space..next].is_ascii() {
                break;
            }
            end = next;
        }
        encode(&rest[..end], &mut out);
        let space = rest[end..].iter().take_while(|b| is_space(**b)).count();
        out.extend_from_slice(&rest[end..end + space]);
        rest = &rest[end + space..];
    }
    out
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t')
}

/// The end of the word at the front; 0 if white space stands there.
fn word_end(text: &[u8]) -> usize {
    text.iter().position(|b| is_space(*b)).unwrap_or(text.len())
}

/// RFC 2047 §5: whole characters in each word.
fn encode(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    let mut first = true;
    while !rest.is_empty() {
        let mut end = rest.len().min(WORD_MAX);
        while end < rest.len() && rest[end] & 0xc0 == 0x80 {
            end -= 1;
        }
        if !std::mem::take(&mut first) {
            out.push(b' ');
        }
        out.extend_from_slice(b"=?utf-8?B?");
        out.extend_from_slice(STANDARD.encode(&rest[..end]).as_bytes());
        out.extend_from_slice(b"?=");
        rest = &rest[end..];
    }
}

/// The display name that stands before [`NOWHERE`]: all there is of an address.
#[must_use]
pub fn name_of(name: Option<&[u8]>, mailbox: &[u8], host: &[u8]) -> Vec<u8> {
    let address = [mailbox, b"@", host].concat();
    words(&match name {
        Some(name) if !name.is_empty() => [name, b" <", &address, b">"].concat(),
        _ => address,
    })
}

/// A parameter whose value is not ASCII, as RFC 2231 §4 has it: name and value. None if it is that already,
/// or its name is not ASCII.
#[must_use]
pub fn parameter(name: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    if !is_needed(value) || !name.is_ascii() || name.contains(&b'*') {
        return None;
    }
    let mut encoded = b"utf-8''".to_vec();
    for &b in value {
        // RFC 2231 §7 `attribute-char`.
        if b.is_ascii_alphanumeric() || b"!#$&+-.^_`{|}~".contains(&b) {
            encoded.push(b);
        } else {
            encoded.extend_from_slice(format!("%{b:02X}").as_bytes());
        }
    }
    Some(([name, b"*"].concat(), encoded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::words::decoded;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        String::from_utf8(words(text.as_bytes())).unwrap()
    }

    #[test]
    fn only_words_that_need_it() {
        assert_eq!(shown("plain text"), "plain text");
        assert_eq!(shown("Re: caf\u{e9} au lait"), "Re: =?utf-8?B?Y2Fmw6k=?= au lait");
        assert_eq!(shown("\u{e9} \u{e9}  x \u{e9}"), "=?utf-8?B?w6kgw6k=?=  x =?utf-8?B?w6k=?=");
        assert_eq!(shown("=?utf-8?Q?a?= \u{e9}"), "=?utf-8?Q?a?= =?utf-8?B?w6k=?=");
        assert_eq!((shown(""), shown("  \u{e9} ")), (String::new(), "  =?utf-8?B?w6k=?= ".to_owned()));
        assert!(!is_needed(b"x") && !is_needed(b"\xe9") && is_needed("\u{e9}".as_bytes()));
        let long = "\u{65e5}\u{672c}".repeat(40);
        assert!(shown(&long).split(' ').all(|word| word.len() <= 75));
        assert_eq!(decoded(shown(&long).as_bytes()), long);
    }

    #[test]
    fn addresses_and_parameters() {
        let name = name_of(Some(b"Jos\xc3\xa9"), b"jos\xc3\xa9", b"example.org");
        assert_eq!(decoded(&name), "Jos\u{e9} <jos\u{e9}@example.org>");
        assert_eq!(decoded(&name_of(None, b"a", b"b\xc3\xbc.example")), "a@b\u{fc}.example");
        assert_eq!(
            parameter(b"filename", b"a \xc3\xa9%.pdf"),
            Some((b"filename*".to_vec(), b"utf-8''a%20%C3%A9%25.pdf".to_vec()))
        );
        for (name, value) in [
            (&b"name"[..], &b"x"[..]),
            (b"name*", b"\xc3\xa9"),
            (b"name", b"\xe9"),
            (b"\xc3\xa9", b"\xc3\xa9"),
        ] {
            assert_eq!(parameter(name, value), None, "{}", name.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn it_is_ascii_and_says_the_same(text in "[a-z \u{e9}\u{65e5}]{0,200}") {
            let shown = words(text.as_bytes());
            prop_assert!(shown.is_ascii());
            prop_assert_eq!(decoded(&shown), text);
        }
    }
}

//! L1: values of peers, made harmless for a field or a line of text.

use std::fmt::Write;

/// `bytes` without controls, cut to `max` bytes of output. With `utf8` what is UTF-8 stays;
/// otherwise characters are written `\x{HEX}` (RFC 6533 §3) and other bytes `\xHH`.
pub(super) fn clean(bytes: &[u8], utf8: bool, max: usize) -> String {
    let mut out = String::with_capacity(bytes.len().min(max));
    let mut piece = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            piece.clear();
            match c {
                c if c.is_control() => piece.push('?'),
                c if c.is_ascii() || (utf8 && !is_invisible(c)) => piece.push(c),
                c => write!(piece, "\\x{{{:X}}}", u32::from(c)).expect("a string takes all"),
            }
            if out.len() + piece.len() > max {
                return out;
            }
            out.push_str(&piece);
        }
        for b in chunk.invalid() {
            if out.len() + 4 > max {
                return out;
            }
            write!(out, "\\x{b:02X}").expect("a string takes all");
        }
    }
    out
}

/// A non-ASCII address in the ASCII form of RFC 6533 §3 (utf-8-addr-xtext), cut as by [`clean`].
pub(super) fn ascii_address(address: &[u8], max: usize) -> String {
    let mut out = String::with_capacity(address.len().min(max));
    let mut piece = String::new();
    for c in String::from_utf8_lossy(address).chars() {
        piece.clear();
        if c.is_ascii_graphic() && !matches!(c, '+' | '=' | '\\') {
            piece.push(c);
        } else {
            write!(piece, "\\x{{{:X}}}", u32::from(c)).expect("a string takes all");
        }
        if out.len() + piece.len() > max {
            break;
        }
        out.push_str(&piece);
    }
    out
}

/// Characters that end lines for some readers, or turn the direction of the text.
fn is_invisible(c: char) -> bool {
    let breaks = matches!(c, '\u{2028}' | '\u{2029}');
    let turns = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    breaks || turns
}

/// A host name or address as one harmless word.
pub(super) fn word(name: &str) -> String {
    let good = |c: &char| c.is_ascii_alphanumeric() || ".-_:[]".contains(*c);
    let out: String = name.chars().filter(good).take(255).collect();
    if out.is_empty() { "unknown".to_owned() } else { out }
}

/// Decodes xtext (RFC 3461 §4); a `+` that is not followed by two hex digits stays.
pub(super) fn xtext(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let digit = |i: usize| tail.get(i).and_then(|&b| char::from(b).to_digit(16));
        if let (b'+', Some(high), Some(low)) = (first, digit(0), digit(1)) {
            out.push((high * 16 + low) as u8);
            rest = &tail[2..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

/// Longest line of quoted-printable text, without CRLF (RFC 2045 §6.7 (5)).
const QUOTED_MAX: usize = 76;

/// Appends lines (CRLF) as quoted-printable (RFC 2045 §6.7).
pub(super) fn quoted_printable(text: &[u8], out: &mut Vec<u8>) {
    for line in text.split_inclusive(|&b| b == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut column = 0;
        for (i, &b) in line.iter().enumerate() {
            let last = i + 1 == line.len();
            let plain = matches!(b, b'!'..=b'<' | b'>'..=b'~') || matches!(b, b' ' | b'\t') && !last;
            let width = if plain { 1 } else { 3 };
            // Room for the `=` of a soft line break.
            if column + width > QUOTED_MAX - 1 {
                out.extend_from_slice(b"=\r\n");
                column = 0;
            }
            if plain {
                out.push(b);
            } else {
                out.push(b'=');
                out.extend([b >> 4, b & 15].map(|n| b"0123456789ABCDEF"[usize::from(n)]));
            }
            column += width;
        }
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_harmful_remains() {
        assert_eq!(clean(b"a\r\nSubject: x\0\x1b[2J", false, 900), "a??Subject: x??[2J");
        assert_eq!(clean("d\u{f6}ner".as_bytes(), false, 900), "d\\x{F6}ner");
        assert_eq!(clean("d\u{f6}ner\u{85}\u{2028}".as_bytes(), true, 900), "d\u{f6}ner?\\x{2028}");
        assert_eq!(clean(b"\xff\xfe!", true, 900), "\\xFF\\xFE!");
        assert!(clean(&[0xff; 5000], false, 900).len() <= 900);
        assert_eq!(clean(&[b'a'; 5000], false, 900).len(), 900);
        assert_eq!(word("mx\r\n.a b\u{f6}"), "mx.ab");
        assert_eq!(word("\n"), "unknown");
    }

    #[test]
    fn addresses_in_ascii() {
        assert_eq!(
            ascii_address("d\u{f6}+\\=\r\n@x".as_bytes(), 900),
            "d\\x{F6}\\x{2B}\\x{5C}\\x{3D}\\x{D}\\x{A}@x"
        );
        assert!(ascii_address(&[0xff; 5000], 900).len() <= 900);
    }

    #[test]
    fn quoted_printable_lines() {
        let mut out = Vec::new();
        quoted_printable("a=\u{f6} \r\n\r\nb\tc\r\n".as_bytes(), &mut out);
        assert_eq!(out.escape_ascii().to_string(), r"a=3D=C3=B6=20\r\n\r\nb\tc\r\n");
        out.clear();
        quoted_printable(&[0xc3; 100], &mut out);
        let lines: Vec<&[u8]> = out.split(|&b| b == b'\n').collect();
        assert!(
            lines.iter().all(|l| l.len() <= QUOTED_MAX + 1) && lines.len() == 5,
            "{}",
            out.escape_ascii()
        );
        assert_eq!(out.iter().filter(|&&b| b == b'C').count(), 100);
    }

    #[test]
    fn xtext_decodes() {
        assert_eq!(xtext(b"a+2Bb+0D+0Ac"), b"a+b\r\nc");
        assert_eq!(xtext(b"+"), b"+");
        assert_eq!(xtext(b"+4"), b"+4");
        assert_eq!(xtext(b"+zz+41"), b"+zzA");
    }
}

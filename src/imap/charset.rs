//! Charsets by name: from the bytes of a message or a command to UTF-8.
//!
//! Owns which names are known. Conversion never fails: what is no text in a charset becomes U+FFFD.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use std::borrow::Cow;

/// Named in the code BADCHARSET. Many more are taken; these every client can use.
pub const NAMES: [&str; 2] = ["US-ASCII", "UTF-8"];

/// The charset of that name (in any case), if it is known. RFC 2231 §5: a language may follow behind `*`.
#[must_use]
pub fn named(label: &[u8]) -> Option<&'static Encoding> {
    let name = label.split(|b| *b == b'*').next().unwrap_or(label);
    Encoding::for_label(name).filter(|e| *e != encoding_rs::REPLACEMENT).or_else(|| {
        // Names in use that the list of the Web does not have.
        let known: [(&[u8], &'static Encoding); 5] = [
            (b"cp932", encoding_rs::SHIFT_JIS),
            (b"cp936", encoding_rs::GBK),
            (b"cp949", encoding_rs::EUC_KR),
            (b"cp950", encoding_rs::BIG5),
            (b"iso-8859-1-unknown", WINDOWS_1252),
        ];
        known.iter().find(|(n, _)| name.eq_ignore_ascii_case(n)).map(|(_, e)| *e)
    })
}

/// `bytes` as text. Without a charset: UTF-8 if it is that, else windows-1252, which fits any bytes.
#[must_use]
pub fn text<'a>(bytes: &'a [u8], charset: Option<&'static Encoding>) -> Cow<'a, str> {
    match charset {
        // RFC 2781 §3.2: a byte order mark is no text, and says which of the two it is.
        Some(charset) if is_utf16(charset) => charset.decode(bytes).0,
        Some(charset) => charset.decode_with_bom_removal(bytes).0,
        None => match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => WINDOWS_1252.decode_without_bom_handling(bytes).0,
        },
    }
}

fn is_utf16(charset: &'static Encoding) -> bool {
    charset == encoding_rs::UTF_16LE || charset == encoding_rs::UTF_16BE
}

/// Converts text that comes in pieces.
pub struct Stream {
    decoder: encoding_rs::Decoder,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({})", self.decoder.encoding().name())
    }
}

impl Stream {
    /// Begins; without a charset, UTF-8 is assumed.
    #[must_use]
    pub fn new(charset: Option<&'static Encoding>) -> Self {
        let charset = charset.unwrap_or(UTF_8);
        let decoder =
            if is_utf16(charset) { charset.new_decoder() } else { charset.new_decoder_with_bom_removal() };
        Stream { decoder }
    }

    /// Appends the next piece as text.
    pub fn feed(&mut self, bytes: &[u8], last: bool, out: &mut String) {
        let Some(most) = self.decoder.max_utf8_buffer_length(bytes.len()) else { return };
        out.reserve(most);
        // With that much room all of it is converted at once.
        let _ = self.decoder.decode_to_string(bytes, out, last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in [&b"utf-8"[..], b"UTF8", b"us-ascii", b"ISO-8859-15", b"koi8-r", b"gb2312", b"cp932"] {
            assert!(named(name).is_some(), "{}", name.escape_ascii());
        }
        assert_eq!(named(b"utf-8*en"), Some(UTF_8));
        for name in [&b""[..], b"nonsense", b"utf-7", b"hz-gb-2312"] {
            assert_eq!(named(name), None, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let whole = [0x1b, 0x24, 0x42, 0x46, 0x7c, 0x4b, 0x5c, 0x1b, 0x28, 0x42, b'x'];
        let charset = named(b"iso-2022-jp");
        let expect = text(&whole, charset).into_owned();
        assert_eq!(expect, "\u{65e5}\u{672c}x");
        for cut in 0..=whole.len() {
            let (mut stream, mut out) = (Stream::new(charset), String::new());
            stream.feed(&whole[..cut], false, &mut out);
            stream.feed(&whole[cut..], true, &mut out);
            assert_eq!(out, expect, "cut at {cut}");
        }
        for utf16 in [&b"\xff\xfeg\0\xfc\0"[..], b"\xfe\xff\0g\0\xfc", b"g\0\xfc\0"] {
            assert_eq!(text(utf16, named(b"utf-16")), "g\u{fc}");
            let (mut stream, mut out) = (Stream::new(named(b"utf-16")), String::new());
            utf16.iter().for_each(|b| stream.feed(&[*b], false, &mut out));
            stream.feed(b"", true, &mut out);
            assert_eq!(out, "g\u{fc}");
        }
        assert_eq!(text(b"\xef\xbb\xbfx", named(b"utf-8")), "x");
        assert_eq!(text(b"\xff\xfe", named(b"iso-8859-1")), "\u{ff}\u{fe}");
        assert_eq!(text(b"\xe9", None), "\u{e9}");
        assert_eq!(text(b"\xe9", named(b"utf-8")), "\u{fffd}");
    }
}

//! The beginning of a message as one line of text (RFC 8970): the first text that is not an
//! attachment and says something, decoded, without tags and quotations.
//!
//! A guess for people's eyes: what cannot be decoded becomes U+FFFD or is left out, never an error.

use super::PREVIEW_MAX;
use super::field::Shape;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine};
use encoding_rs::{Encoding, UTF_8};

/// Bytes of a part that are looked at, before decoding.
const RAW_MAX: usize = 16 << 10;

/// What is kept of a message for its preview.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// The part that is looked at.
    part: Option<usize>,
    raw: Vec<u8>,
    html: bool,
    encoding: Vec<u8>,
    charset: Option<&'static Encoding>,
    found: Option<String>,
}

impl Gather {
    /// A text begins.
    pub fn begin(&mut self, part: usize, shape: &Shape) {
        self.html = shape.subtype.eq_ignore_ascii_case(b"html");
        let is_shown = self.html || shape.subtype.eq_ignore_ascii_case(b"plain");
        if self.found.is_some() || shape.is_attachment || !is_shown {
            return;
        }
        self.part = Some(part);
        self.raw.clear();
        self.encoding.clone_from(&shape.encoding);
        self.charset = shape.param("charset").and_then(Encoding::for_label);
    }

    /// The bytes of this part are wanted.
    pub fn wants(&self, part: Option<usize>) -> bool {
        self.part.is_some() && self.part == part
    }

    pub fn take(&mut self, bytes: &[u8]) {
        let room = RAW_MAX - self.raw.len();
        self.raw.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The part has ended.
    pub fn end(&mut self) {
        self.part = None;
        let text = self.text();
        self.raw.clear();
        if !text.is_empty() {
            self.found = Some(text);
        }
    }

    /// The preview; empty if there is no text.
    pub fn found(&self) -> &str {
        self.found.as_deref().unwrap_or("")
    }

    fn text(&self) -> String {
        let decoded;
        let bytes = match &self.encoding {
            e if e.eq_ignore_ascii_case(b"base64") => {
                decoded = base64(&self.raw);
                &decoded
            }
            e if e.eq_ignore_ascii_case(b"quoted-printable") => {
                decoded = quoted_printable(&self.raw);
                &decoded
            }
            _ => &self.raw,
        };
        // Many who write UTF-8 do not say so; ASCII is a part of it.
        let (text, _) = self.charset.unwrap_or(UTF_8).decode_without_bom_handling(bytes);
        if self.html {
            return squeeze(strip_tags(&text).chars());
        }
        let own = text.lines().filter(|line| !line.starts_with('>'));
        let own = own.take_while(|line| line.trim_end() != "--");
        match squeeze(own.flat_map(|line| line.chars().chain([' ']))) {
            own if own.is_empty() => squeeze(text.chars()),
            own => own,
        }
    }
}

/// Decodes what it can.
fn base64(text: &[u8]) -> Vec<u8> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let is_digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    let digits = text.iter().copied().take_while(|&b| b != b'=').filter(is_digit);
    let mut digits: Vec<u8> = digits.collect();
    // One digit alone is not a byte.
    if digits.len() % 4 == 1 {
        digits.pop();
    }
    LENIENT.decode(digits).unwrap_or_default()
}

/// Decodes quoted-printable (RFC 2045 §6.7); what is none stays as it is.
pub(super) fn quoted_printable(text: &[u8]) -> Vec<u8> {
    let hex = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&b, after)) = rest.split_first() {
        rest = after;
        if b != b'=' {
            out.push(b);
            continue;
        }
        match *after {
            [h, l, ..] if hex(h).is_some() && hex(l).is_some() => {
                out.push(hex(h).unwrap_or(0) << 4 | hex(l).unwrap_or(0));
                rest = &after[2..];
            }
            [b'\r', b'\n', ..] => rest = &after[2..],
            [b'\n', ..] => rest = &after[1..],
            _ => out.push(b),
        }
    }
    out
}

/// Takes tags, comments, styles and scripts out of HTML, and puts the frequent entities in.
fn strip_tags(html: &str) -> String {
    let mut out = String::new();
    let mut rest = html;
    // Enough for a preview, whatever white space it will lose.
    while out.len() < RAW_MAX {
        let Some(at) = rest.find(['<', '&']) else {
            out.push_str(rest);
            break;
        };
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with('&') {
            let (text, used) = entity(rest);
            out.push_str(&text);
            rest = &rest[used..];
            continue;
        }
        // `<` that is followed by a space is one.
        let starts_tag = |b: &u8| b.is_ascii_alphabetic() || matches!(b, b'/' | b'!' | b'?');
        if !rest.as_bytes().get(1).is_some_and(starts_tag) {
            out.push('<');
            rest = &rest[1..];
            continue;
        }
        rest = behind_tag(rest, &mut out);
    }
    out
}

/// What stands behind the tag that begins `rest`, and behind what belongs to it.
fn behind_tag<'a>(rest: &'a str, out: &mut String) -> &'a str {
    let behind = |rest: &'a str, end: &str| rest.find(end).map_or("", |at| &rest[at + end.len()..]);
    if rest.starts_with("<!--") {
        return behind(rest, "-->");
    }
    let name = rest[1..].split(|c: char| !c.is_ascii_alphanumeric() && c != '/').next().unwrap_or("");
    let hidden = ["style", "script", "title"].iter().find(|hidden| name.eq_ignore_ascii_case(hidden));
    if let Some(hidden) = hidden {
        let ends =
            |at: &usize| rest[at + 2..].get(..hidden.len()).is_some_and(|n| n.eq_ignore_ascii_case(hidden));
        let end = rest.match_indices("</").map(|m| m.0).find(ends);
        return end.map_or("", |at| behind(&rest[at..], ">"));
    }
    // Words of one paragraph stay together; all else divides.
    let inline = ["a", "b", "i", "u", "em", "span", "strong", "font", "small", "big", "sub", "sup"];
    if !inline.iter().any(|i| name.trim_start_matches('/').eq_ignore_ascii_case(i)) {
        out.push(' ');
    }
    behind(rest, ">")
}

/// The text of the entity that begins `rest`, and its length there.
fn entity(rest: &str) -> (String, usize) {
    let end = rest.bytes().take(12).position(|b| b == b';');
    let Some(end) = end else { return ("&".to_string(), 1) };
    let name = &rest[1..end];
    let number = name.strip_prefix('#').and_then(|n| match n.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => n.parse().ok(),
    });
    let text = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "zwnj" => '\u{200c}',
        "zwj" => '\u{200d}',
        "shy" => '\u{ad}',
        "ndash" => '\u{2013}',
        "mdash" => '\u{2014}',
        "hellip" => '\u{2026}',
        "rsquo" => '\u{2019}',
        "auml" => '\u{e4}',
        "ouml" => '\u{f6}',
        "uuml" => '\u{fc}',
        "szlig" => '\u{df}',
        "eacute" => '\u{e9}',
        "egrave" => '\u{e8}',
        "agrave" => '\u{e0}',
        _ => match number {
            Some(n) => char::from_u32(n).unwrap_or('\u{fffd}'),
            None => return ("&".to_string(), 1),
        },
    };
    (text.to_string(), end + 1)
}

/// One line: white space becomes one space, what cannot be seen is left out, the end is cut.
fn squeeze(text: impl Iterator<Item = char>) -> String {
    let mut out = String::new();
    let (mut space, mut count) = (false, 0);
    for c in text {
        // Fillers that hide the text from a preview.
        let unseen = matches!(c, '\u{ad}' | '\u{34f}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}');
        if unseen {
            continue;
        }
        if c.is_whitespace() || c.is_control() {
            space = count > 0;
            continue;
        }
        count += 1 + usize::from(space);
        if count > PREVIEW_MAX {
            break;
        }
        if std::mem::take(&mut space) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_becomes_text() {
        for (html, text) in [
            ("<p>a<b>b</b>c</p><p>d</p>", "abc d"),
            ("<html><head><style>p { }</style><title>t</title></head><body>x</body>", "x"),
            ("<script>if (a</b) c</script>d", "d"),
            ("<!-- a > b -->c", "c"),
            ("a &lt; b &amp;&nbsp;c &#x41;&#66; &bogus; & d", "a < b & c AB &bogus; & d"),
            ("1 < 2", "1 < 2"),
            ("a<br>b<", "a b<"),
            ("<style>never ended", ""),
            ("x&zwnj;&#847;&shy;y", "xy"),
        ] {
            assert_eq!(squeeze(strip_tags(html).chars()), text, "{html}");
        }
    }

    #[test]
    fn transfer_encodings() {
        assert_eq!(quoted_printable(b"a=3D=\r\nb=c3=A9=zz="), "a=b\u{e9}=zz=".as_bytes());
        assert_eq!(base64(b"aGFs\r\nbG8*="), b"hallo");
        assert_eq!(base64(b"aGFsbG8h"), b"hallo!");
        assert_eq!(base64(b"aGFsb"), b"hal");
    }

    #[test]
    fn it_is_short_and_on_one_line() {
        let long = squeeze(" \u{e9}\r\n".repeat(1000).chars());
        assert_eq!((long.chars().count(), long.ends_with('\u{e9}')), (PREVIEW_MAX - 1, true));
        assert_eq!(squeeze("\u{0} \t".chars()), "");
    }
}

//! Which bytes of a message a section is (RFC 9051 §6.4.5.1), as its summary knows them.

use crate::imap::parse::fetch::{Fields, Kind as What, Section, Text};
use crate::imap::transfer::Decoder;
use crate::message::headers;
use crate::message::mime::{Kind, Part, Summary};
use std::ops::Range;

/// What is to be done for a section.
#[derive(Debug)]
pub(super) enum Plan {
    /// There is no such part: NIL.
    Nothing,
    /// These bytes.
    Bytes(Range<u64>),
    /// Some fields of the header in these bytes. True if a body follows.
    Fields(Range<u64>, bool),
    /// These bytes without their transfer encoding.
    Decoded(Range<u64>, Decoder),
    /// They have an encoding that is not known (RFC 3516 §4.3).
    Encoded,
}

/// The whole of a message needs no summary.
pub(super) fn needs_summary(section: &Section<'_>) -> bool {
    let decoded = matches!(section.kind, What::Binary | What::BinarySize);
    decoded || section.text != Text::Whole || !section.part.bytes().is_empty()
}

/// `size`: of the message.
pub(super) fn plan(section: &Section<'_>, summary: Option<&Summary<'_>>, size: u64) -> Plan {
    if !needs_summary(section) {
        return Plan::Bytes(0..size);
    }
    let numbers: Vec<u32> = section.part.numbers().collect();
    let whole = numbers.is_empty();
    let Some(part) = summary.and_then(|s| s.section(&numbers)) else { return Plan::Nothing };
    if matches!(section.kind, What::Binary | What::BinarySize) {
        return decoded(&part, whole, size);
    }
    // HEADER and TEXT are those of a message: of this one, or of one within.
    let message = match part.kind {
        _ if whole => Some(part),
        Kind::Message => part.children().next(),
        _ => None,
    };
    let end = |m: &Part<'_>| if whole { size } else { m.end };
    match (section.text, message) {
        (Text::Whole, _) => Plan::Bytes(part.body..part.end),
        (Text::Mime, _) => Plan::Bytes(part.header..part.body),
        (Text::Header, Some(m)) => Plan::Bytes(m.header..m.body),
        (Text::Text, Some(m)) => Plan::Bytes(m.body..end(&m)),
        (Text::Fields(_) | Text::FieldsNot(_), Some(m)) => Plan::Fields(m.header..m.body, m.body < end(&m)),
        (_, None) => Plan::Nothing,
    }
}

fn decoded(part: &Part<'_>, whole: bool, size: u64) -> Plan {
    if whole {
        return Plan::Decoded(0..size, Decoder::of(None).expect("7bit is known"));
    }
    // RFC 3516 §4.2: parts that have parts have no encoding of their own.
    let encoding = if matches!(part.kind, Kind::Multipart | Kind::Message) { None } else { part.encoding };
    match Decoder::of(encoding) {
        Some(decoder) => Plan::Decoded(part.body..part.end, decoder),
        None => Plan::Encoded,
    }
}

/// The fields that are asked for, and the empty line: unless there is none in the header and no body
/// either (RFC 9051 §6.4.5.1).
pub(super) fn fields(header: &[u8], names: Fields<'_>, not: bool, has_body: bool) -> Vec<u8> {
    let names: Vec<Vec<u8>> = names.names().map(|n| n.bytes().into_owned()).collect();
    let mut out = Vec::new();
    for field in headers::fields_and_mbox(header) {
        if names.iter().any(|n| n.eq_ignore_ascii_case(field.name)) != not {
            out.extend_from_slice(field.raw);
            // A field that ends with the message has no line end.
            if !field.raw.ends_with(b"\n") {
                out.extend_from_slice(b"\r\n");
            }
        }
    }
    if has_body || header == b"\r\n" || header.ends_with(b"\r\n\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// What of `len` bytes a partial section takes (RFC 9051 §6.4.5).
pub(super) fn part_of(partial: Option<(u64, u64)>, len: u64) -> Range<u64> {
    let Some((first, count)) = partial else { return 0..len };
    let first = first.min(len);
    first..first.saturating_add(count).min(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::parse::{Verb, parse};
    use crate::message::mime::Scanner;

    const MESSAGE: &str = "Subject: x\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed; boundary=b\r\n\r\n\
        pre\r\n--b\r\n\r\none\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\nTo: a\r\n\r\n\
        two\r\n--b\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: base64\r\n\r\nSGk=\r\n\
        --b\r\nContent-Transfer-Encoding: x-odd\r\n\r\n?\r\n--b--\r\n";

    fn of(message: &str, item: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let mut scanner = Scanner::new();
        scanner.feed(message.as_bytes());
        scanner.finish(&mut bytes);
        let summary = Summary::read(&bytes).unwrap();
        let text = format!("a FETCH 1 {item}");
        let Verb::Fetch(fetch) = parse(text.as_bytes()).unwrap().verb else { panic!("FETCH") };
        let section = &fetch.sections[0];
        let at = |r: Range<u64>| &message[r.start as usize..r.end as usize];
        Some(match plan(section, Some(&summary), message.len() as u64) {
            Plan::Nothing => return None,
            Plan::Bytes(range) => at(range).to_owned(),
            Plan::Fields(range, has_body) => {
                let (names, not) = match section.text {
                    Text::Fields(names) => (names, false),
                    Text::FieldsNot(names) => (names, true),
                    other => panic!("{other:?}"),
                };
                String::from_utf8(fields(at(range).as_bytes(), names, not, has_body)).unwrap()
            }
            Plan::Decoded(range, mut decoder) => {
                let mut out = Vec::new();
                decoder.feed(at(range).as_bytes(), true, &mut out);
                String::from_utf8(out).unwrap()
            }
            Plan::Encoded => "(encoded)".to_owned(),
        })
    }

    #[test]
    fn sections() {
        for (item, text) in [
            ("BODY[]", Some(MESSAGE)),
            ("RFC822", Some(MESSAGE)),
            ("BODY[1]", Some("one")),
            ("BODY[1.MIME]", Some("\r\n")),
            ("BODY[1.HEADER]", None),
            ("BODY[2]", Some("Subject: inner\r\nTo: a\r\n\r\ntwo")),
            ("BODY[2.MIME]", Some("Content-Type: message/rfc822\r\n\r\n")),
            ("BODY[2.HEADER]", Some("Subject: inner\r\nTo: a\r\n\r\n")),
            ("BODY[2.HEADER.FIELDS (to x)]", Some("To: a\r\n\r\n")),
            ("BODY[2.TEXT]", Some("two")),
            ("BODY[2.1]", Some("two")),
            ("BODY[2.2]", None),
            ("BODY[3]", Some("SGk=")),
            ("BINARY[3]", Some("Hi")),
            ("BINARY.SIZE[3]", Some("Hi")),
            ("BINARY[4]", Some("(encoded)")),
            ("BINARY[]", Some(MESSAGE)),
            ("BINARY[5]", None),
            ("BODY[HEADER.FIELDS (Subject)]", Some("Subject: x\r\n\r\n")),
            ("BODY[HEADER.FIELDS.NOT (Subject Content-Type)]", Some("MIME-Version: 1.0\r\n\r\n")),
            ("BODY[9]", None),
        ] {
            assert_eq!(of(MESSAGE, item).as_deref(), text, "{item}");
        }
        // The empty line is left out only if there is none and no body.
        for (message, text) in [
            ("A: b", "A: b\r\n"),
            ("A: b\r\n", "A: b\r\n"),
            ("A: b\r\n\r\n", "A: b\r\n\r\n"),
            ("A: b\r\nbody", "A: b\r\n\r\n"),
            ("\r\n", "\r\n"),
            ("", ""),
        ] {
            assert_eq!(of(message, "BODY[HEADER.FIELDS (a)]").as_deref(), Some(text), "{message:?}");
        }
        let mbox = "From a@b Mon Mar  2 10:00:00 2026\r\nA: b\r\nC: d\r\n\r\n";
        assert_eq!(of(mbox, "BODY[HEADER.FIELDS (a)]").as_deref(), Some("A: b\r\n\r\n"));
        assert_eq!(of(mbox, "BODY[HEADER.FIELDS.NOT (a)]").as_deref(), Some("C: d\r\n\r\n"));
        assert_eq!(of("A: b\r\n\r\nc", "BODY[1]").as_deref(), Some("c"));
        assert_eq!(of("A: b\r\n\r\nc", "BODY[1.MIME]").as_deref(), Some("A: b\r\n\r\n"));
        assert_eq!(of("A: b\r\n\r\nc", "BODY[TEXT]").as_deref(), Some("c"));
        assert_eq!(of("A: b\r\n\r\nc", "RFC822.HEADER").as_deref(), Some("A: b\r\n\r\n"));
        assert_eq!(of("A: b\r\n\r\nc", "BODY[2]"), None);
    }

    #[test]
    fn partial_sections() {
        for (partial, len, range) in [
            (None, 5, 0..5),
            (Some((0, 3)), 5, 0..3),
            (Some((3, 9)), 5, 3..5),
            (Some((9, 9)), 5, 5..5),
            (Some((1, u64::MAX)), 5, 1..5),
        ] {
            assert_eq!(part_of(partial, len), range);
        }
    }
}

//! What a submitted message lacks (RFC 6409 §8): seen while it arrives, written in front of it.
//!
//! [`FieldsSeen`] looks at the header piece by piece and keeps which fields were there; the bytes are
//! neither copied nor changed, so what is missing goes where the trace header goes, before all others.
//! A message that has been resent (RFC 5322 §3.6.6) lacks the fields of its newest resending, not those
//! of its author. Malformed headers are no error: a header ends where `headers` says it does.

use crate::base::scan;
use crate::message::date;

/// Which of the fields that matter a header has.
#[derive(Clone, Debug, Default)]
pub struct FieldsSeen {
    at: At,
    /// The beginning of a name, in lower case.
    name: [u8; NAME_MAX],
    len: usize,
    any: bool,
    date: bool,
    message_id: bool,
    resent: bool,
    resent_date: bool,
    resent_message_id: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// The first byte of a line.
    #[default]
    LineStart,
    /// In a name.
    Name,
    /// In white space between name and colon (RFC 5322 §4.5).
    AfterName,
    /// In a value or its continuation.
    Value,
    /// The header has ended.
    Done,
}

/// `resent-message-id` is the longest name that matters; one more tells longer ones apart.
const NAME_MAX: usize = 18;

impl FieldsSeen {
    /// Takes the next bytes of the message; costs nothing once the header has ended.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let (Some(&first), true) = (bytes.first(), self.at != At::Done) {
            let used = match self.at {
                At::LineStart => self.line_start(first),
                At::Name => self.letter(first),
                At::AfterName => self.after_name(first),
                At::Value => match scan::line_feed(bytes) {
                    Some(lf) => {
                        self.at = At::LineStart;
                        lf + 1
                    }
                    None => bytes.len(),
                },
                At::Done => 0,
            };
            bytes = &bytes[used..];
        }
    }

    fn line_start(&mut self, first: u8) -> usize {
        self.len = 0;
        self.at = match first {
            b' ' | b'\t' if self.any => At::Value,
            b' ' | b'\t' | b'\r' | b'\n' | b':' => At::Done,
            _ => At::Name,
        };
        0
    }

    fn letter(&mut self, b: u8) -> usize {
        match b {
            b':' => self.field(),
            b' ' | b'\t' => self.at = At::AfterName,
            33..=126 => {
                if let Some(place) = self.name.get_mut(self.len) {
                    *place = b.to_ascii_lowercase();
                }
                self.len = self.len.saturating_add(1);
            }
            _ => self.at = At::Done,
        }
        1
    }

    fn after_name(&mut self, b: u8) -> usize {
        match b {
            b' ' | b'\t' => {}
            b':' => self.field(),
            _ => self.at = At::Done,
        }
        1
    }

    fn field(&mut self) {
        self.at = At::Value;
        self.any = true;
        let name = &self.name[..self.len.min(NAME_MAX)];
        match name {
            b"date" => self.date = true,
            b"message-id" => self.message_id = true,
            b"resent-date" => self.resent_date = true,
            b"resent-message-id" => self.resent_message_id = true,
            _ => {}
        }
        self.resent |= name.starts_with(b"resent-");
    }

    /// Appends the fields that are missing, each with its CRLF: when it was received (`date`), and an id
    /// made of `id`, which is never given twice, and our own name `host`.
    pub fn put_missing(&self, out: &mut Vec<u8>, date: &[u8; date::LEN], id: &[u8], host: &str) {
        let (prefix, has_date, has_id): (&[u8], _, _) = if self.resent {
            (b"Resent-", self.resent_date, self.resent_message_id)
        } else {
            (b"", self.date, self.message_id)
        };
        if !has_date {
            // RFC 6409 §8.2
            for part in [prefix, b"Date: ", date, b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
        if !has_id {
            // RFC 6409 §8.3
            for part in [prefix, b"Message-ID: <", id, b"@", host.as_bytes(), b">\r\n"] {
                out.extend_from_slice(part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Wall;
    use crate::message::headers;
    use proptest::prelude::*;

    fn missing(message: &[u8], cut: usize) -> String {
        let mut seen = FieldsSeen::default();
        seen.feed(&message[..cut]);
        seen.feed(&message[cut..]);
        let mut out = Vec::new();
        seen.put_missing(&mut out, &date::text(Wall(1_795_417_200_000)), b"ID1", "mx.example");
        String::from_utf8(out).unwrap()
    }

    const DATE: &str = "Date: Mon, 23 Nov 2026 07:00:00 +0000\r\n";
    const ID: &str = "Message-ID: <ID1@mx.example>\r\n";

    #[test]
    fn adds_what_is_missing_and_nothing_else() {
        for (message, expected) in [
            ("Date: x\r\nMessage-ID: <a@b>\r\n\r\n", String::new()),
            ("DATE : x\r\nmessage-id\t:<a@b>\r\n\r\n", String::new()),
            ("From: a@b\r\n\r\n", format!("{DATE}{ID}")),
            ("", format!("{DATE}{ID}")),
            ("\r\nDate: x\r\n", format!("{DATE}{ID}")),
            ("Date: x\r\n\r\nMessage-ID: body\r\n", ID.into()),
            ("Message-ID: x\r\nX-Date: x\r\nDates: x\r\n\r\n", DATE.into()),
            ("Subject: a\r\n Date: folded\r\nMessage-ID: x\r\n\r\n", DATE.into()),
            ("no field\r\nDate: x\r\n", format!("{DATE}{ID}")),
            (" Date: x\r\n", format!("{DATE}{ID}")),
            ("Dat\u{e9}: x\r\nDate: x\r\n", format!("{DATE}{ID}")),
            ("Resent-From: a@b\r\nDate: x\r\nMessage-ID: x\r\n\r\n", format!("Resent-{DATE}Resent-{ID}")),
            ("Resent-Date: y\r\nResent-Message-ID: y\r\nFrom: a@b\r\n\r\n", String::new()),
            ("resent-date: y\r\nDate: x\r\n\r\n", format!("Resent-{ID}")),
            ("X-Resent-Date: y\r\nDate: x\r\n\r\n", ID.into()),
            ("Resent-Message-IDs: y\r\nResent-Date: x\r\n\r\n", format!("Resent-{ID}")),
        ] {
            for cut in 0..=message.len() {
                assert_eq!(missing(message.as_bytes(), cut), expected, "{message:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn long_names_and_endless_headers_take_no_memory() {
        let mut seen = FieldsSeen::default();
        (0..1000).for_each(|_| seen.feed(&[b'd'; 1000]));
        seen.feed(b": x\r\nDate: x\r\n");
        assert!(seen.date && !seen.message_id);
    }

    proptest! {
        /// It sees the fields that the reader of stored messages finds.
        #[test]
        fn agrees_with_the_reader(
            parts in prop::collection::vec(prop::sample::select(vec![
                "Date", "date ", "Message-ID", "Resent-To", ":", ": ", " ", "\t", "x", "\r\n", "\r\n ",
                "\r\n\r\n", "\u{e9}",
            ]), 0..40),
            cut in 0.0..1.0,
        ) {
            let message = parts.concat();
            let mut at = (message.len() as f64 * cut) as usize;
            // Pieces never end between CR and LF.
            at -= usize::from(message.as_bytes()[..at].ends_with(b"\r"));
            let mut seen = FieldsSeen::default();
            seen.feed(&message.as_bytes()[..at]);
            seen.feed(&message.as_bytes()[at..]);
            // The reader takes a last line without its end, too.
            let has = |name: &str| headers::find(message.as_bytes(), name).is_some();
            prop_assert_eq!(seen.date, has("date"));
            prop_assert_eq!(seen.message_id, has("message-id"));
            let is_resent = |f: headers::Field<'_>| f.name.to_ascii_lowercase().starts_with(b"resent-");
            prop_assert_eq!(seen.resent, headers::fields(message.as_bytes()).any(is_resent));
        }
    }
}

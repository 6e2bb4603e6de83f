//! How fields of a message are written, as far as that can be told from what a summary has of them anyway.
//!
//! Addresses are kept in their parts. Nearly all are written in one of a few ways, so a number says in
//! which, and gives the text back to whoever looks for something in it. Bytes in, bytes out; what is
//! written in another way is said to be so.

use super::code::Reader;
use super::field::{Fields, Name};
use super::summary::{Addresses, Envelope};
use std::borrow::Cow;

/// A flag of a summary: no field is there twice of those of which it has the text.
const SINGLE: u64 = 1 << 1;
/// Two bits for each list of addresses begin here.
const STYLES: u32 = 2;
/// The lists, in the order of these bits.
const LISTS: [(Name, &str); 4] =
    [(Name::From, "From"), (Name::To, "To"), (Name::Cc, "Cc"), (Name::Bcc, "Bcc")];

/// A list is written in another way.
const OTHER: u64 = 0;
/// Names in quotes only if they need them, addresses in angle brackets only behind a name. No field at
/// all, if the list is empty.
const PLAIN: u64 = 1;
/// As [`PLAIN`], but all names in quotes.
const QUOTED: u64 = 2;
/// As [`PLAIN`], but all addresses in angle brackets.
const ANGLE: u64 = 3;

/// The text of a field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Written<'a> {
    /// This, without folding; encoded words are not decoded.
    Text(Cow<'a, [u8]>),
    /// There is no such field.
    Absent,
    /// The summary does not say: the header does.
    Unknown,
}

/// Whether any summary may have the text of a field of that name.
#[must_use]
pub fn may_be_known(name: &[u8]) -> bool {
    let same = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    ["Date", "Subject", "Message-ID", "In-Reply-To", "References"].into_iter().any(same)
        || LISTS.iter().any(|(_, list)| same(list))
}

/// The flags that say how these fields are written; `envelope` is what has been made of them.
pub(super) fn flags(fields: &Fields, envelope: &[u8]) -> u64 {
    let Ok(envelope) = Envelope::take(&mut Reader(envelope)) else { return 0 };
    let single = [Name::Date, Name::Subject, Name::MessageId, Name::InReplyTo, Name::References];
    let mut flags = if single.into_iter().all(|name| fields.all(name).count() < 2) { SINGLE } else { 0 };
    for (n, (name, _)) in LISTS.iter().enumerate() {
        let list = list_of(&envelope, n);
        let mut all = fields.all(*name);
        let style = match (all.next(), all.next()) {
            (None, _) => PLAIN,
            (Some(value), None) if !list.is_empty() => [PLAIN, QUOTED, ANGLE]
                .into_iter()
                .find(|style| text(list, *style).is_some_and(|text| text == value))
                .unwrap_or(OTHER),
            _ => OTHER,
        };
        flags |= style << (STYLES + 2 * n as u32);
    }
    flags
}

fn list_of<'a>(envelope: &Envelope<'a>, n: usize) -> Addresses<'a> {
    [envelope.from, envelope.to, envelope.cc, envelope.bcc][n]
}

/// The text of a field, if its name is one of those that [`may_be_known`].
pub(super) fn field<'a>(
    name: &[u8],
    flags: u64,
    envelope: &Envelope<'a>,
    references: Option<&'a [u8]>,
) -> Written<'a> {
    let same = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    if let Some(n) = LISTS.iter().position(|(_, list)| same(list)) {
        let list = list_of(envelope, n);
        return match flags >> (STYLES + 2 * n as u32) & 3 {
            OTHER => Written::Unknown,
            _ if list.is_empty() => Written::Absent,
            style => text(list, style).map_or(Written::Unknown, |text| Written::Text(text.into())),
        };
    }
    let value = match () {
        () if flags & SINGLE == 0 => return Written::Unknown,
        () if same("Date") => envelope.date,
        () if same("Subject") => envelope.subject,
        () if same("Message-ID") => envelope.message_id,
        () if same("In-Reply-To") => envelope.in_reply_to,
        () if same("References") => references,
        () => return Written::Unknown,
    };
    value.map_or(Written::Absent, |value| Written::Text(value.into()))
}

/// The addresses, written in one of the ways; `None`: they cannot be.
fn text(list: Addresses<'_>, style: u64) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for a in list {
        // Groups, routes, and what had to be made up.
        let (mailbox, host) = (a.mailbox?, a.host?);
        if a.route.is_some() {
            return None;
        }
        if !out.is_empty() {
            out.extend_from_slice(b", ");
        }
        let angle = a.name.is_some() || style == ANGLE;
        if let Some(name) = a.name {
            put_name(&mut out, name, style == QUOTED);
            out.push(b' ');
        }
        let (open, close): (&[u8], &[u8]) = if angle { (b"<", b">") } else { (b"", b"") };
        for part in [open, mailbox, b"@", host, close] {
            out.extend_from_slice(part);
        }
    }
    Some(out)
}

fn put_name(out: &mut Vec<u8>, name: &[u8], quoted: bool) {
    // RFC 5322 §3.2.3: atoms and the space between them; what is not ASCII is taken for text of them.
    let plain = |b: &u8| b.is_ascii_alphanumeric() || *b >= 0x80 || b" !#$%&'*+-/=?^_`{|}~".contains(b);
    if !quoted && name.iter().all(plain) {
        return out.extend_from_slice(name);
    }
    out.push(b'"');
    for b in name {
        if matches!(b, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*b);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::super::{Scanner, Summary};
    use super::*;
    use crate::message::headers;
    use proptest::prelude::*;

    fn summary(message: &[u8]) -> Vec<u8> {
        let mut scanner = Scanner::new();
        scanner.feed(message);
        let mut out = Vec::new();
        scanner.finish(&mut out);
        out
    }

    fn said(message: &str, name: &str) -> Option<Option<String>> {
        let bytes = summary(message.as_bytes());
        match Summary::read(&bytes).unwrap().field(name.as_bytes()) {
            Written::Text(text) => Some(Some(String::from_utf8_lossy(&text).into_owned())),
            Written::Absent => Some(None),
            Written::Unknown => None,
        }
    }

    #[test]
    fn usual_fields_are_given_back() {
        for value in [
            "a@b.example",
            "<a@b.example>",
            "Jo Doe <a@b.example>, c@d.example",
            "\"Jo Doe\" <a@b.example>, \"X\" <c@d.example>",
            "\"Doe, Jo\" <a@b.example>, X Y <c@d.example>",
            "=?utf-8?Q?J=C3=BCrgen?= <j.x+y@b.example>, \"a\\\"b\" <a@b>",
            "J\u{fc}rgen <j@b.example>",
        ] {
            for name in ["From", "to", "CC", "Bcc"] {
                let message = format!("{name}: {value}\r\n\r\nx");
                assert_eq!(said(&message, name), Some(Some(value.to_owned())), "{message}");
            }
        }
        let folded = "To: a@b.example,\r\n c@d.example\r\nSubject:\r\n a\r\n\tb \r\n\r\nx";
        assert_eq!(said(folded, "To"), Some(Some("a@b.example, c@d.example".to_owned())));
        assert_eq!(said(folded, "subject"), Some(Some("a b".to_owned())));
        assert_eq!((said(folded, "From"), said(folded, "Date")), (Some(None), Some(None)));
        assert_eq!(said("Message-ID: <x>\r\nIn-Reply-To:\r\n\r\n", "In-Reply-To"), Some(Some(String::new())));
    }

    #[test]
    fn others_are_said_to_be_so() {
        for value in [
            "a@b.example (Jo)",
            "Jo <a@b.example> , c@d.example",
            "friends: a@b.example;",
            "<@c.example:a@b.example>",
            "\"a b\"@c.example",
            "J. Doe <a@b.example>",
            "nobody",
            "",
        ] {
            let message = format!("From: {value}\r\n\r\nx");
            assert_eq!(said(&message, "From"), None, "{message}");
        }
        assert_eq!(said("To: a@b\r\nTo: c@d\r\n\r\n", "To"), None);
        let twice = "Subject: a\r\nsubject: b\r\nTo: a@b\r\n\r\n";
        assert_eq!((said(twice, "Subject"), said(twice, "To")), (None, Some(Some("a@b".to_owned()))));
        assert_eq!(said("X: y\r\n\r\n", "X"), None);
        // Summaries that were made before there were these flags.
        let mut old = summary(b"Subject: a\r\n\r\n");
        assert_eq!((old[0], old[1] & 0x80, old[2] & 0x80), (1, 0x80, 0));
        old.drain(2..3);
        old[1] = 0;
        assert_eq!(Summary::read(&old).unwrap().field(b"Subject"), Written::Unknown);
    }

    proptest! {
        /// What is said of a field is what stands there.
        #[test]
        fn what_is_said_is_right(
            name in "From|To|Cc|Bcc|Subject|Date|References|Message-ID|In-Reply-To",
            values in prop::collection::vec(
                "[ab <>@,;:()\"\\\\.=?]{0,12}|(a|\"b\"|\"c, d\") <a@b>|a@b, <c@d>",
                0..3,
            ),
        ) {
            let mut message = String::new();
            values.iter().for_each(|v| message.push_str(&format!("{name}: {v}\r\n")));
            message.push_str("\r\n");
            let mut there = headers::fields(message.as_bytes());
            match said(&message, &name) {
                None => {}
                Some(None) => prop_assert!(there.next().is_none()),
                Some(Some(text)) => {
                    let value = there.next().expect("there is one").value;
                    prop_assert_eq!(text.as_bytes(), value.trim_ascii());
                    prop_assert!(there.next().is_none());
                }
            }
        }
    }
}

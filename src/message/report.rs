//! L1: reports that come in: mail could not be delivered (RFC 3464), its reader complains (RFC 5965).
//!
//! Reads the beginning of a message, as long as it is given; what stands behind, the original message for the
//! most part, is not needed. Any bytes are a message: nothing here fails or panics on them; what is no report
//! is `None`. Lists and values are bounded. What is said is what the sender of the report says: nothing
//! proves it.

use super::headers::{self, Field};
use super::mime::{Part, Scanner, Summary};

/// Bytes of a message that are looked at.
pub const LOOKED_AT: usize = 256 << 10;
/// Bytes of a value; longer ones are cut.
const VALUE_MAX: usize = 1000;
/// Recipients of a report, and values of a field that may come several times.
const LIST_MAX: usize = 100;

/// A report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// What has become of recipients.
    Delivery(Delivery),
    /// A reader's, or his provider's, view of a message.
    Feedback(Box<Feedback>),
}

/// RFC 3464.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Who reports: a host name.
    pub reporting: Vec<u8>,
    /// ENVID of the message.
    pub envelope: Vec<u8>,
    /// Message-ID of the message, if it is there.
    pub message: Vec<u8>,
    /// Its recipients.
    pub recipients: Vec<Recipient>,
}

/// What has become of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipient {
    /// As the sender named it; empty: it is not said.
    pub original: Vec<u8>,
    /// As it was at last.
    pub address: Vec<u8>,
    /// What has become of it.
    pub action: Action,
    /// RFC 3463; zeros: it is not said.
    pub status: [u16; 3],
    /// The server that has refused it.
    pub server: Vec<u8>,
    /// What that has said.
    pub said: Vec<u8>,
}

/// RFC 3464 §2.3.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// It is given up.
    #[default]
    Failed,
    /// It is tried again.
    Delayed,
    /// It is where it is read.
    Delivered,
    /// It has gone on to a server that reports nothing.
    Relayed,
    /// It has become several.
    Expanded,
}

impl Action {
    /// As it is written.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Delivered => "delivered",
            Action::Relayed => "relayed",
            Action::Expanded => "expanded",
        }
    }
}

/// RFC 5965. What is empty is not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Feedback {
    /// `abuse`, `fraud`, `virus`, `not-spam`, `auth-failure`, `other`, ...
    pub kind: Vec<u8>,
    /// The program that reports.
    pub agent: Vec<u8>,
    /// Of the format.
    pub version: Vec<u8>,
    /// When the message came.
    pub arrival: Vec<u8>,
    /// So many like it.
    pub incidents: u64,
    /// ENVID of the message.
    pub envelope: Vec<u8>,
    /// Its sender.
    pub sender: Vec<u8>,
    /// Its recipients.
    pub recipients: Vec<Vec<u8>>,
    /// Who reports: a host name.
    pub reporting: Vec<u8>,
    /// Where the message came from.
    pub source: Vec<u8>,
    /// Domains that are complained about.
    pub domains: Vec<Vec<u8>>,
    /// Addresses in the message that are complained about.
    pub uris: Vec<Vec<u8>>,
    /// What the receiver had found out about it.
    pub results: Vec<Vec<u8>>,
    /// Message-ID of the message, if it is there.
    pub message: Vec<u8>,
}

/// What the message says, whose beginning this is.
#[must_use]
pub fn parse(message: &[u8]) -> Option<Report> {
    let message = &message[..message.len().min(LOOKED_AT)];
    let mut scanner = Scanner::new();
    scanner.feed(message);
    let mut bytes = Vec::new();
    scanner.finish(&mut bytes);
    let summary = Summary::read(&bytes).ok()?;
    let root = summary.root();
    if !root.media.eq_ignore_ascii_case(b"multipart") {
        return None;
    }
    let body = |part: &Part<'_>| {
        let range = usize::try_from(part.body).ok()?..usize::try_from(part.end).ok()?;
        message.get(range)
    };
    let is = |part: &Part<'_>, names: &[&[u8]]| {
        part.media.eq_ignore_ascii_case(b"message")
            && names.iter().any(|name| part.subtype.eq_ignore_ascii_case(name))
    };
    let named = || original_id(root.children().filter_map(|part| Some((part, body(&part)?))));
    // RFC 6522 §3: the second part says it to programs.
    for part in root.children().take(LIST_MAX) {
        // RFC 6533 §3: the same in UTF-8.
        if is(&part, &[b"delivery-status", b"global-delivery-status"]) {
            return Some(Report::Delivery(Delivery { message: named(), ..delivery(body(&part)?)? }));
        }
        if is(&part, &[b"feedback-report"]) {
            let feedback = Feedback { message: named(), ..feedback(body(&part)?)? };
            return Some(Report::Feedback(Box::new(feedback)));
        }
    }
    None
}

/// Message-ID of the message that is in one of the parts, or its header.
fn original_id<'a>(parts: impl Iterator<Item = (Part<'a>, &'a [u8])>) -> Vec<u8> {
    for (part, body) in parts.take(LIST_MAX) {
        let of = |media: &[u8], names: &[&[u8]]| {
            part.media.eq_ignore_ascii_case(media)
                && names.iter().any(|n| part.subtype.eq_ignore_ascii_case(n))
        };
        let is = of(b"message", &[b"rfc822", b"global", b"global-headers"])
            || of(b"text", &[b"rfc822-headers", b"rfc822-header"]);
        if let Some(field) = Some(body).filter(|_| is).and_then(|body| headers::find(body, "message-id")) {
            return value(field.value);
        }
    }
    Vec::new()
}

/// Unfolded (RFC 5322 §2.2.3), without white space at its ends, cut.
fn value(text: &[u8]) -> Vec<u8> {
    let lines = text.split(|b| matches!(b, b'\r' | b'\n')).map(<[u8]>::trim_ascii);
    let mut all: Vec<u8> = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        if !all.is_empty() {
            all.push(b' ');
        }
        all.extend_from_slice(line);
        if all.len() > VALUE_MAX {
            break;
        }
    }
    all.truncate(VALUE_MAX);
    all
}

/// The value behind `rfc822;` and the like (RFC 3464 §2.1.2); of an address, without its brackets.
fn typed(text: &[u8]) -> Vec<u8> {
    let whole = value(text);
    let rest = memchr::memchr(b';', &whole).map_or(&whole[..], |at| whole[at + 1..].trim_ascii());
    bare(rest)
}

fn bare(text: &[u8]) -> Vec<u8> {
    let inner = text.strip_prefix(b"<").and_then(|t| t.strip_suffix(b">"));
    inner.unwrap_or(text).to_vec()
}

/// Groups of fields: between empty lines. At most as many as there are recipients, and one.
fn groups(body: &[u8]) -> impl Iterator<Item = Vec<Field<'_>>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        loop {
            while let Some(next) = rest.strip_prefix(b"\r\n") {
                rest = next;
            }
            if rest.is_empty() {
                return None;
            }
            let group: Vec<_> = headers::fields(rest).collect();
            rest = &rest[group.iter().map(|f| f.raw.len()).sum::<usize>()..];
            if !group.is_empty() {
                return Some(group);
            }
            // A line that is no field.
            rest = &rest[memchr::memchr(b'\n', rest).map_or(rest.len(), |lf| lf + 1)..];
        }
    })
    .take(LIST_MAX + 1)
}

fn find<'a>(group: &[Field<'a>], name: &str) -> &'a [u8] {
    group.iter().find(|f| f.is(name)).map(|f| f.value).unwrap_or_default()
}

fn delivery(body: &[u8]) -> Option<Delivery> {
    let mut all = Delivery::default();
    for group in groups(body) {
        if !find(&group, "reporting-mta").is_empty() {
            all.reporting = typed(find(&group, "reporting-mta"));
            all.envelope = value(find(&group, "original-envelope-id"));
        }
        let address = find(&group, "final-recipient");
        let original = find(&group, "original-recipient");
        if address.is_empty() && original.is_empty() {
            continue;
        }
        let status = value(find(&group, "status"));
        let action = value(find(&group, "action")).to_ascii_lowercase();
        all.recipients.push(Recipient {
            original: typed(original),
            address: typed(if address.is_empty() { original } else { address }),
            action: match &action[..] {
                b"delayed" => Action::Delayed,
                b"delivered" => Action::Delivered,
                b"relayed" => Action::Relayed,
                b"expanded" => Action::Expanded,
                // Who does not say it reports success by its status, if ever.
                b"" if status.starts_with(b"2") => Action::Delivered,
                b"" if status.starts_with(b"4") => Action::Delayed,
                _ => Action::Failed,
            },
            status: enhanced(&status),
            server: typed(find(&group, "remote-mta")),
            said: typed(find(&group, "diagnostic-code")),
        });
    }
    (!all.recipients.is_empty()).then_some(all)
}

/// The code that a text begins with (RFC 3463 §2), or zeros.
fn enhanced(text: &[u8]) -> [u16; 3] {
    let end = text.iter().position(|b| !matches!(b, b'0'..=b'9' | b'.')).unwrap_or(text.len());
    let mut numbers =
        text[..end].split(|b| *b == b'.').map(|n| std::str::from_utf8(n).ok()?.parse::<u16>().ok());
    let mut next = || numbers.next().flatten().filter(|n| *n < 1000);
    match (next(), next(), next()) {
        (Some(class @ (2 | 4 | 5)), Some(subject), Some(detail)) => [class, subject, detail],
        _ => [0; 3],
    }
}

fn feedback(body: &[u8]) -> Option<Feedback> {
    let group: Vec<Field<'_>> = groups(body).next()?;
    let one = |name: &str| value(find(&group, name));
    let list = |name: &str| -> Vec<Vec<u8>> {
        group.iter().filter(|f| f.is(name)).take(LIST_MAX).map(|f| value(f.value)).collect()
    };
    let kind = one("feedback-type").to_ascii_lowercase();
    // RFC 5965 §3.1: it must be there.
    if kind.is_empty() {
        return None;
    }
    let addresses: Vec<Vec<u8>> = list("original-rcpt-to");
    let incidents = std::str::from_utf8(&one("incidents")).ok().and_then(|n| n.parse().ok());
    Some(Feedback {
        kind,
        agent: one("user-agent"),
        version: one("version"),
        arrival: if find(&group, "arrival-date").is_empty() {
            one("received-date")
        } else {
            one("arrival-date")
        },
        incidents: incidents.unwrap_or(1),
        envelope: one("original-envelope-id"),
        sender: bare(&one("original-mail-from")),
        recipients: addresses.iter().map(|a| bare(a)).collect(),
        reporting: typed(find(&group, "reporting-mta")),
        source: one("source-ip"),
        domains: list("reported-domain"),
        uris: list("reported-uri"),
        results: list("authentication-results"),
        message: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report(kind: &str, part: &str, original: &str) -> Vec<u8> {
        format!(
            "From: MAILER-DAEMON@far.example\r\n\
             Content-Type: multipart/report; report-type={kind};\r\n\tboundary=\"b 1\"\r\n\
             MIME-Version: 1.0\r\n\r\n--b 1\r\n\r\nfor people\r\n\
             --b 1\r\nContent-Type: message/{kind}\r\n\r\n{part}\r\n\
             --b 1\r\n{original}\r\n--b 1--\r\n"
        )
        .into_bytes()
    }

    const ORIGINAL: &str =
        "Content-Type: message/rfc822\r\n\r\nFrom: a@b\r\nMessage-ID: <1@a.example>\r\n\r\nHi\r\n";

    #[test]
    fn what_has_become_of_recipients() {
        let part = "Reporting-MTA: dns; mx.far.example\r\nOriginal-Envelope-Id: Q1\r\n\r\n\
                    Original-Recipient: rfc822;joe@far.example\r\n\
                    Final-Recipient: RFC822; <jim@deep.example>\r\n\
                    Action: failed\r\nStatus: 5.1.1 (no such user)\r\nRemote-MTA: dns; deep.example\r\n\
                    Diagnostic-Code: smtp; 550 5.1.1\r\n\tno such user\r\n\r\n\
                    Final-Recipient: rfc822;ann@far.example\r\nAction: Delayed\r\nStatus: 4.4.1\r\n\r\n\
                    X-Other: 1\r\n\r\nFinal-Recipient: utf-8;j\u{f6}@far.example\r\nStatus: 2.x\r\n";
        let Some(Report::Delivery(found)) = parse(&report("delivery-status", part, ORIGINAL)) else {
            panic!("it is one")
        };
        assert_eq!((&found.reporting[..], &found.envelope[..]), (&b"mx.far.example"[..], &b"Q1"[..]));
        assert_eq!(found.message, b"<1@a.example>");
        let [first, second, third] = &found.recipients[..] else { panic!("{found:?}") };
        assert_eq!(
            (&first.original[..], &first.address[..]),
            (&b"joe@far.example"[..], &b"jim@deep.example"[..])
        );
        assert_eq!((first.action, first.status), (Action::Failed, [5, 1, 1]));
        assert_eq!(
            (&first.server[..], &first.said[..]),
            (&b"deep.example"[..], &b"550 5.1.1 no such user"[..])
        );
        assert_eq!(
            (second.action, second.status, &second.original[..]),
            (Action::Delayed, [4, 4, 1], &b""[..])
        );
        assert_eq!((third.action, third.status), (Action::Delivered, [0; 3]));
        assert_eq!(third.address, "j\u{f6}@far.example".as_bytes());
    }

    #[test]
    fn what_readers_complain_about() {
        let part = "Feedback-Type: Abuse\r\nUser-Agent: SomeGenerator/1.0\r\nVersion: 1\r\n\
                    Original-Mail-From: <bounces+x=y@a.example>\r\nOriginal-Rcpt-To: <joe@far.example>\r\n\
                    Original-Rcpt-To: ann@far.example\r\nArrival-Date: Thu, 8 Mar 2005 14:00:00 EDT\r\n\
                    Source-IP: 192.0.2.1\r\nReported-Domain: a.example\r\n\
                    Reported-Uri: http://a.example/x\r\n\
                    Authentication-Results: mx.far.example;\r\n\tspf=fail\r\nIncidents: 3\r\n";
        let header = "Content-Type: text/rfc822-headers\r\n\r\nMessage-Id: <2@a.example>\r\n";
        let Some(Report::Feedback(found)) = parse(&report("feedback-report", part, header)) else {
            panic!("it is one")
        };
        assert_eq!((&found.kind[..], found.incidents), (&b"abuse"[..], 3));
        assert_eq!(found.sender, b"bounces+x=y@a.example");
        assert_eq!(found.recipients, [b"joe@far.example".to_vec(), b"ann@far.example".to_vec()]);
        assert_eq!(found.results, [b"mx.far.example; spf=fail".to_vec()]);
        assert_eq!((&found.source[..], &found.message[..]), (&b"192.0.2.1"[..], &b"<2@a.example>"[..]));
    }

    #[test]
    fn what_is_none() {
        let failed = "Final-Recipient: rfc822;a@b\r\n";
        assert!(parse(&report("delivery-status", failed, "")).is_some());
        assert_eq!(parse(&report("delivery-status", "Reporting-MTA: dns; x\r\n", "")), None);
        assert_eq!(parse(&report("feedback-report", "Version: 1\r\n", "")), None);
        assert_eq!(parse(&report("disposition-notification", failed, "")), None);
        for text in ["", "Subject: failed\r\n\r\nFinal-Recipient: rfc822;a@b\r\n"] {
            assert_eq!(parse(text.as_bytes()), None);
        }
        // One in a message that was forwarded is about something else.
        let inner = String::from_utf8(report("delivery-status", failed, "")).unwrap();
        let outer = format!(
            "Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n\
             Content-Type: message/rfc822\r\n\r\n{inner}\r\n--o--\r\n"
        );
        assert_eq!(parse(outer.as_bytes()), None);
    }

    #[test]
    fn bounds_hold() {
        let many = "Final-Recipient: rfc822;a@b\r\nStatus: 5.0.0\r\n\r\n".repeat(5000);
        let Some(Report::Delivery(found)) = parse(&report("delivery-status", &many, "")) else { panic!() };
        assert!(found.recipients.len() <= LIST_MAX + 1, "{}", found.recipients.len());
        let long = format!("Final-Recipient: rfc822;{}\r\n", "x".repeat(100_000));
        let Some(Report::Delivery(found)) = parse(&report("delivery-status", &long, "")) else { panic!() };
        assert!(found.recipients[0].address.len() <= VALUE_MAX);
        // The end is not there.
        let cut = &report("delivery-status", "Final-Recipient: rfc822;a@b\r\n", &ORIGINAL.repeat(9))[..400];
        assert!(matches!(parse(cut), Some(Report::Delivery(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_stumble(part in prop::collection::vec(any::<u8>(), 0..400), kind in 0..2_usize) {
            let kind = ["delivery-status", "feedback-report"][kind];
            let mut message = report(kind, "MARK", ORIGINAL);
            let at = memchr::memmem::find(&message, b"MARK").unwrap();
            message.splice(at..at + 4, part);
            let _ = parse(&message);
        }
    }
}

//! A reader of delivery reports, written from RFC 3464, RFC 6522 and RFC 3461 and knowing nothing of who
//! wrote them. What a report must have and has not, or has twice, or in a form that is none, is a panic that
//! says so.

use crate::harness::Mail;
use std::collections::BTreeMap;

/// Fields by their names in lower case, unfolded.
pub type Fields = BTreeMap<String, String>;

/// What is said of one recipient.
#[derive(Clone, Debug)]
pub struct Recipient {
    pub action: String,
    pub status: String,
    pub fields: Fields,
}

/// A report.
#[derive(Clone, Debug)]
pub struct Report {
    /// Host name of who reports.
    pub reporter: String,
    pub message: Fields,
    /// By address.
    pub recipients: BTreeMap<String, Recipient>,
    /// What is returned of the message.
    pub returned: String,
}

/// RFC 5322 section 2.2.3: header fields, and the body behind them.
fn header(text: &str) -> (Fields, &str) {
    let (head, body) = match text.strip_prefix("\r\n") {
        Some(body) => ("", body),
        None => text.split_once("\r\n\r\n").expect("an empty line behind the header"),
    };
    (fields(head), body)
}

fn fields(head: &str) -> Fields {
    let mut all = Fields::new();
    for line in head.replace("\r\n ", " ").replace("\r\n\t", " ").split("\r\n") {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no field: {line:?}"));
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()), "no field name: {name:?}");
        let before = all.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        // Trace fields may stand there several times.
        assert!(before.is_none() || name.eq_ignore_ascii_case("received"), "{name} twice");
    }
    all
}

/// RFC 2045 section 5.1: a parameter, quoted or not.
fn parameter(field: &str, name: &str) -> Option<String> {
    let rest = field.split(';').find_map(|p| p.trim().strip_prefix(&format!("{name}=")))?;
    Some(rest.trim_matches('"').to_owned())
}

/// RFC 2046 section 5.1: the parts between the boundaries.
fn parts<'a>(body: &'a str, boundary: &str) -> Vec<&'a str> {
    let line = format!("--{boundary}");
    let (all, _) = body.split_once(&format!("\r\n{line}--")).expect("a closing boundary");
    let all =
        all.strip_prefix(&line).or_else(|| all.split_once(&format!("\r\n{line}")).map(|(_, rest)| rest));
    let all = all.expect("a first boundary");
    all.split(&format!("\r\n{line}")).map(|part| part.strip_prefix("\r\n").expect("a line end")).collect()
}

/// `type; value`: RFC 3464 section 2.1.2.
fn typed<'a>(value: &'a str, kind: &str) -> &'a str {
    let (found, rest) = value.split_once(';').unwrap_or_else(|| panic!("no type in {value:?}"));
    assert_eq!(found.trim(), kind, "{value}");
    rest.trim()
}

impl Report {
    /// Reads one.
    #[track_caller]
    pub fn read(mail: &Mail) -> Report {
        assert!(mail.from.starts_with("<>"), "RFC 3461 section 6.1: from nobody, not {}", mail.from);
        let text = String::from_utf8(mail.content()).expect("a report about ASCII is ASCII");
        let (head, body) = header(&text);
        let kind = &head["content-type"];
        // RFC 6522 section 3.
        assert!(kind.to_ascii_lowercase().starts_with("multipart/report"), "{kind}");
        assert_eq!(parameter(kind, "report-type").as_deref(), Some("delivery-status"), "{kind}");
        assert_eq!(head["mime-version"], "1.0");
        // RFC 3834 section 5: nobody answers a report.
        assert!(head["auto-submitted"].starts_with("auto-"), "{}", head["auto-submitted"]);
        for name in ["from", "to", "subject", "date", "message-id"] {
            assert!(head.get(name).is_some_and(|v| !v.is_empty()), "no {name}");
        }
        let parts = parts(body, &parameter(kind, "boundary").expect("a boundary"));
        assert!((2..=3).contains(&parts.len()), "{} parts", parts.len());
        let (status_head, status) = header(parts[1]);
        assert_eq!(status_head["content-type"].split(';').next(), Some("message/delivery-status"));
        let (message, recipients) = Self::status(status);
        let reporter = typed(&message["reporting-mta"], "dns").to_owned();
        let returned = parts.get(2).map_or("", |part| header(part).1).to_owned();
        Report { reporter, message, recipients, returned }
    }

    /// RFC 3464 section 2.1: fields of the message, then some for each recipient.
    fn status(text: &str) -> (Fields, BTreeMap<String, Recipient>) {
        let mut groups = text.trim_end_matches("\r\n").split("\r\n\r\n").map(fields);
        let message = groups.next().expect("fields of the message");
        let mut recipients = BTreeMap::new();
        for fields in groups {
            let address = typed(&fields["final-recipient"], "rfc822").to_owned();
            let (action, status) = (fields["action"].clone(), fields["status"].clone());
            Self::check(&action, &status, &fields);
            let before = recipients.insert(address, Recipient { action, status, fields });
            assert!(before.is_none(), "a recipient twice");
        }
        assert!(!recipients.is_empty(), "nobody is reported");
        (message, recipients)
    }

    /// RFC 3464 sections 2.3.3 and 2.3.4.
    fn check(action: &str, status: &str, fields: &Fields) {
        let numbers: Vec<u16> = status.split('.').map(|n| n.parse().expect("a number")).collect();
        assert_eq!(numbers.len(), 3, "{status}");
        let class = match action {
            "failed" => 5,
            "delayed" => 4,
            "delivered" | "relayed" | "expanded" => 2,
            other => panic!("no such action: {other}"),
        };
        assert_eq!(numbers[0], class, "{action} with status {status}");
        if let Some(code) = fields.get("diagnostic-code") {
            assert!(
                code.split_once(';').is_some_and(|(kind, text)| !kind.is_empty() && text.len() > 1),
                "{code}"
            );
        }
        if let Some(until) = fields.get("will-retry-until") {
            assert!(action == "delayed" && until.contains(':'), "{action} until {until}");
        }
    }
}

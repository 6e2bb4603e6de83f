//! Reports are read back by a small MIME reader of the tests' own.

use super::*;
use crate::base::ids::{LogNumber, MessageId};
use proptest::prelude::*;

const ORIGINAL: &[u8] = b"Received: x\r\nSubject: hello\r\nFrom: a@b\r\n\r\nBody\r\n.\r\n";

fn id(n: u64) -> QueueId {
    QueueId { message: MessageId(n), log: LogNumber(1) }
}

fn failed<'a>(address: &'a [u8], text: &'a [u8]) -> RecipientReport<'a> {
    RecipientReport {
        address,
        orcpt: b"",
        action: Action::Failed,
        status: [5, 1, 1],
        remote_mta: Some("mx.far.example"),
        code: 550,
        enhanced: Some([5, 1, 1]),
        text,
        last_attempt: Some(Wall(1_709_164_799_999)),
        retry_until: None,
    }
}

fn report<'a>(recipients: &'a [RecipientReport<'a>], original: Original<'a>) -> Report<'a> {
    Report {
        host: "mx1.example.net",
        id: id(7),
        original_id: id(5),
        now: Wall(1_709_164_800_000),
        arrival: Wall(1_709_164_700_000),
        sender: b"a@b.example",
        envid: b"",
        utf8: false,
        international: false,
        recipients,
        original,
    }
}

type Fields = Vec<(String, String)>;

struct Mime {
    header: Fields,
    parts: Vec<(Fields, Vec<u8>)>,
}

fn fields(text: &[u8]) -> Fields {
    let text = String::from_utf8(text.to_vec()).expect("UTF-8");
    let unfolded = text.replace("\r\n\t", " ").replace("\r\n ", " ");
    let lines = unfolded.split("\r\n").filter(|l| !l.is_empty());
    lines.map(|l| l.split_once(": ").expect("a field")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

fn get<'a>(fields: &'a Fields, name: &str) -> &'a str {
    let mut found = fields.iter().filter(|(n, _)| n == name);
    let value = &found.next().unwrap_or_else(|| panic!("no {name}")).1;
    assert!(found.next().is_none(), "{name} twice");
    value
}

fn split(text: &[u8], at: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let i = memchr::memmem::find(text, at).expect("a divider");
    (text[..i].to_vec(), text[i + at.len()..].to_vec())
}

/// Reads a report and checks its form on the way.
fn read(r: &Report<'_>) -> Mime {
    let mut out = Vec::new();
    write(r, &mut out);
    assert!(out.ends_with(b"\r\n"));
    for l in out.strip_suffix(b"\r\n").unwrap().split(|&b| b == b'\n') {
        let l = l.strip_suffix(b"\r").unwrap_or(l);
        assert!(l.len() <= 998 && !l.contains(&b'\r') && !l.contains(&0), "{}", l.escape_ascii());
    }
    assert!(memchr::memchr_iter(b'\n', &out).all(|i| i > 0 && out[i - 1] == b'\r'), "bare LF");
    let (head, body) = split(&out, b"\r\n\r\n");
    let header = fields(&head);
    let kind = get(&header, "Content-Type");
    assert!(kind.starts_with("multipart/report; report-type=delivery-status;"));
    let boundary = kind.split("boundary=\"").nth(1).unwrap().trim_end_matches('"');
    let (body, after) = split(&body, format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(after.is_empty());
    let divider = format!("\r\n--{boundary}\r\n").into_bytes();
    let mut parts = Vec::new();
    let mut rest = split(&body, &divider).1;
    loop {
        let end = memchr::memmem::find(&rest, &divider);
        let (head, content) = split(&rest[..end.unwrap_or(rest.len())], b"\r\n\r\n");
        parts.push((fields(&head), content));
        let Some(end) = end else { break };
        rest = rest[end + divider.len()..].to_vec();
    }
    assert_eq!(parts.len(), 3);
    Mime { header, parts }
}

/// The groups of the delivery-status part.
fn groups(m: &Mime) -> Vec<Fields> {
    let text = String::from_utf8(m.parts[1].1.clone()).unwrap();
    text.split("\r\n\r\n").map(|g| fields(g.as_bytes())).collect()
}

#[test]
fn a_bounce_reads_back() {
    let mut one = failed(b"x@far.example", b"no such user");
    one.orcpt = b"rfc822;y+2B1@far.example";
    let two =
        RecipientReport { code: 0, enhanced: None, remote_mta: None, ..failed(b"z@far.example", b"too old") };
    let recipients = [one, two];
    let mut r = report(&recipients, Original::header(ORIGINAL));
    r.envid = b"QQ+2D1";
    let m = read(&r);
    assert_eq!(get(&m.header, "To"), "<a@b.example>");
    assert_eq!(get(&m.header, "From"), "MAILER-DAEMON@mx1.example.net (Mail Delivery System)");
    assert_eq!(get(&m.header, "Date"), "Thu, 29 Feb 2024 00:00:00 +0000");
    assert_eq!(get(&m.header, "Subject"), "Undelivered mail returned to sender");
    assert_eq!(get(&m.header, "Message-ID"), format!("<{}@mx1.example.net>", id(7)));
    assert_eq!(get(&m.header, "Auto-Submitted"), "auto-replied");
    assert_eq!(get(&m.header, "MIME-Version"), "1.0");
    let text = String::from_utf8(m.parts[0].1.clone()).unwrap();
    assert!(
        text.contains("<x@far.example>: failed\r\n    mx.far.example said: 550 5.1.1 no such user"),
        "{text}"
    );
    assert_eq!(get(&m.parts[1].0, "Content-Type"), "message/delivery-status");
    let g = groups(&m);
    assert_eq!(g.len(), 3);
    assert_eq!(get(&g[0], "Reporting-MTA"), "dns; mx1.example.net");
    assert_eq!(get(&g[0], "Original-Envelope-Id"), "QQ-1");
    assert_eq!(get(&g[0], "X-Queue-Id"), id(5).to_string());
    assert_eq!(get(&g[1], "Original-Recipient"), "rfc822; y+1@far.example");
    assert_eq!(get(&g[1], "Final-Recipient"), "rfc822; x@far.example");
    assert_eq!((get(&g[1], "Action"), get(&g[1], "Status")), ("failed", "5.1.1"));
    assert_eq!(get(&g[1], "Remote-MTA"), "dns; mx.far.example");
    assert_eq!(get(&g[1], "Diagnostic-Code"), "smtp; 550 5.1.1 no such user");
    assert_eq!(get(&g[1], "Last-Attempt-Date"), "Wed, 28 Feb 2024 23:59:59 +0000");
    assert_eq!(get(&g[2], "Diagnostic-Code"), "x-ringpost; too old");
    assert!(g[2].iter().all(|(n, _)| n != "Remote-MTA" && n != "Original-Recipient"));
    assert_eq!(get(&m.parts[2].0, "Content-Type"), "text/rfc822-headers");
    assert_eq!(m.parts[2].1, b"Received: x\r\nSubject: hello\r\nFrom: a@b\r\n");
}

#[test]
fn delay_and_success() {
    let until = Some(Wall(1_709_164_800_000));
    let late = RecipientReport { action: Action::Delayed, retry_until: until, ..failed(b"x@y", b"busy") };
    let recipients = [late];
    let m = read(&report(&recipients, Original::Headers(b"A: b\r\n")));
    assert_eq!(get(&m.header, "Subject"), "Delayed mail (still being tried)");
    let g = groups(&m);
    assert_eq!(get(&g[1], "Action"), "delayed");
    assert_eq!(get(&g[1], "Will-Retry-Until"), "Thu, 29 Feb 2024 00:00:00 +0000");
    let actions = [Action::Relayed, Action::Delivered, Action::Expanded];
    let recipients = actions.map(|action| RecipientReport { action, ..failed(b"x@y", b"ok") });
    let m = read(&report(&recipients, Original::Headers(b"")));
    assert_eq!(get(&m.header, "Subject"), "Successful mail delivery report");
    let words: Vec<_> = groups(&m)[1..].iter().map(|g| get(g, "Action").to_owned()).collect();
    assert_eq!(words, ["relayed", "delivered", "expanded"]);
    assert_eq!(status(Action::Failed, 450, None), [4, 0, 0]);
    assert_eq!(status(Action::Failed, 0, None), [5, 0, 0]);
    assert_eq!(status(Action::Relayed, 250, Some([2, 1, 5])), [2, 1, 5]);
}

#[test]
fn what_is_returned() {
    let (len, size) = (ORIGINAL.len() as u64, ORIGINAL.len());
    let (all, head) = (Original::Full(ORIGINAL), Original::Headers(&ORIGINAL[..40]));
    assert_eq!(Original::choose(Some(Ret::Full), ORIGINAL, len, size), all);
    assert_eq!(Original::choose(None, ORIGINAL, len, size), all);
    assert_eq!(Original::choose(Some(Ret::Headers), ORIGINAL, len, size), head);
    assert_eq!(Original::choose(Some(Ret::Full), ORIGINAL, len, size - 1), head, "above the limit");
    assert_eq!(Original::choose(None, ORIGINAL, len, 0), head, "none is wanted");
    assert_eq!(Original::choose(Some(Ret::Full), ORIGINAL, len + 1, size), head, "not all of it is here");
    let high = [ORIGINAL, b"\xe9\r\n"].concat();
    assert_eq!(Original::choose(Some(Ret::Full), &high, high.len() as u64, 5000), Original::Full(&high));
    assert_eq!(Original::choose(None, &high, high.len() as u64, 5000), head, "not every server takes it");
    let long = [ORIGINAL, &[b'a'; 999], b"\r\n"].concat();
    assert_eq!(Original::choose(None, &long, long.len() as u64, 5000), head, "lines too long to send");
    let all_head = b"A: b\r\n".repeat(10_000);
    let Original::Headers(cut) = Original::header(&all_head) else { panic!("no header") };
    assert!(cut.len() <= HEADER_MAX && cut.ends_with(b"\r\n"));
    assert_eq!(Original::header(b"\r\nbody\r\n\r\n"), Original::Headers(b""));
    let recipients = [failed(b"x@y", b"")];
    let m = read(&report(&recipients, Original::Full(ORIGINAL)));
    assert_eq!(get(&m.parts[2].0, "Content-Type"), "message/rfc822");
    assert_eq!(m.parts[2].1, ORIGINAL);
}

#[test]
fn a_forged_boundary_is_avoided() {
    let forged = format!("A: b\r\n\r\n--=_{}.0\r\nContent-Type: text/html\r\n\r\nhi\r\n", id(7));
    let recipients = [failed(b"x@y", b"")];
    let m = read(&report(&recipients, Original::Full(forged.as_bytes())));
    assert_eq!(m.parts[2].1, forged.as_bytes());
}

#[test]
fn smtputf8() {
    let address = "d\u{f6}ner@b\u{fc}cher.example".as_bytes();
    let mut one = failed(address, "n\u{f6}".as_bytes());
    one.orcpt = b"utf-8;d\\x{F6}ner@x";
    let recipients = [one];
    let mut r = report(&recipients, Original::Headers("Subject: \u{f6}\r\n".as_bytes()));
    let g = groups(&read(&r));
    assert_eq!(get(&g[1], "Final-Recipient"), "utf-8; d\\x{F6}ner@b\\x{FC}cher.example");
    assert_eq!(get(&g[1], "Diagnostic-Code"), "smtp; 550 5.1.1 n\\x{F6}");
    one.orcpt = "utf-8;d\u{f6}+2Bner@x".as_bytes();
    let recipients = [one];
    r.recipients = &recipients;
    let m = read(&r);
    assert_eq!(get(&groups(&m)[1], "Original-Recipient"), "utf-8; d\\x{F6}\\x{2B}ner@x");
    // A reader with an ASCII address may be behind any server.
    assert!(m.header.iter().all(|(n, _)| n != "Content-Transfer-Encoding"));
    for (international, kind) in [(false, "text/rfc822-headers"), (true, "message/global-headers")] {
        r.international = international;
        let m = read(&r);
        assert_eq!(get(&m.parts[2].0, "Content-Type"), kind);
        assert_eq!(get(&m.parts[2].0, "Content-Transfer-Encoding"), "quoted-printable");
        assert_eq!(m.parts[2].1, b"Subject: =C3=B6\r\n");
    }
    one.orcpt = b"utf-8;d\\x{F6}ner@x";
    let recipients = [one];
    r.recipients = &recipients;
    r.utf8 = true;
    r.sender = address;
    let m = read(&r);
    assert_eq!(get(&m.header, "To"), "<d\u{f6}ner@b\u{fc}cher.example>");
    assert_eq!(get(&m.header, "Content-Transfer-Encoding"), "8bit");
    assert_eq!(get(&m.parts[1].0, "Content-Type"), "message/global-delivery-status");
    assert_eq!(get(&m.parts[2].0, "Content-Type"), "message/global-headers");
    let g = groups(&m);
    assert_eq!(get(&g[1], "Final-Recipient"), "utf-8; d\u{f6}ner@b\u{fc}cher.example");
    assert_eq!(get(&g[1], "Original-Recipient"), "utf-8; d\\x{F6}ner@x");
}

#[test]
#[should_panic(expected = "null sender")]
fn never_to_the_null_sender() {
    let recipients = [failed(b"x@y", b"")];
    write(&Report { sender: b"", ..report(&recipients, Original::Headers(b"")) }, &mut Vec::new());
}

proptest! {
    /// Whatever peers put into their values, the report keeps its shape.
    #[test]
    fn nothing_is_injected(
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 5),
        utf8: bool,
        original in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        let sender = [b"s", &values[0][..]].concat();
        let mut one = failed(&values[1], &values[2]);
        let orcpt = [b"rfc822;", &values[3][..]].concat();
        one.orcpt = &orcpt;
        let recipients = [one];
        // The original is in stored form: no bare CR or LF, no NUL; the header may have long lines.
        let original: Vec<u8> = original.into_iter().filter(|b| b.is_ascii_graphic()).collect();
        let mut r = report(&recipients, Original::header(&original));
        r.sender = &sender;
        r.envid = &values[4];
        r.utf8 = utf8;
        let mut out = Vec::new();
        write(&r, &mut out);
        prop_assert!(utf8 || out.is_ascii());
        let m = read(&r);
        prop_assert_eq!(groups(&m).len(), 2);
        prop_assert_eq!(m.header.len(), if utf8 { 9 } else { 8 });
    }
}

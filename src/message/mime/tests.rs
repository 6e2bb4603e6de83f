//! Summaries of whole messages: written down, of random ones, and beside another parser.

use super::{Address, Envelope, Kind, Part, Scanner, Summary};
use mail_parser::{MessageParser, MimeHeaders, PartType};
use proptest::prelude::*;

fn scan(message: &[u8], piece: usize) -> Vec<u8> {
    let mut scanner = Scanner::new();
    message.chunks(piece.max(1)).for_each(|bytes| scanner.feed(bytes));
    let mut out = Vec::new();
    scanner.finish(&mut out);
    out
}

/// A message written with LF, as it is stored.
fn crlf(text: &str) -> Vec<u8> {
    text.replace('\n', "\r\n").into_bytes()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The tree of parts: type, then the body of leaves.
fn tree(message: &[u8], part: &Part<'_>) -> String {
    let name = format!("{}/{}", text(part.media), text(part.subtype));
    let children: Vec<String> = part.children().map(|child| tree(message, &child)).collect();
    let body = &message[part.body as usize..part.end as usize];
    match part.kind {
        Kind::Basic | Kind::Text => format!("{name}{:?}:{}", text(body), part.lines),
        Kind::Message => {
            let subject = part.envelope().and_then(|e| e.subject).map(text).unwrap_or_default();
            format!("{name}({subject}:{} {})", part.lines, children.join(" "))
        }
        Kind::Multipart => format!("{name}[{}]", children.join(" ")),
    }
}

fn tree_of(message: &str) -> String {
    let message = crlf(message);
    let bytes = scan(&message, message.len());
    let summary = Summary::read(&bytes).unwrap();
    tree(&message, &summary.root())
}

const NESTED: &str = "Subject: outer\n\
    Content-Type: multipart/mixed; boundary=b1\n\npreamble\n\
    --b1\n\none\n\
    --b1\nContent-Type: multipart/alternative; boundary=\"b2 2\"\n\n\
    --b2 2\nContent-Type: text/html; charset=utf-8\n\n<p>two</p>\n\n\
    --b2 2--\nepilogue\n\
    --b1\nContent-Type: message/rfc822\nContent-Disposition: attachment; filename=\"a b.eml\"\n\n\
    Subject: inner\nContent-Type: multipart/digest; boundary=b3\n\n\
    --b3\n\nSubject: digested\n\nthree\n--b3--\n\
    --b1\nContent-Type: image/png\nContent-Transfer-Encoding: base64\nContent-ID: <x@y>\n\
    Content-MD5: Q2hlY2sgSW50ZWdyaXR5IQ==\nContent-Language: en (x), de\nContent-Location: http://x/\n\n\
    AAAA\n--b1--\nend\n";

#[test]
fn parts_within_parts() {
    assert_eq!(
        tree_of(NESTED),
        "multipart/mixed[text/plain\"one\":0 \
         multipart/alternative[text/html\"<p>two</p>\\r\\n\":1] \
         message/rfc822(inner:8 multipart/digest[message/rfc822(digested:2 text/plain\"three\":0)]) \
         image/png\"AAAA\":0]"
    );
}

#[test]
fn fields_of_parts() {
    let message = crlf(NESTED);
    let bytes = scan(&message, 7);
    let summary = Summary::read(&bytes).unwrap();
    assert_eq!((summary.size(), summary.is_cut(), summary.preview()), (message.len() as u64, false, "one"));
    let part = summary.section(&[4]).unwrap();
    assert_eq!((part.encoding, part.id), (Some(&b"base64"[..]), Some(&b"<x@y>"[..])));
    assert_eq!(part.md5, Some(&b"Q2hlY2sgSW50ZWdyaXR5IQ=="[..]));
    assert_eq!(part.language.map(text).collect::<Vec<_>>(), ["en", "de"]);
    assert_eq!(part.location, Some(&b"http://x/"[..]));
    let part = summary.section(&[3]).unwrap();
    let disposition = part.disposition.unwrap();
    assert_eq!(
        (disposition.kind, disposition.params.get("FileName")),
        (&b"attachment"[..], Some(&b"a b.eml"[..]))
    );
    assert_eq!(part.envelope().unwrap().subject, Some(&b"inner"[..]));
    assert!(message[part.header as usize..].starts_with(b"Content-Type: message/rfc822\r\n"));
    assert!(message[part.body as usize..].starts_with(b"Subject: inner\r\n"));
}

/// RFC 9051 §6.4.5.1: the numbers of parts.
#[test]
fn sections() {
    let message = crlf(NESTED);
    let bytes = scan(&message, 100);
    let summary = Summary::read(&bytes).unwrap();
    let media = |numbers: &[u32]| summary.section(numbers).map(|p| text(p.subtype));
    for (numbers, expected) in [
        (&[][..], Some("mixed")),
        (&[1], Some("plain")),
        (&[2], Some("alternative")),
        (&[2, 1], Some("html")),
        (&[3], Some("rfc822")),
        (&[3, 1], Some("rfc822")),
        (&[3, 1, 1], Some("plain")),
        (&[4], Some("png")),
        (&[5], None),
        (&[0], None),
        (&[1, 1], None),
        (&[2, 1, 1], None),
        (&[3, 2], None),
        (&[3, 1, 2], None),
        (&[3, 1, 1, 1], None),
    ] {
        assert_eq!(media(numbers).as_deref(), expected, "{numbers:?}");
    }
    let simple = scan(b"Subject: x\r\n\r\ny", 100);
    let simple = Summary::read(&simple).unwrap();
    assert!(simple.section(&[1]).is_some() && simple.section(&[2]).is_none());
    assert!(simple.section(&[1, 1]).is_none());
}

#[test]
fn envelope() {
    let message = crlf(
        "Date: Mon, 7 Feb 1994 21:52:25 -0800 (PST)\nSubject: =?utf-8?q?a_b?=\n\tfolded\n  more \n\
         From: Terry Gray <gray@cac.washington.edu>\nTo: a@b\ncc : c@d,\n e@f\nTO: \"G, H\" <g@h>\n\
         In-Reply-To: <1@x>\nMessage-Id:\n <2@x>\nReferences: <0@x>\n\t<1@x>\nX-Other: To: z@z\n\nbody",
    );
    let bytes = scan(&message, 3);
    let summary = Summary::read(&bytes).unwrap();
    let e = *summary.envelope();
    let given = |field: Option<&[u8]>| field.map(text);
    assert_eq!(given(e.date).unwrap(), "Mon, 7 Feb 1994 21:52:25 -0800 (PST)");
    assert_eq!(given(e.subject).unwrap(), "=?utf-8?q?a_b?= folded  more");
    assert_eq!(given(e.message_id).unwrap(), "<2@x>");
    assert_eq!(given(e.in_reply_to).unwrap(), "<1@x>");
    assert_eq!(given(summary.references()).unwrap(), "<0@x> <1@x>");
    let hosts =
        |list: super::Addresses<'_>| list.filter_map(|a| a.host.map(text)).collect::<Vec<_>>().join(" ");
    assert_eq!(hosts(e.from), "cac.washington.edu");
    assert_eq!(hosts(e.sender()), "cac.washington.edu");
    assert_eq!(hosts(e.reply_to()), "cac.washington.edu");
    assert_eq!((hosts(e.to), hosts(e.cc), hosts(e.bcc)), ("b h".into(), "d f".into(), String::new()));
    let first = e.from.clone().next().unwrap();
    let expected: Address<'_> =
        Address { name: Some(b"Terry Gray"), route: None, mailbox: Some(b"gray"), host: first.host };
    assert_eq!(first, expected);
}

#[test]
fn nothing_and_an_empty_field_are_not_the_same() {
    let bytes = scan(b"Subject:\r\nTo:\r\n\r\n", 100);
    let Envelope { date, subject, to, .. } = *Summary::read(&bytes).unwrap().envelope();
    assert_eq!((date, subject, to.is_empty()), (None, Some(&b""[..]), true));
}

#[test]
fn broken_mime() {
    let head = "Content-Type: multipart/mixed; boundary=b\n\n";
    for (body, expected) in [
        // No end, no blank line, nothing at all.
        ("--b\n\nx", "multipart/mixed[text/plain\"x\":0]"),
        ("--b\n\nx\n", "multipart/mixed[text/plain\"x\\r\\n\":1]"),
        ("--b\nx\n--b--", "multipart/mixed[text/plain\"x\":0]"),
        ("--b\n--b\n\n--b--\n", "multipart/mixed[text/plain\"\":0 text/plain\"\":0]"),
        ("--b\nContent-Type: image/png\n--b--\n", "multipart/mixed[image/png\"\":0]"),
        ("--b--\n", "multipart/mixed[]"),
        ("", "multipart/mixed[]"),
        ("no boundary", "multipart/mixed[]"),
        // More behind the boundary; white space; one in the middle of a line.
        ("--bx\n\ny\n--b \t\n\nz --b\n--b--x", "multipart/mixed[text/plain\"y\":0 text/plain\"z --b\":0]"),
        // After the end.
        ("--b\n\nx\n--b--\n--b\n\ny\n--b--\n", "multipart/mixed[text/plain\"x\":0]"),
        // One boundary is the beginning of another.
        (
            "--b\nContent-Type: multipart/mixed; boundary=bb\n\n--bb\n\nx\n--bb--\n--b\n\ny\n--b--\n",
            "multipart/mixed[multipart/mixed[text/plain\"x\":0] text/plain\"y\":0]",
        ),
        // The same boundary again; an inner part that does not end.
        (
            "--b\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--b--\n--b--\n",
            "multipart/mixed[multipart/mixed[text/plain\"x\":0]]",
        ),
        (
            "--b\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\nx\n--b\n\ny\n--b--\n",
            "multipart/mixed[multipart/mixed[text/plain\"x\":0] text/plain\"y\":0]",
        ),
        // A message that has only a header, and one that has nothing.
        (
            "--b\nContent-Type: message/rfc822\n\nSubject: s\n--b--\n",
            "multipart/mixed[message/rfc822(s:0 text/plain\"\":0)]",
        ),
        (
            "--b\nContent-Type: message/rfc822\n\n--b--\n",
            "multipart/mixed[message/rfc822(:0 text/plain\"\":0)]",
        ),
        // Types that cannot be read, and multiparts without a boundary.
        ("--b\nContent-Type: foo\n\nx\n--b--", "multipart/mixed[text/plain\"x\":0]"),
        ("--b\nContent-Type: /\n\nx\n--b--", "multipart/mixed[text/plain\"x\":0]"),
        ("--b\nContent-Type: multipart/mixed\n\nx\n--b--", "multipart/mixed[text/plain\"x\":0]"),
    ] {
        assert_eq!(tree_of(&format!("{head}{body}")), expected, "{body:?}");
    }
    // A message that is one message, with an envelope of its own; lines of a mbox file.
    let bytes = scan(&crlf("From x\nSubject: a\nContent-Type: message/rfc822\n\n>From y\nSubject: b\n\n"), 9);
    let summary = Summary::read(&bytes).unwrap();
    assert_eq!(summary.envelope().subject, Some(&b"a"[..]));
    assert_eq!(summary.root().envelope().unwrap().subject, Some(&b"b"[..]));
    assert_eq!(tree_of(""), "text/plain\"\":0");
    assert_eq!(tree_of("not a header\n\nx"), "text/plain\"not a header\\r\\n\\r\\nx\":2");
    assert_eq!(tree_of("Subject: x"), "text/plain\"\":0");
    assert_eq!(tree_of(" folded\n\nx"), "text/plain\" folded\\r\\n\\r\\nx\":2");
}

#[test]
fn parameters() {
    let param = |value: &str, name: &str| {
        let bytes = scan(&crlf(&format!("Content-Type: {value}\n\n")), 100);
        Summary::read(&bytes).unwrap().root().params.get(name).map(text)
    };
    for (value, expected) in [
        ("a/b; x=y", Some("y")),
        ("a/b ; X = y ; z=1", Some("y")),
        ("a/b; x=\"y \\\"z\\\"\"", Some("y \"z\"")),
        ("a/b; (c; x=1) x=(d)y", Some("y")),
        ("a/b; x=", Some("")),
        ("a/b; x; x=y", Some("y")),
        ("a/b; x=a=b/c", Some("a=b/c")),
        ("a/b; x=y z; w=v", Some("y")),
        ("a/b; q=\"; x=no\"; x=y", Some("y")),
        ("a/b; =; ;; x=y", Some("y")),
        ("a/b x=y", None),
        ("a/b", None),
        ("a/b; x=\"never ended", Some("never ended")),
    ] {
        assert_eq!(param(value, "x").as_deref(), expected, "{value}");
    }
}

#[test]
fn previews() {
    let preview = |message: &str| {
        let bytes = scan(&crlf(message), 100);
        Summary::read(&bytes).unwrap().preview().to_string()
    };
    let head = "Content-Type: multipart/mixed; boundary=b\n\n";
    for (message, expected) in [
        ("\n a \n b\n", "a b"),
        ("\n> quoted\nown\n-- \nme", "own"),
        ("\n> quoted\n", "> quoted"),
        ("Content-Type: text/html\n\n<b>x</b><p>y", "x y"),
        ("Content-Transfer-Encoding: base64\n\naGFsbG8=\n", "hallo"),
        (
            "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\n\
             =E9=\n t",
            "\u{e9} t",
        ),
        (
            "Content-Type: text/plain; charset=gb2312\nContent-Transfer-Encoding: base64\n\nxOO6ww==",
            "\u{4f60}\u{597d}",
        ),
        ("Content-Type: image/png\n\nx", ""),
        ("Content-Type: text/plain\nContent-Disposition: attachment\n\nx", ""),
    ] {
        assert_eq!(preview(message), expected, "{message}");
    }
    // The first that says something, not one of a message within.
    let message =
        "--b\nContent-Type: message/rfc822\n\n\ninner\n--b\n\n \n--b\n\nsecond\n--b\n\nthird\n--b--";
    assert_eq!(preview(&format!("{head}{message}")), "second");
    assert_eq!(preview(&format!("\n{}", "x".repeat(50_000))), "x".repeat(super::PREVIEW_MAX));
}

#[test]
fn all_is_bounded() {
    let many = "--b\n\n".repeat(super::PARTS_MAX + 10);
    let message = crlf(&format!("Content-Type: multipart/mixed; boundary=b\n\n{many}x\n--b--\n"));
    let bytes = scan(&message, 1000);
    assert_eq!(Summary::read(&bytes).unwrap().parts().count(), super::PARTS_MAX);

    let deep: String =
        (0..200).map(|i| format!("Content-Type: multipart/mixed; boundary=b{i}x\n\n--b{i}x\n")).collect();
    let bytes = scan(&crlf(&deep), 1000);
    let summary = Summary::read(&bytes).unwrap();
    assert_eq!(summary.parts().count(), super::DEPTH_MAX + 1);
    assert_eq!(summary.parts().last().map(|p| p.kind), Some(Kind::Basic));

    let deep = "Content-Type: message/rfc822\n\n".repeat(200);
    let bytes = scan(&crlf(&deep), 1000);
    assert_eq!(Summary::read(&bytes).unwrap().parts().count(), super::DEPTH_MAX + 1);

    let huge = format!("Subject: {}\nTo: {}\nDate: now\n\nx", "s".repeat(1 << 20), "a@b,".repeat(100_000));
    for piece in [1000, usize::MAX] {
        let message = crlf(&huge);
        let bytes = scan(&message, piece);
        let summary = Summary::read(&bytes).unwrap();
        assert!(summary.is_cut() && bytes.len() < 1 << 20, "{}", bytes.len());
        assert_eq!(summary.envelope().subject.map(<[u8]>::len), Some(super::FIELD_MAX));
        assert_eq!(&message[summary.root().body as usize..], b"x");
    }
}

/// Pieces that matter: fields, boundaries, line ends, each also broken.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => proptest::sample::select(vec![
            "Content-Type: multipart/mixed; boundary=b\r\n",
            "Content-Type: multipart/digest; boundary=bb\r\n",
            "Content-Type: multipart/x; boundary=\"b--\"\r\n", "Content-Type: message/rfc822\r\n",
            "Content-Type: text/html; charset=utf-8\r\n",
            "Subject: x\r\n", "To: a@b, G: c@d;\r\n", " folded\r\n",
            "Content-Disposition: attachment; filename=x\r\n", "Content-Transfer-Encoding: base64\r\n",
            "--b\r\n", "--b--\r\n", "--bb\r\n", "--bb--\r\n", "--b----\r\n",
            "\r\n", "\r\n", "text\r\n", "--\r\n",
            "-", "--", "\r", "\n", "x", ":", " ", "<p>", "&amp;",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
    ]
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(fragment(), 0..60).prop_map(|f| f.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// It can be read, is the same whatever the pieces, comes back when it is written anew; parts lie
    /// within one another; the header of the message is the one that others see.
    #[test]
    fn any_message(message in message(), piece in 1usize..40) {
        let bytes = scan(&message, message.len());
        prop_assert_eq!(&bytes, &scan(&message, piece));
        let summary = Summary::read(&bytes).expect("what was written can be read");
        let mut again = Vec::new();
        summary.put(&mut again);
        prop_assert_eq!(&bytes, &again);
        prop_assert_eq!(summary.size(), message.len() as u64);
        for part in summary.parts() {
            prop_assert!(part.header <= part.body && part.body <= part.end && part.end <= summary.size());
            let feeds = memchr::memchr_iter(b'\n', &message[part.body as usize..part.end as usize]).count();
            prop_assert_eq!(part.lines, feeds as u64);
        }
        let pairs = message.windows(2).filter(|w| w == b"\r\n").count();
        if [b'\r', b'\n'].iter().all(|end| memchr::memchr_iter(*end, &message).count() == pairs) {
            let (_, body) = crate::message::headers::split(&message);
            prop_assert_eq!(summary.root().body, (message.len() - body.len()) as u64);
        }
    }

    /// Bytes that no writer wrote are refused or read, never a panic.
    #[test]
    fn any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Some(version) = bytes.first_mut() {
            *version = super::summary::VERSION;
        }
        if let Ok(summary) = Summary::read(&bytes) {
            let mut again = Vec::new();
            summary.put(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    /// One bit of a summary turned.
    #[test]
    fn damage(at: usize, bit in 0..8u8) {
        let mut bytes = scan(&crlf(NESTED), 100);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(summary) = Summary::read(&bytes) {
            summary.parts().for_each(|part| part.children().for_each(|child| assert!(child.end <= part.end)));
        }
    }
}

/// Multiparts as programs write them. (Directly within a message no other one: mail-parser panics.)
fn well_formed(depth: u32, message: bool) -> BoxedStrategy<String> {
    let leaf = (
        proptest::sample::select(vec!["text/plain", "text/html", "image/png", "application/pdf"]),
        "[a-z ]{0,20}",
        0..3usize,
    );
    let leaf = leaf.prop_map(|(media, line, lines)| {
        format!("Content-Type: {media}; name=\"{line}\"\n\n{}", format!("{line}\n").repeat(lines))
    });
    if depth == 0 {
        return leaf.boxed();
    }
    let inner = proptest::collection::vec(well_formed(depth - 1, true), 1..4);
    let multipart = ("[a-zA-Z0-9=_]{5,20}", inner).prop_map(|(boundary, parts)| {
        let boundary = format!("{boundary}{}", parts.len() + parts.concat().len());
        let parts: String = parts.iter().map(|part| format!("--{boundary}\n{part}\n")).collect();
        format!("Content-Type: multipart/mixed;\n boundary=\"{boundary}\"\n\n{parts}--{boundary}--\n")
    });
    if !message {
        return prop_oneof![1 => leaf, 4 => multipart].boxed();
    }
    let message = well_formed(depth - 1, false);
    let message = message.prop_map(|m| format!("Content-Type: message/rfc822\n\nSubject: s\n{m}"));
    prop_oneof![1 => leaf, 4 => multipart, 1 => message].boxed()
}

proptest! {
    /// mail-parser sees the same parts in the same places.
    #[test]
    fn another_parser_agrees(message in well_formed(3, true)) {
        let message = crlf(&format!("Subject: t\n{message}"));
        let bytes = scan(&message, message.len());
        let summary = Summary::read(&bytes).unwrap();
        let parsed = MessageParser::new().parse(&message).unwrap();
        let mut others = Vec::new();
        flatten(&parsed, 0, &mut others);
        let ours: Vec<_> = summary
            .parts()
            .filter(|part| part.kind != Kind::Multipart && part.kind != Kind::Message)
            .map(|part| (text(part.media), text(part.subtype), part.header, part.body, part.end))
            .collect();
        prop_assert_eq!(ours, others);
    }
}

type Leaf = (String, String, u64, u64, u64);

/// The leaves that mail-parser finds in a message.
fn flatten(message: &mail_parser::Message<'_>, from: u64, leaves: &mut Vec<Leaf>) {
    for part in &message.parts {
        match &part.body {
            PartType::Multipart(_) => {}
            PartType::Message(inner) => {
                flatten(inner, from, leaves);
            }
            _ => {
                let media = part.content_type().expect("all have one");
                leaves.push((
                    media.ctype().to_string(),
                    media.subtype().unwrap_or_default().to_string(),
                    from + u64::from(part.offset_header),
                    from + u64::from(part.offset_body),
                    from + u64::from(part.offset_end),
                ));
            }
        }
    }
}

//! Responses byte for byte; what is written is read back.

use super::fetch::Fetch;
use super::mailbox::{Attributes, Counters, Listed};
use super::status::{Code, Condition, Word};
use super::structure::{Address, Envelope, Field, Kind, Param, Part};
use super::*;
use crate::imap::parse::date::DateTime;
use crate::imap::parse::input::Input;
use crate::imap::parse::mailbox::Uses;
use crate::imap::parse::search::Wanted;
use crate::imap::parse::status::Items;
use crate::imap::parse::{self, Verb};
use crate::imap::set::SeqSet;
use proptest::prelude::*;

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    out.escape_ascii().to_string().replace("\\\"", "\"").replace("\\\\", "\\")
}

#[test]
fn strings() {
    let long = "x".repeat(5000);
    for (text, ascii, utf8) in [
        ("", "\"\"", "\"\""),
        ("abc", "abc", "abc"),
        ("a b", "\"a b\"", "\"a b\""),
        ("a\"b\\c", "\"a\\\"b\\\\c\"", "\"a\\\"b\\\\c\""),
        ("NIL", "\"NIL\"", "\"NIL\""),
        ("a\r\nb", "{4}\\r\\na\\r\\nb", "{4}\\r\\na\\r\\nb"),
        ("a\0b", "{3}\\r\\na?b", "{3}\\r\\na?b"),
        ("\u{e9}", "{2}\\r\\n\\xc3\\xa9", "\"\\xc3\\xa9\""),
        ("a%", "\"a%\"", "\"a%\""),
        ("a]", "a]", "a]"),
    ] {
        assert_eq!(written(|out| astring(out, text.as_bytes(), Wire::Ascii)), ascii, "{text:?}");
        assert_eq!(written(|out| astring(out, text.as_bytes(), Wire::Utf8)), utf8, "{text:?}");
    }
    assert!(written(|out| string(out, long.as_bytes(), Wire::Ascii)).starts_with("{5000}"));
    assert_eq!(written(|out| string(out, b"\xff", Wire::Utf8)), "{1}\\r\\n\\xff");
    assert_eq!(written(|out| nstring(out, None, Wire::Ascii)), "NIL");
}

#[test]
fn status_responses_and_codes() {
    let line = |code: Code<'_>| {
        written(|out| status::status(out, b"A1", Condition::Ok, Some(code), "Done.")).replace("\\r\\n", "")
    };
    let set = SeqSet::of(3, 5);
    for (code, text) in [
        (Code::Alert, "ALERT"),
        (Code::Word(Word::TryCreate), "TRYCREATE"),
        (Code::Word(Word::ReadWrite), "READ-WRITE"),
        (Code::BadCharset(&["US-ASCII", "UTF-8"]), "BADCHARSET (US-ASCII UTF-8)"),
        (Code::Capability(b"IMAP4rev1 ID"), "CAPABILITY IMAP4rev1 ID"),
        (Code::PermanentFlags(System::SEEN, &[b"Work"], true), "PERMANENTFLAGS (\\Seen Work \\*)"),
        (Code::PermanentFlags(System(0), &[], false), "PERMANENTFLAGS ()"),
        (Code::UidNext(7), "UIDNEXT 7"),
        (Code::UidValidity(8), "UIDVALIDITY 8"),
        (Code::Unseen(2), "UNSEEN 2"),
        (Code::HighestModSeq(1 << 40), "HIGHESTMODSEQ 1099511627776"),
        (Code::Modified(&set), "MODIFIED 3:5"),
        (Code::AppendUid(1, &[4, 5]), "APPENDUID 1 4:5"),
        (Code::CopyUid(1, &[1, 2, 9], &[4, 5, 6]), "COPYUID 1 1:2,9 4:6"),
        (Code::MailboxId(b"F1"), "MAILBOXID (F1)"),
    ] {
        assert_eq!(line(code), format!("A1 OK [{text}] Done."));
    }
    let mut names: Vec<_> = Word::ALL.iter().map(|w| w.text()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Word::ALL.len());
    let bad = parse::parse(b"A1 SELECT").unwrap_err();
    assert_eq!(written(|o| status::bad(o, b"A1", bad)), "A1 BAD Expected a mailbox name at column 10\\r\\n");
    assert_eq!(written(|o| status::continuation(o, b"OK")), "+ OK\\r\\n");
    let extensions = parse::session::Extensions(1 | 8);
    assert_eq!(written(|o| status::enabled(o, extensions)), "* ENABLED CONDSTORE UTF8=ACCEPT\\r\\n");
    assert_eq!(written(|o| status::enabled(o, Default::default())), "* ENABLED\\r\\n");
    let bye = written(|o| status::status(o, b"*", Condition::Bye, None, "Bye."));
    assert_eq!(bye, "* BYE Bye.\\r\\n");
}

#[test]
fn mailbox_responses() {
    let mut listed = Listed {
        attributes: Attributes::HAS_CHILDREN.with(Attributes::SUBSCRIBED),
        uses: Uses(4),
        name: b"My Drafts",
        child_info: false,
        old_name: None,
    };
    let list = |l: &Listed<'_>| written(|o| mailbox::list(o, false, l, Wire::Ascii));
    assert_eq!(list(&listed), "* LIST (\\HasChildren \\Subscribed \\Drafts) \"/\" \"My Drafts\"\\r\\n");
    listed = Listed {
        attributes: Attributes::NO_SELECT,
        uses: Uses(0),
        name: b"x",
        child_info: true,
        old_name: None,
    };
    assert_eq!(list(&listed), "* LIST (\\Noselect) \"/\" x (\"CHILDINFO\" (\"SUBSCRIBED\"))\\r\\n");
    listed.old_name = Some(b"y z");
    assert_eq!(
        list(&listed),
        "* LIST (\\Noselect) \"/\" x (\"CHILDINFO\" (\"SUBSCRIBED\") \"OLDNAME\" (\"y z\"))\\r\\n"
    );
    let counters =
        Counters { messages: 3, uid_next: 9, size: 1 << 33, mailbox_id: b"F7", ..Counters::default() };
    let items = Items(1 | 4 | 64 | 256 | 512);
    assert_eq!(
        written(|o| mailbox::status(o, b"INBOX", items, &counters, Wire::Ascii)),
        "* STATUS INBOX (MESSAGES 3 UIDNEXT 9 SIZE 8589934592 APPENDLIMIT NIL MAILBOXID (F7))\\r\\n"
    );
    assert_eq!(
        written(|o| mailbox::flags_line(o, System(31), [&b"Work"[..]])),
        "* FLAGS (\\Seen \\Answered \\Flagged \\Deleted \\Draft Work)\\r\\n".replace(
            "\\Seen \\Answered \\Flagged \\Deleted \\Draft",
            &System::NAMES[..5].iter().map(|n| n.1).collect::<Vec<_>>().join(" ")
        )
    );
    assert_eq!(
        written(|o| mailbox::quota(o, b"", &[("STORAGE", 10, 512), ("MESSAGE", 2, 9)], Wire::Ascii)),
        "* QUOTA \"\" (STORAGE 10 512 MESSAGE 2 9)\\r\\n"
    );
    assert_eq!(written(|o| mailbox::quota_root(o, b"x", &[b""], Wire::Ascii)), "* QUOTAROOT x \"\"\\r\\n");
    assert_eq!(written(|o| mailbox::id(o, &[])), "* ID NIL\\r\\n");
    assert_eq!(
        written(|o| mailbox::id(o, &[("name", Some("x")), ("os", None)])),
        "* ID (\"name\" \"x\" \"os\" NIL)\\r\\n"
    );
    assert_eq!(written(mailbox::namespace), "* NAMESPACE ((\"\" \"/\")) NIL NIL\\r\\n");
    assert_eq!(written(mailbox::delimiter), "* LIST (\\Noselect) \"/\" \"\"\\r\\n");
}

#[test]
fn search_responses() {
    assert_eq!(written(|o| search::search(o, [2, 84, 882], None)), "* SEARCH 2 84 882\\r\\n");
    assert_eq!(written(|o| search::search(o, [2], Some(9))), "* SEARCH 2 (MODSEQ 9)\\r\\n");
    assert_eq!(written(|o| search::search(o, [], Some(9))), "* SEARCH\\r\\n");
    assert_eq!(written(|o| search::sort(o, [5, 3])), "* SORT 5 3\\r\\n");
    let esearch = |uid, wanted, found: &[u32]| {
        written(|o| search::esearch(o, b"A\"1", uid, Wanted(wanted), found, None))
    };
    assert_eq!(
        esearch(true, 1 | 2 | 4 | 8, &[2, 3, 7]),
        "* ESEARCH (TAG \"A\\\"1\") UID MIN 2 MAX 7 COUNT 3 ALL 2:3,7\\r\\n"
    );
    assert_eq!(esearch(false, 1 | 2 | 4 | 8, &[]), "* ESEARCH (TAG \"A\\\"1\") COUNT 0\\r\\n");
    assert_eq!(esearch(false, 4, &[]), "* ESEARCH (TAG \"A\\\"1\")\\r\\n");
}

#[test]
fn fetch_responses() {
    let text = written(|out| {
        let mut f = Fetch::begin(out, 12);
        f.uid(7);
        f.flags(System::SEEN, [&b"Work"[..]]);
        f.mod_seq(624);
        f.internal_date(DateTime { seconds: 0, zone: 60 });
        f.save_date(None);
        f.size(1 << 32);
        f.email_id(b"M1");
        f.thread_id(None);
        f.preview(Some("h\u{e9}"), Wire::Utf8);
        f.preview(None, Wire::Utf8);
        f.end();
    });
    assert_eq!(
        text,
        "* 12 FETCH (UID 7 FLAGS (\\Seen Work) MODSEQ (624) INTERNALDATE \"01-Jan-1970 01:00:00 +0100\" \
        SAVEDATE NIL \
         RFC822.SIZE 4294967296 EMAILID (M1) THREADID NIL PREVIEW \"h\\xc3\\xa9\" PREVIEW NIL)\\r\\n"
    );
    assert_eq!(written(|o| fetch::exists(o, 3)), "* 3 EXISTS\\r\\n");
    assert_eq!(written(|o| fetch::recent(o, 0)), "* 0 RECENT\\r\\n");
    assert_eq!(written(|o| fetch::vanished(o, true, &SeqSet::of(4, 6))), "* VANISHED (EARLIER) 4:6\\r\\n");
    assert_eq!(written(|o| fetch::vanished(o, true, &SeqSet::default())), "");
}

#[test]
fn sections_are_answered_under_their_names() {
    for (asked, name) in [
        ("BODY[]", "BODY[]"),
        ("BODY.PEEK[1.2]<5.100>", "BODY[1.2]<5>"),
        ("BODY[1.MIME]", "BODY[1.MIME]"),
        ("body[text]", "BODY[TEXT]"),
        ("BODY[HEADER.FIELDS (To \"a b\" {2}\r\nCc)]", "BODY[HEADER.FIELDS (To \"a b\" Cc)]"),
        ("BODY.PEEK[3.header.fields.not (x)]", "BODY[3.HEADER.FIELDS.NOT (x)]"),
        ("BINARY.PEEK[4]<0.9>", "BINARY[4]<0>"),
        ("RFC822", "RFC822"),
        ("RFC822.HEADER", "RFC822.HEADER"),
        ("RFC822.TEXT", "RFC822.TEXT"),
    ] {
        let text = format!("a FETCH 1 {asked}");
        let Verb::Fetch(f) = parse::parse(text.as_bytes()).unwrap().verb else { panic!("{text}") };
        let section = &f.sections[0];
        let got = written(|out| {
            let mut fetch = Fetch::begin(out, 1);
            fetch.uid(2);
            fetch.section(section, 3, false);
            out.extend_from_slice(b"abc");
            let mut fetch = Fetch::resume(out);
            fetch.no_section(section);
            fetch.end();
        });
        assert_eq!(got, format!("* 1 FETCH (UID 2 {name} {{3}}\\r\\nabc {name} NIL)\\r\\n"), "{asked}");
    }
    let Verb::Fetch(f) = parse::parse(b"a FETCH 1 (BINARY[1] BINARY.SIZE[2])").unwrap().verb else {
        panic!("FETCH")
    };
    let got = written(|out| {
        let mut fetch = Fetch::begin(out, 1);
        fetch.section(&f.sections[0], 1, true);
        out.push(0);
        let mut fetch = Fetch::resume(out);
        fetch.binary_size(&f.sections[1], 9);
        fetch.end();
    });
    assert_eq!(got, "* 1 FETCH (BINARY[1] ~{1}\\r\\n\\x00 BINARY.SIZE[2] 9)\\r\\n");
}

/// A message that is made for a test.
#[derive(Clone, Default)]
struct Made {
    multipart: bool,
    message: bool,
    text: bool,
    params: Vec<Param<'static>>,
    disposition: Option<&'static [u8]>,
    children: Vec<Made>,
}

struct MadeEnvelope;

impl Envelope<'static> for MadeEnvelope {
    fn date(&self) -> Option<&'static [u8]> {
        Some(b"Mon, 23 Nov 2026 07:00:00 +0000")
    }

    fn subject(&self) -> Option<&'static [u8]> {
        Some(b"caf\xc3\xa9 \"x\"")
    }

    fn addresses(&self, field: Field) -> impl Iterator<Item = Address<'static>> {
        let one = Address { name: Some(b"A B"), route: None, mailbox: Some(b"a"), host: Some(b"b.example") };
        let group = Address { name: None, route: None, mailbox: Some(b"list"), host: None };
        let list = match field {
            Field::From | Field::Sender | Field::ReplyTo => vec![one],
            Field::To => vec![group, one, Address::default()],
            Field::Cc | Field::Bcc => vec![],
        };
        list.into_iter()
    }

    fn in_reply_to(&self) -> Option<&'static [u8]> {
        None
    }

    fn message_id(&self) -> Option<&'static [u8]> {
        Some(b"<1@b.example>")
    }
}

impl Part<'static> for Made {
    type Envelope = MadeEnvelope;

    fn kind(&self) -> Kind {
        match (self.multipart, self.message, self.text) {
            (true, ..) => Kind::Multipart,
            (_, true, _) => Kind::Message,
            (.., true) => Kind::Text,
            _ => Kind::Basic,
        }
    }

    fn media(&self) -> (&'static [u8], &'static [u8]) {
        match self.kind() {
            Kind::Multipart => (b"multipart", b"mixed"),
            Kind::Message => (b"message", b"rfc822"),
            Kind::Text => (b"text", b"plain"),
            Kind::Basic => (b"image", b"png"),
        }
    }

    fn params(&self) -> impl Iterator<Item = Param<'static>> {
        self.params.clone().into_iter()
    }

    fn id(&self) -> Option<&'static [u8]> {
        None
    }

    fn description(&self) -> Option<&'static [u8]> {
        None
    }

    fn encoding(&self) -> Option<&'static [u8]> {
        (self.kind() == Kind::Basic).then_some(b"base64")
    }

    fn md5(&self) -> Option<&'static [u8]> {
        None
    }

    fn disposition(&self) -> Option<&'static [u8]> {
        self.disposition
    }

    fn disposition_params(&self) -> impl Iterator<Item = Param<'static>> {
        self.disposition.map(|_| (&b"filename"[..], &b"x.png"[..])).into_iter()
    }

    fn languages(&self) -> impl Iterator<Item = &'static [u8]> {
        let list: &[&[u8]] = if self.disposition.is_some() { &[b"en", b"de"] } else { &[] };
        list.iter().copied()
    }

    fn location(&self) -> Option<&'static [u8]> {
        None
    }

    fn size(&self) -> u64 {
        100
    }

    fn lines(&self) -> u64 {
        5
    }

    fn envelope(&self) -> Option<MadeEnvelope> {
        self.message.then_some(MadeEnvelope)
    }

    fn children(&self) -> impl Iterator<Item = Made> {
        self.children.clone().into_iter()
    }
}

#[test]
fn envelopes() {
    let address = "((\"A B\" NIL \"a\" \"b.example\"))";
    assert_eq!(
        written(|o| assert!(!structure::envelope(o, &MadeEnvelope, Wire::Utf8))),
        format!(
            "(\"Mon, 23 Nov 2026 07:00:00 +0000\" \"caf\\xc3\\xa9 \\\"x\\\"\" {address} {address} {address} \
             ((NIL NIL \"list\" NIL)(\"A B\" NIL \"a\" \"b.example\")(NIL NIL NIL NIL)) NIL NIL NIL \
             \"<1@b.example>\")"
        )
    );
    assert!(
        written(|o| assert!(structure::envelope(o, &MadeEnvelope, Wire::Ascii)))
            .contains(" \"=?utf-8?B?Y2Fmw6k=?= \\\"x\\\"\" ")
    );
}

#[test]
fn body_structures() {
    let text = Made { text: true, ..Made::default() };
    let image = Made { disposition: Some(b"attachment"), ..Made::default() };
    let mixed = Made { multipart: true, children: vec![text.clone(), image], ..Made::default() };
    let body =
        |part: &Made, extended| written(|o| assert!(!structure::structure(o, part, extended, Wire::Utf8)));
    assert_eq!(body(&text, false), "(\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 100 5)");
    assert_eq!(
        body(&mixed, true),
        "((\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 100 5 NIL NIL NIL NIL)\
         (\"image\" \"png\" NIL NIL NIL \"base64\" 100 NIL (\"attachment\" (\"filename\" \"x.png\")) \
         (\"en\" \"de\") NIL) \
         \"mixed\" NIL NIL NIL NIL)"
    );
    let with = Made { params: vec![(b"format", b"flowed"), (b"CHARSET", b"utf-8")], ..text.clone() };
    assert!(body(&with, false).contains("(\"format\" \"flowed\" \"CHARSET\" \"utf-8\")"));
    let without = Made { params: vec![(b"format", b"flowed")], ..text.clone() };
    assert!(body(&without, false).contains("(\"format\" \"flowed\" \"charset\" \"us-ascii\")"));
    let message = Made { message: true, children: vec![text], ..Made::default() };
    let got = body(&message, false);
    assert!(got.starts_with("(\"message\" \"rfc822\" NIL NIL NIL \"7bit\" 100 (\"Mon, "), "{got}");
    assert!(got.ends_with("\"7bit\" 100 5) 5)"), "{got}");
    let empty = Made { multipart: true, ..Made::default() };
    assert_eq!(
        body(&empty, false),
        "((\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL \"7bit\" 0 0) \"mixed\")"
    );
}

proptest! {
    #[test]
    fn strings_are_read_back(text in prop::collection::vec(1u8.., 0..60), utf8 in any::<bool>()) {
        let wire = if utf8 { Wire::Utf8 } else { Wire::Ascii };
        for write in [astring, string] {
            let mut out = Vec::new();
            write(&mut out, &text, wire);
            let mut input = Input::new(&out);
            let read = input.astring("a string").unwrap();
            prop_assert_eq!(&*read.bytes(), &text[..]);
            prop_assert!(input.rest().is_empty());
        }
    }
}

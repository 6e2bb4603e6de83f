//! Judging messages: every key, in as few steps as it takes.

use super::*;
use crate::imap::parse::{self, Verb};
use proptest::prelude::*;

const HEADER: &[u8] =
    b"Date: Mon, 23 Nov 2026 23:30:00 -0500\r\nFrom: =?utf-8?Q?J=C3=BCrgen?= <j@a.example>\r\n\
    To: a@b.example,\r\n c@d.example\r\nSubject: =?iso-8859-1?Q?Gr=FC=DFe?= from\r\n far\r\nX-Empty:\r\n\r\n";

fn known() -> Known<'static> {
    Known {
        seq: 3,
        uid: 30,
        system: System::SEEN.with(System::FLAGGED),
        keywords: 1 << 2,
        internal: 20_780 * 86_400 + 100,
        saved: Some(20_781 * 86_400),
        size: 1000,
        mod_seq: 7,
        email_id: b"M1",
        thread_id: b"",
    }
}

fn program(keys: &str) -> Result<Program, Refused> {
    let text = format!("a SEARCH {keys}");
    let command = parse::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{keys}: {e}"));
    let Verb::Search(search) = command.verb else { panic!("{keys}") };
    let saved = SeqSet::of(29, 30);
    let context = Context {
        exists: 5,
        uid_max: 50,
        saved: &saved,
        now: 20_780 * 86_400 + 1100,
        keyword: &|name| name.eq_ignore_ascii_case(b"work").then_some(2),
    };
    let charset = search.charset.map(|c| c.bytes().into_owned());
    Program::new(&search.keys, charset.as_deref(), &context)
}

/// The result, and how much had to be read: 0 nothing, 1 the header, 2 the body.
fn judge(keys: &str, body: &[(&str, &[u8])]) -> (bool, u8) {
    let program = program(keys).unwrap();
    let mut run = std::rc::Rc::new(program).run();
    let mut verdict = run.begin(&known());
    let mut read = 0;
    if verdict == Verdict::Header {
        (verdict, read) = (run.header(HEADER), 1);
    }
    if let Verdict::Known(value) = verdict {
        return (value, read);
    }
    for (charset, bytes) in body {
        run.part(Some(charset.as_bytes()));
        for (i, byte) in bytes.iter().enumerate() {
            if let Verdict::Known(value) = run.body(&[*byte], i + 1 == bytes.len()) {
                return (value, 2);
            }
        }
    }
    (run.end(), 2)
}

#[test]
fn keys_that_need_no_reading() {
    for (keys, expect) in [
        ("ALL", true),
        ("SEEN FLAGGED", true),
        ("UNSEEN", false),
        ("UNDELETED UNANSWERED UNDRAFT", true),
        ("NEW", false),
        ("OLD", true),
        ("RECENT", false),
        ("KEYWORD Work", true),
        ("UNKEYWORD work", false),
        ("KEYWORD other", false),
        ("UNKEYWORD other", true),
        ("ON 23-Nov-2026", true),
        ("BEFORE 23-Nov-2026", false),
        ("BEFORE 24-Nov-2026", true),
        ("SINCE 23-Nov-2026", true),
        ("SINCE 24-Nov-2026", false),
        ("SAVEDON 24-Nov-2026", true),
        ("SAVEDBEFORE 24-Nov-2026", false),
        ("SAVEDATESUPPORTED", true),
        ("LARGER 999 SMALLER 1001", true),
        ("LARGER 1000", false),
        ("SMALLER 1000", false),
        ("OLDER 1000", true),
        ("OLDER 1001", false),
        ("YOUNGER 1000", true),
        ("YOUNGER 999", false),
        ("3", true),
        ("1:2,4:*", false),
        ("UID 30", true),
        ("UID 31:*", false),
        ("$", true),
        ("UID $", true),
        ("MODSEQ 7", true),
        ("MODSEQ 8", false),
        ("MODSEQ \"/flags/\\\\Seen\" all 7", true),
        ("EMAILID M1", true),
        ("EMAILID M2", false),
        ("THREADID T1", false),
        ("NOT SEEN", false),
        ("NOT NOT SEEN", true),
        ("OR SEEN UNSEEN", true),
        ("OR UNSEEN UNFLAGGED", false),
        ("OR (UNSEEN) (SEEN FLAGGED)", true),
        ("NOT (SEEN UNFLAGGED)", true),
        ("OR OR UNSEEN UNSEEN OR UNSEEN SEEN", true),
    ] {
        assert_eq!(judge(keys, &[]), (expect, 0), "{keys}");
    }
}

#[test]
fn keys_that_read_the_header() {
    for (keys, expect) in [
        ("SUBJECT far", true),
        ("SUBJECT {2}\r\nGR", true),
        ("CHARSET utf-8 SUBJECT {6}\r\ngr\u{fc}\u{df}", true),
        ("SUBJECT \"from far\"", true),
        ("SUBJECT nope", false),
        ("FROM a.example", true),
        ("FROM \"\"", true),
        ("TO \"a@b.example, c@D\"", true),
        ("CC \"\"", false),
        ("HEADER X-Empty \"\"", true),
        ("HEADER x-none \"\"", false),
        ("HEADER from j@", true),
        ("SENTON 23-Nov-2026", true),
        ("SENTSINCE 24-Nov-2026", false),
        ("SENTBEFORE 24-Nov-2026", true),
        ("TEXT \"subject: GR\"", true),
        ("NOT SUBJECT nope", true),
        ("OR SUBJECT nope FROM j@a", true),
    ] {
        assert_eq!(judge(keys, &[]), (expect, 1), "{keys}");
    }
    let latin = b"a SEARCH CHARSET iso-8859-1 SUBJECT {3}\r\ngr\xfc";
    let Verb::Search(search) = parse::parse(latin).unwrap().verb else { panic!("a search") };
    let context = Context { exists: 5, uid_max: 50, saved: &SeqSet::default(), now: 0, keyword: &|_| None };
    let program = Program::new(&search.keys, Some(b"iso-8859-1"), &context).unwrap();
    let mut run = std::rc::Rc::new(program).run();
    assert_eq!(run.begin(&known()), Verdict::Header);
    assert_eq!(run.header(HEADER), Verdict::Known(true));
}

fn summary_of(message: &[u8]) -> Vec<u8> {
    let mut scanner = crate::message::mime::Scanner::new();
    scanner.feed(message);
    let mut out = Vec::new();
    scanner.finish(&mut out);
    out
}

#[test]
fn keys_that_the_summary_decides() {
    let bytes = summary_of(HEADER);
    let summary = Summary::read(&bytes).unwrap();
    for (keys, expect) in [
        ("SUBJECT \"from far\"", Some(true)),
        ("CHARSET utf-8 SUBJECT {6}\r\ngr\u{fc}\u{df}", Some(true)),
        ("NOT SUBJECT nope", Some(true)),
        ("FROM \"<j@a.example\" FROM {7}\r\nJ\u{fc}rgen", Some(true)),
        ("TO \"a@b.example, c@D\"", Some(true)),
        ("CC \"\"", Some(false)),
        ("HEADER Message-ID \"\"", Some(false)),
        ("SENTON 23-Nov-2026", Some(true)),
        ("SENTSINCE 24-Nov-2026", Some(false)),
        ("OR SUBJECT nope HEADER X-Empty \"\"", None),
        ("SUBJECT nope TEXT far", Some(false)),
        ("SUBJECT far TEXT far", None),
    ] {
        let program = std::rc::Rc::new(program(keys).unwrap());
        assert!(program.uses_summary(), "{keys}");
        let mut run = program.run();
        assert_eq!(run.begin(&known()), Verdict::Header, "{keys}");
        let verdict = run.summary(&summary);
        assert_eq!(verdict, expect.map_or(Verdict::Header, Verdict::Known), "{keys}");
    }
    let uses = |keys| program(keys).unwrap().uses_summary();
    assert!(uses("BODY x") && !uses("SEEN") && !uses("HEADER X-Empty \"\"") && !uses("HEADER Sender x"));
}

#[test]
fn keys_that_read_the_body() {
    let body: [(&str, &[u8]); 2] = [("us-ascii", b"Hello, World"), ("iso-8859-1", b"na\xefve")];
    for (keys, expect) in [
        ("BODY world", true),
        ("TEXT WORLD", true),
        ("BODY \"o, w\"", true),
        ("BODY {6}\r\nNA\u{cf}VE", true),
        ("BODY far", false),
        ("BODY worldna", false),
        ("BODY hello BODY na", true),
        ("NOT BODY nope", true),
        ("OR BODY nope BODY ve", true),
    ] {
        assert_eq!(judge(keys, &body), (expect, 2), "{keys}");
    }
    // What is decided without the body does not read it.
    assert_eq!(judge("UNSEEN BODY world", &body), (false, 0));
    assert_eq!(judge("OR SEEN BODY world", &body), (true, 0));
    assert_eq!(judge("SUBJECT nope BODY world", &body), (false, 1));
    assert_eq!(judge("TEXT far", &body), (true, 1));
}

#[test]
fn what_cannot_be_done() {
    assert_eq!(program("CHARSET utf-7 ALL").err(), Some(Refused::Charset));
    assert_eq!(program("6").err(), Some(Refused::Beyond));
    assert!(program("6:*").is_ok() && program("UID 600").is_ok());
    assert!(program("MODSEQ 1").unwrap().has_mod_seq() && !program("ALL").unwrap().has_mod_seq());
}

/// Attack catalogue, row 27: nested and many keys.
#[test]
fn row_27_deep_and_wide_trees() {
    let deep = format!("{}SEEN", "NOT ".repeat(900));
    assert_eq!(judge(&deep, &[]), (true, 0));
    let wide = format!("{}SEEN", "OR UNSEEN ".repeat(450));
    assert_eq!(judge(&wide, &[]), (true, 0));
    let text = vec!["TEXT nope"; 400].join(" ");
    assert_eq!(judge(&text, &[("utf-8", b"x")]), (false, 2));
}

/// A tree of keys without reading: its text and its value.
fn tree() -> impl Strategy<Value = (String, bool)> {
    let leaf = prop::sample::select(vec![("SEEN", true), ("UNSEEN", false), ("ALL", true), ("1", false)])
        .prop_map(|(text, value)| (text.to_string(), value));
    leaf.prop_recursive(6, 40, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|(t, v)| (format!("NOT {t}"), !v)),
            (inner.clone(), inner.clone()).prop_map(|((a, x), (b, y))| (format!("OR {a} {b}"), x || y)),
            prop::collection::vec(inner, 1..4).prop_map(|list| {
                let text: Vec<String> = list.iter().map(|t| t.0.clone()).collect();
                (format!("({})", text.join(" ")), list.iter().all(|t| t.1))
            }),
        ]
    })
}

proptest! {
    /// The summary never says anything else than the header.
    #[test]
    fn summary_and_header_agree(
        fields in prop::collection::vec(
            "(From|To|Cc|Subject|Date|Message-ID): (=[?]utf-8[?]q[?]a=C3=BC[?]= |\"?ab\"? )?\
             <?ab@B>?(,( |\r\n )c@d)?|Date: [12] Mar 2026",
            0..4,
        ),
        name in "FROM|TO|CC|SUBJECT|HEADER Date|HEADER Message-ID|HEADER To",
        needle in "a|ab@|<a|, C@|b\"|\u{fc} |\u{fc}|",
    ) {
        let message = format!("{}\r\n", fields.iter().map(|f| format!("{f}\r\n")).collect::<String>());
        let bytes = summary_of(message.as_bytes());
        let summary = Summary::read(&bytes).unwrap();
        for keys in [format!("{name} {{{}}}\r\n{needle}", needle.len()), "SENTON 2-Mar-2026".to_owned()] {
            let program = std::rc::Rc::new(program(&keys).unwrap());
            let (mut quick, mut whole) = (program.run(), program.run());
            prop_assert_eq!(quick.begin(&known()), Verdict::Header);
            prop_assert_eq!(whole.begin(&known()), Verdict::Header);
            let verdict = quick.summary(&summary);
            if verdict != Verdict::Header {
                prop_assert_eq!(verdict, whole.header(message.as_bytes()), "{} of {:?}", keys, message);
            }
        }
    }

    #[test]
    fn trees_have_the_value_of_their_logic((keys, value) in tree()) {
        prop_assert_eq!(judge(&keys, &[]), (value, 0));
    }

    #[test]
    fn pieces_find_what_the_whole_finds(
        text in "[abAB\u{e9}\u{c9}\u{df}]{0,40}",
        needle in "[abAB\u{e9}]{1,4}",
        cuts in prop::collection::vec(0usize..60, 0..6),
    ) {
        let needle = Needle::new(needle.as_bytes(), encoding_rs::UTF_8);
        let mut mapped = Vec::new();
        crate::imap::casemap::fold(&text, &mut mapped);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let mut scan = Scan::default();
        scan.begin(charset::named(b"utf-8"));
        let mut found = false;
        for (i, pair) in cuts.windows(2).enumerate() {
            found |= needle.is_in(scan.feed(&text.as_bytes()[pair[0]..pair[1]], i + 2 == cuts.len()));
            scan.keep(needle.len() - 1);
        }
        prop_assert_eq!(found, needle.is_in(&mapped));
    }
}

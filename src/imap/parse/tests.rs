//! Every command: what is read out of it, and what is refused where.

use super::date::{DateTime, Day};
use super::fetch::{Items, Kind, Text};
use super::flags::System;
use super::search::{Key, Wanted, When};
use super::sort::{Algorithm, By};
use super::*;
use proptest::prelude::*;

fn verb(text: &str) -> Verb<'_> {
    let command = parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    assert_eq!(command.tag, text.split(' ').next().unwrap().as_bytes());
    command.verb
}

fn set(text: &str) -> SeqSet {
    SeqSet::parse(text.as_bytes()).unwrap().0
}

fn named(text: &str) -> Mailbox<'_> {
    mailbox::name(&mut Input::new(text.as_bytes())).unwrap()
}

#[test]
fn commands_without_arguments() {
    for (text, expect) in [
        ("a CAPABILITY", Verb::Capability),
        ("a noop", Verb::Noop),
        ("a NoOp ", Verb::Noop),
        ("a LOGOUT", Verb::Logout),
        ("a STARTTLS", Verb::StartTls),
        ("a UNAUTHENTICATE", Verb::Unauthenticate),
        ("a IDLE", Verb::Idle),
        ("a NAMESPACE", Verb::Namespace),
        ("a CHECK", Verb::Check),
        ("a CLOSE", Verb::Close),
        ("a UNSELECT", Verb::Unselect),
        ("a EXPUNGE", Verb::Expunge(None)),
        ("a COMPRESS deflate", Verb::Compress),
    ] {
        assert_eq!(verb(text), expect, "{text}");
    }
}

#[test]
fn errors_say_what_and_where() {
    for (text, expect) in [
        ("", "Expected a tag (letters and digits) at column 1"),
        (" NOOP", "Expected a tag (letters and digits) at column 1"),
        ("+ NOOP", "Expected a tag (letters and digits) at column 1"),
        ("a", "Expected a command after the tag at column 2"),
        ("a ", "Expected a command that this server knows at column 3"),
        ("a XYZZY", "Expected a command that this server knows at column 3"),
        ("a UID", "Expected FETCH, STORE, SEARCH or another command after UID at column 6"),
        ("a UID NOOP", "Expected a command that this server knows at column 7"),
        ("a NOOP x", "Expected the end of the command at column 7"),
        ("a LOGIN x", "Expected a password at column 10"),
        ("a SELECT", "Expected a mailbox name at column 9"),
        ("a SELECT \"x", "Expected a closing quotation mark at column 10"),
        ("a SELECT (x)", "Expected a mailbox name at column 10"),
        ("a FETCH x FLAGS", "Expected a number from 1 to 4294967295, or * at column 9"),
        ("a FETCH 1:0 FLAGS", "Expected a number from 1 to 4294967295, or * at column 11"),
        ("a FETCH 1 (FLAGS", "Expected a space between items, or ) at column 17"),
        ("a FETCH 1 BODY[1.", "Expected a part number or HEADER, TEXT, MIME at column 18"),
        ("a STORE 1 FLAG \\Seen", "Expected FLAGS, +FLAGS or -FLAGS at column 11"),
        ("a SEARCH", "Expected a search key, such as ALL or SUBJECT \"text\" at column 9"),
        ("a SEARCH (ALL", "Expected a space and another search key, or ) at column 14"),
        ("a SEARCH ALL)", "Expected a search key or the end of the command, not ) at column 13"),
        ("a SEARCH SINCE 31-Feb-2026", "Expected a day that exists, such as 1-Feb-2026 at column 16"),
        ("a STATUS x (FOO)", "Expected an item of STATUS, such as MESSAGES or UIDNEXT at column 13"),
    ] {
        assert_eq!(parse(text.as_bytes()).unwrap_err().to_string(), expect, "{text:?}");
    }
}

#[test]
fn tags_are_echoed_whatever_is_wrong() {
    assert_eq!(tag(b"A1 nonsense"), b"A1");
    assert_eq!(tag(b"A1"), b"A1");
    for text in [&b""[..], b" x", b"(a) x", b"a\"b NOOP", b"\xff\xff NOOP", b"+ NOOP"] {
        assert_eq!(tag(text), b"*", "{}", text.escape_ascii());
    }
    let long = [b'a'; TAG_MAX + 1];
    assert_eq!(tag(&long), b"*");
    assert!(parse(&[&long[..], b" NOOP"].concat()).is_err());
    assert!(parse(&[&long[1..], b" NOOP"].concat()).is_ok());
}

#[test]
fn login_and_authenticate() {
    let Verb::Login(login) = verb("a LOGIN fred \"pass \\\"word\"") else { panic!("LOGIN") };
    assert_eq!(
        (&*login.user.bytes(), &*login.password.expose().bytes()),
        (&b"fred"[..], &b"pass \"word"[..])
    );
    let Verb::Login(login) = verb("a LOGIN {4}\r\nfr d {3+}\r\n\"]x") else { panic!("LOGIN") };
    assert_eq!((&*login.user.bytes(), &*login.password.expose().bytes()), (&b"fr d"[..], &b"\"]x"[..]));
    assert!(!format!("{login:?}").contains("]x"), "passwords do not show");
    let Verb::Authenticate(auth) = verb("a AUTHENTICATE PLAIN AGEAYg==") else { panic!("AUTHENTICATE") };
    assert_eq!((auth.mechanism, &*auth.initial.unwrap().expose().bytes()), (&b"PLAIN"[..], &b"AGEAYg=="[..]));
    assert!(!format!("{auth:?}").contains("AGE"));
    let Verb::Authenticate(auth) = verb("a authenticate SCRAM-SHA-256") else { panic!("AUTHENTICATE") };
    assert_eq!((auth.mechanism, auth.initial), (&b"SCRAM-SHA-256"[..], None));
    for text in
        ["a LOGIN", "a LOGIN x y z", "a AUTHENTICATE", "a AUTHENTICATE PLAIN *", "a AUTHENTICATE PLAIN a b"]
    {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn enable_and_id() {
    let Verb::Enable(enable) = verb("a ENABLE condstore X-FOO UTF8=ACCEPT IMAP4rev2") else {
        panic!("ENABLE")
    };
    use session::Extensions as E;
    assert_eq!(enable.known, E::CONDSTORE.with(E::UTF8_ACCEPT).with(E::IMAP4REV2));
    assert_eq!(enable.names, b"condstore X-FOO UTF8=ACCEPT IMAP4rev2");
    let Verb::Id(id) = verb("a ID (\"name\" \"x y\" \"os\" NIL)") else { panic!("ID") };
    let pairs: Vec<_> = id.pairs().map(|(n, v)| (n.bytes(), v.map(|v| v.bytes()))).collect();
    assert_eq!(pairs.len(), 2);
    assert_eq!((&*pairs[0].0, pairs[0].1.as_deref()), (&b"name"[..], Some(&b"x y"[..])));
    assert_eq!((&*pairs[1].0, pairs[1].1.as_deref()), (&b"os"[..], None));
    for text in ["a ID NIL", "a ID ()"] {
        let Verb::Id(id) = verb(text) else { panic!("ID") };
        assert_eq!(id.pairs().count(), 0);
    }
    let many = format!("a ID ({})", vec!["\"a\" \"b\""; 31].join(" "));
    for text in
        ["a ENABLE", "a ID", "a ID (\"a\")", "a ID (a b)", "a ID (\"a\" \"b\"", "a COMPRESS LZ4", &many]
    {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
    assert!(session::is_done(b"done ") && session::is_done(b"DONE") && !session::is_done(b"a DONE"));
}

#[test]
fn select_and_its_parameters() {
    let Verb::Select(select) = verb("a SELECT \"INBOX\"") else { panic!("SELECT") };
    assert!(select.mailbox.is_inbox() && !select.condstore && select.qresync.is_none());
    let Verb::Examine(select) = verb("a EXAMINE x (CONDSTORE)") else { panic!("EXAMINE") };
    assert!(select.condstore);
    let text = "a SELECT x (QRESYNC (67890007 90060115194045000 41:211,214:541 (1:3 5,7,9)) CONDSTORE)";
    let Verb::Select(select) = verb(text) else { panic!("SELECT") };
    let q = select.qresync.unwrap();
    assert_eq!((q.uid_validity, q.mod_sequence), (67_890_007, 90_060_115_194_045_000));
    assert_eq!(q.known, Some(set("41:211,214:541")));
    assert_eq!(q.matched, Some((set("1:3"), set("5,7,9"))));
    assert!(select.condstore);
    let Verb::Select(select) = verb("a SELECT x (QRESYNC (1 2 (1 3)))") else { panic!("SELECT") };
    assert_eq!(select.qresync.unwrap().matched, Some((set("1"), set("3"))));
    for parameters in [
        "()",
        "(FOO)",
        "(QRESYNC)",
        "(QRESYNC (0 1))",
        "(QRESYNC (1))",
        "(QRESYNC (1 2 3:*))",
        "(QRESYNC (1 2 (1:3 5)))",
        "(QRESYNC (1 2 3 4))",
        "(QRESYNC (1 2) QRESYNC (1 2))",
        "(CONDSTORE",
        "CONDSTORE",
        "(QRESYNC (1 9223372036854775808))",
    ] {
        assert!(parse(format!("a SELECT x {parameters}").as_bytes()).is_err(), "{parameters}");
    }
}

#[test]
fn mailbox_commands() {
    assert_eq!(verb("a DELETE x]y"), Verb::Delete(named("x]y")));
    assert_eq!(verb("a RENAME a {1}\r\nb"), Verb::Rename { from: named("a"), to: named("b") });
    assert_eq!(verb("a SUBSCRIBE &AOQ-"), Verb::Subscribe(named("&AOQ-")));
    assert_eq!(verb("a UNSUBSCRIBE \"a b\""), Verb::Unsubscribe(named("\"a b\"")));
    assert_eq!(verb("a GETQUOTAROOT inbox"), Verb::GetQuotaRoot(named("inbox")));
    let Verb::Create(create) = verb("a CREATE x (USE (\\Drafts \\sent))") else { panic!("CREATE") };
    assert!(create.uses == mailbox::Uses(4 | 32) && !create.unknown_use);
    let Verb::Create(create) = verb("a CREATE x/ (USE (\\Odd))") else { panic!("CREATE") };
    assert!(create.unknown_use && &*create.mailbox.bytes() == b"x/");
    let Verb::GetQuota(root) = verb("a GETQUOTA \"\"") else { panic!("GETQUOTA") };
    assert!(root.is_empty());
    let Verb::SetQuota(quota) = verb("a SETQUOTA \"\" (STORAGE 512 MESSAGE 10)") else { panic!("SETQUOTA") };
    assert_eq!(quota.limits[..], [(&b"STORAGE"[..], 512), (&b"MESSAGE"[..], 10)]);
    let long = format!("a DELETE {}", "x".repeat(1001));
    for text in [
        "a DELETE",
        "a DELETE %",
        "a DELETE a b",
        "a RENAME a",
        "a CREATE x (USE)",
        "a CREATE x (FOO)",
        "a CREATE x (USE (Sent))",
        "a SETQUOTA x",
        "a SETQUOTA x (STORAGE)",
        &long,
    ] {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn list_and_lsub() {
    let Verb::List(l) = verb("a LIST \"\" *") else { panic!("LIST") };
    assert!(!l.extended && l.reference.text().is_empty() && &*l.patterns[0].bytes() == b"*");
    let Verb::List(l) =
        verb("a LIST (SUBSCRIBED RECURSIVEMATCH) x/ (\"INBOX\" a%) RETURN (CHILDREN STATUS (MESSAGES SIZE))")
    else {
        panic!("LIST")
    };
    assert!(l.extended && l.selection.subscribed && l.selection.recursive_match && l.ret.children);
    assert_eq!(l.ret.status, Some(status::Items(1 | 64)));
    assert_eq!(l.patterns.len(), 2);
    let Verb::List(l) = verb("a LIST () \"\" % RETURN ()") else { panic!("LIST") };
    assert!(l.extended);
    let Verb::List(l) = verb("a LIST (SPECIAL-USE) \"\" \"*\" RETURN (SPECIAL-USE SUBSCRIBED)") else {
        panic!("LIST")
    };
    assert!(l.selection.special_use && l.ret.special_use && l.ret.subscribed);
    let Verb::Lsub(l) = verb("a LSUB \"\" \"a*\"") else { panic!("LSUB") };
    assert_eq!(&*l.pattern.bytes(), b"a*");
    let many = format!("a LIST \"\" ({})", vec!["x"; 101].join(" "));
    for text in [
        "a LIST",
        "a LIST \"\"",
        "a LIST \"\" ()",
        "a LIST (FOO) \"\" *",
        "a LIST (RECURSIVEMATCH) \"\" *",
        "a LIST \"\" * RETURN",
        "a LIST \"\" * RETURN (STATUS)",
        "a LIST \"\" * (CHILDREN)",
        "a LSUB \"\" (x y)",
        &many,
    ] {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn status_items() {
    let Verb::Status(s) = verb(
        "a STATUS x (messages RECENT UIDNEXT UIDVALIDITY UNSEEN DELETED SIZE HIGHESTMODSEQ APPENDLIMIT \
         MAILBOXID DELETED-STORAGE)",
    ) else {
        panic!("STATUS")
    };
    assert_eq!(s.items, status::Items(0x7ff));
    for text in ["a STATUS x", "a STATUS x ()", "a STATUS x MESSAGES", "a STATUS x (MESSAGES"] {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn append_and_replace() {
    let Verb::Append(a) = verb("a APPEND x {310}\r\n") else { panic!("APPEND") };
    let m = a.message;
    assert_eq!((m.len, m.binary, m.utf8, m.non_synchronizing, m.date), (310, false, false, false, None));
    let text = "a APPEND {1+}\r\nx (\\Seen $Work \\Recent) \" 7-Feb-1994 21:52:25 -0800\" ~{5+}\r\n";
    let Verb::Append(a) = verb(text) else { panic!("APPEND") };
    assert_eq!(a.message.flags.system, System::SEEN);
    assert_eq!(a.message.flags.keywords().collect::<Vec<_>>(), [b"$Work"]);
    assert_eq!(a.message.date, Some(DateTime { seconds: 760_686_745, zone: -480 }));
    assert!(a.message.binary && a.message.non_synchronizing);
    let Verb::Append(a) = verb("a APPEND x UTF8 (~{5}\r\n") else { panic!("APPEND") };
    assert!(a.message.utf8 && a.message.binary);
    let Verb::Replace(r) = verb("a REPLACE 4 x () {5}\r\n") else { panic!("REPLACE") };
    assert_eq!((r.uid, r.number, r.message.len), (false, Some(4), 5));
    let Verb::Replace(r) = verb("a UID REPLACE * x {5+}\r\n") else { panic!("REPLACE") };
    assert_eq!((r.uid, r.number), (true, None));
    for text in [
        "a APPEND x",
        "a APPEND x ()",
        "a APPEND x {5}",
        "a APPEND x {5}\r\nabcde",
        "a APPEND x UTF8 ({5}\r\n",
        "a APPEND x (\\Bad) {5}\r\n",
        "a APPEND x \"yesterday\" {5}\r\n",
        "a REPLACE 0 x {5}\r\n",
        "a REPLACE 1,2 x {5}\r\n",
        "a APPEND x {99999999999999999999}\r\n",
        "a APPEND x {-1}\r\n",
    ] {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn behind_a_message() {
    use append::{Next, next};
    assert_eq!(next(b"", false), Ok(Next::End));
    assert_eq!(next(b" ", false), Ok(Next::End));
    assert_eq!(next(b")", true), Ok(Next::End));
    let Ok(Next::Message(m)) = next(b" (\\Seen) {7}\r\n", false) else { panic!("a message") };
    assert_eq!((m.len, m.flags.system), (7, System::SEEN));
    let Ok(Next::Message(m)) = next(b") UTF8 (~{7+}\r\n", true) else { panic!("a message") };
    assert!(m.utf8);
    for (text, utf8) in [(&b"x"[..], false), (b")", false), (b"", true), (b" x {5}\r\n", false)] {
        assert!(next(text, utf8).is_err(), "{}", text.escape_ascii());
    }
}

#[test]
fn copy_move_expunge() {
    let Verb::Copy(c) = verb("a COPY 2:4 x") else { panic!("COPY") };
    assert_eq!((c.uid, c.messages, c.mailbox), (false, Messages::Set(set("2:4")), named("x")));
    let Verb::Move(c) = verb("a UID MOVE $ \"x y\"") else { panic!("MOVE") };
    assert_eq!((c.uid, c.messages), (true, Messages::Saved));
    assert_eq!(verb("a UID EXPUNGE 3000:3002"), Verb::Expunge(Some(Messages::Set(set("3000:3002")))));
    for text in ["a COPY 1", "a MOVE x y", "a UID EXPUNGE", "a EXPUNGE 1"] {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn store_and_its_flags() {
    use store::Change;
    for (text, change, silent, since, system, keywords) in [
        ("a STORE 1 FLAGS ()", Change::Replace, false, None, System(0), vec![]),
        ("a STORE 1 +FLAGS (\\Deleted)", Change::Add, false, None, System::DELETED, vec![]),
        ("a STORE 1 -flags.silent \\Seen $x", Change::Remove, true, None, System::SEEN, vec!["$x"]),
        ("a STORE 1 +FLAGS.SILENT a", Change::Add, true, None, System(0), vec!["a"]),
        (
            "a UID STORE 1 (UNCHANGEDSINCE 12) FLAGS \\Draft",
            Change::Replace,
            false,
            Some(12),
            System::DRAFT,
            vec![],
        ),
        (
            "a STORE $ (UNCHANGEDSINCE 0) +FLAGS (b \\Answered c)",
            Change::Add,
            false,
            Some(0),
            System::ANSWERED,
            vec!["b", "c"],
        ),
    ] {
        let Verb::Store(s) = verb(text) else { panic!("STORE") };
        assert_eq!(
            (s.change, s.silent, s.unchanged_since, s.flags.system),
            (change, silent, since, system),
            "{text}"
        );
        let got: Vec<&[u8]> = s.flags.keywords().collect();
        assert_eq!(got, keywords.iter().map(|k| k.as_bytes()).collect::<Vec<_>>(), "{text}");
        assert_eq!(s.flags.keyword_count(), got.len());
    }
    let many = format!("a STORE 1 FLAGS ({})", vec!["k"; 65].join(" "));
    let long = format!("a STORE 1 FLAGS ({})", "k".repeat(101));
    for text in [
        "a STORE 1",
        "a STORE 1 FLAGS",
        "a STORE 1 FLAGS (\\Odd)",
        "a STORE 1 FLAGS (a",
        "a STORE 1 (FOO 1) FLAGS ()",
        "a STORE 1 FLAGS (a\"b)",
        "a STORE 1 FLAGS () x",
        &many,
        &long,
    ] {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn fetch_items() {
    let Verb::Fetch(f) = verb("a FETCH 1 FULL") else { panic!("FETCH") };
    assert_eq!(f.items, Items::FULL);
    let text = "a UID FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE BODY MODSEQ \
    EMAILID \
        THREADID SAVEDATE PREVIEW (LAZY)) (CHANGEDSINCE 12 VANISHED)";
    let Verb::Fetch(f) = verb(text) else { panic!("FETCH") };
    assert_eq!((f.items, f.changed_since, f.vanished, f.uid), (Items(0x1fff), Some(12), true, true));
    let Verb::Fetch(f) = verb("a FETCH 1 PREVIEW (CHANGEDSINCE 1)") else { panic!("FETCH") };
    assert_eq!((f.items, f.changed_since), (Items::PREVIEW, Some(1)));
    let Verb::Fetch(f) = verb("a FETCH 1 PREVIEW (LAZY)") else { panic!("FETCH") };
    assert!(f.items.has(Items::LAZY));
    let Verb::Fetch(f) = verb("a FETCH $ (RFC822 RFC822.HEADER RFC822.TEXT)") else { panic!("FETCH") };
    let kinds: Vec<_> = f.sections.iter().map(|s| (s.kind, s.peek)).collect();
    assert_eq!(kinds, [(Kind::Rfc822, false), (Kind::Rfc822Header, true), (Kind::Rfc822Text, false)]);
}

#[test]
fn fetch_sections() {
    let text = "a FETCH 1 (BODY[] BODY.PEEK[1.20.MIME]<0.100> BODY[HEADER.FIELDS (To \"x y\" {2}\r\nCc)] \
        BODY[3.HEADER.FIELDS.NOT (a)] BINARY[1]<5.6> BINARY.PEEK[] BINARY.SIZE[2] BODY[TEXT] BODY[1.TEXT])";
    let Verb::Fetch(f) = verb(text) else { panic!("FETCH") };
    let s = &f.sections;
    assert_eq!(s.len(), 9);
    assert_eq!((s[0].kind, s[0].peek, s[0].text, s[0].partial), (Kind::Body, false, Text::Whole, None));
    assert_eq!(s[1].part.numbers().collect::<Vec<_>>(), [1, 20]);
    assert_eq!((s[1].peek, s[1].text, s[1].partial), (true, Text::Mime, Some((0, 100))));
    let Text::Fields(fields) = s[2].text else { panic!("fields") };
    let names: Vec<_> = fields.names().map(|n| n.bytes().into_owned()).collect();
    assert_eq!(names, [&b"To"[..], b"x y", b"Cc"]);
    assert!(matches!(s[3].text, Text::FieldsNot(_)) && s[3].part.bytes() == b"3");
    assert_eq!((s[4].kind, s[4].partial), (Kind::Binary, Some((5, 6))));
    assert_eq!((s[5].kind, s[5].peek, s[5].part.bytes()), (Kind::Binary, true, &b""[..]));
    assert_eq!((s[6].kind, s[6].part.bytes()), (Kind::BinarySize, &b"2"[..]));
    assert_eq!((s[7].text, s[8].text, s[8].part.bytes()), (Text::Text, Text::Text, &b"1"[..]));
    for item in [
        "",
        "()",
        "FOO",
        "BODY[",
        "BODY[]<1>",
        "BODY[]<1.0>",
        "BODY[]<-1.1>",
        "BODY[0]",
        "BODY[1.]",
        "BODY[MIME]",
        "BODY[1..2]",
        "BODY[.1]",
        "BODY[HEADER.FIELDS]",
        "BODY[HEADER.FIELDS ()]",
        "BODY[FOO]",
        "BINARY",
        "BODY.PEEK",
        "BINARY[HEADER]",
        "BINARY.SIZE[1]<0.1>",
        "BODY[1HEADER]",
        "(ALL)",
        "(FLAGS))",
        "FLAGS (VANISHED)",
        "FLAGS (CHANGEDSINCE)",
        "FLAGS ()",
        "FLAGS (CHANGEDSINCE 1 CHANGEDSINCE 2)",
        "FLAGS UID",
        "BODY[4294967296]",
        "(PREVIEW (EAGER))",
    ] {
        assert!(parse(format!("a FETCH 1 {item}").as_bytes()).is_err(), "{item}");
    }
    assert!(parse(b"a FETCH 1 FLAGS (CHANGEDSINCE 1 VANISHED)").is_err(), "VANISHED is for UID FETCH");
}

#[test]
fn search_keys_in_prefix_order() {
    let Verb::Search(s) =
        verb("a SEARCH RETURN (MIN COUNT) CHARSET UTF-8 OR (SEEN 1:3) NOT FROM \"x\" UID 5")
    else {
        panic!("SEARCH")
    };
    assert_eq!(s.wanted, Some(Wanted(1 | 8)));
    assert_eq!(&*s.charset.unwrap().bytes(), b"UTF-8");
    assert_eq!(
        s.keys,
        [
            Key::And(2),
            Key::Or,
            Key::And(2),
            Key::Flag(System::SEEN, true),
            Key::Numbers(set("1:3")),
            Key::Not,
            Key::Field("FROM", Str::plain(b"x")),
            Key::Uids(set("5")),
        ]
    );
    let Verb::Search(s) = verb("a UID SEARCH RETURN () ALL") else { panic!("SEARCH") };
    assert_eq!((s.uid, s.wanted, s.keys.len()), (true, Some(Wanted::ALL), 2));
    let Verb::Search(s) = verb("a SEARCH ((OR (ALL) (NOT (NOT $))))") else { panic!("SEARCH") };
    assert_eq!(s.keys.len(), 11);
}

const KEYS: &[&str] = &[
    "ALL",
    "ANSWERED",
    "DELETED",
    "DRAFT",
    "FLAGGED",
    "NEW",
    "OLD",
    "RECENT",
    "SEEN",
    "UNANSWERED",
    "UNDELETED",
    "UNDRAFT",
    "UNFLAGGED",
    "UNSEEN",
    "BCC x",
    "BODY x",
    "CC x",
    "FROM x",
    "SUBJECT x",
    "TEXT x",
    "TO x",
    "HEADER a b",
    "KEYWORD x",
    "UNKEYWORD x",
    "LARGER 1",
    "SMALLER 1",
    "OLDER 1",
    "YOUNGER 1",
    "BEFORE 1-Feb-2026",
    "ON \"1-Feb-2026\"",
    "SINCE 01-Feb-2026",
    "SENTBEFORE 1-Feb-2026",
    "SENTON 1-Feb-2026",
    "SENTSINCE 1-Feb-2026",
    "SAVEDBEFORE 1-Feb-2026",
    "SAVEDON 1-Feb-2026",
    "SAVEDSINCE 1-Feb-2026",
    "SAVEDATESUPPORTED",
    "UID 1:*",
    "UID $",
    "MODSEQ 1",
    "MODSEQ \"/flags/x\" shared 1",
    "EMAILID M-1_a",
    "THREADID T1",
    "$",
    "1",
    "*",
    "2:*",
    "NOT ALL",
    "OR ALL ALL",
    "(ALL ALL)",
];

const NO_KEYS: &[&str] = &[
    "",
    "FOO",
    "NOT",
    "OR",
    "OR ALL",
    "()",
    "(ALL",
    "ALL)",
    "SUBJECT",
    "HEADER a",
    "KEYWORD \\Seen",
    "LARGER x",
    "OLDER 0",
    "SINCE",
    "UID",
    "UID x",
    "MODSEQ",
    "MODSEQ \"x\" all 1",
    "EMAILID",
    "EMAILID (x)",
    "ALL  ALL",
    "OR (ALL)(ALL)",
    "RETURN (FOO) ALL",
    "RETURN ALL",
    "RETURN (ALL)",
    "CHARSET",
    "CHARSET UTF-8",
    "0",
    "1:2:3",
];

#[test]
fn each_search_key() {
    for key in KEYS {
        verb(&format!("a SEARCH {key}"));
        verb(&format!("a UID SEARCH NOT ({key} OR {key} {key}) "));
    }
    let Verb::Search(s) = verb("a SEARCH SENTSINCE 1-Jan-1970") else { panic!("SEARCH") };
    assert_eq!(s.keys[1], Key::Date(super::search::Clock::Sent, When::Since, Day(0)));
    for key in NO_KEYS {
        assert!(parse(format!("a SEARCH {key}").as_bytes()).is_err(), "{key}");
    }
}

#[test]
fn sort_and_thread() {
    let Verb::Sort(s) = verb("a UID SORT (REVERSE DATE SUBJECT) UTF-8 UNDELETED") else { panic!("SORT") };
    let by: Vec<_> = s.by.iter().map(|c| (c.by, c.reverse)).collect();
    assert_eq!(by, [(By::Date, true), (By::Subject, false)]);
    assert_eq!((s.uid, &*s.charset.bytes(), s.keys.len()), (true, &b"UTF-8"[..], 2));
    let Verb::Thread(t) = verb("a THREAD references \"us-ascii\" ALL") else { panic!("THREAD") };
    assert_eq!((t.uid, t.algorithm), (false, Algorithm::References));
    for text in [
        "a SORT",
        "a SORT () UTF-8 ALL",
        "a SORT (FOO) UTF-8 ALL",
        "a SORT (REVERSE) UTF-8 ALL",
        "a SORT (DATE) UTF-8",
        "a SORT DATE UTF-8 ALL",
        "a THREAD REFS UTF-8 ALL",
        "a THREAD REFERENCES ALL",
    ] {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
}

/// Attack catalogue, row 25: parentheses by the thousand.
#[test]
fn row_25_parentheses() {
    for n in [33, 8000, 1_000_000] {
        let bomb = "(".repeat(n);
        for text in [format!("a SEARCH {bomb}"), format!("a SEARCH {bomb}ALL{}", ")".repeat(n))] {
            assert!(parse(text.as_bytes()).is_err(), "{n}");
        }
        for command in ["X", "LIST", "ID", "FETCH 1", "STORE 1 FLAGS", "SELECT x", "STATUS x"] {
            assert!(parse(format!("a {command} {bomb}").as_bytes()).is_err(), "{command}");
        }
    }
    verb(&format!("a SEARCH {}ALL{}", "(".repeat(32), ")".repeat(32)));
}

/// Attack catalogue, row 27: more keys and operators than anybody needs.
#[test]
fn row_27_many_keys() {
    verb(&format!("a SEARCH {}ALL", "NOT ".repeat(990)));
    verb(&format!("a SEARCH {}ALL", "OR SEEN ".repeat(490)));
    for text in [
        format!("a SEARCH {}ALL", "NOT ".repeat(10_000)),
        format!("a SEARCH {}ALL", "OR SEEN ".repeat(10_000)),
        format!("a SEARCH {}ALL", "TEXT x ".repeat(10_000)),
    ] {
        assert!(parse(text.as_bytes()).is_err());
    }
}

const WORDS: &[&str] = &[
    "a",
    " ",
    " ",
    " ",
    "(",
    ")",
    "\"",
    "\\",
    "{1}\r\n",
    "{3+}\r\n",
    "~",
    "*",
    "1:3",
    "UID",
    "FETCH",
    "STORE",
    "SEARCH",
    "BODY[",
    "]",
    "<0.1>",
    "HEADER.FIELDS",
    "FLAGS",
    "\\Seen",
    "OR",
    "NOT",
    "SELECT",
    "LIST",
    "RETURN",
    "STATUS",
    "APPEND",
    "x",
    "INBOX",
    "NIL",
    "ID",
    "$",
    "SORT",
    "THREAD",
    "REFERENCES",
    "UTF-8",
    "QRESYNC",
    "1-Feb-2026",
    "LOGIN",
    "USE",
];

proptest! {
    #[test]
    fn never_panics(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&text);
        let _ = append::next(&text, false);
        prop_assert!(tag(&text).len() <= TAG_MAX);
    }

    #[test]
    fn never_panics_on_nearly_good_commands(
        words in prop::collection::vec(prop::sample::select(WORDS), 0..30),
    ) {
        let text = format!("a {}", words.concat());
        if let Err(bad) = parse(text.as_bytes()) {
            prop_assert!(bad.at <= text.len());
            prop_assert!(bad.to_string().is_ascii());
        }
    }
}

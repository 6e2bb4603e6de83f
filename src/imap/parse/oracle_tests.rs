//! Differential test: another implementation must read the same out of commands that both accept, and
//! both must accept the same commands but for what is named here.
//!
//! Accepted differences:
//! * Spaces at the end of a command and before `)` in lists are taken by ours only: clients send them.
//!   RFC 9051 §9 has none.
//! * Numbers with leading zeros are taken by ours as sequence numbers (RFC 9051 §9 `nz-number` has none).
//! * UTF-8 in quoted strings is taken by ours (RFC 9051 §9 `QUOTED-CHAR`; RFC 3501 §9 has ASCII only).
//! * `\Recent` in APPEND and STORE is passed over by ours; other flags with a backslash are refused
//!   (RFC 9051 §2.3.2: servers need not accept flag extensions), the other one takes both.
//! * ESEARCH, SEARCHRES, LIST-EXTENDED, OBJECTID, SAVEDATE, PREVIEW, REPLACE, USE of CREATE and UTF8 of
//!   APPEND (RFC 6855 §4) are not known to the other one.
//! * Sizes and partials up to 63 bits are taken by ours (RFC 9051 §9 `number64`), 32 bits by the other.
//! * Algorithms of THREAD that nobody knows are taken by the other one (RFC 5256 §5 `thread-alg-ext`).
//! * `*` in QRESYNC is refused by ours (RFC 7162 §7 `known-uids`).
//! * VANISHED without UID or CHANGEDSINCE, RECURSIVEMATCH alone, and sets of unequal size in QRESYNC are
//!   refused by ours (RFC 7162 §3.2.6, RFC 5258 §3.1).
//! * STATUS and FETCH without items are taken by the other one (RFC 9051 §9: at least one).
//! * A bare LF ends a line with ours, for people at terminals (RFC 9051 §2.2: CRLF).
//! * Charsets may be astrings with ours (RFC 3501 §9), atoms or quoted with the other (RFC 9051 §9).
//! * An initial response that is not base64 is refused by the mechanism with ours, by the grammar with
//!   the other (RFC 9051 §9 `base64`).

use super::date::civil;
use super::fetch::{Items, Kind, Part, Section, Text};
use super::flags::{Flags, System};
use super::search::{Clock, Key, When};
use super::store::Change;
use super::*;
use imap_codec::CommandCodec;
use imap_codec::decode::Decoder;
use imap_codec::imap_types::command::CommandBody;
use imap_codec::imap_types::core::AString;
use imap_codec::imap_types::extensions::binary::LiteralOrLiteral8;
use imap_codec::imap_types::fetch::{
    MacroOrMessageDataItemNames, MessageDataItemName, Section as TheirSection,
};
use imap_codec::imap_types::flag::{Flag, StoreResponse, StoreType};
use imap_codec::imap_types::mailbox::Mailbox as TheirMailbox;
use imap_codec::imap_types::search::SearchKey;
use imap_codec::imap_types::sequence::{SeqOrUid, Sequence, SequenceSet};
use proptest::prelude::*;

fn bytes(b: &[u8]) -> String {
    b.escape_ascii().to_string()
}

fn our_set(messages: &Messages) -> String {
    match messages {
        Messages::Set(set) => written(set),
        Messages::Saved => "$".to_string(),
    }
}

fn written(set: &SeqSet) -> String {
    let mut out = Vec::new();
    set.write(&mut out);
    String::from_utf8(out).unwrap()
}

/// In our normal form.
fn their_set(set: &SequenceSet) -> String {
    let end = |e: &SeqOrUid| match e {
        SeqOrUid::Value(n) => n.to_string(),
        SeqOrUid::Asterisk => "*".to_string(),
    };
    let parts: Vec<String> = set
        .0
        .as_ref()
        .iter()
        .map(|s| match s {
            Sequence::Single(a) => end(a),
            Sequence::Range(a, b) => format!("{}:{}", end(a), end(b)),
        })
        .collect();
    written(&SeqSet::parse(parts.join(",").as_bytes()).unwrap().0)
}

fn our_name(name: &Mailbox<'_>) -> String {
    if name.is_inbox() { "INBOX".to_string() } else { bytes(&name.bytes()) }
}

fn their_name(name: &TheirMailbox<'_>) -> String {
    match name {
        TheirMailbox::Inbox => "INBOX".to_string(),
        TheirMailbox::Other(other) => bytes(other.as_ref()),
    }
}

fn our_flags(flags: &Flags<'_>) -> String {
    let mut names: Vec<String> = System::NAMES
        .iter()
        .filter(|(bit, _)| flags.system.has(*bit))
        .map(|(_, name)| (*name).to_string())
        .chain(flags.keywords().map(bytes))
        .collect();
    names.sort();
    names.dedup();
    names.join(" ")
}

fn their_flags(flags: &[Flag<'_>]) -> String {
    let mut names: Vec<String> = flags.iter().map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    names.join(" ")
}

fn our_section(s: &Section<'_>) -> String {
    let part = |p: &Part<'_>| p.numbers().map(|n| n.to_string()).collect::<Vec<_>>().join(".");
    let names =
        |f: &super::fetch::Fields<'_>| f.names().map(|n| bytes(&n.bytes())).collect::<Vec<_>>().join(" ");
    let text = match &s.text {
        Text::Whole => String::new(),
        Text::Header => "HEADER".to_string(),
        Text::Text => "TEXT".to_string(),
        Text::Mime => "MIME".to_string(),
        Text::Fields(f) => format!("FIELDS {}", names(f)),
        Text::FieldsNot(f) => format!("NOT {}", names(f)),
    };
    let peek = s.peek && matches!(s.kind, Kind::Body | Kind::Binary);
    format!("{:?} {peek} [{}|{text}] {:?}", s.kind, part(&s.part), s.partial)
}

fn numbers<T: ToString>(list: &[T]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
}

fn their_item(item: &MessageDataItemName<'_>, items: &mut u16) -> Option<String> {
    use MessageDataItemName as I;
    let bit = match item {
        I::Body => Items::BODY,
        I::BodyStructure => Items::BODYSTRUCTURE,
        I::Envelope => Items::ENVELOPE,
        I::Flags => Items::FLAGS,
        I::InternalDate => Items::INTERNALDATE,
        I::Rfc822Size => Items::SIZE,
        I::Uid => Items::UID,
        I::ModSeq => Items::MODSEQ,
        I::Rfc822 => return Some("Rfc822 false [|] None".to_string()),
        I::Rfc822Header => return Some("Rfc822Header false [|HEADER] None".to_string()),
        I::Rfc822Text => return Some("Rfc822Text false [|TEXT] None".to_string()),
        I::Binary { section, partial, peek } => {
            let partial = partial.map(|(a, b)| (u64::from(a), u64::from(b.get())));
            return Some(format!("Binary {peek} [{}|] {partial:?}", numbers(section)));
        }
        I::BinarySize { section } => return Some(format!("BinarySize false [{}|] None", numbers(section))),
        I::BodyExt { section, partial, peek } => {
            let partial = partial.map(|(a, b)| (u64::from(a), u64::from(b.get())));
            return Some(format!("Body {peek} [{}] {partial:?}", their_section(section.as_ref())));
        }
    };
    *items |= bit.0;
    None
}

fn their_section(section: Option<&TheirSection<'_>>) -> String {
    use TheirSection as S;
    let part =
        |p: Option<&imap_codec::imap_types::fetch::Part>| p.map_or(String::new(), |p| numbers(p.0.as_ref()));
    let names = |n: &[AString<'_>]| n.iter().map(|n| bytes(n.as_ref())).collect::<Vec<_>>().join(" ");
    match section {
        None => "|".to_string(),
        Some(S::Part(p)) => format!("{}|", part(Some(p))),
        Some(S::Header(p)) => format!("{}|HEADER", part(p.as_ref())),
        Some(S::HeaderFields(p, n)) => format!("{}|FIELDS {}", part(p.as_ref()), names(n.as_ref())),
        Some(S::HeaderFieldsNot(p, n)) => format!("{}|NOT {}", part(p.as_ref()), names(n.as_ref())),
        Some(S::Text(p)) => format!("{}|TEXT", part(p.as_ref())),
        Some(S::Mime(p)) => format!("{}|MIME", part(Some(p))),
    }
}

/// The tree at the front of `keys`, which moves on.
fn our_key(keys: &mut std::slice::Iter<'_, Key<'_>>) -> String {
    let date = |day: &super::date::Day| {
        let (y, m, d) = civil(*day);
        format!("{y:04}-{m:02}-{d:02}")
    };
    match keys.next().expect("a whole tree") {
        // Ours has parentheses around a single key, too.
        Key::And(1) => our_key(keys),
        Key::And(n) => format!("({})", (0..*n).map(|_| our_key(keys)).collect::<Vec<_>>().join(" ")),
        Key::Or => format!("OR {} {}", our_key(keys), our_key(keys)),
        Key::Not => format!("NOT {}", our_key(keys)),
        Key::All => "ALL".to_string(),
        Key::New => "NEW".to_string(),
        Key::Flag(flag, set) => format!("{flag:?} {set}"),
        Key::Keyword(k, set) => format!("KEYWORD {} {set}", bytes(k)),
        Key::Date(clock, when, day) => format!("{clock:?} {when:?} {}", date(day)),
        Key::Larger(n) => format!("LARGER {n}"),
        Key::Smaller(n) => format!("SMALLER {n}"),
        Key::Older(n) => format!("OLDER {n}"),
        Key::Younger(n) => format!("YOUNGER {n}"),
        Key::Header(name, text) => format!("HEADER {} {}", bytes(&name.bytes()), bytes(&text.bytes())),
        Key::Field(name, text) => format!("{name} {}", bytes(&text.bytes())),
        Key::Text(text) => format!("TEXT {}", bytes(&text.bytes())),
        Key::Body(text) => format!("BODY {}", bytes(&text.bytes())),
        Key::Numbers(set) => written(set),
        Key::Uids(set) => format!("UID {}", written(set)),
        Key::ModSeq(n) => format!("MODSEQ {n}"),
        other => format!("{other:?}"),
    }
}

fn their_list(keys: &[SearchKey<'_>]) -> String {
    match keys {
        [one] => their_key(one),
        many => format!("({})", many.iter().map(their_key).collect::<Vec<_>>().join(" ")),
    }
}

fn their_key(key: &SearchKey<'_>) -> String {
    use SearchKey as S;
    let flag = |f: System, set: bool| format!("{f:?} {set}");
    let dated = |c: Clock, w: When, d: &imap_codec::imap_types::datetime::NaiveDate| {
        format!("{c:?} {w:?} {}", d.as_ref())
    };
    let text = |name: &str, t: &AString<'_>| format!("{name} {}", bytes(t.as_ref()));
    match key {
        S::And(list) => their_list(list.as_ref()),
        S::Or(a, b) => format!("OR {} {}", their_key(a), their_key(b)),
        S::Not(a) => format!("NOT {}", their_key(a)),
        S::All => "ALL".to_string(),
        S::New => "NEW".to_string(),
        S::SequenceSet(set) => their_set(set),
        S::Uid(set) => format!("UID {}", their_set(set)),
        S::Answered => flag(System::ANSWERED, true),
        S::Deleted => flag(System::DELETED, true),
        S::Draft => flag(System::DRAFT, true),
        S::Flagged => flag(System::FLAGGED, true),
        S::Recent => flag(System::RECENT, true),
        S::Seen => flag(System::SEEN, true),
        S::Old => flag(System::RECENT, false),
        S::Unanswered => flag(System::ANSWERED, false),
        S::Undeleted => flag(System::DELETED, false),
        S::Undraft => flag(System::DRAFT, false),
        S::Unflagged => flag(System::FLAGGED, false),
        S::Unseen => flag(System::SEEN, false),
        S::Keyword(k) => format!("KEYWORD {k} true"),
        S::Unkeyword(k) => format!("KEYWORD {k} false"),
        S::Before(d) => dated(Clock::Internal, When::Before, d),
        S::On(d) => dated(Clock::Internal, When::On, d),
        S::Since(d) => dated(Clock::Internal, When::Since, d),
        S::SentBefore(d) => dated(Clock::Sent, When::Before, d),
        S::SentOn(d) => dated(Clock::Sent, When::On, d),
        S::SentSince(d) => dated(Clock::Sent, When::Since, d),
        S::Larger(n) => format!("LARGER {n}"),
        S::Smaller(n) => format!("SMALLER {n}"),
        S::Older(n) => format!("OLDER {n}"),
        S::Younger(n) => format!("YOUNGER {n}"),
        S::Bcc(t) => text("BCC", t),
        S::Cc(t) => text("CC", t),
        S::From(t) => text("FROM", t),
        S::To(t) => text("TO", t),
        S::Subject(t) => text("SUBJECT", t),
        S::Text(t) => text("TEXT", t),
        S::Body(t) => text("BODY", t),
        S::Header(n, t) => format!("HEADER {} {}", bytes(n.as_ref()), bytes(t.as_ref())),
        S::ModSequence { modseq, .. } => format!("MODSEQ {modseq}"),
    }
}

fn ours(verb: &Verb<'_>) -> String {
    match verb {
        Verb::Login(l) => format!("LOGIN {} {}", bytes(&l.user.bytes()), bytes(&l.password.expose().bytes())),
        Verb::Select(s) => format!("SELECT {}", our_name(&s.mailbox)),
        Verb::Examine(s) => format!("EXAMINE {}", our_name(&s.mailbox)),
        Verb::Create(c) => format!("CREATE {}", our_name(&c.mailbox)),
        Verb::Delete(m) => format!("DELETE {}", our_name(m)),
        Verb::Rename { from, to } => format!("RENAME {} {}", our_name(from), our_name(to)),
        Verb::Subscribe(m) => format!("SUBSCRIBE {}", our_name(m)),
        Verb::Unsubscribe(m) => format!("UNSUBSCRIBE {}", our_name(m)),
        Verb::List(l) => format!("LIST {} {}", our_name(&l.reference), bytes(&l.patterns[0].bytes())),
        Verb::Lsub(l) => format!("LSUB {} {}", our_name(&l.reference), bytes(&l.pattern.bytes())),
        Verb::Copy(c) => format!("COPY {} {} {}", c.uid, our_set(&c.messages), our_name(&c.mailbox)),
        Verb::Move(c) => format!("MOVE {} {} {}", c.uid, our_set(&c.messages), our_name(&c.mailbox)),
        Verb::Expunge(Some(set)) => format!("EXPUNGE {}", our_set(set)),
        Verb::Store(s) => format!(
            "STORE {} {} {:?} {} {}",
            s.uid,
            our_set(&s.messages),
            s.change,
            s.silent,
            our_flags(&s.flags)
        ),
        Verb::Fetch(f) => {
            let sections: Vec<String> = f.sections.iter().map(our_section).collect();
            format!("FETCH {} {} {} {}", f.uid, our_set(&f.messages), f.items.0, sections.join(", "))
        }
        Verb::Search(s) => format!("SEARCH {} {}", s.uid, our_key(&mut s.keys.iter())),
        Verb::Sort(s) => format!("SORT {} {} {}", s.uid, s.by.len(), our_key(&mut s.keys.iter())),
        Verb::Thread(t) => format!("THREAD {} {}", t.uid, our_key(&mut t.keys.iter())),
        Verb::GetQuota(root) => format!("GETQUOTA {}", bytes(&root.bytes())),
        Verb::GetQuotaRoot(m) => format!("GETQUOTAROOT {}", our_name(m)),
        Verb::SetQuota(q) => format!("SETQUOTA {} {}", bytes(&q.root.bytes()), q.limits.len()),
        Verb::Status(s) => format!("STATUS {}", our_name(&s.mailbox)),
        Verb::Id(id) => format!("ID {}", id.pairs().count()),
        other => format!("{other:?}").split(['(', ' ']).next().unwrap().to_ascii_uppercase(),
    }
}

fn theirs(body: &CommandBody<'_>) -> String {
    use CommandBody as C;
    match body {
        C::Login { username, password } => {
            format!("LOGIN {} {}", bytes(username.as_ref()), bytes(password.declassify().as_ref()))
        }
        C::Select { mailbox, .. } => format!("SELECT {}", their_name(mailbox)),
        C::Examine { mailbox, .. } => format!("EXAMINE {}", their_name(mailbox)),
        C::Create { mailbox } => format!("CREATE {}", their_name(mailbox)),
        C::Delete { mailbox } => format!("DELETE {}", their_name(mailbox)),
        C::Rename { from, to } => format!("RENAME {} {}", their_name(from), their_name(to)),
        C::Subscribe { mailbox } => format!("SUBSCRIBE {}", their_name(mailbox)),
        C::Unsubscribe { mailbox } => format!("UNSUBSCRIBE {}", their_name(mailbox)),
        C::List { reference, mailbox_wildcard } => {
            format!("LIST {} {}", their_name(reference), their_pattern(mailbox_wildcard))
        }
        C::Lsub { reference, mailbox_wildcard } => {
            format!("LSUB {} {}", their_name(reference), their_pattern(mailbox_wildcard))
        }
        C::Copy { sequence_set, mailbox, uid } => {
            format!("COPY {uid} {} {}", their_set(sequence_set), their_name(mailbox))
        }
        C::Move { sequence_set, mailbox, uid } => {
            format!("MOVE {uid} {} {}", their_set(sequence_set), their_name(mailbox))
        }
        C::ExpungeUid { sequence_set } => format!("EXPUNGE {}", their_set(sequence_set)),
        C::Store { sequence_set, kind, response, flags, uid, .. } => {
            let change = match kind {
                StoreType::Add => Change::Add,
                StoreType::Remove => Change::Remove,
                StoreType::Replace => Change::Replace,
            };
            let silent = *response == StoreResponse::Silent;
            format!("STORE {uid} {} {change:?} {silent} {}", their_set(sequence_set), their_flags(flags))
        }
        C::Fetch { sequence_set, macro_or_item_names, uid, .. } => {
            let names = match macro_or_item_names {
                MacroOrMessageDataItemNames::Macro(m) => m.expand(),
                MacroOrMessageDataItemNames::MessageDataItemNames(names) => names.clone(),
            };
            let mut items = 0;
            let sections: Vec<String> = names.iter().filter_map(|n| their_item(n, &mut items)).collect();
            format!("FETCH {uid} {} {items} {}", their_set(sequence_set), sections.join(", "))
        }
        C::Search { criteria, uid, .. } => format!("SEARCH {uid} {}", their_list(criteria.as_ref())),
        C::Sort { sort_criteria, search_criteria, uid, .. } => {
            format!("SORT {uid} {} {}", sort_criteria.as_ref().len(), their_list(search_criteria.as_ref()))
        }
        C::Thread { search_criteria, uid, .. } => {
            format!("THREAD {uid} {}", their_list(search_criteria.as_ref()))
        }
        C::GetQuota { root } => format!("GETQUOTA {}", bytes(root.as_ref())),
        C::GetQuotaRoot { mailbox } => format!("GETQUOTAROOT {}", their_name(mailbox)),
        C::SetQuota { root, quotas } => format!("SETQUOTA {} {}", bytes(root.as_ref()), quotas.len()),
        C::Status { mailbox, .. } => format!("STATUS {}", their_name(mailbox)),
        C::Id { parameters } => format!("ID {}", parameters.as_ref().map_or(0, Vec::len)),
        other => other.name().to_ascii_uppercase(),
    }
}

fn their_pattern(pattern: &imap_codec::imap_types::mailbox::ListMailbox<'_>) -> String {
    use imap_codec::imap_types::mailbox::ListMailbox;
    match pattern {
        ListMailbox::Token(t) => bytes(t.as_ref()),
        ListMailbox::String(s) => bytes(s.as_ref()),
    }
}

/// What both read; `None` for a refusal.
fn both(text: &str) -> (Option<String>, Option<String>) {
    let our = parse(text.as_bytes()).ok().map(|c| ours(&c.verb));
    let wire = format!("{text}\r\n");
    let their = CommandCodec::default().decode(wire.as_bytes()).ok();
    let their = their.filter(|(rest, _)| rest.is_empty()).map(|(_, command)| theirs(&command.body));
    (our, their)
}

/// Commands that both read.
const GOOD: &[&str] = &[
    "a CAPABILITY",
    "a NOOP",
    "a LOGOUT",
    "a STARTTLS",
    "a IDLE",
    "a CHECK",
    "a CLOSE",
    "a UNSELECT",
    "a EXPUNGE",
    "a NAMESPACE",
    "a LOGIN x \"y z\"",
    "a login {3}\r\nx\"y {2+}\r\n\\]",
    "a LOGIN \"a\\\"\\\\\" \"\"",
    "a SELECT inbox",
    "a EXAMINE \"a b\"",
    "a SELECT x (CONDSTORE)",
    "a SELECT x (QRESYNC (1 2 3:4 (1 5)))",
    "a CREATE x",
    "a DELETE x]",
    "a RENAME x {1}\r\ny",
    "a SUBSCRIBE INBOX",
    "a UNSUBSCRIBE &AOQ-",
    "a LIST \"\" *",
    "a LIST x/ \"%\"",
    "a LSUB \"\" {2}\r\na*",
    "a STATUS x (MESSAGES UIDNEXT SIZE)",
    "a COPY 1:3,5 x",
    "a UID MOVE 7:*,2 INBOX",
    "a UID EXPUNGE 4",
    "a STORE 1 FLAGS ()",
    "a UID STORE *:4 +FLAGS.SILENT (\\Seen $x \\Deleted)",
    "a STORE 1 -FLAGS a b",
    "a FETCH 1 ALL",
    "a FETCH 1 (UID FLAGS)",
    "a FETCH 1 BODY",
    "a UID FETCH 1:* (FLAGS BODY.PEEK[1.2.HEADER.FIELDS (A \"b c\")]<0.5>)",
    "a FETCH 1 (BODY[] BODY[1] BODY[1.MIME] BODY[TEXT] BODY[HEADER] BODY[2.3.TEXT] RFC822 \
    RFC822.HEADER RFC822.TEXT)",
    "a FETCH 1 (BINARY[1.2] BINARY.PEEK[]<3.4> BINARY.SIZE[5])",
    "a FETCH 1 (FLAGS MODSEQ) (CHANGEDSINCE 5)",
    "a SEARCH ALL",
    "a UID SEARCH CHARSET UTF-8 OR SEEN (NOT DELETED 1:3) SUBJECT {3}\r\na b",
    "a SEARCH BEFORE 1-Feb-2026 SENTON \"28-Feb-2024\" LARGER 5 KEYWORD x UID 1,3,2 HEADER a \"\"",
    "a SEARCH OLDER 5 YOUNGER 6 MODSEQ 7",
    "a SORT (REVERSE DATE SIZE) UTF-8 ALL",
    "a THREAD REFERENCES UTF-8 SEEN",
    "a GETQUOTA \"\"",
    "a GETQUOTAROOT INBOX",
    "a SETQUOTA \"\" (STORAGE 5)",
    "a ID NIL",
    "a ID (\"a\" NIL \"b\" \"c\")",
    "a COMPRESS DEFLATE",
    "a ENABLE CONDSTORE",
];

#[test]
fn commands_are_read_the_same_way() {
    for text in GOOD {
        let (our, their) = both(text);
        assert!(our.is_some(), "{text}");
        assert_eq!(our, their, "{text}");
    }
}

#[test]
fn refusals_are_the_same() {
    let mut found = Vec::new();
    for text in [
        "",
        "a",
        "a ",
        "a FOO",
        "a NOOP x",
        "a LOGIN x",
        "a LOGIN x y z",
        "a SELECT",
        "a SELECT (",
        "a STATUS x",
        "a STORE 1",
        "a STORE x FLAGS ()",
        "a STORE 0 FLAGS ()",
        "a FETCH 1",
        "a FETCH 1 FOO",
        "a FETCH 1 BODY[MIME]",
        "a FETCH 1 BODY[0]",
        "a FETCH 1 BODY[]<1>",
        "a FETCH 1 BODY[HEADER.FIELDS ()]",
        "a SEARCH",
        "a SEARCH NOT",
        "a SEARCH OR ALL",
        "a SEARCH ()",
        "a SEARCH (ALL",
        "a SEARCH ALL)",
        "a SEARCH SINCE x",
        "a SEARCH LARGER",
        "a SORT () UTF-8 ALL",
        "a THREAD REFERENCES ALL",
        "a COPY 1",
        "a UID EXPUNGE",
        "a LIST \"\"",
        "a LIST \"\" ()",
        "a ID",
        "a ID (a b)",
        "a COMPRESS FOO",
        "a SELECT \"a\rb\"",
        "a LOGIN \"\\x\" y",
        "a 1:2",
        "(a NOOP",
        "+ NOOP",
        "a LOGIN {2}\r\na",
        "a FETCH 4294967296 ALL",
        "a FETCH 1, ALL",
        "a FETCH 1: ALL",
    ] {
        let (our, their) = both(text);
        if (&our, &their) != (&None, &None) {
            found.push(format!("{text:?}\n  {our:?}\n  {their:?}"));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn atoms() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "x",
        "INBOX",
        "\"a b\"",
        "{3}\r\n)\"(",
        "a]b",
        "\"\\\"q\\\\\"",
        "NIL",
        "{0}\r\n",
        "\"\"",
        "a+b",
    ])
    .prop_map(str::to_string)
}

fn sets() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["1", "*", "1:3", "5,1:2", "7:*", "*:3,9", "4294967295"])
        .prop_map(str::to_string)
}

fn keys() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        prop::sample::select(vec![
            "ALL",
            "SEEN",
            "UNSEEN",
            "NEW",
            "OLD",
            "ON 1-Jan-2020",
            "SENTSINCE 29-Feb-2024"
        ])
        .prop_map(str::to_string),
        sets(),
        sets().prop_map(|s| format!("UID {s}")),
        atoms().prop_map(|a| format!("SUBJECT {a}")),
        (atoms(), atoms()).prop_map(|(a, b)| format!("HEADER {a} {b}")),
        (1u32..99).prop_map(|n| format!("LARGER {n}")),
    ];
    leaf.prop_recursive(4, 20, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|k| format!("NOT {k}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("OR {a} {b}")),
            prop::collection::vec(inner, 1..4).prop_map(|l| format!("({})", l.join(" "))),
        ]
    })
}

fn items() -> impl Strategy<Value = String> {
    let item = prop_oneof![
        prop::sample::select(vec![
            "FLAGS",
            "UID",
            "ENVELOPE",
            "RFC822.SIZE",
            "BODY",
            "BODYSTRUCTURE",
            "INTERNALDATE",
            "RFC822",
            "BODY[]",
            "BODY.PEEK[1.2]<5.6>",
            "BODY[HEADER]",
            "BODY[3.TEXT]",
            "BODY.PEEK[1.MIME]",
            "BINARY[1]",
            "BINARY.SIZE[2.3]",
        ])
        .prop_map(str::to_string),
        (atoms(), atoms()).prop_map(|(a, b)| format!("BODY[HEADER.FIELDS ({a} {b})]")),
        atoms().prop_map(|a| format!("BODY.PEEK[4.HEADER.FIELDS.NOT ({a})]<0.1>")),
    ];
    prop::collection::vec(item, 1..5).prop_map(|l| format!("({})", l.join(" ")))
}

fn commands() -> impl Strategy<Value = String> {
    let verb = prop_oneof![
        (atoms(), atoms()).prop_map(|(a, b)| format!("LOGIN {a} {b}")),
        (prop::sample::select(vec!["SELECT", "EXAMINE", "CREATE", "DELETE", "SUBSCRIBE"]), atoms())
            .prop_map(|(v, a)| format!("{v} {a}")),
        (atoms(), atoms()).prop_map(|(a, b)| format!("RENAME {a} {b}")),
        (atoms(), atoms()).prop_map(|(a, b)| format!("LIST {a} {b}")),
        (any::<bool>(), sets(), atoms())
            .prop_map(|(u, s, a)| format!("{}COPY {s} {a}", if u { "UID " } else { "" })),
        (any::<bool>(), sets(), items())
            .prop_map(|(u, s, i)| format!("{}FETCH {s} {i}", if u { "UID " } else { "" })),
        prop::collection::vec(keys(), 1..4).prop_map(|k| format!("SEARCH {}", k.join(" "))),
        keys().prop_map(|k| format!("UID SORT (DATE) UTF-8 {k}")),
        sets().prop_map(|s| format!("STORE {s} +FLAGS (\\Seen x y)")),
    ];
    verb.prop_map(|v| format!("A1 {v}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn good_commands_are_read_the_same_way(text in commands()) {
        let (our, their) = both(&text);
        prop_assert!(our.is_some(), "{}", text);
        prop_assert_eq!(our, their, "{}", text);
    }
}

/// One byte taken away or changed, everywhere: both refuse it, or both read the same.
#[test]
fn damaged_commands_are_judged_the_same_way() {
    let mut found = Vec::new();
    let mut compared = 0;
    for text in GOOD {
        for at in 2..text.len() {
            for with in "( )\"\\*:,1a[]<>{}~%$\n-".bytes().map(Some).chain([None]) {
                let mut bytes = text.as_bytes().to_vec();
                match with {
                    Some(b) => bytes[at] = b,
                    None => drop(bytes.remove(at)),
                }
                let text = String::from_utf8(bytes).unwrap();
                let (our, their) = both(&text);
                compared += 1;
                if our != their && !is_accepted_difference(&text, our.as_deref(), their.as_deref()) {
                    found.push(format!("{text:?}\n  {our:?}\n  {their:?}"));
                }
            }
        }
    }
    assert!(found.is_empty(), "{} of {compared}:\n{}", found.len(), found.join("\n"));
}

/// The differences of the head of this file, as far as a changed byte can bring them about.
fn is_accepted_difference(text: &str, our: Option<&str>, their: Option<&str>) -> bool {
    let zeros = text.split(|c: char| !c.is_ascii_digit()).any(|n| n.len() > 1 && n.starts_with('0'));
    let extended =
        text.contains('$') || text.contains("LIST (") || text.contains(" )") || text.ends_with(' ');
    let bare = text.replace("\r\n", "").contains('\n');
    let has_charset = ["CHARSET ", "SORT ", "THREAD "].iter().any(|w| text.contains(w));
    let charset = has_charset && text.contains(']');
    let algorithm = text.contains("THREAD ") && !text.contains("THREAD REFERENCES ");
    let star = text.contains("QRESYNC (") && text.contains('*');
    let odd_flag = their.is_some_and(|t| {
        let known = |f: &str| f != "\\Recent" && System::NAMES.iter().any(|(_, n)| f.eq_ignore_ascii_case(n));
        t.split(' ').any(|word| word.starts_with('\\') && !known(word))
    });
    our.is_some() && (zeros || extended || charset || bare)
        || our.is_none() && (odd_flag || algorithm || star)
}

#[test]
fn appends_are_read_the_same_way() {
    for text in [
        "a APPEND x {3}\r\n",
        "a APPEND INBOX (\\Seen k) {3}\r\n",
        "a APPEND x \" 1-Feb-2026 01:02:03 +0100\" {3+}\r\n",
        "a APPEND {1}\r\nx (\\Draft) \"11-Feb-2026 01:02:03 -0130\" ~{3}\r\n",
    ] {
        let Verb::Append(ours) = parse(text.as_bytes()).unwrap().verb else { panic!("{text}") };
        let wire = format!("{text}abc\r\n");
        let (_, command) =
            CommandCodec::default().decode(wire.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e:?}"));
        let CommandBody::Append { mailbox, flags, date, message } = command.body else { panic!("{text}") };
        assert_eq!(our_name(&ours.mailbox), their_name(&mailbox), "{text}");
        assert_eq!(our_flags(&ours.message.flags), their_flags(&flags), "{text}");
        assert_eq!(ours.message.date.map(|d| d.seconds), date.map(|d| d.as_ref().timestamp()), "{text}");
        assert_eq!(ours.message.binary, matches!(message, LiteralOrLiteral8::Literal8(_)), "{text}");
    }
}

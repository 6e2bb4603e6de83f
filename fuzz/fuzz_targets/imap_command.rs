//! Any IMAP command: no panic; what is read is within bounds; searches judge; strings are read back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringpost::imap::encode::{self, Wire};
use ringpost::imap::parse::{self, TAG_MAX, Verb};
use ringpost::imap::search::{Context, Known, Program, Verdict};
use ringpost::imap::set::SeqSet;

fuzz_target!(|text: &[u8]| {
    assert!(parse::tag(text).len() <= TAG_MAX);
    let _ = parse::append::next(text, text.len() % 2 == 0);
    let command = match parse::parse(text) {
        Ok(command) => command,
        Err(bad) => {
            assert!(bad.at <= text.len(), "the error is within the text");
            assert!(bad.to_string().is_ascii());
            return;
        }
    };
    assert_eq!(command.tag, parse::tag(text));
    match &command.verb {
        Verb::Search(s) => keys(&s.keys),
        Verb::Sort(s) => keys(&s.keys),
        Verb::Thread(t) => keys(&t.keys),
        Verb::Fetch(f) => {
            for section in &f.sections {
                let mut out = Vec::new();
                let mut fetch = encode::fetch::Fetch::begin(&mut out, 1);
                fetch.no_section(section);
                fetch.end();
                assert!(out.ends_with(b" NIL)\r\n"));
            }
        }
        Verb::Store(s) => assert_eq!(s.flags.keywords().count(), s.flags.keyword_count()),
        Verb::Select(s) => string(&s.mailbox.bytes()),
        _ => {}
    }
});

/// The program of any keys judges any message, and never needs more steps than there are.
fn keys(keys: &[parse::search::Key<'_>]) {
    let saved = SeqSet::of(1, 5);
    let context = Context {
        exists: 10,
        uid_max: 100,
        saved: &saved,
        now: 1_800_000_000,
        keyword: &|name| Some(name.len() as u32 % 64),
    };
    let Ok(program) = Program::new(keys, None, &context) else { return };
    let mut run = std::rc::Rc::new(program).run();
    let mut verdict = run.begin(&Known { seq: 3, uid: 30, size: 1000, ..Known::default() });
    if verdict == Verdict::Header {
        verdict = run.header(b"Subject: =?utf-8?q?a?= b\r\nDate: 1 Jan 2020 00:00 +0000\r\nTo: c\r\n\r\n");
        assert_ne!(verdict, Verdict::Header);
    }
    if verdict == Verdict::Body {
        run.part(Some(b"utf-8"));
        if run.body(b"some text", true) == Verdict::Body {
            run.end();
        }
    }
}

/// What is written as a string is read back.
fn string(text: &[u8]) {
    for wire in [Wire::Ascii, Wire::Utf8] {
        let mut out = b"a SELECT ".to_vec();
        encode::astring(&mut out, text, wire);
        match parse::parse(&out).expect("a command").verb {
            Verb::Select(s) => assert_eq!(&*s.mailbox.bytes(), text),
            other => panic!("{other:?}"),
        }
    }
}

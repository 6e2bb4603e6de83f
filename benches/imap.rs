//! IMAP: nanoseconds per command, with the other parser beside it; framing, sets, search, threads.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use imap_codec::CommandCodec;
use imap_codec::decode::Decoder;
use ringpost::imap::encode::fetch::Fetch;
use ringpost::imap::line::{Frame, Framer, Limits};
use ringpost::imap::parse::date::DateTime;
use ringpost::imap::parse::flags::System;
use ringpost::imap::parse::{self, Verb};
use ringpost::imap::search::{Context, Known, Program};
use ringpost::imap::set::SeqSet;
use ringpost::imap::thread;
use std::hint::black_box;

const COMMANDS: [(&str, &str); 10] = [
    ("noop", "A001 NOOP"),
    ("login", "A001 LOGIN fred \"secret word\""),
    ("select", "A001 SELECT \"INBOX\" (CONDSTORE)"),
    ("fetch_flags", "A001 UID FETCH 1:* (FLAGS)"),
    (
        "fetch_list",
        "A001 UID FETCH 1:* (UID FLAGS RFC822.SIZE INTERNALDATE BODY.PEEK[HEADER.FIELDS (DATE FROM TO CC \
        SUBJECT \
         MESSAGE-ID REFERENCES)])",
    ),
    ("fetch_body", "A001 UID FETCH 4711 (BODY.PEEK[1.2]<0.65536>)"),
    ("store", "A001 UID STORE 17,19:23,99 +FLAGS.SILENT (\\Seen \\Deleted $Junk)"),
    (
        "search",
        "A001 UID SEARCH CHARSET UTF-8 OR (UNSEEN SINCE 1-Feb-2026) NOT FROM \"somebody\" LARGER 1000",
    ),
    ("list", "A001 LIST \"\" \"*\""),
    ("status", "A001 STATUS \"Sent Items\" (MESSAGES UIDNEXT UIDVALIDITY UNSEEN)"),
];

fn commands(c: &mut Criterion) {
    let mut group = c.benchmark_group("imap_command");
    for (name, text) in COMMANDS {
        group.bench_function(name, |b| b.iter(|| parse::parse(black_box(text.as_bytes())).is_ok()));
    }
    group.finish();
    let mut group = c.benchmark_group("imap_codec");
    for (name, text) in COMMANDS {
        let wire = format!("{text}\r\n");
        group.bench_function(name, |b| {
            b.iter(|| CommandCodec::default().decode(black_box(wire.as_bytes())).is_ok());
        });
    }
    group.finish();
}

fn framing(c: &mut Criterion) {
    let mut group = c.benchmark_group("imap_framing");
    let wire = COMMANDS.map(|(_, text)| format!("{text}\r\n")).concat();
    group.throughput(Throughput::Elements(COMMANDS.len() as u64));
    group.bench_function("ten_commands", |b| {
        b.iter(|| {
            let mut framer = Framer::new(Limits::AFTER_LOGIN);
            let (mut rest, mut count) = (black_box(wire.as_bytes()), 0);
            while let Frame::Command { used, .. } = framer.next(rest) {
                rest = &rest[used..];
                count += 1;
            }
            count
        });
    });
    let uids: Vec<String> = (0..100_000).map(|n| (n * 2 + 1).to_string()).collect();
    let set = uids.join(",");
    group.throughput(Throughput::Elements(100_000));
    group.bench_function("set_of_100000", |b| b.iter(|| SeqSet::parse(black_box(set.as_bytes())).is_ok()));
    group.finish();
}

fn responses(c: &mut Criterion) {
    let mut out = Vec::with_capacity(4096);
    c.bench_function("imap_encode/fetch", |b| {
        b.iter(|| {
            out.clear();
            let mut fetch = Fetch::begin(&mut out, black_box(4711));
            fetch.uid(123_456);
            fetch.flags(System::SEEN, [&b"$Junk"[..]]);
            fetch.internal_date(DateTime { seconds: 1_795_417_200, zone: 0 });
            fetch.size(12_345);
            fetch.mod_seq(987_654);
            fetch.end();
            out.len()
        });
    });
}

fn searching(c: &mut Criterion) {
    let Ok(parse::Command { verb: Verb::Search(search), .. }) =
        parse::parse(b"a SEARCH OR (UNSEEN SINCE 1-Feb-2026) NOT FLAGGED LARGER 1000 TEXT \"some word\"")
    else {
        panic!("a search")
    };
    let saved = SeqSet::default();
    let context = Context { exists: 9, uid_max: 9, saved: &saved, now: 0, keyword: &|_| None };
    let program = Program::new(&search.keys, None, &context).expect("a program");
    let mut run = std::rc::Rc::new(program).run();
    let known = Known { seq: 1, uid: 1, size: 5000, ..Known::default() };
    c.bench_function("imap_search/without_reading", |b| b.iter(|| run.begin(black_box(&known))));
    let body = "Lorem ipsum dolor sit amet, consectetur adipiscing elit.\r\n".repeat(1000);
    let mut group = c.benchmark_group("imap_search");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("body", |b| {
        b.iter(|| {
            run.begin(&known);
            run.header(b"Subject: x\r\n\r\n");
            run.part(Some(b"utf-8"));
            run.body(black_box(body.as_bytes()), true);
            run.end()
        });
    });
    group.finish();
    let messages: Vec<thread::Message> = (1..=10_000u32)
        .map(|i| thread::Message {
            number: i,
            date: i64::from(i),
            subject: format!("SUBJECT {}", i % 3000).into_bytes().into(),
            is_reply: i > 3000,
            id: i.to_string().into_bytes().into(),
            references: vec![
                (i / 2).to_string().into_bytes().into(),
                (i / 3).to_string().into_bytes().into(),
            ],
        })
        .collect();
    c.bench_function("imap_thread/10000", |b| b.iter(|| thread::references(black_box(&messages)).is_empty()));
}

criterion_group!(benches, commands, framing, responses, searching);
criterion_main!(benches);

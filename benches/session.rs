//! A whole session in memory: envelope and body through the state machine, nothing stored.
//!
//! Messages end in a refusal, because only storage can make the proof that acceptance needs; the work is the
//! same but for the text of the reply.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::base::time::Mono;
use ringpost::smtp::inbound::{Answer, Options, Session, Step};
use ringpost::smtp::reply::Reply;
use std::hint::black_box;
use std::rc::Rc;

const ENVELOPE: &[u8] =
    b"MAIL FROM:<sender@client.example.net> SIZE=4096\r\nRCPT TO:<recipient@server.example.org>\r\n\
    DATA\r\n";

fn options() -> Rc<Options> {
    let mut options = Options::production("mx.example");
    options.transactions_max = u32::MAX;
    Rc::new(options)
}

fn body(size: usize) -> Vec<u8> {
    let mut m = b"Date: Mon, 23 Nov 2026 07:00:00 +0000\r\nFrom: sender@client.example.net\r\n\
        To: recipient@server.example.org\r\nSubject: a message\r\n\r\n"
        .to_vec();
    while m.len() < size {
        m.extend_from_slice(&[b'x'; 72]);
        m.extend_from_slice(b"\r\n");
    }
    m.extend_from_slice(b".\r\n");
    m
}

/// Feeds one segment; gives the number of message bytes in it.
fn feed(session: &mut Session, segment: &[u8], out: &mut Vec<u8>) -> usize {
    let (mut at, mut bytes, now) = (0, 0, Mono(1));
    loop {
        let (used, step) = session.receive(now, &segment[at..], out);
        at += used;
        match step {
            Step::NeedInput => return bytes,
            Step::Ask(_) => session.answer(now, Answer::Accept, out),
            Step::Body(run) => bytes += run.len(),
            Step::EndOfMessage => session.refused(now, Reply::NO_SPACE.into(), out),
            Step::Yield => out.clear(),
            other => panic!("{other:?}"),
        }
    }
}

fn pipelined(c: &mut Criterion) {
    let mut group = c.benchmark_group("session");
    for size in [1 << 10, 4 << 10, 100 << 10] {
        let body = body(size);
        let next = [&body, ENVELOPE].concat();
        let mut out = Vec::new();
        let mut session = Session::new(options(), Mono(0));
        session.banner(Mono(0), false, &mut out);
        feed(&mut session, b"EHLO client.example.net\r\n", &mut out);
        feed(&mut session, ENVELOPE, &mut out);
        group.throughput(Throughput::Bytes(next.len() as u64));
        group.bench_with_input(BenchmarkId::new("pipelined_message", size), &next, |b, next| {
            b.iter(|| {
                out.clear();
                black_box(feed(&mut session, black_box(next), &mut out))
            });
        });
    }
    group.finish();
}

fn whole(c: &mut Criterion) {
    let (options, body) = (options(), body(1 << 10));
    let mut out = Vec::new();
    c.bench_function("session/one_message_per_connection", |b| {
        b.iter(|| {
            out.clear();
            let mut session = Session::new(options.clone(), Mono(0));
            session.banner(Mono(0), false, &mut out);
            feed(&mut session, b"EHLO client.example.net\r\n", &mut out);
            feed(&mut session, ENVELOPE, &mut out);
            feed(&mut session, &body, &mut out);
            let (_, step) = session.receive(Mono(1), b"QUIT\r\n", &mut out);
            assert_eq!(step, Step::Close);
            out.len()
        });
    });
}

criterion_group!(benches, pipelined, whole);
criterion_main!(benches);

//! What a message costs beyond its reception: looking at it while it comes in, what is left out of its
//! header, its signature, its seal; and what verifying costs, of an ordinary message and of the worst that is
//! let through. Look-ups are not in it.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mail_auth::MessageAuthenticator;
use mail_auth::common::crypto::HashAlgorithm;
use mail_auth::dkim::Canonicalization;
use mail_auth::hickory_resolver::config::{ResolverConfig, ResolverOpts};
use ringpost::authenticity::fields::{in_our_name, without};
use ringpost::authenticity::keys::{Key, generate};
use ringpost::authenticity::known::{Known, Question, Said, Text};
use ringpost::authenticity::results::Outcome;
use ringpost::authenticity::seal;
use ringpost::authenticity::sign::{self, Mail};
use ringpost::authenticity::verify::Work;
use ringpost::authenticity::watch::{Fed, Watch};
use std::hint::black_box;

const HEADER: &str = "Received: from a.example (a.example [192.0.2.1])\r\n\tby b.example with ESMTP id 1;\r\n\
    \tMon, 23 Nov 2026 07:00:00 +0000\r\nAuthentication-Results: other.example; spf=pass\r\n\
    Date: Mon, 23 Nov 2026 07:00:00 +0000\r\nFrom: sender@client.example.net\r\nTo: r@server.example.org\r\n\
    Subject: a message\r\nMessage-ID: <1@client.example.net>\r\nMIME-Version: 1.0\r\n\r\n";

fn message(size: usize) -> Vec<u8> {
    let mut m = HEADER.as_bytes().to_vec();
    while m.len() < size {
        m.extend_from_slice(&[b'x'; 72]);
        m.extend_from_slice(b"\r\n");
    }
    m
}

/// As a session does it, in pieces of a receive buffer.
fn watched(message: &[u8]) -> Watch {
    let mut watch = Watch::default();
    for piece in message.chunks(32 << 10) {
        match watch.feed(piece) {
            Fed::Header => {}
            Fed::Body => watch.hash(piece),
            Fed::Ended(from) => {
                watch.want_for_signatures();
                watch.want(Canonicalization::Relaxed, HashAlgorithm::Sha256);
                watch.hash(&piece[from..]);
            }
        }
    }
    watch
}

fn look(c: &mut Criterion) {
    let mut group = c.benchmark_group("look");
    for size in [4 << 10, 100 << 10, 1 << 20] {
        let message = message(size);
        group.throughput(Throughput::Bytes(message.len() as u64));
        let id = BenchmarkId::from_parameter(size);
        group.bench_with_input(id, &message, |b, m| b.iter(|| black_box(watched(black_box(m)).sums())));
    }
    group.finish();
    c.bench_function("leave_out", |b| {
        b.iter(|| {
            let ranges = in_our_name(black_box(HEADER.as_bytes()), "mx.example");
            without(HEADER.as_bytes(), &ranges).map(<[u8]>::len).sum::<usize>()
        });
    });
}

fn signatures(c: &mut Criterion) {
    let mut group = c.benchmark_group("sign");
    for (name, bits) in [("ed25519", None), ("rsa2048", Some(2048)), ("rsa4096", Some(4096))] {
        let pem = generate(bits).expect("a key");
        let key = Key::parse("client.example.net", "s", pem.as_bytes()).expect("a key");
        let mail = Mail { front: b"", header: HEADER.as_bytes(), body: &[7; 32], now: 1_795_417_200 };
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut out = Vec::new();
                assert!(sign::put(&mut out, &key, &mail));
                out
            });
        });
        // A first set, and one behind another.
        let said = b" mx.example; spf=pass\r\n";
        let first = seal::set(&key, &mail, said, Outcome::None).1;
        let sealed = [&first[..], HEADER.as_bytes()].concat();
        for (sets, header, found) in [(1, HEADER.as_bytes(), Outcome::None), (2, &sealed[..], Outcome::Pass)]
        {
            let mail = Mail { header, ..mail };
            group.bench_function(format!("seal_{name}_{sets}"), |b| {
                b.iter(|| seal::set(&key, &mail, said, found));
            });
        }
    }
    group.finish();
}

/// Names that a signature covers: as many as are let through, none of them there.
const NAMES: usize = 200;

/// `header` with `count` signatures of `key` in front.
fn signed(key: &Key, header: &str, count: usize) -> String {
    let mut all = header.to_owned();
    for _ in 0..count {
        let mail = Mail { front: b"", header: header.as_bytes(), body: &[7; 32], now: 1_795_417_200 };
        let mut out = Vec::new();
        assert!(sign::put(&mut out, key, &mail));
        all.insert_str(0, std::str::from_utf8(&out).expect("ASCII"));
    }
    all
}

/// The same with names that no field has: none of them holds, and each is looked for in vain.
fn stretched(signed: &str) -> String {
    let names: String = (0..NAMES - 20).map(|n| format!(":x-{n}")).collect();
    signed.replace("h=", &format!("h=x{names}:"))
}

fn verify(c: &mut Criterion) {
    let nobody = ResolverConfig::from_name_servers(Vec::new());
    let engine = MessageAuthenticator::new(nobody, ResolverOpts::default()).expect("no servers");
    let long = HEADER.trim_end().to_owned() + "\r\n" + &"a:b\r\n".repeat(40_000) + "\r\n";
    let mut group = c.benchmark_group("verify");
    for (kind, bits) in [("ed25519", None), ("rsa2048", Some(2048)), ("rsa4096", Some(4096))] {
        let pem = generate(bits).expect("a key");
        let key = Key::parse("client.example.net", "s", pem.as_bytes()).expect("a key");
        let mut known = Known::default();
        let text: Box<[u8]> = key.record().into_bytes().into();
        known.learn(Question::Text(Text::Key, key.name().into()), Said::of_texts(Text::Key, &[text]));
        for (name, header) in [
            ("1", signed(&key, HEADER, 1)),
            ("10", signed(&key, HEADER, 10)),
            ("10_of_200_names", stretched(&signed(&key, HEADER, 10))),
            ("10_over_40000_fields", signed(&key, &long, 10)),
            ("10_of_200_names_over_40000_fields", stretched(&signed(&key, &long, 10))),
        ] {
            let sums = vec![(Canonicalization::Relaxed, HashAlgorithm::Sha256, 0, vec![7; 32])];
            let work = || Work::new(header.as_bytes(), sums.clone());
            println!("{kind}/{name} weighs {} us", work().weight(true, true) / 1000);
            group.bench_function(format!("{kind}/{name}"), |b| {
                b.iter(|| work().all(&engine, &known, true, true).signatures.len());
            });
            if bits.is_none() {
                group.bench_function(format!("parse/{name}"), |b| b.iter(|| work().signatures()));
            }
        }
    }
    group.finish();
}

criterion_group!(benches, look, signatures, verify);
criterion_main!(benches);

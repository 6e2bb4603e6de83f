//! What a message costs beyond its reception: looking at it while it comes in, what is left out of its
//! header, its signature, its seal. Look-ups and the verification of signatures are not in it.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mail_auth::common::crypto::HashAlgorithm;
use mail_auth::dkim::Canonicalization;
use ringpost::authenticity::fields::{in_our_name, without};
use ringpost::authenticity::keys::{Key, generate};
use ringpost::authenticity::results::Outcome;
use ringpost::authenticity::seal;
use ringpost::authenticity::sign::{self, Mail};
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

criterion_group!(benches, look, signatures);
criterion_main!(benches);

//! Nanoseconds per command line; gigabytes per second of message data.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::base::scan;
use ringpost::base::time::Wall;
use ringpost::message::mime::{Scanner, Summary};
use ringpost::message::{date, headers, received};
use ringpost::smtp::command;
use ringpost::smtp::data::{Body, Piece};
use ringpost::smtp::inbound::Options;
use std::hint::black_box;

fn commands(c: &mut Criterion) {
    let mut group = c.benchmark_group("command");
    for (name, line) in [
        ("ehlo", &b"EHLO client.example.net"[..]),
        ("mail", b"MAIL FROM:<sender@client.example.net>"),
        ("mail_parameters", b"MAIL FROM:<sender@client.example.net> SIZE=4096 BODY=8BITMIME"),
        ("rcpt", b"RCPT TO:<recipient@server.example.org>"),
        ("rcpt_dsn", b"RCPT TO:<recipient@server.example.org> NOTIFY=NEVER ORCPT=rfc822;a@b.example"),
        ("data", b"DATA"),
        ("unknown", b"XYZZY plugh"),
    ] {
        group.bench_function(name, |b| b.iter(|| black_box(command::parse(black_box(line)))));
    }
    group.finish();
}

/// A message of `size` bytes with a usual header and lines of 72 bytes, ended by CRLF.CRLF.
fn message(size: usize) -> Vec<u8> {
    let mut m = b"Received: from a.example (a.example [192.0.2.1])\r\n\tby b.example with ESMTP id 1;\r\n\
        \tMon, 23 Nov 2026 07:00:00 +0000\r\nDate: Mon, 23 Nov 2026 07:00:00 +0000\r\n\
        From: sender@client.example.net\r\nTo: recipient@server.example.org\r\nSubject: a message\r\n\
        Message-ID: <1@client.example.net>\r\n\r\n"
        .to_vec();
    while m.len() < size {
        m.extend_from_slice(&[b'x'; 72][..72.min((size - m.len()).max(2))]);
        m.extend_from_slice(b"\r\n");
    }
    m.extend_from_slice(b".\r\n");
    m
}

fn scan_data(wire: &[u8]) -> u64 {
    let mut body = Body::new(Options::production("mx.example").message);
    let mut at = 0;
    loop {
        let (used, piece) = body.data(&wire[at..]);
        at += used;
        match piece {
            Piece::End => return body.facts().len,
            Piece::More => panic!("the message has an end"),
            Piece::Run(_) | Piece::Insert(_) => {}
        }
    }
}

fn data(c: &mut Criterion) {
    let mut group = c.benchmark_group("data");
    for size in [1 << 10, 4 << 10, 100 << 10, 1 << 20] {
        let wire = message(size);
        group.throughput(Throughput::Bytes(wire.len() as u64));
        group.bench_with_input(BenchmarkId::new("scan", size), &wire, |b, wire| {
            b.iter(|| scan_data(black_box(wire)))
        });
    }
    let dots = [b"..\r\n".repeat(1024).as_slice(), b".\r\n"].concat();
    group.throughput(Throughput::Bytes(dots.len() as u64));
    group.bench_function("all_dot_lines", |b| b.iter(|| scan_data(black_box(&dots))));
    let wire = message(4 << 10);
    group.throughput(Throughput::Bytes(wire.len() as u64));
    group.bench_function("marks_only", |b| {
        b.iter(|| {
            let blocks = black_box(&wire).as_chunks::<64>().0;
            blocks.iter().map(scan::marks).fold(0, |n, m| n + (m.cr & m.lf >> 1).count_ones())
        });
    });
    group.bench_function("plain_only", |b| b.iter(|| scan::plain(black_box(&wire), 1)));
    let eight_bit: Vec<u8> = wire.iter().map(|b| if *b == b'x' { 0xc3 } else { *b }).collect();
    group.bench_function("eight_bit", |b| b.iter(|| scan_data(black_box(&eight_bit))));
    group.finish();
}

fn trace(c: &mut Criterion) {
    let wire = message(4 << 10);
    c.bench_function("header/scan", |b| {
        b.iter(|| {
            let mut scan = headers::HeaderScan::default();
            scan.feed(black_box(&wire));
            scan.fields()
        });
    });
    let (mut out, mut cache) = (Vec::new(), date::DateCache::default());
    c.bench_function("header/received", |b| {
        b.iter(|| {
            out.clear();
            let trace = received::Trace {
                helo: black_box(b"client.example.net"),
                client: "192.0.2.1".parse().expect("an address"),
                name: None,
                hidden: false,
                host: "mx1.example.net",
                protocol: "ESMTP",
                id: b"0BCD00000000F0",
                security: None,
                recipient: Some(b"recipient@server.example.org"),
                date: cache.at(Wall(1_795_417_200_000)),
            };
            received::put(&mut out, &trace);
            out.len()
        });
    });
}

/// What a delivery pays for ENVELOPE, BODYSTRUCTURE and preview, and what FETCH pays to read them.
fn summary(c: &mut Criterion) {
    let mut group = c.benchmark_group("summary");
    let scan = |message: &[u8], out: &mut Vec<u8>| {
        out.clear();
        let mut scanner = Scanner::new();
        scanner.feed(message);
        scanner.finish(out);
    };
    let mut out = Vec::new();
    for size in [4 << 10, 1 << 20] {
        let plain = message(size);
        let parts = [
            &b"Subject: two\r\nContent-Type: multipart/mixed; boundary=\"=_1\"\r\n\r\n\
               --=_1\r\n\r\ntext\r\n--=_1\r\n\
               Content-Type: application/pdf; name=x.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n"[..],
            &plain[..],
            b"\r\n--=_1--\r\n",
        ]
        .concat();
        for (name, message) in [("plain", &plain), ("parts", &parts)] {
            group.throughput(Throughput::Bytes(message.len() as u64));
            group.bench_with_input(BenchmarkId::new(name, size), message, |b, message| {
                b.iter(|| scan(black_box(message), &mut out));
            });
        }
    }
    group.bench_function("read", |b| b.iter(|| Summary::read(black_box(&out)).map(|s| s.parts().count())));
    group.finish();
}

criterion_group!(benches, commands, data, trace, summary);
criterion_main!(benches);

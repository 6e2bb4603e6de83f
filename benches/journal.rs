//! What does the journal itself cost per message, without a disk?
//!
//! A message of 4 KiB is staged (one copy, its CRC), its batch sealed (CRC over the batch) and
//! "written" by one more copy into memory, released, and later freed by an outcome record. The
//! target is 0.3 us for staging; the figure to compare with is `floor`: the same bytes copied twice
//! and summed twice, nothing else.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]
#![allow(missing_docs, reason = "criterion's macros make public items")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::base::crc::{PLAIN, crc32c};
use ringpost::storage::group::Staged;
use ringpost::storage::model::Model;
use ringpost::storage::{Location, Options, RecordHead, Urgency};
use std::hint::black_box;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

const BODY: usize = 4096;

struct Bench {
    model: Model,
    staged: Vec<Staged>,
    places: Vec<Location>,
    body: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let model = Model::open(&Options::production(8 << 20), Vec::new(), 1, |_| {}).expect("a new log");
        Bench { model, staged: Vec::new(), places: Vec::new(), body: vec![b'x'; BODY] }
    }

    /// `n` messages in, in one batch; then the outcomes of the `n` before.
    fn round(&mut self, n: usize) {
        let (envelope, body) = self.body.split_at(200);
        for i in 0..n {
            let head = RecordHead { kind: 1, version: 1, flags: 0, id: i as u64 };
            let journal = &mut self.model.journal;
            let staged = journal.stage(head, &[envelope, body], None, Urgency::NewMail);
            self.staged.push(staged.expect("space is freed as it is used"));
        }
        for at in self.places.drain(..) {
            let head = RecordHead { kind: 2, version: 1, flags: 0, id: 1 };
            let outcome = self.model.journal.stage(head, &[&[0; 24]], Some(at), Urgency::Outcome);
            drop(outcome.expect("outcomes always fit"));
        }
        self.model.settle();
        for mut staged in self.staged.drain(..) {
            if let Poll::Ready(Ok(durable)) = staged.poll(Waker::noop()) {
                self.places.push(durable.location);
                let _ = black_box(durable.ticket);
            }
        }
        assert_eq!(self.places.len(), n);
    }
}

fn journal(c: &mut Criterion) {
    let mut group = c.benchmark_group("journal");
    for n in [1, 16, 128] {
        group.throughput(Throughput::Elements(n as u64));
        let mut bench = Bench::new();
        group.bench_function(format!("message and outcome, {n} per commit"), |b| {
            b.iter(|| bench.round(n));
        });
    }
    group.throughput(Throughput::Elements(128));
    group.bench_function("stage only", |b| {
        let head = RecordHead { kind: 1, version: 1, flags: 0, id: 1 };
        let body = vec![b'x'; BODY];
        let mut model = Model::open(&Options::production(8 << 20), Vec::new(), 1, |_| {}).expect("new");
        b.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            for _ in 0..rounds {
                let began = Instant::now();
                for _ in 0..128 {
                    let staged = model.journal.stage(head, &[black_box(&body)], None, Urgency::Outcome);
                    drop(staged.expect("outcomes always fit"));
                }
                took += began.elapsed();
                model.settle();
            }
            took
        });
    });
    group.bench_function("floor", |b| {
        let body = vec![b'x'; BODY];
        let (mut one, mut two) = (vec![0u8; 128 * BODY], vec![0u8; 128 * BODY]);
        b.iter(|| {
            for to in one.chunks_exact_mut(BODY) {
                to.copy_from_slice(&body);
                black_box(crc32c(PLAIN, &[to]));
            }
            black_box(crc32c(PLAIN, &[&one]));
            two.copy_from_slice(&one);
            black_box(&two);
        });
    });
    group.finish();
}

criterion_group!(benches, journal);
criterion_main!(benches);

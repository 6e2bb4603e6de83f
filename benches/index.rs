//! What does the table behind the index cost, in the use it is made for?
//!
//!     cargo bench --bench index -- [ROWS] [BYTES OF A VALUE] [DIRECTORY]
//!
//! Rows of a 9-byte key and a value (default 1,000,000 and 24, in the target directory) are put in
//! transactions of 50,000, a fifth of them replaced at random in transactions of 5,000, read at
//! random and in order, the file copied, opened with a cold cache as after a crash, and half of the
//! rows deleted in order. Each line: time, processor time, bytes written to the disk, what the file
//! takes, resident memory. Dropping the page cache needs root; without, "cold" is not.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

use ringpost::runtime::uring::{self, Uring, process_cpu};
use ringpost::runtime::{Changes, Disk, ScanLimit, Table, TableOptions};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FILL: u64 = 50_000;
const CHANGE: u64 = 5_000;
const PAGE: ScanLimit = ScanLimit { rows: 10_000, bytes: 1 << 20 };

type Handle = <Uring as Disk>::Table;

/// SplitMix64: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn value(&mut self, out: &mut [u8]) {
        for eight in out.chunks_mut(8) {
            eight.copy_from_slice(&self.next().to_le_bytes()[..eight.len()]);
        }
    }
}

fn key(n: u64) -> [u8; 9] {
    let mut key = [b'm'; 9];
    key[1..].copy_from_slice(&n.to_be_bytes());
    key
}

/// The number behind `name` in a file of /proc.
fn number(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).expect("proc is mounted");
    let line = text.lines().find_map(|l| l.strip_prefix(name)).expect("the kernel tells it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

struct Phase {
    name: &'static str,
    begun: Instant,
    cpu: Duration,
    written: u64,
}

impl Phase {
    fn begin(name: &'static str) -> Self {
        let written = number("/proc/self/io", "write_bytes:");
        Phase { name, begun: Instant::now(), cpu: process_cpu(), written }
    }

    fn end(self, operations: u64, rows: u64, bytes: u64) {
        let took = self.begun.elapsed().as_secs_f64();
        let written = number("/proc/self/io", "write_bytes:") - self.written;
        println!(
            "{:<16} {took:7.2} s  cpu {:6.2} s  {:>9.0}/s  written {:>6} MiB  file {:>5} MiB {:5.1} B/row  \
             rss {} MiB",
            self.name,
            (process_cpu() - self.cpu).as_secs_f64(),
            operations as f64 / took,
            written >> 20,
            bytes >> 20,
            bytes as f64 / rows as f64,
            number("/proc/self/status", "RssAnon:") >> 10,
        );
    }
}

async fn count(table: &Handle) -> u64 {
    let (mut after, mut rows) = (Vec::new(), 0);
    loop {
        let page = table.scan(b"m", &after, PAGE).await.expect("sound");
        let Some(last) = page.last_key() else { return rows };
        after = last.to_vec();
        rows += page.iter().filter(|(key, value)| key.len() < value.len()).count() as u64;
    }
}

fn drop_caches() {
    let synced = std::process::Command::new("sync").status().is_ok_and(|s| s.success());
    if !synced || std::fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
        println!("the page cache could not be dropped");
    }
}

/// Reads one row at a time until `done`, and says how long that took.
async fn read_beside(table: &Handle, rows: u64, done: &Cell<bool>) {
    let mut numbers = Numbers(7);
    let mut took = Vec::new();
    while !done.get() {
        let begun = Instant::now();
        let found = table.get(&key(numbers.next() % rows)).await.expect("sound");
        took.push(begun.elapsed());
        assert!(found.is_some());
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!(
        "  {} single reads beside the commits: median {:?}, 99 of 100 {:?}, longest {:?}",
        took.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

async fn change(table: &Handle, rows: u64, length: usize) {
    let mut numbers = Numbers(2);
    let mut value = vec![0; length];
    for _ in 0..rows / 5 / CHANGE {
        let mut changes = Changes::new();
        for _ in 0..CHANGE {
            numbers.value(&mut value);
            changes.put(&key(numbers.next() % rows), &value);
        }
        table.commit(changes).await.expect("a sound disk");
    }
}

async fn run(rt: Uring, path: PathBuf, rows: u64, length: usize) {
    println!("{rows} rows of 9 and {length} bytes");
    let table = rt.open_table(&path, TableOptions::default()).await.expect("a disk");
    let mut numbers = Numbers(1);
    let mut value = vec![0; length];

    let phase = Phase::begin("fill");
    for first in (0..rows).step_by(FILL as usize) {
        let mut changes = Changes::new();
        for n in first..(first + FILL).min(rows) {
            numbers.value(&mut value);
            changes.put(&key(n), &value);
        }
        table.commit(changes).await.expect("a sound disk");
    }
    phase.end(rows, rows, table.bytes());

    let phase = Phase::begin("update");
    let done = Cell::new(false);
    let changing = async {
        change(&table, rows, length).await;
        done.set(true);
    };
    tokio::join!(changing, read_beside(&table, rows, &done));
    phase.end(rows / 5, rows, table.bytes());

    let phase = Phase::begin("get by thousands");
    for _ in 0..500 {
        let keys = (0..1000).map(|_| key(numbers.next() % rows).to_vec()).collect();
        let values = table.get_many(keys).await.expect("sound");
        assert!(values.iter().all(Option::is_some));
    }
    phase.end(500_000, rows, table.bytes());

    let phase = Phase::begin("scan");
    assert_eq!(count(&table).await, rows);
    phase.end(rows, rows, table.bytes());
    reopen(&rt, table, &path, rows).await;
}

async fn reopen(rt: &Uring, table: Handle, path: &Path, rows: u64) {
    let copy = path.with_extension("copy");
    let phase = Phase::begin("copy");
    table.copy_to(&copy).await.expect("space");
    let bytes = std::fs::metadata(&copy).expect("just made").len();
    phase.end(rows, rows, bytes);
    std::fs::remove_file(&copy).expect("just made");
    table.close().await.expect("a sound disk");

    drop_caches();
    let phase = Phase::begin("open cold");
    let table = rt.open_table(path, TableOptions::default()).await.expect("sound");
    phase.end(rows, rows, table.bytes());
    drop_caches();
    let phase = Phase::begin("scan cold");
    assert_eq!(count(&table).await, rows);
    phase.end(rows, rows, table.bytes());
    table.close().await.expect("a sound disk");
    let phase = Phase::begin("open warm");
    let table = rt.open_table(path, TableOptions::default()).await.expect("sound");
    phase.end(rows, rows, table.bytes());

    let phase = Phase::begin("delete");
    for first in (0..rows / 2).step_by(CHANGE as usize) {
        let mut changes = Changes::new();
        (first..(first + CHANGE).min(rows / 2)).for_each(|n| changes.delete(&key(n)));
        table.commit(changes).await.expect("a sound disk");
    }
    phase.end(rows / 2, rows / 2, table.bytes());
    table.close().await.expect("a sound disk");
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let number = |at: usize, usual: u64| words.get(at).map_or(usual, |w| w.parse().expect("a number"));
    let (rows, length) = (number(0, 1_000_000), number(1, 24) as usize);
    let dir = words.get(2).map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")), Path::new);
    let dir = tempfile::tempdir_in(dir).expect("a directory");
    let path = dir.path().join("index");
    uring::run(&uring::Options::small(), async |rt: Uring| run(rt, path, rows, length).await)
        .expect("io_uring");
}

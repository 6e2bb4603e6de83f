//! What does a delivery into a mailbox cost, on the real ring and a real disk, and does it matter how much
//! is in it? And how long does it take to open a large one?
//!
//!     cargo bench --bench mailbox -- [MESSAGES] [TASKS] [DIRECTORY]
//!
//! Deliveries of 4 KiB by so many tasks (default 20000 and 64, in the target directory) into one mailbox,
//! in eight parts; each part's rate and CPU; then the shard is closed and opened, the mailbox selected cold
//! and warm, all its flags read, some summaries and bodies, and all of it expunged.

#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

use ringpost::mailbox::api::{Content, Incoming, Mailboxes, Reader, Refusal, Selected, Target};
use ringpost::mailbox::store::opening::Parts;
use ringpost::mailbox::store::{Options, Store};
use ringpost::mailbox::types::{AccountId, Flags, Quota, UidSet};
use ringpost::message::body::BodyFacts;
use ringpost::runtime::uring::{self, Uring, process_cpu};
use ringpost::runtime::{Clock, Runtime, yield_now};
use ringpost::storage::{self, Poison};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

const BODY: usize = 4096;
/// Parts of the filling, told one by one.
const ROUNDS: u32 = 8;
/// Operations of STORE and EXPUNGE are bounded; so many messages at a time.
const SLICE: u32 = 100_000;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let messages: u32 = arguments.next().map_or(20_000, |a| a.parse().expect("MESSAGES is a number"));
    let tasks: u32 = arguments.next().map_or(64, |a| a.parse().expect("TASKS is a number"));
    let dir = arguments.next().map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(dir).expect("a directory");
    let path = dir.path().to_owned();
    uring::run(&uring::Options::small(), async |rt: Uring| run(rt, &path, messages, tasks).await)
        .expect("io_uring");
}

async fn open(rt: &Uring, dir: &Path) -> Store<Uring> {
    let storage = storage::Options::production(64 << 20);
    let parts = Parts { rt: rt.clone(), storage, poison: Poison::new(), options: Options::default() };
    Store::open(dir, parts).await.expect("the shard opens").0
}

async fn deliver(store: &Store<Uring>, rt: &Uring, account: AccountId) {
    let bytes = [b'x'; BODY];
    loop {
        let facts = BodyFacts { len: BODY as u64, ..BodyFacts::default() };
        let content = Content::Slices(&[&bytes]);
        let message =
            Incoming { content, facts, summary: &bytes[..300], internal: rt.wall(), guid: None, uidl: b"" };
        let target = Target { account, mailbox: "", flags: Flags::default(), id: None, promised: false };
        match store.deliver(message, &[target]).await.remove(0) {
            Ok(_) => return,
            Err(Refusal::Busy | Refusal::Full) => {
                rt.sleep_until(rt.now().after(Duration::from_millis(2))).await
            }
            Err(e) => panic!("{e}"),
        }
    }
}

/// Delivers `count` messages by `tasks` tasks.
async fn fill(store: &Store<Uring>, rt: &Uring, account: AccountId, count: u32, tasks: u32) {
    let (left, running) = (Rc::new(Cell::new(count)), Rc::new(Cell::new(tasks)));
    for _ in 0..tasks {
        let (store, rt, left, running) = (store.clone(), rt.clone(), left.clone(), running.clone());
        rt.clone().spawn(async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                deliver(&store, &rt, account).await;
            }
            running.set(running.get() - 1);
        });
    }
    while running.get() > 0 {
        rt.sleep_until(rt.now().after(Duration::from_millis(1))).await;
    }
}

fn told(what: &str, count: u32, began: (Instant, Duration)) {
    let (took, cpu) = (began.0.elapsed(), process_cpu() - began.1);
    let each = |d: Duration| d.as_secs_f64() * 1e6 / f64::from(count.max(1));
    println!(
        "{what}: {count} in {:.3} s, {:.0}/s, {:.1} us CPU each",
        took.as_secs_f64(),
        1e6 / each(took),
        each(cpu)
    );
}

fn now() -> (Instant, Duration) {
    (Instant::now(), process_cpu())
}

async fn run(rt: Uring, dir: &Path, messages: u32, tasks: u32) {
    let store = open(&rt, dir).await;
    let account = store.create_account("bench", &[], Quota::default()).await.expect("new").value;
    for round in 1..=ROUNDS {
        let (count, began) = (messages / ROUNDS, now());
        fill(&store, &rt, account, count, tasks).await;
        told(&format!("deliveries, part {round}"), count, began);
    }
    let began = now();
    store.close().await;
    told("close", 1, began);
    let began = now();
    let store = open(&rt, dir).await;
    told("open", 1, began);
    read(&store, account).await;
    let began = now();
    let inbox = store.select(account, "INBOX").await.expect("there");
    let all = inbox.status().messages;
    let mut from = 1;
    while from <= all {
        let uids = UidSet::of([(from, from + SLICE - 1)]);
        inbox.expunge(&uids, false).await.expect("space");
        from += SLICE;
        yield_now().await;
    }
    told("expunge", all, began);
    drop(inbox);
    store.close().await;
}

async fn read(store: &Store<Uring>, account: AccountId) {
    let began = now();
    let inbox = store.select(account, "INBOX").await.expect("there");
    told("select, cold", 1, began);
    let began = now();
    drop(store.select(account, "INBOX").await.expect("there"));
    told("select, warm", 1, began);
    let (exists, began) = (inbox.exists(), now());
    let seen = (1..=exists).filter_map(|seq| inbox.message(seq)).filter(|m| m.flags.has(Flags::SEEN)).count();
    told("flags", exists, began);
    assert_eq!(seen, 0);
    let step = (exists / 1000).max(1) as usize;
    let uids: Vec<u32> =
        (1..=exists).step_by(step).filter_map(|seq| inbox.message(seq)).map(|m| m.uid).collect();
    let began = now();
    assert!(inbox.summaries(&uids).await.iter().all(Option::is_some));
    told("summaries", uids.len() as u32, began);
    let began = now();
    for uid in &uids {
        let mut reader = inbox.read(*uid, 0..u64::MAX).await.expect("there");
        while reader.next().await.expect("sound").is_some() {}
    }
    told("bodies", uids.len() as u32, began);
}

//! What does a delivery into a mailbox cost, on the real ring and a real disk, and does it matter how much
//! is in it, or how many shards a core has? How long does it take to open a large one, and to start with many
//! accounts, and what memory do they take?
//!
//!     cargo bench --bench mailbox -- one [MESSAGES] [TASKS] [DIRECTORY]
//!     cargo bench --bench mailbox -- large [MESSAGES] [TASKS] [DIRECTORY]
//!     cargo bench --bench mailbox -- shards [MESSAGES] [TASKS] [DIRECTORY]
//!     cargo bench --bench mailbox -- accounts [ACCOUNTS] [MESSAGES] [DIRECTORY]
//!
//! `one`: deliveries of 4 KiB by so many tasks (default 20000 and 64, in the target directory) into one
//! mailbox, in eight parts; each part's rate and CPU; then the shard is closed and opened, the mailbox
//! selected cold and warm, all its flags read, some summaries and bodies, and all of it expunged. `large`:
//! a mailbox is filled with so many messages; then rounds of deliveries into it and into an empty one, in
//! turn, so that both see the same disk. `shards`: the same deliveries into 1, 2 and 8 shards of one core.
//! `accounts`: so many accounts (default 1000) with so many messages of 1 KiB among them (default 20 each);
//! then the shard is closed and opened: how long, and how much memory.

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
    let what = arguments.next().unwrap_or_else(|| "one".to_owned());
    let number = |a: String| a.parse::<u32>().expect("a number");
    if what == "start" {
        // A process of its own: what another has freed would be used again.
        let dir = PathBuf::from(arguments.next().expect("DIRECTORY"));
        return uring::run(&uring::Options::small(), async |rt: Uring| start(rt, &dir).await)
            .expect("io_uring");
    }
    let (first, second) = (arguments.next().map(number), arguments.next().map(number));
    let dir = arguments.next().map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let dir = tempfile::tempdir_in(dir).expect("a directory");
    let path = dir.path().to_owned();
    uring::run(&uring::Options::small(), async |rt: Uring| match what.as_str() {
        "one" => run(rt, &path, first.unwrap_or(20_000), second.unwrap_or(64)).await,
        "large" => large(rt, &path, first.unwrap_or(20_000), second.unwrap_or(64)).await,
        "shards" => shards(rt, &path, first.unwrap_or(20_000), second.unwrap_or(64)).await,
        "accounts" => {
            let accounts = first.unwrap_or(1000);
            many(rt, &path, accounts, second.unwrap_or(accounts.saturating_mul(20))).await;
        }
        other => panic!("{other}: one, large, shards or accounts"),
    })
    .expect("io_uring");
}

async fn open(rt: &Uring, dir: &Path) -> Store<Uring> {
    let storage = storage::Options::production(64 << 20);
    let parts = Parts { rt: rt.clone(), storage, poison: Poison::new(), options: Options::default() };
    Store::open(dir, parts).await.expect("the shard opens").0
}

async fn deliver(store: &Store<Uring>, rt: &Uring, account: AccountId, size: usize) {
    let bytes = [b'x'; BODY];
    let bytes = &bytes[..size];
    loop {
        let facts = BodyFacts { len: size as u64, ..BodyFacts::default() };
        let pieces = [bytes];
        let content = Content::Slices(&pieces);
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

/// Delivers `count` messages of 4 KiB by `tasks` tasks.
async fn fill(store: &Store<Uring>, rt: &Uring, account: AccountId, count: u32, tasks: u32) {
    spread(&[(store.clone(), account)], rt, (count, BODY), tasks).await;
}

/// Delivers `count` messages of `size` bytes by `tasks` tasks, to one after the other.
async fn spread(to: &[(Store<Uring>, AccountId)], rt: &Uring, (count, size): (u32, usize), tasks: u32) {
    let to: Rc<[(Store<Uring>, AccountId)]> = to.into();
    let (left, running) = (Rc::new(Cell::new(count)), Rc::new(Cell::new(tasks)));
    for _ in 0..tasks {
        let (to, rt, left, running) = (to.clone(), rt.clone(), left.clone(), running.clone());
        rt.clone().spawn(async move {
            while left.get() > 0 {
                left.set(left.get() - 1);
                let (store, account) = &to[left.get() as usize % to.len()];
                deliver(store, &rt, *account, size).await;
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
    // Its files are closed with the last handle.
    drop(store);
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

/// Rounds of deliveries into each of two mailboxes, in turn.
const TURNS: u32 = 6;

async fn large(rt: Uring, dir: &Path, messages: u32, tasks: u32) {
    let store = open(&rt, dir).await;
    let full = store.create_account("full", &[], Quota::default()).await.expect("new").value;
    let empty = store.create_account("empty", &[], Quota::default()).await.expect("new").value;
    let began = now();
    fill(&store, &rt, full, messages, tasks).await;
    told("filling", messages, began);
    store.close().await;
    drop(store);
    let store = open(&rt, dir).await;
    let count = (messages / 20).clamp(2000, 50_000);
    for turn in 0..TURNS {
        for (account, name) in [(empty, "empty"), (full, "full")] {
            let began = now();
            fill(&store, &rt, account, count, tasks).await;
            told(&format!("turn {turn}, into the {name} one"), count, began);
        }
    }
    // And with a session in it.
    let session = store.select(full, "INBOX").await.expect("there");
    let began = now();
    fill(&store, &rt, full, count, tasks).await;
    told("into the full one, opened", count, began);
    drop(session);
    store.close().await;
}

async fn shards(rt: Uring, dir: &Path, messages: u32, tasks: u32) {
    for count in [1u32, 2, 8] {
        let mut to = Vec::new();
        for n in 0..count {
            let store = open(&rt, &dir.join(format!("{count}-{n}"))).await;
            let account = store.create_account("bench", &[], Quota::default()).await.expect("new").value;
            to.push((store, account));
        }
        // The first segments are being made.
        spread(&to, &rt, (messages / 10, BODY), tasks).await;
        let began = now();
        spread(&to, &rt, (messages, BODY), tasks).await;
        told(&format!("{count} shards, {tasks} tasks"), messages, began);
        for (store, _) in to {
            store.close().await;
        }
    }
}

/// Bytes of memory that the process has.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.expect("a number") * 4096
}

async fn many(rt: Uring, dir: &Path, accounts: u32, messages: u32) {
    let store = open(&rt, dir).await;
    let began = now();
    let mut to = Vec::new();
    for n in 0..accounts {
        let name = format!("user{n}@example.net");
        let made = loop {
            match store.create_account(&name, &[], Quota::default()).await {
                Ok(made) => break made.value,
                Err(Refusal::Busy | Refusal::Full) => {
                    rt.sleep_until(rt.now().after(Duration::from_millis(2))).await
                }
                Err(e) => panic!("{e}"),
            }
        };
        to.push((store.clone(), made));
    }
    told("accounts made", accounts, began);
    let began = now();
    spread(&to, &rt, (messages, 1024), 256).await;
    told("deliveries", messages, began);
    drop(to);
    let began = now();
    store.close().await;
    drop(store);
    told("close", 1, began);
    let program = std::env::current_exe().expect("a program");
    let started = std::process::Command::new(program).arg("start").arg(dir).status().expect("it runs");
    assert!(started.success());
}

/// Opens a shard that is there: how long that takes, and how much memory.
async fn start(rt: Uring, dir: &Path) {
    let (before, began) = (resident(), now());
    let store = open(&rt, dir).await;
    told("open", 1, began);
    let (more, accounts) = (resident().saturating_sub(before), store.accounts().len() as u64);
    println!(
        "memory: {} KiB more, {} bytes for each of {accounts} accounts",
        more >> 10,
        more / accounts.max(1)
    );
    let account = store.account("user0@example.net").await.expect("there");
    read(&store, account).await;
    store.close().await;
}

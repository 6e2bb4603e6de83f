//! The index of a mailbox shard on a real disk: messages that lie together are what they were after a
//! restart, in an index of an earlier version, in a copy, and when it is damaged.

#![allow(clippy::disallowed_methods, reason = "tests read and write the files of a shard")]

use ringpost::base::time::Wall;
use ringpost::mailbox::api::{Alter, Append, Content, Incoming, Mailboxes, Selected};
use ringpost::mailbox::store::opening::{Parts, Recovery};
use ringpost::mailbox::store::{Options, Store};
use ringpost::mailbox::types::{Flags, Message, Quota, UidSet};
use ringpost::message::body::BodyFacts;
use ringpost::runtime::uring::{self, Uring};
use ringpost::runtime::{Changes, Disk, Packed, ScanLimit, Table, TableOptions};
use ringpost::storage::{self, Poison};
use std::path::Path;

const ALL: ScanLimit = ScanLimit { rows: usize::MAX, bytes: usize::MAX };
/// More than are read at a time.
const MESSAGES: u32 = 8000;
const EXPUNGED: [(u32, u32); 3] = [(1, 1), (60, 130), (8000, 8000)];
/// Earlier versions had each message on its own.
const APART: TableOptions =
    TableOptions { reserve_bytes: 4 << 20, grow_bytes: 8 << 20, cache_bytes: 1 << 20, packed: None };
const TOGETHER: TableOptions = TableOptions { packed: Some(Packed { tag: b'm', key_len: 9 }), ..APART };

/// What a session sees: messages, MODSEQ, UIDNEXT.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    messages: Vec<Message>,
    highest_modseq: u64,
    uidnext: u32,
    keywords: Vec<String>,
}

fn live<T>(work: impl AsyncFnOnce(Uring) -> T) -> T {
    uring::run(&uring::Options::small(), async |rt: Uring| work(rt).await).expect("a ring")
}

async fn open(rt: &Uring, dir: &Path) -> (Store<Uring>, Recovery) {
    let options = Options { table: APART, ..Options::default() };
    let storage = storage::Options::production(1 << 20);
    let parts = Parts { rt: rt.clone(), storage, poison: Poison::new(), options };
    Store::open(dir, parts).await.expect("a shard")
}

async fn seen(store: &Store<Uring>) -> Seen {
    let account = store.account("ann").await.expect("there");
    let open = store.select(account, "INBOX").await.expect("there");
    let mut messages = Vec::new();
    open.window(1, usize::MAX, &mut messages);
    let status = open.status();
    assert_eq!((status.messages, open.exists()), (messages.len() as u32, messages.len() as u32));
    let keywords = open.keywords();
    Seen { messages, highest_modseq: status.highest_modseq, uidnext: status.uidnext, keywords }
}

/// What the shard in `dir` shows.
fn look(dir: &Path) -> (Seen, Option<u64>) {
    live(async |rt: Uring| {
        let (store, found) = open(&rt, dir).await;
        let seen = seen(&store).await;
        store.close().await;
        (seen, found.rebuilt)
    })
}

/// A shard with an account that has messages, and what is to be seen there.
fn made(dir: &Path) -> Seen {
    live(async |rt: Uring| {
        let (store, _) = open(&rt, dir).await;
        let account = store.create_account("ann", &[], Quota::default()).await.expect("free").value;
        let text = b"Subject: x\r\n\r\nx\r\n";
        let facts = BodyFacts { len: text.len() as u64, ..BodyFacts::default() };
        let pieces: [&[u8]; 1] = [text];
        let append = |n: u32| {
            let content = Content::Slices(&pieces);
            let internal = Wall(u64::from(n) * 86_400_000);
            let message = Incoming { content, facts, summary: b"s", internal, guid: None, uidl: b"" };
            let keywords: &[&str] = if n.is_multiple_of(3) { &["three"] } else { &[] };
            Append { message, flags: Flags(n as u8 % 32), keywords }
        };
        for first in (0..MESSAGES).step_by(40) {
            let some: Vec<Append<'_>> = (first..first + 40).map(append).collect();
            store.append(account, "INBOX", &some).await.expect("it fits");
        }
        let inbox = store.select(account, "INBOX").await.expect("there");
        inbox.expunge(&UidSet::of(EXPUNGED), false).await.expect("there");
        drop(inbox);
        let seen = seen(&store).await;
        assert_eq!(seen.messages.len(), 7927);
        store.close().await;
        seen
    })
}

#[test]
fn a_mailbox_is_what_it_was_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = made(dir.path());
    assert_eq!(look(dir.path()), (before, None));
    // What changes a part of what lies together.
    let changed = live(async |rt: Uring| {
        let (store, _) = open(&rt, dir.path()).await;
        let account = store.account("ann").await.expect("there");
        let inbox = store.select(account, "INBOX").await.expect("there");
        let some = UidSet::of([(50, 140), (7999, 7999)]);
        inbox.store(&some, Alter::Replace, Flags::FLAGGED, &["new"], None).await.expect("there");
        drop(inbox);
        let seen = seen(&store).await;
        store.close().await;
        seen
    });
    let found = changed.messages.iter().filter(|m| m.flags == Flags::FLAGGED && m.keywords.0 == 2).count();
    assert_eq!(found, 21, "50 to 59, 131 to 140, 7999");
    assert_eq!(look(dir.path()), (changed, None));
}

#[test]
fn an_index_of_an_earlier_version_is_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = made(dir.path());
    let index = dir.path().join("index");
    live(async |rt: Uring| {
        let table = rt.open_table(&index, TOGETHER).await.expect("an index");
        let rows = table.scan(b"", b"", ALL).await.expect("rows");
        table.close().await.expect("closed");
        std::fs::remove_file(&index).expect("there");
        let table = rt.open_table(&index, APART).await.expect("a new one");
        let mut changes = Changes::new();
        rows.iter().for_each(|(key, value)| changes.put(key, value));
        table.commit(changes).await.expect("it fits");
        assert_eq!(table.scan(b"m", b"", ALL).await.expect("rows").len(), before.messages.len());
        table.close().await.expect("closed");
    });
    assert_eq!(look(dir.path()), (before, None));
    let apart = live(async |rt: Uring| rt.open_table(&index, APART).await.err().map(|e| e.kind()));
    assert_eq!(apart, Some(std::io::ErrorKind::InvalidData), "an earlier version finds no index");
}

#[test]
fn a_damaged_index_is_made_anew_with_all_messages() {
    let dir = tempfile::tempdir().expect("a directory");
    let before = made(dir.path());
    let index = dir.path().join("index");
    let whole = std::fs::read(&index).expect("there");
    let uids = |seen: &Seen| seen.messages.iter().map(|m| m.uid).collect::<Vec<_>>();
    for n in 1..8 {
        let mut bad = whole.clone();
        let at = bad.len() / 8 * n;
        bad[at..at + 4096].fill(0xa5);
        std::fs::write(&index, bad).expect("there");
        let (seen, rebuilt) = look(dir.path());
        assert_eq!(uids(&seen), uids(&before));
        if rebuilt.is_some() {
            break;
        }
        // Nothing leads there.
        assert_eq!(seen, before);
    }
    std::fs::write(&index, &whole[..whole.len() / 3]).expect("there");
    let (seen, rebuilt) = look(dir.path());
    assert!(rebuilt.is_some());
    assert_eq!(uids(&seen), uids(&before));
}

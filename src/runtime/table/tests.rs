//! The table on real files: what is kept, what is found out, what a full disk does.

#![allow(clippy::disallowed_methods, reason = "tests damage files and run processes")]

use super::disk::{DiskTable, ask};
use super::store::Store;
use super::{Changes, ScanLimit, Table, TableOptions, fresh};
use crate::runtime::Disk;
use crate::runtime::uring::{self, Uring};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

/// Small, so that files are; a cache that transactions do not fit.
const SMALL: TableOptions =
    TableOptions { reserve_bytes: 4 << 20, grow_bytes: 1, cache_bytes: 256 << 10, packed: None };
const ALL: ScanLimit = ScanLimit { rows: usize::MAX, bytes: usize::MAX };

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// Runs `main` on a ring, a minute at most.
fn on_ring<T>(main: impl AsyncFnOnce(Uring) -> T) -> T {
    let bounded = async |rt| tokio::time::timeout(Duration::from_secs(60), main(rt)).await;
    uring::run(&uring::Options::small(), bounded).unwrap().expect("in a minute")
}

fn key(n: u64) -> [u8; 9] {
    let mut key = [b'm'; 9];
    key[1..].copy_from_slice(&n.to_be_bytes());
    key
}

fn puts(range: std::ops::Range<u64>, value: &[u8]) -> Changes {
    let mut changes = Changes::new();
    range.for_each(|n| changes.put(&key(n), value));
    changes
}

fn apply(changes: &Changes, content: &mut Content) {
    for change in changes.iter() {
        match change.value() {
            Some(value) => content.insert(change.key().to_vec(), value.to_vec()),
            None => content.remove(change.key()),
        };
    }
}

fn content(store: &Store) -> Content {
    let rows = store.run(|s| s.scan(b"", b"", ALL)).unwrap();
    rows.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
}

#[test]
fn a_file_is_read_in_order_and_in_large_pieces_before_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(33 << 20).unwrap();
    assert_eq!(super::space::read_ahead(&path), 9, "reads of 4 MiB");
    file.set_len(1 << 20).unwrap();
    assert_eq!(super::space::read_ahead(&path), 0, "a small one is read at once anyway");
}

#[test]
fn only_a_few_pieces_of_a_file_are_asked_for_ahead_of_what_has_come() {
    use super::space::ask_in_order;
    use std::cell::RefCell;
    for stop in [0, 5, 17, 40] {
        let (asked, come) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let ask = |piece| {
            asked.borrow_mut().push(piece);
            assert!(asked.borrow().len() - come.borrow().len() <= 8, "so many are under way");
            piece != stop
        };
        let arrive = |piece| {
            assert!(asked.borrow().contains(&piece));
            come.borrow_mut().push(piece);
            true
        };
        ask_in_order(20, ask, arrive);
        let (asked, come) = (asked.into_inner(), come.into_inner());
        // It ends where a piece cannot be asked for, else when all have come.
        let last = stop.min(19);
        assert_eq!(asked, (0..=last).collect::<Vec<_>>());
        let there = if stop < 20 { (last + 1).saturating_sub(8) } else { 20 };
        assert_eq!(come, (0..there).collect::<Vec<_>>());
    }
    let asked = RefCell::new(0);
    let ask = |_| {
        *asked.borrow_mut() += 1;
        true
    };
    ask_in_order(20, ask, |piece| piece < 3);
    assert_eq!(asked.into_inner(), 11, "what does not come ends it");
}

#[test]
fn rows_are_found_in_order_and_after_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    on_ring(async |rt: Uring| {
        let table = rt.open_table(&path, SMALL).await.unwrap();
        let mut changes = puts(0..1000, b"value");
        changes.put(b"mark", b"7");
        table.commit(changes).await.unwrap();
        let mut changes = Changes::new();
        changes.delete(&key(3));
        changes.put(&key(4), b"other");
        changes.delete(b"nothing");
        table.commit(changes).await.unwrap();
        table.clone().close().await.unwrap();
        assert!(table.get(b"mark").await.is_err());

        let table = rt.open_table(&path, SMALL).await.unwrap();
        assert_eq!(table.get(b"mark").await.unwrap(), Some(b"7".to_vec()));
        let keys = vec![key(3).to_vec(), key(4).to_vec(), key(5).to_vec()];
        let values = table.get_many(keys).await.unwrap();
        assert_eq!(values, [None, Some(b"other".to_vec()), Some(b"value".to_vec())]);
        let mut seen = Vec::new();
        let mut after = Vec::new();
        loop {
            let page = table.scan(b"m\0", &after, ScanLimit { rows: 77, bytes: 1 << 20 }).await.unwrap();
            assert!(page.len() <= 77);
            let Some(last) = page.last_key() else { break };
            after = last.to_vec();
            seen.extend(page.iter().map(|(k, _)| u64::from_be_bytes(k[1..].try_into().unwrap())));
        }
        assert_eq!(seen, (0..1000).filter(|n| *n != 3).collect::<Vec<_>>());
        let page = table.scan(b"", b"mar", ScanLimit { rows: 9, bytes: 1 }).await.unwrap();
        assert_eq!(page.iter().collect::<Vec<_>>(), [(&b"mark"[..], &b"7"[..])]);
        table.close().await.unwrap();
    });
}

#[test]
fn a_read_does_not_wait_for_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    on_ring(async |rt: Uring| {
        let table: DiskTable = rt.open_table(&dir.path().join("index"), SMALL).await.unwrap();
        table.commit(puts(0..10, b"old")).await.unwrap();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let commit = ask(&table.commits, move |store| {
            let transaction = store.db().begin_write().unwrap();
            store.change(&transaction, &puts(0..10, b"new")).unwrap();
            begun.send(()).unwrap();
            may_go_on.recv().unwrap();
            transaction.commit().unwrap();
            Ok(())
        });
        let read = async {
            has_begun.await.unwrap();
            let seen = table.get(&key(5)).await.unwrap();
            go_on.send(()).unwrap();
            seen
        };
        let (committed, seen) = tokio::join!(commit, read);
        committed.unwrap();
        assert_eq!(seen, Some(b"old".to_vec()));
        assert_eq!(table.get(&key(5)).await.unwrap(), Some(b"new".to_vec()));
    });
}

#[test]
fn a_copy_is_of_one_commit_whatever_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    on_ring(async |rt: Uring| {
        let table = rt.open_table(&dir.path().join("index"), SMALL).await.unwrap();
        table.commit(puts(0..2000, b"0")).await.unwrap();
        let done = std::cell::Cell::new(false);
        let committing = async {
            let mut n = 0;
            while !done.get() {
                n += 1;
                table.commit(puts(0..2000, format!("{n}").as_bytes())).await.unwrap();
            }
        };
        let copying = async {
            for n in 0..5 {
                table.copy_to(&dir.path().join(format!("copy{n}"))).await.unwrap();
            }
            done.set(true);
        };
        tokio::join!(committing, copying);
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..5 {
            let copy = rt.open_table(&dir.path().join(format!("copy{n}")), SMALL).await.unwrap();
            let rows = copy.scan(b"", b"", ALL).await.unwrap();
            assert_eq!(rows.len(), 2000);
            let value = rows.iter().next().unwrap().1.to_vec();
            assert!(rows.iter().all(|(_, v)| v == value), "a mixture of commits");
            seen.insert(value);
            copy.close().await.unwrap();
        }
        assert!(seen.len() > 1, "no commit happened while it was copied");
        let twice = table.copy_to(&dir.path().join("copy0")).await.unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
        let nowhere = table.copy_to(&dir.path().join("none/copy")).await.unwrap_err();
        assert_eq!(nowhere.kind(), ErrorKind::NotFound);
        assert!(table.get(&key(1)).await.unwrap().is_some(), "the table is not to blame");
        let names = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(names, 6, "nothing else is left behind");
    });
}

#[test]
fn what_is_not_a_sound_table_is_told_from_what_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    for foreign in [&b""[..], b"r", b"another program's file, of some length, but no table", &[0; 100_000]] {
        std::fs::write(&path, foreign).unwrap();
        assert_eq!(Store::open(&path, SMALL).err().unwrap().kind(), ErrorKind::InvalidData);
    }
    // Sound, but of another program that uses redb; and one of it that looks like ours.
    std::fs::remove_file(&path).unwrap();
    drop(redb::Database::create(&path).unwrap());
    assert_eq!(Store::open(&path, SMALL).err().unwrap().kind(), ErrorKind::InvalidData);
    std::fs::remove_file(&path).unwrap();
    fresh::make(&path, 1).unwrap();
    let db = redb::Database::open(&path).unwrap();
    let transaction = db.begin_write().unwrap();
    transaction.rename_table(super::store::ROWS, redb::TableDefinition::<&[u8], &[u8]>::new("2")).unwrap();
    transaction.commit().unwrap();
    drop(db);
    assert_eq!(Store::open(&path, SMALL).err().unwrap().kind(), ErrorKind::InvalidData);

    assert_eq!(Store::open(dir.path(), SMALL).err().unwrap().kind(), ErrorKind::IsADirectory);
    assert_eq!(Store::open(&dir.path().join("a/b"), SMALL).err().unwrap().kind(), ErrorKind::NotFound);
}

/// A table of two commits, closed, and as a crash leaves it; and what both must hold.
fn two_files(dir: &Path) -> ([Vec<u8>; 2], [Content; 2]) {
    let path = dir.join("good");
    let store = Store::open(&path, SMALL).unwrap();
    store.commit(&puts(0..3000, b"a value of some length")).unwrap();
    let before = content(&store);
    store.commit(&puts(1000..4000, b"another value")).unwrap();
    let after = content(&store);
    let crashed = std::fs::read(&path).unwrap();
    store.close().unwrap();
    ([std::fs::read(&path).unwrap(), crashed], [before, after])
}

/// Opens bytes as a table: they are refused as damaged, or hold exactly what was committed.
fn refused_or_right(path: &Path, bytes: &[u8], right: &[Content]) -> bool {
    std::fs::write(path, bytes).unwrap();
    match Store::open(path, SMALL) {
        Ok(store) => {
            assert!(right.contains(&content(&store)), "opened with other rows");
            true
        }
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::InvalidData, "{e}");
            false
        }
    }
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (files, right) = two_files(dir.path());
    let path = dir.path().join("bad");
    for bytes in &files {
        assert!(refused_or_right(&path, bytes, &right[1..]));
        let pages = (0..bytes.len()).step_by(4096);
        for length in pages.flat_map(|at| [at, at + 1, at + 2077]).chain([bytes.len() - 1]) {
            refused_or_right(&path, &bytes[..length.min(bytes.len())], &right);
        }
        assert!(!refused_or_right(&path, &bytes[..bytes.len() / 2], &right));
    }
}

#[test]
fn flipped_bits_are_found_or_do_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let (files, right) = two_files(dir.path());
    let path = dir.path().join("bad");
    let mut random = 7_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    let (mut refused, mut tried) = (0, 0);
    for bytes in &files {
        for round in 0..300 {
            let mut bad = bytes.clone();
            // Half of them in the head, on which all else depends.
            let reach = if round % 2 == 0 { 320 } else { bad.len() };
            for _ in 0..1 + round % 4 {
                bad[next() % reach] ^= 1 << (next() % 8);
            }
            tried += 1;
            refused += usize::from(!refused_or_right(&path, &bad, &right));
        }
    }
    assert!(refused > tried / 4 && refused < tried, "{refused} of {tried} refused");
}

#[test]
fn a_file_that_changes_under_an_open_table_ends_it_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let store = Store::open(&path, TableOptions { cache_bytes: 0, ..SMALL }).unwrap();
    store.commit(&puts(0..20_000, b"value")).unwrap();
    let length = std::fs::metadata(&path).unwrap().len() as usize;
    std::fs::write(&path, vec![0xA5; length]).unwrap();
    let damage = store.run(|s| s.scan(b"", b"", ALL)).unwrap_err();
    assert_eq!(damage.kind(), ErrorKind::InvalidData);
    let later = store.run(|s| s.commit(&puts(0..1, b"value"))).unwrap_err();
    assert_eq!(later.kind(), ErrorKind::Other);
    // Cut off under it: not a signal either.
    let path = dir.path().join("other");
    let store = Store::open(&path, TableOptions { cache_bytes: 0, ..SMALL }).unwrap();
    store.commit(&puts(0..20_000, b"value")).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(5000).unwrap();
    assert_eq!(store.run(|s| s.scan(b"", b"", ALL)).unwrap_err().kind(), ErrorKind::InvalidData);
}

#[test]
fn more_rows_leave_space_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("index"), SMALL).unwrap();
    let commit = |mut changes: Changes| {
        changes.leave(u64::MAX);
        store.run(|s| s.commit(&changes))
    };
    // What it has already it may use.
    store.run(|s| s.commit(&puts(0..1000, &[1; 100]))).unwrap();
    let refused = (1..100).find_map(|n| commit(puts(n * 1000..(n + 1) * 1000, &[1; 100])).err().zip(Some(n)));
    let (e, n) = refused.expect("the file does not grow");
    assert_eq!(e.kind(), ErrorKind::StorageFull);
    commit(puts(0..1000, &[2; 100])).unwrap();
    let mut deletes = Changes::new();
    (0..500).for_each(|i| deletes.delete(&key(i)));
    commit(deletes).unwrap();
    assert_eq!(content(&store).len() as u64, n * 1000 - 500);
    store.run(|s| s.commit(&puts(n * 1000..n * 2000, &[1; 100]))).unwrap();
    store.close().unwrap();
}

#[test]
fn on_a_full_disk_rows_are_refused_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("index"), SMALL).unwrap();
    store.space.faults.size.store(40 << 20, Ordering::Relaxed);
    let commit = |changes: &Changes| store.run(|s| s.commit(changes));
    let (mut n, mut model) = (0, Content::new());
    loop {
        let changes = puts(n..n + 5000, &[n as u8; 100]);
        match commit(&changes) {
            Ok(()) => apply(&changes, &mut model),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::StorageFull);
                break;
            }
        }
        n += 5000;
        assert!(n < 1_000_000, "the disk does not get full");
    }
    assert!(n >= 50_000, "only {n} rows on 40 MiB");
    assert_eq!(content(&store), model);
    // Others take the rest: nothing can be allocated any more.
    store.space.faults.size.store(0, Ordering::Relaxed);
    for round in 0..60 {
        let mut changes = Changes::new();
        for i in 0..200 {
            changes.put(&key((round * 7919 + i * 6151) % n), &[round as u8; 100]);
        }
        commit(&changes).unwrap();
        apply(&changes, &mut model);
    }
    for first in (0..n / 2).step_by(1000) {
        let mut changes = Changes::new();
        (first..first + 1000).for_each(|i| changes.delete(&key(i)));
        commit(&changes).unwrap();
        apply(&changes, &mut model);
    }
    assert_eq!(content(&store), model);
    // Room again, also for rows.
    store.space.faults.size.store(u64::MAX, Ordering::Relaxed);
    let changes = puts(n..n + 50_000, &[1; 100]);
    commit(&changes).unwrap();
    apply(&changes, &mut model);
    assert_eq!(content(&store), model);
    store.close().unwrap();
}

#[test]
fn a_failed_write_or_sync_ends_the_table_and_leaves_one_of_the_two_states() {
    let dir = tempfile::tempdir().unwrap();
    for (name, syncs) in [("write", false), ("sync", true)] {
        let path = dir.path().join(name);
        let store = Store::open(&path, SMALL).unwrap();
        store.commit(&puts(0..5000, b"old")).unwrap();
        let before = content(&store);
        let fault = if syncs { &store.space.faults.syncs } else { &store.space.faults.writes };
        fault.store(true, Ordering::Relaxed);
        let changes = puts(0..5000, b"new");
        assert_eq!(store.run(|s| s.commit(&changes)).unwrap_err().raw_os_error(), Some(libc::EIO));
        store_is_dead(&store);
        fault.store(false, Ordering::Relaxed);
        store_is_dead(&store);
        drop(store);
        let mut after = before.clone();
        apply(&changes, &mut after);
        let found = content(&Store::open(&path, SMALL).unwrap());
        assert!(found == before || found == after, "after a failed {name}");
    }
}

fn store_is_dead(store: &Store) {
    assert!(store.run(|s| s.commit(&puts(0..1, b"x"))).is_err());
    assert!(store.run(|s| s.scan(b"", b"", ALL)).is_err());
}

#[test]
fn space_is_given_back_when_the_rows_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let store = Store::open(&path, SMALL).unwrap();
    for n in 0..8 {
        store.commit(&puts(n * 10_000..(n + 1) * 10_000, &[1; 1000])).unwrap();
    }
    let most = store.space.bytes();
    assert!(most > 80 << 20, "{most} bytes");
    for n in 0..8 {
        let mut changes = Changes::new();
        (n * 10_000..(n + 1) * 10_000).for_each(|i| changes.delete(&key(i)));
        store.commit(&changes).unwrap();
    }
    for n in 0..20 {
        store.commit(&puts(n..n + 1, b"1")).unwrap();
    }
    let left = store.space.bytes();
    assert!(left < 64 << 20, "{left} of {most} bytes are left");
    assert_eq!(content(&store).len(), 20);
    // Opened again and again, as in a loop of crashes, it does not grow for ever.
    store.close().unwrap();
    let mut sizes = Vec::new();
    for _ in 0..4 {
        let store = Store::open(&path, SMALL).unwrap();
        store.commit(&puts(0..1, b"2")).unwrap();
        sizes.push(store.space.bytes());
    }
    assert!(sizes[3] <= sizes[0], "{sizes:?}");
}

const CHILD: &str = "RINGPOST_TABLE_CHILD";
/// Rows that every commit of the child writes.
const SHARED: u64 = 500;

/// Commits for ever: number `n` sets the shared rows to `n` and adds the row `n`; then says so.
fn commit_until_killed(path: &Path) {
    let store = Store::open(path, SMALL).unwrap();
    let value = store.get_many(&[key(0).to_vec()]).unwrap().remove(0);
    let mut n = value.map_or(0, |v| u64::from_le_bytes(v.try_into().unwrap()));
    loop {
        n += 1;
        let mut changes = puts(0..SHARED, &n.to_le_bytes());
        changes.put(&key(1_000_000 + n), &[7; 300]);
        store.commit(&changes).unwrap();
        println!("committed {n}");
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn a_killed_process_has_lost_nothing_and_left_nothing_half() {
    if let Some(path) = std::env::var_os(CHILD) {
        commit_until_killed(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let mut last = 0;
    for round in 0..8 {
        let name = "runtime::table::tests::a_killed_process_has_lost_nothing_and_left_nothing_half";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture"]).env(CHILD, &path).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut told = lines.filter_map(|l| l.strip_prefix("committed ").and_then(|n| n.parse::<u64>().ok()));
        // At some moment of the commit after that one.
        last = told.nth(5 + round * 3).expect("it commits");
        std::thread::sleep(Duration::from_micros(round as u64 * 700));
        child.kill().unwrap();
        child.wait().unwrap();
        last = told.last().unwrap_or(last);

        let store = Store::open(&path, SMALL).unwrap();
        let rows = content(&store);
        let shared = |n: u64| u64::from_le_bytes(rows[&key(n)[..]].clone().try_into().unwrap());
        let n = shared(0);
        assert!(n == last || n == last + 1, "{n} after {last} was told");
        assert!((0..SHARED).all(|i| shared(i) == n), "half a commit");
        assert_eq!(rows.len() as u64, SHARED + n, "each commit added a row");
        last = n;
        store.close().unwrap();
    }
    assert!(last > 100);
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u16, Option<usize>)>),
    Reopen,
    Copy,
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0..400_u16, prop::option::weighted(0.7, prop_oneof![0..40_usize, 0..9000_usize]));
    prop_oneof![
        6 => prop::collection::vec(change, 0..300).prop_map(Step::Commit),
        1 => Just(Step::Reopen),
        1 => Just(Step::Copy),
    ]
}

/// Keys of two kinds, so that prefixes matter.
fn some_key(n: u16) -> Vec<u8> {
    let name = if n.is_multiple_of(3) { "a" } else { "ab" };
    [name.as_bytes(), &n.to_be_bytes()].concat()
}

fn pages(store: &Store, prefix: &[u8], limit: ScanLimit) -> Content {
    let (mut found, mut after) = (Content::new(), Vec::new());
    loop {
        let page = store.run(|s| s.scan(prefix, &after, limit)).unwrap();
        assert!(page.len() <= limit.rows);
        let Some(last) = page.last_key() else { return found };
        after = last.to_vec();
        found.extend(page.iter().map(|(k, v)| (k.to_vec(), v.to_vec())));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_table_is_a_map_that_outlives_its_process(steps in prop::collection::vec(step(), 1..14)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let (mut store, mut model) = (Store::open(&path, SMALL).unwrap(), Content::new());
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Commit(list) => {
                    let mut changes = Changes::new();
                    for (k, value) in list {
                        match value {
                            Some(length) => changes.put(&some_key(k), &vec![n as u8; length]),
                            None => changes.delete(&some_key(k)),
                        }
                    }
                    store.run(|s| s.commit(&changes)).unwrap();
                    apply(&changes, &mut model);
                }
                Step::Reopen => {
                    store.close().unwrap();
                    store = Store::open(&path, SMALL).unwrap();
                }
                Step::Copy => {
                    let copy = dir.path().join(format!("copy{n}"));
                    store.run(|s| s.copy_to(&copy)).unwrap();
                    prop_assert_eq!(&content(&Store::open(&copy, SMALL).unwrap()), &model);
                }
            }
            let limit = ScanLimit { rows: 1 + n * 7, bytes: 3000 };
            prop_assert_eq!(&pages(&store, b"a", limit), &model);
            let mut some = model.clone();
            some.retain(|k, _| k.starts_with(b"ab"));
            prop_assert_eq!(&pages(&store, b"ab", limit), &some);
        }
        let keys: Vec<Vec<u8>> = (0..400).map(some_key).collect();
        let values: Vec<Option<Vec<u8>>> = keys.iter().map(|k| model.get(k).cloned()).collect();
        prop_assert_eq!(store.run(|s| s.get_many(&keys)).unwrap(), values);
    }
}

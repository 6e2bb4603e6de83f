//! Rows that lie together, on real files: they are a map like others, come from earlier versions, and are as
//! safe.

#![allow(clippy::disallowed_methods, reason = "tests damage files")]

use super::store::Store;
use super::{Changes, Packed, ScanLimit, TableOptions};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::Ordering;

const APART: TableOptions =
    TableOptions { reserve_bytes: 4 << 20, grow_bytes: 1, cache_bytes: 256 << 10, packed: None };
const TOGETHER: TableOptions = TableOptions { packed: Some(Packed { tag: b'm', key_len: 4 }), ..APART };
const ALL: ScanLimit = ScanLimit { rows: usize::MAX, bytes: usize::MAX };

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(n: u32) -> Vec<u8> {
    [b"m", &n.to_be_bytes()[1..]].concat()
}

fn puts(range: std::ops::Range<u32>, value: &[u8]) -> Changes {
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

/// Rows of three kinds; those in the middle lie together.
fn mixed(n: u32, value: &[u8]) -> Changes {
    let mut changes = puts(0..n, value);
    (0..n / 10).for_each(|i| changes.put(&[b"a", &i.to_be_bytes()[..]].concat(), value));
    (0..n / 10).for_each(|i| changes.put(&[b"z", &i.to_be_bytes()[..]].concat(), value));
    changes
}

#[test]
fn what_earlier_versions_wrote_is_put_together_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let store = Store::open(&path, APART).unwrap();
    // More than one transaction takes, and nothing at the end of a piece.
    let mut model = Content::new();
    for some in [mixed(50_001, b"value"), mixed(7, b"other")] {
        store.commit(&some).unwrap();
        apply(&some, &mut model);
    }
    store.close().unwrap();
    for _ in 0..2 {
        let store = Store::open(&path, TOGETHER).unwrap();
        assert_eq!(content(&store), model);
        let changes = puts(40_000..40_002, b"newer");
        store.commit(&changes).unwrap();
        apply(&changes, &mut model);
        store.close().unwrap();
    }
    // Who does not know of it would see half of the rows: to him it is no table.
    assert_eq!(Store::open(&path, APART).err().unwrap().kind(), ErrorKind::InvalidData);
    assert_eq!(content(&Store::open(&path, TOGETHER).unwrap()), model);
}

#[test]
fn it_is_gone_on_with_where_it_was_broken_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let store = Store::open(&path, APART).unwrap();
    let changes = mixed(45_000, b"value");
    store.commit(&changes).unwrap();
    let mut model = Content::new();
    apply(&changes, &mut model);
    // As much as one transaction does, and no name for it yet.
    assert!(store.run(|s| s.put_some_together(TOGETHER.packed.unwrap())).unwrap());
    store.close().unwrap();
    let store = Store::open(&path, TOGETHER).unwrap();
    assert_eq!(content(&store), model);
}

#[test]
fn the_file_of_another_program_is_no_table_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    drop(redb::Database::create(&path).unwrap());
    for _ in 0..2 {
        assert_eq!(Store::open(&path, TOGETHER).err().unwrap().kind(), ErrorKind::InvalidData);
    }
}

#[test]
fn each_row_of_a_piece_counts() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("index"), TOGETHER).unwrap();
    store.commit(&puts(0..70, b"1")).unwrap();
    let more = |changes: &Changes| {
        let transaction = store.db().begin_write().unwrap();
        let more = store.change(&transaction, changes).unwrap();
        transaction.abort().unwrap();
        more
    };
    assert_eq!(more(&puts(60..80, b"2")), 10, "what changes is no row more");
    let mut changes = mixed(10, b"3");
    (60..75).for_each(|n| changes.delete(&key(n)));
    assert_eq!(more(&changes), 2 - 10);
    assert_eq!(content(&store).len(), 70, "nothing was committed");
}

#[test]
fn on_a_full_disk_rows_are_refused_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("index"), TOGETHER).unwrap();
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

/// A damaged file is refused, or holds what was committed.
fn refused_or_right(path: &Path, bytes: &[u8], right: &Content) -> bool {
    std::fs::write(path, bytes).unwrap();
    match Store::open(path, TOGETHER) {
        Ok(store) => {
            assert!(content(&store) == *right, "opened with other rows");
            true
        }
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::InvalidData, "{e}");
            false
        }
    }
}

#[test]
fn damaged_pieces_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("good");
    let store = Store::open(&path, TOGETHER).unwrap();
    store.commit(&puts(0..30_000, b"a value of some length")).unwrap();
    let right = content(&store);
    store.close().unwrap();
    let (bytes, path) = (std::fs::read(&path).unwrap(), dir.path().join("bad"));
    let found: Vec<usize> =
        (0..bytes.len() - 22).filter(|at| bytes[*at..].starts_with(b"a value of some length")).collect();
    let mut refused = 0;
    for n in 0..50 {
        let mut bad = bytes.clone();
        bad[found[n * 7919 % found.len()] + n % 22] ^= 1;
        refused += usize::from(!refused_or_right(&path, &bad, &right));
    }
    // Some lie in pages that nothing leads to any more.
    assert!(refused > 10, "{refused} of 50 refused");
}

#[test]
fn a_piece_that_is_none_is_damage_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let store = Store::open(&path, TOGETHER).unwrap();
    store.commit(&puts(0..3, b"1")).unwrap();
    store.close().unwrap();
    let db = redb::Database::open(&path).unwrap();
    let transaction = db.begin_write().unwrap();
    let name = redb::TableDefinition::<&[u8], &[u8]>::new("pieces");
    transaction.open_table(name).unwrap().insert(&key(0)[..], &[5, 9, 1][..]).unwrap();
    transaction.commit().unwrap();
    drop(db);
    for work in [0, 1, 2] {
        let store = Store::open(&path, TOGETHER).unwrap();
        let result = match work {
            0 => store.run(|s| s.scan(b"m", b"", ALL)).map(drop),
            1 => store.run(|s| s.get_many(&[key(1)])).map(drop),
            _ => store.run(|s| s.commit(&puts(1..2, b"2"))),
        };
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidData);
    }
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u16, Option<usize>)>),
    Reopen,
    Copy,
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0..900_u16, prop::option::weighted(0.7, 0..90_usize));
    prop_oneof![
        6 => prop::collection::vec(change, 0..300).prop_map(Step::Commit),
        1 => Just(Step::Reopen),
        1 => Just(Step::Copy),
    ]
}

/// Keys before, among and behind those that lie together; these of several mailboxes, so to say.
fn some_key(n: u16) -> Vec<u8> {
    match n % 9 {
        0 => [b"a", &n.to_be_bytes()[..]].concat(),
        1 => [b"n", &n.to_be_bytes()[..]].concat(),
        _ => vec![b'm', (n % 3) as u8, (n >> 8) as u8, n as u8],
    }
}

/// All of it as pieces, each row as it is found in them.
fn in_pieces(store: &Store, prefix: &[u8], bytes: usize) -> Content {
    let (mut found, mut after) = (Content::new(), Vec::new());
    loop {
        let page = store.run(|s| s.scan_pieces(prefix, &after, ScanLimit { rows: 50, bytes })).unwrap();
        let before = found.len();
        for (name, mut rows) in page.iter() {
            while let Some((low, value)) = rows.next_row().unwrap() {
                let mut key = name.to_vec();
                *key.last_mut().unwrap() |= low;
                assert!(key > after, "in order, none twice");
                after.clone_from(&key);
                found.insert(key, value.to_vec());
            }
        }
        if !page.more {
            return found;
        }
        assert!(found.len() > before, "it goes on");
    }
}

#[test]
fn pieces_go_on_behind_any_row() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("index"), TOGETHER).unwrap();
    store.commit(&mixed(200, b"v")).unwrap();
    for n in [0, 5, 62, 63, 64, 150, 199] {
        let page = store.run(|s| s.scan_pieces(b"m", &key(n), ALL)).unwrap();
        let count: usize =
            page.iter().map(|(_, mut rows)| std::iter::from_fn(|| rows.next_row().unwrap()).count()).sum();
        assert_eq!((count, page.more), (199 - n as usize, false));
    }
    assert!(store.run(|s| s.scan_pieces(b"m\x01", b"", ALL)).unwrap().iter().next().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn rows_that_lie_together_are_a_map_like_others(steps in prop::collection::vec(step(), 1..14)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let (mut store, mut model) = (Store::open(&path, TOGETHER).unwrap(), Content::new());
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
                    store = Store::open(&path, TOGETHER).unwrap();
                }
                Step::Copy => {
                    let copy = dir.path().join(format!("copy{n}"));
                    store.run(|s| s.copy_to(&copy)).unwrap();
                    prop_assert_eq!(&content(&Store::open(&copy, TOGETHER).unwrap()), &model);
                }
            }
            let limit = ScanLimit { rows: 1 + n * 7, bytes: 3000 };
            for prefix in [&b""[..], b"a", b"m", b"m\x01", b"m\x01\x02", b"m\x02\x00\x0b", b"n", b"o"] {
                let mut some = model.clone();
                some.retain(|k, _| k.starts_with(prefix));
                prop_assert_eq!(&pages(&store, prefix, limit), &some, "{:?}", prefix);
                // Those of the first kind lie each on its own.
                if matches!(prefix.len(), 1..4) && prefix[0] != b'n' {
                    prop_assert_eq!(&in_pieces(&store, prefix, 1 + n * 500), &some, "{:?}", prefix);
                }
            }
        }
        let keys: Vec<Vec<u8>> = (0..900).map(some_key).collect();
        let values: Vec<Option<Vec<u8>>> = keys.iter().map(|k| model.get(k).cloned()).collect();
        prop_assert_eq!(store.run(|s| s.get_many(&keys)).unwrap(), values);
    }
}

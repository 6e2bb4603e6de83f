//! The table on real files: what is kept, what is found out, what a full disk does.

use super::{Changes, ScanLimit, Table, TableOptions};
use crate::runtime::Disk;
use crate::runtime::uring::{self, Uring};
use std::time::Duration;

/// Small, so that files are.
const SMALL: TableOptions =
    TableOptions { reserve_bytes: 1 << 20, grow_bytes: 1 << 18, cache_bytes: 1 << 20 };

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

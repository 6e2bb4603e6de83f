//! The index's table on a file system that is really full.

#![allow(clippy::disallowed_methods, reason = "tests mount and fill file systems")]

use crate::disk::Small;
use ringpost::runtime::uring::{self, Uring};
use ringpost::runtime::{Changes, Disk, ScanLimit, Table, TableOptions};
use std::io::ErrorKind;

const OPTIONS: TableOptions =
    TableOptions { reserve_bytes: 8 << 20, grow_bytes: 8 << 20, cache_bytes: 1 << 20 };
const ALL: ScanLimit = ScanLimit { rows: usize::MAX, bytes: usize::MAX };

fn puts(range: std::ops::Range<u64>, value: &[u8]) -> Changes {
    let mut changes = Changes::new();
    range.for_each(|n| changes.put(&n.to_be_bytes(), value));
    changes
}

/// Takes all that is left of a file system.
fn fill(path: &std::path::Path) {
    let full = std::fs::write(path, vec![1; 128 << 20]).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
}

#[test]
fn a_table_on_a_full_disk_refuses_rows_and_takes_outcomes() {
    let Some(small) = Small::mount("64m") else { return };
    let path = small.path().join("index");
    let main = async |rt: Uring| {
        let table = rt.open_table(&path, OPTIONS).await.unwrap();
        let mut rows = 0;
        let refused = loop {
            match table.commit(puts(rows..rows + 5000, &[7; 100])).await {
                Ok(()) => rows += 5000,
                Err(e) => break e,
            }
            assert!(rows < 1_000_000, "64 MiB do not get full");
        };
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
        assert!(rows >= 100_000, "only {rows} rows on 64 MiB");
        fill(&small.path().join("others"));
        // Outcomes: some attempts change rows, then all but the last rows go.
        for n in 0..40 {
            table.commit(puts(n * 211..n * 211 + 200, &[8; 100])).await.unwrap();
        }
        let mut first = 0;
        while first < rows - 100 {
            let mut changes = Changes::new();
            (first..(first + 1000).min(rows - 100)).for_each(|n| changes.delete(&n.to_be_bytes()));
            table.commit(changes).await.unwrap();
            first += 1000;
        }
        assert_eq!(table.scan(b"", b"", ALL).await.unwrap().len(), 100);
        table.close().await.unwrap();
        // As full as before, it opens and goes on, also with rows where others have gone.
        fill(&small.path().join("others2"));
        let table = rt.open_table(&path, OPTIONS).await.unwrap();
        table.commit(puts(rows - 50..rows, b"9")).await.unwrap();
        std::fs::remove_file(small.path().join("others")).unwrap();
        let _ = std::fs::remove_file(small.path().join("others2"));
        table.commit(puts(0..50_000, &[9; 100])).await.unwrap();
        assert_eq!(table.scan(b"", b"", ALL).await.unwrap().len(), 50_100);
        table.close().await.unwrap();
    };
    uring::run(&uring::Options::small(), main).unwrap();
}

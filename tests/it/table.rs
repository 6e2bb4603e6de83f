//! The index's table on a file system that is really full.

#![allow(clippy::disallowed_methods, reason = "tests mount and fill file systems")]

use crate::disk::Small;
use ringpost::runtime::uring::{self, Uring};
use ringpost::runtime::{Changes, Disk, ScanLimit, Table, TableOptions};
use std::ffi::OsStr;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;

const OPTIONS: TableOptions =
    TableOptions { reserve_bytes: 8 << 20, grow_bytes: 8 << 20, cache_bytes: 1 << 20, packed: None };
const ALL: ScanLimit = ScanLimit { rows: usize::MAX, bytes: usize::MAX };

fn puts(range: std::ops::Range<u64>, value: &[u8]) -> Changes {
    let mut changes = Changes::new();
    range.for_each(|n| changes.put(&n.to_be_bytes(), value));
    changes
}

/// Takes all that is left of a file system.
fn fill(path: &Path) {
    // So full that there is no room for a name.
    let Ok(mut file) = std::fs::File::create(path) else { return };
    for piece in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; piece]).is_ok() {}
    }
    let _ = file.sync_all();
}

/// An XFS file system in a file; gone with the test.
struct Xfs(tempfile::TempDir);

impl Xfs {
    fn mount() -> Option<Xfs> {
        let dir = tempfile::tempdir().unwrap();
        let (image, point) = (dir.path().join("image"), dir.path().join("point"));
        std::fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
        std::fs::create_dir(&point).unwrap();
        let run = |program: &str, words: &[&OsStr]| {
            Command::new(program).args(words).output().is_ok_and(|out| out.status.success())
        };
        let made = run("mkfs.xfs", &["-q".as_ref(), image.as_ref()])
            && run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_ref(), point.as_ref()]);
        if !made {
            eprintln!("SKIPPED: needs root, mkfs.xfs and a loop device");
        }
        made.then_some(Xfs(dir))
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path().join("point")).status();
    }
}

#[test]
fn a_table_on_a_full_disk_refuses_rows_and_takes_outcomes() {
    if let Some(small) = Small::mount("64m") {
        refuses_rows_and_takes_outcomes(small.path());
    }
}

/// It does not allocate what is allocated on a full disk; the others do.
#[test]
fn a_table_on_a_full_xfs_does_so_too() {
    if let Some(xfs) = Xfs::mount() {
        refuses_rows_and_takes_outcomes(&xfs.0.path().join("point"));
    }
}

fn refuses_rows_and_takes_outcomes(dir: &Path) {
    let path = dir.join("index");
    let main = async |rt: Uring| {
        let table = rt.open_table(&path, OPTIONS).await.unwrap();
        let mut rows = 0;
        let refused = loop {
            match table.commit(puts(rows..rows + 2000, &[7; 1000])).await {
                Ok(()) => rows += 2000,
                Err(e) => break e,
            }
            assert!(rows < 3_000_000, "the disk does not get full");
        };
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
        assert!(rows >= 10_000, "only {rows} rows");
        fill(&dir.join("others"));
        // Outcomes: some attempts change rows, then all but the last rows go.
        for n in 0..40 {
            table.commit(puts(n * 211..n * 211 + 200, &[8; 1000])).await.unwrap();
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
        fill(&dir.join("others2"));
        let table = rt.open_table(&path, OPTIONS).await.unwrap();
        table.commit(puts(rows - 50..rows, b"9")).await.unwrap();
        std::fs::remove_file(dir.join("others")).unwrap();
        let _ = std::fs::remove_file(dir.join("others2"));
        table.commit(puts(1_000_000..1_050_000, &[9; 100])).await.unwrap();
        assert_eq!(table.scan(b"", b"", ALL).await.unwrap().len(), 50_100);
        table.close().await.unwrap();
    };
    uring::run(&uring::Options::small(), main).unwrap();
}

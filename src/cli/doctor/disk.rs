//! The data directory: file system, space, and how long a durable write takes.
//!
//! Writes a file of a few KiB there as the journal does, page by page, and removes it. A directory that is
//! not there yet is judged by the one it will be made in.

#![allow(clippy::disallowed_methods, reason = "a program for operators: it measures the disk")]

use super::{Finding, Setting};
use crate::base::aligned::AlignedBuf;
use crate::runtime::{checks, uring};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Writes measured at most, and for how long.
const WRITES: usize = 200;
const TIME: Duration = Duration::from_secs(3);
const PAGE: usize = 4096;
/// From this time on a durable write is slow.
const SLOW: Duration = Duration::from_millis(20);
/// No medium has data safe within this time.
const TOO_FAST: Duration = Duration::from_micros(3);

/// All of them.
pub(super) fn checks(setting: &Setting) -> Vec<Finding> {
    let mut all = Vec::new();
    let Some(place) = existing(&setting.data_dir) else { return all };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    all.push(file_system(&place, setting.weak, &mounts));
    all.push(space(&place, setting.free_min));
    all.push(match measure(&place) {
        Ok(times) => durable_writes(&times),
        Err(e) => {
            let is = format!("cannot be measured in {}: {e}", place.display());
            Finding::unknown("durable write", is, "run doctor as root or as server.user")
        }
    });
    all
}

/// The directory, or the nearest one above it that is there.
fn existing(dir: &Path) -> Option<PathBuf> {
    dir.ancestors().find(|d| d.is_dir()).map(Path::to_path_buf)
}

fn file_system(place: &Path, weak: bool, mounts: &str) -> Finding {
    let why = "what is acknowledged must survive a crash of the machine";
    let kind = mount_of(place, mounts).unwrap_or("not told");
    let finding = Finding::ok("file system", format!("{} is on {kind}", place.display()), why);
    match checks::file_system(place, weak) {
        Ok(()) if matches!(kind, "ext4" | "xfs" | "btrfs") || weak => finding,
        Ok(()) => finding.change("ext4 or XFS on a local disk is what this is tested on"),
        Err(e) => finding.must(e.to_string()),
    }
}

/// The type of the file system of `place`, in the form of `/proc/self/mountinfo` (proc(5)).
fn mount_of<'a>(place: &Path, mounts: &'a str) -> Option<&'a str> {
    let mounts = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        Some((before.split(' ').nth(4)?, after.split(' ').next()?))
    });
    // Of several at one point the last one is seen.
    let here = mounts.filter(|(point, _)| place.starts_with(point.replace("\\040", " ")));
    here.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind)
}

fn space(place: &Path, reserve: u64) -> Finding {
    let why = "at storage.free_min no new mail is taken";
    let Ok((size, free)) = uring::disk::space(place) else {
        return Finding::unknown("space", "not told", why);
    };
    let mib = |bytes: u64| bytes >> 20;
    let is = format!("{} MiB free of {} MiB; free_min is {} MiB", mib(free), mib(size), mib(reserve));
    let finding = Finding::ok("space", is, why);
    if free <= reserve {
        return finding.must("free space, put the data directory elsewhere, or lower storage.free_min");
    }
    finding
        .unless(free >= reserve.saturating_mul(4), "a queue that waits for a next hop needs room: free space")
}

/// Times of writes of a page each, made as the journal makes them, in order of length.
fn measure(place: &Path) -> io::Result<Vec<Duration>> {
    let path = place.join(format!(".ringpost-doctor-{}", std::process::id()));
    let file = open(&path)?;
    // Gone when the file is closed, whatever happens.
    std::fs::remove_file(&path)?;
    let mut page = AlignedBuf::with_capacity(PAGE);
    page.zero_to(PAGE);
    // Journal segments have their size from the beginning: the first round is not measured.
    let pages = 16;
    for n in 0..pages {
        file.write_all_at(page.bytes(), (n * PAGE) as u64)?;
    }
    let (begin, mut times) = (Instant::now(), Vec::new());
    while times.len() < WRITES && begin.elapsed() < TIME {
        let before = Instant::now();
        file.write_all_at(page.bytes(), (times.len() % pages * PAGE) as u64)?;
        times.push(before.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

fn open(path: &Path) -> io::Result<File> {
    let new = |flags| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600).custom_flags(flags);
        options.open(path)
    };
    // Some file systems refuse direct IO.
    new(libc::O_DIRECT | libc::O_DSYNC).or_else(|e| {
        if e.kind() != io::ErrorKind::InvalidInput {
            return Err(e);
        }
        // It may have been made all the same.
        let _ = std::fs::remove_file(path);
        new(libc::O_DSYNC)
    })
}

/// Judges times in order of length.
fn durable_writes(times: &[Duration]) -> Finding {
    let why = "every 250 waits for one; many sessions share it";
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
    let (Some(median), Some(late)) = (at(50), at(99)) else {
        return Finding::unknown("durable write", "not one was done in time", why)
            .change("look at the disk: iostat -x 1, smartctl -a");
    };
    let is = format!("{median:.1?} (median), {late:.1?} (99th percentile), {} writes of 4 KiB", times.len());
    let finding = Finding::ok("durable write", is, why);
    if *median < TOO_FAST {
        return finding.change(
            "faster than any medium: something (a virtual disk, a controller) answers before data are safe; \
             have it pass flushes on",
        );
    }
    finding
        .unless(*late < SLOW, "a disk of its own for the data directory, or one with protected write cache")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    const MOUNTS: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /dev/shm rw - tmpfs tmpfs rw
31 22 8:2 / /var/lib rw shared:2 - xfs /dev/sdb rw
32 22 8:3 / /mnt/two\\040words rw - btrfs /dev/sdc rw
";

    #[test]
    fn the_longest_mount_point_counts() {
        let of = |path: &str| mount_of(Path::new(path), MOUNTS);
        assert_eq!(of("/var/lib/ringpost"), Some("xfs"));
        assert_eq!(of("/var/library"), Some("ext4"));
        assert_eq!(of("/dev/shm/x"), Some("tmpfs"));
        assert_eq!(of("/mnt/two words/x"), Some("btrfs"));
        assert_eq!(mount_of(Path::new("/x"), "nonsense"), None);
    }

    #[test]
    fn times_are_judged() {
        let verdict = |micros: &[u64]| {
            let times: Vec<Duration> = micros.iter().map(|us| Duration::from_micros(*us)).collect();
            durable_writes(&times).verdict
        };
        assert_eq!(verdict(&[80, 90, 100, 2000]), Verdict::Ok);
        assert_eq!(verdict(&[80, 90, 100, 50_000]), Verdict::Change);
        assert_eq!(verdict(&[1, 1, 2, 90]), Verdict::Change);
        assert_eq!(verdict(&[]), Verdict::Change);
    }

    #[test]
    fn a_write_is_measured_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let times = measure(dir.path()).unwrap();
        assert!(!times.is_empty() && times.len() <= WRITES && times.is_sorted());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(measure(Path::new("/proc")).is_err());
        assert_eq!(existing(&dir.path().join("not/there")).as_deref(), Some(dir.path()));
    }

    #[test]
    fn memory_and_full_disks_will_not_do() {
        let shm = Path::new("/dev/shm");
        if shm.is_dir() {
            let strict = file_system(shm, false, MOUNTS);
            assert_eq!(strict.verdict, Verdict::Must, "{strict:?}");
            assert_eq!(file_system(shm, true, MOUNTS).verdict, Verdict::Ok);
        }
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(space(dir.path(), u64::MAX).verdict, Verdict::Must);
        assert_eq!(space(dir.path(), 0).verdict, Verdict::Ok);
    }
}

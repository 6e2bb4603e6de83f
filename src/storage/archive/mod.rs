//! The archive: records that have outlived the journal's window, in segments that are written once.
//!
//! Knows records as kinds and bytes. It is written sequentially, many records to one sync, and read
//! one record at a time; a segment in which little lives any more is copied and removed. Every byte
//! on disk is described in `docs/storage.md`.
//!
//! * L1 [`mod@format`]: head, marks, footer, trailer.
//! * L2 [`state`]: what goes to the disk, in which order; [`shelf`]: what lives where and which
//!   segment should go; [`scan`]: the records of a segment, over damage; [`found`]: what a file is.
//! * L4 [`vault`]: [`Archive`], which drives it on a disk.

pub mod format;
pub mod found;
pub mod scan;
pub mod shelf;
pub mod state;
pub mod vault;

pub mod fuzz;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod vault_tests;

use crate::base::aligned::PAGE;
use std::fmt;
use std::time::Duration;

pub use format::Entry;
pub use shelf::Victim;
pub use vault::{Archive, ArchiveReport, Damage, Scanned, Stats};

/// Where a record lies in the archive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Place {
    /// Number of the segment, from 1; 0: nowhere.
    pub segment: u32,
    /// Bytes from the start of the segment to the record's head.
    pub offset: u32,
    /// Bytes of head and payload.
    pub len: u32,
}

/// How an archive is laid out and when it is cleaned.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// Bytes of a segment with head and footer, at most (one record that is longer has one of its
    /// own); whole pages.
    pub segment_bytes: u32,
    /// A segment of which less than this share of its bytes lives, in percent, is cleaned.
    pub clean_share: u8,
    /// A segment with something in it that has been dead for longer than this is cleaned whatever
    /// its share: deleted mail must not lie there for years.
    pub dead_age: Duration,
    /// A segment is begun only where the file system keeps this many bytes free besides: for the
    /// journal and its outcomes. Unless it [may take the last space](Archive::take_last_space).
    pub disk_free_min: u64,
    /// Bytes of one write, whole pages.
    pub chunk_bytes: usize,
    /// Bytes that may wait to be written; above, appending waits.
    pub waiting_max: usize,
    /// Segments that are kept open for reading.
    pub files_max: usize,
    /// How long to wait for the locks of a process that has just died.
    pub lock_wait: Duration,
}

impl Options {
    /// Segments of `segment_bytes`, 64 MiB unless the operator says otherwise. Memory: about 3 MiB
    /// of records and 3 MiB of footer while it is written.
    #[must_use]
    pub fn production(segment_bytes: u32) -> Self {
        Options {
            segment_bytes,
            clean_share: 50,
            dead_age: Duration::from_secs(7 * 24 * 3600),
            disk_free_min: 1 << 30,
            chunk_bytes: 1 << 20,
            waiting_max: 2 << 20,
            files_max: 512,
            lock_wait: Duration::from_secs(30),
        }
    }

    /// For tests: 64 KiB segments, written in 8 KiB, four of them open.
    #[must_use]
    pub fn tiny() -> Self {
        Options {
            disk_free_min: 0,
            chunk_bytes: 8 << 10,
            waiting_max: 16 << 10,
            files_max: 4,
            ..Options::production(64 << 10)
        }
    }

    /// What is wrong with the values, if anything.
    pub fn check(&self) -> Result<(), &'static str> {
        let pages = |n: usize| n > 0 && n.is_multiple_of(PAGE);
        let rules = [
            (pages(self.segment_bytes as usize), "archive segment_bytes must be whole pages of 4096"),
            ((64 << 10..=1 << 30).contains(&self.segment_bytes), "archive segment_bytes: 64 KiB to 1 GiB"),
            (pages(self.chunk_bytes), "archive chunk_bytes must be whole pages of 4096"),
            (self.clean_share <= 90, "archive clean_share: 90 percent at most"),
            (self.files_max > 0, "archive files_max: 1 at least"),
        ];
        rules.iter().find(|(ok, _)| !ok).map_or(Ok(()), |(_, text)| Err(text))
    }
}

/// Why a record is not in the archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArchiveError {
    /// There is no space for it. See [`Archive::sync`].
    Full,
    /// A write has failed; nothing is accepted until a restart.
    Poisoned,
    /// The archive has been closed.
    Closed,
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ArchiveError::Full => "no disk space for the archive",
            ArchiveError::Poisoned => "the archive is poisoned by a failed write; restart to recover",
            ArchiveError::Closed => "the archive has been closed",
        })
    }
}

impl std::error::Error for ArchiveError {}

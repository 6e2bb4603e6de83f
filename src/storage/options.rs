//! What can be set about a journal, and the words shared by all of storage.
//!
//! Knows no config file: `config` fills [`Options`]. Impossible values are refused by
//! [`Options::check`].

use crate::base::aligned::PAGE;
use crate::storage::batch::{BATCH_HEAD, BATCH_LIMIT};
use crate::storage::record::RECORD_HEAD;
use crate::storage::segment::HEAD_BYTES;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Space that must stay free for the more urgent, in segments. Outcomes may use the last byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserve {
    /// New mail leaves this much.
    pub new_mail: u32,
    /// Bounces leave this much.
    pub bounces: u32,
    /// Copying forward leaves this much.
    pub compaction: u32,
}

/// How a journal is laid out and how far it may grow.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// Bytes of a segment file, whole pages; 1 MiB to 1 GiB in production, 64 KiB or more in tests.
    pub segment_bytes: u32,
    /// Segment files at most; 6 or more.
    pub segments_max: u32,
    /// Segments in the log from which on live records of the oldest are to be taken elsewhere, 2 or more.
    pub window: u32,
    /// Longest batch in bytes, whole pages, at most a quarter of a segment and [`BATCH_LIMIT`].
    pub batch_bytes_max: u32,
    /// Batches that may wait for the one being written, 1..=64; above, new records are refused as
    /// [`StageError::Busy`](crate::storage::journal::StageError).
    pub batches_waiting: usize,
    /// What is kept free for whom.
    pub reserve: Reserve,
    /// Copy live records forward when the log is more than this many times as long as what lives
    /// in it (and longer than 8 segments); 2 or more.
    pub spread: u32,
    /// Segments are not added for new mail when the file system has fewer free bytes than this.
    pub disk_free_min: u64,
    /// How long to wait for the locks of a process that has just died.
    pub lock_wait: Duration,
    /// How long after a failure to add a segment the next try comes.
    pub retry_space: Duration,
}

impl Options {
    /// Segments of `segment_bytes` (64 MiB unless the operator says otherwise), 1024 at most: each
    /// holds a descriptor.
    #[must_use]
    pub fn production(segment_bytes: u32) -> Self {
        Options {
            segment_bytes,
            segments_max: 1024,
            window: 8,
            batch_bytes_max: (segment_bytes / 4).min(1 << 20) / PAGE as u32 * PAGE as u32,
            batches_waiting: 4,
            reserve: Reserve { new_mail: 3, bounces: 2, compaction: 1 },
            spread: 4,
            disk_free_min: 1 << 30,
            lock_wait: Duration::from_secs(30),
            retry_space: Duration::from_secs(10),
        }
    }

    /// For tests: 64 KiB segments, at most 16, batches up to 16 KiB.
    #[must_use]
    pub fn tiny() -> Self {
        Options {
            segments_max: 16,
            window: 8,
            batch_bytes_max: 16 << 10,
            disk_free_min: 0,
            ..Options::production(64 << 10)
        }
    }

    /// The longest payload of a record in bytes; what is longer goes to a side file.
    #[must_use]
    pub fn payload_max(&self) -> usize {
        self.batch_bytes_max as usize - BATCH_HEAD - RECORD_HEAD
    }

    /// What is wrong with the values, if anything.
    pub fn check(&self) -> Result<(), &'static str> {
        let page = PAGE as u32;
        let r = self.reserve;
        let rules = [
            (self.segment_bytes.is_multiple_of(page), "segment_bytes must be whole pages of 4096"),
            ((64 << 10..=1 << 30).contains(&self.segment_bytes), "segment_bytes: 64 KiB to 1 GiB"),
            (self.batch_bytes_max.is_multiple_of(page), "batch_bytes_max must be whole pages of 4096"),
            ((page..=BATCH_LIMIT).contains(&self.batch_bytes_max), "batch_bytes_max: 4 KiB to 16 MiB"),
            (self.batch_bytes_max <= self.segment_bytes / 4, "a batch is at most a quarter of a segment"),
            ((1..=64).contains(&self.batches_waiting), "batches_waiting: 1 to 64"),
            (r.new_mail >= r.bounces && r.bounces >= r.compaction, "reserves must not grow with urgency"),
            (self.segments_max >= r.new_mail.saturating_add(3).max(6), "segments_max is too small"),
            (self.spread >= 2, "spread: 2 or more"),
            (self.window >= 2, "window: 2 or more"),
        ];
        rules.iter().find(|(ok, _)| !ok).map_or(Ok(()), |(_, text)| Err(text))
    }

    /// Bytes of a segment that batches can count on, whatever is lost at its end.
    #[must_use]
    pub(in crate::storage) fn usable(&self) -> u64 {
        u64::from(self.segment_bytes - HEAD_BYTES - self.batch_bytes_max)
    }
}

/// Who asks for space; also says whether the record lives until it is freed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Urgency {
    /// A message from outside. Lives until freed.
    NewMail,
    /// A notification of ours. Lives until freed.
    Bounce,
    /// A live record copied forward. Lives until freed.
    Compaction,
    /// The outcome of an attempt, an attempt, a change of a message. Never counts as live: it is
    /// needed only as long as the record it speaks of, which is older and thus retired first.
    Outcome,
    /// The outcome of something whose state is in the owner's index: lives until freed, which is
    /// when the index has taken it over.
    Archived,
}

impl Urgency {
    /// Whether a record of this urgency keeps its segment until freed.
    #[must_use]
    pub fn lives(self) -> bool {
        self != Urgency::Outcome
    }
}

/// Set for ever once a durable write has failed; shared by all journals on one file system.
#[derive(Clone, Debug, Default)]
pub struct Poison(Arc<AtomicBool>);

impl Poison {
    /// A clean one.
    #[must_use]
    pub fn new() -> Self {
        Poison::default()
    }

    /// Poisons. There is no way back but a restart.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// True once poisoned.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid() {
        for o in [Options::tiny(), Options::production(64 << 20), Options::production(1 << 20)] {
            assert_eq!(o.check(), Ok(()));
        }
        let bad = Options { batch_bytes_max: 64 << 10, ..Options::tiny() };
        assert_eq!(bad.check(), Err("a batch is at most a quarter of a segment"));
    }
}

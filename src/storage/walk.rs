//! L2: following the batches of one segment, over damage if need be.
//!
//! A pure machine over a window of bytes; used by recovery and for copying forward. Never panics
//! on any bytes. Its work is linear in the bytes: a candidate must carry the epoch's secret tag
//! before its CRC is computed, so that no sender can plant candidates.

use crate::base::aligned::PAGE;
use crate::storage::batch::{BATCH_HEAD, BATCH_LIMIT, BatchHead};
use crate::storage::record::{self, KIND_RETIRE, u32_at, u64_at};
use crate::storage::segment::{HEAD_BYTES, Keys, SegmentHead};

/// Ids listed per damage at most.
const IDS_MAX: usize = 64;

/// Batches lost to damage in the middle of a log, although they had been acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Segment.
    pub sequence: u64,
    /// Bytes of the segment that do not verify; empty range: the whole segment is missing.
    pub from: u32,
    /// End of those bytes.
    pub to: u32,
    /// Number of the first batch lost.
    pub first_batch: u64,
    /// Number of the first batch after those lost.
    pub next_batch: u64,
    /// Ids that can still be read in them (64 at most); some may be wrong.
    pub ids: Vec<u64>,
}

/// A part of a file in memory.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    /// Number of the file.
    pub file: u32,
    /// Offset of the first byte.
    pub base: u32,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl<'a> Window<'a> {
    pub(in crate::storage) fn get(&self, file: u32, at: u32, len: u32) -> Option<&'a [u8]> {
        let start = at.checked_sub(self.base).filter(|_| self.file == file)? as usize;
        self.bytes.get(start..start + len as usize)
    }

    fn rest(&self, file: u32, at: u32) -> &'a [u8] {
        let start = at.checked_sub(self.base).filter(|_| self.file == file);
        start.and_then(|s| self.bytes.get(s as usize..)).unwrap_or_default()
    }
}

/// Follows the batches of one segment.
pub struct Walk {
    sequence: u64,
    epoch: u64,
    keys: Keys,
    stop: u32,
    end_is_known: bool,
    /// End of the last good batch.
    at: u32,
    /// Where a batch is looked for: `at`, or behind it after damage.
    probe: u32,
    /// Number and predecessor of the batch expected at `at`.
    number: u64,
    chain: u32,
    torn: bool,
    ids: Vec<u64>,
}

/// What [`Walk::step`] wants or has.
pub enum WalkStep<'a> {
    /// These bytes must be in the window.
    Read {
        /// First byte.
        offset: u32,
        /// Number of bytes.
        len: u32,
    },
    /// The next batch.
    Batch {
        /// Its offset.
        offset: u32,
        /// Its bytes.
        bytes: &'a [u8],
        /// What was stepped over to find it.
        damage: Option<Damage>,
    },
    /// The end of the log in this segment.
    End(WalkEnd),
}

/// How a segment ended.
pub struct WalkEnd {
    /// Where.
    pub cut: u32,
    /// Number of the next batch.
    pub number: u64,
    /// CRC of the last batch.
    pub chain: u32,
    /// There is the beginning of a batch that was never finished.
    pub torn: bool,
    /// Nothing but whole batches up to the end, and no trace of one behind it.
    pub clean: bool,
    /// Bytes before the known end that do not verify.
    pub damage: Option<Damage>,
}

impl Walk {
    /// Of the segment with this head; `end`: where it ends, if known; `limit`: bytes of the file.
    #[must_use]
    pub fn new(head: &SegmentHead, end: Option<u32>, limit: u32) -> Self {
        Self::over(head.sequence, head.epoch, head.keys(), (head.first_batch, head.chain), end, limit)
    }

    /// Like [`Self::new`] from the parts; `next`: number of the first batch and CRC of the one before.
    #[must_use]
    pub fn over(
        sequence: u64,
        epoch: u64,
        keys: Keys,
        next: (u64, u32),
        end: Option<u32>,
        limit: u32,
    ) -> Self {
        Walk {
            sequence,
            epoch,
            keys,
            stop: end.unwrap_or(limit),
            end_is_known: end.is_some(),
            at: HEAD_BYTES,
            probe: HEAD_BYTES,
            number: next.0,
            chain: next.1,
            torn: false,
            ids: Vec::new(),
        }
    }

    /// Goes on.
    pub fn step<'a>(&mut self, window: Window<'a>, file: u32) -> WalkStep<'a> {
        while self.probe < self.stop {
            let Some(page) = window.get(file, self.probe, PAGE as u32) else {
                return WalkStep::Read { offset: self.probe, len: PAGE as u32 };
            };
            if let Some(head) = self.candidate(page) {
                let Some(bytes) = window.get(file, self.probe, head.length) else {
                    return WalkStep::Read { offset: self.probe, len: head.length };
                };
                if head.intact(bytes, &self.keys) {
                    return self.accept(head, bytes);
                }
            }
            if self.probe == self.at {
                self.torn = self.was_begun(page);
                self.ids = legible_ids(window.rest(file, self.at), &self.keys);
            }
            self.probe += PAGE as u32;
        }
        WalkStep::End(self.end())
    }

    /// A head that may stand at `probe`. Behind damage, a later number is expected, but not later
    /// than one batch per page lost; the CRC of a batch that is lost cannot be compared.
    fn candidate(&self, page: &[u8]) -> Option<BatchHead> {
        let head = BatchHead::decode(page)?;
        let ours = head.tag == self.keys.tag && head.epoch == self.epoch;
        let fits = head.length <= self.stop - self.probe;
        let lost = u64::from((self.probe - self.at) / PAGE as u32);
        let ahead = head.number.checked_sub(self.number)?;
        let in_order =
            if lost == 0 { ahead == 0 && head.previous == self.chain } else { (1..=lost).contains(&ahead) };
        (ours && fits && in_order).then_some(head)
    }

    /// Whether `page`, where the next batch should stand, was meant to be its first: any of what
    /// only that batch can carry. (An older batch of the epoch may stand there from the file's last
    /// life; its number is lower.)
    fn was_begun(&self, page: &[u8]) -> bool {
        let (tag, number, epoch) = (u64_at(page, 8), u64_at(page, 16), u64_at(page, 24));
        let chained = u32_at(page, 40) == self.chain && self.chain != 0;
        (tag == self.keys.tag && number >= self.number)
            || (epoch == self.epoch && (number == self.number || chained))
    }

    fn accept<'a>(&mut self, head: BatchHead, bytes: &'a [u8]) -> WalkStep<'a> {
        let offset = self.probe;
        let damage = (offset > self.at).then(|| self.damage(offset, head.number));
        self.at = offset + head.length;
        self.probe = self.at;
        self.number = head.number + 1;
        self.chain = head.crc;
        self.torn = false;
        self.ids.clear();
        WalkStep::Batch { offset, bytes, damage }
    }

    fn damage(&mut self, to: u32, next_batch: u64) -> Damage {
        Damage {
            sequence: self.sequence,
            from: self.at,
            to,
            first_batch: self.number,
            next_batch,
            ids: std::mem::take(&mut self.ids),
        }
    }

    fn end(&mut self) -> WalkEnd {
        let damaged = self.end_is_known && self.at < self.stop;
        let damage = damaged.then(|| self.damage(self.stop, self.number + 1));
        let cut = if self.end_is_known { self.stop } else { self.at };
        WalkEnd {
            cut,
            number: self.number,
            chain: self.chain,
            torn: self.torn && !self.end_is_known,
            clean: !self.torn && !damaged,
            damage,
        }
    }
}

/// Ids of records in a batch that does not verify, as far as its lengths lead, for the report only.
fn legible_ids(bytes: &[u8], keys: &Keys) -> Vec<u64> {
    let mut ids = Vec::new();
    let mut rest = bytes.get(BATCH_HEAD..bytes.len().min(BATCH_LIMIT as usize)).unwrap_or_default();
    while let Some((head, payload, len)) = record::decode_verified(rest) {
        // Only what one sound record vouches for: zeros and foreign bytes end the list.
        if ids.len() == IDS_MAX
            || record::decode(rest, keys).is_none() && (payload.is_empty() || head.id == 0)
        {
            break;
        }
        if head.kind != KIND_RETIRE {
            ids.push(head.id);
        }
        rest = &rest[len as usize..];
    }
    ids
}

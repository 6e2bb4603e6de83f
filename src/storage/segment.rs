//! L1: the head of a segment file: which part of which log it holds.
//!
//! A segment starts with two copies of its head, a page each, so that one damaged page does not
//! cost a segment. Batches follow. Decoding never panics.

use crate::base::aligned::{AlignedBuf, PAGE};
use crate::base::crc::{PLAIN, crc32c};
use crate::storage::record::{u32_at, u64_at};

/// First bytes of every segment.
pub const MAGIC: [u8; 8] = *b"RGPTJRNL";

/// Version of the format. A program refuses to open a log of a later one.
pub const VERSION: u32 = 1;

/// Bytes of one copy of the head.
pub const HEAD_COPY: usize = PAGE;

/// Bytes of the head with both copies: where the first batch starts.
pub const HEAD_BYTES: u32 = 2 * HEAD_COPY as u32;

const USED: usize = 128;
const _: () = assert!(USED <= HEAD_COPY && (HEAD_BYTES as usize).is_multiple_of(PAGE));

/// What keeps foreign and forged bytes out: both are drawn from an epoch's nonce, which never
/// leaves the log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// First half of the nonce: opens every batch head.
    pub tag: u64,
    /// Starting state of the CRCs of batches and records.
    pub seed: u32,
}

impl Keys {
    /// The keys of an epoch.
    #[must_use]
    pub fn new(nonce: [u8; 16]) -> Self {
        Keys { tag: u64_at(&nonce, 0), seed: crc32c(PLAIN, &[&nonce]) }
    }
}

/// Where the log ends in one segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cut {
    /// Sequence number of the segment; 0: there is none before.
    pub sequence: u64,
    /// Bytes of the segment that belong to the log.
    pub offset: u32,
}

/// The head of a segment.
#[derive(Clone, PartialEq, Eq)]
pub struct SegmentHead {
    /// The log (random).
    pub log: [u8; 16],
    /// Number of the segment in its log: previous + 1, from 1.
    pub sequence: u64,
    /// Which run of the writer wrote it: one more at each opening.
    pub epoch: u64,
    /// Secret of the epoch.
    pub nonce: [u8; 16],
    /// Number of the first batch.
    pub first_batch: u64,
    /// CRC of the last batch before it.
    pub chain: u32,
    /// Where the log ends in the segment before. What lies behind the cut there never counts.
    pub previous: Cut,
    /// Oldest segment that was still part of the log when this one was begun.
    pub oldest: u64,
    /// Length of the segment in bytes.
    pub bytes: u32,
    /// The owner's mark at the last retirement that this segment knows of: what was retired is
    /// covered by the index as of that transaction. 0: there is none.
    pub mark: u64,
}

/// One copy of a head, as found.
#[derive(Clone, PartialEq, Eq)]
pub enum Copy {
    /// Intact.
    Good(SegmentHead),
    /// Nothing but zeros: never used.
    Blank,
    /// Intact, but of a later version of the format.
    Later(u32),
    /// Neither.
    Bad,
}

impl SegmentHead {
    /// One copy's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD_COPY] {
        let mut b = [0; HEAD_COPY];
        b[..8].copy_from_slice(&MAGIC);
        b[12..16].copy_from_slice(&VERSION.to_le_bytes());
        b[16..32].copy_from_slice(&self.log);
        b[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        b[40..48].copy_from_slice(&self.epoch.to_le_bytes());
        b[48..64].copy_from_slice(&self.nonce);
        b[64..72].copy_from_slice(&self.first_batch.to_le_bytes());
        b[72..76].copy_from_slice(&self.chain.to_le_bytes());
        b[76..80].copy_from_slice(&self.bytes.to_le_bytes());
        b[80..88].copy_from_slice(&self.previous.sequence.to_le_bytes());
        b[88..92].copy_from_slice(&self.previous.offset.to_le_bytes());
        b[96..104].copy_from_slice(&self.oldest.to_le_bytes());
        b[104..112].copy_from_slice(&self.mark.to_le_bytes());
        let crc = crc32c(PLAIN, &[&b[12..]]);
        b[8..12].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Both copies, as they are written.
    #[must_use]
    pub fn page(&self) -> AlignedBuf {
        let mut buf = AlignedBuf::with_capacity(HEAD_BYTES as usize);
        let copy = self.encode();
        buf.put(&copy);
        buf.put(&copy);
        buf
    }

    /// Keys of the batches and records of this segment.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys::new(self.nonce)
    }

    /// Reads one copy.
    #[must_use]
    pub fn decode_copy(page: &[u8]) -> Copy {
        let Some(b) = page.get(..HEAD_COPY) else { return Copy::Bad };
        if b.iter().all(|&x| x == 0) {
            return Copy::Blank;
        }
        if b[..8] != MAGIC || u32_at(b, 8) != crc32c(PLAIN, &[&b[12..]]) {
            return Copy::Bad;
        }
        let version = u32_at(b, 12);
        if version != VERSION {
            return Copy::Later(version);
        }
        let head = SegmentHead {
            log: b[16..32].try_into().expect("16 bytes"),
            sequence: u64_at(b, 32),
            epoch: u64_at(b, 40),
            nonce: b[48..64].try_into().expect("16 bytes"),
            first_batch: u64_at(b, 64),
            chain: u32_at(b, 72),
            bytes: u32_at(b, 76),
            previous: Cut { sequence: u64_at(b, 80), offset: u32_at(b, 88) },
            oldest: u64_at(b, 96),
            mark: u64_at(b, 104),
        };
        if head.encode()[..] == *b && head.plausible() { Copy::Good(head) } else { Copy::Bad }
    }

    fn plausible(&self) -> bool {
        self.sequence > 0
            && self.previous.sequence < self.sequence
            && (1..=self.sequence).contains(&self.oldest)
            && self.epoch > 0
            && self.first_batch > 0
            && self.bytes > HEAD_BYTES
            && (self.bytes as usize).is_multiple_of(PAGE)
    }

    /// Reads both copies at the start of a segment: the later one counts, since a file that is used
    /// again may keep an old copy if the machine stops between the pages. The number says how many
    /// copies are damaged.
    #[must_use]
    pub fn decode(start: &[u8]) -> (Copy, u32) {
        let first = Self::decode_copy(start);
        let second = Self::decode_copy(start.get(HEAD_COPY..).unwrap_or_default());
        let bad = [&first, &second].iter().filter(|&&c| *c == Copy::Bad).count() as u32;
        let best = match (first, second) {
            (Copy::Later(v), _) | (_, Copy::Later(v)) => Copy::Later(v),
            (Copy::Good(a), Copy::Good(b)) => {
                Copy::Good(if (b.epoch, b.sequence) > (a.epoch, a.sequence) { b } else { a })
            }
            (Copy::Good(h), _) | (_, Copy::Good(h)) => Copy::Good(h),
            (Copy::Bad, _) | (_, Copy::Bad) => Copy::Bad,
            (Copy::Blank, Copy::Blank) => Copy::Blank,
        };
        (best, bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample(sequence: u64) -> SegmentHead {
        SegmentHead {
            log: [3; 16],
            sequence,
            epoch: 2,
            nonce: [7; 16],
            first_batch: 9,
            chain: 0xdead_beef,
            previous: Cut { sequence: sequence - 1, offset: 8192 },
            oldest: 1,
            bytes: 65536,
            mark: 4,
        }
    }

    #[test]
    fn one_damaged_copy_costs_nothing() {
        let head = sample(5);
        let clean = head.page().bytes().to_vec();
        for at in 0..clean.len() {
            let mut b = clean.clone();
            b[at] ^= 0x10;
            let (found, bad) = SegmentHead::decode(&b);
            assert!(found == Copy::Good(head.clone()) && bad == 1, "byte {at}");
        }
    }

    #[test]
    fn the_later_copy_counts() {
        let mut b = sample(5).page().bytes().to_vec();
        b[HEAD_COPY..].copy_from_slice(&sample(6).encode());
        assert!(SegmentHead::decode(&b).0 == Copy::Good(sample(6)));
        b.rotate_left(HEAD_COPY);
        assert!(SegmentHead::decode(&b).0 == Copy::Good(sample(6)));
        assert!(SegmentHead::decode(&[0; 8192]).0 == Copy::Blank);
        assert!(SegmentHead::decode(b"short").0 == Copy::Bad);
    }

    #[test]
    fn a_later_version_is_recognised() {
        let mut b = sample(5).encode();
        b[12] = 2;
        let crc = crc32c(PLAIN, &[&b[12..]]);
        b[8..12].copy_from_slice(&crc.to_le_bytes());
        assert!(SegmentHead::decode_copy(&b) == Copy::Later(2));
    }
}

//! L1: batches, the unit of a durable write: a 48-byte head, records, zeros up to a whole page.
//!
//! A batch is all or nothing. Decoding never panics.

use crate::base::aligned::PAGE;
use crate::base::crc::crc32c;
use crate::storage::record::{self, RecordHead, u32_at, u64_at};
use crate::storage::segment::Keys;

/// Bytes of a batch's head.
pub const BATCH_HEAD: usize = 48;

/// The longest batch of the format in bytes.
pub const BATCH_LIMIT: u32 = 16 << 20;

const _: () =
    assert!(BATCH_HEAD == 4 + 4 + 8 + 8 + 8 + 4 + 4 + 4 + 4 && (BATCH_LIMIT as usize).is_multiple_of(PAGE));

/// The head of a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BatchHead {
    /// CRC-32C, seeded with the epoch's nonce, over all that follows it in the batch.
    pub crc: u32,
    /// Bytes of the batch, in whole pages.
    pub length: u32,
    /// Secret of the epoch ([`Keys::tag`]).
    pub tag: u64,
    /// Number of the batch: previous + 1.
    pub number: u64,
    /// Which run of the writer wrote it.
    pub epoch: u64,
    /// Bytes of head and records.
    pub used: u32,
    /// Number of records.
    pub records: u32,
    /// CRC of the batch before.
    pub previous: u32,
}

impl BatchHead {
    /// The head's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; BATCH_HEAD] {
        let mut b = [0; BATCH_HEAD];
        b[..4].copy_from_slice(&self.crc.to_le_bytes());
        b[4..8].copy_from_slice(&self.length.to_le_bytes());
        b[8..16].copy_from_slice(&self.tag.to_le_bytes());
        b[16..24].copy_from_slice(&self.number.to_le_bytes());
        b[24..32].copy_from_slice(&self.epoch.to_le_bytes());
        b[32..36].copy_from_slice(&self.used.to_le_bytes());
        b[36..40].copy_from_slice(&self.records.to_le_bytes());
        b[40..44].copy_from_slice(&self.previous.to_le_bytes());
        b
    }

    /// The head at the start of `bytes` if its numbers can be those of a batch.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let b = bytes.get(..BATCH_HEAD)?;
        let head = BatchHead {
            crc: u32_at(b, 0),
            length: u32_at(b, 4),
            tag: u64_at(b, 8),
            number: u64_at(b, 16),
            epoch: u64_at(b, 24),
            used: u32_at(b, 32),
            records: u32_at(b, 36),
            previous: u32_at(b, 40),
        };
        let whole_pages = head.length > 0 && (head.length as usize).is_multiple_of(PAGE);
        let inside = head.used as usize >= BATCH_HEAD && head.used <= head.length;
        let spare = u32_at(b, 44) == 0;
        (whole_pages && inside && spare && head.length <= BATCH_LIMIT).then_some(head)
    }

    /// True if `batch` (at least [`Self::length`] bytes, starting with this head) carries its CRC.
    #[must_use]
    pub fn intact(&self, batch: &[u8], keys: &Keys) -> bool {
        batch.get(4..self.length as usize).is_some_and(|b| crc32c(keys.seed, &[b]) == self.crc)
    }

    /// Writes the head into `batch` (records in place, padded to whole pages, `self.crc` ignored)
    /// and returns the CRC.
    pub fn seal(mut self, batch: &mut [u8], keys: &Keys) -> u32 {
        assert_eq!(batch.len(), self.length as usize);
        batch[..BATCH_HEAD].copy_from_slice(&self.encode());
        self.crc = crc32c(keys.seed, &[&batch[4..]]);
        batch[..4].copy_from_slice(&self.crc.to_le_bytes());
        self.crc
    }
}

/// The records of an intact batch: offset in the batch, head, payload. Ends early where the bytes
/// are no records.
pub fn records(batch: &[u8]) -> impl Iterator<Item = (u32, RecordHead, &[u8])> {
    let head = BatchHead::decode(batch);
    let (mut left, end) = head.map_or((0, 0), |h| (h.records, h.used as usize));
    let body = batch.get(..end).unwrap_or_default();
    let mut at = BATCH_HEAD;
    std::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        let (head, payload, len) = record::decode_verified(body.get(at..)?)?;
        let start = at as u32;
        at += len as usize;
        Some((start, head, payload))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seal_and_read() {
        let keys = Keys::new([1; 16]);
        let mut b = vec![0; 2 * PAGE];
        let head = RecordHead { kind: 4, version: 1, flags: 2, id: 3 };
        let mut at = BATCH_HEAD;
        for payload in [&b"first"[..], b"", b"third"] {
            b[at..at + record::RECORD_HEAD].copy_from_slice(&record::encode_head(head, payload, &keys));
            at += record::RECORD_HEAD;
            b[at..at + payload.len()].copy_from_slice(payload);
            at += payload.len();
        }
        let h = BatchHead {
            crc: 0,
            length: 2 * PAGE as u32,
            tag: keys.tag,
            number: 5,
            epoch: 1,
            used: at as u32,
            records: 3,
            previous: 77,
        };
        let crc = h.seal(&mut b, &keys);
        let read = BatchHead::decode(&b).unwrap();
        assert!(read == BatchHead { crc, ..h } && read.intact(&b, &keys));
        assert!(!read.intact(&b, &Keys::new([2; 16])));
        assert!(!read.intact(&b[..PAGE], &keys));
        let payloads: Vec<_> = records(&b).map(|(_, _, p)| p.to_vec()).collect();
        assert_eq!(payloads, [b"first".to_vec(), b"".to_vec(), b"third".to_vec()]);
        b[2 * PAGE - 1] = 1;
        assert!(!read.intact(&b, &keys), "padding is covered");
    }
}

//! L1: records, the smallest unit of the journal: a 20-byte head and a payload.
//!
//! Must not know what kinds mean (except the one that belongs to storage itself). Decoding never
//! panics; bytes that are not a record are an `Option::None`.

use crate::base::crc::crc32c;
use crate::storage::segment::Keys;
use smallvec::SmallVec;

/// Bytes of a record's head on disk.
pub const RECORD_HEAD: usize = 20;

/// The kind that storage keeps for itself: "segments before sequence `id` are retired".
/// Users may take any other kind.
pub const KIND_RETIRE: u8 = 0;

const _: () = assert!(RECORD_HEAD == 4 + 4 + 1 + 1 + 2 + 8);

/// What the owner of a record says about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHead {
    /// What the record is; 0 ([`KIND_RETIRE`]) is not for users.
    pub kind: u8,
    /// Version of the payload's layout.
    pub version: u8,
    /// The owner's flags.
    pub flags: u16,
    /// The owner's id (of the message).
    pub id: u64,
}

/// Where a durable record is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Location {
    /// Sequence number of the segment.
    pub segment: u64,
    /// Bytes from the start of the segment to the record's head.
    pub offset: u32,
    /// Bytes of head and payload.
    pub len: u32,
}

/// A record found on disk.
#[derive(Clone, Copy, Debug)]
pub struct Recovered<'a> {
    /// Its head.
    pub head: RecordHead,
    /// Its place.
    pub location: Location,
    /// Its payload.
    pub payload: &'a [u8],
}

/// Bytes that a record with a payload of `payload` bytes takes; `None` above 4 GiB.
#[must_use]
pub fn record_len(payload: usize) -> Option<u32> {
    u32::try_from(payload.checked_add(RECORD_HEAD)?).ok()
}

/// The head's bytes for a payload already in place. The CRC covers the rest of the head and the
/// payload, so that one record can be read back without its batch.
#[must_use]
pub fn encode_head(head: RecordHead, payload: &[u8], keys: &Keys) -> [u8; RECORD_HEAD] {
    let mut out = head_without_crc(head, payload.len());
    let crc = crc32c(keys.seed, &[&out[4..], payload]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Like [`encode_head`] for a payload in pieces.
#[must_use]
pub fn encode_head_of(head: RecordHead, payload: &[&[u8]], keys: &Keys) -> [u8; RECORD_HEAD] {
    let mut out = head_without_crc(head, payload.iter().map(|p| p.len()).sum());
    let mut parts: SmallVec<[&[u8]; 8]> = SmallVec::new();
    parts.push(&out[4..]);
    parts.extend_from_slice(payload);
    let crc = crc32c(keys.seed, &parts);
    drop(parts);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out
}

fn head_without_crc(head: RecordHead, payload: usize) -> [u8; RECORD_HEAD] {
    let mut out = [0; RECORD_HEAD];
    let len = u32::try_from(payload).expect("bounded by the batch");
    out[4..8].copy_from_slice(&len.to_le_bytes());
    out[8] = head.kind;
    out[9] = head.version;
    out[10..12].copy_from_slice(&head.flags.to_le_bytes());
    out[12..20].copy_from_slice(&head.id.to_le_bytes());
    out
}

/// The record at the start of `bytes`, and its length; `None` if there is no whole, intact one.
#[must_use]
pub fn decode<'a>(bytes: &'a [u8], keys: &Keys) -> Option<(RecordHead, &'a [u8], u32)> {
    let (head, payload, len, crc) = split(bytes)?;
    (crc32c(keys.seed, &[&bytes[4..RECORD_HEAD], payload]) == crc).then_some((head, payload, len))
}

/// Like [`decode`] inside a batch whose CRC has been verified: the record's own CRC is not computed.
#[must_use]
pub fn decode_verified(bytes: &[u8]) -> Option<(RecordHead, &[u8], u32)> {
    split(bytes).map(|(head, payload, len, _)| (head, payload, len))
}

/// The head at the start of `bytes` and the length of its record, which need not be whole. Nothing is
/// verified.
#[must_use]
pub fn head(bytes: &[u8]) -> Option<(RecordHead, u32)> {
    let h = bytes.get(..RECORD_HEAD)?;
    let len = record_len(u32_at(h, 4) as usize)?;
    let head = RecordHead {
        kind: h[8],
        version: h[9],
        flags: u16::from_le_bytes([h[10], h[11]]),
        id: u64_at(h, 12),
    };
    Some((head, len))
}

fn split(bytes: &[u8]) -> Option<(RecordHead, &[u8], u32, u32)> {
    let (head, len) = head(bytes)?;
    Some((head, bytes.get(RECORD_HEAD..len as usize)?, len, u32_at(bytes, 0)))
}

/// The little-endian number at `at`. Panics outside of `b`.
pub(in crate::storage) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"))
}

/// The little-endian number at `at`. Panics outside of `b`.
pub(in crate::storage) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}

/// For the fuzzer: every decoder of the format on arbitrary bytes. Nothing may panic, and what
/// decodes must encode to the same bytes.
pub fn fuzz_entry(data: &[u8]) {
    use crate::storage::{batch, segment};
    let keys = Keys::new(*b"a nonce nobody..");
    if let Some((head, payload, len)) = decode_verified(data) {
        assert!(len as usize <= data.len());
        let again = encode_head(head, payload, &keys);
        assert_eq!(again[4..], data[4..RECORD_HEAD]);
    }
    if let Some((head, payload, _)) = decode(data, &keys) {
        assert_eq!(encode_head(head, payload, &keys), data[..RECORD_HEAD]);
    }
    if let Some(head) = batch::BatchHead::decode(data) {
        assert_eq!(head.encode()[..], data[..batch::BATCH_HEAD]);
        let _ = head.intact(data, &keys);
    }
    for (_, _, record) in batch::records(data) {
        assert!(record.len() < data.len());
    }
    if let segment::Copy::Good(head) = segment::SegmentHead::decode_copy(data) {
        assert_eq!(head.encode()[..], data[..segment::HEAD_COPY]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip_and_any_flip_is_seen(
            kind in 1u8.., version: u8, flags: u16, id: u64,
            payload in proptest::collection::vec(any::<u8>(), 0..300), at: usize, bit in 0u8..8,
        ) {
            let keys = Keys::new([9; 16]);
            let head = RecordHead { kind, version, flags, id };
            let mut bytes = encode_head(head, &payload, &keys).to_vec();
            bytes.extend_from_slice(&payload);
            let len = bytes.len() as u32;
            prop_assert_eq!(decode(&bytes, &keys), Some((head, &payload[..], len)));
            prop_assert_eq!(decode(&bytes, &Keys::new([8; 16])), None, "another log's nonce");
            let (a, b) = payload.split_at(payload.len() / 3);
            prop_assert_eq!(&encode_head_of(head, &[a, b"", b], &keys)[..], &bytes[..RECORD_HEAD]);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(decode(&bytes, &keys), None);
        }

        #[test]
        fn arbitrary_bytes(data in proptest::collection::vec(any::<u8>(), 0..9000)) {
            fuzz_entry(&data);
        }
    }
}

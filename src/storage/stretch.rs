//! L1: a stretch of a segment that has been read at once, and the records in it.
//!
//! Knows no disk. Each record is verified (id and CRC) whenever it is taken out, as if it had been read by
//! itself, unless only its beginning is asked for; what of the stretch is no record yet, or not that one, is
//! never shown. What a segment has at a place does not change as long as its keys are the same, so a stretch
//! is right for ever.

use crate::base::aligned::{AlignedBuf, SharedBytes};
use crate::storage::record::{self, RECORD_HEAD};
use crate::storage::segment::Keys;
use std::rc::Rc;

/// See the module.
pub struct Stretch {
    base: u32,
    bytes: SharedBytes,
    keys: Keys,
}

impl Stretch {
    /// `bytes` from offset `base` of a segment with these keys.
    pub(in crate::storage) fn new(base: u32, bytes: AlignedBuf, keys: Keys) -> Self {
        Stretch { base, bytes: SharedBytes::whole(Rc::new(bytes)), keys }
    }

    /// The payload of the record `id` of `len` bytes at `offset` of the segment; `None` if that is not
    /// wholly here, or not sound.
    #[must_use]
    pub fn record(&self, offset: u32, len: u32, id: u64) -> Option<SharedBytes> {
        let start = offset.checked_sub(self.base)? as usize;
        let end = start.checked_add(len as usize)?;
        let (head, payload, found) = record::decode(self.bytes.get(start..end)?, &self.keys)?;
        let whole = head.id == id && found == len;
        whole.then(|| self.bytes.part(end - payload.len()..end))
    }

    /// The beginning of the payload of that record, as far as it is here, and the length of the payload. Only
    /// id and length are looked at: whoever is to rely on what it says reads the whole.
    #[must_use]
    pub fn beginning(&self, offset: u32, len: u32, id: u64) -> Option<(SharedBytes, usize)> {
        let start = offset.checked_sub(self.base)? as usize;
        let end = start.checked_add(len as usize)?.min(self.bytes.len());
        let (head, found) = record::head(self.bytes.get(start..end)?)?;
        let here = head.id == id && found == len;
        here.then(|| (self.bytes.part(start + RECORD_HEAD..end), len as usize - RECORD_HEAD))
    }

    /// A page that has no record.
    #[cfg(test)]
    pub(crate) fn of_nothing() -> Self {
        let mut buf = AlignedBuf::with_capacity(1);
        buf.zero_to(buf.capacity());
        Stretch::new(0, buf, Keys { tag: 0, seed: 0 })
    }

    /// Whether the bytes `from..to` of the segment are here.
    #[must_use]
    pub fn covers(&self, from: u32, to: u32) -> bool {
        self.base <= from && u64::from(to) <= u64::from(self.base) + self.bytes.len() as u64
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.bytes.held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::record::{RecordHead, encode_head};

    #[test]
    fn only_whole_and_sound_records_are_shown() {
        let keys = Keys { tag: 1, seed: 2 };
        let mut buf = AlignedBuf::with_capacity(1000);
        buf.zero_to(10);
        for (id, payload) in [(7, &b"first"[..]), (8, b"second")] {
            let head = RecordHead { kind: 1, version: 1, flags: 0, id };
            buf.put(&encode_head(head, payload, &keys));
            buf.put(payload);
        }
        let (first, second) = (5010, 5010 + 25);
        let stretch = Stretch::new(5000, buf, keys);
        let text = |offset, len, id| stretch.record(offset, len, id).map(|b| b.to_vec());
        assert_eq!(text(first, 25, 7).as_deref(), Some(&b"first"[..]));
        assert_eq!(text(second, 26, 8).as_deref(), Some(&b"second"[..]));
        // Another record, another length, another place, outside of what is here.
        for (offset, len, id) in
            [(first, 25, 8), (first, 26, 7), (second, 26, 7), (5011, 25, 7), (5000, 5, 7)]
        {
            assert_eq!(text(offset, len, id), None, "{offset} {len} {id}");
        }
        for (offset, len) in [(0, 25), (4999, 30), (second, 27), (u32::MAX, u32::MAX)] {
            assert_eq!(text(offset, len, 8), None, "{offset} {len}");
        }
        assert!(stretch.covers(5000, 5061) && !stretch.covers(4999, 5061) && !stretch.covers(5000, 5062));
        let begins = |offset, len, id| stretch.beginning(offset, len, id).map(|(b, len)| (b.to_vec(), len));
        assert_eq!(begins(first, 25, 7), Some((b"first".to_vec(), 5)));
        for (offset, len, id) in [(first, 25, 8), (first, 26, 7), (second + 20, 26, 8), (5061, 26, 8)] {
            assert_eq!(begins(offset, len, id), None, "{offset} {len} {id}");
        }
        let half = Stretch { base: 5000, bytes: stretch.bytes.part(0..58), keys };
        assert!(half.record(second, 26, 8).is_none());
        assert_eq!(
            half.beginning(second, 26, 8).map(|(b, len)| (b.to_vec(), len)),
            Some((b"sec".to_vec(), 6))
        );
        let other = Stretch { keys: Keys { tag: 1, seed: 3 }, ..stretch };
        assert!(other.record(first, 25, 7).is_none(), "of another life of the file");
    }
}

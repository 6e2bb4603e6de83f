//! L1: the bytes of an archive segment around its records: head, marks, footer, trailer.
//!
//! ```text
//! | head | head | mark record record .. 0 | mark record .. 0 | footer | trailer |
//! ```
//!
//! A *run* is what lies between two syncs: a mark, records back to back, zeros up to a page. A mark
//! at the start of a later run proves that the run before it was durable. Footer and trailer are
//! written when all records are durable. Records are those of the journal. Decoding never panics.

use crate::base::aligned::{AlignedBuf, PAGE};
use crate::base::crc::{PLAIN, crc32c};
use crate::base::time::Wall;
use crate::storage::batch::BATCH_LIMIT;
use crate::storage::record::{self, RECORD_HEAD, RecordHead, u32_at, u64_at};
use crate::storage::segment::Keys;

/// First bytes of every archive segment.
pub const MAGIC: [u8; 8] = *b"RGPTARCH";
/// First bytes of a trailer.
pub const TRAILER_MAGIC: [u8; 8] = *b"RGPTTAIL";
/// Version of the format. A program refuses to open an archive of a later one.
pub const VERSION: u32 = 1;
/// Bytes of one copy of the head.
pub const HEAD_COPY: usize = PAGE;
/// Bytes of the head with both copies: where the first run starts.
pub const HEAD_BYTES: u32 = 2 * HEAD_COPY as u32;
/// Bytes of an entry of the footer.
pub const ENTRY: usize = 24;
/// Records in a segment at most: a footer is 3 MiB at most.
pub const ENTRIES_MAX: usize = 1 << 17;
/// Bytes of a mark.
pub const MARK: usize = RECORD_HEAD + 8;
/// The kind of marks; not for users.
pub const KIND_MARK: u8 = 0;
/// Longest record, head and payload: what fits a batch of the journal.
pub const RECORD_MAX: u32 = BATCH_LIMIT;

const _: () = assert!(ENTRY == 8 + 4 + 4 + 4 + 1 + 3 && MARK <= PAGE);

/// `n` rounded up to whole pages.
#[must_use]
pub fn pages(n: usize) -> usize {
    n.div_ceil(PAGE) * PAGE
}

/// The head of a segment.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    /// The log that it belongs to.
    pub log: [u8; 16],
    /// Number of the segment, that of its file: from 1, never used twice.
    pub number: u32,
    /// When it was begun: nothing in it has been here for longer.
    pub begun: Wall,
    /// Secret of the segment, random.
    pub nonce: [u8; 16],
}

/// One copy of a head, as found.
#[derive(Clone, PartialEq, Eq)]
pub enum Copy {
    /// Intact.
    Good(Head),
    /// Intact, but of a later version of the format.
    Later(u32),
    /// Neither.
    Bad,
}

impl Head {
    /// One copy's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD_COPY] {
        let mut b = [0; HEAD_COPY];
        b[..8].copy_from_slice(&MAGIC);
        b[12..16].copy_from_slice(&VERSION.to_le_bytes());
        b[16..32].copy_from_slice(&self.log);
        b[32..36].copy_from_slice(&self.number.to_le_bytes());
        b[40..48].copy_from_slice(&self.begun.0.to_le_bytes());
        b[48..64].copy_from_slice(&self.nonce);
        let crc = crc32c(PLAIN, &[&b[12..]]);
        b[8..12].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Both copies, as they are written.
    #[must_use]
    pub fn bytes(&self) -> AlignedBuf {
        let mut buf = AlignedBuf::with_capacity(HEAD_BYTES as usize);
        let copy = self.encode();
        buf.put(&copy);
        buf.put(&copy);
        buf
    }

    /// Keys of the segment's records.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys::new(self.nonce)
    }

    /// Reads one copy.
    #[must_use]
    pub fn decode_copy(page: &[u8]) -> Copy {
        let Some(b) = page.get(..HEAD_COPY) else { return Copy::Bad };
        if b[..8] != MAGIC || u32_at(b, 8) != crc32c(PLAIN, &[&b[12..]]) {
            return Copy::Bad;
        }
        let version = u32_at(b, 12);
        if version != VERSION {
            return Copy::Later(version);
        }
        let head = Head {
            log: b[16..32].try_into().expect("16 bytes"),
            number: u32_at(b, 32),
            begun: Wall(u64_at(b, 40)),
            nonce: b[48..64].try_into().expect("16 bytes"),
        };
        if head.encode()[..] == *b && head.number > 0 { Copy::Good(head) } else { Copy::Bad }
    }

    /// Reads both copies at the start of a segment. The number says how many are damaged.
    #[must_use]
    pub fn decode(start: &[u8]) -> (Copy, u32) {
        let first = Self::decode_copy(start);
        let second = Self::decode_copy(start.get(HEAD_COPY..).unwrap_or_default());
        let bad = [&first, &second].iter().filter(|&&c| *c == Copy::Bad).count() as u32;
        (if first == Copy::Bad { second } else { first }, bad)
    }
}

/// A mark, as it stands at `offset`: it says where it is, and carries the segment's secret.
#[must_use]
pub fn mark(offset: u32, keys: &Keys) -> [u8; MARK] {
    let head = RecordHead { kind: KIND_MARK, version: 0, flags: 0, id: u64::from(offset) };
    let tag = keys.tag.to_le_bytes();
    let mut out = [0; MARK];
    out[..RECORD_HEAD].copy_from_slice(&record::encode_head(head, &tag, keys));
    out[RECORD_HEAD..].copy_from_slice(&tag);
    out
}

/// What the footer says of one record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its id.
    pub id: u64,
    /// Where its head starts in the segment.
    pub offset: u32,
    /// Bytes of head and payload.
    pub len: u32,
    /// Who owns it: 0 the queue, else an account. Not part of the record itself.
    pub owner: u32,
    /// Its kind.
    pub kind: u8,
}

impl Entry {
    fn encode(&self) -> [u8; ENTRY] {
        let mut b = [0; ENTRY];
        b[..8].copy_from_slice(&self.id.to_le_bytes());
        b[8..12].copy_from_slice(&self.offset.to_le_bytes());
        b[12..16].copy_from_slice(&self.len.to_le_bytes());
        b[16..20].copy_from_slice(&self.owner.to_le_bytes());
        b[20] = self.kind;
        b
    }

    fn decode(b: &[u8]) -> Self {
        let (id, offset, len, owner) = (u64_at(b, 0), u32_at(b, 8), u32_at(b, 12), u32_at(b, 16));
        Entry { id, offset, len, owner, kind: b[20] }
    }
}

/// The last page of a finished segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trailer {
    /// Where the records end and the footer starts.
    pub end: u32,
    /// Number of records.
    pub records: u32,
    /// Bytes of the records.
    pub bytes: u64,
    /// CRC of the footer, padding and all.
    crc: u32,
}

/// Bytes of the footer of `records` records.
#[must_use]
pub fn footer_len(records: usize) -> usize {
    pages(records * ENTRY)
}

/// Footer and trailer of a segment whose records end at `end`.
#[must_use]
pub fn footer(entries: &[Entry], end: u32, keys: &Keys) -> AlignedBuf {
    let len = footer_len(entries.len());
    let mut buf = AlignedBuf::with_capacity(len + PAGE);
    entries.iter().for_each(|e| buf.put(&e.encode()));
    buf.zero_to(len);
    let trailer = Trailer {
        end,
        records: u32::try_from(entries.len()).expect("bounded"),
        bytes: entries.iter().map(|e| u64::from(e.len)).sum(),
        crc: crc32c(keys.seed, &[buf.bytes()]),
    };
    buf.put(&trailer.encode(keys));
    buf
}

impl Trailer {
    fn encode(&self, keys: &Keys) -> [u8; PAGE] {
        let mut b = [0; PAGE];
        b[..8].copy_from_slice(&TRAILER_MAGIC);
        b[12..16].copy_from_slice(&self.end.to_le_bytes());
        b[16..24].copy_from_slice(&keys.tag.to_le_bytes());
        b[24..28].copy_from_slice(&self.records.to_le_bytes());
        b[28..32].copy_from_slice(&self.crc.to_le_bytes());
        b[32..40].copy_from_slice(&self.bytes.to_le_bytes());
        let crc = crc32c(keys.seed, &[&b[12..]]);
        b[8..12].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads the last page of a file of `len` bytes; `None`: it has no (intact) trailer.
    #[must_use]
    pub fn decode(page: &[u8], len: u32, keys: &Keys) -> Option<Self> {
        let b = page.get(..PAGE)?;
        if b[..8] != TRAILER_MAGIC || u64_at(b, 16) != keys.tag {
            return None;
        }
        let trailer =
            Trailer { end: u32_at(b, 12), records: u32_at(b, 24), crc: u32_at(b, 28), bytes: u64_at(b, 32) };
        let footer = trailer.footer_bytes();
        let fits = trailer.end >= HEAD_BYTES
            && (trailer.end as usize).is_multiple_of(PAGE)
            && u64::from(trailer.end) + footer as u64 + PAGE as u64 == u64::from(len);
        (trailer.encode(keys)[..] == *b && fits).then_some(trailer)
    }

    /// Bytes of the footer, which starts at [`Self::end`].
    #[must_use]
    pub fn footer_bytes(&self) -> usize {
        footer_len(self.records as usize)
    }

    /// The footer's entries, in the order of their offsets; `None` if it is damaged.
    #[must_use]
    pub fn entries(&self, footer: &[u8], keys: &Keys) -> Option<Vec<Entry>> {
        let b = footer.get(..self.footer_bytes())?;
        if crc32c(keys.seed, &[b]) != self.crc {
            return None;
        }
        let all: Vec<Entry> = b.chunks_exact(ENTRY).take(self.records as usize).map(Entry::decode).collect();
        let mut at = HEAD_BYTES;
        let sound = all.iter().all(|e| {
            let starts = e.offset >= at && e.len as usize >= RECORD_HEAD;
            at = e.offset.saturating_add(e.len);
            starts && at <= self.end
        });
        sound.then_some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head { log: [3; 16], number: 7, begun: Wall(1_700_000_000_000), nonce: *b"sixteen secrets." }
    }

    #[test]
    fn one_damaged_copy_costs_nothing() {
        let clean = head().bytes().bytes().to_vec();
        for at in 0..clean.len() {
            let mut b = clean.clone();
            b[at] ^= 0x10;
            let (found, bad) = Head::decode(&b);
            assert!(found == Copy::Good(head()) && bad == 1, "byte {at}");
        }
        assert!(matches!(Head::decode(&[0; 8192]), (Copy::Bad, 2)));
    }

    #[test]
    fn a_later_version_is_told() {
        let mut b = head().encode();
        b[12] = 9;
        let crc = crc32c(PLAIN, &[&b[12..]]);
        b[8..12].copy_from_slice(&crc.to_le_bytes());
        assert!(Head::decode_copy(&b) == Copy::Later(9));
    }

    #[test]
    fn footers_come_back_and_any_flip_is_seen() {
        let keys = head().keys();
        let mut at = HEAD_BYTES + MARK as u32;
        let entries: Vec<Entry> = (0..300u32)
            .map(|n| {
                let e = Entry { id: u64::from(n) << 33, offset: at, len: 20 + n, owner: n * 3, kind: 1 };
                at += e.len;
                e
            })
            .collect();
        let end = pages(at as usize) as u32;
        let mut b = footer(&entries, end, &keys).bytes().to_vec();
        let len = end + b.len() as u32;
        let read = |b: &[u8], len: u32, keys: &Keys| {
            let trailer = Trailer::decode(&b[b.len() - PAGE..], len, keys)?;
            trailer.entries(b, keys).map(|e| (trailer, e))
        };
        let (trailer, found) = read(&b, len, &keys).unwrap();
        assert_eq!((trailer.end, trailer.records, found), (end, 300, entries.clone()));
        assert_eq!(trailer.bytes, entries.iter().map(|e| u64::from(e.len)).sum::<u64>());
        assert!(read(&b, len + PAGE as u32, &keys).is_none(), "not where the file ends");
        assert!(read(&b, len, &Keys::new([1; 16])).is_none(), "another segment's");
        for at in 0..b.len() {
            b[at] ^= 1 << (at % 8);
            assert!(read(&b, len, &keys).is_none(), "byte {at}");
            b[at] ^= 1 << (at % 8);
        }
        assert!(Trailer::decode(footer(&[], HEAD_BYTES, &keys).bytes(), 12288, &keys).is_some());
    }
}

//! L2: what an archive file is, from its first pages and its last one.
//!
//! The head is durable before a record is written behind it, so a file without a head and without
//! anything behind it is what a crash left of a beginning; any other one is damage.

use crate::base::aligned::PAGE;
use crate::storage::archive::format::{Copy, HEAD_BYTES, Head, Trailer};
use crate::storage::archive::shelf::Volume;

/// Bytes at the start of a file that [`Found::new`] wants to see.
pub const START_BYTES: usize = HEAD_BYTES as usize;

/// What is at the start of a file.
#[derive(Clone, PartialEq, Eq)]
pub enum Kind {
    /// A segment.
    Segment(Head),
    /// The beginning of one that never came to be: it may be removed.
    Leftover,
    /// A segment of a later version of the format.
    Later(u32),
    /// Something else, or a head that is damaged twice.
    Unreadable,
}

/// A file as found.
pub struct Found {
    /// Number in its name.
    pub number: u32,
    /// Its length.
    pub bytes: u64,
    /// What it is.
    pub kind: Kind,
    /// Copies of the head that are damaged.
    pub bad_copies: u32,
    /// If it was finished.
    pub trailer: Option<Trailer>,
}

/// Number in the name of an archive file.
#[must_use]
pub fn number_in(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".archive").filter(|d| d.len() == 8)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?.filter(|&n| n > 0)
}

/// Name of the file of segment `number`.
#[must_use]
pub fn name_of(number: u32) -> String {
    format!("{number:08}.archive")
}

/// Where the last page of a file of `bytes` bytes starts.
#[must_use]
pub fn last_page(bytes: u64) -> u64 {
    (bytes / PAGE as u64).saturating_sub(1) * PAGE as u64
}

impl Found {
    /// The file with this number and length, which begins with `start` ([`START_BYTES`] or all it
    /// has) and ends with `last` (from [`last_page`] on).
    #[must_use]
    pub fn new(number: u32, bytes: u64, start: &[u8], last: &[u8]) -> Self {
        let (copy, mut bad_copies) = Head::decode(start);
        if bytes <= u64::from(HEAD_BYTES) {
            // A crash while it was begun may leave one copy; nothing depends on the other.
            bad_copies = 0;
        }
        let kind = match copy {
            Copy::Good(head) if head.number == number && u32::try_from(bytes).is_ok() => Kind::Segment(head),
            Copy::Later(version) => Kind::Later(version),
            Copy::Bad if bytes <= u64::from(HEAD_BYTES) => Kind::Leftover,
            Copy::Good(_) | Copy::Bad => Kind::Unreadable,
        };
        let trailer = match &kind {
            Kind::Segment(head) if bytes > u64::from(HEAD_BYTES) => {
                Trailer::decode(last, u32::try_from(bytes).unwrap_or(0), &head.keys())
            }
            _ => None,
        };
        Found { number, bytes, kind, bad_copies, trailer }
    }

    /// Where the records end, or what may be the last of them.
    #[must_use]
    pub fn end(&self) -> u32 {
        let limit = u32::try_from(self.bytes).unwrap_or(0) / PAGE as u32 * PAGE as u32;
        self.trailer.map_or(limit, |t| t.end).max(HEAD_BYTES)
    }

    /// The segment for the shelf.
    #[must_use]
    pub fn volume(&self, head: &Head) -> Volume {
        let mut volume = Volume::new(head.keys(), self.end(), head.begun, false);
        volume.file_bytes = self.bytes;
        if let Some(trailer) = &self.trailer {
            volume.sealed = true;
            volume.records = Some(trailer.records);
            volume.bytes = trailer.bytes;
        }
        volume
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Wall;
    use crate::storage::archive::format;

    #[test]
    fn names() {
        for n in [1, 99_999_999] {
            assert_eq!(number_in(&name_of(n)), Some(n));
        }
        for name in ["00000000.archive", "1.archive", "00000001.segment", "000000x1.archive"] {
            assert_eq!(number_in(name), None, "{name}");
        }
    }

    #[test]
    fn a_beginning_is_told_from_damage() {
        let head = Head { log: [1; 16], number: 5, begun: Wall(1), nonce: [2; 16] };
        let start = head.bytes().bytes().to_vec();
        let kind = |number, bytes, start: &[u8]| Found::new(number, bytes, start, &[]).kind;
        assert!(kind(5, 8192, &start) == Kind::Segment(head.clone()));
        assert!(kind(5, 5000, &start[..5000]) == Kind::Segment(head.clone()), "one copy will do");
        assert!(kind(6, 8192, &start) == Kind::Unreadable, "under another's name");
        assert!(kind(5, 100, &start[..100]) == Kind::Leftover);
        assert!(kind(5, 8192, &[0; 8192]) == Kind::Leftover);
        assert!(kind(5, 12288, &[0; 8192]) == Kind::Unreadable, "there were records");
        let footer = format::footer(&[], HEAD_BYTES, &head.keys());
        let found = Found::new(5, 12288, &start, footer.bytes());
        assert_eq!((found.end(), found.trailer.map(|t| t.records)), (HEAD_BYTES, Some(0)));
        assert_eq!(Found::new(5, 12288, &start, &[0; PAGE]).end(), 12288);
    }
}

//! L1: a place in the archive.

/// Where a record lies in the archive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Place {
    /// Number of the segment, from 1; 0: nowhere.
    pub segment: u32,
    /// Bytes from its start to the record's head.
    pub offset: u32,
    /// Bytes of head and payload.
    pub len: u32,
}

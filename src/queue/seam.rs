//! Stand-in for the journal's address of a record.

/// Where a record lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, PartialOrd, Ord)]
pub struct Location {
    /// Sequence number of the segment.
    pub segment: u64,
    /// Byte offset in it.
    pub offset: u32,
    /// Bytes of header and payload.
    pub len: u32,
}

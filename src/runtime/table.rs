//! L3: an ordered table of small rows on disk, the embedded database behind the index.
//!
//! Here: the contract ([`Table`]) and the packed lists that go in ([`Changes`]) and come out
//! ([`Rows`]). The real table (`disk`) does its work on threads of its own, so that a core never
//! waits for the database or for a page of its file. Knows nothing of mail: which keys there are
//! and what their values mean is the owner's affair.
//!
//! Errors: [`io::ErrorKind::InvalidData`] from opening means that the file is not a sound table; the
//! owner removes it and builds it anew. `StorageFull` from a commit means that nothing was changed.
//! After any other error the table answers only errors until it is opened again.

use std::future::Future;
use std::io;
use std::path::Path;

pub(crate) mod disk;
mod extents;
mod fresh;
mod packed;
mod packing;
mod space;
mod store;

pub use packed::{Change, Changes, Rows};
pub use packing::{Packed, Piece, Pieces};

/// Longest key in bytes; the shortest has one.
pub const KEY_MAX: usize = 255;
/// Longest value in bytes.
pub const VALUE_MAX: usize = 1 << 20;

/// How a table lives on its disk and in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableOptions {
    /// Bytes allocated to the file beyond what it needs now. A transaction that adds rows leaves
    /// them; one that does not may use them, so deletes and updates go on when the disk is full.
    /// About twice the bytes of the pages that one such transaction touches.
    pub reserve_bytes: u64,
    /// A new file grows by about as much at a time: a power of two, 8 MiB at least.
    pub grow_bytes: u64,
    /// Memory for pages of the file, read or about to be written.
    pub cache_bytes: usize,
    /// Rows that lie together in the file. What is in it already is put together at opening.
    pub packed: Option<Packed>,
}

impl Default for TableOptions {
    fn default() -> Self {
        TableOptions { reserve_bytes: 64 << 20, grow_bytes: 8 << 20, cache_bytes: 32 << 20, packed: None }
    }
}

/// How much a scan gives at a time: at least one row if there is one, then until either is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanLimit {
    /// Rows.
    pub rows: usize,
    /// Bytes of keys and values.
    pub bytes: usize,
}

/// An ordered table of small rows on disk, changed by atomic durable transactions.
///
/// Clones are handles of the same table. Reads see the last finished commit and do not wait for one
/// that runs.
pub trait Table: Clone + 'static {
    /// Applies all changes in one transaction; durable when done. Later changes of the same key
    /// win; to delete a row that does not exist changes nothing. One at a time: a second one waits.
    ///
    /// # Errors
    /// `StorageFull`, also if more rows would not leave what they are to ([`Changes::leave`]): nothing was
    /// changed, and the table can still be used. Others: the changes
    /// are there or not, all or none.
    fn commit(&self, changes: Changes) -> impl Future<Output = io::Result<()>>;
    /// The value of `key`.
    ///
    /// # Errors
    /// `InvalidData`: the file is damaged. Others: those of reading, or the table has failed.
    fn get(&self, key: &[u8]) -> impl Future<Output = io::Result<Option<Vec<u8>>>>;
    /// The values of `keys`, in their order, as of one commit.
    ///
    /// # Errors
    /// As [`Self::get`].
    fn get_many(&self, keys: Vec<Vec<u8>>) -> impl Future<Output = io::Result<Vec<Option<Vec<u8>>>>>;
    /// Rows whose keys start with `prefix` and are greater than `after`, in order, up to `limit`.
    /// Fewer than that, or none: there are no more. Each page is as of one commit, several pages need not be.
    ///
    /// # Errors
    /// As [`Self::get`].
    fn scan(&self, prefix: &[u8], after: &[u8], limit: ScanLimit) -> impl Future<Output = io::Result<Rows>>;
    /// As [`Self::scan`], of rows that lie together, as they lie, for who reads many: all keys have one
    /// length, greater than that of `prefix`. As many pieces as have `limit.bytes`, and one more at most.
    ///
    /// # Errors
    /// As [`Self::get`].
    fn scan_pieces(
        &self,
        prefix: &[u8],
        after: &[u8],
        limit: ScanLimit,
    ) -> impl Future<Output = io::Result<Pieces>> {
        async move {
            let rows = self.scan(prefix, after, limit).await?;
            Ok(Pieces::of(&rows, rows.len() >= limit.rows || rows.bytes() >= limit.bytes))
        }
    }
    /// Copies the table as of one commit into a new file, durable with its name, while it is in use.
    ///
    /// # Errors
    /// `AlreadyExists`; those of writing the file, which is then removed.
    fn copy_to(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Bytes that the file takes on the disk.
    fn bytes(&self) -> u64;
    /// Closes the file and gives up its lock; other handles get errors from now on.
    ///
    /// # Errors
    /// Those of the last writes. What was committed is safe nevertheless.
    fn close(self) -> impl Future<Output = io::Result<()>>;
}

#[cfg(test)]
mod tests;

#[cfg(test)]
#[path = "table/packing_tests.rs"]
mod packing_tests;

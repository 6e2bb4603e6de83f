//! The proof that a record is on stable storage.
//!
//! A positive reply to a client takes a [`Committed`] by value, and only `storage` can make one,
//! after the sync has succeeded: acknowledging too early does not compile.

/// A record (or a group of records) is on stable storage.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a commit that nobody acknowledges is a commit for nothing"]
pub struct Committed {
    _only_storage_makes_these: (),
}

impl Committed {
    /// Called by the journal when it releases the tickets of a synced batch, nowhere else.
    pub(in crate::storage) fn after_sync() -> Self {
        Committed { _only_storage_makes_these: () }
    }

    /// For unit tests of those who take tickets.
    #[cfg(test)]
    pub(crate) fn forged() -> Self {
        Committed { _only_storage_makes_these: () }
    }
}

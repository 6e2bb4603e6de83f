//! A table in a redb file, as a thread that may block sees it.
//!
//! Knows redb; nothing of threads and channels. An error that leaves it open what is on the disk, or
//! a panic of redb (it does not expect its pages to change under it), ends the table: all later
//! calls fail. redb keeps checksums of all pages; they are verified when a table is opened.

#![allow(clippy::disallowed_methods)]

use super::space::{Backend, Space};
use super::{Changes, Rows, ScanLimit, TableOptions};
use redb::{Builder, Database, ReadOnlyTable, ReadableDatabase, TableDefinition, TableError, TableHandle};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The name carries the version of the layout: a later one has another name.
const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("ringpost-1");
/// What redb writes for itself at a commit, at most about.
const OVERHEAD: u64 = 1 << 20;
/// Rows of a copy in one transaction.
const COPY: usize = 200_000;

/// An open table.
pub(super) struct Store {
    db: Database,
    pub(super) space: Arc<Space>,
    options: TableOptions,
    failed: AtomicBool,
}

/// Why redb could not, as an error of the contract.
fn told(e: impl Into<redb::Error>) -> io::Error {
    use redb::Error::{
        Corrupted, Io, TableDoesNotExist, TableIsMultimap, TableTypeMismatch, TypeDefinitionChanged,
        UpgradeRequired,
    };
    match e.into() {
        Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => damaged("the file is too short"),
        Io(e) => e,
        e @ (Corrupted(_)
        | UpgradeRequired(_)
        | TableDoesNotExist(_)
        | TableTypeMismatch { .. }
        | TableIsMultimap(_)
        | TypeDefinitionChanged { .. }) => damaged(&e.to_string()),
        e => io::Error::other(e.to_string()),
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a sound table: {why}"))
}

/// Runs `work`; a panic in it says that the file is not what redb left.
fn caught<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(damaged("a page that redb did not expect")))
}

impl Store {
    /// Opens or makes the table and verifies all of it.
    ///
    /// # Errors
    /// See [`super::Table`]; `ResourceBusy` if another process has it open.
    pub(super) fn open(path: &Path, options: TableOptions) -> io::Result<Self> {
        let space = Space::open(path, options)?;
        let backend = Backend(space.clone());
        let db = caught(|| {
            let mut builder = Builder::new();
            builder.set_cache_size(options.cache_bytes).set_check_integrity_on_open(true);
            let db = builder.create_with_backend(backend).map_err(told)?;
            make_rows(&db)?;
            Ok(db)
        })?;
        crate::runtime::uring::disk::sync_parent(path)?;
        let store = Store { db, space, options, failed: AtomicBool::new(false) };
        // Without them the table can be read; what needs them says so.
        drop(store.space.provide(store.margin() + options.reserve_bytes));
        Ok(store)
    }

    /// Runs `work` on it unless it has failed; notes if that fails it.
    pub(super) fn run<T>(&self, work: impl FnOnce(&Store) -> io::Result<T>) -> io::Result<T> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(io::Error::other("the table has failed before"));
        }
        let result = caught(|| work(self));
        if let Err(e) = &result
            && !matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::AlreadyExists)
        {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Bytes that a commit may write beyond the highest written before: half of the cache holds
    /// pages to be written, all others have been written when the commit begins.
    fn margin(&self) -> u64 {
        self.options.cache_bytes as u64 / 2 + OVERHEAD
    }

    pub(super) fn commit(&self, changes: &Changes) -> io::Result<()> {
        self.space.begin();
        let sorted = changes.sorted();
        let transaction = self.db.begin_write().map_err(told)?;
        let mut more_rows = 0_i64;
        {
            let mut rows = transaction.open_table(ROWS).map_err(told)?;
            for change in sorted {
                match change.value() {
                    Some(value) => {
                        let old = rows.insert(change.key(), value).map_err(told)?;
                        more_rows += i64::from(old.is_none());
                    }
                    None => {
                        let old = rows.remove(change.key()).map_err(told)?;
                        more_rows -= i64::from(old.is_some());
                    }
                }
            }
        }
        let reserve = if more_rows > 0 { self.options.reserve_bytes } else { 0 };
        if let Err(e) = self.space.provide(self.margin() + reserve) {
            transaction.abort().map_err(told)?;
            return Err(e);
        }
        transaction.commit().map_err(told)
    }

    fn rows(&self) -> io::Result<ReadOnlyTable<&'static [u8], &'static [u8]>> {
        self.db.begin_read().map_err(told)?.open_table(ROWS).map_err(told)
    }

    pub(super) fn get_many(&self, keys: &[Vec<u8>]) -> io::Result<Vec<Option<Vec<u8>>>> {
        let rows = self.rows()?;
        keys.iter()
            .map(|key| Ok(rows.get(key.as_slice()).map_err(told)?.map(|v| v.value().to_vec())))
            .collect()
    }

    pub(super) fn scan(&self, prefix: &[u8], after: &[u8], limit: ScanLimit) -> io::Result<Rows> {
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let mut page = Rows::new();
        for row in self.rows()?.range::<&[u8]>((from, Bound::Unbounded)).map_err(told)? {
            let (key, value) = row.map_err(told)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            page.push(key.value(), value.value());
            if page.len() >= limit.rows || page.bytes() >= limit.bytes {
                break;
            }
        }
        Ok(page)
    }

    /// Writes the rows as of now into a new table at `path`.
    pub(super) fn copy_to(&self, path: &Path) -> io::Result<()> {
        let rows = self.rows()?;
        let options = TableOptions { reserve_bytes: 0, grow_bytes: 1 << 20, ..self.options };
        let copy = Store::open(path, options)?;
        let mut changes = Changes::new();
        for row in rows.range::<&[u8]>(..).map_err(told)? {
            let (key, value) = row.map_err(told)?;
            changes.put(key.value(), value.value());
            if changes.len() >= COPY {
                copy.commit(&changes)?;
                changes.clear();
            }
        }
        copy.commit(&changes)?;
        copy.close()
    }

    /// Closes the file, with what lets it be opened without a repair.
    pub(super) fn close(self) -> io::Result<()> {
        caught(|| self.db.close().map_err(told))
    }
}

/// Makes the table of rows if the file is new.
fn make_rows(db: &Database) -> io::Result<()> {
    let reading = db.begin_read().map_err(told)?;
    match reading.open_table(ROWS) {
        Ok(_) => return Ok(()),
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(e) => return Err(told(e)),
    }
    if let Some(other) = reading.list_tables().map_err(told)?.next() {
        return Err(damaged(&format!("it has a table {:?}", other.name())));
    }
    drop(reading);
    let transaction = db.begin_write().map_err(told)?;
    transaction.open_table(ROWS).map_err(told)?;
    transaction.commit().map_err(told)
}

//! A table in a redb file, as a thread that may block sees it.
//!
//! Knows redb; nothing of threads and channels. An error that leaves it open what is on the disk, or
//! a panic of redb (it does not expect its pages to change under it), ends the table: all later
//! calls fail. redb keeps checksums of all pages; they are verified when a table is opened.

#![allow(clippy::disallowed_methods)]

use super::space::{Backend, Space};
use super::{Changes, Rows, ScanLimit, TableOptions, fresh, space};
use redb::{Builder, Database, ReadOnlyTable, ReadableDatabase, TableDefinition, WriteTransaction};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The name carries the version of the layout: a later one has another name.
pub(super) const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("ringpost-1");
/// Rows of a copy in one transaction.
const COPY: usize = 200_000;

/// An open table.
pub(super) struct Store {
    db: Option<Database>,
    pub(super) space: Arc<Space>,
    options: TableOptions,
    failed: AtomicBool,
}

/// Why redb could not, as an error of the contract.
pub(super) fn told(e: impl Into<redb::Error>) -> io::Error {
    use redb::Error::{
        Corrupted, Io, TableDoesNotExist, TableIsMultimap, TableTypeMismatch, TypeDefinitionChanged,
        UpgradeRequired,
    };
    match e.into() {
        Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => damaged("the file is too short"),
        // Not found by `Space` beforehand, so it came in the middle of something.
        Io(e) if e.kind() == io::ErrorKind::StorageFull => io::Error::other(e),
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

pub(super) fn damaged(why: &str) -> io::Error {
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
        fresh::make(path, options.grow_bytes)?;
        space::read_ahead(path);
        let space = Space::open(path, options, fresh::region_of)?;
        let backend = Backend(space.clone());
        let db = caught(|| {
            let mut builder = Builder::new();
            builder.set_cache_size(options.cache_bytes).set_check_integrity_on_open(true);
            let db = builder.create_with_backend(backend).map_err(told)?;
            db.begin_read().map_err(told)?.open_table(ROWS).map_err(told)?;
            Ok(db)
        })?;
        Ok(Store { db: Some(db), space, options, failed: AtomicBool::new(false) })
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
            self.space.abandon();
        }
        result
    }

    pub(super) fn db(&self) -> &Database {
        self.db.as_ref().expect("there until closed or dropped")
    }

    pub(super) fn commit(&self, changes: &Changes) -> io::Result<()> {
        self.space.begin()?;
        let transaction = self.db().begin_write().map_err(told)?;
        let provided = self.change(&transaction, changes).and_then(|more_rows| {
            // Rows that go make room, those that stay need none.
            self.space.provide(more_rows > 0, changes.leaves())
        });
        if let Err(e) = provided {
            let given_up = transaction.abort().map_err(told);
            self.space.given_up();
            let soft = e.kind() == io::ErrorKind::StorageFull;
            return if soft { given_up.and(Err(e)) } else { Err(e) };
        }
        transaction.commit().map_err(told)?;
        self.space.measure();
        Ok(())
    }

    /// Makes the changes in a transaction; says how many more rows there are then.
    pub(super) fn change(&self, transaction: &WriteTransaction, changes: &Changes) -> io::Result<i64> {
        let mut rows = transaction.open_table(ROWS).map_err(told)?;
        let mut more_rows = 0;
        for change in changes.sorted() {
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
            if self.space.is_full() {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        Ok(more_rows)
    }

    fn rows(&self) -> io::Result<ReadOnlyTable<&'static [u8], &'static [u8]>> {
        self.db().begin_read().map_err(told)?.open_table(ROWS).map_err(told)
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
        let options = TableOptions { reserve_bytes: 0, ..self.options };
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
    pub(super) fn close(mut self) -> io::Result<()> {
        let db = self.db.take().expect("closed once");
        caught(|| db.close().map_err(told))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Nobody waits for the result, and a damaged file must not end the thread.
        let db = self.db.take();
        drop(caught(move || {
            drop(db);
            Ok(())
        }));
    }
}

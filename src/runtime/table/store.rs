//! A table in a redb file, as a thread that may block sees it.
//!
//! Knows redb; nothing of threads and channels. An error that leaves it open what is on the disk, or
//! a panic of redb (it does not expect its pages to change under it), ends the table: all later
//! calls fail. redb keeps checksums of all pages; they are verified when a table is opened.

#![allow(clippy::disallowed_methods)]

use super::packing::{self, Packed, Piece, Pieces};
use super::space::{Backend, Space};
use super::{Change, Changes, Rows, ScanLimit, TableOptions, fresh, space};
use redb::{
    Builder, Database, Range as RowRange, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition, TableError, WriteTransaction,
};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Reading = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// The name carries the version of the layout: a later one has another name.
pub(super) const ROWS: Definition = TableDefinition::new("ringpost-1");
/// The same beside rows that lie together, so that nobody takes it for all there is.
const OTHERS: Definition = TableDefinition::new("ringpost-2");
/// Pieces of rows that lie together, by key.
const PIECES: Definition = TableDefinition::new("pieces");
/// Rows of a copy in one transaction.
const COPY: usize = 200_000;
/// Rows that are put together in one transaction.
const PACK: usize = 20_000;

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

/// What a read transaction sees.
struct View {
    rows: Reading,
    /// None as long as there never was one.
    pieces: Option<Reading>,
    packed: Option<Packed>,
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
            builder.create_with_backend(backend).map_err(told)
        })?;
        let store = Store { db: Some(db), space, options, failed: AtomicBool::new(false) };
        store.run(|store| {
            if let Some(packed) = options.packed {
                store.put_together(packed)?;
            }
            store.view().map(drop)
        })?;
        Ok(store)
    }

    fn definition(&self) -> Definition {
        if self.options.packed.is_some() { OTHERS } else { ROWS }
    }

    /// Rows that lie each on its own, as earlier versions wrote them, are put together.
    fn put_together(&self, packed: Packed) -> io::Result<()> {
        let reading = self.db().begin_read().map_err(told)?;
        match reading.open_table(OTHERS) {
            Ok(_) => return Ok(()),
            Err(TableError::TableDoesNotExist(_)) => {}
            Err(e) => return Err(told(e)),
        }
        // It must be there: a file of another program is none of ours.
        reading.open_table(ROWS).map_err(told)?;
        drop(reading);
        while self.put_some_together(packed)? {}
        self.transact(0, |transaction| {
            transaction.rename_table(ROWS, OTHERS).map_err(told)?;
            Ok((0, ()))
        })
    }

    /// As many as one transaction takes; `false`: there are none.
    pub(super) fn put_some_together(&self, packed: Packed) -> io::Result<bool> {
        self.transact(0, |transaction| {
            let (mut changes, mut keys) = (Changes::new(), Vec::new());
            let mut rows = transaction.open_table(ROWS).map_err(told)?;
            for row in rows.range::<&[u8]>(&[packed.tag][..]..).map_err(told)?.take(PACK) {
                let (key, value) = row.map_err(told)?;
                if !packed.has(key.value()) {
                    break;
                }
                changes.put(key.value(), value.value());
                keys.push(key.value().to_vec());
            }
            for key in &keys {
                rows.remove(key.as_slice()).map_err(told)?;
            }
            drop(rows);
            self.change_pieces(transaction, packed, &changes.sorted())?;
            Ok((0, !keys.is_empty()))
        })
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

    /// Commits what `work` does; that says how many more rows there are then. If there are more, `leave`
    /// bytes of the disk are left to others.
    fn transact<T>(
        &self,
        leave: u64,
        work: impl FnOnce(&WriteTransaction) -> io::Result<(i64, T)>,
    ) -> io::Result<T> {
        self.space.begin()?;
        let transaction = self.db().begin_write().map_err(told)?;
        let provided = work(&transaction).and_then(|(more_rows, result)| {
            // Rows that go make room, those that stay need none.
            self.space.provide(more_rows > 0, leave)?;
            Ok(result)
        });
        match provided {
            Ok(result) => {
                transaction.commit().map_err(told)?;
                self.space.measure();
                Ok(result)
            }
            Err(e) => {
                let given_up = transaction.abort().map_err(told);
                self.space.given_up();
                let soft = e.kind() == io::ErrorKind::StorageFull;
                if soft { given_up.and(Err(e)) } else { Err(e) }
            }
        }
    }

    pub(super) fn commit(&self, changes: &Changes) -> io::Result<()> {
        self.transact(changes.leaves(), |transaction| {
            self.change(transaction, changes).map(|more_rows| (more_rows, ()))
        })
    }

    /// Makes the changes in a transaction; says how many more rows there are then.
    pub(super) fn change(&self, transaction: &WriteTransaction, changes: &Changes) -> io::Result<i64> {
        let changes = changes.sorted();
        let Some(packed) = self.options.packed else { return self.change_rows(transaction, &changes) };
        let from = changes.partition_point(|c| c.key()[0] < packed.tag);
        let to = changes.partition_point(|c| c.key()[0] <= packed.tag);
        let rows = self.change_rows(transaction, &changes[..from])?
            + self.change_rows(transaction, &changes[to..])?;
        Ok(rows + self.change_pieces(transaction, packed, &changes[from..to])?)
    }

    fn change_rows(&self, transaction: &WriteTransaction, changes: &[Change<'_>]) -> io::Result<i64> {
        let mut rows = transaction.open_table(self.definition()).map_err(told)?;
        let mut more_rows = 0;
        for change in changes {
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
            self.fits()?;
        }
        Ok(more_rows)
    }

    fn change_pieces(
        &self,
        transaction: &WriteTransaction,
        packed: Packed,
        changes: &[Change<'_>],
    ) -> io::Result<i64> {
        if changes.is_empty() {
            return Ok(0);
        }
        let mut pieces = transaction.open_table(PIECES).map_err(told)?;
        let (mut more_rows, mut key, mut piece) = (0, Vec::new(), Vec::new());
        for some in changes.chunk_by(|a, b| packed.together(a.key(), b.key())) {
            key.clear();
            key.extend_from_slice(some[0].key());
            packed.split(&mut key);
            piece.clear();
            let old = pieces.get(key.as_slice()).map_err(told)?;
            let there = old.is_some();
            more_rows += packing::merge(old.as_ref().map_or(&[], |p| p.value()), some, &mut piece)?;
            drop(old);
            if !piece.is_empty() {
                pieces.insert(key.as_slice(), piece.as_slice()).map_err(told)?;
            } else if there {
                pieces.remove(key.as_slice()).map_err(told)?;
            }
            self.fits()?;
        }
        Ok(more_rows)
    }

    fn fits(&self) -> io::Result<()> {
        if self.space.is_full() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn view(&self) -> io::Result<View> {
        let transaction: ReadTransaction = self.db().begin_read().map_err(told)?;
        let rows = transaction.open_table(self.definition()).map_err(told)?;
        let packed = self.options.packed;
        let pieces = match packed.map(|_| transaction.open_table(PIECES)) {
            None | Some(Err(TableError::TableDoesNotExist(_))) => None,
            Some(opened) => Some(opened.map_err(told)?),
        };
        Ok(View { rows, pieces, packed })
    }

    pub(super) fn get_many(&self, keys: &[Vec<u8>]) -> io::Result<Vec<Option<Vec<u8>>>> {
        let view = self.view()?;
        keys.iter().map(|key| view.get(key)).collect()
    }

    pub(super) fn scan(&self, prefix: &[u8], after: &[u8], limit: ScanLimit) -> io::Result<Rows> {
        let mut page = Rows::new();
        let all = |page: &Rows| page.len() < limit.rows && page.bytes() < limit.bytes;
        self.view()?.each(prefix, after, |key, value| {
            page.push(key, value);
            Ok(all(&page))
        })?;
        Ok(page)
    }

    pub(super) fn scan_pieces(&self, prefix: &[u8], after: &[u8], limit: ScanLimit) -> io::Result<Pieces> {
        let mut page = Pieces::default();
        let view = self.view()?;
        let Some(packed) = view.packed.filter(|p| p.has(prefix)) else {
            let rows = self.scan(prefix, after, limit)?;
            return Ok(Pieces::of(&rows, rows.len() >= limit.rows || rows.bytes() >= limit.bytes));
        };
        for piece in view.pieces_from(packed, after.max(prefix))?.into_iter().flatten() {
            let (name, piece) = piece.map_err(told)?;
            if !name.value().starts_with(prefix) {
                break;
            }
            if page.bytes() >= limit.bytes {
                page.more = true;
                break;
            }
            page.push(name.value(), piece.value(), after)?;
        }
        Ok(page)
    }

    /// Writes the rows as of now into a new table at `path`.
    pub(super) fn copy_to(&self, path: &Path) -> io::Result<()> {
        let view = self.view()?;
        let options = TableOptions { reserve_bytes: 0, ..self.options };
        let copy = Store::open(path, options)?;
        let mut changes = Changes::new();
        view.each(&[], &[], |key, value| {
            changes.put(key, value);
            if changes.len() >= COPY {
                copy.commit(&changes)?;
                changes.clear();
            }
            Ok(true)
        })?;
        copy.commit(&changes)?;
        copy.close()
    }

    /// Closes the file, with what lets it be opened without a repair.
    pub(super) fn close(mut self) -> io::Result<()> {
        let db = self.db.take().expect("closed once");
        caught(|| db.close().map_err(told))
    }
}

impl View {
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let (Some(packed), Some(pieces)) = (self.packed.filter(|p| p.has(key)), &self.pieces) else {
            return Ok(self.rows.get(key).map_err(told)?.map(|v| v.value().to_vec()));
        };
        let mut name = key.to_vec();
        let low = packed.split(&mut name);
        let piece = pieces.get(name.as_slice()).map_err(told)?;
        let found = piece.as_ref().map(|p| Piece(p.value()).find(low)).transpose()?.flatten();
        Ok(found.map(<[u8]>::to_vec))
    }

    /// Shows the rows whose keys start with `prefix` and are greater than `after`, in order, until `visit`
    /// says that it has enough.
    fn each(
        &self,
        prefix: &[u8],
        after: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        let Some(tag) = self.packed.map(|p| p.tag) else {
            return self.each_row(prefix, after, &[], &mut visit).map(drop);
        };
        match prefix.first() {
            Some(first) if *first == tag => self.each_packed(prefix, after, &mut visit).map(drop),
            Some(_) => self.each_row(prefix, after, &[], &mut visit).map(drop),
            // What lies together stands among the others.
            None => {
                let _ = self.each_row(prefix, after, &[tag], &mut visit)?
                    && self.each_packed(&[tag], after, &mut visit)?
                    && self.each_row(prefix, after.max(&[tag]), &[], &mut visit)?;
                Ok(())
            }
        }
    }

    /// See [`Self::each`]: of the rows that lie each on its own, below `until` if that is not empty.
    fn each_row(
        &self,
        prefix: &[u8],
        after: &[u8],
        until: &[u8],
        visit: &mut impl FnMut(&[u8], &[u8]) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        for row in self.rows.range::<&[u8]>((from, Bound::Unbounded)).map_err(told)? {
            let (key, value) = row.map_err(told)?;
            let key = key.value();
            if !key.starts_with(prefix) || !until.is_empty() && key >= until {
                break;
            }
            if !visit(key, value.value())? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The pieces from that on in which a row with the key `from` would be.
    fn pieces_from(
        &self,
        packed: Packed,
        from: &[u8],
    ) -> io::Result<Option<RowRange<'_, &'static [u8], &'static [u8]>>> {
        let Some(pieces) = &self.pieces else { return Ok(None) };
        let mut name = from.to_vec();
        if from.len() >= packed.key_len {
            name.truncate(packed.key_len);
            packed.split(&mut name);
        }
        pieces.range::<&[u8]>(name.as_slice()..).map(Some).map_err(told)
    }

    /// See [`Self::each`]: of those that lie together.
    fn each_packed(
        &self,
        prefix: &[u8],
        after: &[u8],
        visit: &mut impl FnMut(&[u8], &[u8]) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let Some(packed) = self.packed else { return Ok(true) };
        let mut key = Vec::with_capacity(packed.key_len);
        for piece in self.pieces_from(packed, after.max(prefix))?.into_iter().flatten() {
            let (name, piece) = piece.map_err(told)?;
            key.clear();
            key.extend_from_slice(name.value());
            let mut rows = Piece(piece.value());
            let Some(last) = key.len().checked_sub(1) else { return Err(damaged("a piece without a key")) };
            let first = key[last];
            // Of most pieces all rows are wanted.
            let whole = last >= prefix.len() && key.starts_with(prefix) && key.as_slice() > after;
            while let Some((low, value)) = rows.next_row()? {
                key[last] = first | low;
                let wanted = whole || key.starts_with(prefix) && key.as_slice() > after;
                if wanted && !visit(&key, value)? {
                    return Ok(false);
                }
            }
            if !key.starts_with(prefix) && key.as_slice() > prefix {
                return Ok(true);
            }
        }
        Ok(true)
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

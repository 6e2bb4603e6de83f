//! What a runtime for tests does not have: types without values for the traits that a test leaves
//! out. Whoever needs a network or a disk writes its own. And a table in memory, which is the same
//! for all.

use super::{Changes, File, Lent, Listener, Part, Rows, ScanLimit, Stream, Table, yield_now};
use crate::base::aligned::{AlignedBuf, SharedBytes};
use crate::base::time::Mono;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ops::Bound;
use std::path::Path;
use std::rc::Rc;

/// A stream or a file that cannot be.
pub enum Never {}

/// A listener that cannot be.
pub struct NoListener<S>(Never, PhantomData<S>);

impl<S: Stream> Listener for NoListener<S> {
    type Stream = S;

    async fn accept(&self) -> io::Result<(S, SocketAddr)> {
        match self.0 {}
    }
    fn local(&self) -> SocketAddr {
        match self.0 {}
    }
    fn close(&self) {
        match self.0 {}
    }
}

impl Stream for Never {
    async fn recv(&self, _: Vec<u8>) -> Lent<usize, Vec<u8>> {
        match *self {}
    }
    async fn readable(&self) -> io::Result<()> {
        match *self {}
    }
    async fn send(&self, _: Vec<u8>) -> Lent<(), Vec<u8>> {
        match *self {}
    }
    async fn send_parts(&self, _: Vec<Part>) -> Lent<(), Vec<Part>> {
        match *self {}
    }
    fn set_deadline(&self, _: Option<Mono>) {
        match *self {}
    }
    fn shutdown(&self) {
        match *self {}
    }
    fn local(&self) -> SocketAddr {
        match *self {}
    }
}

impl File for Never {
    async fn write_at(&self, _: SharedBytes, _: u64) -> io::Result<()> {
        match *self {}
    }
    async fn read_at(&self, _: AlignedBuf, _: u64) -> Lent<(), AlignedBuf> {
        match *self {}
    }
    async fn sync(&self) -> io::Result<()> {
        match *self {}
    }
    fn try_lock(&self) -> io::Result<bool> {
        match *self {}
    }
    fn len(&self) -> io::Result<u64> {
        match *self {}
    }
}

/// What a table in memory holds: survives the runtime that opened it, if its owner keeps it.
#[derive(Default)]
pub struct Stored {
    /// The rows as of the last commit.
    pub rows: RefCell<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Commits so far.
    pub commits: Cell<u64>,
    /// Scans so far.
    pub scans: Cell<u64>,
    /// Commits fail so from now on. `StorageFull` leaves the table usable.
    pub fail: Cell<Option<io::ErrorKind>>,
    /// There is no room for more rows.
    pub full: Cell<bool>,
    /// Commits do not end as long as this is set.
    pub hold: Cell<bool>,
    /// Opening says so: `InvalidData`, for example.
    pub unsound: Cell<Option<io::ErrorKind>>,
    /// How long opening takes.
    pub slow: Cell<std::time::Duration>,
    failed: Cell<bool>,
    open: Cell<u64>,
}

/// A table in memory.
#[derive(Clone)]
pub struct MemTable {
    stored: Rc<Stored>,
    /// Which opening this handle is of.
    opening: u64,
}

impl MemTable {
    /// Opens it; handles of earlier openings get errors from now on.
    pub fn open(stored: &Rc<Stored>) -> io::Result<Self> {
        if let Some(kind) = stored.unsound.get() {
            return Err(kind.into());
        }
        stored.failed.set(false);
        stored.open.set(stored.open.get() + 1);
        Ok(MemTable { stored: stored.clone(), opening: stored.open.get() })
    }

    async fn ready(&self) -> io::Result<()> {
        // Never done at once, like a real one.
        yield_now().await;
        if self.stored.failed.get() || self.stored.open.get() != self.opening {
            return Err(io::Error::other("the table has failed before, or is closed"));
        }
        Ok(())
    }
}

impl Table for MemTable {
    async fn commit(&self, changes: Changes) -> io::Result<()> {
        self.ready().await?;
        while self.stored.hold.get() {
            yield_now().await;
        }
        if let Some(kind) = self.stored.fail.get() {
            self.stored.failed.set(kind != io::ErrorKind::StorageFull);
            return Err(kind.into());
        }
        let apply = |rows: &mut BTreeMap<Vec<u8>, Vec<u8>>| {
            for change in changes.iter() {
                match change.value() {
                    Some(value) => rows.insert(change.key().to_vec(), value.to_vec()),
                    None => rows.remove(change.key()),
                };
            }
        };
        let mut rows = self.stored.rows.borrow_mut();
        if self.stored.full.get() {
            let mut next = rows.clone();
            apply(&mut next);
            if next.len() > rows.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        apply(&mut rows);
        self.stored.commits.set(self.stored.commits.get() + 1);
        Ok(())
    }

    async fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.ready().await?;
        Ok(self.stored.rows.borrow().get(key).cloned())
    }

    async fn get_many(&self, keys: Vec<Vec<u8>>) -> io::Result<Vec<Option<Vec<u8>>>> {
        self.ready().await?;
        let rows = self.stored.rows.borrow();
        Ok(keys.iter().map(|key| rows.get(key).cloned()).collect())
    }

    async fn scan(&self, prefix: &[u8], after: &[u8], limit: ScanLimit) -> io::Result<Rows> {
        self.ready().await?;
        self.stored.scans.set(self.stored.scans.get() + 1);
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let rows = self.stored.rows.borrow();
        let mut page = Rows::new();
        for (key, value) in rows.range::<[u8], _>((from, Bound::Unbounded)) {
            if !key.starts_with(prefix)
                || page.len() >= limit.rows.max(1)
                || page.bytes() >= limit.bytes.max(1)
            {
                break;
            }
            page.push(key, value);
        }
        Ok(page)
    }

    async fn copy_to(&self, _: &Path) -> io::Result<()> {
        self.ready().await?;
        Err(io::ErrorKind::Unsupported.into())
    }

    fn bytes(&self) -> u64 {
        let rows = self.stored.rows.borrow();
        rows.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }

    async fn close(self) -> io::Result<()> {
        self.ready().await?;
        self.stored.open.set(self.stored.open.get() + 1);
        Ok(())
    }
}

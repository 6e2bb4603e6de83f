//! The file under a table: its lock, and blocks that are allocated before they are needed.
//!
//! redb grows its file by regions (`fresh` makes them small), and writes anywhere below its length.
//! So all blocks below the length are allocated, and beyond it the reserve and what a commit itself
//! may need; a full disk is found by [`Space::provide`], before a transaction is committed, never by
//! the writes of a commit. While changes are made it is only noted: what redb then writes beyond
//! the allocated blocks is kept in memory until the transaction is given up, since redb takes no
//! failed write lightly.
//!
//! Blocks beyond the length are allocated without making the file longer (so a file is not longer
//! after each crash); when a table shrinks, the file stays longer until there is more than the
//! reserve. Where the file system copies on write (btrfs, ZFS), allocated blocks promise nothing,
//! and a full disk is an error of a commit.
//!
//! Knows nothing of rows. Errors are those of the system calls, told as they are.

#![allow(unsafe_code, clippy::disallowed_methods)]

use super::TableOptions;
use super::extents::allocated;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the lock of a process that is being killed is waited for, in tries and between them.
const LOCK_TRIES: u32 = 600;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// Twice the pages that redb allocates at once in a commit, for its own lists.
const FEW: u64 = 64 << 10;

/// A file is read ahead in pieces of so many bytes...
const AHEAD: u64 = 4 << 20;
/// ...so many of them at a time, which keeps a disk busy and lets what else is read from it have its turn...
const AHEAD_AT_ONCE: u64 = 8;
/// ...if it is longer than this, up to that length: a small one is read at once anyway, and of a very
/// large one the first pages would be gone before they are wanted.
const AHEAD_FROM: u64 = 16 << 20;
const AHEAD_MAX: u64 = 4 << 30;

/// A table's file.
#[derive(Debug)]
pub(super) struct Space {
    file: File,
    reserve: u64,
    region: u64,
    marks: Mutex<Marks>,
    /// Changes are being made that can still be given up.
    trying: AtomicBool,
    /// They did not fit.
    full: AtomicBool,
    /// The table has failed: nothing touches the file any more.
    dead: AtomicBool,
    /// Bytes on the disk as of the last commit.
    bytes: AtomicU64,
    #[cfg(test)]
    pub(super) faults: Faults,
}

/// What goes wrong with the disk of a test.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Faults {
    /// Its size.
    pub(super) size: AtomicU64,
    /// Writes fail.
    pub(super) writes: AtomicBool,
    /// Syncs fail.
    pub(super) syncs: AtomicBool,
}

#[cfg(test)]
impl Default for Faults {
    fn default() -> Self {
        Faults { size: AtomicU64::new(u64::MAX), writes: false.into(), syncs: false.into() }
    }
}

#[derive(Debug)]
struct Marks {
    /// The length as redb knows it.
    length: u64,
    /// The length of the file: at least that, but for a transaction that does not fit.
    real: u64,
    /// Blocks below are allocated.
    allocated: u64,
    /// Pages of a transaction that does not fit.
    overflow: BTreeMap<u64, Vec<u8>>,
}

impl Space {
    /// Opens the file and takes its lock. `region`: see `fresh`.
    ///
    /// # Errors
    /// Those of the system calls; `ResourceBusy` if another process has the table open.
    pub(super) fn open(
        path: &Path,
        options: TableOptions,
        region: impl FnOnce(&File) -> io::Result<u64>,
    ) -> io::Result<Arc<Self>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        lock(&file)?;
        let region = region(&file)?;
        let meta = file.metadata()?;
        let (length, bytes) = (meta.len(), meta.blocks() * 512);
        // Holes, which copying a file may make, are filled by the first transaction, or it fails.
        let marks = Marks { length, real: length, allocated: allocated(&file), overflow: BTreeMap::new() };
        Ok(Arc::new(Space {
            file,
            reserve: options.reserve_bytes,
            region,
            marks: Mutex::new(marks),
            trying: AtomicBool::new(false),
            full: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            bytes: AtomicU64::new(bytes),
            #[cfg(test)]
            faults: Faults::default(),
        }))
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that the file takes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Changes begin that may be given up.
    ///
    /// # Errors
    /// There is not even space for what the table has; others of fallocate.
    pub(super) fn begin(&self) -> io::Result<()> {
        let mut marks = self.marks();
        marks.overflow.clear();
        let length = marks.length;
        self.allocate(&mut marks, length)?;
        self.full.store(false, Ordering::Relaxed);
        self.trying.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// True if the changes made so far do not fit.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// The changes are made: sees to it that they can be committed, and leave the reserve if they
    /// must, and then `leave` bytes of the disk to others. From now on there is no way back.
    ///
    /// # Errors
    /// `StorageFull`; others of fallocate. Then the changes must be given up.
    pub(super) fn provide(&self, leave_reserve: bool, leave: u64) -> io::Result<()> {
        if self.is_full() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut marks = self.marks();
        let end = if leave_reserve { self.with_reserve(marks.length) } else { self.grown(marks.length) };
        let more = end.saturating_sub(marks.allocated);
        if leave_reserve && more > 0 && leave > 0 && self.free()? < more.saturating_add(leave) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.allocate(&mut marks, end)?;
        self.trying.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The changes have been given up.
    pub(super) fn given_up(&self) {
        self.marks().overflow.clear();
        self.trying.store(false, Ordering::Relaxed);
    }

    /// The table has failed: what redb wants to write when it is dropped is not wanted.
    pub(super) fn abandon(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead.load(Ordering::Relaxed) { Err(io::Error::other("abandoned")) } else { Ok(()) }
    }

    /// A commit is done.
    pub(super) fn measure(&self) {
        if let Ok(meta) = self.file.metadata() {
            self.bytes.store(meta.blocks() * 512, Ordering::Relaxed);
        }
    }

    /// Bytes of the disk that can still be allocated.
    fn free(&self) -> io::Result<u64> {
        // SAFETY: all zeros is a valid `statvfs`, which the call fills.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: a descriptor that is borrowed open, and a local value that outlives the call.
        if unsafe { libc::fstatvfs(self.file.as_raw_fd(), &raw mut stat) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// The length after redb has grown the file once for a few pages, at most: it doubles up to one
    /// region, then it fills the last one, or (if that is not enough) adds one.
    fn grown(&self, length: u64) -> u64 {
        length + length.max(FEW).min(self.region + FEW)
    }

    /// What is allocated if the reserve is: it is of use only if redb can grow into it.
    fn with_reserve(&self, length: u64) -> u64 {
        let grown = self.grown(length);
        (grown + self.reserve).max(self.grown(grown))
    }

    fn allocate(&self, marks: &mut Marks, end: u64) -> io::Result<()> {
        if end <= marks.allocated {
            return Ok(());
        }
        #[cfg(test)]
        if end > self.faults.size.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        match self.fallocate(libc::FALLOC_FL_KEEP_SIZE, marks.allocated, end) {
            Err(e) if cannot(&e) => {
                // Not every file system can: zeros do it, beyond what has been written.
                self.fill(marks.allocated.max(marks.real), end)?;
                marks.real = marks.real.max(end);
            }
            result => result?,
        }
        marks.allocated = end;
        Ok(())
    }

    fn fallocate(&self, mode: libc::c_int, from: u64, to: u64) -> io::Result<()> {
        let offset = |n| libc::off_t::try_from(n).map_err(|_| io::ErrorKind::StorageFull);
        let (from, length) = (offset(from)?, offset(to - from)?);
        loop {
            // SAFETY: a system call on a descriptor that is borrowed open; no memory.
            if unsafe { libc::fallocate(self.file.as_raw_fd(), mode, from, length) } == 0 {
                return Ok(());
            }
            match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                // Of a quota, or of the length that files may have: the same to us.
                e if matches!(e.raw_os_error(), Some(libc::EDQUOT | libc::EFBIG)) => {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                e => return Err(e),
            }
        }
    }

    fn fill(&self, mut from: u64, to: u64) -> io::Result<()> {
        let zeros = vec![0; 1 << 18];
        while from < to {
            let n = (to - from).min(zeros.len() as u64);
            self.file.write_all_at(&zeros[..n as usize], from)?;
            from += n;
        }
        Ok(())
    }

    /// Sets redb's length. What is new reads as zeros.
    fn resize(&self, to: u64) -> io::Result<()> {
        self.alive()?;
        let mut marks = self.marks();
        if to < marks.length {
            marks.length = to;
            return self.trim(&mut marks);
        }
        match self.allocate(&mut marks, to) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::StorageFull && self.trying.load(Ordering::Relaxed) => {
                self.full.store(true, Ordering::Relaxed);
                marks.length = to;
                return Ok(());
            }
            Err(e) => return Err(e),
        }
        let stale = to.min(marks.real);
        if marks.length < stale {
            match self.fallocate(libc::FALLOC_FL_ZERO_RANGE, marks.length, stale) {
                Err(e) if cannot(&e) => self.fill(marks.length, stale)?,
                result => result?,
            }
        }
        if to > marks.real {
            self.file.set_len(to)?;
            marks.real = to;
        }
        marks.length = to;
        Ok(())
    }

    /// Gives back what is far beyond the reserve.
    fn trim(&self, marks: &mut Marks) -> io::Result<()> {
        let keep = self.with_reserve(marks.length);
        if marks.real.max(marks.allocated) > keep + 4 * self.region {
            self.file.set_len(keep)?;
            marks.real = keep;
            marks.allocated = marks.allocated.min(keep);
        }
        Ok(())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.alive()?;
        if self.is_full()
            && let Some(page) = self.marks().overflow.get(&offset)
        {
            let n = out.len().min(page.len());
            out[..n].copy_from_slice(&page[..n]);
            return Ok(());
        }
        self.file.read_exact_at(out, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.alive()?;
        let mut marks = self.marks();
        let end = offset + data.len() as u64;
        if end > marks.allocated {
            if self.is_full() && self.trying.load(Ordering::Relaxed) {
                marks.overflow.insert(offset, data.to_vec());
                return Ok(());
            }
            self.allocate(&mut marks, end)?;
        }
        drop(marks);
        #[cfg(test)]
        if self.faults.writes.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.file.write_all_at(data, offset)
    }
}

/// Begins to read the file at `path` through, in the order of the disk, so that it comes into the page
/// cache: opening verifies it page by page in the order of the tree, which on a cold disk means to wait for
/// each of them. A thread of its own does that; whoever verifies follows it, and waits only for what it wants
/// before its turn. What fails here fails again where it matters; without this opening takes longer, that is
/// all. Gives the number of pieces.
pub(super) fn read_ahead(path: &Path) -> u64 {
    // A description of its own: it has nothing to do with the lock.
    let Ok(file) = File::open(path) else { return 0 };
    let length = file.metadata().map_or(0, |meta| meta.len());
    if length < AHEAD_FROM {
        return 0;
    }
    let pieces = length.min(AHEAD_MAX).div_ceil(AHEAD);
    let body = move || {
        crate::runtime::block_signals();
        ask_in_order(pieces, |piece| ask_for(&file, piece), |piece| has_come(&file, piece, length));
    };
    drop(std::thread::Builder::new().name("index-ahead".into()).spawn(body));
    pieces
}

/// Asks for all of `pieces` in order, a few at a time: for the next when the first of them has come. Ends
/// when either cannot be done.
pub(super) fn ask_in_order(pieces: u64, ask: impl Fn(u64) -> bool, come: impl Fn(u64) -> bool) {
    for piece in 0..pieces + AHEAD_AT_ONCE {
        let done = piece.checked_sub(AHEAD_AT_ONCE);
        if done.is_some_and(|done| done < pieces && !come(done)) || piece < pieces && !ask(piece) {
            return;
        }
    }
}

/// Has the kernel begin to read a piece.
fn ask_for(file: &File, piece: u64) -> bool {
    let (from, length) = ((piece * AHEAD) as libc::off_t, AHEAD as libc::off_t);
    // SAFETY: a system call on a descriptor that is borrowed open; no memory.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), from, length, libc::POSIX_FADV_WILLNEED) == 0 }
}

/// Waits until the end of a piece is there, and with it, more or less, the rest.
fn has_come(file: &File, piece: u64, length: u64) -> bool {
    let last = ((piece + 1) * AHEAD).min(length) - 1;
    matches!(file.read_at(&mut [0], last), Ok(1))
}

/// redb's view of the file.
#[derive(Debug)]
pub(super) struct Backend(pub(super) Arc<Space>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.marks().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.resize(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.alive()?;
        #[cfg(test)]
        if self.0.faults.syncs.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.0.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    /// The last call. Handles may outlive it, so the lock is given up here.
    fn close(&self) -> io::Result<()> {
        self.0.file.unlock()
    }
}

/// The file system does not have the operation.
fn cannot(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}

/// Takes the lock; of a process that was killed it is free when its last write has ended.
fn lock(file: &File) -> io::Result<()> {
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "in use by another process"))
}

//! The file under a table: its lock, and blocks that are allocated before they are needed.
//!
//! redb doubles the length of its file when it needs pages, and takes the lowest free ones. Here the
//! length is only a number (a sparse file); blocks are allocated from the start up to some way
//! beyond the highest byte written, in steps. So a full disk is found by [`Space::provide`], before
//! a transaction is committed, or by a write of the page cache, which redb may do later; never by
//! the writes of a commit. What is below the mark is never given back but by truncation.
//!
//! Knows nothing of pages or rows. Errors are those of the system calls, told as they are.

#![allow(unsafe_code, clippy::disallowed_methods)]

use super::TableOptions;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long the lock of a process that is being killed is waited for, in tries and between them.
const LOCK_TRIES: u32 = 600;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A table's file.
#[derive(Debug)]
pub(super) struct Space {
    file: File,
    options: TableOptions,
    /// The length as redb knows it; the file is at least as long.
    length: AtomicU64,
    /// End of the highest byte written.
    written: AtomicU64,
    marks: Mutex<Marks>,
    /// A write found no space since the last [`Space::begin`].
    full: AtomicBool,
    /// Blocks below are allocated; as in `marks`, for those who only ask.
    allocated: AtomicU64,
    /// Tests: the size of the disk.
    limit: AtomicU64,
}

#[derive(Debug)]
struct Marks {
    allocated: u64,
    real_length: u64,
}

impl Space {
    /// Opens or makes the file and takes its lock.
    ///
    /// # Errors
    /// Those of the system calls; `ResourceBusy` if another process has the table open.
    pub(super) fn open(path: &Path, options: TableOptions) -> io::Result<Arc<Self>> {
        let mut how = OpenOptions::new();
        how.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = how.open(path)?;
        lock(&file)?;
        let length = file.metadata()?.len();
        Ok(Arc::new(Space {
            length: AtomicU64::new(length),
            written: AtomicU64::new(end_of_data(&file, length)),
            marks: Mutex::new(Marks { allocated: 0, real_length: length }),
            full: AtomicBool::new(false),
            allocated: AtomicU64::new(0),
            limit: AtomicU64::new(u64::MAX),
            file,
            options,
        }))
    }

    /// Bytes that the file takes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed).max(self.written.load(Ordering::Relaxed))
    }

    /// Sets the size of the disk as it seems to this table.
    #[cfg(test)]
    pub(super) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// A transaction begins: forgets that there was no space for an earlier one.
    pub(super) fn begin(&self) {
        self.full.store(false, Ordering::Relaxed);
    }

    /// Sees to it that `more` bytes beyond the highest one written are allocated.
    ///
    /// # Errors
    /// `StorageFull`, also if a write since [`Self::begin`] found no space. Others of fallocate.
    pub(super) fn provide(&self, more: u64) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.allocate(self.written.load(Ordering::Relaxed) + more)
    }

    fn allocate(&self, end: u64) -> io::Result<()> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if end <= marks.allocated {
            return Ok(());
        }
        let stepped = end.next_multiple_of(self.options.grow_bytes.max(1));
        let end = match self.fallocate(marks.allocated, stepped) {
            Ok(()) => stepped,
            // Not a whole step any more.
            Err(e) if is_full(&e) => self.fallocate(marks.allocated, end).map(|()| end)?,
            Err(e) => return Err(e),
        };
        marks.allocated = end;
        marks.real_length = marks.real_length.max(end);
        self.allocated.store(end, Ordering::Relaxed);
        Ok(())
    }

    fn fallocate(&self, from: u64, to: u64) -> io::Result<()> {
        if to > self.limit.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let offset = |n| libc::off_t::try_from(n).map_err(|_| io::ErrorKind::FileTooLarge);
        loop {
            // SAFETY: a system call on a descriptor that is borrowed open; no memory.
            let res = unsafe { libc::fallocate(self.file.as_raw_fd(), 0, offset(from)?, offset(to - from)?) };
            if res == 0 {
                return Ok(());
            }
            match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                // Not every file system can: zeros do it, where nothing has been written yet.
                e if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => {
                    return self.fill(from.max(self.written.load(Ordering::Relaxed)), to);
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

    /// Makes the table `to` bytes shorter or longer. What is cut off reads as zeros later.
    fn resize(&self, to: u64) -> io::Result<()> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let from = self.length.load(Ordering::Relaxed);
        if to < from {
            self.written.fetch_min(to, Ordering::Relaxed);
            self.file.set_len(to)?;
            marks.real_length = to;
            marks.allocated = marks.allocated.min(to);
            self.allocated.store(marks.allocated, Ordering::Relaxed);
        } else if to > marks.real_length {
            self.file.set_len(to)?;
            marks.real_length = to;
        }
        self.length.store(to, Ordering::Relaxed);
        Ok(())
    }
}

/// redb's view of the file.
#[derive(Debug)]
pub(super) struct Backend(pub(super) Arc<Space>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.length.load(Ordering::Relaxed))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.resize(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        if let Err(e) = self.0.allocate(end) {
            self.0.full.store(true, Ordering::Relaxed);
            return Err(e);
        }
        self.0.file.write_all_at(data, offset)?;
        self.0.written.fetch_max(end, Ordering::Relaxed);
        Ok(())
    }

    /// The last call. Handles may outlive it, so the lock is given up here.
    fn close(&self) -> io::Result<()> {
        self.0.file.unlock()
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
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

/// Where the last bytes of a file end that are not a hole.
fn end_of_data(file: &File, length: u64) -> u64 {
    let seek = |from: u64, what| {
        let from = libc::off_t::try_from(from).ok()?;
        // SAFETY: a system call on a descriptor that is borrowed open; all reads and writes name
        // their offsets, so nobody minds where it then stands.
        let at = unsafe { libc::lseek(file.as_raw_fd(), from, what) };
        u64::try_from(at).ok()
    };
    let mut end = 0;
    while let Some(data) = seek(end, libc::SEEK_DATA) {
        match seek(data, libc::SEEK_HOLE) {
            Some(hole) if hole > end => end = hole,
            _ => return length,
        }
    }
    match io::Error::last_os_error().raw_os_error() {
        // No more data.
        Some(libc::ENXIO) => end.min(length),
        _ => length,
    }
}

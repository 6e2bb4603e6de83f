//! Files: reads, writes and syncs on the ring, all else on the helper threads.
//!
//! A segment is opened `O_DIRECT|O_DSYNC`; where the file system refuses direct IO, writes go
//! through the page cache and are followed by `fdatasync`. `File::method` says which. An archive
//! segment is opened `O_DIRECT`, or for the page cache where that is refused. Every error
//! and every short write is the caller's; nothing is retried but what an interrupt cut short.

#![allow(unsafe_code, clippy::disallowed_methods)]

use super::ops::{self, Link};
use super::{Uring, WriteMethod};
use crate::base::aligned::{AlignedBuf, PAGE, SharedBytes};
use crate::runtime::helper::{Lane, ask};
use crate::runtime::table::disk::DiskTable;
use crate::runtime::{Lent, OpenAs, TableOptions};
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Bytes of one write when a file is filled with zeros.
const FILL: usize = 1 << 20;
/// Suffix of a file that is still being filled; a crash can leave one behind.
pub const PARTIAL: &str = ".partial";

/// An open file.
#[derive(Debug)]
pub struct File {
    fd: Rc<OwnedFd>,
    access: Access,
}

/// What is done with a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    /// Any bytes; `sync` makes writes durable.
    Plain,
    /// Whole pages; `sync` makes writes durable.
    Pages,
    /// Whole pages, durable one by one.
    Segment(WriteMethod),
}

impl File {
    /// How a segment's writes reach stable storage; `None` for other files.
    #[must_use]
    pub fn method(&self) -> Option<WriteMethod> {
        match self.access {
            Access::Segment(method) => Some(method),
            Access::Plain | Access::Pages => None,
        }
    }

    fn in_pages(&self) -> bool {
        self.access != Access::Plain
    }

    fn metadata(&self) -> io::Result<fs::Metadata> {
        fs::File::from(self.fd.try_clone()?).metadata()
    }
}

impl crate::runtime::File for File {
    async fn write_at(&self, bytes: SharedBytes, offset: u64) -> io::Result<()> {
        if self.in_pages() {
            let aligned = bytes.as_ptr().addr() | bytes.len() | offset as usize;
            assert!(aligned.is_multiple_of(PAGE), "segments are written in whole pages");
        }
        if matches!(self.method(), None | Some(WriteMethod::DirectDsync)) {
            return self.write_all(bytes, offset).await;
        }
        let total = bytes.len();
        let write = ops::write_at(self.fd.clone(), bytes, 0, offset, Link::ThenNext);
        let sync = ops::fsync(self.fd.clone(), false);
        // A short write fails the link, and the sync ends with ECANCELED.
        let (synced, _) = sync.await;
        let (written, _) = write.await;
        match written {
            res if res < 0 => Err(ops::error(res)),
            res if res as usize != total => Err(short_write()),
            _ if synced < 0 => Err(ops::error(synced)),
            _ => Ok(()),
        }
    }

    async fn read_at(&self, mut buf: AlignedBuf, offset: u64) -> Lent<(), AlignedBuf> {
        let mut len = 0;
        let result = loop {
            // Direct IO cannot go on from the middle of a page: that is the end of the file.
            if len == buf.capacity() || (self.in_pages() && len % PAGE != 0) {
                break Ok(());
            }
            let (res, (_, back)) = ops::read_at(self.fd.clone(), buf, len, offset + len as u64).await;
            buf = back;
            match res {
                0 => break Ok(()),
                n if n > 0 => len += n as usize,
                e if -e == libc::EINTR => {}
                e => break Err(ops::error(e)),
            }
        };
        buf.set_len(if result.is_ok() { len } else { 0 });
        (result, buf)
    }

    async fn sync(&self) -> io::Result<()> {
        // fdatasync makes a new length durable, too; not the times, which nobody asks for.
        let times = self.access == Access::Plain;
        match ops::fsync(self.fd.clone(), times).await {
            (0.., _) => Ok(()),
            (e, _) => Err(ops::error(e)),
        }
    }

    fn try_lock(&self) -> io::Result<bool> {
        try_flock(&self.fd)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl File {
    /// One write; a short one is an error. Of files that are not segments the rest is written on,
    /// for there a signal may cut a write short, and on a full disk the rest says so.
    async fn write_all(&self, mut bytes: SharedBytes, offset: u64) -> io::Result<()> {
        let mut from = 0;
        let segment = self.method().is_some();
        while from < bytes.len() {
            let at = offset + from as u64;
            let (res, (_, back)) = ops::write_at(self.fd.clone(), bytes, from, at, Link::Alone).await;
            bytes = back;
            match res {
                n if n > 0 && (!segment || n as usize == bytes.len()) => {
                    from += n as usize;
                    if self.in_pages() && from % PAGE != 0 {
                        return Err(short_write());
                    }
                }
                n if n >= 0 => return Err(short_write()),
                e if -e == libc::EINTR && !segment => {}
                e => return Err(ops::error(e)),
            }
        }
        Ok(())
    }
}

fn short_write() -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, "short write")
}

/// Takes the exclusive lock of an open file description without waiting.
pub(crate) fn try_flock(fd: &OwnedFd) -> io::Result<bool> {
    // SAFETY: a system call on a descriptor that is borrowed open.
    if unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    let e = io::Error::last_os_error();
    if e.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(e) }
}

impl crate::runtime::Disk for Uring {
    type File = File;
    type Table = DiskTable;

    async fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<()> {
        let path = path.to_path_buf();
        ask(Lane::Fill, move || create_zeroed(&path, len)).await
    }

    async fn open(&self, path: &Path, how: OpenAs) -> io::Result<File> {
        let path = path.to_path_buf();
        let wanted = self.core.write;
        let (fd, access) = ask(Lane::Quick, move || open(&path, how, wanted)).await?;
        Ok(File { fd: Rc::new(fd), access })
    }

    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path = path.to_path_buf();
        ask(Lane::Quick, move || create_dir(&path)).await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let dir = dir.to_path_buf();
        ask(Lane::Quick, move || list(&dir)).await
    }

    async fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        let dir = dir.to_path_buf();
        ask(Lane::Quick, move || list_dirs(&dir)).await
    }

    async fn rename_dir(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        ask(Lane::Quick, move || {
            rename_new(&from, &to)?;
            sync_dir(parent(&to))
        })
        .await
    }

    async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let path = path.to_path_buf();
        ask(Lane::Quick, move || {
            fs::remove_dir(&path)?;
            sync_dir(parent(&path))
        })
        .await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let path = path.to_path_buf();
        ask(Lane::Quick, move || {
            fs::remove_file(&path)?;
            sync_dir(parent(&path))
        })
        .await
    }

    async fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        ask(Lane::Quick, move || fs::hard_link(&from, &to)).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_path_buf();
        ask(Lane::Quick, move || sync_dir(&dir)).await
    }

    async fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let path = path.to_path_buf();
        ask(Lane::Quick, move || free_bytes(&path)).await
    }

    fn open_table(&self, path: &Path, options: TableOptions) -> impl Future<Output = io::Result<DiskTable>> {
        DiskTable::open(path, options)
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// Makes the name of a file durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    sync_dir(parent(path))
}

/// Removes a file if it exists.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Makes `dir` and what is missing above it, each made durable in its parent.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => sync_dir(parent(dir)),
        Err(e) if e.kind() == io::ErrorKind::NotFound && dir.parent().is_some() => {
            create_dir(parent(dir))?;
            create_dir(dir)
        }
        // It may have been made by a process that died before it was durable. A parent that we
        // may not read is another's, who made the directory for us.
        Err(_) if dir.is_dir() => match sync_dir(parent(dir)) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            result => result,
        },
        Err(e) => Err(e),
    }
}

fn list(dir: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Names that are not UTF-8 are none of ours.
        if let (true, Ok(name)) = (entry.file_type()?.is_file(), entry.file_name().into_string()) {
            files.push((name, entry.metadata()?.size()));
        }
    }
    files.sort();
    Ok(files)
}

fn list_dirs(dir: &Path) -> io::Result<Vec<String>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let (true, Ok(name)) = (entry.file_type()?.is_dir(), entry.file_name().into_string()) {
            dirs.push(name);
        }
    }
    dirs.sort();
    Ok(dirs)
}

fn open(path: &Path, how: OpenAs, wanted: WriteMethod) -> io::Result<(OwnedFd, Access)> {
    let mut options = OpenOptions::new();
    options.read(true).mode(0o600);
    let flags = match wanted {
        WriteMethod::DirectDsync => libc::O_DIRECT | libc::O_DSYNC,
        WriteMethod::DirectThenSync => libc::O_DIRECT,
        WriteMethod::BufferedThenSync => 0,
    };
    match how {
        OpenAs::Read => Ok((options.open(path)?.into(), Access::Plain)),
        OpenAs::NewSide => Ok((options.write(true).create_new(true).open(path)?.into(), Access::Plain)),
        OpenAs::NewArchive => {
            // Made apart from the opening: that may be tried twice.
            options.clone().write(true).create_new(true).open(path)?;
            let (fd, _) = open_direct(options.write(true), path, flags & libc::O_DIRECT)?;
            Ok((fd, Access::Pages))
        }
        OpenAs::Archive => {
            let (fd, _) = open_direct(&options, path, flags & libc::O_DIRECT)?;
            Ok((fd, Access::Pages))
        }
        OpenAs::Segment => {
            let (fd, direct) = open_direct(options.write(true), path, flags)?;
            Ok((fd, Access::Segment(if direct { wanted } else { WriteMethod::BufferedThenSync })))
        }
    }
}

/// Opens with `flags` or, where the file system refuses them, without; `true`: with them.
fn open_direct(options: &OpenOptions, path: &Path, flags: i32) -> io::Result<(OwnedFd, bool)> {
    let direct = options.clone().custom_flags(flags).open(path);
    match direct.and_then(|file| try_read(&file).map(|()| file)) {
        Ok(file) => Ok((file.into(), true)),
        // open(2): EINVAL where the file system does not support O_DIRECT, and when reading where
        // it wants more than pages.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) && flags != 0 => {
            Ok((options.open(path)?.into(), false))
        }
        Err(e) => Err(e),
    }
}

/// Reads the first page the way the file was opened.
fn try_read(file: &fs::File) -> io::Result<()> {
    let mut page = AlignedBuf::with_capacity(PAGE);
    file.read_at(page.spare_mut(), 0).map(|_| ())
}

/// Writes a file of zeros beside its final name, syncs it, and gives it its name if that is free.
fn create_zeroed(path: &Path, len: u64) -> io::Result<()> {
    if path.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let partial = partial_of(path);
    let result = fill(&partial, len).and_then(|()| rename_new(&partial, path));
    if result.is_err() {
        // The first error counts; a rest is truncated by the next filling of this name.
        drop(fs::remove_file(&partial));
        return result;
    }
    sync_dir(parent(path))
}

/// The name of a file that is not complete.
pub(crate) fn partial_of(path: &Path) -> PathBuf {
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    PathBuf::from(partial)
}

fn fill(path: &Path, len: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    // Direct, so that zeros do not push mail out of the page cache.
    let mut file = match options.clone().custom_flags(libc::O_DIRECT).open(path) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => options.open(path)?,
        other => other?,
    };
    reserve(&file, len)?;
    let mut zeros = AlignedBuf::with_capacity(FILL);
    zeros.zero_to(FILL);
    let whole = len - len % PAGE as u64;
    let mut at = 0;
    while at < whole {
        let n = (whole - at).min(FILL as u64);
        file.write_all(&zeros.bytes()[..n as usize])?;
        at += n;
    }
    if at < len {
        // Not in whole pages, which direct IO refuses.
        options.truncate(false).open(path)?.write_all_at(&zeros.bytes()[..(len - at) as usize], at)?;
    }
    file.sync_all()
}

/// Allocates the file's blocks at once, so that they lie together and a full disk shows early.
fn reserve(file: &fs::File, len: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // SAFETY: a system call on a descriptor that is borrowed open.
    if len == 0 || unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // Not every file system can; the zeros allocate as they are written.
        e if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINTR)) => Ok(()),
        e => Err(e),
    }
}

/// Renames without replacing.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let name = |p: &Path| CString::new(p.as_os_str().as_bytes());
    let (from, to) = (name(from)?, name(to)?);
    // SAFETY: both are C strings that outlive the call.
    let res = unsafe {
        libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::RENAME_NOREPLACE)
    };
    if res == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    space(path).map(|(_, free)| free)
}

/// Bytes of the file system of `path`: all, and those that an ordinary user can still allocate.
///
/// # Errors
/// Those of the system call.
pub fn space(path: &Path) -> io::Result<(u64, u64)> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zeros is a valid `statvfs`, which the call fills.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a C string and a local value that outlive the call.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize)))
}

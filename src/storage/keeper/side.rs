//! L4: side files: bodies too large or too slow for a batch, one file each.
//!
//! Order is what makes them safe: the file is written, synced and its name made durable before the
//! record that names it is staged; it is removed after the record that releases it is durable; a
//! name is never used twice, and a file that no live record names is removed at start. A side file
//! is a row of blocks with a CRC each, verified before their bytes are handed out.
//! A full disk refuses the one message; any other failure of a write or sync poisons.

use crate::base::aligned::{AlignedBuf, SharedBytes};
use crate::base::crc::{PLAIN, crc32c};
use crate::runtime::{File, OpenAs, Runtime};
use crate::storage::group::Staged;
use crate::storage::keeper::{Inner, Keeper, ReadError};
use crate::storage::record::{u32_at, u64_at};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Bytes of a block with its head.
pub const BLOCK: usize = 64 << 10;
/// Bytes of a block's head: CRC over the rest, length of the data, name, index.
const HEAD: usize = 24;

/// A finished side file, as the record that owns it names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SideFile {
    /// Its name: epoch in the upper half, a counter in the lower. Never used twice.
    pub name: u64,
    /// Bytes of the body.
    pub len: u64,
}

/// Why a side file could not be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SideError {
    /// The disk is full: 452 4.3.1.
    Full,
    /// A write has failed; nothing is accepted until a restart.
    Poisoned,
}

impl fmt::Display for SideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SideError::Full => "no disk space for a side file",
            SideError::Poisoned => "the journal is poisoned by a failed write; restart to recover",
        })
    }
}

impl std::error::Error for SideError {}

/// Directory of the side files of the journal in `dir`.
pub(in crate::storage) fn dir(dir: &Path) -> PathBuf {
    dir.join("side")
}

pub(in crate::storage) fn path(journal: &Path, name: u64) -> PathBuf {
    dir(journal).join(format!("{name:016x}.side"))
}

/// Name in the name of a side file.
#[must_use]
pub fn name_of(file: &str) -> Option<u64> {
    let digits = file.strip_suffix(".side").filter(|d| d.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

fn block_head(name: u64, index: u64, data: &[u8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[4..8].copy_from_slice(&(data.len() as u32).to_le_bytes());
    head[8..16].copy_from_slice(&name.to_le_bytes());
    head[16..24].copy_from_slice(&index.to_le_bytes());
    let crc = crc32c(PLAIN, &[&head[4..], data]);
    head[..4].copy_from_slice(&crc.to_le_bytes());
    head
}

/// The data of the block `index` of the side file `name` that `bytes` begins with, if it is intact.
#[must_use]
pub fn block(name: u64, index: u64, bytes: &[u8]) -> Option<&[u8]> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let data = rest.get(..u32_at(head, 4) as usize)?;
    (u64_at(head, 8) == name && block_head(name, index, data) == *head).then_some(data)
}

impl<R: Runtime> Keeper<R> {
    /// Begins a side file.
    pub async fn create_side(&self) -> Result<SideWriter<R>, SideError> {
        let inner = self.inner().clone();
        if inner.poison.is_set() {
            return Err(SideError::Poisoned);
        }
        let counter = inner.next_side.get();
        inner.next_side.set(counter.checked_add(1).expect("4 billion side files in one run"));
        let name = inner.with(|j| j.epoch()) << 32 | u64::from(counter);
        inner.removals.begun(name);
        let file = inner.rt.open(&path(&inner.dir, name), OpenAs::NewSide).await;
        // No byte is at stake yet: whatever the reason, this one message is refused.
        let file = file.map_err(|_| {
            inner.removals.ended(name);
            SideError::Full
        })?;
        let block = Rc::new(AlignedBuf::with_capacity(BLOCK));
        let mut writer = SideWriter { inner, file, name, len: 0, blocks: 0, block, finished: false };
        writer.begin_block();
        Ok(writer)
    }

    /// Opens a side file to read it from its start.
    pub async fn open_side(&self, side: SideFile) -> Result<SideReader<R>, ReadError> {
        let inner = self.inner().clone();
        SideReader::open(&inner.rt, &inner.dir, side).await
    }

    /// Opens a side file to read it from byte `from` on, which lies in it.
    pub async fn open_side_at(&self, side: SideFile, from: u64) -> Result<SideReader<R>, ReadError> {
        let mut reader = self.open_side(side).await?;
        let data = (BLOCK - HEAD) as u64;
        reader.blocks = from / data;
        reader.at = reader.blocks * data;
        reader.skip = (from % data) as usize;
        Ok(reader)
    }

    /// Removes a side file once the record `after`, which releases it, is durable (at the next
    /// start if the process ends before).
    pub fn remove_side(&self, side: SideFile, after: Staged) {
        let inner = self.inner();
        inner.removals.push(side.name, Some(after));
        inner.upkeep.ring();
    }

    /// Removes a side file that no record on stable storage names (at the next start if the process ends
    /// before).
    pub fn discard_side(&self, side: SideFile) {
        let inner = self.inner();
        inner.removals.push(side.name, None);
        inner.upkeep.ring();
    }

    /// Names of all side files there are.
    pub async fn sides(&self) -> io::Result<BTreeSet<u64>> {
        let inner = self.inner();
        let files = inner.rt.list(&dir(&inner.dir)).await?;
        Ok(files.iter().filter_map(|(file, _)| name_of(file)).collect())
    }

    /// Names of those that are finished: they never change any more.
    pub(in crate::storage) async fn finished_sides(&self) -> io::Result<BTreeSet<u64>> {
        let mut all = self.sides().await?;
        // One that was finished since they were listed is named by a later record than was asked for.
        all.retain(|name| !self.inner().removals.is_begun(*name));
        Ok(all)
    }

    /// After recovery: removes all side files of earlier runs that are not named in `live`. Returns
    /// how many.
    pub async fn remove_orphan_sides(&self, live: &BTreeSet<u64>) -> io::Result<u64> {
        let inner = self.inner();
        let epoch = inner.with(|j| j.epoch());
        let mut removed = 0;
        for (file, _) in inner.rt.list(&dir(&inner.dir)).await? {
            if let Some(name) = name_of(&file)
                && name >> 32 < epoch
                && !live.contains(&name)
            {
                match inner.rt.remove(&path(&inner.dir, name)).await {
                    Ok(()) => removed += 1,
                    // Its message has been settled since the files were listed: it went with that.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(removed)
    }
}

/// Side files to be removed, with the record that must be durable before.
#[derive(Default)]
pub(in crate::storage) struct Removals {
    queue: RefCell<VecDeque<(u64, Option<Staged>)>>,
    /// None is removed for so many reasons.
    held: Cell<u32>,
    /// Files that are being written.
    begun: RefCell<BTreeSet<u64>>,
}

impl Removals {
    pub(in crate::storage) fn is_empty(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    /// Nothing is removed until [`Self::let_go`].
    pub(in crate::storage) fn hold(&self) {
        self.held.set(self.held.get() + 1);
    }

    pub(in crate::storage) fn let_go(&self) {
        self.held.set(self.held.get() - 1);
    }

    fn begun(&self, name: u64) {
        self.begun.borrow_mut().insert(name);
    }

    fn ended(&self, name: u64) {
        self.begun.borrow_mut().remove(&name);
    }

    fn is_begun(&self, name: u64) -> bool {
        self.begun.borrow().contains(&name)
    }

    fn push(&self, name: u64, after: Option<Staged>) {
        self.queue.borrow_mut().push_back((name, after));
    }

    /// Removes what may be removed. A file that cannot be removed is an orphan at the next start.
    pub(in crate::storage) async fn run<R: Runtime>(&self, inner: &Inner<R>) {
        let n = if self.held.get() > 0 { 0 } else { self.queue.borrow().len() };
        for _ in 0..n {
            let Some((name, mut after)) = self.queue.borrow_mut().pop_front() else { return };
            let state = match &mut after {
                None => Poll::Ready(true),
                // The upkeep bell rings after every commit while removals wait: no waker is needed.
                Some(staged) => staged.poll(Waker::noop()).map(|r| r.is_ok()),
            };
            match state {
                Poll::Ready(true) => drop(inner.rt.remove(&path(&inner.dir, name)).await),
                Poll::Ready(false) => {}
                Poll::Pending => self.push(name, after),
            }
        }
    }
}

/// A side file being written. Dropped unfinished, it is removed.
pub struct SideWriter<R: Runtime> {
    inner: Rc<Inner<R>>,
    file: R::File,
    name: u64,
    len: u64,
    blocks: u64,
    block: Rc<AlignedBuf>,
    finished: bool,
}

impl<R: Runtime> SideWriter<R> {
    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.len
    }

    /// Appends `bytes`.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), SideError> {
        while !bytes.is_empty() {
            let block = self.block_mut();
            let n = block.room().min(bytes.len());
            block.put(&bytes[..n]);
            let full = block.room() == 0;
            self.len += n as u64;
            bytes = &bytes[n..];
            if full {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Makes all of it durable, with its name. Only now may a record name it.
    pub async fn finish(mut self) -> Result<SideFile, SideError> {
        if self.block.len() > HEAD || self.blocks == 0 {
            self.flush().await?;
        }
        let synced = match self.file.sync().await {
            Ok(()) => self.inner.rt.sync_dir(&dir(&self.inner.dir)).await,
            Err(e) => Err(e),
        };
        if synced.is_err() {
            // What a failed sync has dropped cannot be known afterwards.
            self.inner.poison.set();
        }
        if self.inner.poison.is_set() {
            return Err(SideError::Poisoned);
        }
        self.finished = true;
        Ok(SideFile { name: self.name, len: self.len })
    }

    fn block_mut(&mut self) -> &mut AlignedBuf {
        Rc::get_mut(&mut self.block).expect("a finished write gives its buffer back")
    }

    fn begin_block(&mut self) {
        let block = self.block_mut();
        block.set_len(0);
        block.put(&[0; HEAD]);
    }

    async fn flush(&mut self) -> Result<(), SideError> {
        let (name, index) = (self.name, self.blocks);
        let block = self.block_mut();
        let head = block_head(name, index, &block.bytes()[HEAD..]);
        block.bytes_mut()[..HEAD].copy_from_slice(&head);
        let bytes = SharedBytes::whole(self.block.clone());
        if let Err(e) = self.file.write_at(bytes, index * BLOCK as u64).await {
            use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
            if matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
                return Err(SideError::Full);
            }
            self.inner.poison.set();
            return Err(SideError::Poisoned);
        }
        self.blocks += 1;
        self.begin_block();
        Ok(())
    }
}

impl<R: Runtime> Drop for SideWriter<R> {
    fn drop(&mut self) {
        self.inner.removals.ended(self.name);
        if !self.finished {
            self.inner.removals.push(self.name, None);
            self.inner.upkeep.ring();
        }
    }
}

/// A side file being read.
pub struct SideReader<R: Runtime> {
    file: R::File,
    side: SideFile,
    at: u64,
    blocks: u64,
    /// Bytes of the next block that are not wanted.
    skip: usize,
}

impl<R: Runtime> SideReader<R> {
    /// Opens a side file of the journal in `journal`, whoever owns that, to read it from its start.
    pub async fn open(rt: &R, journal: &Path, side: SideFile) -> Result<Self, ReadError> {
        let file = rt.open(&path(journal, side.name), OpenAs::Read).await.map_err(|e| {
            if e.kind() == io::ErrorKind::NotFound { ReadError::Gone } else { ReadError::Io(e) }
        })?;
        Ok(SideReader { file, side, at: 0, blocks: 0, skip: 0 })
    }

    /// The next piece (up to 64 KiB), verified; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<SharedBytes>, ReadError> {
        if self.at >= self.side.len {
            return Ok(None);
        }
        let want = (self.side.len - self.at).min((BLOCK - HEAD) as u64) as usize;
        let buf = AlignedBuf::with_capacity(BLOCK);
        let (result, buf) = self.file.read_at(buf, self.blocks * BLOCK as u64).await;
        result.map_err(ReadError::Io)?;
        let bytes = SharedBytes::whole(Rc::new(buf));
        let data = block(self.side.name, self.blocks, &bytes);
        if data.is_none_or(|data| data.len() != want) {
            return Err(ReadError::Damaged);
        }
        self.blocks += 1;
        self.at += want as u64;
        let skip = std::mem::take(&mut self.skip).min(want);
        Ok(Some(bytes.part(HEAD + skip..HEAD + want)))
    }
}

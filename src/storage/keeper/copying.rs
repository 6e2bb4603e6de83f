//! L4: a copy of a log while it is in use.
//!
//! While it is [held](Keeper::hold), nothing of it goes: no segment is retired, no side file removed; all
//! else goes on. A copy is of what is on stable storage when it is begun, and ends there: what the log says
//! later is zeros in it. Errors are of the copy only; what is there of it then is the caller's to remove.

use crate::base::aligned::AlignedBuf;
use crate::runtime::{File, OpenAs, Runtime, shared};
use crate::storage::keeper::{Keeper, opening, side};
use std::io;
use std::path::Path;

/// Bytes copied at a time.
const STEP: u64 = 1 << 20;

/// Nothing of the log goes until this is dropped.
pub struct Held<R: Runtime> {
    keeper: Keeper<R>,
    pinned: Vec<u64>,
}

impl<R: Runtime> Drop for Held<R> {
    fn drop(&mut self) {
        let inner = self.keeper.inner();
        for sequence in &self.pinned {
            inner.with(|j| j.unpin(*sequence));
        }
        inner.removals.let_go();
        inner.commit.ring();
        inner.upkeep.ring();
    }
}

impl<R: Runtime> Keeper<R> {
    /// Keeps what there is, for a copy.
    #[must_use]
    pub fn hold(&self) -> Held<R> {
        let inner = self.inner();
        inner.removals.hold();
        let pinned = inner.with(|j| {
            let all: Vec<u64> = j.space().listed().map(|s| s.sequence).collect();
            all.into_iter().filter(|sequence| j.space_mut().pin(*sequence)).collect()
        });
        Held { keeper: self.clone(), pinned }
    }
}

impl<R: Runtime> Held<R> {
    /// Copies the segments of the log into the directory `to`, as far as they are durable; all that has been
    /// staged before is. Gives the bytes.
    ///
    /// # Errors
    /// Reading or writing the copy; or the journal is poisoned.
    pub async fn copy_log(&self, to: &Path) -> io::Result<u64> {
        let inner = self.keeper.inner();
        self.keeper.fence().await.map_err(io::Error::other)?;
        let mut bytes = 0;
        for (file, end, len) in inner.with(|j| j.durable_segments()) {
            let from = opening::segment_path(&inner.dir, file);
            let to = opening::segment_path(to, file);
            copy_file(&inner.rt, (&from, OpenAs::Archive), &to, (end.into(), len.into())).await?;
            bytes += u64::from(len);
        }
        Ok(bytes)
    }

    /// Gives the side files, or copies of them, names below the directory `to`: those that a record may name
    /// that was committed before. Those that are there already are passed over. Gives the bytes.
    ///
    /// # Errors
    /// Reading or writing the copy.
    pub async fn copy_sides(&self, to: &Path) -> io::Result<u64> {
        let inner = self.keeper.inner();
        let folder = side::dir(to);
        inner.rt.create_dir(&folder).await?;
        let mut bytes = 0;
        for name in self.keeper.finished_sides().await? {
            let from = side::path(&inner.dir, name);
            bytes += link_or_copy(&inner.rt, (&from, OpenAs::Read), &side::path(to, name)).await?;
        }
        inner.rt.sync_dir(&folder).await?;
        Ok(bytes)
    }
}

/// One more name for a file that never changes any more, or a copy of it where that cannot be; its bytes.
pub(in crate::storage) async fn link_or_copy<R: Runtime>(
    rt: &R,
    (from, how): (&Path, OpenAs),
    to: &Path,
) -> io::Result<u64> {
    let len = rt.open(from, how).await?.len()?;
    if rt.link(from, to).await.is_err() {
        copy_file(rt, (from, how), to, (len, len)).await?;
    }
    Ok(len)
}

/// Copies the bytes of a file up to `end` into a new one, durable, of `len` bytes; the rest of it are zeros.
pub(in crate::storage) async fn copy_file<R: Runtime>(
    rt: &R,
    (from, how): (&Path, OpenAs),
    to: &Path,
    (end, len): (u64, u64),
) -> io::Result<()> {
    let source = rt.open(from, how).await?;
    let target = rt.open(to, OpenAs::NewSide).await?;
    let mut at = 0;
    while at < len {
        let want = (len - at).min(STEP);
        let mut buf = AlignedBuf::with_capacity(want as usize);
        if at < end {
            let result;
            (result, buf) = source.read_at(buf, at).await;
            result?;
            let there = want.min(end - at) as usize;
            if buf.len() < there {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buf.set_len(there);
        }
        buf.zero_to(want as usize);
        target.write_at(shared(buf), at).await?;
        at += want;
    }
    target.sync().await
}

//! Finding and reading the files of a data directory, past the page cache where that can be done:
//! what is verified is the disk.

#![allow(clippy::disallowed_methods, reason = "a program for operators: reads files")]

use super::Failure;
use crate::base::aligned::{AlignedBuf, PAGE};
use crate::base::ids::{LogNumber, MessageId, QueueId};
use crate::storage::archive::found::{self, Found};
use crate::storage::keeper::opening::segment_number;
use crate::storage::recover::START_BYTES;
use crate::storage::segment::{Copy, SegmentHead};
use crate::storage::side;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The files of one log.
pub struct Log {
    /// Its number, if its folder has such a name.
    pub number: Option<LogNumber>,
    /// Its folder.
    pub dir: PathBuf,
    /// Journal segments by file number.
    pub segments: Vec<(u32, PathBuf)>,
    /// Side files by name.
    pub sides: Vec<(u64, PathBuf)>,
    /// Archive segments by number.
    pub archive: Vec<(u32, PathBuf)>,
}

impl Log {
    /// How people write the id of a message of this log.
    pub fn id(&self, id: u64) -> String {
        match self.number {
            Some(log) => QueueId { message: MessageId(id), log }.to_string(),
            None => format!("{id:x}"),
        }
    }
}

/// All logs in a data directory.
pub fn logs(data: &Path) -> Result<Vec<Log>, Failure> {
    let queue = data.join("queue");
    let mut logs = Vec::new();
    for (name, dir) in names(&queue)? {
        if !dir.is_dir() {
            continue;
        }
        let number = name.parse().ok().filter(|&n| n <= LogNumber::MAX).map(LogNumber);
        logs.push(log(dir, number)?);
    }
    Ok(logs)
}

/// The log in a directory.
pub fn log(dir: PathBuf, number: Option<LogNumber>) -> Result<Log, Failure> {
    let (side, archive) = (dir.join("side"), dir.join("archive"));
    Ok(Log {
        number,
        segments: numbered(&dir, segment_number)?,
        sides: if side.is_dir() { numbered(&side, side::name_of)? } else { Vec::new() },
        archive: if archive.is_dir() { numbered(&archive, found::number_in)? } else { Vec::new() },
        dir,
    })
}

fn names(dir: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let failed = |e| Failure::reading(dir, &e);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Names that are not UTF-8 are none of ours.
        if let Ok(name) = entry.file_name().into_string() {
            names.push((name, entry.path()));
        }
    }
    names.sort();
    Ok(names)
}

fn numbered<T: Ord>(dir: &Path, number: impl Fn(&str) -> Option<T>) -> Result<Vec<(T, PathBuf)>, Failure> {
    let files = names(dir)?.into_iter().filter_map(|(name, path)| Some((number(&name)?, path)));
    Ok(files.collect())
}

/// A file that is read in whole pages.
pub struct Pages {
    file: fs::File,
    /// Its length.
    pub len: u64,
    path: PathBuf,
}

impl Pages {
    /// Opens `path`.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |e| Failure::reading(path, &e);
        let mut options = OpenOptions::new();
        options.read(true);
        let direct = options.clone().custom_flags(libc::O_DIRECT).open(path).and_then(|file| {
            let mut page = AlignedBuf::with_capacity(PAGE);
            file.read_at(page.spare_mut(), 0).map(|_| file)
        });
        let file = match direct {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => options.open(path).map_err(failed)?,
            other => other.map_err(failed)?,
        };
        let len = file.metadata().map_err(failed)?.len();
        Ok(Pages { file, len, path: path.to_owned() })
    }

    /// Reads up to `want` bytes from `offset` (a page's start), fewer only at the end of the file.
    pub fn read(&self, mut buf: AlignedBuf, offset: u64, want: usize) -> Result<AlignedBuf, Failure> {
        let whole = want.next_multiple_of(PAGE);
        if buf.capacity() < whole {
            buf = AlignedBuf::with_capacity(whole);
        }
        let mut len = 0;
        while len < whole && len % PAGE == 0 {
            match self.file.read_at(&mut buf.spare_mut()[len..whole], offset + len as u64) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Failure::reading(&self.path, &e)),
            }
        }
        buf.set_len(len);
        Ok(buf)
    }

    /// The first `want` bytes.
    pub fn start(&self, want: usize) -> Result<AlignedBuf, Failure> {
        self.read(AlignedBuf::with_capacity(want), 0, want)
    }

    /// The head of a journal segment.
    pub fn journal_head(&self) -> Result<Copy, Failure> {
        Ok(SegmentHead::decode(self.start(START_BYTES as usize)?.bytes()).0)
    }

    /// What an archive file of this number is.
    pub fn archive(&self, number: u32) -> Result<Found, Failure> {
        let start = self.start(found::START_BYTES)?;
        let last = self.read(AlignedBuf::with_capacity(PAGE), found::last_page(self.len), PAGE)?;
        Ok(Found::new(number, self.len, start.bytes(), last.bytes()))
    }
}

//! L4: opening a journal: lock, recover, begin the fresh segment. Nothing is accepted before.
//!
//! Errors here are ours or the operator's; the caller does not start.

use crate::base::aligned::{AlignedBuf, PAGE};
use crate::base::time::Mono;
use crate::runtime::{File, OpenAs, Runtime, shared};
use crate::storage::journal::Start;
use crate::storage::keeper::side;
use crate::storage::options::Options;
use crate::storage::record::Recovered;
use crate::storage::recover::{self, Found, LaterVersion, Outcome, RecoveryReport, START_BYTES};
use crate::storage::segment::{HEAD_COPY, SegmentHead};
use crate::storage::walk::Window;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Bytes read at a time in recovery.
const READ_BYTES: usize = 1 << 20;
/// How often a lock is tried.
const LOCK_STEP: Duration = Duration::from_millis(50);

/// Why a journal or an archive cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The options make no sense.
    Options(&'static str),
    /// Another process uses it, or its last writes have not ended.
    Locked(PathBuf),
    /// A later version of the program wrote it.
    Later(LaterVersion),
    /// The disk.
    Io(PathBuf, io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Options(text) => f.write_str(text),
            OpenError::Locked(p) => write!(f, "{} is in use by another process", p.display()),
            OpenError::Later(e) => e.fmt(f),
            OpenError::Io(p, e) => write!(f, "{}: {e}", p.display()),
        }
    }
}

impl std::error::Error for OpenError {}

/// An open journal.
pub(in crate::storage) struct Opened<F> {
    pub start: Start,
    pub report: RecoveryReport,
    pub files: BTreeMap<u32, Rc<F>>,
    pub next_file: u32,
}

/// Path of segment file `number`.
#[must_use]
pub(in crate::storage) fn segment_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{number:08}.segment"))
}

/// Number in the name of a segment file.
#[must_use]
pub fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".segment").filter(|d| d.len() == 8)?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

pub(in crate::storage) async fn open<R: Runtime>(
    rt: &R,
    dir: &Path,
    options: &Options,
    visit: impl FnMut(Recovered<'_>),
) -> Result<Opened<R::File>, OpenError> {
    options.check().map_err(OpenError::Options)?;
    rt.create_dir(&side::dir(dir)).await.map_err(at(dir))?;
    let mut files = take_files(rt, dir, options).await?;
    // A process killed while it made a segment leaves a name that is only in memory; what is written
    // into that segment from now on would be lost with the name.
    rt.sync_dir(dir).await.map_err(at(dir))?;
    let mut next_file = files.last_key_value().map_or(1, |(n, _)| n + 1);
    let (mut outcome, lengths) = recover(dir, &files, visit).await?;
    let report = outcome.report.clone();
    remove_misfits(rt, dir, options, &mut outcome, &mut files, &lengths).await;
    let mut added = None;
    if outcome.needs_file() {
        let path = segment_path(dir, next_file);
        let bytes = u64::from(options.segment_bytes);
        let file = add_file(rt, dir, next_file, bytes).await.map_err(at(&path))?;
        files.insert(next_file, Rc::new(file));
        added = Some(next_file);
        next_file += 1;
    }
    let (mut log, mut nonce) = ([0; 16], [0; 16]);
    rt.fill(&mut log);
    rt.fill(&mut nonce);
    let restart = outcome.restart(options, log, nonce, added);
    let path = segment_path(dir, restart.file);
    write_head(&*files[&restart.file], &restart.head).await.map_err(at(&path))?;
    Ok(Opened { start: restart.start, report, files, next_file })
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |e| OpenError::Io(path, e)
}

/// Whether the journal in `dir` can be opened, as far as can be told without reading it: nobody else
/// has it, and its format is known. It is free again afterwards.
pub async fn probe<R: Runtime>(rt: &R, dir: &Path, options: &Options) -> Result<(), OpenError> {
    let files = take_files(rt, dir, options).await?;
    let (found, _) = heads(dir, &files).await?;
    recover::Recovery::new(found).map(drop).map_err(OpenError::Later)
}

/// Opens and locks the segments.
async fn take_files<R: Runtime>(
    rt: &R,
    dir: &Path,
    options: &Options,
) -> Result<BTreeMap<u32, Rc<R::File>>, OpenError> {
    let mut files = BTreeMap::new();
    for (name, _) in rt.list(dir).await.map_err(at(dir))? {
        let Some(number) = segment_number(&name) else { continue };
        let path = dir.join(name);
        let file = rt.open(&path, OpenAs::Segment).await.map_err(at(&path))?;
        files.insert(number, Rc::new(file));
    }
    lock(rt, dir, options, &files).await?;
    Ok(files)
}

/// The lock of a file stays busy until the last write of a killed process has landed, so this is
/// also the barrier before the first byte is read.
async fn lock<R: Runtime>(
    rt: &R,
    dir: &Path,
    options: &Options,
    files: &BTreeMap<u32, Rc<R::File>>,
) -> Result<(), OpenError> {
    let deadline = rt.now().after(options.lock_wait);
    for (&number, file) in files {
        let path = segment_path(dir, number);
        match lock_file(rt, &**file, deadline).await {
            Ok(true) => {}
            Ok(false) => return Err(OpenError::Locked(path)),
            Err(e) => return Err(OpenError::Io(path, e)),
        }
    }
    Ok(())
}

/// Takes the lock of one file; `false` if it is still held by another process at `deadline`.
pub(in crate::storage) async fn lock_file<R: Runtime>(
    rt: &R,
    file: &R::File,
    deadline: Mono,
) -> io::Result<bool> {
    while !file.try_lock()? {
        if rt.now() >= deadline {
            return Ok(false);
        }
        rt.sleep_until(rt.now().after(LOCK_STEP)).await;
    }
    Ok(true)
}

/// Reads the heads. Also the length of each file.
async fn heads<F: File>(
    dir: &Path,
    files: &BTreeMap<u32, Rc<F>>,
) -> Result<(Vec<Found>, BTreeMap<u32, u32>), OpenError> {
    let mut found = Vec::new();
    let mut lengths = BTreeMap::new();
    for (&number, file) in files {
        let io = |e| OpenError::Io(segment_path(dir, number), e);
        let len = u32::try_from(file.len().map_err(io)?).unwrap_or(u32::MAX);
        let buf = AlignedBuf::with_capacity(START_BYTES as usize);
        let (result, buf) = file.read_at(buf, 0).await;
        result.map_err(io)?;
        found.push(Found::new(number, len, buf.bytes()));
        lengths.insert(number, len);
    }
    Ok((found, lengths))
}

/// Reads the log. Also the length of each file.
async fn recover<F: File>(
    dir: &Path,
    files: &BTreeMap<u32, Rc<F>>,
    mut visit: impl FnMut(Recovered<'_>),
) -> Result<(Outcome, BTreeMap<u32, u32>), OpenError> {
    let (found, lengths) = heads(dir, files).await?;
    let mut recovery = recover::Recovery::new(found).map_err(OpenError::Later)?;
    let mut buf = AlignedBuf::with_capacity(PAGE);
    let (mut base, mut loaded) = (0, 0);
    loop {
        let window = Window { file: loaded, base, bytes: buf.bytes() };
        let (file, offset, len) = match recovery.step(window) {
            recover::Step::Read { file, offset, len } => (file, offset, len as usize),
            recover::Step::Batch { sequence, offset, bytes } => {
                recover::visit(sequence, offset, bytes, &mut visit);
                continue;
            }
            recover::Step::Done => return Ok((recovery.finish(), lengths)),
        };
        buf = refill(&*files[&file], buf, offset, len, len.max(READ_BYTES))
            .await
            .map_err(|e| OpenError::Io(segment_path(dir, file), e))?;
        (loaded, base) = (file, offset);
    }
}

/// Reads `want` bytes (at least `need` or it is an error) at `offset`, into `buf` if it is large
/// enough.
pub(in crate::storage) async fn refill<F: File>(
    file: &F,
    mut buf: AlignedBuf,
    offset: u32,
    need: usize,
    want: usize,
) -> io::Result<AlignedBuf> {
    if buf.capacity() < want {
        buf = AlignedBuf::with_capacity(want);
    }
    buf.set_len(0);
    let (result, buf) = file.read_at(buf, u64::from(offset)).await;
    result?;
    if buf.len() < need {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(buf)
}

/// Free files of another length than is wanted now are of no use.
async fn remove_misfits<R: Runtime>(
    rt: &R,
    dir: &Path,
    options: &Options,
    outcome: &mut Outcome,
    files: &mut BTreeMap<u32, Rc<R::File>>,
    lengths: &BTreeMap<u32, u32>,
) {
    let fits = |n: &u32| lengths[n] == options.segment_bytes;
    let misfits: Vec<u32> = outcome.free.iter().copied().filter(|n| !fits(n)).collect();
    outcome.free.retain(fits);
    for number in misfits {
        files.remove(&number);
        // A file that cannot be removed is only in the way; the next start tries again.
        let _ = rt.remove(&segment_path(dir, number)).await;
    }
}

/// Makes, opens and locks one more zero-filled segment file.
pub(in crate::storage) async fn add_file<R: Runtime>(
    rt: &R,
    dir: &Path,
    number: u32,
    bytes: u64,
) -> io::Result<R::File> {
    let path = segment_path(dir, number);
    rt.create_zeroed(&path, bytes).await?;
    let file = rt.open(&path, OpenAs::Segment).await?;
    if !file.try_lock()? {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    Ok(file)
}

/// One copy after the other: whenever the machine stops, at least one head, old or new, is whole.
async fn write_head<F: File>(file: &F, head: &SegmentHead) -> io::Result<()> {
    for copy in 0..2 {
        let mut page = AlignedBuf::with_capacity(HEAD_COPY);
        page.put(&head.encode());
        file.write_at(shared(page), copy * HEAD_COPY as u64).await?;
    }
    Ok(())
}

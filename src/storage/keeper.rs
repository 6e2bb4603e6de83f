//! L4: drives a journal on a disk: one commit task (one write in flight), one upkeep task (spare
//! segments, removal of files), reading back, copying forward.
//!
//! Knows nothing of mail. A failed write or sync poisons the journal, and with it every journal
//! that shares the [`Poison`]; a panic inside the journal does the same, since its state is then
//! unknown. A disk that hangs makes [`Keeper::committed`] wait; the time-out is the caller's.

pub(in crate::storage) mod bell;
pub mod copying;
pub mod opening;
pub mod removal;
pub mod side;

use crate::base::aligned::{AlignedBuf, PAGE, SharedBytes};
use crate::base::time::Mono;
use crate::runtime::{File, Runtime};
use crate::storage::group::{CommitError, Durable, Staged};
use crate::storage::journal::{Journal, Released, StageError, Step, Write};
use crate::storage::options::{Options, Poison, Urgency};
use crate::storage::record::{self, Location, RecordHead, Recovered};
use crate::storage::recover::{self, RecoveryReport};
use crate::storage::segment::Keys;
use crate::storage::space::Shortage;
use crate::storage::stretch::Stretch;
use crate::storage::walk::{Walk, WalkStep, Window};
use bell::Bell;
use opening::OpenError;
use side::Removals;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Bytes read at a time when a segment is scanned.
const SCAN_BYTES: usize = 1 << 20;
/// Bytes that must fit, or the journal counts as full.
const NEW_MAIL: u64 = 64 << 10;

/// One durable write, for metrics.
#[derive(Clone, Copy, Debug)]
pub struct CommitFacts {
    /// Records in it; 0: the head of a segment.
    pub records: u32,
    /// Bytes written.
    pub bytes: u32,
    /// How long it took.
    pub took: Duration,
}

/// Called after every durable write.
pub type Observer = Box<dyn Fn(CommitFacts)>;

/// The state of a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Segments in the log.
    pub segments: usize,
    /// Free segment files.
    pub free_segments: usize,
    /// Bytes of the log.
    pub total_bytes: u64,
    /// Bytes of live records.
    pub live_bytes: u64,
    /// Live records.
    pub live_records: u64,
    /// Batches written since the start.
    pub commits: u64,
    /// Bytes staged and not yet being written.
    pub waiting_bytes: usize,
    /// A write has failed; nothing is accepted until a restart.
    pub poisoned: bool,
}

/// Why a record could not be read back.
#[derive(Debug)]
pub enum ReadError {
    /// Its segment is no longer part of the log: it was freed before. A fault of the caller.
    Gone,
    /// What is there is not the record.
    Damaged,
    /// The disk.
    Io(io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Gone => f.write_str("the record is no longer there"),
            ReadError::Damaged => f.write_str("the record is damaged on disk"),
            ReadError::Io(e) => write!(f, "reading a record: {e}"),
        }
    }
}

impl std::error::Error for ReadError {}

/// A journal on a disk. Cheap to clone; the last handle's drop ends its tasks after they have
/// written what is staged.
pub struct Keeper<R: Runtime> {
    handle: Rc<Handle<R>>,
}

impl<R: Runtime> Clone for Keeper<R> {
    fn clone(&self) -> Self {
        Keeper { handle: self.handle.clone() }
    }
}

struct Handle<R: Runtime>(Rc<Inner<R>>);

impl<R: Runtime> Drop for Handle<R> {
    fn drop(&mut self) {
        self.0.begin_close();
    }
}

pub(in crate::storage) struct Inner<R: Runtime> {
    pub(in crate::storage) rt: R,
    pub(in crate::storage) dir: PathBuf,
    pub(in crate::storage) poison: Poison,
    pub(in crate::storage) removals: Removals,
    pub(in crate::storage) upkeep: Bell,
    pub(in crate::storage) next_side: Cell<u32>,
    options: Options,
    journal: RefCell<Journal>,
    files: RefCell<BTreeMap<u32, Rc<R::File>>>,
    next_file: Cell<u32>,
    commit: Bell,
    progress: Bell,
    ended: Bell,
    closing: Cell<bool>,
    tasks: Cell<u32>,
    commits: Cell<u64>,
    observer: RefCell<Option<Observer>>,
    /// See [`Keeper::share_disk`].
    last_left: Cell<u64>,
    /// What is staged waits for a segment.
    starved: Cell<bool>,
}

impl<R: Runtime> Keeper<R> {
    /// Opens the journal in `dir` (made if missing): locks it, waits for a dead process's last
    /// writes, recovers, and begins a fresh segment that names the cut. `visit` sees every record of
    /// the log, in order; the caller then counts the live ones with [`Self::keep`], before its first
    /// [`Self::stage`].
    pub async fn open(
        rt: R,
        dir: &Path,
        options: Options,
        poison: Poison,
        visit: impl FnMut(Recovered<'_>),
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let opened = opening::open(&rt, dir, &options, visit).await?;
        let journal = Journal::new(options.clone(), poison.clone(), opened.start);
        let inner = Rc::new(Inner {
            rt: rt.clone(),
            dir: dir.to_owned(),
            poison,
            removals: Removals::default(),
            upkeep: Bell::default(),
            next_side: Cell::new(0),
            options,
            journal: RefCell::new(journal),
            files: RefCell::new(opened.files),
            next_file: Cell::new(opened.next_file),
            commit: Bell::default(),
            progress: Bell::default(),
            ended: Bell::default(),
            closing: Cell::new(false),
            tasks: Cell::new(2),
            commits: Cell::new(0),
            observer: RefCell::new(None),
            last_left: Cell::new(0),
            starved: Cell::new(false),
        });
        rt.spawn_critical(commit_task(TaskGuard(inner.clone())));
        rt.spawn_critical(upkeep_task(TaskGuard(inner.clone())));
        Ok((Keeper { handle: Rc::new(Handle(inner)) }, opened.report))
    }

    pub(in crate::storage) fn inner(&self) -> &Rc<Inner<R>> {
        &self.handle.0
    }

    /// Copies a record into the batch in the making and makes sure that it will be written. When it
    /// is durable, the record at `frees` is no longer live.
    pub fn stage(
        &self,
        head: RecordHead,
        payload: &[&[u8]],
        frees: Option<Location>,
        urgency: Urgency,
    ) -> Result<Staged, StageError> {
        let inner = self.inner();
        let staged = inner.with(|j| j.stage(head, payload, frees, urgency));
        // Also if it was refused: a retirement may have been staged that makes room.
        inner.commit.ring();
        staged
    }

    /// Waits until the record is on stable storage. May be dropped at any time; the record is then
    /// written all the same.
    pub async fn committed(&self, mut staged: Staged) -> Result<Durable, CommitError> {
        poll_fn(|cx| staged.poll(cx.waker())).await
    }

    /// Waits until something has been written or a segment has become free: after
    /// [`StageError::Busy`], try again then. Set a time-out around it.
    pub async fn progress(&self) {
        self.inner().progress.changed().await;
    }

    /// Counts a recovered record as live. Only before the first [`Self::stage`] (panics later:
    /// records that are staged as living are counted already).
    pub fn keep(&self, at: Location) {
        self.inner().with(|j| j.keep(at));
    }

    /// Stops counting a record as live at once. Only if it is durable elsewhere that it is not
    /// needed; the usual way is `frees` of [`Self::stage`].
    pub fn free(&self, at: Location) {
        self.inner().with(|j| j.free(at));
        self.inner().commit.ring();
    }

    /// The payload of a live record, read from disk and verified against `id` and its CRC.
    pub async fn read(&self, at: Location, id: u64) -> Result<SharedBytes, ReadError> {
        let inner = self.inner();
        let pin = Pin::new(inner, at.segment).ok_or(ReadError::Gone)?;
        let start = at.offset as usize / PAGE * PAGE;
        let skip = at.offset as usize - start;
        let buf = AlignedBuf::with_capacity(skip + at.len as usize);
        let (result, buf) = pin.file.read_at(buf, start as u64).await;
        result.map_err(ReadError::Io)?;
        verified(buf, skip, at.len, id, &pin.segment.keys).ok_or(ReadError::Damaged)
    }

    /// The bytes from the page of `from` up to `to` of a segment, in one read.
    pub async fn read_stretch(&self, segment: u64, from: u32, to: u32) -> Result<Stretch, ReadError> {
        let pin = Pin::new(self.inner(), segment).ok_or(ReadError::Gone)?;
        let start = from / PAGE as u32 * PAGE as u32;
        let buf = AlignedBuf::with_capacity((to - start) as usize);
        let (result, buf) = pin.file.read_at(buf, u64::from(start)).await;
        result.map_err(ReadError::Io)?;
        Ok(Stretch::new(start, buf, pin.segment.keys))
    }

    /// Why there is no space for new mail now, if so.
    #[must_use]
    pub fn shortage(&self) -> Option<Shortage> {
        self.inner().with(|j| j.space().admit(Urgency::NewMail, NEW_MAIL, 0)).err()
    }

    /// Whether so many attempts of delivery may be under way. If not, they must wait: what they will say
    /// would take the space without which there can never be more.
    #[must_use]
    pub fn bears(&self, attempts: usize) -> bool {
        self.inner().with(|j| j.bears(attempts as u64))
    }

    /// Everything freed from now on is covered by the owner's index as of transaction `mark`.
    pub fn set_mark(&self, mark: u64) {
        self.inner().with(|j| j.set_mark(mark));
    }

    /// Makes the mark durable, for what is given up for the index's sake outside of the journal.
    pub async fn keep_mark(&self) -> Result<(), StageError> {
        let staged = self.inner().with(|j| j.stage_mark())?;
        self.inner().commit.ring();
        match staged {
            None => Ok(()),
            Some(staged) => self.committed(staged).await.map(drop).map_err(|_| StageError::Poisoned),
        }
    }

    /// An index that lacks transaction `mark` lacks what has been retired.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.inner().with(|j| j.durable_mark())
    }

    /// The id of the log.
    #[must_use]
    pub fn log(&self) -> [u8; 16] {
        self.inner().with(|j| j.log())
    }

    /// Where it lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner().dir
    }

    /// Waits until everything staged before this call is on stable storage.
    pub async fn fence(&self) -> Result<(), CommitError> {
        let staged = self.inner().with(|j| j.fence());
        match staged {
            None if self.inner().poison.is_set() => Err(CommitError),
            None => Ok(()),
            Some(staged) => self.committed(staged).await.map(drop),
        }
    }

    /// The segment whose live records should now be copied forward (staged anew with
    /// [`Urgency::Compaction`] and `frees` = old place), if any. Ask after commits.
    #[must_use]
    pub fn pressure(&self) -> Option<u64> {
        self.inner().with(|j| j.space().pressure())
    }

    /// The oldest segment in which something lives, if space runs out; see [`Space::scarcity`].
    ///
    /// [`Space::scarcity`]: crate::storage::space::Space::scarcity
    #[must_use]
    pub fn scarcity(&self) -> Option<u64> {
        self.inner().with(|j| j.space().scarcity())
    }

    /// The owner takes what lives out of the journal to another place on the same disk, never forward: no
    /// segment takes the last `left` bytes there, unless what is staged cannot be written otherwise; and free
    /// ones go again while the disk is short.
    pub fn share_disk(&self, left: u64) {
        self.inner().last_left.set(left);
        self.inner().with(|j| j.space_mut().share_disk());
    }

    /// The disk is short: free segments beyond the reserve go, if the disk [is shared](Self::share_disk).
    pub fn give_back(&self) {
        self.inner().with(|j| j.space_mut().give_back());
        self.inner().upkeep.ring();
    }

    /// The oldest segment in which something lives, but the one being written.
    #[must_use]
    pub fn oldest_living(&self) -> Option<u64> {
        self.inner().with(|j| j.space().oldest_living().map(|(segment, _)| segment))
    }

    /// Number of the segment being written.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.inner().with(|j| j.space().current().sequence)
    }

    /// The oldest segment in which something lives, if the log is longer than its window.
    #[must_use]
    pub fn overflow(&self) -> Option<u64> {
        self.inner().with(|j| j.space().overflow())
    }

    /// Visits every record of a segment in order, live or not. Damaged batches are stepped over.
    /// Holds the segment meanwhile.
    pub async fn scan(&self, segment: u64, mut visit: impl FnMut(Recovered<'_>)) -> Result<(), ReadError> {
        let mut scanner = self.scanner(segment)?;
        while let Some(batch) = scanner.next().await? {
            batch.for_each(&mut visit);
        }
        Ok(())
    }

    /// Reads a segment batch by batch. Holds it until it is dropped.
    pub fn scanner(&self, segment: u64) -> Result<Scanner<'_, R>, ReadError> {
        let pin = Pin::new(self.inner(), segment).ok_or(ReadError::Gone)?;
        let s = &pin.segment;
        let next = (s.first_batch, s.chain);
        let walk = Walk::over(s.sequence, s.epoch, s.keys, next, Some(s.end), s.bytes);
        Ok(Scanner { pin, walk, buf: AlignedBuf::with_capacity(PAGE), base: 0 })
    }

    /// The state now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let inner = self.inner();
        inner.with(|j| {
            let (segments, free_segments, total_bytes) = j.space().sizes();
            Stats {
                segments,
                free_segments,
                total_bytes,
                live_bytes: j.space().live_bytes(),
                live_records: j.space().live_records(),
                commits: inner.commits.get(),
                waiting_bytes: j.waiting_bytes(),
                poisoned: inner.poison.is_set(),
            }
        })
    }

    /// `observer` is told of every durable write. Replaces the one before. It must not call back.
    pub fn observe(&self, observer: Observer) {
        *self.inner().observer.borrow_mut() = Some(observer);
    }

    /// Writes what is staged, removes what is to be removed, ends the tasks. `stage` still works
    /// until then and nothing staged before it returns is left out.
    pub async fn close(&self) {
        let inner = self.inner();
        inner.begin_close();
        while inner.tasks.get() > 0 {
            inner.ended.changed().await;
        }
    }
}

impl<R: Runtime> Inner<R> {
    /// The journal. A panic in it leaves its state unknown: nothing may be acknowledged after it.
    pub(in crate::storage) fn with<T>(&self, f: impl FnOnce(&mut Journal) -> T) -> T {
        let fuse = Fuse(&self.poison);
        let result = f(&mut self.journal.borrow_mut());
        std::mem::forget(fuse);
        result
    }

    fn begin_close(&self) {
        self.closing.set(true);
        self.commit.ring();
        self.upkeep.ring();
    }

    fn file(&self, number: u32) -> Rc<R::File> {
        self.files.borrow()[&number].clone()
    }

    fn needs_upkeep(&self) -> bool {
        !self.removals.is_empty() || self.with(|j| j.space().wants_file() || j.space().has_doomed())
    }

    fn fail_if_poisoned(&self, wakers: &mut Vec<Waker>) {
        self.with(|j| j.fail_waiting(wakers));
        wakers.drain(..).for_each(Waker::wake);
    }

    async fn write(&self, write: Write, wakers: &mut Vec<Waker>) {
        let file = self.file(write.file);
        let began = self.rt.now();
        let result = file.write_at(write.bytes, write.offset).await;
        let took = self.rt.now().since(began);
        let Released { records, bytes } = self.with(|j| j.written(result.is_ok(), wakers));
        if records > 0 {
            self.commits.set(self.commits.get() + 1);
        }
        if let Some(observer) = &*self.observer.borrow()
            && bytes > 0
        {
            observer(CommitFacts { records, bytes, took });
        }
    }

    /// Makes one more zero-filled segment, if the disk has room for it.
    async fn make_file(&self) -> Result<(), ()> {
        let bytes = u64::from(self.options.segment_bytes);
        let last = self.with(|j| j.space().is_urgent());
        let keep = match (last, self.starved.get()) {
            (true, true) => 0,
            (true, false) => self.last_left.get(),
            // As much again is on its way while the last of it is used.
            (false, _) => self.options.disk_free_min.max(2 * self.last_left.get()),
        };
        let free = self.rt.free_bytes(&self.dir).await.map_err(drop)?;
        if free < bytes + keep {
            return Err(());
        }
        let number = self.next_file.get();
        self.next_file.set(number + 1);
        let file = opening::add_file(&self.rt, &self.dir, number, bytes).await.map_err(drop)?;
        self.files.borrow_mut().insert(number, Rc::new(file));
        self.with(|j| j.add_file(number));
        self.commit.ring();
        self.progress.ring();
        Ok(())
    }

    async fn remove_doomed(&self) {
        while let Some(number) = self.with(|j| j.space_mut().take_doomed()) {
            self.files.borrow_mut().remove(&number);
            // A file left behind is found and removed at the next start.
            let _ = self.rt.remove(&opening::segment_path(&self.dir, number)).await;
        }
    }
}

/// One write at a time, as long as there is something to write.
async fn commit_task<R: Runtime>(guard: TaskGuard<R>) {
    let inner = &guard.0;
    let mut wakers = Vec::new();
    loop {
        let step = inner.with(Journal::next_step);
        inner.starved.set(matches!(step, Step::NeedSegment));
        match step {
            Step::Write(write) => {
                inner.write(write, &mut wakers).await;
                wakers.drain(..).for_each(Waker::wake);
                inner.progress.ring();
                if inner.needs_upkeep() {
                    inner.upkeep.ring();
                }
            }
            Step::NeedSegment => {
                inner.upkeep.ring();
                // Not for ever: another core may poison meanwhile.
                let timer = inner.rt.sleep_until(inner.rt.now().after(inner.options.retry_space));
                first(inner.commit.next(), timer).await;
                inner.fail_if_poisoned(&mut wakers);
            }
            Step::Idle => {
                inner.fail_if_poisoned(&mut wakers);
                if inner.closing.get() && inner.with(|j| j.is_quiet()) {
                    return;
                }
                inner.commit.next().await;
            }
        }
    }
}

/// What need not be done before anyone is answered: spare segments, removal of files.
async fn upkeep_task<R: Runtime>(guard: TaskGuard<R>) {
    let inner = &guard.0;
    let mut not_before = Mono(0);
    loop {
        inner.remove_doomed().await;
        inner.removals.run(inner).await;
        let now = inner.rt.now();
        let closing = inner.closing.get();
        let wants = inner.with(|j| j.space().wants_file() && (!closing || j.space().is_urgent()));
        if wants && now >= not_before && !inner.poison.is_set() {
            if inner.make_file().await.is_ok() {
                continue;
            }
            inner.with(|j| j.space_mut().cannot_add());
            // Who waits for a segment is refused from now on.
            inner.progress.ring();
            not_before = inner.rt.now().after(inner.options.retry_space);
        }
        // The commit task is the last to need a new segment.
        if inner.closing.get() && inner.tasks.get() == 1 {
            inner.removals.run(inner).await;
            return;
        }
        if wants && !inner.poison.is_set() {
            let timer = inner.rt.sleep_until(not_before);
            first(inner.upkeep.next(), timer).await;
        } else {
            inner.upkeep.next().await;
        }
    }
}

async fn first(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| if a.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { b.as_mut().poll(cx) }).await;
}

/// Counts a task as ended, however it ends; by a panic, the journal is poisoned.
struct TaskGuard<R: Runtime>(Rc<Inner<R>>);

impl<R: Runtime> Drop for TaskGuard<R> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison.set();
        }
        self.0.tasks.set(self.0.tasks.get() - 1);
        self.0.upkeep.ring();
        self.0.ended.ring();
    }
}

/// The payload of the record of `len` bytes that stands `skip` bytes from the start of `buf`, if it is
/// intact and that of `id`.
pub(in crate::storage) fn verified(
    buf: AlignedBuf,
    skip: usize,
    len: u32,
    id: u64,
    keys: &Keys,
) -> Option<SharedBytes> {
    let end = skip + len as usize;
    let (head, payload, found) = record::decode(buf.bytes().get(skip..end)?, keys)?;
    let start = end - payload.len();
    (head.id == id && found == len).then(|| SharedBytes::whole(Rc::new(buf)).part(start..end))
}

/// Poisons when dropped: only a panic lets it come to that.
pub(in crate::storage) struct Fuse<'a>(pub(in crate::storage) &'a Poison);

impl Drop for Fuse<'_> {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// A segment held for reading.
struct Pin<'a, R: Runtime> {
    inner: &'a Inner<R>,
    segment: crate::storage::space::Segment,
    file: Rc<R::File>,
}

impl<'a, R: Runtime> Pin<'a, R> {
    fn new(inner: &'a Inner<R>, sequence: u64) -> Option<Self> {
        let segment = inner.with(|j| {
            j.space_mut().pin(sequence).then(|| j.space().get(sequence).expect("just pinned").clone())
        })?;
        let file = inner.file(segment.file);
        Some(Pin { inner, segment, file })
    }
}

impl<R: Runtime> Drop for Pin<'_, R> {
    fn drop(&mut self) {
        self.inner.with(|j| j.unpin(self.segment.sequence));
        self.inner.commit.ring();
    }
}

/// A segment being read from its start.
pub struct Scanner<'a, R: Runtime> {
    pin: Pin<'a, R>,
    walk: Walk,
    buf: AlignedBuf,
    base: u32,
}

impl<R: Runtime> Scanner<'_, R> {
    /// The records of the next batch, in order; `None`: there is none. Damaged batches are stepped over.
    pub async fn next(&mut self) -> Result<Option<impl Iterator<Item = Recovered<'_>>>, ReadError> {
        let (file, sequence, end) = (self.pin.segment.file, self.pin.segment.sequence, self.pin.segment.end);
        let place = loop {
            let window = Window { file, base: self.base, bytes: self.buf.bytes() };
            let (offset, len) = match self.walk.step(window, file) {
                WalkStep::Read { offset, len } => (offset, len as usize),
                WalkStep::Batch { offset, bytes, .. } => break (offset, bytes.len()),
                WalkStep::End(_) => return Ok(None),
            };
            let want = len.max(SCAN_BYTES.min((end - offset) as usize));
            let buf = std::mem::replace(&mut self.buf, AlignedBuf::with_capacity(0));
            self.buf =
                opening::refill(&*self.pin.file, buf, offset, len, want).await.map_err(ReadError::Io)?;
            self.base = offset;
        };
        let start = (place.0 - self.base) as usize;
        let bytes = &self.buf.bytes()[start..start + place.1];
        Ok(Some(recover::records(sequence, place.0, bytes)))
    }
}

#[cfg(test)]
pub(crate) mod double;

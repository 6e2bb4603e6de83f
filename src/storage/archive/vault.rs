//! L4: drives an archive on a disk: one task that does one write or sync at a time, reading back,
//! scanning, removal.
//!
//! Knows nothing of mail. A failed sync, or a write that failed for another reason than a full disk,
//! poisons the archive and every journal that shares the [`Poison`]; reading goes on. A full disk is
//! told to whoever appends ([`ArchiveError::Full`]).

mod copying;

use crate::base::aligned::{AlignedBuf, PAGE, SharedBytes};
use crate::base::time::Wall;
use crate::runtime::{File, OpenAs, Runtime, shared};
use crate::storage::archive::format::{Entry, HEAD_BYTES, Head, Trailer};
use crate::storage::archive::found::{self, Found, Kind};
use crate::storage::archive::scan::{self, Scan};
use crate::storage::archive::shelf::{Shelf, Victim, Volume};
use crate::storage::archive::state::{Denied, Fault, State, Step, Where};
use crate::storage::archive::{ArchiveError, Options, Place};
use crate::storage::keeper::bell::Bell;
use crate::storage::keeper::{Fuse, ReadError, verified};
use crate::storage::opening::{self, OpenError};
use crate::storage::options::Poison;
use crate::storage::record::RecordHead;
use crate::storage::recover::LaterVersion;
use crate::storage::stretch::Stretch;
use crate::storage::walk::Window;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Bytes read at a time when a segment is scanned.
const SCAN_BYTES: usize = 1 << 20;
/// Files and damages listed at most; the counts go on.
const LISTED_MAX: usize = 1000;

/// What opening an archive found, for the operator.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ArchiveReport {
    /// Segments.
    pub segments: u32,
    /// Of these, those that a crash left without a footer. Not an error.
    pub unfinished: u32,
    /// Bytes of their files.
    pub bytes: u64,
    /// Damaged copies of heads (each segment has two).
    pub bad_heads: u32,
    /// Files left alone, for a person to look at: of another log, or with an unreadable head.
    pub set_aside: u32,
    /// Their names, the first 1000.
    pub set_aside_names: Vec<String>,
    /// Beginnings of segments that a crash left, removed.
    pub removed: u32,
}

/// The state of an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Segments.
    pub segments: usize,
    /// Bytes of their files.
    pub bytes: u64,
    /// Bytes of live records.
    pub live_bytes: u64,
    /// Live records.
    pub live_records: u64,
    /// Bytes that wait to be written.
    pub waiting_bytes: usize,
    /// How often a full disk has cost records that had been taken.
    pub losses: u64,
    /// A write has failed; nothing is accepted until a restart.
    pub poisoned: bool,
}

/// Bytes of a segment that do not verify.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// First byte.
    pub from: u32,
    /// End.
    pub to: u32,
}

/// What a scan has met.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scanned {
    /// Records visited.
    pub records: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Behind the end there is something that was never finished.
    pub torn: bool,
    /// Number of damages.
    pub damage_count: u64,
    /// The damages, the first 1000. The records in them are lost.
    pub damages: Vec<Damage>,
    /// Places of the last run that do not verify, its torn end among them, the first 1000: what a crash left
    /// of a write, or damage. Nothing tells which.
    pub doubts: Vec<Damage>,
}

/// An archive on a disk. Cheap to clone; each task that appends uses a clone of its own, for
/// [`Archive::sync`] answers for what was appended through the same handle. The last handle's drop
/// ends its task after it has written what is queued.
pub struct Archive<R: Runtime> {
    handle: Rc<Handle<R>>,
    /// Losses this handle knows of.
    seen: Cell<u64>,
    /// It has appended something since its last sync.
    unsynced: Cell<bool>,
}

impl<R: Runtime> Clone for Archive<R> {
    fn clone(&self) -> Self {
        Archive::over(self.handle.clone())
    }
}

struct Handle<R: Runtime>(Rc<Inner<R>>);

impl<R: Runtime> Drop for Handle<R> {
    fn drop(&mut self) {
        self.0.closing.set(true);
        self.0.work.ring();
    }
}

struct Inner<R: Runtime> {
    rt: R,
    dir: PathBuf,
    options: Options,
    poison: Poison,
    log: [u8; 16],
    state: RefCell<State>,
    files: RefCell<Files<R::File>>,
    /// See [`Archive::take_last_space`].
    last_space: Cell<bool>,
    /// See [`Archive::is_short`].
    short: Cell<bool>,
    /// See [`Archive::is_scarce`].
    scarce: Cell<bool>,
    /// See [`Archive::give_last`].
    last_given: Cell<bool>,
    /// Something is to be done.
    work: Bell,
    /// Something was done.
    progress: Bell,
    closing: Cell<bool>,
    running: Cell<bool>,
}

/// Open files, the least recently used one closed when there are too many. A file in use is held by
/// its reader, also when it has been removed meanwhile.
struct Files<F> {
    open: BTreeMap<u32, (Rc<F>, u64)>,
    clock: u64,
    max: usize,
}

impl<F> Files<F> {
    fn get(&mut self, number: u32) -> Option<Rc<F>> {
        self.clock += 1;
        let entry = self.open.get_mut(&number)?;
        entry.1 = self.clock;
        Some(entry.0.clone())
    }

    fn put(&mut self, number: u32, file: Rc<F>, written: Option<u32>) {
        self.clock += 1;
        self.open.insert(number, (file, self.clock));
        while self.open.len() > self.max {
            // The one being written is not reopened: only its own description may write.
            let others = self.open.iter().filter(|(n, _)| **n != number && Some(**n) != written);
            let Some(oldest) = others.min_by_key(|(_, f)| f.1).map(|(n, _)| *n) else { return };
            self.open.remove(&oldest);
        }
    }
}

impl<R: Runtime> Archive<R> {
    /// Opens the archive of `log` in `dir` (made if missing): locks every segment, waits for a dead
    /// process's last writes, reads heads and trailers. Nothing is ever appended to an old segment.
    /// The caller then counts what lives with [`Self::keep`], and says [`Self::counted`].
    pub async fn open(
        rt: R,
        dir: &Path,
        options: Options,
        poison: Poison,
        log: [u8; 16],
    ) -> Result<(Self, ArchiveReport), OpenError> {
        options.check().map_err(OpenError::Options)?;
        let opened = open_all(&rt, dir, &options, log).await?;
        let shelf = Shelf::new(&options, opened.volumes);
        let state = State::new(options.clone(), poison.clone(), shelf, opened.next_number);
        let inner = Rc::new(Inner {
            rt: rt.clone(),
            dir: dir.to_owned(),
            options,
            poison,
            log,
            state: RefCell::new(state),
            files: RefCell::new(opened.files),
            last_space: Cell::new(false),
            short: Cell::new(false),
            scarce: Cell::new(false),
            last_given: Cell::new(false),
            work: Bell::default(),
            progress: Bell::default(),
            closing: Cell::new(false),
            running: Cell::new(true),
        });
        rt.spawn_critical(drive(TaskGuard(inner.clone())));
        Ok((Archive::over(Rc::new(Handle(inner))), opened.report))
    }

    fn over(handle: Rc<Handle<R>>) -> Self {
        let seen = handle.0.with(|s| s.losses());
        Archive { handle, seen: Cell::new(seen), unsynced: Cell::new(false) }
    }

    fn inner(&self) -> &Inner<R> {
        &self.handle.0
    }

    /// Takes a record into memory and counts it as living. Its place is final; durable it is after
    /// [`Self::sync`]. Waits while too much is waiting to be written. `owner`: 0 the queue, else an
    /// account; it stands in the footer only. May be dropped at any time; the record is then taken
    /// or it is not.
    ///
    /// After an error: append nothing more, and ask [`Self::sync`] what has become of the rest.
    pub async fn append(
        &self,
        head: RecordHead,
        owner: u32,
        payload: &[&[u8]],
    ) -> Result<Place, ArchiveError> {
        let inner = self.inner();
        if !self.unsynced.get() {
            self.seen.set(inner.with(|s| s.losses()));
        }
        let refusals = inner.with(|s| s.refusals());
        loop {
            if inner.with(|s| s.losses()) != self.seen.get() {
                return Err(ArchiveError::Full);
            }
            match inner.with(|s| s.append(head, owner, payload)) {
                Ok(place) => {
                    self.unsynced.set(true);
                    if inner.with(|s| !s.is_quiet()) {
                        inner.work.ring();
                    }
                    return Ok(place);
                }
                Err(Denied::Poisoned) => return Err(ArchiveError::Poisoned),
                Err(Denied::Wait) => inner.wait().await?,
            }
            if inner.with(|s| s.refusals()) != refusals {
                return Err(ArchiveError::Full);
            }
        }
    }

    /// Makes durable whatever is appended. [`ArchiveError::Full`]: some of what was appended through
    /// this handle since its last sync has found no space and is lost; the caller then calls
    /// [`Self::dead`] for each of these places, or for those that are not [`Self::is_durable`].
    pub async fn sync(&self) -> Result<(), ArchiveError> {
        let inner = self.inner();
        let target = inner.with(|s| s.want_sync());
        loop {
            if inner.poison.is_set() {
                return Err(ArchiveError::Poisoned);
            }
            let losses = inner.with(|s| s.losses());
            if self.unsynced.get() && losses != self.seen.replace(losses) {
                self.unsynced.set(false);
                return Err(ArchiveError::Full);
            }
            if inner.with(|s| s.durable()) >= target {
                self.unsynced.set(false);
                return Ok(());
            }
            inner.wait().await?;
        }
    }

    /// Whether the record at this place is on stable storage.
    #[must_use]
    pub fn is_durable(&self, at: Place) -> bool {
        let end = at.offset.saturating_add(at.len);
        self.inner().with(|s| s.shelf.get(at.segment).is_some_and(|v| end <= v.end))
    }

    /// The payload of a record, verified against `id` and its CRC. Also of one that is only in
    /// memory yet. A segment that is removed meanwhile stays readable until this ends.
    pub async fn read(&self, at: Place, id: u64) -> Result<SharedBytes, ReadError> {
        let inner = self.inner();
        let (keys, written, tail) = match inner.with(|s| s.find(at)) {
            Where::Nowhere => return Err(ReadError::Gone),
            Where::Never => return Err(ReadError::Damaged),
            Where::There { keys, written, tail } => (keys, written, tail),
        };
        let start = at.offset / PAGE as u32 * PAGE as u32;
        let skip = (at.offset - start) as usize;
        let mut buf = AlignedBuf::with_capacity(skip + at.len as usize);
        if at.offset < written {
            let file = inner.file(at.segment).await?;
            let result;
            (result, buf) = file.read_at(buf, u64::from(start)).await;
            result.map_err(ReadError::Io)?;
            let on_disk = (written - start) as usize;
            if tail.is_some() {
                if buf.len() < on_disk {
                    return Err(ReadError::Damaged);
                }
                buf.set_len(on_disk);
            }
        } else {
            buf.zero_to(skip);
        }
        tail.iter().for_each(|t| buf.put(t));
        verified(buf, skip, at.len, id, &keys).ok_or(ReadError::Damaged)
    }

    /// The bytes from the page of record `at` up to `to` of its segment, in one read, as far as they are on
    /// the disk. [`ReadError::Gone`] also if the record itself is not wholly there yet.
    pub async fn read_stretch(&self, at: Place, to: u32) -> Result<Stretch, ReadError> {
        let inner = self.inner();
        let Where::There { keys, written, tail: None } = inner.with(|s| s.find(at)) else {
            return Err(ReadError::Gone);
        };
        let start = at.offset / PAGE as u32 * PAGE as u32;
        let file = inner.file(at.segment).await?;
        let buf = AlignedBuf::with_capacity((to.min(written) - start) as usize);
        let (result, buf) = file.read_at(buf, u64::from(start)).await;
        result.map_err(ReadError::Io)?;
        Ok(Stretch::new(start, buf, keys))
    }

    /// Counts a record as living. For what was there at the start; what was appended in this run is
    /// counted already, so that saying it again changes nothing. `false`: there is no such place,
    /// the record is lost.
    pub fn keep(&self, at: Place) -> bool {
        self.inner().with(|s| s.shelf.keep(at))
    }

    /// All that lived at the start has been said with [`Self::keep`]. Before that nothing is named
    /// by [`Self::victim`].
    pub fn counted(&self) {
        self.inner().with(|s| s.shelf.counted());
    }

    /// New segments may take the space that they leave alone otherwise ([`Options::disk_free_min`]): for an
    /// owner that takes no new mail while the archive [is short](Self::is_short).
    pub fn take_last_space(&self) {
        self.inner().last_space.set(true);
    }

    /// Bytes of the disk that are not for anybody else, if the owner [takes the last
    /// space](Self::take_last_space): the rest of the segment being written, and the one that is the last.
    #[must_use]
    pub fn claims(&self) -> u64 {
        let inner = self.inner();
        if !inner.last_space.get() {
            return 0;
        }
        let segment = u64::from(inner.options.segment_bytes);
        let written = inner.with(|s| s.shelf.iter().find(|(_, v)| v.open).map(|(_, v)| v.file_bytes));
        segment + written.map_or(0, |written| segment.saturating_sub(written))
    }

    /// Whether a new segment would have taken, or has taken, space that is to be left alone
    /// ([`Options::disk_free_min`]), when that was looked at last.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.inner().short.get()
    }

    /// Whether the disk had less than twice the space that is to be left alone, or [is
    /// short](Self::is_short): a journal that leaves alone so much does not grow then.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        self.inner().scarce.get()
    }

    /// Looks again whether it [is short](Self::is_short); whether a segment could be begun now.
    pub async fn look_at_space(&self) -> bool {
        let inner = self.inner();
        inner.look_at_space().await
    }

    /// The record is no longer needed, and that is durable elsewhere. Once for each record.
    pub fn dead(&self, at: Place, now: Wall) {
        self.inner().with(|s| s.dead(at, now));
    }

    /// What should be done to get space back.
    #[must_use]
    pub fn victim(&self, now: Wall) -> Option<Victim> {
        self.victim_of(now, false, &BTreeSet::new())
    }

    /// As [`Self::victim`]; `short`: also what gains little. None of the segments `but`.
    #[must_use]
    pub fn victim_of(&self, now: Wall, short: bool, but: &BTreeSet<u32>) -> Option<Victim> {
        self.inner().with(|s| if s.is_poisoned() { None } else { s.shelf.victim(now, short, but) })
    }

    /// Whether what is appended from now on lets another segment go: it is copied within the archive, or
    /// leaves a journal that has no segment left. Then the last segment that the disk has room for may be
    /// begun, too, for an owner that [takes the last space](Self::take_last_space). Else that is left for it.
    pub fn give_last(&self, on: bool) {
        self.inner().last_given.set(on);
    }

    /// The segment cannot be cleaned (it is damaged): it is not named again in this run.
    pub fn leave(&self, segment: u32) {
        self.inner().with(|s| s.shelf.leave(segment));
    }

    /// Visits every record of a segment in order, live or not; of the one being written, those that
    /// are durable. Damage is stepped over and told. A torn end is not an error.
    pub async fn scan(
        &self,
        segment: u32,
        mut visit: impl FnMut(RecordHead, Place, &[u8]),
    ) -> Result<Scanned, ReadError> {
        let inner = self.inner();
        let (file, volume) = inner.pin(segment).await?;
        let entries = read_footer(&*file, &volume).await.map_err(ReadError::Io)?;
        let starts = entries.map(|e| e.iter().map(|e| e.offset).collect());
        let mut scan = Scan::new(segment, volume.keys, volume.end, volume.sealed, starts);
        let mut scanned = Scanned::default();
        let mut buf = AlignedBuf::with_capacity(PAGE);
        let mut base = 0;
        loop {
            match scan.step(Window { file: segment, base, bytes: buf.bytes() }) {
                scan::Step::Read { offset, len } => {
                    let want = (len as usize).max(SCAN_BYTES.min((volume.end - offset) as usize));
                    let read = opening::refill(&*file, buf, offset, len as usize, want).await;
                    buf = read.map_err(ReadError::Io)?;
                    base = offset;
                }
                scan::Step::Record { head, offset, len, payload } => {
                    scanned.records += 1;
                    scanned.bytes += u64::from(len);
                    visit(head, Place { segment, offset, len }, payload);
                }
                scan::Step::Damage { from, to, sure } => {
                    scanned.damage_count += u64::from(sure);
                    let list = if sure { &mut scanned.damages } else { &mut scanned.doubts };
                    if list.len() < LISTED_MAX {
                        list.push(Damage { from, to });
                    }
                }
                scan::Step::End { at, torn } => {
                    scanned.torn = torn;
                    if torn && scanned.doubts.len() < LISTED_MAX {
                        scanned.doubts.push(Damage { from: at, to: volume.end });
                    }
                    return Ok(scanned);
                }
            }
        }
    }

    /// The records of a segment, without reading them; if it has no footer, by reading them (then
    /// the owners are not known and 0).
    pub async fn footer(&self, segment: u32) -> Result<Vec<Entry>, ReadError> {
        let (file, volume) = self.inner().pin(segment).await?;
        if let Some(entries) = read_footer(&*file, &volume).await.map_err(ReadError::Io)? {
            return Ok(entries);
        }
        let mut entries = Vec::new();
        self.scan(segment, |head, at, _| {
            entries.push(Entry { id: head.id, offset: at.offset, len: at.len, owner: 0, kind: head.kind });
        })
        .await?;
        Ok(entries)
    }

    /// When the segment was begun that was begun last, by the clock of then; the epoch: there is none.
    #[must_use]
    pub fn newest(&self) -> Wall {
        self.inner().with(|s| s.shelf.iter().map(|(_, v)| v.begun).max().unwrap_or(Wall(0)))
    }

    /// Numbers of all segments, oldest first.
    #[must_use]
    pub fn segments(&self) -> Vec<u32> {
        self.inner().with(|s| s.shelf.iter().map(|(n, _)| n).collect())
    }

    /// Removes a segment in which nothing lives. Its space is free when the last reader has ended.
    /// Of the one with the highest number the number must not be forgotten: another is begun before.
    pub async fn remove(&self, segment: u32) -> Result<(), ArchiveError> {
        let inner = self.inner();
        let (refusals, open) = inner.with(|s| (s.refusals(), s.open_segment()));
        assert_ne!(open, Some(segment), "a segment that is being written is still needed");
        while inner.with(|s| s.shelf.highest() == segment) {
            inner.with(|s| s.want_segment());
            inner.wait().await?;
            if inner.with(|s| s.refusals()) != refusals {
                return Err(ArchiveError::Full);
            }
        }
        if inner.poison.is_set() {
            return Err(ArchiveError::Poisoned);
        }
        if inner.with(|s| s.shelf.remove(segment)) {
            inner.files.borrow_mut().open.remove(&segment);
            // A file left behind is found at the next start, with nothing living in it.
            let _ = inner.rt.remove(&inner.path(segment)).await;
        }
        Ok(())
    }

    /// The state now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner().with(|s| {
            let mut stats = Stats {
                waiting_bytes: s.waiting_bytes(),
                losses: s.losses(),
                poisoned: s.is_poisoned(),
                ..Stats::default()
            };
            for (_, v) in s.shelf.iter() {
                stats.segments += 1;
                stats.bytes += v.file_bytes;
                // While the owner counts, what is dead may have been said before what lives.
                stats.live_records += u64::try_from(v.live_records()).unwrap_or(0);
                stats.live_bytes += u64::try_from(v.live_bytes()).unwrap_or(0);
            }
            stats
        })
    }

    /// Makes all durable, finishes the open segment, ends the task. What is appended meanwhile may
    /// be refused.
    pub async fn close(&self) {
        let inner = self.inner();
        inner.with(|s| s.seal());
        inner.closing.set(true);
        while inner.running.get() {
            inner.work.ring();
            inner.progress.changed().await;
        }
    }
}

impl<R: Runtime> Inner<R> {
    /// The state. A panic in it leaves it unknown: nothing may be acknowledged after it.
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let fuse = Fuse(&self.poison);
        let result = f(&mut self.state.borrow_mut());
        std::mem::forget(fuse);
        result
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(found::name_of(number))
    }

    /// Waits until something has been done.
    async fn wait(&self) -> Result<(), ArchiveError> {
        if self.poison.is_set() {
            return Err(ArchiveError::Poisoned);
        }
        if !self.running.get() {
            return Err(ArchiveError::Closed);
        }
        self.work.ring();
        self.progress.changed().await;
        Ok(())
    }

    async fn file(&self, number: u32) -> Result<Rc<R::File>, ReadError> {
        if let Some(file) = self.files.borrow_mut().get(number) {
            return Ok(file);
        }
        let opened = self.rt.open(&self.path(number), OpenAs::Archive).await;
        let file = Rc::new(opened.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => ReadError::Gone,
            _ => ReadError::Io(e),
        })?);
        // It may have been removed meanwhile; then nobody will ask for it again.
        let (there, written) = self.with(|s| (s.shelf.get(number).is_some(), s.open_segment()));
        if there {
            self.files.borrow_mut().put(number, file.clone(), written);
        }
        Ok(file)
    }

    async fn pin(&self, number: u32) -> Result<(Rc<R::File>, Volume), ReadError> {
        let volume = self.with(|s| s.shelf.get(number).cloned()).ok_or(ReadError::Gone)?;
        Ok((self.file(number).await?, volume))
    }

    /// Whether there is space for a segment.
    async fn look_at_space(&self) -> bool {
        let free = self.rt.free_bytes(&self.dir).await.unwrap_or(0);
        let segment = u64::from(self.options.segment_bytes);
        let (mut alone, left) = (self.options.disk_free_min, free.saturating_sub(segment));
        if self.last_space.get() {
            // What lives in the journal needs one, and what is copied another; as many are on their way: what
            // leaves the journal is in both until the index has grown by its rows, and the journal does not
            // give its first segments back.
            alone = alone.max(4 * segment);
        }
        let scarce = alone.max(self.options.disk_free_min.saturating_mul(2));
        self.scarce.set(free < segment || left < scarce);
        self.short.set(free < segment || left < alone);
        match (self.last_space.get(), self.last_given.get()) {
            (false, _) => !self.short.get(),
            (true, true) => free >= segment,
            (true, false) => free >= 2 * segment,
        }
    }

    /// Makes a segment's file, durable with its name and head, before a record is written behind.
    async fn begin(&self, number: u32) -> Result<Head, Fault> {
        if !self.look_at_space().await {
            return Err(Fault::Full);
        }
        let path = self.path(number);
        let result = self.create(&path, number).await;
        if result.as_ref().err() == Some(&Fault::Full) {
            // Nothing is in it; what cannot be removed now is found and removed at the next start.
            let _ = self.rt.remove(&path).await;
        }
        let (head, file) = result?;
        self.files.borrow_mut().put(number, Rc::new(file), Some(number));
        Ok(head)
    }

    async fn create(&self, path: &Path, number: u32) -> Result<(Head, R::File), Fault> {
        // No byte is at stake yet: whatever the reason, what waits for the segment is refused.
        let file = self.rt.open(path, OpenAs::NewArchive).await.map_err(|_| Fault::Full)?;
        if !file.try_lock().unwrap_or(false) {
            return Err(Fault::Full);
        }
        let mut head = Head { log: self.log, number, begun: self.rt.wall(), nonce: [0; 16] };
        self.rt.fill(&mut head.nonce);
        file.write_at(shared(head.bytes()), 0).await.map_err(|e| fault(&e))?;
        file.sync().await.map_err(|_| Fault::Failed)?;
        self.rt.sync_dir(&self.dir).await.map_err(|_| Fault::Failed)?;
        Ok((head, file))
    }

    fn written(&self) -> Rc<R::File> {
        let number = self.with(|s| s.open_segment()).expect("jobs are the open segment's");
        self.files.borrow_mut().get(number).expect("kept open while it is written")
    }
}

fn fault(e: &io::Error) -> Fault {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match e.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => Fault::Full,
        _ => Fault::Failed,
    }
}

/// One job after the other.
async fn drive<R: Runtime>(guard: TaskGuard<R>) {
    let inner = &guard.0;
    loop {
        match inner.with(State::next_step) {
            Step::Begin { number } => {
                let begun = inner.begin(number).await;
                inner.with(|s| s.began(begun));
            }
            Step::Write { offset, bytes } => {
                let result = inner.written().write_at(bytes, u64::from(offset)).await;
                inner.with(|s| s.done(result.map_err(|e| fault(&e))));
            }
            Step::Sync => {
                let result = inner.written().sync().await;
                inner.with(|s| s.done(result.map_err(|_| Fault::Failed)));
            }
            Step::Idle => {
                if inner.closing.get() && (inner.poison.is_set() || inner.with(|s| s.is_quiet())) {
                    return;
                }
                inner.work.next().await;
            }
        }
        // Also when there was nothing to do: others may have poisoned, and those who wait must know.
        inner.progress.ring();
    }
}

/// Says that the task has ended, however it ends; by a panic, the archive is poisoned.
struct TaskGuard<R: Runtime>(Rc<Inner<R>>);

impl<R: Runtime> Drop for TaskGuard<R> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison.set();
        }
        self.0.running.set(false);
        self.0.progress.ring();
    }
}

struct Opened<F> {
    volumes: BTreeMap<u32, Volume>,
    files: Files<F>,
    next_number: u32,
    report: ArchiveReport,
}

async fn open_all<R: Runtime>(
    rt: &R,
    dir: &Path,
    options: &Options,
    log: [u8; 16],
) -> Result<Opened<R::File>, OpenError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |e| OpenError::Io(path, e)
    };
    rt.create_dir(dir).await.map_err(at(dir))?;
    let files = Files { open: BTreeMap::new(), clock: 0, max: options.files_max };
    let mut opened = Opened { volumes: BTreeMap::new(), files, next_number: 1, report: <_>::default() };
    let deadline = rt.now().after(options.lock_wait);
    for (name, _) in rt.list(dir).await.map_err(at(dir))? {
        let Some(number) = found::number_in(&name) else { continue };
        opened.next_number = opened.next_number.max(number + 1);
        let path = dir.join(&name);
        let file = rt.open(&path, OpenAs::Archive).await.map_err(at(&path))?;
        // Also the barrier: the last writes of a killed process have landed.
        if !opening::lock_file(rt, &file, deadline).await.map_err(at(&path))? {
            return Err(OpenError::Locked(path));
        }
        let found = examine(&file, number).await.map_err(at(&path))?;
        let report = &mut opened.report;
        match &found.kind {
            Kind::Later(version) => return Err(OpenError::Later(LaterVersion(*version))),
            Kind::Segment(head) if head.log == log => {
                if found.trailer.is_none() {
                    // What is seen of it must stay, once somebody has relied on what was seen.
                    file.sync().await.map_err(at(&path))?;
                }
                report.segments += 1;
                report.unfinished += u32::from(found.trailer.is_none());
                report.bytes += found.bytes;
                report.bad_heads += found.bad_copies;
                opened.volumes.insert(number, found.volume(head));
                opened.files.put(number, Rc::new(file), None);
            }
            Kind::Leftover => {
                // One that cannot be removed is only in the way.
                report.removed += u32::from(rt.remove(&path).await.is_ok());
            }
            Kind::Segment(_) | Kind::Unreadable => {
                report.set_aside += 1;
                if report.set_aside_names.len() < LISTED_MAX {
                    report.set_aside_names.push(name);
                }
            }
        }
    }
    rt.sync_dir(dir).await.map_err(at(dir))?;
    Ok(opened)
}

async fn examine<F: File>(file: &F, number: u32) -> io::Result<Found> {
    let bytes = file.len()?;
    let (result, start) = file.read_at(AlignedBuf::with_capacity(found::START_BYTES), 0).await;
    result?;
    let (result, last) = file.read_at(AlignedBuf::with_capacity(PAGE), found::last_page(bytes)).await;
    result?;
    Ok(Found::new(number, bytes, start.bytes(), last.bytes()))
}

/// The footer of a segment; `None`: it has none, or a damaged one.
async fn read_footer<F: File>(file: &F, volume: &Volume) -> io::Result<Option<Vec<Entry>>> {
    if !volume.sealed {
        return Ok(None);
    }
    let len = file.len()?;
    let Ok(short) = u32::try_from(len) else { return Ok(None) };
    let (result, last) = file.read_at(AlignedBuf::with_capacity(PAGE), found::last_page(len)).await;
    result?;
    let Some(trailer) = Trailer::decode(last.bytes(), short, &volume.keys) else { return Ok(None) };
    if trailer.end != volume.end || trailer.end < HEAD_BYTES {
        return Ok(None);
    }
    let buf = AlignedBuf::with_capacity(trailer.footer_bytes());
    let (result, footer) = file.read_at(buf, u64::from(trailer.end)).await;
    result?;
    Ok(trailer.entries(footer.bytes(), &volume.keys))
}

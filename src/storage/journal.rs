//! L2: the journal as a state machine: stage -> next -> written -> released, one write at a time.
//!
//! It has no clock, no files and no tasks: [`Journal::next_step`] says what must be written, and
//! [`Journal::written`] is told how that went. The batch in the making grows while a write is in
//! flight; there is no timer. Any failed write poisons: from then on nothing is released.
//! State that does not add up is a bug and panics (the keeper then poisons, too).

use crate::base::aligned::{AlignedBuf, PAGE, SharedBytes};
use crate::storage::batch::{BATCH_HEAD, BatchHead};
use crate::storage::group::{Group, Staged};
use crate::storage::options::{Options, Poison, Urgency};
use crate::storage::record::{self, KIND_RETIRE, Location, RECORD_HEAD, RecordHead};
use crate::storage::segment::{Cut, HEAD_BYTES, Keys, SegmentHead};
use crate::storage::space::{Segment, Shortage, Space};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::task::Waker;

/// The smallest buffer of a batch in bytes; the next are four times as large each.
const BUFFER_MIN: usize = 16 << 10;
/// Released buffers (and groups) remembered for the next batches.
const BUFFERS_KEPT: usize = 32;
/// Batches that may wait beyond `batches_waiting` when they hold outcomes.
const OUTCOME_BATCHES: usize = 64;
/// Bytes of a retirement in a batch.
const RETIRE_LEN: usize = RECORD_HEAD + 8;

/// Why a record was not staged. Nothing has happened then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StageError {
    /// No space for records of this urgency: 452 4.3.1.
    Full,
    /// Too much is waiting for the disk: try again when [`Journal::written`] has made progress.
    Busy,
    /// A write has failed; nothing is accepted until a restart.
    Poisoned,
    /// Longer than [`Options::payload_max`]: use a side file.
    TooLarge,
}

impl fmt::Display for StageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StageError::Full => "no journal space left",
            StageError::Busy => "the journal is busy",
            StageError::Poisoned => "the journal is poisoned by a failed write; restart to recover",
            StageError::TooLarge => "the record is larger than a batch",
        })
    }
}

impl std::error::Error for StageError {}

impl From<Shortage> for StageError {
    fn from(s: Shortage) -> Self {
        match s {
            Shortage::Full => StageError::Full,
            Shortage::Busy => StageError::Busy,
        }
    }
}

/// What must be done next.
pub enum Step {
    /// Nothing (or a write is in flight).
    Idle,
    /// Batches wait for a file: [`Journal::add_file`].
    NeedSegment,
    /// Write, durably, then call [`Journal::written`].
    Write(Write),
}

/// A write of whole pages.
pub struct Write {
    /// Number of the file.
    pub file: u32,
    /// Offset in the file in bytes.
    pub offset: u64,
    /// The bytes.
    pub bytes: SharedBytes,
}

/// What a finished write was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Released {
    /// Records made durable; 0: it was a segment's head.
    pub records: u32,
    /// Bytes written.
    pub bytes: u32,
}

/// Where a journal begins: after recovery, with its fresh segment already begun on disk.
pub struct Start {
    /// The log.
    pub log: [u8; 16],
    /// This run.
    pub epoch: u64,
    /// Secret of this run.
    pub nonce: [u8; 16],
    /// Number of the first batch.
    pub next_batch: u64,
    /// CRC of the batch before.
    pub chain: u32,
    /// The owner's mark at the last retirement.
    pub mark: u64,
    /// Segments of the log by sequence, the fresh one last.
    pub listed: VecDeque<Segment>,
    /// Files to write to later.
    pub free: VecDeque<u32>,
}

struct Batch {
    buf: Rc<AlignedBuf>,
    group: Rc<Group>,
    records: u32,
    live_records: u64,
    live_bytes: u64,
    frees: Vec<Location>,
    retires: u64,
    mark: u64,
}

impl Batch {
    fn padded(&self) -> usize {
        self.buf.len().next_multiple_of(PAGE)
    }
}

enum Flight {
    Head { head: SegmentHead, file: u32 },
    Batch { batch: Batch, bytes: SharedBytes, segment: u64, offset: u32 },
}

/// The journal of one core.
pub struct Journal {
    options: Options,
    poison: Poison,
    log: [u8; 16],
    epoch: u64,
    nonce: [u8; 16],
    keys: Keys,
    next_batch: u64,
    chain: u32,
    space: Space,
    waiting: VecDeque<Batch>,
    in_flight: Option<Flight>,
    retire_staged: u64,
    /// The owner's mark now, and the one that goes into heads: that of the last durable retirement.
    mark: u64,
    mark_retired: u64,
    started: bool,
    buffers: VecDeque<Rc<AlignedBuf>>,
    groups: VecDeque<Rc<Group>>,
    free_lists: Vec<Vec<Location>>,
    last_len: usize,
}

impl Journal {
    /// A journal that continues at `start`.
    #[must_use]
    pub fn new(options: Options, poison: Poison, start: Start) -> Self {
        assert_eq!(options.check(), Ok(()));
        Journal {
            space: Space::new(options.clone(), start.listed, start.free),
            options,
            poison,
            log: start.log,
            epoch: start.epoch,
            nonce: start.nonce,
            keys: Keys::new(start.nonce),
            next_batch: start.next_batch,
            chain: start.chain,
            waiting: VecDeque::new(),
            in_flight: None,
            retire_staged: 0,
            mark: start.mark,
            mark_retired: start.mark,
            started: false,
            buffers: VecDeque::new(),
            groups: VecDeque::new(),
            free_lists: Vec::new(),
            last_len: 0,
        }
    }

    /// Copies a record into the batch in the making: one copy of the payload, no allocation in
    /// steady state. When it becomes durable, the record at `frees` stops being live.
    pub fn stage(
        &mut self,
        head: RecordHead,
        payload: &[&[u8]],
        frees: Option<Location>,
        urgency: Urgency,
    ) -> Result<Staged, StageError> {
        assert_ne!(head.kind, KIND_RETIRE, "kind 0 belongs to storage");
        if self.poison.is_set() {
            return Err(StageError::Poisoned);
        }
        let len: usize = payload.iter().map(|p| p.len()).sum();
        if len > self.options.payload_max() {
            return Err(StageError::TooLarge);
        }
        if let Some(at) = frees {
            assert!(self.space.get(at.segment).is_some(), "what is freed is still in the log");
        }
        if !self.started {
            // The owner has counted what lives. A log full of what does not must empty itself first.
            self.started = true;
            self.stage_retirement();
        }
        let need = len + RECORD_HEAD;
        let waiting = self.waiting_padded();
        self.space.admit(urgency, (need + BATCH_HEAD + PAGE) as u64, waiting)?;
        self.make_room(need, urgency)?;
        let batch = self.waiting.back_mut().expect("room was made");
        let offset = put(batch, head, payload, &self.keys);
        let len = need as u32;
        if urgency.lives() {
            batch.live_records += 1;
            batch.live_bytes += u64::from(len);
        }
        batch.frees.extend(frees);
        Ok(Staged::new(batch.group.clone(), offset, len))
    }

    fn waiting_padded(&self) -> u64 {
        self.waiting.iter().map(|b| b.padded() as u64 + PAGE as u64).sum()
    }

    /// See [`Space::bears`].
    #[must_use]
    pub fn bears(&self, attempts: u64) -> bool {
        self.space.bears(attempts, self.waiting_padded())
    }

    /// Bytes of the longest batch that the last waiting one may become. What is copied forward must not
    /// take more space than it gives: it fills the segment being written to its end.
    fn longest(&self, urgency: Urgency) -> usize {
        let max = self.options.batch_bytes_max as usize;
        let Some(last) = self.waiting.back().filter(|_| urgency == Urgency::Compaction) else { return max };
        let all: usize = self.waiting.iter().map(Batch::padded).sum();
        let current = self.space.current();
        let here = ((current.bytes - current.end) as usize).saturating_sub(all - last.padded());
        if last.padded() <= here { max.min(here) } else { max }
    }

    /// Makes the last waiting batch one with `need` bytes of room.
    fn make_room(&mut self, need: usize, urgency: Urgency) -> Result<(), StageError> {
        let (max, most) = (self.options.batch_bytes_max as usize, self.longest(urgency));
        if let Some(batch) = self.waiting.back_mut()
            && batch.buf.len() + need <= most
        {
            let want = batch.buf.len() + need;
            if want > batch.buf.capacity() {
                let mut larger = take_buffer(&mut self.buffers, want, max);
                let buf = Rc::get_mut(&mut larger).expect("a free buffer has one owner");
                buf.put(batch.buf.bytes());
                let smaller = std::mem::replace(&mut batch.buf, larger);
                give_buffer(&mut self.buffers, smaller);
            }
            return Ok(());
        }
        let limit = match urgency {
            Urgency::Outcome | Urgency::Archived => OUTCOME_BATCHES.max(self.options.batches_waiting),
            _ => self.options.batches_waiting,
        };
        if self.waiting.len() >= limit {
            return Err(StageError::Busy);
        }
        self.open_batch(need);
        Ok(())
    }

    fn open_batch(&mut self, need: usize) {
        // Groups that nobody waits for any more let go of their buffers first.
        self.groups.iter_mut().filter_map(Rc::get_mut).for_each(Group::reset);
        let unused = self.groups.iter().position(|g| Rc::strong_count(g) == 1);
        let group = unused.and_then(|i| self.groups.remove(i));
        // As large as the last batch, so that growing (and its copy) is rare under steady load.
        let want = (BATCH_HEAD + need).max(self.last_len);
        let mut buf = take_buffer(&mut self.buffers, want, self.options.batch_bytes_max as usize);
        Rc::get_mut(&mut buf).expect("a free buffer has one owner").put(&[0; BATCH_HEAD]);
        self.waiting.push_back(Batch {
            buf,
            group: group.unwrap_or_else(|| Rc::new(Group::new())),
            records: 0,
            live_records: 0,
            live_bytes: 0,
            frees: self.free_lists.pop().unwrap_or_default(),
            retires: 0,
            mark: 0,
        });
    }

    /// What to do next. Call after every [`Self::stage`], [`Self::written`], [`Self::add_file`].
    pub fn next_step(&mut self) -> Step {
        if self.in_flight.is_some() || self.poison.is_set() {
            return Step::Idle;
        }
        let Some(batch) = self.waiting.front() else { return Step::Idle };
        let current = self.space.current();
        if current.end as usize + batch.padded() > current.bytes as usize {
            return self.begin_segment();
        }
        let batch = self.waiting.pop_front().expect("just seen");
        Step::Write(self.seal(batch))
    }

    fn begin_segment(&mut self) -> Step {
        let Some(file) = self.space.take_free() else { return Step::NeedSegment };
        let current = self.space.current();
        let head = SegmentHead {
            log: self.log,
            sequence: current.sequence + 1,
            epoch: self.epoch,
            nonce: self.nonce,
            first_batch: self.next_batch,
            chain: self.chain,
            previous: Cut { sequence: current.sequence, offset: current.end },
            oldest: self.space.oldest(),
            bytes: self.options.segment_bytes,
            mark: self.mark_retired,
        };
        let bytes = SharedBytes::whole(Rc::new(head.page()));
        self.in_flight = Some(Flight::Head { head, file });
        Step::Write(Write { file, offset: 0, bytes })
    }

    fn seal(&mut self, mut batch: Batch) -> Write {
        let length = batch.padded();
        let current = self.space.current();
        let (segment, file, offset) = (current.sequence, current.file, current.end);
        let head = BatchHead {
            crc: 0,
            length: length as u32,
            tag: self.keys.tag,
            number: self.next_batch,
            epoch: self.epoch,
            used: batch.buf.len() as u32,
            records: batch.records,
            previous: self.chain,
        };
        let buf = Rc::get_mut(&mut batch.buf).expect("a batch in the making has one owner");
        buf.zero_to(length);
        self.chain = head.seal(buf.bytes_mut(), &self.keys);
        self.next_batch += 1;
        self.last_len = head.used as usize;
        let current = self.space.current_mut();
        current.end += length as u32;
        current.live_records += batch.live_records;
        current.live_bytes += batch.live_bytes;
        let bytes = SharedBytes::whole(batch.buf.clone());
        self.in_flight = Some(Flight::Batch { batch, bytes: bytes.clone(), segment, offset });
        Write { file, offset: u64::from(offset), bytes }
    }

    /// The write that [`Self::next_step`] gave out has ended; `ok`: all of it is on stable storage.
    /// Wakers of those who waited are added to `wakers`, to be woken after this call.
    ///
    /// If it failed, or another journal of the file system has been poisoned meanwhile (a later
    /// sync may then lie), everyone waiting is told so and nothing is released ever again.
    pub fn written(&mut self, ok: bool, wakers: &mut Vec<Waker>) -> Released {
        let flight = self.in_flight.take().expect("a write was in flight");
        if !ok {
            self.poison.set();
        }
        if self.poison.is_set() {
            if let Flight::Batch { batch, .. } = flight {
                batch.group.fail(wakers);
            }
            self.fail_waiting(wakers);
            return Released::default();
        }
        match flight {
            Flight::Head { head, file } => {
                self.space.begin(Segment::new(&head, file, HEAD_BYTES));
                Released { records: 0, bytes: HEAD_BYTES }
            }
            Flight::Batch { batch, bytes, segment, offset } => {
                self.release(batch, bytes, segment, offset, wakers)
            }
        }
    }

    fn release(
        &mut self,
        mut batch: Batch,
        bytes: SharedBytes,
        segment: u64,
        offset: u32,
        wakers: &mut Vec<Waker>,
    ) -> Released {
        let released = Released { records: batch.records, bytes: bytes.len() as u32 };
        for at in batch.frees.drain(..) {
            self.space.free(at);
        }
        self.free_lists.push(batch.frees);
        if batch.retires > 0 {
            self.space.retire_before(batch.retires);
            self.mark_retired = self.mark_retired.max(batch.mark);
        }
        batch.group.release(bytes, segment, offset, wakers);
        give_buffer(&mut self.buffers, batch.buf);
        if self.groups.len() == BUFFERS_KEPT {
            self.groups.pop_front();
        }
        self.groups.push_back(batch.group);
        self.stage_retirement();
        released
    }

    /// Fails everyone who waits, if poisoned. For a keeper that finds the poison set by others.
    pub fn fail_waiting(&mut self, wakers: &mut Vec<Waker>) {
        if self.poison.is_set() {
            for batch in self.waiting.drain(..) {
                batch.group.fail(wakers);
            }
        }
    }

    /// Retirement is a record like any other, and takes effect when it is durable. Nothing is
    /// retired before the first [`Self::stage`]: until then the owner is still counting what lives.
    fn stage_retirement(&mut self) {
        let Some(oldest) = self.space.retirable().filter(|_| self.started) else { return };
        if oldest > self.retire_staged {
            self.put_retirement(oldest);
        }
    }

    fn put_retirement(&mut self, oldest: u64) {
        let full = self.waiting.back().is_none_or(|b| {
            b.buf.len() + RETIRE_LEN > b.buf.capacity().min(self.options.batch_bytes_max as usize)
        });
        if full {
            self.open_batch(RETIRE_LEN);
        }
        let batch = self.waiting.back_mut().expect("just opened");
        let head = RecordHead { kind: KIND_RETIRE, version: 0, flags: 0, id: oldest };
        put(batch, head, &[&self.mark.to_le_bytes()], &self.keys);
        batch.retires = oldest;
        batch.mark = self.mark;
        self.retire_staged = oldest;
    }

    /// Stages the mark as it is now; `None`: an opening would find it already.
    pub fn stage_mark(&mut self) -> Result<Option<Staged>, StageError> {
        if self.poison.is_set() {
            return Err(StageError::Poisoned);
        }
        if self.mark <= self.mark_retired {
            return Ok(None);
        }
        let need = (RETIRE_LEN + BATCH_HEAD + PAGE) as u64;
        self.space.admit(Urgency::Outcome, need, self.waiting_padded())?;
        // It retires what has been retired before.
        self.put_retirement(self.retire_staged.max(self.space.oldest()));
        Ok(self.fence())
    }

    /// What is freed from now on is covered by the owner's index as of `mark`: it goes into every
    /// retirement, and tells at the next opening how old the index may be at most. Never falls.
    pub fn set_mark(&mut self, mark: u64) {
        self.mark = self.mark.max(mark);
    }

    /// The mark of the last durable retirement: an index older than that lacks what is gone.
    #[must_use]
    pub fn durable_mark(&self) -> u64 {
        self.mark_retired
    }

    /// Settles when all that is staged now is on stable storage; `None`: it is already.
    #[must_use]
    pub fn fence(&self) -> Option<Staged> {
        let flying = self.in_flight.as_ref().and_then(|f| match f {
            Flight::Batch { batch, .. } => Some(batch),
            Flight::Head { .. } => None,
        });
        let last = self.waiting.back().or(flying)?;
        Some(Staged::new(last.group.clone(), BATCH_HEAD as u32, RECORD_HEAD as u32))
    }

    /// Counts a recovered record as live. Only before the first [`Self::stage`].
    pub fn keep(&mut self, at: Location) {
        assert!(!self.started, "records staged as living are counted already");
        self.space.keep(at);
    }

    /// Stops counting a record as live, at once. The caller vouches that it is durable elsewhere
    /// that the record is not needed.
    pub fn free(&mut self, at: Location) {
        self.space.free(at);
        self.stage_retirement();
    }

    /// A reader is done with the segment it pinned.
    pub fn unpin(&mut self, sequence: u64) {
        self.space.unpin(sequence);
        if !self.poison.is_set() {
            self.stage_retirement();
        }
    }

    /// A zero-filled file is ready.
    pub fn add_file(&mut self, file: u32) {
        self.space.add_file(file);
    }

    /// The segments.
    #[must_use]
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The segments.
    pub fn space_mut(&mut self) -> &mut Space {
        &mut self.space
    }

    /// The segments of the log, each as far as it is on stable storage: number of the file, where that ends,
    /// length of the file.
    #[must_use]
    pub fn durable_segments(&self) -> Vec<(u32, u32, u32)> {
        let mut out: Vec<_> = self.space.listed().map(|s| (s.file, s.end, s.bytes)).collect();
        if let (Some(Flight::Batch { offset, .. }), Some(last)) = (&self.in_flight, out.last_mut()) {
            last.1 = *offset;
        }
        out
    }

    /// True if nothing is staged and nothing is being written.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_none()
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> [u8; 16] {
        self.log
    }

    /// This run of the log.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Bytes staged and not yet being written.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(|b| b.buf.len()).sum()
    }
}

fn put(batch: &mut Batch, head: RecordHead, payload: &[&[u8]], keys: &Keys) -> u32 {
    let buf = Rc::get_mut(&mut batch.buf).expect("a batch in the making has one owner");
    let start = buf.len();
    buf.put(&[0; RECORD_HEAD]);
    for part in payload {
        buf.put(part);
    }
    let encoded = record::encode_head(head, &buf.bytes()[start + RECORD_HEAD..], keys);
    buf.bytes_mut()[start..start + RECORD_HEAD].copy_from_slice(&encoded);
    batch.records += 1;
    start as u32
}

/// A buffer for `want` bytes: one that nobody holds any more, else a new one.
fn take_buffer(buffers: &mut VecDeque<Rc<AlignedBuf>>, want: usize, max: usize) -> Rc<AlignedBuf> {
    let mut class = BUFFER_MIN.min(max);
    while class < want {
        class *= 4;
    }
    let class = class.min(max);
    let fit = buffers.iter().position(|b| b.capacity() == class && Rc::strong_count(b) == 1);
    match fit.and_then(|i| buffers.remove(i)) {
        Some(mut buf) => {
            Rc::get_mut(&mut buf).expect("one owner").set_len(0);
            buf
        }
        None => Rc::new(AlignedBuf::with_capacity(class)),
    }
}

fn give_buffer(buffers: &mut VecDeque<Rc<AlignedBuf>>, buf: Rc<AlignedBuf>) {
    if buffers.len() == BUFFERS_KEPT {
        buffers.pop_front();
    }
    buffers.push_back(buf);
}

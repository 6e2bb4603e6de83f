//! L2: the archive as a state machine: records go into memory, leave it in writes of whole pages in
//! order, and are durable after a sync. One job is done at a time; results come back as calls.
//!
//! No IO, clock or chance inside. A failed write or sync poisons; a full disk ends the segment at
//! its last sync, and what was not durable in it is lost: [`State::losses`] goes up.

use crate::base::aligned::{AlignedBuf, PAGE, SharedBytes};
use crate::base::time::Wall;
use crate::storage::archive::format::{
    self, ENTRIES_MAX, Entry, HEAD_BYTES, Head, KIND_MARK, MARK, RECORD_MAX, footer_len, pages,
};
use crate::storage::archive::shelf::{Shelf, Volume};
use crate::storage::archive::{Options, Place};
use crate::storage::options::Poison;
use crate::storage::record::{self, RecordHead};
use crate::storage::segment::Keys;
use std::collections::VecDeque;
use std::rc::Rc;

/// Why a record is not taken now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denied {
    /// Something must be written first: ask again after the next step has ended.
    Wait,
    /// A write has failed; nothing is taken until a restart.
    Poisoned,
}

/// How a job has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// There is no space. Nothing else is wrong.
    Full,
    /// What is on the disk is not known any more.
    Failed,
}

/// What to do next.
pub enum Step {
    /// Nothing.
    Idle,
    /// Begin a segment: make its file, write both copies of a head, sync, make the name durable.
    Begin {
        /// Its number.
        number: u32,
    },
    /// Write to the open segment.
    Write {
        /// Where.
        offset: u32,
        /// Whole pages.
        bytes: SharedBytes,
    },
    /// Make the open segment durable.
    Sync,
}

enum Job {
    Write {
        offset: u32,
        bytes: SharedBytes,
    },
    Sync {
        /// Records appended before it, in the archive's life.
        covers: u64,
        /// Where they end.
        end: u32,
        /// The footer is written: the segment is finished.
        seals: bool,
    },
}

/// The segment being written.
struct Open {
    number: u32,
    keys: Keys,
    /// The bytes from `base` on that are in no job yet.
    filling: Option<AlignedBuf>,
    base: u32,
    /// Up to here it is written.
    written: u32,
    /// Up to here it is durable.
    durable: u32,
    /// All records in it.
    entries: Vec<Entry>,
    /// Offsets of records that were dead before they were durable.
    early_dead: Vec<u32>,
    /// The next record is the first after a sync.
    fresh: bool,
    sealing: bool,
}

impl Open {
    fn at(&self) -> u32 {
        self.base + self.filling.as_ref().map_or(0, |f| f.len() as u32)
    }

    /// Whether a record of `len` bytes goes into this segment.
    fn fits(&self, len: u32, options: &Options) -> bool {
        let end = pages(self.at() as usize + MARK + len as usize);
        let whole = end + footer_len(self.entries.len() + 1) + PAGE;
        let small = whole <= options.segment_bytes as usize && self.entries.len() < ENTRIES_MAX;
        // One that is longer than a segment has one of its own.
        small || self.entries.is_empty()
    }
}

/// See the module.
pub struct State {
    options: Options,
    poison: Poison,
    /// The segments.
    pub shelf: Shelf,
    open: Option<Open>,
    /// A segment is to be begun.
    wanted: bool,
    jobs: VecDeque<Job>,
    /// The first job is being done, or a segment is being begun.
    busy: bool,
    next_number: u32,
    /// Records appended, covered by a sync that is among the jobs or done, durable (or lost).
    appended: u64,
    covered: u64,
    durable: u64,
    losses: u64,
    refusals: u64,
}

impl State {
    /// An archive with these segments; `next_number` for the next one.
    #[must_use]
    pub fn new(options: Options, poison: Poison, shelf: Shelf, next_number: u32) -> Self {
        assert!(shelf.highest() < next_number);
        State {
            options,
            poison,
            shelf,
            open: None,
            wanted: false,
            jobs: VecDeque::new(),
            busy: false,
            next_number,
            appended: 0,
            covered: 0,
            durable: 0,
            losses: 0,
            refusals: 0,
        }
    }

    /// Takes a record into memory. Its place is final.
    pub fn append(&mut self, head: RecordHead, owner: u32, payload: &[&[u8]]) -> Result<Place, Denied> {
        assert_ne!(head.kind, KIND_MARK, "the kind of marks");
        let payload_len = payload.iter().map(|p| p.len()).sum();
        let len = record::record_len(payload_len).filter(|&len| len <= RECORD_MAX);
        let len = len.expect("a record of the journal fits the archive");
        if self.poison.is_set() {
            return Err(Denied::Poisoned);
        }
        if self.waiting_bytes() >= self.options.waiting_max {
            return Err(Denied::Wait);
        }
        let Some(open) = self.open.as_mut() else {
            self.wanted = true;
            return Err(Denied::Wait);
        };
        if open.sealing {
            return Err(Denied::Wait);
        }
        if !open.fits(len, &self.options) {
            self.seal();
            return Err(Denied::Wait);
        }
        if std::mem::take(&mut open.fresh) {
            let mark = format::mark(open.at(), &open.keys);
            put(open, &mut self.jobs, &self.options, &mark);
        }
        let place = Place { segment: open.number, offset: open.at(), len };
        let encoded = record::encode_head_of(head, payload, &open.keys);
        put(open, &mut self.jobs, &self.options, &encoded);
        payload.iter().for_each(|part| put(open, &mut self.jobs, &self.options, part));
        open.entries.push(Entry { id: head.id, offset: place.offset, len, owner, kind: head.kind });
        self.appended += 1;
        let volume = self.shelf.get_mut(place.segment).expect("the open one is among them");
        volume.add(len);
        volume.records = volume.records.map(|n| n + 1);
        volume.bytes += u64::from(len);
        Ok(place)
    }

    /// Asks that a segment be begun although no record waits for it.
    pub fn want_segment(&mut self) {
        self.wanted = self.open.is_none();
    }

    /// Asks that all that is appended be made durable; it is when [`Self::durable`] has come as far
    /// as the number returned.
    pub fn want_sync(&mut self) -> u64 {
        if let Some(open) = self.open.as_mut()
            && self.covered < self.appended
        {
            end_run(open, &mut self.jobs);
            self.covered = self.appended;
            self.jobs.push_back(Job::Sync { covers: self.appended, end: open.base, seals: false });
        }
        self.appended
    }

    /// Finishes the open segment: a sync, then footer and trailer, then another. One without a
    /// record is left as it is.
    pub fn seal(&mut self) {
        self.want_sync();
        let Some(open) = self.open.as_mut().filter(|o| !o.sealing && !o.entries.is_empty()) else { return };
        open.sealing = true;
        let footer = format::footer(&open.entries, open.base, &open.keys);
        let (offset, bytes) = (open.base, SharedBytes::whole(Rc::new(footer)));
        self.jobs.push_back(Job::Write { offset, bytes });
        self.jobs.push_back(Job::Sync { covers: self.appended, end: open.base, seals: true });
    }

    /// What to do next; its result must be told before this is asked again.
    pub fn next_step(&mut self) -> Step {
        if self.busy || self.poison.is_set() {
            return Step::Idle;
        }
        let step = match self.jobs.front() {
            Some(Job::Write { offset, bytes }) => Step::Write { offset: *offset, bytes: bytes.clone() },
            Some(Job::Sync { .. }) => Step::Sync,
            None if self.wanted && self.open.is_none() => Step::Begin { number: self.next_number },
            None => return Step::Idle,
        };
        self.busy = true;
        step
    }

    /// A segment was to be begun.
    pub fn began(&mut self, result: Result<Head, Fault>) {
        self.busy = false;
        self.wanted = false;
        match result {
            Err(Fault::Failed) => self.poison.set(),
            Err(Fault::Full) => self.refusals += 1,
            Ok(head) => {
                let (number, keys) = (self.next_number, head.keys());
                self.next_number = number.checked_add(1).expect("4 billion archive segments");
                self.shelf.begin(number, Volume::new(keys, HEAD_BYTES, head.begun, true));
                self.open = Some(Open {
                    number,
                    keys,
                    filling: None,
                    base: HEAD_BYTES,
                    written: HEAD_BYTES,
                    durable: HEAD_BYTES,
                    entries: Vec::new(),
                    early_dead: Vec::new(),
                    fresh: true,
                    sealing: false,
                });
            }
        }
    }

    /// The write or sync given out by [`Self::next_step`] has ended.
    pub fn done(&mut self, result: Result<(), Fault>) {
        self.busy = false;
        if result == Err(Fault::Failed) {
            self.poison.set();
        }
        if self.poison.is_set() {
            return;
        }
        if result.is_err() {
            return self.give_up();
        }
        let open = self.open.as_mut().expect("jobs are the open segment's");
        match self.jobs.pop_front().expect("it was being done") {
            Job::Write { offset, bytes } => {
                open.written = offset + bytes.len() as u32;
                let volume = self.shelf.get_mut(open.number).expect("the open one is among them");
                volume.file_bytes = u64::from(open.written);
            }
            Job::Sync { covers, end, seals } => {
                self.durable = covers;
                open.durable = end;
                open.early_dead.retain(|&at| at >= end);
                let volume = self.shelf.get_mut(open.number).expect("the open one is among them");
                volume.end = end;
                if seals {
                    volume.sealed = true;
                    volume.open = false;
                    self.open = None;
                }
            }
        }
    }

    /// The disk is full: the open segment ends where it is durable.
    fn give_up(&mut self) {
        self.jobs.clear();
        self.refusals += 1;
        let open = self.open.take().expect("jobs are the open segment's");
        let volume = self.shelf.get_mut(open.number).expect("the open one is among them");
        volume.open = false;
        volume.end = open.durable;
        for e in open.entries.iter().rev().take_while(|e| e.offset >= open.durable) {
            if !open.early_dead.contains(&e.offset) {
                volume.take(e.len);
            }
            volume.records = volume.records.map(|n| n - 1);
            volume.bytes -= u64::from(e.len);
        }
        if self.durable < self.appended {
            self.losses += 1;
            self.durable = self.appended;
        }
        self.covered = self.appended;
    }

    /// A record is no longer needed; see [`Shelf::dead`].
    pub fn dead(&mut self, at: Place, now: Wall) {
        let Some(end) = self.shelf.get(at.segment).map(|v| v.end) else { return };
        if at.offset >= end {
            match self.open.as_mut().filter(|open| open.number == at.segment) {
                Some(open) => open.early_dead.push(at.offset),
                // Never durable, and taken off when the segment was given up.
                None => return,
            }
        }
        self.shelf.dead(at, now);
    }

    /// Where the record at `at` is to be read.
    #[must_use]
    pub fn find(&self, at: Place) -> Where {
        let end = at.offset.saturating_add(at.len);
        let Some(volume) = self.shelf.get(at.segment) else { return Where::Nowhere };
        let sound = at.offset >= HEAD_BYTES && at.len as usize >= record::RECORD_HEAD;
        match self.open.as_ref().filter(|o| o.number == at.segment) {
            Some(open) if sound && end <= open.at() => {
                let tail = (end > open.written).then(|| self.tail(open, at.offset.max(open.written), end));
                Where::There { keys: open.keys, written: open.written, tail }
            }
            None if sound && end <= volume.end => {
                Where::There { keys: volume.keys, written: volume.end, tail: None }
            }
            None if volume.ours => Where::Nowhere,
            _ => Where::Never,
        }
    }

    /// A copy of the bytes `from..to` of the open segment, none of which is written.
    fn tail(&self, open: &Open, from: u32, to: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity((to - from) as usize);
        let writes = self.jobs.iter().filter_map(|j| match j {
            Job::Write { offset, bytes } => Some((*offset, &bytes[..])),
            Job::Sync { .. } => None,
        });
        let filling = open.filling.as_ref().map(|f| (open.base, f.bytes()));
        for (offset, bytes) in writes.chain(filling) {
            let at = from + out.len() as u32;
            let (start, end) = (at.max(offset), to.min(offset + bytes.len() as u32));
            if start == at && start < end {
                out.extend_from_slice(&bytes[(start - offset) as usize..(end - offset) as usize]);
            }
        }
        out
    }

    /// Bytes in memory that wait to be written.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        let jobs = self.jobs.iter().map(|j| match j {
            Job::Write { bytes, .. } => bytes.len(),
            Job::Sync { .. } => 0,
        });
        jobs.sum()
    }

    /// The segment being written.
    #[must_use]
    pub fn open_segment(&self) -> Option<u32> {
        self.open.as_ref().map(|o| o.number)
    }

    /// Records that are durable, or lost.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// How often records were lost to a full disk after they had been taken.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// How often there was no space.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refusals
    }

    /// True if nothing is being done or left to be done.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        !self.busy && self.jobs.is_empty() && !self.wanted
    }

    /// True once poisoned.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poison.is_set()
    }
}

/// Where a record is.
pub enum Where {
    /// Its segment is gone, or the record never became durable.
    Nowhere,
    /// There cannot be a record at this place.
    Never,
    /// On disk up to `written`; from there on in memory.
    There {
        /// Keys of its segment.
        keys: Keys,
        /// Up to here it is on disk.
        written: u32,
        /// The rest.
        tail: Option<Vec<u8>>,
    },
}

/// Appends bytes to the open segment; full chunks become jobs.
fn put(open: &mut Open, jobs: &mut VecDeque<Job>, options: &Options, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let chunk = open.filling.get_or_insert_with(|| AlignedBuf::with_capacity(options.chunk_bytes));
        let n = chunk.room().min(bytes.len());
        chunk.put(&bytes[..n]);
        bytes = &bytes[n..];
        if chunk.room() == 0 {
            end_chunk(open, jobs);
        }
    }
}

fn end_chunk(open: &mut Open, jobs: &mut VecDeque<Job>) {
    if let Some(chunk) = open.filling.take() {
        let offset = open.base;
        open.base += chunk.len() as u32;
        jobs.push_back(Job::Write { offset, bytes: SharedBytes::whole(Rc::new(chunk)) });
    }
}

/// What comes next begins a page, with a mark: a page that is durable is never written again.
fn end_run(open: &mut Open, jobs: &mut VecDeque<Job>) {
    if let Some(chunk) = open.filling.as_mut() {
        chunk.zero_to(pages(chunk.len()));
    }
    end_chunk(open, jobs);
    open.fresh = true;
}

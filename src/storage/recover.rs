//! L2: what a log says after a crash. A pure machine: bytes in, records and a verdict out.
//!
//! [`Recovery`] asks for bytes of segment files and hands out batches in order. It never panics on
//! any bytes, and holds no more than the caller's window.
//! Damage is reported and stepped over, a torn end is reported, neither is an error. The only
//! error is a log of a later version.

use crate::base::aligned::PAGE;
use crate::storage::batch;
use crate::storage::journal::Start;
use crate::storage::options::Options;
use crate::storage::record::{self, KIND_RETIRE, Location, Recovered, u64_at};
use crate::storage::segment::{Copy, Cut, HEAD_BYTES, SegmentHead};
use crate::storage::space::Segment;
use crate::storage::walk::{Damage, Walk, WalkEnd, WalkStep, Window};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// Tears and damages listed at most; the counts go on.
const LISTED_MAX: usize = 1000;

/// What recovery found, for the operator.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecoveryReport {
    /// Segments of the log that were read.
    pub segments: u32,
    /// Batches that verified.
    pub batches: u64,
    /// Records handed to the owner.
    pub records: u64,
    /// Bytes of verified batches.
    pub bytes: u64,
    /// Files that were retired or never used; they are used again.
    pub free: u32,
    /// Files left alone, for a person to look at: of another log, or with an unreadable head.
    pub set_aside: u32,
    /// Damaged copies of segment heads (each head has two).
    pub bad_heads: u32,
    /// Unfinished batches at the end of the log: the write a crash interrupted. 0 or 1.
    pub tears: u32,
    /// Number of damages.
    pub damage_count: u64,
    /// The damages, the first 1000.
    pub damages: Vec<Damage>,
    /// Where the log ended.
    pub cut: Cut,
    /// The run that begins with this recovery.
    pub epoch: u64,
}

/// The log was written by a later version of the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaterVersion(pub u32);

impl fmt::Display for LaterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the data has format version {}, which this program does not know", self.0)
    }
}

impl std::error::Error for LaterVersion {}

/// A segment file as found.
pub struct Found {
    /// Number of the file.
    pub file: u32,
    /// Its length in bytes.
    pub bytes: u32,
    head: Copy,
    bad_copies: u32,
}

/// Bytes at the start of each file that [`Found::new`] wants to see.
pub const START_BYTES: u32 = HEAD_BYTES + PAGE as u32;

impl Found {
    /// File number `file` of `bytes` bytes, beginning with `start` (up to [`START_BYTES`]).
    #[must_use]
    pub fn new(file: u32, bytes: u32, start: &[u8]) -> Self {
        let (mut head, bad_copies) = SegmentHead::decode(start);
        let body = start.get(HEAD_BYTES as usize..).unwrap_or_default();
        if head == Copy::Blank && body.iter().any(|&b| b != 0) {
            // Zeros where a head was, and a batch behind them: lost, not new.
            head = Copy::Bad;
        }
        Found { file, bytes, head, bad_copies }
    }
}

/// A segment that belongs to the log.
#[derive(Clone)]
pub struct Listed {
    /// Number of its file.
    pub file: u32,
    /// Its head.
    pub head: SegmentHead,
    /// Where the log ends in it.
    pub end: u32,
}

/// The result.
pub struct Outcome {
    /// The log's id; `None`: there is no log yet.
    pub log: Option<[u8; 16]>,
    /// Segments of the log, by sequence.
    pub listed: Vec<Listed>,
    /// Files free for use.
    pub free: Vec<u32>,
    /// Number of the next batch.
    pub next_batch: u64,
    /// CRC of the last batch.
    pub chain: u32,
    /// The owner's mark at the last retirement that is known.
    pub mark: u64,
    /// True if the last segment is intact and without a batch: its head may be replaced, one copy
    /// after the other, instead of taking another file (a crash loop must not eat the disk).
    pub last_is_empty: bool,
    /// For the operator.
    pub report: RecoveryReport,
}

/// How the log goes on after recovery.
pub struct Restart {
    /// Head of the fresh segment. It must be durable (copy by copy: each page by itself) before
    /// anything is accepted.
    pub head: SegmentHead,
    /// The file to write it to.
    pub file: u32,
    /// For the journal.
    pub start: Start,
}

impl Outcome {
    /// Whether [`Self::restart`] needs a file that recovery has not found.
    #[must_use]
    pub fn needs_file(&self) -> bool {
        self.free.is_empty() && !self.last_is_empty
    }

    /// The next epoch: never a byte into the old tail, but a fresh segment that names the cut.
    /// `new_log` is the id if there is no log yet; `added` a zero-filled file if one was needed.
    #[must_use]
    pub fn restart(
        mut self,
        options: &Options,
        new_log: [u8; 16],
        nonce: [u8; 16],
        added: Option<u32>,
    ) -> Restart {
        let mut free: VecDeque<u32> = std::mem::take(&mut self.free).into();
        free.extend(added);
        let reused = if self.last_is_empty { self.listed.pop() } else { None };
        let cut = self.report.cut;
        let (file, head) = match reused {
            Some(last) => {
                (last.file, SegmentHead { epoch: self.report.epoch, nonce, mark: self.mark, ..last.head })
            }
            None => {
                let head = SegmentHead {
                    log: self.log.unwrap_or(new_log),
                    sequence: cut.sequence + 1,
                    epoch: self.report.epoch,
                    nonce,
                    first_batch: self.next_batch,
                    chain: self.chain,
                    previous: cut,
                    oldest: self.listed.first().map_or(cut.sequence + 1, |s| s.head.sequence),
                    bytes: options.segment_bytes,
                    mark: self.mark,
                };
                (free.pop_front().expect("needs_file says when one must be added"), head)
            }
        };
        let mut listed: VecDeque<Segment> =
            self.listed.iter().map(|s| Segment::new(&s.head, s.file, s.end)).collect();
        listed.push_back(Segment::new(&head, file, HEAD_BYTES));
        let start = Start {
            log: head.log,
            epoch: head.epoch,
            nonce,
            next_batch: head.first_batch,
            chain: head.chain,
            mark: head.mark,
            listed,
            free,
        };
        Restart { head, file, start }
    }
}

/// What [`Recovery::step`] wants or has.
pub enum Step<'a> {
    /// The bytes `offset..offset + len` of `file` must be in the window (more is welcome).
    Read {
        /// Number of the file.
        file: u32,
        /// First byte wanted, on a page boundary.
        offset: u32,
        /// Bytes wanted, whole pages.
        len: u32,
    },
    /// A batch of the log, in order. Visit its records with [`visit`].
    Batch {
        /// Its segment.
        sequence: u64,
        /// Its offset in the segment.
        offset: u32,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// All has been read.
    Done,
}

/// The records of a batch except storage's own.
pub fn records(sequence: u64, offset: u32, batch: &[u8]) -> impl Iterator<Item = Recovered<'_>> {
    let users = batch::records(batch).filter(|(_, head, _)| head.kind != KIND_RETIRE);
    users.map(move |(at, head, payload)| {
        let len = record::record_len(payload.len()).expect("inside a batch");
        let location = Location { segment: sequence, offset: offset + at, len };
        Recovered { head, location, payload }
    })
}

/// Calls `each` for every record of a batch except storage's own.
pub fn visit(sequence: u64, offset: u32, batch: &[u8], each: impl FnMut(Recovered<'_>)) {
    records(sequence, offset, batch).for_each(each);
}

/// Recovery of a log, segment by segment.
pub struct Recovery {
    segments: Vec<Planned>,
    outcome: Outcome,
    /// The segment being walked; before `visiting`, the last one is searched for retirements.
    index: usize,
    visiting: bool,
    oldest: u64,
    walk: Option<Walk>,
}

struct Planned {
    file: u32,
    head: SegmentHead,
    /// Where the log ends in it, if a later segment says so.
    end: Option<u32>,
    limit: u32,
}

impl Recovery {
    /// Sorts the files out: which belong to the log, and in what order.
    pub fn new(mut found: Vec<Found>) -> Result<Self, LaterVersion> {
        found.sort_by_key(|f| f.file);
        let bad_heads = found.iter().map(|f| f.bad_copies).sum();
        let mut report = RecoveryReport { bad_heads, ..RecoveryReport::default() };
        for f in &found {
            if let Copy::Later(version) = f.head {
                return Err(LaterVersion(version));
            }
        }
        let log = choose_log(&found);
        let mut by_sequence: BTreeMap<u64, Planned> = BTreeMap::new();
        let (mut free, mut epoch) = (Vec::new(), 0);
        for f in found {
            match f.head {
                Copy::Good(head) if Some(head.log) == log => {
                    epoch = epoch.max(head.epoch);
                    let limit = head.bytes.min(f.bytes) / PAGE as u32 * PAGE as u32;
                    let planned = Planned { file: f.file, head, end: None, limit };
                    report.set_aside += u32::from(insert(&mut by_sequence, planned));
                }
                Copy::Blank => free.push(f.file),
                // It may hold the only trace of what a disk has lost: nobody writes over it.
                Copy::Good(_) | Copy::Bad | Copy::Later(_) => report.set_aside += 1,
            }
        }
        let oldest = by_sequence.values().map(|s| s.head.oldest).max().unwrap_or(0);
        let mark = by_sequence.values().map(|s| s.head.mark).max().unwrap_or(0);
        let mut segments: Vec<Planned> = by_sequence.into_values().collect();
        for i in 1..segments.len() {
            let cut = segments[i].head.previous;
            if cut.sequence == segments[i - 1].head.sequence {
                let limit = segments[i - 1].limit;
                segments[i - 1].end = Some(cut.offset.clamp(HEAD_BYTES.min(limit), limit));
            }
        }
        report.epoch = epoch + 1;
        let outcome = Outcome {
            log,
            listed: Vec::new(),
            free,
            next_batch: 1,
            chain: 0,
            mark,
            last_is_empty: false,
            report,
        };
        let index = segments.len().saturating_sub(1);
        Ok(Recovery { segments, outcome, index, visiting: false, oldest, walk: None })
    }

    /// Goes on with `window` (any part of any file; empty at first).
    pub fn step<'a>(&mut self, window: Window<'a>) -> Step<'a> {
        loop {
            let Some(planned) = self.segments.get(self.index) else { return Step::Done };
            let (file, sequence) = (planned.file, planned.head.sequence);
            let walk = self.walk.get_or_insert_with(|| Walk::new(&planned.head, planned.end, planned.limit));
            match walk.step(window, file) {
                WalkStep::Read { offset, len } => return Step::Read { file, offset, len },
                WalkStep::Batch { offset, bytes, damage } => {
                    if !self.visiting {
                        self.note_retirement(bytes);
                        continue;
                    }
                    self.note_damage(damage);
                    let report = &mut self.outcome.report;
                    report.batches += 1;
                    report.bytes += bytes.len() as u64;
                    visit(sequence, offset, bytes, |_| report.records += 1);
                    return Step::Batch { sequence, offset, bytes };
                }
                WalkStep::End(end) => self.end_of_segment(end),
            }
        }
    }

    fn note_retirement(&mut self, bytes: &[u8]) {
        let last = self.segments[self.index].head.sequence;
        for (_, head, payload) in batch::records(bytes) {
            if head.kind == KIND_RETIRE && head.id <= last {
                self.oldest = self.oldest.max(head.id);
                let mark = payload.get(..8).map_or(0, |b| u64_at(b, 0));
                self.outcome.mark = self.outcome.mark.max(mark);
            }
        }
    }

    fn end_of_segment(&mut self, end: WalkEnd) {
        self.walk = None;
        if !self.visiting {
            self.visiting = true;
            self.drop_retired();
            self.index = 0;
            return;
        }
        let planned = &self.segments[self.index];
        let (sequence, head) = (planned.head.sequence, planned.head.clone());
        let whole = planned.limit == planned.head.bytes;
        let is_last = self.index + 1 == self.segments.len();
        let next = self.segments.get(self.index + 1).map(|s| (s.head.sequence, s.head.first_batch));
        self.outcome.listed.push(Listed { file: planned.file, head, end: end.cut });
        self.outcome.report.segments += 1;
        let mut damage = end.damage;
        if let Some((following, first_batch)) = next
            && following == sequence + 1
            && end.number < first_batch
        {
            // The next segment was begun only when all batches of this one were durable.
            let d = damage.get_or_insert(Damage {
                sequence,
                from: end.cut,
                to: end.cut,
                first_batch: end.number,
                next_batch: first_batch,
                ids: Vec::new(),
            });
            d.next_batch = first_batch;
        }
        self.note_damage(damage);
        if let Some((following, first_batch)) = next {
            for missing in (sequence + 1..following).take(LISTED_MAX) {
                self.note_damage(Some(missing_segment(missing, end.number, first_batch)));
            }
        }
        if is_last {
            let report = &mut self.outcome.report;
            report.tears = u32::from(end.torn);
            report.cut = Cut { sequence, offset: end.cut };
            self.outcome.last_is_empty = end.clean && end.cut == HEAD_BYTES && whole;
            self.outcome.next_batch = end.number;
            self.outcome.chain = end.chain;
        }
        self.index += 1;
    }

    fn drop_retired(&mut self) {
        let first = self.segments.iter().position(|s| s.head.sequence >= self.oldest);
        let first = first.unwrap_or(self.segments.len());
        for retired in self.segments.drain(..first) {
            self.outcome.free.push(retired.file);
        }
        if let Some(s) = self.segments.first() {
            let (found, batch) = (s.head.sequence, s.head.first_batch);
            for missing in (self.oldest..found).take(LISTED_MAX) {
                self.note_damage(Some(missing_segment(missing, batch, batch)));
            }
        }
    }

    fn note_damage(&mut self, damage: Option<Damage>) {
        let Some(damage) = damage else { return };
        let report = &mut self.outcome.report;
        report.damage_count += 1;
        if report.damages.len() < LISTED_MAX {
            report.damages.push(damage);
        }
    }

    /// The verdict, after [`Step::Done`].
    #[must_use]
    pub fn finish(mut self) -> Outcome {
        self.outcome.report.free = self.outcome.free.len() as u32;
        self.outcome
    }
}

/// The log that most files belong to; among equals the one last opened.
fn choose_log(found: &[Found]) -> Option<[u8; 16]> {
    let mut logs: BTreeMap<[u8; 16], (u32, u64)> = BTreeMap::new();
    for f in found {
        if let Copy::Good(head) = &f.head {
            let entry = logs.entry(head.log).or_default();
            *entry = (entry.0 + 1, entry.1.max(head.epoch));
        }
    }
    logs.into_iter().max_by_key(|&(_, weight)| weight).map(|(log, _)| log)
}

/// Of two files with one sequence the later epoch counts. True if one was left out.
fn insert(by_sequence: &mut BTreeMap<u64, Planned>, planned: Planned) -> bool {
    match by_sequence.get(&planned.head.sequence) {
        Some(other) if other.head.epoch >= planned.head.epoch => true,
        other => {
            let left_out = other.is_some();
            by_sequence.insert(planned.head.sequence, planned);
            left_out
        }
    }
}

fn missing_segment(sequence: u64, first_batch: u64, next_batch: u64) -> Damage {
    Damage { sequence, from: 0, to: 0, first_batch, next_batch, ids: Vec::new() }
}

//! A checker for the in-memory log: runs a script of stagings, commits, outcomes and crashes, and
//! asserts after every crash what the journal promises. For tests and the `recover` fuzz target.
//!
//! Ids are given in the order of staging, so order is checked by comparing ids.

use crate::storage::group::Staged;
use crate::storage::journal::Write;
use crate::storage::model::{Kept, Model};
use crate::storage::options::{Options, Urgency};
use crate::storage::record::{Location, RecordHead};
use std::collections::BTreeMap;
use std::task::{Poll, Waker};

/// Bytes that a disk writes at once, at least.
const SECTOR: usize = 512;
const MESSAGE: u8 = 1;
const OUTCOME: u8 = 2;

/// One step of a script.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// Stage a message of so many bytes.
    Message(u16),
    /// Stage an outcome that frees one of the live messages.
    Outcome(u8),
    /// Copy a live message of the oldest segment forward.
    Forward,
    /// One write, to its end.
    Commit,
    /// The machine stops; of the write in flight those sectors are on the disk whose bit is set in
    /// the mask (repeated every 64).
    Crash(u64),
}

#[derive(Clone)]
struct Entry {
    len: usize,
    /// The message that it ends (an outcome) or moves (a copy).
    about: Option<u64>,
    kind: u8,
}

/// The world of one script.
pub struct Oracle {
    /// The log.
    pub model: Model,
    options: Options,
    /// What may be in the log.
    entries: BTreeMap<u64, Entry>,
    /// Length of everything ever staged.
    ever: BTreeMap<u64, usize>,
    /// Acknowledged and not known to be superfluous, with the place.
    live: BTreeMap<u64, Location>,
    acknowledged: Vec<u64>,
    pending: Vec<(Staged, u64)>,
    /// Messages with an outcome or copy staged: not chosen again.
    ending: Vec<u64>,
    next_id: u64,
    crashes: u8,
}

fn payload(id: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (id as usize * 31 + i * 7 + (i >> 8)) as u8).collect()
}

impl Oracle {
    /// A new, empty log.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let model = Model::open(&options, Vec::new(), 1, |_| {}).expect("a new log");
        Oracle {
            model,
            options,
            entries: BTreeMap::new(),
            ever: BTreeMap::new(),
            live: BTreeMap::new(),
            acknowledged: Vec::new(),
            pending: Vec::new(),
            ending: Vec::new(),
            next_id: 1,
            crashes: 0,
        }
    }

    /// Runs one step. Panics where a promise is broken.
    pub fn run(&mut self, op: Op) {
        match op {
            Op::Message(len) => self.stage(MESSAGE, len as usize, None, Urgency::NewMail),
            Op::Outcome(pick) => {
                if let Some(id) = self.pick(usize::from(pick), u64::MAX) {
                    self.stage(OUTCOME, 10, Some(id), Urgency::Outcome);
                }
            }
            Op::Forward => {
                let oldest = self.model.journal.space().oldest();
                if let Some(id) = self.pick(0, oldest) {
                    let len = self.entries[&id].len;
                    self.stage(MESSAGE, len, Some(id), Urgency::Compaction);
                }
            }
            Op::Commit => self.commit(),
            Op::Crash(mask) => self.crash(mask),
        }
    }

    fn pick(&self, n: usize, segment_max: u64) -> Option<u64> {
        let free = |id: &&u64| !self.ending.contains(id) && self.live[*id].segment <= segment_max;
        let n = n % self.live.keys().filter(free).count().max(1);
        self.live.keys().filter(free).nth(n).copied()
    }

    fn stage(&mut self, kind: u8, len: usize, about: Option<u64>, urgency: Urgency) {
        let id = self.next_id;
        let bytes = payload(id, len);
        let (a, b) = bytes.split_at(len / 3);
        let head = RecordHead { kind, version: 1, flags: about.is_some().into(), id };
        let frees = about.map(|id| self.live[&id]);
        // Full and Busy are legal answers.
        if let Ok(staged) = self.model.journal.stage(head, &[a, b], frees, urgency) {
            self.next_id += 1;
            self.entries.insert(id, Entry { len, about, kind });
            self.ever.insert(id, len);
            self.ending.extend(about);
            self.pending.push((staged, id));
        }
    }

    fn commit(&mut self) {
        let Some(write) = self.model.next_write() else { return };
        self.model.apply(&write);
        drop(write);
        self.model.journal.written(true, &mut Vec::new());
        let mut still = Vec::new();
        for (mut staged, id) in std::mem::take(&mut self.pending) {
            match staged.poll(Waker::noop()) {
                Poll::Pending => still.push((staged, id)),
                Poll::Ready(durable) => {
                    let durable = durable.expect("no write has failed");
                    let entry = &self.entries[&id];
                    assert_eq!(*durable.payload, payload(id, entry.len)[..], "delivered from memory");
                    assert!(self.acknowledged.last().is_none_or(|&last| last < id), "released in order");
                    self.note(id, durable.location);
                    self.acknowledged.push(id);
                }
            }
        }
        self.pending = still;
    }

    /// A record is durable.
    fn note(&mut self, id: u64, at: Location) {
        let entry = &self.entries[&id];
        if let Some(about) = entry.about {
            self.live.remove(&about);
        }
        if entry.kind == MESSAGE {
            self.live.insert(id, at);
        }
    }

    fn crash(&mut self, mask: u64) {
        let write = self.model.next_write();
        let mut files = std::mem::take(&mut self.model.files);
        if let Some(write) = &write {
            tear(&mut files, write, mask);
        }
        self.reopen(files);
    }

    /// Opens the log as a new process would, checks it, and opens it once more to see that the
    /// recovery itself changed nothing.
    fn reopen(&mut self, files: Vec<Vec<u8>>) {
        self.crashes = self.crashes.wrapping_add(1);
        let mut kept = Vec::new();
        let take = |kept: &mut Vec<Kept>, r: crate::storage::Recovered<'_>| {
            kept.push(Kept { head: r.head, location: r.location, payload: r.payload.to_vec() });
        };
        let first =
            Model::open(&self.options, files, self.crashes, |r| take(&mut kept, r)).expect("our version");
        let mut again = Vec::new();
        self.model = Model::open(&self.options, first.files, self.crashes ^ 0x80, |r| take(&mut again, r))
            .expect("our version");
        assert_eq!(kept, again, "recovery is idempotent");
        assert_eq!(first.report.damage_count, 0, "a crash is not damage");
        assert_eq!(self.model.report.tears, 0, "the cut hides the tear");
        self.check(&kept);
        let ids: Vec<u64> = kept.iter().map(|k| k.head.id).collect();
        for k in &kept {
            self.note(k.head.id, k.location);
        }
        self.entries.retain(|id, _| ids.contains(id));
        self.live.retain(|id, _| ids.contains(id));
        self.acknowledged = ids;
        self.pending.clear();
        self.ending.clear();
        for at in self.live.values() {
            self.model.journal.keep(*at);
        }
    }

    fn check(&self, kept: &[Kept]) {
        assert!(kept.windows(2).all(|w| w[0].head.id < w[1].head.id), "in order, once");
        let found = |id: u64| kept.binary_search_by_key(&id, |k| k.head.id).is_ok();
        for k in kept {
            let entry = self.entries.get(&k.head.id).expect("nothing is invented or comes back");
            assert!(k.payload == payload(k.head.id, entry.len), "byte for byte");
            assert_eq!(k.head.kind, entry.kind);
        }
        for id in self.live.keys() {
            assert!(found(*id), "acknowledged record {id} is lost");
        }
        for id in &self.acknowledged {
            let entry = &self.entries[id];
            if let Some(about) = entry.about.filter(|&a| found(a)) {
                assert!(found(*id), "{about} came back without its outcome {id}");
            }
        }
        // Of what was waiting, a prefix in whole batches may have become durable.
        let survived = self.pending.iter().take_while(|(_, id)| found(*id)).count();
        assert!(self.pending[survived..].iter().all(|(_, id)| !found(*id)), "no gaps");
    }
}

fn tear(files: &mut [Vec<u8>], write: &Write, mask: u64) {
    for (i, sector) in write.bytes.chunks(SECTOR).enumerate() {
        if mask.rotate_right(i as u32) & 1 == 1 {
            let at = write.offset as usize + i * SECTOR;
            files[write.file as usize][at..at + sector.len()].copy_from_slice(sector);
        }
    }
}

/// For the fuzzer: the bytes are a script; after it, the rest of the bytes are flips, which must be
/// survived without a panic and without inventing a record.
pub fn fuzz_entry(data: &[u8]) {
    let mut oracle = Oracle::new(Options::tiny());
    let (script, flips) = data.split_at(data.len() - data.len() / 4);
    for op in script.chunks_exact(3) {
        let n = u16::from_le_bytes([op[1], op[2]]);
        oracle.run(match op[0] % 8 {
            0..=2 => Op::Message(n % 9000),
            3 => Op::Outcome(op[1]),
            4 => Op::Forward,
            7 if op[0] > 200 => Op::Crash(u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            _ => Op::Commit,
        });
    }
    let mut files = oracle.model.files;
    for f in flips.chunks_exact(4) {
        let i = usize::from(f[0]) % files.len();
        let at = usize::from(u16::from_le_bytes([f[1], f[2]])) % files[i].len();
        files[i][at] ^= f[3];
    }
    let _ = Model::open(&Options::tiny(), files, 9, |r| {
        // Flips may undo a retirement or a cut, so that older records are read again; but only records.
        let len = oracle.ever.get(&r.head.id);
        assert!(len.is_some_and(|&len| r.payload == payload(r.head.id, len)), "invented");
    });
}

//! L2: the segments of one archive: what lives in each, and which should go.
//!
//! Knows numbers and counts, not files. Counts of live records are durable state: a count that does
//! not add up is a bug and panics. Until the owner has counted all that lives ([`Shelf::counted`])
//! the order of `keep` and `dead` does not matter, and nothing is named to be cleaned.

use crate::base::time::Wall;
use crate::storage::archive::format::HEAD_BYTES;
use crate::storage::archive::{Options, Place};
use crate::storage::segment::Keys;
use std::collections::{BTreeMap, BTreeSet};

/// While space is short a segment of which less than this share lives, in percent, is cleaned: who deletes at
/// random leaves something alive everywhere.
const SHORT_SHARE: u8 = 95;

/// One segment.
#[derive(Clone)]
pub struct Volume {
    /// Keys of its records.
    pub keys: Keys,
    /// Where its records end, as far as they are durable.
    pub end: u32,
    /// It has a trailer.
    pub sealed: bool,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Records in it and their bytes; of a segment without trailer that was there at the start the
    /// number is not known, and the bytes are all it has.
    pub records: Option<u32>,
    /// See `records`.
    pub bytes: u64,
    /// When it was begun.
    pub begun: Wall,
    /// Begun in this run: its records are counted as living when they are appended.
    pub ours: bool,
    /// Being written.
    pub open: bool,
    live_records: i64,
    live_bytes: i64,
    dead_since: Option<Wall>,
    left: bool,
}

impl Volume {
    /// A segment found at the start (`ours`: begun now), with records up to `end`.
    #[must_use]
    pub fn new(keys: Keys, end: u32, begun: Wall, ours: bool) -> Self {
        Volume {
            keys,
            end,
            sealed: false,
            file_bytes: u64::from(end),
            records: ours.then_some(0),
            bytes: u64::from(end.saturating_sub(HEAD_BYTES)),
            begun,
            ours,
            open: ours,
            live_records: 0,
            live_bytes: 0,
            dead_since: None,
            left: false,
        }
    }

    /// Counts a record as living.
    pub fn add(&mut self, len: u32) {
        self.live_records += 1;
        self.live_bytes += i64::from(len);
    }

    /// Stops counting it.
    pub fn take(&mut self, len: u32) {
        self.live_records -= 1;
        self.live_bytes -= i64::from(len);
    }

    /// Records that live in it.
    #[must_use]
    pub fn live_records(&self) -> i64 {
        self.live_records
    }

    /// Bytes of these.
    #[must_use]
    pub fn live_bytes(&self) -> i64 {
        self.live_bytes
    }

    fn check(&self, number: u32) {
        let sound = self.live_records >= 0
            && self.live_bytes >= 0
            && (self.live_records > 0 || self.live_bytes == 0)
            && self.records.is_none_or(|n| self.live_records <= i64::from(n));
        assert!(
            sound,
            "archive segment {number}: {} records of {} bytes cannot live in it",
            self.live_records, self.live_bytes
        );
    }

    fn has_dead(&self) -> bool {
        self.records.is_none_or(|n| self.live_records < i64::from(n))
    }
}

/// What should be done to get space back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Victim {
    /// Nothing lives in this segment: remove it.
    Empty(u32),
    /// Little lives in this segment, or what is dead in it has been dead for too long: append what
    /// lives anew, then say that the old places are dead.
    Copy(u32),
}

/// All segments of one archive.
pub struct Shelf {
    volumes: BTreeMap<u32, Volume>,
    counted: bool,
    clean_share: u8,
    dead_age: std::time::Duration,
}

impl Shelf {
    /// Of the segments found.
    #[must_use]
    pub fn new(options: &Options, volumes: BTreeMap<u32, Volume>) -> Self {
        Shelf { volumes, counted: false, clean_share: options.clean_share, dead_age: options.dead_age }
    }

    /// A segment.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&Volume> {
        self.volumes.get(&number)
    }

    /// A segment.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Volume> {
        self.volumes.get_mut(&number)
    }

    /// All segments by number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Volume)> {
        self.volumes.iter().map(|(n, v)| (*n, v))
    }

    /// A segment has been begun.
    pub fn begin(&mut self, number: u32, volume: Volume) {
        assert!(self.highest() < number, "numbers are never used twice");
        self.volumes.insert(number, volume);
    }

    /// The highest number there is; 0: none.
    #[must_use]
    pub fn highest(&self) -> u32 {
        self.volumes.last_key_value().map_or(0, |(n, _)| *n)
    }

    /// Counts a record found at the start as living. `false`: there is no such place. What was
    /// appended in this run is counted already.
    pub fn keep(&mut self, at: Place) -> bool {
        let Some(v) = self.volumes.get_mut(&at.segment) else { return false };
        if at.offset < HEAD_BYTES || u64::from(at.offset) + u64::from(at.len) > u64::from(v.end) {
            // Of an open segment `end` is what is durable.
            return v.open;
        }
        if !v.ours {
            assert!(!self.counted, "what lived at the start was counted already");
            v.add(at.len);
        }
        true
    }

    /// A record is no longer needed, and that is durable. Its segment may be gone already, or may
    /// never have held it durably: then nothing happens.
    pub fn dead(&mut self, at: Place, now: Wall) {
        let counted = self.counted;
        let Some(v) = self.volumes.get_mut(&at.segment) else { return };
        v.take(at.len);
        v.dead_since.get_or_insert(now);
        if counted || v.ours {
            v.check(at.segment);
        }
    }

    /// All that lived at the start has been counted.
    pub fn counted(&mut self) {
        assert!(!self.counted, "once");
        self.counted = true;
        for (number, v) in &mut self.volumes {
            v.check(*number);
            if !v.ours && v.has_dead() {
                // How long it has been dead is not known; not longer than this.
                v.dead_since = Some(v.begun);
            }
        }
    }

    /// The segment is not to be named again by [`Self::victim`] in this run: it cannot be cleaned.
    pub fn leave(&mut self, number: u32) {
        if let Some(v) = self.volumes.get_mut(&number) {
            v.left = true;
        }
    }

    /// What should go first, if anything: what is empty, then what has the smallest share alive. `short`:
    /// there is hardly any space left, and little is worth much. None of `but`.
    #[must_use]
    pub fn victim(&self, now: Wall, short: bool, but: &BTreeSet<u32>) -> Option<Victim> {
        if !self.counted {
            return None;
        }
        let highest = self.highest();
        let most = if short { self.clean_share.max(SHORT_SHARE) } else { self.clean_share };
        let mut best: Option<(u64, u32)> = None;
        for (&number, v) in &self.volumes {
            // The one with the highest number stays, as the memory of it.
            let memory = number == highest && v.end <= HEAD_BYTES;
            if v.open || v.left || memory || but.contains(&number) {
                continue;
            }
            if v.live_records == 0 {
                return Some(Victim::Empty(number));
            }
            let share = v.live_bytes.unsigned_abs() * 100 / v.bytes.max(1);
            let old = v.has_dead() && v.dead_since.is_some_and(|since| now.since(since) > self.dead_age);
            if (share < u64::from(most) || old) && best.is_none_or(|(least, _)| share < least) {
                best = Some((share, number));
            }
        }
        best.map(|(_, number)| Victim::Copy(number))
    }

    /// Takes an empty segment off. `false`: there is none of this number.
    pub fn remove(&mut self, number: u32) -> bool {
        let Some(v) = self.volumes.remove(&number) else { return false };
        assert!(v.live_records == 0 && !v.open, "archive segment {number} is still needed");
        true
    }
}

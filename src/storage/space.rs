//! L2: the segments of one journal: which exist, what lives in them, who may still write.
//!
//! Knows sequence numbers and file numbers, not files. Counts of live records are durable state:
//! a count that does not add up is a bug and panics.

use crate::storage::options::{Options, Urgency};
use crate::storage::record::Location;
use crate::storage::segment::{Keys, SegmentHead};
use std::collections::VecDeque;

/// Why there is no space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// Not before something is delivered or deleted, or the disk gets larger.
    Full,
    /// Soon: the batches ahead or a new segment must be finished first.
    Busy,
}

/// A segment that is part of the log.
#[derive(Clone)]
pub struct Segment {
    /// Number in the log.
    pub sequence: u64,
    /// Number of the file.
    pub file: u32,
    /// Epoch of its batches.
    pub epoch: u64,
    /// Keys of its batches.
    pub keys: Keys,
    /// Number of its first batch.
    pub first_batch: u64,
    /// CRC of the batch before its first.
    pub chain: u32,
    /// Length of the file.
    pub bytes: u32,
    /// Where the log ends in it.
    pub end: u32,
    /// Records that keep it.
    pub live_records: u64,
    /// Bytes of those records.
    pub live_bytes: u64,
    /// Readers that keep it.
    pub pins: u32,
}

impl Segment {
    /// A segment as its head says, ending at `end`.
    #[must_use]
    pub fn new(head: &SegmentHead, file: u32, end: u32) -> Self {
        Segment {
            sequence: head.sequence,
            file,
            epoch: head.epoch,
            keys: head.keys(),
            first_batch: head.first_batch,
            chain: head.chain,
            bytes: head.bytes,
            end,
            live_records: 0,
            live_bytes: 0,
            pins: 0,
        }
    }
}

/// All segments of one journal.
pub struct Space {
    listed: VecDeque<Segment>,
    cooling: Vec<Segment>,
    free: VecDeque<u32>,
    doomed: Vec<u32>,
    files: u32,
    failing: bool,
    options: Options,
}

impl Space {
    /// `listed` by sequence, the last one being written; `free` files of the right length.
    #[must_use]
    pub fn new(options: Options, listed: VecDeque<Segment>, free: VecDeque<u32>) -> Self {
        assert!(listed.iter().zip(listed.iter().skip(1)).all(|(a, b)| a.sequence < b.sequence));
        assert!(!listed.is_empty(), "a journal always has a segment to write to");
        let files = (listed.len() + free.len()) as u32;
        Space { listed, cooling: Vec::new(), free, doomed: Vec::new(), files, failing: false, options }
    }

    /// The segment being written.
    #[must_use]
    pub fn current(&self) -> &Segment {
        self.listed.back().expect("never empty")
    }

    /// The segment being written.
    pub fn current_mut(&mut self) -> &mut Segment {
        self.listed.back_mut().expect("never empty")
    }

    /// Sequence of the oldest segment of the log.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.listed.front().expect("never empty").sequence
    }

    /// A segment of the log; `None` if retired or never there.
    #[must_use]
    pub fn get(&self, sequence: u64) -> Option<&Segment> {
        self.index(sequence).map(|i| &self.listed[i])
    }

    fn get_mut(&mut self, sequence: u64) -> Option<&mut Segment> {
        self.index(sequence).map(|i| &mut self.listed[i])
    }

    fn index(&self, sequence: u64) -> Option<usize> {
        self.listed.binary_search_by_key(&sequence, |s| s.sequence).ok()
    }

    /// Whether a record of `need` bytes may be staged, with `waiting` bytes staged before it.
    ///
    /// What is lost at the ends of segments is counted as lost beforehand, so that whatever is let
    /// in here can be written, and one page more for the retirement that follows.
    pub fn admit(&self, urgency: Urgency, need: u64, waiting: u64) -> Result<(), Shortage> {
        let o = &self.options;
        let usable = o.usable();
        let here = u64::from(self.current().bytes - self.current().end);
        let here = here.saturating_sub(u64::from(o.batch_bytes_max));
        let now = here + self.free.len() as u64 * usable;
        let frees_space = matches!(urgency, Urgency::Compaction | Urgency::Outcome | Urgency::Archived);
        let more = match self.addable() {
            // What frees space may go past the limit when nothing is left.
            0 if frees_space && self.free.is_empty() && self.may_exceed() && !self.failing => 1,
            n => n,
        };
        let (floor, floor_now) = match urgency {
            Urgency::NewMail => (u64::from(o.reserve.new_mail) * usable, usable / 4),
            Urgency::Bounce => (u64::from(o.reserve.bounces) * usable, usable / 8),
            Urgency::Compaction => (self.copying_leaves(), usable / 8),
            Urgency::Outcome | Urgency::Archived => (0, 0),
        };
        let taken = need + waiting;
        if now + more * usable < taken + floor {
            return Err(Shortage::Full);
        }
        if now < taken + floor_now { Err(Shortage::Busy) } else { Ok(()) }
    }

    /// Bytes that copying forward leaves to outcomes. Where all that lives in the oldest segment fits
    /// besides, to end it gives more than it takes; to stop before would leave it to outcomes to use up
    /// the rest, and nothing would ever be free again.
    fn copying_leaves(&self) -> u64 {
        let usable = self.options.usable();
        let left =
            self.oldest_living().and_then(|(segment, _)| self.get(segment)).map_or(0, |s| s.live_bytes);
        (u64::from(self.options.reserve.compaction) * usable).min(left + usable / 4)
    }

    /// Files that may still be added for everyone.
    fn addable(&self) -> u64 {
        if self.failing { 0 } else { u64::from(self.options.segments_max.saturating_sub(self.files)) }
    }

    /// Counts a record as live.
    pub fn keep(&mut self, at: Location) {
        let segment = self.get_mut(at.segment).expect("a live record is in a segment of the log");
        segment.live_records += 1;
        segment.live_bytes += u64::from(at.len);
    }

    /// The record at `at` is needed no longer, and that is durable.
    pub fn free(&mut self, at: Location) {
        let segment = self.get_mut(at.segment).expect("a live record keeps its segment in the log");
        segment.live_records = segment.live_records.checked_sub(1).expect("a record is freed once");
        segment.live_bytes =
            segment.live_bytes.checked_sub(u64::from(at.len)).expect("with the length it had");
        assert!(segment.live_records > 0 || segment.live_bytes == 0, "lengths add up");
    }

    /// A reader needs the segment. `false`: it is no longer part of the log.
    pub fn pin(&mut self, sequence: u64) -> bool {
        self.get_mut(sequence).map(|s| s.pins += 1).is_some()
    }

    /// A reader is done.
    pub fn unpin(&mut self, sequence: u64) {
        if let Some(segment) = self.get_mut(sequence) {
            segment.pins = segment.pins.checked_sub(1).expect("pinned before");
            return;
        }
        let i = self.cooling.iter().position(|s| s.sequence == sequence).expect("pinned before");
        self.cooling[i].pins = self.cooling[i].pins.checked_sub(1).expect("pinned before");
        if self.cooling[i].pins == 0 {
            let segment = self.cooling.swap_remove(i);
            self.reuse(&segment);
        }
    }

    /// The sequence that would be oldest if every leading segment without life were retired;
    /// `None` if there is nothing to retire. A segment with readers waits.
    #[must_use]
    pub fn retirable(&self) -> Option<u64> {
        let last = self.listed.len() - 1;
        let n = self.listed.iter().take(last).take_while(|s| s.live_records == 0 && s.pins == 0).count();
        (n > 0).then(|| self.listed[n].sequence)
    }

    /// It is durable that segments before `oldest` are no longer part of the log.
    pub fn retire_before(&mut self, oldest: u64) {
        while self.oldest() < oldest {
            assert!(self.listed.len() > 1, "the segment being written is never retired");
            let segment = self.listed.pop_front().expect("never empty");
            assert_eq!(segment.live_records, 0, "a segment with live records is never retired");
            if segment.pins > 0 {
                self.cooling.push(segment);
            } else {
                self.reuse(&segment);
            }
        }
    }

    fn reuse(&mut self, segment: &Segment) {
        // What was made past the limit goes again as soon as something else is free.
        let too_many = self.files > self.options.segments_max && !self.free.is_empty();
        if segment.bytes == self.options.segment_bytes && !too_many {
            self.free.push_back(segment.file);
        } else {
            self.files -= 1;
            self.doomed.push(segment.file);
        }
    }

    /// Takes a file for a new segment.
    pub fn take_free(&mut self) -> Option<u32> {
        self.free.pop_front()
    }

    /// A segment has been begun, durably; it is now the one being written.
    pub fn begin(&mut self, segment: Segment) {
        assert!(segment.sequence > self.current().sequence);
        self.listed.push_back(segment);
    }

    /// A retired file of another length than the present options want, or one too many, to be removed.
    pub fn take_doomed(&mut self) -> Option<u32> {
        self.doomed.pop()
    }

    /// Whether there are files to be removed.
    #[must_use]
    pub fn has_doomed(&self) -> bool {
        !self.doomed.is_empty()
    }

    /// Whether another file should be made now. Each opening takes a segment, also of a full log;
    /// so that outcomes can always be written, one may be made past the limit when none is free.
    #[must_use]
    pub fn wants_file(&self) -> bool {
        let spare = self.options.reserve.new_mail as usize;
        (self.free.is_empty() && self.may_exceed())
            || (self.free.len() <= spare && self.files < self.options.segments_max)
    }

    /// Past the limit there is another: twice as many.
    fn may_exceed(&self) -> bool {
        self.files < self.options.segments_max.saturating_mul(2)
    }

    /// True if not one free file is left.
    #[must_use]
    pub fn has_none(&self) -> bool {
        self.free.is_empty()
    }

    /// A file was made.
    pub fn add_file(&mut self, file: u32) {
        self.files += 1;
        self.failing = false;
        self.free.push_back(file);
    }

    /// A file could not be made (or must not, the disk being short).
    pub fn cannot_add(&mut self) {
        self.failing = true;
    }

    /// The oldest segment that holds live records, and how many are older: those go by themselves.
    fn oldest_living(&self) -> Option<(u64, usize)> {
        let last = self.listed.len() - 1;
        let older = self.listed.iter().take(last).position(|s| s.live_records > 0)?;
        Some((self.listed[older].sequence, older))
    }

    /// The oldest segment that holds live records, if the log from there on is longer than its window:
    /// they should be taken out of the journal.
    #[must_use]
    pub fn overflow(&self) -> Option<u64> {
        let (segment, older) = self.oldest_living()?;
        (self.listed.len() - older > self.options.window as usize).then_some(segment)
    }

    /// The oldest segment that holds live records, if they should be copied forward now: the log is much
    /// longer than what lives in it, or space runs out while a quarter of it is dead.
    #[must_use]
    pub fn pressure(&self) -> Option<u64> {
        let (segment, older) = self.oldest_living()?;
        let o = &self.options;
        let live = self.live_bytes();
        let listed = (self.listed.len() - older) as u64;
        let spread = listed > 8 && listed > u64::from(o.spread) * (live / o.usable() + 1);
        let free = (self.free.len() + older) as u64;
        let low = free + self.addable() < u64::from(o.reserve.new_mail) + 2;
        let worth = live < listed * o.usable() / 4 * 3;
        (spread || (low && worth)).then_some(segment)
    }

    /// Bytes of all live records.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.listed.iter().map(|s| s.live_bytes).sum()
    }

    /// Number of live records.
    #[must_use]
    pub fn live_records(&self) -> u64 {
        self.listed.iter().map(|s| s.live_records).sum()
    }

    /// Segments in the log, free files, and bytes of the log.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize, u64) {
        (self.listed.len(), self.free.len(), self.listed.iter().map(|s| u64::from(s.end)).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full log whose segments hold so many live records each, the last one being written.
    fn log(live: &[u64]) -> Space {
        let segment = |(n, live): (usize, &u64)| Segment {
            sequence: n as u64 + 1,
            file: n as u32,
            epoch: 1,
            keys: Keys::new([7; 16]),
            first_batch: 1,
            chain: 0,
            bytes: 64 << 10,
            end: 64 << 10,
            live_records: *live,
            live_bytes: 1000 * live,
            pins: 0,
        };
        let listed = live.iter().enumerate().map(segment).collect();
        let options = Options { window: 3, segments_max: live.len() as u32 + 2, ..Options::tiny() };
        Space::new(options, listed, [50, 51].into_iter().collect())
    }

    #[test]
    fn what_goes_by_itself_does_not_hide_what_must_be_taken_out() {
        // The oldest two are about to be retired; the third is to be emptied next, at once.
        let space = log(&[0, 0, 3, 0, 0, 1]);
        assert_eq!((space.retirable(), space.overflow()), (Some(3), Some(3)));
        // What is left is as long as the window, what is being written included.
        assert_eq!(log(&[0, 0, 0, 3, 0, 1]).overflow(), None);
        assert_eq!(log(&[0, 0, 0, 0, 0, 9]).overflow(), None, "the last one is being written");
    }

    #[test]
    fn copying_forward_may_use_the_reserve_to_end_a_segment() {
        let full = |live: &[u64]| {
            let mut space = log(live);
            space.free.pop_front();
            space.admit(Urgency::Compaction, 9000, 0)
        };
        // One free segment: not for all that lives in the oldest, but for the last of it.
        assert_eq!(full(&[30, 0, 0, 0]), Err(Shortage::Full));
        assert_eq!(full(&[9, 30, 30, 0]), Ok(()));
    }

    #[test]
    fn pressure_counts_what_will_be_free_soon() {
        // Two free files, none to be added: short.
        assert_eq!(log(&[1, 0, 0, 0]).pressure(), Some(1));
        assert_eq!(log(&[0, 1, 0, 0]).pressure(), Some(2));
        // With three more it is not.
        assert_eq!(log(&[0, 0, 0, 1, 0, 0]).pressure(), None);
        // Nothing is to be had where all of it lives.
        assert_eq!(log(&[41, 41, 41, 0]).pressure(), None);
    }
}

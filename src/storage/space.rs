//! L2: the segments of one journal: which exist, what lives in them, who may still write.
//!
//! Knows sequence numbers and file numbers, not files. Counts of live records are durable state:
//! a count that does not add up is a bug and panics.

use crate::base::aligned::PAGE;
use crate::storage::options::{Options, Urgency};
use crate::storage::record::Location;
use crate::storage::segment::{HEAD_BYTES, Keys, SegmentHead};
use std::collections::VecDeque;

/// Bytes that an attempt may take: the record that announces it and its outcome, each in a batch of its own.
const ATTEMPT: u64 = 2 * PAGE as u64;

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
    /// See [`Space::share_disk`].
    sharing: bool,
    options: Options,
}

impl Space {
    /// `listed` by sequence, the last one being written; `free` files of the right length.
    #[must_use]
    pub fn new(options: Options, listed: VecDeque<Segment>, free: VecDeque<u32>) -> Self {
        assert!(listed.iter().zip(listed.iter().skip(1)).all(|(a, b)| a.sequence < b.sequence));
        assert!(!listed.is_empty(), "a journal always has a segment to write to");
        let files = (listed.len() + free.len()) as u32;
        let (cooling, doomed) = (Vec::new(), Vec::new());
        Space { listed, cooling, free, doomed, files, failing: false, sharing: false, options }
    }

    /// The owner takes what lives elsewhere on the same disk, never forward: files that are free beyond the
    /// reserve go while no more can be made, and attempts of delivery have no say in how many there are.
    pub fn share_disk(&mut self) {
        self.sharing = true;
    }

    /// The disk is short: free files beyond the reserve go, if the owner takes what lives elsewhere.
    pub fn give_back(&mut self) {
        while self.sharing && self.free.len() > self.spare() + 1 {
            self.files -= 1;
            self.doomed.extend(self.free.pop_back());
        }
    }

    /// Free files that new mail leaves alone. There is to be one more.
    fn spare(&self) -> usize {
        self.options.reserve.new_mail as usize
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

    /// The segments of the log, oldest first.
    pub fn listed(&self) -> impl Iterator<Item = &Segment> {
        self.listed.iter()
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
        let usable = self.options.usable();
        let now = self.room();
        let frees_space = matches!(urgency, Urgency::Compaction | Urgency::Outcome | Urgency::Archived);
        let more = match self.addable() {
            // What frees space may go past the limit when nothing is left.
            0 if frees_space && self.free.is_empty() && self.may_exceed() && !self.failing => 1,
            n => n,
        };
        // The longer the log, the longer the way that copying forward has to go before it gains anything.
        let listed = self.listed.len() as u64;
        let reserve = |segments: u32, part: u64| u64::from(segments).max(listed / part) * usable;
        let (floor, floor_now) = match urgency {
            Urgency::NewMail => {
                // A share is two segments at most: nearly always there is room for any.
                let share = if now >= need + waiting + 3 * usable { 0 } else { self.share() };
                let now = if share == 0 { usable / 4 } else { share + usable / 2 };
                (reserve(self.options.reserve.new_mail, 8), now)
            }
            Urgency::Bounce => (reserve(self.options.reserve.bounces, 12), self.share() + usable / 4),
            Urgency::Compaction => (usable / 4, usable / 4),
            Urgency::Outcome | Urgency::Archived => (0, 0),
        };
        let taken = need + waiting;
        if now + more * usable < taken + floor {
            // Mail is rather held back than refused while the space is being made.
            let soon = urgency == Urgency::NewMail && now + more * usable + self.coming() >= taken + floor;
            return Err(if soon { Shortage::Busy } else { Shortage::Full });
        }
        if now < taken + floor_now { Err(Shortage::Busy) } else { Ok(()) }
    }

    /// Bytes that can be written without another file.
    fn room(&self) -> u64 {
        let here = u64::from(self.current().bytes - self.current().end);
        let here = here.saturating_sub(u64::from(self.options.batch_bytes_max));
        here + self.free.len() as u64 * self.options.usable()
    }

    /// Bytes that must be there to empty the oldest segment in which something lives: all that lives there,
    /// a quarter more for its states and for padding, and a page. They belong to copying forward: outcomes
    /// that used them up would end all hope of more space.
    fn share(&self) -> u64 {
        let oldest = self.oldest_living().and_then(|(segment, _)| self.get(segment));
        let most = 2 * self.options.usable();
        oldest.map_or(0, |s| (s.live_bytes + s.live_bytes / 4 + PAGE as u64).min(most))
    }

    /// Whether so many attempts of delivery may be under way, with `waiting` bytes staged: what they will
    /// say can be written, and copying forward keeps its share.
    #[must_use]
    pub fn bears(&self, attempts: u64, waiting: u64) -> bool {
        let usable = self.options.usable();
        let taken = waiting + self.share() + usable / 4 + attempts * ATTEMPT;
        self.room() + self.addable() * usable >= taken
    }

    /// Hardly any attempt may be begun, also when what goes by itself has gone.
    fn is_tight(&self) -> bool {
        let older = self.oldest_living().map_or(0, |(_, older)| older as u64);
        !self.bears(8, 0) && older < 2
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
        let spare = self.spare();
        let too_many = self.files > self.options.segments_max && self.free.len() >= spare
            || self.sharing && self.failing && self.free.len() > spare;
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
        (self.is_urgent() && self.may_exceed())
            || (self.free.len() <= self.spare() && self.files < self.options.segments_max)
    }

    /// Whether a file must be made if it fits on the disk at all: there is none, or attempts cannot be
    /// begun, and copying forward would not help.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.free.is_empty() || !self.sharing && self.is_tight() && self.pressure().is_none()
    }

    /// Past the limit there is another: twice as many.
    fn may_exceed(&self) -> bool {
        self.files < self.options.segments_max.saturating_mul(2)
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
    #[must_use]
    pub fn oldest_living(&self) -> Option<(u64, usize)> {
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
    /// longer than what lives in it; or space runs out while a quarter of it is dead; or attempts cannot be
    /// begun, and once round the log gives a segment, or a sixteenth of it.
    #[must_use]
    pub fn pressure(&self) -> Option<u64> {
        let (segment, older) = self.oldest_living()?;
        let o = &self.options;
        let live = self.live_bytes();
        let listed = (self.listed.len() - older) as u64;
        let spread = listed > 8 && listed > u64::from(o.spread) * (live / o.usable() + 1);
        let low = self.is_low(older);
        let worth = live < listed * o.usable() / 4 * 3;
        let whole = u64::from(o.segment_bytes - HEAD_BYTES);
        let gain = (listed * whole).saturating_sub(live + live / 8);
        let gains = gain >= whole * (listed / 16).max(1);
        (spread || (low && worth) || (gains && self.is_tight())).then_some(segment)
    }

    /// Few files are left, also when `older` segments have gone by themselves.
    fn is_low(&self, older: usize) -> bool {
        let free = (self.free.len() + older) as u64;
        free + self.addable() < u64::from(self.options.reserve.new_mail) + 2
    }

    /// The oldest segment that holds live records, if space runs out: for an owner that takes all of it
    /// elsewhere, so that every segment gives a segment, however much lives in the log.
    #[must_use]
    pub fn scarcity(&self) -> Option<u64> {
        let (segment, older) = self.oldest_living()?;
        self.is_low(older).then_some(segment)
    }

    /// Bytes that will be there without anything being delivered or deleted: segments that go by themselves,
    /// and what copying forward gains if it is under way.
    fn coming(&self) -> u64 {
        let usable = self.options.usable();
        let last = self.listed.len() as u64 - 1;
        let Some(older) = self.oldest_living().map(|(_, older)| older as u64) else { return last * usable };
        let live = self.live_bytes();
        let gain = self.pressure().map_or(0, |_| ((last - older) * usable).saturating_sub(live + live / 4));
        older * usable + gain
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

    /// How many attempts may be under way.
    fn borne(space: &Space) -> u64 {
        (0..).find(|n| !space.bears(n + 1, 0)).expect("there is a limit")
    }

    #[test]
    fn attempts_leave_to_copying_forward_what_it_needs() {
        // Two free segments of 40 KiB to count on, a quarter of one set aside; two pages an attempt.
        assert_eq!(borne(&log(&[0, 0, 0, 0])), 8);
        assert_eq!(borne(&log(&[30, 0, 0, 0])), 3, "37.5 KB and a page less");
        assert_eq!(borne(&log(&[0, 55, 0, 0])), 0);
        let mut space = log(&[30, 30, 30, 0]);
        space.free.pop_front();
        assert!(!space.bears(1, 0) && space.pressure() == Some(1));
        // What lives in the oldest can be staged, and outcomes of what is under way besides.
        assert_eq!(space.admit(Urgency::Compaction, 30_000, 0), Ok(()));
        assert_eq!(space.admit(Urgency::Compaction, 800, 30_000), Err(Shortage::Full));
        assert_eq!(space.admit(Urgency::Outcome, 800, 30_000), Ok(()));
        assert_eq!(space.admit(Urgency::Bounce, 700, 0), Err(Shortage::Full));
    }

    #[test]
    fn a_long_log_keeps_a_longer_reserve() {
        let free = |listed: usize, free: u32| {
            let mut space = log(&vec![41; listed]);
            space.free = (0..free).collect();
            space.admit(Urgency::NewMail, 9000, 0)
        };
        assert_eq!((free(8, 4), free(8, 3)), (Ok(()), Err(Shortage::Full)));
        assert_eq!((free(80, 11), free(80, 10)), (Ok(()), Err(Shortage::Full)));
    }

    #[test]
    fn when_space_is_scarce_a_log_full_of_life_can_be_emptied_elsewhere() {
        let full = log(&[55, 55, 55, 0]);
        assert_eq!((full.pressure(), full.scarcity()), (None, Some(1)));
        // Three more are about to go; nothing lives outside of the newest.
        assert_eq!(log(&[0, 0, 0, 55, 55, 0]).scarcity(), None);
        assert_eq!(log(&[0, 0, 55]).scarcity(), None);
    }

    #[test]
    fn a_log_that_shares_its_disk_gives_back_what_is_free() {
        let full = |sharing: bool, failing: bool| {
            let mut space = log(&[0, 0, 0, 0, 1]);
            if sharing {
                space.share_disk();
            }
            if failing {
                space.cannot_add();
            }
            space.retire_before(5);
            space
        };
        // Two were free, and four more are: the reserve and one stay while no file can be made.
        assert_eq!(full(true, true).sizes().1, 4);
        assert_eq!((full(true, false).sizes().1, full(false, true).sizes().1), (6, 6));
        let mut space = full(true, false);
        space.give_back();
        assert!(space.sizes().1 == 4 && space.files == 5 && !space.wants_file());
        assert!(space.take_doomed().is_some() && space.take_doomed().is_some() && !space.has_doomed());
        let mut other = full(false, false);
        other.give_back();
        assert_eq!(other.sizes().1, 6);
    }

    #[test]
    fn who_takes_what_lives_elsewhere_needs_no_file_for_attempts() {
        let mut space = log(&[55, 55, 55, 0]);
        assert!(!space.bears(1, 0) && space.is_urgent());
        space.share_disk();
        assert!(!space.is_urgent() && space.scarcity() == Some(1));
        space.free.clear();
        assert!(space.is_urgent());
    }

    #[test]
    fn pressure_counts_what_will_be_free_soon() {
        // Two free files, none to be added: short.
        assert_eq!(log(&[1, 0, 0, 0]).pressure(), Some(1));
        assert_eq!(log(&[0, 1, 0, 0]).pressure(), Some(2));
        // With three more it is not.
        assert_eq!(log(&[0, 0, 0, 1, 0, 0]).pressure(), None);
        // Nothing is to be had where all of it lives, or less than a segment.
        assert_eq!(log(&[55, 55, 55, 0]).pressure(), None);
        // Once round the log gives one: worth it if there is no other way.
        assert_eq!(log(&[41, 41, 41, 0]).pressure(), Some(1));
    }
}

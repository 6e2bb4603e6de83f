//! L4: bodies that are read ahead: whoever reads one message after the other gets many with one read.
//!
//! What has been read lies here as stretches of the logs, for all sessions of the shard together and
//! within a bound; a session has no memory of its own for it. Nobody loses what he is reading to somebody
//! else: who finds no room reads single records. What is taken out is verified each time.
//! Places of bodies in the archive are kept here too, for those that are about to be read: to look for one
//! in the index costs about as much as for many. A place that is not right any more is only a detour.

use crate::base::aligned::{PAGE, SharedBytes};
use crate::base::time::Mono;
use crate::mailbox::types::BodyId;
use crate::storage::archive::Place;
use crate::storage::record::Location;
use crate::storage::stretch::Stretch;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Bytes of all stretches, those being read included.
const BYTES_MAX: usize = 4 << 20;
/// A stretch that nobody has used for so long makes way for another.
const STALE: Duration = Duration::from_secs(1);
/// Places that are kept.
const PLACES_MAX: usize = 4096;
/// Messages that a session reads ahead at most.
pub(super) const MESSAGES: usize = 64;
/// Bytes that are read at once by a session that has just begun to read one message after the other, and
/// by one that has gone on.
pub(super) const FIRST: u32 = 64 << 10;
const NEXT: u32 = 128 << 10;
/// Messages that are read one by one when nothing was near.
const FAR: u32 = 16;

/// Where a body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Where {
    Journal(Location),
    Archive(Place),
}

/// A segment of the journal or of the archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Log {
    Journal(u64),
    Archive(u32),
}

impl Where {
    fn log(&self) -> Log {
        match self {
            Where::Journal(at) => Log::Journal(at.segment),
            Where::Archive(at) => Log::Archive(at.segment),
        }
    }

    fn range(&self) -> (u32, u32) {
        let (offset, len) = match self {
            Where::Journal(at) => (at.offset, at.len),
            Where::Archive(at) => (at.offset, at.len),
        };
        (offset, offset.saturating_add(len))
    }
}

struct Kept {
    log: Log,
    stretch: Stretch,
    /// Where what it was read for ends.
    end: u32,
    used: Mono,
    /// That has been taken out.
    done: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Near {
    kept: VecDeque<Kept>,
    /// Bytes of stretches, and of reads under way.
    bytes: usize,
    places: BTreeMap<BodyId, Place>,
    order: VecDeque<BodyId>,
}

/// How far a session that reads one message after the other reads ahead.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Pace {
    /// The sequence number that it has read last.
    last: u32,
    /// How many in a row.
    run: u32,
    /// So many that follow are read one by one.
    far: u32,
}

impl Pace {
    /// It reads this one. Gives how many bytes are to be read at once; 0: just the message.
    pub fn step(&mut self, seq: u32) -> u32 {
        let gap = seq.wrapping_sub(self.last);
        // Some are passed over by a search, or read in several parts.
        self.run = match gap {
            0 => self.run,
            1..=8 if self.last > 0 => self.run.saturating_add(1),
            _ => 0,
        };
        self.last = seq;
        self.far = self.far.saturating_sub(u32::from(gap > 0));
        match self.run {
            _ if self.far > 0 => 0,
            0 => 0,
            1..=8 => FIRST,
            _ => NEXT,
        }
    }

    /// Nothing of what follows lies near: it is not worth looking each time.
    pub fn missed(&mut self) {
        self.far = FAR;
    }
}

/// Which bytes are read at once for `at` and what of `next` lies near: from the page of `at` on, at most
/// `most`, as long as half of the pages would have to be read anyway. `None`: there is nothing near.
pub(super) fn extent(at: Where, next: impl IntoIterator<Item = Where>, most: u32) -> Option<(u32, u32)> {
    const PAGE_BYTES: u32 = PAGE as u32;
    let (offset, own) = at.range();
    let (first, mut page) = (offset / PAGE_BYTES, own.div_ceil(PAGE_BYTES));
    let start = first * PAGE_BYTES;
    let here = next.into_iter().filter(|w| w.log() == at.log()).map(|w| w.range());
    let mut near: Vec<(u32, u32)> =
        here.filter(|r| r.0 >= own && r.1 <= start.saturating_add(most)).collect();
    near.sort_unstable();
    let (mut wanted, mut end) = (page - first, None);
    for (from, to) in near {
        // Pages up to `page` are counted.
        let last = to.div_ceil(PAGE_BYTES);
        wanted += last.saturating_sub(page.max(from / PAGE_BYTES));
        page = page.max(last);
        if 2 * wanted >= page - first {
            end = Some((start, to));
        }
    }
    end
}

impl Near {
    /// The payload of the record of a body, if it lies here.
    pub fn find(&mut self, at: Where, id: u64, now: Mono) -> Option<SharedBytes> {
        let (log, (from, to)) = (at.log(), at.range());
        let n = self.kept.iter().position(|k| k.log == log && k.stretch.covers(from, to))?;
        let kept = &mut self.kept[n];
        kept.used = now;
        kept.done |= to >= kept.end;
        let record = kept.stretch.record(from, to - from, id);
        if record.is_none() {
            // It was written after this had been read.
            self.drop_kept(n);
        }
        record
    }

    fn drop_kept(&mut self, n: usize) {
        if let Some(kept) = self.kept.remove(n) {
            self.bytes -= kept.stretch.held();
        }
    }

    /// Sets `bytes` aside for a read; `false`: there is no room.
    pub fn reserve(&mut self, bytes: usize, now: Mono) -> bool {
        while self.bytes + bytes > BYTES_MAX {
            let idle = |k: &Kept| k.done || now.since(k.used) > STALE;
            let Some(n) = self.kept.iter().position(idle) else { return false };
            self.drop_kept(n);
        }
        self.bytes += bytes;
        true
    }

    /// The read has ended, however it did.
    pub fn release(&mut self, bytes: usize) {
        self.bytes -= bytes;
    }

    /// What has been read for records up to `end`.
    pub fn put(&mut self, at: Where, stretch: Stretch, end: u32, now: Mono) {
        self.bytes += stretch.held();
        self.kept.push_back(Kept { log: at.log(), stretch, end, used: now, done: false });
    }

    /// Where in the archive a body is, or was a moment ago.
    pub fn place(&self, id: BodyId) -> Option<Place> {
        self.places.get(&id).copied()
    }

    /// Where in the archive a body is.
    pub fn note(&mut self, id: BodyId, place: Place) {
        if self.places.insert(id, place).is_some() {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > PLACES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.places.remove(&oldest);
        }
    }

    /// It is not there any more.
    pub fn forget(&mut self, id: BodyId) {
        if self.places.remove(&id).is_some() {
            self.order.retain(|o| *o != id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u32, len: u32) -> Where {
        Where::Archive(Place { segment: 1, offset, len })
    }

    #[test]
    fn one_after_the_other_reads_ahead() {
        let mut pace = Pace::default();
        assert_eq!([5, 5, 6, 6, 8].map(|seq| pace.step(seq)), [0, 0, FIRST, FIRST, FIRST]);
        assert_eq!([40, 41].map(|seq| pace.step(seq)), [0, FIRST]);
        assert_eq!([3, 2].map(|seq| pace.step(seq)), [0, 0], "backwards");
        let mut pace = Pace::default();
        let steps: Vec<u32> = (1..=11).map(|seq| pace.step(seq)).collect();
        assert_eq!((steps[0], steps[8], steps[10]), (0, FIRST, NEXT));
        pace.missed();
        let steps: Vec<u32> = (12..12 + FAR).map(|seq| pace.step(seq)).collect();
        assert_eq!((steps.iter().sum::<u32>(), steps.last()), (NEXT, Some(&NEXT)));
    }

    #[test]
    fn a_read_is_as_long_as_half_of_it_is_wanted() {
        let page = PAGE as u32;
        let first = at(page + 10, 1000);
        assert_eq!(extent(first, [], FIRST), None);
        let ends =
            |next: &[Where], most| extent(first, next.iter().copied(), most).map(|e| (e.0, e.1 - page));
        assert_eq!(ends(&[at(page + 1010, 500), at(page + 1510, 500)], FIRST), Some((page, 2010)));
        // In any order, each once; a page between does not matter, ten do.
        let some = [at(3 * page + 3000, 1000), at(page + 1010, 1000), at(3 * page + 3000, 1000)];
        assert_eq!(ends(&some, FIRST), Some((page, 2 * page + 4000)));
        // A short record takes a page, as it would by itself.
        let pages = [at(2 * page, 9), at(3 * page, 9), at(4 * page, 9)];
        assert_eq!(ends(&pages, FIRST), Some((page, 3 * page + 9)));
        assert_eq!(ends(&[at(11 * page, 1000)], FIRST), None);
        assert_eq!(ends(&[at(6 * page, 9), at(7 * page, 4 * page)], FIRST), Some((page, 10 * page)));
        // Not before it, not in another segment, not beyond what is read at most.
        let other = Where::Archive(Place { segment: 2, offset: page + 1010, len: 500 });
        let journal = Where::Journal(Location { segment: 1, offset: page + 1010, len: 500 });
        assert_eq!(ends(&[at(0, 10), other, journal, at(page + 1010, FIRST)], FIRST), None);
    }

    #[test]
    fn places_are_bounded() {
        let mut near = Near::default();
        let place = |n: u32| Place { segment: 1, offset: n, len: 1 };
        for n in 0..2 * PLACES_MAX as u32 {
            near.note(BodyId(n.into()), place(n));
            near.note(BodyId(n.into()), place(n));
        }
        assert_eq!((near.places.len(), near.order.len()), (PLACES_MAX, PLACES_MAX));
        assert_eq!((near.place(BodyId(5)), near.place(BodyId(5000))), (None, Some(place(5000))));
        near.forget(BodyId(5000));
        assert_eq!((near.place(BodyId(5000)), near.order.len()), (None, PLACES_MAX - 1));
    }

    #[test]
    fn what_is_in_use_is_not_pushed_out() {
        let mut near = Near::default();
        let second = Mono(1_000_000_000);
        assert!(near.reserve(BYTES_MAX, second) && !near.reserve(1, second));
        near.release(BYTES_MAX);
        for segment in 0..BYTES_MAX / PAGE {
            assert!(near.reserve(PAGE, second));
            near.release(PAGE);
            let at = Where::Archive(Place { segment: segment as u32, offset: 0, len: 10 });
            near.put(at, Stretch::of_nothing(), 10, second);
        }
        assert!(!near.reserve(1, Mono(2 * second.0)), "all of them are in use");
        let used = Where::Archive(Place { segment: 3, offset: 0, len: 5 });
        assert!(near.find(used, 1, Mono(3 * second.0)).is_none(), "no record: it is given up");
        assert_eq!(near.bytes, BYTES_MAX - PAGE);
        assert!(near.reserve(BYTES_MAX, Mono(3 * second.0)), "nobody has used them for long");
        assert!(near.kept.is_empty());
    }
}

//! L2: an opened mailbox: its messages as a compact array, and the snapshots that sessions have of it.
//!
//! No IO, async or clock. A message that is expunged stays in the array as a *tomb* as long as a
//! snapshot may show it. A snapshot is two numbers: up to which UID it has been told of messages, and up
//! to which *generation* (a count of expunges) it has been told that some are gone. So sequence numbers
//! are ranks, found by binary search, and an idle session costs next to nothing (RFC 9051 §7.5.1: they
//! change only when the client is told). State that does not add up is a bug and panics.

use crate::base::time::{Mono, Wall};
use crate::mailbox::api::{News, Vanished};
use crate::mailbox::types::{Message, UidSet};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

mod roll;

pub use roll::Roll;

/// Expunges kept for VANISHED (EARLIER) at most, in ranges of UIDs.
pub const HISTORY_MAX: usize = 10_000;
/// How long they are kept, in milliseconds: 90 days.
pub const HISTORY_AGE: u64 = 90 * 86_400_000;
/// Changes that are remembered one by one; a session further behind looks at all messages.
const RECENT_MAX: usize = 1024;
/// Ranges of messages that are recent for one session.
const RECENT_RANGES: usize = 64;
/// Messages that are looked at for one that has not been seen; what was found out is remembered.
const UNSEEN_AMONG: usize = 20_000;
/// Tombs that nobody sees any more are taken out when there are more than this, and a sixteenth.
const TOMBS_MIN: usize = 64;

/// Names a snapshot.
pub type ViewId = u32;

/// One message, alive or a tomb.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Slot {
    message: Message,
    /// The generation that expunged it; 0: it is there.
    gone: u32,
}

const _: () = assert!(size_of::<Slot>() <= 64);

/// Messages that were expunged by one operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expunge {
    /// Its MODSEQ.
    pub modseq: u64,
    /// When.
    pub when: Wall,
    /// Their UIDs.
    pub uids: UidSet,
}

#[derive(Debug)]
struct View {
    generation: u32,
    last_uid: u32,
    modseq: u64,
    keywords: usize,
    /// Changes that its client has made itself.
    told: SmallVec<[u64; 2]>,
    /// Whose session wants to know what is recent: it takes that away from later ones, or only looks.
    meets: Option<bool>,
    /// Up to this UID it knows what is recent.
    met: u32,
    /// What is (RFC 3501 §2.3.2).
    recent: UidSet,
    /// How many its client believes there are.
    recent_told: u32,
    /// When the first message came that its session has not been told of.
    waits: Option<Mono>,
    /// Positions of tombs that it does not show, ascending; right for `version`.
    hidden: Rc<[u32]>,
    version: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Opened {
    slots: Vec<Slot>,
    /// Positions of all tombs, ascending.
    tombs: Rc<[u32]>,
    generation: u32,
    /// Counts changes of `tombs`.
    version: u64,
    views: BTreeMap<ViewId, View>,
    next_view: ViewId,
    /// MODSEQ and UID of the latest changes.
    recent: VecDeque<(u64, u32)>,
    /// Changes with this MODSEQ and earlier ones are not all in `recent`.
    recent_from: u64,
    history: VecDeque<Expunge>,
    ranges: usize,
    /// All expunges with a greater MODSEQ are in `history`.
    kept_from: u64,
    modseq: u64,
    keywords: usize,
    /// No message at a position before this one is there and has not been seen.
    unseen_from: usize,
    deleted: bool,
    /// What it is counted for in memory, in messages.
    pub(super) charged: usize,
    /// It is among those that may be closed.
    pub(super) idle: bool,
}

/// How many of the tombs at `hidden` stand before the message with sequence number `seq`.
fn before(hidden: &[u32], seq: u32) -> usize {
    // Before the hidden one number i stand `hidden[i] - i` that are shown.
    let (mut low, mut high) = (0, hidden.len());
    while low < high {
        let middle = (low + high) / 2;
        if hidden[middle] as usize - middle < seq as usize { low = middle + 1 } else { high = middle }
    }
    low
}

impl Opened {
    /// Of its messages in ascending order of UIDs, the history of expunges (complete after `kept_from`),
    /// its MODSEQ and the number of its keywords.
    #[must_use]
    pub fn new(messages: Roll, history: Vec<Expunge>, kept_from: u64, modseq: u64, keywords: usize) -> Self {
        Opened {
            slots: messages.into_slots(),
            tombs: Rc::new([]),
            generation: 1,
            version: 1,
            views: BTreeMap::new(),
            next_view: 0,
            recent: VecDeque::new(),
            recent_from: modseq,
            ranges: history.iter().map(|e| e.uids.ranges().len()).sum(),
            history: history.into(),
            kept_from,
            modseq,
            keywords,
            unseen_from: 0,
            deleted: false,
            charged: 0,
            idle: false,
        }
    }

    fn find(&self, uid: u32) -> Option<usize> {
        self.slots.binary_search_by_key(&uid, |s| s.message.uid).ok()
    }

    /// The message, if it has not been expunged.
    #[must_use]
    pub fn get(&self, uid: u32) -> Option<&Message> {
        let slot = &self.slots[self.find(uid)?];
        (slot.gone == 0).then_some(&slot.message)
    }

    /// The messages of `uids` that are there, ascending.
    pub fn among<'a>(&'a self, uids: &'a UidSet) -> impl Iterator<Item = &'a Message> {
        uids.ranges().iter().flat_map(|&(from, to)| {
            let start = self.slots.partition_point(|s| s.message.uid < from);
            let here = self.slots[start..].iter().take_while(move |s| s.message.uid <= to);
            here.filter(|s| s.gone == 0).map(|s| &s.message)
        })
    }

    /// Messages that are there.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.tombs.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Slots, for the memory they take.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// True if a session has it open.
    #[must_use]
    pub fn is_viewed(&self) -> bool {
        !self.views.is_empty()
    }

    /// A message is so from now on: new (with a UID above all others), or changed. One that has been
    /// expunged stays so.
    pub fn put(&mut self, message: Message) {
        self.modseq = self.modseq.max(message.modseq);
        self.remember(message.modseq, message.uid);
        match self.find(message.uid) {
            Some(at) if self.slots[at].gone == 0 => {
                self.slots[at].message = message;
                if message.is_unseen() {
                    self.unseen_from = self.unseen_from.min(at);
                }
            }
            Some(_) => {}
            None => {
                let above = self.slots.last().is_none_or(|last| last.message.uid < message.uid);
                assert!(above, "UIDs rise");
                self.slots.push(Slot { message, gone: 0 });
            }
        }
    }

    fn remember(&mut self, modseq: u64, uid: u32) {
        if self.recent.len() == RECENT_MAX
            && let Some((dropped, _)) = self.recent.pop_front()
        {
            self.recent_from = self.recent_from.max(dropped);
        }
        self.recent.push_back((modseq, uid));
    }

    /// These messages are gone. [`Self::trim`] follows.
    pub fn expunge(&mut self, expunge: Expunge) {
        self.modseq = self.modseq.max(expunge.modseq);
        self.generation += 1;
        let mut tombs = self.tombs.to_vec();
        for uid in expunge.uids.iter() {
            let Some(at) = self.find(uid).filter(|at| self.slots[*at].gone == 0) else { continue };
            self.slots[at].gone = self.generation;
            tombs.push(at as u32);
        }
        tombs.sort_unstable();
        self.set_tombs(tombs);
        self.ranges += expunge.uids.ranges().len();
        self.history.push_back(expunge);
        self.bury();
    }

    /// Counts expunges.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// What was expunged by this generation or an earlier one no snapshot shows any more.
    #[must_use]
    pub fn floor(&self) -> u32 {
        self.views.values().map(|v| v.generation).min().unwrap_or(u32::MAX)
    }

    fn set_tombs(&mut self, tombs: Vec<u32>) {
        self.tombs = tombs.into();
        self.version += 1;
    }

    /// Forgets expunges beyond the bounds; returns the MODSEQs of those forgotten by this call.
    pub fn trim(&mut self, now: Wall) -> Vec<u64> {
        let mut forgotten = Vec::new();
        while let Some(first) = self.history.front() {
            let old = now.0.saturating_sub(first.when.0) > HISTORY_AGE;
            if !old && self.ranges <= HISTORY_MAX {
                break;
            }
            self.ranges -= first.uids.ranges().len();
            self.kept_from = self.kept_from.max(first.modseq);
            forgotten.push(first.modseq);
            self.history.pop_front();
        }
        forgotten
    }

    /// Expunges up to `modseq` are not known; gives the MODSEQs of those that were.
    pub fn forget(&mut self, modseq: u64) -> Vec<u64> {
        self.kept_from = self.kept_from.max(modseq);
        self.modseq = self.modseq.max(modseq);
        let mut forgotten = Vec::new();
        while let Some(first) = self.history.pop_front_if(|e| e.modseq <= modseq) {
            self.ranges -= first.uids.ranges().len();
            forgotten.push(first.modseq);
        }
        forgotten
    }

    /// All expunges with a greater MODSEQ are known.
    #[must_use]
    pub fn kept_from(&self) -> u64 {
        self.kept_from
    }

    /// What has been expunged after `modseq` (RFC 7162 §3.2.10).
    #[must_use]
    pub fn vanished(&self, modseq: u64) -> Vanished {
        if modseq < self.kept_from {
            return Vanished::Unknown;
        }
        let later = self.history.iter().filter(|e| e.modseq > modseq);
        Vanished::Exactly(UidSet::of(later.flat_map(|e| e.uids.ranges().iter().copied())))
    }

    /// The number of keywords is this now.
    pub fn set_keywords(&mut self, keywords: usize) {
        self.keywords = keywords;
    }

    /// The mailbox is gone.
    pub fn delete(&mut self) {
        self.deleted = true;
    }

    /// True if the mailbox is gone.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// A snapshot of what is there now.
    pub fn enter(&mut self) -> ViewId {
        self.bury();
        let view = View {
            generation: self.generation,
            last_uid: self.slots.last().map_or(0, |s| s.message.uid),
            modseq: self.modseq,
            keywords: self.keywords,
            told: SmallVec::new(),
            meets: None,
            met: 0,
            recent: UidSet::default(),
            recent_told: 0,
            waits: None,
            hidden: self.tombs.clone(),
            version: self.version,
        };
        let id = self.next_view;
        self.next_view = self.next_view.wrapping_add(1);
        assert!(self.views.insert(id, view).is_none(), "4 billion sessions at a time");
        id
    }

    /// The session of a snapshot wants to know what is recent, and takes that away from later sessions or
    /// (EXAMINE) only looks.
    pub fn meet(&mut self, view: ViewId, takes: bool) {
        self.refresh(view).meets = Some(takes);
    }

    /// Whether it takes what is recent, and up to which UID it has been told of messages; `None`: it has not
    /// asked.
    #[must_use]
    pub fn meets(&self, view: ViewId) -> Option<(bool, u32)> {
        let v = &self.views[&view];
        v.meets.map(|takes| (takes, v.last_uid))
    }

    /// These messages, among others perhaps that it knows, are recent for its session. Gives how many there
    /// are, if its client believes otherwise.
    pub fn met(&mut self, view: ViewId, uids: &UidSet) -> Option<u32> {
        let v = self.refresh(view);
        for &(from, to) in uids.ranges().iter().filter(|r| r.1 > v.met) {
            let from = from.max(v.met + 1);
            match v.recent.ranges().last() {
                // Many sessions share new mail: who cannot tell calls more of it recent (RFC 3501 §2.3.2).
                Some(&(_, last)) if v.recent.ranges().len() >= RECENT_RANGES => {
                    v.recent.push_range(last + 1, to)
                }
                _ => v.recent.push_range(from, to),
            }
        }
        v.met = v.last_uid;
        let recent = std::mem::take(&mut v.recent);
        let ends = recent.ranges().iter().map(|&(from, to)| {
            let after = to.checked_add(1).map_or(self.exists(view) + 1, |next| self.seq_from(view, next));
            after - self.seq_from(view, from)
        });
        let count = ends.sum();
        let v = self.refresh(view);
        v.recent = recent;
        (std::mem::replace(&mut v.recent_told, count) != count).then_some(count)
    }

    /// The UIDs that are recent for the session of a snapshot, whatever of them is gone.
    #[must_use]
    pub fn recent(&self, view: ViewId) -> UidSet {
        self.views[&view].recent.clone()
    }

    /// How many of them there are, as its client has been told.
    #[must_use]
    pub fn recent_told(&self, view: ViewId) -> u32 {
        self.views[&view].recent_told
    }

    /// Messages may have come at this moment.
    pub fn came(&mut self, now: Mono) {
        let last = self.slots.last().map_or(0, |s| s.message.uid);
        for view in self.views.values_mut().filter(|v| v.last_uid < last && v.waits.is_none()) {
            view.waits = Some(now);
        }
    }

    /// When the first message came that the session of a snapshot has not been told of. Gives it once.
    pub fn waits(&mut self, view: ViewId) -> Option<Mono> {
        self.refresh(view).waits.take()
    }

    /// A snapshot is given up.
    pub fn leave(&mut self, view: ViewId) {
        self.views.remove(&view);
        self.bury();
    }

    /// Takes tombs out that no snapshot shows any more, if that is worth it.
    fn bury(&mut self) {
        let shown = self.floor();
        let unseen = |s: &Slot| s.gone != 0 && s.gone <= shown;
        if self.tombs.len() <= TOMBS_MIN + self.slots.len() / 16 && !self.views.is_empty() {
            return;
        }
        if !self.tombs.iter().any(|at| unseen(&self.slots[*at as usize])) {
            return;
        }
        self.unseen_from -= self.slots[..self.unseen_from].iter().filter(|s| unseen(s)).count();
        self.slots.retain(|s| !unseen(s));
        let tombs = self.slots.iter().enumerate().filter(|(_, s)| s.gone != 0).map(|(at, _)| at as u32);
        let tombs = tombs.collect();
        self.set_tombs(tombs);
    }

    fn refresh(&mut self, view: ViewId) -> &mut View {
        let v = self.views.get_mut(&view).expect("a snapshot lives until it is given up");
        if v.version != self.version {
            v.version = self.version;
            v.hidden = if v.generation == self.generation {
                self.tombs.clone()
            } else {
                let hidden = |at: &&u32| self.slots[**at as usize].gone <= v.generation;
                self.tombs.iter().filter(hidden).copied().collect()
            };
        }
        v
    }

    /// Messages in the snapshot.
    pub fn exists(&mut self, view: ViewId) -> u32 {
        let v = self.refresh(view);
        let (last, hidden) = (v.last_uid, v.hidden.clone());
        let end = self.slots.partition_point(|s| s.message.uid <= last);
        (end - hidden.partition_point(|at| (*at as usize) < end)) as u32
    }

    /// The sequence number of the first message that is there and has not been seen. `None` also if there
    /// are too many before it that have been; then it may be found the next time.
    pub fn first_unseen(&mut self, view: ViewId) -> Option<u32> {
        let among = self.slots[self.unseen_from..].iter().take(UNSEEN_AMONG);
        self.unseen_from += among.take_while(|s| s.gone != 0 || !s.message.is_unseen()).count();
        let slot = self.slots.get(self.unseen_from)?;
        let uid = slot.message.uid;
        if slot.gone != 0 || !slot.message.is_unseen() { None } else { self.seq(view, uid) }
    }

    /// The message with sequence number `seq`; also one that is expunged and still shown.
    pub fn at(&mut self, view: ViewId, seq: u32) -> Option<&Message> {
        if seq == 0 || seq > self.exists(view) {
            return None;
        }
        let hidden = self.refresh(view).hidden.clone();
        Some(&self.slots[seq as usize - 1 + before(&hidden, seq)].message)
    }

    /// Appends the messages from sequence number `seq` on, at most `most`; see [`Self::at`].
    pub fn window(&mut self, view: ViewId, seq: u32, most: usize, out: &mut Vec<Message>) {
        let exists = self.exists(view);
        if seq == 0 || seq > exists {
            return;
        }
        let hidden = self.refresh(view).hidden.clone();
        let mut skip = before(&hidden, seq);
        let mut at = seq as usize - 1 + skip;
        for _ in 0..most.min((exists - seq) as usize + 1) {
            while hidden.get(skip).is_some_and(|h| *h as usize == at) {
                (skip, at) = (skip + 1, at + 1);
            }
            out.push(self.slots[at].message);
            at += 1;
        }
    }

    /// The first sequence number whose UID is `uid` or greater.
    pub fn seq_from(&mut self, view: ViewId, uid: u32) -> u32 {
        let exists = self.exists(view);
        let hidden = self.refresh(view).hidden.clone();
        let at = self.slots.partition_point(|s| s.message.uid < uid);
        ((at - hidden.partition_point(|h| (*h as usize) < at)) as u32).min(exists) + 1
    }

    /// The sequence number of `uid`, if the snapshot shows it.
    pub fn seq(&mut self, view: ViewId, uid: u32) -> Option<u32> {
        let seq = self.seq_from(view, uid);
        (self.at(view, seq)?.uid == uid).then_some(seq)
    }

    /// True if [`Self::sync`] has something to say. `expunges`: as there.
    #[must_use]
    pub fn has_news(&self, view: ViewId, expunges: bool) -> bool {
        let v = &self.views[&view];
        self.deleted
            || v.modseq < self.modseq && !v.told.contains(&self.modseq)
            || v.keywords != self.keywords
            || (expunges && v.generation < self.generation)
            || self.slots.last().is_some_and(|s| s.message.uid > v.last_uid)
    }

    /// Changes with this MODSEQ are known to the snapshot's client.
    pub fn told(&mut self, view: ViewId, modseq: u64) {
        let v = self.refresh(view);
        if modseq > v.modseq {
            v.told.push(modseq);
        }
    }

    /// Moves the snapshot on; says what its client must be told, in this order.
    pub fn sync(&mut self, view: ViewId, expunges: bool) -> Vec<News> {
        let mut news = Vec::new();
        if self.deleted {
            return vec![News::Deleted];
        }
        let before = self.exists(view);
        let mut left = before;
        if expunges {
            left -= self.sync_expunges(view, &mut news);
        }
        let keywords = self.keywords;
        let last = self.slots.last().map_or(0, |s| s.message.uid);
        let v = self.refresh(view);
        let known = v.last_uid;
        v.last_uid = known.max(last);
        v.waits = None;
        let more_keywords = std::mem::replace(&mut v.keywords, keywords) != keywords;
        let exists = self.exists(view);
        if exists != left {
            news.push(News::Exists(exists));
        }
        if more_keywords {
            news.push(News::Keywords);
        }
        self.sync_changes(view, known, &mut news);
        self.bury();
        news
    }

    fn sync_expunges(&mut self, view: ViewId, news: &mut Vec<News>) -> u32 {
        let v = &self.views[&view];
        let (since, last) = (v.generation, v.last_uid);
        let slots = &self.slots;
        let gone: Vec<u32> = self
            .tombs
            .iter()
            .map(|at| &slots[*at as usize])
            .filter(|s| s.gone > since && s.message.uid <= last)
            .map(|s| s.message.uid)
            .collect();
        for (told, uid) in gone.iter().enumerate() {
            let seq = self.seq(view, *uid).expect("the snapshot shows it") - told as u32;
            news.push(News::Expunged { seq, uid: *uid });
        }
        let generation = self.generation;
        let v = self.views.get_mut(&view).expect("just seen");
        v.generation = generation;
        // Its hidden tombs are found anew.
        v.version = 0;
        gone.len() as u32
    }

    fn sync_changes(&mut self, view: ViewId, known: u32, news: &mut Vec<News>) {
        let modseq = self.modseq;
        let v = self.refresh(view);
        let since = std::mem::replace(&mut v.modseq, modseq);
        let told = std::mem::take(&mut v.told);
        if since == modseq {
            return;
        }
        let mut uids: Vec<u32> = if since >= self.recent_from {
            self.recent.iter().filter(|r| r.0 > since).map(|r| r.1).collect()
        } else {
            let changed = self.slots.iter().filter(|s| s.message.modseq > since);
            changed.map(|s| s.message.uid).collect()
        };
        uids.sort_unstable();
        uids.dedup();
        for uid in uids.into_iter().filter(|uid| *uid <= known) {
            let Some(message) = self.get(uid).copied() else { continue };
            if message.modseq > since
                && !told.contains(&message.modseq)
                && let Some(seq) = self.seq(view, uid)
            {
                news.push(News::Changed { seq, message });
            }
        }
    }
}

#[cfg(test)]
#[path = "opened_tests.rs"]
mod tests;

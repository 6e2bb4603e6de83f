//! L2: the parts of a desk that its tasks share: what is staged, who waits, what is to be told.
//!
//! Plain data and small helpers; the desk's own files act on it. No IO, no clock.

use crate::base::aligned::SharedBytes;
use crate::base::ids::MessageId;
use crate::base::time::{Mono, Wall};
use crate::base::wheel::Wheel;
use crate::queue::age::Ages;
use crate::queue::bell::{Bell, Crowd, SlipNumber, Slips};
use crate::queue::bodies::Bodies;
use crate::queue::index::{DestId, Entry, Index, Key, Phase};
use crate::queue::record::{Effect, Reply, TEXT_MAX};
use crate::queue::routing::Hop;
use crate::queue::schedule::{Gate, Schedule};
use crate::storage::group::Staged;
use crate::storage::record::Location;
use crate::storage::ticket::Committed;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

/// Stands for a destination: the recipient belongs into a mailbox here.
pub(crate) const LOCAL: DestId = DestId::MAX - 1;
/// Stands for a destination: there is no route.
pub(crate) const NO_ROUTE: DestId = DestId::MAX;

/// Indexes of recipients; nearly always one.
pub(crate) type Indexes = SmallVec<[u32; 2]>;

/// A reply in memory of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedReply {
    /// SMTP code, 0 if none.
    pub code: u16,
    /// Enhanced code, all zero if none.
    pub enhanced: [u16; 3],
    /// Text.
    pub text: Box<[u8]>,
}

impl OwnedReply {
    /// A reason of ours.
    #[must_use]
    pub fn ours(enhanced: [u16; 3], text: &[u8]) -> Self {
        OwnedReply { code: 0, enhanced, text: text[..text.len().min(TEXT_MAX)].into() }
    }

    /// As it is stored.
    #[must_use]
    pub fn view(&self) -> Reply<'_> {
        Reply { code: self.code, enhanced: self.enhanced, text: &self.text }
    }
}

impl From<Reply<'_>> for OwnedReply {
    fn from(r: Reply<'_>) -> Self {
        let text = r.text[..r.text.len().min(TEXT_MAX)].into();
        OwnedReply { code: r.code, enhanced: r.enhanced, text }
    }
}

/// What somebody who waits for a commit is told.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It is on stable storage.
    Committed(Committed),
    /// It never will be.
    Failed,
    /// It took too long; it will be taken back.
    Late,
}

/// What a commit means once it is known.
#[derive(Debug)]
pub(crate) enum After {
    /// A message has come in.
    Message { key: Key, slip: Option<SlipNumber> },
    /// The replies of these recipients are there.
    Said { key: Key, indexes: Indexes },
    /// An attempt may begin.
    Attempt { key: Key, indexes: Indexes, slip: SlipNumber },
    /// The message is there now.
    Moved { key: Key },
    /// The side file (if not 0) is not needed any more, and somebody may wait for that.
    Done { side: u64, slip: Option<SlipNumber> },
    /// Nobody waits.
    Nothing,
}

/// A staged record.
#[derive(Debug)]
pub(crate) struct Pending {
    pub staged: Staged,
    pub since: Mono,
    /// Bytes of its payload, if it is a message.
    pub bytes: usize,
    pub after: After,
}

/// A record that the journal could not take yet; records are staged in the order of this list.
#[derive(Debug)]
pub(crate) struct Unsettled {
    pub kind: u8,
    pub id: MessageId,
    pub payload: Box<[u8]>,
    pub frees: Option<Location>,
    pub after: After,
}

/// One recipient that a notification is to report.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its position in the envelope.
    pub index: u32,
    /// What the next hop, or we, said.
    pub reply: OwnedReply,
}

/// A notification to be made.
#[derive(Debug)]
pub(crate) struct Notice {
    pub key: Key,
    pub id: MessageId,
    pub effect: Effect,
    /// Empty: all that are owed; the replies are in the journal.
    pub reports: Vec<Report>,
    pub payload: Option<SharedBytes>,
    /// The name of the next hop, for the report.
    pub hop: Option<Rc<Hop>>,
}

/// The outer side of a destination.
#[derive(Debug)]
pub(crate) struct Door {
    pub hop: Rc<Hop>,
    /// Connections that wait for work.
    pub idle: Vec<(u64, Waker)>,
    /// Those of them that have been woken for work and not looked for it yet.
    pub woken: Vec<u64>,
    /// Why it is left alone.
    pub reason: OwnedReply,
}

/// Messages that a connection takes at once, more or less: then another one is called.
const TAKEN_TOGETHER: usize = 16;

/// All that the tasks of a desk share.
pub(crate) struct State {
    pub index: Index,
    pub schedule: Schedule,
    pub bodies: Bodies,
    pub timers: Wheel<Key>,
    pub ages: Ages,
    pub doors: Vec<Door>,
    pub commits: VecDeque<Pending>,
    /// Batches that have become known to be on stable storage, more or less.
    pub batches: u64,
    /// Bytes of messages in `commits`.
    pub staged_bytes: usize,
    pub unsettled: VecDeque<Unsettled>,
    pub slips: Slips<Answer>,
    pub notices: VecDeque<Notice>,
    pub last_id: MessageId,
    /// Bodies being read back.
    pub loads: usize,
    /// Items out with connections.
    pub flights: usize,
    /// Notifications being made.
    pub telling: usize,
    pub next_idle: u64,
    /// The journal is poisoned.
    pub dead: bool,
    /// Being closed: the tasks end once their work is done.
    pub closing: bool,
    /// Copying forward is under way.
    pub moving: bool,
    /// Something has been lined up since the pulse beat last.
    pub stirred: bool,
    /// When the pulse beats next.
    pub pulse_at: Mono,
    pub commit_bell: Bell,
    pub pulse_bell: Bell,
    pub agent_bell: Bell,
    pub notice_bell: Bell,
    pub mover_bell: Bell,
    /// Those who wait for room, or for something to end.
    pub crowd: Crowd,
    pub scratch: Vec<u8>,
}

impl State {
    /// Wakes whoever can send what has just come for `d`: an idle connection, or the agent. One that
    /// has been woken already takes several messages, and calls others if more are left.
    pub fn call(&mut self, d: DestId, now: Mono) {
        let door = &mut self.doors[d as usize];
        if door.woken.len() * TAKEN_TOGETHER >= self.schedule.backlog(d).max(1) {
            // Somebody is on the way.
        } else if let Some((number, waker)) = door.idle.pop() {
            door.woken.push(number);
            waker.wake();
        } else if self.schedule.wants_look(d) && !matches!(self.schedule.gate(d, now), Gate::Paused(_)) {
            self.agent_bell.ring();
        }
        self.stirred = true;
        self.look_at(now.after(std::time::Duration::from_secs(1)));
    }

    /// Compares the clocks.
    pub fn look_at_clocks(&mut self, now: Mono, wall: Wall) {
        self.ages.look(now, wall, self.index.oldest(), self.last_id);
    }

    /// Makes the pulse beat at `at` at the latest.
    pub fn look_at(&mut self, at: Mono) {
        if at < self.pulse_at {
            self.pulse_at = at;
            self.pulse_bell.ring();
        }
    }

    /// Wakes all connections that wait for work, whatever they will find.
    pub fn call_all(&mut self) {
        for door in &mut self.doors {
            for (_, waker) in door.idle.drain(..) {
                waker.wake();
            }
        }
        self.agent_bell.ring();
        self.pulse_bell.ring();
        self.notice_bell.ring();
        self.mover_bell.ring();
        self.commit_bell.ring();
        self.crowd.wake_all();
    }

    /// Puts every ready recipient of `key` into its destination's list, each destination once.
    pub fn enqueue(&mut self, key: Key, now: Mono) {
        let Some(entry) = self.index.get(key) else { return };
        let mut destinations: SmallVec<[DestId; 8]> =
            entry.recipients.iter().filter(|r| r.phase == Phase::Ready).map(|r| r.destination).collect();
        if destinations.len() > 1 {
            destinations.sort_unstable();
            destinations.dedup();
        }
        for d in destinations {
            self.schedule.push(d, key, now);
            self.call(d, now);
        }
    }

    /// Sets the timer of `key` for its next due recipient, if it has one and is not held.
    pub fn arm(&mut self, key: Key) {
        let timers = &mut self.timers;
        let at = self.index.change(key, |e| {
            if let Some(old) = e.timer.take() {
                timers.cancel(old);
            }
            let due = e.next_due().filter(|_| !e.switches.held)?;
            e.timer = Some(timers.insert(tick_of(due), key));
            Some(due)
        });
        if let Some(Some(due)) = at {
            self.look_at(due);
        }
    }

    /// The body of `key` need not stay in memory.
    pub fn drop_body(&mut self, key: Key) {
        let bodies = &mut self.bodies;
        self.index.change(key, |e| {
            if e.payload.take().is_some() {
                bodies.release(e.batch);
            }
        });
    }

    /// Keeps the body of `key` in memory, within the budget.
    pub fn keep_body(&mut self, key: Key, payload: SharedBytes) {
        let bodies = &mut self.bodies;
        self.index.change(key, |e| {
            if e.payload.is_none() {
                e.batch = bodies.add(key, &payload);
                e.payload = Some(payload);
            }
        });
        while let Some(list) = self.bodies.evict() {
            for &key in &list {
                self.index.change(key, |e| e.payload = None);
            }
            self.bodies.recycle(list);
        }
    }

    /// Takes a message out of everything that is resident.
    pub fn forget(&mut self, key: Key) -> Option<Entry> {
        self.drop_body(key);
        let mut entry = self.index.remove(key)?;
        if let Some(timer) = entry.timer.take() {
            self.timers.cancel(timer);
        }
        Some(entry)
    }
}

/// The tick of the wheel at which something due at `at` fires: not before it. 134 ms.
pub(crate) fn tick_of(at: Mono) -> u64 {
    at.0.div_ceil(1 << TICK_BITS)
}

/// The last tick that has begun at `now`.
pub(crate) fn tick_at(now: Mono) -> u64 {
    now.0 >> TICK_BITS
}

/// When `tick` begins.
pub(crate) fn start_of(tick: u64) -> Mono {
    Mono(tick.saturating_mul(1 << TICK_BITS))
}

const TICK_BITS: u32 = 27;

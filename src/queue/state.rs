//! L2: the parts of a desk that its tasks share: what is staged, who waits, what is to be told.
//!
//! Plain data and small helpers; the desk's own files act on it. No IO, no clock.

use crate::base::aligned::SharedBytes;
use crate::base::ids::MessageId;
use crate::base::time::{Mono, Wall};
use crate::base::wheel::Wheel;
use crate::queue::absent::{Absent, is_spread};
use crate::queue::age::Ages;
use crate::queue::bell::{Bell, Crowd, SlipNumber, Slips};
use crate::queue::bodies::Bodies;
use crate::queue::index::{DestId, Entry, Index, Key, Phase, Presence, Recipient, Resident};
use crate::queue::ledger::Ledger;
use crate::queue::record::{self, Effect, Reply, SERVER_MAX, TEXT_MAX};
use crate::queue::recover::{Loaded, Progress, Said};
use crate::queue::routing::Hop;
use crate::queue::row;
use crate::queue::rules::Rules;
use crate::queue::schedule::{PoolId, Schedule};
use crate::queue::tour::Tour;
use crate::queue::via::Vias;
use crate::queue::whose::Whose;
use crate::storage::archive::Place;
use crate::storage::group::Staged;
use crate::storage::record::Location;
use crate::storage::ticket::Committed;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::task::Waker;

/// Stands for a destination: the recipient belongs into a mailbox here.
pub(crate) const LOCAL: DestId = DestId::MAX - 1;
/// Stands for a destination: there is no route.
pub(crate) const NO_ROUTE: DestId = DestId::MAX;

/// Longest domain by which messages are found without reading them (RFC 5321 §4.5.3.1.2).
const DOMAIN_MAX: usize = 255;

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
    /// Name of the server that said so; empty: unknown, or nobody.
    pub server: Box<[u8]>,
    /// When that came about which the sender is to be told; 0 otherwise.
    pub at: Wall,
}

impl OwnedReply {
    /// A reason of ours.
    #[must_use]
    pub fn ours(enhanced: [u16; 3], text: &[u8]) -> Self {
        Reply { code: 0, enhanced, text, server: b"" }.into()
    }

    /// The same, of something that came about at `at`.
    #[must_use]
    pub fn at(self, at: Wall) -> Self {
        OwnedReply { at, ..self }
    }

    /// What is stored of a recipient.
    #[must_use]
    pub fn of(s: &record::State<'_>) -> Self {
        let at = if s.fate.is_owed() { s.due } else { Wall(0) };
        OwnedReply::from(s.reply).at(at)
    }

    /// As it is stored.
    #[must_use]
    pub fn view(&self) -> Reply<'_> {
        Reply { code: self.code, enhanced: self.enhanced, text: &self.text, server: &self.server }
    }
}

impl From<Reply<'_>> for OwnedReply {
    fn from(r: Reply<'_>) -> Self {
        let text = r.text[..r.text.len().min(TEXT_MAX)].into();
        let server = r.server[..r.server.len().min(SERVER_MAX)].into();
        OwnedReply { code: r.code, enhanced: r.enhanced, text, server, at: Wall(0) }
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
    pub about: About,
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
    pub about: About,
    pub after: After,
}

/// Whom a record tells something that the index must learn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum About {
    /// Nobody of whom the index knows.
    Others,
    /// An archived message.
    Archived(Key, MessageId),
    /// A message that was parked when it was staged.
    Parked(Key, MessageId),
    /// A message that was archived there, and is no more.
    Gone(MessageId, Place),
}

/// One recipient that a notification is to report.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its position in the envelope.
    pub index: u32,
    /// What the next hop, or we, said.
    pub reply: OwnedReply,
}

/// A notification to be made. No other one names the same recipients for the same reason: they are
/// marked as being told of.
#[derive(Debug)]
pub(crate) struct Notice {
    pub key: Key,
    pub id: MessageId,
    pub effect: Effect,
    /// The recipients that it is to report.
    pub indexes: Indexes,
    /// What is to be said of them, if it is at hand; else it is read back.
    pub reports: Vec<Report>,
    pub payload: Option<SharedBytes>,
}

/// The outer side of a destination.
#[derive(Debug)]
pub(crate) struct Door {
    pub hop: Rc<Hop>,
    /// An address that leads here: how the destination is found again by its name.
    pub sample: Box<[u8]>,
    /// A round through its list is under way.
    pub swept: bool,
    /// When one last began because its mail waits for long.
    pub toured: Mono,
}

/// The outer side of a pool of connections.
#[derive(Debug, Default)]
pub(crate) struct Porch {
    /// Connections that wait for work.
    pub idle: Vec<(u64, Waker)>,
    /// Those of them that have been woken for work and not looked for it yet.
    pub woken: Vec<u64>,
    /// Why it is left alone.
    pub reason: OwnedReply,
    /// Places without work were passed over; there are more, but first it is the turn of others.
    pub breather: bool,
}

/// A round through the list of a destination that cannot be reached, in steps.
#[derive(Debug)]
pub(crate) struct Sweep {
    pub d: DestId,
    /// Numbers of the places that are still to be looked at.
    pub places: Range<u64>,
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
    porches: Vec<Porch>,
    /// Rules of operators, as they were last given.
    pub rules: Rules,
    /// Whose mail it is.
    pub whose: Whose,
    /// What operators send another way.
    pub vias: Vias,
    /// Such messages of the journal, found at the start, that are to be routed.
    pub reroutes: Vec<Key>,
    pub tour: Tour,
    pub commits: VecDeque<Pending>,
    /// Batches that have become known to be on stable storage, more or less.
    pub batches: u64,
    /// Bytes of messages in `commits`.
    pub staged_bytes: usize,
    pub unsettled: VecDeque<Unsettled>,
    pub slips: Slips<Answer>,
    pub notices: VecDeque<Notice>,
    /// Messages whose senders are to be told something when there is room.
    pub owed: VecDeque<Key>,
    /// Notifications in the queue that have not been tried, more or less, and since when they are there.
    pub untried: VecDeque<(Key, Mono)>,
    /// Notifications settled since `untried` was looked through.
    pub tried: usize,
    pub sweeps: VecDeque<Sweep>,
    /// Destinations whose lists lack messages.
    pub absent: Absent,
    /// See [`Limits`](crate::queue::limits::Limits).
    pub places: usize,
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
    /// What the index has not got yet.
    pub ledger: Ledger,
    /// The index is being opened.
    pub joining: bool,
    /// It is open; whether it was lost, and is to be made anew.
    pub index_lost: Option<bool>,
    /// All rows of the index have taken their places.
    pub loaded: bool,
    /// What was found then.
    pub found: Option<Loaded>,
    /// Of an index that is being made anew.
    pub progress: Progress,
    /// What the log says of messages whose rows have not been seen yet.
    pub said: BTreeMap<MessageId, Vec<Said>>,
    /// Of an index that was lost: messages that the journal had at the start; the archive's copies of
    /// them are not needed.
    pub journaled: BTreeSet<MessageId>,
    /// The log says, or will say next, that nothing is in flight.
    pub stop_said: bool,
    /// The record of a clean stop, which the index needs until its rows say the same.
    pub stopped: Option<Location>,
    /// What rows call under way was not: the last run ended in order.
    pub rows_sure: bool,
    /// But not for these.
    pub rows_doubted: BTreeSet<MessageId>,
    /// See [`Meta`](crate::queue::row::Meta).
    pub doubt: u64,
    /// Records of messages that the index knew of and that ended before their changes.
    pub orphans: BTreeMap<MessageId, SmallVec<[Location; 1]>>,
    /// Parked messages that are to be read back when there is room.
    pub recalls: VecDeque<Key>,
    /// Rich messages that are archived.
    pub archived: usize,
    /// Bodies were taken from journal segments up to this one.
    pub archived_through: u64,
    /// Somebody waits for the index.
    pub hurry: bool,
    /// New rows wait for space on the disk.
    pub index_short: bool,
    /// The task that keeps the index has ended.
    pub index_ended: bool,
    pub index_bell: Bell,
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
    /// Of a queue that is empty, at `now`.
    pub fn new(schedule: Schedule, bodies: Bodies, now: Mono, wall: Wall) -> Self {
        State {
            index: Index::default(),
            schedule,
            bodies,
            timers: Wheel::new(tick_at(now)),
            ages: Ages::new(now, wall, MessageId(0)),
            doors: Vec::new(),
            porches: Vec::new(),
            rules: Rules::default(),
            whose: Whose::default(),
            vias: Vias::default(),
            reroutes: Vec::new(),
            tour: Tour::default(),
            commits: Default::default(),
            batches: 0,
            staged_bytes: 0,
            unsettled: Default::default(),
            slips: Default::default(),
            notices: Default::default(),
            owed: Default::default(),
            untried: Default::default(),
            tried: 0,
            sweeps: Default::default(),
            absent: Default::default(),
            places: 64,
            last_id: MessageId(0),
            loads: 0,
            flights: 0,
            telling: 0,
            next_idle: 0,
            dead: false,
            closing: false,
            moving: false,
            stirred: false,
            ledger: Default::default(),
            joining: false,
            index_lost: None,
            loaded: false,
            found: None,
            progress: Progress::default(),
            said: Default::default(),
            journaled: Default::default(),
            stop_said: false,
            stopped: None,
            rows_sure: false,
            rows_doubted: Default::default(),
            doubt: 0,
            orphans: Default::default(),
            recalls: Default::default(),
            archived: 0,
            archived_through: 0,
            hurry: false,
            index_short: false,
            index_ended: false,
            index_bell: Default::default(),
            pulse_at: now,
            commit_bell: Default::default(),
            pulse_bell: Default::default(),
            agent_bell: Default::default(),
            notice_bell: Default::default(),
            mover_bell: Default::default(),
            crowd: Default::default(),
            scratch: Vec::new(),
        }
    }

    /// Wakes whoever can send what has just come for `d`: an idle connection, or the agent. One that
    /// has been woken already takes several messages, and calls others if more are left.
    pub fn call(&mut self, d: DestId, now: Mono) {
        if !self.schedule.is_paused(d, now) {
            self.call_pool(self.schedule.pool_of(d));
        }
        self.stirred = true;
        self.look_at(now.after(std::time::Duration::from_secs(1)));
    }

    fn call_pool(&mut self, p: PoolId) {
        let backlog = self.schedule.backlog_of(p);
        let porch = self.porch(p);
        if porch.woken.len() * TAKEN_TOGETHER >= backlog.max(1) {
            // Somebody is on the way.
        } else if let Some((number, waker)) = porch.idle.pop() {
            porch.woken.push(number);
            waker.wake();
        } else if self.schedule.wants_look(p) {
            self.agent_bell.ring();
        }
    }

    /// The outer side of `p`.
    pub fn porch(&mut self, p: PoolId) -> &mut Porch {
        let at = p.0 as usize;
        if self.porches.len() <= at {
            self.porches.resize_with(at + 1, Porch::default);
        }
        &mut self.porches[at]
    }

    /// Why `p` was left alone last; without text if it has worked since.
    pub fn reason_of(&self, p: PoolId) -> OwnedReply {
        let porch = self.porches.get(p.0 as usize).filter(|_| self.schedule.fails(p));
        porch.map_or_else(OwnedReply::default, |porch| porch.reason.clone())
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
        for porch in &mut self.porches {
            for (_, waker) in porch.idle.drain(..) {
                waker.wake();
            }
        }
        self.agent_bell.ring();
        self.pulse_bell.ring();
        self.notice_bell.ring();
        self.mover_bell.ring();
        self.commit_bell.ring();
        self.index_bell.ring();
        self.crowd.wake_all();
    }

    /// Puts every ready recipient of `key` into its destination's list, each destination once.
    pub fn enqueue(&mut self, key: Key, now: Mono) {
        self.take_places(key, |s, d, spread| s.place(d, key, spread, now));
    }

    /// As [`Self::enqueue`], for a message that has waited in its place already: it goes first.
    pub fn enqueue_first(&mut self, key: Key, now: Mono) {
        self.take_places(key, |s, d, spread| s.place_first(d, key, spread, now));
    }

    /// Notes whether `key` has all the places that it should have.
    fn take_places(&mut self, key: Key, mut place: impl FnMut(&mut State, DestId, bool) -> bool) {
        let spread = self.index.get(key).is_some_and(is_spread);
        let mut all = true;
        for d in self.wanted(key) {
            all &= place(self, d, spread);
        }
        self.index.touch(key, |e| e.switches.lists.set_absent(!all));
    }

    /// Destinations of the ready recipients of `key`.
    pub fn wanted(&self, key: Key) -> SmallVec<[DestId; 8]> {
        let Some(entry) = self.index.get(key) else { return SmallVec::new() };
        let ready = entry.recipients.iter().filter(|r| r.phase == Phase::Ready && r.destination < LOCAL);
        let mut destinations: SmallVec<[DestId; 8]> = ready.map(|r| r.destination).collect();
        if destinations.len() > 1 {
            destinations.sort_unstable();
            destinations.dedup();
        }
        destinations
    }

    /// The number of destination `d` in the index.
    pub fn number(&mut self, d: DestId) -> u32 {
        number(&mut self.ledger, &self.doors, d)
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
        self.index.touch(key, |e| {
            if e.payload.take().is_some() {
                bodies.release(e.batch);
            }
        });
    }

    /// True if some recipient of `key` goes somewhere that is not left alone.
    pub fn may_leave_soon(&self, key: Key, now: Mono) -> bool {
        let Some(e) = self.index.get(key) else { return false };
        e.recipients.iter().any(|r| !self.schedule.is_paused(r.destination, now))
    }

    /// Keeps the body of `key` in memory, within the budget.
    pub fn keep_body(&mut self, key: Key, payload: SharedBytes, now: Mono) {
        let bodies = &mut self.bodies;
        self.index.touch(key, |e| {
            if e.payload.is_none() {
                e.batch = bodies.add(key, &payload);
                e.payload = Some(payload);
            }
        });
        while let Some(list) = self.bodies.evict() {
            for &key in &list {
                self.index.touch(key, |e| e.payload = None);
                if self.archived > 0 {
                    self.park(key, now);
                }
            }
            self.bodies.recycle(list);
        }
    }

    /// Takes a rich message out of everything that is resident.
    pub fn forget(&mut self, key: Key) -> Option<Entry> {
        self.drop_body(key);
        self.index.get(key)?;
        let Some(Resident::Rich(mut entry)) = self.index.remove(key) else { return None };
        self.whose.leave(entry.id);
        self.vias.forget(entry.id);
        self.archived -= usize::from(entry.archived.is_some());
        if let Some(timer) = entry.timer.take() {
            self.timers.cancel(timer);
        }
        Some(entry)
    }

    /// True if a place of `key` in the list of `d` has something to send, at once or once it has been
    /// read back.
    pub fn has_work(&self, key: Key, d: DestId) -> bool {
        match self.index.presence(key) {
            Presence::Gone => false,
            Presence::Parked => self.index.stub(key).is_some_and(|s| s.ready && !s.held),
            Presence::Rich => self.index.get(key).is_some_and(|e| {
                let waits = |r: &Recipient| r.destination == d && r.phase == Phase::Ready;
                !e.switches.held && e.recipients.iter().any(waits)
            }),
        }
    }
}

/// The number of destination `d` in the index; of what goes nowhere it is that of the empty name.
pub(crate) fn number(ledger: &mut Ledger, doors: &[Door], d: DestId) -> u32 {
    match doors.get(d as usize) {
        Some(door) => ledger.number(&door.hop.key, &door.sample),
        None => ledger.number("", b""),
    }
}

/// The number in the index of the domain that all recipients of `e` are of: that of its destination if it is
/// the destination of this domain.
pub(crate) fn domain_number(ledger: &mut Ledger, doors: &[Door], e: &Entry, domain: &str) -> u32 {
    let first = e.recipients.iter().find(|r| !r.phase.is_done()).map(|r| r.destination);
    let door = first.and_then(|d| doors.get(d as usize));
    match door.filter(|door| door.hop.key.strip_prefix("mx:") == Some(domain)) {
        Some(door) => ledger.number(&door.hop.key, &door.sample),
        None => ledger.number(&row::domain_name(domain), b""),
    }
}

/// The domain of all recipients, in small letters, if they have one in common that can be a name.
pub(crate) fn domain_of_all<'a>(
    mut recipients: impl Iterator<Item = &'a [u8]>,
) -> Option<SmallVec<[u8; 64]>> {
    let first = domain_in(recipients.next()?);
    let is_text = || first.is_ascii() || std::str::from_utf8(first).is_ok();
    let usual = !first.is_empty() && first.len() <= DOMAIN_MAX && is_text();
    (usual && recipients.all(|to| domain_in(to).eq_ignore_ascii_case(first))).then(|| {
        let mut domain = SmallVec::from_slice(first);
        domain.make_ascii_lowercase();
        domain
    })
}

fn domain_in(address: &[u8]) -> &[u8] {
    address.iter().rposition(|b| *b == b'@').map_or(b"", |at| &address[at + 1..])
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

//! L4: taking live messages out of the oldest segment of the journal, so that it can be retired.
//!
//! Bodies of messages that nobody is at work on go into the archive, once, in the order of the
//! segment; their states go into the index; then the journal's records are given up (`indexing`).
//! The few that are in flight are staged again within the journal. So are all others when archive or
//! index have no space and the journal runs short: outcomes need its oldest segment. What cannot be done
//! now is tried again; new mail is refused by the journal long before that becomes a danger.

use crate::base::aligned::SharedBytes;
use crate::base::ids::MessageId;
use crate::base::time::Wall;
use crate::queue::desk::Desk;
use crate::queue::desk::recall::Source;
use crate::queue::index::{Archived, Cover, Entry, Key, NOWHERE, Phase, Recipient};
use crate::queue::ledger::Change;
use crate::queue::record::{self, Fate, MessageHead, MessageView, Reply, State as Stored, StatesView};
use crate::queue::state::{After, OwnedReply};
use crate::runtime::{Runtime, yield_now};
use crate::storage::archive::{Archive, ArchiveError, Place};
use crate::storage::journal::StageError;
use crate::storage::keeper::ReadError;
use crate::storage::options::Urgency;
use crate::storage::record::{Location, RecordHead};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// Messages whose records are read at a time.
const TOGETHER: usize = 32;
/// A record that is staged now is at most so many segments away: fewer batches than that may wait.
const MOVED_WITHIN: u64 = 64;

/// A body that is in the archive.
struct Copied {
    key: Key,
    place: Place,
    /// As it was when its record was copied.
    seen: Seen,
    replies: Vec<(u32, OwnedReply)>,
}

/// Where a message's record is in the journal, and where what next hops have said of its recipients is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    at: Location,
    said: Vec<Location>,
}

impl Seen {
    fn of(e: &Entry) -> Self {
        Seen { at: e.at, said: places(e) }
    }

    /// True if `e` has been tried to no end since: what was read of it is not the last word.
    fn is_past(&self, e: &Entry) -> bool {
        self.at != e.at || self.said != places(e)
    }
}

/// What was seen of a message, its record, and what next hops said of its recipients.
pub(super) type Read = (Seen, SharedBytes, BTreeMap<u32, OwnedReply>);

/// It cannot go on now: no space, a disk that fails, or the end.
struct Stop;

impl From<ArchiveError> for Stop {
    fn from(_: ArchiveError) -> Self {
        Stop
    }
}

impl From<ReadError> for Stop {
    fn from(_: ReadError) -> Self {
        Stop
    }
}

/// What was found in a segment.
#[derive(Default)]
struct Pass {
    copied: Vec<Copied>,
    /// Not fresh: the archive gets their states, too.
    tried: Vec<Key>,
    /// Copied forward within the journal: in flight, or the archive has no space.
    busy: Vec<Key>,
    /// The archive has no space.
    full: bool,
}

enum Standing {
    /// Accepted, and nothing has happened since.
    Fresh,
    /// Nobody is at work on it.
    Quiet,
    /// In flight, or something is under way.
    Busy,
    /// On its way into the index.
    Archived,
}

fn standing(e: &Entry) -> Standing {
    // A notification that cannot be made now waits for its time, and its message with it.
    let at_work = e.recipients.iter().any(|r| r.phase == Phase::Flight) || e.is_being_told();
    let s = &e.switches;
    if e.archived.is_some() {
        Standing::Archived
    } else if s.committing || s.moving || s.loading || at_work || !e.is_owed_on_record() {
        Standing::Busy
    } else if e.recipients.iter().all(|r| r.phase == Phase::Ready && r.attempts == 0 && r.said.len == 0)
        && !(s.held || s.warned)
    {
        Standing::Fresh
    } else {
        Standing::Quiet
    }
}

impl<R: Runtime> Desk<R> {
    pub(crate) async fn evacuate(self) {
        loop {
            let closing = poll_fn(|cx| {
                let mut s = self.0.state.borrow_mut();
                loop {
                    if s.closing || s.dead {
                        return Poll::Ready(true);
                    }
                    if s.mover_bell.poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if s.loaded {
                        return Poll::Ready(false);
                    }
                }
            })
            .await;
            if closing {
                return;
            }
            self.0.state.borrow_mut().moving = true;
            while let Some(segment) = self.crowded() {
                if !self.empty(segment).await {
                    break;
                }
            }
            self.tidy_archive().await;
            self.0.state.borrow_mut().moving = false;
        }
    }

    /// The segment that should be emptied, if any.
    pub(crate) fn crowded(&self) -> Option<u64> {
        self.0.keeper.overflow().or_else(|| self.0.keeper.pressure())
    }

    /// Takes out what lives in `segment`; `false` if nothing can be done now.
    async fn empty(&self, segment: u64) -> bool {
        // A handle of its own: what it appends is what its sync answers for.
        let vault = self.0.vault.clone();
        let mut pass = Pass::default();
        let mut stop = self.copy_bodies(&vault, segment, &mut pass).await.is_err();
        stop = stop || self.copy_states(&vault, segment, &mut pass).await.is_err();
        let mut moved = false;
        if !pass.copied.is_empty() {
            if vault.sync().await == Err(ArchiveError::Poisoned) {
                self.die(&mut self.0.state.borrow_mut(), After::Nothing);
                return false;
            }
            moved = self.enter(segment, pass.copied);
        }
        for keys in pass.busy.chunks(TOGETHER) {
            let (some, all) = self.move_some(keys).await;
            moved |= some;
            stop |= !all;
        }
        self.index_settled().await;
        moved && !stop && !self.is_closed()
    }

    /// Appends the bodies of fresh messages to the archive as they come by, and sorts the others.
    /// An error: it cannot go on now.
    async fn copy_bodies(&self, vault: &Archive<R>, segment: u64, pass: &mut Pass) -> Result<(), Stop> {
        let mut scanner = self.0.keeper.scanner(segment)?;
        while let Some(records) = scanner.next().await? {
            for r in records.filter(|r| r.head.kind == record::MESSAGE) {
                let found = {
                    let s = self.0.state.borrow();
                    let key = s.index.find(MessageId(r.head.id));
                    let here = |k: &Key| s.index.get(*k).filter(|e| e.at == r.location).map(standing);
                    key.and_then(|key| Some((key, here(&key)?)))
                };
                match found {
                    None => {}
                    // The index has no space for its row.
                    Some((key, Standing::Archived)) if self.is_needed(segment) => pass.busy.push(key),
                    Some((_, Standing::Archived)) => {}
                    Some((key, Standing::Busy)) => pass.busy.push(key),
                    Some((key, Standing::Quiet)) => pass.tried.push(key),
                    // Its record does not say by which next hop it goes.
                    Some((key, Standing::Fresh)) if self.is_rerouted(r.head.id) => pass.tried.push(key),
                    Some((key, Standing::Fresh)) if pass.full => pass.busy.push(key),
                    Some((key, Standing::Fresh)) => match vault.append(r.head, 0, &[r.payload]).await {
                        Ok(place) => {
                            let seen = Seen { at: r.location, said: Vec::new() };
                            pass.copied.push(Copied { key, place, seen, replies: Vec::new() });
                        }
                        Err(e) => self.without_space(e, segment, key, pass)?,
                    },
                }
            }
            if self.is_closed() {
                return Err(Stop);
            }
            yield_now().await;
        }
        Ok(())
    }

    fn is_rerouted(&self, id: u64) -> bool {
        self.0.state.borrow().vias.get(MessageId(id)).is_some()
    }

    /// True if outcomes may find no room unless this segment is emptied, wherever that goes.
    fn is_needed(&self, segment: u64) -> bool {
        self.0.keeper.pressure() == Some(segment)
    }

    /// The archive has no space for `key`. If the journal needs the segment, what lives in it is copied
    /// forward instead.
    fn without_space(&self, e: ArchiveError, segment: u64, key: Key, pass: &mut Pass) -> Result<(), Stop> {
        if e != ArchiveError::Full || !self.is_needed(segment) {
            return Err(Stop);
        }
        pass.full = true;
        pass.busy.push(key);
        Ok(())
    }

    /// Appends messages with their states; what the next hops said is read back.
    async fn copy_states(&self, vault: &Archive<R>, segment: u64, pass: &mut Pass) -> Result<(), Stop> {
        for keys in std::mem::take(&mut pass.tried).chunks(TOGETHER) {
            let reads = keys.iter().map(|key| self.with_replies(*key));
            for (key, read) in keys.iter().zip(together(reads).await) {
                let Some((seen, payload, replies)) = read else { continue };
                let restated = {
                    let s = self.0.state.borrow();
                    let quiet = |e: &&Entry| {
                        !seen.is_past(e) && matches!(standing(e), Standing::Quiet | Standing::Fresh)
                    };
                    let e = s.index.get(*key).filter(quiet);
                    e.and_then(|e| self.with_states((e, s.vias.get(e.id)), &payload, &replies))
                };
                let Some((head, restated)) = restated else { continue };
                if pass.full {
                    pass.busy.push(*key);
                    continue;
                }
                match vault.append(head, 0, &restated.parts(&payload)).await {
                    Ok(place) => {
                        let replies = replies.into_iter().collect();
                        pass.copied.push(Copied { key: *key, place, seen, replies });
                    }
                    Err(e) => self.without_space(e, segment, *key, pass)?,
                }
            }
            if self.is_closed() {
                return Err(Stop);
            }
        }
        Ok(())
    }

    /// The record of a message, and what next hops said of it.
    pub(super) async fn with_replies(&self, key: Key) -> Option<Read> {
        let (id, seen) = self.0.state.borrow().index.get(key).map(|e| (e.id, Seen::of(e)))?;
        let payload = self.read_source(Source::Journal(seen.at), id).await?;
        let replies = self.replies_to(key).await;
        Some((seen, payload, replies))
    }

    /// The states of messages whose bodies are on stable storage go into the index. `true`: of some.
    fn enter(&self, segment: u64, copied: Vec<Copied>) -> bool {
        let wall = self.0.rt.wall();
        let mut any = false;
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        s.archived_through = s.archived_through.max(segment);
        for Copied { key, place, seen, replies } in copied {
            // A full disk may have cost some of them.
            let durable = self.0.vault.is_durable(place);
            let entered = s.index.change(key, |e| {
                if !durable || seen.is_past(e) || !matches!(standing(e), Standing::Fresh | Standing::Quiet) {
                    return false;
                }
                // Nobody is at work on it now, and the next attempt will be announced.
                for r in e.recipients.iter_mut() {
                    r.said = NOWHERE;
                    if r.cover == Cover::Covered {
                        r.cover = Cover::None;
                    }
                }
                e.archived = Some(Box::new(Archived { place, replies, unsaid: 0 }));
                true
            });
            if entered != Some(true) {
                // It has been taken, or has gone, meanwhile.
                self.0.vault.dead(place, wall);
                continue;
            }
            any = true;
            s.archived += 1;
            let change = Change { new: true, record: Some(seen.at), ..Change::default() };
            self.enter_row(s, key, None, change);
        }
        any
    }

    /// A message in the journal with its states, as it is stored anew.
    fn with_states(
        &self,
        (e, via): (&Entry, Option<&str>),
        payload: &SharedBytes,
        replies: &BTreeMap<u32, OwnedReply>,
    ) -> Option<(RecordHead, Restated)> {
        let view = MessageView::parse(payload).ok()?;
        let reported: Vec<u8> = view.reported().flat_map(u32::to_le_bytes).collect();
        let envelope = view.envelope_at.1 - view.envelope_at.0;
        let content = view.content_at.1 - view.content_at.0;
        let via: Box<str> = via.unwrap_or_default().into();
        let fixed = record::HEAD_LEN + reported.len() + envelope + via.len() + content;
        let states = self.snapshot(e, replies, self.0.payload_max.saturating_sub(fixed));
        let head = MessageHead { via_len: via.len() as u16, ..view.head };
        let head = head.encode(reported.len(), states.len(), envelope);
        let record = RecordHead { kind: record::MESSAGE, version: record::VERSION, flags: 0, id: e.id.0 };
        let (envelope, content) = (view.envelope_at, view.content_at);
        Some((record, Restated { head, reported, states, envelope, via, content }))
    }

    /// Stages the records of messages anew, in one step, so that they share batches: they must not take
    /// more space than they give. Whether any was, and whether all are that can be.
    async fn move_some(&self, keys: &[Key]) -> (bool, bool) {
        let (mut some, mut all) = (false, true);
        let reads = together(keys.iter().map(|key| self.with_replies(*key))).await;
        for (key, read) in keys.iter().zip(reads) {
            let mut staged = self.move_one(*key, read.as_ref());
            if staged == Err(StageError::Busy) {
                self.0.rt.sleep_until(self.0.rt.now().after(Duration::from_millis(5))).await;
                staged = self.move_one(*key, read.as_ref());
            }
            match staged {
                Ok(staged) => some |= staged,
                // The next look at the pressure comes back to it.
                Err(StageError::Busy) => some = true,
                // Another one may be shorter.
                Err(_) => all = false,
            }
        }
        (some, all)
    }

    /// Stages the record of a message anew. `false`: not as it is now.
    pub(super) fn move_one(&self, key: Key, read: Option<&Read>) -> Result<bool, StageError> {
        let Some((seen, payload, replies)) = read else {
            // It has left the journal meanwhile, or its record cannot be read.
            let here = self.0.state.borrow().index.get(key).is_some_and(|e| e.at.len > 0);
            return if here { Err(StageError::Full) } else { Ok(false) };
        };
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        if s.stop_said {
            // Behind that record its states would say again what the stop has cleared up.
            return Ok(false);
        }
        // A transaction under way would give up the old place, and not know of the new one.
        let unknown = s.index_short && s.ledger.waiting() == s.ledger.len();
        let movable = |e: &&Entry| {
            !seen.is_past(e) && (e.archived.is_none() || unknown) && is_settled(e) && e.is_owed_on_record()
        };
        let Some(e) = s.index.get(key).filter(movable) else { return Ok(false) };
        let archived = e.archived.is_some();
        // What was said since it was read is with it.
        let with_it = e.archived.as_ref().map(|a| a.replies.iter().cloned().collect());
        let Some((record, restated)) =
            self.with_states((e, s.vias.get(e.id)), payload, with_it.as_ref().unwrap_or(replies))
        else {
            return Err(StageError::Full);
        };
        let parts = restated.parts(payload);
        let staged = self.0.keeper.stage(record, &parts, Some(seen.at), Urgency::Compaction)?;
        s.index.change(key, |e| e.switches.moving = true);
        if archived {
            // The transaction with its row says where in the journal it may be.
            s.archived_through = s.archived_through.max(self.0.keeper.newest() + MOVED_WITHIN);
        }
        self.follow(s, staged, After::Moved { key });
        Ok(true)
    }

    /// The stored replies of recipients, by index.
    pub(crate) async fn replies(&self, id: MessageId, said: &[Location]) -> BTreeMap<u32, OwnedReply> {
        let mut out = BTreeMap::new();
        for at in said {
            let Ok(payload) = self.0.keeper.read(*at, id.0).await else { continue };
            let states = match StatesView::parse(&payload) {
                Ok(states) => Some(states),
                Err(_) => MessageView::parse(&payload).ok().and_then(|m| m.states),
            };
            for s in states.iter().flat_map(StatesView::states) {
                if s.reply != Reply::default() {
                    out.insert(s.index, OwnedReply::of(&s));
                }
            }
        }
        out
    }

    /// The states of `e` as stored, in at most `room` bytes: texts are cut to fit.
    fn snapshot(&self, e: &Entry, replies: &BTreeMap<u32, OwnedReply>, room: usize) -> Vec<u8> {
        let count = e.recipients.len();
        let marks = [
            (e.switches.held, record::HELD),
            (e.switches.warned, record::WARNED),
            (e.switches.double_bounce, record::DOUBLE_BOUNCE),
        ];
        let flags = marks.iter().filter(|m| m.0).fold(record::SNAPSHOT, |f, m| f | m.1);
        let text_max = room.saturating_sub(super::state_room(count as u32)) / count.max(1);
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        let mut out = Vec::new();
        record::put_states_head(&mut out, flags, count as u32);
        for (i, r) in e.recipients.iter().enumerate() {
            let known = replies.get(&(i as u32));
            let mut reply = known.map(OwnedReply::view).unwrap_or_default();
            reply.text = &reply.text[..reply.text.len().min(text_max)];
            if reply.server.len() > text_max - reply.text.len() {
                reply.server = b"";
            }
            let due = match r.phase {
                Phase::Waiting => wall.after(r.due.since(now)),
                phase if phase.is_owed() => known.map_or(Wall(0), |reply| reply.at),
                _ => wall,
            };
            let s = Stored { index: i as u32, fate: fate(r), attempts: r.attempts, due, reply };
            record::put_state(&mut out, &s);
        }
        out
    }
}

/// A message record with other states; envelope and content are those of the old one.
struct Restated {
    head: [u8; record::HEAD_LEN],
    reported: Vec<u8>,
    states: Vec<u8>,
    envelope: (usize, usize),
    via: Box<str>,
    content: (usize, usize),
}

impl Restated {
    fn parts<'a>(&'a self, payload: &'a [u8]) -> [&'a [u8]; 6] {
        let envelope = &payload[self.envelope.0..self.envelope.1];
        let content = &payload[self.content.0..self.content.1];
        [&self.head, &self.reported, &self.states, envelope, self.via.as_bytes(), content]
    }
}

/// Waits for all of `futures`, which run side by side.
pub(crate) async fn together<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<(Pin<Box<_>>, Option<T>)> = futures.map(|f| (Box::pin(f), None)).collect();
    poll_fn(|cx| {
        let mut pending = false;
        for (future, result) in running.iter_mut().filter(|r| r.1.is_none()) {
            match future.as_mut().poll(cx) {
                Poll::Ready(value) => *result = Some(value),
                Poll::Pending => pending = true,
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|r| r.1).collect()
}

/// The records with replies of recipients that still wait.
pub(crate) fn places(e: &Entry) -> Vec<Location> {
    let mut at: Vec<_> =
        e.recipients.iter().filter(|r| !r.phase.is_done() && r.said.len > 0).map(|r| r.said).collect();
    at.sort_unstable();
    at.dedup();
    at
}

fn fate(r: &Recipient) -> Fate {
    match r.phase {
        Phase::Delivered => Fate::Delivered,
        Phase::Failed => Fate::Failed,
        Phase::Owed => Fate::Owed,
        Phase::Passed => Fate::Passed,
        Phase::Waiting => Fate::Deferred,
        _ if r.cover == Cover::None => Fate::Deferred,
        _ => Fate::Attempting,
    }
}

fn is_settled(e: &Entry) -> bool {
    !e.switches.committing && !e.switches.moving
}

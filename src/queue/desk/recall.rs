//! L4: parked messages come back: their row from the index, their body from the archive.
//!
//! A message is parked when the index has its state, the archive its body, and nobody is at work on
//! it; it is recalled before anything is done with it. What cannot be read (our own disk fails) stays
//! parked and is tried again later: nothing is lost. A row that is not there, or names what cannot
//! be read for good, is told to the operator and never taken for a delivery.

use crate::base::aligned::SharedBytes;
use crate::base::ids::MessageId;
use crate::base::time::{Mono, Wall};
use crate::queue::desk::Desk;
use crate::queue::desk::archiving::together;
use crate::queue::index::{Archived, Cover, DestId, Entry, Key, Phase, Presence, Recipient, SOME_DAY};
use crate::queue::record::{self, Fate, MessageView};
use crate::queue::row::{self, RowView};
use crate::queue::state::{self, OwnedReply, State};
use crate::queue::stub::{Marks, Stub};
use crate::runtime::Runtime;
use crate::runtime::table::Table;
use crate::storage::archive::Place;

/// Where the record of a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// In the journal.
    Journal(crate::storage::record::Location),
    /// In the archive.
    Archive(Place),
}

impl Source {
    pub(crate) fn of(e: &Entry) -> Self {
        match &e.archived {
            Some(a) if e.at.len == 0 => Source::Archive(a.place),
            _ => Source::Journal(e.at),
        }
    }
}

impl<R: Runtime> Desk<R> {
    /// Reads and verifies the record of message `id`.
    pub(crate) async fn read_source(&self, from: Source, id: MessageId) -> Option<SharedBytes> {
        let payload = match from {
            Source::Journal(at) => self.0.keeper.read(at, id.0).await.ok(),
            Source::Archive(place) => self.0.vault.read(place, id.0).await.ok(),
        };
        payload.filter(|p| MessageView::parse(p).is_ok())
    }

    /// The row of a parked message as it is now.
    pub(crate) async fn row(&self, id: MessageId) -> Option<Box<[u8]>> {
        let known = self.0.state.borrow().ledger.row(id).map(|r| r.map(Box::from));
        match known {
            Some(row) => row,
            None => self.0.table().get(&row::key(id)).await.ok().flatten().map(Into::into),
        }
    }

    /// Makes a parked message rich again, with its body. `None`: it is not parked any more, is being
    /// recalled by somebody else, or cannot be read now.
    pub(crate) async fn recall(&self, key: Key) -> Option<SharedBytes> {
        let id = self.begin_recall(key)?;
        let read = self.read_parked(id).await;
        self.end_recall(key, id, read)
    }

    /// As [`Self::recall`], of several, which are read together.
    pub(crate) async fn recall_all(&self, keys: &[Key]) -> Vec<Option<SharedBytes>> {
        let ids: Vec<Option<MessageId>> = keys.iter().map(|key| self.begin_recall(*key)).collect();
        let read = self.read_parked_all(&ids).await;
        let each = ids.iter().zip(read).map(|(id, read)| async move {
            match read {
                Some(read) => Some(read),
                None => self.read_parked((*id)?).await,
            }
        });
        let read = together(each).await;
        let all = keys.iter().zip(ids).zip(read);
        all.map(|((key, id), read)| self.end_recall(*key, id?, read)).collect()
    }

    fn begin_recall(&self, key: Key) -> Option<MessageId> {
        self.0.state.borrow_mut().index.change_stub(key, |stub| {
            let busy = stub.marks.has(Marks::RECALLING);
            stub.marks.set(Marks::RECALLING, true);
            (!busy).then_some(stub.id)
        })?
    }

    /// What has been read of `key` takes its place.
    fn end_recall(
        &self,
        key: Key,
        id: MessageId,
        read: Option<(Box<[u8]>, SharedBytes)>,
    ) -> Option<SharedBytes> {
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        s.crowd.wake_all();
        s.index.change_stub(key, |stub| stub.marks.set(Marks::RECALLING, false))?;
        let (row, payload) = read?;
        let view = RowView::parse(&row).ok()?;
        let doubt = s.index.stub(key)?.marks.has(Marks::IN_DOUBT);
        let entry = self.entry_of(s, id, &view, &payload, doubt)?;
        let stub = s.index.recall(key, entry)?;
        if s.index.domain(key).is_none() {
            // Its row was written by a version that did not say.
            know_domain(s, key, &payload);
        }
        s.archived += 1;
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        let passed = view.recipients().any(|r| r.fate == Fate::Deferred && r.due <= wall);
        s.index.change(key, |e| {
            e.timer = stub.timer;
            e.switches.lists.set_absent(stub.marks.has(Marks::ABSENT));
            if stub.timer.is_none() && !stub.held && !passed {
                // It has fired all the same: the clock was set back meanwhile.
                be_due(e, now);
            }
            // The stub knows of a timer that has fired since.
            for r in e.recipients.iter_mut().filter(|r| r.phase == Phase::Waiting) {
                if stub.ready && stub.destination == r.destination {
                    r.phase = Phase::Ready;
                }
            }
        });
        Some(payload)
    }

    /// Row and body of a parked message.
    pub(crate) async fn read_parked(&self, id: MessageId) -> Option<(Box<[u8]>, SharedBytes)> {
        for _ in 0..2 {
            let row = self.row(id).await?;
            let place = RowView::parse(&row).ok()?.place;
            if let Some(payload) = self.read_source(Source::Archive(place), id).await {
                return Some((row, payload));
            }
            // It may have been copied within the archive meanwhile; then its row says where.
        }
        None
    }

    /// What a row says, with recipients routed by today's tables. `doubt`: what it calls under way
    /// may have been.
    pub(crate) fn entry_of(
        &self,
        s: &mut State,
        id: MessageId,
        view: &RowView<'_>,
        payload: &SharedBytes,
        doubt: bool,
    ) -> Option<Entry> {
        let message = MessageView::parse(payload).ok()?;
        let mut e = Entry::new(id, view.size, view.body);
        e.side = view.side;
        e.switches.held = view.marks & record::HELD != 0;
        e.switches.warned = view.marks & record::WARNED != 0;
        e.switches.double_bounce = view.marks & record::DOUBLE_BOUNCE != 0;
        e.switches.null_sender = view.null_sender;
        let mut archived = Archived { place: view.place, replies: Vec::new(), unsaid: 0 };
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        if message.envelope.count() != view.count {
            return None;
        }
        for (i, (r, to)) in view.recipients().zip(message.envelope.recipients()).enumerate() {
            let mut out = Recipient { attempts: r.attempts, cover: Cover::None, ..Recipient::default() };
            if r.fate.is_owed() {
                out.due = SOME_DAY;
            }
            out.phase = match r.fate {
                Fate::Delivered => Phase::Delivered,
                Fate::Failed => Phase::Failed,
                Fate::Owed => Phase::Owed,
                Fate::Passed => Phase::Passed,
                Fate::Fresh => Phase::Ready,
                Fate::Attempting if !doubt => Phase::Ready,
                Fate::Attempting => {
                    out.cover = Cover::InDoubt;
                    Phase::Ready
                }
                Fate::Deferred if r.due <= wall => Phase::Ready,
                Fate::Deferred => {
                    out.due = now.after(r.due.since(wall).min(self.0.options.retry.longest()));
                    Phase::Waiting
                }
            };
            if !r.fate.is_done() {
                out.destination = self.destination_by(s, view.via, to.address);
                if r.reply != record::Reply::default() {
                    let at = if r.fate.is_owed() { r.due } else { Wall(0) };
                    archived.replies.push((i as u32, OwnedReply::from(r.reply).at(at)));
                }
            }
            e.recipients.push(out);
        }
        e.archived = Some(Box::new(archived));
        Some(e)
    }

    /// Takes the message `key` for its destination `d` out of the archive, to the head of the list.
    pub(crate) async fn recall_for(&self, key: Key, d: Option<DestId>) {
        let payload = self.recall(key).await;
        let now = self.0.rt.now();
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        match payload {
            Some(payload) => {
                s.keep_body(key, payload, now);
                self.lead_back(s, key, now);
                s.arm(key);
                let paused = |d: &DestId| s.schedule.is_paused(*d, now);
                for d in s.wanted(key).into_iter().filter(paused).collect::<Vec<_>>() {
                    self.judge(s, key, d);
                }
                s.park(key, now);
            }
            None if s.index.presence(key) == Presence::Parked => self.later(s, key, now),
            None => {}
        }
        if let Some(d) = d {
            s.call(d, now);
        }
    }

    /// Ready recipients of `key`, which has waited long, go to the heads of their lists.
    pub(crate) fn lead(&self, s: &mut State, key: Key, now: Mono) {
        self.refuse_unroutable(s, key);
        s.enqueue_first(key, now);
    }

    /// As [`Self::lead`], for a message that was parked: nobody is making what it is owed.
    pub(crate) fn lead_back(&self, s: &mut State, key: Key, now: Mono) {
        self.tell(s, key, Vec::new(), None);
        self.lead(s, key, now);
    }

    /// A parked message cannot be read now: nothing is sent, nothing is lost; tried again later.
    fn later(&self, s: &mut State, key: Key, now: Mono) {
        let due = now.after(self.0.options.retry.first);
        let timer = s.timers.insert(state::tick_of(due), key);
        let old = s.index.change_stub(key, |stub| {
            stub.ready = false;
            stub.timer.replace(timer)
        });
        match old {
            Some(Some(old)) => drop(s.timers.cancel(old)),
            Some(None) => {}
            None => drop(s.timers.cancel(timer)),
        }
        s.look_at(due);
    }

    /// Recalls messages that wait for several destinations, as many at a time as may be loaded.
    pub(crate) fn recall_due(&self, s: &mut State) {
        while s.loads < self.0.options.limits.loads {
            let Some(key) = s.recalls.pop_front() else { return };
            if s.index.presence(key) != Presence::Parked {
                continue;
            }
            s.loads += 1;
            let desk = self.clone();
            self.0.rt.spawn(async move {
                desk.recall_for(key, None).await;
                let mut s = desk.0.state.borrow_mut();
                s.loads -= 1;
                desk.recall_due(&mut s);
                if !s.owed.is_empty() {
                    s.notice_bell.ring();
                }
            });
        }
    }
}

fn know_domain(s: &mut State, key: Key, payload: &SharedBytes) {
    let Ok(view) = MessageView::parse(payload) else { return };
    if let Some(domain) = state::domain_of_all(view.envelope.recipients().map(|r| r.address)) {
        s.index.set_domain(key, &domain);
    }
}

/// The next recipient of `e` that waits is due now, and the others so much earlier, too.
fn be_due(e: &mut Entry, now: Mono) {
    let Some(early) = e.next_due().map(|due| due.since(now)) else { return };
    for r in e.recipients.iter_mut().filter(|r| r.phase == Phase::Waiting) {
        match r.due.since(now).checked_sub(early) {
            Some(left) if !left.is_zero() => r.due = now.after(left),
            _ => r.phase = Phase::Ready,
        }
    }
}

impl State {
    /// Replaces a message that waits, and that index and archive hold, by its stub.
    pub fn park(&mut self, key: Key, now: Mono) {
        let Some(e) = self.index.get(key) else { return };
        let kept = e.archived.as_ref().is_some_and(|a| a.unsaid == 0) && e.at.len == 0;
        let idle = !e.recipients.iter().any(|r| r.phase == Phase::Flight) && !e.is_being_told();
        // With its body in memory it is about to be sent, if it can be.
        let sent = |r: &Recipient| r.phase == Phase::Ready && !self.schedule.is_paused(r.destination, now);
        let wanted = e.payload.is_some() && !e.switches.held && e.recipients.iter().any(sent);
        let busy = e.switches.loading || e.switches.moving || e.switches.telling;
        if !kept || !idle || wanted || busy || e.is_done() {
            return;
        }
        self.drop_body(key);
        let stub = Stub::of(self.index.get(key).expect("just seen"));
        self.index.park(key, stub);
        self.archived -= 1;
    }
}

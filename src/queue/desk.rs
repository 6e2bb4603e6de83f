//! L4: the queue of one log: takes messages, keeps them safe, knows when each is due.
//!
//! Owns the journal (through its keeper), the index and the schedule; runs the tasks that follow
//! commits, time, notifications and the copying forward. Knows no SMTP: what to send is taken by
//! `delivery` and settled here (`settle`). Its parts: `recover` reads a log back, `settle` takes and
//! settles work, `pulse` is the clockwork, `operate` serves operators (`select`, `narrowing` and
//! `skimming` find the messages that they mean, `verbs` gives up and begins anew, `parked` changes what has
//! left the journal).
//! What waits for long leaves the journal (`archiving`) for archive and index (`indexing`), is read back
//! when it is due (`recall`), and takes its place again after a start (`joining`, `loading`).
//!
//! A journal error is for ever: nothing is accepted, no attempt is started, who waits is told.
//! State that does not add up is a bug and panics.

mod absent;
mod archiving;
mod burying;
mod indexing;
mod joining;
mod listing;
pub mod loading;
mod naming;
mod narrowing;
pub(crate) mod notices;
pub mod open;
mod operate;
mod parked;
mod pulse;
mod reach;
pub(crate) mod recall;
mod recording;
mod rerouting;
mod select;
pub mod settle;
mod skimming;
mod tidying;
mod touring;
mod verbs;
mod why;

#[cfg(test)]
pub(crate) mod double;
#[cfg(test)]
mod tests;

use crate::base::ids::{LogNumber, MessageId, QueueId};
use crate::base::time::{Mono, Wall};
use crate::events::mail::MailLog;
use crate::message::body::BodyFlags;
use crate::message::envelope::{EnvelopeView, Notify};
use crate::metrics;
use crate::policy::brakes::Brakes;
use crate::queue::bodies::Bodies;
use crate::queue::desk::open::Parts;
use crate::queue::index::{Cover, DestId, Entry, Key, Phase, Recipient, SOME_DAY};
use crate::queue::ledger::Change;
use crate::queue::limits::{Admission, Limits};
use crate::queue::pace::Backoff;
use crate::queue::record::{self, Effect, MessageHead};
use crate::queue::routing::{Hop, Plan, Routing};
use crate::queue::schedule::{Rules, Schedule};
use crate::queue::state::{
    self, About, After, Answer, Door, Notice, OwnedReply, Pending, Report, State, Unsettled,
};
use crate::queue::whose::Whose;
use crate::runtime::Runtime;
use crate::runtime::table::{Table, TableOptions};
use crate::storage::archive::{self, Archive};
use crate::storage::group::{CommitError, Durable, Staged};
use crate::storage::journal::StageError;
use crate::storage::keeper::Keeper;
use crate::storage::options::{Poison, Urgency};
use crate::storage::record::{Location, RecordHead};
use crate::storage::side::SideFile;
use crate::storage::space::Shortage;
use smallvec::SmallVec;
use std::cell::{OnceCell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// What becomes of a notification that cannot be delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DoubleBounce {
    /// The postmaster gets it.
    #[default]
    Postmaster,
    /// Nobody does.
    Drop,
}

/// How a queue works. Durations of 0 turn the thing off where that makes sense.
#[derive(Clone, Debug)]
pub struct Options {
    /// Our name, for notifications.
    pub hostname: String,
    /// Who gets double bounces.
    pub postmaster: String,
    /// Waits between the attempts of a message.
    pub retry: Backoff,
    /// How long a message is tried.
    pub lifetime: Duration,
    /// How long a message with the null sender is tried.
    pub bounce_lifetime: Duration,
    /// When the sender is told that a message is late; 0: never.
    pub delay_warning: Duration,
    /// See there.
    pub double_bounce: DoubleBounce,
    /// A bounce returns a message of up to so many bytes, of a larger one the header.
    pub bounce_size: usize,
    /// Recipients of one message given to one connection at once, at least 1.
    pub recipients_max: usize,
    /// How long a submitter waits for the commit; then the message is taken back.
    pub commit_wait: Duration,
    /// Overdue retries are spread over this after a start.
    pub spread: Duration,
    /// See there.
    pub rules: Rules,
    /// See there.
    pub limits: Limits,
    /// How the archive is laid out.
    pub archive: archive::Options,
    /// How the index is kept.
    pub table: TableOptions,
    /// What holds logins back hears of mail that waits and that fails.
    pub brakes: Option<Brakes>,
    /// How long mail waits for an index that takes long to open; [`Duration::MAX`]: until it is open.
    pub patience: Duration,
}

impl Options {
    /// The usual values.
    #[must_use]
    pub fn new(hostname: &str, postmaster: &str) -> Self {
        Options {
            hostname: hostname.to_owned(),
            postmaster: postmaster.to_owned(),
            retry: Backoff { first: Duration::from_secs(300), max: Duration::from_secs(4000) },
            lifetime: Duration::from_secs(5 * 86_400),
            bounce_lifetime: Duration::from_secs(86_400),
            delay_warning: Duration::ZERO,
            double_bounce: DoubleBounce::default(),
            bounce_size: 50_000,
            recipients_max: 50,
            commit_wait: Duration::from_secs(60),
            spread: Duration::from_secs(30),
            rules: Rules::default(),
            limits: Limits::default(),
            archive: archive::Options::production(64 << 20),
            table: TableOptions::default(),
            brakes: None,
            patience: Duration::from_millis(250),
        }
    }
}

pub(crate) struct Inner<R: Runtime> {
    pub rt: R,
    pub keeper: Keeper<R>,
    pub vault: Archive<R>,
    /// The index, once it is open.
    table: OnceCell<R::Table>,
    pub poison: Poison,
    pub payload_max: usize,
    pub log: LogNumber,
    pub options: Options,
    pub metrics: metrics::Core,
    pub destinations: RefCell<metrics::destinations::Counting>,
    pub routing: RefCell<Rc<dyn Routing>>,
    /// None: nothing is recorded.
    pub mail_log: OnceCell<MailLog>,
    pub state: RefCell<State>,
}

impl<R: Runtime> Inner<R> {
    /// The index. Nobody is sent to it before it is open: until then no message is known that it has.
    pub fn table(&self) -> &R::Table {
        self.table.get().expect("the index is open")
    }

    /// Bytes of the index.
    pub fn index_bytes(&self) -> u64 {
        self.table.get().map_or(0, Table::bytes)
    }
}

/// The queue of one log. A handle; cloning counts.
pub struct Desk<R: Runtime>(pub(crate) Rc<Inner<R>>);

impl<R: Runtime> Clone for Desk<R> {
    fn clone(&self) -> Self {
        Desk(self.0.clone())
    }
}

/// A message about to be staged.
pub(crate) struct NewMessage<'a> {
    pub id: MessageId,
    pub arrival: Wall,
    /// Stored form of the envelope.
    pub envelope: &'a [u8],
    /// Trace headers.
    pub trace: &'a [u8],
    /// The body in the record; empty if it is in a side file.
    pub body: &'a [&'a [u8]],
    /// Bytes of the body, wherever it is.
    pub len: u64,
    pub side: u64,
    pub flags: BodyFlags,
    pub origin: MessageId,
    pub effect: Effect,
    pub reported: &'a [u32],
    /// [`record::DOUBLE_BOUNCE`], [`record::HELD`].
    pub marks: u8,
    /// The login under which it was sent, or nothing.
    pub user: &'a [u8],
}

impl<R: Runtime> Desk<R> {
    pub(crate) fn assemble((keeper, vault): (Keeper<R>, Archive<R>), parts: Parts<R>) -> Self {
        let Parts { rt, storage, poison, log, options, metrics, routing, shares, .. } = parts;
        let (now, wall) = (rt.now(), rt.wall());
        metrics.queue_loading.set(1.0);
        let schedule = Schedule::new(options.rules, shares);
        let mut state = State::new(schedule, Bodies::new(options.limits.body_bytes), now, wall);
        state.places = options.limits.places;
        state.whose = Whose::new(options.brakes.as_ref().and_then(|b| b.waiting().cloned()));
        Desk(Rc::new(Inner {
            rt,
            keeper,
            vault,
            table: OnceCell::new(),
            poison,
            payload_max: storage.payload_max(),
            log,
            options,
            destinations: RefCell::new(metrics.destinations()),
            metrics,
            routing: RefCell::new(routing),
            mail_log: OnceCell::new(),
            state: RefCell::new(state),
        }))
    }

    /// Starts the tasks that follow commits, time and lack of space.
    pub(crate) fn start(&self) {
        let rt = &self.0.rt;
        rt.spawn_critical(self.clone().follow_commits());
        rt.spawn_critical(self.clone().pulse());
        rt.spawn_critical(self.clone().evacuate());
        rt.spawn_critical(self.clone().keep_index());
    }

    /// The id of a message that arrives at `wall`, before it is staged.
    #[must_use]
    pub fn next_id(&self, wall: Wall) -> QueueId {
        let mut s = self.0.state.borrow_mut();
        if s.ages.is_odd(wall) {
            s.look_at_clocks(self.0.rt.now(), wall);
        }
        s.last_id = s.last_id.next(wall);
        QueueId { message: s.last_id, log: self.0.log }
    }

    /// New tables; what is waiting follows them from its next attempt on.
    pub fn set_routing(&self, routing: Rc<dyn Routing>) {
        *self.0.routing.borrow_mut() = routing;
    }

    /// The queue id of a message of this queue.
    #[must_use]
    pub fn queue_id(&self, message: MessageId) -> QueueId {
        QueueId { message, log: self.0.log }
    }

    /// May one more message come in?
    #[must_use]
    pub fn admission(&self) -> Admission {
        let s = self.0.state.borrow();
        let messages = s.index.counters().messages;
        match self.0.options.limits.admit(messages, s.schedule.backlog_fast(), s.staged_bytes) {
            Admission::Full => Admission::Full,
            verdict => match self.0.keeper.shortage() {
                Some(Shortage::Full) => Admission::Full,
                Some(Shortage::Busy) => Admission::Later,
                None => verdict,
            },
        }
    }

    /// Whether one more attempt may be begun: the journal has room for what it will say.
    pub(crate) fn may_begin(&self, s: &State) -> bool {
        self.0.keeper.bears(s.flights + s.unsettled.len() + 1)
    }

    /// True once the journal is poisoned: nothing is accepted until a restart.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.0.state.borrow().dead
    }

    /// True once no mail is taken any more: poisoned or being closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let s = self.0.state.borrow();
        s.dead || s.closing
    }

    /// The destination of an address.
    pub(crate) fn destination(&self, s: &mut State, address: &[u8]) -> DestId {
        match self.0.routing.borrow().plan(address) {
            Plan::Local => state::LOCAL,
            Plan::NoRoute => state::NO_ROUTE,
            Plan::Relay(hop) => self.door(s, hop, address),
        }
    }

    pub(crate) fn door(&self, s: &mut State, hop: Rc<Hop>, sample: &[u8]) -> DestId {
        let (d, new) = s.schedule.destination(&hop.key, || hop.limits);
        if new {
            let door = Door { hop, sample: sample.into(), swept: false, toured: Mono(0) };
            match s.doors.get_mut(d as usize) {
                Some(vacant) => *vacant = door,
                None => s.doors.push(door),
            }
            self.suspend(s, d);
        } else if !Rc::ptr_eq(&s.doors[d as usize].hop, &hop) {
            if s.schedule.own_limits(d) != hop.limits {
                s.schedule.set_own_limits(d, hop.limits);
            }
            s.doors[d as usize].hop = hop;
        }
        d
    }

    /// Stages a message: one copy into the open batch. `slip`: somebody waits.
    pub(crate) fn stage_message(
        &self,
        s: &mut State,
        m: &NewMessage<'_>,
        urgency: Urgency,
        slip: Option<usize>,
    ) -> Result<Key, StageError> {
        if s.dead || s.closing {
            return Err(StageError::Poisoned);
        }
        let (envelope, used) = EnvelopeView::parse(m.envelope).expect("built by ourselves");
        assert_eq!(used, m.envelope.len());
        let trace_len = u32::try_from(m.trace.len()).map_err(|_| StageError::TooLarge)?;
        let head = MessageHead {
            arrival: m.arrival,
            size: m.trace.len() as u64 + m.len,
            side: m.side,
            origin: m.origin,
            body: m.flags,
            flags: m.marks,
            effect: m.effect,
            trace_len,
            via_len: 0,
        };
        let inline = if m.side == 0 { m.len as usize } else { 0 };
        let addressed = m.envelope.len() + m.user.len();
        let fixed = record::HEAD_LEN + 4 * m.reported.len() + addressed + m.trace.len();
        if fixed + inline + state_room(envelope.count()) > self.0.payload_max {
            return Err(StageError::TooLarge);
        }
        let head = head.encode(4 * m.reported.len(), 0, addressed);
        let mut reported = SmallVec::<[u8; 16]>::new();
        m.reported.iter().for_each(|r| reported.extend_from_slice(&r.to_le_bytes()));
        let mut parts: SmallVec<[&[u8]; 16]> = SmallVec::new();
        parts.extend([&head[..], &reported, m.envelope, m.user, m.trace]);
        parts.extend(m.body.iter().copied());
        let record = RecordHead { kind: record::MESSAGE, version: record::VERSION, flags: 0, id: m.id.0 };
        let staged = self.0.keeper.stage(record, &parts, None, urgency)?;
        let mut entry = Entry::new(m.id, m.trace.len() as u64 + m.len, m.flags);
        entry.side = m.side;
        entry.switches.committing = true;
        entry.switches.held = m.marks & record::HELD != 0;
        entry.switches.null_sender = envelope.sender().is_empty();
        entry.switches.double_bounce = m.marks & record::DOUBLE_BOUNCE != 0;
        for r in envelope.recipients() {
            let destination = self.destination(s, r.address);
            entry.recipients.push(match r.notify.has(Notify::EXPANDED) {
                false => Recipient { destination, cover: Cover::Covered, ..Recipient::default() },
                true => {
                    Recipient { destination, phase: Phase::Passed, due: SOME_DAY, ..Recipient::default() }
                }
            });
        }
        let domain = state::domain_of_all(envelope.recipients().map(|r| r.address));
        let key = s.index.insert_of(entry, domain.as_deref());
        s.whose.enter(m.id, Whose::key(m.user));
        self.follow(s, staged, After::Message { key, slip });
        let bytes = fixed + inline;
        s.staged_bytes += bytes;
        s.commits.back_mut().expect("just put there").bytes = bytes;
        Ok(key)
    }

    /// Remembers what a staged record means once it is on stable storage.
    pub(crate) fn follow(&self, s: &mut State, staged: Staged, after: After) {
        if s.commits.is_empty() {
            s.commit_bell.ring();
        }
        self.follow_about(s, staged, About::Others, after);
    }

    fn follow_about(&self, s: &mut State, staged: Staged, about: About, after: After) {
        if s.commits.is_empty() {
            s.commit_bell.ring();
        }
        s.commits.push_back(Pending { staged, about, since: self.0.rt.now(), bytes: 0, after });
    }

    /// Stages a record about a message, or queues it until the journal has room: these are never
    /// lost and never change their order.
    pub(crate) fn note(
        &self,
        s: &mut State,
        kind: u8,
        id: MessageId,
        payload: &[u8],
        frees: Option<Location>,
        after: After,
    ) {
        let key = if s.archived > 0 { s.index.find(id) } else { None };
        let about = key.filter(|k| s.index.get(*k).is_some_and(|e| e.archived.is_some()));
        let about = about.map_or(About::Others, |key| About::Archived(key, id));
        self.note_about(s, kind, id, payload, frees, (about, after));
    }

    pub(crate) fn note_about(
        &self,
        s: &mut State,
        kind: u8,
        id: MessageId,
        payload: &[u8],
        frees: Option<Location>,
        (about, after): (About, After),
    ) {
        if let About::Archived(key, _) = about {
            s.index.change(key, |e| e.archived.as_mut().expect("said so").unsaid += 1);
        }
        if s.unsettled.is_empty() {
            match self.stage_note(kind, id, payload, frees, about) {
                Ok(staged) => return self.noted(s, staged, about, after),
                Err(StageError::Poisoned) => return self.die(s, after),
                Err(StageError::Full | StageError::Busy | StageError::TooLarge) => {}
            }
        }
        s.unsettled.push_back(Unsettled { kind, id, payload: payload.into(), frees, about, after });
        s.look_at(self.0.rt.now().after(Duration::from_millis(200)));
    }

    fn stage_note(
        &self,
        kind: u8,
        id: MessageId,
        payload: &[u8],
        frees: Option<Location>,
        about: About,
    ) -> Result<Staged, StageError> {
        let (flags, urgency) = match about {
            About::Others => (0, Urgency::Outcome),
            About::Archived(..) | About::Parked(..) | About::Gone(..) => {
                (record::ARCHIVED, Urgency::Archived)
            }
        };
        let head = RecordHead { kind, version: record::VERSION, flags, id: id.0 };
        self.0.keeper.stage(head, &[payload], frees, urgency)
    }

    fn noted(&self, s: &mut State, staged: Staged, about: About, after: After) {
        if about != About::Others || !matches!(after, After::Nothing) {
            self.follow_about(s, staged, about, after);
        }
    }

    /// Stages what could not be staged before.
    pub(crate) fn catch_up(&self, s: &mut State) {
        while let Some(u) = s.unsettled.pop_front() {
            match self.stage_note(u.kind, u.id, &u.payload, u.frees, u.about) {
                Ok(staged) => self.noted(s, staged, u.about, u.after),
                Err(StageError::Poisoned) => return self.die(s, u.after),
                Err(_) => {
                    s.unsettled.push_front(u);
                    s.look_at(self.0.rt.now().after(Duration::from_millis(200)));
                    return;
                }
            }
        }
    }

    /// The journal is poisoned: whoever waits for `after` is told, and nothing is started any more.
    pub(crate) fn die(&self, s: &mut State, after: After) {
        if !s.dead {
            s.dead = true;
            s.schedule.stop();
            self.0.metrics.journal_poisoned.set(1.0);
        }
        let slip = match after {
            After::Message { key, slip } => {
                let gone = s.index.get(key).is_some_and(|e| e.switches.withdrawn);
                slip.filter(|_| !gone)
            }
            After::Attempt { slip, .. } => Some(slip),
            After::Done { slip, .. } => slip,
            After::Said { .. } | After::Moved { .. } | After::Nothing => None,
        };
        if let Some(slip) = slip {
            s.slips.answer(slip, Answer::Failed);
        }
        s.call_all();
    }

    /// The task that learns of commits, in order, and acts on them.
    async fn follow_commits(self) {
        poll_fn(|cx| self.poll_commits(cx)).await;
    }

    fn poll_commits(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        let mut any = false;
        loop {
            let done = match s.commits.front_mut() {
                Some(first) => match first.staged.poll(cx.waker()) {
                    Poll::Ready(result) => Some(result),
                    Poll::Pending => None,
                },
                None if s.unsettled.is_empty() && s.closing && s.flights == 0 => {
                    s.index_bell.ring();
                    return Poll::Ready(());
                }
                None if s.commit_bell.poll(cx).is_ready() => continue,
                None => None,
            };
            match done {
                Some(result) => {
                    let pending = s.commits.pop_front().expect("just seen");
                    s.staged_bytes -= pending.bytes;
                    self.committed(s, pending, result);
                    any = true;
                }
                // What follows a batch may have staged more: look again.
                None if std::mem::take(&mut any) => self.between_commits(s),
                None => return Poll::Pending,
            }
        }
    }

    fn between_commits(&self, s: &mut State) {
        s.batches += 1;
        self.catch_up(s);
        if !s.moving && self.crowded().is_some() {
            s.mover_bell.ring();
        }
        s.crowd.wake_all();
    }

    fn committed(&self, s: &mut State, pending: Pending, result: Result<Durable, CommitError>) {
        let Pending { staged, about, after, .. } = pending;
        let Ok(durable) = result else { return self.die(s, after) };
        self.tell_index(s, about, durable.location);
        match after {
            After::Message { key, slip } => self.message_committed(s, key, slip, durable),
            After::Said { key, indexes } => {
                s.index.change(key, |e| {
                    for i in indexes {
                        e.recipients[i as usize].said = durable.location;
                    }
                });
            }
            After::Attempt { key, indexes, slip } => {
                s.index.change(key, |e| {
                    for i in indexes {
                        e.recipients[i as usize].cover = Cover::Covered;
                    }
                });
                s.slips.answer(slip, Answer::Committed(durable.ticket));
            }
            After::Moved { key } => {
                let moved = s.index.change(key, |e| {
                    e.at = durable.location;
                    e.switches.moving = false;
                    // Replies recorded before the move were copied with it.
                    for r in e.recipients.iter_mut().filter(|r| r.said.len > 0) {
                        r.said = durable.location;
                    }
                });
                if moved.is_none() {
                    // Done with while it was being moved; that is staged after this record.
                    self.0.keeper.free(durable.location);
                }
                // The copy says all that was said before. Without this such records would keep their
                // segments until there is space for the row.
                let id = s.index.get(key).filter(|e| e.archived.is_some()).map(|e| e.id);
                for at in id.map(|id| s.ledger.give_up(id)).unwrap_or_default() {
                    self.0.keeper.free(at);
                }
                // If it waits for its row, that replaces this record now.
                self.enter_row(s, key, None, Change { record: Some(durable.location), ..Change::default() });
            }
            After::Done { side, slip } => {
                if side != 0 {
                    self.0.keeper.remove_side(SideFile { name: side, len: 0 }, staged);
                }
                if let Some(slip) = slip {
                    s.slips.answer(slip, Answer::Committed(durable.ticket));
                }
            }
            After::Nothing => {}
        }
    }

    fn message_committed(&self, s: &mut State, key: Key, slip: Option<usize>, durable: Durable) {
        let now = self.0.rt.now();
        let taken = s.index.change(key, |e| {
            e.at = durable.location;
            e.switches.committing = false;
            (e.switches.withdrawn, e.switches.held, e.size)
        });
        let (withdrawn, held, size) = taken.expect("nothing removes a message that is being committed");
        if withdrawn {
            return self.withdraw(s, key);
        }
        if let Some(slip) = slip {
            s.slips.answer(slip, Answer::Committed(durable.ticket));
        }
        self.0.metrics.received.increment(1);
        self.0.metrics.received_bytes.increment(size);
        if held {
            return;
        }
        if s.may_leave_soon(key, now) {
            s.keep_body(key, durable.payload, now);
        }
        self.line_up(s, key, now);
        self.tell(s, key, Vec::new(), None);
    }

    /// Ready recipients of `key` go into the lists of their destinations; those without one are
    /// refused.
    pub(crate) fn line_up(&self, s: &mut State, key: Key, now: Mono) {
        self.refuse_unroutable(s, key);
        s.enqueue(key, now);
    }

    fn withdraw(&self, s: &mut State, key: Key) {
        let Some(e) = s.forget(key) else { return };
        self.note(s, record::WITHDRAW, e.id, b"", Some(e.at), done(e.side, None));
    }

    /// Recipients without a way out are refused for good.
    pub(crate) fn refuse_unroutable(&self, s: &mut State, key: Key) {
        let found = s.index.get(key).map(|e| {
            let mut reports = Vec::new();
            for (i, r) in e.recipients.iter().enumerate() {
                if r.destination < state::LOCAL || r.phase != Phase::Ready {
                    continue;
                }
                // RFC 3463 §3.2, §3.5: bad destination mailbox; unable to route.
                let reply = match r.destination {
                    state::LOCAL => OwnedReply::ours([5, 1, 1], b"no such mailbox here"),
                    _ => OwnedReply::ours([5, 4, 4], b"no route to this domain"),
                };
                reports.push(Report { index: i as u32, reply });
            }
            reports
        });
        if let Some(reports) = found.filter(|r| !r.is_empty()) {
            self.fail_owed(s, key, reports);
        }
    }

    /// Has a notification made.
    pub(crate) fn notify(&self, s: &mut State, notice: Notice) {
        s.notices.push_back(notice);
        s.notice_bell.ring();
    }

    /// Takes everything of a message away with the record `kind`, which says why.
    pub(crate) fn release(&self, s: &mut State, key: Key, kind: u8, payload: &[u8], slip: Option<usize>) {
        let Some(e) = s.forget(key) else { return };
        // While it is being moved its place is not known; the move's commit frees it.
        let frees = (!e.switches.moving && e.at.len > 0).then_some(e.at);
        let about = e.archived.map_or(About::Others, |a| About::Gone(e.id, a.place));
        let after = done(e.side, slip);
        self.note_about(s, kind, e.id, payload, frees, (about, after));
    }

    /// Waits for what `slip` is answered.
    pub(crate) async fn answer(&self, slip: usize) -> Answer {
        poll_fn(|cx| self.0.state.borrow_mut().slips.poll(slip, cx)).await
    }

    /// Starts no attempts any more; connections finish what they have in hand.
    pub fn stop(&self) {
        let mut s = self.0.state.borrow_mut();
        s.schedule.stop();
        s.call_all();
    }

    /// After [`Self::stop`]: waits until no connection is open, or `until`. `true`: all is settled.
    pub async fn drained(&self, until: Mono) -> bool {
        let mut sleep = std::pin::pin!(self.0.rt.sleep_until(until));
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            if s.schedule.connections() == 0 && s.flights == 0 && s.notices.is_empty() && s.telling == 0 {
                return Poll::Ready(true);
            }
            s.crowd.join(cx);
            std::future::Future::poll(sleep.as_mut(), cx).map(|()| false)
        })
        .await
    }

    /// Waits until the journal has taken every record, for a bounded time.
    async fn settle_rest(&self) {
        let until = self.0.rt.now().after(REST_MAX);
        loop {
            {
                let mut s = self.0.state.borrow_mut();
                self.catch_up(&mut s);
                if s.unsettled.is_empty() || s.dead || self.0.rt.now() >= until {
                    return;
                }
            }
            self.0.rt.sleep_until(self.0.rt.now().after(Duration::from_millis(20))).await;
        }
    }

    /// After [`Self::drained`]: commits what is staged and closes the journal. Takes no messages
    /// any more. If nothing is in flight, the log says so, and after a restart only that is in doubt
    /// which has been since the start, and was not tried again.
    pub async fn close(&self) {
        self.close_saying(true).await;
    }

    /// As [`Self::close`], of a queue from which nothing was sent: what was in doubt stays so.
    pub async fn close_unserved(&self) {
        self.close_saying(false).await;
    }

    async fn close_saying(&self, settled: bool) {
        {
            let mut s = self.0.state.borrow_mut();
            let s = &mut *s;
            s.schedule.stop();
            let still = settled && s.flights == 0 && !s.dead && !s.closing;
            if let Some(doubted) = self.doubted(s).filter(|_| still) {
                self.note(s, record::STOPPED, MessageId(0), &doubted, None, After::Nothing);
                s.stop_said = true;
            }
        }
        self.settle_rest().await;
        {
            let mut s = self.0.state.borrow_mut();
            s.closing = true;
            s.call_all();
        }
        self.index_closed().await;
        self.no_longer_joining().await;
        if let Some(table) = self.0.table.get() {
            // What was committed is safe, whatever this says.
            let _ = table.clone().close().await;
        }
        self.0.vault.close().await;
        self.0.keeper.close().await;
    }
}

pub(crate) fn done(side: u64, slip: Option<usize>) -> After {
    if side == 0 && slip.is_none() { After::Nothing } else { After::Done { side, slip } }
}

/// Messages in doubt that a clean stop may except. If there are more, it is not told from a crash.
const DOUBTED_MAX: usize = 1 << 16;

/// How long a close waits for the journal to take what is left.
const REST_MAX: Duration = Duration::from_secs(10);

/// Room in a record for the states of `count` recipients without texts, kept free so that every
/// message can be copied forward.
pub(crate) fn state_room(count: u32) -> usize {
    record::STATES_HEAD_LEN + 32 * count as usize
}

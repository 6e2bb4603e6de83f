//! L4: work leaves the desk and comes back: taken by a connection, settled or given back.
//!
//! Owns no connection. An [`Item`] holds what is sent, so that a message can be removed or moved
//! while it is in flight; what comes back for a message that has gone is counted and passed over.

use crate::base::aligned::SharedBytes;
use crate::base::ids::QueueId;
use crate::base::time::{Mono, Wall};
use crate::delivery::relay::{Outcome, Phase as OutPhase, RecipientResult};
use crate::message::body::BodyFlags;
use crate::message::envelope::{EnvelopeView, Notify};
use crate::metrics::families;
use crate::queue::desk::indexing::LAG_MAX;
use crate::queue::desk::recall::Source;
use crate::queue::desk::recording::Ended;
use crate::queue::desk::{Desk, DoubleBounce};
use crate::queue::index::{Cover, DestId, Entry, Index, Key, Phase, Presence, SOME_DAY};
use crate::queue::record::{self, Fate, MessageView, Reply, State as Stored};
use crate::queue::schedule::{self, Gate, PoolId};
use crate::queue::shares::Cost;
use crate::queue::state::{After, Answer, Indexes, OwnedReply, Report, State};
use crate::runtime::Runtime;
use smallvec::SmallVec;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// Places without work that are passed over at once.
const PASSED_MAX: u32 = 1000;
/// How long to wait, where the journal has no room for an attempt, before the next look.
pub(crate) const SPACE_LOOK: Duration = Duration::from_millis(200);
/// How often a message may come back unsent before that counts as an attempt.
const GIVEN_BACK_MAX: u8 = 5;

/// One message for some of its recipients at one destination.
///
/// Dropped instead of settled (something has panicked), it counts as a failed attempt.
pub struct Item<R: Runtime> {
    /// None once it has been settled or given back.
    desk: Option<Desk<R>>,
    pub(crate) key: Key,
    pub(crate) id: QueueId,
    pub(crate) destination: DestId,
    /// Of the connection.
    pub(crate) pool: PoolId,
    pub(crate) recipients: SmallVec<[u32; 4]>,
    pub(crate) payload: SharedBytes,
    pub(crate) envelope: Range<usize>,
    pub(crate) content: Range<usize>,
    pub(crate) flags: BodyFlags,
    pub(crate) size: u64,
    pub(crate) side: u64,
    /// As its head says: an id is never less than the one before, whatever the clock said.
    pub(crate) arrival: Wall,
    pub(crate) covered: bool,
    /// When it was taken.
    pub(crate) taken: Mono,
    /// The name of the server that it is given to, for reports; set by who takes it.
    pub(crate) server: Option<Rc<str>>,
}

impl<R: Runtime> Drop for Item<R> {
    fn drop(&mut self) {
        if let Some(desk) = self.desk.take() {
            let mut s = desk.0.state.borrow_mut();
            landed(&mut s, self);
            desk.fail(&mut s, self, [4, 3, 0], b"internal error while sending");
        }
    }
}

impl<R: Runtime> Item<R> {
    /// Its envelope.
    #[must_use]
    pub fn envelope(&self) -> EnvelopeView<'_> {
        EnvelopeView::parse(&self.payload[self.envelope.clone()]).expect("read before").0
    }

    /// The login under which it was sent; empty: without one.
    #[must_use]
    pub fn user(&self) -> &[u8] {
        let addressed = &self.payload[self.envelope.clone()];
        &addressed[EnvelopeView::parse(addressed).expect("read before").1..]
    }

    /// Bytes of the body that are in a side file.
    #[must_use]
    pub fn side_len(&self) -> Option<u64> {
        (self.side != 0).then(|| self.size - self.content.len() as u64)
    }
}

impl<R: Runtime> Desk<R> {
    /// Takes the next message for `p`, if its limits allow.
    pub fn next(&self, p: PoolId) -> Option<Item<R>> {
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        if s.unsettled.len() >= self.0.options.limits.unsettled {
            return None;
        }
        let now = self.0.rt.now();
        if s.schedule.owes(p, now) {
            return None;
        }
        if !self.may_begin(s) {
            s.look_at(now.after(SPACE_LOOK));
            return None;
        }
        for _ in 0..PASSED_MAX {
            let State { schedule, index, .. } = s;
            let most = schedule.recipients_most(p, self.0.options.recipients_max);
            let Some((d, key)) = schedule.take(p, now, |d, key| cost(index, d, key, most)) else {
                if let Gate::Rate(at) = s.schedule.gate(p, now) {
                    s.look_at(at);
                }
                return None;
            };
            if !s.has_work(key, d) {
                s.schedule.not_sent(p);
                continue;
            }
            if s.index.get(key).is_some_and(|e| e.payload.is_some()) {
                return Some(self.take(s, key, (p, d), now));
            }
            s.schedule.not_sent(p);
            if s.loads >= self.0.options.limits.loads {
                // Its turn comes when a load has ended.
                s.schedule.push_front(d, key, now);
                return None;
            }
            self.load(s, key, d);
        }
        s.porch(p).breather = true;
        None
    }

    fn take(&self, s: &mut State, key: Key, (p, d): (PoolId, DestId), now: Mono) -> Item<R> {
        let max = s.schedule.recipients_most(p, self.0.options.recipients_max);
        let mut recipients = SmallVec::<[u32; 4]>::new();
        let (mut more, mut last, mut covered, mut first) = (false, true, true, false);
        let e = s.index.change(key, |e| {
            for (i, r) in e.recipients.iter_mut().enumerate().filter(|(_, r)| r.phase == Phase::Ready) {
                if r.destination != d {
                    last = false;
                } else if recipients.len() == max {
                    (more, last) = (true, false);
                } else {
                    r.phase = Phase::Flight;
                    covered &= r.cover != Cover::None;
                    first |= r.attempts == 0;
                    recipients.push(i as u32);
                }
            }
            (e.payload.clone().expect("resident"), e.id, e.size, e.side, e.body)
        });
        let (payload, id, size, side, flags) = e.expect("has work");
        if last {
            s.drop_body(key);
        }
        if more {
            s.schedule.push_front(d, key, now);
        }
        s.flights += 1;
        s.schedule.flight(d, true);
        if first {
            let waited = s.ages.age(now, self.0.rt.wall(), id, id.arrival());
            self.0.metrics.first_attempt.record(waited.as_secs_f64());
        }
        let view = MessageView::parse(&payload).expect("written by ourselves and verified");
        let envelope = view.envelope_at.0..view.envelope_at.1;
        let content = view.content_at.0..view.content_at.1;
        let arrival = view.head.arrival;
        let id = self.queue_id(id);
        let destination = d;
        let desk = Some(self.clone());
        Item {
            desk,
            key,
            id,
            destination,
            pool: p,
            recipients,
            payload,
            envelope,
            content,
            flags,
            size,
            side,
            arrival,
            covered,
            taken: now,
            server: None,
        }
    }

    /// Reads a message back; it goes to the head of its list then.
    fn load(&self, s: &mut State, key: Key, d: DestId) {
        if s.index.presence(key) == Presence::Parked {
            return self.load_parked(s, key, d);
        }
        let at = s.index.change(key, |e| {
            let before = std::mem::replace(&mut e.switches.loading, true);
            (!before).then_some((Source::of(e), e.id))
        });
        let Some(Some((at, id))) = at else { return };
        s.loads += 1;
        let desk = self.clone();
        self.0.rt.spawn(async move {
            let mut read = desk.read_source(at, id).await;
            // It may have been moved meanwhile, and the old place been given up.
            let now_at = desk.0.state.borrow().index.get(key).map(Source::of);
            if let (None, Some(now_at)) = (&read, now_at.filter(|n| *n != at)) {
                read = desk.read_source(now_at, id).await;
            }
            let mut s = desk.0.state.borrow_mut();
            s.loads -= 1;
            desk.read_in(&mut s, key, d, read);
        });
    }

    fn load_parked(&self, s: &mut State, key: Key, d: DestId) {
        if s.ledger.len() > LAG_MAX {
            // The index must catch up first.
            let now = self.0.rt.now();
            s.schedule.push_front(d, key, now);
            return;
        }
        s.loads += 1;
        let desk = self.clone();
        self.0.rt.spawn(async move {
            desk.recall_for(key, Some(d)).await;
            let mut s = desk.0.state.borrow_mut();
            s.loads -= 1;
            desk.recall_due(&mut s);
        });
    }

    fn read_in(&self, s: &mut State, key: Key, d: DestId, payload: Option<SharedBytes>) {
        let now = self.0.rt.now();
        s.index.change(key, |e| e.switches.loading = false);
        let Some(payload) = payload else {
            // Our own disk fails: nothing is sent, nothing is lost; tried again later.
            self.postpone(s, key, now);
            return s.call(d, now);
        };
        self.plan_again(s, key, &payload);
        s.keep_body(key, payload, now);
        // Several destinations may have asked for it while it was being read.
        self.lead(s, key, now);
        s.call(d, now);
    }

    /// Routes may have changed since the message came.
    fn plan_again(&self, s: &mut State, key: Key, payload: &SharedBytes) {
        let Ok(view) = MessageView::parse(payload) else { return };
        let Some(id) = s.index.get(key).map(|e| e.id) else { return };
        for (i, to) in view.envelope.recipients().enumerate() {
            let ready = s.index.get(key).is_some_and(|e| e.recipients[i].phase == Phase::Ready);
            if ready {
                let d = self.destination_of(s, id, to.address);
                s.index.route(key, i, d);
            }
        }
    }

    fn postpone(&self, s: &mut State, key: Key, now: Mono) {
        let due = now.after(self.0.options.retry.first);
        s.index.change(key, |e| {
            for r in e.recipients.iter_mut().filter(|r| r.phase == Phase::Ready) {
                (r.phase, r.due) = (Phase::Waiting, due);
            }
        });
        s.arm(key);
    }

    /// A connection has taken all that it can for now: what is left may call another.
    pub fn pass_on(&self, p: PoolId) {
        let mut s = self.0.state.borrow_mut();
        let next = s.schedule.first_of(p);
        if let Some(d) = next {
            let now = self.0.rt.now();
            s.call(d, now);
        }
    }

    /// Waits until there may be work for `p`: `true`; `false` after `until`, or when stopping. Who is
    /// told `true` takes what there is, or passes it on.
    pub async fn wait(&self, p: PoolId, until: Mono) -> bool {
        let number = {
            let mut s = self.0.state.borrow_mut();
            s.next_idle += 1;
            s.next_idle
        };
        let mut idle = Idle::new(self, p, number);
        let mut sleep = pin!(self.0.rt.sleep_until(until));
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            let now = self.0.rt.now();
            if s.schedule.is_stopped() {
                return Poll::Ready(false);
            }
            s.porch(p).woken.retain(|n| *n != number);
            if s.schedule.owes(p, now) {
                s.schedule.pay(p, now);
                return Poll::Ready(false);
            }
            if std::mem::take(&mut s.porch(p).breather) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let limits = &self.0.options.limits;
            let room = s.unsettled.len() < limits.unsettled && s.loads < limits.loads && self.may_begin(&s);
            if room && s.schedule.backlog_of(p) > 0 && s.schedule.gate(p, now) == Gate::Open {
                idle.served = true;
                return Poll::Ready(true);
            }
            let waiters = &mut s.porch(p).idle;
            waiters.retain(|w| w.0 != number);
            waiters.push((number, cx.waker().clone()));
            drop(s);
            sleep.as_mut().poll(cx).map(|()| false)
        })
        .await
    }

    /// Commits a record that an attempt begins, unless the journal says so already.
    pub async fn announce(&self, item: &Item<R>) -> bool {
        if item.covered {
            return true;
        }
        let slip = {
            let mut s = self.0.state.borrow_mut();
            let s = &mut *s;
            if s.index.get(item.key).is_none_or(|e| e.switches.held) {
                return false;
            }
            let mut payload = std::mem::take(&mut s.scratch);
            payload.clear();
            record::put_attempt(&mut payload, &item.recipients);
            let slip = s.slips.take();
            let after =
                After::Attempt { key: item.key, indexes: Indexes::from_slice(&item.recipients), slip };
            self.note(s, record::ATTEMPT, item.id.message, &payload, None, after);
            s.scratch = payload;
            slip
        };
        matches!(self.answer(slip).await, Answer::Committed(_))
    }

    /// Nothing was risked: the message goes first again; no attempt is counted.
    pub fn give_back(&self, mut item: Item<R>) {
        item.desk = None;
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        landed(s, &item);
        let now = self.0.rt.now();
        let back = s.index.change(item.key, |e| {
            e.given_back = e.given_back.saturating_add(1);
            if e.given_back <= GIVEN_BACK_MAX {
                item.recipients.iter().for_each(|i| e.recipients[*i as usize].phase = Phase::Ready);
            }
            e.given_back
        });
        match back {
            None => {}
            // RFC 3463 §3.5: bad connection. The message itself may be what breaks it.
            Some(n) if n > GIVEN_BACK_MAX => {
                self.fail(s, &item, [4, 4, 2], b"connection lost before sending")
            }
            Some(_) => {
                s.keep_body(item.key, item.payload.clone(), now);
                s.schedule.push_front(item.destination, item.key, now);
                s.call(item.destination, now);
            }
        }
        s.crowd.wake_all();
    }

    /// An attempt has failed for a reason of ours.
    fn fail(&self, s: &mut State, item: &Item<R>, enhanced: [u16; 3], text: &[u8]) {
        let reply = Reply { code: 0, enhanced, text, server: b"" };
        let results: SmallVec<[RecipientResult<'_>; 8]> =
            item.recipients.iter().map(|&i| own_result(i, Outcome::Deferred, &reply)).collect();
        self.settle_in(s, item, &results);
    }

    /// What has become of each recipient of the item.
    pub fn settle(&self, mut item: Item<R>, results: &[RecipientResult<'_>]) {
        item.desk = None;
        let mut s = self.0.state.borrow_mut();
        landed(&mut s, &item);
        self.heed(&mut s, item.pool, results);
        self.settle_in(&mut s, &item, results);
        if s.schedule.is_stopped() {
            s.crowd.wake_all();
        }
    }

    /// What the results say of the site itself.
    fn heed(&self, s: &mut State, p: PoolId, results: &[RecipientResult<'_>]) {
        let Some(answer) = verdict(results) else { return };
        let (now, before) = (self.0.rt.now(), s.schedule.view_paused(p));
        let random = if answer == schedule::Answer::PutOff { self.0.rt.random() } else { 0 };
        if s.schedule.answered(p, now, answer, random) {
            s.agent_bell.ring();
        }
        if let Some(until) = s.schedule.view_paused(p).filter(|until| Some(*until) != before) {
            let reply = results.iter().find(|r| r.code != 0).map(|r| OwnedReply {
                code: r.code,
                enhanced: r.enhanced.unwrap_or_default(),
                text: r.text[..r.text.len().min(record::TEXT_MAX)].into(),
                ..OwnedReply::default()
            });
            self.left_alone(s, p, until, reply.unwrap_or_default());
        }
    }

    fn settle_in(&self, s: &mut State, item: &Item<R>, results: &[RecipientResult<'_>]) {
        let provider = families::provider(s.schedule.pool_name(item.pool));
        self.count(s, item, provider, results);
        let key = item.key;
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        s.look_at_clocks(now, wall);
        let Some(e) = s.index.get(key) else { return };
        let life = self.lifetime(e.switches.null_sender);
        let context = Context {
            wall,
            now,
            provider,
            expired: s.ages.lived(now, wall, e.id, item.arrival, life),
            null_sender: e.switches.null_sender,
            dropped: e.switches.double_bounce || self.0.options.double_bounce == DoubleBounce::Drop,
        };
        let mut out = std::mem::take(&mut s.scratch);
        out.clear();
        record::put_states_head(&mut out, 0, 0);
        let mut sum = Sum::default();
        for result in results {
            self.settle_one(s, item, result, &context, &mut out, &mut sum);
        }
        out[4..8].copy_from_slice(&sum.written.to_le_bytes());
        self.record_attempts(s, item, results, &Ended { now, wall, expired: context.expired });
        self.write_outcome(s, item, &out, sum, &context);
        s.scratch = out;
    }

    fn settle_one(
        &self,
        s: &mut State,
        item: &Item<R>,
        result: &RecipientResult<'_>,
        c: &Context,
        out: &mut Vec<u8>,
        sum: &mut Sum,
    ) {
        let server = item.server.as_deref().filter(|_| result.code > 0).unwrap_or_default().as_bytes();
        let enhanced = result.enhanced.unwrap_or_default();
        let reply = Reply { code: result.code, enhanced, text: result.text, server };
        let (index, fate) = (result.index, Fate::Delivered);
        let mut stored = Stored { index, fate, attempts: 0, due: Wall(0), reply };
        s.index.change(item.key, |e| {
            let r = &mut e.recipients[index as usize];
            assert_eq!(r.phase, Phase::Flight, "settled once");
            match result.outcome {
                Outcome::NotTried => {
                    r.phase = Phase::Ready;
                    sum.again = true;
                    return;
                }
                Outcome::Deferred if !c.expired => {
                    r.attempts = r.attempts.saturating_add(1);
                    let wait = self.0.options.retry.wait(u32::from(r.attempts), self.0.rt.random());
                    (r.phase, r.due, r.cover) = (Phase::Waiting, c.now.after(wait), Cover::None);
                    e.given_back = 0;
                    (stored.fate, stored.due) = (Fate::Deferred, c.wall.after(wait));
                    sum.deferred.push(index);
                }
                outcome => {
                    let end = end_of(item, result, outcome, c);
                    sum.dropped += u32::from(end == Fate::Failed && c.null_sender);
                    r.attempts = r.attempts.saturating_add(u16::from(outcome != Outcome::Delivered));
                    (stored.fate, r.phase) = match end {
                        Fate::Owed => (end, Phase::Owed),
                        Fate::Passed => (end, Phase::Passed),
                        Fate::Failed => (end, Phase::Failed),
                        _ => (Fate::Delivered, Phase::Delivered),
                    };
                    if outcome == Outcome::Deferred && reply.code == 0 {
                        // RFC 3463 §3.5: delivery time expired.
                        stored.reply.enhanced = [5, 4, 7];
                    }
                }
            }
            stored.attempts = r.attempts;
            if r.phase.is_owed() {
                // Part of the outcome: it is told when that can be done.
                (r.due, stored.due) = (SOME_DAY, c.wall);
                sum.owed.push(Report { index, reply: OwnedReply::of(&stored) });
            }
            if let (Some(archived), false) = (&mut e.archived, stored.fate.is_done()) {
                archived.reply(index, OwnedReply::of(&stored));
            }
            sum.written += 1;
            record::put_state(out, &stored);
        });
    }

    fn write_outcome(&self, s: &mut State, item: &Item<R>, states: &[u8], sum: Sum, c: &Context) {
        let key = item.key;
        if sum.dropped > 0 {
            self.0.metrics.dsn_dropped.increment(sum.dropped.into());
        }
        if !s.owed.is_empty() && c.null_sender {
            // Perhaps it was one of ours: there may be room for others.
            s.tried = s.tried.saturating_add(1);
            s.notice_bell.ring();
        }
        let warn = self.0.options.delay_warning;
        let late = !warn.is_zero() && s.ages.lived(c.now, c.wall, item.id.message, item.arrival, warn);
        let Some(e) = s.index.get(key) else { return };
        if late && !sum.deferred.is_empty() && !e.switches.warned && !c.null_sender {
            let wants = wants_delay(item);
            let reports = delayed(&sum.deferred, states, &wants);
            self.warn_of(s, key, reports, Some(item.payload.clone()), wants);
        }
        if sum.again {
            s.enqueue(key, c.now);
        }
        if sum.written == 0 {
            return;
        }
        if s.index.get(key).is_some_and(Entry::is_done) {
            let took = s.ages.age(c.now, c.wall, item.id.message, item.arrival);
            self.0.metrics.delivery.record(took.as_secs_f64());
            self.0.metrics.families.provider_seconds[c.provider].record(took.as_secs_f64());
            return self.release(s, key, record::OUTCOME, states, None);
        }
        let mut indexes = sum.deferred;
        indexes.extend(sum.owed.iter().map(|r| r.index));
        let after = match indexes.is_empty() {
            true => After::Nothing,
            false => After::Said { key, indexes },
        };
        self.note(s, record::OUTCOME, item.id.message, states, None, after);
        self.tell(s, key, sum.owed, Some(item.payload.clone()));
        s.arm(key);
    }

    fn count(&self, s: &State, item: &Item<R>, provider: usize, results: &[RecipientResult<'_>]) {
        let of = |outcome| results.iter().filter(|r| r.outcome == outcome).count() as u64;
        let sums = [of(Outcome::Delivered), of(Outcome::Deferred), of(Outcome::Failed)];
        if sums == [0; 3] {
            return;
        }
        let m = &self.0.metrics;
        let of_all = [&m.delivered, &m.deferred, &m.bounced];
        let f = &m.families;
        let of_provider = [&f.provider_delivered, &f.provider_deferred, &f.provider_bounced];
        for ((all, one), sum) in of_all.into_iter().zip(of_provider).zip(sums).filter(|(_, sum)| *sum > 0) {
            all.increment(sum);
            one[provider].increment(sum);
        }
        self.0.destinations.borrow_mut().count(s.schedule.name(item.destination), sums);
        if let Some(brakes) = self.0.options.brakes.as_ref().filter(|_| sums[2] > 0) {
            // Refused by the next hop: what only took too long says nothing of the sender's addresses.
            let refused = |r: &&RecipientResult<'_>| r.outcome == Outcome::Failed && r.code >= 500;
            let refused = results.iter().filter(refused).count() as u32;
            brakes.answered(item.user(), 0, refused, self.0.rt.now());
        }
    }
}

/// The fate of a recipient with whom it is over, one way or another.
fn end_of<R: Runtime>(item: &Item<R>, result: &RecipientResult<'_>, outcome: Outcome, c: &Context) -> Fate {
    let notify = || {
        let r = item.envelope().recipients().nth(result.index as usize);
        r.map_or(Notify::DEFAULT, |r| r.notify)
    };
    match outcome {
        // RFC 3461 §5.2.2: we report what the next hop will not.
        Outcome::Delivered if !result.dsn_passed_on && !c.null_sender && notify().has(Notify::SUCCESS) => {
            Fate::Passed
        }
        Outcome::Delivered => Fate::Delivered,
        // Of a lost notification the postmaster is told, whatever its NOTIFY says.
        _ if c.null_sender && c.dropped || !c.null_sender && !notify().on_failure() => Fate::Failed,
        _ => Fate::Owed,
    }
}

/// The item is not out with a connection any more.
fn landed<R: Runtime>(s: &mut State, item: &Item<R>) {
    s.flights -= 1;
    s.schedule.flight(item.destination, false);
}

/// What the message `key` takes of the rates of its destination `d`; nothing if it is not in memory.
fn cost(index: &Index, d: DestId, key: Key, most: usize) -> Cost {
    let Some(e) = index.get(key).filter(|e| e.payload.is_some()) else { return Cost::default() };
    let ready = e.recipients.iter().filter(|r| r.destination == d && r.phase == Phase::Ready);
    match ready.count().min(most) as u64 {
        0 => Cost::default(),
        recipients => Cost { recipients, bytes: e.size },
    }
}

/// What these results say of the site; `None`: it has not answered.
fn verdict(results: &[RecipientResult<'_>]) -> Option<schedule::Answer> {
    let mut answered = results.iter().filter(|r| r.code != 0).peekable();
    answered.peek()?;
    // A mailbox that is full, or a grey list, says nothing of the site; 421, or a refusal of the sender
    // or of the message as a whole for now, does (RFC 5321 section 4.2.1: transient).
    let put_off =
        |r: &RecipientResult<'_>| r.code == 421 || (400..500).contains(&r.code) && r.phase != OutPhase::Rcpt;
    Some(if answered.all(put_off) { schedule::Answer::PutOff } else { schedule::Answer::Fine })
}

struct Context {
    wall: Wall,
    now: Mono,
    /// Whose servers were asked.
    provider: usize,
    expired: bool,
    null_sender: bool,
    /// A failed notification is told to nobody.
    dropped: bool,
}

#[derive(Default)]
struct Sum {
    written: u32,
    again: bool,
    deferred: Indexes,
    owed: Vec<Report>,
    /// Recipients of failed notifications of which nobody is told.
    dropped: u32,
}

/// Those of the deferred recipients whose sender wants to know of delays (RFC 3461 §4.1).
fn delayed(deferred: &[u32], states: &[u8], wants: impl Fn(u32) -> bool) -> Vec<Report> {
    let view = record::StatesView::parse(states).expect("just written");
    view.states()
        .filter(|s| deferred.contains(&s.index) && wants(s.index))
        .map(|s| Report { index: s.index, reply: OwnedReply::of(&s) })
        .collect()
}

/// Of whom the sender is to be told that it takes long (RFC 3461 §4.1).
fn wants_delay<R: Runtime>(item: &Item<R>) -> impl Fn(u32) -> bool {
    let notify: Vec<Notify> = item.envelope().recipients().map(|r| r.notify).collect();
    move |i| notify.get(i as usize).is_some_and(|n| *n == Notify::DEFAULT || n.has(Notify::DELAY))
}

fn own_result<'a>(index: u32, outcome: Outcome, reply: &Reply<'a>) -> RecipientResult<'a> {
    RecipientResult {
        index,
        outcome,
        code: reply.code,
        enhanced: Some(reply.enhanced),
        text: reply.text,
        phase: crate::delivery::relay::Phase::Local,
        conn_use: 0,
        dsn_passed_on: false,
    }
}

/// A connection without work, counted as such while this lives.
struct Idle<'a, R: Runtime> {
    desk: &'a Desk<R>,
    p: PoolId,
    number: u64,
    /// It has been told of the work there is.
    served: bool,
}

impl<'a, R: Runtime> Idle<'a, R> {
    fn new(desk: &'a Desk<R>, p: PoolId, number: u64) -> Self {
        desk.0.state.borrow_mut().schedule.idle(p, true);
        Idle { desk, p, number, served: false }
    }
}

impl<R: Runtime> Drop for Idle<'_, R> {
    fn drop(&mut self) {
        let mut s = self.desk.0.state.borrow_mut();
        s.schedule.idle(self.p, false);
        let porch = s.porch(self.p);
        porch.idle.retain(|w| w.0 != self.number);
        porch.woken.retain(|n| *n != self.number);
        let next = s.schedule.first_of(self.p).filter(|_| !self.served);
        if let Some(d) = next {
            // It may have been woken for work that it will not take.
            let now = self.desk.0.rt.now();
            s.call(d, now);
        }
    }
}

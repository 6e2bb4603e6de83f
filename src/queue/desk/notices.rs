//! L4: the desk's side of notifications: what is owed, who is told now, who must wait.
//!
//! That a sender is to be told something is part of the outcome: the recipient is owed (`Phase::Owed`,
//! `Phase::Passed`), in the journal as in memory, and its message stays until that is settled. The text is
//! made from the message only when it can be sent: there is room for few notifications that have not been
//! tried, however many are owed. A notification is staged together with the outcome that the sender has
//! been told, the first implying the second, so that a crash between them is no difference.
//!
//! A recipient that is owed is being told of (due 0; one task has it), has a time, or waits for room
//! (`SOME_DAY`); only [`Desk::tell`] takes it out of the latter two.

use crate::base::aligned::SharedBytes;
use crate::base::time::{Mono, Wall};
use crate::queue::desk::archiving::places;
use crate::queue::desk::reach;
use crate::queue::desk::recall::Source;
use crate::queue::desk::{Desk, DoubleBounce, NewMessage};
use crate::queue::index::{DestId, Entry, Key, Phase, Presence, Recipient, SOME_DAY};
use crate::queue::record::{self, Effect, Fate, Reply, State as Stored};
use crate::queue::state::{self, After, Indexes, Notice, OwnedReply, Report, State};
use crate::runtime::Runtime;
use crate::storage::journal::StageError;
use crate::storage::keeper::ReadError;
use crate::storage::options::Urgency;
use crate::storage::side::{SideFile, SideReader};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

/// Notifications made at a time.
const TELLING_MAX: usize = 16;
/// Notifications that are being made, or in the queue and not tried: with more, what is owed waits.
const UNTRIED_MAX: usize = 500;
/// Then they do not count any more: a slow destination must not keep others from being told for ever.
const UNTRIED_FOR: Duration = Duration::from_secs(60);
/// So many must have been settled before it is looked which have been tried.
const TRIED_STEP: usize = 32;
/// Parked messages that are read back at a time because something is owed.
const RECALLED_MAX: usize = 64;
/// How long one recipient's notification waits for others of its message.
const GATHER: Duration = Duration::from_secs(5);
/// How long, and how often, it is waited for records that are on their way to stable storage.
const UNSAID: Duration = Duration::from_millis(20);
const UNSAID_TRIES: usize = 100;

impl<R: Runtime> Desk<R> {
    /// The next notification to be made; `None`: closing. [`Self::told`] must follow.
    pub(crate) async fn next_notice(&self) -> Option<Notice> {
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            let s = &mut *s;
            loop {
                if s.closing || s.dead {
                    return Poll::Ready(None);
                }
                if s.telling < TELLING_MAX {
                    self.tell_more(s);
                    if let Some(n) = s.notices.pop_front() {
                        s.telling += 1;
                        return Poll::Ready(Some(n));
                    }
                }
                if s.notice_bell.poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// A notice from [`Self::next_notice`] has been dealt with.
    pub(crate) fn told(&self) {
        let mut s = self.0.state.borrow_mut();
        s.telling -= 1;
        s.notice_bell.ring();
        s.crowd.wake_all();
    }

    /// Takes of those that wait for room as many as there is room for.
    fn tell_more(&self, s: &mut State) {
        while s.notices.is_empty() && !s.owed.is_empty() && self.has_room(s) {
            let Some(key) = s.owed.pop_front() else { return };
            match s.index.presence(key) {
                Presence::Gone => {}
                Presence::Rich => {
                    s.index.change(key, |e| e.switches.lists.set_listed(false));
                    self.tell(s, key, Vec::new(), None);
                }
                // It is told when it has been read back.
                Presence::Parked if s.recalls.len() < RECALLED_MAX => {
                    s.recalls.push_back(key);
                    self.recall_due(s);
                }
                Presence::Parked => return s.owed.push_front(key),
            }
        }
    }

    /// True if another notification may be made.
    pub(crate) fn has_room(&self, s: &mut State) -> bool {
        let now = self.0.rt.now();
        let State { index, schedule, untried, notices, telling, tried, .. } = s;
        if untried.len() + notices.len() + *telling >= UNTRIED_MAX && *tried >= TRIED_STEP {
            *tried = 0;
            untried.retain(|(key, since)| {
                let young = now.since(*since) < UNTRIED_FOR;
                let entry = index.get(*key).filter(|_| young);
                entry.is_some_and(|e| {
                    e.recipients.iter().any(|r| match r.phase {
                        Phase::Flight => true,
                        Phase::Ready => r.attempts == 0 && !schedule.is_paused(r.destination, now),
                        _ => false,
                    })
                })
            });
        }
        untried.len() + notices.len() + *telling < UNTRIED_MAX
    }

    /// Sees to it that the sender of `key` is told of all recipients that are owed and that nobody is
    /// telling of: at once, or when others of the message are settled, or when there is room. `fresh`: what
    /// is to be said of some of them, and the message, if they are at hand.
    pub(crate) fn tell(&self, s: &mut State, key: Key, fresh: Vec<Report>, payload: Option<SharedBytes>) {
        let now = self.0.rt.now();
        let waits = |r: &Recipient| r.phase.is_owed() && r.due != Mono(0);
        let Some(e) = s.index.get(key) else { return };
        if e.switches.held || !e.recipients.iter().any(waits) {
            return;
        }
        let over = e.recipients.iter().any(|r| waits(r) && r.due <= now);
        let soon = |r: &Recipient| match r.phase {
            Phase::Flight => true,
            Phase::Ready => r.destination < state::LOCAL && !s.schedule.is_paused(r.destination, now),
            _ => false,
        };
        if !over && e.recipients.iter().any(soon) {
            self.set_due(s, key, now.after(GATHER), |r| waits(r) && r.due == SOME_DAY);
            return s.arm(key);
        }
        if !self.has_room(s) {
            self.set_due(s, key, SOME_DAY, waits);
            let listed = s.index.change(key, |e| e.switches.lists.set_listed(true));
            if listed == Some(false) {
                s.owed.push_back(key);
                s.look_at(now.after(Duration::from_secs(1)));
            }
            return;
        }
        self.claim(s, key, fresh, payload);
    }

    fn set_due(&self, s: &mut State, key: Key, due: Mono, which: impl Fn(&Recipient) -> bool) {
        s.index.change(key, |e| e.recipients.iter_mut().filter(|r| which(r)).for_each(|r| r.due = due));
    }

    fn claim(&self, s: &mut State, key: Key, mut fresh: Vec<Report>, payload: Option<SharedBytes>) {
        for (phase, effect) in [(Phase::Owed, Effect::Failed), (Phase::Passed, Effect::Delivered)] {
            let mut indexes = Indexes::new();
            let id = s.index.change(key, |e| {
                for (i, r) in e.recipients.iter_mut().enumerate() {
                    if r.phase == phase && r.due != Mono(0) {
                        r.due = Mono(0);
                        indexes.push(i as u32);
                    }
                }
                e.id
            });
            let Some(id) = id.filter(|_| !indexes.is_empty()) else { continue };
            let reports = fresh.extract_if(.., |f| indexes.binary_search(&f.index).is_ok()).collect();
            self.notify(s, Notice { key, id, effect, indexes, reports, payload: payload.clone() });
        }
        s.arm(key);
    }

    /// Recipients of `key` are given up: says so in the journal, and to the sender.
    pub(crate) fn fail_owed(&self, s: &mut State, key: Key, reports: Vec<Report>) {
        let wall = self.0.rt.wall();
        let room = self.0.payload_max / 2;
        let (mut out, mut indexes) = (Vec::new(), Indexes::new());
        let Some(id) = s.index.get(key).map(|e| e.id) else { return };
        for (n, report) in reports.iter().enumerate() {
            if out.is_empty() {
                record::put_states_head(&mut out, 0, 0);
            }
            let attempts = s.index.change(key, |e| {
                let r = &mut e.recipients[report.index as usize];
                (r.phase, r.due) = (Phase::Owed, SOME_DAY);
                let attempts = r.attempts;
                if let Some(archived) = &mut e.archived {
                    archived.reply(report.index, report.reply.clone().at(wall));
                }
                attempts
            });
            let (index, fate) = (report.index, Fate::Owed);
            let attempts = attempts.unwrap_or_default();
            record::put_state(
                &mut out,
                &Stored { index, fate, attempts, due: wall, reply: report.reply.view() },
            );
            indexes.push(index);
            if n + 1 == reports.len() || out.len() >= room {
                out[4..8].copy_from_slice(&(indexes.len() as u32).to_le_bytes());
                let after = After::Said { key, indexes: std::mem::take(&mut indexes) };
                self.note(s, record::OUTCOME, id, &out, None, after);
                out.clear();
            }
        }
        let at = |r: Report| Report { reply: r.reply.at(wall), ..r };
        self.tell(s, key, reports.into_iter().map(at).collect(), None);
    }

    /// Our name.
    #[must_use]
    pub fn hostname(&self) -> &str {
        &self.0.options.hostname
    }

    pub(crate) fn postmaster(&self) -> &str {
        &self.0.options.postmaster
    }

    /// Most bytes of a message that its bounce returns.
    pub(crate) fn bounce_size(&self) -> usize {
        self.0.options.bounce_size
    }

    pub(crate) fn double_bounce(&self) -> DoubleBounce {
        self.0.options.double_bounce
    }

    pub(crate) fn lifetime(&self, null_sender: bool) -> Duration {
        if null_sender { self.0.options.bounce_lifetime } else { self.0.options.lifetime }
    }

    /// Whom a sender stands for that was written in the place of another.
    pub(crate) fn returned(&self, sender: &[u8]) -> Option<Box<[u8]>> {
        self.0.routing.borrow().returned(sender)
    }

    /// True if what goes to `address` waits for a destination that cannot be reached: it is left alone, or
    /// has not been reached again and something waits for it already, with which that will be tried.
    pub(crate) fn is_away(&self, address: &[u8]) -> bool {
        let now = self.0.rt.now();
        let mut s = self.0.state.borrow_mut();
        let d: DestId = self.destination(&mut s, address);
        let tried = || s.schedule.backlog(d) > 0 && s.schedule.view(s.schedule.pool_of(d)).failures > 0;
        d < state::LOCAL && (s.schedule.is_paused(d, now) || tried())
    }

    /// Opens a side file of this queue.
    pub async fn open_side(&self, side: SideFile) -> Result<SideReader<R>, ReadError> {
        self.0.keeper.open_side(side).await
    }

    /// The record of a message, from memory or from the journal.
    pub(crate) async fn read_back(&self, key: Key) -> Option<SharedBytes> {
        // A message may be moved while it is read; then its new place is tried.
        for _ in 0..3 {
            let (at, id) = {
                let s = self.0.state.borrow();
                let e = s.index.get(key)?;
                if let Some(payload) = &e.payload {
                    return Some(payload.clone());
                }
                (Source::of(e), e.id)
            };
            if let Some(payload) = self.read_source(at, id).await {
                return Some(payload);
            }
        }
        None
    }

    /// What is to be said of the recipients of `notice`; `None`: it has gone, or that cannot be read yet.
    pub(crate) async fn reports(&self, notice: &Notice) -> Option<Vec<Report>> {
        if notice.reports.len() == notice.indexes.len() {
            return Some(notice.reports.clone());
        }
        let mut tries = 0;
        while !self.is_on_record(notice)? {
            tries += 1;
            if tries > UNSAID_TRIES {
                return None;
            }
            self.0.rt.sleep_until(self.0.rt.now().after(UNSAID)).await;
        }
        let mut replies = self.replies_to(notice.key).await;
        replies.extend(notice.reports.iter().map(|r| (r.index, r.reply.clone())));
        let unknown = || match notice.effect {
            Effect::Failed => OwnedReply::ours([5, 0, 0], b"delivery has failed"),
            _ => OwnedReply::default(),
        };
        let report = |index| Report { index, reply: replies.get(&index).cloned().unwrap_or_else(unknown) };
        Some(notice.indexes.iter().map(|i| report(*i)).collect())
    }

    /// True if it can be read back what there is to say of the recipients of `notice`; `None`: its message
    /// has gone.
    fn is_on_record(&self, notice: &Notice) -> Option<bool> {
        let s = self.0.state.borrow();
        let e = s.index.get(notice.key)?;
        let at_hand = |i: &u32| notice.reports.iter().any(|r| r.index == *i);
        let known = |i: &u32| at_hand(i) || e.recipients[*i as usize].is_on_record();
        Some(e.archived.is_some() || notice.indexes.iter().all(known))
    }

    /// What next hops last said of the recipients of a rich message that are not done with.
    pub(crate) async fn replies_to(&self, key: Key) -> BTreeMap<u32, OwnedReply> {
        let (id, said) = {
            let s = self.0.state.borrow();
            let Some(e) = s.index.get(key) else { return BTreeMap::new() };
            if let Some(archived) = &e.archived {
                return archived.replies.iter().cloned().collect();
            }
            (e.id, places(e))
        };
        self.replies(id, &said).await
    }

    /// True if the sender need not be told any more: so long the message and its notification might have
    /// been in the queue, one after the other.
    pub(crate) fn is_over(&self, notice: &Notice, arrival: Wall) -> bool {
        let life = self.0.options.lifetime.saturating_add(self.0.options.bounce_lifetime);
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        let mut s = self.0.state.borrow_mut();
        // The clock may have been set a moment ago: that makes no message older.
        s.look_at_clocks(now, wall);
        s.ages.lived(now, wall, notice.id, arrival, life)
    }

    /// True if nobody has taken the message of `notice` away or stopped it.
    pub(crate) fn is_wanted(&self, notice: &Notice) -> bool {
        let s = self.0.state.borrow();
        s.index.get(notice.key).is_some_and(|e| !e.switches.held)
    }

    /// Stages a notification.
    pub(crate) fn submit_notification(&self, m: &NewMessage<'_>) -> Result<(), StageError> {
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        if !s.unsettled.is_empty() {
            // That it is owed may not have been said yet: it would be said after it was told.
            return Err(StageError::Busy);
        }
        let key = self.stage_message(s, m, Urgency::Bounce, None)?;
        s.untried.push_back((key, self.0.rt.now()));
        self.0.metrics.dsn_sent.increment(1);
        Ok(())
    }

    /// The sender of the message has been told of these recipients, or nobody is to be told. Call it in the
    /// same step as [`Self::submit_notification`].
    pub(crate) fn notified(&self, notice: &Notice, indexes: impl ExactSizeIterator<Item = u32>) {
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        let mut out = Vec::new();
        let (fate, phase) = match notice.effect {
            Effect::Delivered => (Fate::Delivered, Phase::Delivered),
            Effect::Failed => (Fate::Failed, Phase::Failed),
            Effect::None | Effect::Warned => {
                record::put_states_head(&mut out, record::WARNED, 0);
                s.index.change(notice.key, |e| e.switches.telling = false);
                return self.note(s, record::OUTCOME, notice.id, &out, None, After::Nothing);
            }
        };
        record::put_states_head(&mut out, 0, indexes.len() as u32);
        let done = s.index.change(notice.key, |e| {
            for index in indexes {
                e.recipients[index as usize].phase = phase;
                let reply = Reply::default();
                record::put_state(&mut out, &Stored { index, fate, attempts: 0, due: Wall(0), reply });
            }
            e.is_done()
        });
        match done {
            None => {}
            Some(true) => self.release(s, notice.key, record::OUTCOME, &out, None),
            Some(false) => self.note(s, record::OUTCOME, notice.id, &out, None, After::Nothing),
        }
    }

    /// The notification cannot be made or queued now: what it was to report waits for `wait`, or until
    /// there is a reason to look at it.
    pub(crate) fn owe(&self, notice: &Notice, wait: Option<Duration>) {
        let now = self.0.rt.now();
        let due = wait.map_or(SOME_DAY, |wait| now.after(wait));
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        s.index.change(notice.key, |e: &mut Entry| {
            if notice.effect == Effect::Warned {
                // The next time that it is put off is another occasion.
                (e.switches.telling, e.switches.warned) = (false, false);
                return;
            }
            for i in &notice.indexes {
                let r = &mut e.recipients[*i as usize];
                if r.phase.is_owed() && r.due == Mono(0) {
                    r.due = due;
                }
            }
        });
        s.arm(notice.key);
        s.park(notice.key, now);
    }

    /// A warning of recipients that are late, if there is room for it. There is one for a message, so it
    /// names all that wait and for which `wants` holds, whatever brought it about.
    pub(crate) fn warn_of(
        &self,
        s: &mut State,
        key: Key,
        mut reports: Vec<Report>,
        payload: Option<SharedBytes>,
        wants: impl Fn(u32) -> bool,
    ) {
        if !self.has_room(s) {
            return;
        }
        let indexes = self.wait_too(s, key, &mut reports, wants);
        let id = s.index.change(key, |e| {
            (e.switches.warned, e.switches.telling) = (true, !indexes.is_empty());
            e.id
        });
        let Some(id) = id.filter(|_| !indexes.is_empty()) else { return };
        self.notify(s, Notice { key, id, effect: Effect::Warned, indexes, reports, payload });
    }

    /// The recipients of `key` that wait, in order: those of `reports`, and those of the others for which
    /// `wants` holds. Why those wait that no record speaks of is added to `reports`.
    fn wait_too(
        &self,
        s: &State,
        key: Key,
        reports: &mut Vec<Report>,
        wants: impl Fn(u32) -> bool,
    ) -> Indexes {
        let mut indexes: Indexes = reports.iter().map(|r| r.index).collect();
        indexes.sort_unstable();
        let Some(e) = s.index.get(key) else { return indexes };
        let known = indexes.clone();
        for (i, r) in e.recipients.iter().enumerate() {
            let index = i as u32;
            if known.binary_search(&index).is_ok() || !wants(index) {
                continue;
            }
            let on_record = e.archived.is_some() || r.is_on_record();
            match r.phase {
                Phase::Waiting => indexes.push(index),
                Phase::Ready | Phase::Flight if on_record && r.attempts > 0 => indexes.push(index),
                Phase::Ready if r.destination < state::LOCAL => {
                    indexes.push(index);
                    reports.push(Report { index, reply: reach::reason(s, r.destination) });
                }
                _ => {}
            }
        }
        indexes.sort_unstable();
        indexes
    }
}

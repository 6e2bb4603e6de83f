//! L4: what the desk is told of next hops: opened, reached, not reached, closed.
//!
//! A destination that cannot be reached is left alone as a whole; its messages keep their places
//! and no attempt is counted. Those whose time is over end here, with the destination's reason: after
//! each failure the desk goes once through the list, a bounded step at a time. The places of what has
//! ended are passed over when their turn comes, and dropped when they are the first.

use crate::base::time::{Mono, Wall};
use crate::metrics;
use crate::queue::desk::Desk;
use crate::queue::desk::settle::SPACE_LOOK;
use crate::queue::desk::touring::rule_reason;
use crate::queue::index::{DestId, Entry, Key, Phase};
use crate::queue::record::MessageView;
use crate::queue::routing::{Hop, Plan};
use crate::queue::schedule::{Limits, PoolId};
use crate::queue::state::{OwnedReply, Report, State, Sweep};
use crate::queue::stub::Marks;
use crate::runtime::Runtime;
use std::future::poll_fn;
use std::path::Path;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// What one step of a round does: a place looked at or dropped, a recipient reported.
const STEP: usize = 1000;
/// While the journal has yet to take so many records, no message is given up: what is to be said of it
/// would wait in memory.
const UNSETTLED_MAX: usize = 1000;

impl<R: Runtime> Desk<R> {
    /// The runtime it lives on.
    #[must_use]
    pub fn runtime(&self) -> &R {
        &self.0.rt
    }

    /// Its series.
    #[must_use]
    pub fn metrics(&self) -> &metrics::Core {
        &self.0.metrics
    }

    /// The directory of its journal.
    #[must_use]
    pub fn journal(&self) -> &Path {
        self.0.keeper.dir()
    }

    /// Waits until all that has been settled so far is on stable storage. `false`: it never will be.
    pub async fn outcomes_durable(&self) -> bool {
        loop {
            {
                let s = self.0.state.borrow();
                if s.dead || s.closing {
                    return false;
                }
                if s.unsettled.is_empty() {
                    break;
                }
            }
            self.0.rt.sleep_until(self.0.rt.now().after(SPACE_LOOK)).await;
        }
        self.0.keeper.fence().await.is_ok()
    }

    /// The next pool that is to get a connection, which counts as open from now on:
    /// [`Self::closed`] must follow. `None`: stopped.
    pub async fn opening(&self) -> Option<PoolId> {
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            loop {
                if s.schedule.is_stopped() {
                    return Poll::Ready(None);
                }
                // A connection without leave to send would only be a burden to the next hop.
                let leave = self.may_begin(&s);
                if let Some(p) = leave.then(|| s.schedule.open_next(self.0.rt.now())).flatten() {
                    return Poll::Ready(Some(p));
                }
                if !leave && s.schedule.backlog_all() > 0 {
                    s.look_at(self.0.rt.now().after(SPACE_LOOK));
                }
                if s.agent_bell.poll(cx).is_pending() {
                    if let Some(at) = s.schedule.next_look(self.0.rt.now()) {
                        s.look_at(at);
                    }
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// For whose mail `p` wants a connection first, and where that is; `None`: none is left.
    #[must_use]
    pub fn hop(&self, p: PoolId) -> Option<(DestId, Rc<Hop>)> {
        let s = self.0.state.borrow();
        let d = s.schedule.first_of(p)?;
        Some((d, s.doors[d as usize].hop.clone()))
    }

    /// Whether who takes mail for `address` puts it where it is read, as things stand now.
    #[must_use]
    pub fn is_last(&self, address: &[u8]) -> bool {
        match self.0.routing.borrow().plan(address) {
            Plan::Relay(hop) => hop.is_last(),
            Plan::Local => true,
            Plan::NoRoute => false,
        }
    }

    /// Limits of `p`.
    #[must_use]
    pub fn limits(&self, p: PoolId) -> Limits {
        self.0.state.borrow().schedule.limits(p)
    }

    /// Name servers say where `d` is: at the site `name`, whose mail exchangers are `hosts`, until then.
    /// `true`: its mail goes out over connections of `p`; `false`: of another pool, which is called.
    pub fn found(&self, (p, d): (PoolId, DestId), domain: &str, site: (&str, &[&str]), until: Mono) -> bool {
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        let hop = s.doors[d as usize].hop.clone();
        let (name, hosts) = site;
        match self.0.routing.borrow().site(&hop, domain, name, hosts) {
            Some(site) => drop(s.schedule.join_pool(d, (name, &site.shared), site.limits, until)),
            None => s.schedule.leave_pool(d),
        }
        self.suspend(s, d);
        self.is_at(s, p, d)
    }

    /// It cannot be found where `d` is. `true`: that is for `p` to deal with, which is its own pool.
    pub fn lost(&self, p: PoolId, d: DestId) -> bool {
        let mut s = self.0.state.borrow_mut();
        s.schedule.leave_pool(d);
        self.suspend(&mut s, d);
        self.is_at(&mut s, p, d)
    }

    fn is_at(&self, s: &mut State, p: PoolId, d: DestId) -> bool {
        let there = s.schedule.pool_of(d) == p && s.schedule.suspended(d).is_none();
        if !there {
            s.call(d, self.0.rt.now());
        }
        there
    }

    /// A connection of `p` has ended, or was not opened.
    pub fn closed(&self, p: PoolId) {
        let mut s = self.0.state.borrow_mut();
        s.schedule.closed(p);
        s.agent_bell.ring();
        s.crowd.wake_all();
    }

    /// A connection of `p` has worked.
    pub fn reachable(&self, p: PoolId) {
        let mut s = self.0.state.borrow_mut();
        s.schedule.worked(p);
        s.agent_bell.ring();
    }

    /// `p` could not be reached, or broke off.
    pub fn unreachable(&self, p: PoolId, reason: OwnedReply) {
        let random = self.0.rt.random();
        let now = self.0.rt.now();
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        let Some(until) = s.schedule.failed(p, now, random) else { return };
        self.left_alone(s, p, until, reason);
    }

    /// `p` is left alone until then: its mail whose time is over ends.
    pub(crate) fn left_alone(&self, s: &mut State, p: PoolId, until: Mono, reason: OwnedReply) {
        let now = self.0.rt.now();
        s.look_at(until);
        s.porch(p).reason = reason;
        let working: Vec<DestId> = s.schedule.working(p).collect();
        for d in working {
            if !std::mem::replace(&mut s.doors[d as usize].swept, true) {
                s.sweeps.push_back(Sweep { d, places: s.schedule.places(d) });
            }
        }
        if let Some(at) = self.next_sweep(s, now) {
            s.look_at(at);
        }
    }

    /// One step of the rounds that are under way: ends messages whose time is over, warns of those that
    /// are late, drops places at the front that have nothing to send.
    pub(crate) fn sweep(&self, s: &mut State) {
        let mut left = STEP;
        while left > 0 && s.unsettled.len() < UNSETTLED_MAX && !s.schedule.is_stopped() {
            let Some(mut sweep) = s.sweeps.pop_front() else { return };
            if self.sweep_some(s, &mut sweep, &mut left) {
                s.doors[sweep.d as usize].swept = false;
            } else {
                // Others have their turn: a long list is a matter of many steps.
                s.sweeps.push_back(sweep);
            }
        }
    }

    /// When the next step is to come.
    pub(crate) fn next_sweep(&self, s: &State, now: Mono) -> Option<Mono> {
        s.sweeps.front().filter(|_| !s.schedule.is_stopped())?;
        let wait = if s.unsettled.len() < UNSETTLED_MAX { 1 } else { 50 };
        Some(now.after(Duration::from_millis(wait)))
    }

    /// Goes on with one round; `true` at its end.
    fn sweep_some(&self, s: &mut State, sweep: &mut Sweep, left: &mut usize) -> bool {
        let d = sweep.d;
        let mut looked = 0;
        while *left > 0 && s.unsettled.len() < UNSETTLED_MAX {
            sweep.places.start = sweep.places.start.max(s.schedule.places(d).start);
            let Some(number) = sweep.places.next() else { break };
            let Some(key) = s.schedule.place(d, number) else { break };
            let cost = 1 + self.judge(s, key, d);
            *left = left.saturating_sub(cost);
            looked += 1;
        }
        // As many as were looked at, and one more, so that the places of a whole list that has ended
        // are dropped in the same round.
        for _ in 0..=looked {
            let first = s.schedule.places(d).start;
            match s.schedule.place(d, first) {
                Some(key) if !s.has_work(key, d) => s.schedule.drop_first(d),
                _ => break,
            }
        }
        let there = s.schedule.places(d);
        sweep.places.start.max(there.start) >= sweep.places.end.min(there.end)
    }

    /// Gives up what `key` has for `d` if its time is over, or warns of it if it is late. Gives the
    /// number of recipients that are reported.
    pub(crate) fn judge(&self, s: &mut State, key: Key, d: DestId) -> usize {
        let (now, wall, warn) = (self.0.rt.now(), self.0.rt.wall(), self.0.options.delay_warning);
        // The clock may have been set a moment ago: that makes no message older.
        s.look_at_clocks(now, wall);
        if let Some(stub) = s.index.stub(key).filter(|stub| !stub.held) {
            let (id, null_sender) = (stub.id, stub.marks.has(Marks::NULL_SENDER));
            let unwarned = !warn.is_zero() && !stub.marks.has(Marks::WARNED) && !null_sender;
            let lived = |life| s.ages.lived(now, wall, id, id.arrival(), life);
            if lived(self.lifetime(null_sender)) || unwarned && lived(warn) {
                // It is read back first; the next round finds it.
                s.recalls.push_back(key);
                self.recall_due(s);
            }
            return 1;
        }
        let Some(e) = s.index.get(key).filter(|e| !e.switches.held) else { return 0 };
        let arrival = arrival(e);
        let (warned, null_sender) = (e.switches.warned, e.switches.null_sender);
        if s.ages.lived(now, wall, e.id, arrival, self.lifetime(null_sender)) {
            return self.give_up(s, key, d);
        }
        let unwarned = !warn.is_zero() && !warned && !null_sender;
        if unwarned && s.ages.lived(now, wall, e.id, arrival, warn) { self.warn(s, key, d) } else { 0 }
    }

    /// The sender of `key` is told that it is late.
    fn warn(&self, s: &mut State, key: Key, d: DestId) -> usize {
        let reports = self.waiting_at(s, key, d, &reason(s, d));
        let count = reports.len();
        if count > 0 {
            // Who wants to know it is not at hand; that is looked at when the text is made.
            self.warn_of(s, key, reports, None, |_| true);
        }
        count
    }

    /// The ready recipients of `key` at `d` are given up: their time is over.
    fn give_up(&self, s: &mut State, key: Key, d: DestId) -> usize {
        let mut reply = reason(s, d);
        if reply.code == 0 {
            // RFC 3463 §3.5: delivery time expired.
            reply.enhanced = [5, 4, 7];
        }
        let reports = self.waiting_at(s, key, d, &reply);
        let count = reports.len();
        self.metrics().bounced.increment(count as u64);
        if count > 0 {
            self.record_given_up(key, d, &reports);
            self.fail_owed(s, key, reports);
        }
        count
    }

    /// The ready recipients of `key` at `d`, each with `reply`.
    fn waiting_at(&self, s: &State, key: Key, d: DestId, reply: &OwnedReply) -> Vec<Report> {
        let recipients = s.index.get(key).into_iter().flat_map(|e| e.recipients.iter());
        let ready = recipients.enumerate().filter(|(_, r)| r.phase == Phase::Ready && r.destination == d);
        ready.map(|(i, _)| Report { index: i as u32, reply: reply.clone() }).collect()
    }
}

/// Why `d` is not sent to.
pub(crate) fn reason(s: &State, d: DestId) -> OwnedReply {
    let reason = rule_reason(s, d).unwrap_or_else(|| s.reason_of(s.schedule.pool_of(d)));
    if !reason.text.is_empty() {
        return reason;
    }
    // RFC 3463 §3.5: delivery time expired, though nothing is wrong with the next hop.
    OwnedReply::ours([4, 4, 7], b"its turn has not come: the limits of the destination")
}

/// When the message came: as its head says if that is in memory, else as its id says, which is later
/// if the clock had been set back.
fn arrival(e: &Entry) -> Wall {
    let head = e.payload.as_deref().and_then(|p| MessageView::parse(p).ok());
    head.map_or(e.id.arrival(), |v| v.head.arrival)
}

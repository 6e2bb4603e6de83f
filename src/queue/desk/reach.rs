//! L4: what the desk is told of next hops: opened, reached, not reached, closed.
//!
//! A destination that cannot be reached is left alone as a whole; its messages keep their places
//! and no attempt is counted. Those whose time is over end here, with the destination's reason.

use crate::base::time::{Mono, Wall};
use crate::metrics;
use crate::queue::desk::Desk;
use crate::queue::index::{DestId, Entry, Key, Phase};
use crate::queue::record::{Effect, MessageView};
use crate::queue::routing::Hop;
use crate::queue::state::{Notice, OwnedReply, Report, State};
use crate::runtime::Runtime;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

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

    /// The next destination that is to get a connection, which counts as open from now on:
    /// [`Self::closed`] must follow. `None`: stopped.
    pub async fn opening(&self) -> Option<DestId> {
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            loop {
                if s.schedule.is_stopped() {
                    return Poll::Ready(None);
                }
                if let Some(d) = s.schedule.open_next(self.0.rt.now()) {
                    return Poll::Ready(Some(d));
                }
                if s.agent_bell.poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Where `d` is.
    #[must_use]
    pub fn hop(&self, d: DestId) -> Rc<Hop> {
        self.0.state.borrow().doors[d as usize].hop.clone()
    }

    /// A connection to `d` has ended, or was not opened.
    pub fn closed(&self, d: DestId) {
        let mut s = self.0.state.borrow_mut();
        s.schedule.closed(d);
        s.agent_bell.ring();
        s.crowd.wake_all();
    }

    /// A connection to `d` has worked.
    pub fn reachable(&self, d: DestId) {
        let mut s = self.0.state.borrow_mut();
        s.schedule.worked(d);
        s.agent_bell.ring();
    }

    /// `d` could not be reached, or broke off.
    pub fn unreachable(&self, d: DestId, reason: OwnedReply) {
        let random = self.0.rt.random();
        let now = self.0.rt.now();
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        let Some(until) = s.schedule.failed(d, now, random) else { return };
        s.look_at(until);
        s.doors[d as usize].reason = reason;
        self.expire_ready(s, d);
    }

    /// Ends messages in the list of `d` whose time is over, and warns of those that are late.
    fn expire_ready(&self, s: &mut State, d: DestId) {
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        s.look_at_clocks(now, wall);
        let warn = self.0.options.delay_warning;
        let State { schedule, index, ages, .. } = s;
        let mut over: Vec<Key> = Vec::new();
        let mut late: Vec<Key> = Vec::new();
        schedule.retain(d, |key| {
            let Some(e) = index.get(key).filter(|e| !e.switches.held) else { return false };
            let arrival = arrival(e);
            let life = self.lifetime(e.switches.null_sender);
            if ages.lived(now, wall, e.id, arrival, life) {
                over.push(key);
                return false;
            }
            let warned = warn.is_zero() || e.switches.warned || e.switches.null_sender;
            if !warned && ages.lived(now, wall, e.id, arrival, warn) {
                late.push(key);
            }
            true
        });
        over.into_iter().for_each(|key| self.give_up(s, key, d));
        late.into_iter().for_each(|key| self.warn(s, key, d));
    }

    /// The sender of `key` is told that it is late.
    fn warn(&self, s: &mut State, key: Key, d: DestId) {
        let (hop, reply) = {
            let door = &s.doors[d as usize];
            (Some(door.hop.clone()), door.reason.clone())
        };
        let late = s.index.change(key, |e| {
            e.switches.warned = true;
            let at = e.recipients.iter().enumerate();
            let at = at.filter(|(_, r)| r.phase == Phase::Ready && r.destination == d);
            let reports: Vec<_> = at.map(|(i, _)| Report { index: i as u32, reply: reply.clone() }).collect();
            (e.id, reports)
        });
        if let Some((id, reports)) = late.filter(|l| !l.1.is_empty()) {
            self.notify(s, Notice { key, id, effect: Effect::Warned, reports, payload: None, hop });
        }
    }

    /// The ready recipients of `key` at `d` are given up: their time is over.
    fn give_up(&self, s: &mut State, key: Key, d: DestId) {
        let (hop, mut reply) = {
            let door = &s.doors[d as usize];
            (Some(door.hop.clone()), door.reason.clone())
        };
        if reply.code == 0 {
            // RFC 3463 §3.5: delivery time expired.
            reply.enhanced = [5, 4, 7];
        }
        let given_up = s.index.change(key, |e| {
            let mut reports = Vec::new();
            for (i, r) in e.recipients.iter_mut().enumerate() {
                if r.phase == Phase::Ready && r.destination == d {
                    (r.phase, r.due) = (Phase::Owed, Mono(0));
                    reports.push(Report { index: i as u32, reply: reply.clone() });
                }
            }
            (e.id, reports)
        });
        let Some((id, reports)) = given_up.filter(|g| !g.1.is_empty()) else { return };
        self.metrics().bounced.increment(reports.len() as u64);
        self.notify(s, Notice { key, id, effect: Effect::Failed, reports, payload: None, hop });
    }
}

/// When the message came: as its head says if that is in memory, else as its id says, which is later
/// if the clock had been set back.
fn arrival(e: &Entry) -> Wall {
    let head = e.payload.as_deref().and_then(|p| MessageView::parse(p).ok());
    head.map_or(e.id.arrival(), |v| v.head.arrival)
}

//! L4: the clockwork of a desk: retries that are due, waits that were too long, gauges.
//!
//! One task, one sleep; whoever needs an earlier beat rings its bell. Never polls faster than what
//! is due. Much may be due at once: a beat does a bounded part of it, and the next one, a moment later,
//! goes on.

use crate::base::time::Mono;
use crate::queue::desk::Desk;
use crate::queue::index::{Key, Phase, Presence};
use crate::queue::state::{After, Answer, State, start_of, tick_at};
use crate::queue::stub::SEVERAL;
use crate::runtime::Runtime;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// Timers that fire, or are moved, in one beat.
const DUE_MAX: usize = 1000;

impl<R: Runtime> Desk<R> {
    pub(crate) async fn pulse(self) {
        let mut measured = self.0.rt.now();
        loop {
            let now = self.0.rt.now();
            {
                let mut s = self.0.state.borrow_mut();
                if s.closing {
                    return;
                }
                if now.since(measured) >= SECOND {
                    measured = now;
                    s.schedule.measure(self.0.options.limits.fast);
                    self.tour(&mut s, now);
                    self.gauge(&s);
                    if self.0.keeper.stats().poisoned {
                        // Perhaps by another core: the file system is the same.
                        self.die(&mut s, After::Nothing);
                    }
                }
                self.beat(&mut s, now);
                s.pulse_at = self.next_beat(&mut s, now);
            }
            self.rest_until_beat().await;
        }
    }

    /// Waits until the next beat is due, or the end. A ring of the bell only says that it is due earlier
    /// than it was: a beat at every ring would let two that wait for the same thing wake each other for ever.
    async fn rest_until_beat(&self) {
        loop {
            let until = {
                let s = self.0.state.borrow();
                if s.closing || s.pulse_at <= self.0.rt.now() {
                    return;
                }
                s.pulse_at
            };
            let mut sleep = pin!(self.0.rt.sleep_until(until));
            poll_fn(|cx| {
                if self.0.state.borrow_mut().pulse_bell.poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                sleep.as_mut().poll(cx)
            })
            .await;
        }
    }

    fn beat(&self, s: &mut State, now: Mono) {
        s.look_at_clocks(now, self.0.rt.wall());
        let mut due = Vec::new();
        s.timers.advance_some(tick_at(now), DUE_MAX, |key| due.push(key));
        for key in due {
            self.due(s, key, now);
        }
        self.catch_up(s);
        self.expire_waits(s, now);
        self.sweep(s);
        if s.schedule.backlog_all() > 0 || s.schedule.anybody_rests() {
            for p in s.schedule.could_work(now) {
                if let Some((_, waker)) = s.porch(p).idle.pop() {
                    waker.wake();
                }
            }
            s.agent_bell.ring();
        }
        self.recall_due(s);
        if !s.owed.is_empty() {
            s.tried = usize::MAX;
            s.notice_bell.ring();
        }
        self.look_for_absent(s, now);
        if !s.moving && (self.crowded().is_some() || self.0.vault.victim(self.0.rt.wall()).is_some()) {
            s.mover_bell.ring();
        }
        s.crowd.wake_all();
    }

    fn next_beat(&self, s: &mut State, now: Mono) -> Mono {
        // While messages come, once a second is enough: nobody need ring for each.
        let stirred = std::mem::take(&mut s.stirred);
        let busy = stirred
            || s.schedule.backlog_all() > 0
            || s.schedule.anybody_rests()
            || !s.commits.is_empty()
            || !s.unsettled.is_empty()
            || !s.owed.is_empty();
        let idle = if busy { now.after(SECOND) } else { now.after(30 * SECOND) };
        let timer = s.timers.next().map(start_of);
        let look = s.schedule.next_look(now);
        let sweep = self.next_sweep(s, now);
        let first = [timer, look, sweep].into_iter().flatten().fold(idle, Mono::min);
        first.max(now.after(Duration::from_millis(1)))
    }

    /// The timer of a message has fired.
    fn due(&self, s: &mut State, key: Key, now: Mono) {
        if s.index.presence(key) == Presence::Parked {
            return self.parked_due(s, key, now);
        }
        let mut owed = false;
        let ready = s.index.change(key, |e| {
            e.timer = None;
            if e.switches.held {
                return false;
            }
            let mut ready = false;
            for r in &mut e.recipients {
                if r.due > now {
                    continue;
                }
                match r.phase {
                    Phase::Waiting => {
                        r.phase = Phase::Ready;
                        ready = true;
                    }
                    phase => owed |= phase.is_owed() && r.due > Mono(0),
                }
            }
            ready
        });
        if owed {
            self.tell(s, key, Vec::new(), None);
        }
        if ready == Some(true) {
            self.line_up(s, key, now);
        }
        s.arm(key);
    }

    /// The timer of a parked message has fired: it stands in its destination's list from now on, or is
    /// read back if it has several.
    fn parked_due(&self, s: &mut State, key: Key, now: Mono) {
        let due = s.index.change_stub(key, |stub| {
            stub.timer = None;
            let single = stub.destination != SEVERAL && !stub.held;
            let listed = stub.ready;
            stub.ready |= single;
            (stub.destination, stub.held, listed)
        });
        match due {
            None | Some((_, true, _)) => {}
            Some((SEVERAL, ..)) => {
                s.recalls.push_back(key);
                self.recall_due(s);
            }
            Some((d, _, listed)) => {
                if !listed {
                    s.schedule.push(d, key, now);
                }
                s.call(d, now);
            }
        }
    }

    /// Submitters that have waited too long for their commit are told so.
    fn expire_waits(&self, s: &mut State, now: Mono) {
        let wait = self.0.options.commit_wait;
        let State { commits, index, slips, .. } = s;
        for pending in commits.iter_mut() {
            if wait.is_zero() || now.since(pending.since) < wait {
                return;
            }
            let After::Message { key, slip: taken @ Some(_) } = &mut pending.after else { continue };
            let key = *key;
            let slip = taken.take().expect("just seen");
            let gone = index.change(key, |e| std::mem::replace(&mut e.switches.withdrawn, true));
            if gone == Some(false) {
                slips.answer(slip, Answer::Late);
            }
        }
    }

    fn gauge(&self, s: &State) {
        let m = &self.0.metrics;
        let c = s.index.counters();
        let paused = s.schedule.backlog_paused().min(c.active);
        m.queue_messages.set(c.messages as f64);
        m.queue_active.set((c.active - paused) as f64);
        m.queue_deferred.set((c.deferred + paused) as f64);
        m.queue_held.set(c.held as f64);
        m.queue_paused_messages.set(s.schedule.backlog_paused() as f64);
        m.queue_paused_sites.set(s.schedule.pools_paused() as f64);
        m.queue_bytes.set(c.bytes as f64);
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        let age = s.index.oldest().map_or(Duration::ZERO, |id| s.ages.age(now, wall, id, id.arrival()));
        m.queue_oldest.set(age.as_secs_f64());
        let j = self.0.keeper.stats();
        m.journal_segments.set(j.segments as f64);
        let a = self.0.vault.stats();
        m.archive_bytes.set(a.bytes as f64);
        m.archive_live_bytes.set(a.live_bytes as f64);
        m.index_bytes.set(self.0.index_bytes() as f64);
        m.index_lag.set(s.ledger.len() as f64);
        m.queue_destinations.set(s.schedule.len() as f64);
        m.queue_parked.set(s.index.parked() as f64);
        m.queue_loading.set(if s.loaded { 0.0 } else { 1.0 });
        m.journal_live_ratio.set(j.live_bytes as f64 / j.total_bytes.max(1) as f64);
    }
}

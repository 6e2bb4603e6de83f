//! What is known of a pool: its connections, how they fared, how fast it is; and how it is left alone.

use super::{Answer, Limits, Pool, PoolId, Schedule};
use crate::base::time::Mono;
use crate::queue::common::Counted;
use crate::queue::index::DestId;
use std::collections::VecDeque;

/// A pool as operators see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// Its name.
    pub key: String,
    /// The name under which its limits are shared.
    pub shared: String,
    /// Messages in the lists of its destinations, but for those that are suspended.
    pub ready: usize,
    /// Destinations that go there.
    pub lanes: u32,
    /// Connections open or being opened.
    pub connections: u32,
    /// The same of all queues of all cores, to whatever shares its limits.
    pub connections_everywhere: u32,
    /// Connections it may have now, by what is known of it.
    pub window: u32,
    /// Failures in a row.
    pub failures: u32,
    /// Left alone until then.
    pub paused: Option<Mono>,
}

/// What keeps a message that is ready to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// No attempts are started any more.
    Stopped,
    /// An operator's rule, by its number.
    Suspended(u32),
    /// The site is left alone until then.
    Paused(Mono),
    /// A rate of the site; its next slot is then.
    Rate(Counted, Mono),
    /// There are as many connections to the site as there may be.
    Connections,
    /// There are as many connections to all sites as there may be.
    All,
    /// A connection is being opened, or will be at once.
    Opening,
    /// Others before it on the connections there are.
    Turn,
}

impl Schedule {
    /// What keeps a message of `d` that is ready to go. Takes no slot of a rate.
    #[must_use]
    pub fn obstacle(&self, d: DestId, now: Mono) -> Obstacle {
        let lane = &self.lanes[d as usize];
        let pool = self.pool(lane.pool);
        if self.stopped {
            return Obstacle::Stopped;
        }
        if let Some(rule) = lane.suspended {
            return Obstacle::Suspended(rule);
        }
        if let Some(until) = pool.paused.filter(|until| *until > now) {
            return Obstacle::Paused(until);
        }
        if let Some((what, at)) = pool.share.next_slot(now) {
            return Obstacle::Rate(what, at);
        }
        if pool.connections > 0 {
            return Obstacle::Turn;
        }
        if pool.share.open_everywhere() >= pool.limits.most() {
            return Obstacle::Connections;
        }
        if self.shares.open() >= self.rules.connections { Obstacle::All } else { Obstacle::Opening }
    }

    /// The pool `name`, made if there is none, with these limits, which are shared under `shared`.
    pub(super) fn furnish(&mut self, name: &str, shared: &str, limits: Limits) -> PoolId {
        if let Some(&p) = self.pool_names.get(name) {
            if self.pool(p).limits != limits {
                self.set_limits(p, limits);
            }
            return p;
        }
        let pool = Pool {
            name: name.into(),
            limits,
            shared: shared.into(),
            share: self.shares.share(shared, &limits),
            starving: false,
            refused: false,
            lanes: 0,
            turns: VecDeque::new(),
            served: 0,
            ready: 0,
            connections: 0,
            idle: 0,
            window: limits.first(),
            failures: 0,
            put_off: 0,
            paused: None,
            look: None,
            answered: Mono(0),
            opened: Mono(0),
            listed: false,
            rests: false,
            measured: false,
            taken: 0,
            vacant: false,
        };
        let p = match self.free_pools.pop() {
            Some(p) => {
                self.pools[p.0 as usize] = pool;
                p
            }
            None => {
                self.pools.push(pool);
                PoolId(u32::try_from(self.pools.len() - 1).expect("below 2^32 pools"))
            }
        };
        self.pool_names.insert(name.into(), p);
        p
    }

    /// Gives the place of `p` to another one if nothing needs it. What is known of a site that fails is
    /// kept until a good while after its pause.
    pub(super) fn vacate(&mut self, p: PoolId, now: Mono) -> bool {
        let pool = self.pool(p);
        let busy = pool.lanes > 0 || pool.connections > 0 || pool.listed || pool.rests || pool.measured;
        let fails =
            pool.failures > 0 && now.since(pool.answered.max(pool.opened)) < pool.limits.pause.longest();
        if pool.vacant || busy || fails || pool.paused.is_some_and(|until| until > now) {
            return false;
        }
        self.look_at(p, None);
        let member = self.member;
        let shares = self.shares.clone();
        let pool = self.pool_mut(p);
        pool.starve(false, &shares, member);
        if std::mem::take(&mut pool.refused) {
            pool.share.forget_pool(member, p);
        }
        pool.vacant = true;
        let was_paused = pool.paused.take().is_some();
        let (name, shared) = (std::mem::take(&mut pool.name), std::mem::take(&mut pool.shared));
        self.pools_paused -= usize::from(was_paused);
        let nobody = self.nobody.clone();
        let share = std::mem::replace(&mut self.pool_mut(p).share, nobody);
        self.pool_names.remove(&name);
        self.fast.retain(|f| *f != p);
        self.free_pools.push(p);
        shares.forget_share(&shared, share, now);
        true
    }

    /// A connection of `p` has no work now (`true`), or has again.
    pub fn idle(&mut self, p: PoolId, idle: bool) {
        let pool = self.pool_mut(p);
        if !idle {
            pool.idle -= 1;
            return self.list(p);
        }
        pool.idle += 1;
        if !std::mem::replace(&mut pool.rests, true) {
            self.resting.push(p);
        }
    }

    /// A connection that was opening or open has ended.
    pub fn closed(&mut self, p: PoolId) {
        let pool = &mut self.pools[p.0 as usize];
        pool.connections -= 1;
        self.connections -= 1;
        self.shares.leave(&pool.share);
        self.list(p);
    }

    /// The next hop has answered to a message. `true`: it had been failing.
    pub fn answered(&mut self, p: PoolId, now: Mono, answer: Answer, random: u64) -> bool {
        let pool = self.pool_mut(p);
        pool.answered = now;
        if answer == Answer::PutOff {
            self.put_off(p, now, random);
            return false;
        }
        pool.put_off = 0;
        if pool.failures == 0 {
            return false;
        }
        pool.failures = 0;
        pool.window = pool.limits.first();
        self.unpause_pool(p);
        true
    }

    /// The site has put a message off: fewer connections; after many in a row, or the first after a
    /// pause, it is left alone.
    fn put_off(&mut self, p: PoolId, now: Mono, random: u64) {
        let pool = self.pool_mut(p);
        let most = pool.limits.put_off;
        if most == 0 || pool.paused.is_some_and(|until| until > now) {
            return;
        }
        pool.put_off += 1;
        if pool.put_off.is_multiple_of(most.div_ceil(4)) {
            pool.window = (pool.window / 2).max(1);
        }
        if pool.put_off >= most || pool.failures > 0 {
            self.pause_pool(p, now, random);
        }
    }

    /// A connection has worked to its end.
    pub fn worked(&mut self, p: PoolId) {
        let pool = self.pool_mut(p);
        if pool.put_off > 0 {
            // It is there, but does not want what we have.
            return;
        }
        pool.failures = 0;
        pool.window = (pool.window + 1).min(pool.limits.most());
        self.unpause_pool(p);
    }

    /// A connection of `p` could not be opened, or broke. While others work, fewer are opened;
    /// else `p` is left alone for a while, longer each time: gives the end of that.
    pub fn failed(&mut self, p: PoolId, now: Mono, random: u64) -> Option<Mono> {
        let pool = self.pool_mut(p);
        // Several connections that fail within one pause are one failure.
        if let Some(until) = pool.paused.filter(|until| *until > now) {
            return Some(until);
        }
        pool.window = (pool.window / 2).max(1);
        let lately = pool.answered > Mono(0) && now.since(pool.answered) < pool.limits.pause.first;
        if pool.connections > 1 && lately {
            return None;
        }
        Some(self.pause_pool(p, now, random))
    }

    fn pause_pool(&mut self, p: PoolId, now: Mono, random: u64) -> Mono {
        self.unpause_pool(p);
        let pool = &mut self.pools[p.0 as usize];
        // Others need not wait for one that wants nothing.
        pool.starve(false, &self.shares, self.member);
        pool.failures += 1;
        pool.put_off = 0;
        let until = now.after(pool.limits.pause.wait(pool.failures, random));
        pool.paused = Some(until);
        self.ready_paused += pool.ready;
        self.pools_paused += 1;
        self.look_at(p, Some(until));
        until
    }

    /// True if the site of `d` has answered at last, and not failed since.
    #[must_use]
    pub fn is_open(&self, d: DestId) -> bool {
        let pool = self.pool(self.pool_of(d));
        pool.failures == 0 && pool.answered > Mono(0)
    }

    /// Until when `p` is left alone, by what is known.
    #[must_use]
    pub fn view_paused(&self, p: PoolId) -> Option<Mono> {
        self.pool(p).paused
    }

    /// Ends the pause of `p`; other limits stay.
    pub fn unpause_pool(&mut self, p: PoolId) {
        let pool = self.pool_mut(p);
        let ready = pool.ready;
        if pool.paused.take().is_some() {
            self.ready_paused -= ready;
            self.pools_paused -= 1;
            self.look_at(p, None);
        }
        self.list(p);
    }

    /// Ends the pause of the pool of `d` (an operator asked for a flush); other limits stay.
    pub fn unpause(&mut self, d: DestId) {
        self.unpause_pool(self.pool_of(d));
    }

    /// Ends all pauses.
    pub fn unpause_all(&mut self) {
        self.wake(Mono(u64::MAX));
    }

    /// Pools that are left alone.
    #[must_use]
    pub fn pools_paused(&self) -> usize {
        self.pools_paused
    }

    /// True if the pool of `d` is left alone at `now`, or `d` is suspended.
    #[must_use]
    pub fn is_paused(&self, d: DestId, now: Mono) -> bool {
        self.lanes.get(d as usize).is_some_and(|lane| {
            lane.suspended.is_some() || self.pool(lane.pool).paused.is_some_and(|until| until > now)
        })
    }

    /// Once a second: which pools take work as fast as the machine gives it. Holding senders back
    /// helps only against the backlog of those.
    pub fn measure(&mut self, fast_per_second: u32) {
        self.fast.clear();
        self.all_fast = fast_per_second == 0;
        let mut taking = std::mem::take(&mut self.taking);
        for p in taking.drain(..) {
            let pool = self.pool_mut(p);
            pool.measured = false;
            if std::mem::take(&mut pool.taken) >= fast_per_second && fast_per_second > 0 {
                self.fast.push(p);
            }
        }
        self.taking = taking;
    }

    /// The longest list of a pool that was fast at the last [`Self::measure`].
    #[must_use]
    pub fn backlog_fast(&self) -> usize {
        if self.all_fast {
            return self.pools.iter().map(|p| p.ready).max().unwrap_or(0);
        }
        self.fast.iter().map(|p| self.pool(*p).ready).max().unwrap_or(0)
    }

    /// Recipients of a message in one transaction over `p`, of `most`.
    #[must_use]
    pub fn recipients_most(&self, p: PoolId, most: usize) -> usize {
        let limits = &self.pool(p).limits;
        let own = u64::from(limits.recipients_per_message);
        // More than the rate lets pass in its span would never go.
        let set = [own, limits.recipients.count].into_iter().filter(|n| *n > 0);
        set.fold(most, |most, n| most.min(usize::try_from(n).unwrap_or(usize::MAX)))
    }

    /// True if `p` has failed and not worked since.
    #[must_use]
    pub fn fails(&self, p: PoolId) -> bool {
        self.pool(p).failures > 0
    }

    /// Limits of `p`.
    #[must_use]
    pub fn limits(&self, p: PoolId) -> Limits {
        self.pool(p).limits
    }

    /// New limits for `p`.
    pub fn set_limits(&mut self, p: PoolId, limits: Limits) {
        let pool = self.pool_mut(p);
        pool.window = pool.window.clamp(1, limits.most());
        pool.share.set_rates(&limits);
        pool.limits = limits;
        self.list(p);
    }

    /// Numbers of all pools.
    pub fn pools(&self) -> impl Iterator<Item = PoolId> + use<'_> {
        (0..).map(PoolId).zip(&self.pools).filter(|(_, pool)| !pool.vacant).map(|(p, _)| p)
    }

    /// The name of `p`.
    #[must_use]
    pub fn pool_name(&self, p: PoolId) -> &str {
        &self.pool(p).name
    }

    /// Messages in the lists of `p` that could be taken.
    #[must_use]
    pub fn backlog_of(&self, p: PoolId) -> usize {
        self.pool(p).ready
    }

    /// Destinations of `p` with work.
    pub fn working(&self, p: PoolId) -> impl Iterator<Item = DestId> + use<'_> {
        self.pool(p).turns.iter().copied()
    }

    /// A pool as operators see it.
    #[must_use]
    pub fn view(&self, p: PoolId) -> View {
        let pool = self.pool(p);
        View {
            key: pool.name.to_string(),
            shared: pool.shared.to_string(),
            ready: pool.ready,
            lanes: pool.lanes,
            connections: pool.connections,
            connections_everywhere: pool.share.open_everywhere(),
            window: if pool.failures > 0 { 1 } else { pool.window.min(pool.limits.most()) },
            failures: pool.failures,
            paused: pool.paused,
        }
    }
}

//! L2: who goes next: lists of messages, and the sites they go to with limits, pauses and connections.
//!
//! Owns the order of work, not the messages: a place in a list is a [`Key`], and what the key still
//! has to send is the index's knowledge, so that a message that was held or removed simply has
//! nothing to send when its turn comes. Pure: time and chance come as arguments. Nothing fails.
//!
//! A destination ([`DestId`]) is a list: mail of one next hop, in order of arrival. Connections are those
//! of a pool ([`PoolId`]): one destination, or several that have the same mail exchangers
//! (`lanes`); a connection takes the work of all, in turns. Limits are those of a [`Share`], which pools
//! of one site, all queues of a core and all cores have together.
//!
//! Pools that want a connection are served in turn. Few connections with full pipelines beat many:
//! another one is opened only when none is idle and the backlog is deep or has waited.
//!
//! No call costs more for a longer list, and none goes through all destinations but [`Schedule::view`]
//! one by one: a pool is looked at when something has happened to it, when another queue has given
//! back what it waited for, or when the time has come that was noted at the last look.

mod lanes;
mod pools;

use crate::base::chain::Chain;
use crate::base::time::Mono;
use crate::queue::index::{DestId, Key};
use crate::queue::pace::{Backoff, Rate};
use crate::queue::shares::{Cost, SLICE, Share, Shares};
pub use pools::{Obstacle, View};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Number of a pool of connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct PoolId(pub u32);

/// Limits of one site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections at most; 1 or more.
    pub connections: u32,
    /// Connections it starts with at most, and after a failure; one more with each that worked. 0: no
    /// such limit.
    pub slow_start: u32,
    /// Messages over one connection at most; 0: no limit.
    pub messages_per_connection: u32,
    /// Recipients of a message in one transaction at most; 0: no limit.
    pub recipients_per_message: u32,
    /// How long a connection is kept without work.
    pub idle: Duration,
    /// Messages in a span of time.
    pub rate: Rate,
    /// Recipients in a span of time; up to one message more.
    pub recipients: Rate,
    /// Bytes in a span of time; up to one message more.
    pub bytes: Rate,
    /// How long a site that cannot be reached, or puts everything off, is left alone.
    pub pause: Backoff,
    /// So many messages in a row put off by the site as such are a failure of it; 0: never.
    pub put_off: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 20,
            slow_start: 5,
            messages_per_connection: 100,
            recipients_per_message: 0,
            idle: Duration::from_secs(60),
            rate: Rate::default(),
            recipients: Rate::default(),
            bytes: Rate::default(),
            pause: Backoff { first: Duration::from_secs(60), max: Duration::from_secs(4000) },
            put_off: 20,
        }
    }
}

impl Limits {
    fn most(&self) -> u32 {
        self.connections.max(1)
    }

    /// Connections that are opened before one has worked.
    fn first(&self) -> u32 {
        if self.slow_start == 0 { self.most() } else { self.slow_start.min(self.most()) }
    }
}

/// Rules that hold for all destinations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Connections over all destinations at most.
    pub connections: u32,
    /// Open another connection when more than this many messages wait per open one...
    pub deep: usize,
    /// ...or when the first has waited so long.
    pub patience: Duration,
    /// Messages of one destination taken before another one of its pool has its turn.
    pub turn: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { connections: 2000, deep: 64, patience: Duration::from_secs(1), turn: 16 }
    }
}

/// How soon a place is looked for again that another core may give up: without any connection, and
/// with some.
const SEEK: Duration = Duration::from_millis(100);
const SEEK_MORE: Duration = Duration::from_secs(1);
/// Pools looked at to see how many want a connection that is not there.
const WANTED_MAX: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Work {
    key: Key,
    since: Mono,
}

/// Mail of one next hop.
#[derive(Debug)]
struct Lane {
    name: Box<str>,
    /// Of its own pool.
    limits: Limits,
    pool: PoolId,
    /// When it leaves a pool that it has joined, until it is known anew where it goes.
    until: Mono,
    ready: Chain<Work, 512>,
    /// Stands in its pool's ring of those with work.
    turns: bool,
    /// An operator's rule keeps it; the number of the rule.
    suspended: Option<u32>,
    /// Items out with connections.
    flights: u32,
    /// The last round in which something was found that names it.
    seen: u32,
    /// Not there: its number may be given to another one.
    vacant: bool,
}

/// Connections to one site, with one policy.
#[derive(Debug)]
struct Pool {
    name: Box<str>,
    limits: Limits,
    /// Name of `share`.
    shared: Box<str>,
    /// What all queues of all cores have together.
    share: Rc<Share>,
    /// Stands in line there.
    starving: bool,
    /// Is told there when a place may be free.
    refused: bool,
    /// Destinations that go here.
    lanes: u32,
    /// Those with work, in turn.
    turns: VecDeque<DestId>,
    /// Messages taken in this turn.
    served: u32,
    /// Messages in the lists of `turns`.
    ready: usize,
    /// Opening or open.
    connections: u32,
    idle: u32,
    window: u32,
    failures: u32,
    /// Messages in a row that the site as such has put off.
    put_off: u32,
    paused: Option<Mono>,
    /// When it is looked at although nothing has happened; the end of the pause if there is one.
    look: Option<Mono>,
    /// When the next hop last answered.
    answered: Mono,
    opened: Mono,
    /// Stands in the ring of those that may want a connection.
    listed: bool,
    /// Stands among those with idle connections.
    rests: bool,
    /// Stands among those whose speed is measured.
    measured: bool,
    /// Messages taken since the last look at the speed.
    taken: u32,
    vacant: bool,
}

impl Pool {
    /// Whether it stands in line for a connection that another queue gives up.
    fn starve(&mut self, starving: bool, shares: &Shares, member: u32) {
        match (std::mem::replace(&mut self.starving, starving), starving) {
            (false, true) => self.share.starve(member),
            (true, false) => shares.feed(&self.share, member),
            _ => {}
        }
    }
}

/// Does a pool want a connection?
enum Wish {
    Now,
    /// Not before that, unless something happens.
    At(Mono),
    /// Not unless something happens.
    No,
}

/// What stands in the way of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// Nothing.
    Open,
    /// Its rate, until then.
    Rate(Mono),
    /// It could not be reached; left alone until then.
    Paused(Mono),
    /// No attempts are started any more.
    Stopped,
}

/// What the answer to a message says of the site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It works.
    Fine,
    /// It has put the message off for reasons that are not the recipient's.
    PutOff,
}

/// All destinations of one queue.
#[derive(Debug)]
pub struct Schedule {
    rules: Rules,
    shares: Rc<Shares>,
    /// Our number among those that share.
    member: u32,
    names: BTreeMap<Box<str>, DestId>,
    lanes: Vec<Lane>,
    free_lanes: Vec<DestId>,
    pool_names: BTreeMap<Box<str>, PoolId>,
    pools: Vec<Pool>,
    free_pools: Vec<PoolId>,
    /// In the place of the share of a pool that is not there.
    nobody: Rc<Share>,
    /// The round that is under way: see `lanes`.
    round: u32,
    /// Pools with work that may want a connection, in turn. Who did not want one at the last look and to
    /// whom nothing has happened since is not here.
    ring: VecDeque<PoolId>,
    /// When which pool is to be looked at.
    looks: BTreeSet<(Mono, PoolId)>,
    /// Those that have, or had a moment ago, idle connections.
    resting: Vec<PoolId>,
    /// Those that have taken messages since the last measurement.
    taking: Vec<PoolId>,
    /// Those that were fast at the last measurement.
    fast: Vec<PoolId>,
    /// Every pool counts as fast.
    all_fast: bool,
    connections: u32,
    /// Connections without work that are to be given up, because all that there may be are open and so
    /// many pools want one.
    wanted: usize,
    ready: usize,
    /// Of those, in the lists of destinations that are left alone or suspended.
    ready_paused: usize,
    /// Pools that are left alone.
    pools_paused: usize,
    stopped: bool,
}

impl Schedule {
    /// No destinations yet.
    #[must_use]
    pub fn new(rules: Rules, shares: Rc<Shares>) -> Self {
        Schedule {
            rules,
            member: shares.join(),
            shares,
            names: BTreeMap::new(),
            lanes: Vec::new(),
            free_lanes: Vec::new(),
            pool_names: BTreeMap::new(),
            pools: Vec::new(),
            free_pools: Vec::new(),
            nobody: Rc::new(Share::nobody()),
            round: 0,
            ring: VecDeque::new(),
            looks: BTreeSet::new(),
            resting: Vec::new(),
            taking: Vec::new(),
            fast: Vec::new(),
            all_fast: false,
            connections: 0,
            wanted: 0,
            ready: 0,
            ready_paused: 0,
            pools_paused: 0,
            stopped: false,
        }
    }

    /// What stands in the way of taking work for `p`.
    #[must_use]
    pub fn gate(&self, p: PoolId, now: Mono) -> Gate {
        let pool = self.pool(p);
        match pool.paused {
            _ if self.stopped => Gate::Stopped,
            Some(until) if until > now => Gate::Paused(until),
            // Slots are taken by who has work only.
            _ if pool.ready == 0 => Gate::Open,
            _ => match pool.share.earliest(self.member, now) {
                at if at > now => Gate::Rate(at),
                _ => Gate::Open,
            },
        }
    }

    /// The next message for `p` and its destination, if the limits allow; counts against the rates. If it
    /// turns out to have nothing to send, say so with [`Self::not_sent`]. `cost` says what the message
    /// takes of them; 0 if it is not sent at once.
    pub fn take(
        &mut self,
        p: PoolId,
        now: Mono,
        cost: impl FnOnce(DestId, Key) -> Cost,
    ) -> Option<(DestId, Key)> {
        let d = self.next_lane(p, now)?;
        match self.gate(p, now) {
            Gate::Open => {}
            Gate::Rate(at) => {
                self.wait_for_rate(p, at);
                return None;
            }
            Gate::Paused(_) | Gate::Stopped => return None,
        }
        if self.pool(p).paused.is_some() {
            // It is over, and nobody has looked yet.
            self.unpause_pool(p);
        }
        let first = self.lanes[d as usize].ready.front()?.key;
        if !self.pool(p).share.pass(self.member, now, || cost(d, first)) {
            // Another core was faster; when the next slot is it will say.
            let at = now.after(Duration::from_millis(1));
            self.wait_for_rate(p, at);
            return None;
        }
        let key = self.pop(d)?;
        let turn = self.rules.turn;
        let pool = self.pool_mut(p);
        pool.taken += 1;
        pool.served += 1;
        if pool.served >= turn && pool.turns.len() > 1 && pool.turns.front() == Some(&d) {
            pool.served = 0;
            let waited = self.waits(p);
            self.pool_mut(p).turns.rotate_left(1);
            self.look_again(p, waited);
        }
        if !std::mem::replace(&mut self.pool_mut(p).measured, true) {
            self.taking.push(p);
        }
        Some((d, key))
    }

    /// Only the rate is in the way of `p`, until `at`: other queues learn that it waits.
    fn wait_for_rate(&mut self, p: PoolId, at: Mono) {
        let pool = self.pool(p);
        if pool.ready > 0 {
            pool.share.refuse(self.member);
        }
        self.look_by(p, at);
    }

    /// What was taken last for `p` is not sent now: it does not count against the rate.
    pub fn not_sent(&mut self, p: PoolId) {
        let member = self.member;
        let pool = self.pool_mut(p);
        pool.share.give_back(member);
        pool.taken = pool.taken.saturating_sub(1);
        self.list(p);
    }

    fn list(&mut self, p: PoolId) {
        let pool = self.pool_mut(p);
        if !pool.listed && pool.paused.is_none() && pool.ready > 0 {
            pool.listed = true;
            self.ring.push_back(p);
        }
    }

    /// Pools with an idle connection that could take work now, or is to be given up.
    pub fn could_work(&mut self, now: Mono) -> Vec<PoolId> {
        let all_taken = self.shares.open() >= self.rules.connections;
        let wants = |p: &&PoolId| matches!(self.wish(**p, now), Wish::Now);
        self.wanted = if all_taken { self.ring.iter().take(WANTED_MAX).filter(wants).count() } else { 0 };
        let mut wanted = self.wanted;
        let mut resting = std::mem::take(&mut self.resting);
        resting.retain(|&p| {
            let pool = self.pool_mut(p);
            pool.rests = pool.idle > 0;
            pool.rests
        });
        let could = |p: &&PoolId| {
            if self.pool(**p).ready > 0 {
                return self.gate(**p, now) == Gate::Open || self.owes_site(**p, now);
            }
            let give_up = wanted > 0;
            wanted = wanted.saturating_sub(1);
            give_up || self.owes_site(**p, now)
        };
        let found = resting.iter().filter(could).copied().collect();
        self.resting = resting;
        found
    }

    /// True if there may be connections without work.
    #[must_use]
    pub fn anybody_rests(&self) -> bool {
        !self.resting.is_empty()
    }

    /// The next pool, in turn, that should get another connection; it counts as opening.
    pub fn open_next(&mut self, now: Mono) -> Option<PoolId> {
        if self.stopped {
            return None;
        }
        self.wake(now);
        while self.shares.open() < self.rules.connections {
            let p = self.ring.pop_front()?;
            self.pool_mut(p).listed = false;
            match self.wish(p, now) {
                Wish::Now if !self.has_place(p, now) => self.refuse(p, now),
                // Only who has a place takes slots of the rate: others would have them for nothing.
                Wish::Now => match self.gate(p, now) {
                    Gate::Rate(at) => self.wait_for_rate(p, at),
                    Gate::Open if self.enter(p, now) => return Some(p),
                    Gate::Open => self.refuse(p, now),
                    Gate::Paused(_) | Gate::Stopped => {}
                },
                Wish::At(at) => self.look_by(p, at),
                Wish::No => {}
            }
        }
        None
    }

    fn enter(&mut self, p: PoolId, now: Mono) -> bool {
        let pool = &mut self.pools[p.0 as usize];
        if !self.shares.enter(&pool.share, pool.limits.most(), now) {
            return false;
        }
        pool.connections += 1;
        pool.opened = now;
        pool.starve(false, &self.shares, self.member);
        self.connections += 1;
        // It may want yet another one.
        self.list(p);
        true
    }

    /// Whether the limit of all queues together lets `p` have one more connection. Without any, it
    /// gets in line.
    fn has_place(&mut self, p: PoolId, now: Mono) -> bool {
        let pool = &mut self.pools[p.0 as usize];
        let free = pool.share.is_free(self.member, pool.limits.most(), now);
        if pool.connections == 0 {
            pool.starve(!free, &self.shares, self.member);
        }
        free
    }

    /// There is no place for `p`: it is looked at again when there may be one.
    fn refuse(&mut self, p: PoolId, now: Mono) {
        let member = self.member;
        let pool = self.pool_mut(p);
        if !std::mem::replace(&mut pool.refused, true) {
            pool.share.wait(member, p);
        }
        if pool.connections == 0 {
            pool.share.owe_again();
        }
        if pool.share.seek(now) {
            let wait = if pool.connections == 0 { SEEK } else { SEEK_MORE };
            self.look_by(p, now.after(wait));
        }
    }

    /// Whether a connection of `p` is to end because another queue or another core has none and
    /// waits, or another site, while all that there may be are open. Whoever ends one for that says so
    /// with [`Self::pay`].
    #[must_use]
    pub fn owes(&self, p: PoolId, now: Mono) -> bool {
        self.wanted > 0 && self.pool(p).ready == 0 || self.owes_site(p, now)
    }

    fn owes_site(&self, p: PoolId, now: Mono) -> bool {
        let pool = self.pool(p);
        // One that has nothing to send is not needed at once.
        let long = || pool.ready == 0 || now.since(pool.opened) >= SLICE;
        pool.connections > 0
            && long()
            && (pool.share.is_owed() || pool.share.is_wanted(pool.limits.most(), now))
    }

    /// A connection of `p` ends for the sake of another queue or site.
    pub fn pay(&mut self, p: PoolId, now: Mono) {
        self.wanted = self.wanted.saturating_sub(1);
        let pool = self.pool_mut(p);
        if pool.share.is_owed() {
            pool.share.pay();
        } else {
            // For another core; the next one, if it is needed, a while later.
            pool.opened = now;
        }
    }

    /// Looks at those whose time has come, or whose turn it may be; pauses that are over end.
    fn wake(&mut self, now: Mono) {
        for p in self.shares.take_freed(self.member) {
            self.pool_mut(p).refused = false;
            self.list(p);
        }
        while let Some(&(at, p)) = self.looks.first().filter(|l| l.0 <= now) {
            self.looks.remove(&(at, p));
            let pool = self.pool_mut(p);
            pool.look = None;
            let ready = pool.ready;
            if pool.paused.take_if(|until| *until <= now).is_some() {
                self.ready_paused -= ready;
                self.pools_paused -= 1;
            }
            self.list(p);
        }
    }

    /// Has `p` looked at by `at`.
    fn look_by(&mut self, p: PoolId, at: Mono) {
        if self.pool(p).look.is_none_or(|look| look > at) {
            self.look_at(p, Some(at));
        }
    }

    fn look_at(&mut self, p: PoolId, at: Option<Mono>) {
        if let Some(old) = std::mem::replace(&mut self.pool_mut(p).look, at) {
            self.looks.remove(&(old, p));
        }
        if let Some(at) = at {
            self.looks.insert((at, p));
        }
    }

    /// True if something has just come for `p` that may call for another connection.
    #[must_use]
    pub fn wants_look(&self, p: PoolId) -> bool {
        let pool = self.pool(p);
        pool.connections == 0 || pool.ready > self.rules.deep * pool.connections as usize
    }

    /// Rates apart.
    fn wish(&self, p: PoolId, now: Mono) -> Wish {
        let pool = self.pool(p);
        let Some(first) = pool.turns.front().and_then(|d| self.lanes[*d as usize].ready.front()) else {
            return Wish::No;
        };
        // The end of a pause is noted when it begins.
        if self.stopped || pool.paused.is_some_and(|until| until > now) {
            return Wish::No;
        }
        // While a site has failed and not worked since, one connection probes it.
        let most = if pool.failures > 0 { 1 } else { pool.window.min(pool.limits.most()) };
        let at = if pool.connections == 0 {
            now
        } else if pool.connections >= most || pool.idle > 0 {
            return Wish::No;
        } else if pool.ready > self.rules.deep * pool.connections as usize {
            now
        } else {
            first.since.max(pool.opened).after(self.rules.patience)
        };
        if at <= now { Wish::Now } else { Wish::At(at) }
    }

    /// The earliest time after `now` at which [`Self::open_next`] may say something new by itself,
    /// as far as it has been asked.
    #[must_use]
    pub fn next_look(&self, now: Mono) -> Option<Mono> {
        if self.stopped {
            return None;
        }
        self.looks.range((Mono(now.0 + 1), PoolId(0))..).next().map(|l| l.0)
    }

    /// Starts nothing any more.
    pub fn stop(&mut self) {
        self.stopped = true;
        for pool in &mut self.pools {
            pool.starve(false, &self.shares, self.member);
            if std::mem::take(&mut pool.refused) {
                pool.share.forget(self.member);
            }
        }
        self.shares.forget(self.member);
    }

    /// True after [`Self::stop`].
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Connections open or being opened.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.connections
    }

    fn pool(&self, p: PoolId) -> &Pool {
        &self.pools[p.0 as usize]
    }

    fn pool_mut(&mut self, p: PoolId) -> &mut Pool {
        &mut self.pools[p.0 as usize]
    }
}

#[cfg(test)]
mod tests;

//! Destinations as lists: what is in them, to which pool they go, which are suspended, and which are
//! forgotten.
//!
//! A destination begins in a pool of its own. One that is found by name servers joins the pool of its
//! site for as long as they say; then it goes back into its own, and is looked up again when a
//! connection is wanted. One that nothing names is forgotten: in rounds, whoever names destinations says
//! so ([`Schedule::seen`]), and at the end of a round those that nobody has named are free.

use super::{Lane, Limits, PoolId, Schedule, Work};
use crate::base::chain::Chain;
use crate::base::time::Mono;
use crate::queue::index::{DestId, Key};
use std::collections::btree_map::Entry;
use std::ops::Range;

impl Schedule {
    /// The number of the destination `key`; `limits` is asked when it is new. `true`: it is new.
    pub fn destination(&mut self, key: &str, limits: impl FnOnce() -> Limits) -> (DestId, bool) {
        if let Some(&d) = self.names.get(key) {
            self.seen(d);
            return (d, false);
        }
        let limits = limits();
        let pool = self.furnish(key, key, limits);
        self.pool_mut(pool).lanes += 1;
        let lane = Lane {
            name: key.into(),
            limits,
            pool,
            until: Mono(u64::MAX),
            ready: Chain::default(),
            turns: false,
            suspended: None,
            flights: 0,
            seen: self.round,
            vacant: false,
        };
        let d = match self.free_lanes.pop() {
            Some(d) => {
                self.lanes[d as usize] = lane;
                d
            }
            None => {
                self.lanes.push(lane);
                DestId::try_from(self.lanes.len() - 1).expect("below 2^32 destinations")
            }
        };
        self.names.insert(key.into(), d);
        (d, true)
    }

    /// The destination of that name, if there is one.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<DestId> {
        self.names.get(key).copied()
    }

    /// The pool of `d`.
    #[must_use]
    pub fn pool_of(&self, d: DestId) -> PoolId {
        self.lanes[d as usize].pool
    }

    /// The pool `name`, if there is one.
    #[must_use]
    pub fn find_pool(&self, name: &str) -> Option<PoolId> {
        self.pool_names.get(name).copied()
    }

    /// The destination of `p` whose work comes next, if any has work.
    #[must_use]
    pub fn first_of(&self, p: PoolId) -> Option<DestId> {
        self.pool(p).turns.front().copied()
    }

    /// New limits for `d` itself; those of a pool that it has joined are the site's.
    pub fn set_own_limits(&mut self, d: DestId, limits: Limits) {
        self.lanes[d as usize].limits = limits;
        let (p, name) = (self.pool_of(d), &self.lanes[d as usize].name);
        if self.pool(p).name == *name {
            self.set_limits(p, limits);
        }
    }

    /// Limits of `d` itself.
    #[must_use]
    pub fn own_limits(&self, d: DestId) -> Limits {
        self.lanes[d as usize].limits
    }

    /// `d` goes to the pool `name` until `until`, whose limits are shared under `shared`.
    pub fn join_pool(
        &mut self,
        d: DestId,
        (name, shared): (&str, &str),
        limits: Limits,
        until: Mono,
    ) -> PoolId {
        let p = self.furnish(name, shared, limits);
        self.move_to(d, p);
        self.lanes[d as usize].until = until;
        p
    }

    /// `d` goes back to its own pool.
    pub fn leave_pool(&mut self, d: DestId) {
        let lane = &mut self.lanes[d as usize];
        lane.until = Mono(u64::MAX);
        let (name, limits) = (lane.name.clone(), lane.limits);
        let p = self.furnish(&name, &name, limits);
        self.move_to(d, p);
    }

    fn move_to(&mut self, d: DestId, p: PoolId) {
        let old = self.pool_of(d);
        if old == p {
            return;
        }
        self.lift(d);
        self.pool_mut(old).lanes -= 1;
        self.pool_mut(p).lanes += 1;
        self.lanes[d as usize].pool = p;
        self.put(d);
    }

    /// The list of `d` does not count for its pool.
    fn lift(&mut self, d: DestId) {
        let p = self.pool_of(d);
        let waited = self.waits(p);
        let lane = &mut self.lanes[d as usize];
        let len = lane.ready.len();
        let pool = &mut self.pools[p.0 as usize];
        if lane.suspended.is_some() {
            self.ready_paused -= len;
            return;
        }
        if std::mem::take(&mut lane.turns) {
            pool.turns.retain(|t| *t != d);
        }
        pool.ready -= len;
        if pool.paused.is_some() {
            self.ready_paused -= len;
        }
        if pool.ready == 0 {
            pool.starve(false, &self.shares, self.member);
        }
        // Whose turn it is now may have waited longer.
        self.look_again(p, waited);
    }

    /// It counts again.
    fn put(&mut self, d: DestId) {
        let lane = &mut self.lanes[d as usize];
        let (p, len) = (lane.pool, lane.ready.len());
        let pool = &mut self.pools[p.0 as usize];
        if lane.suspended.is_some() {
            self.ready_paused += len;
            return;
        }
        if len > 0 {
            lane.turns = true;
            pool.turns.push_back(d);
        }
        pool.ready += len;
        if pool.paused.is_some() {
            self.ready_paused += len;
        }
        self.list(p);
    }

    /// The destination of `p` whose turn it is. Those that do not belong there any more leave.
    pub(super) fn next_lane(&mut self, p: PoolId, now: Mono) -> Option<DestId> {
        loop {
            let d = self.first_of(p)?;
            if self.lanes[d as usize].until > now {
                return Some(d);
            }
            self.leave_pool(d);
        }
    }

    /// A rule of an operator, by its number, keeps `d` from being sent; or none does.
    pub fn suspend(&mut self, d: DestId, rule: Option<u32>) {
        if self.lanes[d as usize].suspended == rule {
            return;
        }
        self.lift(d);
        self.lanes[d as usize].suspended = rule;
        self.put(d);
    }

    /// The rule that keeps `d`.
    #[must_use]
    pub fn suspended(&self, d: DestId) -> Option<u32> {
        self.lanes[d as usize].suspended
    }

    /// A message has work for `d` now; goes to the end of its list.
    pub fn push(&mut self, d: DestId, key: Key, now: Mono) {
        self.lanes[d as usize].ready.push_back(Work { key, since: now });
        self.added(d);
    }

    /// Work that came back without having risked anything; it goes first.
    pub fn push_front(&mut self, d: DestId, key: Key, now: Mono) {
        self.lanes[d as usize].ready.push_front(Work { key, since: now });
        self.added(d);
    }

    fn added(&mut self, d: DestId) {
        self.ready += 1;
        let lane = &mut self.lanes[d as usize];
        if lane.suspended.is_some() {
            self.ready_paused += 1;
            return;
        }
        let p = lane.pool;
        let pool = &mut self.pools[p.0 as usize];
        pool.ready += 1;
        self.ready_paused += usize::from(pool.paused.is_some());
        if !std::mem::replace(&mut lane.turns, true) {
            pool.turns.push_back(d);
        }
        self.list(p);
    }

    pub(super) fn pop(&mut self, d: DestId) -> Option<Key> {
        let waited = self.waits(self.pool_of(d));
        let lane = &mut self.lanes[d as usize];
        let work = lane.ready.pop_front()?;
        let empty = lane.ready.is_empty();
        self.ready -= 1;
        if lane.suspended.is_some() {
            self.ready_paused -= 1;
            return Some(work.key);
        }
        let p = lane.pool;
        let pool = &mut self.pools[p.0 as usize];
        pool.ready -= 1;
        self.ready_paused -= usize::from(pool.paused.is_some());
        if empty {
            lane.turns = false;
            pool.served = 0;
            match pool.turns.front() {
                Some(first) if *first == d => drop(pool.turns.pop_front()),
                _ => pool.turns.retain(|t| *t != d),
            }
            if pool.ready == 0 {
                pool.starve(false, &self.shares, self.member);
            }
        }
        self.look_again(p, waited);
        Some(work.key)
    }

    /// Since when the message whose turn it is in `p` waits.
    pub(super) fn waits(&self, p: PoolId) -> Option<Mono> {
        let d = self.pool(p).turns.front()?;
        self.lanes[*d as usize].ready.front().map(|work| work.since)
    }

    /// If what is first in `p` now has waited longer than what was, another connection may be wanted
    /// sooner: the one before had come back, or another destination has its turn.
    pub(super) fn look_again(&mut self, p: PoolId, waited: Option<Mono>) {
        if self.waits(p).is_some_and(|since| waited.is_none_or(|before| since < before)) {
            self.list(p);
        }
    }

    /// Numbers of the places in the list of `d`. A place keeps its number.
    #[must_use]
    pub fn places(&self, d: DestId) -> Range<u64> {
        self.lanes[d as usize].ready.numbers()
    }

    /// Who has place `number` in the list of `d`.
    #[must_use]
    pub fn place(&self, d: DestId, number: u64) -> Option<Key> {
        self.lanes[d as usize].ready.get(number).map(|w| w.key)
    }

    /// How many stand before `key` in the list of `d`, if it stands there. Goes through the list.
    #[must_use]
    pub fn position(&self, d: DestId, key: Key) -> Option<u64> {
        let places = self.places(d);
        let first = places.start;
        places.into_iter().find(|n| self.place(d, *n) == Some(key)).map(|n| n - first)
    }

    /// Since when the first of `d` stands in its list.
    #[must_use]
    pub fn waits_since(&self, d: DestId) -> Option<Mono> {
        self.lanes[d as usize].ready.front().map(|w| w.since)
    }

    /// Takes the first place out of the list of `d`: it is known to have nothing to send.
    pub fn drop_first(&mut self, d: DestId) {
        self.pop(d);
    }

    /// Gives memory of the list of `d` back if it is empty: it may have been long, once.
    pub fn trim(&mut self, d: DestId) {
        self.lanes[d as usize].ready.trim();
    }

    /// Messages in the list of `d`.
    #[must_use]
    pub fn backlog(&self, d: DestId) -> usize {
        self.lanes[d as usize].ready.len()
    }

    /// Messages in all lists.
    #[must_use]
    pub fn backlog_all(&self) -> usize {
        self.ready
    }

    /// Messages in the lists of destinations that are left alone or suspended.
    #[must_use]
    pub fn backlog_paused(&self) -> usize {
        self.ready_paused
    }

    /// Bytes of memory held by the lists.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.ready.heap_bytes()).sum()
    }

    /// Destinations, by number.
    pub fn destinations(&self) -> impl Iterator<Item = DestId> + use<'_> {
        (0..).zip(&self.lanes).filter(|(_, lane)| !lane.vacant).map(|(d, _)| d)
    }

    /// The name of `d`.
    #[must_use]
    pub fn name(&self, d: DestId) -> &str {
        &self.lanes[d as usize].name
    }

    /// An item of `d` is out with a connection (`true`), or is not any more.
    pub fn flight(&mut self, d: DestId, out: bool) {
        let flights = &mut self.lanes[d as usize].flights;
        *flights = if out { *flights + 1 } else { flights.checked_sub(1).expect("lands once") };
    }
}

/// Rounds in which destinations are forgotten.
impl Schedule {
    /// Number of destinations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True if there is no destination.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Numbers that destinations have or have had: all are below.
    #[must_use]
    pub fn numbers(&self) -> DestId {
        self.lanes.len() as DestId
    }

    /// A round begins: from now on it counts what is [`Self::seen`].
    pub fn begin_round(&mut self) {
        self.round = self.round.wrapping_add(1);
    }

    /// Something names `d`.
    pub fn seen(&mut self, d: DestId) {
        if let Some(lane) = self.lanes.get_mut(d as usize) {
            lane.seen = self.round;
        }
    }

    /// At the end of a round: forgets `d` if nothing has named it. `true`: its number is free.
    pub fn forget(&mut self, d: DestId, now: Mono) -> bool {
        let Some(lane) = self.lanes.get(d as usize) else { return false };
        if lane.vacant || lane.seen == self.round || lane.flights > 0 || !lane.ready.is_empty() {
            return false;
        }
        let (p, name) = (lane.pool, lane.name.clone());
        self.lift(d);
        if let Entry::Occupied(named) = self.names.entry(name) {
            named.remove();
        }
        let lane = &mut self.lanes[d as usize];
        lane.vacant = true;
        (lane.name, lane.ready) = (Box::default(), Chain::default());
        self.free_lanes.push(d);
        self.pool_mut(p).lanes -= 1;
        self.vacate(p, now);
        true
    }

    /// Frees pools that nobody goes to any more.
    pub fn forget_pools(&mut self, now: Mono) {
        for p in (0..self.pools.len() as u32).map(PoolId) {
            self.vacate(p, now);
        }
    }
}

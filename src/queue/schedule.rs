//! L2: who goes next: destinations with their lists, limits, pauses and connections.
//!
//! Owns the order of work, not the messages: a place in a list is a [`Key`], and what the key still
//! has to send is the index's knowledge, so that a message that was held or removed simply has
//! nothing to send when its turn comes. Pure: time and chance come as arguments. Nothing fails.
//!
//! A connection takes work of its own destination only, in order of arrival. Destinations that want
//! a connection are served in turn. Few connections with full pipelines beat many: another one is
//! opened only when none is idle and the backlog is deep or has waited. Limits hold for all queues of
//! a core together ([`Shares`]).
//!
//! No call costs more for a longer list, and none goes through all destinations but [`Schedule::view`]
//! one by one: a destination is looked at when something has happened to it, when another queue has
//! given back what it waited for, or when the time has come that was noted at the last look.

use crate::base::chain::Chain;
use crate::base::time::Mono;
use crate::queue::index::{DestId, Key};
use crate::queue::pace::{Backoff, Rate};
use crate::queue::shares::{SLICE, Share, Shares};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// Limits of one destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections at most; 1 or more.
    pub connections: u32,
    /// Messages over one connection at most; 0: no limit.
    pub messages_per_connection: u32,
    /// Messages in a span of time.
    pub rate: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 20, messages_per_connection: 100, rate: Rate::default() }
    }
}

/// Rules that hold for all destinations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Connections over all destinations at most.
    pub connections: u32,
    /// Connections a destination starts with at most; one more with each that worked.
    pub window: u32,
    /// Open another connection when more than this many messages wait per open one...
    pub deep: usize,
    /// ...or when the first has waited so long.
    pub patience: Duration,
    /// How long a destination that cannot be reached is left alone.
    pub pause: Backoff,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            connections: 2000,
            window: 5,
            deep: 64,
            patience: Duration::from_secs(1),
            pause: Backoff { first: Duration::from_secs(60), max: Duration::from_secs(4000) },
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Work {
    key: Key,
    since: Mono,
}

#[derive(Debug)]
struct Destination {
    key: Box<str>,
    limits: Limits,
    /// What all queues of this core have together.
    share: Rc<Share>,
    /// Stands in line there.
    starving: bool,
    /// Is told there when a place may be free.
    refused: bool,
    ready: Chain<Work, 512>,
    /// Opening or open.
    connections: u32,
    idle: u32,
    window: u32,
    failures: u32,
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
}

impl Destination {
    /// Whether it stands in line for a connection that another queue of this core gives up.
    fn starve(&mut self, starving: bool, shares: &Shares, member: u32) {
        match (std::mem::replace(&mut self.starving, starving), starving) {
            (false, true) => self.share.starve(member),
            (true, false) => shares.feed(&self.share, member),
            _ => {}
        }
    }
}

/// Does a destination want a connection?
enum Wish {
    Now,
    /// Not before that, unless something happens.
    At(Mono),
    /// Not unless something happens.
    No,
}

/// What stands in the way of a destination.
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

/// A destination as operators see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// Its name.
    pub key: String,
    /// Messages in its list.
    pub ready: usize,
    /// Connections open or being opened.
    pub connections: u32,
    /// Failures in a row.
    pub failures: u32,
    /// Left alone until then.
    pub paused: Option<Mono>,
}

/// All destinations of one queue.
#[derive(Debug)]
pub struct Schedule {
    rules: Rules,
    shares: Rc<Shares>,
    /// Our number among those that share.
    member: u32,
    names: BTreeMap<Box<str>, DestId>,
    destinations: Vec<Destination>,
    /// Destinations with work that may want a connection, in turn. Who did not want one at the last
    /// look and to whom nothing has happened since is not here.
    ring: VecDeque<DestId>,
    /// When which destination is to be looked at.
    looks: BTreeSet<(Mono, DestId)>,
    /// Those that have, or had a moment ago, idle connections.
    resting: Vec<DestId>,
    /// Those that have taken messages since the last measurement.
    taking: Vec<DestId>,
    /// Those that were fast at the last measurement.
    fast: Vec<DestId>,
    connections: u32,
    ready: usize,
    /// Of those, in the lists of destinations that are left alone.
    ready_paused: usize,
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
            destinations: Vec::new(),
            ring: VecDeque::new(),
            looks: BTreeSet::new(),
            resting: Vec::new(),
            taking: Vec::new(),
            fast: Vec::new(),
            connections: 0,
            ready: 0,
            ready_paused: 0,
            stopped: false,
        }
    }

    /// The number of the destination `key`; `limits` is asked when it is new. `true`: it is new.
    pub fn destination(&mut self, key: &str, limits: impl FnOnce() -> Limits) -> (DestId, bool) {
        if let Some(&id) = self.names.get(key) {
            return (id, false);
        }
        let id = DestId::try_from(self.destinations.len()).expect("below 2^32 destinations");
        let limits = limits();
        self.destinations.push(Destination {
            key: key.into(),
            limits,
            share: self.shares.share(key, limits.rate),
            starving: false,
            refused: false,
            ready: Chain::default(),
            connections: 0,
            idle: 0,
            window: self.rules.window.clamp(1, limits.connections.max(1)),
            failures: 0,
            paused: None,
            look: None,
            answered: Mono(0),
            opened: Mono(0),
            listed: false,
            rests: false,
            measured: false,
            taken: 0,
        });
        self.names.insert(key.into(), id);
        (id, true)
    }

    /// True if `d` is left alone at `now`.
    #[must_use]
    pub fn is_paused(&self, d: DestId, now: Mono) -> bool {
        self.destinations.get(d as usize).is_some_and(|d| d.paused.is_some_and(|until| until > now))
    }

    /// True if `d` has answered at last, and not failed since.
    #[must_use]
    pub fn is_open(&self, d: DestId) -> bool {
        let dest = &self.destinations[d as usize];
        dest.failures == 0 && dest.answered > Mono(0)
    }

    /// The destination of that name, if there is one.
    #[must_use]
    pub fn find(&self, key: &str) -> Option<DestId> {
        self.names.get(key).copied()
    }

    /// A message has work for `d` now; goes to the end of its list.
    pub fn push(&mut self, d: DestId, key: Key, now: Mono) {
        self.dest(d).ready.push_back(Work { key, since: now });
        self.added(d);
    }

    /// Work that came back without having risked anything; it goes first.
    pub fn push_front(&mut self, d: DestId, key: Key, now: Mono) {
        self.dest(d).ready.push_front(Work { key, since: now });
        self.added(d);
    }

    fn added(&mut self, d: DestId) {
        self.ready += 1;
        self.ready_paused += usize::from(self.dest(d).paused.is_some());
        self.list(d);
    }

    fn list(&mut self, d: DestId) {
        let dest = self.dest(d);
        if !dest.listed && dest.paused.is_none() && !dest.ready.is_empty() {
            dest.listed = true;
            self.ring.push_back(d);
        }
    }

    /// What stands in the way of taking work for `d`.
    #[must_use]
    pub fn gate(&self, d: DestId, now: Mono) -> Gate {
        let dest = &self.destinations[d as usize];
        match dest.paused {
            _ if self.stopped => Gate::Stopped,
            Some(until) if until > now => Gate::Paused(until),
            _ => match dest.share.earliest(self.member) {
                at if at > now => Gate::Rate(at),
                _ => Gate::Open,
            },
        }
    }

    /// The next message for `d`, if the limits allow; counts against the rate. If it turns out to
    /// have nothing to send, say so with [`Self::not_sent`].
    pub fn take(&mut self, d: DestId, now: Mono) -> Option<Key> {
        match self.gate(d, now) {
            Gate::Open => {}
            Gate::Rate(at) => {
                self.wait_for_rate(d, at);
                return None;
            }
            Gate::Paused(_) | Gate::Stopped => return None,
        }
        if self.dest(d).paused.is_some() {
            // It is over, and nobody has looked yet.
            self.unpause(d);
        }
        let key = self.pop(d)?;
        let member = self.member;
        let dest = self.dest(d);
        dest.share.pass(member, now);
        dest.taken += 1;
        if !std::mem::replace(&mut dest.measured, true) {
            self.taking.push(d);
        }
        Some(key)
    }

    /// Only the rate is in the way of `d`, until `at`: other queues learn that it waits.
    fn wait_for_rate(&mut self, d: DestId, at: Mono) {
        let dest = &self.destinations[d as usize];
        if !dest.ready.is_empty() {
            dest.share.refuse(self.member);
        }
        self.look_by(d, at);
    }

    fn pop(&mut self, d: DestId) -> Option<Key> {
        let dest = &mut self.destinations[d as usize];
        let work = dest.ready.pop_front()?;
        if dest.ready.is_empty() {
            dest.starve(false, &self.shares, self.member);
        }
        let older = dest.ready.front().is_some_and(|next| next.since < work.since);
        let paused = dest.paused.is_some();
        self.ready -= 1;
        self.ready_paused -= usize::from(paused);
        if older {
            // The one before had come back; what is first now has waited longer.
            self.list(d);
        }
        Some(work.key)
    }

    /// What was taken last for `d` is not sent now: it does not count against the rate.
    pub fn not_sent(&mut self, d: DestId) {
        let member = self.member;
        let dest = self.dest(d);
        dest.share.give_back(member);
        dest.taken = dest.taken.saturating_sub(1);
        self.list(d);
    }

    /// Numbers of the places in the list of `d`. A place keeps its number.
    #[must_use]
    pub fn places(&self, d: DestId) -> Range<u64> {
        self.destinations[d as usize].ready.numbers()
    }

    /// Who has place `number` in the list of `d`.
    #[must_use]
    pub fn place(&self, d: DestId, number: u64) -> Option<Key> {
        self.destinations[d as usize].ready.get(number).map(|w| w.key)
    }

    /// Takes the first place out of the list of `d`: it is known to have nothing to send.
    pub fn drop_first(&mut self, d: DestId) {
        self.pop(d);
    }

    /// Messages in the list of `d`.
    #[must_use]
    pub fn backlog(&self, d: DestId) -> usize {
        self.destinations[d as usize].ready.len()
    }

    /// Messages in all lists.
    #[must_use]
    pub fn backlog_all(&self) -> usize {
        self.ready
    }

    /// Messages in the lists of destinations that are left alone.
    #[must_use]
    pub fn backlog_paused(&self) -> usize {
        self.ready_paused
    }

    /// Destinations with an idle connection that could take work now, or is to be given up.
    pub fn could_work(&mut self, now: Mono) -> Vec<DestId> {
        let mut resting = std::mem::take(&mut self.resting);
        resting.retain(|&d| {
            let dest = self.dest(d);
            dest.rests = dest.idle > 0;
            dest.rests
        });
        let could =
            |d: &&DestId| self.backlog(**d) > 0 && self.gate(**d, now) == Gate::Open || self.owes(**d, now);
        let found = resting.iter().filter(could).copied().collect();
        self.resting = resting;
        found
    }

    /// The next destination, in turn, that should get another connection; it counts as opening.
    pub fn open_next(&mut self, now: Mono) -> Option<DestId> {
        if self.stopped {
            return None;
        }
        self.wake(now);
        while self.shares.open() < self.rules.connections {
            let d = self.ring.pop_front()?;
            self.dest(d).listed = false;
            match self.wish(d, now) {
                Wish::Now if !self.has_place(d) => self.refuse(d),
                Wish::Now => {
                    let dest = &mut self.destinations[d as usize];
                    dest.connections += 1;
                    dest.opened = now;
                    self.connections += 1;
                    self.shares.enter(&dest.share);
                    // It may want yet another one.
                    self.list(d);
                    return Some(d);
                }
                Wish::At(at) if matches!(self.gate(d, now), Gate::Rate(_)) => self.wait_for_rate(d, at),
                Wish::At(at) => self.look_by(d, at),
                Wish::No => {}
            }
        }
        None
    }

    /// Whether the limit of all queues together lets `d` have one more connection. Without any, it
    /// gets in line.
    fn has_place(&mut self, d: DestId) -> bool {
        let dest = &mut self.destinations[d as usize];
        let free = dest.share.open() < dest.limits.connections.max(1) && dest.share.is_next(self.member);
        if dest.connections == 0 {
            dest.starve(!free, &self.shares, self.member);
        }
        free
    }

    /// There is no place for `d`: it is looked at again when there may be one.
    fn refuse(&mut self, d: DestId) {
        let dest = &mut self.destinations[d as usize];
        if !std::mem::replace(&mut dest.refused, true) {
            dest.share.wait(self.member, d);
        }
    }

    /// Whether a connection to `d` is to end because another queue of this core has none and
    /// waits. Whoever ends one for that says so with [`Self::pay`].
    #[must_use]
    pub fn owes(&self, d: DestId, now: Mono) -> bool {
        let dest = &self.destinations[d as usize];
        dest.share.is_owed() && dest.connections > 0 && now.since(dest.opened) >= SLICE
    }

    /// A connection to `d` ends for the sake of another queue.
    pub fn pay(&mut self, d: DestId) {
        self.dest(d).share.pay();
    }

    /// Looks at those whose time has come, or whose turn it may be; pauses that are over end.
    fn wake(&mut self, now: Mono) {
        for d in self.shares.take_freed(self.member) {
            self.dest(d).refused = false;
            self.list(d);
        }
        while let Some(&(at, d)) = self.looks.first().filter(|l| l.0 <= now) {
            self.looks.remove(&(at, d));
            self.dest(d).look = None;
            if self.dest(d).paused.take_if(|until| *until <= now).is_some() {
                self.ready_paused -= self.backlog(d);
            }
            self.list(d);
        }
    }

    /// Has `d` looked at by `at`.
    fn look_by(&mut self, d: DestId, at: Mono) {
        if self.dest(d).look.is_none_or(|look| look > at) {
            self.look_at(d, Some(at));
        }
    }

    fn look_at(&mut self, d: DestId, at: Option<Mono>) {
        if let Some(old) = std::mem::replace(&mut self.dest(d).look, at) {
            self.looks.remove(&(old, d));
        }
        if let Some(at) = at {
            self.looks.insert((at, d));
        }
    }

    /// True if something has just come for `d` that may call for another connection.
    #[must_use]
    pub fn wants_look(&self, d: DestId) -> bool {
        let dest = &self.destinations[d as usize];
        dest.connections == 0 || dest.ready.len() > self.rules.deep * dest.connections as usize
    }

    fn wish(&self, d: DestId, now: Mono) -> Wish {
        let dest = &self.destinations[d as usize];
        let Some(first) = dest.ready.front() else { return Wish::No };
        let allowed = match self.gate(d, now) {
            Gate::Open => now,
            Gate::Rate(at) => at,
            // The end of a pause is noted when it begins.
            Gate::Paused(_) | Gate::Stopped => return Wish::No,
        };
        // While a destination has failed and not worked since, one connection probes it.
        let most = if dest.failures > 0 { 1 } else { dest.window.min(dest.limits.connections) };
        let at = if dest.connections == 0 {
            allowed
        } else if dest.connections >= most || dest.idle > 0 {
            return Wish::No;
        } else if dest.ready.len() > self.rules.deep * dest.connections as usize {
            allowed
        } else {
            allowed.max(first.since.max(dest.opened).after(self.rules.patience))
        };
        if at <= now { Wish::Now } else { Wish::At(at) }
    }

    /// A connection to `d` has no work now (`true`), or has again.
    pub fn idle(&mut self, d: DestId, idle: bool) {
        let dest = self.dest(d);
        if !idle {
            dest.idle -= 1;
            return self.list(d);
        }
        dest.idle += 1;
        if !std::mem::replace(&mut dest.rests, true) {
            self.resting.push(d);
        }
    }

    /// A connection that was opening or open has ended.
    pub fn closed(&mut self, d: DestId) {
        let dest = &mut self.destinations[d as usize];
        dest.connections -= 1;
        self.connections -= 1;
        self.shares.leave(&dest.share);
        self.list(d);
    }

    /// The next hop has answered to a message. `true`: it had been failing.
    pub fn answered(&mut self, d: DestId, now: Mono) -> bool {
        let first = self.rules.window;
        let dest = self.dest(d);
        dest.answered = now;
        if dest.failures == 0 {
            return false;
        }
        dest.failures = 0;
        dest.window = first.clamp(1, dest.limits.connections.max(1));
        self.unpause(d);
        true
    }

    /// A connection has worked to its end.
    pub fn worked(&mut self, d: DestId) {
        let dest = self.dest(d);
        dest.failures = 0;
        dest.window = (dest.window + 1).min(dest.limits.connections.max(1));
        self.unpause(d);
    }

    /// A connection to `d` could not be opened, or broke. While others work, fewer are opened;
    /// else `d` is left alone for a while, longer each time: gives the end of that.
    pub fn failed(&mut self, d: DestId, now: Mono, random: u64) -> Option<Mono> {
        let pause = self.rules.pause;
        let dest = self.dest(d);
        // Several connections that fail within one pause are one failure.
        if let Some(until) = dest.paused.filter(|until| *until > now) {
            return Some(until);
        }
        dest.window = (dest.window / 2).max(1);
        if dest.connections > 1 && dest.answered > Mono(0) && now.since(dest.answered) < pause.first {
            return None;
        }
        self.unpause(d);
        let dest = &mut self.destinations[d as usize];
        // Others need not wait for one that wants nothing.
        dest.starve(false, &self.shares, self.member);
        dest.failures += 1;
        let until = now.after(pause.wait(dest.failures, random));
        dest.paused = Some(until);
        self.ready_paused += self.backlog(d);
        self.look_at(d, Some(until));
        Some(until)
    }

    /// Ends the pause of `d` (an operator asked for a flush); other limits stay.
    pub fn unpause(&mut self, d: DestId) {
        if self.dest(d).paused.take().is_some() {
            self.ready_paused -= self.backlog(d);
            self.look_at(d, None);
        }
        self.list(d);
    }

    /// Ends all pauses.
    pub fn unpause_all(&mut self) {
        self.wake(Mono(u64::MAX));
    }

    /// The earliest time after `now` at which [`Self::open_next`] may say something new by itself,
    /// as far as it has been asked.
    #[must_use]
    pub fn next_look(&self, now: Mono) -> Option<Mono> {
        if self.stopped {
            return None;
        }
        self.looks.range((Mono(now.0 + 1), 0)..).next().map(|l| l.0)
    }

    /// Once a second: which destinations take work as fast as the machine gives it. Holding
    /// senders back helps only against the backlog of those.
    pub fn measure(&mut self, fast_per_second: u32) {
        self.fast.clear();
        if fast_per_second == 0 {
            self.fast.extend(0..self.destinations.len() as DestId);
        }
        let mut taking = std::mem::take(&mut self.taking);
        for d in taking.drain(..) {
            let dest = self.dest(d);
            dest.measured = false;
            // Its list may have been long, once.
            dest.ready.trim();
            if std::mem::take(&mut dest.taken) >= fast_per_second && fast_per_second > 0 {
                self.fast.push(d);
            }
        }
        self.taking = taking;
    }

    /// The longest list of a destination that was fast at the last [`Self::measure`].
    #[must_use]
    pub fn backlog_fast(&self) -> usize {
        self.fast.iter().map(|d| self.backlog(*d)).max().unwrap_or(0)
    }

    /// Limits of `d`.
    #[must_use]
    pub fn limits(&self, d: DestId) -> Limits {
        self.destinations[d as usize].limits
    }

    /// New limits for `d`.
    pub fn set_limits(&mut self, d: DestId, limits: Limits) {
        let dest = self.dest(d);
        dest.window = dest.window.clamp(1, limits.connections.max(1));
        dest.share.set_rate(limits.rate);
        dest.limits = limits;
        self.list(d);
    }

    /// Starts nothing any more.
    pub fn stop(&mut self) {
        self.stopped = true;
        for dest in &mut self.destinations {
            dest.starve(false, &self.shares, self.member);
            if std::mem::take(&mut dest.refused) {
                dest.share.forget(self.member);
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

    /// Number of destinations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.destinations.len()
    }

    /// True if there is no destination.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.destinations.is_empty()
    }

    /// Bytes of memory held by the lists.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.destinations.iter().map(|d| d.ready.heap_bytes()).sum()
    }

    /// A destination as operators see it.
    #[must_use]
    pub fn view(&self, d: DestId) -> View {
        let dest = &self.destinations[d as usize];
        View {
            key: dest.key.to_string(),
            ready: dest.ready.len(),
            connections: dest.connections,
            failures: dest.failures,
            paused: dest.paused,
        }
    }

    fn dest(&mut self, d: DestId) -> &mut Destination {
        &mut self.destinations[d as usize]
    }
}

#[cfg(test)]
mod tests;

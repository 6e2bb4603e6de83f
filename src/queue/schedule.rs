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

use crate::base::time::Mono;
use crate::queue::index::{DestId, Key};
use crate::queue::pace::{Backoff, Rate};
use crate::queue::shares::{SLICE, Share, Shares};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    ready: VecDeque<Work>,
    /// Opening or open.
    connections: u32,
    idle: u32,
    window: u32,
    failures: u32,
    paused: Option<Mono>,
    /// When the next hop last answered.
    answered: Mono,
    opened: Mono,
    /// Stands in the ring of those that may want a connection.
    listed: bool,
    /// Messages taken since the last look at the speed.
    taken: u32,
}

impl Destination {
    /// Whether it stands in line for a connection that another queue of this core gives up.
    fn starve(&mut self, starving: bool, member: u32) {
        match (std::mem::replace(&mut self.starving, starving), starving) {
            (false, true) => self.share.starve(member),
            (true, false) => self.share.feed(member),
            _ => {}
        }
    }
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
    /// Destinations with work that may want a connection, in turn.
    ring: VecDeque<DestId>,
    /// Those that are left alone, by the end of that; they are not in the ring.
    asleep: BTreeSet<(Mono, DestId)>,
    /// Those that were fast at the last measurement.
    fast: Vec<DestId>,
    connections: u32,
    ready: usize,
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
            asleep: BTreeSet::new(),
            fast: Vec::new(),
            connections: 0,
            ready: 0,
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
            ready: VecDeque::new(),
            connections: 0,
            idle: 0,
            window: self.rules.window.clamp(1, limits.connections.max(1)),
            failures: 0,
            paused: None,
            answered: Mono(0),
            opened: Mono(0),
            listed: false,
            taken: 0,
        });
        self.names.insert(key.into(), id);
        (id, true)
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
        if !self.may_send(d, now) {
            return None;
        }
        let member = self.member;
        let dest = self.dest(d);
        let work = dest.ready.pop_front()?;
        dest.share.pass(member, now);
        dest.taken += 1;
        self.ready -= 1;
        Some(work.key)
    }

    /// Whether the gate is open. If only the rate is in the way, other queues learn that we wait.
    fn may_send(&self, d: DestId, now: Mono) -> bool {
        let gate = self.gate(d, now);
        let dest = &self.destinations[d as usize];
        if matches!(gate, Gate::Rate(_)) && !dest.ready.is_empty() {
            dest.share.refuse(self.member);
        }
        gate == Gate::Open
    }

    /// What was taken last for `d` is not sent now: it does not count against the rate.
    pub fn not_sent(&mut self, d: DestId) {
        let member = self.member;
        let dest = self.dest(d);
        dest.share.give_back(member);
        dest.taken = dest.taken.saturating_sub(1);
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
        self.asleep.iter().map(|a| self.backlog(a.1)).sum()
    }

    /// Destinations with work that are not left alone.
    pub fn waiting(&self) -> impl Iterator<Item = DestId> + use<'_> {
        self.ring.iter().copied().filter(|d| self.backlog(*d) > 0)
    }

    /// The next destination, in turn, that should get another connection; it counts as opening.
    pub fn open_next(&mut self, now: Mono) -> Option<DestId> {
        if self.stopped {
            return None;
        }
        self.wake(now);
        for _ in 0..self.ring.len() {
            if self.shares.open() >= self.rules.connections {
                return None;
            }
            let d = self.ring.pop_front()?;
            let dest = &mut self.destinations[d as usize];
            if dest.ready.is_empty() || dest.paused.is_some() {
                dest.listed = false;
                dest.starve(false, self.member);
                continue;
            }
            self.ring.push_back(d);
            if self.wants(d, now) && self.has_place(d) {
                let dest = &mut self.destinations[d as usize];
                dest.connections += 1;
                dest.opened = now;
                self.connections += 1;
                self.shares.enter(&dest.share);
                return Some(d);
            }
        }
        None
    }

    /// Whether the limit of all queues together lets `d` have one more connection. Without any, it
    /// gets in line.
    fn has_place(&mut self, d: DestId) -> bool {
        let member = self.member;
        let dest = self.dest(d);
        let free = dest.share.open() < dest.limits.connections.max(1) && dest.share.is_next(member);
        if dest.connections == 0 {
            dest.starve(!free, member);
        }
        free
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

    /// Pauses that are over end.
    fn wake(&mut self, now: Mono) {
        while let Some(&(until, d)) = self.asleep.first().filter(|a| a.0 <= now) {
            self.asleep.remove(&(until, d));
            self.dest(d).paused = None;
            self.list(d);
        }
    }

    /// True if something has just come for `d` that may call for another connection.
    #[must_use]
    pub fn wants_look(&self, d: DestId) -> bool {
        let dest = &self.destinations[d as usize];
        dest.connections == 0 || dest.ready.len() > self.rules.deep * dest.connections as usize
    }

    fn wants(&self, d: DestId, now: Mono) -> bool {
        let dest = &self.destinations[d as usize];
        let Some(first) = dest.ready.front() else { return false };
        if !self.may_send(d, now) {
            return false;
        }
        if dest.connections == 0 {
            return true;
        }
        // While a destination has failed and not worked since, one connection probes it.
        let most = if dest.failures > 0 { 1 } else { dest.window.min(dest.limits.connections) };
        if dest.connections >= most || dest.idle > 0 {
            return false;
        }
        let deep = dest.ready.len() > self.rules.deep * dest.connections as usize;
        let waited = now.since(first.since.max(dest.opened)) >= self.rules.patience;
        deep || waited
    }

    /// A connection to `d` has no work now (`true`), or has again.
    pub fn idle(&mut self, d: DestId, idle: bool) {
        let dest = self.dest(d);
        if idle {
            dest.idle += 1;
        } else {
            dest.idle -= 1;
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
        let dest = self.dest(d);
        dest.failures += 1;
        let until = now.after(pause.wait(dest.failures, random));
        dest.paused = Some(until);
        self.asleep.insert((until, d));
        Some(until)
    }

    /// Ends the pause of `d` (an operator asked for a flush); other limits stay.
    pub fn unpause(&mut self, d: DestId) {
        if let Some(until) = self.dest(d).paused.take() {
            self.asleep.remove(&(until, d));
        }
        self.list(d);
    }

    /// Ends all pauses.
    pub fn unpause_all(&mut self) {
        self.wake(Mono(u64::MAX));
    }

    /// Goes through the list of `d` and takes out the messages that `keep` does not want.
    pub fn retain(&mut self, d: DestId, mut keep: impl FnMut(Key) -> bool) {
        let dest = &mut self.destinations[d as usize];
        let before = dest.ready.len();
        dest.ready.retain(|w| keep(w.key));
        if dest.ready.is_empty() {
            dest.starve(false, self.member);
        }
        self.ready -= before - self.destinations[d as usize].ready.len();
    }

    /// The earliest time after `now` at which [`Self::open_next`] may say something new by itself.
    #[must_use]
    pub fn next_look(&self, now: Mono) -> Option<Mono> {
        if self.stopped {
            return None;
        }
        let look = |&d: &DestId| {
            let dest = &self.destinations[d as usize];
            let first = dest.ready.front()?;
            match self.gate(d, now) {
                Gate::Rate(at) | Gate::Paused(at) => Some(at),
                Gate::Stopped => None,
                Gate::Open => Some(first.since.max(dest.opened).after(self.rules.patience)),
            }
        };
        let asleep = self.asleep.first().map(|a| a.0);
        self.ring.iter().filter_map(look).chain(asleep).filter(|at| *at > now).min()
    }

    /// Once a second: which destinations take work as fast as the machine gives it. Holding
    /// senders back helps only against the backlog of those.
    pub fn measure(&mut self, fast_per_second: u32) {
        self.fast.clear();
        for (d, dest) in self.destinations.iter_mut().enumerate() {
            if std::mem::take(&mut dest.taken) >= fast_per_second {
                self.fast.push(d as DestId);
            }
        }
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
    }

    /// Starts nothing any more.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.destinations.iter_mut().for_each(|dest| dest.starve(false, self.member));
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
mod tests {
    use super::*;
    use crate::base::ids::MessageId;
    use crate::message::body::BodyFlags;
    use crate::queue::index::{Entry, Index};
    use proptest::prelude::*;

    fn keys(n: u64) -> Vec<Key> {
        let mut index = Index::default();
        (1..=n).map(|i| index.insert(Entry::new(MessageId(i), 1, BodyFlags(0)))).collect()
    }

    fn secs(s: u64) -> Mono {
        Mono(s * 1_000_000_000)
    }

    fn limits(connections: u32) -> Limits {
        Limits { connections, ..Limits::default() }
    }

    #[test]
    fn connections_are_few_until_the_backlog_is_deep_or_has_waited() {
        let mut s = Schedule::new(Rules::default(), Rc::default());
        let d = s.destination("a", || limits(3)).0;
        let k = keys(200);
        s.push(d, k[0], secs(1));
        assert_eq!(s.open_next(secs(1)), Some(d));
        s.push(d, k[1], secs(1));
        assert_eq!(s.open_next(secs(1)), None, "one is on its way");
        assert_eq!(s.next_look(secs(1)), Some(secs(2)));
        assert_eq!(s.open_next(secs(2)), Some(d), "has waited");
        k[2..140].iter().for_each(|&k| s.push(d, k, secs(2)));
        assert_eq!(s.open_next(secs(2)), Some(d), "deep");
        assert_eq!(s.open_next(secs(9)), None, "limit");
        s.closed(d);
        s.idle(d, true);
        assert_eq!(s.open_next(secs(9)), None, "one is idle");
    }

    #[test]
    fn a_dead_destination_is_left_alone_longer_each_time_and_probed_by_one() {
        let mut s = Schedule::new(Rules::default(), Rc::default());
        let d = s.destination("a", Limits::default).0;
        keys(200).iter().for_each(|&k| s.push(d, k, secs(0)));
        assert_eq!(s.open_next(secs(1)), Some(d));
        assert_eq!(s.failed(d, secs(1), 200), Some(secs(61)));
        assert_eq!(s.failed(d, secs(2), 200), Some(secs(61)), "one failure");
        s.closed(d);
        assert_eq!((s.open_next(secs(60)), s.take(d, secs(60))), (None, None));
        assert_eq!((s.backlog_paused(), s.next_look(secs(60))), (200, Some(secs(61))));
        assert_eq!(s.open_next(secs(61)), Some(d));
        assert_eq!(s.open_next(secs(70)), None, "one probes");
        assert_eq!(s.failed(d, secs(70), 200), Some(secs(190)));
        assert!(s.answered(d, secs(71)) && !s.answered(d, secs(72)));
        assert_eq!(s.gate(d, secs(72)), Gate::Open);
        assert_eq!(s.open_next(secs(72)), Some(d));
        assert_eq!(s.failed(d, secs(73), 200), None, "another connection works");
        s.closed(d);
        assert_eq!(s.failed(d, secs(74), 200), Some(secs(134)));
    }

    #[test]
    fn destinations_take_turns() {
        let mut s = Schedule::new(Rules { connections: 4, ..Rules::default() }, Rc::default());
        let k = keys(1000);
        let d: Vec<_> = ["a", "b", "c"].iter().map(|n| s.destination(n, Limits::default).0).collect();
        k[..998].iter().for_each(|&k| s.push(d[0], k, secs(0)));
        s.push(d[1], k[998], secs(0));
        s.push(d[2], k[999], secs(0));
        let opened: Vec<_> = std::iter::from_fn(|| s.open_next(secs(0))).collect();
        assert_eq!(opened, [d[0], d[1], d[2], d[0]]);
        s.closed(d[1]);
        s.stop();
        assert_eq!((s.open_next(secs(5)), s.take(d[0], secs(5))), (None, None));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Push(usize),
        Open,
        Take(usize),
        GiveBack,
        Close,
        Fail,
        Work,
        Wait(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0usize..4).prop_map(Op::Push),
            3 => Just(Op::Open),
            4 => any::<usize>().prop_map(Op::Take),
            1 => Just(Op::GiveBack),
            1 => Just(Op::Close),
            1 => Just(Op::Fail),
            1 => Just(Op::Work),
            2 => (0u64..20_000).prop_map(Op::Wait),
        ]
    }

    proptest! {
        #[test]
        fn limits_hold_and_nothing_is_lost_or_starved(ops in proptest::collection::vec(op(), 1..400)) {
            let rate = Rate { count: 5, per: Duration::from_secs(10) };
            let rules = Rules { connections: 6, deep: 2, ..Rules::default() };
            let mut s = Schedule::new(rules, Rc::default());
            let names = ["a", "b", "c", "d"];
            for (i, n) in names.iter().enumerate() {
                let rate = if i == 0 { rate } else { Rate::default() };
                s.destination(n, || Limits { connections: i as u32 + 1, rate, ..Limits::default() });
            }
            let k = keys(400);
            let (mut pushed, mut taken) = (0usize, Vec::new());
            let mut open: Vec<DestId> = Vec::new();
            let mut times = Vec::new();
            let mut now = secs(1);
            for op in ops {
                match op {
                    Op::Push(d) => { s.push(d as DestId, k[pushed], now); pushed += 1; }
                    Op::Open => if let Some(d) = s.open_next(now) { open.push(d); },
                    Op::Take(n) if !open.is_empty() => {
                        let d = open[n % open.len()];
                        if let Some(key) = s.take(d, now) {
                            if d == 0 { times.push(now); }
                            taken.push((d, key));
                        }
                    }
                    Op::GiveBack => if let Some((d, key)) = taken.pop() { s.push_front(d, key, now); },
                    Op::Close => if let Some(d) = open.pop() { s.closed(d); },
                    Op::Fail => if let Some(&d) = open.last() { s.failed(d, now, 7); },
                    Op::Work => if let Some(&d) = open.last() { s.worked(d); },
                    Op::Wait(ms) => now = now.after(Duration::from_millis(ms)),
                    Op::Take(_) => {}
                }
                prop_assert!(open.len() <= 6 && s.connections() as usize == open.len());
                for d in 0..4u32 {
                    prop_assert!(open.iter().filter(|o| **o == d).count() <= d as usize + 1);
                }
                prop_assert_eq!(s.backlog_all() + taken.len(), pushed);
            }
            for (i, t) in times.iter().enumerate() {
                prop_assert!(times[i..].iter().filter(|u| u.since(*t) < rate.per).count() <= 5);
            }
            // With all faults over, everything gets out.
            s.unpause_all();
            for d in open.drain(..) { s.closed(d); }
            let mut turns = 0;
            while s.backlog_all() > 0 {
                turns += 1;
                prop_assert!(turns < 4000, "stuck");
                while let Some(d) = s.open_next(now) { open.push(d); }
                for d in open.drain(..) {
                    while let Some(key) = s.take(d, now) { taken.push((d, key)); }
                    s.worked(d);
                    s.closed(d);
                }
                if let Some(at) = s.next_look(now) { now = at; }
            }
            let mut all: Vec<_> = taken.iter().map(|t| format!("{:?}", t.1)).collect();
            all.sort();
            all.dedup();
            prop_assert_eq!(all.len(), pushed);
        }
    }
}

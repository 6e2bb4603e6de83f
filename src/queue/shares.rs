//! L2: what the queues of one core share of each destination: its connections and its rate.
//!
//! A core may drive several logs: its own, and those of cores that are gone. The limits of a
//! destination hold for all of them together. Three rules, so that none of them starves:
//!
//! 1. Queues that have work and no connection stand in line; free places are theirs, in that order.
//! 2. If there is no place for it, one connection that was opened [`SLICE`] ago or longer is given up.
//! 3. Under a rate, queues that had to wait stand in line too. One that does not come in its turn
//!    (for half an interval, [`TURN`] at most) has lost it.
//!
//! Counts only: no clock, no names beyond those of the destinations. A count that does not add up is
//! a bug and panics. One thread.

use crate::base::time::Mono;
use crate::queue::index::DestId;
use crate::queue::pace::{Pace, Rate};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// How long a queue may keep a connection that another queue waits for.
pub const SLICE: Duration = Duration::from_secs(10);
/// How long a queue's turn is kept under a rate, at most.
pub const TURN: Duration = Duration::from_secs(1);

/// What the queues of one core share.
#[derive(Debug, Default)]
pub struct Shares {
    open: Cell<u32>,
    members: Cell<u32>,
    /// Destinations of members, to be looked at: there may be a place for them now.
    freed: RefCell<BTreeMap<u32, Vec<DestId>>>,
    by_key: RefCell<BTreeMap<Box<str>, Rc<Share>>>,
}

impl Shares {
    /// One more queue; gives its number.
    pub fn join(&self) -> u32 {
        let number = self.members.get() + 1;
        self.members.set(number);
        number
    }

    /// The destination `key`, from now on with this rate.
    pub fn share(&self, key: &str, rate: Rate) -> Rc<Share> {
        if let Some(share) = self.by_key.borrow().get(key) {
            share.set_rate(rate);
            return share.clone();
        }
        let share = Rc::new(Share::new(rate));
        self.by_key.borrow_mut().insert(key.into(), share.clone());
        share
    }

    /// Connections over all destinations.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.get()
    }

    /// A connection is being opened.
    pub fn enter(&self, share: &Share) {
        self.open.set(self.open.get() + 1);
        share.open.set(share.open.get() + 1);
    }

    /// It has ended.
    pub fn leave(&self, share: &Share) {
        let less = |n: &Cell<u32>| n.set(n.get().checked_sub(1).expect("a connection ends once"));
        less(&self.open);
        less(&share.open);
        self.free(share);
    }

    /// `member` has a connection to `share` now, or no work for it.
    pub fn feed(&self, share: &Share, member: u32) {
        share.feed(member);
        self.free(share);
    }

    /// Whoever waits for a place at `share` is to look. Each member waits there once at most.
    fn free(&self, share: &Share) {
        let mut refused = share.refused.borrow_mut();
        if refused.is_empty() {
            return;
        }
        let mut freed = self.freed.borrow_mut();
        for (member, d) in refused.drain(..) {
            freed.entry(member).or_default().push(d);
        }
    }

    /// `member` opens nothing any more.
    pub fn forget(&self, member: u32) {
        self.freed.borrow_mut().remove(&member);
    }

    /// Destinations that `member` is to look at: it had been refused a place, and may get one now.
    #[must_use]
    pub fn take_freed(&self, member: u32) -> Vec<DestId> {
        self.freed.borrow_mut().remove(&member).unwrap_or_default()
    }
}

/// One destination.
#[derive(Debug)]
pub struct Share {
    rate: Cell<Rate>,
    pace: Cell<Pace>,
    /// Queues that had to wait for the rate.
    turns: RefCell<VecDeque<u32>>,
    open: Cell<u32>,
    /// Queues with work and without a connection.
    line: RefCell<VecDeque<u32>>,
    /// Connections that are to be given up for them; never more than they are.
    owed: Cell<usize>,
    /// Queues that were refused a place, and what they call this destination.
    refused: RefCell<Vec<(u32, DestId)>>,
}

impl Share {
    fn new(rate: Rate) -> Self {
        Share {
            rate: Cell::new(rate),
            pace: Cell::new(Pace::new(rate)),
            turns: RefCell::default(),
            open: Cell::new(0),
            line: RefCell::default(),
            owed: Cell::new(0),
            refused: RefCell::default(),
        }
    }

    /// From now on this rate. Each queue says so; only the first time means a change.
    pub fn set_rate(&self, rate: Rate) {
        if self.rate.replace(rate) != rate {
            self.pace.set(Pace::new(rate));
            self.turns.borrow_mut().clear();
        }
    }

    /// When `member` may send the next message.
    #[must_use]
    pub fn earliest(&self, member: u32) -> Mono {
        let pace = self.pace.get();
        match self.turns.borrow().front() {
            Some(next) if *next != member => pace.earliest().after(TURN.min(pace.interval() / 2)),
            _ => pace.earliest(),
        }
    }

    /// `member` sends a message. Panics if it must not yet.
    pub fn pass(&self, member: u32, now: Mono) {
        let mut pace = self.pace.get();
        if pace.interval().is_zero() {
            return;
        }
        assert!(self.earliest(member) <= now && pace.pass(now), "an open gate lets pass");
        self.pace.set(pace);
        let mut turns = self.turns.borrow_mut();
        turns.pop_front();
        turns.retain(|m| *m != member);
    }

    /// The message was not sent: its place is still that of `member`.
    pub fn give_back(&self, member: u32) {
        let mut pace = self.pace.get();
        if pace.interval().is_zero() {
            return;
        }
        pace.give_back();
        self.pace.set(pace);
        let mut turns = self.turns.borrow_mut();
        turns.retain(|m| *m != member);
        turns.push_front(member);
    }

    /// `member` would have sent if the rate had let it.
    pub fn refuse(&self, member: u32) {
        let mut turns = self.turns.borrow_mut();
        if !turns.contains(&member) {
            turns.push_back(member);
        }
    }

    /// Connections of all queues together.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.get()
    }

    /// `member`, with work and without a connection, gets in line.
    pub fn starve(&self, member: u32) {
        self.line.borrow_mut().push_back(member);
        self.owed.set(self.owed.get() + 1);
    }

    /// It has one now, or no work.
    fn feed(&self, member: u32) {
        let mut line = self.line.borrow_mut();
        line.retain(|m| *m != member);
        self.owed.set(self.owed.get().min(line.len()));
    }

    /// Whether a free place is for `member`: nobody stands in line before it.
    #[must_use]
    pub fn is_next(&self, member: u32) -> bool {
        self.line.borrow().front().is_none_or(|m| *m == member)
    }

    /// `member`, which calls it `d`, is to look again when a place may be free.
    pub fn wait(&self, member: u32, d: DestId) {
        self.refused.borrow_mut().push((member, d));
    }

    /// `member` does not want to look any more.
    pub fn forget(&self, member: u32) {
        self.refused.borrow_mut().retain(|r| r.0 != member);
    }

    /// Whether a connection is to be given up.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        self.owed.get() > 0
    }

    /// One is being given up.
    pub fn pay(&self) {
        self.owed.set(self.owed.get().checked_sub(1).expect("paid what is owed"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::MessageId;
    use crate::message::body::BodyFlags;
    use crate::queue::index::{Entry, Index};
    use crate::queue::schedule::{Limits, Rules, Schedule};
    use proptest::prelude::*;

    fn ms(n: u64) -> Mono {
        Mono(n * 1_000_000)
    }

    #[test]
    fn a_rate_is_shared_in_turns() {
        let shares = Shares::default();
        let (a, b) = (shares.join(), shares.join());
        let s = shares.share("x", Rate { count: 1, per: Duration::from_secs(10) });
        assert!(Rc::ptr_eq(&s, &shares.share("x", s.rate.get())));
        s.pass(a, ms(1_000));
        let next = s.earliest(a);
        assert!(next > ms(10_000) && s.earliest(b) == next);
        s.refuse(b);
        s.refuse(a);
        assert_eq!((s.earliest(a), s.earliest(b)), (next.after(TURN), next));
        s.pass(b, next);
        s.refuse(b);
        let next = s.earliest(a);
        assert_eq!(s.earliest(b), next.after(TURN), "in turns");
        // A has lost interest: B goes on after it, and A has lost its turn.
        s.pass(b, s.earliest(b));
        assert_eq!(s.earliest(a), s.earliest(b));
        s.refuse(a);
        s.set_rate(Rate { count: 100, per: Duration::from_secs(1) });
        s.refuse(a);
        assert!(s.earliest(b) <= ms(6), "a turn is never longer than half an interval");
        s.set_rate(Rate::default());
        assert!(s.earliest(a) <= ms(0) && s.earliest(b) <= ms(0));
    }

    /// Several queues and one destination: what is allowed is never exceeded in sum, and everything
    /// gets out.
    #[derive(Clone, Debug)]
    enum Op {
        Push(usize),
        Open(usize),
        Take(usize),
        Close(usize),
        Hold(usize),
        Wait(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0usize..3).prop_map(Op::Push),
            3 => (0usize..3).prop_map(Op::Open),
            4 => (0usize..3).prop_map(Op::Take),
            1 => (0usize..3).prop_map(Op::Close),
            1 => (0usize..3).prop_map(Op::Hold),
            2 => (0u64..20_000).prop_map(Op::Wait),
        ]
    }

    proptest! {
        #[test]
        fn limits_hold_for_all_queues_and_none_starves(
            connections in 1u32..4,
            ops in proptest::collection::vec(op(), 1..300),
        ) {
            let rate = Rate { count: 5, per: Duration::from_secs(10) };
            let limits = Limits { connections, rate, ..Limits::default() };
            let shares = Rc::new(Shares::default());
            let rules = Rules { deep: 2, ..Rules::default() };
            let mut queues: Vec<Schedule> = (0..3).map(|_| Schedule::new(rules, shares.clone())).collect();
            queues.iter_mut().for_each(|q| assert!(q.destination("x", || limits).1));
            let mut index = Index::default();
            let mut open = [0u32; 3];
            let (mut now, mut times) = (ms(1_000), Vec::new());
            for (n, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Push(q) => {
                        let key = index.insert(Entry::new(MessageId(n as u64 + 1), 1, BodyFlags(0)));
                        queues[q].push(0, key, now);
                    }
                    Op::Open(q) => open[q] += u32::from(queues[q].open_next(now).is_some()),
                    Op::Take(q) if open[q] > 0 => times.extend(queues[q].take(0, now).map(|_| now)),
                    Op::Close(q) if open[q] > 0 => {
                        open[q] -= 1;
                        queues[q].closed(0);
                    }
                    Op::Hold(q) => (0..queues[q].backlog(0)).for_each(|_| queues[q].drop_first(0)),
                    Op::Take(_) | Op::Close(_) => {}
                    Op::Wait(t) => now = now.after(Duration::from_millis(t)),
                }
                prop_assert!(open.iter().sum::<u32>() <= connections && shares.open() <= connections);
            }
            // Now like the desk: each looks every second, its connections never end by themselves.
            let mut left: Vec<usize> = queues.iter().map(Schedule::backlog_all).collect();
            let mut seconds = 0;
            while left.iter().any(|n| *n > 0) {
                seconds += 1;
                prop_assert!(seconds < 2_000, "stuck: {left:?}");
                now = now.after(Duration::from_secs(1));
                for (q, open) in queues.iter_mut().zip(&mut open) {
                    *open += std::iter::from_fn(|| q.open_next(now)).count() as u32;
                    while *open > 0 && q.owes(0, now) {
                        q.pay(0);
                        q.closed(0);
                        *open -= 1;
                    }
                    if *open > 0 {
                        times.extend(q.take(0, now).map(|_| now));
                    }
                }
                prop_assert!(open.iter().sum::<u32>() <= connections);
                left = queues.iter().map(Schedule::backlog_all).collect();
            }
            for (i, t) in times.iter().enumerate() {
                prop_assert!(times[i..].iter().filter(|u| u.since(*t) < rate.per).count() <= 5);
            }
        }
    }

    #[test]
    fn no_more_is_owed_than_stand_in_line() {
        let shares = Shares::default();
        let s = shares.share("x", Rate::default());
        shares.enter(&s);
        assert!(s.is_next(1));
        s.starve(2);
        s.starve(3);
        s.pay();
        assert!(s.is_owed() && s.is_next(2) && !s.is_next(3) && !s.is_next(1));
        s.feed(2);
        assert!(s.is_owed() && s.is_next(3), "for one that was paid another came");
        s.feed(3);
        assert!(!s.is_owed() && s.is_next(1));
        shares.leave(&s);
        assert_eq!((shares.open(), s.open()), (0, 0));
    }
}

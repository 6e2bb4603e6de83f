//! L2: what the queues of one core share of each destination: its connections and its rates.
//!
//! A core may drive several logs: its own, and those of cores that are gone. The limits of a
//! destination hold for all of them together, and for all cores ([`Common`]). Three rules, so that none
//! of them starves:
//!
//! 1. Queues that have work and no connection stand in line; free places are theirs, in that order. A core
//!    of which none has a connection claims the next place that is free.
//! 2. If there is no place for it, one connection that was opened [`SLICE`] ago or longer is given up.
//! 3. Under a rate, each core takes slots from all in the order of asking, a few at a time, and uses them
//!    at their times. Queues that had to wait stand in line too; one that does not come in its turn (for
//!    half an interval, [`TURN`] at most) has lost it.
//!
//! Counts only: no clock, no names beyond those of the destinations. A count that does not add up is
//! a bug and panics. One thread.

use crate::base::time::Mono;
use crate::queue::common::{Common, Commons, Counted};
use crate::queue::pace::{Rate, Spacing};
use crate::queue::schedule::{Limits, PoolId};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long a queue, or a core, may keep a connection that another one waits for.
pub const SLICE: Duration = Duration::from_secs(10);
/// How long a queue's turn is kept under a rate, at most.
pub const TURN: Duration = Duration::from_secs(1);
/// Slots that a core takes at once reach no further than this.
const LEASE: Duration = Duration::from_millis(20);
/// Slots that a core takes at once.
const LEASE_MAX: u64 = 1000;

/// What the queues of one core share.
#[derive(Debug, Default)]
pub struct Shares {
    commons: Arc<Commons>,
    /// Number of the core.
    core: u16,
    open: Cell<u32>,
    members: Cell<u32>,
    /// Destinations of members, to be looked at: there may be a place for them now.
    freed: RefCell<BTreeMap<u32, Vec<PoolId>>>,
    by_key: RefCell<BTreeMap<Box<str>, Rc<Share>>>,
}

impl Shares {
    /// Of core `core`, which shares `commons` with others.
    #[must_use]
    pub fn new(commons: Arc<Commons>, core: u16) -> Self {
        Shares { commons, core, ..Shares::default() }
    }

    /// One more queue; gives its number.
    pub fn join(&self) -> u32 {
        let number = self.members.get() + 1;
        self.members.set(number);
        number
    }

    /// The destination `key`, from now on with these rates.
    pub fn share(&self, key: &str, limits: &Limits) -> Rc<Share> {
        if let Some(share) = self.by_key.borrow().get(key) {
            share.set_rates(limits);
            return share.clone();
        }
        let share = Rc::new(Share::new(self.commons.get(key), self.core, limits));
        self.by_key.borrow_mut().insert(key.into(), share.clone());
        share
    }

    /// Forgets the destination `key` if no other queue has it.
    pub fn forget_share(&self, key: &str, share: Rc<Share>, now: Mono) {
        // The map's and the caller's.
        if Rc::strong_count(&share) > 2 || share.open.get() > 0 {
            return;
        }
        self.by_key.borrow_mut().remove(key);
        self.commons.forget(key, &share.common, now);
    }

    /// Number of destinations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.borrow().len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.borrow().is_empty()
    }

    /// Connections over all destinations.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.get()
    }

    /// A connection is to be opened: `false` if all cores together have `limit` already.
    pub fn enter(&self, share: &Share, limit: u32, now: Mono) -> bool {
        if !share.common.enter(self.core, limit, now) {
            return false;
        }
        self.open.set(self.open.get() + 1);
        share.open.set(share.open.get() + 1);
        true
    }

    /// It has ended.
    pub fn leave(&self, share: &Share) {
        let less = |n: &Cell<u32>| n.set(n.get().checked_sub(1).expect("a connection ends once"));
        less(&self.open);
        less(&share.open);
        share.paid.set(share.paid.get().saturating_sub(1));
        share.common.leave();
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
        for (member, p) in refused.drain(..) {
            freed.entry(member).or_default().push(p);
        }
    }

    /// `member` opens nothing any more.
    pub fn forget(&self, member: u32) {
        self.freed.borrow_mut().remove(&member);
    }

    /// Destinations that `member` is to look at: it had been refused a place, and may get one now.
    #[must_use]
    pub fn take_freed(&self, member: u32) -> Vec<PoolId> {
        self.freed.borrow_mut().remove(&member).unwrap_or_default()
    }
}

/// What a message takes of the rates beyond that it is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Recipients.
    pub recipients: u64,
    /// Bytes of trace headers and body.
    pub bytes: u64,
}

/// The rates of a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Spacings {
    messages: Spacing,
    recipients: Spacing,
    bytes: Spacing,
}

impl Spacings {
    fn of(limits: &Limits) -> Self {
        let of = |rate: Rate| Spacing::new(rate);
        Spacings { messages: of(limits.rate), recipients: of(limits.recipients), bytes: of(limits.bytes) }
    }

    fn are_off(&self) -> bool {
        self.messages.is_off() && self.recipients.is_off() && self.bytes.is_off()
    }
}

/// Slots that this core has taken and not used.
#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    /// Of the first, nanoseconds.
    at: u64,
    left: u64,
    /// When the first was to be used, before it was moved.
    due: u64,
}

/// One destination.
#[derive(Debug)]
pub struct Share {
    common: Arc<Common>,
    core: u16,
    spacings: Cell<Spacings>,
    /// There is no rate: the usual case, looked at for each message.
    off: Cell<bool>,
    lease: Cell<Lease>,
    /// Queues that had to wait for the rate.
    turns: RefCell<VecDeque<u32>>,
    open: Cell<u32>,
    /// Queues with work and without a connection.
    line: RefCell<VecDeque<u32>>,
    /// Connections that are to be given up for them; never more than they are.
    owed: Cell<usize>,
    /// Connections that are being given up.
    paid: Cell<usize>,
    /// Queues that were refused a place, and what they call this destination.
    refused: RefCell<Vec<(u32, PoolId)>>,
}

impl Share {
    fn new(common: Arc<Common>, core: u16, limits: &Limits) -> Self {
        let spacings = Spacings::of(limits);
        Share {
            common,
            core,
            off: Cell::new(spacings.are_off()),
            spacings: Cell::new(spacings),
            lease: Cell::default(),
            turns: RefCell::default(),
            open: Cell::new(0),
            line: RefCell::default(),
            owed: Cell::new(0),
            paid: Cell::new(0),
            refused: RefCell::default(),
        }
    }

    /// Stands for a destination where there is none.
    #[must_use]
    pub fn nobody() -> Self {
        Share::new(Arc::default(), 0, &Limits::default())
    }

    /// From now on these rates. Each queue says so; only the first time means a change.
    pub fn set_rates(&self, limits: &Limits) {
        let new = Spacings::of(limits);
        if self.spacings.replace(new) != new {
            self.off.set(new.are_off());
            self.lease.take();
            self.turns.borrow_mut().clear();
        }
    }

    /// When `member`, which has work, may send the next message. Takes slots for it.
    #[must_use]
    pub fn earliest(&self, member: u32, now: Mono) -> Mono {
        if self.off.get() {
            return Mono(0);
        }
        let spacings = self.spacings.get();
        let next = |what, spacing: &Spacing| match spacing.is_off() {
            true => Mono(0),
            // The slack is for timers that are late.
            false => self.common.next(what),
        };
        let others =
            next(Counted::Recipients, &spacings.recipients).max(next(Counted::Bytes, &spacings.bytes));
        if spacings.messages.is_off() || others > now {
            // Slots of messages would only run out meanwhile.
            return others;
        }
        let lease = self.slot(&spacings.messages, now);
        let slot = Mono(lease.at);
        match self.turns.borrow().front() {
            Some(next) if *next != member => {
                let turn = TURN.min(Duration::from_nanos(spacings.messages.cost(1) / 2));
                slot.max(Mono(lease.due).after(turn))
            }
            _ => slot,
        }
    }

    /// The rate that is in the way at `now`, and when its next slot is; takes none.
    #[must_use]
    pub fn next_slot(&self, now: Mono) -> Option<(Counted, Mono)> {
        let (spacings, lease) = (self.spacings.get(), self.lease.get());
        let own = if lease.left > 0 { Mono(lease.at) } else { self.common.next(Counted::Messages) };
        let all = [
            (spacings.messages, Counted::Messages, own),
            (spacings.recipients, Counted::Recipients, self.common.next(Counted::Recipients)),
            (spacings.bytes, Counted::Bytes, self.common.next(Counted::Bytes)),
        ];
        let late = all.into_iter().filter(|(spacing, _, at)| !spacing.is_off() && *at > now);
        late.map(|(_, what, at)| (what, at)).max_by_key(|next| next.1)
    }

    /// The slots that this core has; some are taken if it has none.
    fn slot(&self, spacing: &Spacing, now: Mono) -> Lease {
        let mut lease = self.lease.get();
        let step = spacing.cost(1).max(1);
        let late = now.0.saturating_sub(spacing.slack().as_nanos() as u64);
        if lease.left > 0 && lease.at < late {
            // Not used in time: moved if that takes nothing from others, else lost.
            match self.common.renew(Counted::Messages, spacing, (lease.at, lease.left), now) {
                Some(at) => lease.at = at.0,
                None => {
                    let lost = (late - lease.at).div_ceil(step).min(lease.left);
                    let at = lease.at + lost * step;
                    lease = Lease { at, left: lease.left - lost, due: at };
                    // Whoever should have used them.
                    self.turns.borrow_mut().pop_front();
                }
            }
        }
        if lease.left == 0 {
            let left = (LEASE.as_nanos() as u64 / step).clamp(1, LEASE_MAX);
            let at = self.common.take(Counted::Messages, spacing, left, now).0;
            lease = Lease { at, left, due: at };
        }
        self.lease.set(lease);
        lease
    }

    /// `member` sends a message, after [`Self::earliest`] has said that it may. `false`: another core
    /// was faster.
    #[must_use]
    pub fn pass(&self, member: u32, now: Mono, cost: impl FnOnce() -> Cost) -> bool {
        if self.off.get() {
            return true;
        }
        let spacings = self.spacings.get();
        if !spacings.recipients.is_off() || !spacings.bytes.is_off() {
            let cost = cost();
            let take = |what, spacing: &Spacing, things| {
                spacing.is_off() || things == 0 || self.common.take_now(what, spacing, things, now)
            };
            if !take(Counted::Recipients, &spacings.recipients, cost.recipients)
                || !take(Counted::Bytes, &spacings.bytes, cost.bytes)
            {
                return false;
            }
        }
        if !spacings.messages.is_off() {
            let lease = self.lease.get();
            assert!(lease.left > 0 && lease.at <= now.0, "an open gate lets pass");
            let at = lease.at + spacings.messages.cost(1);
            self.lease.set(Lease { at, left: lease.left - 1, due: at });
        }
        let mut turns = self.turns.borrow_mut();
        turns.pop_front();
        turns.retain(|m| *m != member);
        true
    }

    /// The message was not sent: its slot is still that of `member`.
    pub fn give_back(&self, member: u32) {
        if self.off.get() {
            return;
        }
        let spacings = self.spacings.get();
        if spacings.messages.is_off() {
            return;
        }
        let lease = self.lease.get();
        let at = lease.at.saturating_sub(spacings.messages.cost(1));
        self.lease.set(Lease { at, left: lease.left + 1, due: at });
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

    /// Connections of all queues of this core together.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.get()
    }

    /// Connections of all cores together.
    #[must_use]
    pub fn open_everywhere(&self) -> u32 {
        self.common.open()
    }

    /// `member`, with work and without a connection, gets in line.
    pub fn starve(&self, member: u32) {
        self.line.borrow_mut().push_back(member);
        self.owed.set(self.owed.get() + 1);
    }

    /// A queue in line has found no place again: what was given up for it has gone to another core.
    pub fn owe_again(&self) {
        let line = self.line.borrow().len();
        self.owed.set(self.owed.get().max(line.saturating_sub(self.paid.get())));
    }

    /// It has one now, or no work.
    fn feed(&self, member: u32) {
        let mut line = self.line.borrow_mut();
        line.retain(|m| *m != member);
        self.owed.set(self.owed.get().min(line.len()));
        if line.is_empty() {
            self.common.disclaim(self.core);
        }
    }

    /// Whether a place is free, and for `member`: nobody stands in line before it.
    #[must_use]
    pub fn is_free(&self, member: u32, limit: u32, now: Mono) -> bool {
        self.line.borrow().front().is_none_or(|m| *m == member) && self.common.is_free(self.core, limit, now)
    }

    /// `member`, which calls it `p`, is to look again when a place may be free.
    pub fn wait(&self, member: u32, p: PoolId) {
        self.refused.borrow_mut().push((member, p));
    }

    /// There is no place because of other cores: nobody tells us when there is one. `true` if it is
    /// to be looked for again soon. A core without any connection claims the next one.
    pub fn seek(&self, now: Mono) -> bool {
        let starving = self.open.get() == 0;
        if starving {
            self.common.claim(self.core, now);
        }
        self.common.open() > self.open.get() || starving
    }

    /// `member` does not want to look any more.
    pub fn forget(&self, member: u32) {
        self.refused.borrow_mut().retain(|r| r.0 != member);
    }

    /// It does not want to look at `p` any more.
    pub fn forget_pool(&self, member: u32, p: PoolId) {
        self.refused.borrow_mut().retain(|r| *r != (member, p));
    }

    /// Whether a connection is to be given up for another queue of this core.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        self.owed.get() > 0
    }

    /// Whether one is to be given up for another core.
    #[must_use]
    pub fn is_wanted(&self, limit: u32, now: Mono) -> bool {
        self.common.claimant(now).is_some_and(|c| c != self.core) && self.common.open() >= limit
    }

    /// One is being given up for another queue of this core.
    pub fn pay(&self) {
        self.owed.set(self.owed.get().checked_sub(1).expect("paid what is owed"));
        self.paid.set(self.paid.get() + 1);
    }
}

#[cfg(test)]
mod tests;

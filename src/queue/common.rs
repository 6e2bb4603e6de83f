//! L2: what all cores share of each destination: how many connections, and which slots of its rates
//! are taken.
//!
//! Counters are atomics, looked up by name once for each destination of a core; the lock is taken then
//! only. A core touches them for each connection, and for a message only under a rate, a few slots at a
//! time. A core that has work and no connection may claim the next free place: nobody else takes it
//! then, and who has had a connection for long gives one up. A claim ends by itself, so that a core that
//! has lost interest or cannot open blocks nobody. Knows no destination beyond its name. A count that does
//! not add up is a bug and panics.

use crate::base::time::Mono;
use crate::queue::pace::Spacing;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a claim holds; who still waits renews it in time.
pub const CLAIM: Duration = Duration::from_secs(1);

/// All destinations of all cores.
#[derive(Debug, Default)]
pub struct Commons(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    by_name: BTreeMap<Box<str>, Arc<Common>>,
    /// With so many, all are looked at.
    from: usize,
}

/// Destinations from which on it is worth looking for some that nobody has any more.
const FEW: usize = 1000;

impl Commons {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The destination `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Arc<Common> {
        let mut all = self.lock();
        if let Some(common) = all.by_name.get(name) {
            return common.clone();
        }
        let common = Arc::<Common>::default();
        all.by_name.insert(name.into(), common.clone());
        common
    }

    /// Forgets the destination `name` if only the caller still has it, and none of its slots is taken
    /// for later. Now and then also others that were in use when they were given up.
    pub fn forget(&self, name: &str, common: &Arc<Common>, now: Mono) {
        let mut all = self.lock();
        // The map's and the caller's; under the lock nobody can take another one.
        if Arc::strong_count(common) == 2 && common.is_idle(now) {
            all.by_name.remove(name);
        }
        if all.by_name.len() >= all.from.max(FEW) {
            all.by_name.retain(|_, common| Arc::strong_count(common) > 1 || !common.is_idle(now));
            all.from = 2 * all.by_name.len();
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().by_name.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One destination, of all cores.
#[derive(Debug, Default)]
pub struct Common {
    open: AtomicU32,
    /// Until when a core claims the next free place, milliseconds, and in the lowest bits its number
    /// plus one. 0: nobody does.
    claim: AtomicU64,
    /// Slots of messages before this are taken, nanoseconds; the same for recipients and bytes.
    messages: AtomicU64,
    recipients: AtomicU64,
    bytes: AtomicU64,
}

/// Bits of a claim that say whose it is.
const WHO: u32 = 16;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    /// Messages.
    Messages,
    /// Recipients.
    Recipients,
    /// Bytes.
    Bytes,
}

impl Common {
    /// Connections of all cores.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Core `core` opens a connection, if fewer than `limit` are open and nobody claims the place.
    pub fn enter(&self, core: u16, limit: u32, now: Mono) -> bool {
        if !self.is_free(core, limit, now) {
            return false;
        }
        let less = |n: u32| (n < limit).then_some(n + 1);
        if self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
            return false;
        }
        self.disclaim(core);
        true
    }

    /// Whether [`Self::enter`] would work right now.
    #[must_use]
    pub fn is_free(&self, core: u16, limit: u32, now: Mono) -> bool {
        self.open() < limit && self.claimant(now).is_none_or(|c| c == core)
    }

    /// A connection has ended.
    pub fn leave(&self) {
        let before = self.open.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "a connection ends once");
    }

    /// The core that claims the next free place.
    #[must_use]
    pub fn claimant(&self, now: Mono) -> Option<u16> {
        let claim = self.claim.load(Ordering::Relaxed);
        let holds = claim != 0 && claim >> WHO > now.0 / 1_000_000;
        holds.then(|| ((claim & 0xffff) as u16).wrapping_sub(1))
    }

    /// Core `core` claims the next free place, or goes on to; in vain while another one does.
    pub fn claim(&self, core: u16, now: Mono) {
        let seen = self.claim.load(Ordering::Relaxed);
        if self.claimant(now).is_none_or(|c| c == core) {
            let until = now.after(CLAIM).0 / 1_000_000;
            let new = until << WHO | u64::from(core.wrapping_add(1));
            // Another one was faster.
            let _ = self.claim.compare_exchange(seen, new, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Core `core` claims nothing any more.
    pub fn disclaim(&self, core: u16) {
        let seen = self.claim.load(Ordering::Relaxed);
        if seen != 0 && seen & 0xffff == u64::from(core.wrapping_add(1)) {
            let _ = self.claim.compare_exchange(seen, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn counter(&self, what: Counted) -> &AtomicU64 {
        match what {
            Counted::Messages => &self.messages,
            Counted::Recipients => &self.recipients,
            Counted::Bytes => &self.bytes,
        }
    }

    /// When the next slot is, if nobody takes it before.
    #[must_use]
    pub fn next(&self, what: Counted) -> Mono {
        Mono(self.counter(what).load(Ordering::Relaxed))
    }

    /// Takes the next slots for `things`: gives the time of the first. It may be in the future: then
    /// it is kept for the caller, in the order of who asked.
    pub fn take(&self, what: Counted, spacing: &Spacing, things: u64, now: Mono) -> Mono {
        // A whole number of steps: each is used at its own time.
        let (counter, cost) = (self.counter(what), spacing.cost(1).saturating_mul(things));
        let mut next = counter.load(Ordering::Relaxed);
        loop {
            let first = spacing.first(next, now);
            let after = first.saturating_add(cost);
            match counter.compare_exchange_weak(next, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Mono(first),
                Err(other) => next = other,
            }
        }
    }

    /// Slots for `things` that begin at `at` were not used in time: they are moved to now, unless others
    /// have taken slots behind them.
    pub fn renew(
        &self,
        what: Counted,
        spacing: &Spacing,
        (at, things): (u64, u64),
        now: Mono,
    ) -> Option<Mono> {
        let (cost, first) = (spacing.cost(1).saturating_mul(things), spacing.first(at, now));
        let (old, new) = (at.saturating_add(cost), first.saturating_add(cost));
        let counter = self.counter(what);
        let moved = counter.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
        moved.ok().map(|_| Mono(first))
    }

    /// Takes the next slots for `things` if the first one is now.
    pub fn take_now(&self, what: Counted, spacing: &Spacing, things: u64, now: Mono) -> bool {
        let (counter, cost) = (self.counter(what), spacing.cost(things));
        let later = |next: u64| {
            let first = spacing.first(next, now);
            (first <= now.0).then(|| first.saturating_add(cost))
        };
        counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).is_ok()
    }

    fn is_idle(&self, now: Mono) -> bool {
        let all = [Counted::Messages, Counted::Recipients, Counted::Bytes];
        self.open() == 0 && all.into_iter().all(|what| self.next(what) <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::pace::Rate;

    fn ms(n: u64) -> Mono {
        Mono(n * 1_000_000)
    }

    #[test]
    fn a_free_place_is_for_who_claims_it_until_the_claim_ends() {
        let c = Common::default();
        assert!(c.enter(0, 2, ms(5)) && c.enter(0, 2, ms(5)) && !c.enter(1, 2, ms(5)));
        c.claim(1, ms(10));
        c.claim(2, ms(11));
        assert_eq!((c.claimant(ms(12)), c.claimant(ms(1010))), (Some(1), None));
        c.leave();
        assert!(!c.enter(0, 2, ms(500)) && !c.enter(2, 2, ms(500)) && c.enter(1, 2, ms(500)));
        assert_eq!(c.claimant(ms(501)), None, "it has got what it wanted");
        c.claim(2, ms(600));
        c.disclaim(1);
        assert_eq!(c.claimant(ms(601)), Some(2));
        c.leave();
        assert!(!c.enter(0, 2, ms(1500)) && c.enter(0, 2, ms(1601)) && c.open() == 2);
    }

    #[test]
    fn slots_are_given_in_the_order_of_asking() {
        let c = Common::default();
        let s = Spacing::new(Rate { count: 10, per: Duration::from_secs(1) });
        let step = s.cost(1);
        let first = c.take(Counted::Messages, &s, 1, ms(1_000));
        assert!(first <= ms(1_000) && c.take(Counted::Messages, &s, 2, ms(1_000)).0 == first.0 + step);
        assert_eq!(c.take(Counted::Messages, &s, 1, ms(1_000)).0, first.0 + 3 * step);
        assert!(!c.take_now(Counted::Messages, &s, 1, ms(1_100)));
        assert!(c.take_now(Counted::Messages, &s, 1, Mono(first.0 + 4 * step)));
        assert_eq!(c.next(Counted::Bytes), Mono(0), "each has its own");
        let late = ms(9_000);
        let mine = c.take(Counted::Messages, &s, 1, ms(2_000));
        let moved = c.renew(Counted::Messages, &s, (mine.0, 1), late).expect("the last one");
        assert!(late.since(moved) == s.slack() && c.next(Counted::Messages).0 == moved.0 + step);
        c.take(Counted::Messages, &s, 1, late);
        assert_eq!(c.renew(Counted::Messages, &s, (moved.0, 1), ms(10_000)), None, "others are behind it");
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let all = Commons::default();
        let (a, again) = (all.get("a"), all.get("a"));
        assert!(Arc::ptr_eq(&a, &again) && all.len() == 1);
        all.forget("a", &a, ms(1));
        assert_eq!(all.len(), 1, "another core has it");
        drop(again);
        assert!(a.enter(0, 1, ms(1)));
        all.forget("a", &a, ms(1));
        assert_eq!(all.len(), 1, "it has a connection");
        a.leave();
        all.forget("a", &a, ms(1));
        assert!(all.is_empty());
    }

    #[test]
    fn what_was_in_use_when_it_was_given_up_is_forgotten_later() {
        let all = Commons::default();
        let spacing = Spacing::new(Rate { count: 1, per: Duration::from_secs(60) });
        for n in 0..5 * FEW as u64 {
            let name = format!("d{n}");
            let common = all.get(&name);
            // Its next slot is a minute away.
            common.take(Counted::Messages, &spacing, 1, ms(1_000 * n));
            all.forget(&name, &common, ms(1_000 * n));
        }
        assert!(all.len() <= FEW, "{}", all.len());
    }
}

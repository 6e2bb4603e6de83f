//! L4: which lists hold all messages that a condition can mean, and what is in them.
//!
//! The shortest of the sets of lists that will do is gone through, a bounded number of messages at a time;
//! mail flows in between. What it gives may mean messages that the condition does not, never fewer. If it is
//! more than half of the queue, all is looked at in order instead: that needs no memory.

use crate::base::ids::MessageId;
use crate::queue::chains::Kind;
use crate::queue::control::Which;
use crate::queue::desk::Desk;
use crate::queue::desk::operate::is_named;
use crate::queue::desk::select::is_suitable;
use crate::queue::index::{BUSY, DEFERRED, DestId, HELD, READY, list_of};
use crate::queue::pick::{Pick, Standing};
use crate::queue::state::State;
use crate::runtime::{Runtime, yield_now};
use std::sync::Arc;

/// Messages, or names, looked at before others run.
const STEP: usize = 4096;

/// Lists, and how many messages they hold.
#[derive(Default)]
struct Lists {
    all: Vec<(Kind, u32)>,
    count: usize,
}

impl Lists {
    fn add(&mut self, s: &mut State, kind: Kind, list: u32) {
        let count = s.index.chains().count(kind, list);
        if count > 0 {
            self.all.push((kind, list));
            self.count += count;
        }
    }
}

/// A walk through a list that ends when this is dropped.
struct Walk<'a, R: Runtime> {
    desk: &'a Desk<R>,
    number: usize,
}

impl<R: Runtime> Drop for Walk<'_, R> {
    fn drop(&mut self) {
        self.desk.0.state.borrow_mut().index.chains().end_walk(self.number);
    }
}

impl<R: Runtime> Desk<R> {
    /// The ids of messages that `pick` may mean, ascending; `None`: too many for that.
    pub(super) async fn narrow(&self, pick: &Pick) -> Option<Arc<[MessageId]>> {
        let mut plans = Vec::new();
        match pick.state {
            None => {}
            Some(Standing::Hold) => plans.push(self.by_state(&[HELD])),
            // What waits for a destination that cannot be reached is deferred, too.
            Some(Standing::Deferred) => plans.push(self.by_state(&[DEFERRED, READY])),
            Some(Standing::Active) => {
                plans.push(self.by_state(&[BUSY, READY]));
                let mut open = self.by_destination(|s, d| self.may_send(s, d)).await;
                open.add(&mut self.0.state.borrow_mut(), Kind::State, BUSY);
                plans.push(open);
            }
        }
        if pick.needs_destinations() {
            plans.push(self.by_destination(|s, d| is_suitable(s, pick, d)).await);
        }
        if let Some(pattern) = &pick.domain {
            plans.push(self.by_domain(pick, pattern).await);
        }
        self.shortest(plans).await
    }

    /// The ids of messages that are `which`, ascending, of held ones if `held`; `None`: too many for that.
    pub(super) async fn narrow_which(&self, which: &Which, held: bool) -> Option<Arc<[MessageId]>> {
        let mut plans = Vec::new();
        if held {
            plans.push(self.by_state(&[HELD]));
        }
        if let Which::Destination(name) = which {
            plans.push(self.by_destination(|s, d| is_named(s, d, name)).await);
        }
        self.shortest(plans).await
    }

    /// What is in those lists that hold the fewest messages.
    async fn shortest(&self, plans: Vec<Lists>) -> Option<Arc<[MessageId]>> {
        let shortest = plans.into_iter().min_by_key(|lists| lists.count)?;
        let (all, last) = {
            let s = self.0.state.borrow();
            (s.index.counters().messages, s.last_id)
        };
        if 2 * shortest.count > all {
            return None;
        }
        let mut ids = Vec::with_capacity(shortest.count);
        for (kind, list) in shortest.all {
            let number = self.0.state.borrow_mut().index.chains().begin_walk(kind, list);
            let walk = Walk { desk: self, number };
            while self.walk_some(&walk, last, &mut ids) {
                yield_now().await;
            }
        }
        // What has changed its list meanwhile may have been met twice.
        ids.sort_unstable();
        ids.dedup();
        Some(ids.into())
    }

    /// `false`: the list is at its end. Messages that came after `last` are not meant.
    fn walk_some(&self, walk: &Walk<'_, R>, last: MessageId, ids: &mut Vec<MessageId>) -> bool {
        let mut s = self.0.state.borrow_mut();
        for _ in 0..STEP {
            let Some(slot) = s.index.chains().step(walk.number) else { return false };
            ids.extend(s.index.id_at(slot).filter(|id| *id <= last));
        }
        true
    }

    fn by_state(&self, states: &[u32]) -> Lists {
        let mut s = self.0.state.borrow_mut();
        let mut lists = Lists::default();
        states.iter().for_each(|state| lists.add(&mut s, Kind::State, *state));
        lists
    }

    /// Nothing keeps back what goes there.
    fn may_send(&self, s: &State, d: DestId) -> bool {
        s.schedule.suspended(d).is_none() && !s.schedule.is_paused(d, self.0.rt.now())
    }

    /// Those of destinations that suit, and those that go to several.
    async fn by_destination(&self, suits: impl Fn(&State, DestId) -> bool) -> Lists {
        let mut lists = Lists::default();
        lists.add(&mut self.0.state.borrow_mut(), Kind::Destination, 0);
        let (mut from, mut more) = (0, true);
        while more {
            {
                let mut s = self.0.state.borrow_mut();
                let to = s.schedule.numbers().min(from + STEP as DestId);
                for d in from..to {
                    if s.index.chains().count(Kind::Destination, list_of(d)) > 0 && suits(&s, d) {
                        lists.add(&mut s, Kind::Destination, list_of(d));
                    }
                }
                (from, more) = (to, to < s.schedule.numbers());
            }
            yield_now().await;
        }
        lists
    }

    /// Those of domains that suit, and those of several domains or unknown ones.
    async fn by_domain(&self, pick: &Pick, pattern: &str) -> Lists {
        let mut lists = Lists::default();
        let (mut from, mut more) = (1, true);
        {
            let mut s = self.0.state.borrow_mut();
            lists.add(&mut s, Kind::Domain, 0);
            if !pattern.contains(['*', '?']) {
                let name = pattern.to_ascii_lowercase();
                if let Some(number) = s.index.chains().find_domain(name.as_bytes()) {
                    lists.add(&mut s, Kind::Domain, number);
                }
                more = false;
            }
        }
        while more {
            {
                let mut s = self.0.state.borrow_mut();
                let to = s.index.chains().domains().min(from + STEP as u32);
                for number in from..to {
                    let suits = |name: &[u8]| pick.suits_domain(name);
                    if s.index.chains().domain_name(number).is_some_and(suits) {
                        lists.add(&mut s, Kind::Domain, number);
                    }
                }
                (from, more) = (to.max(from), to < s.index.chains().domains());
            }
            yield_now().await;
        }
        lists
    }
}

//! L4: the desk's rounds: lists that are not worked off for long, destinations that nothing names any
//! more, rules of operators that are over. Once a second, a bounded number of steps.
//!
//! No message sits in a list without a deadline, whatever keeps it there: a limit, a rule, a site that is
//! full. Lists are gone through as after a failure (`reach`), at most every [`AGAIN`].

use crate::base::ids::MessageId;
use crate::base::time::{Mono, Wall};
use crate::queue::desk::Desk;
use crate::queue::index::{DestId, Key, Presence};
use crate::queue::rules::{Rule, Rules};
use crate::queue::state::{LOCAL, OwnedReply, State, Sweep};
use crate::queue::stub::SEVERAL;
use crate::runtime::Runtime;
use std::time::Duration;

/// Lists looked at in one step.
const LISTS: DestId = 2000;
/// Messages looked at in one step.
const MESSAGES: usize = 10_000;
/// A list whose first message waits so long is gone through.
const LONG: Duration = Duration::from_secs(60);
/// And then not for so long.
const AGAIN: Duration = Duration::from_secs(600);

impl<R: Runtime> Desk<R> {
    /// The steps of one second.
    pub(crate) fn tour(&self, s: &mut State, now: Mono) {
        if s.rules.expire(self.0.rt.wall()) {
            self.apply_rules(s, now);
        }
        self.tour_lists(s, now);
        self.tour_messages(s, now);
        self.look_for_unused_names(s);
    }

    /// Lists that wait for long.
    fn tour_lists(&self, s: &mut State, now: Mono) {
        let numbers = s.schedule.numbers();
        for _ in 0..LISTS.min(numbers) {
            let d = if s.tour.list < numbers { s.tour.list } else { 0 };
            s.tour.list = d + 1;
            s.schedule.trim(d);
            let long = s.schedule.waits_since(d).is_some_and(|since| now.since(since) >= LONG);
            let door = &mut s.doors[d as usize];
            if long && !door.swept && (door.toured == Mono(0) || now.since(door.toured) >= AGAIN) {
                (door.toured, door.swept) = (now, true);
                let places = s.schedule.places(d);
                s.sweeps.push_back(Sweep { d, places });
            }
        }
    }

    /// Which destinations are named by messages; the others are forgotten.
    fn tour_messages(&self, s: &mut State, now: Mono) {
        if s.loaded && s.tour.is_due(s.schedule.len()) {
            s.schedule.begin_round();
            s.tour.at = Some(MessageId(0));
        }
        if let Some(after) = s.tour.at {
            let some: Vec<(Key, MessageId, Presence)> = s.index.after(after).take(MESSAGES).collect();
            for (key, _, presence) in &some {
                seen(s, *key, *presence);
            }
            s.tour.at = some.last().map(|m| m.1);
            if s.tour.at.is_none() {
                s.tour.sorting = Some(0);
            }
            return;
        }
        let Some(from) = s.tour.sorting else { return };
        let to = s.schedule.numbers().min(from + LISTS);
        for d in from..to {
            if !s.doors[d as usize].swept {
                s.schedule.forget(d, now);
            }
        }
        s.tour.sorting = Some(to);
        if to == s.schedule.numbers() {
            s.schedule.forget_pools(now);
            s.tour.end(s.schedule.len());
        }
    }

    /// New rules of operators.
    pub(crate) fn set_rules(&self, rules: &[Rule]) {
        let mut s = self.0.state.borrow_mut();
        s.rules = Rules::new(rules);
        s.rules.expire(self.0.rt.wall());
        self.apply_rules(&mut s, self.0.rt.now());
    }

    fn apply_rules(&self, s: &mut State, now: Mono) {
        let all: Vec<DestId> = s.schedule.destinations().collect();
        for d in all {
            let before = s.schedule.suspended(d);
            self.suspend(s, d);
            if before.is_some() && s.schedule.suspended(d).is_none() {
                s.call(d, now);
            }
        }
    }

    /// Brings what the rules say of `d` up to date.
    pub(crate) fn suspend(&self, s: &mut State, d: DestId) {
        let rule = rule_for(s, d, self.0.rt.wall()).map(|r| r.number);
        s.schedule.suspend(d, rule);
    }
}

/// The rule that keeps `d`.
pub(crate) fn rule_for(s: &State, d: DestId, wall: Wall) -> Option<&Rule> {
    if s.rules.is_empty() {
        return None;
    }
    let view = s.schedule.view(s.schedule.pool_of(d));
    s.rules.first(&[s.schedule.name(d), &view.key, &view.shared], wall)
}

/// What the rule says to senders and lists.
pub(crate) fn rule_reason(s: &State, d: DestId) -> Option<OwnedReply> {
    let rule = s.rules.get(s.schedule.suspended(d)?)?;
    // RFC 3463 §3.5: system not accepting network messages.
    let text = format!("suspended by rule {} of {}: {}", rule.number, rule.by, rule.reason);
    Some(OwnedReply::ours([4, 3, 2], text.as_bytes()))
}

/// The destinations that `key` names.
fn seen(s: &mut State, key: Key, presence: Presence) {
    match presence {
        Presence::Gone => {}
        Presence::Parked => {
            let stub = s.index.stub(key).map(|stub| stub.destination);
            if let Some(d) = stub.filter(|d| *d != SEVERAL) {
                s.schedule.seen(d);
            }
        }
        Presence::Rich => {
            let State { index, schedule, .. } = s;
            let Some(e) = index.get(key) else { return };
            let open = e.recipients.iter().filter(|r| !r.phase.is_done() && r.destination < LOCAL);
            open.for_each(|r| schedule.seen(r.destination));
        }
    }
}

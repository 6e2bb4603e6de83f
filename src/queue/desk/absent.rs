//! L4: messages to several destinations that have no place in the lists of some of them.
//!
//! A message to a thousand destinations that do not answer would stand in a thousand lists for days. So in
//! the list of a destination that does not answer (or never has) only a few messages of several
//! destinations stand; the others are marked, and the destination is noted as one that lacks them. When it
//! answers again, or its list is empty, a round through all marked messages reads their rows and gives
//! them the places they lack. The same round, every ten minutes, finds those whose time is over.
//!
//! Rounds follow each other at a distance that depends on how long they take, so that they cost a
//! twentieth of a core at most: a destination that answers again has all its mail in its list within a
//! second, and 21 times what a round takes. What cannot be read is looked for again in the next round.

use crate::base::ids::MessageId;
use crate::base::time::Mono;
use crate::queue::desk::Desk;
use crate::queue::index::{Key, Presence};
use crate::queue::record::Fate;
use crate::queue::row::RowView;
use crate::queue::state::State;
use crate::queue::stub::Marks;
use crate::runtime::{Runtime, yield_now};
use std::collections::BTreeSet;
use std::time::Duration;

/// Messages looked at, and rows read, before others run.
const LOOKED: usize = 4096;
const TOGETHER: usize = 512;
/// From the end of a round to the next one, at least; and so many times what the round took.
const REST: Duration = Duration::from_secs(1);
const REST_TIMES: u32 = 20;
/// How often messages are found whose time is over.
const AGED: Duration = Duration::from_secs(600);

impl<R: Runtime> Desk<R> {
    /// Begins a round if one is due.
    pub(crate) fn look_for_absent(&self, s: &mut State, now: Mono) {
        let idle = s.absent.names.is_empty() || s.absent.running || now < s.absent.not_before;
        if idle || !s.loaded || s.schedule.is_stopped() {
            return;
        }
        let (due, aged) = (s.absent.due(&s.schedule), now >= s.absent.aged_at);
        if due.is_empty() && !aged {
            return;
        }
        s.absent.names.retain(|name| !due.contains(name));
        s.absent.running = true;
        if aged {
            s.absent.aged_at = now.after(AGED);
        }
        let desk = self.clone();
        self.0.rt.spawn(async move {
            let whole = desk.absent_round(&due, aged).await;
            let mut s = desk.0.state.borrow_mut();
            let end = desk.0.rt.now();
            if !whole {
                due.iter().for_each(|name| s.absent.note(name));
            }
            s.absent.running = false;
            s.absent.not_before = end.after(REST + end.since(now) * REST_TIMES);
        });
    }

    /// Gives marked messages their places at `due`. `false`: some could not be read.
    async fn absent_round(&self, due: &BTreeSet<String>, aged: bool) -> bool {
        let (mut after, mut whole) = (MessageId(0), true);
        loop {
            let (marked, last) = self.marked(after);
            for some in marked.chunks(TOGETHER) {
                if self.is_closed() {
                    return false;
                }
                let Ok(rows) = self.rows(some.iter().map(|m| m.1)).await else { return false };
                let mut s = self.0.state.borrow_mut();
                for ((key, _), row) in some.iter().zip(rows) {
                    whole &= self.give_places(&mut s, *key, row.as_deref(), due, aged);
                }
                self.recall_due(&mut s);
            }
            let Some(last) = last else { return whole };
            after = last;
            yield_now().await;
        }
    }

    /// The next marked messages; where to go on, unless that is all.
    fn marked(&self, after: MessageId) -> (Vec<(Key, MessageId)>, Option<MessageId>) {
        let s = self.0.state.borrow();
        let (mut marked, mut last, mut looked) = (Vec::new(), after, 0);
        for (key, id, presence) in s.index.after(after).take(LOOKED) {
            (last, looked) = (id, looked + 1);
            let is = match presence {
                Presence::Gone => false,
                Presence::Rich => s.index.get(key).is_some_and(|e| e.switches.lists.is_absent()),
                Presence::Parked => s.index.stub(key).is_some_and(|s| s.marks.has(Marks::ABSENT)),
            };
            if is {
                marked.push((key, id));
            }
        }
        (marked, (looked == LOOKED).then_some(last))
    }

    /// `false`: it must be looked at again.
    fn give_places(
        &self,
        s: &mut State,
        key: Key,
        row: Option<&[u8]>,
        due: &BTreeSet<String>,
        aged: bool,
    ) -> bool {
        let now = self.0.rt.now();
        if let Some(held) = s.index.get(key).map(|e| e.switches.held) {
            for d in s.wanted(key) {
                if !held && due.contains(&s.doors[d as usize].hop.key) {
                    s.place(d, key, true, now);
                }
                if aged && s.schedule.is_paused(d, now) {
                    self.judge(s, key, d);
                }
            }
            return true;
        }
        let Some(stub) = s.index.stub(key).filter(|stub| stub.ready && !stub.held) else { return true };
        if stub.marks.has(Marks::RECALLING) {
            return false;
        }
        if aged {
            self.judge(s, key, 0);
        }
        let Some(view) = row.and_then(|r| RowView::parse(r).ok()) else { return true };
        let wall = self.0.rt.wall();
        let mut numbers: Vec<u32> = view
            .recipients()
            .filter(|r| match r.fate {
                Fate::Fresh | Fate::Attempting => true,
                Fate::Deferred => r.due <= wall,
                Fate::Delivered | Fate::Failed | Fate::Owed | Fate::Passed => false,
            })
            .map(|r| r.destination)
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        for n in numbers {
            let Some(name) = s.ledger.name(n).filter(|name| due.contains(*name)) else { continue };
            match s.schedule.find(name) {
                Some(d) => {
                    s.place(d, key, true, now);
                }
                // It is to be routed anew.
                None => {
                    s.recalls.push_back(key);
                    return true;
                }
            }
        }
        true
    }
}

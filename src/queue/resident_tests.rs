//! What a waiting message takes of memory, all in all.

use crate::base::ids::MessageId;
use crate::base::time::Mono;
use crate::base::wheel::Wheel;
use crate::message::body::BodyFlags;
use crate::queue::index::{Entry, Index, Key, Phase, Recipient};
use crate::queue::schedule::{Limits, PoolId, Rules, Schedule};
use crate::queue::stub::Stub;
use std::rc::Rc;

const COUNT: usize = 200_000;
/// Bytes of memory for each waiting message at most.
const MOST: usize = 200;

fn entry(n: usize, recipients: usize, phase: Phase) -> Entry {
    let mut e = Entry::new(MessageId((n as u64 + 1) << 10), 1000, BodyFlags(0));
    e.recipients.extend((0..recipients).map(|_| Recipient { phase, ..Recipient::default() }));
    e
}

/// A queue without its bodies.
struct Waiting {
    index: Index,
    timers: Wheel<Key>,
    schedule: Schedule,
}

impl Waiting {
    fn new() -> Self {
        let mut schedule = Schedule::new(Rules::default(), Rc::default());
        let (d, _) = schedule.destination("a", Limits::default);
        assert_eq!(d, 0);
        Waiting { index: Index::default(), timers: Wheel::new(0), schedule }
    }

    /// Message `n` comes, has its turn and is parked.
    fn park(&mut self, n: usize, recipients: usize, phase: Phase) {
        let mut e = entry(n, recipients, phase);
        let key = self.index.insert(entry(n, recipients, Phase::Flight));
        if phase == Phase::Waiting {
            e.timer = Some(self.timers.insert(1 + n as u64 % 40_000, key));
        } else {
            self.schedule.push(0, key, Mono(1));
        }
        let stub = Stub::of(&e);
        self.index.change(key, |old| *old = e);
        self.index.park(key, stub);
    }

    fn each(&self) -> usize {
        assert_eq!(self.index.counters().messages, COUNT);
        (self.index.heap_bytes() + self.timers.heap_bytes() + self.schedule.heap_bytes()) / COUNT
    }
}

#[test]
fn a_parked_message_takes_little_however_it_waits_and_however_many_recipients_it_has() {
    for recipients in [1, 1000] {
        for phase in [Phase::Waiting, Phase::Ready] {
            let mut w = Waiting::new();
            if phase == Phase::Ready {
                w.schedule.failed(PoolId(0), Mono(1), 0);
            }
            // The rich form is built only for a part of those with many recipients: it takes time.
            let rich = if recipients == 1 { COUNT } else { COUNT / 100 };
            (0..rich).for_each(|n| w.park(n, recipients, phase));
            (rich..COUNT).for_each(|n| w.park(n, 1, phase));
            let each = w.each();
            assert!(each <= MOST * 13 / 20, "{each} bytes for {recipients} recipients, {phase:?}");
            assert_eq!(w.index.counters().bytes, 1000 * COUNT as u64);
            if phase == Phase::Ready {
                assert_eq!((w.schedule.backlog_paused(), w.index.counters().active), (COUNT, COUNT));
            } else {
                assert_eq!((w.timers.len(), w.index.counters().deferred), (COUNT, COUNT));
            }
        }
    }
}

#[test]
fn what_is_found_at_a_start_takes_no_more() {
    let mut w = Waiting::new();
    // The end of the log first, then what waited before, in order.
    let order = (COUNT - 5000..COUNT).chain(0..COUNT - 5000);
    for n in order {
        let key = w.index.insert_parked(Stub::of(&entry(n, 1, Phase::Waiting)));
        let timer = w.timers.insert(1 + n as u64 % 40_000, key);
        w.index.change_stub(key, |s| s.timer = Some(timer));
    }
    let each = w.each();
    assert!(each <= MOST * 13 / 20, "{each} bytes");
    // All is given up: what is needed for one is not kept for each.
    let all: Vec<_> = w.index.after(MessageId(0)).map(|m| m.0).collect();
    assert_eq!(all.len(), COUNT);
    for key in all {
        let timer = w.index.stub(key).and_then(|s| s.timer).expect("has one");
        assert_eq!(w.timers.cancel(timer), Some(key));
        assert!(w.index.remove(key).is_some());
    }
    let before = w.index.heap_bytes();
    (0..10_000).for_each(|n| w.park(n, 1, Phase::Waiting));
    assert!(w.index.heap_bytes() < before + 200_000, "slots are used again");
}

#[test]
fn a_rich_message_takes_little_more_than_200_bytes() {
    let mut w = Waiting::new();
    for n in 0..COUNT {
        let key = w.index.insert(entry(n, 1, Phase::Waiting));
        let timer = w.timers.insert(1 + n as u64 % 40_000, key);
        w.index.change(key, |e| e.timer = Some(timer));
    }
    let each = w.each();
    assert!(each <= 270, "{each} bytes");
}

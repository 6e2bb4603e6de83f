//! Limits hold, nothing is lost or starved, and nobody has to look at all destinations for that.

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

/// After the answer that no connection is wanted: is it so, and is everybody looked at in time?
fn nobody_is_overlooked(s: &Schedule, now: Mono) -> bool {
    (0..s.len() as DestId).all(|d| match s.wish(d, now) {
        Wish::Now => s.connections >= s.rules.connections,
        Wish::At(at) => {
            let listed = s.destinations[d as usize].listed;
            listed || s.destinations[d as usize].look.is_some_and(|look| look <= at)
        }
        Wish::No => match s.gate(d, now) {
            Gate::Paused(until) => s.destinations[d as usize].look == Some(until),
            _ => true,
        },
    })
}

#[test]
fn places_keep_their_numbers_and_the_first_can_be_dropped() {
    let mut s = Schedule::new(Rules::default(), Rc::default());
    let d = s.destination("a", Limits::default).0;
    let k = keys(1500);
    k[1..].iter().for_each(|&k| s.push(d, k, secs(0)));
    let first = s.places(d).start;
    s.push_front(d, k[0], secs(0));
    assert_eq!(s.places(d), first - 1..first + 1499);
    s.failed(d, secs(1), 200);
    assert_eq!((s.place(d, first + 700), s.backlog_paused()), (Some(k[701]), 1500));
    (0..1000).for_each(|_| s.drop_first(d));
    assert_eq!((s.backlog(d), s.backlog_all(), s.backlog_paused()), (500, 500, 500));
    assert_eq!((s.place(d, first + 998), s.place(d, first + 999)), (None, Some(k[1000])));
    // The pause is over, though nobody has looked.
    assert_eq!((s.take(d, secs(61)), s.backlog_paused()), (Some(k[1000]), 0));
    let before = s.heap_bytes();
    while s.take(d, secs(61)).is_some() {}
    s.drop_first(d);
    s.measure(2);
    assert_eq!((s.backlog_all(), s.heap_bytes(), before > 0), (0, 0, true));
}

#[test]
fn who_rests_with_work_is_named() {
    let mut s = Schedule::new(Rules::default(), Rc::default());
    let rate = Rate { count: 1, per: Duration::from_secs(10) };
    let d = s.destination("a", || Limits { rate, ..Limits::default() }).0;
    let k = keys(3);
    k.iter().for_each(|&k| s.push(d, k, secs(1)));
    assert_eq!(s.open_next(secs(1)), Some(d));
    assert_eq!((s.take(d, secs(1)), s.take(d, secs(2))), (Some(k[0]), None));
    s.idle(d, true);
    assert!(s.could_work(secs(2)).is_empty());
    let at = s.next_look(secs(2)).expect("when the rate allows the next one");
    assert_eq!((s.could_work(at), at.since(secs(1)).as_secs()), (vec![d], 10));
    s.idle(d, false);
    assert!(s.could_work(at).is_empty());
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
                Op::Open => match s.open_next(now) {
                    Some(d) => open.push(d),
                    None => prop_assert!(nobody_is_overlooked(&s, now)),
                },
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
            let paused = (0..4).map(|d| s.view(d)).filter(|v| v.paused.is_some());
            prop_assert_eq!(s.backlog_paused(), paused.map(|v| v.ready).sum::<usize>());
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

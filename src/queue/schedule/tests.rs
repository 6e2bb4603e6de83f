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

fn one(s: &mut Schedule, name: &str, limits: Limits) -> (DestId, PoolId) {
    let d = s.destination(name, || limits).0;
    (d, s.pool_of(d))
}

fn take(s: &mut Schedule, p: PoolId, now: Mono) -> Option<Key> {
    s.take(p, now, |_, _| Cost::default()).map(|t| t.1)
}

fn works(s: &mut Schedule, p: PoolId, now: Mono) -> bool {
    s.answered(p, now, Answer::Fine, 0)
}

#[test]
fn connections_are_few_until_the_backlog_is_deep_or_has_waited() {
    let mut s = Schedule::new(Rules::default(), Rc::default());
    let (d, p) = one(&mut s, "a", limits(3));
    let k = keys(200);
    s.push(d, k[0], secs(1));
    assert_eq!(s.open_next(secs(1)), Some(p));
    s.push(d, k[1], secs(1));
    assert_eq!(s.open_next(secs(1)), None, "one is on its way");
    assert_eq!(s.next_look(secs(1)), Some(secs(2)));
    assert_eq!(s.open_next(secs(2)), Some(p), "has waited");
    k[2..140].iter().for_each(|&k| s.push(d, k, secs(2)));
    assert_eq!(s.open_next(secs(2)), Some(p), "deep");
    assert_eq!(s.open_next(secs(9)), None, "limit");
    s.closed(p);
    s.idle(p, true);
    assert_eq!(s.open_next(secs(9)), None, "one is idle");
}

#[test]
fn a_dead_destination_is_left_alone_longer_each_time_and_probed_by_one() {
    let mut s = Schedule::new(Rules::default(), Rc::default());
    let (d, p) = one(&mut s, "a", Limits::default());
    keys(200).iter().for_each(|&k| s.push(d, k, secs(0)));
    assert_eq!(s.open_next(secs(1)), Some(p));
    assert_eq!(s.failed(p, secs(1), 200), Some(secs(61)));
    assert_eq!(s.failed(p, secs(2), 200), Some(secs(61)), "one failure");
    s.closed(p);
    assert_eq!((s.open_next(secs(60)), take(&mut s, p, secs(60))), (None, None));
    assert_eq!((s.backlog_paused(), s.next_look(secs(60))), (200, Some(secs(61))));
    assert_eq!(s.open_next(secs(61)), Some(p));
    assert_eq!(s.open_next(secs(70)), None, "one probes");
    assert_eq!(s.failed(p, secs(70), 200), Some(secs(190)));
    assert!(works(&mut s, p, secs(71)) && !works(&mut s, p, secs(72)));
    assert_eq!(s.gate(p, secs(72)), Gate::Open);
    assert_eq!(s.open_next(secs(72)), Some(p));
    assert_eq!(s.failed(p, secs(73), 200), None, "another connection works");
    s.closed(p);
    assert_eq!(s.failed(p, secs(74), 200), Some(secs(134)));
}

#[test]
fn a_site_that_puts_everything_off_gets_fewer_connections_and_is_left_alone() {
    let mut s = Schedule::new(Rules::default(), Rc::default());
    let (d, p) = one(&mut s, "a", Limits { put_off: 8, slow_start: 8, ..Limits::default() });
    keys(1000).iter().for_each(|&k| s.push(d, k, secs(0)));
    let put_off = |s: &mut Schedule, now| {
        s.answered(p, now, Answer::PutOff, 200);
        (s.view(p).window, s.view(p).paused)
    };
    assert_eq!(put_off(&mut s, secs(1)), (8, None));
    assert_eq!(put_off(&mut s, secs(1)), (4, None));
    works(&mut s, p, secs(1));
    for _ in 0..7 {
        put_off(&mut s, secs(1));
    }
    assert_eq!(put_off(&mut s, secs(1)).1, Some(secs(61)), "in a row");
    assert_eq!(put_off(&mut s, secs(2)).1, Some(secs(61)), "one failure");
    // It is not well only because a connection has ended in order.
    assert_eq!((s.open_next(secs(61)), put_off(&mut s, secs(61)).1), (Some(p), Some(secs(181))));
    s.worked(p);
    s.unpause(d);
    assert_eq!(s.view(p).failures, 0);
    let (_, never) = one(&mut s, "b", Limits { put_off: 0, ..Limits::default() });
    for _ in 0..100 {
        s.answered(never, secs(1), Answer::PutOff, 0);
    }
    assert_eq!((s.view(never).window, s.view(never).paused), (5, None));
}

#[test]
fn destinations_take_turns() {
    let mut s = Schedule::new(Rules { connections: 4, ..Rules::default() }, Rc::default());
    let k = keys(1000);
    let d: Vec<_> = ["a", "b", "c"].iter().map(|n| one(&mut s, n, Limits::default())).collect();
    k[..998].iter().for_each(|&k| s.push(d[0].0, k, secs(0)));
    s.push(d[1].0, k[998], secs(0));
    s.push(d[2].0, k[999], secs(0));
    let opened: Vec<_> = std::iter::from_fn(|| s.open_next(secs(0))).collect();
    assert_eq!(opened, [d[0].1, d[1].1, d[2].1, d[0].1]);
    s.closed(d[1].1);
    s.stop();
    assert_eq!((s.open_next(secs(5)), take(&mut s, d[0].1, secs(5))), (None, None));
}

#[test]
fn destinations_of_one_site_share_connections_limits_and_pauses() {
    let mut s = Schedule::new(Rules::default(), Rc::default());
    let k = keys(100);
    let d: Vec<_> = ["a", "b", "c"].iter().map(|n| one(&mut s, n, Limits::default()).0).collect();
    k[..60].iter().for_each(|&k| s.push(d[0], k, secs(0)));
    k[60..90].iter().for_each(|&k| s.push(d[1], k, secs(0)));
    s.push(d[2], k[90], secs(0));
    let p = s.join_pool(d[0], ("site", "site"), limits(1), secs(100));
    assert_eq!((s.join_pool(d[1], ("site", "site"), limits(1), secs(5)), s.find_pool("site")), (p, Some(p)));
    let own = s.pool_of(d[2]);
    assert_eq!((s.backlog_of(p), s.backlog_of(own), s.view(p).lanes), (90, 1, 2));
    let mut opened: Vec<_> = std::iter::from_fn(|| s.open_next(secs(9))).collect();
    opened.sort_unstable();
    assert_eq!(opened, [own, p], "one connection for both");
    // In turns, a few messages each; what is not known any more leaves.
    let mut order = Vec::new();
    while let Some((d, _)) = s.take(p, secs(1), |_, _| Cost::default()) {
        order.push(d);
    }
    let runs: Vec<usize> = order.chunk_by(|a, b| a == b).map(<[_]>::len).collect();
    assert_eq!((order.len(), runs), (90, vec![16, 16, 16, 14, 28]));
    s.push(d[1], k[91], secs(9));
    assert_eq!((take(&mut s, p, secs(9)), s.pool_of(d[1]) == p, s.backlog(d[1])), (None, false, 1));
    // A failure is the site's.
    s.push(d[0], k[92], secs(9));
    s.failed(p, secs(10), 200);
    assert!(s.is_paused(d[0], secs(11)) && !s.is_paused(d[1], secs(11)));
    assert_eq!(s.backlog_paused(), 1);
    s.join_pool(d[1], ("site", "site"), limits(1), secs(100));
    assert_eq!(s.backlog_paused(), 2);
}

#[test]
fn what_is_suspended_keeps_its_place_and_nothing_else_waits_for_it() {
    let mut s = Schedule::new(Rules::default(), Rc::default());
    let k = keys(4);
    let (a, _) = one(&mut s, "a", Limits::default());
    let (b, _) = one(&mut s, "b", Limits::default());
    let p = s.join_pool(a, ("site", "site"), limits(1), secs(100));
    s.join_pool(b, ("site", "site"), limits(1), secs(100));
    s.push(a, k[0], secs(0));
    s.suspend(a, Some(7));
    s.push(a, k[1], secs(0));
    s.push(b, k[2], secs(0));
    assert_eq!((s.backlog_of(p), s.backlog_paused(), s.backlog_all()), (1, 2, 3));
    assert!(s.is_paused(a, secs(0)) && !s.is_paused(b, secs(0)));
    assert_eq!(
        (s.open_next(secs(0)), take(&mut s, p, secs(0)), take(&mut s, p, secs(0))),
        (Some(p), Some(k[2]), None)
    );
    s.drop_first(a);
    s.suspend(a, None);
    assert_eq!((s.backlog_paused(), take(&mut s, p, secs(0))), (0, Some(k[1])));
}

#[test]
fn what_nothing_names_is_forgotten_and_its_number_used_again() {
    let shares = Rc::new(Shares::default());
    let mut s = Schedule::new(Rules::default(), shares.clone());
    let k = keys(2);
    let d: Vec<_> = (0..5).map(|n| one(&mut s, &format!("d{n}"), Limits::default()).0).collect();
    for d in &d[..4] {
        s.join_pool(*d, ("site", "site"), limits(1), secs(100));
    }
    s.push(d[0], k[0], secs(0));
    s.flight(d[1], true);
    s.begin_round();
    s.seen(d[2]);
    let gone: Vec<_> = d.iter().filter(|d| s.forget(**d, secs(1))).copied().collect();
    assert_eq!((gone, s.len(), s.find("d3"), s.find("d2")), (vec![d[3], d[4]], 3, None, Some(d[2])));
    assert!(!s.forget(d[3], secs(1)), "once");
    s.forget_pools(secs(1));
    // The own pools of those that have joined a site are gone too.
    assert_eq!((s.pools().count(), shares.len()), (1, 1));
    let (again, _) = one(&mut s, "new", Limits::default());
    assert!(d[3..].contains(&again) && s.backlog(again) == 0 && s.numbers() == 5);
    assert_eq!(s.destinations().count(), 4);
    // What is known of a site that fails is kept for a while.
    let p = s.pool_of(d[0]);
    s.failed(p, secs(2), 0);
    s.drop_first(d[0]);
    s.flight(d[1], false);
    s.begin_round();
    d[..3].iter().for_each(|d| assert!(s.forget(*d, secs(3))));
    assert_eq!((s.find_pool("site"), s.view(p).failures), (Some(p), 1));
    while s.open_next(secs(10_000)).is_some() {}
    s.forget_pools(secs(10_000));
    assert_eq!(s.find_pool("site"), None);
}

/// After the answer that no connection is wanted: is it so, and is everybody looked at in time?
fn nobody_is_overlooked(s: &Schedule, now: Mono) -> bool {
    s.pools().all(|p| match (s.wish(p, now), s.gate(p, now)) {
        (Wish::Now, Gate::Rate(at)) => s.pool(p).look.is_some_and(|look| look <= at),
        (Wish::Now, _) => s.connections >= s.rules.connections,
        (Wish::At(at), _) => s.pool(p).listed || s.pool(p).look.is_some_and(|look| look <= at),
        (Wish::No, Gate::Paused(until)) => s.pool(p).look == Some(until),
        (Wish::No, _) => true,
    })
}

#[test]
fn places_keep_their_numbers_and_the_first_can_be_dropped() {
    let mut s = Schedule::new(Rules::default(), Rc::default());
    let (d, p) = one(&mut s, "a", Limits::default());
    let k = keys(1500);
    k[1..].iter().for_each(|&k| s.push(d, k, secs(0)));
    let first = s.places(d).start;
    s.push_front(d, k[0], secs(0));
    assert_eq!(s.places(d), first - 1..first + 1499);
    s.failed(p, secs(1), 200);
    assert_eq!((s.place(d, first + 700), s.backlog_paused()), (Some(k[701]), 1500));
    (0..1000).for_each(|_| s.drop_first(d));
    assert_eq!((s.backlog(d), s.backlog_all(), s.backlog_paused()), (500, 500, 500));
    assert_eq!((s.place(d, first + 998), s.place(d, first + 999)), (None, Some(k[1000])));
    // The pause is over, though nobody has looked.
    assert_eq!((take(&mut s, p, secs(61)), s.backlog_paused()), (Some(k[1000]), 0));
    let before = s.heap_bytes();
    while take(&mut s, p, secs(61)).is_some() {}
    s.drop_first(d);
    s.trim(d);
    assert_eq!((s.backlog_all(), s.heap_bytes(), before > 0), (0, 0, true));
}

#[test]
fn who_rests_with_work_is_named() {
    let mut s = Schedule::new(Rules::default(), Rc::default());
    let rate = Rate { count: 1, per: Duration::from_secs(10) };
    let (d, p) = one(&mut s, "a", Limits { rate, ..Limits::default() });
    let k = keys(3);
    k.iter().for_each(|&k| s.push(d, k, secs(1)));
    assert_eq!(s.open_next(secs(1)), Some(p));
    assert_eq!((take(&mut s, p, secs(1)), take(&mut s, p, secs(2))), (Some(k[0]), None));
    s.idle(p, true);
    assert!(s.could_work(secs(2)).is_empty());
    let at = s.next_look(secs(2)).expect("when the rate allows the next one");
    assert_eq!((s.could_work(at), at.since(secs(1)).as_secs()), (vec![p], 10));
    s.idle(p, false);
    assert!(s.could_work(at).is_empty());
}

#[test]
fn recipients_and_bytes_have_rates_of_their_own() {
    let per = Duration::from_secs(10);
    let recipients = Rate { count: 10, per };
    let bytes = Rate { count: 1000, per };
    let mut s = Schedule::new(Rules::default(), Rc::default());
    let (d, p) = one(&mut s, "a", Limits { recipients, bytes, ..Limits::default() });
    keys(30).iter().for_each(|&k| s.push(d, k, secs(1)));
    s.open_next(secs(1)).expect("a connection");
    let cost = |recipients, bytes| move |_, _| Cost { recipients, bytes };
    assert!(s.take(p, secs(1), cost(5, 1)).is_some(), "half of the span");
    let Gate::Rate(at) = s.gate(p, secs(1)) else { panic!("no gate") };
    assert!((4..6).contains(&at.since(secs(1)).as_secs()) && s.next_look(secs(1)).is_none());
    assert!(s.take(p, secs(2), cost(1, 1)).is_none() && s.next_look(secs(2)) == Some(at));
    // A message that is larger than the span has room for goes all the same, alone.
    assert!(s.take(p, at, cost(1, 3000)).is_some());
    let Gate::Rate(next) = s.gate(p, at) else { panic!("no gate") };
    assert_eq!(next.since(at).as_secs(), 30);
    // What comes to nothing takes nothing but its slot.
    assert!(s.take(p, next, cost(0, 0)).is_some());
    s.not_sent(p);
    assert_eq!(s.gate(p, next), Gate::Open);
}

#[derive(Clone, Debug)]
enum Op {
    Push(usize),
    Open,
    Take(usize),
    GiveBack,
    Close,
    Fail,
    PutOff,
    Work,
    Suspend(usize),
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
        1 => Just(Op::PutOff),
        1 => Just(Op::Work),
        1 => (0usize..4).prop_map(Op::Suspend),
        2 => (0u64..20_000).prop_map(Op::Wait),
    ]
}

/// With all faults over, everything gets out.
fn drains(s: &mut Schedule, mut now: Mono, taken: &mut Vec<(DestId, Key)>) -> bool {
    s.unpause_all();
    (0..4).for_each(|d| s.suspend(d, None));
    for _ in 0..4000 {
        while let Some(p) = s.open_next(now) {
            taken.extend(std::iter::from_fn(|| s.take(p, now, |_, _| Cost::default())));
            works(s, p, now);
            s.worked(p);
            s.closed(p);
        }
        if s.backlog_all() == 0 {
            return true;
        }
        now = s.next_look(now).unwrap_or(now);
    }
    false
}

#[test]
fn who_has_waited_longer_is_looked_at_when_the_first_is_suspended() {
    let mut s = Schedule::new(Rules { connections: 6, ..Rules::default() }, Rc::default());
    let (a, own) = one(&mut s, "a", Limits::default());
    let (b, _) = one(&mut s, "b", Limits::default());
    let p = s.join_pool(a, ("site", "site"), Limits::default(), secs(1 << 30));
    assert_ne!(own, p);
    assert_eq!(s.join_pool(b, ("site", "site"), Limits::default(), secs(1 << 30)), p);
    let k = keys(3);
    s.push(a, k[0], secs(1));
    assert_eq!(s.open_next(secs(1)), Some(p));
    s.push(b, k[1], secs(1));
    // What came last stands first: another connection is not wanted before that has waited.
    s.push_front(a, k[2], Mono(secs(2).0 - 1));
    assert_eq!((s.open_next(Mono(secs(2).0 - 1)), nobody_is_overlooked(&s, secs(2))), (None, true));
    s.suspend(a, Some(1));
    assert_eq!(s.open_next(secs(2)), Some(p));
}

proptest! {
    #[test]
    fn limits_hold_and_nothing_is_lost_or_starved(ops in proptest::collection::vec(op(), 1..400)) {
        let rate = Rate { count: 5, per: Duration::from_secs(10) };
        let rules = Rules { connections: 6, deep: 2, ..Rules::default() };
        let mut s = Schedule::new(rules, Rc::default());
        let names = ["a", "b", "c", "d"];
        // The last two are of one site.
        let mut of = Vec::new();
        for (i, n) in names.iter().enumerate() {
            let rate = if i == 0 { rate } else { Rate::default() };
            let limits = Limits { connections: i as u32 + 1, rate, ..Limits::default() };
            let (d, p) = one(&mut s, n, limits);
            let site = Limits { connections: 3, ..limits };
            of.push(if i < 2 { p } else { s.join_pool(d, ("site", "site"), site, secs(1 << 30)) });
        }
        let k = keys(400);
        let (mut pushed, mut taken) = (0usize, Vec::new());
        let mut open: Vec<PoolId> = Vec::new();
        let mut times = Vec::new();
        let mut now = secs(1);
        for op in ops {
            match op {
                Op::Push(d) => { s.push(d as DestId, k[pushed], now); pushed += 1; }
                Op::Open => match s.open_next(now) {
                    Some(p) => open.push(p),
                    None => prop_assert!(nobody_is_overlooked(&s, now)),
                },
                Op::Take(n) if !open.is_empty() => {
                    if let Some(got) = s.take(open[n % open.len()], now, |_, _| Cost::default()) {
                        if got.0 == 0 { times.push(now); }
                        taken.push(got);
                    }
                }
                Op::GiveBack => if let Some((d, key)) = taken.pop() { s.push_front(d, key, now); },
                Op::Close => if let Some(p) = open.pop() { s.closed(p); },
                Op::Fail => if let Some(&p) = open.last() { s.failed(p, now, 7); },
                Op::PutOff => if let Some(&p) = open.last() { s.answered(p, now, Answer::PutOff, 7); },
                Op::Work => if let Some(&p) = open.last() { s.worked(p); },
                Op::Suspend(d) => {
                    let rule = if s.suspended(d as DestId).is_some() { None } else { Some(1) };
                    s.suspend(d as DestId, rule);
                }
                Op::Wait(ms) => now = now.after(Duration::from_millis(ms)),
                Op::Take(_) => {}
            }
            prop_assert!(open.len() <= 6 && s.connections() as usize == open.len());
            for (p, most) in [(of[0], 1), (of[1], 2), (of[2], 3)] {
                prop_assert!(open.iter().filter(|o| **o == p).count() <= most);
            }
            prop_assert_eq!(s.backlog_all() + taken.len(), pushed);
            let left = |p: PoolId| s.view(p).paused.map_or(0, |_| s.backlog_of(p));
            let suspended = (0..4).filter(|d| s.suspended(*d).is_some()).map(|d| s.backlog(d));
            let paused: usize = s.pools().map(left).chain(suspended).sum();
            prop_assert_eq!(s.backlog_paused(), paused);
        }
        for (i, t) in times.iter().enumerate() {
            prop_assert!(times[i..].iter().filter(|u| u.since(*t) < rate.per).count() <= 5);
        }
        for p in open.drain(..) { s.closed(p); }
        prop_assert!(drains(&mut s, now, &mut taken), "stuck");
        let mut all: Vec<_> = taken.iter().map(|t| format!("{:?}", t.1)).collect();
        all.sort();
        all.dedup();
        prop_assert_eq!(all.len(), pushed);
    }
}

/// Of two destinations of one site the one whose turn it is next has waited longer.
#[test]
fn who_has_waited_longer_is_not_looked_at_later() {
    let k = keys(4);
    // At the end of a turn, and at the end of a list.
    for (turn, more) in [(2, 2), (16, 1)] {
        let mut s = Schedule::new(Rules { turn, ..Rules::default() }, Rc::default());
        let [(c, p), (d, _)] = ["c", "d"].map(|name| {
            let (d, _) = one(&mut s, name, Limits::default());
            (d, s.join_pool(d, ("site", "site"), Limits::default(), secs(1 << 30)))
        });
        s.push(c, k[0], secs(1));
        assert_eq!(s.open_next(secs(1)), Some(p));
        s.push(d, k[1], secs(2));
        k[2..2 + more].iter().for_each(|&k| s.push(c, k, secs(3)));
        assert_eq!(take(&mut s, p, secs(3)), Some(k[0]));
        assert_eq!((s.open_next(secs(3)), s.next_look(secs(3))), (None, Some(secs(4))));
        assert_eq!(take(&mut s, p, secs(3)), Some(k[2]));
        assert_eq!(s.open_next(secs(3)), Some(p), "the other one has waited for a second");
    }
}

/// Of three sites two have the only connections there may be, one of them without work: that is given up.
#[test]
fn an_idle_connection_is_given_up_when_all_are_open() {
    // Nobody wants a second one.
    let rules = Rules { connections: 2, patience: Duration::from_secs(100), ..Rules::default() };
    let mut s = Schedule::new(rules, Rc::default());
    let k = keys(4);
    let (a, pa) = one(&mut s, "a", Limits::default());
    let (b, pb) = one(&mut s, "b", Limits::default());
    let (c, pc) = one(&mut s, "c", Limits::default());
    s.push(a, k[0], secs(1));
    s.push(b, k[1], secs(1));
    assert_eq!((s.open_next(secs(1)), s.open_next(secs(1))), (Some(pa), Some(pb)));
    assert_eq!(take(&mut s, pa, secs(1)), Some(k[0]));
    s.idle(pa, true);
    assert!(s.could_work(secs(2)).is_empty() && !s.owes(pa, secs(2)), "nobody waits");
    s.push(c, k[2], secs(3));
    assert_eq!(s.open_next(secs(3)), None);
    assert_eq!(s.could_work(secs(3)), [pa]);
    assert!(s.owes(pa, secs(3)) && !s.owes(pb, secs(3)), "the other one has work");
    s.pay(pa, secs(3));
    assert!(!s.owes(pa, secs(3)), "one was enough");
    s.idle(pa, false);
    s.closed(pa);
    assert_eq!(s.open_next(secs(3)), Some(pc));
}

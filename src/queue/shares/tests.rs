//! Nobody starves and nothing is exceeded, among the queues of a core and among cores.

use super::*;
use crate::base::ids::MessageId;
use crate::message::body::BodyFlags;
use crate::queue::index::{Entry, Index};
use crate::queue::schedule::{Limits, Rules, Schedule};
use proptest::prelude::*;

fn ms(n: u64) -> Mono {
    Mono(n * 1_000_000)
}

fn rate(count: u64, seconds: u64) -> Limits {
    let rate = Rate { count, per: Duration::from_secs(seconds) };
    Limits { rate, ..Limits::default() }
}

fn pass(s: &Share, member: u32, now: Mono) {
    assert!(s.earliest(member, now) <= now && s.pass(member, now, Cost::default));
}

#[test]
fn a_rate_is_shared_in_turns() {
    let shares = Shares::default();
    let (a, b) = (shares.join(), shares.join());
    let limits = rate(1, 10);
    let s = shares.share("x", &limits);
    assert!(Rc::ptr_eq(&s, &shares.share("x", &limits)));
    pass(&s, a, ms(1_000));
    let next = s.earliest(a, ms(1_000));
    assert!(next > ms(10_000) && s.earliest(b, ms(1_000)) == next);
    s.refuse(b);
    s.refuse(a);
    let turn = TURN;
    assert_eq!((s.earliest(a, next), s.earliest(b, next)), (next.after(turn), next));
    pass(&s, b, next);
    s.refuse(b);
    let last = s.earliest(a, next);
    assert_eq!(s.earliest(b, next), last.after(turn), "in turns");
    // A has lost interest: B goes on after it, and A has lost its turn.
    pass(&s, b, last.after(turn));
    assert_eq!(s.earliest(a, last), s.earliest(b, last));
    s.set_rates(&Limits::default());
    assert!(s.earliest(a, ms(0)) <= ms(0) && s.earliest(b, ms(0)) <= ms(0));
}

#[test]
fn a_few_slots_are_taken_at_once_and_lost_if_they_are_not_used() {
    let commons = Arc::<Commons>::default();
    let limits = rate(1000, 1);
    let cores = [0, 1].map(|core| Shares::new(commons.clone(), core).share("x", &limits));
    let now = ms(5_000);
    let [first, second] = [0, 1].map(|core| cores[core].earliest(1, now));
    // 20 ms of slots each.
    let apart = second.since(first).as_micros();
    assert!((19_000..=20_000).contains(&apart), "{apart}");
    let mut sent = 0;
    while cores[0].earliest(1, now) <= now {
        pass(&cores[0], 1, now);
        sent += 1;
    }
    assert!((20..60).contains(&sent), "{sent}: the slack of 50 ms, less what the other core has");
    // Who comes late has lost them: no burst.
    let late = ms(9_000);
    let mut sent = 0;
    while cores[1].earliest(1, late) <= late {
        pass(&cores[1], 1, late);
        sent += 1;
    }
    assert!((40..=60).contains(&sent), "{sent}");
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

/// Queues of some cores: each core has several.
fn queues(cores: u16, each: usize, rules: Rules) -> Vec<Schedule> {
    let commons = Arc::<Commons>::default();
    let of = |core| {
        let shares = Rc::new(Shares::new(commons.clone(), core));
        (0..each).map(move |_| Schedule::new(rules, shares.clone()))
    };
    (0..cores).flat_map(of).collect()
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
        (cores, each) in prop_oneof![Just((1, 3)), Just((3, 1)), Just((2, 2))],
        ops in proptest::collection::vec(op(), 1..300),
    ) {
        let limits = Limits { connections, ..rate(5, 10) };
        let rules = Rules { deep: 2, ..Rules::default() };
        let mut queues = queues(cores, each, rules);
        let p = PoolId(0);
        queues.iter_mut().for_each(|q| assert!(q.destination("x", || limits).1));
        let mut index = Index::default();
        let mut open = [0u32; 4];
        let (mut now, mut times) = (ms(1_000), Vec::new());
        let take = |q: &mut Schedule, now| q.take(p, now, |_, _| Cost::default());
        for (n, op) in ops.into_iter().enumerate() {
            match op {
                Op::Push(q) => {
                    let key = index.insert(Entry::new(MessageId(n as u64 + 1), 1, BodyFlags(0)));
                    queues[q].push(0, key, now);
                }
                Op::Open(q) => open[q] += u32::from(queues[q].open_next(now).is_some()),
                Op::Take(q) if open[q] > 0 => times.extend(take(&mut queues[q], now).map(|_| now)),
                Op::Close(q) if open[q] > 0 => {
                    open[q] -= 1;
                    queues[q].closed(p);
                }
                Op::Hold(q) => (0..queues[q].backlog(0)).for_each(|_| queues[q].drop_first(0)),
                Op::Take(_) | Op::Close(_) => {}
                Op::Wait(t) => now = now.after(Duration::from_millis(t)),
            }
            prop_assert!(open.iter().sum::<u32>() <= connections);
            prop_assert_eq!(queues[0].view(p).connections_everywhere, open.iter().sum::<u32>());
        }
        // Now like the desk: each looks when it is to, its connections never end by themselves.
        let mut left: Vec<usize> = queues.iter().map(Schedule::backlog_all).collect();
        let mut looks = 0;
        while left.iter().any(|n| *n > 0) {
            looks += 1;
            prop_assert!(looks < 10_000, "stuck: {left:?}");
            let looks = queues.iter().filter_map(|q| q.next_look(now));
            now = looks.fold(now.after(Duration::from_secs(1)), Mono::min);
            for (q, open) in queues.iter_mut().zip(&mut open) {
                *open += std::iter::from_fn(|| q.open_next(now)).count() as u32;
                while *open > 0 && q.owes(p, now) {
                    q.pay(p, now);
                    q.closed(p);
                    *open -= 1;
                }
                if *open > 0 {
                    times.extend(take(q, now).map(|_| now));
                }
            }
            prop_assert!(open.iter().sum::<u32>() <= connections);
            left = queues.iter().map(Schedule::backlog_all).collect();
        }
        for (i, t) in times.iter().enumerate() {
            prop_assert!(times[i..].iter().take_while(|u| u.since(*t) < limits.rate.per).count() <= 5);
        }
    }
}

#[test]
fn no_more_is_owed_than_stand_in_line() {
    let shares = Shares::default();
    let s = shares.share("x", &Limits::default());
    let next = |s: &Share, member| s.is_free(member, 9, ms(1));
    assert!(shares.enter(&s, 9, ms(1)) && next(&s, 1));
    s.starve(2);
    s.starve(3);
    s.pay();
    assert!(s.is_owed() && next(&s, 2) && !next(&s, 3) && !next(&s, 1));
    s.feed(2);
    assert!(s.is_owed() && next(&s, 3), "for one that was paid another came");
    s.feed(3);
    assert!(!s.is_owed() && next(&s, 1));
    shares.leave(&s);
    assert_eq!((shares.open(), s.open()), (0, 0));
}

//! A long backlog for a dead destination: what others notice of it, and how it is worked off.

use super::*;
use crate::base::ids::MessageId;
use crate::message::body::BodyFlags;
use crate::queue::index::{DestId, Entry, Key, Phase, Recipient};
use crate::queue::state::{Sweep, tick_of};

const MILLISECOND: Duration = Duration::from_millis(1);

/// The destination of a server whose name is known already.
fn destination(desk: &Desk<Rig>, name: &str) -> DestId {
    let mut s = desk.0.state.borrow_mut();
    let (d, new) = s.schedule.destination(name, Limits::default);
    assert!(!new);
    d
}

/// A message that is known to the queue and nowhere else.
fn add(desk: &Desk<Rig>, d: DestId, phase: Phase, wait: Duration) -> Key {
    let id = desk.next_id(desk.runtime().wall()).message;
    let now = desk.runtime().now();
    let mut s = desk.0.state.borrow_mut();
    let mut e = Entry::new(id, 10, BodyFlags(0));
    e.recipients.push(Recipient { destination: d, phase, due: now.after(wait), ..Recipient::default() });
    let key = s.index.insert(e);
    if phase == Phase::Waiting {
        s.arm(key)
    } else {
        s.enqueue(key, now)
    }
    key
}

/// What passes between a new message and its arrival next door: rounds through all tasks, and time.
fn cost_of_new_mail(backlog: usize) -> (u64, Duration) {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            send(&desk, &["x@a.example", "x@b.example"]).await;
            r.sleep(2 * SECOND).await;
            assert_eq!(texts(&r.b).len(), 1, "its connection is open and idle");
            let dead = destination(&desk, "a");
            let wait = 10 * SECOND;
            for _ in 0..backlog / 2 {
                add(&desk, dead, Phase::Ready, wait);
                add(&desk, dead, Phase::Waiting, wait);
            }
            // All of those that wait are due now, at once.
            let due = tick_of(r.rig.now().after(wait)) << 27;
            r.sleep(Duration::from_nanos(due - r.rig.now().0)).await;
            let (turns, began) = (world.turns.get(), r.rig.now());
            send(&desk, &["y@b.example"]).await;
            while texts(&r.b).len() < 2 {
                r.sleep(MILLISECOND).await;
            }
            let cost = (world.turns.get() - turns, r.rig.now().since(began));
            let left = |desk: &Desk<Rig>| desk.0.state.borrow().timers.len();
            assert!(backlog == 0 || left(&desk) > backlog / 4, "the retries are not over");
            r.sleep(2 * SECOND).await;
            assert_eq!(left(&desk), 0);
            assert_eq!(desk.0.state.borrow().schedule.backlog(dead), 1 + backlog);
            let stats = desk.stats();
            assert_eq!((stats.messages, stats.active, stats.deferred), (1 + backlog, 0, 1 + backlog));
            cost
        },
    )
}

#[test]
fn new_mail_does_not_wait_for_a_hundred_thousand_that_are_due_for_a_dead_destination() {
    let empty = cost_of_new_mail(0);
    let full = cost_of_new_mail(100_000);
    assert_eq!(full, empty, "rounds and time from acceptance to the next hop");
    assert!(full.1 <= 5 * MILLISECOND, "{full:?}");
}

#[test]
fn retries_that_are_due_at_once_come_in_parts() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            send(&desk, &["x@a.example"]).await;
            r.sleep(2 * SECOND).await;
            let dead = destination(&desk, "a");
            for _ in 0..20_000 {
                add(&desk, dead, Phase::Waiting, 10 * SECOND);
            }
            r.sleep(9 * SECOND + 900 * MILLISECOND).await;
            let (mut before, mut steps) = (1, 0);
            for _ in 0..400 {
                r.sleep(MILLISECOND).await;
                let backlog = desk.0.state.borrow().schedule.backlog(dead);
                assert!(backlog - before <= 2000, "{} in a millisecond or two", backlog - before);
                steps += u32::from(backlog > before);
                before = backlog;
            }
            assert!(before == 20_001 && steps >= 5, "{before} in {steps} steps");
        },
    );
}

#[test]
fn places_of_what_has_gone_are_passed_over_in_parts() {
    let world = Rc::new(World::default());
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            send(&desk, &["x@b.example"]).await;
            r.sleep(2 * SECOND).await;
            let d = destination(&desk, "b");
            let keys: Vec<Key> = (0..10_000).map(|_| add(&desk, d, Phase::Ready, SECOND)).collect();
            let turns = {
                let mut s = desk.0.state.borrow_mut();
                keys.iter().for_each(|key| assert!(s.forget(*key).is_some()));
                assert_eq!(s.schedule.backlog(d), 10_000);
                world.turns.get()
            };
            send(&desk, &["y@b.example"]).await;
            while texts(&r.b).len() < 2 {
                r.sleep(MILLISECOND).await;
            }
            assert!(world.turns.get() - turns >= 10, "{} turns", world.turns.get() - turns);
            assert_eq!(desk.0.state.borrow().schedule.backlog_all(), 0);
        },
    );
}

#[test]
fn a_round_goes_on_as_the_journal_takes_what_it_says() {
    let world = Rc::new(World::default());
    let short = |r: &mut Run| {
        r.options.lifetime = SECOND;
        r.a.up.set(false);
    };
    run(&world, short, async |r| {
        let (desk, _) = r.open().await;
        send(&desk, &["x@a.example"]).await;
        r.sleep(100 * MILLISECOND).await;
        let d = destination(&desk, "a");
        for _ in 0..3500 {
            add(&desk, d, Phase::Ready, SECOND);
        }
        r.sleep(2 * SECOND).await;
        let mut s = desk.0.state.borrow_mut();
        let s = &mut *s;
        let sweep = Sweep { d, places: s.schedule.places(d) };
        s.sweeps.push_back(sweep);
        for step in 1..=10 {
            desk.sweep(s);
            let waits = s.unsettled.len();
            desk.sweep(s);
            assert!(waits <= 1000 && s.unsettled.len() <= 1000, "in step {step}");
            // As if the journal had taken them.
            s.unsettled.clear();
        }
        assert_eq!((s.sweeps.len(), s.schedule.backlog(d)), (0, 0));
        // However many senders are to be told, few are being told.
        assert_eq!((s.notices.len() + s.telling, s.owed.len()), (500, 3001));
    });
}

#[test]
fn a_long_list_expires_in_steps_and_its_places_go_too() {
    const COUNT: usize = 2500;
    let world = Rc::new(World::default());
    let short = |r: &mut Run| {
        r.options.lifetime = 2 * HOUR;
        r.storage.segments_max = 400;
        r.a.up.set(false);
    };
    run(&world, short, async |r| {
        let (desk, _) = r.open().await;
        for n in 0..COUNT {
            // Some are held, some gone: their places are passed over.
            let id = send(&desk, &["x@a.example"]).await;
            if n % 100 == 7 {
                let hold = Request::Hold { which: Which::One(id), note: String::new() };
                assert_eq!(desk.control(&hold).await, Response::Done(1));
            }
            if n % 100 == 8 {
                let delete = Request::Delete { which: Which::One(id), note: String::new() };
                assert_eq!(desk.control(&delete).await, Response::Done(1));
            }
        }
        let dead = destination(&desk, "a");
        r.sleep(HOUR).await;
        assert!(texts(&r.b).is_empty());
        assert_eq!(desk.0.state.borrow().schedule.backlog(dead), COUNT);
        let held = COUNT / 100;
        r.sleep(3 * HOUR).await;
        assert_eq!(texts(&r.b).len(), COUNT - 2 * held);
        assert!(texts(&r.b).iter().all(|m| m.data.contains("Status: 5.4.7")));
        r.sleep(2 * HOUR).await;
        let s = desk.0.state.borrow();
        assert_eq!((s.schedule.backlog(dead), s.sweeps.len(), s.schedule.backlog_paused()), (0, 0, 0));
        assert_eq!(s.index.counters().held, held);
        assert_eq!(s.index.after(MessageId(0)).count(), held);
    });
}

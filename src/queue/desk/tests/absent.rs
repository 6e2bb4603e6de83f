//! Messages to several destinations of which some do not answer: few places, and no message forgotten.

use super::archived::{MANY, expected, recipients};
use super::*;
use crate::message::body::BodyFlags;
use crate::queue::index::{Entry, Phase, Presence, Recipient};
use crate::queue::stub::Stub;

const PLACES: usize = 5;

fn dead(r: &mut Run) {
    r.a.up.set(false);
    r.options.limits.places = PLACES;
}

/// Messages to one recipient at a, which does not answer, and to one at b, which does.
async fn fill(r: &Run, desk: &Desk<Rig>) {
    let body = "x".repeat(6000);
    for n in 0..MANY {
        let to = [format!("m{n}@a.example"), format!("m{n}@b.example")];
        let e = envelope("me@from.example", &[(&to[0], Notify::DEFAULT), (&to[1], Notify::DEFAULT)]);
        while send_as(desk, &e, &body).await.is_err() {
            r.sleep(Duration::from_millis(50)).await;
        }
    }
    r.sleep(5 * SECOND).await;
    assert_eq!(recipients(&r.b), expected("b.example", 0..MANY), "the others do not wait");
    let s = desk.0.state.borrow();
    assert!(s.index.parked() > MANY / 2, "{} parked", s.index.parked());
    let d = s.schedule.find("a").expect("known");
    assert!(s.schedule.backlog(d) <= PLACES, "{} places", s.schedule.backlog(d));
}

#[test]
fn a_destination_that_comes_back_gets_all_its_mail_once() {
    let world = Rc::new(World::default());
    run(&world, dead, async |r| {
        let (desk, _) = r.open().await;
        fill(r, &desk).await;
        r.a.up.set(true);
        // A pause of a minute or so, and a moment for the round.
        assert!(r.empty(&desk, 180 * SECOND).await, "{:?}", desk.stats());
        assert_eq!(recipients(&r.a), expected("a.example", 0..MANY));
        let left = desk.0.state.borrow().schedule.backlog_all();
        assert_eq!(left, 0, "places of what has gone are dropped");
    });
}

#[test]
fn what_has_no_place_is_returned_when_its_time_is_over() {
    let world = Rc::new(World::default());
    let short = |r: &mut Run| {
        dead(r);
        r.options.lifetime = 2 * HOUR;
    };
    run(&world, short, async |r| {
        let (desk, _) = r.open().await;
        fill(r, &desk).await;
        assert!(r.empty(&desk, 6 * HOUR).await, "{:?}", desk.stats());
        let returned = texts(&r.b).iter().filter(|m| m.data.contains("Status: 5.4.7")).count();
        assert_eq!((returned, recipients(&r.a).len()), (MANY, 0));
    });
}

#[test]
fn after_a_restart_they_take_few_places_too_and_are_not_forgotten() {
    let world = Rc::new(World::default());
    run(&world, dead, async |r| {
        let (desk, _) = r.open().await;
        fill(r, &desk).await;
        desk.stop();
        assert!(desk.drained(r.rig.now().after(60 * SECOND)).await);
        desk.close().await;
    });
    let later = |r: &mut Run| {
        dead(r);
        r.rig.set_clock(HOUR, false);
    };
    run(&world, later, async |r| {
        let (desk, _) = r.open().await;
        assert!(desk.loaded().await.is_some());
        r.sleep(5 * SECOND).await;
        assert_eq!(desk.stats().messages, MANY);
        r.a.up.set(true);
        assert!(r.empty(&desk, 180 * SECOND).await, "{:?}", desk.stats());
        assert_eq!(recipients(&r.a), expected("a.example", 0..MANY));
        assert!(texts(&r.b).is_empty(), "what was delivered is not sent again");
    });
}

/// Whoever stands in the list may go; somebody must stand there, or nobody would ever try.
#[test]
fn a_list_that_has_become_empty_is_filled_again() {
    let world = Rc::new(World::default());
    run(&world, dead, async |r| {
        let (desk, _) = r.open().await;
        fill(r, &desk).await;
        let d = {
            let mut s = desk.0.state.borrow_mut();
            let d = s.schedule.find("a").expect("known");
            while s.schedule.backlog(d) > 0 {
                s.schedule.drop_first(d);
            }
            d
        };
        r.sleep(60 * SECOND).await;
        let backlog = desk.0.state.borrow().schedule.backlog(d);
        assert!((1..=PLACES).contains(&backlog), "{backlog} places");
    });
}

#[test]
fn a_message_to_many_dead_destinations_takes_200_bytes() {
    const COUNT: usize = 20_000;
    const DESTINATIONS: usize = 200;
    let world = Rc::new(World::default());
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            let now = r.rig.now();
            let mut s = desk.0.state.borrow_mut();
            let hops = (0..DESTINATIONS).map(|n| Hop {
                key: format!("dead {n}"),
                targets: vec![Target::Address(address(99))],
                source: (None, None),
                security: Default::default(),
                limits: Limits::default(),
            });
            let all: Vec<u32> = hops.map(|hop| desk.door(&mut s, Rc::new(hop), b"x@dead.example")).collect();
            for d in &all {
                let p = s.schedule.pool_of(*d);
                s.schedule.failed(p, now, 0);
            }
            for n in 0..COUNT {
                let mut e = Entry::new(MessageId((n as u64 + 1) << 10), 1000, BodyFlags(0));
                let to = |d: &u32| Recipient { destination: *d, phase: Phase::Ready, ..Recipient::default() };
                e.recipients.extend(all.iter().map(to));
                let key = s.index.insert(e);
                s.enqueue(key, now);
                let stub = Stub::of(s.index.get(key).expect("rich"));
                s.index.park(key, stub);
                assert_eq!(s.index.presence(key), Presence::Parked);
            }
            let bytes = s.index.heap_bytes() + s.timers.heap_bytes() + s.schedule.heap_bytes();
            assert!(bytes / COUNT <= 200, "{} bytes", bytes / COUNT);
            // The first of them stand in each list, so that it is tried.
            assert!(all.iter().all(|d| s.schedule.backlog(*d) == desk.0.options.limits.places));
            let keys: Vec<_> = s.index.after(MessageId(0)).map(|m| m.0).collect();
            keys.into_iter().for_each(|key| drop(s.index.remove(key)));
        },
    );
}

//! The desk's rounds: what is forgotten, and what must not wait for ever.

use super::archived::fill;
use super::*;
use crate::queue::row;
use crate::queue::rules::Rule;

fn hop(name: &str) -> Rc<Hop> {
    let targets = vec![Target::Address(address(2))];
    let limits = Limits::default();
    Rc::new(Hop { key: name.into(), targets, source: (None, None), security: Default::default(), limits })
}

#[test]
fn destinations_that_no_message_names_are_forgotten() {
    run(
        &Rc::new(World::default()),
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            send(&desk, &["x@a.example"]).await;
            let make = |from: usize| {
                let mut s = desk.0.state.borrow_mut();
                (from..from + 1500).map(|n| desk.door(&mut s, hop(&format!("d{n}")), b"")).max()
            };
            make(0);
            r.sleep(300 * SECOND).await;
            {
                let s = desk.0.state.borrow();
                assert!(s.schedule.len() <= 2, "{}", s.schedule.len());
                assert!(s.schedule.find("a").is_some() && s.schedule.find("d7").is_none());
                assert_eq!(s.schedule.pools().count(), s.schedule.len());
            }
            // Their numbers are given out again, and mail goes where it should.
            assert!(make(2000).expect("some") <= 1503);
            r.a.up.set(true);
            assert_eq!(desk.control(&Request::Flush(Which::All)).await, Response::Done(1));
            assert!(r.empty(&desk, HOUR).await);
            assert_eq!(r.a.got.borrow().len(), 1);
        },
    );
}

/// Names with which a round begins.
const MANY: usize = 500;

/// The numbers that the index has names for.
fn named(world: &World) -> Vec<u32> {
    let stored = super::archived::stored(world);
    let rows = stored.rows.borrow();
    rows.keys().filter_map(|k| row::name_of(k)).collect()
}

#[test]
fn names_that_no_row_needs_leave_the_index() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| {
            r.a.up.set(false);
            r.options.limits.names = MANY;
        },
        async |r| {
            let (desk, _) = r.open().await;
            fill(r, &desk, 0..100).await;
            r.sleep(5 * SECOND).await;
            assert!(desk.stats().parked > 50 && named(&world).len() <= 2, "{:?}", named(&world));
            {
                let mut s = desk.0.state.borrow_mut();
                (0..MANY - 10).for_each(|n| _ = s.ledger.number(&format!("d{n}"), b"x@y.example"));
            }
            fill(r, &desk, 100..200).await;
            r.sleep(5 * SECOND).await;
            assert!(named(&world).len() >= MANY - 10, "too few to look");
            {
                let mut s = desk.0.state.borrow_mut();
                (0..20).for_each(|n| _ = s.ledger.number(&format!("e{n}"), b"x@y.example"));
            }
            fill(r, &desk, 200..300).await;
            r.sleep(5 * SECOND).await;
            // With the next transaction.
            fill(r, &desk, 300..301).await;
            r.sleep(5 * SECOND).await;
            let left = named(&world);
            assert!(left.len() <= 2, "{} names", left.len());
            let s = desk.0.state.borrow();
            assert!(left.iter().any(|n| s.ledger.name(*n) == Some("a")), "what rows name stays");
        },
    );
    // There are numbers missing before others now.
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            r.sleep(5 * SECOND).await;
            {
                let mut s = desk.0.state.borrow_mut();
                assert!(s.loaded && s.ledger.number("new", b"x@y.example") > 0);
            }
            assert_eq!(desk.stats().messages, 301);
            r.a.up.set(true);
            desk.control(&Request::Flush(Which::All)).await;
            assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
            assert_eq!(super::archived::recipients(&r.a), super::archived::expected("a.example", 0..301));
        },
    );
}

#[test]
fn mail_of_a_suspended_destination_expires_in_time() {
    run(
        &Rc::new(World::default()),
        |r| r.options.lifetime = 2 * HOUR,
        async |r| {
            let (desk, _) = r.open().await;
            let rule = |until: Option<u64>| Rule {
                number: 4,
                what: "a".into(),
                reason: "it moves".into(),
                by: "somebody".into(),
                since: 0,
                until,
            };
            desk.control(&Request::Rules(vec![rule(None)])).await;
            send(&desk, &["x@a.example"]).await;
            send(&desk, &["x@b.example"]).await;
            r.sleep(HOUR).await;
            assert_eq!((r.a.connects.get(), r.b.got.borrow().len()), (0, 1));
            assert_eq!(desk.stats().deferred, 1, "as what waits for a destination that is left alone");
            r.sleep(HOUR + HOUR / 2).await;
            assert_eq!((r.a.connects.get(), desk.stats().messages), (0, 0));
            let bounce = r.b.got.borrow()[1].data.clone();
            assert!(bounce.contains("suspended by rule 4 of somebody: it moves"), "{bounce}");
            assert!(bounce.contains("Status: 5.4.7"), "{bounce}");
            // One that ends by itself.
            let soon = desk.runtime().wall().after(HOUR).0;
            desk.control(&Request::Rules(vec![rule(Some(soon))])).await;
            send(&desk, &["y@a.example"]).await;
            r.sleep(HOUR / 2).await;
            assert_eq!(r.a.connects.get(), 0);
            assert!(r.empty(&desk, HOUR).await);
            assert_eq!(r.a.got.borrow().len(), 1);
        },
    );
}

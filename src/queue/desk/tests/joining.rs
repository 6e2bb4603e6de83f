//! An index that takes long to open: new mail does not wait for it, and whatever happens meanwhile, the
//! queue that comes of it is the one that would have come without delay.

use super::archived::{MANY, expected, fill, recipients, settled, stored};
use super::*;
use std::cell::RefCell;
use std::io::ErrorKind;

/// Much longer than mail waits.
const LONG: Duration = Duration::from_secs(20);

/// What the journal takes besides its window.
const MORE: usize = 12;

/// A queue of which most is parked and some is in the journal, killed; its index is slow from now on.
fn backlog() -> Rc<World> {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            fill(r, &desk, 0..MANY).await;
            settled(r).await;
            assert!(desk.stats().parked > MANY / 2 && desk.stats().parked < MANY);
        },
    );
    stored(&world).slow.set(LONG);
    world
}

/// Opens it, which takes no longer than mail may wait.
async fn opened(r: &Run) -> Desk<Rig> {
    let began = r.rig.now();
    let (desk, recovery) = r.open().await;
    assert!(r.rig.now().since(began) < SECOND, "{:?}", r.rig.now().since(began));
    assert!(recovery.messages > 0 && recovery.messages < MANY && !recovery.index_lost, "{recovery:?}");
    assert_eq!((desk.stats().messages, desk.stats().loading), (0, true));
    desk
}

/// A process that is started after others, by the clock, too.
fn later(r: &mut Run, n: u32) {
    r.rig.set_clock(HOUR * (n + 1), false);
}

/// Without delay: all that is left, and then nothing.
fn the_rest(world: &Rc<World>) -> Vec<String> {
    stored(world).slow.set(Duration::ZERO);
    run(
        world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            desk.loaded().await.expect("open");
            assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
            recipients(&r.a)
        },
    )
}

#[test]
fn mail_is_taken_and_sent_while_the_index_is_being_opened() {
    let world = backlog();
    run(
        &world,
        |r| {
            later(r, 0);
            r.a.up.set(false);
        },
        async |r| {
            let desk = opened(r).await;
            send(&desk, &["x@b.example"]).await;
            r.sleep(SECOND).await;
            assert_eq!(recipients(&r.b), ["x@b.example"]);
            // More than the journal's window holds, for somebody who does not answer.
            fill(r, &desk, MANY..MANY + MORE).await;
            assert!(desk.stats().loading && desk.stats().parked == 0);
            let lost = desk.index_lost().await;
            let loaded = desk.loaded().await.expect("open");
            assert_eq!((lost, loaded.rebuilt, loaded.unreadable, loaded.in_doubt), (Some(false), None, 0, 0));
            assert_eq!(desk.stats().messages, MANY + MORE);
            r.a.up.set(true);
            assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
            assert_eq!(recipients(&r.a), expected("a.example", 0..MANY + MORE), "each once");
            settled(r).await;
            assert_eq!(desk.stats().archive_live_bytes, 0);
        },
    );
    assert!(the_rest(&world).is_empty());
}

#[test]
fn closed_or_killed_before_the_index_is_open_nothing_has_changed() {
    for close in [true, false] {
        let world = backlog();
        let got: Rc<RefCell<Vec<String>>> = Rc::default();
        for n in 0..3 {
            run(
                &world,
                |r| later(r, n),
                async |r| {
                    let desk = opened(r).await;
                    send(&desk, &[&format!("new{n}@a.example")]).await;
                    r.sleep(SECOND).await;
                    got.borrow_mut().extend(recipients(&r.a));
                    if close {
                        desk.stop();
                        desk.close().await;
                        assert_eq!(desk.index_lost().await, None);
                    }
                },
            );
        }
        got.borrow_mut().extend(the_rest(&world));
        let mut all = expected("a.example", 0..MANY);
        all.extend((0..3).map(|n| format!("new{n}@a.example")));
        all.sort();
        got.borrow_mut().sort();
        assert_eq!(*got.borrow(), all, "closed: {close}");
    }
}

#[test]
fn an_index_found_unsound_late_is_made_anew_and_one_that_cannot_be_read_ends_it() {
    for kind in [ErrorKind::InvalidData, ErrorKind::Other] {
        let world = backlog();
        stored(&world).unsound.set(Some(kind));
        run(
            &world,
            |r| {
                later(r, 0);
                r.a.up.set(false);
            },
            async |r| {
                let desk = opened(r).await;
                send(&desk, &["new@b.example"]).await;
                if kind == ErrorKind::InvalidData {
                    assert_eq!(desk.index_lost().await, Some(true));
                    let loaded = desk.loaded().await.expect("open");
                    assert!(loaded.rebuilt.is_some_and(|n| n > 0), "{loaded:?}");
                    assert!(list(&desk, true).await.len() >= 100);
                    // Killed here: it is no less in doubt for that, nor because an earlier run ended well.
                } else {
                    assert_eq!(desk.loaded().await, None);
                    assert!(desk.is_dead());
                    let e = envelope("me@from.example", &[("x@b.example", Notify::DEFAULT)]);
                    assert!(send_as(&desk, &e, "x").await.is_err());
                    assert!(recipients(&r.a).is_empty());
                }
            },
        );
        stored(&world).unsound.set(None);
        let doubt: Rc<RefCell<u64>> = Rc::default();
        run(
            &world,
            |r| {
                later(r, 1);
                r.a.up.set(false);
            },
            async |r| {
                let (desk, recovery) = r.open().await;
                *doubt.borrow_mut() = desk.loaded().await.expect("open").in_doubt;
                assert!(!recovery.index_lost);
            },
        );
        assert_eq!(*doubt.borrow() > 100, kind == ErrorKind::InvalidData, "{doubt:?}");
        assert_eq!(the_rest(&world), expected("a.example", 0..MANY));
    }
}

#[test]
fn with_a_clock_set_back_mail_waits_for_the_index_so_that_ids_are_new() {
    let world = backlog();
    let back = |r: &mut Run| r.rig.set_clock(HOUR, true);
    run(&world, back, async |r| {
        let began = r.rig.now();
        let (desk, _) = r.open().await;
        assert!(r.rig.now().since(began) >= LONG);
        assert!(send(&desk, &["x@b.example"]).await.message > MessageId(0));
        desk.loaded().await.expect("open");
        assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
        assert_eq!(recipients(&r.a), expected("a.example", 0..MANY));
    });
}

/// The index is lost while the disk has no space for a new one: that is waited for, and mail goes on.
#[test]
fn an_index_that_cannot_be_made_for_lack_of_space_is_made_later() {
    let world = backlog();
    stored(&world).slow.set(Duration::ZERO);
    stored(&world).unsound.set(Some(ErrorKind::StorageFull));
    run(
        &world,
        |r| later(r, 0),
        async |r| {
            let desk = opened(r).await;
            let id = send(&desk, &["new@b.example"]).await;
            r.sleep(HOUR).await;
            assert!(!desk.is_dead() && desk.stats().loading);
            assert_eq!(recipients(&r.b), ["new@b.example"], "{id:?}");
            stored(&world).unsound.set(None);
            assert!(desk.loaded().await.is_some());
            assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
            assert_eq!(recipients(&r.a), expected("a.example", 0..MANY));
        },
    );
}

//! Tests of opening mailboxes: how often the index is asked, and which messages are recent for whom.

use super::tests::{account, deliver, die, live, world};
use crate::mailbox::api::{Alter, Mailboxes, News, Selected};
use crate::mailbox::types::{Flags, UidSet};
use crate::runtime::Clock;

#[test]
fn a_cold_mailbox_is_read_in_pages() {
    let world = world();
    let a = live(&world, |_, store, _| async move {
        let a = account(&store, "a").await;
        for n in 1..=50 {
            deliver(&store, n, 10, a).await;
        }
        a
    });
    let table = world.tables.borrow().values().next().expect("an index").clone();
    let (scans, uids) = live(&world, |_, store, _| {
        let table = table.clone();
        async move {
            // What is newer lies over it.
            let open = store.select(a, "INBOX").await.expect("there");
            open.expunge(&UidSet::of([(3, 4)]), false).await.expect("fine");
            drop(open);
            let inbox = store.find(a, "INBOX").expect("there");
            store.0.state.borrow_mut().shard.close(inbox);
            deliver(&store, 51, 10, a).await;
            let before = table.scans.get();
            let open = store.select(a, "INBOX").await.expect("there");
            let scans = table.scans.get() - before;
            let mut all = Vec::new();
            open.window(1, 100, &mut all);
            (scans, all.iter().map(|m| m.uid).collect::<UidSet>())
        }
    });
    assert_eq!(uids, UidSet::of([(1, 2), (5, 51)]));
    assert_eq!(scans, 2, "one of messages, one of expunges");
}

#[test]
fn what_is_recent_outlives_a_restart_and_is_told_to_one_session() {
    let world = world();
    let a = live(&world, |_, store, _| async move {
        let a = account(&store, "a").await;
        for n in 1..=3 {
            deliver(&store, n, 10, a).await;
        }
        let mut looks = store.select(a, "INBOX").await.expect("there");
        looks.meet(false);
        assert_eq!((looks.recent_count(), store.status(a, "INBOX").await.map(|s| s.recent)), (3, Ok(3)));
        a
    });
    live(&world, |_, store, _| async move {
        assert_eq!(store.status(a, "INBOX").await.map(|s| s.recent), Ok(3));
        let (mut one, mut other) =
            (store.select(a, "INBOX").await.expect("there"), store.select(a, "INBOX").await.expect("there"));
        one.meet(true);
        other.meet(true);
        assert_eq!((one.recent_count(), other.recent_count()), (3, 0));
        deliver(&store, 4, 10, a).await;
        assert_eq!(other.sync(true), [News::Exists(4), News::Recent(1)]);
        assert_eq!(one.sync(true), [News::Exists(4)]);
        assert_eq!((one.recent(), other.recent()), (UidSet::of([(1, 3)]), UidSet::of([(4, 4)])));
    });
    die(&world, |_, store, _| async move {
        assert_eq!(store.status(a, "INBOX").await.map(|s| s.recent), Ok(0), "the index knows");
        deliver(&store, 5, 10, a).await;
        let mut open = store.select(a, "INBOX").await.expect("there");
        open.meet(true);
        assert_eq!(open.recent(), UidSet::of([(5, 5)]));
        open.store(&UidSet::of([(1, 1)]), Alter::Add, Flags::SEEN, &[], None).await.expect("fine");
    });
    // That it was told of is forgotten with the crash; what had been told of before is not.
    live(&world, |_, store, _| async move {
        let mut open = store.select(a, "INBOX").await.expect("there");
        open.meet(true);
        assert_eq!(open.recent(), UidSet::of([(5, 5)]));
    });
    live(&world, |_, store, _| async move {
        assert_eq!(store.status(a, "INBOX").await.map(|s| s.recent), Ok(0));
    });
}

#[test]
fn a_delivery_waits_for_those_who_have_not_been_told() {
    let world = world();
    live(&world, |rt, store, _| async move {
        let a = account(&store, "a").await;
        let mut idle = store.select(a, "INBOX").await.expect("there");
        assert_eq!(idle.waits(), None);
        deliver(&store, 1, 10, a).await;
        let since = idle.waits().expect("it has come");
        assert!(since <= rt.now() && idle.waits().is_none(), "once");
        deliver(&store, 2, 10, a).await;
        idle.sync(true);
        assert_eq!(idle.waits(), None, "it has been told");
        idle.store(&UidSet::of([(1, 1)]), Alter::Add, Flags::SEEN, &[], None).await.expect("fine");
        assert_eq!(idle.waits(), None, "flags are no delivery");
    });
}

//! A queue longer than its journal: archive, index, and the way back, also over restarts and losses.

use super::*;
use crate::queue::desk::loading::Loaded;
use crate::queue::row;
use crate::runtime::double::Stored;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// More than three times what the journal's window holds.
pub(super) const MANY: usize = 300;

pub(super) fn stored(world: &World) -> Rc<Stored> {
    world.tables.borrow().get(Path::new("/q/index")).cloned().expect("an index")
}

fn archive_files(world: &World) -> usize {
    world.files.borrow().keys().filter(|p| p.starts_with("/q/archive")).count()
}

/// Recipients that a server got, each as often as it was sent.
pub(super) fn recipients(server: &Server) -> Vec<String> {
    let mut all: Vec<String> = texts(server).iter().flat_map(|m| m.to.clone()).collect();
    all.sort();
    all
}

pub(super) fn expected(domain: &str, range: std::ops::Range<usize>) -> Vec<String> {
    let mut all: Vec<String> = range.map(|n| format!("m{n}@{domain}")).collect();
    all.sort();
    all
}

pub(super) async fn fill(r: &Run, desk: &Desk<Rig>, range: std::ops::Range<usize>) {
    let body = "x".repeat(6000);
    for n in range {
        let e = envelope("me@from.example", &[(&format!("m{n}@a.example"), Notify::DEFAULT)]);
        while let Err(e) = send_as(desk, &e, &body).await {
            assert!(matches!(e, IntakeError::Busy | IntakeError::Full), "{e}");
            r.sleep(Duration::from_millis(50)).await;
        }
    }
}

pub(super) async fn settled(r: &Run) {
    r.sleep(2 * SECOND).await;
}

#[test]
fn what_waits_leaves_the_journal_and_comes_back_when_its_destination_does() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            fill(r, &desk, 0..MANY).await;
            settled(r).await;
            let stats = desk.stats();
            assert_eq!(stats.messages, MANY);
            assert!(stats.parked > MANY / 2, "{} of {MANY} are parked", stats.parked);
            assert!(stats.journal_segments <= 9, "{} segments", stats.journal_segments);
            assert!(stats.archive_live_bytes >= 6000 * stats.parked as u64);
            // Mail for others does not wait.
            send(&desk, &["x@b.example"]).await;
            r.sleep(Duration::from_millis(20)).await;
            assert_eq!(recipients(&r.b), ["x@b.example"]);
            let all = pages(&desk).await;
            assert_eq!(
                all.iter().map(|l| l.recipients[0].address.clone()).collect::<BTreeSet<_>>().len(),
                MANY
            );
            assert!(all[0].recipients[0].delay_reason.as_deref().is_some_and(|t| t.contains("refused")));
            r.a.up.set(true);
            assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
            assert_eq!(recipients(&r.a), expected("a.example", 0..MANY));
            settled(r).await;
            assert_eq!(desk.stats().archive_live_bytes, 0);
            assert!(archive_files(&world) <= 2, "{} archive files", archive_files(&world));
            let rows = stored(&world).rows.borrow().keys().filter(|k| k[0] == row::MESSAGES).count();
            assert_eq!(rows, 0);
        },
    );
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, recovery) = r.open().await;
            assert_eq!((recovery.messages, desk.loaded().await.unwrap().parked), (0, 0));
            assert_eq!(recipients(&r.a), [""; 0]);
        },
    );
}

async fn pages(desk: &Desk<Rig>) -> Vec<crate::queue::control::Listed> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let Response::Page { messages, next } =
            desk.control(&Request::List { after, limit: 50, in_doubt: false }).await
        else {
            panic!("a page")
        };
        all.extend(messages);
        let Some(_) = next else { return all };
        after = next;
    }
}

#[test]
fn a_killed_queue_finds_all_of_it_again_and_sends_nothing_twice() {
    let world = Rc::new(World::default());
    let got: Rc<RefCell<Vec<String>>> = Rc::default();
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            fill(r, &desk, 0..MANY).await;
            settled(r).await;
            assert!(desk.stats().parked > 0);
        },
    );
    // Some are sent, then it is killed again.
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, recovery) = r.open().await;
            let loaded = desk.loaded().await.expect("open");
            assert_eq!(recovery.messages as u64 + loaded.parked, MANY as u64);
            assert_eq!((loaded.rebuilt, loaded.unreadable, loaded.in_doubt), (None, 0, 0));
            while texts(&r.a).len() < MANY / 3 {
                r.sleep(Duration::from_millis(1)).await;
            }
            r.a.up.set(false);
            r.sleep(SECOND).await;
            got.borrow_mut().extend(recipients(&r.a));
        },
    );
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            desk.loaded().await.expect("open");
            assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
            got.borrow_mut().extend(recipients(&r.a));
            let mut all = got.borrow().clone();
            all.sort();
            assert_eq!(all, expected("a.example", 0..MANY), "each once");
            desk.stop();
            desk.close().await;
        },
    );
}

/// Fills a queue, sends some of it, ends with `end`; then something happens to the index.
fn lose(
    happens: impl FnOnce(&World, &Stored, Option<std::collections::BTreeMap<Vec<u8>, Vec<u8>>>),
) -> Loaded {
    let world = Rc::new(World::default());
    let yesterday = Rc::new(RefCell::new(None));
    let got: Rc<RefCell<Vec<String>>> = Rc::default();
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            fill(r, &desk, 0..MANY).await;
            settled(r).await;
            *yesterday.borrow_mut() = Some(stored(&world).rows.borrow().clone());
            r.a.up.set(true);
            while texts(&r.a).len() < MANY / 2 {
                r.sleep(Duration::from_millis(100)).await;
            }
            r.a.up.set(false);
            r.sleep(5 * SECOND).await;
            // More of it goes into the archive, and what was sent out of the journal.
            fill(r, &desk, MANY..2 * MANY).await;
            settled(r).await;
            got.borrow_mut().extend(recipients(&r.a));
        },
    );
    happens(&world, &stored(&world), yesterday.take());
    let found: Rc<RefCell<Option<Loaded>>> = Rc::default();
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, recovery) = r.open().await;
            let loaded = desk.loaded().await.expect("open");
            assert_eq!(recovery.index_lost, loaded.rebuilt.is_some());
            assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
            let mut all = got.borrow().clone();
            all.extend(recipients(&r.a));
            let distinct: BTreeSet<String> = all.iter().cloned().collect();
            assert_eq!(distinct.len(), 2 * MANY, "nothing is lost");
            let twice = all.len() - distinct.len();
            assert!(
                twice as u64 <= loaded.rebuilt.unwrap_or(0),
                "{twice} sent twice, told {:?}",
                loaded.rebuilt
            );
            *found.borrow_mut() = Some(loaded);
        },
    );
    found.take().expect("it ran")
}

#[test]
fn an_index_that_is_lost_is_made_anew_and_what_is_sent_again_is_told() {
    let loaded = lose(|world, _, _| {
        world.tables.borrow_mut().remove(Path::new("/q/index"));
    });
    assert!(loaded.rebuilt.is_some_and(|n| n > 0));
}

#[test]
fn an_unsound_index_is_made_anew() {
    let loaded = lose(|_, stored, _| stored.unsound.set(Some(std::io::ErrorKind::InvalidData)));
    assert!(loaded.rebuilt.is_some_and(|n| n > 0));
}

#[test]
fn an_index_of_yesterday_is_not_believed() {
    let loaded = lose(|_, stored, yesterday| *stored.rows.borrow_mut() = yesterday.unwrap());
    assert!(loaded.rebuilt.is_some_and(|n| n > 0));
}

#[test]
fn an_untouched_index_sends_nothing_again() {
    assert_eq!(lose(|_, _, _| {}).rebuilt, None);
}

#[test]
fn operators_reach_parked_messages() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            fill(r, &desk, 0..MANY).await;
            settled(r).await;
            let all = pages(&desk).await;
            let (held, gone): (QueueId, QueueId) =
                (all[0].queue_id.parse().unwrap(), all[1].queue_id.parse().unwrap());
            let note = || "by hand".to_owned();
            for request in [
                Request::Hold { which: Which::One(held), note: note() },
                Request::Delete { which: Which::One(gone), note: note() },
            ] {
                assert!(matches!(desk.control(&request).await, Response::Done(1)), "{request:?}");
            }
            settled(r).await;
            assert_eq!((desk.stats().messages, desk.stats().held), (MANY - 1, 1));
            let Response::Piece { bytes, .. } = desk.control(&Request::Cat { id: held, offset: 0 }).await
            else {
                panic!("its text")
            };
            assert!(bytes.len() > 6000);
        },
    );
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            desk.loaded().await.expect("open");
            assert_eq!((desk.stats().messages, desk.stats().held), (MANY - 1, 1));
            r.sleep(HOUR).await;
            assert_eq!(recipients(&r.a), expected("a.example", 2..MANY));
            let which = Which::All;
            let released = desk.control(&Request::Release { which, note: String::new() }).await;
            assert!(matches!(released, Response::Done(1)), "{released:?}");
            assert!(r.empty(&desk, HOUR).await);
            assert_eq!(texts(&r.a).last().unwrap().to, ["m0@a.example"]);
        },
    );
}

#[test]
fn a_backlog_whose_time_is_over_bounces_once() {
    let world = Rc::new(World::default());
    let dead = |r: &mut Run| {
        r.a.up.set(false);
        r.options.lifetime = HOUR;
    };
    run(&world, dead, async |r| {
        let (desk, _) = r.open().await;
        fill(r, &desk, 0..MANY).await;
        assert!(r.empty(&desk, 12 * HOUR).await, "{:?}", desk.stats());
        let mut told = 0;
        for mail in texts(&r.b) {
            assert_eq!((mail.from.as_str(), mail.to[0].as_str()), ("", "me@from.example"));
            told += mail.data.matches("Final-Recipient:").count();
        }
        assert_eq!(told, MANY);
        assert!(texts(&r.a).is_empty());
    });
}

#[test]
fn replies_and_retries_of_many_recipients_survive_archive_and_restart() {
    let world = Rc::new(World::default());
    let to: Vec<String> = (0..40).map(|n| format!("r{n}@{}.example", ["a", "b"][n % 2])).collect();
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            *r.a.rcpt.borrow_mut() = Box::new(|a| {
                if a.starts_with("r0@") || a.starts_with('m') { "451 4.2.1 r0 waits" } else { "250 Ok" }
                    .into()
            });
            *r.b.rcpt.borrow_mut() =
                Box::new(|a| if a.starts_with("r1@") { "452 4.2.2 r1 is full" } else { "250 Ok" }.into());
            let list: Vec<(&str, Notify)> = to.iter().map(|a| (a.as_str(), Notify::DEFAULT)).collect();
            let e = envelope("me@from.example", &list);
            send_as(&desk, &e, "for many\r\n").await.expect("accepted");
            r.sleep(SECOND).await;
            fill(r, &desk, 0..MANY).await;
            settled(r).await;
            assert!(desk.stats().parked > 0);
        },
    );
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            desk.loaded().await.expect("open");
            let first = pages(&desk).await.remove(0);
            let said: Vec<_> = first
                .recipients
                .iter()
                .map(|r| (r.address.as_str(), r.delay_reason.as_deref().unwrap(), r.attempts))
                .collect();
            assert_eq!(
                said,
                [("r0@a.example", "451 4.2.1 r0 waits", 1), ("r1@b.example", "452 4.2.2 r1 is full", 1)]
            );
            assert!(r.empty(&desk, 2 * HOUR).await);
            let many: Vec<_> = texts(&r.a).into_iter().filter(|m| m.to[0].starts_with('r')).collect();
            assert_eq!((many.len(), &many[0].to), (1, &vec!["r0@a.example".to_owned()]));
            assert_eq!(recipients(&r.b), ["r1@b.example"]);
        },
    );
}

#[test]
fn a_full_disk_keeps_what_is_accepted_and_lets_deliveries_go_on() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            fill(r, &desk, 0..MANY / 2).await;
            settled(r).await;
            stored(&world).fail.set(Some(std::io::ErrorKind::StorageFull));
            world.free.set(0);
            let mut accepted = MANY / 2;
            let body = "x".repeat(6000);
            loop {
                let to = format!("m{accepted}@a.example");
                let e = envelope("me@from.example", &[(to.as_str(), Notify::DEFAULT)]);
                match send_as(&desk, &e, &body).await {
                    Ok(_) => accepted += 1,
                    Err(IntakeError::Full) => break,
                    Err(e) => assert_eq!(e, IntakeError::Busy),
                }
                r.sleep(Duration::from_millis(20)).await;
            }
            r.sleep(10 * SECOND).await;
            assert!(!desk.is_dead());
            stored(&world).fail.set(None);
            r.a.up.set(true);
            assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
            assert_eq!(recipients(&r.a), expected("a.example", 0..accepted));
        },
    );
}

#[test]
fn an_index_that_is_made_anew_waits_for_space() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            fill(r, &desk, 0..MANY / 2).await;
            settled(r).await;
            assert!(desk.stats().parked > 0);
        },
    );
    world.tables.borrow_mut().remove(Path::new("/q/index"));
    run(
        &world,
        |r| r.a.up.set(true),
        async |r| {
            let (desk, recovery) = r.open().await;
            assert!(recovery.index_lost);
            stored(&world).fail.set(Some(std::io::ErrorKind::StorageFull));
            r.sleep(10 * SECOND).await;
            assert!(!desk.is_dead() && desk.stats().loading);
            // What the journal holds is sent meanwhile, and new mail is taken.
            send(&desk, &["x@b.example"]).await;
            r.sleep(Duration::from_millis(20)).await;
            assert_eq!(recipients(&r.b), ["x@b.example"]);
            stored(&world).fail.set(None);
            assert!(desk.loaded().await.is_some_and(|l| l.rebuilt > Some(0)));
            assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
            assert_eq!(recipients(&r.a), expected("a.example", 0..MANY / 2));
        },
    );
}

#[test]
fn what_cannot_be_read_any_more_can_be_deleted() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            fill(r, &desk, 0..MANY).await;
            settled(r).await;
            let id = desk.0.state.borrow().index.oldest().expect("some wait");
            let key = desk.0.state.borrow().index.find(id).expect("there");
            assert!(desk.0.state.borrow().index.stub(key).is_some(), "the oldest is parked");
            for (path, node) in world.files.borrow().iter().filter(|f| f.0.starts_with("/q/archive")) {
                assert!(path.extension().is_some());
                node.data.borrow_mut().iter_mut().skip(8192).for_each(|b| *b ^= 1);
            }
            assert!(desk.read_parked(id).await.is_none(), "no body can be read");
            let rows = stored(&world).rows.borrow().len();
            let delete = Request::Delete { which: Which::One(desk.queue_id(id)), note: String::new() };
            assert_eq!(desk.control(&delete).await, Response::Done(1));
            assert_eq!((desk.stats().messages, desk.0.state.borrow().index.find(id)), (MANY - 1, None));
            settled(r).await;
            assert_eq!(stored(&world).rows.borrow().len(), rows - 1, "its row has gone");
            assert!(!desk.is_dead());
        },
    );
}

/// A record is read to be copied with what its next hop said; meanwhile the next hop says something else.
#[test]
fn what_was_read_before_the_last_reply_is_not_copied() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| *r.a.rcpt.borrow_mut() = Box::new(|_| "451 4.7.1 first".into()),
        async |r| {
            let (desk, _) = r.open().await;
            let id = send(&desk, &["x@a.example"]).await;
            r.sleep(2 * SECOND).await;
            let key = desk.key_of(id).expect("there");
            let old = desk.with_replies(key).await;
            *r.a.rcpt.borrow_mut() = Box::new(|_| "451 4.7.1 second".into());
            r.sleep(2 * HOUR).await;
            assert_eq!(desk.move_one(key, old.as_ref()), Ok(false));
            let new = desk.with_replies(key).await;
            let (_, _, replies) = new.as_ref().expect("there");
            assert_eq!(&*replies[&0].text, b"second");
            assert_eq!(desk.move_one(key, new.as_ref()), Ok(true));
        },
    );
}

//! What conditions and changes cost: messages looked at, rows and bodies read.

use super::archived::{MANY, fill, settled, stored};
use super::*;
use crate::queue::pick::{Pick, Standing, Verb};
use crate::queue::row::{self, RowHead, RowView};

/// What is found, and at how many messages it was looked for that.
async fn find(desk: &Desk<Rig>, pick: Pick, verb: Verb) -> (Vec<QueueId>, u64) {
    let (mut all, mut sum, mut after) = (Vec::new(), 0, None);
    loop {
        let request = Request::Select { pick: Box::new(pick.clone()), verb, after };
        match desk.control(&request).await {
            Response::Selected { ids, looked, next, unread: 0, .. } => {
                all.extend(ids);
                sum += looked;
                let Some(_) = next else { return (all, sum) };
                after = next;
            }
            other => panic!("{other:?}"),
        }
    }
}

fn domain(pattern: &str) -> Pick {
    Pick { domain: Some(pattern.into()), ..Pick::default() }
}

fn site(pattern: &str) -> Pick {
    Pick { site: Some(pattern.into()), ..Pick::default() }
}

fn state(state: Standing) -> Pick {
    Pick { state: Some(state), ..Pick::default() }
}

fn some(ids: &[QueueId]) -> Which {
    Which::Some(ids.to_vec())
}

#[test]
fn only_what_a_condition_can_mean_is_looked_at_and_nothing_is_read() {
    let world = Rc::new(World::default());
    let down = |r: &mut Run| {
        r.a.up.set(false);
        r.b.up.set(false);
    };
    let few = run(&world, down, async |r| {
        let (desk, _) = r.open().await;
        let mut few = Vec::new();
        for _ in 0..5 {
            few.push(send(&desk, &["x@b.example"]).await);
        }
        fill(r, &desk, 0..MANY).await;
        settled(r).await;
        few
    });
    // They have left the journal; what is known of them is known from rows.
    run(&world, down, async |r| {
        let (desk, _) = r.open().await;
        settled(r).await;
        assert!(desk.stats().parked > MANY / 2, "{:?}", desk.stats());
        let reads = world.reads.get();
        for pick in [domain("B.example"), domain("b.*"), site("b")] {
            assert_eq!(find(&desk, pick.clone(), Verb::Look).await, (few.clone(), 5), "{pick}");
        }
        assert_eq!(find(&desk, domain("c.example"), Verb::Look).await, (vec![], 0));
        assert_eq!(find(&desk, state(Standing::Hold), Verb::Look).await, (vec![], 0));
        assert_eq!(find(&desk, state(Standing::Active), Verb::Look).await, (vec![], 0), "all is left alone");
        assert_eq!(find(&desk, domain("a.*"), Verb::Look).await, {
            let (all, looked) = find(&desk, site("a"), Verb::Look).await;
            assert_eq!(
                (all.len(), looked as usize),
                (MANY, MANY + 5),
                "all is looked at: that is most of it"
            );
            (all, looked)
        });
        let hold = Request::Hold { which: some(&few[..3]), note: String::new() };
        assert_eq!(desk.control(&hold).await, Response::Done(3));
        assert_eq!(find(&desk, state(Standing::Hold), Verb::Look).await, (few[..3].to_vec(), 3));
        let both = Pick { domain: Some("b.example".into()), ..state(Standing::Hold) };
        assert_eq!(find(&desk, both, Verb::Release).await, (few[..3].to_vec(), 3));
        assert_eq!(world.reads.get(), reads, "no file was read");
        let from = Pick { sender: Some("me@*".into()), ..domain("b.example") };
        assert_eq!(find(&desk, from, Verb::Look).await, (few.clone(), 5));
        assert!(world.reads.get() > reads, "the sender is in the message");
    });
}

#[test]
fn parked_messages_are_changed_by_their_rows() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            fill(r, &desk, 0..MANY).await;
            settled(r).await;
            // The first ones are parked.
            let (all, _) = find(&desk, site("a"), Verb::Look).await;
            let ids = &all[..60];
            let reads = world.reads.get();
            let note = "me".to_owned();
            let hold = Request::Hold { which: some(ids), note: note.clone() };
            assert_eq!(desk.control(&hold).await, Response::Done(60));
            assert_eq!(desk.control(&hold).await, Response::Done(0), "they are held");
            assert_eq!(find(&desk, state(Standing::Hold), Verb::Hold).await.0, []);
            assert_eq!(find(&desk, state(Standing::Hold), Verb::Release).await.0, ids);
            let release = Request::Release { which: some(&ids[..50]), note: note.clone() };
            assert_eq!(desk.control(&release).await, Response::Done(50));
            let delete = Request::Delete { which: some(&ids[..10]), note: note.clone() };
            assert_eq!(desk.control(&delete).await, Response::Done(10));
            assert_eq!((world.reads.get(), desk.stats().held), (reads, 10), "no file was read");
            let reason = "because".to_owned();
            let bounce = Request::Bounce { which: some(&ids[10..20]), note: note.clone(), reason };
            assert_eq!(find(&desk, site("a"), Verb::Bounce).await.0.len(), MANY - 10);
            assert_eq!(desk.control(&bounce).await, Response::Done(10));
            assert_eq!(desk.control(&bounce).await, Response::Done(0), "preview and effect are the same");
            let given_up = find(&desk, site("a"), Verb::Bounce).await.0;
            assert!(ids[10..20].iter().all(|id| !given_up.contains(id)));
            r.sleep(120 * SECOND).await;
            let told = texts(&r.b);
            assert_eq!(told.iter().filter(|m| m.data.contains("because")).count(), 10);
            // What was let go is sent when it can be, what is held is not.
            r.a.up.set(true);
            r.sleep(HOUR).await;
            assert_eq!(texts(&r.a).len(), MANY - 30);
            let release = Request::Release { which: some(&ids[50..]), note };
            assert_eq!(desk.control(&release).await, Response::Done(10));
            assert!(r.empty(&desk, HOUR).await, "{:?}", desk.stats());
            assert_eq!(texts(&r.a).len(), MANY - 20);
            settled(r).await;
            let left = (desk.stats().archive_live_bytes, desk.stats().journal_live_bytes);
            assert_eq!(left, (0, 0), "every record was given up");
        },
    );
}

#[test]
fn what_was_held_or_given_up_by_its_row_stays_so_after_a_crash() {
    let world = Rc::new(World::default());
    let down = |r: &mut Run| {
        r.a.up.set(false);
        // Nobody can be told yet.
        r.b.up.set(false);
    };
    let ids = run(&world, down, async |r| {
        let (desk, _) = r.open().await;
        fill(r, &desk, 0..MANY).await;
        settled(r).await;
        let (ids, _) = find(&desk, site("a"), Verb::Look).await;
        let note = String::new();
        let hold = Request::Hold { which: some(&ids[..20]), note: note.clone() };
        assert_eq!(desk.control(&hold).await, Response::Done(20));
        let release = Request::Release { which: some(&ids[..10]), note: note.clone() };
        assert_eq!(desk.control(&release).await, Response::Done(10));
        let bounce = Request::Bounce { which: some(&ids[20..30]), note: note.clone(), reason: note };
        assert_eq!(desk.control(&bounce).await, Response::Done(10));
        // Killed at once: the journal knows it, the index may not.
        ids
    });
    run(&world, down, async |r| {
        let (desk, _) = r.open().await;
        settled(r).await;
        assert_eq!(find(&desk, state(Standing::Hold), Verb::Look).await.0, ids[10..20]);
        r.a.up.set(true);
        r.b.up.set(true);
        r.sleep(4 * HOUR).await;
        assert_eq!((texts(&r.a).len(), texts(&r.b).len()), (MANY - 20, 10));
        assert_eq!(desk.stats().messages, 10);
    });
}

#[test]
fn rows_of_a_version_that_did_not_know_domains_are_looked_into() {
    let world = Rc::new(World::default());
    let down = |r: &mut Run| r.a.up.set(false);
    run(&world, down, async |r| {
        let (desk, _) = r.open().await;
        fill(r, &desk, 0..MANY).await;
        settled(r).await;
    });
    let mut old = 0;
    for (key, value) in stored(&world).rows.borrow_mut().iter_mut() {
        if row::id_of(key).is_some() {
            let view = RowView::parse(value).expect("a row");
            assert!(view.domain.is_some());
            let (head, recipients) =
                (RowHead { domain: None, ..view.head() }, view.recipients().collect::<Vec<_>>());
            let mut out = Vec::new();
            row::write(&mut out, &head, recipients.into_iter());
            *value = out;
            old += 1;
        }
    }
    assert!(old > MANY / 2);
    run(&world, down, async |r| {
        let (desk, _) = r.open().await;
        settled(r).await;
        assert_eq!(find(&desk, domain("a.example"), Verb::Look).await.0.len(), MANY);
        assert_eq!(find(&desk, domain("b.example"), Verb::Look).await.0, []);
    });
}

#[test]
fn who_is_named_twice_is_changed_once() {
    let world = Rc::new(World::default());
    let down = |r: &mut Run| r.b.up.set(false);
    let one = run(&world, down, async |r| {
        let (desk, _) = r.open().await;
        let one = send(&desk, &["x@b.example"]).await;
        fill(r, &desk, 0..MANY).await;
        settled(r).await;
        one
    });
    run(&world, down, async |r| {
        let (desk, _) = r.open().await;
        let twice = || some(&[one, one]);
        let note = String::new;
        for request in [
            Request::Requeue { which: twice(), note: note() },
            Request::Hold { which: twice(), note: note() },
            Request::Delete { which: twice(), note: note() },
        ] {
            let answer = desk.control(&request).await;
            assert!(matches!(answer, Response::Done(1)), "{request:?}: {answer:?}");
        }
    });
}

fn sender(pattern: &str) -> Pick {
    Pick { sender: Some(pattern.into()), ..Pick::default() }
}

/// Fills the queue with messages that are parked, of which every tenth is from somebody else, with bodies of
/// `size` bytes.
async fn fill_with(r: &Run, desk: &Desk<Rig>, size: usize) -> Vec<QueueId> {
    let mut tenth = Vec::new();
    for n in 0..MANY {
        let from = if n % 10 == 0 { "tenth@from.example" } else { "me@from.example" };
        let e = envelope(from, &[(&format!("m{n}@a.example"), Notify::DEFAULT)]);
        let id = loop {
            match send_as(desk, &e, &format!("Subject: test\r\n\r\n{}", "x".repeat(size))).await {
                Ok(accepted) => break accepted.id,
                Err(e) => assert!(matches!(e, IntakeError::Busy | IntakeError::Full), "{e}"),
            }
            r.sleep(Duration::from_millis(50)).await;
        };
        tenth.extend((n % 10 == 0).then_some(id));
    }
    settled(r).await;
    tenth
}

#[test]
fn neighbours_are_read_at_once_and_of_long_messages_little() {
    for size in [500, 6000, 15_000] {
        let world = Rc::new(World::default());
        let down = |r: &mut Run| r.a.up.set(false);
        run(&world, down, async |r| {
            let (desk, _) = r.open().await;
            let tenth = fill_with(r, &desk, size).await;
            let (reads, bytes) = (world.reads.get(), world.bytes_read.get());
            assert_eq!(find(&desk, sender("nobody@*"), Verb::Look).await.0, []);
            let (reads, bytes) = (world.reads.get() - reads, world.bytes_read.get() - bytes);
            match size {
                15_000 => assert!(bytes < MANY as u64 * 10_000, "{bytes} bytes of {MANY} messages"),
                _ => assert!(reads < MANY as u64 / 5, "{reads} reads for {MANY} messages of {size}"),
            }
            assert_eq!(find(&desk, sender("TENTH@*"), Verb::Look).await.0, tenth);
            assert_eq!(find(&desk, sender("me@*"), Verb::Look).await.0.len(), MANY - tenth.len());
            let field =
                |value: &str| Pick { headers: vec![("Subject".into(), value.into())], ..sender("tenth@*") };
            assert_eq!(find(&desk, field("*"), Verb::Look).await.0, tenth);
            assert_eq!(find(&desk, field("nothing"), Verb::Look).await.0, []);
        });
    }
}

#[test]
fn what_goes_to_one_destination_or_is_held_is_found_without_the_others() {
    let world = Rc::new(World::default());
    let down = |r: &mut Run| {
        r.a.up.set(false);
        r.b.up.set(false);
    };
    run(&world, down, async |r| {
        let (desk, _) = r.open().await;
        let mut few = Vec::new();
        for _ in 0..5 {
            few.push(send(&desk, &["x@b.example"]).await);
        }
        fill(r, &desk, 0..MANY).await;
        settled(r).await;
        let narrowed = async |which: &Which, held| {
            let ids = desk.narrow_which(which, held).await;
            ids.map(|ids| ids.iter().map(|id| desk.queue_id(*id)).collect::<Vec<_>>())
        };
        let there = Which::Destination("b".into());
        assert_eq!(narrowed(&there, false).await, Some(few.clone()));
        assert_eq!(narrowed(&Which::Destination("nowhere".into()), false).await, Some(vec![]));
        assert_eq!(narrowed(&Which::Destination("a".into()), false).await, None, "that is most of it");
        assert_eq!(narrowed(&Which::All, false).await, None);
        assert_eq!(narrowed(&Which::All, true).await, Some(vec![]));
        let note = String::new;
        let hold = Request::Hold { which: there.clone(), note: note() };
        assert_eq!(desk.control(&hold).await, Response::Done(5));
        assert_eq!(desk.control(&hold).await, Response::Done(0));
        assert_eq!(narrowed(&Which::All, true).await, Some(few.clone()));
        let elsewhere = Request::Release { which: Which::Destination("a".into()), note: note() };
        assert_eq!(desk.control(&elsewhere).await, Response::Done(0));
        let release = Request::Release { which: Which::All, note: note() };
        assert_eq!(desk.control(&release).await, Response::Done(5));
        let delete = Request::Delete { which: there, note: note() };
        assert_eq!(desk.control(&delete).await, Response::Done(5));
        let all = Request::Delete { which: Which::All, note: note() };
        assert_eq!(desk.control(&all).await, Response::Done(MANY as u64));
    });
}

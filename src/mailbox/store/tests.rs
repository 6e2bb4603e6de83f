//! Tests of the store on a disk in memory.

use super::opening::{Parts, Recovery};
use super::*;
use crate::base::time::Mono;
use crate::mailbox::api::{Alter, Content as Given, Incoming, Mailboxes, News, Reader, Selected, Target};
use crate::mailbox::api::{Append, Delivered, Vanished, Willing};
use crate::mailbox::types::{DeliveryId, Flags, Quota, SpecialUse, UidSet};
use crate::message::body::BodyFacts;
use crate::runtime::{Clock, yield_now};
use crate::storage;
use crate::storage::double::{Double, World};
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

pub(super) const DIR: &str = "/m/0001";

pub(super) fn parts(rt: &Double) -> Parts<Double> {
    let options = Options { archive: archive::Options::tiny(), resident_max: 100, ..Options::default() };
    Parts { rt: rt.clone(), storage: storage::Options::tiny(), poison: Poison::new(), options }
}

async fn open(rt: &Double) -> (Store<Double>, Recovery) {
    Store::open(Path::new(DIR), parts(rt)).await.expect("opens")
}

pub(super) fn world() -> Rc<World> {
    let world = Rc::new(World::default());
    world.free.set(1 << 40);
    world
}

/// One life of the process; it ends as it should.
pub(super) fn live<T, F: Future<Output = T>>(
    world: &Rc<World>,
    f: impl FnOnce(Double, Store<Double>, Recovery) -> F,
) -> T {
    let rt = Double::new(world);
    rt.block_on(async {
        let (store, recovery) = open(&rt).await;
        let value = f(rt.clone(), store.clone(), recovery).await;
        store.close().await;
        value
    })
}

/// One life that ends by a kill.
pub(super) fn die<T, F: Future<Output = T>>(
    world: &Rc<World>,
    f: impl FnOnce(Double, Store<Double>, Recovery) -> F,
) -> T {
    let rt = Double::new(world);
    let value = rt.block_on(async {
        let (store, recovery) = open(&rt).await;
        f(rt.clone(), store, recovery).await
    });
    rt.kill();
    value
}

pub(super) fn body(n: u32, len: usize) -> Vec<u8> {
    let mut out = format!("Subject: {n}\r\n\r\n").into_bytes();
    out.extend((0..len).map(|i| (i as u32 * 7 + n) as u8 | 1));
    out
}

pub(super) fn incoming<'a>(content: Given<'a>, len: u64, summary: &'a [u8]) -> Incoming<'a> {
    let facts = BodyFacts { len, ..BodyFacts::default() };
    Incoming { content, facts, summary, internal: Wall(5), guid: None, uidl: b"" }
}

fn to(account: AccountId) -> Target<'static> {
    Target { account, mailbox: "", flags: Flags::default(), id: None, promised: false }
}

pub(super) async fn account(store: &Store<Double>, name: &str) -> AccountId {
    let made = store.create_account(name, &[("Trash", Some(SpecialUse::Trash))], Quota::default()).await;
    made.expect("free").value
}

async fn put(
    store: &Store<Double>,
    n: u32,
    len: usize,
    targets: &[Target<'_>],
) -> Vec<Result<Delivered, Refusal>> {
    let bytes = body(n, len);
    let summary = format!("summary {n}");
    let pieces = [&bytes[..3], &bytes[3..]];
    let message = incoming(Given::Slices(&pieces), bytes.len() as u64, summary.as_bytes());
    store.deliver(message, targets).await
}

pub(super) async fn deliver(store: &Store<Double>, n: u32, len: usize, account: AccountId) -> u32 {
    let start = store.0.rt.now();
    loop {
        let answers = put(store, n, len, &[to(account)]).await;
        match answers.into_iter().next().expect("one") {
            Ok(delivered) => return delivered.at.expect("new").uid,
            Err(Refusal::Busy) => store.0.keeper.progress().await,
            // Bodies are on their way into the archive.
            Err(Refusal::Full) => {
                let rt = &store.0.rt;
                assert!(rt.now().since(start) < Duration::from_secs(60), "nothing gets free");
                rt.sleep_until(rt.now().after(Duration::from_millis(5))).await;
            }
            Err(e) => panic!("{e}"),
        }
    }
}

pub(super) async fn content(
    open: &Open<Double>,
    uid: u32,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, Refusal> {
    let mut reader = open.read(uid, range).await?;
    let mut out = Vec::new();
    while let Some(piece) = reader.next().await? {
        out.extend_from_slice(&piece);
    }
    Ok(out)
}

#[test]
fn what_is_delivered_is_there_after_a_restart() {
    let world = world();
    let (a, b) = die(&world, |_, store, _| async move {
        let (a, b) = (account(&store, "a").await, account(&store, "b").await);
        let id = DeliveryId { log: 1, message: 2, recipient: 3 };
        let targets = [to(a), Target { id: Some(id), mailbox: "Trash", flags: Flags::FLAGGED, ..to(b) }];
        let answers = put(&store, 1, 100, &targets).await;
        assert!(answers.iter().all(|d| d.as_ref().is_ok_and(|d| d.at.is_some_and(|at| at.uid == 1))));
        let again = put(&store, 1, 100, &targets[1..]).await;
        assert!(again[0].as_ref().is_ok_and(|d| d.at.is_none()), "handed over before");
        let open = store.select(a, "inbox").await.expect("there");
        assert_eq!((open.exists(), content(&open, 1, 0..u64::MAX).await), (1, Ok(body(1, 100))));
        assert_eq!(content(&open, 1, 9..13).await, Ok(body(1, 100)[9..13].to_vec()));
        assert_eq!(open.summaries(&[1, 2]).await, [Some(b"summary 1".to_vec()), None]);
        (a, b)
    });
    live(&world, |_, store, recovery| async move {
        assert!(recovery.malformed.is_empty() && recovery.rebuilt.is_none());
        let (x, y) =
            (store.select(a, "INBOX").await.expect("there"), store.select(b, "Trash").await.expect("there"));
        assert_eq!(content(&x, 1, 0..u64::MAX).await, content(&y, 1, 0..u64::MAX).await);
        assert_eq!(y.message(1).map(|m| m.flags), Some(Flags::FLAGGED));
        assert_eq!((x.guid(1).await.ok(), x.status().messages), (y.guid(1).await.ok(), 1));
        let uidls = x.uidls(&[1]).await.expect("there");
        assert_eq!(uidls[0], format!("{:08x}00000001", x.status().uidvalidity).into_bytes());
        let list = store.list(a).await.expect("there");
        let names: Vec<(&str, bool, Option<SpecialUse>)> =
            list.iter().map(|l| (l.name.as_str(), l.subscribed, l.special)).collect();
        assert_eq!(names, [("INBOX", true, None), ("Trash", true, Some(SpecialUse::Trash))]);
        assert_eq!(store.willing("a", 5).await, Willing::Yes(a));
        assert_eq!(store.willing("c", 5).await, Willing::No(Refusal::NoAccount));
        assert_eq!(deliver(&store, 2, 10, a).await, 2);
    });
}

#[test]
fn sessions_are_told_of_what_others_do() {
    let world = world();
    live(&world, |_, store, _| async move {
        let a = account(&store, "a").await;
        let mut idle = store.select(a, "INBOX").await.expect("there");
        let other = store.select(a, "INBOX").await.expect("there");
        let (uid, ()) = crate::runtime::both(deliver(&store, 1, 10, a), idle.changed()).await;
        assert_eq!((uid, idle.sync(true)), (1, vec![News::Exists(1)]));
        let uids = UidSet::all();
        let mut other = other;
        assert_eq!(other.sync(true), [News::Exists(1)]);
        let stored = other.store(&uids, Alter::Add, Flags::DELETED, &["$x"], None).await.expect("fine").value;
        other.told(stored.modseq.expect("changed"));
        assert_eq!(other.sync(true), [News::Keywords]);
        let news = idle.sync(true);
        assert_eq!(news, [News::Keywords, News::Changed { seq: 1, message: stored.now[0] }]);
        assert_eq!(idle.keywords(), ["$x"]);
        let before = idle.status().highest_modseq;
        let gone = other.expunge(&uids, true).await.expect("fine").value;
        assert_eq!(
            (gone, idle.vanished(before)),
            (UidSet::of([(1, 1)]), Vanished::Exactly(UidSet::of([(1, 1)])))
        );
        idle.changed().await;
        assert_eq!(content(&idle, 1, 0..5).await, Ok(b"Subje".to_vec()), "it has not been told");
        assert_eq!(idle.sync(true), [News::Expunged { seq: 1, uid: 1 }]);
        other.sync(true);
        assert_eq!(content(&idle, 1, 0..5).await, Err(Refusal::Expunged));
        assert_eq!(store.maildrop(a).err(), None);
        let held = store.maildrop(a).expect("free again");
        assert_eq!(store.maildrop(a).err(), Some(Refusal::InUse));
        drop(held);
        store.delete(a, "INBOX").await.expect_err("it stays");
        let trash = store.select(a, "Trash").await.expect("there");
        store.delete(a, "Trash").await.expect("fine");
        let mut trash = trash;
        assert_eq!(trash.sync(true), [News::Deleted]);
        assert!(store.select(a, "Trash").await.is_err());
        store.remove_account(a).await.expect("fine");
        assert_eq!(store.account("a").await, None);
    });
}

#[test]
fn copies_and_moves_keep_content_and_flags() {
    let world = world();
    let a = die(&world, |_, store, _| async move {
        let a = account(&store, "a").await;
        for n in 1..=3 {
            deliver(&store, n, 50, a).await;
        }
        let inbox = store.select(a, "INBOX").await.expect("there");
        inbox.store(&UidSet::of([(2, 2)]), Alter::Add, Flags::SEEN, &["k"], None).await.expect("fine");
        let copied = inbox.copy(&UidSet::of([(1, 2)]), "Trash").await.expect("fine").value;
        assert_eq!(copied.uids, [(1, 1), (2, 2)]);
        let moved = inbox.move_to(&UidSet::of([(2, 3)]), "Trash").await.expect("fine").value;
        assert_eq!(moved.uids, [(2, 3), (3, 4)]);
        assert_eq!(inbox.move_to(&UidSet::all(), "none").await.err(), Some(Refusal::NoMailbox));
        a
    });
    live(&world, |_, store, _| async move {
        let (inbox, trash) =
            (store.select(a, "INBOX").await.expect("there"), store.select(a, "Trash").await.expect("there"));
        assert_eq!((inbox.exists(), trash.exists()), (1, 4));
        let flags: Vec<Flags> = (1..=4).filter_map(|seq| trash.message(seq)).map(|m| m.flags).collect();
        assert_eq!(flags, [Flags::default(), Flags::SEEN, Flags::SEEN, Flags::default()]);
        assert_eq!(
            (trash.keywords(), trash.message(3).map(|m| m.keywords.0)),
            (vec!["k".to_owned()], Some(1))
        );
        for (uid, n) in [(1, 1), (2, 2), (3, 2), (4, 3)] {
            assert_eq!(content(&trash, uid, 0..u64::MAX).await, Ok(body(n, 50)));
        }
        inbox.expunge(&UidSet::all(), false).await.expect("fine");
        assert_eq!(content(&trash, 1, 0..u64::MAX).await, Ok(body(1, 50)), "its copy stays");
    });
}

#[test]
fn a_message_is_replaced_in_one_commit_or_not_at_all() {
    let world = world();
    let a = die(&world, |_, store, _| async move {
        let a = account(&store, "a").await;
        for n in 1..=2 {
            deliver(&store, n, 50, a).await;
        }
        let (mut inbox, mut other) =
            (store.select(a, "INBOX").await.expect("there"), store.select(a, "INBOX").await.expect("there"));
        let bytes = body(3, 50);
        let pieces = [&bytes[..]];
        let append = Append {
            message: incoming(Given::Slices(&pieces), bytes.len() as u64, b""),
            flags: Flags::DRAFT,
            keywords: &["k"],
        };
        let done = inbox.replace(1, "inbox", &append).await.expect("fine").value;
        assert_eq!(done.iter().map(|at| at.uid).collect::<Vec<_>>(), [3]);
        let told = [News::Expunged { seq: 1, uid: 1 }, News::Exists(2), News::Keywords];
        assert_eq!((inbox.sync(true), other.sync(true)), (told.to_vec(), told.to_vec()));
        assert_eq!(inbox.replace(1, "inbox", &append).await.err(), Some(Refusal::Expunged));
        assert_eq!(inbox.replace(2, "none", &append).await.err(), Some(Refusal::NoMailbox));
        assert!(inbox.replace(2, "Trash", &append).await.is_ok());
        a
    });
    live(&world, |_, store, _| async move {
        let (inbox, trash) =
            (store.select(a, "INBOX").await.expect("there"), store.select(a, "Trash").await.expect("there"));
        assert_eq!((inbox.exists(), trash.exists()), (1, 1));
        assert_eq!(content(&inbox, 3, 0..u64::MAX).await, Ok(body(3, 50)));
        assert_eq!(content(&trash, 1, 0..u64::MAX).await, Ok(body(3, 50)));
    });
}

#[test]
fn appends_are_all_or_none_and_large_content_has_a_file() {
    let world = world();
    let a = die(&world, |_, store, _| async move {
        let a = account(&store, "a").await;
        let (one, two) = (body(1, 2000), body(2, 2000));
        let (one, two) = ([&one[..]], [&two[..]]);
        let given = |pieces| incoming(Given::Slices(pieces), 2000 + 14, b"");
        let all = [&one, &two].map(|p| Append { message: given(p), flags: Flags::SEEN, keywords: &["k"] });
        let at = store.append(a, "INBOX", &all).await.expect("fine").value;
        assert_eq!(at.iter().map(|at| at.uid).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(store.append(a, "nowhere", &all).await.err(), Some(Refusal::NoMailbox));
        let mut writer = store.begin_large().await.expect("space");
        let large = body(3, 200_000);
        writer.write(&large[5..]).await.expect("space");
        let file = writer.finish().await.expect("space");
        let content = Given::Large { head: &large[..5], file };
        let message = incoming(content, large.len() as u64, b"s");
        assert!(store.deliver(message, &[to(a)]).await[0].is_ok());
        let big = vec![b'x'; store.inline_max() + 1];
        let refused = store.deliver(incoming(Given::Slices(&[&big]), big.len() as u64, b""), &[to(a)]).await;
        assert_eq!(refused[0].as_ref().err(), Some(&Refusal::Limit));
        a
    });
    live(&world, |_, store, _| async move {
        let inbox = store.select(a, "INBOX").await.expect("there");
        assert_eq!((inbox.exists(), inbox.status().unseen), (3, 1));
        let large = body(3, 200_000);
        for range in [0..u64::MAX, 3..9, 5..6, 70_000..140_000, 199_999..300_000, 9..9] {
            let end = range.end.min(large.len() as u64);
            let expected = large[range.start as usize..end as usize].to_vec();
            assert_eq!(content(&inbox, 3, range).await, Ok(expected));
        }
        assert_eq!(store.0.keeper.sides().await.expect("listed").len(), 1);
        inbox.expunge(&UidSet::of([(3, 3)]), false).await.expect("fine");
        drop(inbox);
        for _ in 0..50 {
            yield_now().await;
        }
        assert!(store.0.keeper.sides().await.expect("listed").is_empty());
    });
}

/// Delivers until the journal has rolled over several times.
pub(super) async fn fill(store: &Store<Double>, a: AccountId, from: u32, count: u32) {
    for n in from..from + count {
        assert_eq!(deliver(store, n, 3000, a).await, n);
    }
}

fn segments(store: &Store<Double>) -> (usize, usize) {
    (store.0.keeper.stats().segments, store.0.vault.stats().segments)
}

#[test]
fn what_is_old_goes_into_archive_and_index() {
    let world = world();
    let a = live(&world, |rt, store, _| async move {
        let a = account(&store, "a").await;
        fill(&store, a, 1, 400).await;
        rt.sleep_until(rt.now().after(Duration::from_secs(2))).await;
        let (journal, archive) = segments(&store);
        assert!(journal <= 9 && archive > 5, "{journal} and {archive} segments");
        let inbox = store.select(a, "INBOX").await.expect("there");
        for uid in [1, 2, 150, 399, 400] {
            assert_eq!(content(&inbox, uid, 0..u64::MAX).await, Ok(body(uid, 3000)));
            assert_eq!(inbox.summaries(&[uid]).await, [Some(format!("summary {uid}").into_bytes())]);
        }
        inbox
            .store(&UidSet::of([(1, 1), (400, 400)]), Alter::Add, Flags::SEEN, &[], None)
            .await
            .expect("fine");
        inbox.copy(&UidSet::of([(1, 2), (399, 399)]), "Trash").await.expect("fine");
        inbox.expunge(&UidSet::of([(2, 100)]), false).await.expect("fine");
        a
    });
    let check = |rebuilt: bool, exact: bool| {
        move |_: Double, store: Store<Double>, recovery: Recovery| async move {
            assert_eq!(recovery.rebuilt.is_some(), rebuilt);
            let inbox = store.select(a, "INBOX").await.expect("there");
            let trash = store.select(a, "Trash").await.expect("there");
            if exact {
                assert_eq!((inbox.exists(), inbox.status().unseen, trash.exists()), (301, 299, 3));
                assert_eq!(inbox.vanished(401), Vanished::Exactly(UidSet::of([(2, 100)])));
            }
            assert_eq!(inbox.exists(), inbox.status().messages);
            assert_eq!(content(&inbox, 1, 0..u64::MAX).await, Ok(body(1, 3000)));
            assert_eq!(content(&inbox, 300, 0..u64::MAX).await, Ok(body(300, 3000)));
            assert_eq!(content(&trash, 2, 0..u64::MAX).await, Ok(body(2, 3000)));
            assert!(deliver(&store, 9, 10, a).await > 400, "no UID is given twice");
        }
    };
    die(&world, check(false, true));
    // The index is lost: what was expunged may come back, nothing else may go.
    world.tables.borrow_mut().clear();
    die(&world, check(true, false));
    die(&world, check(false, false));
}

#[test]
fn space_of_expunged_mail_is_used_again() {
    let world = world();
    live(&world, |rt, store, _| async move {
        let a = account(&store, "a").await;
        for round in 0..12u32 {
            fill(&store, a, round * 100 + 1, 100).await;
            let inbox = store.select(a, "INBOX").await.expect("there");
            inbox.expunge(&UidSet::all(), false).await.expect("fine");
            drop(inbox);
            rt.sleep_until(rt.now().after(Duration::from_secs(2))).await;
        }
        let (journal, archive) = segments(&store);
        assert!(journal <= 12 && archive <= 12, "{journal} and {archive} segments");
        assert_eq!(store.usage(a).await.map(|u| (u.messages, u.bytes)), Some((0, 0)));
    });
}

/// Delivers until that is refused: the number of the message that was, and why.
async fn until_refused(store: &Store<Double>, a: AccountId) -> (u32, Refusal) {
    let mut n = 0;
    loop {
        n += 1;
        match put(store, n, 3000, &[to(a)]).await.remove(0) {
            Ok(_) => assert!(n < 1000),
            Err(Refusal::Busy) => store.0.keeper.progress().await,
            Err(e) => return (n, e),
        }
    }
}

#[test]
fn a_full_disk_takes_no_mail_and_lets_users_read_and_delete() {
    let world = world();
    live(&world, |_, store, _| async move {
        let a = account(&store, "a").await;
        let w = store.0.rt.world.clone();
        w.free.set(0);
        w.fail_creates.set(true);
        let (n, refused) = until_refused(&store, a).await;
        assert_eq!(refused, Refusal::Full);
        assert_eq!(store.willing("a", 1).await, Willing::No(Refusal::Full));
        let inbox = store.select(a, "INBOX").await.expect("there");
        assert_eq!(content(&inbox, 1, 0..u64::MAX).await, Ok(body(1, 3000)));
        inbox.store(&UidSet::of([(1, 5)]), Alter::Add, Flags::SEEN, &[], None).await.expect("fine");
        inbox.expunge(&UidSet::of([(1, 50)]), false).await.expect("fine");
        assert_eq!(inbox.status().messages, n - 1 - 50.min(n - 1));
    });
}

/// What new mail leaves alone of the disk is for what lives in the journal: the archive takes it from there,
/// and users have space to delete.
#[test]
fn the_last_space_of_the_disk_is_not_for_new_mail() {
    let world = world();
    world.free.set(10 << 20);
    let rt = Double::new(&world);
    rt.block_on(async {
        let mut parts = parts(&rt);
        parts.options.archive.disk_free_min = 10 << 20;
        let (store, _) = Store::open(Path::new(DIR), parts).await.expect("opens");
        let a = account(&store, "a").await;
        let (n, refused) = until_refused(&store, a).await;
        rt.sleep_until(rt.now().after(Duration::from_secs(5))).await;
        assert_eq!((refused, store.0.keeper.shortage()), (Refusal::Full, None), "the journal has space");
        assert!(store.0.vault.stats().live_records > 0 && store.0.vault.is_short());
        assert_eq!(store.willing("a", 1).await, Willing::No(Refusal::Full));
        assert_eq!(put(&store, n, 3000, &[to(a)]).await.remove(0).err(), Some(Refusal::Full));
        let inbox = store.select(a, "INBOX").await.expect("there");
        inbox.store(&UidSet::of([(1, 5)]), Alter::Add, Flags::SEEN, &[], None).await.expect("fine");
        inbox.expunge(&UidSet::of([(1, 5)]), false).await.expect("fine");
        rt.world.free.set(1 << 40);
        assert_eq!(deliver(&store, n, 3000, a).await, inbox.status().uidnext - 1);
        store.close().await;
    });
}

#[test]
fn a_failed_write_is_the_end_of_taking() {
    let world = world();
    let a = die(&world, |_, store, _| async move {
        let a = account(&store, "a").await;
        deliver(&store, 1, 10, a).await;
        let inbox = store.select(a, "INBOX").await.expect("there");
        store.0.rt.world.fail_writes.set(Some(std::io::ErrorKind::Other));
        let refused = put(&store, 2, 10, &[to(a)]).await;
        assert_eq!(refused[0].as_ref().err(), Some(&Refusal::Closed));
        let changed = inbox.store(&UidSet::all(), Alter::Add, Flags::SEEN, &[], None).await;
        assert_eq!((changed.err(), store.is_closed()), (Some(Refusal::Closed), true));
        assert_eq!(content(&inbox, 1, 0..u64::MAX).await, Ok(body(1, 10)), "reading goes on");
        assert_eq!((inbox.status().messages, inbox.message(1).map(|m| m.flags)), (1, Some(Flags::default())));
        store.0.rt.world.fail_writes.set(None);
        a
    });
    live(&world, |_, store, _| async move {
        assert_eq!(store.status(a, "INBOX").await.map(|s| (s.messages, s.unseen)), Ok((1, 1)));
    });
}

/// The account, UIDs that were acknowledged and not expunged, and the last one that was.
type Book = (Option<AccountId>, Vec<u32>, u32);

/// The process is killed after every number of rounds: what was acknowledged is there.
#[test]
fn a_kill_at_any_point_loses_nothing_that_was_acknowledged() {
    for rounds in (1..120).step_by(3) {
        let world = world();
        let known: Rc<RefCell<Book>> = Rc::default();
        let rt = Double::new(&world);
        let book = known.clone();
        rt.block_on(async {
            let (store, _) = open(&rt).await;
            rt.spawn(async move {
                let a = account(&store, "a").await;
                book.borrow_mut().0 = Some(a);
                for n in 1..200 {
                    let uid = deliver(&store, n, 1500, a).await;
                    book.borrow_mut().1.push(uid);
                    if n % 5 == 0 {
                        let inbox = store.select(a, "INBOX").await.expect("there");
                        let gone = UidSet::of([(n - 4, n - 4)]);
                        if inbox.expunge(&gone, false).await.is_ok() {
                            let mut book = book.borrow_mut();
                            book.1.retain(|u| *u != n - 4);
                            book.2 = n - 4;
                        }
                    }
                }
            });
            for _ in 0..rounds * 9 {
                yield_now().await;
            }
        });
        rt.kill();
        let (a, acknowledged, gone) = known.borrow().clone();
        let Some(a) = a else { continue };
        live(&world, |_, store, _| async move {
            let inbox = store.select(a, "INBOX").await.expect("there");
            for uid in &acknowledged {
                let found = content(&inbox, *uid, 0..u64::MAX).await;
                // An expunge that was not acknowledged may have happened.
                let next = gone + 5;
                assert!(found == Ok(body(*uid, 1500)) || *uid == next, "killed after {rounds}: {uid}");
            }
            assert!((1..=gone).step_by(5).all(|uid| inbox.seq(uid).is_none()), "what was expunged is");
            let last = acknowledged.last().copied().unwrap_or(0);
            assert!(deliver(&store, 1, 10, a).await > last);
        });
    }
}

#[test]
fn damage_costs_the_damaged_and_counters_are_counted() {
    let world = world();
    let a = die(&world, |_, store, _| async move {
        let a = account(&store, "a").await;
        for n in 1..=20 {
            deliver(&store, n, 3000, a).await;
        }
        a
    });
    let pattern = body(10, 3000);
    let hit = world.files.borrow().values().any(|node| {
        let mut data = node.data.borrow_mut();
        let at = data.windows(pattern.len()).position(|w| w == pattern);
        at.inspect(|at| data[at + 1000] ^= 1).is_some()
    });
    assert!(hit, "it is in the journal");
    let check = |damaged: bool| {
        move |_: Double, store: Store<Double>, recovery: Recovery| async move {
            assert_eq!((recovery.journal.damage_count > 0, recovery.malformed.len()), (damaged, 0));
            let inbox = store.select(a, "INBOX").await.expect("there");
            // One block is damaged: as many UIDs are passed over as it may have held.
            let next = 21 + 4096 / 16;
            assert_eq!((inbox.exists(), inbox.status().messages, inbox.status().uidnext), (19, 19, next));
            assert_eq!(store.usage(a).await.map(|u| u.messages), Some(19));
            for uid in (1..=20).filter(|uid| *uid != 10) {
                assert_eq!(content(&inbox, uid, 0..u64::MAX).await, Ok(body(uid, 3000)));
            }
            assert!(inbox.seq(10).is_none());
        }
    };
    live(&world, check(true));
}

#[test]
fn an_account_that_is_being_removed_goes_after_a_restart() {
    let world = world();
    die(&world, |rt, store, _| async move {
        let a = account(&store, "a").await;
        for n in 1..=5 {
            deliver(&store, n, 100, a).await;
        }
        let remover = store.clone();
        rt.spawn(async move { drop(remover.remove_account(a).await) });
        while store.account("a").await.is_some() {
            yield_now().await;
        }
        assert!(store.0.state.borrow().shard.directory.account(a).is_some(), "it takes a while");
        assert_eq!(store.select(a, "INBOX").await.err(), Some(Refusal::NoAccount));
    });
    live(&world, |_, store, _| async move {
        for _ in 0..200 {
            yield_now().await;
        }
        let s = store.0.state.borrow();
        assert!(s.shard.directory.accounts().next().is_none() && s.shard.directory.is_empty());
        assert!(s.shard.bodies.is_empty(), "with its mail");
    });
}

#[test]
fn a_mailbox_with_more_than_one_operation_can_say_is_deleted_in_several() {
    let world = world();
    live(&world, |rt, store, _| async move {
        let a = account(&store, "a").await;
        deliver(&store, 1, 10, a).await;
        let inbox = store.select(a, "INBOX").await.expect("there");
        let mut trash = store.select(a, "Trash").await.expect("there");
        inbox.copy(&UidSet::all(), "Trash").await.expect("fine");
        // Twice as many each time.
        let refused = loop {
            trash.sync(true);
            match trash.copy(&UidSet::all(), "Trash").await {
                Ok(_) => {}
                // The journal is small.
                Err(Refusal::Full | Refusal::Busy) if rt.now() < Mono(100_000_000_000) => {
                    rt.sleep_until(rt.now().after(Duration::from_millis(100))).await;
                }
                Err(e) => break e,
            }
        };
        assert_eq!(refused, Refusal::Limit);
        assert!(trash.status().messages > 1000, "{}", trash.status().messages);
        store.delete(a, "Trash").await.expect("in parts");
        assert_eq!(store.usage(a).await.map(|u| u.messages), Some(1));
        assert_eq!(content(&inbox, 1, 0..u64::MAX).await, Ok(body(1, 10)));
    });
}

#[test]
fn an_index_without_space_makes_new_mail_wait_and_catches_up() {
    let world = world();
    live(&world, |rt, store, _| async move {
        let a = account(&store, "a").await;
        fill(&store, a, 1, 50).await;
        let index = world_index(&rt);
        index.fail.set(Some(std::io::ErrorKind::StorageFull));
        let mut n = 50;
        let refused = loop {
            match put(&store, n + 1, 3000, &[to(a)]).await.remove(0) {
                Ok(_) => n += 1,
                Err(Refusal::Busy) => store.0.keeper.progress().await,
                Err(e) => break e,
            }
            assert!(n < 1000, "it has to stop");
        };
        assert_eq!(refused, Refusal::Full);
        let inbox = store.select(a, "INBOX").await.expect("there");
        inbox.expunge(&UidSet::of([(1, 20)]), false).await.expect("fine");
        assert_eq!(content(&inbox, 21, 0..u64::MAX).await, Ok(body(21, 3000)));
        index.fail.set(None);
        rt.sleep_until(rt.now().after(Duration::from_secs(20))).await;
        fill(&store, a, n + 1, 50).await;
        let inbox = store.select(a, "INBOX").await.expect("there");
        for uid in [21, n, n + 50] {
            assert_eq!(content(&inbox, uid, 0..u64::MAX).await, Ok(body(uid, 3000)));
        }
        assert!(!store.is_closed());
    });
}

/// What users delete at random is given back although the index takes no more rows: the place of a body that
/// is copied within the archive needs none.
#[test]
fn an_index_without_space_does_not_keep_the_archive_from_being_cleaned() {
    let world = world();
    live(&world, |rt, store, _| async move {
        let a = account(&store, "a").await;
        fill(&store, a, 1, 400).await;
        let later = |seconds| rt.sleep_until(rt.now().after(Duration::from_secs(seconds)));
        later(2).await;
        let index = world_index(&rt);
        index.full.set(true);
        // One segment of the archive fits: nothing leaves the journal, and mail is refused.
        rt.world.free.set(70 << 10);
        assert_eq!(until_refused(&store, a).await.1, Refusal::Full);
        later(10).await;
        let before = segments(&store).1;
        let inbox = store.select(a, "INBOX").await.expect("there");
        let some: UidSet = (1..=240).filter(|uid| uid % 3 == 0).collect();
        inbox.expunge(&some, false).await.expect("fine");
        later(60).await;
        let after = segments(&store).1;
        assert!(after + 2 <= before, "{before} segments before and {after} afterwards");
        for uid in [1, 2, 119, 239, 400] {
            assert_eq!(content(&inbox, uid, 0..u64::MAX).await, Ok(body(uid, 3000)));
        }
        index.full.set(false);
        rt.world.free.set(1 << 40);
        later(20).await;
        deliver(&store, 9, 10, a).await;
        assert_eq!((store.0.state.borrow().dying.len(), store.is_closed()), (0, false));
    });
}

/// What lives in the oldest segment of a journal that has none left may take the last segment of the disk.
#[test]
fn a_journal_without_a_segment_is_emptied_into_the_last_space() {
    let world = world();
    live(&world, |rt, store, _| async move {
        let a = account(&store, "a").await;
        fill(&store, a, 1, 60).await;
        // One segment of the archive fits, but not two, and none of the journal besides.
        rt.world.free.set(100 << 10);
        assert_eq!(until_refused(&store, a).await.1, Refusal::Full);
        let inbox = store.select(a, "INBOX").await.expect("there");
        for round in 0..300u32 {
            let flags = if round % 2 == 0 { Flags::SEEN } else { Flags::FLAGGED };
            let start = rt.now();
            loop {
                match inbox.store(&UidSet::of([(1, 1)]), Alter::Replace, flags, &[], None).await {
                    Ok(_) => break,
                    Err(e) => assert_eq!(e, Refusal::Full),
                }
                assert!(rt.now().since(start) < Duration::from_secs(10), "stuck in round {round}");
                rt.sleep_until(rt.now().after(Duration::from_millis(100))).await;
            }
        }
        assert_eq!(put(&store, 9, 3000, &[to(a)]).await.remove(0).err(), Some(Refusal::Full));
        assert_eq!(content(&inbox, 60, 0..u64::MAX).await, Ok(body(60, 3000)));
    });
}

/// Changes that come between the end of a transaction and his turn ask for none by themselves.
#[test]
fn who_waits_for_the_index_is_not_forgotten_when_more_comes() {
    let world = world();
    live(&world, |_, store, _| async move {
        let a = account(&store, "a").await;
        let (mut one, mut other) = (pin!(store.indexed()), pin!(store.indexed()));
        poll_fn(|cx| {
            assert!(one.as_mut().poll(cx).is_pending() && other.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        for n in 1..=2 {
            while !store.0.state.borrow().shard.ledger.is_empty() {
                yield_now().await;
            }
            deliver(&store, n, 10, a).await;
            if n == 1 { one.as_mut().await } else { other.as_mut().await }
        }
    });
}

fn world_index(rt: &Double) -> Rc<crate::runtime::double::Stored> {
    let tables = rt.world.tables.borrow();
    tables.get(&Path::new(DIR).join("index")).expect("there is one").clone()
}

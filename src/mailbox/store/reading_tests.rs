//! Tests of reading: how often the disk is asked, and that what is read ahead is what is there.

use super::opening::Recovery;
use super::tests::{DIR, account, body, content, deliver, fill, parts, world};
use super::*;
use crate::mailbox::api::{Mailboxes, Selected};
use crate::mailbox::types::UidSet;
use crate::storage::double::{Double, World};
use std::future::Future;
use std::path::Path;

/// One life of the process, which keeps so many bytes of facts; it ends by a kill.
fn keeping<T, F: Future<Output = T>>(
    world: &Rc<World>,
    facts_max: usize,
    f: impl FnOnce(Store<Double>, Recovery) -> F,
) -> T {
    let rt = Double::new(world);
    let value = rt.block_on(async {
        let mut parts = parts(&rt);
        parts.options.facts_max = facts_max;
        let (store, recovery) = Store::open(Path::new(DIR), parts).await.expect("opens");
        f(store, recovery).await
    });
    rt.kill();
    value
}

fn summary(n: u32) -> Option<Vec<u8>> {
    Some(format!("summary {n}").into_bytes())
}

/// How often the disk is asked meanwhile.
async fn reads<T>(world: &Rc<World>, f: impl Future<Output = T>) -> (u64, T) {
    let before = world.reads.get();
    let value = f.await;
    (world.reads.get() - before, value)
}

#[test]
fn summaries_of_mail_in_the_journal_are_known_without_reading() {
    let world = world();
    let uids: Vec<u32> = (1..=20).collect();
    let all: Vec<Option<Vec<u8>>> = (1..=20).map(summary).collect();
    let a = keeping(&world, 1 << 20, async |store, _| {
        let a = account(&store, "a").await;
        for n in 1..=20 {
            deliver(&store, n, 900, a).await;
        }
        let open = store.select(a, "INBOX").await.expect("there");
        assert_eq!(reads(&world, open.summaries(&uids)).await, (0, all.clone()));
        a
    });
    // After a restart, too.
    keeping(&world, 1 << 20, async |store, _| {
        let open = store.select(a, "INBOX").await.expect("there");
        assert_eq!(reads(&world, open.summaries(&uids)).await, (0, all.clone()));
    });
    // There is room for a few of them: the latest. What is read once is known then, within the bound.
    keeping(&world, 1000, async |store, _| {
        let open = store.select(a, "INBOX").await.expect("there");
        assert_eq!(reads(&world, open.summaries(&uids[18..])).await, (0, all[18..].to_vec()));
        let (count, found) = reads(&world, open.summaries(&uids[..5])).await;
        assert_eq!(found, all[..5]);
        assert!((1..=3).contains(&count), "{count} reads for neighbours");
        assert_eq!(reads(&world, open.summaries(&uids[..5])).await, (0, all[..5].to_vec()));
    });
}

#[test]
fn messages_read_one_after_the_other_come_with_few_reads() {
    let world = world();
    keeping(&world, 1 << 20, async |store, _| {
        let a = account(&store, "a").await;
        for n in 1..=60 {
            deliver(&store, n, 900, a).await;
        }
        let open = store.select(a, "INBOX").await.expect("there");
        let (count, ()) = reads(&world, async {
            for n in 1..=60 {
                assert_eq!(content(&open, n, 0..u64::MAX).await, Ok(body(n, 900)));
                assert_eq!(content(&open, n, 3..9).await, Ok(body(n, 900)[3..9].to_vec()), "in parts");
            }
        })
        .await;
        // Each lies in a page of its own; segments are of 64 KiB.
        assert!(count <= 12, "{count} reads");
        // One here and one there is read by itself.
        let other = store.select(a, "INBOX").await.expect("there");
        let (count, ()) = reads(&world, async {
            for n in [50, 3, 30, 1] {
                assert_eq!(content(&other, n, 0..u64::MAX).await, Ok(body(n, 900)));
            }
        })
        .await;
        assert!(count <= 4, "{count} reads");
    });
}

#[test]
fn what_is_in_the_archive_is_read_ahead_as_well() {
    let world = world();
    keeping(&world, 1 << 20, async |store, _| {
        let a = account(&store, "a").await;
        fill(&store, a, 1, 300).await;
        let open = store.select(a, "INBOX").await.expect("there");
        let archived = (1..=300)
            .take_while(|uid| {
                let body = open.shown(*uid).expect("there").body;
                store.0.state.borrow().shard.journaled(body).is_none()
            })
            .count() as u32;
        assert!(archived > 100, "{archived}");
        let (count, ()) = reads(&world, async {
            for n in 1..=archived {
                assert_eq!(content(&open, n, 0..u64::MAX).await, Ok(body(n, 3000)), "{n}");
            }
        })
        .await;
        // 3 KiB each, in segments of 64 KiB.
        assert!(u64::from(archived) > 6 * count, "{count} reads of {archived} messages");
    });
}

#[test]
fn what_was_read_ahead_may_move_or_go_meanwhile() {
    let world = world();
    keeping(&world, 1 << 20, async |store, _| {
        let a = account(&store, "a").await;
        fill(&store, a, 1, 40).await;
        let mut open = store.select(a, "INBOX").await.expect("there");
        for n in 1..=3 {
            assert_eq!(content(&open, n, 0..u64::MAX).await, Ok(body(n, 3000)));
        }
        // All of it goes into the archive, the journal's segments are used again, archive segments
        // of which most is dead are copied.
        fill(&store, a, 41, 300).await;
        let other = store.select(a, "INBOX").await.expect("there");
        let gone: UidSet = (1..=300).filter(|uid| uid % 4 != 0).collect();
        other.expunge(&gone, false).await.expect("fine");
        open.sync(true);
        drop(other);
        fill(&store, a, 341, 200).await;
        open.sync(true);
        for seq in 1..=open.exists() {
            let uid = open.message(seq).expect("there").uid;
            assert_eq!(content(&open, uid, 0..u64::MAX).await, Ok(body(uid, 3000)), "{uid}");
        }
    });
}

#[test]
fn a_damaged_message_costs_itself_only() {
    let world = world();
    keeping(&world, 1 << 20, async |store, _| {
        let a = account(&store, "a").await;
        for n in 1..=20 {
            deliver(&store, n, 900, a).await;
        }
        // One byte of one body.
        let text = body(7, 900);
        let hit = world.files.borrow().values().find_map(|node| {
            let at = memchr::memmem::find(&node.data.borrow(), &text)?;
            node.data.borrow_mut()[at + 50] ^= 1;
            Some(at)
        });
        assert!(hit.is_some());
        let open = store.select(a, "INBOX").await.expect("there");
        for n in 1..=20 {
            let wanted = if n == 7 { Err(Refusal::Damaged) } else { Ok(body(n, 900)) };
            assert_eq!(content(&open, n, 0..u64::MAX).await, wanted, "{n}");
        }
    });
}

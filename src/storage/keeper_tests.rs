//! The keeper on an in-memory disk: commit, crash and reopen, poison, reading back, space, side files.

use crate::storage::double::{Double, World};
use crate::storage::group::Durable;
use crate::storage::journal::StageError;
use crate::storage::keeper::{Keeper, ReadError};
use crate::storage::opening::OpenError;
use crate::storage::options::{Options, Poison, Urgency};
use crate::storage::record::{Location, RecordHead};
use crate::storage::recover::RecoveryReport;
use crate::storage::side::{SideError, SideFile};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

const DIR: &str = "/journal";

fn world() -> Rc<World> {
    let world = Rc::new(World::default());
    world.free.set(1 << 40);
    world
}

fn head(id: u64) -> RecordHead {
    RecordHead { kind: 1, version: 1, flags: 0, id }
}

async fn open(rt: &Double) -> (Keeper<Double>, RecoveryReport, Vec<(u64, Location)>) {
    let mut seen = Vec::new();
    let visit = |r: crate::storage::Recovered<'_>| seen.push((r.head.id, r.location));
    let (keeper, report) =
        Keeper::open(rt.clone(), Path::new(DIR), Options::tiny(), Poison::new(), visit).await.unwrap();
    (keeper, report, seen)
}

async fn put(k: &Keeper<Double>, id: u64, payload: &[u8]) -> Durable {
    let staged = k.stage(head(id), &[payload], None, Urgency::NewMail).unwrap();
    k.committed(staged).await.unwrap()
}

async fn end(k: &Keeper<Double>, id: u64, at: Location) {
    let out = RecordHead { kind: 2, ..head(id) };
    let staged = k.stage(out, &[], Some(at), Urgency::Outcome).unwrap();
    let _ = k.committed(staged).await.unwrap().ticket;
}

fn in_world(w: &Rc<World>, f: impl AsyncFnOnce(&Double)) {
    let rt = Double::new(w);
    rt.block_on(f(&rt));
    rt.kill();
}

#[test]
fn committed_records_are_there_after_a_kill() {
    let w = world();
    in_world(&w, async |rt| {
        let (k, report, seen) = open(rt).await;
        assert_eq!((report.segments, report.epoch, seen.len()), (0, 1, 0));
        let a = put(&k, 1, b"first").await;
        assert_eq!(&*a.payload, b"first");
        // Two that share a batch, awaited in the other order.
        let b = k.stage(head(2), &[b"sec", b"ond"], None, Urgency::NewMail).unwrap();
        let c = k.stage(head(3), &[b"third"], None, Urgency::NewMail).unwrap();
        let c = k.committed(c).await.unwrap();
        let b = k.committed(b).await.unwrap();
        assert_eq!((&*b.payload, &*c.payload), (&b"second"[..], &b"third"[..]));
        assert_eq!(k.stats().commits, 2);
        assert_eq!(&*k.read(b.location, 2).await.unwrap(), b"second");
        assert!(matches!(k.read(b.location, 3).await, Err(ReadError::Damaged)));
        let astray = Location { segment: 9, ..b.location };
        assert!(matches!(k.read(astray, 2).await, Err(ReadError::Gone)));
    });
    in_world(&w, async |rt| {
        let (k, report, seen) = open(rt).await;
        assert_eq!(report.records, 3);
        assert_eq!(seen.iter().map(|s| s.0).collect::<Vec<_>>(), [1, 2, 3]);
        seen.iter().for_each(|s| k.keep(s.1));
        assert_eq!(&*k.read(seen[1].1, 2).await.unwrap(), b"second");
        k.close().await;
        assert_eq!(k.stats().live_records, 3);
    });
}

#[test]
fn batches_grow_while_a_write_is_in_flight() {
    let w = world();
    in_world(&w, async |rt| {
        let (k, ..) = open(rt).await;
        w.hold_writes.set(true);
        let mut staged = vec![k.stage(head(1), &[b"x"], None, Urgency::NewMail).unwrap()];
        for id in 2..20 {
            // Let the commit task take what is there.
            let mut once = false;
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                if std::mem::replace(&mut once, true) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            staged.push(k.stage(head(id), &[b"y"], None, Urgency::NewMail).unwrap());
        }
        w.hold_writes.set(false);
        for s in staged {
            let _ = k.committed(s).await.unwrap();
        }
        assert_eq!(k.stats().commits, 2);
        // A waiter that gives up is no trouble.
        let s = k.stage(head(20), &[b"z"], None, Urgency::NewMail).unwrap();
        {
            let mut dropped = pin!(k.committed(s));
            poll_fn(|cx| {
                assert!(dropped.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        k.close().await;
        assert_eq!(k.stats().commits, 3);
    });
}

#[test]
fn a_write_error_poisons_for_good() {
    let w = world();
    in_world(&w, async |rt| {
        let (k, ..) = open(rt).await;
        let _ = put(&k, 1, b"safe").await;
        w.fail_writes.set(Some(io::ErrorKind::Other));
        let a = k.stage(head(2), &[b"lost"], None, Urgency::NewMail).unwrap();
        let b = k.stage(head(3), &[b"lost"], None, Urgency::NewMail).unwrap();
        assert!(k.committed(a).await.is_err());
        assert!(k.committed(b).await.is_err());
        w.fail_writes.set(None);
        assert_eq!(k.stage(head(4), &[b"x"], None, Urgency::Outcome).err(), Some(StageError::Poisoned));
        assert!(k.stats().poisoned);
        let writes = w.writes.get();
        k.close().await;
        assert_eq!(w.writes.get(), writes, "nothing is retried");
    });
    in_world(&w, async |rt| {
        let (_, _, seen) = open(rt).await;
        assert_eq!(seen.len(), 1);
    });
}

#[test]
fn poison_of_one_journal_stops_its_neighbour() {
    let w = world();
    in_world(&w, async |rt| {
        let poison = Poison::new();
        let dir = Path::new("/other");
        let (k, _) = Keeper::open(rt.clone(), dir, Options::tiny(), poison.clone(), |_| {}).await.unwrap();
        w.hold_writes.set(true);
        let s = k.stage(head(1), &[b"x"], None, Urgency::NewMail).unwrap();
        let mut wait = pin!(k.committed(s));
        let mut polls = 0;
        let result = poll_fn(|cx| {
            polls += 1;
            if polls == 3 {
                poison.set();
                w.hold_writes.set(false);
            }
            cx.waker().wake_by_ref();
            wait.as_mut().poll(cx)
        })
        .await;
        assert!(result.is_err(), "its own write went well, but the file system is no longer trusted");
    });
}

#[test]
fn a_panic_inside_the_journal_poisons() {
    let w = world();
    in_world(&w, async |rt| {
        let (k, ..) = open(rt).await;
        let a = put(&k, 1, b"x").await;
        k.free(a.location);
        let twice = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| k.free(a.location)));
        assert!(twice.is_err());
        assert!(k.stats().poisoned);
    });
}

#[test]
fn copying_forward_empties_the_log() {
    let w = world();
    in_world(&w, async |rt| {
        let (k, ..) = open(rt).await;
        let old = put(&k, 1, &[7; 3000]).await;
        let (mut at, mut copies) = (old.location, 0);
        for id in 2..400 {
            let d = put(&k, id, &[1; 4000]).await;
            end(&k, id, d.location).await;
            if let Some(segment) = k.pressure() {
                let mut found = Vec::new();
                k.scan(segment, |r| found.push((r.head.id, r.location))).await.unwrap();
                assert!(found.contains(&(1, at)), "the only live record is in the oldest segment");
                let payload = k.read(at, 1).await.unwrap();
                let staged = k.stage(head(1), &[&payload], Some(at), Urgency::Compaction).unwrap();
                at = k.committed(staged).await.unwrap().location;
                copies += 1;
            }
        }
        assert!(copies > 1, "the log went round");
        assert!(k.stats().segments <= 12 && k.stats().live_records == 1);
        assert_eq!(*k.read(at, 1).await.unwrap(), [7; 3000]);
        assert!(matches!(k.read(old.location, 1).await, Err(ReadError::Gone)));
        assert!(w.files.borrow().len() <= 16);
    });
}

#[test]
fn a_full_disk_refuses_new_mail_only() {
    let w = world();
    in_world(&w, async |rt| {
        let (k, ..) = open(rt).await;
        let first = put(&k, 1, b"x").await;
        w.fail_creates.set(true);
        let mut taken = vec![(1, first.location)];
        let refused = loop {
            let id = taken.len() as u64 + 1;
            match k.stage(head(id), &[&[5; 9000]], None, Urgency::NewMail) {
                Ok(s) => taken.push((id, k.committed(s).await.unwrap().location)),
                Err(e) => break e,
            }
        };
        assert_eq!(refused, StageError::Full);
        assert!(!k.stats().poisoned);
        for &(id, at) in &taken {
            end(&k, id, at).await;
        }
        let _ = put(&k, 1000, &[5; 9000]).await;
        assert_eq!(k.stats().live_records, 1);
    });
}

#[test]
fn the_more_urgent_may_use_the_reserve() {
    let w = world();
    in_world(&w, async |rt| {
        let (k, ..) = open(rt).await;
        let mut counts = Vec::new();
        for urgency in [Urgency::NewMail, Urgency::Bounce, Urgency::Compaction, Urgency::Outcome] {
            let mut taken = 0;
            let refused = loop {
                match k.stage(head(1), &[&[5; 9000]], None, urgency) {
                    Ok(s) => drop(k.committed(s).await.unwrap().payload),
                    Err(StageError::Busy) => k.progress().await,
                    Err(e) => break e,
                }
                taken += 1;
            };
            assert_eq!(refused, StageError::Full);
            counts.push(taken);
        }
        let segment = 4;
        assert!(
            counts[0] > 9 * segment && counts[1..3].iter().all(|&n| n >= segment - 1) && counts[3] >= 1,
            "{counts:?}"
        );
        // Only then the disk is really full, and still nothing has broken.
        k.close().await;
        assert!(!k.stats().poisoned);
    });
    in_world(&w, async |rt| {
        let (_, report, seen) = open(rt).await;
        assert_eq!(seen.len() as u64, report.records);
        assert_eq!(report.damage_count + u64::from(report.tears), 0);
    });
}

#[test]
fn a_slow_disk_pushes_back() {
    let w = world();
    in_world(&w, async |rt| {
        let (k, ..) = open(rt).await;
        let seen = Rc::new(std::cell::Cell::new(0));
        let count = seen.clone();
        k.observe(Box::new(move |facts| count.set(count.get() + facts.records)));
        while k.stats().free_segments < 4 {
            k.progress().await;
        }
        w.hold_writes.set(true);
        let mut staged = Vec::new();
        let refused = loop {
            match k.stage(head(1), &[&[5; 9000]], None, Urgency::NewMail) {
                Ok(s) => staged.push(s),
                Err(e) => break e,
            }
        };
        assert_eq!(refused, StageError::Busy);
        assert!(staged.len() >= 4, "some batches may wait");
        assert!(k.stage(head(2), &[b"outcome"], None, Urgency::Outcome).is_ok(), "outcomes go on");
        assert_eq!(seen.get(), 0);
        w.hold_writes.set(false);
        k.progress().await;
        for s in staged {
            let _ = k.committed(s).await.unwrap().ticket;
        }
        let _ = put(&k, 3, &[5; 9000]).await;
        k.close().await;
        assert!(seen.get() >= 6, "the observer was told of {} records", seen.get());
    });
}

#[test]
fn short_of_disk_space_no_segment_is_added() {
    let w = world();
    in_world(&w, async |rt| {
        w.free.set(0);
        let (k, ..) = open(rt).await;
        k.close().await;
        assert_eq!(w.files.borrow().len(), 1, "the one that opening needs");
        assert_eq!(k.stats().free_segments, 0);
    });
}

/// An owner that takes what lives elsewhere needs the last of the disk for that: outcomes wait for it.
#[test]
fn the_last_of_a_shared_disk_is_for_what_leaves_the_journal() {
    let w = world();
    in_world(&w, async |rt| {
        let (segment, left) = (u64::from(Options::tiny().segment_bytes), 100_000);
        w.free.set(segment + left - 1);
        let (k, ..) = open(rt).await;
        k.share_disk(left);
        let outcome = || k.stage(head(1), &[&[5; 9000]], None, Urgency::Outcome);
        let refused = loop {
            match outcome() {
                Ok(s) => drop(k.committed(s).await.unwrap()),
                Err(StageError::Busy) => k.progress().await,
                Err(e) => break e,
            }
        };
        assert_eq!((refused, w.files.borrow().len()), (StageError::Full, 1));
        w.free.set(segment + left);
        k.progress().await;
        assert!(outcome().is_ok() && w.files.borrow().len() > 1);
        k.close().await;
    });
}

/// Free segments go again when the disk is short, up to the reserve and one; the queue keeps its own.
#[test]
fn free_segments_of_a_shared_disk_are_given_back() {
    for shared in [false, true] {
        let w = world();
        in_world(&w, async |rt| {
            let (k, ..) = open(rt).await;
            while k.stats().free_segments < 4 {
                k.progress().await;
            }
            let mut taken = Vec::new();
            for id in 1..30 {
                let staged = loop {
                    match k.stage(head(id), &[&[5; 9000]], None, Urgency::NewMail) {
                        Err(StageError::Busy) => k.progress().await,
                        staged => break staged.unwrap(),
                    }
                };
                taken.push((id, k.committed(staged).await.unwrap().location));
            }
            for (id, at) in taken {
                end(&k, id, at).await;
            }
            k.fence().await.unwrap();
            let before = k.stats();
            assert!(before.segments + before.free_segments > 6, "{before:?}");
            if shared {
                k.share_disk(0);
            }
            k.give_back();
            k.close().await;
            let after = k.stats();
            assert_eq!(after.free_segments, if shared { 4 } else { before.free_segments });
            assert_eq!(w.files.borrow().len(), after.segments + after.free_segments);
        });
    }
}

#[test]
fn a_locked_journal_is_waited_for_then_refused() {
    let w = world();
    in_world(&w, async |rt| {
        let (k, ..) = open(rt).await;
        let other = Keeper::open(rt.clone(), Path::new(DIR), Options::tiny(), Poison::new(), |_| {});
        assert!(matches!(other.await.err(), Some(OpenError::Locked(_))));
        assert!(crate::runtime::Clock::now(rt).0 >= 30_000_000_000, "30 s were given");
        drop(k);
    });
}

#[test]
fn other_segment_sizes_are_replaced() {
    let w = world();
    let large = Options { segment_bytes: 128 << 10, ..Options::tiny() };
    in_world(&w, async |rt| {
        let (k, ..) = open(rt).await;
        let _ = put(&k, 1, b"old size").await;
        k.close().await;
    });
    in_world(&w, async |rt| {
        let mut at = None;
        let (k, _) =
            Keeper::open(rt.clone(), Path::new(DIR), large, Poison::new(), |r| at = Some(r.location))
                .await
                .unwrap();
        k.keep(at.unwrap());
        end(&k, 1, at.unwrap()).await;
        let _ = put(&k, 2, b"new size").await;
        let _ = put(&k, 3, b"new size").await;
        k.close().await;
        let sizes: BTreeSet<_> = w.files.borrow().values().map(|n| n.data.borrow().len()).collect();
        assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [128 << 10]);
    });
}

async fn side(k: &Keeper<Double>, body: &[u8]) -> Result<SideFile, SideError> {
    let mut writer = k.create_side().await?;
    for piece in body.chunks(10_007) {
        writer.write(piece).await?;
    }
    writer.finish().await
}

async fn side_bytes(k: &Keeper<Double>, file: SideFile) -> Result<Vec<u8>, ReadError> {
    let mut reader = k.open_side(file).await?;
    let mut out = Vec::new();
    while let Some(piece) = reader.next().await? {
        out.extend_from_slice(&piece);
    }
    Ok(out)
}

#[test]
fn side_files_live_and_die_with_their_records() {
    let w = world();
    let body: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    let sides = || w.files.borrow().keys().filter(|p| p.extension().unwrap() == "side").count();
    in_world(&w, async |rt| {
        let (k, ..) = open(rt).await;
        let a = side(&k, &body).await.unwrap();
        assert!(w.log.borrow().ends_with(&["sync".into(), "sync_dir".into()]));
        let empty = side(&k, b"").await.unwrap();
        assert_eq!(side_bytes(&k, a).await.unwrap(), body);
        assert_eq!(side_bytes(&k, empty).await.unwrap(), b"");
        drop(k.create_side().await.unwrap());
        let owner = put(&k, 1, &a.name.to_le_bytes()).await;
        let out = RecordHead { kind: 2, ..head(1) };
        w.hold_writes.set(true);
        let staged = k.stage(out, &[], Some(owner.location), Urgency::Outcome).unwrap();
        k.remove_side(a, staged);
        assert!(side_bytes(&k, a).await.is_ok(), "not before the outcome is durable");
        w.hold_writes.set(false);
        k.close().await;
        assert!(matches!(side_bytes(&k, a).await, Err(ReadError::Gone)));
        assert_eq!(sides(), 1, "the unfinished one is gone, too");
    });
    in_world(&w, async |rt| {
        let (k, ..) = open(rt).await;
        assert_eq!(k.remove_orphan_sides(&BTreeSet::new()).await.unwrap(), 1);
        let b = side(&k, &body).await.unwrap();
        let path = w.files.borrow().keys().rfind(|p| p.extension().unwrap() == "side").unwrap().clone();
        w.files.borrow()[&path].data.borrow_mut()[70_000] ^= 1;
        assert!(matches!(side_bytes(&k, b).await, Err(ReadError::Damaged)));
        w.fail_writes.set(Some(io::ErrorKind::StorageFull));
        assert_eq!(side(&k, &body).await, Err(SideError::Full));
        assert!(!k.stats().poisoned);
        w.fail_writes.set(None);
        w.fail_syncs.set(true);
        assert_eq!(side(&k, &body).await, Err(SideError::Poisoned));
        assert!(k.stats().poisoned);
    });
}

#[test]
fn outcomes_of_what_is_indexed_live_until_the_index_has_them_and_retirement_names_its_mark() {
    let w = world();
    in_world(&w, async |rt| {
        let (k, ..) = open(rt).await;
        assert_eq!(k.mark(), 0);
        let first = put(&k, 1, b"archived since").await;
        let out = RecordHead { kind: 2, ..head(1) };
        let staged = k.stage(out, &[b"later"], Some(first.location), Urgency::Archived).unwrap();
        let outcome = k.committed(staged).await.unwrap().location;
        let mut id = 10;
        while k.overflow().is_none() {
            // Another log's worth, which ends at once.
            let m = put(&k, id, &[7; 9000]).await;
            end(&k, id, m.location).await;
            id += 1;
        }
        assert_eq!(k.overflow(), Some(outcome.segment), "the outcome keeps its segment");
        let before = k.stats().segments;
        k.set_mark(5);
        k.free(outcome);
        k.fence().await.unwrap();
        drop(put(&k, 900, b"the retirement rides along").await);
        assert!(k.stats().segments < before && k.overflow().is_none());
        assert_eq!(k.mark(), 5, "the retirement is durable, and names the mark");
        k.set_mark(6);
    });
    for _ in 0..3 {
        in_world(&w, async |rt| {
            let (k, _, seen) = open(rt).await;
            assert_eq!(k.mark(), 5, "6 covered nothing that was retired");
            seen.iter().filter(|s| s.0 == 1).for_each(|s| k.keep(s.1));
            drop(put(&k, 2, b"goes on").await);
        });
    }
}

#[test]
fn a_fence_waits_for_what_is_staged_and_for_nothing_else() {
    let w = world();
    in_world(&w, async |rt| {
        let (k, ..) = open(rt).await;
        k.fence().await.unwrap();
        let mut staged = k.stage(head(1), &[b"x"], None, Urgency::NewMail).unwrap();
        w.hold_writes.set(true);
        {
            let mut fence = pin!(k.fence());
            poll_fn(|cx| {
                assert!(fence.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            w.hold_writes.set(false);
            fence.await.unwrap();
        }
        assert!(staged.poll(std::task::Waker::noop()).is_ready());
        w.fail_writes.set(Some(io::ErrorKind::Other));
        drop(k.stage(head(2), &[b"y"], None, Urgency::NewMail).unwrap());
        assert!(k.fence().await.is_err());
        assert!(k.fence().await.is_err(), "poisoned for good");
    });
}

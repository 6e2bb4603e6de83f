//! The archive on an in-memory disk: append, sync, read, reopen, clean; full disks, failed syncs.

use crate::base::time::Wall;
use crate::storage::archive::format::HEAD_BYTES;
use crate::storage::archive::{Archive, ArchiveError, ArchiveReport, Options, Place, Victim};
use crate::storage::double::{Double, World};
use crate::storage::keeper::ReadError;
use crate::storage::opening::OpenError;
use crate::storage::options::Poison;
use crate::storage::record::RecordHead;
use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub const DIR: &str = "/archive";
pub const LOG: [u8; 16] = [4; 16];
const NOW: Wall = Wall(1_000_000);
const DAY: u64 = 24 * 3600 * 1000;

pub fn world() -> Rc<World> {
    let world = Rc::new(World::default());
    world.free.set(1 << 40);
    world
}

pub fn head(id: u64) -> RecordHead {
    RecordHead { kind: 1, version: 1, flags: 0, id }
}

fn in_world<T>(w: &Rc<World>, f: impl AsyncFnOnce(&Double) -> T) -> T {
    let rt = Double::new(w);
    let result = rt.block_on(f(&rt));
    rt.kill();
    result
}

async fn open(rt: &Double) -> (Archive<Double>, ArchiveReport) {
    Archive::open(rt.clone(), Path::new(DIR), Options::tiny(), Poison::new(), LOG).await.unwrap()
}

fn body(id: u64, len: usize) -> Vec<u8> {
    (0..len).map(|n| (n as u64 * 13 + id * 31 + (n as u64 >> 8)) as u8).collect()
}

async fn put(a: &Archive<Double>, id: u64, len: usize) -> Place {
    let body = body(id, len);
    let (x, y) = body.split_at(len / 2);
    a.append(head(id), 0, &[x, y]).await.unwrap()
}

async fn check(a: &Archive<Double>, at: Place, id: u64) {
    let found = a.read(at, id).await.unwrap();
    assert_eq!(*found, *body(id, found.len()));
    assert_eq!(found.len() + 20, at.len as usize);
}

fn file(number: u32) -> PathBuf {
    Path::new(DIR).join(format!("{number:08}.archive"))
}

fn bytes(w: &World, number: u32) -> Vec<u8> {
    w.files.borrow()[&file(number)].data.borrow().clone()
}

#[test]
fn what_is_appended_is_read_from_memory_and_from_disk_and_after_a_restart() {
    let w = world();
    let places = in_world(&w, async |rt| {
        let (a, report) = open(rt).await;
        assert_eq!(report, ArchiveReport::default());
        assert!(w.files.borrow().is_empty(), "begun when first needed");
        let mut places = Vec::new();
        // Longer than a chunk, so that one lies half on disk, half in memory.
        for id in 1..=12 {
            places.push(put(&a, id, 3000).await);
            for (at, id) in places.iter().zip(1..) {
                check(&a, *at, id).await;
            }
        }
        assert!(!a.is_durable(places[11]));
        a.sync().await.unwrap();
        assert!(places.iter().all(|at| a.is_durable(*at)));
        let syncs = w.log.borrow().len();
        a.sync().await.unwrap();
        assert_eq!(w.log.borrow().len(), syncs, "nothing to do");
        places.push(put(&a, 13, 0).await);
        check(&a, places[12], 13).await;
        assert!(matches!(a.read(places[3], 5).await, Err(ReadError::Damaged)), "another's id");
        let astray = Place { offset: places[3].offset + 1, ..places[3] };
        assert!(matches!(a.read(astray, 4).await, Err(ReadError::Damaged)));
        assert!(matches!(a.read(Place { segment: 7, ..places[3] }, 4).await, Err(ReadError::Gone)));
        let beyond = Place { offset: 60_000, ..places[3] };
        assert!(matches!(a.read(beyond, 4).await, Err(ReadError::Damaged)));
        let stats = a.stats();
        assert_eq!((stats.segments, stats.live_records), (1, 13));
        a.close().await;
        assert_eq!(a.append(head(14), 0, &[b"x"]).await, Err(ArchiveError::Closed));
        places
    });
    in_world(&w, async |rt| {
        let (a, report) = open(rt).await;
        assert_eq!((report.segments, report.unfinished, report.bad_heads), (1, 0, 0));
        assert_eq!(report.bytes, bytes(&w, 1).len() as u64);
        for (at, id) in places.iter().zip(1..) {
            assert!(a.keep(*at));
            check(&a, *at, id).await;
        }
        a.counted();
        assert_eq!(a.victim(NOW), None, "all of it lives");
        let again = put(&a, 20, 100).await;
        assert_eq!((again.segment, again.offset), (2, HEAD_BYTES + 28), "never into an old segment");
        assert!(a.keep(again), "counted already");
        assert_eq!(a.stats().live_records, 14);
        assert!(!a.keep(Place { segment: 9, offset: 9000, len: 30 }));
    });
}

#[test]
fn segments_are_finished_with_a_footer_and_scanned() {
    let w = world();
    let (places, lens) = in_world(&w, async |rt| {
        let (a, _) = open(rt).await;
        let lens = |id: u64| [10, 9000, 700, 30_000][id as usize % 4];
        let mut places = Vec::new();
        for id in 1..=40 {
            let body = body(id, lens(id));
            places.push(a.append(head(id), id as u32 * 2, &[&body]).await.unwrap());
            if id % 5 == 0 {
                a.sync().await.unwrap();
            }
        }
        a.close().await;
        (places, lens)
    });
    let last = places[39].segment;
    assert!(last >= 5 && places.windows(2).all(|p| p[0] < p[1]), "{places:?}");
    in_world(&w, async |rt| {
        let (a, report) = open(rt).await;
        assert_eq!((report.segments, report.unfinished), (last, 0));
        assert_eq!(a.segments(), (1..=last).collect::<Vec<_>>());
        let (mut found, mut owners) = (Vec::new(), Vec::new());
        for n in 1..=last {
            assert!(bytes(&w, n).len() <= Options::tiny().segment_bytes as usize);
            let visit = |h: RecordHead, at: Place, payload: &[u8]| {
                assert_eq!(payload, body(h.id, lens(h.id)));
                found.push(at);
            };
            let scanned = a.scan(n, visit).await.unwrap();
            assert_eq!((scanned.damage_count, scanned.torn), (0, false));
            owners.extend(a.footer(n).await.unwrap());
        }
        assert_eq!(found, places);
        let want: Vec<_> = (1..=40).map(|id| (id, id as u32 * 2, 1)).collect();
        assert_eq!(owners.iter().map(|e| (e.id, e.owner, e.kind)).collect::<Vec<_>>(), want);
        assert!(matches!(a.scan(99, |_, _, _| ()).await, Err(ReadError::Gone)));
    });
    // One damaged record is stepped over, also where the footer is damaged as well.
    let at = places[4];
    let damage = |n: u32, at: usize| w.files.borrow()[&file(n)].data.borrow_mut()[at] ^= 1;
    damage(at.segment, at.offset as usize + 50);
    for broken_footer in [false, true] {
        if broken_footer {
            let len = bytes(&w, at.segment).len();
            damage(at.segment, len - 4096 - 3900);
        }
        in_world(&w, async |rt| {
            let (a, _) = open(rt).await;
            let mut found = Vec::new();
            let scanned = a.scan(at.segment, |_, p, _| found.push(p)).await.unwrap();
            assert_eq!(scanned.damage_count, 1);
            let damage = scanned.damages[0];
            assert!(damage.from == at.offset && damage.to >= at.offset + at.len);
            let want: Vec<_> =
                places.iter().filter(|p| p.segment == at.segment && **p != at).copied().collect();
            assert_eq!(found, want);
            let entries = a.footer(at.segment).await.unwrap();
            assert_eq!(entries.len(), want.len() + usize::from(!broken_footer));
            assert!(matches!(a.read(at, 5).await, Err(ReadError::Damaged)));
        });
    }
}

#[test]
fn a_record_longer_than_a_segment_has_one_of_its_own() {
    let w = world();
    in_world(&w, async |rt| {
        let (a, _) = open(rt).await;
        put(&a, 1, 100).await;
        let long = put(&a, 2, 200_000).await;
        let after = put(&a, 3, 100).await;
        a.sync().await.unwrap();
        assert_eq!((long.segment, after.segment), (2, 3));
        check(&a, long, 2).await;
        assert!(a.stats().waiting_bytes == 0);
    });
}

#[test]
fn cleaning() {
    let w = world();
    in_world(&w, async |rt| {
        let (a, _) = open(rt).await;
        let mut places = Vec::new();
        for id in 1..=30 {
            places.push(put(&a, id, 6000).await);
        }
        a.sync().await.unwrap();
        let last = places[29].segment;
        assert_eq!(last, 4);
        places.iter().filter(|p| p.segment == 1).for_each(|p| a.dead(*p, NOW));
        assert_eq!(a.victim(NOW), None, "not before all that lives has been counted");
        a.counted();
        assert_eq!(a.victim(NOW), Some(Victim::Empty(1)));
        a.remove(1).await.unwrap();
        assert!(!w.files.borrow().contains_key(&file(1)));
        assert!(matches!(a.read(places[0], 1).await, Err(ReadError::Gone)));
        a.dead(places[0], NOW);

        let second: Vec<_> = places.iter().copied().zip(1..).filter(|p| p.0.segment == 2).collect();
        second[..4].iter().for_each(|p| a.dead(p.0, NOW));
        assert_eq!(a.victim(NOW), None, "more than half lives");
        let short = |but: &[u32]| a.victim_of(NOW, true, &but.iter().copied().collect());
        assert_eq!(short(&[]), Some(Victim::Copy(2)), "while space is short that is worth something");
        assert_eq!(short(&[2]), None, "it was tried, and all others live as a whole");
        assert_eq!(a.victim(Wall(NOW.0 + 7 * DAY)), None, "not yet");
        let old = Wall(NOW.0 + 7 * DAY + 1);
        assert_eq!(a.victim(old), Some(Victim::Copy(2)), "mail that was deleted lies there too long");
        a.dead(second[4].0, NOW);
        assert_eq!(a.victim(NOW), Some(Victim::Copy(2)));
        let live: Vec<_> = second[5..].to_vec();
        for (at, id) in &live {
            let payload = a.read(*at, *id).await.unwrap();
            let copy = a.append(head(*id), 0, &[&payload]).await.unwrap();
            check(&a, copy, *id).await;
        }
        a.sync().await.unwrap();
        live.iter().for_each(|p| a.dead(p.0, NOW));
        assert_eq!(a.victim(NOW), Some(Victim::Empty(2)));
        a.leave(2);
        assert_eq!(a.victim(NOW), None);
        a.remove(2).await.unwrap();
        assert_eq!(a.segments()[0], 3);
    });
}

#[test]
fn after_a_restart_the_age_of_the_dead_is_that_of_the_segment() {
    let w = world();
    let places = in_world(&w, async |rt| {
        let (a, _) = open(rt).await;
        let places = [put(&a, 1, 5000).await, put(&a, 2, 100).await];
        a.close().await;
        places
    });
    in_world(&w, async |rt| {
        let (a, _) = open(rt).await;
        // Dead before its living was said: the order does not matter while the owner counts.
        a.dead(places[1], NOW);
        assert!(a.keep(places[0]) && a.keep(places[1]));
        a.counted();
        assert_eq!(a.victim(Wall(6 * DAY)), None);
        assert_eq!(a.victim(Wall(8 * DAY)), Some(Victim::Copy(1)));
    });
}

#[test]
#[should_panic(expected = "cannot live in it")]
fn what_is_dead_twice_is_a_bug() {
    let w = world();
    in_world(&w, async |rt| {
        let (a, _) = open(rt).await;
        let at = put(&a, 1, 5000).await;
        a.sync().await.unwrap();
        a.dead(at, NOW);
        a.dead(at, NOW);
    });
}

#[test]
fn numbers_are_not_used_twice() {
    let w = world();
    in_world(&w, async |rt| {
        let (a, _) = open(rt).await;
        let at = put(&a, 1, 5000).await;
        a.close().await;
        drop(a);
        let (a, _) = open(rt).await;
        a.counted();
        assert_eq!(a.victim(NOW), Some(Victim::Empty(at.segment)));
        a.remove(1).await.unwrap();
        assert_eq!(a.victim(NOW), None, "the next one is empty, and open");
        a.close().await;
        drop(a);
        let (a, report) = open(rt).await;
        assert_eq!((report.segments, report.unfinished), (1, 1));
        a.counted();
        assert_eq!(a.victim(NOW), None, "it keeps the number");
        assert_eq!(put(&a, 2, 10).await.segment, 3);
        assert_eq!(a.victim(NOW), Some(Victim::Empty(2)));
    });
}

#[test]
fn a_full_disk_loses_what_was_not_durable_and_nothing_else() {
    let w = world();
    in_world(&w, async |rt| {
        let (a, _) = open(rt).await;
        let kept = put(&a, 1, 5000).await;
        a.sync().await.unwrap();
        w.room.set(Some(10_000));
        let mut lost = Vec::new();
        let error = loop {
            match a.append(head(2 + lost.len() as u64), 0, &[&[1; 5000]]).await {
                Ok(at) => lost.push(at),
                Err(e) => break e,
            }
        };
        assert_eq!(error, ArchiveError::Full);
        assert!(lost.len() >= 2, "what is only in memory is taken");
        let other = a.clone();
        assert_eq!(other.sync().await, Ok(()), "it has lost nothing");
        assert_eq!(a.append(head(90), 0, &[b"x"]).await, Err(ArchiveError::Full));
        assert_eq!(a.sync().await, Err(ArchiveError::Full));
        assert!(a.is_durable(kept) && lost.iter().all(|at| !a.is_durable(*at)));
        lost.iter().for_each(|at| a.dead(*at, NOW));
        check(&a, kept, 1).await;
        assert!(matches!(a.read(lost[0], 2).await, Err(ReadError::Gone)));
        let stats = a.stats();
        assert_eq!((stats.live_records, stats.losses, stats.poisoned), (1, 1, false));
        assert_eq!(a.append(head(91), 0, &[b"x"]).await, Err(ArchiveError::Full), "no new segment either");
        w.room.set(None);
        let at = put(&a, 3, 5000).await;
        a.sync().await.unwrap();
        assert!(at.segment > kept.segment, "the segment ended where it was durable");
        let mut found = 0;
        let scanned = a.scan(kept.segment, |_, _, _| found += 1).await.unwrap();
        assert_eq!((found, scanned.damage_count), (1, 0));
        w.free.set(1000);
        let mut id = 4;
        while a.append(head(id), 0, &[&[1; 5000]]).await.is_ok() {
            id += 1;
        }
        assert!(id > 10, "the open segment is filled up");
        assert_eq!(a.sync().await, Ok(()), "and all of it is durable");
    });
    in_world(&w, async |rt| {
        let (_, report) = open(rt).await;
        assert_eq!((report.set_aside, report.removed), (0, 0));
    });
}

#[test]
fn a_file_that_cannot_be_made_refuses() {
    let w = world();
    w.fail_creates.set(true);
    in_world(&w, async |rt| {
        let (a, _) = open(rt).await;
        assert_eq!(a.append(head(1), 0, &[b"x"]).await, Err(ArchiveError::Full));
        assert_eq!(a.sync().await, Ok(()));
        w.fail_creates.set(false);
        w.room.set(Some(5000));
        assert_eq!(a.append(head(1), 0, &[b"x"]).await, Err(ArchiveError::Full));
        assert!(w.files.borrow().is_empty(), "the beginning is taken away");
        w.room.set(None);
        assert_eq!(put(&a, 1, 10).await.segment, 1);
    });
}

#[test]
fn a_failed_write_or_sync_poisons() {
    for write in [true, false] {
        let w = world();
        in_world(&w, async |rt| {
            let poison = Poison::new();
            let dir = Path::new(DIR);
            let opened = Archive::open(rt.clone(), dir, Options::tiny(), poison.clone(), LOG).await;
            let a = opened.unwrap().0;
            let kept = put(&a, 1, 5000).await;
            a.sync().await.unwrap();
            put(&a, 2, 5000).await;
            if write {
                w.fail_writes.set(Some(io::ErrorKind::Other));
            } else {
                w.fail_syncs.set(true);
            }
            assert_eq!(a.sync().await, Err(ArchiveError::Poisoned));
            w.fail_writes.set(None);
            w.fail_syncs.set(false);
            assert!(poison.is_set());
            assert_eq!(a.append(head(3), 0, &[b"x"]).await, Err(ArchiveError::Poisoned));
            assert_eq!(a.sync().await, Err(ArchiveError::Poisoned));
            assert_eq!(a.victim(NOW), None);
            check(&a, kept, 1).await;
            a.close().await;
        });
    }
}

#[test]
fn poisoned_by_others_while_somebody_waits() {
    let w = world();
    in_world(&w, async |rt| {
        let poison = Poison::new();
        let opened =
            Archive::open(rt.clone(), Path::new(DIR), Options::tiny(), poison.clone(), LOG).await.unwrap();
        let a = opened.0;
        put(&a, 1, 5000).await;
        w.hold_writes.set(true);
        let (waiting, result) = (a.clone(), Rc::new(RefCell::new(None)));
        let slot = result.clone();
        use crate::runtime::{Runtime, yield_now};
        rt.spawn(async move {
            let said = waiting.sync().await;
            *slot.borrow_mut() = Some(said);
        });
        for _ in 0..20 {
            yield_now().await;
        }
        poison.set();
        w.hold_writes.set(false);
        while result.borrow().is_none() {
            yield_now().await;
        }
        assert_eq!(result.take(), Some(Err(ArchiveError::Poisoned)));
    });
}

#[test]
fn what_is_not_ours_is_left_alone_and_told() {
    let w = world();
    in_world(&w, async |rt| {
        let dir = Path::new(DIR);
        let open_as = async |log: u8| {
            Archive::open(rt.clone(), dir, Options::tiny(), Poison::new(), [log; 16]).await.unwrap()
        };
        let (a, _) = open_as(9).await;
        put(&a, 1, 5000).await;
        a.close().await;
        drop(a);
        let put_file = |name: &str, data: Vec<u8>| {
            let node = crate::storage::double::Node { data: RefCell::new(data), ..Default::default() };
            w.files.borrow_mut().insert(dir.join(name), Rc::new(node));
        };
        put_file("00000002.archive", vec![7; 9000]);
        put_file("00000003.archive", vec![7; 90]);
        put_file("notes.txt", vec![1; 10]);
        let (b, report) = open_as(4).await;
        assert_eq!((report.segments, report.set_aside, report.removed), (0, 2, 1));
        assert_eq!(report.set_aside_names, ["00000001.archive", "00000002.archive"]);
        assert!(w.files.borrow().contains_key(&dir.join("notes.txt")));
        assert_eq!(put(&b, 1, 10).await.segment, 4);
    });
}

#[test]
fn a_later_version_or_another_process_is_refused() {
    let w = world();
    in_world(&w, async |rt| {
        let (a, _) = open(rt).await;
        put(&a, 1, 10).await;
        a.sync().await.unwrap();
        let dir = Path::new(DIR);
        let second = Archive::open(rt.clone(), dir, Options::tiny(), Poison::new(), LOG).await;
        assert!(matches!(second.err(), Some(OpenError::Locked(path)) if path == file(1)));
        a.close().await;
        drop(a);
        {
            let files = w.files.borrow();
            let mut data = files[&file(1)].data.borrow_mut();
            for copy in [0, 4096] {
                data[copy + 12] = 2;
                let crc = crate::base::crc::crc32c(crate::base::crc::PLAIN, &[&data[copy + 12..copy + 4096]]);
                data[copy + 8..copy + 12].copy_from_slice(&crc.to_le_bytes());
            }
        }
        let later = Archive::open(rt.clone(), dir, Options::tiny(), Poison::new(), LOG).await;
        assert!(matches!(later.err(), Some(OpenError::Later(v)) if v.0 == 2));
    });
}

#[test]
fn few_files_are_open_and_all_are_read() {
    let w = world();
    in_world(&w, async |rt| {
        let (a, _) = open(rt).await;
        let mut places = Vec::new();
        for id in 1..=80 {
            places.push(put(&a, id, 6000).await);
        }
        a.sync().await.unwrap();
        assert!(places[79].segment > 2 * Options::tiny().files_max as u32);
        for (id, at) in (1..).zip(&places).collect::<Vec<_>>().into_iter().rev() {
            check(&a, *at, id).await;
        }
    });
}

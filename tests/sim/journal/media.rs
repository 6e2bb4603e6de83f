//! Named cases of a log at rest whose bytes are not what was written: flips, stale segments, and
//! pages of the log itself that came back as mail.

use super::{FOLDER, Load, Place, owner};
use crate::machine::{Machine, SimRuntime};
use crate::net::SimNet;
use crate::world::{Death, MS, SEC, World};
use ringpost::storage::journal::StageError;
use ringpost::storage::keeper::Keeper;
use ringpost::storage::model;
use ringpost::storage::recover::{Outcome, RecoveryReport};
use ringpost::storage::{Options, Poison, RecordHead, Urgency};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

const PAGE: usize = 4096;

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A record: kind, id, segment, offset, payload.
type Record = (u8, u64, u64, u32, Vec<u8>);

fn segments(files: &Files) -> Vec<Vec<u8>> {
    let whole = u64::from(Options::tiny().segment_bytes) as usize;
    let ours = |(p, b): &(&PathBuf, &Vec<u8>)| p.parent() == Some(Path::new(FOLDER)) && b.len() == whole;
    files.iter().filter(ours).map(|(_, b)| b.clone()).collect()
}

fn read(files: &[Vec<u8>]) -> (Vec<Record>, Outcome) {
    let mut records = Vec::new();
    let outcome = model::read(files, |r| {
        let at = r.location;
        records.push((r.head.kind, r.head.id, at.segment, at.offset, r.payload.to_vec()));
    });
    (records, outcome.expect("our version"))
}

/// What the owner wrote, once at least. (With the end of the log retirements are lost, so that what
/// was over may be found again.)
fn is_ours(r: &Record) -> bool {
    if r.0 == owner::MESSAGE { r.4 == owner::body(r.1, r.4.len()) } else { r.4.len() == 8 }
}

fn seen(r: &RecoveryReport) -> u64 {
    u64::from(r.tears + r.set_aside + r.bad_heads) + r.damage_count
}

/// The disk after each of some lives, which end by loss of power.
fn disks(seed: u64, load: Load, lives: &'static [u64]) -> Vec<Files> {
    let world = World::new(seed, false);
    let place = Place::new(&world);
    let (w, found) = (world.clone(), Rc::new(RefCell::new(Vec::new())));
    let all = found.clone();
    world.block_on(async move {
        for life in lives {
            place.boot(load);
            w.pause(*life).await;
            place.kill(Death::Power);
            all.borrow_mut().push(place.machine.disk.snapshot());
        }
    });
    assert_eq!(world.violations(), Vec::<String>::new());
    world.end();
    found.take()
}

/// Each byte of the log in turn; without optimisation, some of them.
#[test]
fn every_byte_of_a_multi_segment_log_flipped() {
    let load = Load { writers: 3, pause: MS, finish: 600 * SEC, beside: 0 };
    let files = segments(disks(1, load, &[40 * MS, 30 * MS, 30 * MS]).last().expect("three lives"));
    let (all, outcome) = read(&files);
    assert!(outcome.listed.len() >= 3 && all.len() > 40, "{:?}", outcome.report);
    let before = seen(&outcome.report);
    let step = if cfg!(debug_assertions) { 509 } else { 1 };
    let places: Vec<(usize, usize)> = outcome
        .listed
        .iter()
        .flat_map(|l| (0..(l.end as usize + PAGE).min(l.head.bytes as usize)).map(|at| (l.file as usize, at)))
        .step_by(step)
        .collect();
    let (next, harmful) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        let mut files = files.clone();
        while let Some(&(file, at)) = places.get(next.fetch_add(1, Ordering::Relaxed)) {
            let bit = 1 << (at % 8);
            files[file][at] ^= bit;
            let (left, outcome) = read(&files);
            files[file][at] ^= bit;
            if left == all {
                continue;
            }
            harmful.fetch_add(1, Ordering::Relaxed);
            let place = format!("file {file} byte {at}: {:?}", outcome.report);
            assert!(seen(&outcome.report) > before, "loss without a word; {place}");
            // What is left are the records before and those after one gap, of one batch.
            let head = left.iter().zip(&all).take_while(|(l, a)| l == a).count();
            let gap = all.len() - left.len();
            assert!(left[head..] == all[head + gap..], "invented or altered; {place}");
            let bytes: usize = all[head..head + gap].iter().map(|r| r.4.len()).sum();
            assert!(bytes <= Options::tiny().batch_bytes_max as usize, "more than a batch; {place}");
        }
    };
    std::thread::scope(|s| (0..2).for_each(|_| drop(s.spawn(work))));
    assert!(harmful.into_inner() > places.len() / 2, "most bytes matter");
}

/// One file is as it was some time ago: all writes since then were lost, or its place was swapped.
#[test]
fn a_whole_stale_segment() {
    let load = Load { writers: 4, pause: MS, finish: MS, beside: 0 };
    let (mut unused, mut needed, mut unseen) = (0, 0, 0);
    for seed in 0..if cfg!(debug_assertions) { 3 } else { 24 } {
        let lives = disks(seed, load, &[150 * MS, 40 * MS, 300 * MS]);
        let now = segments(&lives[2]);
        let (records, outcome) = read(&now);
        for old in &lives[..2] {
            let old = segments(old);
            for file in (0..old.len().min(now.len())).filter(|&f| old[f] != now[f]) {
                let mut files = now.clone();
                files[file].clone_from(&old[file]);
                let (found, after) = read(&files);
                assert!(found.iter().all(is_ours), "seed {seed} file {file}: invented or altered");
                if outcome.free.contains(&(file as u32)) {
                    unused += 1;
                    assert_eq!(
                        found, records,
                        "seed {seed} file {file}: a retired segment counts for nothing"
                    );
                    assert_eq!(seen(&after.report), seen(&outcome.report));
                } else if found != records {
                    needed += 1;
                    // The end of the log alone can be missing without a trace.
                    let last = outcome.listed.last().is_some_and(|l| l.file as usize == file);
                    let told = seen(&after.report) > seen(&outcome.report);
                    unseen += usize::from(last && !told);
                    assert!(last || told, "seed {seed} file {file}: {:?}", after.report);
                }
            }
        }
    }
    assert!(unused > 5 && needed > 5 && unseen < needed, "{unused} {needed} {unseen}");
}

async fn open(rt: &SimRuntime, found: &mut BTreeMap<u64, Vec<u8>>) -> (Keeper<SimRuntime>, RecoveryReport) {
    let mut twice = BTreeSet::new();
    let visit = |r: ringpost::storage::Recovered<'_>| {
        if found.insert(r.head.id, r.payload.to_vec()).is_some() {
            twice.insert(r.head.id);
        }
    };
    let opened = Keeper::open(rt.clone(), Path::new(FOLDER), Options::tiny(), Poison::new(), visit).await;
    assert!(twice.is_empty(), "records {twice:?} were found twice");
    opened.expect("opens")
}

async fn put(keeper: &Keeper<SimRuntime>, id: u64, payload: &[u8]) -> ringpost::storage::Location {
    let head = RecordHead { kind: 1, version: 1, flags: 0, id };
    let staged = loop {
        match keeper.stage(head, &[payload], None, Urgency::NewMail) {
            Ok(staged) => break staged,
            Err(StageError::Busy) => keeper.progress().await,
            Err(e) => panic!("no room: {e:?}"),
        }
    };
    keeper.committed(staged).await.expect("written").location
}

/// A sender who got hold of the log itself mails its pages: true batches with the true nonce, laid
/// out so that each begins a page. The batch around them is damaged: they must not count again.
#[test]
fn a_body_full_of_batches_of_the_log_itself() {
    let world = World::new(5, false);
    let machine = Machine::new(&world, &SimNet::new(&world), 1);
    let (m, w) = (machine.clone(), world.clone());
    let done = world.block_on(async move {
        let rt = m.boot();
        let (keeper, _) = open(&rt, &mut BTreeMap::new()).await;
        let mut sent = BTreeMap::new();
        for id in 1..=3u64 {
            sent.insert(id, vec![id as u8; 900]);
            put(&keeper, id, &sent[&id]).await;
        }
        let disk = segments(&m.disk.snapshot());
        let log = disk.iter().find(|b| b[2 * PAGE..].iter().any(|&x| x != 0)).expect("the log");
        let pages = &log[2 * PAGE..5 * PAGE];
        assert!(pages.chunks(PAGE).all(|p| p.iter().any(|&b| b != 0)), "three batches");
        // How far a payload is from the start of its page, seen at one before.
        let probe = put(&keeper, 4, b"probe").await;
        let before = (probe.offset + probe.len) as usize % PAGE - b"probe".len();
        sent.insert(4, b"probe".to_vec());
        sent.insert(5, [&vec![b'x'; PAGE - before], pages].concat());
        let at = put(&keeper, 5, &sent[&5]).await;
        sent.insert(6, b"after".to_vec());
        put(&keeper, 6, b"after").await;
        keeper.close().await;
        drop(keeper);
        w.pause(MS).await;
        let sound = m.disk.snapshot();
        for damaged in [false, true] {
            let mut files = sound.clone();
            let holds = |b: &[u8]| b.windows(8).any(|x| x == [b'x'; 8]);
            let file = files.values_mut().find(|b| holds(b)).expect("the fifth record");
            if damaged {
                file[at.offset as usize - 40] ^= 1;
            }
            let copied = &file[(at.offset as usize / PAGE + 1) * PAGE..][..3 * PAGE];
            assert_eq!(copied, pages, "they begin pages");
            w.pause(SEC).await;
            m.kill(Death::Power);
            m.disk.restore(&files);
            let mut found = BTreeMap::new();
            let again = m.boot();
            let (_keeper, report) = open(&again, &mut found).await;
            let mut want = sent.clone();
            if damaged {
                want.remove(&5);
            }
            assert_eq!(found, want);
            assert_eq!(report.damage_count, u64::from(damaged));
        }
    });
    assert!(done.is_some() && world.violations().is_empty(), "{:?}", world.violations());
    world.end();
}

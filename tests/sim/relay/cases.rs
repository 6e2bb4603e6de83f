//! Named cases of an index, an archive or a journal that is not what the others go by: lost, spoiled,
//! put back, another's, damaged; and of starts that are interrupted.

use super::waiting::index_path;
use super::{Look, Stage, node, waiting};
use crate::peers::ledger::Fate;
use crate::seeds::{self, History};
use crate::world::{Death, MS, SEC, US, World};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A history of a backlog: some mail was sent, much waits in archive and index, some in the journal. Then
/// the power goes, and `harm` is done; the queue is found to be the same twice, and drains.
fn backlog(
    world: &World,
    harm: impl FnOnce(&Stage) + 'static,
    after: impl AsyncFnOnce(&mut Stage) + 'static,
) {
    let mut stage = waiting::stage(world);
    stage.options.lifetime = Duration::from_secs(5 * 86_400);
    stage.storage.window = 2;
    let ledger = stage.ledger.clone();
    world.block_on(async move {
        fill(&mut stage).await;
        stage.kill(Death::Power);
        harm(&stage);
        after(&mut stage).await;
    });
    ledger.borrow().check(1).into_iter().for_each(|v| world.violation(v));
}

async fn fill(stage: &mut Stage) {
    let world = stage.world.clone();
    stage.all_away(true);
    stage.boot(true, Look::No);
    for part in 0..3 {
        world.pause(SEC).await;
        for _ in 0..4 {
            stage.bulk(20);
            world.pause(10 * SEC).await;
        }
        world.pause(60 * SEC).await;
        if part < 2 {
            // Some of it is sent.
            stage.all_away(false);
            world.pause(800 * SEC + world.below(200 * SEC)).await;
            stage.all_away(true);
        }
    }
    let parked = stage.life.desk.borrow().as_ref().map_or(0, |d| d.stats().parked);
    if parked < 10 {
        world.violation(format!("{parked} parked"));
    }
}

async fn same_and_drains(stage: &mut Stage) {
    stage.same_twice().await;
    stage.calm_wait().await;
}

/// Runs `case` for some seeds; all must keep their promises.
fn all_well(test: &str, seeds: u64, case: impl Fn(&World) + Sync) {
    seeds::run_few(test, seeds, |world| {
        case(world);
        History::of(world)
    });
}

const SEEDS: u64 = if cfg!(debug_assertions) { 2 } else { 12 };
/// Of a full disk, where each history is short of space in another way.
const FULL_SEEDS: u64 = if cfg!(debug_assertions) { 12 } else { 60 };

#[test]
fn nothing_happens_to_the_index() {
    all_well("nothing_happens_to_the_index", SEEDS, |world| backlog(world, |_| {}, same_and_drains));
}

#[test]
fn the_index_is_deleted() {
    let harm = |stage: &Stage| {
        stage.harmed.set(true);
        stage.relay.disk.lose_file(&index_path());
    };
    all_well("the_index_is_deleted", SEEDS, |world| backlog(world, harm, same_and_drains));
}

#[test]
fn the_index_is_another_programs_file() {
    let harm = |stage: &Stage| {
        stage.harmed.set(true);
        stage.relay.disk.spoil_table(&index_path());
    };
    all_well("the_index_is_another_programs_file", SEEDS, |world| backlog(world, harm, same_and_drains));
}

/// A little or a lot: what is older than what the journal has given up is found out; what is not is of
/// use, and costs no duplicate.
#[test]
fn the_index_is_put_back() {
    let (used, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    all_well("the_index_is_put_back", 2 * SEEDS, |world| {
        let back = 1 + world.below(12) as usize;
        let lost = Rc::new(std::cell::Cell::new(false));
        let told = lost.clone();
        let harm = move |stage: &Stage| {
            stage.harmed.set(true);
            while !stage.relay.disk.roll_back_table(&index_path(), back) {
                stage.relay.disk.roll_back_table(&index_path(), 1);
            }
        };
        backlog(world, harm, async move |stage: &mut Stage| {
            stage.same_twice().await;
            told.set(!stage.harmed.get());
            stage.calm_wait().await;
        });
        if lost.get() { &refused } else { &used }.fetch_add(1, Ordering::Relaxed);
    });
    println!("of use: {used:?}, refused: {refused:?}");
}

/// To the time before the first message was parked.
#[test]
fn the_index_is_put_back_to_its_beginning() {
    let harm = |stage: &Stage| {
        stage.harmed.set(true);
        while stage.relay.disk.roll_back_table(&index_path(), 1) {}
        assert_eq!(stage.relay.disk.table_rows(&index_path()), Some(0));
    };
    all_well("the_index_is_put_back_to_its_beginning", SEEDS, |world| backlog(world, harm, same_and_drains));
}

#[test]
fn the_index_is_that_of_another_log() {
    all_well("the_index_is_that_of_another_log", SEEDS, |world| {
        let other = World::new(world.below(1_000_000), false);
        let file = Rc::new(std::cell::RefCell::new(Vec::new()));
        let mut stage = waiting::stage(&other);
        let (slot, w) = (file.clone(), other.clone());
        w.block_on(async move {
            fill(&mut stage).await;
            stage.kill(Death::Power);
            *slot.borrow_mut() = stage.relay.disk.snapshot()[&index_path()].clone();
        });
        other.end();
        let harm = move |stage: &Stage| {
            stage.harmed.set(true);
            let mut files = stage.relay.disk.snapshot();
            files.insert(index_path(), file.take());
            stage.relay.disk.restore(&files);
        };
        backlog(world, harm, same_and_drains);
    });
}

/// The index is lost, and the power goes while it is made anew, again and again.
#[test]
fn crash_while_the_index_is_made_anew() {
    let harm = |stage: &Stage| {
        stage.harmed.set(true);
        stage.relay.disk.lose_file(&index_path());
    };
    all_well("crash_while_the_index_is_made_anew", SEEDS, |world| {
        backlog(world, harm, async |stage: &mut Stage| {
            for _ in 0..12 {
                stage.boot(false, Look::No);
                let started = stage.world.now();
                while stage.life.desk.borrow().is_none() && stage.world.now() < started + 30 * SEC {
                    stage.world.pause(50 * US).await;
                }
                stage.world.pause(stage.world.below(4 * MS)).await;
                stage.kill(Death::Power);
            }
            same_and_drains(stage).await;
        });
    });
}

/// The archive's files, without the one that is the memory of the last number.
fn archive_files(stage: &Stage) -> Vec<PathBuf> {
    let dir = Path::new(node::FOLDER).join("archive");
    let all = stage.relay.disk.snapshot().into_iter();
    all.filter(|(p, b)| p.parent() == Some(&dir) && b.len() > 3 * 4096).map(|(p, _)| p).collect()
}

/// What the archive has lost is told and stays in the queue; all else gets where it should.
async fn all_but_the_lost(stage: &mut Stage, check: impl Fn(usize, &Stage) -> bool) {
    stage.all_away(false);
    stage.boot(true, Look::No);
    stage.world.pause(8_000 * SEC).await;
    let owed = stage.ledger.borrow().owed();
    let letters: std::collections::BTreeSet<u64> = owed.iter().map(|o| o.0).collect();
    if !check(letters.len(), stage) {
        stage.world.violation(format!("lost: letters {letters:?}, {:?}", stage.life.loaded.get()));
    }
    // That they are lost is no violation.
    letters.iter().for_each(|n| stage.ledger.borrow_mut().set_fate(*n, Fate::Unknown));
}

#[test]
fn a_segment_of_the_archive_is_missing() {
    let harm = |stage: &Stage| {
        let files = archive_files(stage);
        stage.relay.disk.lose_file(&files[stage.world.below(files.len() as u64) as usize]);
    };
    all_well("a_segment_of_the_archive_is_missing", SEEDS, |world| {
        backlog(world, harm, async |stage: &mut Stage| {
            let told = |lost: usize, stage: &Stage| {
                stage.life.loaded.get().is_some_and(|l| l.unreadable > 0 && lost as u64 <= l.unreadable)
            };
            all_but_the_lost(stage, told).await;
        });
    });
}

#[test]
fn a_body_in_the_archive_is_damaged() {
    let harm = |stage: &Stage| {
        let world = &stage.world;
        let mut files = stage.relay.disk.snapshot();
        for path in archive_files(stage) {
            let bytes = files.get_mut(&path).expect("a file");
            let at = 8192 + world.below(bytes.len() as u64 - 8192 - 4096) as usize;
            bytes[at] ^= 1 << world.below(8);
        }
        stage.relay.disk.restore(&files);
    };
    all_well("a_body_in_the_archive_is_damaged", SEEDS, |world| {
        backlog(world, harm, async |stage: &mut Stage| {
            let kept = |lost: usize, stage: &Stage| {
                let desk = stage.life.desk.borrow().clone();
                desk.is_some_and(|d| d.stats().messages == lost && lost <= archive_files(stage).len())
            };
            all_but_the_lost(stage, kept).await;
        });
    });
}

/// Others have filled the disk, and two of four servers stay away: archive and index stand still, the
/// journal holds mail that cannot leave, and what is for the two that come back gets there all the same:
/// mail, and reports to senders there.
#[test]
fn a_full_disk_delivers_what_it_can() {
    all_well("a_full_disk_delivers_what_it_can", FULL_SEEDS, |world| {
        let mut stage = waiting::stage(world);
        stage.options.lifetime = Duration::from_secs(5 * 86_400);
        stage.storage.window = 2;
        let (ledger, w) = (stage.ledger.clone(), world.clone());
        world.block_on(async move {
            fill(&mut stage).await;
            stage.relay.disk.fill_up();
            for _ in 0..6 {
                stage.bulk(20);
                w.pause(10 * SEC).await;
            }
            for machine in &stage.behind[..2] {
                stage.net.set_dark(machine.ip(), false);
            }
            w.pause(8_000 * SEC).await;
            // Some of it is a word to senders, who may be elsewhere: it stays owed until they come back.
            let there = |to: &str| stage.domains[..2].iter().any(|d| to.ends_with(d));
            let stuck = stage.ledger.borrow().owed_to(there);
            if !stuck.is_empty() {
                let stats = stage.life.desk.borrow().as_ref().map(|d| d.stats());
                w.violation(format!("stuck on the full disk: {stuck:?}, {stats:?}"));
            }
            stage.kill(Death::Power);
            same_and_drains(&mut stage).await;
        });
        ledger.borrow().check(1).into_iter().for_each(|v| world.violation(v));
    });
}

/// The disk has lied about the journal: it is as it was some time ago, the index is not. What was
/// accepted before is there all the same, and nothing rises that was over before.
#[test]
fn the_index_is_ahead_of_the_journal() {
    all_well("the_index_is_ahead_of_the_journal", 2 * SEEDS, |world| {
        let mut stage = waiting::stage(world);
        stage.options.lifetime = Duration::from_secs(5 * 86_400);
        stage.storage.window = 2;
        let (ledger, w) = (stage.ledger.clone(), world.clone());
        world.block_on(async move {
            fill(&mut stage).await;
            // Notifications that had to wait for the journal are made.
            w.pause(400 * SEC).await;
            let before = stage.relay.disk.snapshot();
            let known = stage.next.get();
            stage.bulk(20 + w.below(40));
            w.pause(20 * SEC).await;
            stage.kill(Death::Power);
            let is_segment = |p: &Path| p.extension().is_some_and(|e| e == "segment");
            let now = stage.relay.disk.snapshot().into_iter().filter(|(p, _)| !is_segment(p));
            let mut files: BTreeMap<PathBuf, Vec<u8>> = now.collect();
            files.extend(before.into_iter().filter(|(p, _)| is_segment(p)));
            stage.relay.disk.restore(&files);
            let after = known..stage.next.get();
            after.for_each(|n| stage.ledger.borrow_mut().set_fate(n, Fate::Unknown));
            same_and_drains(&mut stage).await;
        });
        ledger.borrow().check(1).into_iter().for_each(|v| world.violation(v));
    });
}

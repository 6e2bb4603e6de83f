//! Named cases that need the whole disk: what one history in a thousand would hit.

use super::{Load, Place};
use crate::seeds;
use crate::world::{Death, MS, SEC, US};
use ringpost::storage::model;
use ringpost::storage::segment::{Copy, SegmentHead};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

const LOAD: Load = Load { writers: 4, pause: MS, finish: 3 * MS, beside: 0 };

/// Recovery, power loss, recovery, again and again, at every stage of recovery: always the same
/// records (the book compares), and no space is eaten.
#[test]
fn crash_during_recovery() {
    let found = seeds::caught(12, |world| {
        let place = Place::new(world);
        let w = world.clone();
        world.block_on(async move {
            place.boot(LOAD);
            w.pause(SEC).await;
            place.kill(Death::Power);
            for n in 0..25 {
                place.boot(LOAD);
                w.pause(w.below(n * MS)).await;
                place.kill(if n % 3 == 0 { Death::Process } else { Death::Power });
            }
            place.calm_life().await;
        });
        seeds::History::of(world)
    });
    assert!(found.is_empty(), "{found:?}");
}

/// One byte of a sealed log flipped, here and there: never an invented or altered record, and the
/// loss is reported.
#[test]
fn a_flipped_byte_is_found() {
    let found = seeds::caught(24, |world| {
        let place = Place::new(world);
        let w = world.clone();
        world.block_on(async move {
            place.boot(Load { finish: 600 * SEC, ..LOAD });
            w.pause(SEC).await;
            place.kill(Death::Power);
            let mut files = place.machine.disk.snapshot();
            let paths: Vec<PathBuf> = files.keys().cloned().collect();
            let bytes = files.get_mut(&paths[w.below(paths.len() as u64) as usize]).expect("a file");
            let at = w.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << w.below(8);
            place.machine.disk.restore(&files);
            let lost_before = w.violations().len();
            let Some((_, report)) = place.up(LOAD).await else { return };
            let lost = w.violations().len() > lost_before;
            let told = report.damage_count > 0 || report.set_aside > 0 || report.tears > 0;
            assert!(!lost || told, "loss without a word: {report:?}");
        });
        seeds::History::of(world)
    });
    let bad = found.values().flatten().find(|v| !v.starts_with("lost"));
    assert!(bad.is_none(), "{bad:?}");
}

/// Recovery, power loss, recovery, where the first one ends at any moment: step by step through it.
#[test]
fn a_recovery_that_ends_at_any_moment() {
    // Nothing is written that the disk, put back, would not know.
    const QUIET: Load = Load { writers: 0, pause: MS, finish: u64::MAX / 4, beside: 0 };
    let step = if cfg!(debug_assertions) { 400 * US } else { 23 * US };
    let found = seeds::caught(4, |world| {
        let place = Place::new(world);
        let w = world.clone();
        world.block_on(async move {
            for _ in 0..3 {
                place.boot(LOAD);
                w.pause(40 * MS + w.below(40 * MS)).await;
                place.kill(Death::Power);
            }
            let disk = place.machine.disk.snapshot();
            let mut moment = 0;
            loop {
                let started = place.boot(QUIET);
                w.pause(moment).await;
                let complete = started.borrow().is_some();
                place.kill(Death::Power);
                let Some((owner, report)) = place.up(QUIET).await else { return };
                place.check_report(&report);
                drop(owner);
                place.kill(Death::Power);
                place.machine.disk.restore(&disk);
                moment += step;
                if complete {
                    return;
                }
                if moment > SEC {
                    return w.violation("a recovery takes more than a second".to_owned());
                }
            }
        });
        seeds::History::of(world)
    });
    assert!(found.is_empty(), "{found:?}");
}

/// A segment is retired and its bytes are all still there when the power goes; then its file is used
/// again, and the power goes in the middle of that. Nothing of it rises, nothing else is lost.
#[test]
fn crash_between_retire_and_reuse() {
    let (between, reused) = (AtomicU64::new(0), AtomicU64::new(0));
    let found = seeds::caught(8, |world| {
        let place = Place::new(world);
        let busy = Load { writers: 4, pause: MS, finish: MS / 4, beside: 0 };
        let (w, out) = (world.clone(), std::rc::Rc::new(std::cell::Cell::new((0, 0))));
        let counts = out.clone();
        world.block_on(async move {
            let mut left: Vec<(PathBuf, u64)> = Vec::new();
            for n in 0..40 {
                place.boot(busy);
                w.pause(w.below(if n % 2 == 0 { 60 * MS } else { 4 * MS })).await;
                place.kill(Death::Power);
                let disk = place.machine.disk.snapshot();
                let files: Vec<Vec<u8>> = disk.values().cloned().collect();
                let Ok(outcome) = model::read(&files, |_| {}) else { return };
                let sequence = |b: &[u8]| match SegmentHead::decode(b).0 {
                    Copy::Good(h) => Some(h.sequence),
                    _ => None,
                };
                let again = left.iter().filter(|(p, s)| disk.get(p).is_none_or(|b| sequence(b) != Some(*s)));
                let again = again.count() as u64;
                let free = disk.iter().enumerate().filter(|(i, _)| outcome.free.contains(&(*i as u32)));
                left = free.filter_map(|(_, (p, b))| Some((p.clone(), sequence(b)?))).collect();
                let (a, b) = counts.get();
                counts.set((a + left.len() as u64, b + again));
            }
            place.calm_life().await;
        });
        between.fetch_add(out.get().0, Ordering::Relaxed);
        reused.fetch_add(out.get().1, Ordering::Relaxed);
        seeds::History::of(world)
    });
    assert!(found.is_empty(), "{found:?}");
    let (between, reused) = (between.into_inner(), reused.into_inner());
    assert!(between > 20 && reused > 5, "retired and whole: {between}, then used again: {reused}");
}

/// A process is killed with a batch in flight; the next one waits for what may still land and is
/// killed too; then the power goes, and only a part of the batch is there.
#[test]
fn two_crashes_around_one_torn_batch() {
    let heavy = Load { writers: 6, pause: MS / 8, ..LOAD };
    let tears = AtomicU64::new(0);
    let found = seeds::caught(40, |world| {
        let place = Place::new(world);
        let (w, seen) = (world.clone(), std::rc::Rc::new(std::cell::Cell::new(0)));
        let torn = seen.clone();
        world.block_on(async move {
            for _ in 0..10 {
                place.boot(heavy);
                w.pause(20 * MS + w.below(20 * MS)).await;
                place.kill(Death::Process);
                for _ in 0..w.below(3) {
                    place.boot(LOAD);
                    w.pause(w.below(600 * US)).await;
                    place.kill(Death::Process);
                }
                w.pause(w.below(100 * US)).await;
                place.kill(Death::Power);
                let Some((owner, report)) = place.up(LOAD).await else { return };
                place.check_report(&report);
                torn.set(torn.get() + u64::from(report.tears));
                drop(owner);
                place.kill(Death::Power);
                // It was cut off for good, whatever is there.
                let Some((owner, report)) = place.up(LOAD).await else { return };
                place.check_report(&report);
                drop(owner);
                place.kill(Death::Process);
            }
            place.calm_life().await;
        });
        tears.fetch_add(seen.get(), Ordering::Relaxed);
        seeds::History::of(world)
    });
    assert!(found.is_empty(), "{found:?}");
    let tears = tears.into_inner();
    assert!(tears > 5, "batches must be torn: {tears}");
}

//! Named cases that need the whole disk: what one history in a thousand would hit.

use super::{Load, Place};
use crate::seeds;
use crate::world::{Death, MS, SEC};
use std::path::PathBuf;

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

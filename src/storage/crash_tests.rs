//! Crashes, damage and hostile bytes against the whole log in memory.

use crate::base::aligned::PAGE;
use crate::storage::journal::{StageError, Step};
use crate::storage::model::{self, Kept, Model};
use crate::storage::options::{Options, Urgency};
use crate::storage::oracle::{self, Op, Oracle};
use crate::storage::record::{RecordHead, Recovered};
use crate::storage::segment::{Copy, HEAD_BYTES, HEAD_COPY, Keys, SegmentHead};
use crate::storage::walk::Damage;
use proptest::prelude::*;
use std::task::{Poll, Waker};

fn head(id: u64) -> RecordHead {
    RecordHead { kind: 1, version: 1, flags: 0, id }
}

fn stage(m: &mut Model, id: u64, payload: &[u8]) -> crate::storage::group::Staged {
    m.journal.stage(head(id), &[payload], None, Urgency::NewMail).unwrap()
}

fn read(files: &[Vec<u8>]) -> (Vec<Kept>, crate::storage::recover::Outcome) {
    let mut kept = Vec::new();
    let outcome = model::read(files, |r| {
        kept.push(Kept { head: r.head, location: r.location, payload: r.payload.to_vec() });
    });
    (kept, outcome.unwrap())
}

fn ids(files: &[Vec<u8>]) -> Vec<u64> {
    read(files).0.iter().map(|k| k.head.id).collect()
}

/// A log of `n` batches of one record each, of odd lengths, over several segments.
fn log_of(n: u64, payload: impl Fn(u64) -> Vec<u8>) -> Model {
    let mut m = Model::open(&Options::tiny(), Vec::new(), 1, |_| {}).unwrap();
    for id in 1..=n {
        drop(stage(&mut m, id, &payload(id)));
        m.settle();
    }
    m
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0u16..9000).prop_map(Op::Message),
        3 => any::<u8>().prop_map(Op::Outcome),
        1 => Just(Op::Forward),
        5 => Just(Op::Commit),
        1 => any::<u64>().prop_map(Op::Crash),
        1 => Just(Op::Crash(u64::MAX)),
    ];
    proptest::collection::vec(op, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_is_acknowledged_survives_any_crash(script in ops()) {
        let mut oracle = Oracle::new(Options::tiny());
        for op in script {
            oracle.run(op);
        }
        oracle.run(Op::Crash(0));
    }

    #[test]
    fn the_fuzz_target_holds_on_random_scripts(data in proptest::collection::vec(any::<u8>(), 0..600)) {
        oracle::fuzz_entry(&data);
    }

    #[test]
    fn recovery_of_arbitrary_files(
        mut file in proptest::collection::vec(any::<u8>(), 0..30_000), log: u8, seal: bool,
    ) {
        if seal && file.len() >= HEAD_COPY {
            let m = Model::open(&Options::tiny(), Vec::new(), log, |_| {}).unwrap();
            file[..HEAD_COPY].copy_from_slice(&m.files[0][..HEAD_COPY]);
        }
        let (kept, _) = read(&[file]);
        prop_assert!(kept.is_empty());
    }
}

#[test]
fn a_long_life_recycles_its_files() {
    let mut oracle = Oracle::new(Options::tiny());
    for round in 0..3000u64 {
        oracle.run(Op::Message((round * 37 % 5000) as u16));
        oracle.run(Op::Commit);
        if round > 20 {
            oracle.run(Op::Outcome((round * 7) as u8));
        }
        if oracle.model.journal.space().pressure().is_some() {
            oracle.run(Op::Forward);
        }
        if round % 50 == 7 {
            oracle.run(Op::Crash(round.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        }
    }
    assert!(oracle.model.journal.space().current().sequence > 60, "the log has come far");
    assert!(oracle.model.files.len() <= 16, "in {} files", oracle.model.files.len());
}

#[test]
fn every_flip_is_found_and_costs_one_batch() {
    let m = log_of(30, |id| vec![id as u8; 3000 + 200 * id as usize]);
    let (all, _) = read(&m.files);
    assert_eq!(all.len(), 30);
    let used: u32 = 3;
    assert!(m.journal.space().sizes().0 as u32 >= used);
    let mut files = m.files;
    for file in 0..used as usize {
        let seq = SegmentHead::decode(&files[file]).0;
        assert!(matches!(seq, Copy::Good(_)));
        let in_file: Vec<&Kept> = all.iter().filter(|k| k.location.segment == file as u64 + 1).collect();
        let end = in_file.iter().map(|k| k.location.offset + k.location.len).max().unwrap() as usize;
        let heads = (0..128).chain(HEAD_COPY..HEAD_COPY + 128);
        let batch_heads = in_file.iter().flat_map(|k| {
            let at = k.location.offset as usize;
            at - 48..at + 24
        });
        let bulk = (0..end.next_multiple_of(PAGE)).step_by(211);
        for at in heads.chain(batch_heads).chain(bulk).collect::<Vec<_>>() {
            files[file][at] ^= 1 << (at % 8);
            let (kept, outcome) = read(&files);
            let report = &outcome.report;
            let seen = report.bad_heads as u64 + u64::from(report.tears) + report.damage_count;
            assert_eq!(seen, 1, "file {file} byte {at}: {report:?}");
            assert!(kept.len() >= 29, "file {file} byte {at}: {} records left", kept.len());
            assert!(kept.iter().all(|k| all.contains(k)));
            files[file][at] ^= 1 << (at % 8);
        }
    }
}

#[test]
fn damage_names_what_is_lost() {
    let m = log_of(9, |id| vec![id as u8; 5000]);
    let (all, _) = read(&m.files);
    let mut files = m.files;
    let at = all[3].location;
    files[0][at.offset as usize + 100] ^= 1;
    let (kept, outcome) = read(&files);
    assert_eq!(kept.iter().map(|k| k.head.id).collect::<Vec<_>>(), [1, 2, 3, 5, 6, 7, 8, 9]);
    let from = at.offset / PAGE as u32 * PAGE as u32;
    let want = Damage { sequence: 1, from, to: from + 8192, first_batch: 4, next_batch: 5, ids: vec![4] };
    assert_eq!(outcome.report.damages, [want]);
    // A whole segment gone is reported as such, and what follows is still read.
    let mut m = log_of(40, |id| vec![id as u8; 5000]);
    m.files[1] = vec![0; m.files[1].len()];
    let (kept, outcome) = read(&m.files);
    assert!(outcome.report.damages.iter().any(|d| d.sequence == 2 && d.from == d.to));
    assert!(kept.len() > 20 && kept.last().unwrap().head.id == 40);
}

#[test]
fn damage_at_the_end_of_a_segment_is_not_taken_for_a_tear() {
    let m = log_of(20, |_| vec![7; 7000]);
    let (all, _) = read(&m.files);
    let last = all.iter().rfind(|k| k.location.segment == 1).unwrap();
    let mut files = m.files;
    files[0][last.location.offset as usize] ^= 4;
    let report = read(&files).1.report;
    assert_eq!((report.tears, report.damage_count), (0, 1), "the next segment vouches for it");
}

/// Batches read after a body full of batches made with `keys` lies in a damaged batch.
fn batches_beside_forgeries(keys: Keys) -> (u64, Vec<u64>) {
    let mut m = log_of(3, |_| vec![1; 100]);
    let mut body = vec![0u8; Options::tiny().payload_max()];
    for page in 0..3 {
        let at = (page + 1) * PAGE - 48 - 20;
        let forged = crate::storage::batch::BatchHead {
            crc: 0,
            length: PAGE as u32,
            tag: keys.tag,
            number: 5 + page as u64,
            epoch: 1,
            used: 48,
            records: 0,
            previous: 0,
        };
        forged.seal(&mut body[at..at + PAGE], &keys);
    }
    drop(stage(&mut m, 4, &body));
    m.settle();
    drop(stage(&mut m, 5, b"after"));
    m.settle();
    assert_eq!(ids(&m.files), [1, 2, 3, 4, 5], "inside an intact batch nobody looks for batches");
    let at = read(&m.files).0[3].location;
    m.files[0][at.offset as usize - 40] ^= 1;
    let (kept, outcome) = read(&m.files);
    assert!(outcome.report.damage_count > 0);
    (outcome.report.batches, kept.iter().map(|k| k.head.id).collect())
}

#[test]
fn a_body_full_of_forged_batches() {
    // The forger knows the format and all numbers, but not the nonce of this epoch.
    assert_eq!(batches_beside_forgeries(Keys::new([1; 16])), (4, vec![1, 2, 3, 5]));
    // With it the forgeries would pass: it is the nonce that keeps them out.
    let mut nonce = [1; 16];
    nonce[..8].copy_from_slice(&1u64.to_le_bytes());
    assert!(batches_beside_forgeries(Keys::new(nonce)).0 > 4);
}

#[test]
fn two_crashes_around_one_torn_batch() {
    let mut m = log_of(3, |_| vec![1; 100]);
    let staged = stage(&mut m, 4, &[4; 9000]);
    let write = m.next_write().unwrap();
    let mut torn = m.files.clone();
    let at = write.offset as usize;
    torn[0][at..at + PAGE].copy_from_slice(&write.bytes[..PAGE]);
    assert_eq!(read(&torn).1.report.tears, 1);
    let second = Model::open(&Options::tiny(), torn, 2, |_| {}).unwrap();
    // Now the rest of the torn batch lands after all; the cut was named before.
    let mut late = second.files.clone();
    late[0][at..at + write.bytes.len()].copy_from_slice(&write.bytes);
    assert_eq!(ids(&late), [1, 2, 3], "it was never acknowledged and never comes back");
    let mut live = Vec::new();
    let mut third = Model::open(&Options::tiny(), late, 3, |r| live.push(r.location)).unwrap();
    live.into_iter().for_each(|at| third.journal.keep(at));
    drop(stage(&mut third, 5, b"five"));
    third.settle();
    assert_eq!(ids(&third.files), [1, 2, 3, 5]);
    drop(staged);
}

#[test]
fn stale_and_foreign_segments_are_rejected() {
    let mut m = log_of(12, |_| vec![1; 9000]);
    let stale = m.files[0].clone();
    let live: Vec<_> = read(&m.files).0.iter().map(|k| k.location).collect();
    for at in live {
        let out = RecordHead { kind: 2, ..head(100) };
        drop(m.journal.stage(out, &[], Some(at), Urgency::Outcome).unwrap());
        m.settle();
    }
    assert!(m.journal.space().oldest() > 1, "segment 1 is retired");
    let (before, _) = read(&m.files);
    m.files[0] = stale.clone();
    let (after, outcome) = read(&m.files);
    assert_eq!(before, after, "a segment of an earlier life counts for nothing");
    assert_eq!(outcome.report.damage_count, 0);
    let mut other = Model::open(&Options::tiny(), Vec::new(), 77, |_| {}).unwrap();
    drop(stage(&mut other, 500, b"other log"));
    other.settle();
    m.files.push(other.files[0].clone());
    let (after, outcome) = read(&m.files);
    assert_eq!(before, after);
    assert_eq!(outcome.report.set_aside, 1);
}

#[test]
fn a_crash_during_recovery_changes_nothing() {
    // Into a fresh file, and over the head of an empty last segment.
    let fresh = log_of(5, |_| vec![1; 9000]);
    let empty = Model::open(&Options::tiny(), fresh.files.clone(), 2, |_| {}).unwrap();
    for start in [fresh.files, empty.files] {
        let (before, outcome) = read(&start);
        let added = outcome.needs_file().then_some(start.len() as u32);
        let mut start = start;
        start.extend(added.map(|_| vec![0; Options::tiny().segment_bytes as usize]));
        let restart = outcome.restart(&Options::tiny(), [1; 16], [9; 16], added);
        let copy = restart.head.encode();
        for torn in (0..=140).chain([HEAD_COPY]) {
            for copies in 1..=2 {
                // The second copy is begun only when the first is durable.
                let mut files = start.clone();
                let file = &mut files[restart.file as usize];
                for c in 0..copies {
                    let n = if c + 1 == copies { torn } else { HEAD_COPY };
                    file[c * HEAD_COPY..c * HEAD_COPY + n].copy_from_slice(&copy[..n]);
                }
                let mut live = Vec::new();
                let mut m = Model::open(&Options::tiny(), files, 7, |r| live.push(r.location)).unwrap();
                assert_eq!(live.len(), before.len());
                assert_eq!(m.report.damage_count, 0);
                live.into_iter().for_each(|at| m.journal.keep(at));
                drop(stage(&mut m, 77, b"after"));
                m.settle();
                let mut want: Vec<u64> = before.iter().map(|k| k.head.id).collect();
                want.push(77);
                assert_eq!(ids(&m.files), want, "{torn} bytes of copy {copies}");
            }
        }
    }
}

#[test]
fn a_crash_between_retirement_and_reuse() {
    let mut m = log_of(12, |_| vec![1; 9000]);
    let live: Vec<_> = read(&m.files).0.iter().map(|k| k.location).collect();
    let (gone, kept) = live.split_at(8);
    for at in gone {
        let out = RecordHead { kind: 2, ..head(100) };
        drop(m.journal.stage(out, &[], Some(*at), Urgency::Outcome).unwrap());
        m.settle();
    }
    let oldest = m.journal.space().oldest();
    assert!(oldest > 1);
    // Retired, not written over: still on disk in full, and not read.
    assert!(matches!(SegmentHead::decode(&m.files[0]).0, Copy::Good(h) if h.sequence == 1));
    let (found, outcome) = read(&m.files);
    assert!(found.iter().all(|k| k.location.segment >= oldest));
    assert!(kept.iter().all(|at| found.iter().any(|k| k.location == *at)));
    assert_eq!(outcome.report.damage_count, 0);
    assert!(outcome.report.free > 0);
}

#[test]
fn a_crash_loop_takes_no_space() {
    let mut m = log_of(5, |_| vec![1; 9000]);
    for seed in 2..60 {
        let mut seen = 0;
        m = Model::open(&Options::tiny(), m.files, seed, |_: Recovered<'_>| seen += 1).unwrap();
        assert_eq!(seen, 5);
        assert_eq!(m.report.epoch, u64::from(seed));
    }
    assert!(m.files.len() <= 6, "{} files", m.files.len());
}

#[test]
fn after_a_failed_write_nothing_is_released() {
    let mut m = log_of(1, |_| vec![1; 10]);
    let mut staged = [stage(&mut m, 2, b"in flight"), stage(&mut m, 3, b"same batch")];
    let write = m.next_write().unwrap();
    let mut later = stage(&mut m, 4, b"waits");
    let mut wakers = Vec::new();
    assert!(later.poll(Waker::noop()).is_pending());
    // The bytes may all be there; the disk's word is what counts.
    m.apply(&write);
    m.journal.written(false, &mut wakers);
    for s in staged.iter_mut().chain([&mut later]) {
        assert!(matches!(s.poll(Waker::noop()), Poll::Ready(Err(_))));
    }
    assert_eq!(wakers.len(), 1);
    let again = m.journal.stage(head(5), &[b"x"], None, Urgency::Outcome);
    assert_eq!(again.err(), Some(StageError::Poisoned));
    assert!(matches!(m.journal.next_step(), Step::Idle));
}

#[test]
fn full_for_new_mail_leaves_room_for_outcomes() {
    let mut m = log_of(0, |_| Vec::new());
    let (mut refused, mut last) = (None, 0);
    for id in 1..1000 {
        match m.journal.stage(head(id), &[&[3; 8000]], None, Urgency::NewMail) {
            Ok(_) => last = id,
            Err(e) => {
                refused = Some(e);
                break;
            }
        }
        m.settle();
    }
    assert_eq!(refused, Some(StageError::Full));
    let (kept, _) = read(&m.files);
    assert_eq!(kept.len() as u64, last, "everything let in was written");
    assert!(kept.len() * 8000 > 9 * 40_000, "most of the sixteen segments hold mail");
    for k in kept {
        let out = RecordHead { kind: 2, version: 1, flags: 0, id: k.head.id };
        drop(m.journal.stage(out, &[&[9; 600]], Some(k.location), Urgency::Outcome).unwrap());
        m.settle();
    }
    assert_eq!(m.journal.space().live_records(), 0);
    assert!(m.journal.stage(head(5000), &[&[3; 8000]], None, Urgency::NewMail).is_ok());
}

#[test]
fn a_full_log_drains_although_every_opening_takes_a_segment() {
    let mut m = log_of(0, |_| Vec::new());
    for id in 1..1000 {
        if m.journal.stage(head(id), &[&[3; 8000]], None, Urgency::NewMail).is_err() {
            break;
        }
        m.settle();
    }
    let count = ids(&m.files).len();
    for done in (0..count).step_by(4) {
        let mut live = Vec::new();
        let mut ended = Vec::new();
        m = Model::open(&Options::tiny(), m.files, done as u8, |r| match r.head.kind {
            1 => live.push((r.head.id, r.location)),
            _ => ended.push(r.head.id),
        })
        .unwrap();
        live.retain(|l| !ended.contains(&l.0));
        assert_eq!(live.len(), count - done);
        live.iter().for_each(|l| m.journal.keep(l.1));
        // The youngest first: for long, nothing can be retired.
        for (id, at) in live.into_iter().rev().take(4) {
            let out = RecordHead { kind: 2, ..head(id) };
            drop(m.journal.stage(out, &[], Some(at), Urgency::Outcome).unwrap());
            m.settle();
        }
    }
    assert_eq!(m.journal.space().live_records(), 0);
}

#[test]
fn a_full_log_of_nothing_live_empties_itself() {
    let mut m = log_of(0, |_| Vec::new());
    for id in 1..1000 {
        if m.journal.stage(head(id), &[&[3; 8000]], None, Urgency::NewMail).is_err() {
            break;
        }
        m.settle();
    }
    // Nothing is kept: all of it was delivered, as far as the owner can tell.
    let mut m = Model::open(&Options::tiny(), m.files, 2, |_| {}).unwrap();
    let first = m.journal.stage(head(2000), &[&[3; 8000]], None, Urgency::NewMail);
    assert_eq!(first.err(), Some(StageError::Busy));
    m.settle();
    assert!(m.journal.stage(head(2000), &[&[3; 8000]], None, Urgency::NewMail).is_ok());
}

#[test]
fn a_reader_keeps_its_segment() {
    let mut m = log_of(12, |_| vec![1; 9000]);
    let (kept, _) = read(&m.files);
    assert!(m.journal.space_mut().pin(1));
    for k in &kept {
        let out = RecordHead { kind: 2, ..k.head };
        drop(m.journal.stage(out, &[], Some(k.location), Urgency::Outcome).unwrap());
        m.settle();
    }
    assert_eq!(m.journal.space().oldest(), 1, "nothing older than the pinned one is passed over");
    m.journal.unpin(1);
    m.settle();
    assert!(m.journal.space().oldest() > 1);
    assert!(HEAD_BYTES as usize == 2 * HEAD_COPY);
}

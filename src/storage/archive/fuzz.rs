//! A segment in memory, and what can be read of it: the state machine joined to a vector instead of
//! a disk, for tests and the `archive` fuzz target.

use crate::base::aligned::PAGE;
use crate::base::time::Wall;
use crate::storage::archive::format::{Copy, HEAD_BYTES, HEAD_COPY, Head, Trailer};
use crate::storage::archive::found::{self, Found, Kind};
use crate::storage::archive::scan::{Scan, Step};
use crate::storage::archive::shelf::Shelf;
use crate::storage::archive::state::{self, State};
use crate::storage::archive::{Options, Place};
use crate::storage::options::Poison;
use crate::storage::record::{self, RecordHead};
use crate::storage::segment::Keys;
use crate::storage::walk::Window;
use std::collections::BTreeMap;

/// One step of a script.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// Append a record of so many bytes.
    Append(u16),
    /// Make durable what there is.
    Sync,
    /// Write footer and trailer; nothing is appended after it.
    Seal,
}

/// A segment.
pub struct Image {
    /// Its head.
    pub head: Head,
    /// The bytes of its file.
    pub bytes: Vec<u8>,
    /// What is durable, by place: id and payload.
    pub records: BTreeMap<Place, (u64, Vec<u8>)>,
    /// Its last step was the sync that finishes it.
    pub sealed: bool,
}

/// What can be read of a segment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Its records.
    pub records: BTreeMap<Place, (u64, Vec<u8>)>,
    /// Ranges that do not verify.
    pub damages: Vec<(u32, u32)>,
    /// Ranges of the last run that do not verify, and of which nothing says that they were durable.
    pub doubts: Vec<(u32, u32)>,
    /// It has a torn end.
    pub torn: bool,
}

/// Runs a script on an empty segment. What is not synced at its end is written all the same.
#[must_use]
pub fn build(script: impl Iterator<Item = Op>) -> Image {
    let options = Options { segment_bytes: 256 << 10, waiting_max: 1 << 30, ..Options::tiny() };
    let shelf = Shelf::new(&options, BTreeMap::new());
    let mut state = State::new(options, Poison::new(), shelf, 1);
    let head = Head { log: [5; 16], number: 1, begun: Wall(9), nonce: *b"a nonce nobody.." };
    state.want_segment();
    assert!(matches!(state.next_step(), state::Step::Begin { number: 1 }));
    state.began(Ok(head.clone()));
    let bytes = head.bytes().bytes().to_vec();
    let mut image = Image { head, bytes, records: BTreeMap::new(), sealed: false };
    let (mut id, mut pending) = (0, Vec::new());
    for op in script {
        match op {
            Op::Append(len) => {
                id += 1;
                let payload: Vec<u8> = (0..len).map(|n| (u64::from(n) * 7 + id * 31) as u8).collect();
                let (a, b) = payload.split_at(payload.len() / 3);
                let head = RecordHead { kind: 1 + (id % 3) as u8, version: 1, flags: len, id };
                let Ok(place) = state.append(head, id as u32, &[a, b]) else { break };
                pending.push((place, (id, payload)));
            }
            Op::Sync => drop(state.want_sync()),
            Op::Seal => state.seal(),
        }
        run(&mut state, &mut image.bytes);
        let over = state.open_segment().is_none();
        let durable = state.shelf.get(1).expect("it").end;
        let (done, rest) = pending.into_iter().partition(|(at, _)| at.offset < durable);
        image.records.extend::<Vec<_>>(done);
        pending = rest;
        if over {
            image.sealed = true;
            break;
        }
    }
    image
}

fn run(state: &mut State, file: &mut Vec<u8>) {
    loop {
        match state.next_step() {
            state::Step::Write { offset, bytes } => {
                assert!(offset as usize == file.len() && bytes.len().is_multiple_of(PAGE), "in order");
                file.extend_from_slice(&bytes);
            }
            state::Step::Sync => {}
            state::Step::Idle | state::Step::Begin { .. } => return,
        }
        state.done(Ok(()));
    }
}

/// Reads a file as the program does, in one window or page by page.
#[must_use]
pub fn read(bytes: &[u8], piecemeal: bool) -> Option<(Head, Reading)> {
    let last = found::last_page(bytes.len() as u64) as usize;
    let found = Found::new(1, bytes.len() as u64, bytes, &bytes[last..]);
    let Kind::Segment(head) = &found.kind else { return None };
    let keys = head.keys();
    let entries = found.trailer.and_then(|t| t.entries(bytes.get(t.end as usize..)?, &keys));
    let starts = entries.map(|e| e.iter().map(|e| e.offset).collect());
    let mut scan = Scan::new(1, keys, found.end(), found.trailer.is_some(), starts);
    let mut reading = Reading::default();
    let mut window = Window { file: 1, base: 0, bytes: &[] };
    let mut reads = 0;
    loop {
        match scan.step(window) {
            Step::Read { offset, len } => {
                reads += 1;
                assert!(reads < 1_000_000, "it goes round in circles");
                let end = if piecemeal { (offset + len) as usize } else { bytes.len() };
                assert!((offset + len) as usize <= bytes.len(), "asked only for what is there");
                window = Window { file: 1, base: offset, bytes: &bytes[offset as usize..end] };
            }
            Step::Record { head, offset, len, payload } => {
                let place = Place { segment: 1, offset, len };
                assert!(reading.records.insert(place, (head.id, payload.to_vec())).is_none(), "once");
            }
            Step::Damage { from, to, sure } => {
                assert!(from < to && to <= found.end());
                (if sure { &mut reading.damages } else { &mut reading.doubts }).push((from, to));
            }
            Step::End { torn, .. } => {
                reading.torn = torn;
                return Some((head.clone(), reading));
            }
        }
    }
}

/// A record read at its place, as [`Archive::read`](super::Archive::read) verifies it.
#[must_use]
pub fn read_one(bytes: &[u8], at: Place, keys: &Keys) -> Option<(u64, Vec<u8>)> {
    let record = bytes.get(at.offset as usize..(at.offset + at.len) as usize)?;
    let (head, payload, len) = record::decode(record, keys)?;
    (len == at.len).then(|| (head.id, payload.to_vec()))
}

/// Steps of a script from bytes.
pub fn ops(script: &[u8]) -> impl Iterator<Item = Op> {
    script.chunks_exact(3).map(|op| match op[0] % 8 {
        0..=4 => Op::Append(u16::from_le_bytes([op[1], op[2]]) % 9000),
        5 | 6 => Op::Sync,
        _ if op[0] > 200 => Op::Seal,
        _ => Op::Append(u16::from(op[1]) % 30),
    })
}

/// For the fuzzer: decoders on arbitrary bytes; then the bytes are a script, and the rest of them
/// flips and a cut, which must be survived without a panic and without inventing a record.
pub fn fuzz_entry(data: &[u8]) {
    let keys = Keys::new(*b"a nonce nobody..");
    if let Copy::Good(head) = Head::decode_copy(data) {
        assert_eq!(head.encode()[..], data[..HEAD_COPY]);
    }
    let len = HEAD_BYTES + (data.len() / PAGE * PAGE + PAGE) as u32;
    if let Some(trailer) = Trailer::decode(data, len, &keys) {
        let _ = trailer.entries(data, &keys);
    }
    let (script, flips) = data.split_at(data.len() - data.len() / 4);
    let image = build(ops(script));
    let (head, clean) = read(&image.bytes, false).expect("a segment");
    assert!(head == image.head && clean.damages.is_empty(), "{:?}", clean.damages);
    assert!(image.records.iter().all(|r| clean.records.get(r.0) == Some(r.1)), "what is durable is read");
    let mut bytes = image.bytes;
    for f in flips.chunks_exact(4) {
        let at = usize::try_from(u32::from_le_bytes([f[0], f[1], f[2], 0])).expect("fits") % bytes.len();
        bytes[at] ^= f[3];
    }
    if let Some(&cut) = flips.first().filter(|&&c| c % 4 == 0) {
        bytes.truncate(bytes.len() - usize::from(cut) * 97 % bytes.len());
    }
    let readings = [read(&bytes, false), read(&bytes, true)];
    for (_, found) in readings.iter().flatten() {
        assert!(found.records.iter().all(|r| clean.records.get(r.0) == Some(r.1)), "invented");
    }
    let same = readings.map(|r| r.map(|r| r.1));
    assert_eq!(same[0], same[1], "how it is read does not matter");
    for (at, record) in &clean.records {
        let found = read_one(&bytes, *at, &keys);
        assert!(found.is_none_or(|found| found == *record), "wrong bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::archive::format::{MARK, mark};
    use proptest::prelude::*;

    fn small() -> Image {
        let lens = [700, 0, 5000, 40];
        let runs = lens.iter().flat_map(|&n| [Op::Append(n), Op::Append(n / 2 + 1), Op::Sync]);
        build(runs.chain([Op::Append(60), Op::Seal]))
    }

    #[test]
    fn all_is_read_sealed_or_not() {
        let image = small();
        assert!(image.sealed && image.records.len() == 9);
        let (_, sealed) = read(&image.bytes, true).unwrap();
        assert_eq!(sealed.records, image.records);
        let end = image.records.keys().map(|at| at.offset + at.len).max().unwrap() as usize;
        let (_, open) = read(&image.bytes[..end.next_multiple_of(PAGE)], true).unwrap();
        assert_eq!(open, Reading { records: image.records, ..Reading::default() });
    }

    /// Whatever single byte is wrong: the record that it belongs to is not read, none is read wrong,
    /// and what a scan does not find it tells.
    #[test]
    fn every_byte_flipped() {
        let image = small();
        let keys = image.head.keys();
        let end = image.records.keys().map(|at| at.offset + at.len).max().unwrap() as usize;
        let unsealed = image.bytes[..end.next_multiple_of(PAGE)].to_vec();
        for (mut bytes, sealed) in [(image.bytes.clone(), true), (unsealed, false)] {
            for at in 0..bytes.len() {
                let here = |p: &&Place| (p.offset..p.offset + p.len).contains(&(at as u32));
                let hit = image.records.keys().find(here);
                bytes[at] ^= 1 << (at % 8);
                assert!(hit.is_none_or(|p| read_one(&bytes, *p, &keys).is_none()), "byte {at}");
                // A scan reads all of it: of the bulk of a payload not every byte is tried.
                if at % 37 == 0 || hit.is_none_or(|p| (at as u32) < p.offset + 24) && at % 4096 < 3000 {
                    let (_, found) = read(&bytes, false).expect("one copy of the head is left");
                    assert!(found.records.iter().all(|r| image.records.get(r.0) == Some(r.1)), "byte {at}");
                    let missing: Vec<&Place> =
                        image.records.keys().filter(|p| !found.records.contains_key(p)).collect();
                    assert!(missing == Vec::from_iter(hit), "byte {at}: {found:?}");
                    let told =
                        !found.damages.is_empty() || !sealed && (found.torn || !found.doubts.is_empty());
                    assert!(missing.is_empty() || told, "byte {at}: {found:?}");
                }
                bytes[at] ^= 1 << (at % 8);
            }
        }
    }

    #[test]
    fn a_torn_end_is_not_damage() {
        let image = build([Op::Append(900), Op::Sync, Op::Append(9000), Op::Append(100)].into_iter());
        let mut bytes = image.bytes.clone();
        let synced = bytes.len() - 8192;
        assert_eq!(image.records.len(), 1);
        for at in synced..bytes.len() {
            bytes[at] ^= 0x55;
            let (_, found) = read(&bytes, false).unwrap();
            let synced = image.records.iter().all(|r| found.records.get(r.0) == Some(r.1));
            assert!(found.damages.is_empty() && synced && found.records.len() < 4, "byte {at}");
            bytes[at] ^= 0x55;
        }
        bytes.truncate(synced + 5000);
        let (_, found) = read(&bytes, true).unwrap();
        assert!(found.torn && found.damages.is_empty());
    }

    #[test]
    fn without_a_footer_a_damaged_record_costs_itself() {
        let run = [Op::Append(300), Op::Append(300), Op::Append(300), Op::Sync];
        let image = build(run.into_iter().chain(run).chain(run));
        let places: Vec<Place> = image.records.keys().copied().collect();
        let lost = |at: u32| {
            let mut bytes = image.bytes.clone();
            bytes[at as usize] ^= 1;
            let (_, found) = read(&bytes, true).unwrap();
            assert_eq!(found.damages.len(), 1, "{found:?}");
            places.iter().filter(|p| !found.records.contains_key(p)).count()
        };
        assert_eq!(lost(places[3].offset + 100), 1, "in a payload");
        assert_eq!(lost(places[3].offset + 5), 1, "in a length");
        assert_eq!(lost(places[5].offset + 5), 1, "in the length of the last of a run");
        assert_eq!(lost(places[3].offset - MARK as u32), 0, "in the mark itself");
        assert_eq!(lost(places[3].offset - MARK as u32 + 5), 0, "in its length");
    }

    /// Nothing says that the last run was durable, and what is behind the damage is found all the same.
    #[test]
    fn in_the_last_run_a_damaged_record_costs_itself_too_and_is_told() {
        let image = build([Op::Append(300), Op::Append(90), Op::Append(300), Op::Sync].into_iter());
        let places: Vec<Place> = image.records.keys().copied().collect();
        for (n, inside) in [(0, 5), (0, 100), (0, 0), (1, 5), (1, 50)] {
            let mut bytes = image.bytes.clone();
            bytes[(places[n].offset + inside) as usize] ^= 1;
            let (_, found) = read(&bytes, true).unwrap();
            assert_eq!(found.doubts, [(places[n].offset, places[n + 1].offset)], "{n} {inside}");
            let lost: Vec<&Place> = places.iter().filter(|p| !found.records.contains_key(p)).collect();
            assert!(lost == [&places[n]] && !found.torn && found.damages.is_empty());
        }
        let mut bytes = image.bytes.clone();
        bytes[places[2].offset as usize] ^= 1;
        let (_, found) = read(&bytes, true).unwrap();
        assert!(found.torn && found.records.len() == 2, "the last one may have been torn: {found:?}");
    }

    /// What looks like heads of long records at every second byte costs a bounded time; then the rest of the
    /// run is given up, and no more.
    #[test]
    fn a_body_full_of_heads_does_not_hold_up_the_search() {
        let image = build([Op::Append(60), Op::Sync].into_iter());
        let keys = image.head.keys();
        let payload: Vec<u8> = (0..100_000u32).map(|n| (n % 2) as u8).collect();
        let record = |id: u64, payload: &[u8]| {
            let head = RecordHead { kind: 1, version: 0, flags: 0, id };
            [&record::encode_head(head, payload, &keys)[..], payload].concat()
        };
        let mut bytes = image.bytes.clone();
        let mut run = |records: &[Vec<u8>]| {
            bytes.extend_from_slice(&mark(bytes.len() as u32, &keys));
            records.iter().for_each(|r| bytes.extend_from_slice(r));
            bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
        };
        let bad = [vec![0; 5], record(7, &payload)[5..].to_vec()].concat();
        run(&[bad, record(8, b"behind it")]);
        run(&[record(9, b"of the next run")]);
        let (_, found) = read(&bytes, false).unwrap();
        let ids: Vec<u64> = found.records.values().map(|r| r.0).collect();
        assert_eq!((&ids[..], found.damages.len()), (&[1, 9][..], 1));
        // Without the heads it is found.
        let at = image.bytes.len() + MARK + 20;
        bytes[at..at + payload.len()].fill(b'x');
        let (_, found) = read(&bytes, false).unwrap();
        let ids: Vec<u64> = found.records.values().map(|r| r.0).collect();
        assert_eq!((&ids[..], found.damages.len()), (&[1, 8, 9][..], 1));
    }

    #[test]
    fn a_body_full_of_records_is_not_read_as_such() {
        // The sender knows the format but not the secret of the segment.
        let image = build([Op::Append(60), Op::Sync, Op::Append(60), Op::Sync].into_iter());
        let mut bytes = image.bytes.clone();
        let keys = Keys::new([7; 16]);
        let head = RecordHead { kind: 1, version: 0, flags: 0, id: 9 };
        let inner = [&record::encode_head(head, b"forged", &keys)[..], b"forged"].concat();
        let at = bytes.len() as u32 + PAGE as u32;
        let body = [inner.repeat(200), mark(at, &keys).to_vec(), inner.repeat(9)].concat();
        let record = [&record::encode_head(head, &body, &keys)[..], &body].concat();
        bytes.extend_from_slice(&record);
        bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
        let (_, found) = read(&bytes, true).unwrap();
        assert!(found.records == image.records && found.torn && found.damages.is_empty());
    }

    proptest! {
        #[test]
        fn the_fuzz_target_holds(data in proptest::collection::vec(any::<u8>(), 0..600)) {
            fuzz_entry(&data);
        }

        #[test]
        fn scans_of_arbitrary_bytes(tail in proptest::collection::vec(any::<u8>(), 0..40_000)) {
            let image = build([Op::Append(10), Op::Sync].into_iter());
            let bytes = [&image.bytes[..], &tail].concat();
            let (_, found) = read(&bytes, true).unwrap();
            prop_assert_eq!(found.records, image.records);
        }
    }
}

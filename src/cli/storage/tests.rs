//! The commands on directories made here: sound, damaged, in use, not there.

use super::*;
use crate::base::time::Wall;
use crate::storage::archive::format::{Head, MARK};
use crate::storage::archive::fuzz::{self, Op};
use crate::storage::model::Model;
use crate::storage::{Options, RecordHead, Urgency};
use serde_json::Value;
use std::fs;

/// A data directory with a journal of two records and an archive of two segments.
fn data() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("queue/0003");
    fs::create_dir_all(log.join("archive")).unwrap();
    let mut m = Model::open(&Options::tiny(), Vec::new(), 1, |_| {}).unwrap();
    for id in [1 << 20, 2 << 20] {
        let head = RecordHead { kind: 9, version: 1, flags: 0, id };
        drop(m.journal.stage(head, &[b"a body\r\nof two lines"], None, Urgency::NewMail).unwrap());
        m.settle();
    }
    for (i, bytes) in m.files.iter().enumerate() {
        fs::write(log.join(format!("{:08}.segment", i + 1)), bytes).unwrap();
    }
    let image = fuzz::build([Op::Append(300), Op::Append(70), Op::Sync, Op::Append(9), Op::Seal].into_iter());
    fs::write(log.join("archive/00000001.archive"), &image.bytes).unwrap();
    let begun = Head { log: image.head.log, number: 2, begun: Wall(1000), nonce: [1; 16] };
    fs::write(log.join("archive/00000002.archive"), begun.bytes().bytes()).unwrap();
    dir
}

fn verify(dir: &Path) -> (Exit, Value) {
    let mut out = Vec::new();
    let exit = verify::run(dir, true, &mut out).unwrap();
    (exit, serde_json::from_slice(&out).unwrap())
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_sound_directory() {
    let dir = data();
    let (exit, v) = verify(dir.path());
    assert_eq!((exit, &v["sound"], &v["damage_count"]), (Exit::Ok, &true.into(), &0.into()), "{v}");
    let log = &v["logs"][0];
    assert_eq!(
        (&log["log"], &log["records"], &log["archive_records"]),
        (&3.into(), &2.into(), &3.into()),
        "{v}"
    );
    let mut out = Vec::new();
    assert_eq!(verify::run(dir.path(), false, &mut out).unwrap(), Exit::Ok);
    assert!(String::from_utf8(out).unwrap().ends_with("sound: nothing is damaged\n"));
}

#[test]
fn damages_are_told_with_file_bytes_and_ids() {
    let dir = data();
    let log = dir.path().join("queue/0003");
    let archive = log.join("archive/00000001.archive");
    flip(&archive, 8192 + MARK + 40);
    flip(&archive, 5000);
    let (exit, v) = verify(dir.path());
    assert_eq!((exit, v["damage_count"].as_u64()), (Exit::Data, Some(2)), "{v}");
    let damage = &v["logs"][0]["damages"][1];
    assert!(damage["file"].as_str().unwrap().ends_with("00000001.archive"), "{v}");
    assert_eq!((damage["from"].as_u64(), damage["to"].as_u64()), (Some(8220), Some(8540)), "{v}");
    assert_eq!(damage["ids"][0].as_str(), Some("00000000000103"), "{v}");
    // The first of two batches: the second one vouches for it.
    flip(&log.join("00000001.segment"), 8192 + 60);
    let (exit, v) = verify(dir.path());
    assert_eq!((exit, v["damage_count"].as_u64()), (Exit::Data, Some(3)), "{v}");
    assert_eq!(v["logs"][0]["damages"][0]["what"], "batches 1..2 are lost", "{v}");
    let mut out = Vec::new();
    verify::run(dir.path(), false, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("bytes 8192..12288: batches 1..2 are lost"), "{text}");
    assert!(text.ends_with("damages: 3\n"), "{text}");
}

#[test]
fn what_is_shown() {
    let dir = data();
    let mut out = Vec::new();
    assert_eq!(show::run(dir.path(), true, &mut out).unwrap(), Exit::Ok);
    let v: Value = serde_json::from_slice(&out).unwrap();
    let log = &v["logs"][0];
    assert_eq!(
        (&log["segments"][0]["sequence"], &log["segments"][0]["state"]),
        (&1.into(), &"in the log".into())
    );
    assert_eq!((&log["archive"][0]["records"], &log["archive"][0]["state"]), (&3.into(), &"finished".into()));
    assert_eq!(
        (&log["archive"][1]["records"], &log["archive"][1]["state"]),
        (&Value::Null, &"unfinished".into())
    );
    let mut out = Vec::new();
    show::run(dir.path(), false, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("00000001.segment     64 KiB sequence 1 epoch 1 in the log"), "{text}");
    assert!(text.contains("records 3 finished"), "{text}");
}

fn dump(file: &Path, payload: bool, json: bool) -> (Exit, String) {
    let mut out = Vec::new();
    let exit = dump::run(&DumpArgs { file: file.to_owned(), payload, json }, &mut out).unwrap();
    (exit, String::from_utf8(out).unwrap())
}

#[test]
fn segments_are_dumped() {
    let dir = data();
    let log = dir.path().join("queue/0003");
    let journal = log.join("00000001.segment");
    let (exit, text) = dump(&journal, false, false);
    assert_eq!(exit, Exit::Ok);
    assert!(text.contains("batch 1, length 4096, records 1\n"), "{text}");
    assert!(text.contains("kind 9 version 1 flags 0 id 1048576 length 20\n"), "{text}");
    assert!(!text.contains("a body"), "only when it is asked for: {text}");
    let (_, text) = dump(&journal, true, false);
    assert!(text.contains("| a body\\r\\n\n") && text.contains("| of two lines\n"), "{text}");
    // Under any name.
    let other = dir.path().join("copy");
    fs::copy(log.join("archive/00000001.archive"), &other).unwrap();
    let (exit, text) = dump(&other, false, true);
    assert_eq!(exit, Exit::Ok);
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        (lines.len(), &lines[0]["archive"], &lines[1]["length"]),
        (4, &1.into(), &300.into()),
        "{text}"
    );
    flip(&other, 8192 + MARK + 40);
    let (exit, text) = dump(&other, false, false);
    assert!(exit == Exit::Data && text.contains("8220 damaged up to 8540"), "{text}");
}

#[test]
fn what_cannot_be_done_has_an_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let code = |result: Result<Exit, Failure>| result.map_err(|f| f.exit);
    let out = &mut Vec::new();
    assert_eq!(code(verify::run(dir.path(), false, out)), Err(Exit::NoInput));
    assert_eq!(code(show::run(&dir.path().join("nowhere"), false, out)), Err(Exit::NoInput));
    let file = dir.path().join("noise");
    fs::write(&file, [7; 9000]).unwrap();
    let args = DumpArgs { file, payload: false, json: false };
    assert_eq!(code(dump::run(&args, out)), Err(Exit::Data));
    assert!(!dir.path().join("lock").exists(), "nothing is made where nothing is");
}

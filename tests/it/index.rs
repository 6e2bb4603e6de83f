//! The index of a long queue: made anew by `ringpost storage reindex`, copied by `copy-index`, damaged
//! by whatever damages files.

#![allow(clippy::disallowed_methods, reason = "copies and damages files")]

use crate::harness::server::{PROGRAM, directory};
use crate::harness::{Config, Hop, Server, until};
use ringpost::load::{Stop, source};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

const MESSAGES: u64 = 4000;

/// A short journal, so that most of a queue is in archive and index.
fn config() -> Config {
    let config = Config::new(Hop::later()).set("storage", "journal_limit", "\"16MiB\"");
    config.set("storage", "journal_window", "\"2MiB\"")
}

/// A server with mail that waits, most of it parked; and the queue ids.
fn waiting() -> (Server, BTreeSet<String>) {
    let server = Server::start_in(Arc::new(directory()), &config());
    let mut load = source::Options::new(server.smtp);
    load.messages = Some(MESSAGES);
    load.connections = 8;
    load.size = 1024;
    let report = source::run(&load, &Stop::default()).expect("the source works");
    assert_eq!(report.acknowledged, MESSAGES, "{report:?}");
    // And nothing moves any more.
    let mut before = Vec::new();
    until("most of it to be parked", || {
        let stats = server.queue(&["stats"]);
        let stats: Vec<u64> = ["parked", "journal_segments", "index_bytes", "archive_bytes"]
            .map(|key| stats[0][key].as_u64().expect("a number"))
            .into();
        let quiet = stats == std::mem::replace(&mut before, stats.clone());
        if !quiet {
            std::thread::sleep(Duration::from_secs(1));
        }
        (quiet && stats[0] >= MESSAGES / 2).then_some(())
    });
    let ids = ids(&server);
    assert_eq!(ids.len() as u64, MESSAGES);
    (server, ids)
}

fn ids(server: &Server) -> BTreeSet<String> {
    server.queue(&["list"]).iter().map(|m| m["queue_id"].as_str().expect("an id").to_owned()).collect()
}

fn storage(dir: &Path, words: &[&str]) -> Output {
    let config = dir.join("ringpost.toml");
    Command::new(PROGRAM).arg("storage").args(words).arg("-c").arg(config).output().expect("it runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

fn index(dir: &Path) -> PathBuf {
    dir.join("data/queue/0000/index")
}

fn started_sound(dir: Arc<tempfile::TempDir>) -> Server {
    let server = Server::start_in(dir, &config());
    server.event("queue_loaded");
    let bad = |l: &String| l.contains("index_lost") || l.contains("index_damaged") || l.contains("alarm");
    assert!(!server.lines().iter().any(bad), "{:?}", server.lines());
    server
}

#[test]
fn an_index_is_made_anew_by_hand_and_nobody_notices() {
    let (server, ids_before) = waiting();
    let busy = storage(server.dir().path(), &["reindex"]);
    assert_eq!(busy.status.code(), Some(75), "{busy:?}");
    let dir = server.stop();
    // Whatever is there.
    std::fs::write(index(dir.path()), b"damaged").expect("written");
    let made = storage(dir.path(), &["reindex", "--json"]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let log = &json(&made)["logs"][0];
    let number = |key: &str| log[key].as_u64().unwrap_or_else(|| panic!("{key}: {log}"));
    assert_eq!(number("journal_messages") + number("archive_messages"), MESSAGES, "{log}");
    assert!(number("archive_messages") >= MESSAGES / 2, "{log}");
    assert_eq!((number("may_be_sent_again"), number("not_in_archive")), (number("archive_messages"), 0));
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(said.contains("archive segments read"), "{said}");
    let server = started_sound(dir);
    assert_eq!(ids(&server), ids_before);
    // What may have been sent before is still in doubt.
    let doubt = server.queue(&["list", "--in-doubt"]).len() as u64;
    assert_eq!(doubt, number("archive_messages"), "{doubt} in doubt");
    let dir = server.stop();
    let text = storage(dir.path(), &["reindex"]);
    assert!(text.status.success(), "{text:?}");
    assert!(String::from_utf8_lossy(&text.stdout).starts_with("log 0000: "), "{text:?}");
    let elsewhere = storage(dir.path(), &["reindex", "--data-dir", "/nowhere"]);
    assert_eq!(elsewhere.status.code(), Some(66), "{elsewhere:?}");
}

#[test]
fn an_index_is_copied_while_the_server_runs() {
    let (server, ids_before) = waiting();
    let copies = server.dir().path().join("copies");
    let copy =
        |server: &Server| storage(server.dir().path(), &["copy-index", copies.to_str().unwrap(), "--json"]);
    let nowhere = copy(&server);
    assert_eq!(nowhere.status.code(), Some(73), "{nowhere:?}");
    std::fs::create_dir(&copies).expect("made");
    let copied = copy(&server);
    assert_eq!(copied.status.code(), Some(0), "{copied:?}");
    let file = copies.join("0000.index");
    assert_eq!(json(&copied)["copies"][0]["path"], file.to_str().unwrap());
    assert!(file.metadata().expect("a file").len() > 0);
    let again = copy(&server);
    assert_eq!(again.status.code(), Some(73), "{again:?}");
    let dir = server.stop();
    let none = storage(dir.path(), &["copy-index", copies.to_str().unwrap()]);
    assert_eq!(none.status.code(), Some(69), "{none:?}");
    // Nothing has left the journal since: it is as good as the original.
    std::fs::copy(&file, index(dir.path())).expect("copied");
    let server = started_sound(dir);
    assert_eq!(ids(&server), ids_before);
    server.stop();
}

/// Places all over the file: each page of its beginning, then one in each of many equal parts.
fn places(len: u64) -> Vec<u64> {
    let start = [0, 9, 64, 130, 4096, 4200];
    let rest = (0..12).map(|n| n * len / 12 + 1234 + 577 * n);
    start.into_iter().chain(rest).filter(|at| *at < len).collect()
}

#[test]
fn a_damaged_index_costs_no_mail_and_no_start() {
    let (server, before) = waiting();
    let dir = server.stop();
    let good = std::fs::read(index(dir.path())).expect("a file");
    let mut lost = 0;
    for (n, at) in places(good.len() as u64).into_iter().enumerate() {
        let mut bad = good.clone();
        let at = at as usize;
        match n % 3 {
            0 => bad[at] ^= 1 << (n % 8),
            1 => bad[at..(at + 4096).min(good.len())].fill(0),
            _ => bad.truncate(at),
        }
        let copy = Arc::new(directory());
        let words = [dir.path().join("data"), copy.path().join("data")];
        assert!(Command::new("cp").arg("-a").args(words).status().expect("cp runs").success());
        std::fs::write(index(copy.path()), bad).expect("written");
        let server = Server::start_in(copy, &config());
        server.event("queue_loaded");
        lost += u32::from(server.lines().iter().any(|l| l.contains("index_lost")));
        assert_eq!(ids(&server), before, "damage {n} at {at}");
        // It is a sound one from now on, also after a kill.
        started_sound(server.kill()).kill();
    }
    assert!(lost >= 6, "only {lost} of them were damages");
}

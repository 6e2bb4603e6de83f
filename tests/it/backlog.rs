//! A next hop is down and mail for it piles up: what waits for long goes into archive and index,
//! others notice nothing, nothing is lost, and it is worked off when the hop is back.

#![allow(clippy::disallowed_methods, reason = "tests copy and damage data directories, and read /proc")]

use crate::harness::server::directory;
use crate::harness::{Config, Hop, PATIENCE, Server, until};
use ringpost::load::ledger::Entry;
use ringpost::load::{Stop, audit, sink, source};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is done to the file of an index.
type Harm<'a> = &'a dyn Fn(&Path);

const FROM: &str = "a@client.test";
const BODY: &[u8] = b"Subject: for the archive\r\n\r\n.dots stay\r\n";
/// Bytes of a message of the load.
const SIZE: u64 = 1024;

/// A journal of a few segments, all mail for `down`, but for `routes`.
fn config(down: SocketAddr, routes: &[(&str, SocketAddr)]) -> Config {
    let mut config = Config::new(down).set("storage", "journal_limit", "\"16MiB\"").set(
        "storage",
        "journal_window",
        "\"2MiB\"",
    );
    for (domain, hop) in routes {
        config.tail += &format!("[[route]]\ndomain = \"{domain}\"\nnext_hop = \"{hop}\"\ntls = \"none\"\n");
    }
    config
}

fn load(to: SocketAddr, messages: u64, ledger: &Path) -> source::Options {
    let mut load = source::Options::new(to);
    load.messages = Some(messages);
    load.connections = 8;
    load.size = SIZE;
    load.ledger = Some(ledger.to_owned());
    load
}

/// Sends `messages` and sees them acknowledged.
fn fill(server: &Server, messages: u64, ledger: &Path) {
    let report =
        source::run(&load(server.smtp, messages, ledger), &Stop::default()).expect("the source works");
    assert_eq!(report.acknowledged, messages, "{report:?}");
}

/// Queue ids of what was acknowledged.
fn acknowledged(ledger: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(ledger).expect("a ledger");
    let entries = text.lines().filter_map(Entry::parse);
    entries.filter(|e| !e.status.starts_with(['-', '?', '!'])).map(|e| e.status.to_owned()).collect()
}

/// Queue ids in a list, each of which must be in it once.
fn ids(server: &Server, words: &[&str]) -> BTreeSet<String> {
    let list = server.queue(words);
    let ids: BTreeSet<String> =
        list.iter().map(|m| m["queue_id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(ids.len(), list.len(), "messages are listed more than once");
    ids
}

/// The number in front of `what` in the text of an event.
fn number(text: &str, what: &str) -> u64 {
    let before = text.split(what).next().expect("text").trim_end();
    before.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{what}: {text}"))
}

/// Waits until the index has been read; gives how many recipients are in doubt altogether.
fn loaded(server: &Server) -> u64 {
    let opened = number(&server.event("queue_opened"), "recipients in doubt");
    opened + number(&server.event("queue_loaded"), "recipients of them in doubt")
}

/// A value of `/proc/PID/status` in KiB.
fn memory(server: &Server, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("a process");
    let line = text.lines().find(|l| l.starts_with(name)).expect("a line");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

/// The most memory that the server takes while `f` runs, beyond what it has before, in KiB.
fn grows(server: &Server, f: impl FnOnce()) -> u64 {
    std::fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").expect("the peak is reset");
    let before = memory(server, "VmRSS:");
    f();
    memory(server, "VmHWM:").saturating_sub(before)
}

fn queue_dir(dir: &Path) -> PathBuf {
    dir.join("data/queue/0000")
}

/// Bytes of the archive's files.
fn archive_bytes(dir: &Path) -> u64 {
    let files = std::fs::read_dir(queue_dir(dir).join("archive")).expect("an archive");
    files.map(|f| f.expect("a file").metadata().map_or(0, |m| m.len())).sum()
}

fn sink(at: SocketAddr, ledger: &Path) -> sink::Running {
    let options = sink::Options { ledger: Some(ledger.to_owned()), ..sink::Options::default() };
    let (sink, _) = sink::Sink::bind(at, options).expect("a free port");
    sink.spawn().expect("a thread")
}

/// Waits until the sink has `messages`. More patient than `until`: there are many.
fn arrived(sink: &sink::Running, messages: u64) {
    let begun = Instant::now();
    while sink.counters().messages.get() < messages {
        let n = sink.counters().messages.get();
        assert!(begun.elapsed() < 4 * PATIENCE, "{n} of {messages} came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Tells the destination of `address` that it is back.
fn flush(server: &Server, hop: SocketAddr) {
    let stats = server.queue(&["stats"]);
    let destinations = stats[0]["destinations"].as_array().expect("a list").iter();
    let mut names = destinations.filter_map(|d| d["name"].as_str());
    let name = names.find(|n| n.contains(&hop.to_string())).unwrap_or_else(|| panic!("{stats:?}"));
    server.queue(&["flush", "--destination", name]);
}

/// Operators at work on a message that is parked; then it is gone.
fn operate(server: &Server, id: &str) {
    let cat = server.run(&["queue", "cat", id]).stdout;
    assert!(cat.starts_with(b"Received: ") && cat.ends_with(BODY), "{}", String::from_utf8_lossy(&cat));
    assert_eq!(server.queue(&["hold", id, "--reason", "test"])[0]["changed"], 1);
    assert_eq!(server.queue(&["show", id])[0]["queue_name"], "hold");
    assert_eq!(server.queue(&["release", id])[0]["changed"], 1);
    assert_eq!(server.queue(&["show", id])[0]["queue_name"], "deferred");
    assert_eq!(server.queue(&["delete", id])[0]["changed"], 1);
    assert_eq!(server.run(&["queue", "show", id]).status.code(), Some(65));
}

#[test]
fn a_backlog_piles_up_and_is_worked_off() {
    const MESSAGES: u64 = 20_000;
    let dir = Arc::new(directory());
    let (sent, received) = (dir.path().join("sent"), dir.path().join("received"));
    let (down, hop, never) = (Hop::later(), Hop::start(), Hop::later());
    let config = config(down, &[("live.test", hop.address), ("never.test", never)]);
    let server = Server::start_in(dir.clone(), &config);
    let mut client = server.client();
    let [mine, other] = [(); 2].map(|()| client.mail(FROM, &["x@never.test"], BODY));
    fill(&server, MESSAGES, &sent);

    until("most of it to be parked, the journal in its window", || {
        let parked = server.metric("ringpost_queue_parked", "") >= 0.8 * MESSAGES as f64;
        (parked && server.metric("ringpost_journal_segments", "") <= 3.0).then_some(())
    });
    let stats = &server.queue(&["stats"])[0];
    assert!(stats["parked"].as_u64() >= Some(MESSAGES / 5 * 4), "{stats}");
    // Others notice nothing.
    server.client().mail(FROM, &["y@live.test"], BODY);
    assert!(hop.one().content().ends_with(BODY));
    let mut all = acknowledged(&sent);
    all.extend([mine.clone(), other.clone()]);
    let grown = grows(&server, || assert_eq!(ids(&server, &["list"]), all));
    assert!(grown < 16 << 10, "a list of the queue costs {grown} KiB");
    operate(&server, &mine);
    all.remove(&mine);

    // A restart takes mail at once, and knows everything.
    let server = Server::start_in(server.stop(), &config);
    server.client().mail(FROM, &["z@live.test"], BODY);
    hop.wait(2);
    assert_eq!(loaded(&server), 0, "nothing was in flight");
    assert_eq!(ids(&server, &["list"]), all);
    assert!(server.queue(&["list", "--in-doubt"]).is_empty());
    operate(&server, &other);

    assert!(archive_bytes(dir.path()) > MESSAGES * SIZE / 2);
    let sink = sink(down, &received);
    flush(&server, down);
    arrived(&sink, MESSAGES);
    server.drained();
    until("the archive to be given back", || (archive_bytes(dir.path()) < 3 << 20).then_some(()));
    server.stop();
    sink.finish().expect("a ledger");
    let verdict = audit::compare(&sent, &received, &audit::Excuses::default()).expect("ledgers");
    let found = (verdict.lost, verdict.duplicates, verdict.invented, verdict.altered, verdict.delivered);
    assert_eq!(found, (0, 0, 0, 0, MESSAGES), "{}", verdict.explain());
}

#[test]
fn nothing_is_lost_by_kill_9_while_it_piles_up_and_is_worked_off() {
    const MESSAGES: u64 = 8000;
    let dir = Arc::new(directory());
    let (sent, received) = (dir.path().join("sent"), dir.path().join("received"));
    let (down, address) = (Hop::later(), Hop::later());
    let mut config = config(down, &[]);
    config.tail += &format!("[[listener]]\nprotocol = \"smtp\"\naddress = \"{address}\"\n");
    let mut server = Server::start_in(dir.clone(), &config);
    let mut load = load(address, MESSAGES, &sent);
    load.messages_per_connection = 200;
    load.retry_connect = PATIENCE;
    let source = std::thread::spawn(move || source::run(&load, &Stop::default()).expect("the source works"));
    let mut in_doubt = 0;
    for _ in 0..2 {
        until("some of it to be parked", || {
            (server.metric("ringpost_queue_parked", "") >= 300.0).then_some(())
        });
        server.kill();
        server = Server::start_in(dir.clone(), &config);
        in_doubt += loaded(&server);
    }
    let report = source.join().expect("no panic");
    assert!(report.acknowledged > MESSAGES / 2, "{report:?}");
    let waiting = ids(&server, &["list"]);
    assert!(acknowledged(&sent).is_subset(&waiting), "lost while it piled up");

    let sink = sink(down, &received);
    for part in 1..=3 {
        flush(&server, down);
        let some = sink.counters().messages.get() + report.acknowledged / 5;
        arrived(&sink, if part == 3 { report.acknowledged } else { some });
        if part < 3 {
            server.kill();
            server = Server::start_in(dir.clone(), &config);
            in_doubt += loaded(&server);
        }
    }
    server.flushed();
    assert!(server.lines().iter().all(|l| !l.contains("damaged") && !l.contains("index_lost")));
    server.stop();
    sink.finish().expect("a ledger");
    let verdict = audit::compare(&sent, &received, &audit::Excuses::default()).expect("ledgers");
    let says = verdict.explain();
    assert_eq!((verdict.lost, verdict.invented, verdict.altered), (0, 0, 0), "{says}");
    assert!(verdict.duplicates <= in_doubt, "{} twice, {in_doubt} in doubt\n{says}", verdict.duplicates);
}

/// Copies a data directory; its server must be down.
fn copied(from: &Path) -> Arc<tempfile::TempDir> {
    let dir = directory();
    let words = [from.join("data"), dir.path().join("data")];
    assert!(Command::new("cp").arg("-a").args(words).status().expect("cp runs").success());
    Arc::new(dir)
}

#[test]
fn an_index_that_is_lost_is_made_anew() {
    let dir = Arc::new(directory());
    let (first, second) = (dir.path().join("sent-1"), dir.path().join("sent-2"));
    let down = Hop::later();
    let plain = config(down, &[]);
    let server = Server::start_in(dir.clone(), &plain);
    fill(&server, 3000, &first);
    until("some of it to be parked", || (server.metric("ringpost_queue_parked", "") >= 1200.0).then_some(()));
    server.stop();
    let (index, old) = (queue_dir(dir.path()).join("index"), dir.path().join("index.old"));
    std::fs::copy(&index, &old).expect("a copy");

    let server = Server::start_in(dir.clone(), &plain);
    let gone: Vec<String> = ids(&server, &["list"]).into_iter().take(10).collect();
    let deleted: Vec<&str> = gone.iter().map(String::as_str).collect();
    assert_eq!(server.queue(&[&["delete"], &deleted[..]].concat())[0]["changed"], 10);
    fill(&server, 3000, &second);
    until("more of it to be parked", || (server.metric("ringpost_queue_parked", "") >= 4000.0).then_some(()));
    server.stop();
    let mut kept = acknowledged(&first);
    kept.extend(acknowledged(&second));
    gone.iter().for_each(|id| assert!(kept.remove(id)));

    let damage: [(&str, Harm<'_>); 4] = [
        ("deleted", &|index| std::fs::remove_file(index).expect("removed")),
        ("half", &|index| {
            let file = std::fs::OpenOptions::new().write(true).open(index).expect("a file");
            file.set_len(file.metadata().expect("a file").len() / 2).expect("truncated");
        }),
        ("garbage", &|index| std::fs::write(index, vec![0x5a; 1 << 20]).expect("written")),
        ("old", &|index| std::fs::copy(&old, index).map(drop).expect("copied")),
    ];
    for (what, damage) in damage {
        let dir = copied(dir.path());
        damage(&queue_dir(dir.path()).join("index"));
        let server = Server::start_in(dir, &plain);
        server.event("index_lost");
        let again = number(&server.event("index_rebuilt"), "messages may be sent again");
        let in_doubt = loaded(&server);
        assert!(again >= 3900 && in_doubt >= again, "{what}: {again} again, {in_doubt} in doubt");
        let list = ids(&server, &["list"]);
        assert!(kept.is_subset(&list), "{what}: {} are lost", kept.difference(&list).count());
        assert!(list.len() <= kept.len() + gone.len(), "{what}: {} messages", list.len());
        assert!(ids(&server, &["list", "--in-doubt"]).len() as u64 >= again, "{what}");
        // It is a sound one from now on.
        let server = Server::start_in(server.kill(), &plain);
        loaded(&server);
        assert!(server.lines().iter().all(|l| !l.contains("index_lost")), "{what}: {:?}", server.lines());
        assert_eq!(ids(&server, &["list"]), list, "{what}");
    }
    // As it was, nobody comes back; and the bodies are what was sent, each once.
    let (sent, received, excused) =
        (dir.path().join("sent"), dir.path().join("received"), dir.path().join("deleted"));
    std::fs::write(&sent, joined(&first, &second)).expect("a ledger");
    std::fs::write(&excused, gone.join("\n")).expect("a list");
    let hop = Hop::later();
    let sink = sink(hop, &received);
    let server = Server::start_in(dir.clone(), &config(hop, &[]));
    assert_eq!(loaded(&server), 0);
    server.queue(&["flush", "--all"]);
    arrived(&sink, kept.len() as u64);
    server.drained();
    server.stop();
    sink.finish().expect("a ledger");
    let excuses = audit::Excuses { queued: Some(excused), ..audit::Excuses::default() };
    let verdict = audit::compare(&sent, &received, &excuses).expect("ledgers");
    let found = (verdict.lost, verdict.duplicates, verdict.invented, verdict.altered, verdict.delivered);
    assert_eq!(found, (0, 0, 0, 0, kept.len() as u64), "{}", verdict.explain());
}

/// Two ledgers as one.
fn joined(first: &Path, second: &Path) -> String {
    let [first, second] = [first, second].map(|p| std::fs::read_to_string(p).expect("a ledger"));
    first + second.split_once('\n').expect("a heading").1
}

//! The number of mail cores changes from one start to the next: each log finds a core.

#![allow(clippy::disallowed_methods, reason = "the test looks at the data directory")]

use crate::crash::number;
use crate::harness::{Config, Hop, Server, until};
use ringpost::load::{Stop, audit, sink, source};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const FROM: &str = "sender@client.test";
const TO: &str = "rcpt@next.test";
const BODY: &[u8] = b"Subject: queued\r\n\r\nhello\r\n";

fn cores(config: &Config, n: u32) -> Config {
    config.clone().set("cores", "mta", n.to_string())
}

/// The folders of logs, by name.
fn logs(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("data/queue")).expect("a queue").map_while(Result::ok);
    let dirs = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    let mut names: Vec<String> = dirs.map(|e| e.file_name().into_string().expect("ASCII")).collect();
    names.sort();
    names
}

/// Waits until all logs beyond `cores` have been adopted.
fn adopted(server: &Server, before: &[String], cores: usize) {
    for log in before.iter().skip(cores) {
        let core = log.parse::<usize>().expect("a number") % cores;
        server.event_with("log_adopted", &format!("log {log} adopted by core {core}: "));
    }
}

/// Takes mail on all of four cores; the number of messages in each log by id.
fn fill(server: &Server) -> BTreeMap<String, Vec<String>> {
    let mut by_log: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // The kernel spreads connections over the cores by chance.
    for _ in 0..400 {
        let id = server.client().mail(FROM, &[TO], BODY);
        by_log.entry(id[12..].to_owned()).or_default().push(id);
        if by_log.len() == 4 && by_log.values().all(|ids| ids.len() > 2) {
            return by_log;
        }
    }
    panic!("some cores get no connections: {by_log:?}");
}

#[test]
fn fewer_cores_send_what_more_cores_have_taken() {
    for orderly in [true, false] {
        let nobody = Hop::later();
        let config = Config::new(nobody);
        let server = Server::start(&cores(&config, 4));
        let by_log = fill(&server);
        let ids: Vec<&String> = by_log.values().flatten().collect();
        let dir = if orderly { server.stop() } else { server.kill() };
        assert_eq!(logs(dir.path()), ["0000", "0001", "0002", "0003"]);

        let server = Server::start_in(dir, &cores(&config, 2));
        for (log, core) in [(2, 0), (3, 1)] {
            let count = by_log.values().nth(log).unwrap().len();
            let text = format!("log {log:04} adopted by core {core}: {count} messages");
            server.event_with("log_adopted", &text);
        }
        for id in &ids {
            server.listed(id, |m| m["recipients"][0]["address"] == TO);
        }
        assert_eq!(server.queue(&["list"]).len(), ids.len(), "each once");
        let stats = server.queue(&["stats"]);
        assert_eq!(stats.iter().map(|s| s["log"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 2, 1, 3]);
        until("the gauges of all logs", || {
            (server.metric("ringpost_queue_messages", "state=\"all\"") == ids.len() as f64).then_some(())
        });
        assert!(server.metric("ringpost_queue_messages", "core=\"3\",state=\"all\"") >= 3.0);
        // Requests find the log by the id.
        let last = *ids.last().unwrap();
        let cat = server.run(&["queue", "cat", last]).stdout;
        assert!(cat.ends_with(BODY), "{}", String::from_utf8_lossy(&cat));
        assert_eq!(server.queue(&["hold", last])[0]["changed"], 1);
        server.listed(last, |m| m["queue_name"] == "hold");
        assert_eq!(server.queue(&["release", last])[0]["changed"], 1);

        let hop = Hop::on(nobody);
        // New mail goes the same way meanwhile, into the logs of the cores that there are.
        let new = server.client().mail(FROM, &[TO], BODY);
        assert!(["00", "01"].contains(&&new[12..]), "{new}");
        server.flushed();
        for log in ["0002", "0003"] {
            server.event_with("log_removed", &format!("log {log} is empty and removed"));
        }
        assert_eq!(logs(server.dir().path()), ["0000", "0001"]);
        let mails = hop.mails();
        assert_eq!(mails.len(), ids.len() + 1);
        for id in ids.iter().copied().chain([&new]) {
            let times = mails.iter().filter(|m| m.split().0.contains(&format!(" id {id}"))).count();
            assert_eq!(times, 1, "{id}");
        }
        until("the gauge of an empty queue", || {
            (server.metric("ringpost_queue_messages", "state=\"all\"") == 0.0).then_some(())
        });

        // And back: the logs begin anew.
        let server = Server::start_in(server.stop(), &cores(&config, 4));
        let by_log_again = fill(&server);
        server.drained();
        let again: usize = by_log_again.values().map(Vec::len).sum();
        assert_eq!(hop.mails().len(), mails.len() + again);
        assert!(by_log_again.values().flatten().all(|id| !ids.contains(&id)));
        let dir = server.stop();
        assert_eq!(logs(dir.path()), ["0000", "0001", "0002", "0003"]);
        assert!(!format!("{:?}", logs(dir.path())).contains("removed"));
    }
}

#[test]
fn what_is_wrong_with_a_log_to_adopt_stops_the_start() {
    let config = Config::new(Hop::later());
    let dir = Server::start(&cores(&config, 2)).stop();
    let segment = dir.path().join("data/queue/0001/00000001.segment");
    let mut bytes = std::fs::read(&segment).unwrap();
    for at in [0, 4096] {
        let copy = &mut bytes[at..at + 4096];
        copy[12] = 9;
        let crc = ringpost::base::crc::crc32c(ringpost::base::crc::PLAIN, &[&copy[12..]]);
        copy[8..12].copy_from_slice(&crc.to_le_bytes());
    }
    std::fs::write(&segment, bytes).unwrap();
    let file = dir.path().join("ringpost.toml");
    std::fs::write(&file, cores(&config, 1).text(dir.path())).unwrap();
    let program = crate::harness::server::PROGRAM;
    let out = std::process::Command::new(program).args(["serve", "-c"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(71), "{said}");
    assert!(said.contains("queue/0001: the data has format version 9"), "{said}");
}

/// Eight cores, four, eight, four, with a full queue, under load, and killed in between: the ledgers
/// of source and sink are compared.
#[test]
fn nothing_is_lost_when_cores_come_and_go_under_load() {
    let dir = Arc::new(crate::harness::server::directory());
    let (sent, received) = (dir.path().join("sent"), dir.path().join("received"));
    let (address, next_hop) = (Hop::later(), Hop::later());
    let mut config = Config::new(next_hop);
    config.tail = format!("[[listener]]\nprotocol = \"smtp\"\naddress = \"{address}\"\n");
    let stop = Stop::default();
    let mut load = source::Options::new(address);
    load.messages = None;
    load.connections = 16;
    load.messages_per_connection = 20;
    load.rate = Some(300.0);
    load.duration = Some(Duration::from_secs(120));
    load.retry_connect = Duration::from_secs(30);
    load.timeout = Duration::from_secs(30);
    load.ledger = Some(sent.clone());
    let ending = stop.clone();

    let server = Server::start_in(dir.clone(), &cores(&config, 8));
    let source = std::thread::spawn(move || source::run(&load, &ending).expect("the source works"));
    until("a full queue", || (server.metric("ringpost_messages_received_total", "") >= 500.0).then_some(()));
    server.stop();
    let options = sink::Options { ledger: Some(received.clone()), ..sink::Options::default() };
    let sink = sink::Sink::bind(next_hop, options).expect("the address is free").0.spawn().unwrap();

    let mut in_doubt = 0;
    let mut begin = |n: u32| {
        let before = logs(dir.path());
        let server = Server::start_in(dir.clone(), &cores(&config, n));
        adopted(&server, &before, n as usize);
        for line in server.lines() {
            assert!(!line.contains("damaged") && !line.contains("log_kept"), "{line}");
            if line.contains("\"queue_opened\"") || line.contains("\"log_adopted\"") {
                in_doubt += number(&line, "recipients in doubt");
            }
        }
        server
    };
    for n in [4, 8] {
        let server = begin(n);
        server.queue(&["flush", "--all"]);
        let goal = sink.counters().messages.get() + 200;
        until("some mail to go through", || (sink.counters().messages.get() >= goal).then_some(()));
        server.kill();
    }
    let server = begin(4);
    stop.set();
    let report = source.join().unwrap();
    server.flushed();
    until("the logs of four cores", || (logs(dir.path()).len() == 4).then_some(()));
    server.stop();
    sink.finish().unwrap();

    let verdict = audit::compare(&sent, &received, &audit::Excuses::default()).unwrap();
    let says = verdict.explain();
    assert!(report.acknowledged >= 400, "{report:?}");
    assert_eq!((verdict.lost, verdict.invented, verdict.altered), (0, 0, 0), "{says}");
    // What was in flight at a kill may come twice, nothing else.
    assert!(verdict.duplicates <= in_doubt, "{} twice, {in_doubt} in doubt\n{says}", verdict.duplicates);
}

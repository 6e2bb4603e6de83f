//! The promise of the 250 against SIGKILL: the server dies under load, again and again, and the
//! ledgers of source and sink are compared.

#![allow(clippy::disallowed_methods, reason = "the test writes a list for the audit")]

use crate::harness::{Config, Hop, Server, until};
use ringpost::load::{Stop, audit, sink, source};
use std::sync::Arc;
use std::time::Duration;

const CYCLES: u64 = 5;
/// Messages delivered between two kills.
const STEP: u64 = 300;

/// The number in front of `what` in the text of an event.
pub fn number(text: &str, what: &str) -> u64 {
    let before = text.split(what).next().expect("text").trim_end();
    before.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{what}: {text}"))
}

#[test]
fn nothing_is_lost_by_kill_9_under_load() {
    let dir = Arc::new(crate::harness::server::directory());
    let (sent, received) = (dir.path().join("sent"), dir.path().join("received"));
    let options = sink::Options { ledger: Some(received.clone()), ..sink::Options::default() };
    let (sink, next_hop) = sink::Sink::bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
    let sink = sink.spawn().unwrap();
    let address = Hop::later();
    let mut config = Config::new(next_hop).set("cores", "mta", "2");
    config.tail = format!("[[listener]]\nprotocol = \"smtp\"\naddress = \"{address}\"\n");

    let stop = Stop::default();
    let mut load = source::Options::new(address);
    load.messages = None;
    load.connections = 8;
    load.duration = Some(Duration::from_secs(60));
    load.retry_connect = Duration::from_secs(30);
    load.timeout = Duration::from_secs(30);
    load.size = 2048;
    load.recipients = 2;
    load.ledger = Some(sent.clone());
    let (options, ending) = (load.clone(), stop.clone());
    let mut server = Server::start_in(dir.clone(), &config);
    let source = std::thread::spawn(move || source::run(&options, &ending).expect("the source works"));

    let mut in_doubt = 0;
    for _ in 0..CYCLES {
        let goal = sink.counters().messages.get() + STEP;
        until("some mail to go through", || (sink.counters().messages.get() >= goal).then_some(()));
        server.kill();
        server = Server::start_in(dir.clone(), &config);
        let opened = |l: &String| l.contains("\"queue_opened\"");
        for line in server.lines().iter().filter(|l| opened(l)) {
            in_doubt += number(line, "recipients in doubt");
            assert!(!line.contains("damaged"), "{line}");
        }
    }
    stop.set();
    let report = source.join().unwrap();
    server.flushed();
    assert!(server.lines().iter().all(|l| !l.contains("journal_damaged")), "{:?}", server.lines());
    server.stop();
    sink.finish().unwrap();

    let verdict = audit::compare(&sent, &received, &audit::Excuses::default()).unwrap();
    let says = verdict.explain();
    assert!(report.acknowledged >= CYCLES * STEP / 2, "{report:?}");
    assert_eq!((verdict.lost, verdict.invented, verdict.altered), (0, 0, 0), "{says}");
    // What was in flight at a kill may come twice, nothing else.
    assert!(verdict.duplicates <= in_doubt, "{} twice, {in_doubt} in doubt\n{says}", verdict.duplicates);
}

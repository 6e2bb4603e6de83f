//! Source and sink against each other over loopback, with the audit of their ledgers.

use super::fault::{Kind as Play, Phase};
use super::*;
use crate::load::{audit, source};
use std::sync::Mutex;

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Runs `source` against a sink with `options`; both reports and the audit.
fn round(
    options: Options,
    change: impl FnOnce(&mut source::Options),
) -> (source::Report, Report, audit::Verdict) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (sent, received) = (dir.path().join("sent"), dir.path().join("received"));
    let (sink, address) =
        Sink::bind(loopback(), Options { ledger: Some(received.clone()), ..options }).expect("bind");
    let running = sink.spawn().expect("spawn");
    let mut load = source::Options::new(address);
    load.ledger = Some(sent.clone());
    load.timeout = Duration::from_secs(20);
    change(&mut load);
    let report = source::run(&load, &Stop::default()).expect("source");
    let taken = running.finish().expect("sink");
    (report, taken, audit::compare(&sent, &received, &audit::Excuses::default()).expect("audit"))
}

#[test]
fn every_message_arrives_whole() {
    for (pipelining, dot_lines, threads) in [(true, false, 2), (true, true, 1), (false, true, 1)] {
        let (report, taken, verdict) = round(Options::default(), |o| {
            o.connections = 7;
            o.messages = Some(500);
            o.messages_per_connection = 20;
            o.recipients = 3;
            o.size = 5000;
            o.pipelining = pipelining;
            o.dot_lines = dot_lines;
            o.threads = threads;
            o.source_addresses = 5;
        });
        assert!(report.complete(), "{report:?}");
        assert_eq!((report.acknowledged, report.message_bytes), (500, 5000));
        assert_eq!((taken.messages, taken.recipients, taken.violations), (500, 1500, 0), "{taken:?}");
        assert!(verdict.pass, "{verdict:?}");
        assert_eq!((verdict.acknowledged, verdict.delivered, verdict.duplicates), (1500, 1500, 0));
        assert!(report.connections >= 25 && report.latency.p50_us > 0.0);
    }
}

#[test]
fn one_message_per_connection_without_the_offer_of_pipelining() {
    let (report, taken, verdict) = round(Options { pipelining: false, ..Options::default() }, |o| {
        o.connections = 4;
        o.messages = Some(60);
        o.messages_per_connection = 1;
    });
    assert_eq!((report.acknowledged, taken.messages), (60, 60));
    // The last message may be claimed while another connection is being opened.
    assert!((60..64).contains(&taken.connections), "{taken:?}");
    assert!(verdict.pass && taken.violations == 0, "{taken:?}");
}

#[test]
fn dropped_replies_are_unacknowledged_not_lost() {
    let faults = vec![
        Fault { kind: Play::Drop, ppm: 100_000, phase: Phase::Dot },
        Fault { kind: Play::Drop, ppm: 50_000, phase: Phase::Data },
        Fault { kind: Play::Reject, ppm: 100_000, phase: Phase::Rcpt },
        Fault { kind: Play::Tempfail, ppm: 100_000, phase: Phase::Dot },
        Fault { kind: Play::Delay(Duration::from_millis(1)), ppm: 100_000, phase: Phase::Mail },
    ];
    let (report, taken, verdict) = round(Options { faults, seed: 3, ..Options::default() }, |o| {
        o.connections = 3;
        o.messages = Some(400);
        o.retry_connect = Duration::from_secs(5);
    });
    assert_eq!(report.not_sent, 0, "{report:?}");
    assert_eq!(report.acknowledged, taken.messages);
    assert!(report.unanswered > 0 && report.refused > 0 && report.failed > 0, "{report:?}");
    assert_eq!(report.acknowledged + report.unanswered + report.refused + report.failed, 400);
    assert_eq!(report.replies["dot 451"], report.refused);
    assert!(verdict.pass, "{verdict:?}");
    assert_eq!(verdict.unacknowledged, report.unanswered);
}

#[test]
fn a_sink_that_dies_and_returns() {
    let (sink, address) = Sink::bind(loopback(), Options::default()).expect("bind");
    let running = sink.spawn().expect("spawn");
    let mut load = source::Options::new(address);
    load.connections = 2;
    load.messages = None;
    load.duration = Some(Duration::from_millis(1200));
    load.rate = Some(400.0);
    load.retry_connect = Duration::from_secs(10);
    let source = std::thread::spawn(move || source::run(&load, &Stop::default()).expect("source"));
    std::thread::sleep(Duration::from_millis(300));
    let first = running.finish().expect("first sink");
    let (sink, _) = Sink::bind(address, Options::default()).expect("bind again");
    let running = sink.spawn().expect("spawn again");
    let report = source.join().expect("source thread");
    let second = running.finish().expect("second sink");
    assert!(first.messages > 0 && second.messages > 0, "{first:?} {second:?}");
    assert!(report.acknowledged <= first.messages + second.messages);
    assert!(report.acknowledged + report.unanswered >= first.messages + second.messages, "{report:?}");
    assert!(report.acknowledged <= 490, "the rate is kept: {report:?}");
}

#[test]
fn idle_sessions_are_held() {
    let (report, taken, _) = round(Options::default(), |o| {
        o.connections = 50;
        o.messages = Some(0);
        o.hold = Duration::from_millis(300);
    });
    assert_eq!((report.connections, taken.connections, taken.messages), (50, 50, 0));
    assert!(report.complete() && report.broken.is_empty() && taken.broken == 0, "{report:?}");
}

#[test]
fn hook_maildir_and_expected_end() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let options = Options { maildir: Some(dir.path().to_owned()), expect: Some(3), ..Options::default() };
    let (mut sink, address) = Sink::bind(loopback(), options).expect("bind");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let hook = Arc::clone(&seen);
    sink.on_message(move |m| {
        hook.lock().expect("lock").push((m.id.to_owned(), m.content.len() as u64 == m.size));
    });
    let running = sink.spawn().expect("spawn");
    let mut load = source::Options::new(address);
    load.messages = Some(3);
    load.run = Some("demo".into());
    source::run(&load, &Stop::default()).expect("source");
    assert_eq!(running.join().expect("sink").messages, 3, "it ends by itself");
    let seen = seen.lock().expect("lock");
    assert_eq!(seen[2], ("demo-0000000002".to_owned(), true));
    let files: Vec<_> = std::fs::read_dir(dir.path().join("new")).expect("maildir").collect();
    assert_eq!(files.len(), 3);
}

//! Sites, their limits on all cores, operators' rules, and `why`: the server between name servers and next
//! hops on addresses of the loopback network, all next hops at one port.
#![allow(clippy::disallowed_methods, reason = "a next hop takes its time, and says when mail came")]

use crate::harness::dns::NameServer;
use crate::harness::{Config, Hop, Server, until};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const BODY: &[u8] = b"From: a@client.test\r\nSubject: x\r\n\r\nhello\r\n";
const FROM: &str = "a@client.test";

fn config(names: &NameServer, cores: u16) -> Config {
    Config::new(([127, 0, 0, 1], 1).into())
        .set("cores", "mta", cores.to_string())
        .set("relay", "smarthost", "\"\"")
        .set("relay", "mx_port", "2525")
        .set("dns", "servers", format!("[\"{}\"]", names.address))
        .set("dns", "dnssec", "\"off\"")
}

fn hop() -> Hop {
    Hop::on(Hop::later())
}

/// An MX record for each of `domains`, to one host at the address of `hop`.
fn zone(domains: &[&str], host: &str, hop: &Hop) -> String {
    let mx = |d: &&str| format!("{d}. IN MX 10 {host}.\n");
    domains.iter().map(mx).collect::<String>() + &format!("{host}. IN A {}\n", hop.address.ip())
}

/// One session for each message: the kernel spreads them over the cores.
fn send(server: &Server, recipients: &[&str]) -> Vec<String> {
    recipients.iter().map(|to| server.client().mail(FROM, &[to], BODY)).collect()
}

fn receivers(hop: &Hop) -> Vec<String> {
    hop.mails().into_iter().flat_map(|m| m.to).collect()
}

/// What `why` says of the one recipient of a message.
fn why(server: &Server, id: &str) -> Value {
    let out = server.run(&["why", "--json", id]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    value["recipients"][0].clone()
}

/// Waits until a message is in `state`; gives what it waits for, and all that is said of it.
#[track_caller]
fn waits(server: &Server, id: &str, state: &str) -> (String, Value) {
    let r = until(&format!("{id} is {state}"), || Some(why(server, id)).filter(|r| r["state"] == state));
    (r["waits_for"].as_str().expect("a text").to_owned(), r)
}

#[test]
fn domains_of_one_site_share_its_only_connection_on_all_cores() {
    let (site, alone) = (hop(), hop());
    let names = NameServer::start(
        &[
            zone(&["a.test", "b.test", "c.test"], "mx.site.test", &site),
            // The same host, but this domain has a block of its own.
            "own.test. IN MX 10 mx.alone.test.\n".into(),
            zone(&["d.test"], "mx.alone.test", &alone),
        ]
        .concat(),
    );
    let mut config = config(&names, 2).set("destination", "connections", "1");
    config.tail = "[[destination.for]]\ndomain = \"own.test\"\nconnections = 1\n".into();
    let server = Server::start(&config);
    // Slow, so that more connections would be opened if they might.
    site.answer(|c| {
        std::thread::sleep(Duration::from_millis(if c.starts_with("MAIL") { 20 } else { 0 }));
        None
    });
    let all: Vec<String> = (0..60).map(|n| format!("r{n}@{}.test", ["a", "b", "c"][n % 3])).collect();
    send(&server, &all.iter().map(String::as_str).collect::<Vec<_>>());
    until("the site is known", || {
        let all = server.queue(&["stats"]);
        let of = |s: &Value| s["destinations"].as_array().cloned().unwrap_or_default();
        all.iter().flat_map(of).any(|d| d["name"] == "site:mx.site.test").then_some(())
    });
    server.drained();
    let mut got = receivers(&site);
    let mut expected: Vec<String> = all.iter().map(|to| format!("<{to}>")).collect();
    got.sort_unstable();
    expected.sort_unstable();
    assert_eq!(got, expected);
    let (most, total) = site.connections();
    assert_eq!(most, 1, "{total} connections for {} messages", all.len());
    assert!(total < 20, "{total} connections: the domains do not share them");
    send(&server, &["x@own.test", "x@d.test"]);
    server.drained();
    assert_eq!(receivers(&alone).len(), 2);
    server.stop();
}

#[test]
fn a_pattern_of_sites_has_one_set_of_limits() {
    let (one, other, free) = (hop(), hop(), hop());
    let names = NameServer::start(
        &[
            zone(&["a.test"], "a-test.mail.big.test", &one),
            zone(&["b.test"], "b-test.mail.big.test", &other),
            zone(&["c.test"], "mx.small.test", &free),
        ]
        .concat(),
    );
    let mut config = config(&names, 1);
    config.tail = "[[destination.for]]\nsite = \"*.big.test\"\nrate = \"1/h\"\n".into();
    let server = Server::start(&config);
    let first = send(&server, &["r@a.test"]);
    until("the first message", || (one.mails().len() == 1).then_some(()));
    let second = send(&server, &["r@b.test"]);
    let (text, r) = waits(&server, &second[0], "limited");
    assert!(
        text.starts_with("the rate of site:b-test.mail.big.test (limits of site:*.big.test), 1 messages in")
    );
    assert_eq!((&r["ahead"], &r["site"]), (&0.into(), &"site:b-test.mail.big.test".into()), "{r}");
    send(&server, &["r1@c.test", "r2@c.test"]);
    until("others have no such limit", || (free.mails().len() == 2).then_some(()));
    // A flush obeys limits.
    server.queue(&["flush", "--all"]);
    server.queue(&["flush", "--destination", "site:b-test.mail.big.test"]);
    assert_eq!(waits(&server, &second[0], "limited").0[..11], text[..11]);
    assert_eq!((one.mails().len(), other.mails().len()), (1, 0));
    assert_eq!(server.run(&["why", &first[0]]).status.code(), Some(65));
    server.stop();
}

#[test]
fn a_rate_holds_over_all_cores() {
    let site = hop();
    let names = NameServer::start(&zone(&["a.test"], "mx.site.test", &site));
    let server = Server::start(&config(&names, 2).set("destination", "rate", "\"4/s\""));
    let times = Arc::<Mutex<Vec<Instant>>>::default();
    let seen = times.clone();
    site.answer(move |c| {
        if c.starts_with("MAIL") {
            seen.lock().expect("no panic").push(Instant::now());
        }
        None
    });
    let all: Vec<String> = (0..14).map(|n| format!("r{n}@a.test")).collect();
    send(&server, &all.iter().map(String::as_str).collect::<Vec<_>>());
    server.drained();
    let times = times.lock().expect("no panic").clone();
    let took = *times.last().expect("some") - times[0];
    // Thirteen waits of a quarter of a second and more; two cores that each had the rate would need half.
    assert!(times.len() == 14 && took >= Duration::from_millis(2_600), "{} in {took:?}", times.len());
    server.stop();
}

#[test]
fn why_says_what_each_message_waits_for() {
    let (works, grey) = (hop(), hop());
    let dead = Hop::later();
    let names = NameServer::start(
        &[
            zone(&["works.test"], "mx.works.test", &works),
            zone(&["grey.test"], "mx.grey.test", &grey),
            format!("dead.test. IN MX 10 mx.dead.test.\nmx.dead.test. IN A {}\n", dead.ip()),
        ]
        .concat(),
    );
    let server = Server::start(&config(&names, 1));
    grey.refuse("RCPT", "450 4.2.0 Grey list");
    let id = |to: &str| send(&server, &[to]).remove(0);
    let paused = id("r@dead.test");
    let (text, r) = waits(&server, &paused, "paused");
    assert!(text.contains("left alone") && text.contains("cannot connect to mx.dead.test"), "{text}");
    assert_eq!((&r["ahead"], &r["site"]), (&0.into(), &"site:mx.dead.test".into()), "{r}");
    assert_eq!(why(&server, &id("r2@dead.test"))["ahead"], 1);
    // Attempts and their replies.
    let deferred = id("r@grey.test");
    assert!(waits(&server, &deferred, "deferred").0.starts_with("attempt 2, in "));
    for attempts in 2..=13 {
        server.queue(&["flush", "--destination", "mx:grey.test"]);
        until("another attempt", || (why(&server, &deferred)["attempts"] == attempts).then_some(()));
    }
    let (_, r) = waits(&server, &deferred, "deferred");
    let tried: Vec<u64> =
        r["tried"].as_array().expect("a list").iter().filter_map(|t| t["attempt"].as_u64()).collect();
    assert_eq!((tried, &r["missing"]), ([1].into_iter().chain(4..=13).collect(), &0.into()), "{r}");
    assert_eq!(r["tried"][0]["reply"], "450 4.2.0 Grey list");
    assert_eq!(r["tried"][10]["server"], "mx.grey.test");
    assert_eq!(r["last_reply"], "450 4.2.0 Grey list");
    let out = server.run(&["why", &deferred]);
    let text = String::from_utf8(out.stdout).expect("text");
    assert!(text.contains("r@grey.test: deferred\n") && text.contains("site:mx.grey.test"), "{text}");
    // Held.
    server.queue(&["hold", "--reason", "looks odd", &deferred]);
    let (text, _) = waits(&server, &deferred, "held");
    assert!(text.ends_with("looks odd"), "{text}");
    assert_eq!(server.run(&["why", "nonsense"]).status.code(), Some(65));
    server.stop();
}

#[test]
fn what_is_suspended_waits_over_a_restart_until_it_is_resumed() {
    let (site, free) = (hop(), hop());
    let names = NameServer::start(
        &[zone(&["a.test", "b.test"], "mx.site.test", &site), zone(&["c.test"], "mx.free.test", &free)]
            .concat(),
    );
    let config = config(&names, 2);
    let server = Server::start(&config);
    // Known by its site before, and by its name.
    send(&server, &["r0@a.test"]);
    until("the site works", || (site.mails().len() == 1).then_some(()));
    let rule = server.queue(&["suspend", "mx.site.test", "--reason", "moves house", "--for", "2h"]);
    assert_eq!((&rule[0]["number"], &rule[0]["what"]), (&1.into(), &"mx.site.test".into()), "{rule:?}");
    server.queue(&["suspend", "b.test"]);
    let ids = send(&server, &["r1@a.test", "r1@b.test"]);
    let (text, r) = waits(&server, &ids[0], "suspended");
    assert!(text.starts_with("suspended by rule 1 of uid ") && text.ends_with(": moves house"), "{text}");
    assert_eq!(r["site"], "site:mx.site.test");
    assert!(waits(&server, &ids[1], "suspended").0.contains("rule 2 of"));
    send(&server, &["r1@c.test"]);
    until("others go on", || (free.mails().len() == 1).then_some(()));
    server.queue(&["flush", "--all"]);
    let dir = server.stop();
    let server = Server::start_in(dir, &config);
    assert_eq!(server.queue(&["rules"]).len(), 2);
    // Found anew, and kept all the same.
    waits(&server, &ids[0], "suspended");
    waits(&server, &ids[1], "suspended");
    assert_eq!(site.mails().len(), 1);
    assert_eq!(server.run(&["queue", "resume", "nobody"]).status.code(), Some(65));
    server.queue(&["resume", "1"]);
    server.queue(&["resume", "B.test"]);
    server.drained();
    assert_eq!((site.mails().len(), server.queue(&["rules"]).len()), (3, 0));
    // One that ends by itself.
    server.queue(&["suspend", "*", "--for", "1s"]);
    send(&server, &["r2@a.test", "r2@c.test"]);
    server.drained();
    assert_eq!((site.mails().len(), free.mails().len()), (4, 2));
    server.stop();
}

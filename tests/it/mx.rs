//! Mail finds its way by MX: name servers, next hops and the server on addresses of the loopback
//! network, all next hops at one port.

use crate::harness::dns::NameServer;
use crate::harness::{Config, Hop, Mail, Server, until};
use serde_json::Value;
use std::net::SocketAddr;

const BODY: &[u8] = b"From: a@client.test\r\nSubject: x\r\n\r\nhello\r\n";
const FROM: &str = "a@client.test";

/// A server that asks `names`, without DNSSEC.
fn config(names: &NameServer) -> Config {
    Config::new(([127, 0, 0, 1], 1).into())
        .set("relay", "smarthost", "\"\"")
        .set("relay", "mx_port", "2525")
        .set("dns", "servers", format!("[\"{}\"]", names.address))
        .set("dns", "dnssec", "\"off\"")
}

/// A next hop at an address of its own, at the port of all.
fn hop() -> Hop {
    Hop::on(Hop::later())
}

fn a(name: &str, address: SocketAddr) -> String {
    format!("{name}. IN A {}\n", address.ip())
}

fn mx(domain: &str, preference: u16, host: &str, address: SocketAddr) -> String {
    format!("{domain}. IN MX {preference} {host}.\n{}", a(host, address))
}

/// The one message at `hop`, and to whom it was.
#[track_caller]
fn got(hop: &Hop, to: &str) -> Mail {
    let mail = hop.one();
    assert_eq!((mail.to.clone(), hop.mails().len()), (vec![format!("<{to}>")], 1));
    mail
}

/// Why the first recipient waits.
fn reason(m: &Value) -> &str {
    m["recipients"][0]["delay_reason"].as_str().unwrap_or("")
}

#[test]
fn preference_decides_and_a_dead_host_gives_way_to_the_next() {
    let (first, second, alone, refusing) = (hop(), hop(), hop(), hop());
    refusing.refuse("", "421 4.3.2 Not now");
    let dead = Hop::later();
    let zone = [
        mx("both.test", 10, "first.both.test", first.address),
        mx("both.test", 20, "second.both.test", second.address),
        mx("dead.test", 10, "first.dead.test", dead),
        mx("dead.test", 20, "second.dead.test", second.address),
        mx("busy.test", 5, "first.busy.test", refusing.address),
        mx("busy.test", 20, "second.busy.test", alone.address),
        // No MX, and an alias.
        a("plain.test", first.address),
        "alias.test. IN CNAME both.test.\n".into(),
    ]
    .concat();
    let names = NameServer::start(&zone);
    let mut config = config(&names);
    config.tail = "[[route]]\ndomain = \"routed.test\"\nnext_hop = \"mx:both.test\"\n\
                   [[route]]\ndomain = \"named.test\"\nnext_hop = \"second.both.test:2525\"\n"
        .into();
    let server = Server::start(&config);
    let mut client = server.client();
    let domains =
        ["both.test", "dead.test", "busy.test", "plain.test", "alias.test", "routed.test", "named.test"];
    for domain in domains {
        client.mail(FROM, &[&format!("r@{domain}")], BODY);
    }
    server.drained();
    let to = |hop: &Hop| {
        let mut all: Vec<String> = hop.mails().into_iter().flat_map(|m| m.to).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(to(&first), ["<r@alias.test>", "<r@both.test>", "<r@plain.test>", "<r@routed.test>"]);
    assert_eq!(to(&second), ["<r@dead.test>", "<r@named.test>"]);
    assert_eq!(to(&alone), ["<r@busy.test>"]);
    assert_eq!(got(&alone, "r@busy.test").split().1, BODY);
    assert!(server.metric("ringpost_dns_lookups_total", "result=\"found\"") >= 7.0);
    assert!(server.metric("ringpost_dns_lookups_total", "result=\"no_data\"") >= 1.0);
    // What is known is not asked again.
    let before = server.metric("ringpost_dns_cache_hits_total", "");
    client.mail(FROM, &["r2@both.test"], BODY);
    server.drained();
    let hits = server.metric("ringpost_dns_cache_hits_total", "") - before;
    let reused = server.metric("ringpost_connection_reuse_total", "");
    assert!(hits + reused >= 1.0, "{hits} {reused}");
    server.stop();
}

#[test]
fn domains_without_mail_bounce_with_the_right_status() {
    let sender = hop();
    let own = Hop::later();
    let zone = [
        mx("client.test", 10, "in.client.test", sender.address),
        "null.test. IN MX 0 .\n".into(),
        "empty.test. IN TXT \"nothing\"\n".into(),
        "hostless.test. IN MX 10 nowhere.hostless.test.\n".into(),
        "number.test. IN MX 10 192.0.2.1.\n".into(),
        mx("self.test", 10, "us.self.test", own),
        "self.test. IN MX 20 in.client.test.\n".into(),
    ]
    .concat();
    let names = NameServer::start(&zone);
    let mut config = config(&names);
    config.tail = format!("[[listener]]\nprotocol = \"smtp\"\naddress = \"{own}\"\n");
    let server = Server::start(&config);
    let cases = [
        ("null.test", "Status: 5.1.10"),
        ("missing.test", "Status: 5.1.2"),
        ("empty.test", "Status: 5.4.4"),
        ("hostless.test", "Status: 5.4.4"),
        ("number.test", "Status: 5.4.4"),
        ("self.test", "Status: 5.4.6"),
    ];
    let literal = format!("[{}]", own.ip());
    let mut client = server.client();
    for domain in cases.iter().map(|c| c.0).chain([literal.as_str()]) {
        client.mail(FROM, &[&format!("r@{domain}")], BODY);
    }
    let bounces = sender.wait(cases.len() + 1);
    for (domain, status) in cases.into_iter().chain([(literal.as_str(), "Status: 5.4.6")]) {
        let of = |m: &&Mail| m.text().contains(&format!("rfc822; r@{domain}"));
        let bounce = bounces.iter().find(of).unwrap_or_else(|| panic!("no bounce for {domain}"));
        assert!(bounce.text().contains(status), "{domain}: {}", bounce.text());
        assert!(bounce.from.starts_with("<>") && !bounce.text().contains("Remote-MTA"), "{bounce:?}");
    }
    server.drained();
    assert_eq!(sender.mails().len(), cases.len() + 1);
    server.stop();
}

#[test]
fn a_backup_passes_mail_to_the_better_host_only() {
    let own = Hop::later();
    let (best, other) = (Hop::later(), hop());
    let zone = [
        mx("backed.test", 10, "best.backed.test", best),
        mx("backed.test", 20, "us.backed.test", own),
        mx("backed.test", 30, "other.backed.test", other.address),
    ]
    .concat();
    let names = NameServer::start(&zone);
    let mut config = config(&names);
    config.tail = format!("[[listener]]\nprotocol = \"smtp\"\naddress = \"{own}\"\n");
    let server = Server::start(&config);
    let id = server.client().mail(FROM, &["r@backed.test"], BODY);
    server.listed(&id, |m| reason(m).starts_with("cannot connect to best.backed.test"));
    let best = Hop::on(best);
    server.flushed();
    got(&best, "r@backed.test");
    assert!(other.mails().is_empty());
    server.stop();
}

#[test]
fn a_name_server_that_fails_defers_and_an_address_needs_none() {
    let hop = hop();
    let names = NameServer::failing();
    let server = Server::start(&config(&names));
    let mut client = server.client();
    let id = client.mail(FROM, &["r@broken.test"], BODY);
    // One destination that cannot be found holds up no other.
    let literal = format!("r@[{}]", hop.address.ip());
    client.mail(FROM, &[&literal], BODY);
    got(&hop, &literal);
    let m = server.listed(&id, |m| !reason(m).is_empty());
    assert!(reason(&m).starts_with("look-up of the recipient's domain failed: "), "{m}");
    assert!(server.metric("ringpost_dns_lookups_total", "result=\"failed\"") >= 1.0);
    let out = server.run(&["explain", "route", "r@broken.test"]);
    assert_eq!(out.status.code(), Some(75));
    server.stop();
}

#[test]
fn signed_answers_are_secure_and_forged_ones_defer() {
    let (hop, evil) = (hop(), hop());
    let zone = [
        mx("signed.test", 10, "mx.signed.test", hop.address),
        mx("forged.test", 10, "mx.forged.test", hop.address),
        a("plain.test", hop.address),
    ]
    .concat();
    let names = NameServer::signed(&zone, &mx("forged.test", 1, "evil.forged.test", evil.address));
    let dir = std::sync::Arc::new(crate::harness::server::directory());
    let anchors = dir.path().join("anchors");
    write(&anchors, &names.anchors);
    let config = config(&names).set("dns", "dnssec", "\"validate\"").set(
        "dns",
        "trust_anchors",
        format!("\"{}\"", anchors.display()),
    );
    let server = Server::start_in(dir, &config);
    let explain = |address: &str| -> Value {
        let out = server.run(&["explain", "route", "--json", address]);
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"))
    };
    let signed = explain("r@signed.test");
    assert_eq!(signed["recipients"][0]["security"], "secure", "{signed:#}");
    assert_eq!(signed["recipients"][0]["hosts"][0]["security"], "secure", "{signed:#}");
    // RFC 7672 §2.2.1: that there is no MX record is proven too.
    assert_eq!(explain("r@plain.test")["recipients"][0]["security"], "secure");
    let mut client = server.client();
    let id = client.mail(FROM, &["r@forged.test"], BODY);
    client.mail(FROM, &["r@signed.test"], BODY);
    got(&hop, "r@signed.test");
    let m = server.listed(&id, |m| !reason(m).is_empty());
    assert!(reason(&m).contains("DNSSEC signatures of forged.test are wrong"), "{m}");
    assert!(server.metric("ringpost_dns_lookups_total", "result=\"bogus\"") >= 1.0);
    assert_eq!((evil.mails().len(), server.metric("ringpost_dnssec_off", "")), (0, 0.0));
    server.stop();
}

#[test]
fn name_servers_that_strip_signatures_turn_dnssec_off_with_an_alarm() {
    let hop = hop();
    let zone = mx("a.test", 10, "mx.a.test", hop.address);
    let (names, signed) = (NameServer::start(&zone), NameServer::signed(&zone, ""));
    let dir = std::sync::Arc::new(crate::harness::server::directory());
    let anchors = dir.path().join("anchors");
    write(&anchors, &signed.anchors);
    let config = config(&names).set("dns", "dnssec", "\"validate\"").set(
        "dns",
        "trust_anchors",
        format!("\"{}\"", anchors.display()),
    );
    let server = Server::start_in(dir, &config);
    server.client().mail(FROM, &["r@a.test"], BODY);
    got(&hop, "r@a.test");
    assert!(server.event("dnssec_off").contains("strip"));
    until("the series", || (server.metric("ringpost_dnssec_off", "") == 1.0).then_some(()));
    server.stop();
}

#[allow(clippy::disallowed_methods, reason = "a test writes its files")]
fn write(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).expect("a file");
}

#[test]
fn explain_says_each_step() {
    let hop = hop();
    let zone = [
        mx("a.test", 10, "first.a.test", hop.address),
        "a.test. IN MX 20 second.a.test.\nsecond.a.test. IN AAAA 2001:db8::5\n".into(),
        "null.test. IN MX 0 .\n".into(),
    ]
    .concat();
    let names = NameServer::start(&zone);
    let config = config(&names).set("destination", "connections", "7").set("relay", "prefer", "\"ipv4\"");
    let server = Server::start(&config);
    let explain = |address: &str| {
        let out = server.run(&["explain", "route", address]);
        (out.status.code(), String::from_utf8(out.stdout).expect("text"))
    };
    let (code, text) = explain("r@A.test");
    assert_eq!(code, Some(0), "{text}");
    let ip = hop.address.ip();
    for line in [
        "from others   554 5.7.1 Relay access denied",
        "rule          no route: the domain's own mail exchangers",
        "destination   mx:a.test",
        "look-up       MX records",
        "site          site:(first,second).a.test",
        &format!("     10  first.a.test  {ip}  insecure"),
        "     20  second.a.test  2001:db8::5  insecure",
        "limits        connections 7, messages per connection 100, rate none",
        &format!(
            "now           SMTP to first.a.test ({}), then second.a.test ([2001:db8::5]:2525)",
            hop.address
        ),
    ] {
        assert!(text.lines().any(|l| l == line), "{line:?} is not in\n{text}");
    }
    let (code, text) = explain("r@null.test");
    assert!(code == Some(65) && text.contains("556 5.1.10"), "{code:?} {text}");
    server.stop();
}

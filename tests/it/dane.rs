//! DANE for mail (RFC 7672): one test for each rule, with a signed zone and next hops whose
//! certificates are known.

use crate::harness::dns::NameServer;
use crate::harness::pki::{Shop, tlsa};
use crate::harness::{Config, Hop, Server};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;

const BODY: &[u8] = b"From: a@client.test\r\nSubject: x\r\n\r\nhello\r\n";
const FROM: &str = "a@client.test";

fn hop(shop: &Shop) -> Hop {
    let hop = Hop::on(Hop::later());
    hop.secure(shop);
    hop
}

/// `domain` with a mail exchanger of this name.
fn mx(domain: &str, host: &str, address: SocketAddr) -> String {
    format!("{domain}. IN MX 10 {host}.\n{host}. IN A {}\n", address.ip())
}

/// A server that finds its way by this signed zone; `forged`: added without a signature.
fn server(zone: &[String], forged: &str, change: impl Fn(Config) -> Config) -> Server {
    let names = NameServer::signed(&zone.concat(), forged);
    let dir = Arc::new(crate::harness::server::directory());
    let anchors = dir.path().join("anchors");
    write(&anchors, &names.anchors);
    let config = Config::new(([127, 0, 0, 1], 1).into())
        .set("relay", "smarthost", "\"\"")
        .set("relay", "mx_port", "2525")
        .set("dns", "servers", format!("[\"{}\"]", names.address))
        .set("dns", "dnssec", "\"validate\"")
        .set("dns", "trust_anchors", format!("\"{}\"", anchors.display()));
    Server::start_in(dir, &change(config))
}

#[allow(clippy::disallowed_methods, reason = "a test writes its files")]
fn write(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).expect("a file");
}

fn reason(m: &Value) -> &str {
    m["recipients"][0]["delay_reason"].as_str().unwrap_or("")
}

/// The mail waits because of this, and nothing of it has been sent.
#[track_caller]
fn waits(server: &Server, id: &str, hop: &Hop, why: &str) {
    let m = server.listed(id, |m| !reason(m).is_empty());
    assert!(reason(&m).contains(why), "{m:#}");
    assert!(hop.mails().is_empty() && hop.said("MAIL").is_empty(), "{:?}", hop.mails());
}

/// The text and JSON of `explain route`.
fn explain(server: &Server, address: &str) -> (String, Value) {
    let text = server.run(&["explain", "route", address]);
    let json = server.run(&["explain", "route", "--json", address]);
    let value = serde_json::from_slice(&json.stdout).unwrap_or_else(|e| panic!("{e}: {json:?}"));
    (String::from_utf8(text.stdout).expect("text"), value)
}

#[test]
fn usage_3_ignores_names_and_dates() {
    let shop = Shop::expired("somebody.else.test");
    let hop = hop(&shop);
    let zone = [mx("a.test", "mx.a.test", hop.address), tlsa("mx.a.test", &shop.usage_3())];
    let server = server(&zone, "", |c| c);
    server.client().mail(FROM, &["r@a.test"], BODY);
    assert!(hop.one().tls);
    let text = server.event_with("tls_out", "mx:a.test at mx.a.test");
    assert!(text.contains("TLSv1.3 TLS_") && text.ends_with("verified by DANE"), "{text}");
    assert_eq!(server.metric("ringpost_tls_outbound_handshakes_total", "proof=\"dane\""), 1.0);
    let (text, value) = explain(&server, "r@a.test");
    let record = format!("_2525._tcp.mx.a.test TLSA {}", shop.usage_3());
    assert!(text.contains(&record), "{text}");
    assert!(text.contains("mx.a.test  required: DANE, 1 usable TLSA records"), "{text}");
    assert_eq!(value["recipients"][0]["tls_hosts"][0]["tlsa"][0], shop.usage_3(), "{value:#}");
    server.stop();
}

#[test]
fn another_certificate_defers_and_never_goes_in_clear_text() {
    let (shop, other) = (Shop::alone("mx.a.test"), Shop::alone("mx.a.test"));
    let hop = hop(&other);
    let zone = [mx("a.test", "mx.a.test", hop.address), tlsa("mx.a.test", &shop.usage_3())];
    let server = server(&zone, "", |c| c);
    let id = server.client().mail(FROM, &["r@a.test"], BODY);
    waits(&server, &id, &hop, "the certificate is not believed: it does not fit the TLSA records");
    // Every attempt is a handshake.
    server.queue(&["flush", "--all"]);
    crate::harness::until("a second handshake", || (hop.said("STARTTLS").len() >= 2).then_some(()));
    assert_eq!(server.metric("ringpost_tls_outbound_cleartext_total", ""), 0.0);
    // With the right one it goes.
    hop.secure(&shop);
    server.flushed();
    assert!(hop.one().tls);
    server.stop();
}

#[test]
fn usage_2_wants_one_of_the_names() {
    let (by_host, by_domain, wrong) =
        (Shop::issued("mx.a.test"), Shop::issued("b.test"), Shop::issued("mx.other.test"));
    let (a, b, c) = (hop(&by_host), hop(&by_domain), hop(&wrong));
    let zone = [
        mx("a.test", "mx.a.test", a.address),
        tlsa("mx.a.test", &by_host.usage_2()),
        // RFC 7672 §3.2.2: the domain's own name will do, too.
        mx("b.test", "mx.b.test", b.address),
        tlsa("mx.b.test", &by_domain.usage_2()),
        mx("c.test", "mx.c.test", c.address),
        tlsa("mx.c.test", &wrong.usage_2()),
    ];
    let server = server(&zone, "", |c| c);
    let mut client = server.client();
    let id = client.mail(FROM, &["r@c.test"], BODY);
    client.mail(FROM, &["r@a.test"], BODY);
    client.mail(FROM, &["r@b.test"], BODY);
    assert!(a.one().tls && b.one().tls);
    waits(&server, &id, &c, "it is for other names");
    assert_eq!(server.metric("ringpost_tls_outbound_handshakes_total", "proof=\"dane\""), 2.0);
    server.stop();
}

#[test]
fn the_name_asked_for_is_the_tlsa_base_domain() {
    let shop = Shop::alone("x.test");
    let (real, alias) = (hop(&shop), hop(&shop));
    let zone = [
        // The records are where the CNAME leads.
        "a.test. IN MX 10 mx.a.test.\nmx.a.test. IN CNAME real.b.test.\n".into(),
        format!("real.b.test. IN A {}\n", real.address.ip()),
        tlsa("real.b.test", &shop.usage_3()),
        // They are at the alias only.
        "c.test. IN MX 10 mx.c.test.\nmx.c.test. IN CNAME other.b.test.\n".into(),
        format!("other.b.test. IN A {}\n", alias.address.ip()),
        tlsa("mx.c.test", &shop.usage_3()),
    ];
    let server = server(&zone, "", |c| c);
    let mut client = server.client();
    client.mail(FROM, &["r@a.test"], BODY);
    client.mail(FROM, &["r@c.test"], BODY);
    assert!(real.one().tls && alias.one().tls);
    assert_eq!(real.names(), [Some("real.b.test".into())]);
    assert_eq!(alias.names(), [Some("mx.c.test".into())]);
    assert_eq!(server.metric("ringpost_tls_outbound_handshakes_total", "proof=\"dane\""), 2.0);
    server.stop();
}

#[test]
fn records_that_cannot_be_used_demand_tls_and_prove_nothing() {
    let shop = Shop::expired("x.test");
    let (a, b) = (hop(&shop), Hop::on(Hop::later()));
    let zone = [
        mx("a.test", "mx.a.test", a.address),
        // PKIX-EE, an unknown selector, half a digest.
        tlsa("mx.a.test", &shop.usage_3().replacen('3', "1", 1)),
        tlsa("mx.a.test", &shop.usage_3().replacen("3 1", "3 7", 1)),
        tlsa("mx.a.test", "3 1 1 abcd"),
        // The same at a host without STARTTLS.
        mx("b.test", "mx.b.test", b.address),
        tlsa("mx.b.test", "0 0 1 abcd"),
    ];
    let server = server(&zone, "", |c| c);
    let mut client = server.client();
    let id = client.mail(FROM, &["r@b.test"], BODY);
    client.mail(FROM, &["r@a.test"], BODY);
    assert!(a.one().tls);
    assert!(server.event_with("tls_out", "mx:a.test").ends_with("not verified"));
    waits(&server, &id, &b, "TLS is required, but was not offered");
    assert!(server.metric("ringpost_tls_outbound_missing_total", "") >= 1.0);
    server.stop();
}

#[test]
fn without_tlsa_records_it_is_opportunistic() {
    let (secured, plain) = (hop(&Shop::expired("x.test")), Hop::on(Hop::later()));
    let zone = [mx("a.test", "mx.a.test", secured.address), mx("b.test", "mx.b.test", plain.address)];
    let server = server(&zone, "", |c| c);
    let mut client = server.client();
    client.mail(FROM, &["r@a.test"], BODY);
    client.mail(FROM, &["r@b.test"], BODY);
    assert!(secured.one().tls && !plain.one().tls);
    let (text, _) = explain(&server, "r@a.test");
    assert!(text.contains("mx.a.test  opportunistic: any certificate, or clear text"), "{text}");
    server.stop();
}

#[test]
fn insecure_records_do_not_count() {
    let (shop, other) = (Shop::alone("x.test"), Shop::alone("x.test"));
    let hop = hop(&other);
    let zone = [mx("a.test", "mx.a.test", hop.address), tlsa("mx.a.test", &shop.usage_3())];
    let server = server(&zone, "", |c| c.set("dns", "dnssec", "\"off\""));
    server.client().mail(FROM, &["r@a.test"], BODY);
    assert!(hop.one().tls);
    assert_eq!(server.metric("ringpost_tls_outbound_handshakes_total", "proof=\"none\""), 1.0);
    server.stop();
}

#[test]
fn a_bogus_answer_defers_and_never_downgrades() {
    let shop = Shop::alone("mx.a.test");
    let hop = hop(&shop);
    let other = Shop::alone("x.test");
    let zone = [mx("a.test", "mx.a.test", hop.address), tlsa("mx.a.test", &other.usage_3())];
    // The record of the certificate that is shown, without a signature.
    let server = server(&zone, &tlsa("mx.a.test", &shop.usage_3()), |c| c);
    let id = server.client().mail(FROM, &["r@a.test"], BODY);
    let m = server.listed(&id, |m| !reason(m).is_empty());
    assert!(reason(&m).contains("signatures of the TLSA records of mx.a.test are wrong"), "{m:#}");
    assert!(hop.mails().is_empty() && hop.said("EHLO").is_empty(), "not even a connection");
    let (text, _) = explain(&server, "r@a.test");
    assert!(text.contains("mx.a.test  not used now: the DNSSEC signatures"), "{text}");
    server.stop();
}

#[test]
fn a_host_that_fails_gives_way_to_the_next() {
    let (shop, other) = (Shop::alone("x.test"), Shop::alone("x.test"));
    let (first, second) = (hop(&other), hop(&shop));
    let zone = [
        mx("a.test", "first.a.test", first.address),
        format!("a.test. IN MX 20 second.a.test.\nsecond.a.test. IN A {}\n", second.address.ip()),
        tlsa("first.a.test", &shop.usage_3()),
        tlsa("second.a.test", &shop.usage_3()),
    ];
    let server = server(&zone, "", |c| c);
    server.client().mail(FROM, &["r@a.test"], BODY);
    assert!(second.one().tls && first.mails().is_empty());
    server.stop();
}

/// The policy is the domain's: that a connection to the same host is open for another domain is of no
/// use to it.
#[test]
fn strict_mail_never_rides_on_a_weaker_connection() {
    let (shop, other) = (Shop::alone("mx.shared.test"), Shop::alone("mx.shared.test"));
    let hop = hop(&shop);
    let zone = [mx("shared.test", "mx.shared.test", hop.address), tlsa("mx.shared.test", &other.usage_3())];
    let routes = |tls: &str, domain: &str| {
        format!("[[route]]\ndomain = \"{domain}\"\nnext_hop = \"mx:shared.test\"\ntls = \"{tls}\"\n")
    };
    let server = server(&zone, "", |mut c| {
        let all = [("required", "strict.test"), ("opportunistic", "weak.test"), ("none", "clear.test")];
        c.tail = all.map(|(tls, domain)| routes(tls, domain)).concat();
        c
    });
    let mut client = server.client();
    client.mail(FROM, &["r@weak.test"], BODY);
    client.mail(FROM, &["r@clear.test"], BODY);
    hop.wait(2);
    // Both connections are open now. By route, and by the records of the host.
    for to in ["r@strict.test", "r@shared.test"] {
        let id = client.mail(FROM, &[to], BODY);
        let m = server.listed(&id, |m| !reason(m).is_empty());
        assert!(reason(&m).contains("the certificate is not believed"), "{m:#}");
    }
    client.mail(FROM, &["r2@weak.test"], BODY);
    let mails = hop.wait(3);
    let mut how: Vec<(bool, &str)> = mails.iter().map(|m| (m.tls, m.to[0].as_str())).collect();
    how.sort_unstable();
    assert_eq!(how, [(false, "<r@clear.test>"), (true, "<r2@weak.test>"), (true, "<r@weak.test>")]);
    server.stop();
}

/// With `trust-ad` the resolver's word counts as our own validation does.
#[test]
fn a_resolver_that_is_believed() {
    let (right, other) = (Shop::alone("x.test"), Shop::alone("x.test"));
    let (good, bad, weak) = (hop(&right), hop(&other), hop(&other));
    let zone = [
        mx("a.test", "mx.a.test", good.address),
        tlsa("mx.a.test", &right.usage_3()),
        mx("b.test", "mx.b.test", bad.address),
        tlsa("mx.b.test", &right.usage_3()),
        // Not signed: opportunistic, whatever its records.
        mx("insecure.test", "mx.insecure.test", weak.address),
        tlsa("mx.insecure.test", &right.usage_3()),
        // No MX: that there is none is secure, too.
        format!("alone.test. IN A {}\n", good.address.ip()),
        tlsa("alone.test", &right.usage_3()),
    ];
    let names = NameServer::believed(&zone.concat());
    let config = Config::new(([127, 0, 0, 1], 1).into())
        .set("relay", "smarthost", "\"\"")
        .set("relay", "mx_port", "2525")
        .set("dns", "servers", format!("[\"{}\"]", names.address))
        .set("dns", "dnssec", "\"trust-ad\"");
    let server = Server::start(&config);
    let mut client = server.client();
    let id = client.mail(FROM, &["r@b.test"], BODY);
    for to in ["r@a.test", "r@alone.test", "r@insecure.test"] {
        client.mail(FROM, &[to], BODY);
    }
    good.wait(2);
    assert!(weak.one().tls);
    waits(&server, &id, &bad, "the certificate is not believed: it does not fit the TLSA records");
    let proofs = |proof: &str| server.metric("ringpost_tls_outbound_handshakes_total", proof);
    assert_eq!((proofs("proof=\"dane\""), proofs("proof=\"none\"")), (2.0, 1.0));
    let (text, _) = explain(&server, "r@a.test");
    assert!(text.contains("mx.a.test  required: DANE, 1 usable TLSA records"), "{text}");
    server.stop();
}

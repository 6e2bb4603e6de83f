//! TLS towards next hops without DANE: opportunistic, required, and logins at the smarthost.
#![allow(clippy::disallowed_methods, reason = "tests write certificates and passwords")]

use crate::harness::pki::Shop;
use crate::harness::secure::Pair;
use crate::harness::server::PROGRAM;
use crate::harness::{Config, Hop, Server, until};
use serde_json::Value;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;

const BODY: &[u8] = b"From: a@client.test\r\nSubject: x\r\n\r\nhello\r\n";
const FROM: &str = "a@client.test";
const SECRET: &str = "Correct.Horse.Battery";

fn reason(m: &Value) -> &str {
    m["recipients"][0]["delay_reason"].as_str().unwrap_or("")
}

fn secured(shop: &Shop) -> Hop {
    let hop = Hop::start();
    hop.secure(shop);
    hop
}

#[test]
fn opportunistic_takes_any_certificate_and_says_ehlo_again() {
    let hop = secured(&Shop::expired("x.test"));
    let server = Server::relay_to(hop.address);
    let long = [BODY, &b"0123456789 0123456789\r\n".repeat(50_000)].concat();
    server.client().mail(FROM, &["r@a.test"], BODY);
    server.client().mail(FROM, &["r@a.test"], &long);
    let mails = hop.wait(2);
    assert!(mails.iter().all(|m| m.tls));
    assert!(mails.iter().any(|m| m.split().1 == BODY) && mails.iter().any(|m| m.split().1 == long));
    assert!(hop.said("EHLO").len() >= 2 && hop.said("EHLO")[..2] == [false, true]);
    assert!(hop.said("MAIL").iter().all(|tls| *tls) && hop.said("RCPT").iter().all(|tls| *tls));
    let text = server.event_with("tls_out", &hop.address.to_string());
    assert!(text.contains("TLSv1.3 TLS_") && text.ends_with(", not verified"), "{text}");
    server.stop();
}

#[test]
fn a_failed_handshake_is_tried_once_more_in_clear_text_and_remembered() {
    let hop = Hop::start();
    // Offered, agreed to, and then no TLS: the connection is closed.
    hop.offer(&["PIPELINING", "STARTTLS"]);
    let server = Server::relay_to(hop.address);
    server.client().mail(FROM, &["r@a.test"], BODY);
    assert!(!hop.one().tls);
    assert_eq!(hop.said("STARTTLS").len(), 1);
    assert!(server.event("tls_out_failed").contains("in clear text for an hour"));
    assert_eq!(server.metric("ringpost_tls_outbound_handshakes_failed_total", ""), 1.0);
    assert_eq!(server.metric("ringpost_tls_outbound_cleartext_total", ""), 1.0);
    // A greeting that is refused ends the idle connection: the next one is a fresh one.
    let before = hop.said("EHLO").len();
    hop.refuse("MAIL", "421 4.3.2 Not on this connection");
    server.client().mail(FROM, &["r2@a.test"], BODY);
    until("another connection", || {
        (hop.said("EHLO").len() > before || hop.said("MAIL").len() > 1).then_some(())
    });
    hop.accept();
    // Whether it has been put off by now or is being tried a last time: in the end it goes.
    server.flushed();
    assert!(hop.wait(2).iter().all(|m| !m.tls));
    assert_eq!(hop.said("STARTTLS").len(), 1, "it is not tried again within the hour");
    server.stop();
}

#[test]
fn clear_text_behind_the_reply_to_starttls_is_refused() {
    let hop = secured(&Shop::alone("x.test"));
    hop.answer(|c| (c == "STARTTLS").then(|| b"220 go\r\n250 2.0.0 evil\r\n".to_vec()));
    let server = Server::relay_to(hop.address);
    let id = server.client().mail(FROM, &["r@a.test"], BODY);
    let m = server.listed(&id, |m| !reason(m).is_empty());
    assert!(reason(&m).contains("clear text behind the reply to STARTTLS"), "{m:#}");
    assert!(hop.mails().is_empty() && hop.said("MAIL").is_empty());
    server.stop();
}

/// A server whose smarthost must be verified by `roots`.
fn required(to: SocketAddr, roots: &str, change: impl Fn(Config) -> Config) -> Server {
    required_in(Arc::new(crate::harness::server::directory()), to, roots, change)
}

fn required_in(
    dir: Arc<tempfile::TempDir>,
    to: SocketAddr,
    roots: &str,
    change: impl Fn(Config) -> Config,
) -> Server {
    let file = dir.path().join("roots.pem");
    std::fs::write(&file, roots).expect("a file");
    let config = Config::new(to).set("relay", "smarthost_tls", "\"required\"").set(
        "tls",
        "roots",
        format!("{:?}", file.display().to_string()),
    );
    Server::start_in(dir, &change(config))
}

#[test]
fn required_verifies_or_defers() {
    let good = Shop::issued("127.0.0.1");
    let hop = secured(&good);
    let server = required(hop.address, &good.roots, |c| c);
    server.client().mail(FROM, &["r@a.test"], BODY);
    assert!(hop.one().tls);
    assert!(server.event("tls_out").ends_with(", verified"));
    assert_eq!(server.metric("ringpost_tls_outbound_handshakes_total", "proof=\"authority\""), 1.0);
    let out = server.run(&["explain", "route", "r@a.test"]);
    let text = String::from_utf8(out.stdout).expect("text");
    assert!(text.contains("TLS           required: a certificate of a known authority"), "{text}");
    server.stop();
    // Another name, another authority, and no TLS at all.
    let other = Shop::issued("127.0.0.2");
    let cases = [
        (secured(&other), &other.roots, "it is for other names"),
        (secured(&other), &good.roots, "no known authority has issued it"),
        (Hop::start(), &good.roots, "TLS is required, but was not offered"),
    ];
    for (hop, roots, why) in cases {
        let server = required(hop.address, roots, |c| c);
        let id = server.client().mail(FROM, &["r@a.test"], BODY);
        let m = server.listed(&id, |m| !reason(m).is_empty());
        assert!(reason(&m).contains(why), "{m:#}");
        assert!(hop.mails().is_empty() && hop.said("MAIL").is_empty());
        server.stop();
    }
}

#[test]
fn mail_that_never_finds_a_verified_next_hop_bounces_in_the_end() {
    let (hop, back) = (Hop::start(), Hop::start());
    let server = required(hop.address, &Shop::issued("x.test").roots, |c| {
        let mut c = c.set("queue", "lifetime", "\"1s\"").set("queue", "retry_first", "\"1s\"");
        c.tail = format!("[[route]]\ndomain = \"client.test\"\nnext_hop = \"{}\"\n", back.address);
        c
    });
    server.client().mail(FROM, &["r@a.test"], BODY);
    let bounce = until("a bounce", || {
        // Its time is looked at when the next attempt has failed.
        server.queue(&["flush", "--all"]);
        back.mails().first().cloned()
    });
    let text = bounce.text();
    assert!(text.contains("TLS is required, but was not offered"), "{text}");
    // RFC 3463 §3.5: delivery time expired.
    assert!(text.contains("Status: 5.4.7"), "{text}");
    server.drained();
    assert!(hop.mails().is_empty());
    server.stop();
}

/// Our own server as the smarthost of another one of ours.
fn smarthost(scheme: &str, mechanisms: &str) -> (Hop, Server, String) {
    let (hop, dir) = (Hop::start(), Arc::new(crate::harness::server::directory()));
    let users = dir.path().join("users");
    std::fs::write(&users, "").expect("a file");
    let mut child = Command::new(PROGRAM)
        .args(["user", "add", "ann@a.test", "--password-stdin", "--scheme", scheme, "--file"])
        .arg(&users)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the program runs");
    let line = format!("{SECRET}\n");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), line.as_bytes()).expect("it listens");
    assert!(child.wait().expect("a child").success());
    let pair = Pair::make(dir.path(), "smart", "127.0.0.1");
    let roots = std::fs::read_to_string(&pair.certificate).expect("a file");
    let mut config = Config::new(hop.address)
        .set("relay", "networks", "[]")
        .set("tls", "certificate", format!("{:?}", pair.certificate))
        .set("tls", "key", format!("{:?}", pair.key))
        .set("auth", "users", format!("{:?}", users.display().to_string()))
        .set("auth", "mechanisms", format!("[{mechanisms}]"));
    config.tail =
        "[[listener]]\nprotocol = \"submission\"\naddress = \"127.0.0.1:0\"\ntls = \"required\"\n".into();
    (hop, Server::start_in(dir, &config), roots)
}

#[test]
fn logins_at_a_smarthost_of_our_own() {
    for (scheme, mechanisms, used) in [
        ("scram-sha-256", "\"SCRAM-SHA-256\", \"PLAIN\"", "SCRAM-SHA-256"),
        ("plain", "\"SCRAM-SHA-1\", \"PLAIN\"", "SCRAM-SHA-1"),
        ("plain", "\"PLAIN\", \"LOGIN\"", "PLAIN"),
        ("plain", "\"LOGIN\"", "LOGIN"),
    ] {
        let (hop, smart, roots) = smarthost(scheme, mechanisms);
        let login = |password: &str| {
            let dir = Arc::new(crate::harness::server::directory());
            let file = dir.path().join("login");
            std::fs::write(&file, format!("ann@a.test {password}\n")).expect("a file");
            let file = format!("{:?}", file.display().to_string());
            required_in(dir, smart.smtp, &roots, |c| c.set("relay", "smarthost_auth", file.clone()))
        };
        let server = login(SECRET);
        server.client().mail("ann@a.test", &["r@b.test"], BODY);
        assert_eq!(hop.one().to, ["<r@b.test>"], "{used}");
        let label = format!("mechanism=\"{used}\"");
        assert_eq!(smart.metric("ringpost_auth_success_total", &label), 1.0);
        // A wrong password: the mail waits, and says why.
        let wrong = login("Wrong.Horse");
        let id = wrong.client().mail("ann@a.test", &["r@b.test"], BODY);
        let m = wrong.listed(&id, |m| !reason(m).is_empty());
        assert!(reason(&m).contains("login refused: 535"), "{m:#}");
        for lines in [server.lines(), wrong.lines(), smart.lines()] {
            let text = lines.join("\n");
            assert!(!text.contains(SECRET) && !text.contains("Wrong.Horse"), "{text}");
        }
        for server in [server, wrong, smart] {
            server.stop();
        }
    }
}

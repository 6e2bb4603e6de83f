//! The attack catalogue over real sockets: what hostile clients send, and that nothing comes of it.
//!
//! One function for a row. Rows 4 and 32 (TLS) are in `tls`, 5 (replies injected behind STARTTLS) in
//! `starttls_out`, 11 (AUTH) in `auth`, 12 in `proxy` and `xclient`, 21 also in
//! `open_relay`, 31 in `submission`, 2, 9 and 20 (next hops) in `hostile_hops`, 14 to 17 and 37
//! (resources) in `hostile_load`.

use crate::harness::{Client, Config, Hop, Server};
use std::collections::BTreeSet;

pub const FROM: &str = "a@client.test";
pub const TO: &str = "b@next.test";

/// What is not CRLF.CRLF, and some programs take for it.
pub const SMUGGLERS: [&[u8]; 8] =
    [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n", b"\r\n\0.\r\n", b"\r\n.\r\r\n"];

/// The server still serves: a message goes through.
#[track_caller]
pub fn still_serves(server: &Server, hop: &Hop) {
    let id = server.client().mail(FROM, &["alive@next.test"], b"S: alive\r\n\r\n");
    crate::harness::until("the message after the attack", || {
        hop.mails().iter().any(|m| m.split().0.contains(&id)).then_some(())
    });
    assert_eq!(server.metric("ringpost_session_panics_total", ""), 0.0);
}

fn pair() -> (Hop, Server) {
    let hop = Hop::start();
    let server = Server::relay_to(hop.address);
    (hop, server)
}

#[test]
fn row_01_inbound_smuggling() {
    let (hop, server) = pair();
    for smuggler in SMUGGLERS {
        let mut client = server.client();
        client.envelope(FROM, &[TO]);
        let evil = format!("MAIL FROM:<evil@evil.test>\r\nRCPT TO:<{TO}>\r\nDATA\r\nS: evil\r\n\r\nevil");
        let wire = [b"S: x\r\n\r\nbody", smuggler, evil.as_bytes(), b"\r\n.\r\n"].concat();
        let reply = client.data(wire);
        // One message, one reply, and a refusal: then the next command is answered as itself.
        assert!(reply.0.starts_with("550 5.5.2") || reply.0.starts_with("550 5.6.0"), "{reply:?}");
        client.say("NOOP").expect("250 2.0.0 Ok");
        client.say("QUIT").expect("221 ");
        client.expect_end();
    }
    still_serves(&server, &hop);
    assert_eq!(hop.mails().len(), 1, "{:?}", hop.mails());
}

#[test]
fn row_03_bdat_abuse() {
    let (hop, server) = pair();
    for size in ["99999999999999999999", "-1", "", "0x10", "18446744073709551616", "1 LAST LAST"] {
        let mut client = server.client();
        client.envelope(FROM, &[TO]);
        client.send(format!("BDAT {size}\r\nMAIL FROM:<x@y.test>\r\n"));
        // What follows cannot be told from commands: the session ends.
        client.reply().expect("501 5.5.4");
        client.expect_end();
    }
    let mut client = server.client();
    client.send(format!("BDAT {}\r\n", u64::MAX));
    let reply = client.reply();
    assert!(matches!(reply.code(), 501 | 552), "{reply:?}");
    client.expect_end();
    // No dot ends a chunk; the announced octets are swallowed before every refusal.
    let mut client = server.client();
    client.send(b"BDAT 19 LAST\r\nQUIT\r\n.\r\nRSET\r\n..\r\n");
    client.send(b"NOOP\r\n");
    client.reply().expect("503 5.5.1");
    client.reply().expect("250 2.0.0 Ok");
    let mut client = server.client();
    client.envelope(FROM, &[TO]);
    client.send(b"BDAT 6\r\nS: x\r\n");
    client.reply().expect("250 2.0.0 6 octets");
    client.say("DATA").expect("503 5.5.1");
    client.say("MAIL FROM:<x@y.test>").expect("503 5.5.1");
    client.say("RCPT TO:<x@y.test>").expect("503 5.5.1");
    client.say("RSET").expect("250 2.0.0");
    client.say("BDAT 0 LAST").expect("503 5.5.1");
    client.envelope(FROM, &[TO]);
    client.say("BDAT 0 LAST").id();
    client.envelope(FROM, &[TO]);
    client.send(b"BDAT 10 LAST\r\nS: \r\na\nb\r\n");
    client.reply().expect("550 5.5.2");
    let id = client.mail(FROM, &[TO], b"S: after\r\n\r\n");
    hop.wait(2);
    still_serves(&server, &hop);
    let all: Vec<String> = hop.mails().iter().map(|m| m.split().0).collect();
    assert!(all.len() == 3 && all.iter().any(|t| t.contains(&id)), "{all:?}");
}

#[test]
fn row_06_http_to_mail() {
    let (hop, server) = pair();
    for verb in ["GET / HTTP/1.1", "POST / HTTP/1.1", "CONNECT x:25 HTTP/1.1", "PUT /x HTTP/1.0"] {
        let mut client = Client::connect(server.smtp);
        client.send(format!(
            "{verb}\r\nHost: mx.test.example\r\n\r\nEHLO x.test\r\nMAIL FROM:<{FROM}>\r\nRCPT TO:<{TO}>\r\n"
        ));
        client.reply().expect("554 5.5.1");
        client.expect_end();
    }
    // At most three unknown commands before EHLO.
    let mut client = Client::connect(server.smtp);
    client.send(b"\x16\x03\x01 hello\r\nFOO\r\nBAR\r\nBAZ\r\nEHLO x.test\r\n");
    let replies = client.until_end();
    assert!(replies.last().unwrap().0.starts_with("421 4.7.0"), "{replies:?}");
    assert!(replies.iter().all(|r| r.code() >= 400), "{replies:?}");
    still_serves(&server, &hop);
}

#[test]
fn row_07_command_execution_from_addresses() {
    let hop = Hop::start();
    let config = Config::new(hop.address).set("domains", "local", "[\"here.test\"]");
    let server = Server::start(&config);
    let mut client = server.client();
    client.say("MAIL FROM:<;sleep 66;>").expect("501 5.1.7");
    client.say("MAIL FROM:<a@b.test").expect("501 ");
    client.envelope("${run{/bin/id}}@client.test", &["`id`@next.test", "${run{x}}@next.test"]);
    client.say("RCPT TO:<|prog@here.test>").expect("550 5.1.1");
    client.say("RCPT TO:<../../x@here.test>").expect("5");
    client.say("RCPT TO:</etc/passwd@here.test>").expect("550 5.1.1");
    client.say("RCPT TO:<a@/etc/passwd>").expect("501 5.1.3");
    client.data(b"S: x\r\n\r\n.\r\n").id();
    let mail = hop.one();
    assert!(mail.from.starts_with("<${run{/bin/id}}@client.test>"), "{}", mail.from);
    assert_eq!(mail.to, ["<`id`@next.test>", "<${run{x}}@next.test>"], "opaque bytes, unchanged");
    still_serves(&server, &hop);
}

#[test]
fn row_08_metadata_injection_into_spool_and_dsn() {
    let (hop, server) = pair();
    hop.answer(|c| c.starts_with("RCPT TO:<bad").then(|| b"550 5.1.1 No\r\n".to_vec()));
    let mut client = server.client();
    client.say("MAIL FROM:<a@client.test> ENVID=x+0D+0ABcc:+20evil").expect("501 5.5.4");
    client.say("MAIL FROM:<a@client.test> ENVID=x+00").expect("501 5.5.4");
    client.say("MAIL FROM:<a@client.test> ENVID=a+zz").expect("501 5.5.4");
    client.say("MAIL FROM:<a@client.test> AUTH=a+0D+0Ab").expect("5");
    client.say("MAIL FROM:<a\u{1}b@client.test>").expect("50");
    client.say("MAIL FROM:<a@client.test> ENVID=ok RET=HDRS").expect("250 2.1.0");
    client.say("RCPT TO:<bad@next.test> ORCPT=rfc822;a+0D+0AX").expect("501 5.5.4");
    client.say("RCPT TO:<bad@next.test> ORCPT=rfc822;a+00").expect("501 5.5.4");
    client.say("RCPT TO:<bad@next.test> ORCPT=rfc822;fine+2Bx@else.test").expect("250 ");
    client.data(b"S: x\r\n\r\n.\r\n").id();
    let report = hop.one().text();
    assert!(report.contains("Original-Recipient: rfc822;"), "{report}");
    assert!(report.contains("fine+x@else.test") || report.contains("fine+2Bx@else.test"), "{report}");
    assert!(!report.contains("evil"), "{report}");
    still_serves(&server, &hop);
}

#[test]
fn row_10_recipient_overflow() {
    let hop = Hop::start();
    let config = Config::new(hop.address)
        .set("limits", "recipients", "150")
        .set("limits", "recipients_overshoot", "1")
        .set("limits", "error_delay", "\"0s\"");
    let server = Server::start(&config);
    let mut client = server.client();
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("250 ");
    let mut taken = 0;
    let mut writer = client.stream.try_clone().unwrap();
    let flood = std::thread::spawn(move || {
        for n in 0..50_000 {
            use std::io::Write;
            if writer.write_all(format!("RCPT TO:<r{n}@next.test>\r\n").as_bytes()).is_err() {
                return;
            }
        }
    });
    let replies = client.until_end();
    flood.join().unwrap();
    for r in &replies[..150] {
        r.expect("250 2.1.5");
        taken += 1;
    }
    replies[150].expect("452 4.5.3");
    assert!(replies.last().unwrap().0.starts_with("421 4.7.0"), "{:?}", replies.last());
    assert!(taken >= 100 && replies.len() < 300, "{taken} {}", replies.len());
    // Within the overshoot the rest is told to come later and the message goes to those taken.
    let config = config.set("limits", "recipients_overshoot", "1000");
    let server = Server::start(&config);
    let mut client = server.client();
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("250 ");
    let flood: String = (0..600).map(|n| format!("RCPT TO:<r{n}@next.test>\r\n")).collect();
    client.send(flood);
    let replies: Vec<u16> = (0..600).map(|_| client.reply().code()).collect();
    assert!(replies[..150].iter().all(|c| *c == 250) && replies[150..].iter().all(|c| *c == 452));
    client.data(b"S: x\r\n\r\n.\r\n").id();
    server.drained();
    let to: BTreeSet<String> = hop.mails().into_iter().flat_map(|m| m.to).collect();
    assert_eq!(to.len(), 150);
}

#[test]
fn row_13_early_talkers_and_bad_pipelining() {
    let (hop, server) = pair();
    let all =
        format!("EHLO x.test\r\nMAIL FROM:<{FROM}>\r\nRCPT TO:<{TO}>\r\nDATA\r\nS: x\r\n\r\n.\r\nQUIT\r\n");
    // Everything blindly, before the greeting could be read.
    let mut client = Client::raw(server.smtp);
    client.send(&all);
    let replies = client.until_end();
    assert!(replies.last().unwrap().0.starts_with("554 5.5."), "{replies:?}");
    // Past EHLO, and past DATA.
    let mut client = Client::connect(server.smtp);
    client.send(b"EHLO x.test\r\nNOOP\r\n");
    client.reply().expect("554 5.5.0");
    client.expect_end();
    let mut client = server.client();
    client.envelope(FROM, &[TO]);
    client.send(b"DATA\r\nS: x\r\n\r\n.\r\n");
    client.reply().expect("554 5.5.0");
    client.expect_end();
    still_serves(&server, &hop);
    assert_eq!(hop.mails().len(), 1);
}

#[test]
fn row_18_junk_and_harvesting() {
    let (hop, server) = pair();
    for line in ["NOOP", "RSET", "VRFY root", "HELP", "EHLO again.test"] {
        let mut client = server.client();
        let mut answered = 0;
        loop {
            // One at a time: EHLO may not be pipelined.
            if !client.try_send(format!("{line}\r\n")) {
                break;
            }
            match client.try_reply() {
                Some(r) if r.0.starts_with("421 4.7.0") => break client.expect_end(),
                Some(r) => assert!(matches!(r.code(), 250 | 252 | 214), "{line}: {r:?}"),
                None => panic!("{line}: closed without 421"),
            }
            answered += 1;
            assert!(answered <= 101, "{line}");
        }
        assert!(answered >= 100, "{line}: {answered}");
    }
    // Harvesting: every error counts, and from the tenth on each costs time.
    let config = Config::new(hop.address).set("domains", "local", "[\"here.test\"]").set(
        "limits",
        "error_delay",
        "\"1ms\"",
    );
    let server = Server::start(&config);
    let mut client = server.client();
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("250 ");
    let harvest: String = (0..100).map(|n| format!("RCPT TO:<guess{n}@here.test>\r\n")).collect();
    client.try_send(harvest);
    let replies = client.until_end();
    assert_eq!(replies.iter().filter(|r| r.0.starts_with("550 5.1.1")).count(), 20, "{replies:?}");
    replies.last().unwrap().expect("421 4.7.0");
    still_serves(&server, &hop);
}

#[test]
fn row_19_mail_loop() {
    let (hop, server) = pair();
    let mut client = server.client();
    let body = |n: usize| {
        let received = "Received: from a by b; Mon, 1 Jan 2024 00:00:00 +0000\r\n".repeat(n);
        format!("{received}Subject: x\r\n\r\n.\r\n")
    };
    client.envelope(FROM, &[TO]);
    client.data(body(101)).expect("554 5.4.6");
    client.envelope(FROM, &[TO]);
    client.data(body(49)).id();
    hop.wait(1);
    // Two relays that send each other's mail back and forth: it ends, with a report.
    let (one, two) = (Hop::later(), Hop::later());
    let loops = |me: std::net::SocketAddr, other: std::net::SocketAddr| {
        let mut config = Config::new(hop.address);
        config.tail = format!(
            "[[route]]\ndomain = \"loop.test\"\nnext_hop = \"{other}\"\n\
             [[listener]]\nprotocol = \"smtp\"\naddress = \"{me}\"\n"
        );
        Server::start(&config)
    };
    let (a, b) = (loops(one, two), loops(two, one));
    let mut client = Client::hello(a.smtp);
    client.mail(FROM, &["x@loop.test"], b"S: loop\r\n\r\n");
    let report = hop.wait(2).remove(1);
    assert!(report.from.starts_with("<>") && report.text().contains("5.4.6"), "{}", report.text());
    a.drained();
    b.drained();
}

#[test]
fn row_21_open_relay_variants() {
    let hop = Hop::start();
    let config = Config::new(hop.address)
        .set("relay", "networks", "[]")
        .set("domains", "local", "[\"here.test\"]")
        .set("domains", "relay", "[\"customer.test\"]");
    let server = Server::start(&config);
    let variants = [
        "x@else.test",
        "x%else.test@here.test",
        "x%else.test@customer.test",
        "x%else.test@mx.test.example",
        "\"x@else.test\"@here.test",
        "\"x@else.test\"@customer.test",
        "\"x@else.test\"",
        "x@[127.0.0.1]",
        "x@else.test@here.test",
        "else.test!x@here.test",
        "else.test!x@customer.test",
        "else.test!x",
        "@here.test:x@else.test",
        "@customer.test,@here.test:x@else.test",
        "x@ELSE.test.",
        "x@here.test.else.test",
        "x@customer.test ,x@else.test",
        "x@127.0.0.1",
    ];
    for variant in variants {
        let mut client = server.client();
        client.say(&format!("MAIL FROM:<{FROM}>")).expect("250 ");
        let reply = client.say(&format!("RCPT TO:<{variant}>"));
        assert!(matches!(reply.code(), 500..=554), "{variant}: {reply:?}");
        let reply = client.say("DATA");
        assert!(matches!(reply.code(), 503 | 554), "{variant}: {reply:?}");
    }
    let mut client = server.client();
    client.mail(FROM, &["x@customer.test"], b"S: ours\r\n\r\n");
    assert_eq!(hop.one().to, ["<x@customer.test>"]);
    assert!(server.metric("ringpost_rejections_total", "reason=\"relay\"") >= 6.0);
}

#[test]
fn row_22_header_bombs() {
    let (hop, server) = pair();
    let mut client = server.client();
    let mut refused = |wire: String| {
        client.envelope(FROM, &[TO]);
        client.data(wire).expect("552 5.3.4");
    };
    refused(format!("To: {}\r\n\r\n.\r\n", "a@b.test,".repeat(1_000_000)));
    refused(format!("{}\r\n.\r\n", "X: y\r\n".repeat(100_000)));
    refused(format!("To: a@b.test,\r\n{}\r\n.\r\n", " a@b.test,\r\n".repeat(100_000)));
    // Within the limits nothing in a header costs more than its bytes.
    let deep = format!("To: {}a@b.test{}\r\n\r\n.\r\n", "(".repeat(30_000), ")".repeat(30_000));
    client.envelope(FROM, &[TO]);
    client.data(&deep).id();
    assert_eq!(hop.one().split().1, &deep.as_bytes()[..deep.len() - 3]);
    still_serves(&server, &hop);
}

#[test]
fn row_36_log_and_label_injection() {
    let (hop, server) = pair();
    hop.refuse("RCPT", "450 4.2.0 \x1b[31mred \"quote\" \x07 {label=\"x\"}");
    let mut client = Client::connect(server.smtp);
    let reply = client.say("EHLO x\"{}';DROP\u{1b}[31m");
    assert!(reply.code() == 501 || reply.code() == 500, "{reply:?}");
    client.say("EHLO evil{label=\"1\"}'%s%n").expect("250-");
    let id = client.mail("\"a'; %n\"@client.test", &["q{x='1'}@next.test"], b"S: x\r\n\r\n");
    let m = server.listed(&id, |m| m["recipients"][0]["delay_reason"].is_string());
    assert!(!m["recipients"][0]["delay_reason"].as_str().unwrap().contains('\x1b'), "{m}");
    let out = server.run(&["queue", "show", &id]).stdout;
    assert!(!out.contains(&0x1b) && !out.contains(&7), "{}", String::from_utf8_lossy(&out));
    let text = server.page("/metrics").1;
    for evil in ["evil", "client.test", "next.test", "label="] {
        assert!(!text.contains(evil), "{evil} in the metrics");
    }
    // Every line of the log is one JSON object.
    let lines = server.lines();
    assert!(!lines.is_empty());
    for line in lines {
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
    }
    hop.accept();
    server.queue(&["flush", &id]);
    let mail = hop.one();
    assert!(mail.from.starts_with("<\"a'; %n\"@client.test>"), "{}", mail.from);
    assert!(mail.split().0.starts_with("Received: from evil?label"), "{}", mail.split().0);
}

//! The plain relay, end to end over real sockets: what comes in goes out, byte for byte.

use crate::harness::client::stuffed;
use crate::harness::{Client, Config, Hop, Server, until};

const FROM: &str = "sender@client.test";
const TO: &str = "rcpt@next.test";

fn body(text: &str) -> Vec<u8> {
    format!("From: {FROM}\r\nTo: {TO}\r\nSubject: test\r\n\r\n{text}").into_bytes()
}

/// Sends bodies through one connection; each arrives as it was, behind one trace field with its id.
#[track_caller]
fn through(bodies: &[Vec<u8>]) {
    let hop = Hop::start();
    let server = Server::relay_to(hop.address);
    let mut client = server.client();
    let ids: Vec<String> = bodies.iter().map(|b| client.mail(FROM, &[TO], b)).collect();
    let mails = hop.wait(bodies.len());
    for (id, body) in ids.iter().zip(bodies) {
        let mail = mails.iter().find(|m| m.split().0.contains(&format!(" id {id}\r\n")));
        let mail = mail.unwrap_or_else(|| panic!("{id} did not come"));
        let (trace, content) = mail.split();
        assert!(trace.starts_with("Received: from client.test (unknown [127.0.0.1])\r\n\tby "), "{trace}");
        assert!(trace.contains("by mx.test.example (ringpost) with ESMTP id "), "{trace}");
        assert!(content == *body, "{} bytes came as {}", body.len(), content.len());
        assert!(mail.from.starts_with(&format!("<{FROM}>")), "{}", mail.from);
        assert_eq!(mail.to, [format!("<{TO}>")]);
    }
    server.drained();
    server.stop();
}

#[test]
fn bodies_arrive_byte_for_byte() {
    through(&[
        body("Hello\r\n"),
        body(""),
        Vec::new(),
        b"\r\n".to_vec(),
        body(".\r\n..\r\n...\r\n.a\r\n. \r\na.\r\n.\r\n"),
        body("eight bits: \u{e4}\u{f6} and \x01\x7f\r\n"),
        body(&format!("{}\r\n", "x".repeat(60 << 10))),
        body(&format!("{}\r\n", ".".repeat(60 << 10))),
    ]);
}

/// Above `memory.spill` a body goes to a side file and from there to the next hop.
#[test]
fn large_bodies_go_through_side_files() {
    let line = "0123456789.".repeat(7) + "\r\n.\r\n";
    let large = body(&line.repeat((3 << 20) / line.len()));
    through(&[large.clone(), body("small\r\n"), large]);
}

#[test]
fn the_id_is_the_same_everywhere() {
    let hop = Hop::start();
    hop.refuse("RCPT", "450 4.2.0 Later");
    let server = Server::relay_to(hop.address);
    let id = server.client().mail(FROM, &[TO], &body("x\r\n"));
    server.listed(&id, |m| m["queue_name"] == "deferred");
    hop.accept();
    server.queue(&["flush", &id]);
    assert!(hop.one().split().0.contains(&format!(" id {id}\r\n\tfor <{TO}>; ")));
}

#[test]
fn several_recipients_and_domains() {
    let (hop, other) = (Hop::start(), Hop::start());
    let mut config = Config::new(hop.address);
    config.tail = format!("[[route]]\ndomain = \"other.test\"\nnext_hop = \"{}\"\n", other.address);
    let server = Server::start(&config);
    let to = ["a@next.test", "B@Next.Test", "c@other.test", "\"d e\"@next.test"];
    server.client().mail(FROM, &to, &body("x\r\n"));
    assert_eq!(other.one().to, ["<c@other.test>"]);
    until("all recipients", || {
        let mut all: Vec<String> = hop.mails().into_iter().flat_map(|m| m.to).collect();
        all.sort_unstable();
        (all == ["<\"d e\"@next.test>", "<B@Next.Test>", "<a@next.test>"]).then_some(())
    });
    // With several recipients the trace names none of them.
    assert!(hop.mails().iter().chain(&other.mails()).all(|m| !m.split().0.contains("for <")));
}

#[test]
fn bdat_in_chunks() {
    let hop = Hop::start();
    let server = Server::relay_to(hop.address);
    let mut client = server.client();
    client.envelope(FROM, &[TO]);
    let parts: [&[u8]; 3] = [b"Subject: x\r\n\r\n.\r\nab", b"c\r\n", b"..no stuffing\r\n"];
    client.send(b"BDAT 19\r\n");
    client.send(parts[0]);
    client.reply().expect("250 2.0.0 19 octets");
    client.send(format!("BDAT {}\r\n", parts[1].len()));
    client.send(parts[1]);
    client.reply().expect("250 2.0.0 3 octets");
    client.send(format!("BDAT {} LAST\r\n", parts[2].len()));
    client.send(parts[2]);
    client.reply().id();
    // One that does not end in CRLF gets it (RFC 5321 section 4.1.1.4).
    client.envelope(FROM, &[TO]);
    client.send(b"BDAT 9 LAST\r\nS: y\r\n\r\nz");
    client.reply().id();
    let mut contents: Vec<Vec<u8>> = hop.wait(2).iter().map(|m| m.split().1).collect();
    contents.sort_unstable();
    assert_eq!(contents, [b"S: y\r\n\r\nz\r\n".to_vec(), parts.concat()]);
}

#[test]
fn eight_bit_bodies_are_announced_as_such() {
    let hop = Hop::start();
    let server = Server::relay_to(hop.address);
    let mut client = server.client();
    client.mail("sender@client.test> BODY=8BITMIME SIZE=100", &[TO], "S: x\r\n\r\n\u{e4}\r\n".as_bytes());
    let mail = hop.one();
    assert!(mail.from.to_ascii_uppercase().contains("BODY=8BITMIME"), "{}", mail.from);
    assert_eq!(mail.split().1, "S: x\r\n\r\n\u{e4}\r\n".as_bytes());
}

/// A next hop without 8BITMIME gets a message it understands, or the sender is told; never mangled.
#[test]
fn eight_bit_bodies_never_go_to_a_seven_bit_hop() {
    let hop = Hop::start();
    hop.offer(&["PIPELINING"]);
    let server = Server::relay_to(hop.address);
    server.client().mail(
        "sender@client.test> BODY=8BITMIME",
        &[TO],
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\r\n\u{e4}\r\n"
            .as_bytes(),
    );
    let mail = hop.one();
    assert!(mail.wire.is_ascii(), "{}", mail.text());
    let text = mail.text();
    if mail.to == [format!("<{TO}>")] {
        assert!(text.contains("quoted-printable\r\n") && text.contains("=C3=A4"), "{text}");
    } else {
        assert!(mail.from.starts_with("<>") && text.contains("5.6.3"), "{text}");
    }
}

/// Everything a pipelining client may send together, in one segment (RFC 2920).
#[test]
fn pipelined_transactions() {
    let hop = Hop::start();
    let server = Server::start(&Config::new(hop.address).set("cores", "mta", "2"));
    let mut client = server.client();
    client.send(format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{TO}>\r\nDATA\r\n"));
    for n in 0..20 {
        for start in ["250 2.1.0", "250 2.1.5", "354 "] {
            client.reply().expect(start);
        }
        let wire = String::from_utf8(stuffed(format!("S: {n}\r\n\r\n.{n}\r\n").as_bytes())).unwrap();
        let next = format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{TO}>\r\nDATA\r\n");
        client.send(if n < 19 { wire + &next } else { wire + "QUIT\r\n" });
        client.reply().id();
    }
    client.reply().expect("221 2.0.0");
    client.expect_end();
    let mut got: Vec<Vec<u8>> = hop.wait(20).iter().map(|m| m.split().1).collect();
    got.sort_unstable();
    let mut sent: Vec<Vec<u8>> = (0..20).map(|n| format!("S: {n}\r\n\r\n.{n}\r\n").into_bytes()).collect();
    sent.sort_unstable();
    assert_eq!(got, sent);
}

#[test]
fn helo_clients_and_the_null_sender() {
    let hop = Hop::start();
    let server = Server::relay_to(hop.address);
    let mut client = Client::connect(server.smtp);
    client.say("HELO old.test").expect("250 mx.test.example");
    let id = client.mail("", &[TO], b"S: x\r\n\r\n");
    let mail = hop.one();
    assert!(mail.from.starts_with("<>"), "{}", mail.from);
    assert!(mail.split().0.contains(&format!(" with SMTP id {id}")), "{}", mail.split().0);
    client.say("VRFY someone").expect("252 2.5.2");
    client.say("HELP").expect("214 2.0.0");
    client.say("NOOP").expect("250 2.0.0");
    client.say("RSET").expect("250 2.0.0");
    client.say("QUIT").expect("221 2.0.0");
    client.expect_end();
}

#[test]
fn what_is_offered() {
    let hop = Hop::start();
    let server = Server::start(&Config::new(hop.address).set("limits", "message_size", "\"2MiB\""));
    let mut client = Client::connect(server.smtp);
    let hello = client.say("EHLO client.test").0;
    for extension in [
        "PIPELINING",
        "SIZE 2097152",
        "8BITMIME",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "CHUNKING",
        "DSN",
        "LIMITS ",
    ] {
        assert!(hello.lines().any(|l| l[4..].starts_with(extension)), "{extension}: {hello}");
    }
    assert!(!hello.contains("STARTTLS") && !hello.contains("AUTH"), "{hello}");
    client.say("MAIL FROM:<a@b.test> SIZE=2097153").expect("552 5.3.4");
    client.say("STARTTLS").expect("502 5.5.1");
    client.envelope(FROM, &[TO]);
    let line = "x".repeat(70) + "\r\n";
    client.data(line.repeat((2 << 20) / 72 + 10) + ".\r\n").expect("552 5.3.4");
    client.mail(FROM, &[TO], b"S: after\r\n\r\n");
    assert_eq!(hop.one().split().1, b"S: after\r\n\r\n");
    assert_eq!(server.metric("ringpost_rejections_total", "reason=\"size\""), 2.0);
}

/// A connection that died between two messages costs neither a message nor an attempt.
#[test]
fn a_dead_cached_connection_is_replaced_in_silence() {
    let hop = Hop::start();
    let server = Server::start(&Config::new(hop.address).set("destination", "idle", "\"60s\""));
    let mut client = server.client();
    client.mail(FROM, &[TO], b"S: 1\r\n\r\n");
    hop.wait(1);
    // The next command on the old connection ends it.
    let mut cut = false;
    hop.answer(move |c| (!std::mem::replace(&mut cut, true) && c.starts_with("MAIL")).then(Vec::new));
    client.mail(FROM, &[TO], b"S: 2\r\n\r\n");
    assert_eq!(hop.wait(2)[1].split().1, b"S: 2\r\n\r\n");
    server.drained();
    assert_eq!(server.metric("ringpost_deliveries_total", "result=\"deferred\""), 0.0);
}

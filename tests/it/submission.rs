//! Mail of our own users (RFC 6409): who may send what as whom, and what is added to it. The login
//! mostly comes from an intermediary (XCLIENT); AUTH itself has tests of its own.
#![allow(clippy::disallowed_methods, reason = "writes maps and users")]

use crate::harness::{Client, Config, Hop, Mail, Server, server, until};
use crate::hostile::still_serves;
use base64::Engine;
use std::sync::Arc;

/// A submission port; clients come through a proxy that names their login, or with AUTH.
fn start(hop: &Hop, change: impl Fn(Config) -> Config) -> Server {
    let dir = Arc::new(server::directory());
    let users = dir.path().join("users");
    std::fs::write(&users, "ann@a.test:{PLAIN}secret\n").unwrap();
    let mut config = Config::new(hop.address)
        .set("relay", "networks", "[\"127.0.0.1\"]")
        .set("auth", "users", format!("\"{}\"", users.display()))
        .set("auth", "allow_plaintext", "true");
    config.tail = "[[listener]]\nprotocol = \"submission\"\naddress = \"127.0.0.1:0\"\n\
                   xclient_from = [\"127.0.0.9\"]\n"
        .into();
    Server::start_in(dir, &change(config))
}

fn plain(login: &str, password: &str) -> String {
    let response = format!("\0{login}\0{password}");
    format!("AUTH PLAIN {}", base64::engine::general_purpose::STANDARD.encode(response))
}

/// A client that has logged in as `login`, through the proxy.
#[track_caller]
fn user(server: &Server, login: &str) -> Client {
    let mut client = Client::from([127, 0, 0, 9], server.smtp);
    client.reply().expect("220 ");
    client.say("EHLO proxy.test").expect("250-");
    client.say(&format!("XCLIENT ADDR=198.51.100.7 LOGIN={login}")).expect("220 ");
    client.say("EHLO laptop.home").expect("250-");
    client
}

/// The header without the empty line, and the body.
fn parts(mail: &Mail) -> (String, String) {
    let text = mail.text();
    let (head, body) = text.split_once("\r\n\r\n").expect("a header has an end");
    (format!("{head}\r\n"), body.to_owned())
}

fn header(mail: &Mail) -> String {
    parts(mail).0
}

fn count(header: &str, name: &str) -> usize {
    header.split("\r\n").filter(|l| l.to_ascii_lowercase().starts_with(name)).count()
}

#[test]
fn nobody_without_a_login() {
    let hop = Hop::start();
    let server = start(&hop, |c| c);
    // Not even clients that may relay elsewhere.
    let mut client = server.client();
    client.say("MAIL FROM:<a@b.test>").expect("530 5.7.0");
    client.say("RCPT TO:<c@next.test>").expect("530 5.7.0");
    client.say("MAIL FROM:<>").expect("530 5.7.0");
    assert_eq!(server.metric("ringpost_rejections_total", "reason=\"login\""), 3.0);
    client.say(&plain("ann@a.test", "secret")).expect("235 ");
    client.mail("a@b.test", &["c@next.test"], b"S: x\r\n\r\n");
    hop.wait(1);
    user(&server, "me").mail("a@b.test", &["c@next.test"], b"S: y\r\n\r\n");
    hop.wait(2);
    assert!(hop.mails().iter().all(|m| header(m).contains(" with ESMTPA id ")), "{:?}", hop.mails());
}

#[test]
fn date_and_message_id_are_added_when_missing() {
    let hop = Hop::start();
    let server = start(&hop, |c| c);
    let mut client = user(&server, "me");
    let id = client.mail("a@b.test", &["c@next.test"], b"Subject: bare\r\n\r\ntext\r\n");
    let mail = hop.one();
    let (head, body) = parts(&mail);
    assert_eq!((count(&head, "date:"), count(&head, "message-id:"), body.as_str()), (1, 1, "text\r\n"));
    assert!(head.contains(&format!("\r\nMessage-ID: <{id}@mx.test.example>\r\n")), "{head}");
    assert!(head.starts_with("Received: from laptop.home (unknown [198.51.100.7])\r\n"), "{head}");
    // What is there stays, bytes and order.
    let whole = b"Message-Id: <x@y>\r\nSubject: all there\r\nDATE: then\r\n\r\ntext\r\n";
    client.mail("a@b.test", &["c@next.test"], whole);
    hop.wait(2);
    let mail = hop.mails().into_iter().find(|m| header(m).contains("all there")).unwrap();
    assert!(header(&mail).ends_with("Message-Id: <x@y>\r\nSubject: all there\r\nDATE: then\r\n"), "{mail:?}");
    assert_eq!((count(&header(&mail), "date:"), count(&header(&mail), "message-id:")), (1, 1));
    // One that was resent lacks what belongs to its resending.
    client.mail(
        "a@b.test",
        &["c@next.test"],
        b"Resent-From: a@b.test\r\nSubject: again\r\nDate: then\r\n\r\n",
    );
    hop.wait(3);
    let mail = hop.mails().into_iter().find(|m| header(m).contains("again")).unwrap();
    let head = header(&mail);
    assert_eq!((count(&head, "resent-date:"), count(&head, "resent-message-id:")), (1, 1), "{head}");
    assert_eq!((count(&head, "date:"), count(&head, "message-id:")), (1, 0), "{head}");
    // Long ones, in many pieces; and the next message is judged by itself.
    let long =
        [b"Subject: long\r\n\r\n".as_slice(), &b"0123456789abcdef0123456789abcdef\r\n".repeat(100_000)]
            .concat();
    client.mail("a@b.test", &["c@next.test"], &long);
    client.mail("a@b.test", &["c@next.test"], b"Date: x\r\nMessage-ID: <short@x>\r\n\r\n");
    hop.wait(5);
    let mail = hop.mails().into_iter().find(|m| header(m).contains("Subject: long")).unwrap();
    assert_eq!((count(&header(&mail), "date:"), count(&header(&mail), "message-id:")), (1, 1));
    assert_eq!(parts(&mail).1.len(), 3_400_000);
    let mail = hop.mails().into_iter().find(|m| header(m).contains("<short@x>")).unwrap();
    assert_eq!((count(&header(&mail), "date:"), count(&header(&mail), "message-id:")), (1, 1));
}

/// Port 25 does not touch what others have written.
#[test]
fn a_relay_adds_nothing() {
    let hop = Hop::start();
    let server = Server::relay_to(hop.address);
    server.client().mail("a@b.test", &["c@next.test"], b"Subject: bare\r\n\r\n");
    let head = header(&hop.one());
    assert_eq!((count(&head, "date:"), count(&head, "message-id:"), count(&head, "received:")), (0, 0, 1));
}

#[test]
fn the_client_is_hidden_if_asked() {
    let hop = Hop::start();
    let server = start(&hop, |c| c.set("submission", "hide_client", "true"));
    user(&server, "me").mail("a@b.test", &["c@next.test"], b"Subject: x\r\n\r\n");
    let head = header(&hop.one());
    assert!(head.starts_with("Received: by mx.test.example (ringpost) with "), "{head}");
    for secret in ["198.51.100.7", "laptop", "127.0.0.9"] {
        assert!(!head.contains(secret), "{secret}: {head}");
    }
}

#[test]
fn a_login_sends_as_itself_or_as_the_map_says() {
    let hop = Hop::start();
    let dir = server::directory();
    let map = dir.path().join("senders");
    std::fs::write(&map, "me info@a.test, @b.test\nboss *\n").unwrap();
    let server = start(&hop, |c| c.set("submission", "senders", format!("\"{}\"", map.display())));
    let mut client = user(&server, "me");
    for (sender, taken) in [
        ("info@a.test", true),
        ("INFO+x@A.test", true),
        ("any@b.test", true),
        ("", true),
        ("boss@a.test", false),
        ("info@c.test", false),
        ("me@a.test", false),
    ] {
        let reply = client.say(&format!("MAIL FROM:<{sender}>"));
        reply.expect(if taken { "250 2.1.0" } else { "553 5.7.1" });
        client.say("RSET").expect("250 ");
    }
    user(&server, "boss").say("MAIL FROM:<anybody@anywhere.test>").expect("250 ");
    let mut other = user(&server, "you+40a.test");
    other.say("MAIL FROM:<info@a.test>").expect("553 5.7.1");
    other.say("MAIL FROM:<you@a.test>").expect("250 ");
    let mut ann = server.client();
    ann.say(&plain("ann@a.test", "secret")).expect("235 ");
    ann.say("MAIL FROM:<info@a.test>").expect("553 5.7.1");
    ann.say("MAIL FROM:<ann+list@a.test>").expect("250 ");
    assert_eq!(server.metric("ringpost_rejections_total", "reason=\"sender\""), 5.0);
    // Read again when it changes.
    std::fs::write(&map, "me info@a.test, @b.test, boss@a.test\nboss *\n").unwrap();
    until("the new map", || {
        let reply = client.say("MAIL FROM:<boss@a.test>");
        client.say("RSET").expect("250 ");
        (reply.code() == 250).then_some(())
    });
}

#[test]
fn rates_of_one_login() {
    let hop = Hop::start();
    let server = start(&hop, |c| {
        c.set("cores", "mta", "2").set("submission", "message_rate", "\"10/h\"").set(
            "submission",
            "recipient_rate",
            "\"25/h\"",
        )
    });
    // Over all its sessions, whatever the case of its name.
    let mut sent = 0;
    for name in ["me", "ME", "me", "Me"] {
        let mut client = user(&server, name);
        for _ in 0..5 {
            match client.say("MAIL FROM:<a@b.test>") {
                r if r.code() == 250 => sent += 1,
                r => drop(r.expect("450 4.7.1 Too much mail of this login")),
            }
            client.say("RSET").expect("250 ");
        }
    }
    assert_eq!(sent, 10);
    let mut client = user(&server, "you");
    client.say("MAIL FROM:<a@b.test>").expect("250 ");
    let replies: Vec<u16> =
        (0..40).map(|n| client.say(&format!("RCPT TO:<u{n}@next.test>")).code()).collect();
    assert_eq!(replies.iter().filter(|c| **c == 250).count(), 25);
    assert!(replies[25..].iter().all(|c| *c == 450), "{replies:?}");
    // What was taken is sent; others are not affected.
    client.data(b"S: x\r\n\r\n.\r\n").id();
    user(&server, "third").mail("a@b.test", &["c@next.test"], b"S: y\r\n\r\n");
    hop.wait(2);
    assert_eq!(server.metric("ringpost_rejections_total", "reason=\"rate\""), 25.0);
}

/// Nothing of all this opens the relay: without a login every trick fails, with one it is that login's.
#[test]
fn a_submission_port_without_authentication_is_no_relay() {
    let hop = Hop::start();
    let mut config = Config::new(hop.address).set("relay", "networks", "[\"127.0.0.1\"]").set(
        "domains",
        "relay",
        "[\"customer.test\"]",
    );
    config.tail =
        "[[listener]]\nprotocol = \"submission\"\nauth = \"off\"\naddress = \"127.0.0.1:0\"\n".into();
    let server = Server::start(&config);
    let mut stranger = Client::from([127, 0, 5, 1], server.smtp);
    stranger.reply().expect("220 ");
    stranger.say("EHLO x.test").expect("250-");
    stranger.say("MAIL FROM:<a@customer.test>").expect("250 ");
    stranger.say("RCPT TO:<x@else.test>").expect("554 5.7.1 Relay access denied");
    stranger.say("RCPT TO:<x%else.test@customer.test>").expect("554 5.7.1");
    still_serves(&server, &hop);
}

/// Attack catalogue, row 31: guessing gets slower and ends, told in a form that others read; nobody else
/// suffers from it.
#[test]
fn row_31_guessing_ends_for_the_client() {
    let hop = Hop::start();
    let server = start(&hop, |c| {
        c.set("limits", "login_failures", "4")
            .set("limits", "login_delay", "\"20ms\"")
            .set("limits", "login_delay_max", "\"100ms\"")
            .set("limits", "auth_failures", "100")
    });
    let connect = |from| {
        let mut client = Client::from(from, server.smtp);
        client.reply().expect("220 ");
        client.say("EHLO x.test").expect("250-");
        client
    };
    // The owner has logged in from home before.
    connect([127, 0, 6, 1]).say(&plain("ann@a.test", "secret")).expect("235 ");
    for n in 0..4 {
        connect([127, 0, 6, 6]).say(&plain("ann@a.test", &format!("guess{n}"))).expect("535 ");
    }
    let mut client = connect([127, 0, 6, 6]);
    client.say(&plain("ann@a.test", "secret")).expect("421 4.7.0 Too many failed logins");
    client.expect_end();
    assert_eq!(server.metric("ringpost_login_backoff_total", "delayed"), 3.0);
    assert_eq!(server.metric("ringpost_login_backoff_total", "refused"), 1.0);
    connect([127, 0, 6, 1]).say(&plain("ann@a.test", "secret")).expect("235 ");
    let failed = "service=submission mechanism=PLAIN result=failed login=\"ann@a.test\"";
    assert!(server.event_with("login_failed", failed).starts_with("client=127.0.6.6 port="));
    assert!(server.event_with("login_failed", "result=refused").starts_with("client=127.0.6.6 port="));
    let lines = server.lines();
    assert_eq!(lines.iter().filter(|l| l.contains("login_failed")).count(), 5, "{lines:?}");
    assert!(lines.iter().all(|l| !l.contains("guess") && !l.contains("secret")), "{lines:?}");
}

//! Delivery by LMTP (RFC 2033): each recipient for itself, whatever the server does in the middle.

use crate::harness::lmtp::{Act, Lmtp};
use crate::harness::{Config, Hop, Server, until};
use std::collections::BTreeMap;

const BODY: &[u8] = b"From: a@client.test\r\nSubject: x\r\n\r\nfirst\r\n.second\r\n";
const FROM: &str = "a@client.test";

/// A server whose mail for box.test goes to `next`, and all other to `other`.
fn server(next: &str, other: &Hop, change: impl Fn(Config) -> Config) -> Server {
    let mut config = change(Config::new(other.address).set("relay.timeouts", "final_dot", "\"1s\""));
    config.tail = format!("[[route]]\ndomain = \"box.test\"\nnext_hop = \"lmtp:{next}\"\n");
    Server::start(&config)
}

/// How often each recipient's mail was taken, without brackets and domain.
fn count(lmtp: &Lmtp) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for taken in lmtp.taken() {
        let name = taken.to.trim_start_matches('<').split('@').next().unwrap_or("").to_owned();
        *all.entry(name).or_insert(0) += 1;
    }
    all
}

fn once(names: &[&str]) -> BTreeMap<String, usize> {
    names.iter().map(|n| ((*n).to_owned(), 1)).collect()
}

#[test]
fn each_recipient_has_its_own_outcome() {
    let (lmtp, address) = Lmtp::start();
    let other = Hop::start();
    let mut full = true;
    lmtp.script(move |c| match c {
        _ if c.starts_with("RCPT TO:<gone") => Some(Act::Say("550 5.1.1 Gone")),
        ". <never@box.test>" => Some(Act::Say("554 5.7.1 Not for never")),
        ". <full@box.test>" if std::mem::take(&mut full) => Some(Act::Say("452 4.2.2 Full")),
        _ => None,
    });
    let server = server(&address.to_string(), &other, |c| c);
    let to = ["ok@box.test", "gone@box.test", "full@box.test", "never@box.test", "last@box.test"];
    let id = server.client().mail(FROM, &to, BODY);
    let m = server.listed(&id, |m| m["recipients"][0]["delay_reason"].as_str().is_some());
    assert_eq!(m["recipients"][0]["address"], "full@box.test", "{m:#}");
    assert!(m["recipients"][0]["delay_reason"].as_str().unwrap_or("").contains("452 4.2.2 Full"), "{m:#}");
    assert_eq!(count(&lmtp), once(&["ok", "last"]));
    server.flushed();
    assert_eq!(count(&lmtp), once(&["ok", "last", "full"]), "nobody gets it twice");
    let content = &lmtp.taken()[0].content;
    assert!(content.ends_with(b"\r\n\r\nfirst\r\n.second\r\n"), "{}", content.escape_ascii());
    assert!(lmtp.said("EHLO").is_empty() && !lmtp.said("LHLO mx.test.example").is_empty());
    // Both failures were told of, in one report.
    let report = other.one().text();
    assert_eq!(other.mails().len(), 1);
    for part in ["Diagnostic-Code: smtp; 550 5.1.1 Gone", "Diagnostic-Code: smtp; 554 5.7.1 Not for never"] {
        assert!(report.contains(part), "{report}");
    }
    let text = server.run(&["explain", "route", "ok@box.test"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains(&format!("now           LMTP to {address}\n")), "{text}");
    server.stop();
}

/// What has been answered stands; what has not is tried again.
#[test]
fn connections_that_end_between_the_replies() {
    let (lmtp, address) = Lmtp::start();
    let other = Hop::start();
    let mut times = 0;
    lmtp.script(move |c| {
        if !c.starts_with(". <c") {
            return None;
        }
        times += 1;
        match times {
            1 => Some(Act::Close),
            2 => Some(Act::Say("421 4.3.2 Going down")),
            _ => None,
        }
    });
    let server = server(&address.to_string(), &other, |c| c.set("destination", "connections", "1"));
    let to = ["a@box.test", "b@box.test", "c@box.test", "d@box.test"];
    server.client().mail(FROM, &to, BODY);
    until("the first two", || (lmtp.taken().len() == 2).then_some(()));
    server.flushed();
    assert_eq!(count(&lmtp), once(&["a", "b", "c", "d"]));
    assert!(other.mails().is_empty());
    server.stop();
}

/// One reply too few: the last recipient was not answered, whoever it was meant for.
#[test]
fn fewer_replies_than_recipients() {
    let (lmtp, address) = Lmtp::start();
    lmtp.offer(&["PIPELINING", "CHUNKING"]);
    let other = Hop::start();
    let mut silent = true;
    lmtp.script(move |c| (c == ". <b@box.test>" && std::mem::take(&mut silent)).then_some(Act::Nothing));
    let server = server(&address.to_string(), &other, |c| c.set("destination", "connections", "1"));
    let mut client = server.client();
    let first = client.mail(FROM, &["a@box.test", "b@box.test"], BODY);
    let m = server.listed(&first, |m| m["recipients"][0]["delay_reason"].as_str().is_some());
    assert_eq!(m["recipients"][0]["address"], "b@box.test", "{m:#}");
    let why = m["recipients"][0]["delay_reason"].as_str().unwrap_or("");
    assert!(why.contains("timed out after end of data"), "{why}");
    client.mail(FROM, &["c@box.test"], BODY);
    server.flushed();
    assert_eq!(count(&lmtp), once(&["a", "b", "c"]));
    server.stop();
}

#[test]
fn over_a_socket_in_the_file_system_in_one_connection() {
    let dir = crate::harness::server::directory();
    let path = dir.path().join("lmtp");
    let other = Hop::start();
    let next = format!("unix:{}", path.display());
    let server = server(&next, &other, |c| {
        c.set("destination", "connections", "1").set("destination", "idle", "\"20s\"")
    });
    let mut client = server.client();
    // It is not there yet.
    let id = client.mail(FROM, &["a0@box.test", "b0@box.test"], BODY);
    let m = server.listed(&id, |m| m["recipients"][0]["delay_reason"].as_str().is_some());
    let why = m["recipients"][0]["delay_reason"].as_str().unwrap_or("");
    assert!(why.contains(&format!("cannot connect to lmtp:{next}")), "{why}");
    let lmtp = Lmtp::at(&path);
    lmtp.offer(&["PIPELINING", "CHUNKING", "8BITMIME"]);
    server.flushed();
    for n in 1..10 {
        let (a, b) = (format!("a{n}@box.test"), format!("b{n}@box.test"));
        client.mail(FROM, &[&a, &b], BODY);
    }
    let all = lmtp.wait(20);
    assert!(all.iter().all(|t| t.content.ends_with(b"\r\n\r\nfirst\r\n.second\r\n")), "{all:?}");
    assert!(all.iter().all(|t| t.connection == all[0].connection), "it is used again: {all:?}");
    assert!(all.iter().all(|t| !t.chunk), "by DATA, whatever is offered: {all:?}");
    server.stop();
}

#[test]
fn a_server_of_smtp_is_left_alone() {
    let (smtp, other) = (Hop::start(), Hop::start());
    smtp.refuse("LHLO", "500 5.5.1 What");
    let server = server(&smtp.address.to_string(), &other, |c| c);
    let id = server.client().mail(FROM, &["a@box.test"], BODY);
    let m = server.listed(&id, |m| m["recipients"][0]["delay_reason"].as_str().is_some());
    let why = m["recipients"][0]["delay_reason"].as_str().unwrap_or("");
    assert!(why.contains("not greeted: 500 What"), "{why}");
    assert!(smtp.said("EHLO").is_empty() && smtp.said("HELO").is_empty() && smtp.said("MAIL").is_empty());
    server.stop();
}

/// What a server of LMTP has taken is in the mailbox: "delivered", unless the server reports itself.
#[test]
fn success_is_told_as_delivered() {
    let (lmtp, address) = Lmtp::start();
    let other = Hop::start();
    let server = server(&address.to_string(), &other, |c| c);
    server.client().mail(FROM, &["ok@box.test> NOTIFY=SUCCESS", "quiet@box.test"], BODY);
    let report = other.one().text();
    assert!(report.contains("Final-Recipient: rfc822; ok@box.test\r\nAction: delivered\r\nStatus: 2.0.0"));
    assert!(!report.contains("quiet@box.test"), "{report}");
    lmtp.offer(&["PIPELINING", "DSN"]);
    server.drained();
    // A fresh connection, which hears the offer.
    until("the end of the connection", || (!lmtp.said("QUIT").is_empty()).then_some(()));
    server.client().mail(FROM, &["ok@box.test> NOTIFY=SUCCESS"], BODY);
    lmtp.wait(3);
    server.drained();
    assert_eq!(other.mails().len(), 1, "the other server's affair");
    assert_eq!(
        lmtp.said("RCPT TO:<ok").last().map(String::as_str),
        Some("RCPT TO:<ok@box.test> NOTIFY=SUCCESS")
    );
    server.stop();
}

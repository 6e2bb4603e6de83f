//! Access maps: what operators have decided about clients, names, senders and recipients.
#![allow(clippy::disallowed_methods, reason = "writes maps")]

use crate::harness::dns::NameServer;
use crate::harness::{Client, Config, Hop, Server, client, server, until};
use crate::hostile::still_serves;
use std::path::Path;
use std::sync::Arc;

const KINDS: [&str; 4] = ["client", "helo", "sender", "recipient"];

fn write(dir: &Path, kind: &str, text: &str) {
    std::fs::write(dir.join(kind), text).expect("a map");
}

/// Relays for `cust.test`; with these maps.
fn start(hop: &Hop, maps: [&str; 4]) -> Server {
    let dir = Arc::new(server::directory());
    let mut config = Config::new(hop.address)
        .set("relay", "networks", "[\"127.0.0.1\"]")
        .set("domains", "relay", "[\"cust.test\"]")
        .set("domains", "postmaster", "\"p@next.test\"")
        .set("limits", "errors_soft", "0");
    for (kind, text) in KINDS.into_iter().zip(maps) {
        write(dir.path(), kind, text);
        config = config.set("access", kind, format!("\"{}\"", dir.path().join(kind).display()));
    }
    Server::start_in(dir, &config)
}

/// A client that may not relay.
#[track_caller]
fn stranger(server: &Server, last: u8, helo: &str) -> Client {
    let mut client = Client::from([127, 0, 2, last], server.smtp);
    client.reply().expect("220 ");
    client.say(&format!("EHLO {helo}")).expect("250-");
    client
}

const TEXT: &[u8] = b"Subject: x\r\n\r\n";

#[test]
fn clients_and_their_names() {
    let hop = Hop::start();
    let server = start(
        &hop,
        [
            "127.0.2.0/28 554 5.7.25 Not from there\n127.0.2.1 permit\n127.0.0.1 reject\n\
             127.0.2.2 451 Later\n",
            "bad.test reject\n.dyn.test defer Use your provider\n",
            "spam.test reject\n",
            "",
        ],
    );
    let mail = |client: &mut Client| client.say("MAIL FROM:<a@spam.test>");
    mail(&mut stranger(&server, 3, "x.test")).expect("554 5.7.25 Not from there\r\n");
    mail(&mut stranger(&server, 2, "x.test")).expect("451 4.7.1 Later\r\n");
    mail(&mut stranger(&server, 99, "BAD.test")).expect("550 5.7.1 Access denied\r\n");
    mail(&mut stranger(&server, 99, "a.b.dyn.test")).expect("451 4.7.1 Use your provider\r\n");
    mail(&mut stranger(&server, 99, "x.test")).expect("550 5.7.1 Access denied\r\n");
    // A permit ends the questions, and gives no right to relay.
    let mut client = stranger(&server, 1, "bad.test");
    client.mail("a@spam.test", &["r@cust.test"], TEXT);
    client.say("MAIL FROM:<a@spam.test>").expect("250 ");
    client.say("RCPT TO:<x@else.test>").expect("554 5.7.1 Relay access denied");
    // Clients that may relay are not asked who they are; what they send is looked at.
    let mut relay = server.client();
    relay.mail("a@good.test", &["r@else.test"], TEXT);
    relay.say("MAIL FROM:<a@spam.test>").expect("550 5.7.1 Access denied");
    hop.wait(2);
    assert_eq!(server.metric("ringpost_access_total", "action=\"reject\""), 4.0);
    assert_eq!(server.metric("ringpost_access_total", "action=\"defer\""), 2.0);
    assert_eq!(server.metric("ringpost_access_total", "action=\"permit\""), 2.0);
    still_serves(&server, &hop);
}

/// The same, with names of clients from there.
fn start_named(hop: &Hop, names: &NameServer, map: &str) -> Server {
    let dir = Arc::new(server::directory());
    write(dir.path(), "client", map);
    let mut config = Config::new(hop.address)
        .set("relay", "networks", "[\"127.0.0.1\"]")
        .set("domains", "relay", "[\"cust.test\"]")
        .set("domains", "postmaster", "\"p@next.test\"")
        .set("dns", "servers", format!("[\"{}\"]", names.address))
        .set("dns", "dnssec", "\"off\"")
        .set("access", "client", format!("\"{}\"", dir.path().join("client").display()));
    config.tail = "[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\n\
                   xclient_from = [\"127.0.0.9\"]\n"
        .into();
    Server::start_in(dir, &config)
}

/// What MAIL is answered to the client at 192.0.2.`last`: names in the loopback network are not asked for.
#[track_caller]
fn far(server: &Server, last: u8) -> client::Reply {
    let mut client = Client::from([127, 0, 0, 9], server.smtp);
    client.reply().expect("220 ");
    client.say("EHLO proxy.test").expect("250-");
    client.say(&format!("XCLIENT ADDR=192.0.2.{last}")).expect("220 ");
    client.say("EHLO x.test").expect("250-");
    client.say("MAIL FROM:<a@b.test>")
}

#[test]
fn names_of_addresses_count_if_they_lead_back() {
    let hop = Hop::start();
    let names = NameServer::start(
        "1.2.0.192.in-addr.arpa. IN PTR a.dyn.test.\n1.2.0.192.in-addr.arpa. IN PTR mail.bad.test.\n\
         a.dyn.test. IN A 192.0.2.9\nmail.bad.test. IN A 192.0.2.1\n\
         2.2.0.192.in-addr.arpa. IN PTR mail.good.test.\nmail.good.test. IN A 192.0.2.2\n\
         3.2.0.192.in-addr.arpa. IN PTR mail.good.test.\n4.2.0.192.in-addr.arpa. IN PTR x.dyn.test.\n\
         x.dyn.test. IN A 192.0.2.4\n",
    );
    let map = ".dyn.test 451 Use your provider\nmail.bad.test reject\nunknown 550 5.7.25 Who are you?\n\
               mail.good.test permit\n192.0.2.5 permit\n";
    let server = start_named(&hop, &names, map);
    let mail = |last| far(&server, last);
    // The first name is not its own.
    mail(1).expect("550 5.7.1 Access denied\r\n");
    mail(2).expect("250 ");
    mail(3).expect("550 5.7.25 Who are you?\r\n");
    mail(4).expect("451 4.7.1 Use your provider\r\n");
    mail(5).expect("250 ");
    mail(6).expect("550 5.7.25 Who are you?\r\n");
    assert_eq!(server.metric("ringpost_client_names_total", "result=\"found\""), 3.0);
    assert_eq!(server.metric("ringpost_client_names_total", "result=\"none\""), 2.0);
}

#[test]
fn a_name_that_cannot_be_looked_up_refuses_nobody_for_good() {
    let (hop, names) = (Hop::start(), NameServer::failing());
    let server = start_named(&hop, &names, ".bad.test reject\nunknown 550 5.7.25 Who are you?\n");
    far(&server, 1).expect("451 4.7.25 Who are you?\r\n");
    let server = start_named(&hop, &names, ".bad.test reject\n");
    far(&server, 1).expect("250 ");
    assert_eq!(server.metric("ringpost_client_names_total", "result=\"failed\""), 1.0);
}

#[test]
fn what_becomes_of_messages() {
    let hop = Hop::start();
    let server = start(
        &hop,
        [
            "",
            "",
            "drop@a.test discard\nhold@a.test hold suspicious\n<> redirect null@next.test\n",
            "gone@cust.test 550 5.1.6 Has moved\nlook@cust.test hold\n.cust.test reject\n",
        ],
    );
    let mut client = stranger(&server, 1, "x.test");
    client.envelope("drop@a.test", &["r@cust.test"]);
    client.data(client::stuffed(TEXT)).expect("250 2.0.0 Ok: discarded\r\n");
    // What was decided on one message is not for the next.
    client.mail("a@a.test", &["r@cust.test"], TEXT);
    client.say("RSET").expect("250 ");
    let held = client.mail("hold@a.test", &["r@cust.test"], TEXT);
    client.mail("", &["r@cust.test", "s@cust.test"], b"Subject: bounce\r\n\r\n");
    client.say("MAIL FROM:<a@a.test>").expect("250 ");
    client.say("RCPT TO:<Gone@cust.test>").expect("550 5.1.6 Has moved\r\n");
    client.say("RCPT TO:<look@cust.test>").expect("250 ");
    client.say("RCPT TO:<r@cust.test>").expect("250 ");
    let looked_at = client.data(client::stuffed(TEXT)).id();
    let mails = hop.wait(2);
    assert_eq!(mails.len(), 2, "{mails:?}");
    let bounce = mails.iter().find(|m| m.text().contains("Subject: bounce")).expect("it came");
    assert!(bounce.to.len() == 1 && bounce.to[0].starts_with("<null@next.test>"), "{bounce:?}");
    for (id, reason) in [(&held, "access map: suspicious"), (&looked_at, "access map: access map")] {
        server.listed(id, |m| m["queue_name"] == "hold");
        let why = String::from_utf8(server.run(&["why", id]).stdout).expect("text");
        assert!(why.contains(reason), "{why}");
    }
    server.queue(&["release", &looked_at]);
    assert_eq!(hop.wait(3)[2].to.len(), 2);
    assert_eq!(server.metric("ringpost_access_total", "action=\"discard\""), 1.0);
    // The hop got what was not held, redirected or discarded.
    assert_eq!(server.queue(&["list"]).len(), 1);
}

#[test]
fn maps_are_read_again_and_broken_ones_are_not_taken() {
    let hop = Hop::start();
    let server = start(&hop, ["", "", "", ""]);
    let dir = server.dir();
    let mut client = stranger(&server, 1, "x.test");
    let mut ask = || {
        client.say("RSET").expect("250 ");
        client.say("MAIL FROM:<a@spam.test>").code()
    };
    assert_eq!(ask(), 250);
    write(dir.path(), "sender", "spam.test 451 5.7.1 Later\n");
    server.signal("HUP");
    until("the new map", || (ask() == 451).then_some(()));
    write(dir.path(), "sender", "good.test permit\nspam.test allow\n");
    server.signal("HUP");
    let told = server.event_with("reload", "the maps are wrong");
    assert!(told.contains("\"allow\" is no action"), "{told}");
    assert_eq!(ask(), 451, "the old ones stay in use");
    // A server is not started with it.
    let out = server.run(&["check"]);
    assert_ne!(out.status.code(), Some(0), "{out:?}");
}

//! DNS lists of clients (RFC 5782), from name servers of the test.
#![allow(clippy::disallowed_methods, reason = "writes users")]

use crate::harness::dns::NameServer;
use crate::harness::{Client, Config, Hop, Server, server};
use crate::hostile::still_serves;
use std::sync::Arc;

const ZONE: &str = "3.2.0.127.bad.test. IN A 127.0.0.2
4.2.0.127.bad.test. IN A 127.0.0.2
4.2.0.127.good.test. IN A 127.0.0.9
5.2.0.127.bad.test. IN A 127.0.0.3
6.2.0.127.bad.test. IN A 127.255.255.254
1.0.0.127.bad.test. IN A 127.0.0.2
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bad.test. IN A 127.0.0.2
";

/// Relays for `cust.test`; asks two lists.
fn start(hop: &Hop, names: &NameServer, access: &str) -> Server {
    let dir = Arc::new(server::directory());
    let users = dir.path().join("users");
    std::fs::write(&users, "ann@a.test:{PLAIN}secret\n").unwrap();
    let mut config = Config::new(hop.address)
        .set("relay", "networks", "[\"127.0.0.1\"]")
        .set("domains", "relay", "[\"cust.test\"]")
        .set("domains", "postmaster", "\"p@next.test\"")
        .set("dns", "servers", format!("[\"{}\"]", names.address))
        .set("dns", "dnssec", "\"off\"")
        .set("auth", "users", format!("\"{}\"", users.display()))
        .set("auth", "allow_plaintext", "true");
    config.tail = format!(
        "[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\nauth = \"offered\"\n\
         xclient_from = [\"127.0.0.9\"]\n[access]\n{access}\n\
         [[dnsbl]]\nzone = \"bad.test\"\ncodes = [\"127.0.0.2\"]\nscore = 2\n\
         [[dnsbl]]\nzone = \"good.test\"\nscore = -1\n"
    );
    Server::start_in(dir, &config)
}

/// What RCPT is answered to the client at 127.0.2.`last`.
#[track_caller]
fn asked(server: &Server, last: u8) -> String {
    let mut client = Client::from([127, 0, 2, last], server.smtp);
    client.reply().expect("220 ");
    client.say("EHLO x.test").expect("250-");
    client.say("MAIL FROM:<a@b.test>").expect("250 ");
    let first = client.say("RCPT TO:<r@cust.test>").0;
    // The same is said of each recipient.
    assert_eq!(client.say("RCPT TO:<r@cust.test>").0, first);
    first
}

#[test]
fn clients_are_listed_by_scores_and_codes() {
    let hop = Hop::start();
    let names = NameServer::start(ZONE);
    let text = "dnsbl_threshold = 2\ndnsbl_text = \"No mail from %a, see %z\"";
    let server = start(&hop, &names, text);
    assert_eq!(asked(&server, 3), "550 5.7.1 No mail from 127.0.2.3, see bad.test\r\n");
    for (last, why) in [(4, "it is on the list of the good"), (5, "the code does not count"), (7, "nowhere")]
    {
        assert!(asked(&server, last).starts_with("250 "), "127.0.2.{last}: {why}");
    }
    assert_eq!(server.metric("ringpost_dnsbl_total", "result=\"failed\""), 0.0);
    assert!(asked(&server, 6).starts_with("250 "), "the list does not serve us");
    assert_eq!(server.metric("ringpost_dnsbl_total", "result=\"failed\""), 1.0);
    assert!(asked(&server, 3).starts_with("550 "));
    assert_eq!(server.metric("ringpost_dnsbl_total", "result=\"cached\""), 1.0);
    assert_eq!(server.metric("ringpost_dnsbl_total", "result=\"listed\""), 1.0);
    // Through a proxy it is the client that counts; IPv6 as well.
    let mut client = Client::from([127, 0, 0, 9], server.smtp);
    client.reply().expect("220 ");
    for (address, code) in [("IPV6:2001:db8::1", 550), ("IPV6:2001:db8::2", 250), ("127.0.2.3", 550)] {
        client.say("RSET").expect("250 ");
        client.say(&format!("XCLIENT ADDR={address}")).expect("220 ");
        client.say("EHLO x.test").expect("250-");
        client.say("MAIL FROM:<a@b.test>").expect("250 ");
        assert_eq!(client.say("RCPT TO:<r@cust.test>").code(), code, "{address}");
    }
    // Neither those that may relay are asked about, nor those that have logged in.
    server.client().mail("a@b.test", &["r@cust.test"], b"Subject: x\r\n\r\n");
    let mut user = Client::from([127, 0, 2, 3], server.smtp);
    user.reply().expect("220 ");
    user.say("EHLO x.test").expect("250-");
    user.say("AUTH PLAIN AGFubkBhLnRlc3QAc2VjcmV0").expect("235 ");
    user.mail("a@b.test", &["r@cust.test"], b"Subject: x\r\n\r\n");
    hop.wait(2);
    still_serves(&server, &hop);
}

#[test]
fn lists_that_do_not_answer_say_nothing() {
    let hop = Hop::start();
    let server = start(&hop, &NameServer::failing(), "");
    assert!(asked(&server, 3).starts_with("250 "));
    assert_eq!(server.metric("ringpost_dnsbl_total", "result=\"failed\""), 2.0);
}

#[test]
fn mail_of_listed_clients_may_be_put_off_or_held() {
    let hop = Hop::start();
    let names = NameServer::start(ZONE);
    let server = start(&hop, &names, "dnsbl_action = \"tempfail\"");
    assert_eq!(asked(&server, 3), "451 4.7.1 127.0.2.3 is listed by bad.test\r\n");
    let server = start(&hop, &names, "dnsbl_action = \"hold\"");
    let mut client = Client::from([127, 0, 2, 3], server.smtp);
    client.reply().expect("220 ");
    client.say("EHLO x.test").expect("250-");
    let id = client.mail("a@b.test", &["r@cust.test"], b"Subject: x\r\n\r\n");
    server.listed(&id, |m| m["queue_name"] == "hold");
    let why = String::from_utf8(server.run(&["why", &id]).stdout).expect("text");
    assert!(why.contains("held by 127.0.2.3 is listed by bad.test"), "{why}");
}

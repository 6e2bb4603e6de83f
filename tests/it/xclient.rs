//! XCLIENT and XFORWARD: intermediaries that speak for their clients, and everybody else who tries
//! (attack catalogue, row 12).

use crate::harness::{Client, Config, Hop, Server};
use crate::hostile::{FROM, TO, still_serves};

/// Listed, and a client that may relay.
const FORWARDER: [u8; 4] = [127, 0, 0, 9];

fn config(hop: &Hop) -> Config {
    let mut config = Config::new(hop.address)
        .set("relay", "networks", "[\"127.0.0.0/24\", \"10.0.0.0/8\"]")
        .set("timeouts", "greeting_delay", "\"0s\"")
        .set("limits", "sessions_per_address", "2");
    config.tail = "[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\n\
                   xclient_from = [\"127.0.0.9\"]\n"
        .into();
    config
}

fn forwarder(server: &Server) -> Client {
    let mut client = Client::from(FORWARDER, server.smtp);
    client.reply().expect("220 ");
    client.say("EHLO proxy.test").expect("250-");
    client
}

/// Another client, and its EHLO.
#[track_caller]
fn becomes(client: &mut Client, attributes: &str) {
    client.say(&format!("XCLIENT {attributes}")).expect("220 mx.test.example ESMTP");
    client.say("EHLO client.test").expect("250-");
}

#[track_caller]
fn relays(client: &mut Client) -> bool {
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("250 ");
    let reply = client.say(&format!("RCPT TO:<{TO}>"));
    client.say("RSET").expect("250 ");
    match reply.code() {
        250 => true,
        554 => false,
        _ => panic!("{reply:?}"),
    }
}

#[test]
fn the_client_that_is_named_is_the_client() {
    let hop = Hop::start();
    let server = Server::start(&config(&hop));
    let mut client = Client::from(FORWARDER, server.smtp);
    client.reply().expect("220 ");
    let offer = client.say("EHLO proxy.test");
    assert!(
        offer.0.contains("250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n"),
        "{offer:?}"
    );
    assert!(relays(&mut client), "as itself it may");
    becomes(&mut client, "ADDR=192.0.2.7");
    assert!(!relays(&mut client), "its client may not");
    becomes(&mut client, "ADDR=10.1.2.3 NAME=inside.test");
    assert!(relays(&mut client));
    becomes(&mut client, "ADDR=IPV6:::ffff:10.1.2.3");
    assert!(relays(&mut client), "IPv4 in IPv6 form is IPv4");
    client.mail(FROM, &[TO], b"S: x\r\n\r\n");
    let header = hop.one().split().0;
    assert!(header.starts_with("Received: from client.test (inside.test [10.1.2.3])\r\n"), "{header}");
    becomes(&mut client, "ADDR=[UNAVAILABLE] NAME=[UNAVAILABLE]");
    assert!(!relays(&mut client), "nobody in particular may nothing in particular");
    // Not without EHLO, and not within a transaction.
    client.say("XCLIENT ADDR=10.1.2.3").expect("220 ");
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("503 5.5.1");
    client.say("EHLO client.test").expect("250-");
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("250 ");
    client.say("XCLIENT ADDR=192.0.2.7").expect("503 5.5.1");
    client.say(&format!("RCPT TO:<{TO}>")).expect("250 2.1.5");
}

#[test]
fn a_login_that_is_named_may_relay() {
    let hop = Hop::start();
    let server = Server::start(&config(&hop));
    let mut client = forwarder(&server);
    becomes(&mut client, "ADDR=192.0.2.7 LOGIN=me+40here.test");
    assert!(relays(&mut client));
    client.mail(FROM, &[TO], b"S: x\r\n\r\n");
    assert!(hop.one().split().0.contains(" with ESMTPA id "));
    becomes(&mut client, "LOGIN=[UNAVAILABLE]");
    assert!(!relays(&mut client), "nobody is logged in any more");
}

#[test]
fn limits_count_the_client_that_is_named() {
    let hop = Hop::start();
    let server = Server::start(&config(&hop));
    let mut held: Vec<Client> = (0..2).map(|_| forwarder(&server)).collect();
    held.iter_mut().for_each(|c| becomes(c, "ADDR=192.0.2.7"));
    // Naming it once more takes no other place.
    becomes(&mut held[0], "ADDR=192.0.2.7 PORT=1");
    let mut client = forwarder(&server);
    client.say("XCLIENT ADDR=192.0.2.7").expect("421 4.7.0");
    client.expect_end();
    becomes(&mut held[0], "ADDR=192.0.2.8");
    becomes(&mut forwarder(&server), "ADDR=192.0.2.7");
}

#[test]
fn xforward_describes_one_message_and_grants_nothing() {
    let hop = Hop::start();
    let server = Server::start(&config(&hop));
    let mut client = forwarder(&server);
    client.say("XFORWARD NAME=origin.test ADDR=192.0.2.7 PORT=1234 PROTO=ESMTP").expect("250 2.0.0");
    client.say("XFORWARD HELO=said.test IDENT=4F00 SOURCE=REMOTE").expect("250 2.0.0");
    client.mail(FROM, &[TO], b"S: x\r\n\r\n");
    client.mail(FROM, &[TO], b"S: y\r\n\r\n");
    hop.wait(2);
    let headers: Vec<String> = hop.mails().iter().map(|m| m.split().0).collect();
    let from =
        |what: &str| headers.iter().filter(|h| h.starts_with(&format!("Received: from {what}\r\n"))).count();
    assert_eq!(from("said.test (origin.test [192.0.2.7])"), 1, "{headers:?}");
    assert_eq!(from("proxy.test (unknown [127.0.0.9])"), 1, "{headers:?}");
    becomes(&mut client, "ADDR=192.0.2.7");
    client.say("XFORWARD ADDR=10.1.2.3").expect("250 2.0.0");
    assert!(!relays(&mut client));
}

#[test]
fn row_12_nobody_else_speaks_for_others() {
    let hop = Hop::start();
    let server = Server::start(&config(&hop));
    for from in [[127, 0, 0, 1], [127, 0, 1, 1]] {
        let mut client = Client::from(from, server.smtp);
        client.reply().expect("220 ");
        let offer = client.say("EHLO evil.test");
        assert!(!offer.0.contains("XCLIENT") && !offer.0.contains("XFORWARD"), "{offer:?}");
        client.say("XCLIENT ADDR=10.1.2.3 LOGIN=root").expect("550 5.7.0");
        client.say("XFORWARD ADDR=10.1.2.3").expect("550 5.7.0");
        client.say("XCLIENT").expect("501 5.5.4");
        assert_eq!(relays(&mut client), from == [127, 0, 0, 1]);
    }
    // Bad attributes change nothing, not even the good ones beside them.
    let mut client = forwarder(&server);
    becomes(&mut client, "ADDR=192.0.2.7");
    for bad in
        ["ADDR=10.1.2.3 FOO=1", "ADDR=10.1.2", "ADDR=10.1.2.3 HELO=a+0D+0Ab", "NAME=a+00", "PORT=99999"]
    {
        client.say(&format!("XCLIENT {bad}")).expect("501 5.5.4");
    }
    assert!(!relays(&mut client));
    still_serves(&server, &hop);
}

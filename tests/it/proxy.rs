//! Connections through a proxy: whose address counts, and what a listed or unlisted peer can do with a
//! PROXY header (attack catalogue, row 12).

use crate::harness::{Client, Config, Hop, Server, until};
use crate::hostile::{FROM, TO, still_serves};

/// The proxy; it is in `relay.networks`, too.
const PROXY: [u8; 4] = [127, 0, 0, 9];
/// Not listed, and no client that may relay.
const STRANGER: [u8; 4] = [127, 0, 1, 1];
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn config(hop: &Hop) -> Config {
    let mut config = Config::new(hop.address)
        .set("relay", "networks", "[\"127.0.0.0/24\", \"10.0.0.0/8\", \"2001:db8:1::/48\"]")
        .set("domains", "local", "[\"here.test\"]")
        .set("timeouts", "proxy_header", "\"300ms\"")
        .set("limits", "sessions_per_address", "3");
    config.tail = "[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\n\
                   proxy_protocol_from = [\"127.0.0.9\"]\n"
        .into();
    config
}

fn v1(client: &str) -> Vec<u8> {
    let family = if client.contains(':') { "TCP6" } else { "TCP4" };
    let server = if client.contains(':') { "2001:db8::25" } else { "192.0.2.25" };
    format!("PROXY {family} {client} {server} 40000 25\r\n").into_bytes()
}

fn v2(command: u8, client: [u8; 4], tail: &[u8]) -> Vec<u8> {
    let mut header = [SIGNATURE, &[0x20 | command, 0x11, 0, 12 + tail.len() as u8]].concat();
    header.extend_from_slice(&client);
    header.extend_from_slice(&[192, 0, 2, 25, 0x9c, 0x40, 0, 25]);
    header.extend_from_slice(tail);
    header
}

/// A connection of the proxy with this header, greeted, and with EHLO said.
#[track_caller]
fn through(server: &Server, header: &[u8]) -> Client {
    let mut client = Client::from(PROXY, server.smtp);
    client.send(header);
    client.reply().expect("220 ");
    client.say("EHLO client.test").expect("250-");
    client
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
fn the_address_of_the_client_decides() {
    let hop = Hop::start();
    let server = Server::start(&config(&hop));
    let (mut six, mut mapped) = (v1("2001:db8:1::7"), v1("::ffff:10.1.2.3"));
    for header in
        [v1("10.1.2.3"), v2(1, [10, 1, 2, 3], b""), v2(1, [10, 1, 2, 3], &[4, 0, 1, 0]), six.clone()]
    {
        assert!(relays(&mut through(&server, &header)), "{}", header.escape_ascii());
    }
    assert!(relays(&mut through(&server, &mapped)), "IPv4 in IPv6 form is IPv4");
    (six, mapped) = (v1("2001:db8:2::7"), v1("::ffff:192.0.2.7"));
    for header in [v1("192.0.2.7"), v2(1, [192, 0, 2, 7], b""), six, mapped] {
        assert!(!relays(&mut through(&server, &header)), "{}", header.escape_ascii());
    }
    let mut client = through(&server, &v2(1, [10, 1, 2, 3], b""));
    client.mail(FROM, &[TO], b"S: x\r\n\r\n");
    let header = hop.one().split().0;
    assert!(header.starts_with("Received: from client.test (unknown [10.1.2.3])\r\n"), "{header}");
    assert!(!header.contains("127.0.0.9"), "{header}");
    assert_eq!(server.metric("ringpost_proxy_headers_total", "client"), 10.0);
    assert_eq!(server.metric("ringpost_proxy_headers_total", "bad"), 0.0);
}

#[test]
fn a_header_in_any_pieces() {
    let hop = Hop::start();
    let server = Server::start(&config(&hop));
    for header in [v1("10.1.2.3"), v2(1, [10, 1, 2, 3], b"")] {
        let mut client = Client::from(PROXY, server.smtp);
        for byte in header {
            client.send([byte]);
        }
        client.reply().expect("220 ");
        client.say("EHLO client.test").expect("250-");
        assert!(relays(&mut client));
    }
}

#[test]
fn limits_count_the_client() {
    let hop = Hop::start();
    let server = Server::start(&config(&hop));
    let held: Vec<Client> = (0..3).map(|_| through(&server, &v1("192.0.2.7"))).collect();
    let mut client = Client::from(PROXY, server.smtp);
    client.send(v1("192.0.2.7"));
    client.reply().expect("421 4.7.0");
    client.expect_end();
    assert_eq!(server.metric("ringpost_smtp_refused_total", "reason=\"address\""), 1.0);
    // Neither another client nor the proxy itself is limited by that, however many they are.
    let others: Vec<Client> = (1..9).map(|n| through(&server, &v1(&format!("198.51.100.{n}")))).collect();
    let own: Vec<Client> = (0..9).map(|_| through(&server, &v2(0, [0; 4], b""))).collect();
    drop((held, others, own));
    until("places given back", || {
        let mut client = Client::from(PROXY, server.smtp);
        client.send(v1("192.0.2.7"));
        (client.reply().code() == 220).then_some(())
    });
}

#[test]
fn what_a_proxy_says_for_itself_is_no_error_and_never_relays() {
    let hop = Hop::start();
    let server = Server::start(&config(&hop));
    // Only whether the port is open.
    for _ in 0..5 {
        drop(Client::from(PROXY, server.smtp));
    }
    // LOCAL and UNKNOWN are served at once, silence after a moment; the proxy is in relay.networks.
    for own in [v2(0, [10, 1, 2, 3], b""), b"PROXY UNKNOWN\r\n".to_vec(), Vec::new()] {
        let mut client = through(&server, &own);
        assert!(!relays(&mut client), "{}", own.escape_ascii());
        client.say("QUIT").expect("221 ");
    }
    until("no session", || (server.metric("ringpost_smtp_sessions", "") == 0.0).then_some(()));
    assert_eq!(server.metric("ringpost_proxy_headers_total", "own"), 2.0);
    assert_eq!(server.metric("ringpost_proxy_headers_total", "none"), 6.0);
    for quiet in ["ringpost_smtp_timeouts_total", "ringpost_smtp_refused_total"] {
        assert_eq!(server.metric(quiet, ""), 0.0, "{quiet}");
    }
    assert_eq!(server.metric("ringpost_proxy_headers_total", "bad"), 0.0);
    // The mail log has what was refused, and nothing else; of the events only those about the configuration.
    let all = || server.lines().into_iter().filter(|l| l.starts_with('{'));
    until("the records", || (all().filter(|l| l.contains("\"type\":")).count() >= 3).then_some(()));
    let lines: Vec<String> = all().collect();
    let (records, events): (Vec<&String>, Vec<&String>) = lines.iter().partition(|l| l.contains("\"type\":"));
    assert!(records.iter().all(|l| l.contains("\"type\":\"Rejection\"")), "{records:?}");
    assert_eq!(records.len(), 3, "{records:?}");
    let noise: Vec<&&String> = events
        .iter()
        .filter(|l| !l.contains("\"level\":\"info\"") && !l.contains("\"event\":\"root\""))
        .collect();
    assert!(noise.is_empty(), "{noise:?}");
}

#[test]
fn row_12_headers_that_lie() {
    let hop = Hop::start();
    let server = Server::start(&config(&hop));
    // Not listed: bytes before the greeting like any other.
    for header in [v1("10.1.2.3"), v2(1, [10, 1, 2, 3], b"")] {
        let mut client = Client::from(STRANGER, server.smtp);
        client.send(&header);
        client.reply().expect("554 5.5.1");
        client.expect_end();
        let mut client = Client::from(STRANGER, server.smtp);
        client.reply().expect("220 ");
        client.send(&header);
        let first = client.reply();
        assert!(first.code() >= 421, "{first:?}");
    }
    assert_eq!(server.metric("ringpost_smtp_early_talkers_total", ""), 2.0);
    // Listed, with a header that is none: closed without a word.
    let mut wrong_length = v2(1, [10, 1, 2, 3], b"");
    wrong_length[15] = 11;
    let mut version = v2(1, [10, 1, 2, 3], b"");
    version[12] = 0x31;
    let mut endless = v2(1, [10, 1, 2, 3], b"");
    (endless[14], endless[15]) = (0xff, 0xff);
    let bad = [
        b"PROXY TCP4 10.1.2.3 192.0.2.25 40000\r\n".to_vec(),
        b"PROXY TCP4 10.1.2.3 192.0.2.25 99999 25\r\n".to_vec(),
        [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat(),
        wrong_length,
        version,
        endless,
        // Cut off: after its time.
        b"PROXY TCP4 10.1.2.3".to_vec(),
    ];
    for header in &bad {
        let mut client = Client::from(PROXY, server.smtp);
        client.send(header);
        client.expect_end();
    }
    until("all are counted", || {
        (server.metric("ringpost_proxy_headers_total", "bad") == bad.len() as f64).then_some(())
    });
    // A second header is a command like any other; what stands behind the header came too early.
    let mut client = through(&server, &v1("192.0.2.7"));
    client.send(v1("10.1.2.3"));
    client.reply().expect("500 5.5.2");
    assert!(!relays(&mut client));
    let mut client = Client::from(PROXY, server.smtp);
    client.send([v1("192.0.2.7"), b"EHLO x.test\r\nMAIL FROM:<a@b.test>\r\n".to_vec()].concat());
    client.reply().expect("554 5.5.1");
    client.expect_end();
    // No header: what it says is not the client's word.
    let mut client = Client::from(PROXY, server.smtp);
    client.send(b"EHLO x.test\r\n");
    client.reply().expect("554 5.5.1");
    client.expect_end();
    still_serves(&server, &hop);
}

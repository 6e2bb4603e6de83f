//! The attack catalogue, rows about resources: 14 to 17 and 37.

#![allow(clippy::disallowed_methods, reason = "clients in a test read /proc and bind sockets of their own")]

use crate::harness::{Client, Config, Hop, Server, until};
use crate::hostile::{FROM, TO, still_serves};
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::time::Duration;

/// Resident memory in KiB.
fn resident(server: &Server) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Writes `block` `times` times, unless the server closes.
fn pour(client: &mut Client, block: &[u8], times: usize) {
    for _ in 0..times {
        if !client.try_send(block) {
            return;
        }
    }
}

#[test]
fn row_14_endless_line_header_and_nul() {
    let hop = Hop::start();
    let config = Config::new(hop.address).set("limits", "message_size", "\"4MiB\"").set(
        "limits",
        "message_drop",
        "\"16MiB\"",
    );
    let server = Server::start(&config);
    still_serves(&server, &hop);
    let before = resident(&server);
    let block = vec![b'x'; 1 << 20];
    // A command without end: swallowed, answered at its end.
    let mut client = server.client();
    pour(&mut client, &block, 16);
    client.send(b"\r\n");
    client.reply().expect("500 5.5.2");
    client.say("NOOP").expect("250 ");
    client.say("NO\0OP").expect("500 5.5.2");
    // A body line beyond the size: read to its end, refused.
    client.envelope(FROM, &[TO]);
    client.say("DATA").expect("354 ");
    client.send(b"S: x\r\n\r\n");
    pour(&mut client, &block, 8);
    client.send(b"\r\n.\r\n");
    client.reply().expect("552 5.3.4");
    // One header without end.
    client.envelope(FROM, &[TO]);
    client.say("DATA").expect("354 ");
    client.send(b"S: ");
    pour(&mut client, &block, 3);
    client.send(b"\r\n\r\n.\r\n");
    client.reply().expect("552 5.3.4");
    client.envelope(FROM, &[TO]);
    client.data(b"S: x\r\n\r\na\0b\r\n.\r\n").expect("550 5.6.0");
    // Without end at all: the session ends.
    client.envelope(FROM, &[TO]);
    client.say("DATA").expect("354 ");
    pour(&mut client, &block, 64);
    assert!(client.try_reply().is_none_or(|r| r.0.starts_with("552 5.3.4")));
    client.expect_end();
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < 24 << 10, "grown by {grown} KiB");
    still_serves(&server, &hop);
}

#[test]
fn row_15_slow_client() {
    let hop = Hop::start();
    let config = Config::new(hop.address)
        .set("timeouts", "command", "\"1s\"")
        .set("timeouts", "envelope", "\"1500ms\"")
        .set("timeouts", "data", "\"1s\"")
        .set("limits", "data_rate_min", "1000");
    let server = Server::start(&config);
    let drip = |client: &mut Client, bytes: &[u8]| {
        let mut stream = client.stream.try_clone().unwrap();
        let bytes = bytes.to_vec();
        let dripping = std::thread::spawn(move || {
            for byte in bytes.iter().cycle().take(600) {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        client.reply().expect("421 4.4.2");
        client.expect_end();
        dripping.join().unwrap();
    };
    // Silence after the greeting.
    let mut client = Client::connect(server.smtp);
    client.reply().expect("421 4.4.2");
    client.expect_end();
    // A command, a byte at a time.
    drip(&mut server.client(), b"N");
    // A message, a byte at a time: bytes come, but too few.
    let mut client = server.client();
    client.envelope(FROM, &[TO]);
    client.say("DATA").expect("354 ");
    drip(&mut client, b"x");
    // The same in chunks.
    let mut client = server.client();
    client.envelope(FROM, &[TO]);
    client.send(b"BDAT 1000000\r\n");
    drip(&mut client, b"x");
    // An envelope without end.
    let mut client = server.client();
    client.say(&format!("MAIL FROM:<{FROM}>")).expect("250 ");
    let last = (0..100).find_map(|n| {
        std::thread::sleep(Duration::from_millis(100));
        let sent = client.try_send(format!("RCPT TO:<r{n}@next.test>\r\n"));
        let reply = if sent { client.try_reply() } else { None };
        reply.filter(|r| r.code() != 250)
    });
    last.expect("421 before the hundredth").expect("421 4.4.2");
    assert!(server.metric("ringpost_smtp_timeouts_total", "") >= 5.0);
    still_serves(&server, &hop);
}

#[test]
fn row_16_non_reading_client() {
    let hop = Hop::start();
    let config = Config::new(hop.address)
        .set("limits", "junk_commands", "0")
        .set("timeouts", "command", "\"2s\"")
        .set("timeouts", "write", "\"2s\"");
    let server = Server::start(&config);
    still_serves(&server, &hop);
    until("no session", || (server.metric("ringpost_smtp_sessions", "") == 0.0).then_some(()));
    let before = resident(&server);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.smtp.into()).unwrap();
    let mut stream: std::net::TcpStream = socket.into();
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let noops = b"NOOP\r\n".repeat(10_000);
    let mut blocked = false;
    for _ in 0..1000 {
        match stream.write_all(&noops) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => blocked = true,
            // It gave up on us.
            Err(_) => break,
        }
    }
    assert!(blocked, "the server stops reading while its replies wait");
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < 16 << 10, "grown by {grown} KiB");
    until("the end of the session", || (server.metric("ringpost_smtp_sessions", "") == 0.0).then_some(()));
    still_serves(&server, &hop);
}

#[test]
fn row_17_connection_flood_and_churn() {
    let hop = Hop::start();
    let config = Config::new(hop.address)
        .set("cores", "mta", "2")
        .set("relay", "networks", "[\"127.0.0.1\"]")
        .set("limits", "sessions_per_address", "10");
    let server = Server::start(&config);
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..60 {
        let mut client = Client::from([127, 0, 0, 2], server.smtp);
        match client.reply() {
            r if r.code() == 220 => open.push(client),
            r => {
                r.expect("421 4.7.0");
                client.expect_end();
                refused += 1;
            }
        }
    }
    assert_eq!((open.len(), refused), (10, 50));
    // Others get in, strangers and clients that may relay.
    Client::from([127, 0, 0, 3], server.smtp).reply().expect("220 ");
    still_serves(&server, &hop);
    // Places are given back, however the session ended.
    for (n, mut client) in open.into_iter().enumerate() {
        if n % 2 == 0 {
            client.say("QUIT").expect("221 ");
        } else {
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
    until("a free place", || (Client::from([127, 0, 0, 2], server.smtp).reply().code() == 220).then_some(()));
    for n in 0..1000 {
        let client = Client::from([127, 0, 0, 4], server.smtp);
        if n % 2 == 0 {
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
    until("no session", || (server.metric("ringpost_smtp_sessions", "") == 0.0).then_some(()));
    assert!(server.metric("ringpost_smtp_refused_total", "") >= 50.0);
    still_serves(&server, &hop);
}

/// One life of a canary: gives true if its message was acknowledged.
fn canary(server: SocketAddr, name: &str, end: usize) -> bool {
    let mut client = Client::connect(server);
    client.say(&format!("EHLO {name}.test")).expect("250-");
    let cut = |client: &Client| {
        socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    };
    let line = format!("{name}\r\n");
    match end {
        // Gone with a command in flight.
        0 => {
            client.send(format!("MAIL FROM:<{name}@client.test>\r\nRCPT TO:<{name}@next.test>\r\n"));
            cut(&client);
            return false;
        }
        // Gone within the message.
        1 => {
            client.envelope(&format!("{name}@client.test"), &[&format!("{name}@next.test")]);
            client.say("DATA").expect("354 ");
            client.send(line.repeat(2000));
            cut(&client);
            return false;
        }
        _ => {}
    }
    let body = format!("S: {name}\r\n\r\n{}", line.repeat(if end == 2 { 20_000 } else { 20 }));
    client.mail(&format!("{name}@client.test"), &[&format!("{name}@next.test")], body.as_bytes());
    if end == 3 {
        client.send(b"NOOP\r\nNOOP\r\n");
        cut(&client);
    }
    true
}

#[test]
fn row_37_descriptor_reuse() {
    let hop = Hop::start();
    let server = Server::start(&Config::new(hop.address).set("cores", "mta", "2"));
    let to = server.smtp;
    let threads: Vec<_> = (0..6)
        .map(|t| {
            std::thread::spawn(move || {
                let mut kept = Vec::new();
                for n in 0..50 {
                    let name = format!("canary-{t}-{n}-{}", "x".repeat(n % 7));
                    if canary(to, &name, (n + t) % 5) {
                        kept.push(name);
                    }
                }
                kept
            })
        })
        .collect();
    let kept: Vec<String> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
    server.drained();
    let mails = hop.mails();
    assert_eq!(mails.len(), kept.len());
    for mail in mails {
        let name = mail.from[1..].split('@').next().unwrap().to_owned();
        assert!(kept.contains(&name), "{name}");
        assert_eq!(mail.to, [format!("<{name}@next.test>")]);
        let (trace, content) = mail.split();
        assert!(trace.starts_with(&format!("Received: from {name}.test ")), "{name}: {trace}");
        let content = String::from_utf8(content).unwrap();
        let body = content.strip_prefix(&format!("S: {name}\r\n\r\n")).expect("its own header");
        assert!(body.lines().all(|l| l == name), "{name}: bytes of another session");
    }
    still_serves(&server, &hop);
}

//! What watches the server sees of it: a service manager, and whoever reads the series of cores, destinations
//! and commands.
#![allow(clippy::disallowed_methods, reason = "a client in a test has sockets of its own")]

use crate::harness::{Config, Hop, PATIENCE, Server, server, until};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

fn heard(manager: &UnixDatagram) -> String {
    let mut buf = [0; 1024];
    let n = manager.recv(&mut buf).expect("the manager hears something in time");
    String::from_utf8(buf[..n].to_vec()).expect("text")
}

/// sd_notify(3): ready when all serve, alive again and again, then stopping.
#[test]
fn the_service_manager_hears_of_it() {
    let dir = Arc::new(server::directory());
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut config = Config::new("127.0.0.1:9".parse().expect("an address"));
    let socket = format!("NOTIFY_SOCKET={}", path.display());
    config.wrapper = vec!["env".into(), socket, "WATCHDOG_USEC=4000000".into()];
    let server = Server::start_in(dir, &config);
    let ready = heard(&manager);
    assert!(ready.starts_with("READY=1\nSTATUS=serving SMTP on ["), "{ready}");
    for _ in 0..3 {
        assert_eq!(heard(&manager), "WATCHDOG=1");
    }
    server.signal("TERM");
    let last = until("the word that it stops", || Some(heard(&manager)).filter(|text| text != "WATCHDOG=1"));
    assert!(last.starts_with("STOPPING=1\n"), "{last}");
    let mut server = server;
    assert_eq!(server.exit(), Some(0));
}

#[test]
fn cores_and_destinations_have_series() {
    let hop = Hop::start();
    let server = Server::relay_to(hop.address);
    assert_eq!(server.metric("ringpost_core_state", "role=\"mta\",state=\"ready\""), 1.0);
    assert_eq!(server.metric("ringpost_core_state", "state=\"poisoned\""), 0.0);
    let mut client = server.client();
    for _ in 0..60 {
        client.mail("a@client.test", &["b@next.test"], b"Subject: x\r\n\r\ntext\r\n");
    }
    server.drained();
    let of = |destination: &str| format!("destination=\"{destination}\",result=\"delivered\"");
    let own = server.metric("ringpost_destination_recipients_total", &of(&hop.address.to_string()));
    let others = server.metric("ringpost_destination_recipients_total", &of("other"));
    assert!(own > 0.0 && own + others == 60.0, "{own} and {others}");
    assert_eq!(server.metric("ringpost_provider_delivered_total", "provider=\"other\""), 60.0);
    assert_eq!(server.metric("ringpost_provider_delivery_seconds_count", ""), 60.0);
    assert!(server.metric("ringpost_core_cpu_seconds_total", "core=\"0\",role=\"mta\"") > 0.0);
    until("a beat", || (server.metric("ringpost_core_lag_seconds_count", "") > 0.0).then_some(()));
    let free = server.metric("ringpost_disk_free_bytes", "");
    assert!(free > 0.0 && free <= server.metric("ringpost_disk_size_bytes", ""));
    assert_eq!(server.metric("ringpost_disk_reserve_bytes", ""), f64::from(1 << 20));
    server.stop();
}

/// A site that does not answer is seen, with what waits for it.
#[test]
fn sites_that_are_left_alone_are_counted() {
    let nobody = Hop::later();
    let server = Server::start(&Config::new(nobody));
    let mut client = server.client();
    client.mail("a@client.test", &["b@next.test"], b"Subject: x\r\n\r\ntext\r\n");
    until("a site that is left alone", || {
        (server.metric("ringpost_queue_paused_sites", "") == 1.0).then_some(())
    });
    let hop = Hop::on(nobody);
    server.flushed();
    hop.one();
    until("a site that answers", || (server.metric("ringpost_queue_paused_sites", "") == 0.0).then_some(()));
    assert_eq!(server.metric("ringpost_queue_paused_messages", ""), 0.0);
    server.stop();
}

/// Says one line; the lines that come up to one that begins with `end`.
fn say(stream: &mut BufReader<TcpStream>, line: &str, end: &str) {
    stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).expect("a connection");
    let mut answer = String::new();
    while !answer.starts_with(end) {
        answer.clear();
        assert!(stream.read_line(&mut answer).expect("an answer in time") > 0, "{line}: the end");
    }
}

fn connect(to: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(to).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut stream = BufReader::new(stream);
    stream.read_line(&mut String::new()).expect("a greeting");
    stream
}

#[test]
fn commands_are_counted_by_verb() {
    let dir = Arc::new(server::directory());
    let users = dir.path().join("users");
    std::fs::write(&users, "ann:{PLAIN}word\n").expect("a file");
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let (pop3, imap) = (free(), free());
    let mut config = Config::new("127.0.0.1:9".parse().expect("an address"))
        .set("domains", "local", "[\"here.test\"]")
        .set("domains", "postmaster", "\"ann@here.test\"")
        .set("auth", "users", format!("\"{}\"", users.display()))
        .set("auth", "allow_plaintext", "true")
        .set("cores", "access", "2");
    config.tail = format!(
        "[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\nprotocol = \"pop3\"\naddress = \"{pop3}\"\n\
         [[listener]]\nprotocol = \"imap\"\naddress = \"{imap}\"\n"
    );
    let server = Server::start_in(dir, &config);
    let mut reader = connect(imap);
    say(&mut reader, "a LOGIN ann word", "a OK");
    say(&mut reader, "b SELECT INBOX", "b OK");
    // One after the other in one write, and a message in pieces.
    say(&mut reader, "c NOOP\r\nd NOOP\r\ne STATUS INBOX (MESSAGES)", "e OK");
    say(&mut reader, "f APPEND INBOX {18}", "+ ");
    say(&mut reader, "Subject: x\r\n\r\ntext", "f OK");
    say(&mut reader, "g FETCH 1 FLAGS", "g OK");
    say(&mut reader, "h LOGOUT", "h OK");
    let mut reader = connect(pop3);
    for line in ["USER ann", "PASS word", "RETR 1", "DELE 1", "QUIT"] {
        let end = if line.starts_with("RETR") { "." } else { "+OK" };
        say(&mut reader, line, end);
    }
    let counted = |protocol: &str, verb: &str| {
        let name = format!("ringpost_{protocol}_command_seconds_count");
        server.metric(&name, &format!("verb=\"{verb}\""))
    };
    until("the last commands", || {
        (counted("imap", "other") == 1.0 && counted("pop3", "quit") == 1.0).then_some(())
    });
    for (verb, count) in
        [("login", 1.0), ("select", 1.0), ("noop", 2.0), ("status", 1.0), ("append", 1.0), ("fetch", 1.0)]
    {
        assert_eq!(counted("imap", verb), count, "IMAP {verb}");
    }
    for (verb, count) in [("login", 1.0), ("retr", 1.0), ("dele", 1.0), ("other", 1.0), ("list", 0.0)] {
        assert_eq!(counted("pop3", verb), count, "POP3 {verb}");
    }
    // Mailboxes have a journal, too; core 0 is the mail core, whose queue has seen nothing.
    let commits: f64 = ["1", "2"]
        .map(|core| server.metric("ringpost_commits_total", &format!("core=\"{core}\"")))
        .iter()
        .sum();
    assert!(commits > 0.0);
    assert!(server.metric("ringpost_core_state", "role=\"access\",state=\"ready\"") == 2.0);
    server.stop();
}

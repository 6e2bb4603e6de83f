//! LMTP in, POP3 out, over real sockets on a server with several access cores: octet for octet, also for
//! sessions that move at their login, whatever way their bytes come.
#![allow(clippy::disallowed_methods, reason = "a client in a test has sockets of its own")]

use crate::harness::secure::{self, Pair};
use crate::harness::{Config, Hop, PATIENCE, Server, server};
use rustls::pki_types::ServerName;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

const USERS: [&str; 6] = ["ann", "bob", "carl", "dora", "eve", "fred"];

/// A server with three shards on two access cores; the ports of POP3, of POP3 with TLS, of POP3 behind a
/// proxy.
struct Site {
    server: Server,
    clear: SocketAddr,
    tls: SocketAddr,
    proxied: SocketAddr,
    _hop: Hop,
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port")
}

impl Site {
    fn start() -> Site {
        let hop = Hop::start();
        let dir = Arc::new(server::directory());
        let users = dir.path().join("users");
        let text: String = USERS.iter().map(|u| format!("{u}:{{PLAIN}}pass word\n")).collect();
        std::fs::write(&users, text).expect("a file");
        let pair = Pair::make(dir.path(), "own", "mx.test.example");
        let (clear, tls, proxied) = (free(), free(), free());
        let mut config = Config::new(hop.address)
            .set("domains", "local", "[\"here.test\"]")
            .set("domains", "postmaster", "\"ann@here.test\"")
            .set("auth", "users", format!("\"{}\"", users.display()))
            .set("auth", "allow_plaintext", "true")
            .set("cores", "access", "2")
            .set("cores", "shards", "3");
        let lmtp = dir.path().join("lmtp");
        config.tail = format!(
            "[tls]\n{}\n[[listener]]\nprotocol = \"smtp\"\naddress = \"127.0.0.1:0\"\n\
             [[listener]]\nprotocol = \"lmtp\"\naddress = \"unix:{}\"\n\
             [[listener]]\nprotocol = \"pop3\"\naddress = \"{clear}\"\n\
             [[listener]]\nprotocol = \"pop3s\"\naddress = \"{tls}\"\n\
             [[listener]]\nprotocol = \"pop3\"\naddress = \"{proxied}\"\n\
             proxy_protocol_from = [\"127.0.0.1\"]\n",
            pair.lines(),
            lmtp.display()
        );
        Site { server: Server::start_in(dir, &config), clear, tls, proxied, _hop: hop }
    }

    /// Delivers by LMTP; what each recipient is answered.
    #[track_caller]
    fn deliver(&self, to: &[&str], content: &[u8]) -> Vec<String> {
        let stream = UnixStream::connect(self.server.dir().path().join("lmtp")).expect("a server");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut input = BufReader::new(stream.try_clone().expect("a socket"));
        let mut line = move || {
            let mut line = String::new();
            input.read_line(&mut line).expect("a reply");
            line
        };
        let say = |text: &[u8]| (&stream).write_all(text).expect("a server that reads");
        assert!(line().starts_with("220 mx.test.example LMTP"));
        say(b"LHLO relay.test\r\n");
        while line().as_bytes()[3] == b'-' {}
        say(b"MAIL FROM:<sender@client.test> BODY=8BITMIME\r\n");
        assert!(line().starts_with("250 "));
        let mut taken = 0;
        let mut answers = Vec::new();
        for to in to {
            say(format!("RCPT TO:<{to}>\r\n").as_bytes());
            let reply = line();
            taken += usize::from(reply.starts_with("250 "));
            if !reply.starts_with("250 ") {
                answers.push(reply);
            }
        }
        if taken == 0 {
            return answers;
        }
        // BDAT takes the bytes as they are, also without a line end at the end.
        say(format!("BDAT {} LAST\r\n", content.len()).as_bytes());
        say(content);
        answers.extend((0..taken).map(|_| line()));
        answers
    }
}

/// A POP3 client.
struct Pop<S: Read + Write>(BufReader<S>);

impl<S: Read + Write> Pop<S> {
    #[track_caller]
    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("a server that reads");
        self.0.get_mut().flush().expect("a server that reads");
    }

    #[track_caller]
    fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).expect("a reply");
        line
    }

    #[track_caller]
    fn ok(&mut self) -> String {
        let line = String::from_utf8(self.line()).expect("text");
        assert!(line.starts_with("+OK"), "{line:?}");
        line
    }

    /// Up to the dot, without the dots in front of dots.
    #[track_caller]
    fn lines(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let line = self.line();
            match &line[..] {
                b".\r\n" | b"" => return all,
                [b'.', rest @ ..] => all.extend_from_slice(rest),
                line => all.extend_from_slice(line),
            }
        }
    }
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).expect("a server");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.set_nodelay(true).expect("a socket");
    stream
}

fn clear(to: SocketAddr) -> Pop<TcpStream> {
    Pop(BufReader::new(connect(to)))
}

type Secure = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

fn secured(stream: TcpStream) -> Pop<Secure> {
    let rules = Arc::new(secure::rules(rustls::DEFAULT_VERSIONS));
    let name = ServerName::try_from("mx.test.example").expect("a name");
    let tls = rustls::ClientConnection::new(rules, name).expect("a client");
    Pop(BufReader::new(rustls::StreamOwned::new(tls, stream)))
}

fn session(user: &str) -> String {
    format!("USER {user}\r\nPASS pass word\r\nSTAT\r\nRETR 1\r\nQUIT\r\n")
}

/// Answers to [`session`], the greeting included.
#[track_caller]
fn answered<S: Read + Write>(pop: &mut Pop<S>, expected: &[u8]) {
    // Greeting, USER, PASS, STAT.
    (0..4).for_each(|_| drop(pop.ok()));
    pop.ok();
    let message = pop.lines();
    assert!(message.ends_with(expected), "{} bytes", message.len());
    assert!(pop.ok().contains("Bye"));
}

#[test]
fn what_goes_in_comes_out() {
    let site = Site::start();
    let long = [&b"Subject: long\r\n\r\n"[..], &vec![b'x'; 1 << 20], b"\r\nend\r\n"].concat();
    let huge: Vec<u8> =
        b"Subject: huge\r\n\r\n".iter().copied().chain(b".1234567\r\n".repeat(600_000)).collect();
    let bodies: [&[u8]; 6] = [
        b"Subject: dots\r\n\r\n.\r\n..\r\n.a\r\n\r\n.\r\n",
        b"Subject: bits\r\n\r\n\x80\xff\xfe latin\xe9\r\n",
        b"Subject: no end\r\n\r\nno end of line",
        b"Subject: no body\r\n\r\n",
        &long,
        &huge,
    ];
    for body in bodies {
        let answers = site.deliver(&["ann@here.test", "nobody@here.test", "bob@here.test"], body);
        assert!(answers[0].starts_with("550 5.1.1"), "{answers:?}");
        assert!(answers[1..].iter().all(|a| a.starts_with("250 2.0.0")) && answers.len() == 3, "{answers:?}");
    }
    for user in ["ann", "bob"] {
        let mut pop = clear(site.clear);
        pop.send(format!("USER {user}\r\nPASS pass word\r\n").as_bytes());
        (0..3).for_each(|_| drop(pop.ok()));
        for (n, body) in (1..).zip(bodies) {
            pop.send(format!("LIST {n}\r\nRETR {n}\r\n").as_bytes());
            let size = pop.ok();
            pop.ok();
            let mut expected = body.to_vec();
            if !expected.ends_with(b"\r\n") {
                expected.extend_from_slice(b"\r\n");
            }
            let got = pop.lines();
            assert!(got.starts_with(b"Return-Path: <sender@client.test>\r\n"), "{user} {n}");
            assert!(got.ends_with(&expected), "{user} {n}: {} bytes", got.len());
            // DATA has given the last line its end.
            assert_eq!(size, format!("+OK {n} {}\r\n", got.len()), "{user} {n}");
        }
        pop.send(b"DELE 1\r\nDELE 5\r\nQUIT\r\n");
        pop.ok();
        pop.ok();
        assert!(pop.ok().contains("deleted"));
        let mut pop = clear(site.clear);
        pop.send(format!("USER {user}\r\nPASS pass word\r\nSTAT\r\nQUIT\r\n").as_bytes());
        (0..3).for_each(|_| drop(pop.ok()));
        assert!(pop.ok().starts_with("+OK 4 "));
    }
    site.server.stop();
}

/// In one segment, in one TLS record, byte by byte, behind a proxy: the session goes to the core of its
/// mailbox without a byte lost, wherever it came in.
#[test]
fn sessions_move_whole() {
    let site = Site::start();
    for user in USERS {
        let answers = site.deliver(&[&format!("{user}@here.test")], b"Subject: x\r\n\r\nhello\r\n");
        assert!(answers.iter().all(|a| a.starts_with("250 ")), "{answers:?}");
    }
    for round in 0..4 {
        for user in USERS {
            let text = session(user);
            let mut pop = clear(site.clear);
            pop.send(text.as_bytes());
            answered(&mut pop, b"hello\r\n");
            let mut pop = secured(connect(site.tls));
            pop.send(text.as_bytes());
            answered(&mut pop, b"hello\r\n");
            let mut pop = clear(site.proxied);
            pop.send(format!("PROXY TCP4 192.0.2.{round} 192.0.2.9 1 110\r\n{text}").as_bytes());
            answered(&mut pop, b"hello\r\n");
            let mut pop = secured(connect(site.tls));
            text.bytes().for_each(|b| pop.send(&[b]));
            answered(&mut pop, b"hello\r\n");
            let mut pop = clear(site.clear);
            pop.ok();
            pop.send(b"STLS\r\n");
            pop.ok();
            let mut pop = secured(pop.0.into_inner());
            text.bytes().for_each(|b| pop.send(&[b]));
            // No greeting comes again.
            (0..3).for_each(|_| drop(pop.ok()));
            pop.ok();
            assert!(pop.lines().ends_with(b"hello\r\n"));
        }
    }
    let moved = |direction: &str| {
        site.server.metric("ringpost_pop3_moves_total", &format!("direction=\"{direction}\""))
    };
    assert!(moved("in") > 0.0 && moved("in") == moved("out"), "{} and {}", moved("in"), moved("out"));
    site.server.stop();
}

#[test]
fn one_session_has_a_maildrop() {
    let site = Site::start();
    let mut first = clear(site.clear);
    first.send(b"USER ann\r\nPASS pass word\r\n");
    (0..3).for_each(|_| drop(first.ok()));
    let mut second = clear(site.clear);
    second.send(b"USER ann\r\nPASS pass word\r\n");
    second.ok();
    second.ok();
    assert!(second.line().starts_with(b"-ERR [IN-USE] "));
    first.send(b"QUIT\r\n");
    first.ok();
    second.send(b"USER ann\r\nPASS wrong\r\nUSER ann\r\nPASS pass word\r\nNOOP\r\n");
    second.ok();
    assert!(second.line().starts_with(b"-ERR [AUTH] "));
    (0..3).for_each(|_| drop(second.ok()));
    assert_eq!(site.server.metric("ringpost_pop3_locked_total", ""), 1.0);
    site.server.stop();
}

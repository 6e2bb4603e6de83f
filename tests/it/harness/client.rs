//! A small blocking SMTP client: raw bytes out, replies in.
//!
//! Knows no server. Whatever does not come in time, or not in the form of a reply, is a panic.
#![allow(clippy::disallowed_methods, reason = "a client in a test has sockets of its own")]

use super::PATIENCE;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A whole reply, with its line ends.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply(pub String);

impl Reply {
    /// The reply begins like this: `550 5.1.1`.
    #[track_caller]
    pub fn expect(&self, start: &str) -> &Self {
        assert!(self.0.starts_with(start), "expected {start:?}, got {self:?}");
        self
    }

    /// The queue id in the reply to a message.
    #[track_caller]
    pub fn id(&self) -> String {
        let id = self.0.trim_end().strip_prefix("250 2.0.0 Ok: queued as ");
        id.unwrap_or_else(|| panic!("not a reply to a message taken: {self:?}")).to_owned()
    }

    /// The three-digit code.
    pub fn code(&self) -> u16 {
        self.0[..3].parse().expect("a reply begins with its code")
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    /// TLS, once there is some.
    pub tls: Option<Box<rustls::ClientConnection>>,
    /// Once everything is deflated (RFC 4978): one stream each way.
    pub squeeze: Option<Box<(flate2::Compress, flate2::Decompress)>>,
    buf: Vec<u8>,
}

impl Client {
    /// Connects; the greeting is not read.
    #[track_caller]
    pub fn raw(to: SocketAddr) -> Client {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Client { stream, tls: None, squeeze: None, buf: Vec::new() }
    }

    /// Connects from an address of the loopback network; the greeting is not read.
    #[track_caller]
    pub fn from(from: [u8; 4], to: SocketAddr) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address of the loopback network");
        socket.connect(&to.into()).expect("the server listens");
        let stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Client { stream, tls: None, squeeze: None, buf: Vec::new() }
    }

    /// Connects and reads the greeting.
    #[track_caller]
    pub fn connect(to: SocketAddr) -> Client {
        let mut client = Client::raw(to);
        client.reply().expect("220 ");
        client
    }

    /// Connects and says EHLO.
    #[track_caller]
    pub fn hello(to: SocketAddr) -> Client {
        let mut client = Client::connect(to);
        client.say("EHLO client.test").expect("250-");
        client
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        assert!(self.try_send(bytes), "the server reads");
    }

    /// Sends bytes; false if the server has closed the connection.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let mut deflated = Vec::new();
        let bytes = match &mut self.squeeze {
            None => bytes.as_ref(),
            Some(squeeze) => {
                deflated.reserve(bytes.as_ref().len() + 1000);
                let flush = flate2::FlushCompress::Sync;
                squeeze.0.compress_vec(bytes.as_ref(), &mut deflated, flush).expect("deflates");
                &deflated
            }
        };
        match &mut self.tls {
            None => self.stream.write_all(bytes).is_ok(),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).write_all(bytes).is_ok(),
        }
    }

    /// From now on everything is deflated.
    pub fn compress(&mut self) {
        assert!(self.buf.is_empty(), "nothing follows in clear text");
        let level = flate2::Compression::default();
        self.squeeze = Some(Box::new((flate2::Compress::new(level, false), flate2::Decompress::new(false))));
    }

    /// What has come, as it was said.
    fn take(&mut self, mut bytes: &[u8]) {
        let Some(squeeze) = &mut self.squeeze else { return self.buf.extend_from_slice(bytes) };
        loop {
            self.buf.reserve(64 << 10);
            let (before, had) = (squeeze.1.total_in(), self.buf.len());
            let flush = flate2::FlushDecompress::Sync;
            squeeze.1.decompress_vec(bytes, &mut self.buf, flush).expect("the server deflates");
            bytes = &bytes[(squeeze.1.total_in() - before) as usize..];
            if bytes.is_empty() && self.buf.len() == had {
                return;
            }
        }
    }

    /// Sends a line, gives the reply.
    #[track_caller]
    pub fn say(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n"));
        self.reply()
    }

    /// The next reply.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        self.try_reply().expect("a reply, but the connection has ended")
    }

    /// The next reply; `None` at the end of the connection.
    #[track_caller]
    pub fn try_reply(&mut self) -> Option<Reply> {
        let mut text = String::new();
        loop {
            let line = self.line()?;
            assert!(line.len() >= 4 && line.ends_with("\r\n"), "not a reply line: {line:?}");
            assert!(line.as_bytes()[..3].iter().all(u8::is_ascii_digit), "not a reply line: {line:?}");
            text += &line;
            if line.as_bytes()[3] != b'-' {
                return Some(Reply(text));
            }
        }
    }

    /// The next line, with its end; `None` at the end of the connection.
    #[track_caller]
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buf.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buf.drain(..=end).collect();
                return Some(String::from_utf8(line).expect("replies are ASCII"));
            }
            let mut bytes = [0; 4096];
            let read = match &mut self.tls {
                None => self.stream.read(&mut bytes),
                Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).read(&mut bytes),
            };
            match read {
                Ok(0) => return None,
                Ok(n) => self.take(&bytes[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    return None;
                }
                Err(e) => panic!("no reply: {e}"),
            }
        }
    }

    /// All replies to the end of the connection.
    #[track_caller]
    pub fn until_end(&mut self) -> Vec<Reply> {
        std::iter::from_fn(|| self.try_reply()).collect()
    }

    /// The server has nothing more to say and closes.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let more = self.until_end();
        assert!(more.is_empty(), "expected the end, got {more:?}");
    }

    /// MAIL and RCPT; `from` and `to` may carry parameters behind the bracket: `a@b> NOTIFY=NEVER`.
    #[track_caller]
    pub fn envelope(&mut self, from: &str, to: &[&str]) {
        self.say(&format!("MAIL FROM:{}", path(from))).expect("250 2.1.0");
        for to in to {
            self.say(&format!("RCPT TO:{}", path(to))).expect("250 2.1.5");
        }
    }

    /// DATA with bytes as they go over the wire, the final dot included; the last reply.
    #[track_caller]
    pub fn data(&mut self, wire: impl AsRef<[u8]>) -> Reply {
        self.say("DATA").expect("354 ");
        self.send(wire);
        self.reply()
    }

    /// A whole transaction; `body` as it is stored. Gives the queue id.
    #[track_caller]
    pub fn mail(&mut self, from: &str, to: &[&str], body: &[u8]) -> String {
        self.envelope(from, to);
        self.data(stuffed(body)).id()
    }
}

fn path(address: &str) -> String {
    if address.contains('>') { format!("<{address}") } else { format!("<{address}>") }
}

/// The wire form of a body: dots doubled (RFC 5321 §4.5.2), then the final dot.
pub fn stuffed(body: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(body.len() + 16);
    let mut fresh = true;
    for &b in body {
        if fresh && b == b'.' {
            wire.push(b'.');
        }
        wire.push(b);
        fresh = b == b'\n';
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

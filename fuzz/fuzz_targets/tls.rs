//! TLS from the server's side: any bytes as a handshake, and a real client whose bytes are cut anywhere
//! and may be damaged. No panic, bounded output, never a plain byte that the client has not said.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rcgen::{CertificateParams, KeyPair};
use ringpost::base::security::TlsVersion;
use ringpost::base::time::{Mono, Wall};
use ringpost::channel::Channel;
use ringpost::load::source::secure::TakeAny;
use ringpost::runtime::pool::Pool;
use ringpost::runtime::{Lent, Part, Stream};
use ringpost::tls::{Connection, Credentials, Rules, Snapshot, authorities};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::cell::RefCell;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

static SNAPSHOT: LazyLock<Arc<Snapshot>> = LazyLock::new(|| {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["mx.example".into()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    let credentials = Credentials::parse(certificate.as_bytes(), key.serialize_pem().as_bytes());
    // Whoever it is: clients are asked for a certificate.
    let authorities = Some(authorities(certificate.as_bytes()).expect("a certificate"));
    let rules = Rules { minimum: TlsVersion::Tls12, protocols: &["smtp"], authorities };
    Arc::new(Snapshot::new(credentials.expect("a pair"), Vec::new(), &rules).expect("randomness"))
});

/// Clients of TLS 1.2 and 1.3; they resume where they can.
static CLIENTS: LazyLock<[Arc<ClientConfig>; 2]> = LazyLock::new(|| {
    [&rustls::version::TLS12, &rustls::version::TLS13].map(|version| {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(&[version]).expect("a version").dangerous();
        Arc::new(builder.with_custom_certificate_verifier(TakeAny::unread(provider)).with_no_client_auth())
    })
});

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else { return };
    if kind & 1 == 0 { garbage(rest) } else { session(kind, rest) }
});

/// Bytes of anybody, in pieces of any length.
fn garbage(input: &[u8]) {
    let Some((&piece, wire)) = input.split_first() else { return };
    let mut server = Connection::accept(SNAPSHOT.clone(), "smtp", true).expect("randomness");
    let (mut out, mut plain) = (Vec::new(), Vec::with_capacity(4096));
    for part in wire.chunks(usize::from(piece).max(1)) {
        let mut at = 0;
        while at < part.len() {
            match server.feed(&part[at..]) {
                Ok(n) => at += n,
                Err(_) => {
                    server.pull(&mut out);
                    // It stays over.
                    assert!(server.feed(b"\x16\x03\x01\x00\x01\x01").is_err());
                    assert!(out.len() < 32 << 10 && server.security(Wall(0)).is_none());
                    return;
                }
            }
            server.pull(&mut out);
            assert_eq!(server.read(&mut plain), 0, "nobody has proved anything");
        }
    }
    server.rest();
    assert!(server.is_handshaking() && out.len() < 32 << 10);
}

/// A client at the other end of a stream.
struct Peer {
    tls: ClientConnection,
    /// What it has sent that has not been received.
    wire: Vec<u8>,
    /// What it says once the handshake is done.
    text: Vec<u8>,
    cuts: Vec<u8>,
    turn: usize,
    /// Bytes received by the server so far, and the one that is damaged.
    at: usize,
    damaged: Option<(usize, u8)>,
    heard: Vec<u8>,
    /// The server's bytes were not good.
    offended: bool,
}

struct Link(RefCell<Peer>);

impl Peer {
    fn listen(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.offended {
            let taken = self.tls.read_tls(&mut bytes).is_ok_and(|n| n > 0);
            self.offended = !taken || self.tls.process_new_packets().is_err();
            // It fails when nothing is there.
            let _ = self.tls.reader().read_to_end(&mut self.heard);
        }
    }

    fn speak(&mut self) {
        if !self.tls.is_handshaking() && !self.text.is_empty() {
            let text = std::mem::take(&mut self.text);
            self.tls.writer().write_all(&text).expect("no limit");
        }
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.wire).expect("a vector");
        }
    }
}

impl Stream for Link {
    async fn recv(&self, mut buf: Vec<u8>) -> Lent<usize, Vec<u8>> {
        let mut peer = self.0.borrow_mut();
        peer.speak();
        let cut = peer.cuts.get(peer.turn).copied().unwrap_or(0);
        peer.turn = (peer.turn + 1) % peer.cuts.len().max(1);
        let most = if cut == 0 { usize::MAX } else { usize::from(cut) };
        let n = most.min(peer.wire.len()).min(buf.capacity() - buf.len());
        let (from, start) = (peer.at, buf.len());
        buf.extend(peer.wire.drain(..n));
        peer.at += n;
        if let Some((place, how)) = peer.damaged.filter(|(place, _)| (from..from + n).contains(place)) {
            buf[start + place - from] ^= how;
        }
        (Ok(n), buf)
    }

    async fn readable(&self) -> io::Result<()> {
        Ok(())
    }

    async fn send(&self, buf: Vec<u8>) -> Lent<(), Vec<u8>> {
        self.0.borrow_mut().listen(&buf);
        (Ok(()), buf)
    }

    async fn send_parts(&self, parts: Vec<Part>) -> Lent<(), Vec<Part>> {
        // Channels send whole buffers.
        (Err(io::ErrorKind::Unsupported.into()), parts)
    }

    fn set_deadline(&self, _: Option<Mono>) {}

    fn shutdown(&self) {}

    fn local(&self) -> SocketAddr {
        ([127, 0, 0, 1], 25).into()
    }
}

/// Nothing here waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("the peer answers at once"),
    }
}

/// A whole session with a client that says what stands in `input`.
fn session(kind: u8, input: &[u8]) {
    let (cuts, text) = input.split_at(input.len().min(16));
    // Up to three records.
    let text = text.repeat(1 + usize::from(kind >> 4) * 20);
    let text = &text[..text.len().min(40_000)];
    let damaged = cuts.first_chunk().filter(|_| kind & 4 != 0 && cuts[2] != 0);
    let damaged = damaged.map(|&[a, b, how]: &[u8; 3]| (usize::from(u16::from_le_bytes([a, b])), how));
    let name = ServerName::try_from("mx.example").expect("a name");
    let config = CLIENTS[usize::from(kind >> 1 & 1)].clone();
    let mut tls = ClientConnection::new(config, name).expect("rules");
    tls.set_buffer_limit(None);
    let link = Link(RefCell::new(Peer {
        tls,
        wire: Vec::new(),
        text: text.to_vec(),
        cuts: cuts.to_vec(),
        turn: 0,
        at: 0,
        damaged,
        heard: Vec::new(),
        offended: false,
    }));
    let pool = Pool::new(4);
    let server = Connection::accept(SNAPSHOT.clone(), "smtp", kind & 8 != 0).expect("randomness");
    let (mut channel, result) = now(Channel::handshake(&link, Box::new(server), &pool));
    let mut got = Vec::new();
    if result.is_ok() {
        assert!(channel.tls().is_some_and(|tls| tls.security(Wall(0)).is_some()));
        while got.len() < text.len() {
            let room = Vec::with_capacity(if kind & 32 == 0 { 4096 } else { 64 });
            let (received, _, room) = now(channel.send_recv(&link, &pool, b"250 go on\r\n".to_vec(), room));
            got.extend_from_slice(&room);
            if !matches!(received, Ok(1..)) {
                break;
            }
        }
        assert!(text.starts_with(&got), "what was never said");
    }
    if damaged.is_none() {
        assert!(result.is_ok() && got == text);
        let before = link.0.borrow().heard.len();
        now(channel.readable(&link, &pool)).expect("it can always be read");
        let last = channel.farewell(b"221 Bye\r\n".to_vec());
        let mut peer = link.0.borrow_mut();
        peer.listen(&last);
        assert!(!peer.offended && peer.heard[before..].ends_with(b"221 Bye\r\n"));
        // Without a close_notify it would be an error.
        assert_eq!(peer.tls.reader().read(&mut [0]).ok(), Some(0));
    } else {
        let last = channel.farewell(b"221 Bye\r\n".to_vec());
        assert!(last.len() < 32 << 10);
    }
}

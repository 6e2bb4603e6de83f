//! What TLS costs our side: handshakes full and resumed, and bytes opened and sealed.
//!
//! Both ends run in memory; only the time within our end is counted. Beside each handshake stands the
//! same of the bare library ("bare"): ours is to be within 1.3 times.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rcgen::{CertificateParams, KeyPair};
use ringpost::base::security::TlsVersion;
use ringpost::load::source::secure::TakeAny;
use ringpost::tls::{Connection, Credentials, Rules, Snapshot};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A certificate and its key.
fn pair() -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["mx.example".into()]).expect("a name");
    (params.self_signed(&key).expect("a certificate"), key)
}

/// The rules of the bare library, with tickets as ours.
fn bare() -> Arc<ServerConfig> {
    let (certificate, key) = pair();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).expect("a pair");
    config.ticketer = aws_lc_rs::Ticketer::new().expect("randomness");
    config.send_tls13_tickets = 1;
    Arc::new(config)
}

fn snapshot() -> Arc<Snapshot> {
    let (certificate, key) = pair();
    let certificate = certificate.pem();
    let credentials = Credentials::parse(certificate.as_bytes(), key.serialize_pem().as_bytes());
    let rules = Rules { minimum: TlsVersion::Tls12, protocols: &["smtp"], authorities: None };
    Arc::new(Snapshot::new(credentials.expect("a pair"), Vec::new(), &rules).expect("randomness"))
}

/// A client: version, without post-quantum groups, resuming.
fn client(
    version: &'static rustls::SupportedProtocolVersion,
    classic: bool,
    resume: bool,
) -> Arc<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    if classic {
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    }
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(&[version]).expect("a version").dangerous();
    let mut config =
        builder.with_custom_certificate_verifier(TakeAny::unread(provider)).with_no_client_auth();
    if !resume {
        config.resumption = rustls::client::Resumption::disabled();
    }
    Arc::new(config)
}

/// Time spent in our end.
#[derive(Default)]
struct Ours(Duration);

impl Ours {
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        #[allow(clippy::disallowed_methods, reason = "a bench measures")]
        let begun = Instant::now();
        let result = work();
        self.0 += begun.elapsed();
        result
    }
}

/// One handshake with its tickets; `begin` makes the server's end, `step` takes received bytes there and
/// gives what is to be sent.
fn shake_with<S>(
    begin: impl FnOnce() -> S,
    step: impl Fn(&mut S, &[u8], &mut Vec<u8>),
    config: &Arc<ClientConfig>,
    ours: &mut Ours,
) -> (S, ClientConnection) {
    let name = ServerName::try_from("mx.example").expect("a name");
    let mut client = ClientConnection::new(config.clone(), name).expect("rules");
    let mut server = ours.time(begin);
    let (mut wire, mut back) = (Vec::with_capacity(4096), Vec::with_capacity(4096));
    loop {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("a vector");
        }
        back.clear();
        ours.time(|| step(&mut server, &wire, &mut back));
        if wire.is_empty() && back.is_empty() {
            return (server, client);
        }
        let mut rest = &back[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("a slice");
            client.process_new_packets().expect("a good server");
        }
    }
}

/// One of ours.
fn shake(
    snapshot: &Arc<Snapshot>,
    config: &Arc<ClientConfig>,
    ours: &mut Ours,
) -> (Connection, ClientConnection) {
    let begin = || Connection::accept(snapshot.clone(), "smtp", false).expect("randomness");
    let step = |server: &mut Connection, mut rest: &[u8], back: &mut Vec<u8>| {
        while !rest.is_empty() {
            rest = &rest[server.feed(rest).expect("a good client")..];
        }
        server.pull(back);
    };
    shake_with(begin, step, config, ours)
}

/// One of the bare library.
fn shake_bare(bare: &Arc<ServerConfig>, config: &Arc<ClientConfig>, ours: &mut Ours) -> ClientConnection {
    let begin = || ServerConnection::new(bare.clone()).expect("rules");
    let step = |server: &mut ServerConnection, mut rest: &[u8], back: &mut Vec<u8>| {
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("a slice");
            server.process_new_packets().expect("a good client");
        }
        while server.wants_write() {
            server.write_tls(back).expect("a vector");
        }
    };
    shake_with(begin, step, config, ours).1
}

fn handshakes(c: &mut Criterion) {
    let mut group = c.benchmark_group("handshake");
    let (snapshot, bare) = (snapshot(), bare());
    for (name, version, classic, resume) in [
        ("1.3 full, X25519", &rustls::version::TLS13, true, false),
        ("1.3 full, X25519MLKEM768", &rustls::version::TLS13, false, false),
        ("1.3 resumed, X25519", &rustls::version::TLS13, true, true),
        ("1.2 full, X25519", &rustls::version::TLS12, true, false),
        ("1.2 resumed", &rustls::version::TLS12, true, true),
    ] {
        for is_bare in [false, true] {
            let config = client(version, classic, resume);
            let one = |ours: &mut Ours| {
                if is_bare { shake_bare(&bare, &config, ours) } else { shake(&snapshot, &config, ours).1 }
            };
            // The first gets the ticket.
            one(&mut Ours::default());
            group.bench_function(format!("{name}{}", if is_bare { ", bare" } else { "" }), |b| {
                b.iter_custom(|rounds| {
                    let mut ours = Ours::default();
                    for _ in 0..rounds {
                        let resumed = one(&mut ours).handshake_kind() == Some(rustls::HandshakeKind::Resumed);
                        assert_eq!(resumed, resume);
                    }
                    ours.0
                });
            });
        }
    }
}

fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group("records");
    let (mut server, mut client) =
        shake(&snapshot(), &client(&rustls::version::TLS13, true, false), &mut Ours::default());
    client.set_buffer_limit(None);
    for (name, size) in [("100 B", 100), ("4 KiB", 4 << 10), ("1 MiB", 1 << 20)] {
        let plain = vec![b'x'; size];
        group.throughput(Throughput::Bytes(size as u64));
        let mut into = Vec::with_capacity(128 << 10);
        group.bench_function(format!("open {name}"), |b| {
            b.iter_custom(|rounds| {
                let mut ours = Ours::default();
                for _ in 0..rounds {
                    client.writer().write_all(&plain).expect("no limit");
                    let mut wire = Vec::new();
                    while client.wants_write() {
                        client.write_tls(&mut wire).expect("a vector");
                    }
                    let got = ours.time(|| {
                        let (mut at, mut got) = (0, 0);
                        while got < size {
                            into.clear();
                            at += server.feed(&wire[at..]).expect("good records");
                            got += server.read(&mut into);
                        }
                        got
                    });
                    assert_eq!(got, size);
                }
                ours.0
            });
        });
        let mut out = Vec::with_capacity(2 << 20);
        group.bench_function(format!("seal {name}"), |b| {
            b.iter(|| {
                out.clear();
                server.write(&plain, &mut out);
                out.len()
            });
        });
    }
}

criterion_group!(benches, handshakes, records);
criterion_main!(benches);

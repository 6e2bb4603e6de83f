//! Certificates for tests, a client in memory, and what a handshake must and must not do.

use super::*;
use crate::base::security::{Security, TlsVersion};
use crate::base::time::Wall;
use crate::load::source::secure::TakeAny;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection};
use std::io::{Read, Write};
use std::sync::OnceLock;

/// A certificate made once, for property tests.
pub static WORDS: OnceLock<Vec<u8>> = OnceLock::new();

/// When the tests take place: inside of the validity of all certificates made here.
pub const NOW: Wall = Wall(1_790_000_000_000);

/// Makes certificates.
pub struct Maker {
    params: CertificateParams,
}

/// A certificate and its key.
pub struct Made {
    pub certificate: String,
    pub key: String,
    pub der: Vec<u8>,
}

impl Made {
    pub fn credentials(&self) -> Credentials {
        Credentials::parse(self.certificate.as_bytes(), self.key.as_bytes()).unwrap()
    }
}

impl Maker {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec!["mx.example".into()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        Maker { params }
    }

    pub fn hosts(mut self, hosts: &[&str]) -> Self {
        let name = |h: &&str| SanType::DnsName((*h).try_into().unwrap());
        self.params.subject_alt_names = hosts.iter().map(name).collect();
        self
    }

    pub fn email(mut self, email: &str) -> Self {
        self.params.subject_alt_names.push(SanType::Rfc822Name(email.try_into().unwrap()));
        self
    }

    pub fn common(mut self, name: &str) -> Self {
        self.params.distinguished_name.push(DnType::CommonName, name);
        self
    }

    /// Valid from and until so many days after `now`.
    pub fn days(mut self, now: Wall, from: i64, until: i64) -> Self {
        let date = |days: i64| {
            let seconds = i64::try_from(now.0 / 1000).unwrap() + days * 86_400 + 3600;
            (rcgen::date_time_ymd(1970, 1, 1)) + std::time::Duration::from_secs(seconds as u64)
        };
        (self.params.not_before, self.params.not_after) = (date(from), date(until));
        self
    }

    pub fn make(self) -> Made {
        let key = KeyPair::generate().unwrap();
        let certificate = self.params.self_signed(&key).unwrap();
        Made { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() }
    }

    /// Issued by an authority, whose certificate comes second.
    pub fn issued(self) -> (Made, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let own = self.params.signed_by(&key, &issuer).unwrap();
        let made = Made { certificate: own.pem(), key: key.serialize_pem(), der: own.der().to_vec() };
        (made, issuer.pem())
    }
}

/// A client's rules: versions, its certificate.
pub fn client(version: Option<TlsVersion>, own: Option<&Made>) -> ClientConfig {
    let versions: &[_] = match version {
        None => &[&rustls::version::TLS13, &rustls::version::TLS12],
        Some(TlsVersion::Tls12) => &[&rustls::version::TLS12],
        Some(TlsVersion::Tls13) => &[&rustls::version::TLS13],
    };
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(TakeAny::with_key(provider()));
    match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let chain = vec![CertificateDer::from(own.der.clone())];
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

pub fn rules() -> Rules {
    Rules { minimum: TlsVersion::Tls12, protocols: &["smtp", "imap"], authorities: None }
}

pub fn snapshot(rules: &Rules) -> Arc<Snapshot> {
    Arc::new(Snapshot::new(Maker::new().make().credentials(), Vec::new(), rules).unwrap())
}

/// A server and a client that talk in memory.
struct Pair {
    server: Connection,
    client: ClientConnection,
    /// What the server has read.
    heard: Vec<u8>,
}

impl Pair {
    fn new(snapshot: &Arc<Snapshot>, client: ClientConfig, name: &str) -> Self {
        Self::of("smtp", snapshot, client, name)
    }

    fn of(protocol: &str, snapshot: &Arc<Snapshot>, client: ClientConfig, name: &str) -> Self {
        let server = Connection::accept(snapshot.clone(), protocol, true).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        Pair {
            server,
            client: ClientConnection::new(Arc::new(client), name).unwrap(),
            heard: Vec::with_capacity(1 << 20),
        }
    }

    /// Moves bytes, `piece` at a time, until nobody has more to say.
    fn run(&mut self, piece: usize) -> Result<(), Fault> {
        loop {
            let mut wire = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut wire).unwrap();
            }
            for part in wire.chunks(piece) {
                self.hear(part)?;
            }
            let mut back = Vec::new();
            self.server.pull(&mut back);
            if wire.is_empty() && back.is_empty() {
                return Ok(());
            }
            self.tell(&back)?;
        }
    }

    fn hear(&mut self, mut part: &[u8]) -> Result<(), Fault> {
        while !part.is_empty() {
            let n = self.server.feed(part)?;
            part = &part[n..];
            if self.server.read(&mut self.heard) == 0 && n == 0 {
                panic!("no progress");
            }
        }
        Ok(())
    }

    fn tell(&mut self, mut back: &[u8]) -> Result<(), Fault> {
        while !back.is_empty() {
            self.client.read_tls(&mut back).unwrap();
            self.client.process_new_packets()?;
        }
        Ok(())
    }

    fn security(&self) -> Security {
        self.server.security(NOW).unwrap()
    }
}

/// A handshake; what the server says of it.
fn shake(snapshot: &Arc<Snapshot>, client: ClientConfig) -> Result<Security, Fault> {
    let mut pair = Pair::new(snapshot, client, "mx.example");
    pair.run(usize::MAX)?;
    Ok(pair.security())
}

#[test]
fn both_versions_however_the_bytes_are_cut() {
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        for piece in [1, 7, 1000, usize::MAX] {
            let mut pair = Pair::new(&snapshot(&rules()), client(Some(version), None), "MX.example");
            assert!(pair.server.security(NOW).is_none() && pair.server.is_handshaking());
            pair.run(piece).unwrap();
            let s = pair.security();
            assert_eq!((s.version, s.resumed, s.client.clone()), (version, false, None));
            assert!(s.cipher.starts_with("TLS_") && !s.cipher.contains("TLS13"), "{}", s.cipher);
            assert_eq!(s.server_name.as_deref(), Some("mx.example"));
            let long: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
            pair.client.set_buffer_limit(None);
            pair.client.writer().write_all(&long).unwrap();
            pair.run(piece).unwrap();
            assert_eq!(pair.heard, long);
            let mut out = Vec::new();
            pair.server.write(&long, &mut out);
            let mut back = vec![0; long.len()];
            let (mut at, mut rest) = (0, &out[..]);
            while !rest.is_empty() {
                pair.client.read_tls(&mut rest).unwrap();
                pair.client.process_new_packets().unwrap();
                while at < back.len() {
                    let Ok(n) = pair.client.reader().read(&mut back[at..]) else { break };
                    at += n;
                }
            }
            assert_eq!((back == long, at), (true, long.len()));
        }
    }
}

/// Both ends have the same bindings, and no two connections have the same exporter.
#[test]
fn channel_bindings() {
    let snapshot = snapshot(&rules());
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let mut pair = Pair::new(&snapshot, client(Some(TlsVersion::Tls13), None), "mx.example");
        pair.run(usize::MAX).unwrap();
        let s = pair.security();
        let theirs = pair.client.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""));
        assert_eq!(s.bindings().get(b"tls-exporter"), Some(&theirs.unwrap()[..]));
        assert!(seen.insert(s.bindings().exporter));
        let certificate = pair.client.peer_certificates().unwrap()[0].clone();
        let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, &certificate);
        assert_eq!(s.bindings().get(b"tls-server-end-point"), Some(digest.as_ref()));
    }
    let old = shake(&snapshot, client(Some(TlsVersion::Tls12), None)).unwrap();
    assert!(old.bindings().exporter.is_none() && old.bindings().end_point.is_some());
}

/// Attack catalogue, row 6: who asks for another protocol gets an alert.
#[test]
fn row_06_other_protocols_are_refused() {
    let snapshot = snapshot(&rules());
    let cases: [(&str, &[&str], bool); 7] = [
        ("smtp", &[], true),
        ("smtp", &["smtp"], true),
        ("smtp", &["http/1.1"], false),
        ("smtp", &["h2", "smtp"], true),
        ("smtp", &["imap"], false),
        ("imap", &["imap"], true),
        ("imap", &["smtp"], false),
    ];
    for (protocol, offered, ok) in cases {
        let mut config = client(None, None);
        config.alpn_protocols = offered.iter().map(|p: &&str| p.as_bytes().to_vec()).collect();
        let mut pair = Pair::of(protocol, &snapshot, config, "mx.example");
        match pair.run(usize::MAX) {
            Ok(()) => assert!(ok, "{offered:?}"),
            Err(fault) => {
                assert_eq!((fault.reason, ok), (Reason::Protocol, false), "{offered:?}");
                let mut alert = Vec::new();
                pair.server.pull(&mut alert);
                // RFC 7301 §3.2
                let heard = pair.tell(&alert).unwrap_err();
                assert!(heard.text.contains("NoApplicationProtocol"), "{heard:?}");
            }
        }
    }
    assert!(Connection::accept(snapshot, "pop3", false).is_err(), "the rules do not name it");
}

#[test]
fn the_lowest_version_holds() {
    let snapshot = snapshot(&Rules { minimum: TlsVersion::Tls13, ..rules() });
    let fault = shake(&snapshot, client(Some(TlsVersion::Tls12), None)).unwrap_err();
    assert_eq!(fault.reason, Reason::Version);
    assert_eq!(shake(&snapshot, client(None, None)).unwrap().version, TlsVersion::Tls13);
}

/// Attack catalogue, row 32: what is no TLS, or too much of it, ends in an alert and not in memory.
#[test]
fn row_32_garbage_gets_an_alert() {
    let snapshot = snapshot(&rules());
    let oversized = [&[22, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat();
    for (bytes, reason) in [
        (&b"EHLO client.example\r\nMAIL FROM:<a@b>\r\n"[..], Reason::NotTls),
        (b"GET / HTTP/1.1\r\n\r\n", Reason::NotTls),
        (&[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10], Reason::NotTls),
        (&[22, 3, 1, 0, 4, 2, 0, 0, 0], Reason::Other),
        (&[22, 3, 1, 0, 0], Reason::Other),
        (&oversized, Reason::Other),
    ] {
        let mut server = Connection::accept(snapshot.clone(), "smtp", false).unwrap();
        let fault = server.feed(bytes).expect_err("refused");
        assert_eq!(fault.reason, reason, "{fault:?}");
        let mut alert = Vec::new();
        server.pull(&mut alert);
        assert_eq!((alert[0], alert.len(), alert[5]), (21, 7, 2), "one fatal alert: {alert:?}");
        assert!(server.security(NOW).is_none());
        assert!(server.feed(b"\x16\x03\x01").is_err(), "it stays over");
    }
}

#[test]
fn damaged_records_end_it() {
    let mut pair = Pair::new(&snapshot(&rules()), client(None, None), "mx.example");
    pair.run(usize::MAX).unwrap();
    pair.client.writer().write_all(b"NOOP\r\n").unwrap();
    let mut wire = Vec::new();
    pair.client.write_tls(&mut wire).unwrap();
    *wire.last_mut().unwrap() ^= 1;
    assert_eq!(pair.hear(&wire).unwrap_err().reason, Reason::Other);
    assert!(pair.server.has_output() && pair.heard.is_empty());
}

#[test]
fn tickets_hold_within_a_snapshot_only() {
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        let (first, second) = (snapshot(&rules()), snapshot(&rules()));
        let config = client(Some(version), None);
        let shake = |snapshot: &Arc<Snapshot>| {
            let mut pair = Pair::new(snapshot, config.clone(), "mx.example");
            pair.run(usize::MAX).unwrap();
            // The ticket of TLS 1.3 comes after the handshake.
            pair.run(usize::MAX).unwrap();
            pair.security()
        };
        assert!(!shake(&first).resumed, "{version:?}");
        let resumed = shake(&first);
        assert!(resumed.resumed, "{version:?}");
        assert_eq!(resumed.bindings.end_point, first.names.of(None).end_point);
        assert!(!shake(&second).resumed, "another certificate");
    }
}

#[test]
fn certificates_of_clients() {
    let (known, authority) = Maker::new().hosts(&[]).email("ann@b.example").common("Ann").issued();
    let rules = Rules { authorities: Some(authorities(authority.as_bytes()).unwrap()), ..rules() };
    let snapshot = snapshot(&rules);
    for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
        assert_eq!(shake(&snapshot, client(Some(version), None)).unwrap().client, None);
        let seen = shake(&snapshot, client(Some(version), Some(&known))).unwrap().client.unwrap();
        assert!(seen.verified, "{version:?}");
        assert_eq!((seen.emails, seen.common_name.as_deref()), (vec!["ann@b.example".into()], Some("Ann")));
        let stranger = Maker::new().email("ann@b.example").make();
        let seen = shake(&snapshot, client(Some(version), Some(&stranger))).unwrap().client.unwrap();
        assert_eq!((seen.verified, seen.hosts), (false, vec!["mx.example".into()]));
    }
    // Not asked for, not seen.
    let mut server = Connection::accept(snapshot.clone(), "smtp", false).unwrap();
    let mut pair = Pair::new(&snapshot, client(None, Some(&known)), "mx.example");
    std::mem::swap(&mut pair.server, &mut server);
    pair.run(usize::MAX).unwrap();
    assert_eq!(pair.security().client, None);
    assert_eq!(authorities(b"").unwrap_err().part, Part::Authorities);
}

/// A client that has not the key of the certificate it shows is refused.
#[test]
fn a_copied_certificate_is_no_proof() {
    let (known, authority) = Maker::new().email("ann@b.example").issued();
    let rules = Rules { authorities: Some(authorities(authority.as_bytes()).unwrap()), ..rules() };
    let thief = Made { key: Maker::new().make().key, ..known };
    let chain = vec![CertificateDer::from(thief.der.clone())];
    let key = PrivateKeyDer::from_pem_slice(thief.key.as_bytes()).unwrap();
    let key = provider().key_provider.load_private_key(key).unwrap();
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder =
        builder.unwrap().dangerous().with_custom_certificate_verifier(TakeAny::with_key(provider()));
    let stolen = Arc::new(rustls::sign::CertifiedKey::new(chain, key));
    let config = builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(stolen)));
    assert!(shake(&snapshot(&rules), config).is_err());
}

#[test]
fn the_end_is_said_and_heard() {
    let mut pair = Pair::new(&snapshot(&rules()), client(None, None), "mx.example");
    pair.run(usize::MAX).unwrap();
    pair.client.writer().write_all(b"QUIT\r\n").unwrap();
    pair.client.send_close_notify();
    pair.run(usize::MAX).unwrap();
    assert!(pair.server.is_peer_closed());
    assert_eq!(pair.heard, b"QUIT\r\n");
    assert_eq!(pair.server.feed(b"whatever"), Ok(8), "dropped");
    let mut out = Vec::new();
    pair.server.write(b"221 Bye\r\n", &mut out);
    pair.server.close(&mut out);
    pair.tell(&out).unwrap();
    let mut said = Vec::new();
    pair.client.reader().read_to_end(&mut said).unwrap();
    assert_eq!(said, b"221 Bye\r\n", "read_to_end fails without close_notify");
}

/// Pages of this process that are in memory, in bytes.
#[allow(clippy::disallowed_methods, reason = "a test looks at its own process")]
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// What TLS adds to an idle session. Other tests run beside this one, so it is a process of its own.
#[test]
fn an_idle_connection_is_small() {
    if !crate::runtime::in_child("tls::tests::an_idle_connection_is_small") {
        return;
    }
    let (snapshot, config) = (snapshot(&rules()), client(Some(TlsVersion::Tls13), None));
    let idle = || {
        let mut pair = Pair::new(&snapshot, config.clone(), "mx.example");
        pair.run(usize::MAX).unwrap();
        pair.client.writer().write_all(&[b'x'; 20_000]).unwrap();
        pair.run(usize::MAX).unwrap();
        pair.server.rest();
        Box::new(pair.server)
    };
    // What is needed once is there after these.
    let first: Vec<_> = (0..200).map(|_| idle()).collect();
    let before = resident();
    let more: Vec<_> = (0..1000).map(|_| idle()).collect();
    let each = resident().saturating_sub(before) / more.len();
    assert!(each < 10 << 10, "{each} bytes for each of {} connections", first.len() + more.len());
    assert!(size_of::<Connection>() <= 2048, "{}", size_of::<Connection>());
}

//! Name servers under the test's control: a signed or unsigned root zone with whatever the test
//! writes into it, and one that only fails.
//!
//! Runs on a thread of its own until the test process ends.
#![allow(clippy::disallowed_methods, reason = "a server in a test has sockets of its own")]

use hickory_proto::dnssec::crypto::EcdsaSigningKey;
use hickory_proto::dnssec::rdata::DNSKEY;
use hickory_proto::dnssec::{Algorithm, DnssecSigner, SigningKey};
use hickory_proto::rr::Name;
use hickory_proto::serialize::txt::Parser;
use hickory_server::Server;
use hickory_server::dnssec::NxProofKind;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

type Zone = InMemoryZoneHandler<TokioRuntimeProvider>;

const HEAD: &str = "$TTL 300\n@ IN SOA ns. admin. 1 3600 600 86400 5\n@ IN NS ns.\nns. IN A 127.0.0.1\n";

/// A running name server.
pub struct NameServer {
    pub address: SocketAddr,
    /// What trusts its keys, as a file of trust anchors; empty if it has none.
    pub anchors: String,
}

impl NameServer {
    /// Serves these records (of a zone file, names in full) without signatures.
    pub fn start(records: &str) -> NameServer {
        let address = serve(zone(records));
        NameServer { address, anchors: String::new() }
    }

    /// Serves these records with signatures, and some that were forged later.
    pub fn signed(records: &str, forged: &str) -> NameServer {
        let mut zone = zone(records);
        let algorithm = Algorithm::ECDSAP256SHA256;
        let secret = EcdsaSigningKey::generate_pkcs8(algorithm).expect("a key");
        let key = EcdsaSigningKey::from_pkcs8(&secret, algorithm).expect("a key");
        let public = DNSKEY::from_key(&key.to_public_key().expect("a key"));
        let anchors = format!(". 3600 IN DNSKEY {public}\n");
        let day = Duration::from_secs(86_400);
        let signer = DnssecSigner::new(public, Box::new(key), Name::root(), day);
        zone.add_zone_signing_key_mut(signer).expect("a key");
        zone.secure_zone_mut().expect("it can be signed");
        let (_, sets) = parse(forged);
        let records = sets.values().flat_map(|set| set.records_without_rrsigs());
        // Without the head, which every zone has.
        for record in records.filter(|r| r.name.to_ascii().ends_with(".test.")) {
            assert!(zone.upsert_mut(record.clone(), 9), "{record} is new");
        }
        NameServer { address: serve(zone), anchors }
    }

    /// Serves these records as a validating resolver would that has found them all to be secure, but those of
    /// names that contain "insecure": sets the AD bit for whoever asks for it. Over UDP only.
    pub fn believed(records: &str) -> NameServer {
        let behind = serve(zone(records));
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("bound");
        std::thread::spawn(move || {
            let mut packet = [0; 4096];
            while let Ok((len, from)) = socket.recv_from(&mut packet) {
                let question = packet[..len].to_vec();
                let Some(mut answer) = forward(&question, behind) else { continue };
                // RFC 6840 section 5.7: it is asked for by the same bit, in the fourth byte of the header.
                let wanted = question.get(3).is_some_and(|bits| bits & 0x20 != 0);
                let secure = !question.windows(8).any(|w| w.eq_ignore_ascii_case(b"insecure"));
                answer[3] = answer[3] & !0x20 | if wanted && secure { 0x20 } else { 0 };
                // The asker may be gone.
                let _ = socket.send_to(&answer, from);
            }
        });
        NameServer { address, anchors: String::new() }
    }

    /// Answers SERVFAIL to everything.
    pub fn failing() -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("bound");
        std::thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut packet) {
                if len >= 12 {
                    // RFC 1035 §4.1.1: a response, server failure; the rest as it came.
                    (packet[2], packet[3]) = (packet[2] | 0x80, 0x82);
                    // The asker may be gone.
                    let _ = socket.send_to(&packet[..len], from);
                }
            }
        });
        NameServer { address, anchors: String::new() }
    }
}

/// The answer of another name server.
fn forward(question: &[u8], to: SocketAddr) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    socket.send_to(question, to).ok()?;
    let mut answer = vec![0; 4096];
    let (len, _) = socket.recv_from(&mut answer).ok()?;
    answer.truncate(len);
    (len >= 12).then_some(answer)
}

type Sets = std::collections::BTreeMap<hickory_proto::rr::RrKey, hickory_proto::rr::RecordSet>;

fn parse(records: &str) -> (Name, Sets) {
    let text = format!("{HEAD}{records}");
    Parser::new(text, None, Some(Name::root())).parse().expect("a zone file")
}

fn zone(records: &str) -> Zone {
    let (origin, sets) = parse(records);
    let proof = Some(NxProofKind::Nsec);
    Zone::new(origin, sets, ZoneType::Primary, AxfrPolicy::Deny, proof).expect("a zone")
}

/// The same port for UDP and TCP.
fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("bound")) {
            udp.set_nonblocking(true).expect("a socket");
            tcp.set_nonblocking(true).expect("a socket");
            return (udp, tcp);
        }
    }
}

fn serve(zone: Zone) -> SocketAddr {
    let mut catalog = Catalog::new();
    catalog.upsert(Name::root().into(), vec![Arc::new(zone)]);
    let (udp, tcp) = sockets();
    let address = udp.local_addr().expect("bound");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut server = Server::new(catalog);
            server.register_socket(tokio::net::UdpSocket::from_std(udp).expect("a socket"));
            let tcp = tokio::net::TcpListener::from_std(tcp).expect("a socket");
            server.register_listener(tcp, Duration::from_secs(5), 65_535);
            // Until the process ends.
            let _ = server.block_until_done().await;
        });
    });
    address
}

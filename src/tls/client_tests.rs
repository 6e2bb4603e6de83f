//! Handshakes of our client with our server in memory, by what is demanded and what is shown.

use super::*;
use crate::base::time::Wall;
use crate::route::tlsa::Record;
use crate::tls::tests::Maker;
use crate::tls::{Certificates, Connection, Credentials, Snapshot};
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256, Sha512};

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// The names of which a certificate must have one.
const NAMES: [&str; 3] = ["mx.example", "a.example", "mx.sub.example"];

/// A server's chain and key, and the DER of its certificates, its own first.
struct Shop {
    credentials: Credentials,
    chain: Vec<Vec<u8>>,
}

fn alone(maker: Maker) -> Shop {
    let made = maker.make();
    Shop { credentials: made.credentials(), chain: vec![made.der] }
}

/// Issued by an authority, which is shown if `show`.
fn issued(maker: Maker, show: bool) -> Shop {
    let (made, issuer) = maker.issued();
    let shown = if show { made.certificate.clone() + &issuer } else { made.certificate.clone() };
    let issuer = CertificateDer::from_pem_slice(issuer.as_bytes()).unwrap();
    Shop {
        credentials: Credentials::parse(shown.as_bytes(), made.key.as_bytes()).unwrap(),
        chain: vec![made.der, issuer.to_vec()],
    }
}

fn terms(demand: Demand) -> Terms {
    Terms { demand, sni: Some("mx.example".into()), names: NAMES.map(Into::into).to_vec() }
}

fn shake(roots: Roots, terms: &Terms, shop: Shop) -> Result<Established, String> {
    let rules = crate::tls::Rules { minimum: TlsVersion::Tls12, protocols: &["smtp"], authorities: None };
    let certificates = Certificates::new(Snapshot::new(shop.credentials, Vec::new(), &rules).unwrap());
    let rules = Rules::new(roots).unwrap();
    let mut client = Client::connect(&rules, terms, ADDRESS).map_err(|f| f.text)?;
    let mut server = Connection::accept(certificates.current(), "smtp", false).unwrap();
    let mut wire = Vec::new();
    for _ in 0..10 {
        wire.clear();
        client.pull(&mut wire);
        feed(&wire, |bytes| server.feed(bytes))?;
        wire.clear();
        server.pull(&mut wire);
        feed(&wire, |bytes| client.feed(bytes))?;
    }
    assert!(!server.is_handshaking() && !client.is_peer_closed());
    // Bytes come through in both directions.
    let (mut sealed, mut plain) = (Vec::new(), Vec::with_capacity(100));
    client.write(b"EHLO a\r\n", &mut sealed);
    feed(&sealed, |bytes| server.feed(bytes))?;
    server.read(&mut plain);
    assert_eq!(plain, b"EHLO a\r\n");
    let established = client.established().unwrap();
    assert_eq!(server.security(crate::tls::tests::NOW).unwrap().cipher, established.cipher);
    Ok(established)
}

fn feed(mut bytes: &[u8], mut take: impl FnMut(&[u8]) -> Result<usize, Fault>) -> Result<(), String> {
    while !bytes.is_empty() {
        let n = take(bytes).map_err(|f| f.text)?;
        bytes = &bytes[n..];
    }
    Ok(())
}

fn none() -> Roots {
    Roots::usable([])
}

fn key_of(der: &[u8]) -> Vec<u8> {
    let der = CertificateDer::from(der.to_vec());
    ParsedCertificate::try_from(&der).unwrap().subject_public_key_info().to_vec()
}

fn record(usage: u8, selector: u8, matching: u8, der: &[u8]) -> Record {
    let bytes = if selector == 0 { der.to_vec() } else { key_of(der) };
    let data = match matching {
        0 => bytes,
        1 => Sha256::digest(&bytes).to_vec(),
        _ => Sha512::digest(&bytes).to_vec(),
    };
    Record { usage, selector, matching, data }
}

fn dane(records: &[Record]) -> Terms {
    terms(Demand::Dane(Pins::of(records)))
}

#[test]
fn any_certificate_will_do_where_none_counts() {
    let expired = || alone(Maker::new().hosts(&["other.example"]).days(Wall(0), 1, 2));
    for demand in [Demand::Opportunistic, Demand::Encrypted] {
        let established = shake(none(), &terms(demand), expired()).unwrap();
        assert_eq!((established.proof, established.version), (Proof::None, TlsVersion::Tls13));
        assert_eq!(established.to_string(), format!("TLSv1.3 {}, not verified", established.cipher));
    }
}

#[test]
fn authorities_vouch_for_names_and_dates() {
    let required = terms(Demand::Verified);
    let trusting = |shop: &Shop| Roots::usable([CertificateDer::from(shop.chain[1].clone())]);
    for host in ["mx.example", "a.example", "*.sub.example"] {
        let shop = issued(Maker::new().hosts(&[host]), true);
        let roots = trusting(&shop);
        assert_eq!(shake(roots, &required, shop).unwrap().proof, Proof::Authority, "{host}");
    }
    let fails = |maker: Maker, text: &str| {
        let shop = issued(maker, true);
        let error = shake(trusting(&shop), &required, shop).unwrap_err();
        assert_eq!(error, format!("the certificate is not believed: {text}"));
    };
    fails(Maker::new().hosts(&["mx.other.example"]), "it is for other names");
    fails(Maker::new().days(Wall(0), 1, 2), "it has expired");
    fails(Maker::new().days(Wall(4_000_000_000_000), 1, 2), "it is not valid yet");
    let unknown = shake(none(), &required, issued(Maker::new(), true)).unwrap_err();
    assert_eq!(unknown, "the certificate is not believed: no known authority has issued it");
    let alone = shake(none(), &required, alone(Maker::new())).unwrap_err();
    assert!(alone.starts_with("the certificate is not believed: "), "{alone}");
}

#[test]
fn usage_3_ignores_names_and_dates() {
    for (selector, matching) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
        let shop = alone(Maker::new().hosts(&["other.example"]).days(Wall(0), 1, 2));
        let records = [record(3, selector, matching, &shop.chain[0])];
        assert_eq!(shake(none(), &dane(&records), shop).unwrap().proof, Proof::Dane);
    }
    let (shop, other) = (alone(Maker::new()), alone(Maker::new()));
    let error = shake(none(), &dane(&[record(3, 1, 1, &other.chain[0])]), shop).unwrap_err();
    assert_eq!(error, "the certificate is not believed: it does not fit the TLSA records");
    // The records of a next certificate beside those of the one in use.
    let shop = alone(Maker::new());
    let both = [record(3, 1, 1, &other.chain[0]), record(3, 1, 1, &shop.chain[0])];
    assert!(shake(none(), &dane(&both), shop).is_ok());
}

#[test]
fn usage_2_wants_the_authority_the_names_and_the_dates() {
    for (selector, matching) in [(0, 0), (0, 1), (1, 1), (1, 2)] {
        for host in ["mx.example", "a.example"] {
            let shop = issued(Maker::new().hosts(&[host]), true);
            let records = [record(2, selector, matching, &shop.chain[1])];
            assert_eq!(shake(none(), &dane(&records), shop).unwrap().proof, Proof::Dane);
        }
    }
    let fails = |maker: Maker| {
        let shop = issued(maker, true);
        let records = [record(2, 1, 1, &shop.chain[1])];
        shake(none(), &dane(&records), shop).unwrap_err()
    };
    assert!(fails(Maker::new().hosts(&["other.example"])).ends_with("it is for other names"));
    assert!(fails(Maker::new().days(Wall(0), 1, 2)).ends_with("it has expired"));
    // Another authority, and one that is not shown.
    let other = issued(Maker::new(), true);
    let records = [record(2, 1, 1, &other.chain[1])];
    assert!(shake(none(), &dane(&records), issued(Maker::new(), true)).is_err());
    let hidden = issued(Maker::new(), false);
    let digest = record(2, 0, 1, &hidden.chain[1]);
    assert!(shake(none(), &dane(&[digest]), hidden).is_err());
    // A record that has all of it does not need it to be shown.
    let hidden = issued(Maker::new(), false);
    let whole = record(2, 0, 0, &hidden.chain[1]);
    assert!(shake(none(), &dane(&[whole]), hidden).is_ok());
    // Roots of the system have no say where there are records.
    let shop = issued(Maker::new(), true);
    let roots = Roots::usable([CertificateDer::from(shop.chain[1].clone())]);
    assert!(shake(roots, &dane(&[record(3, 1, 1, &other.chain[0])]), shop).is_err());
}

/// The server shows a certificate that fits, but has not its key.
#[test]
fn a_certificate_without_its_key_proves_nothing() {
    let (own, stolen) = (Maker::new().make(), Maker::new().make());
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
    let key = provider().key_provider.load_private_key(key).unwrap();
    let chain = vec![CertificateDer::from(stolen.der.clone())];
    let certified = Arc::new(rustls::sign::CertifiedKey::new(chain, key));
    #[derive(Debug)]
    struct One(Arc<rustls::sign::CertifiedKey>);
    impl rustls::server::ResolvesServerCert for One {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(self.0.clone())
        }
    }
    let builder = rustls::ServerConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = Arc::new(builder.with_cert_resolver(Arc::new(One(certified))));
    let mut server = rustls::ServerConnection::new(config).unwrap();
    let rules = Rules::new(none()).unwrap();
    let terms = dane(&[record(3, 1, 1, &stolen.der)]);
    let mut client = Client::connect(&rules, &terms, ADDRESS).unwrap();
    let mut wire = Vec::new();
    client.pull(&mut wire);
    server.read_tls(&mut &wire[..]).unwrap();
    server.process_new_packets().unwrap();
    wire.clear();
    while server.wants_write() {
        server.write_tls(&mut wire).unwrap();
    }
    let error = feed(&wire, |bytes| client.feed(bytes)).unwrap_err();
    assert_eq!(error, "the certificate is not believed: its signature is wrong");
}

#[test]
fn authorities_from_text() {
    let (_, issuer) = Maker::new().issued();
    assert_eq!(Roots::parse(issuer.as_bytes()).unwrap().len(), 1);
    assert!(Roots::parse(b"").is_err() && none().is_empty());
}

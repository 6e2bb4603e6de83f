//! TLS for tests: certificates made on the spot, and the client's side of a handshake.
//!
//! The client takes any certificate: which one it was shown is what tests look at.
#![allow(clippy::disallowed_methods, reason = "tests write certificates into directories of their own")]

use super::Client;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use ringpost::load::source::secure::TakeAny;
use rustls::client::WantsClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ConfigBuilder};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A certificate and its key in files.
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The certificate.
    pub der: Vec<u8>,
}

impl Pair {
    /// Makes a certificate for this host in files `name.pem` and `name.key` of `dir`, which may exist.
    pub fn make(dir: &Path, name: &str, host: &str) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![host.to_owned()]).expect("a host name");
        let made = params.self_signed(&key).expect("a certificate");
        let pair = Pair {
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
            der: made.der().to_vec(),
        };
        std::fs::write(&pair.certificate, made.pem()).expect("a file");
        std::fs::write(&pair.key, key.serialize_pem()).expect("a file");
        pair
    }

    /// Makes a certificate of a client with this mail address and common name.
    pub fn client(dir: &Path, issuer: &Issuer, name: &str, email: Option<&str>, common: &str) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no host names");
        params.distinguished_name.push(DnType::CommonName, common);
        let email = email.map(|email| SanType::Rfc822Name(email.try_into().expect("ASCII")));
        params.subject_alt_names.extend(email);
        let made = params.signed_by(&key, &issuer.0).expect("a certificate");
        let file = dir.join(format!("{name}.key"));
        std::fs::write(&file, key.serialize_pem()).expect("a file");
        Pair { certificate: PathBuf::new(), key: file, der: made.der().to_vec() }
    }

    /// The lines of the configuration.
    pub fn lines(&self) -> String {
        format!("certificate = {:?}\nkey = {:?}\n", self.certificate, self.key)
    }
}

/// An authority for certificates of clients.
pub struct Issuer(CertifiedIssuer<'static, KeyPair>);

impl Issuer {
    /// Makes one.
    pub fn new() -> Issuer {
        let mut params = CertificateParams::new(Vec::new()).expect("no host names");
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Issuer(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }
}

/// The versions a client offers.
pub type Versions = &'static [&'static rustls::SupportedProtocolVersion];

pub const TLS12: Versions = &[&rustls::version::TLS12];
pub const TLS13: Versions = &[&rustls::version::TLS13];
pub const BOTH: Versions = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The rules of a client; its tickets are kept with them.
pub fn rules(versions: Versions) -> ClientConfig {
    builder(versions).with_no_client_auth()
}

/// The same for a client that shows this certificate.
pub fn rules_with(versions: Versions, own: &Pair) -> ClientConfig {
    let key = PrivateKeyDer::from_pem_file(&own.key).expect("a key");
    let chain = vec![CertificateDer::from(own.der.clone())];
    builder(versions).with_client_auth_cert(chain, key).expect("a pair")
}

fn builder(versions: Versions) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(versions).expect("versions");
    builder.dangerous().with_custom_certificate_verifier(TakeAny::with_key(provider))
}

impl Client {
    /// Does the handshake; asks for this host.
    ///
    /// # Errors
    /// It failed; the text has the server's alert.
    pub fn handshake(&mut self, rules: &Arc<ClientConfig>, host: &str) -> std::io::Result<()> {
        let name = ServerName::try_from(host.to_owned()).expect("a host name");
        let mut tls = ClientConnection::new(rules.clone(), name).expect("rules");
        while tls.is_handshaking() {
            tls.complete_io(&mut self.stream)?;
        }
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// Connects, says EHLO, STARTTLS, does the handshake, and says EHLO again.
    #[track_caller]
    pub fn secured(to: SocketAddr, rules: &Arc<ClientConfig>, host: &str) -> Client {
        let mut client = Client::hello(to);
        client.say("STARTTLS").expect("220 2.0.0");
        client.handshake(rules, host).expect("a handshake");
        client.say("EHLO client.test").expect("250-");
        client
    }

    /// Connects, does the handshake, reads the greeting, and says EHLO.
    #[track_caller]
    pub fn implicit(to: SocketAddr, rules: &Arc<ClientConfig>, host: &str) -> Client {
        let mut client = Client::raw(to);
        client.handshake(rules, host).expect("a handshake");
        client.reply().expect("220 ");
        client.say("EHLO client.test").expect("250-");
        client
    }

    /// The value of tls-exporter (RFC 9266).
    #[track_caller]
    pub fn exporter(&self) -> [u8; 32] {
        let tls = self.tls.as_ref().expect("under TLS");
        tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")).expect("TLS 1.3")
    }

    /// The certificate that the server has shown.
    #[track_caller]
    pub fn shown(&self) -> Vec<u8> {
        let tls = self.tls.as_ref().expect("under TLS");
        tls.peer_certificates().expect("after a handshake")[0].to_vec()
    }
}

//! TLS for tests: certificates made on the spot, and the client's side of a handshake.
//!
//! The client takes any certificate: which one it was shown is what tests look at.
#![allow(clippy::disallowed_methods, reason = "tests write certificates into directories of their own")]

use super::Client;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
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

    /// The lines of the configuration.
    pub fn lines(&self) -> String {
        format!("certificate = {:?}\nkey = {:?}\n", self.certificate, self.key)
    }
}

/// The versions a client offers.
pub type Versions = &'static [&'static rustls::SupportedProtocolVersion];

pub const TLS12: Versions = &[&rustls::version::TLS12];
pub const TLS13: Versions = &[&rustls::version::TLS13];
pub const BOTH: Versions = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The rules of a client; its tickets are kept with them.
pub fn rules(versions: Versions) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(versions).expect("versions");
    let any = Arc::new(TakeAny(provider));
    builder.dangerous().with_custom_certificate_verifier(any).with_no_client_auth()
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

#[derive(Debug)]
struct TakeAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

//! Our end of a connection whose handshake we begin: whom we believe, and the steps of it.
//!
//! Owns the rules of handshakes by [`Demand`] and the verifiers behind them. Driven like
//! [`super::Connection`]. A session is taken up again only where no certificate counts: what was proven
//! for one destination proves nothing for another. What is wrong is a [`Fault`] that says it without
//! the words of the peer.

use super::connection::{Fault, name};
use super::credentials::{BadPem, Part, chain};
use super::{provider, steps};
use crate::base::security::TlsVersion;
use crate::route::tls_policy::{Demand, Terms};
use crate::route::tlsa::{Pins, Shown};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind,
    ProtocolVersion, RootCertStore, SignatureScheme,
};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Certificates of a chain that are looked at.
const CHAIN_MAX: usize = 10;

/// The authorities whose certificates of servers are believed.
#[derive(Clone, Debug)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// Those of a PEM text, all of which must be usable.
    ///
    /// # Errors
    /// There is none, or one of them cannot be used.
    pub fn parse(text: &[u8]) -> Result<Self, BadPem> {
        let help = "write the certificates of the authorities that issue servers' certificates, in PEM form";
        let mut roots = RootCertStore::empty();
        for certificate in chain(text, Part::Authorities)? {
            roots.add(certificate).map_err(|e| BadPem::new(Part::Authorities, e.to_string(), help))?;
        }
        Ok(Roots(Arc::new(roots)))
    }

    /// Those of a list of certificates in DER that can be used; there may be none.
    #[must_use]
    pub fn usable(list: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(list);
        Roots(Arc::new(roots))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none: no certificate is believed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The rules of the handshakes that we begin. Cheap to clone.
#[derive(Clone)]
pub struct Rules {
    /// Takes any certificate.
    any: Arc<ClientConfig>,
    roots: Roots,
}

impl Rules {
    /// Rules that believe these authorities where certificates count.
    ///
    /// # Errors
    /// The library cannot do what it must.
    pub fn new(roots: Roots) -> Result<Self, Fault> {
        Ok(Rules { any: Arc::new(config(Arc::new(Any), true)?), roots })
    }

    fn config(&self, terms: &Terms) -> Result<Arc<ClientConfig>, Fault> {
        let pins = match &terms.demand {
            Demand::Clear | Demand::Opportunistic | Demand::Encrypted => return Ok(self.any.clone()),
            Demand::Verified => None,
            Demand::Dane(pins) => Some(pins.clone()),
        };
        let names = terms.names.iter().filter_map(|n| server_name(n)).collect();
        let verifier = Verifier { names, roots: self.roots.clone(), pins, algorithms: algorithms() };
        Ok(Arc::new(config(Arc::new(verifier), false)?))
    }
}

fn config(verifier: Arc<dyn ServerCertVerifier>, resume: bool) -> Result<ClientConfig, Fault> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    if !resume {
        config.resumption = Resumption::disabled();
    }
    Ok(config)
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

fn server_name(text: &str) -> Option<ServerName<'static>> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Some(ServerName::IpAddress(ip.into())),
        Err(_) => ServerName::try_from(text.to_owned()).ok(),
    }
}

/// What a handshake has established.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Established {
    /// The version in use.
    pub version: TlsVersion,
    /// The cipher suite, by its registered name.
    pub cipher: &'static str,
    /// What is known of the server.
    pub proof: Proof,
    /// An earlier session was taken up again.
    pub resumed: bool,
}

/// What is known of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// Nothing: its certificate was not looked at.
    None,
    /// A known authority says that it is who it should be.
    Authority,
    /// Its TLSA records say so.
    Dane,
}

impl fmt::Display for Established {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proof = match self.proof {
            Proof::None => "not verified",
            Proof::Authority => "verified",
            Proof::Dane => "verified by DANE",
        };
        write!(f, "{} {}, {proof}", self.version.text(), self.cipher)
    }
}

/// See the module.
pub struct Client {
    inner: ClientConnection,
    proof: Proof,
    peer_closed: bool,
}

impl Client {
    /// Begins a handshake with the server at `address` on these terms; pull what is to be sent.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn connect(rules: &Rules, terms: &Terms, address: IpAddr) -> Result<Self, Fault> {
        let named = terms.sni.as_deref().and_then(server_name);
        // To an address no name is sent (RFC 6066 §3).
        let name = named.unwrap_or_else(|| ServerName::IpAddress(address.to_canonical().into()));
        let mut inner = ClientConnection::new(rules.config(terms)?, name)?;
        // The caller pulls after each write, and its own buffers are bounded.
        inner.set_buffer_limit(None);
        let proof = match terms.demand {
            Demand::Clear | Demand::Opportunistic | Demand::Encrypted => Proof::None,
            Demand::Verified => Proof::Authority,
            Demand::Dane(_) => Proof::Dane,
        };
        Ok(Client { inner, proof, peer_closed: false })
    }

    /// As [`super::Connection::is_handshaking`].
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    /// As [`super::Connection::is_peer_closed`].
    #[must_use]
    pub fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// As [`super::Connection::feed`].
    ///
    /// # Errors
    /// The connection is over.
    pub fn feed(&mut self, wire: &[u8]) -> Result<usize, Fault> {
        steps::feed(&mut self.inner, &mut self.peer_closed, wire)
    }

    /// As [`super::Connection::read`].
    pub fn read(&mut self, into: &mut Vec<u8>) -> usize {
        steps::read(&mut self.inner, into)
    }

    /// As [`super::Connection::write`].
    pub fn write(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        steps::write(&mut self.inner, plain, out);
    }

    /// As [`super::Connection::has_output`].
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.inner.wants_write()
    }

    /// As [`super::Connection::pull`].
    pub fn pull(&mut self, out: &mut Vec<u8>) {
        steps::pull(&mut self.inner, out);
    }

    /// As [`super::Connection::close`].
    pub fn close(&mut self, out: &mut Vec<u8>) {
        self.inner.send_close_notify();
        self.pull(out);
    }

    /// What the handshake has established; none before it is complete.
    #[must_use]
    pub fn established(&self) -> Option<Established> {
        let c = &self.inner;
        if c.is_handshaking() {
            return None;
        }
        let version = match c.protocol_version()? {
            ProtocolVersion::TLSv1_3 => TlsVersion::Tls13,
            _ => TlsVersion::Tls12,
        };
        Some(Established {
            version,
            cipher: c.negotiated_cipher_suite().map_or("", |suite| name(suite.suite())),
            proof: self.proof,
            resumed: c.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }
}

/// Why a certificate is not believed, without the peer's words: its names are its own choice.
pub(super) fn disbelief(e: &CertificateError) -> String {
    use CertificateError as C;
    let why = match e {
        C::Expired | C::ExpiredContext { .. } => "it has expired",
        C::NotValidYet | C::NotValidYetContext { .. } => "it is not valid yet",
        C::UnknownIssuer => "no known authority has issued it",
        C::NotValidForName | C::NotValidForNameContext { .. } => "it is for other names",
        C::BadSignature => "its signature is wrong",
        C::ApplicationVerificationFailure => "it does not fit the TLSA records",
        _ => "it cannot be used",
    };
    format!("the certificate is not believed: {why}")
}

/// Takes any certificate, unread: one that nobody vouches for proves nothing anyway, and neither does
/// what is signed with it. What it protects from is listening.
#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Wants a certificate that authorities or TLSA records vouch for.
#[derive(Debug)]
struct Verifier {
    names: Vec<ServerName<'static>>,
    roots: Roots,
    /// Then these records alone count.
    pins: Option<Pins>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn by_authority(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        roots: &RootCertStore,
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(own)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, others, now, self.algorithms.all)?;
        let mut result = Err(CertificateError::NotValidForName.into());
        for name in &self.names {
            result = verify_server_name(&parsed, name);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn by_records(
        &self,
        pins: &Pins,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        // RFC 7672 §3.1.1: of such a certificate neither names nor dates count.
        if with_key(own, |shown| pins.names_server(shown)) {
            return Ok(());
        }
        // RFC 7672 §3.1.2: an authority of the records, shown in the chain or whole in a record.
        let named = others.iter().filter(|c| with_key(c, |shown| pins.names_authority(shown)));
        let whole = pins.whole_authorities().map(|der| CertificateDer::from(der.to_vec()));
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(named.cloned().map(CertificateDer::into_owned).chain(whole));
        if roots.is_empty() {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        self.by_authority(own, others, &roots, now)
    }
}

/// Calls `judge` with the certificate taken apart.
fn with_key(certificate: &CertificateDer<'_>, judge: impl Fn(&Shown<'_>) -> bool) -> bool {
    let key = ParsedCertificate::try_from(certificate).map(|parsed| parsed.subject_public_key_info());
    let key = key.as_ref().map_or(&[][..], |key| key.as_ref());
    judge(&Shown { certificate, key })
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let others = &others[..others.len().min(CHAIN_MAX)];
        match &self.pins {
            Some(pins) => self.by_records(pins, own, others, now)?,
            None => self.by_authority(own, others, &self.roots.0, now)?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;

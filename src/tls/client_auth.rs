//! Certificates of clients: asked for, never demanded.
//!
//! A mail client that shows a certificate nobody here knows must still be able to send its password,
//! so whatever it shows is taken, once it has proved that it has the key; whether the certificate
//! leads to one of our authorities is found out afterwards and told with its names.

use super::credentials::{BadPem, Part, chain};
use super::{provider, x509};
use crate::base::security::ClientCertificate;
use crate::base::time::Wall;
use aws_lc_rs::digest;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;

/// Whom we believe certificates of clients.
#[derive(Clone, Debug)]
pub struct Authorities(pub(super) Arc<dyn ClientCertVerifier>);

/// Reads the certificates of authorities.
///
/// # Errors
/// There is none, or one of them cannot be used.
pub fn authorities(text: &[u8]) -> Result<Authorities, BadPem> {
    let help = "write the certificates of the authorities that issue clients' certificates, in PEM form";
    let mut roots = RootCertStore::empty();
    for certificate in chain(text, Part::Authorities)? {
        roots.add(certificate).map_err(|e| BadPem::new(Part::Authorities, e.to_string(), help))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let verifier = verifier.map_err(|e| BadPem::new(Part::Authorities, e.to_string(), help))?;
    Ok(Authorities(verifier))
}

impl Authorities {
    /// Whom the certificates that a client has shown are for.
    pub(super) fn judge(&self, shown: &[CertificateDer<'_>], now: Wall) -> Option<ClientCertificate> {
        let (own, others) = shown.split_first()?;
        let facts = x509::facts(own)?;
        let at = UnixTime::since_unix_epoch(Duration::from_millis(now.0));
        let fingerprint = digest::digest(&digest::SHA256, own);
        Some(ClientCertificate {
            verified: self.0.verify_client_cert(own, others, at).is_ok(),
            emails: facts.emails,
            hosts: facts.hosts,
            common_name: facts.common_name,
            issuer: facts.issuer,
            fingerprint: fingerprint.as_ref().try_into().expect("SHA-256 has 32 bytes"),
        })
    }
}

/// Asks for a certificate and takes any.
#[derive(Debug)]
pub(super) struct Ask(pub Authorities);

impl ClientCertVerifier for Ask {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Judged afterwards. That the client has the key is checked below, by its signature.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.0.supported_verify_schemes()
    }
}

//! Certificates of next hops, TLSA records for them, and a stream that may be under TLS.
#![allow(clippy::disallowed_methods, reason = "tests write certificates into directories of their own")]

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PublicKeyData};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection};
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A certificate with its key, and the authority that has issued it, if any has.
pub struct Shop {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    own_key: Vec<u8>,
    authority_key: Vec<u8>,
    /// The authority's certificate, or the own one, for a file of authorities.
    pub roots: String,
}

fn params(host: &str, expired: bool) -> CertificateParams {
    let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a host name");
    params.distinguished_name = rcgen::DistinguishedName::new();
    if expired {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 2, 1);
    }
    params
}

impl Shop {
    /// A certificate for this host that nobody has issued.
    pub fn alone(host: &str) -> Shop {
        Self::made(params(host, false))
    }

    /// The same, and no longer valid.
    pub fn expired(host: &str) -> Shop {
        Self::made(params(host, true))
    }

    fn made(params: CertificateParams) -> Shop {
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("a certificate");
        Shop {
            chain: vec![made.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            own_key: key.subject_public_key_info(),
            authority_key: Vec::new(),
            roots: made.pem(),
        }
    }

    /// A certificate for this host that an authority has issued, whose certificate is shown too.
    pub fn issued(host: &str) -> Shop {
        let mut authority = params("ca.test", false);
        // Each has a name of its own, as in life.
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("Test authority {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        authority.distinguished_name.push(DnType::CommonName, name);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().expect("a key");
        let spki = authority_key.subject_public_key_info();
        let issuer = CertifiedIssuer::self_signed(authority, authority_key).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let made = params(host, false).signed_by(&key, &issuer).expect("a certificate");
        Shop {
            chain: vec![made.der().clone(), issuer.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            own_key: key.subject_public_key_info(),
            authority_key: spki,
            roots: issuer.pem(),
        }
    }

    /// `3 1 1`: the digest of the own key.
    pub fn usage_3(&self) -> String {
        format!("3 1 1 {}", digest(&self.own_key))
    }

    /// `2 1 1`: the digest of the authority's key.
    pub fn usage_2(&self) -> String {
        format!("2 1 1 {}", digest(&self.authority_key))
    }

    /// The rules of a server that shows it.
    pub fn rules(&self) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
        let config = builder.with_single_cert(self.chain.clone(), self.key.clone_key());
        Arc::new(config.expect("a key that fits"))
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The record for mail to this host, at the port of all next hops.
pub fn tlsa(host: &str, data: &str) -> String {
    format!("_2525._tcp.{host}. IN TLSA {data}\n")
}

/// A connection of a client.
pub struct Wire {
    pub stream: TcpStream,
    pub tls: Option<Box<ServerConnection>>,
}

impl Wire {
    /// Does the handshake.
    pub fn secure(&mut self, rules: Arc<ServerConfig>) -> io::Result<()> {
        let mut tls = ServerConnection::new(rules).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut self.stream)?;
        }
        self.tls = Some(Box::new(tls));
        Ok(())
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.stream.read(buf),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).read(buf),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.stream.write(buf),
            Some(tls) => {
                let mut stream = rustls::Stream::new(&mut **tls, &mut self.stream);
                let n = stream.write(buf)?;
                stream.flush()?;
                Ok(n)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

//! The connection of the source: in clear text, or under TLS.
//!
//! Any certificate is taken: a load tool measures, it proves nothing. Sessions are resumed only if
//! asked for, so that a connection costs the server what a new client's costs.

use crate::load::shell::{Guard, read_with, write_parts};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use std::cell::RefCell;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;

/// When TLS begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tls {
    /// After STARTTLS.
    Starttls,
    /// With the first byte.
    Implicit,
}

/// The rules of all handshakes of a run.
pub(super) fn rules(resume: bool) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let any = TakeAny::unread(provider);
    let mut config = builder.dangerous().with_custom_certificate_verifier(any).with_no_client_auth();
    if !resume {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

/// See the module.
pub(super) struct Link {
    stream: TcpStream,
    tls: Option<Box<Secure>>,
}

struct Secure {
    tls: ClientConnection,
    /// Opened, not yet handed on.
    plain: Vec<u8>,
    /// Sealed, being sent.
    sealed: Vec<u8>,
}

impl Link {
    pub fn new(stream: TcpStream) -> Self {
        Link { stream, tls: None }
    }

    /// Does the handshake; names the server by its address.
    pub async fn handshake(
        &mut self,
        rules: &Arc<ClientConfig>,
        to: SocketAddr,
        scratch: &RefCell<Vec<u8>>,
        guard: &mut Guard,
    ) -> io::Result<()> {
        let name = ServerName::IpAddress(to.ip().into());
        let mut tls = ClientConnection::new(rules.clone(), name).map_err(io::Error::other)?;
        tls.set_buffer_limit(None);
        let mut secure = Secure { tls, plain: Vec::new(), sealed: Vec::new() };
        loop {
            secure.send(&mut self.stream, guard).await?;
            if !secure.tls.is_handshaking() {
                break;
            }
            read_with(&mut self.stream, scratch, guard, |bytes| secure.open(bytes)).await??;
        }
        self.tls = Some(Box::new(secure));
        Ok(())
    }

    /// As [`read_with`].
    pub async fn read<T>(
        &mut self,
        scratch: &RefCell<Vec<u8>>,
        guard: &mut Guard,
        take: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<T> {
        let Some(secure) = &mut self.tls else {
            return read_with(&mut self.stream, scratch, guard, take).await;
        };
        while secure.plain.is_empty() {
            let more = read_with(&mut self.stream, scratch, guard, |bytes| {
                secure.open(bytes).map(|()| !bytes.is_empty())
            });
            if !more.await?? {
                break;
            }
        }
        let result = take(&secure.plain);
        secure.plain.clear();
        Ok(result)
    }

    /// As [`write_parts`]; under TLS `written` is all or nothing.
    pub async fn write(
        &mut self,
        parts: [&[u8]; 3],
        written: &mut usize,
        guard: &mut Guard,
    ) -> io::Result<()> {
        let Some(secure) = &mut self.tls else {
            return write_parts(&mut self.stream, parts, written, guard).await;
        };
        for part in parts {
            secure.tls.writer().write_all(part)?;
        }
        secure.send(&mut self.stream, guard).await?;
        *written = parts.iter().map(|p| p.len()).sum();
        Ok(())
    }
}

impl Secure {
    /// Opens received bytes; none: the end.
    fn open(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() && self.tls.is_handshaking() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !bytes.is_empty() {
            self.tls.read_tls(&mut bytes)?;
            let broken = |e: Error| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
            self.tls.process_new_packets().map_err(broken)?;
            let mut reader = self.tls.reader();
            while let Ok(chunk) = reader.fill_buf() {
                let n = chunk.len();
                if n == 0 {
                    return Ok(());
                }
                self.plain.extend_from_slice(chunk);
                reader.consume(n);
            }
        }
        Ok(())
    }

    async fn send(&mut self, stream: &mut TcpStream, guard: &mut Guard) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.sealed)?;
        }
        if self.sealed.is_empty() {
            return Ok(());
        }
        let result = write_parts(stream, [&self.sealed, &[], &[]], &mut 0, guard).await;
        self.sealed.clear();
        result
    }
}

/// Takes any certificate of a server: who it is, is not the question here.
#[derive(Debug)]
pub struct TakeAny {
    provider: Arc<CryptoProvider>,
    proof: bool,
}

impl TakeAny {
    /// Whoever it is, unread: a load test proves nothing, and its own work is to be small.
    #[must_use]
    pub fn unread(provider: Arc<CryptoProvider>) -> Arc<Self> {
        Arc::new(TakeAny { provider, proof: false })
    }

    /// Whoever it is, it must have the key of its certificate.
    #[must_use]
    pub fn with_key(provider: Arc<CryptoProvider>) -> Arc<Self> {
        Arc::new(TakeAny { provider, proof: true })
    }
}

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
        if !self.proof {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.proof {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

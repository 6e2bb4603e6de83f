//! One connection under TLS: received bytes in, plain bytes out, and the other way round.
//!
//! Synchronous and without IO. How it is driven: [`Connection::feed`] what has been received and
//! [`Connection::read`] what it means; [`Connection::write`] what is to be said; whenever
//! [`Connection::has_output`], [`Connection::pull`] and send it. After a [`Fault`] there may be an
//! alert to pull; nothing else can be done with the connection.

use super::snapshot::Snapshot;
use super::{client, steps};
use crate::base::security::{Bindings, Security, TlsVersion};
use crate::base::time::Wall;
use rustls::{
    AlertDescription, CipherSuite, Error, HandshakeKind, InvalidMessage, PeerIncompatible, ProtocolVersion,
    ServerConnection,
};
use std::sync::Arc;

/// Why a connection is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// For counting.
    pub reason: Reason,
    /// For people. Nothing secret, nothing the peer has chosen.
    pub text: String,
}

/// Kinds of [`Fault`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// What came is no TLS: a command in clear text, say.
    NotTls,
    /// No version in common.
    Version,
    /// No cipher, group or signature in common.
    Cipher,
    /// The peer speaks another protocol (RFC 7301).
    Protocol,
    /// The peer does not take our certificate.
    Certificate,
    /// Anything else: damaged records, alerts, a breach of the protocol.
    Other,
}

impl From<Error> for Fault {
    fn from(e: Error) -> Self {
        use AlertDescription as A;
        let reason = match &e {
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Reason::NotTls,
            Error::NoApplicationProtocol => Reason::Protocol,
            Error::PeerIncompatible(p) => match p {
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => Reason::Version,
                _ => Reason::Cipher,
            },
            Error::AlertReceived(
                A::BadCertificate
                | A::UnsupportedCertificate
                | A::CertificateRevoked
                | A::CertificateExpired
                | A::CertificateUnknown
                | A::UnknownCA,
            ) => Reason::Certificate,
            Error::AlertReceived(A::ProtocolVersion) => Reason::Version,
            _ => Reason::Other,
        };
        let text = match &e {
            Error::InvalidCertificate(e) => client::disbelief(e),
            e => e.to_string(),
        };
        Fault { reason, text }
    }
}

/// See the module.
pub struct Connection {
    inner: ServerConnection,
    snapshot: Arc<Snapshot>,
    peer_closed: bool,
}

impl Connection {
    /// Our end of a connection for `protocol` whose peer begins the handshake. `ask`: for a certificate,
    /// too.
    ///
    /// # Errors
    /// There is no randomness; the snapshot's rules do not name the protocol.
    pub fn accept(snapshot: Arc<Snapshot>, protocol: &str, ask: bool) -> Result<Self, Fault> {
        let config = snapshot.config(protocol, ask);
        let config = config.ok_or_else(|| Error::General(format!("{protocol} is not served here")))?;
        let mut inner = ServerConnection::new(config)?;
        // The caller pulls after each write, and its own buffers are bounded.
        inner.set_buffer_limit(None);
        Ok(Connection { inner, snapshot, peer_closed: false })
    }

    /// The handshake is not complete.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    /// The peer has said that it sends no more (close_notify); what it sent before may still be read.
    #[must_use]
    pub fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Takes received bytes up to the first that makes plain ones; call [`Self::read`] then, and again
    /// with the rest. Gives how many it took. After the peer's close_notify it takes all and drops it
    /// (RFC 8446 §6.1).
    ///
    /// # Errors
    /// The connection is over.
    pub fn feed(&mut self, wire: &[u8]) -> Result<usize, Fault> {
        steps::feed(&mut self.inner, &mut self.peer_closed, wire)
    }

    /// Appends plain bytes to `into`, up to its capacity; gives how many.
    pub fn read(&mut self, into: &mut Vec<u8>) -> usize {
        steps::read(&mut self.inner, into)
    }

    /// Seals `plain` and appends what is to be sent to `out`, behind what was to be sent before.
    pub fn write(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        steps::write(&mut self.inner, plain, out);
    }

    /// There is something to send: a part of the handshake, a ticket, an alert.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.inner.wants_write()
    }

    /// Appends what is to be sent to `out`.
    pub fn pull(&mut self, out: &mut Vec<u8>) {
        steps::pull(&mut self.inner, out);
    }

    /// Says that we send no more (close_notify), and appends what is to be sent to `out`.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        self.inner.send_close_notify();
        self.pull(out);
    }

    /// Gives memory back before a long wait.
    pub fn rest(&mut self) {
        steps::rest(&mut self.inner);
    }

    /// What the handshake has established, at `now`. None before it is complete.
    #[must_use]
    pub fn security(&self, now: Wall) -> Option<Security> {
        let c = &self.inner;
        if c.is_handshaking() {
            return None;
        }
        let version = match c.protocol_version()? {
            ProtocolVersion::TLSv1_3 => TlsVersion::Tls13,
            _ => TlsVersion::Tls12,
        };
        let server_name = c.server_name();
        // RFC 9266 §4.2: with TLS 1.2 only if the extended master secret is used, which is not told.
        let exporter = match version {
            TlsVersion::Tls13 => {
                c.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")).ok()
            }
            TlsVersion::Tls12 => None,
        };
        let authorities = self.snapshot.authorities.as_ref();
        let client = authorities.zip(c.peer_certificates()).and_then(|(a, shown)| a.judge(shown, now));
        Some(Security {
            version,
            cipher: c.negotiated_cipher_suite().map_or("", |suite| name(suite.suite())),
            resumed: c.handshake_kind() == Some(HandshakeKind::Resumed),
            server_name: server_name.map(Into::into),
            client: client.map(Box::new),
            bindings: Bindings { exporter, end_point: self.snapshot.names.of(server_name).end_point.clone() },
        })
    }
}

/// The registered name; the library has its own names for those of TLS 1.3.
pub(super) fn name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or(""),
    }
}

//! What a TLS handshake has established, as plain data, for those who must not know TLS: session
//! machines (trace headers, offers) and authentication (channel bindings, the client's certificate).
//!
//! Knows no TLS library and no protocol. Nothing here can fail.

use std::fmt;
use std::sync::Arc;

/// A version of TLS that we speak.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl TlsVersion {
    /// `TLSv1.2`, `TLSv1.3`.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            TlsVersion::Tls12 => "TLSv1.2",
            TlsVersion::Tls13 => "TLSv1.3",
        }
    }
}

/// A connection that TLS protects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Security {
    /// The version in use.
    pub version: TlsVersion,
    /// The cipher suite, by its registered name.
    pub cipher: &'static str,
    /// An earlier session was taken up again: no certificate was sent.
    pub resumed: bool,
    /// The name the client asked for (RFC 6066 §3), lower case.
    pub server_name: Option<Box<str>>,
    /// The client's certificate, if it has shown one and proved that it has its key.
    pub client: Option<Box<ClientCertificate>>,
    /// What ties an authentication to this connection.
    pub bindings: Bindings,
}

impl Security {
    /// Bits of the cipher's key.
    #[must_use]
    pub fn cipher_bits(&self) -> u16 {
        if self.cipher.contains("AES_128") { 128 } else { 256 }
    }

    /// What ties an authentication to this connection.
    #[must_use]
    pub fn bindings(&self) -> &Bindings {
        &self.bindings
    }
}

/// Channel bindings (RFC 5056): values that both ends know and that no one between them can bring
/// about on two connections.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bindings {
    /// RFC 9266; only of TLS 1.3: with 1.2 it would be unsafe unless the extended master secret was
    /// negotiated, which the library does not tell.
    pub exporter: Option<[u8; 32]>,
    /// RFC 5929 §4: digest of the server's certificate. None if its signature algorithm has no
    /// digest of its own (Ed25519).
    pub end_point: Option<Arc<[u8]>>,
}

impl Bindings {
    /// The value of the binding type of that registered name (`tls-exporter`,
    /// `tls-server-end-point`), if this connection has it.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        match name {
            b"tls-exporter" => self.exporter.as_ref().map(<[u8; 32]>::as_slice),
            b"tls-server-end-point" => self.end_point.as_deref(),
            _ => None,
        }
    }
}

impl fmt::Debug for Bindings {
    /// Names only: the exporter's value is for the two ends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["tls-exporter", "tls-server-end-point"];
        f.debug_set().entries(names.iter().filter(|n| self.get(n.as_bytes()).is_some())).finish()
    }
}

/// Whom a client's certificate is for. The client has proved that it has the key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClientCertificate {
    /// It leads to one of the configured authorities and is valid now. If not, the names are only
    /// what the client says of itself.
    pub verified: bool,
    /// Mail addresses (subjectAltName rfc822Name), as written.
    pub emails: Vec<String>,
    /// Host names (subjectAltName dNSName), as written.
    pub hosts: Vec<String>,
    /// Common name of the subject, if it has one.
    pub common_name: Option<String>,
    /// Common name of the issuer, if it has one.
    pub issuer: Option<String>,
    /// SHA-256 of the whole certificate.
    pub fingerprint: [u8; 32],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_by_name() {
        let b = Bindings { exporter: Some([7; 32]), end_point: Some(vec![1, 2].into()) };
        assert_eq!(b.get(b"tls-exporter"), Some(&[7; 32][..]));
        assert_eq!(b.get(b"tls-server-end-point"), Some(&[1, 2][..]));
        assert_eq!((b.get(b"tls-unique"), Bindings::default().get(b"tls-exporter")), (None, None));
        let shown = format!("{b:?}");
        assert!(shown.contains("tls-exporter") && !shown.contains('7'), "{shown}");
    }
}

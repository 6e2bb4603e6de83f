//! A certificate chain and its key, from PEM text.
//!
//! Checks that both can be read, that the key belongs to the certificate, and that the certificate
//! can be used now. An error says which of the two files it is about, what is wrong and what to do;
//! it never holds anything of a key.

use super::{provider, x509};
use crate::base::time::Wall;
use aws_lc_rs::digest;
use rustls::Error;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::sync::Arc;

/// Which file an error is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The certificate chain.
    Certificate,
    /// The key.
    Key,
    /// The authorities of clients' certificates.
    Authorities,
}

/// What is wrong with a PEM file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadPem {
    /// Which file.
    pub part: Part,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub help: &'static str,
}

impl BadPem {
    pub(super) fn new(part: Part, what: impl Into<String>, help: &'static str) -> Self {
        BadPem { part, what: what.into(), help }
    }
}

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Credentials {
    pub(super) key: Arc<CertifiedKey>,
    /// Value of `tls-server-end-point`.
    pub(super) end_point: Option<Arc<[u8]>>,
    /// Host names of the certificate; may have a `*` as first label.
    pub hosts: Vec<String>,
    /// First second at which it is valid, since the Unix epoch.
    pub not_before: i64,
    /// Last second at which it is valid, since the Unix epoch.
    pub not_after: i64,
}

const WHOLE_CHAIN: &str = "write the server's certificate first, then the intermediate ones (fullchain.pem)";
const MAKE_KEY: &str = "write the private key in PEM form (PKCS #8, PKCS #1 or SEC 1), not encrypted";

impl Credentials {
    /// Reads a chain and its key.
    ///
    /// # Errors
    /// One of them cannot be used, or they do not belong together.
    pub fn parse(certificate: &[u8], key: &[u8]) -> Result<Self, BadPem> {
        let chain = chain(certificate, Part::Certificate)?;
        let facts = x509::facts(&chain[0]).ok_or_else(|| {
            BadPem::new(Part::Certificate, "the first certificate is not an X.509 certificate", WHOLE_CHAIN)
        })?;
        let key = private_key(key)?;
        let end_point = x509::end_point_digest(&chain[0]).map(|a| digest::digest(a, &chain[0]));
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|e| match e {
            Error::InconsistentKeys(_) => BadPem::new(
                Part::Key,
                "the key does not belong to the certificate",
                "replace both together; the certificate's own key is the one its request was made with",
            ),
            Error::InvalidCertificate(e) => {
                BadPem::new(Part::Certificate, format!("the certificate cannot be used: {e:?}"), WHOLE_CHAIN)
            }
            // The library's text says what kind of key it wants, nothing of this one.
            e => BadPem::new(Part::Key, format!("the key cannot be used: {e}"), MAKE_KEY),
        })?;
        Ok(Credentials {
            key: Arc::new(key),
            end_point: end_point.map(|d| d.as_ref().into()),
            hosts: facts.hosts,
            not_before: facts.not_before,
            not_after: facts.not_after,
        })
    }

    /// Seconds until it is no longer valid; negative afterwards.
    #[must_use]
    pub fn seconds_left(&self, now: Wall) -> i64 {
        self.not_after - i64::try_from(now.0 / 1000).unwrap_or(i64::MAX)
    }

    /// True if it is not valid yet.
    #[must_use]
    pub fn is_early(&self, now: Wall) -> bool {
        i64::try_from(now.0 / 1000).unwrap_or(i64::MAX) < self.not_before
    }

    /// True if the certificate is for this host name (RFC 9525 §6.3), compared without regard to
    /// ASCII case.
    #[must_use]
    pub fn is_for(&self, name: &str) -> bool {
        self.hosts.iter().any(|host| match host.strip_prefix("*.") {
            Some(parent) => name.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
            None => host.eq_ignore_ascii_case(name),
        })
    }
}

/// All certificates of a PEM text; at least one.
pub(super) fn chain(text: &[u8], part: Part) -> Result<Vec<CertificateDer<'static>>, BadPem> {
    let all: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text).collect();
    let all = all.map_err(|e| BadPem::new(part, format!("is not PEM text: {e}"), WHOLE_CHAIN))?;
    if all.is_empty() {
        return Err(BadPem::new(part, "there is no certificate in it", WHOLE_CHAIN));
    }
    Ok(all)
}

fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, BadPem> {
    PrivateKeyDer::from_pem_slice(text).map_err(|e| match e {
        pem::Error::NoItemsFound if memchr::memmem::find(text, b"ENCRYPTED PRIVATE KEY").is_some() => {
            let help = "take the passphrase away: openssl pkey -in OLD -out NEW";
            BadPem::new(Part::Key, "the key is encrypted with a passphrase", help)
        }
        pem::Error::NoItemsFound => BadPem::new(Part::Key, "there is no private key in it", MAKE_KEY),
        // Its text would quote the section's lines.
        _ => BadPem::new(Part::Key, "is not sound PEM text", MAKE_KEY),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::Maker;

    fn bad(certificate: &str, key: &str) -> BadPem {
        Credentials::parse(certificate.as_bytes(), key.as_bytes()).unwrap_err()
    }

    #[test]
    fn pairs_and_what_is_wrong_with_them() {
        let (a, b) = (Maker::new().make(), Maker::new().make());
        let good = Credentials::parse(a.certificate.as_bytes(), a.key.as_bytes()).unwrap();
        assert!(good.is_for("MX.example") && !good.is_for("www.example") && !good.is_for("a.mx.example"));
        assert_eq!(good.end_point.as_ref().unwrap().len(), 32);
        assert!(good.seconds_left(Wall(0)) > 0 && good.is_early(Wall(0)) && !good.is_early(Wall(1 << 40)));
        let mismatch = bad(&a.certificate, &b.key);
        assert_eq!(mismatch.part, Part::Key);
        assert!(mismatch.what.contains("does not belong"), "{mismatch:?}");
        assert_eq!(bad(&a.key, &a.key).what, "there is no certificate in it");
        assert_eq!(bad(&a.certificate, &a.certificate).what, "there is no private key in it");
        assert_eq!(bad("", "").part, Part::Certificate);
        let encrypted = a.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        assert!(bad(&a.certificate, &encrypted).help.contains("passphrase"));
    }

    /// No error shows anything of a key.
    #[test]
    fn errors_hold_nothing_of_the_key() {
        let a = Maker::new().make();
        let lines: Vec<&str> = a.key.lines().collect();
        let secret = lines[1];
        for damaged in [
            a.key.replace(secret, &format!("{secret}!")),
            a.key.replace("-----END PRIVATE KEY-----", "-----END"),
            a.key.replace("-----END PRIVATE KEY-----", ""),
            a.key.replacen(&secret[..8], "AAAAAAAA", 1),
        ] {
            let e = bad(&a.certificate, &damaged);
            let shown = format!("{e:?}");
            assert!(e.part == Part::Key && !shown.contains(&secret[8..24]), "{shown}");
        }
    }

    #[test]
    fn wildcards_stand_for_one_label() {
        let made = Maker::new().hosts(&["*.b.example"]).make();
        let c = Credentials::parse(made.certificate.as_bytes(), made.key.as_bytes()).unwrap();
        assert!(c.is_for("a.B.example") && !c.is_for("b.example") && !c.is_for("x.a.b.example"));
    }
}

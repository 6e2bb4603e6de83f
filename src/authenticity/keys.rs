//! Keys that sign mail of a domain (RFC 6376, RFC 8463): read, made, and shown as a DNS record.
//!
//! Owns what a key may be. Errors and texts never hold anything of a secret. Keys are replaced as a whole
//! ([`Signers`]); a message is signed by those that were in force when its header had come in.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mail_auth::common::crypto::{DkimKey, Ed25519Key, RsaKey, Sha256, SigningKey};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use zeroize::Zeroizing;

/// RFC 8301 §3.2: no signature is made with a shorter RSA key; verifiers refuse it.
const RSA_BITS_MIN: usize = 1024;
/// RFC 8301 §3.2: what an RSA key should have at least.
pub const RSA_BITS: usize = 2048;
/// Longer ones are not made by us, and signatures of them take longer than a mail core should.
const RSA_BITS_MAX: usize = 4096;

/// A key of a domain.
pub struct Key {
    /// Whose mail it signs: of this domain and those below it. Lower case.
    pub domain: String,
    /// Its name in DNS.
    pub selector: String,
    pub(super) secret: DkimKey,
    /// As it stands in DNS: X.509 form (RSA), or the 32 bytes themselves (Ed25519).
    public: Vec<u8>,
    /// Of the modulus; none: not RSA.
    pub rsa_bits: Option<usize>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} ({})", self.name(), self.algorithm())
    }
}

impl Key {
    /// Reads a key: PEM, PKCS #8 or (RSA) PKCS #1, not encrypted.
    ///
    /// # Errors
    /// What is wrong with it, without anything of it.
    pub fn parse(domain: &str, selector: &str, pem: &[u8]) -> Result<Key, &'static str> {
        const NO_KEY: &str = "holds no private key in PEM form (PKCS #8 or PKCS #1, not encrypted)";
        const UNUSABLE: &str = "holds a key that is neither RSA (1024 to 4096 bits) nor Ed25519";
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| NO_KEY)?;
        let ed25519 = match &der {
            PrivateKeyDer::Pkcs8(der) => {
                Ed25519Key::from_pkcs8_maybe_unchecked_der(der.secret_pkcs8_der()).ok()
            }
            _ => None,
        };
        let (domain, selector) = (domain.to_ascii_lowercase(), selector.to_owned());
        if let Some(key) = ed25519 {
            let public = key.public_key();
            return Ok(Key { domain, selector, secret: DkimKey::Ed25519(key), public, rsa_bits: None });
        }
        let pair = match &der {
            PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
            _ => return Err(UNUSABLE),
        };
        let pair = pair.map_err(|_| UNUSABLE)?;
        let bits = pair.public_modulus_len() * 8;
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err(UNUSABLE);
        }
        use aws_lc_rs::signature::KeyPair as _;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| UNUSABLE)?;
        let public = public.as_ref().to_vec();
        let secret = DkimKey::Rsa(RsaKey::<Sha256>::from_key_der(der).map_err(|_| UNUSABLE)?);
        Ok(Key { domain, selector, secret, public, rsa_bits: Some(bits) })
    }

    /// A signature takes so long that it is no work for a mail core.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.rsa_bits.is_some()
    }

    /// Where its record is in DNS (RFC 6376 §3.6.2.1).
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    /// As in the tag `a=` of a signature.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        self.secret.algorithm().name()
    }

    /// The text of its record in DNS (RFC 6376 §3.6.1, RFC 8463 §4).
    #[must_use]
    pub fn record(&self) -> String {
        let kind = if self.rsa_bits.is_some() { "rsa" } else { "ed25519" };
        format!("v=DKIM1; k={kind}; p={}", STANDARD.encode(&self.public))
    }

    /// Its record as a line of a zone file: strings of at most 255 bytes (RFC 6376 §3.6.2.2).
    #[must_use]
    pub fn zone_line(&self) -> String {
        let record = self.record();
        let pieces: Vec<String> = record
            .as_bytes()
            .chunks(255)
            .map(|piece| format!("\"{}\"", String::from_utf8_lossy(piece)))
            .collect();
        format!("{}. IN TXT {}", self.name(), pieces.join(" "))
    }
}

/// A new key as PEM (PKCS #8): RSA of so many bits, or Ed25519.
///
/// # Errors
/// A length that is not made, or no randomness.
pub fn generate(rsa_bits: Option<usize>) -> Result<Zeroizing<String>, &'static str> {
    const FAILED: &str = "the key could not be made";
    let der = match rsa_bits {
        None => Ed25519Key::generate_pkcs8().map_err(|_| FAILED)?,
        Some(bits) => {
            let size = match bits {
                2048 => KeySize::Rsa2048,
                3072 => KeySize::Rsa3072,
                4096 => KeySize::Rsa4096,
                _ => return Err("an RSA key has 2048, 3072 or 4096 bits"),
            };
            let pair = KeyPair::generate(size).map_err(|_| FAILED)?;
            let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| FAILED)?;
            der.as_ref().to_vec()
        }
    };
    let der = Zeroizing::new(der);
    let text = Zeroizing::new(STANDARD.encode(&*der));
    let mut pem = Zeroizing::new(String::from("-----BEGIN PRIVATE KEY-----\n"));
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|b| char::from(*b)).chain(['\n']));
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    Ok(pem)
}

/// The keys of all domains.
#[derive(Debug, Default)]
pub struct Keys(pub Vec<Key>);

impl Keys {
    /// Those that sign mail of an author in `domain`: all of the domain itself, else of the nearest one
    /// above it, so that the signature is aligned (RFC 9989 §4.10.2).
    pub fn of<'a>(&'a self, domain: &'a str) -> impl Iterator<Item = &'a Key> {
        let above = |key: &&Key| {
            let at = domain.len().checked_sub(key.domain.len());
            at.is_some_and(|at| {
                let (front, end) = domain.as_bytes().split_at(at);
                end.eq_ignore_ascii_case(key.domain.as_bytes()) && (at == 0 || front.ends_with(b"."))
            })
        };
        let nearest = self.0.iter().filter(above).map(|key| key.domain.len()).max();
        self.0.iter().filter(above).filter(move |key| Some(key.domain.len()) == nearest)
    }
}

/// The keys in force, for all cores. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Signers(Arc<RwLock<Arc<Keys>>>);

impl Signers {
    /// Those in force now.
    #[must_use]
    pub fn keys(&self) -> Arc<Keys> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on these.
    pub fn set(&self, keys: Keys) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_read_and_shown() {
        for (bits, algorithm, kind) in
            [(None, "ed25519-sha256", "ed25519"), (Some(2048), "rsa-sha256", "rsa")]
        {
            let pem = generate(bits).unwrap();
            let key = Key::parse("Example.ORG", "s1", pem.as_bytes()).unwrap();
            assert_eq!((key.algorithm(), key.rsa_bits), (algorithm, bits));
            assert_eq!(key.name(), "s1._domainkey.example.org");
            let record = key.record();
            assert!(record.starts_with(&format!("v=DKIM1; k={kind}; p=")), "{record}");
            let strings: String = key.zone_line().split('"').skip(1).step_by(2).collect();
            assert_eq!(strings, record);
            // Nothing of the secret is shown.
            let shown = format!("{key:?} {record}");
            assert!(pem.lines().skip(1).all(|line| !shown.contains(line)), "{shown}");
        }
        assert!(generate(Some(1024)).is_err());
        for bad in ["", "key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            assert!(Key::parse("example.org", "s", bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_nearest_domain_signs_with_all_its_keys() {
        let key = |domain: &str, selector: &str| {
            Key::parse(domain, selector, generate(None).unwrap().as_bytes()).unwrap()
        };
        let keys = Keys(vec![key("example.org", "a"), key("sub.example.org", "b"), key("example.org", "c")]);
        let of = |domain: &str| keys.of(domain).map(|k| k.selector.clone()).collect::<String>();
        assert_eq!((&*of("example.org"), &*of("Other.Example.org")), ("ac", "ac"));
        assert_eq!((&*of("sub.example.org"), &*of("x.sub.example.org")), ("b", "b"));
        assert_eq!((&*of("myexample.org"), &*of("org"), &*of("")), ("", "", ""));
    }
}

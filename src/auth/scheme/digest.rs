//! One pass of a digest, salted or not: `{SHA}`, `{SSHA}`, `{SHA256}`, `{SSHA256}`, `{SHA512}`,
//! `{SSHA512}`, `{SMD5}`, `{LDAP-MD5}`, `{PLAIN-MD5}`, as LDAP servers and Dovecot write them.
//!
//! Weak, but brought along. Knows no store.

use super::BadScheme;
use crate::auth::prepare;
use crate::base::secret::same;
use sha2::Digest;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

/// A digest, and the salt behind the password.
#[derive(Clone)]
pub struct Digested {
    kind: Kind,
    scheme: &'static str,
    digest: Vec<u8>,
    salt: Vec<u8>,
}

/// Scheme, digest, its length, salted.
const KNOWN: [(&str, Kind, usize, bool); 11] = [
    ("SHA", Kind::Sha1, 20, false),
    ("SHA1", Kind::Sha1, 20, false),
    ("SSHA", Kind::Sha1, 20, true),
    ("SHA256", Kind::Sha256, 32, false),
    ("SSHA256", Kind::Sha256, 32, true),
    ("SHA512", Kind::Sha512, 64, false),
    ("SSHA512", Kind::Sha512, 64, true),
    ("SMD5", Kind::Md5, 16, true),
    ("LDAP-MD5", Kind::Md5, 16, false),
    ("PLAIN-MD5", Kind::Md5, 16, false),
    ("MD5", Kind::Md5, 16, false),
];

impl Digested {
    /// Reads what stands behind `{scheme}`; the scheme may end in `.B64` or `.HEX`.
    pub(super) fn parse(scheme: &str, text: &str) -> Result<Self, BadScheme> {
        let (scheme, coding) = scheme.split_once('.').unwrap_or((scheme, ""));
        let known = KNOWN.into_iter().find(|k| k.0 == scheme);
        let (scheme, kind, len, salted) = known.ok_or("a scheme that is not known")?;
        // Digests without salt are written in both ways; hexadecimal ones have a length that no
        // base64 of theirs has.
        let is_hex = coding == "HEX" || (coding.is_empty() && !salted && text.len() == 2 * len);
        let bytes = if is_hex { hex(text) } else { prepare::decode(text.as_bytes()) };
        let bytes =
            bytes.filter(|b| if salted { b.len() > len && b.len() <= len + 64 } else { b.len() == len });
        let mut digest = bytes.ok_or("the digest is not in base64 or hexadecimal, or has a wrong length")?;
        let salt = digest.split_off(len);
        Ok(Digested { kind, scheme, digest, salt })
    }

    pub(super) fn scheme(&self) -> &'static str {
        self.scheme
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        [&self.digest[..], &self.salt].concat()
    }

    pub(super) fn fits(&self, password: &[u8]) -> bool {
        same(&self.digest, &digest(self.kind, &[password, &self.salt]))
    }
}

/// `{SSHA512}` of a password.
pub(super) fn ssha512(password: &[u8], salt: &[u8]) -> String {
    let mut bytes = digest(Kind::Sha512, &[password, salt]);
    bytes.extend_from_slice(salt);
    prepare::encode(&bytes)
}

fn digest(kind: Kind, parts: &[&[u8]]) -> Vec<u8> {
    fn of<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
        let mut digest = D::new();
        parts.iter().for_each(|p| digest.update(p));
        digest.finalize().to_vec()
    }
    match kind {
        Kind::Md5 => of::<md5::Md5>(parts),
        Kind::Sha1 => of::<sha1::Sha1>(parts),
        Kind::Sha256 => of::<sha2::Sha256>(parts),
        Kind::Sha512 => of::<sha2::Sha512>(parts),
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|p| u8::try_from(digit(p[0])? * 16 + digit(*p.get(1)?)?).ok()).collect()
}

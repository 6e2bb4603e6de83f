//! The few fields of an X.509 certificate that we need ourselves: validity, names, and the digest of
//! its signature.
//!
//! The `x509-parser` crate reads them. Checks no signature and no rule: the TLS library does. What is
//! not as RFC 5280 says gives `None`.

use aws_lc_rs::digest;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::signature_algorithm::SignatureAlgorithm;
use x509_parser::x509::{AlgorithmIdentifier, X509Name};

/// What a certificate says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Facts {
    /// Seconds since the Unix epoch; negative before 1970.
    pub not_before: i64,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
    /// Mail addresses of subjectAltName.
    pub emails: Vec<String>,
    /// Host names of subjectAltName.
    pub hosts: Vec<String>,
    /// The last common name of the subject.
    pub common_name: Option<String>,
    /// The last common name of the issuer.
    pub issuer: Option<String>,
}

fn parse(certificate: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
    rest.is_empty().then_some(certificate)
}

/// Reads a certificate (RFC 5280 §4.1).
pub(super) fn facts(certificate: &[u8]) -> Option<Facts> {
    let certificate = parse(certificate)?;
    let (mut emails, mut hosts) = (Vec::new(), Vec::new());
    // Twice, or damaged, it is no certificate (RFC 5280 §4.2).
    if let Some(names) = certificate.subject_alternative_name().ok()? {
        for name in &names.value.general_names {
            match name {
                GeneralName::RFC822Name(email) => emails.extend(text(email)),
                GeneralName::DNSName(host) => hosts.extend(text(host)),
                _ => {}
            }
        }
    }
    let last = |name: &X509Name<'_>| {
        name.iter_common_name().filter_map(|name| name.as_str().ok().and_then(text)).last()
    };
    let (common_name, issuer) = (last(certificate.subject()), last(certificate.issuer()));
    let validity = certificate.validity();
    let (not_before, not_after) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    Some(Facts { not_before, not_after, emails, hosts, common_name, issuer })
}

/// Text without control characters; nothing else is a name.
fn text(text: &str) -> Option<String> {
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// The digest for `tls-server-end-point` (RFC 5929 §4.1): that of the certificate's signature, with
/// SHA-256 in place of MD5 and SHA-1. None: the signature has no one digest.
pub(super) fn end_point_digest(certificate: &[u8]) -> Option<&'static digest::Algorithm> {
    signature_digest(&parse(certificate)?.signature_algorithm)
}

fn signature_digest(algorithm: &AlgorithmIdentifier<'_>) -> Option<&'static digest::Algorithm> {
    match algorithm.algorithm.to_id_string().as_str() {
        // PKCS #1 v1.5 (RFC 8017 appendix A.2.4): MD5, SHA-1, SHA-2.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" => Some(&digest::SHA256),
        "1.2.840.113549.1.1.12" => Some(&digest::SHA384),
        "1.2.840.113549.1.1.13" => Some(&digest::SHA512),
        "1.2.840.113549.1.1.14" => Some(&digest::SHA224),
        "1.2.840.113549.1.1.10" => match SignatureAlgorithm::try_from(algorithm).ok()? {
            SignatureAlgorithm::RSASSA_PSS(parameters) => {
                hash_digest(&parameters.hash_algorithm_oid().to_id_string())
            }
            _ => None,
        },
        // ECDSA (RFC 5758 §3.2): SHA-1, SHA-2.
        "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => Some(&digest::SHA256),
        "1.2.840.10045.4.3.1" => Some(&digest::SHA224),
        "1.2.840.10045.4.3.3" => Some(&digest::SHA384),
        "1.2.840.10045.4.3.4" => Some(&digest::SHA512),
        _ => None,
    }
}

/// The digest that the parameters of RSASSA-PSS name (RFC 4055 §3.1).
fn hash_digest(hash: &str) -> Option<&'static digest::Algorithm> {
    match hash {
        "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => Some(&digest::SHA256),
        "2.16.840.1.101.3.4.2.2" => Some(&digest::SHA384),
        "2.16.840.1.101.3.4.2.3" => Some(&digest::SHA512),
        "2.16.840.1.101.3.4.2.4" => Some(&digest::SHA224),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::{Maker, WORDS};
    use proptest::prelude::*;

    #[test]
    fn facts_of_a_certificate() {
        let made =
            Maker::new().hosts(&["mx.example", "*.b.example"]).email("a@b.example").common("Ann").make();
        let facts = facts(&made.der).unwrap();
        assert_eq!(facts.hosts, ["mx.example", "*.b.example"]);
        assert_eq!((facts.emails, facts.common_name.as_deref()), (vec!["a@b.example".into()], Some("Ann")));
        // 1975-01-01 and 4096-01-01, the library's default dates.
        assert_eq!((facts.not_before, facts.not_after), (157_766_400, 67_090_118_400));
        assert_eq!(end_point_digest(&made.der), Some(&digest::SHA256));
        let longer = [&made.der[..], &[0]].concat();
        assert_eq!((super::facts(&longer), end_point_digest(&longer)), (None, None));
    }

    /// What would break a log line or a comparison is no name.
    #[test]
    fn names_are_text() {
        assert_eq!(text("\u{c4}nn"), Some("\u{c4}nn".into()));
        assert!(["", "a\0b", "a\nb", "\u{7f}", "\u{85}"].iter().all(|t| text(t).is_none()));
    }

    #[test]
    fn digests_by_signature() {
        let with = |oid: &[u8], parameters: &[u8]| {
            let wrap = |tag: u8, parts: &[&[u8]]| {
                let all = parts.concat();
                [&[tag, all.len() as u8][..], &all].concat()
            };
            let der = wrap(0x30, &[&wrap(0x06, &[oid]), parameters]);
            signature_digest(&AlgorithmIdentifier::from_der(&der).unwrap().1)
        };
        let rsa = |n| with(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, n], &[5, 0]);
        assert_eq!((rsa(4), rsa(5)), (Some(&digest::SHA256), Some(&digest::SHA256)), "replaced");
        assert_eq!((rsa(12), rsa(13)), (Some(&digest::SHA384), Some(&digest::SHA512)));
        assert_eq!((rsa(11), rsa(14)), (Some(&digest::SHA256), Some(&digest::SHA224)));
        assert_eq!(rsa(2), None, "MD2");
        let pss = |parameters: &[u8]| with(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 10], parameters);
        assert_eq!(pss(&[0x30, 0]), Some(&digest::SHA256));
        let sha384 = [0x30, 15, 0xa0, 13, 0x30, 11, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
        assert_eq!(pss(&sha384), Some(&digest::SHA384));
        let ecdsa = |n| with(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, n], &[]);
        assert_eq!((ecdsa(2), ecdsa(4)), (Some(&digest::SHA256), Some(&digest::SHA512)));
        assert_eq!(with(&[0x2b, 0x65, 0x70], &[]), None, "Ed25519");
    }

    proptest! {
        /// Whatever a client sends as its certificate: no panic.
        #[test]
        fn damaged_certificates(at in 0usize..400, to in any::<u8>(), cut in 0usize..600) {
            let mut der = WORDS.get_or_init(|| Maker::new().email("a@b.example").make().der).clone();
            let (at, cut) = (at % der.len(), cut.min(der.len()));
            der[at] = to;
            facts(&der);
            end_point_digest(&der);
            facts(&der[..cut]);
            end_point_digest(&der[cut..]);
        }
    }
}

//! A DKIM signature (RFC 6376) of a message whose header is in memory and whose body has been hashed.
//!
//! Knows which fields are signed. Cannot fail but for a key that does not sign, which is told.

use super::fields::fields;
use super::keys::Key;
use mail_auth::common::crypto::SigningKey;
use mail_auth::dkim::{Canonicalization, Signature};

/// Fields that are signed where they are there (RFC 6376 §5.4.1).
const SIGNED: &[&str] = &[
    "From",
    "Sender",
    "Reply-To",
    "Subject",
    "Date",
    "Message-ID",
    "To",
    "Cc",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-ID",
    "Content-Description",
    "Resent-Date",
    "Resent-From",
    "Resent-Sender",
    "Resent-To",
    "Resent-Cc",
    "Resent-Message-ID",
    "In-Reply-To",
    "References",
    "List-Id",
    "List-Help",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
];

/// Of a field that is there more often, the last so many are signed.
const EACH_MAX: usize = 8;

/// What is signed.
#[derive(Clone, Copy, Debug)]
pub struct Mail<'a> {
    /// Fields of ours in front of the header.
    pub front: &'a [u8],
    /// The header.
    pub header: &'a [u8],
    /// SHA-256 of the body in relaxed form.
    pub body: &'a [u8],
    /// Seconds since the Unix epoch.
    pub now: u64,
}

/// Appends a field DKIM-Signature; false if the key does not sign.
pub fn put(out: &mut Vec<u8>, key: &Key, mail: &Mail<'_>) -> bool {
    let all: Vec<_> = fields(mail.front).chain(fields(mail.header)).collect();
    let (mut names, mut signed) = (Vec::new(), Vec::new());
    for name in SIGNED {
        // RFC 6376 §5.4.2: of several with a name, from the last one up.
        let with_name = all.iter().rev().filter(|f| f.name.eq_ignore_ascii_case(name.as_bytes()));
        for field in with_name.take(EACH_MAX) {
            names.push((*name).to_owned());
            signed.push((field.name, field.value));
        }
        if *name == "From" {
            // Once more than it is there: another one cannot be added (RFC 6376 §8.15).
            names.push((*name).to_owned());
        }
    }
    let mut signature = Signature {
        a: key.secret.algorithm(),
        d: key.domain.clone(),
        s: key.selector.clone(),
        h: names,
        bh: mail.body.to_vec(),
        t: mail.now,
        ch: Canonicalization::Relaxed,
        cb: Canonicalization::Relaxed,
        ..Signature::default()
    };
    let mut text = Vec::with_capacity(1024);
    Canonicalization::Relaxed.canonicalize_headers(signed.into_iter(), &mut text);
    signature.write(&mut text, false);
    let Ok(value) = key.secret.sign(&text[..]) else { return false };
    signature.b = value;
    signature.write(out, true);
    true
}

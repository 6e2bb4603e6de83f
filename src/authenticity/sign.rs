//! A DKIM signature (RFC 6376) of a message whose header is in memory and whose body has been hashed.
//!
//! Knows which fields are signed. Cannot fail but for a key that does not sign, which is told.

use super::fields::{author_domains, fields};
use super::keys::{Key, Keys};
use mail_auth::AuthenticatedMessage;
use mail_auth::common::crypto::SigningKey;
use mail_auth::dkim::{Canonicalization, Signature};

/// Fields that are signed where they are there (RFC 6376 §5.4.1).
pub(super) const SIGNED: &[&str] = &[
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

/// The domain of the author, if the message is signed: by the keys of that domain. `sender`: of a client that
/// may not send as anybody; its domain must have the same keys, or one customer could have another's name
/// signed.
#[must_use]
pub fn author(keys: &Keys, header: &[u8], sender: Option<&[u8]>) -> Option<String> {
    let message = AuthenticatedMessage::parse(header)?;
    // RFC 5322 §3.6.2: authors may be several; a signature vouches for one domain.
    let [author] = &author_domains(&message)[..] else { return None };
    let domain = &keys.of(author).next()?.domain;
    if let Some(sender) = sender {
        let sender = String::from_utf8_lossy(sender);
        let sender = sender.rsplit_once('@')?.1;
        keys.of(sender).find(|key| key.domain == *domain)?;
    }
    Some(author.clone())
}

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

/// The fields that are signed, in relaxed form; their names, as `h=` has them.
pub(super) fn chosen<'n>(
    mail: &Mail<'_>,
    wanted: impl Iterator<Item = &'n str>,
    text: &mut Vec<u8>,
) -> Vec<String> {
    let all: Vec<_> = fields(mail.front).chain(fields(mail.header)).collect();
    let (mut names, mut signed) = (Vec::new(), Vec::new());
    for name in wanted {
        // RFC 6376 §5.4.2: of several with a name, from the last one up.
        let with_name = all.iter().rev().filter(|f| f.name.eq_ignore_ascii_case(name.as_bytes()));
        for field in with_name.take(EACH_MAX) {
            names.push(name.to_owned());
            signed.push((field.name, field.value));
        }
        if name == "From" {
            // Once more than it is there: another one cannot be added (RFC 6376 §8.15).
            names.push(name.to_owned());
        }
    }
    Canonicalization::Relaxed.canonicalize_headers(signed.into_iter(), text);
    names
}

/// A message that waits for its signatures on another thread.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// As in [`Mail`].
    pub front: Vec<u8>,
    /// As in [`Mail`].
    pub header: Vec<u8>,
    /// As in [`Mail`].
    pub body: Vec<u8>,
    /// As in [`Mail`].
    pub now: u64,
}

impl Waiting {
    /// The message.
    #[must_use]
    pub fn mail(&self) -> Mail<'_> {
        Mail { front: &self.front, header: &self.header, body: &self.body, now: self.now }
    }
}

impl From<Mail<'_>> for Waiting {
    fn from(m: Mail<'_>) -> Self {
        Waiting { front: m.front.to_vec(), header: m.header.to_vec(), body: m.body.to_vec(), now: m.now }
    }
}

/// The signatures of all keys of an author's domain, and how many they are.
#[must_use]
pub fn all(keys: &Keys, author: &str, mail: &Mail<'_>) -> (Vec<u8>, u64) {
    let mut out = Vec::new();
    let count = keys.of(author).filter(|key| put(&mut out, key, mail)).count();
    (out, count as u64)
}

/// Appends a field DKIM-Signature; false if the key does not sign.
pub fn put(out: &mut Vec<u8>, key: &Key, mail: &Mail<'_>) -> bool {
    let mut text = Vec::with_capacity(1024);
    let names = chosen(mail, SIGNED.iter().copied(), &mut text);
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
    signature.write(&mut text, false);
    let Ok(value) = key.secret.sign(&text[..]) else { return false };
    signature.b = value;
    signature.write(out, true);
    true
}

#[cfg(test)]
mod tests {
    use super::super::keys::generate;
    use super::*;

    fn keys(domains: &[&str]) -> Keys {
        let key = |domain: &&str| Key::parse(domain, "s", generate(None).unwrap().as_bytes()).unwrap();
        Keys(domains.iter().map(key).collect())
    }

    #[test]
    fn nobody_has_anothers_name_signed() {
        let keys = keys(&["a.example", "b.example", "sub.a.example"]);
        let of = |from: &str, sender: Option<&str>| {
            author(&keys, format!("From: {from}\r\n\r\n").as_bytes(), sender.map(str::as_bytes))
        };
        for (from, sender, signed) in [
            ("x@A.example", None, Some("a.example")),
            ("x@A.example", Some("y@a.Example"), Some("a.example")),
            ("x@www.a.example", Some("y@a.example"), Some("www.a.example")),
            ("x@a.example", Some("y@b.example"), None),
            ("x@a.example", Some("y@sub.a.example"), None),
            ("x@a.example", Some("y@c.example"), None),
            ("x@a.example", Some(""), None),
            ("x@c.example", None, None),
            ("x@a.example, y@b.example", None, None),
            ("x@a.example\r\nFrom: y@b.example", None, None),
            ("nobody", None, None),
        ] {
            assert_eq!(of(from, sender).as_deref(), signed, "{from:?} {sender:?}");
        }
    }

    #[test]
    fn what_is_there_is_signed_and_the_author_once_more() {
        let keys = keys(&["a.example"]);
        let header = b"From: x@a.example\r\nTo: b\r\nTo: c\r\nX-Other: 1\r\n\r\n";
        let mail = Mail { front: b"Date: now\r\n", header, body: &[1; 32], now: 7 };
        let mut out = Vec::new();
        assert!(put(&mut out, &keys.0[0], &mail));
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("h=From:From:Date:To:To;") && text.contains("t=7;"), "{text}");
        assert!(text.starts_with("DKIM-Signature: v=1; a=ed25519-sha256; s=s; d=a.example;"), "{text}");
        assert!(text.ends_with(";\r\n") && !text.contains("X-Other"), "{text}");
    }
}

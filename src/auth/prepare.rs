//! Preparation of logins and passwords (SASLprep, RFC 4013), and strict base64.
//!
//! What cannot be prepared (unassigned code points, controls, mixed directions) is left to the caller:
//! a login then does not exist, a password is taken as it stands, so that no password that worked
//! elsewhere stops to.

use crate::base::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;

/// Longest login in bytes.
pub const LOGIN_MAX: usize = 255;
/// Longest password in bytes; more would only cost time.
pub const PASSWORD_MAX: usize = 1024;

/// The login as it is looked up: prepared, ASCII in lower case (logins of mail are not told apart by
/// case, as with other servers). `None`: nobody can have it.
#[must_use]
pub fn login(text: &str) -> Option<String> {
    let prepared = stringprep::saslprep(text).ok()?;
    let good = !prepared.is_empty() && prepared.len() <= LOGIN_MAX && !prepared.contains(['\0', '\n']);
    good.then(|| prepared.to_ascii_lowercase())
}

/// The password as verifiers are made of it (RFC 5802 §2.2).
#[must_use]
pub fn password(password: &Secret) -> Secret {
    let text = std::str::from_utf8(password.expose()).ok();
    match text.and_then(|t| stringprep::saslprep(t).ok()) {
        Some(Cow::Owned(prepared)) => Secret::new(prepared.into_bytes()),
        Some(Cow::Borrowed(_)) | None => password.clone(),
    }
}

/// Decodes base64 with its padding; nothing else is let through (RFC 4648 §3.2 to 3.5).
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Encodes with padding.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 4013 §3.
    #[test]
    fn saslprep_examples() {
        assert_eq!(login("I\u{ad}X").as_deref(), Some("ix"));
        assert_eq!(login("user").as_deref(), Some("user"));
        assert_eq!(login("USER").as_deref(), Some("user"));
        assert_eq!(login("\u{aa}").as_deref(), Some("a"));
        assert_eq!(login("\u{2168}").as_deref(), Some("ix"));
        assert_eq!((login("\u{7}"), login("\u{627}1"), login("")), (None, None, None));
        assert_eq!(login(&"x".repeat(256)), None);
        assert_eq!(password(&"\u{2168}\u{ad}".into()).expose(), b"IX");
        assert_eq!(password(&"\u{7}".into()).expose(), b"\x07");
        assert_eq!(password(&b"\xff\xfe"[..].into()).expose(), b"\xff\xfe");
    }

    #[test]
    fn base64_is_strict() {
        for good in ["", "AA==", "AAA=", "AAAA", "AGEAYg=="] {
            assert_eq!(encode(&decode(good.as_bytes()).unwrap()), good);
        }
        for bad in ["=", "A", "AA", "AA=", "AAA", "AAAA=", "AB==", "AA==A", "A A=", "AA==\n", "A-_=", "*"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad:?}");
        }
    }
}

//! The short mechanisms: PLAIN (RFC 4616), LOGIN, CRAM-MD5 (RFC 2195), EXTERNAL (RFC 4422 appendix A).
//!
//! Knows no store. What is malformed fails the exchange.

use super::{Exchange, Failure, Fresh, State, Turn};
use crate::auth::prepare::{self, PASSWORD_MAX};
use crate::base::secret::Secret;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;

/// The prompts of LOGIN, as everybody sends them.
pub(super) const ASK_LOGIN: &[u8] = b"Username:";
const ASK_PASSWORD: &[u8] = b"Password:";

/// `<random@host>`: a message id, as RFC 2195 §2 wants it.
pub(super) fn cram_challenge(fresh: &Fresh<'_>) -> String {
    let unique: String = fresh.nonce.iter().map(|b| format!("{b:02x}")).collect();
    format!("<{unique}@{}>", fresh.host)
}

/// HMAC-MD5 of the challenge, keyed with the password.
pub(super) fn cram_digest(password: &Secret, challenge: &[u8]) -> [u8; 16] {
    let mut mac = Hmac::<Md5>::new_from_slice(password.expose()).expect("a key of any length");
    mac.update(challenge);
    mac.finalize().into_bytes().into()
}

fn hex(digits: &[u8]) -> Option<[u8; 16]> {
    let digit = |b: u8| if b.is_ascii_uppercase() { None } else { char::from(b).to_digit(16) };
    let mut bytes = [0; 16];
    if digits.len() != 32 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

impl Exchange {
    /// `[authzid] NUL authcid NUL password` (RFC 4616 §2).
    pub(super) fn plain(&mut self, response: &[u8]) -> Turn {
        let mut parts = response.split(|&b| b == 0);
        let (Some(authzid), Some(login), Some(password), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return self.fail(Failure::Malformed);
        };
        let (Ok(authzid), Ok(login)) = (std::str::from_utf8(authzid), std::str::from_utf8(login)) else {
            return self.fail(Failure::Malformed);
        };
        self.login = prepare::login(login).unwrap_or_default();
        if login.is_empty() || password.is_empty() {
            return self.fail(Failure::Malformed);
        }
        if !self.acts_for_itself(authzid) {
            return self.fail(Failure::Refused);
        }
        self.check(password)
    }

    pub(super) fn login_name(&mut self, response: &[u8]) -> Turn {
        let Ok(login) = std::str::from_utf8(response) else { return self.fail(Failure::Malformed) };
        if login.is_empty() || login.contains('\0') {
            return self.fail(Failure::Malformed);
        }
        self.login = prepare::login(login).unwrap_or_default();
        self.state = State::LoginPassword;
        Turn::Challenge(ASK_PASSWORD.to_vec())
    }

    pub(super) fn login_password(&mut self, response: &[u8]) -> Turn {
        if response.is_empty() || response.contains(&0) {
            return self.fail(Failure::Malformed);
        }
        self.check(response)
    }

    /// A login that nobody can have, or a password that is too long, is checked as any other: who
    /// asks must not learn more from the time it takes.
    fn check(&mut self, password: &[u8]) -> Turn {
        self.password = password[..password.len().min(PASSWORD_MAX + 1)].into();
        self.state = State::Checking;
        Turn::Password
    }

    /// `login SP digest`; the digest in lower case.
    pub(super) fn cram(&mut self, challenge: String, response: &[u8]) -> Turn {
        let Some(space) = memchr::memrchr(b' ', response) else { return self.fail(Failure::Malformed) };
        let (login, digest) = (std::str::from_utf8(&response[..space]), hex(&response[space + 1..]));
        let (Ok(login), Some(digest)) = (login, digest) else { return self.fail(Failure::Malformed) };
        self.login = prepare::login(login).unwrap_or_default();
        self.state = State::Cram { challenge, digest };
        Turn::Cleartext
    }

    /// The response is the wish to be somebody; the certificate says who it is.
    pub(super) fn external(&mut self, identity: &str, response: &[u8]) -> Turn {
        let Ok(authzid) = std::str::from_utf8(response) else { return self.fail(Failure::Malformed) };
        self.login = prepare::login(identity).unwrap_or_default();
        if self.login.is_empty() || !self.acts_for_itself(authzid) {
            return self.fail(Failure::Refused);
        }
        self.state = State::Checking;
        Turn::Account
    }
}

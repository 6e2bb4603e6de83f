//! The `$id$` forms: argon2, bcrypt, SHA-512, SHA-256 and MD5 of crypt(3), Apache's MD5, yescrypt, and
//! Dovecot's PBKDF2.
//!
//! Limits of time and memory are checked when an entry is read: an argon2 entry may take 256 MiB, no
//! entry more than about a second. DES of crypt(3) is not there: its passwords end after 8 characters.

use super::{BadScheme, ITERATIONS_MAX};
use crate::base::secret::same;
use argon2::PasswordVerifier;
use md5::{Digest, Md5};

/// KiB that one argon2 hash may take.
const ARGON2_MEMORY_MAX: u32 = 256 << 10;
/// Passes of argon2.
const ARGON2_TIME_MAX: u32 = 32;
/// Cost of bcrypt: 2^15 take about 2 s.
const BCRYPT_COST_MAX: u32 = 15;
/// Rounds of SHA-crypt.
const ROUNDS_MAX: u32 = 2_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Argon2id,
    Argon2i,
    Bcrypt,
    Sha512,
    Sha256,
    Md5,
    Apr1,
    Yescrypt,
    Pbkdf2,
}

/// A hash with its parameters, as it was written.
#[derive(Clone)]
pub struct Modular {
    kind: Kind,
    text: Box<str>,
}

impl Modular {
    /// Reads a `$id$` form.
    pub(super) fn parse(text: &str) -> Result<Self, BadScheme> {
        let id = text.split('$').nth(1).unwrap_or("");
        let kind = match id {
            "argon2id" => argon2(text, Kind::Argon2id)?,
            "argon2i" => argon2(text, Kind::Argon2i)?,
            "2a" | "2b" | "2x" | "2y" => bcrypt(text)?,
            "6" => sha(text, Kind::Sha512, 86)?,
            "5" => sha(text, Kind::Sha256, 43)?,
            "1" => md5_form(text, Kind::Md5)?,
            "apr1" => md5_form(text, Kind::Apr1)?,
            "y" => yescrypt_form(text)?,
            _ => return Err("a $id$ of crypt(3) that is not known"),
        };
        Ok(Modular { kind, text: text.into() })
    }

    /// Reads Dovecot's `{PBKDF2}$1$salt$iterations$hash` (SHA-1, the hash in hexadecimal).
    pub(super) fn pbkdf2(text: &str) -> Result<Self, BadScheme> {
        let good = pbkdf2_parts(text).is_some_and(|(_, iterations, hash)| {
            (1..=ITERATIONS_MAX).contains(&iterations)
                && hash.len() == 40
                && hash.bytes().all(|b| b.is_ascii_hexdigit())
        });
        if !good {
            return Err("not $1$salt$iterations$hash, or too many iterations");
        }
        Ok(Modular { kind: Kind::Pbkdf2, text: text.into() })
    }

    pub(super) fn scheme(&self) -> &'static str {
        match self.kind {
            Kind::Argon2id => "ARGON2ID",
            Kind::Argon2i => "ARGON2I",
            Kind::Bcrypt => "BLF-CRYPT",
            Kind::Sha512 => "SHA512-CRYPT",
            Kind::Sha256 => "SHA256-CRYPT",
            Kind::Md5 | Kind::Apr1 => "MD5-CRYPT",
            Kind::Yescrypt => "YESCRYPT",
            Kind::Pbkdf2 => "PBKDF2",
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn fits(&self, password: &[u8]) -> bool {
        match self.kind {
            Kind::Argon2id | Kind::Argon2i => {
                argon2::Argon2::default().verify_password(password, &*self.text).is_ok()
            }
            Kind::Bcrypt => bcrypt::verify(password, &self.text).unwrap_or(false),
            Kind::Sha512 | Kind::Sha256 => {
                sha_crypt::ShaCrypt::SHA512.verify_password(password, &*self.text).is_ok()
            }
            Kind::Yescrypt => yescrypt::Yescrypt::default().verify_password(password, &*self.text).is_ok(),
            Kind::Md5 | Kind::Apr1 => {
                let mut parts = self.text.split('$').skip(1);
                let (Some(id), Some(salt), Some(hash)) = (parts.next(), parts.next(), parts.next()) else {
                    return false;
                };
                same(md5_crypt(password, salt.as_bytes(), id).as_bytes(), hash.as_bytes())
            }
            Kind::Pbkdf2 => {
                let Some((salt, iterations, hash)) = pbkdf2_parts(&self.text) else { return false };
                let mut out = [0; 20];
                pbkdf2::pbkdf2_hmac::<sha1::Sha1>(password, salt.as_bytes(), iterations, &mut out);
                let made: String = out.iter().map(|b| format!("{b:02x}")).collect();
                same(made.as_bytes(), hash.to_ascii_lowercase().as_bytes())
            }
        }
    }
}

fn argon2(text: &str, kind: Kind) -> Result<Kind, BadScheme> {
    let hash = argon2::PasswordHash::new(text).map_err(|_| "not an argon2 hash")?;
    let params = argon2::Params::try_from(&hash).map_err(|_| "parameters that argon2 does not take")?;
    if params.m_cost() > ARGON2_MEMORY_MAX || params.t_cost() > ARGON2_TIME_MAX || params.p_cost() > 16 {
        return Err("argon2 parameters above the limit (m=262144, t=32, p=16)");
    }
    if hash.hash.is_none() || hash.salt.is_none() {
        return Err("an argon2 entry without salt or hash");
    }
    Ok(kind)
}

fn bcrypt(text: &str) -> Result<Kind, BadScheme> {
    let parts: bcrypt::HashParts = text.parse().map_err(|_| "not a bcrypt hash")?;
    if parts.get_cost() > BCRYPT_COST_MAX {
        return Err("bcrypt cost above the limit (15)");
    }
    Ok(Kind::Bcrypt)
}

/// Characters of crypt(3)'s base64.
fn is_itoa(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'/')
}

fn sha(text: &str, kind: Kind, len: usize) -> Result<Kind, BadScheme> {
    let mut parts: Vec<&str> = text.split('$').skip(2).collect();
    if let Some(rounds) = parts.first().and_then(|p| p.strip_prefix("rounds=")) {
        let rounds: u32 = rounds.parse().map_err(|_| "rounds= is not a number")?;
        if !(1000..=ROUNDS_MAX).contains(&rounds) {
            return Err("rounds= must be from 1000 to 2000000");
        }
        parts.remove(0);
    }
    match parts[..] {
        [salt, hash] if !salt.is_empty() && salt.len() <= 16 && hash.len() == len && is_itoa(hash) => {
            Ok(kind)
        }
        _ => Err("not a SHA-crypt hash"),
    }
}

fn md5_form(text: &str, kind: Kind) -> Result<Kind, BadScheme> {
    match text.split('$').skip(2).collect::<Vec<_>>()[..] {
        [salt, hash] if salt.len() <= 8 && hash.len() == 22 && is_itoa(hash) => Ok(kind),
        _ => Err("not an MD5-crypt hash"),
    }
}

fn yescrypt_form(text: &str) -> Result<Kind, BadScheme> {
    let [parameters, salt, hash] = text.split('$').skip(2).collect::<Vec<_>>()[..] else {
        return Err("not a yescrypt hash");
    };
    if !is_itoa(parameters) || !is_itoa(salt) || !is_itoa(hash) || hash.len() != 43 {
        return Err("not a yescrypt hash");
    }
    let params: yescrypt::Params =
        parameters.parse().map_err(|_| "parameters that yescrypt does not take")?;
    let memory = params.n().saturating_mul(128 * u64::from(params.r()));
    // Longer than flags, N and r: time or parallelism beyond the defaults.
    if memory > u64::from(ARGON2_MEMORY_MAX) << 10 || parameters.len() > 3 {
        return Err("yescrypt parameters above the limit (256 MiB)");
    }
    Ok(Kind::Yescrypt)
}

fn pbkdf2_parts(text: &str) -> Option<(&str, u32, &str)> {
    match text.split('$').collect::<Vec<_>>()[..] {
        ["", "1", salt, iterations, hash] => Some((salt, iterations.parse().ok()?, hash)),
        _ => None,
    }
}

/// MD5 of crypt(3), after Poul-Henning Kamp's description; Apache's differs in its id only.
pub(super) fn md5_crypt(password: &[u8], salt: &[u8], id: &str) -> String {
    let inner = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut outer = Md5::new().chain_update(password).chain_update(format!("${id}$")).chain_update(salt);
    for chunk in password.chunks(16) {
        outer.update(&inner[..chunk.len()]);
    }
    let mut bits = password.len();
    while bits > 0 {
        outer.update(if bits & 1 == 1 { &[0][..] } else { &password[..1] });
        bits >>= 1;
    }
    let mut digest = outer.finalize();
    for round in 0..1000u32 {
        let mut next = Md5::new();
        next.update(if round & 1 == 1 { password } else { &digest[..] });
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(if round & 1 == 1 { &digest[..] } else { password });
        digest = next.finalize();
    }
    let mut text = String::new();
    let mut put = |mut value: u32, digits: u32| {
        const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        for _ in 0..digits {
            text.push(char::from(DIGITS[value as usize & 63]));
            value >>= 6;
        }
    };
    for (a, b, c) in [(0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5)] {
        put(u32::from(digest[a]) << 16 | u32::from(digest[b]) << 8 | u32::from(digest[c]), 4);
    }
    put(u32::from(digest[11]), 2);
    text
}

//! Forms of stored passwords: read, checked, made.
//!
//! Reads what people bring along: `{SCHEME}` prefixes as Dovecot and LDAP servers write them, and the
//! `$id$` forms of crypt(3). Parameters that would cost more than a login may are refused when the form
//! is read, so that no entry can stop the others. A form that is not known is an error with its reason;
//! no error holds what was stored.

mod digest;
mod make;
mod modular;
#[cfg(test)]
mod tests;

pub use make::{ITERATIONS, Maker, SCHEMES};

use super::mechanism::{Mechanism, Set};
use super::prepare::{self, PASSWORD_MAX};
use super::sasl::{Hash, Verifier};
use crate::base::secret::{Secret, same};
use digest::Digested;
use modular::Modular;

/// Most iterations of PBKDF2 and SCRAM in an entry; more would block a thread for seconds.
pub const ITERATIONS_MAX: u32 = 2_000_000;

/// A stored password. Its debug form shows the scheme only.
#[derive(Clone)]
pub enum Credential {
    /// `{PLAIN}`: the password itself.
    Plain(Secret),
    /// `{SCRAM-SHA-1}`, `{SCRAM-SHA-256}`.
    Scram(Verifier),
    /// `{SSHA}` and its like: one pass of a digest.
    Digested(Digested),
    /// `$id$...` of crypt(3), argon2.
    Modular(Modular),
    /// A password that nobody has: `*`, `!...`, `x`, or nothing.
    Locked,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({})", self.scheme())
    }
}

/// Why a stored password cannot be used.
pub type BadScheme = &'static str;

impl Credential {
    /// Reads the password field of an entry.
    ///
    /// # Errors
    /// Why it cannot be used; never what it holds.
    pub fn parse(field: &str) -> Result<Credential, BadScheme> {
        if field.is_empty() || matches!(field, "x" | "*") || field.starts_with(['!', '*']) {
            return Ok(Credential::Locked);
        }
        let Some((scheme, rest)) = field.strip_prefix('{').and_then(|f| f.split_once('}')) else {
            return match field {
                f if f.starts_with("SCRAM-") => scram(None, f),
                f if f.starts_with('$') => Modular::parse(f).map(Credential::Modular),
                _ => Err("no {SCHEME} in front of the password, and not a $id$ form of crypt(3)"),
            };
        };
        Self::of_scheme(&scheme.to_ascii_uppercase(), rest)
    }

    fn of_scheme(scheme: &str, rest: &str) -> Result<Credential, BadScheme> {
        let modular = |ids: &[&str]| {
            if !ids.iter().any(|id| rest.starts_with(id)) {
                return Err("the hash does not have the form of its scheme");
            }
            Modular::parse(rest).map(Credential::Modular)
        };
        match scheme {
            "PLAIN" | "CLEAR" | "CLEARTEXT" if rest.is_empty() || rest.len() > PASSWORD_MAX => {
                Err("the password is empty or too long")
            }
            "PLAIN" | "CLEAR" | "CLEARTEXT" => Ok(Credential::Plain(rest.into())),
            "SCRAM-SHA-1" => scram(Some(Hash::Sha1), rest),
            "SCRAM-SHA-256" => scram(Some(Hash::Sha256), rest),
            // Dovecot's argon2 entries begin with the id, those of OpenLDAP too.
            "ARGON2ID" => modular(&["$argon2id$"]),
            "ARGON2I" => modular(&["$argon2i$"]),
            "ARGON2" => modular(&["$argon2id$", "$argon2i$"]),
            "BLF-CRYPT" | "BCRYPT" => modular(&["$2"]),
            "SHA512-CRYPT" => modular(&["$6$"]),
            "SHA256-CRYPT" => modular(&["$5$"]),
            "MD5-CRYPT" => modular(&["$1$", "$apr1$"]),
            "MD5" if rest.starts_with('$') => modular(&["$1$", "$apr1$"]),
            "YESCRYPT" => modular(&["$y$"]),
            "PBKDF2" => Modular::pbkdf2(rest).map(Credential::Modular),
            "CRYPT" => modular(&["$"]),
            _ => Digested::parse(scheme, rest).map(Credential::Digested),
        }
    }

    /// Its name, without any secret.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match self {
            Credential::Plain(_) => "PLAIN",
            Credential::Scram(v) if v.hash == Hash::Sha1 => "SCRAM-SHA-1",
            Credential::Scram(_) => "SCRAM-SHA-256",
            Credential::Digested(d) => d.scheme(),
            Credential::Modular(m) => m.scheme(),
            Credential::Locked => "locked",
        }
    }

    /// The mechanisms that it can serve.
    #[must_use]
    pub fn serves(&self) -> Set {
        // A certificate needs no password.
        let any = Set::NONE.with(Mechanism::External);
        let passwords = any.with(Mechanism::Plain).with(Mechanism::Login);
        match self {
            Credential::Plain(_) => {
                let scram = passwords.with(Mechanism::ScramSha1).with(Mechanism::ScramSha1Plus);
                let scram = scram.with(Mechanism::ScramSha256).with(Mechanism::ScramSha256Plus);
                scram.with(Mechanism::CramMd5)
            }
            Credential::Scram(v) if v.hash == Hash::Sha1 => {
                passwords.with(Mechanism::ScramSha1).with(Mechanism::ScramSha1Plus)
            }
            Credential::Scram(_) => passwords.with(Mechanism::ScramSha256).with(Mechanism::ScramSha256Plus),
            Credential::Digested(_) | Credential::Modular(_) => passwords,
            // Who cannot log in at all stands in nobody's way.
            Credential::Locked => Mechanism::ALL.into_iter().collect(),
        }
    }

    /// It takes microseconds to check a password: no need for another thread.
    #[must_use]
    pub fn is_quick(&self) -> bool {
        matches!(self, Credential::Plain(_) | Credential::Digested(_) | Credential::Locked)
    }

    /// What is stored, as bytes that change with it.
    #[must_use]
    pub fn fingerprint(&self) -> Secret {
        Secret::new(match self {
            Credential::Plain(password) => password.expose().to_vec(),
            Credential::Scram(v) => [&v.salt[..], &v.stored_key, &v.server_key].concat(),
            Credential::Digested(digested) => digested.bytes(),
            Credential::Modular(hash) => hash.text().as_bytes().to_vec(),
            Credential::Locked => Vec::new(),
        })
    }

    /// Is this the password? May take long: never on a mail core.
    #[must_use]
    pub fn fits(&self, password: &Secret) -> bool {
        if password.expose().is_empty() || password.expose().len() > PASSWORD_MAX {
            return false;
        }
        match self {
            // As it was stored, or prepared in the same way.
            Credential::Plain(stored) => {
                same(stored.expose(), password.expose())
                    | same(prepare::password(stored).expose(), prepare::password(password).expose())
            }
            Credential::Scram(verifier) => verifier.fits(prepare::password(password).expose()),
            Credential::Digested(digested) => digested.fits(password.expose()),
            Credential::Modular(hash) => hash.fits(password.expose()),
            Credential::Locked => false,
        }
    }
}

/// A verifier: `iterations,salt,StoredKey,ServerKey` (Dovecot), or
/// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey` (RFC 5803, PostgreSQL); all in base64.
fn scram(hash: Option<Hash>, text: &str) -> Result<Credential, BadScheme> {
    const FORM: BadScheme = "not a SCRAM verifier: iterations,salt,StoredKey,ServerKey";
    let named = |name: &str| text.strip_prefix(name).and_then(|t| t.strip_prefix('$'));
    let (hash, body) = match (hash, named("SCRAM-SHA-1"), named("SCRAM-SHA-256")) {
        (None | Some(Hash::Sha1), Some(body), _) => (Hash::Sha1, body),
        (None | Some(Hash::Sha256), _, Some(body)) => (Hash::Sha256, body),
        (Some(hash), None, None) => (hash, text),
        _ => return Err("the hash of the verifier is not that of its scheme"),
    };
    let parts: Vec<&str> =
        if body.contains('$') { body.split(['$', ':']).collect() } else { body.split(',').collect() };
    let [iterations, salt, stored, server] = parts[..] else { return Err(FORM) };
    let iterations: u32 = iterations.parse().map_err(|_| FORM)?;
    let bytes = |text: &str| prepare::decode(text.as_bytes()).ok_or(FORM);
    let (salt, stored_key, server_key) = (bytes(salt)?, bytes(stored)?, bytes(server)?);
    // RFC 5802 §5.1 asks for 4096; less is let through, for the clients decide to go on or not.
    if iterations == 0 || iterations > ITERATIONS_MAX {
        return Err("iterations must be from 1 to 2000000");
    }
    if salt.is_empty() || salt.len() > 64 || [&stored_key, &server_key].iter().any(|k| k.len() != hash.size())
    {
        return Err("a key or the salt of the verifier has not the right length");
    }
    Ok(Credential::Scram(Verifier { hash, iterations, salt, stored_key, server_key }))
}

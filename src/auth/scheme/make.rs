//! New entries: the password field for a password.
//!
//! Randomness is brought. SCRAM-SHA-256 is the default: it serves SCRAM clients and PLAIN as well, and
//! cannot be turned into the password without guessing. Fails only on a scheme that is not made here.

use super::digest::ssha512;
use crate::auth::prepare;
use crate::auth::sasl::{Hash, Verifier};
use crate::base::secret::Secret;
use argon2::PasswordHasher;

/// Schemes that entries can be made in; the first is the default.
pub const SCHEMES: [&str; 6] = ["SCRAM-SHA-256", "SCRAM-SHA-1", "ARGON2ID", "BLF-CRYPT", "SSHA512", "PLAIN"];

/// How entries are made.
#[derive(Clone, Debug)]
pub struct Maker {
    /// One of [`SCHEMES`].
    pub scheme: String,
    /// Iterations of SCRAM (RFC 7677 §4: at least 4096). All entries should have the same, for
    /// an unknown login is shown what others have.
    pub iterations: u32,
    /// Random bytes.
    pub salt: [u8; 16],
}

/// Iterations of a SCRAM entry unless said otherwise: 3 ms of a phone, 2 ms of a server.
pub const ITERATIONS: u32 = 10_000;
/// Cost of a bcrypt entry: 2^10 take 50 ms.
const BCRYPT_COST: u32 = 10;

impl Maker {
    /// With the defaults; `salt` must be random.
    #[must_use]
    pub fn new(salt: [u8; 16]) -> Self {
        Maker { scheme: SCHEMES[0].into(), iterations: ITERATIONS, salt }
    }

    /// The password field. Takes its time.
    ///
    /// # Errors
    /// What is wrong with scheme or password.
    pub fn make(&self, password: &Secret) -> Result<String, String> {
        let bytes = password.expose();
        let failed = |_| format!("{} cannot be made of this password", self.scheme);
        let text = match self.scheme.as_str() {
            "SCRAM-SHA-256" => self.scram(Hash::Sha256, password),
            "SCRAM-SHA-1" => self.scram(Hash::Sha1, password),
            "ARGON2ID" => {
                let made = argon2::Argon2::default().hash_password_with_salt(bytes, &self.salt);
                made.map_err(|e| failed(e.to_string()))?.to_string()
            }
            "BLF-CRYPT" if bytes.len() > 72 => {
                return Err("BLF-CRYPT does not see more than 72 bytes of a password".into());
            }
            "BLF-CRYPT" => {
                let made = bcrypt::hash_with_salt(bytes, BCRYPT_COST, self.salt);
                made.map_err(|e| failed(e.to_string()))?.format_for_version(bcrypt::Version::TwoY)
            }
            "SSHA512" => ssha512(bytes, &self.salt[..8]),
            "PLAIN" => match std::str::from_utf8(bytes) {
                Ok(text) if !text.contains([':', '\n', '\r', '\0']) => text.to_owned(),
                _ => return Err("PLAIN cannot hold a password with ':' or a control character".into()),
            },
            other => return Err(format!("{other:?} is not one of {}", SCHEMES.join(", "))),
        };
        Ok(format!("{{{}}}{text}", self.scheme))
    }

    fn scram(&self, hash: Hash, password: &Secret) -> String {
        let v = Verifier::make(hash, prepare::password(password).expose(), &self.salt, self.iterations);
        let [salt, stored, server] = [&v.salt, &v.stored_key, &v.server_key].map(|b| prepare::encode(b));
        format!("{},{salt},{stored},{server}", v.iterations)
    }
}

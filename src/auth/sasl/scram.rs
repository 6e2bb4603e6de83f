//! SCRAM-SHA-1 and SCRAM-SHA-256, with and without channel binding (RFC 5802, RFC 7677, RFC 9266).
//!
//! Knows no store: a verifier is brought to it, a false one if there is no such login, and a false one
//! never passes. What is malformed or does not fit fails the exchange without saying which.

use super::{Channel, Failure, Fresh, Turn};
use crate::auth::prepare;
use crate::base::secret::same;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Longest message of a client in bytes.
const MESSAGE_MAX: usize = 4096;

/// The hash of a SCRAM mechanism.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hash {
    /// RFC 5802.
    Sha1,
    /// RFC 7677.
    Sha256,
}

impl Hash {
    /// Bytes of a digest.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Hash::Sha1 => 20,
            Hash::Sha256 => 32,
        }
    }

    /// `H` of RFC 5802 §2.2.
    #[must_use]
    pub fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha1 => Sha1::digest(bytes).to_vec(),
            Hash::Sha256 => Sha256::digest(bytes).to_vec(),
        }
    }

    /// `HMAC` of RFC 5802 §2.2.
    #[must_use]
    pub fn mac(self, key: &[u8], bytes: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha1 => {
                let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("a key of any length");
                mac.update(bytes);
                mac.finalize().into_bytes().to_vec()
            }
            Hash::Sha256 => {
                let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
                mac.update(bytes);
                mac.finalize().into_bytes().to_vec()
            }
        }
    }

    /// `Hi` of RFC 5802 §2.2. This is the part that takes time.
    #[must_use]
    pub fn stretch(self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        let mut salted = vec![0; self.size()];
        match self {
            Hash::Sha1 => pbkdf2::pbkdf2_hmac::<Sha1>(password, salt, iterations, &mut salted),
            Hash::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations, &mut salted),
        }
        salted
    }
}

/// What a server keeps instead of a password (RFC 5802 §3).
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Of the mechanism.
    pub hash: Hash,
    /// Of `Hi`.
    pub iterations: u32,
    /// Of `Hi`.
    pub salt: Vec<u8>,
    /// `H(ClientKey)`.
    pub stored_key: Vec<u8>,
    /// `HMAC(SaltedPassword, "Server Key")`.
    pub server_key: Vec<u8>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verifier({:?}, {} iterations, ..)", self.hash, self.iterations)
    }
}

impl Verifier {
    /// The verifier of a password, which has been prepared. Takes its time.
    #[must_use]
    pub fn make(hash: Hash, password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let salted = zeroize::Zeroizing::new(hash.stretch(password, salt, iterations));
        let client_key = zeroize::Zeroizing::new(hash.mac(&salted, b"Client Key"));
        Verifier {
            hash,
            iterations,
            salt: salt.to_vec(),
            stored_key: hash.digest(&client_key),
            server_key: hash.mac(&salted, b"Server Key"),
        }
    }

    /// True if it was made of this password, which has been prepared. Takes its time.
    #[must_use]
    pub fn fits(&self, password: &[u8]) -> bool {
        let made = Self::make(self.hash, password, &self.salt, self.iterations);
        same(&made.stored_key, &self.stored_key)
    }
}

/// One exchange.
#[derive(Debug)]
pub(super) struct Scram {
    hash: Hash,
    plus: bool,
    plus_offered: bool,
    end_point: Option<Vec<u8>>,
    exporter: Option<Vec<u8>>,
    /// Ours; later the client's and ours.
    nonce: String,
    login: String,
    /// What `c=` must be.
    binding: Vec<u8>,
    /// client-first-message-bare, comma, server-first-message.
    transcript: String,
    verifier: Option<(Verifier, bool)>,
    step: Step,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    First,
    Final,
    /// Our last message is on its way; an empty response follows.
    End,
}

impl Scram {
    pub fn new(hash: Hash, plus: bool, fresh: &Fresh<'_>, channel: &Channel) -> Self {
        Scram {
            hash,
            plus,
            plus_offered: fresh.plus_offered,
            end_point: channel.end_point.clone(),
            exporter: channel.exporter.clone(),
            nonce: prepare::encode(&fresh.nonce),
            login: String::new(),
            binding: Vec::new(),
            transcript: String::new(),
            verifier: None,
            step: Step::First,
        }
    }

    pub fn login(&self) -> &str {
        &self.login
    }

    pub fn respond(&mut self, response: &[u8]) -> Turn {
        let text = std::str::from_utf8(response).ok().filter(|t| t.len() <= MESSAGE_MAX);
        let result = match (text, self.step) {
            (None, _) => Err(Failure::Malformed),
            (Some(text), Step::First) => self.first(text),
            (Some(text), Step::Final) => self.last(text),
            (Some(""), Step::End) => Ok(Turn::Done),
            (Some(_), Step::End) => Err(Failure::Malformed),
        };
        result.unwrap_or_else(Turn::Failed)
    }

    /// client-first-message: `gs2-cbind-flag "," [authzid] "," bare` (RFC 5802 §7).
    fn first(&mut self, text: &str) -> Result<Turn, Failure> {
        let mut parts = text.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Failure::Malformed);
        };
        let header = &text[..text.len() - bare.len()];
        self.binding = header.as_bytes().to_vec();
        self.bind(flag)?;
        let mut fields = bare.split(',');
        // A mandatory extension (m=) cannot be known: RFC 5802 §5.1.
        let name = fields.next().and_then(|f| f.strip_prefix("n=")).ok_or(Failure::Malformed)?;
        let nonce = fields.next().and_then(|f| f.strip_prefix("r=")).ok_or(Failure::Malformed)?;
        if nonce.is_empty() || !nonce.bytes().all(|b| matches!(b, 0x21..=0x7e)) {
            return Err(Failure::Malformed);
        }
        self.login = unescape(name).filter(|n| !n.is_empty()).ok_or(Failure::Malformed)?;
        let wish = match authzid.strip_prefix("a=") {
            Some(wish) => unescape(wish).ok_or(Failure::Malformed)?,
            None if authzid.is_empty() => String::new(),
            None => return Err(Failure::Malformed),
        };
        if !wish.is_empty() && prepare::login(&wish) != prepare::login(&self.login) {
            return Err(Failure::Refused);
        }
        self.nonce.insert_str(0, nonce);
        self.transcript = bare.to_owned();
        Ok(Turn::Verifier(self.hash))
    }

    /// What the client says of channel binding, and what that makes of `c=`.
    fn bind(&mut self, flag: &str) -> Result<(), Failure> {
        let data = match (flag, self.plus) {
            ("n", false) => return Ok(()),
            // It could bind and believes that we cannot. If we had offered it, somebody in between
            // has taken the offer out (RFC 5802 §6).
            ("y", false) if self.plus_offered => return Err(Failure::Refused),
            ("y", false) => return Ok(()),
            ("p=tls-exporter", true) => &self.exporter,
            ("p=tls-server-end-point", true) => &self.end_point,
            (flag, _) if flag == "n" || flag == "y" || flag.starts_with("p=") => {
                return Err(Failure::Refused);
            }
            _ => return Err(Failure::Malformed),
        };
        let data = data.as_ref().ok_or(Failure::Refused)?;
        self.binding.extend_from_slice(data);
        Ok(())
    }

    /// server-first-message.
    pub fn verifier(&mut self, verifier: Verifier, real: bool) -> Turn {
        assert!(self.step == Step::First && !self.transcript.is_empty(), "no verifier was asked for");
        let salt = prepare::encode(&verifier.salt);
        let message = format!("r={},s={salt},i={}", self.nonce, verifier.iterations);
        self.transcript = format!("{},{message}", self.transcript);
        self.verifier = Some((verifier, real));
        self.step = Step::Final;
        Turn::Challenge(message.into_bytes())
    }

    /// client-final-message, answered by server-final-message.
    fn last(&mut self, text: &str) -> Result<Turn, Failure> {
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(Failure::Malformed)?;
        let mut fields = without_proof.split(',');
        let binding = fields.next().and_then(|f| f.strip_prefix("c=")).ok_or(Failure::Malformed)?;
        let nonce = fields.next().and_then(|f| f.strip_prefix("r=")).ok_or(Failure::Malformed)?;
        let binding = prepare::decode(binding.as_bytes()).ok_or(Failure::Malformed)?;
        let proof = prepare::decode(proof.as_bytes()).ok_or(Failure::Malformed)?;
        let (verifier, real) = self.verifier.take().ok_or(Failure::Malformed)?;
        let transcript = format!("{},{without_proof}", self.transcript);
        let signature = self.hash.mac(&verifier.stored_key, transcript.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(p, s)| p ^ s).collect();
        let fits = same(&self.hash.digest(&client_key), &verifier.stored_key);
        let whole = proof.len() == self.hash.size();
        if !(fits & whole & real & same(nonce.as_bytes(), self.nonce.as_bytes()))
            || !same(&binding, &self.binding)
        {
            return Err(Failure::Refused);
        }
        self.step = Step::End;
        let signature = self.hash.mac(&verifier.server_key, transcript.as_bytes());
        Ok(Turn::Challenge(format!("v={}", prepare::encode(&signature)).into_bytes()))
    }
}

/// `=2C` is a comma, `=3D` an equals sign; nothing else may follow `=` (RFC 5802 §5.1).
fn unescape(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let (sign, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return None,
        };
        text.push(sign);
        text.push_str(rest);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A whole exchange with the nonce of the server given.
    fn exchange(hash: Hash, server_nonce: &str, salt: &str, first: &str, last: &str) -> (String, Turn) {
        let fresh = Fresh { nonce: [0; 18], host: "mx.test", plus_offered: false };
        let mut scram = Scram::new(hash, false, &fresh, &Channel::default());
        scram.nonce = server_nonce.into();
        assert_eq!(scram.respond(first.as_bytes()), Turn::Verifier(hash));
        assert_eq!(scram.login(), "user");
        let salt = prepare::decode(salt.as_bytes()).unwrap();
        let verifier = Verifier::make(hash, b"pencil", &salt, 4096);
        assert!(verifier.fits(b"pencil") && !verifier.fits(b"Pencil"));
        let Turn::Challenge(challenge) = scram.verifier(verifier, true) else { panic!("a challenge") };
        (String::from_utf8(challenge).unwrap(), scram.respond(last.as_bytes()))
    }

    /// RFC 5802 §5.
    #[test]
    fn example_of_rfc_5802() {
        let (challenge, end) = exchange(
            Hash::Sha1,
            "3rfcNHYJY1ZVvWVs7j",
            "QSXCR+Q6sek8bf92",
            "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        );
        let nonce = "fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j";
        assert_eq!(challenge, format!("r={nonce},s=QSXCR+Q6sek8bf92,i=4096"));
        assert_eq!(end, Turn::Challenge(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=".to_vec()));
    }

    /// RFC 7677 §3.
    #[test]
    fn example_of_rfc_7677() {
        let (challenge, end) = exchange(
            Hash::Sha256,
            "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
            "W22ZaJ0SNY7soEsUEjb6gQ==",
            "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        );
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        assert_eq!(challenge, format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"));
        assert_eq!(end, Turn::Challenge(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_vec()));
    }

    #[test]
    fn names_are_unescaped() {
        assert_eq!(unescape("a=2Cb=3D=2C").as_deref(), Some("a,b=,"));
        for bad in ["=", "a=2", "a=2c", "=3d", "==3D"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }
}

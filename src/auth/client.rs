//! SASL as the one who logs in: PLAIN (RFC 4616), LOGIN, SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 5802,
//! RFC 7677).
//!
//! Owns the choice of the mechanism and what is answered to each challenge. Knows no protocol around
//! it: challenges come decoded, responses go out to be encoded. A password is shown to nobody but the
//! server, and by SCRAM not even to it; SCRAM proves the server's knowledge of it, too. What makes no
//! sense fails the exchange.

use super::mechanism::{Mechanism, Set};
use super::prepare;
use super::sasl::Hash;
use crate::base::secret::{Secret, same};
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

/// Iterations that a server may ask for: 100,000 take some 50 ms, in which nothing else is done.
pub const ITERATIONS_MAX: u32 = 100_000;
/// Longest message of a server in bytes.
const MESSAGE_MAX: usize = 4096;

/// A login with its password.
pub struct Account {
    login: String,
    password: Secret,
    /// What the last exchange has cost time to find out (RFC 5802 §5.1 allows to keep it).
    salted: RefCell<Option<Salted>>,
}

struct Salted {
    hash: Hash,
    salt: Vec<u8>,
    iterations: u32,
    password: Secret,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({:?}, ..)", self.login)
    }
}

impl Account {
    /// An account.
    #[must_use]
    pub fn new(login: &str, password: Secret) -> Self {
        Account { login: login.into(), password, salted: RefCell::default() }
    }

    /// Reads "login password": the first line that is neither empty nor a comment (`#`). The login ends
    /// at the first white space, the password at the end of the line.
    ///
    /// # Errors
    /// What is wrong; never what is written there.
    pub fn parse(text: &[u8]) -> Result<(String, Secret), &'static str> {
        let text = std::str::from_utf8(text).map_err(|_| "is not UTF-8 text")?;
        let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        let line = lines.next().ok_or("is empty: write \"user password\"")?;
        if lines.next().is_some() {
            return Err("has more than one line: write \"user password\"");
        }
        let (login, password) =
            line.split_once([' ', '\t']).ok_or("has no password: write \"user password\"")?;
        let password = password.trim_start();
        if login.contains('\0') || password.contains('\0') {
            return Err("has a NUL in it");
        }
        Ok((login.into(), password.into()))
    }

    fn salted(&self, hash: Hash, salt: &[u8], iterations: u32) -> Secret {
        let mut kept = self.salted.borrow_mut();
        if let Some(s) = &*kept
            && (s.hash, &s.salt[..], s.iterations) == (hash, salt, iterations)
        {
            return s.password.clone();
        }
        let prepared = prepare::password(&self.password);
        let password = Secret::new(hash.stretch(prepared.expose(), salt, iterations));
        *kept = Some(Salted { hash, salt: salt.to_vec(), iterations, password: password.clone() });
        password
    }
}

/// The best mechanism that both sides can do. `tell`: the password itself may be sent.
#[must_use]
pub fn choose(offered: Set, tell: bool) -> Option<Mechanism> {
    let known = [Mechanism::ScramSha256, Mechanism::ScramSha1, Mechanism::Plain, Mechanism::Login];
    known.into_iter().find(|m| offered.has(*m) && (tell || !m.tells_password()))
}

/// The exchange has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// What the server says makes no sense.
    Malformed,
    /// The server asks for more iterations than we do.
    TooDear,
    /// The server does not know the password: it is not the one that we mean.
    Unproven,
}

/// One exchange.
#[derive(Debug)]
pub struct Exchange {
    account: Rc<Account>,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// LOGIN: the login is asked for next.
    Name,
    /// LOGIN: the password is asked for next.
    Password,
    /// SCRAM: server-first-message is next.
    First(Hash, String),
    /// SCRAM: server-final-message is next; what it must prove.
    Final(Vec<u8>),
    /// Nothing more is to be said.
    End,
}

impl Exchange {
    /// Begins. Gives the initial response, if the mechanism has one. `nonce`: fresh, visible ASCII
    /// without a comma.
    #[must_use]
    pub fn begin(account: Rc<Account>, mechanism: Mechanism, nonce: &str) -> (Self, Option<Secret>) {
        let (step, first) = match mechanism {
            Mechanism::Plain => {
                let login = account.login.as_bytes();
                let first = [b"\0", login, b"\0", account.password.expose()].concat();
                (Step::End, Some(Secret::new(first)))
            }
            Mechanism::ScramSha1 | Mechanism::ScramSha256 => {
                let hash = if mechanism == Mechanism::ScramSha1 { Hash::Sha1 } else { Hash::Sha256 };
                // RFC 5802 §5.1: "=" and "," of a name are written in another way.
                let login = prepared(&account.login).replace('=', "=3D").replace(',', "=2C");
                let bare = format!("n={login},r={nonce}");
                let first = Secret::new(format!("n,,{bare}").into_bytes());
                (Step::First(hash, bare), Some(first))
            }
            _ => (Step::Name, None),
        };
        (Exchange { account, step }, first)
    }

    /// Answers a challenge.
    ///
    /// # Errors
    /// The exchange is to be cancelled.
    pub fn respond(&mut self, challenge: &[u8]) -> Result<Secret, Failure> {
        match std::mem::replace(&mut self.step, Step::End) {
            Step::Name => {
                self.step = Step::Password;
                Ok(Secret::new(self.account.login.clone().into_bytes()))
            }
            Step::Password => Ok(self.account.password.clone()),
            Step::First(hash, bare) => {
                let text = std::str::from_utf8(challenge).ok().filter(|t| t.len() <= MESSAGE_MAX);
                self.prove(hash, &bare, text.ok_or(Failure::Malformed)?)
            }
            Step::Final(signature) => {
                let value = challenge.strip_prefix(b"v=").and_then(|v| v.split(|b| *b == b',').next());
                let proof = value.and_then(prepare::decode).ok_or(Failure::Unproven)?;
                if !same(&proof, &signature) {
                    return Err(Failure::Unproven);
                }
                Ok(Secret::default())
            }
            Step::End => Err(Failure::Malformed),
        }
    }

    /// The server says that we are who we are.
    ///
    /// # Errors
    /// It has not proven that it is who it is, though the mechanism is one that does.
    pub fn finish(&self) -> Result<(), Failure> {
        match self.step {
            Step::First(..) | Step::Final(_) => Err(Failure::Unproven),
            Step::Name | Step::Password | Step::End => Ok(()),
        }
    }

    /// server-first-message: `r=nonce,s=salt,i=iterations` (RFC 5802 §7).
    fn prove(&mut self, hash: Hash, bare: &str, text: &str) -> Result<Secret, Failure> {
        let mut fields = text.split(',');
        let mut field = |name: &str| fields.next().and_then(|f| f.strip_prefix(name));
        let (Some(nonce), Some(salt), Some(iterations)) = (field("r="), field("s="), field("i=")) else {
            return Err(Failure::Malformed);
        };
        let ours = bare.rsplit_once("r=").map_or("", |(_, r)| r);
        // RFC 5802 §5.1: the nonce begins with ours, and the server has added to it.
        if !nonce.starts_with(ours) || nonce.len() == ours.len() {
            return Err(Failure::Malformed);
        }
        let salt = prepare::decode(salt.as_bytes()).filter(|s| !s.is_empty()).ok_or(Failure::Malformed)?;
        let iterations = iterations.parse().ok().filter(|n| *n > 0).ok_or(Failure::Malformed)?;
        if iterations > ITERATIONS_MAX {
            return Err(Failure::TooDear);
        }
        let salted = self.account.salted(hash, &salt, iterations);
        let client_key = Secret::new(hash.mac(salted.expose(), b"Client Key"));
        let stored_key = Secret::new(hash.digest(client_key.expose()));
        // "biws" is "n,,": no channel binding.
        let last = format!("c=biws,r={nonce}");
        let message = format!("{bare},{text},{last}");
        let signature = hash.mac(stored_key.expose(), message.as_bytes());
        let proof: Vec<u8> = client_key.expose().iter().zip(&signature).map(|(k, s)| k ^ s).collect();
        let server_key = Secret::new(hash.mac(salted.expose(), b"Server Key"));
        self.step = Step::Final(hash.mac(server_key.expose(), message.as_bytes()));
        Ok(Secret::new(format!("{last},p={}", prepare::encode(&proof)).into_bytes()))
    }
}

/// The login prepared but for its case, which is the server's affair.
fn prepared(login: &str) -> String {
    stringprep::saslprep(login).map_or_else(|_| login.to_owned(), std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(login: &str, password: &str) -> Rc<Account> {
        Rc::new(Account::new(login, password.into()))
    }

    fn text(secret: &Secret) -> &str {
        std::str::from_utf8(secret.expose()).unwrap()
    }

    /// The example of RFC 5802 §5.
    #[test]
    fn scram_sha_1() {
        let account = account("user", "pencil");
        for _ in 0..2 {
            let (mut e, first) =
                Exchange::begin(account.clone(), Mechanism::ScramSha1, "fyko+d2lbbFgONRv9qkxdawL");
            assert_eq!(text(&first.unwrap()), "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL");
            let challenge =
                "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096".as_bytes();
            let last = e.respond(challenge).unwrap();
            assert_eq!(
                text(&last),
                "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="
            );
            assert_eq!(e.finish(), Err(Failure::Unproven), "the server has proven nothing yet");
            assert_eq!(text(&e.respond(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=").unwrap()), "");
            assert_eq!(e.finish(), Ok(()));
        }
        assert!(account.salted.borrow().is_some(), "the second exchange is cheap");
    }

    /// The example of RFC 7677 §3.
    #[test]
    fn scram_sha_256() {
        let (mut e, _) =
            Exchange::begin(account("user", "pencil"), Mechanism::ScramSha256, "rOprNGfwEbeRWgbNEkqO");
        let challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                          s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let last = e.respond(challenge).unwrap();
        assert!(text(&last).ends_with(",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="));
        let forged = e.respond(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=");
        assert_eq!(forged.err(), Some(Failure::Unproven));
    }

    #[test]
    fn servers_that_make_no_sense() {
        let begin = || Exchange::begin(account("u,=", "p"), Mechanism::ScramSha1, "abc");
        assert_eq!(text(&begin().1.unwrap()), "n,,n=u=2C=3D,r=abc");
        for (challenge, failure) in [
            ("r=abc,s=QSXCR+Q6sek8bf92,i=4096", Failure::Malformed),
            ("r=xbcd,s=QSXCR+Q6sek8bf92,i=4096", Failure::Malformed),
            ("r=abcd,s=,i=4096", Failure::Malformed),
            ("r=abcd,s=QSXCR+Q6sek8bf92,i=0", Failure::Malformed),
            ("r=abcd,s=QSXCR+Q6sek8bf92,i=x", Failure::Malformed),
            ("m=ext,r=abcd,s=QSXCR+Q6sek8bf92,i=1", Failure::Malformed),
            ("", Failure::Malformed),
            ("r=abcd,s=QSXCR+Q6sek8bf92,i=100001", Failure::TooDear),
        ] {
            assert_eq!(begin().0.respond(challenge.as_bytes()).err(), Some(failure), "{challenge}");
        }
        let (mut e, _) = begin();
        e.respond(b"r=abcd,s=QSXCR+Q6sek8bf92,i=1").unwrap();
        assert_eq!(e.respond(b"e=invalid-proof").err(), Some(Failure::Unproven));
    }

    #[test]
    fn passwords_in_the_open() {
        let (e, first) = Exchange::begin(account("me", "se cret"), Mechanism::Plain, "");
        assert_eq!((first.unwrap().expose(), e.finish()), (&b"\0me\0se cret"[..], Ok(())));
        let (mut e, first) = Exchange::begin(account("me", "se cret"), Mechanism::Login, "");
        assert!(first.is_none());
        assert_eq!(text(&e.respond(b"Username:").unwrap()), "me");
        assert_eq!(text(&e.respond(b"whatever").unwrap()), "se cret");
        assert_eq!(e.respond(b"more?").err(), Some(Failure::Malformed));
        assert!(!format!("{:?} {e:?}", account("me", "se cret")).contains("cret"));
    }

    #[test]
    fn the_best_is_chosen() {
        let all: Set = Mechanism::ALL.into_iter().collect();
        assert_eq!(choose(all, false), Some(Mechanism::ScramSha256));
        let open = Set::NONE.with(Mechanism::Plain).with(Mechanism::Login);
        assert_eq!((choose(open, true), choose(open, false)), (Some(Mechanism::Plain), None));
        assert_eq!(choose(Set::NONE.with(Mechanism::CramMd5), true), None);
    }

    #[test]
    fn files() {
        let good = |text: &str| Account::parse(text.as_bytes()).map(|(l, p)| (l, p.expose().to_vec()));
        let me = Ok(("me@a.example".to_owned(), b"se cret".to_vec()));
        assert_eq!(good("# smarthost\n\nme@a.example  se cret\n"), me);
        assert_eq!(good("me@a.example\tse cret"), me);
        for bad in ["", "# only\n", "me", "me pass\nyou pass\n", "m\0e x"] {
            let error = good(bad).unwrap_err();
            assert!(!error.contains("pass ") && !error.is_empty(), "{bad:?}");
        }
        assert!(Account::parse(b"\xff x").is_err());
    }
}

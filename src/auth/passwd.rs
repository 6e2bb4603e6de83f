//! The password file: `login:password:...`, one user a line, as Dovecot's passwd-file, `/etc/shadow`
//! and Apache's htpasswd have it.
//!
//! Only login and password are kept, in one block with a table of places: about 20 bytes a user more
//! than the text. Lines that cannot be used are named, and their users do not exist; what the others can
//! do is not touched. Reading from the disk is the caller's. What a line holds is never in a message.

use super::mechanism::{Mechanism, Set};
use super::prepare;
use super::scheme::Credential;
use super::store::{Account, Found, Serves, Store};
use std::collections::BTreeSet;
use std::future::{Future, ready};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::{PoisonError, RwLock};

/// Bytes of the block at most: places are 32 bits.
const BLOCK_MAX: usize = u32::MAX as usize;
/// Bytes of a password field.
const FIELD_MAX: usize = 4096;

/// All users of a file.
pub struct Users {
    /// Entries: length of the login (1 byte), of the field (2 bytes), login, field.
    block: Vec<u8>,
    /// Places of entries by hash of login, open addressing; [`FREE`]: none.
    table: Vec<u32>,
    count: usize,
    serves: Serves,
    /// Where in the table a login is sought: nobody outside can tell.
    secret: [u8; 32],
    /// Logins that may not log in, whatever the file says.
    locked_out: RwLock<BTreeSet<Box<str>>>,
}

const FREE: u32 = u32::MAX;
/// Places looked at for the entry that an unknown login is given.
const OTHERS_MAX: usize = 1 << 10;

/// A line that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadLine {
    /// From 1.
    pub line: usize,
    /// Why; without what it holds, but for the login.
    pub message: String,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Users({})", self.count)
    }
}

/// Login, password field and what follows of a line; `None`: a comment or an empty line.
///
/// A SCRAM verifier in the form of RFC 5803 has colons of its own, which end no field.
#[must_use]
pub fn split(line: &str) -> Option<Result<(&str, &str, &str), &'static str>> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.trim().is_empty() || line.starts_with('#') {
        return None;
    }
    let Some((login, rest)) = line.split_once(':') else { return Some(Err("no colon behind the login")) };
    let (scheme, bare) = match rest.strip_prefix('{').and_then(|r| r.split_once('}')) {
        Some((scheme, bare)) => (scheme, bare),
        None => ("", rest),
    };
    let first = bare.split(':').next().unwrap_or("");
    // `[SCRAM-SHA-256$]iterations:salt$StoredKey:ServerKey`
    let has_colons = bare.starts_with("SCRAM-SHA-")
        || scheme.get(..6).is_some_and(|s| s.eq_ignore_ascii_case("SCRAM-"))
            && !first.is_empty()
            && first.bytes().all(|b| b.is_ascii_digit());
    let in_front = rest.len() - bare.len();
    let end = bare.match_indices(':').nth(if has_colons { 2 } else { 0 });
    let end = end.map_or(rest.len(), |(at, _)| in_front + at);
    Some(Ok((login, &rest[..end], rest[end..].strip_prefix(':').unwrap_or(""))))
}

impl Users {
    /// Reads the text of a file. Lines that cannot be used are left out and named.
    #[must_use]
    pub fn parse(text: &[u8], secret: [u8; 32]) -> (Users, Vec<BadLine>) {
        let lines = memchr::memchr_iter(b'\n', text).count() + 1;
        let places = (lines * 2).next_power_of_two().max(8);
        let mut users = Users {
            block: Vec::with_capacity(text.len() + 3 * lines),
            table: vec![FREE; places],
            count: 0,
            serves: Serves { all: Mechanism::ALL.into_iter().collect(), some: Set::NONE },
            secret,
            locked_out: RwLock::default(),
        };
        let mut bad = Vec::new();
        for (n, line) in text.split(|&b| b == b'\n').enumerate() {
            if let Err(message) = users.line(line) {
                bad.push(BadLine { line: n + 1, message });
            }
        }
        users.block.shrink_to_fit();
        if users.count == 0 {
            users.serves.all = Set::NONE;
        }
        (users, bad)
    }

    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(line).map_err(|_| "is not UTF-8")?;
        let Some(parts) = split(text) else { return Ok(()) };
        let (written, field, rest) = parts?;
        let named = |why: &str| format!("user {written:?}: {why}");
        if written.contains(char::is_whitespace) {
            return Err("a login with white space in it".into());
        }
        let login = prepare::login(written).ok_or("a login that nobody can send")?;
        let mut field = field;
        for word in rest.split([':', ' ', '\t']) {
            match word {
                "nologin" | "nologin=y" => field = "!",
                // To overlook it would let in whom the file keeps out.
                w if w.starts_with("allow_nets=") => {
                    return Err(named("allow_nets= is not known here: the user cannot log in"));
                }
                _ => {}
            }
        }
        let credential = Credential::parse(field).map_err(named)?;
        if field.len() > FIELD_MAX || self.block.len() + field.len() + LOGIN_ROOM > BLOCK_MAX {
            return Err(named("there is no room for the entry"));
        }
        let Err(free) = self.find(&login) else {
            return Err(named("is there already; the first line counts"));
        };
        let at = u32::try_from(self.block.len()).expect("checked above");
        self.block.push(u8::try_from(login.len()).expect("checked by `prepare`"));
        self.block.extend_from_slice(&u16::try_from(field.len()).expect("checked above").to_le_bytes());
        self.block.extend_from_slice(login.as_bytes());
        self.block.extend_from_slice(field.as_bytes());
        self.table[free] = at;
        self.count += 1;
        let serves = credential.serves();
        self.serves.all = self.serves.all.filter(|m| serves.has(m));
        if !matches!(credential, Credential::Locked) {
            self.serves.some = self.serves.some.iter().chain(serves.iter()).collect();
        }
        Ok(())
    }

    /// Login and field of the entry at `at`.
    fn entry(&self, at: u32) -> (&[u8], &str) {
        let entry = &self.block[at as usize..];
        let (login, field) = (usize::from(entry[0]), usize::from(u16::from_le_bytes([entry[1], entry[2]])));
        let bytes = &entry[3 + login..3 + login + field];
        (&entry[3..3 + login], std::str::from_utf8(bytes).expect("made of text"))
    }

    /// The place in the table that has this login, or else the free one where it belongs.
    fn find(&self, login: &str) -> Result<u32, usize> {
        let mask = self.table.len() - 1;
        let mut place = self.place(login);
        loop {
            match self.table[place] {
                FREE => return Err(place),
                at if self.entry(at).0 == login.as_bytes() => return Ok(at),
                _ => place = (place + 1) & mask,
            }
        }
    }

    /// Users.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether there is such a user, also one who is locked out. The login has been prepared.
    #[must_use]
    pub fn has(&self, login: &str) -> bool {
        self.find(login).is_ok()
    }

    /// The stored password of a login, which has been prepared.
    #[must_use]
    pub fn get(&self, login: &str) -> Option<Credential> {
        let at = self.find(login).ok()?;
        Some(Credential::parse(self.entry(at).1).expect("checked when it was read"))
    }

    /// Where the search for a login begins.
    fn place(&self, login: &str) -> usize {
        let mut hasher = DefaultHasher::new();
        (self.secret, login).hash(&mut hasher);
        usize::try_from(hasher.finish()).expect("64 bits") & (self.table.len() - 1)
    }

    /// An entry for a login that does not exist: always the same one, unless the file changes much. So
    /// what an unknown login is shown and how long it takes is spread as it is among the users.
    fn other(&self, login: &str) -> Option<Credential> {
        let (mask, first) = (self.table.len() - 1, self.place(login));
        // Half of the places at least are free, users are spread over all: few steps, unless most of
        // them are locked out.
        let places = (0..=mask.min(OTHERS_MAX)).map(|step| self.table[(first + step) & mask]);
        let entries =
            places.filter(|&at| at != FREE).filter_map(|at| Credential::parse(self.entry(at).1).ok());
        entries.into_iter().find(|c| !matches!(c, Credential::Locked))
    }

    /// From now on these may not log in; prepared logins.
    pub fn lock_out(&self, logins: BTreeSet<Box<str>>) {
        *self.locked_out.write().unwrap_or_else(PoisonError::into_inner) = logins;
    }

    fn is_locked_out(&self, login: &str) -> bool {
        self.locked_out.read().unwrap_or_else(PoisonError::into_inner).contains(login)
    }

    /// The answer to a look-up. A user who is locked out does not exist.
    #[must_use]
    pub fn account(&self, login: &str) -> Account {
        match self.get(login).filter(|_| !self.is_locked_out(login)) {
            None | Some(Credential::Locked) => Account::Unknown(self.other(login)),
            Some(credential) => Account::Known(credential),
        }
    }
}

/// Bytes of an entry beside its field, at most.
const LOGIN_ROOM: usize = 3 + prepare::LOGIN_MAX;

impl Store for std::sync::Arc<Users> {
    fn lookup<'a>(&'a self, login: &'a str) -> Pin<Box<dyn Future<Output = Found> + 'a>> {
        Box::pin(ready(Ok(self.account(login))))
    }

    fn serves(&self) -> Serves {
        self.serves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &str =
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    fn users(text: &str) -> (Users, Vec<String>) {
        let (users, bad) = Users::parse(text.as_bytes(), [7; 32]);
        (users, bad.into_iter().map(|b| format!("{}: {}", b.line, b.message)).collect())
    }

    #[test]
    fn lines() {
        for (line, expect) in [
            ("a:{PLAIN}x", ("a", "{PLAIN}x", "")),
            ("a@b.c:{PLAIN}x:1:2:g:/h:/s:nologin\r", ("a@b.c", "{PLAIN}x", "1:2:g:/h:/s:nologin")),
            ("a:$6$s$h:19000:0:99999:7:::", ("a", "$6$s$h", "19000:0:99999:7:::")),
            ("a:SCRAM-SHA-256$4096:s$k:v:1:2", ("a", "SCRAM-SHA-256$4096:s$k:v", "1:2")),
            (
                "a:{SCRAM-SHA-256}SCRAM-SHA-256$4096:s$k:v",
                ("a", "{SCRAM-SHA-256}SCRAM-SHA-256$4096:s$k:v", ""),
            ),
            ("a:{scram-sha-1}4096:s$k:v:1", ("a", "{scram-sha-1}4096:s$k:v", "1")),
            ("a:{SCRAM-SHA-256}4096,s,k,v:1", ("a", "{SCRAM-SHA-256}4096,s,k,v", "1")),
            ("a:", ("a", "", "")),
        ] {
            assert_eq!(split(line), Some(Ok(expect)), "{line}");
        }
        assert_eq!((split("# x:y"), split(" "), split("x").map(|r| r.is_err())), (None, None, Some(true)));
    }

    #[test]
    fn broken_lines_are_named_and_the_others_count() {
        let text = format!(
            "# users\n\nAlice@Example.net:SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==${KEYS}:::x\n\
             bob:{{PLAIN}}secret\nnocolon\nbad:plain text\nbob:{{PLAIN}}other\nx y:{{PLAIN}}z\n\
             net:{{PLAIN}}x:::::: allow_nets=10.0.0.0/8\ngone:{{PLAIN}}x::::::nologin\noff:!\n"
        );
        let (users, bad) = users(&text);
        assert_eq!(users.count(), 4);
        let lines: Vec<&str> = bad.iter().map(|b| b.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["5", "6", "7", "8", "9"], "{bad:?}");
        assert!(!bad.concat().contains("plain text") && bad[1].contains("\"bad\""));
        assert!(users.get("alice@example.net").unwrap().serves().has(Mechanism::ScramSha256));
        assert!(users.get("bob").unwrap().fits(&"secret".into()));
        assert!(matches!(users.account("off"), Account::Unknown(Some(_))));
        assert!(matches!(users.account("gone"), Account::Unknown(Some(_))));
        let names = (users.serves.all.names(), users.serves.some.has(Mechanism::CramMd5));
        assert_eq!(names, ("SCRAM-SHA-256-PLUS SCRAM-SHA-256 EXTERNAL PLAIN LOGIN".into(), true));
    }

    #[test]
    fn unknown_logins_are_given_the_same_entry_each_time() {
        let text: String = (0..50).map(|n| format!("u{n}:{{PLAIN}}p{n}\n")).collect();
        let (a, _) = users(&text);
        let of = |users: &Users, login: &str| match users.account(login) {
            Account::Unknown(Some(Credential::Plain(p))) => p.expose().to_vec(),
            other => panic!("{other:?}"),
        };
        let once: Vec<_> = (0..20).map(|n| of(&a, &format!("nobody{n}"))).collect();
        assert_eq!(once, (0..20).map(|n| of(&a, &format!("nobody{n}"))).collect::<Vec<_>>());
        assert!(once.iter().any(|p| *p != once[0]), "spread over the users");
        assert!(matches!(users("").0.account("x"), Account::Unknown(None)));
        assert!(matches!(users("a:*\n").0.account("x"), Account::Unknown(None)));
    }

    #[test]
    fn many_users_take_little_memory() {
        let entry = format!("{{SCRAM-SHA-256}}4096,W22ZaJ0SNY7soEsUEjb6gQ==,{}", KEYS.replace(':', ","));
        let text: String = (0..20_000).map(|n| format!("user{n}@example.net:{entry}\n")).collect();
        let (users, bad) = users(&text);
        assert_eq!((users.count(), bad.len()), (20_000, 0));
        let bytes = users.block.len() + 4 * users.table.len();
        assert!(bytes < text.len() + 20 * 20_000, "{bytes}");
        assert!(users.get("user19999@example.net").is_some() && users.get("user20000@example.net").is_none());
    }
}

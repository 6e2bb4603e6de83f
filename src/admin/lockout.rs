//! L5: users who may not log in until an operator lets them again, kept in a file over restarts.
//!
//! Owns the file `disabled.json` of the data directory, and sees to it that the users in force know of it.
//! The password file stays as it is: it may be somebody else's. Runs on the control thread. A file that
//! cannot be read ends the start: who was locked out must not come in because of it. A change that cannot be
//! written is not made.

use super::kept;
use crate::auth::passwd::Users;
use crate::auth::prepare;
use crate::base::time::Wall;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the file in the data directory.
const NAME: &str = "disabled.json";
/// Users at most.
const USERS_MAX: usize = 100_000;
/// Bytes of a reason at most.
const REASON_MAX: usize = 500;

/// Why a user may not log in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Why; for people.
    pub reason: String,
    /// Who says so; for people.
    pub by: String,
    /// Since when, milliseconds since 1970.
    pub since: u64,
}

/// Users who may not log in.
pub struct Lockout {
    path: PathBuf,
    locks: RefCell<BTreeMap<String, Lock>>,
    /// Those in force.
    users: RefCell<Option<Arc<Users>>>,
}

impl Lockout {
    /// Those of the last run, of this data directory.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn open(data_dir: &Path) -> io::Result<Lockout> {
        let path = data_dir.join(NAME);
        let locks = kept::read(&path, "let everybody log in")?;
        Ok(Lockout { path, locks: RefCell::new(locks), users: RefCell::new(None) })
    }

    /// These users are about to be in force.
    pub fn adopt(&self, users: Arc<Users>) {
        self.users.replace(Some(users));
        self.tell();
    }

    fn tell(&self) {
        if let Some(users) = &*self.users.borrow() {
            users.lock_out(self.locks.borrow().keys().map(|login| login.as_str().into()).collect());
        }
    }

    /// Who they are.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, Lock> {
        self.locks.borrow().clone()
    }

    /// From now on `login` may not log in; gives the login as it is compared.
    ///
    /// # Errors
    /// There is no such user, there are too many, or the file cannot be written.
    pub fn disable(&self, login: &str, reason: &str, by: &str, wall: Wall) -> io::Result<String> {
        let wrong = |text: String| io::Error::new(io::ErrorKind::NotFound, text);
        let login = prepare::login(login).ok_or_else(|| wrong("a login that nobody can have".into()))?;
        if !self.users.borrow().as_ref().is_some_and(|users| users.has(&login)) {
            return Err(wrong(format!("there is no user {login:?}")));
        }
        let mut locks = self.all();
        if reason.len() > REASON_MAX || locks.len() >= USERS_MAX {
            let text = format!("a reason has {REASON_MAX} bytes at most, and there are {USERS_MAX} at most");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let lock = Lock { reason: reason.into(), by: by.into(), since: wall.0 };
        locks.insert(login.clone(), lock);
        self.replace(locks)?;
        Ok(login)
    }

    /// `login` may log in again; false: nothing kept it from that.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn enable(&self, login: &str) -> io::Result<bool> {
        let login = prepare::login(login).unwrap_or_else(|| login.to_owned());
        let mut locks = self.all();
        let there = locks.remove(&login).is_some();
        if there {
            self.replace(locks)?;
        }
        Ok(there)
    }

    fn replace(&self, locks: BTreeMap<String, Lock>) -> io::Result<()> {
        kept::write(&self.path, &locks)?;
        self.locks.replace(locks);
        self.tell();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests write files")]
    use super::*;
    use crate::auth::store::Account;
    use std::fs;

    #[test]
    fn a_lock_outlasts_restarts_and_new_users() {
        let dir = tempfile::tempdir().expect("a directory");
        let users = || Arc::new(Users::parse(b"ann:{PLAIN}x\nbob:{PLAIN}y\n", [7; 32]).0);
        let knows = |users: &Users, login: &str| matches!(users.account(login), Account::Known(_));
        let lockout = Lockout::open(dir.path()).expect("no file is nobody");
        let first = users();
        lockout.adopt(first.clone());
        assert!(lockout.disable("eve", "", "me", Wall(1)).is_err());
        assert_eq!(lockout.disable("Ann", "stolen", "me", Wall(1)).expect("written"), "ann");
        assert!(!knows(&first, "ann") && first.has("ann") && knows(&first, "bob"));
        let lockout = Lockout::open(dir.path()).expect("a good file");
        let second = users();
        lockout.adopt(second.clone());
        assert!(!knows(&second, "ann"));
        assert_eq!(lockout.all()["ann"].reason, "stolen");
        assert!(lockout.enable("ANN").expect("written") && !lockout.enable("ann").expect("nothing to do"));
        assert!(knows(&second, "ann"));
        fs::write(dir.path().join(NAME), "x").expect("written");
        assert!(Lockout::open(dir.path()).is_err());
    }
}

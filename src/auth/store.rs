//! The narrow interface to a store of users. The password file is one; directories and databases
//! come behind the same.
//!
//! A look-up may take time (it is awaited) and may fail for the moment: then only those who asked get a
//! temporary failure. Knows no mechanism's steps and no protocol.

use super::mechanism::Set;
use super::scheme::Credential;
use std::future::Future;
use std::pin::Pin;

/// What is known of a login.
#[derive(Clone, Debug)]
pub enum Account {
    /// There is such a user.
    Known(Credential),
    /// There is none. With the entry of another, if there are any: what is done for it takes as long
    /// as it would for a user, and its success is not told.
    Unknown(Option<Credential>),
}

/// The store cannot answer now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unavailable;

/// The result of a look-up.
pub type Found = Result<Account, Unavailable>;

/// A store of users.
pub trait Store {
    /// Looks up a login, which has been prepared (see [`super::prepare::login`]).
    fn lookup<'a>(&'a self, login: &'a str) -> Pin<Box<dyn Future<Output = Found> + 'a>>;

    /// The mechanisms that every user can use, and those that some can.
    fn serves(&self) -> Serves;
}

/// What a store can serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Serves {
    /// Whoever the user is.
    pub all: Set,
    /// At least one user.
    pub some: Set,
}

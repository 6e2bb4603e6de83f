//! The SASL mechanisms: names, sets of them, and what each needs of a store.
//!
//! Knows no exchange. Cannot fail.

/// A mechanism.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mechanism {
    /// RFC 4616: login and password at once.
    Plain,
    /// The same in two steps; no standard, but Outlook has it.
    Login,
    /// RFC 2195: a keyed digest of a challenge. Needs the password itself in the store.
    CramMd5,
    /// RFC 5802.
    ScramSha1,
    /// RFC 5802, bound to the TLS connection.
    ScramSha1Plus,
    /// RFC 7677.
    ScramSha256,
    /// RFC 7677, bound to the TLS connection.
    ScramSha256Plus,
    /// RFC 4422 appendix A: the client certificate says who it is.
    External,
}

impl Mechanism {
    /// All, the strongest first: many clients take the first that they know.
    pub const ALL: [Mechanism; 8] = [
        Mechanism::ScramSha256Plus,
        Mechanism::ScramSha256,
        Mechanism::ScramSha1Plus,
        Mechanism::ScramSha1,
        Mechanism::External,
        Mechanism::CramMd5,
        Mechanism::Plain,
        Mechanism::Login,
    ];

    /// The registered name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
            Mechanism::CramMd5 => "CRAM-MD5",
            Mechanism::ScramSha1 => "SCRAM-SHA-1",
            Mechanism::ScramSha1Plus => "SCRAM-SHA-1-PLUS",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Mechanism::External => "EXTERNAL",
        }
    }

    /// The mechanism of this name, in any case.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Mechanism> {
        Self::ALL.into_iter().find(|m| m.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// The server speaks first: there is no initial response (RFC 4422 §5).
    #[must_use]
    pub fn server_first(self) -> bool {
        self == Mechanism::CramMd5
    }

    /// Each exchange has a random part.
    #[must_use]
    pub fn is_fresh(self) -> bool {
        !matches!(self, Mechanism::Plain | Mechanism::Login | Mechanism::External)
    }

    /// It sends the password itself, or what is as good.
    #[must_use]
    pub fn tells_password(self) -> bool {
        matches!(self, Mechanism::Plain | Mechanism::Login)
    }

    /// It is bound to the TLS connection.
    #[must_use]
    pub fn is_plus(self) -> bool {
        matches!(self, Mechanism::ScramSha1Plus | Mechanism::ScramSha256Plus)
    }
}

/// A set of mechanisms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Set(u8);

impl Set {
    /// None.
    pub const NONE: Set = Set(0);

    /// With this one.
    #[must_use]
    pub const fn with(self, mechanism: Mechanism) -> Set {
        Set(self.0 | 1 << mechanism as u8)
    }

    /// Is it in the set?
    #[must_use]
    pub fn has(self, mechanism: Mechanism) -> bool {
        self.0 & (1 << mechanism as u8) != 0
    }

    /// Those that `keep` wants.
    #[must_use]
    pub fn filter(self, keep: impl Fn(Mechanism) -> bool) -> Set {
        self.iter().filter(|&m| keep(m)).collect()
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// All of them, the strongest first.
    pub fn iter(self) -> impl Iterator<Item = Mechanism> {
        Mechanism::ALL.into_iter().filter(move |&m| self.has(m))
    }

    /// Their names, separated by spaces.
    #[must_use]
    pub fn names(self) -> String {
        self.iter().map(Mechanism::name).collect::<Vec<_>>().join(" ")
    }
}

impl FromIterator<Mechanism> for Set {
    fn from_iter<I: IntoIterator<Item = Mechanism>>(all: I) -> Self {
        all.into_iter().fold(Set::NONE, Set::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for m in Mechanism::ALL {
            assert_eq!(Mechanism::from_name(m.name().to_lowercase().as_bytes()), Some(m));
        }
        assert_eq!(Mechanism::from_name(b"SCRAM-SHA-256-PLUSS"), None);
        let set: Set = [Mechanism::Login, Mechanism::ScramSha256].into_iter().collect();
        assert_eq!(set.names(), "SCRAM-SHA-256 LOGIN");
        assert_eq!(set.filter(|m| !m.tells_password()).names(), "SCRAM-SHA-256");
        assert!(Set::NONE.is_empty() && !set.has(Mechanism::Plain));
        let fresh = |m: &Mechanism| m.is_fresh();
        assert!(Mechanism::ALL.iter().filter(|m| m.name().contains('-')).all(fresh));
        assert!(![Mechanism::Plain, Mechanism::Login, Mechanism::External].iter().any(fresh));
    }
}

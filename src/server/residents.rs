//! Whose mailbox an address is: the users of the password file, in the local domains.
//!
//! One for each core; the users are replaced as a whole when their file changes. An address is found by
//! the login `user@domain`, else by `user`, then the same without its extension, which names a folder.
//! Nothing here fails.

use crate::auth::passwd::Users;
use crate::auth::prepare;
use crate::config::Config;
use crate::delivery::post::Resident;
use crate::route::tables::split;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

/// See the module.
pub struct Residents {
    users: RefCell<Arc<Users>>,
    local: BTreeSet<String>,
    delimiters: Box<[u8]>,
}

impl Residents {
    /// Those of this configuration; `None`: there are no mailboxes.
    pub fn new(config: &Config, users: Option<Arc<Users>>) -> Option<Rc<Self>> {
        let users = users.filter(|_| config.has_mailboxes())?;
        Some(Rc::new(Residents {
            users: RefCell::new(users),
            local: config.domains.local.iter().cloned().collect(),
            delimiters: config.domains.recipient_delimiter.as_bytes().into(),
        }))
    }

    /// From now on these users.
    pub fn set_users(&self, users: Arc<Users>) {
        self.users.replace(users);
    }

    /// Whose mailbox `address` is; `None`: nobody's here.
    pub fn find(&self, address: &[u8]) -> Option<Resident> {
        let address = std::str::from_utf8(address).ok()?;
        let domain = std::str::from_utf8(split(address.as_bytes()).1).ok()?.to_ascii_lowercase();
        let written = address.strip_suffix(&address[address.len() - domain.len()..])?.strip_suffix('@')?;
        if !self.local.contains(&domain) {
            return None;
        }
        let local = unquoted(written);
        if let Some(account) = self.account(&local, &domain) {
            return Some(Resident { account, mailbox: "".into() });
        }
        // A delimiter in the first place begins no extension: there would be no user.
        let is_delimiter = |c: char| u8::try_from(c).is_ok_and(|b| self.delimiters.contains(&b));
        let (at, delimiter) = local.char_indices().skip(1).find(|(_, c)| is_delimiter(*c))?;
        let account = self.account(&local[..at], &domain)?;
        Some(Resident { account, mailbox: local[at + delimiter.len_utf8()..].into() })
    }

    fn account(&self, local: &str, domain: &str) -> Option<Box<str>> {
        let users = self.users.borrow();
        let named = |login: &str| prepare::login(login).filter(|login| users.has(login));
        let found = named(&format!("{local}@{domain}")).or_else(|| named(local))?;
        Some(found.into_boxed_str())
    }
}

/// A local part without its quotes (RFC 5321 §4.1.2: they are no part of what it means).
fn unquoted(local: &str) -> String {
    let Some(inner) = local.strip_prefix('"').and_then(|l| l.strip_suffix('"')) else {
        return local.to_owned();
    };
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_find_their_mailboxes() {
        let text = "[server]\nhostname = \"mx.a.example\"\n[auth]\nusers = \"/u\"\n\
                    [domains]\nlocal = [\"a.example\", \"b.example\"]\nrecipient_delimiter = \"+-\"\n";
        let (config, _) = Config::parse(text, "t").unwrap();
        let (users, _) =
            Users::parse(b"ann@a.example:{PLAIN}x\nbob:{PLAIN}x\nc+d:!\nx y@a.example:{PLAIN}x\n", [0; 32]);
        let residents = Residents::new(&config, Some(Arc::new(users))).unwrap();
        let find = |address: &str| {
            residents.find(address.as_bytes()).map(|r| format!("{}/{}", r.account, r.mailbox))
        };
        for (address, found) in [
            ("ann@a.example", Some("ann@a.example/")),
            ("Ann@A.Example", Some("ann@a.example/")),
            ("\"ann\"@a.example", Some("ann@a.example/")),
            ("ann@b.example", None),
            ("ann+Lists/x@a.example", Some("ann@a.example/Lists/x")),
            ("ann-x+y@a.example", Some("ann@a.example/x+y")),
            ("bob@a.example", Some("bob/")),
            ("bob+@b.example", Some("bob/")),
            ("bob@c.example", None),
            // Locked users have mail, too.
            ("c+d@b.example", Some("c+d/")),
            ("+ann@a.example", None),
            ("bob", None),
            ("@a.example", None),
            ("", None),
        ] {
            assert_eq!(find(address).as_deref(), found, "{address}");
        }
        residents.set_users(Arc::new(Users::parse(b"eve:{PLAIN}x\n", [0; 32]).0));
        assert_eq!((find("bob@a.example"), find("eve@a.example").as_deref()), (None, Some("eve/")));
    }
}

//! From whom a login may send (RFC 6409 §6.1): the operator's map of logins and addresses.
//!
//! Look-ups do not fail and allocate nothing. Case of ASCII letters makes no difference, as in all maps.

use super::map::{Table, Targets};
use super::tables::{Router, split};

impl Router {
    /// Sets the addresses of each login; without them every login may send as anybody.
    pub fn set_senders(&mut self, senders: Option<Table<Targets>>) {
        self.senders = senders;
    }

    /// True if `login` may send as `sender`. Everybody may send without an address (notifications of
    /// mail programs), and as itself, if the login is an address. Addresses of the map count with any
    /// extension (`user+list@domain`); `@domain` is all of a domain, `*` everything.
    #[must_use]
    pub fn may_send(&self, login: &[u8], sender: &[u8]) -> bool {
        let Some(senders) = &self.senders else { return true };
        if sender.is_empty() || self.is_same_sender(login, sender) {
            return true;
        }
        let at = split(sender).0.len();
        let listed = senders.get(login).into_iter().flatten();
        listed.into_iter().any(|allowed| {
            **allowed == *b"*"
                || (allowed.first() == Some(&b'@') && allowed.eq_ignore_ascii_case(&sender[at..]))
                || self.is_same_sender(allowed, sender)
        })
    }

    fn is_same_sender(&self, allowed: &[u8], sender: &[u8]) -> bool {
        if allowed.eq_ignore_ascii_case(sender) {
            return true;
        }
        let ((name, domain), (local, host)) = (split(allowed), split(sender));
        let base = self.base(local);
        base.is_some_and(|base| base.eq_ignore_ascii_case(name)) && host.eq_ignore_ascii_case(domain)
    }
}

#[cfg(test)]
mod tests {
    use super::super::map::{Kind, parse};
    use super::super::tables::Bounds;
    use super::*;

    #[test]
    fn who_may_send_as_whom() {
        let mut r = Router::new("mx.example");
        r.set_rewriting(None, "+", Bounds::default());
        assert!(r.may_send(b"any", b"x@else.example"), "without a map");
        let map = "me info@a.example, @B.example\nboss *\nme@a.example sales@a.example\n";
        r.set_senders(Some(parse(map.as_bytes(), Kind::Virtual).table));
        for (login, sender, may) in [
            ("me", "info@a.example", true),
            ("ME", "Info@A.example", true),
            ("me", "info+list@a.example", true),
            ("me", "any@b.example", true),
            ("me", "any@xb.example", false),
            ("me", "any@sub.b.example", false),
            ("me", "other@a.example", false),
            ("me", "", true),
            ("me", "me", true),
            ("boss", "x@else.example", true),
            ("me@a.example", "me@a.example", true),
            ("me@a.example", "me+x@a.example", true),
            ("me@a.example", "sales@a.example", true),
            ("me@a.example", "info@a.example", false),
            ("you@a.example", "you@A.example", true),
            ("you@a.example", "me@a.example", false),
            ("you@a.example", "+you@a.example", false),
            ("you", "you@a.example", false),
            ("", "x@a.example", false),
        ] {
            assert_eq!(r.may_send(login.as_bytes(), sender.as_bytes()), may, "{login} as {sender}");
        }
    }
}

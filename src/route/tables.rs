//! The router: what has a route, what is local, what an address is rewritten to.
//!
//! Owns the precedence of routes. Look-ups are synchronous, in memory, and allocate nothing when
//! nothing is rewritten. A router never changes: a reload makes a new one.

use super::access::Access;
use super::destination::NextHop;
use super::map::{Table, Targets};
use super::mx;
use super::rewrite::Rules;
use super::srs::Srs;
use crate::message::domain::literal;
use std::sync::Arc;

/// Where a domain's mail goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// To this next hop.
    Relay(Arc<NextHop>),
    /// To the mail exchangers of the domain itself, or to the address that it is a literal of.
    Direct,
    /// Into mailboxes here.
    Local,
    /// Nowhere: 550 5.4.4.
    NoRoute,
}

/// Bounds of rewriting; 0 turns one off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Rewritings in a row.
    pub depth: u32,
    /// Recipients that one becomes.
    pub recipients: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { depth: 20, recipients: 1000 }
    }
}

/// The tables. Built once, then only read; share it behind an [`Arc`].
#[derive(Clone, Debug, Default)]
pub struct Router {
    pub(super) local: Table<()>,
    pub(super) relay: Table<()>,
    routes: Table<Arc<NextHop>>,
    any: Option<Arc<NextHop>>,
    smarthost: Option<Arc<NextHop>>,
    direct: bool,
    mailboxes: bool,
    pub(super) aliases: Table<Targets>,
    pub(super) rewrites: Table<Targets>,
    relay_recipients: Option<Table<Targets>>,
    pub(super) senders: Option<Table<Targets>>,
    pub(super) access: Option<Access>,
    pub(super) rewrite_recipients: Rules,
    rewrite_senders: Rules,
    pub(super) srs: Option<Arc<Srs>>,
    pub(super) postmaster: Option<Box<[u8]>>,
    pub(super) hostname: Box<[u8]>,
    pub(super) delimiters: Box<[u8]>,
    pub(super) bounds: Bounds,
}

impl Router {
    /// A router without routes on the host `hostname`.
    #[must_use]
    pub fn new(hostname: &str) -> Self {
        Router { hostname: hostname.as_bytes().into(), ..Router::default() }
    }

    /// Adds a domain whose mailboxes are here.
    pub fn add_local(&mut self, domain: &str) {
        self.local.insert(domain.as_bytes(), ());
    }

    /// Adds a domain that anyone may send to through us.
    pub fn add_relay(&mut self, domain: &str) {
        self.relay.insert(domain.as_bytes(), ());
    }

    /// Adds a route for `example.net`, `.example.net` (all below it) or `*`. `false` if there is one.
    pub fn add_route(&mut self, domain: &str, hop: NextHop) -> bool {
        if domain == "*" {
            let free = self.any.is_none();
            self.any.get_or_insert(Arc::new(hop));
            return free;
        }
        self.routes.insert(domain.as_bytes(), Arc::new(hop))
    }

    /// Sets the next hop of everything that has no route and is not local.
    pub fn set_smarthost(&mut self, hop: NextHop) {
        self.smarthost = Some(Arc::new(hop));
    }

    /// Without a smarthost mail goes to the mail exchangers of its domain.
    pub fn set_direct(&mut self) {
        self.direct = true;
    }

    /// Mail of local domains goes into mailboxes.
    pub fn set_mailboxes(&mut self) {
        self.mailboxes = true;
    }

    /// Sets the maps.
    pub fn set_maps(&mut self, aliases: Table<Targets>, rewrites: Table<Targets>) {
        self.aliases = aliases;
        self.rewrites = rewrites;
    }

    /// Sets the expressions that rewrite senders and recipients before anything else looks at them.
    pub fn set_expressions(&mut self, senders: Rules, recipients: Rules) {
        self.rewrite_senders = senders;
        self.rewrite_recipients = recipients;
    }

    /// The expressions that rewrite senders.
    #[must_use]
    pub fn sender_rules(&self) -> &Rules {
        &self.rewrite_senders
    }

    /// The expressions that rewrite recipients.
    #[must_use]
    pub fn recipient_rules(&self) -> &Rules {
        &self.rewrite_recipients
    }

    /// Sets the known recipients of relay domains; without them all are.
    pub fn set_relay_recipients(&mut self, known: Option<Table<Targets>>) {
        self.relay_recipients = known;
    }

    /// Sets who gets the mail of `postmaster`, the delimiters of extensions, and the bounds.
    pub fn set_rewriting(&mut self, postmaster: Option<&str>, delimiters: &str, bounds: Bounds) {
        self.postmaster = postmaster.map(|p| p.as_bytes().into());
        self.delimiters = delimiters.as_bytes().into();
        self.bounds = bounds;
    }

    /// Where the mail of `domain` goes. Precedence: exact route, local domain, longest suffix
    /// route, `*`, smarthost, the domain's own mail exchangers.
    #[must_use]
    pub fn plan(&self, domain: &[u8]) -> Plan {
        let hop = match self.routes.get(domain) {
            Some(hop) => Some(hop),
            None if self.is_local(domain) => return Plan::Local,
            None => self.suffix(domain).or(self.any.as_ref()).or(self.smarthost.as_ref()),
        };
        match hop {
            None if self.direct && (mx::is_domain(domain) || literal(domain).is_some()) => Plan::Direct,
            None => Plan::NoRoute,
            Some(hop) => Plan::Relay(Arc::clone(hop)),
        }
    }

    /// Which of our rules decides on `domain`; for people.
    #[must_use]
    pub fn rule(&self, domain: &[u8]) -> String {
        if self.routes.get(domain).is_some() {
            return "a route for exactly this domain".into();
        }
        if self.is_local(domain) {
            return "domains.local: its mailboxes are here".into();
        }
        if self.suffix(domain).is_some() {
            return "a route for all domains below one of its parents".into();
        }
        match (&self.any, &self.smarthost) {
            (Some(_), _) => "the route \"*\"".into(),
            (None, Some(_)) => "relay.smarthost".into(),
            (None, None) => "no route: the domain's own mail exchangers".into(),
        }
    }

    /// True if mail for `domain` can leave, or may have a mailbox to go to.
    #[must_use]
    pub fn is_routed(&self, domain: &[u8]) -> bool {
        match self.plan(domain) {
            Plan::Relay(_) | Plan::Direct => true,
            Plan::Local => self.mailboxes,
            Plan::NoRoute => false,
        }
    }

    /// True for a domain whose mailboxes are here.
    #[must_use]
    pub fn is_local(&self, domain: &[u8]) -> bool {
        self.local.get(domain).is_some()
    }

    /// True for our own host name.
    #[must_use]
    pub fn is_host(&self, domain: &[u8]) -> bool {
        self.hostname.eq_ignore_ascii_case(domain)
    }

    /// True for a domain that anyone may send to through us.
    #[must_use]
    pub fn is_relay(&self, domain: &[u8]) -> bool {
        self.relay.get(domain).is_some()
    }

    /// True if `address`, of a relay domain, is known there (or nobody has listed who is).
    #[must_use]
    pub fn is_relay_recipient(&self, address: &[u8]) -> bool {
        let Some(known) = &self.relay_recipients else { return true };
        let (local, domain) = split(address);
        let at = &address[local.len()..];
        let base = self.base(local);
        let listed_base = || {
            base.is_some_and(|base| {
                let mut key = Vec::with_capacity(base.len() + at.len());
                key.extend_from_slice(base);
                key.extend_from_slice(at);
                known.get(&key).is_some()
            })
        };
        known.get(address).is_some() || listed_base() || (!domain.is_empty() && known.get(at).is_some())
    }

    /// The local part without its extension, if it has one.
    pub(super) fn base<'a>(&self, local: &'a [u8]) -> Option<&'a [u8]> {
        // A delimiter in the first place begins no extension: there would be no user.
        let at = local.iter().skip(1).position(|b| self.delimiters.contains(b))? + 1;
        Some(&local[..at])
    }

    fn suffix(&self, domain: &[u8]) -> Option<&Arc<NextHop>> {
        if self.routes.is_empty() {
            return None;
        }
        let dots = domain.iter().enumerate().filter(|(n, b)| **b == b'.' && *n > 0);
        dots.map(|(n, _)| &domain[n..]).find_map(|tail| self.routes.get(tail))
    }
}

/// Local part and domain of an address, at its last `@`; the domain is empty if there is none.
#[must_use]
pub fn split(address: &[u8]) -> (&[u8], &[u8]) {
    match address.iter().rposition(|b| *b == b'@') {
        Some(at) => (&address[..at], &address[at + 1..]),
        None => (address, b""),
    }
}

#[cfg(test)]
mod tests {
    use super::super::destination::TlsPolicy;
    use super::super::map::{Kind, parse};
    use super::*;

    fn hop(text: &str) -> NextHop {
        NextHop::parse(text, TlsPolicy::Opportunistic).unwrap()
    }

    fn key(r: &Router, domain: &str) -> String {
        match r.plan(domain.as_bytes()) {
            Plan::Relay(hop) => hop.key.clone(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn precedence() {
        let mut r = Router::new("mx.example");
        r.add_local("home.example");
        r.add_local("deep.b.example");
        r.add_local("routed.example");
        assert_eq!((key(&r, "x.example"), key(&r, "HOME.example")), ("NoRoute".into(), "Local".into()));
        r.set_smarthost(hop("smart.example"));
        assert_eq!(
            (key(&r, "x.example"), key(&r, "home.example")),
            ("smart.example:25".into(), "Local".into())
        );
        for (domain, to) in
            [("*", "any"), ("b.example", "exact"), (".b.example", "sub"), (".c.b.example", "long")]
        {
            assert!(r.add_route(domain, hop(to)));
            assert!(!r.add_route(domain, hop("other")));
        }
        r.add_route("routed.example", hop("there"));
        r.add_route("mx.example", hop("mx:other.example"));
        for (domain, expected) in [
            ("B.Example", "exact:25"),
            ("a.b.example", "sub:25"),
            ("c.b.example", "sub:25"),
            ("x.C.b.example", "long:25"),
            ("deep.b.example", "Local"),
            ("xb.example", "any:25"),
            ("home.example", "Local"),
            ("routed.example", "there:25"),
            ("mx.example", "mx:other.example tls=opportunistic"),
            ("", "any:25"),
        ] {
            assert_eq!(key(&r, domain), expected, "{domain}");
        }
    }

    #[test]
    fn without_a_smarthost_domains_find_their_own_way() {
        let mut r = Router::new("mx.example");
        r.add_local("home.example");
        r.set_direct();
        r.add_route("lmtp.example", hop("lmtp:box.example"));
        for (domain, expected) in [
            ("Else.Example", "Direct"),
            ("[192.0.2.1]", "Direct"),
            ("[IPv6:2001:db8::1]", "Direct"),
            ("home.example", "Local"),
            ("lmtp.example", "lmtp:box.example:24"),
            ("", "NoRoute"),
            ("192.0.2.1", "NoRoute"),
            ("[x]", "NoRoute"),
        ] {
            assert_eq!(key(&r, domain), expected, "{domain}");
        }
        assert!(r.is_routed(b"else.example") && !r.is_routed(b"home.example"));
    }

    #[test]
    fn relay_recipients() {
        let mut r = Router::new("mx.example");
        assert!(r.is_relay_recipient(b"any@c.example"));
        r.set_rewriting(None, "+", Bounds::default());
        r.set_relay_recipients(Some(parse(b"a@c.example OK\n@d.example OK\n", Kind::Keys).table));
        let known: Vec<bool> =
            ["A@c.example", "a+x@c.example", "b@c.example", "b@d.example", "+a@c.example", "a"]
                .iter()
                .map(|a| r.is_relay_recipient(a.as_bytes()))
                .collect();
        assert_eq!(known, [true, true, false, true, false, false]);
    }
}

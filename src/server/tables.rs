//! The tables of one core, as its parts ask for them: who may send (for the sessions), and where
//! mail goes (for the queue). Replaced by a reload as a whole. Look-ups do not fail.

use super::access::wires::Wires;
use super::guard::Guard;
use super::residents::Residents;
use super::settings;
use crate::auth::passwd::Users;
use crate::base::time::{Mono, Wall};
use crate::config::Config;
use crate::config::raw::OverQuota;
use crate::delivery::post::Post;
use crate::mailbox::api as mailbox;
use crate::mailbox::spread;
use crate::policy::access::{self, Client, Networks, Verdict};
use crate::policy::sessions::Full;
use crate::queue::pace::Rate;
use crate::queue::routing::{Encryption, Hop, LmtpServer, Plan, Routing, Security, Site, Target};
use crate::queue::schedule::Limits;
use crate::queue::via::MX;
use crate::route::access::{Action, Question as Listed};
use crate::route::destination::{self, Host, NextHop, TlsPolicy};
use crate::route::expand::Expansion;
use crate::route::rewrite::Rewritten;
use crate::route::site;
use crate::route::srs::Returned;
use crate::route::tables::{self, Router, split};
use crate::smtp::reply::{Refusal, Reply};
use crate::smtp::serve::{Asked, Caller, Gate, Guest, Refused, Sender};
use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// The tables of one core.
pub struct Tables {
    config: Arc<Config>,
    networks: Networks,
    guard: Guard,
    router: RefCell<Arc<Router>>,
    hops: RefCell<Hops>,
    /// Whose mailboxes there are, in so many shards.
    residents: RefCell<Option<(Rc<Residents>, u16)>>,
    /// The way to them.
    post: RefCell<Option<Wires>>,
}

/// Mailboxes that are asked whether they are willing, of those that an alias stands for.
const ASKED_MAX: usize = 16;

/// Hops kept. More are forgotten and made again; the queue keeps those it has mail for.
const HOPS_MAX: usize = 10_000;

/// Hops made so far, by key; and those asked for last, which are often asked for next.
#[derive(Default)]
struct Hops {
    by_key: BTreeMap<String, Rc<Hop>>,
    last: Option<(Arc<NextHop>, Rc<Hop>)>,
    last_direct: Option<(Box<[u8]>, Rc<Hop>)>,
}

impl Tables {
    /// Tables with this first router.
    pub fn new(config: Arc<Config>, router: Arc<Router>, guard: Guard) -> Rc<Self> {
        let networks = Networks::new(config.relay.networks.iter().copied());
        Rc::new(Tables {
            config,
            networks,
            guard,
            router: RefCell::new(router),
            hops: RefCell::default(),
            residents: RefCell::default(),
            post: RefCell::default(),
        })
    }

    /// Whose mailboxes there are, in `shards` shards.
    pub fn set_residents(&self, residents: Rc<Residents>, shards: u16) {
        self.residents.replace(Some((residents, shards)));
    }

    /// The way to mailboxes.
    pub fn set_post(&self, post: Wires) {
        self.set_residents(post.residents().clone(), post.shards());
        self.post.replace(Some(post));
    }

    /// From now on these users.
    pub fn set_users(&self, users: Arc<Users>) {
        if let Some((residents, _)) = &*self.residents.borrow() {
            residents.set_users(users);
        }
    }

    /// The shard of a local address; `None`: it has no mailbox.
    fn shard(&self, address: &[u8]) -> Option<u16> {
        let residents = self.residents.borrow();
        let (residents, shards) = residents.as_ref()?;
        Some(spread::shard_of(&residents.find(address)?.account, *shards))
    }

    /// Mail for `address` can go somewhere.
    fn is_reachable(&self, address: &[u8]) -> bool {
        let plan = self.router.borrow().plan(split(address).1);
        plan != tables::Plan::Local || self.shard(address).is_some()
    }

    /// The accounts that mail for `address` goes to, if all of it stays here.
    fn accounts(&self, address: &[u8]) -> Vec<Box<str>> {
        let residents = self.residents.borrow();
        let Some((residents, _)) = residents.as_ref() else { return Vec::new() };
        let router = self.router.borrow();
        let stays = |to: &[u8]| router.plan(split(to).1) == tables::Plan::Local;
        let account = |to: &[u8]| residents.find(to).map(|r| r.account);
        match router.expand(address) {
            Expansion::Same if stays(address) => account(address).into_iter().collect(),
            Expansion::To(to) if to.iter().all(|to| stays(to)) => {
                to.iter().filter_map(|to| account(to)).take(ASKED_MAX).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What a mailbox's refusal is for the client.
    fn of_mailbox(&self, r: mailbox::Refusal) -> Refusal<'static> {
        refusal(match r {
            mailbox::Refusal::NoAccount => access::UNKNOWN_USER,
            mailbox::Refusal::OverQuota => match self.config.mailbox.over_quota {
                OverQuota::Reject => access::MAILBOX_FULL,
                OverQuota::Defer => access::MAILBOX_FULL_NOW,
            },
            mailbox::Refusal::Full => access::NO_SPACE,
            mailbox::Refusal::Busy => access::MAILBOX_BUSY,
            _ => access::MAILBOX_TROUBLE,
        })
    }

    /// A shard as a destination.
    fn mailbox(&self, shard: u16) -> Rc<Hop> {
        let mut hops = self.hops.borrow_mut();
        let key = format!("mailbox:{shard:04}");
        // One at a time takes the work for it, and hands over many messages at once.
        let limits = Limits {
            connections: 1,
            slow_start: 0,
            messages_per_connection: 0,
            put_off: 0,
            ..settings::destination(&self.config.narrowed_by(None))
        };
        let limits =
            Limits { rate: Rate::default(), recipients: Rate::default(), bytes: Rate::default(), ..limits };
        let make =
            |key: &String| self.new_hop(key, vec![Target::Mailbox(shard)], Security::default(), limits);
        hops.by_key.entry(key).or_insert_with_key(make).clone()
    }

    /// From now on this router.
    pub fn set_router(&self, router: Arc<Router>) {
        *self.router.borrow_mut() = router;
        *self.hops.borrow_mut() = Hops::default();
    }

    fn hop(&self, next: Arc<NextHop>, domain: &[u8]) -> Rc<Hop> {
        let mut hops = self.hops.borrow_mut();
        let narrowed = !self.config.destination.narrowed.is_empty();
        if let Some((last, hop)) = &hops.last
            && !narrowed
            && Arc::ptr_eq(last, &next)
        {
            return hop.clone();
        }
        let name = match next.hosts().first() {
            Some(Host::Name(name, _)) => name.clone(),
            Some(Host::Address(a)) => a.ip().to_string(),
            // Which hosts a domain's mail exchangers are is not known here.
            None => String::new(),
        };
        let domain = String::from_utf8_lossy(domain);
        let values = self.config.destination_for(&name, &domain);
        let limits = settings::destination(&values);
        // Domains with limits of their own are destinations of their own.
        let plain = self.config.destination_for(&name, "");
        let key = if values == plain { next.key.clone() } else { format!("{}{FOR}{domain}", next.key) };
        if hops.by_key.len() >= HOPS_MAX {
            hops.by_key.clear();
        }
        let hop = hops.by_key.entry(key).or_insert_with_key(|key| {
            let security = security(next.tls, next.login);
            let targets = match &next.target {
                destination::Target::Mx(domain) => {
                    vec![Target::Mx(domain.clone(), self.config.relay.mx_port)]
                }
                destination::Target::Smtp(hosts) => hosts.iter().map(target).collect(),
                destination::Target::Lmtp(host) => vec![Target::Lmtp(lmtp(host))],
                destination::Target::LmtpUnix(path) => vec![Target::Lmtp(LmtpServer::Path(path.clone()))],
            };
            self.new_hop(key, targets, security, limits)
        });
        let hop = hop.clone();
        hops.last = Some((next, hop.clone()));
        hop
    }

    /// The mail exchangers of `domain`, which may be an address literal. Each domain is a
    /// destination of its own, as if it had a route `mx:domain` with DANE.
    fn direct(&self, domain: &[u8]) -> Rc<Hop> {
        let mut hops = self.hops.borrow_mut();
        if let Some((last, hop)) = &hops.last_direct
            && last.eq_ignore_ascii_case(domain)
        {
            return hop.clone();
        }
        let name = String::from_utf8_lossy(domain).to_ascii_lowercase();
        let key = format!("mx:{name}");
        let target = Target::Mx(name.clone(), self.config.relay.mx_port);
        if hops.by_key.len() >= HOPS_MAX {
            hops.by_key.clear();
        }
        let hop = hops.by_key.entry(key).or_insert_with_key(|key| {
            let limits = settings::destination(&self.config.destination_for("", &name));
            self.new_hop(key, vec![target], security(DIRECT, false), limits)
        });
        let hop = hop.clone();
        hops.last_direct = Some((domain.into(), hop.clone()));
        hop
    }

    fn new_hop(&self, key: &str, targets: Vec<Target>, security: Security, limits: Limits) -> Rc<Hop> {
        let relay = &self.config.relay;
        let source = (relay.bind_ipv4.map(IpAddr::V4), relay.bind_ipv6.map(IpAddr::V6));
        Rc::new(Hop { key: key.into(), targets, source, security, limits })
    }
}

/// Mail that finds its way by MX records: DANE where the domain's zones are signed and have TLSA
/// records, else opportunistic.
pub const DIRECT: TlsPolicy = TlsPolicy::Dane;

fn security(tls: TlsPolicy, login: bool) -> Security {
    let encryption = match tls {
        TlsPolicy::None => Encryption::None,
        TlsPolicy::Opportunistic => Encryption::Opportunistic,
        TlsPolicy::Required => Encryption::Required,
        TlsPolicy::Dane => Encryption::Dane,
    };
    Security { encryption, login }
}

fn target(host: &Host) -> Target {
    match host {
        Host::Name(name, port) => Target::Host(name.clone(), *port),
        Host::Address(a) => Target::Address(*a),
    }
}

fn lmtp(host: &Host) -> LmtpServer {
    match host {
        Host::Name(name, port) => LmtpServer::Host(name.clone(), *port),
        Host::Address(a) => LmtpServer::Address(*a),
    }
}

fn refusal(r: access::Refusal) -> Refusal<'static> {
    Refusal::Own { code: r.code, enhanced: (r.enhanced.1, r.enhanced.2), text: r.text.as_bytes() }
}

impl Gate for Tables {
    fn admit(&self, caller: &Caller, now: Mono) -> Result<Guest, Refused> {
        let trusted = caller.may_relay && self.networks.contains(caller.address);
        let counted = (!trusted && !caller.speaks_for_others).then_some(caller.address);
        if counted.is_some_and(|address| !self.guard.may_connect(address, now)) {
            return Err(Refused::Rate);
        }
        match self.guard.sessions.enter(counted) {
            Ok(permit) => Ok(Guest { trusted, permit: Box::new(permit) }),
            Err(Full::All) => Err(Refused::Sessions),
            Err(Full::Address) => Err(Refused::Address),
            Err(Full::Network) => Err(Refused::Network),
        }
    }

    fn login(&self, login: &str) -> Result<Box<dyn Any>, Reply> {
        match self.guard.user_sessions.enter(login) {
            Some(permit) => Ok(Box::new(permit)),
            None => Err(Reply::AUTH_SESSIONS),
        }
    }

    fn sender(&self, who: Sender<'_>, address: &[u8], now: Mono) -> Result<(), Refusal<'static>> {
        if self.router.borrow().sender_rules().apply(address) == Rewritten::Bad {
            return Err(refusal(access::MAP_FAULT));
        }
        let Some(login) = who.login else { return Ok(()) };
        if !self.router.borrow().may_send(login, address) {
            return Err(refusal(access::NOT_YOUR_ADDRESS));
        }
        if self.guard.may_send(login, now) { Ok(()) } else { Err(refusal(access::TOO_MUCH_MAIL)) }
    }

    fn lists_names(&self) -> bool {
        self.router.borrow().access().is_some_and(|access| access.client.has_names())
    }

    fn listed(&self, question: Listed<'_>) -> Option<Action> {
        self.router.borrow().access()?.find(question).cloned()
    }

    fn is_expired(&self, address: &[u8], wall: &dyn Fn() -> Wall) -> bool {
        self.router.borrow().is_expired(address, || day(wall()))
    }

    fn recipient(&self, who: Sender<'_>, address: &[u8], now: Mono) -> Result<(), Refusal<'static>> {
        let trusted = who.trusted || who.login.is_some();
        let client = if trusted { Client::Trusted } else { Client::Stranger };
        let verdict = access::recipient(&self.router.borrow(), client, address);
        let lost = match &verdict {
            Verdict::Refuse(_) => false,
            Verdict::Accept => !self.is_reachable(address),
            Verdict::AcceptAs(to) => !to.iter().any(|to| self.is_reachable(to)),
        };
        match verdict {
            Verdict::Refuse(r) => Err(refusal(r)),
            _ if lost => Err(refusal(access::UNKNOWN_USER)),
            Verdict::Accept | Verdict::AcceptAs(_) => match who.login {
                Some(login) if !self.guard.may_address(login, now) => {
                    Err(refusal(access::TOO_MANY_RECIPIENTS))
                }
                _ => Ok(()),
            },
        }
    }

    fn willing<'a>(&'a self, address: &'a [u8], size: u64) -> Option<Asked<'a>> {
        let post = self.post.borrow().clone()?;
        let accounts = self.accounts(address);
        if accounts.is_empty() {
            return None;
        }
        Some(Box::pin(async move {
            let mut answer = Ok(());
            for account in &accounts {
                answer = post.willing(account, size).await;
                // Of those that an alias stands for one is enough, as with any other refusal.
                if answer.is_ok() {
                    break;
                }
            }
            answer.map_err(|r| self.of_mailbox(r))
        }))
    }
}

/// Days since the epoch.
fn day(now: Wall) -> u64 {
    now.0 / 86_400_000
}

/// In the key of a hop: for this domain, which has limits of its own.
const FOR: &str = " for ";

impl Routing for Tables {
    fn site(&self, hop: &Hop, domain: &str, name: &str, hosts: &[&str]) -> Option<Site> {
        let block = self.config.narrowing(hosts, domain);
        if hop.key.contains(FOR) || block.is_some_and(|f| f.site.is_empty()) {
            return None;
        }
        // What a pattern names is one site to whoever wrote it, with one set of limits.
        let shared = block.map_or_else(|| name.to_owned(), |f| format!("{}{}", site::PREFIX, f.site));
        let limits = settings::destination(&self.config.narrowed_by(block));
        Some(Site { shared, limits })
    }

    fn plan(&self, recipient: &[u8]) -> Plan {
        let domain = split(recipient).1;
        let plan = self.router.borrow().plan(domain);
        match plan {
            tables::Plan::Relay(next) => Plan::Relay(self.hop(next, domain)),
            tables::Plan::Direct => Plan::Relay(self.direct(domain)),
            tables::Plan::Local => match self.shard(recipient) {
                Some(shard) => Plan::Relay(self.mailbox(shard)),
                None => Plan::Local,
            },
            tables::Plan::NoRoute => Plan::NoRoute,
        }
    }

    fn via(&self, via: &str, recipient: &[u8]) -> Option<Rc<Hop>> {
        let domain = split(recipient).1;
        if via == MX {
            return (!domain.is_empty()).then(|| self.direct(domain));
        }
        let tls = if via.starts_with("mx:") { DIRECT } else { TlsPolicy::Opportunistic };
        let next = NextHop::parse(via, tls).ok()?;
        // Where routes lead, too, they say how: TLS and login.
        let mut known = self.config.routes.iter().map(|(_, hop)| hop).chain(&self.config.relay.smarthost);
        let next = known.find(|known| known.target == next.target).cloned().unwrap_or(next);
        Some(self.hop(Arc::new(next), domain))
    }

    fn expand(&self, recipient: &[u8], to: &mut dyn FnMut(&[u8])) -> bool {
        match self.router.borrow().expand(recipient) {
            Expansion::To(targets) => {
                targets.iter().for_each(|t| to(t));
                true
            }
            // The gate has refused recipients whose maps are at fault.
            Expansion::Same | Expansion::Fault(_) => false,
        }
    }

    fn forwarded(&self, sender: &[u8], to: &[u8], now: Wall) -> Option<Box<[u8]>> {
        self.router.borrow().forwarded(sender, to, day(now))
    }

    fn returned(&self, sender: &[u8]) -> Option<Box<[u8]>> {
        match self.router.borrow().returned(sender)? {
            Returned::To(original) => Some(original),
            Returned::Forged => None,
        }
    }

    fn sender(&self, sender: &[u8]) -> Option<Box<[u8]>> {
        match self.router.borrow().sender_rules().apply(sender) {
            Rewritten::To(other) => Some(other),
            // The gate has refused senders of which a rule makes no address.
            Rewritten::Same | Rewritten::Bad => None,
        }
    }
}

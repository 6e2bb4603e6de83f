//! L4: opens the connections that the schedule asks for, and says what came of them.
//!
//! Owns no message: a connection (`relay`) takes its work from the desk through `At`, one pool's end of
//! it. Where name servers say that a destination belongs to a site, it goes to the pool of that site.
//! Knows no retry rule. Hosts are tried one after another until one greets; a pool of which none does,
//! or whose connection breaks off, pauses; a connection that had worked and then died makes none pause.
//! Mail for a domain that takes none ends here.

use crate::base::aligned::AlignedBuf;
use crate::base::time::Mono;
use crate::delivery::local;
use crate::delivery::post::Post;
use crate::delivery::relay::{self, ConnectionEnd, Habits, Job, Outcome, Phase, RecipientResult, Source};
use crate::delivery::side_cursor::SideCursor;
use crate::delivery::stop::{Spot, Stop};
use crate::delivery::trust::{self, News, Trust};
use crate::events::trace::{Tap, Tracer};
use crate::queue::desk::Desk;
use crate::queue::desk::settle::Item;
use crate::queue::index::DestId;
use crate::queue::routing::{Encryption, Hop, LmtpServer, Security, Target};
use crate::queue::schedule::PoolId;
use crate::queue::state::OwnedReply;
use crate::route::dns::{Asked, Known};
use crate::route::mx::{self, Family, Fault};
use crate::route::site;
use crate::route::tls_policy::{self, Demand, Place, Terms};
use crate::route::tlsa::Record;
use crate::runtime::{Lent, Runtime, yield_now};
use crate::tls::client::{Established, Proof};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// How connections are made.
#[derive(Clone)]
pub struct Options {
    /// How they are used; messages per connection and TLS are the destination's.
    pub relay: relay::Options,
    /// How long one connection attempt may take.
    pub connect: Duration,
    /// Addresses tried at most for one connection.
    pub addresses: usize,
    /// Family tried first at mail exchangers.
    pub family: Family,
    /// TLS and logins. None: all mail goes in clear text, and none that must not.
    pub trust: Option<Rc<Trust>>,
    /// The way to mailboxes here. None: there are none.
    pub post: Option<Rc<dyn Post>>,
    /// Where operators watch connections.
    pub tracer: Tracer,
}

impl Options {
    /// The usual values, with the name for EHLO.
    #[must_use]
    pub fn new(helo: &str) -> Self {
        let relay = relay::Options::new(helo);
        let family = Family::Any;
        let (connect, tracer) = (Duration::from_secs(30), Tracer::default());
        Options { relay, connect, addresses: 5, family, trust: None, post: None, tracer }
    }
}

/// Addresses of a host, or why there are none.
pub type Resolved = io::Result<Vec<IpAddr>>;

/// Finds hosts. Bounded in time by the implementation.
pub trait Resolve {
    /// The addresses of a host, in order of preference.
    fn resolve<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = Resolved> + 'a>>;

    /// Where the mail of a domain goes.
    fn exchangers<'a>(&'a self, domain: &'a str) -> Pin<Box<dyn Future<Output = Known> + 'a>>;

    /// The same of a host that a route names, with what DNSSEC says of it.
    fn host<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = Known> + 'a>>;

    /// TLSA records of a TCP port.
    fn tlsa<'a>(&'a self, name: &'a str, port: u16) -> Asked<'a, Record>;
}

/// Starts the task that opens connections for `desk` until it is stopped.
pub fn start<R: Runtime>(desk: &Desk<R>, resolver: Rc<dyn Resolve>, options: Options) {
    let rt = desk.runtime().clone();
    let desk = desk.clone();
    let shared = Rc::new(Shared { resolver, options, habits: RefCell::default(), dead: RefCell::default() });
    rt.spawn(async move {
        while let Some(p) = desk.opening().await {
            desk.runtime().spawn(connection(desk.clone(), p, shared.clone()));
        }
    });
}

/// How long an address that did not answer comes last, and how many are remembered.
const DEAD: Duration = Duration::from_secs(120);
const DEAD_MAX: usize = 1000;

/// What the connections share.
struct Shared {
    resolver: Rc<dyn Resolve>,
    options: Options,
    /// One for each pool, of which there are as many as routes and sites in use. A new pool in the place
    /// of one that was forgotten begins with what was learnt of that: it learns anew.
    habits: RefCell<BTreeMap<PoolId, Rc<Habits>>>,
    /// Addresses that did not answer, and until when they come last: a dead first host is not waited
    /// for again by each connection.
    dead: RefCell<BTreeMap<SocketAddr, Mono>>,
}

/// One connection from its opening to its end.
async fn connection<R: Runtime>(desk: Desk<R>, p: PoolId, shared: Rc<Shared>) {
    // Gives the place back even if something panics.
    let open = Open { desk: desk.clone(), p };
    let Some((d, hop)) = desk.hop(p) else { return };
    if let (Some(Target::Mailbox(_)), Some(post)) = (hop.targets.first(), &shared.options.post) {
        return local::run(&desk, p, post).await;
    }
    let at = At {
        desk: desk.clone(),
        p,
        server: RefCell::default(),
        side: SideCursor::default(),
        trust: shared.options.trust.clone(),
        whom: RefCell::default(),
    };
    let mut lost = OwnedReply::ours([4, 4, 1], format!("{} has no address", hop.key).as_bytes());
    let mut left = shared.options.addresses;
    'all: for target in &hop.targets {
        let stops = match shared.stops(&desk, (p, d), &hop, target, left).await {
            Ok(stops) => stops,
            // Its mail goes out over connections of another pool.
            Err(Nowhere::Elsewhere) => return,
            Err(Nowhere::Never(fault)) => return refuse(&at, &fault).await,
            Err(Nowhere::NotNow(reason)) => {
                desk.metrics().out_connections_failed.increment(1);
                lost = reason;
                continue;
            }
        };
        for stop in stops {
            if left == 0 {
                break 'all;
            }
            left -= 1;
            match shared.attempt(&at, &hop, &stop).await {
                Ok(()) => return,
                Err(reason) => lost = reason,
            }
        }
    }
    desk.unreachable(p, lost);
    drop(open);
}

/// Why there is no place to connect to.
enum Nowhere {
    /// It is another pool's affair.
    Elsewhere,
    /// There never will be.
    Never(Fault),
    /// It could not be found out.
    NotNow(OwnedReply),
}

impl Shared {
    /// Where `target` of destination `d` is, in order of preference, about `most` places.
    async fn stops<R: Runtime>(
        &self,
        desk: &Desk<R>,
        (p, d): (PoolId, DestId),
        hop: &Hop,
        target: &Target,
        most: usize,
    ) -> Result<Vec<Stop>, Nowhere> {
        let rt = desk.runtime();
        match target {
            Target::Address(address) => Ok(vec![Stop::at(*address)]),
            Target::Host(name, port) => self.hosts(rt, hop, (name, *port), most).await,
            Target::Lmtp(LmtpServer::Path(path)) => Ok(vec![Stop::path(path)]),
            Target::Lmtp(LmtpServer::Address(address)) => Ok(vec![Stop { lmtp: true, ..Stop::at(*address) }]),
            Target::Lmtp(LmtpServer::Host(name, port)) => {
                let stops = self.hosts(rt, hop, (name, *port), most).await?;
                Ok(stops.into_iter().map(|stop| Stop { lmtp: true, ..stop }).collect())
            }
            Target::Mailbox(_) => {
                let text = "there are no mailboxes here";
                Err(Nowhere::NotNow(OwnedReply::ours([4, 3, 0], text.as_bytes())))
            }
            Target::Mx(domain, port) => match self.resolver.exchangers(domain).await {
                Ok(plan) if !is_here(desk, (p, d), hop.security, domain, &plan) => Err(Nowhere::Elsewhere),
                Ok(plan) => Ok(self.places(rt, &plan, domain, *port, most)),
                Err(_) if !desk.lost(p, d) => Err(Nowhere::Elsewhere),
                Err(fault) if fault.is_permanent() => Err(Nowhere::Never(fault)),
                Err(fault) => {
                    let text = fault.to_string();
                    Err(Nowhere::NotNow(OwnedReply::ours(fault.status(), text.as_bytes())))
                }
            },
        }
    }

    /// The places of a host that a route names.
    async fn hosts<R: Runtime>(
        &self,
        rt: &R,
        hop: &Hop,
        (name, port): (&str, u16),
        most: usize,
    ) -> Result<Vec<Stop>, Nowhere> {
        // RFC 3463 §3.5: no answer from host. What is wrong with a route is put right, and its mail waits
        // for that.
        let not_now = |what: &dyn fmt::Display| {
            let text = format!("cannot connect to {name}:{port}: {what}");
            Nowhere::NotNow(OwnedReply::ours([4, 4, 1], text.as_bytes()))
        };
        if hop.security.encryption == Encryption::Dane {
            return match self.resolver.host(name).await {
                Ok(plan) => Ok(self.places(rt, &plan, name, port, most)),
                Err(fault) => Err(not_now(&of_host(&fault))),
            };
        }
        match self.resolver.resolve(name).await {
            Ok(list) => Ok(list.into_iter().map(|ip| Stop::host(name, SocketAddr::new(ip, port))).collect()),
            Err(e) => Err(not_now(&e)),
        }
    }

    /// The places of a plan for the mail of `domain`.
    fn places<R: Runtime>(
        &self,
        rt: &R,
        plan: &Rc<mx::Plan>,
        domain: &str,
        port: u16,
        most: usize,
    ) -> Vec<Stop> {
        let now = rt.now();
        let is_dead = |a| self.dead.borrow().get(&a).is_some_and(|until| *until > now);
        let stops = plan.stops(port, self.options.family, most, rt.random(), is_dead);
        let named = |s: mx::Stop| Stop {
            name: Some(plan.hosts[s.host].name.clone()),
            server: plan.hosts[s.host].name.as_ref().into(),
            spot: Spot::Address(s.address),
            found: Some((plan.clone(), s.host, domain.into())),
            lmtp: false,
        };
        stops.into_iter().map(named).collect()
    }

    /// What a connection to `stop` must be.
    async fn terms(&self, hop: &Hop, stop: &Stop) -> Result<Terms, OwnedReply> {
        let policy = trust::policy(hop);
        let Some(address) = stop.address() else {
            // Nobody else hears what goes over a socket in the file system.
            return Ok(Terms { demand: Demand::Clear, sni: None, names: Vec::new() });
        };
        let Some((plan, host, domain)) = &stop.found else {
            return Ok(tls_policy::fixed(policy, stop.name.as_deref(), address));
        };
        let place = Place { domain, security: plan.security, host: &plan.hosts[*host] };
        let terms = trust::terms(&*self.resolver, policy, &place, address.port()).await;
        // RFC 3463 §3.5: directory server failure.
        terms.map_err(|doubt| OwnedReply::ours([4, 4, 3], doubt.0.as_bytes()))
    }

    /// Connects and sends what there is. `Err`: nothing was sent, the next place may be better.
    async fn attempt<R: Runtime>(&self, at: &At<R>, hop: &Hop, stop: &Stop) -> Result<(), OwnedReply> {
        let (desk, p) = (&at.desk, at.p);
        let (rt, m) = (desk.runtime(), desk.metrics());
        let terms = self.terms(hop, stop).await?;
        let mut end = self.speak(at, hop, stop, &terms).await?;
        if let ConnectionEnd::HandshakeFailed { text } = &end {
            m.out_tls_failed.increment(1);
            if let Some(trust) = &self.options.trust
                && terms.demand == Demand::Opportunistic
                && let Some(address) = stop.address()
            {
                // A host whose TLS is out of order would get no mail at all: once more in clear text,
                // as it would go if TLS were not offered.
                let told = format!("{}: {text}", stop.whom(hop));
                trust.tell(&News::InClear(&told));
                trust.failed(address, rt.now());
                end = self.speak(at, hop, stop, &terms).await?;
            }
        }
        if matches!(end, ConnectionEnd::TlsNotOffered | ConnectionEnd::TlsRefused { .. }) {
            m.out_tls_missing.increment(1);
        }
        if is_turned_away(&end) || is_of_terms(&end) {
            if !is_of_terms(&end) {
                self.died(stop, rt.now());
            }
            let whom =
                stop.found.as_ref().and(stop.name.as_ref()).map_or(String::new(), |n| format!("{n}: "));
            return Err(OwnedReply::ours(end.status(), format!("{whom}{end}").as_bytes()));
        }
        if let Some(address) = stop.address() {
            self.dead.borrow_mut().remove(&address);
        }
        judge(desk, p, &end);
        Ok(())
    }

    /// One connection. `Err`: there was none.
    async fn speak<R: Runtime>(
        &self,
        at: &At<R>,
        hop: &Hop,
        stop: &Stop,
        terms: &Terms,
    ) -> Result<ConnectionEnd, OwnedReply> {
        let (rt, m) = (at.desk.runtime(), at.desk.metrics());
        let deadline = rt.now().after(self.options.connect);
        let stream = match stop.connect(rt, hop, deadline).await {
            Ok(stream) => stream,
            Err(e) => {
                m.out_connections_failed.increment(1);
                self.died(stop, rt.now());
                // RFC 3463 §3.5: no answer from host.
                let text = format!("cannot connect to {}: {e}", stop.whom(hop));
                return Err(OwnedReply::ours([4, 4, 1], text.as_bytes()));
            }
        };
        *at.server.borrow_mut() = Some(stop.server.clone());
        m.out_connections.increment(1);
        m.out_open.increment(1.0);
        let options = self.relay_options(at, hop, stop, terms);
        let habits = self.habits.borrow_mut().entry(at.p).or_default().clone();
        let end = match options {
            Some(options) => relay::run(rt, stream, at, &options, &habits).await,
            None => ConnectionEnd::TlsNotOffered,
        };
        m.out_open.decrement(1.0);
        Ok(end)
    }

    /// How the connection is used; `None`: it cannot be what it must be.
    fn relay_options<R: Runtime>(
        &self,
        at: &At<R>,
        hop: &Hop,
        stop: &Stop,
        terms: &Terms,
    ) -> Option<relay::Options> {
        let rt = at.desk.runtime();
        let mut options = self.options.relay.clone();
        let limits = at.desk.limits(at.p);
        options.client.transactions_max = match limits.messages_per_connection {
            0 => u32::MAX,
            n => n,
        };
        options.idle = limits.idle;
        let address = stop.address().map(|a| a.ip().to_canonical());
        let (tracer, name) = (self.options.tracer.clone(), stop.server.clone());
        options.tap = Some(Tap { tracer, address, name });
        options.client.lmtp = stop.lmtp;
        let Some(trust) = &self.options.trust else {
            return (!terms.demand.is_strict() && !hop.security.login).then_some(options);
        };
        at.whom.replace(format!("{} at {}", hop.key, stop.whom(hop)));
        options.client.login = trust.login(hop, rt);
        let Some(address) = stop.address() else { return Some(options) };
        if trust.is_broken(terms, address, rt.now()) {
            at.desk.metrics().out_tls_in_clear.increment(1);
        } else if terms.demand != Demand::Clear {
            let (rules, address) = (trust.rules.clone(), address.ip());
            options.tls = Some(Rc::new(relay::Tls { rules, terms: terms.clone(), address }));
        }
        Some(options)
    }

    /// `stop` did not answer, or not well.
    fn died(&self, stop: &Stop, now: Mono) {
        let Some(address) = stop.address() else { return };
        let mut dead = self.dead.borrow_mut();
        if dead.len() >= DEAD_MAX {
            dead.retain(|_, until| *until > now);
        }
        if dead.len() < DEAD_MAX {
            dead.insert(address, now.after(DEAD));
        }
    }
}

/// What is wrong with a host that a route names.
fn of_host(fault: &Fault) -> String {
    match fault {
        Fault::Temporary(what) => what.to_string(),
        _ => "no such host, or no address".into(),
    }
}

/// The end is a matter of what was demanded of the connection: the host may do for other mail.
fn is_of_terms(end: &ConnectionEnd) -> bool {
    matches!(
        end,
        ConnectionEnd::TlsNotOffered
            | ConnectionEnd::TlsRefused { .. }
            | ConnectionEnd::HandshakeFailed { .. }
            | ConnectionEnd::LoginFailed { .. }
    )
}

/// RFC 5321 §5.1: a host that does not greet us is left for the next one; nothing has been sent.
fn is_turned_away(end: &ConnectionEnd) -> bool {
    let early = |phase: &Phase| matches!(phase, Phase::Banner | Phase::Hello);
    match end {
        ConnectionEnd::GreetingRefused { .. } => true,
        ConnectionEnd::ServerClosed { reused: false, phase, .. }
        | ConnectionEnd::NetworkError { reused: false, phase, .. }
        | ConnectionEnd::Deadline { reused: false, phase }
        | ConnectionEnd::ProtocolError { phase, .. } => early(phase),
        _ => false,
    }
}

/// How long mail of a domain goes to its site without another look at what name servers say.
const SITE_MIN: Duration = Duration::from_secs(60);
const SITE_MAX: Duration = Duration::from_secs(3600);

/// Whether mail of `d`, to `domain`, with this plan, goes out over connections of `p`.
fn is_here<R: Runtime>(
    desk: &Desk<R>,
    (p, d): (PoolId, DestId),
    security: Security,
    domain: &str,
    plan: &mx::Plan,
) -> bool {
    let hosts: Vec<&str> = plan.hosts.iter().map(|h| &*h.name).collect();
    let name = pool_name(&site::name(plan), security, domain, plan.security);
    let until = desk.runtime().now().after(plan.ttl.clamp(SITE_MIN, SITE_MAX));
    desk.found((p, d), domain, (&name, &hosts), until)
}

/// Connections are shared by those whose mail exchangers are the same and of which the same is demanded.
/// What TLSA records demand depends on the domain, too (RFC 7672 §2.2.1, §3.2.2): if they may count, it
/// shares with nobody.
fn pool_name(site: &str, security: Security, domain: &str, known: mx::Security) -> String {
    let encryption = match (security.encryption, known) {
        (Encryption::None, _) => " in clear",
        // Without signatures there are no TLSA records to obey.
        (Encryption::Opportunistic, _) | (Encryption::Dane, mx::Security::Insecure) => "",
        (Encryption::Required, _) => " verified",
        (Encryption::Dane, mx::Security::Secure) => " DANE",
    };
    let login = if security.login { " with login" } else { "" };
    // A certificate is compared with the domain as well (RFC 7672 §3.2.2; RFC 9525 for `required`).
    let own = match (security.encryption, known) {
        (Encryption::Required, _) | (Encryption::Dane, mx::Security::Secure) => format!(" for {domain}"),
        _ => String::new(),
    };
    format!("{site}{encryption}{login}{own}")
}

fn judge<R: Runtime>(desk: &Desk<R>, p: PoolId, end: &ConnectionEnd) {
    if end.is_orderly() {
        desk.reachable(p);
    } else if !end.is_stale() {
        let text = end.to_string();
        desk.unreachable(p, OwnedReply::ours(end.status(), text.as_bytes()));
    }
}

/// Messages refused in one go, before others have a turn; and how long it is waited for more.
const REFUSED_AT_ONCE: usize = 100;
const MORE: Duration = Duration::from_millis(50);

/// Mail for this destination can never be sent: all that is due ends.
async fn refuse<R: Runtime>(at: &At<R>, fault: &Fault) {
    let (text, status) = (fault.to_string(), fault.status());
    loop {
        let mut count = 0;
        while let Some(item) = at.next() {
            let indices = at.describe(&item).recipients.to_vec();
            let failed = |index| RecipientResult {
                index,
                outcome: Outcome::Failed,
                code: 0,
                enhanced: Some(status),
                text: text.as_bytes(),
                phase: Phase::Local,
                conn_use: 0,
                dsn_passed_on: false,
            };
            let results: Vec<_> = indices.into_iter().map(failed).collect();
            at.settle(item, &results);
            count += 1;
            if count % REFUSED_AT_ONCE == 0 {
                yield_now().await;
            }
        }
        // What is being read back, or must wait for the disk.
        if !at.wait(at.desk.runtime().now().after(MORE)).await {
            return;
        }
    }
}

/// A place among the open connections.
struct Open<R: Runtime> {
    desk: Desk<R>,
    p: PoolId,
}

impl<R: Runtime> Drop for Open<R> {
    fn drop(&mut self) {
        self.desk.closed(self.p);
    }
}

/// One pool's end of the desk.
struct At<R: Runtime> {
    desk: Desk<R>,
    p: PoolId,
    /// What reports call the server (RFC 3464 §2.3.5).
    server: RefCell<Option<Rc<str>>>,
    side: SideCursor<R>,
    trust: Option<Rc<Trust>>,
    /// The destination and the host of the connection, for people.
    whom: RefCell<String>,
}

impl<R: Runtime> Source for At<R> {
    type Item = Item<R>;

    fn next(&self) -> Option<Item<R>> {
        let mut item = self.desk.next(self.p)?;
        item.server = self.server.borrow().clone();
        Some(item)
    }

    fn pass_on(&self) {
        self.desk.pass_on(self.p);
    }

    fn wait(&self, until: Mono) -> impl Future<Output = bool> {
        self.desk.wait(self.p, until)
    }

    fn describe<'a>(&self, item: &'a Item<R>) -> Job<'a> {
        Job {
            id: item.id,
            envelope: item.envelope(),
            recipients: &item.recipients,
            flags: item.flags,
            payload: &item.payload,
            body: item.content.clone(),
            side: item.side_len(),
        }
    }

    fn read_side(
        &self,
        item: &Item<R>,
        offset: u64,
        buf: AlignedBuf,
    ) -> impl Future<Output = Lent<(), AlignedBuf>> {
        self.side.read(&self.desk, item, offset, buf)
    }

    fn may_leave(&self, item: &Item<R>) -> bool {
        item.covered
    }

    fn before_final_dot(&self, item: &Item<R>) -> impl Future<Output = bool> {
        self.desk.announce(item)
    }

    fn secured(&self, established: &Established) {
        let m = self.desk.metrics();
        match established.proof {
            Proof::None => m.out_tls_any.increment(1),
            Proof::Authority => m.out_tls_authority.increment(1),
            Proof::Dane => m.out_tls_dane.increment(1),
        }
        if let Some(trust) = &self.trust {
            trust.tell(&News::Secured(&format!("{}: {established}", self.whom.borrow())));
        }
    }

    fn settle(&self, item: Item<R>, results: &[RecipientResult<'_>]) {
        if results.first().is_some_and(|r| r.conn_use > 1) {
            self.desk.metrics().out_reused.increment(1);
        }
        self.desk.settle(item, results);
    }

    fn give_back(&self, item: Item<R>) {
        self.desk.give_back(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_shared_only_under_the_same_demands() {
        use mx::Security::{Insecure, Secure};
        let demands = |encryption, login| Security { encryption, login };
        let name = |encryption, domain, known| pool_name("site:x", demands(encryption, false), domain, known);
        // Where no TLSA record counts, DANE is opportunistic, whatever the domain.
        let plain = name(Encryption::Opportunistic, "a", Insecure);
        assert_eq!(plain, "site:x");
        for other in [
            name(Encryption::Opportunistic, "b", Insecure),
            name(Encryption::Opportunistic, "b", Secure),
            name(Encryption::Dane, "b", Insecure),
        ] {
            assert_eq!(other, plain);
        }
        // All others have connections of their own.
        let mut names = vec![
            plain,
            name(Encryption::None, "a", Insecure),
            name(Encryption::Required, "a", Insecure),
            name(Encryption::Required, "b", Insecure),
            name(Encryption::Dane, "a", Secure),
            name(Encryption::Dane, "b", Secure),
            pool_name("site:x", demands(Encryption::Opportunistic, true), "a", Insecure),
        ];
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "{names:?}");
    }
}

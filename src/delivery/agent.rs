//! L4: opens the connections that the schedule asks for, and says what came of them.
//!
//! Owns no message: a connection (`relay`) takes its work from the desk through `At`, one
//! destination's end of it. Knows no retry rule. Hosts are tried one after another until one greets;
//! a destination of which none does, or whose connection breaks off, pauses; a connection that had
//! worked and then died makes none pause. Mail for a domain that takes none ends here.

use crate::base::aligned::AlignedBuf;
use crate::base::time::Mono;
use crate::delivery::relay::{self, ConnectionEnd, Habits, Job, Outcome, Phase, RecipientResult, Source};
use crate::delivery::side_cursor::SideCursor;
use crate::queue::desk::Desk;
use crate::queue::desk::settle::Item;
use crate::queue::index::DestId;
use crate::queue::routing::{Hop, Target};
use crate::queue::state::OwnedReply;
use crate::route::dns::Known;
use crate::route::mx::{self, Family, Fault};
use crate::runtime::{Lent, Runtime, yield_now};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// How connections are made.
#[derive(Clone, Debug)]
pub struct Options {
    /// How they are used; messages per connection and TLS are the destination's.
    pub relay: relay::Options,
    /// How long one connection attempt may take.
    pub connect: Duration,
    /// Addresses tried at most for one connection.
    pub addresses: usize,
    /// Family tried first at mail exchangers.
    pub family: Family,
}

impl Options {
    /// The usual values, with the name for EHLO.
    #[must_use]
    pub fn new(helo: &str) -> Self {
        let relay = relay::Options::new(helo);
        Options { relay, connect: Duration::from_secs(30), addresses: 5, family: Family::Any }
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
}

/// Starts the task that opens connections for `desk` until it is stopped.
pub fn start<R: Runtime>(desk: &Desk<R>, resolver: Rc<dyn Resolve>, options: Options) {
    let rt = desk.runtime().clone();
    let desk = desk.clone();
    let shared = Rc::new(Shared { resolver, options, habits: RefCell::default(), dead: RefCell::default() });
    rt.spawn(async move {
        while let Some(d) = desk.opening().await {
            desk.runtime().spawn(connection(desk.clone(), d, shared.clone()));
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
    /// One for each destination, of which there are as many as routes and domains in use.
    habits: RefCell<BTreeMap<DestId, Rc<Habits>>>,
    /// Addresses that did not answer, and until when they come last: a dead first host is not waited
    /// for again by each connection.
    dead: RefCell<BTreeMap<SocketAddr, Mono>>,
}

/// One connection from its opening to its end.
async fn connection<R: Runtime>(desk: Desk<R>, d: DestId, shared: Rc<Shared>) {
    // Gives the place back even if something panics.
    let open = Open { desk: desk.clone(), d };
    let hop = desk.hop(d);
    let at = At { desk: desk.clone(), d, server: RefCell::default(), side: SideCursor::default() };
    if hop.tls_required {
        // Known beforehand: no connection is opened for it.
        relay::refuse_without_tls(&at);
        return;
    }
    let mut lost = OwnedReply::ours([4, 4, 1], format!("{} has no address", hop.key).as_bytes());
    let mut left = shared.options.addresses;
    'all: for target in &hop.targets {
        let stops = match shared.stops(desk.runtime(), target, left).await {
            Ok(stops) => stops,
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
    desk.unreachable(d, lost);
    drop(open);
}

/// A place to connect to.
struct Stop {
    /// For people: the host if it was looked up.
    name: Option<Box<str>>,
    /// What reports call it: its host name, or an address literal.
    server: Rc<str>,
    address: SocketAddr,
}

/// Why there is no place to connect to.
enum Nowhere {
    /// There never will be.
    Never(Fault),
    /// It could not be found out.
    NotNow(OwnedReply),
}

impl Shared {
    /// Where `target` is, in order of preference, about `most` places.
    async fn stops<R: Runtime>(&self, rt: &R, target: &Target, most: usize) -> Result<Vec<Stop>, Nowhere> {
        match target {
            Target::Address(address) => {
                let server = format!("[{}]", address.ip()).into();
                Ok(vec![Stop { name: None, server, address: *address }])
            }
            Target::Host(name, port) => match self.resolver.resolve(name).await {
                Ok(list) => {
                    let server: Rc<str> = name.as_str().into();
                    let address = |ip| SocketAddr::new(ip, *port);
                    let at = |ip| Stop { name: None, server: server.clone(), address: address(ip) };
                    Ok(list.into_iter().map(at).collect())
                }
                Err(e) => {
                    // RFC 3463 §3.5: no answer from host.
                    let text = format!("cannot connect to {name}:{port}: {e}");
                    Err(Nowhere::NotNow(OwnedReply::ours([4, 4, 1], text.as_bytes())))
                }
            },
            Target::Mx(domain, port) => match self.resolver.exchangers(domain).await {
                Ok(plan) => {
                    let now = rt.now();
                    let is_dead = |a| self.dead.borrow().get(&a).is_some_and(|until| *until > now);
                    let stops = plan.stops(*port, self.options.family, most, rt.random(), is_dead);
                    let named = |s: mx::Stop| Stop {
                        name: Some(plan.hosts[s.host].name.clone()),
                        server: plan.hosts[s.host].name.as_ref().into(),
                        address: s.address,
                    };
                    Ok(stops.into_iter().map(named).collect())
                }
                Err(fault) if fault.is_permanent() => Err(Nowhere::Never(fault)),
                Err(fault) => {
                    let text = fault.to_string();
                    Err(Nowhere::NotNow(OwnedReply::ours(fault.status(), text.as_bytes())))
                }
            },
        }
    }

    /// Connects and sends what there is. `Err`: nothing was sent, the next place may be better.
    async fn attempt<R: Runtime>(&self, at: &At<R>, hop: &Hop, stop: &Stop) -> Result<(), OwnedReply> {
        let (desk, d) = (&at.desk, at.d);
        let (rt, m) = (desk.runtime(), desk.metrics());
        let source = if stop.address.is_ipv4() { hop.source.0 } else { hop.source.1 };
        let deadline = rt.now().after(self.options.connect);
        let stream = match rt.connect(stop.address, source, deadline).await {
            Ok(stream) => stream,
            Err(e) => {
                m.out_connections_failed.increment(1);
                self.died(stop.address, rt.now());
                let whom = match &stop.name {
                    Some(name) => format!("{name} ({})", stop.address),
                    None => hop.key.clone(),
                };
                // RFC 3463 §3.5: no answer from host.
                let text = format!("cannot connect to {whom}: {e}");
                return Err(OwnedReply::ours([4, 4, 1], text.as_bytes()));
            }
        };
        *at.server.borrow_mut() = Some(stop.server.clone());
        m.out_connections.increment(1);
        m.out_open.increment(1.0);
        let mut options = self.options.relay.clone();
        if hop.limits.messages_per_connection > 0 {
            options.client.transactions_max = hop.limits.messages_per_connection;
        }
        let habits = self.habits.borrow_mut().entry(d).or_default().clone();
        let end = relay::run(rt, stream, at, &options, &habits).await;
        m.out_open.decrement(1.0);
        if is_turned_away(&end) {
            self.died(stop.address, rt.now());
            let whom = stop.name.as_ref().map_or(String::new(), |name| format!("{name}: "));
            // RFC 3463 §3.5: bad connection.
            return Err(OwnedReply::ours([4, 4, 2], format!("{whom}{end}").as_bytes()));
        }
        self.dead.borrow_mut().remove(&stop.address);
        judge(desk, d, &end);
        Ok(())
    }

    /// `address` did not answer, or not well.
    fn died(&self, address: SocketAddr, now: Mono) {
        let mut dead = self.dead.borrow_mut();
        if dead.len() >= DEAD_MAX {
            dead.retain(|_, until| *until > now);
        }
        if dead.len() < DEAD_MAX {
            dead.insert(address, now.after(DEAD));
        }
    }
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

fn judge<R: Runtime>(desk: &Desk<R>, d: DestId, end: &ConnectionEnd) {
    if end.is_orderly() {
        desk.reachable(d);
    } else if !end.is_stale() && *end != ConnectionEnd::TlsUnavailable {
        let text = end.to_string();
        // RFC 3463 §3.5: bad connection.
        desk.unreachable(d, OwnedReply::ours([4, 4, 2], text.as_bytes()));
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
    d: DestId,
}

impl<R: Runtime> Drop for Open<R> {
    fn drop(&mut self) {
        self.desk.closed(self.d);
    }
}

/// One destination's end of the desk.
struct At<R: Runtime> {
    desk: Desk<R>,
    d: DestId,
    /// What reports call the server (RFC 3464 §2.3.5).
    server: RefCell<Option<Rc<str>>>,
    side: SideCursor<R>,
}

impl<R: Runtime> Source for At<R> {
    type Item = Item<R>;

    fn next(&self) -> Option<Item<R>> {
        let mut item = self.desk.next(self.d)?;
        item.server = self.server.borrow().clone();
        Some(item)
    }

    fn pass_on(&self) {
        self.desk.pass_on(self.d);
    }

    fn wait(&self, until: Mono) -> impl Future<Output = bool> {
        self.desk.wait(self.d, until)
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

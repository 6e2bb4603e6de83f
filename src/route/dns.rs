//! L4: asks name servers where the mail of a domain goes, and keeps the answers of one core.
//!
//! Owns the plans of domains for as long as DNS says (within bounds), also that there is none. One
//! look-up of a domain is in flight at a time, others wait for it; all look-ups together are bounded,
//! and each in time. The name servers are behind [`Lookup`]; what answers mean is `mx`'s. A failure
//! is a [`Fault`], kept for a few seconds.

pub mod wire;

use crate::base::time::Mono;
use crate::message::domain::literal;
use crate::metrics;
use crate::route::mx::{self, Addresses, Answer, Fault, Mx, Plan, Why};
use crate::route::tlsa::Record;
use crate::runtime::Runtime;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

/// A question that has been put.
pub type Asked<'a, T> = Pin<Box<dyn Future<Output = Answer<T>> + 'a>>;

/// Name servers. Names have no dot at the end. Follows CNAMEs, a bounded number of them.
pub trait Lookup {
    /// MX records.
    fn mx<'a>(&'a self, name: &'a str) -> Asked<'a, Mx>;
    /// A records.
    fn ipv4<'a>(&'a self, name: &'a str) -> Asked<'a, IpAddr>;
    /// AAAA records.
    fn ipv6<'a>(&'a self, name: &'a str) -> Asked<'a, IpAddr>;
    /// TLSA records of TCP port `port` at this name.
    fn tlsa<'a>(&'a self, name: &'a str, port: u16) -> Asked<'a, Record>;
    /// TXT records, each with its strings joined.
    fn txt<'a>(&'a self, name: &'a str) -> Asked<'a, Box<[u8]>>;
    /// The names of an address (PTR), as they are published.
    fn names<'a>(&'a self, address: IpAddr) -> Asked<'a, Box<str>>;
}

/// What is known of a domain.
pub type Known = Result<Rc<Plan>, Fault>;

/// Bounds.
#[derive(Clone, Debug)]
pub struct Options {
    /// Plans kept at most.
    pub plans: usize,
    /// Domains looked up at a time.
    pub at_a_time: usize,
    /// How long one look-up of a domain may take, the wait for its turn included.
    pub deadline: Duration,
    /// A plan is kept no shorter and no longer than this, whatever DNS says.
    pub keep: (Duration, Duration),
    /// The same for "there is none".
    pub keep_none: (Duration, Duration),
    /// How long a failure is kept.
    pub keep_failure: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            plans: 10_000,
            at_a_time: 256,
            deadline: Duration::from_secs(30),
            keep: (Duration::from_secs(5), Duration::from_secs(3600)),
            keep_none: (Duration::from_secs(5), Duration::from_secs(900)),
            // RFC 2308 §7.1: no more than five minutes.
            keep_failure: Duration::from_secs(10),
        }
    }
}

/// The plan of `domain` and how long it, or the reason that there is none, may be kept.
pub async fn plan(
    lookup: &dyn Lookup,
    domain: &str,
    is_ours: &dyn Fn(IpAddr) -> bool,
    random: u64,
) -> (Result<Plan, Fault>, Duration) {
    // RFC 5321 §5.1: an address literal is not looked up.
    if let Some(ip) = literal(domain.as_bytes()) {
        return (mx::literal(ip, is_ours), Duration::MAX);
    }
    let answer = lookup.mx(domain).await;
    let mut ttl = ttl_of(&answer);
    let candidates = match mx::candidates(domain, &answer, random) {
        Ok(candidates) => candidates,
        Err(fault) => return (Err(fault), ttl),
    };
    let asked = candidates.hosts.iter().map(|mx| addresses(lookup, &mx.host));
    let found = all(asked.collect()).await;
    for a in &found {
        ttl = ttl.min(ttl_of(&a.ipv4)).min(ttl_of(&a.ipv6));
    }
    (mx::assemble(&candidates, &found, is_ours), ttl)
}

/// A host that is not found by MX, as a plan: where it is, and how secure that is.
///
/// # Errors
/// It has no address, or nobody could say.
pub async fn host(lookup: &dyn Lookup, host: &str) -> Result<Plan, Fault> {
    named(host, addresses(lookup, host).await)
}

fn named(host: &str, found: Addresses) -> Result<Plan, Fault> {
    // RFC 7672 §2.2.1: nobody has to say securely what the operator has written.
    let (origin, security) = (mx::Origin::Domain, mx::Security::Secure);
    let hosts = vec![mx::Mx { preference: 0, host: host.into() }];
    let candidates = mx::Candidates { origin, security, hosts, ttl: Duration::MAX };
    mx::assemble(&candidates, &[found], &|_| false)
}

/// Names of an address that are looked at (RFC 7208 §5.5).
const NAMES_MAX: usize = 10;

/// The names of an address that lead back to it, and how long that may be kept.
///
/// # Errors
/// None is known to lead back, and of one nobody could say.
pub async fn confirmed(
    lookup: &dyn Lookup,
    address: IpAddr,
) -> Result<(Vec<Box<str>>, Duration), mx::Missing> {
    let address = address.to_canonical();
    let nobody_knows = |why: &Why| matches!(why, Why::Failed(_) | Why::Bogus);
    let (mut names, mut ttl) = match lookup.names(address).await {
        Ok(found) => (found.records, found.ttl),
        Err(missing) if nobody_knows(&missing.why) => return Err(missing),
        Err(missing) => return Ok((Vec::new(), missing.ttl)),
    };
    names.truncate(NAMES_MAX);
    let asked = names.iter().map(|name| match address {
        IpAddr::V4(_) => lookup.ipv4(name),
        IpAddr::V6(_) => lookup.ipv6(name),
    });
    let mut answers = all(asked.collect()).await.into_iter();
    let mut unknown = None;
    names.retain(|_| {
        let answer = answers.next().expect("one for each name");
        ttl = ttl.min(ttl_of(&answer));
        match answer {
            Ok(found) => found.records.contains(&address),
            Err(missing) => {
                unknown = Some(missing).filter(|m| nobody_knows(&m.why)).or(unknown.take());
                false
            }
        }
    });
    match unknown {
        Some(missing) if names.is_empty() => Err(missing),
        _ => Ok((names, ttl)),
    }
}

fn ttl_of<T>(answer: &Answer<T>) -> Duration {
    match answer {
        Ok(found) => found.ttl,
        Err(missing) => missing.ttl,
    }
}

async fn addresses(lookup: &dyn Lookup, host: &str) -> Addresses {
    let mut both = all(vec![lookup.ipv4(host), lookup.ipv6(host)]).await.into_iter();
    let mut next = || both.next().expect("two were asked for");
    Addresses { ipv4: next(), ipv6: next() }
}

/// Waits for all, at the same time; results in their order. For a few.
pub(crate) async fn all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.into_iter().map(|f| (Box::pin(f), None)).collect();
    poll_fn(|cx| {
        let mut ready = true;
        for (future, result) in &mut waiting {
            if result.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(output) => *result = Some(output),
                    Poll::Pending => ready = false,
                }
            }
        }
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    waiting.into_iter().map(|(_, result)| result.expect("all are ready")).collect()
}

/// The plans of one core. A handle; cloning counts.
pub struct Planner<R: Runtime>(Rc<Inner<R>>);

impl<R: Runtime> Clone for Planner<R> {
    fn clone(&self) -> Self {
        Planner(self.0.clone())
    }
}

struct Inner<R: Runtime> {
    rt: R,
    lookup: Counted<R>,
    is_ours: Box<dyn Fn(IpAddr) -> bool>,
    options: Options,
    places: Semaphore,
    kept: RefCell<BTreeMap<Box<str>, Kept>>,
    flights: RefCell<BTreeMap<Box<str>, Rc<Flight>>>,
}

struct Kept {
    known: Known,
    until: Mono,
}

/// A look-up that others wait for too.
#[derive(Default)]
struct Flight {
    result: OnceCell<Known>,
    done: Notify,
}

impl<R: Runtime> Planner<R> {
    /// Plans made by asking `lookup`. `is_ours`: mail to this address would come to this server.
    pub fn new(
        rt: R,
        lookup: Box<dyn Lookup>,
        is_ours: Box<dyn Fn(IpAddr) -> bool>,
        metrics: metrics::Core,
        options: Options,
    ) -> Self {
        Planner(Rc::new(Inner {
            lookup: Counted { rt: rt.clone(), lookup, metrics },
            rt,
            is_ours,
            places: Semaphore::new(options.at_a_time),
            options,
            kept: RefCell::default(),
            flights: RefCell::default(),
        }))
    }

    /// Where the mail of `domain` goes: as it is known, or as name servers say now.
    pub async fn plan(&self, domain: &str) -> Known {
        let inner = &*self.0;
        let domain: Box<str> = domain.to_ascii_lowercase().into();
        let deadline = inner.rt.now().after(inner.options.deadline);
        loop {
            if let Some(known) = inner.known(&domain) {
                inner.lookup.metrics.dns_cache_hits.increment(1);
                return known;
            }
            let waiting = inner.flights.borrow().get(&domain).cloned();
            let Some(flight) = waiting else { return self.look_up(domain, deadline).await };
            let done = within(&inner.rt, deadline, flight.done.notified()).await;
            if let Some(known) = flight.result.get() {
                return known.clone();
            }
            if done.is_none() {
                return Err(too_slow());
            }
            // Whoever asked has gone without an answer: it is our turn.
        }
    }

    async fn look_up(&self, domain: Box<str>, deadline: Mono) -> Known {
        let inner = &*self.0;
        let flight = Rc::<Flight>::default();
        inner.flights.borrow_mut().insert(domain.clone(), flight.clone());
        // Frees those who wait, whatever happens here.
        let landing = Landing { planner: self, domain: &domain, flight: &flight };
        let random = inner.rt.random();
        let asked = async {
            let _place = inner.places.acquire().await.expect("never closed");
            plan(&inner.lookup, &domain, &*inner.is_ours, random).await
        };
        let (result, ttl) = match within(&inner.rt, deadline, asked).await {
            Some((result, ttl)) => (result.map(Rc::new), ttl),
            None => (Err(too_slow()), Duration::ZERO),
        };
        let o = &inner.options;
        let keep = match &result {
            Ok(_) => ttl.clamp(o.keep.0, o.keep.1),
            Err(fault) if fault.is_permanent() => ttl.clamp(o.keep_none.0, o.keep_none.1),
            Err(_) => o.keep_failure,
        };
        inner.keep(domain.clone(), result.clone(), keep);
        // Set once: the flight is ours.
        let _ = flight.result.set(result.clone());
        drop(landing);
        result
    }

    /// As [`host`].
    pub async fn host(&self, host: &str) -> Known {
        named(host, self.addresses(host).await).map(Rc::new)
    }

    /// TLSA records of a TCP port. The name servers' client keeps them for their time.
    pub async fn tlsa(&self, name: &str, port: u16) -> Answer<Record> {
        let inner = &*self.0;
        let deadline = inner.rt.now().after(inner.options.deadline);
        let asked = async {
            let _place = inner.places.acquire().await.expect("never closed");
            inner.lookup.tlsa(name, port).await
        };
        within(&inner.rt, deadline, asked).await.unwrap_or_else(|| {
            let why = Why::Failed("no answer in time".into());
            Err(mx::Missing { why, security: mx::Security::Insecure, ttl: Duration::ZERO })
        })
    }

    /// A records of a name. Whoever asks bounds how many, and for how long it waits: mail does not wait
    /// behind such questions for its own.
    pub async fn ipv4(&self, name: &str) -> Answer<IpAddr> {
        self.0.lookup.ipv4(name).await
    }

    /// The addresses of a host that is not found by MX.
    pub async fn addresses(&self, host: &str) -> Addresses {
        let inner = &*self.0;
        let deadline = inner.rt.now().after(inner.options.deadline);
        let asked = async {
            let _place = inner.places.acquire().await.expect("never closed");
            addresses(&inner.lookup, host).await
        };
        within(&inner.rt, deadline, asked).await.unwrap_or_else(|| {
            let lost = || {
                let why = Why::Failed("no answer in time".into());
                Err(mx::Missing { why, security: mx::Security::Insecure, ttl: Duration::ZERO })
            };
            Addresses { ipv4: lost(), ipv6: lost() }
        })
    }
}

impl<R: Runtime> Inner<R> {
    fn known(&self, domain: &str) -> Option<Known> {
        let kept = self.kept.borrow();
        kept.get(domain).filter(|k| k.until > self.rt.now()).map(|k| k.known.clone())
    }

    fn keep(&self, domain: Box<str>, known: Known, time: Duration) {
        let now = self.rt.now();
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= self.options.plans {
            kept.retain(|_, k| k.until > now);
        }
        if kept.len() >= self.options.plans {
            // A tenth goes at once, those that would have gone first: no search for each new one.
            let mut untils: Vec<Mono> = kept.values().map(|k| k.until).collect();
            let tenth = untils.len() / 10;
            let limit = *untils.select_nth_unstable(tenth).1;
            kept.retain(|_, k| k.until > limit);
        }
        kept.insert(domain, Kept { known, until: now.after(time) });
    }
}

fn too_slow() -> Fault {
    Fault::Temporary("no answer in time".into())
}

/// The end of a look-up.
struct Landing<'a, R: Runtime> {
    planner: &'a Planner<R>,
    domain: &'a str,
    flight: &'a Flight,
}

impl<R: Runtime> Drop for Landing<'_, R> {
    fn drop(&mut self) {
        self.planner.0.flights.borrow_mut().remove(self.domain);
        self.flight.done.notify_waiters();
    }
}

/// The result of `future`; `None` at `deadline`.
pub(crate) async fn within<R: Runtime, T>(
    rt: &R,
    deadline: Mono,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    let mut sleep = pin!(rt.sleep_until(deadline));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// Name servers whose answers are counted.
struct Counted<R: Runtime> {
    rt: R,
    lookup: Box<dyn Lookup>,
    metrics: metrics::Core,
}

impl<R: Runtime> Counted<R> {
    fn count<'a, T: 'a>(&'a self, asked: Asked<'a, T>) -> Asked<'a, T> {
        Box::pin(async move {
            let begun = self.rt.now();
            let answer = asked.await;
            let m = &self.metrics;
            m.dns_seconds.record(self.rt.now().since(begun).as_secs_f64());
            let series = match &answer {
                Ok(_) => &m.dns_found,
                Err(missing) => match missing.why {
                    Why::NoName => &m.dns_no_name,
                    Why::NoData => &m.dns_no_data,
                    Why::Bogus => &m.dns_bogus,
                    Why::Failed(_) => &m.dns_failed,
                },
            };
            series.increment(1);
            answer
        })
    }
}

impl<R: Runtime> Lookup for Counted<R> {
    fn mx<'a>(&'a self, name: &'a str) -> Asked<'a, Mx> {
        self.count(self.lookup.mx(name))
    }

    fn ipv4<'a>(&'a self, name: &'a str) -> Asked<'a, IpAddr> {
        self.count(self.lookup.ipv4(name))
    }

    fn ipv6<'a>(&'a self, name: &'a str) -> Asked<'a, IpAddr> {
        self.count(self.lookup.ipv6(name))
    }

    fn tlsa<'a>(&'a self, name: &'a str, port: u16) -> Asked<'a, Record> {
        self.count(self.lookup.tlsa(name, port))
    }

    fn txt<'a>(&'a self, name: &'a str) -> Asked<'a, Box<[u8]>> {
        self.count(self.lookup.txt(name))
    }

    fn names<'a>(&'a self, address: IpAddr) -> Asked<'a, Box<str>> {
        self.count(self.lookup.names(address))
    }
}

/// The same name servers, with all answers counted.
pub fn counted<R: Runtime>(rt: R, lookup: Box<dyn Lookup>, metrics: metrics::Core) -> impl Lookup {
    Counted { rt, lookup, metrics }
}

#[cfg(test)]
mod tests;

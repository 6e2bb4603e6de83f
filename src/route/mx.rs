//! L2: from DNS answers to where mail for a domain goes: hosts and addresses, ordered and bounded.
//!
//! Owns what RFC 5321 §5.1 says of MX records, null MX (RFC 7505), hosts that are ourselves, and the
//! security state that DANE needs. Knows no resolver and no clock; chance comes as an argument. What
//! cannot be used ends in a [`Fault`], which says whether that is final.

use crate::message::domain;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Hosts kept of one domain. More are left out, those of the worst preference first.
pub const HOSTS_MAX: usize = 10;
/// Addresses kept of one family of one host.
pub const ADDRESSES_MAX: usize = 8;
/// MX records looked at of one answer.
const RECORDS_MAX: usize = 1000;

/// What DNSSEC says of an answer. What is bogus is no answer: [`Why::Bogus`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Security {
    /// Not signed, or not looked at.
    #[default]
    Insecure,
    /// Signed, all the way from a trust anchor.
    Secure,
}

/// Records of one type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found<T> {
    /// At least one.
    pub records: Vec<T>,
    /// Whose they are: the name asked for, or where its CNAMEs lead. Lower case, no dot at the end.
    pub name: Box<str>,
    /// Of all records, CNAMEs included.
    pub security: Security,
    /// How long it may be kept.
    pub ttl: Duration,
}

/// No records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    /// The reason.
    pub why: Why,
    /// Of the proof that there are none.
    pub security: Security,
    /// How long that may be kept.
    pub ttl: Duration,
}

/// Why there are no records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// There is no such name (NXDOMAIN).
    NoName,
    /// The name has no records of this type.
    NoData,
    /// The signatures are wrong: it may be a forgery.
    Bogus,
    /// No answer, or one that says nothing: SERVFAIL, time-out, nonsense. What it was.
    Failed(Box<str>),
}

/// Answer to one question.
pub type Answer<T> = Result<Found<T>, Missing>;

/// One MX record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mx {
    /// The least is tried first.
    pub preference: u16,
    /// Host name, lower case, no dot at the end; empty for the root.
    pub host: Box<str>,
}

/// Why there is no plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The domain says that it takes no mail (RFC 7505).
    NullMx,
    /// There is no such domain.
    NoDomain,
    /// The domain has no mail exchanger with an address.
    NoHost,
    /// The best mail exchanger is this server.
    Loop,
    /// No name server could say. Why.
    Temporary(Box<str>),
}

impl Fault {
    /// True if trying again does not help.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Fault::Temporary(_))
    }

    /// Enhanced status code.
    #[must_use]
    pub fn status(&self) -> [u16; 3] {
        match self {
            // RFC 7505 §4.2.
            Fault::NullMx => [5, 1, 10],
            // RFC 3463 §3.2: bad destination system address.
            Fault::NoDomain => [5, 1, 2],
            // RFC 3463 §3.5: unable to route.
            Fault::NoHost => [5, 4, 4],
            // RFC 3463 §3.5: routing loop detected.
            Fault::Loop => [5, 4, 6],
            // RFC 3463 §3.5: directory server failure.
            Fault::Temporary(_) => [4, 4, 3],
        }
    }

    /// The SMTP code that goes with it.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            // RFC 7504 §3, RFC 7505 §4.2.
            Fault::NullMx => 556,
            Fault::NoDomain | Fault::NoHost => 550,
            Fault::Loop => 554,
            Fault::Temporary(_) => 451,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NullMx => f.write_str("the recipient's domain takes no mail (null MX)"),
            Fault::NoDomain => f.write_str("the recipient's domain does not exist"),
            Fault::NoHost => f.write_str("the recipient's domain has no mail server with an address"),
            Fault::Loop => f.write_str("mail for the recipient's domain loops back to this server"),
            Fault::Temporary(why) => write!(f, "look-up of the recipient's domain failed: {why}"),
        }
    }
}

/// Where the hosts of a plan come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// MX records.
    Mx,
    /// There is none; the domain's own addresses (RFC 5321 §5.1).
    Domain,
    /// An address literal: nothing was asked.
    Literal,
}

/// A mail exchanger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exchange {
    /// Its name in the MX record.
    pub name: Box<str>,
    /// Of the record; 0 without one.
    pub preference: u16,
    /// IPv4 addresses, in the order of the answer.
    pub ipv4: Vec<IpAddr>,
    /// IPv6 addresses, in the order of the answer.
    pub ipv6: Vec<IpAddr>,
    /// Of all its addresses: with an insecure one DANE is off for this host (RFC 7672 §2.2.2).
    pub security: Security,
    /// Where the name's CNAMEs lead, the first candidate for the TLSA base domain if `security` is
    /// secure (RFC 7672 §2.2.3); `name` if there are none.
    pub base: Box<str>,
}

/// Where mail for a domain goes. At least one host, each with at least one address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Where the hosts come from.
    pub origin: Origin,
    /// Of the MX answer, or of the proof that there is none.
    pub security: Security,
    /// By preference.
    pub hosts: Vec<Exchange>,
    /// How long it may be kept.
    pub ttl: Duration,
}

/// Which family of addresses is tried first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Neither: in turns, chance begins.
    #[default]
    Any,
}

/// One place to connect to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop {
    /// Number of the host in the plan.
    pub host: usize,
    /// Its address.
    pub address: SocketAddr,
}

/// Hosts whose addresses are to be asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidates {
    /// Where they come from.
    pub origin: Origin,
    /// Of the answer.
    pub security: Security,
    /// By preference; among equals in random order.
    pub hosts: Vec<Mx>,
    /// Of the answer.
    pub ttl: Duration,
}

/// Addresses of one candidate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// A records.
    pub ipv4: Answer<IpAddr>,
    /// AAAA records.
    pub ipv6: Answer<IpAddr>,
}

/// True for a domain that MX look-up is for: a name whose last label is not a number.
#[must_use]
pub fn is_domain(bytes: &[u8]) -> bool {
    let last = bytes.rsplit(|b| *b == b'.').next().unwrap_or(bytes);
    domain::is_name(bytes) && !last.iter().all(u8::is_ascii_digit)
}

/// The mail exchangers of `name`, as the answer to the question for its MX records says.
///
/// # Errors
/// Null MX, no such domain, or no answer.
pub fn candidates(name: &str, answer: &Answer<Mx>, random: u64) -> Result<Candidates, Fault> {
    let found = match answer {
        Ok(found) => found,
        Err(Missing { why: Why::NoName, .. }) => return Err(Fault::NoDomain),
        // RFC 5321 §5.1: the domain itself, with preference 0.
        Err(Missing { why: Why::NoData, security, ttl }) => {
            let hosts = vec![Mx { preference: 0, host: name.to_ascii_lowercase().into() }];
            return Ok(Candidates { origin: Origin::Domain, security: *security, hosts, ttl: *ttl });
        }
        Err(Missing { why: Why::Bogus, .. }) => return Err(bogus(name)),
        Err(Missing { why: Why::Failed(what), .. }) => return Err(Fault::Temporary(what.clone())),
    };
    // RFC 7505 §3: a root host says that there is none; beside others it is void.
    let named = found.records.iter().take(RECORDS_MAX).filter(|mx| !mx.host.is_empty());
    let mut hosts: Vec<Mx> = named.cloned().collect();
    if hosts.is_empty() {
        return Err(Fault::NullMx);
    }
    // RFC 5321 §5.1: an MX record names a host, never an address.
    hosts.retain(|mx| is_domain(mx.host.as_bytes()));
    if hosts.is_empty() {
        return Err(Fault::NoHost);
    }
    hosts.sort_by(|a, b| (&a.host, a.preference).cmp(&(&b.host, b.preference)));
    hosts.dedup_by(|a, b| a.host == b.host);
    let mut dice = Dice(random);
    dice.shuffle(&mut hosts);
    hosts.sort_by_key(|mx| mx.preference);
    hosts.truncate(HOSTS_MAX);
    Ok(Candidates { origin: Origin::Mx, security: found.security, hosts, ttl: found.ttl })
}

/// The plan, from the addresses of each candidate. `is_ours`: an address at which this server
/// would be reached.
///
/// # Errors
/// No usable host; a loop.
pub fn assemble(
    candidates: &Candidates,
    addresses: &[Addresses],
    is_ours: &dyn Fn(IpAddr) -> bool,
) -> Result<Plan, Fault> {
    let mut ttl = candidates.ttl;
    let (mut hosts, mut failure, mut own, mut nowhere) = (Vec::new(), None, None, 0);
    for (mx, found) in candidates.hosts.iter().zip(addresses) {
        for (missing, kept) in [seen(&found.ipv4), seen(&found.ipv6)] {
            ttl = ttl.min(kept);
            match missing {
                Some(Why::Failed(what)) => failure = Some(Fault::Temporary(what.clone())),
                Some(Why::Bogus) => failure = Some(bogus(&mx.host)),
                Some(Why::NoName) => nowhere += 1,
                Some(Why::NoData) | None => {}
            }
        }
        let host = exchange(mx, found);
        if host.ipv4.iter().chain(&host.ipv6).any(|ip| is_ours(*ip)) {
            own = Some(own.map_or(mx.preference, |p: u16| p.min(mx.preference)));
        }
        if !host.ipv4.is_empty() || !host.ipv6.is_empty() {
            hosts.push(host);
        }
    }
    // RFC 5321 §5.1: those that are not better than ourselves are left out, or mail would loop.
    if let Some(own) = own {
        hosts.retain(|h| h.preference < own);
        if hosts.is_empty() && failure.is_none() {
            return Err(Fault::Loop);
        }
    }
    if hosts.is_empty() {
        let all = 2 * candidates.hosts.len();
        let none = if candidates.origin == Origin::Domain && nowhere == all {
            Fault::NoDomain
        } else {
            Fault::NoHost
        };
        return Err(failure.unwrap_or(none));
    }
    Ok(Plan { origin: candidates.origin, security: candidates.security, hosts, ttl })
}

/// The plan of an address literal (RFC 5321 §4.1.3): that address.
///
/// # Errors
/// A loop; an address that cannot be a host's.
pub fn literal(ip: IpAddr, is_ours: &dyn Fn(IpAddr) -> bool) -> Result<Plan, Fault> {
    if !is_usable(ip) {
        return Err(Fault::NoHost);
    }
    if is_ours(ip) {
        return Err(Fault::Loop);
    }
    let name: Box<str> = format!("[{ip}]").into();
    let (ipv4, ipv6) = if ip.is_ipv4() { (vec![ip], Vec::new()) } else { (Vec::new(), vec![ip]) };
    let (security, base) = (Security::Insecure, name.clone());
    let hosts = vec![Exchange { name, preference: 0, ipv4, ipv6, security, base }];
    Ok(Plan { origin: Origin::Literal, security, hosts, ttl: Duration::MAX })
}

fn seen(answer: &Answer<IpAddr>) -> (Option<&Why>, Duration) {
    match answer {
        Ok(found) => (None, found.ttl),
        Err(missing) => (Some(&missing.why), missing.ttl),
    }
}

fn exchange(mx: &Mx, found: &Addresses) -> Exchange {
    let usable = |answer: &Answer<IpAddr>| {
        let all = answer.iter().flat_map(|f| &f.records).filter(|ip| is_usable(**ip));
        all.take(ADDRESSES_MAX).copied().collect::<Vec<_>>()
    };
    let answers = || [&found.ipv4, &found.ipv6].into_iter().flatten();
    // RFC 7672 §2.2.2: one insecure address set makes the host insecure.
    let security = answers().map(|f| f.security).min().unwrap_or_default();
    let base = answers().next().map_or_else(|| mx.host.clone(), |f| f.name.clone());
    Exchange {
        name: mx.host.clone(),
        preference: mx.preference,
        ipv4: usable(&found.ipv4),
        ipv6: usable(&found.ipv6),
        security,
        base,
    }
}

/// Addresses that cannot be a host's are a fault of its zone.
fn is_usable(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

fn bogus(name: &str) -> Fault {
    Fault::Temporary(format!("the DNSSEC signatures of {name} are wrong").into())
}

impl Plan {
    /// Where to connect, in this order, at most `most` places: hosts by preference, among equals in
    /// random order; `is_dead` ones last. A host with many addresses leaves room for the next.
    #[must_use]
    pub fn stops(
        &self,
        port: u16,
        first: Family,
        most: usize,
        random: u64,
        is_dead: impl Fn(SocketAddr) -> bool,
    ) -> Vec<Stop> {
        let mut dice = Dice(random);
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        dice.shuffle(&mut order);
        order.sort_by_key(|n| self.hosts[*n].preference);
        // RFC 5321 §5.1: at least two addresses are tried.
        let each = (most / order.len().max(1)).max(2);
        let mut stops = Vec::with_capacity(most);
        for host in order {
            let addresses = self.hosts[host].in_turn(first, each, &mut dice);
            stops.extend(addresses.map(|ip| Stop { host, address: SocketAddr::new(ip, port) }));
        }
        stops.sort_by_key(|stop| is_dead(stop.address));
        stops.truncate(most);
        stops
    }
}

impl Exchange {
    /// At most `most` addresses; of a family that is not preferred at least one.
    fn in_turn(&self, first: Family, most: usize, dice: &mut Dice) -> impl Iterator<Item = IpAddr> {
        let (mut a, mut b) = (self.ipv4.clone(), self.ipv6.clone());
        dice.shuffle(&mut a);
        dice.shuffle(&mut b);
        let swap = match first {
            Family::Ipv4 => false,
            Family::Ipv6 => true,
            Family::Any => dice.next() & 1 == 1,
        };
        if swap {
            std::mem::swap(&mut a, &mut b);
        }
        let mut list = Vec::with_capacity(most);
        if first == Family::Any {
            for n in 0..a.len().max(b.len()) {
                list.extend(a.get(n).into_iter().chain(b.get(n)));
            }
        } else {
            let others = usize::from(!b.is_empty());
            a.truncate(most.saturating_sub(others).max(1));
            list.extend(a.into_iter().chain(b));
        }
        list.truncate(most);
        list.into_iter()
    }
}

/// Order by chance, from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for n in (1..list.len()).rev() {
            let other = (self.next() % (n as u64 + 1)) as usize;
            list.swap(n, other);
        }
    }
}

#[cfg(test)]
mod tests;

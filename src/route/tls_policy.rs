//! L2: what a connection to one host must be, decided from the route and from what DNS says.
//!
//! Owns the rules of RFC 7672 on when DANE applies, and the memory of hosts whose TLS does not work.
//! Asks nobody: the caller puts the questions of [`bases`] in their order and hands the answers to
//! [`judge`]. A policy belongs to a destination, not to a host: the same host may be held to more for
//! one domain than for another. What cannot be found out is a [`Doubt`]: the host is not used now.

use super::destination::TlsPolicy;
use super::mx::{Answer, Exchange, Missing, Security, Why};
use super::tlsa::{Pins, Record};
use crate::base::time::Mono;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// What a connection must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Demand {
    /// In clear text, whatever the host offers.
    Clear,
    /// Under TLS if the host offers it, with any certificate; in clear text if not.
    Opportunistic,
    /// Under TLS with any certificate: there are TLSA records, and none can be used (RFC 7672 §2.2).
    Encrypted,
    /// Under TLS, with a certificate for one of [`Terms::names`] from an authority that we know.
    Verified,
    /// Under TLS, with a certificate that fits these records.
    Dane(Pins),
}

impl Demand {
    /// Nothing is sent in clear text.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        !matches!(self, Demand::Clear | Demand::Opportunistic)
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Demand::Clear => f.write_str("none: clear text"),
            Demand::Opportunistic => f.write_str("opportunistic: any certificate, or clear text"),
            Demand::Encrypted => f.write_str("required by TLSA records that cannot be used: any certificate"),
            Demand::Verified => f.write_str("required: a certificate of a known authority"),
            Demand::Dane(pins) => write!(f, "required: DANE, {} usable TLSA records", pins.len()),
        }
    }
}

/// What a connection must be, and with whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// See there.
    pub demand: Demand,
    /// Host name for the server to choose its certificate by (RFC 6066 §3); none for an address.
    pub sni: Option<Box<str>>,
    /// Names of which the certificate must have one, where names count.
    pub names: Vec<Box<str>>,
}

/// Why a host cannot be used now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doubt(pub Box<str>);

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host that was found in DNS.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The domain whose mail goes there; the host itself if a route names it.
    pub domain: &'a str,
    /// How that was found out: of the MX records, or secure if a route names the host.
    pub security: Security,
    /// The host.
    pub host: &'a Exchange,
}

/// Names whose TLSA records are to be asked for, in this order, until one has some. None if DANE
/// does not apply: RFC 7672 §2.2.1 and §2.2.2, MX records and addresses must be secure.
#[must_use]
pub fn bases<'a>(policy: TlsPolicy, place: &Place<'a>) -> Vec<&'a str> {
    let secure = place.security == Security::Secure && place.host.security == Security::Secure;
    if policy != TlsPolicy::Dane || !secure {
        return Vec::new();
    }
    // RFC 7672 §2.2.3: where the CNAMEs lead, then the name itself.
    let mut names = vec![&*place.host.base];
    if place.host.base != place.host.name {
        names.push(&place.host.name);
    }
    names
}

/// What the answer for one of [`bases`] says; `None`: ask for the next.
///
/// # Errors
/// RFC 7672 §2.1.2: without a good answer the host must not be used.
pub fn judge(base: &str, answer: &Answer<Record>) -> Result<Option<Pins>, Doubt> {
    match answer {
        Ok(found) if found.security == Security::Secure => Ok(Some(Pins::of(&found.records))),
        // RFC 7672 §2.1.1: not signed, so as if it were not there.
        Ok(_) => Ok(None),
        Err(Missing { why: Why::NoName | Why::NoData, .. }) => Ok(None),
        Err(Missing { why: Why::Bogus, .. }) => {
            Err(Doubt(format!("the DNSSEC signatures of the TLSA records of {base} are wrong").into()))
        }
        Err(Missing { why: Why::Failed(what), .. }) => {
            Err(Doubt(format!("look-up of the TLSA records of {base} failed: {what}").into()))
        }
    }
}

/// The terms for a host found in DNS. `found`: the first of [`bases`] that has TLSA records, and they.
#[must_use]
pub fn terms(policy: TlsPolicy, place: &Place<'_>, found: Option<(&str, Pins)>) -> Terms {
    let host = &place.host.name;
    let mut names: Vec<Box<str>> = vec![host.clone(), place.domain.into()];
    if let Some((base, pins)) = found {
        let demand = if pins.is_empty() { Demand::Encrypted } else { Demand::Dane(pins) };
        // RFC 7672 §3.2.2: the base domain, and the domain whose mail it is; all found securely.
        names.insert(0, base.into());
        return Terms { demand, sni: Some(base.into()), names: unique(names) };
    }
    Terms { demand: plain(policy), sni: Some(host.clone()), names: unique(names) }
}

/// The terms for a next hop that a route names by its host name, or by its address.
#[must_use]
pub fn fixed(policy: TlsPolicy, host: Option<&str>, address: SocketAddr) -> Terms {
    let name = host.map_or_else(|| address.ip().to_canonical().to_string(), str::to_owned);
    Terms { demand: plain(policy), sni: host.map(Into::into), names: vec![name.into()] }
}

fn plain(policy: TlsPolicy) -> Demand {
    match policy {
        TlsPolicy::None => Demand::Clear,
        // RFC 7672 §2.2: no or insecure TLSA records.
        TlsPolicy::Opportunistic | TlsPolicy::Dane => Demand::Opportunistic,
        TlsPolicy::Required => Demand::Verified,
    }
}

fn unique(names: Vec<Box<str>>) -> Vec<Box<str>> {
    let mut all: Vec<Box<str>> = Vec::with_capacity(names.len());
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// How long a host whose handshake has failed is used in clear text.
pub const REMEMBERED: Duration = Duration::from_secs(3600);
/// Hosts remembered.
const REMEMBERED_MAX: usize = 10_000;

/// Hosts whose TLS does not work. Counts for [`Demand::Opportunistic`] only.
#[derive(Debug, Default)]
pub struct Broken(BTreeMap<SocketAddr, Mono>);

impl Broken {
    /// A handshake with the host has failed. If too many have, it is not remembered.
    pub fn add(&mut self, host: SocketAddr, now: Mono) {
        if self.0.len() >= REMEMBERED_MAX {
            self.0.retain(|_, until| *until > now);
        }
        if self.0.len() < REMEMBERED_MAX || self.0.contains_key(&host) {
            self.0.insert(host, now.after(REMEMBERED));
        }
    }

    /// True if a handshake with the host has failed within the hour.
    #[must_use]
    pub fn contains(&self, host: SocketAddr, now: Mono) -> bool {
        self.0.get(&host).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::super::mx::Found;
    use super::*;

    fn exchange(security: Security, base: &str) -> Exchange {
        let (ipv4, ipv6) = (Vec::new(), Vec::new());
        Exchange { name: "mx.a.test".into(), preference: 10, ipv4, ipv6, security, base: base.into() }
    }

    fn record() -> Record {
        Record { usage: 3, selector: 1, matching: 1, data: vec![7; 32] }
    }

    fn answer(security: Security) -> Answer<Record> {
        Ok(Found { records: vec![record()], name: "x".into(), security, ttl: Duration::ZERO })
    }

    fn missing(why: Why) -> Answer<Record> {
        Err(Missing { why, security: Security::Secure, ttl: Duration::ZERO })
    }

    #[test]
    fn dane_needs_secure_mx_records_and_secure_addresses() {
        use Security::{Insecure, Secure};
        use TlsPolicy::{Dane, None, Opportunistic, Required};
        let direct = exchange(Secure, "mx.a.test");
        let place = |security, host| Place { domain: "a.test", security, host };
        assert_eq!(bases(Dane, &place(Secure, &direct)), ["mx.a.test"]);
        assert!(bases(Dane, &place(Insecure, &direct)).is_empty());
        let unsigned = exchange(Insecure, "mx.a.test");
        assert!(bases(Dane, &place(Secure, &unsigned)).is_empty());
        for other in [None, Opportunistic, Required] {
            assert!(bases(other, &place(Secure, &direct)).is_empty());
        }
        let alias = exchange(Secure, "real.b.test");
        assert_eq!(bases(Dane, &place(Secure, &alias)), ["real.b.test", "mx.a.test"]);
    }

    #[test]
    fn answers() {
        let pins = Pins::of(&[record()]);
        assert_eq!(judge("b", &answer(Security::Secure)), Ok(Some(pins)));
        assert_eq!(judge("b", &answer(Security::Insecure)), Ok(None));
        assert_eq!(judge("b", &missing(Why::NoName)), Ok(None));
        assert_eq!(judge("b", &missing(Why::NoData)), Ok(None));
        assert!(judge("b", &missing(Why::Bogus)).unwrap_err().to_string().contains("signatures"));
        assert!(judge("b", &missing(Why::Failed("SERVFAIL".into()))).is_err());
    }

    #[test]
    fn what_is_demanded() {
        let host = exchange(Security::Secure, "real.b.test");
        let place = Place { domain: "a.test", security: Security::Secure, host: &host };
        let of = |policy| terms(policy, &place, None).demand;
        assert_eq!(of(TlsPolicy::None), Demand::Clear);
        assert_eq!(of(TlsPolicy::Opportunistic), Demand::Opportunistic);
        assert_eq!(of(TlsPolicy::Dane), Demand::Opportunistic);
        assert_eq!(of(TlsPolicy::Required), Demand::Verified);
        let pins = Pins::of(&[record()]);
        let dane = terms(TlsPolicy::Dane, &place, Some(("real.b.test", pins.clone())));
        assert_eq!((dane.demand, dane.sni.as_deref()), (Demand::Dane(pins), Some("real.b.test")));
        assert_eq!(dane.names, ["real.b.test".into(), "mx.a.test".into(), "a.test".into()] as [Box<str>; 3]);
        let unusable = terms(TlsPolicy::Dane, &place, Some(("mx.a.test", Pins::default())));
        assert_eq!(unusable.demand, Demand::Encrypted);
        assert!(unusable.demand.is_strict() && !Demand::Opportunistic.is_strict());
        let address = fixed(TlsPolicy::Required, None, "[::ffff:192.0.2.1]:25".parse().unwrap());
        assert_eq!((address.sni, &*address.names[0]), (None, "192.0.2.1"));
    }

    #[test]
    fn a_broken_host_is_remembered_for_an_hour() {
        let host: SocketAddr = "192.0.2.1:25".parse().unwrap();
        let mut broken = Broken::default();
        let begin = Mono(5);
        assert!(!broken.contains(host, begin));
        broken.add(host, begin);
        let last = begin.after(REMEMBERED - Duration::from_nanos(1));
        assert!(broken.contains(host, begin) && broken.contains(host, last));
        assert!(!broken.contains(host, begin.after(REMEMBERED)));
        assert!(!broken.contains("192.0.2.1:26".parse().unwrap(), begin), "another port, another server");
        // Bounded, and the old make room for the new.
        for n in 0..REMEMBERED_MAX as u32 + 5 {
            broken.add(SocketAddr::new(std::net::Ipv4Addr::from(n).into(), 25), begin);
        }
        assert!(broken.0.len() == REMEMBERED_MAX);
        broken.add(host, begin.after(REMEMBERED));
        assert!(broken.contains(host, begin.after(REMEMBERED)) && broken.0.len() == 1);
    }
}

//! L4: name servers on the network, by hickory: UDP, TCP where an answer is too long, DNSSEC.
//!
//! Owns the sockets of one core's questions (made by the runtime it is asked on) and hickory's cache of
//! records. Says of each answer whether it is secure. If the resolver strips signatures, validation
//! would make every answer bogus: that is found out by asking for a record of the trust anchor's own
//! zone, DNSSEC is off then until that is answered with a good signature, and the alarm is raised. A
//! resolver that is believed checks them itself, and says so (`asking`).

mod asking;

use crate::base::time::Mono;
use crate::route::dns::{Asked, Lookup};
use crate::route::mx::{Answer, Found, Missing, Mx, Security, Why};
use crate::route::tlsa::Record;
use crate::runtime::Clock;
use asking::Careful;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record as Entry, RecordType};
use hickory_resolver::{Resolver, system_conf};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How soon it is asked again whether signatures come through.
const PROBE_AGAIN: Duration = Duration::from_secs(60);
/// How long one server may take for one answer, and how often it is asked.
const TRY: Duration = Duration::from_secs(5);
const TRIES: usize = 2;
/// Responses that hickory keeps: mostly keys of zones.
const CACHE: u64 = 2048;
/// Questions on one TCP connection at a time.
const ACTIVE: usize = 512;
/// A reason is no longer than that.
const REASON_MAX: usize = 200;

/// Which name servers, and how far they are believed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Empty: those of `/etc/resolv.conf`, or the one on this host.
    pub servers: Vec<SocketAddr>,
    /// Signatures are checked, from these DNSKEY records on (the text of a zone file); an empty text
    /// stands for the keys of the root. `None`: not checked, all is insecure.
    pub anchors: Option<String>,
    /// What the name servers say of signatures is believed; nothing is checked here then.
    pub believed: bool,
}

/// Is told whether DNSSEC is in use.
pub type Tell = Box<dyn Fn(bool)>;

/// Name servers.
pub struct Servers<C: Clock> {
    clock: C,
    plain: Resolver<Careful>,
    checking: Option<Checking>,
    believed: Option<Resolver<Careful>>,
    tell: Tell,
}

/// Where signatures are checked.
struct Checking {
    resolver: Resolver<Careful>,
    /// Zone of the first trust anchor.
    zone: Name,
    /// Signatures do not come through.
    stripped: Cell<bool>,
    /// When that was found out, or found not to be so.
    probed: Cell<Option<Mono>>,
}

impl<C: Clock> Servers<C> {
    /// Makes the resolvers; asks nothing yet. `tell` is called when DNSSEC goes off and on again.
    ///
    /// # Errors
    /// Trust anchors that cannot be read.
    pub fn new(clock: C, options: &Options, tell: Tell) -> Result<Self, String> {
        let build = |anchors: Option<Arc<TrustAnchors>>, believing: bool| {
            let mut builder = Resolver::builder_with_config(config(options), Careful::new(believing));
            *builder.options_mut() = resolver_options();
            if let Some(anchors) = anchors {
                builder = builder.with_trust_anchor(anchors);
            }
            builder.build().map_err(|e| format!("no resolver: {e}"))
        };
        let believed = if options.believed { Some(build(None, true)?) } else { None };
        let checking = match &options.anchors {
            None => None,
            Some(text) => {
                let (anchors, zone) = trust(text)?;
                let resolver = build(Some(Arc::new(anchors)), false)?;
                Some(Checking { resolver, zone, stripped: Cell::new(false), probed: Cell::new(None) })
            }
        };
        Ok(Servers { clock, plain: build(None, false)?, checking, believed, tell })
    }

    /// The TLSA records of a TCP port (RFC 7672 §2.2.3).
    async fn ask_tlsa(&self, name: &str, port: u16) -> Answer<Record> {
        let name = format!("_{port}._tcp.{name}");
        self.ask(&name, RecordType::TLSA, |data| match data {
            RData::TLSA(tlsa) => Some(Record {
                usage: tlsa.cert_usage.into(),
                selector: tlsa.selector.into(),
                matching: tlsa.matching.into(),
                data: tlsa.cert_data.clone(),
            }),
            _ => None,
        })
        .await
    }

    /// The records of one type.
    async fn ask<T>(&self, name: &str, kind: RecordType, pick: fn(&RData) -> Option<T>) -> Answer<T> {
        let Some(name) = absolute(name) else { return Err(missing(Why::NoName)) };
        self.ask_for(name, kind, pick).await
    }

    async fn ask_for<T>(&self, name: Name, kind: RecordType, pick: fn(&RData) -> Option<T>) -> Answer<T> {
        if let Some(believed) = &self.believed {
            return judge(believed.lookup(name, kind).await, kind, true, pick);
        }
        if let Some(checking) = &self.checking
            && !self.is_off(checking).await
        {
            let answer = judge(checking.resolver.lookup(name.clone(), kind).await, kind, true, pick);
            let bogus = matches!(&answer, Err(Missing { why: Why::Bogus, .. }));
            if !bogus || !self.is_stripped(checking).await {
                return answer;
            }
        }
        judge(self.plain.lookup(name, kind).await, kind, false, pick)
    }

    /// Whether DNSSEC is off; looks now and then whether it still must be.
    async fn is_off(&self, checking: &Checking) -> bool {
        checking.stripped.get() && self.is_stripped(checking).await
    }

    /// Whether signatures are stripped on their way: asked of the name servers at most once a minute.
    async fn is_stripped(&self, checking: &Checking) -> bool {
        let now = self.clock.now();
        let fresh = |at: &Mono| now.since(*at) < PROBE_AGAIN;
        if checking.probed.get().filter(fresh).is_some() {
            return checking.stripped.get();
        }
        // Others go by what is known until it is known better.
        checking.probed.set(Some(now));
        checking.resolver.clear_cache();
        let lookup = checking.resolver.lookup(checking.zone.clone(), RecordType::SOA).await;
        let soa = |data: &RData| matches!(data, RData::SOA(_)).then_some(());
        let stripped = match judge(lookup, RecordType::SOA, true, soa) {
            Ok(found) => found.security != Security::Secure,
            Err(Missing { why: Why::Failed(_), .. }) => checking.stripped.get(),
            // A zone that is trusted has a signed SOA record.
            Err(_) => true,
        };
        if checking.stripped.replace(stripped) != stripped {
            (self.tell)(!stripped);
        }
        stripped
    }
}

impl<C: Clock> Lookup for Servers<C> {
    fn mx<'a>(&'a self, name: &'a str) -> Asked<'a, Mx> {
        Box::pin(self.ask(name, RecordType::MX, |data| match data {
            RData::MX(mx) => Some(Mx { preference: mx.preference, host: relative(&mx.exchange) }),
            _ => None,
        }))
    }

    fn ipv4<'a>(&'a self, name: &'a str) -> Asked<'a, IpAddr> {
        Box::pin(self.ask(name, RecordType::A, |data| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            _ => None,
        }))
    }

    fn ipv6<'a>(&'a self, name: &'a str) -> Asked<'a, IpAddr> {
        Box::pin(self.ask(name, RecordType::AAAA, |data| match data {
            RData::AAAA(a) => Some(IpAddr::V6(a.0)),
            _ => None,
        }))
    }

    fn tlsa<'a>(&'a self, name: &'a str, port: u16) -> Asked<'a, Record> {
        Box::pin(self.ask_tlsa(name, port))
    }

    fn txt<'a>(&'a self, name: &'a str) -> Asked<'a, Box<[u8]>> {
        Box::pin(self.ask(name, RecordType::TXT, |data| match data {
            RData::TXT(txt) => Some(txt.txt_data.concat().into()),
            _ => None,
        }))
    }

    fn names<'a>(&'a self, address: IpAddr) -> Asked<'a, Box<str>> {
        Box::pin(self.ask_for(Name::from(address.to_canonical()), RecordType::PTR, |data| match data {
            RData::PTR(name) => Some(relative(name)),
            _ => None,
        }))
    }
}

fn config(options: &Options) -> ResolverConfig {
    let server = |address: &SocketAddr| {
        let at = |mut connection: ConnectionConfig| {
            connection.port = address.port();
            connection
        };
        let ways = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
        NameServerConfig::new(address.ip(), true, ways)
    };
    let servers: Vec<NameServerConfig> = if options.servers.is_empty() {
        // resolv.conf(5): without one, the server on this host. Search lists are not for mail.
        let read = system_conf::read_system_conf().map(|(config, _)| config.name_servers().to_vec());
        read.unwrap_or_else(|_| vec![server(&(Ipv4Addr::LOCALHOST, 53).into())])
    } else {
        options.servers.iter().map(server).collect()
    };
    ResolverConfig::from_name_servers(servers)
}

fn resolver_options() -> ResolverOpts {
    let mut o = ResolverOpts::default();
    o.timeout = TRY;
    o.attempts = TRIES;
    o.edns0 = true;
    o.cache_size = CACHE;
    o.use_hosts_file = ResolveHosts::Never;
    o.max_active_requests = ACTIVE;
    // A CNAME in between must be secure too.
    o.preserve_intermediates = true;
    o
}

/// The keys in the text, and the zone of the first.
fn trust(text: &str) -> Result<(TrustAnchors, Name), String> {
    if text.is_empty() {
        return Ok((TrustAnchors::default(), Name::root()));
    }
    let anchors: TrustAnchors = text.parse().map_err(|e| format!("trust anchors: {e}"))?;
    let lines = text.lines().map(|l| l.split(';').next().unwrap_or("").trim());
    let first = lines.flat_map(|l| l.split_whitespace().next()).next();
    let zone = first.and_then(|name| Name::from_ascii(name).ok()).filter(|_| !anchors.is_empty());
    zone.map(|zone| (anchors, zone)).ok_or_else(|| "trust anchors: there is no DNSKEY record".into())
}

/// The name as name servers want it. RFC 5890 §2.3.2.1: other letters as A-labels.
fn absolute(name: &str) -> Option<Name> {
    let dotted = format!("{name}.");
    if !name.is_ascii() {
        return Name::from_utf8(dotted).ok();
    }
    // RFC 2181 §11: there are names of other characters, too; macros of SPF make such.
    let labels = || name.split('.').map(str::as_bytes);
    let odd = || Name::from_labels(labels()).ok().filter(|_| labels().all(|l| !l.is_empty()));
    Name::from_ascii(&dotted).ok().or_else(odd)
}

fn relative(name: &Name) -> Box<str> {
    name.to_lowercase().to_ascii().trim_end_matches('.').into()
}

fn missing(why: Why) -> Missing {
    Missing { why, security: Security::Insecure, ttl: Duration::ZERO }
}

/// What the answer says. `checked`: signatures have been looked at, here or by a server that is believed.
fn judge<T>(
    lookup: Result<hickory_resolver::lookup::Lookup, NetError>,
    kind: RecordType,
    checked: bool,
    pick: fn(&RData) -> Option<T>,
) -> Answer<T> {
    let lookup = lookup.map_err(|e| absence(&e, checked))?;
    // With validation the signatures are among the answers.
    let ours = |r: &&Entry| r.record_type() == kind || r.record_type() == RecordType::CNAME;
    let chain: Vec<&Entry> = lookup.answers().iter().filter(ours).collect();
    let mut security = Security::Secure;
    for record in &chain {
        match record.proof {
            Proof::Secure if checked => {}
            Proof::Insecure if checked => security = Security::Insecure,
            // RFC 4035 §4.3: indeterminate is no better; nobody could say.
            _ if checked => return Err(missing(Why::Bogus)),
            _ => security = Security::Insecure,
        }
    }
    let ttl = chain.iter().map(|r| r.ttl).min().unwrap_or(0);
    let ttl = Duration::from_secs(ttl.into());
    let owner = chain.iter().find(|r| r.record_type() == kind).map(|r| relative(&r.name));
    let records: Vec<T> = chain.iter().filter_map(|r| pick(&r.data)).collect();
    match owner {
        Some(name) if !records.is_empty() => Ok(Found { records, name, security, ttl }),
        _ => Err(Missing { why: Why::NoData, security, ttl }),
    }
}

/// What an answer without records, or no answer, says.
fn absence(error: &NetError, checked: bool) -> Missing {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            let why = match none.response_code {
                ResponseCode::NXDomain => Why::NoName,
                _ => Why::NoData,
            };
            let proofs = none.authorities.iter().flat_map(|a| a.iter());
            let secure = checked && proofs.clone().next().is_some() && proofs.clone().all(is_secure);
            let security = if secure { Security::Secure } else { Security::Insecure };
            let ttl = Duration::from_secs(none.negative_ttl.unwrap_or(0).into());
            Missing { why, security, ttl }
        }
        // Denied, but not by a good proof.
        NetError::Dns(DnsError::Nsec { response, proof, .. }) => {
            let why = match (proof, response.response_code) {
                (Proof::Insecure | Proof::Secure, ResponseCode::NXDomain) => Why::NoName,
                (Proof::Insecure | Proof::Secure, _) => Why::NoData,
                _ => Why::Bogus,
            };
            let security = if proof.is_secure() { Security::Secure } else { Security::Insecure };
            Missing { why, security, ttl: Duration::ZERO }
        }
        NetError::Dns(DnsError::DnssecBogus) => missing(Why::Bogus),
        other => {
            let mut text = other.to_string();
            let end = (0..=REASON_MAX.min(text.len())).rev().find(|n| text.is_char_boundary(*n));
            text.truncate(end.unwrap_or(0));
            missing(Why::Failed(text.into()))
        }
    }
}

fn is_secure(record: &Entry) -> bool {
    record.record_type() == RecordType::RRSIG || record.proof.is_secure()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(absolute("A.example").unwrap().to_ascii(), "A.example.");
        assert_eq!(absolute("b\u{fc}cher.example").unwrap().to_ascii(), "xn--bcher-kva.example.");
        assert!(absolute("a..b").is_none() && absolute(&"x".repeat(64)).is_none());
        assert_eq!(&*relative(&Name::from_ascii("MX.Example.").unwrap()), "mx.example");
        assert_eq!(&*relative(&Name::root()), "");
    }

    #[test]
    fn trust_anchors() {
        assert_eq!(trust("").unwrap().1, Name::root());
        assert!(trust("; nothing\n").is_err());
        assert!(trust("no zone file").is_err());
    }

    #[test]
    fn errors_that_say_nothing_are_failures() {
        for error in [
            NetError::Timeout,
            NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)),
            NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)),
            NetError::Msg("\u{fc}".repeat(1000)),
        ] {
            assert!(matches!(absence(&error, true).why, Why::Failed(t) if t.len() <= REASON_MAX));
        }
        assert_eq!(absence(&NetError::Dns(DnsError::DnssecBogus), true).why, Why::Bogus);
    }
}

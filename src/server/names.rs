//! How the relay of one core finds hosts: mail exchangers by our own questions to name servers, host
//! names of routes by the system, or by the name servers of the configuration if it names some.
//!
//! What cannot be found is an error of the look-up, never of the core. Trust anchors that cannot be
//! read end the start.

use super::settings;
use crate::config::Config;
use crate::config::raw::{Dnssec, Prefer};
use crate::delivery::agent::{Resolve, Resolved};
use crate::metrics;
use crate::route::dns::wire::{self, Servers, Tell};
use crate::route::dns::{self, Asked, Known, Lookup, Planner};
use crate::route::mx::{Addresses, Why};
use crate::route::tlsa::Record;
use crate::runtime::{Clock, Runtime, listen};
use crate::smtp::serve::lists::Ask;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// How long a host name may take to be resolved.
const RESOLVE: Duration = Duration::from_secs(30);

/// The names of one core.
pub struct Names<R: Runtime> {
    planner: Planner<R>,
    prefer: Prefer,
    /// Host names are asked of our name servers too.
    own_servers: bool,
}

/// The name servers of the configuration.
///
/// # Errors
/// Trust anchors that cannot be read; with a sentence for people.
pub fn servers<C: Clock>(clock: C, config: &Config, tell: Tell) -> Result<Servers<C>, String> {
    let anchors = match config.dns.dnssec {
        Dnssec::Validate => Some(config.dns.trust_anchors.as_deref().map_or(Ok(String::new()), anchors)?),
        Dnssec::TrustAd | Dnssec::Off => None,
    };
    let believed = config.dns.dnssec == Dnssec::TrustAd;
    let options = wire::Options { servers: config.dns.servers.clone(), anchors, believed };
    Servers::new(clock, &options, tell)
}

/// The same name servers for questions that strangers cause, with sockets and a memory of their own: what
/// mail finds its way by is not pushed out by them.
///
/// # Errors
/// See [`servers`].
pub fn strangers<R: Runtime>(
    rt: &R,
    config: &Config,
    metrics: &metrics::Core,
) -> Result<Rc<dyn Lookup>, String> {
    let lookup = Box::new(servers(rt.clone(), config, Box::new(|_| {}))?);
    Ok(Rc::new(dns::counted(rt.clone(), lookup, metrics.clone())))
}

#[allow(clippy::disallowed_methods)] // read once, at the start, by the composition
fn anchors(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| e.to_string())
        .and_then(|text| if text.trim().is_empty() { Err("it is empty".into()) } else { Ok(text) });
    text.map_err(|e| format!("dns.trust_anchors: {} cannot be used: {e}", path.display()))
}

/// Whether mail that we send to the mail exchangers' port of an address comes to ourselves, given
/// the addresses we listen on.
pub fn ours(config: &Config, bound: Vec<SocketAddr>) -> impl Fn(IpAddr) -> bool + 'static {
    let port = config.relay.mx_port;
    let listening: Vec<IpAddr> = bound.iter().filter(|a| a.port() == port).map(SocketAddr::ip).collect();
    move |ip| {
        let ip = ip.to_canonical();
        listening.iter().any(|own| {
            let any = own.is_unspecified() && own.is_ipv4() == ip.is_ipv4();
            *own == ip || any && listen::is_own_address(ip)
        })
    }
}

impl<R: Runtime> Names<R> {
    /// Names as `config` has them. `bound`: the addresses we listen on.
    ///
    /// # Errors
    /// See [`servers`].
    pub fn new(
        rt: &R,
        config: &Config,
        bound: Vec<SocketAddr>,
        metrics: &metrics::Core,
        tell: Tell,
    ) -> Result<Rc<Self>, String> {
        let lookup = Box::new(servers(rt.clone(), config, tell)?);
        let is_ours = Box::new(ours(config, bound));
        let options = dns::Options::default();
        let planner = Planner::new(rt.clone(), lookup, is_ours, metrics.clone(), options);
        let own_servers = !config.dns.servers.is_empty();
        Ok(Rc::new(Names { planner, prefer: config.relay.prefer, own_servers }))
    }
}

impl<R: Runtime> Resolve for Names<R> {
    fn resolve<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = Resolved> + 'a>> {
        Box::pin(async move {
            let list = if self.own_servers {
                listed(self.planner.addresses(host).await)?
            } else {
                by_system(host).await?
            };
            Ok(in_order(list, self.prefer))
        })
    }

    fn exchangers<'a>(&'a self, domain: &'a str) -> Pin<Box<dyn Future<Output = Known> + 'a>> {
        Box::pin(self.planner.plan(domain))
    }

    fn host<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = Known> + 'a>> {
        Box::pin(self.planner.host(host))
    }

    fn tlsa<'a>(&'a self, name: &'a str, port: u16) -> Asked<'a, Record> {
        Box::pin(self.planner.tlsa(name, port))
    }
}

impl<R: Runtime> Ask for Names<R> {
    fn ipv4<'a>(&'a self, name: &'a str) -> Asked<'a, IpAddr> {
        Box::pin(self.planner.ipv4(name))
    }
}

/// All addresses, or why there are none.
fn listed(found: Addresses) -> Resolved {
    let mut list = Vec::new();
    let mut error = io::Error::new(io::ErrorKind::NotFound, "no such host, or no address");
    for answer in [found.ipv6, found.ipv4] {
        match answer {
            Ok(found) => list.extend(found.records),
            Err(missing) => match missing.why {
                Why::Failed(what) => error = io::Error::other(String::from(what)),
                Why::Bogus => error = io::Error::other("wrong DNSSEC signatures"),
                Why::NoName | Why::NoData => {}
            },
        }
    }
    if list.is_empty() { Err(error) } else { Ok(list) }
}

/// The system's resolver (getaddrinfo), asked on a thread of its own.
async fn by_system(host: &str) -> Resolved {
    let name = host.to_owned();
    let lookup = move || Ok((name.as_str(), 0).to_socket_addrs()?.map(|a| a.ip()).collect::<Vec<IpAddr>>());
    match tokio::time::timeout(RESOLVE, tokio::task::spawn_blocking(lookup)).await {
        Ok(Ok(result)) => result,
        Ok(Err(e)) => Err(io::Error::other(e)),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// The addresses with those of the preferred family first, each family in the order of the answer.
fn in_order(mut addresses: Vec<IpAddr>, prefer: Prefer) -> Vec<IpAddr> {
    match settings::family(prefer) {
        crate::route::mx::Family::Any => {}
        crate::route::mx::Family::Ipv4 => addresses.sort_by_key(IpAddr::is_ipv6),
        crate::route::mx::Family::Ipv6 => addresses.sort_by_key(IpAddr::is_ipv4),
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::mx::{Found, Missing, Security};

    #[test]
    fn the_preferred_family_comes_first() {
        let list = |texts: [&str; 4]| texts.map(|t| t.parse::<IpAddr>().unwrap()).to_vec();
        let answer = list(["192.0.2.2", "2001:db8::2", "192.0.2.1", "2001:db8::1"]);
        for (prefer, expected) in [
            (Prefer::Dns, answer.clone()),
            (Prefer::Ipv4, list(["192.0.2.2", "192.0.2.1", "2001:db8::2", "2001:db8::1"])),
            (Prefer::Ipv6, list(["2001:db8::2", "2001:db8::1", "192.0.2.2", "192.0.2.1"])),
        ] {
            assert_eq!(in_order(answer.clone(), prefer), expected, "{prefer:?}");
        }
    }

    #[test]
    fn ourselves_are_our_listeners_at_the_port_of_mail_exchangers() {
        let text = "[server]\nhostname = \"mx.example.net\"\n[relay]\nmx_port = 2525\n";
        let (config, _) = Config::parse(text, "t").unwrap();
        let bound = |list: &[&str]| list.iter().map(|t| t.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let is = |list: &[&str], ip: &str| ours(&config, bound(list))(ip.parse().unwrap());
        assert!(is(&["192.0.2.1:2525"], "192.0.2.1") && is(&["192.0.2.1:2525"], "::ffff:192.0.2.1"));
        assert!(!is(&["192.0.2.1:25"], "192.0.2.1") && !is(&["192.0.2.1:2525"], "192.0.2.2"));
        assert!(is(&["0.0.0.0:2525"], "127.0.0.9") && !is(&["0.0.0.0:2525"], "192.0.2.1"));
        assert!(!is(&["[::]:2525"], "127.0.0.9"));
    }

    #[test]
    fn half_an_answer_is_enough() {
        let (security, ttl) = (Security::Insecure, Duration::ZERO);
        let good = |ip: &str| {
            let records = vec![ip.parse::<IpAddr>().unwrap()];
            Ok(Found { records, name: "h".into(), security, ttl })
        };
        let bad = || Err(Missing { why: Why::Failed("SERVFAIL".into()), security, ttl });
        assert_eq!(listed(Addresses { ipv4: good("192.0.2.1"), ipv6: bad() }).unwrap().len(), 1);
        let error = listed(Addresses { ipv4: bad(), ipv6: bad() }).unwrap_err();
        assert!(error.to_string().contains("SERVFAIL"));
    }
}

//! Name servers, our own name, the addresses we are to serve, and on request a mail exchanger.
//!
//! Each question and each connection has [`PATIENCE`]; what was found is judged without the network.

#![allow(clippy::disallowed_methods, reason = "a program for operators: it opens sockets of its own")]

use super::{Finding, Setting};
use crate::cli::explain::Still;
use crate::config::Config;
use crate::route::dns::Lookup;
use crate::route::mx::{Answer, Missing, Why};
use crate::server::names;
use std::cell::Cell;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// For one question or connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// Above this time an answer is slow.
const SLOW: Duration = Duration::from_millis(500);

const DNS_WHY: &str = "mail is routed by it; without answers it waits";

/// All of them.
pub(super) fn checks(setting: &Setting, reach: Option<&str>) -> Vec<Finding> {
    let mut all = Vec::new();
    match (&setting.config, &setting.hostname) {
        (Some(config), Some(name)) => all.extend(name_servers(config, name)),
        _ => all.push(Finding::unknown("name servers", "not asked: there is no configuration", DNS_WHY)),
    }
    let owner = owner(setting);
    all.extend(setting.listeners.iter().map(|at| listening(*at, TcpListener::bind(at).map(drop), owner)));
    all.extend(reach.map(reachable));
    all
}

/// The process that has the data directory, if one has.
fn owner(setting: &Setting) -> Option<u32> {
    let lock = setting.data_dir.join("lock");
    let pid = std::fs::read_to_string(lock).ok()?.trim().parse::<u32>().ok()?;
    // A dead one leaves its number behind.
    let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (comm.trim() == "ringpost").then_some(pid)
}

/// Asks for the addresses of our own name: everybody who checks our EHLO does.
fn name_servers(config: &Config, name: &str) -> Vec<Finding> {
    let stripped = Rc::new(Cell::new(false));
    let told = stripped.clone();
    let tell = Box::new(move |on: bool| told.set(!on));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return vec![Finding::unknown("name servers", format!("not asked: {e}"), DNS_WHY)],
    };
    let begin = Instant::now();
    let asked = runtime.block_on(async {
        let servers = names::servers(Still, config, tell)?;
        let both = async { (servers.ipv4(name).await, servers.ipv6(name).await) };
        Ok::<_, String>(tokio::time::timeout(PATIENCE, both).await.ok())
    });
    match asked {
        Err(text) => vec![Finding::ok("name servers", "cannot be asked", DNS_WHY).must(text)],
        Ok(answers) => judge(name, answers, begin.elapsed(), stripped.get()),
    }
}

/// What the answers (IPv4, IPv6) for our own name say; none: there were none in time.
fn judge(
    name: &str,
    answers: Option<(Answer<IpAddr>, Answer<IpAddr>)>,
    took: Duration,
    stripped: bool,
) -> Vec<Finding> {
    let change =
        "name servers that answer: dns.servers, or /etc/resolv.conf; best a resolver on this host (unbound)";
    let Some((ipv4, ipv6)) = answers else {
        return vec![Finding::ok("name servers", "no answer in 5 s", DNS_WHY).change(change)];
    };
    let failed = [&ipv4, &ipv6].into_iter().find_map(|answer| match answer {
        Err(Missing { why: Why::Failed(text), .. }) => Some(format!("no use: {text}")),
        Err(Missing { why: Why::Bogus, .. }) => Some("the signatures of our own name are wrong".into()),
        _ => None,
    });
    if let Some(text) = failed {
        return vec![Finding::ok("name servers", text, DNS_WHY).change(change)];
    }
    let is = format!("answer in {took:.0?}");
    let mut all = vec![Finding::ok("name servers", is, DNS_WHY).unless(took <= SLOW, change)];
    let addresses: Vec<String> =
        [ipv4, ipv6].into_iter().flatten().flat_map(|found| found.records).map(|ip| ip.to_string()).collect();
    let why = "receivers refuse mail from hosts whose name (EHLO) does not exist";
    let is = match addresses.is_empty() {
        true => format!("{name} has no address"),
        false => format!("{name} is {}", addresses.join(", ")),
    };
    let change = "an A or AAAA record for server.hostname, and a PTR record back to it";
    all.push(Finding::ok("own name", is, why).unless(!addresses.is_empty(), change));
    let why = "without signatures there is no DANE";
    let is = if stripped { "the name servers strip signatures" } else { "nothing seen against it" };
    let change = "a resolver that passes signatures on (dns.servers), or dns.dnssec = \"off\"";
    all.push(Finding::ok("DNSSEC", is, why).unless(!stripped, change));
    all
}

/// Judges whether we could listen `at` an address, given who has the data directory.
fn listening(at: SocketAddr, bound: io::Result<()>, owner: Option<u32>) -> Finding {
    let why = "one address, one server";
    let Err(e) = bound else { return Finding::ok("address", format!("{at} is free"), why) };
    match (e.kind(), owner) {
        (io::ErrorKind::AddrInUse, Some(pid)) => {
            Finding::ok("address", format!("{at} is served, by ringpost (pid {pid}) as it seems"), why)
        }
        (io::ErrorKind::AddrInUse, None) => {
            Finding::ok("address", format!("{at} is in use by another program"), why)
                .must("stop that one (postfix, exim4?), or serve another address")
        }
        (io::ErrorKind::PermissionDenied, _) => {
            Finding::unknown("address", format!("{at} is not ours to open here: run doctor as root"), why)
        }
        _ => Finding::ok("address", format!("{at} cannot be opened: {e}"), why)
            .must("an address of this host in [[listener]]"),
    }
}

/// Connects to a mail exchanger and reads its greeting.
fn reachable(host: &str) -> Finding {
    let why = "many networks close port 25 to the outside";
    let change = "have the network's operator open port 25, or send through a smarthost (relay.smarthost)";
    match greeting(host) {
        Ok(text) if text.starts_with("220") => {
            Finding::ok("port 25 outside", format!("{host} greets: {}", text.escape_debug()), why)
        }
        Ok(text) => {
            let is = format!("{host} says {:?}", text.escape_debug().to_string());
            Finding::ok("port 25 outside", is, why).change(change)
        }
        Err(e) => Finding::ok("port 25 outside", format!("{host}: {e}"), why).change(change),
    }
}

fn greeting(host: &str) -> io::Result<String> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "it has no address");
    let mut stream = TcpStream::connect_timeout(&host.to_socket_addrs()?.next().ok_or_else(none)?, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = [0; 200];
    let n = stream.read(&mut line)?;
    let text = String::from_utf8_lossy(&line[..n]);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;
    use crate::route::mx::{Found, Security};
    use std::io::Write;

    fn found(ip: &str) -> Answer<IpAddr> {
        let (records, name) = (vec![ip.parse().unwrap()], "mx.example.net".into());
        Ok(Found { records, name, security: Security::Insecure, ttl: PATIENCE })
    }

    fn missing(why: Why) -> Answer<IpAddr> {
        Err(Missing { why, security: Security::Insecure, ttl: PATIENCE })
    }

    #[test]
    fn answers_are_judged() {
        let verdicts = |answers, took, stripped| {
            let all = judge("mx.example.net", answers, Duration::from_millis(took), stripped);
            all.iter().map(|f| f.verdict).collect::<Vec<_>>()
        };
        use Verdict::{Change, Ok};
        let good = || Some((found("192.0.2.1"), missing(Why::NoData)));
        assert_eq!(verdicts(good(), 20, false), [Ok, Ok, Ok]);
        assert_eq!(verdicts(good(), 900, true), [Change, Ok, Change]);
        assert_eq!(verdicts(Some((missing(Why::NoName), missing(Why::NoName))), 20, false), [Ok, Change, Ok]);
        assert_eq!(
            verdicts(Some((missing(Why::Failed("SERVFAIL".into())), found("::1"))), 20, false),
            [Change]
        );
        assert_eq!(verdicts(Some((missing(Why::Bogus), missing(Why::NoData))), 20, false), [Change]);
        assert_eq!(verdicts(None, 5000, false), [Change]);
    }

    #[test]
    fn addresses_are_judged() {
        let at: SocketAddr = "192.0.2.1:25".parse().unwrap();
        let verdict = |kind: io::ErrorKind, owner| listening(at, Err(kind.into()), owner).verdict;
        assert_eq!(listening(at, Ok(()), None).verdict, Verdict::Ok);
        assert_eq!(verdict(io::ErrorKind::AddrInUse, Some(7)), Verdict::Ok);
        assert_eq!(verdict(io::ErrorKind::AddrInUse, None), Verdict::Must);
        assert_eq!(verdict(io::ErrorKind::PermissionDenied, None), Verdict::Unknown);
        assert_eq!(verdict(io::ErrorKind::AddrNotAvailable, None), Verdict::Must);
    }

    #[test]
    fn a_greeting_is_read() {
        for (said, verdict) in [("220 mx ready\r\n", Verdict::Ok), ("554 go away\r\n", Verdict::Change)] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let at = listener.local_addr().unwrap().to_string();
            let peer = std::thread::spawn(move || listener.accept().unwrap().0.write_all(said.as_bytes()));
            assert_eq!(reachable(&at).verdict, verdict);
            peer.join().unwrap().unwrap();
        }
        assert_eq!(reachable("127.0.0.1:1").verdict, Verdict::Change);
    }
}

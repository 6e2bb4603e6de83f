//! Every odd answer of a name server, and what becomes of it.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn found<T>(name: &str, records: Vec<T>) -> Answer<T> {
    Ok(Found { records, name: name.into(), security: Security::Insecure, ttl: HOUR })
}

fn missing<T>(why: Why) -> Answer<T> {
    Err(Missing { why, security: Security::Insecure, ttl: Duration::from_secs(60) })
}

fn mx(list: &[(u16, &str)]) -> Answer<Mx> {
    found("a.example", list.iter().map(|(p, h)| Mx { preference: *p, host: (*h).into() }).collect())
}

fn ips(name: &str, texts: &[&str]) -> Answer<IpAddr> {
    if texts.is_empty() {
        return missing(Why::NoData);
    }
    found(name, texts.iter().map(|t| t.parse().unwrap()).collect())
}

fn four(texts: &[&str]) -> Addresses {
    Addresses { ipv4: ips("h", texts), ipv6: missing(Why::NoData) }
}

fn never(_: IpAddr) -> bool {
    false
}

fn names(c: &Candidates) -> Vec<&str> {
    c.hosts.iter().map(|h| &*h.host).collect()
}

fn failed(what: &str) -> Why {
    Why::Failed(what.into())
}

#[test]
fn preference_decides_and_chance_among_equals() {
    let answer = mx(&[(20, "c"), (10, "a"), (10, "b"), (5, "first"), (30, "a")]);
    let mut orders = std::collections::BTreeSet::new();
    for random in 0..64 {
        let c = candidates("a.example", &answer, random).unwrap();
        let order = names(&c).join(" ");
        assert!(order.starts_with("first ") && order.ends_with(" c"), "{order}");
        orders.insert(order);
    }
    assert_eq!(orders.len(), 2, "{orders:?}");
}

#[test]
fn no_mx_means_the_domain_itself() {
    let c = candidates("A.Example", &missing(Why::NoData), 1).unwrap();
    assert_eq!((c.origin, names(&c)), (Origin::Domain, vec!["a.example"]));
    let plan = assemble(&c, &[four(&["192.0.2.1"])], &never).unwrap();
    assert_eq!((plan.hosts[0].preference, plan.hosts.len()), (0, 1));
}

#[test]
fn answers_that_end_it() {
    for (answer, fault) in [
        (missing(Why::NoName), Fault::NoDomain),
        (mx(&[(0, "")]), Fault::NullMx),
        (mx(&[(0, ""), (10, "")]), Fault::NullMx),
        (mx(&[(10, "192.0.2.1"), (20, "-x"), (30, "a..b")]), Fault::NoHost),
        (missing(failed("SERVFAIL")), Fault::Temporary("SERVFAIL".into())),
        (missing(Why::Bogus), bogus("a.example")),
    ] {
        assert_eq!(candidates("a.example", &answer, 3), Err(fault), "{answer:?}");
    }
    // RFC 7505 §3: a null MX beside others is void.
    let c = candidates("a.example", &mx(&[(0, ""), (10, "b")]), 3).unwrap();
    assert_eq!(names(&c), ["b"]);
}

#[test]
fn codes() {
    let all = [Fault::NullMx, Fault::NoDomain, Fault::NoHost, Fault::Loop, Fault::Temporary("x".into())];
    let codes = all.clone().map(|f| (f.code(), f.status()));
    let expected =
        [(556, [5, 1, 10]), (550, [5, 1, 2]), (550, [5, 4, 4]), (554, [5, 4, 6]), (451, [4, 4, 3])];
    assert_eq!(codes, expected);
    for fault in all {
        assert_eq!(fault.is_permanent(), fault.status()[0] == 5);
        assert!(!fault.to_string().is_empty());
    }
}

#[test]
fn ten_thousand_hosts_are_bounded() {
    let names: Vec<String> = (0..10_000).map(|n| format!("h{n}.example")).collect();
    let list: Vec<(u16, &str)> = names.iter().map(|n| (7, n.as_str())).collect();
    let c = candidates("a.example", &mx(&list), 5).unwrap();
    assert_eq!(c.hosts.len(), HOSTS_MAX);
    let many: Vec<String> = (0..300).map(|n| format!("10.0.{}.{}", n / 250, n % 250 + 1)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let plan = assemble(&c, &vec![four(&many); HOSTS_MAX], &never).unwrap();
    assert!(plan.hosts.iter().all(|h| h.ipv4.len() == ADDRESSES_MAX));
    assert_eq!(plan.stops(25, Family::Any, 5, 1, |_| false).len(), 5);
}

#[test]
fn ourselves_and_what_is_not_better_is_left_out() {
    let c = candidates("a.example", &mx(&[(10, "x"), (20, "us"), (20, "y"), (30, "z")]), 1).unwrap();
    let of = |host: &str| match host {
        "us" => four(&["192.0.2.9"]),
        _ => four(&["192.0.2.1"]),
    };
    let addresses: Vec<Addresses> = c.hosts.iter().map(|h| of(&h.host)).collect();
    let ours = |ip: IpAddr| ip == IpAddr::from([192, 0, 2, 9]);
    let plan = assemble(&c, &addresses, &ours).unwrap();
    assert_eq!(plan.hosts.iter().map(|h| &*h.name).collect::<Vec<_>>(), ["x"]);
    // We are the best: a loop.
    let best = candidates("a.example", &mx(&[(5, "us"), (20, "y")]), 1).unwrap();
    let addresses = [four(&["192.0.2.9"]), four(&["192.0.2.1"])];
    assert_eq!(assemble(&best, &addresses, &ours), Err(Fault::Loop));
    // One address of ours among others is enough.
    let mixed = Addresses { ipv4: ips("us", &["192.0.2.8", "192.0.2.9"]), ipv6: missing(Why::NoData) };
    let alone = candidates("us", &missing(Why::NoData), 1).unwrap();
    assert_eq!(assemble(&alone, &[mixed], &ours), Err(Fault::Loop));
    // The better one cannot be looked up just now: it may yet take the mail.
    let c = candidates("a.example", &mx(&[(5, "x"), (20, "us")]), 1).unwrap();
    let lost = Addresses { ipv4: missing(failed("time-out")), ipv6: missing(Why::NoData) };
    let addresses = [lost, four(&["192.0.2.9"])];
    assert_eq!(assemble(&c, &addresses, &ours), Err(Fault::Temporary("time-out".into())));
}

#[test]
fn hosts_without_addresses() {
    let c = candidates("a.example", &mx(&[(10, "x"), (20, "y")]), 1).unwrap();
    let none = || Addresses { ipv4: missing(Why::NoName), ipv6: missing(Why::NoName) };
    assert_eq!(assemble(&c, &[none(), none()], &never), Err(Fault::NoHost));
    let plan = assemble(&c, &[none(), four(&["192.0.2.1"])], &never).unwrap();
    assert_eq!((plan.hosts.len(), &*plan.hosts[0].name), (1, "y"));
    let lost = Addresses { ipv4: missing(failed("REFUSED")), ipv6: missing(Why::NoData) };
    assert_eq!(assemble(&c, &[none(), lost], &never), Err(Fault::Temporary("REFUSED".into())));
    let forged = Addresses { ipv4: missing(Why::Bogus), ipv6: missing(Why::NoData) };
    assert_eq!(assemble(&c, &[none(), forged], &never), Err(bogus("y")));
    let own = candidates("a.example", &missing(Why::NoData), 1).unwrap();
    assert_eq!(assemble(&own, &[none()], &never), Err(Fault::NoDomain));
    assert_eq!(assemble(&own, &[four(&[])], &never), Err(Fault::NoHost));
}

#[test]
fn one_family_is_enough_and_strange_addresses_are_not() {
    let c = candidates("a.example", &mx(&[(10, "x")]), 1).unwrap();
    let aaaa_only = Addresses { ipv4: missing(Why::NoData), ipv6: ips("x", &["2001:db8::1"]) };
    assert_eq!(assemble(&c, &[aaaa_only], &never).unwrap().hosts[0].ipv6.len(), 1);
    // Name servers that know no AAAA and fail.
    let half = Addresses { ipv4: ips("x", &["192.0.2.1"]), ipv6: missing(failed("SERVFAIL")) };
    assert_eq!(assemble(&c, &[half], &never).unwrap().hosts[0].ipv4.len(), 1);
    let strange = Addresses {
        ipv4: ips("x", &["0.0.0.0", "255.255.255.255", "224.0.0.1"]),
        ipv6: ips("x", &["::", "ff02::1"]),
    };
    assert_eq!(assemble(&c, &[strange], &never), Err(Fault::NoHost));
}

#[test]
fn the_shortest_time_to_live_holds() {
    let c = candidates("a.example", &mx(&[(10, "x")]), 1).unwrap();
    let mut addresses = four(&["192.0.2.1"]);
    assert_eq!(assemble(&c, &[addresses.clone()], &never).unwrap().ttl, Duration::from_secs(60));
    let security = Security::Insecure;
    addresses.ipv6 = Err(Missing { why: Why::NoData, security, ttl: Duration::ZERO });
    assert_eq!(assemble(&c, &[addresses], &never).unwrap().ttl, Duration::ZERO);
}

#[test]
fn security_of_each_part_and_the_base_domain() {
    let secure = |name: &str, texts: &[&str]| {
        ips(name, texts).map(|found| Found { security: Security::Secure, ..found })
    };
    let answer = mx(&[(10, "x")]).map(|found| Found { security: Security::Secure, ..found });
    let c = candidates("a.example", &answer, 1).unwrap();
    let both = Addresses { ipv4: secure("real", &["192.0.2.1"]), ipv6: missing(Why::NoData) };
    let plan = assemble(&c, &[both], &never).unwrap();
    assert_eq!((plan.security, plan.hosts[0].security), (Security::Secure, Security::Secure));
    assert_eq!((&*plan.hosts[0].name, &*plan.hosts[0].base), ("x", "real"));
    let mixed = Addresses { ipv4: secure("x", &["192.0.2.1"]), ipv6: ips("x", &["2001:db8::1"]) };
    let plan = assemble(&c, &[mixed], &never).unwrap();
    assert_eq!((plan.security, plan.hosts[0].security), (Security::Secure, Security::Insecure));
}

fn plan(hosts: &[(u16, &[&str], &[&str])]) -> Plan {
    let parse = |list: &[&str]| list.iter().map(|t| t.parse().unwrap()).collect::<Vec<IpAddr>>();
    let host = |(n, (preference, v4, v6)): (usize, &(u16, &[&str], &[&str]))| Exchange {
        name: format!("h{n}").into(),
        preference: *preference,
        ipv4: parse(v4),
        ipv6: parse(v6),
        security: Security::Insecure,
        base: format!("h{n}").into(),
    };
    let hosts = hosts.iter().enumerate().map(host).collect();
    Plan { origin: Origin::Mx, security: Security::Insecure, hosts, ttl: HOUR }
}

fn order(stops: &[Stop]) -> Vec<String> {
    stops.iter().map(|s| format!("{} {}", s.host, s.address)).collect()
}

#[test]
fn stops_by_preference_and_family() {
    let p = plan(&[(10, &["192.0.2.1"], &["2001:db8::1"]), (20, &["192.0.2.2"], &[])]);
    let four = ["0 192.0.2.1:25", "0 [2001:db8::1]:25", "1 192.0.2.2:25"];
    assert_eq!(order(&p.stops(25, Family::Ipv4, 5, 1, |_| false)), four);
    let six = ["0 [2001:db8::1]:25", "0 192.0.2.1:25", "1 192.0.2.2:25"];
    assert_eq!(order(&p.stops(25, Family::Ipv6, 5, 1, |_| false)), six);
    let any: std::collections::BTreeSet<_> =
        (0..32).map(|r| order(&p.stops(25, Family::Any, 5, r, |_| false))).collect();
    assert_eq!(any.len(), 2, "{any:?}");
    // One that has just failed comes last, but stays.
    let dead = |a: SocketAddr| a.ip() == IpAddr::from([192, 0, 2, 1]);
    let last = ["0 [2001:db8::1]:25", "1 192.0.2.2:25", "0 192.0.2.1:25"];
    assert_eq!(order(&p.stops(25, Family::Ipv4, 5, 1, dead)), last);
    assert_eq!(order(&p.stops(25, Family::Ipv4, 1, 1, |_| false)), ["0 192.0.2.1:25"]);
}

#[test]
fn many_addresses_leave_room_for_the_other_family_and_the_next_host() {
    let many = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4", "2001:db8::5", "2001:db8::6"];
    let p = plan(&[(10, &["192.0.2.1"], &many), (20, &["192.0.2.2"], &[])]);
    for random in 0..16 {
        let stops = p.stops(25, Family::Ipv6, 5, random, |_| false);
        assert!(stops.iter().any(|s| s.address.ip() == IpAddr::from([192, 0, 2, 1])), "{stops:?}");
        assert!(stops.iter().any(|s| s.host == 1), "{stops:?}");
    }
}

#[test]
fn address_literals() {
    let ip = IpAddr::from([192, 0, 2, 1]);
    let plan = literal(ip, &never).unwrap();
    assert_eq!((plan.origin, plan.hosts[0].ipv4.clone()), (Origin::Literal, vec![ip]));
    assert_eq!(literal(ip, &|own| own == ip), Err(Fault::Loop));
    assert_eq!(literal([0, 0, 0, 0].into(), &never), Err(Fault::NoHost));
}

#[test]
fn domains() {
    for good in ["a.example", "a", "x_y.example", "b\u{fc}cher.example"] {
        assert!(is_domain(good.as_bytes()), "{good}");
    }
    for bad in ["", "a..b", ".a", "a.", "1.2.3.4", "-a.example", "[192.0.2.1]", "a b"] {
        assert!(!is_domain(bad.as_bytes()), "{bad}");
    }
}

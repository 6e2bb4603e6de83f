//! A next hop as operators write it, parsed.
//!
//! Owns the forms of `next_hop` and `smarthost`. Knows no name server: host names stay text. A
//! text that is no next hop is an error that says what is expected.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Whether mail to a next hop is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum TlsPolicy {
    /// Never.
    None,
    /// If the next hop offers it.
    #[default]
    Opportunistic,
    /// Or not at all.
    Required,
    /// As its TLSA records say (RFC 7672); without any, as if it were opportunistic.
    Dane,
}

/// A host to connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// A name to look up (A, AAAA), lower case, and a port.
    Name(String, u16),
    /// An address and a port.
    Address(SocketAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name, port) => write!(f, "{name}:{port}"),
            Host::Address(a) => a.fmt(f),
        }
    }
}

/// What kind of next hop it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// SMTP to one of these hosts, in this order.
    Smtp(Vec<Host>),
    /// SMTP to the mail exchangers of this domain.
    Mx(String),
    /// LMTP over TCP.
    Lmtp(Host),
    /// LMTP over a socket in the file system.
    LmtpUnix(PathBuf),
}

/// Where mail goes next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// A stable text for limits, lists and logs: equal if and only if target and policy are.
    pub key: String,
    /// What it is.
    pub target: Target,
    /// Encryption.
    pub tls: TlsPolicy,
    /// We log in there.
    pub login: bool,
}

impl NextHop {
    /// Parses `host:port`, `[addr]:port`, `ip:port` (port 25 if left out), `mx:domain`,
    /// `lmtp:host:port` or `lmtp:unix:/path`.
    pub fn parse(text: &str, tls: TlsPolicy) -> Result<Self, String> {
        let target = if let Some(domain) = text.strip_prefix("mx:") {
            Target::Mx(host_name(domain)?)
        } else if let Some(path) = text.strip_prefix("lmtp:unix:") {
            if !path.starts_with('/') {
                return Err(format!("{text:?}: the path of a socket must begin with /"));
            }
            Target::LmtpUnix(path.into())
        } else if let Some(host) = text.strip_prefix("lmtp:") {
            Target::Lmtp(parse_host(host, 24)?)
        } else {
            Target::Smtp(vec![parse_host(text, 25)?])
        };
        let what = match &target {
            Target::Smtp(hosts) => hosts[0].to_string(),
            Target::Mx(domain) => format!("mx:{domain}"),
            Target::Lmtp(host) => format!("lmtp:{host}"),
            Target::LmtpUnix(path) => format!("lmtp:unix:{}", path.display()),
        };
        // Mail without a route goes as by "mx:domain" with DANE: the same key, so the same destination.
        let policy = match (tls, &target) {
            (TlsPolicy::Opportunistic, Target::Smtp(_) | Target::Lmtp(_) | Target::LmtpUnix(_))
            | (TlsPolicy::Dane, Target::Mx(_)) => "",
            (TlsPolicy::None, _) => " tls=none",
            (TlsPolicy::Opportunistic, _) => " tls=opportunistic",
            (TlsPolicy::Required, _) => " tls=required",
            (TlsPolicy::Dane, _) => " tls=dane",
        };
        Ok(NextHop { key: format!("{what}{policy}"), target, tls, login: false })
    }

    /// The same with a login.
    #[must_use]
    pub fn with_login(mut self) -> Self {
        self.key += " with login";
        self.login = true;
        self
    }

    /// The hosts to connect to; none if they are the mail exchangers of a domain, or it is no host.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        match &self.target {
            Target::Smtp(hosts) => hosts,
            Target::Lmtp(host) => std::slice::from_ref(host),
            Target::Mx(_) | Target::LmtpUnix(_) => &[],
        }
    }
}

fn parse_host(text: &str, default_port: u16) -> Result<Host, String> {
    let wrong =
        || format!("{text:?} is not a host: write \"host:port\", \"192.0.2.7:25\" or \"[2001:db8::7]:25\"");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inner, after) = rest.split_once(']').ok_or_else(wrong)?;
            let port = if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(wrong)?) };
            (inner, port)
        }
        None => text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p))),
    };
    let port = match port {
        None => default_port,
        Some(p) => p.parse().ok().filter(|p| *p != 0).ok_or_else(wrong)?,
    };
    match host.parse::<IpAddr>() {
        Ok(ip) => Ok(Host::Address(SocketAddr::new(ip, port))),
        Err(_) if host.contains(':') => Err(wrong()),
        // "[host]:port" is what people have from Postfix; there is no MX look-up to suppress here.
        Err(_) => host_name(host).map(|name| Host::Name(name, port)),
    }
}

/// Checks a host or domain name (RFC 1123 §2.1, underscores allowed) and gives it in lower case.
pub fn host_name(text: &str) -> Result<String, String> {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b >= 0x80)
    };
    let digits = text.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    if text.len() > 253 || !text.split('.').all(label) || digits {
        return Err(format!("{text:?} is not a host or domain name"));
    }
    Ok(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Result<String, String> {
        NextHop::parse(text, TlsPolicy::Opportunistic).map(|n| n.key)
    }

    #[test]
    fn forms() {
        for (text, expected) in [
            ("192.0.2.7:2525", "192.0.2.7:2525"),
            ("192.0.2.7", "192.0.2.7:25"),
            ("[2001:DB8::7]:25", "[2001:db8::7]:25"),
            ("[192.0.2.7]", "192.0.2.7:25"),
            ("[Relay.Example]:587", "relay.example:587"),
            ("MX.example", "mx.example:25"),
            ("mx:Other.example", "mx:other.example tls=opportunistic"),
            ("lmtp:box.example", "lmtp:box.example:24"),
            ("lmtp:[::1]:2424", "lmtp:[::1]:2424"),
            ("lmtp:unix:/run/l", "lmtp:unix:/run/l"),
        ] {
            assert_eq!(key(text).as_deref(), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "a b:25",
            "x:0",
            "x:65536",
            "x:",
            "::1",
            "[::1",
            "[::1]25",
            "mx:",
            "-a.example",
            "1.2.3.999",
            "lmtp:unix:r",
        ] {
            assert!(key(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn policy_is_part_of_the_key() {
        let none = NextHop::parse("mx.example", TlsPolicy::None).unwrap();
        assert_ne!(none.key, key("mx.example").unwrap());
        assert_eq!(none.clone().with_login().key, "mx.example:25 tls=none with login");
        assert_eq!(none.hosts(), [Host::Name("mx.example".into(), 25)]);
        assert_eq!(NextHop::parse("mx:a.example", TlsPolicy::Dane).unwrap().key, "mx:a.example");
        assert_eq!(NextHop::parse("a.example", TlsPolicy::Dane).unwrap().key, "a.example:25 tls=dane");
        assert!(NextHop::parse("mx:a.example", TlsPolicy::None).unwrap().hosts().is_empty());
        let lmtp = NextHop::parse("lmtp:box.example", TlsPolicy::None).unwrap();
        assert_eq!(lmtp.hosts(), [Host::Name("box.example".into(), 24)]);
    }
}

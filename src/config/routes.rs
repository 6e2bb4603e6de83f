//! The rules of `[[route]]`, and of a next hop wherever one is written.
//!
//! What is wrong is told with its key; such a route is left out of what is returned.

use super::diagnose::Report;
use super::raw::{self, RouteTls};
use crate::route::destination::{NextHop, Target, TlsPolicy, host_name};

/// `[[route]]`: domain and next hop of each.
pub(super) fn routes(written: &[raw::Route], report: &mut Report<'_>) -> Vec<(String, NextHop)> {
    let mut all: Vec<(String, NextHop)> = Vec::new();
    for (n, route) in written.iter().enumerate() {
        let at = |key: &str| format!("route.{n}.{key}");
        let domain = if route.domain == "*" {
            Ok(route.domain.clone())
        } else if let Some(below) = route.domain.strip_prefix('.') {
            host_name(below).map(|d| format!(".{d}"))
        } else {
            host_name(&route.domain)
        };
        let hop = if route.next_hop.is_empty() {
            report.error(&at("next_hop"), "is required", "write next_hop = \"host:port\"");
            None
        } else {
            next_hop(&route.next_hop, route.tls, &at("next_hop"), report)
        };
        match (domain, hop) {
            (Err(_), _) => {
                let help = "write \"example.net\", \".example.net\" (all below it) or \"*\"";
                report.error(&at("domain"), format!("{:?} is not a domain", route.domain), help);
            }
            (Ok(d), _) if all.iter().any(|(other, _)| *other == d) => {
                report.error(&at("domain"), format!("{d:?} has a route already"), "");
            }
            (Ok(d), Some(hop)) => all.push((d, hop)),
            (Ok(_), None) => {}
        }
    }
    all
}

/// A next hop as it is written; `None`: it is told what is wrong with it.
pub(super) fn next_hop(text: &str, tls: RouteTls, key: &str, report: &mut Report<'_>) -> Option<NextHop> {
    let tls = match tls {
        RouteTls::None => TlsPolicy::None,
        RouteTls::Opportunistic => TlsPolicy::Opportunistic,
        RouteTls::Required => TlsPolicy::Required,
        RouteTls::Dane => TlsPolicy::Dane,
    };
    let hop = match NextHop::parse(text, tls) {
        Ok(hop) => hop,
        Err(e) => {
            report.error(key, e, "");
            return None;
        }
    };
    if matches!(hop.target, Target::LmtpUnix(_)) && matches!(tls, TlsPolicy::Required | TlsPolicy::Dane) {
        let what = "a socket in the file system has neither name nor address that a certificate could prove";
        report.error(key, what, "leave tls out: nobody else reads what goes over it");
        return None;
    }
    Some(hop)
}

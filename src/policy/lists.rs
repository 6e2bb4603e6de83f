//! DNS lists of clients (RFC 5782): what is asked about an address, and what the answers say.
//!
//! Owns names, codes and scores. Asks nobody and keeps nothing; an answer that is not as RFC 5782 §2.3 has it
//! says nothing. Cannot fail.

use ipnet::IpNet;
use std::fmt::Write;
use std::net::IpAddr;

/// One list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    /// Its zone, lower case, without a dot at the end.
    pub zone: String,
    /// Answers that count; none: all but those that say that the list does not serve us.
    pub codes: Vec<IpNet>,
    /// What it counts; below 0: a list of the good.
    pub score: i32,
}

/// What a list has said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// It has the address.
    Listed,
    /// It has not.
    Clean,
    /// It does not answer us: refused, or a limit.
    Refused,
}

/// What all lists have said together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// The sum of the scores.
    pub score: i32,
    /// The first list with a score above 0 that has the address.
    pub zone: Option<String>,
}

/// The name that is asked about `address` in `zone` (RFC 5782 §2.1, §2.4).
#[must_use]
pub fn name(address: IpAddr, zone: &str) -> String {
    let mut name = String::with_capacity(zone.len() + 65);
    match address.to_canonical() {
        // Writing into a string does not fail.
        IpAddr::V4(a) => a.octets().iter().rev().for_each(|b| write!(name, "{b}.").expect("a string")),
        IpAddr::V6(a) => {
            for b in a.octets().iter().rev() {
                write!(name, "{:x}.{:x}.", b & 15, b >> 4).expect("a string");
            }
        }
    }
    name + zone
}

impl List {
    /// What these addresses of an answer say.
    #[must_use]
    pub fn read(&self, answer: &[IpAddr]) -> Said {
        let octets = |ip: &IpAddr| match ip {
            IpAddr::V4(a) => a.octets(),
            IpAddr::V6(_) => [0; 4],
        };
        // By custom of the large lists: the asker is over its limit, or asks through an open resolver.
        if answer.iter().any(|ip| octets(ip)[..3] == [127, 255, 255]) {
            return Said::Refused;
        }
        // RFC 5782 §2.1: 127.0.0.0/8. Anything else is a zone that has lapsed and answers to all.
        let counts = |ip: &&IpAddr| {
            octets(ip)[0] == 127 && (self.codes.is_empty() || self.codes.iter().any(|net| net.contains(*ip)))
        };
        if answer.iter().any(|ip| counts(&ip)) { Said::Listed } else { Said::Clean }
    }
}

impl Verdict {
    /// Adds what `list` has said.
    pub fn add(&mut self, list: &List, said: Said) {
        if said == Said::Listed {
            self.score = self.score.saturating_add(list.score);
            if list.score > 0 {
                self.zone.get_or_insert_with(|| list.zone.clone());
            }
        }
    }

    /// The zone to name, if the sum reaches `threshold`.
    #[must_use]
    pub fn listed(&self, threshold: i32) -> Option<&str> {
        self.zone.as_deref().filter(|_| self.score >= threshold)
    }
}

/// `%a` becomes the address, `%z` the zone.
#[must_use]
pub fn text(form: &str, address: IpAddr, zone: &str) -> String {
    form.replace("%a", &address.to_canonical().to_string()).replace("%z", zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(codes: &[&str], score: i32) -> List {
        List { zone: "l.test".into(), codes: codes.iter().map(|c| c.parse().unwrap()).collect(), score }
    }

    fn said(list: &List, answer: &[&str]) -> Said {
        list.read(&answer.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn names_are_backwards() {
        let of = |a: &str| name(a.parse().unwrap(), "l.test");
        assert_eq!(of("192.0.2.99"), "99.2.0.192.l.test");
        assert_eq!(of("::ffff:192.0.2.99"), "99.2.0.192.l.test");
        // The example of RFC 5782 §2.4.
        assert_eq!(
            of("2001:db8:1:2:3:4:567:89ab"),
            "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.l.test"
        );
        assert_eq!(text("%a: see %z", "192.0.2.1".parse().unwrap(), "l.test"), "192.0.2.1: see l.test");
    }

    #[test]
    fn answers() {
        let any = list(&[], 1);
        assert_eq!(said(&any, &["127.0.0.2"]), Said::Listed);
        assert_eq!((said(&any, &[]), said(&any, &["192.0.2.1"])), (Said::Clean, Said::Clean));
        assert_eq!(said(&any, &["127.255.255.254"]), Said::Refused);
        assert_eq!(said(&any, &["::1"]), Said::Clean);
        let some = list(&["127.0.0.2/32", "127.0.0.8/29"], 1);
        assert_eq!(
            (said(&some, &["127.0.0.3"]), said(&some, &["127.0.0.3", "127.0.0.9"])),
            (Said::Clean, Said::Listed)
        );
    }

    #[test]
    fn scores_add_up() {
        let (bad, worse, good) =
            (list(&[], 2), List { zone: "w.test".into(), ..list(&[], 3) }, list(&[], -4));
        let sum = |all: &[(&List, Said)]| {
            let mut v = Verdict::default();
            all.iter().for_each(|(l, s)| v.add(l, *s));
            v.listed(3).map(str::to_owned)
        };
        use Said::{Clean, Listed, Refused};
        assert_eq!(sum(&[(&bad, Listed), (&worse, Clean)]), None);
        assert_eq!(sum(&[(&bad, Listed), (&worse, Listed)]).as_deref(), Some("l.test"));
        assert_eq!(sum(&[(&bad, Refused), (&worse, Listed)]).as_deref(), Some("w.test"));
        assert_eq!(sum(&[(&bad, Listed), (&worse, Listed), (&good, Listed)]), None);
    }
}

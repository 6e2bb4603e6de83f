//! L2: the name of a site: domains with the same mail exchangers go to the same place.
//!
//! Owns the form of the name, which says which hosts there are and in which order they are tried, so that
//! two domains have the same name if and only if mail for both may be sent to the same hosts in the same
//! way. Knows no limits and no connections. Cannot fail.
//!
//! Hosts of the best preference come first. Those that share the end of their names are written once:
//! `(alt1|alt2,alt3).mx.example.net` is `alt1` and `alt2` in any order, then `alt3`.

use crate::route::mx::Plan;

/// Begins the name of each site.
pub const PREFIX: &str = "site:";

/// The name of the site that `plan` leads to. None of its hosts can have the characters that divide
/// them.
#[must_use]
pub fn name(plan: &Plan) -> String {
    let mut hosts: Vec<(u16, &str)> = plan.hosts.iter().map(|h| (h.preference, &*h.name)).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let [first, rest @ ..] = &hosts[..] else { return PREFIX.into() };
    if rest.is_empty() {
        return format!("{PREFIX}{}", first.1);
    }
    let whole = first.1.split_once('.').map_or("", |(_, end)| end);
    let end = rest.iter().fold(whole, |end, (_, host)| common_end(end, host));
    let mut out = format!("{PREFIX}(");
    for (n, (preference, host)) in hosts.iter().enumerate() {
        if n > 0 {
            out.push(if hosts[n - 1].0 == *preference { '|' } else { ',' });
        }
        out.push_str(host[..host.len() - end.len()].trim_end_matches('.'));
    }
    out.push(')');
    if !end.is_empty() {
        out.push('.');
        out.push_str(end);
    }
    out
}

/// The labels of `end` at the end of `host`, which is longer.
fn common_end<'a>(end: &'a str, host: &str) -> &'a str {
    let mut starts = std::iter::once(0).chain(end.match_indices('.').map(|(at, _)| at + 1));
    let fits = |at: &usize| host.strip_suffix(&end[*at..]).is_some_and(|before| before.ends_with('.'));
    starts.find(fits).map_or("", |at| &end[at..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::mx::{Exchange, Origin, Security};
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn site(hosts: &[(u16, &str)]) -> String {
        let exchange = |(preference, name): &(u16, &str)| Exchange {
            name: (*name).into(),
            preference: *preference,
            ipv4: vec![[192, 0, 2, 1].into()],
            ipv6: Vec::new(),
            security: Security::Insecure,
            base: (*name).into(),
        };
        let hosts = hosts.iter().map(exchange).collect();
        let (origin, security, ttl) = (Origin::Mx, Security::Insecure, Duration::ZERO);
        name(&Plan { origin, security, hosts, ttl })
    }

    #[test]
    fn names_say_who_and_in_which_order() {
        for (hosts, expected) in [
            (&[(10, "mx.example.net")][..], "site:mx.example.net"),
            (&[(0, "[192.0.2.1]")], "site:[192.0.2.1]"),
            (&[(10, "b.mx.test"), (10, "a.mx.test"), (20, "c.mx.test")], "site:(a|b,c).mx.test"),
            (&[(20, "a.mx.test"), (10, "x.b.mx.test")], "site:(x.b,a).mx.test"),
            (&[(10, "a.test"), (20, "a.other")], "site:(a.test,a.other)"),
            (&[(10, "mx.test"), (10, "xmx.test")], "site:(mx|xmx).test"),
            (&[(10, "mx.test"), (10, "a.mx.test")], "site:(a.mx|mx).test"),
            (&[(10, "one"), (10, "two")], "site:(one|two)"),
        ] {
            assert_eq!(site(hosts), expected, "{hosts:?}");
        }
        assert_ne!(site(&[(1, "a.t"), (2, "b.t")]), site(&[(2, "a.t"), (1, "b.t")]));
        // The numbers themselves mean nothing.
        assert_eq!(site(&[(1, "a.t"), (2, "b.t")]), site(&[(10, "a.t"), (90, "b.t")]));
    }

    proptest! {
        #[test]
        fn other_hosts_have_another_name(
            a in proptest::collection::btree_set("[ab]{1,2}(\\.[ab]{1,2}){0,3}", 1..4),
            b in proptest::collection::btree_set("[ab]{1,2}(\\.[ab]{1,2}){0,3}", 1..4),
        ) {
            let of = |set: &BTreeSet<String>| {
                site(&set.iter().map(|h| (10, h.as_str())).collect::<Vec<_>>())
            };
            prop_assert_eq!(of(&a) == of(&b), a == b, "{} {}", of(&a), of(&b));
        }
    }
}

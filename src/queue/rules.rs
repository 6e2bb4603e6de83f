//! L2: rules of operators: which destinations are not sent to, why, and until when.
//!
//! Plain data, the same on all cores; who keeps them over a restart is the composition's affair. A rule
//! names a destination, a site or a domain, or the end of such a name. Knows no list of messages. Cannot
//! fail.

use crate::base::time::Wall;
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// Rules at most.
pub const RULES_MAX: usize = 1000;

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Names it; never given again while the rule lasts.
    pub number: u32,
    /// `*`, the end of a name after `*` (`*.example.net`), or a name: of a destination as lists show it,
    /// of a site, of a domain.
    pub what: String,
    /// Why; for people.
    pub reason: String,
    /// Who made it; for people.
    pub by: String,
    /// When, milliseconds since 1970.
    pub since: u64,
    /// When it ends by itself, milliseconds since 1970; none: not before it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

impl Rule {
    /// True if it still holds at `wall`.
    #[must_use]
    pub fn holds(&self, wall: Wall) -> bool {
        self.until.is_none_or(|until| until > wall.0)
    }

    /// True if it is about something of this name.
    #[must_use]
    pub fn is_about(&self, name: &str) -> bool {
        let bare = name.split_once(':').map_or(name, |(kind, rest)| match kind {
            "mx" | "site" => rest,
            _ => name,
        });
        [name, bare].into_iter().any(|name| fits(&self.what, name))
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    let ends = |end: &str| {
        let at = name.len().checked_sub(end.len());
        at.is_some_and(|at| name.as_bytes()[at..].eq_ignore_ascii_case(end.as_bytes()))
    };
    pattern.strip_prefix('*').map_or_else(|| pattern.eq_ignore_ascii_case(name), ends)
}

/// The rules of all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules(Rc<[Rule]>);

impl Rules {
    /// These.
    #[must_use]
    pub fn new(rules: &[Rule]) -> Self {
        Rules(rules.into())
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rule with this number.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&Rule> {
        self.0.iter().find(|r| r.number == number)
    }

    /// The first rule that holds for something with one of these names.
    #[must_use]
    pub fn first(&self, names: &[&str], wall: Wall) -> Option<&Rule> {
        self.0.iter().find(|r| r.holds(wall) && names.iter().any(|name| r.is_about(name)))
    }

    /// Leaves out those that are over; `true` if there were any.
    pub fn expire(&mut self, wall: Wall) -> bool {
        if self.0.iter().all(|r| r.holds(wall)) {
            return false;
        }
        self.0 = self.0.iter().filter(|r| r.holds(wall)).cloned().collect();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(number: u32, what: &str, until: Option<u64>) -> Rule {
        Rule { number, what: what.into(), reason: "x".into(), by: "y".into(), since: 0, until }
    }

    #[test]
    fn names_domains_and_ends_of_names() {
        for (what, name, fits) in [
            ("*", "anything:25", true),
            ("a.example", "mx:A.example", true),
            ("mx:a.example", "mx:a.example", true),
            ("a.example", "mx:b.a.example", false),
            ("*.a.example", "mx:b.a.example", true),
            ("*.mx.net", "site:(a|b).mx.net", true),
            ("(a|b).mx.net", "site:(a|b).mx.net", true),
            ("192.0.2.1:25", "192.0.2.1:25", true),
            ("25", "192.0.2.1:25", false),
        ] {
            assert_eq!(rule(1, what, None).is_about(name), fits, "{what} {name}");
        }
    }

    #[test]
    fn rules_end_by_themselves() {
        let mut rules = Rules::new(&[rule(1, "a", Some(5000)), rule(2, "*", None)]);
        let first = |r: &Rules, ms| r.first(&["b", "a"], Wall(ms)).map(|r| r.number);
        assert_eq!((first(&rules, 4999), first(&rules, 5000)), (Some(1), Some(2)));
        assert!(!rules.expire(Wall(4999)) && rules.expire(Wall(5000)));
        assert!(rules.get(1).is_none() && rules.get(2).is_some() && !rules.is_empty());
    }
}

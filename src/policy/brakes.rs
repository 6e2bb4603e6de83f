//! Brakes: how much may be sent in a time, by login, address, network or domain of the sender; how much of
//! it may fail; how much may wait.
//!
//! Owns the counters of all rules, shared by all cores: fixed tables of atomics, whatever comes in. Says what
//! is over a limit and what was to be done then; the shell does it, and tells. Names are hashed, never kept.
//! What is over the limit of a rate is not counted by it: whoever goes on trying sends at the pace of the
//! rate. Nothing here fails.

use super::place;
use super::rates::Rates;
use super::ratio::Ratio;
use super::waiting::Waiting;
use crate::base::time::Mono;
use crate::route::tables::split;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Whose mail is counted together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// That of a login.
    Login,
    /// That of an IPv4 address or an IPv6 /64.
    Address,
    /// That of an IPv4 /24 or an IPv6 /48.
    Network,
    /// That with senders of one domain.
    SenderDomain,
}

/// What is done with mail above a limit. Of several the last in this order is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Action {
    /// It is taken, and held in the queue.
    Hold,
    /// 450 4.7.1.
    Tempfail,
    /// 550 5.7.1.
    Reject,
}

/// What is limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// Messages in a time.
    Messages,
    /// Recipients in a time.
    Recipients,
    /// Bytes of messages in a time.
    Bytes,
    /// The share of recipients that fail.
    Failures,
    /// Messages that wait.
    Queue,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Messages => "messages",
            Limit::Recipients => "recipients",
            Limit::Bytes => "bytes",
            Limit::Failures => "failed recipients",
            Limit::Queue => "messages waiting",
        })
    }
}

/// So much in such a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// At least 1.
    pub count: u32,
    /// In this time.
    pub per: Duration,
}

/// How many recipients may fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failing {
    /// Share of all, in percent.
    pub percent: u32,
    /// Below so many nothing is said.
    pub least: u32,
    /// Within this time.
    pub window: Duration,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Whose mail is counted together.
    pub by: Scope,
    /// Messages.
    pub messages: Option<Pace>,
    /// Recipients that were taken.
    pub recipients: Option<Pace>,
    /// KiB of messages, each rounded up.
    pub kib: Option<Pace>,
    /// Recipients that were refused, here or by next hops; of logins only.
    pub failing: Option<Failing>,
    /// Messages that wait; of logins only. 0: no limit.
    pub queue: u32,
    /// Clients that may relay by their address are counted by address and network, too.
    pub trusted: bool,
    /// What is done above a limit.
    pub action: Action,
}

/// Who sends what.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// The login.
    pub login: Option<&'a [u8]>,
    /// The client.
    pub address: IpAddr,
    /// It may relay by its address.
    pub trusted: bool,
    /// The sender; empty: the null sender.
    pub sender: &'a [u8],
}

/// A limit is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Over {
    /// Of whom.
    pub by: Scope,
    /// Which.
    pub limit: Limit,
    /// What is to be done.
    pub action: Action,
    /// Nobody was told of this limit of this one within the last minute.
    pub is_news: bool,
}

impl Over {
    /// What is told of it, for people.
    #[must_use]
    pub fn text(&self, who: &Who<'_>) -> String {
        let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let of = match self.by {
            Scope::Login => format!("login {}", name(who.login.unwrap_or_default())),
            Scope::Address => format!("address {}", who.address.to_canonical()),
            Scope::Network => format!("the network of {}", who.address.to_canonical()),
            Scope::SenderDomain => format!("sender domain {}", name(split(who.sender).1)),
        };
        format!("too many {} of {of}", self.limit)
    }
}

/// The rules and their counters. Cheap to clone; shared by all cores.
#[derive(Clone)]
pub struct Brakes(Arc<Shared>);

struct Shared {
    brakes: Vec<Brake>,
    told: Rates,
    /// None: no rule asks how much waits.
    waiting: Option<Waiting>,
}

struct Brake {
    rule: Rule,
    messages: Rates,
    recipients: Rates,
    kib: Rates,
    failing: Option<(Failing, Ratio)>,
}

/// Cells of a row of each table.
const CELLS: usize = 1 << 15;
/// Of the table of what was told.
const TOLD: usize = 1 << 12;

impl Brakes {
    /// Counters for these rules; `None` without any. `seed` gives secret numbers.
    #[must_use]
    pub fn new(rules: &[Rule], seed: impl Fn() -> u64) -> Option<Self> {
        if rules.is_empty() {
            return None;
        }
        let rate = |pace: Option<Pace>| {
            let (count, per) = pace.map_or((0, Duration::ZERO), |p| (p.count, p.per));
            Rates::new(count, per, CELLS, seed())
        };
        let brake = |rule: &Rule| Brake {
            messages: rate(rule.messages),
            recipients: rate(rule.recipients),
            kib: rate(rule.kib),
            failing: rule.failing.map(|f| (f, Ratio::new(f.window, CELLS, seed()))),
            rule: rule.clone(),
        };
        let waits = rules.iter().any(|r| r.queue > 0);
        Some(Brakes(Arc::new(Shared {
            brakes: rules.iter().map(brake).collect(),
            told: Rates::new(1, Duration::from_secs(60), TOLD, seed()),
            waiting: waits.then(|| Waiting::new(CELLS, seed())),
        })))
    }

    /// How much mail of each login waits, if a rule asks.
    #[must_use]
    pub fn waiting(&self) -> Option<&Waiting> {
        self.0.waiting.as_ref()
    }

    /// One more message is begun.
    #[must_use]
    pub fn message(&self, who: &Who<'_>, now: Mono) -> Option<Over> {
        self.first(who, now, |brake, key| {
            if brake.fails(key, now) {
                return Some(Limit::Failures);
            }
            let waits = || self.waiting().map_or(0, |w| w.level(key));
            if brake.rule.queue > 0 && waits() >= brake.rule.queue {
                return Some(Limit::Queue);
            }
            (!brake.messages.take(key, now)).then_some(Limit::Messages)
        })
    }

    /// One more recipient is taken.
    #[must_use]
    pub fn recipient(&self, who: &Who<'_>, now: Mono) -> Option<Over> {
        self.first(who, now, |brake, key| {
            if brake.fails(key, now) {
                return Some(Limit::Failures);
            }
            (!brake.recipients.take(key, now)).then_some(Limit::Recipients)
        })
    }

    /// A message of so many bytes has come in.
    #[must_use]
    pub fn bytes(&self, who: &Who<'_>, bytes: u64, now: Mono) -> Option<Over> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        self.first(who, now, |brake, key| (!brake.kib.take_many(key, kib, now)).then_some(Limit::Bytes))
    }

    /// Of the recipients of `login` so many were answered, and so many have failed: at once, or later
    /// (`all` 0).
    pub fn answered(&self, login: &[u8], all: u32, failed: u32, now: Mono) {
        let key = place::name(login);
        for (_, ratio) in self.0.brakes.iter().filter_map(|b| b.failing.as_ref()) {
            ratio.note(key, all, failed, now);
        }
    }

    /// The strictest of what is over a limit.
    fn first(&self, who: &Who<'_>, now: Mono, test: impl Fn(&Brake, u64) -> Option<Limit>) -> Option<Over> {
        let over = |(n, brake): (usize, &Brake)| {
            let key = brake.rule.key(who)?;
            Some((n, key, test(brake, key)?))
        };
        // All are asked: each counts for itself.
        let all = self.0.brakes.iter().enumerate().filter_map(over);
        let (n, key, limit) = all.max_by_key(|(n, ..)| self.0.brakes[*n].rule.action)?;
        let rule = &self.0.brakes[n].rule;
        let told = place::mix(key ^ place::mix((n as u64) << 8 | limit as u64));
        Some(Over { by: rule.by, limit, action: rule.action, is_news: self.0.told.take(told, now) })
    }
}

impl Brake {
    fn fails(&self, key: u64, now: Mono) -> bool {
        let Some((rule, ratio)) = &self.failing else { return false };
        let counts = ratio.counts(key, now);
        counts.all >= u64::from(rule.least) && counts.failed * 100 > counts.all * u64::from(rule.percent)
    }
}

impl Rule {
    /// The number of whom it counts together; `None`: it is not about this mail.
    fn key(&self, who: &Who<'_>) -> Option<u64> {
        let counted = !who.trusted || self.trusted;
        match self.by {
            Scope::Login => who.login.map(place::name),
            Scope::Address => counted.then(|| place::address(who.address)),
            Scope::Network => counted.then(|| place::network(who.address)),
            Scope::SenderDomain => Some(split(who.sender).1).filter(|d| !d.is_empty()).map(place::name),
        }
    }
}

impl fmt::Debug for Brakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.brakes.iter().map(|b| &b.rule)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn rule(by: Scope, action: Action) -> Rule {
        Rule {
            by,
            messages: None,
            recipients: None,
            kib: None,
            failing: None,
            queue: 0,
            trusted: false,
            action,
        }
    }

    fn pace(count: u32) -> Option<Pace> {
        Some(Pace { count, per: MINUTE })
    }

    fn brakes(rules: &[Rule]) -> Brakes {
        Brakes::new(rules, || 7).expect("there are rules")
    }

    fn who<'a>(login: &'a str, address: &str, sender: &'a str) -> Who<'a> {
        let login = (!login.is_empty()).then_some(login.as_bytes());
        let address = address.parse().expect("an address");
        Who { login, address, trusted: false, sender: sender.as_bytes() }
    }

    fn at(seconds: u64) -> Mono {
        Mono(1_000_000_000_000).after(Duration::from_secs(seconds))
    }

    #[test]
    fn each_scope_counts_its_own() {
        assert!(Brakes::new(&[], || 7).is_none());
        for (by, same, other) in [
            (Scope::Login, who("ANN", "192.0.2.9", ""), who("bob", "192.0.2.1", "a@x.example")),
            (Scope::Address, who("", "::ffff:192.0.2.1", ""), who("ann", "192.0.2.2", "a@x.example")),
            (Scope::Network, who("", "192.0.2.200", ""), who("ann", "192.0.3.1", "a@x.example")),
            (
                Scope::SenderDomain,
                who("", "192.0.3.1", "z@X.EXAMPLE"),
                who("ann", "192.0.2.1", "a@y.example"),
            ),
        ] {
            let b = brakes(&[Rule { messages: pace(2), ..rule(by, Action::Tempfail) }]);
            let ann = who("ann", "192.0.2.1", "a@x.example");
            assert!(b.message(&ann, at(0)).is_none() && b.message(&same, at(0)).is_none(), "{by:?}");
            let over = b.message(&ann, at(0)).expect("over the limit");
            assert_eq!((over.by, over.limit, over.is_news), (by, Limit::Messages, true));
            assert!(!b.message(&same, at(0)).expect("still").is_news, "told once a minute");
            assert!(b.message(&other, at(0)).is_none(), "{by:?}");
            assert!(b.message(&ann, at(31)).is_none(), "one comes back");
            assert!(b.message(&ann, at(61)).is_none() && b.message(&ann, at(61)).expect("over").is_news);
        }
        let b = brakes(&[Rule { messages: pace(1), ..rule(Scope::SenderDomain, Action::Hold) }]);
        let null = who("", "192.0.2.1", "");
        assert!((0..9).all(|_| b.message(&null, at(0)).is_none()), "notifications have no sender");
    }

    #[test]
    fn clients_that_may_relay_are_counted_by_address_only_if_asked() {
        for trusted in [false, true] {
            let b = brakes(&[Rule { messages: pace(1), trusted, ..rule(Scope::Address, Action::Reject) }]);
            let relay = Who { trusted: true, ..who("", "192.0.2.1", "a@x.example") };
            let over = (0..5).filter(|_| b.message(&relay, at(0)).is_some()).count();
            assert_eq!(over, if trusted { 4 } else { 0 });
        }
    }

    #[test]
    fn recipients_bytes_and_the_strictest_of_several() {
        let b = brakes(&[
            Rule { recipients: pace(3), kib: pace(10), ..rule(Scope::Login, Action::Reject) },
            Rule { recipients: pace(2), kib: pace(20), ..rule(Scope::Address, Action::Hold) },
        ]);
        let ann = who("ann", "192.0.2.1", "a@x.example");
        let actions: Vec<_> = (0..4).map(|_| b.recipient(&ann, at(0)).map(|o| o.action)).collect();
        assert_eq!(actions, [None, None, Some(Action::Hold), Some(Action::Reject)]);
        // Rounded up to KiB; what is too large for the rest is not counted.
        assert!(b.bytes(&ann, 8 * 1024 + 1, at(0)).is_none());
        let over = b.bytes(&ann, 2000, at(0)).expect("9 + 2 KiB");
        assert_eq!((over.limit, over.action), (Limit::Bytes, Action::Reject));
        assert!(b.bytes(&ann, 1024, at(0)).is_none());
        assert_eq!(over.text(&ann), "too many bytes of login ann");
    }

    #[test]
    fn a_share_of_failures_with_a_least_number() {
        let failing = Some(Failing { percent: 50, least: 10, window: 60 * MINUTE });
        let b = brakes(&[Rule { failing, ..rule(Scope::Login, Action::Hold) }]);
        let (ann, bob) = (who("ann", "192.0.2.1", ""), who("bob", "192.0.2.1", ""));
        b.answered(b"ann", 9, 9, at(0));
        assert!(b.message(&ann, at(0)).is_none(), "too few to say");
        b.answered(b"ann", 9, 0, at(0));
        assert!(b.message(&ann, at(0)).is_none(), "half of them");
        b.answered(b"Ann", 0, 1, at(1));
        let over = b.message(&ann, at(1)).expect("more than half");
        assert_eq!((over.limit, over.action), (Limit::Failures, Action::Hold));
        assert!(b.recipient(&ann, at(1)).is_some() && b.message(&bob, at(1)).is_none());
        assert!(b.message(&ann, at(3 * 3600)).is_none(), "it is forgotten");
    }

    #[test]
    fn a_share_of_the_queue() {
        let b = brakes(&[Rule { queue: 2, ..rule(Scope::Login, Action::Tempfail) }]);
        let waiting = b.waiting().expect("a rule asks");
        let ann = who("ann", "192.0.2.1", "");
        waiting.add(place::name(b"ann"));
        assert!(b.message(&ann, at(0)).is_none());
        waiting.add(place::name(b"ann"));
        assert_eq!(b.message(&ann, at(0)).map(|o| o.limit), Some(Limit::Queue));
        assert!(b.recipient(&ann, at(0)).is_none(), "the message is under way");
        waiting.take_back(place::name(b"ann"));
        assert!(b.message(&ann, at(0)).is_none());
        assert!(brakes(&[rule(Scope::Login, Action::Hold)]).waiting().is_none());
    }
}

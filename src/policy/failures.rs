//! What failed logins lead to: waits that grow, then refusals, on all cores together.
//!
//! Failures are counted by client (`place`: address or /64), by login, and by both together. Owns fixed
//! tables of atomics; what is counted fades by itself at an even pace, so nothing has to be removed.
//! It knows no password and no session: the shell asks before it lets somebody try, waits as told,
//! and says how it ended. Logins are hashed with a secret seed, never kept.
//!
//! Guesses that run at the same time do not overtake the count: of a client that is not known, at most
//! [`UNDER_WAY`] are under way at once.
//!
//! A client that has lately logged in as somebody is known for that login: only its own failures with
//! that login count against it. So whoever guesses at a login from elsewhere, or guesses at other
//! logins from the same office, does not lock its owner out.

use super::logins::{UserPermit, UserSessions};
use super::place;
use super::rates::Rates;
use crate::base::time::Mono;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What can be set. Limits of 0 are turned off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Failures of a client from which on it is refused.
    pub per_client: u32,
    /// Failures with a login from which on clients that are not known for it are refused.
    pub per_login: u32,
    /// In this time all failures up to the limit fade.
    pub memory: Duration,
    /// The wait after the first failure; then doubled up to
    pub delay_first: Duration,
    /// the longest wait.
    pub delay_max: Duration,
    /// How long a client stays known for a login.
    pub known: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            per_client: 20,
            per_login: 100,
            memory: Duration::from_secs(3600),
            delay_first: Duration::from_secs(2),
            delay_max: Duration::from_secs(15),
            known: Duration::from_secs(7 * 86_400),
        }
    }
}

/// Who tries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Who {
    /// The address of the client.
    pub address: IpAddr,
    /// Failures count against the client, not only against the login.
    pub counted: bool,
}

/// May somebody try now?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// At once.
    Allowed,
    /// After this time.
    Wait(Duration),
    /// Not for the time being: the password is not even looked at.
    Refused,
}

/// The counters. Cheap to clone; shared by all cores.
#[derive(Clone)]
pub struct Failures {
    options: Options,
    seed: u64,
    clients: Rates,
    logins: Rates,
    pairs: Rates,
    /// Guesses under way, by client.
    guesses: UserSessions,
    /// Clients and logins that have succeeded: a mark of the pair above the second it was.
    known: Arc<[AtomicU64]>,
}

/// A guess that is under way, until this is dropped.
pub struct Guess {
    _permit: Option<UserPermit>,
}

/// Cells of a row; of the table of those that are known.
const CELLS: usize = 1 << 16;
/// Guesses of one client that may be under way at once. Behind an address may be a few people whose
/// programs open several connections each; what has succeeded is known and does not count.
pub const UNDER_WAY: u32 = 4;
/// A pace for pairs when clients have no limit: then they only wait.
const PAIRS: u32 = 20;

impl Failures {
    /// Counters; `seed` gives secret numbers. 4 MiB, whatever comes.
    #[must_use]
    pub fn new(options: Options, seed: impl Fn() -> u64) -> Self {
        Self::with_cells(options, seed, CELLS)
    }

    fn with_cells(options: Options, seed: impl Fn() -> u64, cells: usize) -> Self {
        let failures = |count| Rates::new(count, options.memory, cells, seed());
        let pairs = if options.per_client == 0 { PAIRS } else { options.per_client };
        let off = options.per_client == 0 && options.delay_first.is_zero();
        Failures {
            clients: failures(options.per_client),
            logins: failures(options.per_login),
            pairs: failures(pairs),
            guesses: UserSessions::new(if off { 0 } else { UNDER_WAY }, seed()),
            known: (0..cells).map(|_| AtomicU64::new(0)).collect(),
            seed: seed(),
            options,
        }
    }

    /// May `client` try to log in as `login` (of any case) now?
    #[must_use]
    pub fn delay(&self, client: Who, login: &[u8], now: Mono) -> Verdict {
        let o = &self.options;
        let pair = self.pair(client.address, login);
        if self.is_known(pair, now) {
            let failures = self.pairs.level(pair, now);
            let over = o.per_client != 0 && failures >= o.per_client;
            return if over { Verdict::Refused } else { self.wait(failures) };
        }
        let of_client =
            if client.counted { self.clients.level(place::address(client.address), now) } else { 0 };
        let of_login = self.logins.level(self.login(login), now);
        let over = |limit: u32, failures: u32| limit != 0 && failures >= limit;
        if over(o.per_client, of_client) || over(o.per_login, of_login) {
            return Verdict::Refused;
        }
        self.wait(of_client.max(of_login))
    }

    /// Counts a guess that may be made now, until it has been said how it ended. `None`: as many of this
    /// client are under way already, and each may be one that fails.
    #[must_use]
    pub fn begin(&self, client: Who, login: &[u8], now: Mono) -> Option<Guess> {
        if !client.counted || self.is_known(self.pair(client.address, login), now) {
            return Some(Guess { _permit: None });
        }
        let permit = self.guesses.enter(&place::address(client.address))?;
        Some(Guess { _permit: Some(permit) })
    }

    /// A login has failed: a wrong password, or no such user.
    pub fn failed(&self, client: Who, login: &[u8], now: Mono) {
        if client.counted {
            self.clients.note(place::address(client.address), now);
        }
        self.logins.note(self.login(login), now);
        self.pairs.note(self.pair(client.address, login), now);
    }

    /// A login has succeeded. Failures before it still fade at their pace: who owns one login could
    /// else guess at others without end.
    pub fn succeeded(&self, client: Who, login: &[u8], now: Mono) {
        let pair = self.pair(client.address, login);
        self.cell(pair).store(mark(pair) | seconds(now), Ordering::Relaxed);
    }

    fn wait(&self, failures: u32) -> Verdict {
        let Some(doublings) = failures.checked_sub(1) else { return Verdict::Allowed };
        let o = &self.options;
        let delay = o.delay_first.saturating_mul(1 << doublings.min(30)).min(o.delay_max);
        if delay.is_zero() { Verdict::Allowed } else { Verdict::Wait(delay) }
    }

    fn is_known(&self, pair: u64, now: Mono) -> bool {
        let noted = self.cell(pair).load(Ordering::Relaxed);
        let age = seconds(now).saturating_sub(noted & SECONDS);
        noted != 0 && noted & !SECONDS == mark(pair) && age <= self.options.known.as_secs()
    }

    fn cell(&self, pair: u64) -> &AtomicU64 {
        &self.known[pair as usize & (self.known.len() - 1)]
    }

    fn login(&self, login: &[u8]) -> u64 {
        place::mix(place::name(login) ^ self.seed)
    }

    fn pair(&self, client: IpAddr, login: &[u8]) -> u64 {
        place::mix(place::address(client) ^ self.login(login))
    }
}

/// The lower half of a cell of those that are known.
const SECONDS: u64 = 0xffff_ffff;

/// What tells pairs of one cell apart.
fn mark(pair: u64) -> u64 {
    pair & !SECONDS
}

/// Never 0, so that a cell that has been written differs from one that has not.
fn seconds(now: Mono) -> u64 {
    (now.0 / 1_000_000_000).clamp(1, SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn failures(options: Options) -> Failures {
        let n = Cell::new(7);
        Failures::with_cells(options, || n.replace(n.get() * 31 + 1), CELLS)
    }

    fn at(seconds: u64) -> Mono {
        Mono(5_000_000_000).after(Duration::from_secs(seconds))
    }

    fn ip(text: &str) -> Who {
        Who { address: text.parse().unwrap(), counted: true }
    }

    fn wait(seconds: u64) -> Verdict {
        Verdict::Wait(Duration::from_secs(seconds))
    }

    /// Attack catalogue, row 31: guessing gets slower and comes to an end.
    #[test]
    fn row_31_waits_grow_then_it_is_refused_then_it_fades() {
        let l = failures(Options { per_client: 6, ..Options::default() });
        let client = ip("192.0.2.1");
        for expected in [Verdict::Allowed, wait(2), wait(4), wait(8), wait(15), wait(15)] {
            assert_eq!(l.delay(client, b"me", at(0)), expected);
            l.failed(client, b"me", at(0));
        }
        assert_eq!(l.delay(client, b"me", at(0)), Verdict::Refused);
        assert_eq!(l.delay(client, b"other", at(0)), Verdict::Refused, "whatever it guesses at");
        // However often it goes on, it is let in again after the time of one failure.
        (0..1000).for_each(|_| l.failed(client, b"other", at(10)));
        assert_eq!(l.delay(client, b"third", at(609)), Verdict::Refused);
        assert_eq!(l.delay(client, b"third", at(611)), wait(15));
        assert_eq!(l.delay(client, b"third", at(3611)), Verdict::Allowed);
    }

    #[test]
    fn others_are_not_affected() {
        let l = failures(Options::default());
        (0..50).for_each(|_| l.failed(ip("192.0.2.1"), b"me", at(0)));
        assert_eq!(l.delay(ip("192.0.2.2"), b"other", at(0)), Verdict::Allowed);
        assert_eq!(l.delay(ip("192.0.2.2"), b"ME", at(0)), wait(15), "the login is being guessed at");
        // An IPv6 client is its /64.
        (0..50).for_each(|n| l.failed(ip(&format!("2001:db8::{n}")), format!("u{n}").as_bytes(), at(0)));
        assert_eq!(l.delay(ip("2001:db8::ffff"), b"x", at(0)), Verdict::Refused);
        assert_eq!(l.delay(ip("2001:db8:0:1::1"), b"x", at(0)), Verdict::Allowed);
        assert_eq!(l.delay(ip("::ffff:192.0.2.1"), b"x", at(0)), Verdict::Refused, "IPv4 in IPv6 form");
    }

    #[test]
    fn owners_are_not_locked_out() {
        let l = failures(Options::default());
        let home = ip("198.51.100.7");
        l.succeeded(home, b"me", at(0));
        // From a thousand places at once.
        for n in 0..1000u32 {
            l.failed(Who { address: (n << 8).to_be_bytes().into(), counted: true }, b"me", at(1));
        }
        assert_eq!(l.delay(ip("203.0.113.1"), b"me", at(1)), Verdict::Refused);
        assert_eq!(l.delay(home, b"me", at(1)), Verdict::Allowed);
        // From the same office.
        (0..100).for_each(|_| l.failed(home, b"printer", at(1)));
        assert_eq!(l.delay(home, b"printer", at(1)), Verdict::Refused);
        assert_eq!(l.delay(home, b"Me", at(1)), Verdict::Allowed);
        // Its own mistakes count; so would those of somebody who has taken its place.
        l.failed(home, b"me", at(2));
        assert_eq!(l.delay(home, b"me", at(2)), wait(2));
        (0..100).for_each(|_| l.failed(home, b"me", at(2)));
        assert_eq!(l.delay(home, b"me", at(2)), Verdict::Refused);
        // One is known for a week.
        let l = failures(Options { per_login: 1, ..Options::default() });
        l.succeeded(home, b"me", at(0));
        let week = 7 * 86_400;
        l.failed(ip("203.0.113.1"), b"me", at(week));
        assert_eq!(l.delay(home, b"me", at(week)), Verdict::Allowed);
        assert_eq!(l.delay(home, b"me", at(week + 1)), Verdict::Refused);
    }

    #[test]
    fn a_login_of_ones_own_buys_no_guesses() {
        let l = failures(Options::default());
        let client = ip("192.0.2.1");
        for n in 0..40u32 {
            l.succeeded(client, b"mine", at(0));
            l.failed(client, format!("victim{n}").as_bytes(), at(0));
        }
        assert_eq!(l.delay(client, b"victim", at(0)), Verdict::Refused);
        assert_eq!(l.delay(client, b"mine", at(0)), Verdict::Allowed);
    }

    #[test]
    fn guesses_under_way() {
        let l = failures(Options::default());
        let begin = |client, login: &[u8]| l.begin(client, login, at(0));
        let held: Vec<_> = (0..UNDER_WAY).map(|_| begin(ip("2001:db8::1"), b"me")).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(begin(ip("2001:db8::2"), b"other").is_none(), "an IPv6 client is its /64");
        assert!(begin(ip("192.0.2.1"), b"me").is_some());
        assert!(begin(Who { counted: false, ..ip("2001:db8::1") }, b"me").is_some());
        l.succeeded(ip("2001:db8::1"), b"mine", at(0));
        assert!(begin(ip("2001:db8::1"), b"mine").is_some());
        drop(held);
        assert!(begin(ip("2001:db8::1"), b"me").is_some());
    }

    /// Behind a webmail are many: there it is the login that is guessed at, not the client.
    #[test]
    fn a_client_that_is_not_counted() {
        let l = failures(Options { per_login: 5, ..Options::default() });
        let webmail = Who { counted: false, ..ip("192.0.2.1") };
        (0..100u32).for_each(|n| l.failed(webmail, format!("user{n}").as_bytes(), at(0)));
        assert_eq!(l.delay(webmail, b"another", at(0)), Verdict::Allowed);
        (0..5).for_each(|_| l.failed(webmail, b"me", at(0)));
        assert_eq!(l.delay(webmail, b"me", at(0)), Verdict::Refused);
    }

    #[test]
    fn limits_can_be_turned_off() {
        let zero = Duration::ZERO;
        let off =
            Options { per_client: 0, per_login: 0, delay_first: zero, delay_max: zero, ..Options::default() };
        let l = failures(off);
        (0..1000).for_each(|_| l.failed(ip("192.0.2.1"), b"me", at(0)));
        assert_eq!(l.delay(ip("192.0.2.1"), b"me", at(0)), Verdict::Allowed);
        l.succeeded(ip("192.0.2.1"), b"me", at(0));
        assert_eq!(l.delay(ip("192.0.2.1"), b"me", at(0)), Verdict::Allowed);
    }
}

//! Checkers over the whole relay: limits of a server that all cores together keep to, and letters that
//! are tried in time.
//!
//! What servers are sent is counted by when the relay sent it, so that a net that is late excuses
//! nobody. How many connections there are at a time is counted by the net itself (`SimNet::limit`).

use super::{Stage, node};
use crate::peers::ledger::Owed;
use crate::peers::remote::Sent;
use crate::world::{SEC, World};
use ringpost::queue::pace::Rate;
use ringpost::queue::schedule::Limits;
use ringpost::queue::shares::SLICE;
use std::collections::BTreeMap;
use std::time::Duration;

/// Recipients of a transaction at most: a rate of recipients lets one message more pass.
pub const RECIPIENTS: u64 = 5;

/// Between the moment in which a message is taken under a rate and that in which it is sent: its body is
/// read, and a timer may be late.
const LATE: u64 = SEC / 2;

/// The span of all rates here.
const SPAN: Duration = Duration::from_secs(10);

/// A process, and whether the net was well while it ran.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    pub from: u64,
    pub calm: bool,
}

/// Limits of one kind or another, or none but that of connections.
pub fn some_limits(world: &World) -> Limits {
    let rate = |count: u64| Rate { count, per: SPAN };
    let mut limits = node::limits();
    match world.below(5) {
        0 => {}
        1 => limits.rate = rate(5 + world.below(10)),
        2 => limits.recipients = rate(10 + world.below(10)),
        3 => limits.bytes = rate(50_000 + world.below(50_000)),
        _ => {
            limits.rate = rate(8 + world.below(8));
            limits.recipients = rate(10 + world.below(20));
            limits.bytes = rate(100_000);
        }
    }
    limits
}

/// The first span of `window` in which more than `most` things were sent, and how many: `sent` has times
/// and numbers of things, in any order.
fn exceeded(sent: impl Iterator<Item = (u64, u64)>, most: u64, window: u64) -> Option<(u64, u64)> {
    let mut sent: Vec<(u64, u64)> = sent.collect();
    sent.sort_unstable();
    let (mut first, mut sum) = (0, 0);
    for &(at, things) in &sent {
        sum += things;
        while at - sent[first].0 >= window {
            sum -= sent[first].1;
            first += 1;
        }
        if sum > most {
            return Some((sent[first].0, sum));
        }
    }
    None
}

/// How `sent` breaks `limits`, process by process: what a new one does not know is not counted. `None` of
/// a rate is off. What the net held back during a life that was not calm may come at once later.
pub fn broken(sent: &[Sent], lives: &[Life], limits: &Limits) -> Vec<String> {
    let largest = sent.iter().map(|s| s.bytes).max().unwrap_or(0);
    let mut found = Vec::new();
    for (i, life) in lives.iter().enumerate() {
        let to = lives.get(i + 1).map_or(u64::MAX, |next| next.from);
        let mine = || sent.iter().filter(|s| (life.from..to).contains(&s.at));
        let mut check = |what: &str, rate: Rate, more: u64, things: fn(&Sent) -> u64| {
            if rate.count == 0 {
                return;
            }
            let most = if life.calm { rate.count + more } else { 2 * (rate.count + more) };
            let window = rate.per.as_nanos() as u64 - LATE;
            if let Some((at, sum)) = exceeded(mine().map(|s| (s.at, things(s))), most, window) {
                found.push(format!("limits: {sum} {what} from {at} on, where {most} are allowed ({life:?})"));
            }
        };
        check("messages", limits.rate, 0, |s| s.messages);
        check("recipients", limits.recipients, RECIPIENTS, |s| s.recipients);
        check("bytes", limits.bytes, largest, |s| s.bytes);
    }
    found
}

/// Which of `due` were not sent within `bound` of their times, or not at all by `end`.
pub fn starved(due: &[(Owed, u64)], sent: &BTreeMap<Owed, u64>, bound: u64, end: u64) -> Vec<String> {
    let late = due.iter().filter_map(|(owed, at)| {
        let took = sent.get(owed).copied().unwrap_or(end).saturating_sub(*at);
        let when = if sent.contains_key(owed) { "was sent" } else { "was not sent" };
        (took > bound).then(|| format!("starved: {owed:?} {when} within {took} ns, the bound is {bound}"))
    });
    late.collect()
}

impl Stage {
    /// From now on each server allows `limits`.
    pub fn restrict(&mut self, limits: Limits) {
        self.behind.iter().for_each(|m| self.net.limit(m.ip(), limits.connections));
        self.tables = node::Tables::new(&self.routes(), limits);
        self.limits = limits;
    }

    /// A process begins to send.
    pub fn begin_life(&self, calm: bool) {
        self.lives.borrow_mut().push(Life { from: self.world.now(), calm });
    }

    /// All servers were sent no more than they allow.
    pub fn check_limits(&self) {
        for (remote, domain) in self.remotes.iter().zip(self.domains) {
            for found in broken(&remote.sent().borrow(), &self.lives.borrow(), &self.limits) {
                self.world.violation(format!("{domain}: {found}"));
            }
        }
    }

    /// How long anything in the queue may take once nothing is faulty any more: the longest wait for the
    /// next attempt, a turn for each log that a server may be shared with, the slots of all that is
    /// owed, and a notification about it, which has its own.
    fn patience(&self, owed: u64) -> u64 {
        let nanos = |d: Duration| d.as_nanos() as u64;
        let slots = |rate: Rate, each: u64| match rate.count {
            0 => 0,
            count => (owed * each).div_ceil(count) * nanos(rate.per),
        };
        // A letter goes to a server once, however many recipients it has there, or in a few parts.
        let rates = slots(self.limits.rate, 1).max(slots(self.limits.recipients, 1));
        let rates = rates.max(slots(self.limits.bytes, 6_000));
        nanos(self.options.retry.longest()) + 8 * nanos(SLICE) + 2 * rates + 60 * SEC
    }

    /// Nothing is faulty any more: what is owed now gets where it should within a bound.
    pub async fn none_starves(&self) {
        let owed = self.ledger.borrow().owed();
        let (began, patience) = (self.world.now(), self.patience(owed.len() as u64));
        loop {
            let left = self.ledger.borrow().owed();
            let left: Vec<&Owed> = left.iter().filter(|o| owed.contains(o)).collect();
            let took = self.world.now() - began;
            if left.is_empty() {
                return;
            }
            if took > patience {
                let text = format!("starved: {left:?} of {} after {took} ns", owed.len());
                return self.world.violation(text);
            }
            self.world.pause(2 * SEC).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(at: u64) -> Sent {
        Sent { at, messages: 1, recipients: 2, bytes: 1_000 }
    }

    fn limits(messages: u64, recipients: u64, bytes: u64) -> Limits {
        let rate = |count| Rate { count, per: SPAN };
        Limits { rate: rate(messages), recipients: rate(recipients), bytes: rate(bytes), ..Limits::default() }
    }

    #[test]
    fn more_than_is_allowed_in_any_span_is_found() {
        // One each second.
        let steady: Vec<Sent> = (0..100).map(|n| sent(n * SEC)).collect();
        let calm = [Life { from: 0, calm: true }];
        let count = |sent: &[Sent], limits| broken(sent, &calm, &limits).len();
        assert_eq!(count(&steady, limits(10, 0, 0)), 0);
        assert_eq!(count(&steady, limits(9, 0, 0)), 1);
        assert_eq!((count(&steady, limits(0, 15, 0)), count(&steady, limits(0, 14, 0))), (0, 1));
        assert_eq!((count(&steady, limits(0, 0, 9_000)), count(&steady, limits(0, 0, 8_999))), (0, 1));
        let mut burst = steady.clone();
        // In any order: another connection was slower.
        burst.push(sent(50 * SEC + 1));
        assert_eq!((count(&burst, limits(10, 0, 0)), count(&burst, limits(11, 0, 0))), (1, 0));
        // A process that was not there before begins anew, and a bad net may bring things together.
        let lives = [Life { from: 0, calm: true }, Life { from: 50 * SEC + 1, calm: true }];
        assert_eq!(broken(&burst, &lives, &limits(10, 0, 0)).len(), 0);
        let rough = [Life { from: 0, calm: false }];
        assert_eq!(broken(&burst, &rough, &limits(10, 0, 0)).len(), 0);
        assert_eq!(broken(&burst, &rough, &limits(5, 0, 0)).len(), 1);
    }

    #[test]
    fn what_is_late_or_missing_is_starved() {
        let owed = |n: u64| (n, format!("user{n}@a.example"));
        let due = [(owed(1), 100), (owed(2), 100), (owed(3), 100)];
        let sent = BTreeMap::from([(owed(1), 110), (owed(2), 111)]);
        let found = starved(&due, &sent, 10, 1_000);
        assert!(found.len() == 2 && found[0].contains("user2") && found[1].contains("was not sent"));
        assert_eq!(starved(&due, &sent, 11, 110).len(), 0, "the third has time left");
    }
}

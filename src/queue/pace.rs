//! L2: how often: rates of a destination, pauses of a dead one, retries of a message.
//!
//! Numbers in, numbers out; chance comes as an argument. Cannot fail.

use crate::base::time::Mono;
use std::time::Duration;

/// At most so many messages in any span of `per`; `count` 0: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rate {
    /// Messages.
    pub count: u32,
    /// The span.
    pub per: Duration,
}

/// Keeps a [`Rate`] by spacing messages evenly, with a small catch-up after a late timer.
///
/// In any span of `rate.per` at most `rate.count` messages pass: the interval is stretched by the
/// catch-up, so that no burst at a window's edge can exceed the number an operator wrote down.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    interval: Duration,
    slack: Duration,
    next: Mono,
}

impl Pace {
    /// A pace for `rate`.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        if rate.count == 0 {
            return Pace::default();
        }
        let slack = (rate.per / 20).min(Duration::from_millis(50));
        let nanos = (rate.per + slack).as_nanos().div_ceil(u128::from(rate.count));
        let interval = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Pace { interval, slack, next: Mono(0) }
    }

    /// The earliest time at which one more message may pass.
    #[must_use]
    pub fn earliest(&self) -> Mono {
        Mono(self.next.0.saturating_sub(self.slack.as_nanos() as u64))
    }

    /// Time from one message to the next.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Lets a message pass at `now` if the rate allows.
    pub fn pass(&mut self, now: Mono) -> bool {
        if self.interval.is_zero() {
            return true;
        }
        if now < self.earliest() {
            return false;
        }
        self.next = self.next.max(now).after(self.interval);
        true
    }

    /// Takes back a message that was let pass and not sent.
    pub fn give_back(&mut self) {
        self.next = Mono(self.next.0.saturating_sub(self.interval.as_nanos() as u64));
    }
}

/// Doubling waits with jitter of one fifth either way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// The first wait.
    pub first: Duration,
    /// The longest wait before jitter.
    pub max: Duration,
}

impl Backoff {
    /// The wait after `failures` failures in a row (1: the first); `random` is any number.
    #[must_use]
    pub fn wait(&self, failures: u32, random: u64) -> Duration {
        let doubled = self.first.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let base = doubled.min(self.max).as_millis() as u64;
        // 800..=1200 thousandths.
        Duration::from_millis(base.saturating_mul(800 + random % 401) / 1000)
    }

    /// No wait is longer.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.max.saturating_add(self.max / 5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_double_up_to_the_limit() {
        let b = Backoff { first: Duration::from_secs(300), max: Duration::from_secs(4000) };
        let middle = |n| b.wait(n, 200).as_secs();
        assert_eq!(
            [middle(1), middle(2), middle(3), middle(4), middle(5), middle(90)],
            [300, 600, 1200, 2400, 4000, 4000]
        );
        assert_eq!((b.wait(1, 0).as_secs(), b.wait(1, 400).as_secs()), (240, 360));
        assert_eq!(b.wait(9, 400), b.longest());
    }

    proptest! {
        #[test]
        fn no_span_carries_more_than_the_rate(
            count in 1u32..40,
            per_ms in 10u64..5000,
            steps in proptest::collection::vec(0u64..400_000_000, 50..400),
        ) {
            let rate = Rate { count, per: Duration::from_millis(per_ms) };
            let mut pace = Pace::new(rate);
            let mut now = Mono(1);
            let mut passed: Vec<Mono> = Vec::new();
            for s in steps {
                now = now.after(Duration::from_nanos(s));
                for _ in 0..3 {
                    if pace.pass(now) {
                        passed.push(now);
                    }
                }
            }
            for (i, t) in passed.iter().enumerate() {
                let inside = passed[i..].iter().filter(|u| u.since(*t) < rate.per).count();
                prop_assert!(inside <= count as usize, "{inside} in one span of {count}");
            }
            prop_assert!(!passed.is_empty());
        }
    }
}

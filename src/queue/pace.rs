//! L2: how often: rates of a destination, pauses of a dead one, retries of a message.
//!
//! Numbers in, numbers out; chance comes as an argument. Cannot fail.

use crate::base::time::Mono;
use std::time::Duration;

/// At most so many things in any span of `per`; `count` 0: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rate {
    /// Messages, recipients or bytes.
    pub count: u64,
    /// The span.
    pub per: Duration,
}

/// Keeps a [`Rate`] by spacing things evenly: each has a slot in time, which is good for a moment
/// ([`Spacing::slack`]), so that a late timer costs nothing.
///
/// In any span of `rate.per` at most `rate.count` things pass: the slots are so far apart that this
/// holds for the span and the slack together. No burst at a window's edge can exceed the number an
/// operator wrote down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spacing {
    count: u64,
    /// Nanoseconds of the span and the slack.
    span: u64,
    slack: u64,
}

impl Spacing {
    /// Spacing for `rate`.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        let slack = (rate.per / 20).min(Duration::from_millis(250));
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX >> 1);
        Spacing { count: rate.count, span: nanos(rate.per + slack), slack: nanos(slack) }
    }

    /// True if there is no limit.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.count == 0
    }

    /// How long a slot is good.
    #[must_use]
    pub fn slack(&self) -> Duration {
        Duration::from_nanos(self.slack)
    }

    /// Nanoseconds that `things` take; 0 without a limit.
    #[must_use]
    pub fn cost(&self, things: u64) -> u64 {
        if self.count == 0 {
            return 0;
        }
        let nanos = (u128::from(self.span) * u128::from(things)).div_ceil(u128::from(self.count));
        u64::try_from(nanos).unwrap_or(u64::MAX >> 1)
    }

    /// The first time from which things may take their slots, if all slots before `next` are taken.
    #[must_use]
    pub fn first(&self, next: u64, now: Mono) -> u64 {
        next.max(now.0.saturating_sub(self.slack))
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
            count in 1u64..40,
            per_ms in 10u64..5000,
            steps in proptest::collection::vec((0u64..400_000_000, 1u64..4), 50..400),
        ) {
            let rate = Rate { count, per: Duration::from_millis(per_ms) };
            let spacing = Spacing::new(rate);
            let (mut now, mut next, mut passed) = (Mono(1), 0, Vec::new());
            for (s, things) in steps {
                now = now.after(Duration::from_nanos(s));
                for _ in 0..3 {
                    let first = spacing.first(next, now);
                    if first <= now.0 {
                        next = first + spacing.cost(things);
                        passed.push((now, things));
                    }
                }
            }
            for (i, (t, _)) in passed.iter().enumerate() {
                let inside: Vec<u64> =
                    passed[i..].iter().take_while(|p| p.0.since(*t) < rate.per).map(|p| p.1).collect();
                // What takes several slots at once may end the span.
                let most = count + inside.last().map_or(0, |last| last - 1);
                prop_assert!(inside.iter().sum::<u64>() <= most, "{inside:?} in one span of {count}");
            }
            prop_assert!(!passed.is_empty());
        }
    }

    #[test]
    fn without_a_limit_nothing_costs_time() {
        let off = Spacing::new(Rate::default());
        assert!(off.is_off() && off.cost(7) == 0 && off.slack() == Duration::ZERO);
        let bytes = Spacing::new(Rate { count: 1 << 20, per: Duration::from_secs(1) });
        assert_eq!((bytes.cost(1 << 20), bytes.cost(1)), (1_050_000_000, 1002));
    }
}

//! Latencies in a fixed table: 32 steps per power of two, so each figure is at most 3.2 % too high.
//!
//! Owns counting and percentiles. No clock, no allocation after `new`. Cannot fail.

use serde::Serialize;

const STEPS: u64 = 32;
const STEP_BITS: u32 = 5;
const BUCKETS: usize = (64 - STEP_BITS as usize + 1) * STEPS as usize;

/// Counts of values 0..=u64::MAX (here: nanoseconds).
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50_us: f64,
    /// 90 % are at most this.
    pub p90_us: f64,
    /// 99 % are at most this.
    pub p99_us: f64,
    /// 99.9 % are at most this.
    pub p999_us: f64,
    /// The greatest.
    pub max_us: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty one (15 KiB).
    #[must_use]
    pub fn new() -> Self {
        Histogram { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }

    /// Counts `value` once.
    pub fn add(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: &Histogram) {
        for (a, b) in self.counts.iter_mut().zip(&other.counts) {
            *a += b;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many values were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The least bucket bound that at least `per_mille` thousandths of the values do not exceed;
    /// 0 if there are none. `per_mille` is 0..=1000.
    #[must_use]
    pub fn quantile(&self, per_mille: u64) -> u64 {
        let want = (u128::from(self.total) * u128::from(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0u128;
        for (i, &n) in self.counts.iter().enumerate() {
            seen += u128::from(n);
            if n > 0 && seen >= want {
                return upper(i).min(self.max);
            }
        }
        self.max
    }

    /// The usual percentiles of values that are nanoseconds.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        let us = |q| (self.quantile(q) / 100) as f64 / 10.0;
        Percentiles {
            p50_us: us(500),
            p90_us: us(900),
            p99_us: us(990),
            p999_us: us(999),
            max_us: (self.max / 100) as f64 / 10.0,
        }
    }
}

fn bucket(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let shift = value.ilog2() - STEP_BITS;
    ((u64::from(shift) + 1) * STEPS + (value >> shift) - STEPS) as usize
}

/// The greatest value of bucket `i`.
fn upper(i: usize) -> u64 {
    let (i, shift) = (i as u64, (i as u64 / STEPS).saturating_sub(1));
    if i < STEPS {
        return i;
    }
    let step = i % STEPS + STEPS;
    (step << shift) + ((1u64 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_ordered_and_narrow() {
        for v in (0..2000).chain([1 << 20, (1 << 40) + 12_345, u64::MAX / 3, u64::MAX]) {
            let u = upper(bucket(v));
            assert!(u >= v, "{v} in a bucket that ends at {u}");
            assert!((u - v) as f64 <= v as f64 / 31.0, "{v} -> {u}");
        }
        assert!((1..BUCKETS).all(|i| upper(i) > upper(i - 1)));
    }

    #[test]
    fn percentiles_of_known_values() {
        let mut h = Histogram::new();
        assert_eq!(h.quantile(500), 0);
        let mut other = Histogram::new();
        for v in 1..=1000u64 {
            if v % 2 == 0 { h.add(v * 1000) } else { other.add(v * 1000) }
        }
        h.merge(&other);
        assert_eq!(h.total(), 1000);
        for (q, exact) in [(500, 500_000.0), (990, 990_000.0), (1000, 1_000_000.0)] {
            let got = h.quantile(q) as f64;
            assert!(got >= exact && got <= exact * 1.04, "{q}: {got}");
        }
        assert_eq!(h.percentiles().max_us, 1000.0);
    }
}

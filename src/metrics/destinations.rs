//! Recipients by destination: the few that most mail goes to have series of their own, all others one
//! together.
//!
//! Who gets one keeps it until the process ends: no series ever vanishes or goes back. There are never more
//! than [`NAMED_MAX`]. Each queue counts by itself; [`Registry`] adds up. Cannot fail.

use crate::base::heavy::Heavy;
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Destinations with series of their own.
pub const NAMED_MAX: usize = 50;
/// Names among which the frequent ones are looked for.
const CANDIDATES: usize = 200;
/// A destination gets series of its own from so many recipients on...
const LEAST: u64 = 50;
/// ...and from this share of all recipients on (one hundredth).
const SHARE: u64 = 100;
/// Stands for all others.
pub const OTHER: &str = "other";

/// Results of attempts, in the order in which [`Counting::count`] takes them.
pub const RESULTS: [&str; 3] = ["delivered", "deferred", "bounced"];

/// Recipients by result.
#[derive(Debug, Default)]
struct Tally([AtomicU64; 3]);

impl Tally {
    fn add(&self, recipients: [u64; 3]) {
        for (sum, n) in self.0.iter().zip(recipients).filter(|(_, n)| *n > 0) {
            sum.fetch_add(n, Ordering::Relaxed);
        }
    }
}

/// The destinations of all queues. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<Tallies>>);

/// Of each name, a tally for each queue that has mail for it.
type Tallies = BTreeMap<Box<str>, Vec<Arc<Tally>>>;

impl Registry {
    fn tallies(&self) -> MutexGuard<'_, Tallies> {
        // What is in it is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tally for `name`, if it has series or may have them.
    fn tally(&self, name: &str) -> Option<Arc<Tally>> {
        let mut all = self.tallies();
        if !all.contains_key(name) && name != OTHER && all.len() > NAMED_MAX {
            return None;
        }
        let tally = Arc::<Tally>::default();
        all.entry(name.into()).or_default().push(tally.clone());
        Some(tally)
    }

    /// Appends the series in text form to `out`.
    pub(super) fn render(&self, series: &str, out: &mut String) {
        for (name, tallies) in &*self.tallies() {
            let name = super::escaped(name);
            for (n, result) in RESULTS.iter().enumerate() {
                let sum: u64 = tallies.iter().map(|t| t.0[n].load(Ordering::Relaxed)).sum();
                // Writing to a String cannot fail.
                let _ = writeln!(out, "{series}{{destination=\"{name}\",result=\"{result}\"}} {sum}");
            }
        }
    }
}

/// What one queue counts.
#[derive(Debug)]
pub struct Counting {
    registry: Registry,
    candidates: Heavy,
    named: HashMap<Box<str>, Arc<Tally>>,
    other: Arc<Tally>,
}

impl Counting {
    /// Nothing yet.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let other = registry.tally(OTHER).unwrap_or_default();
        Counting {
            registry: registry.clone(),
            candidates: Heavy::new(CANDIDATES),
            named: HashMap::new(),
            other,
        }
    }

    /// Recipients of `destination` by result, in the order of [`RESULTS`].
    pub fn count(&mut self, destination: &str, recipients: [u64; 3]) {
        let sum = recipients.iter().sum();
        if let Some(tally) = self.named.get(destination) {
            self.candidates.pass(sum);
            return tally.add(recipients);
        }
        let sure = self.candidates.add(destination, sum);
        let frequent = sure >= LEAST && sure.saturating_mul(SHARE) >= self.candidates.total();
        match frequent.then(|| self.registry.tally(destination)).flatten() {
            Some(tally) => {
                tally.add(recipients);
                self.candidates.remove(destination);
                self.named.insert(destination.into(), tally);
            }
            None => self.other.add(recipients),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(registry: &Registry) -> Vec<String> {
        let mut text = String::new();
        registry.render("x", &mut text);
        text.lines().map(str::to_owned).collect()
    }

    fn total(registry: &Registry) -> u64 {
        shown(registry).iter().map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    #[test]
    fn frequent_destinations_have_their_own_series() {
        let registry = Registry::default();
        let (mut one, mut two) = (Counting::new(&registry), Counting::new(&registry));
        assert_eq!(shown(&registry).len(), 3, "zeros from the start");
        for n in 0..1000 {
            one.count("big.example", [1, 0, 0]);
            two.count("big.example", [0, 1, 0]);
            one.count(&format!("{n}.example"), [0, 0, 1]);
        }
        let rows = shown(&registry);
        let value = |name: &str, result: &str| -> u64 {
            let start = format!("x{{destination=\"{name}\",result=\"{result}\"}} ");
            rows.iter().find_map(|l| l.strip_prefix(&start)).unwrap().parse().unwrap()
        };
        assert_eq!(rows.len(), 6);
        // The first ones went to the others.
        assert_eq!(value("big.example", "delivered"), 1000 - LEAST + 1);
        assert_eq!(value(OTHER, "delivered"), LEAST - 1);
        assert_eq!((value(OTHER, "bounced"), total(&registry)), (1000, 3000));
    }

    #[test]
    fn there_are_never_too_many() {
        let registry = Registry::default();
        let mut c = Counting::new(&registry);
        for n in 0..200 {
            c.count(&format!("\"{n}\".example"), [10_000, 0, 0]);
        }
        assert_eq!(shown(&registry).len(), (NAMED_MAX + 1) * 3);
        assert_eq!(total(&registry), 2_000_000);
        assert!(shown(&registry).iter().any(|l| l.contains(r#"destination="\"0\".example""#)));
        // Who has series in one queue has them in another.
        let mut other = Counting::new(&registry);
        other.count("\"0\".example", [100, 0, 0]);
        assert_eq!((other.named.len(), total(&registry)), (1, 2_000_100));
    }
}

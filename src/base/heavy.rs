//! L0: the most frequent names of a stream, in bounded memory (Metwally, Agrawal, El Abbadi, "Efficient
//! computation of frequent and top-k elements in data streams", ICDT 2005: Space-Saving).
//!
//! A name that makes up more than 1/[`Heavy::new`]'s size of what came is always among those that are kept;
//! how much is counted too much for it is known. What is long ago counts less. Cannot fail.

use std::collections::HashMap;

/// From this total on everything counts half.
const FADE: u64 = 1 << 17;

/// See the module.
#[derive(Debug)]
pub struct Heavy {
    places: HashMap<Box<str>, usize>,
    counts: Vec<Count>,
    size: usize,
    total: u64,
}

#[derive(Debug)]
struct Count {
    name: Box<str>,
    /// At most so much.
    most: u64,
    /// Of that, what may have been another name's.
    doubt: u64,
}

impl Heavy {
    /// Keeps at most `size` names; at least one.
    #[must_use]
    pub fn new(size: usize) -> Self {
        let size = size.max(1);
        Heavy { places: HashMap::new(), counts: Vec::new(), size, total: 0 }
    }

    /// All that came lately, under whatever name.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// So much came under a name that is counted elsewhere.
    pub fn pass(&mut self, weight: u64) {
        self.total = self.total.saturating_add(weight);
        if self.total >= FADE {
            self.fade();
        }
    }

    /// So much came under `name`. Gives what has come under it lately, at least.
    pub fn add(&mut self, name: &str, weight: u64) -> u64 {
        self.pass(weight);
        if let Some(&place) = self.places.get(name) {
            let count = &mut self.counts[place];
            count.most = count.most.saturating_add(weight);
            return count.most - count.doubt;
        }
        let name: Box<str> = name.into();
        if self.counts.len() < self.size {
            self.places.insert(name.clone(), self.counts.len());
            self.counts.push(Count { name, most: weight, doubt: 0 });
            return weight;
        }
        let least = (0..self.counts.len()).min_by_key(|&at| self.counts[at].most).unwrap_or(0);
        let count = &mut self.counts[least];
        self.places.remove(&count.name);
        *count = Count { name: name.clone(), most: count.most.saturating_add(weight), doubt: count.most };
        self.places.insert(name, least);
        weight
    }

    /// Forgets a name: it is counted elsewhere from now on.
    pub fn remove(&mut self, name: &str) {
        let Some(place) = self.places.remove(name) else { return };
        self.counts.swap_remove(place);
        if let Some(moved) = self.counts.get(place) {
            self.places.insert(moved.name.clone(), place);
        }
    }

    fn fade(&mut self) {
        self.total /= 2;
        for count in &mut self.counts {
            count.most /= 2;
            count.doubt /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_frequent_name_is_found_among_many_rare_ones() {
        let mut h = Heavy::new(16);
        let mut sure = 0;
        for n in 0..10_000 {
            h.add(&format!("rare-{n}"), 1);
            if n % 5 == 0 {
                sure = h.add("frequent", 1);
            }
        }
        assert!(sure >= 1_900, "{sure} of 2000");
        assert!(h.counts.len() == 16 && h.places.len() == 16);
    }

    #[test]
    fn the_past_fades_and_names_are_forgotten() {
        let mut h = Heavy::new(4);
        h.add("old", FADE - 1);
        h.add("new", 1);
        assert_eq!((h.total(), h.add("old", 0)), (FADE / 2, (FADE - 1) / 2));
        h.add("third", 1);
        h.remove("old");
        h.remove("never there");
        assert_eq!((h.add("third", 1), h.add("old", 1)), (2, 1));
    }

    proptest! {
        /// Never says more than there was, and keeps whoever must be kept.
        #[test]
        fn bounds_hold(names in prop::collection::vec(0u8..40, 1..600), size in 1usize..12) {
            let mut h = Heavy::new(size);
            let mut real = BTreeMap::new();
            for n in &names {
                let name = n.to_string();
                let sure = h.add(&name, 1);
                *real.entry(name.clone()).or_insert(0u64) += 1;
                prop_assert!(sure >= 1 && sure <= real[&name]);
            }
            for (name, count) in real {
                if count * size as u64 > names.len() as u64 {
                    prop_assert!(h.places.contains_key(&*name), "{name} {count}");
                }
            }
            prop_assert!(h.counts.len() <= size);
            prop_assert!(h.counts.iter().enumerate().all(|(at, c)| h.places[&c.name] == at));
        }
    }
}

//! L2: names of destinations in the index, by number; and which of them no row names any more.
//!
//! A name gets a number when the first row names it, and keeps it. When there are many, a round finds out
//! which are still used: it begins with all rows that the index has not got, goes through those that it
//! has (both are the owner's), and whatever is given out meanwhile counts as used. The others are deleted
//! with the next transaction. Numbers are not given out again while the names behind them live: a row
//! whose number has no name is routed anew, never elsewhere. Plain data; nothing fails.

use std::collections::{BTreeMap, BTreeSet};

/// A destination in the index: its name, and an address that led there.
#[derive(Debug)]
struct Name {
    name: Box<str>,
    sample: Box<[u8]>,
    /// The last round in which something named it.
    seen: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Names {
    by_name: BTreeMap<Box<str>, u32>,
    list: BTreeMap<u32, Name>,
    next: u32,
    /// What the index is to be told with the next transaction: new ones, and those that are gone.
    new: BTreeSet<u32>,
    gone: BTreeSet<u32>,
    /// What it is being told in the one under way.
    telling: (BTreeSet<u32>, BTreeSet<u32>),
    round: u32,
    running: bool,
    /// With so many a round begins: twice those that the last one left.
    from: usize,
}

impl Names {
    /// The number of `name`, given out if it has none; `sample` is an address that leads there.
    pub fn number(&mut self, name: &str, sample: &[u8]) -> u32 {
        if let Some(&n) = self.by_name.get(name) {
            self.seen(n);
            return n;
        }
        let n = self.next;
        self.enter(n, name, sample);
        self.new.insert(n);
        n
    }

    fn enter(&mut self, n: u32, name: &str, sample: &[u8]) {
        self.next = n.checked_add(1).expect("below 2^32 destinations");
        self.list.insert(n, Name { name: name.into(), sample: sample.into(), seen: self.round });
        self.by_name.insert(name.into(), n);
    }

    /// A name that the index has. They come in the order of numbers, some of which are gone. `false`: not
    /// in order.
    pub fn learn(&mut self, n: u32, name: &str, sample: &[u8]) -> bool {
        let in_order = n >= self.next && n < u32::MAX;
        if in_order {
            self.enter(n, name, sample);
        }
        in_order
    }

    /// The name with this number.
    #[must_use]
    pub fn name(&self, n: u32) -> Option<&str> {
        self.list.get(&n).map(|name| &*name.name)
    }

    /// Numbers, names and sample addresses.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str, &[u8])> {
        self.list.iter().map(|(n, name)| (*n, &*name.name, &*name.sample))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The index has all of them.
    pub fn told(&mut self) {
        self.new.clear();
        self.gone.clear();
    }

    /// What the index does not know yet: new ones with their names and samples, and (`None`) those that
    /// are gone. [`Self::done`] or [`Self::failed`] must follow.
    pub fn tell(&mut self, mut each: impl FnMut(u32, Option<(&str, &[u8])>)) {
        self.telling = (std::mem::take(&mut self.new), std::mem::take(&mut self.gone));
        for n in &self.telling.0 {
            let name = &self.list[n];
            each(*n, Some((&name.name, &name.sample)));
        }
        self.telling.1.iter().for_each(|n| each(*n, None));
    }

    /// It knows that now.
    pub fn done(&mut self) {
        self.telling = Default::default();
    }

    /// It does not: to be said again.
    pub fn failed(&mut self) {
        let (mut new, gone) = std::mem::take(&mut self.telling);
        // Some may have been forgotten meanwhile.
        new.retain(|n| self.list.contains_key(n));
        self.new.extend(new);
        self.gone.extend(gone);
    }

    /// Begins a round if there are `few` names at least, and more than lately. `true`: [`Self::seen`] is
    /// to be said of each that a row names, then [`Self::end_round`].
    pub fn begin_round(&mut self, few: usize) -> bool {
        if self.running || self.list.len() < self.from.max(few) {
            return false;
        }
        self.running = true;
        self.round = self.round.wrapping_add(1);
        true
    }

    /// Something names `n`.
    pub fn seen(&mut self, n: u32) {
        if let Some(name) = self.list.get_mut(&n) {
            name.seen = self.round;
        }
    }

    /// The round has ended; if it is `whole`, those that nothing names are forgotten.
    pub fn end_round(&mut self, whole: bool) {
        self.running = false;
        if whole {
            let (round, by_name) = (self.round, &mut self.by_name);
            for (n, name) in self.list.extract_if(.., |_, name| name.seen != round) {
                // After a crash a name may have two numbers.
                if by_name.get(&name.name) == Some(&n) {
                    by_name.remove(&name.name);
                }
                self.new.remove(&n);
                self.gone.insert(n);
            }
        }
        // Also of one that has failed: not again at once.
        self.from = 2 * self.list.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(names: &mut Names) -> Vec<(u32, Option<String>)> {
        let mut out = Vec::new();
        names.tell(|n, name| out.push((n, name.map(|(name, _)| name.to_owned()))));
        out
    }

    #[test]
    fn what_nothing_names_is_forgotten_and_its_number_is_not_used_again() {
        let mut names = Names::default();
        let number = |names: &mut Names, name: &str| names.number(name, b"x@y");
        assert_eq!((number(&mut names, "a"), number(&mut names, "b"), number(&mut names, "a")), (0, 1, 0));
        assert!(!names.begin_round(3), "few");
        number(&mut names, "c");
        assert_eq!(told(&mut names).len(), 3);
        names.done();
        assert!(names.begin_round(3) && !names.begin_round(3), "one at a time");
        names.seen(1);
        names.seen(77);
        assert_eq!((number(&mut names, "d"), number(&mut names, "c")), (3, 2), "given out meanwhile");
        names.end_round(true);
        assert_eq!((names.len(), names.name(0), names.name(1)), (3, None, Some("b")));
        assert_eq!(told(&mut names), [(3, Some("d".into())), (0, None)]);
        names.failed();
        assert_eq!(told(&mut names), [(3, Some("d".into())), (0, None)], "said again");
        names.done();
        assert_eq!(number(&mut names, "a"), 4, "no row takes another name for its own");
        assert!(names.from == 6 && !names.begin_round(3));
    }

    #[test]
    fn a_round_that_was_broken_off_forgets_nothing() {
        let mut names = Names::default();
        names.number("a", b"");
        assert!(names.begin_round(1));
        names.end_round(false);
        assert_eq!((names.len(), names.running), (1, false));
    }

    #[test]
    fn forgotten_while_the_index_is_told_of_it() {
        let mut names = Names::default();
        names.number("a", b"");
        assert_eq!(told(&mut names), [(0, Some("a".into()))]);
        assert!(names.begin_round(1));
        names.end_round(true);
        names.failed();
        assert_eq!(told(&mut names), [(0, None)]);
    }

    #[test]
    fn the_index_has_gaps_and_may_have_a_name_twice() {
        let mut names = Names::default();
        assert!(names.learn(2, "a", b"") && names.learn(7, "b", b"") && names.learn(9, "a", b""));
        assert!(!names.learn(9, "c", b"") && !names.learn(3, "c", b"") && !names.learn(u32::MAX, "c", b""));
        assert!(told(&mut names).is_empty());
        names.done();
        assert!(names.begin_round(1));
        names.seen(9);
        names.end_round(true);
        assert_eq!((names.number("a", b""), names.number("b", b"")), (9, 10));
        assert_eq!(names.iter().map(|n| n.0).collect::<Vec<_>>(), [9, 10]);
    }
}

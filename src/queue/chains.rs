//! L2: messages by what operators ask for: by state, by destination, by the domain of their recipients.
//!
//! Three lists go through each slot of the index, so that those that are meant are found without looking at
//! the others. List 0 of destinations and of domains holds those of which it is not known, or that have
//! several: whoever wants to know looks closer. To enter, to move and to take out cost the same however long
//! the lists are; a walk that is under way while that happens goes on with the next. Knows numbers of slots,
//! no messages. Cannot fail.
//!
//! Figures: 32 bytes a slot, and about 100 for each domain that mail waits for.

use crate::base::chunks::Chunks;
use hashbrown::HashMap;

/// The end of a list; no list.
const NIL: u32 = u32::MAX;
/// Domains that nothing waits for, beyond as many as something waits for, before they are forgotten.
const EMPTY_MAX: usize = 1024;

/// What a list has in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The number of the state.
    State = 0,
    /// The destination's number and 1; 0: several, or none.
    Destination = 1,
    /// The domain's number; 0: several, or not known.
    Domain = 2,
}

const KINDS: [Kind; 3] = [Kind::State, Kind::Destination, Kind::Domain];

/// Numbers of domains are below this.
const DOMAINS: u32 = 1 << (32 - STATE_BITS);
/// States are below this.
const STATES: u32 = 1 << STATE_BITS;
const STATE_BITS: u32 = 2;

#[derive(Clone, Copy, Debug)]
struct Links {
    /// The list of the destination; none: the slot is in no list.
    destination: u32,
    /// The number of the domain, and below it that of the state.
    domain_and_state: u32,
    before: [u32; 3],
    behind: [u32; 3],
}

const LOOSE: Links = Links { destination: NIL, domain_and_state: 0, before: [NIL; 3], behind: [NIL; 3] };
const _: () = assert!(size_of::<Links>() == 32);

impl Links {
    fn list(&self, kind: Kind) -> u32 {
        match kind {
            Kind::State => self.domain_and_state % STATES,
            Kind::Destination => self.destination,
            Kind::Domain => self.domain_and_state >> STATE_BITS,
        }
    }

    fn set_list(&mut self, kind: Kind, list: u32) {
        match kind {
            Kind::State => self.domain_and_state = self.domain_and_state & !(STATES - 1) | list,
            Kind::Destination => self.destination = list,
            Kind::Domain => {
                self.domain_and_state = list << STATE_BITS | (self.domain_and_state % STATES);
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
    count: u32,
}

const EMPTY: Ends = Ends { first: NIL, last: NIL, count: 0 };

/// A list being gone through.
#[derive(Clone, Copy, Debug)]
struct Walk {
    kind: Kind,
    next: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    links: Chunks<Links, 1024>,
    ends: [Vec<Ends>; 3],
    names: Vec<Option<Box<[u8]>>>,
    numbers: HashMap<Box<[u8]>, u32>,
    free: Vec<u32>,
    /// Domains that something waits for.
    wanted: usize,
    /// Others may be forgotten.
    may_forget: bool,
    /// By number; nearly always none.
    walks: Vec<Option<Walk>>,
}

impl Chains {
    /// Enters `slot` into three lists.
    pub fn enter(&mut self, slot: u32, state: u32, destination: u32, domain: u32) {
        while self.links.len() <= slot as usize {
            self.links.push(LOOSE);
        }
        for (kind, list) in KINDS.into_iter().zip([state, destination, domain]) {
            self.append(kind, slot, list);
        }
    }

    /// Takes `slot` out of its lists.
    pub fn leave(&mut self, slot: u32) {
        KINDS.into_iter().for_each(|kind| self.take_out(kind, slot));
        self.links[slot as usize].destination = NIL;
    }

    /// `slot` belongs there now.
    pub fn put(&mut self, kind: Kind, slot: u32, list: u32) {
        if self.links[slot as usize].list(kind) != list {
            self.take_out(kind, slot);
            self.append(kind, slot, list);
        }
    }

    /// The list of `slot`.
    pub fn list(&self, kind: Kind, slot: u32) -> u32 {
        self.links.get(slot as usize).map_or(0, |links| links.list(kind))
    }

    /// How long a list is.
    pub fn count(&self, kind: Kind, list: u32) -> usize {
        self.ends[kind as usize].get(list as usize).map_or(0, |ends| ends.count as usize)
    }

    fn append(&mut self, kind: Kind, slot: u32, list: u32) {
        let k = kind as usize;
        debug_assert!(kind != Kind::State || list < STATES);
        if self.ends[k].len() <= list as usize {
            self.ends[k].resize(list as usize + 1, EMPTY);
        }
        let ends = &mut self.ends[k][list as usize];
        let last = std::mem::replace(&mut ends.last, slot);
        ends.count += 1;
        match last {
            NIL => ends.first = slot,
            last => self.links[last as usize].behind[k] = slot,
        }
        if kind == Kind::Domain && list != 0 && last == NIL {
            self.wanted += 1;
        }
        let links = &mut self.links[slot as usize];
        links.set_list(kind, list);
        (links.before[k], links.behind[k]) = (last, NIL);
    }

    fn take_out(&mut self, kind: Kind, slot: u32) {
        let k = kind as usize;
        let links = self.links[slot as usize];
        let (list, before, behind) = (links.list(kind), links.before[k], links.behind[k]);
        let ends = &mut self.ends[k][list as usize];
        ends.count -= 1;
        if kind == Kind::Domain && list != 0 && ends.count == 0 {
            self.wanted -= 1;
        }
        match before {
            NIL => ends.first = behind,
            before => self.links[before as usize].behind[k] = behind,
        }
        match behind {
            NIL => self.ends[k][list as usize].last = before,
            behind => self.links[behind as usize].before[k] = before,
        }
        for walk in self.walks.iter_mut().flatten() {
            if walk.kind == kind && walk.next == slot {
                walk.next = behind;
            }
        }
    }

    /// The number of a domain, in small letters.
    pub fn domain(&mut self, name: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.may_forget && self.numbers.len() > 2 * self.wanted + EMPTY_MAX {
            self.forget_domains();
        }
        let number = self.free.pop().unwrap_or_else(|| {
            if self.names.is_empty() {
                self.names.push(None);
            }
            self.names.push(None);
            let number = u32::try_from(self.names.len() - 1).ok();
            number.filter(|n| *n < DOMAINS).expect("fewer than 2^30 domains")
        });
        self.names[number as usize] = Some(name.into());
        self.numbers.insert(name.into(), number);
        number
    }

    /// From now on domains that nothing waits for are forgotten, and their numbers given to others.
    pub fn may_forget(&mut self) {
        self.may_forget = true;
    }

    fn forget_domains(&mut self) {
        let (ends, names, free) = (&self.ends[Kind::Domain as usize], &mut self.names, &mut self.free);
        self.numbers.retain(|_, number| {
            let wanted = ends.get(*number as usize).is_some_and(|ends| ends.count > 0);
            if !wanted {
                names[*number as usize] = None;
                free.push(*number);
            }
            wanted
        });
    }

    /// The number of a domain that is known.
    pub fn find_domain(&self, name: &[u8]) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// The domain with this number.
    pub fn domain_name(&self, number: u32) -> Option<&[u8]> {
        self.names.get(number as usize)?.as_deref()
    }

    /// Numbers of domains are below this.
    pub fn domains(&self) -> u32 {
        self.names.len() as u32
    }

    /// Begins to go through a list. [`Self::end_walk`] must follow.
    pub fn begin_walk(&mut self, kind: Kind, list: u32) -> usize {
        let next = self.ends[kind as usize].get(list as usize).map_or(NIL, |ends| ends.first);
        let walk = Some(Walk { kind, next });
        match self.walks.iter().position(Option::is_none) {
            Some(n) => {
                self.walks[n] = walk;
                n
            }
            None => {
                self.walks.push(walk);
                self.walks.len() - 1
            }
        }
    }

    /// The next slot of the list. What leaves the list meanwhile is not given, unless it comes back; what
    /// enters it is.
    pub fn step(&mut self, walk: usize) -> Option<u32> {
        let walk = self.walks[walk].as_mut().expect("under way");
        let slot = Some(walk.next).filter(|slot| *slot != NIL)?;
        walk.next = self.links[slot as usize].behind[walk.kind as usize];
        Some(slot)
    }

    /// It is over.
    pub fn end_walk(&mut self, walk: usize) {
        self.walks[walk] = None;
        while let Some(None) = self.walks.last() {
            self.walks.pop();
        }
    }

    /// Bytes of memory held, but for the names of domains.
    pub fn heap_bytes(&self) -> usize {
        let ends: usize = self.ends.iter().map(Vec::capacity).sum();
        let domains = self.numbers.capacity() * (size_of::<(Box<[u8]>, u32)>() + 1)
            + self.names.capacity() * size_of::<Option<Box<[u8]>>>();
        self.links.heap_bytes() + ends * size_of::<Ends>() + domains
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn all(chains: &mut Chains, kind: Kind, list: u32) -> Vec<u32> {
        let walk = chains.begin_walk(kind, list);
        let mut out = Vec::new();
        while let Some(slot) = chains.step(walk) {
            out.push(slot);
        }
        chains.end_walk(walk);
        out
    }

    #[test]
    fn a_walk_goes_on_when_its_place_is_taken_away() {
        let mut c = Chains::default();
        (0..5).for_each(|slot| c.enter(slot, 1, 0, 0));
        let walk = c.begin_walk(Kind::State, 1);
        assert_eq!((c.step(walk), c.step(walk)), (Some(0), Some(1)));
        c.leave(2);
        c.put(Kind::State, 3, 2);
        c.put(Kind::Destination, 4, 7);
        let other = c.begin_walk(Kind::Destination, 0);
        assert_eq!((c.step(walk), c.step(walk), c.step(other)), (Some(4), None, Some(0)));
        c.end_walk(walk);
        c.end_walk(other);
        assert!(c.walks.is_empty());
        assert_eq!((all(&mut c, Kind::State, 1), c.count(Kind::State, 1)), (vec![0, 1, 4], 3));
        assert_eq!((all(&mut c, Kind::State, 2), c.list(Kind::Destination, 4)), (vec![3], 7));
    }

    #[test]
    fn domains_that_nothing_waits_for_are_forgotten() {
        let mut c = Chains::default();
        c.may_forget();
        let kept = c.domain(b"kept.example");
        c.enter(0, 0, 0, kept);
        for n in 0..10 * EMPTY_MAX {
            let domain = c.domain(format!("d{n}.example").as_bytes());
            c.enter(1, 0, 0, domain);
            c.leave(1);
        }
        assert!(c.domains() as usize <= EMPTY_MAX + 5, "{} numbers", c.domains());
        assert_eq!(c.domain(b"kept.example"), kept);
        assert_eq!(c.domain_name(kept), Some(&b"kept.example"[..]));
        assert_eq!((c.find_domain(b"d0.example"), c.domain_name(0)), (None, None));
    }

    proptest! {
        #[test]
        fn lists_are_those_of_a_model(
            steps in proptest::collection::vec((0u32..12, 0usize..4, 0u32..4), 0..80)
        ) {
            let mut c = Chains::default();
            let mut model: BTreeMap<u32, [u32; 3]> = BTreeMap::new();
            for (slot, what, list) in steps {
                match (model.get_mut(&slot), what) {
                    (None, _) => {
                        c.enter(slot, list, 3 - list, 0);
                        model.insert(slot, [list, 3 - list, 0]);
                    }
                    (Some(_), 3) => {
                        c.leave(slot);
                        model.remove(&slot);
                    }
                    (Some(lists), kind) => {
                        c.put(KINDS[kind], slot, list);
                        lists[kind] = list;
                    }
                }
                for kind in KINDS {
                    for list in 0..4 {
                        let mut found = all(&mut c, kind, list);
                        found.sort_unstable();
                        let there = model.iter().filter(|m| m.1[kind as usize] == list).map(|m| *m.0);
                        prop_assert_eq!(&found, &there.collect::<Vec<_>>());
                        prop_assert_eq!(found.len(), c.count(kind, list));
                    }
                }
            }
        }
    }
}

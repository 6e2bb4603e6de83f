//! L1: messages of a mailbox that no session has been told of: what is `\Recent` for the first one that is
//! (RFC 3501 §2.3.2).
//!
//! No IO, async or clock. It follows from the committed records and from what sessions have taken. The latter
//! goes into the row of the mailbox with the next transaction of the index, and is no record: it costs a
//! delivery nothing. After a crash, what was taken since that transaction is recent once more, which is
//! what RFC 3501 wants where it cannot be known. Nothing fails.

use crate::mailbox::types::UidSet;
use crate::mailbox::wire::{Input, Malformed, put, put_step};

/// Ranges that are remembered; beyond them the oldest messages are recent no more.
const RANGES_MAX: usize = 64;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fresh {
    /// All messages below have been told of.
    from: u32,
    /// Those that have not. Most mailboxes have none.
    uids: Option<Box<UidSet>>,
}

impl Default for Fresh {
    fn default() -> Self {
        Fresh::above(1)
    }
}

impl Fresh {
    /// Somebody has been told of all messages below `uidnext`.
    #[must_use]
    pub fn above(uidnext: u32) -> Self {
        Fresh { from: uidnext, uids: None }
    }

    /// There is this message: a new one, or one that has changed.
    pub fn come(&mut self, uid: u32) {
        if uid < self.from {
            return;
        }
        self.uids.get_or_insert_default().insert(uid);
        self.bound();
    }

    /// Both what comes and what goes may make one range more.
    fn bound(&mut self) {
        if let Some(uids) = &mut self.uids
            && uids.ranges().len() > RANGES_MAX
        {
            self.from = uids.ranges()[0].1.saturating_add(1);
            uids.cut(self.from);
        }
    }

    /// It is gone.
    pub fn go(&mut self, uid: u32) {
        if let Some(uids) = &mut self.uids {
            uids.remove(uid);
            if uids.is_empty() {
                self.uids = None;
            }
        }
        self.bound();
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.uids.as_ref().map_or(0, |uids| u32::try_from(uids.len()).unwrap_or(u32::MAX))
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uids.is_none()
    }

    /// Those up to `last`.
    #[must_use]
    pub fn up_to(&self, last: u32) -> UidSet {
        let ranges = self.uids.iter().flat_map(|uids| uids.ranges());
        UidSet::of(ranges.filter(|r| r.0 <= last).map(|r| (r.0, r.1.min(last))))
    }

    /// A session is told of all messages up to `last`: gives those that it is the first to be told of.
    pub fn take(&mut self, last: u32) -> UidSet {
        let taken = self.up_to(last);
        self.from = self.from.max(last.saturating_add(1));
        if let Some(uids) = &mut self.uids {
            uids.cut(self.from);
            if uids.is_empty() {
                self.uids = None;
            }
        }
        taken
    }

    /// Appends it, as part of a row.
    pub fn put(&self, out: &mut Vec<u8>) {
        let ranges = self.uids.as_ref().map_or(&[][..], |uids| uids.ranges());
        put(out, u64::from(self.from));
        put(out, ranges.len() as u64);
        let mut last = u64::from(self.from);
        for (from, to) in ranges {
            put_step(out, &mut last, u64::from(*from));
            put_step(out, &mut last, u64::from(*to));
        }
    }

    /// Reads what [`Self::put`] wrote.
    ///
    /// # Errors
    /// [`Malformed`] if it is something else.
    pub fn parse(i: &mut Input<'_>) -> Result<Self, Malformed> {
        let (from, count) = (i.small()?, i.small()?);
        if count as usize > RANGES_MAX {
            return Err(Malformed);
        }
        let (mut last, mut ranges) = (u64::from(from), Vec::new());
        for _ in 0..count {
            let range = (i.small_step(&mut last)?, i.small_step(&mut last)?);
            let apart = ranges.last().is_none_or(|before: &(u32, u32)| before.1.saturating_add(1) < range.0);
            if range.0 < from || range.0 > range.1 || !apart {
                return Err(Malformed);
            }
            ranges.push(range);
        }
        Ok(Fresh { from, uids: (!ranges.is_empty()).then(|| Box::new(UidSet::of(ranges))) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn again(fresh: &Fresh) -> Fresh {
        let mut out = Vec::new();
        fresh.put(&mut out);
        let mut input = Input(&out);
        let read = Fresh::parse(&mut input).expect("of our own making");
        assert!(input.is_empty());
        read
    }

    #[test]
    fn the_first_is_told_and_nobody_else() {
        let mut fresh = Fresh::above(5);
        [3, 5, 6, 7, 9].iter().for_each(|uid| fresh.come(*uid));
        assert_eq!((fresh.len(), fresh.up_to(8).to_string().as_str()), (4, "5:7"));
        fresh.go(6);
        fresh.go(6);
        assert_eq!(fresh.take(7).to_string(), "5,7");
        assert_eq!((fresh.take(7).len(), fresh.len()), (0, 1));
        fresh.come(5);
        assert_eq!(again(&fresh).take(u32::MAX).to_string(), "9", "5 has been told of");
        fresh.go(9);
        assert!(fresh.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut fresh = Fresh::default();
        (1..1000).step_by(2).for_each(|uid| fresh.come(uid));
        assert_eq!((fresh.len() as usize, again(&fresh) == fresh), (RANGES_MAX, true));
        let mut holes = Fresh::default();
        (1..1000).for_each(|uid| holes.come(uid));
        (2..1000).step_by(2).for_each(|uid| holes.go(uid));
        assert_eq!((holes.len() as usize, again(&holes) == holes), (RANGES_MAX, true));
        fresh.come(1);
        assert!(!fresh.up_to(1).has(1), "it is recent no more");
        assert!(fresh.up_to(u32::MAX).has(999));
    }

    proptest! {
        #[test]
        fn as_a_naive_set(steps in prop::collection::vec((0u8..3, 1u32..60), 0..80)) {
            let (mut fresh, mut naive, mut from) = (Fresh::default(), BTreeSet::new(), 1);
            for (what, uid) in steps {
                match what {
                    0 => {
                        fresh.come(uid);
                        if uid >= from {
                            naive.insert(uid);
                        }
                    }
                    1 => {
                        fresh.go(uid);
                        naive.remove(&uid);
                    }
                    _ => {
                        let later = naive.split_off(&(uid + 1));
                        prop_assert_eq!(fresh.take(uid), naive.iter().copied().collect::<UidSet>());
                        (naive, from) = (later, from.max(uid + 1));
                    }
                }
                prop_assert_eq!(fresh.up_to(u32::MAX), naive.iter().copied().collect::<UidSet>());
                prop_assert_eq!(&again(&fresh), &fresh);
            }
        }

        #[test]
        fn the_reader_is_total(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(fresh) = Fresh::parse(&mut Input(&bytes)) {
                prop_assert_eq!(&again(&fresh), &fresh);
            }
        }
    }
}

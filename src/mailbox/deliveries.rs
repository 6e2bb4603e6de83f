//! L2: which hand-overs from queues have been taken, so that none is taken twice.
//!
//! A queue says when it will not hand over again; until then, also over crashes, the id is kept: for at
//! most [`AGE`], longer than a message is tried, and [`MAX`] of them. Knows no disk and no clock.

use crate::base::time::Wall;
use crate::mailbox::types::DeliveryId;
use std::collections::BTreeMap;

/// Ids kept at most.
pub const MAX: usize = 1 << 20;
/// How long, in milliseconds: 10 days.
pub const AGE: u64 = 10 * 86_400_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Deliveries {
    taken: BTreeMap<DeliveryId, Wall>,
    order: BTreeMap<(Wall, DeliveryId), ()>,
}

impl Deliveries {
    /// Whether it was taken.
    #[must_use]
    pub fn has(&self, id: &DeliveryId) -> bool {
        self.taken.contains_key(id)
    }

    /// It has been taken. Returns what is forgotten for it.
    pub fn insert(&mut self, id: DeliveryId, when: Wall) -> Vec<DeliveryId> {
        if let Some(before) = self.taken.insert(id, when) {
            self.order.remove(&(before, id));
        }
        self.order.insert((when, id), ());
        let mut forgotten = Vec::new();
        while let Some((&(oldest, first), ())) = self.order.first_key_value() {
            if self.taken.len() <= MAX && when.0.saturating_sub(oldest.0) <= AGE {
                break;
            }
            self.remove(&first);
            forgotten.push(first);
        }
        forgotten
    }

    /// It need not be known any more. `false`: it was not.
    pub fn remove(&mut self, id: &DeliveryId) -> bool {
        let Some(when) = self.taken.remove(id) else { return false };
        self.order.remove(&(when, *id));
        true
    }

    /// Number of ids.
    #[must_use]
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> DeliveryId {
        DeliveryId { log: 1, message: n, recipient: 0 }
    }

    #[test]
    fn ids_are_kept_until_settled_or_too_old() {
        let mut d = Deliveries::default();
        assert!(d.insert(id(1), Wall(5)).is_empty() && d.insert(id(2), Wall(6)).is_empty());
        assert!(d.has(&id(1)) && d.remove(&id(1)) && !d.has(&id(1)) && !d.remove(&id(1)));
        d.insert(id(2), Wall(100));
        assert_eq!(d.insert(id(3), Wall(AGE + 50)), []);
        assert_eq!(d.insert(id(4), Wall(AGE + 101)), [id(2)]);
        assert_eq!(d.len(), 2);
    }
}

//! L2: how far the rounds through destinations and messages are that keep the schedule small and in
//! time.
//!
//! A tour through all messages finds out which destinations are still named; it begins when there are
//! many more than the last one left. Numbers only; cannot fail.

use crate::base::ids::MessageId;
use crate::queue::index::DestId;

/// Destinations from which on it is worth looking for some to forget.
pub const FEW: usize = 1000;

/// See the module.
#[derive(Debug)]
pub struct Tour {
    /// The last message looked at; `None`: no tour is under way.
    pub at: Option<MessageId>,
    /// The next destination to be forgotten, once all messages have been looked at.
    pub sorting: Option<DestId>,
    /// The next destination whose list is looked at.
    pub list: DestId,
    /// Destinations with which the next tour begins.
    pub from: usize,
}

impl Default for Tour {
    fn default() -> Self {
        Tour { at: None, sorting: None, list: 0, from: FEW }
    }
}

impl Tour {
    /// True if a tour is to begin, with so many destinations.
    #[must_use]
    pub fn is_due(&self, destinations: usize) -> bool {
        self.at.is_none() && self.sorting.is_none() && destinations >= self.from
    }

    /// A tour has ended, and left so many destinations.
    pub fn end(&mut self, left: usize) {
        (self.at, self.sorting) = (None, None);
        self.from = FEW.max(2 * left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_tour_begins_when_there_are_twice_as_many() {
        let mut tour = Tour::default();
        assert!(!tour.is_due(FEW - 1) && tour.is_due(FEW));
        tour.at = Some(MessageId(1));
        assert!(!tour.is_due(5 * FEW));
        tour.end(3 * FEW);
        assert!(!tour.is_due(5 * FEW) && tour.is_due(6 * FEW));
        tour.end(1);
        assert!(tour.is_due(FEW));
    }
}

//! L2: messages to several destinations that have no place in the lists of some of them.
//!
//! Says who gets a place, and remembers which destinations lack some; the rounds that give them are the
//! desk's. Plain data; nothing fails.

use crate::base::time::Mono;
use crate::queue::index::{Entry, Key};
use crate::queue::schedule::Schedule;
use crate::queue::state::State;
use std::collections::BTreeSet;

/// Destinations that lack places, and the rounds that give them.
#[derive(Debug, Default)]
pub(crate) struct Absent {
    /// Names of destinations in whose lists messages are missing.
    pub names: BTreeSet<String>,
    /// A round is under way.
    pub running: bool,
    /// The next one comes then at the earliest.
    pub not_before: Mono,
    /// When messages whose time is over are looked for again.
    pub aged_at: Mono,
}

impl Absent {
    /// A message is missing in the list of the destination `name`.
    pub fn note(&mut self, name: &str) {
        if !self.names.contains(name) {
            self.names.insert(name.to_owned());
        }
    }

    /// Those that are to get what they lack now.
    pub fn due(&self, schedule: &Schedule) -> BTreeSet<String> {
        let due = |name: &&String| {
            schedule.find(name).is_none_or(|d| schedule.is_open(d) || schedule.backlog(d) == 0)
        };
        self.names.iter().filter(due).cloned().collect()
    }
}

/// Whether what is left of `e` goes to several destinations.
pub(crate) fn is_spread(e: &Entry) -> bool {
    let mut open = e.recipients.iter().filter(|r| !r.phase.is_done());
    let first = open.next().map(|r| r.destination);
    open.any(|r| Some(r.destination) != first)
}

impl State {
    /// Puts `key` to the end of the list of `d`; `false`: that has enough of such messages.
    pub(crate) fn place(&mut self, d: u32, key: Key, spread: bool, now: Mono) -> bool {
        let there = !self.leaves_out(d, spread);
        if there {
            self.schedule.push(d, key, now);
            self.call(d, now);
        }
        there
    }

    /// As [`Self::place`], to the head.
    pub(crate) fn place_first(&mut self, d: u32, key: Key, spread: bool, now: Mono) -> bool {
        let there = !self.leaves_out(d, spread);
        if there {
            self.schedule.push_front(d, key, now);
            self.call(d, now);
        }
        there
    }

    /// Whether a message that goes to several destinations, if `spread`, is to be left out of the list of
    /// `d`, which is then noted.
    fn leaves_out(&mut self, d: u32, spread: bool) -> bool {
        let out = spread && !self.schedule.is_open(d) && self.schedule.backlog(d) >= self.places;
        if out {
            self.absent.note(&self.doors[d as usize].hop.key);
        }
        out
    }
}

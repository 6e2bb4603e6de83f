//! The oracle of the journal: which records were staged, promised, ended, and what each recovery
//! must therefore find. It lives outside of the machine and never restarts.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Shared handle to the book.
pub type SharedBook = Rc<RefCell<Book>>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    /// Staged in a life that may have ended before it was written.
    Perhaps,
    /// Acknowledged, or seen by a recovery: it must stay.
    Durable,
    /// Not seen by a recovery: it must stay away.
    Gone,
}

struct Entry {
    hash: u64,
    known: Known,
    /// Its outcome was staged.
    ending: bool,
    /// Its outcome was acknowledged, or seen by a recovery.
    ended: bool,
}

/// See the module.
#[derive(Default)]
pub struct Book {
    entries: BTreeMap<u64, Entry>,
    last: u64,
}

/// What one recovery has found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Found {
    /// Hash of the payload of each message, with or without an outcome.
    pub messages: BTreeMap<u64, u64>,
    /// Messages with an outcome.
    pub ended: BTreeSet<u64>,
}

impl Book {
    /// A number for a new record.
    pub fn next_id(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// A message was staged.
    pub fn staged(&mut self, id: u64, hash: u64) {
        let entry = Entry { hash, known: Known::Perhaps, ending: false, ended: false };
        assert!(self.entries.insert(id, entry).is_none(), "{id} was staged before");
    }

    /// A message was acknowledged.
    pub fn acked(&mut self, id: u64) {
        self.entry(id).known = Known::Durable;
    }

    /// The outcome of a message was staged.
    pub fn ending(&mut self, id: u64) {
        self.entry(id).ending = true;
    }

    /// The outcome of a message was acknowledged.
    pub fn ended(&mut self, id: u64) {
        self.entry(id).ended = true;
    }

    /// The hash of a message's payload.
    pub fn hash(&self, id: u64) -> u64 {
        self.entries[&id].hash
    }

    /// Messages that are promised and not over.
    pub fn live(&self) -> usize {
        self.entries.values().filter(|e| e.known == Known::Durable && !e.ended).count()
    }

    fn entry(&mut self, id: u64) -> &mut Entry {
        self.entries.get_mut(&id).expect("staged before")
    }

    /// Compares a recovery with what was promised, and remembers what it has found.
    pub fn recovered(&mut self, found: &Found) -> Vec<String> {
        let mut wrong = Vec::new();
        for (id, hash) in &found.messages {
            match self.entries.get(id) {
                None => wrong.push(format!("invented: record {id} was never staged")),
                Some(e) if e.hash != *hash => wrong.push(format!("altered: record {id}")),
                Some(e) if e.known == Known::Gone && !found.ended.contains(id) => {
                    wrong.push(format!("risen: record {id} was not there at the recovery before"));
                }
                Some(_) => {}
            }
        }
        for (id, e) in &mut self.entries {
            let there = found.messages.contains_key(id);
            let over = found.ended.contains(id);
            if over && !e.ending {
                wrong.push(format!("invented: an outcome of record {id}"));
            }
            if there && !over && e.ended {
                wrong.push(format!("risen: record {id} was over, its outcome is lost"));
            }
            if !there && !over && e.known == Known::Durable && !e.ending {
                wrong.push(format!("lost: record {id} was acknowledged"));
            }
            if !there && !over && e.known == Known::Durable && e.ending {
                // Its outcome was durable, and its segment retired with it since.
                e.ended = true;
            }
            e.ended |= over;
            // An outcome that this recovery has not found is void; the owner begins again.
            e.ending = e.ended;
            e.known = if there || e.ended { Known::Durable } else { Known::Gone };
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(messages: &[(u64, u64)], ended: &[u64]) -> Found {
        Found { messages: messages.iter().copied().collect(), ended: ended.iter().copied().collect() }
    }

    #[test]
    fn finds_what_is_lost_invented_altered_or_risen() {
        let mut b = Book::default();
        for id in 1..=4 {
            b.staged(id, id * 10);
        }
        b.acked(1);
        b.acked(2);
        b.ending(2);
        assert_eq!(b.recovered(&found(&[(1, 10), (2, 20), (3, 30)], &[])), Vec::<String>::new());
        assert_eq!(b.live(), 3);
        assert_eq!(b.recovered(&found(&[(1, 10), (2, 20), (3, 30), (4, 40)], &[])).len(), 1, "4 rose");
        b.ending(1);
        b.ended(1);
        let wrong = b.recovered(&found(&[(1, 10), (2, 21), (9, 90)], &[2]));
        let kinds: Vec<&str> = wrong.iter().map(|w| w.split(':').next().unwrap()).collect();
        assert_eq!(kinds, ["altered", "invented", "risen", "invented", "lost", "lost"], "{wrong:?}");
    }
}

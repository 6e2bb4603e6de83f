//! L2: changes of the index that are not on stable storage in it yet, and the journal records they are of.
//!
//! The journal is the index's write-ahead log: a record stays in it as long as somebody holds it
//! ([`Said`]): each change that it made until the index has that, and its body until the archive has
//! that. Who wants to know a row asks here first: later changes win. Knows no disk. Nothing fails.

use crate::mailbox::row::{self, Key};
use crate::storage::record::Location;
use smallvec::SmallVec;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Journal records that nobody holds any more, to be given up.
pub type Freed = Rc<RefCell<Vec<Location>>>;

/// A record in the journal that is needed. When the last one is dropped, it is not.
#[derive(Debug)]
pub struct Hold {
    at: Location,
    freed: Freed,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.freed.borrow_mut().push(self.at);
    }
}

/// A share in a record of the journal.
pub type Said = Rc<Hold>;

/// The first share in the record at `at`.
#[must_use]
pub fn hold(at: Location, freed: &Freed) -> Said {
    Rc::new(Hold { at, freed: freed.clone() })
}

impl Hold {
    /// Where the record is.
    #[must_use]
    pub fn at(&self) -> Location {
        self.at
    }
}

/// What becomes of a row.
#[derive(Debug)]
enum Row {
    Put(Box<[u8]>),
    Delete,
    /// It is made when the transaction is, of what is known then.
    Dirty,
}

#[derive(Debug)]
struct Change {
    row: Row,
    /// The index has no such row.
    new: bool,
    /// The index has such a row, of about the same length.
    there: bool,
    said: SmallVec<[Said; 1]>,
}

impl Change {
    /// Expunges have rows, too, but fewer than those that go with them.
    fn takes_space(&self, key: &Key) -> bool {
        let small = matches!(key.tag(), row::ACCOUNTS | row::MAILBOXES | row::EXPUNGES);
        !small && !self.there && matches!(self.row, Row::Put(_))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    waiting: BTreeMap<Key, Change>,
    flying: BTreeMap<Key, Change>,
    mark: u64,
}

/// Changes of a transaction on a full disk: few enough for the space that is set aside for them.
const SHORT: usize = 512;

impl Ledger {
    /// For an index whose last transaction was `mark`.
    #[must_use]
    pub fn new(mark: u64) -> Self {
        Ledger { mark, ..Ledger::default() }
    }

    /// Number of the last durable transaction.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// Another index: its last transaction was `mark`. What waits goes into that.
    pub fn set_mark(&mut self, mark: u64) {
        assert!(self.flying.is_empty(), "between transactions");
        self.mark = mark;
    }

    fn enter(&mut self, key: Key, row: Row, (new, there): (bool, bool), said: Option<&Said>) {
        let change = self.waiting.entry(key).or_insert_with(|| {
            let flying = self.flying.get(&key);
            let there = flying.map_or(there, |c| c.there);
            Change { row: Row::Dirty, new: new && flying.is_none(), there, said: SmallVec::new() }
        });
        change.row = row;
        change.said.extend(said.cloned());
    }

    /// The row will be `value`. `new`: it is certain that the index has none.
    pub fn put(&mut self, key: Key, value: Vec<u8>, new: bool, said: Option<&Said>) {
        self.enter(key, Row::Put(value.into()), (new, false), said);
    }

    /// The row will be `value`. If nothing is known of it here, the index has one of about the same length.
    pub fn replace(&mut self, key: Key, value: Vec<u8>, said: Option<&Said>) {
        self.enter(key, Row::Put(value.into()), (false, true), said);
    }

    /// The row, of an account or a mailbox, is not as it was.
    pub fn touch(&mut self, key: Key, said: Option<&Said>) {
        self.enter(key, Row::Dirty, (false, false), said);
    }

    /// The row goes. One that the index never had is forgotten.
    pub fn delete(&mut self, key: Key, said: Option<&Said>) {
        if self.waiting.get(&key).is_some_and(|c| c.new) {
            self.waiting.remove(&key);
            return;
        }
        self.enter(key, Row::Delete, (false, false), said);
    }

    /// What the index will say: `None`: what it says now; `Some(None)`: nothing.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Option<&[u8]>> {
        match &self.waiting.get(key).or_else(|| self.flying.get(key))?.row {
            Row::Put(value) => Some(Some(value)),
            Row::Delete => Some(None),
            Row::Dirty => None,
        }
    }

    /// The changes of all rows of `tag` with `a` as the first number, by the second: `None`: deleted.
    #[must_use]
    pub fn over(&self, tag: u8, a: u64) -> BTreeMap<u64, Option<&[u8]>> {
        let (from, to) = row::range(tag, a);
        let mut out = BTreeMap::new();
        for list in [&self.flying, &self.waiting] {
            for (key, change) in list.range(from..=to) {
                match &change.row {
                    Row::Put(value) => drop(out.insert(key.b(), Some(&**value))),
                    Row::Delete => drop(out.insert(key.b(), None)),
                    Row::Dirty => {}
                }
            }
        }
        out
    }

    /// As [`Self::over`], one after the other, in order.
    pub fn each_over(&self, tag: u8, a: u64) -> impl Iterator<Item = (u64, Option<&[u8]>)> {
        let (from, to) = row::range(tag, a);
        let mut flying = self.flying.range(from..=to).peekable();
        let mut waiting = self.waiting.range(from..=to).peekable();
        std::iter::from_fn(move || {
            loop {
                let (key, change) = match (flying.peek(), waiting.peek()) {
                    (Some((f, _)), Some((w, _))) if f < w => flying.next()?,
                    (Some((f, _)), Some((w, _))) => {
                        if f == w {
                            flying.next();
                        }
                        waiting.next()?
                    }
                    (Some(_), None) => flying.next()?,
                    (None, _) => waiting.next()?,
                };
                match &change.row {
                    Row::Put(value) => return Some((key.b(), Some(&**value))),
                    Row::Delete => return Some((key.b(), None)),
                    Row::Dirty => {}
                }
            }
        })
    }

    /// Whether a change of the row waits.
    #[must_use]
    pub fn waits(&self, key: &Key) -> bool {
        self.waiting.contains_key(key)
    }

    /// Changes that wait, and that are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len() + self.flying.len()
    }

    /// True if the index has everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records that are held by changes. (Bodies hold more.)
    pub fn said(&self) -> impl Iterator<Item = &Said> {
        self.waiting.values().chain(self.flying.values()).flat_map(|c| &c.said)
    }

    /// Takes what waits, for one transaction: rows as keys with values (`None`: to be deleted), in order.
    /// `make` gives the rows that are made now. [`Self::done`] or [`Self::failed`] must follow. `short`:
    /// the disk is: what takes space waits, and it must be a small transaction. Rows that are there already
    /// take none.
    pub fn take(
        &mut self,
        short: bool,
        mut make: impl FnMut(&Key) -> Option<Vec<u8>>,
        mut each: impl FnMut(&Key, Option<&[u8]>),
    ) {
        assert!(self.flying.is_empty(), "one transaction at a time");
        self.flying = std::mem::take(&mut self.waiting);
        if short {
            let waits = self.flying.extract_if(.., |key, change| change.takes_space(key));
            self.waiting.extend(waits);
            if let Some(rest) = self.flying.keys().nth(SHORT).copied() {
                self.waiting.append(&mut self.flying.split_off(&rest));
            }
        }
        for (key, change) in &self.flying {
            match &change.row {
                Row::Put(value) => each(key, Some(value)),
                Row::Delete => each(key, None),
                Row::Dirty => each(key, make(key).as_deref()),
            }
        }
    }

    /// The transaction has changed nothing: what was taken waits again, before what came since.
    pub fn failed(&mut self) {
        let mut taken = std::mem::take(&mut self.flying);
        for (key, later) in std::mem::take(&mut self.waiting) {
            match taken.get_mut(&key) {
                Some(before) => {
                    before.row = later.row;
                    before.said.extend(later.said);
                }
                None => drop(taken.insert(key, later)),
            }
        }
        self.waiting = taken;
    }

    /// The transaction `mark` is durable: its records are not held any more.
    pub fn done(&mut self, mark: u64) {
        assert!(mark > self.mark, "transactions have ascending numbers");
        self.mark = mark;
        for (key, change) in std::mem::take(&mut self.flying) {
            if let Some(later) = self.waiting.get_mut(&key) {
                later.there = !matches!(change.row, Row::Delete);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::types::{AccountId, MailboxId};

    fn at(offset: u32) -> Location {
        Location { segment: 1, offset, len: 1 }
    }

    fn key(uid: u32) -> Key {
        Key::message(MailboxId(7), uid)
    }

    fn take(ledger: &mut Ledger, short: bool) -> Vec<(Key, Option<Vec<u8>>)> {
        let mut out = Vec::new();
        let make = |k: &Key| (k.a() == 1).then(|| b"made".to_vec());
        ledger.take(short, make, |k, v| out.push((*k, v.map(<[u8]>::to_vec))));
        out
    }

    #[test]
    fn records_are_held_until_all_they_say_is_in_the_index() {
        let (freed, mut ledger) = (Freed::default(), Ledger::new(4));
        let one = hold(at(1), &freed);
        ledger.put(key(1), b"a".to_vec(), false, Some(&one));
        ledger.touch(Key::account(AccountId(1)), Some(&one));
        ledger.touch(Key::account(AccountId(2)), Some(&one));
        drop(one);
        assert_eq!(take(&mut ledger, false).len(), 3);
        let two = hold(at(2), &freed);
        ledger.put(key(1), b"b".to_vec(), false, Some(&two));
        drop(two);
        assert_eq!(ledger.get(&key(1)), Some(Some(&b"b"[..])));
        ledger.done(5);
        assert_eq!((freed.take(), ledger.mark()), (vec![at(1)], 5));
        assert_eq!(take(&mut ledger, false), [(key(1), Some(b"b".to_vec()))]);
        ledger.delete(key(1), None);
        ledger.failed();
        assert!(freed.borrow().is_empty() && ledger.get(&key(1)) == Some(None));
        assert_eq!(take(&mut ledger, false), [(key(1), None)]);
        ledger.done(6);
        assert_eq!((freed.take(), ledger.is_empty()), (vec![at(2)], true));
    }

    #[test]
    fn what_the_index_never_had_is_forgotten() {
        let (freed, mut ledger) = (Freed::default(), Ledger::new(0));
        let one = hold(at(1), &freed);
        ledger.put(key(1), b"a".to_vec(), true, Some(&one));
        drop(one);
        ledger.delete(key(1), None);
        assert_eq!((freed.take(), ledger.is_empty()), (vec![at(1)], true));
        // While it is on its way it counts as there.
        ledger.put(key(1), b"a".to_vec(), true, None);
        take(&mut ledger, false);
        ledger.delete(key(1), None);
        ledger.done(1);
        assert_eq!(take(&mut ledger, false), [(key(1), None)]);
    }

    #[test]
    fn what_lies_over_the_rows_of_a_mailbox_and_a_short_disk() {
        let mut ledger = Ledger::new(0);
        ledger.put(key(1), b"a".to_vec(), false, None);
        ledger.put(key(2), b"b".to_vec(), false, None);
        ledger.put(Key::message(MailboxId(8), 1), b"x".to_vec(), false, None);
        take(&mut ledger, false);
        ledger.delete(key(2), None);
        ledger.put(key(3), b"c".to_vec(), false, None);
        let over = ledger.over(row::MESSAGES, 7);
        let expected = [(1, Some(&b"a"[..])), (2, None), (3, Some(&b"c"[..]))];
        assert_eq!(ledger.each_over(row::MESSAGES, 7).collect::<Vec<_>>(), expected);
        assert_eq!(over.into_iter().collect::<Vec<_>>(), expected);
        ledger.failed();
        assert_eq!(take(&mut ledger, true), [(key(2), None)], "deletes go on");
        ledger.done(1);
        assert_eq!(take(&mut ledger, false).len(), 3);
    }

    #[test]
    fn on_a_short_disk_rows_are_replaced_and_none_is_added() {
        let mut ledger = Ledger::new(0);
        let row = |ledger: &mut Ledger, uid| ledger.replace(key(uid), b"r".to_vec(), None);
        let keys =
            |ledger: &mut Ledger, short| take(ledger, short).into_iter().map(|(k, _)| k).collect::<Vec<_>>();
        ledger.put(key(1), b"a".to_vec(), false, None);
        row(&mut ledger, 1);
        row(&mut ledger, 2);
        // The first waits for its row all the same.
        assert_eq!(keys(&mut ledger, true), [key(2)]);
        assert!(ledger.waits(&key(1)) && !ledger.waits(&key(2)));
        ledger.done(1);
        // Once it has been written it is there; while it is under way that is not known.
        assert_eq!(keys(&mut ledger, false), [key(1)]);
        row(&mut ledger, 1);
        ledger.failed();
        assert_eq!(keys(&mut ledger, true), []);
        ledger.done(2);
        assert_eq!(keys(&mut ledger, false), [key(1)]);
        row(&mut ledger, 1);
        ledger.done(3);
        assert_eq!(keys(&mut ledger, true), [key(1)]);
        ledger.delete(key(1), None);
        ledger.done(4);
        // One that goes is there until it has gone.
        assert_eq!(keys(&mut ledger, true), [key(1)]);
        ledger.put(key(1), b"n".to_vec(), false, None);
        ledger.done(5);
        assert_eq!(keys(&mut ledger, true), []);
    }
}

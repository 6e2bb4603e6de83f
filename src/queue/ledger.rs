//! L2: changes that the index has not got on stable storage yet, and what may be given up when it has.
//!
//! The journal is the index's write-ahead log: a change is entered here when its record is staged or
//! committed, taken in a batch, and done with when the index's transaction is durable. Who wants to
//! know a row asks here first. Within a batch the later change of a message wins; what it frees adds
//! up. Knows no disk, no journal and no archive. Nothing fails.

use crate::base::ids::MessageId;
use crate::queue::index::Key;
use crate::queue::names::Names;
use crate::queue::row::{self, RowView};
use crate::storage::archive::Place;
use crate::storage::record::Location;
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Changes of a transaction on a full disk: few enough for the space that is set aside for them.
const SHORT: usize = 512;

/// What becomes of one message's row, and what is not needed any more then.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The row; `None`: none.
    pub row: Option<Box<[u8]>>,
    /// The index has no row of the message yet: this one takes space.
    pub new: bool,
    /// The message, if it is resident.
    pub key: Option<Key>,
    /// Records that lived for the sake of this change.
    pub outcomes: SmallVec<[Location; 1]>,
    /// The message's own record in the journal, which the archive replaces.
    pub record: Option<Location>,
    /// Places in the archive that nothing names any more.
    pub dead: SmallVec<[Place; 1]>,
}

impl Change {
    fn is_new_row(&self) -> bool {
        self.new && self.row.is_some()
    }

    fn merge(&mut self, later: Change) {
        self.row = later.row;
        self.new |= later.new;
        self.key = later.key.or(self.key);
        self.outcomes.extend(later.outcomes);
        self.record = later.record.or(self.record);
        self.dead.extend(later.dead);
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    waiting: BTreeMap<MessageId, Change>,
    flying: BTreeMap<MessageId, Change>,
    names: Names,
    /// Number of the last durable transaction.
    mark: u64,
}

impl Ledger {
    /// A ledger for an index whose last transaction was `mark`.
    #[must_use]
    pub fn new(mark: u64) -> Self {
        Ledger { mark, ..Ledger::default() }
    }

    /// Enters a change of message `id`.
    pub fn enter(&mut self, id: MessageId, change: Change) {
        match self.waiting.get_mut(&id) {
            Some(before) => before.merge(change),
            None => drop(self.waiting.insert(id, change)),
        }
    }

    /// What the index will say of `id`: `None`: what it says now; `Some(None)`: nothing.
    #[must_use]
    pub fn row(&self, id: MessageId) -> Option<Option<&[u8]>> {
        let change = self.waiting.get(&id).or_else(|| self.flying.get(&id))?;
        Some(change.row.as_deref())
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

    /// Changes that are not under way yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// True if something waits that needs no more space than there is.
    #[must_use]
    pub fn frees_space(&self) -> bool {
        self.waiting.values().any(|c| !c.is_new_row())
    }

    /// Number of the last durable transaction.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// The number of the destination `name` in the index; `sample` is an address that leads there.
    pub fn number(&mut self, name: &str, sample: &[u8]) -> u32 {
        self.names.number(name, sample)
    }

    /// The name of a destination.
    #[must_use]
    pub fn name(&self, number: u32) -> Option<&str> {
        self.names.name(number)
    }

    /// Names of destinations.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The index has been made anew, with the names there are, up to transaction `mark`.
    pub fn renewed(&mut self, mark: u64) {
        self.names.told();
        self.mark = mark;
    }

    /// A name that the index has, in the order of numbers. `false`: it is not in order.
    pub fn learn(&mut self, number: u32, name: &str, sample: &[u8]) -> bool {
        self.names.learn(number, name, sample)
    }

    /// If there are many names, `few` at least, begins to look for those that no row names. `true`:
    /// [`Self::names_row`] is to be said of all rows that the index has now or will have, then
    /// [`Self::end_round`].
    pub fn begin_round(&mut self, few: usize) -> bool {
        if !self.names.begin_round(few) {
            return false;
        }
        // Rows entered from now on ask for their numbers, or name what a row before them named.
        for row in self.waiting.values().chain(self.flying.values()).filter_map(|c| c.row.as_deref()) {
            see(&mut self.names, row);
        }
        true
    }

    /// The index has this row.
    pub fn names_row(&mut self, row: &[u8]) {
        see(&mut self.names, row);
    }

    /// All rows have been looked at, if `whole`: forgets names that none names.
    pub fn end_round(&mut self, whole: bool) {
        self.names.end_round(whole);
    }

    /// Records that live for the sake of a change of `id` that waits, and need not any more.
    pub fn give_up(&mut self, id: MessageId) -> SmallVec<[Location; 1]> {
        self.waiting.get_mut(&id).map(|c| std::mem::take(&mut c.outcomes)).unwrap_or_default()
    }

    /// Takes everything that waits, for one transaction; gives its rows and names as keys with
    /// values (`None`: to be deleted), in order. [`Self::done`] or [`Self::failed`] must follow before
    /// the next. `short`: the disk is: new rows must wait, and it must be a small transaction.
    pub fn take(&mut self, short: bool, mut each: impl FnMut(&[u8], Option<&[u8]>)) {
        assert!(self.flying.is_empty(), "one transaction at a time");
        self.names.tell(|n, name| match name {
            Some((name, sample)) => each(&row::name_key(n), Some(&row::name_value(name, sample))),
            None => each(&row::name_key(n), None),
        });
        self.flying = std::mem::take(&mut self.waiting);
        if short {
            let new = self.flying.extract_if(.., |_, c| c.is_new_row());
            self.waiting.extend(new);
            if let Some(rest) = self.flying.keys().nth(SHORT).copied() {
                self.waiting.append(&mut self.flying.split_off(&rest));
            }
        }
        for (id, change) in &self.flying {
            each(&row::key(*id), change.row.as_deref());
        }
    }

    /// The transaction has changed nothing: what was taken waits again, before what came since.
    pub fn failed(&mut self) {
        self.names.failed();
        let mut taken = std::mem::take(&mut self.flying);
        for (id, later) in std::mem::take(&mut self.waiting) {
            match taken.get_mut(&id) {
                Some(before) => before.merge(later),
                None => drop(taken.insert(id, later)),
            }
        }
        self.waiting = taken;
    }

    /// The transaction is durable: gives what it was made of.
    pub fn done(&mut self, mark: u64) -> BTreeMap<MessageId, Change> {
        assert!(mark > self.mark, "transactions have ascending numbers");
        self.mark = mark;
        self.names.done();
        std::mem::take(&mut self.flying)
    }
}

/// Marks the names that a row needs.
fn see(names: &mut Names, row: &[u8]) {
    // One that cannot be read names nothing, and nobody can read it later.
    let Ok(view) = RowView::parse(row) else { return };
    view.recipients().filter(|r| !r.fate.is_done()).for_each(|r| names.seen(r.destination));
    view.domain.into_iter().for_each(|n| names.seen(n));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u32) -> Location {
        Location { segment: 1, offset, len: 1 }
    }

    fn change(row: Option<&[u8]>, outcome: u32) -> Change {
        Change {
            row: row.map(Into::into),
            outcomes: [at(outcome)].into_iter().collect(),
            ..Change::default()
        }
    }

    fn taken(ledger: &mut Ledger, short: bool) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut out = Vec::new();
        ledger.take(short, |k, v| out.push((k.to_vec(), v.map(<[u8]>::to_vec))));
        out
    }

    #[test]
    fn later_changes_win_and_what_they_free_adds_up() {
        let mut ledger = Ledger::new(3);
        let (one, two) = (MessageId(1), MessageId(2));
        ledger.enter(one, Change { record: Some(at(9)), ..change(Some(b"a"), 1) });
        ledger.enter(one, change(Some(b"b"), 2));
        ledger.enter(two, change(None, 3));
        assert_eq!(ledger.row(one), Some(Some(&b"b"[..])));
        assert_eq!((ledger.row(two), ledger.row(MessageId(3))), (Some(None), None));
        let keys = |id| row::key(id).to_vec();
        assert_eq!(taken(&mut ledger, false), [(keys(one), Some(b"b".to_vec())), (keys(two), None)]);
        assert_eq!((ledger.len(), ledger.waiting()), (2, 0));
        // While it is under way its rows count, and later ones before them.
        assert_eq!(ledger.row(one), Some(Some(&b"b"[..])));
        ledger.enter(one, change(None, 4));
        assert_eq!(ledger.row(one), Some(None));
        let done = ledger.done(4);
        assert_eq!(done[&one].outcomes.as_slice(), [at(1), at(2)]);
        assert_eq!((done[&one].record, ledger.row(one), ledger.mark()), (Some(at(9)), Some(None), 4));
        assert_eq!(taken(&mut ledger, false), [(keys(one), None)]);
        ledger.done(5);
        assert!(ledger.is_empty() && ledger.row(one).is_none());
    }

    #[test]
    fn a_failed_transaction_waits_again_and_new_rows_wait_for_space() {
        let mut ledger = Ledger::new(0);
        let [one, two, three] = [1, 2, 3].map(MessageId);
        ledger.number("hop", b"a@hop");
        ledger.enter(one, Change { new: true, ..change(Some(b"a"), 1) });
        ledger.enter(two, change(Some(b"b"), 2));
        ledger.enter(three, Change { new: true, ..change(None, 3) });
        assert_eq!(taken(&mut ledger, false).len(), 4);
        ledger.enter(two, change(None, 4));
        ledger.failed();
        assert_eq!((ledger.row(two), ledger.waiting()), (Some(None), 3));
        let keys: Vec<_> = taken(&mut ledger, true).into_iter().map(|c| c.0).collect();
        assert_eq!(keys, [row::name_key(0).to_vec(), row::key(two).to_vec(), row::key(three).to_vec()]);
        assert_eq!(ledger.done(1)[&two].outcomes.as_slice(), [at(2), at(4)]);
        assert_eq!((ledger.row(one), ledger.waiting()), (Some(Some(&b"a"[..])), 1));
    }

    #[test]
    fn names_go_into_the_index_once() {
        let mut ledger = Ledger::new(0);
        assert!(ledger.learn(0, "a", b"") && ledger.learn(1, "b", b"") && !ledger.learn(0, "c", b""));
        assert_eq!(
            (ledger.number("b", b""), ledger.number("c", b"x@c"), ledger.number("c", b"y@c")),
            (1, 2, 2)
        );
        assert_eq!((ledger.name(2), ledger.name(3)), (Some("c"), None));
        assert_eq!(
            taken(&mut ledger, false),
            [(row::name_key(2).to_vec(), Some(row::name_value("c", b"x@c")))]
        );
        ledger.done(1);
        assert!(taken(&mut ledger, false).is_empty());
    }
}

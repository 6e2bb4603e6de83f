//! Lists of rows and of changes in one piece of memory each: 100 000 rows in one allocation.
//!
//! Plain bytes; knows no database. A key or value beyond the limits is the caller's fault: a panic.

use super::{KEY_MAX, VALUE_MAX};
use std::fmt;

/// Bytes before key and value: length of the key (2), of the value (4).
const HEAD: usize = 6;
/// In the place of a value's length: there is none.
const NONE: u32 = u32::MAX;

/// Entries of a key and perhaps a value, one behind the other.
#[derive(Clone, Default, PartialEq, Eq)]
struct Packed {
    bytes: Vec<u8>,
    count: usize,
}

impl Packed {
    fn push(&mut self, key: &[u8], value: Option<&[u8]>) {
        assert!((1..=KEY_MAX).contains(&key.len()), "key of {} bytes", key.len());
        let length = value.map_or(NONE, |v| {
            assert!(v.len() <= VALUE_MAX, "value of {} bytes", v.len());
            v.len() as u32
        });
        let mut head = [0; HEAD];
        head[..2].copy_from_slice(&(key.len() as u16).to_le_bytes());
        head[2..].copy_from_slice(&length.to_le_bytes());
        self.bytes.reserve(HEAD + key.len() + value.map_or(0, <[u8]>::len));
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.count += 1;
    }

    fn iter(&self) -> Entries<'_> {
        Entries { rest: &self.bytes }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// Bytes of keys and values.
    fn payload(&self) -> usize {
        self.bytes.len() - self.count * HEAD
    }
}

struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.rest.split_at_checked(HEAD)?;
        let (key, rest) = rest.split_at(usize::from(u16::from_le_bytes([head[0], head[1]])));
        let length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]);
        let (value, rest) = rest.split_at(if length == NONE { 0 } else { length as usize });
        self.rest = rest;
        Some((key, (length != NONE).then_some(value)))
    }
}

/// One change of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change<'a> {
    /// The row has this value from now on.
    Put {
        /// Its key.
        key: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// The row is gone.
    Delete {
        /// Its key.
        key: &'a [u8],
    },
}

impl<'a> Change<'a> {
    /// The key of the row.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        match self {
            Change::Put { key, .. } | Change::Delete { key } => key,
        }
    }

    /// The value that the row gets.
    #[must_use]
    pub fn value(&self) -> Option<&'a [u8]> {
        match self {
            Change::Put { value, .. } => Some(value),
            Change::Delete { .. } => None,
        }
    }
}

/// The changes of one transaction, in order.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Changes {
    rows: Packed,
    leave: u64,
}

impl Changes {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value of a row.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.rows.push(key, Some(value));
    }

    /// If there are more rows afterwards, the file takes no space that others need: so many bytes stay free
    /// on its disk.
    pub fn leave(&mut self, bytes: u64) {
        self.leave = bytes;
    }

    /// See [`Self::leave`].
    #[must_use]
    pub fn leaves(&self) -> u64 {
        self.leave
    }

    /// Deletes a row.
    pub fn delete(&mut self, key: &[u8]) {
        self.rows.push(key, None);
    }

    /// Number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.count
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.count == 0
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows.payload()
    }

    /// Forgets them; keeps the memory.
    pub fn clear(&mut self) {
        self.rows.clear();
    }

    /// In the order in which they were made.
    pub fn iter(&self) -> impl Iterator<Item = Change<'_>> {
        self.rows.iter().map(|(key, value)| match value {
            Some(value) => Change::Put { key, value },
            None => Change::Delete { key },
        })
    }

    /// In the order of their keys, of each key the last one: as a tree takes them best.
    #[must_use]
    pub fn sorted(&self) -> Vec<Change<'_>> {
        let mut all: Vec<Change> = self.iter().collect();
        if !all.is_sorted_by(|a, b| a.key() < b.key()) {
            // Stable, so the last one of a key stays the last.
            all.sort_by(|a, b| a.key().cmp(b.key()));
            all.dedup_by(|later, kept| {
                let same = later.key() == kept.key();
                if same {
                    *kept = *later;
                }
                same
            });
        }
        all
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} changes, {} bytes", self.len(), self.bytes())
    }
}

/// Rows of a table, in the order of their keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Rows {
    packed: Packed,
    /// Where the key of the last row is.
    last: (usize, usize),
}

impl Rows {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row, greater than all before.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        debug_assert!(self.last_key().is_none_or(|last| last < key), "rows are in order");
        let from = self.packed.bytes.len() + HEAD;
        self.packed.push(key, Some(value));
        self.last = (from, from + key.len());
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packed.count
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packed.count == 0
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.packed.payload()
    }

    /// The greatest key: where the next page goes on.
    #[must_use]
    pub fn last_key(&self) -> Option<&[u8]> {
        (!self.is_empty()).then(|| &self.packed.bytes[self.last.0..self.last.1])
    }

    /// Keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.packed.iter().map(|(key, value)| (key, value.unwrap_or_default()))
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows, {} bytes", self.len(), self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let mut changes = Changes::new();
        changes.put(b"b", b"1");
        changes.delete(b"a");
        changes.put(b"c", b"");
        changes.put(b"b", b"22");
        let all: Vec<Change> = changes.iter().collect();
        assert_eq!(all[0], Change::Put { key: b"b", value: b"1" });
        assert_eq!(all[1], Change::Delete { key: b"a" });
        assert_eq!(all[2], Change::Put { key: b"c", value: b"" });
        assert_eq!((changes.len(), changes.bytes()), (4, 7));
        let sorted = changes.sorted();
        let as_pairs: Vec<_> = sorted.iter().map(|c| (c.key(), c.value())).collect();
        let b: (&[u8], Option<&[u8]>) = (b"b", Some(b"22"));
        assert_eq!(as_pairs, [(&b"a"[..], None), b, (&b"c"[..], Some(&b""[..]))]);
        changes.clear();
        assert!(changes.is_empty() && changes.iter().next().is_none());
    }

    #[test]
    fn of_several_changes_of_a_key_the_last_counts_also_if_they_lie_together() {
        let mut changes = Changes::new();
        changes.put(b"a", b"1");
        changes.put(b"a", b"2");
        changes.delete(b"a");
        assert_eq!(changes.sorted(), [Change::Delete { key: b"a" }]);
    }

    #[test]
    fn rows_know_their_last_key() {
        let mut rows = Rows::new();
        assert_eq!(rows.last_key(), None);
        rows.push(b"k1", b"v");
        rows.push(b"k22", b"");
        assert_eq!(rows.last_key(), Some(&b"k22"[..]));
        assert_eq!(rows.iter().collect::<Vec<_>>(), [(&b"k1"[..], &b"v"[..]), (b"k22", b"")]);
        assert_eq!((rows.len(), rows.bytes()), (2, 6));
    }

    #[test]
    #[should_panic(expected = "key of 256 bytes")]
    fn keys_are_short() {
        Changes::new().delete(&[7; 256]);
    }
}

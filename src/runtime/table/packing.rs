//! Rows that lie together: neighbours of one kind in one piece, so that whoever reads all of them pays for
//! pieces, not for rows.
//!
//! A piece has the rows whose keys differ in the lowest bits of the last byte only ([`MOST`] of them), and
//! their key without these bits. In it they stand in order: the bits (a byte), the length of the value (a
//! byte), the value. Knows no database. A piece that is not so is damage: an error, never a panic.

use super::packed::{Change, Rows};
use super::store::damaged;
use std::io;

/// Rows of a piece at most. Rows of 20 to 28 bytes fill two thirds of a page then, when they have come in
/// their order: redb halves a page that is full, and of three pieces two stay.
pub(super) const MOST: u8 = 64;
/// Longest value of such a row in bytes.
pub(super) const VALUE_MAX: usize = u8::MAX as usize;

/// Rows that lie together: those whose keys begin with this byte. All of these keys have one length, two
/// bytes at least, and the values 255 bytes at most; other ones are the caller's fault, and a panic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packed {
    /// First byte of their keys.
    pub tag: u8,
    /// Bytes of their keys.
    pub key_len: usize,
}

impl Packed {
    /// True for keys of such rows.
    pub(super) fn has(&self, key: &[u8]) -> bool {
        key.first() == Some(&self.tag)
    }

    /// Makes a key of such a row that of its piece; gives the bits that it has in it.
    pub(super) fn split(&self, key: &mut [u8]) -> u8 {
        assert!(key.len() == self.key_len && key.len() > 1, "key of {} bytes", key.len());
        let last = key.len() - 1;
        let low = key[last] % MOST;
        key[last] -= low;
        low
    }

    /// True if both are of one piece.
    pub(super) fn together(&self, a: &[u8], b: &[u8]) -> bool {
        let head = self.key_len - 1;
        a.len() == b.len() && a[..head] == b[..head] && a[head] / MOST == b[head] / MOST
    }
}

/// The rows of a piece: bits and value.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a>(pub(super) &'a [u8]);

impl<'a> Piece<'a> {
    /// The next one: what is set in the last byte of its key beside what its piece has there, and its value.
    ///
    /// # Errors
    /// `InvalidData`: it is damaged.
    #[inline]
    pub fn next_row(&mut self) -> io::Result<Option<(u8, &'a [u8])>> {
        let Some((&[low, length], rest)) = self.0.split_first_chunk() else {
            return if self.0.is_empty() { Ok(None) } else { Err(cut()) };
        };
        let (value, rest) = rest.split_at_checked(usize::from(length)).ok_or_else(cut)?;
        if low >= MOST || rest.first().is_some_and(|next| *next <= low) {
            return Err(cut());
        }
        self.0 = rest;
        Ok(Some((low, value)))
    }

    /// The value of a row.
    pub(super) fn find(mut self, wanted: u8) -> io::Result<Option<&'a [u8]>> {
        while let Some((low, value)) = self.next_row()? {
            if low == wanted {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

/// Rows as they lie in a table.
#[derive(Clone, Default, Debug)]
pub struct Pieces {
    pieces: Rows,
    /// There may be more behind them.
    pub more: bool,
}

impl Pieces {
    /// Puts rows together that lie each on its own.
    pub(super) fn of(rows: &Rows, more: bool) -> Self {
        let (mut pieces, mut name, mut piece) = (Rows::new(), Vec::new(), Vec::new());
        for (key, value) in rows.iter() {
            let Some((last, head)) = key.split_last() else { continue };
            let (low, mine) = (last % MOST, [head, &[last - last % MOST]].concat());
            if name != mine {
                if !name.is_empty() {
                    pieces.push(&name, &piece);
                }
                name = mine;
                piece.clear();
            }
            put(&mut piece, low, value);
        }
        if !name.is_empty() {
            pieces.push(&name, &piece);
        }
        Pieces { pieces, more }
    }

    /// Adds a piece, behind all others; of its rows those whose keys are greater than `after`.
    pub(super) fn push(&mut self, name: &[u8], piece: &[u8], after: &[u8]) -> io::Result<()> {
        if name > after {
            self.pieces.push(name, piece);
            return Ok(());
        }
        let (mut rows, mut rest, mut key) = (Piece(piece), Vec::new(), name.to_vec());
        let (last, first) = (name.len() - 1, name[name.len() - 1]);
        while let Some((low, value)) = rows.next_row()? {
            key[last] = first | low;
            if key.as_slice() > after {
                put(&mut rest, low, value);
            }
        }
        if !rest.is_empty() {
            self.pieces.push(name, &rest);
        }
        Ok(())
    }

    /// Bytes of names and pieces.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.bytes()
    }

    /// The pieces, in order: the key of each, and its rows.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Piece<'_>)> {
        self.pieces.iter().map(|(name, piece)| (name, Piece(piece)))
    }
}

fn cut() -> io::Error {
    damaged("a piece of rows is not one")
}

fn put(out: &mut Vec<u8>, low: u8, value: &[u8]) {
    assert!(value.len() <= VALUE_MAX, "value of {} bytes", value.len());
    out.extend_from_slice(&[low, value.len() as u8]);
    out.extend_from_slice(value);
}

/// Writes to `out` what a piece is after `changes` of its rows, in their order; says how many more rows it
/// has.
pub(super) fn merge(old: &[u8], changes: &[Change<'_>], out: &mut Vec<u8>) -> io::Result<i64> {
    let mut old = Piece(old);
    let (mut there, mut more_rows) = (old.next_row()?, 0);
    for change in changes {
        let low = change.key().last().map_or(0, |b| b % MOST);
        while let Some((before, value)) = there.filter(|row| row.0 < low) {
            put(out, before, value);
            there = old.next_row()?;
        }
        if there.is_some_and(|row| row.0 == low) {
            there = old.next_row()?;
            more_rows -= 1;
        }
        if let Some(value) = change.value() {
            put(out, low, value);
            more_rows += 1;
        }
    }
    while let Some((low, value)) = there {
        put(out, low, value);
        there = old.next_row()?;
    }
    Ok(more_rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn rows(piece: &[u8]) -> io::Result<Vec<(u8, Vec<u8>)>> {
        let (mut piece, mut out) = (Piece(piece), Vec::new());
        while let Some((low, value)) = piece.next_row()? {
            out.push((low, value.to_vec()));
        }
        Ok(out)
    }

    #[test]
    fn keys_are_of_a_piece_or_not() {
        let packed = Packed { tag: b'm', key_len: 3 };
        let mut key = *b"ma\x47";
        assert_eq!((packed.split(&mut key), &key), (7, b"ma\x40"));
        assert!(packed.together(b"ma\x40", b"ma\x7f") && !packed.together(b"ma\x40", b"ma\x80"));
        assert!(!packed.together(b"ma\x40", b"mb\x40"));
        assert!(packed.has(b"m") && !packed.has(b"n") && !packed.has(b""));
    }

    #[test]
    fn what_is_no_piece_is_damage() {
        for bad in [&[0][..], &[0, 1], &[64, 0], &[4, 0, 4, 0], &[4, 0, 3, 1, 9]] {
            assert_eq!(rows(bad).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bad:?}");
            let change = [Change::Put { key: b"m\x09", value: b"" }];
            assert!(merge(bad, &change, &mut Vec::new()).is_err());
        }
        assert_eq!(rows(&[3, 1, 7, 63, 0]).unwrap(), [(3, vec![7]), (63, Vec::new())]);
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..70)
    }

    proptest! {
        #[test]
        fn a_piece_is_a_map(steps in prop::collection::vec(
            prop::collection::btree_map(0..64u8, prop::option::of(value()), 0..30),
            1..8,
        )) {
            let (mut piece, mut model) = (Vec::new(), BTreeMap::new());
            for step in steps {
                let keys: Vec<[u8; 2]> = step.keys().map(|low| [b'm', 64 + low]).collect();
                let changes: Vec<Change<'_>> = keys.iter().zip(step.values()).map(|(key, value)| match value {
                    Some(value) => Change::Put { key, value },
                    None => Change::Delete { key },
                }).collect();
                let mut out = Vec::new();
                let more = merge(&piece, &changes, &mut out).unwrap();
                let before = model.len() as i64;
                for (low, value) in step {
                    match value {
                        Some(value) => drop(model.insert(low, value)),
                        None => drop(model.remove(&low)),
                    }
                }
                piece = out;
                prop_assert_eq!(more, model.len() as i64 - before);
                prop_assert_eq!(rows(&piece).unwrap(), model.clone().into_iter().collect::<Vec<_>>());
                for low in 0..64 {
                    let found = Piece(&piece).find(low).unwrap();
                    prop_assert_eq!(found, model.get(&low).map(Vec::as_slice));
                }
            }
        }
    }
}

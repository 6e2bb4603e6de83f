//! L2: the header of a message while filters change it.
//!
//! Fields that nobody changes stay as they came, byte for byte. Filters do not see the trace header of this
//! server (its `Received`, the first there is), but can put fields above it. Fields that filters write are
//! forced into the form of fields: an empty line in one would end the header. What is no field is a
//! [`Fault`]. Bounded: see [`CHANGES_MAX`], [`BYTES_MAX`].

use super::Fault;
use crate::message::headers;
use std::ops::Range;

/// Changes of the header and the envelope by all filters of one message at most.
pub const CHANGES_MAX: u32 = 1000;
/// Bytes of the fields that they write at most.
pub const BYTES_MAX: usize = 1 << 20;

/// A change of the header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A field at the end: name, value.
    Add(Box<[u8]>, Box<[u8]>),
    /// A field at this place, 0 being the top.
    Insert(u32, Box<[u8]>, Box<[u8]>),
    /// Another value for the field with this name and number (from 1); an empty value removes it.
    Set(u32, Box<[u8]>, Box<[u8]>),
}

#[derive(Clone, Debug)]
struct Field {
    /// In the arena.
    raw: Range<usize>,
    /// Bytes of the name.
    name: usize,
    /// Its number in the header as it came, if it is as it came.
    origin: Option<usize>,
    hidden: bool,
    /// Removed, but still counted: filters number the fields that they have seen.
    gone: bool,
}

/// A header.
#[derive(Clone, Debug)]
pub struct Header {
    arena: Vec<u8>,
    /// Where the fields of the message begin in it, and where they end.
    front: usize,
    end: usize,
    fields: Vec<Field>,
    /// Fields that this server has put in front.
    ours: usize,
    /// Fields as they came.
    came: usize,
    changes: u32,
    written: usize,
}

/// A header that has been changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    /// What stands in front of the message.
    pub trace: Vec<u8>,
    /// The message's own fields, if any of them is not as it came.
    pub own: Option<Vec<u8>>,
}

impl Header {
    /// The fields in `trace`, which this server puts in front, and those of the message, which are all of
    /// `own`.
    #[must_use]
    pub fn new(trace: &[u8], own: &[u8]) -> Self {
        let arena = [trace, own].concat();
        let mut fields = Vec::new();
        let (mut at, mut ours, mut traced) = (0, 0, false);
        for (origin, f) in headers::fields(&arena).enumerate() {
            let raw = at..at + f.raw.len();
            let is_ours = at < trace.len();
            ours += usize::from(is_ours);
            at = raw.end;
            let (name, hidden) = (f.name.len(), is_ours && !traced && f.is("Received"));
            traced |= hidden;
            fields.push(Field { raw, name, origin: Some(origin), hidden, gone: false });
        }
        let came = fields.len();
        let (front, end) = (trace.len(), arena.len());
        Header { arena, front, end, fields, ours, came, changes: 0, written: 0 }
    }

    /// The fields as a filter sees them: name, and all that stands behind the colon up to the last line end.
    pub fn seen(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.seen_fields().map(|f| {
            let raw = &self.arena[f.raw.clone()];
            let colon = memchr::memchr(b':', raw).map_or(raw.len(), |at| at + 1);
            let value = raw[colon..].strip_suffix(b"\r\n").unwrap_or(&raw[colon..]);
            (&raw[..f.name], value)
        })
    }

    /// Appends the fields as a filter sees them, as they stand.
    pub fn put_seen(&self, out: &mut Vec<u8>) {
        self.seen_fields().for_each(|f| out.extend_from_slice(&self.arena[f.raw.clone()]));
    }

    /// Bytes of the fields as a filter sees them.
    #[must_use]
    pub fn seen_len(&self) -> usize {
        self.seen_fields().map(|f| f.raw.len()).sum()
    }

    fn seen_fields(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|f| !f.hidden && !f.gone)
    }

    /// The fields of the message as they came.
    #[must_use]
    pub fn received(&self) -> &[u8] {
        &self.arena[self.front..self.end]
    }

    /// Counts one change; also for those of the envelope.
    pub fn count(&mut self) -> Result<(), Fault> {
        self.changes += 1;
        if self.changes > CHANGES_MAX { Err(Fault::TooMuch) } else { Ok(()) }
    }

    /// Makes a change. `as_is`: the value comes with what stands behind the colon, else a blank is put there.
    pub fn change(&mut self, change: &Change, as_is: bool) -> Result<(), Fault> {
        self.count()?;
        match change {
            Change::Add(name, value) => {
                let field = self.write(name, value, as_is)?;
                self.fields.push(field);
            }
            Change::Insert(place, name, value) => {
                let field = self.write(name, value, as_is)?;
                self.fields.insert(self.place(*place), field);
            }
            Change::Set(number, name, value) => {
                let found = self.find(*number, name)?;
                match (found, value.is_empty()) {
                    (Some(at), true) => self.fields[at].gone = true,
                    (Some(at), false) => self.fields[at] = self.write(name, value, as_is)?,
                    (None, true) => {}
                    (None, false) => {
                        let field = self.write(name, value, as_is)?;
                        self.fields.push(field);
                    }
                }
            }
        }
        Ok(())
    }

    /// Where the place with this number is: 0 is above everything, also above our own trace header.
    fn place(&self, number: u32) -> usize {
        let mut there = self.fields.iter().enumerate().filter(|(_, f)| !f.gone).map(|(at, _)| at);
        there.nth(number as usize).unwrap_or(self.fields.len())
    }

    fn find(&self, number: u32, name: &[u8]) -> Result<Option<usize>, Fault> {
        check_name(name)?;
        let is =
            |f: &Field| !f.hidden && self.arena[f.raw.start..f.raw.start + f.name].eq_ignore_ascii_case(name);
        let mut fitting = self.fields.iter().enumerate().filter(|(_, f)| is(f));
        let found = fitting.nth(number.max(1) as usize - 1);
        Ok(found.filter(|(_, f)| !f.gone).map(|(at, _)| at))
    }

    fn write(&mut self, name: &[u8], value: &[u8], as_is: bool) -> Result<Field, Fault> {
        check_name(name)?;
        let from = self.arena.len();
        self.arena.extend_from_slice(name);
        self.arena.extend_from_slice(if as_is { b":" } else { b": " });
        put_folded(&mut self.arena, value);
        self.written += self.arena.len() - from;
        if self.written > BYTES_MAX {
            return Err(Fault::TooMuch);
        }
        let raw = from..self.arena.len();
        Ok(Field { raw, name: name.len(), origin: None, hidden: false, gone: false })
    }

    /// A filter is done: the next one numbers what it sees.
    pub fn next_filter(&mut self) {
        self.fields.retain(|f| !f.gone);
    }

    /// The header as it is now, if it is not as it came.
    #[must_use]
    pub fn finish(&self) -> Option<Changed> {
        let left: Vec<&Field> = self.fields.iter().filter(|f| !f.gone).collect();
        let as_it_came =
            |fields: &[&Field], from: usize| fields.iter().map(|f| f.origin).eq((from..self.came).map(Some));
        if as_it_came(&left, 0) {
            return None;
        }
        let text = |fields: &[&Field]| -> Vec<u8> {
            fields.iter().flat_map(|f| &self.arena[f.raw.clone()]).copied().collect()
        };
        let first = left.iter().position(|f| f.origin.is_some_and(|o| o >= self.ours)).unwrap_or(left.len());
        if as_it_came(&left[first..], self.ours) {
            return Some(Changed { trace: text(&left[..first]), own: None });
        }
        let hidden = left.iter().position(|f| f.hidden).map_or(0, |at| at + 1);
        Some(Changed { trace: text(&left[..hidden]), own: Some(text(&left[hidden..])) })
    }
}

/// RFC 5322 §2.2: printable, without a colon.
fn check_name(name: &[u8]) -> Result<(), Fault> {
    let good = !name.is_empty() && name.len() <= 200 && name.iter().all(|b| matches!(b, 33..=57 | 59..=126));
    if good { Ok(()) } else { Err(Fault::Field) }
}

/// Appends a value whose lines may end in LF alone. Lines behind the first begin with a blank then, and none
/// is empty (RFC 5322 §2.2.3).
fn put_folded(out: &mut Vec<u8>, value: &[u8]) {
    for (n, line) in value.split(|b| *b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if n > 0 {
            if line.trim_ascii().is_empty() {
                continue;
            }
            out.extend_from_slice(b"\r\n");
            if !matches!(line[0], b' ' | b'\t') {
                out.push(b'\t');
            }
        }
        out.extend(line.iter().map(|b| if matches!(b, b'\r' | 0) { b' ' } else { *b }));
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &[u8] = b"Received: here\r\nDate: now\r\n";
    const OWN: &[u8] = b"Subject:  a\r\n\tb\r\nX : 1\r\nx:2\r\nX:\xff3\r\n";

    fn header() -> Header {
        Header::new(TRACE, OWN)
    }

    fn add(n: &str, v: &str) -> Change {
        Change::Add(n.as_bytes().into(), v.as_bytes().into())
    }

    fn insert(at: u32, n: &str, v: &str) -> Change {
        Change::Insert(at, n.as_bytes().into(), v.as_bytes().into())
    }

    fn set(at: u32, n: &str, v: &str) -> Change {
        Change::Set(at, n.as_bytes().into(), v.as_bytes().into())
    }

    fn after(changes: &[Change]) -> (String, Option<String>) {
        let mut h = header();
        changes.iter().for_each(|c| h.change(c, false).unwrap());
        let text = |b: Vec<u8>| b.escape_ascii().to_string();
        let changed = h.finish().expect("it was changed");
        (text(changed.trace), changed.own.map(text))
    }

    #[test]
    fn what_filters_see() {
        let h = header();
        let seen: Vec<(&[u8], &[u8])> = h.seen().collect();
        let expected: Vec<(&[u8], &[u8])> = vec![
            (b"Date", b" now"),
            (b"Subject", b"  a\r\n\tb"),
            (b"X", b" 1"),
            (b"x", b"2"),
            (b"X", b"\xff3"),
        ];
        assert_eq!(seen, expected);
        let mut text = Vec::new();
        h.put_seen(&mut text);
        assert_eq!(text, [b"Date: now\r\n", OWN].concat());
        assert_eq!(h.seen_len(), text.len());
        assert_eq!(h.finish(), None);
    }

    #[test]
    fn fields_in_front_leave_the_message_alone() {
        let (trace, own) = after(&[insert(0, "A", "1"), insert(2, "B", "2"), insert(3, "C", "x")]);
        assert_eq!(trace, "A: 1\\r\\nReceived: here\\r\\nB: 2\\r\\nC: x\\r\\nDate: now\\r\\n");
        assert_eq!(own, None);
        assert_eq!(after(&[set(1, "date", "then")]).0, "Received: here\\r\\ndate: then\\r\\n");
    }

    #[test]
    fn what_is_not_changed_stays_as_it_is() {
        let (trace, own) = after(&[add("Z", "a\nb\r\n\r\n c\n\n")]);
        assert_eq!(trace, "Received: here\\r\\n");
        let rest = "Subject:  a\\r\\n\\tb\\r\\nX : 1\\r\\nx:2\\r\\nX:\\xff3\\r\\n";
        assert_eq!(own, Some(format!("Date: now\\r\\n{rest}Z: a\\r\\n\\tb\\r\\n c\\r\\n")));
    }

    #[test]
    fn numbers_are_those_that_the_filter_has_seen() {
        let (_, own) = after(&[set(1, "X", ""), set(2, "X", ""), set(3, "x", "new")]);
        assert_eq!(own.unwrap(), "Date: now\\r\\nSubject:  a\\r\\n\\tb\\r\\nx: new\\r\\n");
        let mut h = header();
        h.change(&set(1, "x", ""), false).unwrap();
        h.next_filter();
        h.change(&set(1, "x", ""), false).unwrap();
        let own = h.finish().unwrap().own.unwrap();
        assert!(own.ends_with(b"b\r\nX:\xff3\r\n"), "{}", own.escape_ascii());
        // One that is not there is added, or is no loss.
        assert!(after(&[set(9, "X", "end")]).1.unwrap().ends_with("X: end\\r\\n"));
        let mut h = header();
        h.change(&set(9, "X", ""), false).unwrap();
        assert_eq!(h.finish(), None);
        assert!(h.change(&set(0, "X", " as it is"), true).is_ok());
        assert!(h.finish().unwrap().own.unwrap().windows(13).any(|w| w == b"X: as it is\r\n"));
    }

    #[test]
    fn what_stands_above_our_trace_header_is_seen() {
        let own = b"Received: theirs\r\n";
        let mut h = Header::new(b"Authentication-Results: us\r\nReceived: here\r\n", own);
        let names: Vec<&[u8]> = h.seen().map(|(name, _)| name).collect();
        assert_eq!(names, [&b"Authentication-Results"[..], b"Received"]);
        h.change(&add("Z", "z"), false).unwrap();
        let changed = h.finish().unwrap();
        assert_eq!(changed.trace, b"Authentication-Results: us\r\nReceived: here\r\n");
        assert_eq!(changed.own.unwrap(), b"Received: theirs\r\nZ: z\r\n");
    }

    #[test]
    fn our_trace_header_is_out_of_reach() {
        let mut h = header();
        h.change(&set(1, "Received", ""), false).unwrap();
        assert_eq!(h.finish(), None);
    }

    #[test]
    fn limits() {
        let mut h = header();
        for name in ["", "a b", "a:", "\u{e9}", &"x".repeat(201)] {
            assert_eq!(h.change(&add(name, "x"), false), Err(Fault::Field), "{name}");
        }
        let mut h = header();
        let big = "x".repeat(BYTES_MAX / 2);
        assert_eq!(h.change(&add("A", &big), false), Ok(()));
        assert_eq!(h.change(&add("A", &big), false), Err(Fault::TooMuch));
        let mut h = header();
        let many = (0..=CHANGES_MAX).map(|_| h.change(&add("A", "x"), false)).filter(Result::is_err).count();
        assert_eq!(many, 1);
    }
}

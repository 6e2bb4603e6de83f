//! The header block of a stored message: counted while it arrives, read when it is stored.
//!
//! [`HeaderScan`] looks at a message piece by piece (nothing is kept but numbers); [`fields`] walks
//! a stored header. Neither changes a byte. Malformed headers are no error here: a header ends
//! at the empty line or at the first line that is neither a field nor a continuation.

use crate::base::scan;

/// Counts what a header block contains while the message arrives in pieces. A piece never ends
/// between CR and LF.
#[derive(Clone, Debug, Default)]
pub struct HeaderScan {
    at: At,
    len: u64,
    line_at: u64,
    fields: u32,
    hops: u32,
    field_len: u64,
    longest_field: u64,
    eight_bit: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum At {
    /// The first byte of a line.
    #[default]
    LineStart,
    /// In a field name of which `len` bytes are read; `received` while it agrees with that name.
    Name { len: u32, received: bool },
    /// In white space between name and colon (RFC 5322 §4.5).
    AfterName { received: bool },
    /// In the value of a field or in a continuation.
    Value,
    /// The header has ended.
    Done,
}

/// The field that every hop adds (RFC 5321 §4.4).
const RECEIVED: &[u8; 8] = b"received";

impl HeaderScan {
    /// Takes the next bytes of the message; cheap once the header has ended.
    #[inline]
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.at != At::Done {
            self.feed_header(bytes);
        }
    }

    fn feed_header(&mut self, mut bytes: &[u8]) {
        bytes = &bytes[self.whole_lines(bytes)..];
        while let (Some(&first), true) = (bytes.first(), self.at != At::Done) {
            let used = match self.at {
                At::LineStart => self.line_start(first),
                At::Name { len, received } => self.name(bytes, len, received),
                At::AfterName { received } => self.after_name(first, received),
                At::Value => self.value(bytes),
                At::Done => 0,
            };
            self.len += used as u64;
            self.field_len += used as u64;
            bytes = &bytes[used..];
        }
        if self.at == At::Done {
            // The line that is no field belongs to the body.
            self.field_len = self.field_len.saturating_sub(self.len - self.line_at);
            self.len = self.line_at;
        }
        // A line that may still turn out to be no field does not count.
        if matches!(self.at, At::LineStart | At::Value) {
            self.longest_field = self.longest_field.max(self.field_len);
        }
    }

    /// Takes the lines that are fields or continuations and are there as a whole, as most are; the rest is
    /// looked at in pieces. Returns the bytes taken.
    fn whole_lines(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        if self.at != At::LineStart {
            return 0;
        }
        while let Some(lf) = scan::line_feed(&bytes[taken..]) {
            let line = &bytes[taken..=taken + lf];
            let name = match line[0] {
                b' ' | b'\t' if self.fields > 0 => 0,
                _ => {
                    let end = line.iter().position(|&b| !matches!(b, 33..=57 | 59..=126)).unwrap_or(0);
                    if end == 0 || line[end] != b':' {
                        break;
                    }
                    self.longest_field = self.longest_field.max(self.field_len);
                    self.field_len = 0;
                    self.field(end == RECEIVED.len() && line[..end].eq_ignore_ascii_case(RECEIVED));
                    end
                }
            };
            self.eight_bit |= !line[name..].is_ascii();
            self.line_at = self.len;
            self.len += line.len() as u64;
            self.field_len += line.len() as u64;
            taken += line.len();
        }
        self.at = At::LineStart;
        taken
    }

    fn line_start(&mut self, first: u8) -> usize {
        self.line_at = self.len;
        match first {
            b' ' | b'\t' if self.fields > 0 => self.at = At::Value,
            b' ' | b'\t' | b'\r' | b'\n' | b':' => self.at = At::Done,
            _ => {
                self.longest_field = self.longest_field.max(self.field_len);
                self.field_len = 0;
                self.at = At::Name { len: 0, received: true };
            }
        }
        0
    }

    fn name(&mut self, bytes: &[u8], len: u32, received: bool) -> usize {
        let end = bytes.iter().position(|&b| !matches!(b, 33..=57 | 59..=126)).unwrap_or(bytes.len());
        let expected = RECEIVED.get(len as usize..len as usize + end);
        let received = received && expected.is_some_and(|e| e.eq_ignore_ascii_case(&bytes[..end]));
        let len = len.saturating_add(u32::try_from(end).unwrap_or(u32::MAX));
        let is_received = received && len as usize == RECEIVED.len();
        match bytes.get(end) {
            None => self.at = At::Name { len, received },
            Some(b':') => self.field(is_received),
            Some(b' ' | b'\t') => self.at = At::AfterName { received: is_received },
            Some(_) => {
                self.at = At::Done;
                return end;
            }
        }
        bytes.len().min(end + 1)
    }

    fn after_name(&mut self, first: u8, received: bool) -> usize {
        match first {
            b' ' | b'\t' => {}
            b':' => self.field(received),
            _ => self.at = At::Done,
        }
        1
    }

    fn field(&mut self, received: bool) {
        self.fields = self.fields.saturating_add(1);
        self.hops = self.hops.saturating_add(u32::from(received));
        self.at = At::Value;
    }

    fn value(&mut self, bytes: &[u8]) -> usize {
        let (used, at) = match scan::line_feed(bytes) {
            Some(lf) => (lf + 1, At::LineStart),
            None => (bytes.len(), At::Value),
        };
        self.eight_bit |= !bytes[..used].is_ascii();
        self.at = at;
        used
    }

    /// Bytes of the header so far, without the empty line and without a line that may be none of it.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self.at {
            At::Name { .. } | At::AfterName { .. } => self.line_at,
            At::LineStart | At::Value | At::Done => self.len,
        }
    }

    /// True if nothing of a header has been seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fields so far.
    #[must_use]
    pub fn fields(&self) -> u32 {
        self.fields
    }

    /// Received fields so far (RFC 5321 §6.3).
    #[must_use]
    pub fn hops(&self) -> u32 {
        self.hops
    }

    /// Bytes of the longest field so far, with its folded lines.
    #[must_use]
    pub fn longest_field(&self) -> u64 {
        self.longest_field
    }

    /// Some byte of a field is above 127 (needs SMTPUTF8 onward, RFC 6531).
    #[must_use]
    pub fn eight_bit(&self) -> bool {
        self.eight_bit
    }
}

/// A header field of a stored message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'a> {
    /// The name without white space and colon.
    pub name: &'a [u8],
    /// All after the colon, folded lines included, without the last CRLF.
    pub value: &'a [u8],
    /// The field as it stands, with its CRLF.
    pub raw: &'a [u8],
}

impl Field<'_> {
    /// True if the name is `name` in any case.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// Walks the fields of a stored message (CRLF line ends); ends with the header.
pub fn fields(message: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let field = next_field(rest)?;
        rest = &rest[field.raw.len()..];
        Some(field)
    })
}

/// As [`fields`], but lines of mbox files, which some messages bring along, do not end the header.
pub fn fields_and_mbox(message: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        loop {
            if let Some(field) = next_field(rest) {
                rest = &rest[field.raw.len()..];
                return Some(field);
            }
            if !rest.starts_with(b"From ") && !rest.starts_with(b">From ") {
                return None;
            }
            rest = &rest[line(rest)?..];
        }
    })
}

/// The first field of that name, in any case.
#[must_use]
pub fn find<'a>(message: &'a [u8], name: &str) -> Option<Field<'a>> {
    fields(message).find(|f| f.is(name))
}

/// Splits a stored message into its header (without the empty line) and its body (after it).
#[must_use]
pub fn split(message: &[u8]) -> (&[u8], &[u8]) {
    let header: usize = fields(message).map(|f| f.raw.len()).sum();
    let (header, rest) = message.split_at(header);
    (header, rest.strip_prefix(b"\r\n").unwrap_or(rest))
}

fn next_field(rest: &[u8]) -> Option<Field<'_>> {
    let mut end = line(rest)?;
    let colon = memchr::memchr(b':', &rest[..end])?;
    let name = rest[..colon].trim_ascii_end();
    if name.is_empty() || !name.iter().all(|b| matches!(b, 33..=126)) {
        return None;
    }
    while matches!(rest.get(end), Some(b' ' | b'\t')) {
        end += line(&rest[end..])?;
    }
    let raw = &rest[..end];
    let value = &raw[colon + 1..];
    Some(Field { name, value: value.strip_suffix(b"\r\n").unwrap_or(value), raw })
}

/// Length of the first line with its line end; the rest if there is none. `None` for nothing.
fn line(bytes: &[u8]) -> Option<usize> {
    if bytes.is_empty() {
        return None;
    }
    Some(scan::line_feed(bytes).map_or(bytes.len(), |lf| lf + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = b"Received: from a\r\n\tby b; date\r\nSUBJECT : x\r\nreceived:y\r\n\
        X-Received: no\r\nTo: a@b,\r\n c@d\r\n\r\nReceived: body\r\n";

    fn scan_in_pieces(message: &[u8], cut: usize) -> HeaderScan {
        let mut s = HeaderScan::default();
        s.feed(&message[..cut]);
        s.feed(&message[cut..]);
        s
    }

    #[test]
    fn counts_the_same_however_it_is_cut() {
        for cut in 0..=MESSAGE.len() {
            if cut > 0 && MESSAGE[cut - 1] == b'\r' {
                continue; // pieces never end between CR and LF
            }
            let s = scan_in_pieces(MESSAGE, cut);
            assert_eq!((s.fields(), s.hops(), s.eight_bit()), (5, 2, false), "cut at {cut}");
            assert_eq!(s.len() as usize, split(MESSAGE).0.len(), "cut at {cut}");
            assert_eq!(s.longest_field(), 31, "cut at {cut}: the first field with its folded line");
        }
    }

    #[test]
    fn ends_where_no_field_is() {
        for (text, fields) in [
            (&b"\r\nA: b\r\n"[..], 0),
            (b"no field\r\nA: b\r\n", 0),
            (b" x: y\r\n", 0),
            (b"A:\r\nb\xe9:\r\nC: d\r\n", 1),
        ] {
            let s = scan_in_pieces(text, 0);
            assert_eq!((s.fields(), s.eight_bit()), (fields, false), "{}", text.escape_ascii());
            assert_eq!(super::fields(text).count() as u32, fields, "{}", text.escape_ascii());
        }
        let open = scan_in_pieces(&[b'x'; 5000], 2000);
        assert_eq!((open.len(), open.longest_field(), open.is_empty()), (0, 0, true), "no field yet");
        assert!(scan_in_pieces(b"A: \xe9\r\n\r\n", 3).eight_bit());
        assert!(!scan_in_pieces(b"A: b\r\n\r\n\xe9", 3).eight_bit(), "the body does not count");
    }

    #[test]
    fn finds_and_splits() {
        assert_eq!(find(MESSAGE, "subject").unwrap().value, b" x");
        assert_eq!(find(MESSAGE, "to").unwrap().value, b" a@b,\r\n c@d");
        assert!(find(MESSAGE, "cc").is_none());
        assert_eq!(split(MESSAGE).1, b"Received: body\r\n");
        assert_eq!(split(b"text only"), (&b""[..], &b"text only"[..]));
        assert_eq!(split(b"A: b"), (&b"A: b"[..], &b""[..]));
        assert_eq!(fields(b"").count(), 0);
    }
}

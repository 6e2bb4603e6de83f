//! The bytes of a summary: numbers, strings, the table of frequent strings; writing and reading.
//!
//! The reader trusts nothing: every length is checked against what is there, and it allocates
//! nothing.

/// The bytes are not a summary that this version can read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damaged;

/// Strings that are written as one number. The order is part of the format: new ones go to the end.
pub(super) const FREQUENT: [&[u8]; 62] = [
    b"",
    b"text",
    b"plain",
    b"html",
    b"multipart",
    b"mixed",
    b"alternative",
    b"related",
    b"signed",
    b"report",
    b"message",
    b"rfc822",
    b"delivery-status",
    b"application",
    b"octet-stream",
    b"pdf",
    b"image",
    b"jpeg",
    b"png",
    b"gif",
    b"audio",
    b"video",
    b"charset",
    b"utf-8",
    b"UTF-8",
    b"us-ascii",
    b"US-ASCII",
    b"iso-8859-1",
    b"ISO-8859-1",
    b"windows-1252",
    b"boundary",
    b"name",
    b"filename",
    b"format",
    b"flowed",
    b"delsp",
    b"yes",
    b"no",
    b"type",
    b"text/html",
    b"text/plain",
    b"7bit",
    b"8bit",
    b"binary",
    b"base64",
    b"quoted-printable",
    b"7BIT",
    b"8BIT",
    b"BASE64",
    b"QUOTED-PRINTABLE",
    b"attachment",
    b"inline",
    b"size",
    b"en",
    b"protocol",
    b"micalg",
    b"calendar",
    b"method",
    b"digest",
    b"rfc822-headers",
    b"MISSING_DOMAIN",
    b"MISSING_MAILBOX",
];

/// Appends a number: seven bits a byte, lowest first, the high bit says that more follow.
pub(super) fn put_number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a string, or that there is none.
pub(super) fn put_string(out: &mut Vec<u8>, text: Option<&[u8]>) {
    let Some(text) = text else { return put_number(out, 0) };
    match FREQUENT.iter().position(|f| *f == text) {
        Some(index) => put_number(out, 2 * index as u64 + 1),
        None => {
            put_number(out, 2 * text.len() as u64);
            out.extend_from_slice(text);
        }
    }
}

/// Reads from the front of bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn byte(&mut self) -> Result<u8, Damaged> {
        let (&first, rest) = self.0.split_first().ok_or(Damaged)?;
        self.0 = rest;
        Ok(first)
    }

    pub fn number(&mut self) -> Result<u64, Damaged> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(Damaged);
            }
            n |= bits << shift;
            if byte < 0x80 {
                // One way only to write a number.
                return if byte == 0 && shift > 0 { Err(Damaged) } else { Ok(n) };
            }
        }
        Err(Damaged)
    }

    /// A number of things of which each takes at least one byte.
    pub fn count(&mut self) -> Result<usize, Damaged> {
        let n = usize::try_from(self.number()?).map_err(|_| Damaged)?;
        if n > self.0.len() { Err(Damaged) } else { Ok(n) }
    }

    pub fn string(&mut self) -> Result<Option<&'a [u8]>, Damaged> {
        let n = self.number()?;
        if n == 0 {
            return Ok(None);
        }
        let value = usize::try_from(n >> 1).map_err(|_| Damaged)?;
        if n & 1 == 1 {
            return FREQUENT.get(value).map(|f| Some(*f)).ok_or(Damaged);
        }
        let (text, rest) = self.0.split_at_checked(value).ok_or(Damaged)?;
        self.0 = rest;
        if FREQUENT.contains(&text) { Err(Damaged) } else { Ok(Some(text)) }
    }

    /// What `read` goes over.
    pub fn region(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<(), Damaged>,
    ) -> Result<&'a [u8], Damaged> {
        let before = self.0;
        read(self)?;
        Ok(&before[..before.len() - self.0.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_and_strings_come_back(n: u64, text in proptest::option::of(any::<Vec<u8>>())) {
            let mut out = Vec::new();
            put_number(&mut out, n);
            put_string(&mut out, text.as_deref());
            let mut reader = Reader(&out);
            prop_assert_eq!(reader.number(), Ok(n));
            prop_assert_eq!(reader.string(), Ok(text.as_deref()));
            prop_assert!(reader.0.is_empty());
            for end in 0..out.len() {
                let mut reader = Reader(&out[..end]);
                prop_assert!(reader.number().is_err() || reader.string().is_err());
            }
        }
    }

    #[test]
    fn frequent_strings_are_short_and_stand_once() {
        for (i, text) in FREQUENT.iter().enumerate() {
            let mut out = Vec::new();
            put_string(&mut out, Some(text));
            assert_eq!(out.len(), 1, "{i}");
            assert_eq!(Reader(&out).string(), Ok(Some(*text)));
        }
    }

    #[test]
    fn what_no_writer_writes_is_damaged() {
        assert_eq!(Reader(&[0x80, 0]).number(), Err(Damaged));
        assert_eq!(Reader(&[0xff; 11]).number(), Err(Damaged));
        assert_eq!(Reader(&[8, b't', b'e', b'x', b't']).string(), Err(Damaged));
        assert_eq!(Reader(&[125]).string(), Err(Damaged));
        assert_eq!(Reader(&[200]).count(), Err(Damaged));
    }
}

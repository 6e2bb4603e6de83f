//! A cursor over the text of one command: the terminals of the grammar (RFC 9051 §9).
//!
//! The text is contiguous and holds its literals (`{n}` CRLF and n bytes) in place, as the framing
//! (`imap/line.rs`) hands it over. Everything is borrowed; nothing is copied or unquoted. Knows no
//! command. Errors are [`Bad`]: where, and what should have been there.

use crate::imap::set::SeqSet;
use memchr::memchr2;
use std::borrow::Cow;
use std::fmt;

/// Why a text is not a command: the reason for a tagged BAD.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bad {
    /// Index of the byte at which something else was expected, from the start of the command.
    pub at: usize,
    /// What was expected there; plain ASCII for the client's user.
    pub expected: &'static str,
}

impl fmt::Display for Bad {
    /// `Expected a mailbox name at column 12`, columns from 1.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expected {} at column {}", self.expected, self.at + 1)
    }
}

/// Expected where a literal is announced whose bytes are not there: the framing knows by it that
/// everything before was right.
pub const LITERAL_BYTES: &str = "all bytes of the literal";

/// What parsing yields.
pub type Parsed<T> = Result<T, Bad>;

/// The bytes of an astring, string or nstring. Quoted ones may still hold backslashes.
#[derive(Clone, Copy, Default)]
pub struct Str<'a> {
    raw: &'a [u8],
    escaped: bool,
}

impl<'a> Str<'a> {
    /// A text without backslashes to take away.
    #[must_use]
    pub const fn plain(raw: &'a [u8]) -> Self {
        Str { raw, escaped: false }
    }

    /// The text. Copied only if it was quoted and has a backslash.
    #[must_use]
    pub fn bytes(&self) -> Cow<'a, [u8]> {
        if self.escaped { Cow::Owned(self.iter().collect()) } else { Cow::Borrowed(self.raw) }
    }

    /// Its bytes, one after the other.
    pub fn iter(&self) -> impl Iterator<Item = u8> + 'a {
        let (raw, escaped) = (self.raw, self.escaped);
        let mut at = 0;
        std::iter::from_fn(move || {
            at += usize::from(escaped && raw.get(at) == Some(&b'\\'));
            let b = *raw.get(at)?;
            at += 1;
            Some(b)
        })
    }

    /// True if nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// An upper bound of its length in bytes.
    #[must_use]
    pub fn len_max(&self) -> usize {
        self.raw.len()
    }

    /// Equal in ASCII without regard to case.
    #[must_use]
    pub fn is(&self, other: &str) -> bool {
        self.iter().map(|b| b.to_ascii_lowercase()).eq(other.bytes().map(|b| b.to_ascii_lowercase()))
    }
}

impl PartialEq for Str<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Str<'_> {}

impl fmt::Debug for Str<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.raw.escape_ascii())
    }
}

/// atom: `ATOM-CHAR`.
const ATOM: u8 = 1;
/// astring without quotes: `ASTRING-CHAR`.
const ASTRING: u8 = 2;
/// pattern of LIST without quotes: `list-char`.
const LIST: u8 = 4;
/// tag.
const TAG: u8 = 8;

const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut b = 0x21;
    while b < 0x7f {
        // RFC 9051 §9: atom-specials are ( ) { SP CTL list-wildcards quoted-specials resp-specials.
        table[b] = match b as u8 {
            b'(' | b')' | b'{' | b'"' | b'\\' => 0,
            b'%' | b'*' => LIST,
            b']' => ASTRING | LIST | TAG,
            b'+' => ATOM | ASTRING | LIST,
            _ => ATOM | ASTRING | LIST | TAG,
        };
        b += 1;
    }
    table
};

/// True for a byte that may stand in an atom.
#[must_use]
pub fn is_atom_char(b: u8) -> bool {
    CLASS[usize::from(b)] & ATOM != 0
}

/// True for a byte that may stand in an astring without quotes.
#[must_use]
pub fn is_astring_char(b: u8) -> bool {
    CLASS[usize::from(b)] & ASTRING != 0
}

/// True for a byte that may stand in a tag.
#[must_use]
pub fn is_tag_char(b: u8) -> bool {
    CLASS[usize::from(b)] & TAG != 0
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    /// At the start of `text`.
    #[must_use]
    pub fn new(text: &'a [u8]) -> Self {
        Input { text, at: 0 }
    }

    /// Where the cursor is.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// Puts the cursor back (or ahead) to `at`.
    pub fn seek(&mut self, at: usize) {
        self.at = at;
    }

    /// What was read since `from`.
    #[must_use]
    pub fn since(&self, from: usize) -> &'a [u8] {
        &self.text[from..self.at]
    }

    /// What is left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    /// The error "`expected` here".
    #[must_use]
    pub fn bad(&self, expected: &'static str) -> Bad {
        Bad { at: self.at, expected }
    }

    /// The error "`expected` at `at`".
    pub fn bad_at<T>(&self, at: usize, expected: &'static str) -> Parsed<T> {
        Err(Bad { at, expected })
    }

    /// The next byte.
    #[inline]
    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Takes `b` if it is next.
    #[inline]
    pub fn eat(&mut self, b: u8) -> bool {
        let is = self.peek() == Some(b);
        self.at += usize::from(is);
        is
    }

    /// Takes `b`.
    #[inline]
    pub fn need(&mut self, b: u8, expected: &'static str) -> Parsed<()> {
        if self.eat(b) { Ok(()) } else { Err(self.bad(expected)) }
    }

    /// One space before an argument.
    #[inline]
    pub fn space(&mut self, expected: &'static str) -> Parsed<()> {
        // With the name of what follows: "expected a space" helps nobody.
        self.need(b' ', expected)
    }

    /// Nothing more. Spaces at the end are tolerated: several clients leave one behind.
    pub fn end(&mut self) -> Parsed<()> {
        let spaces = self.rest().iter().take_while(|b| **b == b' ').count();
        self.at += spaces;
        if self.at == self.text.len() {
            Ok(())
        } else {
            self.at -= spaces;
            Err(self.bad("the end of the command"))
        }
    }

    /// True if only spaces are left.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.rest().iter().all(|b| *b == b' ')
    }

    #[inline]
    fn take_class(&mut self, class: u8) -> &'a [u8] {
        let from = self.at;
        let len = self.text[from..].iter().take_while(|b| CLASS[usize::from(**b)] & class != 0).count();
        self.at += len;
        &self.text[from..from + len]
    }

    /// The tag of a command.
    pub fn tag(&mut self) -> Parsed<&'a [u8]> {
        let tag = self.take_class(TAG);
        if tag.is_empty() { Err(self.bad("a tag (letters and digits)")) } else { Ok(tag) }
    }

    /// An atom.
    #[inline]
    pub fn atom(&mut self, expected: &'static str) -> Parsed<&'a [u8]> {
        let atom = self.take_class(ATOM);
        if atom.is_empty() { Err(self.bad(expected)) } else { Ok(atom) }
    }

    /// Letters, digits, dots, `-` and `=`: a keyword of the grammar, perhaps empty.
    #[inline]
    pub fn word(&mut self) -> &'a [u8] {
        let word = |b: &&u8| b.is_ascii_alphanumeric() || matches!(**b, b'.' | b'-' | b'=');
        let len = self.rest().iter().take_while(word).count();
        self.at += len;
        &self.text[self.at - len..self.at]
    }

    /// Takes `keyword` (in capitals) if it is next and a word of its own.
    pub fn keyword(&mut self, keyword: &str) -> bool {
        let from = self.at;
        if self.word().eq_ignore_ascii_case(keyword.as_bytes()) {
            return true;
        }
        self.at = from;
        false
    }

    /// A number of at most 4294967295 (RFC 9051 §9 `number`). Leading zeros are tolerated.
    pub fn number(&mut self, expected: &'static str) -> Parsed<u32> {
        let from = self.at;
        let n = self.number64(expected)?;
        u32::try_from(n).or_else(|_| self.bad_at(from, expected))
    }

    /// A number of at most 63 bits (RFC 9051 §9 `number64`, RFC 7162 §7 `mod-sequence-value`).
    pub fn number64(&mut self, expected: &'static str) -> Parsed<u64> {
        let from = self.at;
        let mut n = 0u64;
        while let Some(digit) = self.peek().map(|b| b.wrapping_sub(b'0')).filter(|&d| d < 10) {
            self.at += 1;
            n = match n.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit))) {
                Some(n) if n <= i64::MAX as u64 => n,
                _ => return self.bad_at(from, expected),
            };
        }
        if self.at == from { Err(self.bad(expected)) } else { Ok(n) }
    }

    /// The same without zero.
    pub fn nz_number64(&mut self, expected: &'static str) -> Parsed<u64> {
        let from = self.at;
        match self.number64(expected)? {
            0 => self.bad_at(from, expected),
            n => Ok(n),
        }
    }

    /// The same without zero.
    pub fn nz_number(&mut self, expected: &'static str) -> Parsed<u32> {
        let from = self.at;
        match self.number(expected)? {
            0 => self.bad_at(from, expected),
            n => Ok(n),
        }
    }

    /// A sequence set.
    pub fn set(&mut self) -> Parsed<SeqSet> {
        match SeqSet::parse(self.rest()) {
            Ok((set, used)) => {
                self.at += used;
                Ok(set)
            }
            Err(e) => self.bad_at(self.at + e.at, e.expected),
        }
    }

    /// A quoted string or a literal.
    pub fn string(&mut self, expected: &'static str) -> Parsed<Str<'a>> {
        match self.peek() {
            Some(b'"') => self.quoted(),
            Some(b'{') => self.literal().map(Str::plain),
            _ => Err(self.bad(expected)),
        }
    }

    /// An atom (with `]`), a quoted string or a literal.
    #[inline]
    pub fn astring(&mut self, expected: &'static str) -> Parsed<Str<'a>> {
        self.string_or(ASTRING, expected)
    }

    /// A pattern of LIST: an astring that may also have `%` and `*`.
    pub fn list_mailbox(&mut self, expected: &'static str) -> Parsed<Str<'a>> {
        self.string_or(LIST, expected)
    }

    fn string_or(&mut self, class: u8, expected: &'static str) -> Parsed<Str<'a>> {
        let atom = self.take_class(class);
        if atom.is_empty() { self.string(expected) } else { Ok(Str::plain(atom)) }
    }

    /// A string or NIL.
    pub fn nstring(&mut self, expected: &'static str) -> Parsed<Option<Str<'a>>> {
        if self.keyword("NIL") { Ok(None) } else { self.string(expected).map(Some) }
    }

    fn quoted(&mut self) -> Parsed<Str<'a>> {
        let from = self.at + 1;
        let mut at = from;
        let mut escaped = false;
        loop {
            let Some(found) = memchr2(b'"', b'\\', &self.text[at..]) else {
                return self.bad_at(self.at, "a closing quotation mark");
            };
            at += found;
            if self.text[at] == b'"' {
                break;
            }
            // RFC 9051 §9: only the quoted-specials are escaped.
            if !matches!(self.text.get(at + 1), Some(b'"' | b'\\')) {
                return self.bad_at(at, "\\\" or \\\\ in a quoted string");
            }
            escaped = true;
            at += 2;
        }
        let raw = &self.text[from..at];
        let odd = raw.iter().fold(false, |odd, b| odd | matches!(b, 0 | b'\r' | b'\n'));
        if odd {
            return self.bad_at(self.at, "a quoted string without NUL, CR and LF");
        }
        if !raw.is_ascii() && std::str::from_utf8(raw).is_err() {
            return self.bad_at(self.at, "UTF-8 in a quoted string");
        }
        self.at = at + 1;
        Ok(Str { raw, escaped })
    }

    /// A literal that is an argument: any bytes but NUL.
    fn literal(&mut self) -> Parsed<&'a [u8]> {
        let from = self.at;
        let Some((len, header)) = literal_header(self.rest()) else {
            return Err(self.bad("a literal: {length} at the end of a line"));
        };
        let start = from + header;
        let end = usize::try_from(len).ok().and_then(|len| start.checked_add(len));
        let Some(bytes) = end.and_then(|end| self.text.get(start..end)) else {
            return Err(self.bad(LITERAL_BYTES));
        };
        // RFC 9051 §4.3: NUL only in literal8.
        if memchr::memchr(0, bytes).is_some() {
            return Err(self.bad("a literal without NUL"));
        }
        self.at = start + bytes.len();
        Ok(bytes)
    }
}

/// `{n}` or `{n+}` (RFC 7888) and its line end at the start of `text`: n, and the bytes of both.
pub(crate) fn literal_header(text: &[u8]) -> Option<(u64, usize)> {
    let mut input = Input::new(text);
    input.need(b'{', "").ok()?;
    let len = input.number64("").ok()?;
    input.eat(b'+');
    input.need(b'}', "").ok()?;
    input.eat(b'\r');
    input.eat(b'\n').then_some((len, input.at))
}

/// `word` in capitals, in `space`. Words that are longer than it are no keyword and come out empty.
#[inline]
pub fn capitals<'b>(word: &[u8], space: &'b mut [u8; 24]) -> &'b [u8] {
    let Some(space) = space.get_mut(..word.len()) else { return b"" };
    for (to, from) in space.iter_mut().zip(word) {
        *to = from.to_ascii_uppercase();
    }
    space
}

#[cfg(test)]
mod tests {
    use super::*;

    fn astring(text: &[u8]) -> Parsed<(Vec<u8>, usize)> {
        let mut input = Input::new(text);
        let s = input.astring("an astring")?;
        Ok((s.bytes().into_owned(), input.at()))
    }

    #[test]
    fn astrings() {
        for (text, value, used) in [
            (&b"abc def"[..], &b"abc"[..], 3),
            (b"a]b+c", b"a]b+c", 5),
            (b"\"\"", b"", 2),
            (b"\"a b\" c", b"a b", 5),
            (b"\"a\\\"b\\\\\"", b"a\"b\\", 8),
            (b"{3}\r\na\"\r", b"a\"\r", 8),
            (b"{3+}\r\nabcd", b"abc", 9),
            (b"{0}\r\n", b"", 5),
            (b"{2}\nab", b"ab", 6),
            ("\"\u{e9}\"".as_bytes(), "\u{e9}".as_bytes(), 4),
            (b"{1}\r\n\xe9", b"\xe9", 6),
        ] {
            assert_eq!(astring(text), Ok((value.to_vec(), used)), "{}", text.escape_ascii());
        }
    }

    /// Attack catalogue, row 26: NUL, unfinished and 8-bit strings.
    #[test]
    fn row_26_strings() {
        for text in [
            &b""[..],
            b"(",
            b"%",
            b"\"",
            b"\"abc",
            b"\"\0\"",
            b"\"a\rb\"",
            b"\"a\\nb\"",
            b"\"\\",
            b"\"\\\"",
            b"\"\xe9\"",
            b"\xe9",
            b"{3}\r\nab",
            b"{3}ab",
            b"{-1}\r\n",
            b"{}\r\n",
            b"{1}\r\n\0",
            b"{99999999999999999999}\r\n",
            b"{18446744073709551615}\r\n",
            b"{9223372036854775807}\r\n",
            "\u{e9}".as_bytes(),
        ] {
            assert!(astring(text).is_err(), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn equality_is_that_of_the_value() {
        let one = |text: &'static [u8]| Input::new(text).astring("").unwrap();
        assert_eq!(one(b"abc"), one(b"\"abc\""));
        assert_eq!(one(b"\"a\\\\c\""), one(b"{3}\r\na\\c"));
        assert_ne!(one(b"\"a\\\\c\""), one(b"\"ac\""));
        assert!(one(b"\"InBox\"").is("INBOX"));
    }

    #[test]
    fn numbers() {
        let number = |text: &str| Input::new(text.as_bytes()).number("n").ok();
        assert_eq!(
            (number("0"), number("4294967295"), number("4294967296")),
            (Some(0), Some(u32::MAX), None)
        );
        let number = |text: &str| Input::new(text.as_bytes()).number64("n").ok();
        assert_eq!(number("9223372036854775807"), Some(i64::MAX as u64));
        assert_eq!((number("9223372036854775808"), number("x"), number("")), (None, None, None));
    }
}

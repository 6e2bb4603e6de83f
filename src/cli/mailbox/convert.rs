//! Lines of a file become lines of mail, and facts about them are collected on the way.
//!
//! A bare LF becomes CRLF, a bare CR a space; NUL, which no mailbox can hand out (RFC 9051 §9), becomes the
//! byte 0x80. Nothing else is changed; a last line without an end stays one. Knows no files. Nothing fails.

use crate::message::body::BodyFacts;

/// The longest line without its end (RFC 5322 §2.1.1).
const LINE_MAX: u64 = 998;

/// See the module. Feed it piece by piece.
#[derive(Debug)]
pub struct Lines {
    facts: BodyFacts,
    /// Bytes of the line so far, as they are stored.
    line: u64,
    /// A CR was read, and not yet what follows it.
    cr: bool,
    header: bool,
    /// NULs that were replaced.
    pub nuls: u64,
}

impl Lines {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Lines { facts: BodyFacts::default(), line: 0, cr: false, header: true, nuls: 0 }
    }

    /// Takes a piece; what is stored of it is added to `out`.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let mut rest = input;
        while let Some((&first, after)) = rest.split_first() {
            if self.cr {
                self.cr = false;
                if first == b'\n' {
                    self.end_line(out);
                    rest = after;
                    continue;
                }
                self.run(b" ", out);
            }
            let at = memchr::memchr3(b'\r', b'\n', 0, rest).unwrap_or(rest.len());
            self.run(&rest[..at], out);
            rest = &rest[at..];
            let Some((&special, after)) = rest.split_first() else { break };
            rest = after;
            match special {
                b'\r' => self.cr = true,
                b'\n' => self.end_line(out),
                _ => {
                    self.nuls += 1;
                    self.run(&[0x80], out);
                }
            }
        }
    }

    /// The end of the message.
    #[must_use]
    pub fn finish(mut self, out: &mut Vec<u8>) -> BodyFacts {
        if std::mem::take(&mut self.cr) {
            self.run(b" ", out);
        }
        self.facts
    }

    fn run(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        self.facts.has_dot_lines |= self.line == 0 && bytes[0] == b'.';
        if !bytes.is_ascii() {
            self.facts.eight_bit = true;
            self.facts.header_eight_bit |= self.header;
        }
        self.line += bytes.len() as u64;
        self.facts.long_lines |= self.line > LINE_MAX;
        self.facts.len += bytes.len() as u64;
        out.extend_from_slice(bytes);
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        self.header &= self.line != 0;
        self.line = 0;
        self.facts.len += 2;
        out.extend_from_slice(b"\r\n");
    }
}

/// CRLF becomes LF, for files.
#[derive(Debug, Default)]
pub struct Unix {
    cr: bool,
}

impl Unix {
    /// Takes a piece; what is written of it is added to `out`.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let mut rest = input;
        if std::mem::take(&mut self.cr) && rest.first() != Some(&b'\n') && !rest.is_empty() {
            out.push(b'\r');
        }
        while let Some(at) = memchr::memchr(b'\r', rest) {
            out.extend_from_slice(&rest[..at]);
            rest = &rest[at + 1..];
            match rest.first() {
                Some(b'\n') => {}
                Some(_) => out.push(b'\r'),
                None => self.cr = true,
            }
        }
        out.extend_from_slice(rest);
    }

    /// The end of the message.
    pub fn finish(self, out: &mut Vec<u8>) {
        if self.cr {
            out.push(b'\r');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(pieces: &[&[u8]]) -> (Vec<u8>, BodyFacts) {
        let (mut lines, mut out) = (Lines::new(), Vec::new());
        pieces.iter().for_each(|p| lines.feed(p, &mut out));
        let facts = lines.finish(&mut out);
        (out, facts)
    }

    #[test]
    fn line_ends_become_crlf() {
        for (given, stored) in [
            (&b"a\nb\n"[..], &b"a\r\nb\r\n"[..]),
            (b"a\r\nb\r\n", b"a\r\nb\r\n"),
            (b"a\rb\r\r\n\r", b"a b \r\n "),
            (b"no end", b"no end"),
            (b"nul\0\n", b"nul\x80\r\n"),
            (b"", b""),
        ] {
            let (out, facts) = lines(&[given]);
            assert_eq!((out.as_slice(), facts.len), (stored, stored.len() as u64), "{given:?}");
        }
    }

    #[test]
    fn facts_are_those_of_what_is_stored() {
        let facts = |bytes: &[u8]| lines(&[bytes]).1;
        assert!(facts(b"a: b\n\n.x\n").has_dot_lines && !facts(b"a: .b\n\nx.\n").has_dot_lines);
        let body = facts(b"a: b\n\n\xe9\n");
        assert!(body.eight_bit && !body.header_eight_bit);
        assert!(facts(b"a: \xe9\n\nb\n").header_eight_bit);
        let long = |n: usize| facts(&[&b"\n"[..], &vec![b'x'; n], b"\n"].concat()).long_lines;
        assert!(!long(998) && long(999));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference_and_files_come_back(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), any::<u8>()], 0..60),
            at in 0usize..60,
        ) {
            let at = at.min(bytes.len());
            let (whole, facts) = lines(&[&bytes]);
            prop_assert_eq!(&whole, &lines(&[&bytes[..at], &bytes[at..]]).0);
            prop_assert_eq!(facts, lines(&[&bytes[..at], &bytes[at..]]).1);
            let mut pairs = whole.iter().zip(whole.iter().skip(1));
            prop_assert!(pairs.all(|(a, b)| (*a == b'\r') == (*b == b'\n')));
            let (mut unix, mut file) = (Unix::default(), Vec::new());
            let cut = at.min(whole.len());
            unix.feed(&whole[..cut], &mut file);
            unix.feed(&whole[cut..], &mut file);
            unix.finish(&mut file);
            prop_assert!(!file.contains(&b'\r'));
            prop_assert_eq!(lines(&[&file]).0, whole);
        }
    }
}

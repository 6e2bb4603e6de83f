//! The bytes of a message that a client appends, on their way into the store.
//!
//! A message is stored with CRLF line ends, whatever it came with: a line feed or a carriage return alone
//! becomes a line end (the sizes that are told are those of what is stored). Facts and summary are worked
//! out on the way. Cannot fail; what must not be is said by [`Intake::has_nul`].

use crate::message::body::BodyFacts;
use crate::message::headers::HeaderScan;
use crate::message::mime::Scanner;

/// Longest line that goes everywhere, with its line end (RFC 5321 §4.5.3.1.6).
const LINE_MAX: u64 = 1000;

/// See the module.
#[derive(Debug, Default)]
pub struct Intake {
    /// The last byte was a carriage return, and is not out yet.
    cr: bool,
    header: HeaderScan,
    scanner: Scanner,
    facts: BodyFacts,
    /// Bytes of the current line.
    line: u64,
    nul: bool,
}

impl Intake {
    /// Takes the next bytes; appends what is stored of them.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let from = out.len();
        let mut rest = bytes;
        if self.cr && !rest.is_empty() {
            self.cr = false;
            out.extend_from_slice(b"\r\n");
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(at) = memchr::memchr2(b'\r', b'\n', rest) {
            out.extend_from_slice(&rest[..at]);
            let pair = rest[at] == b'\r' && rest.get(at + 1) == Some(&b'\n');
            if rest[at] == b'\r' && at + 1 == rest.len() {
                self.cr = true;
            } else {
                out.extend_from_slice(b"\r\n");
            }
            rest = &rest[at + 1 + usize::from(pair)..];
        }
        out.extend_from_slice(rest);
        self.note(&out[from..]);
    }

    /// Works out facts about bytes as they are stored.
    fn note(&mut self, bytes: &[u8]) {
        self.header.feed(bytes);
        self.scanner.feed(bytes);
        self.facts.len += bytes.len() as u64;
        self.facts.eight_bit |= !bytes.is_ascii();
        self.nul |= memchr::memchr(0, bytes).is_some();
        let mut rest = bytes;
        while !rest.is_empty() {
            self.facts.has_dot_lines |= self.line == 0 && rest[0] == b'.';
            let end = memchr::memchr(b'\n', rest).map(|lf| lf + 1);
            self.line += end.unwrap_or(rest.len()) as u64;
            self.facts.long_lines |= self.line > LINE_MAX;
            let Some(end) = end else { break };
            self.line = 0;
            rest = &rest[end..];
        }
    }

    /// There was a NUL: only in a literal8 may one be (RFC 9051 §4.3, RFC 3516 §4.4).
    #[must_use]
    pub fn has_nul(&self) -> bool {
        self.nul
    }

    /// The message is complete: appends what is left of it. Its facts and its summary.
    pub fn finish(mut self, out: &mut Vec<u8>) -> (BodyFacts, Vec<u8>) {
        if std::mem::take(&mut self.cr) {
            out.extend_from_slice(b"\r\n");
            self.note(b"\r\n");
        }
        let facts =
            BodyFacts { hops: self.header.hops(), header_eight_bit: self.header.eight_bit(), ..self.facts };
        let mut summary = Vec::new();
        self.scanner.finish(&mut summary);
        (facts, summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::mime::Summary;
    use proptest::prelude::*;

    fn stored(message: &[u8], piece: usize) -> (Vec<u8>, BodyFacts, Vec<u8>, bool) {
        let (mut intake, mut out) = (Intake::default(), Vec::new());
        message.chunks(piece).for_each(|bytes| intake.feed(bytes, &mut out));
        let nul = intake.has_nul();
        let (facts, summary) = intake.finish(&mut out);
        (out, facts, summary, nul)
    }

    #[test]
    fn line_ends_and_facts() {
        for (message, kept) in [
            ("a\nb\r\nc\rd", "a\r\nb\r\nc\r\nd"),
            ("\r", "\r\n"),
            ("\n\n", "\r\n\r\n"),
            ("\r\r\n", "\r\n\r\n"),
            ("", ""),
        ] {
            assert_eq!(stored(message.as_bytes(), 3).0, kept.as_bytes(), "{message:?}");
        }
        let (_, facts, summary, nul) = stored("Received: x\nSubject: \u{e9}\n\n.dot\n".as_bytes(), 5);
        assert!(
            facts.has_dot_lines && facts.eight_bit && facts.header_eight_bit && !facts.long_lines && !nul
        );
        assert_eq!((facts.len, facts.hops), (34, 1));
        assert_eq!(Summary::read(&summary).unwrap().size(), 34);
        assert!(stored(b"a\0", 1).3);
        assert!(stored(&[b'x'; 1001], 100).1.long_lines && !stored(&[b'x'; 1000], 100).1.long_lines);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(message in "[a.\\r\\n: ]{0,40}", piece in 1usize..9) {
            let whole = stored(message.as_bytes(), usize::MAX);
            prop_assert_eq!(&stored(message.as_bytes(), piece), &whole);
            let bytes = &whole.0;
            for (at, b) in bytes.iter().enumerate() {
                prop_assert!(*b != b'\n' || (at > 0 && bytes[at - 1] == b'\r'));
                prop_assert!(*b != b'\r' || bytes.get(at + 1) == Some(&b'\n'));
            }
            prop_assert_eq!(whole.1.len, bytes.len() as u64);
        }
    }
}

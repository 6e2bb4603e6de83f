//! A stored message on its way to a client: dots put in front of dots, the lines of TOP, the end
//! (RFC 1939 §3, §7).
//!
//! The message goes through in pieces of any size; what is to be sent are ranges of these pieces and,
//! rarely, a dot between them. A message without lines that begin with a dot goes through whole.

use std::ops::Range;

/// What is to be sent next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// This range of the bytes that were shown.
    Run(Range<usize>),
    /// A dot.
    Dot,
    /// Nothing: the rest is not wanted.
    Nothing,
}

/// Where a message is on its way.
#[derive(Clone, Debug)]
pub struct Body {
    /// Dots have to be looked for.
    stuff: bool,
    at_line_start: bool,
    /// The dot in front of a dot has been sent.
    dotted: bool,
    /// The last byte that was sent.
    last: [u8; 2],
    top: Option<Top>,
    done: bool,
}

#[derive(Clone, Copy, Debug)]
struct Top {
    in_header: bool,
    /// The line has more than a line end.
    has_text: bool,
    lines: u32,
}

impl Body {
    /// The whole message. `dot_lines`: some line of it may begin with a dot.
    #[must_use]
    pub fn whole(dot_lines: bool) -> Self {
        let last = *b"\r\n";
        Body { stuff: dot_lines, at_line_start: true, dotted: false, last, top: None, done: false }
    }

    /// Its header, the empty line, and so many lines of its body.
    #[must_use]
    pub fn top(dot_lines: bool, lines: u32) -> Self {
        let top = Top { in_header: true, has_text: false, lines };
        Body { top: Some(top), ..Body::whole(dot_lines) }
    }

    /// Nothing more of the message is wanted.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Looks at the next bytes of the message. Gives how many of them are dealt with now, and what to
    /// send. To be called again with the others.
    pub fn next(&mut self, bytes: &[u8]) -> (usize, Piece) {
        if self.done || bytes.is_empty() {
            return (bytes.len(), Piece::Nothing);
        }
        let is_dot = self.stuff && self.at_line_start && bytes[0] == b'.';
        if is_dot && !std::mem::replace(&mut self.dotted, is_dot) {
            return (0, Piece::Dot);
        }
        self.dotted = false;
        let end = match &mut self.top {
            Some(top) => {
                let end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |lf| lf + 1);
                self.done = top.line(&bytes[..end]);
                end
            }
            None if self.stuff => memchr::memmem::find(bytes, b"\n.").map_or(bytes.len(), |lf| lf + 1),
            None => bytes.len(),
        };
        self.at_line_start = bytes[end - 1] == b'\n';
        self.last = match bytes[..end] {
            [.., a, b] => [a, b],
            [b] => [self.last[1], b],
            [] => self.last,
        };
        (end, Piece::Run(0..end))
    }

    /// What ends it, with a line end if the last line has none.
    #[must_use]
    pub fn end(&self) -> &'static [u8] {
        if self.last == *b"\r\n" { b".\r\n" } else { b"\r\n.\r\n" }
    }
}

impl Top {
    /// Takes a line or a part of one; true if it was the last that is wanted.
    fn line(&mut self, line: &[u8]) -> bool {
        self.has_text |= line.iter().any(|b| !matches!(b, b'\r' | b'\n'));
        if line.last() != Some(&b'\n') {
            return false;
        }
        let was_empty = !std::mem::take(&mut self.has_text);
        if !self.in_header {
            self.lines -= 1;
        } else if was_empty {
            self.in_header = false;
        }
        !self.in_header && self.lines == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn send(mut body: Body, message: &[u8], piece: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for bytes in message.chunks(piece.max(1)) {
            let mut rest = bytes;
            while !rest.is_empty() {
                let (used, piece) = body.next(rest);
                match piece {
                    Piece::Run(run) => out.extend_from_slice(&rest[run]),
                    Piece::Dot => out.push(b'.'),
                    Piece::Nothing => {}
                }
                rest = &rest[used..];
            }
        }
        out.extend_from_slice(body.end());
        out
    }

    #[test]
    fn whole_messages() {
        for (message, sent) in [
            ("", ".\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            (".\r\n", "..\r\n.\r\n"),
            ("a\r\n..b\r\n.", "a\r\n...b\r\n..\r\n.\r\n"),
            ("a.b\r\n", "a.b\r\n.\r\n"),
        ] {
            for piece in 1..5 {
                assert_eq!(
                    send(Body::whole(true), message.as_bytes(), piece),
                    sent.as_bytes(),
                    "{message:?}"
                );
            }
        }
        assert_eq!(send(Body::whole(false), b"a\r\nb", 9), b"a\r\nb\r\n.\r\n");
    }

    #[test]
    fn tops() {
        let message = "A: b\r\nC: d\r\n\r\n.1\r\n2\r\n3";
        for (lines, sent) in [
            (0, "A: b\r\nC: d\r\n\r\n.\r\n"),
            (1, "A: b\r\nC: d\r\n\r\n..1\r\n.\r\n"),
            (2, "A: b\r\nC: d\r\n\r\n..1\r\n2\r\n.\r\n"),
            (3, "A: b\r\nC: d\r\n\r\n..1\r\n2\r\n3\r\n.\r\n"),
            (u32::MAX, "A: b\r\nC: d\r\n\r\n..1\r\n2\r\n3\r\n.\r\n"),
        ] {
            for piece in 1..9 {
                assert_eq!(
                    send(Body::top(true, lines), message.as_bytes(), piece),
                    sent.as_bytes(),
                    "{lines}"
                );
            }
        }
        assert_eq!(send(Body::top(true, 1), b"A: b", 9), b"A: b\r\n.\r\n");
    }

    proptest! {
        /// A client that takes the dots away has the message, and its end is the only end.
        #[test]
        fn it_comes_back(
            lines in proptest::collection::vec("[.ab]{0,3}", 0..8), end: bool, piece in 1usize..6,
        ) {
            let mut message = lines.join("\r\n").into_bytes();
            if end && !message.is_empty() {
                message.extend_from_slice(b"\r\n");
            }
            let sent = send(Body::whole(true), &message, piece);
            let mut back = Vec::new();
            let mut ended = false;
            for line in sent.split_inclusive(|&b| b == b'\n') {
                prop_assert!(!ended);
                ended = line == b".\r\n";
                if !ended {
                    back.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
                }
            }
            if !message.ends_with(b"\r\n") && !message.is_empty() {
                message.extend_from_slice(b"\r\n");
            }
            prop_assert!(ended);
            prop_assert_eq!(back, message);
        }
    }
}

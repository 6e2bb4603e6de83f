//! L2: dots before lines that begin with one (RFC 5321 §4.5.2).
//!
//! Only messages that have such lines come here; all others are sent as they are stored.

/// Copies a body in pieces and adds the dots; knows across pieces whether a line begins.
#[derive(Debug)]
pub struct Stuffer {
    /// How much of a CRLF the bytes so far end with: 0, 1 (CR), 2 (all; also the start).
    crlf: u8,
}

impl Default for Stuffer {
    fn default() -> Self {
        Stuffer { crlf: 2 }
    }
}

impl Stuffer {
    /// Appends `input` to `out`, with a dot before each line that begins with one. The output is at
    /// most one byte longer for each three bytes of input, and one.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let mut copied = 0;
        for at in memchr::memchr_iter(b'.', input) {
            let begins = match at {
                0 => self.crlf == 2,
                1 => self.crlf == 1 && input[0] == b'\n',
                _ => input[at - 2..at] == *b"\r\n",
            };
            if begins {
                out.extend_from_slice(&input[copied..at]);
                out.push(b'.');
                copied = at;
            }
        }
        out.extend_from_slice(&input[copied..]);
        self.pass(input);
    }

    /// Notes that `input` is sent as it is, because no line of it begins with a dot.
    pub fn pass(&mut self, input: &[u8]) {
        self.crlf = match input {
            [] => self.crlf,
            [b'\n'] if self.crlf == 1 => 2,
            [.., b'\r', b'\n'] => 2,
            [.., b'\r'] => 1,
            _ => 0,
        };
    }

    /// What ends the message: `.` CRLF, after a CRLF if the last line has none.
    #[must_use]
    pub fn end(&self) -> &'static [u8] {
        if self.crlf == 2 { b".\r\n" } else { b"\r\n.\r\n" }
    }
}

/// True if a body sent as it is would neither end early nor carry a bare CR or LF: what the stored
/// form promises. For assertions and tests; the promise is kept where mail comes in.
#[must_use]
pub fn is_clean(body: &[u8], has_dot_lines: bool) -> bool {
    let mut before = b'\n';
    for (i, &b) in body.iter().enumerate() {
        let next = body.get(i + 1);
        if (b == b'\n' && (before != b'\r')) || (b == b'\r' && next != Some(&b'\n')) {
            return false;
        }
        if b == b'.' && before == b'\n' && !has_dot_lines {
            return false;
        }
        before = b;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The receiver of RFC 5321 §4.5.2: the body and what comes after the end of data.
    fn unstuff(wire: &[u8]) -> (Vec<u8>, &[u8]) {
        let mut body = Vec::new();
        let mut rest = wire;
        loop {
            let end = memchr::memmem::find(rest, b"\r\n").expect("all lines end") + 2;
            let line = &rest[..end];
            rest = &rest[end..];
            if line == b".\r\n" {
                return (body, rest);
            }
            body.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
    }

    #[test]
    fn every_split_round_trips() {
        let bodies: [&[u8]; 6] =
            [b"", b".\r\n", b"..\r\n.\r\na.b\r\n\r\n.", b"a\r\n.b\r\n..\r\n", b"\r\n\r\n.\r\n", b"no end"];
        for body in bodies {
            for a in 0..=body.len() {
                for b in a..=body.len() {
                    let (mut s, mut out) = (Stuffer::default(), Vec::new());
                    for piece in [&body[..a], &body[a..b], &body[b..]] {
                        s.push(piece, &mut out);
                    }
                    out.extend_from_slice(s.end());
                    out.extend_from_slice(b"MAIL\r\n");
                    let (got, rest) = unstuff(&out);
                    assert_eq!(
                        got.strip_suffix(b"\r\n").unwrap_or(&got),
                        body.strip_suffix(b"\r\n").unwrap_or(body)
                    );
                    assert_eq!(rest, b"MAIL\r\n", "{} split at {a}, {b}", body.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn smuggling_forms_are_recognised() {
        // Attack catalogue: forms that a lenient receiver takes as the end of data.
        for bad in
            ["a\n.\nb", "a\n.\r\n", "a\r.\r", "a\r\n.\n", "a\r\n.\r", "a\r.\r\n", "a\r\n.\r\r\n", "\n", "\r"]
        {
            assert!(!is_clean(bad.as_bytes(), true), "{bad:?}");
        }
        assert!(!is_clean(b"a\r\n.\r\n", false) && !is_clean(b".\r\n", false));
        assert!(is_clean(b"a\r\n.\r\n", true) && is_clean(b"a.\r\n\r\n", false) && is_clean(b"", false));
    }
}

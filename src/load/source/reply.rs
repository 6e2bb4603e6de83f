//! SMTP replies, cut out of whatever pieces the network delivers.
//!
//! Owns line assembly (bounded) and the grammar of RFC 5321 §4.2. No IO. A line that is no reply,
//! or is longer than [`MAX_LINE`], is an error of the server and ends the session.

/// Longest reply line that is accepted (RFC 5321 §4.5.3.1.5 asks for 512).
pub const MAX_LINE: usize = 4096;

/// One line of a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line<'a> {
    /// 200..=599.
    pub code: u16,
    /// Whether the reply ends here.
    pub last: bool,
    /// What follows the code.
    pub text: &'a [u8],
}

/// The peer does not speak SMTP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAReply;

impl<'a> Line<'a> {
    /// Reads one line (its line end may still be there).
    ///
    /// # Errors
    /// It is not a line of a reply.
    pub fn parse(line: &'a [u8]) -> Result<Self, NotAReply> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (code, rest) = line.split_at_checked(3).ok_or(NotAReply)?;
        if !code.iter().all(u8::is_ascii_digit) || !(b'2'..=b'5').contains(&code[0]) {
            return Err(NotAReply);
        }
        let code = code.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
        match rest.split_first() {
            None => Ok(Line { code, last: true, text: b"" }),
            Some((b' ', text)) => Ok(Line { code, last: true, text }),
            Some((b'-', text)) => Ok(Line { code, last: false, text }),
            Some(_) => Err(NotAReply),
        }
    }
}

/// Collects pieces into lines.
#[derive(Default)]
pub struct Lines {
    held: Vec<u8>,
}

impl Lines {
    /// Calls `each` for every line that `input` completes; keeps the rest for the next call.
    ///
    /// # Errors
    /// A line is no reply or too long, or `each` said so.
    pub fn feed(
        &mut self,
        mut input: &[u8],
        mut each: impl FnMut(Line<'_>) -> Result<(), NotAReply>,
    ) -> Result<(), NotAReply> {
        while let Some(end) = memchr::memchr(b'\n', input) {
            let (line, rest) = input.split_at(end + 1);
            input = rest;
            if self.held.is_empty() {
                each(Line::parse(line)?)?;
            } else {
                self.held.extend_from_slice(line);
                let whole = Line::parse(&self.held).and_then(&mut each);
                self.held.clear();
                whole?;
            }
        }
        if self.held.len() + input.len() > MAX_LINE {
            return Err(NotAReply);
        }
        self.held.extend_from_slice(input);
        Ok(())
    }
}

/// The queue id that a final `250` names, or `-`.
#[must_use]
pub fn queue_id(text: &[u8]) -> &str {
    let text = std::str::from_utf8(text).unwrap_or("");
    let named = text.find("queued as ").map(|i| &text[i + 10..]);
    let word = |t: &str| t.split_whitespace().next().map_or(0, |w| w.trim_end_matches(['.', ')']).len());
    match named {
        Some(rest) if word(rest) > 0 => &rest.trim_start()[..word(rest)],
        _ => text
            .split_whitespace()
            .map(|w| w.trim_matches(['<', '>', '.', '(', ')']))
            .find(|w| w.parse::<crate::base::ids::QueueId>().is_ok())
            .unwrap_or("-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_split_at_every_byte() {
        let wire = b"250-mx.test\r\n250-PIPELINING\r\n250 SIZE 10\r\n354\r\n421 4.3.2 bye\r\n";
        for cut in 0..=wire.len() {
            let mut got = Vec::new();
            let mut lines = Lines::default();
            for piece in [&wire[..cut], &wire[cut..]] {
                lines
                    .feed(piece, |l| {
                        got.push((l.code, l.last, l.text.to_vec()));
                        Ok(())
                    })
                    .expect("replies");
            }
            let codes: Vec<_> = got.iter().map(|g| (g.0, g.1)).collect();
            assert_eq!(
                codes,
                [(250, false), (250, false), (250, true), (354, true), (421, true)],
                "cut at {cut}"
            );
            assert_eq!(got[1].2, b"PIPELINING");
        }
    }

    #[test]
    fn other_protocols_are_refused() {
        for bad in [&b"HTTP/1.1 400\r\n"[..], b"25\r\n", b"250=x\r\n", b"650 x\r\n", b"\r\n"] {
            assert_eq!(Line::parse(bad), Err(NotAReply));
        }
        let mut lines = Lines::default();
        assert_eq!(lines.feed(&[b'2'; MAX_LINE + 1], |_| Ok(())), Err(NotAReply));
    }

    #[test]
    fn queue_ids() {
        assert_eq!(queue_id(b"2.0.0 Ok: queued as 4ABC123"), "4ABC123");
        assert_eq!(queue_id(b"2.0.0 0123456789BC00 accepted"), "0123456789BC00");
        assert_eq!(queue_id(b"OK"), "-");
        assert_eq!(queue_id(b"queued as "), "-");
    }
}

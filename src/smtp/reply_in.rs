//! L1: replies of a server, read by us as its client (RFC 5321 §4.2).
//!
//! Owns the bytes of the reply that is arriving, nothing else; knows no command and no state.
//! The server is not trusted: lines, line count and bytes are bounded, controls become `?`.
//! Whatever is wrong is a [`ReplyError`]: the next hop's fault, never a permanent failure of a
//! message. How the bytes are split over calls makes no difference.

use std::fmt;

/// Longest line taken, in bytes without its end. RFC 5321 §4.5.3.1.5 allows 512; we are tolerant.
pub const LINE_MAX: usize = 4096;
/// Most lines of one reply.
pub const LINES_MAX: u32 = 100;
/// Most bytes of one reply.
pub const REPLY_MAX: usize = 64 * 1024;
/// Bytes of text that are kept of an ordinary reply.
pub const TEXT_MAX: usize = 512;

/// An enhanced status code: class, subject, detail (RFC 3463 §2).
pub type Enhanced = [u16; 3];

/// What is wrong with a reply. After one the position in the stream is lost: close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyError {
    /// A line does not begin with a code from 200 to 599 followed by space, hyphen or nothing.
    Malformed,
    /// The lines of one reply have codes of different classes.
    MixedCodes,
    /// A line is longer than [`LINE_MAX`].
    LineTooLong,
    /// More than [`LINES_MAX`] lines or [`REPLY_MAX`] bytes.
    TooLong,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReplyError::Malformed => "malformed reply",
            ReplyError::MixedCodes => "reply with codes of different classes",
            ReplyError::LineTooLong => "reply line too long",
            ReplyError::TooLong => "reply too long",
        })
    }
}

impl std::error::Error for ReplyError {}

/// One complete reply, valid until the next call of [`ReplyParser::push`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply<'a> {
    /// The code of the last line, 200..=599.
    pub code: u16,
    /// The enhanced code of the first line, if its class agrees with the code (RFC 2034 §4).
    pub enhanced: Option<Enhanced>,
    /// The text without codes, cleaned; the lines are separated by `\n`.
    pub text: &'a [u8],
}

impl<'a> Reply<'a> {
    /// First digit of the code.
    #[must_use]
    pub fn class(&self) -> u16 {
        self.code / 100
    }

    /// The lines of the text.
    pub fn lines(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.text.split(|&b| b == b'\n')
    }
}

/// Reads one reply after the other. Its buffers are reused.
#[derive(Debug)]
pub struct ReplyParser {
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    text: Vec<u8>,
    keep: usize,
    lines: u32,
    bytes: usize,
    code: u16,
    enhanced: Option<Enhanced>,
    complete: bool,
}

impl ReplyParser {
    /// A parser that keeps at most `keep` bytes of text of each reply.
    #[must_use]
    pub fn new(keep: usize) -> Self {
        ReplyParser {
            line: Vec::new(),
            text: Vec::new(),
            keep,
            lines: 0,
            bytes: 0,
            code: 0,
            enhanced: None,
            complete: false,
        }
    }

    /// Changes how much text is kept, from the next reply on.
    pub fn set_keep(&mut self, keep: usize) {
        self.keep = keep;
    }

    /// Takes bytes up to the end of one reply: how many it took, and `Some` when a reply is
    /// complete ([`Self::reply`]) or wrong. After an error the parser is of no more use.
    pub fn push(&mut self, input: &[u8]) -> (usize, Option<Result<(), ReplyError>>) {
        if self.complete {
            self.restart();
        }
        let mut used = 0;
        while let Some(end) = memchr::memchr(b'\n', &input[used..]) {
            let piece = &input[used..used + end];
            used += end + 1;
            match self.end_line(piece) {
                Ok(false) => {}
                Ok(true) => return (used, Some(Ok(()))),
                Err(e) => return (used, Some(Err(e))),
            }
        }
        let piece = &input[used..];
        // One more than the limit: the last byte may be the CR of the line's end.
        if self.line.len() + piece.len() > LINE_MAX + 1 {
            return (input.len(), Some(Err(ReplyError::LineTooLong)));
        }
        self.line.extend_from_slice(piece);
        (input.len(), None)
    }

    /// The reply that [`Self::push`] has just completed. Panics if it has not.
    #[must_use]
    pub fn reply(&self) -> Reply<'_> {
        assert!(self.complete, "no complete reply");
        Reply { code: self.code, enhanced: self.enhanced, text: &self.text }
    }

    /// True if the beginning of a reply has arrived, but not its end.
    #[must_use]
    pub fn is_midway(&self) -> bool {
        !self.complete && (self.lines > 0 || !self.line.is_empty())
    }

    fn restart(&mut self) {
        self.text.clear();
        self.lines = 0;
        self.bytes = 0;
        self.enhanced = None;
        self.complete = false;
    }

    /// `piece` ends a line; true if that line ends the reply.
    fn end_line(&mut self, piece: &[u8]) -> Result<bool, ReplyError> {
        if self.line.is_empty() {
            return self.take_line(piece);
        }
        if self.line.len() + piece.len() > LINE_MAX + 1 {
            return Err(ReplyError::LineTooLong);
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(piece);
        let result = self.take_line(&line);
        line.clear();
        self.line = line;
        result
    }

    fn take_line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        // A bare LF ends a line too: refusing it would only delay mail.
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > LINE_MAX {
            return Err(ReplyError::LineTooLong);
        }
        self.lines += 1;
        self.bytes += line.len() + 2;
        if self.lines > LINES_MAX || self.bytes > REPLY_MAX {
            return Err(ReplyError::TooLong);
        }
        let code = code(line).ok_or(ReplyError::Malformed)?;
        let (more, text) = match line.get(3) {
            None => (false, &line[3..]), // RFC 5321 §4.2: a code alone is a reply
            Some(b' ') => (false, &line[4..]),
            Some(b'-') => (true, &line[4..]),
            Some(_) => return Err(ReplyError::Malformed),
        };
        // RFC 5321 §4.2.1 demands equal codes; within one class the last one is taken.
        if self.lines > 1 && code / 100 != self.code / 100 {
            return Err(ReplyError::MixedCodes);
        }
        self.code = code;
        let (enhanced, text) = split_enhanced(code, text);
        if self.lines == 1 {
            self.enhanced = enhanced;
        }
        self.keep_text(text);
        self.complete = !more;
        Ok(self.complete)
    }

    fn keep_text(&mut self, text: &[u8]) {
        if self.lines > 1 && self.text.len() < self.keep {
            self.text.push(b'\n');
        }
        let room = self.keep.saturating_sub(self.text.len());
        let text = &text[..text.len().min(room)];
        let odd = |b: u8| b < b' ' || b == 0x7f;
        if text.iter().fold(false, |any, b| any | odd(*b)) {
            self.text.extend(text.iter().map(|&b| if odd(b) { b'?' } else { b }));
        } else {
            self.text.extend_from_slice(text);
        }
    }
}

fn code(line: &[u8]) -> Option<u16> {
    let digits = line.get(..3)?;
    if !digits.iter().all(u8::is_ascii_digit) || !(b'2'..=b'5').contains(&digits[0]) {
        return None;
    }
    Some(digits.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0')))
}

/// Takes an enhanced code that agrees with `code` off the front of `text` (RFC 2034 §4).
fn split_enhanced(code: u16, text: &[u8]) -> (Option<Enhanced>, &[u8]) {
    let digit = |b: u8| u16::from(b.wrapping_sub(b'0'));
    // As most replies have it.
    if let [a, b'.', b, b'.', c, b' ', rest @ ..] = text {
        let all = [digit(*a), digit(*b), digit(*c)];
        if all.iter().all(|d| *d < 10) && all[0] == code / 100 && matches!(all[0], 2 | 4 | 5) {
            return (Some(all), rest);
        }
    }
    let end = text.iter().position(|&b| b == b' ').unwrap_or(text.len());
    let mut parts = text[..end].split(|&b| b == b'.').map(|digits| {
        let good = (1..=3).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
        good.then(|| digits.iter().fold(0u16, |n, d| n * 10 + u16::from(d - b'0')))
    });
    let (Some(Some(class)), Some(Some(subject)), Some(Some(detail)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return (None, text);
    };
    if class != code / 100 || !matches!(class, 2 | 4 | 5) {
        return (None, text);
    }
    let rest = &text[end..];
    (Some([class, subject, detail]), rest.strip_prefix(b" ").unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Seen = Result<(u16, Option<Enhanced>, Vec<u8>), ReplyError>;

    fn read(pieces: &[&[u8]]) -> Vec<Seen> {
        let mut p = ReplyParser::new(TEXT_MAX);
        let mut seen = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let (n, done) = p.push(rest);
                assert!(n > 0);
                rest = &rest[n..];
                match done {
                    Some(Ok(())) => {
                        let r = p.reply();
                        seen.push(Ok((r.code, r.enhanced, r.text.to_vec())));
                    }
                    Some(Err(e)) => {
                        seen.push(Err(e));
                        return seen;
                    }
                    None => {}
                }
            }
        }
        seen
    }

    #[test]
    fn reads_single_and_multi_line() {
        let seen = read(&[b"220 mx ready\r\n250-mx\r\n250-SIZE 100\r\n250 PIPELINING\r\n354\r\n"]);
        assert_eq!(
            seen,
            [
                Ok((220, None, b"mx ready".to_vec())),
                Ok((250, None, b"mx\nSIZE 100\nPIPELINING".to_vec())),
                Ok((354, None, b"".to_vec())),
            ]
        );
    }

    #[test]
    fn enhanced_codes() {
        let one = |s: &[u8]| read(&[s]).remove(0).unwrap();
        assert_eq!(one(b"550-5.1.1 no\n550 5.1.1 such\n"), (550, Some([5, 1, 1]), b"no\nsuch".to_vec()));
        assert_eq!(one(b"250 2.0.0\r\n"), (250, Some([2, 0, 0]), b"".to_vec()));
        assert_eq!(one(b"550 4.1.1 liar\r\n"), (550, None, b"4.1.1 liar".to_vec()));
        assert_eq!(one(b"250 2.0.0.1 ip\r\n").1, None);
        assert_eq!(one(b"250 2.1234.1 x\r\n").1, None);
        assert_eq!(one(b"354 3.0.0 x\r\n").1, None);
    }

    #[test]
    fn every_split_gives_the_same() {
        let text: &[u8] = b"220-a\r\n220 b\r\n250 2.1.0 ok\n452-4.5.3 x\x00\x1b\r\r\n450 4.5.3 y\r\n5\r\n";
        let whole = read(&[text]);
        assert_eq!(whole.len(), 4);
        assert_eq!(whole[2], Ok((450, Some([4, 5, 3]), b"x???\ny".to_vec())));
        assert_eq!(whole[3], Err(ReplyError::Malformed));
        for a in 0..=text.len() {
            for b in a..=text.len() {
                assert_eq!(read(&[&text[..a], &text[a..b], &text[b..]]), whole, "split at {a}, {b}");
            }
        }
    }

    #[test]
    fn hostile_replies_are_bounded() {
        for bad in
            ["5\r\n", "\r\n", "25\r\n", "999 x\r\n", "150 x\r\n", "250x\r\n", "GET / HTTP\r\n", "-50 x\r\n"]
        {
            assert_eq!(read(&[bad.as_bytes()]), [Err(ReplyError::Malformed)], "{bad:?}");
        }
        assert_eq!(read(&[b"250-a\r\n550 b\r\n"]), [Err(ReplyError::MixedCodes)]);
        let long = [b"250 ".as_slice(), &[b'a'; 100_000], b"\r\n"].concat();
        assert_eq!(read(&[&long]), [Err(ReplyError::LineTooLong)]);
        assert_eq!(read(&[&long[..50_000]]), [Err(ReplyError::LineTooLong)]);
        let fits = [b"250 ".as_slice(), &[b'a'; LINE_MAX - 4], b"\r\n"].concat();
        let seen = read(&[&fits]).remove(0).unwrap();
        assert_eq!(seen.2.len(), TEXT_MAX);
        let bytes: Vec<&[u8]> = fits.chunks(1).collect();
        assert_eq!(read(&bytes), read(&[&fits]));
        assert_eq!(read(&[&b"250-x\r\n".repeat(1_000_000)]), [Err(ReplyError::TooLong)]);
        let wide = [b"250-".as_slice(), &[b'a'; 4000], b"\r\n"].concat();
        assert_eq!(read(&[&wide.repeat(20)]), [Err(ReplyError::TooLong)]);
    }

    #[test]
    fn memory_stays_bounded_without_line_ends() {
        let mut p = ReplyParser::new(TEXT_MAX);
        let mut failed = false;
        for _ in 0..100 {
            failed |= p.push(&[0; 1000]).1 == Some(Err(ReplyError::LineTooLong));
            assert!(p.line.len() <= LINE_MAX + 1 && p.is_midway());
        }
        assert!(failed);
    }
}

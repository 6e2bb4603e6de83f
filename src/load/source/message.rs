//! The bytes of load messages: a head that carries the id, and a filler that all share.
//!
//! Owns size and shape. A message is head + filler, CRLF line ends, ending in CRLF, dots not yet
//! stuffed; the wire form of the filler has them stuffed. No IO, no clock. Cannot fail: a size
//! below the head's is raised to it.

use crate::load::ID_HEADER;
use crate::load::digest::Digest;

/// Digits of a message number.
const DIGITS: usize = 10;

/// Content bytes of one filler line, without CRLF.
const LINE: usize = 76;

/// The shape of all messages of one run.
pub struct Template {
    head: Vec<u8>,
    /// Where the number stands in the head.
    at: Vec<usize>,
    filler: Vec<u8>,
    stuffed: Option<Vec<u8>>,
}

impl Template {
    /// Messages of `size` bytes (at least the head's 250 to 300) of run `run`, from `from`. With
    /// `dot_lines` every eighth line of the filler begins with a dot.
    #[must_use]
    pub fn new(run: &str, from: &str, date: &str, size: u64, dot_lines: bool) -> Self {
        let n = "0".repeat(DIGITS);
        // Date, From and Message-ID are there so that relays that complete headers add nothing.
        let head = format!(
            "{ID_HEADER}: {run}-{n}\r\nDate: {date}\r\nFrom: <{from}>\r\nTo: undisclosed-recipients:;\r\n\
             Subject: load message\r\nMessage-ID: <{run}-{n}@load.invalid>\r\n\r\nThis is {run}-{n}.\r\n"
        );
        let mark = format!("{run}-{n}");
        let at = head.match_indices(&mark).map(|(i, _)| i + run.len() + 1).collect();
        let room = usize::try_from(size).unwrap_or(usize::MAX).saturating_sub(head.len());
        let filler = filler(room, dot_lines);
        let stuffed = dot_lines.then(|| stuff(&filler));
        Template { head: head.into_bytes(), at, filler, stuffed }
    }

    /// A head of one's own to number.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        self.head.clone()
    }

    /// Writes `number` (its last ten digits) into a head.
    pub fn number(&self, head: &mut [u8], number: u64) {
        let digits = digits(number);
        for &at in &self.at {
            head[at..at + DIGITS].copy_from_slice(&digits);
        }
    }

    /// The filler as it goes over the wire.
    #[must_use]
    pub fn wire_filler(&self) -> &[u8] {
        self.stuffed.as_deref().unwrap_or(&self.filler)
    }

    /// Digest of the whole message that begins with `head`.
    #[must_use]
    pub fn digest(&self, head: &[u8]) -> u64 {
        let mut d = Digest::new();
        d.update(head);
        d.update(&self.filler);
        d.value()
    }

    /// Bytes of a message.
    #[must_use]
    pub fn size(&self) -> u64 {
        (self.head.len() + self.filler.len()) as u64
    }
}

/// The decimal digits of `number`.
#[must_use]
pub fn digits(mut number: u64) -> [u8; DIGITS] {
    let mut out = [b'0'; DIGITS];
    for d in out.iter_mut().rev() {
        *d = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out
}

/// `room` bytes of lines; none if there is no room for a line end.
fn filler(room: usize, dot_lines: bool) -> Vec<u8> {
    if room < 2 {
        return Vec::new();
    }
    let mut out: Vec<u8> = (0..room).map(|i| b'a' + (i % 23) as u8).collect();
    let mut start = 0;
    for line in 0.. {
        if dot_lines && line % 8 == 0 && start < room - 2 {
            out[start] = b'.';
        }
        // The last line takes what is left, so that the size is exact.
        let end = if start + LINE + 4 <= room { start + LINE + 2 } else { room };
        out[end - 2..end].copy_from_slice(b"\r\n");
        if end == room {
            break;
        }
        start = end;
    }
    out
}

/// RFC 5321 §4.5.2: a line that begins with a dot gets another.
fn stuff(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + content.len() / 64);
    for line in content.split_inclusive(|&b| b == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_and_lines_whole() {
        for size in (300..700).chain([1024, 10_240, 102_400]) {
            let t = Template::new("0a1b2c3d", "a@load.test", "Mon, 23 Nov 2026 07:00:00 +0000", size, false);
            let base = t.head().len() as u64;
            assert!(base < 300, "{base}");
            if size == base + 1 {
                continue; // one byte is no line
            }
            assert_eq!(t.size(), size.max(base));
            let whole = [t.head(), t.wire_filler().to_vec()].concat();
            assert!(whole.ends_with(b"\r\n"));
            assert!(whole.split(|&b| b == b'\n').rev().skip(1).all(|l| l.ends_with(b"\r") && l.len() <= 80));
            assert_eq!(
                whole.iter().filter(|&&b| b == b'\r').count(),
                whole.iter().filter(|&&b| b == b'\n').count()
            );
        }
    }

    #[test]
    fn numbers_are_written_everywhere() {
        let t = Template::new("run", "a@load.test", "x", 0, false);
        let mut head = t.head();
        let before = t.digest(&head);
        t.number(&mut head, 12_345);
        let text = String::from_utf8(head.clone()).expect("ASCII");
        assert_eq!(text.matches("run-0000012345").count(), 3);
        assert_ne!(t.digest(&head), before);
    }

    #[test]
    fn dots_are_stuffed_on_the_wire_only() {
        let t = Template::new("run", "a@load.test", "x", 2000, true);
        assert_eq!(t.size(), 2000);
        let wire = String::from_utf8(t.wire_filler().to_vec()).expect("ASCII");
        assert!(wire.lines().any(|l| l.starts_with("..")));
        assert!(!wire.lines().any(|l| l.starts_with('.') && !l.starts_with("..")));
    }
}

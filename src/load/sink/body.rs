//! One message body on the wire: where it ends, what it holds, its digest.
//!
//! Owns the scanner from DATA's `354` to the final dot: end of data is CRLF.CRLF alone
//! (RFC 5321 §4.1.1.4), a dot before a line is taken off (§4.5.2), a bare CR or LF (§2.3.8) is noted.
//! What came in chunks is taken as it is.
//! The digest begins with the id header, so trace headers before it do not count. Works on pieces
//! of any size; holds one header line at most. No IO; cannot fail.

use crate::load::ID_HEADER;
use crate::load::digest::Digest;
use crate::load::ledger::push_recipient;

/// Longest line that is looked into for the id; longer ones are scanned all the same.
const MAX_LINE: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Start,
    Dot,
    DotCr,
    Middle,
    /// In a line whose last byte so far is CR.
    MiddleCr,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// At header lines, for the id.
    Header,
    /// At all lines: a notification names ids and recipients in its body.
    Everything,
    /// At nothing: digest only.
    Nothing,
}

/// What a body holds.
pub struct Body {
    at: At,
    /// By DATA: dots are doubled, and one ends it.
    dotted: bool,
    look: Look,
    line: Vec<u8>,
    digest: Option<Digest>,
    keep: Option<Vec<u8>>,
    keep_max: usize,
    /// CRs so far, and how many of them an LF followed: counting both is cheaper than looking at
    /// every CR, and they differ exactly if one is bare.
    returns: u64,
    pairs: u64,
    /// Still in the header section.
    header: bool,
    facts: Facts,
    report: Report,
}

/// What is known of a body at its end.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Id of the load message; empty if it has none.
    pub id: String,
    /// Digest from the id header on; 0 if there is no id.
    pub digest: u64,
    /// Content bytes, dots unstuffed.
    pub size: u64,
    /// Whether a bare CR or LF came.
    pub bare_newline: bool,
    /// Whether a byte above 127 came.
    pub eight_bit: bool,
    /// A notification: id of the load message it is about.
    pub about: String,
    /// A notification: recipients it reports as failed, in ledger form.
    pub failed: String,
}

/// The delivery status block being read (RFC 3464 §2.3).
#[derive(Default)]
struct Report {
    recipient: Vec<u8>,
    failed: bool,
}

impl Body {
    /// Right after `354`. A message from the null sender is read as a notification. With `keep`
    /// the content is kept up to that many bytes.
    #[must_use]
    pub fn new(notification: bool, keep: Option<usize>) -> Self {
        Body {
            at: At::Start,
            dotted: true,
            look: if notification { Look::Everything } else { Look::Header },
            line: Vec::new(),
            digest: None,
            keep: keep.map(|_| Vec::new()),
            keep_max: keep.unwrap_or(0),
            header: true,
            returns: 0,
            pairs: 0,
            facts: Facts::default(),
            report: Report::default(),
        }
    }

    /// The same for a message in chunks: it never ends by itself.
    #[must_use]
    pub fn chunks(notification: bool, keep: Option<usize>) -> Self {
        Body { dotted: false, ..Body::new(notification, keep) }
    }

    /// Content bytes so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.facts.size
    }

    /// Takes a piece: how many bytes belong to the body, and whether it ends there.
    pub fn feed(&mut self, input: &[u8]) -> (usize, bool) {
        let (used, ended) = self.scan(input);
        self.returns += memchr::memchr_iter(b'\r', &input[..used]).count() as u64;
        (used, ended)
    }

    fn scan(&mut self, input: &[u8]) -> (usize, bool) {
        let mut run = 0;
        let mut i = 0;
        while i < input.len() {
            match self.at {
                At::Start if self.dotted && input[i] == b'.' => {
                    self.content(&input[run..i]);
                    run = i + 1;
                    i += 1;
                    self.at = At::Dot;
                }
                At::Start => self.at = At::Middle,
                At::Dot if input[i] == b'\r' => {
                    i += 1;
                    run = i;
                    self.at = At::DotCr;
                }
                At::Dot => self.at = At::Middle,
                At::DotCr if input[i] == b'\n' => {
                    self.pairs += 1;
                    return (i + 1, true);
                }
                At::DotCr => {
                    self.content(b"\r");
                    self.at = At::Middle;
                }
                At::Middle | At::MiddleCr => {
                    let after_cr = self.at == At::MiddleCr;
                    i = self.rest_of_line(input, i, after_cr);
                    if self.at == At::Start && self.look != Look::Nothing {
                        self.content(&input[run..i]);
                        run = i;
                        self.line_end();
                    }
                }
            }
        }
        self.content(&input[run..]);
        (input.len(), false)
    }

    /// From `from` (within a line) to the end of the line or of the piece.
    fn rest_of_line(&mut self, input: &[u8], from: usize, after_cr: bool) -> usize {
        let Some(n) = memchr::memchr(b'\n', &input[from..]) else {
            self.at = if input.ends_with(b"\r") { At::MiddleCr } else { At::Middle };
            return input.len();
        };
        let line = &input[from..from + n];
        let paired = if n == 0 { after_cr } else { line.ends_with(b"\r") };
        if paired {
            self.pairs += 1;
            self.at = At::Start;
        } else {
            self.facts.bare_newline = true;
            self.at = At::Middle;
        }
        from + n + 1
    }

    fn content(&mut self, bytes: &[u8]) {
        self.facts.size += bytes.len() as u64;
        self.facts.eight_bit |= !bytes.is_ascii();
        if let Some(keep) = &mut self.keep {
            let room = self.keep_max.saturating_sub(keep.len());
            keep.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
        if self.look != Look::Nothing {
            let room = MAX_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// A whole line lies in `self.line`.
    fn line_end(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = line.strip_suffix(b"\r\n").unwrap_or(&line);
        if self.header && text.is_empty() {
            self.header = false;
            if self.look == Look::Header {
                self.look = Look::Nothing;
            }
        } else if let Some(value) = field(text, ID_HEADER).filter(|_| self.header) {
            self.facts.id = id_text(value);
            let mut digest = Digest::new();
            digest.update(&line);
            self.digest = Some(digest);
            self.look = Look::Nothing;
        } else if self.look == Look::Everything {
            self.notification_line(text);
        }
        self.line = line;
        self.line.clear();
    }

    fn notification_line(&mut self, text: &[u8]) {
        if let Some(value) = field(text, ID_HEADER) {
            if self.facts.about.is_empty() {
                self.facts.about = id_text(value);
            }
        } else if let Some(value) = field(text, "Final-Recipient") {
            let address = value.splitn(2, |&b| b == b';').nth(1).unwrap_or(value);
            self.report.recipient = address.trim_ascii().to_vec();
        } else if let Some(value) = field(text, "Action") {
            self.report.failed = value.eq_ignore_ascii_case(b"failed");
        } else if text.is_empty() {
            let report = std::mem::take(&mut self.report);
            if report.failed && !report.recipient.is_empty() && self.facts.failed.len() < 1 << 16 {
                push_recipient(&mut self.facts.failed, &report.recipient);
            }
        }
    }

    /// The facts, after `feed` said that the body has ended, and the content if it was kept.
    #[must_use]
    pub fn finish(mut self) -> (Facts, Option<Vec<u8>>) {
        self.notification_line(b"");
        self.facts.bare_newline |= self.returns != self.pairs;
        self.facts.digest = self.digest.map_or(0, |d| d.value());
        (self.facts, self.keep)
    }
}

/// The value of header field `name`, if `line` is one.
fn field<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (head, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":")?;
    head.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
}

/// An id as text without spaces; empty if it is not one.
fn id_text(value: &[u8]) -> String {
    let good = value.len() <= 64 && !value.is_empty() && value.iter().all(u8::is_ascii_graphic);
    if good { value.iter().copied().map(char::from).collect() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(pieces: &[&[u8]], notification: bool) -> (usize, bool, Facts, Vec<u8>) {
        let mut body = Body::new(notification, Some(1 << 20));
        let (mut used, mut ended) = (0, false);
        for piece in pieces {
            assert!(!ended, "bytes after the end");
            let (n, end) = body.feed(piece);
            used += n;
            ended = end;
            if end {
                break;
            }
        }
        let (facts, content) = body.finish();
        (used, ended, facts, content.unwrap_or_default())
    }

    const WIRE: &[u8] =
        b"Received: by x\r\n\tid 7\r\nx-ringpost-load-id: run-1\r\nA: b\r\n\r\n..dot\r\n.\r\n";

    #[test]
    fn split_at_every_byte() {
        let content = b"Received: by x\r\n\tid 7\r\nx-ringpost-load-id: run-1\r\nA: b\r\n\r\n.dot\r\n";
        let from_id = &content[23..];
        for a in 0..WIRE.len() {
            for b in a..WIRE.len() {
                let (used, ended, facts, got) = scan(&[&WIRE[..a], &WIRE[a..b], &WIRE[b..]], false);
                assert!(ended && used == WIRE.len());
                assert_eq!(got, content);
                assert_eq!((facts.id.as_str(), facts.size), ("run-1", content.len() as u64));
                assert_eq!(facts.digest, Digest::of(from_id), "cuts at {a} and {b}");
                assert!(!facts.bare_newline);
            }
        }
    }

    #[test]
    fn only_crlf_dot_crlf_ends() {
        for open in
            [&b"a\n.\r\n"[..], b"a\r\n.\n", b"a\r\n.\r", b"a\r\n.\r\r\n", b"a\r.\r\n", b"a\n.\n", b"\n.\r\n"]
        {
            for cut in 0..open.len() {
                let (_, ended, ..) = scan(&[&open[..cut], &open[cut..]], false);
                assert!(!ended, "{open:?}");
            }
        }
        assert!(scan(&[b".\r\n"], false).1, "the empty message");
        let (used, ended, ..) = scan(&[b"a\r\n.\r\nQUIT\r\n"], false);
        assert!(ended && used == 6);
    }

    #[test]
    fn bare_newlines_are_noted_at_any_split() {
        for (wire, bare) in [
            (&b"ab\r\ncd\r\n.\r\n"[..], false),
            (b"a\nb\r\n.\r\n", true),
            (b"a\rb\r\n.\r\n", true),
            (b"a\r\r\nb\r\n.\r\n", true),
            (b"\r\n\r\n.\r\n", false),
            (b"\rb\r\n.\r\n", true),
            (b".\rb\r\n.\r\n", true),
            (b"a\r\n..\r\n.\r\n", false),
        ] {
            for cut in 0..wire.len() {
                let (_, ended, facts, _) = scan(&[&wire[..cut], &wire[cut..]], false);
                assert!(ended, "{wire:?}");
                assert_eq!(facts.bare_newline, bare, "{wire:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn the_id_counts_in_the_header_only() {
        let (.., facts, _) = scan(&[b"A: b\r\n\r\nX-Ringpost-Load-Id: run-1\r\n.\r\n"], false);
        assert_eq!(facts.id, "");
        let long =
            [b"A: ".as_slice(), &[b'x'; 10_000], b"\r\nX-Ringpost-Load-Id: run-1\r\n\r\n.\r\n"].concat();
        assert_eq!(scan(&[&long], false).2.id, "run-1");
    }

    #[test]
    fn notifications_name_what_failed() {
        let wire = b"Subject: undelivered\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n\
            Reporting-MTA: dns; mx\r\n\r\nFinal-Recipient: rfc822; a@x\r\nAction: failed\r\n\r\n\
            Action: delayed\r\nFinal-Recipient: rfc822;b@x\r\n\r\n\
            Final-Recipient: rfc822;c@x\r\nAction: Failed\r\n--b\r\nContent-Type: text/rfc822-headers\r\n\r\n\
            X-Ringpost-Load-Id: run-7\r\n--b--\r\n.\r\n";
        let (_, ended, facts, _) = scan(&[wire], true);
        assert!(ended);
        assert_eq!((facts.about.as_str(), facts.failed.as_str()), ("run-7", "a@x,c@x"));
    }
}

//! An mbox as a row of messages, read once from front to back.
//!
//! A message begins with a line `From ` that ends in a date and stands at the start or after an empty line
//! (RFC 4155). What mail programs keep in its header for themselves (`Status`, `X-Status`, `X-Keywords`,
//! `X-UID`, `X-IMAP`, `X-IMAPbase`, `Content-Length`) is understood and left out, as Dovecot does.

use super::lists::UID_MAX;
use super::source::{About, keyword};
use crate::base::time::Wall;
use crate::mailbox::types::Flags;
use std::io::{self, BufRead, Read};

/// Longest header that is looked at; the rest of a longer one is content.
const HEADER_MAX: usize = 1 << 20;
/// Bytes of a line that are looked at.
const LINE_MAX: u64 = 64 << 10;

/// See the module.
pub struct Mbox<R: BufRead> {
    from: R,
    /// A line, or a part of a long one, that has been read.
    line: Vec<u8>,
    /// The next byte read begins a line.
    at_start: bool,
    /// What is to be given before anything else.
    before: Vec<u8>,
    given: usize,
    /// An empty line that counts only if another line of the message follows.
    blank: Vec<u8>,
    /// The header has just ended: what follows its empty line may begin the next message.
    fresh: bool,
    /// Since when the message is; of the line that began it.
    date: Option<Wall>,
    ended: bool,
    /// `>From ` loses its `>`.
    unquote: bool,
    /// UIDVALIDITY and the last UID, of the first message.
    pub base: Option<(u32, u32)>,
}

impl<R: BufRead> Mbox<R> {
    /// Reads up to the first message. `None`: this is no mbox. An empty file is one.
    pub fn begin(from: R, unquote: bool) -> io::Result<Option<Self>> {
        let mut mbox = Mbox {
            from,
            line: Vec::new(),
            at_start: true,
            before: Vec::new(),
            given: 0,
            blank: Vec::new(),
            fresh: false,
            date: None,
            ended: false,
            unquote,
            base: None,
        };
        while mbox.next_line()? {
            if !is_empty(&mbox.line) {
                mbox.date = from_line(&mbox.line);
                return Ok(mbox.date.map(|_| mbox));
            }
        }
        Ok(Some(mbox))
    }

    /// The next line, or a part of it. `false`: there is none.
    fn next_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        self.from.by_ref().take(LINE_MAX).read_until(b'\n', &mut self.line)?;
        Ok(!self.line.is_empty())
    }

    /// The next message; its content is what is read from this until its end.
    pub fn next_message(&mut self) -> io::Result<Option<About>> {
        // What nobody has read of the one before.
        io::copy(self, &mut io::sink())?;
        let Some(date) = self.date.take() else { return Ok(None) };
        (self.ended, self.at_start) = (false, true);
        self.before.clear();
        self.given = 0;
        let mut about = About { internal: date, ..About::default() };
        let mut header = Vec::new();
        let mut open = false;
        // A field goes on in lines that begin with a space.
        let mut hidden = false;
        while header.len() < HEADER_MAX {
            if !self.next_line()? {
                self.ended = true;
                break;
            }
            open = !self.line.ends_with(b"\n");
            if is_empty(&self.line) {
                self.blank.clone_from(&self.line);
                break;
            }
            if !self.line.starts_with(b" ") && !self.line.starts_with(b"\t") {
                hidden = self.understand(&mut about);
            }
            if !hidden {
                header.extend_from_slice(&self.line);
            }
        }
        self.at_start = !open;
        // The empty line after the header belongs to the message in any case.
        header.append(&mut self.blank);
        self.before = header;
        self.fresh = true;
        Ok(Some(about))
    }

    /// Understands a field that is not part of the message. `true`: it was one.
    fn understand(&mut self, about: &mut About) -> bool {
        let line = String::from_utf8_lossy(&self.line);
        let Some((name, value)) = line.split_once(':') else { return false };
        let value = value.trim();
        let flags = |pairs: &[(char, Flags)]| {
            let set = pairs.iter().filter(|(c, _)| value.contains(*c));
            set.fold(Flags::default(), |all, (_, f)| all.with(*f))
        };
        match name.to_ascii_lowercase().as_str() {
            "status" => about.flags = about.flags.with(flags(&[('R', Flags::SEEN)])),
            "x-status" => {
                let known = [
                    ('A', Flags::ANSWERED),
                    ('F', Flags::FLAGGED),
                    ('T', Flags::DRAFT),
                    ('D', Flags::DELETED),
                ];
                about.flags = about.flags.with(flags(&known));
            }
            "x-keywords" => about.keywords.extend(value.split_whitespace().filter_map(keyword)),
            "x-uid" => about.uid = value.parse().ok().filter(|uid| *uid <= UID_MAX).unwrap_or(0),
            "x-imap" | "x-imapbase" => {
                let mut numbers = value.split_whitespace().map(|n| n.parse().unwrap_or(0));
                let pair = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0).min(UID_MAX));
                self.base.get_or_insert(pair);
            }
            "content-length" => {}
            _ => return false,
        }
        true
    }
}

impl<R: BufRead> Read for Mbox<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.given < self.before.len() {
                let n = out.len().min(self.before.len() - self.given);
                out[..n].copy_from_slice(&self.before[self.given..self.given + n]);
                self.given += n;
                return Ok(n);
            }
            if self.ended || self.date.is_some() {
                return Ok(0);
            }
            (self.before, self.given) = (std::mem::take(&mut self.before), 0);
            self.before.clear();
            if !self.next_line()? {
                // The empty line at the end belongs to the mbox.
                self.blank.clear();
                self.ended = true;
                return Ok(0);
            }
            let begins = std::mem::replace(&mut self.at_start, self.line.ends_with(b"\n"));
            let after_blank = std::mem::take(&mut self.fresh) || !self.blank.is_empty();
            if begins && after_blank && self.line.starts_with(b"From ") {
                self.date = from_line(&self.line);
                if self.date.is_some() {
                    self.blank.clear();
                    return Ok(0);
                }
            }
            self.before.append(&mut self.blank);
            if begins && is_empty(&self.line) {
                self.blank.clone_from(&self.line);
                continue;
            }
            let quoted = begins && self.unquote && is_quoted(&self.line);
            self.before.extend_from_slice(&self.line[usize::from(quoted)..]);
        }
    }
}

fn is_empty(line: &[u8]) -> bool {
    line == b"\n" || line == b"\r\n"
}

fn is_quoted(line: &[u8]) -> bool {
    let rest = line.trim_ascii_start();
    let quotes = rest.iter().take_while(|b| **b == b'>').count();
    quotes > 0 && line.starts_with(b">") && rest[quotes..].starts_with(b"From ")
}

/// When the message is from, if the line begins one: `From address Thu Nov 24 18:22:48 1994`, perhaps with
/// a zone before or after the year, or without seconds.
fn from_line(line: &[u8]) -> Option<Wall> {
    let text = std::str::from_utf8(line.strip_prefix(b"From ")?).ok()?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    let at = words.iter().rposition(|w| days.contains(&w.trim_end_matches(',')))?;
    let rest = &words[at + 1..];
    let month = months.iter().position(|m| rest.first() == Some(m))? as u64 + 1;
    let day: u64 = rest.get(1)?.parse().ok().filter(|d| (1..=31).contains(d))?;
    let mut clock = rest.get(2)?.split(':').map(|n| n.parse::<u64>().ok());
    let (hour, minute) = (clock.next()??, clock.next()??);
    let second = clock.next().unwrap_or(Some(0))?;
    let year: u64 = rest[3..].iter().find_map(|w| w.parse().ok().filter(|y| (1970..10_000).contains(y)))?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let zone = rest[3..].iter().find_map(|w| zone(w)).unwrap_or(0);
    let seconds = days_to(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(Wall(seconds.saturating_add_signed(-zone * 60) * 1000))
}

/// Minutes east of Greenwich.
fn zone(word: &str) -> Option<i64> {
    let (sign, digits) = match word.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let n: i64 = digits.parse().ok().filter(|_| digits.len() == 4)?;
    Some(sign * (n / 100 * 60 + n % 100))
}

/// Days from 1970 to a date.
fn days_to(year: u64, month: u64, day: u64) -> u64 {
    // Years begin in March, so that the leap day is their last.
    let y = year - u64::from(month <= 2);
    let m = (month + 9) % 12;
    y * 365 + y / 4 - y / 100 + y / 400 + (m * 306 + 5) / 10 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str, unquote: bool) -> Vec<(About, String)> {
        let mut mbox = Mbox::begin(text.as_bytes(), unquote).expect("read").expect("an mbox");
        let mut out = Vec::new();
        while let Some(about) = mbox.next_message().expect("read") {
            let mut content = String::new();
            mbox.read_to_string(&mut content).expect("read");
            out.push((about, content));
        }
        out
    }

    #[test]
    fn messages_are_told_apart() {
        let text = "\nFrom a@b Thu Nov 24 18:22:48 1994\nA: 1\n\nFrom here on\n\n\nFrom nowhere\n>From x\n\n\
            From c Thu Jan  1 00:00:10 1970\nB: 2\n\nlast\n\nFrom d Fri Jan  2 00:00 1970 +0100\n\n";
        let found = all(text, true);
        let contents: Vec<&str> = found.iter().map(|f| f.1.as_str()).collect();
        assert_eq!(contents, ["A: 1\n\nFrom here on\n\n\nFrom nowhere\nFrom x\n", "B: 2\n\nlast\n", "\n"]);
        let dates: Vec<u64> = found.iter().map(|f| f.0.internal.0 / 1000).collect();
        assert_eq!(dates, [785_701_368, 10, 86_400 - 3600]);
        assert!(all(text, false)[0].1.contains("\n>From x\n"));
    }

    #[test]
    fn what_programs_keep_in_the_header_is_understood_and_left_out() {
        let text = "From a Thu Nov 24 18:22:48 1994\nX-IMAPbase: 77 00012 work\nStatus: RO\nX-Status: AF\n\
            X-Keywords: work $Junk\n more\nX-UID: 9\nContent-Length: 3\nSubject: x\n y\n\nb\n";
        let mut mbox = Mbox::begin(text.as_bytes(), false).expect("read").expect("an mbox");
        let about = mbox.next_message().expect("read").expect("one");
        let mut content = String::new();
        mbox.read_to_string(&mut content).expect("read");
        assert_eq!((content.as_str(), mbox.base), ("Subject: x\n y\n\nb\n", Some((77, 12))));
        assert_eq!((about.uid, about.keywords.len()), (9, 2));
        assert_eq!(about.flags, Flags::SEEN.with(Flags::ANSWERED).with(Flags::FLAGGED));
        assert!(mbox.next_message().expect("read").is_none());
    }

    #[test]
    fn what_is_no_mbox() {
        assert!(Mbox::begin(&b"Subject: x\n\nb\n"[..], false).expect("read").is_none());
        assert!(Mbox::begin(&b"From me to you\n"[..], false).expect("read").is_none());
        assert!(all("", false).is_empty());
        let long = format!("From a Thu Nov 24 18:22:48 1994\n\n{}\nFrom b\n", "x".repeat(200_000));
        assert_eq!(all(&long, false)[0].1.len(), 200_009);
        for (y, m, d, days) in [(1970, 1, 1, 0), (2000, 2, 29, 11_016), (2024, 3, 1, 19_783)] {
            assert_eq!(days_to(y, m, d), days);
        }
    }
}

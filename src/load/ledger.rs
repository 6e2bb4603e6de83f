//! Ledgers: one line per message that was acknowledged (source) or taken (sink).
//!
//! Owns the text format and buffered writing. A line is
//!
//! ```text
//! <id> <status> <unix nanoseconds> <digest, 16 hex digits> <bytes> <recipient>[,<recipient>...]
//! ```
//!
//! In a source's ledger the status is the queue id of the server's `250` (`-` if it named none), or
//! `?` when the final dot was sent and no reply came, or `!451` when the server refused the message
//! after the dot. In a sink's ledger it is `delivered`, or `notified` for a recipient that a delivery
//! status notification reports as failed. Recipients are percent-encoded where they would break the
//! line. The first line names format and kind.
//!
//! A line enters memory the moment its reply is seen or given, and the file within 100 ms; the
//! writer is a process that the tests do not kill, so this is no promise about crashes of its own.
//! A write error is kept and returned by every later [`Ledger::flush`]: the run must not pass.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

/// Buffered bytes at which a ledger is written out at once.
const FLUSH_AT: usize = 64 * 1024;

/// Which side wrote a ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// By a source: what it sent.
    Sent,
    /// By a sink: what it took.
    Received,
}

impl Kind {
    /// The first line of such a ledger, without its line end.
    #[must_use]
    pub fn heading(self) -> &'static str {
        match self {
            Kind::Sent => "# ringpost load ledger 1 sent",
            Kind::Received => "# ringpost load ledger 1 received",
        }
    }
}

/// One line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// Id of the load message.
    pub id: &'a str,
    /// See the head of this file.
    pub status: &'a str,
    /// When, in nanoseconds since the Unix epoch.
    pub nanos: u64,
    /// Digest of the message from its id header on.
    pub digest: u64,
    /// Bytes of the message, dots unstuffed.
    pub size: u64,
    /// Recipients, each percent-encoded, joined by commas.
    pub recipients: &'a str,
}

impl<'a> Entry<'a> {
    /// Reads one line (without its line end); `None` if it is not one.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split(' ');
        let entry = Entry {
            id: words.next().filter(|w| !w.is_empty())?,
            status: words.next().filter(|w| !w.is_empty())?,
            nanos: words.next()?.parse().ok()?,
            digest: words.next().filter(|w| w.len() == 16).and_then(|w| u64::from_str_radix(w, 16).ok())?,
            size: words.next()?.parse().ok()?,
            recipients: words.next().filter(|w| !w.is_empty())?,
        };
        words.next().is_none().then_some(entry)
    }
}

/// Appends `address` to a list of recipients.
pub fn push_recipient(list: &mut String, address: &[u8]) {
    if !list.is_empty() {
        list.push(',');
    }
    for &b in address {
        if b.is_ascii_graphic() && b != b',' && b != b'%' {
            list.push(char::from(b));
        } else {
            list.push('%');
            list.push(char::from_digit(u32::from(b >> 4), 16).unwrap_or('0'));
            list.push(char::from_digit(u32::from(b & 15), 16).unwrap_or('0'));
        }
    }
}

/// A ledger being written; several may share one file, each with a buffer of its own.
pub struct Ledger {
    file: Arc<File>,
    lines: Vec<u8>,
    failed: Option<(io::ErrorKind, String)>,
}

impl Ledger {
    /// Creates (or empties) the file at `path`.
    ///
    /// # Errors
    /// The file cannot be created or its first line not written.
    pub fn create(path: &Path, kind: Kind) -> io::Result<Self> {
        // Appending keeps whole buffers of several writers apart.
        let file = File::options().create(true).append(true).open(path)?;
        // A device has no length.
        if file.metadata()?.is_file() {
            file.set_len(0)?;
        }
        (&file).write_all(format!("{}\n", kind.heading()).as_bytes())?;
        Ok(Ledger { file: Arc::new(file), lines: Vec::with_capacity(FLUSH_AT + 4096), failed: None })
    }

    /// Another writer of the same file.
    #[must_use]
    pub fn share(&self) -> Self {
        let lines = Vec::with_capacity(FLUSH_AT + 4096);
        Ledger { file: Arc::clone(&self.file), lines, failed: self.failed.clone() }
    }

    /// Adds a line.
    pub fn add(&mut self, e: &Entry<'_>) {
        // Writing to a vector cannot fail.
        let _ = writeln!(
            self.lines,
            "{} {} {} {:016x} {} {}",
            e.id, e.status, e.nanos, e.digest, e.size, e.recipients
        );
        if self.lines.len() >= FLUSH_AT {
            let _ = self.flush(); // a failure is kept and comes back at the next flush
        }
    }

    /// Writes the buffered lines to the file.
    ///
    /// # Errors
    /// This or an earlier write failed: the ledger is not complete.
    pub fn flush(&mut self) -> io::Result<()> {
        if let Some((kind, text)) = &self.failed {
            return Err(io::Error::new(*kind, text.clone()));
        }
        let result = (&*self.file).write_all(&self.lines);
        self.lines.clear();
        if let Err(e) = &result {
            self.failed = Some((e.kind(), format!("ledger: {e}")));
        }
        result
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_good_for_a_ledger_that_nobody_reads() {
        let mut ledger = Ledger::create(Path::new("/dev/null"), Kind::Sent).expect("create");
        assert!(ledger.flush().is_ok());
    }

    #[test]
    fn lines_round_trip() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("ledger");
        let mut recipients = String::new();
        push_recipient(&mut recipients, b"\"a, b\"@load.test");
        push_recipient(&mut recipients, b"c%d@load.test");
        assert_eq!(recipients, "\"a%2c%20b\"@load.test,c%25d@load.test");
        let entry =
            Entry { id: "r-1", status: "Q1", nanos: 7, digest: 255, size: 9, recipients: &recipients };
        let mut ledger = Ledger::create(&path, Kind::Sent).expect("create");
        let mut other = ledger.share();
        ledger.add(&entry);
        other.add(&Entry { id: "r-2", status: "?", ..entry });
        drop(ledger);
        drop(other);
        let text = std::fs::read_to_string(&path).expect("read");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], Kind::Sent.heading());
        assert_eq!(Entry::parse(lines[1]), Some(entry));
        assert_eq!(Entry::parse(lines[2]).map(|e| e.status), Some("?"));
    }

    #[test]
    fn damaged_lines_are_not_entries() {
        let good = "r-1 Q1 7 00000000000000ff 9 a@load.test";
        assert!(Entry::parse(good).is_some());
        for cut in 0..good.find(" a@").expect("recipient") + 2 {
            assert_eq!(Entry::parse(&good[..cut.min(good.len() - 12)]), None, "cut at {cut}");
        }
        assert_eq!(Entry::parse(&format!("{good} more")), None);
    }

    #[test]
    fn a_write_error_stays() {
        let file = File::options().write(true).open("/dev/full").expect("open");
        let mut ledger = Ledger { file: Arc::new(file), lines: b"x\n".to_vec(), failed: None };
        assert!(ledger.flush().is_err());
        assert!(ledger.flush().is_err(), "a later flush must not pass");
    }
}

//! Compares what a source was promised with what a sink got.
//!
//! Owns the verdict: lost, duplicated, invented, altered, and what is excused. Works on pairs of
//! message and recipient; each costs 24 bytes of memory per ledger (64-bit digests, sorted), so ten
//! million fit in half a gigabyte; a file of more than [`MAX_PAIRS`] pairs is refused. Two different
//! pairs share a digest with probability 1 in 300,000 at ten million. A ledger that cannot be read
//! or holds a line that is not one is an error, never a pass.

use super::digest::Digest;
use super::ledger::{Entry, Kind};
use serde::Serialize;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Pairs of message and recipient that one ledger may hold.
pub const MAX_PAIRS: usize = 100_000_000;

/// Longest line of a ledger in bytes.
const MAX_LINE: u64 = 1 << 20;

/// Examples named per kind of finding.
const EXAMPLES: usize = 10;

/// What the comparison found; counts are of pairs of message and recipient.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    /// Nothing lost, invented or altered, and no duplicate without excuse.
    pub pass: bool,
    /// Acknowledged with a `250`.
    pub acknowledged: u64,
    /// Taken by the sink, each pair once.
    pub delivered: u64,
    /// Not delivered, but reported to the sender by a notification.
    pub notified: u64,
    /// Acknowledged, not delivered, and still in the server's queue by the list given.
    pub queued: u64,
    /// Acknowledged, and neither delivered nor notified nor queued. Without a list of what is queued,
    /// audit an empty queue.
    pub lost: u64,
    /// Deliveries beyond the first.
    pub duplicates: u64,
    /// Of these, the ones whose queue id is not in the list of messages in doubt (if one was given).
    pub duplicates_unexcused: u64,
    /// Delivered, but never sent, or refused for good by the server.
    pub invented: u64,
    /// Delivered with other bytes.
    pub altered: u64,
    /// The final dot was sent, no reply came: the server may have it or not.
    pub unacknowledged: u64,
    /// Of these, the ones delivered (allowed).
    pub unacknowledged_delivered: u64,
    /// Refused for now (4xx after the final dot) and delivered all the same (allowed: a withdrawal
    /// can be cut off by a crash; the sender sends again).
    pub refused_delivered: u64,
    /// Both delivered and reported as failed (allowed after a crash during the attempt).
    pub contradicted: u64,
    /// Bytes of an unfinished last line, per ledger: the writer was killed.
    pub torn_bytes: [u64; 2],
    /// Up to ten lines of each kind of finding.
    pub examples: Vec<String>,
}

/// What the server said about messages; each file has one queue id at the beginning of each line.
#[derive(Clone, Debug, Default)]
pub struct Excuses {
    /// Messages that were in flight at a crash: any other duplicate is a failure. Without this file
    /// duplicates are counted and allowed.
    pub in_doubt: Option<PathBuf>,
    /// Messages that are still queued: they are not lost.
    pub queued: Option<PathBuf>,
}

struct Lists {
    in_doubt: Option<HashSet<String>>,
    queued: Option<HashSet<String>>,
}

/// Compares the ledger of a source with that of a sink.
///
/// # Errors
/// A file cannot be read, is of the wrong kind, is damaged, or is too large; the text names it.
pub fn compare(sent: &Path, received: &Path, excuses: &Excuses) -> io::Result<Verdict> {
    let read = |path: &Option<PathBuf>| path.as_deref().map(read_ids).transpose();
    let lists = Lists { in_doubt: read(&excuses.in_doubt)?, queued: read(&excuses.queued)? };
    let mut sent = Pairs::read(sent, Kind::Sent)?;
    let mut received = Pairs::read(received, Kind::Received)?;
    let mut verdict = Verdict { torn_bytes: [sent.torn, received.torn], ..Verdict::default() };
    let mut r = 0;
    for s in 0..sent.pairs.len() {
        let pair = sent.pairs[s];
        if s > 0 && sent.pairs[s - 1].key == pair.key {
            return Err(sent.damaged(pair.at, "a message is listed twice for one recipient"));
        }
        while r < received.pairs.len() && received.pairs[r].key < pair.key {
            invented(&mut verdict, &mut received, r)?;
            r += 1;
        }
        let from = r;
        while r < received.pairs.len() && received.pairs[r].key == pair.key {
            r += 1;
        }
        judge(&mut verdict, &mut sent, pair, &mut received, from..r, &lists)?;
    }
    for r in r..received.pairs.len() {
        invented(&mut verdict, &mut received, r)?;
    }
    verdict.pass =
        verdict.lost + verdict.invented + verdict.altered == 0 && verdict.duplicates_unexcused == 0;
    Ok(verdict)
}

/// Settles one sent pair against the lines `got` of the received ledger.
fn judge(
    verdict: &mut Verdict,
    sent: &mut Pairs,
    pair: Pair,
    received: &mut Pairs,
    got: std::ops::Range<usize>,
    lists: &Lists,
) -> io::Result<()> {
    let lines = &received.pairs[got.clone()];
    let delivered = lines.iter().filter(|p| p.status == Status::Delivered).count() as u64;
    let notified = lines.iter().any(|p| p.status == Status::Notified);
    let altered = lines.iter().find(|p| p.status == Status::Delivered && p.digest != pair.digest).copied();
    verdict.acknowledged += u64::from(pair.status == Status::Acknowledged);
    verdict.unacknowledged += u64::from(pair.status == Status::Unanswered);
    verdict.delivered += u64::from(delivered > 0);
    verdict.notified += u64::from(notified && delivered == 0);
    verdict.contradicted += u64::from(notified && delivered > 0);
    if pair.status == Status::Acknowledged && delivered == 0 && !notified {
        if sent.listed(pair.at, lists.queued.as_ref())? {
            verdict.queued += 1;
        } else {
            verdict.lost += 1;
            note(verdict, verdict.lost, "lost", sent, pair.at)?;
        }
    }
    if delivered > 0 {
        match pair.status {
            Status::Unanswered => verdict.unacknowledged_delivered += 1,
            Status::RefusedForNow => verdict.refused_delivered += 1,
            Status::RefusedForGood => {
                verdict.invented += 1;
                note(verdict, verdict.invented, "refused, yet delivered", sent, pair.at)?;
            }
            _ => {}
        }
    }
    if let Some(line) = altered {
        verdict.altered += 1;
        note(verdict, verdict.altered, "altered, as sent", sent, pair.at)?;
        note(verdict, verdict.altered, "altered, as received", received, line.at)?;
    }
    if delivered > 1 {
        verdict.duplicates += delivered - 1;
        // The queue id of an unanswered message is not known, so its duplicates cannot be held
        // against the list.
        let known = pair.status == Status::Acknowledged && lists.in_doubt.is_some();
        if known && !sent.listed(pair.at, lists.in_doubt.as_ref())? {
            verdict.duplicates_unexcused += delivered - 1;
            note(verdict, verdict.duplicates_unexcused, "duplicated without excuse", sent, pair.at)?;
        }
    }
    Ok(())
}

fn invented(verdict: &mut Verdict, received: &mut Pairs, index: usize) -> io::Result<()> {
    let pair = received.pairs[index];
    verdict.invented += 1;
    note(verdict, verdict.invented, "invented", received, pair.at)
}

fn note(verdict: &mut Verdict, count: u64, what: &str, from: &mut Pairs, at: u64) -> io::Result<()> {
    if count <= EXAMPLES as u64 {
        let line = from.line(at)?;
        verdict.examples.push(format!("{what}: {line}"));
    }
    Ok(())
}

fn read_ids(path: &Path) -> io::Result<HashSet<String>> {
    let text = std::fs::read_to_string(path).map_err(|e| named(path, &e.to_string()))?;
    Ok(text.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect())
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Status {
    Acknowledged,
    Unanswered,
    RefusedForNow,
    RefusedForGood,
    Delivered,
    Notified,
}

impl Status {
    fn of(kind: Kind, word: &str) -> Option<Self> {
        match (kind, word.as_bytes()) {
            (Kind::Sent, b"?") => Some(Status::Unanswered),
            (Kind::Sent, [b'!', b'5', ..]) => Some(Status::RefusedForGood),
            (Kind::Sent, [b'!', ..]) => Some(Status::RefusedForNow),
            (Kind::Sent, _) => Some(Status::Acknowledged),
            (Kind::Received, b"delivered") => Some(Status::Delivered),
            (Kind::Received, b"notified") => Some(Status::Notified),
            (Kind::Received, _) => None,
        }
    }
}

#[derive(Clone, Copy)]
struct Pair {
    key: u64,
    digest: u64,
    at: u64,
    status: Status,
}

/// One ledger, sorted by key, with its file to look lines up again.
struct Pairs {
    name: String,
    file: File,
    pairs: Vec<Pair>,
    torn: u64,
}

impl Pairs {
    fn read(path: &Path, kind: Kind) -> io::Result<Self> {
        let open = || File::options().read(true).open(path).map_err(|e| named(path, &e.to_string()));
        let mut all = Pairs { name: path.display().to_string(), file: open()?, pairs: Vec::new(), torn: 0 };
        let mut reader = BufReader::with_capacity(1 << 18, open()?);
        let (mut line, mut at) = (String::new(), 0u64);
        loop {
            line.clear();
            let n = (&mut reader).take(MAX_LINE).read_line(&mut line)? as u64;
            if n == 0 {
                break;
            }
            let Some(text) = line.strip_suffix('\n') else {
                all.torn = n;
                break;
            };
            if at == 0 {
                if text != kind.heading() {
                    return Err(named(path, &format!("does not begin with \"{}\"", kind.heading())));
                }
            } else {
                all.take(kind, text, at)?;
            }
            at += n;
        }
        if at == 0 {
            return Err(named(path, "is empty: not a ledger"));
        }
        all.pairs.sort_unstable_by_key(|p| (p.key, p.at));
        Ok(all)
    }

    fn take(&mut self, kind: Kind, text: &str, at: u64) -> io::Result<()> {
        let entry = Entry::parse(text);
        let Some((e, status)) = entry.and_then(|e| Some((e, Status::of(kind, e.status)?))) else {
            return Err(self.damaged(at, "is not a line of a ledger"));
        };
        for recipient in e.recipients.split(',') {
            if self.pairs.len() == MAX_PAIRS {
                return Err(self.damaged(at, "too many messages for one audit"));
            }
            let mut key = Digest::new();
            key.update(e.id.as_bytes());
            key.update(b" ");
            key.update(recipient.as_bytes());
            self.pairs.push(Pair { key: key.value(), digest: e.digest, at, status });
        }
        Ok(())
    }

    /// The line that begins at byte `at`.
    fn line(&mut self, at: u64) -> io::Result<String> {
        self.file.seek(SeekFrom::Start(at))?;
        let mut line = String::new();
        BufReader::new((&self.file).take(MAX_LINE)).read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Whether the queue id of the line at byte `at` is in `list`.
    fn listed(&mut self, at: u64, list: Option<&HashSet<String>>) -> io::Result<bool> {
        let Some(list) = list else { return Ok(false) };
        let line = self.line(at)?;
        Ok(Entry::parse(&line).is_some_and(|e| list.contains(e.status)))
    }

    fn damaged(&self, at: u64, why: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: at byte {at}: {why}", self.name))
    }
}

fn named(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
}

impl Verdict {
    /// The verdict in words, one finding per line.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut out = format!(
            "{}: {} acknowledged, {} delivered, {} reported as failed to their sender\n\
             lost {}  invented {}  altered {}  duplicates {} (without excuse {})\n",
            if self.pass { "PASS" } else { "FAIL" },
            self.acknowledged,
            self.delivered,
            self.notified,
            self.lost,
            self.invented,
            self.altered,
            self.duplicates,
            self.duplicates_unexcused,
        );
        let mut line = |count: u64, text: &str| {
            if count > 0 {
                out.push_str(&format!("{count} {text}\n"));
            }
        };
        line(self.queued, "still in the queue of the server");
        line(self.unacknowledged, "without a reply to the final dot: the server may have them or not");
        line(self.unacknowledged_delivered, "of these delivered (allowed)");
        line(self.refused_delivered, "refused with 4xx after the dot and delivered all the same (allowed)");
        line(self.contradicted, "both delivered and reported as failed (allowed after a crash)");
        line(self.torn_bytes[0], "bytes of an unfinished last line in the sent ledger");
        line(self.torn_bytes[1], "bytes of an unfinished last line in the received ledger");
        for e in &self.examples {
            out.push_str(e);
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledgers(sent: &str, received: &str) -> (tempfile::TempDir, io::Result<Verdict>) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (s, r) = (dir.path().join("s"), dir.path().join("r"));
        std::fs::write(&s, format!("{}\n{sent}", Kind::Sent.heading())).expect("write");
        std::fs::write(&r, format!("{}\n{received}", Kind::Received.heading())).expect("write");
        let v = compare(&s, &r, &Excuses::default());
        (dir, v)
    }

    fn verdict(sent: &str, received: &str) -> Verdict {
        ledgers(sent, received).1.expect("audit")
    }

    const D: &str = "1 000000000000000a 500";

    #[test]
    fn all_arrived() {
        let v = verdict(
            &format!("r-1 Q1 {D} a@x,b@x\nr-2 ? {D} a@x\nr-3 !451 {D} a@x\nr-4 Q4 {D} a@x\n"),
            &format!("r-4 notified {D} a@x\nr-1 delivered {D} b@x\nr-1 delivered {D} a@x\n"),
        );
        assert!(v.pass, "{v:?}");
        assert_eq!((v.acknowledged, v.delivered, v.notified, v.unacknowledged), (3, 2, 1, 1));
    }

    #[test]
    fn one_recipient_of_two_is_lost() {
        let v = verdict(&format!("r-1 Q1 {D} a@x,b@x\n"), &format!("r-1 delivered {D} b@x\n"));
        assert!(!v.pass);
        assert_eq!((v.lost, v.delivered), (1, 1));
        assert!(v.examples[0].contains("r-1 Q1"), "{:?}", v.examples);
        assert!(v.explain().starts_with("FAIL"));
    }

    #[test]
    fn invented_altered_and_refused_fail() {
        let v = verdict("", &format!("r-9 delivered {D} a@x\n"));
        assert_eq!((v.pass, v.invented), (false, 1));
        let v = verdict(
            &format!("r-1 Q1 {D} a@x\n"),
            "r-1 delivered 1 000000000000000b 500 a@x\n", // another digest
        );
        assert_eq!((v.pass, v.altered, v.lost), (false, 1, 0));
        let v = verdict(&format!("r-1 !554 {D} a@x\n"), &format!("r-1 delivered {D} a@x\n"));
        assert_eq!((v.pass, v.invented), (false, 1));
    }

    #[test]
    fn what_was_in_flight_is_allowed() {
        let v = verdict(
            &format!("r-1 ? {D} a@x\nr-2 !451 {D} a@x\nr-3 Q3 {D} a@x\n"),
            &format!(
                "{0} a@x\n{1} a@x\n{2} a@x\n{2} a@x\n",
                format_args!("r-1 delivered {D}"),
                format_args!("r-2 delivered {D}"),
                format_args!("r-3 delivered {D}")
            ),
        );
        assert!(v.pass, "{v:?}");
        assert_eq!((v.unacknowledged_delivered, v.refused_delivered, v.duplicates), (1, 1, 1));
    }

    #[test]
    fn duplicates_need_an_excuse_when_a_list_is_given() {
        let (dir, _) = ledgers(
            &format!("r-1 Q1 {D} a@x\nr-2 Q2 {D} a@x\n"),
            &format!("r-1 delivered {D} a@x\n").repeat(3),
        );
        let [s, r, d] = ["s", "r", "doubt"].map(|n| dir.path().join(n));
        let excuses = Excuses { in_doubt: Some(d.clone()), queued: None };
        std::fs::write(&d, "Q1 in doubt\n").expect("write");
        let v = compare(&s, &r, &excuses).expect("audit");
        assert_eq!((v.duplicates, v.duplicates_unexcused, v.lost), (2, 0, 1));
        std::fs::write(&d, "Q2\n").expect("write");
        let v = compare(&s, &r, &excuses).expect("audit");
        assert_eq!(v.duplicates_unexcused, 2);
        let v = compare(&s, &r, &Excuses { in_doubt: None, queued: Some(d) }).expect("audit");
        assert_eq!((v.pass, v.queued, v.lost, v.duplicates_unexcused), (true, 1, 0, 0));
    }

    #[test]
    fn damage_is_an_error_and_a_torn_end_is_not() {
        assert!(ledgers("r-1 Q1 nonsense\n", "").1.is_err());
        assert!(ledgers(&format!("r-1 Q1 {D} a@x\nr-1 Q1 {D} a@x\n"), "").1.is_err());
        let v = verdict(&format!("r-1 Q1 {D} a@x\nr-2 Q"), &format!("r-1 delivered {D} a@x\n"));
        assert_eq!((v.pass, v.torn_bytes), (true, [5, 0]));
        let dir = tempfile::tempdir().expect("temporary directory");
        let empty = dir.path().join("e");
        std::fs::write(&empty, "").expect("write");
        assert!(compare(&empty, &empty, &Excuses::default()).is_err());
    }
}

//! `ringpost storage verify`: reads everything and checks every CRC, with the machines that the server
//! itself recovers and scans with. Whatever does not verify and was acknowledged is a damage; what a
//! crash leaves is not. Side files count if a record that was found names them.

use super::files::{self, Log, Pages};
use super::{Exit, Failure, amount};
use crate::base::aligned::{AlignedBuf, PAGE};
use crate::mailbox::record as mailbox;
use crate::queue::record::{MESSAGE, MessageView};
use crate::runtime::checks;
use crate::storage::archive::format::Entry;
use crate::storage::archive::found::{Found, Kind};
use crate::storage::archive::scan::{Scan, Step as ScanStep};
use crate::storage::record;
use crate::storage::recover::{Found as Journal, Recovery, START_BYTES, Step};
use crate::storage::segment::{Copy, Keys, SegmentHead};
use crate::storage::side;
use crate::storage::walk::{self, Window};
use crate::storage::{RecordHead, batch};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;
/// Ids named with a damage at most.
const IDS_MAX: usize = 64;

/// Runs the command.
pub fn run(data: &Path, as_json: bool, out: &mut impl Write) -> Result<Exit, Failure> {
    let logs = files::logs(data)?;
    // Nobody may write, or use a segment again, while it is read.
    let locked = checks::lock_data_dir(data, None).map_err(|e| {
        let in_use = matches!(e, checks::StartError::DataDirOwned(..));
        Failure::new(if in_use { Exit::TempFail } else { Exit::NoPermission }, e)
    })?;
    let mut progress = Progress::new(logs.iter());
    let mut verdicts = Vec::new();
    for log in &logs {
        verdicts.push(Verdict::of(log, side_of_mail, &mut progress)?);
    }
    drop(locked);
    progress.end();
    let damages: usize = verdicts.iter().map(|v| v.damages.len()).sum();
    if as_json {
        let logs: Vec<Value> = verdicts.iter().map(Verdict::json).collect();
        writeln!(out, "{:#}", json!({ "sound": damages == 0, "damage_count": damages, "logs": logs }))?;
    } else {
        for verdict in &verdicts {
            verdict.print(out)?;
        }
        match damages {
            0 => writeln!(out, "sound: nothing is damaged")?,
            n => writeln!(out, "damages: {n}")?,
        }
    }
    Ok(if damages == 0 { Exit::Ok } else { Exit::Data })
}

/// Reads the log of a shard of mailboxes, in a data directory that is locked, and prints what it found; the
/// number of damages.
pub(in crate::cli) fn shard(dir: &Path, as_json: bool, out: &mut impl Write) -> Result<usize, Failure> {
    let log = files::log(dir.to_owned(), None)?;
    let mut progress = Progress::new(std::iter::once(&log));
    let verdict = Verdict::of(&log, side_of_mailbox, &mut progress);
    progress.end();
    let verdict = verdict?;
    if as_json {
        writeln!(out, "{}", verdict.json())?;
    } else {
        verdict.print(out)?;
    }
    Ok(verdict.damages.len())
}

/// The side file that a record names, and its length: of the queue.
fn side_of_mail(head: RecordHead, payload: &[u8]) -> Option<(u64, u64)> {
    let view = (head.kind == MESSAGE).then(|| MessageView::parse(payload).ok())??;
    Some((view.head.side, view.head.size.saturating_sub(u64::from(view.head.trace_len))))
}

/// The side file that a record names, and its length: of mailboxes.
fn side_of_mailbox(head: RecordHead, payload: &[u8]) -> Option<(u64, u64)> {
    let of_body = head.kind == mailbox::MESSAGE;
    let view = of_body.then(|| mailbox::BodyView::parse(payload).ok())??;
    Some((view.head.side, view.head.size.saturating_sub(view.content.len() as u64)))
}

type Side = fn(RecordHead, &[u8]) -> Option<(u64, u64)>;

/// Something that is not as it was written.
struct Damage {
    file: PathBuf,
    from: u64,
    to: u64,
    what: String,
    ids: Vec<String>,
}

/// What is known of one log.
struct Verdict<'a> {
    log: &'a Log,
    side: Side,
    batches: u64,
    records: u64,
    bytes: u64,
    archived: u64,
    archive_bytes: u64,
    notes: Vec<String>,
    damages: Vec<Damage>,
    /// Side files that records name: message and length.
    named: BTreeMap<u64, (u64, u64)>,
}

impl<'a> Verdict<'a> {
    fn of(log: &'a Log, side: Side, progress: &mut Progress) -> Result<Self, Failure> {
        let mut verdict = Verdict {
            log,
            side,
            batches: 0,
            records: 0,
            bytes: 0,
            archived: 0,
            archive_bytes: 0,
            notes: Vec::new(),
            damages: Vec::new(),
            named: BTreeMap::new(),
        };
        verdict.journal(progress)?;
        verdict.archive(progress)?;
        verdict.sides(progress)?;
        Ok(verdict)
    }

    fn damage(&mut self, file: &Path, range: (u64, u64), what: impl Into<String>, ids: &[u64]) {
        let ids = ids.iter().take(IDS_MAX).map(|&id| self.log.id(id)).collect();
        self.damages.push(Damage {
            file: file.to_owned(),
            from: range.0,
            to: range.1,
            what: what.into(),
            ids,
        });
    }

    fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Remembers the side file that a message names.
    fn visit(&mut self, head: RecordHead, payload: &[u8]) {
        if let Some((side, len)) = (self.side)(head, payload).filter(|s| s.0 != 0) {
            self.named.insert(side, (head.id, len));
        }
    }

    fn journal(&mut self, progress: &mut Progress) -> Result<(), Failure> {
        let log = self.log;
        let (mut opened, mut found) = (BTreeMap::new(), Vec::new());
        // Path and keys by sequence.
        let mut sequences: BTreeMap<u64, (&Path, Keys)> = BTreeMap::new();
        for (number, path) in &log.segments {
            let pages = Pages::open(path)?;
            let start = pages.start(START_BYTES as usize)?;
            let (head, bad) = SegmentHead::decode(start.bytes());
            if bad > 0 {
                self.damage(path, (0, 2 * PAGE as u64), format!("{bad} of 2 copies of the head"), &[]);
            }
            if let Copy::Good(head) = &head {
                sequences.insert(head.sequence, (path, head.keys()));
            }
            found.push(Journal::new(*number, u32::try_from(pages.len).unwrap_or(u32::MAX), start.bytes()));
            opened.insert(*number, pages);
        }
        let mut recovery = Recovery::new(found).map_err(|e| Failure::new(Exit::Data, e))?;
        let (mut buf, mut base, mut loaded) = (AlignedBuf::with_capacity(PAGE), 0, 0);
        loop {
            match recovery.step(Window { file: loaded, base, bytes: buf.bytes() }) {
                Step::Read { file, offset, len } => {
                    let want = READ_BYTES.max(len as usize);
                    buf = opened[&file].read(buf, u64::from(offset), want)?;
                    if buf.len() < len as usize {
                        return Err(Failure::new(Exit::Io, "a file has become shorter while it was read"));
                    }
                    progress.add(buf.len() as u64);
                    (loaded, base) = (file, offset);
                }
                Step::Batch { sequence, offset, bytes } => {
                    let (path, keys) = sequences[&sequence];
                    self.batch(path, offset, bytes, &keys);
                }
                Step::Done => break,
            }
        }
        let report = recovery.finish().report;
        self.batches = report.batches;
        self.bytes = report.bytes;
        if report.tears > 0 {
            self.note("the last write was cut off by a crash; nothing acknowledged is lost by that".into());
        }
        if report.set_aside > 0 {
            self.damage(&log.dir, (0, 0), format!("{} segments belong to no log", report.set_aside), &[]);
        }
        for d in &report.damages {
            self.lost_batches(d, sequences.get(&d.sequence).map(|s| s.0));
        }
        let unlisted = report.damage_count - report.damages.len() as u64;
        if unlisted > 0 {
            self.damage(&log.dir, (0, 0), format!("{unlisted} more damages of the journal"), &[]);
        }
        Ok(())
    }

    fn batch(&mut self, path: &Path, offset: u32, bytes: &[u8], keys: &Keys) {
        for (at, head, payload) in batch::records(bytes) {
            self.records += 1;
            let whole = bytes.get(at as usize..).and_then(|b| record::decode(b, keys));
            if whole.is_none() {
                let from = u64::from(offset + at);
                self.damage(path, (from, from + payload.len() as u64), "a record's own CRC", &[head.id]);
            }
            self.visit(head, payload);
        }
    }

    fn lost_batches(&mut self, d: &walk::Damage, path: Option<&Path>) {
        let what = match path {
            Some(_) => format!("batches {}..{} are lost", d.first_batch, d.next_batch),
            None => format!("segment {} of the log is missing", d.sequence),
        };
        let path = path.unwrap_or(&self.log.dir);
        self.damage(path, (u64::from(d.from), u64::from(d.to)), what, &d.ids);
    }

    fn archive(&mut self, progress: &mut Progress) -> Result<(), Failure> {
        let log = self.log;
        let mut ids: BTreeMap<[u8; 16], u32> = BTreeMap::new();
        for (number, path) in &log.archive {
            let pages = Pages::open(path)?;
            let found = pages.archive(*number)?;
            self.archive_bytes += found.bytes;
            if found.bad_copies > 0 {
                let what = format!("{} of 2 copies of the head", found.bad_copies);
                self.damage(path, (0, 2 * PAGE as u64), what, &[]);
            }
            match &found.kind {
                Kind::Segment(head) => {
                    *ids.entry(head.log).or_default() += 1;
                    self.archive_segment(path, &pages, &found, head.keys(), progress)?;
                }
                Kind::Leftover => self.note(format!("{}: never begun, left by a crash", path.display())),
                Kind::Later(v) => {
                    let text = format_args!("{}: written by a later version ({v})", path.display());
                    return Err(Failure::new(Exit::Data, text));
                }
                Kind::Unreadable => self.damage(path, (0, found.bytes), "it cannot be read: no head", &[]),
            }
        }
        if ids.len() > 1 {
            self.damage(&log.dir, (0, 0), format!("segments of {} archives are mixed", ids.len()), &[]);
        }
        Ok(())
    }

    fn archive_segment(
        &mut self,
        path: &Path,
        pages: &Pages,
        found: &Found,
        keys: Keys,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let entries = match found.trailer {
            None => None,
            Some(t) => {
                let footer = AlignedBuf::with_capacity(t.footer_bytes().max(PAGE));
                let footer = pages.read(footer, u64::from(t.end), t.footer_bytes())?;
                let entries = t.entries(footer.bytes(), &keys);
                if entries.is_none() {
                    self.damage(path, (u64::from(t.end), pages.len), "the footer", &[]);
                }
                entries
            }
        };
        let starts = entries.as_ref().map(|e| e.iter().map(|e| e.offset).collect());
        let (end, number) = (found.end(), found.number);
        let mut scan = Scan::new(number, keys, end, found.trailer.is_some(), starts);
        let mut listed = entries.iter().flatten().peekable();
        let (mut buf, mut base) = (AlignedBuf::with_capacity(PAGE), 0);
        loop {
            match scan.step(Window { file: number, base, bytes: buf.bytes() }) {
                ScanStep::Read { offset, len } => {
                    let want = (len as usize).max(READ_BYTES.min((end - offset) as usize));
                    buf = pages.read(buf, u64::from(offset), want)?;
                    if buf.len() < len as usize {
                        return Err(Failure::new(Exit::Io, "a file has become shorter while it was read"));
                    }
                    progress.add(buf.len() as u64);
                    base = offset;
                }
                ScanStep::Record { head, offset, len, payload } => {
                    self.archived += 1;
                    self.visit(head, payload);
                    let entry = listed.next_if(|e| e.offset == offset);
                    let same = |e: &Entry| (e.id, e.len, e.kind) == (head.id, len, head.kind);
                    if entries.is_some() && !entry.is_some_and(same) {
                        let range = (u64::from(offset), u64::from(offset + len));
                        self.damage(path, range, "footer and record do not agree", &[head.id]);
                    }
                }
                ScanStep::Damage { from, to, sure: false } => {
                    let path = path.display();
                    self.note(format!("{path}: bytes {from} to {to} are damaged, or left so by a crash"));
                }
                ScanStep::Damage { from, to, .. } => {
                    let mut ids = Vec::new();
                    while let Some(e) = listed.next_if(|e| e.offset < to) {
                        ids.push(e.id);
                    }
                    self.damage(path, (u64::from(from), u64::from(to)), "records are lost", &ids);
                }
                ScanStep::End { at, torn } => {
                    if torn {
                        let path = path.display();
                        self.note(format!(
                            "{path}: its end, from {at} on, was cut off by a crash, or is damaged"
                        ));
                    }
                    return Ok(());
                }
            }
        }
    }

    fn sides(&mut self, progress: &mut Progress) -> Result<(), Failure> {
        let log = self.log;
        let mut unnamed = 0;
        for (name, path) in &log.sides {
            let Some(&(message, len)) = self.named.get(name) else {
                unnamed += 1;
                continue;
            };
            let pages = Pages::open(path)?;
            let (mut at, mut index) = (0, 0);
            let mut buf = AlignedBuf::with_capacity(side::BLOCK);
            while at < len {
                let offset = index * side::BLOCK as u64;
                buf = pages.read(buf, offset, side::BLOCK)?;
                progress.add(buf.len() as u64);
                let Some(data) = side::block(*name, index, buf.bytes()).filter(|d| !d.is_empty()) else {
                    let range = (offset, offset + side::BLOCK as u64);
                    self.damage(path, range, "a block of a side file", &[message]);
                    break;
                };
                at += data.len() as u64;
                index += 1;
            }
        }
        if unnamed > 0 {
            self.note(format!("{unnamed} side files belong to no message and go at the next start"));
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let damages: Vec<Value> = self
            .damages
            .iter()
            .map(|d| {
                let file = d.file.display().to_string();
                json!({ "file": file, "from": d.from, "to": d.to, "what": d.what, "ids": d.ids })
            })
            .collect();
        json!({
            "log": self.log.number.map(|n| n.0),
            "directory": self.log.dir.display().to_string(),
            "segments": self.log.segments.len(),
            "batches": self.batches,
            "records": self.records,
            "bytes": self.bytes,
            "side_files": self.log.sides.len(),
            "archive_segments": self.log.archive.len(),
            "archive_records": self.archived,
            "archive_bytes": self.archive_bytes,
            "notes": self.notes,
            "damages": damages,
        })
    }

    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        writeln!(out, "{}", self.log.dir.display())?;
        let (segments, bytes) = (self.log.segments.len(), amount(self.bytes));
        writeln!(
            out,
            "  journal: segments {segments}, batches {}, records {}, {bytes}; side files {}",
            self.batches,
            self.records,
            self.log.sides.len()
        )?;
        let (segments, bytes) = (self.log.archive.len(), amount(self.archive_bytes));
        writeln!(out, "  archive: segments {segments}, records {}, {bytes}", self.archived)?;
        for note in &self.notes {
            writeln!(out, "  note: {note}")?;
        }
        for d in &self.damages {
            write!(out, "  damage: {}: ", d.file.display())?;
            if d.to > d.from {
                write!(out, "bytes {}..{}: ", d.from, d.to)?;
            }
            write!(out, "{}", d.what)?;
            let ids = if d.ids.is_empty() { String::new() } else { format!(" (ids {})", d.ids.join(" ")) };
            writeln!(out, "{ids}")?;
        }
        Ok(())
    }
}

/// Says on the standard error how far it is: twice a second on a terminal, else each half minute.
struct Progress {
    total: u64,
    done: u64,
    next: Instant,
    terminal: bool,
    said: bool,
}

impl Progress {
    fn new<'a>(logs: impl Iterator<Item = &'a Log>) -> Self {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
        let files = logs.flat_map(|l| l.segments.iter().chain(&l.archive).map(|f| f.1.as_path()));
        let total = files.map(size).sum();
        let terminal = std::io::stderr().is_terminal();
        Progress { total, done: 0, next: Instant::now() + Self::step(terminal), terminal, said: false }
    }

    fn step(terminal: bool) -> Duration {
        Duration::from_millis(if terminal { 500 } else { 30_000 })
    }

    fn add(&mut self, bytes: u64) {
        self.done += bytes;
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now + Self::step(self.terminal);
        self.said = true;
        let text = format!("{} of at most {}", amount(self.done), amount(self.total));
        if self.terminal {
            eprint!("\r{text} ");
        } else {
            eprintln!("{text}");
        }
    }

    fn end(&self) {
        if self.said && self.terminal {
            eprintln!();
        }
    }
}

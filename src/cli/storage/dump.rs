//! `ringpost storage dump-segment`: the batches and records of one file, journal or archive, as far as
//! they verify.

use super::files::Pages;
use super::{DumpArgs, Exit, Failure};
use crate::base::aligned::{AlignedBuf, PAGE};
use crate::storage::archive::found::{Kind, number_in};
use crate::storage::archive::scan::{Scan, Step};
use crate::storage::batch::{self, BatchHead};
use crate::storage::segment::{Copy, SegmentHead};
use crate::storage::walk::{Damage, Walk, WalkStep, Window};
use crate::storage::{RecordHead, archive};
use serde_json::{Value, json};
use std::io::{self, Write};

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// Runs the command.
pub fn run(args: &DumpArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let pages = Pages::open(&args.file)?;
    let mut printer = Printer { args, out };
    match pages.journal_head()? {
        Copy::Good(head) => return journal(&pages, &head, &mut printer),
        Copy::Later(v) => {
            return Err(Failure::new(Exit::Data, format_args!("format version {v} is not known")));
        }
        Copy::Blank | Copy::Bad => {}
    }
    let name = args.file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let number = number_in(&name).or(archive_number(&pages)?);
    let found = pages.archive(number.unwrap_or(0))?;
    match &found.kind {
        Kind::Segment(head) => {
            let sealed = found.trailer.is_some();
            printer.line(
                json!({ "archive": head.number, "begun": head.begun.0 / 1000, "finished": sealed }),
                &format!(
                    "archive segment {}, begun {}, {}",
                    head.number,
                    head.begun,
                    if sealed { "finished" } else { "unfinished" }
                ),
            )?;
            let entries = match found.trailer {
                Some(t) => {
                    let footer =
                        pages.read(AlignedBuf::with_capacity(PAGE), u64::from(t.end), t.footer_bytes())?;
                    t.entries(footer.bytes(), &head.keys())
                }
                None => None,
            };
            let starts = entries.map(|e| e.iter().map(|e| e.offset).collect());
            let scan = Scan::new(head.number, head.keys(), found.end(), sealed, starts);
            archived(&pages, head.number, scan, found.end(), &mut printer)
        }
        Kind::Later(v) => Err(Failure::new(Exit::Data, format_args!("format version {v} is not known"))),
        Kind::Leftover | Kind::Unreadable => {
            let text = format_args!("{}: no segment, or its head is damaged", args.file.display());
            Err(Failure::new(Exit::Data, text))
        }
    }
}

/// The number in the head, for a file under another name.
fn archive_number(pages: &Pages) -> Result<Option<u32>, Failure> {
    let start = pages.start(archive::format::HEAD_BYTES as usize)?;
    Ok(match archive::format::Head::decode(start.bytes()).0 {
        archive::format::Copy::Good(head) => Some(head.number),
        _ => None,
    })
}

fn journal(
    pages: &Pages,
    head: &SegmentHead,
    printer: &mut Printer<'_, impl Write>,
) -> Result<Exit, Failure> {
    printer.line(
        json!({ "sequence": head.sequence, "epoch": head.epoch, "first_batch": head.first_batch,
            "oldest": head.oldest, "bytes": head.bytes }),
        &format!(
            "journal segment, sequence {}, epoch {}, first batch {}, oldest segment of the log {}",
            head.sequence, head.epoch, head.first_batch, head.oldest
        ),
    )?;
    let limit = u32::try_from(pages.len).unwrap_or(u32::MAX).min(head.bytes) / PAGE as u32 * PAGE as u32;
    let mut walk = Walk::new(head, None, limit);
    let (mut buf, mut base, mut exit) = (AlignedBuf::with_capacity(PAGE), 0, Exit::Ok);
    loop {
        match walk.step(Window { file: 0, base, bytes: buf.bytes() }, 0) {
            WalkStep::Read { offset, len } => {
                buf = read(pages, buf, offset, len)?;
                base = offset;
            }
            WalkStep::Batch { offset, bytes, damage } => {
                if let Some(damage) = damage {
                    exit = Exit::Data;
                    printer.lost_batches(&damage)?;
                }
                printer.batch(offset, bytes)?;
            }
            WalkStep::End(end) => {
                if end.torn {
                    printer
                        .line(json!({ "torn_at": end.cut }), &format!("{:>10} a batch cut off", end.cut))?;
                }
                return Ok(exit);
            }
        }
    }
}

fn archived(
    pages: &Pages,
    number: u32,
    mut scan: Scan,
    end: u32,
    printer: &mut Printer<'_, impl Write>,
) -> Result<Exit, Failure> {
    let (mut buf, mut base, mut exit) = (AlignedBuf::with_capacity(PAGE), 0, Exit::Ok);
    loop {
        match scan.step(Window { file: number, base, bytes: buf.bytes() }) {
            Step::Read { offset, len } => {
                buf = read(pages, buf, offset, len.max((READ_BYTES as u32).min(end - offset)))?;
                base = offset;
            }
            Step::Record { head, offset, payload, .. } => printer.record(offset, head, payload)?,
            Step::Damage { from, to, sure: true } => {
                exit = Exit::Data;
                let text = format!("{from:>10} damaged up to {to}");
                printer.line(json!({ "damage": [from, to] }), &text)?;
            }
            Step::Damage { from, to, sure: false } => {
                let text = format!("{from:>10} damaged, or left so by a crash, up to {to}");
                printer.line(json!({ "doubt": [from, to] }), &text)?;
            }
            Step::End { at, torn } => {
                if torn {
                    printer.line(json!({ "torn_at": at }), &format!("{at:>10} the rest was cut off"))?;
                }
                return Ok(exit);
            }
        }
    }
}

fn read(pages: &Pages, buf: AlignedBuf, offset: u32, len: u32) -> Result<AlignedBuf, Failure> {
    let want = READ_BYTES.max(len as usize).min((pages.len - u64::from(offset)) as usize);
    let buf = pages.read(buf, u64::from(offset), want)?;
    if buf.len() < (len as usize).min(want) {
        return Err(Failure::new(Exit::Io, "the file has become shorter while it was read"));
    }
    Ok(buf)
}

struct Printer<'a, W: Write> {
    args: &'a DumpArgs,
    out: &'a mut W,
}

impl<W: Write> Printer<'_, W> {
    fn line(&mut self, object: Value, text: &str) -> io::Result<()> {
        if self.args.json { writeln!(self.out, "{object}") } else { writeln!(self.out, "{text}") }
    }

    fn lost_batches(&mut self, d: &Damage) -> io::Result<()> {
        let text =
            format!("{:>10} damaged up to {}, batches {}..{}", d.from, d.to, d.first_batch, d.next_batch);
        self.line(json!({ "damage": [d.from, d.to], "batches": [d.first_batch, d.next_batch] }), &text)
    }

    fn batch(&mut self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        let Some(head) = BatchHead::decode(bytes) else { return Ok(()) };
        let text =
            format!("{offset:>10} batch {}, length {}, records {}", head.number, head.length, head.records);
        self.line(
            json!({ "batch": head.number, "offset": offset, "length": head.length, "records": head.records }),
            &text,
        )?;
        for (at, head, payload) in batch::records(bytes) {
            self.record(offset + at, head, payload)?;
        }
        Ok(())
    }

    fn record(&mut self, offset: u32, head: RecordHead, payload: &[u8]) -> io::Result<()> {
        let mut object = json!({ "offset": offset, "kind": head.kind, "version": head.version,
            "flags": head.flags, "id": head.id, "length": payload.len() });
        if self.args.payload {
            object["payload"] = payload.escape_ascii().to_string().into();
        }
        let RecordHead { kind, version, flags, id } = head;
        let len = payload.len();
        let text = format!("{offset:>10}   kind {kind} version {version} flags {flags} id {id} length {len}");
        self.line(object, &text)?;
        if self.args.payload && !self.args.json {
            for line in payload.split_inclusive(|&b| b == b'\n') {
                writeln!(self.out, "{:>12} {}", "|", line.escape_ascii())?;
            }
        }
        Ok(())
    }
}

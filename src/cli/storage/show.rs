//! `ringpost storage show`: which logs there are and which segments they have. Reads heads and
//! trailers; what lives in a segment only the queue knows.

use super::files::{self, Log, Pages};
use super::{Exit, Failure, amount, hex};
use crate::base::time::Wall;
use crate::storage::archive::found::{Found, Kind};
use crate::storage::segment::{Copy, SegmentHead};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// Runs the command.
pub fn run(data: &Path, as_json: bool, out: &mut impl Write) -> Result<Exit, Failure> {
    let logs = files::logs(data)?;
    let mut all = Vec::new();
    for log in &logs {
        let shown = show(log)?;
        if !as_json {
            print(log, &shown, out)?;
        }
        all.push(shown);
    }
    if as_json {
        writeln!(out, "{:#}", json!({ "data_dir": data.display().to_string(), "logs": all }))?;
    } else if all.is_empty() {
        writeln!(out, "{}: no logs", data.display())?;
    }
    Ok(Exit::Ok)
}

fn show(log: &Log) -> Result<Value, Failure> {
    let mut heads = Vec::new();
    for (_, path) in &log.segments {
        let pages = Pages::open(path)?;
        heads.push((path, pages.len, pages.journal_head()?));
    }
    let oldest = heads.iter().filter_map(|(_, _, h)| good(h)).map(|h| h.oldest).max().unwrap_or(0);
    let id = heads.iter().filter_map(|(_, _, h)| good(h)).max_by_key(|h| h.epoch).map(|h| hex(&h.log));
    let segments: Vec<Value> =
        heads.iter().map(|(path, len, head)| segment(path, *len, head, oldest)).collect();
    let mut archive = Vec::new();
    for (number, path) in &log.archive {
        let found = Pages::open(path)?.archive(*number)?;
        archive.push(archive_segment(path, &found));
    }
    Ok(json!({
        "log": log.number.map(|n| n.0),
        "directory": log.dir.display().to_string(),
        "log_id": id,
        "segments": segments,
        "side_files": log.sides.len(),
        "archive": archive,
    }))
}

fn good(head: &Copy) -> Option<&SegmentHead> {
    if let Copy::Good(head) = head { Some(head) } else { None }
}

fn name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn segment(path: &Path, bytes: u64, head: &Copy, oldest: u64) -> Value {
    let state = match head {
        Copy::Good(h) if h.sequence >= oldest => "in the log",
        Copy::Good(_) => "retired",
        Copy::Blank => "never used",
        Copy::Later(_) => "of a later version",
        Copy::Bad => "unreadable",
    };
    let h = good(head);
    json!({
        "file": name(path),
        "bytes": bytes,
        "state": state,
        "sequence": h.map(|h| h.sequence),
        "epoch": h.map(|h| h.epoch),
        "first_batch": h.map(|h| h.first_batch),
    })
}

fn archive_segment(path: &Path, found: &Found) -> Value {
    let (state, begun) = match (&found.kind, found.trailer) {
        (Kind::Segment(head), Some(_)) => ("finished", Some(head.begun)),
        (Kind::Segment(head), None) => ("unfinished", Some(head.begun)),
        (Kind::Leftover, _) => ("never begun", None),
        (Kind::Later(_), _) => ("of a later version", None),
        (Kind::Unreadable, _) => ("unreadable", None),
    };
    json!({
        "file": name(path),
        "bytes": found.bytes,
        "state": state,
        "records": found.trailer.map(|t| t.records),
        "record_bytes": found.trailer.map(|t| t.bytes),
        "begun": begun.map(|at| at.0 / 1000),
    })
}

fn print(log: &Log, shown: &Value, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{} (log id {})", log.dir.display(), shown["log_id"].as_str().unwrap_or("unknown"))?;
    let none = Vec::new();
    let segments = shown["segments"].as_array().unwrap_or(&none);
    writeln!(out, "  journal: segments {}, side files {}", segments.len(), log.sides.len())?;
    for s in segments {
        let number = |key: &str| s[key].as_u64().map_or("-".to_owned(), |n| n.to_string());
        writeln!(
            out,
            "    {} {:>10} sequence {} epoch {} {}",
            s["file"].as_str().unwrap_or_default(),
            amount(s["bytes"].as_u64().unwrap_or(0)),
            number("sequence"),
            number("epoch"),
            s["state"].as_str().unwrap_or_default(),
        )?;
    }
    let archive = shown["archive"].as_array().unwrap_or(&none);
    writeln!(out, "  archive: segments {}", archive.len())?;
    for s in archive {
        let records =
            s["records"].as_u64().map_or("records not counted".to_owned(), |n| format!("records {n}"));
        let begun = s["begun"].as_u64().map_or("-".to_owned(), |at| Wall(at * 1000).to_string());
        writeln!(
            out,
            "    {} {:>10} {records} {} begun {begun}",
            s["file"].as_str().unwrap_or_default(),
            amount(s["bytes"].as_u64().unwrap_or(0)),
            s["state"].as_str().unwrap_or_default(),
        )?;
    }
    Ok(())
}

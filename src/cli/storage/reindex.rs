//! `ringpost storage reindex`: the index of each log made anew, with its progress on the standard error.

use super::{Exit, Failure, StoreArgs};
use crate::config::Config;
use crate::server::offline::{self, Made, Step};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Runs the command. 65: some messages of the index cannot be found in the archive.
pub fn run(args: StoreArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    // Without routes nobody knows where the messages go.
    let mut config = match Config::load(&args.config) {
        Ok((config, _)) => config,
        Err(problems) => return Err(Failure::new(Exit::Config, problems)),
    };
    config.data_dir = data_dir(args.data_dir, config.data_dir)?;
    let mut progress = Progress::new();
    let made = offline::reindex(config, |step| progress.show(step)).map_err(|failure| {
        let exit = match failure.code {
            75 => Exit::TempFail,
            77 => Exit::NoPermission,
            78 => Exit::Config,
            71 => Exit::System,
            _ => Exit::Io,
        };
        Failure::new(exit, failure.text)
    })?;
    if args.json {
        let logs: Vec<Value> = made.iter().map(as_json).collect();
        writeln!(out, "{:#}", json!({ "logs": logs }))?;
    } else {
        made.iter().try_for_each(|made| writeln!(out, "{}", as_text(made)))?;
    }
    Ok(if made.iter().all(|m| m.loaded.unreadable == 0) { Exit::Ok } else { Exit::Data })
}

/// A data directory that is not there is not made.
fn data_dir(given: Option<PathBuf>, configured: PathBuf) -> Result<PathBuf, Failure> {
    let dir = given.unwrap_or(configured);
    match std::fs::metadata(&dir) {
        Ok(_) => Ok(dir),
        Err(e) => Err(Failure::reading(&dir, &e)),
    }
}

fn as_json(made: &Made) -> Value {
    json!({
        "log": made.log.0,
        "journal_messages": made.journal_messages,
        "archive_messages": made.loaded.parked,
        "may_be_sent_again": made.loaded.rebuilt.unwrap_or(0),
        "not_in_archive": made.loaded.unreadable,
    })
}

fn as_text(made: &Made) -> String {
    let (log, again) = (made.log.0, made.loaded.rebuilt.unwrap_or(0));
    let lost = match made.loaded.unreadable {
        0 => String::new(),
        n => format!(", {n} not found in the archive"),
    };
    format!(
        "log {log:04}: {} messages in the journal, {} in the archive, of which {again} may have been sent \
         before{lost}",
        made.journal_messages, made.loaded.parked
    )
}

/// A line on the standard error: rewritten on a terminal, now and then elsewhere.
struct Progress {
    terminal: bool,
    shown: Instant,
}

impl Progress {
    fn new() -> Self {
        Progress { terminal: std::io::stderr().is_terminal(), shown: Instant::now() }
    }

    fn show(&mut self, step: Step) {
        let pause = if self.terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        if !step.done && self.shown.elapsed() < pause {
            return;
        }
        self.shown = Instant::now();
        let (log, p) = (step.log.0, step.progress);
        let text = format!(
            "log {log:04}: {} of {} archive segments read, {} messages found",
            p.segments, p.of, p.messages
        );
        // Nothing depends on it.
        let _ = match (self.terminal, step.done) {
            (true, false) => write!(std::io::stderr(), "\r\x1b[K{text}"),
            (true, true) => writeln!(std::io::stderr(), "\r\x1b[K{text}"),
            (false, _) => writeln!(std::io::stderr(), "{text}"),
        };
    }
}

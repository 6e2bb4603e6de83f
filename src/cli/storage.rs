//! `ringpost storage`: the files of the queue, looked at and verified.
//!
//! `verify` and `reindex` take the lock of the data directory, so that nobody else writes meanwhile;
//! `show` and `dump-segment` may run beside a server, and then show what was there at some moment;
//! `copy-index` asks a running server. Only `reindex` changes anything. Exit codes: 0 sound or done, 65
//! damage or not what it should be, 66 not there, 69 no server there, 73 the copy cannot be made, 74
//! reading or writing failed, 75 in use by a server, 78 the configuration is wrong.

#![allow(clippy::disallowed_methods, reason = "a program for operators: reads files")]

mod copy;
mod dump;
mod files;
mod reindex;
mod show;
pub(in crate::cli) mod verify;

use super::{CONFIG_FILE, Exit};
use crate::config::Config;
use clap::{Args, Subcommand};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The files of the queue: what there is, whether it is sound; the index made anew, or copied.
#[derive(Debug, Subcommand)]
pub enum StorageCommand {
    /// List the logs with their journal segments and archive segments
    Show(StoreArgs),
    /// Read everything and check every CRC; the server must not run
    Verify(StoreArgs),
    /// Print the batches and records of one journal or archive segment
    DumpSegment(DumpArgs),
    /// Make the index of each log anew from journal and archive; the server must not run. What has been
    /// sent, and left the journal, while its body is still in the archive, is sent again
    Reindex(StoreArgs),
    /// Copy the index of each log while the server runs: a file NNNN.index, as it was at one moment
    CopyIndex(copy::CopyArgs),
}

/// Which data directory.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// Configuration file, for the data directory
    #[arg(short, long, default_value = CONFIG_FILE, value_name = "FILE")]
    config: PathBuf,
    /// Data directory, instead of asking the configuration file
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What is printed of a segment.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// A file named *.segment (journal) or *.archive
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The payloads, too, as text with escapes: they hold mail
    #[arg(long)]
    payload: bool,
    /// Lines of JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Why a command ends early.
#[derive(Debug)]
pub(in crate::cli) struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    fn new(exit: Exit, text: impl fmt::Display) -> Self {
        Failure { exit, text: text.to_string() }
    }

    /// Exit code and words.
    pub(in crate::cli) fn parts(self) -> (Exit, String) {
        (self.exit, self.text)
    }

    /// Of reading `path`.
    fn reading(path: &Path, e: &io::Error) -> Self {
        let exit = match e.kind() {
            io::ErrorKind::NotFound => Exit::NoInput,
            io::ErrorKind::PermissionDenied => Exit::NoPermission,
            _ => Exit::Io,
        };
        Failure::new(exit, format_args!("{}: {e}", path.display()))
    }
}

/// Of writing to the standard output. The reader of a pipe may have gone, as in `| head`.
impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        let exit = if e.kind() == io::ErrorKind::BrokenPipe { Exit::Ok } else { Exit::Io };
        Failure::new(exit, e)
    }
}

impl StorageCommand {
    /// Runs the command.
    pub fn run(self) -> Exit {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let result = match self {
            StorageCommand::Show(args) => {
                args.data_dir().and_then(|dir| show::run(&dir, args.json, &mut out))
            }
            StorageCommand::Verify(args) => {
                args.data_dir().and_then(|dir| verify::run(&dir, args.json, &mut out))
            }
            StorageCommand::DumpSegment(args) => dump::run(&args, &mut out),
            StorageCommand::Reindex(args) => reindex::run(args, &mut out),
            StorageCommand::CopyIndex(args) => copy::run(args, &mut out),
        };
        let flushed = io::Write::flush(&mut out);
        match result.and_then(|exit| flushed.map(|()| exit).map_err(Failure::from)) {
            Ok(exit) => exit,
            Err(failure) => {
                if failure.exit != Exit::Ok {
                    eprintln!("ringpost storage: {}", failure.text);
                }
                failure.exit
            }
        }
    }
}

impl StoreArgs {
    fn data_dir(&self) -> Result<PathBuf, Failure> {
        let dir = match &self.data_dir {
            Some(dir) => dir.clone(),
            None => match Config::load(&self.config) {
                Ok((config, _)) => config.data_dir,
                Err(problems) => return Err(Failure::new(Exit::Config, problems)),
            },
        };
        match std::fs::metadata(&dir) {
            Ok(_) => Ok(dir),
            Err(e) => Err(Failure::reading(&dir, &e)),
        }
    }
}

/// Bytes for people.
fn amount(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests;

//! `ringpost mailbox`: the mailboxes of a server that does not run: looked at, verified, mended, filled,
//! emptied, carried away.
//!
//! Every verb takes the lock of the data directory (`backup` asks the server instead, if one runs) and opens
//! shards as the server does, so what a crash has left is put in order first. Output goes out as it is found;
//! `--json` prints one object a line. Exit codes: 0 done or sound, 64 wrong arguments, 65 damage or
//! input that is not what it should be, 66 not there, 67 no such account, 73 cannot be made, 74 reading or
//! writing failed, 75 in use by a server or no space, 78 the configuration is wrong.

#![allow(clippy::disallowed_methods, reason = "a program for operators: reads and writes files")]

mod account;
mod backup;
mod convert;
mod export;
mod expunge;
mod import;
mod list;
mod lists;
mod maildir;
mod manifest;
mod mbox;
mod reindex;
mod reshard;
mod select;
mod shards;
mod show;
mod source;
mod transfer;
mod verify;

#[cfg(test)]
mod tests;

use super::{CONFIG_FILE, Exit};
use crate::mailbox::api::Refusal;
use clap::{Args, Subcommand};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Mailboxes: looked at, verified, mended, filled, emptied, carried away; but for `backup` the server must
/// not run.
#[derive(Debug, Args)]
pub struct MailboxArgs {
    #[command(flatten)]
    site: SiteArgs,
    #[command(subcommand)]
    command: MailboxCommand,
}

/// Which data directory, and how it is told.
#[derive(Debug, Args)]
struct SiteArgs {
    /// Configuration file, for the data directory and how it is kept
    #[arg(short, long, global = true, default_value = CONFIG_FILE, value_name = "FILE")]
    config: PathBuf,
    /// Data directory, instead of asking the configuration file
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum MailboxCommand {
    /// All accounts with what they hold; or the mailboxes of one
    List(list::ListArgs),
    /// The messages of a mailbox; or the content of one
    Show(show::ShowArgs),
    /// Read everything, check every CRC, and say which messages are damaged
    Verify(verify::VerifyArgs),
    /// Make the indexes anew from journals and archives. No mail is lost; flags are as of the last copy
    Reindex(reindex::ReindexArgs),
    /// Take mail over from a Maildir (Dovecot's, Courier's) or an mbox, with UIDs and UIDLs
    Import(import::ImportArgs),
    /// Write the mail of an account as a Maildir, with lists that Dovecot reads
    Export(export::ExportArgs),
    /// Expunge messages of a mailbox
    Expunge(expunge::ExpungeArgs),
    /// Give an account another name
    Rename(account::RenameArgs),
    /// Remove an account with all its mail
    Remove(account::RemoveArgs),
    /// Spread the accounts over another number of shards. Interrupted, run it again
    Reshard(reshard::ReshardArgs),
    /// Copy all shards into a new directory; also, and best, while the server runs
    Backup(backup::BackupArgs),
    /// Put the shards of a backup back
    Restore(backup::RestoreArgs),
}

/// Why a command ends early.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    fn new(exit: Exit, text: impl fmt::Display) -> Self {
        Failure { exit, text: text.to_string() }
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

    /// Of making or writing `path`.
    fn making(path: &Path, e: &io::Error) -> Self {
        let exit = match e.kind() {
            io::ErrorKind::PermissionDenied => Exit::NoPermission,
            _ => Exit::CannotCreate,
        };
        Failure::new(exit, format_args!("{}: {e}", path.display()))
    }

    /// What the store has refused; `what` was to be done.
    fn refused(what: impl fmt::Display, refusal: Refusal) -> Self {
        let exit = match refusal {
            Refusal::NoAccount => Exit::NoUser,
            Refusal::NoMailbox => Exit::NoInput,
            Refusal::Exists => Exit::CannotCreate,
            Refusal::BadName => Exit::Usage,
            Refusal::Full | Refusal::Busy | Refusal::InUse => Exit::TempFail,
            Refusal::Closed => Exit::Io,
            Refusal::OverQuota
            | Refusal::Limit
            | Refusal::HasChildren
            | Refusal::Expunged
            | Refusal::Damaged => Exit::Data,
        };
        Failure::new(exit, format_args!("{what}: {refusal}"))
    }
}

/// Of writing to the standard output. The reader of a pipe may have gone, as in `| head`.
impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        let exit = if e.kind() == io::ErrorKind::BrokenPipe { Exit::Ok } else { Exit::Io };
        Failure::new(exit, e)
    }
}

impl MailboxArgs {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> Exit {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let result = self.obey(&mut out);
        let flushed = io::Write::flush(&mut out);
        match result.and_then(|exit| flushed.map(|()| exit).map_err(Failure::from)) {
            Ok(exit) => exit,
            Err(failure) => {
                if failure.exit != Exit::Ok {
                    eprintln!("ringpost mailbox: {}", failure.text);
                }
                failure.exit
            }
        }
    }

    fn obey(self, out: &mut impl io::Write) -> Result<Exit, Failure> {
        let site = &self.site;
        match self.command {
            MailboxCommand::List(args) => list::run(site, &args, out),
            MailboxCommand::Show(args) => show::run(site, &args, out),
            MailboxCommand::Verify(args) => verify::run(site, &args, out),
            MailboxCommand::Reindex(args) => reindex::run(site, &args, out),
            MailboxCommand::Import(args) => import::run(site, &args, out),
            MailboxCommand::Export(args) => export::run(site, &args, out),
            MailboxCommand::Expunge(args) => expunge::run(site, &args, out),
            MailboxCommand::Rename(args) => account::rename(site, &args, out),
            MailboxCommand::Remove(args) => account::remove(site, &args, out),
            MailboxCommand::Reshard(args) => reshard::run(site, &args, out),
            MailboxCommand::Backup(args) => backup::backup(site, &args, out),
            MailboxCommand::Restore(args) => backup::restore(site, &args, out),
        }
    }
}

/// Tells how far long work is, on the standard error: on a terminal one line, rewritten; else now and then.
pub(super) struct Progress {
    terminal: bool,
    shown: std::time::Instant,
    said: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        let terminal = io::IsTerminal::is_terminal(&io::stderr());
        Progress { terminal, shown: std::time::Instant::now(), said: false }
    }

    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        let pause = std::time::Duration::from_millis(if self.terminal { 200 } else { 10_000 });
        if self.shown.elapsed() < pause {
            return;
        }
        self.shown = std::time::Instant::now();
        self.said = true;
        if self.terminal {
            eprint!("\r\x1b[K{}", text());
        } else {
            eprintln!("{}", text());
        }
    }

    pub(super) fn end(&self) {
        if self.said && self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// Text from mail or from clients must not steer the terminal.
fn clean(text: &str) -> String {
    super::queue::escape(text)
}

/// Bytes for people.
fn amount(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

//! `ringpost mailbox backup` and `restore`: all shards, their files as they are.
//!
//! A running server makes the copies itself, each as of one moment, while it serves; those of a server that
//! does not run are made here. A backup goes into a directory of its own, is durable with its list when it
//! is told, and has its name only then. Shards that are put back have lost what came after the backup, and
//! clients may have seen it: so a million UIDs and MODSEQs are passed over in each mailbox, and what was
//! expunged is not known any more. The queue is no part of it: one that is put back would send what has been
//! sent.

use super::manifest::Manifest;
use super::shards::{self, Desk, Site};
use super::{Exit, Failure, Progress, SiteArgs, amount};
use crate::admin::wire::{Command, Line};
use crate::cli::http;
use crate::config::Config;
use crate::mailbox::api::Mailboxes;
use crate::mailbox::plan::import::Identity;
use crate::mailbox::spread::{self, COUNT_FILE, FOLDER};
use clap::Args;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// UIDs that are passed over.
const UID_GAP: u32 = 1 << 20;
const STEP: usize = 1 << 20;
/// Where shards are until they are whole, in the data directory.
const RESTORING: &str = "mailbox.restoring";
/// What was there before `--replace`.
const REPLACED: &str = "mailbox.replaced";

/// Where the copies go.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// A directory that is not there yet; a running server makes it, as its own user
    #[arg(value_name = "DIR")]
    to: PathBuf,
}

/// What is put back.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "DIR")]
    from: PathBuf,
    /// Instead of the mailboxes that are there; they stay, as mailbox.replaced in the data directory
    #[arg(long)]
    replace: bool,
}

/// Copies all shards.
pub fn backup(args: &SiteArgs, backup: &BackupArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    // The server's working directory is another one.
    let to = std::path::absolute(&backup.to).map_err(|e| Failure::making(&backup.to, &e))?;
    if fs::symlink_metadata(&to).is_ok() {
        return Err(Failure::new(Exit::CannotCreate, format_args!("{}: it is there already", to.display())));
    }
    let partial = beside(&to);
    let failed = |e: io::Error| Failure::making(&partial, &e);
    if partial.is_dir() {
        // Of a try that has not come to its end.
        fs::remove_dir_all(&partial).map_err(failed)?;
    }
    fs::DirBuilder::new().mode(0o700).create(&partial).map_err(failed)?;
    let made = make(args, &partial).and_then(|shards| {
        let list = Manifest::make(&partial, shards)?;
        list.write(&partial)?;
        Ok(list)
    });
    let list = match made {
        Ok(list) => list,
        Err(failure) => {
            // The first failure counts.
            drop(fs::remove_dir_all(&partial));
            return Err(failure);
        }
    };
    put_in_place(&partial, &to)?;
    tell(args, "backup", &list, out)
}

/// Makes the copies; gives how many shards there are.
fn make(args: &SiteArgs, partial: &Path) -> Result<u16, Failure> {
    match server(args)? {
        Some(stream) => by_server(args, stream, partial),
        None => {
            let site = Site::take(args)?;
            let numbers = site.numbers()?;
            if site.count == 0 || numbers.is_empty() {
                return Err(nothing(&site.data_dir));
            }
            let mut progress = Progress::new();
            for shard in numbers {
                // As a crash left it, or as a server closed it: both are what a start can begin with.
                copy_tree(&site.directory(shard), &partial.join(format!("{shard:04}")), &mut progress)?;
            }
            progress.end();
            Ok(site.count)
        }
    }
}

fn nothing(data_dir: &Path) -> Failure {
    Failure::new(Exit::NoInput, format_args!("{}: there are no mailboxes", data_dir.display()))
}

/// The server that runs with this configuration, if one does.
fn server(args: &SiteArgs) -> Result<Option<UnixStream>, Failure> {
    // A data directory that was named may be another server's; if one uses it, its lock says so.
    let Ok((config, _)) = Config::load(&args.config) else { return Ok(None) };
    let same = args.data_dir.as_ref().is_none_or(|dir| *dir == config.data_dir);
    let Some(socket) = config.admin.socket.filter(|_| same) else { return Ok(None) };
    match UnixStream::connect(&socket) {
        Ok(stream) => Ok(Some(stream)),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(Failure::reading(&socket, &e)),
        Err(_) => Ok(None),
    }
}

fn by_server(args: &SiteArgs, stream: UnixStream, partial: &Path) -> Result<u16, Failure> {
    let (data_dir, user) = shards::place(args)?;
    if let Some(user) = user {
        chown(partial, Some(user.uid), Some(user.gid)).map_err(|e| Failure::making(partial, &e))?;
    }
    let broke = |e: io::Error| Failure::new(Exit::Io, format!("the connection to the server broke: {e}"));
    let command = Command::BackupMailboxes { dir: partial.to_owned() };
    let (mut copied, mut problems) = (BTreeSet::new(), Vec::new());
    match http::ask(stream, &command).map_err(broke)? {
        Err(problem) => problems.push(problem),
        Ok(body) => http::lines(body, |line| {
            match line {
                Line::Copied(shard) => copied.extend(shard["shard"].as_u64()),
                Line::Problem(problem) => problems.push(problem),
                _ => return Err(io::Error::other("the server gave another answer")),
            }
            Ok(())
        })
        .map_err(broke)?,
    }
    if let Some(problem) = problems.into_iter().next() {
        let exit = if problem.exit_code == 73 { Exit::CannotCreate } else { Exit::TempFail };
        return Err(Failure::new(exit, problem.detail));
    }
    let count = shards::count(&data_dir)?.ok_or_else(|| nothing(&data_dir))?;
    if !copied.iter().copied().eq(0..u64::from(count)) {
        let text = format_args!("the server has copied shards {copied:?} of {count}");
        return Err(Failure::new(Exit::Software, text));
    }
    Ok(count)
}

/// Puts all shards back.
pub fn restore(args: &SiteArgs, restore: &RestoreArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let site = Site::take(args)?;
    let at = |name: &str| site.data_dir.join(name);
    let (to, partial, old) = (at(FOLDER), at(RESTORING), at(REPLACED));
    let there = !site.numbers()?.is_empty();
    if there && !restore.replace {
        let text = format_args!("{}: there are mailboxes (--replace: instead of them)", to.display());
        return Err(Failure::new(Exit::CannotCreate, text));
    }
    if there && fs::symlink_metadata(&old).is_ok() {
        return Err(Failure::new(Exit::CannotCreate, format_args!("{}: it is there already", old.display())));
    }
    let list = Manifest::verified(&restore.from)?;
    let failed = |e: io::Error| Failure::making(&partial, &e);
    if partial.is_dir() {
        fs::remove_dir_all(&partial).map_err(failed)?;
    }
    let shards: BTreeSet<&str> = list.files.iter().filter_map(|f| Some(f.path.split_once('/')?.0)).collect();
    let mut progress = Progress::new();
    fs::create_dir(&partial).map_err(failed)?;
    for shard in &shards {
        copy_tree(&restore.from.join(shard), &partial.join(shard), &mut progress)?;
    }
    progress.end();
    let mut count = File::create_new(partial.join(COUNT_FILE)).map_err(failed)?;
    let written = count.write_all(spread::text(list.shards).as_bytes()).and_then(|()| count.sync_all());
    written.and_then(|()| File::open(&partial)?.sync_all()).map_err(failed)?;
    // Under its name it is only when no number can be given again.
    site.work(async |desk| {
        for shard in &shards {
            let number =
                shard.parse().map_err(|_| Failure::new(Exit::Data, format_args!("{shard}: no shard")))?;
            pass_over(desk, number, &partial.join(shard)).await?;
        }
        Ok(())
    })?;
    site.give(&partial)?;
    if fs::symlink_metadata(&to).is_ok() {
        if there {
            put_in_place(&to, &old)?;
        } else {
            // Only the number of shards is in it.
            fs::remove_dir_all(&to).map_err(|e| Failure::making(&to, &e))?;
        }
    }
    put_in_place(&partial, &to)?;
    tell(args, "restore", &list, out)
}

/// What a shard may have given out since the backup is not given again.
async fn pass_over(desk: &Desk<'_>, shard: u16, dir: &Path) -> Result<(), Failure> {
    let (store, _) = desk.open_dir(shard, dir).await?;
    let mut done = Ok(());
    'all: for (id, account) in store.accounts() {
        let listed = match store.list(id).await {
            Ok(listed) => listed,
            Err(e) => {
                done = Err(Failure::refused(account, e));
                break;
            }
        };
        for (name, s) in listed.into_iter().filter_map(|l| Some((l.name, l.status?))) {
            let to = Identity {
                uidvalidity: 0,
                uidnext: s.uidnext.saturating_add(UID_GAP).min(u32::MAX - 1),
                modseq: s.highest_modseq + u64::from(UID_GAP),
            };
            if let Err(e) = store.identify(id, &name, to).await {
                done = Err(Failure::refused(name, e));
                break 'all;
            }
        }
    }
    store.close().await;
    done
}

fn tell(args: &SiteArgs, what: &str, list: &Manifest, out: &mut impl Write) -> Result<Exit, Failure> {
    let (shards, bytes) = (list.shards, list.bytes());
    if args.json {
        writeln!(out, "{}", json!({ "done": what, "shards": shards, "bytes": bytes }))?;
    } else {
        writeln!(out, "{what}: {shards} shards, {}", amount(bytes))?;
    }
    Ok(Exit::Ok)
}

/// The name that something has until it is whole.
fn beside(to: &Path) -> PathBuf {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    to.with_file_name(name)
}

fn put_in_place(partial: &Path, to: &Path) -> Result<(), Failure> {
    let above = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let done = fs::rename(partial, to).and_then(|()| File::open(above)?.sync_all());
    done.map_err(|e| Failure::making(to, &e))
}

fn copy_tree(from: &Path, to: &Path, progress: &mut Progress) -> Result<u64, Failure> {
    fs::create_dir_all(to).map_err(|e| Failure::making(to, &e))?;
    let mut bytes = 0;
    for entry in fs::read_dir(from).map_err(|e| Failure::reading(from, &e))? {
        let path = entry.map_err(|e| Failure::reading(from, &e))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        bytes += match path.is_dir() {
            true => copy_tree(&path, &target, progress)?,
            false => copy_file(&path, &target)?,
        };
        progress.show(|| format!("{}: {} copied", from.display(), amount(bytes)));
    }
    File::open(to).and_then(|d| d.sync_all()).map_err(|e| Failure::making(to, &e))?;
    Ok(bytes)
}

fn copy_file(from: &Path, to: &Path) -> Result<u64, Failure> {
    let mut source = File::open(from).map_err(|e| Failure::reading(from, &e))?;
    let failed = |e: io::Error| Failure::making(to, &e);
    let mut target = File::create_new(to).map_err(failed)?;
    let (mut step, mut bytes) = (vec![0; STEP], 0);
    loop {
        let n = match source.read(&mut step) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Failure::reading(from, &e)),
        };
        target.write_all(&step[..n]).map_err(failed)?;
        bytes += n as u64;
    }
    // Zeros that were never written are written here: a segment must have its space.
    target.sync_all().map_err(failed)?;
    Ok(bytes)
}

//! `ringpost mailbox backup` and `restore`: a shard as a whole, its files as they are.
//!
//! A backup goes into a directory of its own and is durable when it is told. A shard that is put back has
//! lost what came after the backup, and clients may have seen it: so a million UIDs and MODSEQs are passed
//! over in each mailbox, and what was expunged is not known any more.

use super::shards::Site;
use super::{Exit, Failure, Progress, SiteArgs, amount};
use crate::mailbox::api::Mailboxes;
use crate::mailbox::plan::import::Identity;
use clap::Args;
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// UIDs that are passed over.
const UID_GAP: u32 = 1 << 20;
const STEP: usize = 1 << 20;

/// What is copied, and where to.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The shard
    #[arg(value_name = "SHARD")]
    shard: u16,
    /// A directory that is not there yet
    #[arg(value_name = "DIR")]
    to: PathBuf,
}

/// What is put back.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The shard, of which there must be none
    #[arg(value_name = "SHARD")]
    shard: u16,
    /// The copy
    #[arg(value_name = "DIR")]
    from: PathBuf,
}

/// Copies a shard.
pub fn backup(args: &SiteArgs, backup: &BackupArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let site = Site::take(args)?;
    let from = site.directory(site.chosen(Some(backup.shard))?[0]);
    // As a crash left it, or as a server closed it: both are what a start can begin with.
    let (partial, bytes) = copy_new(&from, &backup.to)?;
    put_in_place(&partial, &backup.to)?;
    tell(args, "backup", backup.shard, bytes, out)
}

/// Puts a shard back.
pub fn restore(args: &SiteArgs, restore: &RestoreArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let site = Site::take(args)?;
    let to = site.directory(restore.shard);
    if site.count == 0 || restore.shard >= site.count {
        let text = format_args!("there are {} shards here, from 0000 on", site.count);
        return Err(Failure::new(Exit::Usage, text));
    }
    let (partial, bytes) = copy_new(&restore.from, &to)?;
    // Under its name it is only when no number can be given again.
    site.work(async |desk| {
        let (store, _) = desk.open_dir(restore.shard, &partial).await?;
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
    })?;
    put_in_place(&partial, &to)?;
    tell(args, "restored", restore.shard, bytes, out)
}

fn tell(args: &SiteArgs, what: &str, shard: u16, bytes: u64, out: &mut impl Write) -> Result<Exit, Failure> {
    if args.json {
        writeln!(out, "{}", json!({ "done": what, "shard": shard, "bytes": bytes }))?;
    } else {
        writeln!(out, "shard {shard:04}: {what}, {}", amount(bytes))?;
    }
    Ok(Exit::Ok)
}

/// Copies a directory to beside where nothing is yet; gives that name, and bytes.
fn copy_new(from: &Path, to: &Path) -> Result<(PathBuf, u64), Failure> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(Failure::new(Exit::CannotCreate, format_args!("{}: it is there already", to.display())));
    }
    if !from.join("side").is_dir() {
        return Err(Failure::new(Exit::NoInput, format_args!("{}: no shard", from.display())));
    }
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = to.with_file_name(name);
    let failed = |e: io::Error| Failure::making(&partial, &e);
    if partial.is_dir() {
        fs::remove_dir_all(&partial).map_err(failed)?;
    }
    let mut progress = Progress::new();
    let bytes = copy_tree(from, &partial, &mut progress)?;
    progress.end();
    Ok((partial, bytes))
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

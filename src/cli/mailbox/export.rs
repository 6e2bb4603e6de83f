//! `ringpost mailbox export`: an account as a Maildir++ with LF line ends, and with the lists by which
//! Dovecot keeps UIDs, UIDLs, keywords and subscriptions.
//!
//! Into a directory that is empty or not there. The list of UIDs is written last, so that what was
//! interrupted is seen to be without it. A message that is damaged is told and left out (65).

use super::convert::Unix;
use super::select;
use super::shards::{Shard, Site};
use super::{Exit, Failure, Progress, SiteArgs, amount};
use crate::mailbox::api::{Mailboxes, Reader, Refusal, Selected};
use crate::mailbox::name;
use crate::mailbox::store::Open;
use crate::mailbox::types::{AccountId, Flags, Message};
use crate::runtime::uring::Uring;
use clap::Args;
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What is exported, and where to.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The account
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// A directory that is empty, or not there
    #[arg(value_name = "DIR")]
    to: PathBuf,
    /// Only this mailbox, as the Maildir itself
    #[arg(long, value_name = "NAME")]
    mailbox: Option<String>,
}

#[derive(Debug, Default)]
struct Tally {
    mailboxes: u64,
    messages: u64,
    bytes: u64,
    damaged: u64,
}

/// Runs the command.
pub fn run(args: &SiteArgs, export: &ExportArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let wanted = export.mailbox.as_deref().map(select::mailbox_name).transpose()?;
    let site = Site::take(args)?;
    empty_dir(&export.to)?;
    let tally = site.work(async |desk| {
        let (store, id) = desk.account(&export.account).await?;
        let done = account(&store, id, export, wanted.as_deref()).await;
        store.close().await;
        done
    })?;
    if args.json {
        let line = json!({
            "account": export.account, "mailboxes": tally.mailboxes, "messages": tally.messages,
            "bytes": tally.bytes, "damaged": tally.damaged,
        });
        writeln!(out, "{line}")?;
    } else {
        let Tally { mailboxes, messages, bytes, damaged } = tally;
        writeln!(
            out,
            "{}: {messages} messages ({}) of {mailboxes} mailboxes written; {damaged} are damaged",
            export.account,
            amount(bytes)
        )?;
    }
    Ok(if tally.damaged == 0 { Exit::Ok } else { Exit::Data })
}

fn empty_dir(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|e| Failure::making(dir, &e))?;
    match fs::read_dir(dir).map_err(|e| Failure::making(dir, &e))?.next() {
        None => Ok(()),
        Some(_) => Err(Failure::new(Exit::CannotCreate, format_args!("{}: not empty", dir.display()))),
    }
}

async fn account(
    store: &Shard,
    id: AccountId,
    args: &ExportArgs,
    wanted: Option<&str>,
) -> Result<Tally, Failure> {
    let listed = store.list(id).await.map_err(|e| Failure::refused(&args.account, e))?;
    let (mut tally, mut progress) = (Tally::default(), Progress::new());
    let mut subscribed = String::new();
    let mut found = false;
    for l in listed {
        if l.subscribed {
            subscribed.push_str(&file_name(&l.name));
            subscribed.push('\n');
        }
        if l.status.is_none() || wanted.is_some_and(|w| w != l.name) {
            continue;
        }
        found = true;
        let top = wanted.is_some() || l.name == name::INBOX;
        let dir = if top { args.to.clone() } else { args.to.join(format!(".{}", file_name(&l.name))) };
        mailbox(store, id, &l.name, &dir, &mut tally, &mut progress).await?;
        if !top {
            // What tells Courier and others that it is a folder.
            let path = dir.join("maildirfolder");
            fs::write(&path, "").map_err(|e| Failure::making(&path, &e))?;
        }
    }
    progress.end();
    if let (Some(name), false) = (wanted, found) {
        return Err(Failure::refused(name, Refusal::NoMailbox));
    }
    if wanted.is_none() {
        let path = args.to.join("subscriptions");
        fs::write(&path, subscribed).map_err(|e| Failure::making(&path, &e))?;
    }
    Ok(tally)
}

/// The name of a mailbox as Maildir++ has it: dots between levels, modified UTF-7.
fn file_name(mailbox: &str) -> String {
    let level = |l: &str| name::to_utf7(l).replace('.', "&AC4-");
    mailbox.split(name::SEPARATOR).map(level).collect::<Vec<_>>().join(".")
}

async fn mailbox(
    store: &Shard,
    id: AccountId,
    name: &str,
    dir: &Path,
    tally: &mut Tally,
    progress: &mut Progress,
) -> Result<(), Failure> {
    for part in ["cur", "new", "tmp"] {
        let path = dir.join(part);
        fs::create_dir_all(&path).map_err(|e| Failure::making(&path, &e))?;
    }
    tally.mailboxes += 1;
    let open = store.select(id, name).await.map_err(|e| Failure::refused(name, e))?;
    let (status, keywords) = (open.status(), open.keywords());
    let path = dir.join("dovecot-uidlist.new");
    let failed = |e: io::Error| Failure::making(&path, &e);
    let mut list = BufWriter::new(File::create(&path).map_err(failed)?);
    writeln!(list, "3 V{} N{}", status.uidvalidity, status.uidnext).map_err(failed)?;
    for seq in 1..=open.exists() {
        let Some(m) = open.message(seq) else { continue };
        match message(&open, &m, status.uidvalidity, dir).await? {
            Ok(line) => {
                list.write_all(&line).map_err(failed)?;
                tally.messages += 1;
                tally.bytes += u64::from(m.size);
            }
            Err(e) => {
                eprintln!("ringpost mailbox: {name}: message {}: {e}", m.uid);
                tally.damaged += 1;
            }
        }
        progress.show(|| format!("{name}: {seq} of {} messages", open.exists()));
    }
    list.into_inner().map_err(|e| failed(e.into_error())).and_then(|f| f.sync_all().map_err(failed))?;
    if !keywords.is_empty() {
        let lines: String = keywords.iter().enumerate().map(|(n, k)| format!("{n} {k}\n")).collect();
        let path = dir.join("dovecot-keywords");
        fs::write(&path, lines).map_err(|e| Failure::making(&path, &e))?;
        if keywords.len() > 26 {
            eprintln!(
                "ringpost mailbox: {name}: a file name has room for 26 keywords: the others are left out"
            );
        }
    }
    fs::rename(&path, dir.join("dovecot-uidlist")).map_err(failed)
}

/// Writes a message; its line in the list of UIDs. `Ok(Err)`: it cannot be read.
async fn message(
    open: &Open<Uring>,
    m: &Message,
    uidvalidity: u32,
    dir: &Path,
) -> Result<Result<Vec<u8>, Refusal>, Failure> {
    let tmp = dir.join("tmp").join(format!("{}", m.uid));
    let failed = |e: io::Error| Failure::making(&tmp, &e);
    let facts = (open.uidls(&[m.uid]).await, open.guid(m.uid).await, open.read(m.uid, 0..u64::MAX).await);
    let (Ok(uidl), Ok(guid), Ok(mut reader)) = facts else { return Ok(Err(Refusal::Damaged)) };
    let mut file = BufWriter::new(File::create(&tmp).map_err(failed)?);
    let (mut unix, mut buf, mut len) = (Unix::default(), Vec::new(), 0);
    loop {
        match reader.next().await {
            Ok(Some(piece)) => unix.feed(&piece, &mut buf),
            Ok(None) => break,
            Err(e) => {
                drop(file);
                fs::remove_file(&tmp).map_err(failed)?;
                return Ok(Err(e));
            }
        }
        len += buf.len();
        file.write_all(&buf).map_err(failed)?;
        buf.clear();
    }
    unix.finish(&mut buf);
    len += buf.len();
    file.write_all(&buf).map_err(failed)?;
    let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(m.internal.0)).map_err(failed)?;
    let time = m.internal.seconds();
    let base = format!("{time}.U{}V{uidvalidity}.ringpost,S={len},W={}", m.uid, m.size);
    fs::rename(&tmp, dir.join("cur").join(format!("{base}:2,{}", letters(m)))).map_err(failed)?;
    let guid: String = guid.0.iter().map(|b| format!("{b:02x}")).collect();
    let uidl = uidl.first().map(Vec::as_slice).unwrap_or_default();
    let mut line = format!("{} W{} P", m.uid, m.size).into_bytes();
    line.extend_from_slice(uidl);
    line.extend_from_slice(format!(" G{guid} :{base}\n").as_bytes());
    Ok(Ok(line))
}

/// Flags and keywords in the name of a file, in the order of their letters.
fn letters(m: &Message) -> String {
    let known = [
        (Flags::DRAFT, 'D'),
        (Flags::FLAGGED, 'F'),
        (Flags::ANSWERED, 'R'),
        (Flags::SEEN, 'S'),
        (Flags::DELETED, 'T'),
    ];
    let set = known.iter().filter(|(f, _)| m.flags.has(*f)).map(|(_, letter)| *letter);
    let keywords = (0..26u8).filter(|bit| m.keywords.0 >> bit & 1 != 0).map(|bit| char::from(b'a' + bit));
    set.chain(keywords).collect()
}

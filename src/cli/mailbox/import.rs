//! `ringpost mailbox import`: mail of another server, from a Maildir or an mbox, with what clients know it
//! by.
//!
//! A mailbox that has never had a message takes over UIDVALIDITY and UIDs; what is imported again is passed
//! over, so an import that was interrupted, or mail that has come since, is a matter of running it once more.
//! A message that cannot be read is told and counted (65); the others are imported.

use super::maildir::{self, UidlFormat};
use super::mbox::Mbox;
use super::select;
use super::shards::{Desk, Shard, Site};
use super::source::{About, Held};
use super::transfer::{Intake, Tally, ensure_account, ensure_mailbox, finish_account};
use super::{Exit, Failure, Progress, SiteArgs, amount};
use crate::mailbox::api::{Mailboxes, Selected};
use crate::mailbox::name;
use crate::mailbox::plan::import::{Identity, UIDVALIDITY_MAX};
use crate::mailbox::store::Index;
use crate::mailbox::types::{AccountId, Guid};
use crate::runtime::{Clock, yield_now};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

/// What is imported, and for whom.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The account; made if it is not there
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// A Maildir, or an mbox file
    #[arg(value_name = "PATH")]
    from: PathBuf,
    /// What it is; asked of the path if it is not said
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The mailbox for the messages of an mbox, or of a Maildir without its folders
    #[arg(long, value_name = "NAME")]
    mailbox: Option<String>,
    /// UIDLs of messages of which no list has one, as Dovecot's pop3_uidl_format: %u, %v, %08Xu, %f
    #[arg(long, value_name = "FORMAT")]
    uidl: Option<String>,
    /// In an mbox, ">From " at the start of a line loses a ">"
    #[arg(long)]
    unquote: bool,
    /// Do nothing if a mailbox cannot keep its UIDs
    #[arg(long)]
    keep_uids: bool,
    /// How many shards there are to be, in a data directory that no server has used yet
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    shards: Option<u16>,
}

/// What can be imported.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// Maildir, Maildir++ with folders
    Maildir,
    /// mbox (RFC 4155)
    Mbox,
}

/// Runs the command.
pub fn run(args: &SiteArgs, import: &ImportArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let format = match import.format {
        Some(format) => format,
        None => match std::fs::metadata(&import.from) {
            Ok(m) if m.is_dir() => Format::Maildir,
            Ok(_) => Format::Mbox,
            Err(e) => return Err(Failure::reading(&import.from, &e)),
        },
    };
    let mut site = Site::take(args)?;
    let said = import.shards.or(Some(site.wanted).filter(|n| *n != 0));
    match (site.count, said) {
        (0, Some(n)) => site.found(n)?,
        (there, Some(n)) if there != n => {
            let text = format_args!("there are {there} shards here, not {n}");
            return Err(Failure::new(Exit::Usage, text));
        }
        _ => {}
    }
    let shard = site.shard_of(&import.account)?;
    let tally = site.work(async |desk| {
        let (store, _) = desk.open(shard, Index::Mend).await?;
        let done = all(desk, &store, import, format).await;
        store.close().await;
        done
    })?;
    for note in &tally.notes {
        eprintln!("ringpost mailbox: {note}");
    }
    if args.json {
        writeln!(
            out,
            "{}",
            json!({
                "account": import.account, "mailboxes": tally.mailboxes, "messages": tally.messages,
                "bytes": tally.bytes, "there_before": tally.known, "unreadable": tally.unreadable,
                "new_uids": tally.new_uids,
            })
        )?;
    } else {
        writeln!(
            out,
            "{}: {} messages ({}) in {} mailboxes; {} were there before, {} cannot be read",
            import.account,
            tally.messages,
            amount(tally.bytes),
            tally.mailboxes,
            tally.known,
            tally.unreadable
        )?;
    }
    Ok(if tally.unreadable == 0 { Exit::Ok } else { Exit::Data })
}

async fn all(desk: &Desk<'_>, store: &Shard, args: &ImportArgs, format: Format) -> Result<Tally, Failure> {
    let account = ensure_account(store, &args.account).await?;
    let mut job = Job { desk, store, account, args, tally: Tally::default(), progress: Progress::new() };
    match format {
        Format::Mbox => job.mbox().await?,
        Format::Maildir => job.maildir().await?,
    }
    finish_account(store, account).await?;
    job.progress.end();
    Ok(job.tally)
}

struct Job<'a> {
    desk: &'a Desk<'a>,
    store: &'a Shard,
    account: AccountId,
    args: &'a ImportArgs,
    tally: Tally,
    progress: Progress,
}

/// A mailbox that messages are put into.
struct Target<'a> {
    intake: Intake<'a>,
    name: String,
    /// Messages keep their UIDs.
    keeps: bool,
    /// Messages with UIDs below this one may be there already.
    below: u32,
    /// GUIDs of what was there, by UID; filled when it is asked for.
    there: BTreeMap<u32, Guid>,
    guids: BTreeSet<Guid>,
}

impl<'a> Job<'a> {
    async fn maildir(&mut self) -> Result<(), Failure> {
        let root = &self.args.from;
        let mut folders = maildir::folders(root)?;
        if let Some(name) = &self.args.mailbox {
            folders.truncate(1);
            folders[0].name = select::mailbox_name(name)?;
        }
        for folder in folders {
            self.folder(&folder.name, &folder.dir).await?;
        }
        if self.args.mailbox.is_none() {
            for name in maildir::subscriptions(root) {
                let done = self.store.subscribe(self.account, &name, true).await;
                done.map_err(|e| Failure::refused(format_args!("subscribing to {name}"), e))?;
            }
        }
        Ok(())
    }

    async fn folder(&mut self, name: &str, dir: &Path) -> Result<(), Failure> {
        let format = self.args.uidl.clone().map(UidlFormat);
        let contents = maildir::contents(dir, name == name::INBOX, format.as_ref())?;
        self.tally.notes.extend(contents.notes);
        let mut into = self.open(name, contents.uidvalidity).await?;
        let of = contents.messages.len();
        let (mut first, mut late) = (Vec::new(), Vec::new());
        for (mut about, path) in contents.messages {
            if self.is_there(&into, &about).await? {
                continue;
            }
            if into.keeps && about.uid >= into.below.max(1) {
                first.push((about, path));
            } else {
                about.uid = 0;
                late.push((about, path));
            }
        }
        let passed = of - first.len() - late.len();
        let last = first.len();
        // Those with a UID of their own come first.
        for (n, (about, path)) in first.into_iter().chain(late).enumerate() {
            if n == last {
                self.flush(&mut into).await?;
                self.identify(&into, Identity { uidnext: contents.uidnext, ..Identity::default() }).await?;
            }
            let read = match File::open(&path) {
                Ok(mut file) => Held::read(self.store, about, &mut file).await?,
                Err(e) => Err(e),
            };
            match read {
                Ok(held) => self.put(&mut into, held).await?,
                Err(e) => self.unreadable(format!("{}: {e}", path.display())),
            }
            self.progress.show(|| format!("{name}: {} of {of} messages", passed + n));
        }
        self.flush(&mut into).await?;
        self.identify(&into, Identity { uidnext: contents.uidnext, ..Identity::default() }).await
    }

    async fn mbox(&mut self) -> Result<(), Failure> {
        let path = &self.args.from;
        let failed = |e: std::io::Error| Failure::reading(path, &e);
        let file = BufReader::with_capacity(1 << 20, File::open(path).map_err(failed)?);
        let mbox = Mbox::begin(file, self.args.unquote).map_err(failed)?;
        let mut mbox =
            mbox.ok_or_else(|| Failure::new(Exit::Data, format_args!("{}: not an mbox", path.display())))?;
        let name = select::mailbox_name(self.args.mailbox.as_deref().unwrap_or(name::INBOX))?;
        let mut into: Option<Target<'_>> = None;
        let (mut last, mut rising, mut n) = (0, true, 0u64);
        while let Some(mut about) = mbox.next_message().map_err(failed)? {
            n += 1;
            if into.is_none() {
                let validity = mbox.base.map_or(0, |b| b.0);
                into = Some(self.open(&name, validity).await?);
            }
            let into = into.as_mut().expect("just opened");
            // UIDs count only if the mbox says of which UIDVALIDITY, and as long as they rise.
            rising &= into.keeps && about.uid > last;
            last = about.uid;
            if !rising {
                about.uid = 0;
            } else if self.is_there(into, &about).await? {
                continue;
            }
            match Held::read(self.store, about, &mut mbox).await? {
                Ok(held) => self.put(into, held).await?,
                Err(e) => return Err(failed(e)),
            }
            let done = self.tally.messages;
            self.progress.show(|| format!("{name}: message {n}; {done} imported"));
        }
        if let Some(mut into) = into {
            self.flush(&mut into).await?;
            let uidnext = mbox.base.map_or(0, |b| b.1.saturating_add(1));
            self.identify(&into, Identity { uidnext, ..Identity::default() }).await?;
        }
        Ok(())
    }

    fn unreadable(&mut self, note: String) {
        self.tally.unreadable += 1;
        self.tally.notes.push(note);
    }

    /// A mailbox, with the identity of the one that is imported, if it can have it.
    async fn open(&mut self, name: &str, uidvalidity: u32) -> Result<Target<'a>, Failure> {
        let failed = |e| Failure::refused(name, e);
        ensure_mailbox(self.store, self.account, name).await?;
        self.tally.mailboxes += 1;
        let now = self.store.status(self.account, name).await.map_err(failed)?;
        let untouched = now.uidnext == 1;
        let keeps = match uidvalidity {
            0 => false,
            v if v == now.uidvalidity => true,
            v if untouched && v <= UIDVALIDITY_MAX => {
                // Greater than what any other server has counted to, and what it expunged is not known.
                let modseq = self.desk.rt.wall().0;
                let to = Identity { uidvalidity: v, uidnext: 1, modseq };
                self.store.identify(self.account, name, to).await.map_err(failed)?;
                true
            }
            _ => false,
        };
        if uidvalidity != 0 && !keeps {
            let text = format!("{name}: it has had messages here: those that are imported get new UIDs");
            if self.args.keep_uids {
                return Err(Failure::new(Exit::Data, text));
            }
            self.tally.notes.push(text);
            self.tally.new_uids += 1;
        }
        let mut into = Target {
            intake: Intake::new(self.store, self.account, name),
            name: name.to_owned(),
            keeps,
            below: if keeps { now.uidnext } else { 0 },
            there: BTreeMap::new(),
            guids: BTreeSet::new(),
        };
        if now.messages > 0 {
            let mailbox = self.store.select(self.account, name).await.map_err(failed)?;
            for seq in 1..=mailbox.exists() {
                let Some(m) = mailbox.message(seq) else { continue };
                // One that is damaged is nothing that could be recognised.
                let Ok(guid) = mailbox.guid(m.uid).await else { continue };
                into.there.insert(m.uid, guid);
                into.guids.insert(guid);
            }
        }
        Ok(into)
    }

    /// Whether a message was imported before (or has gone since).
    async fn is_there(&mut self, into: &Target<'_>, about: &About) -> Result<bool, Failure> {
        let by_uid = into.keeps && about.uid != 0 && about.uid < into.below;
        let known = match (by_uid, about.guid) {
            // Another message has that UID: this one gets a new one.
            (true, Some(guid)) => into.there.get(&about.uid).is_none_or(|there| *there == guid),
            (true, None) => true,
            (false, Some(guid)) => into.guids.contains(&guid),
            (false, None) => false,
        };
        self.tally.known += u64::from(known);
        if known {
            yield_now().await;
        }
        Ok(known)
    }

    async fn put(&mut self, into: &mut Target<'_>, held: Held) -> Result<(), Failure> {
        if held.nuls > 0 {
            self.tally.notes.push(format!("{}: {} NUL bytes of a message replaced", into.name, held.nuls));
        }
        into.intake.put(held, &mut self.tally).await
    }

    async fn flush(&mut self, into: &mut Target<'_>) -> Result<(), Failure> {
        into.intake.flush(&mut self.tally).await
    }

    async fn identify(&self, into: &Target<'_>, to: Identity) -> Result<(), Failure> {
        if !into.keeps || to.uidnext == 0 {
            return Ok(());
        }
        let done = self.store.identify(self.account, &into.name, to).await;
        done.map(drop).map_err(|e| Failure::refused(&into.name, e))
    }
}

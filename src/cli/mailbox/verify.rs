//! `ringpost mailbox verify`: every byte of every shard is read and every CRC checked; then every message is
//! looked for by way of its mailbox, and read.
//!
//! So damage is told twice, once as bytes of a file and once as messages of an account. Nothing is mended; an
//! index that is lost is told, and mailboxes cannot be looked through without it.

use super::shards::{Desk, Shard, Site};
use super::{Exit, Failure, Progress, SiteArgs, clean};
use crate::mailbox::api::{Mailboxes, Reader, Refusal, Selected};
use crate::mailbox::store::{Index, Open};
use crate::mailbox::types::{AccountId, Flags, Message, Status};
use crate::runtime::uring::Uring;
use clap::Args;
use serde_json::{Value, json};
use std::io::Write;

/// What is verified.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Only this account, and no files
    #[arg(value_name = "ACCOUNT")]
    account: Option<String>,
    /// Only this shard
    #[arg(long, value_name = "N", conflicts_with = "account")]
    shard: Option<u16>,
}

struct Judge<'a, W: Write> {
    out: &'a mut W,
    as_json: bool,
    progress: Progress,
    messages: u64,
    bytes: u64,
    damages: u64,
}

/// Runs the command. 0: sound; 65: damages.
pub fn run(args: &SiteArgs, verify: &VerifyArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let site = Site::take(args)?;
    let mut files = 0;
    let numbers = match &verify.account {
        Some(account) => vec![site.shard_of(account)?],
        None => site.chosen(verify.shard)?,
    };
    if verify.account.is_none() {
        for number in &numbers {
            let checked = crate::cli::storage::verify::shard(&site.directory(*number), args.json, out);
            files += checked.map_err(|e| {
                let (exit, text) = e.parts();
                Failure::new(exit, text)
            })?;
        }
    }
    let mut judge =
        Judge { out, as_json: args.json, progress: Progress::new(), messages: 0, bytes: 0, damages: 0 };
    site.work(async |desk| {
        for number in numbers {
            judge.shard(desk, number, verify.account.as_deref()).await?;
        }
        Ok(())
    })?;
    judge.progress.end();
    let Judge { messages, bytes, damages, .. } = judge;
    let sound = damages == 0 && files == 0;
    if args.json {
        let line = json!({
            "sound": sound, "messages": messages, "bytes": bytes, "damaged": damages, "file_damages": files,
        });
        writeln!(out, "{line}")?;
    } else {
        let bytes = super::amount(bytes);
        writeln!(
            out,
            "{messages} messages ({bytes}) read; damages: {damages} of mailboxes, {files} of files"
        )?;
    }
    Ok(if sound { Exit::Ok } else { Exit::Data })
}

impl<W: Write> Judge<'_, W> {
    fn damage(&mut self, line: &Value, text: &str) -> Result<(), Failure> {
        self.damages += 1;
        self.progress.end();
        if self.as_json {
            writeln!(self.out, "{line}")?
        } else {
            writeln!(self.out, "{text}")?
        }
        Ok(())
    }

    async fn shard(&mut self, desk: &Desk<'_>, number: u16, only: Option<&str>) -> Result<(), Failure> {
        let store = match desk.open(number, Index::Demand).await {
            Ok((store, found)) => {
                let lost = found.journal.damage_count + found.malformed.len() as u64;
                if lost > 0 {
                    let line = json!({ "shard": number, "damage": "records of the journal", "count": lost });
                    self.damage(&line, &format!("shard {number:04}: {lost} damages of the journal"))?;
                }
                store
            }
            Err(e) => {
                let line = json!({ "shard": number, "damage": "cannot be opened", "text": e.text });
                return self.damage(&line, &e.text);
            }
        };
        let mut done = Ok(());
        let mut any = false;
        for (id, name) in store.accounts() {
            if only.is_none_or(|only| only == name) {
                any = true;
                done = self.account(&store, id, &name).await;
                if done.is_err() {
                    break;
                }
            }
        }
        store.close().await;
        match only {
            Some(name) if !any => Err(Failure::refused(name, Refusal::NoAccount)),
            _ => done,
        }
    }

    async fn account(&mut self, store: &Shard, id: AccountId, account: &str) -> Result<(), Failure> {
        let listed = store.list(id).await.map_err(|e| Failure::refused(account, e))?;
        for l in listed.into_iter().filter(|l| l.status.is_some()) {
            match store.select(id, &l.name).await {
                Ok(open) => self.mailbox(&open, account, &l.name).await?,
                Err(e) => {
                    let line = json!({ "account": account, "mailbox": l.name, "damage": e.to_string() });
                    self.damage(&line, &format!("{}: {}: {e}", clean(account), clean(&l.name)))?;
                }
            }
        }
        Ok(())
    }

    async fn mailbox(&mut self, open: &Open<Uring>, account: &str, name: &str) -> Result<(), Failure> {
        let mut counted = Status::default();
        for seq in 1..=open.exists() {
            let Some(m) = open.message(seq) else { continue };
            counted.messages += 1;
            counted.bytes += u64::from(m.size);
            counted.unseen += u32::from(m.is_unseen());
            counted.deleted += u32::from(m.flags.has(Flags::DELETED));
            counted.uidnext = m.uid;
            if let Err(what) = read(open, &m).await {
                let line = json!({
                    "account": account, "mailbox": name, "uid": m.uid,
                    "record": format!("{:x}", m.body.0), "damage": what,
                });
                let (who, id) = (clean(account), m.body.0);
                let text = format!("{who}: {}: message {}: {what} (record {id:x})", clean(name), m.uid);
                self.damage(&line, &text)?;
            }
            self.messages += 1;
            self.bytes += u64::from(m.size);
            let done = self.messages;
            self.progress.show(|| format!("{done} messages read, in {account}"));
        }
        let s = open.status();
        let same = (s.messages, s.unseen, s.deleted, s.bytes)
            == (counted.messages, counted.unseen, counted.deleted, counted.bytes);
        if !same || s.uidnext <= counted.uidnext {
            let line = json!({ "account": account, "mailbox": name, "damage": "counters do not fit" });
            self.damage(&line, &format!("{}: {}: counters do not fit", clean(account), clean(name)))?;
        }
        Ok(())
    }
}

async fn read(open: &Open<Uring>, m: &Message) -> Result<(), String> {
    let said = |e: Refusal| e.to_string();
    let mut reader = open.read(m.uid, 0..u64::MAX).await.map_err(said)?;
    let mut len = 0;
    while let Some(piece) = reader.next().await.map_err(said)? {
        len += piece.len() as u64;
    }
    open.uidls(&[m.uid]).await.map_err(said)?;
    if len == u64::from(m.size) { Ok(()) } else { Err(format!("{len} bytes instead of {}", m.size)) }
}

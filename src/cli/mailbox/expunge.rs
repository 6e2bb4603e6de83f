//! `ringpost mailbox expunge`: messages of a mailbox go, for good, one operation for many of them.

use super::select;
use super::shards::{Shard, Site};
use super::{Exit, Failure, Progress, SiteArgs};
use crate::base::time::Wall;
use crate::mailbox::api::{Mailboxes, Refusal, Selected};
use crate::mailbox::types::{AccountId, Flags, Message, UidSet};
use clap::Args;
use serde_json::json;
use std::io::Write;

/// Messages in one operation.
const SLICE: usize = 10_000;

/// Which messages: all that every option given allows.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true))]
pub struct ExpungeArgs {
    /// The account
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// The mailbox
    #[arg(value_name = "MAILBOX")]
    mailbox: String,
    /// These UIDs, such as 4,10:20,300:*
    #[arg(long, value_name = "SET", group = "which", value_parser = select::uids)]
    uid: Option<UidSet>,
    /// What came in before this day (UTC), such as 2026-11-27
    #[arg(long, value_name = "DAY", group = "which", value_parser = select::day)]
    before: Option<Wall>,
    /// What has been read
    #[arg(long, group = "which")]
    seen: bool,
    /// What is marked as deleted
    #[arg(long, group = "which")]
    deleted: bool,
    /// Everything
    #[arg(long, group = "which")]
    all: bool,
    /// Only say how many there are
    #[arg(long)]
    dry_run: bool,
}

impl ExpungeArgs {
    fn has(&self, m: &Message) -> bool {
        self.uid.as_ref().is_none_or(|set| set.has(m.uid))
            && self.before.is_none_or(|day| m.internal < day)
            && (!self.seen || m.flags.has(Flags::SEEN))
            && (!self.deleted || m.flags.has(Flags::DELETED))
    }
}

/// Runs the command.
pub fn run(args: &SiteArgs, expunge: &ExpungeArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let mailbox = select::mailbox_name(&expunge.mailbox)?;
    let site = Site::take(args)?;
    let (messages, bytes) = site.work(async |desk| {
        let (store, account) = desk.account(&expunge.account).await?;
        let done = in_mailbox(&store, account, &mailbox, expunge).await;
        store.close().await;
        done
    })?;
    if args.json {
        let dry = expunge.dry_run;
        writeln!(out, "{}", json!({ "messages": messages, "bytes": bytes, "dry_run": dry }))?;
    } else {
        let done = if expunge.dry_run { "would be expunged" } else { "expunged" };
        writeln!(out, "{messages} messages, {} {done}", super::amount(bytes))?;
    }
    Ok(Exit::Ok)
}

async fn in_mailbox(
    store: &Shard,
    account: AccountId,
    mailbox: &str,
    args: &ExpungeArgs,
) -> Result<(usize, u64), Failure> {
    let failed = |e: Refusal| Failure::refused(mailbox, e);
    let open = store.select(account, mailbox).await.map_err(failed)?;
    let all = (1..=open.exists()).filter_map(|seq| open.message(seq));
    let chosen: Vec<Message> = all.filter(|m| args.has(m)).collect();
    let bytes = chosen.iter().map(|m| u64::from(m.size)).sum();
    let mut progress = Progress::new();
    if !args.dry_run {
        for (n, some) in chosen.chunks(SLICE).enumerate() {
            let uids: UidSet = some.iter().map(|m| m.uid).collect();
            open.expunge(&uids, false).await.map_err(failed)?;
            progress.show(|| format!("{} of {} messages expunged", n * SLICE, chosen.len()));
        }
    }
    progress.end();
    Ok((chosen.len(), bytes))
}

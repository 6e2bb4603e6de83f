//! `ringpost mailbox rename` and `remove`: accounts as wholes.
//!
//! An account that is called otherwise may have to be in another shard: then its mail is copied there as it
//! is, and only when all of it is safe the old one is removed. Interrupted, it is there twice or under the
//! old name, never gone; run it again.

use super::shards::{Shard, Site};
use super::source::{About, Held};
use super::transfer::{Intake, Tally};
use super::{Exit, Failure, Progress, SiteArgs};
use crate::mailbox::api::{Mailboxes, Refusal, Selected};
use crate::mailbox::plan::import::Identity;
use crate::mailbox::store::Index;
use crate::mailbox::types::AccountId;
use clap::Args;
use serde_json::json;
use std::io::Write;

/// Who is called otherwise.
#[derive(Debug, Args)]
pub struct RenameArgs {
    /// The account
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// Its new name
    #[arg(value_name = "NEW")]
    to: String,
}

/// Who goes.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The account
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// Yes, with all its mail
    #[arg(long)]
    yes: bool,
}

/// Removes an account.
pub fn remove(args: &SiteArgs, remove: &RemoveArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    if !remove.yes {
        let text = format_args!("{} goes with all its mail: say --yes", remove.account);
        return Err(Failure::new(Exit::Usage, text));
    }
    let site = Site::take(args)?;
    let usage = site.work(async |desk| {
        let (store, id) = desk.account(&remove.account).await?;
        let usage = store.usage(id).await.unwrap_or_default();
        let done = store.remove_account(id).await;
        store.close().await;
        done.map(|_| usage).map_err(|e| Failure::refused(&remove.account, e))
    })?;
    if args.json {
        let line = json!({ "removed": remove.account, "messages": usage.messages, "bytes": usage.bytes });
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "{} removed, with {} messages", remove.account, usage.messages)?;
    }
    Ok(Exit::Ok)
}

/// Renames an account.
pub fn rename(args: &SiteArgs, rename: &RenameArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let site = Site::take(args)?;
    let (from, to) = (site.shard_of(&rename.account)?, site.shard_of(&rename.to)?);
    site.work(async |desk| {
        let (store, id) = desk.account(&rename.account).await?;
        let done = if from == to {
            let done = store.rename_account(id, &rename.to).await;
            done.map(drop).map_err(|e| Failure::refused(&rename.to, e))
        } else {
            let (target, _) = desk.open(to, Index::Mend).await?;
            let done = carry((&store, id), &target, &rename.to).await;
            target.close().await;
            done
        };
        store.close().await;
        done
    })?;
    if args.json {
        writeln!(out, "{}", json!({ "account": rename.to, "was": rename.account, "shard": to }))?;
    } else {
        writeln!(out, "{} is {} now, in shard {to:04}", rename.account, rename.to)?;
    }
    Ok(Exit::Ok)
}

/// Behind the name of an account that is being copied.
const DRAFT: &str = " (moving)";

/// Whose copy the account of this name is.
pub(super) fn draft_of(name: &str) -> Option<&str> {
    name.strip_suffix(DRAFT)
}

/// Moves an account into another shard, as it is.
pub(super) async fn carry((from, id): (&Shard, AccountId), to: &Shard, name: &str) -> Result<(), Failure> {
    let failed = |e: Refusal| Failure::refused(name, e);
    let quota = from.usage(id).await.ok_or(Refusal::NoAccount).map_err(failed)?.quota;
    if to.account(name).await.is_some() {
        return Err(failed(Refusal::Exists));
    }
    // Under a name of its own until it is whole; one that an interruption left begins anew.
    let draft = format!("{name}{DRAFT}");
    if let Some(left) = to.account(&draft).await {
        to.remove_account(left).await.map_err(failed)?;
    }
    let made = to.create_account(&draft, &[], quota).await.map_err(failed)?.value;
    let mut progress = Progress::new();
    for l in from.list(id).await.map_err(failed)? {
        if let Some(status) = l.status {
            if to.status(made, &l.name).await.is_err() {
                to.create(made, &l.name, l.special).await.map_err(failed)?;
            }
            let before =
                Identity { uidvalidity: status.uidvalidity, uidnext: 1, modseq: status.highest_modseq };
            to.identify(made, &l.name, before).await.map_err(failed)?;
            copy_mailbox((from, id), (to, made), &l.name, &mut progress).await?;
            let after = Identity { uidnext: status.uidnext, ..Identity::default() };
            to.identify(made, &l.name, after).await.map_err(failed)?;
        }
        to.subscribe(made, &l.name, l.subscribed).await.map_err(failed)?;
    }
    progress.end();
    to.rename_account(made, name).await.map_err(failed)?;
    from.remove_account(id).await.map(drop).map_err(failed)
}

async fn copy_mailbox(
    (from, id): (&Shard, AccountId),
    (to, made): (&Shard, AccountId),
    name: &str,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let failed = |e: Refusal| Failure::refused(name, e);
    let open = from.select(id, name).await.map_err(failed)?;
    let keywords = open.keywords();
    let (mut intake, mut tally) = (Intake::new(to, made, name), Tally::default());
    for seq in 1..=open.exists() {
        let Some(m) = open.message(seq) else { continue };
        let set = keywords.iter().enumerate().filter(|(bit, _)| m.keywords.0 >> bit & 1 != 0);
        let own = m.marks & crate::mailbox::types::Message::UIDL != 0;
        let uidl = if own { open.uidls(&[m.uid]).await.map_err(failed)?.remove(0) } else { Vec::new() };
        let about = About {
            uid: m.uid,
            uidl,
            guid: Some(open.guid(m.uid).await.map_err(failed)?),
            flags: m.flags,
            keywords: set.map(|(_, k)| k.clone()).collect(),
            internal: m.internal,
            saved: Some(m.saved),
        };
        let content = open.read(m.uid, 0..u64::MAX).await.map_err(failed)?;
        let held = Held::copied(to, about, (content, m.facts)).await?;
        intake.put(held, &mut tally).await?;
        progress.show(|| format!("{name}: {seq} of {} messages", open.exists()));
    }
    intake.flush(&mut tally).await
}

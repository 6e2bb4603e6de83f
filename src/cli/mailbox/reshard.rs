//! `ringpost mailbox reshard`: the accounts are spread over another number of shards.
//!
//! An account is where the hash of its name says, so another number moves accounts: each is copied as it is,
//! and removed from where it was only when all of it is safe. Meanwhile a mark in the data directory keeps
//! servers, and all other verbs, from looking for mail in the wrong place. Interrupted at any moment, the
//! same command again brings it to its end.

use super::account::{carry, draft_of};
use super::shards::{Shard, Site};
use super::{Exit, Failure, Progress, SiteArgs};
use crate::mailbox::api::Mailboxes;
use crate::mailbox::spread::{self, SHARDS_MAX};
use crate::mailbox::store::Index;
use clap::Args;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;

/// Over how many.
#[derive(Debug, Args)]
pub struct ReshardArgs {
    /// How many shards there are to be
    #[arg(value_name = "SHARDS", value_parser = clap::value_parser!(u16).range(1..=i64::from(SHARDS_MAX)))]
    shards: u16,
}

/// Spreads the accounts.
pub fn run(args: &SiteArgs, reshard: &ReshardArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let mut site = Site::take_unfinished(args)?;
    let (was, shards) = (site.count, reshard.shards);
    if was == 0 {
        return Err(Failure::new(Exit::NoInput, "there are no mailboxes here yet: set cores.shards"));
    }
    let resumed = match site.unfinished {
        Some(other) if other != shards => {
            let text = format_args!("spreading over {other} shards has begun: bring that to its end first");
            return Err(Failure::new(Exit::Usage, text));
        }
        begun => begun.is_some(),
    };
    let moved = if was == shards && !resumed {
        0
    } else {
        site.mark(shards)?;
        let moved = site.work(async |desk| {
            let mut open = BTreeMap::new();
            let mut all: Vec<u16> = site.numbers()?.into_iter().chain(0..shards).collect();
            all.sort_unstable();
            all.dedup();
            for shard in all {
                open.insert(shard, desk.open(shard, Index::Mend).await?.0);
            }
            let moved = move_all(&open, shards, resumed, u64::MAX).await;
            for store in open.into_values() {
                store.close().await;
            }
            moved
        })?;
        site.found(shards)?;
        site.remove_beyond()?;
        site.unmark()?;
        moved
    };
    if args.json {
        writeln!(out, "{}", json!({ "shards": shards, "was": was, "moved": moved }))?;
    } else {
        writeln!(out, "{shards} shards, were {was}; accounts moved: {moved}")?;
    }
    if site.wanted != 0 && site.wanted != shards {
        eprintln!(
            "ringpost mailbox: cores.shards = {} in the configuration must be {shards} now",
            site.wanted
        );
    }
    Ok(Exit::Ok)
}

/// Moves accounts to where they belong among `shards`, at most `most`. `resumed`: some may be in both places.
pub(super) async fn move_all(
    open: &BTreeMap<u16, Shard>,
    shards: u16,
    resumed: bool,
    most: u64,
) -> Result<u64, Failure> {
    let mut progress = Progress::new();
    drop_drafts(open).await?;
    let mut moved = 0;
    for (&shard, from) in open {
        for (id, name) in from.accounts() {
            let belongs = spread::shard_of(&name, shards);
            if belongs == shard || moved == most {
                continue;
            }
            let to = &open[&belongs];
            match to.account(&name).await {
                // It took its name when it was whole.
                Some(_) if resumed => {
                    from.remove_account(id).await.map_err(|e| Failure::refused(&name, e))?;
                }
                Some(_) => {
                    let text = format_args!("{name} is in shard {shard:04} and in {belongs:04}: rename one");
                    return Err(Failure::new(Exit::Data, text));
                }
                None => carry((from, id), to, &name).await?,
            }
            moved += 1;
            progress.show(|| format!("{moved} accounts moved"));
        }
    }
    progress.end();
    Ok(moved)
}

/// Removes what an interruption has left half copied; the whole is still somewhere.
async fn drop_drafts(open: &BTreeMap<u16, Shard>) -> Result<(), Failure> {
    for store in open.values() {
        for (id, name) in store.accounts() {
            let Some(of) = draft_of(&name) else { continue };
            let mut whole = false;
            for other in open.values() {
                whole |= other.account(of).await.is_some();
            }
            if whole {
                store.remove_account(id).await.map_err(|e| Failure::refused(&name, e))?;
            }
        }
    }
    Ok(())
}

//! `ringpost mailbox reindex`: the index of each shard made anew from its archive and journal.

use super::shards::{Desk, Site, complaints};
use super::{Exit, Failure, Progress, SiteArgs};
use crate::mailbox::store::opening::Recovery;
use crate::mailbox::store::{self};
use crate::runtime::both;
use clap::Args;
use serde_json::json;
use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Which shards.
#[derive(Debug, Args)]
pub struct ReindexArgs {
    /// Only this shard
    #[arg(long, value_name = "N")]
    shard: Option<u16>,
}

/// Runs the command. 65: something was damaged; what is not is in the index.
pub fn run(args: &SiteArgs, reindex: &ReindexArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let site = Site::take(args)?;
    let numbers = site.chosen(reindex.shard)?;
    site.work(async |desk| {
        let mut sound = true;
        for number in numbers {
            let found = one(desk, number).await?;
            sound &= tell(number, &found, args.json, out)?;
        }
        Ok(if sound { Exit::Ok } else { Exit::Data })
    })
}

async fn one(desk: &Desk<'_>, number: u16) -> Result<Recovery, Failure> {
    let progress: Arc<store::Progress> = Arc::default();
    let done = Cell::new(false);
    let work = async {
        let opened = desk.open_watched(number, progress.clone()).await;
        done.set(true);
        let (store, found) = opened?;
        // Into the index with all of it; counters and what was adopted, too.
        store.settle().await;
        store.close().await;
        Ok(found)
    };
    let watch = async {
        let mut line = Progress::new();
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        while !done.get() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let (read, of, bodies) = (get(&progress.segments), get(&progress.of), get(&progress.bodies));
            line.show(|| format!("shard {number:04}: {read} of {of} archive segments, {bodies} messages"));
        }
        line.end();
    };
    both(work, watch).await.0
}

fn tell(number: u16, found: &Recovery, as_json: bool, out: &mut impl Write) -> Result<bool, Failure> {
    let damages = found.damages.len() as u64 + found.journal.damage_count + found.malformed.len() as u64;
    if as_json {
        let line = json!({
            "shard": number, "archive_messages": found.rebuilt, "mailboxes": found.mailboxes,
            "damages": damages, "adopted": found.adopted, "complaints": complaints(found),
        });
        writeln!(out, "{line}")?;
    } else {
        let messages = found.rebuilt.unwrap_or(0);
        writeln!(
            out,
            "shard {number:04}: {} mailboxes, {messages} messages in the archive, damages {damages}",
            found.mailboxes
        )?;
    }
    Ok(damages == 0)
}

//! `ringpost mailbox list`: accounts with what they hold; mailboxes of an account with their counters.

use super::shards::{Desk, Site};
use super::{Exit, Failure, SiteArgs, amount, clean};
use crate::mailbox::api::{Listed, Mailboxes};
use crate::mailbox::store::Index;
use clap::Args;
use serde_json::json;
use std::io::Write;

/// What is listed.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// An account, for its mailboxes; without: all accounts
    #[arg(value_name = "ACCOUNT")]
    account: Option<String>,
}

/// Runs the command.
pub fn run(args: &SiteArgs, list: &ListArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let site = Site::take(args)?;
    site.work(async |desk| match &list.account {
        Some(account) => mailboxes(desk, account, args.json, out).await,
        None => accounts(desk, args.json, out).await,
    })?;
    Ok(Exit::Ok)
}

async fn accounts(desk: &Desk<'_>, as_json: bool, out: &mut impl Write) -> Result<(), Failure> {
    for shard in desk.site.numbers()? {
        let (store, _) = desk.open(shard, Index::Mend).await?;
        let mut done = Ok(());
        for (id, name) in store.accounts() {
            let Some(usage) = store.usage(id).await else { continue };
            let quota = usage.quota;
            done = if as_json {
                let line = json!({
                    "account": name, "shard": shard, "messages": usage.messages, "bytes": usage.bytes,
                    "quota_bytes": quota.bytes, "quota_messages": quota.messages,
                });
                writeln!(out, "{line}")
            } else {
                let (name, bytes) = (clean(&name), amount(usage.bytes));
                writeln!(out, "{name}  shard {shard:04}  messages {}  {bytes}", usage.messages)
            };
            if done.is_err() {
                break;
            }
        }
        store.close().await;
        done?;
    }
    Ok(())
}

async fn mailboxes(
    desk: &Desk<'_>,
    account: &str,
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let (store, id) = desk.account(account).await?;
    let listed = store.list(id).await.map_err(|e| Failure::refused(account, e));
    store.close().await;
    for l in listed? {
        if as_json {
            writeln!(out, "{}", as_object(&l))?;
        } else {
            writeln!(out, "{}", as_text(&l))?;
        }
    }
    Ok(())
}

fn as_object(l: &Listed) -> serde_json::Value {
    let s = l.status;
    json!({
        "mailbox": l.name,
        "exists": s.is_some(),
        "subscribed": l.subscribed,
        "special_use": l.special.map(|u| format!("{u:?}").to_lowercase()),
        "messages": s.map(|s| s.messages),
        "unseen": s.map(|s| s.unseen),
        "deleted": s.map(|s| s.deleted),
        "bytes": s.map(|s| s.bytes),
        "uidvalidity": s.map(|s| s.uidvalidity),
        "uidnext": s.map(|s| s.uidnext),
        "highest_modseq": s.map(|s| s.highest_modseq),
    })
}

fn as_text(l: &Listed) -> String {
    let mut text = clean(&l.name);
    match l.status {
        None => text.push_str("  (a name only)"),
        Some(s) => text.push_str(&format!(
            "  messages {} (unseen {}, deleted {})  {}  uidvalidity {} uidnext {}",
            s.messages,
            s.unseen,
            s.deleted,
            amount(s.bytes),
            s.uidvalidity,
            s.uidnext
        )),
    }
    if let Some(special) = l.special {
        text.push_str(&format!("  {special:?}"));
    }
    if l.subscribed {
        text.push_str("  subscribed");
    }
    text
}

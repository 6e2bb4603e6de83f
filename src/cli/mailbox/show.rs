//! `ringpost mailbox show`: the messages of a mailbox, one a line; or the content of one, as it is stored.

use super::select;
use super::shards::{Shard, Site};
use super::{Exit, Failure, SiteArgs, clean};
use crate::mailbox::api::{Mailboxes, Reader, Refusal, Selected};
use crate::mailbox::store::Open;
use crate::mailbox::types::{AccountId, Flags, Message, UidSet};
use crate::message::mime::Summary;
use crate::runtime::uring::Uring;
use clap::Args;
use serde_json::json;
use std::io::Write;

/// Which messages.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The account
    #[arg(value_name = "ACCOUNT")]
    account: String,
    /// The mailbox
    #[arg(value_name = "MAILBOX", default_value = "INBOX")]
    mailbox: String,
    /// Only these UIDs, such as 4,10:20,300:*
    #[arg(long, value_name = "SET", value_parser = select::uids)]
    uid: Option<UidSet>,
    /// The content of the one message that --uid names, as bytes
    #[arg(long, requires = "uid")]
    content: bool,
}

/// Runs the command. 65: the content is damaged.
pub fn run(args: &SiteArgs, show: &ShowArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let mailbox = select::mailbox_name(&show.mailbox)?;
    let site = Site::take(args)?;
    site.work(async |desk| {
        let (store, account) = desk.account(&show.account).await?;
        let done = in_mailbox(&store, account, &mailbox, (args, show), out).await;
        store.close().await;
        done
    })
}

async fn in_mailbox(
    store: &Shard,
    account: AccountId,
    mailbox: &str,
    (args, show): (&SiteArgs, &ShowArgs),
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    let failed = |e: Refusal| Failure::refused(mailbox, e);
    let open = store.select(account, mailbox).await.map_err(failed)?;
    if show.content {
        let uid = show.uid.as_ref().and_then(|set| set.iter().next()).unwrap_or_default();
        if open.seq(uid).is_none() {
            return Err(Failure::new(Exit::NoInput, format_args!("{mailbox}: no message has the UID {uid}")));
        }
        let mut reader = open.read(uid, 0..u64::MAX).await.map_err(failed)?;
        while let Some(piece) = reader.next().await.map_err(failed)? {
            out.write_all(&piece)?;
        }
        return Ok(Exit::Ok);
    }
    let names = open.keywords();
    for seq in 1..=open.exists() {
        let Some(m) = open.message(seq) else { continue };
        if show.uid.as_ref().is_none_or(|set| set.has(m.uid)) {
            line(&open, &m, &names, args.json, out).await?;
        }
    }
    Ok(Exit::Ok)
}

async fn line(
    open: &Open<Uring>,
    m: &Message,
    names: &[String],
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let uidl = open.uidls(&[m.uid]).await.ok().and_then(|mut u| u.pop());
    let uidl = uidl.map(|u| String::from_utf8_lossy(&u).into_owned());
    let guid =
        open.guid(m.uid).await.ok().map(|g| g.0.iter().map(|b| format!("{b:02x}")).collect::<String>());
    let summary = open.summaries(&[m.uid]).await.pop().flatten();
    let subject = summary
        .as_deref()
        .and_then(|s| Summary::read(s).ok())
        .and_then(|s| s.envelope().subject.map(|text| String::from_utf8_lossy(text).into_owned()));
    let flags = words(m, names);
    if as_json {
        let line = json!({
            "uid": m.uid, "modseq": m.modseq, "size": m.size, "flags": flags,
            "internal_date": m.internal.to_string(), "save_date": m.saved.to_string(),
            "guid": guid, "uidl": uidl, "subject": subject, "readable": uidl.is_some() && summary.is_some(),
        });
        writeln!(out, "{line}")?;
    } else {
        let damaged = if summary.is_none() { "  DAMAGED" } else { "" };
        let subject = clean(&subject.unwrap_or_default());
        let (uid, size, flags) = (m.uid, m.size, flags.join(" "));
        writeln!(out, "{uid}  {}  {size} B  [{flags}]{damaged}  {subject}", m.internal)?;
    }
    Ok(())
}

/// Flags and keywords as IMAP calls them.
fn words(m: &Message, names: &[String]) -> Vec<String> {
    let known = [
        (Flags::SEEN, "\\Seen"),
        (Flags::ANSWERED, "\\Answered"),
        (Flags::FLAGGED, "\\Flagged"),
        (Flags::DELETED, "\\Deleted"),
        (Flags::DRAFT, "\\Draft"),
    ];
    let set = known.iter().filter(|(f, _)| m.flags.has(*f)).map(|(_, name)| (*name).to_owned());
    let more = names.iter().enumerate().filter(|(bit, _)| m.keywords.0 >> bit & 1 != 0);
    set.chain(more.map(|(_, name)| name.clone())).collect()
}

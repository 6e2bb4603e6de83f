//! Putting messages into mailboxes, many in one operation; accounts and mailboxes made as they are needed.
//!
//! Waits for a busy journal, and for one that is being emptied into the archive; a disk that stays full ends
//! it. Knows not where messages come from.

use super::Failure;
use super::shards::Shard;
use super::source::{Held, Parcel};
use crate::mailbox::api::{Mailboxes, Refusal};
use crate::mailbox::name;
use crate::mailbox::types::{AccountId, Quota, SpecialUse};
use std::time::Duration;

/// Messages, and bytes, in one operation.
const BATCH: usize = 32;
const BATCH_BYTES: usize = 256 << 10;
/// How long a journal may be full before the disk is.
const FULL: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(50);

/// What every account has, and what it is called by others.
const SPECIAL: [(&str, SpecialUse, &[&str]); 5] = [
    ("Archive", SpecialUse::Archive, &["archive", "archives"]),
    ("Drafts", SpecialUse::Drafts, &["drafts", "draft"]),
    ("Junk", SpecialUse::Junk, &["junk", "spam", "junk e-mail", "bulk mail"]),
    ("Sent", SpecialUse::Sent, &["sent", "sent items", "sent messages", "sent-mail"]),
    ("Trash", SpecialUse::Trash, &["trash", "deleted items", "deleted messages"]),
];

/// What has been done.
#[derive(Debug, Default)]
pub struct Tally {
    /// Mailboxes.
    pub mailboxes: u64,
    /// Messages that came in.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages that were there before.
    pub known: u64,
    /// Messages that could not be read.
    pub unreadable: u64,
    /// Mailboxes that could not keep UIDs.
    pub new_uids: u64,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// The way into one mailbox.
pub struct Intake<'a> {
    store: &'a Shard,
    account: AccountId,
    mailbox: String,
    batch: Vec<Held>,
    weight: usize,
}

impl<'a> Intake<'a> {
    /// Into this one.
    pub fn new(store: &'a Shard, account: AccountId, mailbox: &str) -> Self {
        Intake { store, account, mailbox: mailbox.to_owned(), batch: Vec::new(), weight: 0 }
    }

    /// Takes a message; it is in the mailbox after [`Self::flush`].
    pub async fn put(&mut self, held: Held, tally: &mut Tally) -> Result<(), Failure> {
        if !self.batch.is_empty() && self.weight + held.weight() > BATCH_BYTES {
            self.flush(tally).await?;
        }
        self.weight += held.weight();
        self.batch.push(held);
        if self.batch.len() >= BATCH { self.flush(tally).await } else { Ok(()) }
    }

    /// Commits what was taken.
    pub async fn flush(&mut self, tally: &mut Tally) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.commit().await?;
        tally.messages += self.batch.len() as u64;
        tally.bytes += self.batch.iter().map(Held::size).sum::<u64>();
        self.batch.clear();
        self.weight = 0;
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), Failure> {
        let mut waited = Duration::ZERO;
        loop {
            let done = {
                let parcel = Parcel::of(&self.batch);
                self.store.import(self.account, &self.mailbox, &parcel.imports()).await
            };
            match done {
                Ok(_) => return Ok(()),
                Err(Refusal::Busy) => self.store.progress().await,
                Err(Refusal::Full) if waited < FULL => {
                    tokio::time::sleep(MOMENT).await;
                    waited += MOMENT;
                }
                // More keywords than a mailbox can have: the messages count more.
                Err(Refusal::Limit) if self.batch.iter().any(Held::has_keywords) => {
                    self.batch.iter_mut().for_each(Held::forget_keywords);
                }
                Err(e) => return Err(Failure::refused(&self.mailbox, e)),
            }
        }
    }
}

/// Asks until the disk has time for it; and for a while, if it is full, until there is room.
async fn patiently<T, F: Future<Output = Result<T, Refusal>>>(
    store: &Shard,
    ask: impl Fn() -> F,
) -> Result<T, Refusal> {
    let mut waited = Duration::ZERO;
    loop {
        match ask().await {
            Err(Refusal::Busy) => store.progress().await,
            Err(Refusal::Full) if waited < FULL => {
                tokio::time::sleep(MOMENT).await;
                waited += MOMENT;
            }
            done => return done,
        }
    }
}

/// The account of this name; made with INBOX alone if it is not there.
pub async fn ensure_account(store: &Shard, name: &str) -> Result<AccountId, Failure> {
    if let Some(id) = store.account(name).await {
        return Ok(id);
    }
    let made = patiently(store, || store.create_account(name, &[], Quota::default())).await;
    made.map(|d| d.value).map_err(|e| Failure::refused(name, e))
}

/// Makes a mailbox if it is not there, for what its name says.
pub async fn ensure_mailbox(store: &Shard, account: AccountId, name: &str) -> Result<(), Failure> {
    let failed = |e| Failure::refused(name, e);
    match store.status(account, name).await {
        Ok(_) => return Ok(()),
        Err(Refusal::NoMailbox) => {}
        Err(e) => return Err(failed(e)),
    }
    let known = name.to_lowercase();
    let special = SPECIAL.iter().find(|(_, _, names)| names.contains(&known.as_str())).map(|s| s.1);
    match patiently(store, || store.create(account, name, special)).await {
        Ok(_) => Ok(()),
        // Another one is for that already.
        Err(Refusal::Exists) if special.is_some() => {
            patiently(store, || store.create(account, name, None)).await.map(drop).map_err(failed)
        }
        Err(e) => Err(failed(e)),
    }
}

/// What every account has, as far as it is not there.
pub async fn finish_account(store: &Shard, account: AccountId) -> Result<(), Failure> {
    let failed = |e| Failure::refused("an account", e);
    let listed = store.list(account).await.map_err(failed)?;
    for (mailbox, special, _) in SPECIAL {
        let there = listed.iter().any(|l| l.special == Some(special) || l.name == mailbox);
        if !there {
            patiently(store, || store.create(account, mailbox, Some(special))).await.map_err(failed)?;
            store.subscribe(account, mailbox, true).await.map_err(failed)?;
        }
    }
    if listed.iter().any(|l| l.name == name::INBOX && !l.subscribed) {
        store.subscribe(account, name::INBOX, true).await.map_err(failed)?;
    }
    Ok(())
}

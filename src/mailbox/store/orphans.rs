//! L4: mail whose mailbox is not known any more, because the record that made it is damaged.
//!
//! Such mail is not lost: an account is made for it, from which an operator takes it. Only when something
//! is damaged, for mail of a mailbox that was deleted looks the same. Nothing fails.

use crate::base::time::Wall;
use crate::mailbox::record::{Item, ItemsView};
use crate::mailbox::row::Key;
use crate::mailbox::shard::Shard;
use crate::mailbox::types::{AccountId, MailboxId, Quota};
use std::collections::BTreeSet;

/// What the records of a journal name.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// Mailboxes with messages.
    used: BTreeSet<MailboxId>,
    /// Mailboxes that have gone.
    gone: BTreeSet<MailboxId>,
    /// Mailboxes that were made, and whose they are.
    made: Vec<(MailboxId, AccountId)>,
    accounts: BTreeSet<AccountId>,
    mailbox: u32,
    account: u32,
    uidvalidity: u32,
}

impl Named {
    /// Of the items of all records.
    pub(super) fn of<'a>(records: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut named = Named::default();
        for items in records.filter_map(|items| ItemsView::parse(items).ok()) {
            for item in items.iter() {
                match item {
                    Item::Account { id, .. } | Item::AccountGone(id) => {
                        named.account = named.account.max(id.0);
                        named.accounts.insert(id);
                    }
                    Item::Mailbox { id, account, uidvalidity, .. } => {
                        named.mailbox = named.mailbox.max(id.0);
                        named.account = named.account.max(account.0);
                        named.uidvalidity = named.uidvalidity.max(uidvalidity);
                        named.made.push((id, account));
                    }
                    Item::MailboxGone(id) => drop(named.gone.insert(id)),
                    Item::Message { mailbox, .. } => drop(named.used.insert(mailbox)),
                    _ => {}
                }
            }
        }
        named.mailbox = named.used.last().map_or(0, |id| id.0).max(named.mailbox);
        named
    }

    /// Makes an account for mailboxes with messages, `counted` or in the journal, that are nobody's;
    /// gives its name.
    pub(super) fn adopt(
        &self,
        shard: &mut Shard,
        counted: &BTreeSet<MailboxId>,
        now: Wall,
    ) -> Option<String> {
        let there = |a: &AccountId| self.accounts.contains(a) || shard.directory.account(*a).is_some();
        let made: BTreeSet<MailboxId> = self.made.iter().filter(|m| there(&m.1)).map(|m| m.0).collect();
        let nobodys = |id: &&MailboxId| {
            !self.gone.contains(id) && !made.contains(id) && shard.directory.mailbox(**id).is_none()
        };
        let orphans: BTreeSet<MailboxId> = counted.union(&self.used).filter(nobodys).copied().collect();
        if orphans.is_empty() {
            return None;
        }
        let id = AccountId(shard.account.max(self.account) + 1);
        let name = format!("recovered-{}", id.0);
        shard.account = id.0;
        shard.mailbox = shard.mailbox.max(self.mailbox).max(orphans.last().map_or(0, |id| id.0));
        shard.directory.put_account(id, &name, Quota::default(), false);
        shard.ledger.touch(Key::account(id), None);
        let seconds = u32::try_from(now.seconds()).unwrap_or(u32::MAX);
        shard.uidvalidity = shard.uidvalidity.max(self.uidvalidity).max(seconds);
        for mailbox in orphans {
            shard.uidvalidity = shard.uidvalidity.saturating_add(1);
            let label = format!("mailbox-{}", mailbox.0);
            shard.directory.put_mailbox(mailbox, id, &label, shard.uidvalidity, None);
            shard.ledger.touch(Key::mailbox(mailbox), None);
        }
        Some(name)
    }
}

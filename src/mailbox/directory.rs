//! L2: the directory of a shard: accounts, mailboxes, names, subscriptions, counters. Resident, as of the
//! last committed operation.
//!
//! What an account holds is the sum of the counters of its mailboxes, kept as they change, so it cannot
//! drift from them. Knows no messages and no disk. Nothing fails.

use crate::mailbox::fresh::Fresh;
use crate::mailbox::name;
use crate::mailbox::row::{AccountRow, MailboxRow};
use crate::mailbox::types::{AccountId, MailboxId, Quota, SpecialUse, Status, Usage};
use crate::storage::archive::Place;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// An account.
#[derive(Debug, Default)]
pub struct Account {
    /// Its name; a removed one has none.
    pub name: Rc<str>,
    /// What it may hold.
    pub quota: Quota,
    /// It is being removed.
    pub removed: bool,
    /// Mailboxes by name.
    pub mailboxes: BTreeMap<Rc<str>, MailboxId>,
    /// Subscribed names.
    pub subscribed: BTreeSet<Rc<str>>,
    /// Bytes of all messages.
    pub bytes: u64,
    /// Messages.
    pub messages: u64,
    /// Where in the archive all is that must be known of it.
    pub home: Place,
    /// Something is not as its home says.
    pub moved: bool,
}

impl Account {
    /// What it holds and may hold.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage { bytes: self.bytes, messages: self.messages, quota: self.quota }
    }

    /// The mailbox of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<MailboxId> {
        self.mailboxes.get(name).copied()
    }

    /// Whether there are mailboxes below `above`.
    #[must_use]
    pub fn has_below(&self, above: &str) -> bool {
        let from = (std::ops::Bound::Excluded(above), std::ops::Bound::Unbounded);
        let later = self.mailboxes.range::<str, _>(from);
        // A name and those below it need not be neighbours: "a!" lies between "a" and "a/b".
        later.map(|(n, _)| n).take_while(|n| n.starts_with(above)).any(|n| name::is_below(n, above))
    }
}

/// A mailbox.
#[derive(Debug)]
pub struct Mailbox {
    /// Whose.
    pub account: AccountId,
    /// Its name.
    pub name: Rc<str>,
    /// What it is for.
    pub special: Option<SpecialUse>,
    /// Its counters.
    pub status: Status,
    /// All expunges with a greater MODSEQ have rows.
    pub kept_from: u64,
    /// Messages that no session has been told of.
    pub fresh: Fresh,
    /// Its keywords, by bit.
    pub keywords: Vec<Rc<str>>,
}

impl Mailbox {
    /// Its counters, all of them.
    #[must_use]
    pub fn counters(&self) -> Status {
        Status { recent: self.fresh.len(), ..self.status }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Directory {
    accounts: BTreeMap<AccountId, Account>,
    names: BTreeMap<Rc<str>, AccountId>,
    mailboxes: BTreeMap<MailboxId, Mailbox>,
}

impl Directory {
    /// The account of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<AccountId> {
        self.names.get(name).copied()
    }

    /// An account, also one that is being removed.
    #[must_use]
    pub fn account(&self, id: AccountId) -> Option<&Account> {
        self.accounts.get(&id)
    }

    /// An account.
    pub fn account_mut(&mut self, id: AccountId) -> Option<&mut Account> {
        self.accounts.get_mut(&id)
    }

    /// All accounts.
    pub fn accounts(&self) -> impl Iterator<Item = (AccountId, &Account)> {
        self.accounts.iter().map(|(id, a)| (*id, a))
    }

    /// A mailbox.
    #[must_use]
    pub fn mailbox(&self, id: MailboxId) -> Option<&Mailbox> {
        self.mailboxes.get(&id)
    }

    /// A mailbox. Its counters are changed by [`Self::count`], its name by [`Self::put_mailbox`].
    pub fn mailbox_mut(&mut self, id: MailboxId) -> Option<&mut Mailbox> {
        self.mailboxes.get_mut(&id)
    }

    /// Number of mailboxes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mailboxes.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mailboxes.is_empty()
    }

    /// An account is so.
    pub fn put_account(&mut self, id: AccountId, name: &str, quota: Quota, removed: bool) {
        let account = self.accounts.entry(id).or_default();
        if self.names.get(&account.name) == Some(&id) {
            self.names.remove(&account.name);
        }
        account.name = name.into();
        account.quota = quota;
        account.removed = removed;
        account.moved = true;
        if !removed {
            self.names.insert(account.name.clone(), id);
        }
    }

    /// An account is gone, with what is left of it.
    pub fn remove_account(&mut self, id: AccountId) -> Option<Account> {
        let account = self.accounts.remove(&id)?;
        if self.names.get(&account.name) == Some(&id) {
            self.names.remove(&account.name);
        }
        account.mailboxes.values().for_each(|m| drop(self.mailboxes.remove(m)));
        Some(account)
    }

    /// A mailbox is so; a new one is empty. `false`: there is no such account.
    pub fn put_mailbox(
        &mut self,
        id: MailboxId,
        account: AccountId,
        name: &str,
        uidvalidity: u32,
        special: Option<SpecialUse>,
    ) -> bool {
        let Some(owner) = self.accounts.get_mut(&account) else { return false };
        let name: Rc<str> = name.into();
        let mailbox = self.mailboxes.entry(id).or_insert_with(|| Mailbox {
            account,
            name: name.clone(),
            special,
            status: Status { mailbox: id, uidnext: 1, highest_modseq: 1, ..Status::default() },
            kept_from: 1,
            fresh: Fresh::default(),
            keywords: Vec::new(),
        });
        if owner.find(&mailbox.name) == Some(id) {
            owner.mailboxes.remove(&mailbox.name);
        }
        mailbox.name = name.clone();
        mailbox.special = special;
        mailbox.status.uidvalidity = uidvalidity;
        owner.mailboxes.insert(name, id);
        owner.moved = true;
        true
    }

    /// A mailbox is gone.
    pub fn remove_mailbox(&mut self, id: MailboxId) -> Option<Mailbox> {
        let mailbox = self.mailboxes.remove(&id)?;
        if let Some(owner) = self.accounts.get_mut(&mailbox.account) {
            if owner.find(&mailbox.name) == Some(id) {
                owner.mailboxes.remove(&mailbox.name);
            }
            owner.bytes -= mailbox.status.bytes;
            owner.messages -= u64::from(mailbox.status.messages);
            owner.moved = true;
        }
        Some(mailbox)
    }

    /// A name is subscribed, or not.
    pub fn subscribe(&mut self, account: AccountId, name: &str, on: bool) {
        let Some(owner) = self.accounts.get_mut(&account) else { return };
        match on {
            true => owner.subscribed.insert(name.into()),
            false => owner.subscribed.remove(name),
        };
        owner.moved = true;
    }

    /// A keyword of a mailbox.
    pub fn put_keyword(&mut self, mailbox: MailboxId, bit: u8, name: &str) {
        let Some(m) = self.mailboxes.get_mut(&mailbox) else { return };
        let bit = usize::from(bit);
        if m.keywords.len() <= bit {
            m.keywords.resize(bit + 1, "".into());
        }
        m.keywords[bit] = name.into();
        if let Some(owner) = self.accounts.get_mut(&m.account) {
            owner.moved = true;
        }
    }

    /// A mailbox's counters are these. `false`: there is no such mailbox.
    pub fn count(&mut self, now: Status) -> bool {
        let Some(m) = self.mailboxes.get_mut(&now.mailbox) else { return false };
        let before = m.status;
        m.status = Status { uidvalidity: before.uidvalidity, ..now };
        if let Some(owner) = self.accounts.get_mut(&m.account) {
            owner.bytes = owner.bytes - before.bytes + now.bytes;
            owner.messages = owner.messages - u64::from(before.messages) + u64::from(now.messages);
        }
        true
    }

    /// An account as a row.
    #[must_use]
    pub fn account_row(&self, id: AccountId) -> Option<AccountRow> {
        self.accounts.get(&id).map(|a| AccountRow {
            name: a.name.to_string(),
            quota: a.quota,
            removed: a.removed,
            home: a.home,
            subscribed: a.subscribed.iter().map(|s| s.to_string()).collect(),
        })
    }

    /// A mailbox as a row.
    #[must_use]
    pub fn mailbox_row(&self, id: MailboxId) -> Option<MailboxRow> {
        self.mailboxes.get(&id).map(|m| MailboxRow {
            account: m.account,
            name: m.name.to_string(),
            special: m.special,
            status: m.status,
            kept_from: m.kept_from,
            fresh: m.fresh.clone(),
            keywords: m.keywords.iter().map(|k| k.to_string()).collect(),
        })
    }

    /// An account as the index has it.
    pub fn load_account(&mut self, id: AccountId, row: &AccountRow) {
        self.put_account(id, &row.name, row.quota, row.removed);
        row.subscribed.iter().for_each(|name| self.subscribe(id, name, true));
        let account = self.accounts.get_mut(&id).expect("just put");
        account.home = row.home;
        account.moved = row.home == Place::default();
    }

    /// A mailbox as the index has it. `false`: there is no such account.
    pub fn load_mailbox(&mut self, id: MailboxId, row: &MailboxRow) -> bool {
        let moved = self.accounts.get(&row.account).is_some_and(|a| a.moved);
        if !self.put_mailbox(id, row.account, &row.name, row.status.uidvalidity, row.special) {
            return false;
        }
        self.count(row.status);
        let m = self.mailboxes.get_mut(&id).expect("just put");
        m.kept_from = row.kept_from;
        m.fresh = row.fresh.clone();
        m.keywords = row.keywords.iter().map(|k| k.as_str().into()).collect();
        self.accounts.get_mut(&row.account).expect("just seen").moved = moved;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Directory {
        let mut d = Directory::default();
        d.put_account(AccountId(1), "a", Quota::default(), false);
        for (n, name) in ["INBOX", "x", "x!", "x/y", "xz"].iter().enumerate() {
            assert!(d.put_mailbox(MailboxId(n as u32 + 1), AccountId(1), name, 5, None));
        }
        d
    }

    #[test]
    fn usage_is_the_sum_of_the_mailboxes() {
        let mut d = one();
        let status =
            |n, messages, bytes| Status { mailbox: MailboxId(n), messages, bytes, ..Status::default() };
        assert!(d.count(status(1, 3, 100)) && d.count(status(2, 1, 50)) && !d.count(status(9, 1, 1)));
        d.count(status(1, 2, 90));
        let usage = d.account(AccountId(1)).unwrap().usage();
        assert_eq!((usage.messages, usage.bytes), (3, 140));
        assert_eq!(d.mailbox(MailboxId(1)).unwrap().status.uidvalidity, 5, "it stays");
        d.remove_mailbox(MailboxId(2));
        let usage = d.account(AccountId(1)).unwrap().usage();
        assert_eq!((usage.messages, usage.bytes), (2, 90));
    }

    #[test]
    fn names_and_what_lies_below_them() {
        let mut d = one();
        let a = d.account(AccountId(1)).unwrap();
        assert!(a.has_below("x") && !a.has_below("x!") && !a.has_below("xz") && !a.has_below("INBOX"));
        assert!(d.put_mailbox(MailboxId(2), AccountId(1), "new", 5, None));
        let a = d.account(AccountId(1)).unwrap();
        assert_eq!((a.find("x"), a.find("new"), a.mailboxes.len()), (None, Some(MailboxId(2)), 5));
        d.put_account(AccountId(1), "b", Quota::default(), false);
        assert_eq!((d.named("a"), d.named("b")), (None, Some(AccountId(1))));
        d.put_account(AccountId(1), "", Quota::default(), true);
        assert_eq!((d.named(""), d.named("b")), (None, None));
        assert!(d.remove_account(AccountId(1)).is_some() && d.is_empty());
    }

    #[test]
    fn rows_bring_it_back() {
        let mut d = one();
        d.put_keyword(MailboxId(2), 1, "$Junk");
        d.subscribe(AccountId(1), "x", true);
        d.count(Status { mailbox: MailboxId(2), uidnext: 9, messages: 1, bytes: 7, ..Status::default() });
        let mut again = Directory::default();
        again.load_account(AccountId(1), &d.account_row(AccountId(1)).unwrap());
        for n in 1..=5 {
            assert!(again.load_mailbox(MailboxId(n), &d.mailbox_row(MailboxId(n)).unwrap()));
            assert_eq!(again.mailbox_row(MailboxId(n)), d.mailbox_row(MailboxId(n)));
        }
        assert_eq!(again.account_row(AccountId(1)), d.account_row(AccountId(1)));
        assert_eq!(again.account(AccountId(1)).unwrap().bytes, 7);
    }
}

//! L4: cleaning of the archive: what still lives in a segment of mostly dead bodies is copied once more,
//! and the segment removed.
//!
//! A body lives if its row names the place, an account's home if the account does. The new place goes
//! into the row first; the old one is given up when the index has that. A segment that cannot be read is
//! left alone; one of which nothing can be copied now is passed over; lack of space ends the pass. While
//! space is short segments go that are mostly alive, too: who deletes at random leaves something everywhere.

use crate::mailbox::record;
use crate::mailbox::row::{BodyRow, Key};
use crate::mailbox::store::Store;
use crate::mailbox::store::archiving::names;
use crate::mailbox::types::{AccountId, BodyId};
use crate::runtime::Runtime;
use crate::runtime::table::Table;
use crate::storage::archive::{Entry, Place, Victim};
use crate::storage::record::RecordHead;
use crate::storage::space::Shortage;
use std::collections::BTreeSet;

/// What has come of a segment that was to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cleaned {
    /// It has gone, or less lives in it.
    Some,
    /// Nothing of it can be copied now: what lives in it is on its way out otherwise, or cannot be read.
    Nothing,
    /// There is no space, or the end has come.
    NoSpace,
}

/// A record that was copied within the archive.
struct Moved {
    entry: Entry,
    from: Place,
    to: Place,
}

impl<R: Runtime> Store<R> {
    /// Removes and copies what should be, until nothing is left to do or nothing can be done now.
    pub(super) async fn tidy_archive(&self) {
        self.0.vault.give_last(true);
        self.tidy_segments().await;
        self.0.vault.give_last(false);
    }

    async fn tidy_segments(&self) {
        let vault = &self.0.vault;
        let mut passed = BTreeSet::new();
        while let Some(victim) = vault.victim_of(self.0.rt.wall(), self.refuses_mail(), &passed) {
            let cleaned = match victim {
                Victim::Empty(segment) if self.remove_empty(segment).await => Cleaned::Some,
                Victim::Empty(_) => Cleaned::NoSpace,
                Victim::Copy(segment) => {
                    let cleaned = self.clean(segment).await;
                    if cleaned == Cleaned::Nothing {
                        passed.insert(segment);
                    }
                    cleaned
                }
            };
            if cleaned == Cleaned::NoSpace || self.must_stop() {
                return;
            }
            if self.refuses_mail() {
                // As soon as it is not, no more is copied than is worth it.
                let _ = vault.look_at_space().await;
            }
        }
    }

    /// New mail is refused for want of space on the disk.
    pub(super) fn refuses_mail(&self) -> bool {
        let (keeper, vault) = (&self.0.keeper, &self.0.vault);
        vault.is_short() || vault.is_scarce() && keeper.shortage() == Some(Shortage::Full)
    }

    /// An index that still names bodies in the segment, an old copy, must be known for one from now on.
    async fn remove_empty(&self, segment: u32) -> bool {
        self.0.keeper.keep_mark().await.is_ok() && self.0.vault.remove(segment).await.is_ok()
    }

    /// Copies what lives in `segment`.
    async fn clean(&self, segment: u32) -> Cleaned {
        let Ok(entries) = self.0.vault.footer(segment).await else {
            self.0.vault.leave(segment);
            return Cleaned::Nothing;
        };
        let vault = self.0.vault.clone();
        let (mut moved, mut full) = (Vec::new(), false);
        for entry in entries {
            let from = Place { segment, offset: entry.offset, len: entry.len };
            if !self.lives(&entry, from).await {
                continue;
            }
            let Ok(payload) = vault.read(from, entry.id).await else {
                // A damaged body keeps its segment: there may be more to be had from it by hand.
                vault.leave(segment);
                continue;
            };
            let (kind, version, flags) = (entry.kind, record::VERSION, record::FIRST);
            let head = RecordHead { kind, version, flags, id: entry.id };
            match vault.append(head, entry.owner, &[&payload]).await {
                Ok(to) => moved.push(Moved { entry, from, to }),
                Err(_) => {
                    full = true;
                    break;
                }
            }
            if self.is_closed() {
                return Cleaned::NoSpace;
            }
        }
        // What a full disk has cost is not durable, and given up below.
        full |= vault.sync().await.is_err();
        let mut any = false;
        for m in moved {
            let done = vault.is_durable(m.to) && self.relocate(&m).await;
            any |= done;
            if !done {
                vault.dead(m.to, self.0.rt.wall());
            }
        }
        self.indexed().await;
        match any {
            _ if full => Cleaned::NoSpace,
            true => Cleaned::Some,
            false => Cleaned::Nothing,
        }
    }

    /// The account whose home may be there: the footer says whose it is, unless there is none.
    fn account_at(&self, place: Place) -> Option<AccountId> {
        let s = self.0.state.borrow();
        s.shard.directory.accounts().find(|(_, a)| a.home == place).map(|(id, _)| id)
    }

    async fn body_row_now(&self, id: BodyId) -> Option<Vec<u8>> {
        let _cold = self.cold().await;
        let key = Key::body(id);
        let over = self.0.state.borrow().shard.ledger.get(&key).map(|row| row.map(<[u8]>::to_vec));
        match over {
            Some(row) => row,
            None => self.0.table.get(&key.bytes()).await.ok().flatten(),
        }
    }

    async fn lives(&self, entry: &Entry, place: Place) -> bool {
        match entry.kind {
            record::ACCOUNT => self.account_at(place).is_some(),
            _ => names(self.body_row_now(BodyId(entry.id)).await.as_deref(), place),
        }
    }

    /// Says the new place, if the old one is still right. `false`: it is not.
    async fn relocate(&self, m: &Moved) -> bool {
        if m.entry.kind == record::ACCOUNT {
            let Some(id) = self.account_at(m.from) else { return false };
            let mut s = self.0.state.borrow_mut();
            if let Some(account) = s.shard.directory.account_mut(id) {
                account.home = m.to;
            }
            s.dying.push((Key::account(id), m.from));
            s.ledger().touch(Key::account(id), None);
            return true;
        }
        let id = BodyId(m.entry.id);
        let now = self.body_row_now(id).await;
        let mut s = self.0.state.borrow_mut();
        if s.dropping.contains(&id) {
            // The transaction under way gives up its old place.
            return false;
        }
        // It may have been deleted since.
        let over = s.shard.ledger.get(&Key::body(id)).map(|row| row.map(<[u8]>::to_vec));
        let row = over.unwrap_or(now);
        let Some(row) = row.as_deref().and_then(|r| BodyRow::parse(r).ok()).filter(|r| r.place == m.from)
        else {
            return false;
        };
        let value = BodyRow { place: m.to, ..row }.encode();
        s.dying.push((Key::body(id), m.from));
        s.leaving.insert(id, m.to);
        // It has a row, or one that waits: then the ledger knows.
        s.ledger().replace(Key::body(id), value, None);
        true
    }
}

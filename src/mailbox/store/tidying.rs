//! L4: cleaning of the archive: what still lives in a segment of mostly dead bodies is copied once more,
//! and the segment removed.
//!
//! A body lives if its row names the place, an account's home if the account does. The new place goes
//! into the row first; the old one is given up when the index has that. A segment that cannot be read is
//! left alone; lack of space ends the pass.

use crate::mailbox::record;
use crate::mailbox::row::{BodyRow, Key};
use crate::mailbox::store::Store;
use crate::mailbox::store::archiving::names;
use crate::mailbox::types::{AccountId, BodyId};
use crate::runtime::Runtime;
use crate::runtime::table::Table;
use crate::storage::archive::{Entry, Place, Victim};
use crate::storage::record::RecordHead;

/// A record that was copied within the archive.
struct Moved {
    entry: Entry,
    from: Place,
    to: Place,
}

impl<R: Runtime> Store<R> {
    /// Removes and copies what should be, until nothing is left to do or nothing can be done now.
    pub(super) async fn tidy_archive(&self) {
        while let Some(victim) = self.0.vault.victim(self.0.rt.wall()) {
            let done = match victim {
                Victim::Empty(segment) => self.remove_empty(segment).await,
                Victim::Copy(segment) => self.clean(segment).await,
            };
            if !done || self.is_closed() {
                return;
            }
        }
    }

    /// An index that still names bodies in the segment, an old copy, must be known for one from now on.
    async fn remove_empty(&self, segment: u32) -> bool {
        self.0.keeper.keep_mark().await.is_ok() && self.0.vault.remove(segment).await.is_ok()
    }

    /// Copies what lives in `segment`. `false`: not now.
    async fn clean(&self, segment: u32) -> bool {
        let Ok(entries) = self.0.vault.footer(segment).await else {
            self.0.vault.leave(segment);
            return true;
        };
        let vault = self.0.vault.clone();
        let mut moved = Vec::new();
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
                Err(_) => break,
            }
            if self.is_closed() {
                return false;
            }
        }
        // What a full disk has cost is not durable, and given up below.
        let synced = vault.sync().await.is_ok();
        let mut any = false;
        for m in moved {
            let done = vault.is_durable(m.to) && self.relocate(&m).await;
            any |= done;
            if !done {
                vault.dead(m.to, self.0.rt.wall());
            }
        }
        self.indexed().await;
        synced && any
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
            s.dying.push(m.from);
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
        s.dying.push(m.from);
        s.leaving.insert(id, m.to);
        s.ledger().put(Key::body(id), value, false, None);
        true
    }
}

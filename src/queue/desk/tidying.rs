//! L4: cleaning of the archive: what still lives in a segment of mostly dead bodies is copied once
//! more, and the segment removed.
//!
//! A body lives if the row of its message names it. The new place goes into the row first; the old
//! one is given up when the index has that. A segment that cannot be read is left alone and told by
//! `storage verify`; lack of space ends the pass.

use crate::base::ids::MessageId;
use crate::queue::desk::Desk;
use crate::queue::index::{Key, Presence};
use crate::queue::ledger::Change;
use crate::queue::record;
use crate::queue::row::{self, RowView};
use crate::queue::state::State;
use crate::queue::stub::Marks;
use crate::runtime::table::Table;
use crate::runtime::{Runtime, yield_now};
use crate::storage::archive::{Entry, Place, Victim};
use crate::storage::record::RecordHead;
use std::io;

/// Messages looked up at a time.
const TOGETHER: usize = 512;

/// A body that was copied within the archive.
struct Moved {
    id: MessageId,
    from: Place,
    to: Place,
}

impl<R: Runtime> Desk<R> {
    /// Removes and copies what should be, until nothing is left to do or nothing can be done now.
    pub(crate) async fn tidy_archive(&self) {
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
        let Ok(live) = self.living(segment, &entries).await else { return false };
        let vault = self.0.vault.clone();
        let mut moved = Vec::new();
        for (id, from) in live {
            let Ok(payload) = vault.read(from, id.0).await else {
                // A damaged body keeps its segment: there may be more to be had from it by hand.
                vault.leave(segment);
                continue;
            };
            let head = RecordHead { kind: record::MESSAGE, version: record::VERSION, flags: 0, id: id.0 };
            match vault.append(head, 0, &[&payload]).await {
                Ok(to) => moved.push(Moved { id, from, to }),
                Err(_) => break,
            }
            if self.is_closed() {
                return false;
            }
        }
        // What a full disk has cost is not durable, and given up below.
        let synced = vault.sync().await.is_ok();
        let mut any = false;
        for some in moved.chunks(TOGETHER) {
            any |= self.relocate(some).await;
        }
        self.index_settled().await;
        synced && any
    }

    /// Messages whose rows name a body in `segment`.
    async fn living(&self, segment: u32, entries: &[Entry]) -> io::Result<Vec<(MessageId, Place)>> {
        let mut live = Vec::new();
        for some in entries.chunks(TOGETHER) {
            let known: Vec<(MessageId, Place)> = {
                let s = self.0.state.borrow();
                let place = |e: &Entry| Place { segment, offset: e.offset, len: e.len };
                let ids = some.iter().map(|e| (MessageId(e.id), place(e)));
                ids.filter(|(id, _)| s.index.find(*id).is_some()).collect()
            };
            let rows = self.rows(known.iter().map(|k| k.0)).await?;
            let named = |row: &Option<Box<[u8]>>| {
                row.as_deref().and_then(|r| RowView::parse(r).ok()).map(|view| view.place)
            };
            live.extend(known.into_iter().zip(rows).filter(|(k, row)| named(row) == Some(k.1)).map(|k| k.0));
            yield_now().await;
        }
        Ok(live)
    }

    /// The rows of messages as they are now.
    pub(crate) async fn rows(
        &self,
        ids: impl Iterator<Item = MessageId> + Clone,
    ) -> io::Result<Vec<Option<Box<[u8]>>>> {
        loop {
            let mark = self.0.state.borrow().ledger.mark();
            let keys = ids.clone().map(|id| row::key(id).to_vec()).collect();
            let rows = self.0.table().get_many(keys).await?;
            let s = self.0.state.borrow();
            if s.ledger.mark() != mark {
                // A transaction has ended meanwhile: some may be older than what was forgotten with it.
                continue;
            }
            let newest = |(id, row): (MessageId, Option<Vec<u8>>)| match s.ledger.row(id) {
                Some(row) => row.map(Box::from),
                None => row.map(Vec::into_boxed_slice),
            };
            return Ok(ids.zip(rows).map(newest).collect());
        }
    }

    /// Writes the new places into rows, as far as they still name the old ones. `true`: into some.
    async fn relocate(&self, moved: &[Moved]) -> bool {
        let wall = self.0.rt.wall();
        let rows = self.rows(moved.iter().map(|m| m.id)).await;
        let mut any = false;
        let mut s = self.0.state.borrow_mut();
        for (n, m) in moved.iter().enumerate() {
            let row = rows.as_ref().ok().and_then(|rows| rows[n].as_deref());
            let done = self.0.vault.is_durable(m.to) && self.relocate_one(&mut s, m, row);
            any |= done;
            if !done {
                self.0.vault.dead(m.to, wall);
            }
        }
        any
    }

    fn relocate_one(&self, s: &mut State, m: &Moved, row: Option<&[u8]>) -> bool {
        let Some(key) = s.index.find(m.id) else { return false };
        let change = Change { dead: [m.from].into_iter().collect(), ..Change::default() };
        match s.index.presence(key) {
            Presence::Gone => false,
            Presence::Rich => {
                let renamed = s.index.change(key, |e| match &mut e.archived {
                    Some(a) if a.place == m.from => {
                        a.place = m.to;
                        true
                    }
                    _ => false,
                });
                if renamed == Some(true) {
                    self.enter_row(s, key, None, change);
                }
                renamed == Some(true)
            }
            Presence::Parked => relocate_parked(s, key, m, row, change),
        }
    }
}

fn relocate_parked(s: &mut State, key: Key, m: &Moved, row: Option<&[u8]>, mut change: Change) -> bool {
    // Who reads it now has the old place in hand.
    if s.index.stub(key).is_none_or(|stub| stub.marks.has(Marks::RECALLING)) {
        return false;
    }
    let Some(view) = row.and_then(|r| RowView::parse(r).ok()).filter(|v| v.place == m.from) else {
        return false;
    };
    let recipients: Vec<_> = view.recipients().collect();
    let mut bytes = Vec::new();
    row::write(&mut bytes, &row::RowHead { place: m.to, ..view.head() }, recipients.into_iter());
    change.row = Some(bytes.into());
    change.key = Some(key);
    s.ledger.enter(m.id, change);
    s.index_bell.ring();
    true
}

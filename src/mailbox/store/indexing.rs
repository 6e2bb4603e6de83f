//! L4: the task that brings the index up to date, one transaction at a time.
//!
//! A transaction holds what is known from committed records; when it is durable they are given up, as are
//! bodies that went into the archive, and places there that nothing names any more. A disk without space
//! makes new rows wait, deletes go on; any other error of the index poisons like a failed write.

use crate::base::time::Mono;
use crate::mailbox::row::{self, BodyRow, Key, Meta};
use crate::mailbox::store::opening::each_row;
use crate::mailbox::store::{State, Store};
use crate::mailbox::types::{AccountId, BodyId, MailboxId};
use crate::runtime::Runtime;
use crate::runtime::table::{Changes, Table};
use crate::storage::archive::Place;
use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// How long to wait when the disk is full.
const SPACE_WAIT: Duration = Duration::from_secs(1);

/// What goes with a transaction.
#[derive(Default)]
struct Batch {
    changes: Changes,
    mark: u64,
    /// Bodies whose rows are deleted.
    bodies: BTreeSet<BodyId>,
    /// Bodies that have lost a reference.
    loosened: BTreeSet<BodyId>,
    /// Mailboxes that are gone.
    mailboxes: Vec<u64>,
    /// Places that are dead when it is durable: others are named now, or none.
    dying: Vec<(Key, Place)>,
    dead: Vec<Place>,
    /// Places of bodies that go before the index ever named them.
    unnamed: Vec<(BodyId, Place)>,
    sides: Vec<u64>,
    /// Bodies that are in the archive for good when it is, and where.
    arrived: Vec<(BodyId, Place)>,
}

impl<R: Runtime> Store<R> {
    /// Runs until the store is closed.
    pub(super) async fn keep_index(self) {
        let counted = self.count().await;
        match counted {
            Ok(()) => self.write_changes().await,
            Err(_) if self.is_closed() => {}
            // What lives in the archive is not known: nothing could ever be given up.
            Err(_) => self.die(),
        }
        let mut s = self.0.state.borrow_mut();
        s.index_ended = true;
        s.crowd.wake_all();
    }

    /// Counts what lives in the archive. No transaction before that.
    async fn count(&self) -> io::Result<()> {
        let mut sides = BTreeSet::new();
        each_row(&self.0.table, row::BODIES, |_, value| {
            let row = BodyRow::parse(value).map_err(|_| io::ErrorKind::InvalidData)?;
            self.0.vault.keep(row.place);
            sides.insert(row.side);
            Ok(())
        })
        .await?;
        let homes: Vec<Place> = {
            let s = self.0.state.borrow();
            sides.extend(s.shard.bodies.iter().map(|(_, b)| b.side));
            s.shard.directory.accounts().map(|(_, a)| a.home).filter(|h| h.segment != 0).collect()
        };
        for home in homes {
            self.0.vault.keep(home);
        }
        self.0.vault.counted();
        {
            let mut s = self.0.state.borrow_mut();
            s.counted = true;
            s.mover_bell.ring();
            s.crowd.wake_all();
        }
        self.0.keeper.remove_orphan_sides(&sides).await.map(drop)
    }

    async fn write_changes(&self) {
        // While the disk is full new rows wait until then, and others go in small transactions.
        let mut full_until: Option<Mono> = None;
        loop {
            let short = full_until.is_some_and(|until| self.0.rt.now() < until);
            if !self.due(short).await {
                return;
            }
            match self.write_index(short).await {
                Ok(()) if short && self.is_closed() => return,
                Ok(()) if short => {}
                Ok(()) => full_until = None,
                Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                    let closing = {
                        let mut s = self.0.state.borrow_mut();
                        s.ledger().failed();
                        s.index_short = true;
                        // Who waits for new rows may wait long.
                        s.crowd.wake_all();
                        s.closing
                    };
                    if short && closing {
                        // The journal still has it all.
                        return;
                    }
                    full_until = Some(self.0.rt.now().after(SPACE_WAIT * 4));
                }
                Err(_) => return self.die(),
            }
        }
    }

    /// Waits until a transaction is due. `false`: there will be none.
    async fn due(&self, short: bool) -> bool {
        let mut sleep = pin!(self.0.rt.sleep_until(self.0.rt.now().after(SPACE_WAIT)));
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            loop {
                if s.dead {
                    return Poll::Ready(false);
                }
                let something = !s.shard.ledger.is_empty();
                if s.closing && s.commits.is_empty() {
                    return Poll::Ready(something);
                }
                let many = s.shard.ledger.len() > self.0.options.changes_max;
                if !short && something && (many || s.is_wanted()) {
                    return Poll::Ready(true);
                }
                if s.index_bell.poll(cx).is_pending() {
                    drop(s);
                    return if short { sleep.as_mut().poll(cx).map(|()| true) } else { Poll::Pending };
                }
            }
        })
        .await
    }

    /// Waits until the index has all that is known now, or has no space for it, or the end.
    pub(super) async fn indexed(&self) {
        let goal = {
            let mut s = self.0.state.borrow_mut();
            s.index_short = false;
            s.shard.ledger.mark() + 2
        };
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            let done = s.shard.ledger.is_empty() || s.shard.ledger.mark() >= goal;
            if s.dead || s.closing || s.index_short || done {
                return Poll::Ready(());
            }
            // Each time: what has come since the last transaction asks for none by itself.
            s.wanted = s.wanted.max(goal);
            s.index_bell.ring();
            s.crowd.join(cx);
            Poll::Pending
        })
        .await;
    }

    async fn write_index(&self, short: bool) -> io::Result<()> {
        let mut batch = self.collect(short);
        self.drop_mailboxes(&mut batch).await?;
        self.drop_bodies(&mut batch).await?;
        // What the rows say must be in the journal first: it is what a restart goes by.
        self.0.keeper.fence().await.map_err(io::Error::other)?;
        if let Err(e) = self.0.table.commit(std::mem::take(&mut batch.changes)).await {
            // Without space nothing was changed: all of it comes again.
            let mut s = self.0.state.borrow_mut();
            s.dropping.clear();
            s.dying.append(&mut batch.dying);
            s.leaving.extend(batch.unnamed);
            return Err(e);
        }
        self.finish(batch).await;
        Ok(())
    }

    fn collect(&self, short: bool) -> Batch {
        let mut batch = Batch::default();
        let mut s = self.0.state.borrow_mut();
        let State { shard, dying, leaving, through, .. } = &mut *s;
        let directory = &shard.directory;
        let make = |key: &Key| match key.tag() {
            row::ACCOUNTS => directory.account_row(AccountId(key.a() as u32)).map(|r| r.encode()),
            _ => directory.mailbox_row(MailboxId(key.a() as u32)).map(|r| r.encode()),
        };
        let changes = &mut batch.changes;
        shard.ledger.take(short, make, |key, value| {
            let body = BodyId(key.a());
            match (key.tag(), value) {
                (row::BODIES, None) => drop(batch.bodies.insert(body)),
                (row::BODIES, Some(_)) => batch.arrived.extend(leaving.get(&body).map(|at| (body, *at))),
                (row::REFERENCES, None) => drop(batch.loosened.insert(body)),
                (row::MAILBOXES, None) => batch.mailboxes.push(key.a()),
                _ => {}
            }
            match value {
                Some(value) => changes.put(&key.bytes(), value),
                None => changes.delete(&key.bytes()),
            }
        });
        // The rows that name other places are among what goes, but for those that wait.
        let (wait, go) = std::mem::take(dying).into_iter().partition(|d| shard.ledger.waits(&d.0));
        (*dying, batch.dying) = (wait, go);
        batch.mark = shard.ledger.mark() + 1;
        let meta = Meta {
            log: self.0.keeper.log(),
            mark: batch.mark,
            last: shard.last,
            account: shard.account,
            mailbox: shard.mailbox,
            uidvalidity: shard.uidvalidity,
            through: *through,
        };
        batch.changes.put(row::META, &meta.encode());
        batch.changes.leave(self.0.vault.claims());
        batch
    }

    /// The history of a mailbox goes with it.
    async fn drop_mailboxes(&self, batch: &mut Batch) -> io::Result<()> {
        for mailbox in &batch.mailboxes {
            for modseq in self.rows(row::EXPUNGES, *mailbox).await?.into_keys() {
                let key = Key::expunge(MailboxId(*mailbox as u32), modseq);
                batch.changes.delete(&key.bytes());
            }
        }
        Ok(())
    }

    /// Bodies without a message go: those said so, and those whose last reference does.
    async fn drop_bodies(&self, batch: &mut Batch) -> io::Result<()> {
        for body in std::mem::take(&mut batch.loosened) {
            let there = self.rows(row::REFERENCES, body.0).await?;
            let mut s = self.0.state.borrow_mut();
            let over = s.shard.ledger.over(row::REFERENCES, body.0);
            let kept = there.keys().any(|b| !over.contains_key(b)) || over.values().any(Option::is_some);
            if !kept && s.shard.bodies.get(body).is_none_or(|b| b.refs.is_empty()) {
                batch.changes.delete(&Key::body(body).bytes());
                batch.bodies.insert(body);
                s.dropping.insert(body);
                if s.shard.ledger.get(&Key::body(body)).is_some_and(|row| row.is_some()) {
                    // It was copied within the archive since the transaction began: the row with its new
                    // place must not come after this one.
                    s.ledger().delete(Key::body(body), None);
                }
            }
        }
        let bodies: Vec<BodyId> = batch.bodies.iter().copied().collect();
        for some in bodies.chunks(1024) {
            let keys = some.iter().map(|id| Key::body(*id).bytes().to_vec()).collect();
            let rows = self.0.table.get_many(keys).await?;
            let mut s = self.0.state.borrow_mut();
            for (id, value) in some.iter().zip(rows) {
                let row = value.as_deref().and_then(|v| BodyRow::parse(v).ok());
                batch.sides.extend(row.map(|r| r.side).filter(|side| *side != 0));
                // The place that it was to get may never have got into the index.
                match s.leaving.remove(id) {
                    Some(place) => batch.unnamed.push((*id, place)),
                    None => batch.dead.extend(row.map(|r| r.place)),
                }
            }
        }
        batch.arrived.retain(|(id, _)| !batch.bodies.contains(id));
        Ok(())
    }

    /// The transaction is durable.
    async fn finish(&self, batch: Batch) {
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            s.finishing = true;
            if s.cold_reads == 0 {
                return Poll::Ready(());
            }
            s.crowd.join(cx);
            Poll::Pending
        })
        .await;
        let wall = self.0.rt.wall();
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        s.finishing = false;
        s.index_short = false;
        s.dropping.clear();
        s.shard.ledger.done(batch.mark);
        self.0.keeper.set_mark(batch.mark);
        for (id, place) in batch.arrived {
            // It may have been copied once more since.
            if s.leaving.get(&id) == Some(&place) {
                s.leaving.remove(&id);
                s.shard.bodies.remove(id);
            }
        }
        let unnamed = batch.unnamed.into_iter().map(|u| u.1);
        let dead = batch.dead.into_iter().chain(batch.dying.into_iter().map(|d| d.1)).chain(unnamed);
        dead.for_each(|place| self.0.vault.dead(place, wall));
        self.discard(&batch.sides);
        self.give_up(s);
        s.crowd.wake_all();
        s.mover_bell.ring();
    }
}

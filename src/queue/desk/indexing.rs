//! L4: the task that brings the index up to date, one transaction at a time.
//!
//! A transaction holds what is known from records that are on stable storage in the journal (a fence
//! is waited for first); when it is durable, the records and places that it replaces are given up and
//! messages that wait are parked. A disk without space makes new rows wait; any other error of the
//! index poisons like a failed write of the journal.

use crate::base::time::{Mono, Wall};
use crate::queue::desk::Desk;
use crate::queue::index::{Cover, Entry, Key, NOWHERE, Phase, Recipient};
use crate::queue::ledger::Change;
use crate::queue::record::{self, Fate};
use crate::queue::row::{self, Meta, RowHead, RowRecipient};
use crate::queue::state::{self, About, After, OwnedReply, State};
use crate::runtime::Runtime;
use crate::runtime::table::{Changes, Table};
use crate::storage::record::Location;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// So many changes are written without waiting for more.
const BATCH: usize = 20_000;
/// How long changes wait for more of them.
const GATHER: Duration = Duration::from_millis(100);
/// How long to wait when the disk is full.
pub(crate) const SPACE_WAIT: Duration = Duration::from_secs(1);
/// Changes that wait, above which no more messages are taken out of the archive.
pub(crate) const LAG_MAX: usize = 200_000;

impl<R: Runtime> Desk<R> {
    /// Runs until the desk is closed and the index has everything.
    pub(crate) async fn keep_index(self) {
        self.write_changes().await;
        let mut s = self.0.state.borrow_mut();
        s.index_ended = true;
        s.crowd.wake_all();
    }

    /// A record about an archived message is on stable storage: the index is to learn of it.
    pub(super) fn tell_index(&self, s: &mut State, about: About, at: Location) {
        match about {
            About::Others => {}
            About::Archived(key, id) => {
                let there = s.index.change(key, |e| {
                    let archived = e.archived.as_mut().expect("an archived message stays one");
                    archived.unsaid -= 1;
                });
                match there {
                    Some(()) => self.enter_row(s, key, Some(at), Change::default()),
                    // It has ended since: that record follows.
                    None => s.orphans.entry(id).or_default().push(at),
                }
            }
            About::Parked(key, id) => self.tell_parked(s, key, id, at),
            About::Gone(id, place) => {
                let mut outcomes = s.orphans.remove(&id).unwrap_or_default();
                outcomes.push(at);
                let dead = [place].into_iter().collect();
                s.ledger.enter(id, Change { outcomes, dead, ..Change::default() });
                s.index_bell.ring();
            }
        }
    }

    async fn write_changes(&self) {
        // While the disk is full new rows wait until then, and others go in small transactions.
        let mut full_until: Option<Mono> = None;
        while self.changed().await {
            self.gather().await;
            let now = self.0.rt.now();
            let full = full_until.filter(|until| now < *until);
            if let Some(until) = full {
                let (frees, closing) = {
                    let s = self.0.state.borrow();
                    (s.ledger.frees_space(), s.closing)
                };
                if !frees && closing {
                    // The journal still has it all.
                    return;
                }
                if !frees {
                    self.rest(until, true).await;
                    continue;
                }
            }
            match self.write_index(full.is_some()).await {
                Ok(()) if full.is_some() => {}
                Ok(()) => self.0.state.borrow_mut().index_short = false,
                Err(e) if is_full(&e) => {
                    let closing = {
                        let mut s = self.0.state.borrow_mut();
                        s.ledger.failed();
                        s.index_short = true;
                        // Who waits for new rows may wait long.
                        s.crowd.wake_all();
                        s.closing
                    };
                    let until = self.0.rt.now().after(SPACE_WAIT);
                    if full.is_some() {
                        if closing {
                            return;
                        }
                        self.rest(until, false).await;
                    }
                    full_until = Some(until.after(SPACE_WAIT));
                }
                Err(_) => {
                    self.0.poison.set();
                    return self.die(&mut self.0.state.borrow_mut(), After::Nothing);
                }
            }
        }
    }

    /// Waits until `until`, or the end; not longer than until something frees space, if `freed`.
    async fn rest(&self, until: Mono, freed: bool) {
        let mut sleep = pin!(self.0.rt.sleep_until(until));
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            loop {
                if s.dead || s.closing || freed && s.ledger.frees_space() {
                    return Poll::Ready(());
                }
                if s.index_bell.poll(cx).is_pending() {
                    drop(s);
                    return sleep.as_mut().poll(cx);
                }
            }
        })
        .await;
    }

    /// Waits for changes. `false`: there will be none.
    async fn changed(&self) -> bool {
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            loop {
                if s.dead {
                    return Poll::Ready(false);
                }
                if s.loaded && s.ledger.waiting() > 0 {
                    return Poll::Ready(true);
                }
                if s.closing && s.commits.is_empty() && s.unsettled.is_empty() {
                    return Poll::Ready(false);
                }
                if s.index_bell.poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    async fn gather(&self) {
        let mut sleep = pin!(self.0.rt.sleep_until(self.0.rt.now().after(GATHER)));
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            let enough = |s: &State| s.dead || s.closing || s.hurry || s.ledger.waiting() >= BATCH;
            while !enough(&s) {
                if s.index_bell.poll(cx).is_pending() {
                    drop(s);
                    return sleep.as_mut().poll(cx);
                }
            }
            Poll::Ready(())
        })
        .await;
    }

    async fn write_index(&self, short: bool) -> io::Result<()> {
        let mut changes = Changes::new();
        let mark = {
            let mut s = self.0.state.borrow_mut();
            let s = &mut *s;
            s.ledger.take(short, |key, value| match value {
                Some(value) => changes.put(key, value),
                None => changes.delete(key),
            });
            let mark = s.ledger.mark() + 1;
            let (log, last, through, doubt) = (self.0.keeper.log(), s.last_id, s.archived_through, s.doubt);
            let meta = Meta { log, mark, last, through, doubt };
            changes.put(row::META, &meta.encode());
            mark
        };
        // What the rows say must be in the journal first: it is what a restart goes by.
        self.0.keeper.fence().await.map_err(io::Error::other)?;
        self.0.table().commit(changes).await?;
        self.indexed(mark);
        Ok(())
    }

    /// Commits when the disk has space for it. For an index that is made anew, which nothing can be
    /// taken out of before.
    pub(crate) async fn commit_in_time(&self, changes: Changes) -> io::Result<()> {
        loop {
            match self.0.table().commit(changes.clone()).await {
                Err(e) if is_full(&e) && !self.is_closed() => {
                    self.0.rt.sleep_until(self.0.rt.now().after(SPACE_WAIT)).await;
                }
                result => return result,
            }
        }
    }

    /// The index has transaction `mark`.
    fn indexed(&self, mark: u64) {
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        self.0.keeper.set_mark(mark);
        let done = s.ledger.done(mark);
        s.index_short &= !s.ledger.is_empty();
        for (_, change) in done {
            let Change { key, outcomes, record, dead, .. } = change;
            outcomes.into_iter().for_each(|at| self.0.keeper.free(at));
            dead.into_iter().for_each(|place| self.0.vault.dead(place, wall));
            let Some(key) = key else { continue };
            if let Some(at) = record {
                let freed = s.index.change(key, |e| {
                    // The commit of what is being moved enters the new place.
                    let here = e.at == at && !e.switches.moving;
                    if here {
                        e.at = NOWHERE;
                    }
                    here
                });
                // If the message has gone meanwhile, the record that says so frees it.
                if freed == Some(true) {
                    self.0.keeper.free(at);
                }
            }
            s.park(key, now);
        }
        s.crowd.wake_all();
        s.mover_bell.ring();
    }

    /// At the end: waits until the task that keeps the index has ended. What it could not write is in
    /// the journal.
    pub(crate) async fn index_closed(&self) {
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            s.index_bell.ring();
            if s.index_ended {
                return Poll::Ready(());
            }
            s.crowd.join(cx);
            Poll::Pending
        })
        .await;
    }

    /// Waits until the index has all that is entered now, or has no space for it, or the desk is dead or
    /// closing.
    pub(crate) async fn index_settled(&self) {
        let goal = {
            let mut s = self.0.state.borrow_mut();
            s.hurry = true;
            s.index_bell.ring();
            s.ledger.mark() + if s.ledger.waiting() == s.ledger.len() { 1 } else { 2 }
        };
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            if s.dead || s.closing || s.index_short || s.ledger.is_empty() || s.ledger.mark() >= goal {
                s.hurry = false;
                return Poll::Ready(());
            }
            s.crowd.join(cx);
            Poll::Pending
        })
        .await;
    }

    /// Enters the present state of an archived message into the ledger. `outcome`: the record that
    /// says so, which lives until the index has it.
    pub(crate) fn enter_row(&self, s: &mut State, key: Key, outcome: Option<Location>, mut change: Change) {
        let wall = self.0.rt.wall();
        let now = self.0.rt.now();
        let State { index, ledger, doors, vias, .. } = s;
        let Some(e) = index.get(key) else { return };
        let Some(archived) = &e.archived else { return };
        let domain = index.domain(key).and_then(|d| std::str::from_utf8(d).ok());
        let domain = domain.map(|domain| state::domain_number(ledger, doors, e, domain));
        let replies = &archived.replies;
        let recipients: Vec<RowRecipient<'_>> = e
            .recipients
            .iter()
            .enumerate()
            .map(|(i, r)| {
                let reply = replies.iter().find(|p| p.0 == i as u32).map(|p| &p.1);
                let due = if r.phase == Phase::Waiting { wall.after(r.due.since(now)) } else { wall };
                let fate = fate(r);
                let due = match fate {
                    Fate::Deferred => due,
                    fate if fate.is_owed() => reply.map_or(Wall(0), |reply| reply.at),
                    _ => Wall(0),
                };
                RowRecipient {
                    fate,
                    destination: if fate.is_done() { 0 } else { state::number(ledger, doors, r.destination) },
                    attempts: if fate.is_done() { 0 } else { r.attempts },
                    due,
                    reply: reply.filter(|_| !fate.is_done()).map(OwnedReply::view).unwrap_or_default(),
                }
            })
            .collect();
        let mut bytes = Vec::new();
        let via = vias.get(e.id).unwrap_or_default();
        row::write(&mut bytes, &RowHead { domain, via, ..head(e) }, recipients.into_iter());
        change.row = Some(bytes.into());
        change.key = Some(key);
        change.outcomes.extend(outcome);
        let id = e.id;
        ledger.enter(id, change);
        s.index_bell.ring();
    }
}

pub(crate) fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn head(e: &Entry) -> RowHead<'static> {
    let marks = [
        (e.switches.held, record::HELD),
        (e.switches.warned, record::WARNED),
        (e.switches.double_bounce, record::DOUBLE_BOUNCE),
    ];
    RowHead {
        place: e.archived.as_ref().map(|a| a.place).unwrap_or_default(),
        size: e.size,
        side: e.side,
        body: e.body,
        marks: marks.iter().filter(|m| m.0).fold(0, |f, m| f | m.1),
        null_sender: e.switches.null_sender,
        domain: None,
        via: "",
    }
}

/// What a row says of a recipient.
fn fate(r: &Recipient) -> Fate {
    match r.phase {
        Phase::Delivered => Fate::Delivered,
        Phase::Failed => Fate::Failed,
        Phase::Owed => Fate::Owed,
        Phase::Passed => Fate::Passed,
        Phase::Flight => Fate::Attempting,
        Phase::Waiting => Fate::Deferred,
        // It may be, or an attempt has been announced and the next one will not be.
        Phase::Ready if r.cover != Cover::None => Fate::Attempting,
        Phase::Ready if r.attempts > 0 => Fate::Deferred,
        Phase::Ready => Fate::Fresh,
    }
}

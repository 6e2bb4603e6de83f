//! L4: taking what lives out of the oldest segment of the journal, so that it can be retired.
//!
//! Bodies go into the archive, once, with who has them; accounts that have changed get a new home there;
//! then the index gets all that it has not, and the journal's records are given up. What cannot be done
//! now is tried again; new mail is refused by the journal long before that becomes a danger.

use crate::mailbox::record::{self, BodyView, Item, Items};
use crate::mailbox::row::{BodyRow, Key};
use crate::mailbox::store::{State, Store};
use crate::mailbox::types::{AccountId, BodyId, MailboxId, Message};
use crate::runtime::table::Table;
use crate::runtime::{Runtime, yield_now};
use crate::storage::archive::{Archive, ArchiveError, Place};
use crate::storage::record::{Location, RecordHead};
use crate::storage::space::Shortage;
use smallvec::SmallVec;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// How long to wait before what could not be done is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is looked for space meanwhile.
const LOOKS: u32 = 20;

/// A body that has been appended to the archive.
struct Copied {
    id: BodyId,
    /// Its record in the journal.
    at: Location,
    place: Place,
    row: Vec<u8>,
}

/// It cannot go on now: no space, a disk that fails, or the end.
pub(super) struct Stop;

impl From<ArchiveError> for Stop {
    fn from(_: ArchiveError) -> Self {
        Stop
    }
}

impl<R: Runtime> Store<R> {
    /// Runs until the store is closed.
    pub(super) async fn evacuate(self) {
        // One segment of the archive for what leaves the journal, one for what is copied within the archive:
        // with these everything else can be given back.
        self.0.keeper.share_disk(2 * u64::from(self.0.options.archive.segment_bytes));
        while self.called().await {
            while let Some(segment) = self.crowded() {
                if !self.empty(segment).await {
                    self.wait_for_space(segment).await;
                }
                if self.must_stop() {
                    break;
                }
            }
            self.tidy().await;
            let mut s = self.0.state.borrow_mut();
            s.moving = false;
            s.crowd.wake_all();
        }
        let mut s = self.0.state.borrow_mut();
        s.mover_ended = true;
        s.crowd.wake_all();
    }

    /// It is closed, or a copy is to be made first.
    pub(super) fn must_stop(&self) -> bool {
        self.is_closed() || self.0.state.borrow().held
    }

    /// Gives back what is dead in the archive; all of it, if space is short.
    async fn tidy(&self) {
        if self.0.keeper.shortage() == Some(Shortage::Full) {
            let _ = self.0.vault.look_at_space().await;
        }
        let short = self.refuses_mail();
        self.give_back();
        if short {
            // No session keeps what was deleted, and it is dead when the index knows it.
            self.expire(&mut self.0.state.borrow_mut(), u64::MAX);
            self.indexed().await;
        }
        self.tidy_archive().await;
        if short {
            // For those who send mail here.
            let _ = self.0.vault.look_at_space().await;
        }
    }

    /// The journal has no segment left: who deletes waits for one.
    fn is_out(&self) -> bool {
        self.0.keeper.stats().free_segments == 0
    }

    /// What is free of the journal's segments goes, if the disk is short.
    fn give_back(&self) {
        if self.0.vault.is_scarce() {
            self.0.keeper.give_back();
        }
    }

    async fn called(&self) -> bool {
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            loop {
                if s.closing || s.dead {
                    return Poll::Ready(false);
                }
                if s.mover_bell.poll(cx).is_pending() {
                    return Poll::Pending;
                }
                if s.counted && !s.held {
                    s.moving = true;
                    return Poll::Ready(true);
                }
            }
        })
        .await
    }

    /// What lives in `segment` cannot be taken out now: waits until it may be tried again.
    async fn wait_for_space(&self, segment: u64) {
        if !self.0.vault.is_short() {
            return self.rest(RETRY).await;
        }
        // Users who delete make the space, and meanwhile fill the journal.
        for _ in 0..LOOKS {
            self.tidy().await;
            self.0.vault.give_last(self.is_out());
            let space = self.0.vault.look_at_space().await;
            self.0.vault.give_last(false);
            if self.must_stop() || self.crowded() != Some(segment) || space {
                return;
            }
            self.rest(RETRY / LOOKS).await;
        }
    }

    async fn rest(&self, time: Duration) {
        let mut sleep = pin!(self.0.rt.sleep_until(self.0.rt.now().after(time)));
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            if s.closing || s.dead || s.held {
                return Poll::Ready(());
            }
            s.crowd.join(cx);
            drop(s);
            sleep.as_mut().poll(cx)
        })
        .await;
    }

    /// Takes out what lives in `segment`; `false` if nothing can be done now.
    async fn empty(&self, segment: u64) -> bool {
        self.expire(&mut self.0.state.borrow_mut(), segment);
        // A handle of its own: what it appends is what its sync answers for.
        let vault = self.0.vault.clone();
        vault.give_last(self.is_out());
        let mut copied = Vec::new();
        let bodies = self.copy_bodies(&vault, segment, &mut copied).await;
        let mut homes = Vec::new();
        let accounts = self.copy_homes(&vault, &mut homes).await;
        if vault.sync().await == Err(ArchiveError::Poisoned) {
            self.die();
            return false;
        }
        vault.give_last(false);
        let moved = self.enter(segment, copied);
        self.enter_homes(homes);
        self.indexed().await;
        self.give_back();
        let still = self.crowded() == Some(segment) && !moved;
        bodies.is_ok() && accounts.is_ok() && !still
    }

    async fn copy_bodies(
        &self,
        vault: &Archive<R>,
        segment: u64,
        copied: &mut Vec<Copied>,
    ) -> Result<(), Stop> {
        let mut scanner = self.0.keeper.scanner(segment).map_err(|_| Stop)?;
        while let Some(records) = scanner.next().await.map_err(|_| Stop)? {
            for r in records.filter(|r| r.head.kind == record::MESSAGE) {
                let id = BodyId(r.head.id);
                let refs = {
                    let s = self.0.state.borrow();
                    let here = |b: &&crate::mailbox::bodies::Body| b.said.at() == r.location && !b.leaving;
                    s.shard.bodies.get(id).filter(here).map(|b| b.refs.clone())
                };
                let (Some(refs), Ok(view)) = (refs, BodyView::parse(r.payload)) else { continue };
                let (owner, items) = self.restated(&refs, &view).await;
                let items = items.bytes();
                let fixed = view.head.encode(items.len(), view.uidl.len(), view.summary.len());
                let parts = [&fixed[..], items, view.uidl, view.summary, view.content];
                let head = RecordHead { flags: record::FIRST, ..r.head };
                let place = vault.append(head, owner.0, &parts).await?;
                let summary =
                    if view.summary.len() <= super::operate::SUMMARY_MAX { view.summary } else { &[] };
                let row =
                    BodyRow { place, side: view.head.side, guid: view.head.guid, uidl: view.uidl, summary };
                copied.push(Copied { id, at: r.location, place, row: row.encode() });
            }
            if self.is_closed() {
                return Err(Stop);
            }
            yield_now().await;
        }
        Ok(())
    }

    /// Who has a body now, as items, and whose the first is.
    async fn restated(&self, refs: &[(MailboxId, u32)], view: &BodyView<'_>) -> (AccountId, Items) {
        let mut items = Items::default();
        let mut owner = AccountId(0);
        for (mailbox, uid) in refs {
            let message = match self.current(*mailbox, *uid).await {
                Some(message) => Some(message),
                None => view.items.iter().find_map(|i| match i {
                    Item::Message { mailbox: m, message } if m == *mailbox && message.uid == *uid => {
                        Some(message)
                    }
                    _ => None,
                }),
            };
            let Some(message) = message else { continue };
            items.push(&Item::Message { mailbox: *mailbox, message });
            if owner == AccountId(0) {
                let s = self.0.state.borrow();
                owner = s.shard.directory.mailbox(*mailbox).map(|m| m.account).unwrap_or_default();
            }
        }
        (owner, items)
    }

    /// A message as it is now.
    async fn current(&self, mailbox: MailboxId, uid: u32) -> Option<Message> {
        let key = Key::message(mailbox, uid);
        {
            let s = self.0.state.borrow();
            if let Some(opened) = s.shard.opened(mailbox) {
                return opened.get(uid).copied();
            }
            if let Some(row) = s.shard.ledger.get(&key) {
                return row.and_then(|row| record::parse_row(uid, row).ok());
            }
        }
        let row = self.0.table.get(&key.bytes()).await.ok().flatten()?;
        record::parse_row(uid, &row).ok()
    }

    /// Accounts of which something is not as their home in the archive says.
    async fn copy_homes(&self, vault: &Archive<R>, homes: &mut Vec<(AccountId, Place)>) -> Result<(), Stop> {
        let moved: Vec<AccountId> = {
            let s = self.0.state.borrow();
            s.shard.directory.accounts().filter(|(_, a)| a.moved).map(|(id, _)| id).collect()
        };
        for id in moved {
            let (items, op) = {
                let mut s = self.0.state.borrow_mut();
                if let Some(account) = s.shard.directory.account_mut(id) {
                    account.moved = false;
                }
                (home(&s, id), s.shard.last)
            };
            let head =
                RecordHead { kind: record::ACCOUNT, version: record::VERSION, flags: record::FIRST, id: op };
            match vault.append(head, id.0, &[items.bytes()]).await {
                Ok(place) => homes.push((id, place)),
                Err(e) => {
                    self.forget_home(id);
                    return Err(e.into());
                }
            }
        }
        Ok(())
    }

    fn forget_home(&self, id: AccountId) {
        let mut s = self.0.state.borrow_mut();
        if let Some(account) = s.shard.directory.account_mut(id) {
            account.moved = true;
        }
    }

    fn enter_homes(&self, homes: Vec<(AccountId, Place)>) {
        let wall = self.0.rt.wall();
        for (id, place) in homes {
            if !self.0.vault.is_durable(place) {
                // A full disk has cost it.
                self.0.vault.dead(place, wall);
                self.forget_home(id);
                continue;
            }
            let mut s = self.0.state.borrow_mut();
            let s = &mut *s;
            let old = match s.shard.directory.account_mut(id) {
                Some(account) => std::mem::replace(&mut account.home, place),
                None => place,
            };
            s.dying.extend((old.segment != 0).then_some((Key::account(id), old)));
            s.ledger().touch(Key::account(id), None);
        }
    }

    /// Rows of bodies that are on stable storage in the archive. `true`: there are some.
    fn enter(&self, segment: u64, copied: Vec<Copied>) -> bool {
        let wall = self.0.rt.wall();
        let mut any = false;
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        s.through = s.through.max(segment);
        for Copied { id, at, place, row } in copied {
            let durable = self.0.vault.is_durable(place);
            let here = s.shard.bodies.get_mut(id).filter(|b| durable && b.said.at() == at && !b.leaving);
            let Some(body) = here else {
                // Expunged meanwhile, or a full disk has cost it.
                self.0.vault.dead(place, wall);
                continue;
            };
            any = true;
            body.leaving = true;
            let refs: SmallVec<[(MailboxId, u32); 1]> = body.refs.clone();
            let said = body.said.clone();
            s.leaving.insert(id, place);
            s.ledger().put(Key::body(id), row, false, None);
            if refs.len() > 1 || refs.iter().any(|r| is_shared(s, *r)) {
                for (mailbox, uid) in refs {
                    s.ledger().put(Key::reference(id, mailbox, uid), Vec::new(), false, Some(&said));
                }
            }
        }
        any
    }
}

/// Whether a message is marked as one that shares its body. One that is not known counts as such.
fn is_shared<R: Runtime>(s: &State<R>, (mailbox, uid): (MailboxId, u32)) -> bool {
    let shared = |m: &Message| m.marks & Message::SHARED != 0;
    if let Some(opened) = s.shard.opened(mailbox) {
        return opened.get(uid).is_none_or(shared);
    }
    match s.shard.ledger.get(&Key::message(mailbox, uid)) {
        Some(Some(row)) => record::parse_row(uid, row).ok().is_none_or(|m| shared(&m)),
        _ => true,
    }
}

/// All that must be known of an account, if the index is lost.
fn home<R: Runtime>(s: &State<R>, id: AccountId) -> Items {
    let mut items = Items::default();
    let directory = &s.shard.directory;
    let Some(a) = directory.account(id) else { return items };
    items.push(&Item::Account { id, name: &a.name, quota: a.quota, removed: a.removed });
    for mailbox in a.mailboxes.values() {
        let Some(m) = directory.mailbox(*mailbox) else { continue };
        let uidvalidity = m.status.uidvalidity;
        items.push(&Item::Mailbox {
            id: *mailbox,
            account: id,
            name: &m.name,
            uidvalidity,
            special: m.special,
        });
        for (bit, name) in m.keywords.iter().enumerate() {
            items.push(&Item::Keyword { mailbox: *mailbox, bit: bit as u8, name });
        }
        items.push(&Item::Counters(m.status));
    }
    for name in &a.subscribed {
        items.push(&Item::Subscription { account: id, name, on: true });
    }
    items
}

/// Whether a row is that of a body at `place`.
pub(super) fn names(row: Option<&[u8]>, place: Place) -> bool {
    row.and_then(|value| BodyRow::parse(value).ok()).is_some_and(|r| r.place == place)
}

//! L4: a session's mailbox: opening it, its snapshot, and what the session changes.
//!
//! A mailbox that nobody has open is read from the index; what is newer lies over it in memory.

use crate::base::time::Mono;
use crate::mailbox::api::{Alter, Append, Appended, Copied, Done, News, Refusal, Selected, Stored, Vanished};
use crate::mailbox::directory::Mailbox;
use crate::mailbox::opened::{Opened, Roll, ViewId};
use crate::mailbox::record::{self, Malformed};
use crate::mailbox::row::{self, Key};
use crate::mailbox::store::near::Pace;
use crate::mailbox::store::{Content, Inner, Locked, State, Store};
use crate::mailbox::types::{AccountId, Flags, Guid, MailboxId, Message, Status, UidSet};
use crate::runtime::Runtime;
use crate::runtime::table::{ScanLimit, Table};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::task::Poll;

/// Rows read at a time: few enough for the caches of a processor.
const PAGE: ScanLimit = ScanLimit { rows: 8192, bytes: 128 << 10 };

/// Messages for which room is made before they are read.
const ROOM_MAX: usize = 1 << 20;

/// A session's view of a mailbox.
pub struct Open<R: Runtime> {
    store: Store<R>,
    account: AccountId,
    mailbox: MailboxId,
    view: ViewId,
    /// How it reads.
    pub(super) pace: Cell<Pace>,
}

impl<R: Runtime> Drop for Open<R> {
    fn drop(&mut self) {
        let mut s = self.store.0.state.borrow_mut();
        let s = &mut *s;
        if let Some(opened) = s.shard.opened_mut(self.mailbox) {
            opened.leave(self.view);
        }
        s.shard.left(self.mailbox);
        self.store.expire(s, 0);
        self.store.make_room(s);
    }
}

/// Shows the rows of `tag` whose keys have `a` as the first number, in the order of the second.
async fn each<T: Table>(
    table: &T,
    tag: u8,
    a: u64,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), Malformed>,
) -> io::Result<()> {
    let prefix = row::prefix(tag, a);
    let mut after = prefix.to_vec();
    loop {
        let page = table.scan(&prefix, &after, PAGE).await?;
        for (key, value) in page.iter() {
            let second =
                key.strip_prefix(&prefix[..]).and_then(row::number).ok_or(io::ErrorKind::InvalidData)?;
            visit(second, value).map_err(|_| io::ErrorKind::InvalidData)?;
        }
        match page.last_key() {
            Some(last) if page.len() >= PAGE.rows || page.bytes() >= PAGE.bytes => after = last.to_vec(),
            _ => return Ok(()),
        }
    }
}

/// Reads the messages of a mailbox.
async fn read_messages<T: Table>(table: &T, mailbox: MailboxId, roll: &mut Roll) -> io::Result<()> {
    let prefix = row::prefix(row::MESSAGES, u64::from(mailbox.0));
    let mut last = None;
    loop {
        let after = last.map_or_else(|| prefix.clone(), |uid| Key::message(mailbox, uid).bytes());
        let page = table.scan_pieces(&prefix, &after, PAGE).await?;
        for (name, mut rows) in page.iter() {
            let first = name.strip_prefix(&prefix[..]).and_then(|uid| uid.try_into().ok());
            let first = first.map(u32::from_be_bytes).ok_or(io::ErrorKind::InvalidData)?;
            while let Some((low, value)) = rows.next_row()? {
                let uid = first | u32::from(low);
                let message = record::parse_row(uid, value).ok().filter(|_| Some(uid) > roll.last());
                roll.push(message.ok_or(io::ErrorKind::InvalidData)?);
            }
        }
        if !page.more || roll.last() == last {
            return Ok(());
        }
        last = roll.last();
    }
}

/// The rows of `tag` whose keys have `a` as the first number, by the second.
pub(super) async fn rows<T: Table>(table: &T, tag: u8, a: u64) -> io::Result<BTreeMap<u64, Vec<u8>>> {
    let mut out = BTreeMap::new();
    each(table, tag, a, |b, value| {
        out.insert(b, value.to_vec());
        Ok(())
    })
    .await?;
    Ok(out)
}

/// Rows are being read: no transaction may end meanwhile.
pub(super) struct Cold<R: Runtime>(Rc<Inner<R>>);

impl<R: Runtime> Drop for Cold<R> {
    fn drop(&mut self) {
        let mut s = self.0.state.borrow_mut();
        s.cold_reads -= 1;
        if s.cold_reads == 0 {
            s.crowd.wake_all();
        }
    }
}

impl<R: Runtime> Store<R> {
    /// What is read from the index until the result is dropped fits what lies over it in memory.
    pub(super) async fn cold(&self) -> Cold<R> {
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            if !s.finishing {
                s.cold_reads += 1;
                return Poll::Ready(());
            }
            s.crowd.join(cx);
            Poll::Pending
        })
        .await;
        Cold(self.0.clone())
    }

    /// See [`rows`].
    pub(super) async fn rows(&self, tag: u8, a: u64) -> io::Result<BTreeMap<u64, Vec<u8>>> {
        rows(&self.0.table, tag, a).await
    }

    /// A snapshot of a mailbox.
    pub(super) async fn view(&self, account: AccountId, mailbox: MailboxId) -> Result<Open<R>, Refusal> {
        let opened = self.0.state.borrow().shard.opened(mailbox).is_some();
        if !opened {
            self.read_mailbox(mailbox).await?;
        }
        let mut s = self.0.state.borrow_mut();
        let view = s.shard.opened_mut(mailbox).filter(|o| !o.is_deleted()).ok_or(Refusal::NoMailbox)?.enter();
        drop(s);
        Ok(Open { store: self.clone(), account, mailbox, view, pace: Cell::default() })
    }

    async fn read_mailbox(&self, mailbox: MailboxId) -> Result<(), Refusal> {
        let cold = self.cold().await;
        let id = u64::from(mailbox.0);
        let damaged = |_: io::Error| Refusal::Damaged;
        // As they come, in their order: a message costs what is read of it and its place in the array.
        let table = &self.0.table;
        let expected = |s: &State<R>| s.shard.directory.mailbox(mailbox).map(|m| m.status.messages);
        let expected = expected(&self.0.state.borrow()).ok_or(Refusal::NoMailbox)?;
        let mut messages = Roll::with_room((expected as usize).min(ROOM_MAX));
        read_messages(table, mailbox, &mut messages).await.map_err(damaged)?;
        let mut expunges = BTreeMap::new();
        each(table, row::EXPUNGES, id, |modseq, value| {
            expunges.insert(modseq, row::parse_expunge(value)?);
            Ok(())
        })
        .await
        .map_err(damaged)?;
        let wall = self.0.rt.wall();
        {
            let mut s = self.0.state.borrow_mut();
            // Somebody else may have been faster, or it may have been deleted.
            if s.shard.directory.mailbox(mailbox).is_none() {
                return Err(Refusal::NoMailbox);
            }
            if s.shard.opened(mailbox).is_none() {
                s.shard.open(mailbox, messages, expunges, wall).map_err(|_| Refusal::Damaged)?;
            }
        }
        drop(cold);
        Ok(())
    }

    /// Closes mailboxes that nobody has, when there are too many messages in memory.
    pub(super) fn make_room(&self, s: &mut State<R>) {
        while let Some(id) = s.shard.too_many(self.0.options.resident_max) {
            if s.locks.contains(&Locked::Mailbox(id)) {
                // Something is under way in it.
                return s.shard.left(id);
            }
            s.shard.close(id);
            s.watch.remove(&id);
        }
    }

    /// Gives up content of expunged messages that need not be kept; none in segments up to `emptied`.
    pub(super) fn expire(&self, s: &mut State<R>, emptied: u64) {
        let effects = s.shard.expire(self.0.rt.now(), emptied);
        self.discard(&effects.sides);
        self.give_up(s);
    }
}

impl<R: Runtime> Open<R> {
    pub(super) fn store_handle(&self) -> &Store<R> {
        &self.store
    }

    /// Its id.
    #[must_use]
    pub fn mailbox(&self) -> MailboxId {
        self.mailbox
    }

    fn with<T>(&self, f: impl FnOnce(&mut Opened, ViewId) -> T) -> T {
        let mut s = self.store.0.state.borrow_mut();
        f(s.shard.opened_mut(self.mailbox).expect("open as long as somebody has it"), self.view)
    }

    /// The message, if the snapshot shows it; it may have been expunged.
    pub(super) fn shown(&self, uid: u32) -> Option<Message> {
        self.with(|o, v| {
            let seq = o.seq(v, uid)?;
            o.at(v, seq).copied()
        })
    }
}

impl<R: Runtime> Selected for Open<R> {
    type Reader = Content<R>;

    fn status(&self) -> Status {
        let s = self.store.0.state.borrow();
        s.shard.directory.mailbox(self.mailbox).map(Mailbox::counters).unwrap_or_default()
    }

    fn exists(&self) -> u32 {
        self.with(Opened::exists)
    }

    fn message(&self, seq: u32) -> Option<Message> {
        self.with(|o, v| o.at(v, seq).copied())
    }

    fn window(&self, seq: u32, most: usize, out: &mut Vec<Message>) {
        self.with(|o, v| o.window(v, seq, most, out));
    }

    fn seq(&self, uid: u32) -> Option<u32> {
        self.with(|o, v| o.seq(v, uid))
    }

    fn seq_from(&self, uid: u32) -> u32 {
        self.with(|o, v| o.seq_from(v, uid))
    }

    fn first_unseen(&self) -> Option<u32> {
        self.with(Opened::first_unseen)
    }

    fn keywords(&self) -> Vec<String> {
        let s = self.store.0.state.borrow();
        let mailbox = s.shard.directory.mailbox(self.mailbox);
        mailbox.map(|m| m.keywords.iter().map(|k| k.to_string()).collect()).unwrap_or_default()
    }

    fn meet(&mut self, read_write: bool) {
        self.with(|o, v| o.meet(v, read_write));
        self.store.0.state.borrow_mut().shard.meet(self.mailbox, self.view);
    }

    fn waits(&self) -> Option<Mono> {
        self.with(Opened::waits)
    }

    fn recent(&self) -> UidSet {
        self.with(|o, v| o.recent(v))
    }

    fn recent_count(&self) -> u32 {
        self.with(|o, v| o.recent_told(v))
    }

    fn sync(&mut self, expunges: bool) -> Vec<News> {
        let mut news = self.with(|o, v| o.sync(v, expunges));
        let mut s = self.store.0.state.borrow_mut();
        if let Some(count) = s.shard.meet(self.mailbox, self.view) {
            // RFC 3501 §7.3.2: with the new number of messages.
            let changes = |n: &News| matches!(n, News::Keywords | News::Changed { .. } | News::Deleted);
            let at = news.iter().position(changes).unwrap_or(news.len());
            news.insert(at, News::Recent(count));
        }
        if expunges {
            self.store.expire(&mut s, 0);
        }
        news
    }

    fn told(&mut self, modseq: u64) {
        self.with(|o, v| o.told(v, modseq));
    }

    async fn changed(&self) {
        poll_fn(|cx| {
            let mut s = self.store.0.state.borrow_mut();
            let s = &mut *s;
            let news = s.shard.opened(self.mailbox).is_none_or(|o| o.has_news(self.view, true));
            if news || s.dead || s.closing {
                return Poll::Ready(());
            }
            s.watch.entry(self.mailbox).or_default().join(cx);
            Poll::Pending
        })
        .await;
    }

    async fn store(
        &self,
        uids: &UidSet,
        how: Alter,
        flags: Flags,
        keywords: &[&str],
        unchanged_since: Option<u64>,
    ) -> Result<Done<Stored>, Refusal> {
        let locks = self.store.lock(&[Locked::Mailbox(self.mailbox)]).await?;
        let change = (how, flags, keywords);
        self.store.commit(locks, |draft| draft.store(self.mailbox, uids, change, unchanged_since)).await
    }

    async fn expunge(&self, uids: &UidSet, marked: bool) -> Result<Done<UidSet>, Refusal> {
        let locks = self.store.lock(&[Locked::Mailbox(self.mailbox)]).await?;
        self.store.commit(locks, |draft| draft.expunge(self.mailbox, uids, marked)).await
    }

    async fn copy(&self, uids: &UidSet, to: &str) -> Result<Done<Copied>, Refusal> {
        self.store.has_space()?;
        let target = self.store.find(self.account, to)?;
        let locks = self.store.lock(&[Locked::Mailbox(self.mailbox), Locked::Mailbox(target)]).await?;
        self.store.commit(locks, |draft| draft.copy(self.mailbox, uids, target, false)).await
    }

    async fn move_to(&self, uids: &UidSet, to: &str) -> Result<Done<Copied>, Refusal> {
        let target = self.store.find(self.account, to)?;
        let locks = self.store.lock(&[Locked::Mailbox(self.mailbox), Locked::Mailbox(target)]).await?;
        self.store.commit(locks, |draft| draft.copy(self.mailbox, uids, target, true)).await
    }

    async fn replace(
        &self,
        uid: u32,
        to: &str,
        message: &Append<'_>,
    ) -> Result<Done<Vec<Appended>>, Refusal> {
        let replaced = Some((self.mailbox, uid));
        let done = self.store.append_all(self.account, to, std::slice::from_ref(message), replaced).await;
        if done.is_err() {
            self.store.drop_content(&message.message);
        }
        done
    }

    fn vanished(&self, modseq: u64) -> Vanished {
        self.with(|o, _| o.vanished(modseq))
    }

    async fn summaries(&self, uids: &[u32]) -> Vec<Option<Vec<u8>>> {
        self.read_summaries(uids).await
    }

    async fn uidls(&self, uids: &[u32]) -> Result<Vec<Vec<u8>>, Refusal> {
        self.read_uidls(uids).await
    }

    async fn guid(&self, uid: u32) -> Result<Guid, Refusal> {
        let m = self.shown(uid).ok_or(Refusal::Expunged)?;
        Ok(self.store.facts(m.body).await?.guid)
    }

    async fn read(&self, uid: u32, range: Range<u64>) -> Result<Content<R>, Refusal> {
        self.read_content(uid, range).await
    }
}

//! The maildrop of a session: taken and listed, its messages sent, its deletions committed.

use super::session::Talk;
use crate::base::time::Mono;
use crate::mailbox::api::{Mailboxes, Reader, Refusal, Selected};
use crate::mailbox::types::{AccountId, Message, UidSet};
use crate::pop3::body::Piece;
use crate::pop3::inbound::{Answer, Fetch};
use crate::pop3::reply::Reply;
use crate::runtime::moving::Moving;
use crate::runtime::yield_now;
use crate::storage::ticket::Committed;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Messages that are looked at in a row.
const TURN: u32 = 10_000;

/// Logins that are remembered for LOGIN-DELAY at most.
const REMEMBERED: usize = 1 << 16;

/// When accounts of this core were logged in to last (RFC 2449 §6.5).
pub struct Delays {
    least: Duration,
    last: RefCell<Last>,
}

#[derive(Default)]
struct Last {
    by_login: BTreeMap<String, Mono>,
    by_time: VecDeque<(Mono, String)>,
}

impl Delays {
    /// At least so long between two logins.
    #[must_use]
    pub fn new(least: Duration) -> Self {
        Delays { least, last: RefCell::default() }
    }

    /// Notes a login. `false`: it is too early for one.
    pub fn may(&self, login: &str, now: Mono) -> bool {
        if self.least.is_zero() {
            return true;
        }
        let mut last = self.last.borrow_mut();
        let Last { by_login, by_time } = &mut *last;
        while let Some((at, _)) = by_time.front() {
            if now.since(*at) < self.least && by_time.len() < REMEMBERED {
                break;
            }
            let (at, old) = by_time.pop_front().expect("just seen");
            if by_login.get(&old) == Some(&at) {
                by_login.remove(&old);
            }
        }
        if by_login.contains_key(login) {
            return false;
        }
        by_login.insert(login.to_owned(), now);
        by_time.push_back((now, login.to_owned()));
        true
    }
}

/// A maildrop that is ours.
pub(super) struct Open<M: Mailboxes> {
    view: M::Selected,
    /// Keeps all others out.
    _lock: M::Maildrop,
    /// What is being sent.
    reader: Option<<M::Selected as Selected>::Reader>,
}

impl<M: Mailboxes> Open<M> {
    async fn take(store: &M, account: AccountId) -> Result<Self, Refusal> {
        let lock = store.maildrop(account)?;
        let view = store.select(account, "INBOX").await?;
        Ok(Open { view, _lock: lock, reader: None })
    }

    /// The message with this number.
    fn message(&self, number: u32) -> Result<Message, Refusal> {
        self.view.message(number).ok_or(Refusal::Expunged)
    }

    async fn sizes(&self) -> Vec<u64> {
        let count = self.view.exists();
        let mut sizes = Vec::with_capacity(count as usize);
        for number in 1..=count {
            sizes.push(self.message(number).map_or(0, |m| m.size.into()));
            if number % TURN == 0 {
                yield_now().await;
            }
        }
        sizes
    }

    async fn uidls(&self, first: u32, count: u32) -> Result<Vec<Vec<u8>>, Refusal> {
        let uids: Result<Vec<u32>, Refusal> =
            (first..first + count).map(|number| Ok(self.message(number)?.uid)).collect();
        let uids = uids?;
        match self.view.uidls(&uids).await {
            Ok(uidls) => Ok(uidls),
            Err(refusal) if uids.len() < 2 => Err(refusal),
            Err(_) => self.uidls_one_by_one(&uids).await,
        }
    }

    /// One message that cannot be read, or is gone, does not hide the others: it has a name that
    /// nobody has seen, and cannot be fetched anyway.
    async fn uidls_one_by_one(&self, uids: &[u32]) -> Result<Vec<Vec<u8>>, Refusal> {
        let mut all = Vec::with_capacity(uids.len());
        for uid in uids {
            match self.view.uidls(&[*uid]).await {
                Ok(mut uidl) => all.push(uidl.pop().ok_or(Refusal::Damaged)?),
                Err(Refusal::Closed) => return Err(Refusal::Closed),
                Err(_) => all.push(format!("unreadable-{uid:08x}").into_bytes()),
            }
        }
        Ok(all)
    }

    async fn find(&mut self, fetch: Fetch) -> Result<bool, Refusal> {
        let message = self.message(fetch.number)?;
        self.reader = Some(self.view.read(message.uid, 0..u64::MAX).await?);
        Ok(message.facts.has_dot_lines())
    }

    /// All or none, as one operation of the store; in parts only if there are more than it can have in
    /// one (RFC 1939 §6 allows for some that stay, if the client is told).
    async fn delete(&self, numbers: &[u32]) -> Result<Committed, Refusal> {
        let mut uids = Vec::with_capacity(numbers.len());
        for number in numbers {
            uids.push(self.message(*number)?.uid);
        }
        let mut rest = &uids[..];
        let mut part = rest.len();
        loop {
            let now: UidSet = rest[..part].iter().copied().collect();
            match self.view.expunge(&now, false).await {
                Ok(done) if part == rest.len() => return Ok(done.ticket),
                Ok(_) => rest = &rest[part..],
                Err(Refusal::Limit) if part > 1 => part /= 2,
                Err(refusal) => return Err(refusal),
            }
            part = part.min(rest.len());
        }
    }
}

/// What the client is told when the store refuses.
pub(super) fn reply(refusal: Refusal) -> Reply {
    match refusal {
        Refusal::InUse => Reply::IN_USE,
        Refusal::Expunged => Reply::GONE,
        Refusal::Damaged | Refusal::NoAccount | Refusal::NoMailbox => Reply::PERMANENT,
        _ => Reply::TEMPORARY,
    }
}

impl<R: Moving, M: Mailboxes> Talk<R, M> {
    /// Takes the maildrop, which this core owns, and lists it.
    pub(super) async fn open_maildrop(&mut self, store: &M) {
        let opened = self.take_maildrop(store).await;
        self.wire.tick();
        match opened {
            Ok((open, sizes)) => {
                self.open = Some(open);
                self.machine.opened(self.wire.now, sizes, &mut self.wire.outbox.out);
            }
            Err(reply) => self.no_maildrop(reply),
        }
    }

    /// The maildrop cannot be had.
    pub(super) fn no_maildrop(&mut self, reply: Reply) {
        if reply == Reply::IN_USE {
            self.ctx.host().metrics.pop3_in_use.increment(1);
        }
        // Who logs in again is counted again.
        self.known.permits.truncate(1);
        let answer = if reply == Reply::SHUTTING_DOWN { Answer::Close(reply) } else { Answer::Refuse(reply) };
        self.machine.answer(self.wire.now, answer, &mut self.wire.outbox.out);
    }

    async fn take_maildrop(&self, store: &M) -> Result<(Open<M>, Vec<u64>), Reply> {
        if self.ctx.host().live.is_stopping() {
            return Err(Reply::SHUTTING_DOWN);
        }
        let account = self.ctx.homes.account(store, &self.known.login).await.map_err(reply)?;
        let open = Open::take(store, account).await.map_err(reply)?;
        if !self.ctx.delays.may(&self.known.login, self.ctx.host().rt.now()) {
            return Err(Reply::LOGIN_DELAY);
        }
        let sizes = open.sizes().await;
        Ok((open, sizes))
    }

    fn maildrop(&mut self) -> &mut Open<M> {
        self.open.as_mut().expect("taken at the login")
    }

    pub(super) async fn ask_uidls(&mut self, first: u32, count: u32) {
        let uidls = self.maildrop().uidls(first, count).await;
        self.wire.tick();
        match uidls {
            Ok(uidls) => self.machine.uidls(self.wire.now, &uidls, &mut self.wire.outbox.out),
            Err(refusal) => self.refuse(refusal),
        }
    }

    pub(super) async fn ask_message(&mut self, fetch: Fetch) {
        let found = self.maildrop().find(fetch).await;
        self.wire.tick();
        match found {
            Ok(dot_lines) => self.machine.found(self.wire.now, dot_lines, &mut self.wire.outbox.out),
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// The update state (RFC 1939 §6). The maildrop is free before the client is told, so that it can
    /// come back at once.
    pub(super) async fn commit(&mut self) {
        let numbers: Vec<u32> = self.machine.deletions().collect();
        let deleted = self.maildrop().delete(&numbers).await;
        self.open = None;
        self.wire.tick();
        match deleted {
            Ok(ticket) => {
                self.ctx.host().metrics.pop3_deleted.increment(numbers.len() as u64);
                self.machine.deleted(self.wire.now, ticket, &mut self.wire.outbox.out);
            }
            Err(_) => {
                let reply = Answer::Refuse(Reply::NOT_DELETED);
                self.machine.answer(self.wire.now, reply, &mut self.wire.outbox.out);
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.machine.answer(self.wire.now, Answer::Refuse(reply(refusal)), &mut self.wire.outbox.out);
    }

    /// Sends a message, as fast as the client takes it: never more is read than waits to be sent.
    /// `None`: the session has ended.
    pub(super) async fn send(&mut self) -> Option<()> {
        let mut reader = self.maildrop().reader.take()?;
        while !self.machine.body().is_done() {
            // A message that cannot be read to its end must not look as if it had one.
            let Some(bytes) = reader.next().await.ok()? else { break };
            let mut at = 0;
            while at < bytes.len() {
                let room = self.wire.outbox.room(self.wire.channel()).min(bytes.len() - at);
                let (used, piece) = self.machine.body().next(&bytes[at..at + room]);
                match piece {
                    Piece::Run(run) => self.wire.put(&bytes, at + run.start..at + run.end),
                    Piece::Dot => self.wire.outbox.raw(b"."),
                    Piece::Nothing => {}
                }
                at += used;
                if self.wire.is_full() {
                    self.wire.send(self.machine.deadline()).await.ok()?;
                    self.wire.tick();
                    self.machine.progress(self.wire.now);
                }
            }
        }
        self.ctx.host().metrics.pop3_retrieved.increment(1);
        self.machine.sent(self.wire.now, &mut self.wire.outbox.out);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_keep_their_distance() {
        let second = |n: u64| Mono(n * 1_000_000_000);
        let delays = Delays::new(Duration::from_secs(10));
        assert!(delays.may("a", second(1)) && !delays.may("a", second(10)));
        assert!(delays.may("b", second(10)) && delays.may("a", second(11)) && !delays.may("a", second(12)));
        assert!(delays.last.borrow().by_login.len() == 2 && delays.may("c", second(100)));
        assert_eq!((delays.last.borrow().by_login.len(), delays.last.borrow().by_time.len()), (1, 1));
        let none = Delays::new(Duration::ZERO);
        assert!(none.may("a", second(1)) && none.may("a", second(1)));
    }
}

//! What a session asks of its account, answered from the mailbox store.
//!
//! Knows no connection. Appended messages wait here, in memory or in side files, until all of their
//! APPEND are there; what is read is shown piece by piece, and others have their turn in between. What
//! the store refuses is told to the session.

use crate::imap::session::{Answer, Ask, Now, Session};
use crate::mailbox::api::{
    Append, Appended, Content, Done, Incoming, Large, Mailboxes, Reader, Refusal, Selected,
};
use crate::mailbox::types::{AccountId, Flags, Message, Status};
use crate::message::mime::{Scanner, Summary};
use crate::runtime::yield_now;
use crate::storage::side::SideFile;
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

/// Bytes that are looked at in a row.
const TURN: usize = 64 << 10;
/// Bytes of one message that stay in memory.
const MEMORY_MAX: usize = 256 << 10;
/// The same when memory is short.
const MEMORY_MIN: usize = 32 << 10;
/// Messages that are looked at in a row.
const MESSAGES: usize = 8192;

/// Memory of all messages that come in on a core.
#[derive(Debug)]
pub struct Memory {
    held: Cell<usize>,
    max: usize,
}

impl Memory {
    /// So many bytes are plenty.
    #[must_use]
    pub fn new(max: usize) -> Rc<Self> {
        Rc::new(Memory { held: Cell::new(0), max })
    }

    fn is_short(&self) -> bool {
        self.held.get() > self.max
    }

    fn change(&self, from: usize, to: usize) {
        self.held.set(self.held.get() - from + to);
    }
}

/// A message that comes in.
struct Coming<M: Mailboxes> {
    /// Bytes it will have.
    len: u64,
    bytes: Vec<u8>,
    large: Option<M::Large>,
}

/// See the module. Of one session that has logged in.
pub struct Desk<M: Mailboxes> {
    store: M,
    account: AccountId,
    memory: Rc<Memory>,
    coming: Vec<Coming<M>>,
    /// Why the message cannot be kept.
    failed: Option<Refusal>,
    /// What is to be sent.
    reader: Option<<M::Selected as Selected>::Reader>,
}

impl<M: Mailboxes> Drop for Desk<M> {
    fn drop(&mut self) {
        self.forget();
    }
}

impl<M: Mailboxes> Desk<M> {
    /// Of an account of this shard.
    #[must_use]
    pub fn new(store: M, account: AccountId, memory: Rc<Memory>) -> Self {
        Desk { store, account, memory, coming: Vec::new(), failed: None, reader: None }
    }

    fn forget(&mut self) {
        let held = self.coming.iter().map(|c| c.bytes.len()).sum();
        self.memory.change(held, 0);
        self.coming.clear();
        self.failed = None;
    }

    /// Answers what the session has asked. All but what is about logins and TLS.
    ///
    /// # Panics
    /// If it is about that.
    pub async fn answer(&mut self, session: &mut Session<M::Selected>, now: Now, out: &mut Vec<u8>) {
        let ask = session.asked().clone();
        let answer = match ask {
            Ask::Room { mailbox, len, first } => {
                self.take(session).await;
                Answer::Room(self.room(&mailbox, len, first).await)
            }
            Ask::Append => {
                self.take(session).await;
                let appended = self.append(session).await;
                self.forget();
                Answer::Appended(appended)
            }
            Ask::Forget => {
                session.incoming().clear();
                self.forget();
                Answer::Accept
            }
            Ask::Open { uid, range } => Answer::Read(match session.mailbox().read(uid, range).await {
                Ok(reader) => {
                    self.reader = Some(reader);
                    Ok(())
                }
                Err(refusal) => Err(refusal),
            }),
            Ask::Read { uid, range } => Answer::Read(read(session, uid, range).await),
            Ask::Summaries(uids) => Answer::Summaries(summaries(session.mailbox(), &uids).await),
            Ask::Store(_) | Ask::Expunge(_) | Ask::Copy { .. } => change(session.mailbox(), ask).await,
            _ => self.names(ask).await,
        };
        session.answer(now, answer, out);
    }

    /// What is about mailboxes as a whole.
    async fn names(&self, ask: Ask) -> Answer<'static, M::Selected> {
        let (store, account) = (&self.store, self.account);
        match ask {
            Ask::List => Answer::Listed(store.list(account).await),
            Ask::Status(name, weigh) => Answer::Status(self.status(&name, weigh).await),
            Ask::Create(name, special) => Answer::Created(store.create(account, &name, special).await),
            Ask::Delete(name) => Answer::Done(store.delete(account, &name).await.map(|d| d.ticket)),
            Ask::Rename(from, to) => Answer::Done(store.rename(account, &from, &to).await.map(|d| d.ticket)),
            Ask::Subscribe(name, on) => {
                Answer::Done(store.subscribe(account, &name, on).await.map(|d| d.ticket))
            }
            Ask::Select(name) => Answer::Selected(store.select(account, &name).await),
            Ask::Usage => Answer::Usage(store.usage(account).await),
            ask => panic!("{ask:?} is no question to the store"),
        }
    }

    async fn status(&self, name: &str, weigh: bool) -> Result<(Status, u64), Refusal> {
        let status = self.store.status(self.account, name).await?;
        if !weigh || status.deleted == 0 {
            return Ok((status, 0));
        }
        let view = self.store.select(self.account, name).await?;
        let (mut weight, mut seq, mut batch) = (0, 1, Vec::<Message>::new());
        loop {
            batch.clear();
            view.window(seq, MESSAGES, &mut batch);
            if batch.is_empty() {
                return Ok((status, weight));
            }
            let deleted = batch.iter().filter(|m| m.flags.has(Flags::DELETED));
            weight += deleted.map(|m| u64::from(m.size)).sum::<u64>();
            seq += batch.len() as u32;
            yield_now().await;
        }
    }

    async fn room(&mut self, mailbox: &str, len: u64, first: bool) -> Result<(), Refusal> {
        if first {
            self.forget();
        }
        if let Some(refusal) = self.failed {
            return Err(refusal);
        }
        self.store.status(self.account, mailbox).await?;
        let usage = self.store.usage(self.account).await.ok_or(Refusal::NoAccount)?;
        let before: u64 = self.coming.iter().map(|c| c.len).sum();
        if !usage.admits(self.coming.len() as u64 + 1, before.saturating_add(len)) {
            return Err(Refusal::OverQuota);
        }
        self.coming.push(Coming { len, bytes: Vec::new(), large: None });
        Ok(())
    }

    /// Takes what has come of a message.
    pub async fn take(&mut self, session: &mut Session<M::Selected>) {
        let incoming = session.incoming();
        let most = if self.memory.is_short() { MEMORY_MIN } else { MEMORY_MAX };
        let most = most.min(self.store.inline_max() / 2);
        // All messages of a command are committed as one: together they must fit into what may be staged.
        let together = self.coming.iter().map(|c| c.bytes.len()).sum::<usize>() + incoming.len();
        let is_much = together > self.store.inline_max() / 2;
        let Some(coming) = self.coming.last_mut().filter(|_| self.failed.is_none()) else {
            return incoming.clear();
        };
        self.memory.change(0, incoming.len());
        coming.bytes.append(incoming);
        // One large message must not make the session large for ever.
        if incoming.capacity() > TURN {
            *incoming = Vec::new();
        }
        if (coming.bytes.len() > most || is_much)
            && let Err(refusal) = coming.spill(&self.store, &self.memory).await
        {
            self.forget();
            self.failed = Some(refusal);
        }
    }

    async fn append(&mut self, session: &Session<M::Selected>) -> Result<Done<Vec<Appended>>, Refusal> {
        let appending = session.appending();
        if let Some(refusal) = self.failed {
            return Err(refusal);
        }
        assert_eq!(self.coming.len(), appending.messages.len(), "each message has its content");
        let mut files: Vec<Option<SideFile>> = Vec::new();
        for coming in &mut self.coming {
            match coming.finish(&self.store, &self.memory).await {
                Ok(file) => files.push(file),
                Err(refusal) => {
                    files.into_iter().flatten().for_each(|file| self.store.discard(file));
                    return Err(refusal);
                }
            }
        }
        let pieces: Vec<[&[u8]; 1]> = self.coming.iter().map(|c| [&c.bytes[..]]).collect();
        let keywords: Vec<Vec<&str>> =
            appending.messages.iter().map(|m| m.keywords.iter().map(String::as_str).collect()).collect();
        let appends: Vec<Append<'_>> = appending
            .messages
            .iter()
            .enumerate()
            .map(|(n, m)| Append {
                message: Incoming {
                    content: match files[n] {
                        Some(file) => Content::Large { head: b"", file },
                        None => Content::Slices(&pieces[n]),
                    },
                    facts: m.facts,
                    summary: &m.summary,
                    internal: m.internal,
                    guid: None,
                    uidl: b"",
                },
                flags: m.flags,
                keywords: &keywords[n],
            })
            .collect();
        match appending.replaces {
            Some(uid) => session.mailbox().replace(uid, &appending.mailbox, &appends[0]).await,
            None => self.store.append(self.account, &appending.mailbox, &appends).await,
        }
    }

    /// What the last [`Ask::Open`] has opened.
    pub fn reader(&mut self) -> Option<<M::Selected as Selected>::Reader> {
        self.reader.take()
    }
}

impl<M: Mailboxes> Coming<M> {
    async fn spill(&mut self, store: &M, memory: &Memory) -> Result<(), Refusal> {
        if self.large.is_none() {
            self.large = Some(store.large().await?);
        }
        let bytes = std::mem::take(&mut self.bytes);
        memory.change(bytes.len(), 0);
        match &mut self.large {
            Some(large) => large.write(&bytes).await,
            None => Ok(()),
        }
    }

    async fn finish(&mut self, store: &M, memory: &Memory) -> Result<Option<SideFile>, Refusal> {
        if self.large.is_none() {
            return Ok(None);
        }
        self.spill(store, memory).await?;
        match self.large.take() {
            Some(large) => large.finish().await.map(Some),
            None => Ok(None),
        }
    }
}

/// What changes the messages of a mailbox.
async fn change<S: Selected>(mailbox: &S, ask: Ask) -> Answer<'static, S> {
    match ask {
        Ask::Store(change) => {
            let keywords: Vec<&str> = change.keywords.iter().map(String::as_str).collect();
            let (uids, how, flags) = (&change.uids, change.how, change.flags);
            Answer::Stored(mailbox.store(uids, how, flags, &keywords, change.unchanged_since).await)
        }
        Ask::Expunge(uids) => Answer::Expunged(mailbox.expunge(&uids, true).await),
        Ask::Copy { uids, to, remove: false } => Answer::Copied(mailbox.copy(&uids, &to).await),
        Ask::Copy { uids, to, remove: true } => Answer::Copied(mailbox.move_to(&uids, &to).await),
        ask => panic!("{ask:?} changes no messages"),
    }
}

/// Shows content to the session until it has enough.
async fn read<S: Selected>(session: &mut Session<S>, uid: u32, range: Range<u64>) -> Result<(), Refusal> {
    if range.is_empty() {
        return Ok(());
    }
    let mut reader = session.mailbox().read(uid, range).await?;
    while let Some(bytes) = reader.next().await? {
        for piece in bytes.chunks(TURN) {
            if !session.piece(piece) {
                return Ok(());
            }
            if piece.len() == TURN {
                yield_now().await;
            }
        }
    }
    Ok(())
}

/// Summaries; those that are not there, or cannot be read, are worked out anew.
async fn summaries<S: Selected>(mailbox: &S, uids: &[u32]) -> Vec<Option<Vec<u8>>> {
    let mut all = mailbox.summaries(uids).await;
    for (uid, summary) in uids.iter().zip(&mut all) {
        if summary.as_deref().is_none_or(|bytes| Summary::read(bytes).is_err()) {
            *summary = scan(mailbox, *uid).await.ok();
        }
    }
    all
}

async fn scan<S: Selected>(mailbox: &S, uid: u32) -> Result<Vec<u8>, Refusal> {
    let mut reader = mailbox.read(uid, 0..u64::MAX).await?;
    let mut scanner = Scanner::new();
    while let Some(bytes) = reader.next().await? {
        for piece in bytes.chunks(TURN) {
            scanner.feed(piece);
            if piece.len() == TURN {
                yield_now().await;
            }
        }
    }
    let mut summary = Vec::new();
    scanner.finish(&mut summary);
    Ok(summary)
}

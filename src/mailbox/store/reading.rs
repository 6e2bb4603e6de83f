//! L4: what is stored with a body: content, summary, UIDL, GUID.
//!
//! A record is read as a whole and verified (id and CRC) before its first byte leaves; a side file block
//! by block. A body may move from the journal into the archive, and within it, at any time: whoever finds
//! it gone looks once more. Who reads one message after the other reads ahead (`near`).

use crate::base::aligned::{PAGE, SharedBytes};
use crate::mailbox::api::{Reader, Refusal, Selected};
use crate::mailbox::bodies::Facts;
use crate::mailbox::record::BodyView;
use crate::mailbox::row::{BodyRow, Key};
use crate::mailbox::store::near::{self, Near, Where};
use crate::mailbox::store::{Open, Store};
use crate::mailbox::types::{BodyId, Message};
use crate::runtime::Runtime;
use crate::runtime::table::Table;
use crate::storage::keeper::ReadError;
use crate::storage::side::{SideFile, SideReader};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

/// How often a body is looked for that has just moved.
const TRIES: usize = 4;

/// What a session will read next, as far as that can be known.
#[derive(Clone, Copy)]
pub(super) struct Next<'a> {
    /// Bodies; asked for only if something must be read.
    bodies: &'a dyn Fn() -> Vec<BodyId>,
    /// Bytes that may be read at once; 0: nothing follows.
    most: u32,
    /// Set if nothing of it is near.
    missed: &'a Cell<bool>,
}

/// Room for a read that is under way.
struct Flight<'a>(&'a RefCell<Near>, usize);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.borrow_mut().release(self.1);
    }
}

/// The content of a message being read.
pub struct Content<R: Runtime> {
    /// What of the record is wanted.
    inline: Option<SharedBytes>,
    side: Option<SideReader<R>>,
    /// Bytes still wanted from the side file.
    left: u64,
}

impl<R: Runtime> Store<R> {
    /// The rows of bodies, of those that are in the archive.
    async fn body_rows(&self, bodies: &[BodyId]) -> Result<Vec<Option<Vec<u8>>>, Refusal> {
        if bodies.is_empty() {
            return Ok(Vec::new());
        }
        let _cold = self.cold().await;
        let mut rows: Vec<Option<Vec<u8>>> = vec![None; bodies.len()];
        let (mut asked, mut keys) = (Vec::new(), Vec::new());
        {
            let s = self.0.state.borrow();
            for (n, body) in bodies.iter().enumerate() {
                let key = Key::body(*body);
                match s.shard.ledger.get(&key) {
                    // One that goes with the next transaction: who still sees it has been told, or waited
                    // too long.
                    Some(row) => rows[n] = row.map(<[u8]>::to_vec),
                    None => {
                        asked.push(n);
                        keys.push(key.bytes().to_vec());
                    }
                }
            }
        }
        if !keys.is_empty() {
            let found = self.0.table.get_many(keys).await.map_err(|_| Refusal::Damaged)?;
            asked.into_iter().zip(found).for_each(|(n, row)| rows[n] = row);
        }
        Ok(rows)
    }

    async fn find_body(&self, body: BodyId, next: Next<'_>) -> Result<Where, Refusal> {
        if let Some(at) = self.near_body(body) {
            return Ok(at);
        }
        // Those that follow are looked up with it, since they cost little then.
        let mut bodies = vec![body];
        if next.most > 0 {
            bodies.extend((next.bodies)().into_iter().filter(|b| *b != body && self.near_body(*b).is_none()));
        }
        let rows = self.body_rows(&bodies).await?;
        let mut found = None;
        for (id, row) in bodies.iter().zip(&rows) {
            let Some(row) = row else { continue };
            let place = BodyRow::parse(row).map(|row| row.place);
            if *id == body {
                found = Some(place.map_err(|_| Refusal::Damaged)?);
            } else if let Ok(place) = place {
                self.0.near.borrow_mut().note(*id, place);
            }
        }
        Ok(Where::Archive(found.ok_or(Refusal::Expunged)?))
    }

    /// Where a body is, if that is known without a look into the index.
    fn near_body(&self, body: BodyId) -> Option<Where> {
        let journaled = self.0.state.borrow().shard.journaled(body).map(|b| b.said.at());
        journaled.map(Where::Journal).or_else(|| self.0.near.borrow().place(body).map(Where::Archive))
    }

    /// The record of a body, verified.
    pub(super) async fn body_record(&self, body: BodyId, next: Next<'_>) -> Result<SharedBytes, Refusal> {
        for _ in 0..TRIES {
            let at = self.find_body(body, next).await?;
            let here = self.0.near.borrow_mut().find(at, body.0, self.0.rt.now());
            if let Some(bytes) = here {
                return Ok(bytes);
            }
            if self.read_ahead(at, next).await {
                let here = self.0.near.borrow_mut().find(at, body.0, self.0.rt.now());
                if let Some(bytes) = here {
                    return Ok(bytes);
                }
            }
            let read = match at {
                Where::Journal(at) => self.0.keeper.read(at, body.0).await,
                Where::Archive(at) => self.0.vault.read(at, body.0).await,
            };
            match read {
                Ok(bytes) => return Ok(bytes),
                Err(ReadError::Gone) => self.0.near.borrow_mut().forget(body),
                Err(ReadError::Damaged | ReadError::Io(_)) => return Err(Refusal::Damaged),
            }
        }
        Err(Refusal::Damaged)
    }

    /// Reads the record at `at` together with what follows it, if that is worth it. What cannot be read so
    /// is read by itself, by who needs it.
    async fn read_ahead(&self, at: Where, next: Next<'_>) -> bool {
        if next.most == 0 {
            return false;
        }
        let bodies = (next.bodies)();
        let near = bodies.into_iter().filter_map(|body| self.near_body(body));
        let Some((start, end)) = near::extent(at, near, next.most) else {
            next.missed.set(true);
            return false;
        };
        // Memory of few sizes, which is used again; what more is read may be wanted, too.
        let bytes = (end - start).next_power_of_two().max(PAGE as u32);
        let (to, bytes) = (start.saturating_add(bytes), bytes as usize);
        if !self.0.near.borrow_mut().reserve(bytes, self.0.rt.now()) {
            return false;
        }
        let flight = Flight(&self.0.near, bytes);
        let read = match at {
            Where::Journal(at) => self.0.keeper.read_stretch(at.segment, at.offset, to).await,
            Where::Archive(at) => self.0.vault.read_stretch(at, to).await,
        };
        drop(flight);
        match read {
            Ok(stretch) => {
                self.0.near.borrow_mut().put(at, stretch, end, self.0.rt.now());
                true
            }
            Err(_) => false,
        }
    }

    /// What is stored with bodies; `None`: gone or damaged. Content is read only of those in the journal
    /// whose facts are not kept.
    pub(super) async fn facts_of(&self, bodies: &[BodyId]) -> Vec<Option<Rc<Facts>>> {
        let mut all: Vec<Option<Rc<Facts>>> = vec![None; bodies.len()];
        let (mut journaled, mut archived) = (Vec::new(), Vec::new());
        {
            let s = self.0.state.borrow();
            for (n, body) in bodies.iter().enumerate() {
                match s.shard.journaled(*body) {
                    Some(b) if b.facts.is_some() => all[n] = b.facts.clone(),
                    Some(_) => journaled.push(n),
                    None => archived.push(n),
                }
            }
        }
        let ids: Vec<BodyId> = archived.iter().map(|n| bodies[*n]).collect();
        if let Ok(rows) = self.body_rows(&ids).await {
            for (n, row) in archived.into_iter().zip(rows) {
                all[n] = row.as_deref().and_then(facts_in);
            }
        }
        let missed = Cell::new(false);
        for (at, n) in journaled.iter().enumerate() {
            let rest = &journaled[at + 1..];
            let some = || rest.iter().take(near::MESSAGES).map(|n| bodies[*n]).collect();
            let most = if rest.is_empty() || missed.get() { 0 } else { near::FIRST };
            let next = Next { bodies: &some, most, missed: &missed };
            all[*n] = self.facts_in_record(bodies[*n], next).await.ok();
        }
        all
    }

    /// What is stored with a body.
    pub(super) async fn facts(&self, body: BodyId) -> Result<Rc<Facts>, Refusal> {
        self.facts_of(&[body]).await.pop().flatten().ok_or(Refusal::Damaged)
    }

    async fn facts_in_record(&self, body: BodyId, next: Next<'_>) -> Result<Rc<Facts>, Refusal> {
        let record = self.body_record(body, next).await?;
        let view = BodyView::parse(&record).map_err(|_| Refusal::Damaged)?;
        let facts = Rc::new(Facts::of(&view));
        self.0.state.borrow_mut().shard.bodies.learn(body, facts.clone());
        Ok(facts)
    }
}

/// What the row of a body says.
fn facts_in(row: &[u8]) -> Option<Rc<Facts>> {
    let row = BodyRow::parse(row).ok()?;
    Some(Rc::new(Facts { guid: row.guid, uidl: row.uidl.into(), summary: row.summary.into() }))
}

impl<R: Runtime> Content<R> {
    async fn begin(
        store: &Store<R>,
        body: BodyId,
        range: Range<u64>,
        next: Next<'_>,
    ) -> Result<Self, Refusal> {
        let record = store.body_record(body, next).await?;
        let view = BodyView::parse(&record).map_err(|_| Refusal::Damaged)?;
        let end = range.end.min(view.head.size);
        let start = range.start.min(end);
        let here = view.content.len() as u64;
        let at = record.len() - view.content.len();
        let inline =
            (start < here.min(end)).then(|| record.part(at + start as usize..at + here.min(end) as usize));
        let mut content = Content { inline, side: None, left: 0 };
        if end > here && view.head.side != 0 {
            let from = start.max(here);
            content.left = end - from;
            if content.left > 0 {
                let file = SideFile { name: view.head.side, len: view.head.size - here };
                let side = store.0.keeper.open_side_at(file, from - here).await;
                content.side = Some(side.map_err(|_| Refusal::Damaged)?);
            }
        }
        Ok(content)
    }
}

impl<R: Runtime> Reader for Content<R> {
    async fn next(&mut self) -> Result<Option<SharedBytes>, Refusal> {
        if let Some(bytes) = self.inline.take() {
            return Ok(Some(bytes));
        }
        let Some(side) = self.side.as_mut().filter(|_| self.left > 0) else { return Ok(None) };
        let piece = side.next().await.map_err(|_| Refusal::Damaged)?.ok_or(Refusal::Damaged)?;
        let wanted = self.left.min(piece.len() as u64) as usize;
        self.left -= wanted as u64;
        Ok(Some(piece.part(0..wanted)))
    }
}

impl<R: Runtime> Open<R> {
    pub(super) async fn read_content(&self, uid: u32, range: Range<u64>) -> Result<Content<R>, Refusal> {
        let m = self.shown(uid).ok_or(Refusal::Expunged)?;
        let seq = self.seq(uid).ok_or(Refusal::Expunged)?;
        let mut pace = self.pace.get();
        let most = pace.step(seq);
        self.pace.set(pace);
        let following = || {
            let mut some = Vec::new();
            self.window(seq + 1, near::MESSAGES, &mut some);
            some.into_iter().map(|m| m.body).collect()
        };
        let missed = Cell::new(false);
        let next = Next { bodies: &following, most, missed: &missed };
        let content = Content::begin(self.store_handle(), m.body, range, next).await;
        if missed.get() {
            pace.missed();
            self.pace.set(pace);
        }
        content
    }

    pub(super) async fn read_summaries(&self, uids: &[u32]) -> Vec<Option<Vec<u8>>> {
        let mut out = vec![None; uids.len()];
        let shown = |(n, uid): (usize, &u32)| Some((n, self.shown(*uid)?.body));
        let (places, bodies): (Vec<usize>, Vec<BodyId>) = uids.iter().enumerate().filter_map(shown).unzip();
        let facts = self.store_handle().facts_of(&bodies).await;
        for (n, facts) in places.into_iter().zip(facts) {
            out[n] = facts.map(|f| f.summary.to_vec());
        }
        out
    }

    pub(super) async fn read_uidls(&self, uids: &[u32]) -> Result<Vec<Vec<u8>>, Refusal> {
        let store = self.store_handle();
        let validity = {
            let s = store.0.state.borrow();
            s.shard.directory.mailbox(self.mailbox()).ok_or(Refusal::NoMailbox)?.status.uidvalidity
        };
        let mut out: Vec<Vec<u8>> = uids.iter().map(|uid| made_uidl(validity, *uid)).collect();
        let (mut places, mut bodies) = (Vec::new(), Vec::new());
        for (n, uid) in uids.iter().enumerate() {
            let m = self.shown(*uid).ok_or(Refusal::Expunged)?;
            if m.marks & Message::UIDL != 0 {
                places.push(n);
                bodies.push(m.body);
            }
        }
        for (n, facts) in places.into_iter().zip(store.facts_of(&bodies).await) {
            let facts = facts.ok_or(Refusal::Damaged)?;
            if !facts.uidl.is_empty() {
                out[n] = facts.uidl.to_vec();
            }
        }
        Ok(out)
    }
}

/// The UIDL of a message that has none of its own (RFC 1939 §7): it is as stable as UIDs are.
fn made_uidl(validity: u32, uid: u32) -> Vec<u8> {
    format!("{validity:08x}{uid:08x}").into_bytes()
}

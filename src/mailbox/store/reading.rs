//! L4: what is stored with a body: content, summary, UIDL, GUID.
//!
//! A record is read as a whole and verified (id and CRC) before its first byte leaves; a side file block
//! by block. A body may move from the journal into the archive, and within it, at any time: whoever finds
//! it gone looks once more.

use crate::base::aligned::SharedBytes;
use crate::mailbox::api::{Reader, Refusal};
use crate::mailbox::record::BodyView;
use crate::mailbox::row::{BodyRow, Key};
use crate::mailbox::store::{Open, Store};
use crate::mailbox::types::{BodyId, Guid, Message};
use crate::runtime::Runtime;
use crate::runtime::table::Table;
use crate::storage::archive::Place;
use crate::storage::keeper::ReadError;
use crate::storage::record::Location;
use crate::storage::side::{SideFile, SideReader};
use std::ops::Range;

/// How often a body is looked for that has just moved.
const TRIES: usize = 4;

/// Where a body is.
#[derive(Clone, Copy, Debug)]
enum Where {
    Journal(Location),
    Archive(Place),
}

/// What is stored with a body.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub guid: Guid,
    pub uidl: Vec<u8>,
    pub summary: Vec<u8>,
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
    /// The row of a body, if it is in the archive.
    async fn body_row(&self, body: BodyId) -> Result<Option<Vec<u8>>, Refusal> {
        let key = Key::body(body);
        let _cold = self.cold().await;
        let over = self.0.state.borrow().shard.ledger.get(&key).map(|row| row.map(<[u8]>::to_vec));
        match over {
            Some(Some(row)) => Ok(Some(row)),
            // It is deleted in the next transaction: who still sees it has been told, or waited too long.
            Some(None) => Ok(None),
            None => self.0.table.get(&key.bytes()).await.map_err(|_| Refusal::Damaged),
        }
    }

    async fn find_body(&self, body: BodyId) -> Result<Where, Refusal> {
        let journaled = self.0.state.borrow().shard.journaled(body).map(|b| b.said.at());
        if let Some(at) = journaled {
            return Ok(Where::Journal(at));
        }
        let row = self.body_row(body).await?.ok_or(Refusal::Expunged)?;
        let row = BodyRow::parse(&row).map_err(|_| Refusal::Damaged)?;
        Ok(Where::Archive(row.place))
    }

    /// The record of a body, verified.
    pub(super) async fn body_record(&self, body: BodyId) -> Result<SharedBytes, Refusal> {
        for _ in 0..TRIES {
            let read = match self.find_body(body).await? {
                Where::Journal(at) => self.0.keeper.read(at, body.0).await,
                Where::Archive(at) => self.0.vault.read(at, body.0).await,
            };
            match read {
                Ok(bytes) => return Ok(bytes),
                Err(ReadError::Gone) => {}
                Err(ReadError::Damaged | ReadError::Io(_)) => return Err(Refusal::Damaged),
            }
        }
        Err(Refusal::Damaged)
    }

    /// What is stored with a body, without its content if that is in the archive.
    pub(super) async fn facts(&self, body: BodyId) -> Result<Facts, Refusal> {
        let journaled = self.0.state.borrow().shard.journaled(body).is_some();
        if !journaled && let Some(row) = self.body_row(body).await? {
            let row = BodyRow::parse(&row).map_err(|_| Refusal::Damaged)?;
            return Ok(Facts { guid: row.guid, uidl: row.uidl.to_vec(), summary: row.summary.to_vec() });
        }
        let record = self.body_record(body).await?;
        let view = BodyView::parse(&record).map_err(|_| Refusal::Damaged)?;
        Ok(Facts { guid: view.head.guid, uidl: view.uidl.to_vec(), summary: view.summary.to_vec() })
    }
}

impl<R: Runtime> Content<R> {
    pub(super) async fn begin(store: &Store<R>, body: BodyId, range: Range<u64>) -> Result<Self, Refusal> {
        let record = store.body_record(body).await?;
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
    pub(super) async fn read_summaries(&self, uids: &[u32]) -> Vec<Option<Vec<u8>>> {
        let mut out = Vec::with_capacity(uids.len());
        for uid in uids {
            let facts = match self.shown(*uid) {
                Some(m) => self.store_handle().facts(m.body).await.ok(),
                None => None,
            };
            out.push(facts.map(|f| f.summary));
        }
        out
    }

    pub(super) async fn read_uidls(&self, uids: &[u32]) -> Result<Vec<Vec<u8>>, Refusal> {
        let store = self.store_handle();
        let validity = {
            let s = store.0.state.borrow();
            s.shard.directory.mailbox(self.mailbox()).ok_or(Refusal::NoMailbox)?.status.uidvalidity
        };
        let mut out = Vec::with_capacity(uids.len());
        for uid in uids {
            let m = self.shown(*uid).ok_or(Refusal::Expunged)?;
            let own = m.marks & Message::UIDL != 0;
            let uidl = if own { store.facts(m.body).await?.uidl } else { Vec::new() };
            out.push(if uidl.is_empty() { made_uidl(validity, *uid) } else { uidl });
        }
        Ok(out)
    }
}

/// The UIDL of a message that has none of its own (RFC 1939 §7): it is as stable as UIDs are.
fn made_uidl(validity: u32, uid: u32) -> Vec<u8> {
    format!("{validity:08x}{uid:08x}").into_bytes()
}

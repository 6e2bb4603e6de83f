//! L4: reading the side file of the message that a connection sends, piece by piece.
//!
//! Owns the open file and what was read of it. Every byte is verified before it leaves; an error
//! ends the connection, and the message is tried again.

use crate::base::aligned::{AlignedBuf, SharedBytes};
use crate::queue::desk::Desk;
use crate::queue::desk::settle::Item;
use crate::runtime::{Lent, Runtime};
use crate::storage::keeper::ReadError;
use crate::storage::side::{SideFile, SideReader};
use std::cell::RefCell;
use std::io;

struct Open<R: Runtime> {
    name: u64,
    /// Offset of what comes next.
    at: u64,
    reader: SideReader<R>,
    rest: Option<SharedBytes>,
}

/// At most one side file, read from start to end.
pub(crate) struct SideCursor<R: Runtime>(RefCell<Option<Open<R>>>);

impl<R: Runtime> Default for SideCursor<R> {
    fn default() -> Self {
        SideCursor(RefCell::new(None))
    }
}

impl<R: Runtime> SideCursor<R> {
    /// Fills `buf` with what is at `offset` of the item's side file; less only at its end.
    pub async fn read(
        &self,
        desk: &Desk<R>,
        item: &Item,
        offset: u64,
        mut buf: AlignedBuf,
    ) -> Lent<(), AlignedBuf> {
        let result = self.fill(desk, item, offset, &mut buf).await.map_err(|e| match e {
            ReadError::Io(e) => e,
            ReadError::Gone => io::Error::new(io::ErrorKind::NotFound, "the side file has gone"),
            ReadError::Damaged => io::Error::new(io::ErrorKind::InvalidData, "the side file is damaged"),
        });
        (result, buf)
    }

    async fn fill(
        &self,
        desk: &Desk<R>,
        item: &Item,
        offset: u64,
        buf: &mut AlignedBuf,
    ) -> Result<(), ReadError> {
        let side = SideFile { name: item.side, len: item.side_len().unwrap_or(0) };
        let open = self.0.borrow_mut().take().filter(|o| o.name == side.name && o.at <= offset);
        let mut open = match open {
            Some(open) => open,
            None => {
                let reader = desk.open_side(side).await?;
                Open { name: side.name, at: 0, reader, rest: None }
            }
        };
        while buf.room() > 0 {
            let piece = match open.rest.take() {
                Some(piece) => piece,
                None => match open.reader.next().await? {
                    Some(piece) => piece,
                    None => break,
                },
            };
            // Before the offset only after a connection was lost midway.
            let skip = (offset.saturating_sub(open.at)).min(piece.len() as u64) as usize;
            let take = (piece.len() - skip).min(buf.room());
            buf.put(&piece[skip..skip + take]);
            open.at += (skip + take) as u64;
            if skip + take < piece.len() {
                open.rest = Some(piece.part(skip + take..piece.len()));
            }
        }
        *self.0.borrow_mut() = Some(open);
        Ok(())
    }
}

//! L4: a body that a filter puts in the place of the one there is: in memory, or in a side file if it is
//! long. Line ends are made CRLF; what no message may contain, or is too long, is trouble of the filter.

use super::Trouble;
use crate::message::body::BodyFacts;
use crate::milter::Fault;
use crate::runtime::Runtime;
use crate::smtp::data::{BareNewline, Body, Limits, NulBytes, Piece};
use crate::smtp::serve::Context;
use crate::storage::side::{SideFile, SideWriter};
use std::rc::Rc;

/// A body while it comes from a filter.
pub(super) struct Replacement<R: Runtime> {
    ctx: Rc<Context<R>>,
    scan: Body,
    /// A CR whose LF, if it has one, comes with the next piece.
    carry: bool,
    memory: Vec<u8>,
    side: Option<SideWriter<R>>,
}

/// A body that a filter has sent.
pub(super) struct Replaced {
    /// In memory, unless it is in the side file.
    pub memory: Vec<u8>,
    pub side: Option<SideFile>,
    /// Of the body alone.
    pub facts: BodyFacts,
}

/// Bytes that end the (empty) header in front of the body for the scanner.
const BLANK: &[u8] = b"\r\n";

impl<R: Runtime> Replacement<R> {
    /// A body of at most `size` bytes.
    pub fn new(ctx: &Rc<Context<R>>, size: u64) -> Self {
        let limits = Limits {
            size: size.saturating_add(BLANK.len() as u64),
            header: 0,
            field: 0,
            fields: 0,
            hops: 0,
            bare_newline: BareNewline::Normalize,
            nul: NulBytes::Refuse,
        };
        let mut scan = Body::new(limits);
        scan.chunk(BLANK, BLANK.len() as u64);
        Replacement { ctx: ctx.clone(), scan, carry: false, memory: Vec::new(), side: None }
    }

    /// Adds a piece.
    pub async fn push(&mut self, piece: &[u8]) -> Result<(), Trouble> {
        let mut joined;
        let mut rest = piece;
        if std::mem::take(&mut self.carry) {
            joined = vec![b'\r'];
            joined.extend_from_slice(piece);
            rest = &joined;
        }
        if rest.last() == Some(&b'\r') {
            self.carry = true;
            rest = &rest[..rest.len() - 1];
        }
        self.scan(rest);
        if self.scan.fault().is_some() {
            return Err(Fault::TooMuch.into());
        }
        if self.memory.len() > self.ctx.options.side_bytes {
            self.spill().await?;
        }
        Ok(())
    }

    fn scan(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() && self.scan.fault().is_none() {
            let (used, piece) = self.scan.chunk(rest, rest.len() as u64);
            match piece {
                Piece::Run(run) => self.memory.extend_from_slice(&rest[run]),
                Piece::Insert(bytes) => self.memory.extend_from_slice(bytes),
                Piece::More | Piece::End => {}
            }
            rest = &rest[used..];
        }
    }

    async fn spill(&mut self) -> Result<(), Trouble> {
        if self.side.is_none() {
            self.side = Some(self.ctx.goal.create_side().await.map_err(|_| Trouble::Ours)?);
        }
        if let Some(side) = &mut self.side {
            side.write(&self.memory).await.map_err(|_| Trouble::Ours)?;
        }
        self.memory.clear();
        Ok(())
    }

    /// Ends it.
    pub async fn finish(mut self) -> Result<Replaced, Trouble> {
        if std::mem::take(&mut self.carry) {
            self.scan(b"\r");
        }
        while let Some(Piece::Insert(bytes)) = self.scan.end_chunks() {
            self.memory.extend_from_slice(bytes);
        }
        if self.scan.fault().is_some() {
            return Err(Fault::TooMuch.into());
        }
        if self.side.is_some() {
            self.spill().await?;
        }
        let side = match self.side.take() {
            Some(side) => Some(side.finish().await.map_err(|_| Trouble::Ours)?),
            None => None,
        };
        let mut facts = self.scan.facts();
        facts.len -= BLANK.len() as u64;
        Ok(Replaced { memory: self.memory, side, facts })
    }
}

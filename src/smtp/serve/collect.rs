//! L4: the body of a message while it comes in.
//!
//! As long as all of it lies in the receive buffer, it stays there and only its places are noted: the
//! journal copies it once. Before the buffer is used again the pieces move to memory of their own,
//! and from there to a side file if they grow too long. Knows no protocol.
//! A side file that cannot be written is remembered and told at the end of the message.

use super::Context;
use crate::runtime::Runtime;
use crate::storage::side::{SideError, SideFile, SideWriter};
use smallvec::SmallVec;
use std::ops::Range;
use std::rc::Rc;

/// From here on bodies go to side files when memory is short.
const SPILL_MIN: usize = 64 << 10;

/// Bytes of memory that a body begins with, once it does not fit the receive buffer.
const FIRST: usize = 128 << 10;
/// Spare memories kept by a core at most, and the largest that is kept, in bytes.
const SPARES: (usize, usize) = (32, 2 << 20);

/// A piece of a body.
enum Piece {
    /// In the receive buffer.
    Here(Range<usize>),
    /// Inserted.
    Static(&'static [u8]),
}

/// The pieces of one body, in order: side file, then memory, then receive buffer.
pub(super) struct Collector<R: Runtime> {
    ctx: Rc<Context<R>>,
    side: Option<SideWriter<R>>,
    failed: Option<SideError>,
    memory: Vec<u8>,
    pieces: SmallVec<[Piece; 8]>,
    /// Bytes of `pieces`.
    here: usize,
    /// Bytes counted in the context.
    counted: usize,
}

impl<R: Runtime> Collector<R> {
    pub fn new(ctx: Rc<Context<R>>) -> Self {
        Collector {
            ctx,
            side: None,
            failed: None,
            memory: Vec::new(),
            pieces: SmallVec::new(),
            here: 0,
            counted: 0,
        }
    }

    /// Notes a range of the receive buffer.
    pub fn here(&mut self, range: Range<usize>) {
        self.here += range.len();
        match self.pieces.last_mut() {
            Some(Piece::Here(last)) if last.end == range.start => last.end = range.end,
            _ => self.pieces.push(Piece::Here(range)),
        }
    }

    /// Notes inserted bytes.
    pub fn inserted(&mut self, bytes: &'static [u8]) {
        self.here += bytes.len();
        self.pieces.push(Piece::Static(bytes));
    }

    /// Moves the noted pieces out of the receive buffer `buf`, which is about to change.
    pub async fn save(&mut self, buf: &[u8]) {
        if self.pieces.is_empty() {
            return;
        }
        if self.memory.capacity() == 0 {
            let spare = self.ctx.spare.borrow_mut().pop();
            self.memory = spare.unwrap_or_else(|| Vec::with_capacity(FIRST));
        }
        for piece in self.pieces.drain(..) {
            self.memory.extend_from_slice(match &piece {
                Piece::Here(range) => &buf[range.clone()],
                Piece::Static(bytes) => bytes,
            });
        }
        self.here = 0;
        let ctx = &self.ctx;
        ctx.held.set(ctx.held.get() - self.counted + self.memory.len());
        self.counted = self.memory.len();
        let most = if ctx.held.get() > ctx.options.memory { SPILL_MIN } else { ctx.options.side_bytes };
        if self.memory.len() > most || (self.side.is_some() && self.memory.len() >= SPILL_MIN) {
            self.spill().await;
        }
    }

    /// Writes what is in memory to the side file.
    async fn spill(&mut self) {
        if self.side.is_none() && self.failed.is_none() {
            match self.ctx.intake.create_side().await {
                Ok(writer) => self.side = Some(writer),
                Err(e) => self.failed = Some(e),
            }
        }
        if let Some(writer) = &mut self.side
            && let Err(e) = writer.write(&self.memory).await
        {
            self.side = None;
            self.failed = Some(e);
        }
        self.memory.clear();
        self.uncount();
    }

    /// Bytes that are not in a side file.
    pub fn in_memory(&self) -> usize {
        self.memory.len() + self.here
    }

    /// True if a side file has been begun (or could not be).
    pub fn has_side(&self) -> bool {
        self.side.is_some() || self.failed.is_some()
    }

    /// Completes the side file: everything noted goes into it, and it is made durable.
    pub async fn finish_side(&mut self, buf: &[u8]) -> Result<SideFile, SideError> {
        self.save(buf).await;
        self.spill().await;
        match (self.side.take(), self.failed.take()) {
            (Some(writer), None) => writer.finish().await,
            (_, failed) => Err(failed.unwrap_or(SideError::Full)),
        }
    }

    /// The body in memory, as slices.
    pub fn slices<'a>(&'a self, buf: &'a [u8]) -> SmallVec<[&'a [u8]; 10]> {
        let mut slices: SmallVec<[&[u8]; 10]> = SmallVec::new();
        if !self.memory.is_empty() {
            slices.push(&self.memory);
        }
        slices.extend(self.pieces.iter().map(|piece| match piece {
            Piece::Here(range) => &buf[range.clone()],
            Piece::Static(bytes) => bytes,
        }));
        slices
    }

    /// Forgets the body, to be used for the next one.
    pub fn clear(&mut self) {
        self.side = None;
        self.failed = None;
        self.pieces.clear();
        self.here = 0;
        self.uncount();
        self.give_memory();
    }

    /// One large message must not make the session large for ever.
    fn give_memory(&mut self) {
        let mut memory = std::mem::take(&mut self.memory);
        let mut spare = self.ctx.spare.borrow_mut();
        if (1..=SPARES.1).contains(&memory.capacity()) && spare.len() < SPARES.0 {
            memory.clear();
            spare.push(memory);
        }
    }

    fn uncount(&mut self) {
        self.ctx.held.set(self.ctx.held.get() - self.counted);
        self.counted = 0;
    }
}

impl<R: Runtime> Drop for Collector<R> {
    fn drop(&mut self) {
        self.uncount();
        self.give_memory();
    }
}

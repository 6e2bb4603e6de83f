//! L4: the body of a message while it comes in: in memory, or in a side file if it grows too long.
//!
//! Knows no protocol. A side file that cannot be written is remembered and told at the end of the
//! message.

use super::Context;
use super::gather::Gathered;
use crate::runtime::Runtime;
use crate::storage::side::{SideError, SideFile, SideWriter};
use smallvec::SmallVec;
use std::ops::Range;
use std::rc::Rc;

/// From here on bodies go to side files when memory is short.
const SPILL_MIN: usize = 64 << 10;

/// One body: first the side file, then memory.
pub(super) struct Collector<R: Runtime> {
    ctx: Rc<Context<R>>,
    side: Option<SideWriter<R>>,
    failed: Option<SideError>,
    memory: Gathered,
    /// Bytes counted in the context.
    counted: usize,
}

impl<R: Runtime> Collector<R> {
    pub fn new(ctx: Rc<Context<R>>) -> Self {
        Collector { ctx, side: None, failed: None, memory: Gathered::default(), counted: 0 }
    }

    /// Notes a range of the receive buffer `buf`.
    pub fn here(&mut self, range: Range<usize>, buf: &[u8]) {
        self.memory.here(range, buf, &self.ctx.pool);
    }

    /// Notes inserted bytes.
    pub fn inserted(&mut self, bytes: &'static [u8], buf: &[u8]) {
        self.memory.inserted(bytes, buf, &self.ctx.pool);
    }

    /// Notes bytes that lie elsewhere: they are copied.
    pub fn copied(&mut self, bytes: &[u8], buf: &[u8]) {
        self.memory.copied(bytes, buf, &self.ctx.pool);
    }

    /// Before more is received: keeps within memory. False if something noted lies in the receive
    /// buffer `buf`, whose contents must then stay where they are, or go to [`Self::keep`].
    pub async fn settle(&mut self, buf: &[u8]) -> bool {
        if self.memory.is_apart() {
            return true;
        }
        let (ctx, len) = (&self.ctx, self.memory.len());
        ctx.held.set(ctx.held.get() - self.counted + len);
        self.counted = len;
        let most = if ctx.held.get() > ctx.options.memory { SPILL_MIN } else { ctx.options.side_bytes };
        if len > most || (self.side.is_some() && len >= SPILL_MIN) {
            self.spill(buf).await;
        }
        self.memory.is_apart()
    }

    /// Keeps a receive buffer until the end of the message.
    pub fn keep(&mut self, buf: Vec<u8>) {
        self.memory.keep(buf);
    }

    /// Writes what is in memory to the side file.
    async fn spill(&mut self, buf: &[u8]) {
        if self.side.is_none() && self.failed.is_none() {
            match self.ctx.goal.create_side().await {
                Ok(writer) => self.side = Some(writer),
                Err(e) => self.failed = Some(e),
            }
        }
        if let Some(writer) = &mut self.side {
            for bytes in self.memory.slices(buf) {
                if let Err(e) = writer.write(bytes).await {
                    self.side = None;
                    self.failed = Some(e);
                    break;
                }
            }
        }
        self.forget();
    }

    /// Bytes that are not in a side file.
    pub fn in_memory(&self) -> usize {
        self.memory.len()
    }

    /// True if a side file has been begun (or could not be).
    pub fn has_side(&self) -> bool {
        self.side.is_some() || self.failed.is_some()
    }

    /// Completes the side file: everything noted goes into it, and it is made durable.
    pub async fn finish_side(&mut self, buf: &[u8]) -> Result<SideFile, SideError> {
        self.spill(buf).await;
        match (self.side.take(), self.failed.take()) {
            (Some(writer), None) => writer.finish().await,
            (_, failed) => Err(failed.unwrap_or(SideError::Full)),
        }
    }

    /// The body in memory, as slices.
    pub fn slices<'a>(&'a self, buf: &'a [u8]) -> SmallVec<[&'a [u8]; 10]> {
        self.memory.slices(buf).collect()
    }

    /// Forgets the body, to be used for the next one.
    pub fn clear(&mut self) {
        self.side = None;
        self.failed = None;
        self.forget();
    }

    /// Forgets what is in memory. One large message must not make the session large for ever.
    fn forget(&mut self) {
        self.memory.clear(&self.ctx.pool);
        self.ctx.held.set(self.ctx.held.get() - self.counted);
        self.counted = 0;
    }
}

impl<R: Runtime> Drop for Collector<R> {
    fn drop(&mut self) {
        self.forget();
    }
}

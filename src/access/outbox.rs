//! What waits to be sent: replies, and pieces of stored messages between them, in order.
//!
//! In clear text a long piece is sent from where the store has read it; a short one is copied, which
//! costs less than a piece of its own. Under TLS all is copied, for sealing it. The owner sends when
//! [`Outbox::is_full`].

use crate::base::aligned::SharedBytes;
use crate::channel::Channel;
use crate::runtime::Part;
use crate::runtime::pool;
use std::ops::Range;

/// Shorter pieces are copied.
const COPIED: usize = 1 << 10;
/// Bytes that may wait in clear text, counting the memory that they hold.
const FULL: usize = pool::HUGE;
/// Bytes that may wait under TLS: what fits a large buffer when it is sealed.
const FULL_SECURE: usize = pool::LARGE - (1 << 10);

/// See the module.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Before `out`.
    pub(super) parts: Vec<Part>,
    /// Bytes of memory that the parts hold.
    held: usize,
    /// Replies; a session machine appends to it.
    pub out: Vec<u8>,
    /// Up to here `out` has been looked at, or is no reply.
    seen: usize,
}

impl Outbox {
    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty() && self.parts.is_empty()
    }

    /// So much waits that it should be sent before more comes.
    #[must_use]
    pub fn is_full(&self, channel: &Channel) -> bool {
        let most = if channel.tls().is_some() { FULL_SECURE } else { FULL };
        self.held + self.out.len() >= most
    }

    /// Bytes that one piece should have at most, so that sending it is progress that can be seen.
    #[must_use]
    pub fn room(&self, channel: &Channel) -> usize {
        let most = if channel.tls().is_some() { FULL_SECURE } else { FULL };
        most.saturating_sub(self.out.len()).max(1)
    }

    /// Appends a piece of a stored message.
    pub fn piece(&mut self, channel: &Channel, bytes: &SharedBytes, range: Range<usize>) {
        if channel.tls().is_some() || range.len() < COPIED {
            self.raw(&bytes[range]);
            return;
        }
        if !self.out.is_empty() {
            self.held += self.out.len();
            let before = self.take();
            self.parts.push(Part::Owned(before));
        }
        self.held += range.len();
        self.parts.push(Part::Shared(bytes.part(range)));
    }

    /// Appends bytes that are no reply.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.seen = self.out.len();
    }

    /// Replies that have been appended since this was asked last.
    pub fn fresh(&mut self) -> &[u8] {
        let from = std::mem::replace(&mut self.seen, self.out.len());
        &self.out[from.min(self.out.len())..]
    }

    /// The replies, taken out.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.seen = 0;
        std::mem::take(&mut self.out)
    }

    /// What waits in pieces, taken out; with the replies behind them.
    pub(super) fn take_parts(&mut self) -> Vec<Part> {
        let mut parts = std::mem::take(&mut self.parts);
        if !self.out.is_empty() {
            parts.push(Part::Owned(self.take()));
        }
        self.held = 0;
        parts
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.parts = Vec::new();
        self.held = 0;
        self.seen = 0;
        self.out.clear();
    }
}

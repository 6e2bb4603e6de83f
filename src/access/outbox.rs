//! What waits to be sent: replies, and pieces of stored messages between them, in order.
//!
//! In clear text a long piece is sent from where the store has read it; a short one is copied, which
//! costs less than a piece of its own. Under TLS, or deflated, all is copied, for that. The owner sends when
//! [`Outbox::is_full`].

use crate::base::aligned::SharedBytes;
use crate::channel::Channel;
use crate::runtime::Part;
use crate::runtime::pool;
use std::ops::Range;

/// Shorter pieces are copied.
const COPIED: usize = 1 << 10;
/// Bytes that may wait in clear text.
const FULL: usize = pool::HUGE;
/// Bytes of memory that pieces of stored messages may keep: a short one may keep a long read.
const FULL_HELD: usize = 2 * pool::HUGE;
/// Bytes that may wait under TLS or deflated: what fits a large buffer when it is sealed.
const FULL_SECURE: usize = pool::LARGE - (1 << 10);

/// See the module.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Before `out`.
    pub(super) parts: Vec<Part>,
    /// Bytes of the parts.
    waiting: usize,
    /// Bytes of memory that pieces of stored messages keep.
    held: usize,
    /// Replies; a session machine appends to it.
    pub out: Vec<u8>,
    /// Up to here `out` has been looked at, or is no reply.
    seen: usize,
    /// Everything is copied, also in clear text: it is deflated before it is sent.
    pub(super) copies: bool,
}

impl Outbox {
    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty() && self.parts.is_empty()
    }

    /// Whether a piece is copied.
    fn copies(&self, channel: &Channel) -> bool {
        self.copies || channel.tls().is_some()
    }

    /// So much waits that it should be sent before more comes.
    #[must_use]
    pub fn is_full(&self, channel: &Channel) -> bool {
        let most = if self.copies(channel) { FULL_SECURE } else { FULL };
        self.waiting + self.out.len() >= most || self.held >= FULL_HELD
    }

    /// Bytes that one piece should have at most, so that sending it is progress that can be seen.
    #[must_use]
    pub fn room(&self, channel: &Channel) -> usize {
        let most = if self.copies(channel) { FULL_SECURE } else { FULL };
        most.saturating_sub(self.out.len()).max(1)
    }

    /// Appends a piece of a stored message.
    pub fn piece(&mut self, channel: &Channel, bytes: &SharedBytes, range: Range<usize>) {
        if self.copies(channel) || range.len() < COPIED {
            self.raw(&bytes[range]);
            return;
        }
        if !self.out.is_empty() {
            self.waiting += self.out.len();
            let before = self.take();
            self.parts.push(Part::Owned(before));
        }
        self.waiting += range.len();
        let last = self.parts.iter().rev().find_map(|p| match p {
            Part::Shared(last) => Some(last),
            _ => None,
        });
        if !last.is_some_and(|last| last.same_buffer(bytes)) {
            self.held += bytes.held();
        }
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
        (self.waiting, self.held) = (0, 0);
        parts
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.parts = Vec::new();
        (self.waiting, self.held) = (0, 0);
        self.seen = 0;
        self.out.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_one_read_are_counted_once_and_short_ones_of_many_in_full() {
        let channel = Channel::Plain;
        let read = SharedBytes::copy_of(&[1; pool::HUGE]);
        let mut outbox = Outbox::default();
        for at in 0..40 {
            outbox.raw(b"* 1 FETCH");
            outbox.piece(&channel, &read, at * 2000..(at + 1) * 2000);
            assert!(!outbox.is_full(&channel), "{at}");
        }
        // Of three reads a little each: the third would be too much.
        let mut outbox = Outbox::default();
        let full = [(); 3].map(|()| {
            let full = outbox.is_full(&channel);
            outbox.piece(&channel, &SharedBytes::copy_of(&[1; pool::HUGE]), 0..2000);
            full
        });
        assert_eq!(full, [false, false, true]);
        assert_eq!(outbox.take_parts().len(), 3);
        assert!(outbox.is_empty() && !outbox.is_full(&channel));
    }
}

//! Memory of a gathered send: a message header and its vectors, and the place within the parts.
//!
//! Knows nothing of sockets. The kernel takes at most 1024 vectors at a time; longer lists go out
//! in several windows.

#![allow(unsafe_code)]

use crate::runtime::Part;

/// Most vectors of one `sendmsg` (UIO_MAXIOV).
const WINDOW: usize = 1024;

/// How far a list of parts has been sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    part: usize,
    offset: usize,
}

impl Position {
    /// Moves on by `n` sent bytes.
    pub(super) fn advance(&mut self, parts: &[Part], n: usize) {
        let mut left = n;
        while left > 0 {
            let rest = parts[self.part].bytes().len() - self.offset;
            if left < rest {
                self.offset += left;
                return;
            }
            left -= rest;
            *self = Position { part: self.part + 1, offset: 0 };
        }
    }
}

/// What [`Gather::fill`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Bytes in this window; zero: nothing is left.
    pub(super) bytes: usize,
    /// Nothing is left behind this window.
    pub(super) last: bool,
}

/// A message header and its vectors. Kept by the connection and used again.
pub(super) struct Gather {
    header: libc::msghdr,
    vectors: Vec<libc::iovec>,
}

impl Gather {
    pub(super) fn new() -> Box<Self> {
        // SAFETY: all zeros is a valid `msghdr`: no name, no vectors, no control data.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Gather { header, vectors: Vec::new() })
    }

    /// Points the vectors at the rest of `parts` from `at` on, as many as one call takes.
    pub(super) fn fill(&mut self, parts: &[Part], at: Position) -> Window {
        self.vectors.clear();
        let mut bytes = 0;
        let mut last = true;
        let mut offset = at.offset;
        for part in &parts[at.part.min(parts.len())..] {
            let rest = &part.bytes()[offset..];
            offset = 0;
            if rest.is_empty() {
                continue;
            }
            // 1 GiB keeps the sum within the kernel's limit for one call.
            if self.vectors.len() == WINDOW || (bytes > 0 && bytes + rest.len() > 1 << 30) {
                last = false;
                break;
            }
            bytes += rest.len();
            self.vectors.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
        }
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.vectors.len();
        Window { bytes, last }
    }

    /// The header, for one call.
    pub(super) fn header(&mut self) -> *const libc::msghdr {
        &raw const self.header
    }

    /// Forgets the pointers and, if there are many, their memory.
    pub(super) fn clear(&mut self) {
        self.vectors.clear();
        self.vectors.shrink_to(64);
        self.header.msg_iovlen = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_everything_once() {
        let parts: Vec<Part> = (0..3000usize).map(|n| Part::Owned(vec![n as u8; n % 3])).collect();
        let total: usize = parts.iter().map(|p| p.bytes().len()).sum();
        let mut gather = Gather::new();
        for step in [1, 7, 1024, usize::MAX] {
            let mut at = Position::default();
            let mut sent = 0;
            loop {
                let window = gather.fill(&parts, at);
                assert!(gather.vectors.len() <= WINDOW);
                assert_eq!(window.last, sent + window.bytes == total);
                if window.bytes == 0 {
                    break;
                }
                let n = window.bytes.min(step);
                sent += n;
                at.advance(&parts, n);
            }
            assert_eq!(sent, total);
        }
        assert_eq!(gather.fill(&[], Position::default()), Window { bytes: 0, last: true });
    }
}

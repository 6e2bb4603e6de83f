//! Memory aligned for direct disk IO, and counted slices of it.
//!
//! Owns nothing but bytes. Safe code: the vector is over-allocated by one page and the start is
//! moved to the next page boundary. Memory of larger buffers is kept for the next ones of the same
//! size on the thread: to get it from the system anew costs more than to fill it.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

/// Alignment and granularity of disk IO in bytes.
pub const PAGE: usize = 4096;

/// Smallest memory that is kept, in bytes.
const KEEP_MIN: usize = 16 << 10;
/// Bytes kept by a thread at most.
const KEEP_MAX: usize = 16 << 20;

/// Memory without an owner.
#[derive(Default)]
struct Kept {
    free: Vec<Vec<u8>>,
    bytes: usize,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// Memory of `size` bytes with any content.
fn take_memory(size: usize) -> Vec<u8> {
    let kept = |kept: &RefCell<Kept>| {
        let mut kept = kept.borrow_mut();
        let at = kept.free.iter().rposition(|m| m.len() == size)?;
        kept.bytes -= size;
        Some(kept.free.swap_remove(at))
    };
    let kept = if size < KEEP_MIN { None } else { KEPT.try_with(kept).ok().flatten() };
    kept.unwrap_or_else(|| vec![0u8; size])
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if memory.len() < KEEP_MIN {
            return;
        }
        // At the end of a thread there may be nothing left to keep it in.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.bytes + memory.len() <= KEEP_MAX {
                kept.bytes += memory.len();
                kept.free.push(memory);
            }
        });
    }
}

/// A growable-to-capacity buffer whose first byte lies on a page boundary. Its memory never moves.
pub struct AlignedBuf {
    memory: Vec<u8>,
    start: usize,
    len: usize,
    capacity: usize,
}

impl AlignedBuf {
    /// An empty buffer of `capacity` bytes, rounded up to whole pages.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.div_ceil(PAGE).max(1) * PAGE;
        let memory = take_memory(capacity + PAGE);
        let start = memory.as_ptr().align_offset(PAGE);
        assert!(start < PAGE, "align_offset of bytes always succeeds");
        AlignedBuf { memory, start, len: 0, capacity }
    }

    /// Bytes in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if no byte is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Appends `bytes`. Panics if they do not fit.
    pub fn put(&mut self, bytes: &[u8]) {
        let at = self.start + self.len;
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        assert!(self.len <= self.capacity);
    }

    /// Sets the length; bytes that come into view are whatever was there, perhaps another buffer's.
    /// Panics above the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity);
        self.len = len;
    }

    /// Appends zeros up to `len`. Panics if `len` is above the capacity or below the length.
    pub fn zero_to(&mut self, len: usize) {
        assert!(self.len <= len && len <= self.capacity);
        self.memory[self.start + self.len..self.start + len].fill(0);
        self.len = len;
    }

    /// The bytes in use.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    /// The bytes in use.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }

    /// All bytes up to the capacity, for a read from disk; follow with [`Self::set_len`].
    pub fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.capacity]
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity)
    }
}

/// A counted slice of a finished [`AlignedBuf`]; cloning counts, it does not copy.
#[derive(Clone)]
pub struct SharedBytes {
    buf: Rc<AlignedBuf>,
    start: u32,
    len: u32,
}

impl SharedBytes {
    /// The whole of `buf`.
    #[must_use]
    pub fn whole(buf: Rc<AlignedBuf>) -> Self {
        let len = u32::try_from(buf.len()).expect("buffers are below 4 GiB");
        SharedBytes { buf, start: 0, len }
    }

    /// The part `range` (relative to this slice). Panics outside of it.
    #[must_use]
    pub fn part(&self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len as usize);
        SharedBytes {
            buf: self.buf.clone(),
            start: self.start + range.start as u32,
            len: (range.end - range.start) as u32,
        }
    }

    /// A copy of `bytes` in memory of its own.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buf = AlignedBuf::with_capacity(bytes.len());
        buf.put(bytes);
        Self::whole(Rc::new(buf))
    }

    /// True if both are slices of the same buffer: one lives as long as the other at no cost.
    #[must_use]
    pub fn same_buffer(&self, other: &SharedBytes) -> bool {
        Rc::ptr_eq(&self.buf, &other.buf)
    }

    /// Bytes of memory that this slice keeps alive.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buf.capacity()
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buf.bytes()[self.start as usize..(self.start + self.len) as usize]
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBytes({} bytes at {})", self.len, self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_and_bounded() {
        let mut b = AlignedBuf::with_capacity(5000);
        assert_eq!(b.capacity(), 8192);
        b.put(b"hello");
        b.zero_to(4096);
        assert_eq!(b.bytes().as_ptr() as usize % PAGE, 0);
        assert_eq!(b.len(), 4096);
        b.bytes_mut()[4095] = 7;
        let s = SharedBytes::whole(Rc::new(b)).part(1..5);
        assert_eq!(&*s, b"ello");
        assert_eq!(&*s.part(1..3), b"ll");
    }

    #[test]
    fn memory_is_used_again() {
        let mut first = AlignedBuf::with_capacity(1 << 16);
        first.put(b"secret");
        let at = first.bytes().as_ptr();
        drop(first);
        let mut second = AlignedBuf::with_capacity(1 << 16);
        assert!(second.is_empty());
        second.zero_to(PAGE);
        assert_eq!(second.bytes().as_ptr(), at);
        assert!(second.bytes().iter().all(|b| *b == 0));
    }
}

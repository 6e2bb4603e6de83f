//! L4: where the pieces of a body in memory are.
//!
//! Bytes stay in the buffer that received them, and only their places are noted: the journal copies
//! them once. A buffer that is full is kept. Very many pieces are put together, so that noting them
//! never takes much more memory than they do. Knows no protocol and no IO. Cannot fail.

use crate::runtime::pool::Pool;
use smallvec::SmallVec;
use std::ops::Range;

/// Pieces of one buffer that are kept apart.
const PIECES: usize = 64;

/// A piece of a body.
enum Piece {
    /// In the buffer.
    Here(Range<usize>),
    /// Inserted.
    Static(&'static [u8]),
}

impl Piece {
    fn bytes<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        match self {
            Piece::Here(range) => &buf[range.clone()],
            Piece::Static(bytes) => bytes,
        }
    }
}

/// Pieces of one buffer, in order.
type Pieces = SmallVec<[Piece; 8]>;

/// A buffer that is kept, and what of it belongs to the body.
struct Kept {
    buf: Vec<u8>,
    pieces: Pieces,
    /// All of it, and put together here: more can be added.
    joined: bool,
}

/// The pieces of one body, in order: first those of kept buffers, then those of the receive buffer,
/// which its owner passes along.
#[derive(Default)]
pub(super) struct Gathered {
    kept: Vec<Kept>,
    /// In the receive buffer.
    pieces: Pieces,
    len: usize,
}

impl Gathered {
    /// Bytes of all pieces.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if nothing noted lies in the receive buffer.
    pub fn is_apart(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Notes a range of the receive buffer.
    pub fn here(&mut self, range: Range<usize>, buf: &[u8], pool: &Pool) {
        self.len += range.len();
        match self.pieces.last_mut() {
            Some(Piece::Here(last)) if last.end == range.start => last.end = range.end,
            _ => self.note(Piece::Here(range), buf, pool),
        }
    }

    /// Notes inserted bytes.
    pub fn inserted(&mut self, bytes: &'static [u8], buf: &[u8], pool: &Pool) {
        self.len += bytes.len();
        self.note(Piece::Static(bytes), buf, pool);
    }

    /// Notes bytes that lie elsewhere: they are copied.
    pub fn copied(&mut self, bytes: &[u8], buf: &[u8], pool: &Pool) {
        self.len += bytes.len();
        self.join(buf, pool);
        let into = self.joined(bytes.len(), pool);
        into.buf.extend_from_slice(bytes);
        into.pieces.clear();
        into.pieces.push(Piece::Here(0..into.buf.len()));
    }

    fn note(&mut self, piece: Piece, buf: &[u8], pool: &Pool) {
        if self.pieces.len() == PIECES {
            self.join(buf, pool);
        }
        self.pieces.push(piece);
    }

    /// Puts the pieces in the receive buffer together in memory of their own.
    fn join(&mut self, buf: &[u8], pool: &Pool) {
        if self.pieces.is_empty() {
            return;
        }
        let pieces = std::mem::take(&mut self.pieces);
        let len = pieces.iter().map(|p| p.bytes(buf).len()).sum();
        let into = self.joined(len, pool);
        pieces.iter().for_each(|p| into.buf.extend_from_slice(p.bytes(buf)));
        into.pieces.clear();
        into.pieces.push(Piece::Here(0..into.buf.len()));
    }

    /// Memory of our own to which `len` bytes can be added, behind all that has been kept.
    fn joined(&mut self, len: usize, pool: &Pool) -> &mut Kept {
        let fits = |k: &Kept| k.joined && k.buf.capacity() - k.buf.len() >= len;
        if !self.kept.last().is_some_and(fits) {
            let mut buf = pool.large();
            buf.reserve(len);
            self.kept.push(Kept { buf, pieces: SmallVec::new(), joined: true });
        }
        self.kept.last_mut().expect("just seen to")
    }

    /// Keeps a receive buffer; what is noted from now on lies in the next one.
    pub fn keep(&mut self, buf: Vec<u8>) {
        self.kept.push(Kept { buf, pieces: std::mem::take(&mut self.pieces), joined: false });
    }

    /// All pieces, in order.
    pub fn slices<'a>(&'a self, buf: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let kept = self.kept.iter().flat_map(|k| k.pieces.iter().map(|p| p.bytes(&k.buf)));
        kept.chain(self.pieces.iter().map(move |p| p.bytes(buf)))
    }

    /// Forgets everything and gives the buffers back.
    pub fn clear(&mut self, pool: &Pool) {
        self.kept.drain(..).for_each(|k| pool.give(k.buf));
        self.pieces.clear();
        self.pieces.shrink_to_fit();
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What happens to a body: so many bytes arrive of which some are skipped, a line end is inserted,
    /// the receive buffer is kept.
    #[derive(Clone, Debug)]
    enum Event {
        Arrive { skip: usize, len: usize },
        Insert,
        Copy,
        Keep,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => (0usize..2, 0usize..600).prop_map(|(skip, len)| Event::Arrive { skip, len }),
            3 => Just(Event::Insert),
            2 => Just(Event::Copy),
            1 => Just(Event::Keep),
        ]
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_moved(events in prop::collection::vec(event(), 0..1000)) {
            let (pool, mut body, mut buf) = (Pool::new(4), Gathered::default(), Vec::new());
            let (mut expect, mut next) = (Vec::new(), 0u8);
            for event in events {
                match event {
                    Event::Arrive { skip, len } => {
                        let from = buf.len() + skip;
                        buf.extend((0..skip + len).map(|_| {
                            next = next.wrapping_add(1);
                            next
                        }));
                        expect.extend_from_slice(&buf[from..]);
                        body.here(from..buf.len(), &buf, &pool);
                    }
                    Event::Insert => {
                        expect.extend_from_slice(b"\r\n");
                        body.inserted(b"\r\n", &buf, &pool);
                    }
                    Event::Copy => {
                        expect.extend_from_slice(b"elsewhere");
                        body.copied(b"elsewhere", &buf, &pool);
                    }
                    Event::Keep => body.keep(std::mem::take(&mut buf)),
                }
                prop_assert!(body.pieces.len() <= PIECES);
            }
            prop_assert_eq!(body.len(), expect.len());
            prop_assert!(body.slices(&buf).collect::<Vec<_>>().concat() == expect);
            body.clear(&pool);
            prop_assert_eq!((body.len(), body.is_apart(), body.slices(&buf).count()), (0, true, 0));
        }
    }
}

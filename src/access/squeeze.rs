//! DEFLATE on a connection (RFC 4978), in clear text or within TLS.
//!
//! What is received is inflated only as far as its reader has room: a few bytes that stand for many take no
//! memory, and what they stand for is bounded as all input is. What is sent together is deflated together,
//! from a fresh start and to its end, so that all connections of a thread share one compressor; one that
//! waits holds only the window of what it has received, about 40 KiB. Knows no protocol. What cannot be
//! inflated ends the session (`InvalidData`).

use super::wire::Wire;
use crate::runtime::Runtime;
use crate::runtime::pool::{self, Pool};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::cell::RefCell;
use std::io;

/// Bytes that are sent behind a piece at least: its flush.
const FLUSH: usize = 64;

thread_local! {
    static DEFLATE: RefCell<Option<Compress>> = const { RefCell::new(None) };
}

/// What is received by one connection, inflated. It can go to another thread.
pub struct Squeeze {
    inflate: Decompress,
    /// Received; inflated up to `at`. Without capacity while the connection is idle.
    wire: Vec<u8>,
    at: usize,
    /// There was no more room the last time: more may come without input.
    more: bool,
    /// The peer has said that nothing follows.
    ended: bool,
}

impl Squeeze {
    /// The begin of a stream; these bytes of it have been received.
    #[must_use]
    pub fn new(received: Vec<u8>) -> Self {
        Squeeze { inflate: Decompress::new(false), wire: received, at: 0, more: false, ended: false }
    }

    /// Inflates what has been received, as far as `buf` has room. How many bytes came of it; 0: more must
    /// be received.
    ///
    /// # Errors
    /// `InvalidData`: it is no deflated data, or goes on behind its end.
    pub fn inflate(&mut self, buf: &mut Vec<u8>) -> io::Result<usize> {
        let before = buf.len();
        while (self.at < self.wire.len() || self.more) && buf.len() < buf.capacity() {
            if self.ended {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let (taken, had) = (self.inflate.total_in(), buf.len());
            let step = self.inflate.decompress_vec(&self.wire[self.at..], buf, FlushDecompress::Sync);
            let status = step.map_err(|_| io::ErrorKind::InvalidData)?;
            let taken = (self.inflate.total_in() - taken) as usize;
            self.at += taken;
            self.ended = status == Status::StreamEnd;
            self.more = !self.ended && buf.len() == buf.capacity();
            if taken == 0 && buf.len() == had {
                break;
            }
        }
        Ok(buf.len() - before)
    }

    /// A buffer to receive into; all before it has been inflated. As large as what it is for.
    fn take_wire(&mut self, pool: &Pool, room: usize) -> Vec<u8> {
        debug_assert_eq!(self.at, self.wire.len(), "all of it has been inflated");
        pool.give(std::mem::take(&mut self.wire));
        self.at = 0;
        if room < pool::LARGE { pool.small() } else { pool.large() }
    }

    /// Gives the buffer back, if nothing lies in it.
    fn release(&mut self, pool: &Pool) {
        if self.at == self.wire.len() {
            pool.give(std::mem::take(&mut self.wire));
            self.at = 0;
        }
    }
}

/// Appends `plain`, deflated: whatever came before, whoever inflates it has all of it then.
pub fn deflate(plain: &[u8], out: &mut Vec<u8>) {
    if plain.is_empty() {
        return;
    }
    DEFLATE.with_borrow_mut(|slot| {
        let deflate = slot.get_or_insert_with(|| Compress::new(Compression::fast(), false));
        // RFC 1951 §3.2: a block may refer to what was before it, but need not.
        deflate.reset();
        loop {
            out.reserve(plain.len() / 4 + FLUSH);
            let at = deflate.total_in() as usize;
            let step = deflate.compress_vec(&plain[at..], out, FlushCompress::Sync);
            step.expect("the compressor is used as it wants to be");
            if deflate.total_in() as usize == plain.len() && out.len() < out.capacity() {
                return;
            }
        }
    });
}

/// As [`deflate`], into a buffer of the pool, which gets the other.
pub(super) fn deflated(plain: Vec<u8>, pool: &Pool) -> Vec<u8> {
    if plain.is_empty() {
        return plain;
    }
    let mut out = if plain.len() < pool::SMALL { pool.small() } else { pool.large() };
    deflate(&plain, &mut out);
    pool.give(plain);
    out
}

impl<R: Runtime> Wire<R> {
    /// Sends what waits; behind it everything is deflated, both ways, also what has been received and is
    /// not consumed. `None`: the session has ended.
    pub async fn compress(&mut self) -> Option<()> {
        self.flush().await?;
        let received = self.buf.split_off(self.at);
        self.set_squeeze(Some(Box::new(Squeeze::new(received))));
        Some(())
    }

    /// From now on, or not.
    pub(super) fn set_squeeze(&mut self, squeeze: Option<Box<Squeeze>>) {
        self.outbox.copies = squeeze.is_some();
        self.squeeze = squeeze;
    }

    /// Sends what waits and receives; as a stream's `send_recv`.
    pub(super) async fn receive_deflated(&mut self, mut squeeze: Box<Squeeze>) -> io::Result<usize> {
        let result = self.receive_into(&mut squeeze).await;
        squeeze.release(&self.host.pool);
        self.squeeze = Some(squeeze);
        result
    }

    async fn receive_into(&mut self, squeeze: &mut Squeeze) -> io::Result<usize> {
        let (stream, pool) = (self.seat.stream(), &self.host.pool);
        let mut out = deflated(self.outbox.take(), pool);
        loop {
            let count = squeeze.inflate(&mut self.buf)?;
            if count > 0 {
                if !out.is_empty() {
                    let (sent, rest) = self.channel.send(stream, pool, out).await;
                    pool.give(rest);
                    // Too late is as bad as not at all: a part of it may be on its way.
                    sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
                }
                return Ok(count);
            }
            let wire = squeeze.take_wire(pool, self.buf.capacity());
            let (result, rest);
            (result, rest, squeeze.wire) = if out.is_empty() {
                let (result, wire) = self.channel.recv(stream, pool, wire).await;
                (result, out, wire)
            } else {
                self.channel.send_recv(stream, pool, out, wire).await
            };
            // What was not sent says that it is not the client that is idle.
            self.outbox.out = rest;
            match result {
                Ok(1..) => out = std::mem::take(&mut self.outbox.out),
                ended => return ended,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn inflated(stream: &[u8], piece: usize, room: usize) -> io::Result<Vec<u8>> {
        let mut squeeze = Squeeze::new(Vec::new());
        let (mut all, mut buf) = (Vec::new(), Vec::with_capacity(room));
        for piece in stream.chunks(piece) {
            (squeeze.wire, squeeze.at) = (piece.to_vec(), 0);
            while squeeze.inflate(&mut buf)? > 0 {
                assert!(buf.len() <= room && buf.capacity() == room, "never more than there is room for");
                all.append(&mut buf);
            }
            assert_eq!(squeeze.at, squeeze.wire.len());
        }
        Ok(all)
    }

    #[test]
    fn pieces_follow_one_another() {
        let mut stream = Vec::new();
        let mut plain = Vec::new();
        for n in 0..50 {
            let text =
                format!("* {n} FETCH (UID {n} FLAGS (\\Seen) INTERNALDATE \"23-Nov-2026\")\r\n").repeat(n);
            plain.extend_from_slice(text.as_bytes());
            deflate(text.as_bytes(), &mut stream);
            assert_eq!(inflated(&stream, 7, 100).unwrap(), plain, "all of it, at each flush");
        }
        assert!(stream.len() * 4 < plain.len());
        // Each thread has a compressor of its own.
        let other = std::thread::spawn(move || {
            deflate(b"from elsewhere", &mut stream);
            stream
        });
        plain.extend_from_slice(b"from elsewhere");
        assert_eq!(inflated(&other.join().unwrap(), 1000, 1000).unwrap(), plain);
    }

    #[test]
    fn a_bomb_takes_no_more_memory_than_there_is_room() {
        let mut bomb = Vec::new();
        deflate(&vec![b'A'; 50 << 20], &mut bomb);
        assert!(bomb.len() < 1 << 20);
        let mut squeeze = Squeeze::new(bomb);
        let mut buf = Vec::with_capacity(1000);
        for _ in 0..100 {
            assert_eq!(squeeze.inflate(&mut buf).unwrap(), 1000);
            assert_eq!((squeeze.inflate(&mut buf).unwrap(), buf.capacity()), (0, 1000));
            buf.clear();
        }
        assert!(squeeze.at < 1000, "the rest waits as it came");
    }

    #[test]
    fn what_is_no_stream_is_an_error() {
        assert!(inflated(b"\xff\xffNOOP\r\n", 100, 100).is_err());
        assert!(inflated(b"a NOOP\r\n", 100, 100).is_err());
        // RFC 4978 has no end of the stream; what was before one counts, nothing does behind it.
        let mut last = Compress::new(Compression::fast(), false);
        let mut stream = Vec::with_capacity(100);
        last.compress_vec(b"a LOGOUT\r\n", &mut stream, FlushCompress::Finish).unwrap();
        assert_eq!(inflated(&stream, 100, 100).unwrap(), b"a LOGOUT\r\n");
        stream.push(0);
        assert!(inflated(&stream, 100, 100).is_err());
    }

    #[test]
    fn it_can_go_to_another_thread() {
        fn sendable<T: Send>() -> usize {
            size_of::<T>()
        }
        assert!(sendable::<Squeeze>() > 0);
    }

    proptest! {
        #[test]
        fn any_pieces_come_back(
            texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            piece in 1usize..50,
            room in 1usize..50,
        ) {
            let mut stream = Vec::new();
            texts.iter().for_each(|text| deflate(text, &mut stream));
            prop_assert_eq!(inflated(&stream, piece, room).unwrap(), texts.concat());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = inflated(&bytes, 9, 64);
        }
    }
}

//! What both ends of a connection do in the same way: bytes through the library, on buffers of ours.

use super::connection::{Fault, Reason};
use rustls::ConnectionCommon;
use std::io::{self, BufRead, Read, Write};

/// Takes received bytes up to the first that makes plain ones; gives how many it took. After the
/// peer's close_notify it takes all and drops it (RFC 8446 §6.1).
///
/// # Errors
/// The connection is over.
pub(super) fn feed<D>(
    inner: &mut ConnectionCommon<D>,
    peer_closed: &mut bool,
    wire: &[u8],
) -> Result<usize, Fault> {
    let mut rest = wire;
    while !rest.is_empty() {
        if *peer_closed {
            return Ok(wire.len());
        }
        match inner.read_tls(&mut rest) {
            Ok(0) => break,
            Ok(_) => {}
            // Plain bytes wait to be read.
            Err(e) if e.kind() == io::ErrorKind::Other => break,
            Err(e) => return Err(Fault { reason: Reason::Other, text: e.to_string() }),
        }
        let state = inner.process_new_packets()?;
        *peer_closed = state.peer_has_closed();
        if state.plaintext_bytes_to_read() > 0 {
            break;
        }
    }
    Ok(wire.len() - rest.len())
}

/// Appends plain bytes to `into`, up to its capacity; gives how many.
pub(super) fn read<D>(inner: &mut ConnectionCommon<D>, into: &mut Vec<u8>) -> usize {
    let before = into.len();
    let mut reader = inner.reader();
    while into.len() < into.capacity() {
        // Nothing there is an error of its own kind here, and so is the end: neither matters.
        let Ok(chunk) = reader.fill_buf() else { break };
        let n = chunk.len().min(into.capacity() - into.len());
        if n == 0 {
            break;
        }
        into.extend_from_slice(&chunk[..n]);
        reader.consume(n);
    }
    into.len() - before
}

/// Seals `plain` and appends what is to be sent to `out`, behind what was to be sent before.
pub(super) fn write<D>(inner: &mut ConnectionCommon<D>, plain: &[u8], out: &mut Vec<u8>) {
    inner.writer().write_all(plain).expect("there is no limit");
    pull(inner, out);
}

/// Appends what is to be sent to `out`.
pub(super) fn pull<D>(inner: &mut ConnectionCommon<D>, out: &mut Vec<u8>) {
    while inner.wants_write() {
        inner.write_tls(out).expect("a vector takes everything");
    }
}

/// Holds nothing: reading from it makes the library give its input buffer back.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// Gives memory back before a long wait.
pub(super) fn rest<D>(inner: &mut ConnectionCommon<D>) {
    // It always fails; the buffer is cut to what the next read needs (4 KiB) before.
    let _ = inner.read_tls(&mut Nothing);
}

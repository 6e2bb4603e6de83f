//! L4: the connection to a filter: bytes out, bytes in, until a deadline. Knows no protocol.

use super::{Place, Trouble};
use crate::base::time::Mono;
use crate::runtime::{Runtime, Stream};
use std::io;

/// Bytes of the receive buffer at first.
const BUFFER: usize = 4096;

/// One connection.
pub(super) struct Line<R: Runtime> {
    stream: R::Stream,
    /// To be sent.
    pub out: Vec<u8>,
    /// Received; consumed up to `at`.
    buf: Vec<u8>,
    at: usize,
}

impl<R: Runtime> Line<R> {
    /// Connects.
    pub async fn open(rt: &R, place: &Place, until: Mono) -> Result<Self, Trouble> {
        let stream = match place {
            Place::Inet(address) => rt.connect(*address, None, until).await,
            Place::Unix(path) => rt.connect_path(path, until).await,
        };
        let stream = stream.map_err(|e| Trouble::Connect(e.kind()))?;
        Ok(Line { stream, out: Vec::new(), buf: Vec::new(), at: 0 })
    }

    /// What has come in and is not consumed.
    pub fn input(&self) -> &[u8] {
        &self.buf[self.at..]
    }

    /// So many bytes of it are done with.
    pub fn consume(&mut self, n: usize) {
        self.at += n;
    }

    /// Sends what is to be sent.
    pub async fn send(&mut self, until: Mono) -> Result<(), Trouble> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.stream.set_deadline(Some(until));
        let out = std::mem::take(&mut self.out);
        let result;
        (result, self.out) = self.stream.send(out).await;
        self.out.clear();
        result.map_err(trouble)
    }

    /// Sends what is to be sent, then waits for more.
    pub async fn more(&mut self, until: Mono) -> Result<(), Trouble> {
        self.buf.drain(..self.at);
        self.at = 0;
        if self.buf.capacity() - self.buf.len() < BUFFER / 4 {
            self.buf.reserve(self.buf.len().max(BUFFER));
        }
        self.stream.set_deadline(Some(until));
        let (out, buf) = (std::mem::take(&mut self.out), std::mem::take(&mut self.buf));
        let result;
        if out.is_empty() {
            (result, self.buf) = self.stream.recv(buf).await;
            self.out = out;
        } else {
            (result, self.out, self.buf) = self.stream.send_recv(out, buf).await;
            self.out.clear();
        }
        match result {
            Ok(0) => Err(Trouble::Gone),
            Ok(_) => Ok(()),
            Err(e) => Err(trouble(e)),
        }
    }
}

fn trouble(e: io::Error) -> Trouble {
    if e.kind() == io::ErrorKind::TimedOut { Trouble::Late } else { Trouble::Gone }
}

//! L4: a connection as the sessions of all protocols use it: in clear text, or under TLS.
//!
//! In clear text every operation is the stream's own, at no cost. Under TLS what is received lies in a
//! buffer of the core's pool until it is opened; an idle connection gives it back. Knows no protocol.
//! A fault of TLS ends the connection with `InvalidData`; [`Channel::farewell`] has the alert.

use crate::runtime::pool::{self, Pool};
use crate::runtime::{Lent, Stream};
use crate::tls::{Connection, Fault};
use std::io;

/// See the module. Contract of its operations: that of [`Stream`].
pub enum Channel {
    /// What goes over the wire is what is said.
    Plain,
    /// Under TLS.
    Tls(Box<Secure>),
}

/// The state of TLS.
pub struct Secure {
    /// Large, and never moved: futures that held it would be as large.
    tls: Box<Connection>,
    /// Received; given to TLS up to `at`. Empty between two operations unless `tls` is full of plain
    /// bytes; without capacity while the connection is idle.
    wire: Vec<u8>,
    at: usize,
    /// It is over: `unsent` and the alert are all that can still be sent.
    faulty: bool,
    unsent: Vec<u8>,
}

/// Why a handshake failed.
#[derive(Debug)]
pub enum HandshakeError {
    /// The peer did something wrong; there may be an alert for it.
    Fault(Fault),
    /// It took too long.
    Late,
    /// The connection broke.
    Gone,
}

impl Channel {
    /// Does the handshake on `stream`, whose deadline is set. Gives the channel in any case: after an
    /// error for [`Self::farewell`] only.
    pub async fn handshake<S: Stream>(
        stream: &S,
        tls: Box<Connection>,
        pool: &Pool,
    ) -> (Self, Result<(), HandshakeError>) {
        let mut secure = Box::new(Secure { tls, wire: Vec::new(), at: 0, faulty: false, unsent: Vec::new() });
        let result = secure.shake(stream, pool).await;
        secure.release(pool);
        (Channel::Tls(secure), result)
    }

    /// The TLS of it.
    #[must_use]
    pub fn tls(&self) -> Option<&Connection> {
        match self {
            Channel::Plain => None,
            Channel::Tls(secure) => Some(&*secure.tls),
        }
    }

    /// As [`Stream::recv`].
    pub async fn recv<S: Stream>(&mut self, stream: &S, pool: &Pool, buf: Vec<u8>) -> Lent<usize, Vec<u8>> {
        match self {
            Channel::Plain => stream.recv(buf).await,
            Channel::Tls(secure) => {
                let (result, _, buf) = secure.send_recv(stream, pool, Vec::new(), buf).await;
                (result, buf)
            }
        }
    }

    /// As [`Stream::send_recv`].
    pub async fn send_recv<S: Stream>(
        &mut self,
        stream: &S,
        pool: &Pool,
        out: Vec<u8>,
        buf: Vec<u8>,
    ) -> (io::Result<usize>, Vec<u8>, Vec<u8>) {
        match self {
            Channel::Plain => stream.send_recv(out, buf).await,
            Channel::Tls(secure) => secure.send_recv(stream, pool, out, buf).await,
        }
    }

    /// As [`Stream::send`].
    pub async fn send<S: Stream>(&mut self, stream: &S, pool: &Pool, out: Vec<u8>) -> Lent<(), Vec<u8>> {
        match self {
            Channel::Plain => stream.send(out).await,
            Channel::Tls(secure) => {
                let sealed = secure.seal(pool, &out);
                let (result, sealed) = stream.send(sealed).await;
                pool.give(sealed);
                (result, out)
            }
        }
    }

    /// As [`Stream::readable`]. Only after a receive has timed out: then nothing lies here that could
    /// be read.
    pub async fn readable<S: Stream>(&mut self, stream: &S, pool: &Pool) -> io::Result<()> {
        if let Channel::Tls(secure) = self {
            secure.release(pool);
            secure.tls.rest();
        }
        stream.readable().await
    }

    /// What the last send must be: `reply`, and that nothing follows it. After a fault, or in a
    /// handshake, only the alert, if there is one.
    #[must_use]
    pub fn farewell(&mut self, reply: Vec<u8>) -> Vec<u8> {
        let Channel::Tls(secure) = self else { return reply };
        let mut last = std::mem::take(&mut secure.unsent);
        if secure.faulty || secure.tls.is_handshaking() {
            secure.tls.pull(&mut last);
        } else {
            secure.tls.write(&reply, &mut last);
            secure.tls.close(&mut last);
        }
        last
    }
}

impl Secure {
    async fn shake<S: Stream>(&mut self, stream: &S, pool: &Pool) -> Result<(), HandshakeError> {
        loop {
            while self.at < self.wire.len() && self.tls.is_handshaking() {
                match self.tls.feed(&self.wire[self.at..]) {
                    Ok(n) => self.at += n,
                    Err(fault) => {
                        self.faulty = true;
                        return Err(HandshakeError::Fault(fault));
                    }
                }
            }
            // The tickets go with the first reply.
            if !self.tls.is_handshaking() {
                return Ok(());
            }
            let mut sealed = Vec::new();
            self.output(pool, &mut sealed);
            let (result, sealed) = self.receive(stream, pool, pool::SMALL, sealed).await;
            pool.give(sealed);
            match result {
                Ok(1..) => {}
                Err(e) if e.kind() == io::ErrorKind::TimedOut => return Err(HandshakeError::Late),
                Ok(0) | Err(_) => return Err(HandshakeError::Gone),
            }
        }
    }

    async fn send_recv<S: Stream>(
        &mut self,
        stream: &S,
        pool: &Pool,
        mut out: Vec<u8>,
        mut buf: Vec<u8>,
    ) -> (io::Result<usize>, Vec<u8>, Vec<u8>) {
        if buf.len() == buf.capacity() {
            return (Err(io::ErrorKind::InvalidInput.into()), out, buf);
        }
        let mut sealed = self.seal(pool, &out);
        loop {
            let before = buf.len();
            if let Err(e) = self.read(&mut buf) {
                // It may hold the answer to a message that is already safe.
                self.unsent = sealed;
                return (Err(e), out, buf);
            }
            let n = buf.len() - before;
            if n > 0 || self.tls.is_peer_closed() {
                let (result, sealed) = send(stream, sealed).await;
                pool.give(sealed);
                if result.is_ok() {
                    out.clear();
                }
                return (result.map(|()| n), out, buf);
            }
            // What was opened may have an answer of its own: a refusal, a change of keys.
            self.output(pool, &mut sealed);
            let (result, rest) = self.receive(stream, pool, buf.capacity(), sealed).await;
            let unsent = !rest.is_empty();
            pool.give(rest);
            if unsent {
                // A record may have been cut in two: nothing can follow it, whatever the error was.
                return (Err(io::ErrorKind::BrokenPipe.into()), out, buf);
            }
            out.clear();
            match result {
                Ok(1..) => sealed = Vec::new(),
                ended => return (ended, out, buf),
            }
        }
    }

    /// Opens what has been received, into the room of `buf`.
    fn read(&mut self, buf: &mut Vec<u8>) -> io::Result<()> {
        let before = buf.len();
        while !self.faulty {
            self.tls.read(buf);
            if self.at == self.wire.len() || buf.len() == buf.capacity() {
                return Ok(());
            }
            match self.tls.feed(&self.wire[self.at..]) {
                Ok(n) => self.at += n,
                Err(_) => self.faulty = true,
            }
        }
        // What came before the fault is heard first.
        if buf.len() > before { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Sends `sealed` and receives about as much as `room`. What was sent comes back empty.
    async fn receive<S: Stream>(
        &mut self,
        stream: &S,
        pool: &Pool,
        room: usize,
        sealed: Vec<u8>,
    ) -> Lent<usize, Vec<u8>> {
        self.wire.clear();
        self.at = 0;
        // Two records at once; more would be memory for each session that receives a long body.
        let want = if room < pool::LARGE { pool::SMALL } else { pool::LARGE };
        if !(want..2 * want).contains(&self.wire.capacity()) {
            let other = if want == pool::SMALL { pool.small() } else { pool.large() };
            pool.give(std::mem::replace(&mut self.wire, other));
        }
        let wire = std::mem::take(&mut self.wire);
        let (result, sealed, wire) = if sealed.is_empty() {
            let (result, wire) = stream.recv(wire).await;
            (result, sealed, wire)
        } else {
            stream.send_recv(sealed, wire).await
        };
        self.wire = wire;
        (result, sealed)
    }

    /// `plain` sealed, behind what is to be sent anyway; without capacity if it is empty.
    fn seal(&mut self, pool: &Pool, plain: &[u8]) -> Vec<u8> {
        if plain.is_empty() {
            return Vec::new();
        }
        let mut sealed = if plain.len() < pool::SMALL / 2 { pool.small() } else { pool.large() };
        self.tls.write(plain, &mut sealed);
        sealed
    }

    /// Appends what is to be sent anyway.
    fn output(&mut self, pool: &Pool, sealed: &mut Vec<u8>) {
        if self.tls.has_output() {
            if sealed.capacity() == 0 {
                *sealed = pool.small();
            }
            self.tls.pull(sealed);
        }
    }

    /// Gives the receive buffer back, unless something lies in it.
    fn release(&mut self, pool: &Pool) {
        if self.at == self.wire.len() {
            pool.give(std::mem::take(&mut self.wire));
            self.at = 0;
        }
    }
}

/// Sends what there is.
async fn send<S: Stream>(stream: &S, sealed: Vec<u8>) -> Lent<(), Vec<u8>> {
    if sealed.is_empty() { (Ok(()), sealed) } else { stream.send(sealed).await }
}

//! The scripted peers: SMTP clients before the server, SMTP servers behind it, and their ledger.
//!
//! They are written apart from the product (no code of `ringpost::smtp`), so that a mistake there
//! cannot hide here, and are tested against each other. Errors of the wire end a session.

pub mod client;
pub mod ledger;
pub mod remote;

use crate::net::SimStream;
use crate::world::{SEC, World};
use ringpost::base::time::Mono;
use ringpost::runtime::Stream;
use std::io;

/// A line-wise view of a stream.
pub struct Wire {
    world: World,
    stream: SimStream,
    buf: Vec<u8>,
    patience: u64,
}

impl Wire {
    /// Wraps `stream`; an operation that takes over `patience` seconds fails.
    pub fn new(world: &World, stream: SimStream, patience: u64) -> Self {
        Wire { world: world.clone(), stream, buf: Vec::new(), patience: patience * SEC }
    }

    fn arm(&self) {
        self.stream.set_deadline(Some(Mono(self.world.now() + self.patience)));
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.arm();
        let (got, part) = self.stream.recv(Vec::with_capacity(4096)).await;
        self.buf.extend_from_slice(&part);
        if got? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// The next line without its CRLF.
    pub async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buf.windows(2).position(|w| w == b"\r\n") {
                let mut line: Vec<u8> = self.buf.drain(..end + 2).collect();
                line.truncate(end);
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    /// The next `count` bytes.
    pub async fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buf.len() < count {
            self.fill().await?;
        }
        Ok(self.buf.drain(..count).collect())
    }

    /// The next reply: code and all its text.
    pub async fn reply(&mut self) -> io::Result<(u16, String)> {
        let mut text = String::new();
        loop {
            let line = String::from_utf8_lossy(&self.line().await?).into_owned();
            let code = line.get(..3).and_then(|c| c.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
            text.push_str(line.get(3..).unwrap_or(""));
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok((code, text));
            }
            text.push('\n');
        }
    }

    /// Sends bytes.
    pub async fn send(&self, bytes: impl Into<Vec<u8>>) -> io::Result<()> {
        self.arm();
        self.stream.send(bytes.into()).await.0
    }

    /// The stream, to break it.
    pub fn stream(&self) -> &SimStream {
        &self.stream
    }
}

/// Doubles leading dots and adds the final dot (RFC 5321 4.5.2).
pub fn stuff(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 16);
    for line in body.split_inclusive(|&b| b == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b".\r\n");
    out
}

#[cfg(test)]
mod tests;

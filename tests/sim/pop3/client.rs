//! A POP3 client: sends in pieces of any size, reads replies, takes dots away.

use crate::net::SimStream;
use crate::world::{MS, World};
use ringpost::base::time::Mono;
use ringpost::runtime::Stream;

/// See the module. `None` everywhere: the connection has ended.
pub struct Client {
    pub world: World,
    stream: SimStream,
    buf: Vec<u8>,
    /// Reads slowly.
    pub slow: bool,
}

impl Client {
    /// A client on a connection.
    pub fn new(world: &World, stream: SimStream) -> Self {
        stream.set_deadline(Some(Mono(world.now() + 7200 * 1000 * MS)));
        Client { world: world.clone(), stream, buf: Vec::new(), slow: false }
    }

    /// Sends `bytes`, cut anywhere.
    pub async fn say(&self, bytes: &[u8]) -> Option<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = [rest.len() as u64, 3, 40][self.world.below(3) as usize];
            let (now, later) = rest.split_at((1 + self.world.below(most) as usize).min(rest.len()));
            self.stream.send(now.to_vec()).await.0.ok()?;
            rest = later;
            if self.world.below(4) == 0 {
                self.world.pause(self.world.below(5 * MS)).await;
            }
        }
        Some(())
    }

    /// One line without its end.
    pub async fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.buf.windows(2).position(|w| w == b"\r\n") {
                let line = self.buf[..end].to_vec();
                self.buf.drain(..end + 2);
                return Some(line);
            }
            if self.slow {
                self.world.pause(self.world.below(30 * MS)).await;
            }
            let (got, buf) = self.stream.recv(Vec::with_capacity(1 + self.world.below(4000) as usize)).await;
            if !matches!(got, Ok(1..)) {
                return None;
            }
            self.buf.extend_from_slice(&buf);
        }
    }

    /// The lines up to the one with the dot, each with its end, without the dots in front of dots.
    pub async fn lines(&mut self) -> Option<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        loop {
            let mut line = self.line().await?;
            if line == b"." {
                return Some(all);
            }
            if line.first() == Some(&b'.') {
                line.remove(0);
            }
            line.extend_from_slice(b"\r\n");
            all.push(line);
        }
    }

    /// A reply of one line, as text.
    pub async fn reply(&mut self) -> Option<String> {
        Some(String::from_utf8_lossy(&self.line().await?).into_owned())
    }

    /// Breaks the connection.
    pub fn abort(self) {
        self.stream.abort();
    }
}

//! An IMAP client: sends in pieces of any size, reads responses with their literals, and believes what it
//! is told of its mailbox.

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
    /// It keeps `known` up to date. Not if QRESYNC tells it of expunges by UID.
    pub believes: bool,
    tag: u32,
    /// The mailbox by sequence number: UID, if it is known.
    pub known: Vec<Option<u32>>,
}

/// What a command came to.
pub struct Outcome {
    /// `OK ...`, `NO ...`, `BAD ...`.
    pub tagged: String,
    /// Untagged responses, literals in place.
    pub untagged: Vec<String>,
}

impl Outcome {
    /// It was done.
    pub fn is_ok(&self) -> bool {
        self.tagged.starts_with("OK")
    }
}

/// The number behind `name` in `text`.
pub fn number_behind(text: &str, name: &str) -> Option<u32> {
    let rest = &text[text.find(name)? + name.len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

impl Client {
    /// A client on a connection.
    pub fn new(world: &World, stream: SimStream) -> Self {
        stream.set_deadline(Some(Mono(world.now() + 7200 * 1000 * MS)));
        let (buf, known) = (Vec::new(), Vec::new());
        Client { world: world.clone(), stream, buf, slow: false, believes: true, tag: 0, known }
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

    async fn more(&mut self) -> Option<()> {
        if self.slow {
            self.world.pause(self.world.below(30 * MS)).await;
        }
        let (got, buf) = self.stream.recv(Vec::with_capacity(1 + self.world.below(4000) as usize)).await;
        if !matches!(got, Ok(1..)) {
            return None;
        }
        self.buf.extend_from_slice(&buf);
        Some(())
    }

    /// One response, with the literals in it.
    pub async fn response(&mut self) -> Option<String> {
        let mut at = 0;
        loop {
            let end = loop {
                match self.buf[at..].windows(2).position(|w| w == b"\r\n") {
                    Some(end) => break at + end,
                    None => self.more().await?,
                }
            };
            let line = &self.buf[at..end];
            let literal = line.strip_suffix(b"}").and_then(|l| {
                let open = l.iter().rposition(|b| *b == b'{')?;
                std::str::from_utf8(&l[open + 1..]).ok()?.parse::<usize>().ok()
            });
            match literal {
                Some(len) => {
                    at = end + 2 + len;
                    while self.buf.len() < at {
                        self.more().await?;
                    }
                }
                None => {
                    let response = String::from_utf8_lossy(&self.buf[..end]).into_owned();
                    self.buf.drain(..end + 2);
                    return Some(response);
                }
            }
        }
    }

    /// Believes a response about the mailbox.
    pub fn believe(&mut self, response: &str) {
        let words: Vec<&str> = response.split(' ').collect();
        let [_, number, what, ..] = words[..] else { return };
        let Ok(n) = number.parse::<usize>() else { return };
        match what {
            "EXISTS" => {
                if n < self.known.len() {
                    self.world.violation(format!("EXISTS {n} with {} known", self.known.len()));
                }
                self.known.resize(n, None);
            }
            "EXPUNGE" if n == 0 || n > self.known.len() => {
                self.world.violation(format!("EXPUNGE {n} of {}", self.known.len()));
            }
            "EXPUNGE" => drop(self.known.remove(n - 1)),
            "FETCH" if n == 0 || n > self.known.len() => {
                self.world.violation(format!("FETCH {n} of {}", self.known.len()));
            }
            "FETCH" => {
                if let Some(uid) = number_behind(response, "UID ") {
                    if self.known[n - 1].is_some_and(|known| known != uid) {
                        self.world.violation(format!("number {n} is {:?}: {response}", self.known[n - 1]));
                    }
                    self.known[n - 1] = Some(uid);
                }
            }
            _ => {}
        }
    }

    /// Says a command and reads what it comes to.
    pub async fn command(&mut self, text: &str) -> Option<Outcome> {
        self.tag += 1;
        let tag = format!("t{} ", self.tag);
        self.say(format!("{tag}{text}\r\n").as_bytes()).await?;
        // While numbers must not change, none may go (RFC 9051 §7.5.1).
        let fixed = ["FETCH", "STORE", "SEARCH"].iter().any(|verb| text.starts_with(verb));
        let mut untagged = Vec::new();
        loop {
            let response = self.response().await?;
            if let Some(tagged) = response.strip_prefix(&tag) {
                return Some(Outcome { tagged: tagged.to_owned(), untagged });
            }
            if fixed && response.ends_with(" EXPUNGE") {
                self.world.violation(format!("{response} within {text}"));
            }
            if self.believes {
                self.believe(&response);
            }
            if response.starts_with("* BYE") {
                return None;
            }
            untagged.push(response);
        }
    }

    /// Breaks the connection.
    pub fn abort(self) {
        self.stream.abort();
    }
}

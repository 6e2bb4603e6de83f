//! A scripted client: sends letters and writes every answer into the ledger.
//!
//! Pipelined or not, DATA or BDAT, slow, impatient, or gone in the middle. A letter whose answer
//! it did not get is not sent again: a repetition would be another letter.

use crate::machine::SimRuntime;
use crate::net::SimStream;
use crate::peers::ledger::{Fate, NOBODY, SharedLedger};
use crate::peers::{Wire, stuff};
use crate::world::{MS, SEC, World};
use ringpost::base::time::Mono;
use ringpost::runtime::Net;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// One letter.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Its number in the ledger.
    pub number: u64,
    /// Reverse path.
    pub sender: String,
    /// Forward paths.
    pub recipients: Vec<String>,
    /// Header and body, CRLF line ends, `X-Sim` first.
    pub body: Vec<u8>,
    /// The sender wants to know of success, too, if that can be asked for.
    pub success: bool,
}

impl Letter {
    /// A random letter with this number to some of `domains`.
    pub fn random(world: &World, number: u64, domains: &[&str]) -> Self {
        let count = if world.chance(8_000) { 1 } else { 1 + world.below(12) };
        let recipients = (0..count)
            .map(|i| {
                let domain = domains[world.below(domains.len() as u64) as usize];
                let name = if world.chance(500) { NOBODY } else { "user" };
                format!("{name}{i}.{number}@{domain}")
            })
            .collect();
        let domain = domains[world.below(domains.len() as u64) as usize];
        let mut body = format!("X-Sim: {number}\r\nSubject: a letter\r\n\r\n").into_bytes();
        let lines = match world.below(10) {
            0 => 0,
            1 => world.below(600),
            // Longer than a receive buffer, at times than a huge one.
            2 if world.below(4) == 0 => world.below(4000),
            _ => world.below(20),
        };
        for _ in 0..lines {
            let dots = world.below(20) == 0;
            body.extend_from_slice(if dots { b".." } else { b"" });
            body.extend((0..world.below(90)).map(|_| b' ' + world.below(90) as u8));
            body.extend_from_slice(b"\r\n");
        }
        let success = world.chance(3_000);
        Letter { number, sender: format!("from{number}@{domain}"), recipients, body, success }
    }
}

impl Letter {
    /// A letter that takes space: nearly always several kilobytes, often to many at many domains.
    pub fn bulky(world: &World, number: u64, domains: &[&str]) -> Self {
        let mut letter = Letter::random(world, number, domains);
        if world.chance(3_000) {
            let count = 2 + world.below(9);
            let to = |i| {
                let domain = domains[world.below(domains.len() as u64) as usize];
                format!("user{i}.{number}@{domain}")
            };
            letter.recipients = (0..count).map(to).collect();
        }
        let most = if world.chance(500) { 20_000 } else { 6_000 };
        let bytes = 1_000 + world.below(most) as usize;
        while letter.body.len() < bytes {
            letter.body.extend_from_slice(&[b'a' + (number % 26) as u8; 70]);
            letter.body.extend_from_slice(b"\r\n");
        }
        letter
    }
}

/// How a client behaves in one session.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Commands in groups, if the server offers it.
    pub pipelined: bool,
    /// BDAT in chunks up to this size, if the server offers it; 0: DATA.
    pub chunk: usize,
    /// The body in pieces with pauses.
    pub slow: bool,
    /// Chance in ten thousand, per step, to be gone without a word.
    pub abandon: u64,
}

impl Style {
    /// Pipelined, quick, and there to the end.
    pub fn honest() -> Self {
        Style { pipelined: true, chunk: 0, slow: false, abandon: 0 }
    }

    /// Any style.
    pub fn random(world: &World) -> Self {
        Style {
            pipelined: world.chance(6_000),
            chunk: if world.chance(3_000) { 1 + world.below(3_000) as usize } else { 0 },
            slow: world.chance(500),
            abandon: if world.chance(2_000) { 500 } else { 0 },
        }
    }
}

/// A client that sends to one server.
pub struct Client {
    /// Where it runs.
    pub rt: SimRuntime,
    /// What it was answered.
    pub ledger: SharedLedger,
    /// Where it sends to.
    pub server: SocketAddr,
}

struct Session<'a> {
    client: &'a Client,
    wire: Wire,
    style: Style,
    /// The server offers DSN.
    dsn: bool,
}

impl Client {
    /// Sends `letters` over one connection. An error of the wire ends it; letters not begun then
    /// are not in the ledger.
    pub async fn send(&self, letters: &[Letter], style: Style) -> io::Result<()> {
        let deadline = Mono(self.rt.world().now()).after(Duration::from_secs(30));
        let stream: SimStream = self.rt.connect(self.server, None, deadline).await?;
        let wire = Wire::new(self.rt.world(), stream, 900);
        let mut session = Session { client: self, wire, style, dsn: false };
        session.greet().await?;
        for letter in letters {
            session.letter(letter).await?;
        }
        session.wire.send("QUIT\r\n").await?;
        session.wire.reply().await.map(drop)
    }
}

fn gone() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

impl Session<'_> {
    fn world(&self) -> &World {
        self.client.rt.world()
    }

    fn maybe_leave(&self) -> io::Result<()> {
        if !self.world().chance(self.style.abandon) {
            return Ok(());
        }
        if self.world().chance(5_000) {
            self.wire.stream().abort();
        }
        Err(gone())
    }

    async fn greet(&mut self) -> io::Result<()> {
        if self.wire.reply().await?.0 != 220 {
            return Err(gone());
        }
        self.wire.send("EHLO client.example\r\n").await?;
        let (code, offers) = self.wire.reply().await?;
        if code != 250 {
            return Err(gone());
        }
        self.dsn = offers.contains("DSN");
        self.style.pipelined &= offers.contains("PIPELINING");
        if !offers.contains("CHUNKING") {
            self.style.chunk = 0;
        }
        Ok(())
    }

    async fn letter(&mut self, letter: &Letter) -> io::Result<()> {
        self.client.ledger.borrow_mut().begin(letter.number, &letter.sender, &letter.body);
        if letter.success && self.dsn {
            self.client.ledger.borrow_mut().asks_for_success(letter.number);
        }
        let willing = self.envelope(letter).await?;
        self.maybe_leave()?;
        let data = self.style.chunk == 0;
        let open = if data { self.wire.reply().await?.0 == 354 } else { willing };
        if !open {
            self.set(letter, Fate::Refused);
            return self.reset().await;
        }
        if !willing {
            // RFC 2920 3.1: DATA was accepted without a recipient; send nothing but the dot.
            self.wire.send(".\r\n").await?;
            self.set(letter, Fate::Refused);
            return self.wire.reply().await.map(drop);
        }
        let (code, _) = if data { self.dotted(letter).await? } else { self.chunked(letter).await? };
        self.set(
            letter,
            match code {
                250 => Fate::Acked,
                400..500 => Fate::PutOff,
                _ => Fate::Refused,
            },
        );
        Ok(())
    }

    fn set(&self, letter: &Letter, fate: Fate) {
        self.client.ledger.borrow_mut().set_fate(letter.number, fate);
        self.world().event("letter", letter.number, fate as u64);
    }

    /// MAIL, RCPT and (for DATA) DATA; true if some recipient was taken. The reply to DATA is
    /// left to the caller.
    async fn envelope(&mut self, letter: &Letter) -> io::Result<bool> {
        let notify = if letter.success && self.dsn { " NOTIFY=SUCCESS,FAILURE,DELAY" } else { "" };
        let mut group = format!("MAIL FROM:<{}>\r\n", letter.sender);
        if !self.style.pipelined {
            self.wire.send(std::mem::take(&mut group)).await?;
            let taken = self.wire.reply().await?.0 == 250;
            let mut willing = false;
            for r in letter.recipients.iter().take_while(|_| taken) {
                self.maybe_leave()?;
                self.wire.send(format!("RCPT TO:<{r}>{notify}\r\n")).await?;
                willing |= self.recipient_reply(letter, r).await?;
            }
            if self.style.chunk == 0 {
                self.wire.send("DATA\r\n").await?;
            }
            return Ok(willing);
        }
        for r in &letter.recipients {
            write!(group, "RCPT TO:<{r}>{notify}\r\n").expect("strings grow");
        }
        if self.style.chunk == 0 {
            group.push_str("DATA\r\n");
        }
        self.wire.send(group).await?;
        self.wire.reply().await?;
        let mut willing = false;
        for r in &letter.recipients {
            willing |= self.recipient_reply(letter, r).await?;
        }
        Ok(willing)
    }

    async fn recipient_reply(&mut self, letter: &Letter, recipient: &str) -> io::Result<bool> {
        let taken = self.wire.reply().await?.0 == 250;
        if taken {
            self.client.ledger.borrow_mut().recipient(letter.number, recipient);
        }
        Ok(taken)
    }

    async fn dotted(&mut self, letter: &Letter) -> io::Result<(u16, String)> {
        let bytes = stuff(&letter.body);
        let (most, dot) = bytes.split_at(bytes.len() - 3);
        let piece = if self.style.slow { 300 } else { 16 << 10 };
        for part in most.chunks(piece) {
            self.maybe_leave()?;
            self.wire.send(part).await?;
            if self.style.slow {
                self.client.rt.world().pause(self.world().below(5 * SEC)).await;
            }
        }
        self.maybe_leave()?;
        // From here on the server may have it.
        self.set(letter, Fate::Unknown);
        self.wire.send(dot).await?;
        self.maybe_leave()?;
        self.wire.reply().await
    }

    async fn chunked(&mut self, letter: &Letter) -> io::Result<(u16, String)> {
        let chunks = letter.body.chunks(self.style.chunk.max(letter.body.len() / 20)).collect::<Vec<_>>();
        let (last, most) = chunks.split_last().expect("a letter has a header");
        for chunk in most {
            self.maybe_leave()?;
            self.wire.send([format!("BDAT {}\r\n", chunk.len()).as_bytes(), chunk].concat()).await?;
            let reply = self.wire.reply().await?;
            if reply.0 != 250 {
                self.reset().await?;
                return Ok(reply);
            }
            self.world().pause(self.world().below(10 * MS)).await;
        }
        self.set(letter, Fate::Unknown);
        self.wire.send([format!("BDAT {} LAST\r\n", last.len()).as_bytes(), last].concat()).await?;
        self.maybe_leave()?;
        self.wire.reply().await
    }

    async fn reset(&mut self) -> io::Result<()> {
        self.wire.send("RSET\r\n").await?;
        self.wire.reply().await.map(drop)
    }
}

//! A scripted remote server: the next hop of the relay.
//!
//! Takes letters into the ledger and misbehaves by chance at any phase: 4xx, 5xx, silence, a
//! closed or reset connection, no reply after the final dot. Knows no queue.

use crate::machine::SimRuntime;
use crate::peers::Wire;
use crate::peers::ledger::{NOBODY, SharedLedger};
use crate::world::SEC;
use ringpost::runtime::{Listener, Runtime};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

/// Chances in ten thousand, per command, of each misbehaviour.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    /// 4xx to any command or the final dot.
    pub put_off: u64,
    /// 5xx to any command or the final dot.
    pub refuse: u64,
    /// Up to ten minutes of silence before the reply.
    pub tarpit: u64,
    /// The connection is closed instead of a reply.
    pub close: u64,
    /// The connection is reset in the middle of the data.
    pub break_data: u64,
    /// The letter is taken and the connection closed without a word.
    pub silent_take: u64,
    /// Pipelining is not offered, nor chunking.
    pub plain: bool,
    /// Chunking is not offered.
    pub dots: bool,
    /// Chunking is offered, and not known.
    pub no_bdat: bool,
    /// How long each letter takes it, nanoseconds: no chance.
    pub work: u64,
}

/// What the relay has sent of one letter.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// When it had sent MAIL.
    pub at: u64,
    /// 1 at MAIL.
    pub messages: u64,
    /// 1 at RCPT.
    pub recipients: u64,
    /// Bytes at the end of data.
    pub bytes: u64,
}

/// What a remote server does next with its connection.
enum Next {
    Reply(&'static str),
    Close,
}

/// A remote server and its present manners.
#[derive(Clone)]
pub struct Remote {
    rt: SimRuntime,
    ledger: SharedLedger,
    manners: Rc<Cell<Manners>>,
    sent: Rc<RefCell<Vec<Sent>>>,
}

#[derive(Default)]
struct Transaction {
    /// When its MAIL was sent.
    at: u64,
    sender: Option<String>,
    recipients: Vec<String>,
    chunks: Vec<u8>,
    /// RSET came right before it: the sender may not have read the replies before that.
    behind: bool,
}

impl Remote {
    /// Starts a server on port 25 of the machine of `rt`.
    pub fn start(rt: &SimRuntime, ledger: &SharedLedger, manners: Manners) -> Self {
        let manners = Rc::new(Cell::new(manners));
        let (rt, ledger) = (rt.clone(), ledger.clone());
        let remote = Remote { rt: rt.clone(), ledger, manners, sent: Rc::default() };
        let (listener, me) = (rt.listen(25), remote.clone());
        rt.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let session = me.clone();
                let wire = Wire::new(me.rt.world(), stream, 900);
                me.rt.spawn(async move {
                    // An error of the wire ends the session; the ledger knows what was taken.
                    let _ = session.serve(wire).await;
                });
            }
        });
        remote
    }

    /// What it was sent, in the order in which it was read.
    pub fn sent(&self) -> &RefCell<Vec<Sent>> {
        &self.sent
    }

    fn count(&self, at: u64, messages: u64, recipients: u64, bytes: usize) {
        self.sent.borrow_mut().push(Sent { at, messages, recipients, bytes: bytes as u64 });
    }

    /// Changes its manners from now on.
    pub fn set_manners(&self, manners: Manners) {
        self.manners.set(manners);
    }

    /// Manners towards `sender`: notifications and greetings are put off at most, or their loss
    /// could not be told from a fault of the relay.
    fn manners(&self, sender: Option<&str>) -> Manners {
        let m = self.manners.get();
        if sender.is_none_or(str::is_empty) { Manners { refuse: 0, ..m } } else { m }
    }

    async fn answer(&self, wire: &Wire, sender: Option<&str>, good: &'static str) -> io::Result<bool> {
        let (world, m) = (self.rt.world(), self.manners(sender));
        if world.chance(m.tarpit) {
            world.pause(world.below(600 * SEC)).await;
        }
        let next = if world.chance(m.close) {
            Next::Close
        } else if world.chance(m.put_off) {
            Next::Reply("451 4.3.0 not now\r\n")
        } else if world.chance(m.refuse) {
            Next::Reply("550 5.7.1 not for us\r\n")
        } else {
            Next::Reply(good)
        };
        match next {
            Next::Reply(text) => wire.send(text).await.map(|()| text == good),
            Next::Close => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    async fn serve(&self, mut wire: Wire) -> io::Result<()> {
        if !self.answer(&wire, None, "220 remote.example ESMTP\r\n").await? {
            return Ok(());
        }
        let mut t = Transaction::default();
        // Deliveries whose 250 the client has not shown to have read yet; by chunks.
        let (mut unconfirmed, mut chunked) = (Vec::new(), false);
        loop {
            let line = wire.line().await?;
            let text = String::from_utf8_lossy(&line).into_owned();
            let verb = text.split(' ').next().unwrap_or("").to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => self.ehlo(&wire).await?,
                "HELO" | "NOOP" => drop(self.answer(&wire, None, "250 2.0.0 ok\r\n").await?),
                "RSET" => {
                    t = Transaction { behind: true, ..Transaction::default() };
                    wire.send("250 2.0.0 ok\r\n").await?;
                }
                "MAIL" if t.sender.is_some() => {
                    self.rt.world().violation("MAIL within a transaction".to_owned());
                    wire.send("503 5.5.1 nested MAIL\r\n").await?;
                }
                "MAIL" => {
                    // What is sent ahead behind a chunk begins with RSET; so this was not.
                    if chunked && !std::mem::take(&mut t.behind) {
                        self.ledger.borrow_mut().confirm(&unconfirmed, self.rt.world().now());
                        unconfirmed.clear();
                    }
                    t = Transaction { at: wire.stream().sent_at(), ..Transaction::default() };
                    self.count(t.at, 1, 0, 0);
                    let sender = path(&text);
                    if self.answer(&wire, Some(&sender), "250 2.1.0 ok\r\n").await? {
                        t.sender = Some(sender);
                    }
                }
                "RCPT" => self.rcpt(&wire, &mut t, &text).await?,
                "DATA" => {
                    if self.data(&mut wire, &mut t).await? {
                        // It has seen our 354, and thus our 250 to the letter before; a command
                        // alone proves nothing, it may have been sent ahead (RFC 2920).
                        let now = self.rt.world().now();
                        self.ledger.borrow_mut().confirm(&unconfirmed, now);
                        (unconfirmed, chunked) = (self.take(&wire, &mut t).await?, false);
                    }
                }
                "BDAT" => {
                    if self.bdat(&mut wire, &mut t, &text).await? {
                        unconfirmed.extend(self.take(&wire, &mut t).await?);
                        chunked = true;
                    }
                }
                "QUIT" => return wire.send("221 2.0.0 bye\r\n").await,
                _ => wire.send("500 5.5.2 unknown command\r\n").await?,
            }
        }
    }

    async fn ehlo(&self, wire: &Wire) -> io::Result<()> {
        let m = self.manners.get();
        let good = if m.plain {
            "250-remote.example\r\n250 8BITMIME\r\n"
        } else if m.dots {
            "250-remote.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
             250-ENHANCEDSTATUSCODES\r\n250 SIZE 1000000\r\n"
        } else {
            "250-remote.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
             250-ENHANCEDSTATUSCODES\r\n250-CHUNKING\r\n250 SIZE 1000000\r\n"
        };
        self.answer(wire, None, good).await.map(drop)
    }

    async fn rcpt(&self, wire: &Wire, t: &mut Transaction, text: &str) -> io::Result<()> {
        let address = path(text);
        if t.sender.is_none() {
            return wire.send("503 5.5.1 MAIL first\r\n").await;
        }
        self.count(t.at, 0, 1, 0);
        if address.starts_with(NOBODY) {
            return wire.send("550 5.1.1 no such user\r\n").await;
        }
        if self.answer(wire, t.sender.as_deref(), "250 2.1.5 ok\r\n").await? {
            t.recipients.push(address);
        }
        Ok(())
    }

    /// Reads a dot-stuffed body; true if it was asked for and is complete.
    async fn data(&self, wire: &mut Wire, t: &mut Transaction) -> io::Result<bool> {
        if t.recipients.is_empty() {
            wire.send("554 5.5.1 no valid recipients\r\n").await?;
            return Ok(false);
        }
        if !self.answer(wire, t.sender.as_deref(), "354 go on\r\n").await? {
            *t = Transaction::default();
            return Ok(false);
        }
        let breaks = self.rt.world().chance(self.manners.get().break_data);
        let mut lines = 0;
        loop {
            let line = wire.line().await?;
            if line == b"." {
                return Ok(true);
            }
            lines += 1;
            if breaks && lines > 2 {
                wire.stream().abort();
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if line.contains(&b'\n') || line.contains(&b'\r') {
                self.rt.world().violation("a bare CR or LF left the server".to_owned());
            }
            t.chunks.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
            t.chunks.extend_from_slice(b"\r\n");
        }
    }

    /// Reads a chunk; true if it was the last.
    async fn bdat(&self, wire: &mut Wire, t: &mut Transaction, text: &str) -> io::Result<bool> {
        let mut words = text.split(' ').skip(1);
        let size = words.next().and_then(|w| w.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let last = words.next().is_some_and(|w| w.eq_ignore_ascii_case("LAST"));
        if size > 20 && self.rt.world().chance(self.manners.get().break_data) {
            wire.exactly(20).await?;
            wire.stream().abort();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let bytes = wire.exactly(size).await?;
        if self.manners.get().no_bdat {
            wire.send("502 5.5.1 not implemented\r\n").await?;
            return Ok(false);
        }
        if t.recipients.is_empty() {
            wire.send("503 5.5.1 no valid recipients\r\n").await?;
            return Ok(false);
        }
        t.chunks.extend_from_slice(&bytes);
        if last && bare(&t.chunks) {
            self.rt.world().violation("a bare CR or LF left the server".to_owned());
        }
        if !last {
            self.answer(wire, t.sender.as_deref(), "250 2.0.0 chunk\r\n").await?;
        }
        Ok(last)
    }

    async fn take(&self, wire: &Wire, t: &mut Transaction) -> io::Result<Vec<usize>> {
        let (t, sent) = (std::mem::take(t), wire.stream().sent_at());
        let world = self.rt.world();
        self.count(t.at, 0, 0, t.chunks.len());
        world.pause(self.manners.get().work).await;
        let take = || {
            let sender = t.sender.as_deref().unwrap_or("");
            self.ledger.borrow_mut().deliver(sender, &t.recipients, &t.chunks, sent)
        };
        if world.chance(self.manners.get().silent_take) {
            take();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        // Decided before it is said: the letter is ours even if the reply gets lost.
        let m = self.manners(t.sender.as_deref());
        if world.chance(m.tarpit) {
            world.pause(world.below(700 * SEC)).await;
        }
        if world.chance(m.put_off) {
            return wire.send("452 4.3.1 full\r\n").await.map(|()| Vec::new());
        }
        if world.chance(m.refuse) {
            return wire.send("554 5.6.0 we do not like it\r\n").await.map(|()| Vec::new());
        }
        let deliveries = take();
        wire.send("250 2.0.0 taken\r\n").await?;
        Ok(deliveries)
    }
}

/// True if a CR or LF stands alone.
fn bare(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().any(|(i, b)| match b {
        b'\n' => i == 0 || bytes[i - 1] != b'\r',
        b'\r' => bytes.get(i + 1) != Some(&b'\n'),
        _ => false,
    })
}

/// What stands between the angle brackets.
fn path(line: &str) -> String {
    let from = line.find('<').map_or(0, |i| i + 1);
    let to = line.find('>').unwrap_or(line.len());
    line.get(from..to).unwrap_or("").to_owned()
}

//! One connection of a session: what has been received, what waits to be sent, TLS or not.
//!
//! Buffers are held only while bytes are on their way: an idle session has none. Knows no protocol. An
//! error of the socket ends the session: [`Input::Gone`], or `None`.

use super::host::Host;
use super::live::Seat;
use super::outbox::Outbox;
use super::squeeze::{self, Squeeze};
use crate::base::aligned::SharedBytes;
use crate::base::security::Security;
use crate::base::time::Mono;
use crate::channel::{Channel, HandshakeError};
use crate::runtime::{Runtime, Stream, pool, yield_now};
use crate::smtp::serve::secure::{Counted, failed};
use crate::smtp::serve::session::last_words;
use crate::tls::Connection;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use zeroize::Zeroize;

/// What came of waiting for input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// There is more.
    Bytes,
    /// The deadline has passed, or we stop.
    Late,
    /// The session has ended.
    Gone,
}

/// See the module.
pub struct Wire<R: Runtime> {
    pub(super) host: Rc<Host<R>>,
    pub(super) seat: Seat<R::Stream>,
    pub(super) channel: Channel,
    /// Under TLS.
    pub(super) counted: Option<Counted>,
    /// Once everything is deflated.
    pub(super) squeeze: Option<Box<Squeeze>>,
    /// What has been received; consumed up to `at`.
    pub(super) buf: Vec<u8>,
    pub(super) at: usize,
    /// What waits to be sent.
    pub outbox: Outbox,
    /// The time of the last wake-up: reading the clock at each step would cost as much as a command.
    pub now: Mono,
    /// When input last came.
    pub came: Mono,
}

impl<R: Runtime> Wire<R> {
    /// The client is this user, for others to see.
    pub fn introduce(&self, login: &str) {
        self.seat.badge().set_user(login);
    }

    /// A connection that is here already, with what came of it.
    #[must_use]
    pub fn new(host: Rc<Host<R>>, seat: Seat<R::Stream>, buf: Vec<u8>) -> Self {
        let now = host.rt.now();
        let (channel, counted, outbox) = (Channel::Plain, None, Outbox::default());
        Wire { host, seat, channel, counted, squeeze: None, buf, at: 0, outbox, now, came: now }
    }

    /// What has been received and is not consumed.
    #[must_use]
    pub fn input(&self) -> &[u8] {
        &self.buf[self.at..]
    }

    /// Input and replies, for a session machine.
    pub fn exchange(&mut self) -> (&[u8], &mut Vec<u8>) {
        (&self.buf[self.at..], &mut self.outbox.out)
    }

    /// So much of the input is consumed.
    pub fn consume(&mut self, count: usize) {
        self.at += count;
        debug_assert!(self.at <= self.buf.len());
    }

    /// Wipes what was consumed: a password does not stay in buffers that others will use.
    pub fn wipe(&mut self) {
        self.buf[..self.at].zeroize();
    }

    /// Appends a piece of a stored message to what waits.
    pub fn put(&mut self, bytes: &SharedBytes, range: Range<usize>) {
        self.outbox.piece(&self.channel, bytes, range);
    }

    /// So much waits that it should be sent before more comes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.outbox.is_full(&self.channel)
    }

    /// How the connection is secured.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Its connection.
    #[must_use]
    pub fn stream(&self) -> &R::Stream {
        self.seat.stream()
    }

    /// How long ago input last came, by the clock.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.host.rt.now().since(self.came)
    }

    /// Looks at the clock.
    pub fn tick(&mut self) {
        self.now = self.host.rt.now();
    }

    /// Sends what waits, then receives more, until `deadline`. `idle`: the session can be ended now
    /// without harm, if we stop.
    pub async fn fill(&mut self, deadline: Mono, idle: bool) -> Input {
        self.buf.drain(..self.at);
        self.at = 0;
        self.seat.set_idle(idle);
        let input = self.receive(deadline).await;
        self.seat.set_idle(false);
        self.tick();
        self.came = self.now;
        input
    }

    /// As [`Self::fill`], with nothing that waits to be sent; `None`: `event` has happened.
    pub async fn fill_or(
        &mut self,
        deadline: Mono,
        idle: bool,
        event: impl Future<Output = ()>,
    ) -> Option<Input> {
        debug_assert!(self.outbox.is_empty(), "an event would cut what is being sent in two");
        let caller = self.seat.caller();
        let (mut event, mut happened) = (pin!(event), false);
        let mut fill = pin!(self.fill(deadline, idle));
        let input = poll_fn(|cx| {
            if !happened && event.as_mut().poll(cx).is_ready() {
                happened = true;
                caller.call();
            }
            fill.as_mut().poll(cx)
        })
        .await;
        (!caller.hung_up() || input != Input::Late).then_some(input)
    }

    async fn receive(&mut self, deadline: Mono) -> Input {
        let mut now = self.now;
        loop {
            if self.seat.is_called() {
                return Input::Late;
            }
            self.take_buffer();
            let mut until = deadline;
            if !self.outbox.is_empty() {
                until = until.min(now.after(self.host.options.write));
            }
            if self.buf.is_empty() {
                until = until.min(now.after(self.host.options.idle_buffer));
            }
            self.set_deadline(until);
            match self.send_receive().await {
                Ok(0) => return Input::Gone,
                Ok(_) => return Input::Bytes,
                Err(e) if e.kind() == io::ErrorKind::TimedOut && self.outbox.is_empty() => {}
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    self.outbox.clear();
                    self.farewell(false).await;
                    return Input::Gone;
                }
                // A client that does not read its replies, or a broken connection.
                Err(_) => return Input::Gone,
            }
            now = self.host.rt.now();
            if now >= deadline || self.host.live.is_stopping() || self.seat.is_called() {
                return Input::Late;
            }
            if self.buf.is_empty() {
                // Idle: wait on without a buffer.
                self.host.pool.give(std::mem::take(&mut self.buf));
                self.set_deadline(deadline);
                let readable = self.channel.readable(self.seat.stream(), &self.host.pool).await;
                now = self.host.rt.now();
                match readable {
                    Err(e) if e.kind() != io::ErrorKind::TimedOut => return Input::Gone,
                    Err(_) if now >= deadline || self.host.live.is_stopping() => return Input::Late,
                    Err(_) | Ok(()) => {}
                }
            }
        }
    }

    fn set_deadline(&self, until: Mono) {
        self.seat.stream().set_deadline(Some(until));
    }

    async fn send_receive(&mut self) -> io::Result<usize> {
        if let Some(squeeze) = self.squeeze.take() {
            let result = self.receive_deflated(squeeze).await;
            self.rest();
            return result;
        }
        let (stream, pool) = (self.seat.stream(), &self.host.pool);
        let buf = std::mem::take(&mut self.buf);
        let result;
        if self.outbox.is_empty() {
            (result, self.buf) = self.channel.recv(stream, pool, buf).await;
        } else if self.outbox.parts.is_empty() {
            let out = self.outbox.take();
            (result, self.outbox.out, self.buf) = self.channel.send_recv(stream, pool, out, buf).await;
        } else {
            // Together it could not be told which of the two was late.
            let (sent, parts) = stream.send_parts(self.outbox.take_parts()).await;
            if let Err(e) = sent {
                self.outbox.parts = parts;
                return Err(e);
            }
            (result, self.buf) = self.channel.recv(stream, pool, buf).await;
        }
        self.rest();
        result
    }

    /// Has a buffer to receive into: a small one for commands, a large one for a line that needs it.
    fn take_buffer(&mut self) {
        let pool = &self.host.pool;
        let has = self.buf.capacity();
        if has == 0 {
            self.buf = pool.small();
        } else if has < pool::LARGE && self.buf.len() > pool::SMALL / 2 {
            let mut large = pool.large();
            large.extend_from_slice(&self.buf);
            pool.give(std::mem::replace(&mut self.buf, large));
        } else if self.buf.len() == has {
            self.buf.reserve(pool::LARGE);
        }
    }

    /// Replies need no memory while there are none.
    fn rest(&mut self) {
        if self.outbox.out.is_empty() && self.outbox.out.capacity() > 0 {
            self.host.pool.give(std::mem::take(&mut self.outbox.out));
        }
    }

    /// Sends what waits. `None`: the session has ended.
    pub async fn flush(&mut self) -> Option<()> {
        if self.outbox.is_empty() {
            return Some(());
        }
        let until = self.host.rt.now().after(self.host.options.write);
        let sent = self.send(until).await;
        self.tick();
        sent.ok()
    }

    /// Sends what waits, until `until`.
    pub async fn send(&mut self, until: Mono) -> io::Result<()> {
        self.set_deadline(until);
        let (stream, pool) = (self.seat.stream(), &self.host.pool);
        if self.outbox.parts.is_empty() {
            let mut out = self.outbox.take();
            if self.squeeze.is_some() {
                out = squeeze::deflated(out, pool);
            }
            let (result, out) = self.channel.send(stream, pool, out).await;
            pool.give(out);
            result
        } else {
            stream.send_parts(self.outbox.take_parts()).await.0
        }
    }

    /// Sends what waits and lets others run. `None`: the session has ended.
    pub async fn pause(&mut self) -> Option<()> {
        self.flush().await?;
        yield_now().await;
        self.tick();
        Some(())
    }

    /// Sends what waits, or an alert of TLS, and sees to it that the peer gets it. `was_asked`: the peer
    /// sends no more.
    pub async fn farewell(&mut self, was_asked: bool) {
        if !self.outbox.parts.is_empty() && self.flush().await.is_none() {
            return;
        }
        let until = self.host.rt.now().after(self.host.options.last_words);
        let mut out = self.outbox.take();
        if self.squeeze.is_some() {
            out = squeeze::deflated(out, &self.host.pool);
        }
        let last = self.channel.farewell(out);
        last_words(self.seat.stream(), last, was_asked, until).await;
    }

    /// The session has ended: its buffer is for others.
    pub fn close(mut self) {
        self.host.pool.give(std::mem::take(&mut self.buf));
    }

    /// Sends what waits, drops what was received in clear text (RFC 2595 §4), does the handshake until
    /// `deadline`. `None`: the session has ended.
    pub async fn handshake(&mut self, ours: Option<Box<Connection>>, deadline: Mono) -> Option<Security> {
        self.flush().await?;
        self.wipe();
        self.buf.clear();
        self.at = 0;
        let connection = ours?;
        self.set_deadline(deadline);
        let host = &self.host;
        let (channel, result) = Channel::handshake(self.seat.stream(), connection, &host.pool).await;
        self.channel = channel;
        self.now = host.rt.now();
        let security = self.channel.tls().and_then(|c| c.security(host.rt.wall()));
        match (result, security) {
            (Ok(()), Some(security)) => {
                self.counted = Some(Counted::new(&host.metrics, &security));
                Some(security)
            }
            (result, _) => {
                let error = result.err().unwrap_or(HandshakeError::Gone);
                failed(&host.metrics, &error).increment(1);
                if !matches!(error, HandshakeError::Gone) {
                    self.outbox.clear();
                    self.farewell(false).await;
                }
                None
            }
        }
    }
}

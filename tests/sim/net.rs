//! The net double: streams that split, coalesce, delay, stall and break.
//!
//! Owns the listeners and connections of all nodes. Checks the contract of `runtime::Stream` (one
//! receiving and one sending operation, room in the buffer, operations awaited to their end).
//! Knows no protocol. Broken contracts are violations of the world.

use crate::world::{Death, MS, Op, SEC, US, World};
use ringpost::base::time::Mono;
use ringpost::runtime::{Lent, Listener, Part, Stream};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Which faults happen; chances are in ten thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct NetFaults {
    /// Per connection: it is reset within its first minute.
    pub reset: u64,
    /// Per connection: one direction stands still for a while, or for ever.
    pub stall: u64,
    /// Per connect: refused although somebody listens.
    pub refuse: u64,
    /// Per connect: no answer at all.
    pub blackhole: u64,
    /// Per chunk: up to 2 s late.
    pub slow: u64,
    /// Chunks of a few bytes and windows below 1 KiB.
    pub tiny: bool,
}

/// Handle to the net of the world.
#[derive(Clone)]
pub struct SimNet(Rc<State>);

struct State {
    world: World,
    faults: Cell<NetFaults>,
    listeners: RefCell<BTreeMap<SocketAddr, Rc<Listening>>>,
    dark: RefCell<BTreeSet<IpAddr>>,
    /// Connections allowed and open, by address.
    limits: RefCell<std::collections::BTreeMap<IpAddr, (u32, u32)>>,
    next_port: Cell<u16>,
    /// Connections between two runtimes of their machine.
    parked: RefCell<BTreeMap<u64, SimStream>>,
    next_parked: Cell<u64>,
}

#[derive(Default)]
struct Listening {
    waiting: RefCell<VecDeque<(SimStream, SocketAddr)>>,
    waker: RefCell<Option<Waker>>,
    closed: Cell<bool>,
}

impl SimNet {
    /// A net without anybody.
    pub fn new(world: &World) -> Self {
        SimNet(Rc::new(State {
            world: world.clone(),
            faults: Cell::default(),
            listeners: RefCell::default(),
            dark: RefCell::default(),
            limits: RefCell::default(),
            next_port: Cell::new(20_000),
            parked: RefCell::default(),
            next_parked: Cell::default(),
        }))
    }

    /// Sets the faults from now on.
    pub fn set_faults(&self, faults: NetFaults) {
        self.0.faults.set(faults);
    }

    /// A machine without power answers nothing, not even a refusal.
    pub fn set_dark(&self, ip: IpAddr, dark: bool) {
        let mut all = self.0.dark.borrow_mut();
        if dark {
            all.insert(ip)
        } else {
            all.remove(&ip)
        };
    }

    /// Binds a listening socket. Panics if the address is taken.
    pub fn listen(&self, address: SocketAddr) -> SimListener {
        let listening = Rc::new(Listening::default());
        let old = self.0.listeners.borrow_mut().insert(address, listening.clone());
        assert!(old.is_none(), "{address} is taken");
        SimListener { net: self.clone(), address, listening }
    }

    /// Keeps a connection for whoever comes with the number.
    pub fn park(&self, stream: SimStream) -> u64 {
        let number = self.0.next_parked.replace(self.0.next_parked.get() + 1);
        self.0.parked.borrow_mut().insert(number, stream);
        number
    }

    /// The connection of that number, once.
    pub fn unpark(&self, number: u64) -> Option<SimStream> {
        self.0.parked.borrow_mut().remove(&number)
    }

    /// The machine at `ip` has stopped, and what it had parked goes.
    pub fn forget_parked(&self, ip: IpAddr) {
        let mut parked = self.0.parked.borrow_mut();
        let here: Vec<u64> = parked.iter().filter(|(_, s)| s.local.ip() == ip).map(|(n, _)| *n).collect();
        let gone: Vec<SimStream> = here.iter().filter_map(|n| parked.remove(n)).collect();
        drop(parked);
        drop(gone);
    }

    fn latency(&self) -> u64 {
        let world = &self.0.world;
        if world.chance(self.0.faults.get().slow) { world.below(2 * SEC) } else { 20 * US + world.below(MS) }
    }

    async fn wait(&self, name: &'static str, delay: u64) {
        let op = Op::new(&self.0.world, name);
        let slot = op.clone_slot();
        self.0.world.after(delay, move || slot.finish(()));
        op.await;
    }

    /// No more connections to `ip` than this at a time, as those who open them see it.
    pub fn limit(&self, ip: IpAddr, most: u32) {
        self.0.limits.borrow_mut().insert(ip, (most, 0));
    }

    fn count(&self, ip: IpAddr, more: bool) {
        let mut limits = self.0.limits.borrow_mut();
        let Some((most, open)) = limits.get_mut(&ip) else { return };
        *open = if more { *open + 1 } else { open.saturating_sub(1) };
        if *open > *most {
            self.0.world.violation(format!("{open} connections to {ip}, where {most} are allowed"));
        }
    }

    /// Connects as `runtime::Net` says; `from` is the address of the caller's machine.
    pub async fn connect(&self, from: IpAddr, to: SocketAddr, deadline: Mono) -> io::Result<SimStream> {
        let (world, faults) = (&self.0.world, self.0.faults.get());
        let left = deadline.0.saturating_sub(world.now());
        let delay = self.latency();
        let dark = self.0.dark.borrow().contains(&to.ip()) || world.chance(faults.blackhole);
        self.wait("connect", if dark { left } else { delay.min(left) }).await;
        if dark || delay >= left {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let listening = self.0.listeners.borrow().get(&to).cloned();
        let Some(listening) = listening.filter(|l| !l.closed.get() && !world.chance(faults.refuse)) else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let port = self.0.next_port.replace(self.0.next_port.get().wrapping_add(1).max(20_000));
        let source = SocketAddr::new(from, port);
        world.event("connected", u64::from(port), u64::from(to.port()));
        self.count(to.ip(), true);
        let (here, there) = Conn::pair(self, source, to);
        listening.waiting.borrow_mut().push_back((there, source));
        if let Some(waker) = listening.waker.take() {
            waker.wake();
        }
        Ok(here)
    }
}

/// A listening socket of the double.
pub struct SimListener {
    net: SimNet,
    address: SocketAddr,
    listening: Rc<Listening>,
}

impl Listener for SimListener {
    type Stream = SimStream;

    async fn accept(&self) -> io::Result<(SimStream, SocketAddr)> {
        self.net.wait("accept", 5 * US).await;
        poll_fn(|cx| {
            if self.listening.closed.get() {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            }
            if let Some(next) = self.listening.waiting.borrow_mut().pop_front() {
                return Poll::Ready(Ok(next));
            }
            *self.listening.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn local(&self) -> SocketAddr {
        self.address
    }

    fn close(&self) {
        if !self.listening.closed.replace(true) {
            self.net.0.listeners.borrow_mut().remove(&self.address);
        }
        let (waiting, waker) = (self.listening.waiting.take(), self.listening.waker.take());
        drop(waiting);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.close();
    }
}

struct Conn {
    net: SimNet,
    /// `pipes[i]` carries what side `i` sends.
    pipes: [RefCell<Pipe>; 2],
    ends: [End; 2],
}

struct Pipe {
    arrived: VecDeque<u8>,
    /// When which of them were sent: counts and times.
    sent: VecDeque<(usize, u64)>,
    /// When the byte was sent that was received last.
    last_sent: u64,
    travelling: usize,
    next_arrival: u64,
    stalls: Option<(u64, u64)>,
    window: usize,
    finished: bool,
    end_arrived: bool,
}

#[derive(Default)]
struct End {
    deadline: Cell<Option<u64>>,
    closed: Cell<bool>,
    shut: Cell<bool>,
    reset: Cell<bool>,
    receiving: Cell<bool>,
    sending: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

impl End {
    fn wake(&self) {
        let wakers = [self.reader.take(), self.writer.take()];
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Pipe {
    fn take(&mut self, count: usize) -> impl Iterator<Item = u8> {
        let mut left = count;
        while left > 0 {
            let (some, at) = self.sent.front_mut().expect("what has arrived was sent");
            self.last_sent = *at;
            let here = left.min(*some);
            left -= here;
            *some -= here;
            if *some == 0 {
                self.sent.pop_front();
            }
        }
        self.arrived.drain(..count)
    }
}

impl Conn {
    fn pair(net: &SimNet, source: SocketAddr, to: SocketAddr) -> (SimStream, SimStream) {
        let (world, faults) = (&net.0.world, net.0.faults.get());
        let pipe = || {
            let stalls = world.chance(faults.stall).then(|| {
                let long = if world.chance(2_000) { u64::MAX / 2 } else { world.below(1200 * SEC) };
                (world.now() + world.below(20 * SEC), long)
            });
            let window = if faults.tiny { 1 + world.below(900) } else { 1024 + world.below(128 << 10) };
            RefCell::new(Pipe {
                arrived: VecDeque::new(),
                sent: VecDeque::new(),
                last_sent: 0,
                travelling: 0,
                next_arrival: 0,
                stalls,
                window: window as usize,
                finished: false,
                end_arrived: false,
            })
        };
        let pipes = [pipe(), pipe()];
        let conn = Rc::new(Conn { net: net.clone(), pipes, ends: Default::default() });
        if world.chance(faults.reset) {
            let conn = conn.clone();
            let soon = if world.chance(5_000) { 100 * MS } else { 60 * SEC };
            world.after(world.below(soon), move || [0, 1].into_iter().for_each(|side| conn.reset(side)));
        }
        let stream = |side, local, peer| SimStream { conn: conn.clone(), side, local, peer };
        (stream(0, source, to), stream(1, to, source))
    }

    fn world(&self) -> &World {
        &self.net.0.world
    }

    /// A reset arrives at `side`; what it had not read yet may be lost with it.
    fn reset(&self, side: usize) {
        let end = &self.ends[side];
        if end.closed.get() || end.reset.replace(true) {
            return;
        }
        if self.world().chance(5_000) {
            let mut pipe = self.pipes[1 - side].borrow_mut();
            pipe.arrived.clear();
            pipe.sent.clear();
        }
        end.wake();
    }

    /// Sends a reset from `side` to the other one.
    fn send_reset(self: &Rc<Self>, side: usize, delay: u64) {
        let conn = self.clone();
        self.world().after(delay, move || conn.reset(1 - side));
    }

    /// When something sent now by `side` arrives.
    fn arrival(&self, side: usize) -> u64 {
        let mut pipe = self.pipes[side].borrow_mut();
        let mut at = (self.world().now() + self.net.latency()).max(pipe.next_arrival);
        if let Some((from, long)) = pipe.stalls
            && at >= from
        {
            at = at.max(from.saturating_add(long));
        }
        pipe.next_arrival = at;
        at
    }

    fn transmit(self: &Rc<Self>, side: usize, bytes: Vec<u8>) {
        self.pipes[side].borrow_mut().travelling += bytes.len();
        let (conn, at, sent) = (self.clone(), self.arrival(side), self.world().now());
        self.world().at(at, move || {
            let mut pipe = conn.pipes[side].borrow_mut();
            pipe.travelling -= bytes.len();
            let end = &conn.ends[1 - side];
            if end.closed.get() || end.shut.get() {
                drop(pipe);
                conn.send_reset(1 - side, MS);
            } else if !end.reset.get() {
                pipe.arrived.extend(&bytes);
                pipe.sent.push_back((bytes.len(), sent));
                drop(pipe);
                end.reader.take().into_iter().for_each(Waker::wake);
            }
        });
    }

    fn transmit_end(self: &Rc<Self>, side: usize) {
        if std::mem::replace(&mut self.pipes[side].borrow_mut().finished, true) {
            return;
        }
        let (conn, at) = (self.clone(), self.arrival(side));
        self.world().at(at, move || {
            conn.pipes[side].borrow_mut().end_arrived = true;
            conn.ends[1 - side].reader.take().into_iter().for_each(Waker::wake);
        });
    }
}

/// A connection of the double.
pub struct SimStream {
    conn: Rc<Conn>,
    side: usize,
    local: SocketAddr,
    peer: SocketAddr,
}

/// Marks an operation as running; a contract check on its way out.
struct Running<'a> {
    stream: &'a SimStream,
    name: &'static str,
    flag: &'a Cell<bool>,
    done: bool,
}

impl<'a> Running<'a> {
    fn begin(stream: &'a SimStream, name: &'static str, flag: &'a Cell<bool>) -> Self {
        if flag.replace(true) {
            stream.conn.world().violation(format!("{name}: two operations of one kind on a stream"));
        }
        Running { stream, name, flag, done: false }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.flag.set(false);
        let world = self.stream.conn.world();
        if !self.done && world.dying().is_none() && !std::thread::panicking() {
            world.violation(format!("{} was dropped in flight", self.name));
        }
    }
}

impl SimStream {
    /// The other side's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// When the other side sent the byte that was received last: a process that has died since
    /// may be the sender.
    pub fn sent_at(&self) -> u64 {
        self.conn.pipes[1 - self.side].borrow().last_sent
    }

    /// Ends our direction only (half-close); the other side may go on.
    pub fn finish(&self) {
        self.conn.transmit_end(self.side);
    }

    /// Breaks the connection at once: the other side sees a reset.
    pub fn abort(&self) {
        self.conn.send_reset(self.side, self.conn.net.latency());
        self.conn.ends[self.side].reset.set(true);
        self.end().wake();
    }

    fn end(&self) -> &End {
        &self.conn.ends[self.side]
    }

    fn late(&self) -> bool {
        self.end().deadline.get().is_some_and(|at| at <= self.conn.world().now())
    }

    /// What a receiver sees now: nothing yet, the end, an error, or that there are bytes.
    fn look(&self) -> Poll<io::Result<usize>> {
        let (end, pipe) = (self.end(), self.conn.pipes[1 - self.side].borrow());
        if end.shut.get() {
            Poll::Ready(Ok(0))
        } else if !pipe.arrived.is_empty() {
            Poll::Ready(Ok(pipe.arrived.len()))
        } else if end.reset.get() {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        } else if pipe.end_arrived {
            Poll::Ready(Ok(0))
        } else if self.late() {
            Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
        } else {
            Poll::Pending
        }
    }

    async fn wait_readable(&self, name: &'static str) -> io::Result<usize> {
        let mut running = Running::begin(self, name, &self.end().receiving);
        let result = if self.late() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            self.conn.net.wait(name, 5 * US).await;
            poll_fn(|cx: &mut Context<'_>| {
                let seen = self.look();
                if seen.is_pending() {
                    *self.end().reader.borrow_mut() = Some(cx.waker().clone());
                }
                seen
            })
            .await
        };
        running.done = true;
        result
    }

    async fn receive(&self, buf: &mut Vec<u8>) -> io::Result<usize> {
        let (world, room) = (self.conn.world(), buf.capacity() - buf.len());
        if room == 0 {
            world.violation("receive into a full buffer".to_owned());
        }
        let there = self.wait_readable("recv").await?;
        let mut pipe = self.conn.pipes[1 - self.side].borrow_mut();
        let most = there.min(room).min(pipe.arrived.len());
        let tiny = self.conn.net.0.faults.get().tiny;
        let take = if tiny || world.chance(1_000) { most.min(1 + world.below(40) as usize) } else { most };
        buf.extend(pipe.take(take));
        world.event("recv", u64::from(self.local.port()), take as u64);
        drop(pipe);
        let conn = self.conn.clone();
        let side = 1 - self.side;
        let opened = move || conn.ends[side].writer.take().into_iter().for_each(Waker::wake);
        world.after(self.conn.net.latency(), opened);
        Ok(take)
    }

    /// Passes on as much of `bytes` as the window takes now.
    fn push(&self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let end = self.end();
        if end.shut.get() || self.conn.pipes[self.side].borrow().finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if end.reset.get() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let room = {
            let pipe = self.conn.pipes[self.side].borrow();
            pipe.window.saturating_sub(pipe.arrived.len() + pipe.travelling)
        };
        if room == 0 {
            return if self.late() {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            } else {
                Poll::Pending
            };
        }
        let world = self.conn.world();
        let whole = room.min(bytes.len());
        let split = self.conn.net.0.faults.get().tiny || world.chance(3_000);
        let count = if split { 1 + world.below(whole as u64) as usize } else { whole };
        self.conn.transmit(self.side, bytes[..count].to_vec());
        Poll::Ready(Ok(count))
    }

    async fn transmit(&self, bytes: &[u8]) -> io::Result<()> {
        let mut running = Running::begin(self, "send", &self.end().sending);
        let result = self.transmit_all(bytes).await;
        running.done = true;
        result
    }

    async fn transmit_all(&self, bytes: &[u8]) -> io::Result<()> {
        if self.late() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.conn.net.wait("send", 5 * US).await;
        self.conn.world().event("send", u64::from(self.local.port()), bytes.len() as u64);
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = poll_fn(|cx: &mut Context<'_>| {
                let pushed = self.push(rest);
                if pushed.is_pending() {
                    *self.end().writer.borrow_mut() = Some(cx.waker().clone());
                }
                pushed
            })
            .await?;
            rest = &rest[count..];
        }
        Ok(())
    }
}

fn join(parts: &[Part]) -> Vec<u8> {
    parts.iter().flat_map(|p| p.bytes()).copied().collect()
}

impl Stream for SimStream {
    async fn recv(&self, mut buf: Vec<u8>) -> Lent<usize, Vec<u8>> {
        (self.receive(&mut buf).await, buf)
    }

    async fn readable(&self) -> io::Result<()> {
        self.wait_readable("readable").await.map(drop)
    }

    async fn send(&self, buf: Vec<u8>) -> Lent<(), Vec<u8>> {
        (self.transmit(&buf).await, buf)
    }

    async fn send_parts(&self, parts: Vec<Part>) -> Lent<(), Vec<Part>> {
        (self.transmit(&join(&parts)).await, parts)
    }

    fn set_deadline(&self, at: Option<Mono>) {
        let at = at.map(|t| t.0);
        if self.end().deadline.replace(at) == at {
            return;
        }
        let Some(at) = at.filter(|&t| t < u64::MAX / 4) else { return };
        let world = self.conn.world();
        let slack = if world.chance(500) { world.below(900 * MS) } else { MS };
        let conn = self.conn.clone();
        let side = self.side;
        world.at(at.max(world.now()) + slack, move || conn.ends[side].wake());
    }

    fn shutdown(&self) {
        self.end().shut.set(true);
        self.conn.transmit_end(self.side);
        self.end().wake();
    }

    fn local(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let (end, world) = (self.end(), self.conn.world());
        end.closed.set(true);
        if self.side == 0 {
            self.conn.net.count(self.peer.ip(), false);
        }
        if world.dying() == Some(Death::Power) {
            // Nobody tells the peer, until it sends to the machine that has come back.
            self.conn.send_reset(self.side, world.below(40 * SEC));
        } else if !self.conn.pipes[1 - self.side].borrow().arrived.is_empty() && !end.shut.get() {
            // RFC 1122 4.2.2.13: closed with data unread, the other side gets a reset.
            self.conn.send_reset(self.side, self.conn.net.latency());
        } else if !end.reset.get() {
            self.conn.transmit_end(self.side);
        }
    }
}

#[cfg(test)]
#[path = "net_tests.rs"]
mod tests;

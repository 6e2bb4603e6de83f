//! L4: serves SMTP on one core: accepts, moves bytes between socket and session machine, collects
//! bodies, asks the gate, calls intake.
//!
//! Knows no disk and no other core. What a client does wrong is answered by the machine; an error
//! of the socket ends the session; our own trouble (disk, space) becomes a 4xx. A session holds a
//! receive buffer only while bytes are on their way: an idle one gives it back.

mod collect;
mod gather;
mod secure;
mod session;

use crate::base::time::Mono;
use crate::intake::Intake;
use crate::message::date::DateCache;
use crate::metrics;
use crate::runtime::pool::Pool;
use crate::runtime::{Listener, Runtime, Stream};
use crate::smtp::inbound;
use crate::smtp::reply::{Refusal, Reply};
use crate::tls::{Certificates, Connection};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// What the shell asks of policy. Synchronous: everything is in memory.
pub trait Gate {
    /// A client has connected: is it one of those that may relay anywhere? `Err`: it is refused.
    fn admit(&self, client: IpAddr) -> Result<Guest, Reply>;

    /// May a `trusted` client (or any) send to this recipient through us?
    fn recipient(&self, trusted: bool, address: &[u8]) -> Result<(), Refusal<'static>>;
}

/// A client that has been let in. What was counted for it is given back when this is dropped.
pub struct Guest {
    /// It may relay anywhere.
    pub trusted: bool,
    /// Given back on drop.
    pub permit: Box<dyn std::any::Any>,
}

/// How a listener lets clients in.
#[derive(Clone, Debug, Default)]
pub struct Door {
    /// What it does with TLS.
    pub tls: inbound::Tls,
    /// Certificates for TLS; without them it cannot be had.
    pub certificates: Option<Certificates>,
    /// Clients are asked for a certificate, too.
    pub ask_certificate: bool,
}

impl Door {
    fn is_implicit(&self) -> bool {
        self.tls == inbound::Tls::Implicit
    }

    /// Our end of a handshake.
    fn begin_tls(&self) -> Option<Box<Connection>> {
        let snapshot = self.certificates.as_ref()?.current();
        Connection::accept(snapshot, self.ask_certificate).ok().map(Box::new)
    }
}

/// What can be set.
#[derive(Clone)]
pub struct Options {
    /// Our name in Received.
    pub hostname: String,
    /// Limits of sessions of clients that may relay.
    pub trusted: Rc<inbound::Options>,
    /// Limits of all other sessions.
    pub others: Rc<inbound::Options>,
    /// A body longer than this many bytes goes to a side file as it comes in.
    pub side_bytes: usize,
    /// Bytes of unfinished bodies in the memory of this core; above, bodies go to side files from
    /// 64 KiB on.
    pub memory: usize,
    /// After so long without a byte a session gives its receive buffer back.
    pub idle_buffer: Duration,
    /// How long the last reply of a session may take to be sent and read.
    pub last_words: Duration,
    /// How long a client may take to receive replies.
    pub write: Duration,
    /// How long a session may last; it ends between two transactions.
    pub session: Duration,
    /// How long a message that has come in waits for a busy disk before it is refused.
    pub busy: Duration,
}

impl Options {
    /// The defaults of the product.
    #[must_use]
    pub fn new(hostname: &str) -> Self {
        let others = inbound::Options::production(hostname);
        // Load tests and other relays send without end over one connection.
        let trusted = inbound::Options { transactions_max: u32::MAX, ..others.clone() };
        Options {
            hostname: hostname.to_owned(),
            trusted: Rc::new(trusted),
            others: Rc::new(others),
            side_bytes: 1 << 20,
            memory: 64 << 20,
            idle_buffer: Duration::from_secs(2),
            last_words: Duration::from_secs(5),
            write: Duration::from_secs(180),
            session: Duration::from_secs(100 * 365 * 86_400),
            busy: Duration::from_secs(60),
        }
    }
}

/// What the sessions of one core share.
pub struct Context<R: Runtime> {
    rt: R,
    intake: Intake<R>,
    gate: Rc<dyn Gate>,
    metrics: metrics::Core,
    options: Options,
    pool: Pool,
    date: RefCell<DateCache>,
    /// Bytes of unfinished bodies.
    held: Cell<usize>,
    stopping: Cell<bool>,
    live: RefCell<Live<R::Stream>>,
}

/// The open sessions, so that a stop can reach them.
struct Live<S> {
    slots: Vec<Option<Rc<Handle<S>>>>,
    free: Vec<usize>,
}

/// A session as the others see it.
struct Handle<S> {
    stream: S,
    /// It waits for a command, outside of a transaction.
    idle: Cell<bool>,
}

impl<R: Runtime> Context<R> {
    /// The context of one core.
    #[must_use]
    pub fn new(
        rt: R,
        intake: Intake<R>,
        gate: Rc<dyn Gate>,
        metrics: metrics::Core,
        options: Options,
    ) -> Rc<Self> {
        let live = RefCell::new(Live { slots: Vec::new(), free: Vec::new() });
        Rc::new(Context {
            rt,
            intake,
            gate,
            metrics,
            options,
            pool: Pool::new(1024),
            date: RefCell::default(),
            held: Cell::new(0),
            stopping: Cell::new(false),
            live,
        })
    }

    /// Sessions that are open.
    #[must_use]
    pub fn sessions(&self) -> usize {
        let live = self.live.borrow();
        live.slots.len() - live.free.len()
    }

    /// Ends idle sessions with 421 now, and the others after their transaction.
    pub fn stop(&self) {
        self.stopping.set(true);
        let now = self.rt.now();
        for handle in self.live.borrow().slots.iter().flatten() {
            if handle.idle.get() {
                handle.stream.set_deadline(Some(now));
            }
        }
    }

    /// Waits until all sessions have ended, at most until `until`; then cuts the rest off.
    pub async fn drained(&self, until: Mono) {
        while self.sessions() > 0 && self.rt.now() < until {
            let next = self.rt.now().after(Duration::from_millis(20));
            self.rt.sleep_until(next.min(until)).await;
        }
        for handle in self.live.borrow().slots.iter().flatten() {
            handle.stream.shutdown();
        }
    }

    fn enter(&self, stream: R::Stream) -> (usize, Rc<Handle<R::Stream>>) {
        let handle = Rc::new(Handle { stream, idle: Cell::new(false) });
        let mut live = self.live.borrow_mut();
        let place = live.free.pop().unwrap_or_else(|| {
            live.slots.push(None);
            live.slots.len() - 1
        });
        live.slots[place] = Some(handle.clone());
        self.metrics.smtp_sessions.increment(1.0);
        (place, handle)
    }

    fn leave(&self, place: usize) {
        let mut live = self.live.borrow_mut();
        live.slots[place] = None;
        live.free.push(place);
        self.metrics.smtp_sessions.decrement(1.0);
    }
}

/// Accepts connections until the listener is closed.
pub async fn accept<R: Runtime, L: Listener<Stream = R::Stream>>(
    ctx: Rc<Context<R>>,
    listener: Rc<L>,
    door: Rc<Door>,
) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(connection) => connection,
            Err(e) if e.kind() == io::ErrorKind::NotConnected => return,
            // The connection has gone before it was taken, or the kernel is short of something.
            Err(_) => continue,
        };
        ctx.metrics.smtp_connections.increment(1);
        let guest = match ctx.gate.admit(peer.ip()) {
            Ok(guest) if !ctx.stopping.get() => guest,
            refused => {
                let reply = refused.err().unwrap_or(Reply::SHUTTING_DOWN);
                ctx.metrics.sessions_refused.increment(1);
                // Where TLS comes first no words can be understood.
                if !door.is_implicit() {
                    ctx.rt.spawn(turn_away(ctx.clone(), stream, reply));
                }
                continue;
            }
        };
        let ctx2 = ctx.clone();
        ctx.rt.spawn(serve(ctx2, door.clone(), stream, peer, guest));
    }
}

/// Refuses a connection.
async fn turn_away<R: Runtime>(ctx: Rc<Context<R>>, stream: R::Stream, reply: Reply) {
    let until = ctx.rt.now().after(Duration::from_secs(1));
    session::last_words(&stream, reply.line().as_bytes().to_vec(), false, until).await;
}

/// Serves one connection to its end.
async fn serve<R: Runtime>(
    ctx: Rc<Context<R>>,
    door: Rc<Door>,
    stream: R::Stream,
    peer: SocketAddr,
    guest: Guest,
) {
    let (place, handle) = ctx.enter(stream);
    // On drop, so that a session that panics leaves, too.
    let _place = Place { ctx: ctx.clone(), place };
    session::run(&ctx, &door, &handle, peer, &guest).await;
}

struct Place<R: Runtime> {
    ctx: Rc<Context<R>>,
    place: usize,
}

impl<R: Runtime> Drop for Place<R> {
    fn drop(&mut self) {
        self.ctx.leave(self.place);
    }
}

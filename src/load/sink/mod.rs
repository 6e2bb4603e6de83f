//! The message sink: an SMTP server that takes everything, counts it, and misbehaves on request.
//!
//! Owns listening, the ledger of what was taken, and the report. One thread; nothing is stored
//! unless a maildir is asked for. A message is in the ledger's memory before its `250` is written.
//! Errors of clients are counted; a ledger or maildir that cannot be written ends the run.

pub mod body;
mod connection;
pub mod fault;
pub mod session;
pub mod stats;
mod taker;

use super::Stop;
use super::ledger::{Kind, Ledger};
use super::shell::{SCRATCH, thread_cpu, unix_nanos};
use fault::{Fault, Faults};
use session::Profile;
use stats::{Counters, Report};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
pub use taker::Received;
use taker::Takes;

/// Connections open at the same time; more are closed at once.
const MAX_CONNECTIONS: usize = 30_000;

/// Content bytes of a message that are kept for a hook or a maildir.
const MAX_KEPT: usize = 64 << 20;

/// How a sink behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name in greeting and EHLO reply.
    pub hostname: String,
    /// Offer PIPELINING. Without it, clients that pipeline are counted as breaking the protocol.
    pub pipelining: bool,
    /// Offer CHUNKING.
    pub chunking: bool,
    /// Largest message in bytes; 0: any.
    pub max_size: u64,
    /// Faults to play.
    pub faults: Vec<Fault>,
    /// Seed of the dice for faults.
    pub seed: u64,
    /// Where to write the ledger.
    pub ledger: Option<PathBuf>,
    /// Where to put messages, one file each under `new/`.
    pub maildir: Option<PathBuf>,
    /// A file that always holds the counters as one JSON object, replaced about every 80 ms.
    pub status: Option<PathBuf>,
    /// End when so many messages were taken.
    pub expect: Option<u64>,
    /// End when no message has come for so long after the first.
    pub idle: Option<Duration>,
    /// Longest silence of a client.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            hostname: "sink.invalid".into(),
            pipelining: true,
            chunking: true,
            max_size: 0,
            faults: Vec::new(),
            seed: 0,
            ledger: None,
            maildir: None,
            status: None,
            expect: None,
            idle: None,
            timeout: Duration::from_secs(300),
        }
    }
}

/// A bound sink that does not accept yet.
pub struct Sink {
    listener: std::net::TcpListener,
    options: Options,
    takes: Takes,
    counters: Arc<Counters>,
    stop: Stop,
}

/// What the connections of a running sink share.
struct Shared {
    profile: Profile,
    timeout: Duration,
    counters: Arc<Counters>,
    stop: Stop,
    world: RefCell<World>,
    scratch: RefCell<Vec<u8>>,
    open: Cell<usize>,
}

struct World {
    faults: Faults,
    taker: Takes,
}

impl Sink {
    /// Binds `address` (port 0: any free one) and creates the ledger; returns where it listens.
    /// Connections wait in the kernel until [`Sink::run`] or [`Sink::spawn`].
    ///
    /// # Errors
    /// The address cannot be bound, or the ledger or maildir not created.
    pub fn bind(address: SocketAddr, options: Options) -> io::Result<(Self, SocketAddr)> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM.nonblocking(),
            None,
        )?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        let listener: std::net::TcpListener = socket.into();
        let local = listener.local_addr()?;
        let ledger = options.ledger.as_deref().map(|p| Ledger::create(p, Kind::Received)).transpose()?;
        let counters = Arc::new(Counters::default());
        let takes = Takes::new(ledger, options.maildir.as_deref(), Arc::clone(&counters))?;
        Ok((Sink { listener, options, takes, counters, stop: Stop::default() }, local))
    }

    /// Calls `hook` for every message taken, on the sink's thread, before its `250` is written.
    pub fn on_message(&mut self, hook: impl FnMut(&Received<'_>) + Send + 'static) {
        self.takes.hook = Some(Box::new(hook));
    }

    /// The counters, to be read while it runs.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Ends the run when set.
    #[must_use]
    pub fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// Serves until its end is reached (see [`Options`]) or it is stopped. Blocks; must not be
    /// called from within an async runtime.
    ///
    /// # Errors
    /// The ledger or maildir cannot be written, or the event loop not be made.
    pub fn run(self) -> io::Result<Report> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let keep = self.takes.needs_content().then_some(MAX_KEPT);
        let o = &self.options;
        let shared = Rc::new(Shared {
            profile: Profile {
                hostname: o.hostname.clone(),
                pipelining: o.pipelining,
                chunking: o.chunking,
                max_size: o.max_size,
                keep,
            },
            timeout: o.timeout,
            counters: self.counters,
            stop: self.stop,
            world: RefCell::new(World { faults: Faults::new(o.faults.clone(), o.seed), taker: self.takes }),
            scratch: RefCell::new(vec![0; SCRATCH]),
            open: Cell::new(0),
        });
        let before = thread_cpu().unwrap_or_default();
        let local = tokio::task::LocalSet::new();
        let listener = self.listener;
        local.block_on(&runtime, async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let accepting = tokio::task::spawn_local(accept(listener, Rc::clone(&shared)));
            let result = watch(&shared, &self.options).await;
            accepting.abort();
            // Replies that are being written get their turn.
            tokio::time::sleep(Duration::from_millis(20)).await;
            result
        })?;
        drop(local);
        shared.world.borrow_mut().taker.flush()?;
        let spent = thread_cpu().unwrap_or_default().saturating_sub(before);
        Ok(shared.counters.report(spent.as_secs_f64()))
    }

    /// Runs on a thread of its own.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn(self) -> io::Result<Running> {
        let (stop, counters) = (self.stopper(), self.counters());
        let thread = std::thread::Builder::new().name("load-sink".into()).spawn(move || self.run())?;
        Ok(Running { thread, stop, counters })
    }
}

/// A sink on a thread of its own.
pub struct Running {
    thread: std::thread::JoinHandle<io::Result<Report>>,
    stop: Stop,
    counters: Arc<Counters>,
}

impl Running {
    /// The counters as they grow.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether it has ended by itself.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// As [`Sink::run`].
    pub fn join(self) -> io::Result<Report> {
        self.thread.join().map_err(|_| io::Error::other("the sink panicked"))?
    }

    /// Stops it and waits for its end.
    ///
    /// # Errors
    /// As [`Sink::run`].
    pub fn finish(self) -> io::Result<Report> {
        self.stop.set();
        self.join()
    }
}

async fn accept(listener: tokio::net::TcpListener, shared: Rc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                shared.counters.connections.add(1);
                if shared.open.get() >= MAX_CONNECTIONS {
                    shared.counters.refused_connections.add(1);
                } else {
                    tokio::task::spawn_local(connection::run(Rc::clone(&shared), stream));
                }
            }
            // Out of descriptors, or the peer has gone already: leave others time to end.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Looks after the ledger and the status file, and for the end.
async fn watch(shared: &Shared, options: &Options) -> io::Result<()> {
    let counters = &shared.counters;
    let mut turn = 0u32;
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        turn = turn.wrapping_add(1);
        if turn.is_multiple_of(4) {
            shared.world.borrow_mut().taker.flush()?;
            if let Some(path) = &options.status {
                write_status(path, &counters.report(0.0))?;
            }
        }
        let enough = options.expect.is_some_and(|n| counters.messages.get() >= n);
        let silent = options.idle.is_some_and(|d| {
            let last = counters.last_nanos.get();
            last > 0 && u128::from(unix_nanos().saturating_sub(last)) >= d.as_nanos()
        });
        if enough || silent || shared.stop.is_set() {
            return Ok(());
        }
    }
}

/// Replaces the file, so that a reader never sees half of it.
fn write_status(path: &Path, report: &Report) -> io::Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, serde_json::to_vec(report)?)?;
    std::fs::rename(&next, path)
}

#[cfg(test)]
#[path = "loop_tests.rs"]
mod tests;

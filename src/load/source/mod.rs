//! The message source: many SMTP client sessions that send numbered messages as fast as asked.
//!
//! Owns options, threads and the report. It costs little: one thread, one task per connection, two
//! system calls and no allocation per message, because it shares its machine with the server that
//! is measured. It never retries a message; it opens connections again until its work is done.
//! Errors of the server are in the report; errors of ours (ledger, threads) are returned.

mod connection;
pub mod message;
pub mod reply;
pub mod secure;
pub mod session;
pub mod tally;

use super::Stop;
use super::histogram::Percentiles;
use super::ledger::{Kind, Ledger};
use super::shell::{Clock, SCRATCH, thread_cpu, unix_nanos};
use crate::auth::prepare;
use crate::base::secret::Secret;
use crate::base::time::{Mono, Wall};
use crate::message::date;
use message::Template;
use serde::Serialize;
use session::{Feed, Profile};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tally::Tally;

/// What to send, where, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server.
    pub to: SocketAddr,
    /// Sessions at the same time, 1..=60,000.
    pub connections: usize,
    /// Messages altogether; none: until `duration` is over.
    pub messages: Option<u64>,
    /// Messages after which a session quits and a new one is opened; 1 or more.
    pub messages_per_connection: u64,
    /// Bytes of a message with its header; raised to the header's if less.
    pub size: u64,
    /// Messages per second over all connections; none: as fast as the server takes them.
    pub rate: Option<f64>,
    /// Use PIPELINING if the server offers it.
    pub pipelining: bool,
    /// Use TLS; any certificate will do.
    pub tls: Option<secure::Tls>,
    /// Resume TLS sessions of earlier connections.
    pub tls_resume: bool,
    /// Recipients per message, 1..=1000.
    pub recipients: u32,
    /// Address in MAIL FROM.
    pub from: String,
    /// Recipient; `{n}` becomes the message number, `{r}` the recipient's number.
    pub recipient: String,
    /// When to end; none: when all messages are sent.
    pub duration: Option<Duration>,
    /// Where to write the ledger.
    pub ledger: Option<PathBuf>,
    /// Threads, 1..=64.
    pub threads: usize,
    /// Connect from this many addresses, 127.0.1.1 and up (1..=250), so that a connection per
    /// message does not run out of ports; 0: the system chooses. Only to loopback.
    pub source_addresses: u8,
    /// How long connections that failed are tried again; zero: a connection that fails is given up.
    pub retry_connect: Duration,
    /// Greeted sessions stay idle for this long after the start before they send.
    pub hold: Duration,
    /// Longest wait for one reply.
    pub timeout: Duration,
    /// Every eighth body line begins with a dot.
    pub dot_lines: bool,
    /// Run id; none: a new one. Ids are unique within a run.
    pub run: Option<String>,
    /// Name given in EHLO.
    pub helo: String,
    /// Log in by AUTH PLAIN with this login and password.
    pub auth: Option<(String, Secret)>,
}

impl Options {
    /// One connection, one message of 1 KiB, to `to`.
    #[must_use]
    pub fn new(to: SocketAddr) -> Self {
        Options {
            to,
            connections: 1,
            messages: Some(1),
            messages_per_connection: u64::MAX,
            size: 1024,
            rate: None,
            pipelining: true,
            tls: None,
            tls_resume: false,
            recipients: 1,
            from: "sender@load.invalid".into(),
            recipient: "rcpt{r}@load.invalid".into(),
            duration: None,
            ledger: None,
            threads: 1,
            source_addresses: 0,
            retry_connect: Duration::ZERO,
            hold: Duration::ZERO,
            timeout: Duration::from_secs(60),
            dot_lines: false,
            run: None,
            helo: "load.invalid".into(),
            auth: None,
        }
    }

    fn check(&self) -> io::Result<()> {
        let wrong = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, text.to_owned()));
        if !(1..=60_000).contains(&self.connections) {
            return wrong("connections: 1 to 60000");
        }
        if !(1..=1000).contains(&self.recipients) {
            return wrong("recipients: 1 to 1000");
        }
        if !(1..=64).contains(&self.threads) {
            return wrong("threads: 1 to 64");
        }
        if self.source_addresses > 250 || (self.source_addresses > 0 && !self.to.ip().is_loopback()) {
            return wrong("source addresses: at most 250, and only to a loopback address");
        }
        if self.messages.is_none() && self.duration.is_none() {
            return wrong("either messages or duration must be given");
        }
        if self.messages_per_connection == 0 || self.size > 1 << 30 {
            return wrong("messages per connection: 1 or more; size: at most 1GiB");
        }
        let texts = [&self.from, &self.recipient, &self.helo];
        if texts.iter().any(|t| t.bytes().any(|b| b < 0x20 || b == 0x7f)) {
            return wrong("addresses and names must not hold control characters");
        }
        if self
            .run
            .as_ref()
            .is_some_and(|r| !(1..=32).contains(&r.len()) || !r.bytes().all(|b| b.is_ascii_alphanumeric()))
        {
            return wrong("run: 1 to 32 letters and digits");
        }
        Ok(())
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Run id.
    pub run: String,
    /// Messages with a positive reply to the final dot.
    pub acknowledged: u64,
    /// Messages refused after the final dot.
    pub refused: u64,
    /// Messages given up before the final dot.
    pub failed: u64,
    /// Messages whose final dot was sent and that got no reply.
    pub unanswered: u64,
    /// Messages asked for and not even tried.
    pub not_sent: u64,
    /// From the start to the last reply.
    pub seconds: f64,
    /// Acknowledged messages per second.
    pub messages_per_second: f64,
    /// Acknowledged bytes per second, in 10^6.
    pub megabytes_per_second: f64,
    /// Bytes of one message.
    pub message_bytes: u64,
    /// From the final dot handed to the kernel to its reply.
    pub latency: Percentiles,
    /// Replies that were not hoped for, "phase code".
    pub replies: BTreeMap<String, u64>,
    /// Connections opened.
    pub connections: u64,
    /// Connections that could not be opened, by cause.
    pub connect_errors: BTreeMap<String, u64>,
    /// Connections that broke, by cause.
    pub broken: BTreeMap<String, u64>,
    /// CPU of the source itself per acknowledged message, microseconds; 0 if unknown.
    pub source_cpu_us_per_message: f64,
}

impl Report {
    /// Whether every message asked for was acknowledged.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.refused + self.failed + self.unanswered + self.not_sent == 0
    }
}

/// Sends until the work is done, the time is over or `stop` is set. Blocks; must not be called from
/// within an async runtime.
///
/// # Errors
/// An option is out of range, or the ledger cannot be written (then it is not complete).
pub fn run(options: &Options, stop: &Stop) -> io::Result<Report> {
    options.check()?;
    let mut ledger = options.ledger.as_deref().map(|p| Ledger::create(p, Kind::Sent)).transpose()?;
    let run = options.run.clone().unwrap_or_else(new_run_id);
    let shared = Arc::new(Shared {
        options: options.clone(),
        run: run.clone(),
        clock: Clock::new(),
        next: AtomicU64::new(0),
        ended: AtomicU64::new(0),
        stop: stop.clone(),
    });
    let threads = options.threads.min(options.connections);
    let mut all = Tally::default();
    let mut cpu = Duration::ZERO;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let shared = Arc::clone(&shared);
                let ledger = ledger.as_ref().map(Ledger::share);
                scope.spawn(move || thread_main(shared, thread, threads, ledger))
            })
            .collect();
        for worker in workers {
            let (tally, spent) = worker.join().map_err(|_| io::Error::other("a load thread panicked"))??;
            cpu += spent;
            all.merge(tally);
        }
        io::Result::Ok(())
    })?;
    if let Some(ledger) = &mut ledger {
        ledger.flush()?;
    }
    let seconds = shared.ended.load(Ordering::Relaxed) as f64 / 1e9;
    Ok(report(options, run, all, seconds, cpu))
}

fn report(options: &Options, run: String, all: Tally, seconds: f64, cpu: Duration) -> Report {
    let tried = all.acknowledged + all.refused + all.failed + all.unanswered;
    let per_second = |n: f64| if seconds > 0.0 { n / seconds } else { 0.0 };
    Report {
        run,
        acknowledged: all.acknowledged,
        refused: all.refused,
        failed: all.failed,
        unanswered: all.unanswered,
        not_sent: options.messages.map_or(0, |m| m.saturating_sub(tried)),
        seconds,
        messages_per_second: per_second(all.acknowledged as f64),
        megabytes_per_second: per_second(all.bytes as f64 / 1e6),
        message_bytes: all.bytes.checked_div(all.acknowledged).unwrap_or(0),
        latency: all.latency.percentiles(),
        replies: all.replies.iter().map(|((phase, code), n)| (format!("{phase} {code}"), *n)).collect(),
        connections: all.connections,
        connect_errors: all.connect_errors,
        broken: all.broken,
        source_cpu_us_per_message: if all.acknowledged > 0 {
            cpu.as_secs_f64() * 1e6 / all.acknowledged as f64
        } else {
            0.0
        },
    }
}

/// What the threads of a run share.
struct Shared {
    options: Options,
    run: String,
    clock: Clock,
    /// The next message number.
    next: AtomicU64,
    /// When the last reply came.
    ended: AtomicU64,
    stop: Stop,
}

/// One thread's part of a run.
struct Worker {
    shared: Arc<Shared>,
    profile: Rc<Profile>,
    secure: Arc<rustls::ClientConfig>,
    tally: RefCell<Tally>,
    scratch: RefCell<Vec<u8>>,
    returned: RefCell<Vec<u64>>,
    live: Cell<usize>,
}

impl Feed for Worker {
    fn claim(&self) -> Option<(u64, Mono)> {
        if self.ended() {
            return None;
        }
        let options = &self.shared.options;
        let number = match self.returned.borrow_mut().pop() {
            Some(n) => n,
            None => self.shared.next.fetch_add(1, Ordering::Relaxed),
        };
        if options.messages.is_some_and(|m| number >= m) {
            return None;
        }
        let due = options.rate.map_or(Mono(0), |r| Mono((number as f64 / r * 1e9) as u64));
        Some((number, due))
    }

    fn give_back(&self, number: u64) {
        self.returned.borrow_mut().push(number);
    }

    fn ended(&self) -> bool {
        let over = |d: Duration| u128::from(self.shared.clock.now().0) >= d.as_nanos();
        self.shared.stop.is_set() || self.shared.options.duration.is_some_and(over)
    }
}

impl Worker {
    /// Whether there is no message left to claim.
    fn exhausted(&self) -> bool {
        let next = self.shared.next.load(Ordering::Relaxed);
        self.ended()
            || (self.returned.borrow().is_empty() && self.shared.options.messages.is_some_and(|m| next >= m))
    }

    /// Whether sessions are still to be held open.
    fn holding(&self) -> bool {
        !self.ended() && self.shared.clock.now() < self.profile.hold_until
    }
}

fn thread_main(
    shared: Arc<Shared>,
    thread: usize,
    threads: usize,
    ledger: Option<Ledger>,
) -> io::Result<(Tally, Duration)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let worker = Rc::new(Worker {
        profile: Rc::new(profile(&shared)),
        secure: secure::rules(shared.options.tls_resume)?,
        tally: RefCell::new(Tally { ledger, ..Tally::default() }),
        scratch: RefCell::new(vec![0; SCRATCH]),
        returned: RefCell::new(Vec::new()),
        live: Cell::new(0),
        shared,
    });
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, work(&worker, thread, threads))?;
    drop(local);
    let mut tally = worker.tally.take();
    if let Some(mut ledger) = tally.ledger.take() {
        ledger.flush()?;
    }
    Ok((tally, thread_cpu().unwrap_or_default()))
}

/// Runs this thread's connections and writes the ledger out every 100 ms.
async fn work(worker: &Rc<Worker>, thread: usize, threads: usize) -> io::Result<()> {
    for index in (thread..worker.shared.options.connections).step_by(threads) {
        worker.live.set(worker.live.get() + 1);
        tokio::task::spawn_local(connection::run(Rc::clone(worker), index));
    }
    let mut last_flush = worker.shared.clock.now();
    while worker.live.get() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = worker.shared.clock.now();
        if now.since(last_flush) >= Duration::from_millis(100) {
            last_flush = now;
            if let Some(ledger) = &mut worker.tally.borrow_mut().ledger {
                ledger.flush()?;
            }
        }
    }
    Ok(())
}

/// AUTH PLAIN (RFC 4616).
fn plain(login: &str, password: &Secret) -> Secret {
    let message = [b"\0", login.as_bytes(), b"\0", password.expose()].concat();
    let message = Secret::new(message);
    Secret::new(format!("AUTH PLAIN {}", prepare::encode(message.expose())).into_bytes())
}

fn profile(shared: &Shared) -> Profile {
    let o = &shared.options;
    let now = date::text(Wall(unix_nanos() / 1_000_000)).escape_ascii().to_string();
    let hold = u64::try_from(o.hold.as_nanos()).unwrap_or(u64::MAX);
    Profile {
        run: shared.run.clone(),
        helo: o.helo.clone(),
        auth: o.auth.as_ref().map(|(login, password)| plain(login, password)),
        from: o.from.clone(),
        recipient: o.recipient.clone(),
        recipients: o.recipients,
        starttls: o.tls == Some(secure::Tls::Starttls),
        pipelining: o.pipelining,
        messages_per_session: o.messages_per_connection,
        hold_until: Mono(hold),
        template: Template::new(&shared.run, &o.from, &now, o.size, o.dot_lines),
    }
}

/// Eight hex digits that differ between runs.
fn new_run_id() -> String {
    let seed = unix_nanos() ^ (u64::from(std::process::id()) << 40);
    format!("{:08x}", super::digest::mix(seed) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_refused() {
        let good = Options::new(SocketAddr::from(([127, 0, 0, 1], 25)));
        assert!(good.check().is_ok());
        for bad in [
            Options { connections: 0, ..good.clone() },
            Options { recipients: 0, ..good.clone() },
            Options { messages: None, ..good.clone() },
            Options { from: "a@b>\r\nQUIT".into(), ..good.clone() },
            Options { to: SocketAddr::from(([192, 0, 2, 1], 25)), source_addresses: 1, ..good.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nobody_listens() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("bind");
        let mut options = Options::new(port);
        options.messages = Some(3);
        let report = run(&options, &Stop::default()).expect("run");
        assert_eq!((report.acknowledged, report.not_sent), (0, 3));
        assert_eq!(report.connect_errors.values().sum::<u64>(), 1);
        assert!(!report.complete());
    }
}

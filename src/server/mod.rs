//! L5: the composition root: configuration -> checks -> cores -> control thread. Reads top-down.
//!
//! Order matters: the data directory is locked and the ports are bound before privileges are
//! dropped; rings are made after. Nothing runs before everything is known to work; whatever fails
//! is told with an exit code after sysexits.h.

mod accounts;
mod control;
mod core;
mod guard;
pub mod names;
pub mod offline;
pub mod settings;
pub mod tables;

use crate::admin::rules::Book;
use crate::config::Config;
use crate::config::certificates::Keeper;
use crate::config::outgoing::{self, Outgoing};
use crate::config::reload::Reloader;
use crate::config::units::Cores;
use crate::events::{self, Events};
use crate::metrics;
use crate::queue::common::Commons;
use crate::queue::rules::Rule;
use crate::route::tables::Router;
use crate::runtime::privileges::User;
use crate::runtime::{self, checks, listen, privileges, uring};
use crate::storage::options::Poison;
use crate::tls::Certificates;
use accounts::Accounts;
use control::{Control, Line};
use core::{Health, Seed};
use guard::Guard;
use metrics_exporter_prometheus::PrometheusRecorder;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Why the server did not start, or how it failed.
#[derive(Debug)]
pub struct Failure {
    /// Exit code after sysexits.h.
    pub code: u8,
    /// What to tell the operator.
    pub text: String,
}

impl Failure {
    fn new(code: u8, text: impl fmt::Display) -> Self {
        Failure { code, text: text.to_string() }
    }
}

/// A server that runs.
pub struct Running {
    /// Where SMTP is served.
    pub smtp: Vec<SocketAddr>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    control: std::thread::JoinHandle<Result<(), Failure>>,
    cores: Vec<runtime::core::Running<()>>,
    events: (Events, std::thread::JoinHandle<()>),
    _lock: checks::DataDirLock,
}

impl Running {
    /// Waits until a signal stops the server, and until it has ended in order.
    pub fn wait(self) -> Result<(), Failure> {
        let Running { control, cores, events, stop, _lock, .. } = self;
        let result =
            control.join().unwrap_or_else(|_| Err(Failure::new(70, "the control thread has panicked")));
        drop(stop);
        cores.into_iter().for_each(runtime::core::Running::join);
        let (handle, thread) = events;
        handle.info("stopped", "all mail in hand is settled or on stable storage");
        // Tasks that a core had when it ended may still hold handles.
        handle.end();
        let _ = thread.join();
        result
    }

    /// Stops the server as SIGTERM does, and waits.
    pub fn stop(mut self) -> Result<(), Failure> {
        if let Some(stop) = self.stop.take() {
            // It may have been stopped by a signal already.
            let _ = stop.send(());
        }
        self.wait()
    }
}

/// Starts the server; returns when all cores serve.
pub fn start(config: Arc<Config>) -> Result<Running, Failure> {
    checks::kernel().map_err(refuse)?;
    checks::raise_limits().map_err(refuse)?;
    let reserved = Reserved::take(&config)?;
    checks::ring(&uring::Options::production()).map_err(refuse)?;
    let (reloader, router, warnings) =
        Reloader::start(config.clone()).map_err(|problems| Failure::new(78, problems))?;
    let status = Arc::<metrics::CertificateStatus>::default();
    let keeper = Keeper::start(config.clone(), status.clone(), uring::wall_now())
        .map_err(|problems| Failure::new(78, problems))?;
    let (keeper, of_certificates) = keeper.unzip();
    let (outgoing, of_outgoing) = outgoing::read(&config).map_err(|problems| Failure::new(78, problems))?;
    let of_files = of_certificates.iter().chain([&of_outgoing]).flat_map(|p| &p.0);
    for problem in warnings.0.iter().chain(of_files) {
        reserved.events.0.warn("configuration", problem.to_string());
    }
    let certificates = keeper.as_ref().map(Keeper::certificates);
    let Reserved { lock, cpus, smtp, sockets, metrics, admin, events } = reserved;
    let recorder = Arc::new(metrics::exporter());
    let accounts = Accounts::open(&config, cpus.len(), &events.0, uring::fill_random)?;
    let (accounts, users) = accounts.unzip();
    let book = Book::open(&config.data_dir).map_err(|e| Failure::new(74, e))?;
    let rules = book.rules(uring::wall_now());
    let (recording, users_of) = (recorder.clone(), accounts.clone());
    let first = First { router, rules, certificates, recorder: recording, accounts: users_of, outgoing };
    let (cores, lines) = start_cores(&config, &first, &cpus, sockets, &events.0)?;
    let (stop, stopped) = oneshot::channel();
    let metrics_address = metrics.as_ref().and_then(|s| s.local_addr().ok());
    let metrics_at = metrics_address.map_or(String::new(), |a| format!(", metrics on {a}"));
    let control = Control {
        lines,
        reloader,
        users: users.zip(accounts.map(|a| a.secret)),
        keeper,
        recorder: recorder.handle(),
        process: metrics::Process {
            started: uring::wall_now(),
            config_hash: config.hash,
            certificates: status,
        },
        events: events.0.clone(),
        grace: config.stop_grace,
        metrics,
        admin,
        book,
        stopped,
        started: format!("serving SMTP on {smtp:?} with {} cores{metrics_at}", cores.len()),
    };
    let control = std::thread::Builder::new()
        .name("control".into())
        .spawn(move || control::run(control))
        .map_err(|e| Failure::new(71, e))?;
    Ok(Running { smtp, metrics: metrics_address, stop: Some(stop), control, cores, events, _lock: lock })
}

/// What the cores begin with, of what is read again later.
struct First {
    router: Arc<Router>,
    rules: Vec<Rule>,
    certificates: Option<Certificates>,
    accounts: Option<Accounts>,
    outgoing: Outgoing,
    recorder: Arc<PrometheusRecorder>,
}

/// What is taken while the process still may: the data directory, ports, sockets, the log.
struct Reserved {
    lock: checks::DataDirLock,
    /// The CPU of each core, if it is to be tied to one.
    cpus: Vec<Option<usize>>,
    /// Where SMTP will be served.
    smtp: Vec<SocketAddr>,
    /// Those of each core.
    sockets: Vec<Vec<OwnedFd>>,
    metrics: Option<TcpListener>,
    admin: Option<UnixListener>,
    events: (Events, std::thread::JoinHandle<()>),
}

impl Reserved {
    /// Takes all of it, then drops privileges.
    fn take(config: &Config) -> Result<Self, Failure> {
        let user = user_to_become(config)?;
        let lock = checks::lock_data_dir(&config.data_dir, user.as_ref()).map_err(refuse)?;
        let weak = config.storage.durability == crate::config::raw::Durability::Weak;
        checks::file_system(&config.data_dir, weak).map_err(refuse)?;
        let cpus = plan_cores(config)?;
        let (smtp, sockets) = reserve(config, cpus.len())?;
        let metrics = config.metrics.map(control::bind_metrics).transpose()?;
        let admin =
            config.admin_socket.as_deref().map(|p| control::bind_admin(p, user.as_ref())).transpose()?;
        let events = events(config)?;
        match &user {
            Some(user) => privileges::drop_to(user).map_err(|e| Failure::new(e.exit_code(), e))?,
            None if privileges::is_root() => events
                .0
                .warn("root", "running as root: make a user \"ringpost\", or name another with server.user"),
            None => {}
        }
        Ok(Reserved { lock, cpus, smtp, sockets, metrics, admin, events })
    }
}

/// Only root can become somebody else; started as anybody else, the service manager has chosen.
fn user_to_become(config: &Config) -> Result<Option<User>, Failure> {
    match &config.user {
        Some(name) if privileges::is_root() => match privileges::user(name) {
            Ok(user) => Ok(Some(user)),
            // The default need not exist; a name that was written must.
            Err(_) if !config.user_written => Ok(None),
            Err(e) => Err(Failure::new(e.exit_code(), e)),
        },
        _ => Ok(None),
    }
}

/// Starts a core for each CPU planned, and waits until all serve.
fn start_cores(
    config: &Arc<Config>,
    first: &First,
    cpus: &[Option<usize>],
    sockets: Vec<Vec<OwnedFd>>,
    events: &Events,
) -> Result<(Vec<runtime::core::Running<()>>, Vec<Line>), Failure> {
    let guard = Guard::new(config, uring::random_u64);
    let (poison, commons) = (Poison::default(), Arc::<Commons>::default());
    let (mut running, mut lines, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for (number, (&cpu, sockets)) in cpus.iter().zip(sockets).enumerate() {
        let (to_core, notes) = runtime::cross::channel(256).map_err(|e| Failure::new(71, e))?;
        let (started, start) = oneshot::channel();
        let health = Arc::new(Health::default());
        let seed = Seed {
            number: number as u16,
            cores: cpus.len(),
            config: config.clone(),
            router: first.router.clone(),
            certificates: first.certificates.clone(),
            guard: guard.clone(),
            accounts: first.accounts.clone(),
            commons: commons.clone(),
            rules: first.rules.clone(),
            outgoing: first.outgoing.clone(),
            poison: poison.clone(),
            metrics: metrics::Core::new(&*first.recorder, number),
            recorder: first.recorder.clone(),
            sockets,
            notes,
            health: health.clone(),
            events: events.clone(),
            started,
        };
        let name = format!("mta-{number}");
        let options = runtime::core::Options { name, cpu, ring: uring::Options::production() };
        let core = runtime::core::start(options, move |rt| core::run(rt, seed))
            .map_err(|e| refuse(checks::ring_error(e)))?;
        if let Some(Err(e)) = core.pinned() {
            events.warn("not_pinned", format!("core {number} floats: {e}"));
        }
        running.push(core);
        lines.push(Line { to_core, health });
        starts.push(start);
    }
    for start in starts {
        match start.blocking_recv() {
            Ok(Ok(())) => {}
            Ok(Err(text)) => return Err(Failure::new(71, text)),
            Err(_) => return Err(Failure::new(70, "a core ended while it started")),
        }
    }
    Ok((running, lines))
}

fn refuse(e: checks::StartError) -> Failure {
    Failure::new(e.exit_code(), e)
}

/// The CPU of each core, if it is to be tied to one.
fn plan_cores(config: &Config) -> Result<Vec<Option<usize>>, Failure> {
    let usable = runtime::core::usable_cpus().map_err(|e| Failure::new(71, e))?;
    let pin = match config.pin {
        crate::config::raw::Pin::Auto => runtime::core::Pin::Auto,
        crate::config::raw::Pin::On => runtime::core::Pin::On,
        crate::config::raw::Pin::Off => runtime::core::Pin::Off,
    };
    let pinned = pin.applies(usable.len());
    let wanted = match &config.mta_cores {
        // Half of the usable cores; the others are for mailboxes.
        Cores::Auto => usable.len().div_ceil(2),
        Cores::Count(n) => *n as usize,
        Cores::List(list) => {
            let all = list.iter().map(|&cpu| cpu as usize);
            if let Some(cpu) = all.clone().find(|cpu| !usable.contains(cpu)) {
                let text = format!("cores.mta: CPU {cpu} is not one this process may use ({usable:?})");
                return Err(Failure::new(78, text));
            }
            return Ok(all.map(Some).collect());
        }
    };
    Ok((0..wanted.max(1)).map(|n| pinned.then(|| usable[n % usable.len()])).collect())
}

/// Binds all addresses; a list of sockets for each core.
fn reserve(config: &Config, cores: usize) -> Result<(Vec<SocketAddr>, Vec<Vec<OwnedFd>>), Failure> {
    let mut bound = Vec::new();
    let mut sockets: Vec<Vec<OwnedFd>> = (0..cores).map(|_| Vec::new()).collect();
    for address in config.listeners.iter().flat_map(|l| &l.addresses) {
        let reserved = listen::reserve(*address, cores).map_err(|e| Failure::new(e.exit_code(), e))?;
        bound.push(listen::address(&reserved[0]).map_err(|e| Failure::new(71, e))?);
        for (socket, core) in reserved.into_iter().zip(&mut sockets) {
            core.push(socket);
        }
    }
    Ok((bound, sockets))
}

fn events(config: &Config) -> Result<(Events, std::thread::JoinHandle<()>), Failure> {
    use crate::config::resolve::EventTarget;
    let (out, journald): (Box<dyn std::io::Write + Send>, bool) = match &config.event_target {
        EventTarget::Stderr => (Box::new(std::io::stderr()), false),
        EventTarget::Journald => (Box::new(std::io::stderr()), true),
        EventTarget::File(path) => (control::open_log(path)?, false),
    };
    let format = match config.event_format {
        _ if journald => events::Format::Journald,
        crate::config::raw::EventFormat::Json => events::Format::Json,
        crate::config::raw::EventFormat::Postfix => events::Format::Text,
    };
    Events::start(out, format, uring::wall_now).map_err(|e| Failure::new(71, e))
}

//! L5: the composition root: configuration -> checks -> cores -> control thread. Reads top-down.
//!
//! Order matters: the data directory is locked and the ports are bound before privileges are
//! dropped; rings are made after. Nothing runs before everything is known to work; whatever fails
//! is told with an exit code after sysexits.h.

pub mod access;
mod accounts;
mod control;
mod core;
mod greylist;
mod guard;
mod mail_log;
pub mod names;
pub mod offline;
mod reload;
pub mod residents;
pub mod settings;
pub mod tables;
mod watchdog;

use crate::admin::holds::Holds;
use crate::admin::lockout::Lockout;
use crate::admin::rules::Book;
use crate::admin::token::Gate;
use crate::authenticity::aside;
use crate::authenticity::keys::Signers;
use crate::config::certificates::Keeper;
use crate::config::outgoing::{self, Outgoing};
use crate::config::reload::Reloader;
use crate::config::resolve::Listener;
use crate::config::signing;
use crate::config::units::Cores;
use crate::config::{Config, Problems};
use crate::events::{self, Events};
use crate::metrics::{self, destinations::Registry};
use crate::policy::greylist::Greylist;
use crate::queue::common::Commons;
use crate::queue::rules::Rule;
use crate::route::tables::Router;
use crate::runtime::privileges::User;
use crate::runtime::{self, checks, listen, privileges, uring};
use crate::storage::options::Poison;
use crate::tls::Certificates;
use accounts::Accounts;
use control::{Control, Doors, Kept, Line};
use core::{Health, Seed};
use guard::Guard;
use metrics_exporter_prometheus::PrometheusRecorder;
use std::fmt;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
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
    greylist: greylist::Keeping,
    _lock: checks::DataDirLock,
}

impl Running {
    /// Waits until a signal stops the server, and until it has ended in order.
    pub fn wait(self) -> Result<(), Failure> {
        let Running { control, cores, events, stop, greylist, _lock, .. } = self;
        let result =
            control.join().unwrap_or_else(|_| Err(Failure::new(70, "the control thread has panicked")));
        drop(stop);
        cores.into_iter().for_each(runtime::core::Running::join);
        drop(greylist);
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
    let status = Arc::<metrics::CertificateStatus>::default();
    let files = Files::read(&config, &status, &reserved.events.0);
    let Files { reloader, router, keeper, outgoing, signing } =
        files.map_err(|problems| Failure::new(78, problems))?;
    let certificates = keeper.as_ref().map(Keeper::certificates);
    let Reserved { lock, places, smtp, sockets, access, metrics, admin, events } = reserved;
    let recorder = Arc::new(metrics::exporter());
    let (accounts, users) = Accounts::open(&config, places.count(), &events.0, uring::fill_random)?.unzip();
    let kept = of_operators(&config, accounts.as_ref(), &events.0)?;
    let (greylist, greylist_kept) =
        greylist::open(&config, uring::random_u64, &events.0).map_err(|e| Failure::new(71, e))?;
    let rules = kept.book.rules(uring::wall_now());
    let (recording, users_of) = (recorder.clone(), accounts.clone());
    let destinations = Registry::default();
    let first = First {
        router,
        rules,
        certificates,
        recorder: recording,
        accounts: users_of,
        outgoing,
        signers: signing.as_ref().and_then(signing::Watch::signers),
        sealer: signing.as_ref().and_then(signing::Watch::sealer),
        aside: threads_aside(&config, signing.is_some())?,
        destinations,
        greylist,
    };
    let Access { at: access_at, sockets: access_sockets } = access;
    let started = start_cores(&config, &first, &places, (sockets, access_sockets), &events.0)?;
    let Started { cores, lines, access_lines } = started;
    let (stop, stopped) = oneshot::channel();
    let metrics_address = metrics.as_ref().and_then(|s| s.local_addr().ok());
    let admin_address = admin.tcp.as_ref().and_then(|(s, _)| s.local_addr().ok());
    let started = told(&smtp, &access_at, &places, metrics_address, admin_address);
    let control = Control {
        lines,
        access: access_lines,
        reloader,
        users: users.zip(accounts.map(|a| a.secret)),
        keeper,
        signing,
        recorder: recorder.handle(),
        process: metrics::Process {
            started: uring::wall_now(),
            config_hash: config.hash,
            certificates: status,
            destinations: first.destinations,
            reserve: config.storage.free_min.0,
        },
        data_dir: config.data_dir.clone(),
        events: events.0.clone(),
        grace: config.stop_grace,
        metrics,
        admin,
        kept,
        stopped,
        started,
    };
    let control = std::thread::Builder::new()
        .name("control".into())
        .spawn(move || control::run(control))
        .map_err(|e| Failure::new(71, e))?;
    let (stop, greylist) = (Some(stop), greylist_kept);
    Ok(Running { smtp, metrics: metrics_address, stop, control, cores, events, greylist, _lock: lock })
}

/// What operators have said in earlier runs. From here on the users know who may not log in.
fn of_operators(config: &Config, accounts: Option<&Accounts>, events: &Events) -> Result<Kept, Failure> {
    let failed = |e| Failure::new(74, e);
    let book = Book::open(&config.data_dir).map_err(failed)?;
    let (holds, bad) = Holds::open(&config.data_dir).map_err(failed)?;
    for path in bad {
        let text = format!("{} cannot be read: this hold neither ends nor can be undone", path.display());
        events.alarm("hold_unreadable", text);
    }
    let lockout = Lockout::open(&config.data_dir).map_err(failed)?;
    accounts.iter().for_each(|accounts| lockout.adopt(accounts.users()));
    Ok(Kept { book, holds, lockout })
}

/// Threads for signatures that take long, one for every two CPUs. Another key may be such a one any time, and
/// so may the next message be.
fn threads_aside(config: &Config, signs: bool) -> Result<Option<aside::Threads>, Failure> {
    let verifies = config.mail_listeners().any(|l| config.authenticity.at(l).is_some());
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = (signs || verifies).then(|| aside::Threads::start(cpus / 2));
    threads.transpose().map_err(|e| Failure::new(71, e))
}

/// What the files say that the configuration names.
struct Files {
    reloader: Reloader,
    router: Arc<Router>,
    keeper: Option<Keeper>,
    outgoing: Outgoing,
    signing: Option<signing::Watch>,
}

impl Files {
    /// Reads all of them; what is not quite right is told.
    fn read(
        config: &Arc<Config>,
        status: &Arc<metrics::CertificateStatus>,
        events: &Events,
    ) -> Result<Self, Problems> {
        let (reloader, router, of_maps) = Reloader::start(config.clone())?;
        let keeper = Keeper::start(config.clone(), status.clone(), uring::wall_now())?;
        let (keeper, of_certificates) = keeper.unzip();
        let (outgoing, of_outgoing) = outgoing::read(config)?;
        let (signing, of_keys) = signing::Watch::start(config)?.unzip();
        let all = [Some(of_maps), of_certificates, Some(of_outgoing), of_keys];
        for problem in all.iter().flatten().flat_map(|p| &p.0) {
            events.warn("configuration", problem.to_string());
        }
        Ok(Files { reloader, router, keeper, outgoing, signing })
    }
}

/// What is said once all serve.
fn told(
    smtp: &[SocketAddr],
    access: &[SocketAddr],
    places: &Places,
    metrics: Option<SocketAddr>,
    admin: Option<SocketAddr>,
) -> String {
    let metrics_at = metrics.map_or(String::new(), |a| format!(", metrics on {a}"));
    let admin_at = admin.map_or(String::new(), |a| format!(", operators on {a}"));
    let mailboxes = match (places.access.len(), access) {
        (0, _) => String::new(),
        (n, []) => format!(", mailboxes with {n} cores"),
        (n, at) => format!(", mailboxes on {at:?} with {n} cores"),
    };
    format!("serving SMTP on {smtp:?} with {} cores{mailboxes}{metrics_at}{admin_at}", places.mail.len())
}

/// What the cores begin with, of what is read again later.
struct First {
    router: Arc<Router>,
    rules: Vec<Rule>,
    certificates: Option<Certificates>,
    accounts: Option<Accounts>,
    outgoing: Outgoing,
    signers: Option<Signers>,
    sealer: Option<Signers>,
    aside: Option<aside::Threads>,
    recorder: Arc<PrometheusRecorder>,
    destinations: Registry,
    greylist: Option<Greylist>,
}

/// The CPU of each core, if it is to be tied to one.
struct Places {
    /// Of mail cores.
    mail: Vec<Option<usize>>,
    /// Of access cores; none without mailboxes.
    access: Vec<Option<usize>>,
}

impl Places {
    fn count(&self) -> usize {
        self.mail.len() + self.access.len()
    }
}

/// Where mailboxes will be served.
struct Access {
    at: Vec<SocketAddr>,
    /// Those of each access core.
    sockets: Vec<Vec<OwnedFd>>,
}

/// All cores, which serve.
struct Started {
    cores: Vec<runtime::core::Running<()>>,
    lines: Vec<Line>,
    access_lines: Vec<Line>,
}

/// What is taken while the process still may: the data directory, ports, sockets, the log.
struct Reserved {
    lock: checks::DataDirLock,
    places: Places,
    /// Where SMTP will be served.
    smtp: Vec<SocketAddr>,
    /// Those of each mail core.
    sockets: Vec<Vec<OwnedFd>>,
    access: Access,
    metrics: Option<TcpListener>,
    admin: Doors,
    events: (Events, std::thread::JoinHandle<()>),
}

impl Reserved {
    /// Takes all of it, then drops privileges.
    fn take(config: &Config) -> Result<Self, Failure> {
        let user = user_to_become(config)?;
        let lock = checks::lock_data_dir(&config.data_dir, user.as_ref()).map_err(refuse)?;
        let weak = config.storage.durability == crate::config::raw::Durability::Weak;
        checks::file_system(&config.data_dir, weak).map_err(refuse)?;
        let places = plan_cores(config)?;
        let (smtp, sockets) = reserve(config.mail_listeners(), places.mail.len())?;
        let (at, of_access) = reserve(config.access_listeners(), places.access.len())?;
        let metrics = config.metrics.map(|at| control::bind_tcp(at, "metrics.address")).transpose()?;
        let admin =
            config.admin.socket.as_deref().map(|p| control::bind_admin(p, user.as_ref())).transpose()?;
        let tcp = config.admin.tcp.as_ref().map(|(address, _)| *address);
        let admin_tcp = tcp.map(|at| control::bind_tcp(at, "admin.address")).transpose()?;
        let events = events(config)?;
        match &user {
            Some(user) => privileges::drop_to(user).map_err(|e| Failure::new(e.exit_code(), e))?,
            None if privileges::is_root() => events
                .0
                .warn("root", "running as root: make a user \"ringpost\", or name another with server.user"),
            None => {}
        }
        let access = Access { at, sockets: of_access };
        let gate = config.admin.tcp.as_ref().map(|(_, file)| Gate::open(file)).transpose();
        let gate = gate.map_err(|e| Failure::new(78, format!("admin.token_file: {e}")))?;
        let admin = Doors { socket: admin, tcp: admin_tcp.zip(gate) };
        Ok(Reserved { lock, places, smtp, sockets, access, metrics, admin, events })
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

/// Starts a core for each place, and waits until all serve.
fn start_cores(
    config: &Arc<Config>,
    first: &First,
    places: &Places,
    (sockets, access_sockets): (Vec<Vec<OwnedFd>>, Vec<Vec<OwnedFd>>),
    events: &Events,
) -> Result<Started, Failure> {
    let guard = Guard::new(config, uring::random_u64);
    let (poison, commons) = (Poison::default(), Arc::<Commons>::default());
    let mut births = Births::default();
    let access = access::start::Setup {
        config,
        first,
        guard: &guard,
        poison: &poison,
        places: &places.access,
        mail: places.mail.len(),
        events,
    };
    let (access_lines, posts) = access::start::start(&access, access_sockets, &mut births)?;
    let mut posts = posts.into_iter();
    let mut lines = Vec::new();
    for (number, (&cpu, sockets)) in places.mail.iter().zip(sockets).enumerate() {
        let (to_core, notes) = runtime::cross::channel(256).map_err(|e| Failure::new(71, e))?;
        let (started, start) = oneshot::channel();
        let health = Arc::new(Health::default());
        let seed = Seed {
            number: number as u16,
            cores: places.mail.len(),
            config: config.clone(),
            router: first.router.clone(),
            certificates: first.certificates.clone(),
            guard: guard.clone(),
            accounts: first.accounts.clone(),
            commons: commons.clone(),
            rules: first.rules.clone(),
            outgoing: first.outgoing.clone(),
            signers: first.signers.clone(),
            sealer: first.sealer.clone(),
            aside: first.aside.clone(),
            greylist: first.greylist.clone(),
            poison: poison.clone(),
            metrics: metrics::Core::new(&*first.recorder, number).counted_in(&first.destinations),
            recorder: first.recorder.clone(),
            destinations: first.destinations.clone(),
            post: posts.next(),
            sockets,
            notes,
            health: health.clone(),
            events: events.clone(),
            started,
        };
        births.core(format!("mta-{number}"), number, cpu, events, move |rt| core::run(rt, seed))?;
        births.starts.push(start);
        lines.push(Line { to_core, health });
    }
    Ok(Started { cores: births.wait()?, lines, access_lines })
}

/// Cores that are being started.
#[derive(Default)]
struct Births {
    running: Vec<runtime::core::Running<()>>,
    starts: Vec<oneshot::Receiver<Result<(), String>>>,
}

impl Births {
    /// Starts the core `number` (among all), which runs `main`.
    fn core<F: Future<Output = ()>>(
        &mut self,
        name: String,
        number: usize,
        cpu: Option<usize>,
        events: &Events,
        main: impl FnOnce(uring::Uring) -> F + Send + 'static,
    ) -> Result<(), Failure> {
        let options = runtime::core::Options { name, cpu, ring: uring::Options::production() };
        let core = runtime::core::start(options, main).map_err(|e| refuse(checks::ring_error(e)))?;
        if let Some(Err(e)) = core.pinned() {
            events.warn("not_pinned", format!("core {number} floats: {e}"));
        }
        self.running.push(core);
        Ok(())
    }

    /// Waits until all serve.
    fn wait(self) -> Result<Vec<runtime::core::Running<()>>, Failure> {
        for start in self.starts {
            match start.blocking_recv() {
                Ok(Ok(())) => {}
                Ok(Err(text)) => return Err(Failure::new(71, text)),
                Err(_) => return Err(Failure::new(70, "a core ended while it started")),
            }
        }
        Ok(self.running)
    }
}

fn refuse(e: checks::StartError) -> Failure {
    Failure::new(e.exit_code(), e)
}

/// The CPU of each core, if it is to be tied to one. Mail cores come first; a CPU that is named for both
/// roles has a thread of each.
fn plan_cores(config: &Config) -> Result<Places, Failure> {
    let usable = runtime::core::usable_cpus().map_err(|e| Failure::new(71, e))?;
    let pin = match config.pin {
        crate::config::raw::Pin::Auto => runtime::core::Pin::Auto,
        crate::config::raw::Pin::On => runtime::core::Pin::On,
        crate::config::raw::Pin::Off => runtime::core::Pin::Off,
    };
    let pinned = pin.applies(usable.len());
    let place = |key: &str, cores: &Cores, auto: usize, before: usize| {
        let wanted = match cores {
            Cores::Auto => auto.max(1),
            Cores::Count(n) => *n as usize,
            Cores::List(list) => {
                let all = list.iter().map(|&cpu| cpu as usize);
                if let Some(cpu) = all.clone().find(|cpu| !usable.contains(cpu)) {
                    let text = format!("{key}: CPU {cpu} is not one this process may use ({usable:?})");
                    return Err(Failure::new(78, text));
                }
                return Ok(all.map(Some).collect());
            }
        };
        Ok((before..before + wanted).map(|n| pinned.then(|| usable[n % usable.len()])).collect())
    };
    // Half of the usable cores; the others are for mailboxes.
    let mail: Vec<_> = place("cores.mta", &config.mta_cores, usable.len().div_ceil(2), 0)?;
    let access = match config.has_mailboxes() {
        true => {
            let rest = usable.len().saturating_sub(mail.len());
            place("cores.access", &config.access_cores, rest, mail.len())?
        }
        false => Vec::new(),
    };
    Ok(Places { mail, access })
}

/// Binds all addresses of these listeners; a list of sockets for each core.
fn reserve<'a>(
    listeners: impl Iterator<Item = &'a Listener>,
    cores: usize,
) -> Result<(Vec<SocketAddr>, Vec<Vec<OwnedFd>>), Failure> {
    let mut bound = Vec::new();
    let mut sockets: Vec<Vec<OwnedFd>> = (0..cores).map(|_| Vec::new()).collect();
    let mut deal = |reserved: Vec<OwnedFd>| {
        reserved.into_iter().zip(&mut sockets).for_each(|(socket, core)| core.push(socket));
    };
    for listener in listeners {
        for address in &listener.addresses {
            let reserved = listen::reserve(*address, cores).map_err(|e| Failure::new(e.exit_code(), e))?;
            bound.extend(reserved.first().map(listen::address).transpose().map_err(|e| Failure::new(71, e))?);
            deal(reserved);
        }
        for path in &listener.paths {
            let failed = |e| Failure::new(71, format!("cannot listen on {}: {e}", path.display()));
            deal(listen::reserve_path(path, cores).map_err(failed)?);
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

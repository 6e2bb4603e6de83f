//! The control thread: signals, metrics, admin socket, reload, and the order of the end.
//!
//! Plain tokio on a thread of its own; no byte of mail passes here. A reload that fails keeps the
//! old tables and says so. The first stop request gives the grace time; a second ends at once.

use super::Failure;
use super::core::{Health, Note, State};
use super::reload::{Asker, Files, Reload};
use super::watchdog;
use crate::access::roll::{Answer, Question};
use crate::admin::{
    api, control::Queues, holds::Holds, http, lockout::Lockout, office::Office, rules::Book, token::Gate,
    verbs::Previews,
};
use crate::config::certificates::Keeper;
use crate::config::reload::Reloader;
use crate::config::signing;
use crate::config::users::Watch;
use crate::events::Events;
use crate::events::file::LogFile;
use crate::metrics::{Facts, Process, cores};
use crate::queue::control::{Request, Response};
use crate::runtime::cross::{SendError, Sender};
use crate::runtime::notify::Notify;
use crate::runtime::privileges::User;
use crate::runtime::signals::{self, Signals};
use crate::runtime::uring;
use metrics_exporter_prometheus::PrometheusHandle;
use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How often map files and certificates are looked at.
const RELOAD: Duration = Duration::from_secs(2);
/// Beyond the grace time: for what is on its way to the disk.
const LAST_RESORT: Duration = Duration::from_secs(10);

/// The way to a core.
pub struct Line {
    /// Notes.
    pub to_core: Sender<Note>,
    /// How it is.
    pub health: Arc<Health>,
}

/// What operators have said, kept over restarts.
pub struct Kept {
    /// Destinations that nothing is sent to.
    pub book: Book,
    /// What is held by a condition.
    pub holds: Holds,
    /// Who may not log in.
    pub lockout: Lockout,
}

impl Kept {
    /// With what the conversations of operators need besides.
    fn office(self, state: &http::HttpState, reload: mpsc::Sender<Asker>, events: Events) -> Rc<Office> {
        let Kept { book, holds, lockout } = self;
        Rc::new(Office {
            book,
            holds,
            lockout: Rc::new(lockout),
            metrics: state.metrics.clone(),
            ready: state.ready.clone(),
            reload,
            previews: Previews::default(),
            events,
            busy: Cell::new(0),
            traces: Cell::new(0),
        })
    }
}

/// What the control thread works with.
pub struct Control {
    /// One for each mail core.
    pub lines: Vec<Line>,
    /// One for each access core.
    pub access: Vec<Line>,
    /// Map files.
    pub reloader: Reloader,
    /// The password file, and the secret that its users are kept with.
    pub users: Option<(Watch, [u8; 32])>,
    /// Files of certificates.
    pub keeper: Option<Keeper>,
    /// Files of keys that sign.
    pub signing: Option<signing::Watch>,
    /// Series of the cores.
    pub recorder: PrometheusHandle,
    /// Series of the process.
    pub process: Process,
    /// Whose file system is looked at.
    pub data_dir: PathBuf,
    /// Notices.
    pub events: Events,
    /// Time for an orderly end.
    pub grace: Duration,
    /// Bound.
    pub metrics: Option<TcpListener>,
    /// Bound.
    pub admin: Doors,
    /// What operators have said in earlier runs.
    pub kept: Kept,
    /// Completed by [`super::Running::stop`].
    pub stopped: oneshot::Receiver<()>,
    /// Said once signals stop the server in order: who waits for it may send one.
    pub started: String,
}

/// Where operators are heard.
pub struct Doors {
    /// Bound.
    pub socket: Option<UnixListener>,
    /// Bound, and what must be shown there.
    pub tcp: Option<(TcpListener, Gate)>,
}

/// Binds the address of this key.
pub fn bind_tcp(address: SocketAddr, key: &str) -> Result<TcpListener, Failure> {
    let failed = |e: io::Error| Failure::new(71, format!("{key}: cannot listen on {address}: {e}"));
    #[allow(clippy::disallowed_methods, reason = "the control thread's own listener")]
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Binds the admin socket, in place of one that a dead server left.
pub fn bind_admin(path: &Path, user: Option<&User>) -> Result<UnixListener, Failure> {
    let failed =
        |e: io::Error| Failure::new(71, format!("admin.socket: cannot listen on {}: {e}", path.display()));
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
        if let Some(user) = user {
            std::os::unix::fs::chown(parent, Some(user.uid), Some(user.gid)).map_err(failed)?;
        }
    }
    // The data directory is locked by us: whoever made this socket is gone, or serves other data.
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(failed(io::ErrorKind::AddrInUse.into()));
    }
    #[allow(clippy::disallowed_methods, reason = "a stale socket of the control thread")]
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    if let Some(user) = user {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).map_err(failed)?;
    }
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Opens the file of the events.
pub fn open_log(path: &Path) -> Result<Box<dyn Write + Send>, Failure> {
    match LogFile::open(path) {
        Ok(file) => Ok(Box::new(file)),
        Err(e) => Err(Failure::new(73, format!("events.target: cannot write {}: {e}", path.display()))),
    }
}

/// Runs until the server is stopped.
pub fn run(control: Control) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(71, format!("control thread: {e}")))?;
    let local = tokio::task::LocalSet::new();
    let result = local.block_on(&runtime, serve(control));
    // Look-ups that hang must not hold up the end.
    runtime.shutdown_background();
    result
}

/// The cores, for the tasks of the control thread. Mail cores come first.
pub(super) struct Cores {
    lines: RefCell<Vec<Line>>,
    /// How many of them are mail cores.
    mail: usize,
}

impl Cores {
    pub(super) fn tell(&self, core: usize, note: Note) -> bool {
        self.lines.borrow_mut()[core].to_core.try_send(note).is_ok()
    }

    /// Of all kinds.
    pub(super) fn all(&self) -> usize {
        self.lines.borrow().len()
    }

    /// Tells a core to stop, for as long as it lives and has no room for another note.
    async fn stop(&self, core: usize, grace: Duration) {
        loop {
            let sent = self.lines.borrow_mut()[core].to_core.try_send(Note::Stop(grace));
            if !matches!(sent, Err(SendError::Full(_))) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Queues for Cores {
    fn count(&self) -> usize {
        self.mail
    }

    async fn ask(&self, queue: usize, request: Request) -> Option<Response> {
        let (answer, answered) = oneshot::channel();
        if !self.tell(queue, Note::Control(request, answer)) {
            return None;
        }
        answered.await.ok()
    }

    fn cores(&self) -> usize {
        self.all()
    }

    async fn ask_roll(&self, core: usize, question: Question) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        if !self.tell(core, Note::Roll(question, answer)) {
            return None;
        }
        answered.await.ok()
    }

    async fn ask_backup(&self, core: usize, dir: PathBuf) -> Option<Vec<(u16, Result<u64, String>)>> {
        let (answer, answered) = oneshot::channel();
        if !self.tell(core, Note::Backup(dir, answer)) {
            return None;
        }
        answered.await.ok()
    }

    fn set_draining(&self, on: bool) {
        self.lines.borrow().iter().for_each(|line| line.health.set_draining(on));
    }

    fn is_draining(&self) -> bool {
        self.lines.borrow().iter().any(|line| line.health.is_draining())
    }
}

async fn serve(control: Control) -> Result<(), Failure> {
    let Control { lines, reloader, users, keeper, recorder, process, events, grace, .. } = control;
    let Control { signing, access, metrics, admin, kept, mut stopped, started, data_dir, .. } = control;
    let failed = |e: io::Error| Failure::new(71, format!("control thread: {e}"));
    let mut signals = Signals::take().map_err(failed)?;
    let mail = lines.len();
    let lines: Vec<Line> = lines.into_iter().chain(access).collect();
    let health: Vec<_> = lines.iter().map(|l| l.health.clone()).collect();
    let manager = Notify::from_env().map(Rc::new);
    if let Some(manager) = &manager {
        manager.ready(&started);
        tokio::task::spawn_local(watchdog::run(manager.clone(), health.clone()));
    }
    events.info("started", started);
    let cores = Rc::new(Cores { lines: RefCell::new(lines), mail });
    let shown = Shown { health: health.clone(), mail, process, data_dir, events: events.clone() };
    let state = http_state(recorder, shown);
    let (reload, mut askers) = mpsc::channel(1);
    let office = kept.office(&state, reload, events.clone());
    let lockout = office.lockout.clone();
    if let Some(listener) = metrics {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        tokio::task::spawn_local(http::serve(listener, state, std::future::pending()));
    }
    tokio::task::spawn_local(office.clone().end_holds(cores.clone(), uring::wall_now));
    let gate = open(admin, &cores, &office).map_err(failed)?;
    let (telling, told) = (cores.clone(), events.clone());
    let files = Files { reloader, users, lockout, keeper, signing, gate };
    let mut reload = Reload::new(files, telling, told);
    let mut tick = tokio::time::interval(RELOAD);
    loop {
        let request = tokio::select! {
            request = signals.next() => request,
            _ = &mut stopped => signals::Request::Stop,
            _ = tick.tick() => {
                reload.look(None);
                continue;
            }
            Some(asker) = askers.recv() => {
                reload.look(Some(asker));
                continue;
            }
        };
        match request {
            signals::Request::Stop => break,
            signals::Request::Reload => {
                reload.look(None);
                let text = "maps, users and certificates are up to date; other keys need a restart";
                events.info("reload", text);
            }
            signals::Request::Report => report(&cores, &events),
        }
    }
    manager.iter().for_each(|m| m.stopping());
    events.info("stopping", format!("finishing what is in hand, at most {} s", grace.as_secs()));
    for core in 0..cores.all() {
        cores.stop(core, grace).await;
    }
    // The cores end by themselves and are joined by the main thread. A second request, or a core
    // that hangs in the disk, ends the process without them: what is not acknowledged is not promised.
    let why = tokio::select! {
        () = ended(&health) => return Ok(()),
        () = stop_again(&mut signals) => "asked to stop a second time",
        () = tokio::time::sleep(grace + LAST_RESORT) => "did not end within the grace time",
    };
    eprintln!("ringpost: {why}: ending now, a restart recovers");
    std::process::exit(75);
}

/// Hears operators from now on; those over TCP by this gate.
fn open(doors: Doors, cores: &Rc<Cores>, office: &Rc<Office>) -> io::Result<Option<Rc<Gate>>> {
    let desk = || api::Desk { queues: cores.clone(), office: office.clone() };
    if let Some(listener) = doors.socket {
        let listener = tokio::net::UnixListener::from_std(listener)?;
        tokio::task::spawn_local(api::serve_socket(listener, desk()));
    }
    let Some((listener, gate)) = doors.tcp else { return Ok(None) };
    let (listener, gate) = (tokio::net::TcpListener::from_std(listener)?, Rc::new(gate));
    tokio::task::spawn_local(api::serve_tcp(listener, gate.clone(), desk()));
    Ok(Some(gate))
}

/// Waits until all cores have ended in order.
async fn ended(health: &[Arc<Health>]) {
    while health.iter().any(|h| h.state() != State::Ended) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn stop_again(signals: &mut Signals) {
    while signals.next().await != signals::Request::Stop {}
}

fn report(cores: &Rc<Cores>, events: &Events) {
    for core in 0..cores.count() {
        let (cores, events) = (cores.clone(), events.clone());
        tokio::task::spawn_local(async move {
            let Some(Response::Stats(queues)) = cores.ask(core, Request::Stats).await else { return };
            for q in queues {
                let text =
                    format!("core {core}, log {:04}: {} messages, {} active", q.log, q.messages, q.active);
                events.info("report", text);
            }
        });
    }
}

/// What the pages for others are made of.
struct Shown {
    /// Of all cores; mail cores come first.
    health: Vec<Arc<Health>>,
    /// How many mail cores there are.
    mail: usize,
    process: Process,
    data_dir: PathBuf,
    events: Events,
}

impl Shown {
    fn facts(&self, ready: bool) -> Facts {
        let now = uring::mono_now();
        let core = |(number, health): (usize, &Arc<Health>)| {
            let access = number.checked_sub(self.mail);
            cores::Facts {
                number,
                role: if access.is_none() { "mta" } else { "access" },
                thread: access.map_or_else(|| format!("mta-{number}"), |n| format!("access-{n}")),
                state: health.state() as usize,
                beat_age: health.beat_age(now),
            }
        };
        Facts {
            proc: http::proc_self(),
            ready,
            events_dropped: self.events.dropped(),
            cores: self.health.iter().enumerate().map(core).collect(),
            disk: uring::disk::space(&self.data_dir).ok(),
        }
    }
}

fn http_state(recorder: PrometheusHandle, shown: Shown) -> http::HttpState {
    let upkeep = recorder.clone();
    let health = shown.health.clone();
    let ready = move || {
        for (n, core) in health.iter().enumerate() {
            if core.is_draining() {
                return Err(format!("core {n} takes no mail: an operator is emptying the server"));
            }
            let why = match core.state() {
                State::Ready => continue,
                State::Starting => "is starting",
                State::Full => "has no space for new mail",
                State::Poisoned => "had a write error: restart",
                State::Stopping | State::Ended => "is stopping",
            };
            return Err(format!("core {n} {why}"));
        }
        Ok(())
    };
    let ready = Arc::new(ready);
    let is_ready = ready.clone();
    http::HttpState {
        metrics: Arc::new(move || {
            let mut text = recorder.render();
            shown.process.render(&shown.facts(is_ready().is_ok()), &mut text);
            text
        }),
        upkeep: Arc::new(move || upkeep.run_upkeep()),
        ready,
    }
}

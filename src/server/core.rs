//! One mta core: opens its queue, serves its listeners, sends its mail, ends in order.
//!
//! Runs on the core's own thread and ring. An error of the start is told to the control thread; a
//! poisoned journal closes the listeners, raises the alarm, and waits to be restarted.

use super::settings;
use super::tables::Tables;
use crate::base::ids::LogNumber;
use crate::config::Config;
use crate::config::raw::Prefer;
use crate::delivery::agent::{self, Resolve, Resolved};
use crate::delivery::bounce;
use crate::events::{Events, Level};
use crate::intake::Intake;
use crate::metrics;
use crate::policy::sessions::Sessions;
use crate::queue::control::{Request, Response};
use crate::queue::desk::Desk;
use crate::queue::desk::loading::Loaded;
use crate::queue::desk::open::{Parts, Recovery};
use crate::queue::limits::Admission;
use crate::route::tables::Router;
use crate::runtime::cross::Receiver;
use crate::runtime::uring::Uring;
use crate::runtime::{Clock, Listener, Runtime, listen};
use crate::smtp::serve::{self, Context};
use crate::storage::options::Poison;
use std::future::Future;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a host name may take to be resolved.
const RESOLVE: Duration = Duration::from_secs(30);

/// Names of files in one event.
const NAMES_TOLD: usize = 5;

/// What the control thread tells a core.
pub enum Note {
    /// New tables.
    Router(Arc<Router>),
    /// A request of an operator, and where the answer goes.
    Control(Request, oneshot::Sender<Response>),
    /// Finish what is in hand within this time, and end.
    Stop(Duration),
}

/// What a core shows to others.
#[derive(Default)]
pub struct Health(AtomicU8);

/// Values of [`Health`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// The queue is being read back.
    Starting = 0,
    /// New mail is taken.
    Ready = 1,
    /// No space for new mail.
    Full = 2,
    /// A write has failed.
    Poisoned = 3,
    /// No new mail any more.
    Stopping = 4,
    /// Everything is closed.
    Ended = 5,
}

impl Health {
    fn set(&self, state: State) {
        self.0.store(state as u8, Ordering::Relaxed);
    }

    /// The state of the core.
    pub fn state(&self) -> State {
        match self.0.load(Ordering::Relaxed) {
            0 => State::Starting,
            1 => State::Ready,
            2 => State::Full,
            3 => State::Poisoned,
            4 => State::Stopping,
            _ => State::Ended,
        }
    }
}

/// What a core starts with.
pub struct Seed {
    /// Its number, which is also the number of its log.
    pub number: u16,
    /// How many there are.
    pub cores: usize,
    /// The configuration.
    pub config: Arc<Config>,
    /// The first tables.
    pub router: Arc<Router>,
    /// Session counters of all cores.
    pub sessions: Sessions,
    /// The poison of the data directory's file system.
    pub poison: Poison,
    /// Its series.
    pub metrics: metrics::Core,
    /// Its reserved sockets.
    pub sockets: Vec<OwnedFd>,
    /// From the control thread.
    pub notes: Receiver<Note>,
    /// For others to see.
    pub health: Arc<Health>,
    /// Alarms.
    pub events: Events,
    /// Told when the core serves, or why it cannot.
    pub started: oneshot::Sender<Result<(), String>>,
}

impl Seed {
    fn dir(&self) -> PathBuf {
        self.config.data_dir.join("queue").join(format!("{:04}", self.number))
    }

    fn say(&self, level: Level, name: &'static str, text: String) {
        self.events.send(level, name, text, Some(self.number));
    }
}

/// Runs the core until it is told to stop.
pub async fn run(rt: Uring, seed: Seed) {
    let panics = seed.metrics.session_panics.clone();
    rt.on_panic(move || panics.increment(1));
    let tables = Tables::new(seed.config.clone(), seed.router.clone(), seed.sessions.clone());
    let parts = Parts {
        rt: rt.clone(),
        storage: settings::storage(&seed.config),
        poison: seed.poison.clone(),
        log: LogNumber(seed.number),
        options: settings::desk(&seed.config, seed.cores),
        metrics: seed.metrics.clone(),
        routing: tables.clone(),
    };
    let dir = seed.dir();
    let desk = match Desk::open(&dir, parts).await {
        Ok((desk, recovery)) => {
            report(&seed, &recovery);
            desk
        }
        Err(e) => {
            // The control thread waits for it or has given up.
            let _ = seed.started.send(Err(format!("queue {}: {e}", dir.display())));
            return;
        }
    };
    bounce::start(&desk);
    agent::start(&desk, Rc::new(SystemResolver(seed.config.relay.prefer)), settings::agent(&seed.config));
    let options = settings::sessions(&seed.config, seed.cores);
    let ctx =
        Context::new(rt.clone(), Intake::new(desk.clone()), tables.clone(), seed.metrics.clone(), options);
    let mut listeners = Vec::new();
    for socket in &seed.sockets {
        let opened = listen::listen(socket).and_then(|()| rt.listener(socket.try_clone()?));
        match opened {
            Ok(listener) => listeners.push(Rc::new(listener)),
            Err(e) => {
                let _ = seed.started.send(Err(format!("cannot listen: {e}")));
                desk.close().await;
                return;
            }
        }
    }
    for listener in &listeners {
        rt.spawn(serve::accept(ctx.clone(), listener.clone()));
    }
    let Seed { notes, health, events, started, number, .. } = seed;
    health.set(State::Ready);
    let _ = started.send(Ok(()));
    rt.spawn(report_loaded(desk.clone(), events.clone(), number));
    rt.spawn(watch(rt.clone(), desk.clone(), health.clone(), listeners.clone(), events, number));
    let grace = obey(&rt, notes, &desk, &tables).await;
    health.set(State::Stopping);
    let until = rt.now().after(grace);
    listeners.iter().for_each(|l| l.close());
    ctx.stop();
    desk.stop();
    ctx.drained(until).await;
    desk.drained(until).await;
    desk.close().await;
    health.set(State::Ended);
}

/// Does what the control thread says, until it says stop; gives the time for that.
async fn obey(rt: &Uring, notes: Receiver<Note>, desk: &Desk<Uring>, tables: &Rc<Tables>) -> Duration {
    let mut notes = notes.on_ring();
    loop {
        match notes.recv().await {
            Some(Note::Router(router)) => {
                tables.set_router(router);
                desk.set_routing(tables.clone());
            }
            Some(Note::Control(request, answer)) => {
                let desk = desk.clone();
                rt.spawn(async move {
                    // The asker may have gone.
                    let _ = answer.send(desk.control(&request).await);
                });
            }
            Some(Note::Stop(grace)) => return grace,
            // The control thread has died; so do we, in order.
            None => return Duration::from_secs(5),
        }
    }
}

/// Watches the queue: closes the door for good after a failed write, and says how things stand.
async fn watch<L: Listener>(
    rt: Uring,
    desk: Desk<Uring>,
    health: Arc<Health>,
    listeners: Vec<Rc<L>>,
    events: Events,
    number: u16,
) {
    let mut full = false;
    loop {
        rt.sleep_until(rt.now().after(Duration::from_millis(100))).await;
        if health.state() == State::Stopping {
            return;
        }
        if desk.is_dead() {
            health.set(State::Poisoned);
            listeners.iter().for_each(|l| l.close());
            let text = "a write to the journal, the archive or the index failed: no mail is accepted and none \
                        is sent until a restart; look at the disk, then restart";
            events.send(Level::Alarm, "journal_poisoned", text.into(), Some(number));
            return;
        }
        let is_full = desk.admission() == Admission::Full;
        if is_full != full {
            full = is_full;
            let (level, text) = if full {
                (Level::Alarm, "no space for new mail: clients get 452; deliveries go on")
            } else {
                (Level::Info, "new mail is taken again")
            };
            health.set(if full { State::Full } else { State::Ready });
            events.send(level, "queue_full", text.into(), Some(number));
        }
    }
}

fn report(seed: &Seed, r: &Recovery) {
    let j = &r.journal;
    seed.say(
        Level::Info,
        "queue_opened",
        format!(
            "{} messages in the queue, {} recipients in doubt; {} segments, {} records read; \
             {} torn batch at the end",
            r.messages, r.in_doubt, j.segments, j.records, j.tears
        ),
    );
    if j.damage_count > 0 || j.set_aside > 0 || !r.malformed.is_empty() {
        let text = format!(
            "the journal is damaged: {} places, {} files set aside, {} records unreadable; first: {:?} {:?}",
            j.damage_count,
            j.set_aside,
            r.malformed.len(),
            j.damages.first(),
            r.malformed.first()
        );
        seed.say(Level::Alarm, "journal_damaged", text);
    }
    let a = &r.archive;
    if a.set_aside > 0 || a.bad_heads > 0 {
        let text = format!(
            "the archive is damaged: {} files set aside, {} damaged copies of heads; files: {:?}",
            a.set_aside,
            a.bad_heads,
            &a.set_aside_names[..a.set_aside_names.len().min(NAMES_TOLD)]
        );
        seed.say(Level::Alarm, "archive_damaged", text);
    }
    if r.index_lost {
        let text = "the index is not there, or not what the journal needs: it is being made anew from \
                    archive and journal";
        seed.say(Level::Warn, "index_lost", text.into());
    }
}

/// Tells what was found in the index when all of it has been read, beside everything else.
async fn report_loaded(desk: Desk<Uring>, events: Events, number: u16) {
    let Some(loaded) = desk.loaded().await else { return };
    let Loaded { parked, in_doubt, unreadable, rebuilt, orphans } = loaded;
    if let Some(again) = rebuilt.filter(|n| *n > 0) {
        let text = format!(
            "the index was lost and has been made anew from the archive: {again} messages may be sent \
             again; `ringpost queue list --in-doubt` has them until they are tried"
        );
        events.send(Level::Alarm, "index_rebuilt", text, Some(number));
    }
    if unreadable > 0 {
        let text = format!(
            "{unreadable} messages of the index cannot be found in the archive: they are not sent; their \
             rows are kept"
        );
        events.send(Level::Alarm, "index_damaged", text, Some(number));
    }
    let text = format!(
        "{parked} messages parked in the archive, {in_doubt} recipients of them in doubt; {orphans} bodies \
         without a message removed"
    );
    events.send(Level::Info, "queue_loaded", text, Some(number));
}

/// The system's resolver (getaddrinfo), asked on a thread of its own, and the family to try first.
struct SystemResolver(Prefer);

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = Resolved> + 'a>> {
        let (name, prefer) = (host.to_owned(), self.0);
        Box::pin(async move {
            let lookup =
                move || Ok((name.as_str(), 0).to_socket_addrs()?.map(|a| a.ip()).collect::<Vec<IpAddr>>());
            match tokio::time::timeout(RESOLVE, tokio::task::spawn_blocking(lookup)).await {
                Ok(Ok(result)) => result.map(|list| in_order(list, prefer)),
                Ok(Err(e)) => Err(std::io::Error::other(e)),
                Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
            }
        })
    }
}

/// The addresses with those of the preferred family first, each family in the order of the answer.
fn in_order(mut addresses: Vec<IpAddr>, prefer: Prefer) -> Vec<IpAddr> {
    match prefer {
        Prefer::Dns => {}
        Prefer::Ipv4 => addresses.sort_by_key(IpAddr::is_ipv6),
        Prefer::Ipv6 => addresses.sort_by_key(IpAddr::is_ipv4),
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_family_comes_first() {
        let list = |texts: [&str; 4]| texts.map(|t| t.parse::<IpAddr>().unwrap()).to_vec();
        let answer = list(["192.0.2.2", "2001:db8::2", "192.0.2.1", "2001:db8::1"]);
        for (prefer, expected) in [
            (Prefer::Dns, answer.clone()),
            (Prefer::Ipv4, list(["192.0.2.2", "192.0.2.1", "2001:db8::2", "2001:db8::1"])),
            (Prefer::Ipv6, list(["2001:db8::2", "2001:db8::1", "192.0.2.2", "192.0.2.1"])),
        ] {
            assert_eq!(in_order(answer.clone(), prefer), expected, "{prefer:?}");
        }
    }
}

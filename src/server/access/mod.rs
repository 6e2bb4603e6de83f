//! One access core: opens the mailbox shards it owns, takes mail for them, serves its listeners, ends in
//! order.
//!
//! Runs on a thread and ring of its own. A shard that cannot be opened is an alarm and refuses what is
//! for it; the others are served. At the end its sessions go first; mail is taken until nobody has any
//! more (the cores say so in [`Posting`]), then what is in hand is committed. A failed write is for the
//! mail cores, too: the poison is one for the whole data directory.

pub mod front;
pub mod start;
pub mod wires;

use super::accounts::Accounts;
use super::core::{Health, Note, State, Voice, beat, give_back};
use super::guard::Guard;
use super::residents::Residents;
use super::settings;
use crate::auth::service::Logins;
use crate::config::Config;
use crate::delivery::shards::{self, Shards};
use crate::events::Level;
use crate::mailbox::store::opening::Recovery;
use crate::metrics;
use crate::runtime::cross::Receiver;
use crate::runtime::uring::Uring;
use crate::runtime::{Clock, Listener, Runtime, listen};
use crate::storage::opening::OpenError;
use crate::storage::options::Poison;
use crate::tls::Certificates;
use front::{Front, Socket};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use wires::{Far, Near, Wires};

/// How often a core looks whether others still have mail for it.
const LOOK: Duration = Duration::from_millis(20);

/// How many cores may still have mail for mailboxes.
#[derive(Clone, Default)]
pub struct Posting(Arc<AtomicUsize>);

impl Posting {
    /// So many cores.
    pub fn of(cores: usize) -> Self {
        Posting(Arc::new(AtomicUsize::new(cores)))
    }

    /// One core has none any more. Each says it once.
    pub fn done(&self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "a core says it once");
    }

    /// True once nobody has any.
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// What an access core starts with.
pub struct Seed {
    /// Its number among all cores: the mail cores come first.
    pub number: u16,
    /// How many access cores there are.
    pub cores: usize,
    /// Its shards.
    pub own: Vec<u16>,
    /// How many shards there are.
    pub shards: u16,
    /// The configuration.
    pub config: Arc<Config>,
    /// Users.
    pub accounts: Accounts,
    /// Counters of all cores.
    pub guard: Guard,
    /// For handshakes.
    pub certificates: Option<Certificates>,
    /// The poison of the data directory's file system.
    pub poison: Poison,
    /// Its series.
    pub metrics: metrics::Core,
    /// Its reserved sockets, in the order of [`Config::access_listeners`].
    pub sockets: Vec<OwnedFd>,
    /// To the other access cores.
    pub near: Vec<Option<Near>>,
    /// From all other cores.
    pub far: Vec<Far>,
    /// Who may still have mail.
    pub posting: Posting,
    /// From the control thread.
    pub notes: Receiver<Note>,
    /// For others to see.
    pub health: Arc<Health>,
    /// Alarms.
    pub voice: Voice,
    /// Told when the core serves, or why it cannot.
    pub started: oneshot::Sender<Result<(), String>>,
}

/// What the shells of one access core work with.
pub struct Access {
    /// The core.
    pub rt: Uring,
    /// Its number among all cores.
    pub number: u16,
    /// How many there are.
    pub cores: usize,
    /// The configuration.
    pub config: Arc<Config>,
    /// The shards of this core.
    pub shards: Shards<Uring>,
    /// The way to all shards, and whose mailboxes there are.
    pub wires: Wires,
    /// Who it is.
    pub logins: Rc<Logins<Uring>>,
    /// Counters of all cores.
    pub guard: Guard,
    /// For handshakes.
    pub certificates: Option<Certificates>,
    /// Series of this core.
    pub metrics: metrics::Core,
    /// The core's events.
    pub voice: Voice,
}

/// Runs the core until it is told to stop.
pub async fn run(rt: Uring, seed: Seed) {
    let panics = seed.metrics.session_panics.clone();
    rt.on_panic(move || panics.increment(1));
    rt.spawn(beat(rt.clone(), seed.health.clone(), seed.metrics.core_lag.clone()));
    let voice = seed.voice.clone();
    let shards = Shards::open(&seed.config.data_dir, &seed.own, &setup(&rt, &seed), |shard, found| {
        tell_opened(&voice, shard, found);
    })
    .await;
    shards.observe(&seed.metrics);
    let Some(residents) = Residents::new(&seed.config, Some(seed.accounts.users())) else {
        return drop(seed.started.send(Err("there are no mailboxes to serve".into())));
    };
    let wires = Wires::new(&rt, seed.shards, residents, Some(shards.clone()), seed.near);
    let tell = {
        let voice = voice.clone();
        move |level, name, text| voice.say(level, name, text)
    };
    let logins = seed.accounts.desk(&rt, &seed.config, seed.cores, &seed.metrics, tell);
    let access = Rc::new(Access {
        rt: rt.clone(),
        number: seed.number,
        cores: seed.cores,
        config: seed.config.clone(),
        shards: shards.clone(),
        wires,
        logins,
        guard: seed.guard,
        certificates: seed.certificates,
        metrics: seed.metrics,
        voice: voice.clone(),
    });
    let front = Front::new(&access);
    for far in seed.far {
        let front = front.clone();
        let adopt = move |traveller| front.adopt(traveller);
        rt.spawn_critical(wires::serve(rt.clone(), shards.clone(), far, adopt));
    }
    let listeners = match open_doors(&access, &front, &seed.sockets) {
        Ok(listeners) => listeners,
        Err(text) => {
            let _ = seed.started.send(Err(text));
            return shards.close().await;
        }
    };
    seed.health.set(State::Ready);
    let _ = seed.started.send(Ok(()));
    rt.spawn(give_back(rt.clone()));
    rt.spawn(watch(access.clone(), seed.health.clone(), listeners.clone()));
    let grace = obey(&access, &front, seed.notes).await;
    seed.health.set(State::Stopping);
    let until = rt.now().after(grace);
    listeners.iter().for_each(|l| l.close());
    front.stop();
    front.drained(until).await;
    seed.posting.done();
    while !seed.posting.is_over() && rt.now() < until {
        rt.sleep_until(rt.now().after(LOOK)).await;
    }
    shards.close().await;
    seed.health.set(State::Ended);
}

/// What the shards of the core are made of.
fn setup(rt: &Uring, seed: &Seed) -> shards::Setup<Uring> {
    shards::Setup {
        rt: rt.clone(),
        storage: settings::storage(&seed.config),
        poison: seed.poison.clone(),
        options: settings::mailboxes(&seed.config, seed.shards),
        quota: settings::quota(&seed.config),
    }
}

fn open_doors(access: &Access, front: &Front, sockets: &[OwnedFd]) -> Result<Vec<Socket>, String> {
    // Each core has sockets of its own at addresses, and all have the same one at a path.
    let of_sockets = access.config.access_listeners().flat_map(|l| {
        let of_addresses = l.addresses.iter().map(move |_| (l, false));
        of_addresses.chain(l.paths.iter().map(move |_| (l, true)))
    });
    let mut listeners = Vec::new();
    for (socket, (listener, shared)) in sockets.iter().zip(of_sockets) {
        let opened = listen::watchful(socket).and_then(|()| listen::listen(socket));
        let opened = opened.and_then(|()| access.rt.listener(socket.try_clone()?));
        let opened = Rc::new(opened.map_err(|e| format!("cannot listen: {e}"))?);
        front.serve(listener, &opened, shared)?;
        listeners.push(opened);
    }
    Ok(listeners)
}

/// Does what the control thread says, until it says stop; gives the time for that.
async fn obey(access: &Access, front: &Front, notes: Receiver<Note>) -> Duration {
    let mut notes = notes.on_ring();
    loop {
        match notes.recv().await {
            Some(Note::Users(users)) => {
                access.logins.set_store(Rc::new(users.clone()));
                access.wires.residents().set_users(users);
            }
            Some(Note::Roll(question, answer)) => {
                // The asker may have gone.
                let _ = answer.send(front.answer(&question));
            }
            Some(Note::Backup(dir, answer)) => {
                let shards = access.shards.clone();
                access.rt.spawn(async move {
                    let _ = answer.send(shards.backup(&dir).await);
                });
            }
            // Maps and queues are the mail cores'.
            Some(Note::Router(_) | Note::Control(..)) => {}
            Some(Note::Stop(grace)) => return grace,
            // The control thread has died; so do we, in order.
            None => return Duration::from_secs(5),
        }
    }
}

/// Closes the doors for good after a failed write.
async fn watch(access: Rc<Access>, health: Arc<Health>, listeners: Vec<Socket>) {
    while !access.shards.is_dead() {
        access.rt.sleep_until(access.rt.now().after(Duration::from_millis(100))).await;
        if health.state() == State::Stopping {
            return;
        }
    }
    health.set(State::Poisoned);
    access.metrics.journal_poisoned.set(1.0);
    listeners.iter().for_each(|l| l.close());
    let text = "a write to the journal, the archive or the index of mailboxes failed: no mail is taken into \
                them until a restart; look at the disk, then restart";
    access.voice.say(Level::Alarm, "mailboxes_poisoned", text.into());
}

fn tell_opened(voice: &Voice, shard: u16, found: &Result<Recovery, OpenError>) {
    let r = match found {
        Ok(r) => r,
        Err(e) => {
            let text = format!(
                "mailbox shard {shard:04} cannot be opened: mail for its accounts waits, and they cannot \
                 read theirs; all others can: {e}"
            );
            return voice.say(Level::Alarm, "mailboxes_damaged", text);
        }
    };
    let text = format!("mailbox shard {shard:04}: {} mailboxes", r.mailboxes);
    voice.say(Level::Info, "mailboxes_opened", text);
    let (j, a) = (&r.journal, &r.archive);
    if j.damage_count > 0 || j.set_aside > 0 || !r.malformed.is_empty() || a.set_aside > 0 || a.bad_heads > 0
    {
        let text = format!(
            "mailbox shard {shard:04} is damaged: {} places of the journal, {} of its files set aside, {} \
             records unreadable, {} files of the archive set aside, {} damaged copies of heads; first: {:?} \
             {:?}; `ringpost mailbox verify` says which mail is touched",
            j.damage_count,
            j.set_aside,
            r.malformed.len(),
            a.set_aside,
            a.bad_heads,
            j.damages.first(),
            r.malformed.first()
        );
        voice.say(Level::Alarm, "mailboxes_damaged", text);
    }
    if let Some(messages) = r.rebuilt {
        let text = format!(
            "the index of mailbox shard {shard:04} was lost and has been made anew: {messages} messages \
             found in the archive; {} places there are damaged, {} more are damaged or were left so by a \
             crash (first: {:?}); account for mail that would be nobody's: {}",
            r.damages.len(),
            r.doubts.len(),
            r.damages.first().or(r.doubts.first()),
            r.adopted.as_deref().unwrap_or("none")
        );
        voice.say(Level::Warn, "mailboxes_rebuilt", text);
    }
}

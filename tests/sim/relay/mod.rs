//! Histories of the whole relay: scripted clients before it, scripted servers behind it, a bad net,
//! a bad disk, and crashes; then the faults stop, the queue must drain and the ledger balance.

mod blackhole;
mod cases;
mod cores;
mod fairness;
mod filters;
mod inspect;
mod limits;
mod node;
mod waiting;

use crate::disk::DiskFaults;
use crate::journal::swarm;
use crate::machine::{Machine, SimRuntime};
use crate::net::{NetFaults, SimNet};
use crate::peers::client::{Client, Letter, Style};
use crate::peers::ledger::{Fate, SharedLedger};
use crate::peers::remote::{Manners, Remote};
use crate::seeds::{self, History};
use crate::world::{Death, MS, SEC, World};
use inspect::Seen;
use node::Tables;
use ringpost::base::time::Mono;
use ringpost::queue::desk::loading::Loaded;
use ringpost::queue::desk::open::Recovery;
use ringpost::queue::desk::{self, Desk};
use ringpost::queue::schedule::Limits;
use ringpost::runtime::Runtime;
use ringpost::storage;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const DOMAINS: &[&str] = &[
    "a.example",
    "b.example",
    "c.example",
    "d.example",
    "e.example",
    "f.example",
    "g.example",
    "h.example",
    "i.example",
    "j.example",
];

/// Everything of one history.
#[derive(Clone)]
struct Stage {
    world: World,
    net: SimNet,
    relay: Machine,
    clients: Machine,
    behind: Rc<Vec<Machine>>,
    domains: &'static [&'static str],
    remotes: Vec<Remote>,
    tables: Rc<Tables>,
    ledger: SharedLedger,
    next: Rc<Cell<u64>>,
    /// How many cores take mail.
    cores: Rc<Cell<u16>>,
    /// The planted bug: they share nothing.
    apart: Rc<Cell<bool>>,
    storage: storage::Options,
    options: desk::Options,
    /// What each server allows.
    limits: Limits,
    /// The processes that there were, for its rates.
    lives: Rc<RefCell<Vec<limits::Life>>>,
    life: Rc<Life>,
    /// The index may be missing, or of no use, at the next start.
    harmed: Rc<Cell<bool>>,
    /// The last process has ended in order, with nothing in flight: what was in doubt still.
    clean: Rc<RefCell<Option<BTreeSet<String>>>>,
    /// What the last look through the queue has found.
    seen: Rc<RefCell<Option<Seen>>>,
}

/// Whether the queue of a new process is looked through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    /// No: it sends at once.
    No,
    /// Before anything is sent.
    First,
    /// And nothing is ever sent.
    Only,
}

/// What is known of the process that runs.
#[derive(Default)]
struct Life {
    desk: RefCell<Option<Desk<SimRuntime>>>,
    /// It takes mail.
    open: Cell<bool>,
    /// It is to end in order, and has.
    stop: Cell<bool>,
    stopped: Cell<bool>,
    /// What was found in the index.
    loaded: Cell<Option<Loaded>>,
}

impl Stage {
    /// A relay before servers for the first `domains` domains.
    fn new(world: &World, domains: usize, storage: storage::Options, options: desk::Options) -> Self {
        let net = SimNet::new(world);
        let ledger = SharedLedger::default();
        let domains = &DOMAINS[..domains];
        let behind: Vec<Machine> =
            (0..domains.len()).map(|n| Machine::new(world, &net, 10 + n as u32)).collect();
        let remote = |m: &Machine| Remote::start(&m.boot(), &ledger, Manners::default());
        let mut stage = Stage {
            world: world.clone(),
            relay: Machine::new(world, &net, 1),
            clients: Machine::new(world, &net, 4),
            remotes: behind.iter().map(remote).collect(),
            behind: Rc::new(behind),
            domains,
            tables: Tables::new(&[], node::limits()),
            net,
            ledger,
            next: Rc::new(Cell::new(1)),
            cores: Rc::new(Cell::new(1)),
            apart: Rc::default(),
            storage,
            options,
            limits: node::limits(),
            lives: Rc::default(),
            life: Rc::default(),
            harmed: Rc::default(),
            clean: Rc::default(),
            seen: Rc::default(),
        };
        stage.restrict(node::limits());
        stage
    }

    /// Which server has which domain.
    fn routes(&self) -> Vec<(&'static str, SocketAddr)> {
        self.domains.iter().zip(&*self.behind).map(|(d, m)| (*d, SocketAddr::new(m.ip(), 25))).collect()
    }

    /// A process of the relay; what goes wrong at its start is a violation when nothing is faulty.
    fn boot(&mut self, calm: bool, look: Look) {
        self.life = Rc::default();
        let rt = self.relay.boot();
        let me = self.clone();
        let task_rt = rt.clone();
        rt.spawn(async move {
            let opened =
                node::open(&task_rt, me.tables.clone(), me.storage.clone(), me.options.clone()).await;
            match opened {
                Ok((desk, recovery)) => me.live(&task_rt, desk, &recovery, look).await,
                Err(e) if calm => me.world.violation(format!("does not start: {e}")),
                Err(_) => {}
            }
        });
    }

    async fn live(&self, rt: &SimRuntime, desk: Desk<SimRuntime>, recovery: &Recovery, look: Look) {
        let life = &self.life;
        self.world.event("open", recovery.messages as u64, recovery.in_doubt as u64);
        let j = &recovery.journal;
        if j.damage_count > 0 || j.set_aside > 0 || !recovery.malformed.is_empty() {
            self.world.violation(format!("damage that nobody did: {recovery:?}"));
        }
        if recovery.index_lost {
            if !self.harmed.get() {
                self.world.violation(format!("an index was lost that nobody harmed: {recovery:?}"));
            }
            self.ledger.borrow_mut().index_lost(self.world.now());
        }
        *life.desk.borrow_mut() = Some(desk.clone());
        if look != Look::No {
            self.look_through(&desk).await;
        }
        if look == Look::Only {
            return self.world.pause(u64::MAX / 4).await;
        }
        self.clean.take();
        node::serve(&self.relay, rt, self.tables.clone(), &desk);
        life.open.set(true);
        self.heed_loading(&desk).await;
        // The process lives as long as its queue is held.
        while !life.stop.get() {
            self.world.pause(20 * MS).await;
        }
        desk.stop();
        let now = Mono(self.world.now());
        let settled = desk.drained(now.after(Duration::from_secs(30))).await;
        let faults = self.relay.disk.faults();
        self.relay.disk.set_faults(crate::disk::DiskFaults { lying: faults.lying, ..Default::default() });
        let doubted = inspect::doubted(&desk).await;
        self.relay.disk.set_faults(faults);
        desk.close().await;
        life.desk.take();
        self.world.event("closed", u64::from(settled), doubted.len() as u64);
        // The very last write may have failed.
        let clean = settled && !desk.is_dead() && !desk.stats().poisoned;
        *self.clean.borrow_mut() = clean.then_some(doubted);
        life.stopped.set(true);
    }

    /// Waits until the index is read, and notes what that said.
    async fn heed_loading(&self, desk: &Desk<SimRuntime>) {
        let Some(loaded) = desk.loaded().await else { return };
        self.world.event("loaded", loaded.parked, loaded.in_doubt);
        self.life.loaded.set(Some(loaded));
        if let Some(count) = loaded.rebuilt {
            self.ledger.borrow_mut().rebuilt(count);
            self.harmed.set(false);
        }
    }

    /// The process ends, one way or another.
    fn kill(&self, how: Death) {
        self.relay.disk.count_crash();
        let loading = self.life.desk.borrow().as_ref().is_some_and(|d| d.stats().loading);
        if loading {
            self.relay.disk.count("crash while loading");
        }
        // The faults of now need not be those that it has met.
        let poisoned = self.life.desk.borrow().as_ref().is_some_and(|d| d.stats().poisoned);
        let harmed = poisoned || self.relay.disk.failed_before(u64::MAX);
        // Before its tasks, which share it.
        self.life.desk.take();
        self.relay.kill(how);
        let f = self.relay.disk.faults();
        let sound =
            !harmed && !f.lying && f.write_error + f.short_write + f.sync_error == 0 && f.capacity.is_none();
        self.ledger.borrow_mut().crashed(self.world.now(), sound);
    }

    /// One client session with some letters.
    fn session(&self, style: Style) {
        let count = 1 + self.world.below(6);
        let first = self.next.replace(self.next.get() + count);
        let letters: Vec<Letter> =
            (first..first + count).map(|n| Letter::random(&self.world, n, self.domains)).collect();
        self.send(letters, style);
    }

    fn send(&self, letters: Vec<Letter>, style: Style) {
        let core = match self.cores.get() {
            1 => 0,
            cores => self.world.below(u64::from(cores)) as u16,
        };
        self.send_to(core, letters, style);
    }

    fn send_to(&self, core: u16, letters: Vec<Letter>, style: Style) {
        let rt = self.clients.boot();
        let server = SocketAddr::new(self.relay.ip(), node::PORT + core);
        let client = Client { rt: rt.clone(), ledger: self.ledger.clone(), server };
        rt.spawn(async move {
            // How it went is in the ledger.
            let _ = client.send(&letters, style).await;
        });
    }

    fn misbehave(&self) {
        let world = &self.world;
        let some = |most: u64| if world.chance(4_000) { world.below(most) } else { 0 };
        self.net.set_faults(NetFaults {
            reset: some(2_000),
            stall: some(1_000),
            refuse: some(2_000),
            blackhole: some(1_000),
            slow: some(1_000),
            tiny: world.chance(2_000),
        });
        for remote in &self.remotes {
            remote.set_manners(Manners {
                put_off: some(1_500),
                refuse: some(500),
                tarpit: some(300),
                close: some(500),
                break_data: some(500),
                silent_take: some(500),
                plain: world.chance(2_000),
                dots: world.chance(3_000),
                no_bdat: world.chance(1_000),
                work: 0,
            });
        }
        self.set_clock(3_000);
        let disk = if world.chance(5_000) { DiskFaults::default() } else { swarm(world) };
        self.relay.disk.set_faults(disk);
    }

    /// By chance the relay's clock is set wrong, or right again.
    fn set_clock(&self, chance: u64) {
        const TEN_DAYS: u64 = 10 * 86_400_000;
        let world = &self.world;
        if world.chance(chance) {
            let most = [TEN_DAYS, 3_600_000, 90_000][world.below(3) as usize];
            let shift = world.below(2 * most) as i64 - most as i64;
            self.relay.set_wall_shift(if world.chance(3_000) { 0 } else { shift });
        }
    }

    async fn rough_life(&mut self, lying: bool) {
        let world = self.world.clone();
        if lying {
            self.relay.disk.set_faults(DiskFaults { lying, ..DiskFaults::default() });
        } else {
            self.misbehave();
        }
        self.boot(false, Look::No);
        for _ in 0..world.below(8) {
            world.pause(world.below([3 * MS, 100 * MS, 5 * SEC][world.below(3) as usize])).await;
            self.set_clock(500);
            self.session(if lying { Style::honest() } else { Style::random(&world) });
        }
        let long = [MS, 50 * MS, SEC, 60 * SEC];
        world.pause(world.below(long[world.below(if lying { 2 } else { 4 }) as usize])).await;
        let how = if lying || world.chance(5_000) { Death::Power } else { Death::Process };
        self.kill(how);
    }

    async fn calm_life(&mut self) {
        self.net.set_faults(NetFaults::default());
        self.relay.disk.set_faults(DiskFaults::default());
        self.remotes.iter().for_each(|r| r.set_manners(Manners::default()));
        // Right at last, or wrong for good.
        self.set_clock(5_000);
        // Sessions of the rough days come to their end.
        self.world.pause(1_000 * SEC).await;
        self.boot(true, Look::No);
        self.world.pause(2 * SEC).await;
        let before = self.ledger.borrow().count(Fate::Acked);
        self.session(Style::honest());
        self.none_starves().await;
        for _ in 0..360 {
            self.world.pause(20 * SEC).await;
            let ledger = self.ledger.borrow();
            if ledger.owed().is_empty() && ledger.count(Fate::Acked) > before {
                return;
            }
        }
        if self.ledger.borrow().count(Fate::Acked) == before {
            self.world.violation("nothing is taken any more".to_owned());
        }
    }
}

fn history(world: &World, lying: bool) -> History {
    let mut stage = Stage::new(world, 2, storage::Options::tiny(), node::options());
    stage.harmed.set(lying);
    let ledger = stage.ledger.clone();
    let w = world.clone();
    world.block_on(async move {
        for _ in 0..1 + w.below(4) {
            stage.rough_life(lying).await;
            w.pause(w.below(3 * SEC)).await;
        }
        stage.calm_life().await;
    });
    ledger.borrow().check(1).into_iter().for_each(|v| world.violation(v));
    History::of(world)
}

#[test]
fn relay_histories() {
    seeds::run("relay_histories", |world| history(world, false));
}

/// The planted bug once more: acknowledged before it was durable.
#[test]
fn a_relay_on_a_lying_disk_is_caught() {
    let found = seeds::caught(24, |world| history(world, true));
    let lost = found.values().flatten().filter(|v| v.starts_with("lost")).count();
    assert!(lost > 0, "no loss seen in 24 seeds: {found:?}");
}

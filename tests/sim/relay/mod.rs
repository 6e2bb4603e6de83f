//! Histories of the whole relay: scripted clients before it, scripted servers behind it, a bad net,
//! a bad disk, and crashes; then the faults stop, the queue must drain and the ledger balance. In
//! some histories each process has another number of cores than the one before.

mod node;

use crate::disk::DiskFaults;
use crate::journal::swarm;
use crate::machine::Machine;
use crate::net::{NetFaults, SimNet};
use crate::peers::client::{Client, Letter, Style};
use crate::peers::ledger::{Fate, SharedLedger};
use crate::peers::remote::{Manners, Remote};
use crate::seeds::{self, History};
use crate::world::{Death, MS, SEC, World};
use node::{Place, Tables};
use ringpost::delivery::logs::{Kept, News};
use ringpost::queue::desk::open::Recovery;
use ringpost::runtime::{Disk, Runtime};
use ringpost::storage;
use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

const DOMAINS: &[&str] = &["a.example", "b.example"];

/// Everything of one history.
#[derive(Clone)]
struct Stage {
    world: World,
    net: SimNet,
    relay: Machine,
    clients: Machine,
    remotes: Vec<Remote>,
    tables: Rc<Tables>,
    ledger: SharedLedger,
    next: Rc<Cell<u64>>,
    /// The number of cores may change.
    cores_change: bool,
    cores: Rc<Cell<u16>>,
}

impl Stage {
    fn new(world: &World) -> Self {
        let net = SimNet::new(world);
        let ledger = SharedLedger::default();
        let behind: Vec<Machine> = (2..4).map(|n| Machine::new(world, &net, n)).collect();
        let routes: Vec<(&'static str, SocketAddr)> =
            DOMAINS.iter().zip(&behind).map(|(d, m)| (*d, SocketAddr::new(m.ip(), 25))).collect();
        let remote = |m: &Machine| Remote::start(&m.boot(), &ledger, Manners::default());
        Stage {
            world: world.clone(),
            relay: Machine::new(world, &net, 1),
            clients: Machine::new(world, &net, 4),
            remotes: behind.iter().map(remote).collect(),
            tables: Tables::new(&routes),
            net,
            ledger,
            next: Rc::new(Cell::new(1)),
            cores_change: world.chance(4_000),
            cores: Rc::new(Cell::new(1)),
        }
    }

    /// A process of the relay; what goes wrong at its start is a violation when nothing is faulty.
    fn boot(&self, calm: bool) {
        if self.cores_change {
            self.cores.set([1, 2, 4, 8][self.world.below(4) as usize]);
        }
        let (rt, cores, poison) = (self.relay.boot(), self.cores.get(), storage::Poison::new());
        for core in 0..cores {
            let place = Place { core, cores };
            rt.spawn(self.clone().core(place, poison.clone(), calm));
        }
    }

    async fn core(self, place: Place, poison: storage::Poison, calm: bool) {
        let rt = self.relay.boot();
        let me = self.clone();
        let tell = move |news: &News<'_>| me.hear(news, calm);
        let storage = (storage::Options::tiny(), poison);
        match node::start(&self.relay, &rt, self.tables.clone(), storage, place, tell).await {
            Ok((logs, recovery)) => {
                self.opened(&recovery);
                // The process lives as long as its queues are held.
                let _held = logs;
                self.world.pause(u64::MAX / 4).await;
            }
            Err(e) if calm => self.world.violation(format!("does not start: {e}")),
            Err(_) => {}
        }
    }

    fn opened(&self, recovery: &Recovery) {
        self.world.event("open", recovery.messages as u64, recovery.in_doubt as u64);
        if recovery.is_damaged() {
            self.world.violation(format!("damage that nobody did: {recovery:?}"));
        }
    }

    fn hear(&self, news: &News<'_>, calm: bool) {
        let violation = |text: String| self.world.violation(text);
        match news {
            News::Adopted(_, recovery) => self.opened(recovery),
            News::Removed(log) => self.world.event("removed", u64::from(log.0), 0),
            News::NotAdopted(_, e) if calm => violation(format!("an adopted log does not open: {e}")),
            News::Kept(_, Kept::Failed(_)) if !calm => {}
            News::Kept(log, why) => violation(format!("log {} is not removed: {why:?}", log.0)),
            News::NotAdopted(..) => {}
        }
    }

    /// Folders of logs that are no core's own.
    async fn strange_folders(&self) -> Vec<String> {
        let own: Vec<String> = (0..self.cores.get()).map(|n| format!("{n:04}")).collect();
        let mut dirs = self.relay.disk.list_dirs(Path::new(node::FOLDER)).await.unwrap_or_default();
        dirs.retain(|d| !own.contains(d));
        dirs
    }

    /// One client session with some letters.
    fn session(&self, style: Style) {
        let rt = self.clients.boot();
        let count = 1 + self.world.below(6);
        let first = self.next.replace(self.next.get() + count);
        let letters: Vec<Letter> =
            (first..first + count).map(|n| Letter::random(&self.world, n, DOMAINS)).collect();
        let core = self.world.below(u64::from(self.cores.get())) as u16;
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

    async fn rough_life(&self, lying: bool) {
        let world = &self.world;
        if lying {
            self.relay.disk.set_faults(DiskFaults { lying, ..DiskFaults::default() });
        } else {
            self.misbehave();
        }
        self.boot(false);
        for _ in 0..world.below(8) {
            world.pause(world.below([3 * MS, 100 * MS, 5 * SEC][world.below(3) as usize])).await;
            self.set_clock(500);
            self.session(if lying { Style::honest() } else { Style::random(world) });
        }
        let long = [MS, 50 * MS, SEC, 60 * SEC];
        world.pause(world.below(long[world.below(if lying { 2 } else { 4 }) as usize])).await;
        let how = if lying || world.chance(5_000) { Death::Power } else { Death::Process };
        self.relay.kill(how);
        let f = self.relay.disk.faults();
        let sound = !f.lying && f.write_error + f.short_write + f.sync_error == 0 && f.capacity.is_none();
        self.ledger.borrow_mut().crashed(world.now(), sound);
    }

    async fn calm_life(&self) {
        self.net.set_faults(NetFaults::default());
        self.relay.disk.set_faults(DiskFaults::default());
        self.remotes.iter().for_each(|r| r.set_manners(Manners::default()));
        // Right at last, or wrong for good.
        self.set_clock(5_000);
        // Sessions of the rough days come to their end.
        self.world.pause(1_000 * SEC).await;
        self.boot(true);
        self.world.pause(2 * SEC).await;
        let before = self.ledger.borrow().count(Fate::Acked);
        self.session(Style::honest());
        for _ in 0..360 {
            self.world.pause(20 * SEC).await;
            let strange = self.strange_folders().await;
            let ledger = self.ledger.borrow();
            if ledger.owed().is_empty() && ledger.count(Fate::Acked) > before && strange.is_empty() {
                return;
            }
        }
        let strange = self.strange_folders().await;
        if !strange.is_empty() {
            self.world.violation(format!("logs without mail stay: {strange:?}"));
        }
        if self.ledger.borrow().count(Fate::Acked) == before {
            self.world.violation("nothing is taken any more".to_owned());
        }
    }
}

fn history(world: &World, lying: bool) -> History {
    let stage = Stage::new(world);
    let (w, s) = (world.clone(), stage.clone());
    world.block_on(async move {
        for _ in 0..1 + w.below(4) {
            s.rough_life(lying).await;
            w.pause(w.below(3 * SEC)).await;
        }
        s.calm_life().await;
    });
    stage.ledger.borrow().check(1).into_iter().for_each(|v| world.violation(v));
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

//! Histories of mail that waits long: servers that are away for hours, a journal and an archive of a few
//! small segments, so that nearly everything goes through archive and index, with crashes, faults and
//! operators; then the faults stop and nothing may be left, neither of mail nor on the disk.

use super::inspect::{Seen, list};
use super::{Look, Stage, node};
use crate::disk::DiskFaults;
use crate::journal::swarm;
use crate::net::NetFaults;
use crate::peers::client::{Letter, Style};
use crate::peers::ledger::Fate;
use crate::peers::remote::Manners;
use crate::seeds::{self, History};
use crate::world::{Death, MS, SEC, US, World};
use ringpost::queue::pace::Backoff;
use ringpost::storage;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

/// Where the index is.
pub fn index_path() -> std::path::PathBuf {
    Path::new(node::FOLDER).join("index")
}

/// A relay with room for little, before servers for four domains.
pub fn stage(world: &World) -> Stage {
    let storage = storage::Options {
        window: 2 + world.below(3) as u32,
        segments_max: 12 + world.below(8) as u32,
        ..storage::Options::tiny()
    };
    let mut options = node::options();
    options.retry = Backoff { first: Duration::from_secs(60), max: Duration::from_secs(900) };
    if world.chance(3_000) {
        options.lifetime = Duration::from_secs(3_600 + world.below(7_200));
    }
    if world.chance(5_000) {
        options.delay_warning = Duration::from_secs(300 + world.below(1_800));
    }
    options.archive.clean_share = [50, 80, 90][world.below(3) as usize];
    options.limits.body_bytes = 64 << 10;
    let stage = Stage::new(world, 4, storage, options.clone());
    if options.lifetime < Duration::from_secs(86_400) {
        stage.ledger.borrow_mut().expire();
    }
    stage
}

impl Stage {
    /// Each server is away, or puts off, or works, as chance wills.
    pub fn some_away(&self) {
        let world = &self.world;
        for (machine, remote) in self.behind.iter().zip(&self.remotes) {
            self.net.set_dark(machine.ip(), world.chance(4_000));
            remote.set_manners(match world.below(4) {
                0 => Manners { put_off: 2_000 + world.below(8_000), ..Manners::default() },
                1 => Manners { refuse: world.below(1_000), tarpit: world.below(300), ..Manners::default() },
                2 => Manners {
                    silent_take: world.below(2_000),
                    close: world.below(1_000),
                    plain: world.chance(3_000),
                    ..Manners::default()
                },
                _ => Manners::default(),
            });
        }
    }

    pub fn all_away(&self, away: bool) {
        for (machine, remote) in self.behind.iter().zip(&self.remotes) {
            self.net.set_dark(machine.ip(), away);
            remote.set_manners(Manners::default());
        }
    }

    fn faults(&self) -> DiskFaults {
        let world = &self.world;
        match world.below(5) {
            0 | 1 => DiskFaults::default(),
            2 => DiskFaults { slow: world.below(2_000), ..DiskFaults::default() },
            3 => DiskFaults {
                table_full: world.chance(5_000),
                archive_full: world.chance(5_000),
                ..DiskFaults::default()
            },
            _ => DiskFaults { capacity: None, ..swarm(world) },
        }
    }

    /// Some sessions with letters that take space.
    pub fn bulk(&self, count: u64) {
        let first = self.next.replace(self.next.get() + count);
        let numbers: Vec<u64> = (first..first + count).collect();
        for some in numbers.chunks(12) {
            let letters = some.iter().map(|n| Letter::bulky(&self.world, *n, self.domains)).collect();
            self.send(letters, Style::honest());
        }
    }

    async fn rough_wait(&mut self, lying_table: bool) {
        let world = self.world.clone();
        self.some_away();
        let faults =
            if lying_table { DiskFaults { lying_table, ..Default::default() } } else { self.faults() };
        self.relay.disk.set_faults(faults);
        self.boot(false, if world.chance(5_000) { Look::First } else { Look::No });
        if world.chance(1_500) && !lying_table {
            return self.end_early().await;
        }
        for _ in 0..2 + world.below(8) {
            self.bulk(3 + world.below(12));
            world.pause(world.below([100 * MS, 5 * SEC, 300 * SEC][world.below(3) as usize])).await;
            if world.chance(5_000) {
                self.operate().await;
            }
            if world.chance(2_000) {
                self.some_away();
            }
            if world.chance(1_500) && !lying_table {
                self.relay.disk.set_faults(self.faults());
            }
            if world.chance(300) {
                self.set_clock(10_000);
            }
        }
        world.pause(world.below([MS, 2 * SEC, 600 * SEC, 3_000 * SEC][world.below(4) as usize])).await;
        self.end_life(lying_table).await;
    }

    /// The process ends as soon as it is open, or before.
    async fn end_early(&mut self) {
        let at = self.world.now() + self.world.below(30 * MS);
        while self.life.desk.borrow().is_none() && self.world.now() < at {
            self.world.pause(50 * US).await;
        }
        self.world.pause(self.world.below(500 * US)).await;
        self.kill(if self.world.chance(5_000) { Death::Power } else { Death::Process });
    }

    async fn end_life(&mut self, lying_table: bool) {
        let world = self.world.clone();
        if world.chance(2_000) && !lying_table {
            self.life.stop.set(true);
            for _ in 0..6_000 {
                if self.life.stopped.get() {
                    break;
                }
                world.pause(10 * MS).await;
            }
            if self.life.stopped.get() {
                self.relay.disk.count("clean stop");
            }
        }
        if lying_table {
            // What a lie is about lands within some seconds: power is lost while mail goes that way.
            self.bulk(30);
            world.pause(world.below(2 * SEC)).await;
        } else if world.chance(4_000) {
            self.hit_commit().await;
        }
        self.kill(if lying_table || world.chance(5_000) { Death::Power } else { Death::Process });
    }

    /// Waits a little for a moment in which a crash would interrupt something.
    async fn hit_commit(&self) {
        self.bulk(30);
        let (last, began) = (self.relay.disk.tally(), self.world.now());
        let count = |t: &BTreeMap<&'static str, u64>, what| t.get(what).copied().unwrap_or(0);
        let what = ["archive synced", "committed", "archive segment removed"][self.world.below(3) as usize];
        while self.world.now() < began + 20 * SEC {
            self.world.pause(200 * US).await;
            if count(&self.relay.disk.tally(), what) > count(&last, what) {
                break;
            }
        }
        self.world.pause(self.world.below(3 * MS)).await;
    }

    /// A recovery, power loss, and another: both find the same.
    pub async fn same_twice(&mut self) -> Seen {
        let first = self.look_only().await;
        let second = self.look_only().await;
        if first != second {
            self.world.violation(format!("two recoveries differ: {first:?} and {second:?}"));
        }
        second
    }

    /// What a process finds that then loses power.
    async fn look_only(&mut self) -> Seen {
        self.seen.take();
        self.relay.disk.set_faults(DiskFaults::default());
        self.boot(true, Look::Only);
        for _ in 0..4_000 {
            self.world.pause(50 * MS).await;
            if let Some(seen) = self.seen.take() {
                self.kill(Death::Power);
                return seen;
            }
        }
        self.world.violation("a queue cannot be looked through within 200 s".to_owned());
        self.kill(Death::Power);
        Seen::default()
    }

    /// Faults have stopped: all mail gets where it should, and nothing stays.
    pub async fn calm_wait(&mut self) {
        self.net.set_faults(NetFaults::default());
        self.relay.disk.set_faults(DiskFaults::default());
        self.all_away(false);
        // Sessions of the rough days come to their end.
        self.world.pause(1_000 * SEC).await;
        self.boot(true, Look::First);
        self.world.pause(5 * SEC).await;
        self.release_all().await;
        let before = self.ledger.borrow().count(Fate::Acked);
        self.session(Style::honest());
        self.none_starves().await;
        for _ in 0..720 {
            self.world.pause(20 * SEC).await;
            if self.is_empty(before) {
                return;
            }
        }
        let desk = self.life.desk.borrow().clone();
        let taken = self.ledger.borrow().count(Fate::Acked) > before;
        self.world.violation(format!("does not drain (takes new mail: {taken})"));
        if let Some(desk) = desk {
            let left = list(&desk, false).await;
            self.world.violation(format!("{:?} {left:?}", desk.stats()));
        }
    }

    fn is_empty(&self, before: usize) -> bool {
        let ledger = self.ledger.borrow();
        let Some(desk) = self.life.desk.borrow().clone() else { return false };
        let s = desk.stats();
        let rows = self.relay.disk.table_rows(&index_path());
        ledger.owed().is_empty()
            && ledger.count(Fate::Acked) > before
            && (s.messages, s.parked, s.archive_live_bytes, s.journal_live_bytes) == (0, 0, 0, 0)
            && rows == Some(0)
            && self.relay.disk.files_in(&Path::new(node::FOLDER).join("archive")) <= 1
    }
}

fn history(world: &World, lying_table: bool) -> (History, BTreeMap<&'static str, u64>) {
    let mut stage = stage(world);
    let (ledger, disk, w) = (stage.ledger.clone(), stage.relay.disk.clone(), world.clone());
    world.block_on(async move {
        for _ in 0..2 + w.below(3) {
            stage.rough_wait(lying_table).await;
            if w.chance(1_500) {
                stage.same_twice().await;
            }
            w.pause(w.below(3 * SEC)).await;
        }
        stage.calm_wait().await;
    });
    ledger.borrow().check(1).into_iter().for_each(|v| world.violation(v));
    let mut tally = disk.tally();
    tally.insert("warned", ledger.borrow().warned() as u64);
    tally.insert("told of success", ledger.borrow().relayed() as u64);
    (History::of(world), tally)
}

/// Mail that waits, and that all there is to happen to it does happen.
#[test]
fn waiting_histories() {
    let all: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    seeds::run_some("waiting_histories", if cfg!(debug_assertions) { 40 } else { 200 }, |world| {
        let (history, tally) = history(world, false);
        let mut all = all.lock().expect("no panic here");
        tally.into_iter().for_each(|(what, n)| *all.entry(what).or_default() += n);
        history
    });
    let all = all.into_inner().expect("no panic here");
    println!("{all:?}");
    // Few histories are too few to see everything.
    if std::env::var("SIM_SEED").is_ok() || cfg!(debug_assertions) {
        return;
    }
    for what in PATHS {
        assert!(all.get(what).is_some_and(|n| *n > 0), "never seen: {what}; {all:?}");
    }
}

/// The planted bug: the index says that a transaction is durable before it is, and what it replaces in
/// the journal is given up. After a crash the journal knows of a transaction that the index has not got.
#[test]
fn an_index_that_lies_is_caught() {
    let found = seeds::caught(24, |world| history(world, true).0);
    let seen = |v: &&String| v.starts_with("an index was lost that nobody harmed");
    let caught = found.values().filter(|all| all.iter().any(|v| seen(&v))).count();
    assert!(caught >= 8, "caught in {caught} of 24 seeds: {found:?}");
}

/// What must have been seen.
const PATHS: &[&str] = &[
    "archive synced",
    "committed",
    "row read",
    "archive segment removed",
    "commit without space",
    "crash during a commit",
    "crash between archive and commit",
    "crash between commit and retirement",
    "crash while loading",
    "clean stop",
    "warned",
    "told of success",
    "operated while some were parked",
];

//! Histories in which each process has another number of cores than the one before, so that cores
//! adopt the logs of others, with what is parked in their archives. At the end no other log is left.

use super::limits::some_limits;
use super::node::{self, Place};
use super::{Stage, waiting};
use crate::disk::DiskFaults;
use crate::net::NetFaults;
use crate::peers::client::Style;
use crate::peers::ledger::Fate;
use crate::peers::remote::Manners;
use crate::seeds::{self, History};
use crate::world::{Death, MS, SEC, World};
use ringpost::delivery::logs::{Kept, News};
use ringpost::queue::common::Commons;
use ringpost::queue::desk::open::Recovery;
use ringpost::runtime::{Disk, Runtime};
use ringpost::storage;
use std::path::Path;
use std::sync::Arc;

impl Stage {
    /// A process of some number of cores.
    fn boot_cores(&self, calm: bool) {
        self.boot_with([1, 2, 4, 8][self.world.below(4) as usize], calm);
    }

    /// A process of so many cores.
    pub fn boot_with(&self, cores: u16, calm: bool) {
        self.begin_life(calm);
        self.cores.set(cores);
        let (rt, poison) = (self.relay.boot(), storage::Poison::new());
        let commons = Arc::<Commons>::default();
        for core in 0..cores {
            let commons = if self.apart.get() { Arc::default() } else { commons.clone() };
            rt.spawn(self.clone().core(Place { core, cores }, (poison.clone(), commons), calm));
        }
    }

    async fn core(self, place: Place, (poison, commons): (storage::Poison, Arc<Commons>), calm: bool) {
        let rt = self.relay.boot();
        let me = self.clone();
        let tell = move |news: &News<'_>| me.hear(news, calm);
        let (storage, options) = ((self.storage.clone(), poison, commons), self.options.clone());
        let started = node::start_core(&self.relay, &rt, self.tables.clone(), storage, options, place, tell);
        match Box::pin(started).await {
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
        if recovery.is_damaged() || recovery.index_lost {
            self.world.violation(format!("damage that nobody did: {recovery:?}"));
        }
    }

    fn hear(&self, news: &News<'_>, calm: bool) {
        let violation = |text: String| self.world.violation(text);
        match news {
            News::Adopted(_, recovery) => self.opened(recovery),
            News::Loaded(_, loaded) => {
                self.world.event("loaded", loaded.parked, loaded.in_doubt);
                if loaded.unreadable > 0 || loaded.rebuilt.is_some() {
                    violation(format!("an index is damaged that nobody harmed: {loaded:?}"));
                }
                if loaded.parked > 0 {
                    self.relay.disk.count("adopted with parked mail");
                }
            }
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
        let mut dirs = self.relay.disk.list_dirs(Path::new(node::FOLDERS)).await.unwrap_or_default();
        dirs.retain(|d| !own.contains(d));
        dirs
    }

    async fn rough_cores(&self) {
        let world = &self.world;
        self.misbehave();
        self.boot_cores(false);
        for _ in 0..world.below(8) {
            world.pause(world.below([3 * MS, 100 * MS, 5 * SEC][world.below(3) as usize])).await;
            self.set_clock(500);
            self.session(Style::random(world));
        }
        self.end(&[MS, 50 * MS, SEC, 60 * SEC]).await;
    }

    /// Much mail for hops that are away: it is parked.
    async fn backlog_of_cores(&self) {
        self.all_away(true);
        self.boot_cores(true);
        for _ in 0..4 + self.world.below(8) {
            self.bulk(10);
            self.world.pause(10 * SEC).await;
        }
        self.end(&[SEC, 200 * SEC, 400 * SEC]).await;
    }

    async fn end(&self, long: &[u64]) {
        let world = &self.world;
        world.pause(world.below(long[world.below(long.len() as u64) as usize])).await;
        self.kill(if world.chance(5_000) { Death::Power } else { Death::Process });
    }

    async fn calm_cores(&self) {
        self.net.set_faults(NetFaults::default());
        self.relay.disk.set_faults(DiskFaults::default());
        self.remotes.iter().for_each(|r| r.set_manners(Manners::default()));
        self.all_away(false);
        // Right at last, or wrong for good.
        self.set_clock(5_000);
        // Sessions of the rough days come to their end.
        self.world.pause(1_000 * SEC).await;
        self.boot_cores(true);
        self.world.pause(2 * SEC).await;
        let before = self.ledger.borrow().count(Fate::Acked);
        self.session(Style::honest());
        self.none_starves().await;
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

fn history(world: &World, rough: bool, apart: bool) -> History {
    let mut stage = if rough {
        Stage::new(world, 2, storage::Options::tiny(), node::options())
    } else {
        waiting::stage(world)
    };
    stage.restrict(some_limits(world));
    stage.apart.set(apart);
    let (ledger, w, after) = (stage.ledger.clone(), world.clone(), stage.clone());
    world.block_on(async move {
        for _ in 0..1 + w.below(4) {
            match rough {
                true => stage.rough_cores().await,
                false => stage.backlog_of_cores().await,
            }
            w.pause(w.below(3 * SEC)).await;
        }
        stage.calm_cores().await;
    });
    ledger.borrow().check(1).into_iter().for_each(|v| world.violation(v));
    after.check_limits();
    History::of(world)
}

#[test]
fn histories_of_changing_numbers_of_cores() {
    seeds::run("histories_of_changing_numbers_of_cores", |world| history(world, true, false));
}

#[test]
fn backlogs_of_cores_that_are_gone() {
    let usual = if cfg!(debug_assertions) { 40 } else { 200 };
    seeds::run_some("backlogs_of_cores_that_are_gone", usual, |world| history(world, false, false));
}

/// The planted bug: each core counts for itself.
#[test]
fn cores_that_do_not_share_their_counts_are_caught() {
    let found = seeds::caught(16, |world| history(world, true, true));
    for what in ["limits: ", " connections to "] {
        let seen = found.values().filter(|all| all.iter().any(|v| v.contains(what))).count();
        assert!(seen > 0, "{what:?} never seen in 16 seeds: {found:?}");
    }
}

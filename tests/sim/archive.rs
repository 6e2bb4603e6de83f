//! Histories of the archive: an owner that appends, syncs, forgets and cleans on a machine that is
//! killed, loses power, has a bad or a full disk and comes back; then all that was promised is read.

use crate::disk::DiskFaults;
use crate::journal::swarm;
use crate::machine::{Machine, SimRuntime};
use crate::net::SimNet;
use crate::seeds::{self, History};
use crate::world::{Death, MS, World};
use ringpost::runtime::{Clock, Runtime};
use ringpost::storage::archive::{Archive, Options, Place, Victim};
use ringpost::storage::keeper::ReadError;
use ringpost::storage::{Poison, RecordHead};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

const FOLDER: &str = "/data/archive";
const LOG: [u8; 16] = [8; 16];

/// What is known outside of the machine.
#[derive(Default)]
struct Book {
    /// Every place that was given out, and the id of its record.
    given: BTreeMap<Place, u64>,
    /// What was promised and lives.
    live: BTreeMap<u64, Place>,
    last: u64,
}

type SharedBook = Rc<RefCell<Book>>;

fn body(id: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (id * 131 + i * 7 + (i >> 8)) as u8).collect()
}

fn head(id: u64) -> RecordHead {
    RecordHead { kind: 1, version: 1, flags: 0, id }
}

#[derive(Clone)]
struct Owner {
    world: World,
    rt: SimRuntime,
    archive: Archive<SimRuntime>,
    book: SharedBook,
}

impl Owner {
    /// Opens the archive and checks it against the book. `Err`: the disk did not let us.
    async fn start(rt: &SimRuntime, book: &SharedBook) -> Result<Self, String> {
        let options = Options { lock_wait: Duration::from_secs(60), ..Options::tiny() };
        let opened = Archive::open(rt.clone(), Path::new(FOLDER), options, Poison::new(), LOG).await;
        let (archive, report) = opened.map_err(|e| e.to_string())?;
        let world = rt.world().clone();
        world.event("opened", u64::from(report.segments), u64::from(report.unfinished));
        if report.set_aside > 0 || report.bad_heads > 0 {
            world.violation(format!("a crash is taken for damage: {report:?}"));
        }
        let owner = Owner { world, rt: rt.clone(), archive, book: book.clone() };
        for (id, at) in owner.live() {
            if !owner.archive.keep(at) {
                owner.world.violation(format!("lost: record {id} at {at:?} has no segment"));
            }
        }
        owner.archive.counted();
        owner.scan().await;
        Ok(owner)
    }

    fn live(&self) -> Vec<(u64, Place)> {
        self.book.borrow().live.iter().map(|(id, at)| (*id, *at)).collect()
    }

    /// Reads all segments: what lives is found, nothing is invented, nothing is damaged.
    async fn scan(&self) {
        for segment in self.archive.segments() {
            let mut found = BTreeMap::new();
            let visit = |h: RecordHead, at: Place, bytes: &[u8]| {
                if bytes != body(h.id, at.len as usize - 20) {
                    self.world.violation(format!("altered: record {} at {at:?}", h.id));
                }
                found.insert(at, h.id);
            };
            let Ok(scanned) = self.archive.scan(segment, visit).await else { continue };
            if scanned.damage_count > 0 {
                self.world.violation(format!("a crash is taken for damage: {scanned:?}"));
            }
            let book = self.book.borrow();
            if let Some(at) = found.iter().find(|f| book.given.get(f.0) != Some(f.1)) {
                self.world.violation(format!("invented: {at:?}"));
            }
            let mut here = book.live.iter().filter(|(_, at)| at.segment == segment);
            if let Some(lost) = here.find(|(_, at)| !found.contains_key(at)) {
                self.world.violation(format!("lost: a scan does not find {lost:?}"));
            }
        }
    }

    /// Appends some records, syncs, and enters what is durable.
    async fn pass(&self, records: Vec<(u64, usize)>) -> Option<()> {
        let mut pending = Vec::new();
        for (id, len) in records {
            let bytes = body(id, len);
            match self.archive.append(head(id), 0, &[&bytes]).await {
                Ok(at) => {
                    let twice = self.book.borrow_mut().given.insert(at, id);
                    assert!(twice.is_none(), "{at:?} is given out twice");
                    pending.push((id, at));
                }
                Err(_) => break,
            }
            if self.world.chance(500) {
                self.world.pause(self.world.below(2 * MS)).await;
            }
        }
        let synced = self.archive.sync().await.is_ok();
        for (id, at) in pending {
            if synced || self.archive.is_durable(at) {
                let old = self.book.borrow_mut().live.insert(id, at);
                old.into_iter().for_each(|old| self.archive.dead(old, self.rt.wall()));
            } else {
                self.archive.dead(at, self.rt.wall());
            }
        }
        (!self.archive.stats().poisoned).then_some(())
    }

    async fn work(self) {
        loop {
            let count = 1 + self.world.below(20);
            let records = (0..count).map(|_| {
                let mut book = self.book.borrow_mut();
                book.last += 1;
                (book.last, self.world.below(6000) as usize)
            });
            let records = records.collect();
            if self.pass(records).await.is_none() {
                return;
            }
            for _ in 0..self.world.below(2 * count) {
                let live = self.live();
                if let Some((id, at)) = live.get(self.world.below(live.len() as u64) as usize) {
                    self.book.borrow_mut().live.remove(id);
                    self.archive.dead(*at, self.rt.wall());
                }
            }
            if self.clean().await.is_none() {
                return;
            }
            self.world.pause(self.world.below(3 * MS)).await;
        }
    }

    async fn clean(&self) -> Option<()> {
        match self.archive.victim(self.rt.wall()) {
            Some(Victim::Empty(n)) => drop(self.archive.remove(n).await),
            Some(Victim::Copy(n)) => {
                let here = self.live().into_iter().filter(|(_, at)| at.segment == n);
                self.pass(here.map(|(id, at)| (id, at.len as usize - 20)).collect()).await?;
            }
            None => {}
        }
        Some(())
    }

    /// Reads what lives, for ever, while segments come and go.
    async fn read(self) {
        loop {
            self.world.pause(self.world.below(MS)).await;
            let live = self.live();
            let Some((id, at)) = live.get(self.world.below(live.len() as u64) as usize) else { continue };
            match self.archive.read(*at, *id).await {
                Ok(bytes) if *bytes == *body(*id, at.len as usize - 20) => {}
                // Copied or forgotten while it was read.
                Err(ReadError::Gone) if self.book.borrow().live.get(id) != Some(at) => {}
                Err(ReadError::Io(_)) => {}
                other => self.world.violation(format!("record {id} at {at:?}: {:?}", other.err())),
            }
        }
    }
}

struct Site {
    world: World,
    machine: Machine,
    book: SharedBook,
}

impl Site {
    async fn life(&self, lying: bool) {
        let world = &self.world;
        let mut faults = if world.below(3) == 0 { DiskFaults::default() } else { swarm(world) };
        if lying {
            faults = DiskFaults { lying, ..DiskFaults::default() };
        } else if world.chance(3_000) {
            faults.capacity = Some(200_000 + world.below(400_000));
        }
        self.machine.disk.set_faults(faults);
        let (rt, book) = (self.machine.boot(), self.book.clone());
        let task_rt = rt.clone();
        rt.spawn(async move {
            if let Ok(owner) = Owner::start(&task_rt, &book).await {
                task_rt.spawn(owner.clone().read());
                task_rt.spawn(owner.clone().work());
            }
        });
        let long = [5 * MS, 50 * MS, 400 * MS];
        world.pause(world.below(long[world.below(3) as usize])).await;
        let how = if lying || world.chance(6_000) { Death::Power } else { Death::Process };
        self.machine.kill(how);
    }

    /// Without faults: all that was promised is there.
    async fn last_life(&self) {
        self.machine.disk.set_faults(DiskFaults::default());
        let rt = self.machine.boot();
        let owner = match Owner::start(&rt, &self.book).await {
            Ok(owner) => owner,
            Err(e) => return self.world.violation(format!("does not start: {e}")),
        };
        for (id, at) in owner.live() {
            match owner.archive.read(at, id).await {
                Ok(bytes) if *bytes == *body(id, at.len as usize - 20) => {}
                other => self.world.violation(format!("lost: record {id} at {at:?}: {:?}", other.err())),
            }
        }
        owner.archive.close().await;
        owner.scan().await;
    }
}

fn history(world: &World, lying: bool) -> History {
    let site = Site {
        world: world.clone(),
        machine: Machine::new(world, &SimNet::new(world), 1),
        book: SharedBook::default(),
    };
    let w = world.clone();
    world.block_on(async move {
        for _ in 0..2 + w.below(6) {
            site.life(lying).await;
        }
        site.last_life().await;
    });
    History::of(world)
}

#[test]
fn archive_histories() {
    seeds::run("archive_histories", |world| history(world, false));
}

/// The planted bug: a disk that says "durable" before it is.
#[test]
fn an_archive_on_a_lying_disk_is_caught() {
    let found = seeds::caught(24, |world| history(world, true));
    let lost = found.values().flatten().filter(|v| v.starts_with("lost")).count();
    assert!(lost > 0, "no loss seen in 24 seeds: {found:?}");
}

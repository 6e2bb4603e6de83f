//! An owner of records on top of `storage::keeper`, as small as can be: takes messages, ends them,
//! copies forward, reads back, and tells the book. It runs on a machine that dies at any await.

use crate::disk::DiskFaults;
use crate::journal::book::{Found, SharedBook};
use crate::machine::{Machine, SimRuntime};
use crate::rng::hash;
use crate::world::{MS, SEC, World};
use ringpost::runtime::Runtime;
use ringpost::storage::journal::StageError;
use ringpost::storage::keeper::{Keeper, ReadError};
use ringpost::storage::recover::RecoveryReport;
use ringpost::storage::side::SideFile;
use ringpost::storage::{Location, Options, Poison, RecordHead, Recovered, Urgency};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

/// Kind of a message in the log.
pub const MESSAGE: u8 = 1;
const OUTCOME: u8 = 2;
/// A message whose body lies in a side file.
const BESIDE: u8 = 3;

/// Where its journal is.
pub const FOLDER: &str = "/data/queue";

/// How busy an owner is.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Tasks that take messages.
    pub writers: u64,
    /// Pause between two messages of a writer, at most, in nanoseconds.
    pub pause: u64,
    /// Pause between two outcomes, at most, in nanoseconds.
    pub finish: u64,
    /// Chance in ten thousand that a body goes to a side file.
    pub beside: u64,
}

impl Load {
    /// Any load.
    pub fn random(world: &World) -> Self {
        Load {
            writers: 1 + world.below(6),
            pause: [MS / 4, 2 * MS, 50 * MS][world.below(3) as usize],
            finish: [MS / 4, MS, 20 * MS][world.below(3) as usize],
            beside: if world.chance(5_000) { 500 } else { 0 },
        }
    }
}

struct Held {
    location: Location,
    side: Option<SideFile>,
    /// An outcome or a copy of it is on its way.
    busy: bool,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Owner(Rc<Inner>);

struct Inner {
    world: World,
    machine: Machine,
    keeper: Keeper<SimRuntime>,
    options: Options,
    book: SharedBook,
    held: RefCell<BTreeMap<u64, Held>>,
    load: Load,
    /// No new messages.
    draining: Cell<bool>,
    accepted: Cell<u64>,
}

/// What is read from the log before the owner stands.
#[derive(Default)]
struct Reading {
    found: Found,
    places: BTreeMap<u64, (Location, Option<SideFile>)>,
}

impl Reading {
    fn visit(&mut self, r: &Recovered<'_>) {
        match r.head.kind {
            MESSAGE | BESIDE => {
                self.found.messages.insert(r.head.id, hash(r.payload));
                let side = (r.head.kind == BESIDE).then(|| side_of(r.payload));
                self.places.insert(r.head.id, (r.location, side));
            }
            OUTCOME => drop(self.found.ended.insert(number(r.payload, 0))),
            other => panic!("kind {other} was never staged"),
        }
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn side_of(payload: &[u8]) -> SideFile {
    SideFile { name: number(payload, 0), len: number(payload, 8) }
}

fn head(kind: u8, id: u64) -> RecordHead {
    RecordHead { kind, version: 1, flags: 0, id }
}

/// The bytes of message `id`.
pub fn body(id: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (id * 131 + i * 7 + (i >> 8)) as u8).collect()
}

impl Owner {
    /// Opens the journal on `machine`, checks what is found against the book, and goes to work.
    /// `Err` if the journal cannot be opened.
    pub async fn start(
        machine: &Machine,
        rt: &SimRuntime,
        book: &SharedBook,
        options: Options,
        load: Load,
    ) -> Result<(Self, RecoveryReport), String> {
        let mut reading = Reading::default();
        let visit = |r: Recovered<'_>| reading.visit(&r);
        let opened = Keeper::open(rt.clone(), Path::new(FOLDER), options.clone(), Poison::new(), visit).await;
        let (keeper, report) = opened.map_err(|e| e.to_string())?;
        let world = rt.world().clone();
        book.borrow_mut().recovered(&reading.found).into_iter().for_each(|w| world.violation(w));
        world.event("recovered", reading.found.messages.len() as u64, report.batches);
        let ended = &reading.found.ended;
        let live = reading.places.into_iter().filter(|(id, _)| !ended.contains(id));
        let held: BTreeMap<u64, Held> =
            live.map(|(id, (location, side))| (id, Held { location, side, busy: false })).collect();
        held.values().for_each(|h| keeper.keep(h.location));
        let sides: BTreeSet<u64> = held.values().filter_map(|h| h.side.map(|s| s.name)).collect();
        keeper.remove_orphan_sides(&sides).await.map_err(|e| e.to_string())?;
        let held = RefCell::new(held);
        let owner = Owner(Rc::new(Inner {
            world,
            machine: machine.clone(),
            keeper,
            options,
            book: book.clone(),
            held,
            load,
            draining: Cell::new(false),
            accepted: Cell::new(0),
        }));
        owner.work(rt);
        Ok((owner, report))
    }

    fn work(&self, rt: &SimRuntime) {
        for _ in 0..self.0.load.writers {
            let me = self.clone();
            rt.spawn(async move { while me.take_one().await {} });
        }
        let me = self.clone();
        rt.spawn(async move { while me.finish_one().await {} });
        let me = self.clone();
        rt.spawn(async move { while me.copy_forward().await {} });
        let me = self.clone();
        rt.spawn(async move { while me.read_one().await {} });
    }

    fn busy_world(&self) -> &World {
        &self.0.world
    }

    /// Stages, waiting while the journal is busy. `None`: not now, or never again.
    async fn stage(
        &self,
        head: RecordHead,
        payload: &[u8],
        frees: Option<Location>,
        urgency: Urgency,
    ) -> Option<ringpost::storage::group::Staged> {
        let (first, rest) = payload.split_at(payload.len() / 3);
        loop {
            match self.0.keeper.stage(head, &[first, rest], frees, urgency) {
                Ok(staged) => return Some(staged),
                Err(StageError::Busy) => self.0.world.pause(MS).await,
                Err(StageError::TooLarge) => {
                    self.0.world.violation("a record within the limit was too large".to_owned());
                    return None;
                }
                Err(_) => {
                    let stats = self.0.keeper.stats();
                    let (used, free) = (stats.segments as u64, stats.free_segments as u64);
                    self.0.world.event("refused", urgency as u64, used * 1000 + free);
                    return None;
                }
            }
        }
    }

    fn poisoned(&self) -> bool {
        self.0.keeper.stats().poisoned
    }

    /// One message more; false: the writer ends.
    async fn take_one(&self) -> bool {
        let (world, load) = (self.busy_world(), self.0.load);
        world.pause(1 + world.below(load.pause)).await;
        if self.poisoned() {
            return false;
        }
        if self.0.draining.get() {
            return true;
        }
        let id = self.0.book.borrow_mut().next_id();
        let most = self.0.options.payload_max() as u64;
        let len = [world.below(200), world.below(3000), world.below(most + 1)][world.below(3) as usize];
        let beside = world.chance(load.beside);
        let side = if beside { self.put_beside(id).await } else { None };
        if beside && side.is_none() {
            return true;
        }
        let (kind, payload) = match side {
            None => (MESSAGE, body(id, len as usize)),
            Some(s) => (BESIDE, [s.name.to_le_bytes(), s.len.to_le_bytes()].concat()),
        };
        let Some(staged) = self.stage(head(kind, id), &payload, None, Urgency::NewMail).await else {
            world.pause(world.below(20 * MS)).await;
            return true;
        };
        self.0.book.borrow_mut().staged(id, hash(&payload));
        let began = world.now();
        let Ok(durable) = self.0.keeper.committed(staged).await else {
            return self.refused();
        };
        if *durable.payload != *payload {
            world.violation(format!("the ticket of record {id} has other bytes"));
        }
        if self.0.machine.disk.failed_before(began.max(SEC) - SEC) {
            world.violation(format!("record {id} was acknowledged after a write had failed"));
        }
        self.0.book.borrow_mut().acked(id);
        self.0.accepted.set(self.0.accepted.get() + 1);
        self.0.held.borrow_mut().insert(id, Held { location: durable.location, side, busy: false });
        true
    }

    /// A commit failed: only a poisoned journal may do that.
    fn refused(&self) -> bool {
        if !self.poisoned() {
            self.0.world.violation("a commit failed and the journal is not poisoned".to_owned());
        }
        false
    }

    async fn put_beside(&self, id: u64) -> Option<SideFile> {
        let len = self.0.world.below(40_000) as usize;
        let mut writer = self.0.keeper.create_side().await.ok()?;
        for piece in body(id, len).chunks(7_000) {
            writer.write(piece).await.ok()?;
        }
        writer.finish().await.ok()
    }

    /// Any message that nobody is about, marked busy.
    fn pick(&self) -> Option<(u64, Location, Option<SideFile>)> {
        let mut held = self.0.held.borrow_mut();
        let from = self.0.world.below(held.len() as u64) as usize;
        let (id, h) = held.iter_mut().skip(from).find(|(_, h)| !h.busy)?;
        h.busy = true;
        Some((*id, h.location, h.side))
    }

    /// Ends one message; false: no more.
    async fn finish_one(&self) -> bool {
        let (world, inner) = (self.busy_world(), &self.0);
        world.pause(1 + world.below(inner.load.finish)).await;
        if self.poisoned() {
            return false;
        }
        let Some((id, location, side)) = self.pick() else { return true };
        let outcome = inner.book.borrow_mut().next_id();
        let about = id.to_le_bytes();
        let staged = self.stage(head(OUTCOME, outcome), &about, Some(location), Urgency::Outcome).await;
        let Some(staged) = staged else {
            inner.held.borrow_mut().get_mut(&id).expect("held while busy").busy = false;
            return true;
        };
        inner.book.borrow_mut().ending(id);
        if inner.keeper.committed(staged).await.is_err() {
            return self.refused();
        }
        inner.book.borrow_mut().ended(id);
        inner.held.borrow_mut().remove(&id);
        if let Some(side) = side {
            self.release_side(side).await;
        }
        true
    }

    /// A record that says that the side file is not needed, and its removal behind it.
    async fn release_side(&self, side: SideFile) {
        let id = self.0.book.borrow_mut().next_id();
        let staged = self.stage(head(OUTCOME, id), &u64::MAX.to_le_bytes(), None, Urgency::Outcome).await;
        if let Some(staged) = staged {
            self.0.keeper.remove_side(side, staged);
        }
    }

    /// Copies the live records of the oldest segment, if that is asked for; false: no more.
    async fn copy_forward(&self) -> bool {
        let (world, inner) = (self.busy_world(), &self.0);
        world.pause(1 + world.below(5 * MS)).await;
        if self.poisoned() {
            return false;
        }
        let Some(segment) = inner.keeper.pressure() else { return true };
        world.event("pressure", segment, 0);
        let mut there = Vec::new();
        let scanned =
            inner.keeper.scan(segment, |r| there.push((r.head, r.location, r.payload.to_vec()))).await;
        if scanned.is_err() {
            return true;
        }
        let mut copies = Vec::new();
        for (head, location, payload) in there {
            let live = inner.held.borrow_mut().get_mut(&head.id).is_some_and(|h| {
                let free = h.location == location && !h.busy;
                h.busy |= free;
                free
            });
            if !live || head.kind == OUTCOME {
                continue;
            }
            match self.stage(head, &payload, Some(location), Urgency::Compaction).await {
                Some(staged) => copies.push((head.id, staged)),
                None => {
                    inner.held.borrow_mut().get_mut(&head.id).expect("held while busy").busy = false;
                    break;
                }
            }
        }
        for (id, staged) in copies {
            let Ok(durable) = inner.keeper.committed(staged).await else { return self.refused() };
            let mut held = inner.held.borrow_mut();
            let h = held.get_mut(&id).expect("held while busy");
            (h.location, h.busy) = (durable.location, false);
        }
        true
    }

    /// Reads one message back; false: no more.
    async fn read_one(&self) -> bool {
        let (world, inner) = (self.busy_world(), &self.0);
        world.pause(1 + world.below(10 * MS)).await;
        if self.poisoned() {
            return false;
        }
        let Some((id, location, side)) = self.pick() else { return true };
        let read = inner.keeper.read(location, id).await;
        match read {
            Ok(bytes) if hash(&bytes) == inner.book.borrow().hash(id) => {}
            Ok(_) => world.violation(format!("record {id} was read back with other bytes")),
            Err(ReadError::Io(_)) if inner.machine.disk.faults().read_error > 0 => {}
            Err(e) => world.violation(format!("record {id} cannot be read: {e}")),
        }
        if let Some(side) = side {
            self.read_side(id, side).await;
        }
        if let Some(h) = inner.held.borrow_mut().get_mut(&id) {
            h.busy = false;
        }
        true
    }

    async fn read_side(&self, id: u64, side: SideFile) {
        let (world, faulty) = (self.busy_world(), self.0.machine.disk.faults().read_error > 0);
        let mut all = Vec::new();
        let mut reader = match self.0.keeper.open_side(side).await {
            Ok(reader) => reader,
            Err(e) => return world.violation(format!("the side file of {id} cannot be opened: {e}")),
        };
        loop {
            match reader.next().await {
                Ok(Some(bytes)) => all.extend_from_slice(&bytes),
                Ok(None) => break,
                Err(ReadError::Io(_)) if faulty => return,
                Err(e) => return world.violation(format!("the side file of {id} cannot be read: {e}")),
            }
        }
        if all != body(id, side.len as usize) {
            world.violation(format!("the side file of {id} has other bytes"));
        }
    }

    /// Takes nothing new until all is over. False if that does not happen within 30 s.
    pub async fn drain(&self) -> bool {
        self.0.draining.set(true);
        for _ in 0..300 {
            if self.0.held.borrow().is_empty() && self.0.book.borrow().live() == 0 {
                return true;
            }
            self.0.world.pause(100 * MS).await;
        }
        let (stats, held) = (self.0.keeper.stats(), self.0.held.borrow().len());
        self.0.world.violation(format!("{held} records left: {stats:?}"));
        false
    }

    /// Takes messages again; false if none is accepted within a minute.
    pub async fn takes_new(&self) -> bool {
        self.0.draining.set(false);
        let before = self.0.accepted.get();
        for _ in 0..600 {
            if self.0.accepted.get() > before {
                return true;
            }
            self.0.world.pause(100 * MS).await;
        }
        false
    }

    /// Closes the journal in good order.
    pub async fn close(&self) {
        self.0.draining.set(true);
        self.0.keeper.close().await;
    }
}

/// Faults of the disk of one life: a random part of all that there are.
pub fn swarm(world: &World) -> DiskFaults {
    let some = |one_in: u64, most: u64| if world.below(one_in) == 0 { world.below(most) } else { 0 };
    DiskFaults {
        slow: some(3, 300),
        write_error: some(5, 100),
        short_write: some(5, 100),
        sync_error: some(5, 300),
        read_error: some(6, 100),
        capacity: (world.below(4) == 0).then(|| 500_000 + world.below(800_000)),
        ..DiskFaults::default()
    }
}

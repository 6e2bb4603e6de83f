//! Histories of the journal: an owner on a machine that is killed, loses power, has a bad disk and
//! comes back, many times; then the faults stop and all must end well.

mod book;
mod media;
mod named;
mod owner;

use crate::disk::DiskFaults;
use crate::machine::Machine;
use crate::net::SimNet;
use crate::seeds::{self, History};
use crate::world::{Death, MS, SEC, World};
use book::SharedBook;
pub use owner::swarm;
use owner::{FOLDER, Load, Owner};
use ringpost::runtime::Runtime;
use ringpost::storage::Options;
use ringpost::storage::recover::RecoveryReport;
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

/// One machine with a journal, and the book about it.
struct Place {
    world: World,
    machine: Machine,
    book: SharedBook,
    options: Options,
}

/// The owner of a running life and what recovery said, or why it could not start.
type Started = Rc<RefCell<Option<Result<(Owner, RecoveryReport), String>>>>;

impl Place {
    fn new(world: &World) -> Self {
        let machine = Machine::new(world, &SimNet::new(world), 1);
        let mut options = Options::tiny();
        options.segments_max = 8 + world.below(9) as u32;
        options.batches_waiting = 1 + world.below(4) as usize;
        options.lock_wait = std::time::Duration::from_secs(60);
        Place { world: world.clone(), machine, book: SharedBook::default(), options }
    }

    /// A process starts on the machine.
    fn boot(&self, load: Load) -> Started {
        let started = Started::default();
        let (slot, machine, book) = (started.clone(), self.machine.clone(), self.book.clone());
        let (rt, options) = (self.machine.boot(), self.options.clone());
        let task_rt = rt.clone();
        rt.spawn(async move {
            let owner = Owner::start(&machine, &task_rt, &book, options, load).await;
            *slot.borrow_mut() = Some(owner);
        });
        started
    }

    /// Starts a process and waits for it to stand; a violation if it does not.
    async fn up(&self, load: Load) -> Option<(Owner, RecoveryReport)> {
        let started = self.boot(load);
        for _ in 0..1_000 {
            if let Some(result) = started.take() {
                return result.map_err(|e| self.world.violation(format!("does not start: {e}"))).ok();
            }
            self.world.pause(100 * MS).await;
        }
        self.world.violation("does not start within 100 s".to_owned());
        None
    }

    fn kill(&self, how: Death) {
        self.machine.kill(how);
        let files = self.machine.disk.snapshot().into_keys();
        let segments = files.filter(|p| p.parent() == Some(Path::new(FOLDER))).count();
        // Two may go beyond to empty a full log, one at a start, one is in the making.
        if segments > self.options.segments_max as usize * 2 + 2 {
            self.world.violation(format!("{segments} files in the journal's folder"));
        }
    }

    fn check_report(&self, report: &RecoveryReport) {
        if report.damage_count > 0 || report.tears > 1 || report.set_aside > 0 {
            self.world.violation(format!("recovery speaks of damage that nobody did: {report:?}"));
        }
    }

    /// One life with any faults and any end.
    async fn rough_life(&self, lying: bool) {
        let world = &self.world;
        let faults = if world.below(3) == 0 { DiskFaults::default() } else { swarm(world) };
        let faults = if lying { DiskFaults { lying, ..DiskFaults::default() } } else { faults };
        self.machine.disk.set_faults(faults);
        let started = self.boot(Load::random(world));
        let long = [3 * MS, 30 * MS, 200 * MS, 800 * MS];
        world.pause(world.below(long[world.below(4) as usize])).await;
        if let Some(Ok((_, report))) = &*started.borrow()
            && !lying
        {
            self.check_report(report);
        }
        started.take();
        let how = if lying || world.chance(6_000) { Death::Power } else { Death::Process };
        self.kill(how);
        if world.chance(5_000) {
            world.pause(world.below(SEC)).await;
        }
    }

    /// Faults have stopped: everything comes to its end, and new mail is taken again.
    async fn calm_life(&self) {
        let calm = Load { writers: 3, pause: 20 * MS, finish: MS / 4, beside: 300 };
        self.machine.disk.set_faults(DiskFaults::default());
        let Some((owner, report)) = self.up(calm).await else { return };
        self.check_report(&report);
        if !owner.drain().await {
            self.world.violation("the journal does not drain".to_owned());
        } else if !owner.takes_new().await {
            self.world.violation("an empty journal takes no new record".to_owned());
        }
        if !owner.drain().await {
            self.world.violation("the journal does not drain a second time".to_owned());
        }
        owner.close().await;
        drop(owner);
        self.kill(Death::Power);
        let Some((owner, report)) = self.up(calm).await else { return };
        if report.tears > 0 {
            self.world.violation("a closed journal ends with a tear".to_owned());
        }
        drop(owner);
    }
}

fn history(world: &World, lying: bool) -> History {
    let place = Place::new(world);
    let w = world.clone();
    world.block_on(async move {
        for _ in 0..2 + w.below(6) {
            place.rough_life(lying).await;
        }
        place.calm_life().await;
    });
    History::of(world)
}

#[test]
fn journal_histories() {
    seeds::run("journal_histories", |world| history(world, false));
}

/// The planted bug: a disk that says "durable" before it is. Whoever acknowledges on its word loses
/// mail at a power loss, and these checkers must see it.
#[test]
fn a_journal_on_a_lying_disk_is_caught() {
    let found = seeds::caught(24, |world| history(world, true));
    let lost = found.values().flatten().filter(|v| v.starts_with("lost")).count();
    assert!(lost > 0, "no loss seen in 24 seeds: {found:?}");
}

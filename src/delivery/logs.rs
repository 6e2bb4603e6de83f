//! L4: all queues of one core: its own log, and those it has adopted of cores that are gone.
//!
//! A log is never merged with another: ids and notifications stay in theirs. An adopted one is driven
//! as a queue of its own (journal, index, schedule, connections, notifications), shares the limits of
//! destinations with the others, and takes no mail from outside. When nothing is left in it, it is
//! removed. Owns the names in the folder of the queues:
//!
//! * `NNNN/`: the log of core NNNN. Those of cores that are gone are spread over the others by number.
//! * `NNNN.removed/`: empty of mail, its removal was interrupted: it is finished at the next start.
//! * `NNNN.<16 hex>.last`: no id up to this one is free in log NNNN, should it ever come again.
//!
//! The own log is opened first, the others one after another behind its back. What a short look finds
//! wrong with any of them (in use, of a later version) is an error of the start. One that cannot be
//! opened later is told of and tried again; one that is damaged is never removed.

mod operate;
#[cfg(test)]
mod tests;

use crate::base::ids::{LogNumber, MessageId};
use crate::base::time::Mono;
use crate::delivery::agent::{self, Resolve};
use crate::delivery::bounce;
use crate::events::mail::MailLog;
use crate::metrics;
use crate::queue::desk::Desk;
use crate::queue::desk::loading::Loaded;
use crate::queue::desk::open::{Parts, Recovery};
use crate::queue::routing::Routing;
use crate::queue::rules::Rule;
use crate::runtime::Runtime;
use crate::storage::opening::{self, OpenError};
use crate::storage::removal;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// How often an adopted log is looked at: is anything left in it?
const LOOK: Duration = Duration::from_secs(1);
/// How long connections of a log without mail may take to end.
const DRAIN: Duration = Duration::from_secs(30);
/// When a log that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// Name of the file that keeps a damaged log from being removed, now and at later starts.
const DAMAGED: &str = "damaged";

/// What the queues of a core are made of.
pub struct Setup<R: Runtime> {
    /// The folder of all queues.
    pub folder: PathBuf,
    /// How many cores there are.
    pub cores: u16,
    /// Of the core's own queue. The memory for bodies and for pages of indexes is split among all queues
    /// of the core.
    pub parts: Parts<R>,
    /// The series of an adopted log.
    pub series: Box<dyn Fn(LogNumber) -> metrics::Core>,
    /// Rules of operators.
    pub rules: Vec<Rule>,
    /// For connections.
    pub resolver: Rc<dyn Resolve>,
    /// How connections are made.
    pub agent: agent::Options,
    /// Is told what becomes of adopted logs.
    pub tell: Box<dyn Fn(&News<'_>)>,
}

/// What became of an adopted log.
#[derive(Debug)]
pub enum News<'a> {
    /// It is driven by this core now.
    Adopted(LogNumber, &'a Recovery),
    /// All that is parked in its archive is known now.
    Loaded(LogNumber, &'a Loaded),
    /// It could not be opened; it will be tried again.
    NotAdopted(LogNumber, &'a OpenError),
    /// Nothing was left in it, and it is gone.
    Removed(LogNumber),
    /// Nothing is left in it, but it stays where it is.
    Kept(LogNumber, Kept),
}

/// Why an empty log is not removed.
#[derive(Debug)]
pub enum Kept {
    /// Something in it could not be read.
    Damaged,
    /// This does not belong to a log.
    Holds(PathBuf),
    /// It did not work; the next start tries again.
    Failed(io::Error),
}

impl Recovery {
    /// True if something in the log could not be read.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        let journal = self.journal.damage_count > 0 || self.journal.set_aside > 0;
        let archive = self.archive.set_aside > 0 || self.archive.bad_heads > 0;
        journal || archive || !self.malformed.is_empty()
    }
}

/// All queues of one core. A handle; cloning counts.
pub struct Logs<R: Runtime>(Rc<Inner<R>>);

impl<R: Runtime> Clone for Logs<R> {
    fn clone(&self) -> Self {
        Logs(self.0.clone())
    }
}

struct Inner<R: Runtime> {
    setup: Setup<R>,
    own: Desk<R>,
    routing: RefCell<Rc<dyn Routing>>,
    /// Of operators.
    rules: RefCell<Vec<Rule>>,
    state: RefCell<State<R>>,
    /// Logs being opened, closed or removed right now.
    busy: Cell<u32>,
    stopping: Cell<bool>,
    /// None: nothing is recorded.
    mail_log: OnceCell<MailLog>,
}

struct State<R: Runtime> {
    adopted: BTreeMap<LogNumber, Desk<R>>,
    /// To be opened.
    waiting: BTreeSet<LogNumber>,
    /// Removals to be finished.
    removed: Vec<LogNumber>,
}

/// What the folder of the queues holds for one core.
#[derive(Default, Debug, PartialEq, Eq)]
struct Found {
    adopted: BTreeSet<LogNumber>,
    removed: Vec<LogNumber>,
    /// Of the core's own log.
    last: MessageId,
}

impl<R: Runtime> Logs<R> {
    /// Opens the core's own queue and starts to send from it. `Err` names the directory at fault.
    pub async fn open(mut setup: Setup<R>) -> Result<(Self, Recovery), (PathBuf, OpenError)> {
        let rt = setup.parts.rt.clone();
        let own = setup.parts.log;
        let found = look(&rt, &setup.folder, own, setup.cores).await.map_err(|e| {
            let folder = setup.folder.clone();
            (folder.clone(), OpenError::Io(folder, e))
        })?;
        for log in &found.adopted {
            let dir = directory(&setup.folder, *log);
            opening::probe(&rt, &dir, &setup.parts.storage).await.map_err(|e| (dir, e))?;
        }
        setup.parts.after = found.last;
        setup.parts.options.limits.body_bytes /= 1 + found.adopted.len();
        setup.parts.options.table.cache_bytes /= 1 + found.adopted.len();
        let dir = directory(&setup.folder, own);
        let (desk, recovery) = Desk::open(&dir, setup.parts.clone()).await.map_err(|e| (dir, e))?;
        let state = State { adopted: BTreeMap::new(), waiting: found.adopted, removed: found.removed };
        let logs = Logs(Rc::new(Inner {
            routing: RefCell::new(setup.parts.routing.clone()),
            rules: RefCell::new(setup.rules.clone()),
            setup,
            own: desk,
            state: RefCell::new(state),
            busy: Cell::new(0),
            stopping: Cell::new(false),
            mail_log: OnceCell::new(),
        }));
        logs.0.own.set_rules(&logs.0.rules.borrow());
        logs.send_from(&logs.0.own);
        Ok((logs, recovery))
    }

    /// Where attempts and outcomes of all queues are recorded; to be said once, at the start.
    pub fn set_mail_log(&self, log: &MailLog) {
        // A second time is a bug that changes nothing.
        let _ = self.0.mail_log.set(log.clone());
        self.0.own.set_mail_log(log.clone());
    }

    /// Starts to open the logs that this core adopts, one after another.
    pub fn adopt(&self) {
        let logs = self.clone();
        self.0.setup.parts.rt.spawn_critical(async move {
            logs.finish_removals().await;
            while logs.adopt_waiting().await {
                logs.pause(AGAIN).await;
            }
        });
    }

    /// The core's own queue, which takes the mail.
    #[must_use]
    pub fn own(&self) -> &Desk<R> {
        &self.0.own
    }

    /// True once the journal of any of them is poisoned.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.desks().iter().any(Desk::is_dead)
    }

    /// New tables, for all.
    pub fn set_routing(&self, routing: &Rc<dyn Routing>) {
        self.0.routing.replace(routing.clone());
        self.desks().iter().for_each(|desk| desk.set_routing(routing.clone()));
    }

    /// Starts no attempts any more, and adopts nothing any more.
    pub fn stop(&self) {
        self.0.stopping.set(true);
        self.desks().iter().for_each(Desk::stop);
    }

    /// After [`Self::stop`]: waits until no connection is open, or `until`.
    pub async fn drained(&self, until: Mono) {
        let rt = &self.0.setup.parts.rt;
        // A log that is just being opened has no connection yet, but must not be left half way.
        while self.0.busy.get() > 0 && rt.now() < until {
            rt.sleep_until(rt.now().after(Duration::from_millis(10)).min(until)).await;
        }
        for desk in self.desks() {
            desk.drained(until).await;
        }
    }

    /// After [`Self::drained`]: closes all journals.
    pub async fn close(&self) {
        for desk in self.desks() {
            desk.close().await;
        }
    }

    /// All that are open, by number.
    fn desks(&self) -> Vec<Desk<R>> {
        let own = std::iter::once(self.0.own.clone());
        own.chain(self.0.state.borrow().adopted.values().cloned()).collect()
    }

    async fn pause(&self, time: Duration) {
        let rt = &self.0.setup.parts.rt;
        rt.sleep_until(rt.now().after(time)).await;
    }

    fn send_from(&self, desk: &Desk<R>) {
        bounce::start(desk);
        agent::start(desk, self.0.setup.resolver.clone(), self.0.setup.agent.clone());
    }
}

/// Adoption and its end.
impl<R: Runtime> Logs<R> {
    /// Tries to open each log that waits for it. `true`: some still wait.
    async fn adopt_waiting(&self) -> bool {
        let waiting = self.0.state.borrow().waiting.clone();
        for log in waiting {
            if self.0.stopping.get() {
                return false;
            }
            self.adopt_one(log).await;
        }
        !self.0.state.borrow().waiting.is_empty()
    }

    async fn adopt_one(&self, log: LogNumber) {
        let _busy = Busy::new(&self.0.busy);
        let setup = &self.0.setup;
        let mut parts = Parts {
            log,
            after: MessageId(0),
            metrics: (setup.series)(log),
            routing: self.0.routing.borrow().clone(),
            ..setup.parts.clone()
        };
        // It takes no mail that would wait.
        parts.options.patience = Duration::MAX;
        let dir = directory(&setup.folder, log);
        let (desk, recovery) = match Desk::open(&dir, parts).await {
            Ok(opened) => opened,
            Err(e) => return (setup.tell)(&News::NotAdopted(log, &e)),
        };
        // Tables may have been replaced while it was read.
        desk.set_routing(self.0.routing.borrow().clone());
        desk.set_rules(&self.0.rules.borrow());
        self.0.mail_log.get().into_iter().for_each(|log| desk.set_mail_log(log.clone()));
        if recovery.is_damaged() {
            // What is in the way of a removal stays in the way at later starts, when the damaged
            // segments have been used again. If it cannot be made, this run still knows.
            let _ = setup.parts.rt.create_zeroed(&dir.join(DAMAGED), 0).await;
        }
        {
            let mut state = self.0.state.borrow_mut();
            state.waiting.remove(&log);
            state.adopted.insert(log, desk.clone());
        }
        (setup.tell)(&News::Adopted(log, &recovery));
        self.send_from(&desk);
        if self.0.stopping.get() {
            return desk.stop();
        }
        setup.parts.rt.spawn_critical(self.clone().tell_loaded(desk.clone()));
        setup.parts.rt.spawn_critical(self.clone().watch(desk, recovery.is_damaged()));
    }

    async fn tell_loaded(self, desk: Desk<R>) {
        if let Some(loaded) = desk.loaded().await {
            (self.0.setup.tell)(&News::Loaded(desk.log(), &loaded));
        }
    }

    /// Waits until nothing is left in an adopted log, then ends it.
    async fn watch(self, desk: Desk<R>, damaged: bool) {
        while !desk.is_spent() {
            self.pause(LOOK).await;
            if self.0.stopping.get() || desk.is_dead() {
                return;
            }
        }
        // A row whose message is not in the archive is kept for whoever looks into it.
        let damaged = damaged || desk.loaded().await.is_none_or(|loaded| loaded.unreadable > 0);
        let _busy = Busy::new(&self.0.busy);
        let log = desk.log();
        self.0.state.borrow_mut().adopted.remove(&log);
        let rt = &self.0.setup.parts.rt;
        desk.stop();
        desk.drained(rt.now().after(DRAIN)).await;
        desk.close().await;
        desk.metrics().clear_queue();
        // Greater than any id it has given out, also those of messages of which no trace is left.
        let last = desk.last_id().next(rt.wall());
        let dead = desk.is_dead() || self.0.setup.parts.poison.is_set();
        drop(desk);
        if dead {
            // What is said of the outcomes may not be on the disk.
            return;
        }
        let news = match self.remove(log, last, damaged).await {
            Ok(None) => News::Removed(log),
            Ok(Some(kept)) => News::Kept(log, kept),
            Err(e) => News::Kept(log, Kept::Failed(e)),
        };
        (self.0.setup.tell)(&news);
    }

    /// Removes an empty log that is closed, unless there is more in it. From the new name on it is
    /// no log any more: a removal that is interrupted never looks like a damaged log.
    async fn remove(&self, log: LogNumber, last: MessageId, damaged: bool) -> io::Result<Option<Kept>> {
        let (rt, folder) = (&self.0.setup.parts.rt, &self.0.setup.folder);
        let dir = directory(folder, log);
        if damaged {
            return Ok(Some(Kept::Damaged));
        }
        match removal::stranger(rt, &dir).await? {
            Some(path) if path == dir.join(DAMAGED) => return Ok(Some(Kept::Damaged)),
            Some(path) => return Ok(Some(Kept::Holds(path))),
            None => {}
        }
        write_note(rt, folder, log, last).await?;
        let removed = folder.join(removed_name(log));
        if rt.list_dirs(folder).await?.contains(&removed_name(log)) {
            removal::erase(rt, &removed).await?;
        }
        rt.rename_dir(&dir, &removed).await?;
        removal::erase(rt, &removed).await?;
        Ok(None)
    }

    async fn finish_removals(&self) {
        let _busy = Busy::new(&self.0.busy);
        let removed = std::mem::take(&mut self.0.state.borrow_mut().removed);
        for log in removed {
            let (rt, folder) = (&self.0.setup.parts.rt, &self.0.setup.folder);
            let news = match removal::erase(rt, &folder.join(removed_name(log))).await {
                Ok(()) => News::Removed(log),
                Err(e) => News::Kept(log, Kept::Failed(e)),
            };
            (self.0.setup.tell)(&news);
        }
    }
}

/// Counts something under way.
struct Busy<'a>(&'a Cell<u32>);

impl<'a> Busy<'a> {
    fn new(count: &'a Cell<u32>) -> Self {
        count.set(count.get() + 1);
        Busy(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What `folder` (made if it is not there) holds for core `own` of `cores`.
async fn look<R: Runtime>(rt: &R, folder: &Path, own: LogNumber, cores: u16) -> io::Result<Found> {
    rt.create_dir(folder).await?;
    let mut found = Found::default();
    let ours = |log: &LogNumber| log.0 % cores == own.0;
    for name in rt.list_dirs(folder).await? {
        match (log_number(&name), name.strip_suffix(".removed").and_then(log_number)) {
            (Some(log), _) if log.0 >= cores && ours(&log) => drop(found.adopted.insert(log)),
            (_, Some(log)) if ours(&log) => found.removed.push(log),
            _ => {}
        }
    }
    let notes = rt.list(folder).await?.into_iter().filter_map(|(name, _)| note(&name));
    found.last = notes.filter(|n| n.0 == own).map(|n| n.1).max().unwrap_or_default();
    Ok(found)
}

/// Notes durably that log `log` has used up the ids up to `last`.
async fn write_note<R: Runtime>(rt: &R, folder: &Path, log: LogNumber, last: MessageId) -> io::Result<()> {
    let older: Vec<String> = rt.list(folder).await?.into_iter().map(|f| f.0).collect();
    let name = format!("{:04}.{:016x}.last", log.0, last.0);
    match rt.create_zeroed(&folder.join(name), 0).await {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    for name in older {
        if note(&name).is_some_and(|n| n.0 == log && n.1 < last) {
            rt.remove(&folder.join(name)).await?;
        }
    }
    Ok(())
}

/// The directory of a log.
#[must_use]
pub fn directory(folder: &Path, log: LogNumber) -> PathBuf {
    folder.join(format!("{:04}", log.0))
}

fn removed_name(log: LogNumber) -> String {
    format!("{:04}.removed", log.0)
}

/// The number of the log whose directory has this name.
#[must_use]
pub fn log_number(name: &str) -> Option<LogNumber> {
    let digits = name.len() == 4 && name.bytes().all(|b| b.is_ascii_digit());
    let number = name.parse().ok().filter(|n| digits && *n <= LogNumber::MAX)?;
    Some(LogNumber(number))
}

fn note(name: &str) -> Option<(LogNumber, MessageId)> {
    let (log, id) = name.strip_suffix(".last")?.split_once('.')?;
    let id = u64::from_str_radix(id, 16).ok().filter(|_| id.len() == 16)?;
    Some((log_number(log)?, MessageId(id)))
}

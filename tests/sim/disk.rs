//! The disk double: what is durable, what only seems to be, and what a crash leaves.
//!
//! Per file it keeps the durable image and the image that reads see, writes in flight, and the
//! lock. It checks the contract of `runtime::Disk` (alignment, lock held, no overlapping writes)
//! and injects faults. Knows no format and no mail. Broken contracts are violations of the world.

use crate::world::{MS, Op, SEC, US, World};
use ringpost::base::aligned::{AlignedBuf, PAGE, SharedBytes};
use ringpost::runtime::{Disk, File, Lent, OpenAs, TableOptions};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

#[path = "table.rs"]
mod table;

pub use table::SimTable;

/// What a device writes whole or not at all.
pub const SECTOR: usize = 512;

/// What `create_zeroed` puts behind the name of a file that is not complete.
const PARTIAL: &str = ".partial";

/// Which faults happen; chances are in ten thousand per operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFaults {
    /// An operation takes up to 300 ms.
    pub slow: u64,
    /// A write ends with EIO; any part of it may have landed.
    pub write_error: u64,
    /// A write stops early.
    pub short_write: u64,
    /// A sync ends with EIO; any part is durable, and the next sync says that all is well.
    pub sync_error: u64,
    /// A read ends with EIO.
    pub read_error: u64,
    /// Bytes that all files together may take.
    pub capacity: Option<u64>,
    /// A write on a segment completes, and a sync of an archive ends, before it is durable: the disk lies.
    pub lying: bool,
    /// There is no room for more of a table, or of an archive.
    pub table_full: bool,
    /// See `table_full`.
    pub archive_full: bool,
    /// A table says that a commit is durable before it is: the planted bug.
    pub lying_table: bool,
}

/// Handle to one machine's disk.
#[derive(Clone)]
pub struct SimDisk(Rc<State>);

struct State {
    world: World,
    faults: Cell<DiskFaults>,
    next: Cell<u64>,
    /// When the first write on a segment failed since the last start.
    failed: Cell<Option<u64>>,
    /// Reads may have failed since the last start.
    misread: Cell<bool>,
    dirs: RefCell<BTreeSet<PathBuf>>,
    names: RefCell<BTreeMap<PathBuf, Rc<Inode>>>,
    durable_names: RefCell<BTreeMap<PathBuf, Rc<Inode>>>,
    /// Changes of names that are not durable yet.
    pending: RefCell<Vec<Renaming>>,
    tally: RefCell<BTreeMap<&'static str, u64>>,
    /// Where between archive, table and journal the machine is.
    between: Cell<Between>,
}

/// The last thing of these that has become durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Between {
    /// A write of the journal after a commit of the table.
    Journal,
    /// What was appended to an archive.
    Archive,
    /// A commit of the table.
    Table,
}

/// Id, path, what the path then names.
type Renaming = (u64, PathBuf, Option<Rc<Inode>>);

struct Inode {
    what: What,
    body: RefCell<Body>,
}

/// What a file is written as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Whole pages; a write that has ended is durable.
    Segment,
    /// Whole pages, each once; durable after a sync.
    Archive,
    /// Any bytes; durable after a sync.
    Plain,
}

impl Inode {
    fn zeros(len: u64) -> Rc<Self> {
        let zeros = vec![0; usize::try_from(len).expect("fits memory")];
        let body = Body { durable: zeros.clone(), image: zeros, ..Body::default() };
        Rc::new(Inode { what: What::Segment, body: RefCell::new(body) })
    }
}

#[derive(Default)]
struct Body {
    durable: Vec<u8>,
    image: Vec<u8>,
    dirty: BTreeSet<usize>,
    flights: Vec<Flight>,
    lock: Option<u64>,
    /// Open descriptions that were closed while writes of theirs were in flight.
    closed: BTreeSet<u64>,
    /// A table: the commit in flight, what it held before, and the space it has got.
    pending: Option<table::Pending>,
    history: Vec<Vec<u8>>,
    allocated: u64,
}

struct Flight {
    id: u64,
    description: u64,
    offset: usize,
    bytes: Vec<u8>,
}

impl Body {
    fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if image.len() < end {
            image.resize(end, 0);
        }
        image[offset..end].copy_from_slice(bytes);
    }

    /// Lets the sectors of a write that `choose` picks land: of a segment in both images.
    fn land(&mut self, what: What, offset: usize, bytes: &[u8], mut choose: impl FnMut() -> bool) {
        for (i, sector) in bytes.chunks(SECTOR).enumerate() {
            let at = offset + i * SECTOR;
            if choose() {
                Body::put(&mut self.image, at, sector);
                match what {
                    What::Segment => Body::put(&mut self.durable, at, sector),
                    What::Archive | What::Plain => self.soil(at, sector.len()),
                }
            }
        }
    }

    /// Makes the dirty sectors that `choose` picks durable, and all of them clean.
    fn write_back(&mut self, mut choose: impl FnMut() -> bool) {
        for sector in std::mem::take(&mut self.dirty) {
            let from = (sector * SECTOR).min(self.image.len());
            let to = (from + SECTOR).min(self.image.len());
            if from < to && choose() {
                let bytes = self.image[from..to].to_vec();
                Body::put(&mut self.durable, from, &bytes);
            }
        }
    }

    fn soil(&mut self, offset: usize, len: usize) {
        self.dirty.extend(offset / SECTOR..(offset + len).div_ceil(SECTOR));
    }

    fn release(&mut self, description: u64) {
        let committing = self.pending.as_ref().is_some_and(|p| p.is_of(description));
        if committing || self.flights.iter().any(|f| f.description == description) {
            self.closed.insert(description);
            return;
        }
        self.closed.remove(&description);
        if self.lock == Some(description) {
            self.lock = None;
        }
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(28)
}

impl SimDisk {
    /// An empty disk with the root directory.
    pub fn new(world: &World) -> Self {
        SimDisk(Rc::new(State {
            world: world.clone(),
            faults: Cell::default(),
            next: Cell::new(1),
            failed: Cell::new(None),
            misread: Cell::new(false),
            dirs: RefCell::new(BTreeSet::from([PathBuf::from("/")])),
            names: RefCell::default(),
            durable_names: RefCell::default(),
            pending: RefCell::default(),
            tally: RefCell::default(),
            between: Cell::new(Between::Journal),
        }))
    }

    /// Sets the faults from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        if faults.read_error > 0 {
            self.0.misread.set(true);
        }
        self.0.faults.set(faults);
    }

    /// From now on there is no more space than is in use.
    pub fn fill_up(&self) {
        self.set_faults(DiskFaults { capacity: Some(self.used()), ..DiskFaults::default() });
    }

    /// The faults in force.
    pub fn faults(&self) -> DiskFaults {
        self.0.faults.get()
    }

    /// Whether a write on a segment had failed before `time` in this life of the machine.
    pub fn failed_before(&self, time: u64) -> bool {
        self.0.failed.get().is_some_and(|at| at < time)
    }

    /// Whether no read can have failed in this life of the machine.
    pub fn reads_well(&self) -> bool {
        !self.0.misread.get()
    }

    /// A new process: failures of the last one are over.
    pub fn forget_failures(&self) {
        self.0.failed.set(None);
        self.0.misread.set(self.faults().read_error > 0);
    }

    /// Counts that `what` has happened.
    pub fn count(&self, what: &'static str) {
        *self.0.tally.borrow_mut().entry(what).or_default() += 1;
    }

    /// How often what has happened.
    pub fn tally(&self) -> BTreeMap<&'static str, u64> {
        self.0.tally.borrow().clone()
    }

    /// A crash, of whatever kind, comes now: counts what it interrupts.
    pub fn count_crash(&self) {
        let committing = self.0.names.borrow().values().any(|i| i.body.borrow().pending.is_some());
        match self.0.between.replace(Between::Journal) {
            _ if committing => self.count("crash during a commit"),
            Between::Archive => self.count("crash between archive and commit"),
            Between::Table => self.count("crash between commit and retirement"),
            Between::Journal => {}
        }
    }

    /// Power loss: of what was not durable any subset of sectors and names stays.
    pub fn power_off(&self) {
        let world = &self.0.world;
        let keep = [0, 1_000, 5_000, 9_000, 10_000][world.below(5) as usize];
        for (_, path, inode) in self.0.pending.take() {
            if world.chance(keep) {
                set_name(&mut self.0.durable_names.borrow_mut(), &path, inode);
            }
        }
        let durable = self.0.durable_names.borrow().clone();
        for inode in durable.values() {
            let mut body = inode.body.borrow_mut();
            for f in std::mem::take(&mut body.flights) {
                body.land(inode.what, f.offset, &f.bytes, || world.chance(keep));
            }
            body.write_back(|| world.chance(keep));
            if let Some(commit) = body.pending.take().filter(|_| world.chance(5_000)) {
                let old = std::mem::replace(&mut body.durable, commit.into_image());
                body.history.push(old);
            }
            body.image = body.durable.clone();
            body.lock = None;
            body.closed.clear();
        }
        *self.0.names.borrow_mut() = durable;
        world.event("power-off", keep, 0);
    }

    /// Files in a directory.
    pub fn files_in(&self, dir: &Path) -> usize {
        self.0.names.borrow().keys().filter(|p| p.parent() == Some(dir)).count()
    }

    /// The names and durable bytes of all files.
    pub fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let names = self.0.durable_names.borrow();
        names.iter().map(|(p, i)| (p.clone(), i.body.borrow().durable.clone())).collect()
    }

    /// Puts the durable state back to a snapshot. The machine must be off.
    pub fn restore(&self, snapshot: &BTreeMap<PathBuf, Vec<u8>>) {
        let old = self.0.durable_names.borrow().clone();
        let names: BTreeMap<PathBuf, Rc<Inode>> = snapshot
            .iter()
            .map(|(path, bytes)| {
                let what = old.get(path).map_or(What::Segment, |i| i.what);
                let body = Body { durable: bytes.clone(), image: bytes.clone(), ..Body::default() };
                (path.clone(), Rc::new(Inode { what, body: RefCell::new(body) }))
            })
            .collect();
        *self.0.durable_names.borrow_mut() = names.clone();
        *self.0.names.borrow_mut() = names;
    }

    fn latency(&self, usual: u64) -> u64 {
        let world = &self.0.world;
        if world.chance(self.faults().slow) {
            return world.below(300 * MS);
        }
        usual / 2 + world.below(usual)
    }

    async fn wait(&self, name: &'static str, usual: u64) {
        let op = Op::new(&self.0.world, name);
        let slot = op.clone_slot();
        self.0.world.after(self.latency(usual), move || slot.finish(()));
        op.await;
    }

    fn world(&self) -> &World {
        &self.0.world
    }

    fn id(&self) -> u64 {
        self.0.next.replace(self.0.next.get() + 1)
    }

    fn used(&self) -> u64 {
        let size = |body: &Body| body.allocated.max(body.image.len() as u64);
        self.0.names.borrow().values().map(|i| size(&i.body.borrow())).sum()
    }

    fn room_for(&self, more: u64) -> bool {
        self.faults().capacity.is_none_or(|c| self.used() + more <= c)
    }

    fn fits_dir(&self, path: &Path) -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let known = self.0.dirs.borrow().contains(parent);
        if known { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn is_name(&self, path: &Path) -> bool {
        self.0.names.borrow().contains_key(path)
    }

    fn named(&self, path: &Path) -> io::Result<Rc<Inode>> {
        self.0.names.borrow().get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Changes a name now; durable once [`Self::settle_name`] is called with the result.
    fn change_name(&self, path: &Path, inode: Option<Rc<Inode>>) -> u64 {
        let id = self.id();
        set_name(&mut self.0.names.borrow_mut(), path, inode.clone());
        self.0.pending.borrow_mut().push((id, path.to_owned(), inode));
        id
    }

    /// Renames a directory with all that is in it, durable or not.
    fn move_dir(&self, from: &Path, to: &Path) {
        let moved = |path: &Path| path.strip_prefix(from).ok().map(|rest| to.join(rest));
        let all = |names: &mut BTreeMap<PathBuf, Rc<Inode>>| {
            let renamed = std::mem::take(names).into_iter();
            *names = renamed.map(|(p, i)| (moved(&p).unwrap_or(p), i)).collect();
        };
        all(&mut self.0.names.borrow_mut());
        all(&mut self.0.durable_names.borrow_mut());
        for renaming in self.0.pending.borrow_mut().iter_mut() {
            if let Some(path) = moved(&renaming.1) {
                renaming.1 = path;
            }
        }
        let mut dirs = self.0.dirs.borrow_mut();
        // Joining nothing would leave a slash at the end.
        let dir = |p: PathBuf| if p == from { to.to_owned() } else { moved(&p).unwrap_or(p) };
        *dirs = std::mem::take(&mut *dirs).into_iter().map(dir).collect();
    }

    fn settle_name(&self, id: u64) {
        let mut pending = self.0.pending.borrow_mut();
        if let Some(at) = pending.iter().position(|p| p.0 == id) {
            let (_, path, inode) = pending.remove(at);
            set_name(&mut self.0.durable_names.borrow_mut(), &path, inode);
        }
    }
}

fn set_name(names: &mut BTreeMap<PathBuf, Rc<Inode>>, path: &Path, inode: Option<Rc<Inode>>) {
    match inode {
        Some(inode) => names.insert(path.to_owned(), inode),
        None => names.remove(path),
    };
}

impl Disk for SimDisk {
    type File = SimFile;
    type Table = SimTable;

    async fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<()> {
        self.fits_dir(path)?;
        if self.is_name(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.0.world.event("create", len, 0);
        // Filled under another name; a crash may leave that.
        let mut partial = path.as_os_str().to_owned();
        partial.push(PARTIAL);
        let partial = PathBuf::from(partial);
        let begun = self.change_name(&partial, Some(Inode::zeros(len / 2)));
        self.wait("create_zeroed", 5 * MS).await;
        self.settle_name(begun);
        let removed = self.change_name(&partial, None);
        if !self.room_for(len) {
            return Err(full());
        }
        if self.0.world.chance(self.faults().sync_error) {
            return Err(eio());
        }
        if self.is_name(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let named = self.change_name(path, Some(Inode::zeros(len)));
        self.wait("create_zeroed", MS).await;
        self.settle_name(removed);
        self.settle_name(named);
        Ok(())
    }

    async fn open(&self, path: &Path, how: OpenAs) -> io::Result<SimFile> {
        self.wait("open", 20 * US).await;
        self.fits_dir(path)?;
        let new = match how {
            OpenAs::NewSide => Some(What::Plain),
            OpenAs::NewArchive => Some(What::Archive),
            OpenAs::Segment | OpenAs::Archive | OpenAs::Read => None,
        };
        let inode = if let Some(what) = new {
            if self.is_name(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if what == What::Archive && self.faults().archive_full {
                return Err(full());
            }
            let inode = Rc::new(Inode { what, body: RefCell::default() });
            self.change_name(path, Some(inode.clone()));
            inode
        } else {
            self.named(path)?
        };
        Ok(SimFile { disk: self.clone(), inode, how, description: self.id() })
    }

    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.wait("create_dir", MS).await;
        let mut dirs = self.0.dirs.borrow_mut();
        dirs.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        self.wait("list", 100 * US).await;
        self.fits_dir(&dir.join("x"))?;
        let names = self.0.names.borrow();
        let inside = names.iter().filter(|(p, _)| p.parent() == Some(dir));
        let name = |p: &Path| p.file_name().expect("a file").to_str().expect("ASCII").to_owned();
        Ok(inside.map(|(p, i)| (name(p), i.body.borrow().image.len() as u64)).collect())
    }

    async fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.wait("list_dirs", 100 * US).await;
        self.fits_dir(&dir.join("x"))?;
        let dirs = self.0.dirs.borrow();
        let inside = dirs.iter().filter(|p| p.parent() == Some(dir));
        Ok(inside.map(|p| p.file_name().expect("a name").to_str().expect("ASCII").to_owned()).collect())
    }

    /// Durable in the middle: a crash before its end finds the one name or the other.
    async fn rename_dir(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.wait("rename_dir", 500 * US).await;
        if !self.0.dirs.borrow().contains(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if self.0.dirs.borrow().contains(to) || self.is_name(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.move_dir(from, to);
        self.wait("rename_dir", 500 * US).await;
        Ok(())
    }

    async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.wait("remove_dir", 500 * US).await;
        let inside = |p: &PathBuf| p.parent() == Some(path);
        if self.0.names.borrow().keys().any(inside) || self.0.dirs.borrow().iter().any(inside) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        if !self.0.dirs.borrow_mut().remove(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // What was not durable of the names in it never will be.
        self.0.pending.borrow_mut().retain(|p| !p.1.starts_with(path));
        self.0.durable_names.borrow_mut().retain(|p, _| !p.starts_with(path));
        self.wait("remove_dir", 500 * US).await;
        Ok(())
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.wait("remove", 50 * US).await;
        if self.named(path)?.what == What::Archive {
            self.count("archive segment removed");
        }
        let id = self.change_name(path, None);
        self.wait("remove", MS).await;
        self.settle_name(id);
        Ok(())
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let waiting: Vec<u64> = {
            let pending = self.0.pending.borrow();
            pending.iter().filter(|p| p.1.parent() == Some(dir)).map(|p| p.0).collect()
        };
        self.wait("sync_dir", MS).await;
        if self.0.world.chance(self.faults().sync_error) {
            return Err(eio());
        }
        waiting.into_iter().for_each(|id| self.settle_name(id));
        Ok(())
    }

    async fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        self.wait("free_bytes", 10 * US).await;
        Ok(self.faults().capacity.map_or(1 << 40, |c| c.saturating_sub(self.used())))
    }

    async fn open_table(&self, path: &Path, options: TableOptions) -> io::Result<SimTable> {
        self.open_sim_table(path, options).await
    }
}

/// An open file of the double.
pub struct SimFile {
    disk: SimDisk,
    inode: Rc<Inode>,
    how: OpenAs,
    description: u64,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.inode.body.borrow_mut().release(self.description);
    }
}

/// How a write ends, and which part of it lands.
enum Fate {
    Whole,
    Some,
    Prefix,
}

impl SimFile {
    fn world(&self) -> &World {
        &self.disk.0.world
    }

    fn check_write(&self, bytes: &SharedBytes, offset: usize) {
        let body = self.inode.body.borrow();
        let end = offset + bytes.len();
        let aligned = offset.is_multiple_of(PAGE)
            && bytes.len().is_multiple_of(PAGE)
            && (bytes.as_ptr() as usize).is_multiple_of(PAGE);
        let broken = match self.how {
            OpenAs::Read | OpenAs::Archive => Some("write on a file opened to read"),
            OpenAs::NewArchive if !aligned => Some("archive write is not in whole aligned pages"),
            OpenAs::NewArchive if offset != body.image.len() => Some("archive write not at its end"),
            OpenAs::NewArchive if body.lock != Some(self.description) => {
                Some("archive write without its lock")
            }
            OpenAs::Segment if !aligned => Some("segment write is not in whole aligned pages"),
            OpenAs::Segment if end > body.image.len() => Some("segment write beyond its end"),
            OpenAs::Segment if body.lock != Some(self.description) => Some("segment write without its lock"),
            _ => None,
        };
        let overlaps = |f: &Flight| f.offset < end && offset < f.offset + f.bytes.len();
        if let Some(what) = broken {
            self.world().violation(what.to_owned());
        }
        if body.flights.iter().any(overlaps) {
            self.world().violation("a write overlaps one in flight".to_owned());
        }
    }

    fn fate(&self) -> (Fate, io::Result<()>) {
        let (world, faults) = (self.world(), self.disk.faults());
        if world.chance(faults.write_error) {
            (Fate::Some, Err(eio()))
        } else if world.chance(faults.short_write) {
            (Fate::Prefix, Err(io::ErrorKind::WriteZero.into()))
        } else {
            (Fate::Whole, Ok(()))
        }
    }
}

/// Ends the segment write `id`, unless a power loss has ended it before.
fn end_flight(disk: &SimDisk, inode: &Rc<Inode>, id: u64, fate: &Fate) {
    let world = &disk.0.world;
    let mut body = inode.body.borrow_mut();
    let Some(at) = body.flights.iter().position(|f| f.id == id) else { return };
    let orphan = body.closed.contains(&body.flights[at].description);
    if orphan && world.chance(6_000) {
        // The kernel still has it: it lands long after the process is gone.
        let (disk, inode) = (disk.clone(), inode.clone());
        let late = move || end_flight(&disk, &inode, id, &Fate::Whole);
        world.after(world.below(5 * SEC), late);
        return;
    }
    let f = body.flights.remove(at);
    world.event("landed", f.offset as u64, f.bytes.len() as u64);
    let prefix = world.below(f.bytes.len() as u64 / SECTOR as u64);
    let mut sector = 0;
    let lying = disk.faults().lying;
    if inode.what == What::Segment && disk.0.between.get() == Between::Table {
        disk.0.between.set(Between::Journal);
    }
    match fate {
        Fate::Whole if lying => {
            Body::put(&mut body.image, f.offset, &f.bytes);
            body.soil(f.offset, f.bytes.len());
            let inode = inode.clone();
            world.after(world.below(3 * SEC), move || inode.body.borrow_mut().write_back(|| true));
        }
        Fate::Whole => body.land(inode.what, f.offset, &f.bytes, || true),
        Fate::Some => body.land(inode.what, f.offset, &f.bytes, || world.chance(5_000)),
        Fate::Prefix => body.land(inode.what, f.offset, &f.bytes, || {
            sector += 1;
            sector <= prefix
        }),
    }
    if body.closed.contains(&f.description) {
        body.release(f.description);
    }
}

impl File for SimFile {
    async fn write_at(&self, bytes: SharedBytes, offset: u64) -> io::Result<()> {
        let at = usize::try_from(offset).expect("fits memory");
        self.check_write(&bytes, at);
        self.world().event("write", offset, bytes.len() as u64);
        let (fate, result) = self.fate();
        if self.inode.what == What::Plain {
            self.disk.wait("write_at", 30 * US).await;
            let grown = (at + bytes.len()).saturating_sub(self.inode.body.borrow().image.len());
            if !self.disk.room_for(grown as u64) {
                return Err(full());
            }
            let mut body = self.inode.body.borrow_mut();
            let len = if matches!(fate, Fate::Whole) { bytes.len() } else { bytes.len() / 2 };
            Body::put(&mut body.image, at, &bytes[..len]);
            body.soil(at, len);
            return result;
        }
        if self.inode.what == What::Archive && self.disk.faults().archive_full {
            self.disk.wait("write_at", 30 * US).await;
            return Err(full());
        }
        let mut written = bytes.to_vec();
        let mut result = result;
        if self.inode.what == What::Archive && !self.disk.room_for(bytes.len() as u64) {
            let room = self.disk.faults().capacity.unwrap_or(0).saturating_sub(self.disk.used());
            written.truncate(usize::try_from(room).expect("fits memory") / SECTOR * SECTOR);
            result = Err(full());
            if written.is_empty() {
                return result;
            }
        }
        let (id, description) = (self.disk.id(), self.description);
        let flight = Flight { id, description, offset: at, bytes: written };
        self.inode.body.borrow_mut().flights.push(flight);
        let op = Op::new(self.world(), "write_at");
        let (slot, disk, inode) = (op.clone_slot(), self.disk.clone(), self.inode.clone());
        self.world().after(self.disk.latency(80 * US), move || {
            end_flight(&disk, &inode, id, &fate);
            slot.finish(());
        });
        op.await;
        self.world().event("wrote", offset, u64::from(result.is_ok()));
        let failed = result.as_ref().is_err_and(|e| e.kind() != io::ErrorKind::StorageFull);
        if failed && self.disk.0.failed.get().is_none() {
            self.disk.0.failed.set(Some(self.world().now()));
        }
        result
    }

    async fn read_at(&self, mut buf: AlignedBuf, offset: u64) -> Lent<(), AlignedBuf> {
        let at = usize::try_from(offset).expect("fits memory");
        if self.inode.what != What::Plain && !at.is_multiple_of(PAGE) {
            self.world().violation("segment read is not in whole pages".to_owned());
        }
        self.disk.wait("read_at", 60 * US).await;
        if self.world().chance(self.disk.faults().read_error) {
            return (Err(eio()), buf);
        }
        let body = self.inode.body.borrow();
        let from = at.min(body.image.len());
        let bytes = &body.image[from..(from + buf.capacity()).min(body.image.len())];
        buf.set_len(0);
        buf.put(bytes);
        (Ok(()), buf)
    }

    async fn sync(&self) -> io::Result<()> {
        self.disk.wait("sync", MS).await;
        let (world, mut body) = (self.world(), self.inode.body.borrow_mut());
        if world.chance(self.disk.faults().sync_error) {
            body.write_back(|| world.chance(5_000));
            return Err(eio());
        }
        if self.disk.faults().lying && self.inode.what == What::Archive {
            let inode = self.inode.clone();
            world.after(world.below(3 * SEC), move || inode.body.borrow_mut().write_back(|| true));
            return Ok(());
        }
        body.write_back(|| true);
        if self.how == OpenAs::NewArchive {
            self.disk.0.between.set(Between::Archive);
            self.disk.count("archive synced");
        }
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut body = self.inode.body.borrow_mut();
        let free = body.lock.is_none_or(|owner| owner == self.description);
        if free {
            body.lock = Some(self.description);
        }
        Ok(free)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.inode.body.borrow().image.len() as u64)
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;

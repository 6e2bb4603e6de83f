//! A small in-memory runtime for the tests of the keeper: files, a clock that moves when nothing
//! else does, tasks polled only when woken (so a lost wake-up is a failed test), switches for faults.

use crate::base::aligned::{AlignedBuf, PAGE, SharedBytes};
use crate::base::time::{Mono, Wall};
use crate::runtime::double::{MemTable, Never, NoListener, Stored};
use crate::runtime::{Clock, Disk, Entropy, File, Lent, Net, OpenAs, Runtime, TableOptions, yield_now};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// The disk: survives the runtime.
#[derive(Default)]
pub struct World {
    pub files: RefCell<BTreeMap<PathBuf, Rc<Node>>>,
    /// Tables, which are files, too.
    pub tables: RefCell<BTreeMap<PathBuf, Rc<Stored>>>,
    pub log: RefCell<Vec<String>>,
    pub fail_writes: Cell<Option<io::ErrorKind>>,
    pub fail_syncs: Cell<bool>,
    pub fail_creates: Cell<bool>,
    pub hold_writes: Cell<bool>,
    /// Bytes that writes to archive segments may still add before the disk is full.
    pub room: Cell<Option<u64>>,
    pub writes: Cell<u64>,
    pub reads: Cell<u64>,
    pub bytes_read: Cell<u64>,
    pub free: Cell<u64>,
    pub random: Cell<u64>,
    /// Rounds through the tasks.
    pub turns: Cell<u64>,
}

#[derive(Default)]
pub struct Node {
    pub data: RefCell<Vec<u8>>,
    pub lock: Cell<u64>,
    /// Of an archive segment: what stays when the machine stops. `None`: all of it.
    pub durable: RefCell<Option<Vec<u8>>>,
    /// Of an archive segment: its name is durable.
    pub named: Cell<bool>,
}

/// Bytes that a disk writes at once, at least.
const SECTOR: usize = 512;

impl World {
    /// The machine stops: of what was not synced, those sectors of archive segments stay that `land`
    /// picks, and those names.
    pub fn power_off(&self, mut land: impl FnMut() -> bool) {
        self.files.borrow_mut().retain(|_, node| {
            let Some(mut durable) = node.durable.take() else { return true };
            let data = node.data.take();
            for (i, sector) in data.chunks(SECTOR).enumerate() {
                let (at, end) = (i * SECTOR, i * SECTOR + sector.len());
                if durable.get(at..end) != Some(sector) && land() {
                    durable.resize(durable.len().max(end), 0);
                    durable[at..end].copy_from_slice(sector);
                }
            }
            node.data.replace(durable.clone());
            node.durable.replace(Some(durable));
            node.named.replace(true) || land()
        });
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

type Task = (Arc<Flag>, Pin<Box<dyn Future<Output = ()>>>);

#[derive(Clone)]
pub struct Double {
    pub world: Rc<World>,
    tasks: Rc<RefCell<Vec<Task>>>,
    spawned: Rc<RefCell<Vec<Task>>>,
    now: Rc<Cell<u64>>,
    timers: Rc<RefCell<BTreeSet<u64>>>,
}

impl Double {
    pub fn new(world: &Rc<World>) -> Self {
        Double {
            world: world.clone(),
            tasks: Rc::default(),
            spawned: Rc::default(),
            now: Rc::default(),
            timers: Rc::default(),
        }
    }

    /// Runs `main` and all tasks until `main` ends.
    pub fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        loop {
            self.world.turns.set(self.world.turns.get() + 1);
            let mut moved = false;
            if flag.0.swap(false, Ordering::SeqCst) {
                moved = true;
                let waker = Waker::from(flag.clone());
                if let Poll::Ready(v) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return v;
                }
            }
            self.tasks.borrow_mut().append(&mut self.spawned.borrow_mut());
            let mut tasks = std::mem::take(&mut *self.tasks.borrow_mut());
            tasks.retain_mut(|(flag, task)| {
                if !flag.0.swap(false, Ordering::SeqCst) {
                    return true;
                }
                moved = true;
                let waker = Waker::from(flag.clone());
                task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
            });
            self.tasks.borrow_mut().append(&mut tasks);
            if !moved {
                let next = self.timers.borrow_mut().pop_first().expect("nobody will ever wake");
                self.now.set(self.now.get().max(next));
                // Timers are few: everybody looks again.
                flag.0.store(true, Ordering::SeqCst);
                self.tasks.borrow().iter().for_each(|t| t.0.0.store(true, Ordering::SeqCst));
            }
        }
    }

    /// Ends the process: tasks and open files go, the disk stays.
    pub fn kill(self) {
        self.tasks.borrow_mut().clear();
        self.spawned.borrow_mut().clear();
    }

    fn node(&self, path: &Path) -> io::Result<Rc<Node>> {
        self.world.files.borrow().get(path).cloned().ok_or(io::ErrorKind::NotFound.into())
    }
}

impl Runtime for Double {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawned.borrow_mut().push((Arc::new(Flag(AtomicBool::new(true))), Box::pin(task)));
    }
}

impl Clock for Double {
    fn now(&self) -> Mono {
        Mono(self.now.get())
    }

    fn wall(&self) -> Wall {
        Wall(self.now.get() / 1_000_000)
    }

    fn sleep_until(&self, at: Mono) -> impl Future<Output = ()> + 'static {
        let (now, timers) = (self.now.clone(), self.timers.clone());
        poll_fn(move |_| {
            if now.get() >= at.0 {
                return Poll::Ready(());
            }
            timers.borrow_mut().insert(at.0);
            Poll::Pending
        })
    }
}

impl Entropy for Double {
    fn fill(&self, out: &mut [u8]) {
        for b in out {
            let r = self.world.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
            self.world.random.set(r);
            *b = (r.wrapping_mul(r >> 7) >> 40) as u8;
        }
    }
}

static HANDLES: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

pub struct MemFile {
    world: Rc<World>,
    node: Rc<Node>,
    handle: u64,
    writable: bool,
}

impl Drop for MemFile {
    fn drop(&mut self) {
        if self.node.lock.get() == self.handle {
            self.node.lock.set(0);
        }
    }
}

impl MemFile {
    /// The contract of `OpenAs::NewArchive`.
    fn check_archive(&self, bytes: &SharedBytes, offset: usize, len: usize) {
        assert!(self.writable, "opened to read");
        assert_eq!(self.node.lock.get(), self.handle, "written without its lock");
        assert_eq!(offset, len, "written once, from the start on");
        assert!(bytes.len().is_multiple_of(PAGE) && offset.is_multiple_of(PAGE), "in whole pages");
    }
}

impl File for MemFile {
    async fn write_at(&self, bytes: SharedBytes, offset: u64) -> io::Result<()> {
        let mut yielded = false;
        poll_fn(|cx| {
            // Never done at once, like a real one.
            if self.world.hold_writes.get() || !yielded {
                yielded = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
        if let Some(kind) = self.world.fail_writes.get() {
            return Err(kind.into());
        }
        self.world.writes.set(self.world.writes.get() + 1);
        let mut data = self.node.data.borrow_mut();
        let end = offset as usize + bytes.len();
        if self.node.durable.borrow().is_some() {
            self.check_archive(&bytes, offset as usize, data.len());
            if let Some(room) = self.world.room.get() {
                let fits = (room as usize).min(bytes.len()) / SECTOR * SECTOR;
                self.world.room.set(Some(room - fits as u64));
                if fits < bytes.len() {
                    data.extend_from_slice(&bytes[..fits]);
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
        }
        if data.len() < end {
            data.resize(end, 0);
        }
        data[offset as usize..end].copy_from_slice(&bytes);
        Ok(())
    }

    async fn read_at(&self, mut buf: AlignedBuf, offset: u64) -> Lent<(), AlignedBuf> {
        self.world.reads.set(self.world.reads.get() + 1);
        let data = self.node.data.borrow();
        let rest = data.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buf.capacity());
        self.world.bytes_read.set(self.world.bytes_read.get() + n as u64);
        buf.set_len(0);
        buf.put(&rest[..n]);
        (Ok(()), buf)
    }

    async fn sync(&self) -> io::Result<()> {
        self.world.log.borrow_mut().push("sync".into());
        // What is written while a sync is in flight is not covered by it.
        let now = self.node.data.borrow().clone();
        yield_now().await;
        if self.world.fail_syncs.get() {
            return Err(io::ErrorKind::Other.into());
        }
        if let Some(durable) = self.node.durable.borrow_mut().as_mut() {
            *durable = now;
        }
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        if self.node.lock.get() == 0 {
            self.node.lock.set(self.handle);
        }
        Ok(self.node.lock.get() == self.handle)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.node.data.borrow().len() as u64)
    }
}

fn move_below<T>(names: &mut BTreeMap<PathBuf, T>, from: &Path, to: &Path) {
    let below: Vec<PathBuf> = names.keys().filter(|p| p.starts_with(from)).cloned().collect();
    for path in below {
        let node = names.remove(&path).expect("just listed");
        names.insert(to.join(path.strip_prefix(from).expect("is below")), node);
    }
}

impl Disk for Double {
    type File = MemFile;
    type Table = MemTable;

    async fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<()> {
        if self.world.fail_creates.get() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let node = Rc::new(Node { data: RefCell::new(vec![0; len as usize]), ..Node::default() });
        let old = self.world.files.borrow_mut().insert(path.to_owned(), node);
        assert!(old.is_none(), "{path:?} exists");
        Ok(())
    }

    async fn open(&self, path: &Path, how: OpenAs) -> io::Result<MemFile> {
        if how == OpenAs::NewSide {
            let old = self.world.files.borrow_mut().insert(path.to_owned(), Rc::default());
            assert!(old.is_none(), "a side file's name is never used twice");
        }
        if how == OpenAs::NewArchive {
            if self.world.fail_creates.get() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let node = Rc::new(Node { durable: RefCell::new(Some(Vec::new())), ..Node::default() });
            let old = self.world.files.borrow_mut().insert(path.to_owned(), node);
            assert!(old.is_none(), "the number of an archive segment is never used twice");
        }
        let node = self.node(path)?;
        let handle = HANDLES.fetch_add(1, Ordering::SeqCst);
        let writable = !matches!(how, OpenAs::Read | OpenAs::Archive);
        Ok(MemFile { world: self.world.clone(), node, handle, writable })
    }

    async fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let (files, tables) = (self.world.files.borrow(), self.world.tables.borrow());
        let files = files.iter().map(|(p, n)| (p, n.data.borrow().len() as u64));
        let all = files.chain(tables.keys().map(|p| (p, 4096)));
        let here = all.filter(|(p, _)| p.parent() == Some(dir));
        let name = |p: &Path| p.file_name().expect("a file").to_str().expect("text").to_owned();
        let mut here: Vec<_> = here.map(|(p, len)| (name(p), len)).collect();
        here.sort();
        Ok(here)
    }

    async fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        let (files, tables) = (self.world.files.borrow(), self.world.tables.borrow());
        let below = files.keys().chain(tables.keys()).filter_map(|p| p.strip_prefix(dir).ok());
        let parts = below.filter(|p| p.components().count() > 1).filter_map(|p| p.iter().next());
        let names: BTreeSet<_> = parts.map(|p| p.to_str().expect("text").to_owned()).collect();
        Ok(names.into_iter().collect())
    }

    async fn rename_dir(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.world.log.borrow_mut().push(format!("rename {} {}", from.display(), to.display()));
        move_below(&mut self.world.files.borrow_mut(), from, to);
        move_below(&mut self.world.tables.borrow_mut(), from, to);
        Ok(())
    }

    async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.world.log.borrow_mut().push(format!("remove {}", path.display()));
        let (files, tables) = (self.world.files.borrow(), self.world.tables.borrow());
        let empty = files.keys().chain(tables.keys()).all(|p| !p.starts_with(path));
        if empty { Ok(()) } else { Err(io::ErrorKind::DirectoryNotEmpty.into()) }
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.world.log.borrow_mut().push(format!("remove {}", path.display()));
        if self.world.tables.borrow_mut().remove(path).is_some() {
            return Ok(());
        }
        self.world.files.borrow_mut().remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.world.log.borrow_mut().push("sync_dir".into());
        let files = self.world.files.borrow();
        files.iter().filter(|(p, _)| p.parent() == Some(dir)).for_each(|(_, node)| node.named.set(true));
        Ok(())
    }

    async fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.world.free.get())
    }

    async fn open_table(&self, path: &Path, _: TableOptions) -> io::Result<MemTable> {
        let stored = self.world.tables.borrow_mut().entry(path.to_owned()).or_default().clone();
        let slow = stored.slow.get();
        if !slow.is_zero() {
            self.sleep_until(self.now().after(slow)).await;
        }
        MemTable::open(&stored)
    }
}

impl Net for Double {
    type Stream = Never;
    type Listener = NoListener<Never>;

    async fn connect(&self, _: SocketAddr, _: Option<IpAddr>, _: Mono) -> io::Result<Never> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

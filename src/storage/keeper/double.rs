//! A small in-memory runtime for the tests of the keeper: files, a clock that moves when nothing
//! else does, tasks polled only when woken (so a lost wake-up is a failed test), switches for faults.

use crate::base::aligned::{AlignedBuf, SharedBytes};
use crate::base::time::{Mono, Wall};
use crate::runtime::double::{Never, NoListener};
use crate::runtime::{Clock, Disk, Entropy, File, Lent, Net, OpenAs, Runtime};
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
    pub log: RefCell<Vec<String>>,
    pub fail_writes: Cell<Option<io::ErrorKind>>,
    pub fail_syncs: Cell<bool>,
    pub fail_creates: Cell<bool>,
    pub hold_writes: Cell<bool>,
    pub writes: Cell<u64>,
    pub free: Cell<u64>,
    pub random: Cell<u64>,
}

#[derive(Default)]
pub struct Node {
    pub data: RefCell<Vec<u8>>,
    pub lock: Cell<u64>,
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
}

impl Drop for MemFile {
    fn drop(&mut self) {
        if self.node.lock.get() == self.handle {
            self.node.lock.set(0);
        }
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
        if data.len() < end {
            data.resize(end, 0);
        }
        data[offset as usize..end].copy_from_slice(&bytes);
        Ok(())
    }

    async fn read_at(&self, mut buf: AlignedBuf, offset: u64) -> Lent<(), AlignedBuf> {
        let data = self.node.data.borrow();
        let rest = data.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buf.capacity());
        buf.set_len(0);
        buf.put(&rest[..n]);
        (Ok(()), buf)
    }

    async fn sync(&self) -> io::Result<()> {
        self.world.log.borrow_mut().push("sync".into());
        if self.world.fail_syncs.get() { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
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

impl Disk for Double {
    type File = MemFile;

    async fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<()> {
        if self.world.fail_creates.get() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let node = Rc::new(Node { data: RefCell::new(vec![0; len as usize]), lock: Cell::new(0) });
        let old = self.world.files.borrow_mut().insert(path.to_owned(), node);
        assert!(old.is_none(), "{path:?} exists");
        Ok(())
    }

    async fn open(&self, path: &Path, how: OpenAs) -> io::Result<MemFile> {
        if how == OpenAs::NewSide {
            let old = self.world.files.borrow_mut().insert(path.to_owned(), Rc::default());
            assert!(old.is_none(), "a side file's name is never used twice");
        }
        let node = self.node(path)?;
        let handle = HANDLES.fetch_add(1, Ordering::SeqCst);
        Ok(MemFile { world: self.world.clone(), node, handle })
    }

    async fn create_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let files = self.world.files.borrow();
        let here = files.iter().filter(|(p, _)| p.parent() == Some(dir));
        Ok(here
            .map(|(p, n)| {
                let name = p.file_name().expect("a file").to_str().expect("text").to_owned();
                (name, n.data.borrow().len() as u64)
            })
            .collect())
    }

    async fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        let files = self.world.files.borrow();
        let below = files.keys().filter_map(|p| p.strip_prefix(dir).ok());
        let parts = below.filter(|p| p.components().count() > 1).filter_map(|p| p.iter().next());
        let names: BTreeSet<_> = parts.map(|p| p.to_str().expect("text").to_owned()).collect();
        Ok(names.into_iter().collect())
    }

    async fn rename_dir(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.world.log.borrow_mut().push(format!("rename {} {}", from.display(), to.display()));
        let mut files = self.world.files.borrow_mut();
        let below: Vec<PathBuf> = files.keys().filter(|p| p.starts_with(from)).cloned().collect();
        for path in below {
            let node = files.remove(&path).expect("just listed");
            files.insert(to.join(path.strip_prefix(from).expect("is below")), node);
        }
        Ok(())
    }

    async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.world.log.borrow_mut().push(format!("remove {}", path.display()));
        let empty = self.world.files.borrow().keys().all(|p| !p.starts_with(path));
        if empty { Ok(()) } else { Err(io::ErrorKind::DirectoryNotEmpty.into()) }
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.world.log.borrow_mut().push(format!("remove {}", path.display()));
        self.world.files.borrow_mut().remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    async fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        self.world.log.borrow_mut().push("sync_dir".into());
        Ok(())
    }

    async fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.world.free.get())
    }
}

impl Net for Double {
    type Stream = Never;
    type Listener = NoListener<Never>;

    async fn connect(&self, _: SocketAddr, _: Option<IpAddr>, _: Mono) -> io::Result<Never> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

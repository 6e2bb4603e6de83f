//! L3: everything that touches clock, chance, sockets and files, behind four small traits.
//!
//! The shells (L4) are generic over [`Runtime`]; `uring` implements it on io_uring, the
//! simulator implements it in memory. Nothing here is `Send`: one runtime per core.
//!
//! Contract, for every operation: it owns its buffers while it runs and gives them back; a future,
//! once polled, is awaited to its end (dropping one does not cancel the kernel's work). To end
//! an operation early, set a deadline on its stream or shut the stream down.

use crate::base::aligned::{AlignedBuf, SharedBytes};
use crate::base::time::{Mono, Wall};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;

pub mod checks;
pub mod core;
pub mod cross;
#[cfg(test)]
pub mod double;
mod helper;
pub mod host;
pub mod listen;
pub mod memory;
pub mod moving;
pub mod notify;
pub mod pool;
pub mod privileges;
pub mod signals;
pub mod table;
pub mod uring;
pub mod worker;

pub use table::{Change, Changes, Packed, Pieces, Rows, ScanLimit, Table, TableOptions};

/// Result of an operation that borrowed a buffer, and the buffer.
pub type Lent<T, B> = (io::Result<T>, B);

/// A piece of a gathered send.
#[derive(Debug, Clone)]
pub enum Part {
    /// Bytes of its own (commands, replies, trace headers).
    Owned(Vec<u8>),
    /// Bytes shared with the journal's batch.
    Shared(SharedBytes),
    /// Bytes that live as long as the program.
    Static(&'static [u8]),
}

impl Part {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Part::Owned(b) => b,
            Part::Shared(b) => b,
            Part::Static(b) => b,
        }
    }
}

/// All a shell needs. Cheap to clone; one per core.
pub trait Runtime: Disk + Net + Clock + Entropy + Clone + 'static {
    /// Starts a task on this core. A panic in it ends that task only, and is counted.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    /// Starts a task whose panic must end the process: it owns state that is promised to be on
    /// stable storage. A runtime in which every panic is fatal need not tell the two apart.
    fn spawn_critical(&self, task: impl Future<Output = ()> + 'static) {
        self.spawn(task);
    }
}

/// Time.
pub trait Clock {
    /// Monotonic now. Costs about 20 ns; take it once per wake-up.
    fn now(&self) -> Mono;
    /// Wall-clock now.
    fn wall(&self) -> Wall;
    /// Waits until `at`; at once if it has passed. Resolution 1 ms.
    fn sleep_until(&self, at: Mono) -> impl Future<Output = ()> + 'static;
}

/// Chance.
pub trait Entropy {
    /// Fills `out` with random bytes fit for secrets.
    fn fill(&self, out: &mut [u8]);
    /// A random number for jitter and order; not for secrets.
    fn random(&self) -> u64 {
        let mut b = [0; 8];
        self.fill(&mut b);
        u64::from_le_bytes(b)
    }
}

/// Sockets.
pub trait Net {
    /// A connection.
    type Stream: Stream;
    /// A listening socket.
    type Listener: Listener<Stream = Self::Stream>;

    /// Connects within `deadline`; from `source` if given.
    fn connect(
        &self,
        to: SocketAddr,
        source: Option<IpAddr>,
        deadline: Mono,
    ) -> impl Future<Output = io::Result<Self::Stream>>;

    /// Connects to a socket in the file system within `deadline`. `Unsupported` where there are none.
    fn connect_path(&self, path: &Path, deadline: Mono) -> impl Future<Output = io::Result<Self::Stream>> {
        let _ = (path, deadline);
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

/// A listening socket.
pub trait Listener: 'static {
    /// What it accepts.
    type Stream: Stream;

    /// The next connection and its peer. Waits while descriptors are short (it does not spin).
    /// `ErrorKind::NotConnected` after [`Self::close`].
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>>;
    /// The address it is bound to (with the real port).
    fn local(&self) -> SocketAddr;
    /// Ends `accept` for ever.
    fn close(&self);
}

/// A connection. Dropping it closes it.
///
/// A runtime that can send and receive in one submission has its own methods for that; the ones
/// here do one after the other.
///
/// At most one receiving and one sending operation run at a time. An operation in flight when the
/// deadline passes, or started after it, ends with `ErrorKind::TimedOut` (within one second, and
/// the stream can still be used once a later deadline is set); bytes that a timed-out send had
/// already passed on are gone.
pub trait Stream: 'static {
    /// Appends what has arrived to `buf`, up to its capacity. `Ok(0)`: the peer has finished.
    fn recv(&self, buf: Vec<u8>) -> impl Future<Output = Lent<usize, Vec<u8>>>;
    /// Waits for bytes (or the end) without holding a buffer.
    fn readable(&self) -> impl Future<Output = io::Result<()>>;
    /// Sends all of `buf`.
    fn send(&self, buf: Vec<u8>) -> impl Future<Output = Lent<(), Vec<u8>>>;
    /// Sends all of `out`, then receives into `buf` as [`Self::recv`] does, in one submission.
    /// `out` comes back empty if all of it was sent; if not, the error is that of the send.
    fn send_recv(
        &self,
        out: Vec<u8>,
        buf: Vec<u8>,
    ) -> impl Future<Output = (io::Result<usize>, Vec<u8>, Vec<u8>)> {
        async move {
            let (sent, mut out) = self.send(out).await;
            if let Err(e) = sent {
                return (Err(e), out, buf);
            }
            out.clear();
            let (result, buf) = self.recv(buf).await;
            (result, out, buf)
        }
    }
    /// Sends all parts, in order.
    fn send_parts(&self, parts: Vec<Part>) -> impl Future<Output = Lent<(), Vec<Part>>>;
    /// Sends all parts, then receives into `buf`, in one submission.
    fn send_parts_recv(
        &self,
        parts: Vec<Part>,
        buf: Vec<u8>,
    ) -> impl Future<Output = (io::Result<usize>, Vec<Part>, Vec<u8>)> {
        async move {
            let (sent, parts) = self.send_parts(parts).await;
            if let Err(e) = sent {
                return (Err(e), parts, buf);
            }
            let (result, buf) = self.recv(buf).await;
            (result, parts, buf)
        }
    }
    /// Sets or clears the deadline of operations, running and to come.
    fn set_deadline(&self, at: Option<Mono>);
    /// Ends both directions now; operations in flight end.
    fn shutdown(&self);
    /// Ends our direction: the peer sees the end after all that was sent. Closing while input lies
    /// unread destroys what the peer has not read yet; so who has the last word finishes, and
    /// receives (for a bounded time) until the peer has finished too.
    fn finish(&self) {}
    /// Our address.
    fn local(&self) -> SocketAddr;
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenAs {
    /// A journal segment: read and written directly; a completed write is on stable storage.
    Segment,
    /// A new side file: must not exist; `sync` makes it durable.
    NewSide,
    /// A new archive segment: must not exist; written past the page cache in whole pages, each once,
    /// from the start on; `sync` makes it durable. Read in whole pages.
    NewArchive,
    /// An archive segment, to read only, in whole pages.
    Archive,
    /// To read only.
    Read,
}

/// Files. Paths are absolute. Slow operations run off the core.
pub trait Disk {
    /// An open file.
    type File: File;
    /// An open table.
    type Table: Table;

    /// Makes a file of `len` zero bytes really written (not just reserved), durable with its name.
    /// Fails if it exists. Appears under its name only when complete (a crash can leave
    /// `<name>.partial` behind, which the next try overwrites).
    fn create_zeroed(&self, path: &Path, len: u64) -> impl Future<Output = io::Result<()>>;
    /// Opens a file.
    fn open(&self, path: &Path, how: OpenAs) -> impl Future<Output = io::Result<Self::File>>;
    /// Makes a directory and its parents, durable.
    fn create_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Names and lengths of the plain files in a directory, sorted by name.
    fn list(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<(String, u64)>>>;
    /// Names of the directories in a directory, sorted.
    fn list_dirs(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<String>>>;
    /// Gives a directory another name beside the old one, durable. If the machine stops meanwhile,
    /// it has the one name or the other. Fails if the new name is taken.
    fn rename_dir(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>>;
    /// Removes an empty directory, durable.
    fn remove_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Removes a file, durable.
    fn remove(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Gives a file one more name on the same file system; [`Self::sync_dir`] makes it durable. Fails if the
    /// name is taken. `Unsupported`, or another error, where a file cannot have two: it is to be copied then.
    fn link(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>> {
        let _ = (from, to);
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>>;
    /// Bytes that an ordinary user can still allocate on the file system of `path`.
    fn free_bytes(&self, path: &Path) -> impl Future<Output = io::Result<u64>>;
    /// Opens the table at `path`, or makes an empty one. All of it is verified, which takes a time
    /// in proportion to its size.
    ///
    /// # Errors
    /// `InvalidData`: the file is not a sound table (damaged, cut off, something else); it can be
    /// removed and made anew. `ResourceBusy`: it is open in another process.
    fn open_table(&self, path: &Path, options: TableOptions)
    -> impl Future<Output = io::Result<Self::Table>>;
}

/// An open file. Dropping it closes it.
#[allow(clippy::len_without_is_empty)] // an empty file is not a special case here
pub trait File: 'static {
    /// Writes all of `bytes` at `offset`. A segment: offset and length in whole pages, durable
    /// when done. An archive segment: in whole pages. A short write is an error.
    fn write_at(&self, bytes: SharedBytes, offset: u64) -> impl Future<Output = io::Result<()>>;
    /// Reads up to the capacity of `buf` from `offset` (segments: in whole pages) and sets its
    /// length; fewer bytes only at the end of the file.
    fn read_at(&self, buf: AlignedBuf, offset: u64) -> impl Future<Output = Lent<(), AlignedBuf>>;
    /// Makes everything written durable, with the file's length.
    fn sync(&self) -> impl Future<Output = io::Result<()>>;
    /// Takes the exclusive lock of the file for this open description; `false` if another process
    /// (or its last writes, still in flight) holds it.
    fn try_lock(&self) -> io::Result<bool>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
}

/// Lets the other tasks of this core run first.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// Does both at the same time, until both are done.
pub async fn both<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    let (mut x, mut y) = (None, None);
    std::future::poll_fn(|cx| {
        if x.is_none() {
            x = ready(a.as_mut().poll(cx));
        }
        if y.is_none() {
            y = ready(b.as_mut().poll(cx));
        }
        if x.is_some() && y.is_some() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    (x.expect("done"), y.expect("done"))
}

fn ready<T>(poll: std::task::Poll<T>) -> Option<T> {
    match poll {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

/// One page-aligned buffer behind a count, as `write_at` wants it.
#[must_use]
pub fn shared(buf: AlignedBuf) -> SharedBytes {
    SharedBytes::whole(Rc::new(buf))
}

/// Keeps signals from the calling thread: only the control thread takes them.
#[allow(unsafe_code)]
fn block_signals() {
    // SAFETY: the set is a local value that `sigfillset` makes valid; the mask is this thread's.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}

/// For a test that changes its whole process: runs the test of that name again in a process of
/// its own and checks that it passes (`false`), or says that this is that process (`true`).
#[cfg(test)]
pub(crate) fn in_child(test: &str) -> bool {
    const MARK: &str = "RINGPOST_TEST_CHILD";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", test]).env(MARK, test).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

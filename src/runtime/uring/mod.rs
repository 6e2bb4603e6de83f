//! The runtime of one core on io_uring; the only place that knows tokio-uring and io-uring.
//!
//! Operations are our own one-shots (`ops`) on tokio-uring's ring; sockets in `net`, files in
//! `disk`, deadlines in `timer`. Knows nothing of mail.
//!
//! Rules that keep it sound: an operation owns all memory that the kernel touches, and a hold on its
//! descriptor; no `Drop` uses the ring; a runtime is never torn down inside a living process
//! (tokio-uring would free buffers that the kernel may still write to), so [`run`] leaks it.

#![allow(unsafe_code)]

use crate::base::time::{Mono, Wall};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

pub mod disk;
mod gather;
pub mod net;
pub(crate) mod ops;
mod socket;
mod timer;

/// How the ring of a core is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Entries of the submission queue, a power of two from 256 on.
    pub entries: u32,
    /// Entries of the completion queue, a power of two, at least `entries`.
    pub completions: u32,
    /// Completions do not interrupt the thread (COOP_TASKRUN); one thread submits
    /// (SINGLE_ISSUER). Off only to measure.
    pub cooperative: bool,
    /// How commits reach stable storage.
    pub write: WriteMethod,
}

impl Options {
    /// For the product: 4096 entries, 16384 completions; about 600 KiB of locked memory.
    #[must_use]
    pub const fn production() -> Self {
        Options { entries: 4096, completions: 16384, cooperative: true, write: WriteMethod::DirectDsync }
    }

    /// For tests and tools that make many rings: about 60 KiB of locked memory each.
    #[must_use]
    pub const fn small() -> Self {
        Options { entries: 256, completions: 1024, cooperative: true, write: WriteMethod::DirectDsync }
    }
}

/// How a write to a segment reaches stable storage before it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMethod {
    /// One `O_DIRECT|O_DSYNC` write.
    DirectDsync,
    /// An `O_DIRECT` write, then `fdatasync`.
    DirectThenSync,
    /// A write through the page cache, then `fdatasync`; where `O_DIRECT` is refused.
    BufferedThenSync,
}

/// What has happened on this core so far.
#[derive(Debug, Default)]
pub struct Stats {
    pub(crate) accept_pauses: Cell<u64>,
    pub(crate) panics: Cell<u64>,
}

impl Stats {
    /// Times that accepting rested because descriptors or memory were short.
    #[must_use]
    pub fn accept_pauses(&self) -> u64 {
        self.accept_pauses.get()
    }

    /// Tasks that ended in a panic.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.get()
    }
}

/// What the handles of one core share.
pub(crate) struct Core {
    timer: timer::Timer,
    stats: Stats,
    /// State of the generator for jitter.
    chance: Cell<u64>,
    on_panic: RefCell<Option<Rc<dyn Fn()>>>,
    write: WriteMethod,
}

/// The runtime of one core. Clones are handles of the same one.
#[derive(Clone)]
pub struct Uring {
    core: Rc<Core>,
}

/// Makes a ring on this thread and runs `main` on it to its end. Tasks that still run then are
/// left suspended with all they hold, and the ring is leaked; end them first.
///
/// # Errors
/// Those of `io_uring_setup`; `runtime::checks` explains them.
pub fn run<T, F: Future<Output = T>>(options: &Options, main: impl FnOnce(Uring) -> F) -> io::Result<T> {
    assert!(options.entries >= 256, "linked pairs must never be cut by a full queue");
    let mut builder = tokio_uring::builder();
    builder.entries(options.entries).uring_builder(&ring_flags(options));
    // Never dropped, not even by a panic of `main`.
    let runtime = ManuallyDrop::new(tokio_uring::Runtime::new(&builder)?);
    let result = runtime.block_on(async {
        let core = Rc::new(Core {
            timer: timer::Timer::new(),
            stats: Stats::default(),
            chance: Cell::new(random_u64()),
            on_panic: RefCell::new(None),
            write: options.write,
        });
        let uring = Uring { core };
        crate::runtime::Runtime::spawn_critical(&uring, timer::drive(uring.core.clone()));
        main(uring).await
    });
    Ok(result)
}

/// The ring as it is set up.
fn ring_flags(options: &Options) -> io_uring::Builder {
    let mut ring = io_uring::IoUring::builder();
    // DEFER_TASKRUN hangs tokio-uring. SUBMIT_ALL: a bad entry must not hold up those behind it.
    ring.setup_cqsize(options.completions).setup_clamp().setup_submit_all();
    if options.cooperative {
        ring.setup_coop_taskrun().setup_single_issuer();
    }
    ring
}

/// Makes a ring as [`run`] does and lists the operations in use that the kernel does not have.
///
/// # Errors
/// Those of `io_uring_setup` and `io_uring_register`.
pub fn probe(options: &Options) -> io::Result<Vec<&'static str>> {
    let ring = ring_flags(options).build(options.entries)?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let missing = ops::IN_USE.iter().filter(|(code, _)| !probe.is_supported(*code));
    Ok(missing.map(|(_, name)| *name).collect())
}

impl Uring {
    /// Sets what is called after a task has ended in a panic.
    pub fn on_panic(&self, hook: impl Fn() + 'static) {
        *self.core.on_panic.borrow_mut() = Some(Rc::new(hook));
    }

    /// What has happened so far.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.core.stats
    }

    /// The method by which segments are written where the file system allows it.
    #[must_use]
    pub fn write_method(&self) -> WriteMethod {
        self.core.write
    }
}

/// A task whose panic does not unwind further. A plain struct: an `async` block around the task
/// would hold it several times over, in every session.
struct Guarded<F> {
    task: F,
    /// Where a panic is counted; `None`: it ends the process.
    core: Option<Rc<Core>>,
}

impl<F: Future<Output = ()>> Future for Guarded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `task` is pinned with `self`: it is never moved out, `Guarded` has no `Drop` and
        // its auto traits follow from the fields. `core` is not pinned.
        let (task, core) = unsafe {
            let this = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut this.task), &this.core)
        };
        // After a panic the task is not polled again, only dropped: its session closes.
        catch_unwind(AssertUnwindSafe(|| task.poll(cx))).unwrap_or_else(|_| {
            let Some(core) = core else { std::process::abort() };
            core.stats.panics.set(core.stats.panics.get() + 1);
            let hook = core.on_panic.borrow().clone();
            if let Some(hook) = hook {
                hook();
            }
            Poll::Ready(())
        })
    }
}

impl crate::runtime::Runtime for Uring {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        tokio_uring::spawn(Guarded { task, core: Some(self.core.clone()) });
    }

    fn spawn_critical(&self, task: impl Future<Output = ()> + 'static) {
        tokio_uring::spawn(Guarded { task, core: None });
    }
}

/// Monotonic now; the same scale in every thread of the process.
#[must_use]
pub fn mono_now() -> Mono {
    let t = clock(libc::CLOCK_MONOTONIC);
    Mono(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
}

/// Wall-clock now; the epoch if the clock stands before it.
#[must_use]
pub fn wall_now() -> Wall {
    let t = clock(libc::CLOCK_REALTIME);
    Wall(u64::try_from(t.tv_sec).unwrap_or(0) * 1000 + t.tv_nsec as u64 / 1_000_000)
}

/// CPU time that this process has used so far, user and system, all threads.
#[must_use]
pub fn process_cpu() -> std::time::Duration {
    let t = clock(libc::CLOCK_PROCESS_CPUTIME_ID);
    std::time::Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

fn clock(id: libc::clockid_t) -> libc::timespec {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local value.
    let res = unsafe { libc::clock_gettime(id, &raw mut t) };
    assert_eq!(res, 0, "the standard clocks always exist");
    t
}

impl crate::runtime::Clock for Uring {
    fn now(&self) -> Mono {
        mono_now()
    }

    fn wall(&self) -> Wall {
        wall_now()
    }

    fn sleep_until(&self, at: Mono) -> impl Future<Output = ()> + 'static {
        tokio::time::sleep(at.since(mono_now()))
    }
}

/// Fills `out` from the kernel's generator.
pub fn fill_random(out: &mut [u8]) {
    let mut filled = 0;
    while filled < out.len() {
        let rest = &mut out[filled..];
        // SAFETY: pointer and length are those of a slice that we may write.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(n) {
            Ok(n) => filled += n,
            Err(_) => {
                let e = io::Error::last_os_error();
                assert_eq!(e.kind(), io::ErrorKind::Interrupted, "getrandom: {e}");
            }
        }
    }
}

/// Random bits of the kernel.
#[must_use]
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    fill_random(&mut bytes);
    u64::from_le_bytes(bytes)
}

impl crate::runtime::Entropy for Uring {
    fn fill(&self, out: &mut [u8]) {
        fill_random(out);
    }

    /// SplitMix64, seeded by the kernel.
    fn random(&self) -> u64 {
        let state = self.core.chance.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.core.chance.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests;

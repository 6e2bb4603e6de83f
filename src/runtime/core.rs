//! Core threads: one ring each, named, pinned if wanted.
//!
//! Knows which CPUs may be used; not what runs on them. An error when a ring is made is told to
//! the starter; a panic of a core's main task ends the process, for the core owns promises.
//!
//! A core's thread ends with the result of its main task and leaves the ring and the tasks that
//! still run as they are (see `uring`): when all cores have ended, the process exits.

#![allow(unsafe_code)]

use super::uring::{self, Uring};
use std::future::Future;
use std::io;
use std::mem::size_of;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

/// Whether core threads are tied to CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pin {
    /// From four usable CPUs on.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Pin {
    /// The decision for a number of usable CPUs.
    #[must_use]
    pub fn applies(self, usable: usize) -> bool {
        match self {
            Pin::Auto => usable >= 4,
            Pin::On => true,
            Pin::Off => false,
        }
    }
}

/// The CPUs this process may run on, in order (sched_getaffinity: cgroups and taskset count).
///
/// # Errors
/// Those of the system call.
pub fn usable_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: all zeros is an empty CPU set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is a local value of the length given.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: only reads the set; the numbers are within its size.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

/// Ties the calling thread to one CPU.
fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: all zeros is an empty CPU set, and the number is within its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    };
    // SAFETY: the set is a local value of the length given.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How long a core runs before another thread of its CPU has a turn, in nanoseconds. The scheduler lets a
/// thread that wakes go ahead of one that asks for longer turns: what hashes passwords asks for nothing and
/// has 3 ms or more, and that is what a session would wait.
const TURN_NANOS: u64 = 100_000;

/// Asks for short turns for the calling thread. From Linux 6.12 on; before that, and where it is refused,
/// nothing changes.
fn take_short_turns() {
    // SAFETY: reads the policy of the calling thread; no memory.
    if unsafe { libc::sched_getscheduler(0) } != libc::SCHED_OTHER {
        // Somebody has chosen another for the whole server.
        return;
    }
    // SAFETY: reads the priority of the calling thread; no memory.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let attr = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: TURN_NANOS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads a local value of the length that it states; only the calling thread (0)
    // changes.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
}

/// How a core thread is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the thread (at most 15 bytes are shown).
    pub name: String,
    /// The CPU to tie it to.
    pub cpu: Option<usize>,
    /// Its ring.
    pub ring: uring::Options,
}

/// A core thread that runs.
#[derive(Debug)]
pub struct Running<T> {
    thread: JoinHandle<Option<T>>,
    pinned: Option<io::Result<usize>>,
}

impl<T> Running<T> {
    /// The CPU it is tied to, or why it could not be (a service manager may forbid the call); it
    /// runs anyway. `None` if it was not asked for.
    #[must_use]
    pub fn pinned(&self) -> Option<&io::Result<usize>> {
        self.pinned.as_ref()
    }

    /// Waits for the end of the core's main task and gives its result. A panic of the core does
    /// not come back here: it has ended the process.
    #[must_use]
    pub fn join(self) -> T {
        match self.thread.join() {
            Ok(Some(result)) => result,
            // Without a result `start` has failed and there is no `Running`.
            Ok(None) | Err(_) => std::process::abort(),
        }
    }

    /// True if the main task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Ends the process if a panic drops it.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Starts a core thread that runs `main`; returns when its ring is made. The new thread takes no
/// signals.
///
/// # Errors
/// The thread or its ring cannot be made (`checks::ring_error` explains it).
pub fn start<T, F>(options: Options, main: impl FnOnce(Uring) -> F + Send + 'static) -> io::Result<Running<T>>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let (started, start) = sync_channel::<io::Result<Option<io::Result<usize>>>>(1);
    let name = options.name.clone();
    let body = move || {
        let _guard = AbortOnPanic;
        super::block_signals();
        take_short_turns();
        let pinned = options.cpu.map(|cpu| pin(cpu).map(|()| cpu));
        let ready = started.clone();
        let result = uring::run(&options.ring, move |uring| {
            // The starter waits for this one message, so the channel is open and has room.
            drop(ready.send(Ok(pinned)));
            main(uring)
        });
        result.map_err(|e| drop(started.send(Err(e)))).ok()
    };
    let thread = std::thread::Builder::new().name(name).spawn(body)?;
    let pinned = start.recv().map_err(|_| io::Error::other("the core thread has ended"))??;
    Ok(Running { thread, pinned })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Clock, Runtime};
    use std::time::Duration;

    #[test]
    fn cores_run_and_return() {
        let cpus = usable_cpus().unwrap();
        assert!(!cpus.is_empty());
        let cores: Vec<_> = (0..3)
            .map(|n| {
                let cpu = Some(cpus[n % cpus.len()]);
                let options = Options { name: format!("mta-{n}"), cpu, ring: uring::Options::small() };
                start(options, move |uring| async move {
                    // Left running: it must not keep the thread.
                    let clock = uring.clone();
                    uring.spawn(async move { clock.sleep_until(clock.now().after(Duration::MAX)).await });
                    uring.sleep_until(uring.now().after(Duration::from_millis(5))).await;
                    (n, usable_cpus().unwrap())
                })
                .unwrap()
            })
            .collect();
        for (n, core) in cores.into_iter().enumerate() {
            let cpu = cpus[n % cpus.len()];
            assert_eq!(*core.pinned().unwrap().as_ref().unwrap(), cpu);
            assert_eq!(core.join(), (n, vec![cpu]));
        }
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_reported() {
        let options = Options { name: "mta".into(), cpu: Some(1023), ring: uring::Options::small() };
        let core = start(options, |_| async { 7 }).unwrap();
        assert!(core.pinned().unwrap().is_err());
        assert_eq!(core.join(), 7);
    }

    #[test]
    fn pinning_by_default_from_four_cpus() {
        assert_eq!([1, 3, 4, 64].map(|n| Pin::Auto.applies(n)), [false, false, true, true]);
        assert!(Pin::On.applies(1) && !Pin::Off.applies(64));
    }
}

//! Slow file operations on threads of their own.
//!
//! Two threads for the process, started when first asked: one makes zero-filled files (long, at the
//! lowest priority), one does the rest, so that opening a file never waits behind a filling. Asked
//! through a channel, answered through a one-shot that any runtime can await. Queues are bounded
//! by the askers: each waits for its answer. An error is the operation's own; if a thread cannot
//! be started, every operation fails with that error.

#![allow(unsafe_code)]

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use tokio::sync::oneshot;

/// Which thread does the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lane {
    /// Short operations.
    Quick,
    /// Filling of segments.
    Fill,
}

type Job = Box<dyn FnOnce() + Send>;

static QUICK: OnceLock<Result<Sender<Job>, i32>> = OnceLock::new();
static FILL: OnceLock<Result<Sender<Job>, i32>> = OnceLock::new();

/// Does `work` on a helper thread.
pub(super) async fn ask<T: Send + 'static>(
    lane: Lane,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let queue = match lane {
        Lane::Quick => QUICK.get_or_init(|| start("files", 0)),
        Lane::Fill => FILL.get_or_init(|| start("filler", 19)),
    };
    let queue = queue.as_ref().map_err(|&errno| io::Error::from_raw_os_error(errno))?;
    let (answer, answered) = oneshot::channel();
    // If nobody waits any more, the answer (an open file, say) is dropped here, which closes it.
    let job: Job = Box::new(move || drop(answer.send(work())));
    queue.send(job).map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?
}

fn gone() -> io::Error {
    io::Error::other("the helper thread for files has ended")
}

/// Starts a helper thread with `nice` added to its priority value.
fn start(name: &str, nice: i32) -> Result<Sender<Job>, i32> {
    let (jobs, queue) = channel::<Job>();
    let body = move || {
        super::block_signals();
        if nice > 0 {
            // SAFETY: changes the priority of the calling thread (0) alone; no memory. If it is
            // refused, the thread works at normal priority.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
        }
        while let Ok(job) = queue.recv() {
            job();
        }
    };
    match std::thread::Builder::new().name(name.into()).spawn(body) {
        Ok(_) => Ok(jobs),
        Err(e) => Err(e.raw_os_error().unwrap_or(libc::EAGAIN)),
    }
}

//! L4: the threads that sign with keys whose signatures take long (RSA), and verify what takes long
//! (`verify`), so that mail cores do not.
//!
//! A few threads for the whole process with a bounded queue each. Beyond the bound the answer is [`Busy`] at
//! once, and whoever asked puts the message off: nothing goes out unsigned, or counts as verified, for it.
//! What waits is bounded in time by that, too, for no signature takes longer than some milliseconds, and no
//! message to verify longer than some tens of them. A core never waits for a thread. A panic of the work is
//! a [`Busy`] for who asked.

use crate::runtime::worker;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use tokio::sync::oneshot;

/// Jobs that wait for one thread: half a second's work with keys of 4096 bits.
const WAITING: usize = 128;
/// Added to the priority value of the threads: the mail cores come first.
const NICE: i32 = 5;

/// Too much to do: not now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

type Job = Box<dyn FnOnce() + Send>;

/// The threads; for the whole process. Cheap to clone.
#[derive(Clone)]
pub struct Threads(Arc<Inner>);

struct Inner {
    queues: Vec<SyncSender<Job>>,
    next: AtomicUsize,
}

impl Threads {
    /// Starts `count` threads. They end when the last handle is gone.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(count: usize) -> io::Result<Threads> {
        let start = |n: usize| {
            let (jobs, queue) = sync_channel::<Job>(WAITING);
            worker::start(format!("sign-{n}"), NICE, move || work_off(&queue))?;
            Ok(jobs)
        };
        let queues = (0..count.max(1)).map(start).collect::<io::Result<Vec<_>>>()?;
        Ok(Threads(Arc::new(Inner { queues, next: AtomicUsize::new(0) })))
    }

    /// Has the work done.
    ///
    /// # Errors
    /// Too much waits.
    pub async fn ask<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let (answer, answered) = oneshot::channel();
        let mut job: Job = Box::new(move || {
            // Who has gone meanwhile needs no answer.
            if !answer.is_closed() {
                let _ = answer.send(work());
            }
        });
        let count = self.0.queues.len();
        let first = self.0.next.fetch_add(1, Ordering::Relaxed);
        for n in 0..count {
            match self.0.queues[(first.wrapping_add(n)) % count].try_send(job) {
                Ok(()) => return answered.await.map_err(|_| Busy),
                Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => job = back,
            }
        }
        Err(Busy)
    }
}

fn work_off(queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        // Who asked learns it by the end of its channel.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::sync::mpsc::channel;
    use std::task::{Context, Waker};

    #[test]
    fn work_is_done_bounded_and_may_panic() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let threads = Threads::start(1).unwrap();
            assert_eq!(threads.ask(|| 7).await, Ok(7));
            assert_eq!(threads.ask(|| -> u8 { panic!("on purpose") }).await, Err(Busy));
            assert_eq!(threads.ask(|| 8).await, Ok(8), "the thread lives on");
            // One is worked on, the others wait; one more is too many.
            let (open, gate) = channel::<()>();
            let (began, begun) = channel::<()>();
            let tell = move || {
                began.send(()).unwrap();
                gate.recv().unwrap();
            };
            let mut cx = Context::from_waker(Waker::noop());
            let mut first = Box::pin(threads.ask(tell));
            assert!(first.as_mut().poll(&mut cx).is_pending());
            begun.recv().unwrap();
            let mut waiting: Vec<_> = (0..WAITING).map(|_| Box::pin(threads.ask(|| ()))).collect();
            assert!(waiting.iter_mut().all(|one| one.as_mut().poll(&mut cx).is_pending()));
            assert_eq!(threads.ask(|| ()).await, Err(Busy));
            open.send(()).unwrap();
            assert_eq!(first.await, Ok(()));
            for one in waiting {
                assert_eq!(one.await, Ok(()));
            }
        });
    }
}

//! L4: the threads that check passwords, and one core's queue to them.
//!
//! A few threads of low priority for the whole process; each core gives each of them at most
//! two jobs at a time and keeps the others in a bounded queue that is fair by network
//! ([`super::fair`]). Beyond the bound, and after too long a wait, the answer is [`Busy`] without any
//! work. A core never waits for a thread. A panic of a hash is a [`Busy`] for who asked.

use super::fair::{Fair, Network};
use super::sasl::{Hash, Verifier};
use super::scheme::Credential;
use crate::base::secret::Secret;
use crate::metrics;
use crate::runtime::{Runtime, worker, yield_now};
use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::oneshot;

/// Jobs of one core that one thread has at most: one it works on, one for right after.
const IN_HAND: usize = 2;
/// Added to the priority value of the threads.
const NICE: i32 = 10;

/// Work that takes long.
#[derive(Debug)]
pub enum Work {
    /// Does the password fit?
    Fits(Credential, Secret),
    /// The verifier of a password that the store has in clear text.
    Make {
        /// Of the mechanism.
        hash: Hash,
        /// Prepared.
        password: Secret,
        /// Of the verifier.
        salt: [u8; 16],
        /// Of the verifier.
        iterations: u32,
    },
}

/// What has come of it.
#[derive(Debug)]
pub enum Done {
    /// Of [`Work::Fits`].
    Fits(bool),
    /// Of [`Work::Make`].
    Made(Verifier),
}

impl Work {
    fn run(&self) -> Done {
        match self {
            Work::Fits(credential, password) => Done::Fits(credential.fits(password)),
            Work::Make { hash, password, salt, iterations } => {
                Done::Made(Verifier::make(*hash, password.expose(), salt, *iterations))
            }
        }
    }
}

/// Too much to do: not now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

struct Job {
    work: Work,
    answer: oneshot::Sender<Done>,
}

/// The threads; for the whole process.
#[derive(Clone)]
pub struct Threads(Vec<SyncSender<Job>>);

impl Threads {
    /// Starts `count` threads for `cores` cores. They end when the last handle is gone.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(count: usize, cores: usize) -> io::Result<Threads> {
        let start = |n: usize| {
            let (jobs, queue) = sync_channel(cores * IN_HAND);
            worker::start(format!("hash-{n}"), NICE, move || work_off(&queue))?;
            Ok(jobs)
        };
        (0..count.max(1)).map(start).collect::<io::Result<Vec<_>>>().map(Threads)
    }
}

fn work_off(queue: &Receiver<Job>) {
    while let Ok(Job { work, answer }) = queue.recv() {
        // Who has gone meanwhile needs no answer.
        if answer.is_closed() {
            continue;
        }
        if let Ok(done) = catch_unwind(AssertUnwindSafe(|| work.run())) {
            // It may have gone just now.
            let _ = answer.send(done);
        }
    }
}

/// Limits of a core's queue.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Jobs that wait.
    pub waiting: usize,
    /// How long one may take, the wait included.
    pub time: Duration,
}

/// One core's queue to the threads. Cheap to clone.
pub struct Hashing<R: Runtime>(Rc<Inner<R>>);

struct Inner<R: Runtime> {
    rt: R,
    threads: Threads,
    limits: Limits,
    metrics: metrics::Core,
    state: RefCell<State>,
}

struct State {
    waiting: Fair<Job>,
    /// Jobs that each thread has of this core.
    in_hand: Vec<usize>,
}

impl<R: Runtime> Clone for Hashing<R> {
    fn clone(&self) -> Self {
        Hashing(self.0.clone())
    }
}

impl<R: Runtime> Hashing<R> {
    /// A core's queue to `threads`.
    #[must_use]
    pub fn new(rt: R, threads: Threads, limits: Limits, metrics: metrics::Core) -> Self {
        let state =
            State { waiting: Fair::new(limits.waiting, rt.random()), in_hand: vec![0; threads.0.len()] };
        Hashing(Rc::new(Inner { rt, threads, limits, metrics, state: RefCell::new(state) }))
    }

    /// Has the work done for a client of `network`.
    ///
    /// # Errors
    /// Too many wait, or this has waited for too long.
    pub async fn ask(&self, network: Network, work: Work) -> Result<Done, Busy> {
        let (answer, answered) = oneshot::channel();
        // Whose job gives way learns it by the end of its channel.
        let lost = self.0.state.borrow_mut().waiting.push(network, Job { work, answer }).is_err();
        if lost {
            self.0.metrics.auth_overflow.increment(1);
        }
        self.dispatch();
        let late = self.0.rt.sleep_until(self.0.rt.now().after(self.0.limits.time));
        tokio::select! {
            biased;
            done = answered => done.map_err(|_| Busy),
            // Who has gone is passed over when its turn comes.
            () = late => Err(Busy),
        }
    }

    /// A login from `network` has failed.
    pub fn failed(&self, network: Network) {
        self.0.state.borrow_mut().waiting.failed(network, self.0.rt.now());
    }

    /// A login from `network` has succeeded.
    pub fn succeeded(&self, network: Network) {
        self.0.state.borrow_mut().waiting.succeeded(network, self.0.rt.now());
    }

    /// Gives the threads what they can take.
    fn dispatch(&self) {
        let inner = &self.0;
        let mut state = inner.state.borrow_mut();
        loop {
            let free = (0..state.in_hand.len()).min_by_key(|&n| state.in_hand[n]);
            let Some(thread) = free.filter(|&n| state.in_hand[n] < IN_HAND) else { break };
            let Some((network, job)) = state.waiting.pop() else { break };
            if job.answer.is_closed() {
                state.waiting.ended(network);
                continue;
            }
            let (answer, answered) = oneshot::channel();
            let asker = job.answer;
            if inner.threads.0[thread].try_send(Job { work: job.work, answer }).is_err() {
                // Dropping the job is the answer.
                state.waiting.ended(network);
                continue;
            }
            state.in_hand[thread] += 1;
            inner.metrics.auth_hashes.increment(1);
            let this = self.clone();
            inner.rt.spawn(async move {
                if let Ok(done) = answered.await {
                    // Who asked may have gone.
                    let _ = asker.send(done);
                }
                // Who asked says first how the login has ended.
                yield_now().await;
                {
                    let mut state = this.0.state.borrow_mut();
                    state.in_hand[thread] -= 1;
                    state.waiting.ended(network);
                }
                this.dispatch();
            });
        }
        inner.metrics.auth_waiting.set(state.waiting.len() as f64);
    }
}

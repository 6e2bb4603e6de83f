//! The world: tasks, virtual time, chance and the trace of one simulated history.
//!
//! Owns the executor (a random ready task each step), the clock (jumps to the next event when
//! nobody is ready) and the list of violated promises. Knows neither disk nor net nor mail: those
//! schedule events here. A panic of a task leaves [`World::block_on`] and fails the seed.

use crate::rng::{Rng, mix};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

/// A group of tasks that dies together; 0 is the harness and never dies.
pub type Node = u32;

/// Nanoseconds of virtual time in a microsecond, millisecond and second.
pub const US: u64 = 1_000;
/// See [`US`].
pub const MS: u64 = 1_000_000;
/// See [`US`].
pub const SEC: u64 = 1_000_000_000;

/// More steps than any honest history takes: somebody spins.
const STEPS_MAX: u64 = 20_000_000;

/// How a node ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// SIGKILL: the kernel lives on, closes its sockets and finishes (some of) its writes.
    Process,
    /// Power loss: nothing is sent any more, and only what was durable stays.
    Power,
}

/// Shared handle to the world.
/// What happens at its time.
type Event = Box<dyn FnOnce()>;

#[derive(Clone)]
pub struct World(Rc<Inner>);

struct Inner {
    rng: RefCell<Rng>,
    now: Cell<u64>,
    /// By time and number.
    events: RefCell<BTreeMap<(u64, u64), Event>>,
    next_event: Cell<u64>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    next_task: Cell<u64>,
    ready: Arc<Mutex<Vec<u64>>>,
    polling: Cell<Node>,
    dying: Cell<Option<Death>>,
    steps: Cell<u64>,
    hash: Cell<u64>,
    show: bool,
    violations: RefCell<Vec<String>>,
}

struct Task {
    node: Node,
    /// Taken out while it is polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Arc<TaskWaker>,
}

struct TaskWaker {
    id: u64,
    queued: AtomicBool,
    ready: Arc<Mutex<Vec<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.lock().expect("one thread").push(self.id);
        }
    }
}

impl World {
    /// The world of `seed`; `show` prints one line per event:
    /// microseconds, node, what happened, two numbers that depend on what it is.
    pub fn new(seed: u64, show: bool) -> Self {
        World(Rc::new(Inner {
            rng: RefCell::new(Rng::new(seed)),
            now: Cell::new(SEC),
            events: RefCell::default(),
            next_event: Cell::new(0),
            tasks: RefCell::default(),
            next_task: Cell::new(1),
            ready: Arc::default(),
            polling: Cell::new(0),
            dying: Cell::new(None),
            steps: Cell::new(0),
            hash: Cell::new(seed),
            show,
            violations: RefCell::default(),
        }))
    }

    /// Runs until `main`, a task of the harness, is done. `None`, and a violation, if it can
    /// never be done (everybody waits) or somebody spins.
    pub fn block_on<T: 'static>(&self, main: impl Future<Output = T> + 'static) -> Option<T> {
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        self.spawn(0, async move {
            let value = main.await;
            *slot.borrow_mut() = Some(value);
        });
        while result.borrow().is_none() {
            if !self.step() {
                return None;
            }
        }
        result.take()
    }

    fn step(&self) -> bool {
        let inner = &self.0;
        inner.steps.set(inner.steps.get() + 1);
        if inner.steps.get() > STEPS_MAX {
            self.violation(format!("livelock: {STEPS_MAX} steps"));
            return false;
        }
        inner.now.set(inner.now.get() + self.below(2 * US));
        self.fire_due();
        let picked = {
            let mut ready = inner.ready.lock().expect("one thread");
            let count = ready.len() as u64;
            (count > 0).then(|| ready.swap_remove(inner.rng.borrow_mut().next() as usize % count as usize))
        };
        if let Some(id) = picked {
            self.poll(id);
            return true;
        }
        let next = inner.events.borrow().keys().next().map(|k| k.0);
        match next {
            Some(at) => inner.now.set(at.max(inner.now.get())),
            None => self.violation("deadlock: no task is ready and nothing will happen".to_owned()),
        }
        next.is_some()
    }

    fn fire_due(&self) {
        loop {
            let due = {
                let mut events = self.0.events.borrow_mut();
                match events.first_entry() {
                    Some(e) if e.key().0 <= self.now() => Some(e.remove()),
                    _ => None,
                }
            };
            let Some(event) = due else { return };
            event();
        }
    }

    fn poll(&self, id: u64) {
        let (node, mut future, waker) = {
            let mut tasks = self.0.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(&id) else { return };
            task.waker.queued.store(false, Ordering::Relaxed);
            let Some(future) = task.future.take() else { return };
            (task.node, future, task.waker.clone())
        };
        self.0.polling.set(node);
        let done = future.as_mut().poll(&mut Context::from_waker(&Waker::from(waker))).is_ready();
        self.0.polling.set(0);
        let alive = {
            let mut tasks = self.0.tasks.borrow_mut();
            if done {
                tasks.remove(&id);
                None
            } else if let Some(task) = tasks.get_mut(&id) {
                task.future = Some(future);
                None
            } else {
                Some(future)
            }
        };
        // A task whose node was killed while it was polled dies here.
        drop(alive);
    }

    /// Starts a task of `node`.
    pub fn spawn(&self, node: Node, future: impl Future<Output = ()> + 'static) {
        let id = self.0.next_task.replace(self.0.next_task.get() + 1);
        let waker = Arc::new(TaskWaker { id, queued: AtomicBool::new(false), ready: self.0.ready.clone() });
        let task = Task { node, future: Some(Box::pin(future)), waker: waker.clone() };
        self.0.tasks.borrow_mut().insert(id, task);
        waker.wake();
    }

    /// Ends all tasks of `node`, wherever they wait.
    pub fn kill(&self, node: Node, how: Death) {
        assert!(node != 0 && node != self.0.polling.get(), "a node is killed from outside");
        self.event("kill", u64::from(node), how as u64);
        let dead: Vec<Task> = {
            let mut tasks = self.0.tasks.borrow_mut();
            let ids: Vec<u64> = tasks.iter().filter(|(_, t)| t.node == node).map(|(&id, _)| id).collect();
            ids.iter().filter_map(|id| tasks.remove(id)).collect()
        };
        self.0.dying.set(Some(how));
        drop(dead);
        self.0.dying.set(None);
    }

    /// How the node whose tasks are being dropped right now dies, if one does.
    pub fn dying(&self) -> Option<Death> {
        self.0.dying.get()
    }

    /// Virtual nanoseconds.
    pub fn now(&self) -> u64 {
        self.0.now.get()
    }

    /// A random number below `n` (0 for 0).
    pub fn below(&self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.0.rng.borrow_mut().next() % n }
    }

    /// True `n` times in ten thousand.
    pub fn chance(&self, n: u64) -> bool {
        n > 0 && self.below(10_000) < n
    }

    /// Lets `event` happen after `delay` nanoseconds.
    pub fn after(&self, delay: u64, event: impl FnOnce() + 'static) {
        self.at(self.now().saturating_add(delay), event);
    }

    /// Lets `event` happen at `when`.
    pub fn at(&self, when: u64, event: impl FnOnce() + 'static) {
        let number = self.0.next_event.replace(self.0.next_event.get() + 1);
        self.0.events.borrow_mut().insert((when, number), Box::new(event));
    }

    /// Waits `delay` nanoseconds; may be dropped.
    pub async fn pause(&self, delay: u64) {
        let op = Op::free(self);
        let slot = op.clone_slot();
        self.after(delay, move || slot.finish(()));
        op.await;
    }

    /// Adds an event to the trace and its hash.
    pub fn event(&self, what: &'static str, a: u64, b: u64) {
        let h = self.0.hash.get();
        let word = crate::rng::hash(what.as_bytes()) ^ mix(a).rotate_left(7) ^ mix(b).rotate_left(19);
        self.0.hash.set(mix(h.rotate_left(5) ^ word ^ self.now()));
        if self.0.show {
            eprintln!("{:>12} {} {what} {a} {b}", self.now() / US, self.0.polling.get());
        }
    }

    /// Hash of all events so far: equal for two runs of one seed.
    pub fn trace_hash(&self) -> u64 {
        self.0.hash.get()
    }

    /// Records a broken promise.
    pub fn violation(&self, what: String) {
        if self.0.show {
            eprintln!("{:>12} {} VIOLATION {what}", self.now() / US, self.0.polling.get());
        }
        self.0.violations.borrow_mut().push(what);
    }

    /// The broken promises so far.
    pub fn violations(&self) -> Vec<String> {
        self.0.violations.borrow().clone()
    }

    /// Ends the world: drops all tasks and events (they hold the world, so it would never go).
    pub fn end(&self) {
        self.0.dying.set(Some(Death::Power));
        loop {
            let tasks = self.0.tasks.take();
            let events = self.0.events.take();
            if tasks.is_empty() && events.is_empty() {
                return;
            }
        }
    }
}

/// An operation in flight: finished by an event of the world.
///
/// The contract of `runtime` says that an operation that has begun is awaited to its end; dropping
/// one early is a violation, unless its node dies or it is [`Op::free`].
pub struct Op<T> {
    world: World,
    name: Option<&'static str>,
    slot: Slot<T>,
    done: bool,
}

/// The side of an [`Op`] that finishes it.
pub struct Slot<T>(Rc<RefCell<(Option<T>, Option<Waker>)>>);

impl<T> Slot<T> {
    /// Ends the operation.
    pub fn finish(self, value: T) {
        let waker = {
            let mut slot = self.0.borrow_mut();
            slot.0 = Some(value);
            slot.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Op<T> {
    /// An operation that must be awaited to its end.
    pub fn new(world: &World, name: &'static str) -> Self {
        Op { world: world.clone(), name: Some(name), slot: Slot(Rc::default()), done: false }
    }

    /// An operation that may be dropped.
    pub fn free(world: &World) -> Self {
        Op { world: world.clone(), name: None, slot: Slot(Rc::default()), done: false }
    }

    /// The other side.
    pub fn clone_slot(&self) -> Slot<T> {
        Slot(self.slot.0.clone())
    }
}

impl<T> Future for Op<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let taken = {
            let mut slot = self.slot.0.borrow_mut();
            slot.1 = Some(cx.waker().clone());
            slot.0.take()
        };
        match taken {
            Some(value) => {
                self.done = true;
                Poll::Ready(value)
            }
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for Op<T> {
    fn drop(&mut self) {
        let Some(name) = self.name else { return };
        if !self.done && self.world.dying().is_none() && !std::thread::panicking() {
            self.world.violation(format!("{name} was dropped in flight"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn race(seed: u64) -> (Vec<u32>, u64) {
        let world = World::new(seed, false);
        let log = Rc::new(RefCell::new(Vec::new()));
        for i in 0..6 {
            let (w, log) = (world.clone(), log.clone());
            world.spawn(1, async move {
                w.pause(w.below(3) * MS).await;
                w.event("ran", u64::from(i), 0);
                log.borrow_mut().push(i);
            });
        }
        let w = world.clone();
        world.block_on(async move { w.pause(SEC).await });
        let hash = world.trace_hash();
        world.end();
        (log.take(), hash)
    }

    #[test]
    fn one_seed_is_one_history_and_seeds_differ() {
        assert_eq!(race(7), race(7));
        let orders: std::collections::BTreeSet<_> = (0..20).map(|s| race(s).0).collect();
        assert!(orders.len() > 10, "only {} orders in 20 seeds", orders.len());
    }

    #[test]
    fn a_killed_node_stops_and_the_clock_jumps() {
        let world = World::new(1, false);
        let ticks = Rc::new(Cell::new(0));
        let (w, t) = (world.clone(), ticks.clone());
        world.spawn(3, async move {
            loop {
                w.pause(SEC).await;
                t.set(t.get() + 1);
            }
        });
        let w = world.clone();
        world.block_on(async move {
            w.pause(3600 * SEC).await;
            w.kill(3, Death::Process);
            w.pause(3600 * SEC).await;
        });
        assert!((3590..=3600).contains(&ticks.get()), "{} ticks", ticks.get());
        assert!(world.violations().is_empty());
        world.end();
    }

    #[test]
    fn deadlock_and_dropped_operations_are_reported() {
        let world = World::new(1, false);
        let w = world.clone();
        let never = world.block_on(async move {
            drop(Op::<()>::new(&w, "recv"));
            Op::<()>::free(&w).await;
        });
        assert!(never.is_none());
        let seen = world.violations();
        assert!(seen[0].contains("recv was dropped") && seen[1].contains("deadlock"), "{seen:?}");
        world.end();
    }
}

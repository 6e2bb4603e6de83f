//! The deadlines of one core: a wheel of sockets and the task that drives it.
//!
//! A tick is 2^27 ns (134 ms); a deadline fires within two of them. The task sleeps until the
//! wheel has something to do, so an idle core is not woken.

use super::socket::Socket;
use crate::base::time::Mono;
use crate::base::wheel::{Key, Wheel};
use crate::runtime::uring::{Core, mono_now};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

const TICK_BITS: u32 = 27;

/// Sockets looked at in one turn of the loop: each may queue a cancel, and the ring's submission
/// queue must never fill up within a turn (a flush in between would cut linked pairs).
const PER_TURN: usize = 256;

/// The task looks at the clock this often at least; keeps times within what the timer can take.
const LONGEST: Duration = Duration::from_secs(3600);

/// The first tick that begins at `at` or later.
pub(super) fn tick_of(at: Mono) -> u64 {
    (at.0 >> TICK_BITS) + 1
}

/// The tick that has begun by `now`.
fn current_tick(now: Mono) -> u64 {
    now.0 >> TICK_BITS
}

/// The wheel and what wakes its task.
pub(super) struct Timer {
    wheel: RefCell<Wheel<Weak<Socket>>>,
    /// The tick until which the task sleeps; 0 while it runs.
    asleep_until: Cell<u64>,
    task: Cell<Option<Waker>>,
}

impl Timer {
    pub(super) fn new() -> Self {
        Timer {
            wheel: RefCell::new(Wheel::new(current_tick(mono_now()))),
            asleep_until: Cell::new(0),
            task: Cell::new(None),
        }
    }

    pub(super) fn insert(&self, tick: u64, socket: Weak<Socket>) -> Key {
        let key = self.wheel.borrow_mut().insert(tick, socket);
        if tick < self.asleep_until.get()
            && let Some(task) = self.task.take()
        {
            task.wake();
        }
        key
    }

    pub(super) fn cancel(&self, key: Key) {
        self.wheel.borrow_mut().cancel(key);
    }
}

/// Drives the wheel of `core` for ever.
pub(super) async fn drive(core: Rc<Core>) {
    let timer = &core.timer;
    let mut due: Vec<Weak<Socket>> = Vec::new();
    let mut sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
    poll_fn(|cx| -> Poll<()> {
        timer.asleep_until.set(0);
        let now = mono_now();
        let tick = current_tick(now);
        if due.is_empty() {
            timer.wheel.borrow_mut().advance(tick, |socket| due.push(socket));
        }
        // The wheel is not borrowed here: sockets put themselves into it again.
        for socket in due.drain(..due.len().min(PER_TURN)) {
            if let Some(socket) = socket.upgrade() {
                socket.on_tick(tick);
            }
        }
        if !due.is_empty() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = timer.wheel.borrow().next();
        timer.asleep_until.set(next.unwrap_or(u64::MAX));
        timer.task.set(Some(cx.waker().clone()));
        if let Some(next) = next {
            let wait = Mono(next.saturating_mul(1 << TICK_BITS)).since(now).min(LONGEST);
            sleep.as_mut().reset(tokio::time::Instant::now() + wait);
            if sleep.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    })
    .await;
}

//! L4: waiting of tasks on one core for one another, by plain wakers. No timers, no allocation in
//! steady state.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Wakes the tasks of this core that wait for something to happen.
#[derive(Default)]
pub(in crate::storage) struct Bell {
    rung: Cell<u64>,
    heard: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Bell {
    pub(in crate::storage) fn ring(&self) {
        self.rung.set(self.rung.get() + 1);
        // Taken out one by one: a waker may call back.
        loop {
            let waker = self.waiting.borrow_mut().pop();
            match waker {
                Some(w) => w.wake(),
                None => break,
            }
        }
    }

    /// For the one task that serves this bell: a ring since it last heard one counts.
    pub(in crate::storage) async fn next(&self) {
        self.after(self.heard.get()).await;
        self.heard.set(self.rung.get());
    }

    /// For any number of tasks: the next ring from now.
    pub(in crate::storage) async fn changed(&self) {
        self.after(self.rung.get()).await;
    }

    async fn after(&self, seen: u64) {
        poll_fn(|cx| {
            if self.rung.get() != seen {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|w| w.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    #[test]
    fn one_ring_is_for_all_who_wait_and_kept_for_the_one_who_serves() {
        let (bell, mut cx) = (Bell::default(), Context::from_waker(Waker::noop()));
        let (mut a, mut b, mut c) = (pin!(bell.changed()), pin!(bell.changed()), pin!(bell.changed()));
        assert!(a.as_mut().poll(&mut cx).is_pending() && b.as_mut().poll(&mut cx).is_pending());
        bell.ring();
        assert!(a.as_mut().poll(&mut cx).is_ready() && b.as_mut().poll(&mut cx).is_ready());
        assert!(c.as_mut().poll(&mut cx).is_pending(), "what rang before it came is not for it");
        assert!(pin!(bell.next()).poll(&mut cx).is_ready(), "rung while nobody listened");
        let mut d = pin!(bell.next());
        assert!(d.as_mut().poll(&mut cx).is_pending(), "heard once");
        bell.ring();
        assert!(c.as_mut().poll(&mut cx).is_ready() && d.as_mut().poll(&mut cx).is_ready());
    }
}

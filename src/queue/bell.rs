//! L2: how tasks of one core wait for each other: bells and slips, made of plain wakers.
//!
//! No timers, no channels. Dropping a waiter is always fine. Memory is reused.

use std::task::{Context, Poll, Waker};

/// One task waits; others ring. A ring that nobody hears is remembered.
#[derive(Debug, Default)]
pub struct Bell {
    rung: bool,
    waker: Option<Waker>,
}

impl Bell {
    /// Wakes the waiting task, or makes the next wait end at once.
    pub fn ring(&mut self) {
        self.rung = true;
        if let Some(w) = &self.waker {
            w.wake_by_ref();
        }
    }

    /// Ready once rung since the last time.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.rung) {
            self.waker = None;
            return Poll::Ready(());
        }
        match &mut self.waker {
            Some(w) => w.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// Many tasks wait for the same thing.
#[derive(Debug, Default)]
pub struct Crowd(Vec<Waker>);

impl Crowd {
    /// Joins until the next call of [`Self::wake_all`].
    pub fn join(&mut self, cx: &Context<'_>) {
        if !self.0.iter().any(|w| w.will_wake(cx.waker())) {
            self.0.push(cx.waker().clone());
        }
    }

    /// Wakes and forgets all.
    pub fn wake_all(&mut self) {
        for w in self.0.drain(..) {
            w.wake();
        }
    }
}

/// What became of something that somebody waits for.
#[derive(Debug)]
enum Slip<T> {
    Free(usize),
    Open(Option<Waker>),
    Answered(T),
}

/// Names a slip.
pub type SlipNumber = usize;

/// Numbered slips: one task takes one and waits for the answer that another writes on it.
#[derive(Debug)]
pub struct Slips<T> {
    slips: Vec<Slip<T>>,
    free: usize,
}

impl<T> Default for Slips<T> {
    fn default() -> Self {
        Slips { slips: Vec::new(), free: usize::MAX }
    }
}

impl<T> Slips<T> {
    /// A new slip.
    pub fn take(&mut self) -> SlipNumber {
        if let Some(slip) = self.slips.get_mut(self.free) {
            let Slip::Free(next) = *slip else { unreachable!("the free list holds free slips") };
            let n = self.free;
            self.free = next;
            *slip = Slip::Open(None);
            return n;
        }
        self.slips.push(Slip::Open(None));
        self.slips.len() - 1
    }

    /// Writes the answer. Panics if there is one already.
    pub fn answer(&mut self, n: SlipNumber, answer: T) {
        let old = std::mem::replace(&mut self.slips[n], Slip::Answered(answer));
        let Slip::Open(waker) = old else { panic!("slip {n} is not open") };
        if let Some(w) = waker {
            w.wake();
        }
    }

    /// The answer, once; the slip is free again then.
    pub fn poll(&mut self, n: SlipNumber, cx: &Context<'_>) -> Poll<T> {
        match &mut self.slips[n] {
            Slip::Answered(_) => {}
            Slip::Open(Some(w)) => {
                w.clone_from(cx.waker());
                return Poll::Pending;
            }
            Slip::Open(none) => {
                *none = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Slip::Free(_) => panic!("slip {n} is free"),
        }
        let Slip::Answered(answer) = self.discard(n) else { unreachable!("just seen") };
        Poll::Ready(answer)
    }

    /// Nobody waits for the answer any more. The slip is free; who would have answered must know.
    /// `true` if it had been answered.
    pub fn drop_slip(&mut self, n: SlipNumber) -> bool {
        matches!(self.discard(n), Slip::Answered(_))
    }

    fn discard(&mut self, n: SlipNumber) -> Slip<T> {
        let old = std::mem::replace(&mut self.slips[n], Slip::Free(self.free));
        self.free = n;
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn slips_are_answered_once_and_reused() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut slips = Slips::default();
        let (a, b) = (slips.take(), slips.take());
        assert!(slips.poll(a, &cx).is_pending());
        slips.answer(a, 'a');
        assert_eq!(slips.poll(a, &cx), Poll::Ready('a'));
        assert_eq!(slips.take(), a);
        assert!(!slips.drop_slip(b));
        slips.answer(a, 'x');
        assert!(slips.drop_slip(a));
        assert_eq!((slips.take(), slips.take(), slips.slips.len()), (a, b, 2));
        let mut bell = Bell::default();
        bell.ring();
        assert!(bell.poll(&mut cx).is_ready() && bell.poll(&mut cx).is_pending());
    }
}

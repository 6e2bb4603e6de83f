//! The open sessions of one core and protocol, so that a stop can reach them, and operators.

use super::roll::{Badge, Present, Roll, Whom};
use crate::base::time::Mono;
use crate::metrics::Gauge;
use crate::runtime::Stream;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The open sessions.
pub struct Live<S> {
    slots: RefCell<Slots<S>>,
    stopping: Cell<bool>,
    gauge: Gauge,
}

struct Slots<S> {
    all: Vec<Option<Rc<Handle<S>>>>,
    free: Vec<usize>,
}

/// A session as the others see it.
struct Handle<S> {
    stream: S,
    /// It waits for a command.
    idle: Cell<bool>,
    /// It is to stop waiting.
    called: Cell<bool>,
    badge: Badge,
}

/// Ends the waiting of one session, from within its own task.
pub struct CallerOf<S>(Rc<Handle<S>>);

impl<S: Stream> CallerOf<S> {
    /// Whatever it waits for ends as if its time were over.
    pub fn call(&self) {
        self.0.called.set(true);
        self.0.stream.set_deadline(Some(Mono(0)));
    }

    /// It may wait again. True if it had been called.
    pub fn hung_up(self) -> bool {
        self.0.called.replace(false)
    }
}

/// The place of one session; dropping it gives it up and closes the connection.
pub struct Seat<S: Stream> {
    live: Rc<Live<S>>,
    place: usize,
    /// There until the seat is given up.
    handle: Option<Rc<Handle<S>>>,
}

impl<S: Stream> Live<S> {
    /// None yet; `gauge` shows how many there are.
    #[must_use]
    pub fn new(gauge: Gauge) -> Rc<Self> {
        let slots = RefCell::new(Slots { all: Vec::new(), free: Vec::new() });
        Rc::new(Live { slots, stopping: Cell::new(false), gauge })
    }

    /// One more.
    #[must_use]
    pub fn enter(self: &Rc<Self>, stream: S, badge: Badge) -> Seat<S> {
        let handle = Rc::new(Handle { stream, idle: Cell::new(false), called: Cell::new(false), badge });
        let mut slots = self.slots.borrow_mut();
        let place = slots.free.pop().unwrap_or_else(|| {
            slots.all.push(None);
            slots.all.len() - 1
        });
        slots.all[place] = Some(handle.clone());
        self.gauge.increment(1.0);
        Seat { live: self.clone(), place, handle: Some(handle) }
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        let slots = self.slots.borrow();
        slots.all.len() - slots.free.len()
    }

    /// No new ones are wanted, and those that are open end at their next command.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Wakes those that wait for a command; all see [`Self::is_stopping`].
    pub fn stop(&self, now: Mono) {
        self.stopping.set(true);
        for handle in self.slots.borrow().all.iter().flatten().filter(|h| h.idle.get()) {
            handle.stream.set_deadline(Some(now));
        }
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.slots.borrow().all.iter().flatten().for_each(|h| h.stream.shutdown());
    }
}

/// The sessions as others see them, at a moment.
pub struct Seen<'a, S>(pub &'a Live<S>, pub Mono);

impl<S: Stream> Roll for Seen<'_, S> {
    fn places(&self) -> usize {
        self.0.slots.borrow().all.len()
    }

    fn present(&self, place: usize) -> Option<Present> {
        let slots = self.0.slots.borrow();
        slots.all.get(place)?.as_ref().map(|h| h.badge.present(self.1, h.idle.get()))
    }

    fn expel(&self, place: usize, whom: &Whom) -> bool {
        let slots = self.0.slots.borrow();
        let Some(Some(handle)) = slots.all.get(place) else { return false };
        let is = !handle.badge.is_expelled() && handle.badge.is(whom);
        if is {
            handle.badge.expel();
            // Nothing is promised to it that it has not been told.
            handle.stream.shutdown();
        }
        is
    }
}

impl<S: Stream> Seat<S> {
    /// Its connection.
    #[must_use]
    pub fn stream(&self) -> &S {
        &self.handle.as_ref().expect("there until the seat is given up").stream
    }

    /// What others see of it.
    #[must_use]
    pub fn badge(&self) -> &Badge {
        &self.handle.as_ref().expect("there until the seat is given up").badge
    }

    /// It waits for a command, or does no longer.
    pub fn set_idle(&self, idle: bool) {
        self.handle.as_ref().expect("there until the seat is given up").idle.set(idle);
    }

    /// See there. Must be gone before [`Self::leave`].
    #[must_use]
    pub fn caller(&self) -> CallerOf<S> {
        CallerOf(self.handle.as_ref().expect("there until the seat is given up").clone())
    }

    /// It is to stop waiting.
    #[must_use]
    pub fn is_called(&self) -> bool {
        self.handle.as_ref().expect("there until the seat is given up").called.get()
    }

    /// Gives the place up and takes the connection along.
    #[must_use]
    pub fn leave(mut self) -> S {
        let handle = self.give_up().expect("there until the seat is given up");
        let Some(handle) = Rc::into_inner(handle) else { unreachable!("only the list had it, too") };
        handle.stream
    }

    fn give_up(&mut self) -> Option<Rc<Handle<S>>> {
        let handle = self.handle.take()?;
        let mut slots = self.live.slots.borrow_mut();
        slots.all[self.place] = None;
        slots.free.push(self.place);
        self.live.gauge.decrement(1.0);
        Some(handle)
    }
}

impl<S: Stream> Drop for Seat<S> {
    fn drop(&mut self) {
        // The connection closes outside of the borrow.
        drop(self.give_up());
    }
}

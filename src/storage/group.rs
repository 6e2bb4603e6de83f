//! L2: who waits for a batch. One group per batch, shared by all its [`Staged`] records.
//!
//! Wakers are kept as opaque call-backs; nothing is polled here. Dropping a [`Staged`] is always
//! fine: the record stays in its batch. Memory is reused, so waiting costs no allocation in
//! steady state.

use crate::base::aligned::SharedBytes;
use crate::storage::record::{Location, RECORD_HEAD};
use crate::storage::ticket::Committed;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// The record will not become durable in this process's life: the journal is poisoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitError;

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the journal is poisoned by a failed write; restart to recover")
    }
}

impl std::error::Error for CommitError {}

/// A record that is on stable storage.
#[derive(Debug)]
pub struct Durable {
    /// The proof.
    pub ticket: Committed,
    /// Where it is.
    pub location: Location,
    /// Its payload, in the memory it was written from.
    pub payload: SharedBytes,
}

enum State {
    Waiting,
    Durable { batch: SharedBytes, segment: u64, offset: u32 },
    Failed,
}

/// All who wait for one batch.
pub(in crate::storage) struct Group {
    state: RefCell<State>,
    waiting: RefCell<Vec<Option<Waker>>>,
}

impl Group {
    pub(in crate::storage) fn new() -> Self {
        Group { state: RefCell::new(State::Waiting), waiting: RefCell::new(Vec::new()) }
    }

    /// Makes it as new, keeping its memory. Needs the only handle.
    pub(in crate::storage) fn reset(&mut self) {
        *self.state.get_mut() = State::Waiting;
        self.waiting.get_mut().clear();
    }

    /// The batch is on stable storage at `offset` of `segment`. Moves the wakers into `wakers`,
    /// in the order in which their owners began to wait.
    pub(in crate::storage) fn release(
        &self,
        batch: SharedBytes,
        segment: u64,
        offset: u32,
        wakers: &mut Vec<Waker>,
    ) {
        *self.state.borrow_mut() = State::Durable { batch, segment, offset };
        self.drain(wakers);
    }

    /// The batch will never be acknowledged.
    pub(in crate::storage) fn fail(&self, wakers: &mut Vec<Waker>) {
        *self.state.borrow_mut() = State::Failed;
        self.drain(wakers);
    }

    fn drain(&self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.waiting.borrow_mut().drain(..).flatten());
    }
}

/// A record in a batch that is not yet on stable storage. Proves nothing.
#[must_use = "only the commit makes it safe"]
pub struct Staged {
    group: Rc<Group>,
    offset: u32,
    len: u32,
    slot: Option<usize>,
}

impl Staged {
    pub(in crate::storage) fn new(group: Rc<Group>, offset: u32, len: u32) -> Self {
        Staged { group, offset, len, slot: None }
    }

    /// True if [`Self::poll`] would answer at once.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !matches!(*self.group.state.borrow(), State::Waiting)
    }

    /// The result, or `waker` is called when there is one. May be called any number of times.
    pub fn poll(&mut self, waker: &Waker) -> Poll<Result<Durable, CommitError>> {
        if !self.is_settled() {
            self.wait(waker);
            return Poll::Pending;
        }
        match &*self.group.state.borrow() {
            State::Durable { batch, segment, offset } => {
                let start = self.offset as usize;
                Poll::Ready(Ok(Durable {
                    ticket: Committed::after_sync(),
                    location: Location { segment: *segment, offset: offset + self.offset, len: self.len },
                    payload: batch.part(start + RECORD_HEAD..start + self.len as usize),
                }))
            }
            State::Failed | State::Waiting => Poll::Ready(Err(CommitError)),
        }
    }

    fn wait(&mut self, waker: &Waker) {
        let mut waiting = self.group.waiting.borrow_mut();
        match self.slot {
            Some(slot) => match &mut waiting[slot] {
                Some(old) => old.clone_from(waker),
                empty => *empty = Some(waker.clone()),
            },
            None => {
                self.slot = Some(waiting.len());
                waiting.push(Some(waker.clone()));
            }
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(slot) = self.slot
            && let Some(waker) = self.group.waiting.borrow_mut().get_mut(slot)
        {
            *waker = None;
        }
    }
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Staged({} bytes)", self.len)
    }
}

//! A socket's descriptor with what belongs to it: operations in flight and the deadline.
//!
//! The descriptor is closed when the last holder goes, and every operation is a holder, so it is
//! never closed (or its number used again) under one. Closing is a plain system call: it happens
//! in `Drop`, where the ring must not be used.
//!
//! Deadlines are lazy: setting one stores it; the wheel holds at most one entry for each socket, at
//! or before its deadline, and moves it on when it fires early. So a deadline that is set anew for
//! each command costs a store.

#![allow(unsafe_code)]

use super::Core;
use super::gather::Gather;
use super::ops;
use super::timer::tick_of;
use crate::base::time::Mono;
use crate::base::wheel::Key;
use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

/// A socket; see the module.
pub(crate) struct Socket {
    fd: OwnedFd,
    core: Rc<Core>,
    /// Operations that hold the socket.
    running: Cell<u32>,
    deadline: Cell<Option<Mono>>,
    /// The entry in the wheel and its tick.
    armed: Cell<Option<(Key, u64)>>,
    /// The deadline has passed: operations end with `TimedOut`.
    expired: Cell<bool>,
    /// Kept for the next gathered send.
    gather: Cell<Option<Box<Gather>>>,
}

/// What the result of an operation means.
pub(super) enum Verdict {
    /// So many bytes.
    Done(usize),
    /// Nothing happened: do it again.
    Again,
    /// It failed.
    Failed(io::Error),
}

impl Socket {
    pub(super) fn new(core: &Rc<Core>, fd: OwnedFd) -> Rc<Self> {
        Rc::new(Socket {
            fd,
            core: core.clone(),
            running: Cell::new(0),
            deadline: Cell::new(None),
            armed: Cell::new(None),
            expired: Cell::new(false),
            gather: Cell::new(None),
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(in crate::runtime) fn owned(&self) -> &OwnedFd {
        &self.fd
    }

    /// Operations in flight.
    pub(super) fn running(&self) -> u32 {
        self.running.get()
    }

    /// A hold for one operation; refused after the deadline.
    pub(super) fn hold(self: &Rc<Self>) -> io::Result<Held> {
        if self.expired.get() {
            return Err(timed_out());
        }
        Ok(Held::new(self))
    }

    pub(super) fn set_deadline(self: &Rc<Self>, at: Option<Mono>) {
        self.deadline.set(at);
        self.expired.set(false);
        if let Some(at) = at {
            self.arm(tick_of(at));
        }
    }

    /// Sees to it that the wheel fires at `tick` or before.
    fn arm(self: &Rc<Self>, tick: u64) {
        if let Some((key, armed)) = self.armed.get() {
            if armed <= tick {
                return;
            }
            self.core.timer.cancel(key);
        }
        let key = self.core.timer.insert(tick, Rc::downgrade(self));
        self.armed.set(Some((key, tick)));
    }

    /// The wheel has come to this socket's entry, at tick `now`.
    pub(super) fn on_tick(self: &Rc<Self>, now: u64) {
        self.armed.set(None);
        let Some(tick) = self.deadline.get().map(tick_of) else { return };
        if tick > now {
            return self.arm(tick);
        }
        self.expired.set(true);
        if self.running.get() > 0 {
            ops::cancel(self.clone());
            // A cancel misses the second half of a linked pair in the moment between the two:
            // look again until nothing is in flight.
            self.arm(now + 1);
        }
    }

    /// What result `res` of an operation on this socket means.
    pub(super) fn judge(&self, res: i32) -> Verdict {
        match -res {
            libc::ECANCELED if self.expired.get() => Verdict::Failed(timed_out()),
            // Cancelled, but a new deadline was set meanwhile: nothing was lost.
            libc::ECANCELED | libc::EINTR => Verdict::Again,
            errno if errno > 0 => Verdict::Failed(ops::error(res)),
            _ => Verdict::Done(res as usize),
        }
    }

    pub(super) fn take_gather(&self) -> Box<Gather> {
        self.gather.take().unwrap_or_else(Gather::new)
    }

    pub(super) fn keep_gather(&self, mut gather: Box<Gather>) {
        gather.clear();
        self.gather.set(Some(gather));
    }

    /// Ends one or both directions; operations in flight there end. No error matters: a socket
    /// that is not connected has nothing to end.
    pub(super) fn shutdown(&self, how: libc::c_int) {
        // SAFETY: a system call on a descriptor that `self` keeps open.
        unsafe { libc::shutdown(self.fd(), how) };
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some((key, _)) = self.armed.take() {
            self.core.timer.cancel(key);
        }
    }
}

/// The hold of one operation on its socket.
pub(super) struct Held(Rc<Socket>);

impl Held {
    /// A hold whatever the deadline.
    pub(super) fn new(socket: &Rc<Socket>) -> Self {
        socket.running.set(socket.running.get() + 1);
        Held(socket.clone())
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.fd()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

pub(super) fn timed_out() -> io::Error {
    io::ErrorKind::TimedOut.into()
}

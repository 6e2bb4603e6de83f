//! Bounded queues between two threads: one sender, one receiver, no locks.
//!
//! The receiver waits on an eventfd, and the sender writes to it only if the receiver has said that
//! it sleeps: a wake-up costs more than a message. A full queue gives the value back; the sender
//! decides whether to wait, to drop or to refuse. When either end goes, the other one learns it:
//! the receiver after it has taken what was sent.

#![allow(unsafe_code)]

use super::uring::ops::{CounterData, Op, read_counter};
use rtrb::{Consumer, Producer, RingBuffer};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;

/// What both ends share besides the queue.
#[derive(Debug)]
struct Bell {
    event: Arc<OwnedFd>,
    /// The receiver sleeps, or is about to: ring. Cleared by who rings.
    asleep: AtomicBool,
}

impl Bell {
    fn new() -> io::Result<Self> {
        // SAFETY: makes a descriptor; no memory.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let event = Arc::new(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Bell { event, asleep: AtomicBool::new(false) })
    }

    /// Wakes the receiver if it sleeps. Called after a value was pushed.
    ///
    /// The sender stores the value, then loads `asleep`; the receiver stores `asleep`, then looks
    /// for values. Each side's load must not overtake its own store, or both could miss the other
    /// and the value would lie there for ever. Acquire and release do not order a store before a
    /// load; the two sequentially consistent fences (the other one is in [`Self::lie_down`]) do: at
    /// least one side sees what the other has done.
    fn after_push(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.ring();
        }
    }

    /// Says that the receiver sleeps. It must look for values once more before it does.
    fn lie_down(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        loop {
            // SAFETY: eight bytes of a local value; the descriptor is open.
            let n = unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), 8) };
            // The counter cannot overflow: one is added for each sleep.
            if n == 8 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return;
            }
        }
    }

    /// Takes the count, waiting for it if the descriptor is in blocking mode.
    fn hear(&self) {
        let mut count = [0; 8];
        // SAFETY: eight bytes of a local value; the descriptor is open. Whatever the result, the
        // caller looks for values next.
        unsafe { libc::read(self.event.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
    }
}

/// Why a value was not sent; gives it back.
#[derive(Debug, PartialEq, Eq)]
pub enum SendError<T> {
    /// The queue is full.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Full(_) => "the queue to the other thread is full",
            SendError::Closed(_) => "the other thread is gone",
        })
    }
}

impl<T: fmt::Debug> std::error::Error for SendError<T> {}

/// The sending end; usable on any thread, one at a time.
#[derive(Debug)]
pub struct Sender<T> {
    /// `None` only while it is dropped.
    queue: Option<Producer<T>>,
    bell: Arc<Bell>,
}

impl<T> Sender<T> {
    /// Sends without waiting.
    ///
    /// # Errors
    /// Full, or nobody receives any more; with the value.
    pub fn try_send(&mut self, value: T) -> Result<(), SendError<T>> {
        let queue = self.queue.as_mut().expect("in place until dropped");
        if queue.is_abandoned() {
            return Err(SendError::Closed(value));
        }
        match queue.push(value) {
            Ok(()) => {
                self.bell.after_push();
                Ok(())
            }
            Err(rtrb::PushError::Full(value)) => Err(SendError::Full(value)),
        }
    }

    /// Values that fit at least.
    #[must_use]
    pub fn room(&self) -> usize {
        self.queue.as_ref().map_or(0, Producer::slots)
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        // First the queue, so that the receiver sees it abandoned when it wakes.
        self.queue = None;
        self.bell.ring();
    }
}

/// The receiving end, before it is settled on which kind of thread it waits.
#[derive(Debug)]
pub struct Receiver<T> {
    queue: Consumer<T>,
    bell: Arc<Bell>,
}

/// A queue of `capacity` values.
///
/// # Errors
/// Those of eventfd(2): descriptors are short.
pub fn channel<T: Send>(capacity: usize) -> io::Result<(Sender<T>, Receiver<T>)> {
    let (producer, consumer) = RingBuffer::new(capacity);
    let bell = Arc::new(Bell::new()?);
    let sender = Sender { queue: Some(producer), bell: bell.clone() };
    Ok((sender, Receiver { queue: consumer, bell }))
}

/// What a look into the queue found.
enum Look<T> {
    Value(T),
    /// Nothing, and the sender is gone.
    End,
    Nothing,
}

impl<T> Receiver<T> {
    /// Takes a value if there is one.
    pub fn try_recv(&mut self) -> Option<T> {
        self.queue.pop().ok()
    }

    fn look(&mut self) -> Look<T> {
        if let Ok(value) = self.queue.pop() {
            return Look::Value(value);
        }
        if !self.queue.is_abandoned() {
            return Look::Nothing;
        }
        // What was sent between the look and the end of the sender.
        self.queue.pop().map_or(Look::End, Look::Value)
    }

    /// Looks, and if there is nothing, says that it sleeps and looks again.
    fn look_or_lie_down(&mut self) -> Look<T> {
        match self.look() {
            Look::Nothing => {}
            found => return found,
        }
        self.bell.lie_down();
        self.look()
    }

    /// Waits for a value on a thread that may block. `None`: the sender is gone, all was received.
    pub fn recv_blocking(&mut self) -> Option<T> {
        loop {
            match self.look_or_lie_down() {
                Look::Value(value) => return Some(value),
                Look::End => return None,
                Look::Nothing => self.bell.hear(),
            }
        }
    }

    /// Receives on a core's ring.
    #[must_use]
    pub fn on_ring(self) -> RingReceiver<T> {
        RingReceiver { inner: self, waiting: None, count: None }
    }

    /// Receives in a plain tokio runtime; to be called within it.
    ///
    /// # Errors
    /// The descriptor cannot be watched.
    pub fn on_tokio(self) -> io::Result<TokioReceiver<T>> {
        // SAFETY: sets a flag of an open descriptor; no memory.
        if unsafe { libc::fcntl(self.bell.event.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the count keeps the descriptor open for as long as it is watched.
        let event = unsafe { AsyncFd::register(self.bell.event.clone())? };
        Ok(TokioReceiver { event, inner: self })
    }
}

/// The receiving end on a core. A dropped `recv` loses nothing.
pub struct RingReceiver<T> {
    inner: Receiver<T>,
    /// The read of the eventfd that is in flight. While it is, either `asleep` is set or a ring is
    /// on its way.
    waiting: Option<Op<CounterData>>,
    /// Memory for the next one.
    count: Option<Box<[u8; 8]>>,
}

impl<T> RingReceiver<T> {
    /// Takes a value if there is one.
    pub fn try_recv(&mut self) -> Option<T> {
        self.inner.try_recv()
    }

    /// Waits for a value. `None`: the sender is gone and all was received.
    pub fn recv(&mut self) -> impl Future<Output = Option<T>> + '_ {
        poll_fn(|cx| self.poll_recv(cx))
    }

    /// As [`Self::recv`], for a future that waits for several things.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        loop {
            let found = match self.waiting {
                Some(_) => self.inner.look(),
                None => self.inner.look_or_lie_down(),
            };
            match found {
                Look::Value(value) => return Poll::Ready(Some(value)),
                Look::End => return Poll::Ready(None),
                Look::Nothing => {}
            }
            let event = &self.inner.bell.event;
            let waiting = self
                .waiting
                .get_or_insert_with(|| read_counter(event.clone(), self.count.take().unwrap_or_default()));
            let (_, (_, count)) = ready!(Pin::new(waiting).poll(cx));
            self.count = Some(count);
            self.waiting = None;
        }
    }
}

impl<T> Drop for RingReceiver<T> {
    fn drop(&mut self) {
        // The read would lie in the ring for ever; this ends it.
        if self.waiting.is_some() {
            self.inner.bell.ring();
        }
    }
}

/// The receiving end in a plain tokio runtime. A dropped `recv` loses nothing.
#[derive(Debug)]
pub struct TokioReceiver<T> {
    event: AsyncFd<Arc<OwnedFd>>,
    inner: Receiver<T>,
}

impl<T> TokioReceiver<T> {
    /// Takes a value if there is one.
    pub fn try_recv(&mut self) -> Option<T> {
        self.inner.try_recv()
    }

    /// Waits for a value. `None`: the sender is gone and all was received.
    pub async fn recv(&mut self) -> Option<T> {
        loop {
            match self.inner.look_or_lie_down() {
                Look::Value(value) => return Some(value),
                Look::End => return None,
                Look::Nothing => {}
            }
            let mut guard = self.event.readable().await.ok()?;
            self.inner.bell.hear();
            guard.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::uring::{self, Uring};
    use std::thread;
    use std::time::Duration;

    const COUNT: u64 = 100_000;

    /// Sends all numbers in bursts of changing length with pauses of changing length, so that the
    /// receiver is caught awake, asleep and in between.
    fn send_all(mut sender: Sender<u64>) {
        for n in 0..COUNT {
            let mut value = n;
            while let Err(e) = sender.try_send(value) {
                match e {
                    SendError::Full(back) => value = back,
                    SendError::Closed(_) => panic!("closed"),
                }
                thread::yield_now();
            }
            match n % 1009 {
                0 => thread::park_timeout(Duration::from_micros(n % 300)),
                1..200 => std::hint::spin_loop(),
                200 => thread::yield_now(),
                _ => {}
            }
        }
    }

    fn start(capacity: usize) -> (thread::JoinHandle<()>, Receiver<u64>) {
        let (sender, receiver) = channel(capacity).unwrap();
        (thread::spawn(move || send_all(sender)), receiver)
    }

    #[test]
    fn everything_arrives_in_order_on_a_ring() {
        for capacity in [1, 64] {
            let (sender, receiver) = start(capacity);
            let main = async |_uring: Uring| {
                let mut receiver = receiver.on_ring();
                for n in 0..COUNT {
                    assert_eq!(receiver.recv().await, Some(n));
                }
                assert_eq!(receiver.recv().await, None);
            };
            let main = async |uring| tokio::time::timeout(Duration::from_secs(60), main(uring)).await;
            uring::run(&uring::Options::small(), main).unwrap().unwrap();
            sender.join().unwrap();
        }
    }

    #[test]
    fn everything_arrives_in_order_in_tokio() {
        let (sender, receiver) = start(64);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut receiver = receiver.on_tokio().unwrap();
            let all = async {
                for n in 0..COUNT {
                    assert_eq!(receiver.recv().await, Some(n));
                }
                assert_eq!(receiver.recv().await, None);
            };
            tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
        });
        sender.join().unwrap();
    }

    #[test]
    fn everything_arrives_in_order_on_a_thread() {
        let (sender, mut receiver) = start(16);
        for n in 0..COUNT {
            assert_eq!(receiver.recv_blocking(), Some(n));
        }
        assert_eq!(receiver.recv_blocking(), None);
        sender.join().unwrap();
    }

    #[test]
    fn bounded_and_closed() {
        let (mut sender, mut receiver) = channel(2).unwrap();
        assert_eq!((sender.try_send(1), sender.try_send(2)), (Ok(()), Ok(())));
        assert_eq!(sender.try_send(3), Err(SendError::Full(3)));
        assert_eq!((receiver.try_recv(), sender.room()), (Some(1), 1));
        drop(receiver);
        assert_eq!(sender.try_send(4), Err(SendError::Closed(4)));
    }

    #[test]
    fn a_dropped_wait_loses_nothing() {
        let main = async |_uring: Uring| {
            let (mut sender, receiver) = channel(4).unwrap();
            let mut receiver = receiver.on_ring();
            for n in 0..20 {
                let short = Duration::from_millis(1);
                assert!(tokio::time::timeout(short, receiver.recv()).await.is_err());
                sender.try_send(n).unwrap();
                assert_eq!(receiver.recv().await, Some(n));
            }
            assert!(tokio::time::timeout(Duration::from_millis(1), receiver.recv()).await.is_err());
            drop(sender);
            assert_eq!(receiver.recv().await, None);
        };
        let main = async |uring| tokio::time::timeout(Duration::from_secs(20), main(uring)).await;
        uring::run(&uring::Options::small(), main).unwrap().unwrap();
    }
}

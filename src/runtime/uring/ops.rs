//! One-shot operations of our own on tokio-uring's ring.
//!
//! The only place that builds submission entries. Each constructor takes what the kernel will
//! touch by value; it stays in the operation until its completion has arrived, even when the
//! future is dropped (tokio-uring then moves the data to its slab). So nothing here points into
//! the data itself, which moves, only into heap memory that the data owns.
//!
//! The data may be dropped while tokio-uring's driver is borrowed: no `Drop` of anything in it may
//! submit an operation.

#![allow(unsafe_code)]

use super::gather::Gather;
use super::socket::{Held, Socket};
use crate::base::aligned::{AlignedBuf, SharedBytes};
use crate::runtime::Part;
use io_uring::{cqueue, opcode, squeue, types};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

/// An operation in flight: resolves to the completion's result (negative: an errno) and its data.
pub(crate) type Op<D> = InFlightOneshot<D, Finish<D>>;

/// Every operation that is used here, for the check at the start.
pub(super) const IN_USE: [(u8, &str); 10] = [
    (opcode::Recv::CODE, "RECV"),
    (opcode::Send::CODE, "SEND"),
    (opcode::SendMsg::CODE, "SENDMSG"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::Accept::CODE, "ACCEPT"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::AsyncCancel2::CODE, "ASYNC_CANCEL"),
    (opcode::Read::CODE, "READ"),
    (opcode::Write::CODE, "WRITE"),
    (opcode::Fsync::CODE, "FSYNC"),
];

/// Hands the raw result and the data back.
pub(crate) struct Finish<D>(PhantomData<fn() -> D>);

impl<D: 'static> OneshotOutputTransform for Finish<D> {
    type Output = (i32, D);
    type StoredData = D;

    fn transform_oneshot_output(self, data: D, cqe: cqueue::Entry) -> (i32, D) {
        (cqe.result(), data)
    }
}

/// Queues `entry`; it goes to the kernel when the thread next parks.
///
/// # Safety
/// Everything that `entry` points to, and its descriptor, must stay valid and unused for as long
/// as `data` lives, wherever `data` itself is moved.
unsafe fn submit<D: Unpin + 'static>(data: D, entry: squeue::Entry) -> Op<D> {
    UnsubmittedOneshot::new(data, Finish(PhantomData), entry).submit()
}

/// Whether the next operation of this thread waits for this one to succeed in full.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Alone,
    ThenNext,
}

impl Link {
    fn flags(self) -> squeue::Flags {
        match self {
            Link::Alone => squeue::Flags::empty(),
            Link::ThenNext => squeue::Flags::IO_LINK,
        }
    }
}

/// Most bytes of one receive or send: the kernel's own limit is just below 2 GiB.
const MOST: usize = 1 << 30;

/// Data of a receive.
pub(super) type RecvData = (Held, Vec<u8>);

/// Receives into the spare capacity of `buf`, which must not be empty.
pub(super) fn recv(held: Held, mut buf: Vec<u8>) -> Op<RecvData> {
    let spare = buf.spare_capacity_mut();
    let len = spare.len().min(MOST) as u32;
    let entry = opcode::Recv::new(types::Fd(held.fd()), spare.as_mut_ptr().cast(), len).build();
    // SAFETY: the spare capacity is heap memory of `buf`, which the data own and nobody resizes;
    // `held` keeps the descriptor open.
    unsafe { submit((held, buf), entry) }
}

/// Counts `n` bytes that a completed [`recv`] put behind the contents of `buf`.
pub(super) fn received(buf: &mut Vec<u8>, n: usize) {
    let len = buf.len() + n;
    assert!(len <= buf.capacity());
    // SAFETY: the kernel reported that it wrote `n` bytes from the old end on, within capacity.
    unsafe { buf.set_len(len) }
}

/// Sends `buf` from byte `from`; the kernel goes on until all is sent, an error, or a cancel.
pub(super) fn send(held: Held, buf: Vec<u8>, from: usize, link: Link) -> Op<RecvData> {
    let rest = &buf[from..];
    let len = rest.len().min(MOST) as u32;
    let entry = opcode::Send::new(types::Fd(held.fd()), rest.as_ptr(), len)
        .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
        .build()
        .flags(link.flags());
    // SAFETY: `rest` is heap memory of `buf`, which the data own unchanged; `held` keeps the
    // descriptor open.
    unsafe { submit((held, buf), entry) }
}

/// Data of a gathered send.
pub(super) type SendMsgData = (Held, Box<Gather>, Vec<Part>);

/// Sends what `gather` was filled with out of `parts`; all of it, an error, or a cancel.
pub(super) fn sendmsg(held: Held, mut gather: Box<Gather>, parts: Vec<Part>, link: Link) -> Op<SendMsgData> {
    let entry = opcode::SendMsg::new(types::Fd(held.fd()), gather.header())
        .flags((libc::MSG_WAITALL | libc::MSG_NOSIGNAL) as u32)
        .build()
        .flags(link.flags());
    // SAFETY: the header lies in the box, the vectors in heap memory of it; they point to the
    // bytes of `parts`, which are heap memory (owned or counted) or static. All are in the data.
    unsafe { submit((held, gather, parts), entry) }
}

/// Waits until a receive would not block.
pub(super) fn poll_in(held: Held) -> Op<Held> {
    let entry = opcode::PollAdd::new(types::Fd(held.fd()), libc::POLLIN as u32).build();
    // SAFETY: no memory; `held` keeps the descriptor open.
    unsafe { submit(held, entry) }
}

/// Memory for a peer's address.
pub(super) struct PeerAddress {
    pub(super) storage: socket2::SockAddrStorage,
    pub(super) len: libc::socklen_t,
}

impl PeerAddress {
    pub(super) fn new() -> Box<Self> {
        Box::new(PeerAddress { storage: socket2::SockAddrStorage::zeroed(), len: 0 })
    }
}

impl PeerAddress {
    /// Takes the address out, for the storage is used again.
    pub(super) fn take(&mut self) -> socket2::SockAddrStorage {
        std::mem::replace(&mut self.storage, socket2::SockAddrStorage::zeroed())
    }
}

/// Accepts one connection, blocking mode, close-on-exec.
pub(super) fn accept(held: Held, mut peer: Box<PeerAddress>) -> Op<(Held, Box<PeerAddress>)> {
    peer.len = peer.storage.size_of();
    let address = (&raw mut peer.storage).cast::<libc::sockaddr>();
    let entry = opcode::Accept::new(types::Fd(held.fd()), address, &raw mut peer.len)
        .flags(libc::SOCK_CLOEXEC)
        .build();
    // SAFETY: address and length lie in the box, which the data own; `held` keeps the fd open.
    unsafe { submit((held, peer), entry) }
}

/// Connects to `to`.
pub(super) fn connect(held: Held, to: Box<socket2::SockAddr>) -> Op<(Held, Box<socket2::SockAddr>)> {
    let entry = opcode::Connect::new(types::Fd(held.fd()), to.as_ptr().cast(), to.len()).build();
    // SAFETY: the address lies in the box, which the data own; `held` keeps the descriptor open.
    unsafe { submit((held, to), entry) }
}

/// Cancels every operation in flight on the socket; fire and forget. Operations queued later are
/// not touched: the kernel takes entries in order.
pub(super) fn cancel(socket: Rc<Socket>) {
    let builder = types::CancelBuilder::fd(types::Fd(socket.fd())).all();
    let entry = opcode::AsyncCancel2::new(builder).build();
    // SAFETY: no memory; the data keep the descriptor open, so that its number is not reused.
    drop(unsafe { submit(socket, entry) });
}

/// Data of a file write.
pub(super) type WriteData = (Rc<OwnedFd>, SharedBytes);

/// Writes `bytes` from byte `from` at `offset`.
pub(super) fn write_at(
    file: Rc<OwnedFd>,
    bytes: SharedBytes,
    from: usize,
    offset: u64,
    link: Link,
) -> Op<WriteData> {
    let rest = &bytes[from..];
    let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), rest.as_ptr(), rest.len().min(MOST) as u32)
        .offset(offset)
        .build()
        .flags(link.flags());
    // SAFETY: the bytes are counted heap memory that nobody changes while a count exists, and the
    // data hold one; they also keep the descriptor open.
    unsafe { submit((file, bytes), entry) }
}

/// Reads into `buf` from byte `from` up to its capacity, from `offset` of the file.
pub(super) fn read_at(
    file: Rc<OwnedFd>,
    mut buf: AlignedBuf,
    from: usize,
    offset: u64,
) -> Op<(Rc<OwnedFd>, AlignedBuf)> {
    let rest = &mut buf.spare_mut()[from..];
    let len = rest.len().min(MOST) as u32;
    let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), rest.as_mut_ptr(), len).offset(offset).build();
    // SAFETY: the memory of an `AlignedBuf` never moves and the data own it; they also keep the
    // descriptor open.
    unsafe { submit((file, buf), entry) }
}

/// Makes the file's data (and with `length` its length) durable.
pub(super) fn fsync(file: Rc<OwnedFd>, length: bool) -> Op<Rc<OwnedFd>> {
    let flags = if length { types::FsyncFlags::empty() } else { types::FsyncFlags::DATASYNC };
    let entry = opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(flags).build();
    // SAFETY: no memory; the data keep the descriptor open.
    unsafe { submit(file, entry) }
}

/// Data of [`read_counter`].
pub(crate) type CounterData = (std::sync::Arc<OwnedFd>, Box<[u8; 8]>);

/// Waits until the eventfd counts above zero and takes its count.
pub(crate) fn read_counter(event: std::sync::Arc<OwnedFd>, mut count: Box<[u8; 8]>) -> Op<CounterData> {
    let entry = opcode::Read::new(types::Fd(event.as_raw_fd()), count.as_mut_ptr(), 8).build();
    // SAFETY: the eight bytes lie in the box, which the data own; they also keep the fd open.
    unsafe { submit((event, count), entry) }
}

/// The error of a negative result.
pub(super) fn error(res: i32) -> io::Error {
    io::Error::from_raw_os_error(-res)
}

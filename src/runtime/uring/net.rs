//! Sockets on the ring: connections and listeners, as [`crate::runtime::Net`] promises them.
//!
//! All sockets are in blocking mode (the ring arms its own polls; in non-blocking mode it would
//! hand out EAGAIN), close-on-exec, TCP_NODELAY, SO_KEEPALIVE; accepted ones inherit that from
//! their listener. Errors are those of the socket, as they come; `TimedOut` is the deadline.

#![allow(unsafe_code)]

use super::gather::Position;
use super::ops::{self, Link, PeerAddress};
use super::socket::{Held, Socket, Verdict, timed_out};
use super::{Core, Uring};
use crate::base::time::Mono;
use crate::runtime::{Lent, Part, Stream as _};
use socket2::{Domain, SockAddr, SockRef, Type};
use std::cell::{Cell, OnceCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// How long accepting rests when descriptors or memory are short: the kernel reserves the
/// descriptor before it waits, so trying again at once would fail at once, for ever.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection on the ring.
pub struct Stream {
    pub(in crate::runtime) socket: Rc<Socket>,
    local: OnceCell<SocketAddr>,
}

impl Stream {
    fn new(core: &Rc<Core>, fd: OwnedFd) -> Self {
        Stream { socket: Socket::new(core, fd), local: OnceCell::new() }
    }

    /// Another descriptor of the same connection, to hand it to another core, which adopts it.
    /// Nothing may be in flight here then; drop this one afterwards.
    ///
    /// # Errors
    /// Descriptors are short.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        assert_eq!(self.socket.running(), 0, "a connection moves only at rest");
        self.socket.owned().try_clone()
    }

    /// Receives into `buf`, which has room.
    async fn receive(&self, mut buf: Vec<u8>) -> Lent<usize, Vec<u8>> {
        loop {
            let held = match self.socket.hold() {
                Ok(held) => held,
                Err(e) => return (Err(e), buf),
            };
            let (res, (_, back)) = ops::recv(held, buf).await;
            buf = back;
            match self.received(res, &mut buf) {
                Some(result) => return (result, buf),
                None => continue,
            }
        }
    }

    /// Books the result of a receive; `None`: again.
    fn received(&self, res: i32, buf: &mut Vec<u8>) -> Option<io::Result<usize>> {
        match self.socket.judge(res) {
            Verdict::Done(n) => {
                ops::received(buf, n);
                Some(Ok(n))
            }
            Verdict::Failed(e) => Some(Err(e)),
            Verdict::Again => None,
        }
    }

    /// Sends `buf` from byte `from` on.
    async fn send_from(&self, mut buf: Vec<u8>, mut from: usize) -> Lent<(), Vec<u8>> {
        while from < buf.len() {
            let held = match self.socket.hold() {
                Ok(held) => held,
                Err(e) => return (Err(e), buf),
            };
            let (res, (_, back)) = ops::send(held, buf, from, Link::Alone).await;
            buf = back;
            match self.sent(res) {
                Ok(n) => from += n,
                Err(e) => return (Err(e), buf),
            }
        }
        (Ok(()), buf)
    }

    /// Bytes that a send passed on; zero: do it again.
    fn sent(&self, res: i32) -> io::Result<usize> {
        match self.socket.judge(res) {
            // A send of at least one byte never reports none; looping on it would spin.
            Verdict::Done(0) => Err(io::ErrorKind::WriteZero.into()),
            Verdict::Done(n) => Ok(n),
            Verdict::Again => Ok(0),
            Verdict::Failed(e) => Err(e),
        }
    }

    /// Sends `parts` from `at` on. With `buf` the last send is linked to a receive into it, whose
    /// raw result comes last, for `receive_after` to book; `None` if the receive has not happened.
    async fn send_parts_from(
        &self,
        mut parts: Vec<Part>,
        mut at: Position,
        mut buf: Option<Vec<u8>>,
    ) -> (io::Result<()>, Vec<Part>, Option<Vec<u8>>, Option<i32>) {
        let mut gather = self.socket.take_gather();
        let mut got = None;
        let result = loop {
            let window = gather.fill(&parts, at);
            if window.bytes == 0 {
                break Ok(());
            }
            let held = match self.socket.hold() {
                Ok(held) => held,
                Err(e) => break Err(e),
            };
            let res;
            match buf.take_if(|_| window.last && got.is_none()) {
                Some(into) => {
                    let send = ops::sendmsg(held, gather, parts, Link::ThenNext);
                    let recv = ops::recv(Held::new(&self.socket), into);
                    // The receive ends after the send: waiting for it first is one wake-up less.
                    let (recv_res, (_, back)) = recv.await;
                    buf = Some(back);
                    (res, (_, gather, parts)) = send.await;
                    // Cancelled: the send was short or failed, the receive has not happened.
                    got = (recv_res != -libc::ECANCELED).then_some(recv_res);
                }
                None => (res, (_, gather, parts)) = ops::sendmsg(held, gather, parts, Link::Alone).await,
            }
            match self.sent(res) {
                Ok(n) => at.advance(&parts, n),
                Err(e) => break Err(e),
            }
        };
        self.socket.keep_gather(gather);
        (result, parts, buf, got)
    }

    /// The receive after a send: books the linked one, or does it now.
    async fn receive_after(&self, got: Option<i32>, mut buf: Vec<u8>) -> Lent<usize, Vec<u8>> {
        if let Some(res) = got
            && let Some(result) = self.received(res, &mut buf)
        {
            return (result, buf);
        }
        self.receive(buf).await
    }
}

/// A receive into a full buffer would look like the end of the stream.
fn no_room() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "receive into a buffer without room")
}

fn has_room(buf: &Vec<u8>) -> bool {
    buf.len() < buf.capacity()
}

impl crate::runtime::Stream for Stream {
    async fn recv(&self, buf: Vec<u8>) -> Lent<usize, Vec<u8>> {
        if !has_room(&buf) {
            return (Err(no_room()), buf);
        }
        self.receive(buf).await
    }

    async fn readable(&self) -> io::Result<()> {
        loop {
            let (res, _) = ops::poll_in(self.socket.hold()?).await;
            match self.socket.judge(res) {
                Verdict::Done(_) => return Ok(()),
                Verdict::Again => {}
                Verdict::Failed(e) => return Err(e),
            }
        }
    }

    async fn send(&self, buf: Vec<u8>) -> Lent<(), Vec<u8>> {
        self.send_from(buf, 0).await
    }

    async fn send_recv(&self, mut out: Vec<u8>, mut buf: Vec<u8>) -> (io::Result<usize>, Vec<u8>, Vec<u8>) {
        if !has_room(&buf) {
            return (Err(no_room()), out, buf);
        }
        let mut got = None;
        if !out.is_empty() {
            let held = match self.socket.hold() {
                Ok(held) => held,
                Err(e) => return (Err(e), out, buf),
            };
            let send = ops::send(held, out, 0, Link::ThenNext);
            let recv = ops::recv(Held::new(&self.socket), buf);
            // The receive ends after the send: waiting for it first is one wake-up less.
            let (recv_res, (_, back)) = recv.await;
            let (res, (_, sent)) = send.await;
            (out, buf) = (sent, back);
            // Cancelled: the send was short or failed, the receive has not happened.
            got = (recv_res != -libc::ECANCELED).then_some(recv_res);
            let result = match self.sent(res) {
                Ok(n) => {
                    let (result, back) = self.send_from(out, n).await;
                    out = back;
                    result
                }
                Err(e) => Err(e),
            };
            if let Err(e) = result {
                return (Err(e), out, buf);
            }
            out.clear();
        }
        let (result, buf) = self.receive_after(got, buf).await;
        (result, out, buf)
    }

    async fn send_parts(&self, parts: Vec<Part>) -> Lent<(), Vec<Part>> {
        let (result, parts, _, _) = self.send_parts_from(parts, Position::default(), None).await;
        (result, parts)
    }

    async fn send_parts_recv(
        &self,
        parts: Vec<Part>,
        buf: Vec<u8>,
    ) -> (io::Result<usize>, Vec<Part>, Vec<u8>) {
        if !has_room(&buf) {
            return (Err(no_room()), parts, buf);
        }
        let (result, parts, buf, got) = self.send_parts_from(parts, Position::default(), Some(buf)).await;
        let buf = buf.expect("given and given back");
        match result {
            Ok(()) => {
                let (result, buf) = self.receive_after(got, buf).await;
                (result, parts, buf)
            }
            Err(e) => (Err(e), parts, buf),
        }
    }

    fn set_deadline(&self, at: Option<Mono>) {
        self.socket.set_deadline(at);
    }

    fn shutdown(&self) {
        self.socket.shutdown(libc::SHUT_RDWR);
    }

    fn finish(&self) {
        self.socket.shutdown(libc::SHUT_WR);
    }

    fn local(&self) -> SocketAddr {
        *self.local.get_or_init(|| local_address(self.socket.owned()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // An operation whose future was dropped holds the descriptor: end it, so that it closes.
        if self.socket.running() > 0 {
            self.socket.shutdown(libc::SHUT_RDWR);
        }
    }
}

/// The address a socket is bound to; unspecified if it has none.
fn local_address(fd: &OwnedFd) -> SocketAddr {
    let address = SockRef::from(fd).local_addr().ok();
    address.and_then(|a| a.as_socket()).unwrap_or((Ipv4Addr::UNSPECIFIED, 0).into())
}

/// A listening socket on the ring.
pub struct Listener {
    core: Rc<Core>,
    socket: Rc<Socket>,
    local: SocketAddr,
    closed: Cell<bool>,
    peer: Cell<Option<Box<PeerAddress>>>,
}

impl Listener {
    /// Waits for one connection.
    async fn accept_one(&self) -> io::Result<(Stream, SocketAddr)> {
        loop {
            if self.closed.get() {
                return Err(io::ErrorKind::NotConnected.into());
            }
            let peer = self.peer.take().unwrap_or_else(PeerAddress::new);
            let (res, (_, mut peer)) = ops::accept(Held::new(&self.socket), peer).await;
            match -res {
                errno if errno <= 0 => {
                    // SAFETY: the kernel has just made this descriptor for us; nobody else has it.
                    let stream = Stream::new(&self.core, unsafe { OwnedFd::from_raw_fd(res) });
                    // SAFETY: the kernel filled the storage with an address of that length.
                    let address = unsafe { SockAddr::new(peer.take(), peer.len) };
                    self.peer.set(Some(peer));
                    match address.as_socket() {
                        Some(address) => return Ok((stream, address)),
                        // A program on this machine, through the file system.
                        None if address.is_unix() => return Ok((stream, (Ipv4Addr::LOCALHOST, 0).into())),
                        None => continue,
                    }
                }
                libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                    self.core.stats.accept_pauses.set(self.core.stats.accept_pauses.get() + 1);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                _ if self.closed.get() => {}
                // The connection died in the queue, or has an error pending (accept(2)).
                libc::ECANCELED | libc::EINTR | libc::ECONNABORTED | libc::EPROTO => {}
                libc::ENETDOWN | libc::EHOSTDOWN | libc::EHOSTUNREACH | libc::ENETUNREACH => {}
                libc::EPERM | libc::ENOPROTOOPT | libc::ENONET | libc::ETIMEDOUT => {}
                _ => {
                    // Whatever it is, who calls again at once must not spin.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    return Err(ops::error(res));
                }
            }
        }
    }
}

impl crate::runtime::Listener for Listener {
    type Stream = Stream;

    async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        self.accept_one().await
    }

    fn local(&self) -> SocketAddr {
        self.local
    }

    fn close(&self) {
        if !self.closed.replace(true) {
            ops::cancel(self.socket.clone());
            // New connections are refused from now on, not left in a queue nobody serves.
            self.socket.shutdown(libc::SHUT_RDWR);
        }
    }
}

impl Uring {
    /// Serves a listening socket on this core. It must be in blocking mode; its TCP options are
    /// inherited by what it accepts (`listen` makes them so).
    pub fn listener(&self, socket: OwnedFd) -> io::Result<Listener> {
        SockRef::from(&socket).set_nonblocking(false)?;
        Ok(Listener {
            core: self.core.clone(),
            local: local_address(&socket),
            socket: Socket::new(&self.core, socket),
            closed: Cell::new(false),
            peer: Cell::new(None),
        })
    }

    /// Makes a connection of this core out of a connected socket.
    pub fn adopt(&self, socket: OwnedFd) -> io::Result<Stream> {
        SockRef::from(&socket).set_nonblocking(false)?;
        Ok(Stream::new(&self.core, socket))
    }
}

/// A socket for a connection to `to`, from `source` if given.
fn socket_for(to: SocketAddr, source: Option<IpAddr>) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    if let Some(source) = source {
        bind_address_no_port(&socket)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket.into())
}

/// Has the port chosen when connecting, where only the whole four-tuple must be unique.
fn bind_address_no_port(socket: &socket2::Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is a local integer of the length given; the socket is open.
    let res = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if res == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl crate::runtime::Net for Uring {
    type Stream = Stream;
    type Listener = Listener;

    async fn connect(&self, to: SocketAddr, source: Option<IpAddr>, deadline: Mono) -> io::Result<Stream> {
        self.connect_to(socket_for(to, source)?, SockAddr::from(to), deadline).await
    }

    async fn connect_path(&self, path: &Path, deadline: Mono) -> io::Result<Stream> {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        self.connect_to(socket.into(), SockAddr::unix(path)?, deadline).await
    }
}

impl Uring {
    /// Connects `socket`, in blocking mode, to `to`.
    async fn connect_to(&self, socket: OwnedFd, to: SockAddr, deadline: Mono) -> io::Result<Stream> {
        let stream = Stream::new(&self.core, socket);
        stream.set_deadline(Some(deadline));
        let mut address = Box::new(to);
        loop {
            let (res, (_, back)) = ops::connect(stream.socket.hold()?, address).await;
            address = back;
            match -res {
                // A first try that was interrupted went on in the kernel.
                0 | libc::EISCONN => break,
                libc::EALREADY | libc::EINPROGRESS => return Err(timed_out()),
                _ => match stream.socket.judge(res) {
                    Verdict::Failed(e) => return Err(e),
                    Verdict::Done(_) | Verdict::Again => {}
                },
            }
        }
        stream.set_deadline(None);
        Ok(stream)
    }
}

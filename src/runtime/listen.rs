//! Listening sockets, one per core and address.
//!
//! Two steps: [`reserve`] binds (it may need root, and tells early that a port is taken), and
//! [`listen`] opens the door once recovery is through. Errors name the address and what to do.

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// How long a port may still be taken at the start.
const PATIENCE: Duration = Duration::from_secs(3);

/// An address cannot be had.
#[derive(Debug)]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

impl ListenError {
    /// Exit code after sysexits.h: the configuration (78) if the address is none of ours, else the
    /// system (71).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.source.kind() == io::ErrorKind::AddrNotAvailable { 78 } else { 71 }
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ListenError { address, source } = self;
        let port = address.port();
        match source.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "cannot listen on {address}: the port is taken by another program \
                 (`ss -ltnp 'sport = :{port}'` shows which one)"
            ),
            io::ErrorKind::PermissionDenied => write!(
                f,
                "cannot listen on {address}: not permitted; ports below 1024 need root or \
                 CAP_NET_BIND_SERVICE"
            ),
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "cannot listen on {address}: this machine does not have that address")
            }
            _ => write!(f, "cannot listen on {address}: {source}"),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Binds `cores` sockets to `address`; port 0 takes a free one, the same for all. They do not
/// listen yet. An IPv6 address takes no IPv4 connections.
///
/// # Errors
/// Taken, not permitted, or not an address of this machine.
pub fn reserve(address: SocketAddr, cores: usize) -> Result<Vec<OwnedFd>, ListenError> {
    let failed = |source| ListenError { address, source };
    // Sockets that share a port are bound without complaint beside those of another instance.
    // One that does not share finds out whether the port is free.
    let probe = bind_patiently(address).map_err(failed)?;
    let address = probe.local_addr().map_err(failed)?.as_socket().unwrap_or(address);
    drop(probe);
    (0..cores).map(|_| bind(address, true).map(OwnedFd::from).map_err(failed)).collect()
}

/// True for an address of this machine: one that a socket can be bound to.
#[must_use]
pub fn is_own_address(ip: std::net::IpAddr) -> bool {
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}

/// A killed process is gone before its rings are: the kernel takes them down later, and their
/// listening sockets with them. A restart waits for that.
#[allow(clippy::disallowed_methods, reason = "at the start, before there is a core")]
fn bind_patiently(address: SocketAddr) -> io::Result<Socket> {
    let until = Instant::now() + PATIENCE;
    loop {
        match bind(address, false) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

fn bind(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of an earlier run that linger in TIME_WAIT do not matter.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Inherited by what is accepted.
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.bind(&address.into())?;
    if !share {
        // Bound alone does not clash with bound alone if both reuse addresses; listening does.
        socket.listen(1)?;
    }
    Ok(socket)
}

/// The address a socket is bound to.
///
/// # Errors
/// Those of getsockname(2).
pub fn address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let address = SockRef::from(socket).local_addr()?;
    address.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// Binds a socket at `path` for `cores` cores, which share it; whoever may use its directory can connect.
/// It does not listen yet. A socket that a process before has left is replaced.
///
/// # Errors
/// Another program listens there, or the path cannot be used.
#[allow(clippy::disallowed_methods, reason = "at the start, before there is a core")]
pub fn reserve_path(path: &Path, cores: usize) -> io::Result<Vec<OwnedFd>> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    if is_socket {
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    let socket = OwnedFd::from(socket);
    (0..cores).map(|_| socket.try_clone()).collect()
}

/// A client that is gone without a word is noticed within this time, whether we wait for it or it for us.
const GONE: Duration = Duration::from_secs(105);

/// Connections of this reserved socket end soon after their clients are gone: each may hold what others
/// wait for.
///
/// # Errors
/// Those of setsockopt(2).
pub fn watchful(socket: &OwnedFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    // A socket of the file system knows when its client goes.
    if socket.domain()? == Domain::UNIX {
        return Ok(());
    }
    // Silence for 45 s, then a question every 15 s: four without an answer are enough.
    let questions = TcpKeepalive::new()
        .with_time(Duration::from_secs(45))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    socket.set_tcp_keepalive(&questions)?;
    socket.set_tcp_user_timeout(Some(GONE))
}

/// Opens a reserved socket to connections. The kernel spreads them over the sockets that listen.
///
/// # Errors
/// Those of listen(2).
pub fn listen(socket: &OwnedFd) -> io::Result<()> {
    SockRef::from(socket).listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::uring::{self, Uring};
    use crate::runtime::{Clock, Listener, Net, Runtime, Stream};
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    fn port_of(socket: &OwnedFd) -> SocketAddr {
        SockRef::from(socket).local_addr().unwrap().as_socket().unwrap()
    }

    #[test]
    fn cores_share_a_port_that_nobody_else_gets() {
        let sockets = reserve(any(), 3).unwrap();
        let address = port_of(&sockets[0]);
        assert!(address.port() != 0 && sockets.iter().all(|s| port_of(s) == address));
        sockets.iter().for_each(|s| listen(s).unwrap());
        let taken = reserve(address, 1).unwrap_err();
        assert_eq!(taken.exit_code(), 71);
        assert!(taken.to_string().contains(&format!("sport = :{}", address.port())), "{taken}");
        drop(sockets);
        reserve(address, 2).unwrap();
    }

    #[test]
    fn a_foreign_address_is_a_mistake_in_the_configuration() {
        let error = reserve("192.0.2.1:0".parse().unwrap(), 1).unwrap_err();
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().contains("does not have that address"));
    }

    #[test]
    fn ipv6_takes_no_ipv4() {
        let Ok(sockets) = reserve("[::]:0".parse().unwrap(), 1) else { return };
        let port = port_of(&sockets[0]).port();
        reserve(SocketAddr::new("0.0.0.0".parse().unwrap(), port), 1).unwrap();
    }

    #[test]
    fn a_socket_in_the_file_system_is_shared_and_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lmtp");
        for _ in 0..2 {
            let sockets = reserve_path(&path, 2).unwrap();
            for socket in &sockets {
                watchful(socket).unwrap();
                listen(socket).unwrap();
            }
            assert_eq!(reserve_path(&path, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            let client = UnixStream::connect(&path).unwrap();
            let main = async |uring: Uring| {
                let listener = uring.listener(sockets.into_iter().next().unwrap()).unwrap();
                // The first one only wanted to know whether somebody listens.
                for _ in 0..2 {
                    let (stream, peer) = listener.accept().await.unwrap();
                    assert!(peer.ip().is_loopback());
                    let _ = stream.send(b"hi".to_vec()).await;
                }
            };
            uring::run(&uring::Options::small(), main).unwrap();
            let mut greeting = [0; 2];
            io::Read::read_exact(&mut &client, &mut greeting).unwrap();
        }
    }

    #[test]
    fn watchful_sockets_pass_it_on() {
        let sockets = reserve(any(), 1).unwrap();
        watchful(&sockets[0]).unwrap();
        listen(&sockets[0]).unwrap();
        let address = port_of(&sockets[0]);
        let main = async |uring: Uring| {
            let listener = uring.listener(sockets.into_iter().next().unwrap()).unwrap();
            let deadline = uring.now().after(Duration::from_secs(5));
            let _client = uring.connect(address, None, deadline).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let options = SockRef::from(stream.socket.owned());
            assert_eq!(options.tcp_user_timeout().unwrap(), Some(GONE));
            let time = options.tcp_keepalive_time().unwrap();
            let asked = options.tcp_keepalive_interval().unwrap() * options.tcp_keepalive_retries().unwrap();
            assert!(options.keepalive().unwrap() && time + asked <= GONE, "{time:?} and {asked:?}");
        };
        uring::run(&uring::Options::small(), main).unwrap();
    }

    #[test]
    fn accepted_sockets_inherit_their_options_and_all_listeners_serve() {
        let sockets = reserve(any(), 2).unwrap();
        let address = port_of(&sockets[0]);
        let main = async |uring: Uring| {
            let served = [0; 2].map(|_| Rc::new(Cell::new(0)));
            for (socket, count) in sockets.into_iter().zip(&served) {
                listen(&socket).unwrap();
                let (listener, count) = (uring.listener(socket).unwrap(), count.clone());
                uring.spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        let options = SockRef::from(stream.socket.owned());
                        assert!(options.tcp_nodelay().unwrap() && options.keepalive().unwrap());
                        count.set(count.get() + 1);
                        stream.send(b"hi".to_vec()).await.0.unwrap();
                    }
                });
            }
            for _ in 0..100 {
                let deadline = uring.now().after(Duration::from_secs(5));
                let stream = uring.connect(address, None, deadline).await.unwrap();
                stream.set_deadline(Some(deadline));
                assert_eq!(stream.recv(Vec::with_capacity(9)).await.1, b"hi");
            }
            (served[0].get(), served[1].get())
        };
        let (a, b) = uring::run(&uring::Options::small(), main).unwrap();
        assert_eq!(a + b, 100);
        assert!(a > 0 && b > 0, "{a} and {b}");
    }
}

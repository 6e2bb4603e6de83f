//! What source and sink share of the outside world: clocks, CPU time, time-outs, reading.
//!
//! Thin on purpose: another IO layer would replace this file and the two `connection.rs`.
//! A time-out or a stop comes back as an `io::Error` and closes the connection.

use super::Stop;
use crate::base::time::Mono;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How often a waiting connection looks at the clock and at its `Stop`.
const TICK: Duration = Duration::from_millis(500);

/// Bytes read at once, per thread. Larger than what usually waits in a socket: a short read then
/// tells the event loop that the socket is empty, which saves a system call per message.
pub(super) const SCRATCH: usize = 256 * 1024;

/// The clocks of one run.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        Clock { start: Instant::now() }
    }

    /// Time since the start of the run.
    pub(super) fn now(self) -> Mono {
        Mono(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Nanoseconds since the Unix epoch.
pub(super) fn unix_nanos() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// CPU time of the calling thread, if the kernel tells it.
pub(super) fn thread_cpu() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// The timer of one connection. It is armed seldom and checked when it fires, so that a message
/// costs no timer operations.
pub(super) struct Guard {
    sleep: Pin<Box<Sleep>>,
    since: Instant,
    limit: Duration,
    stop: Stop,
    /// How long an operation may go on after a stop.
    grace: Duration,
    stopped: Option<Instant>,
}

impl Guard {
    pub(super) fn new(limit: Duration, stop: Stop, grace: Duration) -> Self {
        let sleep = Box::pin(tokio::time::sleep(TICK.min(limit)));
        Guard { sleep, since: Instant::now(), limit, stop, grace, stopped: None }
    }

    /// Starts the time of one operation.
    pub(super) fn begin(&mut self) {
        self.since = Instant::now();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if now.duration_since(self.since) >= self.limit {
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "no answer in time"));
            }
            if self.stop.is_set() {
                let since = *self.stopped.get_or_insert(now);
                if now.duration_since(since) >= self.grace {
                    return Poll::Ready(io::Error::new(io::ErrorKind::Interrupted, "stopped"));
                }
            }
            let next = (now + TICK).min(self.since + self.limit);
            self.sleep.as_mut().reset(next.into());
        }
        Poll::Pending
    }
}

/// Reads once into `scratch` and hands the bytes (none at end of file) to `take`.
pub(super) async fn read_with<T>(
    stream: &mut TcpStream,
    scratch: &RefCell<Vec<u8>>,
    guard: &mut Guard,
    take: impl FnOnce(&[u8]) -> T,
) -> io::Result<T> {
    let mut take = Some(take);
    guard.begin();
    poll_fn(|cx| {
        let mut scratch = scratch.borrow_mut();
        let mut buf = ReadBuf::new(&mut scratch);
        match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => match take.take() {
                Some(take) => Poll::Ready(Ok(take(buf.filled()))),
                None => Poll::Ready(Err(io::ErrorKind::InvalidInput.into())),
            },
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => guard.poll(cx).map(Err),
        }
    })
    .await
}

/// Writes `parts` one after the other, gathered into as few system calls as the socket takes.
/// `written` counts up to the last byte handed to the kernel, also on error.
pub(super) async fn write_parts(
    stream: &mut TcpStream,
    parts: [&[u8]; 3],
    written: &mut usize,
    guard: &mut Guard,
) -> io::Result<()> {
    let total: usize = parts.iter().map(|p| p.len()).sum();
    guard.begin();
    while *written < total {
        let mut skip = *written;
        let slices = parts.map(|p| {
            let cut = skip.min(p.len());
            skip -= cut;
            io::IoSlice::new(&p[cut..])
        });
        let n = poll_fn(|cx| match Pin::new(&mut *stream).poll_write_vectored(cx, &slices) {
            Poll::Pending => guard.poll(cx).map(Err),
            ready => ready,
        })
        .await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        *written += n;
    }
    Ok(())
}

/// Opens a connection, from `source` if given (port 0: any).
pub(super) async fn connect(
    to: SocketAddr,
    source: Option<SocketAddr>,
    limit: Duration,
) -> io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
    };
    if let Some(source) = source {
        socket.bind(source)?;
    }
    socket.set_nodelay(true)?;
    tokio::time::timeout(limit, socket.connect(to)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

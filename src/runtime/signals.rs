//! Signals, taken by the control thread alone (core and helper threads block them).
//!
//! Needs a plain tokio runtime. Several signals of a kind may arrive as one.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the operator wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// SIGTERM or SIGINT: finish what is in hand and end. A second one: end at once.
    Stop,
    /// SIGHUP: read the configuration again, reopen logs.
    Reload,
    /// SIGUSR1: report the state.
    Report,
}

/// The signals of the process.
#[derive(Debug)]
pub struct Signals {
    sources: [(Signal, Request); 4],
}

impl Signals {
    /// Takes the signals over; from now on they no longer end the process by themselves.
    ///
    /// # Errors
    /// The handler cannot be installed.
    pub fn take() -> io::Result<Self> {
        let take = |kind, request| signal(kind).map(|s| (s, request));
        let sources = [
            take(SignalKind::terminate(), Request::Stop)?,
            take(SignalKind::interrupt(), Request::Stop)?,
            take(SignalKind::hangup(), Request::Reload)?,
            take(SignalKind::user_defined1(), Request::Report)?,
        ];
        Ok(Signals { sources })
    }

    /// Waits for the next one. A dropped wait loses nothing.
    pub async fn next(&mut self) -> Request {
        poll_fn(|cx| {
            for (source, request) in &mut self.sources {
                if source.poll_recv(cx) == Poll::Ready(Some(())) {
                    return Poll::Ready(*request);
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn signals_become_requests() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut signals = Signals::take().unwrap();
            for (number, request) in [
                (libc::SIGHUP, Request::Reload),
                (libc::SIGUSR1, Request::Report),
                (libc::SIGTERM, Request::Stop),
                (libc::SIGINT, Request::Stop),
            ] {
                // SAFETY: sends a signal whose handler is installed to this process.
                assert_eq!(unsafe { libc::kill(libc::getpid(), number) }, 0);
                let next = tokio::time::timeout(Duration::from_secs(5), signals.next()).await;
                assert_eq!(next.unwrap(), request);
            }
        });
    }
}

//! One client connection after the other, until there is no message left to send.
//!
//! Owns connecting, its retries, and moving bytes between a socket and a
//! [`Session`](super::session::Session). A broken connection settles its session and is opened
//! again: at once if it had got somewhere, after a pause (1 ms to 100 ms) if not.

use super::Worker;
use super::secure::{Link, Tls};
use super::session::{Session, Step};
use crate::base::time::Mono;
use crate::load::shell::{Guard, connect, unix_nanos};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a reply is awaited after a stop.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Sends through connection number `index` until the work is done.
pub(super) async fn run(worker: Rc<Worker>, index: usize) {
    let mut opened = 0usize;
    let mut failing_since = None;
    let mut pause = Duration::from_millis(1);
    while !worker.exhausted() || worker.holding() {
        let options = &worker.shared.options;
        let source = source_address(options.source_addresses, index.wrapping_add(opened));
        opened += 1;
        let progress = match connect(options.to, source, options.timeout).await {
            Ok(stream) => {
                worker.tally.borrow_mut().connections += 1;
                drive(&worker, stream).await
            }
            Err(e) => {
                *worker.tally.borrow_mut().connect_errors.entry(cause(&e)).or_insert(0) += 1;
                false
            }
        };
        if progress {
            failing_since = None;
            pause = Duration::from_millis(1);
            continue;
        }
        let now = worker.shared.clock.now();
        let since: Mono = *failing_since.get_or_insert(now);
        if now.since(since) >= options.retry_connect {
            break;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
    worker.live.set(worker.live.get() - 1);
}

/// One session; whether it got as far as a settled message or a clean end.
async fn drive(worker: &Worker, stream: TcpStream) -> bool {
    let mut link = Link::new(stream);
    let mut session = Session::new(Rc::clone(&worker.profile));
    let limit = worker.shared.options.timeout;
    let mut guard = Guard::new(limit, worker.shared.stop.clone(), STOP_GRACE);
    let before = worker.tally.borrow().acknowledged;
    let result = converse(worker, &mut link, &mut session, &mut guard).await;
    let mut tally = worker.tally.borrow_mut();
    session.abandon(unix_nanos(), worker, &mut tally);
    if let Err(e) = &result {
        *tally.broken.entry(cause(e)).or_insert(0) += 1;
    }
    // Another session of this thread may have made the progress: harmless, it only shortens a pause.
    result.is_ok() || tally.acknowledged > before
}

async fn converse(
    worker: &Worker,
    link: &mut Link,
    session: &mut Session,
    guard: &mut Guard,
) -> io::Result<()> {
    let clock = worker.shared.clock;
    let secure = &worker.secure;
    let to = worker.shared.options.to;
    if worker.shared.options.tls == Some(Tls::Implicit) {
        link.handshake(secure, to, &worker.scratch, guard).await?;
    }
    loop {
        let step = session.step(clock.now(), worker, &mut worker.tally.borrow_mut());
        match step {
            Step::Write => {
                let mut written = 0;
                let parts = session.parts();
                let result = link.write(parts, &mut written, guard).await;
                session.wrote(written, result.is_ok(), clock.now());
                result?;
            }
            Step::Read => {
                let spoken = link
                    .read(&worker.scratch, guard, |bytes| {
                        if bytes.is_empty() {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                        let now = clock.now();
                        worker.shared.ended.fetch_max(now.0, Ordering::Relaxed);
                        let mut tally = worker.tally.borrow_mut();
                        let unix = if tally.ledger.is_some() { unix_nanos() } else { 0 };
                        session
                            .absorb(bytes, now, unix, &mut tally)
                            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not an SMTP reply"))
                    })
                    .await?;
                spoken?;
            }
            Step::Pause(until) => {
                // Looks up now and then, so that a stop ends it.
                let wait = until.since(clock.now()).min(Duration::from_millis(500));
                tokio::time::sleep(wait).await;
            }
            Step::StartTls => link.handshake(secure, to, &worker.scratch, guard).await?,
            Step::Close => return Ok(()),
        }
    }
}

fn source_address(count: u8, turn: usize) -> Option<SocketAddr> {
    let host = (turn % usize::from(count.max(1))) as u8 + 1;
    (count > 0).then(|| SocketAddr::from(([127, 0, 1, host], 0)))
}

fn cause(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::Interrupted => e.to_string(),
        kind => kind.to_string(),
    }
}

//! `/metrics`, `/healthz`, `/readyz` over HTTP, on the control thread.
//!
//! Owns the bounds of this service: connections, bytes of a request, time for a request and its
//! answer. Knows no core: what it shows comes from closures. A client that breaks a bound is
//! disconnected; a failing `accept` (no descriptors left) is tried again after a second.

use crate::metrics::ProcSelf;
use crate::metrics::cores::Thread;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// What the endpoints show. Cheap to clone.
#[derive(Clone)]
pub struct HttpState {
    /// The text of `/metrics`.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Called every five seconds (`run_upkeep` of the exporter's handle).
    pub upkeep: Arc<dyn Fn() + Send + Sync>,
    /// Whether new mail is taken; if not, why.
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// Open connections; more wait in the kernel.
const CONNECTIONS_MAX: usize = 64;
/// Bytes of one request.
const REQUEST_MAX: usize = 16 << 10;
/// Time for a request, and for its answer.
const PATIENCE: Duration = Duration::from_secs(30);
const UPKEEP: Duration = Duration::from_secs(5);

/// Serves on `listener` until `stop` is ready; then finishes the answers in hand.
pub async fn serve(
    listener: TcpListener,
    state: HttpState,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    serve_within(PATIENCE, listener, state, stop).await
}

async fn serve_within(
    patience: Duration,
    listener: TcpListener,
    state: HttpState,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let upkeep = Arc::clone(&state.upkeep);
    let app = axum::Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(state);
    let bounded = Bounded { patience, listener, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    let serving = axum::serve(bounded, app).with_graceful_shutdown(stop);
    let regular = async {
        let mut tick = tokio::time::interval(UPKEEP);
        loop {
            tick.tick().await;
            upkeep();
        }
    };
    tokio::select! {
        result = serving => result,
        () = regular => Ok(()),
    }
}

async fn metrics(State(state): State<HttpState>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (state.metrics)())
}

async fn ready(State(state): State<HttpState>) -> impl IntoResponse {
    match (state.ready)() {
        Ok(()) => (StatusCode::OK, "ready\n".to_string()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
    }
}

/// What the kernel says of this process, for [`Process::render`](crate::metrics::Process::render).
#[must_use]
#[allow(clippy::disallowed_methods)] // /proc, by the control thread only
pub fn proc_self() -> ProcSelf {
    let text = |name| std::fs::read_to_string(name).unwrap_or_default();
    let auxv = std::fs::read("/proc/self/auxv").unwrap_or_default();
    let number = |b: &[u8]| b.try_into().map_or(0, u64::from_ne_bytes);
    // getauxval(3): pairs of key and value; AT_PAGESZ is 6, AT_CLKTCK 17.
    let aux = |key: u64| {
        let mut pairs = auxv.chunks_exact(16).map(|p| (number(&p[..8]), number(&p[8..])));
        pairs.find(|(k, _)| *k == key).map(|(_, v)| v)
    };
    ProcSelf {
        stat: text("/proc/self/stat"),
        limits: text("/proc/self/limits"),
        open_fds: std::fs::read_dir("/proc/self/fd").ok().map(|d| d.count() as u64),
        ticks: aux(17).unwrap_or(100),
        page: aux(6).unwrap_or(4096),
        threads: threads(),
    }
}

/// Our threads. One that ends meanwhile is left out.
#[allow(clippy::disallowed_methods)] // /proc, by the control thread only
fn threads() -> Vec<Thread> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let read = |task: std::io::Result<std::fs::DirEntry>| {
        let task = task.ok()?.path();
        let text = |name| std::fs::read_to_string(task.join(name)).ok();
        Thread::parse(&text("comm")?, &text("schedstat")?)
    };
    tasks.filter_map(read).collect()
}

struct Bounded {
    patience: Duration,
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl axum::serve::Listener for Bounded {
    type Io = Guarded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guarded, SocketAddr) {
        loop {
            let permit =
                Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let (patience, timer) = (self.patience, Box::pin(tokio::time::sleep(self.patience)));
                    let guarded =
                        Guarded { stream, patience, timer, received: 0, answered: true, _permit: permit };
                    return (guarded, peer);
                }
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with bounds: `PATIENCE` from its start (or from the answer before) to the answer,
/// and again to the end of the answer.
struct Guarded {
    stream: TcpStream,
    patience: Duration,
    timer: Pin<Box<Sleep>>,
    received: usize,
    answered: bool,
    _permit: OwnedSemaphorePermit,
}

impl Guarded {
    fn late<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Pending => this.late(cx),
            Poll::Ready(Ok(())) => {
                this.answered = false;
                this.received += buf.filled().len() - before;
                let fits = this.received <= REQUEST_MAX;
                Poll::Ready(if fits { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) })
            }
            error => error,
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.answered {
            this.answered = true;
            this.received = 0;
            this.timer.as_mut().reset(Instant::now() + this.patience);
        }
        match Pin::new(&mut this.stream).poll_write(cx, buf) {
            Poll::Pending => this.late(cx),
            done => done,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Facts;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn request(path: &str) -> Vec<u8> {
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").into_bytes()
    }

    #[test]
    fn endpoints() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (up, upkeeps) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
            let (up2, upkeeps2) = (Arc::clone(&up), Arc::clone(&upkeeps));
            let state = HttpState {
                metrics: Arc::new(|| "a_total 1\n".into()),
                upkeep: Arc::new(move || {
                    upkeeps2.fetch_add(1, Ordering::Relaxed);
                }),
                ready: Arc::new(
                    move || if up2.load(Ordering::Relaxed) { Ok(()) } else { Err("poisoned".into()) },
                ),
            };
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let server = tokio::spawn(serve(listener, state, async {
                let _ = stopped.await;
            }));
            let answer = ask(address, &request("/metrics")).await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("a_total 1\n"), "{answer}");
            assert!(answer.contains("text/plain; version=0.0.4"));
            assert!(ask(address, &request("/healthz")).await.starts_with("HTTP/1.1 200"));
            assert!(ask(address, &request("/readyz")).await.starts_with("HTTP/1.1 200"));
            up.store(false, Ordering::Relaxed);
            let answer = ask(address, &request("/readyz")).await;
            assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("poisoned\n"), "{answer}");
            assert!(ask(address, &request("/other")).await.starts_with("HTTP/1.1 404"));
            let mut long = b"GET /metrics HTTP/1.1\r\nX: ".to_vec();
            long.resize(64 << 10, b'a');
            assert!(!ask(address, &long).await.contains("a_total"));
            assert!(upkeeps.load(Ordering::Relaxed) > 0);
            stop.send(()).unwrap();
            server.await.unwrap().unwrap();
        });
    }

    #[test]
    fn silent_client_is_disconnected() {
        let patience = Duration::from_millis(300);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let nothing: Arc<dyn Fn() + Send + Sync> = Arc::new(|| {});
            let state =
                HttpState { metrics: Arc::new(String::new), upkeep: nothing, ready: Arc::new(|| Ok(())) };
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve_within(patience, listener, state, std::future::pending()));
            let begin = Instant::now();
            ask(address, b"GET / HT").await;
            assert!((patience..patience * 20).contains(&begin.elapsed()), "{:?}", begin.elapsed());
        });
    }

    #[test]
    fn own_process_is_seen() {
        let proc = proc_self();
        assert!(proc.page >= 4096 && proc.ticks == 100 && !proc.threads.is_empty());
        let mut text = String::new();
        let process = crate::metrics::Process {
            started: crate::base::time::Wall(1),
            config_hash: 1,
            certificates: Default::default(),
            destinations: Default::default(),
            reserve: 0,
        };
        let facts = Facts { proc, ready: true, events_dropped: 0, cores: Vec::new(), disk: Some((2, 1)) };
        process.render(&facts, &mut text);
        assert_eq!(text.matches("# TYPE").count(), crate::metrics::PROCESS.len(), "{text}");
    }
}

//! L5: the HTTP interface of operators: on the admin socket, and over TCP with a token.
//!
//! Owns the bounds: connections, bytes and time of a request, time of a write. Runs on the control thread
//! (plain tokio). Knows no verb: a request is looked up in [`super::routes`], and carried out by a
//! conversation ([`super::control`]) of its own, which ends by itself when nobody listens any more; a change
//! that has begun is finished. Whoever can open the socket (mode 0600) is believed; over TCP a token decides.

use super::control::{Conversation, Out, Queues};
use super::office::Office;
use super::render::{Piece, Render, Step};
use super::routes;
use super::token::Gate;
use super::wire::{Problem, REQUEST_MAX};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, Sleep};

/// Connections at a time, on the socket and over TCP each. One carries one request.
const CONNECTIONS: usize = 32;
/// How long a request may take to come, and a piece of an answer to go.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of the head of a request.
const HEAD_MAX: usize = 16 << 10;
/// How long somebody with a wrong token waits for the answer: so many guesses a second at most.
const WRONG: Duration = Duration::from_secs(1);
/// Pieces of an answer on their way.
const PIECES: usize = 16;

/// What all connections share.
pub struct Desk<Q> {
    /// The cores.
    pub queues: Rc<Q>,
    /// What conversations share.
    pub office: Rc<Office>,
}

impl<Q> Clone for Desk<Q> {
    fn clone(&self) -> Self {
        Desk { queues: self.queues.clone(), office: self.office.clone() }
    }
}

/// Serves the admin socket for ever. To be run in a `LocalSet`.
pub async fn serve_socket(listener: UnixListener, desk: Desk<impl Queues>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let uid = stream.peer_cred().map(|c| c.uid());
        let who = uid.map_or_else(|_| "unknown user".to_owned(), |uid| format!("uid {uid}"));
        let desk = desk.clone();
        tokio::task::spawn_local(async move {
            connection(stream, who, None, desk).await;
            drop(place);
        });
    }
}

/// Serves over TCP, to those who show the token, for ever. To be run in a `LocalSet`.
pub async fn serve_tcp(listener: TcpListener, gate: Rc<Gate>, desk: Desk<impl Queues>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (desk, gate) = (desk.clone(), gate.clone());
        tokio::task::spawn_local(async move {
            connection(stream, format!("token from {}", peer.ip()), Some(gate), desk).await;
            drop(place);
        });
    }
}

async fn connection<S>(stream: S, who: String, gate: Option<Rc<Gate>>, desk: Desk<impl Queues>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let (who, gate, desk) = (who.clone(), gate.clone(), desk.clone());
        async move { Ok::<_, Infallible>(answer(request, who, gate.as_deref(), desk).await) }
    });
    let io = TokioIo::new(Patient { stream, timer: Box::pin(tokio::time::sleep(PATIENCE)), waiting: false });
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(HEAD_MAX).timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    // The other end may go away at any time; that is its affair.
    let _ = http.serve_connection(io, service).await;
}

async fn answer<Q: Queues>(
    request: Request<Incoming>,
    who: String,
    gate: Option<&Gate>,
    desk: Desk<Q>,
) -> Response<Answered> {
    let (head, body) = request.into_parts();
    let shown = head.headers.get(AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
    if gate.is_some_and(|gate| !gate.is_shown(shown)) {
        desk.office.events.warn("admin", format!("{who}: the token is missing or wrong"));
        tokio::time::sleep(WRONG).await;
        return refused(&Problem::with(401, 77, "show the token: Authorization: Bearer TOKEN"));
    }
    let body = match tokio::time::timeout(PATIENCE, whole(body)).await {
        Ok(Ok(body)) => body,
        Ok(Err(problem)) => return refused(&problem),
        Err(_) => return refused(&Problem::with(408, 75, "the request took too long")),
    };
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or(""));
    let (route, command) = match routes::command(head.method.as_str(), path, query, &body) {
        Ok(found) => found,
        Err(problem) => return refused(&problem),
    };
    let accepts = head.headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let render = Render::new(route.answer, accepts.contains("application/x-ndjson"));
    let (out, pieces) = mpsc::channel(PIECES);
    tokio::task::spawn_local(async move {
        let Desk { queues, office } = desk;
        let mut out = Out::new(out);
        let mut conversation = Conversation { queues: &*queues, office: &office, who, out: &mut out };
        // It fails if nobody listens any more.
        if conversation.obey(command).await.is_ok() {
            let _ = out.end().await;
        }
    });
    begin(render, pieces).await
}

/// The body of a request, if it is not too long.
async fn whole(mut body: Incoming) -> Result<Vec<u8>, Problem> {
    let mut all = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| Problem::new(64, "the body has broken off"))?;
        let Ok(data) = frame.into_data() else { continue };
        if all.len() + data.len() > REQUEST_MAX {
            return Err(Problem::with(413, 64, format!("a body has {REQUEST_MAX} bytes at most")));
        }
        all.extend_from_slice(&data);
    }
    Ok(all)
}

/// The response, as soon as its status is known.
async fn begin(mut render: Render, mut pieces: mpsc::Receiver<Piece>) -> Response<Answered> {
    let kind = render.content_type();
    let body = loop {
        let Some(piece) = pieces.recv().await else {
            return refused(&Problem::new(70, "the answer has broken off"));
        };
        match render.push(piece) {
            Step::Wait => {}
            Step::Failed(problem) => return refused(&problem),
            Step::Last(bytes) => break Answered::Whole(Some(bytes.into())),
            Step::Send(first) => break Answered::Flows { first: Some(first.into()), render, pieces },
        }
    };
    with_head(StatusCode::OK, kind, body)
}

/// RFC 9457 §3.
fn refused(problem: &Problem) -> Response<Answered> {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let text = serde_json::to_vec(problem).unwrap_or_default();
    let mut response = with_head(status, "application/problem+json", Answered::Whole(Some(text.into())));
    let headers = response.headers_mut();
    match problem.status {
        // RFC 6750 §3.
        401 => drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        // RFC 9110 §15.5.6.
        405 => {
            let methods = problem.detail.trim_start_matches("this takes ");
            headers.extend(HeaderValue::from_str(methods).ok().map(|value| (ALLOW, value)));
        }
        503 => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("5"))),
        _ => {}
    }
    response
}

fn with_head(status: StatusCode, kind: &'static str, body: Answered) -> Response<Answered> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // What was true a moment ago is of no use to a cache, and none of its business.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The body of a response.
enum Answered {
    /// All of it.
    Whole(Option<Bytes>),
    /// As it comes.
    Flows {
        /// What is there already.
        first: Option<Bytes>,
        /// Makes bytes of pieces.
        render: Render,
        /// Where they come from.
        pieces: mpsc::Receiver<Piece>,
    },
}

impl Body for Answered {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let (first, render, pieces) = match this {
            Answered::Whole(bytes) => return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Answered::Flows { first, render, pieces } => (first, render, pieces),
        };
        if let Some(first) = first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        loop {
            // Without an end the client must see that this is not all: the connection breaks off.
            let Some(piece) = ready!(pieces.poll_recv(cx)) else {
                return Poll::Ready(Some(Err(io::ErrorKind::BrokenPipe.into())));
            };
            match render.push(piece) {
                Step::Wait => {}
                Step::Send(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes.into())))),
                Step::Last(bytes) => {
                    *this = Answered::Whole(None);
                    let last = (!bytes.is_empty()).then(|| Ok(Frame::data(bytes.into())));
                    return Poll::Ready(last);
                }
                Step::Failed(problem) => {
                    return Poll::Ready(Some(Err(io::Error::other(problem.detail))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Answered::Whole(None))
    }
}

/// A connection on which a write may not wait for ever.
struct Patient<S> {
    stream: S,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_write(cx, buf) {
            Poll::Ready(done) => {
                this.waiting = false;
                Poll::Ready(done)
            }
            Poll::Pending => {
                if !std::mem::replace(&mut this.waiting, true) {
                    this.timer.as_mut().reset(Instant::now() + PATIENCE);
                }
                this.timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

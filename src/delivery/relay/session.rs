//! L4: the loop of one connection: what the client machine asks for, done on the stream.

use super::{ConnectionEnd, Options, Source};
use crate::base::aligned::AlignedBuf;
use crate::base::time::Mono;
use crate::runtime::{Net, Part, Runtime, Stream};
use crate::smtp::outbound::stuffing::{Stuffer, is_clean};
use crate::smtp::outbound::{Begun, Client, Close, Ending, Loss, Request, Step};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::task::Poll;

/// Most bytes of a message in one send. With the 180 seconds for it: at least 728 bytes/s.
const CHUNK: usize = 128 * 1024;
/// Bytes received at once. Replies are short.
const INPUT: usize = 4096;
/// Items refused without a word to the server before others get their turn.
const REFUSED_AT_ONCE: u32 = 32;

pub(super) struct Session<'a, R: Runtime, S: Source> {
    rt: &'a R,
    stream: <R as Net>::Stream,
    source: &'a S,
    options: &'a Options,
    client: Client,
    /// The items of the open transactions, oldest first.
    flight: VecDeque<S::Item>,
    /// What has been received; of it `taken` bytes are dealt with.
    input: Vec<u8>,
    taken: usize,
    /// Commands to send.
    out: Vec<u8>,
    parts: Vec<Part>,
    /// For bodies that must be copied.
    copy: Vec<u8>,
    idle_since: Option<Mono>,
    settled: u64,
}

impl<'a, R: Runtime, S: Source> Session<'a, R, S> {
    pub fn new(rt: &'a R, stream: <R as Net>::Stream, source: &'a S, options: &'a Options) -> Self {
        Session {
            rt,
            stream,
            source,
            options,
            client: Client::new(options.client.clone(), rt.now()),
            flight: VecDeque::with_capacity(2),
            input: Vec::with_capacity(INPUT),
            taken: 0,
            out: Vec::with_capacity(512),
            parts: Vec::with_capacity(4),
            copy: Vec::new(),
            idle_since: None,
            settled: 0,
        }
    }

    pub async fn drive(mut self) -> ConnectionEnd {
        loop {
            let now = self.rt.now();
            let (n, step) = self.client.receive(now, &self.input[self.taken..], &mut self.out);
            self.taken += n;
            let end = match step {
                Step::NeedInput => self.exchange().await,
                Step::Ready => self.work().await,
                Step::SendBody => self.send_message().await,
                Step::Settled => {
                    self.settle();
                    None
                }
                Step::Close(why) => Some(self.closed(why)),
            };
            if let Some(end) = end {
                self.end_transactions(&end);
                return end;
            }
        }
    }

    /// Sends the commands and receives.
    async fn exchange(&mut self) -> Option<ConnectionEnd> {
        let input = self.empty_input();
        self.stream.set_deadline(self.client.deadline());
        let (result, input) = if self.out.is_empty() {
            self.stream.recv(input).await
        } else {
            let (result, out, input) = self.stream.send_recv(mem::take(&mut self.out), input).await;
            self.out = out;
            self.out.clear();
            (result, input)
        };
        self.received(result, input)
    }

    fn empty_input(&mut self) -> Vec<u8> {
        assert_eq!(self.taken, self.input.len(), "input that nobody has looked at");
        self.taken = 0;
        let mut input = mem::take(&mut self.input);
        input.clear();
        input
    }

    fn received(&mut self, result: io::Result<usize>, input: Vec<u8>) -> Option<ConnectionEnd> {
        self.input = input;
        match result {
            Ok(0) => Some(self.server_closed(Box::default())),
            Ok(_) => None,
            Err(e) => Some(self.failed(&e)),
        }
    }

    /// No transaction is open: begins one, waits for one, or closes.
    async fn work(&mut self) -> Option<ConnectionEnd> {
        let mut refused = 0;
        loop {
            if !self.client.has_room() {
                return Some(self.quit(ConnectionEnd::MessageLimit).await);
            }
            if let Some(item) = self.source.next() {
                if self.begin(item) {
                    return None;
                }
                refused += 1;
                if refused % REFUSED_AT_ONCE == 0 {
                    yield_once().await;
                }
                continue;
            }
            let now = self.rt.now();
            let until = self.idle_since.get_or_insert(now).after(self.options.idle);
            if now >= until {
                return Some(self.quit(ConnectionEnd::Idle).await);
            }
            if !self.source.wait(until).await && self.rt.now() < until {
                return Some(self.quit(ConnectionEnd::WorkDone).await);
            }
        }
    }

    /// Begins the item's transaction; false if it was settled at once.
    fn begin(&mut self, item: S::Item) -> bool {
        self.idle_since = None;
        let job = self.source.describe(&item);
        let size = job.size();
        let request = Request { envelope: job.envelope, recipients: job.recipients, flags: job.flags, size };
        match self.client.begin(self.rt.now(), &request, &mut self.out) {
            Begun::Sent => {
                self.flight.push_back(item);
                true
            }
            Begun::Refused => {
                self.source.settle(item, &self.client.results());
                false
            }
        }
    }

    fn settle(&mut self) {
        let item = self.flight.pop_front().expect("a transaction has its item");
        self.settled += 1;
        self.source.settle(item, &self.client.results());
    }

    /// Sends the oldest item's message, the end of data, and the next item's commands.
    async fn send_message(&mut self) -> Option<ConnectionEnd> {
        let source = self.source;
        if !source.before_final_dot(&self.flight[0]).await {
            // After the 354 there is no way back but to close.
            self.stream.shutdown();
            return Some(ConnectionEnd::Stopped);
        }
        let mut stuffer = Stuffer::default();
        let job = source.describe(&self.flight[0]);
        if job.side.is_none() && job.body.is_empty() {
            // Nothing but the end of data.
        } else if job.side.is_none() && job.body.len() <= CHUNK {
            let part = body_part(&job, job.body.clone(), &mut stuffer, &mut self.copy);
            self.parts.push(part);
        } else if let Some(end) = self.send_long_body(&mut stuffer).await {
            return Some(end);
        }
        self.client.end_body(self.rt.now());
        self.begin_follower();
        self.parts.push(Part::Static(stuffer.end()));
        if !self.out.is_empty() {
            self.parts.push(Part::Owned(mem::take(&mut self.out)));
        }
        let input = self.empty_input();
        self.stream.set_deadline(self.client.deadline());
        let (result, parts, input) = self.stream.send_parts_recv(mem::take(&mut self.parts), input).await;
        self.reclaim(parts);
        self.received(result, input)
    }

    /// RFC 2920 §3.1: the next transaction's commands go out behind this message.
    fn begin_follower(&mut self) {
        for _ in 0..REFUSED_AT_ONCE {
            if !self.client.can_follow() {
                return;
            }
            let Some(item) = self.source.next() else { return };
            if self.begin(item) {
                return;
            }
        }
    }

    /// Sends all of a body but its end, piece by piece.
    async fn send_long_body(&mut self, stuffer: &mut Stuffer) -> Option<ConnectionEnd> {
        let source = self.source;
        let job = source.describe(&self.flight[0]);
        let (body, side) = (job.body.clone(), job.side);
        let mut at = body.start;
        while at < body.end {
            let end = body.end.min(at + CHUNK);
            let job = source.describe(&self.flight[0]);
            let part = body_part(&job, at..end, stuffer, &mut self.copy);
            if let Some(end) = self.send_piece(part).await {
                return Some(end);
            }
            at = end;
        }
        let end = match side {
            Some(len) => self.send_side(len, stuffer).await,
            None => None,
        };
        self.copy = Vec::new();
        end
    }

    async fn send_side(&mut self, len: u64, stuffer: &mut Stuffer) -> Option<ConnectionEnd> {
        let mut buf = AlignedBuf::with_capacity(CHUNK);
        let mut at = 0;
        while at < len {
            buf.set_len(0);
            let (result, back) = self.source.read_side(&self.flight[0], at, buf).await;
            buf = back;
            let kind = match result {
                Ok(()) if buf.is_empty() => io::ErrorKind::UnexpectedEof,
                Ok(()) => {
                    let wanted = usize::try_from(len - at).unwrap_or(usize::MAX).min(buf.len());
                    at += wanted as u64;
                    let mut copy = mem::take(&mut self.copy);
                    stuffer.push(&buf.bytes()[..wanted], &mut copy);
                    if let Some(end) = self.send_piece(Part::Owned(copy)).await {
                        return Some(end);
                    }
                    continue;
                }
                Err(e) => e.kind(),
            };
            self.stream.shutdown();
            return Some(ConnectionEnd::Unreadable { kind });
        }
        None
    }

    async fn send_piece(&mut self, part: Part) -> Option<ConnectionEnd> {
        self.stream.set_deadline(Some(self.rt.now().after(self.options.client.block)));
        let mut parts = mem::take(&mut self.parts);
        parts.push(part);
        let (result, parts) = self.stream.send_parts(parts).await;
        self.reclaim(parts);
        result.err().map(|e| self.failed(&e))
    }

    /// Takes the buffers out of sent parts.
    fn reclaim(&mut self, mut parts: Vec<Part>) {
        for part in parts.drain(..) {
            let Part::Owned(mut bytes) = part else { continue };
            bytes.clear();
            let place = if self.out.capacity() == 0 { &mut self.out } else { &mut self.copy };
            *place = bytes;
        }
        self.parts = parts;
    }

    /// Says QUIT and waits for its reply, whatever it is.
    async fn quit(&mut self, reason: ConnectionEnd) -> ConnectionEnd {
        self.client.quit(self.rt.now(), &mut self.out);
        loop {
            if self.exchange().await.is_some() {
                return reason;
            }
            let (n, step) = self.client.receive(self.rt.now(), &self.input, &mut self.out);
            self.taken = n;
            if step != Step::NeedInput {
                return reason;
            }
        }
    }

    fn closed(&self, why: Close) -> ConnectionEnd {
        let text = || printable(self.client.last_words());
        match why {
            Close::Refused(code) => {
                ConnectionEnd::GreetingRefused { code, permanent: code / 100 == 5, text: text() }
            }
            Close::ServerClosing => self.server_closed(text()),
            Close::Quit => ConnectionEnd::WorkDone,
            Close::Unreadable(_) | Close::Unexpected(_) => {
                ConnectionEnd::ProtocolError { what: why, phase: self.client.phase() }
            }
        }
    }

    fn server_closed(&self, text: Box<str>) -> ConnectionEnd {
        ConnectionEnd::ServerClosed { reused: self.settled > 0, phase: self.client.phase(), text }
    }

    fn failed(&self, e: &io::Error) -> ConnectionEnd {
        let (reused, phase) = (self.settled > 0, self.client.phase());
        match e.kind() {
            io::ErrorKind::TimedOut => ConnectionEnd::Deadline { reused, phase },
            kind => ConnectionEnd::NetworkError { kind, reused, phase },
        }
    }

    /// Gives every item back to the source, with results or without.
    fn end_transactions(&mut self, end: &ConnectionEnd) {
        let why = match end {
            ConnectionEnd::Stopped => Loss::GivenUp,
            ConnectionEnd::Unreadable { .. } => Loss::Unreadable,
            ConnectionEnd::Deadline { .. } => Loss::Deadline,
            ConnectionEnd::ProtocolError { .. } => Loss::Protocol,
            _ => Loss::Connection,
        };
        while let Some(ending) = self.client.lost(why) {
            let item = self.flight.pop_front().expect("a transaction has its item");
            match ending {
                Ending::GiveBack => self.source.give_back(item),
                Ending::Settled => self.source.settle(item, &self.client.results()),
            }
        }
        assert!(self.flight.is_empty(), "an item without a transaction");
    }
}

/// A piece of the body as it goes on the wire: shared if it can be, copied if it needs dots.
fn body_part(
    job: &super::Job<'_>,
    range: std::ops::Range<usize>,
    stuffer: &mut Stuffer,
    copy: &mut Vec<u8>,
) -> Part {
    let bytes = &job.payload[range.clone()];
    if job.flags.has_dot_lines() {
        let mut out = mem::take(copy);
        stuffer.push(bytes, &mut out);
        return Part::Owned(out);
    }
    debug_assert!(range != job.body || is_clean(bytes, false), "a body that is not in stored form");
    stuffer.pass(bytes);
    Part::Shared(job.payload.part(range))
}

/// Text of a server for people: what is not UTF-8 is replaced.
fn printable(text: &[u8]) -> Box<str> {
    String::from_utf8_lossy(text).into()
}

/// Lets the other tasks of the core run.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

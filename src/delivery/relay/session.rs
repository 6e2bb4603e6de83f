//! L4: the loop of one connection: what the client machine asks for, done on the stream.
//!
//! While there is nothing to do, the server is listened to: a connection that it closes, or a reply
//! that nobody asked for, is noticed before anything is sent.

mod secure;

use super::{ConnectionEnd, Habits, Job, Options, Source};
use crate::base::aligned::AlignedBuf;
use crate::base::time::Mono;
use crate::runtime::{Lent, Net, Part, Runtime, Stream};
use crate::smtp::outbound::stuffing::{Stuffer, is_clean};
use crate::smtp::outbound::{Begun, Client, Close, Ending, Framing, Loss, Request, StartTls, Step};
use secure::Secure;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::mem;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// Most bytes of a message in one send. With the 180 seconds for it: at least 728 bytes/s.
const CHUNK: usize = 128 * 1024;
/// Bytes received at once. Replies are short.
const INPUT: usize = 4096;
/// Items refused without a word to the server before others get their turn.
const REFUSED_AT_ONCE: u32 = 32;
/// Bodies up to this length are copied behind their commands: cheaper than a part of their own...
const COPIED: usize = 4096;
/// ...while what waits to be sent is not longer than this.
const OUT_MAX: usize = 32 * 1024;
/// Buffers kept for sends in parts.
const SPARE_MAX: usize = 16;
/// A round trip up to which as many messages as may be are sent together...
const QUICK: Duration = Duration::from_millis(10);
/// ...and one above which fewer are: what waits here for a slow server, another connection could send.
const SLOW: Duration = Duration::from_millis(250);

pub(super) struct Session<'a, R: Runtime, S: Source> {
    rt: &'a R,
    stream: Rc<<R as Net>::Stream>,
    /// Large, and for few.
    secure: Option<Box<Secure>>,
    source: &'a S,
    options: &'a Options,
    habits: &'a Habits,
    client: Client,
    /// The items of the open transactions, oldest first.
    flight: VecDeque<S::Item>,
    /// How many of them there may be.
    breadth: usize,
    /// When they were sent.
    sent_at: Option<Mono>,
    /// What has been received; of it `taken` bytes are dealt with.
    input: Vec<u8>,
    taken: usize,
    /// To be sent: `parts`, and behind them `out`.
    parts: Vec<Part>,
    out: Vec<u8>,
    spare: Vec<Vec<u8>>,
    idle_since: Option<Mono>,
    settled: u64,
}

/// What ended the wait for work.
enum Woken {
    Work(bool),
    /// The server has spoken, or closed.
    Heard(Lent<usize, Vec<u8>>),
}

impl<'a, R: Runtime, S: Source> Session<'a, R, S> {
    pub fn new(
        rt: &'a R,
        stream: <R as Net>::Stream,
        source: &'a S,
        options: &'a Options,
        habits: &'a Habits,
    ) -> Self {
        let mut client_options = options.client.clone();
        habits.apply(&mut client_options);
        client_options.starttls = options.tls.as_ref().map_or(StartTls::Never, |tls| tls.wanted());
        Session {
            rt,
            stream: Rc::new(stream),
            secure: None,
            source,
            options,
            habits,
            client: Client::new(client_options, rt.now()),
            flight: VecDeque::with_capacity(16),
            breadth: 2,
            sent_at: None,
            input: Vec::with_capacity(INPUT),
            taken: 0,
            parts: Vec::with_capacity(4),
            out: Vec::with_capacity(512),
            spare: Vec::new(),
            idle_since: None,
            settled: 0,
        }
    }

    pub async fn drive(mut self) -> ConnectionEnd {
        loop {
            let now = self.rt.now();
            let from = self.out.len();
            let (n, step) = self.client.receive(now, &self.input[self.taken..], &mut self.out);
            self.tell(false, &self.input[self.taken..self.taken + n]);
            self.tell(true, &self.out[from..]);
            self.taken += n;
            let end = match step {
                Step::NeedInput => self.exchange().await,
                Step::StartTls => Box::pin(self.handshake()).await,
                Step::Ready => {
                    self.pace(now);
                    self.work().await
                }
                Step::SendBody => {
                    // How soon envelopes are answered says nothing about messages.
                    self.sent_at = None;
                    self.send_message().await
                }
                Step::Settled => {
                    self.settle();
                    None
                }
                Step::Close(why) => Some(self.closed(why)),
            };
            if let Some(end) = end {
                if self.secure.is_some() && end.is_orderly() {
                    self.say_closed().await;
                }
                self.habits.learn(&self.client, &end);
                self.end_transactions(&end);
                return end;
            }
        }
    }

    /// All that was sent has been answered: more next time, or less.
    fn pace(&mut self, now: Mono) {
        let Some(sent_at) = self.sent_at.take() else { return };
        let took = now.since(sent_at);
        self.breadth = match took {
            _ if took <= QUICK => usize::MAX,
            // At least two: the next envelope behind the message.
            _ if took > SLOW => (self.breadth.min(self.client.options().outstanding as usize) / 2).max(2),
            _ => self.breadth.saturating_mul(2),
        };
    }

    /// Sends what is to be sent, and receives.
    async fn exchange(&mut self) -> Option<ConnectionEnd> {
        if self.secure.is_some() {
            return self.exchange_sealed().await;
        }
        let input = self.empty_input();
        self.stream.set_deadline(self.client.deadline());
        if self.out.is_empty() && self.parts.is_empty() {
            let (result, input) = self.stream.recv(input).await;
            return self.received(result, input);
        }
        if !self.flight.is_empty() {
            self.sent_at.get_or_insert(self.rt.now());
        }
        if self.parts.is_empty() {
            let (result, out, input) = self.stream.send_recv(mem::take(&mut self.out), input).await;
            self.out = out;
            self.out.clear();
            return self.received(result, input);
        }
        let parts = self.all_parts();
        let (result, parts, input) = self.stream.send_parts_recv(parts, input).await;
        self.reclaim(parts);
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
        if self.secure.is_some() {
            return self.opened(result, input);
        }
        self.input = input;
        match result {
            Ok(0) => Some(self.server_closed(Box::default())),
            Ok(_) => None,
            Err(e) => Some(self.failed(&e)),
        }
    }

    /// No transaction is open: begins some, waits for one, or closes.
    async fn work(&mut self) -> Option<ConnectionEnd> {
        if !self.client.has_room() {
            return Some(self.quit(ConnectionEnd::MessageLimit).await);
        }
        if self.gather().await { None } else { self.idle().await }
    }

    /// Begins what is due, as much as may go together; false if there is nothing.
    async fn gather(&mut self) -> bool {
        let mut refused = 0;
        while let Some(item) = self.source.next() {
            if self.begin(item) {
                self.begin_followers();
                return true;
            }
            refused += 1;
            if refused % REFUSED_AT_ONCE == 0 {
                yield_once().await;
            }
        }
        false
    }

    /// Waits for work and sends it, or takes leave; listens to the server all the time.
    async fn idle(&mut self) -> Option<ConnectionEnd> {
        let (stream, source) = (self.stream.clone(), self.source);
        if let Some(end) = self.broken() {
            return Some(end);
        }
        let mut input = self.empty_input();
        if self.secure.is_some() {
            self.input = input;
            input = self.empty_wire();
        }
        if self.out.capacity() > OUT_MAX {
            self.out.shrink_to(OUT_MAX);
        }
        stream.set_deadline(None);
        let mut recv = pin!(stream.recv(input));
        let mut listening = false;
        let reason = loop {
            let now = self.rt.now();
            let until = self.idle_since.get_or_insert(now).after(self.options.idle);
            if now >= until {
                break Some(ConnectionEnd::Idle);
            }
            match first(source.wait(until), recv.as_mut(), &mut listening).await {
                Woken::Heard((result, input)) => return self.received(result, input),
                Woken::Work(true) if self.gather().await => break None,
                Woken::Work(false) if self.rt.now() < until => break Some(ConnectionEnd::WorkDone),
                Woken::Work(_) => {}
            }
        };
        if reason.is_some() {
            self.client.quit(self.rt.now(), &mut self.out);
        }
        stream.set_deadline(self.client.deadline());
        self.sent_at = Some(self.rt.now());
        let (result, input) = if self.parts.is_empty() && self.secure.is_none() {
            let send = stream.send(mem::take(&mut self.out));
            let (result, out, input) = both(&*stream, send, recv).await;
            self.out = out;
            self.out.clear();
            (result, input)
        } else {
            let send = stream.send_parts(self.all_parts());
            let (result, parts, input) = both(&*stream, send, recv).await;
            self.reclaim(parts);
            (result, input)
        };
        let end = self.received(result, input);
        match reason {
            None => end,
            Some(reason) if end.is_some() => Some(reason),
            Some(reason) => Some(self.take_leave(reason).await),
        }
    }

    /// Begins the item's transaction; false if it was settled at once.
    fn begin(&mut self, item: S::Item) -> bool {
        self.idle_since = None;
        let job = self.source.describe(&item);
        let request = Request {
            envelope: job.envelope,
            recipients: job.recipients,
            flags: job.flags,
            size: job.size(),
            at_once: job.side.is_none() && self.source.may_leave(&item),
        };
        let from = self.out.len();
        let begun = self.client.begin(self.rt.now(), &request, &mut self.out);
        self.tell(true, &self.out[from..]);
        match begun {
            Begun::Sent => {}
            Begun::Whole => {
                let body = job.body.clone();
                add_part(&job, body, &mut self.out, &mut self.parts, &mut self.spare);
            }
            Begun::Refused => {
                self.source.settle(item, &self.client.results());
                return false;
            }
        }
        self.flight.push_back(item);
        true
    }

    /// An operator may watch what passes; no bodies.
    fn tell(&self, client: bool, said: &[u8]) {
        if let Some(tap) = &self.options.tap {
            tap.told(client, said, || self.rt.wall());
        }
    }

    /// RFC 2920 §3.1: the next transactions' commands go out behind this message.
    fn begin_followers(&mut self) {
        let mut refused = 0;
        while self.flight.len() < self.breadth && refused < REFUSED_AT_ONCE && self.client.can_follow() {
            let Some(item) = self.source.next() else { return };
            refused += u32::from(!self.begin(item));
        }
        self.source.pass_on();
    }

    fn settle(&mut self) {
        let item = self.flight.pop_front().expect("a transaction has its item");
        self.settled += 1;
        self.source.settle(item, &self.client.results());
    }

    /// Sends the oldest item's message, the end of data, and what may follow.
    async fn send_message(&mut self) -> Option<ConnectionEnd> {
        let source = self.source;
        if !source.before_final_dot(&self.flight[0]).await {
            // Its recipients have been taken: there is no way back but to close.
            self.stream.shutdown();
            return Some(ConnectionEnd::Stopped);
        }
        let mut stuffer = match self.client.open_body(&mut self.out) {
            Framing::Dots => Some(Stuffer::default()),
            Framing::Counted => None,
        };
        let job = source.describe(&self.flight[0]);
        if job.side.is_none() && job.body.len() <= CHUNK {
            self.add_body(job.body.clone(), &mut stuffer);
        } else if let Some(end) = self.send_long_body(&mut stuffer).await {
            return Some(end);
        }
        self.client.end_body(self.rt.now());
        if let Some(stuffer) = stuffer {
            self.out.extend_from_slice(stuffer.end());
        }
        self.begin_followers();
        self.exchange().await
    }

    /// Adds a piece of the oldest item's body as it goes on the wire: shared or copied as it is, or
    /// copied with dots.
    fn add_body(&mut self, range: Range<usize>, stuffer: &mut Option<Stuffer>) {
        let job = self.source.describe(&self.flight[0]);
        let bytes = &job.payload[range.clone()];
        if let Some(stuffer) = stuffer {
            if job.flags.has_dot_lines() {
                return stuffer.push(bytes, &mut self.out);
            }
            stuffer.pass(bytes);
        }
        add_part(&job, range, &mut self.out, &mut self.parts, &mut self.spare);
    }

    /// Sends all of a body, piece by piece.
    async fn send_long_body(&mut self, stuffer: &mut Option<Stuffer>) -> Option<ConnectionEnd> {
        let source = self.source;
        let job = source.describe(&self.flight[0]);
        let (body, side) = (job.body.clone(), job.side);
        let mut at = body.start;
        while at < body.end {
            let end = body.end.min(at + CHUNK);
            self.add_body(at..end, stuffer);
            if let Some(end) = self.send_piece().await {
                return Some(end);
            }
            at = end;
        }
        let end = match side {
            Some(len) => self.send_side(len, stuffer).await,
            None => None,
        };
        self.out.shrink_to(OUT_MAX);
        end
    }

    async fn send_side(&mut self, len: u64, stuffer: &mut Option<Stuffer>) -> Option<ConnectionEnd> {
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
                    let bytes = &buf.bytes()[..wanted];
                    match stuffer {
                        Some(stuffer) => stuffer.push(bytes, &mut self.out),
                        None => self.out.extend_from_slice(bytes),
                    }
                    if let Some(end) = self.send_piece().await {
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

    async fn send_piece(&mut self) -> Option<ConnectionEnd> {
        self.stream.set_deadline(Some(self.rt.now().after(self.options.client.block)));
        let parts = self.all_parts();
        let (result, parts) = self.stream.send_parts(parts).await;
        self.reclaim(parts);
        result.err().map(|e| self.failed(&e))
    }

    /// All that is to be sent.
    fn all_parts(&mut self) -> Vec<Part> {
        if !self.out.is_empty() {
            close_out(&mut self.out, &mut self.parts, &mut self.spare);
        }
        let parts = mem::take(&mut self.parts);
        if self.secure.is_some() { self.sealed(parts) } else { parts }
    }

    /// Takes the buffers out of sent parts.
    fn reclaim(&mut self, mut parts: Vec<Part>) {
        for part in parts.drain(..) {
            let Part::Owned(mut bytes) = part else { continue };
            bytes.clear();
            if self.out.capacity() == 0 {
                self.out = bytes;
            } else if self.spare.len() < SPARE_MAX && bytes.capacity() <= OUT_MAX {
                self.spare.push(bytes);
            }
        }
        self.parts = parts;
    }

    /// Says QUIT and waits for its reply, whatever it is.
    async fn quit(&mut self, reason: ConnectionEnd) -> ConnectionEnd {
        self.client.quit(self.rt.now(), &mut self.out);
        if self.exchange().await.is_some() {
            return reason;
        }
        self.take_leave(reason).await
    }

    /// Receives until QUIT has been answered, in whatever way.
    async fn take_leave(&mut self, reason: ConnectionEnd) -> ConnectionEnd {
        loop {
            let (n, step) = self.client.receive(self.rt.now(), &self.input, &mut self.out);
            self.taken = n;
            if step != Step::NeedInput || self.exchange().await.is_some() {
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
            Close::TlsNotOffered => ConnectionEnd::TlsNotOffered,
            Close::TlsRefused(code) => ConnectionEnd::TlsRefused { code, text: text() },
            Close::LoginRefused(code) => ConnectionEnd::LoginFailed { code, text: text() },
            Close::LoginImpossible => {
                let text = "the server offers no mechanism that we may use";
                ConnectionEnd::LoginFailed { code: 0, text: text.into() }
            }
            Close::LoginUnproven => {
                let text = "the server does not prove that it knows the password";
                ConnectionEnd::LoginFailed { code: 0, text: text.into() }
            }
            Close::Unreadable(_) | Close::Unexpected(_) | Close::Injected => {
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

/// Adds a piece of a body as it is stored.
fn add_part(
    job: &Job<'_>,
    range: Range<usize>,
    out: &mut Vec<u8>,
    parts: &mut Vec<Part>,
    spare: &mut Vec<Vec<u8>>,
) {
    let bytes = &job.payload[range.clone()];
    let dots = job.flags.has_dot_lines();
    debug_assert!(range != job.body || is_clean(bytes, dots), "a body that is not in stored form");
    if bytes.len() <= COPIED && out.len() <= OUT_MAX - COPIED {
        return out.extend_from_slice(bytes);
    }
    if !out.is_empty() {
        close_out(out, parts, spare);
    }
    parts.push(Part::Shared(job.payload.part(range)));
}

/// What is in `out` becomes a part.
fn close_out(out: &mut Vec<u8>, parts: &mut Vec<Part>, spare: &mut Vec<Vec<u8>>) {
    parts.push(Part::Owned(mem::replace(out, spare.pop().unwrap_or_default())));
}

/// Waits for work or for the server, whichever comes first. Where there is work at once, nothing is
/// received; else `recv` is under way from then on (`listening`) and looked at first: what was said
/// before anything was asked must not be taken for an answer.
async fn first(
    work: impl Future<Output = bool>,
    mut recv: Pin<&mut impl Future<Output = Lent<usize, Vec<u8>>>>,
    listening: &mut bool,
) -> Woken {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if *listening && let Poll::Ready(heard) = recv.as_mut().poll(cx) {
            return Poll::Ready(Woken::Heard(heard));
        }
        if let Poll::Ready(some) = work.as_mut().poll(cx) {
            return Poll::Ready(Woken::Work(some));
        }
        if !mem::replace(listening, true) {
            return recv.as_mut().poll(cx).map(Woken::Heard);
        }
        Poll::Pending
    })
    .await
}

/// Sends, and receives what may be under way already; waits for both. The error of the send counts
/// more: of what was heard before it one cannot say what it answers.
async fn both<B>(
    stream: &impl Stream,
    send: impl Future<Output = Lent<(), B>>,
    mut recv: Pin<&mut impl Future<Output = Lent<usize, Vec<u8>>>>,
) -> (io::Result<usize>, B, Vec<u8>) {
    let mut send = pin!(send);
    let (mut sent, mut heard) = (None, None);
    poll_fn(|cx| {
        if sent.is_none()
            && let Poll::Ready(done) = send.as_mut().poll(cx)
        {
            if done.0.is_err() {
                // Nothing that could be heard would be of use.
                stream.shutdown();
            }
            sent = Some(done);
        }
        if heard.is_none()
            && let Poll::Ready(done) = recv.as_mut().poll(cx)
        {
            if sent.is_none() && !matches!(done.0, Ok(1..)) {
                // Nobody will answer any more.
                stream.shutdown();
            }
            heard = Some(done);
        }
        if sent.is_some() && heard.is_some() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    let (Some((result, buffer)), Some((heard, input))) = (sent, heard) else {
        unreachable!("both are there")
    };
    (result.and(heard), buffer, input)
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

//! The way in of the floor: lines answered by their first four letters, bodies found by their end.

use super::{BACKLOG, BATCH, Batch, Floor};
use ringpost::runtime::Stream as _;
use ringpost::runtime::uring::net::Stream;
use std::rc::Rc;

/// The input of one session: bytes, and what is known of them.
#[derive(Default)]
struct Input {
    buf: Vec<u8>,
    /// Start of the transaction, of what was not looked at yet, and of the body (0: in commands).
    start: usize,
    seen: usize,
    body: usize,
    recipients: usize,
}

impl Input {
    /// Answers all complete lines and stages all complete transactions. Returns the batch that the
    /// answers must wait for, and whether to go on.
    async fn digest(&mut self, floor: &Floor, out: &mut Vec<u8>) -> (Option<Rc<Batch>>, bool) {
        let mut last = None;
        loop {
            if self.body > 0 {
                // From the line end of DATA on, for the body may be empty.
                let from = (self.seen - 4).max(self.body - 2);
                let Some(dot) = memchr::memmem::find(&self.buf[from..], b"\r\n.\r\n") else {
                    self.seen = self.buf.len();
                    return (last, true);
                };
                let end = from + dot + 5;
                let mail = &self.buf[self.start..end];
                let commands = self.body - self.start;
                assert!(mail.len() <= BATCH, "larger than a batch");
                last = loop {
                    if let Some(batch) = floor.stage(mail, commands, self.recipients) {
                        break Some(batch);
                    }
                    let full = floor.open.borrow().0.clone();
                    full.written().await;
                };
                out.extend_from_slice(b"250 2.0.0 Ok: queued as 00000000000000\r\n");
                *self =
                    Input { start: end, seen: end, buf: std::mem::take(&mut self.buf), ..Input::default() };
            }
            let Some(n) = memchr::memchr(b'\n', &self.buf[self.seen..]) else { return (last, true) };
            let line = &self.buf[self.seen..self.seen + n + 1];
            let verb = line.first_chunk::<4>().map_or(*b"NOOP", |v| v.map(|c| c.to_ascii_uppercase()));
            self.seen += n + 1;
            match &verb {
                b"DATA" => {
                    out.extend_from_slice(b"354 End data with <CR><LF>.<CR><LF>\r\n");
                    self.body = self.seen;
                    continue;
                }
                b"EHLO" => out.extend_from_slice(b"250-floor\r\n250-PIPELINING\r\n250 8BITMIME\r\n"),
                b"QUIT" => {
                    out.extend_from_slice(b"221 2.0.0 Bye\r\n");
                    return (last, false);
                }
                _ => out.extend_from_slice(b"250 2.0.0 Ok\r\n"),
            }
            match &verb {
                b"MAIL" => self.recipients = 0,
                b"RCPT" => self.recipients += 1,
                // Not part of a transaction.
                _ => self.start = self.seen,
            }
        }
    }

    /// Room for more, at the place of what is done with.
    fn make_room(&mut self) {
        if self.buf.capacity() - self.buf.len() < 4096 {
            self.buf.drain(..self.start);
            self.seen -= self.start;
            self.body = self.body.saturating_sub(self.start);
            self.start = 0;
            self.buf.reserve(32 << 10);
        } else if self.start == self.buf.len() {
            self.buf.clear();
            (self.start, self.seen) = (0, 0);
        }
    }
}

/// Serves one connection.
pub(super) async fn run(floor: Rc<Floor>, stream: Stream) {
    let mut out = Vec::with_capacity(4096);
    out.extend_from_slice(b"220 floor ESMTP\r\n");
    let mut input = Input { buf: Vec::with_capacity(16 << 10), ..Input::default() };
    loop {
        let (n, sent, buf) = stream.send_recv(out, std::mem::take(&mut input.buf)).await;
        input.buf = buf;
        out = sent;
        out.clear();
        if !matches!(n, Ok(1..)) {
            return;
        }
        let (batch, go_on) = input.digest(&floor, &mut out).await;
        if let Some(batch) = batch {
            batch.written().await;
        }
        while floor.backlog.borrow().len() > BACKLOG {
            floor.drained.notified().await;
        }
        if !go_on {
            drop(stream.send(out).await);
            return;
        }
        input.make_room();
    }
}

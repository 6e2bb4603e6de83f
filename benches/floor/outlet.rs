//! The way out of the floor: SMTP to the sink, replies counted and not looked into.

use super::{Floor, Mail};
use ringpost::runtime::uring::Uring;
use ringpost::runtime::uring::net::Stream;
use ringpost::runtime::{Clock, Net, Part, Stream as _};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// A connection to the sink.
struct Outlet {
    stream: Stream,
    buf: Vec<u8>,
    /// The reply line that has arrived in part.
    line: Vec<u8>,
}

impl Outlet {
    /// Sends `parts` and waits for `replies` replies.
    async fn ask(&mut self, parts: Vec<Part>, mut replies: usize) -> io::Result<()> {
        let mut parts = Some(parts);
        while replies > 0 {
            let buf = std::mem::take(&mut self.buf);
            let (n, buf) = match parts.take() {
                Some(parts) => {
                    let (n, _, buf) = self.stream.send_parts_recv(parts, buf).await;
                    (n, buf)
                }
                None => self.stream.recv(buf).await,
            };
            self.buf = buf;
            if n? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for &byte in &self.buf {
                match byte {
                    b'\n' if self.line.get(3) == Some(&b' ') => {
                        if !matches!(self.line[0], b'2' | b'3') {
                            return Err(io::Error::other(String::from_utf8_lossy(&self.line).into_owned()));
                        }
                        replies -= 1;
                        self.line.clear();
                    }
                    b'\n' => self.line.clear(),
                    _ => self.line.push(byte),
                }
            }
            self.buf.clear();
        }
        Ok(())
    }
}

/// Passes stored transactions on: each body travels with the commands of the next one.
pub(super) async fn forward(floor: Rc<Floor>, uring: Uring, sink: SocketAddr) -> io::Result<()> {
    let stream = uring.connect(sink, None, uring.now().after(Duration::from_secs(10))).await?;
    let mut outlet = Outlet { stream, buf: Vec::with_capacity(4096), line: Vec::new() };
    outlet.ask(vec![], 1).await?;
    outlet.ask(vec![Part::Static(b"EHLO floor\r\n")], 1).await?;
    let mut before: Option<Mail> = None;
    loop {
        let next = floor.backlog.borrow_mut().pop_front();
        if next.is_none() && before.is_none() {
            floor.queued.notified().await;
            continue;
        }
        floor.drained.notify_waiters();
        let (mut parts, mut replies) = (Vec::with_capacity(2), 0);
        if let Some(mail) = &before {
            parts.push(Part::Shared(mail.bytes.part(mail.commands..mail.bytes.len())));
            replies += 1;
        }
        if let Some(mail) = &next {
            parts.push(Part::Shared(mail.bytes.part(0..mail.commands)));
            replies += 2 + mail.recipients;
        }
        outlet.ask(parts, replies).await?;
        floor.sent.set(floor.sent.get() + u64::from(before.is_some()));
        before = next;
    }
}

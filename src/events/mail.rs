//! The mail log: what came in, what went out, what was refused; one record for each.
//!
//! Owns the records' place in memory until they are written: each core encodes into a buffer of its own,
//! which goes to the writer of the events when it is full, or when its time has come ([`MailLog::flush`],
//! called by whoever waits for [`MailLog::filled`]). Buffers are bounded. Mail never waits for them: if the
//! writer cannot keep up, records are dropped, counted, and the count is written as soon as there is room.
//! Must not know sessions, queues or the configuration. Fields hold what peers have sent, made harmless;
//! passwords and contents of messages are no fields.

mod json;
mod text;

use super::Said;
use crate::base::ids::QueueId;
use crate::base::time::Wall;
use crate::message::envelope::EnvelopeView;
use crate::message::report::{Delivery, Feedback, Recipient};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::task::{Poll, Waker};
use std::time::Duration;

/// Bytes that are handed over at once: what a cache of a CPU holds beside other things, and what is written
/// in a time that does not matter to the mail core whose CPU the writer shares.
const FULL: usize = 64 << 10;
/// Buffers of a core that the writer may have; with the one being filled they bound its memory.
const BUFFERS: usize = 32;
/// Bytes of one field at most; a longer one is cut.
const FIELD_MAX: usize = 1000;
/// Recipients of one message that are named; of more, the number.
const NAMED_MAX: usize = 100;

/// Who has sent a message, as the session knows it.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Its address.
    pub address: IpAddr,
    /// Its name, as a forwarder says; empty: unknown.
    pub name: &'a [u8],
    /// What it has said in EHLO.
    pub helo: &'a [u8],
    /// `ESMTPS` and the like (RFC 3848).
    pub protocol: &'a str,
    /// Version and cipher, under TLS.
    pub tls: Option<(&'a str, &'a str)>,
    /// Who has logged in.
    pub user: Option<&'a str>,
}

/// A message that has been taken.
#[derive(Clone, Copy)]
pub struct Reception<'a> {
    /// Its id; none: it was not queued (LMTP).
    pub id: Option<QueueId>,
    /// Its client; none: it was made here.
    pub client: Option<Client<'a>>,
    /// Sender and recipients.
    pub envelope: EnvelopeView<'a>,
    /// Bytes of the body.
    pub size: u64,
    /// The message that this one is a report about.
    pub about: Option<QueueId>,
}

/// What has become of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The next hop, or the mailbox, has it.
    Delivery,
    /// It is tried again.
    TransientFailure,
    /// It is late, and its sender has been told so; it is still tried.
    Delayed,
    /// It is given up.
    Bounce,
    /// It is given up, for its time is over.
    Expiration,
}

/// One recipient of one attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// What has become of it.
    pub fate: Fate,
    /// Its message; none: it was not queued.
    pub id: Option<QueueId>,
    /// The sender.
    pub sender: &'a [u8],
    /// The recipient.
    pub recipient: &'a [u8],
    /// Bytes of the message.
    pub size: u64,
    /// When the message came.
    pub arrival: Wall,
    /// From then to the attempt's end.
    pub age: Duration,
    /// Of that, the attempt.
    pub took: Duration,
    /// The destination: the route's next hop or the domain.
    pub queue: &'a str,
    /// The site it belongs to.
    pub site: &'a str,
    /// Into a mailbox of this server.
    pub local: bool,
    /// The server that was asked; empty: nobody was.
    pub server: &'a str,
    /// Attempts that have failed.
    pub attempts: u16,
    /// What was said: a code (0: by us), an enhanced code, a text.
    pub reply: (u16, [u16; 3], &'a [u8]),
}

/// A command, or a message, that was refused.
#[derive(Clone, Copy, Debug)]
pub struct Rejection<'a> {
    /// The client.
    pub client: Client<'a>,
    /// `MAIL`, `RCPT` or `DATA`.
    pub command: &'static str,
    /// The sender of the transaction.
    pub sender: &'a [u8],
    /// The recipient that was refused; empty: the message was.
    pub recipient: &'a [u8],
    /// The reply, without its end of line.
    pub reply: &'a [u8],
}

/// A complaint about a message of ours (RFC 5965).
#[derive(Clone, Copy, Debug)]
pub struct Complaint<'a> {
    /// The message that it came in.
    pub id: QueueId,
    /// The sender of that.
    pub sender: &'a [u8],
    /// Whom that came to.
    pub recipient: &'a [u8],
    /// What it says.
    pub feedback: &'a Feedback,
}

/// A recipient of a message that has come back (RFC 3464).
#[derive(Clone, Copy, Debug)]
pub struct Returned<'a> {
    /// The message that says so.
    pub id: QueueId,
    /// Whom that came to.
    pub to: &'a [u8],
    /// The recipient that this address names; empty: none.
    pub named: &'a [u8],
    /// What it says.
    pub delivery: &'a Delivery,
    /// The recipient that this is about.
    pub of: &'a Recipient,
}

/// The form of the lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Json,
    /// As Postfix writes them; with a priority in front for the journal, which knows time and host.
    Text {
        journal: bool,
    },
}

/// How the log of a core is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nothing of what went well.
    pub failures_only: bool,
    /// The name of this host, for the text form.
    pub host: String,
    /// The core's number.
    pub core: u16,
}

/// The mail log of one core. Cheap to clone.
#[derive(Clone, Default)]
pub struct MailLog(Option<Rc<Inner>>);

struct Inner {
    form: Form,
    options: Options,
    pid: u32,
    to: SyncSender<Said>,
    /// Where the writer puts buffers back.
    back: (SyncSender<Vec<u8>>, Receiver<Vec<u8>>),
    state: RefCell<State>,
    count_lost: Box<dyn Fn(u64)>,
}

#[derive(Default)]
struct State {
    out: Vec<u8>,
    records: u64,
    /// Buffers that the writer has.
    away: usize,
    /// Records dropped that nobody has been told of.
    lost: u64,
    waiter: Option<Waker>,
    stamp: Stamp,
}

/// The time as text; most records of a second differ in milliseconds only.
#[derive(Default)]
struct Stamp {
    second: Cell<u64>,
    text: RefCell<String>,
    digits: RefCell<Vec<u8>>,
}

impl Stamp {
    fn renew(&self, at: Wall) {
        let mut text = self.text.borrow_mut();
        if self.second.replace(at.seconds()) != at.seconds() || text.is_empty() {
            *text = at.to_string();
            text.truncate("2026-11-23T07:00:00".len());
            let mut digits = self.digits.borrow_mut();
            digits.clear();
            put_number(&mut digits, at.seconds());
        }
    }

    /// Seconds since 1970.
    fn put_seconds(&self, out: &mut Vec<u8>, at: Wall) {
        self.renew(at);
        out.extend_from_slice(&self.digits.borrow());
    }

    fn put(&self, out: &mut Vec<u8>, at: Wall) {
        self.renew(at);
        out.extend_from_slice(self.text.borrow().as_bytes());
        let ms = (at.0 % 1000) as u16;
        out.push(b'.');
        out.extend([ms / 100, ms / 10 % 10, ms % 10].map(|digit| b'0' + digit as u8));
        out.push(b'Z');
    }
}

impl MailLog {
    pub(super) fn new(
        to: SyncSender<Said>,
        format: super::Format,
        options: Options,
        count_lost: Box<dyn Fn(u64)>,
    ) -> Self {
        let form = match format {
            super::Format::Json => Form::Json,
            super::Format::Text => Form::Text { journal: false },
            super::Format::Journald => Form::Text { journal: true },
        };
        let back = sync_channel(BUFFERS);
        let (pid, state) = (std::process::id(), RefCell::default());
        MailLog(Some(Rc::new(Inner { form, options, pid, to, back, state, count_lost })))
    }

    /// One that records nothing.
    #[must_use]
    pub fn nowhere() -> Self {
        MailLog(None)
    }

    /// False if nothing at all is recorded.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A message has been taken.
    pub fn reception(&self, at: Wall, r: &Reception<'_>) {
        let Some(inner) = self.0.as_deref().filter(|i| !i.options.failures_only) else { return };
        inner.record(|out, stamp| match inner.form {
            Form::Json => json::reception(out, stamp, at, inner.options.core, r),
            Form::Text { .. } => text::reception(&mut text::Lines { inner, out, stamp, at }, r),
        });
    }

    /// A recipient has been tried.
    pub fn attempt(&self, at: Wall, a: &Attempt<'_>) {
        let wanted = |i: &&Inner| !(i.options.failures_only && a.fate == Fate::Delivery);
        let Some(inner) = self.0.as_deref().filter(wanted) else { return };
        inner.record(|out, stamp| match inner.form {
            Form::Json => json::attempt(out, stamp, at, inner.options.core, a),
            Form::Text { .. } => text::attempt(&mut text::Lines { inner, out, stamp, at }, a),
        });
    }

    /// Something was refused.
    pub fn rejection(&self, at: Wall, r: &Rejection<'_>) {
        let Some(inner) = self.0.as_deref() else { return };
        inner.record(|out, stamp| match inner.form {
            Form::Json => json::rejection(out, stamp, at, inner.options.core, r),
            Form::Text { .. } => text::rejection(&mut text::Lines { inner, out, stamp, at }, r),
        });
    }

    /// Somebody complains about a message.
    pub fn complaint(&self, at: Wall, c: &Complaint<'_>) {
        let Some(inner) = self.0.as_deref() else { return };
        inner.record(|out, stamp| match inner.form {
            Form::Json => json::complaint(out, stamp, at, inner.options.core, c),
            Form::Text { .. } => text::complaint(&mut text::Lines { inner, out, stamp, at }, c),
        });
    }

    /// A message has come back for a recipient.
    pub fn returned(&self, at: Wall, r: &Returned<'_>) {
        let Some(inner) = self.0.as_deref() else { return };
        inner.record(|out, stamp| match inner.form {
            Form::Json => json::returned(out, stamp, at, inner.options.core, r),
            Form::Text { .. } => text::returned(&mut text::Lines { inner, out, stamp, at }, r),
        });
    }

    /// A message was removed by an operator, who gave this reason.
    pub fn removal(&self, at: Wall, id: QueueId, reason: &[u8]) {
        let Some(inner) = self.0.as_deref() else { return };
        inner.record(|out, stamp| match inner.form {
            Form::Json => json::removal(out, stamp, at, inner.options.core, id, reason),
            Form::Text { .. } => text::removal(&mut text::Lines { inner, out, stamp, at }, id, reason),
        });
    }

    /// Waits until there is something to be written. One at a time waits.
    pub async fn filled(&self) {
        let Some(inner) = self.0.as_deref() else { return std::future::pending().await };
        poll_fn(|cx| {
            let mut s = inner.state.borrow_mut();
            if s.records > 0 || s.lost > 0 {
                return Poll::Ready(());
            }
            s.waiter = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Hands over what there is. To be called some time after [`Self::filled`], and at the end.
    pub fn flush(&self) {
        if let Some(inner) = self.0.as_deref() {
            inner.hand_over(&mut inner.state.borrow_mut());
        }
    }
}

impl Inner {
    fn record(&self, encode: impl FnOnce(&mut Vec<u8>, &Stamp)) {
        let mut s = self.state.borrow_mut();
        let s = &mut *s;
        if s.out.len() >= FULL && !self.hand_over(s) {
            s.lost += 1;
            (self.count_lost)(1);
            return;
        }
        encode(&mut s.out, &s.stamp);
        s.records += 1;
        if let Some(waiter) = s.waiter.take() {
            waiter.wake();
        }
    }

    /// False if the writer is too far behind.
    fn hand_over(&self, s: &mut State) -> bool {
        let mut empty = None;
        while let Ok(buffer) = self.back.1.try_recv() {
            s.away -= 1;
            empty = Some(buffer);
        }
        if s.away == BUFFERS {
            return false;
        }
        let lost = std::mem::take(&mut s.lost);
        let bytes = std::mem::replace(&mut s.out, empty.unwrap_or_default());
        let said = Said::Mail { bytes, lost, core: self.options.core, back: self.back.0.clone() };
        match self.to.try_send(said) {
            Ok(()) => {
                s.away += 1;
                s.records = 0;
                true
            }
            Err(e) => {
                // The channel is full of events: the buffer stays where it was.
                let (std::sync::mpsc::TrySendError::Full(said)
                | std::sync::mpsc::TrySendError::Disconnected(said)) = e;
                if let Said::Mail { bytes, lost, .. } = said {
                    (s.out, s.lost) = (bytes, lost);
                }
                false
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut s = self.state.take();
        self.hand_over(&mut s);
    }
}

/// The part of a field that is written.
fn cut(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(FIELD_MAX)]
}

fn put_number(out: &mut Vec<u8>, mut n: u64) {
    if n < 10 {
        out.push(b'0' + n as u8);
        return;
    }
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests;

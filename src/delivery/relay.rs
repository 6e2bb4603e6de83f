//! L4: one connection to a next hop: greeting, EHLO, then messages until there are no more.
//!
//! Owns the stream and the buffers of the connection. What to send, and what becomes of the
//! results, is the [`Source`]'s; what the replies mean is `smtp::outbound`'s. Knows no queue, no
//! route, no retry. A message and the commands of the next one leave in one gathered send; where the
//! server offers CHUNKING, several whole messages do.
//!
//! Whatever happens, each item that was taken from the source goes back to it exactly once: by
//! [`Source::settle`] or by [`Source::give_back`]. Errors end the connection, never the process.

mod session;

use crate::base::aligned::{AlignedBuf, SharedBytes};
use crate::base::ids::QueueId;
use crate::base::time::Mono;
use crate::events::trace::Tap;
use crate::message::body::BodyFlags;
use crate::message::envelope::EnvelopeView;
use crate::route::tls_policy::{Demand, Terms};
use crate::runtime::{Lent, Net, Runtime};
use crate::smtp::outbound::{self, Close, StartTls};
pub use crate::smtp::outbound::{Outcome, Phase, RecipientResult};
use crate::tls::client::{Established, Rules};
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// A message for some of its recipients, as the source describes it.
#[derive(Debug)]
pub struct Job<'a> {
    /// The message.
    pub id: QueueId,
    /// Its envelope.
    pub envelope: EnvelopeView<'a>,
    /// Numbers of recipients in the envelope, ascending, at least one.
    pub recipients: &'a [u32],
    /// Flags of the body.
    pub flags: BodyFlags,
    /// Memory that holds trace headers and body.
    pub payload: &'a SharedBytes,
    /// Where in `payload` they are.
    pub body: Range<usize>,
    /// Length in bytes of what follows in a side file ([`Source::read_side`]).
    pub side: Option<u64>,
}

impl Job<'_> {
    /// Size of the message in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.body.len() as u64 + self.side.unwrap_or(0)
    }
}

/// Where a connection gets its messages from.
pub trait Source {
    /// One message for a set of its recipients.
    type Item;

    /// Takes a message that is due now.
    fn next(&self) -> Option<Self::Item>;

    /// More may be due than this connection takes now: another one may have it.
    fn pass_on(&self);

    /// Waits for work. True: there may be some, and [`Self::next`] is asked for it. False: `until`
    /// has passed, or the connection is to be closed.
    fn wait(&self, until: Mono) -> impl Future<Output = bool>;

    /// What the item is.
    fn describe<'a>(&self, item: &'a Self::Item) -> Job<'a>;

    /// Appends bytes of the side file from `offset` to `buf`, up to its capacity; none only at the
    /// end of the file. The buffer comes empty.
    fn read_side(
        &self,
        item: &Self::Item,
        offset: u64,
        buf: AlignedBuf,
    ) -> impl Future<Output = Lent<(), AlignedBuf>>;

    /// True if [`Self::before_final_dot`] has nothing to do for the item: it may leave at once.
    fn may_leave(&self, item: &Self::Item) -> bool;

    /// The message is about to be sent; the place for a record that says so. False: do not send
    /// it; the connection is given up, its items come back.
    fn before_final_dot(&self, item: &Self::Item) -> impl Future<Output = bool>;

    /// The connection is under TLS.
    fn secured(&self, _: &Established) {}

    /// One result for each recipient of the job, in its order. Those that are
    /// [`Outcome::NotTried`] are to be taken again at once, on any connection.
    fn settle(&self, item: Self::Item, results: &[RecipientResult<'_>]);

    /// Nothing was risked: take it again at once, on a fresh connection; no attempt is counted.
    fn give_back(&self, item: Self::Item);
}

/// What is demanded of a connection, and how it is brought about.
#[derive(Clone)]
pub struct Tls {
    /// Whom we believe.
    pub rules: Rules,
    /// What must be.
    pub terms: Terms,
    /// Of the server.
    pub address: IpAddr,
}

impl Tls {
    fn wanted(&self) -> StartTls {
        match self.terms.demand {
            Demand::Clear => StartTls::Never,
            Demand::Opportunistic => StartTls::IfOffered,
            Demand::Encrypted | Demand::Verified | Demand::Dane(_) => StartTls::Required,
        }
    }
}

/// How a connection is used.
#[derive(Clone)]
pub struct Options {
    /// The dialogue: name, limits, times. `transactions_max` is messages per connection; `starttls`
    /// is not looked at.
    pub client: outbound::Options,
    /// How long the connection is kept without work. 0: not at all.
    pub idle: Duration,
    /// TLS. None: clear text, whatever the server offers.
    pub tls: Option<Rc<Tls>>,
    /// Where operators watch this connection. None: nowhere.
    pub tap: Option<Tap>,
}

impl Options {
    /// The usual values, with the name for EHLO.
    #[must_use]
    pub fn new(helo: &str) -> Self {
        Options { client: outbound::Options::new(helo), idle: Duration::from_secs(60), tls: None, tap: None }
    }
}

/// What has been learnt of a next hop, from one connection to the next.
#[derive(Debug)]
pub struct Habits {
    /// It knows BDAT, for all that is known, and its replies come in step.
    chunking: Cell<bool>,
    /// How many messages may be outstanding: halved when a connection breaks under several, one
    /// more when one ends well. Servers that close after so many messages would have the rest of
    /// each batch in doubt otherwise.
    outstanding: Cell<u32>,
}

impl Default for Habits {
    fn default() -> Self {
        Habits { chunking: Cell::new(true), outstanding: Cell::new(u32::MAX) }
    }
}

impl Habits {
    fn apply(&self, options: &mut outbound::Options) {
        options.chunking &= self.chunking.get();
        options.outstanding = options.outstanding.min(self.outstanding.get());
    }

    /// A connection with these options has ended.
    fn learn(&self, client: &outbound::Client, end: &ConnectionEnd) {
        // Of a server that speaks unasked the 354 to DATA shows that its replies are those to our commands.
        let unasked = matches!(end, ConnectionEnd::ProtocolError { what: Close::Unexpected(_), .. });
        if client.is_chunking_broken() || unasked {
            self.chunking.set(false);
        }
        let used = client.options().outstanding;
        if client.in_doubt() > 1 {
            self.outstanding.set((used / 2).max(1));
        } else if end.is_orderly() {
            self.outstanding.set(self.outstanding.get().saturating_add(1));
        }
    }
}

/// How a connection came to its end. `reused`: a transaction had come to its end on it before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConnectionEnd {
    /// The source had nothing more and asked to close.
    WorkDone,
    /// Nothing to do for [`Options::idle`].
    Idle,
    /// The connection has carried its share of messages.
    MessageLimit,
    /// The source said that a message is not to be sent.
    Stopped,
    /// TLS is required, and the server does not offer it.
    TlsNotOffered,
    /// TLS is required, and the server offers it but will not do it.
    TlsRefused {
        /// The code.
        code: u16,
        /// What it said.
        text: Box<str>,
    },
    /// The handshake has failed; nothing has been sent.
    HandshakeFailed {
        /// Why.
        text: Box<str>,
    },
    /// We could not log in; nothing has been sent.
    LoginFailed {
        /// The code; 0: it was not the server that refused.
        code: u16,
        /// What the server said, or what is wrong.
        text: Box<str>,
    },
    /// The server did not greet us.
    GreetingRefused {
        /// The code.
        code: u16,
        /// It was a 5xx.
        permanent: bool,
        /// What it said.
        text: Box<str>,
    },
    /// The server closed the connection, by 421 or without a word.
    ServerClosed {
        /// See above.
        reused: bool,
        /// What was going on.
        phase: Phase,
        /// What it said with 421; empty if it just closed.
        text: Box<str>,
    },
    /// The network failed.
    NetworkError {
        /// How.
        kind: io::ErrorKind,
        /// See above.
        reused: bool,
        /// What was going on.
        phase: Phase,
    },
    /// The server's replies make no sense.
    ProtocolError {
        /// In what way.
        what: Close,
        /// What was going on.
        phase: Phase,
    },
    /// The server was too slow.
    Deadline {
        /// See above.
        reused: bool,
        /// What was going on.
        phase: Phase,
    },
    /// A side file could not be read: our own fault.
    Unreadable {
        /// How.
        kind: io::ErrorKind,
    },
}

impl ConnectionEnd {
    /// True if it says nothing against the next hop.
    #[must_use]
    pub fn is_orderly(&self) -> bool {
        matches!(
            self,
            ConnectionEnd::WorkDone
                | ConnectionEnd::Idle
                | ConnectionEnd::MessageLimit
                | ConnectionEnd::Stopped
                | ConnectionEnd::Unreadable { .. }
        )
    }

    /// Enhanced code of what it means for mail that waits, of those in the registry (RFC 5248).
    #[must_use]
    pub fn status(&self) -> [u16; 3] {
        match self {
            // RFC 3463 §3.8: security features not supported; RFC 7672 §2.2 asks for a deferral.
            ConnectionEnd::TlsNotOffered | ConnectionEnd::TlsRefused { .. } => [4, 7, 4],
            // RFC 3463 §3.8: cryptographic failure.
            ConnectionEnd::HandshakeFailed { .. } => [4, 7, 5],
            // RFC 4954 §6: authentication credentials invalid.
            ConnectionEnd::LoginFailed { .. } => [4, 7, 8],
            // RFC 3463 §3.5: bad connection.
            _ => [4, 4, 2],
        }
    }

    /// True if a connection that had worked was closed, as servers do with old ones: try a fresh
    /// one at once, count no failure.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        matches!(
            self,
            ConnectionEnd::ServerClosed { reused: true, .. }
                | ConnectionEnd::NetworkError { reused: true, .. }
        )
    }
}

impl fmt::Display for ConnectionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectionEnd::WorkDone => f.write_str("no more work"),
            ConnectionEnd::Idle => f.write_str("idle"),
            ConnectionEnd::MessageLimit => f.write_str("messages per connection reached"),
            ConnectionEnd::Stopped => f.write_str("stopped"),
            ConnectionEnd::TlsNotOffered => f.write_str("TLS is required, but was not offered"),
            ConnectionEnd::TlsRefused { code, text } => {
                write!(f, "TLS is required, but was refused: {code} {text}")
            }
            ConnectionEnd::HandshakeFailed { text } => write!(f, "TLS handshake failed: {text}"),
            ConnectionEnd::LoginFailed { code: 0, text } => write!(f, "cannot log in: {text}"),
            ConnectionEnd::LoginFailed { code, text } => write!(f, "login refused: {code} {text}"),
            ConnectionEnd::GreetingRefused { code, text, .. } => write!(f, "not greeted: {code} {text}"),
            ConnectionEnd::ServerClosed { phase, text, .. } if text.is_empty() => {
                write!(f, "closed by the server ({phase})")
            }
            ConnectionEnd::ServerClosed { phase, text, .. } => {
                write!(f, "closed by the server ({phase}): 421 {text}")
            }
            ConnectionEnd::NetworkError { kind, phase, .. } => write!(f, "{kind} ({phase})"),
            ConnectionEnd::ProtocolError { what, phase } => match what {
                Close::Unreadable(e) => write!(f, "{e} ({phase})"),
                Close::Unexpected(0) => write!(f, "reply that nobody asked for ({phase})"),
                Close::Unexpected(code) => write!(f, "unexpected reply {code} ({phase})"),
                Close::Injected => f.write_str("clear text behind the reply to STARTTLS"),
                _ => write!(f, "closed ({phase})"),
            },
            ConnectionEnd::Deadline { phase, .. } => write!(f, "timed out ({phase})"),
            ConnectionEnd::Unreadable { kind } => write!(f, "message could not be read: {kind}"),
        }
    }
}

/// Speaks over `stream`, just connected, until the connection has come to its end.
pub async fn run<R, S>(
    rt: &R,
    stream: <R as Net>::Stream,
    source: &S,
    options: &Options,
    habits: &Habits,
) -> ConnectionEnd
where
    R: Runtime,
    S: Source,
{
    session::Session::new(rt, stream, source, options, habits).drive().await
}

#[cfg(test)]
mod double;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;

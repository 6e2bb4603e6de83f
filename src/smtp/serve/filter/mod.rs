//! L4: filters of others that sessions ask: milters, policy servers in the protocol of Postfix, Rspamd.
//!
//! Owns what a session knows of its filters. They are asked in the order of the configuration, at MAIL, at
//! RCPT and at the end of a message; a connection belongs to one session and is opened at its first MAIL.
//! All waits are bounded, and hold up the one session only. What a filter breaks off, or does not answer in
//! time, is settled by [`WhenDown`]; nothing that it has changed remains then. Sessions without filters pay
//! for one look at an empty list.

mod delegation;
mod draft;
mod line;
mod message;
mod milter;
mod replacement;
mod rspamd;

pub(super) use message::{Filtered, Stop};

use super::session::Talk;
use crate::base::time::Mono;
use crate::metrics;
use crate::milter::{Answer, Fault};
use crate::policy::delegation as protocol;
use crate::runtime::Runtime;
use crate::smtp::rejection::Rejection;
use crate::storage::side::SideFile;
use line::Line;
use std::cell::Cell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use std::{fmt, io};

/// What a filter speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The milter protocol.
    Milter,
    /// The policy delegation protocol of Postfix; asked at RCPT.
    Policy,
    /// Rspamd's own protocol; asked about whole messages.
    Rspamd,
}

/// Where a filter is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// At this address.
    Inet(SocketAddr),
    /// At this socket in the file system.
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Inet(address) => write!(f, "inet:{address}"),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What becomes of a message whose filter cannot be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenDown {
    /// 451 4.7.1.
    TempFail,
    /// It is taken as if there were no such filter.
    Accept,
    /// 550 5.7.1.
    Reject,
}

/// A filter, as configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// For people.
    pub name: String,
    /// What it speaks.
    pub kind: Kind,
    /// Where it is.
    pub place: Place,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long it may take for an answer.
    pub command: Duration,
    /// How long it may take for a message, from its end to the answer.
    pub message: Duration,
    /// What is done without it.
    pub when_down: WhenDown,
    /// Not for clients that may relay by their address.
    pub skip_trusted: bool,
    /// Not for clients that have logged in.
    pub skip_authenticated: bool,
}

/// What is told of a filter: it cannot be asked (and why), or can be again.
pub type Tell = Box<dyn Fn(&Options, Option<String>)>;

/// A filter, for the sessions of one core.
pub struct Filter {
    options: Options,
    tell: Tell,
    /// It could not be asked, and that has been told.
    failing: Cell<bool>,
    /// When that was told last.
    told: Cell<Option<Mono>>,
}

/// A failing filter is told of so often at most.
const TELL_AGAIN: Duration = Duration::from_secs(60);

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

impl Filter {
    /// A filter; what happens to it is told.
    #[must_use]
    pub fn new(options: Options, tell: Tell) -> Rc<Self> {
        Rc::new(Filter { options, tell, failing: Cell::new(false), told: Cell::new(None) })
    }

    fn works(&self) {
        if self.failing.take() {
            (self.tell)(&self.options, None);
        }
    }

    fn fails(&self, trouble: &Trouble, now: Mono) {
        if self.told.get().is_none_or(|at| now.since(at) >= TELL_AGAIN) {
            self.told.set(Some(now));
            self.failing.set(true);
            (self.tell)(&self.options, Some(trouble.to_string()));
        }
    }
}

/// Why a filter could not be asked.
#[derive(Debug)]
pub(super) enum Trouble {
    Connect(io::ErrorKind),
    Late,
    Gone,
    Fault(&'static str),
    /// Not its own: what we have of the message cannot be read, or written.
    Ours,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Connect(e) => write!(f, "no connection: {e}"),
            Trouble::Late => f.write_str("no answer in time"),
            Trouble::Gone => f.write_str("it closed the connection"),
            Trouble::Fault(what) => write!(f, "it sent {what}"),
            Trouble::Ours => f.write_str("the message cannot be read back"),
        }
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Trouble::Fault(fault.text())
    }
}

impl From<protocol::Fault> for Trouble {
    fn from(fault: protocol::Fault) -> Self {
        Trouble::Fault(fault.text())
    }
}

impl From<crate::policy::rspamd::Fault> for Trouble {
    fn from(fault: crate::policy::rspamd::Fault) -> Self {
        Trouble::Fault(fault.text())
    }
}

impl Trouble {
    fn counter<'a>(&self, m: &'a metrics::Core) -> &'a metrics::Counter {
        match self {
            Trouble::Connect(_) => &m.filter_failed_connect,
            Trouble::Late => &m.filter_failed_time,
            Trouble::Gone => &m.filter_failed_closed,
            Trouble::Fault(_) => &m.filter_failed_protocol,
            Trouble::Ours => &m.filter_failed_storage,
        }
    }
}

/// One filter of one session.
struct Guard<R: Runtime> {
    filter: Rc<Filter>,
    line: Option<Line<R>>,
    /// What it was told in HELO, and whether that was under TLS.
    greeted: Option<(Vec<u8>, bool)>,
    /// What it has decided of the connection as a whole.
    decided: Option<Answer>,
    /// It is to be asked about what follows of this message.
    asks: bool,
    /// It could not be asked about a recipient: nothing more of this message is taken.
    lost: Option<Rejection>,
    milter: crate::milter::Client,
}

impl<R: Runtime> Guard<R> {
    fn new(filter: Rc<Filter>) -> Self {
        let milter = crate::milter::Client::default();
        Guard { filter, line: None, greeted: None, decided: None, asks: false, lost: None, milter }
    }

    /// Forgets the connection.
    fn leave(&mut self) {
        *self = Guard::new(self.filter.clone());
    }

    fn is_for(&self, talk: &Talk<'_, R>) -> bool {
        let o = &self.filter.options;
        !(o.skip_trusted && talk.guest.trusted || o.skip_authenticated && talk.login.name().is_some())
    }

    /// It could not be asked: what that means for the client.
    fn down(&mut self, trouble: &Trouble, talk: &Talk<'_, R>) -> Answer {
        let m = &talk.ctx.metrics;
        trouble.counter(m).increment(1);
        self.filter.fails(trouble, talk.ctx.rt.now());
        self.leave();
        let text = b"Service unavailable, try again later";
        match self.filter.options.when_down {
            WhenDown::Accept => Answer::Accept,
            WhenDown::TempFail => Answer::Refuse(Rejection::new(451, (7, 1), text)),
            WhenDown::Reject => Answer::Refuse(Rejection::new(550, (7, 1), b"Service unavailable")),
        }
    }
}

/// The filters of one session.
pub(super) struct Guards<R: Runtime> {
    each: Vec<Guard<R>>,
    /// The message is to be thrown away; the filter that says so.
    discard: Option<Rc<Filter>>,
    /// The message is to be held, for this reason.
    hold: Option<Vec<u8>>,
    /// Fields that policy servers put in front.
    prepend: Vec<crate::milter::Change>,
    /// Side files that no message needs any more.
    waste: Vec<SideFile>,
    /// Tells the message from others of all times, for policy servers.
    instance: u64,
}

impl<R: Runtime> Guards<R> {
    /// Of a session that has just begun; none without filters.
    pub fn new(filters: &[Rc<Filter>]) -> Option<Box<Self>> {
        if filters.is_empty() {
            return None;
        }
        let each = filters.iter().map(|f| Guard::new(f.clone())).collect();
        Some(Box::new(Guards {
            each,
            discard: None,
            hold: None,
            prepend: Vec::new(),
            waste: Vec::new(),
            instance: 0,
        }))
    }

    /// The client is another one.
    pub fn forget(&mut self) {
        self.each.iter_mut().for_each(Guard::leave);
    }

    fn begin_message(&mut self) {
        (self.discard, self.hold) = (None, None);
        self.prepend.clear();
        self.each.iter_mut().for_each(|g| (g.asks, g.lost) = (false, None));
    }
}

/// What the filters are asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum About {
    Sender,
    Recipient,
}

impl<R: Runtime> Talk<'_, R> {
    /// Asks the filters about the sender, or the recipient that came last. `Some`: refused.
    pub(super) async fn ask_filters(&mut self, about: About) -> Option<Rejection> {
        let mut guards = self.filters.take()?;
        if about == About::Sender {
            guards.begin_message();
            guards.instance = self.ctx.rt.random();
        }
        let mut refused = None;
        for at in 0..guards.each.len() {
            if guards.discard.is_some() {
                break;
            }
            let answer = match (guards.each[at].filter.options.kind, about) {
                (Kind::Milter, About::Sender) => guards.each[at].sender(self).await,
                (Kind::Milter, About::Recipient) => guards.each[at].recipient(self).await,
                (Kind::Rspamd, About::Sender) => {
                    guards.each[at].asks = guards.each[at].is_for(self);
                    Answer::Continue
                }
                (Kind::Policy, About::Sender) | (Kind::Rspamd, About::Recipient) => Answer::Continue,
                (Kind::Policy, About::Recipient) => self.ask_policy(&mut guards, at).await,
            };
            match answer {
                Answer::Continue | Answer::Accept => {}
                Answer::Discard => guards.discard = Some(guards.each[at].filter.clone()),
                Answer::Refuse(rejection) => {
                    refused = Some(rejection);
                    break;
                }
            }
        }
        self.filters = Some(guards);
        self.now = self.ctx.rt.now();
        if refused.is_some() {
            self.ctx.metrics.filter_refused.increment(1);
        }
        refused
    }

    /// Says goodbye to the filters.
    pub(super) async fn leave_filters(&mut self) {
        for guard in self.filters.iter_mut().flat_map(|g| &mut g.each) {
            if let Some(mut line) = guard.line.take()
                && guard.filter.options.kind == Kind::Milter
            {
                guard.milter.quit(&mut line.out);
                let until = self.ctx.rt.now().after(Duration::from_secs(1));
                // It sees the end of the connection, too.
                let _ = line.send(until).await;
            }
        }
    }
}

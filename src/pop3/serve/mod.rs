//! L4: serves POP3 on one core: moves bytes between connection and session machine, checks logins, takes
//! the maildrop, streams messages from the store, commits deletions.
//!
//! Knows no disk, and no other core but by number: a session whose maildrop another core owns is handed
//! over (`access/moving`). An error of the connection ends the session, which then has changed nothing
//! (RFC 1939 §6); trouble of ours becomes `-ERR [SYS/TEMP]`. An idle session holds no buffers.

mod login;
mod maildrop;
mod session;

pub use maildrop::Delays;

use crate::access::gate::Door;
use crate::access::host::{self, Host, Meters, Words};
use crate::access::moving::{Parcel, Roads};
use crate::access::wire::Wire;
use crate::mailbox::api::{Mailboxes, Refusal};
use crate::mailbox::types::AccountId;
use crate::metrics;
use crate::pop3::inbound::{self, Luggage};
use crate::pop3::reply::Reply;
use crate::runtime::Listener;
use crate::runtime::moving::Moving;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// Who owns a maildrop.
pub enum Home<M> {
    /// This core, in this shard.
    Here(M),
    /// Another core.
    There(u16),
}

/// The account of a login: its shard and its id there.
pub type Found<'a> = Pin<Box<dyn Future<Output = Result<AccountId, Refusal>> + 'a>>;

/// Where maildrops are.
pub trait Homes<M: Mailboxes> {
    /// Who owns the maildrop of this login (prepared, as SASL gives it).
    ///
    /// # Errors
    /// This core does, and cannot read it.
    fn home(&self, login: &str) -> Result<Home<M>, Refusal>;

    /// The account of a login whose home is `shard`. It may be made now.
    fn account<'a>(&'a self, shard: &'a M, login: &'a str) -> Found<'a>;
}

/// What can be set.
#[derive(Clone)]
pub struct Options {
    /// Limits and times of a session, and what it offers.
    pub session: Rc<inbound::Options>,
    /// How long a session may last; it ends between two commands.
    pub lasts: Duration,
}

impl Default for Options {
    /// The defaults of the product.
    fn default() -> Self {
        Options {
            session: Rc::new(inbound::Options::production()),
            lasts: Duration::from_secs(100 * 365 * 86_400),
        }
    }
}

/// What the POP3 sessions of one core share.
pub struct Context<R: Moving, M: Mailboxes> {
    host: Rc<Host<R>>,
    options: Options,
    homes: Rc<dyn Homes<M>>,
    roads: Rc<dyn Roads<R::Packed, Luggage>>,
    delays: Delays,
    /// Of the listeners here.
    doors: RefCell<Vec<Rc<Door>>>,
}

/// The series of POP3.
#[must_use]
pub fn meters(m: &metrics::Core) -> Meters {
    Meters {
        sessions: m.pop3_sessions.clone(),
        connections: m.pop3_connections.clone(),
        refused_sessions: m.pop3_refused_sessions.clone(),
        refused_address: m.pop3_refused_address.clone(),
        refused_network: m.pop3_refused_network.clone(),
        refused_rate: m.pop3_refused_rate.clone(),
        refused_stopping: m.pop3_refused_stopping.clone(),
        timeouts: m.pop3_timeouts.clone(),
        moved_in: m.pop3_moved_in.clone(),
        moved_out: m.pop3_moved_out.clone(),
    }
}

impl<R: Moving, M: Mailboxes> Context<R, M> {
    /// The context of one core; `host` has the series of [`meters`].
    #[must_use]
    pub fn new(
        host: Rc<Host<R>>,
        options: Options,
        homes: Rc<dyn Homes<M>>,
        roads: Rc<dyn Roads<R::Packed, Luggage>>,
    ) -> Rc<Self> {
        let delays = Delays::new(Duration::from_secs(options.session.login_delay.into()));
        Rc::new(Context { host, options, homes, roads, delays, doors: RefCell::default() })
    }

    /// The door by which sessions of `service` come in: on all cores the same.
    fn door(&self, service: &'static str) -> Rc<Door> {
        let doors = self.doors.borrow();
        let found = doors.iter().find(|d| d.service == service).cloned();
        found.unwrap_or_else(|| Rc::new(Door { service, ..Door::default() }))
    }

    /// What all protocols have in common.
    #[must_use]
    pub fn host(&self) -> &Rc<Host<R>> {
        &self.host
    }
}

/// Accepts connections until the listener is closed.
pub async fn accept<R: Moving, M: Mailboxes, L: Listener<Stream = R::Stream>>(
    ctx: Rc<Context<R, M>>,
    listener: Rc<L>,
    door: Rc<Door>,
) {
    let words = Words { refused: Reply::TOO_MANY_SESSIONS.line(), stopping: Reply::SHUTTING_DOWN.line() };
    let host = ctx.host.clone();
    ctx.doors.borrow_mut().push(door.clone());
    let serve = move |door, arrival| session::begin(ctx.clone(), door, arrival);
    host::accept(host, listener, door, words, serve).await;
}

/// Serves a session that another core has handed over, to its end.
pub async fn adopt<R: Moving, M: Mailboxes>(ctx: Rc<Context<R, M>>, parcel: Box<Parcel<R::Packed, Luggage>>) {
    if let Some((wire, known, luggage)) = Wire::arrive(ctx.host.clone(), *parcel) {
        session::go_on(ctx, wire, known, luggage).await;
    }
}

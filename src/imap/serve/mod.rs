//! L4: serves IMAP on one core: moves bytes between connection and session machine, checks logins, asks
//! the mailbox store, streams content, tells of changes.
//!
//! Knows no disk, and no other core but by number: a session whose account another core owns is handed
//! over (`access/moving`). An error of the connection ends the session; what it had asked of the store is
//! done or not done. Trouble of ours becomes `NO [UNAVAILABLE]`. An idle session holds no buffers.

pub mod desk;
#[cfg(test)]
mod dialogue_tests;
mod login;
mod session;

use crate::access::gate::Door;
use crate::access::host::{self, Host, Meters, Words};
use crate::access::moving::{Parcel, Roads};
use crate::access::wire::Wire;
pub use crate::imap::session::Luggage;

use crate::imap::session::Options as SessionOptions;
use crate::mailbox::api::Mailboxes;
use crate::metrics;
use crate::pop3::serve::Homes;
use crate::runtime::Listener;
use crate::runtime::moving::Moving;
use desk::Memory;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// What can be set.
#[derive(Clone)]
pub struct Options {
    /// Limits and times of a session, and what it offers.
    pub session: Rc<SessionOptions>,
    /// How long a session may last; it ends between two commands.
    pub lasts: Duration,
    /// Bytes of messages that come in and are in memory, of all sessions of a core together; above, they
    /// go to side files at once.
    pub memory: usize,
}

impl Default for Options {
    /// The defaults of the product.
    fn default() -> Self {
        Options {
            session: Rc::new(SessionOptions::production()),
            lasts: Duration::from_secs(100 * 365 * 86_400),
            memory: 64 << 20,
        }
    }
}

/// What the IMAP sessions of one core share.
pub struct Context<R: Moving, M: Mailboxes> {
    host: Rc<Host<R>>,
    options: Options,
    homes: Rc<dyn Homes<M>>,
    roads: Rc<dyn Roads<R::Packed, Luggage>>,
    memory: Rc<Memory>,
    /// Of the listeners here.
    doors: RefCell<Vec<Rc<Door>>>,
}

/// The series of IMAP.
#[must_use]
pub fn meters(m: &metrics::Core) -> Meters {
    Meters {
        sessions: m.imap_sessions.clone(),
        connections: m.imap_connections.clone(),
        refused_sessions: m.imap_refused_sessions.clone(),
        refused_address: m.imap_refused_address.clone(),
        refused_network: m.imap_refused_network.clone(),
        refused_rate: m.imap_refused_rate.clone(),
        refused_stopping: m.imap_refused_stopping.clone(),
        timeouts: m.imap_timeouts.clone(),
        moved_in: m.imap_moved_in.clone(),
        moved_out: m.imap_moved_out.clone(),
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
        let memory = Memory::new(options.memory);
        Rc::new(Context { host, options, homes, roads, memory, doors: RefCell::default() })
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
    let words =
        Words { refused: "* BYE Too many connections\r\n", stopping: "* BYE The server is stopping\r\n" };
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

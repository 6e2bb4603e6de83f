//! L4: opens the connections that the schedule asks for, and says what came of them.
//!
//! Owns no message: a connection (`relay`) takes its work from the desk through `At`, one
//! destination's end of it. Knows no retry rule. A next hop that cannot be reached, does not greet or
//! breaks off makes its destination pause; a connection that had worked and then died does not.

use crate::base::aligned::AlignedBuf;
use crate::base::time::Mono;
use crate::delivery::relay::{self, ConnectionEnd, Habits, Job, RecipientResult, Source};
use crate::delivery::side_cursor::SideCursor;
use crate::queue::desk::Desk;
use crate::queue::desk::settle::Item;
use crate::queue::index::DestId;
use crate::queue::routing::{Hop, Target};
use crate::queue::state::OwnedReply;
use crate::runtime::{Lent, Net, Runtime};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// How connections are made.
#[derive(Clone, Debug)]
pub struct Options {
    /// How they are used; messages per connection and TLS are the destination's.
    pub relay: relay::Options,
    /// How long one connection attempt may take.
    pub connect: Duration,
    /// Addresses tried at most for one connection.
    pub addresses: usize,
}

impl Options {
    /// The usual values, with the name for EHLO.
    #[must_use]
    pub fn new(helo: &str) -> Self {
        Options { relay: relay::Options::new(helo), connect: Duration::from_secs(30), addresses: 5 }
    }
}

/// Addresses of a host, or why there are none.
pub type Resolved = io::Result<Vec<IpAddr>>;

/// Finds the addresses of a host.
pub trait Resolve {
    /// In order of preference. Bounded in time by the implementation.
    fn resolve<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = Resolved> + 'a>>;
}

/// Starts the task that opens connections for `desk` until it is stopped.
pub fn start<R: Runtime>(desk: &Desk<R>, resolver: Rc<dyn Resolve>, options: Options) {
    let rt = desk.runtime().clone();
    let desk = desk.clone();
    let shared = Rc::new(Shared { resolver, options, habits: RefCell::default() });
    rt.spawn(async move {
        while let Some(d) = desk.opening().await {
            desk.runtime().spawn(connection(desk.clone(), d, shared.clone()));
        }
    });
}

/// What the connections share.
struct Shared {
    resolver: Rc<dyn Resolve>,
    options: Options,
    /// One for each destination, of which there are as many as routes and domains in use.
    habits: RefCell<BTreeMap<DestId, Rc<Habits>>>,
}

/// One connection from its opening to its end.
async fn connection<R: Runtime>(desk: Desk<R>, d: DestId, shared: Rc<Shared>) {
    let options = &shared.options;
    // Gives the place back even if something panics.
    let open = Open { desk: desk.clone(), d };
    let hop = desk.hop(d);
    let mut relay_options = options.relay.clone();
    relay_options.tls = if hop.tls_required { relay::Tls::Required } else { relay::Tls::Opportunistic };
    if hop.limits.messages_per_connection > 0 {
        relay_options.client.transactions_max = hop.limits.messages_per_connection;
    }
    let at = At { desk: desk.clone(), d, side: SideCursor::default() };
    if hop.tls_required {
        // Known beforehand: no connection is opened for it.
        relay::refuse_without_tls(&at);
        return;
    }
    match connect(&desk, &hop, &*shared.resolver, options).await {
        Ok(stream) => {
            let m = desk.metrics();
            m.out_connections.increment(1);
            m.out_open.increment(1.0);
            let habits = shared.habits.borrow_mut().entry(d).or_default().clone();
            let end = relay::run(desk.runtime(), stream, &at, &relay_options, &habits).await;
            m.out_open.decrement(1.0);
            judge(&desk, d, &end);
        }
        Err(e) => {
            desk.metrics().out_connections_failed.increment(1);
            // RFC 3463 §3.5: no answer from host.
            let text = format!("cannot connect to {}: {e}", hop.key);
            desk.unreachable(d, OwnedReply::ours([4, 4, 1], text.as_bytes()));
        }
    }
    drop(open);
}

fn judge<R: Runtime>(desk: &Desk<R>, d: DestId, end: &ConnectionEnd) {
    if end.is_orderly() {
        desk.reachable(d);
    } else if !end.is_stale() && *end != ConnectionEnd::TlsUnavailable {
        let text = end.to_string();
        // RFC 3463 §3.5: bad connection.
        desk.unreachable(d, OwnedReply::ours([4, 4, 2], text.as_bytes()));
    }
}

async fn connect<R: Runtime>(
    desk: &Desk<R>,
    hop: &Hop,
    resolver: &dyn Resolve,
    options: &Options,
) -> io::Result<<R as Net>::Stream> {
    let mut error = io::Error::new(io::ErrorKind::NotFound, "no address");
    let mut tried = 0;
    for target in &hop.targets {
        let addresses: Vec<SocketAddr> = match target {
            Target::Address(a) => vec![*a],
            Target::Host(name, port) => match resolver.resolve(name).await {
                Ok(list) => list.into_iter().map(|ip| SocketAddr::new(ip, *port)).collect(),
                Err(e) => {
                    error = e;
                    continue;
                }
            },
        };
        for to in addresses {
            if tried == options.addresses {
                return Err(error);
            }
            tried += 1;
            let source = if to.is_ipv4() { hop.source.0 } else { hop.source.1 };
            let deadline = desk.runtime().now().after(options.connect);
            match desk.runtime().connect(to, source, deadline).await {
                Ok(stream) => return Ok(stream),
                Err(e) => error = e,
            }
        }
    }
    Err(error)
}

/// A place among the open connections.
struct Open<R: Runtime> {
    desk: Desk<R>,
    d: DestId,
}

impl<R: Runtime> Drop for Open<R> {
    fn drop(&mut self) {
        self.desk.closed(self.d);
    }
}

/// One destination's end of the desk.
struct At<R: Runtime> {
    desk: Desk<R>,
    d: DestId,
    side: SideCursor<R>,
}

impl<R: Runtime> Source for At<R> {
    type Item = Item<R>;

    fn next(&self) -> Option<Item<R>> {
        self.desk.next(self.d)
    }

    fn pass_on(&self) {
        self.desk.pass_on(self.d);
    }

    fn wait(&self, until: Mono) -> impl Future<Output = bool> {
        self.desk.wait(self.d, until)
    }

    fn describe<'a>(&self, item: &'a Item<R>) -> Job<'a> {
        Job {
            id: item.id,
            envelope: item.envelope(),
            recipients: &item.recipients,
            flags: item.flags,
            payload: &item.payload,
            body: item.content.clone(),
            side: item.side_len(),
        }
    }

    fn read_side(
        &self,
        item: &Item<R>,
        offset: u64,
        buf: AlignedBuf,
    ) -> impl Future<Output = Lent<(), AlignedBuf>> {
        self.side.read(&self.desk, item, offset, buf)
    }

    fn may_leave(&self, item: &Item<R>) -> bool {
        item.covered
    }

    fn before_final_dot(&self, item: &Item<R>) -> impl Future<Output = bool> {
        self.desk.announce(item)
    }

    fn settle(&self, item: Item<R>, results: &[RecipientResult<'_>]) {
        if results.first().is_some_and(|r| r.conn_use > 1) {
            self.desk.metrics().out_reused.increment(1);
        }
        self.desk.settle(item, results);
    }

    fn give_back(&self, item: Item<R>) {
        self.desk.give_back(item);
    }
}

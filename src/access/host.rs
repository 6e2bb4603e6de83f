//! What the sessions of one core and protocol share; from a connection to a session.
//!
//! A connection of a listed proxy begins with a header (`smtp/proxy`), before TLS and before the
//! greeting; from then on every rule uses the address that it names.

use super::gate::{Door, Gate, Guest, Tls};
use super::live::Live;
use super::roll::Badge;
use super::wire::Wire;
use crate::attempts::Attempts;
use crate::auth::service::Logins;
use crate::base::time::Mono;
use crate::metrics::{self, Counter, Gauge};
use crate::runtime::pool::Pool;
use crate::runtime::{Listener, Runtime};
use crate::smtp::serve::arrive::{Announced, canonical, read_header};
use crate::smtp::serve::session::last_words;
use crate::smtp::serve::{Caller, Refused};
use std::cell::{Cell, OnceCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// What can be set.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long a listed proxy may take to send its header.
    pub proxy_header: Duration,
    /// After so long without a byte a session gives its receive buffer back.
    pub idle_buffer: Duration,
    /// How long the last reply of a session may take to be sent and read.
    pub last_words: Duration,
    /// How long a client may take to receive replies.
    pub write: Duration,
}

impl Default for Options {
    /// The defaults of the product.
    fn default() -> Self {
        Options {
            proxy_header: Duration::from_secs(5),
            idle_buffer: Duration::from_secs(2),
            last_words: Duration::from_secs(5),
            write: Duration::from_secs(180),
        }
    }
}

/// What a protocol says to a client that is not let in: a whole reply each.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// Too many sessions, or too often.
    pub refused: &'static str,
    /// The process stops.
    pub stopping: &'static str,
}

/// The series of a protocol.
#[derive(Clone)]
pub struct Meters {
    /// Sessions open now.
    pub sessions: Gauge,
    /// Connections accepted.
    pub connections: Counter,
    /// Refused: too many sessions in all.
    pub refused_sessions: Counter,
    /// Refused: too many of the address.
    pub refused_address: Counter,
    /// Refused: too many of the network.
    pub refused_network: Counter,
    /// Refused: too often.
    pub refused_rate: Counter,
    /// Refused: the process stops.
    pub refused_stopping: Counter,
    /// Sessions closed because a deadline passed.
    pub timeouts: Counter,
    /// Sessions that came from another core.
    pub moved_in: Counter,
    /// Sessions that went to another core.
    pub moved_out: Counter,
}

impl Meters {
    fn refused(&self, why: Refused) -> &Counter {
        match why {
            Refused::Sessions => &self.refused_sessions,
            Refused::Address => &self.refused_address,
            Refused::Network => &self.refused_network,
            Refused::Rate => &self.refused_rate,
        }
    }
}

/// What the sessions of one core and protocol share.
pub struct Host<R: Runtime> {
    /// The core's runtime.
    pub rt: R,
    /// Who may come in.
    pub gate: Rc<dyn Gate>,
    /// The core's series.
    pub metrics: metrics::Core,
    /// Those of the protocol.
    pub meters: Meters,
    /// What can be set.
    pub options: Options,
    /// The core's buffers.
    pub pool: Rc<Pool>,
    /// The open sessions.
    pub live: Rc<Live<R::Stream>>,
    attempts: OnceCell<Attempts>,
    logins: OnceCell<Rc<Logins<R>>>,
    /// Connections that are being refused.
    refusing: Cell<usize>,
}

/// How long the refusal of a connection may take to be sent and read.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// Refusals under way at once; beyond, connections are closed without a word.
const REFUSING_MAX: usize = 256;

impl<R: Runtime> Host<R> {
    /// Without logins yet.
    #[must_use]
    pub fn new(
        rt: R,
        gate: Rc<dyn Gate>,
        (metrics, meters): (metrics::Core, Meters),
        options: Options,
        pool: Rc<Pool>,
    ) -> Self {
        let live = Live::new(meters.sessions.clone());
        let (attempts, logins) = (OnceCell::new(), OnceCell::new());
        Host { rt, gate, metrics, meters, options, pool, live, attempts, logins, refusing: Cell::new(0) }
    }

    /// Users can log in here, by these rules. To be said once, before connections are accepted.
    pub fn set_logins(&self, logins: Rc<Logins<R>>, attempts: Option<Attempts>) {
        assert!(self.logins.set(logins).is_ok(), "there is one desk for logins");
        if let Some(attempts) = attempts {
            // The desk has just been set for the first time, and this with it.
            let _ = self.attempts.set(attempts);
        }
    }

    /// The desk for logins; `None`: there are no users.
    #[must_use]
    pub fn logins(&self) -> Option<&Rc<Logins<R>>> {
        self.logins.get()
    }

    /// The rules by which logins are let in; without, everybody may try at once.
    #[must_use]
    pub fn attempts(&self) -> Option<&Attempts> {
        self.attempts.get()
    }

    /// Ends sessions that wait for a command, and the others at their next one.
    pub fn stop(&self) {
        self.live.stop(self.rt.now());
    }

    /// Waits until all sessions have ended, at most until `until`; then cuts the rest off.
    pub async fn drained(&self, until: Mono) {
        while self.live.count() > 0 && self.rt.now() < until {
            let next = self.rt.now().after(Duration::from_millis(20));
            self.rt.sleep_until(next.min(until)).await;
        }
        self.live.cut();
    }
}

/// A client that has come in.
pub struct Arrival<R: Runtime> {
    /// Its connection.
    pub wire: Wire<R>,
    /// Its address; IPv4 is never in IPv6 form.
    pub peer: SocketAddr,
    /// What it may do.
    pub guest: Guest,
}

/// Accepts connections until the listener is closed; `serve` serves each to its end.
pub async fn accept<R, L, F, S>(host: Rc<Host<R>>, listener: Rc<L>, door: Rc<Door>, words: Words, serve: S)
where
    R: Runtime,
    L: Listener<Stream = R::Stream>,
    F: Future<Output = ()> + 'static,
    S: Fn(Rc<Door>, Arrival<R>) -> F + Clone + 'static,
{
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok((stream, peer)) => (stream, canonical(peer)),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => return,
            // The connection has gone before it was taken, or the kernel is short of something.
            Err(_) => continue,
        };
        host.meters.connections.increment(1);
        if host.live.is_stopping() {
            host.meters.refused_stopping.increment(1);
            turn_away(&host, &door, stream, words.stopping);
            continue;
        }
        match host.gate.admit(&door.caller(peer.ip()), host.rt.now()) {
            Ok(guest) => {
                let badge = Badge::new(host.rt.now(), door.service, peer);
                let wire = Wire::new(host.clone(), host.live.enter(stream, badge), Vec::new());
                let arrival = Arrival { wire, peer, guest };
                let (door, serve) = (door.clone(), serve.clone());
                host.rt.spawn(async move {
                    if let Some(arrival) = arrive(arrival, &door, words).await {
                        serve(door, arrival).await;
                    }
                });
            }
            Err(why) => {
                host.meters.refused(why).increment(1);
                turn_away(&host, &door, stream, words.refused);
            }
        }
    }
}

/// Refuses a connection. Costs little, however many come.
fn turn_away<R: Runtime>(host: &Rc<Host<R>>, door: &Door, stream: R::Stream, reply: &'static str) {
    // Where TLS comes first no words can be understood.
    if door.tls == Tls::Implicit || host.refusing.get() >= REFUSING_MAX {
        return;
    }
    host.refusing.set(host.refusing.get() + 1);
    let host2 = host.clone();
    host.rt.spawn(async move {
        let until = host2.rt.now().after(REFUSAL_TIME);
        last_words(&stream, reply.as_bytes().to_vec(), false, until).await;
        host2.refusing.set(host2.refusing.get() - 1);
    });
}

/// Finds out whose connection it is. `None`: it has gone, or has been sent away.
async fn arrive<R: Runtime>(mut arrival: Arrival<R>, door: &Door, words: Words) -> Option<Arrival<R>> {
    let host = arrival.wire.host.clone();
    if !door.proxies.contains(arrival.peer.ip()) {
        return Some(arrival);
    }
    let until = host.rt.now().after(host.options.proxy_header);
    // A stop need not wait for clients that have not begun.
    arrival.wire.seat.set_idle(true);
    let stopping = || host.live.is_stopping();
    let announced = read_header(arrival.wire.stream(), until, &host.metrics, stopping).await;
    arrival.wire.seat.set_idle(false);
    let client = match announced {
        Announced::Client(client) => {
            arrival.wire.seat.badge().set_peer(client);
            client
        }
        // What came in clear text is no beginning of TLS.
        Announced::Own(buf) if door.tls == Tls::Implicit && !buf.is_empty() => return None,
        Announced::Own(buf) => {
            arrival.wire.buf = buf;
            return Some(arrival);
        }
        Announced::Gone => return None,
    };
    // The place that the proxy took is given back first: it is the client that is counted.
    drop(arrival.guest);
    let caller = Caller { address: client.ip(), speaks_for_others: false, may_relay: true };
    match host.gate.admit(&caller, host.rt.now()) {
        Ok(guest) => Some(Arrival { guest, peer: client, wire: arrival.wire }),
        Err(why) => {
            host.meters.refused(why).increment(1);
            if door.tls != Tls::Implicit {
                arrival.wire.outbox.out.extend_from_slice(words.refused.as_bytes());
                arrival.wire.farewell(false).await;
            }
            None
        }
    }
}

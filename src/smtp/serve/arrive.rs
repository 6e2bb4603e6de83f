//! L4: from an accepted connection to a session: whose connection it is, whether it may come in,
//! whether it waits for its turn to speak.
//!
//! A connection of a listed proxy begins with a header (`smtp/proxy`), before TLS and before the
//! greeting; from then on every rule uses the address that it names. What a listed proxy says for
//! itself (health checks) is served without any right to relay, and is no error. Errors of the header
//! end the connection without a word, as the protocol demands.

use super::{Caller, Context, Door, Guest, Handle, session};
use crate::base::time::Mono;
use crate::metrics;
use crate::runtime::{Runtime, Stream};
use crate::smtp::proxy::{self, Reading};
use crate::smtp::reply::Reply;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// Why a connection is refused at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Too many sessions in all.
    Sessions,
    /// Too many of this address.
    Address,
    /// Too many of the network around it.
    Network,
    /// This address or network connects too often.
    Rate,
}

impl Refused {
    /// What the client is told.
    #[must_use]
    pub fn reply(self) -> Reply {
        match self {
            Refused::Sessions | Refused::Address | Refused::Network => Reply::TOO_MANY_SESSIONS,
            Refused::Rate => Reply::TOO_OFTEN,
        }
    }

    pub(super) fn counter(self, m: &metrics::Core) -> &metrics::Counter {
        match self {
            Refused::Sessions => &m.refused_sessions,
            Refused::Address => &m.refused_address,
            Refused::Network => &m.refused_network,
            Refused::Rate => &m.refused_rate,
        }
    }
}

/// A client that has come in.
pub(super) struct Arrival {
    /// Its address; IPv4 is never in IPv6 form.
    pub peer: SocketAddr,
    /// What it may do.
    pub guest: Guest,
    /// What has been received already.
    pub buf: Vec<u8>,
    /// It has spoken before the greeting.
    pub early: bool,
    /// It may speak for others (XCLIENT, XFORWARD).
    pub forwarder: bool,
}

/// IPv4 in IPv6 form becomes IPv4.
pub(crate) fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

/// Who the gate is asked about when `peer` has connected.
pub(super) fn caller(door: &Door, peer: IpAddr) -> Caller {
    let proxy = door.proxies.contains(peer);
    Caller { address: peer, speaks_for_others: proxy || door.forwarders.contains(peer), may_relay: !proxy }
}

/// Lets a client in that the gate has admitted under its own address. `None`: it has gone, or has been
/// sent away.
pub(super) async fn arrive<R: Runtime>(
    ctx: &Rc<Context<R>>,
    handle: &Handle<R::Stream>,
    peer: SocketAddr,
    guest: Guest,
    door: &Door,
) -> Option<Arrival> {
    let mut arrival = Arrival { peer, guest, buf: Vec::new(), early: false, forwarder: false };
    // A stop need not wait for clients that have not begun.
    handle.idle.set(true);
    if door.proxies.contains(peer.ip()) {
        arrival = announced(ctx, handle, arrival, door).await?;
    } else {
        arrival.forwarder = door.forwarders.contains(peer.ip());
    }
    if door.is_implicit() {
        // TLS: the client speaks first. What a listed proxy says in clear text is no beginning of it.
        return arrival.buf.is_empty().then_some(arrival);
    }
    arrival.early = !arrival.buf.is_empty();
    if !arrival.early && !arrival.guest.trusted {
        arrival = patient(ctx, handle, arrival).await?;
    }
    Some(arrival)
}

/// What a listed proxy has said.
pub(crate) enum Announced {
    /// Who is behind it; IPv4 is never in IPv6 form.
    Client(SocketAddr),
    /// It speaks for itself; what it has said.
    Own(Vec<u8>),
    /// It has gone, or said something else.
    Gone,
}

/// Reads the header of a listed proxy, until `until`.
pub(crate) async fn read_header<S: Stream>(
    stream: &S,
    until: Mono,
    m: &metrics::Core,
    is_stopping: impl Fn() -> bool,
) -> Announced {
    let mut buf = Vec::new();
    stream.set_deadline(Some(until));
    let connection = loop {
        // Nothing behind the header is received: it belongs to the session, or to TLS.
        match proxy::read(&buf) {
            Reading::Header { used, connection } if used == buf.len() => break connection,
            Reading::More(missing) => buf.reserve_exact(missing),
            Reading::Absent => {
                m.proxy_none.increment(1);
                return Announced::Own(buf);
            }
            Reading::Header { .. } | Reading::Bad => {
                m.proxy_bad.increment(1);
                return Announced::Gone;
            }
        }
        let result;
        (result, buf) = stream.recv(buf).await;
        match result {
            Ok(1..) => {}
            _ if is_stopping() => return Announced::Gone,
            // It waits for a greeting, as monitoring does.
            Err(e) if e.kind() == io::ErrorKind::TimedOut && buf.is_empty() => {
                m.proxy_none.increment(1);
                return Announced::Own(buf);
            }
            // A check whether the port is open; a header that does not come to its end.
            Ok(_) | Err(_) => {
                let counter = if buf.is_empty() { &m.proxy_none } else { &m.proxy_bad };
                counter.increment(1);
                return Announced::Gone;
            }
        }
    };
    let Some(connection) = connection else {
        m.proxy_own.increment(1);
        return Announced::Own(Vec::new());
    };
    m.proxy_client.increment(1);
    Announced::Client(connection.client)
}

/// Reads the header of a listed proxy.
async fn announced<R: Runtime>(
    ctx: &Rc<Context<R>>,
    handle: &Handle<R::Stream>,
    mut arrival: Arrival,
    door: &Door,
) -> Option<Arrival> {
    let (stream, m) = (&handle.stream, &ctx.metrics);
    let until = ctx.rt.now().after(ctx.options.proxy_header);
    match read_header(stream, until, m, || ctx.stopping.get()).await {
        Announced::Gone => return None,
        Announced::Own(buf) => {
            arrival.buf = buf;
            return Some(arrival);
        }
        Announced::Client(client) => {
            arrival.peer = client;
            handle.badge.set_peer(client);
        }
    }
    let client = arrival.peer.ip();
    arrival.forwarder = door.forwarders.contains(client);
    // The place that the proxy took is given back first: it is the client that is counted.
    drop(arrival.guest);
    let caller = Caller { address: client, speaks_for_others: arrival.forwarder, may_relay: true };
    match ctx.gate.admit(&caller, ctx.rt.now()) {
        Ok(guest) => Some(Arrival { guest, ..arrival }),
        Err(refused) => {
            refused.counter(m).increment(1);
            // Where TLS comes first no words can be understood.
            if !door.is_implicit() {
                let until = ctx.rt.now().after(super::REFUSAL_TIME);
                session::last_words(stream, refused.reply().line().as_bytes().to_vec(), false, until).await;
            }
            None
        }
    }
}

/// Holds the greeting back for a moment and sees whether the client does not wait for it (attack
/// catalogue, row 13: commands fired blindly). `None`: it has gone.
async fn patient<R: Runtime>(
    ctx: &Rc<Context<R>>,
    handle: &Handle<R::Stream>,
    mut arrival: Arrival,
) -> Option<Arrival> {
    let delay = ctx.options.greeting_delay;
    if delay.is_zero() {
        return Some(arrival);
    }
    let stream = &handle.stream;
    stream.set_deadline(Some(ctx.rt.now().after(delay)));
    match stream.readable().await {
        Err(e) if e.kind() == io::ErrorKind::TimedOut => return Some(arrival),
        Err(_) => return None,
        Ok(()) => {}
    }
    let (result, buf) = stream.recv(ctx.pool.small()).await;
    arrival.buf = buf;
    match result {
        Ok(1..) => {
            arrival.early = true;
            Some(arrival)
        }
        Err(e) if e.kind() == io::ErrorKind::TimedOut => Some(arrival),
        Ok(0) | Err(_) => None,
    }
}

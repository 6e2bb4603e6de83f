//! A session that goes to the core that owns its mailbox, at its login.
//!
//! Nothing is in flight on the connection then: a session does one thing after the other, and no
//! receive is linked to the reply of a login, which the target gives. All that the session is goes along
//! and can be sent to another thread: the connection, TLS with what it has not opened, bytes that were not
//! parsed, replies that were not sent, whose connection it is, what is counted for it (given back once,
//! wherever it ends), and what its machine knows. A session that is lost on the way closes.

use super::gate::Permit;
use super::host::Host;
use super::roll::Badge;
use super::squeeze::Squeeze;
use super::wire::Wire;
use crate::base::time::Mono;
use crate::channel::Channel;
use crate::runtime::moving::Moving;
use crate::runtime::{Part, Runtime};
use crate::smtp::serve::secure::Counted;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;

/// A session on its way; `P`: its connection, `L`: what its machine takes along.
pub struct Parcel<P, L> {
    connection: P,
    channel: Channel,
    squeeze: Option<Box<Squeeze>>,
    /// Received, opened, not parsed.
    input: Vec<u8>,
    /// Not yet sent.
    output: Vec<u8>,
    /// What the shell knows of it.
    pub session: Known,
    /// What its machine knows.
    pub luggage: L,
}

/// What a shell knows of a session.
pub struct Known {
    /// Whose connection it is; through a proxy, the one that the proxy names.
    pub peer: SocketAddr,
    /// Failed logins count for the login only.
    pub trusted: bool,
    /// Where it came in, for events.
    pub service: &'static str,
    /// Who it is; empty before the login.
    pub login: String,
    /// What is counted for it.
    pub permits: Vec<Permit>,
    /// When it has lasted long enough.
    pub ends: Mono,
}

impl Known {
    fn badge(&self, now: Mono) -> Badge {
        let badge = Badge::new(now, self.service, self.peer);
        badge.set_user(&self.login);
        badge
    }
}

/// The way to other cores, for sessions of one protocol.
pub trait Roads<P, L> {
    /// Hands a session to core number `core`; waits while there is no room on the way.
    fn send(&self, core: u16, parcel: Box<Parcel<P, L>>) -> Sending<'_, P, L>;
}

/// Ends when the session is on its way; gives it back if the core takes none any more.
pub type Sending<'a, P, L> = Pin<Box<dyn Future<Output = Result<(), Box<Parcel<P, L>>>> + 'a>>;

/// A session that could not go.
pub struct Stayed<R: Runtime, L> {
    /// Its connection.
    pub wire: Wire<R>,
    /// What the shell knows of it.
    pub session: Known,
    /// What its machine knows.
    pub luggage: L,
}

/// A session on its way, or one that stays.
pub type Departure<R, L> = Result<Box<Parcel<<R as Moving>::Packed, L>>, Box<Stayed<R, L>>>;

impl<R: Moving> Wire<R> {
    /// Takes the connection off this core.
    ///
    /// # Errors
    /// Descriptors are short: the session stays.
    pub fn depart<L>(self, session: Known, luggage: L) -> Departure<R, L> {
        let Wire { host, seat, channel, counted, squeeze, mut buf, at, mut outbox, now: _, came: _ } = self;
        buf.drain(..at);
        let (input, output) = (buf, joined(outbox.take_parts()));
        match host.rt.pack(seat.leave()) {
            Ok(connection) => {
                host.meters.moved_out.increment(1);
                Ok(Box::new(Parcel { connection, channel, squeeze, input, output, session, luggage }))
            }
            Err((_, stream)) => {
                let badge = session.badge(host.rt.now());
                let mut wire = Wire::new(host.clone(), host.live.enter(stream, badge), input);
                (wire.channel, wire.counted, wire.outbox.out) = (channel, counted, output);
                wire.set_squeeze(squeeze);
                Err(Box::new(Stayed { wire, session, luggage }))
            }
        }
    }

    /// Makes the session one of this core. `None`: its connection is lost.
    #[must_use]
    pub fn arrive<L>(host: Rc<Host<R>>, parcel: Parcel<R::Packed, L>) -> Option<(Self, Known, L)> {
        let Parcel { connection, channel, squeeze, input, output, session, luggage } = parcel;
        let stream = host.rt.unpack(connection).ok()?;
        host.meters.moved_in.increment(1);
        let counted = channel.tls().map(|_| Counted::again(&host.metrics));
        let badge = session.badge(host.rt.now());
        let mut wire = Wire::new(host.clone(), host.live.enter(stream, badge), input);
        (wire.channel, wire.counted, wire.outbox.out) = (channel, counted, output);
        wire.set_squeeze(squeeze);
        Some((wire, session, luggage))
    }
}

/// What waits to be sent, as one: a few replies.
fn joined(parts: Vec<Part>) -> Vec<u8> {
    let mut all = Vec::new();
    parts.iter().for_each(|p| all.extend_from_slice(p.bytes()));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pop3::inbound::Luggage;
    use std::os::fd::OwnedFd;

    /// Whatever a session takes along can be sent to another thread.
    #[test]
    fn what_moves_can_be_sent() {
        fn sendable<T: Send>() -> usize {
            size_of::<T>()
        }
        assert!(sendable::<Parcel<OwnedFd, Luggage>>() > 0);
    }
}

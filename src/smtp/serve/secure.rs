//! L4: TLS of a session: the handshake when the machine asks for it, and its counting.
//!
//! What has been received in clear text is dropped before. A handshake that fails ends the session
//! with an alert, if there is one; nothing is said in clear text any more.

use super::session::Talk;
use crate::base::security::{Security, TlsVersion};
use crate::channel::{Channel, HandshakeError};
use crate::metrics;
use crate::runtime::{Runtime, Stream};
use crate::smtp::inbound::Answer;
use crate::smtp::reply::Reply;
use crate::tls::Reason;
use std::rc::Rc;

impl<R: Runtime> Talk<'_, R> {
    /// Can there be a handshake? Before the client is told to begin.
    pub(super) fn promise_tls(&mut self) -> Answer<'static> {
        self.handshake = self.door.begin_tls();
        match self.handshake {
            Some(_) => Answer::Accept,
            None => Answer::Refuse(Reply::TLS_UNAVAILABLE.into()),
        }
    }

    /// Drops what came in clear text and does the handshake. `None`: the session has ended.
    pub(super) async fn start_tls(&mut self) -> Option<()> {
        self.flush().await?;
        self.forget_message();
        // RFC 3207 §4.2 (attack: commands injected behind STARTTLS).
        self.buf.clear();
        self.at = 0;
        let connection = self.handshake.take().or_else(|| self.door.begin_tls())?;
        let (ctx, stream) = (self.ctx, &self.handle.stream);
        stream.set_deadline(Some(self.machine.deadline()));
        let (channel, result) = Channel::handshake(stream, connection, &ctx.pool).await;
        self.channel = channel;
        self.now = ctx.rt.now();
        let security = self.channel.tls().and_then(|c| c.security(ctx.rt.wall()));
        match (result, security) {
            (Ok(()), Some(security)) => {
                self.counted = Some(Counted::new(&ctx.metrics, &security));
                self.machine.secured(self.now, Rc::new(security));
                self.offer_auth();
                Some(())
            }
            (result, _) => {
                let error = result.err().unwrap_or(HandshakeError::Gone);
                failed(&ctx.metrics, &error).increment(1);
                if !matches!(error, HandshakeError::Gone) {
                    self.farewell(Vec::new()).await;
                }
                None
            }
        }
    }
}

/// A session that is counted as being under TLS, until it ends.
pub(crate) struct Counted(metrics::Gauge);

impl Counted {
    pub fn new(m: &metrics::Core, security: &Security) -> Self {
        let (all, resumed) = match security.version {
            TlsVersion::Tls12 => (&m.tls12, &m.tls12_resumed),
            TlsVersion::Tls13 => (&m.tls13, &m.tls13_resumed),
        };
        all.increment(1);
        if security.resumed {
            resumed.increment(1);
        }
        Counted::again(m)
    }

    /// One that comes from another core, where its handshake was counted.
    pub fn again(m: &metrics::Core) -> Self {
        m.tls_sessions.increment(1.0);
        Counted(m.tls_sessions.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// The series of handshakes that failed so.
pub(crate) fn failed<'a>(m: &'a metrics::Core, error: &HandshakeError) -> &'a metrics::Counter {
    let fault = match error {
        HandshakeError::Fault(fault) => fault,
        HandshakeError::Late => return &m.tls_late,
        HandshakeError::Gone => return &m.tls_gone,
    };
    match fault.reason {
        Reason::NotTls => &m.tls_not_tls,
        Reason::Version => &m.tls_version,
        Reason::Cipher => &m.tls_cipher,
        Reason::Protocol => &m.tls_protocol,
        Reason::Certificate => &m.tls_certificate,
        Reason::Other => &m.tls_other,
    }
}

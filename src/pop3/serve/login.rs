//! The login of a session: USER and PASS, AUTH, STLS.

use super::session::Talk;
use crate::access::gate::{Door, Tls};
use crate::access::login::{self, Said as Saying, Verdict, Who};
use crate::auth::service::Why;
use crate::mailbox::api::Mailboxes;
use crate::pop3::inbound::{Answer, Offer, Said};
use crate::pop3::reply::Reply;
use crate::runtime::moving::Moving;
use std::rc::Rc;

impl<R: Moving, M: Mailboxes> Talk<R, M> {
    /// Offers the client what it can use now. To be called at the beginning, and when TLS has begun.
    pub(super) fn offer(&mut self) {
        let Some(logins) = self.ctx.host().logins() else { return };
        let (now, under_tls) = login::offer(logins, self.machine.security());
        let names = now.names();
        // Whoever takes PLAIN takes passwords (RFC 1939 §7), since both say the same.
        let passwords = names.split(' ').any(|name| name == "PLAIN");
        self.machine.offer(Offer {
            passwords,
            mechanisms: names.into(),
            under_tls: under_tls.names().into(),
            timestamp: Rc::from(""),
        });
    }

    /// Answers what becomes of a login.
    pub(super) async fn ask_login(&mut self, door: &Door) {
        let said = match self.machine.said() {
            Said::Password { login, password } => Saying::Password { command: "PASS", login, password },
            Said::Begin { mechanism, initial } => Saying::Begin { mechanism, initial },
            Said::Response(response) => Saying::Response(response),
            // No timestamp is ever offered.
            Said::Apop { .. } => {
                let reply = Answer::Refuse(Reply::NOT_OFFERED);
                return self.machine.answer(self.wire.now, reply, &mut self.wire.outbox.out);
            }
        };
        let by_command = matches!(said, Saying::Password { .. });
        let who = Who { peer: self.known.peer, trusted: self.known.trusted, door };
        let verdict = self.login.step(self.ctx.host(), who, self.machine.security(), said).await;
        self.wire.wipe();
        self.wire.tick();
        let challenge;
        let answer = match verdict {
            Verdict::Challenge(bytes) => {
                challenge = bytes;
                Answer::Challenge(&challenge)
            }
            Verdict::Success(login, permit) => {
                self.wire.introduce(&login);
                self.known.login = login;
                self.known.permits.push(permit);
                Answer::Accept
            }
            Verdict::TooManySessions => Answer::Close(Reply::TOO_MANY_SESSIONS),
            Verdict::TooManyFailures => Answer::Close(Reply::TOO_MANY_FAILURES),
            Verdict::Failure(Why::Malformed) if !by_command => Answer::Refuse(Reply::BAD_RESPONSE),
            Verdict::Failure(Why::Malformed | Why::Refused) => Answer::Refuse(Reply::AUTH_FAILED),
            Verdict::Failure(Why::Unavailable) => Answer::Refuse(Reply::AUTH_BUSY),
        };
        self.machine.answer(self.wire.now, answer, &mut self.wire.outbox.out);
    }

    /// Can there be a handshake? Before the client is told to begin.
    pub(super) fn promise_tls(&mut self, door: &Door) {
        self.handshake = door.begin_tls();
        let answer = match self.handshake {
            Some(_) => Answer::Accept,
            None => Answer::Refuse(Reply::TLS_UNAVAILABLE),
        };
        self.machine.answer(self.wire.now, answer, &mut self.wire.outbox.out);
    }

    /// Drops what came in clear text and does the handshake. `None`: the session has ended.
    pub(super) async fn start_tls(&mut self, door: &Door) -> Option<()> {
        let ours = self.handshake.take().or_else(|| door.begin_tls());
        let security = self.wire.handshake(ours, self.machine.deadline()).await?;
        self.machine.secured(self.wire.now, Rc::new(security));
        self.login = login::Login::default();
        self.offer();
        Some(())
    }
}

/// In the words of the machine.
pub(super) fn tls(tls: Tls) -> crate::pop3::inbound::Tls {
    match tls {
        Tls::Off => crate::pop3::inbound::Tls::Off,
        Tls::Offered => crate::pop3::inbound::Tls::Offered,
        Tls::Implicit => crate::pop3::inbound::Tls::Implicit,
    }
}

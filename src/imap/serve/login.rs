//! The login of a session: LOGIN, AUTHENTICATE, STARTTLS, and the way to its account.

use super::desk::Desk;
use super::session::Talk;
use crate::access::gate::{Door, Tls};
use crate::access::login::{self, Said as Saying, Verdict, Who};
use crate::auth::service::Why;
use crate::imap::session::{Answer, Denial, Offer, Said};
use crate::mailbox::api::{Mailboxes, Refusal};
use crate::runtime::moving::Moving;
use std::rc::Rc;

impl<R: Moving, M: Mailboxes> Talk<R, M> {
    /// Offers the client what it can use now. To be called at the beginning, and when TLS has begun.
    pub(super) fn offer(&mut self) {
        let Some(logins) = self.ctx.host().logins() else { return };
        let (now, under_tls) = login::offer(logins, self.machine.security());
        let names = now.names();
        // Whoever takes PLAIN takes LOGIN (RFC 9051 §6.2.3), since both say the same.
        let passwords = names.split(' ').any(|name| name == "PLAIN");
        self.machine.offer(Offer {
            passwords,
            mechanisms: names.into(),
            under_tls: under_tls.names().into(),
        });
    }

    /// Answers what becomes of a login.
    pub(super) async fn ask_login(&mut self, door: &Door) {
        let said = match self.machine.said() {
            Said::Password { login, password } => Saying::Password { command: "LOGIN", login, password },
            Said::Begin { mechanism, initial } => Saying::Begin { mechanism, initial },
            Said::Response(response) => Saying::Response(response),
        };
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
            Verdict::TooManySessions => Answer::Deny(Denial::TOO_MANY),
            Verdict::TooManyFailures => Answer::Deny(Denial { close: true, ..Denial::FAILED }),
            Verdict::Failure(Why::Malformed | Why::Refused) => Answer::Deny(Denial::FAILED),
            Verdict::Failure(Why::Unavailable) => Answer::Deny(Denial::UNAVAILABLE),
        };
        let now = self.now();
        self.machine.answer(now, answer, &mut self.wire.outbox.out);
    }

    /// Can there be a handshake? Before the client is told to begin.
    pub(super) fn promise_tls(&mut self, door: &Door) {
        self.handshake = door.begin_tls();
        let answer = match self.handshake {
            Some(_) => Answer::Accept,
            None => Answer::Deny(Denial::NO_TLS),
        };
        let now = self.now();
        self.machine.answer(now, answer, &mut self.wire.outbox.out);
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

    /// The account of a login whose home is here.
    pub(super) async fn enter(&mut self, store: &M) {
        let account = self.ctx.homes.account(store, &self.known.login).await;
        self.wire.tick();
        let shard = account.map(|account| {
            self.desk = Some(Desk::new(store.clone(), account, self.ctx.memory.clone()));
            store.number()
        });
        self.entered(shard);
    }

    /// The account can be had, or not.
    pub(super) fn entered(&mut self, shard: Result<u64, Refusal>) {
        let stopping = self.ctx.host().live.is_stopping();
        let answer = match shard {
            _ if stopping => Answer::Deny(Denial::STOPPING),
            Ok(shard) => Answer::Entered(shard),
            Err(Refusal::NoAccount | Refusal::NoMailbox | Refusal::BadName) => {
                Answer::Deny(Denial::NO_MAILBOX)
            }
            Err(_) => Answer::Deny(Denial::UNAVAILABLE),
        };
        if matches!(answer, Answer::Deny(_)) {
            // Who logs in again is counted again.
            self.known.permits.truncate(1);
            self.desk = None;
        }
        let now = self.now();
        self.machine.answer(now, answer, &mut self.wire.outbox.out);
    }

    /// The user has logged out, and the session goes on without.
    pub(super) fn leave(&mut self) {
        self.desk = None;
        self.known.permits.truncate(1);
        self.known.login.clear();
        self.offer();
        let now = self.now();
        self.machine.answer(now, Answer::Accept, &mut self.wire.outbox.out);
    }
}

/// In the words of the machine.
pub(super) fn tls(tls: Tls) -> crate::imap::session::Tls {
    match tls {
        Tls::Off => crate::imap::session::Tls::Off,
        Tls::Offered => crate::imap::session::Tls::Offered,
        Tls::Implicit => crate::imap::session::Tls::Implicit,
    }
}

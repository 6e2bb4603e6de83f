//! What is different in a session of LMTP (RFC 2033): its greeting, and the replies to a message, of
//! which there is one for each recipient.
//!
//! All else is that of SMTP. The client is a queue that keeps what is not taken: nothing is queued
//! here, and reports are left to it, so DSN is not offered.

use super::{Hello, Options, Session, State, Step};
use crate::base::time::Mono;
use crate::message::domain;
use crate::message::envelope::Notify;
use crate::smtp::command::{Mail, Rcpt};
use crate::smtp::extension::Offer;
use crate::smtp::reply::{Refusal, Reply, put_banner};
use crate::storage::ticket::Committed;
use std::rc::Rc;

/// What became of a message for one of its recipients.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// It is in the mailbox, on stable storage.
    Delivered(Committed),
    /// It is not taken, for now (4yz) or for ever (5yz). 421 also ends the session.
    Refused(Refusal<'a>),
}

impl Session {
    /// A session of LMTP whose peer has just connected.
    #[must_use]
    pub fn lmtp(options: Rc<Options>, now: Mono) -> Self {
        Session { is_lmtp: true, ..Session::new(options, now) }
    }

    pub(super) fn put_banner(&self, out: &mut Vec<u8>) {
        put_banner(out, &self.options.hostname, self.is_lmtp);
    }

    /// LHLO does what EHLO does in SMTP (RFC 2033 §4.1).
    pub(super) fn lhlo(&mut self, now: Mono, name: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        match () {
            () if !self.is_lmtp => self.error(now, Reply::NOT_LMTP, out),
            () if !domain::is_helo(name) => self.error(now, Reply::HELO_ARGUMENT, out),
            () => self.hello(Hello::Ehlo, name, out),
        }
    }

    /// The message of [`Step::EndOfMessage`] has been dealt with: one outcome for each recipient of the
    /// envelope, in its order (RFC 2033 §4.2).
    pub fn settled<'a>(
        &mut self,
        now: Mono,
        outcomes: impl IntoIterator<Item = Outcome<'a>>,
        out: &mut Vec<u8>,
    ) {
        assert!(self.is_lmtp, "with SMTP there is one reply for all");
        let (mut replies, mut taken, mut closing) = (0, false, false);
        for outcome in outcomes {
            replies += 1;
            match outcome {
                // Taking the proof by value is what makes an early positive reply impossible.
                Outcome::Delivered(_proof) => {
                    taken = true;
                    Reply::DELIVERED.put(out);
                }
                Outcome::Refused(refusal) => {
                    closing |= refusal.code() == 421;
                    refusal.put(out);
                }
            }
        }
        assert_eq!(replies, self.envelope.count(), "one outcome for each recipient");
        self.end_message(now);
        if taken {
            self.counts.errors = 0;
            self.counts.junk = 0;
        }
        if closing {
            self.state = State::Closing;
        }
    }

    /// Writes the refusal of a message for all recipients but the one for which the caller does
    /// (RFC 2033 §4.2).
    pub(super) fn repeat_for_recipients(&self, reply: Reply, out: &mut Vec<u8>) {
        if self.transaction.is_some() {
            (1..self.envelope.count()).for_each(|_| reply.put(out));
        }
    }
}

/// Takes out of an offer what LMTP has not: reports are the client's, and RFC 9422 is about SMTP.
pub(super) fn narrow(offer: &mut Offer) {
    offer.dsn = false;
    offer.recipients = 0;
    offer.transactions = 0;
}

/// A parameter of RFC 3461, which is not offered.
pub(super) fn asks_for_reports(mail: &Mail<'_>) -> bool {
    mail.options.ret.is_some() || !mail.envid.is_empty()
}

/// A parameter of RFC 3461, which is not offered.
pub(super) fn asks_for_reports_of(rcpt: &Rcpt<'_>) -> bool {
    rcpt.notify != Notify::DEFAULT || !rcpt.orcpt.is_empty()
}

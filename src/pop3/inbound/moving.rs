//! A session that moves from one core to another, between its login and its maildrop.
//!
//! What it has said so far and what we know of it goes along; what is shared on a core stays. The
//! socket, TLS, and bytes that were received or wait to be sent are the shell's.

use super::{Asking, Offer, Options, Question, Session, State, Tls};
use crate::base::security::Security;
use crate::base::time::Mono;
use std::rc::Rc;

/// What a session takes along; can be sent to another thread.
#[derive(Debug)]
pub struct Luggage {
    tls: Tls,
    security: Option<Security>,
    /// Passwords are taken; mechanisms now and under TLS; for CAPA.
    offer: (bool, String, String),
    utf8: bool,
    errors: u32,
    failures: u32,
    shutting_down: bool,
}

impl Session {
    /// Leaves this core; at [`Question::Maildrop`] only.
    #[must_use]
    pub fn depart(self) -> Luggage {
        assert_eq!(self.asked().question, Question::Maildrop, "sessions move between login and maildrop");
        let Offer { passwords, mechanisms, under_tls, .. } = self.login.offer;
        Luggage {
            tls: self.tls,
            security: self.security.map(Rc::unwrap_or_clone),
            offer: (passwords, mechanisms.to_string(), under_tls.to_string()),
            utf8: self.utf8,
            errors: self.errors,
            failures: self.login.failures,
            shutting_down: self.shutting_down,
        }
    }

    /// Arrives at another core, where [`Question::Maildrop`] is to be answered.
    #[must_use]
    pub fn arrive(options: Rc<Options>, luggage: Luggage, now: Mono) -> Session {
        let mut session = Session::new(options, now);
        let (passwords, mechanisms, under_tls) = luggage.offer;
        session.login.offer = Offer {
            passwords,
            mechanisms: mechanisms.into(),
            under_tls: under_tls.into(),
            timestamp: Rc::from(""),
        };
        session.login.failures = luggage.failures;
        session.tls = luggage.tls;
        session.security = luggage.security.map(Rc::new);
        session.utf8 = luggage.utf8;
        session.errors = luggage.errors;
        session.shutting_down = luggage.shutting_down;
        session.state = State::Asking(Asking { question: Question::Maildrop, single: false });
        session
    }
}

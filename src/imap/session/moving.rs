//! A session that moves from one core to another, between its login and its account.
//!
//! What it has said so far and what we know of it goes along; what is shared on a core stays. The
//! socket, TLS, and bytes that were received or wait to be sent are the shell's.

use super::{Ask, Offer, Options, Session, State, Task, Tls};
use crate::base::security::Security;
use crate::base::time::Mono;
use crate::imap::line::Tag;
use crate::mailbox::api::Selected;
use std::rc::Rc;

/// What a session takes along; can be sent to another thread.
#[derive(Debug)]
pub struct Luggage {
    tls: Tls,
    security: Option<Security>,
    /// Passwords are taken; mechanisms now and under TLS.
    offer: (bool, String, String),
    /// Of the command that logs in.
    tag: Tag,
    failures: u32,
    errors: u32,
    shutting_down: bool,
    compressed: bool,
}

impl<S: Selected> Session<S> {
    /// Leaves this core; at [`Ask::Enter`] only.
    ///
    /// # Panics
    /// At any other moment.
    #[must_use]
    pub fn depart(self) -> Luggage {
        assert_eq!(*self.asked(), Ask::Enter, "sessions move between login and account");
        let Offer { passwords, mechanisms, under_tls } = self.login.offer;
        Luggage {
            tls: self.tls,
            security: self.security.map(Rc::unwrap_or_clone),
            offer: (passwords, mechanisms.to_string(), under_tls.to_string()),
            tag: self.tag,
            failures: self.login.failures,
            errors: self.errors,
            shutting_down: self.shutting_down,
            compressed: self.compressed,
        }
    }

    /// Arrives at another core, where [`Ask::Enter`] is to be answered.
    #[must_use]
    pub fn arrive(options: Rc<Options>, luggage: Luggage, now: Mono) -> Self {
        let mut session = Session::new(options, now);
        let (passwords, mechanisms, under_tls) = luggage.offer;
        session.login.offer = Offer { passwords, mechanisms: mechanisms.into(), under_tls: under_tls.into() };
        session.login.failures = luggage.failures;
        session.tls = luggage.tls;
        session.security = luggage.security.map(Rc::new);
        session.tag = luggage.tag;
        session.errors = luggage.errors;
        session.shutting_down = luggage.shutting_down;
        session.compressed = luggage.compressed;
        session.task = Task::Login;
        session.state = State::Asking(Ask::Enter);
        session
    }
}

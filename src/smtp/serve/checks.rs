//! L4: what policy says of a transaction beyond yes and no: brakes and access maps.
//!
//! Asks, remembers for the transaction what is to become of its message (held, dropped, sent elsewhere),
//! tells operators. Without rules it costs the test of an option. Knows no map and no counter.

use super::lists::Lists;
use super::names::{Named, Names};
use super::session::Talk;
use crate::base::time::Mono;
use crate::message::envelope::{Envelope, Notify};
use crate::metrics::Counter;
use crate::policy::brakes::{self, Brakes, Over, Who};
use crate::policy::greylist::{Greylist, Verdict};
use crate::policy::lists;
use crate::route::access::{Action, NO_NAME, Question};
use crate::runtime::Runtime;
use crate::smtp::inbound::{AuthMode, Said};
use crate::smtp::reply::{Refusal, Reply};
use std::ops::ControlFlow;
use std::rc::Rc;

/// What the sessions of a core are held back by.
pub struct Policy<R: Runtime> {
    /// The brakes.
    pub brakes: Option<Brakes>,
    /// Tells operators that a brake has taken hold.
    pub tell: Box<dyn Fn(String)>,
    /// DNS lists of clients.
    pub lists: Option<Rc<Lists<R>>>,
    /// Who is asked to come again.
    pub greylist: Option<Greylist>,
    /// Names of clients, for access maps.
    pub names: Option<Names<R>>,
}

/// What was decided on the transaction.
#[derive(Default)]
pub(super) struct Checks {
    /// The message is held in the queue, and why.
    pub hold: Option<String>,
    /// The message goes nowhere.
    pub discard: bool,
    /// The message goes there, and to nobody else.
    pub redirect: Option<Box<[u8]>>,
    /// No further map is asked.
    permitted: bool,
}

/// A refusal whose text somebody else has made.
pub(super) enum No {
    /// One of ours.
    Fixed(Refusal<'static>),
    /// One of a map.
    Said { code: u16, enhanced: (u16, u16), text: Box<str> },
}

impl No {
    pub fn refusal(&self) -> Refusal<'_> {
        match self {
            No::Fixed(refusal) => *refusal,
            No::Said { code, enhanced, text } => {
                Refusal::Own { code: *code, enhanced: *enhanced, text: text.as_bytes() }
            }
        }
    }

    /// It refuses for good.
    fn is_permanent(&self) -> bool {
        self.refusal().is_permanent()
    }
}

impl From<Refusal<'static>> for No {
    fn from(refusal: Refusal<'static>) -> Self {
        No::Fixed(refusal)
    }
}

impl Checks {
    /// The envelope that takes the place of `envelope`.
    pub fn redirected(&self, envelope: &Envelope) -> Option<Envelope> {
        let to = self.redirect.as_ref()?;
        let view = envelope.view();
        let mut out = Envelope::default();
        out.begin(view.sender(), view.options(), view.envid());
        out.push(to, Notify::DEFAULT, b"");
        Some(out)
    }
}

impl<R: Runtime> Talk<'_, R> {
    /// May the transaction begin? What was decided on the one before is forgotten.
    pub(super) async fn check_sender(&mut self) -> Result<(), No> {
        self.checks = Checks::default();
        self.brake(Brakes::message)?;
        if !self.is_spared() {
            self.begin_lists();
            if !self.door.lmtp {
                let action = Box::pin(self.of_client()).await;
                self.look_up(|_| action)?;
            }
            self.look_up(|talk| talk.ctx.gate.listed(Question::Helo(talk.machine.helo())))?;
        }
        self.look_up(|talk| {
            let sender = talk.machine.envelope().view().sender();
            talk.ctx.gate.listed(Question::Sender(sender))
        })
    }

    /// What the map of clients says: of the address, then of the name.
    async fn of_client(&mut self) -> Option<Action> {
        let (ctx, address) = (self.ctx, self.peer.ip());
        let gate = &ctx.gate;
        let claimed = self.machine.claim().and_then(|c| c.name.known());
        let found = gate.listed(Question::Client(address, claimed.map(|n| &n[..])));
        if found.is_some() || claimed.is_some() || !gate.lists_names() {
            return found;
        }
        let names = ctx.policy.get().and_then(|p| p.names.as_ref())?;
        let named = match self.named.take() {
            Some(named) => named,
            None => names.of(address).await,
        };
        self.now = ctx.rt.now();
        let by_name = |name: &[u8]| gate.listed(Question::Client(address, Some(name)));
        let action = match &named {
            Named::So(names) if names.is_empty() => by_name(NO_NAME),
            Named::So(names) => names.iter().find_map(|name| by_name(name.as_bytes())),
            Named::NotKnown => by_name(NO_NAME).map(Action::for_now),
        };
        // What could not be said now may be said later.
        self.named = Some(named).filter(|named| *named != Named::NotKnown);
        action
    }

    /// Is the recipient that came last taken, as far as maps go? Asked before anything is said of whether
    /// it exists.
    pub(super) fn check_recipient(&mut self) -> Result<(), No> {
        self.look_up(|talk| {
            let last = talk.machine.envelope().last().expect("the question is about a recipient");
            talk.ctx.gate.listed(Question::Recipient(last.address))
        })
    }

    /// The recipient that came last would be taken.
    pub(super) fn brake_recipient(&mut self) -> Result<(), No> {
        Ok(self.brake(Brakes::recipient)?)
    }

    /// The message has come in.
    pub(super) fn brake_bytes(&mut self, bytes: u64) -> Result<(), Reply> {
        self.brake(|brakes, who, now| brakes.bytes(who, bytes, now))
    }

    /// What a recipient was answered counts for its login. `no`: it was refused so.
    pub(super) fn count_answer(&self, no: Option<&No>) {
        let Some(brakes) = self.brakes() else { return };
        let Some(login) = self.login.name() else { return };
        let failed = no.is_some_and(No::is_permanent);
        // What is put off is asked again, and counts then.
        if failed || no.is_none() {
            brakes.answered(login.as_bytes(), 1, u32::from(failed), self.now);
        }
    }

    /// DNS lists, access maps of clients and the like are not for it.
    fn is_spared(&self) -> bool {
        self.guest.trusted || self.login.name().is_some() || self.is_nobody()
    }

    /// A forwarder has said that it does not know the client's address.
    fn is_nobody(&self) -> bool {
        self.machine.claim().is_some_and(|c| c.address == Said::Unknown)
    }

    /// A client has connected, or is somebody else now: lists are asked at once, if it will not log in.
    pub(super) fn meet(&mut self) {
        (self.listed, self.named) = (None, None);
        if self.door.auth == AuthMode::Off {
            self.begin_lists();
        }
    }

    fn begin_lists(&mut self) {
        if self.listed.is_none()
            && !(self.door.lmtp || self.is_spared())
            && let Some(lists) = self.ctx.policy.get().and_then(|p| p.lists.as_ref())
        {
            self.listed = Some(lists.begin(self.peer.ip()));
        }
    }

    /// What DNS lists say of the client, before the first recipient.
    pub(super) async fn check_lists(&mut self) -> Result<(), No> {
        let Some(question) = self.listed.clone() else { return Ok(()) };
        if self.checks.permitted || self.is_spared() {
            return Ok(());
        }
        let verdict = question.verdict().await;
        self.now = self.ctx.rt.now();
        let options = &self.ctx.policy.get().and_then(|p| p.lists.as_ref()).expect("it was asked").options;
        let Some(zone) = verdict.listed(options.threshold) else { return Ok(()) };
        let text = lists::text(&options.text, self.peer.ip(), zone);
        let no = |code| No::Said { code, enhanced: (7, 1), text: text.as_str().into() };
        match options.action {
            brakes::Action::Hold => {
                self.checks.hold.get_or_insert(text);
                Ok(())
            }
            brakes::Action::Tempfail => Err(no(451)),
            brakes::Action::Reject => Err(no(550)),
        }
    }

    /// Is the client to come again with mail for the recipient that came last, which would be taken?
    pub(super) fn check_greylist(&self) -> Result<(), No> {
        let Some(greylist) = self.ctx.policy.get().and_then(|p| p.greylist.as_ref()) else { return Ok(()) };
        if self.checks.permitted || self.is_spared() || self.door.lmtp {
            return Ok(());
        }
        let envelope = self.machine.envelope();
        let to = envelope.last().expect("the question is about a recipient").address;
        let (sender, m) = (envelope.view().sender(), &self.ctx.metrics);
        match greylist.ask(self.peer.ip(), sender, to, self.ctx.rt.wall()) {
            Verdict::Known => m.greylist_known.increment(1),
            Verdict::CameAgain => m.greylist_came_again.increment(1),
            Verdict::Wait(time) => {
                m.greylist_deferred.increment(1);
                let text = format!("Greylisted, try again in {} s", time.as_secs().max(1));
                return Err(No::Said { code: 451, enhanced: (7, 1), text: text.into() });
            }
        }
        Ok(())
    }

    fn brakes(&self) -> Option<&Brakes> {
        self.ctx.policy.get()?.brakes.as_ref()
    }

    fn brake(&mut self, test: impl FnOnce(&Brakes, &Who<'_>, Mono) -> Option<Over>) -> Result<(), Reply> {
        let Some(brakes) = self.brakes() else { return Ok(()) };
        let who = Who {
            login: self.login.name().map(str::as_bytes),
            address: self.peer.ip(),
            trusted: self.guest.trusted || self.is_nobody(),
            sender: self.machine.envelope().view().sender(),
        };
        let Some(over) = test(brakes, &who, self.now) else { return Ok(()) };
        let text = over.text(&who);
        let m = &self.ctx.metrics;
        let (counter, done): (&Counter, _) = match over.action {
            brakes::Action::Hold => (&m.braked_hold, "its mail is held in the queue"),
            brakes::Action::Tempfail => (&m.braked_tempfail, "its mail is answered 450"),
            brakes::Action::Reject => (&m.braked_reject, "its mail is answered 550"),
        };
        counter.increment(1);
        if over.is_news {
            let policy = self.ctx.policy.get().expect("it has brakes");
            (policy.tell)(format!("{text}: {done}"));
        }
        match over.action {
            brakes::Action::Hold => {
                self.checks.hold.get_or_insert_with(|| format!("brake: {text}"));
                Ok(())
            }
            brakes::Action::Tempfail => Err(Reply::BRAKED),
            brakes::Action::Reject => Err(Reply::BRAKED_FOR_GOOD),
        }
    }

    /// Asks a map, unless an earlier one has permitted all.
    fn look_up(&mut self, ask: impl FnOnce(&Self) -> Option<Action>) -> Result<(), No> {
        if self.checks.permitted || self.door.lmtp {
            return Ok(());
        }
        let Some(action) = ask(self) else { return Ok(()) };
        let m = &self.ctx.metrics;
        let (counter, flow): (&Counter, _) = match action {
            Action::Permit => {
                self.checks.permitted = true;
                (&m.access_permit, ControlFlow::Continue(()))
            }
            Action::Hold(why) => {
                self.checks.hold.get_or_insert_with(|| format!("access map: {why}"));
                (&m.access_hold, ControlFlow::Continue(()))
            }
            Action::Discard => {
                self.checks.discard = true;
                (&m.access_discard, ControlFlow::Continue(()))
            }
            Action::Redirect(to) => {
                self.checks.redirect.get_or_insert(to);
                (&m.access_redirect, ControlFlow::Continue(()))
            }
            Action::Refuse { code, enhanced, text } => {
                let counter = if code < 500 { &m.access_defer } else { &m.access_reject };
                (counter, ControlFlow::Break(No::Said { code, enhanced, text }))
            }
        };
        counter.increment(1);
        match flow {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(no) => Err(no),
        }
    }
}

impl From<Reply> for No {
    fn from(reply: Reply) -> Self {
        No::Fixed(reply.into())
    }
}

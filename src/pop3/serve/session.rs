//! One session: the loop between connection, machine and maildrop.

use super::maildrop::Open;
use super::{Context, Home, login, maildrop};
use crate::access::gate::{Door, Tls};
use crate::access::host::Arrival;
use crate::access::login::Login;
use crate::access::moving::{Known, Parcel, Stayed};
use crate::access::wire::{Input, Wire};
use crate::base::time::Mono;
use crate::mailbox::api::Mailboxes;
use crate::pop3::inbound::{Answer, Luggage, Question, Session, Step};
use crate::pop3::reply::Reply;
use crate::runtime::moving::Moving;
use crate::tls::Connection;
use std::rc::Rc;

/// The state of a session beyond its machine.
pub(super) struct Talk<R: Moving, M: Mailboxes> {
    pub ctx: Rc<Context<R, M>>,
    pub wire: Wire<R>,
    pub known: Known,
    pub machine: Session,
    pub login: Login,
    /// Our end of a handshake that has been promised.
    pub handshake: Option<Box<Connection>>,
    /// After the login.
    pub open: Option<Open<M>>,
}

/// How a session goes on.
enum Next {
    /// Do this.
    Step(Step),
    /// At another core.
    Move(u16),
    /// It has ended.
    End,
}

/// Serves a client that has come in, until it goes: for ever, or to another core.
pub(super) async fn begin<R: Moving, M: Mailboxes>(
    ctx: Rc<Context<R, M>>,
    door: Rc<Door>,
    arrival: Arrival<R>,
) {
    let Arrival { wire, peer, guest } = arrival;
    let known = Known {
        peer,
        trusted: guest.trusted,
        service: door.service,
        login: String::new(),
        permits: vec![guest.permit],
        ends: wire.now.after(ctx.options.lasts),
    };
    let machine = Session::new(ctx.options.session.clone(), wire.now);
    let mut talk = Talk { ctx, wire, known, machine, login: Login::default(), handshake: None, open: None };
    talk.machine.set_tls(login::tls(door.tls));
    talk.offer();
    let now = talk.wire.now;
    let step = match door.tls {
        Tls::Implicit => talk.machine.begin_tls(now),
        Tls::Off | Tls::Offered => talk.machine.banner(now, &mut talk.wire.outbox.out),
    };
    talk.run(&door, step).await;
}

/// Goes on with a session that comes from another core, at the maildrop.
pub(super) async fn go_on<R: Moving, M: Mailboxes>(
    ctx: Rc<Context<R, M>>,
    wire: Wire<R>,
    known: Known,
    luggage: Luggage,
) {
    let machine = Session::arrive(ctx.options.session.clone(), luggage, wire.now);
    let door = ctx.door(known.service);
    let mut talk = Talk { ctx, wire, known, machine, login: Login::default(), handshake: None, open: None };
    let step = talk.look();
    talk.run(&door, step).await;
}

impl<R: Moving, M: Mailboxes> Talk<R, M> {
    async fn run(mut self, door: &Door, mut step: Step) {
        loop {
            match self.obey(door, step).await {
                Next::Step(next) => step = next,
                Next::End => return self.wire.close(),
                Next::Move(core) => match self.depart(core).await {
                    Some(back) => {
                        self = back;
                        step = self.look();
                    }
                    None => return,
                },
            }
        }
    }

    /// Does what a step says.
    async fn obey(&mut self, door: &Door, step: Step) -> Next {
        let went = match step {
            Step::NeedInput => match self.fill().await {
                Some(None) => Some(()),
                Some(Some(step)) => return Next::Step(step),
                None => None,
            },
            Step::Ask(Question::Maildrop) => return self.ask_maildrop().await,
            Step::Ask(question) => {
                self.ask(door, question).await;
                Some(())
            }
            Step::Send(_) => {
                self.count_replies();
                self.send().await
            }
            Step::Yield => {
                self.count_replies();
                self.wire.pause().await
            }
            Step::StartTls => {
                self.count_replies();
                self.start_tls(door).await
            }
            Step::Close => {
                self.close().await;
                None
            }
        };
        match went {
            Some(()) => Next::Step(self.look()),
            None => Next::End,
        }
    }

    /// Shows the machine what is not yet consumed.
    fn look(&mut self) -> Step {
        let now = self.wire.now;
        let (input, out) = self.wire.exchange();
        let (used, step) = self.machine.receive(now, input, out);
        self.wire.consume(used);
        step
    }

    async fn ask(&mut self, door: &Door, question: Question) {
        match question {
            Question::Login => self.ask_login(door).await,
            Question::Tls => self.promise_tls(door),
            Question::Uidls { first, count } => self.ask_uidls(first, count).await,
            Question::Message(fetch) => self.ask_message(fetch).await,
            Question::Commit => self.commit().await,
            Question::Maildrop => unreachable!("asked by who can move the session"),
        }
    }

    /// The login is good: here, or at the core that owns the maildrop.
    async fn ask_maildrop(&mut self) -> Next {
        match self.ctx.homes.home(&self.known.login) {
            Ok(Home::Here(store)) => {
                self.open_maildrop(&store).await;
                Next::Step(self.look())
            }
            Ok(Home::There(core)) => {
                self.measure();
                Next::Move(core)
            }
            Err(refusal) => {
                self.no_maildrop(maildrop::reply(refusal));
                Next::Step(self.look())
            }
        }
    }

    /// Hands the session to core number `core`; gives it back if it must stay, with the refusal said.
    async fn depart(self, core: u16) -> Option<Self> {
        let Talk { ctx, wire, known, machine, .. } = self;
        let (stayed, reply) = match wire.depart(known, machine.depart()) {
            Ok(parcel) => match ctx.roads.send(core, parcel).await {
                Ok(()) => return None,
                Err(parcel) => (back(&ctx, *parcel)?, Reply::SHUTTING_DOWN),
            },
            Err(stayed) => (*stayed, Reply::TEMPORARY),
        };
        let Stayed { mut wire, session: known, luggage } = stayed;
        let mut machine = Session::arrive(ctx.options.session.clone(), luggage, wire.now);
        let now = wire.now;
        machine.answer(now, Answer::Close(reply), &mut wire.outbox.out);
        Some(Talk { ctx, wire, known, machine, login: Login::default(), handshake: None, open: None })
    }

    /// Sends the replies and receives more. `None`: the session has ended; `Some(Some(step))`: do
    /// this instead.
    async fn fill(&mut self) -> Option<Option<Step>> {
        if self.machine.is_settled() {
            self.measure();
        }
        self.count_replies();
        let idle = self.machine.is_idle();
        if idle && self.is_over(self.wire.now) {
            return Some(Some(self.machine.shutdown(&mut self.wire.outbox.out)));
        }
        let deadline = self.machine.deadline();
        let deadline = if idle { deadline.min(self.known.ends) } else { deadline };
        match self.wire.fill(deadline, idle).await {
            Input::Bytes => Some(None),
            Input::Gone => None,
            Input::Late => Some(self.on_time()),
        }
    }

    /// Counts the commands that have been obeyed, and how long it took since they came.
    fn measure(&mut self) {
        let tally = self.machine.take_tally();
        if tally.is_empty() {
            return;
        }
        let took = self.wire.elapsed().as_secs_f64();
        for (kind, count) in tally.iter() {
            let histogram = &self.ctx.host().metrics.families.pop3_command[kind];
            (0..count).for_each(|_| histogram.record(took));
        }
    }

    /// True if the session is to be ended.
    fn is_over(&self, now: Mono) -> bool {
        self.ctx.host().live.is_stopping() || now >= self.known.ends
    }

    /// What to do now that a deadline has passed: end, if it is the session's or we stop.
    fn on_time(&mut self) -> Option<Step> {
        let now = self.wire.now;
        if self.machine.is_idle() && self.is_over(now) {
            return Some(self.machine.shutdown(&mut self.wire.outbox.out));
        }
        let step = self.machine.expire(now);
        (step == Step::Close).then(|| {
            self.ctx.host().meters.timeouts.increment(1);
            step
        })
    }

    /// Sends the last reply. Whoever has the maildrop next need not wait for that.
    async fn close(&mut self) {
        self.measure();
        self.count_replies();
        self.open = None;
        let out = &self.wire.outbox.out;
        let before = &out[..out.len().saturating_sub(1)];
        let last_line = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
        let was_asked = out[last_line..].starts_with(b"+OK Bye");
        self.wire.farewell(was_asked).await;
    }

    /// Counts the replies that are about to be sent, by their first lines.
    fn count_replies(&mut self) {
        let m = &self.ctx.host().metrics;
        for line in self.wire.outbox.fresh().split(|b| *b == b'\n') {
            if line.starts_with(b"+OK") {
                m.pop3_ok.increment(1);
            } else if line.starts_with(b"-ERR") {
                m.pop3_err.increment(1);
            }
        }
    }
}

/// A session that the other core has not taken.
fn back<R: Moving, M: Mailboxes>(
    ctx: &Rc<Context<R, M>>,
    parcel: Parcel<R::Packed, Luggage>,
) -> Option<Stayed<R, Luggage>> {
    let (wire, session, luggage) = Wire::arrive(ctx.host().clone(), parcel)?;
    Some(Stayed { wire, session, luggage })
}

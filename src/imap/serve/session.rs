//! One session: the loop between connection, machine and store.

use super::desk::Desk;
use super::{Context, login};
use crate::access::gate::{Door, Tls};
use crate::access::host::Arrival;
use crate::access::login::Login;
use crate::access::moving::{Known, Parcel, Stayed};
use crate::access::wire::{Input, Wire};
use crate::base::time::Mono;
use crate::imap::session::{Answer, Ask, Denial, Luggage, Now, Session, Step};
use crate::mailbox::api::{Mailboxes, Reader, Selected};
use crate::pop3::serve::Home;
use crate::runtime::moving::Moving;
use crate::tls::Connection;
use std::rc::Rc;

/// The state of a session beyond its machine.
pub(super) struct Talk<R: Moving, M: Mailboxes> {
    pub ctx: Rc<Context<R, M>>,
    pub wire: Wire<R>,
    pub known: Known,
    pub machine: Session<M::Selected>,
    pub login: Login,
    /// Our end of a handshake that has been promised.
    pub handshake: Option<Box<Connection>>,
    /// After the login.
    pub desk: Option<Desk<M>>,
    /// When the message was committed that the client, within IDLE, is being told of.
    pub telling: Option<Mono>,
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
    let mut talk = Talk::new(ctx, wire, known, machine);
    talk.machine.set_tls(login::tls(door.tls));
    talk.offer();
    let now = talk.wire.now;
    let step = match door.tls {
        Tls::Implicit => talk.machine.begin_tls(now),
        Tls::Off | Tls::Offered => talk.machine.greet(now, &mut talk.wire.outbox.out),
    };
    talk.run(&door, step).await;
}

/// Goes on with a session that comes from another core, at its account.
pub(super) async fn go_on<R: Moving, M: Mailboxes>(
    ctx: Rc<Context<R, M>>,
    wire: Wire<R>,
    known: Known,
    luggage: Luggage,
) {
    let machine = Session::arrive(ctx.options.session.clone(), luggage, wire.now);
    let door = ctx.door(known.service);
    let mut talk = Talk::new(ctx, wire, known, machine);
    let step = talk.look();
    talk.run(&door, step).await;
}

impl<R: Moving, M: Mailboxes> Talk<R, M> {
    fn new(ctx: Rc<Context<R, M>>, wire: Wire<R>, known: Known, machine: Session<M::Selected>) -> Self {
        let login = Login::default();
        Talk { ctx, wire, known, machine, login, handshake: None, desk: None, telling: None }
    }

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

    /// The time, as of the last wake-up.
    pub(super) fn now(&self) -> Now {
        Now { mono: self.wire.now, wall: self.ctx.host().rt.wall() }
    }

    /// Does what a step says.
    async fn obey(&mut self, door: &Door, step: Step) -> Next {
        let went = match step {
            Step::NeedInput | Step::Idle => match self.fill(step == Step::Idle).await {
                Some(None) => Some(()),
                Some(Some(step)) => return Next::Step(step),
                None => None,
            },
            Step::Ask => return self.ask(door).await,
            Step::Take => {
                if let Some(desk) = &mut self.desk {
                    desk.take(&mut self.machine).await;
                }
                Some(())
            }
            Step::Send => self.send().await,
            Step::Yield => self.wire.pause().await,
            Step::StartTls => self.start_tls(door).await,
            Step::Compress => self.wire.compress().await,
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
        let now = self.now();
        let (input, out) = self.wire.exchange();
        let (used, step) = self.machine.receive(now, input, out);
        self.wire.consume(used);
        step
    }

    async fn ask(&mut self, door: &Door) -> Next {
        match self.machine.asked() {
            Ask::Login => self.ask_login(door).await,
            Ask::Tls => self.promise_tls(door),
            // Here, or at the core that owns the account.
            Ask::Enter => match self.ctx.homes.home(&self.known.login) {
                Ok(Home::Here(store)) => self.enter(&store).await,
                Ok(Home::There(core)) => {
                    self.measure();
                    return Next::Move(core);
                }
                Err(refusal) => self.entered(Err(refusal)),
            },
            Ask::Leave => self.leave(),
            _ => {
                let now = self.now();
                let desk = self.desk.as_mut().expect("asked after the login");
                desk.answer(&mut self.machine, now, &mut self.wire.outbox.out).await;
                self.wire.tick();
            }
        }
        Next::Step(self.look())
    }

    /// Hands the session to core number `core`; gives it back if it must stay, with the refusal said.
    async fn depart(self, core: u16) -> Option<Self> {
        let Talk { ctx, wire, known, machine, .. } = self;
        let (stayed, denial) = match wire.depart(known, machine.depart()) {
            Ok(parcel) => match ctx.roads.send(core, parcel).await {
                Ok(()) => return None,
                Err(parcel) => (back(&ctx, *parcel)?, Denial::STOPPING),
            },
            Err(stayed) => (*stayed, Denial { close: true, ..Denial::UNAVAILABLE }),
        };
        let Stayed { wire, session: known, luggage } = stayed;
        let machine = Session::arrive(ctx.options.session.clone(), luggage, wire.now);
        let mut talk = Talk::new(ctx, wire, known, machine);
        let now = talk.now();
        talk.machine.answer(now, Answer::Deny(denial), &mut talk.wire.outbox.out);
        Some(talk)
    }

    /// Sends the responses and receives more, or learns that the mailbox has changed (`watch`). `None`:
    /// the session has ended; `Some(Some(step))`: do this instead.
    async fn fill(&mut self, watch: bool) -> Option<Option<Step>> {
        if self.machine.is_settled() {
            self.measure();
        }
        let idle = self.machine.is_idle();
        if idle && self.is_over(self.wire.now) {
            return Some(Some(self.machine.shutdown(&mut self.wire.outbox.out)));
        }
        let deadline = self.machine.deadline();
        let deadline = if idle { deadline.min(self.known.ends) } else { deadline };
        let input = if watch && self.machine.is_selected() {
            // What waits to be sent must not be cut in two by a change.
            self.wire.flush().await?;
            if let Some(since) = self.telling.take() {
                let host = self.ctx.host();
                host.metrics.imap_notify.record(host.rt.now().since(since).as_secs_f64());
            }
            self.wire.fill_or(deadline, idle, self.machine.mailbox().changed()).await
        } else {
            Some(self.wire.fill(deadline, idle).await)
        };
        match input {
            Some(Input::Bytes) => Some(None),
            Some(Input::Gone) => None,
            Some(Input::Late) => Some(self.on_time()),
            None => {
                self.telling = self.machine.mailbox().waits();
                self.machine.changed();
                Some(None)
            }
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
            let histogram = &self.ctx.host().metrics.families.imap_command[kind];
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
        let step = self.machine.expire(now, &mut self.wire.outbox.out);
        if step == Step::Close {
            self.ctx.host().meters.timeouts.increment(1);
        }
        matches!(step, Step::Close | Step::Idle).then_some(step)
    }

    /// Sends content, as fast as the client takes it: never more is read than waits to be sent. `None`:
    /// the session has ended.
    async fn send(&mut self) -> Option<()> {
        let mut reader = self.desk.as_mut().and_then(Desk::reader)?;
        'content: while let Some(bytes) = reader.next().await.ok()? {
            let mut at = 0;
            while at < bytes.len() {
                let room = self.wire.outbox.room(self.wire.channel()).min(bytes.len() - at);
                let piece = at..at + room;
                let more = match self.machine.pass_whole(&bytes[piece.clone()]) {
                    // As it is stored, without a copy.
                    Some((taken, more)) => {
                        self.wire.put(&bytes, at + taken.start..at + taken.end);
                        more
                    }
                    None => self.machine.pass(&bytes[piece], &mut self.wire.outbox.out),
                };
                at += room;
                if self.wire.is_full() {
                    self.wire.send(self.machine.deadline()).await.ok()?;
                    self.wire.tick();
                    self.machine.progress(self.wire.now);
                }
                if !more {
                    break 'content;
                }
            }
        }
        self.machine.sent(self.wire.now, &mut self.wire.outbox.out);
        Some(())
    }

    /// Sends the last response.
    async fn close(&mut self) {
        self.measure();
        self.desk = None;
        let out = &self.wire.outbox.out;
        let before = &out[..out.len().saturating_sub(1)];
        let last_line = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
        let was_asked = out[last_line..].ends_with(b" LOGOUT completed\r\n");
        self.wire.farewell(was_asked).await;
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

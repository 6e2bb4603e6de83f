//! L4: one session: the loop between socket, machine, gate and intake.

use super::arrive::Arrival;
use super::auth::Login;
use super::checks::{Checks, No};
use super::collect::Collector;
use super::filter::{About, Filtered, Guards, Stop};
use super::genuine::Looked;
use super::lists;
use super::names;
use super::reports::Heard;
use super::secure::Counted;
use super::{Caller, Context, Door, Goal, Guest, Handle, Refused, Sender};
use crate::base::ids::QueueId;
use crate::base::time::{Mono, Wall};
use crate::channel::Channel;
use crate::delivery::direct::Handed;
use crate::intake::{Accepted, Body, Intake, IntakeError, Submission, Terms};
use crate::message::received::{self, Trace};
use crate::message::submitted::FieldsSeen;
use crate::metrics;
use crate::runtime::{Runtime, Stream, pool, yield_now};
use crate::smtp::inbound::{Answer, Question, Said, Session, Step};
use crate::smtp::reply::{Refusal, Reply};
use crate::storage::side::SideError;
use crate::tls;
use smallvec::SmallVec;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// Serves the connection until it ends.
pub(super) async fn run<R: Runtime>(
    ctx: &Rc<Context<R>>,
    door: &Door,
    handle: &Handle<R::Stream>,
    arrival: Arrival,
) {
    let Arrival { peer, guest, buf, early, forwarder } = arrival;
    let options = if guest.trusted { &ctx.options.trusted } else { &ctx.options.others };
    let now = ctx.rt.now();
    if early {
        ctx.metrics.early_talkers.increment(1);
    }
    let mut talk = Talk {
        now,
        ends: now.after(ctx.options.session),
        ctx,
        door,
        handle,
        channel: Channel::Plain,
        handshake: None,
        counted: None,
        peer,
        claimed: false,
        machine: if door.lmtp {
            Session::lmtp(options.clone(), now)
        } else {
            Session::new(options.clone(), now)
        },
        login: Login::default(),
        checks: Checks::default(),
        listed: None,
        named: None,
        guest,
        body: Collector::new(ctx.clone()),
        seen: FieldsSeen::default(),
        looked: None,
        buf,
        at: 0,
        shown: 0,
        bulk: false,
        out: Vec::new(),
        trace: Vec::new(),
        filters: Guards::new(&door.filters),
        heard: None,
    };
    talk.machine.set_tls(door.tls);
    talk.machine.set_auth(door.auth);
    talk.offer_auth();
    talk.meet();
    if forwarder {
        talk.machine.allow_forwarding();
    }
    let mut step = if door.is_implicit() {
        talk.machine.begin_tls(now)
    } else {
        talk.machine.banner(now, early, &mut talk.out)
    };
    while let Some(next) = talk.obey(step).await {
        step = next;
    }
    if talk.filters.is_some() {
        // Apart from the session's own state, which sessions without filters have, too.
        Box::pin(talk.leave_filters()).await;
    }
    ctx.pool.give(std::mem::take(&mut talk.buf));
}

/// The state of a session beyond its machine.
pub(super) struct Talk<'a, R: Runtime> {
    /// The time of the last wake-up: reading the clock at each step would cost as much as a command.
    pub(super) now: Mono,
    /// When the session has lasted long enough.
    ends: Mono,
    pub(super) ctx: &'a Rc<Context<R>>,
    pub(super) door: &'a Door,
    pub(super) handle: &'a Handle<R::Stream>,
    pub(super) channel: Channel,
    /// Our end of a handshake that has been promised.
    pub(super) handshake: Option<Box<tls::Connection>>,
    /// Under TLS.
    pub(super) counted: Option<Counted>,
    pub(super) peer: SocketAddr,
    /// The address of the peer is what a forwarder has said.
    claimed: bool,
    /// What the client may do, and its place.
    pub(super) guest: Guest,
    pub(super) login: Login,
    /// What was decided on the transaction.
    pub(super) checks: Checks,
    /// What DNS lists are asked about the client.
    pub(super) listed: Option<Rc<lists::Question>>,
    /// What the client is called, if that was looked up.
    pub(super) named: Option<names::Named>,
    pub(super) machine: Session,
    /// The header of a submitted message.
    seen: FieldsSeen,
    /// What is found out about the message, or signed with.
    pub(super) looked: Option<Box<Looked<R>>>,
    pub(super) body: Collector<R>,
    /// What has been received; consumed up to `at`.
    pub(super) buf: Vec<u8>,
    pub(super) at: usize,
    /// Where the input of the last look of the machine began.
    pub(super) shown: usize,
    /// The last body was a long one, so the next may be.
    bulk: bool,
    /// Replies not yet sent.
    pub(super) out: Vec<u8>,
    trace: Vec<u8>,
    /// Those of others that are asked.
    pub(super) filters: Option<Box<Guards<R>>>,
    /// What the message reports.
    pub(super) heard: Option<Box<Heard>>,
}

impl<R: Runtime> Talk<'_, R> {
    /// Does what a step says and gives the next; `None`: the session has ended.
    async fn obey(&mut self, step: Step) -> Option<Step> {
        match step {
            Step::NeedInput => {
                self.count_replies();
                if self.is_over(self.now) {
                    return Some(self.machine.shutdown(&mut self.out));
                }
                if let Some(step) = self.fill().await? {
                    return Some(step);
                }
            }
            Step::Ask(question) => self.ask(question).await,
            Step::Body(run) => {
                let range = self.shown + run.start..self.shown + run.end;
                if self.door.submission.is_some() {
                    self.seen.feed(&self.buf[range.clone()]);
                }
                match self.looked {
                    None => self.body.here(range, &self.buf),
                    Some(_) => self.look_at(range),
                }
            }
            Step::BodyStatic(bytes) => {
                if self.door.submission.is_some() {
                    self.seen.feed(bytes);
                }
                match self.looked {
                    None => self.body.inserted(bytes, &self.buf),
                    Some(_) => self.look_at_inserted(bytes),
                }
            }
            Step::EndOfMessage => self.end_of_message().await,
            Step::Abandoned => self.forget_message(),
            Step::Yield => {
                self.flush().await?;
                yield_now().await;
                self.now = self.ctx.rt.now();
            }
            Step::Pause(until) => {
                self.flush().await?;
                self.ctx.rt.sleep_until(until).await;
                self.now = self.ctx.rt.now();
            }
            Step::StartTls => self.start_tls().await?,
            Step::Close => {
                self.count_replies();
                let reply = std::mem::take(&mut self.out);
                self.farewell(reply).await;
                return None;
            }
        }
        Some(self.receive())
    }

    /// Shows the machine what is not yet consumed.
    fn receive(&mut self) -> Step {
        self.shown = self.at;
        let (from, in_message) = (self.out.len(), self.machine.in_message());
        let (used, step) = self.machine.receive(self.now, &self.buf[self.at..], &mut self.out);
        self.at += used;
        if self.ctx.is_traced() {
            self.trace_input(in_message, &step);
        }
        if rejection(&self.ctx.metrics, &self.out[from..]).is_some() {
            self.record_refusal(if in_message { "DATA" } else { "MAIL" }, false, from);
        }
        step
    }

    /// Sends the replies and receives more. `None`: the session has ended; `Some(Some(step))`: do
    /// this instead.
    async fn fill(&mut self) -> Option<Option<Step>> {
        if self.body.settle(&self.buf).await {
            self.buf.drain(..self.at);
            self.at = 0;
        } else if self.buf.capacity() - self.buf.len() < self.buf.capacity() / 8 {
            // Full of the body, which stays there. What is not consumed is a few bytes.
            self.bulk = self.buf.capacity() >= pool::LARGE;
            let full = std::mem::take(&mut self.buf);
            self.take_buffer();
            self.buf.extend_from_slice(&full[self.at..]);
            self.at = 0;
            self.body.keep(full);
        }
        self.handle.idle.set(self.machine.is_idle());
        let ended = self.receive_more().await;
        self.now = self.ctx.rt.now();
        self.handle.idle.set(false);
        ended
    }

    async fn receive_more(&mut self) -> Option<Option<Step>> {
        let ctx = self.ctx;
        let stream = &self.handle.stream;
        let mut now = self.now;
        loop {
            self.take_buffer();
            let mut deadline = self.deadline();
            if !self.out.is_empty() {
                deadline = deadline.min(now.after(ctx.options.write));
            }
            if self.buf.is_empty() {
                deadline = deadline.min(now.after(ctx.options.idle_buffer));
            }
            stream.set_deadline(Some(deadline));
            let (out, buf) = (std::mem::take(&mut self.out), std::mem::take(&mut self.buf));
            let result;
            if out.is_empty() {
                (result, self.buf) = self.channel.recv(stream, &ctx.pool, buf).await;
                self.out = out;
            } else {
                (result, self.out, self.buf) = self.channel.send_recv(stream, &ctx.pool, out, buf).await;
            }
            match result {
                Ok(0) => return None,
                Ok(_) => return Some(None),
                Err(e) if e.kind() == io::ErrorKind::TimedOut && self.out.is_empty() => {}
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    self.farewell(Vec::new()).await;
                    return None;
                }
                // A client that does not read its replies, or a broken connection.
                Err(_) => return None,
            }
            now = ctx.rt.now();
            if let Some(step) = self.on_time(now) {
                return Some(Some(step));
            }
            if self.buf.is_empty() {
                // Idle: wait on without a buffer.
                ctx.pool.give(std::mem::take(&mut self.buf));
                stream.set_deadline(Some(self.deadline()));
                let readable = self.channel.readable(stream, &ctx.pool).await;
                now = ctx.rt.now();
                match readable {
                    Err(e) if e.kind() != io::ErrorKind::TimedOut => return None,
                    Err(_) => {
                        if let Some(step) = self.on_time(now) {
                            return Some(Some(step));
                        }
                    }
                    Ok(()) => {}
                }
            }
        }
    }

    /// When something is to be done though nothing comes in.
    fn deadline(&self) -> Mono {
        let deadline = self.machine.deadline();
        if self.machine.is_idle() { deadline.min(self.ends) } else { deadline }
    }

    /// True if the session is to be ended, and can be without harm.
    fn is_over(&self, now: Mono) -> bool {
        let ends = self.ctx.stopping.get() || now >= self.ends || self.handle.badge.is_expelled();
        ends && self.machine.is_idle()
    }

    /// Has a buffer to receive into: a small one for commands, so that many sessions that wake at
    /// once cost little; a large one within a transaction, or for a line that needs it; a huge one
    /// for bodies that fill it, so that they come in few pieces.
    fn take_buffer(&mut self) {
        let pool = &self.ctx.pool;
        let huge = self.bulk && self.machine.in_message() && self.ctx.held.get() <= self.ctx.options.memory;
        let has = self.buf.capacity();
        if self.buf.is_empty() && (has == 0 || huge != (has >= pool::HUGE)) {
            let want = if huge {
                pool.huge()
            } else if self.machine.is_idle() {
                pool.small()
            } else {
                pool.large()
            };
            pool.give(std::mem::replace(&mut self.buf, want));
        } else if has < pool::LARGE && (!self.machine.is_idle() || self.buf.len() > pool::SMALL / 2) {
            let mut large = pool.large();
            large.extend_from_slice(&self.buf);
            pool.give(std::mem::replace(&mut self.buf, large));
        } else if self.buf.len() == has {
            // A command line that may be longer than a large buffer.
            self.buf.reserve(pool::LARGE);
        }
    }

    /// What to do if a deadline of the stream has passed: end, if the session's has or we stop.
    fn on_time(&mut self, now: Mono) -> Option<Step> {
        if self.is_over(now) {
            return Some(self.machine.shutdown(&mut self.out));
        }
        let step = self.machine.expire(now, &mut self.out);
        (step == Step::Close).then(|| {
            self.ctx.metrics.sessions_timed_out.increment(1);
            step
        })
    }

    /// Sends the replies without receiving.
    pub(super) async fn flush(&mut self) -> Option<()> {
        self.count_replies();
        if self.out.is_empty() {
            return Some(());
        }
        let until = self.ctx.rt.now().after(self.ctx.options.write);
        self.handle.stream.set_deadline(Some(until));
        let result;
        let out = std::mem::take(&mut self.out);
        (result, self.out) = self.channel.send(&self.handle.stream, &self.ctx.pool, out).await;
        self.out.clear();
        result.ok()
    }

    /// Sends the last reply, or an alert of TLS, and waits for the peer to read it.
    pub(super) async fn farewell(&mut self, reply: Vec<u8>) {
        let before = &reply[..reply.len().saturating_sub(1)];
        let last_line = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
        let was_asked = reply[last_line..].starts_with(b"221");
        let until = self.ctx.rt.now().after(self.ctx.options.last_words);
        last_words(&self.handle.stream, self.channel.farewell(reply), was_asked, until).await;
    }

    /// Counts the replies that are about to be sent.
    fn count_replies(&mut self) {
        if self.ctx.is_traced() {
            self.trace_replies();
        }
        let m = &self.ctx.metrics;
        let mut line = &self.out[..];
        // All at once: a counter costs more than a look at a reply.
        let mut count = [0; 4];
        while let Some(end) = memchr::memchr(b'\n', line) {
            // Continuation lines have a hyphen behind the code (RFC 5321 §4.2.1).
            match (line.first(), line.get(3)) {
                (_, Some(b'-')) => {}
                (Some(class @ b'2'..=b'4'), _) => count[usize::from(class - b'2')] += 1,
                _ => count[3] += 1,
            }
            if let Some(reason) = rejection(m, line) {
                reason.increment(1);
            }
            line = &line[end + 1..];
        }
        let counters = [&m.replies_2xx, &m.replies_3xx, &m.replies_4xx, &m.replies_5xx];
        for (counter, count) in counters.into_iter().zip(count).filter(|(_, count)| *count > 0) {
            counter.increment(count);
        }
    }

    async fn ask(&mut self, question: Question) {
        let no;
        let answer = match question {
            Question::Auth => return self.ask_auth().await,
            Question::Sender => match self.may_send().await {
                Ok(()) => {
                    let room = match &self.ctx.goal {
                        Goal::Queue(intake) => intake.room().await,
                        // Each mailbox says it for itself.
                        Goal::Mailboxes(_) => Ok(()),
                    };
                    self.now = self.ctx.rt.now();
                    self.begin_look();
                    match room {
                        Ok(()) => Answer::Accept,
                        Err(e) => Answer::Refuse(refusal(e).into()),
                    }
                }
                Err(said) => {
                    no = said;
                    Answer::Refuse(no.refusal())
                }
            },
            Question::Recipient => match self.may_send_to().await {
                Ok(()) => Answer::Accept,
                Err(said) => {
                    no = said;
                    Answer::Refuse(no.refusal())
                }
            },
            Question::Client => match self.admit_claimed() {
                Ok(()) => match self.claim_login() {
                    Ok(()) => {
                        self.filters.iter_mut().for_each(|filters| filters.forget());
                        Answer::Accept
                    }
                    Err(refusal) => Answer::Refuse(refusal.into()),
                },
                Err(refused) => {
                    refused.counter(&self.ctx.metrics).increment(1);
                    Answer::Refuse(refused.reply().into())
                }
            },
            Question::Tls => self.promise_tls(),
        };
        let about = match question {
            Question::Sender => Some(About::Sender),
            Question::Recipient => Some(About::Recipient),
            _ => None,
        };
        let mut rejection = None;
        if let Some(about) = about.filter(|_| answer == Answer::Accept && self.filters.is_some()) {
            rejection = Box::pin(self.ask_filters(about)).await;
        }
        let answer = rejection.as_ref().map_or(answer, |r| Answer::Refuse(r.refusal()));
        let from = self.out.len();
        self.machine.answer(self.now, answer, &mut self.out);
        match question {
            Question::Sender => self.record_refusal("MAIL", false, from),
            Question::Recipient => self.record_refusal("RCPT", true, from),
            _ => {}
        }
    }

    /// Who sends.
    fn sender(&self) -> Sender<'_> {
        Sender { trusted: self.guest.trusted, login: self.login.name().map(str::as_bytes) }
    }

    /// May the client send a message with the sender of the transaction?
    async fn may_send(&mut self) -> Result<(), No> {
        self.ctx.gate.sender(self.sender(), self.machine.envelope().view().sender(), self.now)?;
        self.check_sender().await
    }

    /// Is the recipient that came last taken?
    async fn may_send_to(&mut self) -> Result<(), No> {
        self.check_recipient()?;
        self.check_lists().await?;
        let answer = self.is_taken().await.map_err(No::from);
        self.count_answer(answer.as_ref().err());
        answer?;
        self.check_greylist()?;
        self.brake_recipient()
    }

    /// Is there such a recipient, for this client?
    async fn is_taken(&mut self) -> Result<(), Refusal<'static>> {
        let address = self.machine.envelope().last().expect("the question is about a recipient").address;
        if self.is_only_read(address) {
            return Ok(());
        }
        if self.ctx.gate.is_expired(address, &|| self.ctx.rt.wall()) {
            return Err(Reply::RETURN_PATH_OLD.into());
        }
        self.ctx.gate.recipient(self.sender(), address, self.now)?;
        let size = self.machine.declared_size().unwrap_or(0);
        match self.ctx.gate.willing(address, size) {
            None => Ok(()),
            Some(asked) => {
                let answer = asked.await;
                self.now = self.ctx.rt.now();
                answer
            }
        }
    }

    /// The client is who its forwarder says (XCLIENT): every rule that goes by the address is asked
    /// again. What the client before had taken is given back.
    fn admit_claimed(&mut self) -> Result<(), Refused> {
        let claim = self.machine.claim().expect("the question is about a claim");
        let (said, port) = (claim.address.clone(), claim.port.known().copied());
        let (address, known) = match said {
            Said::Not => return Ok(()),
            Said::Is(address) if self.claimed && address == self.peer.ip() => (address, true),
            Said::Is(address) => {
                self.guest.permit = Box::new(());
                let caller = Caller { address, speaks_for_others: false, may_relay: true };
                self.guest = self.ctx.gate.admit(&caller, self.ctx.rt.now())?;
                (address, true)
            }
            // Nobody in particular: such a client has no rights, and no limits of its own.
            Said::Unknown => {
                self.guest.permit = Box::new(());
                let caller = Caller { address: self.peer.ip(), speaks_for_others: true, may_relay: false };
                self.guest = self.ctx.gate.admit(&caller, self.ctx.rt.now())?;
                (self.peer.ip(), false)
            }
        };
        self.claimed = known;
        self.peer = SocketAddr::new(address, port.unwrap_or(self.peer.port()));
        self.handle.badge.set_peer(self.peer);
        let options = if self.guest.trusted { &self.ctx.options.trusted } else { &self.ctx.options.others };
        self.machine.set_options(options.clone());
        self.meet();
        Ok(())
    }

    /// Makes the message safe and answers for it.
    async fn end_of_message(&mut self) {
        if self.checks.discard {
            let from = self.out.len();
            let kept = self.keep_for_record();
            self.machine.discarded_by_rule(self.now, &mut self.out);
            self.record_refused(kept, from);
            return self.forget_message();
        }
        self.bulk = self.machine.body_facts().len > (pool::LARGE / 2) as u64;
        let ctx = self.ctx;
        let result = match &ctx.goal {
            Goal::Queue(intake) => match self.looked {
                None => self.store(intake).await,
                Some(_) => match self.finish_look().await {
                    Ok(()) => self.store(intake).await,
                    Err(reply) => Err(reply.into()),
                },
            },
            Goal::Mailboxes(local) => {
                self.deliver(local).await;
                return self.forget_message();
            }
        };
        self.now = self.ctx.rt.now();
        let now = self.now;
        let from = self.out.len();
        match result {
            Ok(accepted) => {
                self.tell_heard(accepted.id);
                self.tell_taken(&accepted.id.text());
                self.machine.accepted(now, &accepted.id.text(), accepted.ticket, &mut self.out);
            }
            Err(Stop::Discarded(id, by)) => {
                self.tell_heard(id);
                self.record_discarded(id, &by);
                self.machine.discarded(now, &id.text(), &mut self.out);
            }
            Err(stop) => {
                let kept = self.keep_for_record();
                let refusal = stop.refusal().unwrap_or(Reply::LOCAL_ERROR.into());
                self.machine.refused(now, refusal, &mut self.out);
                self.record_refused(kept, from);
            }
        }
        self.forget_message();
    }

    /// Trace headers of the message that has ended.
    pub(super) fn trace(&self) -> &[u8] {
        &self.trace
    }

    pub(super) fn set_trace(&mut self, trace: Vec<u8>) {
        self.trace = trace;
    }

    pub(super) fn forget_message(&mut self) {
        self.body.clear();
        self.seen = FieldsSeen::default();
        self.looked = None;
        self.heard = None;
    }

    /// The client of the message, as the trace header names it: what XFORWARD says of it, else what
    /// XCLIENT says, else what we see.
    pub(super) fn client(&self) -> Client<'_> {
        let mut client = Client { helo: self.machine.helo(), address: self.peer.ip(), name: None };
        for claim in [self.machine.claim(), self.machine.forwarded()].into_iter().flatten() {
            client.helo = claim.helo.known().map_or(client.helo, |h| h);
            client.address = claim.address.known().copied().unwrap_or(client.address);
            client.name =
                if claim.name == Said::Not { client.name } else { claim.name.known().map(|n| &n[..]) };
        }
        client
    }

    /// The trace header of the message, and what a submitted one lacks.
    fn put_trace(&mut self, id: QueueId, arrival: Wall) {
        let ctx = self.ctx;
        let envelope = self.machine.envelope();
        let mut trace = std::mem::take(&mut self.trace);
        trace.clear();
        if let Some(looked) = &self.looked {
            // RFC 8601 §4: above our own trace header.
            trace.extend_from_slice(looked.front());
        }
        let client = self.client();
        let date = *ctx.date.borrow_mut().at(arrival);
        received::put(
            &mut trace,
            &Trace {
                helo: client.helo,
                client: client.address,
                name: client.name,
                hidden: self.door.submission.is_some_and(|s| s.hide_client),
                host: &ctx.options.hostname,
                protocol: self.machine.protocol().text(),
                id: &id.text(),
                security: self.machine.security(),
                recipient: envelope.last().filter(|_| envelope.count() == 1).map(|r| r.address),
                date: &date,
            },
        );
        if self.door.submission.is_some() {
            self.seen.put_missing(&mut trace, &date, &id.text(), &ctx.options.hostname);
        }
        self.trace = trace;
    }

    /// The message in memory, as it is after the filters.
    pub(super) fn slices<'a>(&'a self, filtered: Option<&'a Filtered>) -> SmallVec<[&'a [u8]; 10]> {
        let received = self.body.slices(&self.buf);
        match filtered {
            None => received,
            Some(filtered) => filtered.slices(received),
        }
    }

    async fn store(&mut self, intake: &Intake<R>) -> Result<Accepted, Stop> {
        let ctx = self.ctx;
        let mut facts = self.facts();
        self.brake_bytes(facts.len)?;
        let arrival = ctx.rt.wall();
        let id = intake.next_id(arrival);
        self.put_trace(id, arrival);
        let filtered = if self.filters.is_some() { Box::pin(self.filter(intake, id)).await? } else { None };
        let filtered = filtered.as_deref();
        if self.looked.is_some() {
            self.vouch(intake, filtered, arrival).await?;
        }
        let mut len = self.body.in_memory();
        if let Some(filtered) = filtered {
            (facts, len) = (filtered.facts, filtered.facts.len as usize);
        }
        let mut redirected = self.checks.redirected(self.machine.envelope());
        let envelope = redirected.as_ref().unwrap_or(self.machine.envelope());
        let needed = envelope.bytes().len() + self.trace.len() + len;
        let too_long = needed > intake.inline_max(envelope.count());
        let mut side = filtered.and_then(Filtered::side);
        if side.is_none() && (self.body.has_side() || too_long) {
            side = Some(self.body.finish_side(&self.buf).await.map_err(|e| match e {
                SideError::Full => Reply::NO_SPACE,
                SideError::Poisoned => Reply::STORAGE_FAILED,
            })?);
        }
        if redirected.is_none() && ctx.reports.get().is_some() {
            redirected = Box::pin(self.hear(intake, id, filtered, side)).await?;
        }
        let envelope = redirected.as_ref().unwrap_or(self.machine.envelope());
        let hold = self.checks.hold.as_deref().or(filtered.and_then(|f| f.hold.as_deref()));
        let handed = match side {
            None if hold.is_none() && redirected.is_none() => {
                self.short_way(intake, (id, arrival), needed, filtered).await
            }
            _ => Handed::None,
        };
        let (envelope, whole) = match &handed {
            Handed::Some(rest) => (rest, false),
            Handed::All(_) | Handed::None => (envelope, true),
        };
        if let Handed::All(ticket) = handed {
            return Ok(Accepted { id, ticket });
        }
        let user = self.login.name().unwrap_or_default().as_bytes();
        let slices = if side.is_none() { self.slices(filtered) } else { SmallVec::new() };
        let body = side.map_or(Body::Slices(&slices), Body::Side);
        let message = Submission { id, arrival, envelope, trace: &self.trace, body, facts };
        let accepted = self.stage(intake, &message, Terms { user, hold }).await?;
        if whole {
            self.record_taken(Some(id));
        }
        Ok(accepted)
    }

    async fn stage(
        &self,
        intake: &Intake<R>,
        message: &Submission<'_>,
        terms: Terms<'_>,
    ) -> Result<Accepted, Reply> {
        let ctx = self.ctx;
        let mut patience = None;
        loop {
            match intake.stage_on(message, terms) {
                // The client has sent the whole message: better a wait than to have it sent again.
                Err(IntakeError::Busy)
                    if ctx.rt.now() < *patience.get_or_insert(self.now.after(ctx.options.busy)) =>
                {
                    intake.progress().await;
                }
                submitted => return submitted.map_err(refusal)?.await.map_err(refusal),
            }
        }
    }
}

/// Who has sent a message.
pub(super) struct Client<'a> {
    pub helo: &'a [u8],
    pub address: IpAddr,
    pub name: Option<&'a [u8]>,
}

/// Sends the last reply and sees to it that the peer gets it: a connection that is closed while
/// input lies unread is reset, and the reset destroys what the peer has not read.
/// `was_asked`: who has said QUIT sends no more.
pub(crate) async fn last_words<S: Stream>(stream: &S, reply: Vec<u8>, was_asked: bool, until: Mono) {
    stream.set_deadline(Some(until));
    let (sent, mut buf) = stream.send(reply).await;
    if sent.is_err() || was_asked {
        return;
    }
    stream.finish();
    buf.reserve(4096);
    for _ in 0..DRAIN_MAX {
        buf.clear();
        let result;
        (result, buf) = stream.recv(buf).await;
        if !matches!(result, Ok(1..)) {
            return;
        }
    }
}

/// Receives at most so often while the peer finishes.
const DRAIN_MAX: u32 = 256;

/// The reason for which a reply refuses a recipient or a message, if it does.
#[inline]
fn rejection<'a>(m: &'a metrics::Core, line: &[u8]) -> Option<&'a metrics::Counter> {
    if !matches!(line.first(), Some(b'4' | b'5')) {
        return None;
    }
    Some(match line.get(..9)? {
        b"554 5.7.1" => &m.rejected_relay,
        b"530 5.7.0" => &m.rejected_login,
        b"553 5.7.1" => &m.rejected_sender,
        b"450 4.7.1" => &m.rejected_rate,
        b"550 5.1.1" => &m.rejected_unknown,
        b"550 5.4.4" => &m.rejected_no_route,
        b"451 4.3.5" => &m.rejected_map,
        b"552 5.3.4" => &m.rejected_size,
        b"550 5.5.2" | b"550 5.6.0" | b"554 5.4.6" => &m.rejected_content,
        b"552 5.2.2" | b"452 4.2.2" => &m.rejected_quota,
        b"452 4.3.1" | b"451 4.3.0" | b"421 4.3.0" => &m.rejected_storage,
        _ => return None,
    })
}

/// The reply for a failure of ours.
fn refusal(e: IntakeError) -> Reply {
    match e {
        IntakeError::Full => Reply::NO_SPACE,
        IntakeError::Busy => Reply::BUSY,
        IntakeError::Closed => Reply::STORAGE_FAILED,
        IntakeError::Late => Reply::COMMIT_LATE,
        // The queue promised `inline_max`; a record larger than that is a fault of ours.
        IntakeError::TooLarge => Reply::LOCAL_ERROR,
        IntakeError::NoRecipients => Reply::NO_SUCH_USER,
    }
}

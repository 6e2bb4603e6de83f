//! L4: serves SMTP on one core: accepts, moves bytes between socket and session machine, collects
//! bodies, asks the gate, calls intake.
//!
//! Knows no disk and no other core. What a client does wrong is answered by the machine; an error
//! of the socket ends the session; our own trouble (disk, space) becomes a 4xx. A session holds a
//! receive buffer only while bytes are on their way: an idle one gives it back.

pub(crate) mod arrive;
mod auth;
pub mod checks;
mod collect;
pub mod filter;
mod gather;
mod genuine;
pub mod lists;
pub mod local;
pub mod names;
mod record;
mod reports;
mod seal;
pub(crate) mod secure;
pub(crate) mod session;
mod short;
mod trace;

pub use arrive::Refused;

use crate::access::roll::{Badge, Present, Roll, Whom};
use crate::attempts::Attempts;
use crate::auth::service::Logins;
use crate::authenticity::aside;
use crate::authenticity::check::Check;
use crate::authenticity::keys::Signers;
use crate::authenticity::rules::Rules;
use crate::base::time::{Mono, Wall};
use crate::delivery::post::Post;
use crate::events::mail::MailLog;
use crate::events::trace::Tracer;
use crate::intake::Intake;
use crate::message::date::DateCache;
use crate::metrics;
use crate::policy::access::Networks;
use crate::policy::reports::Reports;
use crate::route::access::{Action, Question as Listed};
use crate::runtime::pool::Pool;
use crate::runtime::{Listener, Runtime, Stream};
use crate::smtp::inbound;
use crate::smtp::reply::{Refusal, Reply};
use crate::storage::side::{SideError, SideWriter};
use crate::tls::{Certificates, Connection};
use checks::Policy;
use local::Local;
use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// What the shell asks of policy. Synchronous: everything is in memory.
pub trait Gate {
    /// A client has connected: is it one of those that may relay anywhere? `Err`: it is refused.
    fn admit(&self, caller: &Caller, now: Mono) -> Result<Guest, Refused>;

    /// A client has proved to be this user. What is counted for it is given back on drop. `Err`: not
    /// now.
    fn login(&self, _login: &str) -> Result<Box<dyn std::any::Any>, Reply> {
        Ok(Box::new(()))
    }

    /// May it send one more message, with this sender?
    fn sender(&self, who: Sender<'_>, address: &[u8], now: Mono) -> Result<(), Refusal<'static>>;

    /// The access maps of clients have names.
    fn lists_names(&self) -> bool {
        false
    }

    /// What the access maps say.
    fn listed(&self, _question: Listed<'_>) -> Option<Action> {
        None
    }

    /// Is the recipient a sender that was written in the place of another, too long ago?
    fn is_expired(&self, _address: &[u8], _wall: &dyn Fn() -> Wall) -> bool {
        false
    }

    /// May it send to this recipient through us?
    fn recipient(&self, who: Sender<'_>, address: &[u8], now: Mono) -> Result<(), Refusal<'static>>;

    /// Does the mailbox of this recipient, if it has one here, take a message of `size` bytes (0: not
    /// known)? `None`: nobody need be asked. Asked after [`Self::recipient`]; yes is a promise.
    fn willing<'a>(&'a self, _address: &'a [u8], _size: u64) -> Option<Asked<'a>> {
        None
    }
}

/// What a mailbox answers; bounded in time.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Result<(), Refusal<'static>>> + 'a>>;

/// Who wants to come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Its address; IPv4 is never in IPv6 form.
    pub address: IpAddr,
    /// Behind it are many others (it is listed as a proxy, or for XCLIENT): limits per address are not
    /// for it, but for them.
    pub speaks_for_others: bool,
    /// It may relay if its address may. Not so what a proxy says for itself.
    pub may_relay: bool,
}

/// How mail of our own users is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Submission {
    /// The trace header does not name the client.
    pub hide_client: bool,
}

/// Who sends.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The client may relay by its address.
    pub trusted: bool,
    /// The name under which it has authenticated.
    pub login: Option<&'a [u8]>,
}

/// A client that has been let in. What was counted for it is given back when this is dropped.
pub struct Guest {
    /// It may relay anywhere.
    pub trusted: bool,
    /// Given back on drop.
    pub permit: Box<dyn std::any::Any>,
}

/// How a listener lets clients in.
#[derive(Clone, Debug, Default)]
pub struct Door {
    /// What it does with TLS.
    pub tls: inbound::Tls,
    /// Certificates for TLS; without them it cannot be had.
    pub certificates: Option<Certificates>,
    /// Clients are asked for a certificate, too.
    pub ask_certificate: bool,
    /// What it does with AUTH.
    pub auth: inbound::AuthMode,
    /// Peers whose PROXY header is required and believed.
    pub proxies: Networks,
    /// Clients that may use XCLIENT and XFORWARD.
    pub forwarders: Networks,
    /// LMTP is spoken (RFC 2033).
    pub lmtp: bool,
    /// It is for our own users (RFC 6409); then how.
    pub submission: Option<Submission>,
    /// What is asked about its sessions' mail, in this order.
    pub filters: Rc<[Rc<filter::Filter>]>,
    /// Mail of clients that are neither trusted nor logged in is looked at by these rules.
    pub authenticity: Option<Rc<Rules>>,
}

impl Door {
    /// What it is called in events.
    fn service(&self) -> &'static str {
        match self.submission {
            None if self.lmtp => "lmtp",
            None => "smtp",
            Some(_) if self.is_implicit() => "submissions",
            Some(_) => "submission",
        }
    }

    fn is_implicit(&self) -> bool {
        self.tls == inbound::Tls::Implicit
    }

    /// Our end of a handshake.
    fn begin_tls(&self) -> Option<Box<Connection>> {
        let snapshot = self.certificates.as_ref()?.current();
        Connection::accept(snapshot, "smtp", self.ask_certificate).ok().map(Box::new)
    }
}

/// What can be set.
#[derive(Clone)]
pub struct Options {
    /// Our name in Received.
    pub hostname: String,
    /// Limits of sessions of clients that may relay.
    pub trusted: Rc<inbound::Options>,
    /// Limits of all other sessions.
    pub others: Rc<inbound::Options>,
    /// A body longer than this many bytes goes to a side file as it comes in.
    pub side_bytes: usize,
    /// Bytes of unfinished bodies in the memory of this core; above, bodies go to side files from
    /// 64 KiB on.
    pub memory: usize,
    /// After so long without a byte a session gives its receive buffer back.
    pub idle_buffer: Duration,
    /// How long the last reply of a session may take to be sent and read.
    pub last_words: Duration,
    /// How long a client may take to receive replies.
    pub write: Duration,
    /// How long a session may last; it ends between two transactions.
    pub session: Duration,
    /// How long a message that has come in waits for a busy disk before it is refused.
    pub busy: Duration,
    /// How long a listed proxy may take to send its header.
    pub proxy_header: Duration,
    /// How long the greeting of clients that may not relay is held back, to see whether they speak
    /// first; zero: nobody looks.
    pub greeting_delay: Duration,
    /// How long all look-ups together may take that say where a message comes from.
    pub check: Duration,
}

impl Options {
    /// The defaults of the product.
    #[must_use]
    pub fn new(hostname: &str) -> Self {
        let others = inbound::Options::production(hostname);
        // Load tests and other relays send without end over one connection.
        let trusted = inbound::Options { transactions_max: u32::MAX, ..others.clone() };
        Options {
            hostname: hostname.to_owned(),
            trusted: Rc::new(trusted),
            others: Rc::new(others),
            side_bytes: 1 << 20,
            memory: 64 << 20,
            idle_buffer: Duration::from_secs(2),
            last_words: Duration::from_secs(5),
            write: Duration::from_secs(180),
            session: Duration::from_secs(100 * 365 * 86_400),
            busy: Duration::from_secs(60),
            proxy_header: Duration::from_secs(5),
            greeting_delay: Duration::from_millis(100),
            check: Duration::from_secs(20),
        }
    }
}

/// Where mail goes.
pub enum Goal<R: Runtime> {
    /// Into this core's queue: SMTP.
    Queue(Intake<R>),
    /// Into mailboxes, at once: LMTP.
    Mailboxes(Local<R>),
}

impl<R: Runtime> Goal<R> {
    /// Begins a side file for a long body.
    async fn create_side(&self) -> Result<SideWriter<R>, SideError> {
        match self {
            Goal::Queue(intake) => intake.create_side().await,
            Goal::Mailboxes(local) => local.beside.begin_large().await,
        }
    }
}

/// What the sessions of one core share.
pub struct Context<R: Runtime> {
    rt: R,
    goal: Goal<R>,
    gate: Rc<dyn Gate>,
    metrics: metrics::Core,
    options: Options,
    pool: Pool,
    date: RefCell<DateCache>,
    /// Bytes of unfinished bodies.
    held: Cell<usize>,
    stopping: Cell<bool>,
    /// Connections that are being refused.
    refusing: Cell<usize>,
    attempts: OnceCell<Attempts>,
    mail_log: OnceCell<MailLog>,
    tracer: OnceCell<Tracer>,
    /// None: nothing holds anybody back.
    policy: OnceCell<Policy<R>>,
    /// None: there are no mailboxes here.
    post: OnceCell<Rc<dyn Post>>,
    /// None: there are no users.
    logins: OnceCell<Rc<Logins<R>>>,
    /// None: nobody asks.
    checker: OnceCell<Rc<dyn Check>>,
    /// None: nothing is signed.
    signers: OnceCell<Signers>,
    /// None: no reports come in that are read.
    reports: OnceCell<Reports>,
    /// None: signatures are made here.
    aside: OnceCell<aside::Threads>,
    /// None: nothing is sealed.
    sealer: OnceCell<Signers>,
    live: RefCell<Live<R::Stream>>,
}

/// The open sessions, so that a stop can reach them.
struct Live<S> {
    slots: Vec<Option<Rc<Handle<S>>>>,
    free: Vec<usize>,
}

/// A session as the others see it.
struct Handle<S> {
    stream: S,
    /// It waits for a command, outside of a transaction.
    idle: Cell<bool>,
    /// What others see of it.
    badge: Badge,
}

impl<R: Runtime> Context<R> {
    /// The context of one core.
    #[must_use]
    pub fn new(
        rt: R,
        intake: Intake<R>,
        gate: Rc<dyn Gate>,
        metrics: metrics::Core,
        options: Options,
    ) -> Rc<Self> {
        Self::with_goal(rt, Goal::Queue(intake), gate, metrics, options)
    }

    /// The context of one core whose mail goes there.
    #[must_use]
    pub fn with_goal(
        rt: R,
        goal: Goal<R>,
        gate: Rc<dyn Gate>,
        metrics: metrics::Core,
        options: Options,
    ) -> Rc<Self> {
        let live = RefCell::new(Live { slots: Vec::new(), free: Vec::new() });
        Rc::new(Context {
            rt,
            goal,
            gate,
            metrics,
            options,
            pool: Pool::new(1024),
            date: RefCell::default(),
            held: Cell::new(0),
            stopping: Cell::new(false),
            refusing: Cell::new(0),
            attempts: OnceCell::new(),
            mail_log: OnceCell::new(),
            tracer: OnceCell::new(),
            policy: OnceCell::new(),
            post: OnceCell::new(),
            logins: OnceCell::new(),
            checker: OnceCell::new(),
            signers: OnceCell::new(),
            reports: OnceCell::new(),
            sealer: OnceCell::new(),
            aside: OnceCell::new(),
            live,
        })
    }

    /// Sessions may authenticate here. To be called once, before connections are accepted.
    pub fn set_logins(&self, logins: Rc<Logins<R>>) {
        assert!(self.logins.set(logins).is_ok(), "there is one desk for logins");
    }

    fn logins(&self) -> Option<&Rc<Logins<R>>> {
        self.logins.get()
    }

    /// Logins are let in by these rules; to be said once, before the first session.
    pub fn set_attempts(&self, attempts: Attempts) {
        // A second time is a bug that changes nothing.
        let _ = self.attempts.set(attempts);
    }

    /// What comes in, and what is refused, is recorded there; to be said once, before the first session.
    pub fn set_mail_log(&self, log: MailLog) {
        // A second time is a bug that changes nothing.
        let _ = self.mail_log.set(log);
    }

    /// Operators may watch sessions there; to be said once, before the first session.
    pub fn set_tracer(&self, tracer: Tracer) {
        // A second time is a bug that changes nothing.
        let _ = self.tracer.set(tracer);
    }

    /// Where operators watch sessions.
    pub fn tracer(&self) -> &Tracer {
        self.tracer.get_or_init(Tracer::default)
    }

    fn is_traced(&self) -> bool {
        self.tracer.get().is_some_and(Tracer::is_on)
    }

    /// Clients are held back by this; to be said once, before the first session.
    pub fn set_policy(&self, policy: Policy<R>) {
        // A second time is a bug that changes nothing.
        let _ = self.policy.set(policy);
    }

    /// Mail for mailboxes may go there without being queued; to be said once, before the first session.
    pub fn set_post(&self, post: Rc<dyn Post>) {
        // A second time is a bug that changes nothing.
        let _ = self.post.set(post);
    }

    /// Where listeners have rules about it, this says where mail comes from; to be said once, before the
    /// first session.
    pub fn set_checker(&self, checker: Rc<dyn Check>) {
        // A second time is a bug that changes nothing.
        let _ = self.checker.set(checker);
    }

    /// Mail of trusted and logged-in clients is signed with these keys; to be said once, before the first
    /// session.
    pub fn set_signers(&self, signers: Signers) {
        // A second time is a bug that changes nothing.
        let _ = self.signers.set(signers);
    }

    /// Signatures that take long are made there; to be said once, before the first session.
    pub fn set_aside(&self, threads: aside::Threads) {
        // A second time is a bug that changes nothing.
        let _ = self.aside.set(threads);
    }

    /// Reports that come to these addresses are read; to be said once, before the first session.
    pub fn set_reports(&self, reports: Reports) {
        // A second time is a bug that changes nothing.
        let _ = self.reports.set(reports);
    }

    /// Mail of strangers that is passed on is sealed with this key; to be said once, before the first
    /// session.
    pub fn set_sealer(&self, sealer: Signers) {
        // A second time is a bug that changes nothing.
        let _ = self.sealer.set(sealer);
    }

    /// The rules by which logins are let in; without, everybody may try at once.
    #[must_use]
    pub fn attempts(&self) -> Option<&Attempts> {
        self.attempts.get()
    }

    /// Sessions that are open.
    #[must_use]
    pub fn sessions(&self) -> usize {
        let live = self.live.borrow();
        live.slots.len() - live.free.len()
    }

    /// Ends idle sessions with 421 now, and the others after their transaction.
    pub fn stop(&self) {
        self.stopping.set(true);
        let now = self.rt.now();
        for handle in self.live.borrow().slots.iter().flatten() {
            if handle.idle.get() {
                handle.stream.set_deadline(Some(now));
            }
        }
    }

    /// After [`Self::stop`]: new sessions are taken again.
    pub fn resume(&self) {
        self.stopping.set(false);
    }

    /// Waits until all sessions have ended, at most until `until`; then cuts the rest off.
    pub async fn drained(&self, until: Mono) {
        while self.sessions() > 0 && self.rt.now() < until {
            let next = self.rt.now().after(Duration::from_millis(20));
            self.rt.sleep_until(next.min(until)).await;
        }
        for handle in self.live.borrow().slots.iter().flatten() {
            handle.stream.shutdown();
        }
    }

    fn enter(&self, stream: R::Stream, badge: Badge) -> (usize, Rc<Handle<R::Stream>>) {
        let handle = Rc::new(Handle { stream, idle: Cell::new(false), badge });
        let mut live = self.live.borrow_mut();
        let place = live.free.pop().unwrap_or_else(|| {
            live.slots.push(None);
            live.slots.len() - 1
        });
        live.slots[place] = Some(handle.clone());
        self.metrics.smtp_sessions.increment(1.0);
        (place, handle)
    }

    fn leave(&self, place: usize) {
        let mut live = self.live.borrow_mut();
        live.slots[place] = None;
        live.free.push(place);
        self.metrics.smtp_sessions.decrement(1.0);
    }
}

impl<R: Runtime> Roll for Context<R> {
    fn places(&self) -> usize {
        self.live.borrow().slots.len()
    }

    fn present(&self, place: usize) -> Option<Present> {
        let live = self.live.borrow();
        live.slots.get(place)?.as_ref().map(|h| h.badge.present(self.rt.now(), h.idle.get()))
    }

    /// One that waits for a command is told that it is over; the others are cut off: nothing is promised to
    /// them that they have not been told.
    fn expel(&self, place: usize, whom: &Whom) -> bool {
        let live = self.live.borrow();
        let Some(Some(handle)) = live.slots.get(place) else { return false };
        if handle.badge.is_expelled() || !handle.badge.is(whom) {
            return false;
        }
        handle.badge.expel();
        match handle.idle.get() {
            true => handle.stream.set_deadline(Some(self.rt.now())),
            false => handle.stream.shutdown(),
        }
        true
    }
}

/// How long the refusal of a connection may take to be sent and read.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// Refusals under way at once; beyond, connections are closed without a word.
const REFUSING_MAX: usize = 256;

/// Accepts connections until the listener is closed.
pub async fn accept<R: Runtime, L: Listener<Stream = R::Stream>>(
    ctx: Rc<Context<R>>,
    listener: Rc<L>,
    door: Rc<Door>,
) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok((stream, peer)) => (stream, arrive::canonical(peer)),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => return,
            // The connection has gone before it was taken, or the kernel is short of something.
            Err(_) => continue,
        };
        ctx.metrics.smtp_connections.increment(1);
        if ctx.stopping.get() {
            ctx.metrics.refused_stopping.increment(1);
            turn_away(&ctx, &door, stream, Reply::SHUTTING_DOWN);
            continue;
        }
        match ctx.gate.admit(&arrive::caller(&door, peer.ip()), ctx.rt.now()) {
            Ok(guest) => ctx.rt.spawn(serve(ctx.clone(), door.clone(), stream, peer, guest)),
            Err(refused) => {
                refused.counter(&ctx.metrics).increment(1);
                turn_away(&ctx, &door, stream, refused.reply());
            }
        }
    }
}

/// Refuses a connection. Costs little, however many come.
fn turn_away<R: Runtime>(ctx: &Rc<Context<R>>, door: &Door, stream: R::Stream, reply: Reply) {
    // Where TLS comes first no words can be understood.
    if door.is_implicit() || ctx.refusing.get() >= REFUSING_MAX {
        return;
    }
    ctx.refusing.set(ctx.refusing.get() + 1);
    let ctx2 = ctx.clone();
    ctx.rt.spawn(async move {
        let until = ctx2.rt.now().after(REFUSAL_TIME);
        session::last_words(&stream, reply.line().as_bytes().to_vec(), false, until).await;
        ctx2.refusing.set(ctx2.refusing.get() - 1);
    });
}

/// Serves one connection to its end.
async fn serve<R: Runtime>(
    ctx: Rc<Context<R>>,
    door: Rc<Door>,
    stream: R::Stream,
    peer: SocketAddr,
    guest: Guest,
) {
    let badge = Badge::new(ctx.rt.now(), door.service(), peer);
    let (place, handle) = ctx.enter(stream, badge);
    // On drop, so that a session that panics leaves, too.
    let _place = Place { ctx: ctx.clone(), place };
    if let Some(arrival) = arrive::arrive(&ctx, &handle, peer, guest, &door).await {
        session::run(&ctx, &door, &handle, arrival).await;
    }
}

struct Place<R: Runtime> {
    ctx: Rc<Context<R>>,
    place: usize,
}

impl<R: Runtime> Drop for Place<R> {
    fn drop(&mut self) {
        self.ctx.leave(self.place);
    }
}

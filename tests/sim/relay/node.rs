//! The relay as a process on a simulated machine: queue, notifications, sending and receiving, put
//! together as `server` does it, with tables that fit the simulated net.

use crate::machine::{Machine, SimRuntime};
use ringpost::base::ids::{LogNumber, MessageId};
use ringpost::base::time::Mono;
use ringpost::delivery::agent::{self, Resolve, Resolved};
use ringpost::delivery::bounce;
use ringpost::delivery::logs::{Logs, News, Setup};
use ringpost::intake::Intake;
use ringpost::metrics::{self, NoopRecorder};
use ringpost::queue::common::Commons;
use ringpost::queue::desk::open::{Parts, Recovery};
use ringpost::queue::desk::{self, Desk};
use ringpost::queue::pace::Backoff;
use ringpost::queue::routing::{Hop, Plan, Routing, Target};
use ringpost::queue::schedule::Limits;
use ringpost::queue::shares::Shares;
use ringpost::route::dns::Known;
use ringpost::route::mx::Fault;
use ringpost::runtime::Runtime;
use ringpost::runtime::TableOptions;
use ringpost::smtp::reply::Refusal;
use ringpost::smtp::serve::{self, Caller, Context, Gate, Guest, Refused, Sender};
use ringpost::storage;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Where its queues are.
pub const FOLDERS: &str = "/data/queue";
/// Where its queue is, if there is one.
pub const FOLDER: &str = "/data/queue/0000";
/// Where core 0 listens; the others behind it.
pub const PORT: u16 = 25;

/// Connections to each server at a time, of all cores together.
pub const CONNECTIONS: u32 = 3;

/// Limits of a server unless a history wants something else.
pub fn limits() -> Limits {
    Limits { connections: CONNECTIONS, messages_per_connection: 7, ..Limits::default() }
}

/// Domains and the servers that have them; everybody may relay.
pub struct Tables(Vec<(&'static str, Rc<Hop>)>);

impl Tables {
    /// Routes each domain to its server, which has `limits`.
    pub fn new(routes: &[(&'static str, SocketAddr)], limits: Limits) -> Rc<Self> {
        let hop = |to: SocketAddr| {
            Rc::new(Hop {
                key: to.to_string(),
                targets: vec![Target::Address(to)],
                source: (None, None),
                security: Default::default(),
                limits,
            })
        };
        Rc::new(Tables(routes.iter().map(|&(domain, to)| (domain, hop(to))).collect()))
    }
}

impl Gate for Tables {
    fn admit(&self, _caller: &Caller, _now: Mono) -> Result<Guest, Refused> {
        Ok(Guest { trusted: true, permit: Box::new(()) })
    }

    fn sender(&self, _who: Sender<'_>, _address: &[u8], _now: Mono) -> Result<(), Refusal<'static>> {
        Ok(())
    }

    fn recipient(&self, _who: Sender<'_>, _address: &[u8], _now: Mono) -> Result<(), Refusal<'static>> {
        Ok(())
    }
}

impl Routing for Tables {
    fn plan(&self, recipient: &[u8]) -> Plan {
        let found = self.0.iter().find(|(domain, _)| recipient.ends_with(domain.as_bytes()));
        found.map_or(Plan::NoRoute, |(_, hop)| Plan::Relay(hop.clone()))
    }

    /// Whatever an operator says leads to the same peers: the ledger expects each letter there.
    fn via(&self, _: &str, recipient: &[u8]) -> Option<Rc<Hop>> {
        match self.plan(recipient) {
            Plan::Relay(hop) => Some(hop),
            Plan::Local | Plan::NoRoute => None,
        }
    }

    fn expand(&self, _recipient: &[u8], _to: &mut dyn FnMut(&[u8])) -> bool {
        false
    }
}

/// All targets are addresses here.
struct NoNames;

impl Resolve for NoNames {
    fn resolve<'a>(&'a self, _host: &'a str) -> Pin<Box<dyn Future<Output = Resolved> + 'a>> {
        Box::pin(async { Err(io::ErrorKind::NotFound.into()) })
    }

    fn exchangers<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = Known> + 'a>> {
        Box::pin(async { Err(Fault::Temporary("no name server".into())) })
    }

    fn host<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = Known> + 'a>> {
        Box::pin(async { Err(Fault::Temporary("no name server".into())) })
    }

    fn tlsa<'a>(
        &'a self,
        _: &'a str,
        _: u16,
    ) -> ringpost::route::dns::Asked<'a, ringpost::route::tlsa::Record> {
        panic!("no destination here has DANE")
    }
}

/// How the relay works unless a history wants something else.
pub fn options() -> desk::Options {
    let mut options = desk::Options::new("mx.example", "postmaster@a.example");
    options.retry = Backoff { first: Duration::from_secs(5), max: Duration::from_secs(60) };
    options.bounce_lifetime = Duration::from_secs(5 * 86_400);
    options.recipients_max = 5;
    options.limits.places = 2;
    options.limits.names = 2;
    options.archive = storage::archive::Options::tiny();
    // As small as the disks here: what an index keeps for itself must leave room for mail.
    options.table =
        TableOptions { reserve_bytes: 256 << 10, grow_bytes: 64 << 10, cache_bytes: 64 << 10, packed: None };
    options
}

/// Opens the queue on the machine of `rt`; nothing is sent yet.
pub async fn open(
    rt: &SimRuntime,
    tables: Rc<Tables>,
    storage: storage::Options,
    options: desk::Options,
) -> Result<(Desk<SimRuntime>, Recovery), String> {
    let parts = Parts {
        rt: rt.clone(),
        storage,
        poison: storage::Poison::new(),
        log: LogNumber(0),
        after: MessageId(0),
        options,
        metrics: metrics::Core::new(&NoopRecorder, 0),
        routing: tables,
        shares: Rc::default(),
    };
    Desk::open(Path::new(FOLDER), parts).await.map_err(|e| e.to_string())
}

/// Which core of how many.
#[derive(Clone, Copy)]
pub struct Place {
    /// From 0.
    pub core: u16,
    /// All.
    pub cores: u16,
}

/// Starts a core of several, with the logs that it adopts; it listens behind [`PORT`]. `Err`: a queue
/// cannot be opened.
pub async fn start_core(
    machine: &Machine,
    rt: &SimRuntime,
    tables: Rc<Tables>,
    (storage, poison, commons): (storage::Options, storage::Poison, Arc<Commons>),
    options: desk::Options,
    place: Place,
    tell: impl Fn(&News<'_>) + 'static,
) -> Result<(Logs<SimRuntime>, Recovery), String> {
    let parts = Parts {
        rt: rt.clone(),
        storage,
        poison,
        log: LogNumber(place.core),
        after: MessageId(0),
        options,
        metrics: metrics::Core::new(&NoopRecorder, 0),
        routing: tables.clone(),
        shares: Rc::new(Shares::new(commons, place.core)),
    };
    let setup = Setup {
        folder: FOLDERS.into(),
        cores: place.cores,
        parts,
        series: Box::new(|_| metrics::Core::new(&NoopRecorder, 0)),
        rules: Vec::new(),
        resolver: Rc::new(NoNames),
        agent: agent::Options::new("mx.example"),
        tell: Box::new(tell),
    };
    let (logs, recovery) = Logs::open(setup).await.map_err(|(_, e)| e.to_string())?;
    listen(machine, rt, tables, logs.own(), PORT + place.core);
    logs.adopt();
    Ok((logs, recovery))
}

/// Lets it send, and listen.
pub fn serve(machine: &Machine, rt: &SimRuntime, tables: Rc<Tables>, desk: &Desk<SimRuntime>) {
    bounce::start(desk);
    agent::start(desk, Rc::new(NoNames), agent::Options::new("mx.example"));
    listen(machine, rt, tables, desk, PORT);
}

/// The same, with one listener for each door, behind [`PORT`].
pub fn serve_at(
    machine: &Machine,
    rt: &SimRuntime,
    tables: Rc<Tables>,
    desk: &Desk<SimRuntime>,
    doors: Vec<serve::Door>,
) {
    bounce::start(desk);
    agent::start(desk, Rc::new(NoNames), agent::Options::new("mx.example"));
    let mut sessions = options_of_sessions(rt);
    // What a filter puts off counts among a client's errors, too: who has a session long enough would be
    // sent away for it.
    Rc::make_mut(&mut sessions.trusted).errors_hard = u32::MAX;
    Rc::make_mut(&mut sessions.others).errors_hard = u32::MAX;
    let ctx = context(rt, tables, desk, sessions);
    for (door, port) in doors.into_iter().zip(PORT..) {
        let listener = Rc::new(machine.boot().listen(port));
        rt.spawn(serve::accept(ctx.clone(), listener, Rc::new(door)));
    }
}

fn listen(machine: &Machine, rt: &SimRuntime, tables: Rc<Tables>, desk: &Desk<SimRuntime>, port: u16) {
    let ctx = context(rt, tables, desk, options_of_sessions(rt));
    let listener = Rc::new(machine.boot().listen(port));
    rt.spawn(serve::accept(ctx, listener, Rc::default()));
}

fn options_of_sessions(rt: &SimRuntime) -> serve::Options {
    let mut sessions = serve::Options::new("mx.example");
    // Small, so that memory runs out; bodies go beside as they come in, or are kept until their end.
    sessions.side_bytes = if rt.world().below(2) == 0 { 8 << 10 } else { 1 << 20 };
    sessions.memory = if rt.world().below(2) == 0 { 64 << 10 } else { 1 << 20 };
    sessions
}

fn context(
    rt: &SimRuntime,
    tables: Rc<Tables>,
    desk: &Desk<SimRuntime>,
    sessions: serve::Options,
) -> Rc<Context<SimRuntime>> {
    Context::new(rt.clone(), Intake::new(desk.clone()), tables, desk.metrics().clone(), sessions)
}

//! One core of the relay on a simulated machine: queues, notifications, sending and receiving, put
//! together as `server` does it, with tables that fit the simulated net.

use crate::machine::{Machine, SimRuntime};
use ringpost::base::ids::{LogNumber, MessageId};
use ringpost::delivery::agent::{self, Resolve, Resolved};
use ringpost::delivery::logs::{Logs, News, Setup};
use ringpost::intake::Intake;
use ringpost::metrics::{self, NoopRecorder};
use ringpost::queue::desk;
use ringpost::queue::desk::open::{Parts, Recovery};
use ringpost::queue::pace::Backoff;
use ringpost::queue::routing::{Hop, Plan, Routing, Target};
use ringpost::queue::schedule::Limits;
use ringpost::runtime::Runtime;
use ringpost::smtp::reply::{Refusal, Reply};
use ringpost::smtp::serve::{self, Context, Gate, Guest};
use ringpost::storage;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// Where its queues are.
pub const FOLDER: &str = "/data/queue";
/// Where core 0 listens; the others behind it.
pub const PORT: u16 = 25;

/// Domains and the servers that have them; everybody may relay.
pub struct Tables(Vec<(&'static str, Rc<Hop>)>);

impl Tables {
    /// Routes each domain to its server.
    pub fn new(routes: &[(&'static str, SocketAddr)]) -> Rc<Self> {
        let hop = |to: SocketAddr| {
            Rc::new(Hop {
                key: to.to_string(),
                targets: vec![Target::Address(to)],
                source: (None, None),
                tls_required: false,
                limits: Limits { connections: 3, messages_per_connection: 7, ..Limits::default() },
            })
        };
        Rc::new(Tables(routes.iter().map(|&(domain, to)| (domain, hop(to))).collect()))
    }
}

impl Gate for Tables {
    fn admit(&self, _client: IpAddr) -> Result<Guest, Reply> {
        Ok(Guest { trusted: true, permit: Box::new(()) })
    }

    fn recipient(&self, _trusted: bool, _address: &[u8]) -> Result<(), Refusal<'static>> {
        Ok(())
    }
}

impl Routing for Tables {
    fn plan(&self, recipient: &[u8]) -> Plan {
        let found = self.0.iter().find(|(domain, _)| recipient.ends_with(domain.as_bytes()));
        found.map_or(Plan::NoRoute, |(_, hop)| Plan::Relay(hop.clone()))
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
}

/// Which core of how many.
#[derive(Clone, Copy)]
pub struct Place {
    /// From 0.
    pub core: u16,
    /// All.
    pub cores: u16,
}

/// Starts a core of the relay on `machine` and lets it listen. `Err`: a queue cannot be opened.
pub async fn start(
    machine: &Machine,
    rt: &SimRuntime,
    tables: Rc<Tables>,
    storage: (storage::Options, storage::Poison),
    place: Place,
    tell: impl Fn(&News<'_>) + 'static,
) -> Result<(Logs<SimRuntime>, Recovery), String> {
    let metrics = metrics::Core::new(&NoopRecorder, 0);
    let mut options = desk::Options::new("mx.example", "postmaster@a.example");
    options.retry = Backoff { first: Duration::from_secs(5), max: Duration::from_secs(60) };
    options.bounce_lifetime = Duration::from_secs(5 * 86_400);
    options.recipients_max = 5;
    let parts = Parts {
        rt: rt.clone(),
        storage: storage.0,
        poison: storage.1,
        log: LogNumber(place.core),
        after: MessageId(0),
        options,
        metrics: metrics.clone(),
        routing: tables.clone(),
        shares: Rc::default(),
    };
    let setup = Setup {
        folder: FOLDER.into(),
        cores: place.cores,
        parts,
        series: Box::new(|_| metrics::Core::new(&NoopRecorder, 0)),
        resolver: Rc::new(NoNames),
        agent: agent::Options::new("mx.example"),
        tell: Box::new(tell),
    };
    let (logs, recovery) = Logs::open(setup).await.map_err(|(_, e)| e.to_string())?;
    let mut sessions = serve::Options::new("mx.example");
    // Small, so that bodies go beside and memory runs out.
    (sessions.side_bytes, sessions.memory) = (8 << 10, 64 << 10);
    let ctx = Context::new(rt.clone(), Intake::new(logs.own().clone()), tables, metrics, sessions);
    let listener = Rc::new(machine.boot().listen(PORT + place.core));
    rt.spawn(serve::accept(ctx, listener));
    logs.adopt();
    Ok((logs, recovery))
}

//! Histories of mail for mailboxes here: a queue and two shards on a machine that is killed, loses power,
//! has a bad or a full disk and comes back. What was acknowledged is in its mailbox exactly once when the
//! faults have stopped and the queue is empty; what was not is there once at most; nothing else is.

use crate::disk::DiskFaults;
use crate::journal::swarm;
use crate::machine::{Machine, SimRuntime};
use crate::net::SimNet;
use crate::seeds::{self, History};
use crate::world::{Death, MS, SEC, World};
use ringpost::base::ids::{LogNumber, MessageId};
use ringpost::delivery::agent::{self, Resolve, Resolved};
use ringpost::delivery::direct::{self, Handed};
use ringpost::delivery::post::{Later, Outcomes, Parcel, Post, Resident};
use ringpost::delivery::shards::{Setup, Shards};
use ringpost::intake::{Body, Intake, Submission};
use ringpost::mailbox::api::{Mailboxes, Reader, Refusal, Selected};
use ringpost::mailbox::spread;
use ringpost::mailbox::store::Options;
use ringpost::mailbox::types::{DeliveryId, Quota};
use ringpost::message::body::BodyFacts;
use ringpost::message::envelope::{Envelope, Notify, SenderOptions};
use ringpost::metrics::{self, NoopRecorder};
use ringpost::queue::desk::open::Parts;
use ringpost::queue::desk::{self, Desk};
use ringpost::queue::pace::Backoff;
use ringpost::queue::routing::{Hop, Plan, Routing, Target};
use ringpost::queue::schedule::Limits;
use ringpost::route::dns::{Asked, Known};
use ringpost::route::mx::Fault;
use ringpost::route::tlsa::Record;
use ringpost::runtime::{Clock, Runtime, TableOptions};
use ringpost::storage::{self, Poison, archive};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

const DATA: &str = "/data";
const QUEUE: &str = "/data/queue/0000";
const SHARDS: u16 = 2;
const ACCOUNTS: [&str; 3] = ["ann", "dan", "eve"];

/// What is known outside of the machine: content and account.
#[derive(Default)]
struct Book {
    begun: BTreeSet<(u64, &'static str)>,
    acknowledged: BTreeSet<(u64, &'static str)>,
    last: u64,
}

type SharedBook = Rc<RefCell<Book>>;

fn body(n: u64) -> Vec<u8> {
    let mut out = format!("Subject: {n}\r\n\r\n").into_bytes();
    let lines = 1 + n * 37 % 40;
    (0..lines).for_each(|i| out.extend_from_slice(format!(".{n} {i}\r\n").as_bytes()));
    out
}

fn number(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let n: u64 = text.split("Subject: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    text.as_bytes().ends_with(&body(n)).then_some(n)
}

/// Both ends of the rings at once: it takes a while to get there and back.
struct Near {
    world: World,
    shards: Shards<SimRuntime>,
}

impl Post for Near {
    fn resident(&self, address: &[u8]) -> Option<Resident> {
        let account = std::str::from_utf8(address).ok()?.split('@').next()?;
        Some(Resident { account: account.into(), mailbox: "".into() })
    }

    fn shard(&self, account: &str) -> u16 {
        spread::shard_of(account, SHARDS)
    }

    fn willing<'a>(&'a self, account: &'a str, size: u64) -> Later<'a, Result<(), Refusal>> {
        Box::pin(self.shards.willing(self.shard(account), account, size))
    }

    fn deliver(&self, parcel: Parcel) -> Later<'_, Outcomes> {
        Box::pin(async move {
            self.world.pause(self.world.below(MS)).await;
            let shard = self.shard(&parcel.to[0].resident.account);
            let outcomes = self.shards.take(shard, parcel).await;
            self.world.pause(self.world.below(MS)).await;
            outcomes
        })
    }

    fn settled(&self, shard: u16, ids: Vec<DeliveryId>) {
        self.shards.settled(shard, &ids);
    }
}

/// Everybody lives here.
struct Tables(Vec<Rc<Hop>>);

impl Tables {
    fn new() -> Rc<Self> {
        let limits = Limits { connections: 1, slow_start: 0, put_off: 0, ..Limits::default() };
        let hop = |shard| {
            Rc::new(Hop {
                key: format!("mailbox:{shard:04}"),
                targets: vec![Target::Mailbox(shard)],
                source: (None, None),
                security: Default::default(),
                limits: Limits { messages_per_connection: 0, ..limits },
            })
        };
        Rc::new(Tables((0..SHARDS).map(hop).collect()))
    }
}

impl Routing for Tables {
    fn plan(&self, recipient: &[u8]) -> Plan {
        let account = std::str::from_utf8(recipient).expect("text").split('@').next().expect("a part");
        Plan::Relay(self.0[usize::from(spread::shard_of(account, SHARDS))].clone())
    }

    fn expand(&self, _recipient: &[u8], _to: &mut dyn FnMut(&[u8])) -> bool {
        false
    }
}

/// Nobody is sought.
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

    fn tlsa<'a>(&'a self, _: &'a str, _: u16) -> Asked<'a, Record> {
        panic!("no destination here has DANE")
    }
}

/// What runs on the machine.
#[derive(Clone)]
struct Process {
    world: World,
    rt: SimRuntime,
    desk: Desk<SimRuntime>,
    shards: Shards<SimRuntime>,
    /// The short way.
    post: Rc<dyn Post>,
    book: SharedBook,
}

impl Process {
    async fn start(rt: &SimRuntime, book: &SharedBook) -> Result<Self, String> {
        let storage = storage::Options { lock_wait: Duration::from_secs(60), ..storage::Options::tiny() };
        let archive = archive::Options { lock_wait: Duration::from_secs(60), ..archive::Options::tiny() };
        let poison = Poison::new();
        let table = TableOptions {
            reserve_bytes: 256 << 10,
            grow_bytes: 64 << 10,
            cache_bytes: 64 << 10,
            packed: None,
        };
        let options = Options { archive: archive.clone(), changes_max: 200, table, ..Options::default() };
        let setup = Setup {
            rt: rt.clone(),
            storage: storage.clone(),
            poison: poison.clone(),
            options,
            quota: Quota::default(),
        };
        let failed = Cell::new(None);
        let all: Vec<u16> = (0..SHARDS).collect();
        let shards = Shards::open(Path::new(DATA), &all, &setup, |_, found| match found {
            Err(e) => failed.set(Some(e.to_string())),
            Ok(found) if found.journal.damage_count > 0 || !found.malformed.is_empty() => {
                rt.world().violation(format!("a crash is taken for damage: {found:?}"));
            }
            Ok(_) => {}
        })
        .await;
        if let Some(text) = failed.take() {
            return Err(text);
        }
        let mut options = desk::Options::new("mx.example", "postmaster@example");
        options.retry = Backoff { first: Duration::from_secs(5), max: Duration::from_secs(60) };
        options.archive = archive;
        options.table = table;
        let parts = Parts {
            rt: rt.clone(),
            storage,
            poison,
            log: LogNumber(0),
            after: MessageId(0),
            options,
            metrics: metrics::Core::new(&NoopRecorder, 0),
            routing: Tables::new(),
            shares: Rc::default(),
        };
        let (desk, _) = Desk::open(Path::new(QUEUE), parts).await.map_err(|e| e.to_string())?;
        let near: Rc<dyn Post> = Rc::new(Near { world: rt.world().clone(), shards: shards.clone() });
        let agent = agent::Options { post: Some(near.clone()), ..agent::Options::new("mx.example") };
        agent::start(&desk, Rc::new(NoNames), agent);
        let (world, rt, book) = (rt.world().clone(), rt.clone(), book.clone());
        Ok(Process { world, rt, desk, shards, post: near, book })
    }

    async fn submit_for_ever(self) {
        loop {
            self.world.pause(self.world.below(2 * MS)).await;
            if !self.submit().await {
                return;
            }
        }
    }

    /// One message for some accounts; `false`: nothing is taken any more.
    async fn submit(&self) -> bool {
        let intake = Intake::new(self.desk.clone());
        let n = {
            let mut book = self.book.borrow_mut();
            book.last += 1;
            book.last
        };
        let to: Vec<&'static str> = ACCOUNTS.into_iter().filter(|_| self.world.below(2) == 0).collect();
        let Some(_) = to.first() else { return true };
        self.book.borrow_mut().begun.extend(to.iter().map(|a| (n, *a)));
        let mut envelope = Envelope::default();
        envelope.begin(b"sender@example", SenderOptions::default(), b"");
        to.iter().for_each(|a| envelope.push(format!("{a}@example").as_bytes(), Notify::NEVER, b""));
        let bytes = body(n);
        let facts = BodyFacts { len: bytes.len() as u64, has_dot_lines: true, ..BodyFacts::default() };
        let arrival = self.rt.wall();
        let id = intake.next_id(arrival);
        let slices: [&[u8]; 1] = [&bytes];
        let body = if self.world.below(5) == 0 {
            let Ok(mut side) = intake.create_side().await else { return !self.desk.is_closed() };
            if side.write(&bytes).await.is_err() {
                return !self.desk.is_closed();
            }
            match side.finish().await {
                Ok(file) => Body::Side(file),
                Err(_) => return !self.desk.is_closed(),
            }
        } else {
            Body::Slices(&slices)
        };
        let trace = b"Received: from somewhere\r\n";
        let of = |envelope| Submission { id, arrival, envelope, trace, body, facts };
        let mut rest = None;
        if self.world.below(2) == 0 && intake.shard_of_all(&envelope).is_some() {
            self.world.event("short way", n, 0);
            match direct::deliver(&*self.post, &of(&envelope)).await {
                Handed::All(_proof) => {
                    self.book.borrow_mut().acknowledged.extend(to.iter().map(|a| (n, *a)));
                    return !self.desk.is_closed();
                }
                Handed::Some(envelope) => rest = Some(envelope),
                Handed::None => {}
            }
        }
        match intake.submit(of(rest.as_ref().unwrap_or(&envelope))).await {
            Ok(_) => self.book.borrow_mut().acknowledged.extend(to.iter().map(|a| (n, *a))),
            Err(_) => self.world.pause(5 * MS).await,
        }
        !self.desk.is_closed()
    }

    /// What is in the mailboxes is what the book says.
    async fn check(&self) {
        let mut found: BTreeMap<(u64, &'static str), u32> = BTreeMap::new();
        for account in ACCOUNTS {
            for n in self.read(account).await {
                *found.entry((n, account)).or_default() += 1;
            }
        }
        let book = self.book.borrow();
        for key in book.acknowledged.iter().filter(|key| !found.contains_key(key)) {
            self.world.violation(format!("lost: {key:?}"));
        }
        for (key, count) in found {
            if count > 1 {
                self.world.violation(format!("twice: {key:?}"));
            }
            if !book.begun.contains(&key) {
                self.world.violation(format!("invented: {key:?}"));
            }
        }
    }

    async fn read(&self, account: &str) -> Vec<u64> {
        let store = self.shards.store(spread::shard_of(account, SHARDS)).expect("it has opened");
        let Some(id) = store.account(account).await else { return Vec::new() };
        let inbox = store.select(id, "INBOX").await.expect("INBOX is there");
        let mut all = Vec::new();
        for uid in (1..=inbox.exists()).filter_map(|seq| inbox.message(seq)).map(|m| m.uid) {
            let mut bytes = Vec::new();
            let mut reader = inbox.read(uid, 0..u64::MAX).await.expect("a message");
            while let Ok(Some(piece)) = reader.next().await {
                bytes.extend_from_slice(&piece);
            }
            match number(&bytes) {
                Some(n) => all.push(n),
                None => self.world.violation(format!("altered: message {uid} of {account}")),
            }
        }
        all
    }
}

struct Site {
    world: World,
    machine: Machine,
    book: SharedBook,
}

impl Site {
    async fn life(&self, lying: bool) {
        let world = &self.world;
        let mut faults = if world.below(3) == 0 { DiskFaults::default() } else { swarm(world) };
        if lying {
            faults = DiskFaults { lying, ..DiskFaults::default() };
        } else if world.chance(2_000) {
            faults.capacity = Some(4_000_000 + world.below(4_000_000));
        }
        self.machine.disk.set_faults(faults);
        let (rt, book) = (self.machine.boot(), self.book.clone());
        let task_rt = rt.clone();
        rt.spawn(async move {
            if let Ok(process) = Process::start(&task_rt, &book).await {
                (0..3).for_each(|_| task_rt.spawn(process.clone().submit_for_ever()));
            }
        });
        let long = [20 * MS, 150 * MS, 600 * MS];
        world.pause(world.below(long[world.below(3) as usize])).await;
        let how = if lying || world.chance(6_000) { Death::Power } else { Death::Process };
        self.machine.kill(how);
    }

    /// Without faults: the queue empties itself, and all that was promised is there.
    async fn last_life(&self) {
        self.machine.disk.set_faults(DiskFaults::default());
        let rt = self.machine.boot();
        let process = match Process::start(&rt, &self.book).await {
            Ok(process) => process,
            Err(e) => return self.world.violation(format!("lost: does not start: {e}")),
        };
        let before = self.book.borrow().acknowledged.len();
        while self.book.borrow().acknowledged.len() == before {
            process.submit().await;
        }
        for _ in 0..600 {
            self.world.pause(SEC).await;
            let stats = process.desk.stats();
            if stats.messages == 0 && !stats.loading {
                return process.check().await;
            }
        }
        self.world.violation(format!("the queue does not drain: {:?}", process.desk.stats()));
    }
}

fn history(world: &World, lying: bool) -> History {
    let site = Site {
        world: world.clone(),
        machine: Machine::new(world, &SimNet::new(world), 1),
        book: SharedBook::default(),
    };
    let w = world.clone();
    world.block_on(async move {
        for _ in 0..1 + w.below(5) {
            site.life(lying).await;
        }
        site.last_life().await;
    });
    History::of(world)
}

#[test]
fn local_histories() {
    seeds::run_some("local_histories", 60, |world| history(world, false));
}

/// The planted bug: a disk that says "durable" before it is.
#[test]
fn mailboxes_on_a_lying_disk_are_caught() {
    let found = seeds::caught(24, |world| history(world, true));
    let lost = found.values().flatten().filter(|v| v.starts_with("lost")).count();
    assert!(lost > 0, "no loss seen in 24 seeds: {found:?}");
}

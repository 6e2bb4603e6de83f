//! Cores that come and go over one folder of logs, in memory.

use super::*;
use crate::base::ids::QueueId;
use crate::delivery::agent::Resolved;
use crate::intake::{Body, Intake, IntakeError, Submission};
use crate::message::body::BodyFacts;
use crate::message::envelope::{Envelope, Notify, SenderOptions};
use crate::queue::control::{ControlError, Listed, Request, Response, Which};
use crate::queue::desk;
use crate::queue::desk::double::{Rig, Server};
use crate::queue::pace::Rate;
use crate::queue::routing::{Hop, Plan, Target};
use crate::queue::schedule::Limits;
use crate::route::dns::Known;
use crate::route::mx::Fault;
use crate::runtime::{Clock, Disk};
use crate::storage::Poison;
use crate::storage::double::World;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

const FOLDER: &str = "/data/queue";

/// Everything goes to one server.
struct Table(Rc<Hop>);

impl Routing for Table {
    fn plan(&self, _: &[u8]) -> Plan {
        Plan::Relay(self.0.clone())
    }

    fn expand(&self, _: &[u8], _: &mut dyn FnMut(&[u8])) -> bool {
        false
    }
}

struct NoNames;

impl Resolve for NoNames {
    fn resolve<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = Resolved> + 'a>> {
        Box::pin(async { Err(io::ErrorKind::NotFound.into()) })
    }

    fn exchangers<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = Known> + 'a>> {
        Box::pin(async { Err(Fault::Temporary("no name server".into())) })
    }

    fn host<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = Known> + 'a>> {
        Box::pin(async { Err(Fault::Temporary("no name server".into())) })
    }

    fn tlsa<'a>(&'a self, _: &'a str, _: u16) -> crate::route::dns::Asked<'a, crate::route::tlsa::Record> {
        panic!("no destination here has DANE")
    }
}

/// One process over a disk that stays.
struct Run {
    rig: Rig,
    server: Rc<Server>,
    said: Rc<RefCell<Vec<String>>>,
    limits: Limits,
}

fn address() -> SocketAddr {
    ([10, 0, 0, 1], 25).into()
}

impl Run {
    fn new(world: &Rc<World>, epoch: u64) -> Self {
        world.free.set(1 << 40);
        let rig = Rig::new(world, epoch);
        let server = Rc::new(Server::default());
        rig.servers.borrow_mut().insert(address(), server.clone());
        Run { rig, server, said: Rc::default(), limits: Limits { connections: 3, ..Limits::default() } }
    }

    async fn try_open(&self, own: u16, cores: u16) -> Result<Logs<Rig>, (PathBuf, OpenError)> {
        let hop = Hop {
            key: "next".into(),
            targets: vec![Target::Address(address())],
            source: (None, None),
            security: Default::default(),
            limits: self.limits,
        };
        let said = self.said.clone();
        let parts = Parts {
            rt: self.rig.clone(),
            storage: crate::storage::Options::tiny(),
            poison: Poison::new(),
            log: LogNumber(own),
            after: MessageId(0),
            options: desk::Options::new("mx.example", "postmaster@b.example"),
            metrics: metrics::Core::new(&metrics::NoopRecorder, 0),
            routing: Rc::new(Table(Rc::new(hop))),
            shares: Rc::default(),
        };
        let setup = Setup {
            folder: FOLDER.into(),
            cores,
            parts,
            series: Box::new(|_| metrics::Core::new(&metrics::NoopRecorder, 0)),
            rules: Vec::new(),
            resolver: Rc::new(NoNames),
            agent: agent::Options::new("mx.example"),
            tell: Box::new(move |news| {
                let text = match news {
                    News::Adopted(log, r) => format!("{:04} adopted: {}", log.0, r.messages),
                    News::Loaded(..) => return,
                    News::NotAdopted(log, e) => format!("{:04} not adopted: {e}", log.0),
                    News::Removed(log) => format!("{:04} removed", log.0),
                    News::Kept(log, why) => format!("{:04} kept: {why:?}", log.0),
                };
                said.borrow_mut().push(text);
            }),
        };
        Logs::open(setup).await.map(|opened| opened.0)
    }

    /// Core `own` of `cores`, with all that it adopts.
    async fn open(&self, own: u16, cores: u16) -> Logs<Rig> {
        let logs = self.try_open(own, cores).await.expect("opens");
        logs.adopt();
        logs
    }

    async fn sleep(&self, seconds: u64) {
        self.rig.sleep_until(self.rig.now().after(Duration::from_secs(seconds))).await;
    }

    fn said(&self) -> Vec<String> {
        std::mem::take(&mut self.said.borrow_mut())
    }

    async fn folders(&self) -> Vec<String> {
        self.rig.list_dirs(Path::new(FOLDER)).await.unwrap()
    }
}

/// Runs `main` as one process; the clock starts at `epoch` milliseconds.
fn run<T>(world: &Rc<World>, epoch: u64, main: impl AsyncFnOnce(&mut Run) -> T) -> T {
    let mut run = Run::new(world, epoch);
    let inner = run.rig.inner.clone();
    let out = inner.block_on(main(&mut run));
    run.rig.inner.clone().kill();
    out
}

async fn send(logs: &Logs<Rig>, to: &str) -> QueueId {
    send_text(logs, to, "Subject: test\r\n\r\nhello\r\n").await.expect("accepted")
}

async fn send_text(logs: &Logs<Rig>, to: &str, text: &str) -> Result<QueueId, IntakeError> {
    let intake = Intake::new(logs.own().clone());
    let wall = logs.own().runtime().wall();
    let id = intake.next_id(wall);
    let mut envelope = Envelope::default();
    envelope.begin(b"me@from.example", SenderOptions::default(), b"");
    envelope.push(to.as_bytes(), Notify::DEFAULT, b"");
    let slices = [text.as_bytes()];
    let facts = BodyFacts { len: text.len() as u64, ..BodyFacts::default() };
    let body = Body::Slices(&slices);
    let submission = Submission { id, arrival: wall, envelope: &envelope, trace: b"", body, facts };
    intake.submit(submission).await.map(|receipt| receipt.id)
}

async fn stop(logs: &Logs<Rig>, rig: &Rig) {
    logs.stop();
    logs.drained(rig.now().after(Duration::from_secs(10))).await;
    logs.close().await;
}

async fn listed(logs: &Logs<Rig>, limit: usize) -> Vec<Listed> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = logs.control(&Request::List { after, limit, in_doubt: false }).await;
        let Response::Page { messages, next } = page else { panic!("{page:?}") };
        all.extend(messages);
        after = next;
        if after.is_none() {
            return all;
        }
    }
}

fn receivers(server: &Server) -> Vec<String> {
    let mut to: Vec<String> = server.got.borrow().iter().flat_map(|m| m.to.clone()).collect();
    to.sort();
    to
}

/// Four cores take `each` messages while the next hop is down, and end one way or the other.
fn four_cores(world: &Rc<World>, epoch: u64, each: usize, orderly: bool) -> Vec<QueueId> {
    run(world, epoch, async |r| {
        r.server.up.set(false);
        let mut ids = Vec::new();
        let mut cores = Vec::new();
        for own in 0..4 {
            let logs = r.open(own, 4).await;
            for n in 0..each {
                ids.push(send(&logs, &format!("{own}.{n}@x.example")).await);
            }
            cores.push(logs);
        }
        if orderly {
            for logs in &cores {
                stop(logs, &r.rig).await;
            }
        }
        assert!(r.said().is_empty(), "nothing to adopt");
        ids
    })
}

#[test]
fn logs_of_cores_that_are_gone_are_driven_until_they_are_empty() {
    for orderly in [true, false] {
        let world = Rc::new(World::default());
        let ids = four_cores(&world, 1_000_000_000, 5, orderly);
        run(&world, 1_100_000_000, async |r| {
            r.server.up.set(false);
            let cores = [r.open(0, 2).await, r.open(1, 2).await];
            r.sleep(1).await;
            assert_eq!(r.said(), ["0002 adopted: 5", "0003 adopted: 5"]);
            // Every message is listed by the core that has it now, page by page and by its id.
            for (core, limit) in cores.iter().zip([3, 200]) {
                let list: Vec<String> = listed(core, limit).await.into_iter().map(|m| m.queue_id).collect();
                assert_eq!(list.len(), 10);
                assert!(list.iter().all(|id| ids.iter().any(|i| i.to_string() == *id)));
                let Response::Stats(stats) = core.control(&Request::Stats).await else { panic!() };
                assert_eq!(stats.iter().map(|s| s.messages).collect::<Vec<_>>(), [5, 5]);
            }
            let of_two = ids[10];
            assert_eq!(
                cores[1].control(&Request::Show(of_two)).await,
                Response::Error(ControlError::NotFound)
            );
            assert!(matches!(cores[0].control(&Request::Show(of_two)).await, Response::Page { .. }));
            let gone = Request::Delete { which: Which::One(of_two), note: String::new() };
            assert_eq!(cores[0].control(&gone).await, Response::Done(1));
            let all = Request::Hold { which: Which::All, note: String::new() };
            assert_eq!(cores[0].control(&all).await, Response::Done(9));
            let all = Request::Release { which: Which::All, note: String::new() };
            assert_eq!(cores[0].control(&all).await, Response::Done(9));
            // What comes now is in the own log.
            assert_eq!(send(&cores[1], "new@x.example").await.log, LogNumber(1));
            r.server.up.set(true);
            for core in &cores {
                core.control(&Request::Flush(Which::All)).await;
            }
            r.sleep(90).await;
            let mut said = r.said();
            said.sort();
            assert_eq!(said, ["0002 removed", "0003 removed"]);
            assert_eq!(r.folders().await, ["0000", "0001"]);
            assert_eq!(receivers(&r.server).len(), 20);
            assert!(r.server.most_open.get() <= 6, "3 for each core: {}", r.server.most_open.get());
            assert_eq!(
                cores[0].control(&Request::Show(ids[11])).await,
                Response::Error(ControlError::NotFound)
            );
            for core in &cores {
                stop(core, &r.rig).await;
            }
        });
        // The removed logs come again as if they were new, but with new ids, whatever the clock says.
        run(&world, 900_000_000, async |r| {
            let logs = r.open(2, 4).await;
            let id = send(&logs, "later@x.example").await;
            assert!(id.message > ids[14].message && id.log == LogNumber(2), "{id} {}", ids[14]);
        });
    }
}

/// The log grows back into the log of its own core before it is empty; nothing is sent twice.
#[test]
fn a_core_that_comes_back_has_its_log_again() {
    let world = Rc::new(World::default());
    four_cores(&world, 1_000_000_000, 3, true);
    run(&world, 1_100_000_000, async |r| {
        *r.server.rcpt.borrow_mut() =
            Box::new(|a| if a.starts_with("3.0") { "250 Ok" } else { "450 4.2.0 later" }.into());
        let _logs = r.open(0, 1).await;
        r.sleep(40).await;
        assert_eq!(r.said(), ["0001 adopted: 3", "0002 adopted: 3", "0003 adopted: 3"]);
        assert_eq!(receivers(&r.server), ["3.0@x.example"]);
        // Killed.
    });
    run(&world, 1_200_000_000, async |r| {
        let logs = r.open(3, 4).await;
        let list = listed(&logs, 200).await;
        let to: Vec<&str> = list.iter().map(|m| m.recipients[0].address.as_str()).collect();
        assert_eq!(to, ["3.1@x.example", "3.2@x.example"]);
        assert!(list[0].recipients[0].attempts > 0);
        r.sleep(600).await;
        assert_eq!(receivers(&r.server), ["3.1@x.example", "3.2@x.example"]);
        assert!(r.said().is_empty());
    });
}

/// Limits of a destination hold for all logs of a core together, and nobody starves.
#[test]
fn adopted_logs_share_the_connections_of_the_core() {
    let world = Rc::new(World::default());
    four_cores(&world, 1_000_000_000, 40, true);
    run(&world, 1_100_000_000, async |r| {
        r.limits = Limits { connections: 1, messages_per_connection: 0, ..Limits::default() };
        let logs = r.open(0, 1).await;
        // A connection of the own log would never end by itself: there is always something to send.
        let mut sent = 0;
        while r.folders().await.len() > 1 {
            send(&logs, &format!("new{sent}@x.example")).await;
            sent += 1;
            r.rig.sleep_until(r.rig.now().after(Duration::from_millis(100))).await;
            assert!(sent < 2_000, "the adopted logs starve: {:?}", r.said());
        }
        r.sleep(30).await;
        assert_eq!(r.server.most_open.get(), 1);
        assert_eq!(receivers(&r.server).len(), 160 + sent);
    });
}

/// The rate of a destination is that of all logs of a core together.
#[test]
fn adopted_logs_share_the_rate_of_the_core() {
    let world = Rc::new(World::default());
    four_cores(&world, 1_000_000_000, 20, true);
    run(&world, 1_100_000_000, async |r| {
        let rate = Rate { count: 1, per: Duration::from_secs(2) };
        r.limits = Limits { rate, ..Limits::default() };
        let logs = r.open(0, 1).await;
        for n in 0..50 {
            send(&logs, &format!("new{n}@x.example")).await;
        }
        r.sleep(40).await;
        let got = receivers(&r.server);
        assert!(got.len() <= 21 && got.len() >= 15, "{}", got.len());
        // Each log has had its turns.
        // The own one sends what had not been tried before the new.
        for log in [["1.", "1."], ["2.", "2."], ["3.", "3."], ["0.", "new"]] {
            let of_log = |to: &&String| log.iter().any(|name| to.starts_with(name));
            assert!(got.iter().filter(of_log).count() >= 2, "{log:?}: {got:?}");
        }
    });
}

/// What is parked in the archive of an adopted log is sent, too; then archive and index go with it.
#[test]
fn parked_mail_of_an_adopted_log_is_sent_before_it_is_removed() {
    // More than the journal's window holds.
    const MANY: usize = 300;
    let world = Rc::new(World::default());
    run(&world, 1_000_000_000, async |r| {
        r.server.up.set(false);
        let logs = r.open(1, 2).await;
        let text = "x".repeat(6000);
        for n in 0..MANY {
            while let Err(e) = send_text(&logs, &format!("{n:03}@x.example"), &text).await {
                assert!(matches!(e, IntakeError::Busy | IntakeError::Full), "{e}");
                r.sleep(1).await;
            }
        }
        r.sleep(5).await;
        assert!(logs.own().stats().parked > MANY / 2, "{:?}", logs.own().stats());
        stop(&logs, &r.rig).await;
    });
    let is_there = |name: &str| {
        let (files, tables) = (world.files.borrow(), world.tables.borrow());
        files.keys().chain(tables.keys()).any(|p| p.starts_with(Path::new(FOLDER).join(name)))
    };
    assert!(is_there("0001/archive") && is_there("0001/index"));
    run(&world, 1_100_000_000, async |r| {
        r.server.up.set(false);
        let logs = r.open(0, 1).await;
        r.sleep(100).await;
        assert_eq!(r.said().len(), 1, "adopted, and not removed while its mail is parked");
        assert_eq!(listed(&logs, 200).await.len(), MANY);
        r.server.up.set(true);
        logs.control(&Request::Flush(Which::All)).await;
        let mut waited = 0;
        while r.folders().await.len() > 1 {
            r.sleep(10).await;
            waited += 1;
            assert!(waited < 1_000, "not removed: {:?} {:?}", r.said(), logs.control(&Request::Stats).await);
        }
        let expected: Vec<String> = (0..MANY).map(|n| format!("{n:03}@x.example")).collect();
        assert_eq!(receivers(&r.server), expected);
        assert_eq!(r.said(), ["0001 removed"]);
        stop(&logs, &r.rig).await;
    });
    assert!(!is_there("0001") && !is_there("0001.removed"));
}

/// A notification stays in the log of the message that it is about.
#[test]
fn an_adopted_log_makes_its_own_notifications() {
    let world = Rc::new(World::default());
    four_cores(&world, 1_000_000_000, 1, true);
    run(&world, 1_100_000_000, async |r| {
        *r.server.rcpt.borrow_mut() =
            Box::new(|a| if a.starts_with("me@") { "450 4.2.0 later" } else { "550 5.1.1 no" }.into());
        let logs = r.open(1, 2).await;
        r.sleep(40).await;
        let list = listed(&logs, 200).await;
        let of: Vec<_> = list.iter().map(|m| m.queue_id.parse::<QueueId>().unwrap().log.0).collect();
        assert_eq!(of, [1, 3], "one notification in each log");
        *r.server.rcpt.borrow_mut() = Box::new(|_| "250 Ok".into());
        logs.control(&Request::Flush(Which::All)).await;
        r.sleep(90).await;
        assert_eq!(r.said(), ["0003 adopted: 1", "0003 removed"]);
        assert_eq!(receivers(&r.server), ["me@from.example", "me@from.example"]);
    });
}

#[test]
fn what_is_wrong_with_a_log_stops_the_start_or_keeps_the_log() {
    let world = Rc::new(World::default());
    four_cores(&world, 1_000_000_000, 1, true);
    let head = |log: u16| {
        let files = world.files.borrow();
        let dir = directory(Path::new(FOLDER), LogNumber(log));
        files.iter().find(|f| f.0.parent() == Some(&dir)).expect("a segment").1.clone()
    };
    // A later version, in both copies of the head, with the check sum that fits.
    let node = head(2);
    let before = node.data.borrow().clone();
    for copy in [0, 4096] {
        let mut data = node.data.borrow_mut();
        data[copy + 12] = 9;
        let crc = crate::base::crc::crc32c(crate::base::crc::PLAIN, &[&data[copy + 12..copy + 4096]]);
        data[copy + 8..copy + 12].copy_from_slice(&crc.to_le_bytes());
    }
    run(&world, 1_100_000_000, async |r| {
        let (dir, e) = r.try_open(0, 2).await.err().expect("refused");
        assert_eq!(dir, Path::new("/data/queue/0002"));
        assert!(matches!(e, OpenError::Later(_)), "{e}");
    });
    *node.data.borrow_mut() = before;
    // In use by somebody.
    node.lock.set(u64::MAX);
    run(&world, 1_100_000_000, async |r| {
        let (_, e) = r.try_open(0, 2).await.err().expect("refused");
        assert!(matches!(e, OpenError::Locked(_)), "{e}");
    });
    node.lock.set(0);
    // One more file that nobody can read: the mail goes out, the log stays, also the next time.
    let odd = Rc::new(crate::storage::double::Node::default());
    odd.data.borrow_mut().resize(64 << 10, 7);
    world.files.borrow_mut().insert("/data/queue/0002/00000099.segment".into(), odd);
    world.files.borrow_mut().insert("/data/queue/0003/notes".into(), Rc::default());
    for life in 0..2 {
        run(&world, 1_200_000_000, async |r| {
            let logs = [r.open(0, 2).await, r.open(1, 2).await];
            r.sleep(120).await;
            let mut said = r.said();
            said.sort();
            let count = 1 - life;
            let expected = [
                format!("0002 adopted: {count}"),
                "0002 kept: Damaged".into(),
                format!("0003 adopted: {count}"),
                "0003 kept: Holds(\"/data/queue/0003/notes\")".into(),
            ];
            assert_eq!(said, expected);
            assert_eq!(logs[0].desks().len(), 1, "closed all the same");
            assert_eq!(r.folders().await, ["0000", "0001", "0002", "0003"]);
        });
        // What the damage was is not told again by the log; the mark in its folder stays.
        world.files.borrow_mut().remove(Path::new("/data/queue/0002/00000099.segment"));
    }
}

/// Wherever a removal is interrupted, the next start finishes it.
#[test]
fn an_interrupted_removal_is_finished() {
    let world = Rc::new(World::default());
    four_cores(&world, 1_000_000_000, 0, true);
    let files = |name: &str| {
        let files = world.files.borrow();
        files.keys().filter(|p| p.starts_with(Path::new(FOLDER).join(name))).count()
    };
    // It stops after so many steps: at first with all files, at last with none.
    let (mut steps, mut most) = (0, 0);
    while files("0003") > 0 {
        world.log.borrow_mut().clear();
        run(&world, 1_100_000_000, async |r| {
            let logs = r.open(1, 2).await;
            for _ in 0..5_000 {
                r.rig.sleep_until(r.rig.now().after(Duration::from_millis(1))).await;
                let removing = |l: &&String| l.contains("/0003");
                if world.log.borrow().iter().filter(removing).count() > steps {
                    return;
                }
            }
            drop(logs);
        });
        most = most.max(files("0003.removed"));
        steps += 1;
        assert!(steps < 50, "never removed");
    }
    let (whole, half) = (files("0003"), files("0003.removed"));
    assert!(most >= half && whole == 0, "the new name is given at once");
    run(&world, 1_200_000_000, async |r| {
        let _logs = r.open(1, 2).await;
        r.sleep(60).await;
        assert_eq!(r.folders().await, ["0000", "0001", "0002"]);
        assert!(r.said().iter().all(|s| s == "0003 removed"));
    });
}

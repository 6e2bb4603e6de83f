//! A whole queue in memory: intake, journal, schedule, connections, scripted next hops.

use super::double::{Mail, Rig, Server};
use super::open::{Parts, Recovery};
mod absent;
mod archived;
mod backlog;
mod clock;
mod crash;
mod held;
mod joining;
mod narrow;
mod rerouted;
mod returned;
mod told;
mod touring;
mod verbs;
mod why;

use super::{Desk, DoubleBounce, Options};
use crate::base::ids::{LogNumber, MessageId, QueueId};
use crate::queue::control::{Request, Response, Which};
use crate::queue::routing::{Hop, Plan, Routing, Target};
use crate::queue::schedule::Limits;

use crate::delivery::{agent, bounce};
use crate::intake::{Accepted, Body, Intake, IntakeError, Submission};
use crate::message::body::BodyFacts;
use crate::message::envelope::{Envelope, Notify, SenderOptions};
use crate::metrics;
use crate::route::dns::Known;
use crate::route::mx::Fault;
use crate::runtime::Clock;
use crate::storage::double::World;
use crate::storage::{self, Poison};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// `x.example` goes to the server of that name; `nowhere.example` nowhere.
struct Table(BTreeMap<&'static str, Rc<Hop>>);

impl Routing for Table {
    fn plan(&self, recipient: &[u8]) -> Plan {
        let address = String::from_utf8_lossy(recipient);
        let domain = address.rsplit('@').next().unwrap_or("").to_owned();
        match self.0.get(domain.as_str()) {
            Some(hop) => Plan::Relay(hop.clone()),
            None if domain == "here.example" => Plan::Local,
            None => Plan::NoRoute,
        }
    }

    fn via(&self, via: &str, _: &[u8]) -> Option<Rc<Hop>> {
        self.0.get(via).cloned()
    }

    fn expand(&self, recipient: &[u8], to: &mut dyn FnMut(&[u8])) -> bool {
        match recipient {
            b"list@a.example" => [&b"one@a.example"[..], b"two@b.example"].iter().for_each(|a| to(a)),
            b"nobody@a.example" => {}
            _ => return false,
        }
        true
    }
}

struct NoNames;

impl agent::Resolve for NoNames {
    fn resolve<'a>(&'a self, _: &'a str) -> Pin<Box<dyn Future<Output = agent::Resolved> + 'a>> {
        Box::pin(async { Ok(vec![IpAddr::from([10, 0, 0, 1])]) })
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

/// One run of a process over a disk that stays.
struct Run {
    rig: Rig,
    a: Rc<Server>,
    b: Rc<Server>,
    options: Options,
    storage: storage::Options,
}

fn address(n: u8) -> SocketAddr {
    ([10, 0, 0, n], 25).into()
}

impl Run {
    fn new(world: &Rc<World>, epoch: u64) -> Self {
        world.free.set(1 << 40);
        let rig = Rig::new(world, epoch);
        let (a, b) = (Rc::new(Server::default()), Rc::new(Server::default()));
        rig.servers.borrow_mut().insert(address(1), a.clone());
        rig.servers.borrow_mut().insert(address(2), b.clone());
        let options = Options::new("mx.example", "postmaster@b.example");
        Run { rig, a, b, options, storage: storage::Options::tiny() }
    }

    fn table(&self) -> Rc<dyn Routing> {
        let hop = |n: u8, name: &str| {
            let target = match n {
                1 => Target::Host("one".into(), 25),
                _ => Target::Address(address(n)),
            };
            let targets = vec![target];
            let limits = Limits { connections: 3, ..Limits::default() };
            Rc::new(Hop {
                key: name.into(),
                targets,
                source: (None, None),
                security: Default::default(),
                limits,
            })
        };
        let list = [("a.example", hop(1, "a")), ("b.example", hop(2, "b")), ("from.example", hop(2, "b"))];
        Rc::new(Table(list.into_iter().collect()))
    }

    async fn open(&self) -> (Desk<Rig>, Recovery) {
        let parts = Parts {
            rt: self.rig.clone(),
            storage: self.storage.clone(),
            poison: Poison::new(),
            log: LogNumber(3),
            after: MessageId(0),
            options: self.options.clone(),
            metrics: metrics::Core::new(&::metrics::NoopRecorder, 0),
            routing: self.table(),
            shares: Rc::default(),
        };
        let (desk, recovery) = Desk::open(Path::new("/q"), parts).await.expect("opens");
        agent::start(&desk, Rc::new(NoNames), agent::Options::new("mx.example"));
        bounce::start(&desk);
        (desk, recovery)
    }

    async fn sleep(&self, d: Duration) {
        self.rig.sleep_until(self.rig.now().after(d)).await;
    }

    /// Runs until the queue is empty or `d` has passed.
    async fn empty(&self, desk: &Desk<Rig>, d: Duration) -> bool {
        let until = self.rig.now().after(d);
        while desk.stats().messages > 0 {
            if self.rig.now() >= until {
                return false;
            }
            self.sleep(Duration::from_millis(100)).await;
        }
        true
    }
}

fn envelope(from: &str, to: &[(&str, Notify)]) -> Envelope {
    let mut e = Envelope::default();
    e.begin(from.as_bytes(), SenderOptions::default(), b"");
    to.iter().for_each(|(a, n)| e.push(a.as_bytes(), *n, b""));
    e
}

async fn send_as(desk: &Desk<Rig>, e: &Envelope, body: &str) -> Result<Accepted, IntakeError> {
    let intake = Intake::new(desk.clone());
    let wall = desk.runtime().wall();
    let id = intake.next_id(wall);
    let facts = BodyFacts { len: body.len() as u64, ..BodyFacts::default() };
    let trace = format!("Received: by mx.example id {id}\r\n");
    let slices = [body.as_bytes()];
    let body = Body::Slices(&slices);
    intake.submit(Submission { id, arrival: wall, envelope: e, trace: trace.as_bytes(), body, facts }).await
}

async fn send(desk: &Desk<Rig>, to: &[&str]) -> QueueId {
    let to: Vec<_> = to.iter().map(|t| (*t, Notify::DEFAULT)).collect();
    let e = envelope("me@from.example", &to);
    send_as(desk, &e, "Subject: test\r\n\r\nhello\r\n").await.expect("accepted").id
}

fn run<T>(world: &Rc<World>, set: impl FnOnce(&mut Run), main: impl AsyncFnOnce(&Run) -> T) -> T {
    let mut run = Run::new(world, 1_000_000_000);
    set(&mut run);
    let out = run.rig.inner.block_on(main(&run));
    run.rig.inner.clone().kill();
    out
}

fn page(r: Response) -> Vec<crate::queue::control::Listed> {
    let Response::Page { messages, .. } = r else { panic!("{r:?}") };
    messages
}

async fn list(desk: &Desk<Rig>, in_doubt: bool) -> Vec<crate::queue::control::Listed> {
    page(desk.control(&Request::List { after: None, limit: 100, in_doubt }).await)
}

fn texts(server: &Server) -> Vec<Mail> {
    server.got.borrow().clone()
}

#[test]
fn accepted_delivered_and_nothing_left() {
    let world = Rc::new(World::default());
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            for _ in 0..50 {
                send(&desk, &["x@a.example"]).await;
            }
            send(&desk, &["list@a.example", "z@b.example"]).await;
            assert!(r.empty(&desk, 60 * SECOND).await);
            let got = texts(&r.a);
            assert_eq!(got.len(), 51);
            assert!(
                got[0].data.starts_with("Received: by mx.example id ") && got[0].data.ends_with("hello\n")
            );
            assert_eq!(got[50].to, ["one@a.example"]);
            assert_eq!(texts(&r.b)[0].to, ["two@b.example", "z@b.example"]);
            assert!(r.a.connects.get() <= 3, "connections are reused: {}", r.a.connects.get());
            r.sleep(2 * SECOND).await;
            let stats = desk.stats();
            assert_eq!((stats.journal_live_bytes, stats.bytes, stats.active), (0, 0, 0));
            let e = envelope("me@from.example", &[("nobody@a.example", Notify::DEFAULT)]);
            assert_eq!(send_as(&desk, &e, "x").await.unwrap_err(), IntakeError::NoRecipients);
        },
    );
}

#[test]
fn deferred_messages_are_tried_again_later_and_later() {
    let world = Rc::new(World::default());
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            *r.a.rcpt.borrow_mut() = Box::new(|_| "451 4.7.1 Greylisted".into());
            let id = send(&desk, &["x@a.example"]).await;
            r.sleep(2 * SECOND).await;
            let listed = &page(desk.control(&Request::Show(id)).await)[0];
            assert_eq!((listed.queue_name, listed.sender.as_str()), ("deferred", "me@from.example"));
            let to = &listed.recipients[0];
            assert_eq!(to.delay_reason.as_deref(), Some("451 4.7.1 Greylisted"));
            let due = to.due_in_ms.unwrap();
            assert!((230_000..=360_000).contains(&due), "{due}");
            r.sleep(Duration::from_millis(due) - 2 * SECOND).await;
            assert_eq!(page(desk.control(&Request::Show(id)).await)[0].recipients[0].attempts, 1);
            r.sleep(4 * SECOND).await;
            let listed = &page(desk.control(&Request::Show(id)).await)[0].recipients[0];
            assert_eq!(listed.attempts, 2);
            assert!(listed.due_in_ms.unwrap() > 470_000);
            *r.a.rcpt.borrow_mut() = Box::new(|_| "250 Ok".into());
            assert_eq!(desk.control(&Request::Flush(Which::One(id))).await, Response::Done(1));
            assert!(r.empty(&desk, 5 * SECOND).await);
            assert_eq!(texts(&r.a).len(), 1);
        },
    );
}

#[test]
fn a_refusal_becomes_one_notification_whose_own_failure_goes_to_the_postmaster() {
    let world = Rc::new(World::default());
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            *r.a.rcpt.borrow_mut() = Box::new(|_| "550 5.1.1 No such user".into());
            send(&desk, &["x@a.example", "y@nowhere.example", "z@here.example"]).await;
            assert!(r.empty(&desk, 60 * SECOND).await);
            let got = texts(&r.b);
            assert!(got.iter().all(|m| m.from.is_empty() && m.to == ["me@from.example"]));
            let all: String = got.iter().map(|m| m.data.as_str()).collect();
            assert!(
                all.contains("550 5.1.1 No such user")
                    && all.contains("Final-Recipient: rfc822; x@a.example")
            );
            assert!(
                all.contains("Status: 5.4.4")
                    && all.contains("Status: 5.1.1")
                    && all.contains("Subject: test")
            );
            // The null sender gets none; the postmaster does, once.
            r.b.got.borrow_mut().clear();
            let null = envelope("", &[("x@a.example", Notify::DEFAULT)]);
            send_as(&desk, &null, "Subject: n\r\n\r\nx\r\n").await.unwrap();
            assert!(r.empty(&desk, 60 * SECOND).await);
            assert_eq!(
                texts(&r.b).iter().map(|m| m.to[0].as_str()).collect::<Vec<_>>(),
                ["postmaster@b.example"]
            );
            *r.b.rcpt.borrow_mut() = Box::new(|_| "550 5.1.1 No such user".into());
            send_as(&desk, &null, "Subject: n\r\n\r\nx\r\n").await.unwrap();
            assert!(r.empty(&desk, 60 * SECOND).await, "a notification about a notification ends there");
        },
    );
}

#[test]
fn notify_is_honoured() {
    let world = Rc::new(World::default());
    let drop_double = |r: &mut Run| r.options.double_bounce = DoubleBounce::Drop;
    run(&world, drop_double, async |r| {
        let (desk, _) = r.open().await;
        let refuse = |a: &str| if a.starts_with("bad") { "550 no".into() } else { "250 Ok".into() };
        *r.a.rcpt.borrow_mut() = Box::new(refuse);
        let to = [
            ("bad1@a.example", Notify::NEVER),
            ("bad2@a.example", Notify::SUCCESS),
            ("bad3@a.example", Notify::FAILURE),
            ("good@a.example", Notify::SUCCESS),
        ];
        send_as(&desk, &envelope("me@from.example", &to), "a: b\r\n\r\nx\r\n").await.unwrap();
        assert!(r.empty(&desk, 60 * SECOND).await);
        let got = texts(&r.b);
        let about = |who: &str| got.iter().filter(|m| m.data.contains(&format!("; {who}@a.example"))).count();
        assert_eq!([about("bad1"), about("bad2"), about("bad3"), about("good")], [0, 0, 1, 1]);
        assert!(got.iter().any(|m| m.data.contains("Action: relayed")));
        // A next hop that reports itself is left to do so.
        r.b.got.borrow_mut().clear();
        r.a.dsn.set(true);
        r.sleep(120 * SECOND).await;
        let to = [("good@a.example", Notify::SUCCESS)];
        send_as(&desk, &envelope("me@from.example", &to), "a: b\r\n\r\nx\r\n").await.unwrap();
        assert!(r.empty(&desk, 60 * SECOND).await);
        assert!(texts(&r.b).is_empty());
    });
}

#[test]
fn a_dead_destination_pauses_alone_and_its_mail_expires() {
    let world = Rc::new(World::default());
    let short = |r: &mut Run| r.options.lifetime = 3 * HOUR;
    run(&world, short, async |r| {
        let (desk, _) = r.open().await;
        r.a.up.set(false);
        let id = send(&desk, &["x@a.example"]).await;
        send(&desk, &["y@b.example"]).await;
        r.sleep(5 * SECOND).await;
        assert_eq!(texts(&r.b).len(), 1, "the other is not held up");
        let listed = &page(desk.control(&Request::Show(id)).await)[0];
        assert!(listed.recipients[0].delay_reason.as_ref().unwrap().contains("cannot connect to a"));
        let stats = desk.stats();
        assert!(stats.destinations[0].paused_ms.is_some() && listed.recipients[0].attempts == 0);
        assert!(r.empty(&desk, 5 * HOUR).await);
        let bounce = &texts(&r.b)[1];
        assert!(bounce.data.contains("Status: 5.4.7") && bounce.data.contains("cannot connect"));
    });
}

#[test]
fn a_connection_that_always_dies_neither_loops_nor_loses() {
    let world = Rc::new(World::default());
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            r.a.dies_at_data.set(true);
            send(&desk, &["x@a.example"]).await;
            r.sleep(HOUR).await;
            assert!(r.a.connects.get() < 15, "{} connections in an hour", r.a.connects.get());
            r.a.dies_at_data.set(false);
            assert!(r.empty(&desk, 2 * HOUR).await);
            assert_eq!(texts(&r.a).len(), 1);
        },
    );
}

#[test]
fn held_released_deleted_and_read() {
    let world = Rc::new(World::default());
    let (held, gone) = run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            r.a.up.set(false);
            let held = send(&desk, &["x@a.example"]).await;
            let gone = send(&desk, &["y@a.example"]).await;
            let hold = Request::Hold { which: Which::One(held), note: "ann: look".into() };
            assert_eq!(desk.control(&hold).await, Response::Done(1));
            assert_eq!(desk.control(&hold).await, Response::Done(0));
            let delete = Request::Delete { which: Which::One(gone), note: "ann: spam".into() };
            assert_eq!(desk.control(&delete).await, Response::Done(1));
            assert!(matches!(desk.control(&delete).await, Response::Error(_)));
            r.a.up.set(true);
            assert_eq!(desk.control(&Request::Flush(Which::All)).await, Response::Done(0));
            r.sleep(HOUR).await;
            assert!(texts(&r.a).is_empty());
            (held, gone)
        },
    );
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, recovery) = r.open().await;
            assert_eq!(recovery.messages, 1);
            r.sleep(HOUR).await;
            let all = list(&desk, false).await;
            assert_eq!(
                (all.len(), all[0].queue_name, all[0].queue_id.clone()),
                (1, "hold", held.to_string())
            );
            let json = serde_json::to_value(&all[0]).unwrap();
            assert_eq!(json["recipients"][0]["address"], "x@a.example");
            let Response::Piece { bytes, size } = desk.control(&Request::Cat { id: held, offset: 0 }).await
            else {
                panic!("no piece")
            };
            assert_eq!(bytes.len() as u64, size);
            assert!(String::from_utf8(bytes).unwrap().ends_with("\r\n\r\nhello\r\n"));
            assert!(matches!(desk.control(&Request::Show(gone)).await, Response::Error(_)));
            let release = Request::Release { which: Which::All, note: String::new() };
            assert_eq!(desk.control(&release).await, Response::Done(1));
            assert!(r.empty(&desk, 60 * SECOND).await);
            assert_eq!(texts(&r.a).len(), 1);
        },
    );
}

#[test]
fn a_clean_stop_leaves_nothing_in_doubt_a_crash_does() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            send(&desk, &["x@a.example"]).await;
            r.sleep(SECOND).await;
            desk.stop();
            assert!(desk.drained(r.rig.now().after(30 * SECOND)).await);
            desk.close().await;
            let e = envelope("me@from.example", &[("x@a.example", Notify::DEFAULT)]);
            assert_eq!(send_as(&desk, &e, "late").await.unwrap_err(), IntakeError::Closed);
        },
    );
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, recovery) = r.open().await;
            assert_eq!((recovery.messages, recovery.in_doubt), (1, 0));
            send(&desk, &["y@a.example"]).await;
        },
    );
    run(
        &world,
        |r| *r.a.dot.borrow_mut() = String::new(),
        async |r| {
            let (desk, recovery) = r.open().await;
            assert_eq!((recovery.messages, recovery.in_doubt), (2, 1));
            assert_eq!(list(&desk, true).await.len(), 1);
            // Taken by the server, no answer: tried again, and said so before.
            // The broken connection makes the destination pause before the other one is sent.
            r.sleep(100 * SECOND).await;
            assert_eq!(texts(&r.a).len(), 2);
        },
    );
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, recovery) = r.open().await;
            assert_eq!((recovery.messages, recovery.malformed.len()), (2, 0));
            assert!(r.empty(&desk, 2 * HOUR).await);
        },
    );
}

#[test]
fn whoever_does_not_wait_takes_the_message_back() {
    let world = Rc::new(World::default());
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            let intake = Intake::new(desk.clone());
            let e = envelope("me@from.example", &[("x@a.example", Notify::DEFAULT)]);
            let wall = r.rig.wall();
            let id = intake.next_id(wall);
            let facts = BodyFacts { len: 3, ..BodyFacts::default() };
            let m = Submission {
                id,
                arrival: wall,
                envelope: &e,
                trace: b"",
                body: Body::Slices(&[b"x\r\n"]),
                facts,
            };
            drop(intake.stage(&m).expect("staged"));
            assert_eq!(desk.stats().messages, 1);
            r.sleep(5 * SECOND).await;
            assert_eq!((desk.stats().messages, texts(&r.a).len()), (0, 0));
            r.sleep(SECOND).await;
            assert_eq!(desk.stats().journal_live_bytes, 0);
        },
    );
    run(&world, |_| {}, async |r| assert_eq!(r.open().await.1.messages, 0));
}

#[test]
fn a_write_error_ends_everything_and_acknowledges_nothing() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.a.up.set(false),
        async |r| {
            let (desk, _) = r.open().await;
            send(&desk, &["x@a.example"]).await;
            world.fail_writes.set(Some(std::io::ErrorKind::Other));
            let e = envelope("me@from.example", &[("y@a.example", Notify::DEFAULT)]);
            assert_eq!(send_as(&desk, &e, "x\r\n").await.unwrap_err(), IntakeError::Closed);
            assert!(desk.is_dead());
            r.a.up.set(true);
            r.sleep(HOUR).await;
            assert_eq!(texts(&r.a).len(), 0, "no attempts after a write error");
            world.fail_writes.set(None);
            assert_eq!(send_as(&desk, &e, "x\r\n").await.unwrap_err(), IntakeError::Closed);
        },
    );
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, recovery) = r.open().await;
            assert_eq!(recovery.messages, 1);
            assert!(r.empty(&desk, HOUR).await);
        },
    );
}

#[test]
fn a_stuck_message_is_archived_while_others_pass_and_survives() {
    let world = Rc::new(World::default());
    let body = "x".repeat(6000);
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            *r.a.rcpt.borrow_mut() =
                Box::new(|a| if a.starts_with("stuck") { "451 4.2.0 full" } else { "250 Ok" }.into());
            let stuck = send(&desk, &["stuck@a.example", "fine@a.example"]).await;
            let e = envelope("me@from.example", &[("x@b.example", Notify::DEFAULT)]);
            for _ in 0..400 {
                send_as(&desk, &e, &body).await.expect("accepted");
            }
            r.sleep(5 * SECOND).await;
            assert_eq!(texts(&r.b).len(), 400);
            let stats = desk.stats();
            assert!(stats.journal_segments < 16, "{} segments", stats.journal_segments);
            assert_eq!(stats.parked, 1, "it waits in archive and index");
            let listed = page(desk.control(&Request::Show(stuck)).await).remove(0);
            assert_eq!(listed.recipients.len(), 1);
            assert_eq!(listed.recipients[0].delay_reason.as_deref(), Some("451 4.2.0 full"));
        },
    );
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, recovery) = r.open().await;
            let parked = desk.loaded().await.expect("open");
            assert_eq!((recovery.messages, recovery.in_doubt), (0, 0));
            assert_eq!((parked.parked, parked.in_doubt, parked.rebuilt), (1, 0, None));
            assert!(r.empty(&desk, HOUR).await);
            assert_eq!(texts(&r.a)[0].to, ["stuck@a.example"]);
        },
    );
}

#[test]
fn a_long_body_goes_through_a_side_file_and_the_file_goes_too() {
    let world = Rc::new(World::default());
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            let intake = Intake::new(desk.clone());
            let line = format!("{}\r\n", "y".repeat(76));
            let body = line.repeat(4000);
            assert!(body.len() > intake.inline_max(1));
            let mut writer = intake.create_side().await.expect("a side file");
            for piece in body.as_bytes().chunks(5000) {
                writer.write(piece).await.expect("written");
            }
            let side = writer.finish().await.expect("finished");
            let e = envelope("me@from.example", &[("x@a.example", Notify::DEFAULT)]);
            let wall = r.rig.wall();
            let facts = BodyFacts { len: body.len() as u64, ..BodyFacts::default() };
            let id = intake.next_id(wall);
            let trace = b"Received: by us\r\n";
            let m = Submission { id, arrival: wall, envelope: &e, trace, body: Body::Side(side), facts };
            intake.submit(m).await.expect("accepted");
            assert!(r.empty(&desk, 60 * SECOND).await);
            let got = texts(&r.a)[0].data.replace('\n', "\r\n");
            assert_eq!(got, format!("Received: by us\r\n{body}"));
            r.sleep(SECOND).await;
            let left = world.files.borrow().keys().filter(|p| p.to_string_lossy().contains(".side")).count();
            assert_eq!(left, 0);
            let e = envelope("me@from.example", &[("x@a.example", Notify::DEFAULT)]);
            assert_eq!(send_as(&desk, &e, &body).await.unwrap_err(), IntakeError::TooLarge);
        },
    );
}

#[test]
fn a_commit_that_takes_too_long_is_answered_and_taken_back() {
    let world = Rc::new(World::default());
    run(
        &world,
        |_| {},
        async |r| {
            let (desk, _) = r.open().await;
            r.rig.held.set(true);
            let began = r.rig.now();
            let e = envelope("me@from.example", &[("x@a.example", Notify::DEFAULT)]);
            assert_eq!(send_as(&desk, &e, "x\r\n").await.unwrap_err(), IntakeError::Late);
            let waited = r.rig.now().since(began);
            assert!((60 * SECOND..63 * SECOND).contains(&waited), "{waited:?}");
            r.rig.held.set(false);
            r.sleep(5 * SECOND).await;
            assert_eq!((desk.stats().messages, texts(&r.a).len()), (0, 0));
            send(&desk, &["y@a.example"]).await;
            assert!(r.empty(&desk, 5 * SECOND).await);
        },
    );
    run(&world, |_| {}, async |r| assert_eq!(r.open().await.1.messages, 0));
}

#[test]
fn back_pressure_refuses_when_full_and_delays_for_a_fast_destination_only() {
    let world = Rc::new(World::default());
    let small = |r: &mut Run| {
        r.options.limits.messages = 30;
        r.options.limits.backlog = 10;
        r.options.limits.fast = 5;
    };
    run(&world, small, async |r| {
        let (desk, _) = r.open().await;
        let intake = Intake::new(desk.clone());
        r.b.up.set(false);
        for _ in 0..29 {
            send(&desk, &["x@b.example"]).await;
        }
        let began = r.rig.now();
        assert_eq!(intake.room().await, Ok(()));
        assert_eq!(r.rig.now(), began, "a dead destination holds nobody back");
        send(&desk, &["x@b.example"]).await;
        assert_eq!(intake.room().await, Err(IntakeError::Full));
        let e = envelope("me@from.example", &[("x@a.example", Notify::DEFAULT)]);
        assert_eq!(send_as(&desk, &e, "x\r\n").await.unwrap_err(), IntakeError::Full);
    });
}

#[test]
fn late_mail_is_warned_of_once() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.options.delay_warning = HOUR,
        async |r| {
            let (desk, _) = r.open().await;
            *r.a.rcpt.borrow_mut() = Box::new(|_| "451 4.2.0 full".into());
            send(&desk, &["x@a.example"]).await;
            let e = envelope("me@from.example", &[("y@a.example", Notify::FAILURE)]);
            send_as(&desk, &e, "Subject: s\r\n\r\nx\r\n").await.unwrap();
            r.sleep(6 * HOUR).await;
            r.a.up.set(false);
            r.sleep(6 * HOUR).await;
            let got = texts(&r.b);
            assert_eq!(got.len(), 1, "{got:?}");
            assert!(got[0].data.contains("Action: delayed") && got[0].data.contains("x@a.example"));
        },
    );
    let tomorrow = |r: &mut Run| {
        r.options.delay_warning = HOUR;
        r.rig.set_clock(24 * HOUR, false);
    };
    run(&world, tomorrow, async |r| {
        let (desk, _) = r.open().await;
        assert!(r.empty(&desk, HOUR).await && texts(&r.b).is_empty(), "not again after a restart");
    });
}

#[test]
fn many_recipients_are_sent_in_groups_and_each_gets_it_once() {
    let world = Rc::new(World::default());
    let large = |r: &mut Run| r.storage.batch_bytes_max = 16 << 10;
    run(&world, large, async |r| {
        let (desk, _) = r.open().await;
        let full = |a: &str| if a.starts_with("u7") { "452 4.5.3 too many".into() } else { "250 Ok".into() };
        *r.a.rcpt.borrow_mut() = Box::new(full);
        let names: Vec<_> =
            (0..160).map(|n| format!("u{n}@{}.example", if n % 4 == 0 { "b" } else { "a" })).collect();
        let to: Vec<_> = names.iter().map(|n| (n.as_str(), Notify::DEFAULT)).collect();
        send_as(&desk, &envelope("me@from.example", &to), "Subject: all\r\n\r\nx\r\n").await.unwrap();
        r.sleep(60 * SECOND).await;
        *r.a.rcpt.borrow_mut() = Box::new(|_| "250 Ok".into());
        assert!(r.empty(&desk, 12 * HOUR).await);
        let mut got: Vec<String> = texts(&r.a).into_iter().chain(texts(&r.b)).flat_map(|m| m.to).collect();
        assert!(texts(&r.a).iter().all(|m| m.to.len() <= 50));
        got.sort();
        let mut expected = names.clone();
        expected.sort();
        assert_eq!(got, expected);
        r.sleep(SECOND).await;
        assert_eq!(desk.stats().journal_live_bytes, 0);
    });
}

#[test]
fn a_busy_disk_delays_and_does_not_refuse() {
    let world = Rc::new(World::default());
    run(
        &world,
        |r| r.options.limits.staged_bytes = 1000,
        async |r| {
            let (desk, _) = r.open().await;
            let intake = Intake::new(desk.clone());
            r.rig.held.set(true);
            let e = envelope("me@from.example", &[("x@a.example", Notify::DEFAULT)]);
            let body = "x".repeat(8000);
            let facts = BodyFacts { len: 8000, ..BodyFacts::default() };
            let slices = [body.as_bytes()];
            let mut waiting = Vec::new();
            let mut stage = || {
                let (arrival, id) = (r.rig.wall(), intake.next_id(r.rig.wall()));
                let m =
                    Submission { id, arrival, envelope: &e, trace: b"", body: Body::Slices(&slices), facts };
                intake.stage(&m).map(|s| waiting.push(s))
            };
            let busy = (0..50).find_map(|_| stage().err());
            assert_eq!(busy, Some(IntakeError::Busy));
            let began = r.rig.now();
            assert_eq!(intake.room().await, Ok(()));
            assert_eq!(r.rig.now().since(began), r.options.limits.hold_back, "held back, for a bounded time");
            r.rig.held.set(false);
            while stage().is_err() {
                intake.progress().await;
            }
            for s in waiting {
                s.await.expect("safe");
            }
            assert!(r.empty(&desk, 60 * SECOND).await);
        },
    );
}

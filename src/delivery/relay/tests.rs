//! The loop against a server in memory: what goes over the wire, and where each item ends.

use super::double::{Act, Server, World, block_on};
use super::*;
use crate::base::ids::{LogNumber, MessageId};
use crate::message::envelope::{Envelope, Notify, SenderOptions};
use crate::runtime::Clock;
use crate::smtp::outbound::stuffing::is_clean;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

const PIPE: &str = "250-hi\r\n250-PIPELINING\r\n250 8BITMIME\r\n";

struct Mail {
    number: usize,
    envelope: Envelope,
    recipients: Vec<u32>,
    flags: BodyFlags,
    payload: SharedBytes,
    side: Option<Vec<u8>>,
}

const CHUNKS: &str = "250-hi\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 CHUNKING\r\n";
const ALL: [&str; 3] = [PIPE, CHUNKS, "250 hi\r\n"];

type Interjection = (std::rc::Rc<RefCell<Server>>, &'static str);

/// Index, outcome, code and use of the connection.
type Fact = (u32, Outcome, u16, u32);

/// A queue of items, and a book of where each went.
#[derive(Default)]
struct Desk {
    world: World,
    due: RefCell<VecDeque<Mail>>,
    /// Work that comes while the connection waits.
    later: RefCell<VecDeque<Mail>>,
    settled: RefCell<Vec<(usize, Vec<Fact>)>>,
    texts: RefCell<Vec<String>>,
    given_back: RefCell<Vec<usize>>,
    taken: Cell<usize>,
    habits: Habits,
    /// What a server says, or that it closes, while the connection waits for work.
    interjection: RefCell<Option<Interjection>>,
    refuse_body: bool,
    /// The messages for which a record must be written first.
    announce: Vec<usize>,
    announced: RefCell<Vec<usize>>,
    unreadable: bool,
    stop: bool,
}

impl Source for Desk {
    type Item = Mail;

    fn next(&self) -> Option<Mail> {
        let item = self.due.borrow_mut().pop_front();
        self.taken.set(self.taken.get() + usize::from(item.is_some()));
        item
    }

    async fn wait(&self, until: Mono) -> bool {
        if let Some((server, said)) = self.interjection.take() {
            match said {
                "" => server.borrow_mut().closed = true,
                said => server.borrow_mut().said.extend_from_slice(said.as_bytes()),
            }
            return std::future::pending().await;
        }
        if let Some(mail) = self.later.borrow_mut().pop_front() {
            self.due.borrow_mut().push_back(mail);
            return true;
        }
        if !self.stop {
            self.world.now.set(until.0);
        }
        false
    }

    fn describe<'a>(&self, m: &'a Mail) -> Job<'a> {
        Job {
            id: QueueId { message: MessageId(m.number as u64), log: LogNumber(0) },
            envelope: m.envelope.view(),
            recipients: &m.recipients,
            flags: m.flags,
            payload: &m.payload,
            body: 3..m.payload.len(),
            side: m.side.as_ref().map(|s| s.len() as u64),
        }
    }

    async fn read_side(&self, m: &Mail, offset: u64, mut buf: AlignedBuf) -> Lent<(), AlignedBuf> {
        assert!(buf.is_empty());
        if self.unreadable && offset > 0 {
            return (Err(io::ErrorKind::InvalidData.into()), buf);
        }
        let rest = &m.side.as_ref().expect("has a side file")[offset as usize..];
        buf.put(&rest[..rest.len().min(buf.room())]);
        (Ok(()), buf)
    }

    fn pass_on(&self) {}

    fn may_leave(&self, m: &Mail) -> bool {
        !self.announce.contains(&m.number)
    }

    async fn before_final_dot(&self, m: &Mail) -> bool {
        self.announced.borrow_mut().push(m.number);
        !self.refuse_body
    }

    fn settle(&self, item: Mail, results: &[RecipientResult<'_>]) {
        assert_eq!(results.iter().map(|r| r.index).collect::<Vec<_>>(), item.recipients);
        let facts = results.iter().map(|r| (r.index, r.outcome, r.code, r.conn_use)).collect();
        self.settled.borrow_mut().push((item.number, facts));
        self.texts.borrow_mut().extend(results.iter().map(|r| String::from_utf8_lossy(r.text).into_owned()));
    }

    fn give_back(&self, item: Mail) {
        self.given_back.borrow_mut().push(item.number);
    }
}

fn mail(number: usize, recipients: usize, body: &[u8]) -> Mail {
    let mut envelope = Envelope::default();
    envelope.begin(format!("s{number}@from.example").as_bytes(), SenderOptions::default(), b"");
    (0..recipients).for_each(|i| envelope.push(format!("r{i}@x").as_bytes(), Notify::DEFAULT, b""));
    let dots = body.starts_with(b".") || memchr::memmem::find(body, b"\n.").is_some();
    Mail {
        number,
        envelope,
        recipients: (0..recipients as u32).collect(),
        flags: BodyFlags(u8::from(dots)),
        payload: SharedBytes::copy_of(&[b"rec", body].concat()),
        side: None,
    }
}

fn desk(mails: Vec<Mail>) -> Desk {
    Desk { due: RefCell::new(mails.into()), ..Desk::default() }
}

fn server(script: impl FnMut(usize, &str) -> Option<Act> + 'static) -> Server {
    Server { script: Some(Box::new(script)), ehlo: PIPE, ..Server::default() }
}

fn good() -> Server {
    server(|_, _| None)
}

fn go(desk: &Desk, server: Server, options: &Options) -> (ConnectionEnd, std::rc::Rc<RefCell<Server>>) {
    let (pipe, server) = desk.world.connect(server);
    let end = block_on(run(&desk.world, pipe, desk, options, &desk.habits));
    let accounted = desk.settled.borrow().len() + desk.given_back.borrow().len();
    assert_eq!(accounted, desk.taken.get(), "each item goes back exactly once");
    (end, server)
}

fn options() -> Options {
    Options::new("me.example")
}

fn outcomes(desk: &Desk) -> Vec<(usize, Outcome)> {
    let all = desk.settled.borrow();
    all.iter().flat_map(|(n, r)| r.iter().map(|x| (*n, x.1))).collect()
}

#[test]
fn one_send_for_each_message() {
    let body = |n: usize| format!("Hi {n}\r\n").repeat(1000).into_bytes();
    let desk = desk((1..=5).map(|n| mail(n, 1, &body(n))).collect());
    let (end, server) = go(&desk, good(), &options());
    let server = server.borrow();
    assert_eq!(end, ConnectionEnd::Idle);
    assert_eq!(desk.world.now().since(Mono(0)), Duration::from_secs(60), "kept open when idle");
    // EHLO, first envelope, five bodies (four with the next envelope), QUIT.
    assert_eq!(server.sends, 8);
    assert_eq!(server.shared_bytes, 5 * body(1).len(), "bodies are sent from where they are");
    let bodies: Vec<_> = server.taken.iter().map(|(_, m)| m.clone()).collect();
    assert!(bodies == (1..=5).map(body).collect::<Vec<_>>());
    let uses: Vec<_> = desk.settled.borrow().iter().map(|(n, r)| (*n, r[0].1, r[0].2, r[0].3)).collect();
    assert_eq!(uses, (1..=5).map(|n| (n, Outcome::Delivered, 250, n as u32)).collect::<Vec<_>>());
    assert_eq!(server.commands.last().map(String::as_str), Some("QUIT"));
}

#[test]
fn replies_byte_by_byte_and_lock_step() {
    for ehlo in ALL {
        let desk = desk((1..=3).map(|n| mail(n, 2, b"Hi\r\n")).collect());
        let (end, server) = go(&desk, Server { receive_at_most: 1, ehlo, ..good() }, &options());
        assert_eq!(end, ConnectionEnd::Idle);
        assert_eq!(server.borrow().taken.len(), 3);
        assert!(outcomes(&desk).iter().all(|(_, o)| *o == Outcome::Delivered));
    }
}

#[test]
fn work_that_comes_while_idle_uses_the_connection() {
    let desk = desk(vec![mail(1, 1, b"a\r\n")]);
    desk.later.borrow_mut().extend([mail(2, 1, b"b\r\n"), mail(3, 1, b"c\r\n")]);
    let (end, server) = go(&desk, good(), &options());
    assert_eq!((end, server.borrow().taken.len()), (ConnectionEnd::Idle, 3));
    let desk = Desk { stop: true, ..Desk::default() };
    assert_eq!(go(&desk, good(), &options()).0, ConnectionEnd::WorkDone);
}

#[test]
fn message_limit() {
    let mut o = options();
    o.client.transactions_max = 2;
    let desk = desk((1..=5).map(|n| mail(n, 1, b"a\r\n")).collect());
    let (end, server) = go(&desk, good(), &o);
    assert_eq!(
        (end, server.borrow().taken.len(), desk.due.borrow().len()),
        (ConnectionEnd::MessageLimit, 2, 3)
    );
}

#[test]
fn bodies_arrive_byte_for_byte_and_smuggle_nothing() {
    // Attack catalogue, row 2: what a lenient server might take for the end of data. The stored
    // form has no bare CR or LF; what is left of the forms is sent with its dots doubled.
    let bodies: [&[u8]; 8] = [
        b"",
        b".\r\n",
        b"..\r\n.\r\nMAIL FROM:<evil@x>\r\n",
        b"a\r\n.\r\n.\r\nDATA\r\n",
        b"no line end",
        b"a\r\n\r\n.b\r\n",
        b"a\r\n.",
        b"x.\r\n.y.\r\n",
    ];
    for ehlo in ALL {
        let desk = desk(bodies.iter().enumerate().map(|(i, b)| mail(i, 1, b)).collect());
        let (_, server) = go(&desk, Server { ehlo, ..good() }, &options());
        let server = server.borrow();
        assert_eq!(server.taken.len(), bodies.len());
        for (body, (_, got)) in bodies.iter().zip(&server.taken) {
            // A chunk need not end with a line; what goes by DATA must.
            let want = if body.is_empty() || body.ends_with(b"\r\n") || ehlo == CHUNKS {
                body.to_vec()
            } else {
                [body, &b"\r\n"[..]].concat()
            };
            assert_eq!(got, &want);
        }
        let bodies_end = ehlo != CHUNKS;
        assert!(!bodies_end || is_clean(&server.wire, true), "no bare CR or LF on the wire");
        let dots = memchr::memmem::find_iter(&server.wire, b"\r\n.\r\n").count();
        if ehlo != CHUNKS {
            assert_eq!(dots, bodies.len(), "as many ends of data as messages");
        }
        assert!(!server.commands.iter().any(|c| c.contains("evil")));
    }
}

#[test]
fn long_bodies_from_memory_and_side_files() {
    let line = b"0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456\r\n";
    let long = line.repeat(4000);
    let dotted = b".\r\n..a\r\n".repeat(60_000);
    for ehlo in ALL {
        let mut side = mail(3, 1, b"Received: x\r\n");
        side.side = Some(dotted.clone());
        let mut plain_side = mail(4, 1, b"Received: y\r\n");
        plain_side.side = Some(long.clone());
        let desk = desk(vec![mail(1, 1, &long), mail(2, 1, &dotted), side, plain_side, mail(5, 1, b"z\r\n")]);
        let (_, server) = go(&desk, Server { ehlo, ..good() }, &options());
        let server = server.borrow();
        let got: Vec<_> = server.taken.iter().map(|(_, m)| m.clone()).collect();
        let with = |head: &[u8], rest: &[u8]| [head, rest].concat();
        let want = [
            long.clone(),
            dotted.clone(),
            with(b"Received: x\r\n", &dotted),
            with(b"Received: y\r\n", &long),
            b"z\r\n".to_vec(),
        ];
        assert!(got == want, "some body differs");
    }
}

#[test]
fn an_unreadable_side_file_is_our_fault() {
    let mut m = mail(1, 1, b"a\r\n");
    m.side = Some(vec![b'a'; 500_000]);
    let desk = Desk { unreadable: true, ..desk(vec![m, mail(2, 1, b"b\r\n")]) };
    let (end, server) = go(&desk, good(), &options());
    assert_eq!(end, ConnectionEnd::Unreadable { kind: io::ErrorKind::InvalidData });
    assert!(end.is_orderly() && server.borrow().taken.is_empty());
    assert_eq!(outcomes(&desk), [(1, Outcome::Deferred)]);
    assert_eq!(desk.due.borrow().len(), 1, "the next one was not touched");
}

#[test]
fn a_stale_connection_gives_back_silently() {
    for act in [Act::Close, Act::Reset, Act::Say("421 4.4.2 idle too long\r\n")] {
        let desk = desk(vec![mail(1, 1, b"a\r\n")]);
        desk.later.borrow_mut().push_back(mail(2, 1, b"b\r\n"));
        let stale = move |n: usize, c: &str| (n == 2 && c.starts_with("MAIL")).then_some(act);
        let (end, _) = go(&desk, server(stale), &options());
        assert!(end.is_stale() && !end.is_orderly(), "{act:?}: {end:?}");
        assert_eq!((outcomes(&desk), desk.given_back.take()), (vec![(1, Outcome::Delivered)], vec![2]));
    }
}

#[test]
fn lost_before_and_after_the_final_dot() {
    for act in [Act::Close, Act::Reset] {
        let desk = desk(vec![mail(1, 1, b"a\r\n"), mail(2, 1, b"b\r\n")]);
        let (end, _) = go(&desk, server(move |_, c| (c == ".").then_some(act)), &options());
        assert!(!end.is_stale(), "the first message of its connection: {end:?}");
        assert_eq!((outcomes(&desk), desk.given_back.take()), (vec![(1, Outcome::Deferred)], vec![2]));
        assert!(desk.texts.borrow()[0].contains("message may have been taken"));
    }
    let desk = desk(vec![mail(1, 1, &b"0123456789abcdef\r\n".repeat(40_000))]);
    let (end, _) = go(&desk, server(|_, c| (c == "DATA").then_some(Act::Reset)), &options());
    assert!(matches!(end, ConnectionEnd::NetworkError { reused: false, .. }), "{end:?}");
    assert_eq!(outcomes(&desk), [(1, Outcome::Deferred)]);
}

#[test]
fn deadlines() {
    let silent = |at: &'static str| server(move |_, c| c.starts_with(at).then_some(Act::Silence));
    let cases = [
        ("connect", Phase::Banner, 300, 0),
        ("EHLO", Phase::Hello, 300, 0),
        ("MAIL", Phase::Mail, 300, 1),
        ("RCPT", Phase::Rcpt, 300, 1),
        ("DATA", Phase::Data, 120, 1),
        (".", Phase::FinalDot, 600, 1),
    ];
    for (at, phase, seconds, touched) in cases {
        let desk = desk(vec![mail(1, 1, b"a\r\n")]);
        let (end, _) = go(&desk, silent(at), &options());
        assert_eq!(end, ConnectionEnd::Deadline { reused: false, phase });
        assert_eq!(desk.world.now().since(Mono(0)), Duration::from_secs(seconds), "{at}");
        assert_eq!(outcomes(&desk), vec![(1, Outcome::Deferred); touched]);
    }
    // A server that does not answer QUIT costs ten seconds and nothing else.
    let desk = desk(vec![mail(1, 1, b"a\r\n")]);
    let (end, _) = go(&desk, silent("QUIT"), &options());
    assert_eq!((end, desk.world.now().since(Mono(0))), (ConnectionEnd::Idle, Duration::from_secs(70)));
}

#[test]
fn refused_greetings_touch_nothing() {
    for (code, permanent, reply) in [(554, true, "554 5.7.1 go\x07 away\r\n"), (421, false, "421 busy\r\n")] {
        let desk = desk(vec![mail(1, 1, b"a\r\n")]);
        let (end, _) = go(&desk, server(move |_, c| (c == "connect").then_some(Act::Say(reply))), &options());
        let text = if permanent { "go? away" } else { "busy" }.into();
        assert_eq!(end, ConnectionEnd::GreetingRefused { code, permanent, text });
        assert_eq!((desk.taken.get(), desk.due.borrow().len()), (0, 1));
    }
}

#[test]
fn what_must_not_be_sent_comes_back() {
    let desk = Desk { refuse_body: true, ..desk(vec![mail(1, 1, b"a\r\n"), mail(2, 1, b"b\r\n")]) };
    let (end, server) = go(&desk, good(), &options());
    assert_eq!((end, desk.given_back.take()), (ConnectionEnd::Stopped, vec![1]));
    assert!(server.borrow().taken.is_empty());
}

#[test]
fn no_plain_text_where_tls_is_required() {
    let desk = desk(vec![mail(1, 2, b"a\r\n"), mail(2, 1, b"b\r\n")]);
    let (end, server) = go(&desk, good(), &Options { tls: Tls::Required, ..options() });
    assert_eq!(end, ConnectionEnd::TlsUnavailable);
    assert!(server.borrow().wire.is_empty());
    assert_eq!(outcomes(&desk), [(1, Outcome::Deferred), (1, Outcome::Deferred), (2, Outcome::Deferred)]);
    assert!(desk.texts.borrow().iter().all(|t| t == "TLS is not available"));
}

#[test]
fn refused_items_do_not_stop_the_others() {
    let mut mails: Vec<_> = (1..=100).map(|n| mail(n, 1, b"a\r\n")).collect();
    mails.iter_mut().filter(|m| m.number % 10 != 0).for_each(|m| m.flags = BodyFlags(2));
    let desk = desk(mails);
    let ehlo = "250-hi\r\n250 PIPELINING\r\n";
    let (_, server) = go(&desk, Server { ehlo, ..good() }, &options());
    assert_eq!(server.borrow().taken.len(), 10);
    let failed = outcomes(&desk).iter().filter(|(_, o)| *o == Outcome::Failed).count();
    assert_eq!(failed, 90);
}

#[test]
fn many_recipients_take_several_transactions() {
    let desk = desk(vec![mail(1, 120, b"a\r\n")]);
    let (_, server) = go(&desk, good(), &options());
    assert_eq!(server.borrow().taken[0].0.len(), 50);
    let not_tried = outcomes(&desk).iter().filter(|(_, o)| *o == Outcome::NotTried).count();
    assert_eq!(not_tried, 70);
}

#[test]
fn several_messages_in_one_send() {
    let desk = desk((1..=40).map(|n| mail(n, 1, format!("Hi {n}\r\n").as_bytes())).collect());
    let (end, server) = go(&desk, Server { ehlo: CHUNKS, ..good() }, &options());
    let server = server.borrow();
    assert_eq!(end, ConnectionEnd::Idle);
    // EHLO, the first envelope, 2 messages, 16, 16, 6, QUIT.
    assert_eq!(server.sends, 7);
    let bodies: Vec<_> = server.taken.iter().map(|(_, m)| m.clone()).collect();
    assert_eq!(bodies, (1..=40).map(|n| format!("Hi {n}\r\n").into_bytes()).collect::<Vec<_>>());
    let uses: Vec<_> = desk.settled.borrow().iter().map(|(n, r)| (*n, r[0].1, r[0].3)).collect();
    assert_eq!(uses, (1..=40).map(|n| (n, Outcome::Delivered, n as u32)).collect::<Vec<_>>());
}

#[test]
fn long_and_short_bodies_in_one_send() {
    let bodies: Vec<Vec<u8>> = [3, 5000, 10, 4096, 20_000, 1, 40_000, 7]
        .iter()
        .map(|n| b"0123456789abcdef\r\n".repeat(n / 18 + 1))
        .collect();
    let desk = desk(bodies.iter().enumerate().map(|(n, b)| mail(n, 1, b)).collect());
    let (_, server) = go(&desk, Server { ehlo: CHUNKS, ..good() }, &options());
    let server = server.borrow();
    assert!(server.taken.iter().map(|(_, m)| m).eq(&bodies), "some body differs");
    assert!(server.shared_bytes > 60_000, "long bodies are sent from where they are");
}

#[test]
fn messages_to_be_announced_are_so_before_they_leave() {
    let announce = vec![2, 5, 6];
    let first = Desk { announce, ..desk((1..=8).map(|n| mail(n, 1, b"a\r\n")).collect()) };
    let (_, server) = go(&first, Server { ehlo: CHUNKS, ..good() }, &options());
    assert_eq!(server.borrow().taken.len(), 8);
    // The first of the connection is announced too, for it is held back like them.
    assert_eq!(first.announced.take(), [1, 2, 5, 6]);
    // One that must not be sent ends the connection; what was not begun stays.
    let mails = (1..=4).map(|n| mail(n, 1, b"a\r\n")).collect();
    let mut desk = Desk { announce: vec![1], ..desk(mails) };
    desk.refuse_body = true;
    let (end, server) = go(&desk, Server { ehlo: CHUNKS, ..good() }, &options());
    assert_eq!((end, desk.given_back.take()), (ConnectionEnd::Stopped, vec![1]));
    assert_eq!((server.borrow().taken.len(), desk.due.borrow().len()), (0, 3));
}

#[test]
fn a_slow_server_gets_fewer_at_once() {
    let desk = desk((1..=40).map(|n| mail(n, 1, b"a\r\n")).collect());
    let now = desk.world.now.clone();
    let slow = move |_: usize, c: &str| {
        now.set(now.get() + if c == "." { 200_000_000 } else { 0 });
        None
    };
    let (_, server) = go(&desk, Server { ehlo: CHUNKS, ..server(slow) }, &options());
    let server = server.borrow();
    assert_eq!(server.taken.len(), 40);
    assert!(server.sends > 15, "{} sends", server.sends);
}

#[test]
fn lost_with_several_outstanding() {
    for act in [Act::Close, Act::Reset, Act::Say("421 4.4.2 enough\r\n"), Act::Silence] {
        let desk = desk((1..=6).map(|n| mail(n, 1, b"a\r\n")).collect());
        let lost = move |n: usize, c: &str| (n == 3 && c == ".").then_some(act);
        go(&desk, Server { ehlo: CHUNKS, ..server(lost) }, &options());
        let want: Vec<_> =
            (1..=6).map(|n| (n, if n <= 2 { Outcome::Delivered } else { Outcome::Deferred })).collect();
        assert_eq!(outcomes(&desk), want, "{act:?}");
        assert!(desk.given_back.borrow().is_empty(), "what may have been taken is not sent again at once");
        let texts = desk.texts.borrow();
        assert!(texts[3..].iter().all(|t| t.contains("message may have been taken")), "{texts:?}");
        // The next connection dares less.
        let mut next = options().client;
        desk.habits.apply(&mut next);
        assert_eq!(next.outstanding, 8);
    }
}

#[test]
fn bdat_that_is_offered_and_not_known() {
    let desk = desk((1..=5).map(|n| mail(n, 1, b"a\r\n")).collect());
    go(&desk, Server { ehlo: CHUNKS, knows_no_bdat: true, ..good() }, &options());
    // All went by DATA but the one that found out, which was not tried: no message has failed.
    let outcome = |n| if n == 2 { Outcome::NotTried } else { Outcome::Delivered };
    assert_eq!(outcomes(&desk), (1..=5).map(|n| (n, outcome(n))).collect::<Vec<_>>());
    // It is remembered.
    desk.due.borrow_mut().push_back(mail(6, 1, b"a\r\n"));
    let (_, server) = go(&desk, Server { ehlo: CHUNKS, ..good() }, &options());
    assert!(!server.borrow().commands.iter().any(|c| c.starts_with("BDAT")));
}

#[test]
fn a_server_that_speaks_or_closes_while_nothing_is_asked_is_noticed() {
    let cases = [
        (
            "250 2.0.0 surplus\r\n",
            ConnectionEnd::ProtocolError { what: Close::Unexpected(250), phase: Phase::Idle },
        ),
        (
            "421 4.4.2 idle\r\n",
            ConnectionEnd::ServerClosed { reused: true, phase: Phase::Idle, text: "4.4.2 idle".into() },
        ),
        ("", ConnectionEnd::ServerClosed { reused: true, phase: Phase::Idle, text: "".into() }),
    ];
    for (said, want) in cases {
        let desk = desk(vec![mail(1, 1, b"a\r\n")]);
        let (pipe, server) = desk.world.connect(Server { ehlo: CHUNKS, ..good() });
        desk.interjection.replace(Some((server, said)));
        let end = block_on(run(&desk.world, pipe, &desk, &options(), &desk.habits));
        let text = |e: &ConnectionEnd| format!("{e:?}").replace("4.4.2 ", "");
        assert_eq!(text(&end), text(&want));
        assert_eq!(outcomes(&desk), [(1, Outcome::Delivered)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Whatever the server does: the connection ends, each item goes back once (checked in `go`),
    /// and only what the server took is delivered.
    #[test]
    fn any_server(
        ehlo in prop::sample::select(&ALL[..]),
        announce in prop::collection::vec(0usize..8, 0..3),
        receive_at_most in 0usize..40,
        sizes in prop::collection::vec((1usize..4, 0usize..3), 0..8),
        acts in prop::collection::vec(0usize..40, 1..50),
    ) {
        let mails: Vec<_> = sizes.iter().enumerate()
            .map(|(n, &(recipients, lines))| mail(n, recipients, &b".a\r\n".repeat(lines)))
            .collect();
        let desk = Desk { announce, ..desk(mails) };
        let mut acts = acts.into_iter().cycle();
        let script = move |_: usize, _: &str| match acts.next()? {
            0 => Some(Act::Close),
            1 => Some(Act::Reset),
            2 => Some(Act::Silence),
            3 => Some(Act::Say("421 4.3.2 bye\r\n")),
            4 | 5 => Some(Act::Say("550 5.1.1 no\r\n")),
            6 | 7 => Some(Act::Say("450 4.2.0 later\r\n")),
            8 => Some(Act::Say("354 go\r\n")),
            9 => Some(Act::Say("nonsense\r\n")),
            10 => Some(Act::Say("452 4.5.3 full\r\n")),
            _ => None,
        };
        let (_, server) = go(&desk, Server { receive_at_most, ehlo, ..server(script) }, &options());
        let taken: usize = server.borrow().taken.iter().map(|(r, _)| r.len()).sum();
        // What must be announced is, before it is taken.
        let announced = desk.announced.borrow();
        let sender = |n: &usize| format!("<s{n}@from.example>");
        let ended = |n: &usize| server.borrow().ended.contains(&sender(n));
        let early = desk.announce.iter().any(|n| !announced.contains(n) && ended(n));
        prop_assert!(!early, "sent without being announced");
        let delivered = outcomes(&desk).iter().filter(|(_, o)| *o == Outcome::Delivered).count();
        prop_assert!(delivered <= taken, "{delivered} delivered, {taken} taken");
    }
}

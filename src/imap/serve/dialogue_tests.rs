//! Dialogues in text form: sessions over the store on a disk in memory, in several ways of cutting the
//! input and with small limits, which must make no difference.
//!
//! A file of cases: `== name` begins one. `C: ` is a line of the client (`C2: ` of a second one), with
//! `\r`, `\n`, `\0`, `\\` and `\xNN`; `C+ ` one without CRLF. `S: ` (`S2: `) are the lines of the server
//! that come before it waits; `%%` in one stands for any text. `@` directives change the world.

use super::desk::{Desk, Memory};
use crate::base::security::{Bindings, Security, TlsVersion};
use crate::base::time::{Mono, Wall};
use crate::imap::session::{Answer, Ask, Denial, Luggage, Now, Offer, Options, Said, Session, Step, Tls};
use crate::mailbox::api::{Content, Incoming, Mailboxes, Reader, Selected, Target};
use crate::mailbox::store::opening::Parts;
use crate::mailbox::store::{self, Open, Store};
use crate::mailbox::types::{AccountId, Flags, Quota, SpecialUse};
use crate::message::body::BodyFacts;
use crate::storage::double::{Double, World};
use crate::storage::options::Poison;
use crate::storage::{self, archive};
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How a dialogue is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Whole,
    Bytes,
    Small,
}

struct Client {
    session: Session<Open<Double>>,
    desk: Option<Desk<Store<Double>>>,
    input: Vec<u8>,
    /// Waits to be sent.
    out: Vec<u8>,
    sent: Vec<u8>,
    closed: bool,
    idle: bool,
}

struct Stage {
    store: Store<Double>,
    account: AccountId,
    clients: [Client; 2],
    now: Now,
    way: Way,
    options: Rc<Options>,
}

fn security() -> Security {
    Security {
        version: TlsVersion::Tls13,
        cipher: "TLS13_AES_128_GCM_SHA256",
        resumed: false,
        server_name: None,
        client: None,
        bindings: Bindings::default(),
    }
}

fn offer() -> Offer {
    Offer { passwords: true, mechanisms: "PLAIN LOGIN".into(), under_tls: "EXTERNAL".into() }
}

fn options(way: Way) -> Options {
    let production = Options { append_limit: Some(100_000), ..Options::production() };
    match way {
        Way::Whole | Way::Bytes => production,
        Way::Small => Options {
            burst: 2,
            replies_max: 100,
            messages_at_once: 3,
            summaries_at_once: 2,
            changes_at_once: 2,
            ..production
        },
    }
}

fn login(said: Said<'_>) -> Answer<'_, Open<Double>> {
    match said {
        Said::Password { login: b"u", password } if password.expose() == b"p" => Answer::Accept,
        Said::Begin { mechanism, initial: None } if mechanism.eq_ignore_ascii_case("PLAIN") => {
            Answer::Challenge(b"")
        }
        Said::Begin { initial: None, .. } => Answer::Challenge(b"Username:"),
        Said::Begin { initial: Some(said), .. } | Said::Response(said) if said.expose() == b"\0u\0p" => {
            Answer::Accept
        }
        _ => Answer::Deny(Denial::FAILED),
    }
}

impl Client {
    fn new(options: &Rc<Options>) -> Self {
        let mut session = Session::new(options.clone(), Mono(0));
        session.offer(offer());
        Client {
            session,
            desk: None,
            input: Vec::new(),
            out: Vec::new(),
            sent: Vec::new(),
            closed: false,
            idle: false,
        }
    }

    /// Goes on until the server waits.
    async fn run(&mut self, stage: (&Store<Double>, AccountId, &Rc<Options>), now: Now) {
        let (store, account, options) = stage;
        for turn in 0.. {
            assert!(turn < 100_000, "it does not end");
            if self.closed {
                return self.sent.append(&mut self.out);
            }
            let (used, step) = self.session.receive(now, &self.input, &mut self.out);
            self.input.drain(..used);
            self.idle = step == Step::Idle;
            if !matches!(step, Step::Ask | Step::Take) {
                self.sent.append(&mut self.out);
            }
            match step {
                Step::NeedInput | Step::Idle => return,
                // Bytes are as they are here.
                Step::Yield | Step::Compress => {}
                Step::Close => self.closed = true,
                Step::StartTls => {
                    self.input.clear();
                    self.session.secured(now.mono, Rc::new(security()));
                    self.session.offer(Offer { mechanisms: "PLAIN EXTERNAL".into(), ..offer() });
                }
                Step::Take => match &mut self.desk {
                    Some(desk) => desk.take(&mut self.session).await,
                    None => panic!("nothing comes in before the login"),
                },
                Step::Send => {
                    let mut reader = self.desk.as_mut().and_then(Desk::reader).expect("opened before");
                    while let Some(bytes) = reader.next().await.expect("reads") {
                        let more = match self.session.pass_whole(&bytes) {
                            Some((range, more)) => {
                                self.out.extend_from_slice(&bytes[range]);
                                more
                            }
                            None => self.session.pass(&bytes, &mut self.out),
                        };
                        if !more {
                            break;
                        }
                    }
                    self.session.sent(now.mono, &mut self.out);
                }
                Step::Ask => self.ask(store, account, options, now).await,
            }
        }
    }

    async fn ask(&mut self, store: &Store<Double>, account: AccountId, options: &Rc<Options>, now: Now) {
        match self.session.asked() {
            Ask::Login => {
                // What was said is wiped with the answer.
                let answer = match login(self.session.said()) {
                    Answer::Accept => Answer::Accept,
                    Answer::Challenge(b"") => Answer::Challenge(b""),
                    Answer::Challenge(_) => Answer::Challenge(b"Username:"),
                    _ => Answer::Deny(Denial::FAILED),
                };
                self.session.answer(now, answer, &mut self.out);
            }
            Ask::Tls => self.session.answer(now, Answer::Accept, &mut self.out),
            Ask::Enter => {
                let session = std::mem::replace(&mut self.session, Session::new(options.clone(), Mono(0)));
                let luggage: Luggage = session.depart();
                self.session = Session::arrive(options.clone(), luggage, now.mono);
                self.desk = Some(Desk::new(store.clone(), account, Memory::new(1 << 20)));
                self.session.answer(now, Answer::Entered(0xabc), &mut self.out);
            }
            Ask::Leave => {
                self.desk = None;
                self.session.answer(now, Answer::Accept, &mut self.out);
            }
            _ => {
                let desk = self.desk.as_mut().expect("logged in");
                desk.answer(&mut self.session, now, &mut self.out).await;
            }
        }
    }

    /// Within IDLE, whether the mailbox has changed.
    fn has_changed(&self) -> bool {
        let changed = pin!(self.session.mailbox().changed());
        let ready = changed.poll(&mut Context::from_waker(Waker::noop()));
        ready == Poll::Ready(())
    }
}

/// `%%` stands for any text.
fn matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("%%");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut chars = text.bytes();
    while let Some(b) = chars.next() {
        if b != b'\\' {
            out.push(b);
            continue;
        }
        match chars.next() {
            Some(b'r') => out.push(b'\r'),
            Some(b'n') => out.push(b'\n'),
            Some(b'0') => out.push(0),
            Some(b'x') => {
                let mut digit =
                    || chars.next().and_then(|b| char::from(b).to_digit(16)).expect("\\xNN") as u8;
                let high = digit();
                out.push(high * 16 + digit());
            }
            // Flags begin with one.
            Some(other) => out.extend([b'\\', other]),
            None => out.push(b'\\'),
        }
    }
    out
}

impl Stage {
    async fn new(store: Store<Double>, way: Way) -> Self {
        let mailboxes =
            [("Trash", Some(SpecialUse::Trash)), ("Sent", Some(SpecialUse::Sent)), ("Archive/2026", None)];
        let made = store.create_account("u", &mailboxes, Quota::default()).await;
        let account = made.expect("free").value;
        let options = Rc::new(options(way));
        let clients = [Client::new(&options), Client::new(&options)];
        // 23 Nov 2026 07:00:00 UTC.
        let now = Now { mono: Mono(0), wall: Wall(1_795_417_200_000) };
        Stage { store, account, clients, now, way, options }
    }

    async fn say(&mut self, client: usize, bytes: &[u8]) {
        let piece = if self.way == Way::Bytes { 1 } else { bytes.len().max(1) };
        for bytes in bytes.chunks(piece) {
            self.clients[client].input.extend_from_slice(bytes);
            self.clients[client].run((&self.store, self.account, &self.options), self.now).await;
        }
        self.settle().await;
    }

    /// Sessions within IDLE learn of changes.
    async fn settle(&mut self) {
        for client in &mut self.clients {
            while !client.closed && client.idle && client.session.is_selected() && client.has_changed() {
                client.session.changed();
                client.run((&self.store, self.account, &self.options), self.now).await;
            }
        }
    }

    /// Somebody has been told of it before, unless it is `new`.
    async fn deliver(&mut self, mailbox: &str, flags: Flags, new: bool, message: &str) {
        let bytes = message.as_bytes();
        let facts = BodyFacts { len: bytes.len() as u64, ..BodyFacts::default() };
        let pieces = [bytes];
        let incoming = Incoming {
            content: Content::Slices(&pieces),
            facts,
            // None: it is worked out when it is asked for.
            summary: b"",
            internal: self.now.wall,
            guid: None,
            uidl: b"",
        };
        let target = Target { account: self.account, mailbox, flags, id: None, promised: false };
        let answers = self.store.deliver(incoming, &[target]).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        if !new {
            self.store.select(self.account, mailbox).await.expect("there").meet(true);
        }
        self.settle().await;
    }

    async fn direct(&mut self, directive: &str, message: &str) {
        let words: Vec<&str> = directive.split(' ').collect();
        match words[..] {
            ["deliver", mailbox] => self.deliver(mailbox, Flags::default(), false, message).await,
            ["deliver", mailbox, "seen"] => self.deliver(mailbox, Flags::SEEN, false, message).await,
            ["new", mailbox] => self.deliver(mailbox, Flags::default(), true, message).await,
            ["many", mailbox, count] => {
                for n in 1..=count.parse::<u32>().expect("a number") {
                    let text = format!("Subject: message {n}\r\nFrom: a{n}@example.org\r\n\r\nbody {n}\r\n");
                    self.deliver(mailbox, Flags::default(), false, &text).await;
                }
            }
            ["login"] => self.hidden("C: l LOGIN u p").await,
            ["select", mailbox] => self.hidden(&format!("C: l SELECT {mailbox}")).await,
            ["enable", what] => self.hidden(&format!("C: l ENABLE {what}")).await,
            ["login2"] => self.hidden("C2: l LOGIN u p").await,
            ["select2", mailbox] => self.hidden(&format!("C2: l SELECT {mailbox}")).await,
            ["time", seconds] => {
                let d = Duration::from_secs(seconds.parse().expect("a number"));
                self.now = Now { mono: self.now.mono.after(d), wall: self.now.wall.after(d) };
            }
            ["expire"] => {
                let client = &mut self.clients[0];
                let step = client.session.expire(self.now.mono, &mut client.out);
                client.closed |= step == Step::Close;
            }
            ["stop"] => {
                let client = &mut self.clients[0];
                let step = client.session.shutdown(&mut client.out);
                client.closed |= step == Step::Close;
            }
            ["quota", bytes, messages] => {
                let number = |text: &str| text.parse::<u64>().expect("a number");
                let quota = Quota { bytes: number(bytes), messages: number(messages) };
                assert!(self.store.set_quota(self.account, quota).await.is_ok());
            }
            ["tls", how] => {
                let tls = if how == "implicit" { Tls::Implicit } else { Tls::Offered };
                self.clients[0].session.set_tls(tls);
                self.clients[0].session.offer(Offer { passwords: false, mechanisms: "".into(), ..offer() });
                if tls == Tls::Implicit {
                    assert_eq!(self.clients[0].session.begin_tls(self.now.mono), Step::StartTls);
                    self.clients[0].run((&self.store, self.account, &self.options), self.now).await;
                }
            }
            _ => panic!("no such directive: {directive}"),
        }
    }

    /// What is said is not looked at.
    async fn hidden(&mut self, line: &str) {
        let (client, bytes) = said(line).expect("a line of a client");
        self.say(client, &bytes).await;
        self.clients[client].sent.clear();
    }
}

/// Who says what.
fn said(line: &str) -> Option<(usize, Vec<u8>)> {
    let whole = |text: &str| [&unescape(text)[..], b"\r\n"].concat();
    None.or_else(|| line.strip_prefix("C: ").map(|text| (0, whole(text))))
        .or_else(|| line.strip_prefix("C2: ").map(|text| (1, whole(text))))
        .or_else(|| line.strip_prefix("C+ ").map(|text| (0, unescape(text))))
        .or_else(|| (line == "C:").then(|| (0, b"\r\n".to_vec())))
}

/// What the server should say, and to whom.
fn expected(line: &str) -> Option<(usize, &str)> {
    let of = |prefix: &str, client| line.strip_prefix(prefix).map(|text| (client, text));
    of("S: ", 0).or_else(|| of("S2: ", 1)).or_else(|| (line == "S:").then_some((0, "")))
}

/// Checks what was said since the last check. `None`: it is as it should be.
fn differs(stage: &mut Stage, want: &[(usize, &str)]) -> Option<String> {
    for (n, client) in stage.clients.iter_mut().enumerate() {
        client.sent.append(&mut client.out);
        let out = std::mem::take(&mut client.sent);
        let text = String::from_utf8_lossy(&out).into_owned();
        let got: Vec<&str> = text.split_terminator("\r\n").collect();
        let want: Vec<&str> = want.iter().filter(|w| w.0 == n).map(|w| w.1).collect();
        let fits = got.len() == want.len() && want.iter().zip(&got).all(|(w, g)| matches(w, g));
        if !fits {
            return Some(format!("client {n} got:\n{}\nwanted:\n{}", got.join("\n"), want.join("\n")));
        }
    }
    None
}

async fn play(store: Store<Double>, way: Way, lines: &[&str]) -> Result<(), String> {
    let mut stage = Stage::new(store, way).await;
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        at += 1;
        let mut message = String::new();
        if let Some(directive) = line.strip_prefix('@') {
            while let Some(text) = lines.get(at).and_then(|l| l.strip_prefix("| ").or(l.strip_prefix('|'))) {
                message.push_str(std::str::from_utf8(&unescape(text)).expect("UTF-8"));
                message.push_str("\r\n");
                at += 1;
            }
            stage.direct(directive, &message).await;
        } else {
            let (client, bytes) = said(line).ok_or_else(|| format!("what is this: {line}"))?;
            stage.say(client, &bytes).await;
        }
        let mut want = Vec::new();
        while let Some(text) = lines.get(at).and_then(|l| expected(l)) {
            want.push(text);
            at += 1;
        }
        // Clients often say more than one thing at once.
        let more = lines.get(at).is_some_and(|l| l.starts_with('C') || l.starts_with('@'));
        let quiet = want.is_empty() && more;
        if !quiet && let Some(difference) = differs(&mut stage, &want) {
            return Err(format!("after {line:?}: {difference}"));
        }
    }
    Ok(())
}

/// Holds the dialogues of a file.
#[allow(clippy::disallowed_methods)] // reads a file of cases, as a test may
fn dialogues(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/imap/session/cases").join(name);
    let text = std::fs::read_to_string(path.with_extension("txt")).expect("the cases are there");
    let mut cases: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line.strip_prefix("== ") {
            Some(title) => cases.push((title, Vec::new())),
            None => cases.last_mut().expect("a case begins with ==").1.push(line),
        }
    }
    let mut failures = Vec::new();
    for (title, lines) in &cases {
        // What comes at once, and what behind it, makes a difference where input is dropped.
        let ways = [Way::Whole, Way::Small, Way::Bytes];
        let count = if title.ends_with("(at once)") { 2 } else { 3 };
        for way in ways.into_iter().take(count) {
            let world = Rc::new(World::default());
            world.free.set(1 << 40);
            let rt = Double::new(&world);
            let options = store::Options { archive: archive::Options::tiny(), ..store::Options::default() };
            let storage = storage::Options::tiny();
            let parts = Parts { rt: rt.clone(), storage, poison: Poison::new(), options };
            let result = rt.block_on(async {
                let (store, _) = Store::open(Path::new("/m/0001"), parts).await.expect("opens");
                let result = play(store.clone(), way, lines).await;
                store.close().await;
                result
            });
            if let Err(why) = result {
                failures.push(format!("== {title} ({name}, {way:?}) {why}"));
                break;
            }
        }
    }
    assert!(!cases.is_empty(), "there are cases");
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n\n"));
}

macro_rules! files {
    ($( $name:ident )*) => { $(
        #[test]
        fn $name() {
            super::dialogues(stringify!($name));
        }
    )* };
}

mod files {
    files! {
        login literals mailboxes list select fetch sections binary store copy uidplus expunge search sort
        thread append idle replace esearch condstore qresync rev2 utf8 together compress
        appendlimit children enable id list_extended list_status multiappend moving namespace objectid preview
        quota recent sasl_ir savedate searchres special_use unauthenticate unselect within
    }
}

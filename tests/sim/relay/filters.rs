//! Histories of a relay that asks a filter which dies, stalls, answers nonsense, or breaks off in the middle
//! of its changes, while mail flows.
//!
//! The filter is scripted, written apart from the product. What must hold, besides what holds of every
//! relay: nothing is taken that the filter has refused (and nothing that it has not let pass, unless mail
//! goes on without it), nothing that it began to change is changed by half, and sessions that it is not
//! asked about go on as if it were not there.

use super::{Stage, node};
use crate::machine::{Machine, SimRuntime};
use crate::net::SimStream;
use crate::peers::client::{Client, Letter, Style};
use crate::peers::ledger::Fate;
use crate::seeds::{self, History};
use crate::world::{Death, MS, SEC, World};
use ringpost::base::time::Mono;
use ringpost::runtime::{Listener, Runtime, Stream};
use ringpost::smtp::serve::Door;
use ringpost::smtp::serve::filter::{Filter, Kind, Options, Place, WhenDown};
use ringpost::storage;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const PORT: u16 = 8891;
/// What the filter may take: to be connected, for an answer, for a message.
const BOUNDS: [u64; 3] = [2 * SEC, 5 * SEC, 20 * SEC];
/// A session that is not filtered has its letter taken in that time, however the filter is.
const PROMPT: u64 = 10 * SEC;

/// Chances in ten thousand, per answer, of each misbehaviour.
#[derive(Clone, Copy, Default)]
struct Manners {
    stall: u64,
    close: u64,
    reset: u64,
    nonsense: u64,
    half: u64,
    change: u64,
}

/// The filter, over all its lives.
#[derive(Clone)]
struct Milter {
    world: World,
    machine: Machine,
    manners: Rc<Cell<Manners>>,
    /// Letters that it has let pass, as far as it knows.
    passed: Rc<RefCell<BTreeSet<u64>>>,
    /// Letters whose refusal was certainly read: something came behind it.
    refused: Rc<RefCell<BTreeSet<u64>>>,
    /// Misbehaviours.
    odd: Rc<Cell<u64>>,
}

/// Which letters it does not want: some as soon as it hears the sender, some when it has heard all.
fn unwanted(number: u64) -> Option<u8> {
    match number {
        n if n % 7 == 3 => Some(b'M'),
        n if n % 5 == 2 => Some(b'E'),
        _ => None,
    }
}

fn packet(letter: u8, data: &[u8]) -> Vec<u8> {
    let mut out = (data.len() as u32 + 1).to_be_bytes().to_vec();
    out.push(letter);
    out.extend_from_slice(data);
    out
}

/// What one connection has come to.
struct Talk {
    stream: SimStream,
    buf: Vec<u8>,
    number: u64,
    /// A refusal was sent last.
    refused: Option<u64>,
}

impl Talk {
    async fn next(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            if let Some(len) = self.buf.first_chunk::<4>().map(|l| u32::from_be_bytes(*l) as usize)
                && self.buf.len() >= 4 + len
            {
                let whole: Vec<u8> = self.buf.drain(..4 + len).skip(4).collect();
                return Ok((whole[0], whole[1..].to_vec()));
            }
            let (got, part) = self.stream.recv(Vec::with_capacity(4096)).await;
            self.buf.extend_from_slice(&part);
            if got? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn send(&self, bytes: Vec<u8>) -> io::Result<()> {
        self.stream.send(bytes).await.0
    }
}

impl Milter {
    fn new(stage: &Stage) -> Self {
        Milter {
            world: stage.world.clone(),
            machine: Machine::new(&stage.world, &stage.net, 40),
            manners: Rc::default(),
            passed: Rc::default(),
            refused: Rc::default(),
            odd: Rc::default(),
        }
    }

    fn boot(&self) {
        let (rt, me) = (self.machine.boot(), self.clone());
        let listener = rt.listen(PORT);
        let runtime = rt.clone();
        rt.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let me = me.clone();
                stream.set_deadline(Some(Mono(me.world.now() + 3_600 * SEC)));
                runtime.spawn(async move {
                    let talk = Talk { stream, buf: Vec::new(), number: 0, refused: None };
                    // How it ends is of no interest.
                    let _ = me.serve(talk).await;
                });
            }
        });
    }

    async fn serve(&self, mut talk: Talk) -> io::Result<()> {
        loop {
            let (command, data) = talk.next().await?;
            // Whoever goes on has read what was said.
            self.refused.borrow_mut().extend(talk.refused.take());
            match command {
                b'D' | b'A' => continue,
                b'Q' => return Ok(()),
                b'O' => {
                    let numbers = [6u32, 0x7f, 0].map(u32::to_be_bytes).concat();
                    self.say(&mut talk, vec![packet(b'O', &numbers)]).await?;
                    continue;
                }
                b'M' => {
                    let digits = data.iter().filter(|b| b.is_ascii_digit());
                    talk.number = digits.take(18).fold(0, |n, d| n * 10 + u64::from(d - b'0'));
                }
                _ => {}
            }
            if unwanted(talk.number) == Some(command) {
                let number = talk.number;
                let reply = if self.world.chance(5_000) { packet(b'r', b"") } else { packet(b't', b"") };
                self.say(&mut talk, vec![reply]).await?;
                talk.refused = Some(number);
                continue;
            }
            let mut answer = Vec::new();
            if command == b'E' {
                self.passed.borrow_mut().insert(talk.number);
                let m = self.manners.get();
                if self.world.chance(m.change) {
                    // It never ends what it begins so: what it has changed does not count.
                    answer.push(packet(b'h', b"X-Half\0done\0"));
                    answer.push(packet(b'b', b"another body\r\n"));
                    self.odd.set(self.odd.get() + 1);
                    talk.send(answer.concat()).await?;
                    return Ok(());
                }
                if self.world.chance(3_000) {
                    answer.push(packet(b'p', b""));
                }
            }
            answer.push(packet(b'c', b""));
            self.say(&mut talk, answer).await?;
        }
    }

    /// Answers, or does something else.
    async fn say(&self, talk: &mut Talk, packets: Vec<Vec<u8>>) -> io::Result<()> {
        let (w, m) = (&self.world, self.manners.get());
        let odd = || self.odd.set(self.odd.get() + 1);
        let whole = packets.concat();
        if w.chance(m.stall) {
            odd();
            // By chance just about as long as it may take, or for good.
            w.pause([BOUNDS[1] - MS, BOUNDS[1] + MS, 600 * SEC][w.below(3) as usize]).await;
        }
        if w.chance(m.close) {
            odd();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if w.chance(m.reset) {
            odd();
            talk.stream.abort();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if w.chance(m.half) {
            odd();
            let some = w.below(whole.len() as u64) as usize;
            talk.send(whole[..some].to_vec()).await?;
            w.pause(w.below(60 * SEC)).await;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if w.chance(m.nonsense) {
            odd();
            let bytes = match w.below(4) {
                0 => vec![0xff; 5],
                1 => packet(b'?', b"what"),
                2 => packet(b'y', b"250 fine"),
                _ => (0..1 + w.below(40)).map(|_| w.below(256) as u8).collect(),
            };
            return talk.send(bytes).await;
        }
        talk.send(whole).await
    }

    fn misbehave(&self) {
        let w = &self.world;
        let some = |most: u64| if w.chance(5_000) { w.below(most) } else { 0 };
        self.manners.set(Manners {
            stall: some(800),
            close: some(800),
            reset: some(800),
            nonsense: some(800),
            half: some(800),
            change: some(3_000),
        });
    }
}

/// The relay with two doors: at the first the filter is asked, at the second nobody.
fn start(stage: &mut Stage, milter: &Milter, when_down: WhenDown) {
    let options = Options {
        name: "fake".into(),
        kind: Kind::Milter,
        place: Place::Inet(SocketAddr::new(milter.machine.ip(), PORT)),
        connect: Duration::from_nanos(BOUNDS[0]),
        command: Duration::from_nanos(BOUNDS[1]),
        message: Duration::from_nanos(BOUNDS[2]),
        when_down,
        skip_trusted: false,
        skip_authenticated: false,
    };
    let rt = stage.relay.boot();
    let (me, task_rt) = (stage.clone(), rt.clone());
    rt.spawn(async move {
        let opened = node::open(&task_rt, me.tables.clone(), me.storage.clone(), me.options.clone()).await;
        let (desk, _) = match opened {
            Ok(opened) => opened,
            Err(e) => return me.world.violation(format!("does not start: {e}")),
        };
        let filter = Filter::new(options, Box::new(|_, _| {}));
        let filtered = Door { filters: Rc::new([filter]), ..Door::default() };
        let doors = vec![filtered, Door::default()];
        *me.life.desk.borrow_mut() = Some(desk.clone());
        node::serve_at(&me.relay, &task_rt, me.tables.clone(), &desk, doors);
        me.life.open.set(true);
        me.world.pause(u64::MAX / 4).await;
    });
}

/// Letters in one session that nothing but the filter, if it is asked, can hold up: each must be answered in
/// time.
async fn timed(stage: &Stage, rt: SimRuntime, port: u16, letters: Vec<Letter>, most: u64) {
    let server = SocketAddr::new(stage.relay.ip(), port);
    let client = Client { rt, ledger: stage.ledger.clone(), server };
    let begun = stage.world.now();
    let count = letters.len() as u64;
    let ended =
        client.send(&letters, Style { pipelined: stage.world.chance(5_000), ..Style::honest() }).await;
    let took = stage.world.now() - begun;
    if ended.is_err() {
        stage.world.violation(format!("a session at port {port} broke off: {ended:?}"));
    }
    if took > most * count {
        stage.world.violation(format!("a session at port {port} took {} s for {count} letters", took / SEC));
    }
    if port == node::PORT + 1 {
        let ledger = stage.ledger.borrow();
        let all = letters.iter().all(|l| ledger.fate(l.number) == Some(Fate::Acked));
        if !all {
            stage.world.violation("a letter was not taken that no filter was asked about".to_owned());
        }
    }
}

fn letters(stage: &Stage, count: u64) -> Vec<Letter> {
    let first = stage.next.replace(stage.next.get() + count);
    (first..first + count).map(|n| Letter::random(&stage.world, n, stage.domains)).collect()
}

/// How long the filter can hold up a letter: the connection with its greetings, MAIL, each recipient, and the
/// message, each of them once.
fn patience(letters: &[Letter]) -> u64 {
    let recipients = letters.iter().map(|l| l.recipients.len() as u64).max().unwrap_or(0);
    BOUNDS[0] + (4 + recipients) * BOUNDS[1] + BOUNDS[2] + PROMPT
}

/// What was taken, or refused, against what the filter has said. `strict`: nothing goes on without it.
fn compare(stage: &Stage, milter: &Milter, filtered: &BTreeSet<u64>, strict: bool) {
    let ledger = stage.ledger.borrow();
    let taken = |number: &&u64| ledger.fate(**number) == Some(Fate::Acked);
    for number in milter.refused.borrow().iter().filter(taken) {
        stage.world.violation(format!("letter {number} was taken, and the filter had refused it"));
    }
    let passed = milter.passed.borrow();
    for number in filtered.iter().filter(taken).filter(|n| strict && !passed.contains(n)) {
        stage.world.violation(format!("letter {number} was taken without the filter"));
    }
}

async fn rough_days(stage: &Stage, milter: &Milter, filtered: &mut BTreeSet<u64>) {
    let world = stage.world.clone();
    for _ in 0..2 + world.below(5) {
        milter.misbehave();
        for _ in 0..1 + world.below(4) {
            let (asked, free) = (letters(stage, 1 + world.below(4)), letters(stage, 1 + world.below(2)));
            filtered.extend(asked.iter().map(|l| l.number));
            let patience = patience(&asked);
            for (port, letters, most) in [(0, asked, patience), (1, free, PROMPT)] {
                let (me, rt) = (stage.clone(), stage.clients.boot());
                let client = rt.clone();
                rt.spawn(async move { timed(&me, client, node::PORT + port, letters, most).await });
            }
            world.pause(world.below(3 * SEC)).await;
        }
        if world.chance(4_000) {
            milter.odd.set(milter.odd.get() + 1);
            milter.machine.kill(if world.chance(5_000) { Death::Power } else { Death::Process });
            world.pause(world.below(30 * SEC)).await;
            milter.boot();
        }
    }
}

/// `planted`: the relay goes on without the filter where the checks do not expect it to.
fn history(world: &World, planted: bool) -> History {
    let mut stage = Stage::new(world, 2, storage::Options::tiny(), node::options());
    let ledger = stage.ledger.clone();
    let w = world.clone();
    world.block_on(async move {
        let milter = Milter::new(&stage);
        milter.boot();
        let accepts = !planted && w.chance(3_000);
        let when_down = if accepts || planted { WhenDown::Accept } else { WhenDown::TempFail };
        start(&mut stage, &milter, when_down);
        w.pause(2 * SEC).await;
        let mut filtered = BTreeSet::new();
        rough_days(&stage, &milter, &mut filtered).await;
        // Then it is a good one, and those who waited for it have gone.
        milter.manners.set(Manners::default());
        w.pause(1_000 * SEC).await;
        let last = letters(&stage, 8);
        filtered.extend(last.iter().map(|l| l.number));
        let (most, rt) = (patience(&last), stage.clients.boot());
        timed(&stage, rt, node::PORT, last.clone(), most).await;
        for letter in &last {
            let taken = stage.ledger.borrow().fate(letter.number) == Some(Fate::Acked);
            if taken != unwanted(letter.number).is_none() {
                w.violation(format!("letter {} was taken: {taken}", letter.number));
            }
        }
        compare(&stage, &milter, &filtered, !accepts);
        for _ in 0..360 {
            if stage.ledger.borrow().owed().is_empty() {
                break;
            }
            w.pause(20 * SEC).await;
        }
        w.event("filter was odd", milter.odd.get(), milter.passed.borrow().len() as u64);
    });
    ledger.borrow().check(1).into_iter().for_each(|v| world.violation(v));
    History::of(world)
}

#[test]
fn filters_that_misbehave() {
    seeds::run_some("filters_that_misbehave", 60, |world| history(world, false));
}

/// The planted bug: a filter that is not there counts as one that lets all pass.
#[test]
fn mail_that_goes_on_without_its_filter_is_caught() {
    let found = seeds::caught(24, |world| history(world, true));
    let without = found.values().flatten().filter(|v| v.ends_with("without the filter")).count();
    assert!(without > 0, "not seen in 24 seeds: {found:?}");
}

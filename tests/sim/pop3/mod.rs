//! Histories of POP3: clients that log in on either core of a machine, read and delete, slowly, cut
//! anywhere, and break off; mail that comes in meanwhile; kills at any moment. What a client was told to
//! be deleted is gone, all of it or none; what was delivered is there, octet for octet, under the same
//! UIDL; one session at a time has a maildrop; what is counted for sessions is given back.

mod client;
mod node;

use crate::machine::Machine;
use crate::net::{NetFaults, SimNet};
use crate::seeds::{self, History};
use crate::world::{Death, MS, SEC, World};
use client::Client;
use node::{Core, Counted, PASSWORD, PORT, USERS, Wish};
use ringpost::access::gate::Door;
use ringpost::base::time::{Mono, Wall};
use ringpost::mailbox::api::{Content, Incoming, Mailboxes, Target};
use ringpost::mailbox::types::Flags;
use ringpost::message::body::BodyFacts;
use ringpost::pop3::inbound;
use ringpost::runtime::Runtime;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One message as the world outside knows it.
#[derive(Clone, Default, Debug)]
struct Known {
    /// Its delivery was acknowledged.
    acked: bool,
    /// The client was told that it is deleted.
    gone: bool,
    /// The QUIT that may have deleted it.
    going: Option<u64>,
    uidl: Option<String>,
}

#[derive(Default)]
struct Book {
    /// By user, by number of the message.
    drops: BTreeMap<&'static str, BTreeMap<u64, Known>>,
    /// Who has the maildrop, as far as clients know.
    holders: BTreeMap<&'static str, u64>,
    last: u64,
}

type SharedBook = Rc<RefCell<Book>>;

/// Content of message `n`: all that is hard on the way.
pub fn content(n: u64) -> Vec<u8> {
    let mut out = format!("Subject: {n}\r\n\r\n").into_bytes();
    let more = n * 37 % 2000;
    match n % 7 {
        0 => out.extend_from_slice(b".\r\n..\r\n.a\r\n\r\n.\r\n"),
        1 => out.extend((0..more).flat_map(|i| [0x80 | i as u8, b'x', b'\r', b'\n'])),
        2 => out.extend_from_slice(b"no end of line"),
        3 => {}
        4 => out.extend((0..more * 9).map(|i| b'a' + (i % 26) as u8)),
        5 => out.extend((0..20 * more).flat_map(|i| format!(".{i}\r\n").into_bytes())),
        _ => out.extend((0..more / 8).flat_map(|i| format!("line {i}\r\n").into_bytes())),
    }
    out
}

fn number(bytes: &[u8]) -> Option<u64> {
    let rest = bytes.strip_prefix(b"Subject: ")?;
    let end = rest.iter().position(|b| *b == b'\r')?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

/// Delivers message `n`. `false`: not now.
pub async fn deliver(core: &Core, login: &str, n: u64) -> bool {
    let bytes = content(n);
    let has_dot_lines = bytes.starts_with(b".") || bytes.windows(2).any(|w| w == b"\n.");
    let facts = BodyFacts { len: bytes.len() as u64, has_dot_lines, ..BodyFacts::default() };
    let Some(account) = core.shard.account(login).await else { return false };
    let slices = [&bytes[..]];
    let (head, body) = bytes.split_at(bytes.len().min(12));
    let large = bytes.len() + 100 > core.shard.inline_max() || n.is_multiple_of(3);
    let content = if large {
        let Ok(mut writer) = core.shard.begin_large().await else { return false };
        if writer.write(body).await.is_err() {
            return false;
        }
        match writer.finish().await {
            Ok(file) => Content::Large { head, file },
            Err(_) => return false,
        }
    } else {
        Content::Slices(&slices)
    };
    let message = Incoming { content, facts, summary: b"", internal: Wall(1), guid: None, uidl: b"" };
    let target = Target { account, mailbox: "", flags: Flags::default(), id: None, promised: true };
    core.shard.deliver(message, &[target]).await.pop().is_some_and(|answer| answer.is_ok())
}

/// Mail comes in for ever.
async fn deliver_for_ever(world: World, cores: Vec<Core>, book: SharedBook) {
    loop {
        let login = USERS[world.below(4) as usize];
        let n = {
            let mut book = book.borrow_mut();
            book.last += 1;
            let n = book.last;
            book.drops.entry(login).or_default().insert(n, Known::default());
            n
        };
        if deliver(&cores[node::core_of(login)], login, n).await {
            let mut book = book.borrow_mut();
            book.drops.get_mut(login).and_then(|d| d.get_mut(&n)).expect("just put there").acked = true;
        }
        world.pause(world.below(20 * MS)).await;
    }
}

/// One user's mail program.
struct Reader {
    world: World,
    net: SimNet,
    server: IpAddr,
    book: SharedBook,
    id: u64,
}

/// Sessions that read something to its end, by whether they moved.
static READ: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

impl Reader {
    async fn for_ever(self) {
        let me = IpAddr::from([10, 9, 0, self.id as u8]);
        loop {
            let core = self.world.below(2);
            let to = SocketAddr::new(self.server, PORT + core as u16);
            let deadline = Mono(self.world.now() + 10 * SEC);
            if let Ok(stream) = self.net.connect(me, to, deadline).await {
                let login = USERS[self.world.below(4) as usize];
                let mut client = Client::new(&self.world, stream);
                client.slow = self.world.below(4) == 0;
                let moves = node::core_of(login) as u64 != core;
                if self.session(&mut client, login).await.is_some() {
                    READ[usize::from(moves)].fetch_add(1, Ordering::Relaxed);
                }
                if self.world.below(2) == 0 {
                    client.abort();
                }
            }
            self.world.pause(self.world.below(30 * MS)).await;
        }
    }

    fn violation(&self, text: String) {
        self.world.violation(text);
    }

    /// Logs in; `None`: that was it.
    async fn login(&self, client: &mut Client, login: &'static str) -> Option<Vec<Vec<u8>>> {
        let pass = format!("USER {login}\r\nPASS {PASSWORD}\r\n");
        let plain = {
            use base64::Engine;
            let text = format!("\0{login}\0{PASSWORD}");
            format!("AUTH PLAIN {}\r\n", base64::engine::general_purpose::STANDARD.encode(text))
        };
        let by_sasl = self.world.below(2) == 0;
        let said = if by_sasl { plain } else { pass };
        // At once, all of it: what follows the login moves along.
        client.say(format!("{said}UIDL\r\n").as_bytes()).await?;
        client.reply().await.filter(|banner| banner.starts_with("+OK"))?;
        if !by_sasl {
            client.reply().await?;
        }
        let reply = client.reply().await?;
        if !reply.starts_with("+OK ") || !reply.contains("messages") {
            let allowed = ["[IN-USE]", "[SYS/TEMP]"];
            if !allowed.iter().any(|code| reply.contains(code)) {
                self.violation(format!("{login} cannot log in: {reply}"));
            }
            return None;
        }
        let uidl = client.reply().await?;
        if uidl != "+OK" {
            // The disk.
            return None;
        }
        client.lines().await
    }

    /// A command whose answer proves that the maildrop is still ours.
    fn holds(&self, login: &'static str, answered: bool, held: bool) {
        if answered && !held {
            self.violation(format!("two sessions have the maildrop of {login}"));
        }
    }

    fn is_mine(&self, login: &'static str) -> bool {
        self.book.borrow().holders.get(login) == Some(&self.id)
    }

    async fn session(&self, client: &mut Client, login: &'static str) -> Option<()> {
        let before: BTreeMap<u64, Known> = self.book.borrow().drops.get(login).cloned().unwrap_or_default();
        let list = self.login(client, login).await?;
        self.book.borrow_mut().holders.insert(login, self.id);
        let mut found = BTreeMap::new();
        for line in &list {
            let line = String::from_utf8_lossy(line).trim_end().to_owned();
            let (number, uidl) = line.split_once(' ')?;
            let mine = self.is_mine(login);
            let n = self.read(client, login, number).await?;
            self.holds(login, true, mine);
            self.check_uidl(login, n, uidl);
            found.insert(n, number.to_owned());
        }
        self.check(login, &before, &found);
        self.delete(client, login, &found).await
    }

    /// Fetches a message: which one it is.
    async fn read(&self, client: &mut Client, login: &str, number: &str) -> Option<u64> {
        client.say(format!("RETR {number}\r\n").as_bytes()).await?;
        let reply = client.reply().await?;
        if !reply.starts_with("+OK") {
            self.violation(format!("{login}: RETR {number}: {reply}"));
            return None;
        }
        let bytes = client.lines().await?.concat();
        let n = number_of(&bytes);
        let mut expected = n.map(content).unwrap_or_default();
        if !expected.ends_with(b"\r\n") {
            expected.extend_from_slice(b"\r\n");
        }
        if bytes != expected {
            self.violation(format!("altered: message {n:?} of {login}, {} bytes", bytes.len()));
        }
        n
    }

    fn check_uidl(&self, login: &'static str, n: u64, uidl: &str) {
        let mut book = self.book.borrow_mut();
        let drop = book.drops.entry(login).or_default();
        let other = drop.iter().any(|(m, k)| *m != n && k.uidl.as_deref() == Some(uidl));
        let known = drop.entry(n).or_default();
        let kept = known.uidl.get_or_insert_with(|| uidl.to_owned()) == uidl;
        if other || !kept {
            self.violation(format!("UIDL {uidl} of message {n} of {login}: {other} {:?}", known.uidl));
        }
    }

    /// What is there is what must be, and what may be.
    fn check(&self, login: &'static str, before: &BTreeMap<u64, Known>, found: &BTreeMap<u64, String>) {
        let mut book = self.book.borrow_mut();
        let drop = book.drops.entry(login).or_default();
        let mut quits: BTreeMap<u64, BTreeSet<bool>> = BTreeMap::new();
        for (n, old) in before {
            let there = found.contains_key(n);
            // Another session may have ended while we were on the way.
            let k = drop.get_mut(n).expect("never taken out");
            if there && old.gone {
                self.world.violation(format!("message {n} of {login} was deleted and is back"));
            }
            if !there && old.acked && !k.gone && k.going.is_none() {
                self.world.violation(format!("lost: message {n} of {login}, {k:?}"));
            }
            if let Some(quit) = k.going.filter(|_| !k.gone) {
                quits.entry(quit).or_default().insert(there);
                (k.going, k.gone) = (None, !there);
            }
        }
        if let Some((quit, _)) = quits.iter().find(|(_, there)| there.len() > 1) {
            self.world.violation(format!("half: QUIT {quit} of {login} has deleted some, not all"));
        }
    }

    /// Marks some, and ends in one way or another.
    async fn delete(
        &self,
        client: &mut Client,
        login: &'static str,
        found: &BTreeMap<u64, String>,
    ) -> Option<()> {
        let some: Vec<u64> = found.keys().filter(|_| self.world.below(3) == 0).copied().collect();
        for n in &some {
            client.say(format!("DELE {}\r\n", found[n]).as_bytes()).await?;
            client.reply().await.filter(|reply| reply.starts_with("+OK"))?;
        }
        if self.world.below(4) == 0 {
            // Without QUIT nothing is deleted.
            return Some(());
        }
        let quit = self.world.now();
        let note = |f: &dyn Fn(&mut Known)| {
            let mut book = self.book.borrow_mut();
            let drop = book.drops.entry(login).or_default();
            some.iter().for_each(|n| f(drop.get_mut(n).expect("just read")));
        };
        let mine = self.is_mine(login);
        note(&|k| k.going = Some(quit));
        client.say(b"QUIT\r\n").await?;
        let reply = client.reply().await?;
        self.holds(login, reply.starts_with("+OK"), mine);
        if reply.starts_with("+OK") {
            note(&|k| k.gone = true);
        } else if reply.contains("Nothing has been deleted") {
            note(&|k| k.going = None);
        }
        Some(())
    }
}

fn number_of(bytes: &[u8]) -> Option<u64> {
    number(bytes)
}

struct Site {
    world: World,
    net: SimNet,
    machine: Machine,
    book: SharedBook,
}

impl Site {
    async fn life(&self, long: u64) {
        let (world, counted) = (&self.world, Counted::default());
        let rt = self.machine.boot();
        self.book.borrow_mut().holders.clear();
        let wish = Wish {
            session: inbound::Options { last: false, ..inbound::Options::production() },
            door: Door { service: "pop3", ..Door::default() },
            refuses: true,
        };
        let (task_rt, book, in_use) = (rt.clone(), self.book.clone(), counted.clone());
        rt.spawn(async move {
            match node::start(&task_rt, &in_use, wish).await {
                Ok(cores) => deliver_for_ever(task_rt.world().clone(), cores, book).await,
                Err(e) => task_rt.world().violation(format!("does not start: {e}")),
            }
        });
        for id in 1..4 {
            let reader = Reader {
                world: world.clone(),
                net: self.net.clone(),
                server: self.machine.ip(),
                book: self.book.clone(),
                id,
            };
            world.spawn(READERS, reader.for_ever());
        }
        world.pause(long).await;
        self.machine.kill(if world.below(2) == 0 { Death::Power } else { Death::Process });
        if counted.count() != 0 {
            world.violation(format!("{} permits are not given back", counted.count()));
        }
        world.kill(READERS, Death::Process);
    }
}

/// The node of the readers.
const READERS: u32 = 9;

fn history(world: &World) -> History {
    let net = SimNet::new(world);
    let site = Site {
        world: world.clone(),
        machine: Machine::new(world, &net, 1),
        net,
        book: SharedBook::default(),
    };
    let w = world.clone();
    world.block_on(async move {
        let stormy = NetFaults { reset: 1_000, slow: 20, tiny: w.below(4) == 0, ..NetFaults::default() };
        let faults = if w.below(3) == 0 { NetFaults::default() } else { stormy };
        site.net.set_faults(faults);
        for _ in 0..2 + w.below(3) {
            site.life(w.below(SEC)).await;
        }
        // The last one finds what the others have left.
        site.net.set_faults(NetFaults::default());
        site.life(SEC).await;
    });
    History::of(world)
}

#[test]
fn pop3_histories() {
    seeds::run_long("pop3_histories", 16, history);
    let one = std::env::var_os("SIM_SEED").is_some();
    let read = READ.each_ref().map(|count| count.load(Ordering::Relaxed));
    assert!(one || read.iter().all(|count| *count > 0), "nobody has read anything: {read:?}");
}

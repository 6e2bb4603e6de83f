//! Histories of IMAP: clients on both cores of a machine that append, flag, copy, move, expunge and idle in
//! the same mailboxes, slowly, cut anywhere, and break off; kills at any moment. What a client was told to
//! be done is done after a restart; nothing that was appended is lost unless somebody has expunged it; no
//! UID is given twice; sequence numbers are those that were told; content comes back octet for octet; QRESYNC
//! tells exactly the difference ([`resync`]).

mod client;
mod node;
mod resync;

use crate::disk::DiskFaults;
use crate::machine::Machine;
use crate::net::{NetFaults, SimNet};
use crate::seeds::{self, History};
use crate::world::{Death, MS, SEC, World};
use client::{Client, number_behind};
use node::{Counted, PASSWORD, PORT, USERS, Wish};
use resync::{SharedCopy, Syncer};
use ringpost::access::gate::Door;
use ringpost::base::time::Mono;
use ringpost::imap::session::Options;
use ringpost::runtime::Runtime;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is known of a message in INBOX, by user and UID.
#[derive(Clone, Debug)]
struct Known {
    /// Its content; 0: who has appended it has not been told.
    n: u64,
    /// Somebody may have expunged or moved it.
    may_go: bool,
    /// Somebody was told that it is gone.
    gone: bool,
    /// `\Flagged` was acknowledged, and nobody takes it away.
    flagged: bool,
}

#[derive(Default)]
struct Book {
    inbox: BTreeMap<(&'static str, u32), Known>,
    /// UIDVALIDITY of each user's INBOX, as it was told first.
    validity: BTreeMap<&'static str, u32>,
    last: u64,
}

type SharedBook = Rc<RefCell<Book>>;

/// Content of message `n`.
fn content(n: u64) -> String {
    let lines = match n % 4 {
        0 => 1,
        1 => n * 7 % 50,
        2 => n * 31 % 900,
        _ => 4000,
    };
    let body: String = (0..lines).map(|i| format!("line {i} of {n}\r\n")).collect();
    format!("Subject: {n}\r\nMIME-Version: 1.0\r\n\r\n{body}")
}

/// Commands that were done, by whether their session had moved.
static DONE: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

struct User {
    world: World,
    net: SimNet,
    server: IpAddr,
    book: SharedBook,
    id: u64,
}

impl User {
    async fn for_ever(self) {
        let me = IpAddr::from([10, 9, 0, self.id as u8]);
        loop {
            let core = self.world.below(2);
            let to = SocketAddr::new(self.server, PORT + core as u16);
            let deadline = Mono(self.world.now() + 10 * SEC);
            if let Ok(stream) = self.net.connect(me, to, deadline).await {
                let login = USERS[self.world.below(2) as usize];
                let mut client = Client::new(&self.world, stream);
                client.slow = self.world.below(4) == 0;
                let moves = node::core_of(login) as u64 != core;
                self.session(&mut client, login, moves).await;
                if self.world.below(2) == 0 {
                    client.abort();
                }
            }
            self.world.pause(self.world.below(30 * MS)).await;
        }
    }

    async fn session(&self, client: &mut Client, login: &'static str, moves: bool) -> Option<()> {
        client.response().await?;
        let done = client.command(&format!("LOGIN {login} \"{PASSWORD}\"")).await?;
        if !done.is_ok() {
            return None;
        }
        let before = self.book.borrow().inbox.clone();
        client.known.clear();
        if !client.command("SELECT INBOX").await?.is_ok() {
            return None;
        }
        self.look(client, login, &before).await?;
        for _ in 0..self.world.below(12) {
            let what = self.world.below(9);
            match what {
                0 | 1 => self.append(client, login).await?,
                2 => self.flag(client, login).await?,
                3 => self.fetch(client, login).await?,
                4 => self.expunge(client, login).await?,
                5 => self.remove(client, login).await?,
                6 => self.idle(client).await?,
                7 => drop(client.command("SEARCH RETURN (COUNT) BODY \"line 3 of\"").await?),
                _ => drop(client.command("NOOP").await?),
            }
            DONE[usize::from(moves)].fetch_add(1, Ordering::Relaxed);
        }
        client.command("LOGOUT").await.map(drop)
    }

    fn violation(&self, text: String) {
        self.world.violation(text);
    }

    /// What is there is what must be.
    async fn look(
        &self,
        client: &mut Client,
        login: &'static str,
        before: &BTreeMap<(&'static str, u32), Known>,
    ) -> Option<()> {
        let done = client.command("FETCH 1:* (UID FLAGS RFC822.SIZE)").await?;
        if !done.is_ok() {
            self.violation(format!("FETCH: {}", done.tagged));
        }
        let found: BTreeMap<u32, &String> = done
            .untagged
            .iter()
            .filter(|r| r.contains(" FETCH ("))
            .filter_map(|r| Some((number_behind(r, "UID ")?, r)))
            .collect();
        for ((_, uid), known) in before.range((login, 0)..=(login, u32::MAX)) {
            match found.get(uid) {
                // Whoever expunges something says so before.
                None if !self.book.borrow().inbox[&(login, *uid)].may_go => {
                    self.violation(format!("lost: {login} {uid} {known:?}"));
                }
                Some(_) if known.gone => self.violation(format!("back: {login} {uid} {known:?}")),
                Some(r) => {
                    if known.flagged && !r.contains("\\Flagged") {
                        self.violation(format!("a flag of {login} {uid} is lost: {r}"));
                    }
                    let size = number_behind(r, "RFC822.SIZE ");
                    if known.n != 0 && size != Some(content(known.n).len() as u32) {
                        self.violation(format!("size of {login} {uid}: {r}"));
                    }
                }
                None => {}
            }
        }
        Some(())
    }

    async fn append(&self, client: &mut Client, login: &'static str) -> Option<()> {
        let n = {
            let mut book = self.book.borrow_mut();
            book.last += 1;
            book.last
        };
        let text = content(n);
        let done = client.command(&format!("APPEND INBOX {{{}+}}\r\n{text}", text.len())).await?;
        let validity = number_behind(&done.tagged, "[APPENDUID ");
        let uid = validity.and_then(|v| number_behind(&done.tagged, &format!("[APPENDUID {v} ")));
        match uid {
            Some(uid) => {
                let told = validity.unwrap_or_default();
                if *self.book.borrow_mut().validity.entry(login).or_insert(told) != told {
                    self.violation(format!("{login}: UIDVALIDITY {told} is another than before"));
                }
                let known = Known { n, may_go: false, gone: false, flagged: false };
                let mut book = self.book.borrow_mut();
                // Others see it before we are told, and may have marked it by now.
                if book.inbox.get(&(login, uid)).is_some_and(|k| k.n != 0 && k.n != n) {
                    self.violation(format!("{login}: UID {uid} is given twice"));
                }
                book.inbox.entry((login, uid)).or_insert(known).n = n;
            }
            None if done.is_ok() => self.violation(format!("APPEND: {}", done.tagged)),
            None => {}
        }
        Some(())
    }

    /// The UID of some message, as the client knows it.
    async fn some(&self, client: &mut Client) -> Option<Option<(usize, u32)>> {
        if client.known.is_empty() {
            return Some(None);
        }
        let at = self.world.below(client.known.len() as u64) as usize;
        if client.known[at].is_none() {
            let done = client.command(&format!("FETCH {} UID", at + 1)).await?;
            if !done.is_ok() {
                self.violation(format!("FETCH {}: {}", at + 1, done.tagged));
            }
        }
        Some(client.known[at].map(|uid| (at + 1, uid)))
    }

    async fn flag(&self, client: &mut Client, login: &'static str) -> Option<()> {
        let Some((seq, uid)) = self.some(client).await? else { return Some(()) };
        let by_uid = self.world.below(2) == 0;
        let command = match by_uid {
            true => format!("UID STORE {uid} +FLAGS (\\Flagged)"),
            false => format!("STORE {seq} +FLAGS.SILENT (\\Flagged)"),
        };
        let done = client.command(&command).await?;
        let told = !by_uid || done.untagged.iter().any(|r| r.contains(" FETCH ("));
        if done.is_ok() && told {
            self.note(login, uid, |k| k.flagged = true);
        }
        Some(())
    }

    fn note(&self, login: &'static str, uid: u32, f: impl Fn(&mut Known)) {
        let mut book = self.book.borrow_mut();
        // What others append is seen before they are told.
        let unknown = Known { n: 0, may_go: false, gone: false, flagged: false };
        f(book.inbox.entry((login, uid)).or_insert(unknown));
    }

    async fn fetch(&self, client: &mut Client, login: &'static str) -> Option<()> {
        let Some((seq, uid)) = self.some(client).await? else { return Some(()) };
        let known = self.book.borrow().inbox.get(&(login, uid)).map(|k| k.n);
        let done = client.command(&format!("FETCH {seq} BODY.PEEK[]")).await?;
        let body = done.untagged.iter().find_map(|r| r.split_once("}\r\n"));
        if let (true, Some(n @ 1..), Some((_, body))) = (done.is_ok(), known, body) {
            let sent = content(n);
            if body.strip_suffix(')') != Some(&sent) {
                self.violation(format!("altered: {login} {uid}, {} bytes for {}", body.len(), sent.len()));
            }
        }
        Some(())
    }

    async fn expunge(&self, client: &mut Client, login: &'static str) -> Option<()> {
        let Some((_, uid)) = self.some(client).await? else { return Some(()) };
        self.note(login, uid, |k| k.may_go = true);
        client.command(&format!("UID STORE {uid} +FLAGS.SILENT (\\Deleted)")).await?;
        let done = client.command(&format!("UID EXPUNGE {uid}")).await?;
        if done.is_ok() {
            if client.known.contains(&Some(uid)) {
                self.violation(format!("{login}: {uid} is expunged and not told"));
            }
            self.note(login, uid, |k| k.gone = true);
        }
        Some(())
    }

    /// Moves a message into Trash: it is there or here.
    async fn remove(&self, client: &mut Client, login: &'static str) -> Option<()> {
        let Some((_, uid)) = self.some(client).await? else { return Some(()) };
        self.note(login, uid, |k| k.may_go = true);
        let done = client.command(&format!("UID MOVE {uid} Trash")).await?;
        let moved = done.untagged.iter().any(|r| r.contains("[COPYUID "));
        if done.is_ok() && moved {
            self.note(login, uid, |k| k.gone = true);
        }
        Some(())
    }

    async fn idle(&self, client: &mut Client) -> Option<()> {
        client.say(b"i IDLE\r\n").await?;
        let mut said = false;
        let until = self.world.now() + self.world.below(300 * MS);
        loop {
            if !said && (self.world.now() >= until || self.world.below(3) == 0) {
                client.say(b"DONE\r\n").await?;
                said = true;
            }
            if !said {
                self.world.pause(20 * MS).await;
                continue;
            }
            let response = client.response().await?;
            if response.starts_with("i ") {
                return Some(());
            }
            client.believe(&response);
        }
    }
}

struct Site {
    world: World,
    net: SimNet,
    machine: Machine,
    book: SharedBook,
    /// What clients with QRESYNC keep.
    copies: [SharedCopy; 3],
    /// The disk says "durable" before it is.
    lying: bool,
}

impl Site {
    async fn life(&self, number: u64, long: u64) {
        let (world, counted) = (&self.world, Counted::default());
        let rt = self.machine.boot();
        let wish = Wish {
            session: Options::production(),
            door: Door { service: "imap", ..Door::default() },
            refuses: true,
        };
        let (task_rt, in_use) = (rt.clone(), counted.clone());
        rt.spawn(async move {
            match node::start(&task_rt, &in_use, wish).await {
                Ok(_shards) => std::future::pending().await,
                Err(e) => task_rt.world().violation(format!("does not start: {e}")),
            }
        });
        for id in 1..5 {
            let user = User {
                world: world.clone(),
                net: self.net.clone(),
                server: self.machine.ip(),
                book: self.book.clone(),
                id,
            };
            world.spawn(USERS_NODE, user.for_ever());
        }
        for (id, copy) in (0..).zip(&self.copies) {
            let (world, net, copy) = (world.clone(), self.net.clone(), copy.clone());
            let syncer = Syncer { world, net, server: self.machine.ip(), copy, id, life: number };
            self.world.spawn(USERS_NODE, syncer.for_ever());
        }
        world.pause(long).await;
        let power = self.lying || world.below(2) == 0;
        self.machine.kill(if power { Death::Power } else { Death::Process });
        if counted.count() != 0 {
            world.violation(format!("{} permits are not given back", counted.count()));
        }
        world.kill(USERS_NODE, Death::Process);
    }
}

/// The node of the users.
const USERS_NODE: u32 = 9;

fn history(world: &World, lying: bool) -> History {
    let net = SimNet::new(world);
    let machine = Machine::new(world, &net, 1);
    let (book, copies) = (SharedBook::default(), Default::default());
    let site = Site { world: world.clone(), machine, net, book, copies, lying };
    site.machine.disk.set_faults(DiskFaults { lying, ..DiskFaults::default() });
    let w = world.clone();
    world.block_on(async move {
        let stormy = NetFaults { reset: 1_000, slow: 20, tiny: w.below(4) == 0, ..NetFaults::default() };
        let faults = if w.below(3) == 0 { NetFaults::default() } else { stormy };
        site.net.set_faults(faults);
        let lives = 2 + w.below(3);
        for number in 0..lives {
            site.life(number, w.below(3 * SEC)).await;
        }
        // The last one finds what the others have left.
        site.net.set_faults(NetFaults::default());
        site.life(lives, 3 * SEC).await;
    });
    History::of(world)
}

/// The planted bug: a disk that says "durable" before it is. Clients with QRESYNC see it.
#[test]
fn mod_sequences_of_a_lying_disk_are_caught() {
    let found = seeds::caught(12, |world| history(world, true));
    let back = found.values().flatten().filter(|v| v.starts_with("resync: ")).count();
    assert!(back > 0, "no client has seen it in 12 seeds: {found:?}");
}

#[test]
fn imap_histories() {
    seeds::run_long("imap_histories", 40, |world| history(world, false));
    let one = std::env::var_os("SIM_SEED").is_some();
    let synced = resync::DONE.each_ref().map(|count| count.load(Ordering::Relaxed));
    assert!(one || synced.iter().all(|count| *count > 0), "no copy was brought up to date: {synced:?}");
    let done = DONE.each_ref().map(|count| count.load(Ordering::Relaxed));
    assert!(one || done.iter().all(|count| *count > 0), "nobody has done anything: {done:?}");
}

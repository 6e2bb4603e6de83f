//! Histories of a mailbox shard: deliveries, flags, expunges and copies on a machine that is killed, loses
//! power, has a bad or a full disk and comes back. What was acknowledged is there, under the same UID;
//! what was not may be there or not, but nothing else; UIDs rise and are never used again.

use crate::disk::DiskFaults;
use crate::journal::swarm;
use crate::machine::{Machine, SimRuntime};
use crate::net::SimNet;
use crate::seeds::{self, History};
use crate::world::{Death, MS, World};
use ringpost::base::time::Wall;
use ringpost::mailbox::api::{Alter, Content, Incoming, Mailboxes, Reader, Refusal, Selected, Target};
use ringpost::mailbox::store::opening::{Parts, Recovery};
use ringpost::mailbox::store::{Open, Options, Store};
use ringpost::mailbox::types::{AccountId, DeliveryId, Flags, Quota, UidSet};
use ringpost::message::body::BodyFacts;
use ringpost::runtime::{Disk, Runtime};
use ringpost::storage::{self, Poison, archive};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const FOLDER: &str = "/data/mailbox/0000";

/// What is known of one message outside of the machine.
#[derive(Clone, Default, Debug)]
struct Known {
    /// Which content it has.
    body: u64,
    /// Flags that were acknowledged.
    flags: u8,
    /// Flags that it may have besides: a change is under way, or was when the machine stopped.
    maybe: Option<u8>,
    /// An expunge was acknowledged.
    gone: bool,
    /// One is, or was, under way.
    going: bool,
}

/// What is known outside of the machine.
#[derive(Default)]
struct Book {
    account: Option<AccountId>,
    uidvalidity: Option<u32>,
    messages: BTreeMap<u32, Known>,
    /// Deliveries that were begun: content of each.
    begun: BTreeSet<u64>,
    /// Those that were acknowledged.
    acknowledged: BTreeSet<u64>,
    last: u64,
}

type SharedBook = Rc<RefCell<Book>>;

fn body(n: u64) -> Vec<u8> {
    let len = 20 + n * 37 % 3000;
    let mut out = n.to_le_bytes().to_vec();
    out.extend((0..len).map(|i| (n * 131 + i * 7 + (i >> 8)) as u8));
    out
}

fn number(bytes: &[u8]) -> Option<u64> {
    let n = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    (bytes == body(n)).then_some(n)
}

#[derive(Clone)]
struct Owner {
    world: World,
    store: Store<SimRuntime>,
    book: SharedBook,
}

impl Owner {
    /// Opens the shard and checks it against the book. `Err`: the disk did not let us.
    async fn start(rt: &SimRuntime, book: &SharedBook) -> Result<Self, String> {
        let storage = storage::Options { lock_wait: Duration::from_secs(60), ..storage::Options::tiny() };
        let archive = archive::Options { lock_wait: Duration::from_secs(60), ..archive::Options::tiny() };
        let options = Options { archive, resident_max: 0, changes_max: 200, ..Options::default() };
        let parts = Parts { rt: rt.clone(), storage, poison: Poison::new(), options };
        let (store, found) = Store::open(Path::new(FOLDER), parts).await.map_err(|e| e.to_string())?;
        let world = rt.world().clone();
        let owner = Owner { world, store, book: book.clone() };
        owner.check_report(&found);
        if owner.book.borrow().account.is_none() {
            owner.account().await;
        }
        owner.check().await;
        Ok(owner)
    }

    fn check_report(&self, found: &Recovery) {
        self.world.event("opened", found.journal.records, u64::from(found.journal.tears));
        if found.rebuilt.is_some() || !found.malformed.is_empty() || found.journal.damage_count > 0 {
            self.world.violation(format!("a crash is taken for damage: {found:?}"));
        }
    }

    async fn account(&self) {
        // It may have been made by a run that was not told.
        let found = match self.store.account("a").await {
            Some(account) => Some(account),
            None => self
                .store
                .create_account("a", &[("Trash", None)], Quota::default())
                .await
                .ok()
                .map(|d| d.value),
        };
        self.book.borrow_mut().account = found;
    }

    async fn inbox(&self) -> Option<Open<SimRuntime>> {
        self.open("INBOX").await
    }

    async fn open(&self, mailbox: &str) -> Option<Open<SimRuntime>> {
        let account = self.book.borrow().account?;
        match self.store.select(account, mailbox).await {
            Ok(open) => Some(open),
            // A disk that cannot be read.
            Err(Refusal::Damaged | Refusal::Closed) => None,
            Err(e) => {
                self.world.violation(format!("lost: {mailbox}: {e}"));
                None
            }
        }
    }

    /// What is in the mailbox is what the book says.
    async fn check(&self) {
        let Some(inbox) = self.inbox().await else { return };
        let status = inbox.status();
        let expected = *self.book.borrow_mut().uidvalidity.get_or_insert(status.uidvalidity);
        if status.uidvalidity != expected {
            self.world.violation(format!("UIDVALIDITY was {expected}, is {}", status.uidvalidity));
        }
        let found: Vec<_> = (1..=inbox.exists()).filter_map(|seq| inbox.message(seq)).collect();
        if status.messages as usize != found.len() || found.iter().any(|m| m.uid >= status.uidnext) {
            self.world.violation(format!("the counters do not fit: {status:?} of {} messages", found.len()));
        }
        self.check_known(&inbox).await;
        let uids: BTreeSet<u32> = self.book.borrow().messages.keys().copied().collect();
        for m in found.iter().filter(|m| !uids.contains(&m.uid)) {
            self.check_new(&inbox, m.uid, m.flags.0).await;
        }
        self.check_copies().await;
    }

    async fn check_known(&self, inbox: &Open<SimRuntime>) {
        let known: Vec<(u32, Known)> =
            self.book.borrow().messages.iter().map(|(u, k)| (*u, k.clone())).collect();
        for (uid, k) in known {
            let found = inbox.seq(uid).and_then(|seq| inbox.message(seq));
            match found {
                Some(_) if k.gone => self.world.violation(format!("expunged message {uid} is back")),
                None if !k.gone && !k.going => self.world.violation(format!("lost: message {uid}, {k:?}")),
                None => self.settle(uid, |k| k.gone = true),
                Some(m) => {
                    let fits = m.flags.0 == k.flags || k.maybe == Some(m.flags.0);
                    if !fits {
                        self.world.violation(format!("flags of {uid}: {:?}, {k:?}", m.flags));
                    }
                    self.read(inbox, uid, Some(k.body)).await;
                    self.settle(uid, |k| {
                        (k.flags, k.maybe, k.going) = (m.flags.0, None, false);
                    });
                }
            }
        }
    }

    fn settle(&self, uid: u32, f: impl FnOnce(&mut Known)) {
        f(self.book.borrow_mut().messages.get_mut(&uid).expect("known"));
    }

    /// Copies are of what was delivered; how many there are nobody has written down.
    async fn check_copies(&self) {
        let Some(trash) = self.open("Trash").await else { return };
        for uid in (1..=trash.exists()).filter_map(|seq| trash.message(seq)).map(|m| m.uid) {
            if let Some(n) = self.read(&trash, uid, None).await
                && !self.book.borrow().begun.contains(&n)
            {
                self.world.violation(format!("invented: copy {uid} with content {n}"));
            }
        }
    }

    /// A message nobody was told of: it must be one that was begun, once, above all others.
    async fn check_new(&self, inbox: &Open<SimRuntime>, uid: u32, flags: u8) {
        let Some(n) = self.read(inbox, uid, None).await else { return };
        let mut book = self.book.borrow_mut();
        let twice = book.acknowledged.contains(&n) || book.messages.values().any(|k| k.body == n);
        if twice || !book.begun.contains(&n) {
            self.world.violation(format!("invented: message {uid} with content {n}, twice: {twice}"));
        }
        book.messages.insert(uid, Known { body: n, flags, ..Known::default() });
    }

    /// Reads a message; which content it has.
    async fn read(&self, inbox: &Open<SimRuntime>, uid: u32, expected: Option<u64>) -> Option<u64> {
        let mut bytes = Vec::new();
        let mut reader = match inbox.read(uid, 0..u64::MAX).await {
            Ok(reader) => reader,
            // A disk that cannot be read; what is really damaged is found in the last life.
            Err(Refusal::Damaged) => return None,
            Err(e) => {
                self.world.violation(format!("lost: content of message {uid}: {e}"));
                return None;
            }
        };
        while let Ok(Some(piece)) = reader.next().await {
            bytes.extend_from_slice(&piece);
        }
        let n = number(&bytes);
        if n.is_none() || expected.is_some() && n != expected {
            self.world.violation(format!("altered: message {uid} is {n:?}, should be {expected:?}"));
        }
        n
    }

    async fn deliver(&self, n: u64, account: AccountId) -> Result<(), Refusal> {
        let highest = {
            let mut book = self.book.borrow_mut();
            book.begun.insert(n);
            book.messages.last_key_value().map_or(0, |(uid, _)| *uid)
        };
        let bytes = body(n);
        let facts = BodyFacts { len: bytes.len() as u64, ..BodyFacts::default() };
        let content = Content::Slices(&[&bytes]);
        let message = Incoming { content, facts, summary: b"s", internal: Wall(1), guid: None, uidl: b"" };
        let id = Some(DeliveryId { log: 1, message: n, recipient: 0 });
        let target = Target { account, mailbox: "", flags: Flags::default(), id, promised: true };
        let mut answers = self.store.deliver(message, &[target]).await;
        let delivered = answers.remove(0)?;
        let mut book = self.book.borrow_mut();
        book.acknowledged.insert(n);
        if let Some(at) = delivered.at {
            if at.uid <= highest {
                self.world.violation(format!("UID {} comes after {highest}", at.uid));
            }
            book.messages.insert(at.uid, Known { body: n, ..Known::default() });
        }
        Ok(())
    }

    async fn deliver_for_ever(self) {
        loop {
            let Some(account) = self.book.borrow().account else { return };
            let n = {
                let mut book = self.book.borrow_mut();
                // Now and then one is handed over again that was not acknowledged, or was.
                let again = book.begun.len() as u64;
                let old = self.world.chance(1_500).then(|| self.world.below(again.max(1)));
                let old = old.and_then(|i| book.begun.iter().nth(i as usize).copied());
                let lost = old.filter(|n| !book.messages.values().any(|k| k.body == *n));
                lost.unwrap_or_else(|| {
                    book.last += 1;
                    book.last
                })
            };
            match self.deliver(n, account).await {
                Err(Refusal::Closed) => return,
                Err(_) => self.world.pause(2 * MS).await,
                Ok(()) => self.world.pause(self.world.below(MS)).await,
            }
        }
    }

    fn some(&self) -> UidSet {
        let book = self.book.borrow();
        let alive: Vec<u32> = book.messages.iter().filter(|(_, k)| !k.gone).map(|(u, _)| *u).collect();
        let count = alive.len() as u64;
        (0..self.world.below(6))
            .filter_map(|_| alive.get(self.world.below(count.max(1)) as usize).copied())
            .collect()
    }

    /// Copies some; or does away with the copies.
    async fn copy(&self, inbox: &Open<SimRuntime>, uids: &UidSet) {
        let done = if self.world.below(3) > 0 {
            inbox.copy(uids, "Trash").await.map(drop)
        } else {
            let Some(trash) = self.open("Trash").await else { return };
            trash.expunge(&UidSet::all(), false).await.map(drop)
        };
        match done {
            Ok(()) | Err(Refusal::Closed | Refusal::Full | Refusal::Busy) => {}
            Err(e) => self.world.violation(format!("COPY: {e}")),
        }
    }

    /// One session at a time changes flags and expunges.
    async fn change_for_ever(self) {
        loop {
            self.world.pause(self.world.below(3 * MS)).await;
            let Some(inbox) = self.inbox().await else { return };
            let uids = self.some();
            if self.world.below(5) == 0 {
                self.copy(&inbox, &uids).await;
            } else if self.world.below(2) == 0 {
                let flags = self.world.below(32) as u8;
                uids.iter().for_each(|uid| self.settle(uid, |k| k.maybe = Some(flags)));
                let stored = inbox.store(&uids, Alter::Replace, Flags(flags), &[], None).await;
                match stored {
                    Ok(_) => uids.iter().for_each(|uid| {
                        self.settle(uid, |k| (k.flags, k.maybe) = (flags, None));
                    }),
                    Err(Refusal::Closed) => return,
                    Err(Refusal::Full) => uids.iter().for_each(|uid| self.settle(uid, |k| k.maybe = None)),
                    Err(e) => self.world.violation(format!("STORE: {e}")),
                }
            } else {
                uids.iter().for_each(|uid| self.settle(uid, |k| k.going = true));
                match inbox.expunge(&uids, false).await {
                    Ok(_) => uids.iter().for_each(|uid| self.settle(uid, |k| k.gone = true)),
                    Err(Refusal::Closed) => return,
                    Err(Refusal::Full) => uids.iter().for_each(|uid| self.settle(uid, |k| k.going = false)),
                    Err(e) => self.world.violation(format!("EXPUNGE: {e}")),
                }
            }
        }
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
            faults.capacity = Some(1_500_000 + world.below(1_500_000));
        }
        self.machine.disk.set_faults(faults);
        let (rt, book) = (self.machine.boot(), self.book.clone());
        let task_rt = rt.clone();
        rt.spawn(async move {
            if let Ok(owner) = Owner::start(&task_rt, &book).await {
                task_rt.spawn(owner.clone().deliver_for_ever());
                task_rt.spawn(owner.change_for_ever());
            }
        });
        let long = [10 * MS, 150 * MS, 600 * MS];
        world.pause(world.below(long[world.below(3) as usize])).await;
        let how = if lying || world.chance(6_000) { Death::Power } else { Death::Process };
        self.machine.kill(how);
    }

    /// Without faults: all that was promised is there.
    async fn last_life(&self) {
        self.machine.disk.set_faults(DiskFaults::default());
        let rt = self.machine.boot();
        let owner = match Owner::start(&rt, &self.book).await {
            Ok(owner) => owner,
            Err(e) => return self.world.violation(format!("lost: does not start: {e}")),
        };
        owner.store.close().await;
        let archive = rt.list(Path::new(&format!("{FOLDER}/archive"))).await.map_or(0, |files| files.len());
        DEEP.fetch_add(u64::from(archive > 1), Ordering::Relaxed);
    }
}

/// Histories in which mail went into the archive.
static DEEP: AtomicU64 = AtomicU64::new(0);

fn history(world: &World, lying: bool) -> History {
    let site = Site {
        world: world.clone(),
        machine: Machine::new(world, &SimNet::new(world), 1),
        book: SharedBook::default(),
    };
    let w = world.clone();
    world.block_on(async move {
        for _ in 0..2 + w.below(5) {
            site.life(lying).await;
        }
        site.last_life().await;
    });
    History::of(world)
}

#[test]
fn mailbox_histories() {
    seeds::run_some("mailbox_histories", 40, |world| history(world, false));
    let one = std::env::var_os("SIM_SEED").is_some();
    assert!(one || DEEP.load(Ordering::Relaxed) > 0, "no history was long enough for the archive");
}

/// The planted bug: a disk that says "durable" before it is.
#[test]
fn a_shard_on_a_lying_disk_is_caught() {
    let found = seeds::caught(24, |world| history(world, true));
    let lost = found.values().flatten().filter(|v| v.starts_with("lost")).count();
    assert!(lost > 0, "no loss seen in 24 seeds: {found:?}");
}

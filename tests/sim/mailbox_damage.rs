//! A shard at rest whose bytes are not what was written, or some of whose files are gone. What was not hit is
//! there, under its UID; what was hit is told; the rest can be repaired.

use crate::machine::{Machine, SimRuntime};
use crate::mailbox_world::{self as shared, FOLDER};
use crate::net::SimNet;
use crate::seeds::{self, History};
use crate::world::{Death, MS, World};
use ringpost::base::time::Wall;
use ringpost::mailbox::api::{Content, Incoming, Mailboxes, Reader, Refusal, Selected, Target};
use ringpost::mailbox::store::Store;
use ringpost::mailbox::store::opening::Recovery;
use ringpost::mailbox::types::{AccountId, Flags, Quota, UidSet};
use ringpost::message::body::BodyFacts;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

type Shard = Store<SimRuntime>;
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A message that was acknowledged and not expunged: its account, UID, content, and body.
#[derive(Clone, Debug)]
struct Known {
    account: String,
    uid: u32,
    n: u64,
    body: u64,
}

pub async fn deliver(store: &Shard, to: &[AccountId], n: u64) -> Result<Vec<u32>, Refusal> {
    let bytes = shared::body(n);
    let facts = BodyFacts { len: bytes.len() as u64, ..BodyFacts::default() };
    let pieces = [&bytes[..]];
    let content = Content::Slices(&pieces);
    let message = Incoming { content, facts, summary: b"s", internal: Wall(1), guid: None, uidl: b"" };
    let target = |account: &AccountId| Target {
        account: *account,
        mailbox: "",
        flags: Flags::default(),
        id: None,
        promised: true,
    };
    let targets: Vec<Target<'_>> = to.iter().map(target).collect();
    let answers = store.deliver(message, &targets).await;
    answers.into_iter().map(|a| a.map(|d| d.at.map_or(0, |at| at.uid))).collect()
}

/// Small contents only: they stand in journal and archive.
pub fn small(n: u64) -> u64 {
    n * 29 + 1
}

/// Fills a shard: two accounts, some messages for both, some expunged; what is in it.
async fn fill(world: &World, store: &Shard) -> Result<Vec<Known>, Refusal> {
    let names = ["a", "b"];
    let mut ids = Vec::new();
    for name in names {
        ids.push(store.create_account(name, &[("Trash", None)], Quota::default()).await?.value);
    }
    let mut known = Vec::new();
    for n in (1..20 + world.below(250)).map(small) {
        let both = world.below(4) == 0;
        let first = world.below(2) as usize;
        let to = if both { vec![0, 1] } else { vec![first] };
        let accounts: Vec<AccountId> = to.iter().map(|i| ids[*i]).collect();
        let uids = loop {
            match deliver(store, &accounts, n).await {
                Ok(uids) => break uids,
                Err(Refusal::Busy | Refusal::Full) => world.pause(5 * MS).await,
                Err(e) => return Err(e),
            }
        };
        for (i, uid) in to.iter().zip(uids) {
            known.push(Known { account: names[*i].to_owned(), uid, n, body: 0 });
        }
        world.pause(world.below(MS)).await;
    }
    for (id, name) in ids.iter().zip(names) {
        let inbox = store.select(*id, "INBOX").await?;
        let gone: UidSet =
            (0..world.below(8)).map(|_| 1 + world.below(u64::from(inbox.exists())) as u32).collect();
        inbox.expunge(&gone, false).await?;
        known.retain(|k| k.account != name || !gone.has(k.uid));
        let open = store.select(*id, "INBOX").await?;
        for k in known.iter_mut().filter(|k| k.account == name) {
            k.body = open.seq(k.uid).and_then(|seq| open.message(seq)).map_or(0, |m| m.body.0);
        }
    }
    Ok(known)
}

/// What is done to a disk at rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Harm {
    journal: bool,
    archive: bool,
    index: bool,
}

/// Flips a bit of something that was written in one of the shard's files of this sort, behind its head.
/// `false`: there is nothing.
fn flip(world: &World, files: &mut Files, sort: &str) -> bool {
    let written = |(path, bytes): &(&PathBuf, &mut Vec<u8>)| {
        let of_sort = path.starts_with(FOLDER) && path.extension().is_some_and(|e| e == sort);
        of_sort && bytes[8192..].iter().any(|b| *b != 0)
    };
    let mut some: Vec<_> = files.iter_mut().filter(|(_, b)| b.len() > 8192).filter(|f| written(f)).collect();
    if some.is_empty() {
        return false;
    }
    let n = world.below(some.len() as u64) as usize;
    let bytes = &mut some[n].1;
    let places: Vec<usize> = (8192..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let at = places[world.below(places.len() as u64) as usize];
    bytes[at] ^= 1 << world.below(8);
    true
}

/// Harm that was done, in all histories, of each sort.
static HARMS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

fn hurt(world: &World, machine: &Machine) -> Harm {
    let mut files = machine.disk.snapshot();
    let mut harm =
        Harm { journal: world.below(2) == 0, archive: world.below(2) == 0, index: world.below(2) == 0 };
    harm.journal = harm.journal && flip(world, &mut files, "segment");
    harm.archive = harm.archive && flip(world, &mut files, "archive");
    if harm.index {
        let path = PathBuf::from(FOLDER).join("index");
        match (world.below(2), files.get_mut(&path)) {
            (0, Some(bytes)) if !bytes.is_empty() => {
                let at = world.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << world.below(8);
            }
            _ => drop(files.remove(&path)),
        }
    }
    for (n, done) in [harm.journal, harm.archive, harm.index].into_iter().enumerate() {
        HARMS[n].fetch_add(u64::from(done), Ordering::Relaxed);
    }
    machine.disk.restore(&files);
    harm
}

pub async fn content(store: &Shard, account: AccountId, mailbox: &str, uid: u32) -> Result<u64, Refusal> {
    let open = store.select(account, mailbox).await?;
    if open.seq(uid).is_none() {
        return Err(Refusal::Expunged);
    }
    let mut reader = open.read(uid, 0..u64::MAX).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(shared::number(&bytes).unwrap_or(0))
}

/// Contents in accounts that were made for what is nobody's.
async fn adopted(store: &Shard) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for (id, name) in store.accounts() {
        if !name.starts_with("recovered-") {
            continue;
        }
        for l in store.list(id).await.unwrap_or_default() {
            let Some(status) = l.status else { continue };
            for uid in 1..status.uidnext {
                found.extend(content(store, id, &l.name, uid).await.ok());
            }
        }
    }
    found
}

/// What has been told of damage, in all lives.
#[derive(Default)]
struct Told {
    /// Ids of records of the journal that were lost.
    ids: BTreeSet<u64>,
    any: bool,
}

impl Told {
    /// Whether the record with this id was told as lost. If the bit that was flipped is one of its id, what
    /// can be told is the id with that bit.
    fn names(&self, id: u64) -> bool {
        self.ids.iter().any(|told| (told ^ id).count_ones() <= 1)
    }
}

/// Everything that was not hit is there.
async fn check(
    world: &World,
    store: &Shard,
    report: &Recovery,
    (known, harm): (&[Known], Harm),
    told: &mut Told,
) {
    told.ids.extend(report.journal.damages.iter().flat_map(|d| d.ids.iter().copied()));
    told.any |= report.journal.damage_count > 0 || !report.malformed.is_empty();
    told.any |= !report.damages.is_empty() || !report.doubts.is_empty();
    let saved = adopted(store).await;
    let mut missing: BTreeSet<u64> = BTreeSet::new();
    for k in known {
        let account = store.account(&k.account).await;
        let found = match account {
            Some(id) => content(store, id, "INBOX", k.uid).await,
            None => Err(Refusal::NoAccount),
        };
        match found {
            Ok(n) if n == k.n => {}
            Ok(n) => world.violation(format!("altered: {k:?} is {n}")),
            // In the account that was made for it, or in the batch that was hit.
            Err(_) if saved.contains(&k.n) || told.names(k.body) => {}
            Err(e) => {
                world.event("missing", k.n, u64::from(e == Refusal::Damaged));
                missing.insert(k.body);
                // One that is shown, and cannot be read, says so itself.
                if e != Refusal::Damaged && !told.any {
                    world.violation(format!("lost without a word: {k:?}: {e}, {harm:?}"));
                }
            }
        }
    }
    // A flip in the archive hits one record.
    let most = usize::from(harm.archive);
    if missing.len() > most {
        world.violation(format!("lost: {missing:?} of {}, {harm:?}, {report:?}", known.len()));
    }
    for k in known {
        let Some(id) = store.account(&k.account).await else { continue };
        match deliver(store, &[id], small(100_000)).await {
            Ok(uids) if uids[0] > k.uid => {}
            Ok(uids) => world.violation(format!("UID {} comes after {}", uids[0], k.uid)),
            Err(Refusal::Full | Refusal::Busy) => return,
            Err(e) => world.violation(format!("no delivery: {e}")),
        }
        return;
    }
}

fn damage_history(world: &World) -> History {
    let machine = Machine::new(world, &SimNet::new(world), 1);
    let w = world.clone();
    world.block_on(async move {
        let rt = machine.boot();
        let known = match shared::open(&rt).await {
            Ok((store, _)) => {
                let known = fill(&w, &store).await.unwrap_or_default();
                if w.below(2) == 0 {
                    store.close().await;
                }
                known
            }
            Err(e) => return w.violation(format!("does not start: {e}")),
        };
        w.pause(w.below(50 * MS)).await;
        machine.kill(Death::Power);
        let harm = hurt(&w, &machine);
        let mut told = Told::default();
        // More than once: what is repaired stays so, also when the index is made anew at the end.
        for life in 0..3 {
            if life == 2 {
                let mut files = machine.disk.snapshot();
                files.remove(&PathBuf::from(FOLDER).join("index"));
                machine.disk.restore(&files);
            }
            let rt = machine.boot();
            match shared::open(&rt).await {
                Ok((store, report)) => {
                    check(&w, &store, &report, (&known, harm), &mut told).await;
                    store.close().await;
                }
                Err(e) => w.violation(format!("lost: does not start: {e}, {harm:?}")),
            }
            machine.kill(Death::Process);
        }
    });
    History::of(world)
}

#[test]
fn mailbox_damage_histories() {
    seeds::run_some("mailbox_damage_histories", 60, damage_history);
    let one = std::env::var_os("SIM_SEED").is_some();
    let harms = HARMS.each_ref().map(|h| h.load(Ordering::Relaxed));
    assert!(one || harms.iter().all(|h| *h > 0), "some harm was never done: {harms:?}");
}

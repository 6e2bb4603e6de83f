//! What histories of mailboxes share: a shard on a small disk, operations as values, contents by number.

use crate::machine::SimRuntime;
use crate::mailbox_model::Model;
use crate::world::World;
use ringpost::base::time::Wall;
use ringpost::mailbox::api::{Alter, Append, Content, Incoming, Mailboxes, Refusal, Selected, Target};
use ringpost::mailbox::store::opening::{Parts, Recovery};
use ringpost::mailbox::store::{Options, Store};
use ringpost::mailbox::types::{AccountId, Flags, Quota, UidSet};
use ringpost::message::body::BodyFacts;
use ringpost::runtime::TableOptions;
use ringpost::storage::{self, Poison, archive};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// Where the shard is.
pub const FOLDER: &str = "/data/mailbox/0000";
/// Contents above this length go into a side file.
const LARGE: usize = 6000;

/// The content with this number.
pub fn body(n: u64) -> Vec<u8> {
    let len = if n.is_multiple_of(29) { 20_000 } else { 20 + n * 37 % 3000 };
    let mut out = n.to_le_bytes().to_vec();
    out.extend((0..len).map(|i| (n * 131 + i * 7 + (i >> 8)) as u8));
    out
}

/// The number of a content.
pub fn number(bytes: &[u8]) -> Option<u64> {
    let n = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    (bytes == body(n)).then_some(n)
}

/// Opens the shard; what was found. `Err`: the disk did not let us.
pub async fn open(rt: &SimRuntime) -> Result<(Store<SimRuntime>, Recovery), String> {
    open_leaving(rt, 0).await
}

/// As [`open`]; new mail leaves so many bytes of the disk alone.
pub async fn open_leaving(rt: &SimRuntime, free_min: u64) -> Result<(Store<SimRuntime>, Recovery), String> {
    open_in(rt, FOLDER, free_min).await
}

/// As [`open_leaving`], of a shard that is elsewhere.
pub async fn open_in(
    rt: &SimRuntime,
    folder: &str,
    free_min: u64,
) -> Result<(Store<SimRuntime>, Recovery), String> {
    let lock_wait = Duration::from_secs(60);
    let storage = storage::Options { lock_wait, disk_free_min: free_min, ..storage::Options::tiny() };
    let archive = archive::Options { lock_wait, disk_free_min: free_min / 2, ..archive::Options::tiny() };
    let table =
        TableOptions { reserve_bytes: 256 << 10, grow_bytes: 64 << 10, cache_bytes: 64 << 10, packed: None };
    let options = Options { archive, table, resident_max: 0, changes_max: 200, ..Options::default() };
    let parts = Parts { rt: rt.clone(), storage, poison: Poison::new(), options };
    Store::open(Path::new(folder), parts).await.map_err(|e| e.to_string())
}

/// Something that changes a shard.
#[derive(Clone, Debug)]
pub enum Op {
    /// A new account.
    Account(String),
    /// One goes.
    RemoveAccount(String),
    /// One is called otherwise.
    RenameAccount(String, String),
    /// One content for all of these mailboxes.
    Deliver { n: u64, to: Vec<(String, String)> },
    /// Two messages, all or none.
    Append { n: u64, a: String, folder: String, flags: u8, keyword: Option<String> },
    /// Flags and keywords are these.
    Store { a: String, folder: String, uids: BTreeSet<u32>, flags: u8, keyword: Option<String> },
    /// These go.
    Expunge { a: String, folder: String, uids: BTreeSet<u32> },
    /// These are copied, or moved.
    Copy { a: String, from: String, to: String, uids: BTreeSet<u32>, moving: bool },
    /// A new mailbox.
    Create(String, String),
    /// One goes.
    Delete(String, String),
    /// One is called otherwise; INBOX: its messages move.
    Rename(String, String, String),
}

fn one<'a, T>(world: &World, from: impl ExactSizeIterator<Item = &'a T>) -> Option<&'a T> {
    let mut from = from;
    let n = world.below(from.len() as u64) as usize;
    from.nth(n)
}

fn some(world: &World, model: &Model, a: &str, folder: &str) -> BTreeSet<u32> {
    let mail = &model[a][folder].mail;
    (0..1 + world.below(6)).filter_map(|_| one(world, mail.keys()).copied()).collect()
}

/// Chooses what can be done; numbers come from `last`.
pub fn choose(world: &World, model: &Model, last: &mut u64) -> Op {
    *last += 2;
    let n = *last;
    let Some(a) = one(world, model.keys()).cloned() else { return Op::Account(format!("a{n}")) };
    let boxes = &model[&a];
    let pick = || one(world, boxes.keys()).cloned().expect("INBOX is there");
    let (folder, to) = (pick(), pick());
    let keyword = (world.below(3) == 0).then(|| format!("k{}", world.below(4)));
    let flags = world.below(32) as u8;
    let fresh = format!("m{n}");
    match world.below(40) {
        0 if model.len() < 3 => Op::Account(format!("a{n}")),
        1 if model.len() > 1 && world.below(4) == 0 => Op::RemoveAccount(a),
        2 => Op::RenameAccount(a, format!("a{n}")),
        3..6 if boxes.len() < 5 => Op::Create(a, fresh),
        6 if folder != "INBOX" => Op::Delete(a, folder),
        7 => Op::Rename(a, folder, fresh),
        8..12 if folder != to => {
            let uids = some(world, model, &a, &folder);
            Op::Copy { a, from: folder, to, uids, moving: world.below(2) == 0 }
        }
        12..16 => Op::Store { uids: some(world, model, &a, &folder), a, folder, flags, keyword },
        16..19 => Op::Expunge { uids: some(world, model, &a, &folder), a, folder },
        // Appended ones are small.
        19..22 if !n.is_multiple_of(29) && !(n + 1).is_multiple_of(29) => {
            Op::Append { n, a, folder, flags, keyword }
        }
        _ => {
            let mut to = vec![(a.clone(), folder)];
            if let Some(other) = one(world, model.keys()).filter(|o| **o != a) {
                to.push((other.clone(), "INBOX".to_owned()));
            }
            Op::Deliver { n, to }
        }
    }
}

fn incoming<'a>(content: Content<'a>, len: usize) -> Incoming<'a> {
    let facts = BodyFacts { len: len as u64, ..BodyFacts::default() };
    Incoming { content, facts, summary: b"s", internal: Wall(1), guid: None, uidl: b"" }
}

async fn account(store: &Store<SimRuntime>, name: &str) -> Result<AccountId, Refusal> {
    store.account(name).await.ok_or(Refusal::NoAccount)
}

async fn deliver(store: &Store<SimRuntime>, n: u64, to: &[(String, String)]) -> Result<(), Refusal> {
    let mut targets = Vec::new();
    for (a, folder) in to {
        let (account, mailbox) = (account(store, a).await?, folder.as_str());
        targets.push(Target { account, mailbox, flags: Flags::default(), id: None, promised: true });
    }
    let bytes = body(n);
    let pieces = [&bytes[..]];
    let content = if bytes.len() > LARGE {
        let unwritten = |_| Refusal::Full;
        let mut side = store.begin_large().await.map_err(unwritten)?;
        side.write(&bytes[5..]).await.map_err(unwritten)?;
        Content::Large { head: &bytes[..5], file: side.finish().await.map_err(unwritten)? }
    } else {
        Content::Slices(&pieces)
    };
    let answers = store.deliver(incoming(content, bytes.len()), &targets).await;
    answers.into_iter().try_for_each(|a| a.map(drop))
}

/// Does it. `Err`: nothing was done, or it is not known whether ([`Refusal::Closed`]).
pub async fn perform(world: &World, store: &Store<SimRuntime>, op: &Op) -> Result<(), Refusal> {
    world.event("op", 0, 0);
    match op {
        Op::Account(a) => store.create_account(a, &[], Quota::default()).await.map(drop),
        Op::RemoveAccount(a) => store.remove_account(account(store, a).await?).await.map(drop),
        Op::RenameAccount(a, to) => store.rename_account(account(store, a).await?, to).await.map(drop),
        Op::Deliver { n, to } => deliver(store, *n, to).await,
        Op::Append { n, a, folder, flags, keyword } => {
            let bodies = [body(*n), body(*n + 1)];
            let slices = [[&bodies[0][..]], [&bodies[1][..]]];
            let keywords: Vec<&str> = keyword.iter().map(String::as_str).collect();
            let all = [0, 1].map(|i| Append {
                message: incoming(Content::Slices(&slices[i]), bodies[i].len()),
                flags: Flags(*flags),
                keywords: &keywords,
            });
            store.append(account(store, a).await?, folder, &all).await.map(drop)
        }
        Op::Store { a, folder, uids, flags, keyword } => {
            let open = store.select(account(store, a).await?, folder).await?;
            let keywords: Vec<&str> = keyword.iter().map(String::as_str).collect();
            let uids: UidSet = uids.iter().copied().collect();
            open.store(&uids, Alter::Replace, Flags(*flags), &keywords, None).await.map(drop)
        }
        Op::Expunge { a, folder, uids } => {
            let open = store.select(account(store, a).await?, folder).await?;
            open.expunge(&uids.iter().copied().collect(), false).await.map(drop)
        }
        Op::Copy { a, from, to, uids, moving } => {
            let open = store.select(account(store, a).await?, from).await?;
            let uids: UidSet = uids.iter().copied().collect();
            match moving {
                true => open.move_to(&uids, to).await.map(drop),
                false => open.copy(&uids, to).await.map(drop),
            }
        }
        Op::Create(a, folder) => store.create(account(store, a).await?, folder, None).await.map(drop),
        Op::Delete(a, folder) => store.delete(account(store, a).await?, folder).await.map(drop),
        Op::Rename(a, from, to) => store.rename(account(store, a).await?, from, to).await.map(drop),
    }
}

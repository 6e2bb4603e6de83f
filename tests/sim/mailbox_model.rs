//! Histories of a shard against a model: one operation after another, of every kind that changes something,
//! on a machine that stops at any moment. After a restart the whole of the shard is what had been committed:
//! the state after the last operation that was acknowledged, or after the one that was under way. Nothing
//! between, nothing else.

use crate::disk::DiskFaults;
use crate::journal::swarm;
use crate::machine::{Machine, SimRuntime};
use crate::mailbox_world::{self as shared, Op};
use crate::net::SimNet;
use crate::seeds::{self, History};
use crate::world::{Death, MS, World};
use ringpost::mailbox::api::{Mailboxes, Reader, Refusal, Selected};
use ringpost::mailbox::store::Store;
use ringpost::mailbox::types::Flags;
use ringpost::runtime::Runtime;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A message: which content, flags, keywords.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mail {
    /// Content; `None`: it cannot be read now.
    pub n: Option<u64>,
    /// Flags.
    pub flags: u8,
    /// Keywords.
    pub keywords: BTreeSet<String>,
}

/// A mailbox.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Folder {
    /// Its UIDVALIDITY, as soon as it has been seen.
    pub uidvalidity: Option<u32>,
    /// The next UID.
    pub uidnext: u32,
    /// Messages by UID.
    pub mail: BTreeMap<u32, Mail>,
}

/// Accounts, their mailboxes.
pub type Model = BTreeMap<String, BTreeMap<String, Folder>>;

impl Folder {
    fn new() -> Self {
        Folder { uidnext: 1, ..Folder::default() }
    }

    fn add(&mut self, mail: Mail) {
        self.mail.insert(self.uidnext, mail);
        self.uidnext += 1;
    }
}

/// The state after an operation.
pub fn after(model: &Model, op: &Op) -> Model {
    let mut m = model.clone();
    match op {
        Op::Account(a) => {
            m.insert(a.clone(), BTreeMap::from([("INBOX".to_owned(), Folder::new())]));
        }
        Op::RemoveAccount(a) => drop(m.remove(a)),
        Op::RenameAccount(a, to) => {
            let boxes = m.remove(a).expect("there");
            m.insert(to.clone(), boxes);
        }
        Op::Deliver { n, to } => {
            for (a, folder) in to {
                let boxes = m.get_mut(a).expect("there");
                boxes.get_mut(folder).expect("there").add(Mail { n: Some(*n), ..Mail::default() });
            }
        }
        Op::Append { n, a, folder, flags, keyword } => {
            for n in [*n, *n + 1] {
                let keywords = keyword.iter().cloned().collect();
                let mail = Mail { n: Some(n), flags: *flags, keywords };
                m.get_mut(a).expect("there").get_mut(folder).expect("there").add(mail);
            }
        }
        Op::Store { a, folder, uids, flags, keyword } => {
            let mail = &mut m.get_mut(a).expect("there").get_mut(folder).expect("there").mail;
            for (_, mail) in mail.iter_mut().filter(|(uid, _)| uids.contains(uid)) {
                mail.flags = *flags;
                mail.keywords = keyword.iter().cloned().collect();
            }
        }
        Op::Expunge { a, folder, uids } => {
            let mail = &mut m.get_mut(a).expect("there").get_mut(folder).expect("there").mail;
            mail.retain(|uid, _| !uids.contains(uid));
        }
        Op::Copy { a, from, to, uids, moving } => {
            let boxes = m.get_mut(a).expect("there");
            let source = &mut boxes.get_mut(from).expect("there").mail;
            let chosen: Vec<(u32, Mail)> =
                source.iter().filter(|(uid, _)| uids.contains(uid)).map(|(u, m)| (*u, m.clone())).collect();
            if *moving {
                source.retain(|uid, _| !uids.contains(uid));
            }
            let target = boxes.get_mut(to).expect("there");
            chosen.into_iter().for_each(|(_, mail)| target.add(mail));
        }
        Op::Create(a, folder) => {
            m.get_mut(a).expect("there").insert(folder.clone(), Folder::new());
        }
        Op::Delete(a, folder) => drop(m.get_mut(a).expect("there").remove(folder)),
        Op::Rename(a, from, to) => rename(m.get_mut(a).expect("there"), from, to),
    }
    m
}

fn rename(boxes: &mut BTreeMap<String, Folder>, from: &str, to: &str) {
    if from != "INBOX" {
        let folder = boxes.remove(from).expect("there");
        boxes.insert(to.to_owned(), folder);
        return;
    }
    // RFC 9051 §6.3.6: its messages move.
    let inbox = boxes.get_mut(from).expect("there");
    let mut target = Folder::new();
    std::mem::take(&mut inbox.mail).into_values().for_each(|mail| target.add(mail));
    boxes.insert(to.to_owned(), target);
}

/// Everything that clients can see of a shard.
pub async fn observe(store: &Store<SimRuntime>) -> Result<Model, Refusal> {
    let mut model = Model::new();
    for (id, account) in store.accounts() {
        let boxes = model.entry(account).or_default();
        for l in store.list(id).await? {
            let Some(status) = l.status else { continue };
            let open = store.select(id, &l.name).await?;
            let keywords = open.keywords();
            let mut folder = Folder {
                uidvalidity: Some(status.uidvalidity),
                uidnext: status.uidnext,
                mail: BTreeMap::new(),
            };
            for m in (1..=open.exists()).filter_map(|seq| open.message(seq)) {
                let set = keywords.iter().enumerate().filter(|(bit, _)| m.keywords.0 >> bit & 1 != 0);
                let keywords = set.map(|(_, k)| k.clone()).collect();
                let n = content(&open, m.uid).await;
                folder.mail.insert(m.uid, Mail { n, flags: m.flags.0, keywords });
            }
            boxes.insert(l.name, folder);
        }
    }
    Ok(model)
}

/// Which content a message has: `None`: it cannot be read now; 0: none of ours, or none at all.
async fn content(open: &ringpost::mailbox::store::Open<SimRuntime>, uid: u32) -> Option<u64> {
    let mut reader = match open.read(uid, 0..u64::MAX).await {
        Ok(reader) => reader,
        // Nobody else is there who could have expunged it.
        Err(Refusal::Expunged) => return Some(0),
        Err(_) => return None,
    };
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next().await.ok()? {
        bytes.extend_from_slice(&piece);
    }
    Some(shared::number(&bytes).unwrap_or(0))
}

/// Whether what was found is what a model says; what is known for the first time is taken over.
pub fn fits(found: &Model, model: &mut Model) -> bool {
    let names = |m: &Model| -> Vec<(String, Vec<String>)> {
        m.iter().map(|(a, boxes)| (a.clone(), boxes.keys().cloned().collect())).collect()
    };
    if names(found) != names(model) {
        return false;
    }
    let mut all = model.iter_mut().flat_map(|(a, boxes)| boxes.iter_mut().map(move |(f, m)| (a, f, m)));
    all.all(|(a, f, expected)| {
        let there = &found[a][f];
        let mail_fits = there.mail.len() == expected.mail.len()
            && there.mail.iter().zip(&expected.mail).all(|((uid, is), (known, should))| {
                let same = is.n.is_none() || is.n == should.n;
                uid == known && same && (is.flags, &is.keywords) == (should.flags, &should.keywords)
            });
        let validity = *expected.uidvalidity.get_or_insert(there.uidvalidity.unwrap_or(0));
        mail_fits && there.uidnext == expected.uidnext && there.uidvalidity == Some(validity)
    })
}

/// What is known outside of the machine.
#[derive(Default)]
struct Book {
    model: Model,
    /// An operation that is, or was, under way.
    pending: Option<Op>,
    /// The greatest UIDVALIDITY that a name has had.
    validities: BTreeMap<(String, String), u32>,
    /// Numbers of contents and names given so far.
    last: u64,
    done: u64,
}

type SharedBook = Rc<RefCell<Book>>;

struct Owner {
    world: World,
    store: Store<SimRuntime>,
    book: SharedBook,
}

impl Owner {
    async fn start(rt: &SimRuntime, book: &SharedBook) -> Result<Self, String> {
        let (store, found) = shared::open(rt).await?;
        let world = rt.world().clone();
        world.event("opened", found.journal.records, u64::from(found.journal.tears));
        if found.rebuilt.is_some() || !found.malformed.is_empty() || found.journal.damage_count > 0 {
            world.violation(format!("a crash is taken for damage: {found:?}"));
        }
        let owner = Owner { world, store, book: book.clone() };
        match owner.check().await {
            Ok(()) => Ok(owner),
            // What the last life left cannot be told now.
            Err(e) => Err(e.to_string()),
        }
    }

    /// What is there is what was committed.
    async fn check(&self) -> Result<(), Refusal> {
        let found = observe(&self.store).await?;
        let mut book = self.book.borrow_mut();
        let pending = book.pending.take();
        let mut before = book.model.clone();
        let mut then = pending.as_ref().map(|op| after(&before, op));
        if fits(&found, &mut before) {
            book.model = before;
        } else if let Some(model) = then.take_if(|model| fits(&found, model)) {
            book.model = model;
        } else {
            let text = format!("lost or half: {found:?} is neither {:?} nor after {pending:?}", book.model);
            self.world.violation(text);
            book.model = found;
        }
        let Book { model, validities, .. } = &mut *book;
        for (a, boxes) in model {
            for (f, folder) in boxes {
                let now = folder.uidvalidity.unwrap_or(0);
                let known = validities.entry((a.clone(), f.clone())).or_default();
                // One that comes after another of its name has a greater one.
                if now < *known {
                    self.world.violation(format!("UIDVALIDITY of {a} {f} was {known}, is {now}"));
                }
                *known = now;
            }
        }
        Ok(())
    }

    async fn work(self) {
        loop {
            let op = {
                let mut book = self.book.borrow_mut();
                let book = &mut *book;
                let op = shared::choose(&self.world, &book.model, &mut book.last);
                book.pending = Some(op.clone());
                op
            };
            match shared::perform(&self.world, &self.store, &op).await {
                Ok(()) => {
                    let mut book = self.book.borrow_mut();
                    book.model = after(&book.model, &op);
                    book.pending = None;
                    book.done += 1;
                    DONE.fetch_add(1, Ordering::Relaxed);
                }
                Err(Refusal::Full | Refusal::Busy | Refusal::Damaged) => {
                    let half = matches!(op, Op::RemoveAccount(_));
                    if half && self.check().await.is_err() {
                        return;
                    }
                    // Nothing has happened; but an account that goes is hidden first.
                    self.book.borrow_mut().pending = None;
                    self.world.pause(3 * MS).await;
                }
                Err(Refusal::Closed) => return,
                Err(e) => {
                    self.world.violation(format!("{op:?}: {e}"));
                    return;
                }
            }
            if self.world.chance(500) && self.check().await.is_err() {
                return;
            }
            self.world.pause(self.world.below(MS)).await;
        }
    }
}

/// Operations that were acknowledged, in all histories.
static DONE: AtomicU64 = AtomicU64::new(0);

fn history(world: &World, lying: bool) -> History {
    let machine = Machine::new(world, &SimNet::new(world), 1);
    let (w, book) = (world.clone(), SharedBook::default());
    world.block_on(async move {
        for _ in 0..3 + w.below(5) {
            let mut faults = if w.below(2) == 0 { DiskFaults::default() } else { swarm(&w) };
            if lying {
                faults = DiskFaults { lying, ..DiskFaults::default() };
            }
            faults.capacity = faults.capacity.map(|c| c + 1_000_000);
            machine.disk.set_faults(faults);
            let (rt, book) = (machine.boot(), book.clone());
            let task_rt = rt.clone();
            rt.spawn(async move {
                if let Ok(owner) = Owner::start(&task_rt, &book).await {
                    owner.work().await;
                }
            });
            let long = [20 * MS, 150 * MS, 500 * MS];
            w.pause(w.below(long[w.below(3) as usize])).await;
            let how = if lying || w.chance(6_000) { Death::Power } else { Death::Process };
            machine.kill(how);
        }
        machine.disk.set_faults(DiskFaults::default());
        match Owner::start(&machine.boot(), &book).await {
            Ok(owner) => owner.store.close().await,
            Err(e) => w.violation(format!("lost: does not start: {e}")),
        }
    });
    History::of(world)
}

#[test]
fn mailbox_model_histories() {
    seeds::run_some("mailbox_model_histories", 60, |world| history(world, false));
    assert!(DONE.load(Ordering::Relaxed) > 0, "nothing was ever done");
}

/// The planted bug: a disk that says "durable" before it is.
#[test]
fn a_model_on_a_lying_disk_is_caught() {
    let found = seeds::caught(24, |world| history(world, true));
    let lost = found.values().flatten().filter(|v| v.starts_with("lost")).count();
    assert!(lost > 0, "no loss seen in 24 seeds: {found:?}");
}

/// The planted bug: a flag that is not what the model says.
#[test]
fn a_model_sees_small_differences() {
    let mail = Mail { n: Some(3), flags: Flags::SEEN.0, ..Mail::default() };
    let folder = Folder { uidvalidity: Some(4), uidnext: 9, mail: BTreeMap::from([(5, mail)]) };
    let model = Model::from([("a".to_owned(), BTreeMap::from([("INBOX".to_owned(), folder)]))]);
    assert!(fits(&model, &mut model.clone()));
    type Change = fn(&mut Folder);
    let changes: [Change; 5] = [
        |f| f.uidnext = 10,
        |f| f.uidvalidity = Some(5),
        |f| f.mail.get_mut(&5).unwrap().flags = 0,
        |f| f.mail.get_mut(&5).unwrap().n = Some(4),
        |f| drop(f.mail.remove(&5)),
    ];
    for change in changes {
        let mut other = model.clone();
        change(other.get_mut("a").unwrap().get_mut("INBOX").unwrap());
        assert!(!fits(&other, &mut model.clone()), "{other:?}");
    }
}

//! L4: opening a shard: the journal is read, the index opened (or made anew), both put together.
//!
//! Nothing is taken before. What the journal says is newer than the index, whole, and said in the order
//! in which it happened: it is applied to what the index has, and changes nothing that is in it already.
//! Errors are ours or the operator's: the shard does not open.

use crate::mailbox::bodies::Facts;
use crate::mailbox::record::{self, BodyView};
use crate::mailbox::row::{self, AccountRow, Key, MailboxRow, Meta};
use crate::mailbox::shard::{NewBody, Shard};
use crate::mailbox::store::orphans::Named;
use crate::mailbox::store::{Index, Inner, Options, State, Store};
use crate::mailbox::types::{AccountId, BodyId, MailboxId, Message};
use crate::runtime::table::{Packed, ScanLimit, Table, TableOptions};
use crate::runtime::{Disk, Runtime};
use crate::storage;
use crate::storage::archive::{Archive, ArchiveReport};
use crate::storage::keeper::{Keeper, removal};
use crate::storage::opening::OpenError;
use crate::storage::options::Poison;
use crate::storage::record::{Location, RecordHead, Recovered};
use crate::storage::recover::RecoveryReport;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::rc::Rc;

/// Rows read, and looked up, at a time.
const PAGE: ScanLimit = ScanLimit { rows: 8192, bytes: 1 << 20 };

/// Messages lie together in the index: who opens a mailbox wants all of them.
const PACKED: Packed = Packed { tag: row::MESSAGES, key_len: row::MESSAGE_LEN };

/// Mailboxes in one operation that says how they were counted.
const COUNTED: usize = 10_000;

/// What a shard is made of.
#[derive(Clone)]
pub struct Parts<R: Runtime> {
    /// The core's runtime.
    pub rt: R,
    /// How the journal works.
    pub storage: storage::Options,
    /// The file system's poison.
    pub poison: Poison,
    /// How the store works.
    pub options: Options,
}

/// What was found.
#[derive(Debug)]
pub struct Recovery {
    /// The journal's report.
    pub journal: RecoveryReport,
    /// The archive's report.
    pub archive: ArchiveReport,
    /// Kind and id of records that could not be read.
    pub malformed: Vec<(u8, u64)>,
    /// The index was not there, or not what the journal needs, and has been made anew: so many messages
    /// were found in the archive.
    pub rebuilt: Option<u64>,
    /// Mailboxes.
    pub mailboxes: usize,
    /// Damages of the archive that were found when the index was made anew: segment, first and last byte.
    pub damages: Vec<(u32, u32, u32)>,
    /// Places of the archive, found likewise, of which nothing tells whether they are damaged or what a crash
    /// left of a write that was never finished. In the latter case nothing is lost.
    pub doubts: Vec<(u32, u32, u32)>,
    /// The account that has been made for mail whose own account, or mailbox, is not known any more.
    pub adopted: Option<String>,
}

/// A record that was read back, without its content.
struct Read {
    head: RecordHead,
    at: Location,
    items: Vec<u8>,
    body: Option<NewBody>,
}

#[derive(Default)]
struct Journal {
    records: Vec<Read>,
    malformed: Vec<(u8, u64)>,
    /// Bytes of facts in the records from number `facts_from` on, and at most.
    facts: usize,
    facts_from: usize,
    facts_max: usize,
}

impl Journal {
    fn visit(&mut self, r: &Recovered<'_>) {
        if r.head.kind == storage::record::KIND_RETIRE {
            return;
        }
        match record::parse(r.head.kind, r.head.version, r.payload) {
            Ok((items, body)) => {
                let new = |b: BodyView<'_>| NewBody { side: b.head.side, facts: self.facts_of(&b) };
                let body = body.map(new);
                self.records.push(Read { head: r.head, at: r.location, items: items.bytes().to_vec(), body });
            }
            Err(_) => self.malformed.push((r.head.kind, r.head.id)),
        }
    }

    /// The facts of a body; of those before it only as many as will be kept anyway.
    fn facts_of(&mut self, body: &BodyView<'_>) -> Option<Rc<Facts>> {
        let facts = Facts::of(body);
        self.facts += facts.cost();
        while self.facts > self.facts_max && self.facts_from < self.records.len() {
            let old = self.records[self.facts_from].body.as_mut().and_then(|b| b.facts.take());
            self.facts -= old.map_or(0, |f| f.cost());
            self.facts_from += 1;
        }
        Some(Rc::new(facts))
    }
}

impl<R: Runtime> Store<R> {
    /// Opens the shard in `dir` (absolute; made if it is not there) and starts its tasks.
    pub async fn open(dir: &Path, parts: Parts<R>) -> Result<(Self, Recovery), OpenError> {
        let Parts { rt, storage, poison, .. } = parts.clone();
        let mut journal = Journal { facts_max: parts.options.facts_max, ..Journal::default() };
        let opened = Keeper::open(rt, dir, storage, poison, |r| journal.visit(&r)).await;
        let (keeper, report) = opened?;
        let opened = Self::open_over(dir, keeper.clone(), report, journal, parts).await;
        if opened.is_err() {
            // It may be tried again: nobody must have the log then.
            keeper.close().await;
        }
        opened
    }

    async fn open_over(
        dir: &Path,
        keeper: Keeper<R>,
        report: RecoveryReport,
        journal: Journal,
        parts: Parts<R>,
    ) -> Result<(Self, Recovery), OpenError> {
        let Parts { rt, storage, poison, options } = parts;
        let folder = dir.join(removal::ARCHIVE);
        let opened =
            Archive::open(rt.clone(), &folder, options.archive.clone(), poison.clone(), keeper.log()).await;
        let (vault, archive) = opened?;
        // Users read and delete on a full disk, and need space in the journal for that: what lives there can
        // go nowhere else.
        vault.take_last_space();
        let parts = Parts { rt, storage, poison, options };
        let opened = Self::open_with(dir, keeper, report, journal, (vault.clone(), archive), parts).await;
        if opened.is_err() {
            vault.close().await;
        }
        opened
    }

    async fn open_with(
        dir: &Path,
        keeper: Keeper<R>,
        report: RecoveryReport,
        journal: Journal,
        (vault, archive): (Archive<R>, ArchiveReport),
        parts: Parts<R>,
    ) -> Result<(Self, Recovery), OpenError> {
        let Parts { rt, storage, poison, options } = parts;
        let path = dir.join(removal::INDEX);
        let at = |e| OpenError::Io(path.clone(), e);
        let (table, found) = open_index(&rt, &path, &options, &keeper).await.map_err(at)?;
        let damaged = !journal.malformed.is_empty() || report.damage_count > 0;
        let items = journal.records.iter().map(|r| &r.items[..]);
        // Only for what may be nobody's.
        let named = if damaged || found.is_none() { Named::of(items) } else { Named::default() };
        let (mut rebuilt, mut adopted, mut damages, mut doubts) = (None, None, Vec::new(), Vec::new());
        let meta = match found {
            Some(meta) => meta,
            None => {
                let progress = &options.progress;
                let made = super::rebuild::rebuild(&table, &vault, &keeper, (&named, damaged), progress);
                let made = made.await.map_err(at)?;
                rebuilt = Some(made.messages);
                (adopted, damages, doubts) = (made.adopted, made.damages, made.doubts);
                made.meta
            }
        };
        let lost = damaged.then_some(&named);
        let together = put_together(&rt, &table, &meta, &journal, lost);
        let (mut shard, orphans) = together.await.map_err(at)?;
        adopted = adopted.or(orphans);
        let mut wrong = Vec::new();
        if rebuilt.is_some() || damaged {
            let gap = super::rebuild::gap(&report, journal.malformed.len(), storage.payload_max());
            wrong = super::rebuild::recount(&table, &mut shard, gap).await.map_err(at)?;
        }
        shard.living().into_iter().for_each(|at| keeper.keep(at));
        // What came and went while it was read never counted.
        shard.take_freed();
        let mailboxes = shard.directory.len();
        let payload_max = storage.payload_max();
        let state = RefCell::new(State::new(shard, meta.through));
        keeper.set_mark(meta.mark);
        let near = Default::default();
        let inner = Inner { rt, keeper, vault, table, poison, payload_max, options, state, near };
        let store = Store(Rc::new(inner));
        store.start();
        for some in wrong.chunks(COUNTED) {
            // What cannot be written now is counted again if there is reason to.
            let _ = store.commit(Vec::new(), |draft| draft.counted(some)).await;
        }
        let malformed = journal.malformed;
        let journal = report;
        let recovery = Recovery { journal, archive, malformed, rebuilt, mailboxes, damages, doubts, adopted };
        Ok((store, recovery))
    }

    fn start(&self) {
        let rt = &self.0.rt;
        rt.spawn_critical(self.clone().follow_commits());
        rt.spawn_critical(self.clone().keep_index());
        rt.spawn_critical(self.clone().evacuate());
        let removed: Vec<AccountId> = {
            let s = self.0.state.borrow();
            s.shard.directory.accounts().filter(|(_, a)| a.removed).map(|(id, _)| id).collect()
        };
        if !removed.is_empty() {
            let store = self.clone();
            rt.spawn(async move {
                for account in removed {
                    // What fails now is tried again at the next start.
                    let _ = store.finish_removal(account).await;
                }
            });
        }
    }
}

/// Opens the index; a new one, and `None`, if it is of no use.
async fn open_index<R: Runtime>(
    rt: &R,
    path: &Path,
    options: &Options,
    keeper: &Keeper<R>,
) -> io::Result<(<R as Disk>::Table, Option<Meta>)> {
    let how = TableOptions { packed: Some(PACKED), ..options.table };
    match rt.open_table(path, how).await {
        Ok(table) if options.index == Index::Anew => table.close().await?,
        Ok(table) => match fits(&table, keeper).await {
            Ok(Some(meta)) => return Ok((table, Some(meta))),
            Ok(None) => table.close().await?,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => drop(table.close().await),
            Err(e) => return Err(e),
        },
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
        Err(e) => return Err(e),
    }
    if options.index == Index::Demand {
        let text = "it is lost, or not what the journal needs: it must be made anew";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    rt.remove(path).await?;
    Ok((rt.open_table(path, how).await?, None))
}

/// What the index says of itself, if it is one that the log can go by.
async fn fits<R: Runtime>(table: &<R as Disk>::Table, keeper: &Keeper<R>) -> io::Result<Option<Meta>> {
    let meta = table.get(row::META).await?;
    if meta.is_none() && keeper.mark() == 0 {
        let any = table.scan(&[], &[], ScanLimit { rows: 1, bytes: 1 }).await?;
        // Nothing was ever given up for its sake.
        return Ok(any.is_empty().then(|| Meta { log: keeper.log(), ..Meta::default() }));
    }
    let meta = meta.and_then(|bytes| Meta::parse(&bytes).ok());
    Ok(meta.filter(|m| m.log == keeper.log() && m.mark >= keeper.mark()))
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the index of the mailboxes has a damaged row")
}

/// Visits all rows of a tag.
pub(super) async fn each_row<T: Table>(
    table: &T,
    tag: u8,
    mut visit: impl FnMut(Key, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut after = vec![tag];
    loop {
        let rows = table.scan(&[tag], &after, PAGE).await?;
        let Some(last) = rows.last_key() else { return Ok(()) };
        after = last.to_vec();
        for (key, value) in rows.iter() {
            visit(Key::parse(key).ok_or_else(damaged)?, value)?;
        }
        crate::runtime::yield_now().await;
    }
}

/// The shard that index and journal make together. `lost`: something of the journal is, and this is what
/// the rest names; then also the name of an account that was made for what is nobody's.
async fn put_together<R: Runtime>(
    rt: &R,
    table: &<R as Disk>::Table,
    meta: &Meta,
    journal: &Journal,
    lost: Option<&Named>,
) -> io::Result<(Shard, Option<String>)> {
    let mut shard = Shard::default();
    (shard.last, shard.account) = (meta.last, meta.account);
    (shard.mailbox, shard.uidvalidity) = (meta.mailbox, meta.uidvalidity);
    shard.ledger.set_mark(meta.mark);
    each_row(table, row::ACCOUNTS, |key, value| {
        let row = AccountRow::parse(value).map_err(|_| damaged())?;
        shard.directory.load_account(AccountId(key.a() as u32), &row);
        Ok(())
    })
    .await?;
    each_row(table, row::MAILBOXES, |key, value| {
        let id = MailboxId(key.a() as u32);
        let row = MailboxRow::parse(id, value).map_err(|_| damaged())?;
        shard.directory.load_mailbox(id, &row);
        Ok(())
    })
    .await?;
    each_row(table, row::DELIVERIES, |key, value| {
        let when = row::parse_when(value).map_err(|_| damaged())?;
        shard.deliveries.insert(key.delivery_id(), when);
        Ok(())
    })
    .await?;
    let adopted = lost.and_then(|named| named.adopt(&mut shard, &BTreeSet::new(), rt.wall()));
    shard.bodies.keep_facts(journal.facts_max);
    shard.replay();
    for r in &journal.records {
        shard.release_items(r.head, r.at, &r.items, r.body.clone(), rt.now());
    }
    let died = shard.replayed();
    unite(table, &mut shard, died, &journal.records, meta.through).await?;
    Ok((shard, adopted))
}

/// Bodies of the journal that the archive has, too: only what the index says of them counts. Of those in
/// segments above `through` that cannot be.
async fn unite<T: Table>(
    table: &T,
    shard: &mut Shard,
    died: Vec<BodyId>,
    records: &[Read],
    through: u64,
) -> io::Result<()> {
    let old: BTreeMap<u64, ()> = records
        .iter()
        .filter(|r| r.body.is_some() && r.at.segment <= through)
        .map(|r| (r.head.id, ()))
        .collect();
    let alive = shard.bodies.iter().map(|(id, _)| id);
    let ids: Vec<BodyId> = alive.chain(died).filter(|id| old.contains_key(&id.0)).collect();
    for some in ids.chunks(4096) {
        let keys = some.iter().map(|id| Key::body(*id).bytes().to_vec()).collect();
        let rows = table.get_many(keys).await?;
        for (id, _) in some.iter().zip(rows).filter(|(_, row)| row.is_some()) {
            let body = shard.bodies.remove(*id);
            // References that the index has and that went since. It has some of unshared bodies, too: what is
            // not known to be unshared is taken for shared when it is copied.
            let there = super::selected::rows(table, row::REFERENCES, id.0).await?;
            let listed = !there.is_empty();
            for b in there.into_keys() {
                let (mailbox, uid) = (MailboxId((b >> 32) as u32), b as u32);
                if !body.as_ref().is_some_and(|body| body.refs.contains(&(mailbox, uid))) {
                    shard.ledger.delete(Key::reference(*id, mailbox, uid), None);
                }
            }
            let Some(body) = body else {
                // It went with its last message.
                shard.ledger.delete(Key::body(*id), None);
                continue;
            };
            // A list must not end empty: with its last reference the body would go.
            let shared = listed
                || body.refs.len() > 1
                || body.refs.iter().any(|(mailbox, uid)| is_shared(shard, *mailbox, *uid));
            for (mailbox, uid) in body.refs.iter().filter(|_| shared) {
                shard.ledger.put(Key::reference(*id, *mailbox, *uid), Vec::new(), false, Some(&body.said));
            }
        }
    }
    Ok(())
}

fn is_shared(shard: &Shard, mailbox: MailboxId, uid: u32) -> bool {
    let row = shard.ledger.get(&Key::message(mailbox, uid)).flatten();
    let message = row.and_then(|row| record::parse_row(uid, row).ok());
    message.is_some_and(|m| m.marks & Message::SHARED != 0)
}

//! L4: the index joins a queue that has read its log: what of the two belongs together is found out.
//!
//! To open the index means to verify all of it, which takes seconds if millions wait. Mail is not kept
//! waiting for that: when it takes longer than [`Options::patience`](super::Options::patience), the
//! queue takes and sends new mail meanwhile, while the messages of its log wait for the index. Only
//! then it is known which of them the index has, too; whatever becomes of those is said to both.
//!
//! An error of the index before the queue is open is an error of opening it; later it poisons.

use crate::base::ids::MessageId;
use crate::queue::age::Ages;
use crate::queue::desk::Desk;
use crate::queue::desk::indexing::{SPACE_WAIT, is_full};
use crate::queue::index::{Archived, Cover, DestId, Entry, NOWHERE, Phase, Recipient, SOME_DAY};
use crate::queue::ledger::{Change, Ledger};
use crate::queue::record::{self, Fate};
use crate::queue::recover::{Found, Rebuild, Way};
use crate::queue::row::{self, Meta, RowView};
use crate::queue::state::{self, After, State};
use crate::queue::via;
use crate::runtime::table::{ScanLimit, Table, TableOptions};
use crate::runtime::{Disk, Runtime, yield_now};
use crate::storage::keeper::Keeper;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

/// Messages taken over before others run.
const AT_ONCE: usize = 500;
/// Rows looked up at a time.
const TOGETHER: usize = 16_384;

/// An index that has just been opened.
struct OpenIndex<T> {
    table: T,
    meta: Meta,
    /// It was not there, or is not what the log needs: it is empty, and must be made anew.
    lost: bool,
}

/// The opening under way; gives whether the index was lost.
pub(crate) type Joining = Pin<Box<dyn Future<Output = io::Result<bool>>>>;

/// Opens the index of the journal `keeper`, a new one if it is of no use.
async fn open_index<R: Runtime>(
    rt: &R,
    path: &Path,
    options: TableOptions,
    keeper: &Keeper<R>,
    is_closed: impl Fn() -> bool,
) -> io::Result<OpenIndex<<R as Disk>::Table>> {
    // Nothing raises it before the index is known.
    let needs = keeper.mark();
    match open_in_time(rt, path, options, &is_closed).await {
        Ok(table) => match fits(&table, keeper).await {
            Ok(Some(meta)) => return Ok(OpenIndex { table, meta, lost: false }),
            Ok(None) => table.close().await?,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => drop(table.close().await),
            Err(e) => return Err(e),
        },
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {}
        Err(e) => return Err(e),
    }
    rt.remove(path).await?;
    let table = open_in_time(rt, path, options, &is_closed).await?;
    let meta = Meta { log: keeper.log(), mark: needs, ..Meta::default() };
    Ok(OpenIndex { table, meta, lost: true })
}

/// Opens or makes the table when the disk has space for it: a full disk is no reason to give up.
async fn open_in_time<R: Runtime>(
    rt: &R,
    path: &Path,
    options: TableOptions,
    is_closed: &impl Fn() -> bool,
) -> io::Result<<R as Disk>::Table> {
    loop {
        match rt.open_table(path, options).await {
            Err(e) if is_full(&e) && !is_closed() => rt.sleep_until(rt.now().after(SPACE_WAIT)).await,
            result => return result,
        }
    }
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

impl<R: Runtime> Desk<R> {
    /// What the log alone says: ids that are taken, and when its messages came.
    pub(crate) fn begin(&self, rebuild: &Rebuild, after: MessageId) {
        let mut s = self.0.state.borrow_mut();
        s.last_id = rebuild.last.max(after);
        s.ages = Ages::new(self.0.rt.now(), self.0.rt.wall(), rebuild.last);
        s.joining = true;
        s.stopped = rebuild.stopped;
    }

    /// Whether mail may be taken before the index is known. New ids must be greater than all that the
    /// index has; ids are times, so they are unless the clock was set back.
    fn may_go_ahead(&self) -> bool {
        let wall = self.0.rt.wall();
        self.0.state.borrow().last_id.arrival() <= wall && self.0.vault.newest() <= wall
    }

    /// Starts to open the index at `path`, and waits for it as long as mail may wait. `Err`: it did
    /// not work. The rest, if there is one, is for [`Self::join_late`].
    pub(crate) async fn join(&self, path: PathBuf, rebuild: Rebuild) -> io::Result<Result<bool, Joining>> {
        let mut joining: Joining = Box::pin(self.clone().take_index(path, rebuild));
        let patience = self.0.options.patience;
        let mut sleep = pin!(self.0.rt.sleep_until(self.0.rt.now().after(patience)));
        let ahead = patience < Duration::MAX && self.may_go_ahead();
        let joined = poll_fn(|cx| match joining.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending if ahead => sleep.as_mut().poll(cx).map(|()| None),
            Poll::Pending => Poll::Pending,
        })
        .await;
        match joined {
            Some(result) => {
                let lost = result?;
                self.joined(lost);
                Ok(Ok(lost))
            }
            None => Ok(Err(joining)),
        }
    }

    /// Waits for the rest of the opening while the queue is open already.
    pub(crate) async fn join_late(self, joining: Joining) {
        match joining.await {
            Ok(lost) => {
                self.joined(lost);
                self.load_index(lost).await;
            }
            Err(_) => {
                let mut s = self.0.state.borrow_mut();
                s.joining = false;
                if !s.closing {
                    // As when it cannot be read.
                    self.0.poison.set();
                    self.die(&mut s, After::Nothing);
                }
                s.crowd.wake_all();
            }
        }
    }

    fn joined(&self, lost: bool) {
        let mut s = self.0.state.borrow_mut();
        s.joining = false;
        s.index_lost = Some(lost);
        s.crowd.wake_all();
    }

    /// Waits until the index is open; says whether it was lost, and is being made anew. `None`: closed
    /// before.
    pub async fn index_lost(&self) -> Option<bool> {
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            if s.index_lost.is_some() || s.closing || s.dead {
                return Poll::Ready(s.index_lost);
            }
            s.crowd.join(cx);
            Poll::Pending
        })
        .await
    }

    /// At the end: waits until the opening is over, if it is under way.
    pub(crate) async fn no_longer_joining(&self) {
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            if !s.joining {
                return Poll::Ready(());
            }
            s.crowd.join(cx);
            Poll::Pending
        })
        .await;
    }

    async fn take_index(self, path: PathBuf, mut rebuild: Rebuild) -> io::Result<bool> {
        let opened =
            open_index(&self.0.rt, &path, self.0.options.table, &self.0.keeper, || self.is_closed()).await?;
        let OpenIndex { table, meta, lost } = opened;
        if self.is_closed() {
            drop(table.close().await);
            return Err(io::ErrorKind::Interrupted.into());
        }
        assert!(self.0.table.set(table).is_ok(), "an index is opened once");
        self.know(&meta, lost, &mut rebuild).await?;
        let united = self.find_archived(&rebuild.messages, meta.through).await?;
        self.take_over(rebuild, &united, lost).await?;
        Ok(lost)
    }

    /// Takes over what the index says of itself, and names of destinations.
    async fn know(&self, meta: &Meta, lost: bool, rebuild: &mut Rebuild) -> io::Result<()> {
        let names = if lost { None } else { Some(read_names(self.0.table()).await?) };
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        assert!(s.ledger.is_empty(), "nothing is said to an index that is not known");
        s.ledger = Ledger::new(meta.mark);
        s.archived_through = meta.through;
        s.last_id = s.last_id.max(meta.last);
        s.ages.found_too(meta.last);
        // What has been said before the index was made anew is not about its rows. Each run begins with a
        // new segment.
        s.doubt = if lost { rebuild.newest + 1 } else { meta.doubt };
        s.rows_sure = rebuild.stopped.is_some_and(|at| at.segment >= s.doubt);
        s.rows_doubted = std::mem::take(&mut rebuild.kept);
        self.0.keeper.set_mark(meta.mark);
        for (number, name, sample) in names.iter().flatten() {
            // Destinations that there are no more by that name are found anew, message by message.
            if !sample.is_empty() {
                let (via, address) = via::parse_sample(sample);
                self.destination_by(s, via, address);
            }
            if !s.ledger.learn(*number, name, sample) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "names in the index are not in order",
                ));
            }
        }
        Ok(())
    }

    /// Of the messages of the journal those that the index has, too: from now on what becomes of
    /// them is said to both. Only those from segments up to `through` can be.
    async fn find_archived(
        &self,
        found: &BTreeMap<MessageId, Found>,
        through: u64,
    ) -> io::Result<BTreeMap<MessageId, Box<[u8]>>> {
        let old = found.iter().filter(|(_, f)| f.at.segment <= through).map(|(id, _)| *id);
        let ids: Vec<MessageId> = old.collect();
        let mut out = BTreeMap::new();
        for ids in ids.chunks(TOGETHER) {
            let keys = ids.iter().map(|id| row::key(*id).to_vec()).collect();
            let rows = self.0.table().get_many(keys).await?;
            let rows = ids.iter().zip(rows).filter_map(|(id, row)| Some((*id, row?.into_boxed_slice())));
            out.extend(rows);
        }
        Ok(out)
    }

    /// Lets others run now and then: the core may be serving clients already.
    async fn take_over(
        &self,
        rebuild: Rebuild,
        united: &BTreeMap<MessageId, Box<[u8]>>,
        lost: bool,
    ) -> io::Result<()> {
        let doors: Vec<DestId> = {
            let mut s = self.0.state.borrow_mut();
            s.said = rebuild.archived;
            if lost {
                s.journaled = rebuild.messages.keys().copied().collect();
            }
            let hops = rebuild.hops.into_iter();
            hops.map(|(hop, sample)| self.door(&mut s, hop, &sample)).collect()
        };
        for (n, (id, found)) in rebuild.messages.into_iter().enumerate() {
            {
                let mut s = self.0.state.borrow_mut();
                if s.closing || s.dead {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                self.take_over_one(&mut s, id, &found, &doors);
                let domain = found.domain.and_then(|n| rebuild.domains.get(n as usize));
                if let Some((key, domain)) = s.index.find(id).zip(domain) {
                    s.index.set_domain(key, domain);
                }
                if let Some(row) = united.get(&id) {
                    self.unite(&mut s, id, row);
                }
            }
            if (n + 1).is_multiple_of(AT_ONCE) {
                yield_now().await;
            }
        }
        self.route_again();
        Ok(())
    }

    fn take_over_one(&self, s: &mut State, id: MessageId, found: &Found, doors: &[DestId]) {
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        let mut e = Entry::new(id, found.size, found.body);
        e.at = found.at;
        e.side = found.side;
        s.whose.enter(id, found.user);
        e.switches.held = found.marks & record::HELD != 0;
        e.switches.warned = found.marks & record::WARNED != 0;
        e.switches.double_bounce = found.marks & record::DOUBLE_BOUNCE != 0;
        e.switches.null_sender = found.null_sender;
        for r in &found.recipients {
            let destination = match r.way {
                Way::Hop(n) => doors[n],
                Way::Local => state::LOCAL,
                Way::None => state::NO_ROUTE,
            };
            let mut out =
                Recipient { destination, attempts: r.attempts, said: r.said, ..Recipient::default() };
            out.cover = if r.in_doubt { Cover::InDoubt } else { Cover::None };
            if r.fate.is_owed() {
                out.due = SOME_DAY;
            }
            out.phase = match r.fate {
                Fate::Delivered => Phase::Delivered,
                Fate::Failed => Phase::Failed,
                Fate::Fresh | Fate::Attempting => Phase::Ready,
                Fate::Owed => Phase::Owed,
                Fate::Passed => Phase::Passed,
                Fate::Deferred => {
                    out.due = now.after(self.retry_in(r.due, wall));
                    Phase::Waiting
                }
            };
            e.recipients.push(out);
        }
        let held = e.switches.held;
        let key = s.index.insert(e);
        if !found.via.is_empty() {
            // Its addresses are needed to know where it goes.
            s.vias.set(id, &found.via);
            return s.reroutes.push(key);
        }
        if !held {
            self.line_up(s, key, now);
        }
        s.arm(key);
        self.tell(s, key, Vec::new(), None);
    }

    /// A message of the journal has this row: what the journal says of it is newer.
    fn unite(&self, s: &mut State, id: MessageId, row: &[u8]) {
        let Some(key) = s.index.find(id) else { return };
        let said = s.said.remove(&id).unwrap_or_default();
        let outcomes = said.iter().filter_map(|said| said.at).collect();
        let Some(view) = RowView::parse(row).ok().filter(|view| self.0.vault.keep(view.place)) else {
            // The archive has lost it, the journal has not: it goes into the archive once more.
            return s.ledger.enter(id, Change { outcomes, ..Change::default() });
        };
        let replies = super::loading::replies(&view, &said).into_iter().collect();
        let at = s.index.change(key, |e| {
            e.archived = Some(Box::new(Archived { place: view.place, replies, unsaid: 0 }));
            e.recipients.iter_mut().for_each(|r| r.said = NOWHERE);
            e.at
        });
        let Some(at) = at else { return };
        s.archived += 1;
        let change = Change { record: Some(at), outcomes, ..Change::default() };
        self.enter_row(s, key, None, change);
    }
}

/// Numbers, names and sample addresses of destinations.
async fn read_names<T: Table>(table: &T) -> io::Result<Vec<(u32, String, Vec<u8>)>> {
    let mut names = Vec::new();
    let mut after = vec![row::NAMES];
    loop {
        let rows = table.scan(&[row::NAMES], &after, ScanLimit { rows: 1000, bytes: 1 << 20 }).await?;
        let Some(last) = rows.last_key() else { return Ok(names) };
        after = last.to_vec();
        for (key, value) in rows.iter() {
            let (Some(number), Some((name, sample))) = (row::name_of(key), row::parse_name(value)) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the index has a damaged name"));
            };
            names.push((number, name.to_owned(), sample.to_vec()));
        }
    }
}

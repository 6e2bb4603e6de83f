//! L4: opening a queue: the journal is read back, the index rebuilt, what is due spread.
//!
//! Errors are ours or the operator's: the core does not start. Messages in doubt are known from here
//! on; they are tried again like all others, and listed for the operator.

use crate::base::ids::{LogNumber, MessageId};
use crate::base::time::Wall;
use crate::metrics;
use crate::queue::age::Ages;
use crate::queue::desk::loading::{Loaded, OpenIndex, open_index};
use crate::queue::desk::{Desk, Options};
use crate::queue::index::{Cover, DestId, Entry, Phase, Recipient};
use crate::queue::ledger::Ledger;
use crate::queue::record::{self, Fate};
use crate::queue::recover::{Found, Rebuild, Way};
use crate::queue::routing::Routing;
use crate::queue::row::{self, Meta};
use crate::queue::shares::Shares;
use crate::queue::state::{self, State};
use crate::runtime::table::{ScanLimit, Table};
use crate::runtime::{Runtime, yield_now};
use crate::storage;
use crate::storage::archive::{Archive, ArchiveReport};
use crate::storage::keeper::Keeper;
use crate::storage::opening::OpenError;
use crate::storage::options::Poison;
use crate::storage::recover::RecoveryReport;
use crate::storage::removal;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// Messages taken over before others run.
const AT_ONCE: usize = 500;

/// What was found in the log.
#[derive(Debug)]
pub struct Recovery {
    /// The journal's report.
    pub journal: RecoveryReport,
    /// Messages in the queue.
    pub messages: usize,
    /// Recipients that may have been in flight; see `Desk::in_doubt`.
    pub in_doubt: usize,
    /// Kind and id of records that could not be read.
    pub malformed: Vec<(u8, u64)>,
    /// The index was not there, or not what the journal needs: it is being made anew.
    pub index_lost: bool,
    /// The archive's report.
    pub archive: ArchiveReport,
}

/// What a queue is made of.
#[derive(Clone)]
pub struct Parts<R: Runtime> {
    /// The core's runtime.
    pub rt: R,
    /// How the journal works.
    pub storage: storage::Options,
    /// The file system's poison.
    pub poison: Poison,
    /// Number of the log.
    pub log: LogNumber,
    /// Ids of new messages come after this one, as after all that are in the log.
    pub after: MessageId,
    /// How the queue works.
    pub options: Options,
    /// Series of the core.
    pub metrics: metrics::Core,
    /// Tables.
    pub routing: Rc<dyn Routing>,
    /// What it has together with the other queues of the core.
    pub shares: Rc<Shares>,
}

impl<R: Runtime> Desk<R> {
    /// Opens the queue in `dir` (absolute; made if it is not there) and starts its tasks.
    /// Connections are opened by `delivery::agent`, notifications made by `delivery::bounce`. What is
    /// parked in archive and index takes its place afterwards: [`Self::loaded`].
    pub async fn open(dir: &Path, parts: Parts<R>) -> Result<(Self, Recovery), OpenError> {
        let Parts { rt, storage, poison, routing, .. } = parts.clone();
        let mut rebuild = Rebuild::default();
        let plan = |address: &[u8]| routing.plan(address);
        let opened = Keeper::open(rt, dir, storage, poison, |r| rebuild.visit(&r, &plan)).await;
        let (keeper, journal) = opened?;
        rebuild.messages.values().for_each(|f| keeper.keep(f.at));
        let said = rebuild.archived.values().flatten();
        said.filter_map(|said| said.at).for_each(|at| keeper.keep(at));
        observe(&keeper, &parts.metrics);
        let opened = Self::open_over(dir, keeper.clone(), journal, rebuild, parts).await;
        if opened.is_err() {
            // It may be tried again: nobody must have the log then.
            keeper.close().await;
        }
        opened
    }

    /// The rest of it, over the log that has been read.
    async fn open_over(
        dir: &Path,
        keeper: Keeper<R>,
        journal: RecoveryReport,
        mut rebuild: Rebuild,
        parts: Parts<R>,
    ) -> Result<(Self, Recovery), OpenError> {
        let Parts { rt, poison, after, options, .. } = parts.clone();
        let path = dir.join(removal::INDEX);
        let index = open_index(&rt, &path, options.table, &keeper).await;
        let OpenIndex { table, meta, lost } = index.map_err(|e| OpenError::Io(path.clone(), e))?;
        let archive = dir.join(removal::ARCHIVE);
        let (vault, archive) = Archive::open(rt, &archive, options.archive, poison, keeper.log()).await?;
        let desk = Desk::assemble((keeper, vault, table), parts);
        let malformed = std::mem::take(&mut rebuild.malformed);
        let failed = |e| OpenError::Io(path.clone(), e);
        desk.know(&meta, lost, &rebuild, after).await.map_err(failed)?;
        let united = desk.find_archived(&rebuild.messages, meta.through).await.map_err(failed)?;
        let (messages, in_doubt) = desk.take_over(rebuild, &united, lost).await;
        desk.start();
        desk.0.rt.spawn_critical(desk.clone().load_index(lost));
        Ok((desk, Recovery { journal, archive, messages, in_doubt, malformed, index_lost: lost }))
    }

    /// Takes over what the index says of itself, and names of destinations.
    async fn know(&self, meta: &Meta, lost: bool, rebuild: &Rebuild, after: MessageId) -> io::Result<()> {
        let names = if lost { None } else { Some(read_names(&self.0.table).await?) };
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        s.ledger = Ledger::new(meta.mark);
        s.archived_through = meta.through;
        let last = rebuild.last.max(meta.last);
        s.last_id = last.max(after);
        s.ages = Ages::new(self.0.rt.now(), self.0.rt.wall(), last);
        s.rows_sure = rebuild.stopped && !lost;
        self.0.keeper.set_mark(meta.mark);
        for (number, name, sample) in names.iter().flatten() {
            // Destinations that there are no more by that name are found anew, message by message.
            if !sample.is_empty() {
                self.destination(s, sample);
            }
            if !s.ledger.learn(*number, name, sample) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the index has lost names"));
            }
        }
        Ok(())
    }

    /// Lets others run now and then: the core may be serving clients already.
    async fn take_over(
        &self,
        rebuild: Rebuild,
        united: &BTreeMap<MessageId, Box<[u8]>>,
        lost: bool,
    ) -> (usize, usize) {
        let doors: Vec<DestId> = {
            let mut s = self.0.state.borrow_mut();
            s.said = rebuild.archived;
            if lost {
                s.journaled = rebuild.messages.keys().copied().collect();
            }
            let hops = rebuild.hops.into_iter();
            hops.map(|(hop, sample)| self.door(&mut s, hop, &sample)).collect()
        };
        let (mut messages, mut in_doubt) = (0, 0);
        for (id, found) in rebuild.messages {
            messages += 1;
            in_doubt += found.recipients.iter().filter(|r| r.in_doubt && !r.fate.is_done()).count();
            {
                let mut s = self.0.state.borrow_mut();
                self.take_over_one(&mut s, id, &found, &doors);
                if let Some(row) = united.get(&id) {
                    self.unite(&mut s, id, row);
                }
            }
            if messages % AT_ONCE == 0 {
                yield_now().await;
            }
        }
        (messages, in_doubt)
    }

    /// Waits until everything that is parked has taken its place. `None`: closed before.
    pub async fn loaded(&self) -> Option<Loaded> {
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            if s.found.is_some() || s.closing || s.dead {
                return Poll::Ready(s.found);
            }
            s.crowd.join(cx);
            Poll::Pending
        })
        .await
    }

    /// True once nothing is left to be done: no message, known or in the index still to be read, no
    /// outcome that is not settled or that the index has not got, no notification in the making. Where
    /// no mail is accepted any more, it stays so.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        let s = self.0.state.borrow();
        s.loaded
            && s.index.counters().messages == 0
            && s.ledger.is_empty()
            && s.orphans.is_empty()
            && s.flights == 0
            && s.telling == 0
            && s.notices.is_empty()
            && s.unsettled.is_empty()
            && s.commits.is_empty()
    }

    /// Number of its log.
    #[must_use]
    pub fn log(&self) -> LogNumber {
        self.0.log
    }

    /// No id up to this one is free.
    #[must_use]
    pub fn last_id(&self) -> MessageId {
        self.0.state.borrow().last_id
    }

    fn take_over_one(&self, s: &mut State, id: MessageId, found: &Found, doors: &[DestId]) {
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        let mut e = Entry::new(id, found.size, found.body);
        e.at = found.at;
        e.side = found.side;
        e.switches.held = found.marks & record::HELD != 0;
        e.switches.warned = found.marks & record::WARNED != 0;
        e.switches.double_bounce = found.marks & record::DOUBLE_BOUNCE != 0;
        e.switches.null_sender = found.null_sender;
        let mut owed = false;
        for r in &found.recipients {
            let destination = match r.way {
                Way::Hop(n) => doors[n],
                Way::Local => state::LOCAL,
                Way::None => state::NO_ROUTE,
            };
            let mut out =
                Recipient { destination, attempts: r.attempts, said: r.said, ..Recipient::default() };
            out.cover = if r.in_doubt { Cover::InDoubt } else { Cover::None };
            out.phase = match r.fate {
                Fate::Delivered => Phase::Delivered,
                Fate::Failed => Phase::Failed,
                Fate::Fresh | Fate::Attempting => Phase::Ready,
                Fate::Owed => {
                    owed = true;
                    Phase::Owed
                }
                Fate::Deferred => {
                    out.due = now.after(self.retry_in(r.due, wall));
                    Phase::Waiting
                }
            };
            e.recipients.push(out);
        }
        let held = e.switches.held;
        let key = s.index.insert(e);
        if !held {
            self.line_up(s, key, now);
        }
        s.arm(key);
        if owed {
            self.owe_again(s, key);
        }
    }

    /// How long a retry waits that was to come at `due`. Never longer than any retry waits: if it is
    /// further ahead the clock was set back, and when it was meant to come is not known. Neither
    /// those nor overdue ones all come at once.
    pub(crate) fn retry_in(&self, due: Wall, wall: Wall) -> Duration {
        let (left, longest) = (due.since(wall), self.0.options.retry.longest());
        let span = match left {
            Duration::ZERO => self.0.options.spread,
            left if left > longest => longest,
            left => return left,
        };
        let span = span.as_millis() as u64;
        if span == 0 { Duration::ZERO } else { Duration::from_millis(self.0.rt.random() % span) }
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

fn observe<R: Runtime>(keeper: &Keeper<R>, metrics: &metrics::Core) {
    let m = metrics.clone();
    keeper.observe(Box::new(move |facts| {
        m.commits.increment(1);
        m.commit_seconds.record(facts.took.as_secs_f64());
        m.commit_records.record(f64::from(facts.records));
        m.commit_bytes.record(f64::from(facts.bytes));
    }));
}

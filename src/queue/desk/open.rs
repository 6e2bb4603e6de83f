//! L4: opening a queue: the journal is read back, the index rebuilt, what is due spread.
//!
//! Errors are ours or the operator's: the core does not start. Messages in doubt are known from here
//! on; they are tried again like all others, and listed for the operator.

use crate::base::ids::{LogNumber, MessageId};
use crate::base::time::Wall;
use crate::metrics;
use crate::queue::desk::loading::Loaded;
use crate::queue::desk::{Desk, Options};
use crate::queue::recover::Rebuild;
use crate::queue::routing::Routing;
use crate::queue::shares::Shares;
use crate::runtime::Runtime;
use crate::storage;
use crate::storage::archive::{Archive, ArchiveReport};
use crate::storage::keeper::{Keeper, Observer};
use crate::storage::opening::OpenError;
use crate::storage::options::Poison;
use crate::storage::recover::RecoveryReport;
use crate::storage::removal;
use std::future::poll_fn;
use std::path::Path;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

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
    /// The index was not there, or not what the journal needs: it is being made anew. False as well if
    /// that is not known yet: `Desk::index_lost`.
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
    /// parked in archive and index takes its place afterwards: [`Self::loaded`]. If the index takes
    /// long to open, so do the messages of the log (`joining`).
    pub async fn open(dir: &Path, parts: Parts<R>) -> Result<(Self, Recovery), OpenError> {
        let Parts { rt, storage, poison, routing, .. } = parts.clone();
        let mut rebuild = Rebuild::default();
        let plan = |address: &[u8]| routing.plan(address);
        let opened = Keeper::open(rt, dir, storage, poison, |r| rebuild.visit(&r, &plan)).await;
        let (keeper, journal) = opened?;
        rebuild.messages.values().for_each(|f| keeper.keep(f.at));
        let said = rebuild.archived.values().flatten();
        said.filter_map(|said| said.at).for_each(|at| keeper.keep(at));
        // Until the rows say it themselves.
        rebuild.stopped.into_iter().for_each(|at| keeper.keep(at));
        keeper.observe(observer(&parts.metrics));
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
        let archive = dir.join(removal::ARCHIVE);
        let (vault, archive) = Archive::open(rt, &archive, options.archive, poison, keeper.log()).await?;
        let desk = Desk::assemble((keeper, vault), parts);
        let malformed = std::mem::take(&mut rebuild.malformed);
        let (messages, in_doubt) = (rebuild.messages.len(), rebuild.in_doubt());
        desk.begin(&rebuild, after);
        let path = dir.join(removal::INDEX);
        let joined = desk.join(path.clone(), rebuild).await.map_err(|e| OpenError::Io(path, e))?;
        desk.start();
        let index_lost = match joined {
            Ok(lost) => {
                desk.0.rt.spawn_critical(desk.clone().load_index(lost));
                lost
            }
            Err(joining) => {
                desk.0.rt.spawn_critical(desk.clone().join_late(joining));
                false
            }
        };
        Ok((desk, Recovery { journal, archive, messages, in_doubt, malformed, index_lost }))
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

/// Counts durable writes.
pub fn observer(metrics: &metrics::Core) -> Observer {
    let m = metrics.clone();
    Box::new(move |facts| {
        m.commits.increment(1);
        m.commit_seconds.record(facts.took.as_secs_f64());
        m.commit_records.record(f64::from(facts.records));
        m.commit_bytes.record(f64::from(facts.bytes));
    })
}

//! L4: opening a queue: the journal is read back, the index rebuilt, what is due spread.
//!
//! Errors are ours or the operator's: the core does not start. Messages in doubt are known from here
//! on; they are tried again like all others, and listed for the operator.

use crate::base::ids::{LogNumber, MessageId};
use crate::base::time::Wall;
use crate::metrics;
use crate::queue::age::Ages;
use crate::queue::desk::{Desk, Options};
use crate::queue::index::{Cover, DestId, Entry, Phase, Recipient};
use crate::queue::record::{self, Fate};
use crate::queue::recover::{Found, Rebuild, Way};
use crate::queue::routing::Routing;
use crate::queue::shares::Shares;
use crate::queue::state::{self, State};
use crate::runtime::{Runtime, yield_now};
use crate::storage;
use crate::storage::keeper::Keeper;
use crate::storage::opening::OpenError;
use crate::storage::options::Poison;
use crate::storage::recover::RecoveryReport;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
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
    /// Side files that no message named.
    pub orphans: u64,
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
    /// Connections are opened by `delivery::agent`, notifications made by `delivery::bounce`.
    pub async fn open(dir: &Path, parts: Parts<R>) -> Result<(Self, Recovery), OpenError> {
        let Parts { rt, storage, poison, after, routing, .. } = parts.clone();
        let mut rebuild = Rebuild::default();
        let plan = |address: &[u8]| routing.plan(address);
        let opened = Keeper::open(rt, dir, storage, poison, |r| rebuild.visit(&r, &plan)).await;
        let (keeper, journal) = opened?;
        let sides: BTreeSet<u64> = rebuild.messages.values().map(|f| f.side).filter(|s| *s != 0).collect();
        let orphans =
            keeper.remove_orphan_sides(&sides).await.map_err(|e| OpenError::Io(dir.join("side"), e))?;
        rebuild.messages.values().for_each(|f| keeper.keep(f.at));
        observe(&keeper, &parts.metrics);
        let desk = Desk::assemble(keeper, parts);
        let malformed = std::mem::take(&mut rebuild.malformed);
        let (messages, in_doubt) = desk.take_over(rebuild, after).await;
        desk.start();
        Ok((desk, Recovery { journal, messages, in_doubt, malformed, orphans }))
    }

    /// Lets others run now and then: the core may be serving clients already.
    async fn take_over(&self, rebuild: Rebuild, after: MessageId) -> (usize, usize) {
        let doors: Vec<DestId> = {
            let mut s = self.0.state.borrow_mut();
            s.last_id = rebuild.last.max(after);
            s.ages = Ages::new(self.0.rt.now(), self.0.rt.wall(), rebuild.last);
            rebuild.hops.into_iter().map(|hop| self.door(&mut s, hop)).collect()
        };
        let (mut messages, mut in_doubt) = (0, 0);
        for (id, found) in rebuild.messages {
            messages += 1;
            in_doubt += found.recipients.iter().filter(|r| r.in_doubt && !r.fate.is_done()).count();
            self.take_over_one(&mut self.0.state.borrow_mut(), id, &found, &doors);
            if messages % AT_ONCE == 0 {
                yield_now().await;
            }
        }
        (messages, in_doubt)
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
    fn retry_in(&self, due: Wall, wall: Wall) -> Duration {
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

fn observe<R: Runtime>(keeper: &Keeper<R>, metrics: &metrics::Core) {
    let m = metrics.clone();
    keeper.observe(Box::new(move |facts| {
        m.commits.increment(1);
        m.commit_seconds.record(facts.took.as_secs_f64());
        m.commit_records.record(f64::from(facts.records));
        m.commit_bytes.record(f64::from(facts.bytes));
    }));
}

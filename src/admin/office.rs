//! L5: what the conversations of operators share: their rules, holds and locks, the record of what they do.
//!
//! Every change is an event `operator`: who (the user id of whoever has opened the socket), what, of which
//! messages, how many, why. Runs on the control thread. What cannot be recorded is counted there, and done
//! nevertheless.

use super::control::Queues;
use super::holds::Holds;
use super::lockout::Lockout;
use super::rules::Book;
use super::verbs::Previews;
use crate::base::ids::QueueId;
use crate::base::time::Wall;
use crate::events::Events;
use crate::queue::control::{Request, Response, Which};
use serde::Serialize;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Conditions that are being looked for, or carried out, at the same time.
pub const AT_ONCE: usize = 4;
/// Messages in one request to a core.
pub const CHUNK: usize = 4096;
/// How often holds are looked at whose time may be over.
const LOOK: Duration = Duration::from_secs(1);

/// What is said of files that were read anew.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Said {
    /// `info`, `warning` or `alarm`: the old ones stay in use.
    pub level: &'static str,
    /// What it is about, as in the event.
    pub event: &'static str,
    /// What.
    pub text: String,
}

/// See the module.
pub struct Office {
    /// Destinations that nothing is sent to.
    pub book: Book,
    /// What is held by a condition.
    pub holds: Holds,
    /// Who may not log in.
    pub lockout: Rc<Lockout>,
    /// The text of `/metrics`.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Where it is recorded.
    pub events: Events,
    /// Whether new mail is taken; if not, why.
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// Who asks here is told what has been read anew.
    pub reload: mpsc::Sender<oneshot::Sender<Vec<Said>>>,
    /// What has been counted, and may be changed.
    pub previews: Previews,
    /// How many conditions are being looked for.
    pub busy: Cell<usize>,
    /// How many traces there have been.
    pub traces: Cell<u64>,
}

impl Office {
    /// Records what has been done.
    pub fn tell(&self, who: &str, verb: &str, count: u64, what: &str, reason: &str) {
        let what: String = what.chars().take(1000).collect();
        let reason = if reason.is_empty() { String::new() } else { format!("; reason: {reason}") };
        self.events.info("operator", format!("{who}: {verb} {count}, of {what}{reason}"));
    }

    /// A number that no trace has had.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.traces.set(self.traces.get() + 1);
        self.traces.get()
    }

    /// Lets go what was held, for as far as it is there and held; gives how many. `None`: a core does not
    /// answer.
    pub async fn release(&self, queues: &impl Queues, ids: &[QueueId], note: &str) -> Option<u64> {
        let mut count = 0;
        for some in ids.chunks(CHUNK) {
            for queue in 0..queues.count() {
                let request = Request::Release { which: Which::Some(some.to_vec()), note: note.to_owned() };
                match queues.ask(queue, request).await? {
                    Response::Done(n) => count += n,
                    _ => return None,
                }
            }
        }
        Some(count)
    }

    /// Ends holds whose time is over, for ever.
    pub async fn end_holds(self: Rc<Self>, queues: Rc<impl Queues>, wall: fn() -> Wall) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.previews.forget();
            for hold in self.holds.over(wall()) {
                let Ok(ids) = self.holds.ids(hold.number) else {
                    let text = format!("hold {} cannot be read, and does not end by itself", hold.number);
                    self.events.alarm("hold_unreadable", text);
                    continue;
                };
                let note = format!("hold {} is over", hold.number);
                // What a core cannot do now is tried again.
                let Some(count) = self.release(&*queues, &ids, &note).await else { continue };
                if let Err(e) = self.holds.remove(hold.number) {
                    self.events.alarm("hold_not_removed", format!("hold {}: {e}", hold.number));
                }
                self.tell(&note, "release", count, &hold.what, &hold.reason);
            }
        }
    }
}

/// One of the places for conditions, given back on drop.
pub struct Place<'a>(&'a Cell<usize>);

impl<'a> Place<'a> {
    /// One, if there is one left.
    #[must_use]
    pub fn take(busy: &'a Cell<usize>) -> Option<Self> {
        (busy.get() < AT_ONCE).then(|| {
            busy.set(busy.get() + 1);
            Place(busy)
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

//! Operators: what they see of the queue through its own control requests, and what they do to it.
//!
//! Knows letters by the number in their sender's address; notifications by their text. Whatever is
//! found is written into the ledger.

use super::Stage;
use crate::machine::SimRuntime;
use crate::peers::ledger::{self, Owed};
use crate::world::SEC;
use ringpost::base::ids::QueueId;
use ringpost::queue::control::{ControlError, Listed, Request, Response, Which};
use ringpost::queue::desk::Desk;
use std::collections::BTreeSet;

/// What a queue holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Recipients that are not done with, and those that a notification in the queue reports.
    pub queued: BTreeSet<Owed>,
    /// Of the former, those that may have been in flight.
    pub in_doubt: BTreeSet<Owed>,
    /// Messages.
    pub messages: usize,
}

/// The number of the letter of this sender.
fn number(sender: &str) -> Option<u64> {
    sender.strip_prefix("from")?.split('@').next()?.parse().ok()
}

fn id_of(listed: &Listed) -> QueueId {
    listed.queue_id.parse().expect("an id of ours")
}

/// Page by page.
pub async fn list(desk: &Desk<SimRuntime>, in_doubt: bool) -> Vec<Listed> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let request = Request::List { after, limit: 50, in_doubt };
        let Response::Page { messages, next } = desk.control(&request).await else { return all };
        all.extend(messages);
        after = match next {
            Some(id) => Some(id),
            None => return all,
        };
    }
}

async fn text(desk: &Desk<SimRuntime>, id: QueueId) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let request = Request::Cat { id, offset: out.len() as u64 };
        match desk.control(&request).await {
            Response::Piece { bytes, .. } if !bytes.is_empty() => out.extend(bytes),
            _ => return out,
        }
    }
}

/// The ids of what is in doubt; no disk is asked who they are.
pub async fn doubted(desk: &Desk<SimRuntime>) -> BTreeSet<String> {
    list(desk, true).await.into_iter().map(|listed| listed.queue_id).collect()
}

/// Looks through the whole queue.
pub async fn see(desk: &Desk<SimRuntime>) -> Seen {
    let mut seen = Seen::default();
    for listed in list(desk, false).await {
        seen.messages += 1;
        if listed.unreadable {
            continue;
        }
        if let Some(n) = number(&listed.sender) {
            for r in listed.recipients {
                if r.in_doubt {
                    seen.in_doubt.insert((n, r.address.clone()));
                }
                seen.queued.insert((n, r.address));
            }
        } else {
            let report = ledger::report(&text(desk, id_of(&listed)).await);
            let named = report.failed.into_iter().chain(report.relayed);
            seen.queued.extend(named.map(|r| (report.number, r)));
        }
    }
    seen
}

impl Stage {
    /// Looks through the queue of a process that sends nothing yet.
    pub async fn look_through(&self, desk: &Desk<SimRuntime>) {
        let faults = self.relay.disk.faults();
        self.relay.disk.set_faults(crate::disk::DiskFaults { lying: faults.lying, ..Default::default() });
        self.heed_loading(desk).await;
        let seen = see(desk).await;
        let doubtful = doubted(desk).await;
        if desk.stats().messages != seen.messages {
            self.world.violation(format!("{seen:?} are listed of {:?}", desk.stats()));
        }
        self.world.event("seen", seen.messages as u64, doubtful.len() as u64);
        if let Some(before) = self.clean.take().filter(|_| !self.harmed.get()) {
            // No more, and no less: a clean stop puts nothing in doubt, and clears nothing up.
            if doubtful != before {
                self.world
                    .violation(format!("in doubt after a clean stop: {doubtful:?}, before it: {before:?}"));
            }
        }
        let now = self.world.now();
        self.ledger.borrow_mut().inspected(now, &seen.queued, seen.in_doubt.clone());
        self.relay.disk.set_faults(faults);
        *self.seen.borrow_mut() = Some(seen);
    }

    /// One random request, to one or all.
    pub async fn operate(&self) {
        let Some(desk) = self.life.desk.borrow().clone() else { return };
        let world = &self.world;
        let listed = list(&desk, false).await;
        // Nor while the queue is looked through.
        if listed.is_empty() || self.life.stop.get() || !self.life.open.get() {
            return;
        }
        let one = &listed[world.below(listed.len() as u64) as usize];
        let domain = world.below(self.behind.len() as u64) as usize;
        let which = match world.below(10) {
            0 => Which::All,
            1 | 2 => Which::Destination(format!("{}:25", self.behind[domain].ip())),
            _ => Which::One(id_of(one)),
        };
        let note = "by hand".to_owned();
        let what = world.below(8);
        let letter = number(&one.sender);
        let request = match (what, letter) {
            (0 | 1, _) => Request::Hold { which, note },
            (2..4, _) => Request::Release { which, note },
            // Mostly what waits; with all of it there would be nothing left to look at.
            (4, Some(n)) => {
                self.ledger.borrow_mut().deleting(n);
                Request::Delete { which: Which::One(id_of(one)), note }
            }
            (5, _) => Request::Show(id_of(one)),
            (6, _) => {
                // By a next hop that leads where routes do, or as routes say again.
                let to = if world.below(4) == 0 { "" } else { "as usual" };
                let some = listed.iter().take(1 + world.below(20) as usize).map(id_of);
                Request::Reroute { ids: some.chain([id_of(one)]).collect(), note, to: to.to_owned() }
            }
            _ => Request::Flush(which),
        };
        let parked = desk.stats().parked > 0;
        let answer = desk.control(&request).await;
        world.event("operate", what, u64::from(matches!(answer, Response::Done(_))));
        self.relay.disk.count(if parked { "operated while some were parked" } else { "operated" });
        let unreadable = matches!(answer, Response::Error(ControlError::Unreadable));
        if unreadable && self.relay.disk.reads_well() && !desk.is_dead() {
            self.world.violation(format!("cannot be read: {request:?}, {:?}", desk.stats()));
        }
        if let (Request::Delete { .. }, Response::Done(1), Some(n)) = (request, answer, letter) {
            self.ledger.borrow_mut().deleted(n, world.now());
        }
    }

    /// Whatever is held is let go.
    pub async fn release_all(&self) {
        for _ in 0..10 {
            let Some(desk) = self.life.desk.borrow().clone() else { return };
            let request = Request::Release { which: Which::All, note: String::new() };
            if matches!(desk.control(&request).await, Response::Done(_)) {
                return;
            }
            self.world.pause(5 * SEC).await;
        }
        self.world.violation("what is held cannot be released".to_owned());
    }
}

//! L4: what waits in a queue for mailboxes here: taken as a connection takes its work, handed over, settled.
//!
//! Each message goes by its delivery id, so that after a crash it may be handed over again: the shard
//! refuses a second time and answers that it has it. Knows no shard's inside and no thread. A refusal
//! for now is retried as any other, one for ever is told to the sender.

use crate::base::ids::QueueId;
use crate::delivery::post::{Addressee, Letter, Outcomes, Parcel, Post, Resident, Unable};
use crate::delivery::relay::{Outcome, Phase, RecipientResult};
use crate::mailbox::api::Refusal;
use crate::mailbox::types::DeliveryId;
use crate::queue::bell::Crowd;
use crate::queue::desk::Desk;
use crate::queue::desk::settle::Item;
use crate::queue::schedule::PoolId;
use crate::runtime::Runtime;
use crate::storage::side::SideFile;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// Messages handed over at once: enough to fill a batch of the shard's journal.
const AT_ONCE: usize = 64;
/// Without work for so long it ends; the next message begins it again.
const IDLE: Duration = Duration::from_secs(60);

/// Hands over what is due for `p` until there is nothing for a while, or the queue is stopped.
pub async fn run<R: Runtime>(desk: &Desk<R>, p: PoolId, post: &Rc<dyn Post>) {
    let flights = Rc::new(Flights::default());
    let ledger = Rc::new(Ledger::default());
    loop {
        while flights.count.get() < AT_ONCE {
            let Some(item) = desk.next(p) else { break };
            let flight = Flight::begin(&flights);
            let (desk, post, ledger, flights) = (desk.clone(), post.clone(), ledger.clone(), flights.clone());
            desk.runtime().clone().spawn(async move {
                hand_over(&desk, &*post, item, &ledger).await;
                drop(flight);
                tell_settled(&desk, &post, &ledger, &flights);
            });
        }
        if flights.count.get() >= AT_ONCE {
            flights.below(AT_ONCE).await;
        } else if !desk.wait(p, desk.runtime().now().after(IDLE)).await {
            break;
        }
    }
    flights.below(1).await;
    desk.reachable(p);
}

/// Messages on their way.
#[derive(Default)]
struct Flights {
    count: Cell<usize>,
    crowd: RefCell<Crowd>,
}

impl Flights {
    async fn below(&self, most: usize) {
        poll_fn(|cx| {
            if self.count.get() < most {
                return Poll::Ready(());
            }
            self.crowd.borrow_mut().join(cx);
            Poll::Pending
        })
        .await;
    }
}

/// One of them; counted until it is dropped.
struct Flight(Rc<Flights>);

impl Flight {
    fn begin(flights: &Rc<Flights>) -> Self {
        flights.count.set(flights.count.get() + 1);
        Flight(flights.clone())
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.crowd.borrow_mut().wake_all();
    }
}

/// Hand-overs whose outcomes are not yet known to be durable in the queue, by shard.
#[derive(Default)]
struct Ledger {
    ids: RefCell<BTreeMap<u16, Vec<DeliveryId>>>,
    telling: Cell<bool>,
}

/// Tells the shards what they need not remember any more, once that is durable here.
fn tell_settled<R: Runtime>(desk: &Desk<R>, post: &Rc<dyn Post>, ledger: &Rc<Ledger>, flights: &Rc<Flights>) {
    if ledger.ids.borrow().is_empty() || ledger.telling.replace(true) {
        return;
    }
    let (desk, post, ledger) = (desk.clone(), post.clone(), ledger.clone());
    // Counted as well: the queue is not closed before.
    let flight = Flight::begin(flights);
    desk.runtime().clone().spawn(async move {
        loop {
            let some = std::mem::take(&mut *ledger.ids.borrow_mut());
            if some.is_empty() || !desk.outcomes_durable().await {
                break;
            }
            some.into_iter().for_each(|(shard, ids)| post.settled(shard, ids));
        }
        ledger.telling.set(false);
        drop(flight);
    });
}

/// One recipient of an item.
struct To {
    index: u32,
    address: Box<[u8]>,
    resident: Resident,
}

async fn hand_over<R: Runtime>(desk: &Desk<R>, post: &dyn Post, item: Item<R>, ledger: &Ledger) {
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    let mut by_shard: BTreeMap<u16, Vec<To>> = BTreeMap::new();
    let envelope = item.envelope();
    for (index, r) in envelope.recipients().enumerate() {
        let index = u32::try_from(index).expect("envelopes count in 32 bits");
        if !item.recipients.contains(&index) {
            continue;
        }
        match post.resident(r.address) {
            // Users may have changed since it was accepted.
            None => drop(verdicts.insert(index, verdict(Unable::Refused(Refusal::NoAccount)))),
            Some(resident) => {
                let shard = post.shard(&resident.account);
                by_shard.entry(shard).or_default().push(To { index, address: r.address.into(), resident });
            }
        }
    }
    for (shard, to) in by_shard {
        let indexes: Vec<u32> = to.iter().map(|to| to.index).collect();
        let outcomes = post.deliver(parcel(desk, &item, to)).await;
        take_down(ledger, shard, item.id, &indexes, &outcomes);
        for (index, outcome) in indexes.into_iter().zip(outcomes) {
            let verdict = outcome.map_or_else(verdict, |_| DELIVERED);
            verdicts.insert(index, verdict);
        }
    }
    let results: Vec<RecipientResult<'_>> =
        item.recipients.iter().map(|i| verdicts.get(i).unwrap_or(&LOST).result(*i)).collect();
    desk.settle(item, &results);
}

/// The message as it is handed over; its bytes are copied once.
fn parcel<R: Runtime>(desk: &Desk<R>, item: &Item<R>, to: Vec<To>) -> Parcel {
    let bytes = item.payload[item.content.clone()].to_vec();
    let letter = match item.side_len() {
        None => Letter::Memory(bytes),
        Some(len) => {
            let file = SideFile { name: item.side, len };
            Letter::Side { head: bytes, journal: desk.journal().to_path_buf(), file }
        }
    };
    let addressee = |to: To| Addressee {
        resident: to.resident,
        address: to.address,
        id: Some(delivery_id(item.id, to.index)),
        // RCPT has been answered with yes.
        promised: true,
    };
    Parcel {
        sender: item.envelope().sender().into(),
        arrival: item.arrival,
        letter,
        flags: item.flags,
        to: to.into_iter().map(addressee).collect(),
    }
}

fn delivery_id(id: QueueId, recipient: u32) -> DeliveryId {
    DeliveryId { log: id.log.0, message: id.message.0, recipient }
}

fn take_down(ledger: &Ledger, shard: u16, id: QueueId, indexes: &[u32], outcomes: &Outcomes) {
    let done = indexes.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_ok());
    let ids: Vec<DeliveryId> = done.map(|(index, _)| delivery_id(id, *index)).collect();
    if !ids.is_empty() {
        ledger.ids.borrow_mut().entry(shard).or_default().extend(ids);
    }
}

/// What an answer means for a recipient.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    outcome: Outcome,
    enhanced: [u16; 3],
    text: &'static str,
}

const DELIVERED: Verdict =
    Verdict { outcome: Outcome::Delivered, enhanced: [2, 1, 5], text: "delivered to the mailbox" };
/// Somebody has answered for fewer than were asked for.
const LOST: Verdict =
    Verdict { outcome: Outcome::Deferred, enhanced: [4, 3, 0], text: "internal error while delivering" };

impl Verdict {
    fn result(&self, index: u32) -> RecipientResult<'static> {
        RecipientResult {
            index,
            outcome: self.outcome,
            // Nobody else has said it.
            code: 0,
            enhanced: Some(self.enhanced),
            text: self.text.as_bytes(),
            phase: Phase::Local,
            conn_use: 0,
            dsn_passed_on: false,
        }
    }
}

/// Status codes as RFC 3463 §3.2 to §3.5 has them.
fn verdict(unable: Unable) -> Verdict {
    let failed = |enhanced, text| Verdict { outcome: Outcome::Failed, enhanced, text };
    let deferred = |enhanced, text| Verdict { outcome: Outcome::Deferred, enhanced, text };
    match unable {
        Unable::Loop => failed([5, 4, 6], "mail forwarding loop: it was delivered to this address before"),
        Unable::Refused(refusal) => match refusal {
            Refusal::NoAccount => failed([5, 1, 1], "no such mailbox here"),
            Refusal::Limit => failed([5, 2, 3], "the message is longer than a mailbox can hold"),
            Refusal::OverQuota => deferred([4, 2, 2], "the mailbox is full"),
            Refusal::Full => deferred([4, 3, 1], "no disk space"),
            Refusal::Busy => deferred([4, 3, 2], "the disk is busy"),
            Refusal::Damaged => deferred([4, 2, 0], "the mailbox cannot be read; the operator has been told"),
            _ => deferred([4, 3, 0], "the mailbox store takes nothing at this moment"),
        },
    }
}

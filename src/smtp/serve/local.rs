//! L4: the end of a message of LMTP (RFC 2033): it goes into mailboxes now, and each recipient has an
//! answer. Nothing is queued: what cannot be delivered now is answered 4yz.
//!
//! The message goes once to each shard of its recipients, whichever core that is on. A long body lies in
//! a side file of a shard of this core until all have answered.

use super::session::Talk;
use crate::delivery::post::{Addressee, Later, Letter, Outcomes, Parcel, Post, Resident, Unable};
use crate::mailbox::api::{self, Mailboxes};
use crate::mailbox::store::Store;
use crate::message::body::BodyFlags;
use crate::message::received::{self, Trace};
use crate::policy::access::{self, Refusal as Verdict};
use crate::runtime::Runtime;
use crate::smtp::inbound::Outcome;
use crate::smtp::reply::{Refusal, Reply};
use crate::storage::side::{SideError, SideFile};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Where mail of LMTP goes.
pub struct Local<R: Runtime> {
    /// The way to all mailboxes.
    pub post: Rc<dyn Post>,
    /// A shard of this core: for long bodies on their way.
    pub beside: Store<R>,
    /// A full mailbox is for now only (452 4.2.2), not for ever (552 5.2.2).
    pub defer_full: bool,
}

/// What a mailbox's refusal is for a client of LMTP.
#[must_use]
pub fn refusal(unable: Unable, defer_full: bool) -> Refusal<'static> {
    let r = match unable {
        Unable::Loop => return LOOP,
        Unable::Refused(r) => r,
    };
    let Verdict { code, enhanced, text } = match r {
        api::Refusal::NoAccount => access::UNKNOWN_USER,
        api::Refusal::OverQuota if defer_full => access::MAILBOX_FULL_NOW,
        api::Refusal::OverQuota => access::MAILBOX_FULL,
        api::Refusal::Full => access::NO_SPACE,
        api::Refusal::Busy => access::MAILBOX_BUSY,
        api::Refusal::Limit => return Reply::TOO_BIG.into(),
        _ => access::MAILBOX_TROUBLE,
    };
    Refusal::Own { code, enhanced: (enhanced.1, enhanced.2), text: text.as_bytes() }
}

/// It has been delivered to this address before.
const LOOP: Refusal<'static> = Refusal::Own {
    code: 554,
    enhanced: (4, 6),
    text: b"Mail forwarding loop: it was delivered to this address before",
};

/// A recipient: its place in the envelope, its address, whose mailbox.
struct To {
    index: usize,
    address: Box<[u8]>,
    resident: Resident,
}

/// A shard that works on it.
struct Handled<'a> {
    work: Option<Later<'a, Outcomes>>,
    outcomes: Outcomes,
}

impl<'a> Handled<'a> {
    fn new(work: Later<'a, Outcomes>) -> Self {
        Handled { work: Some(work), outcomes: Vec::new() }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(work) = &mut self.work else { return Poll::Ready(()) };
        self.outcomes = ready!(work.as_mut().poll(cx));
        self.work = None;
        Poll::Ready(())
    }
}

/// What became of it.
type Result<T> = std::result::Result<T, Unable>;

impl<R: Runtime> Talk<'_, R> {
    /// Delivers the message and answers for each recipient.
    pub(super) async fn deliver(&mut self, local: &Local<R>) {
        let count = self.machine.envelope().count() as usize;
        let facts = self.machine.body_facts();
        let letter = self.letter(local).await;
        let mut results: Vec<Option<Result<api::Delivered>>> = (0..count).map(|_| None).collect();
        match letter {
            Err(reply) => {
                let refused = (0..count).map(|_| Outcome::Refused(reply.into()));
                let (kept, from) = (self.keep_for_record(), self.out.len());
                self.machine.settled(self.now, refused, &mut self.out);
                self.record_answers(kept, from);
                return;
            }
            Ok(letter) => {
                let side = match &letter {
                    Letter::Side { file, .. } => Some(*file),
                    Letter::Memory(_) => None,
                };
                self.hand_over(local, letter, BodyFlags(facts.bits()), &mut results).await;
                side.into_iter().for_each(|file: SideFile| local.beside.drop_large(file));
            }
        }
        self.now = self.ctx.rt.now();
        let m = self.ctx.metrics.clone();
        let lost = || Err(Unable::Refused(api::Refusal::Closed));
        if results.iter().any(|result| matches!(result, Some(Ok(_)))) {
            m.received.increment(1);
            m.received_bytes.increment(facts.len);
        }
        let outcomes = results.into_iter().map(|result| match result.unwrap_or_else(lost) {
            Ok(delivered) => {
                m.delivered.increment(1);
                Outcome::Delivered(delivered.ticket)
            }
            Err(unable) => Outcome::Refused(refusal(unable, local.defer_full)),
        });
        let (kept, from) = (self.keep_for_record(), self.out.len());
        self.machine.settled(self.now, outcomes, &mut self.out);
        self.record_answers(kept, from);
    }

    /// Hands the letter to all shards at the same time.
    async fn hand_over(
        &self,
        local: &Local<R>,
        letter: Letter,
        flags: BodyFlags,
        results: &mut [Option<Result<api::Delivered>>],
    ) {
        let mut by_shard: BTreeMap<u16, Vec<To>> = BTreeMap::new();
        let envelope = self.machine.envelope().view();
        for (index, r) in envelope.recipients().enumerate() {
            match local.post.resident(r.address) {
                // Users may have changed since RCPT.
                None => results[index] = Some(Err(Unable::Refused(api::Refusal::NoAccount))),
                Some(resident) => {
                    let shard = local.post.shard(&resident.account);
                    by_shard.entry(shard).or_default().push(To {
                        index,
                        address: r.address.into(),
                        resident,
                    });
                }
            }
        }
        let arrival = self.ctx.rt.wall();
        let mut left = by_shard.len();
        let mut letter = Some(letter);
        let mut under_way: Vec<(Vec<usize>, Handled<'_>)> = Vec::new();
        for to in by_shard.into_values() {
            left -= 1;
            let letter = if left == 0 { letter.take() } else { letter.clone() };
            let Some(letter) = letter else { break };
            let indexes = to.iter().map(|to| to.index).collect();
            let to = to.into_iter().map(addressee).collect();
            let parcel = Parcel { sender: envelope.sender().into(), arrival, letter, flags, to };
            under_way.push((indexes, Handled::new(local.post.deliver(parcel))));
        }
        poll_fn(|cx| {
            let mut all = Poll::Ready(());
            for (_, handled) in &mut under_way {
                if handled.poll(cx).is_pending() {
                    all = Poll::Pending;
                }
            }
            all
        })
        .await;
        for (indexes, handled) in under_way {
            for (index, outcome) in indexes.into_iter().zip(handled.outcomes) {
                results[index] = Some(outcome);
            }
        }
    }

    /// Trace header and body: in memory if they fit there, else in a side file.
    async fn letter(&mut self, local: &Local<R>) -> std::result::Result<Letter, Reply> {
        let mut head = Vec::new();
        self.put_local_trace(&mut head);
        let len = head.len() + self.body.in_memory();
        if !self.body.has_side() && len <= local.beside.inline_max() {
            head.reserve_exact(self.body.in_memory());
            self.body.slices(&self.buf).into_iter().for_each(|bytes| head.extend_from_slice(bytes));
            return Ok(Letter::Memory(head));
        }
        let file = self.body.finish_side(&self.buf).await.map_err(|e| match e {
            SideError::Full => Reply::NO_SPACE,
            SideError::Poisoned => Reply::STORAGE_FAILED,
        })?;
        Ok(Letter::Side { head, journal: local.beside.journal().to_path_buf(), file })
    }

    fn put_local_trace(&self, out: &mut Vec<u8>) {
        let envelope = self.machine.envelope();
        let date = *self.ctx.date.borrow_mut().at(self.ctx.rt.wall());
        let id = format!("{:016x}", self.ctx.rt.random());
        let trace = Trace {
            helo: self.machine.helo(),
            client: self.peer.ip(),
            name: None,
            hidden: false,
            host: &self.ctx.options.hostname,
            protocol: self.machine.protocol().text(),
            id: id.as_bytes(),
            security: self.machine.security(),
            recipient: envelope.last().filter(|_| envelope.count() == 1).map(|r| r.address),
            date: &date,
        };
        received::put(out, &trace);
    }
}

fn addressee(to: To) -> Addressee {
    // RCPT has been answered with yes.
    Addressee { resident: to.resident, address: to.address, id: None, promised: true }
}

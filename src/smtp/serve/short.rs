//! L4: a message of SMTP that goes into mailboxes without being queued.
//!
//! Only where all recipients live in one shard. What does not get there is for the queue.

use super::filter::Filtered;
use super::session::Talk;
use crate::base::ids::QueueId;
use crate::base::time::Wall;
use crate::delivery::direct::{self, Handed};
use crate::intake::{Body, Intake, Submission};
use crate::runtime::Runtime;

impl<R: Runtime> Talk<'_, R> {
    /// Hands the message, which is in memory, over to its shard, if there is one.
    /// `len`: bytes of all of it; `filtered`: what filters have made of it.
    pub(super) async fn short_way(
        &self,
        intake: &Intake<R>,
        (id, arrival): (QueueId, Wall),
        len: usize,
        filtered: Option<&Filtered>,
    ) -> Handed {
        let (ctx, envelope) = (self.ctx, self.machine.envelope());
        let Some(post) = ctx.post.get().filter(|_| len <= direct::SIZE_MAX) else { return Handed::None };
        if intake.shard_of_all(envelope).is_none() {
            return Handed::None;
        }
        let facts = filtered.map_or_else(|| self.facts(), |f| f.facts);
        let slices = self.slices(filtered);
        let (trace, body) = (self.trace(), Body::Slices(&slices));
        let begun = ctx.rt.now();
        let message = Submission { id, arrival, envelope, trace, body, facts };
        let handed = direct::deliver(&**post, &message).await;
        let left = match &handed {
            Handed::None => return handed,
            Handed::Some(rest) => Some(rest),
            Handed::All(_) => None,
        };
        let m = &ctx.metrics;
        let delivered = envelope.count() - left.map_or(0, |rest| rest.count());
        m.delivered.increment(delivered.into());
        m.direct.increment(delivered.into());
        if left.is_none() {
            m.received.increment(1);
            m.received_bytes.increment(facts.len);
        }
        self.record_taken(Some(id));
        self.record_short(id, arrival, ctx.rt.now().since(begun), left);
        handed
    }
}

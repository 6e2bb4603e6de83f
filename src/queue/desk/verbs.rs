//! L4: what operators do to messages beyond holding and removing them: give up, begin anew.
//!
//! Both are part of the outcome of recipients, in records like those of attempts. Recipients that are being
//! sent to at that moment are left alone. Nothing here waits.

use crate::base::aligned::SharedBytes;
use crate::queue::desk::Desk;
use crate::queue::index::{Cover, Entry, Key, Phase, Recipient};
use crate::queue::record::{self, Fate, MessageView, State as Stored};
use crate::queue::state::{After, Indexes, OwnedReply, Report, State};
use crate::runtime::Runtime;

/// What senders are told if the operator has given no reason.
pub(crate) const NO_REASON: &str = "given up by the operator of this server";

impl<R: Runtime> Desk<R> {
    /// Gives up the recipients of `key` that wait; their sender is told `reason`. `after` follows when that
    /// is on stable storage.
    pub(crate) fn bounce(&self, s: &mut State, key: Key, (note, reason): (&[u8], &str), after: After) {
        let reason = if reason.is_empty() { NO_REASON } else { reason };
        // RFC 3463 §3.8: delivery not authorized, message refused.
        let reply = OwnedReply::ours([5, 7, 1], reason.as_bytes());
        // A held message tells nobody anything.
        let found = s.index.change(key, |e| {
            e.switches.held = false;
            let waiting = e.recipients.iter().enumerate().filter(|(_, r)| waits(r));
            let report = |(i, _)| Report { index: i as u32, reply: reply.clone() };
            (e.id, waiting.map(report).collect::<Vec<_>>())
        });
        let Some((id, reports)) = found else { return };
        self.record_removal(id, note);
        self.metrics().bounced.increment(reports.len() as u64);
        self.fail_owed(s, key, reports);
        s.arm(key);
        self.note(s, record::RELEASE, id, note, None, after);
    }

    /// Recipients of `key` that wait go where today's tables say.
    pub(crate) fn route_anew(&self, s: &mut State, key: Key, payload: &SharedBytes) {
        let Ok(view) = MessageView::parse(payload) else { return };
        let Some(id) = s.index.get(key).map(|e| e.id) else { return };
        for (i, to) in view.envelope.recipients().enumerate() {
            if s.index.get(key).and_then(|e| e.recipients.get(i)).is_some_and(waits) {
                let d = self.destination_of(s, id, to.address);
                s.index.route(key, i, d);
            }
        }
    }

    /// The attempts of recipients of `key` that wait are forgotten, and they are due now. `after` follows
    /// when that is on stable storage.
    pub(crate) fn requeue(&self, s: &mut State, key: Key, note: &[u8], after: After) {
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        let text = [b"begun anew by ", note].concat();
        let reply = OwnedReply::ours([0; 3], &text);
        let room = self.0.payload_max / 2;
        let Some(id) = s.index.get(key).map(|e| e.id) else { return };
        let (mut out, mut indexes) = (Vec::new(), Indexes::new());
        let waiting: Vec<u32> = s.index.get(key).map(open).unwrap_or_default();
        for (n, index) in waiting.iter().copied().enumerate() {
            if out.is_empty() {
                record::put_states_head(&mut out, 0, 0);
            }
            s.index.change(key, |e| {
                let r = &mut e.recipients[index as usize];
                (r.attempts, r.due, r.phase, r.cover) = (0, now, Phase::Waiting, Cover::None);
                if let Some(archived) = &mut e.archived {
                    archived.reply(index, reply.clone());
                }
            });
            let stored = Stored { index, fate: Fate::Deferred, attempts: 0, due: wall, reply: reply.view() };
            record::put_state(&mut out, &stored);
            indexes.push(index);
            if n + 1 == waiting.len() || out.len() >= room {
                out[4..8].copy_from_slice(&(indexes.len() as u32).to_le_bytes());
                let said = After::Said { key, indexes: std::mem::take(&mut indexes) };
                self.note(s, record::OUTCOME, id, &out, None, said);
                out.clear();
            }
        }
        self.note(s, record::RELEASE, id, note, None, after);
        self.flush(s, key, now);
    }
}

/// True of a recipient that waits, for its turn or for another attempt.
pub(crate) fn waits(r: &Recipient) -> bool {
    matches!(r.phase, Phase::Ready | Phase::Waiting)
}

/// True of a recipient whose row says that it waits, or may be being sent to.
pub(crate) fn waits_still(fate: Fate) -> bool {
    matches!(fate, Fate::Fresh | Fate::Attempting | Fate::Deferred)
}

fn open(e: &Entry) -> Vec<u32> {
    e.recipients.iter().enumerate().filter(|(_, r)| waits(r)).map(|(i, _)| i as u32).collect()
}

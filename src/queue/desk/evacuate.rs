//! L4: copying live messages of the oldest segment forward, so that it can be retired.
//!
//! The journal says which segment; its messages are read back and staged again with their states.
//! The new record releases the old one, in one step. What cannot be staged now is tried again; new
//! mail is refused by the journal long before that becomes a danger.

use crate::base::ids::MessageId;
use crate::queue::desk::Desk;
use crate::queue::index::{Cover, Entry, Key, Phase, Recipient};
use crate::queue::record::{self, Fate, MessageView, Reply, State as Stored, StatesView};
use crate::queue::state::{After, OwnedReply};
use crate::runtime::Runtime;
use crate::storage::journal::StageError;
use crate::storage::options::Urgency;
use crate::storage::record::{Location, RecordHead};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

impl<R: Runtime> Desk<R> {
    pub(crate) async fn evacuate(self) {
        loop {
            let closing = poll_fn(|cx| {
                let mut s = self.0.state.borrow_mut();
                if s.closing || s.dead {
                    return Poll::Ready(true);
                }
                s.mover_bell.poll(cx).map(|()| false)
            })
            .await;
            if closing {
                return;
            }
            self.0.state.borrow_mut().moving = true;
            while let Some(segment) = self.0.keeper.pressure() {
                if !self.empty(segment).await {
                    break;
                }
            }
            self.0.state.borrow_mut().moving = false;
        }
    }

    /// Moves what lives in `segment`; `false` if nothing can be done now.
    async fn empty(&self, segment: u64) -> bool {
        let mut ids: Vec<MessageId> = Vec::new();
        let scanned = self
            .0
            .keeper
            .scan(segment, |r| {
                if r.head.kind == record::MESSAGE {
                    ids.push(MessageId(r.head.id));
                }
            })
            .await;
        if scanned.is_err() {
            return false;
        }
        let mut moved = false;
        for id in ids {
            let key = {
                let s = self.0.state.borrow();
                if s.dead || s.closing {
                    return false;
                }
                let here =
                    |k: &Key| s.index.get(*k).is_some_and(|e| e.at.segment == segment && is_settled(e));
                s.index.find(id).filter(here)
            };
            let Some(key) = key else { continue };
            match self.move_one(key).await {
                Ok(()) => moved = true,
                Err(StageError::Busy) => {
                    self.0.rt.sleep_until(self.0.rt.now().after(Duration::from_millis(5))).await;
                    // The next look at the pressure comes back to it.
                    moved = true;
                }
                Err(_) => return false,
            }
        }
        moved
    }

    async fn move_one(&self, key: Key) -> Result<(), StageError> {
        let Some((id, at, said)) = self.0.state.borrow().index.get(key).map(|e| (e.id, e.at, places(e)))
        else {
            return Ok(());
        };
        let Ok(payload) = self.0.keeper.read(at, id.0).await else { return Err(StageError::Full) };
        let replies = self.replies(id, &said).await;
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        let Some(e) = s.index.get(key).filter(|e| e.at == at && is_settled(e)) else { return Ok(()) };
        let Ok(view) = MessageView::parse(&payload) else { return Err(StageError::Full) };
        let (envelope, content) = (
            &payload[view.envelope_at.0..view.envelope_at.1],
            &payload[view.content_at.0..view.content_at.1],
        );
        let reported: Vec<u8> = view.reported().flat_map(u32::to_le_bytes).collect();
        let fixed = record::HEAD_LEN + reported.len() + envelope.len() + content.len();
        let room = self.0.payload_max.saturating_sub(fixed);
        let states = self.snapshot(e, &replies, room);
        let head = view.head.encode(reported.len(), states.len(), envelope.len());
        let record = RecordHead { kind: record::MESSAGE, version: record::VERSION, flags: 0, id: e.id.0 };
        let parts = [&head[..], &reported, &states, envelope, content];
        let staged = self.0.keeper.stage(record, &parts, Some(at), Urgency::Compaction)?;
        s.index.change(key, |e| e.switches.moving = true);
        self.follow(s, staged, After::Moved { key });
        Ok(())
    }

    /// The stored replies of recipients, by index.
    pub(crate) async fn replies(&self, id: MessageId, said: &[Location]) -> BTreeMap<u32, OwnedReply> {
        let mut out = BTreeMap::new();
        for at in said {
            let Ok(payload) = self.0.keeper.read(*at, id.0).await else { continue };
            let states = match StatesView::parse(&payload) {
                Ok(states) => Some(states),
                Err(_) => MessageView::parse(&payload).ok().and_then(|m| m.states),
            };
            for s in states.iter().flat_map(StatesView::states) {
                if s.reply != Reply::default() {
                    out.insert(s.index, s.reply.into());
                }
            }
        }
        out
    }

    /// The states of `e` as stored, in at most `room` bytes: texts are cut to fit.
    fn snapshot(&self, e: &Entry, replies: &BTreeMap<u32, OwnedReply>, room: usize) -> Vec<u8> {
        let count = e.recipients.len();
        let marks = [
            (e.switches.held, record::HELD),
            (e.switches.warned, record::WARNED),
            (e.switches.double_bounce, record::DOUBLE_BOUNCE),
        ];
        let flags = marks.iter().filter(|m| m.0).fold(record::SNAPSHOT, |f, m| f | m.1);
        let text_max = room.saturating_sub(super::state_room(count as u32)) / count.max(1);
        let (now, wall) = (self.0.rt.now(), self.0.rt.wall());
        let mut out = Vec::new();
        record::put_states_head(&mut out, flags, count as u32);
        for (i, r) in e.recipients.iter().enumerate() {
            let mut reply = replies.get(&(i as u32)).map(OwnedReply::view).unwrap_or_default();
            reply.text = &reply.text[..reply.text.len().min(text_max)];
            let due = if r.phase == Phase::Waiting { wall.after(r.due.since(now)) } else { wall };
            let s = Stored { index: i as u32, fate: fate(r), attempts: r.attempts, due, reply };
            record::put_state(&mut out, &s);
        }
        out
    }
}

/// The records with replies of recipients that still wait.
pub(crate) fn places(e: &Entry) -> Vec<Location> {
    let mut at: Vec<_> =
        e.recipients.iter().filter(|r| !r.phase.is_done() && r.said.len > 0).map(|r| r.said).collect();
    at.sort_unstable();
    at.dedup();
    at
}

fn fate(r: &Recipient) -> Fate {
    match r.phase {
        Phase::Delivered => Fate::Delivered,
        Phase::Failed => Fate::Failed,
        Phase::Owed if r.said.len > 0 => Fate::Owed,
        Phase::Waiting => Fate::Deferred,
        _ if r.cover == Cover::None => Fate::Deferred,
        _ => Fate::Attempting,
    }
}

fn is_settled(e: &Entry) -> bool {
    !e.switches.committing && !e.switches.moving
}

//! L4: operators' requests, served on the queue's own core.
//!
//! A change is answered when it is on stable storage. Requests for many messages go through the
//! queue in pages and let others run in between.

use crate::base::aligned::SharedBytes;
use crate::base::ids::{MessageId, QueueId};
use crate::base::time::Mono;
use crate::queue::control::{
    ControlError, DestinationStats, Listed, ListedRecipient, PAGE_MAX, PIECE_MAX, Request, Response, Stats,
    Which,
};
use crate::queue::desk::Desk;
use crate::queue::desk::evacuate::places;
use crate::queue::index::{Cover, Entry, Key, Phase, Recipient};
use crate::queue::record::{self, MessageView, TEXT_MAX};
use crate::queue::state::{self, After, Answer, OwnedReply, State};
use crate::runtime::{Runtime, yield_now};
use crate::storage::side::SideFile;

#[derive(Clone, Copy)]
enum Change<'a> {
    Flush,
    Hold(&'a str),
    Release(&'a str),
    Delete(&'a str),
}

impl<R: Runtime> Desk<R> {
    /// Serves an operator's request.
    pub async fn control(&self, request: &Request) -> Response {
        let result = match request {
            Request::List { after, limit, in_doubt } => self.list(*after, *limit, *in_doubt).await,
            Request::Show(id) => self.show(*id).await,
            Request::Cat { id, offset } => self.cat(*id, *offset).await,
            Request::Flush(which) => self.change(which, Change::Flush).await,
            Request::Hold { which, note } => self.change(which, Change::Hold(note)).await,
            Request::Release { which, note } => self.change(which, Change::Release(note)).await,
            Request::Delete { which, note } => self.change(which, Change::Delete(note)).await,
            Request::Stats => Ok(Response::Stats(vec![self.stats()])),
        };
        result.unwrap_or_else(Response::Error)
    }

    fn key_of(&self, id: QueueId) -> Result<Key, ControlError> {
        let s = self.0.state.borrow();
        let key = s.index.find(id.message).filter(|_| id.log == self.0.log);
        let known = |k: &Key| s.index.get(*k).is_some_and(|e| !e.switches.committing);
        key.filter(known).ok_or(ControlError::NotFound)
    }

    async fn list(
        &self,
        after: Option<QueueId>,
        limit: usize,
        in_doubt: bool,
    ) -> Result<Response, ControlError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let after = after.map_or(MessageId(0), |id| id.message);
        let keys: Vec<(MessageId, Key)> = {
            let s = self.0.state.borrow();
            let wanted = |e: &Entry| !e.switches.committing && (!in_doubt || is_in_doubt(e));
            s.index.after(after).filter(|(_, e)| wanted(e)).map(|(k, e)| (e.id, k)).take(limit).collect()
        };
        let next = if keys.len() == limit { keys.last().map(|k| self.queue_id(k.0)) } else { None };
        let mut messages = Vec::with_capacity(keys.len());
        for (_, key) in keys {
            // Those that end meanwhile are left out.
            messages.extend(self.listed(key).await);
        }
        Ok(Response::Page { messages, next })
    }

    async fn show(&self, id: QueueId) -> Result<Response, ControlError> {
        let key = self.key_of(id)?;
        let listed = self.listed(key).await.ok_or(ControlError::NotFound)?;
        Ok(Response::Page { messages: vec![listed], next: None })
    }

    async fn listed(&self, key: Key) -> Option<Listed> {
        let payload = self.read_back(key).await;
        let (id, said) = self.0.state.borrow().index.get(key).map(|e| (e.id, places(e)))?;
        let replies = self.replies(id, &said).await;
        let s = self.0.state.borrow();
        let e = s.index.get(key)?;
        let view = payload.as_deref().and_then(|p| MessageView::parse(p).ok());
        let now = self.0.rt.now();
        let busy = |r: &Recipient| match r.phase {
            // What waits for a destination that cannot be reached is deferred, as in the metrics.
            Phase::Ready => paused_reason(&s, r, now).is_none(),
            phase => matches!(phase, Phase::Flight | Phase::Owed),
        };
        let mut listed = Listed {
            queue_name: match e.switches.held {
                true => "hold",
                false if e.recipients.iter().any(busy) => "active",
                false => "deferred",
            },
            queue_id: self.queue_id(e.id).to_string(),
            arrival_time: view.map_or(e.id.arrival(), |v| v.head.arrival).seconds(),
            message_size: e.size,
            forced_expire: false,
            sender: view.map(|v| text(v.envelope.sender())).unwrap_or_default(),
            recipients: Vec::new(),
        };
        let mut addresses =
            view.map(|v| v.envelope.recipients().map(|r| text(r.address)).collect::<Vec<_>>());
        for (i, r) in e.recipients.iter().enumerate().filter(|(_, r)| !r.phase.is_done()) {
            let address = addresses.as_mut().map(|a| std::mem::take(&mut a[i])).unwrap_or_default();
            let reason = replies.get(&(i as u32)).cloned().or_else(|| paused_reason(&s, r, now));
            let door = s.doors.get(r.destination as usize);
            listed.recipients.push(ListedRecipient {
                address,
                delay_reason: reason.map(|r| reply_text(&r)),
                destination: door.map_or_else(String::new, |d| d.hop.key.clone()),
                attempts: r.attempts,
                due_in_ms: (r.phase == Phase::Waiting).then(|| r.due.since(now).as_millis() as u64),
                in_doubt: r.cover == Cover::InDoubt,
            });
        }
        Some(listed)
    }

    async fn cat(&self, id: QueueId, offset: u64) -> Result<Response, ControlError> {
        let key = self.key_of(id)?;
        let payload = self.read_back(key).await.ok_or(ControlError::Unreadable)?;
        let view = MessageView::parse(&payload).map_err(|_| ControlError::Unreadable)?;
        let size = view.head.size;
        let content: SharedBytes = payload.part(view.content_at.0..view.content_at.1);
        if offset < content.len() as u64 {
            let from = offset as usize;
            let to = content.len().min(from + PIECE_MAX);
            return Ok(Response::Piece { bytes: content[from..to].to_vec(), size });
        }
        if view.head.side == 0 || offset >= size {
            return Ok(Response::Piece { bytes: Vec::new(), size });
        }
        let side = SideFile { name: view.head.side, len: size - content.len() as u64 };
        let mut skip = offset - content.len() as u64;
        let mut reader = self.open_side(side).await.map_err(|_| ControlError::Unreadable)?;
        loop {
            let piece = reader.next().await.map_err(|_| ControlError::Unreadable)?;
            let Some(piece) = piece else { return Ok(Response::Piece { bytes: Vec::new(), size }) };
            if skip < piece.len() as u64 {
                return Ok(Response::Piece { bytes: piece[skip as usize..].to_vec(), size });
            }
            skip -= piece.len() as u64;
        }
    }

    async fn change(&self, which: &Which, change: Change<'_>) -> Result<Response, ControlError> {
        if let Which::One(id) = which {
            let key = self.key_of(*id)?;
            return self.change_all(&[key], change).await.map(Response::Done);
        }
        let mut after = MessageId(0);
        let mut count = 0;
        loop {
            let page: Vec<(MessageId, Key)> = {
                let s = self.0.state.borrow();
                let page = s.index.after(after).filter(|(_, e)| !e.switches.committing);
                page.map(|(k, e)| (e.id, k)).take(PAGE_MAX).collect()
            };
            let Some(last) = page.last() else { return Ok(Response::Done(count)) };
            after = last.0;
            let keys: Vec<Key> = {
                let s = self.0.state.borrow();
                page.iter().map(|p| p.1).filter(|k| matches(&s, *k, which)).collect()
            };
            count += self.change_all(&keys, change).await?;
            yield_now().await;
        }
    }

    /// Changes these messages; gives how many, once that is on stable storage.
    async fn change_all(&self, keys: &[Key], change: Change<'_>) -> Result<u64, ControlError> {
        let (count, slip) = {
            let mut s = self.0.state.borrow_mut();
            let s = &mut *s;
            if s.dead || s.closing {
                return Err(ControlError::Closed);
            }
            let mut changed: Vec<Key> = Vec::new();
            for &key in keys {
                if self.would(s, key, change) {
                    changed.push(key);
                }
            }
            let Some((last, rest)) = changed.split_last() else { return Ok(0) };
            rest.iter().for_each(|key| self.apply(s, *key, change, None));
            let slip = (!matches!(change, Change::Flush)).then(|| s.slips.take());
            self.apply(s, *last, change, slip);
            (changed.len() as u64, slip)
        };
        match slip {
            None => Ok(count),
            Some(slip) => match self.answer(slip).await {
                Answer::Committed(_) => Ok(count),
                Answer::Failed | Answer::Late => Err(ControlError::Closed),
            },
        }
    }

    fn would(&self, s: &State, key: Key, change: Change<'_>) -> bool {
        let Some(e) = s.index.get(key) else { return false };
        match change {
            Change::Flush => !e.switches.held,
            Change::Hold(_) => !e.switches.held,
            Change::Release(_) => e.switches.held,
            Change::Delete(_) => true,
        }
    }

    fn apply(&self, s: &mut State, key: Key, change: Change<'_>, slip: Option<usize>) {
        let now = self.0.rt.now();
        let Some(id) = s.index.get(key).map(|e| e.id) else { return };
        let after = || slip.map_or(After::Nothing, |slip| After::Done { side: 0, slip: Some(slip) });
        match change {
            Change::Flush => self.flush(s, key, now),
            Change::Hold(note) => {
                s.index.change(key, |e| e.switches.held = true);
                s.arm(key);
                self.note(s, record::HOLD, id, cut(note), None, after());
            }
            Change::Release(note) => {
                s.index.change(key, |e| e.switches.held = false);
                self.note(s, record::RELEASE, id, cut(note), None, after());
                self.line_up(s, key, now);
                s.arm(key);
            }
            Change::Delete(note) => self.release(s, key, record::REMOVED, cut(note), slip),
        }
    }

    /// Makes what waits due now; destinations that were left alone are tried.
    fn flush(&self, s: &mut State, key: Key, now: Mono) {
        let destinations = s.index.change(key, |e| {
            let mut destinations = Vec::new();
            let mut ready = false;
            for r in &mut e.recipients {
                if r.phase == Phase::Waiting {
                    r.phase = Phase::Ready;
                    ready = true;
                }
                if r.phase == Phase::Ready && r.destination < state::LOCAL {
                    destinations.push(r.destination);
                }
            }
            (destinations, ready)
        });
        let Some((destinations, ready)) = destinations else { return };
        for d in destinations {
            s.schedule.unpause(d);
            s.call(d, now);
        }
        if ready {
            self.line_up(s, key, now);
        }
        s.arm(key);
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let s = self.0.state.borrow();
        let (c, j, now) = (s.index.counters(), self.0.keeper.stats(), self.0.rt.now());
        let paused = s.schedule.backlog_paused().min(c.active);
        let busy = |d: &DestinationStats| d.ready > 0 || d.connections > 0 || d.failures > 0;
        let destinations = (0..s.schedule.len()).map(|d| {
            let v = s.schedule.view(d as u32);
            let paused = v.paused.filter(|p| *p > now);
            DestinationStats {
                name: v.key,
                ready: v.ready,
                connections: v.connections,
                failures: v.failures,
                paused_ms: paused.map(|p| p.since(now).as_millis() as u64),
                reason: if v.failures > 0 { reply_text(&s.doors[d].reason) } else { String::new() },
            }
        });
        Stats {
            log: self.0.log.0,
            messages: c.messages,
            active: c.active - paused,
            deferred: c.deferred + paused,
            held: c.held,
            bytes: c.bytes,
            oldest_ms: s.index.oldest().map(|id| id.arrival().0),
            journal_segments: j.segments,
            journal_live_bytes: j.live_bytes,
            journal_bytes: j.total_bytes,
            poisoned: j.poisoned,
            destinations: destinations.filter(busy).collect(),
        }
    }
}

fn matches(s: &State, key: Key, which: &Which) -> bool {
    match which {
        Which::All => true,
        Which::One(_) => false,
        Which::Destination(name) => s.index.get(key).is_some_and(|e| {
            let at = |r: &Recipient| s.doors.get(r.destination as usize).is_some_and(|d| d.hop.key == *name);
            e.recipients.iter().any(|r| !r.phase.is_done() && at(r))
        }),
    }
}

fn is_in_doubt(e: &Entry) -> bool {
    e.recipients.iter().any(|r| r.cover == Cover::InDoubt && !r.phase.is_done())
}

fn paused_reason(s: &State, r: &Recipient, now: Mono) -> Option<OwnedReply> {
    if r.phase != Phase::Ready || r.destination >= state::LOCAL {
        return None;
    }
    let paused = s.schedule.view(r.destination).paused.is_some_and(|p| p > now);
    paused.then(|| s.doors[r.destination as usize].reason.clone())
}

fn reply_text(r: &OwnedReply) -> String {
    let text = text(&r.text);
    match (r.code, r.enhanced) {
        (0, _) => text,
        (code, [0, 0, 0]) => format!("{code} {text}"),
        (code, [a, b, c]) => format!("{code} {a}.{b}.{c} {text}"),
    }
}

/// Bytes from a peer for a person's eyes.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn cut(note: &str) -> &[u8] {
    &note.as_bytes()[..note.len().min(TEXT_MAX)]
}

//! L4: operators' requests, served on the queue's own core.
//!
//! A change is answered when it is on stable storage. Requests for many messages go through the
//! queue in pages and let others run in between.

use crate::base::aligned::SharedBytes;
use crate::base::ids::{MessageId, QueueId};
use crate::base::time::Mono;
use crate::queue::control::{
    ControlError, Copied, DestinationStats, Listed, ListedRecipient, PAGE_MAX, PIECE_MAX, Request, Response,
    Stats, Which,
};
use crate::queue::desk::select::standing;
use crate::queue::desk::touring::rule_reason;
use crate::queue::desk::verbs::waits;
use crate::queue::desk::{DOUBTED_MAX, Desk};
use crate::queue::index::{Class, DestId, Entry, Key, Phase, Presence, Recipient};
use crate::queue::pick::Standing;
use crate::queue::record::{self, MessageView, TEXT_MAX};
use crate::queue::row::RowView;
use crate::queue::state::{self, After, Answer, OwnedReply, State};
use crate::queue::stub::{Marks, SEVERAL};
use crate::runtime::table::Table;
use crate::runtime::{Runtime, yield_now};
use crate::storage::side::SideFile;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

/// Messages read at a time.
const TOGETHER: usize = 64;
/// Messages changed before others run.
const AT_ONCE: usize = 512;
/// How often a message is read back, and how long to wait in between, before it counts as unreadable.
const TRIES: usize = 1500;
const DELETE_TRIES: usize = 75;
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// Messages looked at in one turn for a list of few.
const SCAN_MAX: usize = 4000;

/// Messages that have been read.
type Bodies = HashMap<Key, SharedBytes>;

/// What an operator does to messages.
#[derive(Clone, Copy)]
pub(crate) enum Change<'a> {
    Flush,
    Hold(&'a str),
    Release(&'a str),
    Delete(&'a str),
    /// Note, and reason for senders.
    Bounce(&'a str, &'a str),
    Requeue(&'a str),
    /// Note, and the next hop; empty: as routes say again.
    Reroute(&'a str, &'a str),
}

impl Change<'_> {
    /// True if addresses are needed for it.
    fn needs_addresses(self) -> bool {
        matches!(self, Change::Requeue(_) | Change::Reroute(..))
    }
}

impl<R: Runtime> Desk<R> {
    /// Serves an operator's request. After a start it waits until all messages are known, but for
    /// counts: an answer must not leave out those that are still being read.
    pub async fn control(&self, request: &Request) -> Response {
        if !matches!(request, Request::Stats | Request::Rules(_)) {
            self.loaded().await;
        }
        let result = match request {
            Request::List { after, limit, in_doubt } => self.list(*after, *limit, *in_doubt).await,
            Request::Select { pick, verb, after } => self.select(pick, *verb, after.as_ref()).await,
            Request::Show(id) => self.show(*id).await,
            Request::ShowSome(ids) => self.show_some(ids).await,
            Request::Why(id) => self.why(*id).await,
            Request::Cat { id, offset } => self.cat(*id, *offset).await,
            Request::Flush(which) => self.change(which, Change::Flush).await,
            Request::Hold { which, note } => self.change(which, Change::Hold(note)).await,
            Request::Release { which, note } => self.change(which, Change::Release(note)).await,
            Request::Delete { which, note } => self.change(which, Change::Delete(note)).await,
            Request::Bounce { which, note, reason } => self.change(which, Change::Bounce(note, reason)).await,
            Request::Requeue { which, note } => self.change(which, Change::Requeue(note)).await,
            Request::Reroute { ids, note, to } => {
                self.change(&Which::Some(ids.clone()), Change::Reroute(note, to)).await
            }
            Request::Stats => Ok(Response::Stats(vec![self.stats()])),
            Request::CopyIndex(dir) => self.copy_index(dir).await,
            Request::Rules(rules) => {
                self.set_rules(rules);
                Ok(Response::Done(0))
            }
        };
        result.unwrap_or_else(Response::Error)
    }

    pub(crate) fn key_of(&self, id: QueueId) -> Result<Key, ControlError> {
        let s = self.0.state.borrow();
        let key = s.index.find(id.message).filter(|_| id.log == self.0.log);
        key.filter(|k| is_known(&s, *k)).ok_or(ControlError::NotFound)
    }

    async fn list(
        &self,
        after: Option<QueueId>,
        limit: usize,
        in_doubt: bool,
    ) -> Result<Response, ControlError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let after = after.map_or(MessageId(0), |id| id.message);
        let mut keys: Vec<(MessageId, Key)> = Vec::new();
        let mut from = Some(after);
        while let Some(after) = from.take() {
            {
                let s = self.0.state.borrow();
                for (key, id, _) in s.index.after(after).take(SCAN_MAX) {
                    if is_known(&s, key) && (!in_doubt || is_in_doubt(&s, key)) {
                        keys.push((id, key));
                    }
                    from = Some(id).filter(|_| keys.len() < limit);
                    if from.is_none() {
                        break;
                    }
                }
            }
            yield_now().await;
        }
        let next = if keys.len() == limit { keys.last().map(|k| self.queue_id(k.0)) } else { None };
        let keys: Vec<Key> = keys.into_iter().map(|k| k.1).collect();
        Ok(Response::Page { messages: self.listed_all(&keys).await, next })
    }

    /// The ids of messages in doubt, as a [`record::STOPPED`] excepts them. `None`: they are too many, or
    /// not all known yet.
    pub(crate) fn doubted(&self, s: &State) -> Option<Vec<u8>> {
        if !(s.loaded || s.rows_sure && s.rows_doubted.is_empty()) {
            return None;
        }
        let most = DOUBTED_MAX.min(self.0.payload_max / 2 / 8);
        let mut ids = Vec::new();
        for (n, (_, id, _)) in s.index.after(MessageId(0)).filter(|m| is_in_doubt(s, m.0)).enumerate() {
            if n == most {
                return None;
            }
            ids.extend(id.0.to_le_bytes());
        }
        Some(ids)
    }

    async fn show(&self, id: QueueId) -> Result<Response, ControlError> {
        let key = self.key_of(id)?;
        let listed = self.listed(key).await.ok_or(ControlError::NotFound)?;
        Ok(Response::Page { messages: vec![listed], next: None })
    }

    async fn show_some(&self, ids: &[QueueId]) -> Result<Response, ControlError> {
        let keys: Vec<Key> = ids.iter().take(PAGE_MAX).filter_map(|id| self.key_of(*id).ok()).collect();
        Ok(Response::Page { messages: self.listed_all(&keys).await, next: None })
    }

    pub(super) async fn listed(&self, key: Key) -> Option<Listed> {
        for _ in 0..3 {
            let presence = self.0.state.borrow().index.presence(key);
            let listed = match presence {
                Presence::Gone => return None,
                Presence::Rich => self.listed_rich(key).await,
                Presence::Parked => self.listed_parked(key).await,
            };
            // It may have been recalled or parked meanwhile.
            if listed.is_some() {
                return listed;
            }
        }
        self.listed_stub(key)
    }

    /// What is known of a parked message that cannot be read: an operator must not think it gone.
    fn listed_stub(&self, key: Key) -> Option<Listed> {
        let s = self.0.state.borrow();
        let stub = s.index.stub(key)?;
        Some(Listed {
            queue_name: match stub.class() {
                Class::Held => "hold",
                Class::Active => "active",
                Class::Deferred => "deferred",
            },
            queue_id: self.queue_id(stub.id).to_string(),
            arrival_time: stub.id.arrival().seconds(),
            message_size: stub.size,
            forced_expire: false,
            sender: String::new(),
            recipients: Vec::new(),
            rerouted: s.vias.get(stub.id).map(str::to_owned),
            unreadable: true,
        })
    }

    async fn listed_rich(&self, key: Key) -> Option<Listed> {
        let payload = self.read_back(key).await;
        let replies = self.replies_to(key).await;
        let s = self.0.state.borrow();
        Some(self.describe(&s, s.index.get(key)?, payload.as_ref(), &replies))
    }

    async fn listed_parked(&self, key: Key) -> Option<Listed> {
        let (id, doubt) = {
            let s = self.0.state.borrow();
            let stub = s.index.stub(key)?;
            (stub.id, stub.marks.has(Marks::IN_DOUBT))
        };
        let (row, payload) = self.read_parked(id).await?;
        let view = RowView::parse(&row).ok()?;
        let mut s = self.0.state.borrow_mut();
        let e = self.entry_of(&mut s, id, &view, &payload, doubt)?;
        let replies = e.archived.iter().flat_map(|a| a.replies.iter().cloned()).collect();
        Some(self.describe(&s, &e, Some(&payload), &replies))
    }

    pub(super) fn describe(
        &self,
        s: &State,
        e: &Entry,
        payload: Option<&SharedBytes>,
        replies: &BTreeMap<u32, OwnedReply>,
    ) -> Listed {
        let view = payload.and_then(|p| MessageView::parse(p).ok());
        let now = self.0.rt.now();
        let mut listed = Listed {
            queue_name: match standing(s, e, now) {
                Standing::Hold => "hold",
                Standing::Active => "active",
                Standing::Deferred => "deferred",
            },
            queue_id: self.queue_id(e.id).to_string(),
            arrival_time: view.map_or(e.id.arrival(), |v| v.head.arrival).seconds(),
            message_size: e.size,
            forced_expire: false,
            sender: view.map(|v| text(v.envelope.sender())).unwrap_or_default(),
            recipients: Vec::new(),
            rerouted: s.vias.get(e.id).map(str::to_owned),
            unreadable: view.is_none(),
        };
        let mut addresses =
            view.map(|v| v.envelope.recipients().map(|r| text(r.address)).collect::<Vec<_>>());
        for (i, r) in e.recipients.iter().enumerate().filter(|(_, r)| !r.phase.is_done()) {
            let address = addresses.as_mut().map(|a| std::mem::take(&mut a[i])).unwrap_or_default();
            let reason = replies.get(&(i as u32)).cloned().or_else(|| paused_reason(s, r, now));
            let reason = if r.phase.is_owed() { Some(owed_reason(r, reason)) } else { reason };
            let door = s.doors.get(r.destination as usize);
            listed.recipients.push(ListedRecipient {
                address,
                delay_reason: reason.map(|r| reply_text(&r)),
                destination: door.map_or_else(String::new, |d| d.hop.key.clone()),
                attempts: r.attempts,
                due_in_ms: (r.phase == Phase::Waiting).then(|| r.due.since(now).as_millis() as u64),
                in_doubt: r.is_in_doubt(),
            });
        }
        listed
    }

    async fn cat(&self, id: QueueId, offset: u64) -> Result<Response, ControlError> {
        let key = self.key_of(id)?;
        let payload = self.read_any(key, id.message).await.ok_or(ControlError::Unreadable)?;
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

    async fn read_any(&self, key: Key, id: MessageId) -> Option<SharedBytes> {
        let parked = self.0.state.borrow().index.presence(key) == Presence::Parked;
        if parked && let Some((_, payload)) = self.read_parked(id).await {
            return Some(payload);
        }
        self.read_back(key).await
    }

    async fn change(&self, which: &Which, change: Change<'_>) -> Result<Response, ControlError> {
        if let Which::One(id) = which {
            let key = self.key_of(*id)?;
            return self.change_these(&[key], change, &Which::All).await.map(Response::Done);
        }
        if let Which::Some(ids) = which {
            // Each once: a message that is to be read back twice at a time is busy with itself.
            let mut named = BTreeSet::new();
            let new = |id: &&QueueId| named.insert(id.message);
            let keys: Vec<Key> = ids.iter().filter(new).filter_map(|id| self.key_of(*id).ok()).collect();
            return self.change_these(&keys, change, &Which::All).await.map(Response::Done);
        }
        let few = self.narrow_which(which, matches!(change, Change::Release(_))).await;
        let mut after = MessageId(0);
        let mut count = 0;
        while let Some((last, keys)) = self.page(which, after, few.as_deref()) {
            after = last;
            count += self.change_these(&keys, change, which).await?;
            yield_now().await;
        }
        Ok(Response::Done(count))
    }

    /// Those of the messages behind `after` that are `which`, of `few` or of all, and the last that was
    /// looked at; `None`: there are no more.
    fn page(
        &self,
        which: &Which,
        after: MessageId,
        few: Option<&[MessageId]>,
    ) -> Option<(MessageId, Vec<Key>)> {
        let s = self.0.state.borrow();
        let page: Vec<(MessageId, Option<Key>)> = match few {
            Some(few) => {
                let rest = &few[few.partition_point(|id| *id <= after)..];
                rest.iter().take(SCAN_MAX).map(|id| (*id, s.index.find(*id))).collect()
            }
            None => s.index.after(after).take(SCAN_MAX).map(|(key, id, _)| (id, Some(key))).collect(),
        };
        let last = page.last()?.0;
        let known = page.into_iter().filter_map(|(_, key)| key.filter(|key| is_known(&s, *key)));
        Some((last, known.filter(|key| matches(&s, *key, which)).collect()))
    }

    /// Changes those of `keys` that are `which`; gives how many, once that is on stable storage. That is
    /// waited for at the end only: others run in between, but not for each disk write.
    async fn change_these(
        &self,
        keys: &[Key],
        change: Change<'_>,
        which: &Which,
    ) -> Result<u64, ControlError> {
        let (mut count, mut slips, mut result) = (0, Vec::new(), Ok(()));
        for some in keys.chunks(AT_ONCE) {
            match self.change_some(some, change, which, &mut slips).await {
                Ok(n) => count += n,
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
            yield_now().await;
        }
        for slip in slips {
            if !matches!(self.answer(slip).await, Answer::Committed(_)) {
                result = Err(ControlError::Closed);
            }
        }
        result.map(|()| count)
    }

    /// As [`Self::change_these`]; what is to be waited for is added to `slips`.
    async fn change_some(
        &self,
        keys: &[Key],
        change: Change<'_>,
        which: &Which,
        slips: &mut Vec<usize>,
    ) -> Result<u64, ControlError> {
        let parked = self.change_parked(keys, change, which).await?;
        slips.extend(parked.slip);
        let mut count = parked.count;
        let bodies = {
            let s = self.0.state.borrow();
            let is_parked = |key: &Key| s.index.presence(*key) == Presence::Parked;
            change.needs_addresses() || parked.rest.iter().any(is_parked)
        };
        for keys in parked.rest.chunks(if bodies { TOGETHER } else { AT_ONCE }) {
            count += self.change_rich(keys, change, which, slips).await?;
        }
        Ok(count)
    }

    async fn change_rich(
        &self,
        keys: &[Key],
        change: Change<'_>,
        which: &Which,
        slips: &mut Vec<usize>,
    ) -> Result<u64, ControlError> {
        let (buried, mut bodies) = self.make_rich(keys, change).await?;
        if change.needs_addresses() {
            let others: Vec<Key> = keys.iter().copied().filter(|key| !bodies.contains_key(key)).collect();
            let read = self.read_back_all(&others).await;
            bodies.extend(others.into_iter().zip(read).filter_map(|(key, body)| Some((key, body?))));
            let mut s = self.0.state.borrow_mut();
            let s = &mut *s;
            for key in keys {
                if let (Change::Reroute(_, via), true) = (change, self.would(s, *key, change)) {
                    let id = s.index.get(*key).map(|e| e.id);
                    id.into_iter().for_each(|id| s.vias.set(id, via));
                }
                bodies.get(key).into_iter().for_each(|body| self.route_anew(s, *key, body));
            }
        }
        // Of those that were read back it is known now where they go.
        let meant: Vec<Key> = {
            let s = self.0.state.borrow();
            keys.iter().copied().filter(|k| matches(&s, *k, which)).collect()
        };
        let changed = self.change_all(&meant, change);
        self.settle_down(keys);
        let (count, slip) = changed?;
        slips.extend(slip);
        Ok(buried + count)
    }

    /// Reads parked messages back that `change` is about; a flush needs only their stubs. Gives how many
    /// were deleted although they could not be read, and what was read.
    async fn make_rich(&self, keys: &[Key], change: Change<'_>) -> Result<(u64, Bodies), ControlError> {
        let mut bodies = Bodies::new();
        let tries = if matches!(change, Change::Delete(_)) { DELETE_TRIES } else { TRIES };
        for _ in 0..tries {
            let parked: Vec<Key> = {
                let s = self.0.state.borrow();
                let several = |k: &Key| s.index.stub(*k).is_some_and(|stub| stub.destination == SEVERAL);
                let needs = |k: &&Key| !matches!(change, Change::Flush) || several(k);
                let parked = keys.iter().filter(|k| s.index.presence(**k) == Presence::Parked);
                parked.filter(needs).copied().collect()
            };
            if parked.is_empty() {
                return Ok((0, bodies));
            }
            let read = self.recall_all(&parked).await;
            let all = read.iter().all(Option::is_some);
            {
                let mut s = self.0.state.borrow_mut();
                let s = &mut *s;
                let now = self.0.rt.now();
                for (key, body) in parked.iter().zip(read) {
                    let Some(body) = body else { continue };
                    bodies.insert(*key, body);
                    self.lead_back(s, *key, now);
                    s.arm(*key);
                }
            }
            if !all {
                // Others may be reading it back at this moment.
                self.0.rt.sleep_until(self.0.rt.now().after(TRY_AGAIN)).await;
            }
        }
        if let Change::Delete(note) = change {
            return Ok((self.bury(keys, cut(note)).await?, bodies));
        }
        self.settle_down(keys);
        Err(ControlError::Unreadable)
    }

    /// Parks again what was read back and has not changed.
    fn settle_down(&self, keys: &[Key]) {
        let now = self.0.rt.now();
        let mut s = self.0.state.borrow_mut();
        keys.iter().for_each(|key| s.park(*key, now));
    }

    /// Changes these messages; gives how many, and what to wait for until that is on stable storage.
    fn change_all(&self, keys: &[Key], change: Change<'_>) -> Result<(u64, Option<usize>), ControlError> {
        let mut s = self.0.state.borrow_mut();
        let s = &mut *s;
        if s.dead || s.closing {
            return Err(ControlError::Closed);
        }
        let changed: Vec<Key> = keys.iter().copied().filter(|key| self.would(s, *key, change)).collect();
        let Some((last, rest)) = changed.split_last() else { return Ok((0, None)) };
        rest.iter().for_each(|key| self.apply(s, *key, change, None));
        let slip = (!matches!(change, Change::Flush)).then(|| s.slips.take());
        self.apply(s, *last, change, slip);
        Ok((changed.len() as u64, slip))
    }

    fn would(&self, s: &State, key: Key, change: Change<'_>) -> bool {
        if let (Some(stub), Change::Flush) = (s.index.stub(key), change) {
            return !stub.held;
        }
        let Some(e) = s.index.get(key) else { return false };
        match change {
            Change::Flush => !e.switches.held,
            Change::Hold(_) => !e.switches.held,
            Change::Release(_) => e.switches.held,
            Change::Delete(_) => true,
            Change::Bounce(..) | Change::Reroute(..) => e.recipients.iter().any(waits),
            Change::Requeue(_) => !e.switches.held && e.recipients.iter().any(waits),
        }
    }

    fn apply(&self, s: &mut State, key: Key, change: Change<'_>, slip: Option<usize>) {
        let now = self.0.rt.now();
        if s.index.stub(key).is_some() {
            return self.flush_parked(s, key, now);
        }
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
                self.tell(s, key, Vec::new(), None);
            }
            Change::Bounce(note, reason) => self.bounce(s, key, (cut(note), reason), after()),
            Change::Reroute(note, via) => self.reroute(s, key, (cut(note), via), after()),
            Change::Requeue(note) => self.requeue(s, key, cut(note), after()),
            Change::Delete(note) => {
                self.record_removal(id, cut(note));
                self.release(s, key, record::REMOVED, cut(note), slip);
            }
        }
    }

    /// Makes a parked message due now.
    fn flush_parked(&self, s: &mut State, key: Key, now: Mono) {
        let flushed = s.index.change_stub(key, |stub| {
            let ready = std::mem::replace(&mut stub.ready, true);
            (stub.destination, stub.timer.take(), ready)
        });
        let Some((d, timer, ready)) = flushed else { return };
        if let Some(timer) = timer {
            s.timers.cancel(timer);
        }
        s.schedule.unpause(d);
        if !ready {
            s.schedule.push(d, key, now);
        }
        s.call(d, now);
    }

    /// Makes what waits due now; destinations that were left alone are tried.
    pub(crate) fn flush(&self, s: &mut State, key: Key, now: Mono) {
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
                if r.phase.is_owed() && r.due > Mono(0) {
                    r.due = now;
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
        self.tell(s, key, Vec::new(), None);
        s.arm(key);
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let s = self.0.state.borrow();
        let (c, j, now) = (s.index.counters(), self.0.keeper.stats(), self.0.rt.now());
        let archive = self.0.vault.stats();
        let paused = s.schedule.backlog_paused().min(c.active);
        let busy = |d: &DestinationStats| d.ready > 0 || d.connections > 0 || d.failures > 0;
        let destinations = s.schedule.pools().map(|p| {
            let v = s.schedule.view(p);
            let paused = v.paused.filter(|p| *p > now);
            DestinationStats {
                name: v.key,
                ready: v.ready,
                connections: v.connections,
                failures: v.failures,
                paused_ms: paused.map(|p| p.since(now).as_millis() as u64),
                reason: if v.failures > 0 { reply_text(&s.reason_of(p)) } else { String::new() },
            }
        });
        let suspended = s.schedule.destinations().filter(|d| s.schedule.suspended(*d).is_some());
        let suspended = suspended.filter(|d| s.schedule.backlog(*d) > 0).map(|d| DestinationStats {
            name: s.schedule.name(d).to_owned(),
            ready: s.schedule.backlog(d),
            connections: 0,
            failures: 0,
            paused_ms: None,
            reason: rule_reason(&s, d).map_or_else(String::new, |r| reply_text(&r)),
        });
        Stats {
            log: self.0.log.0,
            messages: c.messages,
            active: c.active - paused,
            deferred: c.deferred + paused,
            held: c.held,
            bytes: c.bytes,
            parked: s.index.parked(),
            archive_bytes: archive.bytes,
            archive_live_bytes: archive.live_bytes,
            index_bytes: self.0.index_bytes(),
            loading: !s.loaded,
            oldest_ms: s.index.oldest().map(|id| id.arrival().0),
            journal_segments: j.segments,
            journal_live_bytes: j.live_bytes,
            journal_bytes: j.total_bytes,
            poisoned: j.poisoned,
            destinations: destinations.filter(busy).chain(suspended).collect(),
        }
    }
}

impl<R: Runtime> Desk<R> {
    /// Copies the index while it is in use.
    async fn copy_index(&self, dir: &Path) -> Result<Response, ControlError> {
        let path = dir.join(format!("{:04}.index", self.0.log.0));
        let table = self.0.table.get().ok_or(ControlError::Closed)?;
        table.copy_to(&path).await.map_err(|e| ControlError::NotCopied(e.kind()))?;
        Ok(Response::Copied(vec![Copied { log: self.0.log.0, path }]))
    }
}

/// Whether that is the name of the destination, or of its site.
pub(crate) fn is_named(s: &State, d: DestId, name: &str) -> bool {
    let there = (d as usize) < s.doors.len();
    there && (s.schedule.name(d) == name || s.schedule.pool_name(s.schedule.pool_of(d)) == name)
}

fn matches(s: &State, key: Key, which: &Which) -> bool {
    match which {
        Which::All => true,
        Which::One(_) | Which::Some(_) => false,
        Which::Destination(name) => match s.index.stub(key) {
            // Which they are is seen when it has been read back.
            Some(stub) => stub.destination == SEVERAL || is_named(s, stub.destination, name),
            None => s.index.get(key).is_some_and(|e| {
                e.recipients.iter().any(|r| !r.phase.is_done() && is_named(s, r.destination, name))
            }),
        },
    }
}

/// True if a message is on stable storage.
pub(crate) fn is_known(s: &State, key: Key) -> bool {
    s.index.get(key).map_or(s.index.stub(key).is_some(), |e| !e.switches.committing)
}

fn is_in_doubt(s: &State, key: Key) -> bool {
    if let Some(stub) = s.index.stub(key) {
        return stub.marks.has(Marks::IN_DOUBT);
    }
    s.index.get(key).is_some_and(|e| e.recipients.iter().any(Recipient::is_in_doubt))
}

pub(crate) fn paused_reason(s: &State, r: &Recipient, now: Mono) -> Option<OwnedReply> {
    if r.phase != Phase::Ready || r.destination >= state::LOCAL {
        return None;
    }
    let d = r.destination;
    rule_reason(s, d).or_else(|| s.schedule.is_paused(d, now).then(|| s.reason_of(s.schedule.pool_of(d))))
}

/// Why a recipient is still there with whom all is over.
fn owed_reason(r: &Recipient, reason: Option<OwnedReply>) -> OwnedReply {
    let done = if r.phase == Phase::Passed { "passed on" } else { "failed" };
    let what = reason.map_or_else(String::new, |r| reply_text(&r));
    OwnedReply::ours([0; 3], format!("{done}, its sender is still to be told: {what}").as_bytes())
}

pub(crate) fn reply_text(r: &OwnedReply) -> String {
    let text = text(&r.text);
    match (r.code, r.enhanced) {
        (0, _) => text,
        (code, [0, 0, 0]) => format!("{code} {text}"),
        (code, [a, b, c]) => format!("{code} {a}.{b}.{c} {text}"),
    }
}

/// Bytes from a peer for a person's eyes.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

pub(crate) fn cut(note: &str) -> &[u8] {
    &note.as_bytes()[..note.len().min(TEXT_MAX)]
}

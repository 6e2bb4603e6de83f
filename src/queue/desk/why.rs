//! L4: why a message is still here: for each recipient what it waits for, and what has been tried.
//!
//! Reads what the desk knows and, for the history, the journal: what is no longer in it (of mail that
//! waits long, all but the last attempt, which the row keeps) is said to be missing. Changes nothing; takes
//! no slot of a rate.

use crate::base::ids::{MessageId, QueueId};
use crate::base::time::{Mono, Wall};
use crate::queue::common::Counted;
use crate::queue::control::{ControlError, Response, Tried, Why, WhyRecipient};
use crate::queue::desk::Desk;
use crate::queue::desk::operate::{reply_text, text};
use crate::queue::index::{Entry, Key, Phase, Presence, Recipient};
use crate::queue::record::{self, Fate, MessageView, StatesView};
use crate::queue::row::RowView;
use crate::queue::schedule::Obstacle;
use crate::queue::state::{LOCAL, OwnedReply, State};
use crate::queue::stub::Marks;
use crate::runtime::{Runtime, yield_now};
use std::collections::BTreeMap;

/// Segments of the journal that are read for the history, newest first.
const SEGMENTS: u64 = 64;
/// Attempts shown beside the first.
const LATEST: usize = 10;

/// What the journal says of one message.
#[derive(Default)]
struct History {
    /// By recipient; each attempt once, in order.
    tried: BTreeMap<u32, BTreeMap<u16, Tried>>,
    /// Why it was held last.
    held: Option<String>,
}

impl<R: Runtime> Desk<R> {
    pub(crate) async fn why(&self, id: QueueId) -> Result<Response, ControlError> {
        let key = self.key_of(id)?;
        let history = self.history(id.message).await;
        for _ in 0..3 {
            let presence = self.0.state.borrow().index.presence(key);
            let why = match presence {
                Presence::Gone => return Err(ControlError::NotFound),
                Presence::Rich => self.why_rich(key, &history).await,
                Presence::Parked => self.why_parked(key, &history).await,
            };
            // It may have been recalled or parked meanwhile.
            if let Some(why) = why {
                return Ok(Response::Why(Box::new(why)));
            }
        }
        Err(ControlError::Unreadable)
    }

    async fn why_rich(&self, key: Key, history: &History) -> Option<Why> {
        let payload = self.read_back(key).await?;
        let replies = self.replies_to(key).await;
        let s = self.0.state.borrow();
        let view = MessageView::parse(&payload).ok()?;
        Some(self.explain(&s, (key, s.index.get(key)?), &view, &replies, history))
    }

    async fn why_parked(&self, key: Key, history: &History) -> Option<Why> {
        let (id, doubt) = {
            let s = self.0.state.borrow();
            let stub = s.index.stub(key)?;
            (stub.id, stub.marks.has(Marks::IN_DOUBT))
        };
        let (row, payload) = self.read_parked(id).await?;
        let row = RowView::parse(&row).ok()?;
        let mut s = self.0.state.borrow_mut();
        let e = self.entry_of(&mut s, id, &row, &payload, doubt)?;
        let replies = e.archived.iter().flat_map(|a| a.replies.iter().cloned()).collect();
        let view = MessageView::parse(&payload).ok()?;
        Some(self.explain(&s, (key, &e), &view, &replies, history))
    }

    fn explain(
        &self,
        s: &State,
        (key, e): (Key, &Entry),
        view: &MessageView<'_>,
        replies: &BTreeMap<u32, OwnedReply>,
        history: &History,
    ) -> Why {
        let mut recipients = Vec::new();
        for (i, (r, to)) in e.recipients.iter().zip(view.envelope.recipients()).enumerate() {
            if r.phase.is_done() {
                continue;
            }
            let reply = replies.get(&(i as u32)).map(reply_text);
            let (state, waits_for) = match history.held.as_deref().filter(|_| e.switches.held) {
                Some(note) => ("held", format!("an operator to release it; held by {note}")),
                None if e.switches.held => ("held", "an operator to release it".into()),
                None => self.waits_for(s, r),
            };
            let known = r.destination < LOCAL;
            let position = known.then(|| s.schedule.position(r.destination, key)).flatten();
            let mut tried = history.tried.get(&(i as u32)).cloned().unwrap_or_default();
            if let (Some(reply), 1..) = (replies.get(&(i as u32)), r.attempts) {
                let next = match r.phase {
                    Phase::Waiting => self.0.rt.wall().after(r.due.since(self.0.rt.now())).to_string(),
                    _ => String::new(),
                };
                tried.entry(r.attempts).or_insert_with(|| Tried::new(r.attempts, reply, next));
            }
            let mut shown: Vec<Tried> = tried.into_values().collect();
            let missing = usize::from(r.attempts).saturating_sub(shown.len());
            if shown.len() > LATEST + 1 {
                shown.drain(1..shown.len() - LATEST);
            }
            recipients.push(WhyRecipient {
                address: text(to.address),
                state,
                waits_for,
                destination: if known { s.schedule.name(r.destination).to_owned() } else { String::new() },
                site: match known {
                    true => s.schedule.pool_name(s.schedule.pool_of(r.destination)).to_owned(),
                    false => String::new(),
                },
                ahead: position,
                attempts: r.attempts,
                last_reply: reply,
                missing: u32::try_from(missing).unwrap_or(u32::MAX),
                tried: shown,
            });
        }
        Why {
            queue_id: self.queue_id(e.id).to_string(),
            arrival_time: view.head.arrival.seconds(),
            sender: text(view.envelope.sender()),
            message_size: e.size,
            rerouted: s.vias.get(e.id).map(str::to_owned),
            recipients,
        }
    }

    /// The state of a recipient that is not done, and what it waits for.
    fn waits_for(&self, s: &State, r: &Recipient) -> (&'static str, String) {
        let now = self.0.rt.now();
        match r.phase {
            Phase::Delivered | Phase::Failed => ("done", "nothing".into()),
            Phase::Flight => ("sending", "the answer of the next hop".into()),
            Phase::Waiting => {
                let wait = r.due.since(now).as_secs();
                ("deferred", format!("attempt {}, in {wait} s", r.attempts.saturating_add(1)))
            }
            Phase::Owed | Phase::Passed => {
                let state = if r.phase == Phase::Passed { "passed on" } else { "failed" };
                let wait = r.due.since(now).as_secs();
                let when = if r.due > now { format!(", tried again in {wait} s") } else { String::new() };
                (state, format!("its sender is to be told{when}"))
            }
            Phase::Ready if r.destination >= LOCAL => ("ready", "its notification: there is no route".into()),
            Phase::Ready if s.unsettled.len() >= self.0.options.limits.unsettled => {
                ("ready", "room in the journal for outcomes".into())
            }
            Phase::Ready => self.obstacle(s, r, now),
        }
    }

    fn obstacle(&self, s: &State, r: &Recipient, now: Mono) -> (&'static str, String) {
        let d = r.destination;
        let p = s.schedule.pool_of(d);
        let (site, limits) = (s.schedule.view(p), s.schedule.limits(p));
        let of = match site.shared == site.key {
            true => site.key.clone(),
            false => format!("{} (limits of {})", site.key, site.shared),
        };
        match s.schedule.obstacle(d, now) {
            Obstacle::Stopped => ("ready", "a restart: no attempts are started any more".into()),
            Obstacle::Suspended(rule) => {
                let Some(rule) = s.rules.get(rule) else {
                    return ("suspended", "an operator's rule to end".into());
                };
                let until = rule.until.map_or("it is resumed".to_owned(), |ms| Wall(ms).to_string());
                let text = format!(
                    "suspended by rule {} of {} for {:?} until {until}: {}",
                    rule.number, rule.by, rule.what, rule.reason
                );
                ("suspended", text)
            }
            Obstacle::Paused(until) => {
                let (wait, why) = (until.since(now).as_secs_f64().ceil(), reply_text(&s.reason_of(p)));
                let text = format!(
                    "{of}: failure {} in a row, left alone for another {wait} s: {why}",
                    site.failures
                );
                ("paused", text)
            }
            Obstacle::Rate(what, at) => {
                let (rate, unit) = match what {
                    Counted::Messages => (limits.rate, "messages"),
                    Counted::Recipients => (limits.recipients, "recipients"),
                    Counted::Bytes => (limits.bytes, "bytes"),
                };
                let (per, wait) = (rate.per.as_secs(), at.since(now).as_secs_f64());
                let text = format!(
                    "the rate of {of}, {} {unit} in {per} s; the next slot is in {wait:.1} s",
                    rate.count
                );
                ("limited", text)
            }
            Obstacle::Connections => {
                let open = site.connections_everywhere;
                let text = format!(
                    "a connection to {of}: {open} of {} are open, {} of them here",
                    limits.connections, site.connections
                );
                ("limited", text)
            }
            Obstacle::All => {
                let most = self.0.options.rules.connections;
                ("limited", format!("a connection: all {most} of this core are open"))
            }
            Obstacle::Opening => ("ready", format!("a connection to {of}, which is being opened")),
            Obstacle::Turn => ("ready", format!("its turn on {} connections to {of}", site.connections)),
        }
    }

    /// What the journal still has on the attempts of message `id`.
    async fn history(&self, id: MessageId) -> History {
        let mut history = History::default();
        let newest = self.0.keeper.newest();
        for segment in newest.saturating_sub(SEGMENTS)..=newest {
            // Segments that are gone, or cannot be read, have nothing to say.
            let Ok(mut scanner) = self.0.keeper.scanner(segment) else { continue };
            while let Ok(Some(batch)) = scanner.next().await {
                for r in batch.filter(|r| r.head.id == id.0) {
                    history.enter(r.head.kind, r.payload);
                }
            }
            yield_now().await;
        }
        history
    }
}

impl Tried {
    fn new(attempt: u16, reply: &OwnedReply, next: String) -> Self {
        Tried { attempt, reply: reply_text(reply), server: text(&reply.server), next }
    }
}

impl History {
    fn enter(&mut self, kind: u8, payload: &[u8]) {
        match kind {
            record::OUTCOME => self.states(StatesView::parse(payload).ok()),
            record::MESSAGE => self.states(MessageView::parse(payload).ok().and_then(|v| v.states)),
            record::HOLD => self.held = Some(text(payload)),
            record::RELEASE => self.held = None,
            _ => {}
        }
    }

    fn states(&mut self, view: Option<StatesView<'_>>) {
        for s in view.iter().flat_map(StatesView::states).filter(|s| s.fate == Fate::Deferred) {
            let tried = Tried::new(s.attempts, &OwnedReply::from(s.reply), s.due.to_string());
            self.tried.entry(s.index).or_default().insert(s.attempts, tried);
        }
    }
}

//! L5: what an operator does to all messages that a condition means: they are found, counted, and changed.
//!
//! The ids of what is found stay here until it is done, so that what is changed is what was counted: none
//! that came, or came to suit, in between; those that have ended meanwhile are told. Cores look in slices and
//! are asked one after the other; mail flows in between. At most `FOUND_MAX` messages, `AT_ONCE`
//! conditions at a time.

use super::control::{Conversation, Queues};
use super::holds::Hold;
use super::office::{AT_ONCE, CHUNK, Place};
use super::wire::{GO, Line};
use crate::base::ids::QueueId;
use crate::queue::control::{ControlError, PAGE_MAX, Request, Response, Which};
use crate::queue::pick::{Pick, Verb};
use crate::queue::record::VIA_MAX;
use crate::queue::via;
use crate::route::destination::{NextHop, TlsPolicy};
use crate::runtime::uring::wall_now;
use std::io;
use std::time::{Duration, Instant};

/// Messages that one condition may mean: 16 bytes each.
const FOUND_MAX: usize = 8_000_000;
/// How long an answer to a question is waited for.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often progress is told.
const TELL: Duration = Duration::from_secs(1);
/// Bytes of a reason at most.
const REASON_MAX: usize = 400;

/// What is wanted.
pub(super) struct Wish {
    pub pick: Pick,
    pub verb: Verb,
    pub ids: Vec<String>,
    pub reason: String,
    pub dry_run: bool,
    pub ask: bool,
    pub seconds: Option<u64>,
    pub to: Option<String>,
}

impl Wish {
    /// The next hop as queues take it. `Err`: why it cannot be used.
    fn via(&self) -> Result<&str, String> {
        match (self.verb, self.to.as_deref()) {
            (Verb::Reroute, None) => Err("say where to: a next hop, \"mx\" or \"default\"".into()),
            (Verb::Reroute, Some("default")) => Ok(""),
            (Verb::Reroute, Some(via::MX)) => Ok(via::MX),
            (Verb::Reroute, Some(to)) if to.len() > VIA_MAX => {
                Err(format!("a next hop has {VIA_MAX} bytes at most"))
            }
            (Verb::Reroute, Some(to)) => NextHop::parse(to, TlsPolicy::Opportunistic).map(|_| to),
            (_, Some(_)) => Err("only a reroute goes to another next hop".into()),
            (_, None) => Ok(""),
        }
    }
}

/// What was found.
#[derive(Default)]
struct Found {
    /// By queue.
    ids: Vec<Vec<QueueId>>,
    messages: u64,
    bytes: u64,
    unread: u64,
}

/// Tells how far it has come, now and then.
struct Pace {
    what: &'static str,
    of: u64,
    done: u64,
    last: Instant,
}

impl Pace {
    #[allow(clippy::disallowed_methods, reason = "the control thread tells how far it has come")]
    fn new(what: &'static str, of: u64) -> Self {
        Pace { what, of, done: 0, last: Instant::now() }
    }

    /// What to tell now, if anything.
    fn step(&mut self, n: u64) -> Option<Line> {
        self.done += n;
        if self.last.elapsed() < TELL {
            return None;
        }
        self.last += TELL;
        Some(Line::Progress { what: self.what.into(), done: self.done, of: self.of.max(self.done) })
    }
}

impl<Q: Queues> Conversation<'_, Q> {
    /// Does what is wanted.
    pub(super) async fn pick(&mut self, wish: Wish) -> io::Result<()> {
        let office = self.office;
        if let Err(text) = wish.pick.check() {
            return self.out.error(&text, 64).await;
        }
        if wish.reason.len() > REASON_MAX {
            return self.out.error(&format!("a reason has {REASON_MAX} bytes at most"), 64).await;
        }
        if wish.seconds.is_some() && wish.verb != Verb::Hold {
            return self.out.error("only a hold ends by itself", 64).await;
        }
        let via = match wish.via() {
            Ok(via) => via,
            Err(text) => return self.out.error(&text, 64).await,
        };
        let Some(_place) = Place::take(&office.busy) else {
            let text = format!("{AT_ONCE} others are at it: try again");
            return self.out.error(&text, 75).await;
        };
        let found = match wish.ids.is_empty() {
            true => self.find(&wish).await?,
            false => self.named(&wish).await?,
        };
        let Some(found) = found else { return Ok(()) };
        if wish.verb == Verb::Look && !wish.dry_run {
            return self.show_found(&found).await;
        }
        let (messages, bytes, unread) = (found.messages, found.bytes, found.unread);
        let asks = wish.ask && !wish.dry_run && messages > 0;
        self.out.line(&Line::Matches { messages, bytes, unread, asks }).await?;
        if wish.dry_run || asks && self.out.hear(PATIENCE).await? != GO {
            return Ok(());
        }
        if messages == 0 {
            return self.out.line(&Line::Done(0)).await;
        }
        let note = match wish.reason.is_empty() {
            true => self.who.clone(),
            false => format!("{}: {}", self.who, wish.reason),
        };
        let mut what = if wish.ids.is_empty() { wish.pick.to_string() } else { wish.ids.join(" ") };
        if let Some(to) = &wish.to {
            what = format!("{what}, to {to}");
        }
        let hold = match self.begin_hold(&wish, &what, &found).await? {
            Ok(hold) => hold,
            Err(()) => return Ok(()),
        };
        let changed = self.carry_out(&wish, (&note, via), &found).await?;
        office.tell(&self.who, wish.verb.word(), changed, &what, &wish.reason);
        if let Some(hold) = hold {
            self.hold_line(&hold).await?;
        }
        self.out.line(&Line::Done(changed)).await
    }

    /// Notes what is about to be held. `Err`: that cannot be done, and has been said.
    async fn begin_hold(
        &mut self,
        wish: &Wish,
        what: &str,
        found: &Found,
    ) -> io::Result<Result<Option<Hold>, ()>> {
        if wish.verb != Verb::Hold {
            return Ok(Ok(None));
        }
        let wall = wall_now();
        let hold = Hold {
            number: 0,
            what: what.chars().take(1000).collect(),
            messages: found.messages,
            reason: wish.reason.clone(),
            by: self.who.clone(),
            since: wall.0,
            until: wish.seconds.map(|s| wall.0.saturating_add(s.saturating_mul(1000))),
        };
        match self.office.holds.add(hold, &found.ids.concat()) {
            Ok(hold) => Ok(Ok(Some(hold))),
            Err(e) => {
                self.out.error(&format!("the hold cannot be noted: {e}"), 73).await?;
                Ok(Err(()))
            }
        }
    }

    /// The messages that are meant by a condition. `None`: what went wrong has been said.
    async fn find(&mut self, wish: &Wish) -> io::Result<Option<Found>> {
        let mut found = Found::default();
        let mut pace = Pace::new("looked at", self.count_all().await);
        for queue in 0..self.queues.count() {
            let (mut of_queue, mut after) = (Vec::new(), None);
            loop {
                let pick = Box::new(wish.pick.clone());
                match self.ask(queue, Request::Select { pick, verb: wish.verb, after }).await {
                    Response::Selected { ids, bytes, looked, unread, next } => {
                        found.messages += ids.len() as u64;
                        found.bytes += bytes;
                        found.unread += unread;
                        of_queue.extend(ids);
                        after = next;
                        if let Some(line) = pace.step(looked) {
                            self.out.line(&line).await?;
                        }
                    }
                    other => {
                        self.refuse(&other).await?;
                        return Ok(None);
                    }
                }
                if found.messages as usize > FOUND_MAX {
                    let text = format!("more than {FOUND_MAX} messages are meant: say it more closely");
                    self.out.error(&text, 65).await?;
                    return Ok(None);
                }
                if after.is_none() {
                    break;
                }
            }
            found.ids.push(of_queue);
        }
        Ok(Some(found))
    }

    /// The messages with these ids, as far as they are there.
    async fn named(&mut self, wish: &Wish) -> io::Result<Option<Found>> {
        let mut found = Found { ids: vec![Vec::new(); self.queues.count()], ..Found::default() };
        for text in &wish.ids {
            let Ok(id) = text.parse::<QueueId>() else {
                self.bad_id(text).await?;
                return Ok(None);
            };
            let mut there = false;
            for queue in 0..self.queues.count() {
                if let Response::Page { messages, .. } = self.ask(queue, Request::ShowSome(vec![id])).await {
                    for m in &messages {
                        there = true;
                        if wish.verb.would_change(m.queue_name == "hold") {
                            found.messages += 1;
                            found.bytes += m.message_size;
                            found.ids[queue].push(id);
                        }
                    }
                }
            }
            if !there {
                self.out.error(&format!("{id}: {}", ControlError::NotFound), 65).await?;
            }
        }
        Ok(Some(found))
    }

    async fn count_all(&self) -> u64 {
        let mut count = 0;
        for queue in 0..self.queues.count() {
            if let Response::Stats(all) = self.ask(queue, Request::Stats).await {
                count += all.iter().map(|s| s.messages as u64).sum::<u64>();
            }
        }
        count
    }

    async fn show_found(&mut self, found: &Found) -> io::Result<()> {
        for (queue, ids) in found.ids.iter().enumerate() {
            for some in ids.chunks(PAGE_MAX) {
                match self.ask(queue, Request::ShowSome(some.to_vec())).await {
                    Response::Page { messages, .. } => {
                        for message in &messages {
                            self.message(message).await?;
                        }
                    }
                    other => return self.refuse(&other).await,
                }
            }
        }
        Ok(())
    }

    /// Changes what was found; gives how many there still were.
    async fn carry_out(&mut self, wish: &Wish, (note, via): (&str, &str), found: &Found) -> io::Result<u64> {
        let mut changed = 0;
        let mut pace = Pace::new("changed", found.messages);
        for (queue, ids) in found.ids.iter().enumerate() {
            for some in ids.chunks(CHUNK) {
                let request = request(wish, some.to_vec(), (note, via));
                match self.ask(queue, request).await {
                    Response::Done(n) => changed += n,
                    other => {
                        self.refuse(&other).await?;
                        return Ok(changed);
                    }
                }
                if let Some(line) = pace.step(some.len() as u64) {
                    self.out.line(&line).await?;
                }
            }
        }
        Ok(changed)
    }

    /// Lets go what a hold has held.
    pub(super) async fn undo(&mut self, number: u32) -> io::Result<()> {
        let office = self.office;
        let Some(hold) = office.holds.get(number) else {
            return self.out.error("no such hold; `ringpost queue holds` lists them", 65).await;
        };
        let ids = match office.holds.ids(number) {
            Ok(ids) => ids,
            Err(e) => return self.out.error(&format!("hold {number} cannot be read: {e}"), 74).await,
        };
        let note = format!("{}: hold {number} is taken back", self.who);
        let Some(count) = office.release(self.queues, &ids, &note).await else {
            return self.refuse(&Response::Error(ControlError::Closed)).await;
        };
        if let Err(e) = office.holds.remove(number) {
            self.out.error(&format!("the hold cannot be removed: {e}"), 73).await?;
        }
        office.tell(&self.who, "undo", count, &hold.what, &hold.reason);
        self.out.line(&Line::Done(count)).await
    }

    /// The holds that can be taken back.
    pub(super) async fn holds(&mut self) -> io::Result<()> {
        for hold in self.office.holds.all() {
            self.hold_line(&hold).await?;
        }
        Ok(())
    }

    async fn hold_line(&mut self, hold: &Hold) -> io::Result<()> {
        let value = serde_json::to_value(hold).map_err(io::Error::other)?;
        self.out.line(&Line::Hold(value)).await
    }
}

fn request(wish: &Wish, ids: Vec<QueueId>, (note, via): (&str, &str)) -> Request {
    let note = note.to_owned();
    if wish.verb == Verb::Reroute {
        return Request::Reroute { ids, note, to: via.to_owned() };
    }
    let which = Which::Some(ids);
    match wish.verb {
        Verb::Hold => Request::Hold { which, note },
        Verb::Release => Request::Release { which, note },
        Verb::Requeue => Request::Requeue { which, note },
        Verb::Bounce => Request::Bounce { which, note, reason: wish.reason.clone() },
        Verb::Delete => Request::Delete { which, note },
        Verb::Flush | Verb::Look | Verb::Reroute => Request::Flush(which),
    }
}

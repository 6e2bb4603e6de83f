//! L5: what an operator does to all messages that a condition means: they are found, counted, and changed.
//!
//! The ids of what a preview has found stay here under its stamp, so that what is changed is what was
//! counted: none that came, or came to suit, in between; those that have ended meanwhile are told. Cores
//! look in slices and are asked one after the other; mail flows in between. At most `FOUND_MAX` messages,
//! `AT_ONCE` conditions at a time. A change that has begun is finished, and recorded, whoever still
//! listens.

use super::control::{Conversation, Queues};
use super::holds::Hold;
use super::office::{AT_ONCE, CHUNK, Office, Place};
use super::wire::{Change, Line, Problem, Which};
use crate::base::ids::QueueId;
use crate::queue::control::{self, ControlError, PAGE_MAX, Request, Response};
use crate::queue::pick::{Pick, Verb};
use crate::queue::record::VIA_MAX;
use crate::queue::via;
use crate::route::destination::{NextHop, TlsPolicy};
use crate::runtime::uring::wall_now;
use std::cell::RefCell;
use std::io;
use std::time::{Duration, Instant};

/// Messages that one condition may mean: 16 bytes each.
const FOUND_MAX: usize = 8_000_000;
/// How long a stamp is good.
const STAMP: Duration = Duration::from_secs(600);
/// Previews that are kept.
const PREVIEWS: usize = 4;
/// How often progress is told.
const TELL: Duration = Duration::from_secs(1);
/// Bytes of a reason at most.
const REASON_MAX: usize = 400;

/// What is wanted.
struct Wish {
    pick: Pick,
    verb: Verb,
    ids: Vec<String>,
    reason: String,
    seconds: Option<u64>,
    to: Option<String>,
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
            _ => Ok(""),
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

/// What has been counted, and may be changed.
struct Preview {
    stamp: String,
    at: Instant,
    wish: Wish,
    found: Found,
}

/// What has been counted of late, oldest first.
#[derive(Default)]
pub struct Previews {
    kept: RefCell<Vec<Preview>>,
    /// How many there have been.
    count: std::cell::Cell<u64>,
}

impl Previews {
    /// Those that are too old are gone.
    pub fn forget(&self) {
        self.kept.borrow_mut().retain(|p| p.at.elapsed() < STAMP);
    }

    /// Keeps one more; others make place for it. Gives its stamp.
    #[allow(clippy::disallowed_methods, reason = "the control thread knows how old a preview is")]
    fn keep(&self, wish: Wish, found: Found) -> String {
        self.forget();
        self.count.set(self.count.get() + 1);
        // Unlike those of an earlier run.
        let stamp = format!("{}-{}", wall_now().0, self.count.get());
        let mut kept = self.kept.borrow_mut();
        kept.push(Preview { stamp: stamp.clone(), at: Instant::now(), wish, found });
        let messages = |kept: &[Preview]| kept.iter().map(|p| p.found.messages as usize).sum::<usize>();
        while kept.len() > PREVIEWS || kept.len() > 1 && messages(&kept) > FOUND_MAX {
            kept.remove(0);
        }
        stamp
    }

    /// That of a stamp, which is used by this.
    fn take(&self, stamp: &str, verb: Verb) -> Option<Preview> {
        self.forget();
        let mut kept = self.kept.borrow_mut();
        let at = kept.iter().position(|p| p.stamp == stamp && p.wish.verb == verb)?;
        Some(kept.remove(at))
    }
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

impl<'a, Q: Queues> Conversation<'a, Q> {
    /// Changes messages, or says how many would be.
    pub(super) async fn change(&mut self, asked: Change) -> io::Result<()> {
        let Change { verb, which, reason, seconds, to, preview, unseen, stamp } = asked;
        if reason.len() > REASON_MAX {
            return self.out.error(&format!("a reason has {REASON_MAX} bytes at most"), 64).await;
        }
        if seconds.is_some() && verb != Verb::Hold {
            return self.out.error("only a hold ends by itself", 64).await;
        }
        if to.is_some() && verb != Verb::Reroute {
            return self.out.error("only a reroute goes to another next hop", 64).await;
        }
        let which = match (stamp, which) {
            (Some(stamp), None) => return self.stamped(&stamp, verb, (reason, seconds, to)).await,
            (None, Some(which)) => which,
            (Some(_), Some(_)) => return self.out.error("a stamp says which messages", 64).await,
            (None, None) => return self.out.error("say which messages: which, or stamp", 64).await,
        };
        // These change messages as they are found, and keep nothing.
        let simple = matches!(verb, Verb::Flush | Verb::Hold | Verb::Release | Verb::Delete);
        let (pick, ids) = match which {
            Which::Ids(ids) if ids.is_empty() => return self.out.error("no ids are given", 64).await,
            Which::All | Which::Ids(_) | Which::Destination(_) if simple && !preview && seconds.is_none() => {
                return self.at_once(which, verb, &reason).await;
            }
            Which::All => (Pick::default(), Vec::new()),
            Which::Ids(ids) => (Pick::default(), ids),
            Which::Destination(name) => (Pick { destination: Some(name), ..Pick::default() }, Vec::new()),
            Which::Pick(pick) => (*pick, Vec::new()),
        };
        if ids.is_empty() && !preview && !unseen {
            // RFC 6585 §3.
            let text = "this may change many messages: ask with preview, then with the stamp; or say unseen";
            return self.out.problem(Problem::with(428, 64, text)).await;
        }
        self.by_condition(Wish { pick, verb, ids, reason, seconds, to }, preview).await
    }

    async fn by_condition(&mut self, wish: Wish, preview: bool) -> io::Result<()> {
        if let Err(text) = wish.via() {
            return self.out.error(&text, 64).await;
        }
        let Some(_place) = self.place().await? else { return Ok(()) };
        let Some(found) = self.find_all(&wish).await? else { return Ok(()) };
        let (messages, bytes, unread) = (found.messages, found.bytes, found.unread);
        if preview {
            let stamp = Some(self.office.previews.keep(wish, found));
            return self.out.line(Line::Matches { messages, bytes, unread, stamp }).await;
        }
        self.out.line(Line::Matches { messages, bytes, unread, stamp: None }).await?;
        self.apply(&wish, &found).await
    }

    /// Changes what a preview has counted.
    async fn stamped(
        &mut self,
        stamp: &str,
        verb: Verb,
        (reason, seconds, to): (String, Option<u64>, Option<String>),
    ) -> io::Result<()> {
        let Some(_place) = self.place().await? else { return Ok(()) };
        let Some(Preview { mut wish, found, .. }) = self.office.previews.take(stamp, verb) else {
            let text = "the stamp is of another verb, used, or too old: ask for a preview again";
            return self.out.problem(Problem::with(410, 75, text)).await;
        };
        if !reason.is_empty() {
            wish.reason = reason;
        }
        wish.seconds = seconds.or(wish.seconds);
        wish.to = to.or(wish.to);
        if let Err(text) = wish.via() {
            return self.out.error(&text, 64).await;
        }
        self.apply(&wish, &found).await
    }

    /// A place among those that look for many messages; none: that has been said.
    async fn place(&mut self) -> io::Result<Option<Place<'a>>> {
        let office: &'a Office = self.office;
        let place = Place::take(&office.busy);
        if place.is_none() {
            self.out.error(&format!("{AT_ONCE} others are at it: try again"), 75).await?;
        }
        Ok(place)
    }

    async fn find_all(&mut self, wish: &Wish) -> io::Result<Option<Found>> {
        if let Err(text) = wish.pick.check() {
            self.out.error(&text, 64).await?;
            return Ok(None);
        }
        match wish.ids.is_empty() {
            true => self.find(wish).await,
            false => self.named(wish).await,
        }
    }

    /// Shows what a condition means, or says how much it is.
    pub(super) async fn look(&mut self, pick: Pick, count: bool) -> io::Result<()> {
        let (ids, reason) = (Vec::new(), String::new());
        let wish = Wish { pick, verb: Verb::Look, ids, reason, seconds: None, to: None };
        let Some(_place) = self.place().await? else { return Ok(()) };
        let Some(found) = self.find_all(&wish).await? else { return Ok(()) };
        match count {
            true => {
                let Found { messages, bytes, unread, .. } = found;
                self.out.line(Line::Matches { messages, bytes, unread, stamp: None }).await
            }
            false => self.show_found(&found).await,
        }
    }

    /// Changes what was found.
    async fn apply(&mut self, wish: &Wish, found: &Found) -> io::Result<()> {
        if found.messages == 0 {
            return self.out.line(Line::Changed(0)).await;
        }
        let via = wish.via().unwrap_or_default();
        let note = match wish.reason.is_empty() {
            true => self.who.clone(),
            false => format!("{}: {}", self.who, wish.reason),
        };
        let mut what = if wish.ids.is_empty() { wish.pick.to_string() } else { wish.ids.join(" ") };
        if let Some(to) = &wish.to {
            what = format!("{what}, to {to}");
        }
        let hold = match self.begin_hold(wish, &what, found).await? {
            Ok(hold) => hold,
            Err(()) => return Ok(()),
        };
        let changed = self.carry_out(wish, (&note, via), found).await;
        self.office.tell(&self.who, wish.verb.word(), changed, &what, &wish.reason);
        if let Some(hold) = hold {
            self.hold_line(&hold).await?;
        }
        self.out.line(Line::Changed(changed)).await
    }

    /// Changes all messages, those of a destination, or those with these ids.
    async fn at_once(&mut self, which: Which, verb: Verb, reason: &str) -> io::Result<()> {
        let (what, targets) = match which {
            Which::Destination(name) => {
                (format!("destination {name}"), vec![control::Which::Destination(name)])
            }
            Which::Ids(ids) => {
                let mut targets = Vec::new();
                for id in &ids {
                    let Ok(parsed) = id.parse() else { return self.bad_id(id).await };
                    targets.push(control::Which::One(parsed));
                }
                (ids.join(" "), targets)
            }
            Which::All | Which::Pick(_) => ("all".to_owned(), vec![control::Which::All]),
        };
        let note = if reason.is_empty() { self.who.clone() } else { format!("{}: {reason}", self.who) };
        let mut changed = 0;
        'all: for target in targets {
            let mut found = !matches!(target, control::Which::One(_));
            for queue in 0..self.queues.count() {
                match self.ask(queue, request(verb, target.clone(), &note, reason)).await {
                    Response::Done(n) => {
                        changed += n;
                        found = true;
                    }
                    Response::Error(ControlError::NotFound) => {}
                    other => {
                        let _ = self.refuse(&other).await;
                        break 'all;
                    }
                }
            }
            if let (false, control::Which::One(id)) = (found, target) {
                let _ = self.out.error(&format!("{id}: {}", ControlError::NotFound), 65).await;
            }
        }
        self.office.tell(&self.who, verb.word(), changed, &what, reason);
        self.out.line(Line::Changed(changed)).await
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
                            self.out.line(line).await?;
                        }
                    }
                    other => {
                        self.refuse(&other).await?;
                        return Ok(None);
                    }
                }
                if found.messages as usize > FOUND_MAX {
                    let text = format!("more than {FOUND_MAX} messages are meant: say it more closely");
                    self.out.error(&text, 64).await?;
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

    /// Changes what was found; gives how many there still were. Goes on if nobody listens any more.
    async fn carry_out(&mut self, wish: &Wish, (note, via): (&str, &str), found: &Found) -> u64 {
        let mut changed = 0;
        let mut pace = Pace::new("changed", found.messages);
        for (queue, ids) in found.ids.iter().enumerate() {
            for some in ids.chunks(CHUNK) {
                let request = match wish.verb {
                    Verb::Reroute => {
                        let (note, to) = (note.to_owned(), via.to_owned());
                        Request::Reroute { ids: some.to_vec(), note, to }
                    }
                    verb => request(verb, control::Which::Some(some.to_vec()), note, &wish.reason),
                };
                match self.ask(queue, request).await {
                    Response::Done(n) => changed += n,
                    other => {
                        let _ = self.refuse(&other).await;
                        return changed;
                    }
                }
                if let Some(line) = pace.step(some.len() as u64) {
                    let _ = self.out.line(line).await;
                }
            }
        }
        changed
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
        self.out.line(Line::Changed(count)).await
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
        self.out.line(Line::Hold(value)).await
    }
}

fn request(verb: Verb, which: control::Which, note: &str, reason: &str) -> Request {
    let note = note.to_owned();
    match verb {
        Verb::Hold => Request::Hold { which, note },
        Verb::Release => Request::Release { which, note },
        Verb::Requeue => Request::Requeue { which, note },
        Verb::Bounce => Request::Bounce { which, note, reason: reason.to_owned() },
        Verb::Delete => Request::Delete { which, note },
        Verb::Flush | Verb::Look | Verb::Reroute => Request::Flush(which),
    }
}

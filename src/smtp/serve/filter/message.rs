//! L4: a whole message goes through the filters, one after the other; the later ones see what the earlier
//! have changed. What a filter has changed counts only once it has said that the message is good.

use super::draft::Draft;
use super::replacement::{Replaced, Replacement};
use super::{Guard, Guards, Kind, Trouble};
use crate::base::ids::QueueId;
use crate::base::time::Mono;
use crate::intake::Intake;
use crate::message::body::BodyFacts;
use crate::message::envelope::{Envelope, Notify};
use crate::milter::header::{BYTES_MAX, CHANGES_MAX};
use crate::milter::{Answer, Change, Fault, Header, Step, wire};
use crate::runtime::Runtime;
use crate::smtp::rejection::Rejection;
use crate::smtp::reply::{Refusal, Reply};
use crate::smtp::serve::session::Talk;
use crate::storage::side::{SideError, SideFile};
use smallvec::SmallVec;

/// Why a message is not stored.
pub(in crate::smtp::serve) enum Stop {
    /// For a reason of ours.
    Ours(Reply),
    /// A filter refuses it.
    Refused(Rejection),
    /// A filter has it thrown away: its id, and which filter.
    Discarded(QueueId, String),
}

impl From<Reply> for Stop {
    fn from(reply: Reply) -> Self {
        Stop::Ours(reply)
    }
}

impl Stop {
    /// What the client is told, if it is not to believe that the message was taken.
    pub fn refusal(&self) -> Option<Refusal<'_>> {
        match self {
            Stop::Ours(reply) => Some((*reply).into()),
            Stop::Refused(rejection) => Some(rejection.refusal()),
            Stop::Discarded(..) => None,
        }
    }
}

/// Where the bytes behind [`Filtered`]'s head are.
pub(super) enum Rest {
    /// Where they were received.
    Received,
    /// The message as a whole is in this side file.
    Side(SideFile),
    /// Here.
    Memory(Vec<u8>),
}

/// A message that has gone through the filters.
pub(in crate::smtp::serve) struct Filtered {
    /// Facts about it as it is now.
    pub facts: BodyFacts,
    pub(super) head: Vec<u8>,
    /// Bytes of the message as it was received that `head` replaces.
    pub(super) skip: usize,
    pub(super) rest: Rest,
    /// It is to be held, for this reason; printable.
    pub hold: Option<String>,
}

impl Filtered {
    /// Header or body are not as they were received.
    pub fn is_changed(&self) -> bool {
        !self.head.is_empty() || !matches!(self.rest, Rest::Received)
    }

    /// The side file that it is in.
    pub fn side(&self) -> Option<SideFile> {
        match self.rest {
            Rest::Side(side) => Some(side),
            Rest::Received | Rest::Memory(_) => None,
        }
    }

    /// The message in memory; `received` is what came in.
    pub fn slices<'a>(&'a self, received: SmallVec<[&'a [u8]; 10]>) -> SmallVec<[&'a [u8]; 10]> {
        let mut all: SmallVec<[&'a [u8]; 10]> = SmallVec::new();
        all.push(&self.head[..]);
        match &self.rest {
            Rest::Side(_) => {}
            Rest::Memory(bytes) => all.push(&bytes[..]),
            Rest::Received => {
                let mut skip = self.skip;
                for slice in received {
                    let n = skip.min(slice.len());
                    skip -= n;
                    all.push(&slice[n..]);
                }
            }
        }
        all
    }
}

/// What a filter wants to be changed.
#[derive(Default)]
pub(super) struct Changes {
    header: Vec<Change>,
    sender: Option<Vec<u8>>,
    added: Vec<Vec<u8>>,
    deleted: Vec<Vec<u8>>,
    hold: Option<Vec<u8>>,
    count: u32,
    bytes: usize,
}

impl Changes {
    pub(super) fn note(&mut self, step: Step<'_>) -> Result<(), Fault> {
        self.count += 1;
        self.bytes += match &step {
            Step::Header(Change::Add(n, v) | Change::Insert(_, n, v) | Change::Set(_, n, v)) => {
                n.len() + v.len()
            }
            Step::Sender(a) | Step::AddRecipient(a) | Step::DeleteRecipient(a) | Step::Quarantine(a) => {
                a.len()
            }
            _ => 0,
        };
        if self.count > CHANGES_MAX || self.bytes > BYTES_MAX {
            return Err(Fault::TooMuch);
        }
        match step {
            Step::Header(change) => self.header.push(change),
            Step::Sender(address) => self.sender = Some(address.to_vec()),
            Step::AddRecipient(address) => self.added.push(address.to_vec()),
            Step::DeleteRecipient(address) => self.deleted.push(address.to_vec()),
            Step::Quarantine(reason) => self.hold = Some(reason.to_vec()),
            Step::NeedInput | Step::Progress | Step::Body(_) | Step::Answer(_) => {}
        }
        Ok(())
    }

    /// The envelope after the changes, if there are any.
    fn envelope(&self, before: &Envelope) -> Option<Envelope> {
        if self.sender.is_none() && self.added.is_empty() && self.deleted.is_empty() {
            return None;
        }
        let view = before.view();
        let sender = self.sender.as_deref().unwrap_or(view.sender());
        let mut options = view.options();
        options.smtputf8 |= !sender.is_ascii() || self.added.iter().any(|a| !a.is_ascii());
        let mut after = Envelope::default();
        after.begin(sender, options, view.envid());
        let is_deleted = |a: &[u8]| self.deleted.iter().any(|d| d.eq_ignore_ascii_case(a));
        for r in view.recipients().filter(|r| !is_deleted(r.address)) {
            after.push(r.address, r.notify, r.orcpt);
        }
        for address in &self.added {
            if !after.view().recipients().any(|r| r.address == &address[..]) {
                after.push(address, Notify::DEFAULT, b"");
            }
        }
        Some(after)
    }

    /// Makes the changes. Those of the header all count, or none.
    fn make(self, draft: &mut Draft, envelope: &Envelope, as_is: bool, by: &str) -> Result<bool, Fault> {
        let changed = self.envelope(draft.envelope.as_ref().unwrap_or(envelope));
        let any = !self.header.is_empty() || changed.is_some();
        if !self.header.is_empty() {
            let mut header: Header = draft.header.clone();
            self.header.iter().try_for_each(|change| header.change(change, as_is))?;
            header.next_filter();
            draft.header = header;
        }
        draft.envelope = changed.or(draft.envelope.take());
        if let Some(reason) = self.hold {
            draft.hold = Some([by.as_bytes(), b": ", &reason].concat());
        }
        Ok(any)
    }
}

impl<R: Runtime> Talk<'_, R> {
    /// Shows the message that has ended to the filters. `Ok(None)`: it stays as it is.
    pub(in crate::smtp::serve) async fn filter(
        &mut self,
        intake: &Intake<R>,
        id: QueueId,
    ) -> Result<Option<Box<Filtered>>, Stop> {
        let Some(mut guards) = self.filters.take() else { return Ok(None) };
        let begun = self.ctx.rt.now();
        let result = self.filter_with(&mut guards, intake, id).await;
        self.now = self.ctx.rt.now();
        guards.waste.drain(..).for_each(|side| intake.discard_side(side));
        self.filters = Some(guards);
        let m = &self.ctx.metrics;
        if !matches!(result, Ok(None)) {
            m.filter_seconds.record(self.now.since(begun).as_secs_f64());
        }
        match &result {
            Ok(None) => {}
            Ok(Some(filtered)) if filtered.hold.is_some() => m.filter_held.increment(1),
            Ok(Some(_)) => m.filter_passed.increment(1),
            Err(Stop::Refused(_)) => m.filter_refused.increment(1),
            Err(Stop::Discarded(..)) => m.filter_discarded.increment(1),
            Err(Stop::Ours(_)) => {}
        }
        result
    }

    async fn filter_with(
        &mut self,
        guards: &mut Guards<R>,
        intake: &Intake<R>,
        id: QueueId,
    ) -> Result<Option<Box<Filtered>>, Stop> {
        if let Some(by) = &guards.discard {
            return Err(Stop::Discarded(id, by.options.name.clone()));
        }
        if let Some(lost) = guards.each.iter().find_map(|g| g.lost.clone()) {
            return Err(Stop::Refused(lost));
        }
        let asked = guards.each.iter().any(|g| g.asks);
        if !asked && guards.prepend.is_empty() && guards.hold.is_none() {
            return Ok(None);
        }
        let mut side = None;
        if self.body.has_side() {
            side = Some(self.body.finish_side(&self.buf).await.map_err(|e| match e {
                SideError::Full => Reply::NO_SPACE,
                SideError::Poisoned => Reply::STORAGE_FAILED,
            })?);
        }
        let limits = self.machine.limits();
        let ours = |_| Stop::Ours(Reply::LOCAL_ERROR);
        let mut draft = Draft::read(self, intake, side, limits.header).await.map_err(ours)?;
        draft.hold = guards.hold.take();
        for change in guards.prepend.drain(..) {
            // Checked when it came; of too many the last are left out.
            let _ = draft.header.change(&change, false);
        }
        for guard in guards.each.iter_mut().filter(|g| g.asks) {
            let answer = guard.message(self, (intake, id), &mut draft, limits.size, &mut guards.waste).await;
            let stop = match answer {
                Answer::Continue | Answer::Accept => continue,
                Answer::Refuse(rejection) => Stop::Refused(rejection),
                Answer::Discard => Stop::Discarded(id, guard.filter.options.name.clone()),
            };
            guards.waste.extend(draft.side());
            return Err(stop);
        }
        if let Some(envelope) = draft.envelope.take() {
            if envelope.count() == 0 {
                guards.waste.extend(draft.side());
                return Err(Stop::Discarded(id, "its recipients were all removed by filters".into()));
            }
            self.machine.replace_envelope(envelope);
        }
        let mut trace = self.trace().to_vec();
        let filtered = draft.finish(self, intake, &mut trace, &mut guards.waste).await.map_err(ours)?;
        self.set_trace(trace);
        Ok(Some(Box::new(filtered)))
    }
}

impl<R: Runtime> Guard<R> {
    /// Shows the message; makes the changes that the filter wants if it is good.
    async fn message(
        &mut self,
        talk: &Talk<'_, R>,
        (intake, id): (&Intake<R>, QueueId),
        draft: &mut Draft,
        size: u64,
        waste: &mut Vec<SideFile>,
    ) -> Answer {
        let until = talk.ctx.rt.now().after(self.filter.options.message);
        let result = if self.filter.options.kind == Kind::Rspamd {
            let asked = self.ask_rspamd(talk, (intake, id), draft, until).await;
            asked.map(|(answer, changes)| (answer, changes, None))
        } else {
            match self.show(talk, (intake, id), draft, until).await {
                Ok(Answer::Continue) => self.end(talk, id, size, until).await,
                other => other.map(|answer| (answer, Changes::default(), None)),
            }
        };
        let made = result.and_then(|(answer, changes, body)| {
            let side = body.as_ref().and_then(|b| b.side);
            if !matches!(answer, Answer::Continue | Answer::Accept) {
                waste.extend(side);
                return Ok(answer);
            }
            let (by, as_is) = (&self.filter.options.name, self.milter.keeps_space());
            let made = changes.make(draft, talk.machine.envelope(), as_is, by);
            let mut any = made.inspect_err(|_| waste.extend(side))?;
            if let Some(body) = body {
                any = true;
                waste.extend(draft.replace(body));
            }
            talk.ctx.metrics.filter_changed.increment(any.into());
            Ok(answer)
        });
        match made {
            Ok(answer) => {
                self.filter.works();
                answer
            }
            Err(trouble) => self.down(&trouble, talk),
        }
    }

    /// Shows header and body.
    async fn show(
        &mut self,
        talk: &Talk<'_, R>,
        (intake, id): (&Intake<R>, QueueId),
        draft: &Draft,
        until: Mono,
    ) -> Result<Answer, Trouble> {
        let id = id.text();
        let macros = [("i", &id[..])];
        let line = self.line.as_mut().ok_or(Trouble::Gone)?;
        let asked = self.milter.data(&macros, &mut line.out);
        let mut answer = self.answer_until(asked, self.soon(talk, until)).await?;
        for (name, value) in draft.header.seen() {
            if answer != Answer::Continue {
                return Ok(answer);
            }
            let line = self.line.as_mut().ok_or(Trouble::Gone)?;
            let asked = self.milter.header(name, value, &mut line.out);
            answer = self.answer_until(asked, self.soon(talk, until)).await?;
        }
        if answer == Answer::Continue {
            let line = self.line.as_mut().ok_or(Trouble::Gone)?;
            let asked = self.milter.end_of_header(&macros, &mut line.out);
            answer = self.answer_until(asked, self.soon(talk, until)).await?;
        }
        if answer != Answer::Continue || !self.milter.wants_body() {
            return Ok(answer);
        }
        let mut pieces = draft.body(talk, intake).await?;
        let mut chunk = Vec::with_capacity(wire::CHUNK);
        while let Some(piece) = pieces.next().await? {
            let mut rest = &piece[..];
            while !rest.is_empty() && answer == Answer::Continue && self.milter.wants_body() {
                let n = (wire::CHUNK - chunk.len()).min(rest.len());
                chunk.extend_from_slice(&rest[..n]);
                rest = &rest[n..];
                if chunk.len() == wire::CHUNK {
                    answer = self.chunk(&mut chunk, talk, until).await?;
                }
            }
            if answer != Answer::Continue || !self.milter.wants_body() {
                return Ok(answer);
            }
        }
        if chunk.is_empty() { Ok(answer) } else { self.chunk(&mut chunk, talk, until).await }
    }

    async fn chunk(
        &mut self,
        chunk: &mut Vec<u8>,
        talk: &Talk<'_, R>,
        until: Mono,
    ) -> Result<Answer, Trouble> {
        let line = self.line.as_mut().ok_or(Trouble::Gone)?;
        let asked = self.milter.body(chunk, &mut line.out);
        chunk.clear();
        self.answer_until(asked, self.soon(talk, until)).await
    }

    /// Ends the message, and hears what is to change and what becomes of it.
    async fn end(
        &mut self,
        talk: &Talk<'_, R>,
        id: QueueId,
        size: u64,
        until: Mono,
    ) -> Result<(Answer, Changes, Option<Replaced>), Trouble> {
        let id = id.text();
        let line = self.line.as_mut().ok_or(Trouble::Gone)?;
        self.milter.end_of_body(&[("i", &id[..])], &mut line.out);
        let (mut changes, mut body) = (Changes::default(), None::<Replacement<R>>);
        loop {
            let (used, step) = self.milter.receive(line.input())?;
            match step {
                Step::NeedInput => line.more(until).await?,
                Step::Answer(answer) => {
                    line.consume(used);
                    let body = match body {
                        Some(replacement) => Some(Replacement::finish(replacement).await?),
                        None => None,
                    };
                    return Ok((answer, changes, body));
                }
                Step::Body(piece) => {
                    let into = body.get_or_insert_with(|| Replacement::new(talk.ctx, size));
                    into.push(piece).await?;
                    line.consume(used);
                }
                step => {
                    changes.note(step)?;
                    line.consume(used);
                }
            }
        }
    }

    /// When the next answer must be there.
    fn soon(&self, talk: &Talk<'_, R>, until: Mono) -> Mono {
        until.min(talk.ctx.rt.now().after(self.filter.options.command))
    }
}

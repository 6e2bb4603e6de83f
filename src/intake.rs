//! L4: envelope and body in, `Committed` out: the only way in.
//!
//! SMTP, the command line, imports and notifications come through here. Aliases are expanded, the
//! whole message is staged as one record in the caller's first step (the slices may lie in a receive
//! buffer), and the answer comes when it is on stable storage. Back-pressure acts before that:
//! [`Intake::room`] holds a sender back for a bounded time, a full queue is an error at once. Whoever
//! stops waiting takes the message back: it is withdrawn by a later record, unless a crash comes first.

use crate::base::ids::{MessageId, QueueId};
use crate::base::time::Wall;
use crate::message::body::{BodyFacts, BodyFlags};
use crate::message::envelope::{Envelope, Notify, Recipient};
use crate::queue::desk::{Desk, NewMessage};
use crate::queue::index::Key;
use crate::queue::limits::Admission;
use crate::queue::record::{self, Effect, TEXT_MAX, USER_MAX};
use crate::queue::routing::{Plan, Routing, Target};
use crate::queue::state::{After, Answer};
use crate::runtime::Runtime;
use crate::storage::journal::StageError;
use crate::storage::keeper::ReadError;
use crate::storage::options::Urgency;
use crate::storage::side::{SideError, SideFile, SideReader, SideWriter};
use crate::storage::ticket::Committed;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

/// Recipients of a message that goes the short way into mailboxes.
const DIRECT_MAX: u32 = 100;

/// Where the body is.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// In memory: the pieces, in order.
    Slices(&'a [&'a [u8]]),
    /// In a finished side file.
    Side(SideFile),
}

/// A message that comes in.
#[derive(Clone, Copy, Debug)]
pub struct Submission<'a> {
    /// From [`Intake::next_id`]; the trace headers carry it.
    pub id: QueueId,
    /// When it arrived.
    pub arrival: Wall,
    /// Sender and recipients; at least one.
    pub envelope: &'a Envelope,
    /// Trace headers, each line ending in CRLF.
    pub trace: &'a [u8],
    /// The body, unstuffed, CRLF line ends.
    pub body: Body<'a>,
    /// Facts about the body (without the trace headers).
    pub facts: BodyFacts,
}

/// What else the queue is to know of a message that comes in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms<'a> {
    /// The login under which it was sent; empty: without one. At most [`USER_MAX`] bytes are kept.
    pub user: &'a [u8],
    /// It is taken and not sent before an operator releases it, also after a restart; and why. At most
    /// [`TEXT_MAX`] bytes of that are kept.
    pub hold: Option<&'a str>,
}

/// A message that is safe.
#[derive(Debug)]
pub struct Accepted {
    /// Its id.
    pub id: QueueId,
    /// The proof.
    pub ticket: Committed,
}

/// Why a message was not taken. Nothing is stored then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IntakeError {
    /// No space: 452 4.3.1.
    Full,
    /// Too much waits for the disk at this moment: [`Intake::room`], then try again; or 451 4.3.2.
    Busy,
    /// The journal is poisoned or being closed: 451 4.3.0, and close.
    Closed,
    /// The commit took too long: 451 4.3.0. The message is taken back.
    Late,
    /// Larger than a record can be: the body belongs into a side file.
    TooLarge,
    /// The aliases stand for nobody: 550 5.1.1.
    NoRecipients,
}

impl fmt::Display for IntakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IntakeError::Full => "no space for new mail",
            IntakeError::Busy => "the disk is busy",
            IntakeError::Closed => "no mail is taken any more",
            IntakeError::Late => "the commit took too long",
            IntakeError::TooLarge => "the message is too large for a record",
            IntakeError::NoRecipients => "the aliases stand for nobody",
        })
    }
}

impl std::error::Error for IntakeError {}

impl From<StageError> for IntakeError {
    fn from(e: StageError) -> Self {
        match e {
            StageError::Full => IntakeError::Full,
            StageError::Busy => IntakeError::Busy,
            StageError::Poisoned => IntakeError::Closed,
            StageError::TooLarge => IntakeError::TooLarge,
        }
    }
}

/// The way into the queue of this core. Cheap to clone.
pub struct Intake<R: Runtime> {
    desk: Desk<R>,
}

impl<R: Runtime> Clone for Intake<R> {
    fn clone(&self) -> Self {
        Intake { desk: self.desk.clone() }
    }
}

impl<R: Runtime> Intake<R> {
    /// The way into `desk`.
    #[must_use]
    pub fn new(desk: Desk<R>) -> Self {
        Intake { desk }
    }

    /// The id of a message that has arrived at `wall`: needed before it is staged, because its
    /// Received header names it. Best taken at the end of data: ids are then in order of staging.
    #[must_use]
    pub fn next_id(&self, wall: Wall) -> QueueId {
        self.desk.next_id(wall)
    }

    /// The most bytes that envelope, trace headers and body may have together to fit into a
    /// record; a longer body belongs into a side file.
    #[must_use]
    pub fn inline_max(&self, recipients: u32) -> usize {
        let reserved = record::HEAD_LEN + USER_MAX + crate::queue::desk::state_room(recipients);
        self.desk.0.payload_max.saturating_sub(reserved)
    }

    /// Begins a side file for a body that is too long for a record or comes too slowly. Without the
    /// submission that names it, it is removed: dropped unfinished, or at the next start.
    pub async fn create_side(&self) -> Result<SideWriter<R>, SideError> {
        self.desk.0.keeper.create_side().await
    }

    /// Waits until there is room for one more message, for a bounded time. To be called before a
    /// message is read. [`IntakeError::Full`] and [`IntakeError::Closed`] at once.
    pub async fn room(&self) -> Result<(), IntakeError> {
        match self.verdict() {
            Ok(Admission::Open) => return Ok(()),
            Ok(Admission::Full) => return Err(IntakeError::Full),
            Ok(Admission::Later) => {}
            Err(e) => return Err(e),
        }
        let inner = &self.desk.0;
        let until = inner.rt.now().after(inner.options.limits.hold_back);
        let mut sleep = pin!(inner.rt.sleep_until(until));
        poll_fn(|cx| match self.verdict() {
            Ok(Admission::Open) => Poll::Ready(Ok(())),
            Ok(Admission::Full) => Poll::Ready(Err(IntakeError::Full)),
            Err(e) => Poll::Ready(Err(e)),
            Ok(Admission::Later) => {
                inner.state.borrow_mut().crowd.join(cx);
                sleep.as_mut().poll(cx).map(Ok)
            }
        })
        .await
    }

    /// After [`IntakeError::Busy`]: waits until the disk has made progress, at most a second. The
    /// message can be staged again then; whoever has read it need not refuse it.
    pub async fn progress(&self) {
        let inner = &self.desk.0;
        let mut sleep = pin!(inner.rt.sleep_until(inner.rt.now().after(Duration::from_secs(1))));
        let seen = inner.state.borrow().batches;
        poll_fn(|cx| {
            let mut s = inner.state.borrow_mut();
            if s.batches != seen || s.dead {
                return Poll::Ready(());
            }
            s.crowd.join(cx);
            drop(s);
            sleep.as_mut().poll(cx)
        })
        .await;
    }

    fn verdict(&self) -> Result<Admission, IntakeError> {
        if self.desk.is_closed() { Err(IntakeError::Closed) } else { Ok(self.desk.admission()) }
    }

    /// Opens a side file that was finished, to read it from its start.
    pub async fn open_side(&self, side: SideFile) -> Result<SideReader<R>, ReadError> {
        self.desk.0.keeper.open_side(side).await
    }

    /// Removes a side file that was finished and that no submission will name.
    pub fn discard_side(&self, side: SideFile) {
        self.desk.0.keeper.discard_side(side);
    }

    /// Stages a message now; the answer comes from what is returned. One copy of the body, no
    /// allocation in steady state. Dropping the answer takes the message back.
    pub fn stage(&self, m: &Submission<'_>) -> Result<Submitted<R>, IntakeError> {
        self.stage_on(m, Terms::default())
    }

    /// As [`Self::stage`], on these terms.
    pub fn stage_on(&self, m: &Submission<'_>, terms: Terms<'_>) -> Result<Submitted<R>, IntakeError> {
        if self.verdict()? == Admission::Full {
            return Err(IntakeError::Full);
        }
        let (expanded, rewritten) = self.expand(m.envelope, m.arrival);
        let envelope = expanded.as_ref().unwrap_or(m.envelope);
        if envelope.count() == 0 {
            return Err(IntakeError::NoRecipients);
        }
        let (body, side) = match m.body {
            Body::Slices(slices) => (slices, 0),
            Body::Side(side) => (&[][..], side.name),
        };
        if let Body::Side(side) = m.body {
            assert!(side.name != 0 && side.len == m.facts.len, "the side file holds the body");
        }
        let new = NewMessage {
            id: m.id.message,
            arrival: m.arrival,
            envelope: envelope.bytes(),
            trace: m.trace,
            body,
            len: m.facts.len,
            side,
            flags: BodyFlags(m.facts.bits()),
            origin: MessageId(0),
            effect: Effect::None,
            reported: &[],
            marks: terms.hold.map_or(0, |_| record::HELD),
            user: &terms.user[..terms.user.len().min(USER_MAX)],
        };
        let mut s = self.desk.0.state.borrow_mut();
        let s = &mut *s;
        let slip = s.slips.take();
        match self.desk.stage_message(s, &new, Urgency::NewMail, Some(slip)) {
            Ok(key) => {
                self.desk.0.metrics.srs_rewritten.increment(rewritten.into());
                if let Some(why) = terms.hold {
                    // That it is held is in its own record; this one says why, and may come later.
                    let why = &why.as_bytes()[..why.len().min(TEXT_MAX)];
                    self.desk.note(s, record::HOLD, m.id.message, why, None, After::Nothing);
                }
                Ok(Submitted { desk: self.desk.clone(), id: m.id, key, slip: Some(slip) })
            }
            Err(e) => {
                s.slips.drop_slip(slip);
                Err(e.into())
            }
        }
    }

    /// Stages a message in the first poll and waits until it is on stable storage.
    pub async fn submit(&self, m: Submission<'_>) -> Result<Accepted, IntakeError> {
        self.stage(&m)?.await
    }

    /// The shard in which all recipients live, if the message need not be queued for them: none of them
    /// stands for others, nobody is to be told of success, and no operator keeps mail back.
    #[must_use]
    pub fn shard_of_all(&self, envelope: &Envelope) -> Option<u16> {
        let inner = &self.desk.0;
        if envelope.count() > DIRECT_MAX || !inner.state.borrow().rules.is_empty() {
            return None;
        }
        let routing = inner.routing.borrow().clone();
        let mut shard = None;
        for r in envelope.view().recipients() {
            let Plan::Relay(hop) = routing.plan(r.address) else { return None };
            let [Target::Mailbox(number)] = hop.targets[..] else { return None };
            if r.notify.has(Notify::SUCCESS) || *shard.get_or_insert(number) != number {
                return None;
            }
        }
        shard.filter(|_| self.expand(envelope, Wall(0)).0.is_none())
    }

    /// Some of it goes to other servers, by way of an alias or not.
    #[must_use]
    pub fn passes_on(&self, envelope: &Envelope) -> bool {
        let routing = self.desk.0.routing.borrow().clone();
        let leaves = |to: &[u8]| matches!(routing.plan(to), Plan::Relay(hop) if !hop.is_last());
        envelope.view().recipients().any(|r| {
            let mut any = false;
            if routing.expand(r.address, &mut |to| any |= leaves(to)) { any } else { leaves(r.address) }
        })
    }

    /// The envelope with sender and aliases replaced; `None` if all of it stands for itself. True: the
    /// sender is another one because the message is forwarded.
    fn expand(&self, envelope: &Envelope, now: Wall) -> (Option<Envelope>, bool) {
        let routing = self.desk.0.routing.borrow().clone();
        let other = routing.sender(envelope.view().sender()).map(|sender| from(envelope, &sender));
        let (recipients, sender) = expand_recipients(&*routing, other.as_ref().unwrap_or(envelope), now);
        let expanded = recipients.or(other);
        match (expanded, sender) {
            (Some(expanded), Some(sender)) => (Some(from(&expanded, &sender)), true),
            (expanded, _) => (expanded, false),
        }
    }
}

/// The same envelope from another sender.
fn from(envelope: &Envelope, sender: &[u8]) -> Envelope {
    let view = envelope.view();
    let mut out = Envelope::default();
    out.begin(sender, view.options(), view.envid());
    view.recipients().for_each(|r| out.push(r.address, r.notify, r.orcpt));
    out
}

/// `None` if every recipient stands for itself. And the sender of a message that is forwarded.
fn expand_recipients(
    routing: &dyn Routing,
    envelope: &Envelope,
    now: Wall,
) -> (Option<Envelope>, Option<Box<[u8]>>) {
    let view = envelope.view();
    let (mut out, mut sender): (Option<Envelope>, Option<Box<[u8]>>) = (None, None);
    for (i, mut r) in view.recipients().enumerate() {
        let sum = stands_for_several(&r, routing);
        if sum {
            // RFC 3461 §5.2.7.3: the sender is told that it was expanded, and of no success beyond.
            let left = r.notify.without(Notify::SUCCESS);
            r.notify = if left == Notify::DEFAULT { Notify::NEVER } else { left };
        }
        let push = |e: &mut Envelope, to: &[u8], r: &Recipient<'_>| {
            let same = |have: &Recipient<'_>| {
                have.address == to && have.notify.has(Notify::EXPANDED) == r.notify.has(Notify::EXPANDED)
            };
            if !e.view().recipients().any(|have| same(&have)) {
                e.push(to, r.notify, r.orcpt);
            }
        };
        let mut grown = out.take();
        if sum {
            let e = grown.get_or_insert_with(|| prefix(envelope, i));
            push(e, r.address, &Recipient { notify: Notify::EXPANDED, ..r });
        }
        let rewritten = routing.expand(r.address, &mut |to| {
            let e = grown.get_or_insert_with(|| prefix(envelope, i));
            push(e, to, &r);
            if sender.is_none() {
                sender = routing.forwarded(view.sender(), to, now);
            }
        });
        out = match (grown, rewritten) {
            (Some(mut e), false) => {
                push(&mut e, r.address, &r);
                Some(e)
            }
            (None, true) => Some(prefix(envelope, i)),
            (grown, _) => grown,
        };
    }
    (out, sender)
}

/// True if the recipient is replaced by several, and its sender wants to be told of success.
fn stands_for_several(r: &Recipient<'_>, routing: &dyn Routing) -> bool {
    let mut count = 0;
    r.notify.has(Notify::SUCCESS) && routing.expand(r.address, &mut |_| count += 1) && count > 1
}

/// The first `count` recipients of `envelope`.
fn prefix(envelope: &Envelope, count: usize) -> Envelope {
    let view = envelope.view();
    let mut out = Envelope::default();
    out.begin(view.sender(), view.options(), view.envid());
    view.recipients().take(count).for_each(|r| out.push(r.address, r.notify, r.orcpt));
    out
}

/// A staged message: a future that ends when it is safe, or will not be.
#[must_use = "dropping it takes the message back"]
pub struct Submitted<R: Runtime> {
    desk: Desk<R>,
    id: QueueId,
    key: Key,
    slip: Option<usize>,
}

impl<R: Runtime> Future for Submitted<R> {
    type Output = Result<Accepted, IntakeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let slip = self.slip.expect("not polled after the end");
        let Poll::Ready(answer) = self.desk.0.state.borrow_mut().slips.poll(slip, cx) else {
            return Poll::Pending;
        };
        self.slip = None;
        Poll::Ready(match answer {
            Answer::Committed(ticket) => Ok(Accepted { id: self.id, ticket }),
            Answer::Failed => Err(IntakeError::Closed),
            Answer::Late => Err(IntakeError::Late),
        })
    }
}

impl<R: Runtime> Drop for Submitted<R> {
    fn drop(&mut self) {
        let Some(slip) = self.slip else { return };
        let mut s = self.desk.0.state.borrow_mut();
        if !s.slips.drop_slip(slip) {
            s.index.change(self.key, |e| e.switches.withdrawn = true);
        }
    }
}

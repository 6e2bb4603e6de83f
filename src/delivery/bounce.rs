//! L4: notifications: who is told what, rendered and put into the queue.
//!
//! Knows RFC 3461's rules about who may be told; the text is `message::dsn`'s, durability the desk's.
//! A notification goes from the null sender to the sender, never to the null sender and never in answer to
//! an automatic answer: what cannot be told to the sender goes to the postmaster once, or to nobody, and is
//! counted. While the sender's next hop is away nothing is rendered. What cannot be queued now (no space)
//! stays owed in the journal and is tried again. Failures of one message that are known at the same time
//! are one report; one that a record does not hold is split.

use crate::base::aligned::SharedBytes;
use crate::base::time::Wall;
use crate::message::body::BodyFlags;
use crate::message::dsn::{self, Action, Original, RecipientReport};
use crate::message::envelope::{BodyKind, Envelope, Notify, Recipient, Ret, SenderOptions};
use crate::message::headers;
use crate::queue::desk::{Desk, DoubleBounce, NewMessage};
use crate::queue::record::{self, Effect, MessageView};
use crate::queue::state::{Notice, Report};
use crate::runtime::Runtime;
use crate::storage::journal::StageError;
use crate::storage::side::SideFile;
use std::time::Duration;

/// How long a notification that could not be made or queued waits for another try.
const OWED_RETRY: Duration = Duration::from_secs(60);
/// The longest wait for a sender whose next hop is away.
const AWAY_MAX: Duration = Duration::from_secs(3600);

/// Starts the task that makes the notifications of `desk`.
pub fn start<R: Runtime>(desk: &Desk<R>) {
    let desk = desk.clone();
    desk.runtime().clone().spawn(async move {
        while let Some(notice) = desk.next_notice().await {
            let telling = Telling { desk: desk.clone(), notice, made: false };
            // A task of its own: what one message does to the renderer is no other's harm.
            desk.runtime().spawn(telling.tell());
        }
    });
}

/// A notification being made. If that panics, it stays owed.
struct Telling<R: Runtime> {
    desk: Desk<R>,
    notice: Notice,
    made: bool,
}

impl<R: Runtime> Telling<R> {
    async fn tell(mut self) {
        if let Err(Later(wait)) = make(&self.desk, &self.notice).await {
            self.desk.owe(&self.notice, wait);
        }
        self.made = true;
    }
}

impl<R: Runtime> Drop for Telling<R> {
    fn drop(&mut self) {
        if !self.made {
            self.desk.owe(&self.notice, Some(OWED_RETRY));
        }
        self.desk.told();
    }
}

/// It stays owed; it is looked at again after this time, or when there is a reason to.
struct Later(Option<Duration>);

/// Who is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Sender,
    Postmaster,
    Nobody,
}

async fn make<R: Runtime>(desk: &Desk<R>, notice: &Notice) -> Result<(), Later> {
    let unreadable = Later(Some(OWED_RETRY));
    let Some(payload) = body(desk, notice).await else { return Err(unreadable) };
    let Ok(view) = MessageView::parse(&payload) else { return Err(unreadable) };
    let Some(reports) = desk.reports(notice).await else { return Err(unreadable) };
    let message = original(desk, &view, &payload).await;
    if !desk.is_wanted(notice) {
        // Removed by an operator meanwhile, or held.
        return Err(Later(None));
    }
    let recipients: Vec<_> = view.envelope.recipients().collect();
    // The sender of what was forwarded stands for another, who is told.
    let behind = desk.returned(view.envelope.sender());
    let sender = behind.as_deref().unwrap_or(view.envelope.sender());
    let to = addressee(desk, notice, (&view, sender), &recipients, &reports, &message)?;
    let wants = |r: &&Report| to != To::Nobody && is_wanted(notice.effect, &view, &recipients, r);
    let (told, silent): (Vec<&Report>, Vec<&Report>) = reports.iter().partition(wants);
    if !silent.is_empty() {
        desk.notified(notice, silent.iter().map(|r| r.index));
    }
    let address = if to == To::Postmaster { desk.postmaster().as_bytes() } else { sender };
    let is_double = address != sender;
    let telling = Facts { desk, notice, view: &view, recipients: &recipients, to: address, is_double };
    telling.submit_all(&told, &message)?;
    let m = desk.metrics();
    match to {
        To::Postmaster => m.dsn_postmaster.increment(told.len() as u64),
        To::Nobody if notice.effect == Effect::Failed => m.dsn_dropped.increment(silent.len() as u64),
        _ => {}
    }
    Ok(())
}

async fn body<R: Runtime>(desk: &Desk<R>, notice: &Notice) -> Option<SharedBytes> {
    match &notice.payload {
        Some(payload) => Some(payload.clone()),
        None => desk.read_back(notice.key).await,
    }
}

/// Who is to be told, if that can be done now.
fn addressee<R: Runtime>(
    desk: &Desk<R>,
    notice: &Notice,
    (view, sender): (&MessageView<'_>, &[u8]),
    recipients: &[Recipient<'_>],
    reports: &[Report],
    message: &[u8],
) -> Result<To, Later> {
    let double = view.head.flags & record::DOUBLE_BOUNCE != 0;
    let may = notice.effect == Effect::Failed && !double && !desk.postmaster().is_empty();
    let instead = match desk.double_bounce() {
        DoubleBounce::Postmaster if may => To::Postmaster,
        _ => To::Nobody,
    };
    // RFC 5321 §6.1: never to the null sender.
    if sender.is_empty() {
        return Ok(instead);
    }
    // RFC 3834 §2: an answer to an automatic answer may have another, and so on. Who asks by NOTIFY gets it.
    let asked = |r: &Report| recipients.get(r.index as usize).is_some_and(|r| r.notify != Notify::DEFAULT);
    if is_automatic_answer(message) && !reports.iter().any(asked) {
        return Ok(instead);
    }
    if !desk.is_away(sender) {
        return Ok(To::Sender);
    }
    if !desk.is_over(notice, view.head.arrival) {
        let since = reports.iter().map(|r| r.reply.at).min().unwrap_or(Wall(0));
        let wait = (desk.runtime().wall().since(since) / 4).clamp(OWED_RETRY, AWAY_MAX);
        // Spread, so that what was owed together is not looked at together for ever.
        let spread = desk.runtime().random() % (wait.as_millis() as u64 / 4);
        return Err(Later(Some(wait + Duration::from_millis(spread))));
    }
    Ok(instead)
}

/// True if the message was written by a program in answer to another, as its header says (RFC 3834 §5.1), or
/// is itself a report.
fn is_automatic_answer(message: &[u8]) -> bool {
    let starts = |name: &str, with: &str| {
        headers::find(message, name).is_some_and(|f| {
            let value = f.value.trim_ascii_start();
            value.get(..with.len()).is_some_and(|v| v.eq_ignore_ascii_case(with.as_bytes()))
        })
    };
    starts("Auto-Submitted", "auto-replied") || starts("Content-Type", "multipart/report")
}

/// True if somebody wants to know (RFC 3461 §4.1).
fn is_wanted(effect: Effect, view: &MessageView<'_>, recipients: &[Recipient<'_>], r: &Report) -> bool {
    let Some(to_whom) = recipients.get(r.index as usize) else { return false };
    let notify = to_whom.notify;
    match effect {
        // The postmaster is told of lost notifications whatever NOTIFY says of their sender.
        Effect::Failed => notify.on_failure() || view.envelope.sender().is_empty(),
        Effect::Warned => notify == Notify::DEFAULT || notify.has(Notify::DELAY),
        Effect::Delivered => notify.has(Notify::SUCCESS) || notify.has(Notify::EXPANDED),
        Effect::None => false,
    }
}

/// The first bytes of the message, as much as a report may carry.
async fn original<R: Runtime>(desk: &Desk<R>, view: &MessageView<'_>, payload: &SharedBytes) -> Vec<u8> {
    let most = desk.bounce_size().max(dsn::HEADER_MAX);
    let content = &payload[view.content_at.0..view.content_at.1];
    let mut out = content[..content.len().min(most)].to_vec();
    if view.head.side != 0 {
        let len = view.head.size - u64::from(view.head.trace_len);
        if let Ok(mut reader) = desk.open_side(SideFile { name: view.head.side, len }).await {
            while out.len() < most {
                let Ok(Some(piece)) = reader.next().await else { break };
                out.extend_from_slice(&piece);
            }
            out.truncate(most);
        }
    }
    out
}

/// All that the reports of one notice have in common.
struct Facts<'a, R: Runtime> {
    desk: &'a Desk<R>,
    notice: &'a Notice,
    view: &'a MessageView<'a>,
    recipients: &'a [Recipient<'a>],
    to: &'a [u8],
    /// Somebody else is told than the sender.
    is_double: bool,
}

impl<R: Runtime> Facts<'_, R> {
    /// One report of all, or as many as it takes for each to fit into a record.
    fn submit_all(&self, told: &[&Report], message: &[u8]) -> Result<(), Later> {
        let ret = match self.notice.effect {
            Effect::Failed => self.view.envelope.options().ret,
            // RFC 3461 §6.1: RET applies to failures.
            _ => Some(Ret::Headers),
        };
        let most = self.desk.bounce_size();
        let mut returned = Original::choose(ret, message, self.view.head.size, most);
        let mut rest = told;
        while !rest.is_empty() {
            let mut count = rest.len();
            loop {
                match self.submit(&rest[..count], returned) {
                    Ok(()) => break,
                    // More than a record holds.
                    Err(StageError::TooLarge) if returned.is_full() => returned = Original::header(message),
                    Err(StageError::TooLarge) if count > 1 => count /= 2,
                    Err(StageError::TooLarge) if !returned.is_empty() => returned = Original::Headers(b""),
                    // Who waits for the end of a poisoned journal waits for a restart.
                    Err(_) => return Err(Later(Some(OWED_RETRY))),
                }
            }
            let (done, more) = rest.split_at(count);
            self.desk.notified(self.notice, done.iter().map(|r| r.index));
            rest = more;
        }
        Ok(())
    }

    fn submit(&self, told: &[&Report], original: Original<'_>) -> Result<(), StageError> {
        let Facts { desk, notice, view, to, .. } = self;
        let now = desk.runtime().wall();
        let id = desk.next_id(now);
        // RFC 6533 §4: a sender with an ASCII address may be behind servers that know nothing else.
        let utf8 = !to.is_ascii();
        let until = view.head.arrival.after(desk.lifetime(view.envelope.sender().is_empty()));
        let reports: Vec<RecipientReport<'_>> =
            told.iter().map(|r| self.recipient_report(r, (now, until))).collect();
        let mut text = Vec::with_capacity(4096);
        let report = dsn::Report {
            host: desk.hostname(),
            id,
            original_id: desk.queue_id(notice.id),
            now,
            arrival: view.head.arrival,
            sender: to,
            envid: view.envelope.envid(),
            utf8,
            recipients: &reports,
            original,
            international: view.envelope.options().smtputf8,
        };
        dsn::write(&report, &mut text);
        let flags = facts(&text);
        let mut envelope = Envelope::default();
        let body = if flags.eight_bit() { BodyKind::EightBitMime } else { BodyKind::SevenBit };
        envelope.begin(b"", SenderOptions { body, smtputf8: utf8, ret: None }, b"");
        envelope.push(to, Notify::NEVER, b"");
        let reported: Vec<u32> = told.iter().map(|r| r.index).collect();
        let message = NewMessage {
            id: id.message,
            arrival: now,
            envelope: envelope.bytes(),
            trace: b"",
            body: &[&text],
            len: text.len() as u64,
            side: 0,
            flags,
            origin: notice.id,
            effect: notice.effect,
            reported: &reported,
            // What the postmaster does not get is told to nobody.
            marks: if self.is_double { record::DOUBLE_BOUNCE } else { 0 },
            user: b"",
        };
        desk.submit_notification(&message)?;
        desk.record_report(&message);
        if notice.effect == Effect::Warned {
            desk.record_delayed(notice, view, told);
        }
        Ok(())
    }

    fn recipient_report<'r>(&'r self, r: &'r Report, (now, until): (Wall, Wall)) -> RecipientReport<'r> {
        let to = &self.recipients[r.index as usize];
        let reply = &r.reply;
        let action = match self.notice.effect {
            Effect::Warned => Action::Delayed,
            Effect::Delivered if to.notify.has(Notify::EXPANDED) => Action::Expanded,
            // RFC 3464 §2.3.3: of what is in the mailbox, "relayed" would say too little.
            Effect::Delivered if self.desk.is_last(to.address) => Action::Delivered,
            Effect::Delivered => Action::Relayed,
            Effect::Failed | Effect::None => Action::Failed,
        };
        let enhanced = (reply.enhanced != [0; 3]).then_some(reply.enhanced);
        // RFC 3463 §3.5: a 4yz that became final means that the time is over. The diagnostic stays what
        // the other side has said.
        let expired = action == Action::Failed && reply.code / 100 == 4;
        RecipientReport {
            address: to.address,
            orcpt: to.orcpt,
            action,
            status: if expired { [5, 4, 7] } else { dsn::status(action, reply.code, enhanced) },
            remote_mta: std::str::from_utf8(&reply.server).ok().filter(|s| reply.code > 0 && !s.is_empty()),
            code: reply.code,
            enhanced,
            text: &reply.text,
            last_attempt: Some(if reply.at > Wall(0) { reply.at } else { now }),
            retry_until: (action == Action::Delayed).then_some(until),
        }
    }
}

/// The flags of a report's text.
fn facts(text: &[u8]) -> BodyFlags {
    let dots = text.split(|&b| b == b'\n').any(|l| l.first() == Some(&b'.'));
    let eight_bit = !text.is_ascii();
    let end = text.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(text.len());
    let header = !text[..end].is_ascii();
    let long = text.split(|&b| b == b'\n').any(|l| l.len() > 999);
    BodyFlags(u8::from(dots) | u8::from(eight_bit) << 1 | u8::from(header) << 2 | u8::from(long) << 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn automatic_answers_are_known_by_their_header() {
        for (header, answer) in [
            ("Auto-Submitted: auto-replied", true),
            ("auto-submitted:Auto-Replied (vacation)", true),
            ("Content-Type: multipart/report; report-type=delivery-status", true),
            ("Auto-Submitted: auto-generated", false),
            ("Auto-Submitted: no", false),
            ("Content-Type: multipart/mixed", false),
            ("Subject: x\r\n\r\nAuto-Submitted: auto-replied", false),
        ] {
            assert_eq!(
                is_automatic_answer(format!("A: b\r\n{header}\r\n\r\nx\r\n").as_bytes()),
                answer,
                "{header}"
            );
        }
    }
}

//! L4: notifications: who is told what, rendered and put into the queue.
//!
//! Knows RFC 3461's rules about who may be told; the text is `message::dsn`'s, durability the desk's.
//! A notification goes from the null sender to the sender, never to the null sender: what
//! such a message cannot deliver goes to the postmaster once, or to nobody. One that cannot be queued
//! now (no space) stays owed in the journal and is tried again.

use crate::base::aligned::SharedBytes;
use crate::base::time::Wall;
use crate::message::body::BodyFlags;
use crate::message::dsn::{self, Action, Original, RecipientReport};
use crate::message::envelope::{BodyKind, Envelope, Notify, Ret, SenderOptions};
use crate::queue::desk::{Desk, DoubleBounce, NewMessage};
use crate::queue::record::{self, Effect, Fate, MessageView};
use crate::queue::state::{Notice, OwnedReply, Report};
use crate::runtime::Runtime;
use crate::storage::journal::StageError;
use crate::storage::side::SideFile;
use std::time::Duration;

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
        make(&self.desk, &mut self.notice).await;
        self.made = true;
    }
}

impl<R: Runtime> Drop for Telling<R> {
    fn drop(&mut self) {
        if !self.made {
            self.desk.owe(&self.notice);
        }
        self.desk.told();
    }
}

async fn make<R: Runtime>(desk: &Desk<R>, notice: &mut Notice) {
    let Some(payload) = body(desk, notice).await else {
        return desk.owe(notice);
    };
    let Ok(view) = MessageView::parse(&payload) else {
        return desk.owe(notice);
    };
    if notice.effect == Effect::Failed && notice.reports.is_empty() {
        notice.reports = desk.owed_reports(notice.key).await;
    }
    let sender = view.envelope.sender();
    let double = view.head.flags & record::DOUBLE_BOUNCE != 0;
    // RFC 5321 §6.1: never to the null sender.
    let to: &[u8] = match (sender.is_empty(), notice.effect) {
        (false, _) => sender,
        (true, Effect::Failed) if !double && desk.double_bounce() == DoubleBounce::Postmaster => {
            desk.postmaster().as_bytes()
        }
        (true, _) => b"",
    };
    let wanted = wanted(&view, notice, to);
    let done = if wanted.is_empty() || to.is_empty() {
        Ok(())
    } else {
        let original = original(desk, &view, &payload).await;
        if notice.effect == Effect::Failed && !desk.is_owed(notice.key) {
            // Removed by an operator meanwhile.
            return;
        }
        let ret = match notice.effect {
            Effect::Failed => view.envelope.options().ret,
            // RFC 3461 §6.1: RET applies to failures.
            _ => Some(Ret::Headers),
        };
        let returned = Original::choose(ret, &original, view.head.size, desk.bounce_size());
        match submit(desk, notice, &view, &wanted, to, returned) {
            // More than a record holds.
            Err(StageError::TooLarge) => {
                submit(desk, notice, &view, &wanted, to, Original::header(&original))
            }
            done => done,
        }
    };
    match done {
        Ok(()) => desk.notified(notice, Fate::Failed),
        Err(StageError::Poisoned) => {}
        Err(_) => desk.owe(notice),
    }
}

async fn body<R: Runtime>(desk: &Desk<R>, notice: &Notice) -> Option<SharedBytes> {
    match &notice.payload {
        Some(payload) => Some(payload.clone()),
        None => desk.read_back(notice.key).await,
    }
}

/// The reports that somebody wants (RFC 3461 §4.1).
fn wanted<'a>(view: &MessageView<'_>, notice: &'a Notice, to: &[u8]) -> Vec<&'a Report> {
    let recipients: Vec<_> = view.envelope.recipients().collect();
    let wants = |r: &&Report| {
        let Some(to_whom) = recipients.get(r.index as usize) else { return false };
        match notice.effect {
            // The postmaster is told of lost notifications whatever NOTIFY says of their sender.
            Effect::Failed => to_whom.notify.on_failure() || view.envelope.sender().is_empty(),
            Effect::Warned => to_whom.notify == Notify::DEFAULT || to_whom.notify.has(Notify::DELAY),
            Effect::Delivered => to_whom.notify.has(Notify::SUCCESS),
            Effect::None => false,
        }
    };
    if to.is_empty() { Vec::new() } else { notice.reports.iter().filter(wants).collect() }
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

fn submit<R: Runtime>(
    desk: &Desk<R>,
    notice: &Notice,
    view: &MessageView<'_>,
    wanted: &[&Report],
    to: &[u8],
    original: Original<'_>,
) -> Result<(), StageError> {
    let now = desk.runtime().wall();
    let id = desk.next_id(now);
    let options = view.envelope.options();
    let utf8 = options.smtputf8;
    let recipients: Vec<_> = view.envelope.recipients().collect();
    let action = match notice.effect {
        Effect::Warned => Action::Delayed,
        Effect::Delivered => Action::Relayed,
        Effect::Failed | Effect::None => Action::Failed,
    };
    let until = view.head.arrival.after(desk.lifetime(view.envelope.sender().is_empty()));
    // The key of a domain's mail exchangers names none of them.
    let remote = notice.hop.as_ref().map(|h| h.key.as_str()).filter(|key| !key.starts_with("mx:"));
    let reports: Vec<RecipientReport<'_>> = wanted
        .iter()
        .map(|r| {
            let to = &recipients[r.index as usize];
            recipient_report(to.address, to.orcpt, &r.reply, action, (now, until), remote)
        })
        .collect();
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
    };
    dsn::write(&report, &mut text);
    let flags = facts(&text);
    let mut envelope = Envelope::default();
    let body = if flags.eight_bit() { BodyKind::EightBitMime } else { BodyKind::SevenBit };
    envelope.begin(b"", SenderOptions { body, smtputf8: utf8, ret: None }, b"");
    envelope.push(to, Notify::NEVER, b"");
    let reported: Vec<u32> = notice.reports.iter().map(|r| r.index).collect();
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
        marks: if view.envelope.sender().is_empty() { record::DOUBLE_BOUNCE } else { 0 },
    };
    desk.submit_notification(&message)
}

fn recipient_report<'a>(
    address: &'a [u8],
    orcpt: &'a [u8],
    reply: &'a OwnedReply,
    action: Action,
    (now, until): (Wall, Wall),
    remote: Option<&'a str>,
) -> RecipientReport<'a> {
    let enhanced = (reply.enhanced != [0; 3]).then_some(reply.enhanced);
    // RFC 3463 §3.5: a 4yz that became final means that the time is over. The diagnostic stays what
    // the other side has said.
    let expired = action == Action::Failed && reply.code / 100 == 4;
    let status = if expired { [5, 4, 7] } else { dsn::status(action, reply.code, enhanced) };
    RecipientReport {
        address,
        orcpt,
        action,
        status,
        remote_mta: remote.filter(|_| reply.code > 0),
        code: reply.code,
        enhanced,
        text: &reply.text,
        last_attempt: Some(now),
        retry_until: (action == Action::Delayed).then_some(until),
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

/// How long a notification that could not be queued waits for another try.
pub(crate) const OWED_RETRY: Duration = Duration::from_secs(60);

//! L4: the short way into mailboxes: the client waits for the commit of the shard, and nothing is queued.
//!
//! For a message in memory whose recipients all live in one shard ([`Intake::shard_of_all`]). Its journal is
//! written once then instead of twice, and mail is in the mailbox when it is acknowledged. What the shard
//! refuses, for now or for ever, is for the queue: it tries again, or tells the sender. Must not know
//! sessions. Whoever stops waiting takes nothing back.
//!
//! [`Intake::shard_of_all`]: crate::intake::Intake::shard_of_all

use crate::delivery::post::{Addressee, Letter, Parcel, Post, Resident};
use crate::intake::{Body, Submission};
use crate::message::body::BodyFlags;
use crate::message::envelope::{Envelope, Recipient};
use crate::storage::ticket::Committed;

/// Longest message, in bytes; a longer one would be in memory twice for too long.
pub const SIZE_MAX: usize = 1 << 20;

/// What has become of it.
#[derive(Debug)]
pub enum Handed {
    /// All have it.
    All(Committed),
    /// These do not have it yet; the others do.
    Some(Envelope),
    /// Nobody has it.
    None,
}

/// Hands `m` over.
pub async fn deliver(post: &dyn Post, m: &Submission<'_>) -> Handed {
    let Body::Slices(slices) = m.body else { return Handed::None };
    let view = m.envelope.view();
    let recipients: Vec<Recipient<'_>> = view.recipients().collect();
    // Users may have changed since RCPT.
    let residents: Option<Vec<Resident>> = recipients.iter().map(|r| post.resident(r.address)).collect();
    let Some(residents) = residents else { return Handed::None };
    let mut bytes = Vec::with_capacity(m.trace.len() + slices.iter().map(|s| s.len()).sum::<usize>());
    bytes.extend_from_slice(m.trace);
    slices.iter().for_each(|s| bytes.extend_from_slice(s));
    let addressee = |(r, resident): (&Recipient<'_>, Resident)| Addressee {
        resident,
        address: r.address.into(),
        id: None,
        // RCPT has been answered with yes.
        promised: true,
    };
    let parcel = Parcel {
        sender: view.sender().into(),
        arrival: m.arrival,
        letter: Letter::Memory(bytes),
        flags: BodyFlags(m.facts.bits()),
        to: recipients.iter().zip(residents).map(addressee).collect(),
    };
    let outcomes = post.deliver(parcel).await;
    let mut proof = None;
    let mut rest: Vec<&Recipient<'_>> = Vec::new();
    let mut outcomes = outcomes.into_iter();
    for r in &recipients {
        match outcomes.next() {
            Some(Ok(delivered)) => proof = Some(delivered.ticket),
            Some(Err(_)) | None => rest.push(r),
        }
    }
    match proof {
        None => Handed::None,
        Some(proof) if rest.is_empty() => Handed::All(proof),
        Some(_) => {
            let mut envelope = Envelope::default();
            envelope.begin(view.sender(), view.options(), view.envid());
            rest.iter().for_each(|r| envelope.push(r.address, r.notify, r.orcpt));
            Handed::Some(envelope)
        }
    }
}

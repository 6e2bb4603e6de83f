//! The message: DATA and BDAT (RFC 5321 §4.1.1.4, RFC 3030).
//!
//! A message that is refused while it arrives is read to its end and dropped, so that its bytes are
//! never taken for commands; the refusal is the reply to its end.

use super::{Ended, Options, Session, State, Step};
use crate::base::time::Mono;
use crate::smtp::data::{Body, Piece};
use crate::smtp::reply::{Reply, put_chunk_taken};
use std::time::Duration;

/// A message that is being received.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    body: Body,
    /// Refused for another reason than its bytes.
    refusal: Option<Reply>,
    started: Mono,
    /// Bytes dropped of chunks, besides those that `body` has dropped.
    dropped: u64,
    /// The shell holds a part of the message.
    shown: bool,
}

/// A BDAT chunk that is being received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    len: u64,
    remaining: u64,
    last: bool,
}

impl Transfer {
    fn new(now: Mono, options: &Options, refusal: Option<Reply>) -> Self {
        Transfer { body: Body::new(options.message), refusal, started: now, dropped: 0, shown: false }
    }

    fn refusal(&self) -> Option<Reply> {
        self.refusal.or_else(|| self.body.fault().map(|fault| fault.reply()))
    }

    pub(super) fn shown(&self) -> bool {
        self.shown
    }

    pub(super) fn excuse(&mut self, time: Duration) {
        self.started = self.started.after(time);
    }

    fn dropped(&self) -> u64 {
        self.dropped.saturating_add(self.body.dropped())
    }

    /// When a message at the least permitted rate would have come so far (attack: slow sender).
    pub(super) fn deadline(&self, options: &Options) -> Mono {
        if options.data_rate == 0 {
            return Mono(u64::MAX);
        }
        let received = self.body.len().saturating_add(self.dropped);
        let at_rate = Duration::from_secs(received / options.data_rate);
        self.started.after(options.data_time).after(at_rate)
    }

    /// The step for bytes of the message, unless it is refused: then the shell forgets it, once.
    fn show(&mut self, step: Step) -> Option<Step> {
        if self.refusal().is_none() {
            self.shown = true;
            return Some(step);
        }
        self.forget()
    }

    fn forget(&mut self) -> Option<Step> {
        std::mem::take(&mut self.shown).then_some(Step::Abandoned)
    }
}

impl Session {
    /// Why no message can come now, if so.
    fn no_message_now(&self) -> Option<Reply> {
        match &self.transaction {
            None => Some(Reply::NEED_MAIL),
            Some(_) if self.envelope.count() > 0 => None,
            // RFC 2033 §4.2: with LMTP it is always 503.
            Some(t) if t.refused_any && !self.is_lmtp => Some(Reply::NO_VALID_RECIPIENTS),
            Some(_) => Some(Reply::NEED_RCPT),
        }
    }

    pub(super) fn begin_data(&mut self, now: Mono, out: &mut Vec<u8>) -> Option<Step> {
        if self.transfer.is_some() {
            return self.error(now, Reply::WITHIN_CHUNKS, out);
        }
        if let Some(reply) = self.no_message_now() {
            return self.error(now, reply, out);
        }
        self.transfer = Some(Transfer::new(now, &self.options, None));
        self.state = State::Data;
        Reply::SEND_DATA.put(out);
        None
    }

    pub(super) fn begin_chunk(&mut self, now: Mono, len: u64, last: bool, out: &mut Vec<u8>) -> Option<Step> {
        if self.transfer.is_none() {
            // RFC 3030 §2: the octets follow the command whatever the reply will be.
            let refusal = self.no_message_now();
            self.transfer = Some(Transfer::new(now, &self.options, refusal));
        }
        let transfer = self.transfer.as_mut().expect("made above");
        let limit = self.options.message.size;
        if limit != 0 && transfer.body.len().saturating_add(len) > limit {
            transfer.body.refuse_size();
        }
        if transfer.refusal().is_some() && transfer.dropped().saturating_add(len) > self.options.drop_max {
            return Some(self.close(Reply::ENDLESS_MESSAGE, out));
        }
        self.state = State::Chunk(Chunk { len, remaining: len, last });
        None
    }

    /// Within DATA.
    pub(super) fn data(&mut self, now: Mono, rest: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        let transfer = self.transfer.as_mut().expect("DATA has a transfer");
        let (used, piece) = transfer.body.data(rest);
        if used > 0 {
            self.since = now;
        }
        let step = match piece {
            Piece::Run(run) => transfer.show(Step::Body(run)),
            Piece::Insert(bytes) => transfer.show(Step::BodyStatic(bytes)),
            Piece::More => Some(Step::NeedInput),
            Piece::End => self.end_of_message(now, true, out),
        };
        if self.transfer.as_ref().is_some_and(|t| t.dropped() > self.options.drop_max) {
            return (used, Some(self.close(Reply::ENDLESS_MESSAGE, out)));
        }
        (used, step)
    }

    /// Within a chunk.
    pub(super) fn chunk(&mut self, now: Mono, rest: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        let State::Chunk(mut chunk) = self.state else { unreachable!("called in this state only") };
        let transfer = self.transfer.as_mut().expect("a chunk has a transfer");
        if chunk.remaining == 0 {
            return (0, self.end_of_chunk(now, chunk, out));
        }
        let (used, step) = if transfer.refusal().is_some() {
            let used = usize::try_from(chunk.remaining).map_or(rest.len(), |r| r.min(rest.len()));
            transfer.dropped += used as u64;
            (used, transfer.forget().or((used == 0).then_some(Step::NeedInput)))
        } else {
            let (used, piece) = transfer.body.chunk(rest, chunk.remaining);
            let step = match piece {
                Piece::Run(run) => transfer.show(Step::Body(run)),
                Piece::Insert(bytes) => transfer.show(Step::BodyStatic(bytes)),
                // The last octet of a chunk may have been taken without a piece.
                Piece::More if used > 0 => None,
                Piece::More | Piece::End => Some(Step::NeedInput),
            };
            (used, step)
        };
        if used > 0 {
            self.since = now;
        }
        chunk.remaining -= used as u64;
        self.state = State::Chunk(chunk);
        (used, step)
    }

    fn end_of_chunk(&mut self, now: Mono, chunk: Chunk, out: &mut Vec<u8>) -> Option<Step> {
        let transfer = self.transfer.as_mut().expect("a chunk has a transfer");
        if chunk.last && transfer.refusal().is_none() {
            match transfer.body.end_chunks() {
                // What the end needs is shown first; then this is called again.
                Some(Piece::Insert(bytes)) => return transfer.show(Step::BodyStatic(bytes)),
                _ => return self.end_of_message(now, true, out),
            }
        }
        if transfer.refusal().is_some() {
            return self.end_of_message(now, chunk.last, out);
        }
        put_chunk_taken(out, chunk.len);
        self.state = State::Command;
        None
    }

    /// The message is complete, or the part of it that was refused; `last`: nothing of it comes after.
    fn end_of_message(&mut self, now: Mono, last: bool, out: &mut Vec<u8>) -> Option<Step> {
        let transfer = self.transfer.as_mut().expect("a message has a transfer");
        let Some(reply) = transfer.refusal() else {
            self.state = State::Ended(Ended { facts: transfer.body.facts() });
            return Some(Step::EndOfMessage);
        };
        self.state = State::Command;
        if self.is_lmtp && last {
            self.repeat_for_recipients(reply, out);
        }
        // The transaction is over; chunks that still come find none (RFC 3030 §2).
        let abandoned = self.reset().then_some(Step::Abandoned);
        self.error(now, reply, out);
        abandoned
    }
}

//! Messages by BDAT (RFC 3030).
//!
//! Owns how far a chunk has come. The bytes of a chunk that finds no transaction are read and thrown
//! away before its reply, as the RFC demands: they are no commands.

use super::{After, Session, Taker, pause_or, refusal, say};
use crate::load::sink::body::Body;
use crate::load::sink::fault::{Faults, Kind, Phase};
use crate::load::sink::session::Profile;
use crate::load::sink::stats::Counters;

/// A chunk that is being received.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    left: u64,
    last: bool,
    /// What is said instead of taking it; empty: nothing is wrong.
    refusal: &'static str,
}

impl Chunk {
    /// True if all its bytes are there.
    pub(super) fn is_complete(&self) -> bool {
        self.left == 0
    }
}

impl Session {
    /// The command; its chunk follows.
    pub(super) fn bdat(
        &mut self,
        argument: &[u8],
        profile: &Profile,
        faults: &mut Faults,
        counters: &Counters,
        out: &mut Vec<u8>,
    ) -> After {
        let mut words = argument.split(|&b| b == b' ');
        let size = words.next().and_then(|w| std::str::from_utf8(w).ok()).filter(|w| w.len() <= 18);
        let digits = size.filter(|w| w.bytes().all(|b| b.is_ascii_digit()));
        let last = match words.next() {
            None => Some(false),
            Some(word) => word.eq_ignore_ascii_case(b"LAST").then_some(true),
        };
        let (Some(left), Some(last), None) = (digits.and_then(|w| w.parse().ok()), last, words.next()) else {
            self.mistake(counters, out, "501 5.5.4 BDAT size [LAST]");
            // Where the chunk ends, and whether there is one, cannot be known.
            return After::Close;
        };
        let mut chunk = Chunk { left, last, refusal: "" };
        let mut after = After::Go;
        if self.from.is_none() {
            chunk.refusal = "503 5.5.1 MAIL first";
        } else if self.recipient_count == 0 {
            chunk.refusal = "554 5.5.1 No valid recipients";
        } else if self.chunks.is_none() {
            let strike = faults.strike(Phase::Data);
            after = pause_or(strike.delay, After::Go);
            if let Some(text) = refusal(strike.end) {
                counters.played(text);
                chunk.refusal = text;
                self.reset();
            } else {
                self.drop_in_body = strike.end == Some(Kind::Drop);
                let notification = self.from.as_deref() == Some("");
                self.chunks = Some(Body::chunks(notification, profile.keep));
            }
        }
        self.chunk = Some(chunk);
        after
    }

    /// Takes bytes of a chunk, and answers it at its end.
    pub(super) fn chunk_bytes(
        &mut self,
        input: &[u8],
        profile: &Profile,
        faults: &mut Faults,
        counters: &Counters,
        taker: &mut impl Taker,
        out: &mut Vec<u8>,
    ) -> (usize, After) {
        let Some(mut chunk) = self.chunk else { return (0, After::Close) };
        if self.drop_in_body && chunk.refusal.is_empty() && (chunk.left > 0 || chunk.last) {
            counters.dropped.add(1);
            return (0, After::Drop);
        }
        let n = usize::try_from(chunk.left).unwrap_or(usize::MAX).min(input.len());
        if let Some(body) = self.chunks.as_mut().filter(|_| chunk.refusal.is_empty()) {
            body.feed(&input[..n]);
        }
        chunk.left -= n as u64;
        self.chunk = Some(chunk).filter(|c| c.left > 0);
        if chunk.left > 0 {
            return (n, After::Go);
        }
        if !chunk.refusal.is_empty() {
            say(out, chunk.refusal);
            return (n, After::Go);
        }
        if !chunk.last {
            say(out, "250 2.0.0 Ok");
            return (n, After::Go);
        }
        let Some(body) = self.chunks.take() else { return (n, After::Close) };
        (n, self.end_of_data(body, profile, faults, counters, taker, out))
    }
}

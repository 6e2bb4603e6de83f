//! Faults that a sink plays, each in a share of the cases at one phase of a transaction.
//!
//! Owns their notation (`10%`, `50ms:10%`, each with an optional `:phase`) and the dice, which are
//! seeded so that a run can be repeated. No IO.

use crate::load::digest::mix;
use crate::load::units::{duration, share};
use std::time::Duration;

/// Where in a session a fault strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Instead of, or before, the greeting.
    Connect,
    /// At MAIL FROM.
    Mail,
    /// At RCPT TO.
    Rcpt,
    /// At DATA; a drop strikes after some of the body was read.
    Data,
    /// After the final dot, before its reply.
    Dot,
}

/// What a sink does instead of, or before, a positive reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Replies 4xx.
    Tempfail,
    /// Replies 5xx.
    Reject,
    /// Waits.
    Delay(Duration),
    /// Closes the connection without a reply. After the dot the message counts as not taken.
    Drop,
}

/// One fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What happens.
    pub kind: Kind,
    /// How often, in parts per million.
    pub ppm: u32,
    /// Where.
    pub phase: Phase,
}

impl Fault {
    /// Reads `<share>[:<phase>]` for `kind`, which strikes at `default` unless a phase is named.
    ///
    /// # Errors
    /// A sentence, if the text is neither.
    pub fn parse(kind: Kind, text: &str, default: Phase) -> Result<Self, String> {
        let (ppm, phase) = match text.split_once(':') {
            Some((s, p)) => (share(s)?, phase(p)?),
            None => (share(text)?, default),
        };
        Ok(Fault { kind, ppm, phase })
    }

    /// Reads `<duration>:<share>[:<phase>]`; without a phase it strikes after the final dot.
    ///
    /// # Errors
    /// A sentence, if the text is none of these.
    pub fn parse_delay(text: &str) -> Result<Self, String> {
        let (time, rest) = text.split_once(':').unwrap_or((text, "100%"));
        Fault::parse(Kind::Delay(duration(time)?), rest, Phase::Dot)
    }
}

fn phase(text: &str) -> Result<Phase, String> {
    match text {
        "connect" => Ok(Phase::Connect),
        "mail" => Ok(Phase::Mail),
        "rcpt" => Ok(Phase::Rcpt),
        "data" => Ok(Phase::Data),
        "dot" => Ok(Phase::Dot),
        _ => Err(format!("\"{text}\" is not a phase: connect, mail, rcpt, data or dot")),
    }
}

/// What strikes at one point: the pause first, then the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Strike {
    /// How long to wait first.
    pub delay: Duration,
    /// What then happens instead of a positive reply; never a delay.
    pub end: Option<Kind>,
}

/// The dice of one sink.
pub struct Faults {
    all: Vec<Fault>,
    state: u64,
}

impl Faults {
    /// Throws from `seed` on.
    #[must_use]
    pub fn new(all: Vec<Fault>, seed: u64) -> Self {
        Faults { all, state: mix(seed ^ 0x5eed) }
    }

    /// What strikes at `phase` this time.
    pub fn strike(&mut self, phase: Phase) -> Strike {
        let mut strike = Strike::default();
        if self.all.is_empty() {
            return strike;
        }
        for fault in self.all.iter().filter(|f| f.phase == phase) {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            if mix(self.state) % 1_000_000 < u64::from(fault.ppm) {
                match fault.kind {
                    Kind::Delay(d) => strike.delay += d,
                    end => strike.end = strike.end.or(Some(end)),
                }
            }
        }
        strike
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notation() {
        let f = Fault::parse(Kind::Tempfail, "10%", Phase::Rcpt);
        assert_eq!(f, Ok(Fault { kind: Kind::Tempfail, ppm: 100_000, phase: Phase::Rcpt }));
        let f = Fault::parse(Kind::Drop, "1%:dot", Phase::Data).expect("fault");
        assert_eq!((f.ppm, f.phase), (10_000, Phase::Dot));
        let f = Fault::parse_delay("50ms:10%:rcpt").expect("fault");
        assert_eq!((f.kind, f.phase), (Kind::Delay(Duration::from_millis(50)), Phase::Rcpt));
        assert_eq!(Fault::parse_delay("2s").expect("fault").ppm, 1_000_000);
        assert!(Fault::parse(Kind::Drop, "1%:nowhere", Phase::Data).is_err());
    }

    #[test]
    fn shares_are_kept_and_repeatable() {
        let faults = vec![Fault { kind: Kind::Reject, ppm: 250_000, phase: Phase::Rcpt }];
        let throw = |seed| {
            let mut dice = Faults::new(faults.clone(), seed);
            assert_eq!(dice.strike(Phase::Mail), Strike::default());
            (0..10_000).map(|_| dice.strike(Phase::Rcpt).end.is_some()).collect::<Vec<_>>()
        };
        let hits = throw(7).iter().filter(|&&h| h).count();
        assert!((2300..2700).contains(&hits), "{hits}");
        assert_eq!(throw(7), throw(7));
        assert_ne!(throw(7), throw(8));
    }
}

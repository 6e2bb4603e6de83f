//! Ids of messages and logs.
//!
//! A message id is unique within its log and grows with time; a queue id names both and is what
//! people see: in the final `250`, in Received, in logs and in bounces.

use crate::base::time::Wall;
use std::fmt;
use std::str::FromStr;

/// Number of a queue log within a data directory (its folder name); 0..=2703. Kept for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogNumber(pub u16);

impl LogNumber {
    /// The largest number that fits the two characters of a queue id.
    pub const MAX: u16 = 52 * 52 - 1;
}

/// Id of a message within one log: 44 bits of milliseconds since the epoch, 20 bits of sequence.
/// Zero is never a message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MessageId(pub u64);

impl MessageId {
    /// The id that follows `self` for a message that arrives at `now`: greater than `self`
    /// whatever the clock does.
    #[must_use]
    pub fn next(self, now: Wall) -> Self {
        MessageId((now.0 << 20).max(self.0 + 1))
    }

    /// When the message arrived, to the millisecond (later than true if the clock was set back).
    #[must_use]
    pub fn arrival(self) -> Wall {
        Wall(self.0 >> 20)
    }
}

/// A message anywhere in this server: 14 characters of a 52-letter alphabet without vowels,
/// sortable by time within a log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueId {
    /// The message within its log.
    pub message: MessageId,
    /// The log.
    pub log: LogNumber,
}

const ALPHABET: &[u8; 52] = b"0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz";

impl QueueId {
    /// Length of the text form in bytes.
    pub const LEN: usize = 14;

    /// The text form.
    #[must_use]
    pub fn text(self) -> [u8; Self::LEN] {
        let mut out = [b'0'; Self::LEN];
        let mut n = self.message.0;
        for c in out[..12].iter_mut().rev() {
            *c = ALPHABET[(n % 52) as usize];
            n /= 52;
        }
        let l = usize::from(self.log.0);
        out[12] = ALPHABET[l / 52 % 52];
        out[13] = ALPHABET[l % 52];
        out
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for b in self.text() {
            write!(f, "{}", char::from(b))?;
        }
        Ok(())
    }
}

/// The text is not a queue id.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAQueueId;

impl fmt::Display for NotAQueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a queue id (14 letters and digits without vowels)")
    }
}

impl std::error::Error for NotAQueueId {}

impl FromStr for QueueId {
    type Err = NotAQueueId;

    fn from_str(s: &str) -> Result<Self, NotAQueueId> {
        let b = s.as_bytes();
        if b.len() != Self::LEN {
            return Err(NotAQueueId);
        }
        let digit = |c: u8| ALPHABET.iter().position(|&a| a == c).ok_or(NotAQueueId);
        let mut n = 0u64;
        for &c in &b[..12] {
            let d = digit(c)? as u64;
            n = n.checked_mul(52).and_then(|n| n.checked_add(d)).ok_or(NotAQueueId)?;
        }
        let log = digit(b[12])? * 52 + digit(b[13])?;
        Ok(QueueId { message: MessageId(n), log: LogNumber(u16::try_from(log).map_err(|_| NotAQueueId)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip_and_order() {
        for (m, l) in [(1, 0), (u64::MAX, LogNumber::MAX), (0x1234_5678_9abc_def0, 51)] {
            let id = QueueId { message: MessageId(m), log: LogNumber(l) };
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        let id = |m| QueueId { message: MessageId(m), log: LogNumber(7) }.to_string();
        assert!(id(51) < id(52) && id(9) < id(10) && id(30) < id(31));
        assert!("zzzzzzzzzzzz00".parse::<QueueId>().is_err(), "overflows 64 bits");
        assert!("0000000000A000".parse::<QueueId>().is_err());
    }

    #[test]
    fn ids_grow_when_the_clock_goes_back() {
        let a = MessageId(0).next(Wall(1000));
        let b = a.next(Wall(500));
        assert!(b > a);
        assert_eq!(a.arrival(), Wall(1000));
    }
}

//! L2: when to take more mail: back-pressure before anything is staged.
//!
//! Numbers in, a verdict out. A message that is committed is never held back.

use std::time::Duration;

/// How much the queue of one core takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Messages in the queue; above, new mail gets 452.
    pub messages: usize,
    /// Messages waiting for a destination that takes them as fast as the machine gives them;
    /// above, senders are slowed down: sending is starved by receiving otherwise.
    pub backlog: usize,
    /// Bytes staged and not yet on stable storage; above, senders are slowed down. 0: no limit.
    pub staged_bytes: usize,
    /// Messages per second from which a destination counts as that fast.
    pub fast: u32,
    /// A sender is held back at most so long for each message.
    pub hold_back: Duration,
    /// Bytes of bodies kept in memory for their first attempt.
    pub body_bytes: usize,
    /// Outcomes that wait for the journal; above, no attempts are started.
    pub unsettled: usize,
    /// Bodies being read back at a time.
    pub loads: usize,
    /// Messages to several destinations that stand in the list of one that does not answer; above, they
    /// are looked for when it does. At least 1.
    pub places: usize,
    /// Names of destinations in the index from which on those are looked for that no row needs.
    pub names: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            messages: 10_000_000,
            backlog: 3000,
            staged_bytes: 2 << 20,
            fast: 500,
            hold_back: Duration::from_millis(200),
            body_bytes: 64 << 20,
            unsettled: 1000,
            loads: 64,
            places: 64,
            names: 10_000,
        }
    }
}

/// May one more message come in?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Yes.
    Open,
    /// Soon; at the latest after [`Limits::hold_back`].
    Later,
    /// No: 452 4.3.1.
    Full,
}

impl Limits {
    /// The verdict for `messages` in the queue, a backlog of `fast_backlog` for one fast
    /// destination and `staged` bytes that wait for the disk.
    #[must_use]
    pub fn admit(&self, messages: usize, fast_backlog: usize, staged: usize) -> Admission {
        if self.messages > 0 && messages >= self.messages {
            Admission::Full
        } else if self.backlog > 0 && fast_backlog >= self.backlog
            || self.staged_bytes > 0 && staged > self.staged_bytes
        {
            Admission::Later
        } else {
            Admission::Open
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_wins_over_later_and_zero_means_no_limit() {
        let l = Limits { messages: 10, backlog: 5, staged_bytes: 7, ..Limits::default() };
        assert_eq!(l.admit(9, 4, 7), Admission::Open);
        assert_eq!(l.admit(9, 5, 0), Admission::Later);
        assert_eq!(l.admit(9, 0, 8), Admission::Later);
        assert_eq!(l.admit(10, 5, 8), Admission::Full);
        let none = Limits { messages: 0, backlog: 0, staged_bytes: 0, ..l };
        assert_eq!(none.admit(1 << 30, 1 << 30, 1 << 30), Admission::Open);
    }
}

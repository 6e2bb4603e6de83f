//! L2: how long a message has been here, whatever the wall clock does.
//!
//! Arrival times are wall-clock times, since only they mean something after a restart; but the wall
//! clock may be set. The rules:
//!
//! 1. Where wall clock and monotonic clock come apart by more than [`STEP_MIN`] between two looks,
//!    the wall clock was set (or the machine slept: it tried nothing then). The step is remembered,
//!    and messages that came before it are as old as they were plus what the monotonic clock says.
//! 2. Of a message found at the start it is not known by which clock it came: of all ages that the
//!    steps since the start allow, it has the least. If it came in what was the future at the start,
//!    it is as old as the process.
//! 3. What was found at the start has not [lived](Ages::lived) for any time before the process has
//!    run for [`PROBATION`] (or for that time): a clock that was wrong at boot is set meanwhile.
//!
//! So mail never expires through one jump of the clock. It may live longer: after a jump that nobody
//! saw because no process ran, and mail of a dead destination that came after the clock was set back,
//! by as much as it was set back. Knows no clock; cannot fail.

use crate::base::ids::MessageId;
use crate::base::time::{Mono, Wall};
use std::time::Duration;

/// Smaller steps are not noticed: they are how clocks are kept right.
pub const STEP_MIN: Duration = Duration::from_secs(60);
/// See rule 3.
pub const PROBATION: Duration = Duration::from_secs(3600);
/// Steps remembered; beyond that the two oldest count as one.
const STEPS_MAX: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Step {
    /// The last message that came before it.
    last: MessageId,
    /// Milliseconds by which the wall clock was set forward.
    by: i64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Ages {
    opened: (Mono, Wall),
    /// The last message found at the start.
    found: MessageId,
    seen: (Mono, Wall),
    steps: Vec<Step>,
}

impl Ages {
    /// At the start of a process; `found`: the last message of the log.
    #[must_use]
    pub fn new(now: Mono, wall: Wall, found: MessageId) -> Self {
        Ages { opened: (now, wall), found, seen: (now, wall), steps: Vec::new() }
    }

    /// Messages up to `last` were there at the start, too.
    pub fn found_too(&mut self, last: MessageId) {
        self.found = self.found.max(last);
    }

    /// True if the wall clock may have been set since [`Self::look`].
    #[must_use]
    pub fn is_odd(&self, wall: Wall) -> bool {
        wall.0.abs_diff(self.seen.1.0) > STEP_MIN.as_millis() as u64
    }

    /// Compares the clocks. Messages from `oldest` to `last` are here now. Call it twice a minute.
    pub fn look(&mut self, now: Mono, wall: Wall, oldest: Option<MessageId>, last: MessageId) {
        let ran = now.since(self.seen.0).as_millis() as i64;
        let by = difference(wall, self.seen.1).saturating_sub(ran);
        self.seen = (now, wall);
        if by.unsigned_abs() <= STEP_MIN.as_millis() as u64 {
            return;
        }
        self.steps.retain(|s| oldest.is_some_and(|o| o <= s.last));
        if self.steps.len() == STEPS_MAX {
            let first = self.steps.remove(0);
            self.steps[0].by = self.steps[0].by.saturating_add(first.by);
        }
        self.steps.push(Step { last, by });
    }

    /// How long ago message `id` came; `arrival` is what the clock said then.
    #[must_use]
    pub fn age(&self, now: Mono, wall: Wall, id: MessageId, arrival: Wall) -> Duration {
        let found = id <= self.found;
        if found && arrival > self.opened.1.after(STEP_MIN) {
            return now.since(self.opened.0);
        }
        let (mut sum, mut most) = (0i64, 0);
        for step in self.steps.iter().rev().take_while(|s| id <= s.last) {
            sum = sum.saturating_add(step.by);
            most = most.max(sum);
        }
        let set = if found { most } else { sum };
        let age = difference(wall, arrival).saturating_sub(set);
        Duration::from_millis(u64::try_from(age).unwrap_or(0))
    }

    /// True if message `id` has been here for `life`, beyond doubt.
    #[must_use]
    pub fn lived(&self, now: Mono, wall: Wall, id: MessageId, arrival: Wall, life: Duration) -> bool {
        let proven = id > self.found || now.since(self.opened.0) >= PROBATION.min(life);
        proven && self.age(now, wall, id, arrival) >= life
    }
}

/// Milliseconds from `earlier` to `later`.
fn difference(later: Wall, earlier: Wall) -> i64 {
    let ms = |w: Wall| i64::try_from(w.0).unwrap_or(i64::MAX);
    ms(later).saturating_sub(ms(earlier))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;

    /// Two clocks, of which one is set now and then.
    struct Clocks {
        seconds: u64,
        set: i64,
        last: MessageId,
        ages: Ages,
    }

    impl Clocks {
        fn new(found: MessageId) -> Self {
            let ages = Ages::new(Mono(0), Wall(1000 * DAY * 1000), found);
            Clocks { seconds: 0, set: 0, last: found, ages }
        }

        fn now(&self) -> (Mono, Wall) {
            let wall = (1000 * DAY + self.seconds).saturating_add_signed(self.set);
            (Mono(self.seconds * 1_000_000_000), Wall(wall * 1000))
        }

        fn run(&mut self, seconds: u64) {
            self.seconds += seconds;
            let (now, wall) = self.now();
            self.ages.look(now, wall, Some(MessageId(1)), self.last);
        }

        fn comes(&mut self) -> (MessageId, Wall) {
            let wall = self.now().1;
            self.last = self.last.next(wall);
            (self.last, wall)
        }

        fn hours(&self, (id, arrival): (MessageId, Wall)) -> u64 {
            let (now, wall) = self.now();
            self.ages.age(now, wall, id, arrival).as_secs() / HOUR
        }

        fn lived(&self, (id, arrival): (MessageId, Wall), seconds: u64) -> bool {
            let (now, wall) = self.now();
            self.ages.lived(now, wall, id, arrival, Duration::from_secs(seconds))
        }
    }

    #[test]
    fn steps_either_way_change_no_age() {
        let mut c = Clocks::new(MessageId(0));
        let one = c.comes();
        c.run(2 * HOUR);
        c.set = 10 * DAY as i64;
        c.run(30);
        let two = c.comes();
        c.run(3 * HOUR);
        assert_eq!((c.hours(one), c.hours(two)), (5, 3));
        c.set = -(400 * DAY as i64);
        c.run(30);
        let three = c.comes();
        c.run(HOUR);
        assert!(three.0 > two.0 && three.1 < one.1);
        assert_eq!([one, two, three].map(|m| c.hours(m)), [6, 4, 1]);
        assert!(c.lived(one, 6 * HOUR) && !c.lived(one, 7 * HOUR));
        // Slow adjustment is no step.
        for _ in 0..100 {
            c.set += 20;
            c.run(HOUR);
        }
        assert_eq!(c.ages.steps.len(), 2);
    }

    #[test]
    fn what_was_found_lives_on_in_doubt() {
        let ago = |days: u64| Wall((1000 - days) * DAY * 1000);
        let old = (MessageId(0).next(ago(4)), ago(4));
        let mut c = Clocks::new(old.0);
        assert_eq!(c.hours(old), 96);
        assert!(!c.lived(old, 3 * DAY), "the clock may be wrong at the start");
        c.run(HOUR);
        assert!(c.lived(old, 3 * DAY));
        // Wrong at the start, right now; or right then and wrong now: it is not known.
        for set in [-3, 3] {
            let mut c = Clocks::new(old.0);
            c.set = set * DAY as i64;
            c.run(HOUR);
            assert_eq!(c.hours(old), if set < 0 { 25 } else { 97 });
        }
        // From the future.
        let soon = Wall(2000 * DAY * 1000);
        let mut c = Clocks::new(MessageId(0).next(soon));
        c.run(7 * HOUR);
        assert_eq!(c.hours((c.last, soon)), 7);
        assert!(!c.lived((c.last, soon), DAY));
        c.run(DAY);
        assert!(c.lived((c.last, soon), DAY));
    }

    #[test]
    fn steps_are_bounded_and_forgotten_with_their_messages() {
        let mut c = Clocks::new(MessageId(0));
        let one = c.comes();
        for n in 0..100 {
            c.set += if n % 2 == 0 { 5 } else { -4 } * HOUR as i64;
            c.run(36);
            c.comes();
        }
        assert_eq!((c.ages.steps.len(), c.hours(one)), (STEPS_MAX, 1));
        let (now, wall) = c.now();
        c.ages.look(now, wall.after(Duration::from_secs(DAY)), None, c.last);
        assert_eq!(c.ages.steps.len(), 1);
    }
}

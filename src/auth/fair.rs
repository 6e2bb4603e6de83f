//! Whose password is checked next: a bounded queue, fair by network.
//!
//! Networks (/24 of IPv4, /64 of IPv6) take turns, whatever each of them asks for. They stand in three
//! lanes: those from which logins have succeeded, those of which nothing is known, and those from which
//! logins fail. Each lane has turns of its own, so none starves, and what one does not need is for the
//! first that does. Of a network of which nothing is known one password at a time is looked at: the
//! next one when it is clear how the first ended. So a flood from a hundred networks costs a hundred
//! hashes before it stands behind everybody else. Newcomers in their lane are few (`NEWCOMERS`): when
//! more come at once, the oldest of them go to the last lane, and who comes then waits for few.
//!
//! It is the network that has a record, not the login: names of users are easily known, and a flood
//! against them would stand in front. When the queue is full, who has the most in it gives way, from
//! the last lane first. Knows no password and no clock. Cannot fail.

use crate::base::time::Mono;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

/// A network as a number.
pub type Network = u64;

/// The network of an address.
#[must_use]
pub fn network(address: IpAddr) -> Network {
    match address.to_canonical() {
        IpAddr::V4(a) => u64::from(a.to_bits() >> 8),
        // Never one of IPv4: those have 24 bits.
        IpAddr::V6(a) => (a.to_bits() >> 64) as u64 | 1 << 63,
    }
}

/// Jobs that wait.
pub struct Fair<T> {
    /// By class.
    lanes: [Lane<T>; 3],
    most: usize,
    turn: usize,
    /// Jobs that have been given out and not ended.
    under_way: HashMap<Network, usize>,
    failures: Record,
    successes: Record,
}

/// Events by network, fading; by hash, so that there are always as many cells.
struct Record {
    cells: Box<[u8]>,
    seed: u64,
    fades: Duration,
    faded: Mono,
}

/// So long half of the failures count, and so long each eighth of a day a success does.
const FAILURES_FADE: Duration = Duration::from_secs(60);
const SUCCESSES_FADE: Duration = Duration::from_secs(3 * 3600);
/// A success makes a network known until it has faded so often: for a day.
const SUCCESS: u8 = 8;
const FAILURE_CELLS: usize = 1 << 14;
const SUCCESS_CELLS: usize = 1 << 17;
/// So many failures within a minute or two, and a known network stands in the last lane; one of which
/// nothing is known, after the first.
const SUSPECT: u8 = 3;
/// Networks of which nothing is known that wait in front of those that fail: half a second of work for
/// one thread.
const NEWCOMERS: usize = 24;

/// Logins have succeeded from there.
const KNOWN: usize = 0;
/// Nothing is known.
const NEW: usize = 1;
/// Logins fail, or more newcomers than can be looked at.
const NOISY: usize = 2;
/// Whose turn is first, over and over.
const TURNS: [usize; 8] = [KNOWN, NEW, KNOWN, NOISY, NEW, KNOWN, NEW, NOISY];

impl Record {
    fn new(cells: usize, seed: u64, fades: Duration) -> Self {
        Record { cells: vec![0; cells].into_boxed_slice(), seed, fades, faded: Mono(0) }
    }

    fn of(&self, network: Network) -> u8 {
        self.cells[self.cell(network)]
    }

    /// Lets time pass: `fade` is what becomes of each cell.
    fn pass(&mut self, now: Mono, fade: impl Fn(u8) -> u8) {
        if now.since(self.faded) >= self.fades {
            self.faded = now;
            self.cells.iter_mut().for_each(|n| *n = fade(*n));
        }
    }

    fn cell(&self, network: Network) -> usize {
        let mut x = network ^ self.seed;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % self.cells.len() as u64) as usize
    }
}

/// Networks that wait, in the order of their turns.
struct Lane<T> {
    turns: VecDeque<Network>,
    jobs: HashMap<Network, VecDeque<T>>,
    len: usize,
}

impl<T> Lane<T> {
    fn new() -> Self {
        Lane { turns: VecDeque::new(), jobs: HashMap::new(), len: 0 }
    }

    fn push(&mut self, network: Network, job: T) {
        let jobs = self.jobs.entry(network).or_default();
        if jobs.is_empty() {
            self.turns.push_back(network);
        }
        jobs.push_back(job);
        self.len += 1;
    }

    /// The first job of the first network that may have one looked at; the others keep their turns.
    fn pop(&mut self, may: impl Fn(Network) -> bool) -> Option<(Network, T)> {
        let network = self.turns.remove(self.turns.iter().position(|n| may(*n))?)?;
        let jobs = self.jobs.get_mut(&network).expect("who has a turn has a job");
        let job = jobs.pop_front().expect("who has a turn has a job");
        if jobs.is_empty() {
            self.jobs.remove(&network);
        } else {
            self.turns.push_back(network);
        }
        self.len -= 1;
        Some((network, job))
    }

    fn waiting(&self, network: Network) -> usize {
        self.jobs.get(&network).map_or(0, VecDeque::len)
    }

    /// The network with the most jobs, and how many.
    fn largest(&self) -> Option<(Network, usize)> {
        self.jobs.iter().map(|(n, jobs)| (*n, jobs.len())).max_by_key(|(_, len)| *len)
    }

    /// Takes all jobs of a network out.
    fn take(&mut self, network: Network) -> VecDeque<T> {
        let jobs = self.jobs.remove(&network).unwrap_or_default();
        if !jobs.is_empty() {
            // In a queue that is bounded.
            self.turns.retain(|n| *n != network);
            self.len -= jobs.len();
        }
        jobs
    }

    /// Takes the youngest job of a network out.
    fn drop_youngest(&mut self, network: Network) -> Option<T> {
        let jobs = self.jobs.get_mut(&network)?;
        let job = jobs.pop_back()?;
        if jobs.is_empty() {
            self.jobs.remove(&network);
            self.turns.retain(|n| *n != network);
        }
        self.len -= 1;
        Some(job)
    }
}

impl<T> Fair<T> {
    /// A queue of at most `most` jobs; `seed` is random. Its records take 144 KiB.
    #[must_use]
    pub fn new(most: usize, seed: u64) -> Self {
        Fair {
            lanes: [Lane::new(), Lane::new(), Lane::new()],
            most,
            turn: 0,
            under_way: HashMap::new(),
            failures: Record::new(FAILURE_CELLS, seed, FAILURES_FADE),
            successes: Record::new(SUCCESS_CELLS, seed, SUCCESSES_FADE),
        }
    }

    /// Jobs that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.len).sum()
    }

    /// Does none wait?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a job of `network`.
    ///
    /// # Errors
    /// The queue is full: the job that gives way, this one or another.
    pub fn push(&mut self, network: Network, job: T) -> Result<(), T> {
        // Behind what it asked before.
        let lane = if self.lanes[NOISY].waiting(network) > 0 { NOISY } else { self.class(network) };
        let mut loser = None;
        if self.len() >= self.most {
            // Those who fail give way to those who do not; then the largest to the smaller.
            let worst = (lane..=NOISY).rev().find(|&from| self.lanes[from].len > 0).unwrap_or(lane);
            match self.lanes[worst].largest() {
                Some((largest, len)) if worst != lane || len > self.lanes[lane].waiting(network) + 1 => {
                    loser = self.lanes[worst].drop_youngest(largest);
                }
                _ => return Err(job),
            }
        }
        self.lanes[lane].push(network, job);
        while self.lanes[NEW].turns.len() > NEWCOMERS {
            let oldest = self.lanes[NEW].turns[0];
            self.move_to_noisy(NEW, oldest);
        }
        loser.map_or(Ok(()), Err)
    }

    /// The next job and its network; to be [ended](Self::ended).
    pub fn pop(&mut self) -> Option<(Network, T)> {
        self.turn = (self.turn + 1) % TURNS.len();
        let order = [TURNS[self.turn], KNOWN, NEW, NOISY];
        let next = order.into_iter().find_map(|lane| {
            let (under_way, failures, successes) = (&self.under_way, &self.failures, &self.successes);
            self.lanes[lane]
                .pop(|n| !under_way.contains_key(&n) || class(failures.of(n), successes.of(n)) != NEW)
        })?;
        *self.under_way.entry(next.0).or_insert(0) += 1;
        Some(next)
    }

    /// A job that was given out has come to its end, and how its login ended has been said.
    pub fn ended(&mut self, network: Network) {
        if let Some(count) = self.under_way.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.under_way.remove(&network);
            }
        }
    }

    /// A login from `network` has failed.
    pub fn failed(&mut self, network: Network, now: Mono) {
        self.failures.pass(now, |n| n / 2);
        let cell = self.failures.cell(network);
        self.failures.cells[cell] = self.failures.cells[cell].saturating_add(1);
        if self.class(network) == NOISY {
            // What it asked before goes with it, or many networks with little each would stay in front.
            self.move_to_noisy(KNOWN, network);
            self.move_to_noisy(NEW, network);
        }
    }

    /// A login from `network` has succeeded.
    pub fn succeeded(&mut self, network: Network, now: Mono) {
        self.successes.pass(now, |n| n.saturating_sub(1));
        let cell = self.successes.cell(network);
        self.successes.cells[cell] = SUCCESS;
        if self.class(network) == KNOWN {
            for from in [NEW, NOISY] {
                for job in self.lanes[from].take(network) {
                    self.lanes[KNOWN].push(network, job);
                }
            }
        }
    }

    fn class(&self, network: Network) -> usize {
        class(self.failures.of(network), self.successes.of(network))
    }

    fn move_to_noisy(&mut self, from: usize, network: Network) {
        for job in self.lanes[from].take(network) {
            self.lanes[NOISY].push(network, job);
        }
    }
}

fn class(failures: u8, successes: u8) -> usize {
    match (failures, successes) {
        (0, 0) => NEW,
        (..SUSPECT, 1..) => KNOWN,
        _ => NOISY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Mono = Mono(1);

    /// All that can be had at once, each job ended as soon as it has been given out.
    fn drain<T>(queue: &mut Fair<T>) -> Vec<T> {
        let mut all = Vec::new();
        while let Some((network, job)) = queue.pop() {
            queue.ended(network);
            all.push(job);
        }
        all
    }

    #[test]
    fn networks() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.254"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8::1"));
    }

    /// A hundred networks with ten guesses each: one hash for each, then they are behind everybody.
    #[test]
    fn a_flood_from_many_networks_costs_one_look_each() {
        let mut queue = Fair::new(2000, 1);
        (0..10).for_each(|_| (10..110).for_each(|n| queue.push(n, n).unwrap()));
        let mut looks = 0;
        let mut place = None;
        for round in 0..200 {
            if round == 20 {
                queue.push(1, 1).unwrap();
            }
            let (network, _) = queue.pop().unwrap();
            if network == 1 {
                place = Some(round - 20);
                queue.succeeded(1, NOW);
            } else {
                looks += 1;
                queue.failed(network, NOW);
            }
            queue.ended(network);
        }
        assert!(place.is_some_and(|p| p <= NEWCOMERS + NEWCOMERS / 2), "{place:?}");
        assert_eq!(looks, 199);
        // From now on it waits for one at most.
        queue.push(1, 1).unwrap();
        let next = [queue.pop().unwrap().0, queue.pop().unwrap().0];
        assert!(next.contains(&1), "{next:?}");
        assert_eq!((drain(&mut queue).len(), queue.len()), (1002 - 202, 0));
    }

    #[test]
    fn of_a_stranger_one_guess_is_looked_at() {
        let mut queue = Fair::new(100, 1);
        (0..3).for_each(|n| queue.push(1, n).unwrap());
        queue.push(2, 10).unwrap();
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some((1, 0)), Some((2, 10)), None]);
        // Right: so the others are looked at at once.
        queue.succeeded(1, NOW);
        assert_eq!([queue.pop(), queue.pop()], [Some((1, 1)), Some((1, 2))]);
        (0..3).for_each(|_| queue.ended(1));
        assert_eq!(queue.under_way.len(), 1);
    }

    #[test]
    fn networks_take_turns() {
        let mut queue = Fair::new(100, 1);
        (1..4).for_each(|n| queue.succeeded(n, NOW));
        (0..5).for_each(|n| queue.push(1, n).unwrap());
        queue.push(2, 10).unwrap();
        queue.push(3, 20).unwrap();
        assert_eq!(drain(&mut queue), [0, 10, 20, 1, 2, 3, 4]);
    }

    #[test]
    fn a_flood_gives_way_when_the_queue_is_full() {
        let mut queue = Fair::new(4, 1);
        (0..4).for_each(|n| queue.push(1, n).unwrap());
        assert_eq!(queue.push(1, 4), Err(4));
        assert_eq!(queue.push(2, 10), Err(3));
        assert_eq!(queue.push(2, 11), Err(2));
        assert_eq!(queue.push(2, 12), Err(12), "both have their share");
        assert!(queue.push(3, 20).is_err_and(|loser| loser == 1 || loser == 11));
        assert_eq!(queue.len(), 4);
    }

    #[test]
    fn who_fails_waits_for_those_who_do_not() {
        let mut queue = Fair::new(8, 1);
        let now = Mono(0).after(FAILURES_FADE);
        (100..150).for_each(|network| queue.failed(network, now));
        (100..108).for_each(|n| queue.push(n, n).unwrap());
        queue.succeeded(1, now);
        assert!(queue.push(1, 1).is_err_and(|loser| loser >= 100), "known");
        assert!(queue.push(2, 2).is_err_and(|loser| loser >= 100), "new");
        let order = drain(&mut queue);
        assert!(order[..3].contains(&1) && order[..3].contains(&2), "{order:?}");
        // Two turns of eight are theirs, so that an innocent one among them gets in as well.
        let mut queue = Fair::new(100, 1);
        (1..21).for_each(|n| queue.succeeded(n, now));
        (100..120).for_each(|network| queue.failed(network, now));
        (1..21).chain(100..120).for_each(|n| queue.push(n, n).unwrap());
        assert_eq!(drain(&mut queue)[..16].iter().filter(|n| **n >= 100).count(), 4);
        // Failures are forgotten.
        (0..4).for_each(|n| queue.failed(7, now.after(FAILURES_FADE * (n + 1))));
        queue.push(100, 100).unwrap();
        assert_eq!(queue.lanes[NEW].len, 1);
    }

    #[test]
    fn a_network_with_a_record_may_err() {
        let mut queue = Fair::new(8, 1);
        queue.succeeded(1, NOW);
        (1..SUSPECT).for_each(|_| queue.failed(1, NOW));
        assert_eq!(queue.class(1), KNOWN);
        queue.push(1, 1).unwrap();
        queue.failed(1, NOW);
        assert_eq!((queue.class(1), queue.lanes[NOISY].len), (NOISY, 1), "what it asked goes with it");
        // A day later nothing is known of it.
        (1..=8).for_each(|n| queue.succeeded(2, Mono(0).after(SUCCESSES_FADE * n)));
        (0..4).for_each(|n| queue.failed(3, Mono(0).after(FAILURES_FADE * (n + 1))));
        assert_eq!(queue.class(1), NEW);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_the_bound_holds(
            events in prop::collection::vec((0u64..40, 0u8..8), 0..300),
            most in 1usize..60,
        ) {
            let mut queue = Fair::new(most, 3);
            let (mut inside, mut next) = (std::collections::BTreeSet::new(), 0);
            let mut out = Vec::new();
            for (network, event) in events {
                match event {
                    0 => if let Some((n, job)) = queue.pop() {
                        prop_assert!(inside.remove(&job));
                        out.push(n);
                    },
                    1 => queue.failed(network, Mono(0)),
                    2 => queue.succeeded(network, Mono(0)),
                    3 => out.drain(..).for_each(|n| queue.ended(n)),
                    _ => {
                        inside.insert(next);
                        if let Err(loser) = queue.push(network, next) {
                            prop_assert!(inside.remove(&loser));
                        }
                        next += 1;
                    }
                }
                prop_assert_eq!(queue.len(), inside.len());
                prop_assert!(queue.len() <= most && queue.lanes[NEW].turns.len() <= NEWCOMERS);
            }
            out.drain(..).for_each(|n| queue.ended(n));
            prop_assert!(queue.under_way.is_empty());
            prop_assert_eq!(drain(&mut queue).len(), inside.len());
        }
    }
}

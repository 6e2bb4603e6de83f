//! Whose password is checked next: a bounded queue, fair by network.
//!
//! Networks (/24 of IPv4, /64 of IPv6) take turns, whatever each of them asks for, and those without
//! recent failures go first: three turns of four. When the queue is full, who has the most in it gives
//! way: a flood from one network, or from many that fail, does not keep a quiet one out. Knows no
//! password and no clock. Cannot fail.

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
    /// Networks without recent failures, and the others.
    lanes: [Lane<T>; 2],
    most: usize,
    turn: u32,
    /// Failures of networks, halved every [`MEMORY`]; by hash, so that there are always as many.
    failures: Box<[u8]>,
    seed: u64,
    forgotten: Mono,
}

/// Networks that wait, in the order of their turns.
struct Lane<T> {
    turns: VecDeque<Network>,
    jobs: HashMap<Network, VecDeque<T>>,
    len: usize,
}

const MEMORY: Duration = Duration::from_secs(60);
const CELLS: usize = 1 << 14;
/// So many failures within a minute or two, and a network waits in the second lane.
const SUSPECT: u8 = 3;
const QUIET: usize = 0;
const NOISY: usize = 1;

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

    fn pop(&mut self) -> Option<(Network, T)> {
        let network = self.turns.pop_front()?;
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
    /// A queue of at most `most` jobs; `seed` is random.
    #[must_use]
    pub fn new(most: usize, seed: u64) -> Self {
        let failures = vec![0; CELLS].into_boxed_slice();
        Fair { lanes: [Lane::new(), Lane::new()], most, turn: 0, failures, seed, forgotten: Mono(0) }
    }

    /// Jobs that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lanes[QUIET].len + self.lanes[NOISY].len
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
        let lane = if self.failures[self.cell(network)] >= SUSPECT { NOISY } else { QUIET };
        let mut loser = None;
        if self.len() >= self.most {
            // Those who fail give way to those who do not; then the largest to the smaller.
            let from = if lane == QUIET && self.lanes[NOISY].len > 0 { NOISY } else { lane };
            match self.lanes[from].largest() {
                Some((largest, len)) if from != lane || len > self.lanes[lane].waiting(network) + 1 => {
                    loser = self.lanes[from].drop_youngest(largest);
                }
                _ => return Err(job),
            }
        }
        self.lanes[lane].push(network, job);
        loser.map_or(Ok(()), Err)
    }

    /// The next job and its network.
    pub fn pop(&mut self) -> Option<(Network, T)> {
        self.turn = (self.turn + 1) % 4;
        let first = if self.turn == 0 { NOISY } else { QUIET };
        match self.lanes[first].pop() {
            Some(next) => Some(next),
            None => self.lanes[1 - first].pop(),
        }
    }

    /// A login from `network` has failed.
    pub fn failed(&mut self, network: Network, now: Mono) {
        if now.since(self.forgotten) >= MEMORY {
            self.forgotten = now;
            self.failures.iter_mut().for_each(|n| *n /= 2);
        }
        let cell = self.cell(network);
        self.failures[cell] = self.failures[cell].saturating_add(1);
        if self.failures[cell] >= SUSPECT {
            // What it asked before goes with it, or many networks with little each would stay in front.
            for job in self.lanes[QUIET].take(network) {
                self.lanes[NOISY].push(network, job);
            }
        }
    }

    fn cell(&self, network: Network) -> usize {
        let mut x = network ^ self.seed;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % CELLS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn networks() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.254"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8::1"));
    }

    #[test]
    fn what_a_failing_network_asked_before_gives_way_too() {
        let mut queue = Fair::new(1000, 1);
        for network in 10..110 {
            (0..4).for_each(|_| queue.push(network, network).unwrap());
        }
        for network in 10..110 {
            (0..SUSPECT).for_each(|_| queue.failed(network, Mono(1)));
        }
        queue.push(1, 1).unwrap();
        let place = (0..).find(|_| queue.pop().unwrap().0 == 1).unwrap();
        assert!(place < 2, "{place}");
        assert_eq!((0..400).filter_map(|_| queue.pop()).count(), 400);
        assert!(queue.pop().is_none() && queue.is_empty());
    }

    #[test]
    fn networks_take_turns() {
        let mut queue = Fair::new(100, 1);
        (0..5).for_each(|n| queue.push(1, n).unwrap());
        queue.push(2, 10).unwrap();
        queue.push(3, 20).unwrap();
        let order: Vec<i32> = std::iter::from_fn(|| queue.pop().map(|(_, job)| job)).collect();
        assert_eq!(order, [0, 10, 20, 1, 2, 3, 4]);
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
        let now = Mono(0).after(MEMORY);
        for network in 100..150 {
            (0..SUSPECT).for_each(|_| queue.failed(network, now));
        }
        (100..108).for_each(|n| queue.push(n, n).unwrap());
        assert!(queue.push(1, 1).is_err_and(|loser| loser >= 100));
        assert_eq!(queue.pop(), Some((1, 1)));
        // A turn of four is theirs, so that an innocent one among them gets in as well.
        (0..7).for_each(|n| assert!(queue.push(n, n).is_err_and(|loser| loser >= 100) || queue.len() < 9));
        let order: Vec<bool> = std::iter::from_fn(|| queue.pop().map(|(n, _)| n >= 100)).collect();
        assert!(order[..4].contains(&true) || !order.contains(&true), "{order:?}");
        // Failures are forgotten.
        (0..4).for_each(|n| queue.failed(7, now.after(MEMORY * (n + 1))));
        queue.push(100, 100).unwrap();
        assert_eq!(queue.lanes[QUIET].len, 1);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_the_bound_holds(
            events in prop::collection::vec((0u64..6, 0u8..4), 0..300),
            most in 1usize..20,
        ) {
            let mut queue = Fair::new(most, 3);
            let (mut inside, mut next) = (std::collections::BTreeSet::new(), 0);
            for (network, event) in events {
                match event {
                    0 => match queue.pop() {
                        Some((_, job)) => prop_assert!(inside.remove(&job)),
                        None => prop_assert!(inside.is_empty()),
                    },
                    1 => queue.failed(network, Mono(0)),
                    _ => {
                        inside.insert(next);
                        if let Err(loser) = queue.push(network, next) {
                            prop_assert!(inside.remove(&loser));
                        }
                        next += 1;
                    }
                }
                prop_assert_eq!(queue.len(), inside.len());
                prop_assert!(queue.len() <= most);
            }
        }
    }
}

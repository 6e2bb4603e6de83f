//! What does it cost to send a large queue to many domains, good and bad: CPU time for each attempt,
//! memory for each message, simulated time until everybody has their mail?
//!
//! `cargo bench --bench schedule -- [RECIPIENTS [DOMAINS]]...`; without arguments 10,000, 100,000 and
//! 1,000,000 recipients over 10,000 domains. Index, timers and schedule are the server's; the network is
//! made of numbers, in simulated time. Domains are rolled up by five to a site. Of the sites one in ten is
//! dead for the first hour, one in ten takes five seconds for a message, one in ten puts everything off
//! the first time, one in ten refuses; one in twenty has a rate. CPU time is that of this thread and
//! contains the simulation's own heap of events, about a third of it.

use ringpost::base::ids::MessageId;
use ringpost::base::time::Mono;
use ringpost::base::wheel::Wheel;
use ringpost::message::body::BodyFlags;
use ringpost::queue::index::{DestId, Entry, Index, Key, Phase, Recipient};
use ringpost::queue::pace::{Backoff, Rate};
use ringpost::queue::schedule::{Answer, Limits, PoolId, Rules, Schedule};
use ringpost::queue::shares::Cost;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::Duration;

const MS: u64 = 1_000_000;
const HOUR: Mono = Mono(3_600_000 * MS);
/// Messages over one connection.
const SHARE: u32 = 100;

/// CPU time of this thread.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanos = text.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    Duration::from_nanos(nanos)
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A connection may take its next message; it has taken so many.
    Ready(PoolId, u32),
    /// A connection could not be opened.
    Dead(PoolId),
    /// The answer to a message.
    Done(PoolId, u32, DestId, u32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Good,
    Dead,
    Slow,
    PutsOff,
    Refuses,
}

fn manner(site: usize) -> Manner {
    match site % 10 {
        0 => Manner::Dead,
        1 => Manner::Slow,
        2 => Manner::PutsOff,
        3 => Manner::Refuses,
        _ => Manner::Good,
    }
}

struct Run {
    schedule: Schedule,
    index: Index,
    timers: Wheel<Key>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    /// Messages under way, by the number in their event.
    flights: Vec<Option<Key>>,
    free: Vec<u32>,
    /// Of each pool and each destination.
    sites: Vec<usize>,
    pools: Vec<usize>,
    now: Mono,
    count: u64,
    attempts: u64,
    left: usize,
}

impl Run {
    fn new(recipients: usize, domains: usize) -> Run {
        let mut run = Run {
            schedule: Schedule::new(Rules::default(), Rc::default()),
            index: Index::default(),
            timers: Wheel::new(0),
            events: BinaryHeap::new(),
            flights: Vec::new(),
            free: Vec::new(),
            sites: Vec::new(),
            pools: Vec::new(),
            now: Mono(1),
            count: 0,
            attempts: 0,
            left: recipients,
        };
        for domain in 0..domains {
            let site = domain / 5;
            let rate = if site % 20 == 7 {
                Rate { count: 50, per: Duration::from_secs(1) }
            } else {
                Rate::default()
            };
            let pause = Backoff { first: Duration::from_secs(60), max: Duration::from_secs(600) };
            let limits = Limits { rate, pause, ..Limits::default() };
            let d = run.schedule.destination(&format!("mx:domain{domain}.example"), || limits).0;
            let name = format!("site:mx{site}.example");
            let p = run.schedule.join_pool(d, (&name, &name), limits, Mono(u64::MAX));
            run.sites.push(site);
            run.pools.resize(run.pools.len().max(p.0 as usize + 1), 0);
            run.pools[p.0 as usize] = site;
        }
        for n in 0..recipients {
            let mut e = Entry::new(MessageId((n as u64 + 1) << 10), 1000, BodyFlags(0));
            let destination = (n % domains) as DestId;
            e.recipients.push(Recipient { destination, ..Recipient::default() });
            let key = run.index.insert(e);
            run.schedule.push(destination, key, run.now);
        }
        run
    }

    fn at(&mut self, wait: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((self.now.0 + wait, self.count, event)));
    }

    fn open(&mut self) {
        while let Some(p) = self.schedule.open_next(self.now) {
            match manner(self.pools[p.0 as usize]) {
                Manner::Dead if self.now < HOUR => self.at(30_000 * MS, Event::Dead(p)),
                _ => self.at(50 * MS, Event::Ready(p, 0)),
            }
        }
    }

    /// What comes next; `false`: nothing.
    fn step(&mut self) -> bool {
        self.open();
        let tick = |at: Mono| at.0 >> 27;
        let event = self.events.peek().map(|e| Mono(e.0.0));
        let timer = self.timers.next().map(|tick| Mono(tick << 27));
        let look = self.schedule.next_look(self.now);
        let Some(next) = [event, timer, look].into_iter().flatten().min() else { return false };
        self.now = self.now.max(next);
        let mut due = Vec::new();
        self.timers.advance_some(tick(self.now), 1000, |key| due.push(key));
        for key in due {
            let d = self.index.change(key, |e| {
                (e.timer, e.recipients[0].phase) = (None, Phase::Ready);
                e.recipients[0].destination
            });
            self.schedule.push(d.expect("it waits"), key, self.now);
        }
        while self.events.peek().is_some_and(|e| e.0.0 <= self.now.0) {
            let Reverse((.., event)) = self.events.pop().expect("just seen");
            self.happen(event);
        }
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Dead(p) => {
                self.schedule.failed(p, self.now, self.count);
                self.schedule.closed(p);
            }
            Event::Ready(p, taken) => {
                let work = (taken < SHARE).then(|| self.schedule.take(p, self.now, |_, _| Cost::default()));
                let Some((d, key)) = work.flatten() else {
                    self.schedule.worked(p);
                    return self.schedule.closed(p);
                };
                self.index.change(key, |e| e.recipients[0].phase = Phase::Flight);
                let number = self.free.pop().unwrap_or_else(|| {
                    self.flights.push(None);
                    self.flights.len() as u32 - 1
                });
                self.flights[number as usize] = Some(key);
                let slow = manner(self.pools[p.0 as usize]) == Manner::Slow;
                self.at(if slow { 5_000 * MS } else { 20 * MS }, Event::Done(p, taken + 1, d, number));
            }
            Event::Done(p, taken, d, number) => {
                self.attempts += 1;
                self.free.push(number);
                let key = self.flights[number as usize].take().expect("under way");
                self.schedule.answered(p, self.now, Answer::Fine, 0);
                self.settle(d, key);
                self.happen(Event::Ready(p, taken));
            }
        }
    }

    fn settle(&mut self, d: DestId, key: Key) {
        let first = self.index.get(key).is_some_and(|e| e.recipients[0].attempts == 0);
        if manner(self.sites[d as usize]) == Manner::PutsOff && first {
            let due = self.now.0 + 300_000 * MS + (self.count % 1000) * 60 * MS;
            let timer = self.timers.insert(due.div_ceil(1 << 27), key);
            self.index.change(key, |e| {
                e.timer = Some(timer);
                (e.recipients[0].phase, e.recipients[0].attempts) = (Phase::Waiting, 1);
            });
            return;
        }
        self.index.remove(key);
        self.left -= 1;
    }
}

fn measure(recipients: usize, domains: usize) {
    let mut run = Run::new(recipients, domains);
    let memory = run.index.heap_bytes() + run.timers.heap_bytes() + run.schedule.heap_bytes();
    let began = cpu();
    while run.left > 0 {
        assert!(run.step(), "{} messages are stuck", run.left);
    }
    let took = cpu() - began;
    println!(
        "{recipients:>9} recipients, {domains:>6} domains: {:>6.2} us of CPU for each of {} attempts, \
         {:>5.0} bytes for each message, drained in {} s of simulated time",
        took.as_secs_f64() * 1e6 / run.attempts as f64,
        run.attempts,
        memory as f64 / recipients as f64,
        run.now.0 / (1000 * MS),
    );
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    if numbers.is_empty() {
        [10_000, 100_000, 1_000_000].iter().for_each(|n| measure(*n, 10_000));
    }
    for pair in numbers.chunks(2) {
        measure(pair[0], pair.get(1).copied().unwrap_or(10_000));
    }
}

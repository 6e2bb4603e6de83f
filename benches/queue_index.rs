//! What do ten million waiting messages cost: time per operation, the longest single stall, memory?
//!
//! Prints one line per operation: nanoseconds on average, and the longest of all blocks of 1,000
//! operations, which is what a core would have stood still for; CPU time of this thread, so that other
//! work on the machine does not count. The number of messages is the first argument; ten million
//! without one. Not criterion's business: at that size everything is done once.

use ringpost::base::ids::MessageId;
use ringpost::base::time::Mono;
use ringpost::base::wheel::Wheel;
use ringpost::message::body::BodyFlags;
use ringpost::queue::index::{Entry, Index, Key, Phase, Recipient};
use ringpost::queue::schedule::{Limits, Rules, Schedule};
use ringpost::queue::shares::Cost;
use ringpost::queue::stub::Stub;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

const BLOCK: usize = 1000;
/// Ticks of 134 ms over which retries are spread: 4,000 s.
const SPREAD: u64 = 30_000;

/// CPU time of this thread.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanos = text.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    Duration::from_nanos(nanos)
}

/// Does `step` for each of `items` and says what that took.
fn time<T: Copy>(name: &str, items: &[T], mut step: impl FnMut(T)) {
    let (mut sum, mut longest) = (Duration::ZERO, Duration::ZERO);
    for block in items.chunks(BLOCK) {
        let began = cpu();
        block.iter().for_each(|item| step(*item));
        let took = cpu() - began;
        sum += took;
        longest = longest.max(took);
    }
    let each = sum.as_nanos() as f64 / items.len() as f64;
    println!("{name:<44} {each:>8.0} ns  longest of {BLOCK}: {:>9.1} us", longest.as_secs_f64() * 1e6);
}

fn id(n: u64) -> MessageId {
    MessageId((n + 1) << 10)
}

fn entry(n: u64) -> Entry {
    let mut e = Entry::new(id(n), 1000, BodyFlags(0));
    e.recipients.push(Recipient { phase: Phase::Waiting, ..Recipient::default() });
    e
}

/// A permutation without a pattern that a cache could learn.
fn shuffled<T: Copy>(items: &[T]) -> Vec<T> {
    let mut items = items.to_vec();
    let mut x = 88_172_645_463_325_252u64;
    for i in (1..items.len()).rev() {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        items.swap(i, (x % (i as u64 + 1)) as usize);
    }
    items
}

fn parked(count: u64) {
    let numbers: Vec<u64> = (0..count).collect();
    let mut index = Index::default();
    let mut timers = Wheel::new(0);
    let mut keys = Vec::with_capacity(numbers.len());
    time("a message comes, is armed and parked", &numbers, |n| {
        let key = index.insert(entry(n));
        let timer = timers.insert(1 + n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % SPREAD, key);
        let stub = index.change(key, |e| {
            e.timer = Some(timer);
            Stub::of(e)
        });
        index.park(key, stub.expect("rich"));
        keys.push(key);
    });
    let bytes = (index.heap_bytes() + timers.heap_bytes()) as f64 / count as f64;
    println!("{:<44} {bytes:>8.1} bytes", "  resident per message");
    let some: Vec<Key> = shuffled(&keys).into_iter().take(numbers.len() / 10).collect();
    time("found by id, at random", &some, |key| {
        let id = index.stub(key).expect("parked").id;
        assert_eq!(index.find(id), Some(key));
    });
    time("recalled and parked again, at random", &some, |key| {
        let mut e = entry(0);
        e.id = index.stub(key).expect("parked").id;
        let stub = index.recall(key, e).expect("parked");
        drop(black_box(index.park(key, stub)));
    });
    time("removed, at random", &some, |key| {
        let timer = index.stub(key).and_then(|s| s.timer).expect("armed");
        timers.cancel(timer);
        drop(black_box(index.remove(key)));
    });
    let mut due = 0u64;
    let (mut sum, mut longest, mut steps) = (Duration::ZERO, Duration::ZERO, 0u64);
    for tick in 1..=SPREAD {
        loop {
            let began = cpu();
            let done = timers.advance_some(tick, 1000, |key| {
                due += 1;
                index.change_stub(key, |s| s.timer = None);
            });
            let took = cpu() - began;
            sum += took;
            longest = longest.max(took);
            steps += 1;
            if done {
                break;
            }
        }
    }
    let (each, longest) = (sum.as_nanos() as f64 / due as f64, longest.as_secs_f64() * 1e6);
    println!("{:<44} {each:>8.0} ns  longest of {steps} steps: {longest:.1} us", "timers fire");
    let all: Vec<Key> = index.after(MessageId(0)).map(|m| m.0).collect();
    time("removed, oldest first", &all, |key| drop(black_box(index.remove(key))));
    assert_eq!(index.counters().messages, 0);
}

fn adopted(count: u64) {
    let mut index = Index::default();
    let mut timers = Wheel::new(0);
    let tail = count / 20;
    let numbers: Vec<u64> = (count - tail..count).chain(0..count - tail).collect();
    time("found at the start: stub and timer", &numbers, |n| {
        let key = index.insert_parked(Stub::of(&entry(n)));
        let timer = timers.insert(1 + n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % SPREAD, key);
        index.change_stub(key, |s| s.timer = Some(timer));
    });
    let bytes = (index.heap_bytes() + timers.heap_bytes()) as f64 / count as f64;
    println!("{:<44} {bytes:>8.1} bytes", "  resident per message");
}

fn listed(count: u64) {
    let mut schedule = Schedule::new(Rules::default(), Rc::default());
    let mut index = Index::default();
    let d = schedule.destination("a", Limits::default).0;
    let p = schedule.pool_of(d);
    let key = index.insert(entry(0));
    let numbers: Vec<u64> = (0..count).collect();
    time("put into a list", &numbers, |_| schedule.push(d, key, Mono(1)));
    println!("{:<44} {:>8.1} bytes", "  per place", schedule.heap_bytes() as f64 / count as f64);
    let some = &numbers[..1000];
    time("a beat's look at it", some, |_| {
        schedule.failed(p, Mono(1), 7);
        black_box((schedule.backlog_paused(), schedule.next_look(Mono(2)), schedule.could_work(Mono(2))));
        schedule.unpause(d);
        black_box(schedule.open_next(Mono(3)));
    });
    time("taken from a list", &numbers, |_| {
        assert!(schedule.take(p, Mono(4), |_, _| Cost::default()).is_some())
    });
}

/// A message in each list, and one connection each for as many as are allowed.
fn destinations(count: u64) {
    let mut schedule = Schedule::new(Rules::default(), Rc::default());
    let mut index = Index::default();
    let key = index.insert(entry(0));
    let numbers: Vec<u64> = (0..count).collect();
    time("a destination is met", &numbers, |n| {
        let d = schedule.destination(&format!("host{n}.example"), Limits::default).0;
        schedule.push(d, key, Mono(1));
    });
    while schedule.open_next(Mono(1)).is_some() {}
    time("a beat's look at them", &numbers[..1000], |n| {
        let now = Mono(2_000_000_000 + n);
        black_box((schedule.backlog_paused(), schedule.next_look(now), schedule.could_work(now)));
        schedule.measure(500);
        black_box(schedule.open_next(now));
    });
    println!(
        "{:<44} {:>8.1} bytes",
        "  of list per destination",
        schedule.heap_bytes() as f64 / count as f64
    );
}

fn main() {
    let count = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(10_000_000);
    parked(count);
    adopted(count);
    listed(count);
    destinations(100_000.min(count));
}

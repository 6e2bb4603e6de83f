//! A tenth of the destinations swallows connections without an answer: the slowest hundredth of the mail
//! to the others takes at most a tenth longer than without. In simulated time, over the same seeds.

use super::{DOMAINS, Look, Stage, node};
use crate::peers::client::{Letter, Style};
use crate::peers::ledger::Owed;
use crate::seeds::{self, History};
use crate::world::{MS, SEC, World};
use ringpost::storage;
use std::sync::Mutex;

/// Letters of one history.
const LETTERS: u64 = 400;
/// Histories of each kind.
const SEEDS: u64 = 20;
/// Connections to all servers together where they are scarce: fewer than there are servers.
const SCARCE: u32 = 6;

impl Stage {
    /// Letters to all domains in turn, each third one to the first domain as well; how long each took to
    /// the domains from the second on.
    async fn steady(&mut self, dark: bool) -> Vec<u64> {
        self.boot(true, Look::No);
        // It listens from then on.
        self.world.pause(2 * SEC).await;
        let mut begun: Vec<(Owed, u64)> = Vec::new();
        for n in 1..=LETTERS {
            let domain = DOMAINS[n as usize % DOMAINS.len()];
            let to = format!("user{n}@{domain}");
            let too = (n % 3 == 0).then(|| format!("too{n}@{}", DOMAINS[0]));
            let letter = Letter {
                number: n,
                sender: format!("from{n}@{}", DOMAINS[1]),
                recipients: too.into_iter().chain([to.clone()]).collect(),
                body: format!("X-Sim: {n}\r\nSubject: a letter\r\n\r\nhello\r\n").into_bytes(),
                success: false,
            };
            begun.push(((n, to), self.world.now()));
            self.send(vec![letter], Style::honest());
            self.world.pause(20 * MS + self.world.below(60 * MS)).await;
        }
        // The others have their time; the dead one is tried again and again.
        self.world.pause(300 * SEC).await;
        let sent = self.ledger.borrow().sent();
        let there = sent.keys().any(|(_, to)| to.ends_with(DOMAINS[0]));
        if there == dark {
            self.world.violation(format!("mail for the first server is sent: {there}, dark: {dark}"));
        }
        let others = begun.into_iter().filter(|((_, to), _)| !to.ends_with(DOMAINS[0]));
        let took = others.map(|(owed, at)| match sent.get(&owed) {
            Some(sent) => sent - at,
            None => {
                self.world.violation(format!("{owed:?} has not come"));
                0
            }
        });
        took.collect()
    }
}

fn history(world: &World, dark: bool, connections: Option<u32>) -> (History, Vec<u64>) {
    let mut options = node::options();
    if let Some(most) = connections {
        options.rules.connections = most;
    }
    let mut stage = Stage::new(world, DOMAINS.len(), storage::Options::tiny(), options);
    let dead = stage.behind[0].ip();
    stage.net.set_dark(dead, dark);
    let took = world.block_on(async move { stage.steady(dark).await });
    (History::of(world), took.unwrap_or_default())
}

/// How long the slowest hundredth took at least, nanoseconds.
fn slowest(test: &str, dark: bool, connections: Option<u32>) -> u64 {
    let all = Mutex::new(Vec::new());
    let runs = std::sync::atomic::AtomicU64::new(0);
    seeds::run_few(test, SEEDS, |world| {
        let (history, took) = history(world, dark, connections);
        runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        all.lock().expect("no panic here").extend(took);
        history
    });
    let mut all = all.into_inner().expect("no panic here");
    all.sort_unstable();
    // A seed that ran twice counts twice, with the same numbers each time.
    assert_eq!(all.len() as u64, runs.into_inner() * (LETTERS * 9 / 10));
    all[all.len() * 99 / 100]
}

/// Gives the 99th percentile without a black hole.
fn compare(test: &str, connections: Option<u32>) -> u64 {
    let (bright, dark) = (slowest(test, false, connections), slowest(test, true, connections));
    println!("{test}: the 99th percentile is {dark} ns with a black hole, {bright} ns without");
    assert!(dark <= bright + bright / 10, "{dark} ns with a black hole, {bright} ns without");
    bright
}

#[test]
fn a_black_hole_delays_no_others() {
    compare("a_black_hole_delays_no_others", None);
}

/// The same where a connection that waits for an answer, or for work, is one that another server cannot
/// have. Those without work are given up at the next beat.
#[test]
fn a_black_hole_delays_no_others_where_connections_are_scarce() {
    let usual = compare("a_black_hole_delays_no_others_where_connections_are_scarce", Some(SCARCE));
    assert!(usual < 5 * SEC, "{usual} ns: connections without work keep others away");
}

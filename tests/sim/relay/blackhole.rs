//! A destination that swallows connections without an answer must not slow down the others.

use super::{DOMAINS, Look, Stage, node};
use crate::peers::client::{Letter, Style};
use crate::seeds::{self, History};
use crate::world::{MS, SEC, World};
use ringpost::storage;
use std::sync::Mutex;

/// Letters of one history.
const LETTERS: u64 = 400;

impl Stage {
    /// Letters to all domains in turn, one each; how long each to the domains from the second on took.
    async fn steady(&mut self) -> Vec<u64> {
        self.boot(true, Look::No);
        // It listens from then on.
        self.world.pause(2 * SEC).await;
        let mut begun = Vec::new();
        for n in 1..=LETTERS {
            let domain = DOMAINS[n as usize % DOMAINS.len()];
            let sender = format!("from{n}@{}", DOMAINS[1]);
            let body = format!("X-Sim: {n}\r\nSubject: a letter\r\n\r\nhello\r\n").into_bytes();
            let letter = Letter {
                number: n,
                sender,
                recipients: vec![format!("user{n}@{domain}")],
                body,
                success: false,
            };
            begun.push((letter.recipients[0].clone(), self.world.now()));
            self.send(vec![letter], Style::honest());
            self.world.pause(20 * MS + self.world.below(60 * MS)).await;
        }
        // The others have their time; the dead one is tried again and again.
        self.world.pause(300 * SEC).await;
        let sent = self.ledger.borrow().sent();
        let others = (1..).zip(begun).filter(|(_, (to, _))| !to.ends_with(DOMAINS[0]));
        let took = others.map(|(n, (to, at))| match sent.get(&(n, to.clone())) {
            Some(sent) => sent - at,
            None => {
                self.world.violation(format!("letter {n} to {to} has not come"));
                0
            }
        });
        took.collect()
    }
}

fn history(world: &World, dark: bool) -> (History, Vec<u64>) {
    let mut stage = Stage::new(world, DOMAINS.len(), storage::Options::tiny(), node::options());
    let dead = stage.behind[0].ip();
    stage.net.set_dark(dead, dark);
    let took = world.block_on(async move { stage.steady().await });
    (History::of(world), took.unwrap_or_default())
}

/// Of ten servers one is a black hole: the slowest hundredth of the mail to the others takes at most a
/// tenth longer than without.
#[test]
fn a_black_hole_delays_no_others() {
    let slowest = |dark| {
        let all = Mutex::new(Vec::new());
        seeds::run_few("a_black_hole_delays_no_others", 20, |world| {
            let (history, took) = history(world, dark);
            all.lock().expect("no panic here").extend(took);
            history
        });
        let mut all = all.into_inner().expect("no panic here");
        all.sort_unstable();
        assert!(all.len() as u64 >= 9 * LETTERS / 10, "{}", all.len());
        all[all.len() * 99 / 100]
    };
    let (bright, dark) = (slowest(false), slowest(true));
    assert!(dark <= bright + bright / 10, "{dark} ns with a black hole, {bright} ns without");
}

//! One core has more mail for a server than it takes, the others a letter now and then: each of those gets
//! its turn within a bound, however long the backlog of the first.

use super::limits::starved;
use super::{DOMAINS, Stage, node};
use crate::peers::client::{Letter, Style};
use crate::peers::ledger::Owed;
use crate::peers::remote::Manners;
use crate::seeds::{self, History};
use crate::world::{MS, SEC, World};
use ringpost::queue::common::CLAIM;
use ringpost::queue::schedule::Limits;
use ringpost::queue::shares::SLICE;
use ringpost::storage;
use std::time::Duration;

/// How long the server thinks about each letter.
const WORK: u64 = 500 * MS;
/// How long the flood lasts.
const FLOOD: u64 = 120 * SEC;

impl Stage {
    fn letter(&self, domain: &str) -> Letter {
        let n = self.next.replace(self.next.get() + 1);
        Letter {
            number: n,
            sender: format!("from{n}@{}", DOMAINS[1]),
            recipients: vec![format!("user{n}@{domain}")],
            body: format!("X-Sim: {n}\r\nSubject: a letter\r\n\r\nhello\r\n").into_bytes(),
            success: false,
        }
    }

    /// Letters of the quiet cores, and when they were sent.
    async fn flood(&self) -> Vec<(Owed, u64)> {
        self.boot_with(4, true);
        self.world.pause(2 * SEC).await;
        self.remotes[0].set_manners(Manners { work: WORK, ..Manners::default() });
        let (end, mut quiet) = (self.world.now() + FLOOD, Vec::new());
        let mut next = self.world.now() + 20 * SEC;
        while self.world.now() < end {
            let many = (0..10).map(|_| self.letter(DOMAINS[0])).collect();
            self.send_to(0, many, Style::honest());
            if self.world.now() >= next {
                let core = 1 + self.world.below(3) as u16;
                let letter = self.letter(DOMAINS[0]);
                quiet.push(((letter.number, letter.recipients[0].clone()), self.world.now()));
                self.send_to(core, vec![letter], Style::honest());
                next = self.world.now() + self.world.below(8 * SEC);
            }
            self.world.pause(SEC).await;
        }
        quiet
    }
}

/// A connection is kept for a slice, and then ends after the letters that are on their way over it; who
/// claims it has it then, or, if two others were before it, after them.
fn bound(limits: &Limits) -> u64 {
    let slice = (SLICE + CLAIM).as_nanos() as u64;
    let on_their_way = u64::from(limits.connections) * WORK;
    3 * (slice + on_their_way)
}

fn history(world: &World) -> History {
    let storage = storage::Options { segments_max: 256, ..storage::Options::tiny() };
    let mut stage = Stage::new(world, 2, storage, node::options());
    // Nobody gives a connection up by itself.
    let limits = Limits { messages_per_connection: 0, ..node::limits() };
    stage.restrict(Limits { idle: Duration::from_secs(60), ..limits });
    let (w, me) = (world.clone(), stage.clone());
    world.block_on(async move {
        let quiet = me.flood().await;
        // The first core is behind, or nothing was shown; its last letters are not waited for.
        let behind = me.ledger.borrow().owed().len();
        if behind < 100 {
            w.violation(format!("no flood: {behind} letters are left"));
        }
        w.pause(bound(&limits)).await;
        let sent = me.ledger.borrow().sent();
        starved(&quiet, &sent, bound(&limits), w.now()).into_iter().for_each(|v| w.violation(v));
    });
    stage.check_limits();
    History::of(world)
}

#[test]
fn a_flood_on_one_core_starves_no_other() {
    seeds::run_few("a_flood_on_one_core_starves_no_other", 8, history);
}

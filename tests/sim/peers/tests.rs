//! The peers tested against each other: scripted clients, a breaking net, scripted servers.

use crate::machine::Machine;
use crate::net::{NetFaults, SimNet};
use crate::peers::client::{Client, Letter, Style};
use crate::peers::ledger::{Fate, SharedLedger};
use crate::peers::remote::{Manners, Remote};
use crate::seeds::{self, History};
use crate::world::{SEC, World};
use std::net::SocketAddr;

fn rude(world: &World) -> Manners {
    let some = |most: u64| if world.chance(5_000) { world.below(most) } else { 0 };
    Manners {
        put_off: some(1_000),
        refuse: some(1_000),
        tarpit: some(500),
        close: some(500),
        break_data: some(500),
        silent_take: some(1_000),
        plain: world.chance(3_000),
        dots: world.chance(3_000),
        no_bdat: false,
        work: 0,
    }
}

/// Clients talk to a remote server directly. Its 250s and the ledger must agree.
fn direct(world: &World) -> History {
    let net = SimNet::new(world);
    let ledger = SharedLedger::default();
    let there = Machine::new(world, &net, 2);
    let remote = Remote::start(&there.boot(), &ledger, rude(world));
    let faults = || if world.chance(5_000) { world.below(3_000) } else { 0 };
    net.set_faults(NetFaults {
        reset: faults(),
        stall: faults(),
        refuse: faults(),
        blackhole: faults(),
        slow: faults(),
        tiny: world.chance(3_000),
    });
    let mut acked_after = 0;
    let (w, l) = (world.clone(), ledger.clone());
    let ended = world.block_on(async move {
        for session in 0..6 {
            let client = Client {
                rt: Machine::new(&w, &net, 3).boot(),
                ledger: l.clone(),
                server: SocketAddr::new(there.ip(), 25),
            };
            let letters: Vec<Letter> =
                (0..4).map(|i| Letter::random(&w, session * 10 + i, &["a.example", "b.example"])).collect();
            if session == 5 {
                // Faults stop: what is sent now must go through.
                net.set_faults(NetFaults::default());
                remote.set_manners(Manners::default());
                acked_after = l.borrow().count(Fate::Acked);
            }
            let style = if session == 5 { Style::honest() } else { Style::random(&w) };
            let sent = client.send(&letters, style).await;
            if session == 5 && sent.is_err() {
                w.violation(format!("a healthy session failed: {sent:?}"));
            }
            w.pause(w.below(SEC)).await;
        }
        l.borrow().count(Fate::Acked) - acked_after
    });
    if ended == Some(0) {
        world.violation("a healthy server acknowledged nothing".to_owned());
    }
    ledger.borrow().check(0).into_iter().for_each(|v| world.violation(v));
    History::of(world)
}

#[test]
fn peers_agree_over_a_bad_net() {
    seeds::run("peers_agree_over_a_bad_net", direct);
}

/// What the ledger says of a letter that was taken, and confirmed, just before a crash, and sent again after
/// a start at 20 s. `crashes`: more of them; `listed`: that start called it in doubt.
fn sent_again(crashes: &[u64], listed: bool) -> Vec<String> {
    let (ledger, body) = (SharedLedger::default(), b"X-Sim: 42\r\n\r\nhello\r\n");
    let (sender, to) = ("from42@a.example", "user@b.example".to_owned());
    let mut l = ledger.borrow_mut();
    l.begin(42, sender, body);
    l.recipient(42, &to);
    l.set_fate(42, Fate::Acked);
    let first = l.deliver(sender, std::slice::from_ref(&to), body, SEC);
    l.confirm(&first, SEC + 1);
    l.crashed(2 * SEC, true);
    crashes.iter().for_each(|at| l.crashed(*at, true));
    let (about, queued) = ((42, to.clone()), [(42, to.clone())].into());
    l.inspected(20 * SEC, &queued, if listed { [about].into() } else { Default::default() });
    l.deliver(sender, std::slice::from_ref(&to), body, 30 * SEC);
    l.check(0)
}

#[test]
fn the_start_after_a_crash_says_who_is_in_doubt() {
    assert_eq!(sent_again(&[], true), [""; 0]);
    let found = sent_again(&[], false);
    assert!(found.len() == 1 && found[0].contains("not listed as in doubt"), "{found:?}");
    // In between another process was there, and may have tried it in vain.
    assert_eq!(sent_again(&[10 * SEC], false), [""; 0]);
}

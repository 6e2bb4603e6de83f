//! A shard on a disk that fills up: mail is refused, and users read and delete until there is room again.

use crate::disk::DiskFaults;
use crate::machine::{Machine, SimRuntime};
use crate::mailbox_damage::{content, deliver, small};
use crate::mailbox_world as shared;
use crate::net::SimNet;
use crate::seeds::{self, History};
use crate::world::{MS, SEC, World};
use ringpost::mailbox::api::{Alter, Mailboxes, Refusal, Selected};
use ringpost::mailbox::store::Store;
use ringpost::mailbox::types::{AccountId, Flags, Quota, UidSet};
use std::sync::atomic::{AtomicU64, Ordering};

/// Delivers until the disk is full; the account and how many messages there were, if it comes to that.
async fn fill(w: &World, store: &Store<SimRuntime>) -> Option<(AccountId, u64)> {
    let made = store.create_account("a", &[], Quota::default()).await.ok()?;
    let (a, mut n, mut full) = (made.value, 0, 0);
    while full < 3 && n < 5000 {
        n += 1;
        match deliver(store, &[a], small(n)).await {
            Ok(_) => full = 0,
            Err(Refusal::Busy) => w.pause(2 * MS).await,
            Err(Refusal::Full) => {
                full += 1;
                w.pause(SEC).await;
            }
            Err(e) => {
                w.violation(format!("delivery: {e}"));
                return None;
            }
        }
    }
    FULL.fetch_add(u64::from(full == 3), Ordering::Relaxed);
    Some((a, n))
}

/// Delivers one more message as soon as there is room.
async fn deliver_again(w: &World, store: &Store<SimRuntime>, a: AccountId, n: u64, when: &str) -> bool {
    for _ in 0..600 {
        match deliver(store, &[a], small(n + 1)).await {
            Ok(_) => return true,
            Err(Refusal::Full | Refusal::Busy) => w.pause(SEC / 2).await,
            Err(e) => {
                w.violation(format!("delivery: {e}"));
                return false;
            }
        }
    }
    w.violation(format!("{when} is deleted, and there is no room"));
    false
}

fn shuffle(w: &World, uids: &mut [u32]) {
    for i in (1..uids.len()).rev() {
        uids.swap(i, w.below(i as u64 + 1) as usize);
    }
}

/// Delivers until the disk is full; then reads, marks and deletes, as users do, until there is room again:
/// from the first message on, or at random. New mail leaves `free_min` bytes of the disk.
fn full_history(world: &World, at_random: bool, free_min: u64) -> History {
    let machine = Machine::new(world, &SimNet::new(world), 1);
    let w = world.clone();
    world.block_on(async move {
        // Of what is deleted at random the archive must have most, for that to be worth something.
        let least = if at_random { 3_000_000 } else { 2_000_000 };
        let capacity = Some(least + w.below(1_500_000));
        machine.disk.set_faults(DiskFaults { capacity, ..DiskFaults::default() });
        let rt = machine.boot();
        let Ok((store, _)) = shared::open_leaving(&rt, free_min).await else { return };
        let Some((a, n)) = fill(&w, &store).await else { return };
        let small = free_min < FREE_MIN;
        FULL_AT_RANDOM.fetch_add(u64::from(at_random && !small), Ordering::Relaxed);
        FULL_SMALL.fetch_add(u64::from(small), Ordering::Relaxed);
        let Ok(inbox) = store.select(a, "INBOX").await else {
            return w.violation("lost: a full disk cannot be read".to_owned());
        };
        let uid = |seq| inbox.message(seq).map(|m| m.uid);
        let mut uids: Vec<u32> = (1..=inbox.exists()).filter_map(uid).collect();
        if at_random {
            shuffle(&w, &mut uids);
        }
        let (most, half) = (if at_random { 3 } else { 10 }, uids.len() / 2);
        let mut gone = 0;
        for some in uids.chunks(most) {
            if let Err(e) = content(&store, a, "INBOX", some[0]).await {
                w.violation(format!("lost: message {} on a full disk: {e}", some[0]));
            }
            if at_random
                && (half..half + most).contains(&gone)
                && !deliver_again(&w, &store, a, n, "half").await
            {
                return;
            }
            gone += some.len();
            let set: UidSet = some.iter().copied().collect();
            // What is deleted makes room when the index has it, which takes a moment.
            for what in ["STORE", "EXPUNGE"] {
                let mut tries = 0;
                loop {
                    let done = match what {
                        "STORE" => inbox.store(&set, Alter::Add, Flags::DELETED, &[], None).await.map(drop),
                        _ => inbox.expunge(&set, true).await.map(drop),
                    };
                    match done {
                        Ok(()) => break,
                        Err(Refusal::Full) if tries < PATIENCE => {
                            tries += 1;
                            w.pause(SEC).await;
                        }
                        Err(e) => {
                            w.violation(format!("{what} on a full disk: {e}"));
                            return;
                        }
                    }
                }
                WAITED.fetch_max(tries, Ordering::Relaxed);
            }
            w.pause(w.below(20 * MS)).await;
        }
        drop(inbox);
        if deliver_again(&w, &store, a, n, "everything").await {
            store.close().await;
        }
    });
    History::of(world)
}

/// Seconds that who deletes on a full disk waits at most.
const PATIENCE: u64 = 5;

/// Seconds that somebody has waited, at most.
static WAITED: AtomicU64 = AtomicU64::new(0);

/// Histories of deletes at random in which the disk was full.
static FULL_AT_RANDOM: AtomicU64 = AtomicU64::new(0);

/// Those of a small reserve.
static FULL_SMALL: AtomicU64 = AtomicU64::new(0);

/// Histories in which the disk was full.
static FULL: AtomicU64 = AtomicU64::new(0);

/// Bytes of the disk that new mail leaves: nine segments.
const FREE_MIN: u64 = 600_000;

/// Also on a disk that is hardly larger than the journal may be.
#[test]
fn a_full_disk_lets_users_delete_at_random() {
    let history = |world: &World| full_history(world, true, FREE_MIN);
    seeds::run_some("a_full_disk_lets_users_delete_at_random", 30, history);
    let one = std::env::var_os("SIM_SEED").is_some();
    assert!(one || FULL_AT_RANDOM.load(Ordering::Relaxed) > 0, "no disk was ever full");
    eprintln!("who deletes has waited {} s at most", WAITED.load(Ordering::Relaxed));
}

/// Where new mail leaves no more than what giving back needs: then all of that is used.
#[test]
fn a_small_reserve_lets_users_delete_at_random() {
    let history = |world: &World| full_history(world, true, FREE_MIN / 4);
    seeds::run_long("a_small_reserve_lets_users_delete_at_random", 30, history);
    let one = std::env::var_os("SIM_SEED").is_some();
    assert!(one || FULL_SMALL.load(Ordering::Relaxed) > 0, "no disk was ever full");
    eprintln!("who deletes has waited {} s at most", WAITED.load(Ordering::Relaxed));
}

#[test]
fn a_full_disk_lets_users_read_and_delete() {
    let history = |world: &World| full_history(world, false, FREE_MIN);
    seeds::run_some("a_full_disk_lets_users_read_and_delete", 30, history);
    let one = std::env::var_os("SIM_SEED").is_some();
    assert!(one || FULL.load(Ordering::Relaxed) > 0, "no disk was ever full");
    eprintln!("who deletes has waited {} s at most", WAITED.load(Ordering::Relaxed));
}

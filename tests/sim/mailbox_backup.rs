//! Copies of a shard that is in use: each opens as the shard would have been found at one moment of the time
//! in which it was made.

use crate::disk::DiskFaults;
use crate::machine::{Machine, SimRuntime};
use crate::mailbox_model::{Model, after, fits, observe};
use crate::mailbox_world::{self as shared, Op};
use crate::net::SimNet;
use crate::seeds::{self, History};
use crate::world::{MS, World};
use ringpost::mailbox::api::Refusal;
use ringpost::runtime::Runtime;
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Copies in a history.
const COPIES: usize = 3;

/// Operations while a copy was being made, in all histories.
static BESIDE: AtomicU64 = AtomicU64::new(0);

type States = Rc<RefCell<Vec<Model>>>;

fn history(world: &World) -> History {
    let machine = Machine::new(world, &SimNet::new(world), 1);
    let w = world.clone();
    world.block_on(async move {
        machine.disk.set_faults(DiskFaults::default());
        let rt = machine.boot();
        let Ok((store, _)) = shared::open(&rt).await else {
            return w.violation("a new shard does not open".to_owned());
        };
        let states: States = Rc::new(RefCell::new(vec![Model::new()]));
        let (stop, stopped) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
        rt.spawn({
            let (w, store, states) = (w.clone(), store.clone(), states.clone());
            let (stop, stopped) = (stop.clone(), stopped.clone());
            async move {
                let mut last = 0;
                while !stop.get() {
                    let model = states.borrow().last().expect("the first").clone();
                    let op = shared::choose(&w, &model, &mut last);
                    // That is several operations.
                    let done = match op {
                        Op::RemoveAccount(_) => continue,
                        _ => shared::perform(&w, &store, &op).await,
                    };
                    match done {
                        Ok(()) => states.borrow_mut().push(after(&model, &op)),
                        Err(Refusal::Full | Refusal::Busy) => w.pause(3 * MS).await,
                        Err(e) => w.violation(format!("{op:?}: {e}")),
                    }
                    w.pause(w.below(MS)).await;
                }
                stopped.set(true);
            }
        });
        let mut made = Vec::new();
        for n in 0..COPIES {
            w.pause(w.below(400 * MS)).await;
            let (to, first) = (format!("/backup/{n}"), states.borrow().len() - 1);
            if let Err(e) = store.backup(Path::new(&to)).await {
                return w.violation(format!("no copy: {e}"));
            }
            // The next one may be committed, and not be acknowledged yet.
            let last = states.borrow().len();
            BESIDE.fetch_add((last - 1 - first) as u64, Ordering::Relaxed);
            made.push((to, first, last));
        }
        stop.set(true);
        while !stopped.get() {
            w.pause(MS).await;
        }
        store.close().await;
        for (to, first, last) in made {
            let states = states.borrow().clone();
            check(&w, &rt, &to, &states[first..(last + 1).min(states.len())]).await;
        }
    });
    History::of(world)
}

/// The copy in `to` is as one of these states.
async fn check(w: &World, rt: &SimRuntime, to: &str, known: &[Model]) {
    let (copy, found) = match shared::open_in(rt, to, 0).await {
        Ok(opened) => opened,
        Err(e) => return w.violation(format!("lost: the copy does not open: {e}")),
    };
    if found.rebuilt.is_some() || found.journal.damage_count > 0 || !found.malformed.is_empty() {
        w.violation(format!("the copy is not sound: {found:?}"));
    }
    let Ok(seen) = observe(&copy).await else {
        return w.violation("lost: the copy cannot be read".to_owned());
    };
    let mut mail = seen.values().flat_map(|a| a.values()).flat_map(|folder| folder.mail.values());
    if mail.any(|m| m.n.is_none()) {
        w.violation("lost: a message of the copy cannot be read".to_owned());
    }
    if !known.iter().any(|state| fits(&seen, &mut state.clone())) {
        w.violation(format!("lost or half: {seen:?} is none of {} states", known.len()));
    }
    copy.close().await;
}

#[test]
fn a_copy_of_a_shard_in_use_is_of_one_moment() {
    seeds::run_some("a_copy_of_a_shard_in_use_is_of_one_moment", 30, history);
    let one = std::env::var_os("SIM_SEED").is_some();
    assert!(one || BESIDE.load(Ordering::Relaxed) > 0, "nothing was ever done beside a copy");
}

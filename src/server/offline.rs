//! L5: work on the queues of a server that does not run: the index of each log made anew.
//!
//! Opens each log as the server does, without listeners and without sending, and closes it again: what
//! was in doubt stays so. The data directory is locked meanwhile. If it is interrupted, the next start
//! of the server, or of this, makes the index anew.

use super::access::start;
use super::guard::Guard;
use super::residents::Residents;
use super::tables::Tables;
use super::{Failure, refuse, settings, user_to_become};
use crate::base::ids::{LogNumber, MessageId};
use crate::config::Config;
use crate::config::{reload, users};
use crate::delivery::logs;
use crate::metrics;
use crate::queue::desk::Desk;
use crate::queue::desk::loading::{Loaded, Progress};
use crate::queue::desk::open::Parts;
use crate::runtime::uring::{self, Uring};
use crate::runtime::{Disk, checks, privileges};
use crate::storage::options::Poison;
use crate::storage::{opening, removal};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How often the progress is told.
const TELL: Duration = Duration::from_millis(100);

/// How far one log is.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The log.
    pub log: LogNumber,
    /// How far.
    pub progress: Progress,
    /// That is all.
    pub done: bool,
}

/// The log whose index has been made anew.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// Its number.
    pub log: LogNumber,
    /// Messages in its journal.
    pub journal_messages: usize,
    /// What was found in its archive.
    pub loaded: Loaded,
}

/// Makes the index of each log in the data directory anew.
///
/// # Errors
/// 75: a server runs. 78: a map cannot be read. 74: a log cannot be opened, or a write has failed; then
/// the index of that log, and of those after it, may be missing: the next start makes it.
pub fn reindex(config: Config, tell: impl FnMut(Step)) -> Result<Vec<Made>, Failure> {
    let user = user_to_become(&config)?;
    let lock = checks::lock_data_dir(&config.data_dir, user.as_ref()).map_err(refuse)?;
    let (router, _) = reload::router(&config).map_err(|problems| Failure::new(78, problems))?;
    if let Some(user) = &user {
        // What is made belongs to the server's user.
        privileges::drop_to(user).map_err(|e| Failure::new(e.exit_code(), e))?;
    }
    let config = Arc::new(config);
    // Nobody connects, so the seeds of its counters need not be secret.
    let guard = Guard::new(&config, || 0);
    let tables = Tables::new(config.clone(), Arc::new(router), guard);
    set_residents(&config, &tables)?;
    let work = async |rt| all(rt, &config, &tables, tell).await;
    let result = uring::run(&uring::Options::small(), work).map_err(|e| refuse(checks::ring_error(e)))?;
    drop(lock);
    result
}

/// Mail for mailboxes has a way, though nothing is sent.
fn set_residents(config: &Config, tables: &Tables) -> Result<(), Failure> {
    let Some(path) = config.auth.users.as_ref().filter(|_| config.has_mailboxes()) else { return Ok(()) };
    let (users, _) = users::load(path, [0; 32]).map_err(|problems| Failure::new(78, problems))?;
    let shards = start::known(&config.data_dir).unwrap_or(1);
    if let Some(residents) = Residents::new(config, Some(users)) {
        tables.set_residents(residents, shards);
    }
    Ok(())
}

async fn all(
    rt: Uring,
    config: &Config,
    tables: &Rc<Tables>,
    mut tell: impl FnMut(Step),
) -> Result<Vec<Made>, Failure> {
    let folder = config.data_dir.join("queue");
    let failed =
        |path: &Path, e: &dyn std::fmt::Display| Failure::new(74, format!("{}: {e}", path.display()));
    let names = rt.list_dirs(&folder).await.map_err(|e| failed(&folder, &e))?;
    let numbers = names.iter().filter_map(|name| logs::log_number(name));
    let all: Vec<(LogNumber, PathBuf)> = numbers.map(|n| (n, logs::directory(&folder, n))).collect();
    for (_, dir) in &all {
        // Nothing is removed as long as one of them cannot be read.
        opening::probe(&rt, dir, &settings::storage(config)).await.map_err(|e| failed(dir, &e))?;
    }
    let mut made = Vec::new();
    for (log, dir) in all {
        made.push(one(&rt, config, tables, (log, &dir), &mut tell).await?);
    }
    Ok(made)
}

async fn one(
    rt: &Uring,
    config: &Config,
    tables: &Rc<Tables>,
    (log, dir): (LogNumber, &Path),
    tell: &mut impl FnMut(Step),
) -> Result<Made, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new(74, format!("{}: {e}", dir.display()));
    match rt.remove(&dir.join(removal::INDEX)).await {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(&e)),
        _ => {}
    }
    let mut options = settings::desk(config, 1);
    options.patience = Duration::MAX;
    let parts = Parts {
        rt: rt.clone(),
        storage: settings::storage(config),
        poison: Poison::default(),
        log,
        after: MessageId::default(),
        options,
        metrics: metrics::Core::new(&::metrics::NoopRecorder, usize::from(log.0)),
        routing: tables.clone(),
        shares: Rc::default(),
    };
    let (desk, recovery) = Desk::open(dir, parts).await.map_err(|e| failed(&e))?;
    // Nothing is sent.
    desk.stop();
    let loaded = loop {
        if let Ok(loaded) = tokio::time::timeout(TELL, desk.loaded()).await {
            break loaded;
        }
        tell(Step { log, progress: desk.progress(), done: false });
    };
    desk.close_unserved().await;
    let loaded = loaded.filter(|_| !desk.is_dead());
    let loaded = loaded.ok_or_else(|| failed(&"a read or a write has failed: look at the disk"))?;
    tell(Step { log, progress: desk.progress(), done: true });
    Ok(Made { log, journal_messages: recovery.messages, loaded })
}

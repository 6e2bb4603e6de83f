//! A data directory at rest: locked, its shards found, opened and closed as the server does it.
//!
//! Knows where shards are, not what is done with them. What cannot be opened is an error with an exit code;
//! damages that were stepped over are told on the standard error.

use super::{Exit, Failure, SiteArgs};
use crate::config::Config;
use crate::mailbox::api::Mailboxes;
use crate::mailbox::spread::{self, COUNT_FILE, FOLDER, UNFINISHED_FILE};
use crate::mailbox::store::opening::{Parts, Recovery};
use crate::mailbox::store::{Index, Options, Store};
use crate::mailbox::types::AccountId;
use crate::runtime::checks;
use crate::runtime::privileges::{self, User};
use crate::runtime::uring::{self, Uring};
use crate::server::settings;
use crate::storage;
use crate::storage::options::Poison;
use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A data directory that is ours.
pub struct Site {
    /// Where.
    pub data_dir: PathBuf,
    /// How many shards there are to be; 0: nobody has said.
    pub count: u16,
    /// What the configuration says of that; 0: nothing.
    pub wanted: u16,
    /// Over so many shards the accounts are being spread, which has not come to its end.
    pub unfinished: Option<u16>,
    storage: storage::Options,
    options: Options,
    user: Option<User>,
    _lock: checks::DataDirLock,
}

/// Shards that are opened.
pub struct Desk<'a> {
    /// The data directory.
    pub site: &'a Site,
    /// The ring.
    pub rt: Uring,
    poison: Poison,
}

/// One that is.
pub type Shard = Store<Uring>;

impl Site {
    /// Finds and locks it.
    pub fn take(args: &SiteArgs) -> Result<Self, Failure> {
        let site = Self::take_unfinished(args)?;
        match site.unfinished {
            None => Ok(site),
            Some(n) => {
                let text = format_args!(
                    "the accounts are being spread over {n} shards: run `ringpost mailbox reshard {n}` again"
                );
                Err(Failure::new(Exit::Config, text))
            }
        }
    }

    /// As [`Self::take`], of one whose accounts may not be where they belong.
    pub fn take_unfinished(args: &SiteArgs) -> Result<Self, Failure> {
        let Known { dir: data_dir, storage, options, user, shards } = read_config(args)?;
        if let Err(e) = fs::metadata(&data_dir) {
            // One that is not there is not made.
            return Err(Failure::reading(&data_dir, &e));
        }
        let data_dir = std::path::absolute(&data_dir).map_err(|e| Failure::reading(&data_dir, &e))?;
        let lock = checks::lock_data_dir(&data_dir, user.as_ref()).map_err(|e| {
            let in_use = matches!(e, checks::StartError::DataDirOwned(..));
            Failure::new(if in_use { Exit::TempFail } else { Exit::NoPermission }, e)
        })?;
        let folder = data_dir.join(FOLDER);
        let count = number_in(&folder.join(COUNT_FILE))?.unwrap_or(0);
        let unfinished = number_in(&folder.join(UNFINISHED_FILE))?;
        Ok(Site { data_dir, count, wanted: shards, unfinished, storage, options, user, _lock: lock })
    }

    /// Says how many shards there are from now on.
    pub fn found(&mut self, shards: u16) -> Result<(), Failure> {
        self.write(COUNT_FILE, shards)?;
        self.count = shards;
        Ok(())
    }

    /// Says over how many shards the accounts are being spread.
    pub fn mark(&self, shards: u16) -> Result<(), Failure> {
        self.write(UNFINISHED_FILE, shards)
    }

    /// That has come to its end.
    pub fn unmark(&mut self) -> Result<(), Failure> {
        let path = self.data_dir.join(FOLDER).join(UNFINISHED_FILE);
        fs::remove_file(&path).map_err(|e| Failure::making(&path, &e))?;
        self.unfinished = None;
        self.sync_folder()
    }

    /// Removes the directories of shards beyond the number that there are.
    pub fn remove_beyond(&self) -> Result<(), Failure> {
        for shard in self.numbers()?.into_iter().filter(|n| *n >= self.count) {
            let dir = self.directory(shard);
            fs::remove_dir_all(&dir).map_err(|e| Failure::making(&dir, &e))?;
        }
        self.sync_folder()
    }

    fn write(&self, name: &str, shards: u16) -> Result<(), Failure> {
        let path = self.data_dir.join(FOLDER).join(name);
        let partial = path.with_extension("partial");
        let written = fs::create_dir_all(self.data_dir.join(FOLDER))
            .and_then(|()| fs::write(&partial, spread::text(shards)))
            .and_then(|()| fs::File::open(&partial)?.sync_all())
            .and_then(|()| fs::rename(&partial, &path));
        written.map_err(|e| Failure::making(&path, &e))?;
        self.sync_folder()
    }

    fn sync_folder(&self) -> Result<(), Failure> {
        let folder = self.data_dir.join(FOLDER);
        let done = fs::File::open(&folder).and_then(|f| f.sync_all());
        done.map_err(|e| Failure::making(&folder, &e))
    }

    /// The shards that are there.
    pub fn numbers(&self) -> Result<Vec<u16>, Failure> {
        let folder = self.data_dir.join(FOLDER);
        let mut numbers = Vec::new();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(numbers),
            Err(e) => return Err(Failure::reading(&folder, &e)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| Failure::reading(&folder, &e))?;
            let name = entry.file_name();
            let number: Option<u16> = name.to_str().filter(|n| n.len() == 4).and_then(|n| n.parse().ok());
            numbers.extend(number.filter(|_| entry.path().is_dir()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Those of `wanted`, or all.
    pub fn chosen(&self, wanted: Option<u16>) -> Result<Vec<u16>, Failure> {
        let numbers = self.numbers()?;
        match wanted {
            None => Ok(numbers),
            Some(n) if numbers.contains(&n) => Ok(vec![n]),
            Some(n) => Err(Failure::new(Exit::NoInput, format_args!("there is no shard {n:04}"))),
        }
    }

    /// The shard that an account has to be in.
    pub fn shard_of(&self, account: &str) -> Result<u16, Failure> {
        if self.count == 0 {
            let text = format!(
                "{} does not say how many shards there are: start the server once, or import with --shards",
                self.data_dir.join(FOLDER).join(COUNT_FILE).display()
            );
            return Err(Failure::new(Exit::NoInput, text));
        }
        Ok(spread::shard_of(account, self.count))
    }

    /// The directory of a shard.
    pub fn directory(&self, shard: u16) -> PathBuf {
        spread::directory(&self.data_dir, shard)
    }

    /// Does work on a ring. What it makes belongs to the server's user, whoever we are.
    pub fn work<T>(&self, work: impl AsyncFnOnce(&Desk<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let done = uring::run(&uring::Options::small(), async |rt| {
            work(&Desk { site: self, rt, poison: Poison::new() }).await
        });
        let given = self.give(&self.data_dir.join(FOLDER));
        let done = done.map_err(|e| {
            let e = checks::ring_error(e);
            Failure::new(if e.exit_code() == 71 { Exit::System } else { Exit::Config }, e)
        })??;
        given.map(|()| done)
    }

    /// What is at `path`, and below it, belongs to the server's user, whoever we are.
    pub fn give(&self, path: &Path) -> Result<(), Failure> {
        let Some(user) = self.user.as_ref().filter(|_| privileges::is_root()) else {
            return Ok(());
        };
        give_tree(path, user).map_err(|e| Failure::making(path, &e))
    }
}

/// The data directory, and the server's user if we can give him something.
pub fn place(args: &SiteArgs) -> Result<(PathBuf, Option<User>), Failure> {
    let known = read_config(args)?;
    Ok((known.dir, known.user.filter(|_| privileges::is_root())))
}

/// How many shards there are in a data directory, if it says so.
pub fn count(data_dir: &Path) -> Result<Option<u16>, Failure> {
    number_in(&data_dir.join(FOLDER).join(COUNT_FILE))
}

/// The number of shards that a file says, if it is there.
fn number_in(path: &Path) -> Result<Option<u16>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => spread::parse(&text).map(Some).ok_or_else(|| {
            Failure::new(Exit::Data, format_args!("{}: does not say how many shards", path.display()))
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::reading(path, &e)),
    }
}

fn give_tree(path: &Path, user: &User) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    chown(path, Some(user.uid), Some(user.gid))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            give_tree(&entry?.path(), user)?;
        }
    }
    Ok(())
}

/// What the configuration says.
struct Known {
    dir: PathBuf,
    storage: storage::Options,
    options: Options,
    user: Option<User>,
    /// Shards that are to be; 0: it does not say.
    shards: u16,
}

fn read_config(args: &SiteArgs) -> Result<Known, Failure> {
    match (Config::load(&args.config), &args.data_dir) {
        (Ok((config, _)), given) => {
            let storage = settings::storage(&config);
            let options = settings::mailboxes(&config, config.shards.unwrap_or(1));
            let shards = config.shards.unwrap_or(0);
            let user = match &config.user {
                Some(name) if privileges::is_root() => match privileges::user(name) {
                    Ok(user) => Some(user),
                    // The default need not exist; a name that was written must.
                    Err(_) if !config.user_written => None,
                    Err(e) => return Err(Failure::new(Exit::Config, e)),
                },
                _ => None,
            };
            let dir = given.clone().unwrap_or(config.data_dir);
            Ok(Known { dir, storage, options, user, shards })
        }
        // As it is kept without a configuration.
        (Err(_), Some(dir)) => {
            let (storage, options) = (storage::Options::production(64 << 20), Options::default());
            Ok(Known { dir: dir.clone(), storage, options, user: None, shards: 0 })
        }
        (Err(problems), None) => Err(Failure::new(Exit::Config, problems)),
    }
}

impl Desk<'_> {
    /// Opens a shard, and tells what was wrong with it.
    pub async fn open(&self, shard: u16, index: Index) -> Result<(Shard, Recovery), Failure> {
        let options = Options { index, progress: Arc::default(), ..self.site.options.clone() };
        self.open_with(shard, &self.site.directory(shard), options).await
    }

    /// Opens what is to be a shard, and is elsewhere yet (an absolute path).
    pub async fn open_dir(&self, shard: u16, dir: &Path) -> Result<(Shard, Recovery), Failure> {
        self.open_with(shard, dir, self.site.options.clone()).await
    }

    /// As [`Self::open`], telling how far an index is.
    pub async fn open_watched(
        &self,
        shard: u16,
        progress: Arc<crate::mailbox::store::Progress>,
    ) -> Result<(Shard, Recovery), Failure> {
        let options = Options { index: Index::Anew, progress, ..self.site.options.clone() };
        self.open_with(shard, &self.site.directory(shard), options).await
    }

    async fn open_with(
        &self,
        shard: u16,
        dir: &Path,
        options: Options,
    ) -> Result<(Shard, Recovery), Failure> {
        let storage = self.site.storage.clone();
        let parts = Parts { rt: self.rt.clone(), storage, poison: self.poison.clone(), options };
        let opened = Store::open(dir, parts).await;
        let (store, found) =
            opened.map_err(|e| Failure::new(Exit::Io, format_args!("shard {shard:04}: {e}")))?;
        for line in complaints(&found) {
            eprintln!("ringpost mailbox: shard {shard:04}: {line}");
        }
        Ok((store, found))
    }

    /// Opens the shard of an account that is there.
    pub async fn account(&self, name: &str) -> Result<(Shard, AccountId), Failure> {
        let shard = self.site.shard_of(name)?;
        let nobody = || Failure::new(Exit::NoUser, format_args!("{name}: no such account"));
        if !self.site.directory(shard).is_dir() {
            return Err(nobody());
        }
        let (store, _) = self.open(shard, Index::Mend).await?;
        match store.account(name).await {
            Some(id) => Ok((store, id)),
            None => {
                store.close().await;
                Err(nobody())
            }
        }
    }
}

/// What an operator must be told of a shard that was opened.
pub fn complaints(found: &Recovery) -> Vec<String> {
    let mut lines = Vec::new();
    if found.journal.damage_count > 0 {
        let ids: Vec<String> =
            found.journal.damages.iter().flat_map(|d| &d.ids).map(|id| format!("{id:x}")).collect();
        let (n, ids) = (found.journal.damage_count, ids.join(" "));
        lines.push(format!("{n} damages of the journal are stepped over; records lost: {ids}"));
    }
    if !found.malformed.is_empty() {
        let ids: Vec<String> = found.malformed.iter().map(|m| format!("{:x}", m.1)).collect();
        lines.push(format!("records that cannot be understood: {}", ids.join(" ")));
    }
    for (segment, from, to) in &found.damages {
        lines.push(format!("archive segment {segment}: bytes {from}..{to} are damaged"));
    }
    for (segment, from, to) in &found.doubts {
        lines.push(format!(
            "archive segment {segment}: bytes {from}..{to} are damaged, or left so by a crash (then nothing \
             is lost)"
        ));
    }
    if let Some(messages) = found.rebuilt {
        lines.push(format!("the index has been made anew: {messages} messages in the archive"));
    }
    if let Some(name) = &found.adopted {
        lines.push(format!("mail whose mailbox is not known any more is in the account {name}"));
    }
    lines
}

//! Mailboxes at the start: how many shards there are, which core owns which, the rings between all cores.
//!
//! The number of shards is written into the data directory with the first of them and holds from then on.
//! A configuration that says another is refused: accounts would be looked for in the wrong places.

use super::wires::{self, Far, Near};
use super::{Posting, Seed};
use crate::config::Config;
use crate::events::Events;
use crate::mailbox::spread;
use crate::metrics;
use crate::runtime::cross;
use crate::server::control::Line;
use crate::server::core::{Health, Post, Voice};
use crate::server::guard::Guard;
use crate::server::{Births, Failure, First};
use crate::storage::options::Poison;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What access cores are made of.
pub(in crate::server) struct Setup<'a> {
    /// The configuration.
    pub config: &'a Arc<Config>,
    /// What is read again later.
    pub first: &'a First,
    /// Counters of all cores.
    pub guard: &'a Guard,
    /// The poison of the data directory's file system.
    pub poison: &'a Poison,
    /// The CPU of each.
    pub places: &'a [Option<usize>],
    /// How many mail cores there are.
    pub mail: usize,
    /// For alarms.
    pub events: &'a Events,
}

/// Starts the access cores, if there are to be any; gives the control thread's lines to them, and for each
/// mail core its way to mailboxes.
///
/// # Errors
/// The number of shards is not the one that was fixed; the system is short of something.
pub(in crate::server) fn start(
    setup: &Setup<'_>,
    sockets: Vec<Vec<OwnedFd>>,
    births: &mut Births,
) -> Result<(Vec<Line>, Vec<Post>), Failure> {
    let cores = setup.places.len();
    let Some(accounts) = setup.first.accounts.as_ref().filter(|_| cores > 0) else {
        return Ok((Vec::new(), Vec::new()));
    };
    let shards = shards(&setup.config.data_dir, setup.config.shards, cores)?;
    let failed = |e: io::Error| Failure::new(71, e);
    let Mesh { near, far } = mesh(setup.mail, cores).map_err(failed)?;
    let posting = Posting::of(setup.mail + cores);
    let mut near = near.into_iter();
    let posts: Vec<Post> =
        near.by_ref().take(setup.mail).map(|near| Post { shards, near, posting: posting.clone() }).collect();
    let mut lines = Vec::new();
    for (core, (((&cpu, sockets), near), far)) in
        setup.places.iter().zip(sockets).zip(near).zip(far).enumerate()
    {
        let number = setup.mail + core;
        let (to_core, notes) = cross::channel(256).map_err(failed)?;
        let (started, start) = oneshot::channel();
        let health = Arc::new(Health::default());
        let seed = Seed {
            number: number as u16,
            cores: setup.mail + cores,
            own: owned(core, cores, shards),
            shards,
            config: setup.config.clone(),
            accounts: accounts.clone(),
            guard: setup.guard.clone(),
            certificates: setup.first.certificates.clone(),
            poison: setup.poison.clone(),
            metrics: metrics::Core::new(&*setup.first.recorder, number),
            sockets,
            near,
            far,
            posting: posting.clone(),
            notes,
            health: health.clone(),
            voice: Voice { events: setup.events.clone(), number: number as u16 },
            started,
        };
        let run = move |rt| super::run(rt, seed);
        births.core(format!("access-{core}"), number, cpu, setup.events, run)?;
        births.starts.push(start);
        lines.push(Line { to_core, health });
    }
    Ok((lines, posts))
}

/// How many shards the data directory has; none yet: as many as are `wanted`, else as there are `cores`,
/// from now on.
#[allow(clippy::disallowed_methods)] // the composition root, at the start
pub fn shards(data_dir: &Path, wanted: Option<u16>, cores: usize) -> Result<u16, Failure> {
    let folder = data_dir.join(spread::FOLDER);
    let path = folder.join(spread::COUNT_FILE);
    let failed = |e: io::Error| Failure::new(74, format!("{}: {e}", path.display()));
    if folder.join(spread::UNFINISHED_FILE).exists() {
        let text = format!(
            "the accounts in {} are being spread over another number of shards: bring `ringpost mailbox \
             reshard` to its end first",
            folder.display()
        );
        return Err(Failure::new(78, text));
    }
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if has_shards(&folder).map_err(failed)? {
                let text = format!(
                    "{} is missing, but there are mailbox shards beside it: write \"shards = N\" into it, \
                     where N is the number of folders named 0000, 0001 and so on that this server has made",
                    path.display()
                );
                return Err(Failure::new(74, text));
            }
            let cores = u16::try_from(cores).unwrap_or(u16::MAX);
            let number = wanted.unwrap_or(cores).clamp(1, spread::SHARDS_MAX);
            write(&folder, &path, &spread::text(number)).map_err(failed)?;
            return Ok(number);
        }
        Err(e) => return Err(failed(e)),
    };
    let Some(number) = spread::parse(&text) else {
        return Err(Failure::new(74, format!("{}: not a number of shards: {text:?}", path.display())));
    };
    match wanted {
        Some(other) if other != number => {
            let text = format!(
                "cores.shards = {other}, but the mailboxes in {} are spread over {number} shards: write \
                 shards = {number}, or leave it out; only `ringpost mailbox reshard`, offline, changes it",
                folder.display()
            );
            Err(Failure::new(78, text))
        }
        _ => Ok(number),
    }
}

/// How many shards the data directory has, if it says so.
#[allow(clippy::disallowed_methods)] // see above
pub fn known(data_dir: &Path) -> Option<u16> {
    let path = data_dir.join(spread::FOLDER).join(spread::COUNT_FILE);
    spread::parse(&std::fs::read_to_string(path).ok()?)
}

/// True if there is a shard although nothing says how many there are.
#[allow(clippy::disallowed_methods)] // see above
fn has_shards(folder: &Path) -> io::Result<bool> {
    match std::fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
        Ok(entries) => {
            for entry in entries {
                if entry?.file_type()?.is_dir() {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// Writes the file so that after a crash it is there whole or not at all.
#[allow(clippy::disallowed_methods)] // see above
fn write(folder: &Path, path: &Path, text: &str) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let partial = path.with_extension("partial");
    let mut file = std::fs::File::create(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&partial, path)?;
    std::fs::File::open(folder)?.sync_all()?;
    folder.parent().map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
}

/// The shards that access core `core`, of `cores`, owns.
pub fn owned(core: usize, cores: usize, shards: u16) -> Vec<u16> {
    (0..shards).filter(|shard| spread::owner(*shard, cores) == core).collect()
}

/// One end of the rings of each core: those that ask, by core; those that answer, by access core.
pub struct Mesh {
    /// For each core, mail cores first: a line to each access core, but none to itself.
    pub near: Vec<Vec<Option<Near>>>,
    /// For each access core: the lines from all other cores.
    pub far: Vec<Vec<Far>>,
}

/// Rings between `mail` mail cores, `access` access cores, and the latter among each other.
///
/// # Errors
/// Descriptors are short.
pub fn mesh(mail: usize, access: usize) -> io::Result<Mesh> {
    let mut mesh = Mesh { near: Vec::new(), far: (0..access).map(|_| Vec::new()).collect() };
    for asking in 0..mail + access {
        let mut lines = Vec::new();
        for (answering, far) in mesh.far.iter_mut().enumerate() {
            if asking == mail + answering {
                lines.push(None);
                continue;
            }
            let (near, other) = wires::pair()?;
            far.push(other);
            lines.push(Some(near));
        }
        mesh.near.push(lines);
    }
    Ok(mesh)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // tests make files
mod tests {
    use super::*;

    #[test]
    fn the_number_of_shards_stays() {
        let dir = tempfile::tempdir().unwrap();
        let shards = |wanted, cores| super::shards(dir.path(), wanted, cores).map_err(|f| (f.code, f.text));
        assert_eq!(shards(None, 3), Ok(3));
        assert_eq!((shards(None, 8), shards(Some(3), 1)), (Ok(3), Ok(3)));
        let (code, text) = shards(Some(4), 3).unwrap_err();
        assert!(code == 78 && text.contains("reshard"), "{text}");
        let mark = dir.path().join("mailbox").join(spread::UNFINISHED_FILE);
        std::fs::write(&mark, spread::text(5)).unwrap();
        let (code, text) = shards(None, 3).unwrap_err();
        assert!(code == 78 && text.contains("bring"), "{text}");
        std::fs::remove_file(&mark).unwrap();
        let file = dir.path().join("mailbox/shards");
        std::fs::write(&file, "three\n").unwrap();
        assert_eq!(shards(None, 3).unwrap_err().0, 74);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(shards(Some(2), 9), Ok(2));
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(dir.path().join("mailbox/0000")).unwrap();
        assert!(shards(None, 1).unwrap_err().1.contains("is missing"));
    }

    #[test]
    fn every_shard_has_one_owner_and_every_core_a_line() {
        let mut all: Vec<u16> = (0..3).flat_map(|core| owned(core, 3, 8)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..8).collect::<Vec<u16>>());
        let mesh = mesh(2, 3).unwrap();
        let lines: Vec<usize> = mesh.near.iter().map(|l| l.iter().flatten().count()).collect();
        assert_eq!((lines, mesh.far.iter().map(Vec::len).collect()), (vec![3, 3, 2, 2, 2], vec![4, 4, 4]));
    }
}

//! L5: what operators have held by a condition: taken back on request, or when its time is over.
//!
//! Owns the folder `holds` of the data directory: a file for each, with what it was and the ids, written
//! before the first message is held, so that a crash in between leaves none held for ever. Runs on the
//! control thread. A file that cannot be read is left alone and named. A hold that cannot be written is not
//! made.

#![allow(clippy::disallowed_methods, reason = "files of the control thread")]

use crate::base::ids::QueueId;
use crate::base::time::Wall;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Holds that are kept; the oldest without an end makes place for a new one.
pub const KEPT: usize = 100;

/// A hold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Names it; never given again while the file is there.
    pub number: u32,
    /// What was meant.
    pub what: String,
    /// Messages that were meant.
    pub messages: u64,
    /// Why; for people.
    pub reason: String,
    /// Who; for people.
    pub by: String,
    /// When, milliseconds since 1970.
    pub since: u64,
    /// When it ends by itself, milliseconds since 1970; none: not before it is taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// The holds there are.
pub struct Holds {
    folder: PathBuf,
    all: RefCell<Vec<Hold>>,
}

impl Holds {
    /// Those of the last run, of this data directory; and the files that cannot be read.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(data_dir: &Path) -> io::Result<(Holds, Vec<PathBuf>)> {
        let folder = data_dir.join("holds");
        match fs::create_dir(&folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let (mut all, mut bad) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "hold") {
                continue;
            }
            match head(&path) {
                Ok(hold) if path == file_of(&folder, hold.number) => all.push(hold),
                _ => bad.push(path),
            }
        }
        all.sort_unstable_by_key(|h| h.number);
        Ok((Holds { folder, all: RefCell::new(all) }, bad))
    }

    /// All, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Hold> {
        self.all.borrow().clone()
    }

    /// Those whose time is over.
    #[must_use]
    pub fn over(&self, wall: Wall) -> Vec<Hold> {
        self.all.borrow().iter().filter(|h| h.until.is_some_and(|until| until <= wall.0)).cloned().collect()
    }

    /// One more; gives it with its number. On stable storage when this returns.
    ///
    /// # Errors
    /// There are too many that end by themselves, or the file cannot be written.
    pub fn add(&self, mut hold: Hold, ids: &[QueueId]) -> io::Result<Hold> {
        let mut all = self.all.borrow_mut();
        if all.len() >= KEPT {
            let Some(at) = all.iter().position(|h| h.until.is_none()) else {
                let text = format!("there are {KEPT} holds that end by themselves already");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            };
            fs::remove_file(file_of(&self.folder, all[at].number))?;
            all.remove(at);
        }
        hold.number = all.iter().map(|h| h.number).max().unwrap_or(0) + 1;
        let path = file_of(&self.folder, hold.number);
        let new = path.with_extension("new");
        let mut file = BufWriter::new(File::create(&new)?);
        serde_json::to_writer(&mut file, &hold).map_err(io::Error::other)?;
        for id in ids {
            write!(file, "\n{id}")?;
        }
        writeln!(file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.folder)?.sync_all()?;
        all.push(hold.clone());
        Ok(hold)
    }

    /// The hold with this number.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<Hold> {
        self.all.borrow().iter().find(|h| h.number == number).cloned()
    }

    /// The messages that were meant.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn ids(&self, number: u32) -> io::Result<Vec<QueueId>> {
        let lines = BufReader::new(File::open(file_of(&self.folder, number))?).lines().skip(1);
        let bad = |_| io::Error::new(io::ErrorKind::InvalidData, "not a queue id");
        lines.map(|line| line?.parse().map_err(bad)).collect()
    }

    /// It is over.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&self, number: u32) -> io::Result<()> {
        fs::remove_file(file_of(&self.folder, number))?;
        self.all.borrow_mut().retain(|h| h.number != number);
        Ok(())
    }
}

fn file_of(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:06}.hold"))
}

fn head(path: &Path) -> io::Result<Hold> {
    let mut line = String::new();
    BufReader::new(File::open(path)?).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{LogNumber, MessageId};

    fn hold(until: Option<u64>) -> Hold {
        let (what, reason, by) = ("all".into(), "why".into(), "uid 1".into());
        Hold { number: 0, what, messages: 2, reason, by, since: 1000, until }
    }

    #[test]
    fn holds_outlast_a_restart_with_their_messages() {
        let dir = tempfile::tempdir().expect("a directory");
        let ids = [1, 2].map(|n| QueueId { message: MessageId(n), log: LogNumber(3) });
        let (holds, bad) = Holds::open(dir.path()).expect("made");
        assert!(bad.is_empty());
        let first = holds.add(hold(Some(5000)), &ids).expect("written");
        let second = holds.add(hold(None), &ids[..1]).expect("written");
        assert_eq!((first.number, second.number), (1, 2));
        fs::write(dir.path().join("holds/000009.hold"), "x").expect("written");
        let (holds, bad) = Holds::open(dir.path()).expect("there");
        assert_eq!((holds.all(), bad.len()), (vec![first.clone(), second], 1));
        assert_eq!(holds.ids(1).expect("a good file"), ids);
        assert!(holds.over(Wall(4999)).is_empty());
        assert_eq!(holds.over(Wall(5000)), [first]);
        holds.remove(1).expect("removed");
        assert!(holds.get(1).is_none() && holds.get(2).is_some() && holds.ids(1).is_err());
    }

    #[test]
    fn the_oldest_without_an_end_makes_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let (holds, _) = Holds::open(dir.path()).expect("made");
        holds.add(hold(Some(1)), &[]).expect("written");
        for _ in 1..=KEPT {
            holds.add(hold(None), &[]).expect("written");
        }
        let all = holds.all();
        assert_eq!((all.len(), all[0].number, all[1].number), (KEPT, 1, 3));
    }
}

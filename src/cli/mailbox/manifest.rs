//! The list of what a backup of mailboxes holds: each file with its length and CRC-32C.
//!
//! A backup without its list is not finished; one whose files are not exactly those of the list is damaged.

use super::{Exit, Failure, Progress, amount};
use crate::base::crc::{PLAIN, crc32c};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::SystemTime;

/// Its name.
pub const NAME: &str = "manifest.json";
/// Of the list and of what it lists.
const FORMAT: u32 = 1;
const STEP: usize = 1 << 20;

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// Which program has made it.
    server: String,
    /// When, in seconds since 1970.
    made: u64,
    /// Over how many shards the accounts are spread.
    pub shards: u16,
    /// The files, by path.
    pub files: Vec<Entry>,
}

/// A file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Below the directory of the backup, with `/`.
    pub path: String,
    /// Length.
    pub bytes: u64,
    crc32c: u32,
}

impl Manifest {
    /// Of the files in `dir` as they are now.
    pub fn make(dir: &Path, shards: u16) -> Result<Self, Failure> {
        let mut paths = BTreeSet::new();
        find(dir, "", &mut paths)?;
        let (mut files, mut progress, mut read) = (Vec::new(), Progress::new(), 0);
        for path in paths {
            let (bytes, crc32c) = sum(&dir.join(&path))?;
            read += bytes;
            progress.show(|| format!("{}: {} checked", dir.display(), amount(read)));
            files.push(Entry { path, bytes, crc32c });
        }
        progress.end();
        let made = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let server = concat!("ringpost ", env!("CARGO_PKG_VERSION")).to_owned();
        Ok(Manifest { format: FORMAT, server, made, shards, files })
    }

    /// Writes it into `dir`, durable.
    pub fn write(&self, dir: &Path) -> Result<(), Failure> {
        let path = dir.join(NAME);
        let written = serde_json::to_vec_pretty(self).map_err(io::Error::from).and_then(|text| {
            let mut file = File::create_new(&path)?;
            file.write_all(&text)?;
            file.sync_all()?;
            File::open(dir)?.sync_all()
        });
        written.map_err(|e| Failure::making(&path, &e))
    }

    /// Reads that of the backup in `dir`, and checks every file.
    pub fn verified(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(NAME);
        let text = fs::read(&path).map_err(|e| Failure::reading(&path, &e))?;
        let wrong = |what: String| Failure::new(Exit::Data, format_args!("{}: {what}", dir.display()));
        let list: Manifest =
            serde_json::from_slice(&text).map_err(|e| wrong(format!("{NAME} cannot be read: {e}")))?;
        if list.format != FORMAT {
            return Err(wrong(format!("made by {}, in a format that is not known here", list.server)));
        }
        let mut there = BTreeSet::new();
        find(dir, "", &mut there)?;
        let listed: BTreeSet<String> = list.files.iter().map(|f| f.path.clone()).collect();
        if let Some(path) = there.symmetric_difference(&listed).next() {
            let which = if listed.contains(path) { "is missing" } else { "is no part of it" };
            return Err(wrong(format!("{path} {which}")));
        }
        let (mut progress, mut read) = (Progress::new(), 0);
        for file in &list.files {
            if sum(&dir.join(&file.path))? != (file.bytes, file.crc32c) {
                return Err(wrong(format!("{} is damaged", file.path)));
            }
            read += file.bytes;
            progress.show(|| format!("{}: {} checked", dir.display(), amount(read)));
        }
        progress.end();
        Ok(list)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }
}

/// Paths of all files below `dir` but the list itself.
fn find(dir: &Path, below: &str, paths: &mut BTreeSet<String>) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::reading(dir, &e);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(Failure::new(
                Exit::Data,
                format_args!("{}: {name:?} is no part of it", dir.display()),
            ));
        };
        let path = format!("{below}{name}");
        if entry.file_type().map_err(failed)?.is_dir() {
            find(&entry.path(), &format!("{path}/"), paths)?;
        } else if path != NAME {
            paths.insert(path);
        }
    }
    Ok(())
}

/// Length and CRC-32C of a file.
fn sum(path: &Path) -> Result<(u64, u32), Failure> {
    let failed = |e: io::Error| Failure::reading(path, &e);
    let mut file = File::open(path).map_err(failed)?;
    let (mut step, mut bytes, mut crc) = (vec![0; STEP], 0, !PLAIN);
    loop {
        match file.read(&mut step) {
            Ok(0) => return Ok((bytes, crc)),
            Ok(n) => {
                // What it ended with, before it was inverted.
                crc = crc32c(!crc, &[&step[..n]]);
                bytes += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_as_listed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("0000")).unwrap();
        let long: Vec<u8> = (0..STEP as u32 * 2 + 77).map(|n| (n * 31) as u8).collect();
        fs::write(at("0000/long"), &long).unwrap();
        fs::write(at("short"), "").unwrap();
        assert_eq!(sum(&at("0000/long")).unwrap(), (long.len() as u64, crc32c(PLAIN, &[&long])));
        Manifest::make(dir.path(), 3).unwrap().write(dir.path()).unwrap();
        let list = Manifest::verified(dir.path()).unwrap();
        assert_eq!((list.shards, list.files.len(), list.bytes()), (3, 2, long.len() as u64));
        let wrong = |what: &str| {
            let found = Manifest::verified(dir.path()).unwrap_err();
            assert!(found.exit == Exit::Data && found.text.contains(what), "{}", found.text);
        };
        fs::write(at("more"), "").unwrap();
        wrong("more is no part of it");
        fs::remove_file(at("more")).unwrap();
        let mut other = long.clone();
        other[STEP + 5] ^= 1;
        fs::write(at("0000/long"), &other).unwrap();
        wrong("0000/long is damaged");
        fs::write(at("0000/long"), &long[1..]).unwrap();
        wrong("0000/long is damaged");
        fs::remove_file(at("0000/long")).unwrap();
        wrong("0000/long is missing");
    }
}

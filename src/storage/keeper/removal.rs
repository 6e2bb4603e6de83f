//! L4: the end of a log: whether its directory holds nothing else, and how it is removed.
//!
//! Knows the names of a log's files. Whether anything in them is still needed is the owner's to say,
//! who has closed the log before. What fails is given back; it may be tried again.

use crate::runtime::Runtime;
use crate::storage::archive::found;
use crate::storage::keeper::opening::segment_number;
use crate::storage::keeper::side;
use std::io;
use std::path::{Path, PathBuf};

/// The folder of a log's archive.
pub const ARCHIVE: &str = "archive";
/// The file of a log's index.
pub const INDEX: &str = "index";

/// What a file has behind its name until it is complete.
const PARTIAL: &str = ".partial";

/// Whether a file of that name is of a log.
type Ours = fn(&str) -> bool;

/// The folders in the directory of a log, and which files are of a log there.
fn folders(dir: &Path) -> [(PathBuf, Ours); 2] {
    [(side::dir(dir), is_side), (dir.join(ARCHIVE), is_archive)]
}

/// Something in the directory of a log that is no part of a log, if there is any.
pub async fn stranger<R: Runtime>(rt: &R, dir: &Path) -> io::Result<Option<PathBuf>> {
    if let Some(path) = stray_file(rt, dir, is_top).await? {
        return Ok(Some(path));
    }
    for name in rt.list_dirs(dir).await? {
        let path = dir.join(&name);
        let Some((_, ours)) = folders(dir).into_iter().find(|f| f.0 == path) else {
            return Ok(Some(path));
        };
        if let Some(path) = stray_file(rt, &path, ours).await? {
            return Ok(Some(path));
        }
        if let Some(name) = rt.list_dirs(&path).await?.first() {
            return Ok(Some(path.join(name)));
        }
    }
    Ok(None)
}

async fn stray_file<R: Runtime>(rt: &R, dir: &Path, ours: fn(&str) -> bool) -> io::Result<Option<PathBuf>> {
    let stray = rt.list(dir).await?.into_iter().find(|f| !ours(&f.0));
    Ok(stray.map(|f| dir.join(f.0)))
}

/// Removes a log with its directory: the files first. An error if anything else is in it.
pub async fn erase<R: Runtime>(rt: &R, dir: &Path) -> io::Result<()> {
    let there = rt.list_dirs(dir).await?;
    for (folder, ours) in folders(dir) {
        if there.iter().any(|name| dir.join(name) == folder) {
            erase_files(rt, &folder, ours).await?;
            rt.remove_dir(&folder).await?;
        }
    }
    erase_files(rt, dir, is_top).await?;
    rt.remove_dir(dir).await
}

async fn erase_files<R: Runtime>(rt: &R, dir: &Path, ours: fn(&str) -> bool) -> io::Result<()> {
    for (name, _) in rt.list(dir).await? {
        if ours(&name) {
            rt.remove(&dir.join(name)).await?;
        }
    }
    Ok(())
}

fn is_top(name: &str) -> bool {
    let name = name.strip_suffix(PARTIAL).unwrap_or(name);
    name == INDEX || segment_number(name).is_some()
}

fn is_archive(name: &str) -> bool {
    found::number_in(name).is_some()
}

fn is_side(name: &str) -> bool {
    side::name_of(name).is_some()
}

//! L4: the end of a log: whether its directory holds nothing else, and how it is removed.
//!
//! Knows the names of a log's files. Whether anything in them is still needed is the owner's to say,
//! who has closed the log before. What fails is given back; it may be tried again.

use crate::runtime::Runtime;
use crate::storage::keeper::opening::segment_number;
use crate::storage::keeper::side;
use std::io;
use std::path::{Path, PathBuf};

/// What a file has behind its name until it is complete.
const PARTIAL: &str = ".partial";

/// Something in the directory of a log that is no part of a log, if there is any.
pub async fn stranger<R: Runtime>(rt: &R, dir: &Path) -> io::Result<Option<PathBuf>> {
    let sides = side::dir(dir);
    let odd = |names: Vec<(String, u64)>, ours: fn(&str) -> bool| names.into_iter().find(|f| !ours(&f.0));
    if let Some((name, _)) = odd(rt.list(dir).await?, is_segment) {
        return Ok(Some(dir.join(name)));
    }
    for name in rt.list_dirs(dir).await? {
        if dir.join(&name) != sides {
            return Ok(Some(dir.join(name)));
        }
        if let Some((name, _)) = odd(rt.list(&sides).await?, is_side) {
            return Ok(Some(sides.join(name)));
        }
    }
    Ok(None)
}

/// Removes a log with its directory: the files first. An error if anything else is in it.
pub async fn erase<R: Runtime>(rt: &R, dir: &Path) -> io::Result<()> {
    let sides = side::dir(dir);
    if rt.list_dirs(dir).await?.iter().any(|name| dir.join(name) == sides) {
        erase_files(rt, &sides, is_side).await?;
        rt.remove_dir(&sides).await?;
    }
    erase_files(rt, dir, is_segment).await?;
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

fn is_segment(name: &str) -> bool {
    segment_number(name.strip_suffix(PARTIAL).unwrap_or(name)).is_some()
}

fn is_side(name: &str) -> bool {
    side::name_of(name).is_some()
}

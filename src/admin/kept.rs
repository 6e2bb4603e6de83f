//! L5: a small file of JSON that operators' orders are kept in over restarts, replaced as a whole.
//!
//! Knows no order. A file that is there and cannot be read is an error; after a failed write the old one is
//! still there.

#![allow(clippy::disallowed_methods, reason = "small files of the control thread, read at the start")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// What the file holds; nothing if it is not there. `removed`: what its removal would mean, for the error.
pub(super) fn read<T: DeserializeOwned + Default>(path: &Path, removed: &str) -> io::Result<T> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
            let text = format!("{}: {e}; mend it, or remove it to {removed}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(e) => Err(e),
    }
}

/// Replaces it; on stable storage when this returns.
pub(super) fn write<T: Serialize>(path: &Path, all: &T) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(all).map_err(io::Error::other)?;
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

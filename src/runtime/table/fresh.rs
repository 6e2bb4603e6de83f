//! An empty table, as bytes, with regions of a size of our choice.
//!
//! redb doubles its file until it has one region, then adds a region at a time; its regions are
//! 4 GiB, so a table would be allocated up to twice over. The size is a field of the file's head
//! (docs/design.md of redb: "region max data pages") that redb takes as it finds it, but lets nobody
//! choose. So an empty table is made in memory, the field is set, and the bytes are written.
//!
//! Knows the first page of the file format. Should another version of redb have another one, making
//! a table is an error, and a test fails.

#![allow(clippy::disallowed_methods)]

use super::store::{ROWS, damaged, told};
use crate::base::aligned::PAGE;
use crate::runtime::uring::disk::{partial_of, remove_if_there, rename_new, sync_parent};
use redb::{Builder, StorageBackend};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// First bytes of a redb file.
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// Where the number of pages in a region is.
const REGION_PAGES: usize = 20;
/// What redb puts there.
const ITS_OWN: u32 = 1 << 20;
/// Smallest region: four of the largest pages, which hold one value of the greatest length.
const REGION_MIN: u64 = 8 << 20;
const REGION_MAX: u64 = 4 << 30;

/// A file in memory.
#[derive(Debug, Clone, Default)]
struct Image(Arc<Mutex<Vec<u8>>>);

impl Image {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StorageBackend for Image {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|bytes| bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = offset as usize;
        self.with(|bytes| match bytes.get(from..from + out.len()) {
            Some(found) => {
                out.copy_from_slice(found);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|bytes| bytes.resize(len as usize, 0));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let from = offset as usize;
        self.with(|bytes| bytes[from..from + data.len()].copy_from_slice(data));
        Ok(())
    }
}

/// The bytes of an empty table that grows by about `grow` bytes.
fn image(grow: u64) -> io::Result<Vec<u8>> {
    let image = Image::default();
    let db = Builder::new().set_cache_size(1 << 20).create_with_backend(image.clone()).map_err(told)?;
    let transaction = db.begin_write().map_err(told)?;
    transaction.open_table(ROWS).map_err(told)?;
    transaction.commit().map_err(told)?;
    db.close().map_err(told)?;
    let mut bytes = image.with(std::mem::take);
    let field = bytes.get_mut(REGION_PAGES..REGION_PAGES + 4).filter(|f| **f == ITS_OWN.to_le_bytes());
    let Some(field) = field else {
        return Err(io::Error::other("this version of redb has another file format"));
    };
    let region = grow.next_power_of_two().clamp(REGION_MIN, REGION_MAX);
    field.copy_from_slice(&((region / PAGE as u64) as u32).to_le_bytes());
    Ok(bytes)
}

/// Bytes of the regions of a table's file.
///
/// # Errors
/// `InvalidData`: it is no table, or has regions that none has.
pub(super) fn region_of(file: &File) -> io::Result<u64> {
    let mut head = [0; REGION_PAGES + 4];
    match file.read_exact_at(&mut head, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged("it has no head")),
        result => result?,
    }
    let pages = u32::from_le_bytes([head[20], head[21], head[22], head[23]]);
    let region = u64::from(pages) * PAGE as u64;
    let sound = head.starts_with(MAGIC) && region.is_power_of_two();
    if sound && (REGION_MIN..=REGION_MAX).contains(&region) {
        return Ok(region);
    }
    Err(damaged("it has another head"))
}

/// Makes an empty table at `path`, durable with its name, if there is nothing.
pub(super) fn make(path: &Path, grow: u64) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let bytes = image(grow)?;
    let partial = partial_of(path);
    remove_if_there(&partial)?;
    let write = || {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        rename_new(&partial, path)
    };
    if let Err(e) = write() {
        // The first error counts; the next try removes what is left.
        drop(remove_if_there(&partial));
        return Err(e);
    }
    sync_parent(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_where_redb_has_it_and_is_followed() {
        let bytes = image(1).unwrap();
        assert!(bytes.starts_with(MAGIC));
        assert_eq!(bytes[REGION_PAGES..REGION_PAGES + 4], 2048u32.to_le_bytes());
        assert!(bytes.len() < 1 << 20, "{} bytes", bytes.len());
        let image = Image(Arc::new(Mutex::new(bytes)));
        let db = Builder::new().create_with_backend(image.clone()).unwrap();
        let mut lengths = vec![image.len().unwrap()];
        for n in 0..40u64 {
            let transaction = db.begin_write().unwrap();
            let mut rows = transaction.open_table(ROWS).unwrap();
            let value = vec![7; 1 << 20];
            rows.insert(&n.to_be_bytes()[..], value.as_slice()).unwrap();
            drop(rows);
            transaction.commit().unwrap();
            lengths.push(image.len().unwrap());
        }
        let most = lengths.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap();
        // Left to itself redb would have doubled 64 MiB.
        assert!(*lengths.last().unwrap() > 80 << 20 && most <= 2 * REGION_MIN, "{lengths:?}");
    }
}

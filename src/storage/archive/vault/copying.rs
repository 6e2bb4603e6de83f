//! L4: the segments of an archive in another directory, while it is in use.
//!
//! What is finished never changes, so that a further name does as well as a copy. Errors are of the copy.

use super::Archive;
use crate::runtime::{OpenAs, Runtime};
use crate::storage::archive::found;
use crate::storage::keeper::copying::{copy_file, link_or_copy};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

impl<R: Runtime> Archive<R> {
    /// Gives the segments, or copies of them, names in the directory `to`. Those in `there` are passed over,
    /// the others are added to it. `all`: also the one being written, as far as it is durable; and what is
    /// there and has been removed since goes. The owner removes nothing meanwhile. Gives the bytes.
    ///
    /// # Errors
    /// Reading or writing the copy.
    pub async fn copy_to(&self, to: &Path, there: &mut BTreeSet<u32>, all: bool) -> io::Result<u64> {
        let inner = self.inner();
        let mut bytes = 0;
        for number in self.segments() {
            let Some(volume) = inner.with(|s| s.shelf.get(number).cloned()) else { continue };
            if there.contains(&number) || volume.open && !all {
                continue;
            }
            let (from, to) = (inner.path(number), to.join(found::name_of(number)));
            if volume.open {
                let end = u64::from(volume.end);
                copy_file(&inner.rt, (&from, OpenAs::Archive), &to, (end, end)).await?;
                bytes += end;
            } else {
                bytes += link_or_copy(&inner.rt, (&from, OpenAs::Archive), &to).await?;
            }
            there.insert(number);
        }
        if all {
            let now: BTreeSet<u32> = self.segments().into_iter().collect();
            for gone in there.difference(&now) {
                inner.rt.remove(&to.join(found::name_of(*gone))).await?;
            }
        }
        Ok(bytes)
    }
}

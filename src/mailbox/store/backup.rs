//! L4: a copy of a shard while it is in use.
//!
//! What never changes goes first: finished archive segments, as further names or copies. Then,
//! while nothing is taken out of the journal and nothing removed: the index as of one transaction, what is
//! new in the archive, and the journal as far as it is durable after that. The journal says all that has
//! happened since the transaction, and what it names is in the copy: so the copy opens as the shard would
//! that had lost its power at that moment. Deliveries and sessions go on; the journal grows meanwhile.
//!
//! A failure is the copy's, not the shard's.

use crate::mailbox::store::Store;
use crate::runtime::Runtime;
use crate::runtime::table::Table;
use crate::storage::keeper::copying::Held;
use crate::storage::keeper::removal;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::task::Poll;

/// The mover rests, and the log keeps what it has, until this is dropped.
struct Quiet<'a, R: Runtime> {
    store: &'a Store<R>,
    log: Option<Held<R>>,
}

impl<R: Runtime> Drop for Quiet<'_, R> {
    fn drop(&mut self) {
        self.log = None;
        let mut s = self.store.0.state.borrow_mut();
        s.held = false;
        s.mover_bell.ring();
        s.crowd.wake_all();
    }
}

impl<R: Runtime> Store<R> {
    /// Copies the shard into the directory `to` (absolute; nothing is in it yet), durable. All that was
    /// acknowledged before this is called is in it, and of what came since whatever was committed up to one
    /// moment. Gives the bytes, further names included.
    ///
    /// # Errors
    /// `ResourceBusy`: a copy is being made already. `Interrupted`: the shard is being closed. `StorageFull`:
    /// it is short of space. Others: reading, or writing the copy. What there is of it is for the caller to
    /// remove.
    pub async fn backup(&self, to: &Path) -> io::Result<u64> {
        let (rt, vault) = (&self.0.rt, &self.0.vault);
        if vault.is_short() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let archive = to.join(removal::ARCHIVE);
        rt.create_dir(to).await?;
        rt.create_dir(&archive).await?;
        let mut there = BTreeSet::new();
        // One that is removed meanwhile is not wanted.
        let early = vault.copy_to(&archive, &mut there, false).await;
        let mut bytes = match early {
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            other => other?,
        };
        let quiet = self.quiet().await?;
        let log = quiet.log.as_ref().expect("held until it is dropped");
        self.0.table.copy_to(&to.join(removal::INDEX)).await?;
        bytes += vault.copy_to(&archive, &mut there, true).await?;
        bytes += log.copy_log(to).await?;
        bytes += log.copy_sides(to).await?;
        drop(quiet);
        bytes += self.0.table.bytes();
        rt.sync_dir(&archive).await?;
        rt.sync_dir(to).await?;
        Ok(bytes)
    }

    /// Waits until the mover rests.
    async fn quiet(&self) -> io::Result<Quiet<'_, R>> {
        {
            let mut s = self.0.state.borrow_mut();
            if s.held {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            s.held = true;
            s.crowd.wake_all();
        }
        let mut quiet = Quiet { store: self, log: None };
        poll_fn(|cx| {
            let mut s = self.0.state.borrow_mut();
            if s.dead || s.closing {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::Interrupted)));
            }
            if s.counted && !s.moving {
                return Poll::Ready(Ok(()));
            }
            s.crowd.join(cx);
            Poll::Pending
        })
        .await?;
        quiet.log = Some(self.0.keeper.hold());
        Ok(quiet)
    }
}

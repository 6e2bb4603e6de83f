//! The table of a core: handles, and the two threads that do its work.
//!
//! One thread commits, one reads; redb lets readers see the last commit while the next one runs, so
//! a read never waits behind a long commit. A copy has a thread of its own while it lasts. Asked
//! through bounded channels, answered through one-shots, as in `helper`. Knows neither keys nor
//! pages. A thread that cannot be started is an error of opening.

use super::store::Store;
use super::{Changes, Pieces, Rows, ScanLimit, Table, TableOptions};
use crate::runtime::uring::disk::{partial_of, remove_if_there, rename_new, sync_parent};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Jobs that wait for a thread; who asks more waits before.
const WAITING: usize = 64;

type Work = Box<dyn FnOnce(&Arc<Store>) + Send>;

pub(super) enum Job {
    Do(Work),
    End(oneshot::Sender<io::Result<()>>),
}

/// A table in a file. Clones are handles of the same one.
#[derive(Clone)]
pub struct DiskTable {
    pub(super) commits: mpsc::Sender<Job>,
    reads: mpsc::Sender<Job>,
    space: Arc<super::space::Space>,
}

fn gone() -> io::Error {
    io::Error::other("the table is closed")
}

/// Does `work` on the thread behind `queue`.
pub(super) async fn ask<T: Send + 'static>(
    queue: &mpsc::Sender<Job>,
    work: impl FnOnce(&Arc<Store>) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (answer, answered) = oneshot::channel();
    let job = move |store: &Arc<Store>| drop(answer.send(store.run(|_| work(store))));
    queue.send(Job::Do(Box::new(job))).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?
}

/// Does jobs until told to end, or until nobody can ask any more; says who wants to know the end.
fn serve(store: &Arc<Store>, mut queue: mpsc::Receiver<Job>) -> Option<oneshot::Sender<io::Result<()>>> {
    while let Some(job) = queue.blocking_recv() {
        match job {
            Job::Do(work) => work(store),
            Job::End(answer) => return Some(answer),
        }
    }
    None
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let body = move || {
        crate::runtime::block_signals();
        body();
    };
    std::thread::Builder::new().name(name.into()).spawn(body).map(drop)
}

impl DiskTable {
    /// Opens or makes the table at `path`.
    pub(crate) async fn open(path: &Path, options: TableOptions) -> io::Result<Self> {
        let path = path.to_path_buf();
        let (commits, commit_queue) = mpsc::channel(WAITING);
        let (reads, read_queue) = mpsc::channel(WAITING);
        let (answer, answered) = oneshot::channel();
        spawn("index", move || {
            let opened = Store::open(&path, options).map(Arc::new).and_then(|store| {
                let reader = store.clone();
                spawn("index-read", move || read(reader, read_queue))?;
                Ok(store)
            });
            let store = match opened {
                Ok(store) => store,
                Err(e) => return drop(answer.send(Err(e))),
            };
            drop(answer.send(Ok(store.space.clone())));
            if let Some(answer) = serve(&store, commit_queue) {
                // A copy that still runs closes it at its end.
                drop(answer.send(Arc::into_inner(store).map_or(Ok(()), Store::close)));
            }
        })?;
        let space = answered.await.map_err(|_| gone())??;
        Ok(DiskTable { commits, reads, space })
    }
}

fn read(store: Arc<Store>, queue: mpsc::Receiver<Job>) {
    let answer = serve(&store, queue);
    // Before the answer: who hears it may close the file.
    drop(store);
    if let Some(answer) = answer {
        drop(answer.send(Ok(())));
    }
}

/// Copies beside the final name and then gives it that if it is free.
fn copy(store: &Store, path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let partial = partial_of(path);
    // Of an earlier try that did not end.
    remove_if_there(&partial)?;
    let result = store.copy_to(&partial).and_then(|()| rename_new(&partial, path));
    if result.is_err() {
        // The first error counts.
        drop(remove_if_there(&partial));
        return result;
    }
    sync_parent(path)
}

impl Table for DiskTable {
    async fn commit(&self, changes: Changes) -> io::Result<()> {
        ask(&self.commits, move |store| store.commit(&changes)).await
    }

    async fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let keys = vec![key.to_vec()];
        let mut values = ask(&self.reads, move |store| store.get_many(&keys)).await?;
        Ok(values.pop().flatten())
    }

    async fn get_many(&self, keys: Vec<Vec<u8>>) -> io::Result<Vec<Option<Vec<u8>>>> {
        ask(&self.reads, move |store| store.get_many(&keys)).await
    }

    async fn scan(&self, prefix: &[u8], after: &[u8], limit: ScanLimit) -> io::Result<Rows> {
        let (prefix, after) = (prefix.to_vec(), after.to_vec());
        ask(&self.reads, move |store| store.scan(&prefix, &after, limit)).await
    }

    async fn scan_pieces(&self, prefix: &[u8], after: &[u8], limit: ScanLimit) -> io::Result<Pieces> {
        let (prefix, after) = (prefix.to_vec(), after.to_vec());
        ask(&self.reads, move |store| store.scan_pieces(&prefix, &after, limit)).await
    }

    async fn copy_to(&self, path: &Path) -> io::Result<()> {
        let path = path.to_path_buf();
        let (answer, answered) = oneshot::channel();
        ask(&self.reads, move |store| {
            let store = store.clone();
            // What goes wrong with the copy is not the table's fault.
            spawn("index-copy", move || drop(answer.send(copy(&store, &path))))
        })
        .await?;
        answered.await.map_err(|_| gone())?
    }

    fn bytes(&self) -> u64 {
        self.space.bytes()
    }

    async fn close(self) -> io::Result<()> {
        for queue in [&self.reads, &self.commits] {
            let (answer, answered) = oneshot::channel();
            queue.send(Job::End(answer)).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())??;
        }
        Ok(())
    }
}

//! The double of a table: a file whose content changes as a whole, or not at all.
//!
//! A commit that a crash interrupts leaves the old content or the new one. A disk that lies leaves a
//! mixture, which opening notices. What a table loses otherwise (restored from yesterday, gone,
//! something else) is done to it by [`SimDisk::roll_back_table`] and its like while the machine is
//! off. Knows no keys.

use super::{Between, Body, Inode, SimDisk, What, eio, full};
use crate::world::{MS, Op, SEC, US, World};
use ringpost::runtime::{Changes, Rows, ScanLimit, Table, TableOptions};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::rc::Rc;

/// First bytes of a table's file.
const MAGIC: &[u8; 8] = b"SIMTABLE";
/// Contents that can be rolled back to.
const HISTORY: usize = 256;

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// A commit in flight.
pub struct Pending {
    id: u64,
    description: u64,
    image: Vec<u8>,
}

impl Pending {
    /// Whose it is.
    pub fn is_of(&self, description: u64) -> bool {
        self.description == description
    }

    /// What the file holds if it lands.
    pub fn into_image(self) -> Vec<u8> {
        self.image
    }
}

/// Magic, hash of what follows, its length; lengths and bytes of keys and values.
fn encode(content: &Content) -> Vec<u8> {
    let mut rows = Vec::new();
    for (key, value) in content {
        rows.extend((key.len() as u32).to_le_bytes());
        rows.extend((value.len() as u32).to_le_bytes());
        rows.extend_from_slice(key);
        rows.extend_from_slice(value);
    }
    let hash = crate::rng::hash(&rows).to_le_bytes();
    [&MAGIC[..], &hash, &(rows.len() as u64).to_le_bytes(), &rows].concat()
}

/// The content of a file; `None` if it is not a sound table.
fn decode(image: &[u8]) -> Option<Content> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(image.get(at..at + 8)?.try_into().ok()?));
    let (hash, length) = (u64_at(8)?, usize::try_from(u64_at(16)?).ok()?);
    let mut rest = image.get(24..)?.get(..length)?;
    if !image.starts_with(MAGIC) || crate::rng::hash(rest) != hash {
        return None;
    }
    let mut content = Content::new();
    while !rest.is_empty() {
        let length_at = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("4")) as usize;
        let (key, value) = (length_at(0), length_at(4));
        content.insert(rest[8..8 + key].to_vec(), rest[8 + key..8 + key + value].to_vec());
        rest = &rest[8 + key + value..];
    }
    Some(content)
}

/// An open table of the double.
#[derive(Clone)]
pub struct SimTable(Rc<Opened>);

struct Opened {
    disk: SimDisk,
    inode: Rc<Inode>,
    options: TableOptions,
    description: u64,
    content: RefCell<Content>,
    /// Answers only errors: it has failed, or is closed.
    dead: Cell<bool>,
    committing: Cell<bool>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.inode.body.borrow_mut().release(self.description);
    }
}

impl SimDisk {
    /// As `Disk::open_table`.
    pub async fn open_sim_table(&self, path: &Path, options: TableOptions) -> io::Result<SimTable> {
        self.wait("open_table", MS).await;
        self.fits_dir(path)?;
        if !self.is_name(path) {
            let image = encode(&Content::new());
            let space = options.reserve_bytes + options.grow_bytes;
            if !self.room_for(image.len() as u64) {
                return Err(full());
            }
            let body = Body {
                durable: image.clone(),
                image,
                allocated: if self.room_for(space) { space } else { 0 },
                ..Body::default()
            };
            let inode = Rc::new(Inode { what: What::Plain, body: RefCell::new(body) });
            let named = self.change_name(path, Some(inode));
            self.wait("open_table", MS).await;
            self.settle_name(named);
        }
        let inode = self.named(path)?;
        let description = self.id();
        for _ in 0..600 {
            let free = inode.body.borrow().lock.is_none();
            if free {
                break;
            }
            self.wait("open_table", 50 * MS).await;
        }
        if inode.body.borrow().lock.is_some() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let image = inode.body.borrow().image.clone();
        let content = decode(&image).ok_or(io::ErrorKind::InvalidData)?;
        inode.body.borrow_mut().lock = Some(description);
        let (dead, committing) = (Cell::new(false), Cell::new(false));
        let content = RefCell::new(content);
        let opened = Opened { disk: self.clone(), inode, options, description, content, dead, committing };
        Ok(SimTable(Rc::new(opened)))
    }

    /// Rows of the table that are neither the only one of their kind nor names: those with keys of
    /// nine bytes. `None`: there is no sound table.
    pub fn table_rows(&self, path: &Path) -> Option<usize> {
        let inode = self.named(path).ok()?;
        let content = decode(&inode.body.borrow().image)?;
        Some(content.keys().filter(|k| k.len() == 9).count())
    }

    /// Puts a table back by as many commits; `false` if there were fewer. The machine must be off.
    pub fn roll_back_table(&self, path: &Path, commits: usize) -> bool {
        let inode = self.0.durable_names.borrow().get(path).cloned().expect("a table");
        let mut body = inode.body.borrow_mut();
        let Some(at) = body.history.len().checked_sub(commits) else { return false };
        if commits > 0 {
            let image = body.history[at].clone();
            body.history.truncate(at);
            body.durable.clone_from(&image);
            body.image = image;
        }
        true
    }

    /// Makes a table's file something else. The machine must be off.
    pub fn spoil_table(&self, path: &Path) {
        let inode = self.0.durable_names.borrow().get(path).cloned().expect("a table");
        let mut body = inode.body.borrow_mut();
        body.history.clear();
        body.image = b"another program's file".to_vec();
        body.durable = body.image.clone();
    }

    /// Takes a file away. The machine must be off.
    pub fn lose_file(&self, path: &Path) {
        self.0.names.borrow_mut().remove(path);
        self.0.durable_names.borrow_mut().remove(path).expect("a file");
    }
}

/// Ends the commit `id`, unless a power loss has ended it before.
fn land(disk: &SimDisk, inode: &Rc<Inode>, id: u64, whole: bool) {
    let mut body = inode.body.borrow_mut();
    if body.pending.as_ref().is_none_or(|p| p.id != id) {
        return;
    }
    let pending = body.pending.take().expect("just seen");
    let (description, world) = (pending.description, disk.world());
    // A killed process has written some of it, or all.
    let whole = whole && (!body.closed.contains(&description) || world.chance(5_000));
    if whole {
        let old = body.durable.clone();
        body.history.push(old);
        if body.history.len() > HISTORY {
            body.history.remove(0);
        }
        body.image = pending.image;
        if disk.faults().lying {
            let len = body.image.len();
            body.soil(0, len);
            let inode = inode.clone();
            world.after(world.below(3 * SEC), move || inode.body.borrow_mut().write_back(|| true));
        } else {
            body.durable = body.image.clone();
            disk.0.between.set(Between::Table);
        }
        disk.count("committed");
    }
    world.event("committed", body.image.len() as u64, u64::from(whole));
    if body.closed.contains(&description) {
        body.release(description);
    }
}

impl SimTable {
    fn world(&self) -> &World {
        self.0.disk.world()
    }

    fn alive(&self) -> io::Result<()> {
        if self.0.dead.get() {
            return Err(io::Error::other("the table has failed before, or is closed"));
        }
        Ok(())
    }

    async fn before_read(&self, name: &'static str, time: u64) -> io::Result<()> {
        self.alive()?;
        self.0.disk.wait(name, time).await;
        if self.world().chance(self.0.disk.faults().read_error) {
            self.0.dead.set(true);
            return Err(eio());
        }
        self.alive()
    }

    /// Allocates what the next content needs; one with more rows leaves the reserve.
    fn provide(&self, next: &Content, bytes: u64, leave: u64) -> io::Result<()> {
        let options = &self.0.options;
        let more_rows = next.len() > self.0.content.borrow().len();
        // Both contents are there for a moment.
        let needed = 2 * bytes + if more_rows { options.reserve_bytes } else { 0 };
        let allocated = self.0.inode.body.borrow().allocated;
        if more_rows && self.0.disk.faults().table_full {
            self.0.disk.count("commit without space");
            return Err(full());
        }
        if needed > allocated {
            let more = (needed - allocated).next_multiple_of(options.grow_bytes.max(1));
            if !self.0.disk.room_for(more + if more_rows { leave } else { 0 }) {
                self.0.disk.count("commit without space");
                return Err(full());
            }
            self.0.inode.body.borrow_mut().allocated += more;
        }
        Ok(())
    }

    async fn write(&self, next: Content, leave: u64) -> io::Result<()> {
        let image = encode(&next);
        let (disk, inode) = (&self.0.disk, &self.0.inode);
        let (world, faults) = (self.world(), disk.faults());
        world.event("commit", next.len() as u64, image.len() as u64);
        disk.0.between.set(Between::Journal);
        self.provide(&next, image.len() as u64, leave)?;
        let fault = [faults.write_error, faults.short_write, faults.sync_error];
        let fails = fault.into_iter().any(|chance| world.chance(chance));
        let whole = !fails || world.chance(5_000);
        let id = disk.id();
        let pending = Pending { id, description: self.0.description, image };
        inode.body.borrow_mut().pending = Some(pending);
        // Nobody waits for the end of a lie.
        let op = if faults.lying_table { Op::free(world) } else { Op::new(world, "commit") };
        let (slot, later) = (op.clone_slot(), (disk.clone(), inode.clone()));
        let late = if faults.lying_table { world.below(3 * SEC) } else { 0 };
        world.after(late + disk.latency(2 * MS + next.len() as u64 * US), move || {
            land(&later.0, &later.1, id, whole);
            slot.finish(());
        });
        if faults.lying_table {
            // Nobody is told what becomes of it.
            *self.0.content.borrow_mut() = next;
            return Ok(());
        }
        op.await;
        if fails {
            self.0.dead.set(true);
            return Err(eio());
        }
        *self.0.content.borrow_mut() = next;
        Ok(())
    }
}

impl Table for SimTable {
    async fn commit(&self, changes: Changes) -> io::Result<()> {
        while self.0.committing.get() {
            self.0.disk.wait("commit", 100 * US).await;
        }
        self.alive()?;
        let mut next = self.0.content.borrow().clone();
        for change in changes.iter() {
            match change.value() {
                Some(value) => next.insert(change.key().to_vec(), value.to_vec()),
                None => next.remove(change.key()),
            };
        }
        self.0.committing.set(true);
        let result = self.write(next, changes.leaves()).await;
        self.0.committing.set(false);
        result
    }

    async fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if key.len() > 1 {
            self.0.disk.count("row read");
        }
        self.before_read("get", 60 * US).await?;
        Ok(self.0.content.borrow().get(key).cloned())
    }

    async fn get_many(&self, keys: Vec<Vec<u8>>) -> io::Result<Vec<Option<Vec<u8>>>> {
        self.before_read("get_many", 60 * US + keys.len() as u64 * US).await?;
        let content = self.0.content.borrow();
        Ok(keys.iter().map(|key| content.get(key).cloned()).collect())
    }

    async fn scan(&self, prefix: &[u8], after: &[u8], limit: ScanLimit) -> io::Result<Rows> {
        self.before_read("scan", 200 * US).await?;
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let mut page = Rows::new();
        for (key, value) in self.0.content.borrow().range::<[u8], _>((from, Bound::Unbounded)) {
            if !key.starts_with(prefix) {
                break;
            }
            page.push(key, value);
            if page.len() >= limit.rows || page.bytes() >= limit.bytes {
                break;
            }
        }
        Ok(page)
    }

    async fn copy_to(&self, path: &Path) -> io::Result<()> {
        self.alive()?;
        let disk = &self.0.disk;
        let image = encode(&self.0.content.borrow());
        disk.wait("copy_to", 5 * MS).await;
        disk.fits_dir(path)?;
        if disk.is_name(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !disk.room_for(image.len() as u64) {
            return Err(full());
        }
        let body = Body { durable: image.clone(), image, ..Body::default() };
        let named =
            disk.change_name(path, Some(Rc::new(Inode { what: What::Plain, body: RefCell::new(body) })));
        disk.wait("copy_to", MS).await;
        disk.settle_name(named);
        Ok(())
    }

    fn bytes(&self) -> u64 {
        let body = self.0.inode.body.borrow();
        body.allocated.max(body.image.len() as u64)
    }

    async fn close(self) -> io::Result<()> {
        while self.0.committing.get() {
            self.0.disk.wait("close", 100 * US).await;
        }
        self.alive()?;
        self.0.disk.wait("close", MS).await;
        self.0.dead.set(true);
        self.0.inode.body.borrow_mut().release(self.0.description);
        Ok(())
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;

//! The greylist in its file, from one run to the next.
//!
//! Owns the file `greylist` of the data directory and the thread that writes it: every five minutes, and at
//! the end; a crash forgets what came since. A file that is damaged is told and begun anew: it is no more
//! than a delay for some mail. One that cannot be written is told, and tried again.

#![allow(clippy::disallowed_methods, reason = "a file of a thread of its own, read at the start")]

use crate::config::Config;
use crate::events::Events;
use crate::policy::greylist::Greylist;
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Name of the file in the data directory.
const NAME: &str = "greylist";
/// How often it is written.
const OFTEN: Duration = Duration::from_secs(300);
/// No greylist is as long as that.
const FILE_MAX: u64 = 16 << 20;

/// Writes the greylist until it is dropped, and then once more.
pub struct Keeping(Option<(Sender<Infallible>, JoinHandle<()>)>);

/// The greylist of `config`, if it has one, as the last run left it.
///
/// # Errors
/// No thread can be made.
pub fn open(
    config: &Config,
    random: impl FnOnce() -> u64,
    events: &Events,
) -> io::Result<(Option<Greylist>, Keeping)> {
    let Some(options) = config.greylist else { return Ok((None, Keeping(None))) };
    let path = config.data_dir.join(NAME);
    let list = match read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Ok(bytes) => Greylist::read(options, &bytes).or_else(|| {
            events.warn("greylist", format!("{} is damaged: it begins anew", path.display()));
            None
        }),
        Err(e) => {
            events.warn("greylist", format!("{} cannot be read, it begins anew: {e}", path.display()));
            None
        }
    };
    let list = list.unwrap_or_else(|| Greylist::new(options, random()));
    let (end, ended) = channel();
    let (kept, events) = (list.clone(), events.clone());
    let run = move || {
        loop {
            let over = ended.recv_timeout(OFTEN) != Err(RecvTimeoutError::Timeout);
            if let Err(e) = write(&path, &kept.write()) {
                events.warn("greylist", format!("{} cannot be written: {e}", path.display()));
            }
            if over {
                return;
            }
        }
    };
    let thread = thread::Builder::new().name("greylist".into()).spawn(run)?;
    Ok((Some(list), Keeping(Some((end, thread)))))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    fs::read(path)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new: PathBuf = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.0.take() {
            drop(end);
            // A panic there was told by the thread itself.
            let _ = thread.join();
        }
    }
}

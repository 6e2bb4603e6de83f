//! A whole log in memory: the journal and recovery joined without a disk, for tests, fuzz targets
//! and benches. A crash is a copy of the files with any part of the write in flight.

use crate::storage::journal::{Journal, Step, Write};
use crate::storage::options::{Options, Poison};
use crate::storage::record::{Location, RecordHead, Recovered};
use crate::storage::recover::{self, Found, LaterVersion, Recovery, RecoveryReport, START_BYTES};
use crate::storage::segment::HEAD_COPY;
use crate::storage::walk::Window;
use std::task::Waker;

/// A journal and its files.
pub struct Model {
    /// Contents of the files; the index is the file's number.
    pub files: Vec<Vec<u8>>,
    /// The journal.
    pub journal: Journal,
    /// What opening it found.
    pub report: RecoveryReport,
    options: Options,
}

/// A record as recovered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Its head.
    pub head: RecordHead,
    /// Its place.
    pub location: Location,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// Reads a log: every record and the verdict.
pub fn read(
    files: &[Vec<u8>],
    mut each: impl FnMut(Recovered<'_>),
) -> Result<recover::Outcome, LaterVersion> {
    let found = files.iter().enumerate().map(|(i, b)| {
        let start = &b[..b.len().min(START_BYTES as usize)];
        Found::new(i as u32, u32::try_from(b.len()).expect("small"), start)
    });
    let mut recovery = Recovery::new(found.collect())?;
    let mut window = Window { file: 0, base: 0, bytes: &[] };
    loop {
        match recovery.step(window) {
            recover::Step::Read { file, .. } => {
                assert!(window.file != file || window.bytes.is_empty(), "asked only for what is there");
                window = Window { file, base: 0, bytes: &files[file as usize] };
            }
            recover::Step::Batch { sequence, offset, bytes } => {
                recover::visit(sequence, offset, bytes, &mut each);
            }
            recover::Step::Done => return Ok(recovery.finish()),
        }
    }
}

impl Model {
    /// Opens the log in `files` (none: a new one). `seed` stands for chance.
    pub fn open(
        options: &Options,
        mut files: Vec<Vec<u8>>,
        seed: u8,
        each: impl FnMut(Recovered<'_>),
    ) -> Result<Self, LaterVersion> {
        let outcome = read(&files, each)?;
        let report = outcome.report.clone();
        let added = outcome.needs_file().then(|| {
            files.push(vec![0; options.segment_bytes as usize]);
            files.len() as u32 - 1
        });
        let mut nonce = [seed; 16];
        nonce[..8].copy_from_slice(&report.epoch.to_le_bytes());
        let restart = outcome.restart(options, [seed; 16], nonce, added);
        let copy = restart.head.encode();
        let file = &mut files[restart.file as usize];
        file[..HEAD_COPY].copy_from_slice(&copy);
        file[HEAD_COPY..2 * HEAD_COPY].copy_from_slice(&copy);
        let journal = Journal::new(options.clone(), Poison::new(), restart.start);
        Ok(Model { files, journal, report, options: options.clone() })
    }

    /// The next write, with a new file added if one is needed and allowed.
    pub fn next_write(&mut self) -> Option<Write> {
        if self.journal.space().wants_file() {
            self.files.push(vec![0; self.options.segment_bytes as usize]);
            self.journal.add_file(self.files.len() as u32 - 1);
        }
        match self.journal.next_step() {
            Step::Write(write) => Some(write),
            Step::Idle | Step::NeedSegment => None,
        }
    }

    /// Lets `write` reach the file, whole.
    pub fn apply(&mut self, write: &Write) {
        let at = write.offset as usize;
        self.files[write.file as usize][at..at + write.bytes.len()].copy_from_slice(&write.bytes);
    }

    /// Writes and releases until nothing is left to do; wakes whoever waited.
    pub fn settle(&mut self) {
        let mut wakers: Vec<Waker> = Vec::new();
        while let Some(write) = self.next_write() {
            self.apply(&write);
            drop(write);
            self.journal.written(true, &mut wakers);
        }
        wakers.drain(..).for_each(Waker::wake);
    }
}

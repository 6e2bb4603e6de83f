//! L3: the file that events are appended to, found again after somebody has moved it away.
//!
//! Owns the open file, and the bytes that are gathered for it: much at a time is written past the page cache
//! (`O_DIRECT`), in whole blocks, which costs a fraction of what the page cache does and does not push out of
//! memory what is needed there; what is left behind them, and what comes a little at a time, goes the usual
//! way. Before each block of lines it looks whether its path still leads to the file; if not (logrotate has
//! renamed or removed it), the file that is there now, or a new one, is opened. If that fails, the old file
//! takes the lines as before, and it is tried again with the next ones: nothing is lost but what is deleted.
//! What cannot be written is left out. Knows no lines.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Offsets and lengths of direct writes: what disks and file systems want at most.
const BLOCK: usize = 4096;
/// Bytes that are gathered. A direct write has a price of its own, so it has to carry much.
const ROOM: usize = 512 << 10;
/// Fewer bytes are not worth a direct write.
const DIRECT_MIN: usize = 128 << 10;
/// Fewer bytes are not gathered.
const GATHER_MIN: usize = 16 << 10;

/// A file that is appended to, by name. Much at a time is gathered until [`Write::flush`].
pub struct LogFile {
    path: PathBuf,
    file: File,
    /// The same file for direct writes; none where they are refused.
    direct: Option<File>,
    /// Device and inode.
    id: (u64, u64),
    gathered: Gathered,
}

/// Bytes that are not written yet. They lie in memory as they will in blocks of the file.
#[derive(Default)]
struct Gathered {
    /// `BLOCK` more than [`ROOM`], of which the part from `origin` on is used; empty before the first use.
    memory: Vec<u8>,
    /// Makes what is at offset 0 lie at a multiple of [`BLOCK`], in memory too.
    origin: usize,
    /// What there is.
    held: Range<usize>,
}

impl Gathered {
    fn slice(&self, range: Range<usize>) -> &[u8] {
        &self.memory[self.origin + range.start..self.origin + range.end]
    }

    /// Begins anew; the first byte comes to `end` of the file.
    fn begin(&mut self, end: u64) {
        if self.memory.is_empty() {
            self.memory.resize(ROOM + BLOCK, 0);
            self.origin = self.memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        }
        let start = (end % BLOCK as u64) as usize;
        self.held = start..start;
    }

    /// Takes what there is room for; returns how much.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(ROOM - self.held.end);
        let to = self.origin + self.held.end;
        self.memory[to..to + count].copy_from_slice(&bytes[..count]);
        self.held.end += count;
        count
    }

    /// Forgets all before `at`, where a block begins.
    fn written_to(&mut self, at: usize) {
        let held = self.origin + at..self.origin + self.held.end;
        let rest = held.len();
        self.memory.copy_within(held, self.origin);
        self.held = 0..rest;
    }
}

impl LogFile {
    /// Opens it, or makes it (readable by its group, for log shippers).
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (file, id) = open(path, 0)?;
        let direct = also_direct(path, id);
        Ok(LogFile { path: path.to_owned(), file, direct, id, gathered: Gathered::default() })
    }

    fn follow(&mut self) {
        let there = std::fs::metadata(&self.path).map(|m| (m.dev(), m.ino()));
        if there.is_ok_and(|id| id == self.id) {
            return;
        }
        if let Ok((file, id)) = open(&self.path, 0) {
            // A line is never in two files. Nobody to tell: the place for telling is what fails.
            let _ = self.put_all();
            (self.file, self.id) = (file, id);
            self.direct = also_direct(&self.path, id);
        }
    }

    /// Writes all that is gathered.
    fn put_all(&mut self) -> io::Result<()> {
        let done = self.put_blocks().and_then(|()| {
            let held = self.gathered.held.clone();
            self.file.write_all(self.gathered.slice(held))
        });
        self.gathered.held = 0..0;
        done
    }

    /// Writes the blocks that are whole, if they are many; or, if they are refused, everything.
    fn put_blocks(&mut self) -> io::Result<()> {
        let Range { start, end } = self.gathered.held;
        let Some(direct) = self.direct.as_mut().filter(|_| end - start >= DIRECT_MIN) else { return Ok(()) };
        let (first, last) = (start.next_multiple_of(BLOCK), end / BLOCK * BLOCK);
        self.file.write_all(self.gathered.slice(start..first))?;
        self.gathered.held.start = first;
        match direct.write_all(self.gathered.slice(first..last)) {
            Ok(()) => self.gathered.written_to(last),
            Err(e) if e.kind() == ErrorKind::InvalidInput => {
                // Somebody else has written, so that the file ends within a block; or it is the file system.
                if self.file.metadata()?.len().is_multiple_of(BLOCK as u64) {
                    self.direct = None;
                }
                let held = self.gathered.held.clone();
                self.file.write_all(self.gathered.slice(held))?;
                self.gathered.held = 0..0;
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn gather(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if self.gathered.held.is_empty() {
            self.gathered.begin(self.file.metadata()?.len());
        }
        loop {
            let taken = self.gathered.take(bytes);
            bytes = &bytes[taken..];
            if bytes.is_empty() {
                return Ok(());
            }
            self.put_blocks()?;
            if self.gathered.held.is_empty() {
                self.gathered.begin(self.file.metadata()?.len());
            }
        }
    }
}

/// The same file once more, for direct writes.
fn also_direct(path: &Path, id: (u64, u64)) -> Option<File> {
    open(path, libc::O_DIRECT).ok().filter(|(_, there)| *there == id).map(|(file, _)| file)
}

fn open(path: &Path, flags: i32) -> io::Result<(File, (u64, u64))> {
    let mut options = OpenOptions::new();
    #[allow(clippy::disallowed_methods, reason = "the log is written by a thread of its own")]
    let file = options.append(true).create(true).mode(0o640).custom_flags(flags).open(path)?;
    let facts = file.metadata()?;
    Ok((file, (facts.dev(), facts.ino())))
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    /// Whole: a line is never in two files.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.follow();
        let few = self.gathered.held.is_empty() && bytes.len() < GATHER_MIN;
        if few || self.direct.is_none() {
            self.put_all()?;
            return self.file.write_all(bytes);
        }
        let done = self.gather(bytes);
        if done.is_err() {
            self.gathered.held = 0..0;
        }
        done
    }

    fn flush(&mut self) -> io::Result<()> {
        self.put_all()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "looks at files")]
mod tests {
    use super::*;

    fn text(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_file_that_is_moved_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        std::fs::write(&path, "0\n").unwrap();
        let mut log = LogFile::open(&path).unwrap();
        log.write_all(b"a\n").unwrap();
        std::fs::rename(&path, &old).unwrap();
        log.write_all(b"b\n").unwrap();
        assert_eq!((text(&old).as_str(), text(&path).as_str()), ("0\na\n", "b\n"));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        // Somebody has made the new one already, as logrotate does.
        std::fs::rename(&path, &old).unwrap();
        std::fs::write(&path, "").unwrap();
        log.write_all(b"c\n").unwrap();
        assert_eq!((text(&old).as_str(), text(&path).as_str()), ("b\n", "c\n"));
        std::fs::remove_file(&path).unwrap();
        log.write_all(b"d\n").unwrap();
        assert_eq!(text(&path), "d\n");
    }

    #[test]
    fn the_old_file_is_kept_until_there_is_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let (there, away) = (dir.path().join("logs"), dir.path().join("away"));
        std::fs::create_dir(&there).unwrap();
        let mut log = LogFile::open(&there.join("log")).unwrap();
        std::fs::rename(&there, &away).unwrap();
        log.write_all(b"a\n").unwrap();
        assert_eq!(text(&away.join("log")), "a\n");
        std::fs::create_dir(&there).unwrap();
        log.write_all(b"b\n").unwrap();
        assert_eq!((text(&away.join("log")).as_str(), text(&there.join("log")).as_str()), ("a\n", "b\n"));
    }

    /// Numbered lines, some of them long.
    fn some_lines(from: usize, count: usize) -> Vec<u8> {
        (from..from + count)
            .flat_map(|n| format!("{n} {}\n", "x".repeat(n * 37 % 900)).into_bytes())
            .collect()
    }

    /// A file in a place where direct writes work, or none.
    fn direct(path: &Path) -> Option<LogFile> {
        let mut log = LogFile::open(path).unwrap();
        // Where they are refused, the first says so.
        log.write_all(&[b'\n'; ROOM + 1]).unwrap();
        log.flush().unwrap();
        std::fs::write(path, "").unwrap();
        log.direct.is_some().then_some(log)
    }

    #[test]
    fn much_at_a_time_goes_past_the_page_cache_and_all_of_it_arrives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let Some(mut log) = direct(&path) else { return };
        let mut all = Vec::new();
        for round in 0..200_usize {
            // A few, a buffer of a core, several of them.
            let lines = some_lines(round * 1000, [1, 150, 700, 40][round * 7 % 4]);
            log.write_all(&lines).unwrap();
            all.extend(lines);
            if round % 9 == 0 {
                log.flush().unwrap();
                assert!(std::fs::read(&path).unwrap() == all, "round {round}");
            }
            assert!(log.gathered.held.end <= ROOM);
        }
        log.flush().unwrap();
        assert!(std::fs::read(&path).unwrap() == all && log.direct.is_some());
    }

    #[test]
    fn what_is_gathered_goes_to_the_file_it_was_meant_for() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let Some(mut log) = direct(&path) else { return };
        let (first, second) = (some_lines(0, 2000), some_lines(2000, 100));
        log.write_all(&first).unwrap();
        assert!(!log.gathered.held.is_empty());
        std::fs::rename(&path, &old).unwrap();
        log.write_all(&second).unwrap();
        log.flush().unwrap();
        assert!(std::fs::read(&old).unwrap() == first && std::fs::read(&path).unwrap() == second);
    }

    /// logrotate's `copytruncate`, and somebody with a shell.
    #[test]
    fn others_may_cut_it_off_or_add_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let Some(mut log) = direct(&path) else { return };
        let lines = some_lines(0, 2000);
        log.write_all(&lines).unwrap();
        std::fs::write(&path, "").unwrap();
        log.write_all(&lines).unwrap();
        log.flush().unwrap();
        let there = std::fs::read(&path).unwrap();
        assert!(there.ends_with(&lines) && there.len() < 2 * lines.len());
        log.write_all(&lines).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"# rotated by hand\n").unwrap();
        log.write_all(&lines).unwrap();
        log.flush().unwrap();
        let now = std::fs::read(&path).unwrap();
        assert_eq!(now.len(), there.len() + 2 * lines.len() + "# rotated by hand\n".len());
        assert!(now.starts_with(&there) && now.ends_with(&lines[lines.len() / 2..]));
    }
}

//! L3: the file that events are appended to, found again after somebody has moved it away.
//!
//! Owns the open file. Before each line, or block of lines, it looks whether its path still leads to it; if
//! not (logrotate has renamed or removed it), the file that is there now, or a new one, is opened. If that
//! fails, the old file takes the lines as before, and it is tried again with the next ones: nothing is lost
//! but what is deleted. Knows no lines.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file that is appended to, by name.
pub struct LogFile {
    path: PathBuf,
    file: File,
    /// Device and inode.
    id: (u64, u64),
}

impl LogFile {
    /// Opens it, or makes it (readable by its group, for log shippers).
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (file, id) = open(path)?;
        Ok(LogFile { path: path.to_owned(), file, id })
    }

    fn follow(&mut self) {
        let there = std::fs::metadata(&self.path).map(|m| (m.dev(), m.ino()));
        if there.is_ok_and(|id| id == self.id) {
            return;
        }
        if let Ok((file, id)) = open(&self.path) {
            (self.file, self.id) = (file, id);
        }
    }
}

fn open(path: &Path) -> io::Result<(File, (u64, u64))> {
    let mut options = OpenOptions::new();
    #[allow(clippy::disallowed_methods, reason = "the log is written by a thread of its own")]
    let file = options.append(true).create(true).mode(0o640).open(path)?;
    let facts = file.metadata()?;
    Ok((file, (facts.dev(), facts.ino())))
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    /// Whole: a line is never in two files.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.follow();
        self.file.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
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
}

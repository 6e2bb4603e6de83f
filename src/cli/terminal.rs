//! The terminal of a program that shows one screen after the other until it is told to end.
//!
//! Owns size, keys and modes: no echo, keys as they are pressed, Ctrl-C among them, no cursor, no wrapping of
//! long lines. All of it is put back when the value goes, also in a panic. What the terminal does not do is
//! done without.

#![allow(clippy::disallowed_methods, reason = "a program for operators looks at the clock")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr,
};
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// How often the size is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Columns and rows of a terminal that does not say.
const USUAL: Size = Size { columns: 80, rows: 24 };

/// Of the terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// Why a wait has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Woken {
    /// Its time is over.
    Time,
    /// The terminal has another size.
    Resized,
    /// Somebody wants to end: q, Ctrl-C, Ctrl-D, or nobody is there any more.
    Quit,
}

/// Standard input and output, if they are a terminal.
pub(super) struct Terminal {
    before: Termios,
    size: Size,
}

impl Terminal {
    /// None: they are not.
    pub(super) fn take() -> Option<Terminal> {
        if !isatty(io::stdin()) || !isatty(io::stdout()) {
            return None;
        }
        let before = tcgetattr(io::stdin()).ok()?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        modes.special_codes[SpecialCodeIndex::VMIN] = 0;
        modes.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Flush, &modes).ok()?;
        let terminal = Terminal { before, size: size() };
        terminal.write("\x1b[?25l\x1b[?7l\x1b[2J");
        Some(terminal)
    }

    /// How large it is.
    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// Shows `text` instead of what is there.
    pub(super) fn show(&self, text: &str) {
        self.write(&fit(text, self.size));
    }

    /// Waits until `until`, or for something to happen.
    pub(super) fn wait(&mut self, until: Instant) -> Woken {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match key(left.min(LOOK)) {
                Ok(Some(b'q' | b'Q' | 0x03 | 0x04)) | Err(_) => return Woken::Quit,
                Ok(_) => {}
            }
            let now = size();
            if std::mem::replace(&mut self.size, now) != now {
                return Woken::Resized;
            }
            if left.is_zero() {
                return Woken::Time;
            }
        }
    }

    /// What cannot be shown is not seen by anybody.
    fn write(&self, text: &str) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.write("\x1b[?7h\x1b[?25h");
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

fn size() -> Size {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            Size { columns: size.ws_col.into(), rows: size.ws_row.into() }
        }
        _ => USUAL,
    }
}

/// A key that is pressed within `time`. An error: there will be none any more.
fn key(time: Duration) -> io::Result<Option<u8>> {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    match poll(&mut fds, Some(&time)) {
        Err(rustix::io::Errno::INTR) => return Ok(None),
        done => done?,
    };
    let seen = fds[0].revents();
    if seen.is_empty() {
        return Ok(None);
    }
    let mut byte = [0];
    match rustix::io::read(&stdin, &mut byte)? {
        0 if seen.contains(PollFlags::HUP) => Err(io::ErrorKind::UnexpectedEof.into()),
        0 => Ok(None),
        _ => Ok(Some(byte[0])),
    }
}

/// `text` for a screen of this size: what does not fit is cut. The last row stays free for the cursor.
fn fit(text: &str, size: Size) -> String {
    let mut out = "\x1b[H".to_owned();
    for line in text.lines().take(size.rows.saturating_sub(1)) {
        // What is not ASCII may take two columns.
        let mut columns = 0;
        let fits = |c: &char| {
            columns += if c.is_ascii() { 1 } else { 2 };
            columns <= size.columns
        };
        out.extend(line.chars().take_while(fits));
        out += "\x1b[K\r\n";
    }
    out + "\x1b[J"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut() {
        let text = "one line\ntw\u{f6}\nthree\n";
        let at = |columns, rows| fit(text, Size { columns, rows });
        let end = "\x1b[K\r\n";
        assert_eq!(at(80, 24), format!("\x1b[Hone line{end}tw\u{f6}{end}three{end}\x1b[J"));
        assert_eq!(at(3, 3), format!("\x1b[Hone{end}tw{end}\x1b[J"));
        assert_eq!(at(80, 1), "\x1b[H\x1b[J");
        assert_eq!(at(0, 0), "\x1b[H\x1b[J");
        for (columns, rows) in [(1, 2), (2, 2), (5, 4)] {
            let shown = at(columns, rows);
            assert!(shown.lines().count() <= rows, "{shown:?}");
        }
    }
}

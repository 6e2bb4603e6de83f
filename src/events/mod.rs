//! L3: notices and alarms for operators, one line each; and the way of the mail log to the same place.
//!
//! Owns their levels, forms and way out. A core hands an event to a bounded channel and goes on; a
//! thread writes. If the channel is full the event is dropped and counted, and the count is
//! reported when there is room. The same alarm again within a minute is only counted. Callers give
//! a fixed name and a text; passwords, tokens and message contents never belong in either. A line
//! that cannot be written is lost: mail goes on.

pub mod file;
pub mod login;
pub mod mail;
pub mod trace;
mod writer;

use crate::base::time::Wall;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// How much an event matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    /// Good to know.
    Info,
    /// Look at it soon.
    Warn,
    /// Somebody must act now.
    Alarm,
}

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// How much it matters.
    pub level: Level,
    /// What it is, for machines: a fixed name such as `journal_poisoned`.
    pub name: &'static str,
    /// What it is, for people. Control characters are escaped when it is written.
    pub text: String,
    /// The core it concerns.
    pub core: Option<u16>,
    /// When it was.
    pub at: Wall,
}

/// Form of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// One JSON object: `time`, `level`, `event`, `text`, `core`, `repeated`.
    Json,
    /// Text in the manner of Postfix: `ringpost[pid]: warning: ...`.
    Text,
    /// As `Text`, with the priority `<n>` in front that journald takes from standard error.
    Journald,
}

/// What the writer is told.
enum Said {
    /// An event.
    Event(Event),
    /// Lines of the mail log of core `core`, as they are; `lost` records before them were dropped. The
    /// empty buffer goes back.
    Mail { bytes: Vec<u8>, lost: u64, core: u16, back: SyncSender<Vec<u8>> },
    /// Nothing comes any more.
    End,
}

/// Hands events to the writer. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct Events {
    to: SyncSender<Said>,
    dropped: Arc<AtomicU64>,
    clock: fn() -> Wall,
    format: Format,
}

/// Events that wait for the writer at most.
const WAITING_MAX: usize = 1024;

impl Events {
    /// Starts the writer. It ends at [`Self::end`], or when the last [`Events`] is dropped; join the
    /// handle to have all lines written. Fails if no thread can be made.
    pub fn start(
        out: Box<dyn Write + Send>,
        format: Format,
        clock: fn() -> Wall,
    ) -> std::io::Result<(Events, JoinHandle<()>)> {
        let (to, from) = sync_channel(WAITING_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut writer = writer::Writer::new(out, format, std::process::id(), Arc::clone(&dropped));
        let thread =
            std::thread::Builder::new().name("events".into()).spawn(move || writer.run(&from, clock))?;
        Ok((Events { to, dropped, clock, format }, thread))
    }

    /// A handle whose events go nowhere: for tests and simulation.
    #[must_use]
    pub fn nowhere() -> Events {
        let (to, _) = sync_channel(1);
        Events { to, dropped: Arc::default(), clock: Wall::default, format: Format::Json }
    }

    /// The mail log of a core, written to the same place. `count_lost` hears of dropped records.
    #[must_use]
    pub fn mail_log(&self, options: mail::Options, count_lost: Box<dyn Fn(u64)>) -> mail::MailLog {
        mail::MailLog::new(self.to.clone(), self.format, options, count_lost)
    }

    /// Good to know.
    pub fn info(&self, name: &'static str, text: impl Into<String>) {
        self.send(Level::Info, name, text.into(), None);
    }

    /// Look at it soon.
    pub fn warn(&self, name: &'static str, text: impl Into<String>) {
        self.send(Level::Warn, name, text.into(), None);
    }

    /// Somebody must act now.
    pub fn alarm(&self, name: &'static str, text: impl Into<String>) {
        self.send(Level::Alarm, name, text.into(), None);
    }

    /// An event of any level; of a core.
    pub fn send(&self, level: Level, name: &'static str, text: String, core: Option<u16>) {
        let event = Event { level, name, text, core, at: (self.clock)() };
        if self.to.try_send(Said::Event(event)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends the writer once all events sent so far are written, whoever still has a handle.
    pub fn end(&self) {
        // A writer that has ended already is what is wanted.
        let _ = self.to.send(Said::End);
    }

    /// Events dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

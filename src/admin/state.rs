//! L5: how the server is: readiness, counts, what is on the disk, what has been read anew.
//!
//! Runs on the control thread. Made of what the cores say and of `/metrics`; a core that does not answer is
//! reported, and what is told is of the others.

use super::control::{Conversation, Queues};
use super::frame::{self, Sample};
use super::wire::Line;
use serde_json::{Value, json};
use std::io;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Seconds over which rates are counted at most.
const SECONDS_MAX: u64 = 60;
/// Destinations of a frame.
const DESTINATIONS: usize = 12;
/// What of the counts of a queue is about the disk.
const ON_DISK: [&str; 11] = [
    "log",
    "loading",
    "poisoned",
    "parked",
    "journal_segments",
    "journal_live_bytes",
    "journal_bytes",
    "archive_bytes",
    "archive_live_bytes",
    "index_bytes",
    "bytes",
];

impl<Q: Queues> Conversation<'_, Q> {
    /// Whether mail is taken, and how much there is.
    pub(super) async fn state(&mut self) -> io::Result<()> {
        let queues = self.counts().await?;
        let sum = |key: &str| queues.iter().filter_map(|q| q[key].as_u64()).sum::<u64>();
        let ready = (self.office.ready)();
        let state = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "ready": ready.is_ok(),
            "reason": ready.err().unwrap_or_default(),
            "draining": self.queues.is_draining(),
            "cores": self.queues.cores(),
            "mail_cores": self.queues.count(),
            "messages": sum("messages"),
            "active": sum("active"),
            "deferred": sum("deferred"),
            "held": sum("held"),
            "bytes": sum("bytes"),
            "oldest_ms": queues.iter().filter_map(|q| q["oldest_ms"].as_u64()).min(),
        });
        self.out.line(Line::State(state)).await
    }

    /// What `ringpost top` shows, over so many seconds.
    pub(super) async fn top(&mut self, seconds: u64) -> io::Result<()> {
        if !(1..=SECONDS_MAX).contains(&seconds) {
            return self.out.error(&format!("seconds are 1 to {SECONDS_MAX}"), 64).await;
        }
        let before = self.sample().await?;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let now = self.sample().await?;
        self.out.line(Line::Top(frame::frame(&before, &now, DESTINATIONS))).await
    }

    #[allow(clippy::disallowed_methods, reason = "the control thread knows when it has looked")]
    async fn sample(&mut self) -> io::Result<Sample> {
        let queues = self.counts().await?;
        let series = frame::series(&(self.office.metrics)());
        Ok(Sample { at: Instant::now(), series, queues })
    }

    /// What each log has on the disk.
    pub(super) async fn storage(&mut self) -> io::Result<()> {
        for counts in self.counts().await? {
            let of_disk = ON_DISK.iter().map(|key| ((*key).to_owned(), counts[*key].clone()));
            self.out.line(Line::Storage(Value::Object(of_disk.collect()))).await?;
        }
        Ok(())
    }

    /// Reads files anew, and tells what came of it.
    pub(super) async fn reload(&mut self) -> io::Result<()> {
        let (asked, told) = oneshot::channel();
        let gone = self.office.reload.try_send(asked).is_err();
        let Ok(said) = told.await else {
            let text = if gone { "others have asked for it: try again" } else { "the server is stopping" };
            return self.out.error(text, 75).await;
        };
        self.office.tell(&self.who, "reload", said.len() as u64, "files", "");
        let good = said.iter().all(|said| said.level != "alarm");
        self.out.line(Line::Reloaded(json!({ "good": good, "said": said }))).await
    }
}

//! One core's mail log: made as the configuration says, and handed to the writer in time.
//!
//! Knows no record. A log that is off records nothing and costs nothing.

use crate::config::Config;
use crate::config::raw::MailEvents;
use crate::events::Events;
use crate::events::mail::{MailLog, Options};
use crate::metrics;
use crate::runtime::uring::Uring;
use crate::runtime::{Clock, Runtime};
use std::time::Duration;

/// How long a record waits for others before it is written.
const GATHER: Duration = Duration::from_millis(100);

/// The log of core `core`.
pub fn start(rt: &Uring, events: &Events, config: &Config, core: u16, metrics: &metrics::Core) -> MailLog {
    let failures_only = match config.mail_events {
        MailEvents::Off => return MailLog::nowhere(),
        MailEvents::Failures => true,
        MailEvents::All => false,
    };
    let lost = metrics.mail_log_lost.clone();
    let options = Options { failures_only, host: config.hostname.clone(), core };
    let log = events.mail_log(options, Box::new(move |count| lost.increment(count)));
    let (clock, kept) = (rt.clone(), log.clone());
    rt.spawn(async move {
        loop {
            kept.filled().await;
            clock.sleep_until(clock.now().after(GATHER)).await;
            kept.flush();
        }
    });
    log
}

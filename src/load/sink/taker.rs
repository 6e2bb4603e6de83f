//! What a sink does with a message it takes: count it, write it down, hand it to a hook.
//!
//! Owns the received ledger and the maildir. An error of a file is kept and ends the run at the
//! next flush.

use super::session::{Arrival, Taker};
use super::stats::Counters;
use crate::load::ledger::{Entry, Ledger};
use crate::load::shell::unix_nanos;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A message taken by a sink.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Address in MAIL FROM; empty for the null sender.
    pub from: &'a str,
    /// Recipients, percent-encoded where needed, joined by commas.
    pub recipients: &'a str,
    /// Id of the load message; empty if it has none.
    pub id: &'a str,
    /// Bytes of the content.
    pub size: u64,
    /// The content, dots unstuffed; cut off after 64 MiB.
    pub content: &'a [u8],
}

type Hook = Box<dyn FnMut(&Received<'_>) + Send>;

pub(super) struct Takes {
    pub(super) hook: Option<Hook>,
    ledger: Option<Ledger>,
    maildir: Option<PathBuf>,
    counters: Arc<Counters>,
    failed: Option<io::Error>,
}

impl Takes {
    pub(super) fn new(
        ledger: Option<Ledger>,
        maildir: Option<&Path>,
        counters: Arc<Counters>,
    ) -> io::Result<Self> {
        if let Some(dir) = maildir {
            for part in ["tmp", "new", "cur"] {
                std::fs::create_dir_all(dir.join(part))?;
            }
        }
        Ok(Takes { hook: None, ledger, maildir: maildir.map(Path::to_owned), counters, failed: None })
    }

    pub(super) fn needs_content(&self) -> bool {
        self.hook.is_some() || self.maildir.is_some()
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        self.ledger.as_mut().map_or(Ok(()), Ledger::flush)
    }

    fn write_down(&mut self, a: &Arrival<'_>, nanos: u64) {
        let Some(ledger) = &mut self.ledger else { return };
        let facts = a.facts;
        let mut line = |id: &str, status: &str, recipients: &str| {
            ledger.add(&Entry { id, status, nanos, digest: facts.digest, size: facts.size, recipients });
        };
        if !facts.id.is_empty() {
            line(&facts.id, "delivered", a.recipients);
        } else if !facts.about.is_empty() && !facts.failed.is_empty() {
            line(&facts.about, "notified", &facts.failed);
        } else if !a.from.is_empty() {
            // Nobody sent it: the audit shall call it invented.
            line("-", "delivered", a.recipients);
        }
    }

    fn store(&mut self, content: &[u8], nanos: u64) {
        let Some(dir) = &self.maildir else { return };
        let name = format!("{}.{nanos}.{}", nanos / 1_000_000_000, self.counters.messages.get());
        let tmp = dir.join("tmp").join(&name);
        let result =
            std::fs::write(&tmp, content).and_then(|()| std::fs::rename(&tmp, dir.join("new").join(&name)));
        if let Err(e) = result {
            self.failed.get_or_insert(e);
        }
    }
}

impl Taker for Takes {
    fn take(&mut self, a: &Arrival<'_>) {
        let nanos = unix_nanos();
        let c = &self.counters;
        c.messages.add(1);
        c.recipients.add(u64::from(a.recipient_count));
        c.bytes.add(a.facts.size);
        if a.facts.id.is_empty() {
            if a.from.is_empty() { c.notifications.add(1) } else { c.foreign.add(1) }
        }
        if c.first_nanos.get() == 0 {
            c.first_nanos.set(nanos);
        }
        c.last_nanos.set(nanos);
        self.write_down(a, nanos);
        if let Some(content) = a.content {
            self.store(content, nanos);
            if let Some(hook) = &mut self.hook {
                hook(&Received {
                    from: a.from,
                    recipients: a.recipients,
                    id: &a.facts.id,
                    size: a.facts.size,
                    content,
                });
            }
        }
    }
}
